//! The contenders of the table of targets, one after the other and for longer.
//!
//! `cargo bench --bench micro` (all of it takes some minutes), or `-- append/2` for a part. Names
//! are those of the rows of `cargo xtask speed`. With several writers, a time is the wall-clock
//! time of all divided by the events of all. For ratios, trust `cargo xtask speed`, which
//! alternates the contenders.
#![forbid(unsafe_code)]

use criterion::{Criterion, Throughput};
use ringlog_bench::speed::{ROWS, Row};
use std::time::Duration;

fn main() {
    // As shortly as it can be done, since there is much to measure.
    let mut criterion = Criterion::default()
        .warm_up_time(Duration::from_millis(300))
        .measurement_time(Duration::from_millis(1500))
        .configure_from_args();
    for (name, row) in ROWS {
        let Row::Contests(contests) = row else { continue };
        for contest in contests() {
            // A row may have several contests, about different things.
            let what = &contest.comparisons[0].what;
            let mut group = criterion.benchmark_group(format!("{name}: {what}"));
            group.throughput(Throughput::Elements(1));
            for (name, mut run) in contest.contestants {
                group.bench_function(name, |bencher| bencher.iter_custom(&mut run));
            }
            group.finish();
        }
    }
    criterion.final_summary();
}
