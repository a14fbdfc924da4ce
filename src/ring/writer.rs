//! The writing side: claim, install, publish.

use super::block::{Block, Parts, len};
use super::segment::{Depot, Segment};
use super::{Ring, order};
use crate::sync::epoch::{Guard, Owned, Shared};
use crate::sync::{Ordering, prefetch_for_write};

/// Seqs that were handed out to this writer and are not all published yet.
///
/// Readers stop at the first of them until all are published, so a claim is held for as short a time as can be: the
/// records are laid out before, and nothing between claim and publish runs code of users or can panic (R5). A claim that is
/// dropped unfinished leaves a gap which readers wait at until the window has passed it.
#[derive(Debug)]
#[must_use = "readers wait at a claimed seq until it is published"]
pub(crate) struct Claim<'r, M: Copy + Send + Sync> {
    ring: &'r Ring<M>,
    first: u64,
    /// One past the last seq that is still to be published.
    end: u64,
    installed: bool,
}

/// A batch asks for the slot of so many records further on while it writes one.
///
/// It goes backwards and then jumps, which the processor's own prefetching does not follow.
const AHEAD: u64 = 6;

/// A single append asks for the slot of so many records further on: the writer's own next one but one, or with two writers in turns,
/// its next.
const NEXT: u64 = 2;

impl<M: Copy + Send + Sync> Ring<M> {
    /// Whether a text of so many bytes is short enough for this ring's slots. A longer one is to be spilled before the claim.
    #[inline]
    pub(crate) fn fits(&self, len: usize) -> bool {
        len <= self.inline
    }

    /// Asks for the cache line that the next claim will write. A hint, for who has something to do before it claims.
    #[inline]
    pub(crate) fn prefetch_claim(&self) {
        prefetch_for_write(std::ptr::from_ref(&self.last).cast());
    }

    /// Hands out the next `count` seqs.
    #[inline]
    pub(crate) fn claim(&self, count: u64) -> Claim<'_, M> {
        let last = if cfg!(ringlog_fault = "claim_not_atomic") {
            let last = self.last.load(Ordering::Relaxed);
            self.last.store(last + count, Ordering::Relaxed);
            last
        } else {
            self.last.fetch_add(count, Ordering::Relaxed)
        };
        Claim { ring: self, first: last + 1, end: last + 1 + count, installed: false }
    }

    /// Claims one seq and publishes its record. Returns the seq, and a block that nobody needs any more, if
    /// there is one.
    ///
    /// What a [`Claim`] of one does, without its state: nearly every append finds its segment in its place.
    #[inline]
    pub(crate) fn append(&self, guard: &Guard, fixed: M, parts: Parts<'_>) -> (u64, Option<Block>) {
        let claim = self.claim(1);
        let seq = claim.first;
        let segment = match self.current(seq, guard) {
            Ok(segment) if self.fits(len(&parts)) => segment,
            _ => {
                let [a, b, c] = parts;
                return (seq, claim.publish_one(guard, fixed, a, b, c));
            }
        };
        segment.prefetch(seq + NEXT);
        // SAFETY: R1: `claim` gave this seq to this call alone; the segment covers it and is alive under the guard; the text
        // fits.
        (seq, unsafe { self.write(segment, seq, fixed, parts) })
    }

    /// Writes and publishes `seq`'s record, and keeps the books of what comes out of its slot.
    ///
    /// # Safety
    /// As for [`Segment::write`].
    #[inline]
    unsafe fn write(&self, segment: &Segment<M>, seq: u64, fixed: M, parts: Parts<'_>) -> Option<Block> {
        // SAFETY: the caller's.
        let spare = unsafe { segment.write(seq, fixed, parts) };
        if let Some(block) = &spare {
            self.depot.count_spilled(0, block.capacity());
        }
        spare
    }

    /// The segment for `seq`, if it is in its position; else what is there.
    #[inline]
    fn current<'g>(&self, seq: u64, guard: &'g Guard) -> Result<&'g Segment<M>, Shared<'g, Segment<M>>> {
        let position = &self.positions[self.geometry.position_of(seq)];
        let current = position.load(order::INSTALL_B, guard);
        // SAFETY: loaded with install:B under the guard (R4).
        let segment = unsafe { current.as_ref() };
        // SAFETY: as above.
        segment.filter(|segment| unsafe { segment.base() } == self.geometry.base_of(seq)).ok_or(current)
    }

    /// Puts a segment for `seq` in place of `current`, unless one of its lap or a later one is there by now.
    #[cold]
    fn install<'g>(
        &self,
        seq: u64,
        mut current: Shared<'g, Segment<M>>,
        guard: &'g Guard,
        installed: &mut bool,
    ) -> Option<&'g Segment<M>> {
        let base = self.geometry.base_of(seq);
        let position = &self.positions[self.geometry.position_of(seq)];
        // Each turn but the last finds that another writer has moved the base forward.
        loop {
            // SAFETY: loaded with install:B under the guard (R4).
            if let Some(segment) = unsafe { current.as_ref() } {
                // SAFETY: as above.
                let current_base = unsafe { segment.base() };
                if current_base == base {
                    return Some(segment);
                }
                if current_base > base && !cfg!(ringlog_fault = "late_writer_installs") {
                    return None;
                }
            }
            let fresh = Owned::from(self.depot.take(base));
            match position.compare_exchange(current, fresh, order::INSTALL_A, order::INSTALL_B, guard) {
                Ok(fresh) => {
                    if !current.is_null() {
                        Depot::retire(&self.depot, current, guard);
                    }
                    *installed = true;
                    // SAFETY: installed just now under the guard (R4).
                    return unsafe { fresh.as_ref() };
                }
                Err(lost) => {
                    self.depot.give_back(lost.new.into_box());
                    current = lost.current;
                }
            }
        }
    }
}

