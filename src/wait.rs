//! Waiting for a seq to become visible.
//!
//! A log's [`Gate`] is where threads and tasks sleep until `head` has reached the seq that they wait
//! for, and where an append looks whether anyone does.
//!
//! # State
//!
//! `sleepers` is a queue ordered by the seq waited for, then by arrival, behind a lock that an append
//! only ever *tries*. `wanted` is the first seq in it, or [`NOBODY`]. Only the holder of the lock stores
//! `wanted`, and before it lets go `wanted` is again what the queue says.
//!
//! # Protocol, by role
//!
//! **Publisher** ([`Gate::published`]): publish, light fence (A), load `wanted`; nobody: done, and this is all
//! that an append with nobody waiting pays. Else *look*.
//!
//! **Look** ([`Gate::look`]): full fence (B), read head, load `wanted`; not visible yet: done. Else try the
//! lock; taken: done, since its holder will look when it has let go. Else take the first few sleepers
//! (at most [`FAN_OUT`]) whose seq is visible out of the queue, let go, and wake them.
//!
//! **Waiter** ([`Waiter::poll`]): read head; visible: done. Else enter the queue under the lock, let go,
//! fence (C), read head again; visible: leave. Else look, and sleep.
//!
//! **Leaving** ([`Gate::leave`]), because the seq is visible, the wait timed out, or the future was dropped:
//! out of the queue under the lock, let go, look.
//!
//! So two kinds of events oblige to look: *having held the lock* and *having been woken* (whoever was woken
//! leaves, and whoever leaves has held the lock). That is the whole of the baton: an append wakes a few, each
//! of them wakes a few more, and if it does not want to any longer, its `Drop` does it in its place. An
//! append pays for [`FAN_OUT`] wake-ups at most, however many wait. Only those are woken whose seq is
//! visible: a waiter for a seq far ahead sleeps on, and no wake-up goes round in circles.
//!
//! Wake-ups are hints: a waiter that is woken reads head again.
//!
//! # Why no wake-up is lost
//!
//! | label | where | what | pairs with |
//! | --- | --- | --- | --- |
//! | A | `published` | light fence: the stamp's store, then the load of `wanted` | C |
//! | B | `look` | full fence: whatever came before (a publish, letting go of the lock), then head and `wanted` | B, C |
//! | C | `enter` | fence: the store of `wanted`, then head. Heavy if `wanted` was `NOBODY`, else full | A, B |
//!
//! Let a waiter W sleep: it has entered the queue for seq w and its check after C found head < w. Let P be
//! the publisher whose publish is the last that head ≥ w needs, "last" in the order of the fences A and B (all
//! full fences are in one total order). To show: someone takes W out of the queue.
//!
//! *Plain fences.* A and C are both full fences, so one comes first.
//!
//! 1. C before A. Then P's load of `wanted` sees W's store or a later one. As long as W is queued each of
//!    those is ≤ w, so P looks. Its fence B comes after the fences of all the other publishes
//!    that head ≥ w needs (P is the last), so it reads head ≥ w ≥ `wanted`, and goes for the lock.
//!    1. It gets the lock. W is the first in the queue or another visible one is: someone is taken out.
//!    2. It does not: some H holds the lock. When H has let go, it looks. If P's fence B comes before
//!       H's, H sees head ≥ w, and is where P was. If H's comes first, H let go before P tried, and it was
//!       not H whom P met. There are finitely many holders at any time, and the last of them looks unopposed.
//! 2. A before C. Then W's check sees P's publish. It sees the others' as well, their fences being earlier
//!    still. So the check found head ≥ w, and W did not sleep.
//!
//! Whoever was taken out of the queue in W's place is awake, reads its head, leaves and looks: case 1 with
//! the woken one instead of P. The queue before W is finite, and everyone who enters it later with a
//! visible seq finds it visible in its own check. So W's turn comes.
//!
//! *The light fence.* With `membarrier`, A is no fence of P's own; instead each C that is *heavy* counts as
//! a full fence of every thread at some moment while it lasts. Call that of P m. The cases are the same
//! with m for A:
//!
//! 3. P loads `wanted` after m and sees a queue that is not empty: it looks, with a full fence B. Case 1.
//! 4. P loads `NOBODY`, before m. Then its publish is before m too, and W's check, which comes after,
//!    sees it: case 2. But that is only one of the publishes needed: let Q be another one, which was not so early,
//!    loaded `wanted` ≤ w, and looked, but missed P's publish. A look that misses a store which m
//!    makes visible comes before m. So Q's publish, before its fence B, comes before m as well, and W's check
//!    sees both.
//! 5. W was not the first, and its C is a plain fence. The first, F, found `NOBODY` and runs a heavy C, under
//!    way perhaps. A publisher P that loads `NOBODY` and whose publish W's check missed is before F's m. F looks after
//!    its C in any case (going to sleep, or leaving), sees P's publish, and sees W's store too: W's full fence comes
//!    before W's check, which came before m. So F looks for W: case 1 with F for P.
//!
//! # What it does not do
//!
//! A task that was woken and then is neither polled nor dropped sits on the baton. The others are not lost: every
//! append, and every waiter that comes or goes, looks anew. But in a log where nothing happens any more they sleep
//! until that task moves, if *all* those are stuck that the last append has woken.
#![forbid(unsafe_code)]

