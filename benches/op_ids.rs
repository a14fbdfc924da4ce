//! Op ids beside the programs that one would write without this crate, on one workload, in one run.
//!
//! `cargo bench --bench op_ids` (some two minutes), or `-- claim/4` for a part. The workload and
//! the contenders are those of `ringlog_bench::op_ids`. With several threads, a time is the
//! wall-clock time of all divided by the operations of all.
#![forbid(unsafe_code)]

use criterion::{
    BenchmarkGroup, Criterion, Throughput, criterion_group, criterion_main, measurement::WallTime,
};
use parking_lot::Mutex;
use ringlog::ChangeLog;
use ringlog_bench::op_ids::{Claims, OpIds, Seen, Trial};
use std::time::Duration;

/// What is done to a contender: by so many threads, for so many ids.
type Work<'a> = fn(&Trial<'a>, usize, u64) -> Duration;

/// Each contender on its own, by one thread and by four.
fn bench<'a>(
    group: &mut BenchmarkGroup<'_, WallTime>,
    what: &str,
    contenders: &[(&str, &'a dyn OpIds)],
    work: Work<'a>,
) {
    group.throughput(Throughput::Elements(1));
    for threads in [1, 4] {
        for (name, contender) in contenders {
            let trial = Trial::new(*contender);
            group.bench_function(format!("{what}{threads}/{name}"), |bencher| {
                bencher.iter_custom(|ids| work(&trial, threads, ids));
            });
        }
    }
}

/// Claiming an id that is not known, and completing it; the plain set and the seed only remember
/// it.
fn claim(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("claim");
    let (log, pylon) = (ChangeLog::new(), pylon_sync::ChangeLog::new());
    let (map, set) = (Mutex::new(Claims::default()), Mutex::new(Seen::default()));
    let contenders: [(&str, &dyn OpIds); 4] =
        [("ringlog", &log), ("mutex", &map), ("mutex_remember_only", &set), ("pylon", &pylon)];
    bench(&mut group, "", &contenders, Trial::claim);
    group.finish();
}

/// Asking whether an id is known: one that is not, as nearly always, and one that is.
fn has_seen(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("has_seen");
    let (log, set, pylon) = (ChangeLog::new(), Mutex::new(Seen::default()), pylon_sync::ChangeLog::new());
    let contenders: [(&str, &dyn OpIds); 3] = [("ringlog", &log), ("mutex", &set), ("pylon", &pylon)];
    bench(&mut group, "absent/", &contenders, |trial, threads, ids| trial.has_seen(threads, ids, false));
    bench(&mut group, "present/", &contenders, |trial, threads, ids| trial.has_seen(threads, ids, true));
    group.finish();
}

criterion_group! {
    name = benches;
    config = ringlog_bench::timing::criterion();
    targets = claim, has_seen
}
criterion_main!(benches);
