//! A thread sleeps, another wakes it.

use super::{BEFORE, NEVER, append, log_in_use, ring};
use event_listener::Listener as _;
use hdrhistogram::Histogram;
use ringlog::ChangeLog;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex};

/// Something to sleep on: `wake` makes round `round` happen, `sleep` returns when it has.
trait Bell: Send + Sync + 'static {
    fn wake(&self, round: u64);
    fn sleep(&self, round: u64);
}

fn ring_bell(bell: impl Bell, rounds: u64) -> Histogram<u64> {
    let bell = Arc::new(bell);
    let sleeper = Arc::clone(&bell);
    ring(
        rounds,
        |round| bell.wake(round),
        move |noticed| {
            for round in 1..=rounds {
                sleeper.sleep(round);
                noticed.noticed(round);
            }
        },
    )
}

impl Bell for ChangeLog {
    fn wake(&self, round: u64) {
        append(self, round);
    }

    fn sleep(&self, round: u64) {
        assert_eq!(self.blocking_wait_for(BEFORE + round, NEVER), Ok(BEFORE + round));
    }
}

#[derive(Default)]
struct Signal {
    round: Mutex<u64>,
    changed: Condvar,
}

impl Bell for Signal {
    fn wake(&self, round: u64) {
        *self.round.lock().expect("no panic") = round;
        self.changed.notify_one();
    }

    fn sleep(&self, round: u64) {
        let now = self.round.lock().expect("no panic");
        let (now, result) =
            self.changed.wait_timeout_while(now, NEVER, |now| *now < round).expect("no panic");
        assert!(!result.timed_out() && *now == round);
    }
}

/// A log, and a bell of one's own beside it: the same append, then the bell.
struct Beside<B> {
    log: ChangeLog,
    bell: B,
}

impl<B: Bell> Bell for Beside<B> {
    fn wake(&self, round: u64) {
        append(&self.log, round);
        self.bell.wake(round);
    }

    fn sleep(&self, round: u64) {
        self.bell.sleep(round);
    }
}

#[derive(Default)]
struct Event {
    round: AtomicU64,
    changed: event_listener::Event,
}

impl Bell for Event {
    fn wake(&self, round: u64) {
        self.round.store(round, Ordering::Release);
        self.changed.notify(1);
    }

    fn sleep(&self, round: u64) {
        while self.round.load(Ordering::Acquire) < round {
            event_listener::listener!(self.changed => listener);
            if self.round.load(Ordering::Acquire) == round {
                return;
            }
            assert!(listener.wait_timeout(NEVER).is_some());
        }
    }
}

/// In `blocking_wait_for`.
pub fn thread_ringlog(rounds: u64) -> Histogram<u64> {
    ring_bell(log_in_use(), rounds)
}

/// On a `Condvar` that is notified after an append to a log without waiters.
pub fn thread_append_condvar(rounds: u64) -> Histogram<u64> {
    ring_bell(Beside { log: log_in_use(), bell: Signal::default() }, rounds)
}

/// On a `Condvar` alone: nothing is appended.
pub fn thread_condvar(rounds: u64) -> Histogram<u64> {
    ring_bell(Signal::default(), rounds)
}

/// On a event of the crate `event-listener`.
pub fn thread_event_listener(rounds: u64) -> Histogram<u64> {
    ring_bell(Event::default(), rounds)
}
