//! The writers' side of R4: a note of each thread that it is writing, and since which era.
//!
//! A pin of the epoch is a full fence, as dear as a claim. A writer needs none, for its claim is a
//! read-modify-write of the ring's counter already. It *reserves* by a plain store to its thread's
//! reservation, and then claims. An installer that has unlinked a segment adds zero to the same
//! counter, and a reclaimer reads all reservations before the segment is used again. Of two
//! read-modify-writes of one counter one comes first, and the later sees what came before it. So
//! either the writer sees that the segment is gone, or the reclaimer sees the reservation. See
//! *announce* in the ring's essay.

use super::order;
use crate::sync::epoch::{Domain, Guard};
use crate::sync::{AtomicBool, AtomicPtr, AtomicU64, Ordering, load_own, process_wide, thread_local};
use crossbeam_utils::CachePadded;
use std::marker::PhantomData;
use std::ptr;

process_wide! {
    /// The reservations of all threads that write to any log.
    static REGISTRY: Registry = Registry {
        era: CachePadded::new(AtomicU64::new(1)),
        first: AtomicPtr::new(ptr::null_mut()),
    };
}

thread_local! {
    /// The thread's own.
    static RESERVATION: Owned = REGISTRY.acquire();
}

/// The era of a thread that is not writing: later than all others.
const INACTIVE: u64 = u64::MAX;

/// All reservations, as a list. It grows with the threads that write at the same time. A
/// reservation passes from thread to thread, and is never freed.
struct Registry {
    /// How many segments were unlinked: an era ends with each.
    era: CachePadded<AtomicU64>,
    first: AtomicPtr<CachePadded<Reservation>>,
}

/// A thread's note that it is writing.
struct Reservation {
    /// At most the era in which its writer came, or [`INACTIVE`].
    era: AtomicU64,
    /// Whether a thread has it.
    owned: AtomicBool,
    /// The next of the list. Does not change once this one is in it.
    next: *const CachePadded<Reservation>,
}

