//! What a ring consists of, from its making to its end.

use super::bytes::ByteBound;
use super::geometry::Geometry;
use super::positions::Positions;
use super::reaper::Reaper;
use super::reservation::WriteGuard;
use super::segment::{Memory, SegmentAllocator};
use crate::sync::epoch::{Domain, Guard};
use crate::sync::{Arc, AtomicU64, Ordering};
use crossbeam_utils::CachePadded;

/// The window of the latest records. See the module's essay.
pub(crate) struct Ring<M: Copy + Send + Sync> {
    /// The highest seq handed out, alone on its cache line: every writer writes it.
    pub(super) last: CachePadded<AtomicU64>,
    /// Every seq up to this one is published or out of the window. A memo of [`Ring::head`], not
    /// read by writers.
    pub(super) published_upto: CachePadded<AtomicU64>,
    /// The longest text that a slot holds itself.
    pub(super) inline: u64,
    pub(super) positions: Positions<M>,
    pub(super) allocator: Arc<SegmentAllocator<M>>,
    /// Where its readers pin, and what they may look at waits.
    pub(super) domain: std::sync::Arc<Domain>,
    /// The bound in bytes, if the window has one.
    pub(super) bytes: Option<ByteBound<M>>,
}

impl<M: Copy + Send + Sync> Ring<M> {
    /// An empty ring. Its segments are allocated as the window fills.
    pub(crate) fn new(geometry: Geometry) -> Self {
        let allocator = Arc::new(SegmentAllocator::new(&geometry));
        let domain = std::sync::Arc::new(Domain::new());
        let [last, published_upto] =
            [geometry.base_seq(); 2].map(|seq| CachePadded::new(AtomicU64::new(seq)));
        let max_bytes = geometry.max_bytes();
        let positions = Positions::new(geometry);
        let bytes = max_bytes.map(|max_bytes| {
            let reaper = Reaper::new(&positions, &allocator, &domain);
            ByteBound::new(max_bytes, last.load(Ordering::Relaxed) + 1, allocator.inline(), reaper)
        });
        let inline = allocator.inline() as u64;
        Self { last, published_upto, inline, positions, allocator, domain, bytes }
    }

    /// Pins the calling thread: no memory that this ring retires from now on is used again until
    /// the guard is gone.
    #[inline]
    pub(crate) fn pin(&self) -> Guard {
        self.domain.pin()
    }

    /// Says that the calling thread is about to claim seqs.
    #[inline]
    pub(crate) fn enter(&self) -> WriteGuard {
        WriteGuard::enter(&self.domain)
    }

    #[inline]
    pub(crate) fn geometry(&self) -> &Geometry {
        self.positions.geometry()
    }

    /// The highest seq handed out.
    #[inline]
    pub(crate) fn last(&self) -> u64 {
        self.last.load(Ordering::Relaxed)
    }

    /// How many records were dropped because the ring had gone round before they were written.
    pub(crate) fn superseded(&self) -> u64 {
        self.allocator.superseded()
    }

    /// The bytes of the texts in the window, if they are bounded.
    pub(crate) fn retained_bytes(&self) -> Option<u64> {
        self.bytes.as_ref().map(ByteBound::retained)
    }

    pub(crate) fn memory(&self) -> Memory {
        self.allocator.memory()
    }
}

impl<M: Copy + Send + Sync> Drop for Ring<M> {
    fn drop(&mut self) {
        if let Some(bytes) = &self.bytes {
            bytes.close();
        }
        for segment in self.positions.iter() {
            // SAFETY: `&mut self`: no reader or writer of this ring is left, and a segment in a
            // position has not been retired (R4).
            drop(unsafe { Box::from_raw(segment.as_ptr()) });
        }
        // Retired segments are with the epoch, which moves on only when a thread pins. What is
        // still there when the last thread lets go of the domain is freed then. Two advances make
        // garbage free to go.
        for _ in 0..3 {
            self.pin().flush();
        }
    }
}

impl<M: Copy + Send + Sync> std::fmt::Debug for Ring<M> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Ring")
            .field("last", &self.last())
            .field("geometry", self.geometry())
            .finish_non_exhaustive()
    }
}
