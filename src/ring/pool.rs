//! Segments that wait to be used again.

use super::order;
use super::segment::Segment;
use crate::sync::{AtomicPtr, Ordering};
use std::ptr::{self, NonNull};

/// A bounded set of segments that no reader can reach.
///
/// Wait-free: putting in and taking out are one pass over a few places. A queue would be shorter to
/// write, but the usual bounded ones let a thread that is suspended half-way hold the others up.
pub(super) struct Pool<M: Copy> {
    places: Box<[AtomicPtr<Segment<M>>]>,
}

impl<M: Copy> Pool<M> {
    pub(super) fn new(places: usize) -> Self {
        Self { places: (0..places).map(|_| AtomicPtr::new(ptr::null_mut())).collect() }
    }

    /// Puts a segment in (pool:A). Gives it back if there is no place.
    pub(super) fn put(&self, segment: NonNull<Segment<M>>) -> Result<(), NonNull<Segment<M>>> {
        for place in &self.places {
            let empty = ptr::null_mut();
            // The first look spares a full place the compare-and-swap.
            if place.load(Ordering::Relaxed).is_null()
                && place.compare_exchange(empty, segment.as_ptr(), order::POOL_A, Ordering::Relaxed).is_ok()
            {
                return Ok(());
            }
        }
        Err(segment)
    }

    /// Takes a segment out, if there is one (pool:B).
    pub(super) fn take(&self) -> Option<NonNull<Segment<M>>> {
        self.places.iter().find_map(|place| {
            if place.load(Ordering::Relaxed).is_null() {
                return None;
            }
            NonNull::new(place.swap(ptr::null_mut(), order::POOL_B))
        })
    }

    /// How many there are.
    pub(super) fn len(&self) -> usize {
        self.places.iter().filter(|place| !place.load(Ordering::Relaxed).is_null()).count()
    }
}

impl<M: Copy> Drop for Pool<M> {
    fn drop(&mut self) {
        while let Some(segment) = self.take() {
            // SAFETY: made by `Box`, and in one place; no ring is left whose writers could reach
            // it.
            drop(unsafe { Box::from_raw(segment.as_ptr()) });
        }
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::super::chain::Chain;
    use super::super::geometry::Geometry;
    use super::super::segment::SegmentAllocator;
    use super::*;

    #[test]
    fn a_pool_knows_how_many_segments_it_has() {
        let allocator = SegmentAllocator::<u64>::new(&Geometry::new(8, 0, 4, 64));
        let pool = Pool::new(3);
        for count in 0..3 {
            assert_eq!(pool.len(), count);
            let segment = allocator.take(0, &mut Chain::new());
            pool.put(NonNull::from(Box::leak(segment))).unwrap();
        }
        assert_eq!(pool.len(), 3);
    }
}
