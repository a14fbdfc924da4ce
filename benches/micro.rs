//! The engine beside the programs that one would write without it, on one workload, in one run.
//!
//! `cargo bench --bench micro` (all of it takes some minutes), or `-- append/2` for a part. The
//! workload and the contenders are those of `ringlog_bench::{workload, contenders}`. All do the
//! same work, the timestamp included, except `fetch_add` and `limit`, which are what no such
//! program can do without. With several writers, a time is the wall-clock time of all divided by
//! the events of all.
//!
//! Contenders run one after the other here, for minutes: for ratios, trust `cargo xtask speed`,
//! which alternates them.
#![forbid(unsafe_code)]

use criterion::{
    BenchmarkGroup, Criterion, Throughput, criterion_group, criterion_main, measurement::WallTime,
};
use ringlog_bench::contender::{Contender, Trial};
use ringlog_bench::contenders::{
    Batches, Broadcast, Counter, Disrupted, Limit, Plain, Pylon, Ringlog, Values,
};
use ringlog_bench::workload::{EVENTS, WINDOW};

fn bench_append(
    group: &mut BenchmarkGroup<'_, WallTime>,
    name: &str,
    writers: usize,
    contender: &dyn Contender,
) {
    let trial = Trial::new(contender);
    group.throughput(Throughput::Elements(1));
    group.bench_function(format!("{writers}/{name}"), |bencher| {
        bencher.iter_custom(|rounds| trial.append(writers, rounds));
    });
}

/// Appending one event, JSON text in.
fn append(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("append");
    for writers in [1, 2, 4] {
        bench_append(&mut group, "fetch_add", writers, &Counter::default());
        bench_append(&mut group, "limit", writers, &Limit::default());
        bench_append(&mut group, "ringlog", writers, &Ringlog::full(WINDOW));
        bench_append(&mut group, "mutex", writers, &Plain::full(WINDOW));
        bench_append(&mut group, "broadcast", writers, &Broadcast::default());
        bench_append(&mut group, "pylon", writers, &Pylon::full(WINDOW));
        // Its consumer spins: it wants a core more than there are writers.
        bench_append(&mut group, "disruptor", writers, &Disrupted::default());
    }
    group.finish();
}

/// The seed's own call, with a value made for each event.
fn append_value(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("append_value");
    for writers in [1, 2] {
        bench_append(&mut group, "ringlog", writers, &Values::of(Ringlog::full(WINDOW)));
        bench_append(&mut group, "pylon", writers, &Values::of(Pylon::full(WINDOW)));
    }
    group.finish();
}

/// Sixteen events in one call; times are for one event.
fn batch(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("batch_of_16");
    for writers in [1, 2] {
        bench_append(&mut group, "ringlog", writers, &Batches::full());
    }
    group.finish();
}

/// The last hundred events: in place, as JSON bytes, owned.
fn read(criterion: &mut Criterion) {
    for window in [1_000, 10_000, 100_000, 1_000_000] {
        let mut group = criterion.benchmark_group(format!("last_100_of_{window}"));
        let ringlog = Ringlog::full(window);
        let (after, mut out) = (ringlog.tail(), Vec::new());
        group.bench_function("read/ringlog", |bencher| bencher.iter(|| ringlog.read(after)));
        group.bench_function("json/ringlog", |bencher| bencher.iter(|| ringlog.read_json(after, &mut out)));
        group.bench_function("pull/ringlog", |bencher| bencher.iter(|| ringlog.read_owned(after)));
        let plain = Plain::full(window);
        let after = plain.last() - EVENTS;
        group.bench_function("read/mutex", |bencher| bencher.iter(|| plain.read_shared(after)));
        if window <= 100_000 {
            let pylon = Pylon::full(window);
            let after = pylon.tail();
            group.bench_function("pull/pylon", |bencher| bencher.iter(|| pylon.read_owned(&after)));
            group.bench_function("json/pylon", |bencher| bencher.iter(|| pylon.read_json(&after)));
        }
        group.finish();
    }
}

criterion_group! {
    name = benches;
    config = ringlog_bench::timing::criterion();
    targets = append, append_value, batch, read
}
criterion_main!(benches);
