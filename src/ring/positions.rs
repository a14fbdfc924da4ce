//! Where the segments are found: a pointer for each position, and the arithmetic that leads there.

use super::geometry::Geometry;
use super::order;
use super::segment::Segment;
use crate::sync::epoch::Guard;
use crate::sync::{AtomicPtr, Ordering};
use std::ptr::{self, NonNull};
use std::sync::Arc;

/// The positions of a ring. A clone shares them; what they point to is the ring's.
pub(super) struct Positions<M: Copy> {
    pointers: Arc<[AtomicPtr<Segment<M>>]>,
    geometry: Geometry,
}

impl<M: Copy> Clone for Positions<M> {
    fn clone(&self) -> Self {
        Self { pointers: Arc::clone(&self.pointers), geometry: self.geometry.clone() }
    }
}

/// What the position of a seq holds, seen from that seq.
pub(super) enum Found<'g, M: Copy> {
    Segment(&'g Segment<M>),
    /// Not installed yet.
    NotYet,
    /// A later lap's: the seq is out of the window (R6).
    Newer,
}

impl<M: Copy + Send + Sync> Positions<M> {
    /// Positions without segments.
    pub(super) fn new(geometry: Geometry) -> Self {
        let pointers = (0..geometry.positions()).map(|_| AtomicPtr::new(ptr::null_mut())).collect();
        Self { pointers, geometry }
    }

    #[inline]
    pub(super) fn geometry(&self) -> &Geometry {
        &self.geometry
    }

    /// The position whose segment covers `seq`.
    #[inline]
    pub(super) fn of(&self, seq: u64) -> &AtomicPtr<Segment<M>> {
        &self.pointers[self.geometry.position_of(seq)]
    }

    /// What is in the position of `seq`.
    #[inline]
    pub(super) fn find<'g>(&self, seq: u64, _guard: &'g Guard) -> Found<'g, M> {
        // SAFETY: loaded with install:B under the guard (R4).
        let Some(segment): Option<&'g _> = (unsafe { self.of(seq).load(order::INSTALL_B).as_ref() }) else {
            return Found::NotYet;
        };
        // SAFETY: as above.
        let found = unsafe { segment.base() };
        match found.cmp(&self.geometry.base_of(seq)) {
            std::cmp::Ordering::Equal => Found::Segment(segment),
            std::cmp::Ordering::Less => Found::NotYet,
            std::cmp::Ordering::Greater => Found::Newer,
        }
    }

    /// The segments that are there, for a ring that is being dropped.
    pub(super) fn iter(&self) -> impl Iterator<Item = NonNull<Segment<M>>> {
        self.pointers.iter().filter_map(|pointer| NonNull::new(pointer.load(Ordering::Relaxed)))
    }
}
