//! Waiting for a seq to become visible.
//!
//! A log's [`WaitQueue`] is where threads and tasks sleep until `head` has reached the seq that
//! they wait for, and where an append looks whether there is anything to wake.
//!
//! # State
//!
//! `sleepers` is a queue ordered by the seq waited for, then by arrival, under a lock that an
//! append only ever *tries*. `min_seq` is the seq at which there is something to do: the first in
//! the queue. When the queue becomes empty it *lingers* for the next [`LINGER`] seqs: `min_seq`
//! then says, marked with [`LINGERING`], until which. After that it is *idle*: `min_seq` is
//! [`IDLE`]. `closed_at` is the last seq that was handed out when the log was closed, or [`OPEN`].
//! Only the holder of the lock stores `min_seq` and `closed_at`.
//!
//! # Protocol, by role
//!
//! **Publisher** ([`WaitQueue::published`]): publish, light fence (A), load `min_seq`. If it is
//! idle, return: this is all that an append pays for waiters where there are none. Else *notify*.
//!
//! **Notify** ([`WaitQueue::notify`]): full fence (B), load `min_seq`, read head. If there is
//! nothing to do yet, return. Else try the lock. If it is taken, return: its holder notifies after
//! the release. Else take the first few sleepers (at most [`FAN_OUT`]) whose seq is visible out of
//! the queue, release the lock, and wake them. If none could be woken, notify again.
//!
//! **Waiter** ([`Waiter::poll`], [`Waiter::block`]): read head, then `closed_at`. If the wait is
//! over, leave. Else enter the queue under the lock, and release it. If the queue was idle, heavy
//! fence (C). Notify, then read head and `closed_at` again; if the wait is over, leave. Else sleep.
//! A waiter that is woken starts anew: a wake-up is a hint.
//!
//! **Leaving** ([`WaitQueue::leave`]), when the wait is over, has timed out, or was dropped: take
//! the lock, remove the sleeper if it is still queued, release, notify.
//!
//! **Closing** ([`WaitQueue::close`]): under the lock, store the last seq handed out in `closed_at`
//! and take out all sleepers that wait for a later one. Release, notify, wake them.
//!
//! So two things oblige a thread to notify: *having held the lock*, unless it has woken a sleeper,
//! and *having been woken*, since a woken waiter leaves. A thread that releases the lock of an
//! *empty* queue need not notify: a waiter that enters later notifies by itself. That is the baton:
//! an append wakes a few, and each of them wakes a few more when it leaves, or when its wait is
//! dropped. An append pays for [`FAN_OUT`] wake-ups, however many wait, and never waits for the
//! lock. Only sleepers whose seq is visible are woken: a waiter for a seq far ahead sleeps on.
//!
//! # Why no wake-up is lost
//!
//! | label | where | what | pairs with |
//! | --- | --- | --- | --- |
//! | A | `published` | light fence: the store of the stamp, then the load of `min_seq` | C |
//! | B | `notify` | full fence: all that came before (a publish, a change of the queue), then the loads of `min_seq` and head | B |
//! | C | `enter`, if the queue was idle | heavy fence: the store of `min_seq`, then B | A |
//!
//! All B are in one total order. Let W be a waiter in the queue for seq w, and asleep: after its B
//! it read a head < w. To show: once all publishes that head ≥ w needs have been made, W is taken
//! out of the queue.
//!
//! **Every publish has a witness**: a B such that a thread whose B is this one or a later one sees
//! the publish.
//!
//! 1. The publisher found that the queue was not idle. Then it notifies, and the witness is its own
//!    B.
//! 2. The publisher found the queue idle. Some waiter F (perhaps W) ended that idle state: it
//!    stored `min_seq`, then ran C, then notifies. The witness is F's B. C acts as a full fence of
//!    the publisher at some moment m; both orders of m and the publisher's load of `min_seq`:
//!    1. The load came after m. Then it saw F's store or a later one, and not this idle state: a
//!       contradiction.
//!    2. The load came before m, and so did the publish, which precedes it. So the publish is
//!       visible when C ends, to F's B and to all later ones.
//!
//!    Where light and heavy fences are plain ones, A and C are themselves in the total order, and
//!    the same two cases hold with A for m.
//!
//! **The last witness looks for W.** Let X be the last witness of the publishes that head ≥ w
//! needs; a thread whose B is X or later reads head ≥ w. Both orders of X and W's B:
//!
//! 3. W's B is X or comes later. Then W read head ≥ w, and did not sleep: a contradiction.
//! 4. X comes later. Then the thread of X sees W's store of `min_seq` or a later one, and as long
//!    as W is queued all of these say ≤ w. It reads head ≥ w, and tries the lock.
//!    1. It gets the lock. W is the first in the queue, or a sleeper is whose seq is visible: at
//!       least one is taken out.
//!    2. It does not: some H holds the lock. After the release H notifies, or if it has woken a
//!       sleeper, that one does, having held the lock in its turn: in either case a B follows the
//!       release. If X comes before that B, the thread of that B stands where X stood: case 4. If X
//!       comes after it, H had released the lock before X tried it, so H is not the holder that X
//!       met: a contradiction. A thread that releases the lock of an empty queue does not notify.
//!       But W entered before X, and so before H got the lock; then the queue was empty because W
//!       had been taken out.
//!
//! A sleeper that is taken out in W's place is woken, leaves and notifies, with a B after X: case 4
//! once more. If it does not notify, the queue was empty after X, and W had been taken out. If its
//! waker panics, it may never run; then the thread that woke it notifies in its place, unless
//! another waker of the same few did not panic. The queue before W is finite, and a waiter that
//! enters it later with a visible seq leaves by itself. So W's turn comes.
//!
//! # Why no wait outlasts the close
//!
//! Let n be the last seq handed out, as the first close loads it. Each append that returned before
//! the close was called has a seq of at most n: its claim happens before that load.
//!
//! - A wait for a seq of at most n is never told that the log is closed: all writers that have such
//!   a seq are about to publish it, and wake the waiter as ever. So a follower hands out everything
//!   that was appended before the close first.
//! - A wait for a later seq ends. Let W enter the queue for w > n. The lock orders W's critical
//!   section and the closer's, both ways:
//!   1. W's comes first. Then the closer finds W in the queue, takes it out and wakes it, unless W
//!      was taken out before: then it has been woken anyway. W starts anew, and what the closer
//!      stored before is visible to a woken thread.
//!   2. The closer's comes first. Then its store of `closed_at` happens before W's section, and W's
//!      second look finds it: W leaves.
//!
//!   The look before W enters only saves the detour.
//! - The closer holds the lock, so a publisher may have failed to take it (case 4.2): it notifies.
//!
//! An append does not load `closed_at`: it is appended, published and read after a close as before
//! one. A wait for its seq is over when it is visible, since a look reads head first.
//!
//! # Foreign code
//!
//! A waker's `clone`, `wake` and `drop` run code of an executor. None of it runs under the lock;
//! that would stop every waiter if it blocked or came back here. `wake` and `drop` run last, when
//! all that this module owes has been done but for waking further sleepers, and a panic of theirs
//! ends here: [`contained`] catches it, after the panic hook has reported it. An append must return
//! its seq, and a waiter that leaves has nothing to do with the other's waker. Nor may the panic
//! keep others asleep: the rest of the few is woken all the same, and if none of them could be
//! woken, so that no thread has the baton, the thread notifies again. `clone` runs in a poll, for
//! the caller's own waker, before anything is changed: its panic unwinds to that caller.
//!
//! # What it costs
//!
//! A heavy fence interrupts every processor that runs this process: microseconds, tens of them in a
//! virtual machine. Were the queue idle whenever it is empty, a follower that keeps up would run
//! one for each event. So it lingers: a heavy fence comes at most once in [`LINGER`] appends, and
//! while there are followers, appends pay a plain full fence instead.
//!
//! Between an append and the waiter that it wakes, what counts besides the kernel's part is how
//! much code and memory is touched, for after a sleep little of it is in the nearest caches, and on
//! another processor some of it in none. So the first sleeper has its place in the queue itself,
//! beside the lock, and a thread is woken by its own handle.
//!
//! # What it does not do
//!
//! A task that was woken and then is neither polled nor dropped keeps the baton. The others are not
//! lost: every append, and every waiter that comes or goes, notifies. But in a log where nothing
//! happens any more they sleep until that task moves, if *all* those are stuck that the last append
//! has woken.
#![forbid(unsafe_code)]

