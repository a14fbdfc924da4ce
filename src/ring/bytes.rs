//! The bound in bytes: the window ends where its texts would sum to more than so many.
//!
//! The window is the longest suffix of the log of at most `capacity` records whose texts sum to at
//! most `max_bytes`. The bound is kept by the publishing threads: after each publish, and before
//! the append returns, a writer counts the published records that are not counted yet, and moves
//! the *floor*, the oldest seq that the bound leaves in the window, past as many as it takes.
//! Readers take the later of the floor and of the start by count.
//!
//! # Counting
//!
//! One thread counts at a time, under a lock that is only ever *tried*: an append never waits. It
//! walks the stamps from the first record that is not counted to the first that is not published,
//! and keeps the length of each record's text in a queue, from which the lengths leave at the other
//! end. So the records that leave need not be looked at, and the memory of those that left by count
//! may be gone. If the record of a stalled writer leaves the window by count, what comes after it
//! is counted from the window's start on.
//!
//! **A publish is counted before its append and that of the holder of the lock have returned.** The
//! writer W stores its stamp, runs a full fence, and tries the lock. The holder H gives the lock
//! back, runs a full fence, and looks for a published record that is not counted. Suppose that W
//! finds the lock taken by H. (1) W's fence comes first in the order of full fences: H's look,
//! after its own fence, sees W's stamp, so H tries the lock again. (2) H's fence comes first: W's
//! attempt, after its own fence, sees that H has given the lock back. So H is not the holder that W
//! met: a contradiction. If H's second attempt fails, another thread holds the lock by then, and H
//! is to it what W was to H: it saw W's stamp before the fence that comes before its attempt. So
//! when all appends have returned, every published record with no gap before it is counted, and the
//! bound is exact. While an append is under way, the window may hold its record, and those that
//! were published since, beyond the bound. It never holds less than the bound allows for what is
//! published.
//!
//! # Memory
//!
//! A text of its own block leaves memory with its record, not at the next life of its slot. The
//! counting thread hands the new floor to the epoch; when it comes back, the [`Reaper`] takes the
//! blocks of all records below it.
//!
//! **No reader can reach a block that is taken.** A reader pins (a full fence), loads the floor and
//! reads nothing below it; it may read on to later seqs for as long as it is pinned. The counting
//! thread stores the floor, and the epoch dates what it is handed after a full fence. (1) The
//! reader's fence comes first: the date is not before the epoch that the reader is pinned in, so
//! nothing is taken before the reader is gone. (2) The date's fence comes first: the reader sees
//! the floor, or a later one, and reads nothing below it.
//!
//! **The reaper has the slots to itself.** It takes the block of a slot only if the stamp is that
//! of the seq: then the seq's writer is done (publish), and has no successor before the slot's next
//! life. That life begins after the segment was unlinked. The reaper is pinned, and loads the
//! segment from its position. (1) It was unlinked before: the position does not hold it any more,
//! and the reaper leaves it alone; the allocator takes its blocks before it pools it. (2) It is
//! unlinked afterwards: it is not used again while the reaper is pinned (R4). There is one reaper
//! at a time, under a lock that is only tried: the argument is that of counting, with the highest
//! floor that came back in the place of stamps.
//!
//! Three things stay longer. The block of a writer that stalled until its seq had left the window
//! stays until the next life of its slot. What was evicted while a reader is pinned stays until a
//! thread uses the log after that. And blocks are handed to the epoch when they sum to [`GRAIN`]
//! bytes, not one by one.

use super::order;
use super::positions::Found;
use super::reaper::Reaper;
use crate::sync::epoch::Guard;
use crate::sync::{Arc, AtomicU64, Mutex, Ordering, fence};
use std::collections::VecDeque;

/// Evicted blocks are handed to the epoch when they sum to so many bytes.
const GRAIN: u64 = if cfg!(loom) { 1 } else { 64 * 1024 };

/// How often the epoch is asked to move on. Two advances free what was handed to it.
const ROUNDS: usize = 3;

