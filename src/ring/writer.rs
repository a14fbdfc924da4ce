//! The writing side: claim, install, publish.

use super::segment::{Depot, Segment};
use super::slot::Text;
use super::{Ring, order};
use crate::sync::Ordering;
use crate::sync::epoch::{Guard, Owned, Shared};

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
/// It goes backwards and then jumps, which the processor's own prefetching does not follow. Single appends go forwards, and
/// gain nothing.
const AHEAD: u64 = 6;

impl<M: Copy + Send + Sync> Ring<M> {
    /// A text for this ring's slots, spilled to the heap if it is too long for them. Made before the claim.
    #[inline]
    pub(crate) fn text<'a>(&self, parts: [&'a str; 3]) -> Text<'a> {
        Text::new(parts, self.depot.inline())
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

    /// Claims one seq and publishes its record. Returns the seq.
    #[inline]
    pub(crate) fn append(&self, guard: &Guard, fixed: M, text: Text<'_>) -> u64 {
        let mut claim = self.claim(1);
        claim.publish_last(guard, fixed, text);
        claim.finish(guard)
    }

    /// The segment for `seq`, installed if need be; `None` when the ring has gone round past it.
    #[inline]
    pub(super) fn segment_for<'g>(
        &self,
        seq: u64,
        guard: &'g Guard,
        installed: &mut bool,
    ) -> Option<&'g Segment<M>> {
        let position = &self.positions[self.geometry.position_of(seq)];
        let current = position.load(order::INSTALL_B, guard);
        // SAFETY: loaded with install:B under the guard (R4).
        if let Some(segment) = unsafe { current.as_ref() } {
            // SAFETY: as above.
            if unsafe { segment.base() } == self.geometry.base_of(seq) {
                return Some(segment);
            }
        }
        self.install(seq, current, guard, installed)
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
    /// meet all of the claim or nothing.
    #[inline]
    pub(crate) fn publish_last(&mut self, guard: &Guard, fixed: M, text: Text<'_>) {
        debug_assert!(self.first < self.end, "every seq of the claim is published");
        let seq = if cfg!(ringlog_fault = "publish_front_to_back") {
            self.first += 1;
            self.first - 1
        } else {
            self.end -= 1;
            self.end
        };
        let ring = self.ring;
        let Some(segment) = ring.segment_for(seq, guard, &mut self.installed) else {
            ring.count_superseded(1);
            return;
        };
        if seq >= self.first + AHEAD {
            segment.prefetch(seq - AHEAD);
        }
        // SAFETY: R1: `claim` gave this seq to this claim alone, and the line above took it out for good; the
        // segment covers it and is alive under the guard.
        let spilled = unsafe { segment.write(seq, fixed, text) };
        if spilled > 0 {
            ring.depot.count_spilled(spilled);
        }
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
