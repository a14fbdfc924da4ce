//! The writing side: claim, install, publish.

use super::block::{Block, Parts, len};
use super::chain::Chain;
use super::order;
use super::reservation::WriteGuard;
use super::segment::{Segment, SegmentAllocator};
use super::state::Ring;
use crate::sync::epoch::Guard;
use crate::sync::{AtomicPtr, Ordering, prefetch_for_write};
use std::iter;
use std::ptr::NonNull;

/// Seqs that were handed out to this writer and are not all published yet.
///
/// Readers stop at the first of them until all are published, so a claim is held for as short a
/// time as can be: the records are laid out before, and nothing between claim and publish runs code
/// of users or can panic (R5). A claim that is dropped unfinished leaves a gap which readers wait
/// at until the window has passed it.
#[derive(Debug)]
#[must_use = "readers wait at a claimed seq until it is published"]
pub(crate) struct Claim<'r, M: Copy + Send + Sync> {
    /// Since before the claim: what it reaches stays alive until this goes (R4).
    writing: WriteGuard,
    first: u64,
    /// One past the last seq that is still to be published.
    end: u64,
    leftovers: Leftovers<'r, M>,
}

/// Segments that a claim has come by. What is to be done about them pins the epoch, which may run
/// what is due there: nothing of it is done before the claim is published (R5).
#[derive(Debug)]
struct Leftovers<'r, M: Copy + Send + Sync> {
    ring: &'r Ring<M>,
    /// Unlinked from their positions, to be retired.
    unlinked: Chain<Segment<M>>,
    /// Of no use, to be given back.
    aside: Chain<Segment<M>>,
}

impl<'r, M: Copy + Send + Sync> Leftovers<'r, M> {
    #[inline]
    fn none(ring: &'r Ring<M>) -> Self {
        Self { ring, unlinked: Chain::new(), aside: Chain::new() }
    }

    #[inline]
    fn is_empty(&self) -> bool {
        self.unlinked.is_empty() && self.aside.is_empty()
    }

    /// Retires what was unlinked, and gives the others back.
    fn dispose(&mut self, guard: &Guard) {
        let Ring { last, allocator, .. } = self.ring;
        if !self.unlinked.is_empty() {
            // announce:B, for all of them. On x86-64, LLVM makes of an addition of zero whose
            // result is not used a fence for the compiler only. That is enough there: the
            // compare-and-swap that unlinked a segment is a full fence of the processor, as is a
            // claim, so the one is seen by what follows the other. On other processors the addition
            // stays what it is.
            last.fetch_add(0, order::ANNOUNCE_B);
        }
        while let Some(segment) = self.unlinked.pop() {
            // SAFETY: the compare-and-swap unlinked it, and it is in one chain.
            unsafe { SegmentAllocator::retire(allocator, segment, guard) };
        }
        while let Some(segment) = self.aside.pop() {
            allocator.recycle(segment);
        }
    }
}

/// Only after a claim that was not finished is there something left.
impl<M: Copy + Send + Sync> Drop for Leftovers<'_, M> {
    #[inline]
    fn drop(&mut self) {
        if !self.is_empty() {
            self.dispose(&self.ring.pin());
        }
    }
}

/// The text of a record, laid out.
#[derive(Debug)]
pub(crate) enum Text<'t> {
    /// As it is. It should fit a slot: else it is copied twice, and waited for meanwhile.
    Parts(Parts<'t>),
    /// Too long for a slot.
    Block(Block),
}

impl<'t> From<Parts<'t>> for Text<'t> {
    fn from(parts: Parts<'t>) -> Self {
        Self::Parts(parts)
    }
}

impl From<Block> for Text<'_> {
    fn from(block: Block) -> Self {
        Self::Block(block)
    }
}

/// A writer asks for the slot of so many records further on: with a window beyond the caches, a
/// slot takes as long to come as a few appends. With two writers in turns, an even number is most
/// often the writer's own. A batch goes backwards and then jumps, which the processor's own
/// prefetching does not follow: it asks for the slots of its first so many all at once.
const AHEAD: u64 = 4;

impl<M: Copy + Send + Sync> Ring<M> {
    /// Whether a text of so many bytes is short enough for this ring's slots. A longer one is to be
    /// spilled before the claim.
    #[inline]
    pub(crate) fn fits(&self, len: u64) -> bool {
        len <= self.inline
    }