use crate::sync::{AtomicU64, Mutex, MutexGuard, Ordering, asymmetric, fence, thread};
use crossbeam_utils::CachePadded;
use std::collections::BTreeMap;
use std::ops::Deref;
use std::sync::PoisonError;
use std::task::{Poll, Wake, Waker};
use std::time::Instant;

/// What `wanted` says while nobody sleeps. No seq is as high.
const NOBODY: u64 = u64::MAX;

/// The highest seq that can be waited for. A wait for more waits for this one.
const FARTHEST: u64 = NOBODY - 1;

/// How many sleepers one look wakes at most: what an append pays with any number of them, and how many
/// a woken one wakes in its turn. One in a model, so that passing the baton on matters.
pub(crate) const FAN_OUT: usize = if cfg!(loom) { 1 } else { 4 };

/// What can be waited on: something with a gate, whose head only grows.
pub(crate) trait Watched {
    /// Where its waiters sleep.
    fn gate(&self) -> &Gate;

    /// The highest seq below which nothing is unpublished.
    fn head(&self) -> u64;
}

/// Where waiters sleep. See the head of this module.
#[derive(Debug)]
pub(crate) struct Gate {
    /// The first seq that a sleeper waits for, or `NOBODY`. On a cache line of its own: every append reads it.
    wanted: CachePadded<AtomicU64>,
    sleepers: Mutex<Sleepers>,
}

#[derive(Debug, Default)]
struct Sleepers {
    queue: BTreeMap<Ticket, Waker>,
    arrivals: u64,
}

/// A sleeper's place in the queue: by what it waits for, then by arrival.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Ticket {
    seq: u64,
    arrival: u64,
}

impl Gate {
    pub(crate) fn new() -> Self {
        asymmetric::prepare();
        Self { wanted: CachePadded::new(AtomicU64::new(NOBODY)), sleepers: Mutex::new(Sleepers::default()) }
    }

    /// Tells the gate that something was published. `head` is asked only if somebody sleeps.
    #[inline]
    pub(crate) fn published(&self, head: impl Fn() -> u64) {
        if !cfg!(ringlog_fault = "wait_light_fence") {
            asymmetric::light(); // A
        }
        if self.wanted.load(Ordering::Relaxed) != NOBODY {
            self.look(&head);
        }
    }

    /// How many sleep.
    pub(crate) fn sleeping(&self) -> usize {
        self.lock().queue.len()
    }

    /// Wakes the first few sleepers whose seq is visible. Returns the head, as it is after a full fence.
    #[cold]
    fn look(&self, head: &dyn Fn() -> u64) -> u64 {
        loop {
            if !cfg!(ringlog_fault = "wait_look_fence") {
                fence(Ordering::SeqCst); // B
            }
            let head = head();
            if self.wanted.load(Ordering::Relaxed) > head {
                return head;
            }
            let Ok(mut sleepers) = self.sleepers.try_lock() else { return head };
            let ready = sleepers.take_ready(head);
            self.announce(&sleepers);
            drop(sleepers);
            // Whoever is woken will look. If nobody is, then we, who held the lock, must.
            if ready[0].is_some() || cfg!(ringlog_fault = "wait_hand_off") {
                ready.into_iter().flatten().for_each(Waker::wake);
                return head;
            }
        }
    }

    /// Queues up for `seq`, or renews the waker of who is queued already. Its caller looks next.
    fn enter(&self, ticket: &mut Option<Ticket>, seq: u64, waker: &Waker) {
        // Wakers run foreign code: they are cloned before the lock is taken and dropped after it.
        let waker = waker.clone();
        let mut sleepers = self.lock();
        let first = sleepers.queue.is_empty();
        let replaced = sleepers.enter(ticket, seq, waker);
        self.announce(&sleepers);
        drop(sleepers);
        drop(replaced);
        if first {
            asymmetric::heavy(); // C
        }
    }

