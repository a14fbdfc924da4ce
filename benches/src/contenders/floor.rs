//! What no program of this kind can do without.

use crate::contender::{Contender, Held};
use crate::workload::{DATA, ENTITY, ROW_ID, WINDOW};
use parking_lot::Mutex;
use std::hint::black_box;
use std::sync::atomic::{AtomicU64, Ordering, fence};

/// Hands out numbers.
#[derive(Debug, Default)]
pub struct Counter(AtomicU64);

impl Contender for Counter {
    fn append(&self, events: u64) {
        for _ in 0..events {
            black_box(self.0.fetch_add(1, Ordering::Relaxed));
        }
    }

    fn taken(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }

    fn held(&self) -> Option<Held> {
        None
    }
}

/// Hands out numbers, with a fence, and copies the event's bytes to where no other thread is.
#[derive(Debug, Default)]
pub struct Limit {
    last: AtomicU64,
    /// Memory that no thread uses just now.
    spare: Mutex<Vec<Box<[Slot]>>>,
}

/// As long as a slot of ringlog.
type Slot = [u8; 192];

impl Limit {
    /// A window for each thread, so that together they touch no less memory than a log does.
    fn memory(&self) -> Box<[Slot]> {
        self.spare.lock().pop().unwrap_or_else(|| vec![[1; 192]; WINDOW].into())
    }
}

impl Contender for Limit {
    fn append(&self, events: u64) {
        let mut memory = self.memory();
        let mut places = (0..WINDOW).cycle();
        for _ in 0..events {
            fence(Ordering::SeqCst);
            let seq = self.last.fetch_add(1, Ordering::Relaxed) + 1;
            let slot = &mut memory[places.next().unwrap_or_default()];
            let (head, text) = slot.split_at_mut(24);
            head[..8].copy_from_slice(&seq.to_le_bytes());
            let (entity, text) = text.split_at_mut(ENTITY.len());
            let (row_id, text) = text.split_at_mut(ROW_ID.len());
            entity.copy_from_slice(black_box(ENTITY).as_bytes());
            row_id.copy_from_slice(black_box(ROW_ID).as_bytes());
            text[..DATA.len()].copy_from_slice(black_box(DATA).as_bytes());
            black_box(slot);
        }
        self.spare.lock().push(memory);
    }

    fn taken(&self) -> u64 {
        self.last.load(Ordering::Relaxed)
    }

    fn held(&self) -> Option<Held> {
        None
    }
}
