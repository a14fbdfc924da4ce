//! What waiters cost writers.
//!
//! `cargo bench --bench wait` (half a minute), or `-- --quick` for a look. Times are in
//! nanoseconds, the exact ones of HDR histograms with three digits. What a wake-up takes is in the
//! table of targets: `cargo xtask speed wake`. Measured is one append:
//!
//! - while so many wait for a seq far ahead, timed a hundred at a time;
//! - that so many wait for, timed one at a time. It wakes a few; the others are woken by these,
//!   outside of the time.
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
    /// A tenth of the rounds, for a look.
    #[arg(long)]
    quick: bool,
    /// What cargo says to every bench.
    #[arg(long, hide = true)]
    bench: bool,
}

const WAITERS: [usize; 4] = [0, 1, 100, 10_000];

fn main() {
    let rounds = if Args::parse().quick { 2_000 } else { 20_000 };
    println!("{:<28}{:>10}{:>10}{:>10}{:>10}{:>10}{:>12}", "", "min", "p50", "p90", "p99", "p99.9", "max");
    for waiters in WAITERS {
        print(&format!("{waiters} far waiters"), &append_far(waiters, rounds));
    }
    for waiters in WAITERS {
        let rounds = if waiters > 100 { rounds / 100 } else { rounds };
        print(&format!("{waiters} waiters at the tail"), &append_tail(waiters, rounds));
    }
}

fn print(name: &str, times: &Histogram<u64>) {
    let [p50, p90, p99, p999] = [50.0, 90.0, 99.0, 99.9].map(|percent| times.value_at_percentile(percent));
    let (min, max) = (times.min(), times.max());
    println!("{name:<28}{min:>10}{p50:>10}{p90:>10}{p99:>10}{p999:>10}{max:>12}");
}

fn append_far(waiters: usize, rounds: u64) -> Histogram<u64> {
    const AT_ONCE: u64 = 100;
    let (log, mut times) = (ChangeLog::new(), histogram());
    let mut context = Context::from_waker(Waker::noop());
    let mut sleepers: Vec<_> = (0..waiters).map(|_| Box::pin(log.wait_for(u64::MAX))).collect();
    for sleeper in &mut sleepers {
        assert!(sleeper.as_mut().poll(&mut context).is_pending());
    }
    for _ in 0..rounds {
        let start = Instant::now();
        for _ in 0..AT_ONCE {
            log.append_change(&CHANGE);
        }
        times += nanos_since(start) / AT_ONCE;
    }
    assert_eq!((log.last_seq(), log.stats().waiters), (rounds * AT_ONCE, waiters as u64));
    times
}

fn append_tail(waiters: usize, rounds: u64) -> Histogram<u64> {
    let (log, mut times) = (ChangeLog::new(), histogram());
    let mut context = Context::from_waker(Waker::noop());
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
    times
}
