#![forbid(unsafe_code)]
//! How long appends and reads take: one in [`ONE_IN`] is timed, the rest pay one decrement of a
//! thread's own counter.
//!
//! # Scheme
//!
//! Each thread counts down, per operation, to the next one that is timed. The timed one reads the
//! clock twice and puts the difference into an HDR histogram of its *shard*: one of [`SHARDS`],
//! picked by the thread's number, each behind a lock of its own. A snapshot merges the shards.
//! Nothing is shared between threads until one of them has a sample, and then only with every
//! sixteenth thread and with a snapshot.
//!
//! *No thread waits.* A sample takes the first shard whose lock is free, beginning with its
//! thread's own; if all are taken, it is lost and counted as lost. So what the log promises of its
//! operations holds with profiling on: no thread can hold another up by being suspended with a lock
//! in its hand. Only a snapshot waits, for samples being put down. Whatever a sample meets on its
//! way, the time in it was taken before.
//!
//! *Why not `hdrhistogram`'s own `Recorder`.* Its refresh waits until every recorder has recorded
//! once more: a thread that has gone idle would hold up every snapshot until a time-out, and end up
//! missing from it. Here a thread can sleep or end when it likes, and what it recorded is there.
//!
//! *Why a prime.* Work comes in periods that are powers of two: a segment is installed every so
//! many appends. Were [`ONE_IN`] one too, a thread would time the append that installs either every
//! time or never. Threads begin at different points of the period, so that those which live for
//! less than one are sampled fairly too.
//!
//! # Cost
//!
//! Without the feature `profile`, nothing: no instruction and no byte. With it, an operation pays a
//! decrement in thread-local memory, and one in [`ONE_IN`] two readings of the clock, an
//! uncontended lock and an increment. A sample contains the cost of reading the clock once, some 20
//! to 30 ns on current machines: mind that where it is as long as the operation.
//!
//! # Memory
//!
//! A histogram has 36 KiB. It is allocated when a shard gets its first sample of an operation,
//! after the time was taken; so at most 16 shards × 5 operations × 36 KiB = 2.8 MiB a log, and 36
//! KiB for each operation that one thread does. The shards themselves take 8 KiB. A snapshot holds
//! 5 merged histograms, 180 KiB, until it is dropped.

use crate::sync::{AtomicU64, Ordering};
use crossbeam_utils::CachePadded;
use hdrhistogram::Histogram;
use hdrhistogram::serialization::V2DeflateSerializer;
use hdrhistogram::serialization::interval_log::{IntervalLogWriterBuilder, Tag};
use serde::Serialize;
use std::cell::Cell;
use std::fmt;
use std::sync::{Mutex, MutexGuard, PoisonError, TryLockError};
use std::time::{Duration, Instant, SystemTime};

/// One in so many operations of a thread is timed.
const ONE_IN: u64 = 61;

/// Histograms are spread over so many locks.
const SHARDS: usize = 16;

/// Times are kept to two decimal digits, an error of less than 1 %; up to 255 ns they are exact.
const DIGITS: u8 = 2;

/// The longest time that is told apart, in nanoseconds: 73 minutes, the end of what 36 KiB can
/// hold. Longer ones count as this.
const LONGEST: u64 = (1 << 42) - 1;

/// What is timed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Operation {
    Append,
    AppendBatch,
    Read,
    PullJson,
    Pull,
}

impl Operation {
    const ALL: [Self; 5] = [Self::Append, Self::AppendBatch, Self::Read, Self::PullJson, Self::Pull];

    const fn as_str(self) -> &'static str {
        match self {
            Self::Append => "append",
            Self::AppendBatch => "append_batch",
            Self::Read => "read",
            Self::PullJson => "pull_json",
            Self::Pull => "pull",
        }
    }
}

/// One thing for each operation.
type PerOperation<T> = [T; Operation::ALL.len()];

/// The recorders of one log.
pub(crate) struct Profile {
    /// As many as [`SHARDS`].
    shards: Box<[CachePadded<Mutex<Shard>>]>,
    /// Samples that found every shard's lock taken.
    lost: AtomicU64,
    /// The same moment on two clocks: the one that is written down, and the one that cannot be set.
    began: (SystemTime, Instant),
}