use crate::foreign::contained;
use crate::sync::{AtomicU64, Mutex, Ordering, asymmetric, fence, thread};
use std::collections::BTreeMap;
use std::fmt;
use std::ops::Deref;
use std::task::{Poll, Waker};
use std::time::Instant;

/// Marks a `min_seq` that says until which seq the queue lingers. No seq is as high.
const LINGERING: u64 = 1 << 63;

/// `min_seq` when publishers need not notify.
const IDLE: u64 = u64::MAX;

/// `closed_at` of a log that is not closed. No seq is as high.
const OPEN: u64 = u64::MAX;

/// The highest seq that can be waited for. A wait for more waits for this one.
const FARTHEST: u64 = LINGERING - 1;

/// For how many seqs after the last sleeper has left the queue lingers. Few in a model, so that it
/// becomes idle.
const LINGER: u64 = if cfg!(loom) { 1 } else { 4096 };

/// How many sleepers one look wakes at most: what an append pays with any number of them, and how
/// many a woken one wakes in its turn. One in a model, so that passing the baton on matters.
pub(crate) const FAN_OUT: usize = if cfg!(loom) { 1 } else { 4 };

/// What can be waited on: something with a queue, whose head only grows.
pub(crate) trait Watched {
    /// Where its waiters sleep.
    fn wait_queue(&self) -> &WaitQueue;