    /// Asks for the cache line that the next claim will write. A hint, for a caller that has
    /// something to do before it claims.
    #[inline]
    pub(crate) fn prefetch_claim(&self) {
        prefetch_for_write(std::ptr::from_ref(&self.last).cast());
    }

    /// Hands out the next `count` seqs to a thread that is writing, and returns the first of them
    /// (announce:A).
    #[inline]
    fn hand_out(&self, count: u64, _writing: &WriteGuard) -> u64 {
        let last = self.last.fetch_add(count, order::ANNOUNCE_A);
        last + 1
    }

    /// Claims the next `count` seqs.
    #[inline]
    pub(crate) fn claim(&self, writing: WriteGuard, count: u64) -> Claim<'_, M> {
        let first = self.hand_out(count, &writing);
        Claim { writing, first, end: first + count, leftovers: Leftovers::none(self) }
    }

    /// Claims the `count` seqs after `last` if that is the highest seq handed out (announce:A), or
    /// else returns the highest.
    ///
    /// Wait-free: one compare-and-swap, which fails only if another seq is the highest.
    pub(crate) fn claim_if(&self, last: u64, writing: WriteGuard, count: u64) -> Result<Claim<'_, M>, u64> {
        // Where the sum wraps, no log has come as far as `last`.
        let new = last.wrapping_add(count);
        self.last.compare_exchange(last, new, order::ANNOUNCE_A, Ordering::Relaxed)?;
        Ok(Claim { writing, first: last + 1, end: last + 1 + count, leftovers: Leftovers::none(self) })
    }

    /// Claims one seq and publishes its record. Returns the seq, and a block that is not needed any
    /// more, if there is one.
    ///
    /// What a [`Claim`] of one does, without its state: nearly every append finds its segment in
    /// its place.
    #[inline]
    pub(crate) fn append(&self, writing: WriteGuard, fixed: M, parts: Parts<'_>) -> (u64, Option<Block>) {
        // All that comes after the claim waits for it: the position of the seq that it will
        // probably give is found before. In a model any guess will do, and a load would keep loom
        // from seeing what the claim races with (see `load_own`).
        let expected = if cfg!(loom) { 1 } else { self.last() + 1 };
        let position = self.positions.of(expected);
        let seq = self.hand_out(1, &writing);
        // The base is checked below all the same: a wrong guess that is believed would be published
        // out of line. This keeps the short way for it, which is once a segment for each writer
        // that others overtake.
        let guessed = self.geometry().share_segment(expected, seq);
        let position = if guessed { position } else { self.positions.of(seq) };
        let segment = match self.current(position, seq, &writing) {
            Ok(segment) if self.fits(len(&parts)) => segment,
            _ => {
                let [a, b, c] = parts;
                return (seq, self.publish_one(writing, seq, fixed, a, b, c));
            }
        };
        segment.prefetch(seq + AHEAD, len(&parts));
        // SAFETY: R1: `hand_out` gave this seq to this call alone; the segment covers it and is
        // alive while `writing` is; the text fits.
        let recycled = unsafe { self.write(segment, seq, fixed, parts) };
        drop(writing);
        if self.bytes.is_some() {
            self.keep_bytes(self.pin());
        }
        (seq, recycled)
    }

    /// Publishes the record of `seq`, which was handed out alone under `writing`. Takes the parts
    /// as separate arguments: an array would force the hot path to keep them on the stack.
    #[cold]
    fn publish_one(
        &self,
        writing: WriteGuard,
        seq: u64,
        fixed: M,
        a: &str,
        b: &str,
        c: &str,
    ) -> Option<Block> {
        let mut claim = Claim { writing, first: seq, end: seq + 1, leftovers: Leftovers::none(self) };
        let recycled = claim.publish_last(fixed, [a, b, c]);
        claim.finish();
        recycled
    }

    /// Writes and publishes `seq`'s record, and keeps the books of what comes out of its slot.
    ///
    /// # Safety
    /// As for [`Segment::write`].
    #[inline(always)]
    #[expect(clippy::inline_always, reason = "as `Slot::write`")]
    unsafe fn write(&self, segment: &Segment<M>, seq: u64, fixed: M, parts: Parts<'_>) -> Option<Block> {
        // SAFETY: the caller's.
        let recycled = unsafe { segment.write(seq, fixed, parts) };
        if let Some(block) = &recycled {
            self.allocator.count_spilled(0, block.capacity());
        }
        recycled
    }

    /// As [`write`](Self::write), for any text.
    ///
    /// # Safety
    /// As for [`Segment::write`], but that the text may be too long for a slot.
    #[inline(always)]
    #[expect(clippy::inline_always, reason = "as `Slot::write`")]
    unsafe fn write_text(&self, segment: &Segment<M>, seq: u64, fixed: M, text: Text<'_>) -> Option<Block> {
        match text {
            // SAFETY: the caller's; the text fits.
            Text::Parts(parts) if self.fits(len(&parts)) => unsafe { self.write(segment, seq, fixed, parts) },
            // SAFETY: the caller's.
            Text::Parts([a, b, c]) => unsafe { self.write_spilled(segment, seq, fixed, Block::of(a, b, c)) },
            // SAFETY: the caller's.
            Text::Block(block) => unsafe { self.write_spilled(segment, seq, fixed, block) },
        }
    }

    /// As [`write`](Self::write), for a text in a block.
    ///
    /// # Safety
    /// As for [`Segment::write`], but that the text need not fit.
    #[cold]
    unsafe fn write_spilled(&self, segment: &Segment<M>, seq: u64, fixed: M, block: Block) -> Option<Block> {
        let bytes = block.capacity();
        // SAFETY: the caller's.
        let recycled = unsafe { segment.write_spilled(seq, fixed, block) };
        self.allocator.count_spilled(bytes, recycled.as_ref().map_or(0, Block::capacity));
        recycled
    }

    /// What readers need not wait for, after a publish: retires segments and lets the epoch move
    /// on, and keeps the bound in bytes.
    #[cold]
    fn tidy_up(&self, writing: WriteGuard, mut leftovers: Leftovers<'_, M>) {
        let guard = writing.into_guard(&self.domain);
        if !leftovers.is_empty() {
            leftovers.dispose(&guard);
            guard.flush();
        }
        self.keep_bytes(guard);
    }

    /// Keeps the bound in bytes, if there is one, after a publish.
    #[cold]
    fn keep_bytes(&self, guard: Guard) {
        if let Some(bytes) = &self.bytes {
            bytes.keep(&self.last, guard);
        }
    }

    /// What is in the position of `seq`, which was claimed under `writing`: the segment for it,
    /// or else something older or newer.
    #[inline]
    fn current<'w>(
        &self,
        position: &AtomicPtr<Segment<M>>,
        seq: u64,
        _writing: &'w WriteGuard,
    ) -> Result<&'w Segment<M>, *mut Segment<M>> {
        let current = position.load(order::INSTALL_B);
        // SAFETY: loaded with install:B after the claim (R4).
        let segment = unsafe { current.as_ref() };
        // SAFETY: as above.
        let covers = |segment: &&Segment<M>| unsafe { segment.base() } == self.geometry().base_of(seq);
        segment.filter(covers).ok_or(current)
    }

    /// The segment for `seq`, which was claimed under `writing`, installed if need be; `None`
    /// when the ring has gone round past it.
    #[inline(never)]
    fn look_up<'w>(
        &self,
        seq: u64,
        writing: &'w WriteGuard,
        leftovers: &mut Leftovers<'_, M>,
    ) -> Option<&'w Segment<M>> {
        self.current(self.positions.of(seq), seq, writing)
            .map_or_else(|current| self.install(seq, current, writing, leftovers), Some)
    }

    /// Puts a segment for `seq`, which was claimed under `writing`, in place of `current`,
    /// unless one of its lap or a later one is there by now. Then there is none for a `seq` of an
    /// earlier lap.
    #[cold]
    fn install<'w>(
        &self,
        seq: u64,
        mut current: *mut Segment<M>,
        _writing: &'w WriteGuard,
        leftovers: &mut Leftovers<'_, M>,
    ) -> Option<&'w Segment<M>> {
        let base = self.geometry().base_of(seq);
        let position = self.positions.of(seq);
        let mut fresh = None;
        // Each turn but the last finds that another writer has moved the base forward.
        let segment = loop {
            // SAFETY: loaded with install:B after the claim (R4).
            if let Some(segment) = unsafe { current.as_ref() } {
                // SAFETY: as above.
                let current_base = unsafe { segment.base() };
                if current_base == base {
                    break Some(segment);
                }
                if current_base > base {
                    break None;
                }
            }
            let aside = &mut leftovers.aside;
            let new =
                *fresh.get_or_insert_with(|| NonNull::from(Box::leak(self.allocator.take(base, aside))));
            match position.compare_exchange(current, new.as_ptr(), order::INSTALL_A, order::INSTALL_B) {
                Ok(_) => {
                    if let Some(old) = NonNull::new(current) {
                        // SAFETY: unlinked by the compare-and-swap, once; freed only after it is
                        // retired.
                        unsafe { leftovers.unlinked.push(old) };
                    }
                    // SAFETY: installed just now, after the claim (R4).
                    return Some(unsafe { new.as_ref() });
                }
                Err(now) => current = now,
            }
        };
        if let Some(unused) = fresh {
            // SAFETY: it was never installed, and is the caller's alone.
            unsafe { leftovers.aside.push(unused) };
        }
        segment
    }
}