/// Without the histograms: their locks must not be held while a formatter of the caller's runs.
impl std::fmt::Debug for Profile {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Profile").field("lost", &self.lost).finish_non_exhaustive()
    }
}

/// The histograms of some threads, made when first needed.
type Shard = PerOperation<Option<Histogram<u64>>>;

/// An operation that is being timed, until this is dropped.
#[derive(Debug)]
pub(crate) struct Timed<'log> {
    profile: &'log Profile,
    operation: Operation,
    began: Instant,
}

/// What a thread keeps, for all logs together.
struct Thread {
    /// Its number plus one, 0 before it has one.
    number: Cell<u64>,
    /// How many operations are left until one is timed, that one included; 0 before the first.
    left: PerOperation<Cell<u64>>,
}

/// Threads numbered so far.
static THREADS: AtomicU64 = AtomicU64::new(0);

thread_local! {
    // Constant and without a destructor: there from a thread's first moment to its last.
    static THREAD: Thread =
        const { Thread { number: Cell::new(0), left: [const { Cell::new(0) }; Operation::ALL.len()] } };
}

impl Thread {
    /// The thread's number, from 0.
    fn number(&self) -> u64 {
        if self.number.get() == 0 {
            self.number.set(THREADS.fetch_add(1, Ordering::Relaxed) + 1);
        }
        self.number.get() - 1
    }

    /// Counts an operation. Whether this one is to be timed.
    #[inline]
    fn is_due(&self, operation: Operation) -> bool {
        let cell = &self.left[operation as usize];
        let left = match cell.get() {
            0 => self.number() % ONE_IN,
            left => left - 1,
        };
        cell.set(if left == 0 { ONE_IN } else { left });
        left == 0
    }
}

impl Profile {
    pub(crate) fn new() -> Self {
        Self {
            shards: (0..SHARDS).map(|_| CachePadded::default()).collect(),
            lost: AtomicU64::new(0),
            began: (SystemTime::now(), Instant::now()),
        }
    }

    /// Counts an operation, and times it from now until the answer is dropped if its turn has come.
    #[inline]
    #[must_use = "an operation is timed until this is dropped"]
    pub(crate) fn time(&self, operation: Operation) -> Option<Timed<'_>> {
        THREAD.with(|thread| thread.is_due(operation)).then(|| self.begin(operation))
    }

    #[cold]
    fn begin(&self, operation: Operation) -> Timed<'_> {
        Timed { profile: self, operation, began: Instant::now() }
    }

    /// Puts a sample into the first shard that is free, the thread's own before the others.
    #[cold]
    fn record(&self, operation: Operation, nanos: u64) {
        let own = THREAD.with(Thread::number) as usize % SHARDS;
        let (before, from) = self.shards.split_at(own);
        let Some(mut shard) = from.iter().chain(before).find_map(|shard| try_lock(shard)) else {
            self.lost.fetch_add(1, Ordering::Relaxed);
            return;
        };
        shard[operation as usize].get_or_insert_with(histogram).saturating_record(nanos.min(LONGEST));
    }

    pub(crate) fn snapshot(&self) -> LatencySnapshot {
        let mut merged: PerOperation<_> = std::array::from_fn(|_| histogram());
        for shard in &self.shards {
            let shard = shard.lock().unwrap_or_else(PoisonError::into_inner);
            for (sum, part) in merged.iter_mut().zip(&*shard) {
                let added = part.as_ref().map_or(Ok(()), |part| sum.add(part));
                added.unwrap_or_else(|error| unreachable!("all histograms have the same bounds: {error}"));
            }
        }
        let of = |operation: Operation| Latency::of(&merged[operation as usize]);
        LatencySnapshot {
            append: of(Operation::Append),
            append_batch: of(Operation::AppendBatch),
            read: of(Operation::Read),
            pull_json: of(Operation::PullJson),
            pull: of(Operation::Pull),
            lost_samples: self.lost.load(Ordering::Relaxed),
            began: self.began.0,
            length: self.began.1.elapsed(),
            histograms: merged,
        }
    }
}

impl Drop for Timed<'_> {
    fn drop(&mut self) {
        let nanos = self.began.elapsed().as_nanos();
        self.profile.record(self.operation, nanos.try_into().unwrap_or(LONGEST));
    }
}

