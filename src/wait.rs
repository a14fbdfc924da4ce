//! Waiting for a seq to become visible.
//!
//! A log's [`Gate`] is where threads and tasks sleep until `head` has reached the seq that they wait
//! for, and where an append looks whether anyone does.
//!
//! # State
//!
//! `sleepers` is a queue ordered by the seq waited for, then by arrival, behind a lock that an append
//! only ever *tries*. `wanted` is the seq at which there is something to do: the first in the queue. With nobody in
//! the queue the gate *lingers* for the next [`LINGER`] seqs, `wanted` then saying (marked as such) until which, and
//! after that it *rests*: `wanted` is [`AT_REST`]. Only the holder of the lock stores `wanted`.
//!
//! # Protocol, by role
//!
//! **Publisher** ([`Gate::published`]): publish, light fence (A), load `wanted`; at rest: done, and this is all
//! that an append pays for waiters where there are none. Else *look*.
//!
//! **Look** ([`Gate::look`]): full fence (B), load `wanted`, read head; nothing to do yet: done. Else try the
//! lock; taken: done, since its holder sees to it when it has let go. Else take the first few sleepers
//! (at most [`FAN_OUT`]) whose seq is visible out of the queue, let go, and wake them; if there are none, look again.
//! Under the lock it leaves a note of the head: `seen`, the highest of all such.
//!
//! A publisher does not read head if somebody waits for what it has published, or for something before: it *guesses* that head is the
//! last of its own. Under the lock `seen` says whether all before its own is known to be visible. If not, it lets go, and looks again
//! without guessing.
//!
//! **Waiter** ([`Waiter::poll`]): read head; visible: done. Else enter the queue under the lock, note the head, and let go. If the
//! gate was at rest, heavy fence (C). Look, then read head again; visible: leave. Else sleep.
//!
//! **Woken** ([`Gate::taken_out`]): take the lock. No longer in the queue: the seq is visible, since nobody else is taken out,
//! and the head is at least `seen`; let go, look. Still in it: let go, and go on as a waiter that comes.
//!
//! **Leaving** ([`Gate::leave`]), because the seq is visible, the wait timed out, or the future was dropped:
//! take the lock, out of the queue if still in it, let go, look.
//!
//! So two things oblige to look: *having held the lock*, unless one has woken somebody, and *having been woken*, for whoever
//! was woken leaves. Who leaves and lets go of an *empty queue* need not look, for there is nobody to look for: whoever enters
//! later looks for itself. That is the whole of the baton: an append wakes a few, each of them wakes a few more, and if it does
//! not want to any longer, its `Drop` does it in its place. An append pays for [`FAN_OUT`] wake-ups at most, however many
//! wait, and never waits for the lock. Only those are woken whose seq is visible: a waiter for a seq far ahead sleeps
//! on, and no wake-up goes round in circles.
//!
//! Wake-ups are hints: a waiter that is woken finds out under the lock whether it was meant.
//!
//! # Why no wake-up is lost
//!
//! | label | where | what | pairs with |
//! | --- | --- | --- | --- |
//! | A | `published` | light fence: the stamp's store, then the load of `wanted` | C |
//! | B | `look` | full fence: whatever came before (a publish, a change of the queue), then `wanted` and head | B |
//! | C | `enter`, if the gate was at rest | heavy fence: the store of `wanted`, then B | A |
//!
//! All B are in one total order. Let W be a waiter in the queue for seq w, and asleep: after its B it read a head < w. To
//! show: once all publishes that head ≥ w needs have been made, someone takes W out of the queue.
//!
//! **Every publish has a witness**, a B such that whoever's B is this one or a later one sees the publish:
//!
//! 1. The publisher found that the gate was not at rest. Then it looks, and the witness is its own B.
//! 2. It found the gate at rest. That rest was ended by some waiter F (perhaps W), who set `wanted`, then ran C, then
//!    looks. The witness is F's B. For A against C, both orders: C acts as a full fence of the publisher at some moment m.
//!    1. The publisher's load of `wanted` came after m. Then it saw F's store or a later one, and not this rest: a contradiction.
//!    2. It came before m, and so did the publish, which stands before it. So the publish is visible when C ends, to F's B
//!       and all later ones.
//!
//!    Where light and heavy fences are plain ones, A and C are themselves in the total order, and the same two cases hold with
//!    A for m.
//!
//! **The last witness looks for W.** Let X be the last witness of the publishes that head ≥ w needs; everybody whose B is X or
//! later reads head ≥ w. So X and W's B, in both orders:
//!
//! 3. W's B is X or comes later. Then W read head ≥ w, and did not sleep: a contradiction.
//! 4. X comes later. Then X's look sees W's store of `wanted` or a later one, and as long as W is queued all of these say ≤ w. It
//!    reads head ≥ w, and tries the lock.
//!    1. It gets the lock. W is the first in the queue, or another is whose seq is visible: someone is taken out.
//!       If X has guessed: too high, then `seen` does not bear it out, and X looks again and reads head. Too low, for others have published more:
//!       X guesses only what is not below `wanted`, so that someone is taken out all the same; or the queue has changed
//!       meanwhile, nobody is, and X looks again. Looking again is a later B: case 4 once more.
//!    2. It does not: some H holds the lock. When H has let go, it looks, or if it has taken someone out that one does,
//!       having held the lock in its turn: in either case a B follows that comes after H let go. If X comes before that
//!       B, whoever looks there stands where X stood: case 4. If X comes after it, H had let go before X tried the
//!       lock, and it was not H whom X met. One who let go of an empty queue does not look. But W entered before X, and so
//!       before H got the lock; then the queue was empty because someone had taken W out.
//!
//! Whoever is taken out in W's place is woken, leaves and looks, with a B after X: case 4 once more. If it does not look, the
//! queue was empty after X, and W had been taken out. The queue before W is finite,
//! and whoever enters it later with a visible seq finds out by itself. So W's turn comes.
//!
//! # What it costs
//!
//! A heavy fence interrupts every processor that runs this process: microseconds, tens of them in a virtual machine. Were the gate
//! to rest whenever the queue is empty, a follower that keeps up would run one for each event. So it lingers: a heavy
//! fence comes at most once in [`LINGER`] appends, and while there are followers, appends pay a plain full fence instead.
//!
//! Between an append and the waiter that it wakes, what counts besides the kernel's part is how much code and memory is
//! touched, for after a sleep little of it is in the nearest caches, and on another processor some of it in none. So the
//! first sleeper has its place in the gate itself, beside the lock, and a thread is woken by its own handle. Neither the publisher, if
//! it guesses right, nor whoever is woken asks for the head: an epoch, a memo and a segment would come with it.
//!
//! # What it does not do
//!
//! A task that was woken and then is neither polled nor dropped sits on the baton. The others are not lost: every
//! append, and every waiter that comes or goes, looks anew. But in a log where nothing happens any more they sleep
//! until that task moves, if *all* those are stuck that the last append has woken.
#![forbid(unsafe_code)]

