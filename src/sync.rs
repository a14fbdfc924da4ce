//! The only door to atomics, cells and epochs.
//!
//! Everything concurrent in this crate takes its primitives from here. In an ordinary build they are
//! `std`'s and `crossbeam-epoch`'s; under `--cfg loom` (the `loom-tests` crate, which compiles these
//! same sources) they are loom's, so that the code that ships is the code that is model-checked.

pub(crate) use imp::*;

/// Asks the processor for a cache line that will be written soon. Only ever a hint: any address will do.
#[inline]
#[cfg_attr(
    not(target_arch = "x86_64"),
    expect(unused_variables, reason = "no hint known for this processor")
)]
pub(crate) fn prefetch_for_write(address: *const u8) {
    #[cfg(target_arch = "x86_64")]
    // SAFETY: PREFETCHW changes no memory and no register, never faults, and where it is not known it does nothing.
    unsafe {
        std::arch::asm!("prefetchw [{}]", in(reg) address, options(nostack, preserves_flags, readonly));
    }
}

#[cfg(not(loom))]
mod imp {
    pub(crate) use std::sync::Arc;
    pub(crate) use std::sync::atomic::{AtomicBool, AtomicPtr, AtomicU64, Ordering};

    /// A cell whose accesses loom can track: `std`'s, with loom's closure-shaped interface.
    #[derive(Debug)]
    #[repr(transparent)]
    pub(crate) struct UnsafeCell<T>(std::cell::UnsafeCell<T>);

    impl<T> UnsafeCell<T> {
        #[inline]
        pub(crate) fn new(value: T) -> Self {
            Self(std::cell::UnsafeCell::new(value))
        }

        /// Lends a pointer for reading. The caller keeps writers away while it reads through it.
        #[inline]
        pub(crate) fn with<R>(&self, read: impl FnOnce(*const T) -> R) -> R {
            read(self.0.get())
        }

        /// Lends a pointer for writing. The caller keeps everyone else away while it writes.
        #[inline]
        pub(crate) fn with_mut<R>(&self, write: impl FnOnce(*mut T) -> R) -> R {
            write(self.0.get())
        }
    }
}

#[cfg(loom)]
mod imp {
    pub(crate) use loom::cell::UnsafeCell;
    pub(crate) use loom::sync::Arc;
    pub(crate) use loom::sync::atomic::{AtomicBool, AtomicPtr, AtomicU64, Ordering};
}

/// Epoch-based reclamation on a collector of our own.
///
/// `crossbeam-epoch`'s default collector is shared by every crate of the process: a pin that some other
/// library holds for long would hold our memory too. All logs of a process share this one collector, and
/// a thread registers with it once.
pub(crate) mod epoch {
    pub(crate) use crossbeam_epoch::{Atomic, Owned, Shared};
    use std::ops::Deref;

    /// Proof that the current thread is pinned to *our* collector.
    ///
    /// [`pin`] is the only way to get one in an ordinary build, so holding a `&Guard` is what makes a
    /// pointer loaded from an [`Atomic`] safe to follow (invariant R4).
    pub(crate) struct Guard(Inner);

    #[cfg(not(loom))]
    type Inner = crossbeam_epoch::Guard;
    /// Under loom, `None` is no pin at all: for models in which nothing is retired.
    #[cfg(loom)]
    type Inner = Option<crossbeam_epoch::Guard>;

    impl Deref for Guard {
        type Target = crossbeam_epoch::Guard;

        #[cfg(not(loom))]
        #[inline]
        fn deref(&self) -> &Self::Target {
            &self.0
        }

        #[cfg(loom)]
        fn deref(&self) -> &Self::Target {
            // SAFETY: the model that made an unpinned guard retires nothing.
            self.0.as_ref().unwrap_or_else(|| unsafe { crossbeam_epoch::unprotected() })
        }
    }

    #[cfg(not(loom))]
    mod collector {
        use super::Guard;
        use crossbeam_epoch::{Collector, LocalHandle};
        use std::sync::LazyLock;

        static COLLECTOR: LazyLock<Collector> = LazyLock::new(Collector::new);

        thread_local! {
            static HANDLE: LocalHandle = COLLECTOR.register();
        }

        /// Pins the current thread: no memory retired from now on is reused until the guard is gone.
        ///
        /// Costs one full fence. A pin inside a pin costs a counter.
        #[inline]
        pub(crate) fn pin() -> Guard {
            // A thread that is being torn down has no thread-locals left; it registers anew.
            Guard(HANDLE.try_with(LocalHandle::pin).unwrap_or_else(|_| COLLECTOR.register().pin()))
        }
    }

    #[cfg(loom)]
    mod collector {
        use super::Guard;

        /// A model brings its own collector: it starts from fewer states than the process-wide one.
        pub(crate) fn pin_to(handle: &crossbeam_epoch::LocalHandle) -> Guard {
            Guard(Some(handle.pin()))
        }

        /// A guard that guards nothing, for models in which nothing is retired: their states are those of the
        /// protocol alone.
        pub(crate) fn unpinned() -> Guard {
            Guard(None)
        }

        /// Pins to the default collector, which loom resets for every execution.
        pub(crate) fn pin() -> Guard {
            Guard(Some(crossbeam_epoch::pin()))
        }
    }

    pub(crate) use collector::*;

    impl std::fmt::Debug for Guard {
        fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
            f.write_str("Guard")
        }
    }
}
