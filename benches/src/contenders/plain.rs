//! The best plain program: a lock around a queue.

use crate::contender::{Contender, Held};
use crate::workload::{EVENTS, Event, TEXT};
use parking_lot::Mutex;
use std::collections::VecDeque;
use std::sync::Arc;

/// Shared, owned events behind a lock that is held as shortly as can be.
#[derive(Debug)]
pub struct Plain {
    window: Mutex<Window>,
    capacity: usize,
}

#[derive(Debug, Default)]
struct Window {
    last: u64,
    events: VecDeque<Arc<Event>>,
}

impl Plain {
    /// With an empty window.
    pub fn new(capacity: usize) -> Self {
        Self { window: Mutex::default(), capacity }
    }

    /// With a window that writers have gone round once.
    pub fn full(capacity: usize) -> Self {
        let contender = Self::new(capacity);
        contender.append(2 * capacity as u64);
        contender
    }

    /// Appends one event, the work done before the lock is taken and after it is released where
    /// that can be. Returns its seq.
    pub fn append_event(&self, mut event: Arc<Event>) -> u64 {
        // The seq must be taken under the lock.
        let fresh = Arc::get_mut(&mut event).expect("not shared yet");
        let (seq, evicted) = {
            let Window { last, events } = &mut *self.window.lock();
            *last += 1;
            fresh.seq = *last;
            events.push_back(event);
            (*last, if events.len() > self.capacity { events.pop_front() } else { None })
        };
        drop(evicted);
        seq
    }

    /// At most `limit` events after a seq, shared; `None` if some of them have been evicted.
    pub fn read(&self, after: u64, limit: usize) -> Option<Vec<Arc<Event>>> {
        let Window { last, events } = &*self.window.lock();
        let left = usize::try_from(last - after).ok().filter(|left| *left <= events.len())?;
        let from = events.len() - left;
        Some(events.range(from..from + left.min(limit)).cloned().collect())
    }

    /// Reads a hundred events by reference count, every byte's length added up.
    pub fn read_shared(&self, after: u64) {
        let events = self.read(after, EVENTS as usize).expect("in the window");
        assert_eq!(events.iter().map(|event| event.text_len()).sum::<u64>(), EVENTS * TEXT);
    }

    /// The seq of the last event.
    pub fn last(&self) -> u64 {
        self.window.lock().last
    }
}

impl Contender for Plain {
    fn append(&self, events: u64) {
        for _ in 0..events {
            self.append_event(Event::new(0));
        }
    }

    fn taken(&self) -> u64 {
        self.last()
    }

    fn held(&self) -> Option<Held> {
        let mut held = Held::default();
        for event in &self.window.lock().events {
            held.add(event.seq, event.text_len(), event.timestamp);
        }
        Some(held)
    }
}