use crate::sync::{AtomicU64, Mutex, MutexGuard, Ordering, asymmetric, fence, thread};
use std::collections::BTreeMap;
use std::ops::{Deref, Range};
use std::task::{Poll, Waker};
use std::time::Instant;

/// Marks a `wanted` that says until which seq the gate lingers. No seq is as high.
const LINGERING: u64 = 1 << 63;

/// What `wanted` says when publishers need not look.
const AT_REST: u64 = u64::MAX;

/// The highest seq that can be waited for. A wait for more waits for this one.
const FARTHEST: u64 = LINGERING - 1;

/// For how many seqs after the last sleeper has left the gate lingers. Few in a model, so that it comes to rest.
const LINGER: u64 = if cfg!(loom) { 1 } else { 4096 };

/// How many sleepers one look wakes at most: what an append pays with any number of them, and how many
/// a woken one wakes in its turn. One in a model, so that passing the baton on matters.
pub(crate) const FAN_OUT: usize = if cfg!(loom) { 1 } else { 4 };

/// What a caller of `look` has published that has published nothing.
const NOTHING: Range<u64> = 0..0;

/// What can be waited on: something with a gate, whose head only grows.
pub(crate) trait Watched {
    /// Where its waiters sleep.
    fn gate(&self) -> &Gate;

    /// The highest seq below which nothing is unpublished.
    fn head(&self) -> u64;

