//! Takes the blocks of evicted records. See *Memory* in `bytes`.

use super::order;
use super::positions::Positions;
use super::segment::SegmentAllocator;
use crate::sync::epoch::Domain;
use crate::sync::{Arc, AtomicU64, Mutex, Ordering, fence};
use std::ops::Range;
use std::sync::Weak;

/// Takes the blocks of records that no reader can reach any more.
///
/// It outlives the ring in what waits for the epoch, so the ring [closes](Self::close) it.
pub(super) struct Reaper<M: Copy + Send + Sync> {
    positions: Positions<M>,
    allocator: Arc<SegmentAllocator<M>>,
    /// The ring's. It holds what waits for the epoch, and that holds the reaper.
    domain: Weak<Domain>,
    /// No reader can reach a record below this seq.
    reapable: AtomicU64,
    /// The blocks below this seq are taken. Written under the lock.
    reaped: AtomicU64,
    /// Whether the ring is gone.
    closed: Mutex<bool>,
}

impl<M: Copy + Send + Sync> Reaper<M> {
    pub(super) fn new(
        positions: &Positions<M>,
        allocator: &Arc<SegmentAllocator<M>>,
        domain: &std::sync::Arc<Domain>,
    ) -> Self {
        let first_seq = positions.geometry().base_seq() + 1;
        Self {
            positions: positions.clone(),
            allocator: Arc::clone(allocator),
            domain: std::sync::Arc::downgrade(domain),
            reapable: AtomicU64::new(first_seq),
            reaped: AtomicU64::new(first_seq),
            closed: Mutex::new(false),
        }
    }

    pub(super) fn positions(&self) -> &Positions<M> {
        &self.positions
    }

    /// The bytes of all blocks that slots hold.
    pub(super) fn spilled_bytes(&self) -> u64 {
        self.allocator.spilled_bytes()
    }

    /// Takes the blocks of all records before seq `floor`, which no reader can reach any more, or
    /// leaves them to a thread that is reaping.
    pub(super) fn reap(&self, floor: u64) {
        // reap:A.
        self.reapable.fetch_max(floor, order::REAP_A);
        // Each turn but the last finds that a later floor has come back meanwhile.
        loop {
            fence(Ordering::SeqCst);
            let Some(closed) = self.closed.try_lock() else { return };
            if *closed {
                return;
            }
            // reap:B.
            let to = self.reapable.load(order::REAP_B);
            let from = self.reaped.load(Ordering::Relaxed);
            self.take_blocks(from..to);
            self.reaped.store(to.max(from), Ordering::Relaxed);
            drop(closed);
            fence(Ordering::SeqCst);
            if self.reaped.load(Ordering::Relaxed) >= self.reapable.load(Ordering::Relaxed) {
                return;
            }
        }
    }

    /// Takes the blocks of these seqs. The caller holds the lock.
    fn take_blocks(&self, seqs: Range<u64>) {
        let Some(domain) = self.domain.upgrade() else { return };
        let _guard = domain.pin();
        let geometry = self.positions.geometry();
        let segment_len = geometry.segment_len() as u64;
        // What lies further back than the ring is long went with its segment.
        let span = geometry.positions() as u64 * segment_len;
        let mut seq = seqs.start.max(seqs.end.saturating_sub(span));
        while seq < seqs.end {
            let base = geometry.base_of(seq);
            let end = (base + segment_len).min(seqs.end);
            // SAFETY: loaded with install:B under the guard (R4).
            let segment = unsafe { self.positions.of(seq).load(order::INSTALL_B).as_ref() };
            // SAFETY: as above.
            if let Some(segment) = segment.filter(|segment| unsafe { segment.base() } == base) {
                // SAFETY: the segment covers the seqs, no reader can reach them, and the lock keeps
                // other reapers away.
                let bytes = unsafe { segment.take_blocks(seq..end) };
                self.allocator.count_spilled(0, bytes);
            }
            seq = end;
        }
    }

    /// Ends its use of the ring. Waits for a thread that is reaping.
    pub(super) fn close(&self) {
        *self.closed.lock() = true;
    }

    #[cfg(test)]
    pub(super) fn is_closed(&self) -> bool {
        *self.closed.lock()
    }
}