/// The lock, unless another thread holds it.
fn try_lock(shard: &Mutex<Shard>) -> Option<MutexGuard<'_, Shard>> {
    match shard.try_lock() {
        Ok(shard) => Some(shard),
        Err(TryLockError::Poisoned(poisoned)) => Some(poisoned.into_inner()),
        Err(TryLockError::WouldBlock) => None,
    }
}

fn histogram() -> Histogram<u64> {
    Histogram::new_with_bounds(1, LONGEST, DIGITS)
        .unwrap_or_else(|error| unreachable!("these bounds are constants: {error}"))
}

/// How long operations took, by operation (feature `profile`). Made by
/// [`ChangeLog::latency`](crate::ChangeLog::latency).
///
/// Counted from the log's making. What is timed is the call, the cost of one reading of the clock
/// included; [`read`](crate::ChangeLog::read) ends when the batch is there, before the caller looks
/// at its events. Reads that are answered with a [`Resync`](crate::Resync) count too.
/// [`append`](crate::ChangeLog::append) and [`append_change`](crate::ChangeLog::append_change) are
/// one operation; a batch is one, however long.
///
/// Written out as text, it is a table. Serialised, it is its fields.
#[derive(Debug, Clone, Serialize)]
#[non_exhaustive]
pub struct LatencySnapshot {
    /// [`append`](crate::ChangeLog::append) and [`append_change`](crate::ChangeLog::append_change).
    pub append: Latency,
    /// [`append_batch`](crate::ChangeLog::append_batch), whole batches.
    pub append_batch: Latency,
    /// [`read`](crate::ChangeLog::read).
    pub read: Latency,
    /// [`pull_json`](crate::ChangeLog::pull_json).
    pub pull_json: Latency,
    /// [`pull`](crate::ChangeLog::pull).
    pub pull: Latency,
    /// Operations that were timed and are in no count, because so many threads were putting their
    /// samples down at once.
    pub lost_samples: u64,
    #[serde(skip)]
    began: SystemTime,
    #[serde(skip)]
    length: Duration,
    #[serde(skip)]
    histograms: PerOperation<Histogram<u64>>,
}

impl LatencySnapshot {
    /// One in so many operations of a thread is timed.
    pub const ONE_IN: u64 = ONE_IN;

    /// The histograms as an HDR interval log (V2, compressed), as HdrHistogram's tools read it.
    ///
    /// One line for each operation that has samples, tagged with the operation's name, in
    /// nanoseconds, over the whole time since the log was made.
    pub fn hdr_log(&self) -> String {
        let mut text = Vec::new();
        self.write_hdr_log(&mut text)
            .unwrap_or_else(|error| unreachable!("a Vec takes every byte, a histogram has a text: {error}"));
        String::from_utf8(text).unwrap_or_else(|error| unreachable!("an interval log is ASCII: {error}"))
    }

    fn write_hdr_log(&self, out: &mut Vec<u8>) -> Result<(), Box<dyn std::error::Error>> {
        let mut serializer = V2DeflateSerializer::new();
        let mut log = IntervalLogWriterBuilder::new()
            .add_comment(&format!("ringlog: one in {ONE_IN} operations, nanoseconds"))
            .with_start_time(self.began)
            .with_base_time(self.began)
            .begin_log_with(out, &mut serializer)?;
        for (operation, histogram) in Operation::ALL.iter().zip(&self.histograms) {
            if !histogram.is_empty() {
                log.write_histogram(histogram, Duration::ZERO, self.length, Tag::new(operation.as_str()))
                    .map_err(|error| format!("{error:?}"))?;
            }
        }
        Ok(())
    }
}

impl fmt::Display for LatencySnapshot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "{:12} {:>10} {:>10} {:>10} {:>10} {:>10} {:>10} {:>10}",
            "ns", "samples", "p50", "p90", "p99", "p99.9", "p99.99", "max"
        )?;
        for (operation, histogram) in Operation::ALL.iter().zip(&self.histograms) {
            let latency = Latency::of(histogram);
            write!(f, "{:12} {:>10}", operation.as_str(), latency.count)?;
            let Latency { p50, p90, p99, p99_9, p99_99, max, .. } = latency;
            for time in [p50, p90, p99, p99_9, p99_99, max] {
                write!(f, " {:>10}", time.map_or_else(|| "-".to_owned(), |nanos| nanos.to_string()))?;
            }
            writeln!(f)?;
        }
        write!(f, "one in {ONE_IN} timed, {} samples lost", self.lost_samples)
    }
}