    /// The highest seq handed out: nothing above it can be visible. Cheaper than `head`.
    fn last(&self) -> u64;
}

/// Where waiters sleep. See the head of this module.
#[derive(Debug)]
pub(crate) struct Gate {
    /// The first seq that a sleeper waits for; `LINGERING` and the seq until which the gate lingers; or `AT_REST`.
    wanted: AtomicU64,
    /// The length of the queue, for those who count.
    sleeping: AtomicU64,
    sleepers: Mutex<Sleepers>,
}

/// The queue.
#[derive(Debug, Default)]
struct Sleepers {
    /// The first of them, in the gate itself: most often there is one, who thus needs no memory.
    first: Option<(Ticket, Sleeper)>,
    /// All others. Empty if there is no first.
    rest: BTreeMap<Ticket, Sleeper>,
    arrivals: u64,
    /// The highest head that anyone has found who then had the lock.
    seen: u64,
}

/// Who is to be woken.
#[derive(Debug)]
enum Sleeper {
    /// One that parks.
    Thread(thread::Thread),
    Task(Waker),
}

impl Sleeper {
    fn wake(self) {
        match self {
            Self::Thread(thread) => thread.unpark(),
            Self::Task(waker) => waker.wake(),
        }
    }
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
        let [wanted, sleeping] = [AT_REST, 0].map(AtomicU64::new);
        Self { wanted, sleeping, sleepers: Mutex::new(Sleepers::default()) }
    }

    /// Tells the gate that these seqs were published in `log`.
    #[inline]
    pub(crate) fn published(&self, log: &impl Watched, own: Range<u64>) {
        if cfg!(ringlog_gate = "none") {
            return;
        }
        if !cfg!(ringlog_fault = "wait_light_fence") {
            asymmetric::light(); // A
        }
        if self.wanted.load(Ordering::Relaxed) != AT_REST {
            self.look(log, own);
        }
    }

    /// How many sleep.
    pub(crate) fn sleeping(&self) -> u64 {
        self.sleeping.load(Ordering::Relaxed)
    }

    /// Wakes the first few sleepers whose seq is visible, and lets the gate rest when it has lingered long enough.
    ///
    /// `own` is what the caller has published, if anything. Where a sleeper waits for it, or for something before it, the head
    /// is most often its end, for what is before it has been seen.
    ///
    /// Not `#[cold]`: among code that is never used it would have a page of its own, which takes longer to come than this takes to run.
    #[inline(never)]
    fn look(&self, log: &impl Watched, mut own: Range<u64>) {
        loop {
            if !cfg!(ringlog_fault = "wait_look_fence") {
                fence(Ordering::SeqCst); // B
            }
            let wanted = self.wanted.load(Ordering::Relaxed);
            if wanted & !LINGERING > log.last() {
                return;
            }
            let guessed = wanted < own.end;
            let head = if guessed { own.end - 1 } else { log.head() };
            if wanted > head && wanted < LINGERING {
                return;
            }
            let Some(mut sleepers) = self.sleepers.try_lock() else { return };
            if guessed && sleepers.seen + 1 < own.start && !cfg!(ringlog_fault = "wait_guess_blindly") {
                own = NOTHING;
                continue;
            }
            // Another may have found a higher one meanwhile, and got the lock before.
            sleepers.seen = sleepers.seen.max(head);
            let ready = sleepers.take_ready(head);
            self.announce(&sleepers, log);
            drop(sleepers);
            // Whoever is woken will look. If nobody is, then we, who held the lock, must.
            if ready[0].is_some() || cfg!(ringlog_fault = "wait_hand_off") {
                ready.into_iter().map_while(|ready| ready).for_each(Sleeper::wake);
                return;
            }
        }
    }

    /// Queues up for `seq`, or renews the waker of who is queued already. Its caller looks next.
    ///
    /// Wakers run foreign code: they are cloned before the lock is taken and dropped after it.
    fn enter(&self, ticket: &mut Option<Ticket>, seq: u64, sleeper: Sleeper, head: u64, log: &impl Watched) {
        let mut sleepers = self.sleepers.lock();
        sleepers.seen = sleepers.seen.max(head);
        let replaced = sleepers.enter(ticket, seq, sleeper);
        let before = self.announce(&sleepers, log);
        drop(sleepers);
        drop(replaced);
        if before == AT_REST {
            asymmetric::heavy(); // C
        }
    }

    /// The head, as found by whoever took this ticket out of the queue for `seq` or more; then passes the wake-up on.
    fn taken_out(&self, ticket: &mut Option<Ticket>, seq: u64, log: &impl Watched) -> Option<u64> {
        let known = ticket.filter(|known| known.seq >= seq)?;
        let mut sleepers = self.sleepers.lock();
        if sleepers.find(known).is_some() {
            return None;
        }
        let seen = sleepers.seen;
        *ticket = None;
        self.let_go(sleepers, None, log);
        Some(seen)
    }

    /// Leaves the queue, if queued, and passes on the wake-up, if woken.
    fn leave(&self, ticket: &mut Option<Ticket>, log: &impl Watched) {
        let Some(ticket) = ticket.take() else { return };
        // While it is in the queue, `wanted` is at most its seq: so one could tell without the lock that it is out. But
        // whoever took it out relies on it to look after *they* have let go of the lock.
        if cfg!(ringlog_fault = "wait_leave_unlocked") && self.wanted.load(Ordering::Relaxed) > ticket.seq {
            return self.look(log, NOTHING);
        }
        let mut sleepers = self.sleepers.lock();
        let sleeper = sleepers.remove(ticket);
        self.announce(&sleepers, log);
        self.let_go(sleepers, sleeper, log);
    }

    /// Lets go of the lock for who leaves, and looks, if there is anyone to look for.
    fn let_go(&self, sleepers: MutexGuard<'_, Sleepers>, left: Option<Sleeper>, log: &impl Watched) {
        let nobody = sleepers.first.is_none();
        drop(sleepers);
        drop(left);
        if !nobody && !cfg!(ringlog_fault = "wait_baton") {
            self.look(log, NOTHING);
        }
    }

    /// Makes `wanted` say what the queue says, and returns what it said before. Its caller holds the lock.
    fn announce(&self, sleepers: &Sleepers, log: &impl Watched) -> u64 {
        self.sleeping.store(sleepers.count(), Ordering::Relaxed);
        let before = self.wanted.load(Ordering::Relaxed);
        let now = match &sleepers.first {
            Some((first, _)) => first.seq,
            None if before < LINGERING => LINGERING | (log.last() + LINGER),
            None if before & !LINGERING <= log.last() => AT_REST,
            None => before,
        };
        if now != before {
            self.wanted.store(now, Ordering::Relaxed);
        }
        before
    }
}

