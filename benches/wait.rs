//! Waking up, and what waiters cost those who append.
//!
//! `cargo bench --bench wait` (about a minute), or `-- NAME` for the tables whose names hold that, `-- --quick` for a
//! look. Times are in nanoseconds, the exact ones of HDR histograms with three digits. Tables:
//!
//! - `wake-thread`: from just before the append until the thread that sleeps for it runs, beside the same with a
//!   Condvar and the crate `event-listener`;
//! - `wake-task`: the same for a task on a runtime of one thread, beside `tokio::sync::Notify`;
//! - `follow`: from the start of an append until a sleeping follower has read the event, while as many writers as
//!   the machine has cores append without pause, beside `tokio::sync::broadcast`;
//! - `append-far`: one append while so many wait for a seq far ahead;
//! - `append-tail`: one append that so many wait for;
//! - `append`: one append with nobody waiting, many times over. To be set beside the same in a build with
//!   `RUSTFLAGS='--cfg ringlog_gate="none"'`, which has no notification at all, and `"plain"`, with a plain fence in the place of
//!   the light one.
//!
//! Each measurement ends with a check that every event arrived.

use hdrhistogram::Histogram;
use ringlog::{Change, ChangeLog};
use std::future::Future;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, mpsc};
use std::task::{Context, Poll, Waker};
use std::thread;
use std::time::{Duration, Instant};

/// Between an append and the next, so that whoever was woken sleeps again. Longer than it takes to fall asleep.
const PAUSE: Duration = Duration::from_micros(200);

/// A wait that takes longer has lost its wake-up.
const NEVER: Duration = Duration::from_secs(60);

const CHANGE: Change<'static> = Change::update("Todo", "row-0123456789abcdef0123456789abcdef01");

/// A table's name, and how it is made with so many rounds.
type Table = (&'static str, fn(u64));

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let quick = arguments.iter().any(|argument| argument == "--quick");
    let filter = arguments.iter().find(|argument| !argument.starts_with('-')).map_or("", String::as_str);
    let rounds = if quick { 2_000 } else { 20_000 };
    let tables: [Table; 6] = [
        ("wake-thread", wake_thread),
        ("wake-task", wake_task),
        ("follow", follow),
        ("append-far", append_far),
        ("append-tail", append_tail),
        ("append", append),
    ];
    for (name, table) in tables.into_iter().filter(|(name, _)| name.contains(filter)) {
        println!("\n{name}, {rounds} rounds, nanoseconds");
        println!(
            "{:<28}{:>10}{:>10}{:>10}{:>10}{:>10}{:>12}",
            "", "min", "p50", "p90", "p99", "p99.9", "max"
        );
        table(rounds);
    }
}

fn histogram() -> Histogram<u64> {
    Histogram::new(3).expect("three digits")
}

fn record(histogram: &mut Histogram<u64>, nanoseconds: u64) {
    histogram.record(nanoseconds).expect("a histogram that grows takes every value");
}

fn print(name: &str, histogram: &Histogram<u64>, rounds: u64) {
    assert_eq!(histogram.len(), rounds, "{name}: every round was measured");
    let at = |percentile| histogram.value_at_percentile(percentile);
    let (min, max) = (histogram.min(), histogram.max());
    println!("{name:<28}{min:>10}{:>10}{:>10}{:>10}{:>10}{max:>12}", at(50.0), at(90.0), at(99.0), at(99.9));
}

/// The time, in a form that fits an atomic.
#[derive(Clone, Copy)]
struct Clock(Instant);

impl Clock {
    fn now(self) -> u64 {
        self.0.elapsed().as_nanos() as u64
    }
}

// Waking.

/// Something to sleep on: `wake` makes round `round` happen, `sleep` returns when it has.
trait Bell: Send + Sync + 'static {
    fn wake(&self, round: u64);
    fn sleep(&self, round: u64);
}

/// Events that a log has seen before it is measured: it has gone round its window, and its memory is its own.
const BEFORE: u64 = 5_000;

