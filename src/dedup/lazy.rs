//! A value that is built when it is first needed, by the first thread that needs it.
//!
//! The memory of op ids is one: a log that never sees an op id takes none of it. A shard's children
//! are another: few shards ever split.
//!
//! `std`'s `OnceLock` would do but for one thing: while one thread builds, the others wait for it,
//! however long it is suspended, and a claim would not be lock-free. Here no thread waits. Each
//! thread that finds no value builds one of its own and tries to publish it by a CAS; one succeeds,
//! and the others drop theirs and use that one. To build a value twice must therefore do no harm,
//! and for a moment there may be as many as there are threads.

use crate::sync::{AtomicPtr, Ordering};
use std::marker::PhantomData;
use std::ptr::null_mut;

/// A place for a value that is built on demand.
///
/// From its publication on the value stays where it is, until this is dropped (D6).
#[derive(Debug)]
pub(crate) struct Lazy<T> {
    /// Null until a value is published; then a `Box<T>` that this owns.
    value: AtomicPtr<T>,
    values: PhantomData<Box<T>>,
}

// SAFETY: it owns its value, as a box does.
unsafe impl<T: Send> Send for Lazy<T> {}
// SAFETY: it lends its value to any thread; and the value may come from another thread than the one
// that drops it.
unsafe impl<T: Send + Sync> Sync for Lazy<T> {}

impl<T> Default for Lazy<T> {
    fn default() -> Self {
        Self { value: AtomicPtr::new(null_mut()), values: PhantomData }
    }
}

impl<T> Lazy<T> {
    /// The value, if there is one by now. Wait-free.
    #[inline]
    pub(crate) fn get(&self) -> Option<&T> {
        let value = self.value.load(Ordering::Acquire); // lazy:B
        // SAFETY: null, or published fully made; and neither replaced nor freed while this is
        // borrowed (D6).
        unsafe { value.as_ref() }
    }

    /// The value; if there is none yet, one that is built now. Lock-free: one CAS, which fails only
    /// if another thread's succeeded.
    #[inline]
    pub(crate) fn get_or_build(&self, build: impl FnOnce() -> T) -> &T {
        match self.get() {
            Some(value) => value,
            None => self.build(build),
        }
    }

    /// Builds a value and publishes it, or drops it if another thread was faster. Answers with what
    /// is published.
    #[cold]
    fn build(&self, build: impl FnOnce() -> T) -> &T {
        let made = Box::into_raw(Box::new(build()));
        // lazy:A; on failure lazy:B
        let result = self.value.compare_exchange(null_mut(), made, Ordering::Release, Ordering::Acquire);
        let published = match result {
            Ok(_) => made,
            Err(faster) => {
                // SAFETY: made above, and not published.
                drop(unsafe { Box::from_raw(made) });
                faster
            }
        };
        // SAFETY: published fully made; and neither replaced nor freed while this is borrowed (D6).
        unsafe { &*published }
    }
}

impl<T> Drop for Lazy<T> {
    fn drop(&mut self) {
        let value = self.value.load(Ordering::Relaxed);
        if !value.is_null() {
            // SAFETY: `&mut self`: no thread uses the value any more, and this is the one place
            // that frees what was published (D6).
            drop(unsafe { Box::from_raw(value) });
        }
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;
    use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
    use std::sync::{Arc, Barrier};
    use std::thread;

    #[test]
    fn many_build_at_once_and_all_get_one_value() {
        const THREADS: usize = 4;
        for _ in 0..500 {
            let (lazy, counted, barrier) = (Lazy::default(), Arc::new(()), Barrier::new(THREADS));
            assert!(lazy.get().is_none());
            let build = || {
                barrier.wait();
                std::ptr::from_ref(lazy.get_or_build(|| Arc::clone(&counted))).addr()
            };
            let addresses = thread::scope(|scope| {
                [(); THREADS].map(|()| scope.spawn(build)).map(|thread| thread.join().expect("no panic"))
            });
            let address = lazy.get().map(|value| std::ptr::from_ref(value).addr());
            assert!(addresses.iter().all(|other| Some(*other) == address));
            assert_eq!(Arc::strong_count(&counted), 2, "what came too late is dropped");
            drop(lazy);
            assert_eq!(Arc::strong_count(&counted), 1, "what was published is dropped once");
        }
    }

    #[test]
    fn a_build_that_panics_leaves_nothing_behind() {
        let lazy = Lazy::default();
        let build = || *lazy.get_or_build(|| resume_unwind(Box::new(())));
        assert!(catch_unwind(AssertUnwindSafe(build)).is_err());
        assert_eq!(lazy.get(), None);
        assert_eq!(*lazy.get_or_build(|| 1), 1);
        assert_eq!(*lazy.get_or_build(|| 2), 1, "it is built once");
    }
}
