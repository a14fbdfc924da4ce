//! Epoch-based reclamation on a collector of our own.
//!
//! `crossbeam-epoch`'s default collector is shared by every crate of the process: a pin that some
//! other library holds for long would hold our memory too. Nor do logs share one: a batch of one
//! log that is kept, or forgotten, would hold the memory of all others. Each log has a
//! [`Domain`] of its own, with which a thread registers when it first uses the log.

use std::ops::Deref;

/// Proof that the current thread is pinned in a [`Domain`].
///
/// [`Domain::pin`] is the only way to get one in an ordinary build, so holding a `&Guard` of a
/// ring's domain is what makes a segment's pointer, loaded under it, safe to follow (invariant
/// R4).
pub(crate) struct Guard(Inner);

#[cfg(not(loom))]
type Inner = crossbeam_epoch::Guard;
/// Under loom, `None` is no pin at all.
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
        // SAFETY: the model that made an unpinned guard has no readers of what it retires.
        self.0.as_ref().unwrap_or_else(|| unsafe { crossbeam_epoch::unprotected() })
    }
}

impl Guard {
    /// Lets the epoch move on past this guard. What was loaded under it is not to be followed
    /// any more.
    pub(crate) fn repin(&mut self) {
        #[cfg(not(loom))]
        self.0.repin();
        #[cfg(loom)]
        if let Some(guard) = &mut self.0 {
            guard.repin();
        }
    }
}

#[cfg(not(loom))]
mod collector {
    use super::Guard;
    use crossbeam_epoch::{Collector, LocalHandle};
    use std::cell::RefCell;
    use std::sync::atomic::{AtomicU64, Ordering};

    /// A collector of its own, and a number by which threads find their registration with it.
    #[derive(Debug)]
    pub(crate) struct Domain {
        number: u64,
        collector: Collector,
    }

    /// A thread keeps so many registrations. A domain's place is its number modulo this, so
    /// that logs made one after the other have places of their own.
    const KEPT: usize = 16;

    thread_local! {
        static REGISTERED: [RefCell<Option<(u64, LocalHandle)>>; KEPT] =
            const { [const { RefCell::new(None) }; KEPT] };
    }

    impl Domain {
        pub(crate) fn new() -> Self {
            static NUMBER: AtomicU64 = AtomicU64::new(0);
            Self { number: NUMBER.fetch_add(1, Ordering::Relaxed), collector: Collector::new() }
        }

        /// Pins the current thread: no memory retired here from now on is reused until the
        /// guard is gone.
        ///
        /// Costs one full fence. A pin inside a pin costs a counter.
        #[inline]
        pub(crate) fn pin(&self) -> Guard {
            let pinned = REGISTERED.try_with(|registered| {
                let place = registered[self.place()].try_borrow().ok()?;
                place.as_ref().filter(|(number, _)| *number == self.number).map(|(_, handle)| handle.pin())
            });
            Guard(pinned.ok().flatten().unwrap_or_else(|| self.register()))
        }

        /// Registers the thread, and pins it. A thread that is being torn down keeps no
        /// registration.
        #[cold]
        fn register(&self) -> crossbeam_epoch::Guard {
            let handle = self.collector.register();
            let guard = handle.pin();
            self.keep(Some((self.number, handle)));
            guard
        }

        /// Puts a registration in the domain's place. The one that was there may be the last
        /// use of its domain, so it is dropped when the place is free for what that runs.
        fn keep(&self, registration: Option<(u64, LocalHandle)>) {
            let _ = REGISTERED.try_with(|registered| {
                let place = registered[self.place()].try_borrow_mut();
                place.map(|mut place| std::mem::replace(&mut *place, registration)).ok()
            });
        }

        #[inline]
        fn place(&self) -> usize {
            self.number as usize % KEPT
        }
    }

    /// The thread that drops a log does not stay registered with it. Others do until their
    /// place is needed.
    impl Drop for Domain {
        fn drop(&mut self) {
            let is_ours = REGISTERED.try_with(|registered| {
                let place = registered[self.place()].try_borrow();
                place.is_ok_and(|place| place.as_ref().is_some_and(|(number, _)| *number == self.number))
            });
            if is_ours == Ok(true) {
                self.keep(None);
            }
        }
    }
}

#[cfg(loom)]
mod collector {
    use super::Guard;
    use crossbeam_epoch::{Collector, LocalHandle};
    use std::cell::RefCell;

    loom::thread_local! {
        /// The model's collector, for a thread that registered with one.
        static REGISTERED: RefCell<Option<LocalHandle>> = RefCell::new(None);
    }

    /// A model that is about the epoch brings its own collector: it starts from fewer states.
    #[derive(Debug)]
    pub(crate) struct Domain;

    impl Domain {
        pub(crate) fn new() -> Self {
            Self
        }

        /// A pin of the collector that the thread registered with, or none.
        pub(crate) fn pin(&self) -> Guard {
            let pin = |registered: &RefCell<Option<LocalHandle>>| {
                registered.borrow().as_ref().map(LocalHandle::pin)
            };
            Guard(REGISTERED.try_with(pin).ok().flatten())
        }
    }

    /// A thread's registration with a model's collector, until this is dropped.
    #[must_use]
    pub(crate) struct Registered(());

    pub(crate) fn register(collector: &Collector) -> Registered {
        let handle = collector.register();
        REGISTERED.with(|registered| *registered.borrow_mut() = Some(handle));
        Registered(())
    }

    impl Drop for Registered {
        fn drop(&mut self) {
            drop(REGISTERED.with(|registered| registered.borrow_mut().take()));
        }
    }

    /// A guard that guards nothing, for models whose readers see nothing retired: their states are
    /// those of the protocol alone. What is retired under it comes back at once.
    pub(crate) fn unpinned() -> Guard {
        Guard(None)
    }
}

pub(crate) use collector::*;

impl std::fmt::Debug for Guard {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Guard")
    }
}
