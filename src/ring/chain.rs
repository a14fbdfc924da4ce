//! Segments that are put aside, linked through themselves: nothing is allocated for it.

use super::order;
use super::segment::Segment;
use crate::sync::{AtomicPtr, Ordering};
use std::ptr::{self, NonNull};

/// Segments that no position and no pool holds. A late writer or reader may still look at them.
#[derive(Debug)]
pub(super) struct Chain<M: Copy>(Option<NonNull<Segment<M>>>);

impl<M: Copy> Chain<M> {
    pub(super) fn new() -> Self {
        Self(None)
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_none()
    }

    /// Adds a segment.
    ///
    /// # Safety
    /// It is not freed as long as it is here, and in no other chain.
    pub(super) unsafe fn push(&mut self, segment: NonNull<Segment<M>>) {
        // SAFETY: the caller's: not freed.
        let link = unsafe { segment.as_ref() };
        // SAFETY: the caller's: the segment is in no other chain, so its link is this chain's.
        unsafe { link.set_next(self.0) };
        self.0 = Some(segment);
    }

    pub(super) fn pop(&mut self) -> Option<NonNull<Segment<M>>> {
        let segment = self.0?;
        // SAFETY: not freed as long as it is here, by the contract of `push`.
        let link = unsafe { segment.as_ref() };
        // SAFETY: the segment is in this chain, so its link is this chain's.
        self.0 = unsafe { link.next() };
        Some(segment)
    }
}

/// A chain to which any thread adds, and which is taken as a whole.
#[derive(Debug)]
pub(super) struct SharedChain<M: Copy>(AtomicPtr<Segment<M>>);

impl<M: Copy> SharedChain<M> {
    pub(super) fn new() -> Self {
        Self(AtomicPtr::new(ptr::null_mut()))
    }

    /// Adds a segment (pool:A).
    ///
    /// # Safety
    /// As for [`Chain::push`].
    pub(super) unsafe fn push(&self, segment: NonNull<Segment<M>>) {
        // SAFETY: the caller's: not freed.
        let link = unsafe { segment.as_ref() };
        let mut first = self.0.load(Ordering::Relaxed);
        // Each turn but the last finds that another thread has added or taken.
        loop {
            // SAFETY: the caller's: the segment is in no other chain, and not yet in this one.
            unsafe { link.set_next(NonNull::new(first)) };
            match self.0.compare_exchange(first, segment.as_ptr(), order::POOL_A, Ordering::Relaxed) {
                Ok(_) => return,
                Err(now) => first = now,
            }
        }
    }

    /// Takes all of it (pool:B).
    pub(super) fn take(&self) -> Chain<M> {
        if self.0.load(Ordering::Relaxed).is_null() {
            return Chain::new();
        }
        Chain(NonNull::new(self.0.swap(ptr::null_mut(), order::POOL_B)))
    }
}

impl<M: Copy> Drop for SharedChain<M> {
    fn drop(&mut self) {
        let mut segments = self.take();
        while let Some(segment) = segments.pop() {
            // SAFETY: made by `Box`, and here only; no ring is left whose writers could reach it.
            drop(unsafe { Box::from_raw(segment.as_ptr()) });
        }
    }
}
