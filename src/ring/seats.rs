//! Who is writing, and since when: the writers' side of R4.
//!
//! A pin of the epoch is a full fence, as dear as the claim itself. But a writer needs none, for
//! its claim is a read-modify-write of the ring's counter already: it says on its thread's *seat*
//! that it is there, by a plain store, and then claims. Who unlinks a segment adds zero to the same
//! counter, and who is to use the segment again looks at the seats. Of two read-modify-writes of
//! one counter, one is earlier, and the later sees what came before it. So either the writer sees
//! that the segment is gone, or it is seen. See *announce* in the ring's essay.

use super::order;
use crate::sync::epoch::{Domain, Guard};
use crate::sync::{AtomicBool, AtomicPtr, AtomicU64, Ordering, load_own, process_wide, thread_local};
use crossbeam_utils::CachePadded;
use std::marker::PhantomData;
use std::ptr;

process_wide! {
    /// The seats of all threads that write to any log.
    static SEATS: Seats = Seats {
        now: CachePadded::new(AtomicU64::new(1)),
        first: AtomicPtr::new(ptr::null_mut()),
    };
}

thread_local! {
    /// The thread's own.
    static SEAT: Taken = SEATS.take();
}

/// On an empty seat: later than every moment.
const EMPTY: u64 = u64::MAX;

/// A row of seats. It grows with the threads that write at the same time; a seat is taken again,
/// and never freed.
struct Seats {
    /// How many segments were unlinked: the moments by which it is told who came after.
    now: CachePadded<AtomicU64>,
    first: AtomicPtr<CachePadded<Seat>>,
}

/// Where a thread says that it is writing.
struct Seat {
    /// Not later than the moment at which its writer came, or [`EMPTY`].
    since: AtomicU64,
    /// Whether a thread has it.
    taken: AtomicBool,
    /// The one behind it in the row. Does not change once this one is in it.
    next: *const CachePadded<Seat>,
}

/// A seat that belongs to a thread until this is dropped.
struct Taken(&'static Seat);

/// Proof that the thread is writing: what a claim made after this can reach is not used again
/// before this is gone (R4).
pub(crate) struct Writing {
    place: Place,
    not_send: PhantomData<*mut ()>,
}

enum Place {
    Seat(Seated),
    /// A thread without a seat, or whose seat is not empty, pins the epoch as a reader does.
    Pin(Guard),
}

/// A seat that is not empty until this is dropped.
struct Seated(&'static Seat);

/// The moment at which a segment was last unlinked from a position. Relaxed: it travels with the
/// segment.
pub(super) struct Unlinked(AtomicU64);

impl Writing {
    /// Sits down on the thread's seat.
    ///
    /// Wait-free, and without a fence: what makes it known is the claim that follows. A thread's
    /// first looks for a seat that nobody has, or adds one.
    #[inline]
    pub(crate) fn enter(domain: &Domain) -> Self {
        match SEAT.try_with(|seat| seat.0) {
            Ok(seat) if load_own(&seat.since) == EMPTY => {
                seat.since.store(SEATS.now.load(Ordering::Relaxed), order::ENTER_A);
                Self::at(Place::Seat(Seated(seat)))
            }
            _ => Self::pinned(domain.pin()),
        }
    }

    /// A writer that has pinned the epoch.
    pub(crate) fn pinned(guard: Guard) -> Self {
        Self::at(Place::Pin(guard))
    }

    #[inline]
    fn at(place: Place) -> Self {
        Self { place, not_send: PhantomData }
    }

    /// Leaves the seat, and pins the epoch instead.
    pub(super) fn into_guard(self, domain: &Domain) -> Guard {
        match self.place {
            Place::Seat(seated) => {
                drop(seated);
                domain.pin()
            }
            Place::Pin(guard) => guard,
        }
    }
}

impl Drop for Seated {
    #[inline]
    fn drop(&mut self) {
        self.0.since.store(EMPTY, order::LEAVE_A);
    }
}

impl std::fmt::Debug for Writing {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Writing")
    }
}

impl Unlinked {
    /// Before every writer came: never.
    pub(super) fn never() -> Self {
        Self(AtomicU64::new(0))
    }

    /// Now: the segment was just unlinked, and its unlinking announced (announce:B).
    pub(super) fn mark(&self) {
        self.0.store(SEATS.now.fetch_add(1, Ordering::Relaxed), Ordering::Relaxed);
    }

    /// Whether all writers have left that can have reached the segment before, and all that they
    /// wrote is visible (leave:B).
    ///
    /// Wait-free: looks at each seat once.
    pub(super) fn is_over(&self) -> bool {
        let moment = self.0.load(Ordering::Relaxed);
        SEATS.iter().all(|seat| seat.since.load(order::LEAVE_B) > moment)
    }
}

impl Seats {
    fn iter(&self) -> impl Iterator<Item = &Seat> {
        // SAFETY: null, or a seat: it was whole when it came into the row (row:A), and is never
        // freed.
        let first = unsafe { self.first.load(order::ROW_B).as_ref() };
        // SAFETY: as above; the seats behind it came before it.
        std::iter::successors(first, |seat| unsafe { seat.next.as_ref() }).map(|seat| &**seat)
    }

    /// A seat for a thread: one that nobody has, or a new one.
    fn take(&'static self) -> Taken {
        let take = |seat: &&Seat| {
            seat.taken.compare_exchange(false, true, order::VACATE_B, Ordering::Relaxed).is_ok()
        };
        Taken(self.iter().find(take).unwrap_or_else(|| self.add()))
    }

    /// Adds a seat to the row, taken.
    fn add(&'static self) -> &'static Seat {
        let mut first = self.first.load(order::ROW_B);
        let (since, taken) = (AtomicU64::new(EMPTY), AtomicBool::new(true));
        let mut seat = Box::new(CachePadded::new(Seat { since, taken, next: first }));
        // Each turn but the last finds that another thread has added a seat.
        loop {
            seat.next = first;
            let added = Box::into_raw(seat);
            match self.first.compare_exchange(first, added, order::ROW_A, order::ROW_B) {
                // SAFETY: made above, and never freed.
                Ok(_) => return unsafe { &*added },
                Err(now) => {
                    first = now;
                    // SAFETY: made above, and not in the row.
                    seat = unsafe { Box::from_raw(added) };
                }
            }
        }
    }
}

impl Drop for Taken {
    fn drop(&mut self) {
        self.0.taken.store(false, order::VACATE_A);
    }
}

// SAFETY: what a seat points to is a seat, which any thread may look at and none changes but by
// atomics.
unsafe impl Send for Seat {}
// SAFETY: as above.
unsafe impl Sync for Seat {}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    /// Other tests of this process have threads too, at one time far fewer than come here one after
    /// the other.
    #[test]
    fn a_thread_that_ends_leaves_its_seat_to_the_next() {
        const THREADS: usize = 1_000;
        let domain = Domain::new();
        let before = SEATS.iter().count();
        for _ in 0..THREADS {
            // Joined: what a thread keeps for itself is dropped by then.
            let end = std::thread::scope(|scope| scope.spawn(|| drop(Writing::enter(&domain))).join());
            end.expect("no panic");
        }
        let added = SEATS.iter().count() - before;
        assert!(added < THREADS / 2, "{added} seats for {THREADS} threads");
    }
}