fn log_in_use() -> ChangeLog {
    let log = ChangeLog::with_capacity(1_000);
    (0..BEFORE).for_each(|_| drop(log.append_change(&CHANGE).to_string()));
    log
}

impl Bell for ChangeLog {
    fn wake(&self, round: u64) {
        assert_eq!(self.append_change(&CHANGE), BEFORE + round);
    }

    fn sleep(&self, round: u64) {
        assert_eq!(self.wait_for(BEFORE + round, NEVER), Ok(BEFORE + round));
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
        use event_listener::Listener;
        while self.round.load(Ordering::Acquire) < round {
            event_listener::listener!(self.changed => listener);
            if self.round.load(Ordering::Acquire) == round {
                return;
            }
            assert!(listener.wait_timeout(NEVER).is_some());
        }
    }
}

/// A contender's name, and how it does so many rounds.
type Contender<'a> = (&'a str, &'a dyn Fn(u64) -> Histogram<u64>);

/// Each contender in turn for a part of the rounds, again and again, on new threads each time: what the scheduler thinks
/// of two threads changes by the minute, and no contender shall have the better minutes.
fn in_turns(contenders: &[Contender<'_>], rounds: u64) {
    const TURNS: u64 = 20;
    let mut histograms: Vec<_> = contenders.iter().map(|_| histogram()).collect();
    for _ in 0..TURNS {
        for ((_, run), histogram) in contenders.iter().zip(&mut histograms) {
            histogram.add(run(rounds / TURNS)).expect("all have three digits");
        }
    }
    for ((name, _), histogram) in contenders.iter().zip(&histograms) {
        print(name, histogram, rounds);
    }
}

fn wake_thread(rounds: u64) {
    in_turns(
        &[
            ("ringlog wait_for", &|rounds| ring(log_in_use(), rounds)),
            ("Mutex + Condvar", &|rounds| ring(Signal::default(), rounds)),
            ("event-listener", &|rounds| ring(Event::default(), rounds)),
        ],
        rounds,
    );
}

/// One thread sleeps, another wakes it.
fn ring(bell: impl Bell, rounds: u64) -> Histogram<u64> {
    let clock = Clock(Instant::now());
    let bell = Arc::new(bell);
    let started = Arc::new(AtomicU64::new(0));
    let (woken, rounds_done) = mpsc::channel();
    let sleeper = thread::spawn({
        let (bell, started) = (Arc::clone(&bell), Arc::clone(&started));
        move || {
            let mut histogram = histogram();
            for round in 1..=rounds {
                bell.sleep(round);
                record(&mut histogram, clock.now() - started.load(Ordering::Acquire));
                woken.send(round).expect("the other side listens");
            }
            histogram
        }
    });
    for round in 1..=rounds {
        thread::sleep(PAUSE);
        started.store(clock.now(), Ordering::Release);
        bell.wake(round);
        assert_eq!(rounds_done.recv(), Ok(round));
    }
    sleeper.join().expect("the sleeper ends")
}

fn wake_task(rounds: u64) {
    let ringlog = |rounds: u64| {
        let log = Arc::new(log_in_use());
        let sleeper = Arc::clone(&log);
        let wake = move |round| assert_eq!(log.append_change(&CHANGE), BEFORE + round);
        ring_task(rounds, wake, async move |round| {
            assert_eq!(sleeper.visible(BEFORE + round).await, BEFORE + round);
        })
    };
    let notify = |rounds: u64| {
        let notify = Arc::new(tokio::sync::Notify::new());
        let sleeper = Arc::clone(&notify);
        ring_task(rounds, move |_| notify.notify_one(), async move |_| sleeper.notified().await)
    };
    in_turns(&[("ringlog visible", &ringlog), ("tokio Notify", &notify)], rounds);
}

/// A task sleeps, another thread wakes it.
fn ring_task(
    rounds: u64,
    wake: impl Fn(u64),
    mut sleep: impl AsyncFnMut(u64) + Send + 'static,
) -> Histogram<u64> {
    let clock = Clock(Instant::now());
    let started = Arc::new(AtomicU64::new(0));
    let (woken, rounds_done) = mpsc::channel();
    let runtime = thread::spawn({
        let started = Arc::clone(&started);
        move || {
            let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
            let mut histogram = histogram();
            runtime.block_on(async {
                for round in 1..=rounds {
                    sleep(round).await;
                    record(&mut histogram, clock.now() - started.load(Ordering::Acquire));
                    woken.send(round).expect("the other side listens");
                }
            });
            histogram
        }
    });
    for round in 1..=rounds {
        thread::sleep(PAUSE);
        started.store(clock.now(), Ordering::Release);
        wake(round);
        assert_eq!(rounds_done.recv(), Ok(round));
    }
    runtime.join().expect("the runtime ends")
}

// Following under load.

fn cores() -> usize {
    thread::available_parallelism().map_or(1, std::num::NonZero::get)
}

fn follow(rounds: u64) {
    let contenders: [Contender<'_>; 2] =
        [("ringlog next_batch", &follow_ringlog), ("tokio broadcast", &follow_broadcast)];
    in_turns(&contenders, rounds);
}

/// The measured writer's events carry their number as row id; those of the others are noise.
fn follow_ringlog(rounds: u64) -> Histogram<u64> {
    let log = Arc::new(ChangeLog::with_capacity(1 << 20));
    let (clock, started) = (Clock(Instant::now()), Arc::new(AtomicU64::new(0)));
    let (seen, rounds_done) = mpsc::channel();
    let follower = thread::spawn({
        let (mut follower, started) = (log.follow(0), Arc::clone(&started));
        move || {
            let (mut histogram, mut round) = (histogram(), 0);
            while round < rounds {
                let batch = follower.next_batch(1_000, NEVER).expect("a window of a million");
                assert!(!batch.is_empty(), "a lost wake-up");
                for event in batch.iter().filter(|event| event.entity() == "Measured") {
                    record(&mut histogram, clock.now() - started.load(Ordering::Acquire));
                    round += 1;
                    assert_eq!(event.row_id().parse(), Ok(round));
                    seen.send(round).expect("the other side listens");
                }
            }
            histogram
        }
    });
    let noise = Arc::clone(&log);
    under_noise(
        move || drop(noise.append_change(&CHANGE).to_string()),
        || {
            for round in 1..=rounds {
                thread::sleep(PAUSE);
                let row_id = round.to_string();
                started.store(clock.now(), Ordering::Release);
                log.append_change(&Change::insert("Measured", &row_id));
                assert_eq!(rounds_done.recv(), Ok(round));
            }
        },
    );
    follower.join().expect("the follower ends")
}

fn follow_broadcast(rounds: u64) -> Histogram<u64> {
    use tokio::sync::broadcast::error::RecvError;
    let (sender, mut receiver) = tokio::sync::broadcast::channel::<Arc<(&str, String)>>(1 << 20);
    let (clock, started) = (Clock(Instant::now()), Arc::new(AtomicU64::new(0)));
    let (seen, rounds_done) = mpsc::channel();
    let follower = thread::spawn({
        let started = Arc::clone(&started);
        move || {
            let (mut histogram, mut round) = (histogram(), 0);
            while round < rounds {
                let event = match receiver.blocking_recv() {
                    Ok(event) => event,
                    Err(RecvError::Lagged(missed)) => panic!("a window of a million, and {missed} missed"),
                    Err(RecvError::Closed) => panic!("closed"),
                };
                if event.0 == "Measured" {
                    record(&mut histogram, clock.now() - started.load(Ordering::Acquire));
                    round += 1;
                    assert_eq!(event.1.parse(), Ok(round));
                    seen.send(round).expect("the other side listens");
                }
            }
            histogram
        }
    });
    let noise = sender.clone();
    under_noise(
        move || drop(noise.send(Arc::new(("Todo", "row-0123456789abcdef0123456789abcdef01".to_owned())))),
        || {
            for round in 1..=rounds {
                thread::sleep(PAUSE);
                let row_id = round.to_string();
                started.store(clock.now(), Ordering::Release);
                assert!(sender.send(Arc::new(("Measured", row_id))).is_ok());
                assert_eq!(rounds_done.recv(), Ok(round));
            }
        },
    );
    follower.join().expect("the follower ends")
}

/// As many writers as cores, each a few thousand appends and a short sleep in turn, so that a follower can keep up.
fn under_noise(append: impl Fn() + Send + Sync + 'static, measured: impl FnOnce()) {
    const BURST: usize = 200;
    let (append, stop) = (Arc::new(append), Arc::new(AtomicBool::new(false)));
    let writers: Vec<_> = (0..cores())
        .map(|_| {
            let (append, stop) = (Arc::clone(&append), Arc::clone(&stop));
            thread::spawn(move || {
                while !stop.load(Ordering::Relaxed) {
                    (0..BURST).for_each(|_| append());
                    thread::sleep(PAUSE);
                }
            })
        })
        .collect();
    measured();
    stop.store(true, Ordering::Relaxed);
    for writer in writers {
        writer.join().expect("the writer ends");
    }
}

// Appending.

const WAITERS: [usize; 4] = [0, 1, 100, 10_000];

/// Appends that nobody waits for, timed a hundred at a time.
fn append_far(rounds: u64) {
    const AT_ONCE: u64 = 100;
    for waiters in WAITERS {
        let log = ChangeLog::new();
        let mut sleepers: Vec<_> = (0..waiters).map(|_| Box::pin(log.visible(u64::MAX))).collect();
        let mut context = Context::from_waker(Waker::noop());
        for sleeper in &mut sleepers {
            assert!(sleeper.as_mut().poll(&mut context).is_pending());
        }
        let mut histogram = histogram();
        for _ in 0..rounds {
            let start = Instant::now();
            for _ in 0..AT_ONCE {
                log.append_change(&CHANGE);
            }
            record(&mut histogram, start.elapsed().as_nanos() as u64 / AT_ONCE);
        }
        assert_eq!((log.last_seq(), log.stats().waiters), (rounds * AT_ONCE, waiters as u64));
        print(&format!("{waiters} far waiters"), &histogram, rounds);
    }
}

/// Appends that everybody waits for, timed one at a time. Each wakes a few; the others are woken by these, outside of the
/// time.
fn append_tail(rounds: u64) {
    for waiters in WAITERS {
        let rounds = if waiters > 100 { rounds / 100 } else { rounds };
        let log = ChangeLog::new();
        let mut context = Context::from_waker(Waker::noop());
        let mut histogram = histogram();
        for round in 1..=rounds {
            let mut sleepers: Vec<_> = (0..waiters).map(|_| Box::pin(log.visible(round))).collect();
            for sleeper in &mut sleepers {
                assert!(sleeper.as_mut().poll(&mut context).is_pending());
            }
            let start = Instant::now();
            log.append_change(&CHANGE);
            record(&mut histogram, start.elapsed().as_nanos() as u64);
            for sleeper in &mut sleepers {
                assert_eq!(sleeper.as_mut().poll(&mut context), Poll::Ready(round));
            }
        }
        assert_eq!((log.last_seq(), log.stats().waiters), (rounds, 0));
        print(&format!("{waiters} waiters at the tail"), &histogram, rounds);
    }
}

/// Appends with nobody waiting, now or lately.
fn append(rounds: u64) {
    const AT_ONCE: u64 = 1_000;
    let log = ChangeLog::new();
    let mut histogram = histogram();
    for _ in 0..rounds {
        let start = Instant::now();
        for _ in 0..AT_ONCE {
            log.append_change(&CHANGE);
        }
        record(&mut histogram, start.elapsed().as_nanos() as u64 / AT_ONCE);
    }
    assert_eq!(log.last_seq(), rounds * AT_ONCE);
    let gate = match (cfg!(ringlog_gate = "none"), cfg!(ringlog_gate = "plain")) {
        (true, _) => "no gate",
        (_, true) => "a gate with a plain fence",
        _ => "the gate as it ships",
    };
    print(gate, &histogram, rounds);
}