impl<M: Copy + Send + Sync> Claim<'_, M> {
    /// The first seq of the claim.
    #[cfg(test)]
    pub(crate) fn first(&self) -> u64 {
        self.first
    }

    /// Publishes the records of the claim's last unpublished seqs, the last one's first: they go in
    /// back to front, so that readers meet all of the claim or nothing. Blocks that are not needed
    /// any more go to `recycled`, for the writer's next long texts.
    #[inline]
    pub(crate) fn publish<'t>(
        &mut self,
        mut records: impl ExactSizeIterator<Item = (M, Text<'t>)>,
        mut recycled: impl FnMut(Block),
    ) {
        debug_assert!(records.len() as u64 <= self.end - self.first, "more records than seqs");
        let to = self.end.saturating_sub(records.len() as u64).max(self.first);
        // Each turn is one segment's.
        while self.end > to {
            let Self { writing, leftovers, .. } = self;
            let ring = leftovers.ring;
            let from = ring.geometry().base_of(self.end - 1).max(to);
            let end = std::mem::replace(&mut self.end, from);
            let records = (from..end).rev().zip(records.by_ref());
            let Some(segment) = ring.look_up(from, writing, leftovers) else {
                // The ring has gone round past it.
                ring.allocator.count_superseded(end - from);
                for (_, (_, text)) in records {
                    if let Text::Block(block) = text {
                        recycled(block);
                    }
                }
                continue;
            };
            for seq in (from..end).rev().take(AHEAD as usize) {
                segment.prefetch(seq, 0);
            }
            for (seq, (fixed, text)) in records {
                if let Text::Parts(parts) = &text
                    && seq >= from + AHEAD
                {
                    segment.prefetch(seq - AHEAD, len(parts));
                }
                // SAFETY: R1: `claim` gave this seq to this claim alone, and `end` says that it is
                // used up; the segment covers it and is alive while `writing` is.
                if let Some(block) = unsafe { ring.write_text(segment, seq, fixed, text) } {
                    recycled(block);
                }
            }
        }
    }

    /// Publishes the record of the claim's last unpublished seq. Returns a block that is not needed
    /// any more, if there is one.
    #[cold]
    pub(crate) fn publish_last<'t>(&mut self, fixed: M, text: impl Into<Text<'t>>) -> Option<Block> {
        let mut recycled = None;
        self.publish(iter::once((fixed, text.into())), |block| recycled = Some(block));
        recycled
    }

    /// Gives up the claim's last unpublished seqs, as many as `count`, as superseded: the claim
    /// itself is longer than the window, and later seqs of it have taken their place.
    pub(crate) fn supersede_last(&mut self, count: u64) {
        self.end -= count;
        self.leftovers.ring.allocator.count_superseded(count);
    }

    /// Ends a claim that is all published. Returns its first seq.
    #[inline]
    pub(crate) fn finish(self) -> u64 {
        let Self { writing, first, leftovers, .. } = self;
        if !leftovers.is_empty() || leftovers.ring.bytes.is_some() {
            leftovers.ring.tidy_up(writing, leftovers);
        } else {
            // Its drop would look once more, out of line.
            std::mem::forget(leftovers);
        }
        first
    }
}