/// A reservation that belongs to a thread until this is dropped.
struct Owned(&'static Reservation);

/// Proof that the thread is writing: what a claim made after this can reach is not used again
/// before this is gone (R4).
pub(crate) struct WriteGuard {
    protection: Protection,
    not_send: PhantomData<*mut ()>,
}

enum Protection {
    Reservation(Active),
    /// A thread that is being torn down, or is writing already, pins the epoch as a reader does.
    Pin(Guard),
}

/// A reservation that is active until this is dropped.
struct Active(&'static Reservation);

/// The era in which a segment was last unlinked from a position. Relaxed: it travels with the
/// segment.
pub(super) struct RetireEra(AtomicU64);

impl WriteGuard {
    /// Reserves: what the thread can reach by a claim from now on stays.
    ///
    /// Wait-free, and without a fence: the claim that follows makes it known. A thread's first call
    /// acquires a reservation that no thread has, or adds one.
    #[inline]
    pub(crate) fn enter(domain: &std::sync::Arc<Domain>) -> Self {
        match RESERVATION.try_with(|owned| owned.0) {
            Ok(reservation) if load_own(&reservation.era) == INACTIVE => {
                reservation.era.store(REGISTRY.era.load(Ordering::Relaxed), order::ENTER_A);
                Self::new(Protection::Reservation(Active(reservation)))
            }
            _ => Self::enter_pinned(domain),
        }
    }

    #[cold]
    #[inline(never)]
    fn enter_pinned(domain: &std::sync::Arc<Domain>) -> Self {
        Self::pinned(domain.pin())
    }

    /// A writer that has pinned the epoch.
    pub(crate) fn pinned(guard: Guard) -> Self {
        Self::new(Protection::Pin(guard))
    }

    #[inline]
    fn new(protection: Protection) -> Self {
        Self { protection, not_send: PhantomData }
    }

    /// Ends the reservation, and pins the epoch instead.
    pub(super) fn into_guard(self, domain: &Domain) -> Guard {
        match self.protection {
            Protection::Reservation(active) => {
                drop(active);
                domain.pin()
            }
            Protection::Pin(guard) => guard,
        }
    }
}

impl Drop for Active {
    #[inline]
    fn drop(&mut self) {
        self.0.era.store(INACTIVE, order::LEAVE_A);
    }
}

impl std::fmt::Debug for WriteGuard {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("WriteGuard")
    }
}

impl RetireEra {
    /// Before every writer came.
    pub(super) fn never() -> Self {
        Self(AtomicU64::new(0))
    }

    /// Now: the segment was just unlinked, and its unlinking announced (announce:B).
    pub(super) fn mark(&self) {
        self.0.store(REGISTRY.era.fetch_add(1, Ordering::Relaxed), Ordering::Relaxed);
    }

    /// Whether all writers have left that can have reached the segment before, and all that they
    /// wrote is visible (leave:B).
    ///
    /// Wait-free: one load for each reservation.
    pub(super) fn is_over(&self) -> bool {
        let unlinked = self.0.load(Ordering::Relaxed);
        REGISTRY.iter().all(|reservation| reservation.era.load(order::LEAVE_B) > unlinked)
    }
}

impl Registry {
    fn iter(&self) -> impl Iterator<Item = &Reservation> {
        // SAFETY: null, or a reservation that was whole when it was added (register:A), and is
        // never freed.
        let first = unsafe { self.first.load(order::REGISTER_B).as_ref() };
        // SAFETY: as above; the following ones were added before it.
        std::iter::successors(first, |one| unsafe { one.next.as_ref() }).map(|one| &**one)
    }

    /// A reservation for a thread: one that no thread has, or a new one.
    fn acquire(&'static self) -> Owned {
        let acquire = |one: &&Reservation| {
            one.owned.compare_exchange(false, true, order::VACATE_B, Ordering::Relaxed).is_ok()
        };
        Owned(self.iter().find(acquire).unwrap_or_else(|| self.add()))
    }

    /// Adds a reservation, which the calling thread owns.
    fn add(&'static self) -> &'static Reservation {
        let mut first = self.first.load(order::REGISTER_B);
        let (era, owned) = (AtomicU64::new(INACTIVE), AtomicBool::new(true));
        let mut new = Box::new(CachePadded::new(Reservation { era, owned, next: first }));
        // Each turn but the last finds that another thread has added one.
        loop {
            new.next = first;
            let added = Box::into_raw(new);
            match self.first.compare_exchange(first, added, order::REGISTER_A, order::REGISTER_B) {
                // SAFETY: made above, and never freed.
                Ok(_) => return unsafe { &*added },
                Err(now) => {
                    first = now;
                    // SAFETY: made above, and not in the list.
                    new = unsafe { Box::from_raw(added) };
                }
            }
        }
    }
}

impl Drop for Owned {
    fn drop(&mut self) {
        self.0.owned.store(false, order::VACATE_A);
    }
}

// SAFETY: `next` points to a reservation, which any thread may look at and none changes but by
// atomics.
unsafe impl Send for Reservation {}
// SAFETY: as above.
unsafe impl Sync for Reservation {}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;
    use std::sync::Arc;
    use std::time::{Duration, Instant};

    #[test]
    fn a_writer_within_a_writer_pins_and_leaves_the_reservation_alone() {
        let domain = Arc::new(Domain::new());
        let outer = WriteGuard::enter(&domain);
        let inner = WriteGuard::enter(&domain);
        assert!(matches!(outer.protection, Protection::Reservation(_)));
        assert!(matches!(inner.protection, Protection::Pin(_)));
        drop((inner, outer));
        assert!(matches!(WriteGuard::enter(&domain).protection, Protection::Reservation(_)));
    }

    /// The installer may unlink a segment in the very era in which the writer came.
    #[test]
    fn a_segment_unlinked_in_the_era_of_a_writer_is_not_over_before_the_writer_leaves() {
        let domain = Arc::new(Domain::new());
        let writer = WriteGuard::enter(&domain);
        let Protection::Reservation(Active(reservation)) = &writer.protection else {
            panic!("the thread is not writing yet")
        };
        let unlinked = RetireEra(AtomicU64::new(reservation.era.load(Ordering::Relaxed)));
        assert!(!unlinked.is_over());
        drop(writer);
        // Writers of other tests leave too.
        let deadline = Instant::now() + Duration::from_secs(60);
        while !unlinked.is_over() {
            assert!(Instant::now() < deadline, "a reservation stays active");
            std::thread::yield_now();
        }
    }

    /// Other tests of this process have threads too, at one time far fewer than come here one after
    /// the other.
    #[test]
    fn a_thread_that_ends_leaves_its_reservation_to_the_next() {
        const THREADS: usize = 1_000;
        let domain = Arc::new(Domain::new());
        let before = REGISTRY.iter().count();
        for _ in 0..THREADS {
            // Joined: what a thread keeps for itself is dropped by then.
            let end = std::thread::scope(|scope| scope.spawn(|| drop(WriteGuard::enter(&domain))).join());
            end.expect("no panic");
        }
        let added = REGISTRY.iter().count() - before;
        assert!(added < THREADS / 2, "{added} reservations for {THREADS} threads");
    }
}