impl Sleepers {
    fn count(&self) -> u64 {
        u64::from(self.first.is_some()) + self.rest.len() as u64
    }

    /// Returns who was there before, for the caller to drop.
    fn enter(&mut self, ticket: &mut Option<Ticket>, seq: u64, sleeper: Sleeper) -> Option<Sleeper> {
        if let Some(queued) = *ticket
            && queued.seq == seq
            && let Some(known) = self.find(queued)
        {
            return Some(std::mem::replace(known, sleeper));
        }
        let abandoned = ticket.and_then(|old| self.remove(old));
        self.arrivals += 1;
        let new = Ticket { seq, arrival: self.arrivals };
        self.insert(new, sleeper);
        *ticket = Some(new);
        abandoned
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
}

/// One who waits, thread or task. Dropping it leaves nothing behind.
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

    /// Ready with the head once it is at least `seq`; else `waker` is woken when it may be.
    pub(crate) fn poll(&mut self, seq: u64, waker: &Waker) -> Poll<u64> {
        self.wait(seq, || Sleeper::Task(waker.clone()))
    }

    fn wait(&mut self, seq: u64, sleeper: impl FnOnce() -> Sleeper) -> Poll<u64> {
        let seq = seq.min(FARTHEST);
        let Self { watched, ticket } = self;
        let (log, gate) = (&**watched, watched.gate());
        if let Some(head) = gate.taken_out(ticket, seq, log) {
            return Poll::Ready(head);
        }
        let mut head = log.head();
        if head < seq {
            gate.enter(ticket, seq, sleeper(), head, log);
            if cfg!(ringlog_fault = "wait_check_again") {
                return Poll::Pending;
            }
            gate.look(log, NOTHING);
            head = log.head();
            if head < seq {
                return Poll::Pending;
            }
        }
        gate.leave(ticket, log);
        Poll::Ready(head)
    }