/// How often at most, after a reader that was pinned for long: each time frees what was handed to
/// it eight times.
const MOST_ROUNDS: usize = if cfg!(loom) { ROUNDS } else { 64 };

/// The bound of a ring's window in bytes.
pub(super) struct ByteBound<M: Copy + Send + Sync> {
    max_bytes: u64,
    /// The oldest seq that the bound leaves in the window. Only grows.
    floor: AtomicU64,
    /// The first seq that is not counted. Written under the lock.
    uncounted: AtomicU64,
    /// The bytes of the texts from the floor on, as far as they are counted. Written under the
    /// lock.
    retained: AtomicU64,
    counted: Mutex<Counted>,
    pub(super) reaper: Arc<Reaper<M>>,
}

/// The records that are counted, and still in the window.
#[derive(Debug)]
struct Counted {
    /// The seq of the first.
    floor: u64,
    /// How long the text of each is.
    lengths: VecDeque<u32>,
    /// What `lengths` sums to.
    bytes: u64,
    /// The bytes of blocks that were evicted and are not yet handed to the epoch.
    evicted: u64,
    /// The longest text that has no block.
    inline: u64,
}

impl Counted {
    fn new(floor: u64, inline: usize) -> Self {
        Self { floor, lengths: VecDeque::new(), bytes: 0, evicted: 0, inline: inline as u64 }
    }

    /// The first seq that is not counted.
    fn end(&self) -> u64 {
        self.floor + self.lengths.len() as u64
    }

    /// Evicts the first record.
    fn evict(&mut self) -> bool {
        let Some(len) = self.lengths.pop_front().map(u64::from) else { return false };
        self.floor += 1;
        self.bytes -= len;
        if len > self.inline {
            self.evicted += len;
        }
        true
    }

    /// Evicts all records before seq `oldest`, and goes on there if they are not all counted.
    fn evict_before(&mut self, oldest: u64) {
        while self.floor < oldest {
            if !self.evict() {
                // Blocks of unknown length lie between.
                self.evicted += GRAIN;
                self.floor = oldest;
            }
        }
    }

    /// Counts the next record, and evicts as many as that takes.
    fn add(&mut self, len: u32, max_bytes: u64) {
        self.lengths.push_back(len);
        self.bytes += u64::from(len);
        while self.bytes > max_bytes {
            self.evict();
        }
    }

    /// The floor, if enough was evicted for it to be handed to the epoch.
    fn hand_over(&mut self) -> Option<u64> {
        (self.evicted >= GRAIN).then(|| {
            self.evicted = 0;
            self.floor
        })
    }
}

impl<M: Copy + Send + Sync> ByteBound<M> {
    pub(super) fn new(max_bytes: u64, first_seq: u64, inline: usize, reaper: Reaper<M>) -> Self {
        Self {
            max_bytes,
            floor: AtomicU64::new(first_seq),
            uncounted: AtomicU64::new(first_seq),
            retained: AtomicU64::new(0),
            counted: Mutex::new(Counted::new(first_seq, inline)),
            reaper: Arc::new(reaper),
        }
    }

    /// The oldest seq that the bound leaves in the window (floor:B).
    #[inline]
    pub(super) fn floor(&self) -> u64 {
        self.floor.load(order::FLOOR_B)
    }

    /// The bytes of the texts in the window.
    pub(super) fn retained(&self) -> u64 {
        self.retained.load(Ordering::Relaxed)
    }

    /// Ends the reaper's use of the ring. Waits for a thread that is reaping.
    pub(super) fn close(&self) {
        self.reaper.close();
    }

    /// Keeps the bound of the ring whose last seq is in `last`, after a publish. Returns when all
    /// that is published is counted, or another thread is about to count it.
    ///
    /// Lock-free: a turn after the first counts what other threads have published meanwhile.
    #[cold]
    pub(super) fn keep(&self, last: &AtomicU64, mut guard: Guard) {
        let mut handed_over = false;
        loop {
            fence(Ordering::SeqCst);
            let Some(mut counted) = self.counted.try_lock() else { break };
            self.count(last, &mut counted, &guard);
            let floor = counted.hand_over();
            drop(counted);
            if let Some(floor) = floor {
                self.hand_over(floor, &guard);
                handed_over = true;
            }
            fence(Ordering::SeqCst);
            if !self.is_behind(last, &guard) {
                break;
            }
        }
        if handed_over {
            self.flush(&mut guard);
        }
    }

