//! The wait queue: no wake-up is lost, no waiter stays behind, and no wait outlasts the close.
//!
//! A lost wake-up is a deadlock, which loom reports. The log is the smallest that has a head with
//! gaps: one stamp a seq. `FAN_OUT` is 1 here, so that of several sleepers all but one depend on
//! the baton. Fences are plain ones here: what the light fence adds is argued in the essay at the
//! head of `src/wait.rs`, case 2.

use crate::explore::explore;
use crate::ring::{Geometry, Missed, Ring, WriteGuard};
use crate::sync::epoch::unpinned;
use crate::sync::{Arc, AtomicU64, Ordering};
use crate::wait::{Ended, WaitQueue, Waiter, Watched};
use std::sync::atomic::AtomicUsize;
use std::task::{Poll, Wake, Waker};

/// As many seqs as any model publishes.
const SEQS: usize = 2;

struct Log {
    queue: WaitQueue,
    last: AtomicU64,
    stamps: [AtomicU64; SEQS],
}

impl Watched for Log {
    fn wait_queue(&self) -> &WaitQueue {
        &self.queue
    }

    fn head(&self) -> u64 {
        self.stamps.iter().take_while(|stamp| stamp.load(Ordering::Acquire) != 0).count() as u64
    }

    fn last(&self) -> u64 {
        self.last.load(Ordering::Relaxed)
    }
}

impl Log {
    fn new() -> Arc<Self> {
        let stamps = std::array::from_fn(|_| AtomicU64::new(0));
        Arc::new(Self { queue: WaitQueue::new(), last: AtomicU64::new(0), stamps })
    }

    fn publish(&self, seq: u64) {
        let index = usize::try_from(seq - 1).unwrap();
        self.last.fetch_max(seq, Ordering::Relaxed);
        self.stamps[index].store(seq, Ordering::Release);
        self.queue.published(self);
    }

    /// What must hold when every thread is done and every waiter dropped.
    fn check_deserted(&self) {
        assert_eq!(self.queue.sleeping(), 0, "a waiter stayed behind");
    }
}

/// Blocks a model thread until `seq` is visible, and so is all before the head that it is told.
fn wait(log: &Log, seq: u64) {
    let Ok(Ended::Visible(head)) = Waiter::new(log).block(seq, None) else { panic!("not closed") };
    assert!(head >= seq && log.head() >= head);
}

fn spawn(log: &Arc<Log>, work: impl FnOnce(&Log) + 'static) -> loom::thread::JoinHandle<()> {
    let log = Arc::clone(log);
    loom::thread::spawn(move || work(&log))
}

/// Counts how often it is woken.
#[derive(Default)]
struct Woken(AtomicUsize);

impl Wake for Woken {
    fn wake(self: std::sync::Arc<Self>) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }
}

/// Polls once for `seq`, as a task does whose waker leads nowhere.
fn poll_once(waiter: &mut Waiter<&Log>, seq: u64) -> Poll<Ended> {
    waiter.poll(seq, Waker::noop())
}

/// Registration against publish. Threads: a publisher, a waiter. Bound: 8.
#[test]
fn a_waiter_and_a_publisher() {
    explore("a_waiter_and_a_publisher", 8, || {
        let log = Log::new();
        let publisher = spawn(&log, |log| log.publish(1));
        wait(&log, 1);
        publisher.join().unwrap();
        log.check_deserted();
    });
}

/// The publisher that closes the gap wakes the waiter after it. Threads: two publishers, a waiter.
/// Bound: 4.
#[test]
fn a_gap_closed_by_either_publisher() {
    explore("a_gap_closed_by_either_publisher", 4, || {
        let log = Log::new();
        let publishers = [1, 2].map(|seq| spawn(&log, move |log| log.publish(seq)));
        wait(&log, 2);
        for publisher in publishers {
            publisher.join().unwrap();
        }
        log.check_deserted();
    });
}