/// How long one operation took, in nanoseconds, to two significant digits.
///
/// A percentile is there when there are samples enough to tell it from the maximum: 2 for p50, 10
/// for p90, 100 for p99, 1,000 for p99.9 and 10,000 for p99.99.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize)]
#[non_exhaustive]
pub struct Latency {
    /// How many were timed. About [`LatencySnapshot::ONE_IN`] times as many took place.
    pub count: u64,
    /// Half of them took no longer than this.
    pub p50: Option<u64>,
    /// 90 % took no longer.
    pub p90: Option<u64>,
    /// 99 % took no longer.
    pub p99: Option<u64>,
    /// 99.9 % took no longer.
    pub p99_9: Option<u64>,
    /// 99.99 % took no longer.
    pub p99_99: Option<u64>,
    /// None of those timed took longer. Of those not timed, some may have.
    pub max: Option<u64>,
}

impl Latency {
    fn of(histogram: &Histogram<u64>) -> Self {
        let count = histogram.len();
        // One sample in `one_in` lies above the percentile.
        let percentile = |one_in: u64| {
            let rank = count - count / one_in;
            // Half a sample below the rank: rounding cannot reach the next one.
            let quantile = (rank as f64 - 0.5) / count as f64;
            (count >= one_in).then(|| histogram.value_at_quantile(quantile))
        };
        Self {
            count,
            p50: percentile(2),
            p90: percentile(10),
            p99: percentile(100),
            p99_9: percentile(1_000),
            p99_99: percentile(10_000),
            max: (count > 0).then(|| histogram.max()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Change, ChangeLog, SyncCursor};
    use hdrhistogram::serialization::Deserializer;
    use hdrhistogram::serialization::interval_log::{IntervalLogIterator, LogEntry};
    use std::thread;

    const PERIODS: u64 = 10;

    fn change() -> Change<'static> {
        Change::delete("Todo", "t1")
    }

    /// Runs `call` so often that exactly [`PERIODS`] of the calls are timed, and takes the snapshot
    /// after it.
    fn sampled(log: &ChangeLog, mut call: impl FnMut(&ChangeLog)) -> LatencySnapshot {
        (0..PERIODS * ONE_IN).for_each(|_| call(log));
        log.latency()
    }

    fn counts(snapshot: &LatencySnapshot) -> PerOperation<u64> {
        let LatencySnapshot { append, append_batch, read, pull_json, pull, .. } = snapshot;
        [append, append_batch, read, pull_json, pull].map(|latency| latency.count)
    }

    #[test]
    fn one_in_so_many_of_each_operation_is_timed_and_counted_as_itself() {
        let log = ChangeLog::new();
        assert_eq!(counts(&log.latency()), [0, 0, 0, 0, 0]);
        let after = sampled(&log, |log| {
            log.append_change(&change());
        });
        assert_eq!(counts(&after), [PERIODS, 0, 0, 0, 0]);
        let after = sampled(&log, |log| {
            log.append("Todo", "t1", crate::ChangeKind::Delete, None);
        });
        assert_eq!(counts(&after), [2 * PERIODS, 0, 0, 0, 0]);
        let after = sampled(&log, |log| {
            log.append_batch(&[change(), change(), change()]);
        });
        assert_eq!(counts(&after), [2 * PERIODS, PERIODS, 0, 0, 0]);
        let after = sampled(&log, |log| drop(log.read(0, 10)));
        assert_eq!(counts(&after), [2 * PERIODS, PERIODS, PERIODS, 0, 0]);
        let after = sampled(&log, |log| _ = log.pull_json(0, 10, &mut Vec::new()));
        assert_eq!(counts(&after), [2 * PERIODS, PERIODS, PERIODS, PERIODS, 0]);
        let after = sampled(&log, |log| drop(log.pull(&SyncCursor::beginning(), 10)));
        assert_eq!(counts(&after), [2 * PERIODS, PERIODS, PERIODS, PERIODS, PERIODS]);
        assert_eq!(after.lost_samples, 0);
    }

    #[test]
    fn a_refused_read_is_timed_too() {
        let log = ChangeLog::new();
        let after = sampled(&log, |log| assert!(log.read(1, 10).is_err()));
        assert_eq!(after.read.count, PERIODS);
    }

    #[test]
    fn what_is_timed_is_the_whole_call() {
        const PAUSE: Duration = Duration::from_millis(2);
        let slow = || {
            thread::sleep(PAUSE);
            0
        };
        let log = ChangeLog::builder().clock(slow).build().expect("a log");
        for _ in 0..ONE_IN {
            log.append_change(&change());
        }
        let Latency { count, max, .. } = log.latency().append;
        assert_eq!(count, 1);
        assert!(max >= Some(PAUSE.as_nanos() as u64), "{max:?}");
    }

    #[test]
    fn logs_do_not_share_their_samples() {
        let (one, other) = (crate::ChangeLog::new(), ChangeLog::new());
        let after = sampled(&one, |log| {
            log.append_change(&change());
        });
        assert_eq!((after.append.count, other.latency().append.count), (PERIODS, 0));
    }

    #[test]
    fn samples_of_all_threads_are_counted_also_of_those_that_have_ended() {
        let log = ChangeLog::new();
        let threads = 2 * SHARDS as u64 + 3;
        thread::scope(|scope| {
            for _ in 0..threads {
                scope.spawn(|| (0..PERIODS * ONE_IN).for_each(|_| drop(log.read(0, 0))));
            }
            for _ in 0..10 {
                log.latency();
            }
        });
        let after = log.latency();
        assert_eq!(after.read.count + after.lost_samples, threads * PERIODS);
        assert!(after.read.count > 0);
    }

    #[test]
    fn short_lived_threads_are_sampled_as_often_as_others() {
        let due = (0..ONE_IN).map(|number| {
            let begun = Thread { number: Cell::new(number + 1), left: Default::default() };
            u64::from(begun.is_due(Operation::Append))
        });
        assert_eq!(due.sum::<u64>(), 1, "of as many threads that append once, one is timed");
    }

    #[test]
    fn a_sample_waits_for_nobody() {
        let profile = Profile::new();
        let mut held: Vec<_> = profile.shards.iter().map(|shard| shard.lock().expect("free")).collect();
        profile.record(Operation::Pull, 5);
        held.pop();
        profile.record(Operation::Pull, 7);
        drop(held);
        let after = profile.snapshot();
        assert_eq!((after.lost_samples, after.pull.count, after.pull.max), (1, 1, Some(7)));
    }

    #[test]
    fn percentiles_are_what_they_are_called() {
        let profile = Profile::new();
        for nanos in (1..=10_000).rev() {
            profile.record(Operation::Read, nanos * 1_000);
        }
        let Latency { count, p50, p90, p99, p99_9, p99_99, max, .. } = profile.snapshot().read;
        assert_eq!(count, 10_000);
        let expected = [5_000, 9_000, 9_900, 9_990, 9_999, 10_000];
        for (found, micros) in [p50, p90, p99, p99_9, p99_99, max].into_iter().zip(expected) {
            let found = found.expect("enough samples");
            assert!((micros * 1_000..=micros * 1_010).contains(&found), "{found} ns for {micros} µs");
        }
    }

    #[test]
    fn a_percentile_that_would_be_the_maximum_is_left_out() {
        let profile = Profile::new();
        let percentiles = |latency: Latency| {
            let Latency { p50, p90, p99, p99_9, p99_99, .. } = latency;
            [p50, p90, p99, p99_9, p99_99]
        };
        for nth in 1..=10_000 {
            profile.record(Operation::Append, 200);
            if ![1, 2, 9, 10, 99, 100, 999, 1_000, 9_999, 10_000].contains(&nth) {
                continue;
            }
            let latency = profile.snapshot().append;
            let enough = [2, 10, 100, 1_000, 10_000].map(|least| nth >= least);
            assert_eq!(percentiles(latency).map(|time| time.is_some()), enough, "of {nth}");
            assert_eq!(latency.max, Some(200));
        }
    }

    #[test]
    fn the_percentile_of_the_fewest_samples_is_not_the_maximum() {
        for one_in in [2, 10, 100, 1_000, 10_000] {
            let profile = Profile::new();
            (1..one_in).for_each(|_| profile.record(Operation::Append, 100));
            profile.record(Operation::Append, 200);
            let Latency { p50, p90, p99, p99_9, p99_99, max, .. } = profile.snapshot().append;
            let highest = [p50, p90, p99, p99_9, p99_99].into_iter().flatten().next_back();
            assert_eq!((highest, max), (Some(100), Some(200)), "of {one_in}");
        }
    }

    #[test]
    fn nothing_timed_has_no_times() {
        assert_eq!(crate::ChangeLog::new().latency().pull, Latency::default());
    }

    #[test]
    fn longer_than_the_longest_counts_as_the_longest() {
        let profile = Profile::new();
        profile.record(Operation::Append, u64::MAX);
        profile.record(Operation::Append, 0);
        assert_eq!(profile.snapshot().append.max, Some(LONGEST));
    }

    #[test]
    fn memory_is_what_the_essay_says() {
        assert_eq!(histogram().distinct_values() * size_of::<u64>(), 36 * 1024);
        assert_eq!(SHARDS * Operation::ALL.len() * 36, 2_880, "KiB: 2.8 MiB");
        let profile = Profile::new();
        profile.record(Operation::Append, 1);
        let made = |shard: &CachePadded<Mutex<Shard>>| shard.lock().expect("free").iter().flatten().count();
        assert_eq!(profile.shards.iter().map(made).sum::<usize>(), 1, "one thread, one operation");
    }

    #[test]
    fn the_hdr_log_comes_back_as_it_was() {
        let profile = Profile::new();
        (1..=1_000).for_each(|nanos| profile.record(Operation::AppendBatch, nanos));
        (1..=10).for_each(|nanos| profile.record(Operation::Pull, nanos * 1_000));
        let snapshot = profile.snapshot();
        let text = snapshot.hdr_log();
        let mut found = Vec::new();
        for entry in IntervalLogIterator::new(text.as_bytes()) {
            let LogEntry::Interval(interval) = entry.expect("well-formed") else { continue };
            let bytes = base64(interval.encoded_histogram());
            let histogram: Histogram<u64> =
                Deserializer::new().deserialize(&mut &bytes[..]).expect("a histogram");
            assert_eq!(interval.start_timestamp(), Duration::ZERO);
            found.push((interval.tag().expect("tagged").as_str().to_owned(), histogram));
        }
        let written = |operation: Operation| {
            (operation.as_str().to_owned(), snapshot.histograms[operation as usize].clone())
        };
        assert_eq!(found, [written(Operation::AppendBatch), written(Operation::Pull)]);
    }

    /// Decodes standard base64.
    fn base64(text: &str) -> Vec<u8> {
        const DIGITS: &[u8] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
        let digits: Vec<usize> =
            text.bytes().filter_map(|byte| DIGITS.iter().position(|digit| *digit == byte)).collect();
        let group = |group: &[usize]| {
            let bits = group.iter().fold(0, |bits, digit| bits << 6 | digit) << (6 * (4 - group.len()));
            (1..group.len()).map(|byte| (bits >> (24 - 8 * byte)) as u8).collect::<Vec<_>>()
        };
        digits.chunks(4).flat_map(group).collect()
    }

    #[test]
    fn as_text_a_snapshot_is_a_table() {
        let profile = Profile::new();
        (0..100).for_each(|_| profile.record(Operation::Append, 42));
        let text = profile.snapshot().to_string();
        let row = |name: &str| -> Vec<&str> {
            let line = text.lines().find(|line| line.split_whitespace().next() == Some(name));
            line.expect("a line").split_whitespace().skip(1).collect()
        };
        assert_eq!(row("ns"), ["samples", "p50", "p90", "p99", "p99.9", "p99.99", "max"]);
        assert_eq!(row("append"), ["100", "42", "42", "42", "-", "-", "42"]);
        assert_eq!(row("pull"), ["0", "-", "-", "-", "-", "-", "-"]);
        assert!(text.ends_with("one in 61 timed, 0 samples lost"), "{text}");
    }

    #[test]
    fn serialised_a_snapshot_is_its_fields() {
        let profile = Profile::new();
        profile.record(Operation::Read, 42);
        let json = serde_json::to_value(profile.snapshot()).expect("serialises");
        let expected = serde_json::json!({"count": 1, "p50": null, "p90": null, "p99": null, "p99_9": null,
            "p99_99": null, "max": 42});
        assert_eq!(json["read"], expected);
        assert_eq!(json["lost_samples"], 0);
    }
}