    /// Blocks until the head is at least `seq`, and returns it; `None` at the deadline.
    pub(crate) fn block(&mut self, seq: u64, deadline: Option<Instant>) -> Option<u64> {
        loop {
            if let Poll::Ready(head) = self.wait(seq, || Sleeper::Thread(thread::current())) {
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
        watched.gate().leave(ticket, &**watched);
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
    use std::cell::Cell;
    use std::task::Wake;

    /// A log of which everything is visible up to `head`.
    struct Log {
        gate: Gate,
        head: AtomicU64,
    }

    impl Watched for Log {
        fn gate(&self) -> &Gate {
            &self.gate
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
            Arc::new(Self { gate: Gate::new(), head: AtomicU64::new(0) })
        }

        fn publish(&self, seqs: u64) {
            for _ in 0..seqs {
                let seq = self.head.fetch_add(1, Ordering::Release) + 1;
                self.gate.published(self, seq..seq + 1);
            }
        }

        fn wanted(&self) -> u64 {
            self.gate.wanted.load(Ordering::Relaxed)
        }
    }

    #[test]
    fn the_gate_wants_the_first_seq_then_lingers_then_rests() {
        let log = Log::new();
        assert_eq!(log.wanted(), AT_REST);
        let [mut late, mut soon] = [(); 2].map(|()| Waiter::new(&*log));
        assert!(late.poll(9, Waker::noop()).is_pending());
        assert_eq!(log.wanted(), 9);
        assert!(soon.poll(3, Waker::noop()).is_pending());
        assert_eq!(log.wanted(), 3);
        log.publish(3);
        assert_eq!((log.wanted(), log.gate.sleeping()), (9, 1));
        drop(late);
        assert_eq!(log.wanted(), LINGERING | (3 + LINGER));
        log.publish(LINGER - 1);
        assert_eq!(log.wanted(), LINGERING | (3 + LINGER));
        log.publish(1);
        assert_eq!(log.wanted(), AT_REST, "nobody came");
    }

    #[test]
    fn a_waiter_that_comes_while_the_gate_lingers_keeps_it_awake() {
        let log = Log::new();
        for round in 1..5 {
            let mut waiter = Waiter::new(&*log);
            assert!(waiter.poll(log.head() + 1, Waker::noop()).is_pending());
            log.publish(LINGER);
            assert!(log.wanted() > LINGERING && log.wanted() < AT_REST, "round {round}");
            drop(waiter);
        }
    }

    #[test]
    fn a_waiter_may_change_its_mind() {
        let log = Log::new();
        let mut waiter = Waiter::new(&*log);
        for seq in [5, 2, 7, 7] {
            assert!(waiter.poll(seq, Waker::noop()).is_pending());
            assert_eq!((log.wanted(), log.gate.sleeping()), (seq, 1));
        }
        log.publish(7);
        assert_eq!(log.gate.sleeping(), 0);
        assert!(waiter.poll(8, Waker::noop()).is_pending(), "woken, and asleep again");
        assert_eq!(log.gate.sleeping(), 1);
        waiter.cancel();
        assert_eq!(log.gate.sleeping(), 0);
        assert_eq!(waiter.poll(u64::MAX, Waker::noop()), Poll::Pending);
        assert_eq!(log.wanted(), FARTHEST);
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
        assert_eq!((log.wanted(), log.gate.sleeping()), (1, 6));
        drop(waiters.remove(3));
        assert_eq!((log.wanted(), log.gate.sleeping()), (3, 5), "the first one left");
        drop(waiters.remove(2));
        assert_eq!((log.wanted(), log.gate.sleeping()), (3, 4), "one from the middle left");
        log.publish(9);
        assert_eq!(*woken.lock().expect("no panic"), [31, 34, 50, 75]);
        assert_eq!(log.gate.sleeping(), 0);
    }

    /// Two find the head, and the one that found the lower gets the lock last.
    #[test]
    fn a_slow_look_takes_no_head_back() {
        struct Slow {
            log: Log,
            meanwhile: Cell<Option<u64>>,
        }
        impl Watched for Slow {
            fn gate(&self) -> &Gate {
                &self.log.gate
            }
            fn head(&self) -> u64 {
                let head = self.log.head();
                if let Some(seqs) = self.meanwhile.take() {
                    self.log.publish(seqs);
                }
                head
            }
            fn last(&self) -> u64 {
                self.log.last()
            }
        }
        let gate = Gate::new();
        let slow = Slow { log: Log { gate, head: AtomicU64::new(0) }, meanwhile: Cell::new(None) };
        let [mut soon, mut late, mut far] = [(); 3].map(|()| Waiter::new(&slow));
        for (waiter, seq) in [(&mut soon, 1), (&mut late, 3), (&mut far, 9)] {
            assert!(waiter.poll(seq, Waker::noop()).is_pending());
        }
        slow.log.head.store(1, Ordering::Release);
        // Another gets to 3 and wakes both, between this one's look at the head and its attempt at the lock.
        slow.meanwhile.set(Some(2));
        slow.log.gate.look(&slow, NOTHING);
        assert_eq!(slow.log.gate.sleeping(), 1);
        assert_eq!(late.poll(3, Waker::noop()), Poll::Ready(3));
        assert_eq!(soon.poll(1, Waker::noop()), Poll::Ready(3));
    }

    /// The head is asked for only if what the publisher guesses cannot be right.
    #[test]
    fn a_publisher_guesses_the_head() {
        struct Asked {
            log: Log,
            times: Cell<u64>,
        }
        impl Watched for Asked {
            fn gate(&self) -> &Gate {
                &self.log.gate
            }
            fn head(&self) -> u64 {
                self.times.set(self.times.get() + 1);
                self.log.head()
            }
            fn last(&self) -> u64 {
                20
            }
        }
        let gate = Gate::new();
        let asked = Asked { log: Log { gate, head: AtomicU64::new(0) }, times: Cell::new(0) };
        let publish = |head: u64, own: Range<u64>| {
            asked.log.head.store(head, Ordering::Release);
            let before = asked.times.get();
            asked.log.gate.published(&asked, own);
            (asked.times.get() - before, asked.log.gate.sleeping())
        };
        let [mut soon, mut late] = [(); 2].map(|()| Waiter::new(&asked));
        assert!(soon.poll(1, Waker::noop()).is_pending());
        assert_eq!(publish(1, 1..2), (0, 0), "all before it has been seen");
        assert_eq!(soon.poll(1, Waker::noop()), Poll::Ready(1));
        assert!(soon.poll(2, Waker::noop()).is_pending());
        assert_eq!(publish(1, 3..5), (1, 1), "2 is missing");
        assert_eq!(publish(4, 2..3), (0, 0), "the gap is closed");
        assert_eq!(soon.poll(2, Waker::noop()), Poll::Ready(2));
        assert!(soon.poll(5, Waker::noop()).is_pending());
        assert!(late.poll(9, Waker::noop()).is_pending());
        assert_eq!(publish(10, 5..6), (0, 1), "more is visible than it knows of");
        assert_eq!(soon.poll(5, Waker::noop()), Poll::Ready(5));
        assert_eq!(late.poll(9, Waker::noop()), Poll::Ready(10), "who was woken knew");
    }

    #[test]
    fn who_is_woken_is_told_the_head_without_asking_for_it() {
        let log = Log::new();
        let mut waiter = Waiter::new(&*log);
        assert!(waiter.poll(2, Waker::noop()).is_pending());
        log.publish(2);
        assert_eq!(waiter.poll(2, Waker::noop()), Poll::Ready(2));
        assert!(waiter.poll(3, Waker::noop()).is_pending(), "it waits anew");
        log.publish(5);
        assert_eq!(waiter.poll(9, Waker::noop()), Poll::Pending, "taken out for less than this");
        assert_eq!((log.wanted(), log.gate.sleeping()), (9, 1));
    }

    /// Wakers run code of users: it may come back to the gate.
    #[test]
    fn a_waker_may_use_the_gate() {
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
        assert_eq!(waiter.poll(2, Waker::noop()), Poll::Ready(2));
        assert_eq!(log.gate.sleeping(), 0);
        drop(waiter);
        assert_eq!(Arc::strong_count(&log), 1);
    }
}