    /// The highest seq below which nothing is unpublished.
    fn head(&self) -> u64;

    /// The highest seq handed out: nothing above it can be visible. Cheaper than `head`.
    fn last(&self) -> u64;
}

/// Where waiters sleep. See the head of this module.
pub(crate) struct WaitQueue {
    /// The first seq that a sleeper waits for; `LINGERING` and the seq until which the queue
    /// lingers; or `IDLE`.
    min_seq: AtomicU64,
    /// The length of the queue, for statistics.
    sleeping: AtomicU64,
    /// The last seq handed out when the log was closed, or `OPEN`.
    closed_at: AtomicU64,
    sleepers: Mutex<Sleepers>,
}

/// The queue.
#[derive(Default)]
struct Sleepers {
    /// The first of them, in the queue itself: most often there is one, which thus needs no memory.
    first: Option<(Ticket, Sleeper)>,
    /// All others. Empty if there is no first.
    rest: BTreeMap<Ticket, Sleeper>,
    arrivals: u64,
}

/// What is to be woken.
enum Sleeper {
    /// A thread that parks.
    Thread(thread::Thread),
    Task(Waker),
}

impl Sleeper {
    /// Wakes it. Returns whether that went well: a waker may panic.
    fn wake(self) -> bool {
        match self {
            Self::Thread(thread) => {
                thread.unpark();
                true
            }
            Self::Task(waker) => contained(|| waker.wake()).is_some(),
        }
    }
}

/// Drops a sleeper that is not woken: its waker's code may panic.
fn discard(sleeper: Option<Sleeper>) {
    if let Some(Sleeper::Task(waker)) = sleeper {
        let _ = contained(|| drop(waker));
    }
}

/// A sleeper's place in the queue: by what it waits for, then by arrival.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Ticket {
    seq: u64,
    arrival: u64,
}

/// How a wait ended, each with the head as it was then.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Ended {
    /// The seq is visible.
    Visible(u64),
    /// The log was closed before the seq was handed out.
    Closed(u64),
}

impl WaitQueue {
    pub(crate) fn new() -> Self {
        asymmetric::prepare();
        let [min_seq, sleeping, closed_at] = [IDLE, 0, OPEN].map(AtomicU64::new);
        Self { min_seq, sleeping, closed_at, sleepers: Mutex::new(Sleepers::default()) }
    }

    /// Wakes waiters for what was just published in `log`, if there are any.
    #[inline]
    pub(crate) fn published(&self, log: &impl Watched) {
        asymmetric::light(); // A
        if self.min_seq.load(Ordering::Relaxed) != IDLE {
            self.notify(log);
        }
    }

    /// How many sleep.
    pub(crate) fn sleeping(&self) -> u64 {
        self.sleeping.load(Ordering::Relaxed)
    }

    pub(crate) fn is_closed(&self) -> bool {
        self.closed_at.load(Ordering::Acquire) != OPEN
    }

    /// Ends all waits for seqs that are not handed out yet, now and from now on.
    pub(crate) fn close(&self, log: &impl Watched) {
        let mut sleepers = self.sleepers.lock();
        if self.closed_at.load(Ordering::Relaxed) == OPEN {
            self.closed_at.store(log.last(), Ordering::Release);
        }
        let ended = sleepers.take_beyond(self.closed_at.load(Ordering::Relaxed));
        self.announce(&sleepers, log);
        let is_empty = sleepers.first.is_none();
        drop(sleepers);
        if !is_empty {
            self.notify(log);
        }
        for sleeper in ended {
            sleeper.wake();
        }
    }

    /// How a wait for `seq` is over; if it is not, the head.
    fn look(&self, log: &impl Watched, seq: u64) -> Result<Ended, u64> {
        let head = log.head();
        if head >= seq {
            Ok(Ended::Visible(head))
        } else if seq > self.closed_at.load(Ordering::Acquire) {
            Ok(Ended::Closed(head))
        } else {
            Err(head)
        }
    }