    /// Asks the epoch to move on, and goes on as long as that frees blocks beyond the bound, for a
    /// while.
    fn flush(&self, guard: &mut Guard) {
        let mut spilled = u64::MAX;
        for round in 0..MOST_ROUNDS {
            guard.flush();
            guard.repin();
            let now = self.reaper.spilled_bytes();
            if round + 1 >= ROUNDS && (now >= spilled || now <= self.max_bytes.saturating_add(GRAIN)) {
                break;
            }
            spilled = now;
        }
    }

    /// Counts all that is published, and stores the floor (floor:A).
    fn count(&self, last: &AtomicU64, counted: &mut Counted, guard: &Guard) {
        // Each turn but the last finds that writers have gone round the ring meanwhile.
        loop {
            counted.evict_before(self.oldest_by_count(last));
            let found = loop {
                let seq = counted.end();
                match self.reaper.positions().find(seq, guard) {
                    Found::Segment(segment) if segment.holds(seq) => {
                        // SAFETY: its stamp was seen (R3), and the segment found under the guard
                        // (R4). It is not below the floor, so its block is there.
                        counted.add(unsafe { segment.text_len(seq) }, self.max_bytes);
                    }
                    found => break found,
                }
            };
            if !matches!(found, Found::Newer) {
                break;
            }
        }
        self.uncounted.store(counted.end(), Ordering::Relaxed);
        self.retained.store(counted.bytes, Ordering::Relaxed);
        self.floor.store(counted.floor, order::FLOOR_A);
    }

    /// The start of the window by count, where `last` is the ring's.
    fn oldest_by_count(&self, last: &AtomicU64) -> u64 {
        self.reaper.positions().geometry().window(last.load(Ordering::Relaxed)).oldest
    }

    /// Whether there is something to count.
    pub(super) fn is_behind(&self, last: &AtomicU64, guard: &Guard) -> bool {
        let seq = self.uncounted.load(Ordering::Relaxed);
        let published = match self.reaper.positions().find(seq, guard) {
            Found::Segment(segment) => segment.holds(seq),
            Found::NotYet => false,
            Found::Newer => true,
        };
        published || seq < self.oldest_by_count(last)
    }

    /// Has the blocks below `floor` taken when no reader can reach them any more.
    fn hand_over(&self, floor: u64, guard: &Guard) {
        let reaper = Arc::clone(&self.reaper);
        // SAFETY: the closure owns all that it uses, and may run on any thread: the reaper is
        // `Send` and `Sync`.
        unsafe { guard.defer_unchecked(move || reaper.reap(floor)) };
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        /// Against the definition: the longest suffix of at most so many records and bytes.
        #[test]
        fn what_is_counted_is_the_longest_suffix_within_both_bounds(
            lengths in prop::collection::vec(0_u32..50, 0..60),
            capacity in 0_u64..20,
            max_bytes in 0_u64..200,
        ) {
            let mut counted = Counted::new(1, 10);
            for end in 1..=lengths.len() {
                counted.evict_before((end as u64 + 1).saturating_sub(capacity));
                if counted.end() <= end as u64 {
                    counted.add(lengths[end - 1], max_bytes);
                }
                let fits = |count: &usize| {
                    let bytes: u64 = lengths[end - count..end].iter().copied().map(u64::from).sum();
                    *count as u64 <= capacity && bytes <= max_bytes
                };
                let expected = (0..=end).take_while(fits).last().unwrap_or(0);
                prop_assert_eq!(counted.floor, (end - expected) as u64 + 1);
                prop_assert_eq!(counted.end(), end as u64 + 1);
                prop_assert_eq!(counted.bytes, counted.lengths.iter().copied().map(u64::from).sum::<u64>());
            }
        }
    }
}
