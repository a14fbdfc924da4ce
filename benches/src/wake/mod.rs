//! From just before something happens until the sleeper that waits for it runs.
//!
//! The sleeper has a thread of its own. Each round begins once the one before has been noticed and
//! a pause has passed in which the sleeper falls asleep again. Times are in nanoseconds.
//!
//! A `Condvar` and a `Notify` wake and carry nothing; a log's wake-up comes with an append, which
//! takes a tenth of the time until the sleeper runs. So there is also what one would write without
//! the log's own: the same append to a log without waiters, and a `Condvar` or a `Notify`
//! beside it.

mod follow;
mod task;
mod thread;

pub use follow::{follow_broadcast, follow_ringlog};
pub use task::{task_append_notify, task_notify, task_ringlog};
pub use thread::{thread_append_condvar, thread_condvar, thread_event_listener, thread_ringlog};

use hdrhistogram::Histogram;
use ringlog::{Change, ChangeLog};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, mpsc};
use std::time::{Duration, Instant};

/// Between an append and the next, so that the woken thread sleeps again. Longer than it takes to
/// fall asleep.
pub(crate) const PAUSE: Duration = Duration::from_micros(200);

/// A wait that takes longer has lost its wake-up.
const NEVER: Duration = Duration::from_secs(60);

/// What happens.
pub const CHANGE: Change<'static> = Change::update("Todo", crate::workload::ROW_ID);

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
fn append(log: &ChangeLog, round: u64) {
    assert_eq!(log.append_change(&CHANGE), BEFORE + round);
}

/// A contender's name, and how it does so many rounds.
pub type Contender<'a> = (&'static str, &'a dyn Fn(u64) -> Histogram<u64>);

/// Each contender in turn for so many rounds, again and again, on new threads each time: what the
/// scheduler thinks of two threads, and on which processors it puts them, changes from turn to
/// turn, and no contender shall have the better turns. Returns the histograms of each contender's
/// turns.
pub fn in_turns(contenders: &[Contender<'_>], turns: usize, rounds: u64) -> Vec<Vec<Histogram<u64>>> {
    let mut histograms: Vec<_> = contenders.iter().map(|_| Vec::new()).collect();
    for turn in 0..turns {
        for place in 0..contenders.len() {
            let place = (turn + place) % contenders.len();
            let histogram = contenders[place].1(rounds);
            assert_eq!(histogram.len(), rounds, "every round was measured");
            histograms[place].push(histogram);
        }
    }
    histograms
}

/// All turns in one.
pub fn pooled(turns: &[Histogram<u64>]) -> Histogram<u64> {
    let mut all = histogram();
    for turn in turns {
        all.add(turn).expect("all have three digits");
    }
    all
}

/// A histogram of three digits that grows as it must.
pub fn histogram() -> Histogram<u64> {
    Histogram::new(3).expect("three digits")
}

/// When the round began, for both sides.
#[derive(Debug)]
struct Stopwatch {
    origin: Instant,
    started: AtomicU64,
}

impl Stopwatch {
    fn new() -> Self {
        Self { origin: Instant::now(), started: AtomicU64::new(0) }
    }

    fn now(&self) -> u64 {
        self.origin.elapsed().as_nanos() as u64
    }

    fn start(&self) {
        self.started.store(self.now(), Ordering::Release);
    }

    fn read(&self) -> u64 {
        self.now() - self.started.load(Ordering::Acquire)
    }
}

/// The sleeper's side.
struct Sleeper {
    stopwatch: Arc<Stopwatch>,
    times: Histogram<u64>,
    noticed: mpsc::Sender<u64>,
}

impl Sleeper {
    /// Says that a round was noticed.
    fn noticed(&mut self, round: u64) {
        self.times.record(self.stopwatch.read()).expect("a histogram that grows takes every value");
        self.noticed.send(round).expect("the other side listens");
    }
}

/// So many rounds: `wake` makes each happen, `sleep` notices them.
fn ring(
    rounds: u64,
    mut wake: impl FnMut(u64),
    sleep: impl FnOnce(&mut Sleeper) + Send + 'static,
) -> Histogram<u64> {
    let stopwatch = Arc::new(Stopwatch::new());
    let (noticed, rounds_done) = mpsc::channel();
    let mut sleeper = Sleeper { stopwatch: Arc::clone(&stopwatch), times: histogram(), noticed };
    let sleeper = std::thread::spawn(move || {
        sleep(&mut sleeper);
        sleeper.times
    });
    for round in 1..=rounds {
        std::thread::sleep(PAUSE);
        stopwatch.start();
        wake(round);
        assert_eq!(rounds_done.recv(), Ok(round));
    }
    sleeper.join().expect("the sleeper ends")
}
