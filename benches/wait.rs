//! What waiters cost writers.
//!
//! `cargo bench --bench wait` (half a minute), or `-- NAME` for the tables whose names hold that,
//! `-- --quick` for a look. Times are in nanoseconds, the exact ones of HDR histograms with three
//! digits. What a wake-up takes is in the table of targets: `cargo xtask speed wake`. Tables:
//!
//! - `append-far`: one append while so many wait for a seq far ahead;
//! - `append-tail`: one append that so many wait for;
//! - `append`: one append without waiters, many times over.
//!
//! Each measurement ends with a check that every event arrived.
#![forbid(unsafe_code)]

use clap::Parser;
use hdrhistogram::Histogram;
use ringlog::ChangeLog;
use ringlog_bench::timing::{histogram, nanos_since};
use ringlog_bench::wake::CHANGE;
use std::future::Future;
use std::task::{Context, Poll, Waker};
use std::time::Instant;

/// Measures what waiters cost writers.
#[derive(Debug, Parser)]
#[command(name = "wait")]
struct Args {
    /// Only the tables whose names hold this.
    #[arg(default_value = "")]
    filter: String,
    /// A tenth of the rounds, for a look.
    #[arg(long)]
    quick: bool,
    /// What cargo says to every bench.
    #[arg(long, hide = true)]
    bench: bool,
}

/// What is measured, under which name, in so many rounds.
type Table = (&'static str, fn(u64));

const TABLES: [Table; 3] = [("append-far", append_far), ("append-tail", append_tail), ("append", append)];

fn main() {
    let args = Args::parse();
    let rounds = if args.quick { 2_000 } else { 20_000 };
    for (name, table) in TABLES.into_iter().filter(|(name, _)| name.contains(&args.filter)) {
        println!("\n{name}, {rounds} rounds, nanoseconds");
        println!(
            "{:<28}{:>10}{:>10}{:>10}{:>10}{:>10}{:>12}",
            "", "min", "p50", "p90", "p99", "p99.9", "max"
        );
        table(rounds);
    }
}

fn print(name: &str, histogram: &Histogram<u64>, rounds: u64) {
    assert_eq!(histogram.len(), rounds, "{name}: every round was measured");
    let at = |percentile| histogram.value_at_percentile(percentile);
    let (min, max) = (histogram.min(), histogram.max());
    println!("{name:<28}{min:>10}{:>10}{:>10}{:>10}{:>10}{max:>12}", at(50.0), at(90.0), at(99.0), at(99.9));
}

const WAITERS: [usize; 4] = [0, 1, 100, 10_000];

/// Appends without waiters for their seqs, timed a hundred at a time.
fn append_far(rounds: u64) {
    for waiters in WAITERS {
        let log = ChangeLog::new();
        let mut sleepers: Vec<_> = (0..waiters).map(|_| Box::pin(log.wait_for(u64::MAX))).collect();
        let mut context = Context::from_waker(Waker::noop());
        for sleeper in &mut sleepers {
            assert!(sleeper.as_mut().poll(&mut context).is_pending());
        }
        print(&format!("{waiters} far waiters"), &appends(&log, rounds, 100), rounds);
        assert_eq!(log.stats().waiters, waiters as u64);
    }
}

/// Appends that all wait for, timed one at a time. Each wakes a few; the others are woken by
/// these, outside of the time.
fn append_tail(rounds: u64) {
    for waiters in WAITERS {
        let rounds = if waiters > 100 { rounds / 100 } else { rounds };
        let log = ChangeLog::new();
        let mut context = Context::from_waker(Waker::noop());
        let mut times = histogram();
        for round in 1..=rounds {
            let mut sleepers: Vec<_> = (0..waiters).map(|_| Box::pin(log.wait_for(round))).collect();
            for sleeper in &mut sleepers {
                assert!(sleeper.as_mut().poll(&mut context).is_pending());
            }
            let start = Instant::now();
            log.append_change(&CHANGE);
            times += nanos_since(start);
            for sleeper in &mut sleepers {
                assert_eq!(sleeper.as_mut().poll(&mut context), Poll::Ready(Ok(round)));
            }
        }
        assert_eq!((log.last_seq(), log.stats().waiters), (rounds, 0));
        print(&format!("{waiters} waiters at the tail"), &times, rounds);
    }
}

/// Appends without waiters, now or lately.
fn append(rounds: u64) {
    print("nobody waiting", &appends(&ChangeLog::new(), rounds, 1_000), rounds);
}

/// What one append takes, timed so many at a time.
fn appends(log: &ChangeLog, rounds: u64, at_once: u64) -> Histogram<u64> {
    let mut times = histogram();
    for _ in 0..rounds {
        let start = Instant::now();
        for _ in 0..at_once {
            log.append_change(&CHANGE);
        }
        times += nanos_since(start) / at_once;
    }
    assert_eq!(log.last_seq(), rounds * at_once);
    times
}