    /// Wakes the first few sleepers whose seq is visible, and lets the queue become idle when it
    /// has lingered long enough.
    ///
    /// Not `#[cold]`: among code that is never used it would have a page of its own, which takes
    /// longer to load than this takes to run.
    #[inline(never)]
    fn notify(&self, log: &impl Watched) {
        loop {
            fence(Ordering::SeqCst); // B
            let min_seq = self.min_seq.load(Ordering::Relaxed);
            if min_seq & !LINGERING > log.last() {
                return;
            }
            let head = log.head();
            if min_seq > head && min_seq < LINGERING {
                return;
            }
            let Some(mut sleepers) = self.sleepers.try_lock() else { return };
            let ready = sleepers.take_ready(head);
            self.announce(&sleepers, log);
            drop(sleepers);
            // All of them, whatever one does. `any` would stop at the first.
            let woken = ready.into_iter().flatten().map(Sleeper::wake).filter(|&woken| woken).count();
            // A woken waiter will notify. If there is none, then this thread, which held the lock,
            // must.
            if woken > 0 {
                return;
            }
        }
    }

    /// Queues up for `seq`, or renews the sleeper of a ticket that is queued already. Returns the
    /// sleeper that it replaces. The caller notifies next.
    fn enter(
        &self,
        ticket: &mut Option<Ticket>,
        seq: u64,
        sleeper: Sleeper,
        log: &impl Watched,
    ) -> Option<Sleeper> {
        let mut sleepers = self.sleepers.lock();
        let replaced = sleepers.enter(ticket, seq, sleeper);
        let before = self.announce(&sleepers, log);
        drop(sleepers);
        if before == IDLE {
            asymmetric::heavy(); // C
        }
        replaced
    }

    /// Leaves the queue, if queued, and passes on the wake-up, if woken.
    fn leave(&self, ticket: &mut Option<Ticket>, log: &impl Watched) {
        let Some(ticket) = ticket.take() else { return };
        // While it is in the queue, `min_seq` is at most its seq: so one could tell without the
        // lock that it is out. But the thread that took it out relies on it to notify *after* that
        // thread has released the lock.
        let mut sleepers = self.sleepers.lock();
        let left = sleepers.remove(ticket);
        self.announce(&sleepers, log);
        let is_empty = sleepers.first.is_none();
        drop(sleepers);
        if !is_empty {
            self.notify(log);
        }
        discard(left);
    }

    /// Makes `min_seq` say what the queue says, and returns what it said before. The caller holds
    /// the lock.
    fn announce(&self, sleepers: &Sleepers, log: &impl Watched) -> u64 {
        self.sleeping.store(sleepers.count(), Ordering::Relaxed);
        let before = self.min_seq.load(Ordering::Relaxed);
        let now = match &sleepers.first {
            Some((first, _)) => first.seq,
            None if before < LINGERING => LINGERING | (log.last() + LINGER),
            None if before & !LINGERING <= log.last() => IDLE,
            None => before,
        };
        if now != before {
            self.min_seq.store(now, Ordering::Relaxed);
        }
        before
    }
}

/// Without the queue: its lock must not be held while a formatter of the caller's runs.
impl fmt::Debug for WaitQueue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("WaitQueue")
            .field("sleeping", &self.sleeping())
            .field("is_closed", &self.is_closed())
            .finish_non_exhaustive()
    }
}

impl Sleepers {
    fn count(&self) -> u64 {
        u64::from(self.first.is_some()) + self.rest.len() as u64
    }

    /// Returns the sleeper that was there before, for the caller to drop.
    fn enter(&mut self, ticket: &mut Option<Ticket>, seq: u64, sleeper: Sleeper) -> Option<Sleeper> {
        if let Some(known) = ticket.and_then(|queued| self.find(queued)) {
            return Some(std::mem::replace(known, sleeper));
        }
        self.arrivals += 1;
        let new = Ticket { seq, arrival: self.arrivals };
        self.insert(new, sleeper);
        *ticket = Some(new);
        None
    }

    fn find(&mut self, ticket: Ticket) -> Option<&mut Sleeper> {
        match &mut self.first {
            Some((first, sleeper)) if *first == ticket => Some(sleeper),
            _ => self.rest.get_mut(&ticket),
        }
    }

    fn insert(&mut self, ticket: Ticket, sleeper: Sleeper) {
        let later = match &self.first {
            Some((first, _)) if *first < ticket => Some((ticket, sleeper)),
            _ => self.first.replace((ticket, sleeper)),
        };
        self.rest.extend(later);
    }