/// The publisher wakes one, which wakes the other. Threads: a publisher, two waiters. Bound: 3.
#[test]
fn two_waiters_and_the_baton() {
    explore("two_waiters_and_the_baton", 3, || {
        let log = Log::new();
        let waiter = spawn(&log, |log| wait(log, 1));
        let publisher = spawn(&log, |log| log.publish(1));
        wait(&log, 1);
        waiter.join().unwrap();
        publisher.join().unwrap();
        log.check_deserted();
    });
}

/// Cancel against notify: a waiter that was woken and drops its future passes the wake-up on.
/// Threads: a publisher, a waiter, one that polls once and gives up. Bound: 3.
#[test]
fn a_cancelled_waiter_passes_the_baton_on() {
    explore("a_cancelled_waiter_passes_the_baton_on", 3, || {
        let log = Log::new();
        let waiter = spawn(&log, |log| wait(log, 1));
        let publisher = spawn(&log, |log| log.publish(1));
        let mut quitter = Waiter::new(&*log);
        let _ = poll_once(&mut quitter, 1);
        drop(quitter);
        waiter.join().unwrap();
        publisher.join().unwrap();
        log.check_deserted();
    });
}

/// A publisher that meets a locked queue goes away, and the lock's holder, which waits for
/// something else, does its work. Threads: a publisher, a waiter for 1, one that queues up for 2.
/// Bound: 4.
#[test]
fn the_holder_of_the_lock_wakes_for_the_publisher() {
    explore("the_holder_of_the_lock_wakes_for_the_publisher", 4, || {
        let log = Log::new();
        let waiter = spawn(&log, |log| wait(log, 1));
        let publisher = spawn(&log, |log| log.publish(1));
        let mut far = Waiter::new(&*log);
        assert_eq!(poll_once(&mut far, 2), Poll::Pending);
        waiter.join().unwrap();
        publisher.join().unwrap();
        assert_eq!(log.queue.sleeping(), 1, "the far one sleeps on");
        drop(far);
        log.check_deserted();
    });
}

/// A thread that held the lock and found no waiter to wake looks again: a publisher may have met
/// the lock meanwhile. Threads: a publisher of 1, a publisher of 2, one that stops waiting for 1;
/// another waits for 2. Bound: 4.
#[test]
fn a_holder_that_woke_none_looks_again() {
    explore("a_holder_that_woke_none_looks_again", 4, || {
        let log = Log::new();
        let woken = std::sync::Arc::new(Woken::default());
        let mut quitter = Waiter::new(&*log);
        let mut sleeper = Waiter::new(&*log);
        assert_eq!(poll_once(&mut quitter, 1), Poll::Pending);
        assert_eq!(sleeper.poll(2, &Waker::from(woken.clone())), Poll::Pending);
        let publishers = [1, 2].map(|seq| spawn(&log, move |log| log.publish(seq)));
        drop(quitter);
        for publisher in publishers {
            publisher.join().unwrap();
        }
        assert_eq!(woken.0.load(Ordering::Relaxed), 1, "the sleeper is woken, and once");
        drop(sleeper);
        log.check_deserted();
    });
}

/// Waiters for two seqs, published in order by one thread: each is woken for its own. Threads: a
/// publisher, two waiters. Bound: 3.
#[test]
fn two_waiters_for_two_seqs() {
    explore("two_waiters_for_two_seqs", 3, || {
        let log = Log::new();
        let waiter = spawn(&log, |log| wait(log, 1));
        let publisher = spawn(&log, |log| {
            log.publish(1);
            log.publish(2);
        });
        wait(&log, 2);
        waiter.join().unwrap();
        publisher.join().unwrap();
        log.check_deserted();
    });
}

/// A close against a wait for what never comes: found by the closer, or finding the log closed.
/// Threads: a closer, a waiter. Bound: 8.
#[test]
fn a_close_ends_a_wait() {
    explore("a_close_ends_a_wait", 8, || {
        let log = Log::new();
        let closer = spawn(&log, |log| log.queue.close(log));
        assert_eq!(Waiter::new(&*log).block(1, None), Ok(Ended::Closed(0)));
        closer.join().unwrap();
        log.check_deserted();
    });
}

