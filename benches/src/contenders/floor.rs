//! What no program of this kind can do without.

use crate::contender::Run;
use crate::timing::timed;
use crate::workload::{DATA, ENTITY, ROW_ID, WINDOW};
use parking_lot::Mutex;
use std::hint::black_box;
use std::sync::atomic::{AtomicU64, Ordering, fence};

/// Hands out numbers.
pub fn fetch_add(writers: usize) -> Run {
    let last = AtomicU64::new(0);
    Box::new(move |events| {
        timed(writers, events, |_, mine| {
            for _ in mine {
                black_box(last.fetch_add(1, Ordering::Relaxed));
            }
        })
    })
}

/// Hands out numbers, with a fence, and copies the event's bytes to where no other thread is.
pub fn limit(writers: usize) -> Run {
    /// As long as a slot of ringlog.
    type Slot = [u8; 192];
    let last = AtomicU64::new(0);
    // A window for each thread, so that together they touch no less memory than a log does.
    let memory: Vec<Mutex<Vec<Slot>>> = (0..writers).map(|_| Mutex::new(vec![[1; 192]; WINDOW])).collect();
    Box::new(move |events| {
        timed(writers, events, |thread, mine| {
            let mut memory = memory[thread].lock();
            for (_, place) in mine.zip((0..WINDOW).cycle()) {
                fence(Ordering::SeqCst);
                let seq = last.fetch_add(1, Ordering::Relaxed) + 1;
                let slot = &mut memory[place];
                let (head, text) = slot.split_at_mut(24);
                head[..8].copy_from_slice(&seq.to_le_bytes());
                let (entity, text) = text.split_at_mut(ENTITY.len());
                let (row_id, text) = text.split_at_mut(ROW_ID.len());
                entity.copy_from_slice(black_box(ENTITY).as_bytes());
                row_id.copy_from_slice(black_box(ROW_ID).as_bytes());
                text[..DATA.len()].copy_from_slice(black_box(DATA).as_bytes());
                black_box(slot);
            }
        })
    })
}
