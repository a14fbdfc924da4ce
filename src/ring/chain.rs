//! What is put aside, linked through itself: nothing is allocated for it.

use super::order;
use crate::sync::{AtomicPtr, Ordering};
use std::ptr::{self, NonNull};

/// What can be in a chain: it has a place for a link, which the holder of the chain alone uses.
pub(super) trait Linked {
    /// The next in the chain that holds this.
    ///
    /// # Safety
    /// The chain is the caller's.
    unsafe fn next(&self) -> Option<NonNull<Self>>;

    /// Links this to the next one of a chain.
    ///
    /// # Safety
    /// The chain is the caller's.
    unsafe fn set_next(&self, to: Option<NonNull<Self>>);
}

/// What is put aside. Other threads may still look at it, but for its link.
pub(super) struct Chain<T: Linked>(Option<NonNull<T>>);

impl<T: Linked> Chain<T> {
    pub(super) fn new() -> Self {
        Self(None)
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_none()
    }

    /// Adds one.
    ///
    /// # Safety
    /// It is not freed as long as it is here, and in no other chain.
    pub(super) unsafe fn push(&mut self, item: NonNull<T>) {
        // SAFETY: the caller's: not freed.
        let link = unsafe { item.as_ref() };
        // SAFETY: the caller's: it is in no other chain, so its link is this chain's.
        unsafe { link.set_next(self.0) };
        self.0 = Some(item);
    }

    pub(super) fn pop(&mut self) -> Option<NonNull<T>> {
        let item = self.0?;
        // SAFETY: not freed as long as it is here, by the contract of `push`.
        let link = unsafe { item.as_ref() };
        // SAFETY: it is in this chain, so its link is this chain's.
        self.0 = unsafe { link.next() };
        Some(item)
    }
}

impl<T: Linked> std::fmt::Debug for Chain<T> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Chain").field(&self.0).finish()
    }
}

/// A chain to which any thread adds, and which is taken as a whole.
pub(super) struct SharedChain<T: Linked>(AtomicPtr<T>);

impl<T: Linked> SharedChain<T> {
    pub(super) fn new() -> Self {
        Self(AtomicPtr::new(ptr::null_mut()))
    }

    /// Adds one (pool:A).
    ///
    /// # Safety
    /// As for [`Chain::push`].
    pub(super) unsafe fn push(&self, item: NonNull<T>) {
        // SAFETY: the caller's: not freed.
        let link = unsafe { item.as_ref() };
        let mut first = self.0.load(Ordering::Relaxed);
        // Each turn but the last finds that another thread has added or taken.
        loop {
            // SAFETY: the caller's: it is in no other chain, and not yet in this one.
            unsafe { link.set_next(NonNull::new(first)) };
            match self.0.compare_exchange(first, item.as_ptr(), order::POOL_A, Ordering::Relaxed) {
                Ok(_) => return,
                Err(now) => first = now,
            }
        }
    }

    /// Takes all of it (pool:B).
    pub(super) fn take(&self) -> Chain<T> {
        if self.0.load(Ordering::Relaxed).is_null() {
            return Chain::new();
        }
        Chain(NonNull::new(self.0.swap(ptr::null_mut(), order::POOL_B)))
    }
}

impl<T: Linked> Drop for SharedChain<T> {
    fn drop(&mut self) {
        let mut items = self.take();
        while let Some(item) = items.pop() {
            // SAFETY: the chain's own, made by `Box`, when the chain is dropped.
            drop(unsafe { Box::from_raw(item.as_ptr()) });
        }
    }
}
