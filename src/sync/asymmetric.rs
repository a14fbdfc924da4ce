//! A fence that costs its one side next to nothing, and its other side a system call.
//!
//! Two threads that each store, fence and then load the other's variable cannot both miss the
//! other's store. Where one of them comes by often and the other seldom, the frequent one can leave
//! its half of the work to the rare one: it only keeps the *compiler* from moving its store past
//! its load ([`light`]), and the rare one makes the kernel run a full fence on
//! every processor that is running a thread of this process ([`heavy`], Linux'
//! `membarrier`).
//!
//! What it promises: a `heavy` acts as if each other thread had run a full fence at some moment
//! between its call and its return. Where the kernel refuses, and on other systems, both are plain
//! full fences, and so they are in a model and under Miri, which know no processors to interrupt.

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
    use crate::sync::{Ordering, fence};

    pub(crate) fn prepare() {}

    #[inline]
    pub(crate) fn light() {
        fence(Ordering::SeqCst);
    }

    pub(crate) fn heavy() {
        fence(Ordering::SeqCst);
    }
}

#[cfg(all(test, not(loom), target_os = "linux"))]
pub(crate) mod tests {
    use super::{heavy, light, prepare};
    use crate::sync::{AtomicU64, Ordering};
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
        prepare();

        let often_side = |step| {
            often.store(step, Ordering::Relaxed);
            light();
            saw.store(seldom.load(Ordering::Relaxed), Ordering::Relaxed);
            end.store(step, Ordering::Release);
        };
        let seldom_side = |step: &u64| {
            start.store(*step, Ordering::Release);
            // The other side needs a moment, now shorter, now longer.
            (0..step % 64).for_each(|_| std::hint::spin_loop());
            seldom.store(*step, Ordering::Relaxed);
            heavy();
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
                    often_side(step);
                }
            });
            let seldom_side = scope.spawn(|| {
                run_on(1);
                let missed =
                    (1..=STEPS).take_while(|_| Instant::now() < enough).find(|step| !seldom_side(step));
                start.store(END, Ordering::Release);
                missed
            });
            seldom_side.join().expect("no panic")
        });
        assert_eq!(missed, None, "a step in which both sides missed the other's store");
    }
}