    fn remove(&mut self, ticket: Ticket) -> Option<Sleeper> {
        match &self.first {
            Some((first, _)) if *first == ticket => self.pop(),
            _ => self.rest.remove(&ticket),
        }
    }

    fn pop(&mut self) -> Option<Sleeper> {
        let (_, sleeper) = self.first.take()?;
        if !self.rest.is_empty() {
            self.move_up();
        }
        Some(sleeper)
    }

    #[cold]
    fn move_up(&mut self) {
        self.first = self.rest.pop_first();
    }

    /// Takes out the first few whose seq is visible.
    fn take_ready(&mut self, head: u64) -> [Option<Sleeper>; FAN_OUT] {
        std::array::from_fn(|_| {
            let (first, _) = self.first.as_ref()?;
            if first.seq <= head { self.pop() } else { None }
        })
    }

    /// Takes out all that wait for a later seq.
    fn take_beyond(&mut self, seq: u64) -> Vec<Sleeper> {
        let rest = self.rest.split_off(&Ticket { seq: seq + 1, arrival: 0 });
        let first = self.first.take_if(|(first, _)| first.seq > seq);
        first.map(|(_, sleeper)| sleeper).into_iter().chain(rest.into_values()).collect()
    }
}

/// A thread or task that waits for one seq at a time. Dropping it leaves nothing behind.
///
/// `P` points to what is watched: a reference, or an `Arc` for a waiter that outlives the caller.
#[derive(Debug)]
pub(crate) struct Waiter<P: Deref<Target: Watched + Sized>> {
    watched: P,
    ticket: Option<Ticket>,
}

impl<P: Deref<Target: Watched + Sized>> Waiter<P> {
    pub(crate) fn new(watched: P) -> Self {
        Self { watched, ticket: None }
    }

    pub(crate) fn watched(&self) -> &P {
        &self.watched
    }

    /// Ready once the wait for `seq` is over; else `waker` is woken when it may be.
    ///
    /// A wait for another seq begins with [`cancel`](Self::cancel), unless the last one was over.
    pub(crate) fn poll(&mut self, seq: u64, waker: &Waker) -> Poll<Ended> {
        let seq = seq.min(FARTHEST);
        match self.look(seq) {
            Ok(ended) => {
                self.cancel();
                Poll::Ready(ended)
            }
            Err(_) => self.sleep(seq, Sleeper::Task(waker.clone())),
        }
    }

    /// Blocks until the wait for `seq` is over, or until the deadline: then the head. Only looks if
    /// that is past.
    pub(crate) fn block(&mut self, seq: u64, deadline: Option<Instant>) -> Result<Ended, u64> {
        let seq = seq.min(FARTHEST);
        loop {
            if let Ok(ended) = self.look(seq) {
                self.cancel();
                return Ok(ended);
            }
            let left = deadline.map(|deadline| deadline.saturating_duration_since(Instant::now()));
            if left.is_some_and(|left| left.is_zero()) {
                // Leave first: what comes up to that moment is still found.
                self.cancel();
                return self.look(seq);
            }
            if let Poll::Ready(ended) = self.sleep(seq, Sleeper::Thread(thread::current())) {
                return Ok(ended);
            }
            match left {
                None => thread::park(),
                Some(left) => thread::park_timeout(left),
            }
        }
    }

    fn look(&self, seq: u64) -> Result<Ended, u64> {
        let log = &*self.watched;
        log.wait_queue().look(log, seq)
    }

    /// Queues up, and looks once more. If this is pending, the caller may sleep.
    fn sleep(&mut self, seq: u64, sleeper: Sleeper) -> Poll<Ended> {
        debug_assert!(self.ticket.is_none_or(|ticket| ticket.seq == seq), "one wait at a time");
        let log = &*self.watched;
        let queue = log.wait_queue();
        let replaced = queue.enter(&mut self.ticket, seq, sleeper, log);
        queue.notify(log);
        discard(replaced);
        match self.look(seq) {
            Ok(ended) => {
                self.cancel();
                Poll::Ready(ended)
            }
            Err(_) => Poll::Pending,
        }
    }

    /// Stops waiting.
    pub(crate) fn cancel(&mut self) {
        let log = &*self.watched;
        log.wait_queue().leave(&mut self.ticket, log);
    }
}

