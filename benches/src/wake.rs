//! From just before something happens until the sleeper that waits for it runs.
//!
//! The sleeper has a thread of its own. Each round begins once the one before has been noticed and
//! a pause has passed in which the sleeper falls asleep again. Times are in nanoseconds.
//!
//! A `Condvar` and a `Notify` wake and carry nothing; a log's wake-up comes with an append, which
//! takes a tenth of the time until the sleeper runs. So there is also what one would write without
//! the log's own: the same append to a log without waiters, and a `Condvar` or a `Notify`
//! beside it.

use crate::timing::{StopOnDrop, cores, histogram, nanos_since};
use crate::workload::{ENTITY, ROW_ID};
use event_listener::{Event, Listener as _, listener};
use hdrhistogram::Histogram;
use ringlog::{Change, ChangeLog};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, mpsc};
use std::thread;
use std::time::{Duration, Instant};
use tokio::sync::{Notify, broadcast};

/// A contender's name, and how it does so many rounds.
pub type Waker = (&'static str, fn(u64) -> Histogram<u64>);

/// What wakes a thread.
pub const THREADS: [Waker; 4] = [
    ("ringlog", thread_ringlog),
    ("Condvar", |rounds| condvar(rounds, |_| ())),
    ("append, then Condvar", |rounds| condvar(rounds, append_to(&log_in_use()))),
    ("event-listener", event_listener),
];

/// What wakes a task.
pub const TASKS: [Waker; 3] = [
    ("ringlog", task_ringlog),
    ("Notify", |rounds| notify(rounds, |_| ())),
    ("append, then Notify", |rounds| notify(rounds, append_to(&log_in_use()))),
];

/// What wakes a follower, while as many writers as the machine has cores append in bursts.
pub const FOLLOWERS: [Waker; 2] = [("ringlog", follow_ringlog), ("broadcast", follow_broadcast)];

/// Between an append and the next, so that the woken thread sleeps again. Longer than it takes to
/// fall asleep.
const PAUSE: Duration = Duration::from_micros(200);

/// A wait that takes longer has lost its wake-up.
const NEVER: Duration = Duration::from_secs(60);

/// What happens.
pub const CHANGE: Change<'static> = Change::update(ENTITY, ROW_ID);

/// Events that a log has seen before it is measured: it has gone round its window, and its memory
/// is its own.
const BEFORE: u64 = 5_000;

fn log_in_use() -> ChangeLog {
    let log = ChangeLog::with_capacity(1_000);
    for _ in 0..BEFORE {
        log.append_change(&CHANGE);
    }
    log
}

/// Appends what is waited for, which must get the seq that belongs to the round.
fn append_to(log: &ChangeLog) -> impl Fn(u64) {
    |round| assert_eq!(log.append_change(&CHANGE), BEFORE + round)
}

/// So many rounds: `wake` makes each happen, `sleep` notices them, and says so.
fn ring(rounds: u64, wake: impl Fn(u64), sleep: impl FnOnce(&mut dyn FnMut(u64)) + Send) -> Histogram<u64> {
    let (origin, started) = (Instant::now(), &AtomicU64::new(0));
    let (noticed, rounds_done) = mpsc::channel();
    thread::scope(|scope| {
        let sleeper = scope.spawn(move || {
            let mut times = histogram();
            sleep(&mut |round| {
                times += nanos_since(origin) - started.load(Ordering::Acquire);
                noticed.send(round).expect("the other side listens");
            });
            times
        });
        for round in 1..=rounds {
            thread::sleep(PAUSE);
            started.store(nanos_since(origin), Ordering::Release);
            wake(round);
            assert_eq!(rounds_done.recv(), Ok(round));
        }
        sleeper.join().expect("the sleeper ends")
    })
}

/// The sleeper is a thread; `sleep` returns when the round has happened.
fn ring_thread(rounds: u64, wake: impl Fn(u64), mut sleep: impl FnMut(u64) + Send) -> Histogram<u64> {
    ring(rounds, wake, |noticed| {
        for round in 1..=rounds {
            sleep(round);
            noticed(round);
        }
    })
}

/// The sleeper is a task, on a runtime of one thread.
fn ring_task(rounds: u64, wake: impl Fn(u64), mut sleep: impl AsyncFnMut(u64) + Send) -> Histogram<u64> {
    ring(rounds, wake, |noticed| {
        let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
        runtime.block_on(async {
            for round in 1..=rounds {
                sleep(round).await;
                noticed(round);
            }
        });
    })
}

fn thread_ringlog(rounds: u64) -> Histogram<u64> {
    let log = log_in_use();
    ring_thread(rounds, append_to(&log), |round| {
        assert_eq!(log.blocking_wait_for(BEFORE + round, NEVER), Ok(BEFORE + round));
    })
}

fn condvar(rounds: u64, first: impl Fn(u64)) -> Histogram<u64> {
    let (current, changed) = (Mutex::new(0), Condvar::new());
    let wake = |round| {
        first(round);
        *current.lock().expect("no panic") = round;
        changed.notify_one();
    };
    ring_thread(rounds, wake, |round| {
        let now = current.lock().expect("no panic");
        let (now, result) = changed.wait_timeout_while(now, NEVER, |now| *now < round).expect("no panic");
        assert!(!result.timed_out() && *now == round);
    })
}

fn event_listener(rounds: u64) -> Histogram<u64> {
    let (current, changed) = (AtomicU64::new(0), Event::new());
    let wake = |round| {
        current.store(round, Ordering::Release);
        changed.notify(1);
    };
    ring_thread(rounds, wake, |round| {
        while current.load(Ordering::Acquire) < round {
            listener!(changed => listener);
            if current.load(Ordering::Acquire) == round {
                return;
            }
            assert!(listener.wait_timeout(NEVER).is_some());
        }
    })
}

fn task_ringlog(rounds: u64) -> Histogram<u64> {
    let log = log_in_use();
    ring_task(rounds, append_to(&log), async |round| {
        assert_eq!(log.wait_for(BEFORE + round).await, Ok(BEFORE + round));
    })
}

fn notify(rounds: u64, first: impl Fn(u64)) -> Histogram<u64> {
    let notify = Notify::new();
    let wake = |round| {
        first(round);
        notify.notify_one();
    };
    ring_task(rounds, wake, async |_| notify.notified().await)
}

/// The entity of the events that are waited for, with the round as row id. A follower reads those
/// of the other writers too.
const MEASURED: &str = "Measured";
/// No reader is lapped.
const LONG: usize = 1 << 20;

fn follow_ringlog(rounds: u64) -> Histogram<u64> {
    let log = Arc::new(ChangeLog::with_capacity(LONG));
    let mut follower = log.follow(0);
    let append = |entity, row_id: &str| assert!(log.append_change(&Change::insert(entity, row_id)) > 0);
    let wake = |round: u64| append(MEASURED, &round.to_string());
    under_noise(
        || append(ENTITY, ROW_ID),
        || {
            ring_thread(rounds, wake, |round| {
                loop {
                    let events = follower.blocking_next(1_000, NEVER).expect("a long window").expect("open");
                    assert!(!events.is_empty(), "a lost wake-up");
                    if let Some(event) = events.iter().find(|event| event.entity() == MEASURED) {
                        return assert_eq!(event.row_id().parse(), Ok(round));
                    }
                }
            })
        },
    )
}

fn follow_broadcast(rounds: u64) -> Histogram<u64> {
    let (sender, mut receiver) = broadcast::channel::<Arc<(&str, String)>>(LONG);
    let send = |entity, row_id| drop(sender.send(Arc::new((entity, row_id))));
    under_noise(
        || send(ENTITY, ROW_ID.to_owned()),
        || {
            ring_thread(
                rounds,
                |round| send(MEASURED, round.to_string()),
                move |round| {
                    loop {
                        let event = receiver.blocking_recv().expect("a long window of an open channel");
                        if event.0 == MEASURED {
                            return assert_eq!(event.1.parse(), Ok(round));
                        }
                    }
                },
            )
        },
    )
}

/// As many writers as cores, each some hundred appends and a short sleep in turn, so that a
/// follower can keep up.
fn under_noise<T>(append: impl Fn() + Sync, measured: impl FnOnce() -> T) -> T {
    const BURST: usize = 200;
    let stop = AtomicBool::new(false);
    thread::scope(|scope| {
        for _ in 0..cores() {
            scope.spawn(|| {
                while !stop.load(Ordering::Relaxed) {
                    (0..BURST).for_each(|_| append());
                    thread::sleep(PAUSE);
                }
            });
        }
        let _at_last = StopOnDrop(&stop);
        measured()
    })
}
