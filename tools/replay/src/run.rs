//! The replay itself: all writers and readers at once, each on a thread of its own.

#![forbid(unsafe_code)]

use crate::database::Database;
use crate::latency::Latency;
use crate::plan::Share;
use crate::reader::{Reader, Way};
use indicatif::ProgressBar;
use ringlog::ChangeLog;
use std::sync::Barrier;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, ScopedJoinHandle};
use std::time::{Duration, Instant};

/// How often the progress bar moves.
const TICK: Duration = Duration::from_millis(100);

/// What is run, besides the input.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Load {
    /// How many times each writer goes through its share.
    pub(crate) repeat: u32,
    /// Whether a batch is appended with one call, or change by change.
    pub(crate) batch: bool,
    /// Readers, and the most events that one call of theirs asks for.
    pub(crate) readers: usize,
    pub(crate) limit: usize,
}

/// What a writer did.
#[derive(Debug)]
pub(crate) struct Written {
    /// The seqs of each call, first and last.
    pub(crate) ranges: Vec<(u64, u64)>,
    pub(crate) latency: Latency,
    pub(crate) started: Instant,
    pub(crate) ended: Instant,
}

/// What all threads did.
#[derive(Debug)]
pub(crate) struct Outcome<'a> {
    pub(crate) writers: Vec<Written>,
    /// Each reader, or the promise that it saw broken.
    pub(crate) readers: Vec<Result<Reader<'a>, String>>,
}

impl Outcome<'_> {
    /// From the first append of any writer to the last.
    pub(crate) fn appending(&self) -> Duration {
        let started = self.writers.iter().map(|writer| writer.started).min();
        let ended = self.writers.iter().map(|writer| writer.ended).max();
        started.zip(ended).map_or(Duration::ZERO, |(started, ended)| ended - started)
    }
}

/// Replays the writers' shares into the log while the readers follow.
pub(crate) fn run<'a>(
    log: &'a ChangeLog,
    database: Option<&'a Database>,
    shares: &[Share<'_>],
    load: Load,
    bar: &ProgressBar,
) -> Outcome<'a> {
    let start = Barrier::new(shares.len() + load.readers);
    let writers_done = AtomicBool::new(false);
    thread::scope(|scope| {
        let write = |(number, share)| {
            let start = &start;
            scope.spawn(move || {
                start.wait();
                write(log, database.map(|database| (database, number)), share, load)
            })
        };
        let read = |number: usize| {
            let (start, writers_done) = (&start, &writers_done);
            let way = Way::ALL[number % Way::ALL.len()];
            let reader = Reader::new(log, database, way, load.limit);
            scope.spawn(move || {
                start.wait();
                reader.follow(writers_done)
            })
        };
        let writers: Vec<_> = shares.iter().enumerate().map(write).collect();
        let readers: Vec<_> = (0..load.readers).map(read).collect();
        let progress = (!bar.is_hidden()).then(|| scope.spawn(|| show_progress(log, bar, &writers_done)));
        let writers: Vec<_> = writers.into_iter().map(ScopedJoinHandle::join).collect();
        // Also when a writer panicked: no reader waits for more.
        writers_done.store(true, Ordering::Release);
        if let Some(progress) = progress {
            progress.thread().unpark();
        }
        let readers = readers.into_iter().map(|reader| or_panic(reader.join())).collect();
        Outcome { writers: writers.into_iter().map(or_panic).collect(), readers }
    })
}

/// Passes a thread's panic on.
fn or_panic<T>(joined: thread::Result<T>) -> T {
    joined.unwrap_or_else(|panic| std::panic::resume_unwind(panic))
}

fn show_progress(log: &ChangeLog, bar: &ProgressBar, writers_done: &AtomicBool) {
    while !writers_done.load(Ordering::Acquire) {
        bar.set_position(log.head());
        thread::park_timeout(TICK);
    }
    bar.finish_and_clear();
}

fn write(log: &ChangeLog, store: Option<(&Database, usize)>, share: &Share<'_>, load: Load) -> Written {
    let started = Instant::now();
    let mut written = Written { ranges: Vec::new(), latency: Latency::new(), started, ended: started };
    for _ in 0..load.repeat {
        for batch in share {
            if let Some((database, writer)) = store {
                database.store(writer, &batch.ops);
            }
            if load.batch {
                written.call(|| log.append_batch(&batch.changes).into_inner());
            } else {
                for change in &batch.changes {
                    written.call(|| {
                        let seq = log.append_change(change);
                        (seq, seq)
                    });
                }
            }
        }
    }
    written.ended = Instant::now();
    written
}

impl Written {
    /// Times one appending call.
    fn call(&mut self, append: impl FnOnce() -> (u64, u64)) {
        let start = Instant::now();
        let (first, last) = append();
        self.latency.record(start.elapsed(), last + 1 - first);
        self.ranges.push((first, last));
    }
}