impl<P: Deref<Target: Watched + Sized>> Drop for Waiter<P> {
    fn drop(&mut self) {
        self.cancel();
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;
    use crate::sync::Arc;
    use std::task::Wake;

    /// A log of which everything is visible up to `head`.
    struct Log {
        queue: WaitQueue,
        head: AtomicU64,
    }

    impl Watched for Log {
        fn wait_queue(&self) -> &WaitQueue {
            &self.queue
        }

        fn head(&self) -> u64 {
            self.head.load(Ordering::Acquire)
        }

        fn last(&self) -> u64 {
            self.head()
        }
    }

    impl Log {
        fn new() -> Arc<Self> {
            Arc::new(Self { queue: WaitQueue::new(), head: AtomicU64::new(0) })
        }

        fn publish(&self, seqs: u64) {
            for _ in 0..seqs {
                self.head.fetch_add(1, Ordering::Release);
                self.queue.published(self);
            }
        }

        fn min_seq(&self) -> u64 {
            self.queue.min_seq.load(Ordering::Relaxed)
        }
    }

    const VISIBLE: fn(u64) -> Poll<Ended> = |head| Poll::Ready(Ended::Visible(head));

    #[test]
    fn the_queue_says_the_first_seq_then_lingers_then_is_idle() {
        let log = Log::new();
        assert_eq!(log.min_seq(), IDLE);
        let [mut late, mut soon] = [(); 2].map(|()| Waiter::new(&*log));
        assert!(late.poll(9, Waker::noop()).is_pending());
        assert_eq!(log.min_seq(), 9);
        assert!(soon.poll(3, Waker::noop()).is_pending());
        assert_eq!(log.min_seq(), 3);
        log.publish(3);
        assert_eq!((log.min_seq(), log.queue.sleeping()), (9, 1));
        drop(late);
        assert_eq!(log.min_seq(), LINGERING | (3 + LINGER));
        log.publish(LINGER - 1);
        assert_eq!(log.min_seq(), LINGERING | (3 + LINGER));
        log.publish(1);
        assert_eq!(log.min_seq(), IDLE, "no waiter came");
    }

    #[test]
    fn a_waiter_that_comes_while_the_queue_lingers_keeps_it_awake() {
        let log = Log::new();
        for round in 1..5 {
            let mut waiter = Waiter::new(&*log);
            assert!(waiter.poll(log.head() + 1, Waker::noop()).is_pending());
            log.publish(LINGER);
            assert!(log.min_seq() > LINGERING && log.min_seq() < IDLE, "round {round}");
            drop(waiter);
        }
    }

    #[test]
    fn a_waiter_that_is_polled_again_keeps_its_place() {
        let log = Log::new();
        let [mut first, mut second] = [(); 2].map(|()| Waiter::new(&*log));
        assert!(first.poll(5, Waker::noop()).is_pending());
        assert!(second.poll(5, Waker::noop()).is_pending());
        let place = first.ticket;
        assert!(first.poll(5, Waker::noop()).is_pending());
        assert_eq!((first.ticket, log.queue.sleeping()), (place, 2));
        log.publish(5);
        assert_eq!(log.queue.sleeping(), 0);
        assert_eq!([first.poll(5, Waker::noop()), second.poll(5, Waker::noop())], [VISIBLE(5); 2]);
    }

    #[test]
    fn a_waiter_that_is_polled_again_replaces_its_own_waker_and_no_other() {
        struct Count(AtomicU64);
        impl Wake for Count {
            fn wake(self: std::sync::Arc<Self>) {
                self.0.fetch_add(1, Ordering::Relaxed);
            }
        }
        let log = Log::new();
        let counts = [(); 3].map(|()| Arc::new(Count(AtomicU64::new(0))));
        let [first, before, after] = counts.each_ref().map(|count| Waker::from(Arc::clone(count)));
        let [mut one, mut other] = [(); 2].map(|()| Waiter::new(&*log));
        assert!(one.poll(3, &first).is_pending());
        assert!(other.poll(3, &before).is_pending());
        assert!(other.poll(3, &after).is_pending());
        log.publish(3);
        assert_eq!(counts.map(|count| count.0.load(Ordering::Relaxed)), [1, 0, 1]);
    }

    #[test]
    fn a_wait_for_more_than_any_seq_waits_for_the_farthest() {
        let log = Log::new();
        let mut waiter = Waiter::new(&*log);
        for _ in 0..2 {
            assert_eq!(waiter.poll(u64::MAX, Waker::noop()), Poll::Pending);
            assert_eq!((log.min_seq(), log.queue.sleeping()), (FARTHEST, 1));
        }
        waiter.cancel();
        assert_eq!(log.queue.sleeping(), 0);
    }

    #[test]
    fn sleepers_are_woken_in_the_order_of_their_seqs() {
        struct Named(u64, Arc<std::sync::Mutex<Vec<u64>>>);
        impl Wake for Named {
            fn wake(self: std::sync::Arc<Self>) {
                self.1.lock().expect("no panic").push(self.0);
            }
        }
        let (log, woken) = (Log::new(), Arc::new(std::sync::Mutex::new(Vec::new())));
        let mut waiters: Vec<_> = [5, 3, 9, 1, 3, 7]
            .into_iter()
            .enumerate()
            .map(|(place, seq)| {
                let mut waiter = Waiter::new(&*log);
                let name = seq * 10 + place as u64;
                let waker = Waker::from(std::sync::Arc::new(Named(name, Arc::clone(&woken))));
                assert!(waiter.poll(seq, &waker).is_pending());
                waiter
            })
            .collect();
        assert_eq!((log.min_seq(), log.queue.sleeping()), (1, 6));
        drop(waiters.remove(3));
        assert_eq!((log.min_seq(), log.queue.sleeping()), (3, 5), "the first one left");
        drop(waiters.remove(2));
        assert_eq!((log.min_seq(), log.queue.sleeping()), (3, 4), "one from the middle left");
        log.publish(9);
        assert_eq!(*woken.lock().expect("no panic"), [31, 34, 50, 75]);
        assert_eq!(log.queue.sleeping(), 0);
    }

    /// It does not even end the idle state, which would cost this thread a heavy fence and the
    /// appends that follow a full one each.
    #[test]
    fn a_wait_whose_time_is_up_only_looks() {
        let log = Log::new();
        let mut waiter = Waiter::new(&*log);
        assert_eq!(waiter.block(1, Some(Instant::now())), Err(0));
        assert_eq!((log.min_seq(), waiter.ticket), (IDLE, None));
        log.publish(2);
        assert_eq!(waiter.block(1, Some(Instant::now())), Ok(Ended::Visible(2)));
        log.queue.close(&*log);
        let lingering = log.min_seq();
        assert_eq!(waiter.block(3, Some(Instant::now())), Ok(Ended::Closed(2)));
        assert_eq!((log.min_seq(), waiter.ticket), (lingering, None));
    }

    /// What is taken out at the close, in every arrangement of the first sleeper and the rest.
    #[test]
    fn a_close_takes_out_those_that_wait_for_a_later_seq_and_no_others() {
        let at = |seq, arrival| (Ticket { seq, arrival }, Sleeper::Task(Waker::noop().clone()));
        for seqs in [&[][..], &[3], &[4], &[3, 4], &[4, 5], &[2, 3], &[1, 3, 3, 4, 4, 9], &[4, 4, 9, 8]] {
            let mut sleepers = Sleepers::default();
            for (&seq, arrival) in seqs.iter().zip(1..) {
                let (ticket, sleeper) = at(seq, arrival);
                sleepers.insert(ticket, sleeper);
            }
            let ended = sleepers.take_beyond(3);
            assert_eq!(ended.len(), seqs.iter().filter(|&&seq| seq > 3).count(), "{seqs:?}");
            assert_eq!(sleepers.count() as usize + ended.len(), seqs.len(), "{seqs:?}");
            assert!(sleepers.first.as_ref().is_none_or(|(first, _)| first.seq <= 3), "{seqs:?}");
            assert!(sleepers.rest.keys().all(|ticket| ticket.seq <= 3), "{seqs:?}");
        }
    }

    #[test]
    fn a_close_that_leaves_sleepers_behind_says_their_first_seq() {
        /// 3 is handed out, and not published yet.
        struct HandedOut<'a>(&'a Log);
        impl Watched for HandedOut<'_> {
            fn wait_queue(&self) -> &WaitQueue {
                &self.0.queue
            }
            fn head(&self) -> u64 {
                self.0.head()
            }
            fn last(&self) -> u64 {
                3
            }
        }

