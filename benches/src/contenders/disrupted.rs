//! A ring whose writers wait for the reader.

use crate::contender::{Contender, Held};
use crate::workload::{DATA, ENTITY, ROW_ID, TEXT, WINDOW, now};
use disruptor::{
    BusySpinWithSpinLoopHint, MultiProducer, Producer, Sequence, SingleConsumerBarrier, build_multi_producer,
};
use parking_lot::Mutex;
use std::hint::black_box;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// The bytes of an event in place, as nothing longer than a slot fits.
#[derive(Debug)]
struct Slot {
    timestamp: u64,
    text: [u8; TEXT as usize],
}

/// With one consumer, on a spinning thread of its own, that adds up what it is given. So it is at
/// its best where there is a core for each writer and one more.
pub struct Disrupted {
    producer: Mutex<MultiProducer<Slot, SingleConsumerBarrier>>,
    sent: AtomicU64,
    seen: Arc<Seen>,
}

#[derive(Debug, Default)]
struct Seen {
    events: AtomicU64,
    text: AtomicU64,
}

impl std::fmt::Debug for Disrupted {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Disrupted").field("sent", &self.sent).finish_non_exhaustive()
    }
}

impl Default for Disrupted {
    fn default() -> Self {
        let seen = Arc::new(Seen::default());
        let consumer = Arc::clone(&seen);
        let consume = move |slot: &Slot, _: Sequence, _: bool| {
            let whole = slot.timestamp > 0 && slot.text[TEXT as usize - 1] == b'}';
            // This thread alone writes them: no locked instruction is needed.
            let add = |sum: &AtomicU64, more| {
                sum.store(sum.load(Ordering::Relaxed) + more, Ordering::Release);
            };
            add(&consumer.text, if whole { TEXT } else { 0 });
            add(&consumer.events, 1);
        };
        let empty = || Slot { timestamp: 0, text: [0; TEXT as usize] };
        let ring = build_multi_producer(WINDOW.next_power_of_two(), empty, BusySpinWithSpinLoopHint);
        let producer = Mutex::new(ring.handle_events_with(consume).build());
        Self { producer, sent: AtomicU64::new(0), seen }
    }
}

impl Contender for Disrupted {
    fn append(&self, events: u64) {
        let mut producer = self.producer.lock().clone();
        for _ in 0..events {
            let timestamp = now();
            producer.publish(|slot| {
                slot.timestamp = timestamp;
                let (entity, rest) = slot.text.split_at_mut(ENTITY.len());
                let (row_id, data) = rest.split_at_mut(ROW_ID.len());
                entity.copy_from_slice(black_box(ENTITY).as_bytes());
                row_id.copy_from_slice(black_box(ROW_ID).as_bytes());
                data.copy_from_slice(black_box(DATA).as_bytes());
            });
        }
        self.sent.fetch_add(events, Ordering::Relaxed);
    }

    /// What the consumer has seen, once it has seen all that was sent.
    fn taken(&self) -> u64 {
        while self.seen.events.load(Ordering::Acquire) < self.sent.load(Ordering::Relaxed) {
            std::thread::yield_now();
        }
        self.seen.events.load(Ordering::Acquire)
    }

    fn held(&self) -> Option<Held> {
        let [events, text] = [&self.seen.events, &self.seen.text].map(|sum| sum.load(Ordering::Acquire));
        assert_eq!(text, events * TEXT, "every event whole");
        None
    }
}
