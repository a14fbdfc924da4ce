//! What waits to be used again.

use super::order;
use crate::sync::{AtomicPtr, Ordering};
use std::ptr::{self, NonNull};

/// A bounded set of boxed values, by their pointers. The pool owns what is in it.
///
/// Wait-free: putting in and taking out are one pass over a few places. A queue would be shorter to
/// write, but the usual bounded ones let a thread that is suspended half-way hold the others up.
pub(super) struct Pool<T> {
    places: Box<[AtomicPtr<T>]>,
}

impl<T> Pool<T> {
    pub(super) fn new(places: usize) -> Self {
        Self { places: (0..places).map(|_| AtomicPtr::new(ptr::null_mut())).collect() }
    }

    /// Puts one in (pool:A). Gives it back if there is no place.
    pub(super) fn put(&self, item: NonNull<T>) -> Result<(), NonNull<T>> {
        for place in &self.places {
            let empty = ptr::null_mut();
            // The first look spares a full place the compare-and-swap.
            if place.load(Ordering::Relaxed).is_null()
                && place.compare_exchange(empty, item.as_ptr(), order::POOL_A, Ordering::Relaxed).is_ok()
            {
                return Ok(());
            }
        }
        Err(item)
    }

    /// Takes one out, if there is one (pool:B).
    pub(super) fn take(&self) -> Option<NonNull<T>> {
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

impl<T> Drop for Pool<T> {
    fn drop(&mut self) {
        while let Some(item) = self.take() {
            // SAFETY: made by `Box`, in one place, and the pool's own.
            drop(unsafe { Box::from_raw(item.as_ptr()) });
        }
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    #[test]
    fn a_pool_knows_how_many_it_has_and_owns_them() {
        let pool = Pool::new(3);
        let put = |item: u64| pool.put(NonNull::from(Box::leak(Box::new(item))));
        for count in 0..3 {
            assert_eq!(pool.len(), count as usize);
            put(count).expect("a place");
        }
        assert_eq!(pool.len(), 3);
        let surplus = put(3).expect_err("no place");
        // SAFETY: made by `Box` above, and given back.
        assert_eq!(*unsafe { Box::from_raw(surplus.as_ptr()) }, 3);
    }
}
