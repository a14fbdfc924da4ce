//! The primitives of a model: loom's.

pub(crate) use lock::{Mutex, MutexGuard};
pub(crate) use loom::cell::UnsafeCell;
pub(crate) use loom::sync::Arc;
pub(crate) use loom::sync::atomic::{AtomicBool, AtomicPtr, AtomicU64, Ordering, fence};
pub(crate) use loom::thread_local;

/// Loads what this thread alone stores to. Not in the way of loom's search: of the accesses
/// that a store races with, it looks at the last one only, which would be this.
pub(crate) fn load_own(own: &AtomicU64) -> u64 {
    // SAFETY: no thread stores to it meanwhile, which loom checks.
    unsafe { own.unsync_load() }
}

/// Parking with a token of our own: loom's `unpark` of a thread that happens to wait for a lock
/// makes it run without the lock, and forgets the token.
#[expect(clippy::unwrap_used, reason = "a poisoned lock in a model is a failed model")]
pub(crate) mod thread {
    use loom::sync::{Arc, Condvar, Mutex};

    #[derive(Clone, Debug)]
    pub(crate) struct Thread(Arc<(Mutex<bool>, Condvar)>);

    loom::thread_local! {
        static CURRENT: Thread = Thread(Arc::new((Mutex::new(false), Condvar::new())));
    }

    pub(crate) fn current() -> Thread {
        CURRENT.with(Thread::clone)
    }

    pub(crate) fn park() {
        let Thread(token) = current();
        let mut given = token.0.lock().unwrap();
        while !*given {
            given = token.1.wait(given).unwrap();
        }
        *given = false;
    }

    /// There is no time in a model: a time-out may be as long as it likes.
    pub(crate) fn park_timeout(_: std::time::Duration) {
        park();
    }

    impl Thread {
        pub(crate) fn unpark(&self) {
            *self.0.0.lock().unwrap() = true;
            self.0.1.notify_one();
        }
    }
}

/// A lock whose `try_lock` can fail: loom hides the moments between taking and release from its
/// search, so that with its own lock a `try_lock` fails by accident only.
#[expect(clippy::unwrap_used, reason = "a poisoned lock in a model is a failed model")]
mod lock {
    use loom::sync::atomic::{AtomicU64, Ordering};
    use std::ops::{Deref, DerefMut};

    #[derive(Debug)]
    pub(crate) struct Mutex<T> {
        /// 1 while it is taken. Seen as 1, `try_lock` fails; seen as 0, it comes a moment
        /// later.
        taken: AtomicU64,
        data: loom::sync::Mutex<T>,
    }

    /// Its fields are dropped in this order.
    pub(crate) struct MutexGuard<'a, T> {
        _taken: Taken<'a>,
        data: loom::sync::MutexGuard<'a, T>,
    }

    struct Taken<'a>(&'a AtomicU64);

    impl<T> Mutex<T> {
        pub(crate) fn new(data: T) -> Self {
            Self { taken: AtomicU64::new(0), data: loom::sync::Mutex::new(data) }
        }

        pub(crate) fn lock(&self) -> MutexGuard<'_, T> {
            let data = self.data.lock().unwrap();
            self.taken.fetch_add(1, Ordering::Relaxed);
            MutexGuard { _taken: Taken(&self.taken), data }
        }

        pub(crate) fn try_lock(&self) -> Option<MutexGuard<'_, T>> {
            // Adding nothing reads the latest value, which a load need not. All that change it
            // are read-modify-writes: loom mixes up the order of these with plain stores.
            (self.taken.fetch_add(0, Ordering::Relaxed) == 0).then(|| self.lock())
        }
    }

    impl<T> Deref for MutexGuard<'_, T> {
        type Target = T;

        fn deref(&self) -> &T {
            &self.data
        }
    }

    impl<T> DerefMut for MutexGuard<'_, T> {
        fn deref_mut(&mut self) -> &mut T {
            &mut self.data
        }
    }

    impl Drop for Taken<'_> {
        fn drop(&mut self) {
            self.0.fetch_sub(1, Ordering::Relaxed);
        }
    }
}