impl<M: Copy + Send + Sync> Claim<'_, M> {
    /// The first seq of the claim.
    #[cfg(test)]
    pub(crate) fn first(&self) -> u64 {
        self.first
    }

    /// Publishes the record of the claim's last unpublished seq: records go in back to front, so that readers
    /// meet all of the claim or nothing. Returns a block that nobody needs any more, if there is one, for the writer's next
    /// long text.
    #[inline]
    pub(crate) fn publish_last(&mut self, guard: &Guard, fixed: M, parts: Parts<'_>) -> Option<Block> {
        if !self.ring.fits(len(&parts)) {
            let [a, b, c] = parts;
            return self.publish_last_long(guard, fixed, a, b, c);
        }
        let seq = self.take_last();
        let segment = self.segment_for(seq, guard)?;
        // SAFETY: R1: `claim` gave this seq to this claim alone, and `take_last` gives it out once; the segment covers it
        // and is alive under the guard; the text fits.
        unsafe { self.ring.write(segment, seq, fixed, parts) }
    }

    /// As [`publish_last`](Self::publish_last), for a text that should have been spilled before the claim. Each part for itself: an
    /// array would be in memory, for short texts too.
    #[cold]
    fn publish_last_long(&mut self, guard: &Guard, fixed: M, a: &str, b: &str, c: &str) -> Option<Block> {
        let mut block = Block::with_capacity(0);
        block.fill([a, b, c]);
        self.publish_last_spilled(guard, fixed, block)
    }

    /// As [`publish_last`](Self::publish_last), for a text in a block.
    #[cold]
    pub(crate) fn publish_last_spilled(&mut self, guard: &Guard, fixed: M, block: Block) -> Option<Block> {
        if self.ring.fits(len(&block.parts())) {
            return self.publish_last(guard, fixed, block.parts());
        }
        let seq = self.take_last();
        let Some(segment) = self.segment_for(seq, guard) else { return Some(block) };
        let bytes = block.capacity();
        // SAFETY: as in `publish_last`, but that the text does not fit.
        let spare = unsafe { segment.write_spilled(seq, fixed, block) };
        self.ring.depot.count_spilled(bytes, spare.as_ref().map_or(0, Block::capacity));
        spare
    }

    /// The claim's last unpublished seq, to be published now.
    #[inline]
    fn take_last(&mut self) -> u64 {
        debug_assert!(self.first < self.end, "every seq of the claim is published");
        if cfg!(ringlog_fault = "publish_front_to_back") {
            self.first += 1;
            return self.first - 1;
        }
        self.end -= 1;
        self.end
    }

    /// The segment for `seq`, installed if need be; `None` when the ring has gone round past it, which is counted.
    #[inline]
    pub(super) fn segment_for<'g>(&mut self, seq: u64, guard: &'g Guard) -> Option<&'g Segment<M>> {
        let segment = match self.ring.current(seq, guard) {
            Ok(segment) => segment,
            Err(current) => self.install(seq, current, guard)?,
        };
        if seq >= self.first + AHEAD {
            segment.prefetch(seq - AHEAD);
        }
        Some(segment)
    }

    #[cold]
    fn install<'g>(
        &mut self,
        seq: u64,
        current: Shared<'g, Segment<M>>,
        guard: &'g Guard,
    ) -> Option<&'g Segment<M>> {
        let segment = self.ring.install(seq, current, guard, &mut self.installed);
        if segment.is_none() {
            self.ring.count_superseded(1);
        }
        segment
    }

    /// Publishes the record of a claim of one, and ends the claim. Its parts come as those of
    /// [`publish_last_long`](Self::publish_last_long).
    #[cold]
    fn publish_one(mut self, guard: &Guard, fixed: M, a: &str, b: &str, c: &str) -> Option<Block> {
        let spare = self.publish_last(guard, fixed, [a, b, c]);
        self.finish(guard);
        spare
    }

    /// Gives up the claim's last unpublished seqs, as many as `count`, as superseded: the claim itself is longer than
    /// the window, and later seqs of it have taken their place.
    pub(crate) fn supersede_last(&mut self, count: u64) {
        self.end -= count;
        self.ring.count_superseded(count);
    }

    /// Ends a claim that is all published. Returns its first seq.
    #[inline]
    pub(crate) fn finish(self, guard: &Guard) -> u64 {
        if self.installed {
            // A segment was retired: let the epoch move and give it back. Only now, so that no reader waits for it.
            guard.flush();
        }
        self.first
    }
}