    /// Leaves the queue, if queued, and passes on the wake-up, if woken.
    fn leave(&self, ticket: &mut Option<Ticket>, head: &dyn Fn() -> u64) {
        let Some(ticket) = ticket.take() else { return };
        let mut sleepers = self.lock();
        let waker = sleepers.queue.remove(&ticket);
        self.announce(&sleepers);
        drop(sleepers);
        if cfg!(ringlog_fault = "wait_baton") {
            return;
        }
        drop(waker);
        self.look(head);
    }

    /// Makes `wanted` say what the queue says. Its caller holds the lock.
    fn announce(&self, sleepers: &Sleepers) {
        let first = sleepers.queue.first_key_value().map_or(NOBODY, |(ticket, _)| ticket.seq);
        if self.wanted.load(Ordering::Relaxed) != first {
            self.wanted.store(first, Ordering::Relaxed);
        }
    }

    fn lock(&self) -> MutexGuard<'_, Sleepers> {
        self.sleepers.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Sleepers {
    /// Returns the waker that was there before, for the caller to drop.
    fn enter(&mut self, ticket: &mut Option<Ticket>, seq: u64, waker: Waker) -> Option<Waker> {
        if let Some(queued) = ticket
            && queued.seq == seq
            && let Some(known) = self.queue.get_mut(queued)
        {
            return Some(std::mem::replace(known, waker));
        }
        let abandoned = ticket.and_then(|old| self.queue.remove(&old));
        self.arrivals += 1;
        let new = Ticket { seq, arrival: self.arrivals };
        self.queue.insert(new, waker);
        *ticket = Some(new);
        abandoned
    }

    /// Takes out the first few whose seq is visible.
    fn take_ready(&mut self, head: u64) -> [Option<Waker>; FAN_OUT] {
        std::array::from_fn(|_| {
            let first = self.queue.first_entry()?;
            (first.key().seq <= head).then(|| first.remove())
        })
    }
}

/// One who waits, thread or task. Dropping it leaves nothing behind.
///
/// `P` points to what is watched: a reference, or an `Arc` for a waiter that outlives the caller.
#[derive(Debug)]
pub(crate) struct Waiter<P: Deref<Target: Watched>> {
    watched: P,
    ticket: Option<Ticket>,
}

impl<P: Deref<Target: Watched>> Waiter<P> {
    pub(crate) fn new(watched: P) -> Self {
        Self { watched, ticket: None }
    }

    pub(crate) fn watched(&self) -> &P {
        &self.watched
    }

    /// Ready with the head once it is at least `seq`; else `waker` is woken when it may be.
    pub(crate) fn poll(&mut self, seq: u64, waker: &Waker) -> Poll<u64> {
        let seq = seq.min(FARTHEST);
        let Self { watched, ticket } = self;
        let gate = watched.gate();
        let head = || watched.head();
        let mut reached = head();
        if reached < seq {
            gate.enter(ticket, seq, waker);
            if !cfg!(ringlog_fault = "wait_check_again") {
                reached = gate.look(&head);
            }
            if reached < seq {
                return Poll::Pending;
            }
        }
        gate.leave(ticket, &head);
        Poll::Ready(reached)
    }

    /// Blocks until the head is at least `seq`, and returns it; `None` at the deadline.
    pub(crate) fn block(&mut self, seq: u64, deadline: Option<Instant>) -> Option<u64> {
        let waker = current_waker();
        loop {
            if let Poll::Ready(head) = self.poll(seq, &waker) {
                return Some(head);
            }
            let Some(deadline) = deadline else {
                thread::park();
                continue;
            };
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                self.cancel();
                return None;
            }
            thread::park_timeout(left);
        }
    }

    /// Stops waiting.
    pub(crate) fn cancel(&mut self) {
        let Self { watched, ticket } = self;
        watched.gate().leave(ticket, &|| watched.head());
    }
}

impl<P: Deref<Target: Watched>> Drop for Waiter<P> {
    fn drop(&mut self) {
        self.cancel();
    }
}

/// Wakes a thread that parks.
struct Unpark(thread::Thread);

impl Wake for Unpark {
    fn wake(self: std::sync::Arc<Self>) {
        self.0.unpark();
    }

    fn wake_by_ref(self: &std::sync::Arc<Self>) {
        self.0.unpark();
    }
}

fn new_waker() -> Waker {
    Waker::from(std::sync::Arc::new(Unpark(thread::current())))
}

/// The waker of the current thread, kept from one wait to the next.
#[cfg(not(loom))]
fn current_waker() -> Waker {
    thread_local! {
        static WAKER: Waker = new_waker();
    }
    WAKER.try_with(Waker::clone).unwrap_or_else(|_| new_waker())
}

#[cfg(loom)]
fn current_waker() -> Waker {
    new_waker()
}