/// What is handed out before the close is waited for, also while an earlier seq is still being
/// published. Threads: a publisher of 1, one that publishes 2, then closes, a waiter for 2 and then
/// for 3. Bound: 3.
#[test]
fn what_was_appended_before_the_close_is_waited_for() {
    explore("what_was_appended_before_the_close_is_waited_for", 3, || {
        let log = Log::new();
        let publisher = spawn(&log, |log| log.publish(1));
        let closer = spawn(&log, |log| {
            log.publish(2);
            log.queue.close(log);
        });
        wait(&log, 2);
        assert_eq!(Waiter::new(&*log).block(3, None), Ok(Ended::Closed(2)));
        publisher.join().unwrap();
        closer.join().unwrap();
        log.check_deserted();
    });
}

/// A publisher that meets the lock of a closer goes away, and the closer does its work. Threads: a
/// publisher of 1, a closer, a waiter that waits for 1 already. Bound: 4.
#[test]
fn a_closer_wakes_for_the_publisher() {
    explore("a_closer_wakes_for_the_publisher", 4, || {
        let log = Log::new();
        // Handed out before the close, as by an append that is half-way.
        log.last.store(1, Ordering::Relaxed);
        let woken = std::sync::Arc::new(Woken::default());
        let mut sleeper = Waiter::new(&*log);
        assert_eq!(sleeper.poll(1, &Waker::from(woken.clone())), Poll::Pending);
        let publisher = spawn(&log, |log| log.publish(1));
        log.queue.close(&*log);
        publisher.join().unwrap();
        assert_eq!(woken.0.load(Ordering::Relaxed), 1, "the sleeper is woken, and once");
        assert_eq!(poll_once(&mut sleeper, 1), Poll::Ready(Ended::Visible(1)));
        log.check_deserted();
    });
}

/// The wait queue on the real ring.
struct Followed {
    queue: WaitQueue,
    ring: Ring<u64>,
}

impl Watched for Followed {
    fn wait_queue(&self) -> &WaitQueue {
        &self.queue
    }

    fn head(&self) -> u64 {
        self.ring.head()
    }

    fn last(&self) -> u64 {
        self.ring.last()
    }
}

/// What a follower does, across laps: read; if nothing is there, wait; if it was lapped, go on
/// where the window starts. What it has seen and what it was told to have missed is all that was
/// offered. Window 1, S = 1, nothing is retired. Threads: a writer of 3, a follower. Bound: 2 (3
/// takes five minutes).
#[test]
fn a_follower_across_a_lap() {
    const OFFERED: u64 = 3;
    explore("a_follower_across_a_lap", 2, || {
        let log = Arc::new(Followed { queue: WaitQueue::new(), ring: Ring::new(Geometry::new(1, 0, 1, 64)) });
        let writer = {
            let log = log.clone();
            loom::thread::spawn(move || {
                for value in 1..=OFFERED {
                    let _ = log.ring.append(WriteGuard::pinned(unpinned()), value * 10, ["", "", ""]);
                    log.queue.published(&*log);
                }
            })
        };
        let (mut cursor, mut seen, mut missed) = (0, 0, 0);
        while cursor < OFFERED {
            match log.ring.read(cursor, 10) {
                Ok(run) if run.len() == 0 => assert!(Waiter::new(&*log).block(cursor + 1, None).is_ok()),
                Ok(run) => {
                    assert_eq!(run.get(0), (cursor + 1, (cursor + 1) * 10, [""; 3]));
                    seen += run.len() as u64;
                    cursor += run.len() as u64;
                }
                Err(Missed::Evicted(window)) => {
                    missed += window.oldest - 1 - cursor;
                    cursor = window.oldest - 1;
                }
                Err(Missed::Ahead(window)) => panic!("{cursor} is ahead of {window:?}"),
            }
        }
        writer.join().unwrap();
        assert_eq!(seen + missed, OFFERED);
        assert_eq!(log.queue.sleeping(), 0);
    });
}