        let log = Log::new();
        let [mut soon, mut late] = [(); 2].map(|()| Waiter::new(&*log));
        assert!(late.poll(9, Waker::noop()).is_pending());
        log.head.store(2, Ordering::Release);
        assert!(soon.poll(3, Waker::noop()).is_pending());
        log.queue.close(&HandedOut(&log));
        assert_eq!((log.min_seq(), log.queue.sleeping()), (3, 1));
        assert_eq!(late.poll(9, Waker::noop()), Poll::Ready(Ended::Closed(2)));
        assert!(soon.poll(3, Waker::noop()).is_pending());
        log.publish(1);
        assert_eq!(soon.poll(3, Waker::noop()), VISIBLE(3));
    }

    /// Wakers run code of users: it may come back to the queue.
    #[test]
    fn a_waker_may_use_the_queue() {
        struct Meddler(Arc<Log>);
        impl Wake for Meddler {
            fn wake(self: std::sync::Arc<Self>) {
                assert!(Waiter::new(&*self.0).poll(2, Waker::noop()).is_pending());
                self.0.publish(1);
            }
        }
        let log = Log::new();
        let mut waiter = Waiter::new(&*log);
        let meddler = Waker::from(std::sync::Arc::new(Meddler(Arc::clone(&log))));
        assert!(waiter.poll(1, &meddler).is_pending());
        drop(meddler);
        log.publish(1);
        assert_eq!(waiter.poll(1, Waker::noop()), VISIBLE(2));
        assert_eq!(log.queue.sleeping(), 0);
        drop(waiter);
        assert_eq!(Arc::strong_count(&log), 1);
    }

    /// The litmus test of fence C, which loom cannot see: there every fence is a full one, and B
    /// follows.
    ///
    /// A publisher whose stores go to lines that its processor does not hold, and a waiter that
    /// ends an idle state. Without C the stamp may still be in the publisher's store buffer when
    /// the waiter looks the second time, and the publisher's load may have found the queue idle.
    #[cfg(target_os = "linux")]
    #[test]
    fn a_waiter_that_ends_an_idle_state_misses_no_publish() {
        use crate::sync::asymmetric::tests::run_on;
        use crossbeam_utils::CachePadded;
        use std::sync::atomic::AtomicUsize;
        use std::time::Duration;

        const ROUNDS: u64 = 400_000;
        const END: u64 = u64::MAX;
        /// As many lines as no processor keeps near.
        const LINES: usize = 1 << 16;

        struct Cold {
            queue: WaitQueue,
            stamps: Vec<CachePadded<AtomicU64>>,
            /// The seq of this round: the only one that is not published.
            round: CachePadded<AtomicU64>,
            done: CachePadded<AtomicU64>,
        }
        impl Cold {
            fn stamp(&self, seq: u64) -> &AtomicU64 {
                // Far from the line before, where no prefetch expects it.
                &self.stamps[(seq * 7_919) as usize % LINES]
            }
        }
        impl Watched for Cold {
            fn wait_queue(&self) -> &WaitQueue {
                &self.queue
            }
            fn head(&self) -> u64 {
                let seq = self.round.load(Ordering::Relaxed);
                if self.stamp(seq).load(Ordering::Acquire) == seq { seq } else { seq - 1 }
            }
            fn last(&self) -> u64 {
                self.round.load(Ordering::Relaxed)
            }
        }
        struct Woken(AtomicUsize);
        impl Wake for Woken {
            fn wake(self: std::sync::Arc<Self>) {
                self.0.fetch_add(1, Ordering::Relaxed);
            }
        }

        let [round, done] = [0, 0].map(|start| CachePadded::new(AtomicU64::new(start)));
        let stamps = (0..LINES).map(|_| CachePadded::new(AtomicU64::new(0))).collect();
        let log = Cold { queue: WaitQueue::new(), stamps, round, done };
        // Where both threads share a processor, a round takes long, and shows nothing.
        let enough = Instant::now() + Duration::from_secs(2);
        let lost = std::thread::scope(|scope| {
            scope.spawn(|| {
                run_on(0);
                for seq in 1.. {
                    while log.round.load(Ordering::Acquire) < seq {
                        std::hint::spin_loop();
                    }
                    if log.round.load(Ordering::Relaxed) == END {
                        break;
                    }
                    log.stamp(seq).store(seq, Ordering::Release);
                    log.queue.published(&log);
                    log.done.store(seq, Ordering::Release);
                }
            });
            let waiter = scope.spawn(|| {
                run_on(1);
                let lost = (1..=ROUNDS).take_while(|_| Instant::now() < enough).find(|&seq| {
                    let woken = Arc::new(Woken(AtomicUsize::new(0)));
                    let waker = Waker::from(Arc::clone(&woken));
                    let mut waiter = Waiter::new(&log);
                    log.round.store(seq, Ordering::Release);
                    // The publisher needs a moment, now shorter, now longer.
                    (0..seq % 64).for_each(|_| std::hint::spin_loop());
                    let pending = waiter.poll(seq, &waker).is_pending();
                    while log.done.load(Ordering::Acquire) != seq {
                        std::hint::spin_loop();
                    }
                    let lost = pending && woken.0.load(Ordering::Relaxed) == 0;
                    waiter.cancel();
                    // Idle again at once, without the seqs for which it would linger.
                    log.queue.min_seq.store(IDLE, Ordering::Relaxed);
                    lost
                });
                log.round.store(END, Ordering::Release);
                lost
            });
            waiter.join().expect("no panic")
        });
        assert_eq!(lost, None, "a round in which a waiter sleeps for what is published");
    }
}
