//! The only door to atomics, cells and epochs.
//!
//! Everything concurrent in this crate takes its primitives from here. In an ordinary build they
//! are `std`'s and `crossbeam-epoch`'s; under `--cfg loom` (the `loom-tests` crate, which compiles
//! these same sources) they are loom's, so that the code that ships is the code that is
//! model-checked.

pub(crate) use imp::*;

/// Asks the processor for a cache line that will be written soon. Only ever a hint: any address
/// will do.
#[inline]
#[cfg_attr(
    any(not(target_arch = "x86_64"), miri),
    expect(unused_variables, reason = "no hint known for this processor")
)]
pub(crate) fn prefetch_for_write(address: *const u8) {
    #[cfg(all(target_arch = "x86_64", not(miri)))]
    // SAFETY: PREFETCHW changes no memory and no register, never faults, and where it is not known
    // it does nothing.
    unsafe {
        std::arch::asm!("prefetchw [{}]", in(reg) address, options(nostack, preserves_flags, readonly));
    }
}

/// A static, which in a model begins anew with each execution.
macro_rules! process_wide {
    ($(#[$attribute:meta])* static $name:ident: $type:ty = $value:expr;) => {
        #[cfg(not(loom))]
        $(#[$attribute])*
        static $name: $type = $value;

        #[cfg(loom)]
        loom::lazy_static! {
            $(#[$attribute])*
            static ref $name: $type = $value;
        }
    };
}
pub(crate) use process_wide;

#[cfg(not(loom))]
mod imp {
    pub(crate) use std::sync::atomic::{AtomicBool, AtomicPtr, AtomicU64, Ordering, fence};
    pub(crate) use std::sync::{Arc, MutexGuard};
    use std::sync::{PoisonError, TryLockError};
    pub(crate) use std::thread_local;

    /// Loads what this thread alone stores to.
    #[inline]
    pub(crate) fn load_own(own: &AtomicU64) -> u64 {
        own.load(Ordering::Relaxed)
    }

    /// Parking, which loom has its own of.
    pub(crate) mod thread {
        pub(crate) use std::thread::{Thread, current, park, park_timeout};
    }

    /// A lock that knows no poison: what it guards is whole whenever it is released, also by a
    /// panic elsewhere.
    #[derive(Debug, Default)]
    pub(crate) struct Mutex<T>(std::sync::Mutex<T>);

    impl<T> Mutex<T> {
        pub(crate) fn new(data: T) -> Self {
            Self(std::sync::Mutex::new(data))
        }

        pub(crate) fn lock(&self) -> MutexGuard<'_, T> {
            self.0.lock().unwrap_or_else(PoisonError::into_inner)
        }

        /// `None` if it is taken.
        pub(crate) fn try_lock(&self) -> Option<MutexGuard<'_, T>> {
            match self.0.try_lock() {
                Ok(guard) => Some(guard),
                Err(TryLockError::Poisoned(poisoned)) => Some(poisoned.into_inner()),
                Err(TryLockError::WouldBlock) => None,
            }
        }
    }

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
}

/// Epoch-based reclamation on a collector of our own.
///
/// `crossbeam-epoch`'s default collector is shared by every crate of the process: a pin that some
/// other library holds for long would hold our memory too. Nor do logs share one: a batch of one
/// log that is kept, or forgotten, would hold the memory of all others. Each log has a
/// [`Domain`](epoch::Domain) of its own, with which a thread registers when it first uses the log.
pub(crate) mod epoch {
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
                    place
                        .as_ref()
                        .filter(|(number, _)| *number == self.number)
                        .map(|(_, handle)| handle.pin())
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

        /// A model brings its own collector: it starts from fewer states.
        #[derive(Debug)]
        pub(crate) struct Domain;

        impl Domain {
            pub(crate) fn new() -> Self {
                Self
            }

            /// No pin: a model that is about the epoch brings a collector.
            pub(crate) fn pin(&self) -> Guard {
                unpinned()
            }
        }

        pub(crate) fn pin_to(handle: &crossbeam_epoch::LocalHandle) -> Guard {
            Guard(Some(handle.pin()))
        }

        /// A guard that guards nothing, for models whose readers see nothing retired: their states
        /// are those of the protocol alone. What is retired under it comes back at once.
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
}

/// A fence that costs its one side next to nothing, and its other side a system call.
///
/// Two threads that each store, fence and then load the other's variable cannot both miss the
/// other's store. Where one of them comes by often and the other seldom, the frequent one can leave
/// its half of the work to the rare one: it only keeps the *compiler* from moving its store past
/// its load ([`light`](asymmetric::light)), and the rare one makes the kernel run a full fence on
/// every processor that is running a thread of this process ([`heavy`](asymmetric::heavy), Linux'
/// `membarrier`).
///
/// What it promises: a `heavy` acts as if each other thread had run a full fence at some moment
/// between its call and its return. Where the kernel refuses, and on other systems, both are plain
/// full fences, and so they are in a model and under Miri, which know no processors to interrupt.
pub(crate) mod asymmetric {
    pub(crate) use imp::{heavy, light, prepare};

    #[cfg(all(target_os = "linux", not(any(loom, miri))))]
    mod imp {
        use rustix::thread::{MembarrierCommand, membarrier};
        use std::sync::Once;
        use std::sync::atomic::{AtomicBool, Ordering, compiler_fence, fence};
        use std::time::Duration;

        static REGISTER: Once = Once::new();

        /// Whether the light side relies on the heavy one. Set once, in `prepare`; unset if the
        /// kernel changes its mind.
        static EXPEDITED: AtomicBool = AtomicBool::new(false);

        /// What it takes a store to leave its processor's store buffer, with three orders of
        /// magnitude to spare.
        const DRAIN: Duration = Duration::from_millis(1);

        /// Asks the kernel for the service. A user of the fences does this first: that it
        /// happens before both sides' calls is what lets them agree on which kind of fence they
        /// use.
        pub(crate) fn prepare() {
            REGISTER.call_once(|| {
                let granted = membarrier(MembarrierCommand::RegisterPrivateExpedited).is_ok();
                EXPEDITED.store(granted, Ordering::Relaxed);
            });
        }

        /// The frequent side's half.
        #[inline]
        pub(crate) fn light() {
            if EXPEDITED.load(Ordering::Relaxed) {
                compiler_fence(Ordering::SeqCst);
            } else {
                fence(Ordering::SeqCst);
            }
        }

        /// The rare side's half: a few microseconds.
        pub(crate) fn heavy() {
            fence(Ordering::SeqCst);
            if EXPEDITED.load(Ordering::Relaxed) && membarrier(MembarrierCommand::PrivateExpedited).is_err() {
                refused();
            }
        }

        /// The kernel granted the service and now refuses it (a sandbox was closed meanwhile): from
        /// here on both sides use plain fences, and what was stored just before has the time to
        /// arrive.
        #[cold]
        fn refused() {
            EXPEDITED.store(false, Ordering::SeqCst);
            std::thread::sleep(DRAIN);
            fence(Ordering::SeqCst);
        }
    }

    #[cfg(not(all(target_os = "linux", not(any(loom, miri)))))]
    mod imp {
        use super::super::{Ordering, fence};

        pub(crate) fn prepare() {}

        #[inline]
        pub(crate) fn light() {
            fence(Ordering::SeqCst);
        }

        pub(crate) fn heavy() {
            fence(Ordering::SeqCst);
        }
    }
}

#[cfg(all(test, not(loom), target_os = "linux"))]
pub(crate) mod tests {
    use super::{AtomicU64, Ordering, asymmetric};
    use crossbeam_utils::CachePadded;
    use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};
    use std::time::{Duration, Instant};

    /// Moves the thread to the `nth` of the processors that it may run on, if there are so many.
    pub(crate) fn run_on(nth: usize) {
        let allowed = sched_getaffinity(None).expect("an affinity");
        if let Some(cpu) = (0..CpuSet::MAX_CPU).filter(|cpu| allowed.is_set(*cpu)).nth(nth) {
            let mut only = CpuSet::new();
            only.set(cpu);
            sched_setaffinity(None, &only).expect("one of those allowed");
        }
    }

    /// Each side stores, fences and loads what the other stores, both at once. With too weak a
    /// fence on either side they miss each other in one step of a hundred.
    #[test]
    fn a_light_and_a_heavy_fence_never_miss_each_other() {
        const STEPS: u64 = 200_000;
        const END: u64 = u64::MAX;
        let [start, end, often, seldom, saw] = [(); 5].map(|()| CachePadded::new(AtomicU64::new(0)));
        // Where the two sides share a processor, a step takes long, and shows nothing.
        let enough = Instant::now() + Duration::from_secs(1);
        asymmetric::prepare();

        let light = |step| {
            often.store(step, Ordering::Relaxed);
            asymmetric::light();
            saw.store(seldom.load(Ordering::Relaxed), Ordering::Relaxed);
            end.store(step, Ordering::Release);
        };
        let heavy = |step: &u64| {
            start.store(*step, Ordering::Release);
            // The other side needs a moment, now shorter, now longer.
            (0..step % 64).for_each(|_| std::hint::spin_loop());
            seldom.store(*step, Ordering::Relaxed);
            asymmetric::heavy();
            let seen = often.load(Ordering::Relaxed);
            while end.load(Ordering::Acquire) != *step {
                std::hint::spin_loop();
            }
            seen == *step || saw.load(Ordering::Relaxed) == *step
        };
        let missed = std::thread::scope(|scope| {
            scope.spawn(|| {
                run_on(0);
                for step in 1.. {
                    while start.load(Ordering::Acquire) < step {
                        std::hint::spin_loop();
                    }
                    if start.load(Ordering::Relaxed) == END {
                        break;
                    }
                    light(step);
                }
            });
            let heavy = scope.spawn(|| {
                run_on(1);
                let missed = (1..=STEPS).take_while(|_| Instant::now() < enough).find(|step| !heavy(step));
                start.store(END, Ordering::Release);
                missed
            });
            heavy.join().expect("no panic")
        });
        assert_eq!(missed, None, "a step in which both sides missed the other's store");
    }
}
