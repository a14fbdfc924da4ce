//! The engine beside the programs that one would write without it, on one workload, in one run.
//!
//! `cargo bench --bench micro` (all of it takes some minutes), or `-- append/2` for a part. The workload: entity
//! 4 bytes, row id 38, data 62 bytes of JSON text, a window of 10,000. Contenders:
//!
//! - `ringlog`: this crate;
//! - `mutex`: `parking_lot::Mutex<VecDeque<Arc<Event>>>` with owned strings, dropped outside the lock: the best plain program;
//! - `broadcast`: `tokio::sync::broadcast` of `Arc<Event>`;
//! - `pylon`: the crate `pylon-sync`, behind a lock of our own where it would deadlock;
//! - `counter`: a bare `fetch_add`, the floor.
//!
//! All do the same work, the timestamp included. With several writers, a time is the wall-clock time of all divided
//! by the events of all. Each measurement ends with a check of what the contender holds, so that nothing times an
//! empty loop.

use criterion::{
    BenchmarkGroup, Criterion, Throughput, criterion_group, criterion_main, measurement::WallTime,
};
use parking_lot::Mutex;
use pylon_sync as seed;
use ringlog::{Change, ChangeLog, SyncCursor};
use serde_json::value::RawValue;
use serde_json::{Value, json};
use std::collections::VecDeque;
use std::hint::black_box;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Barrier};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

const ENTITY: &str = "Todo";
const ROW_ID: &str = "row-0123456789abcdef0123456789abcdef01";
const DATA: &str = r#"{"title":"sixty-two bytes of JSON","done":false,"position":12}"#;
const WINDOW: usize = 10_000;

fn data() -> &'static RawValue {
    assert_eq!((ENTITY.len(), ROW_ID.len(), DATA.len()), (4, 38, 62), "the workload as stated");
    serde_json::from_str(DATA).expect("JSON")
}

/// Takes events from many threads, and knows afterwards how many it took.
trait Contender: Sync {
    fn append(&self);

    fn append_batch(&self, count: usize) {
        (0..count).for_each(|_| self.append());
    }

    /// How many events it has taken, by its own account.
    fn taken(&self) -> u64;
}

struct Ringlog {
    log: ChangeLog,
    data: &'static RawValue,
}

impl Ringlog {
    fn new(window: usize) -> Self {
        Self { log: ChangeLog::with_capacity(window), data: data() }
    }

    /// With a full window.
    fn full(window: usize) -> Self {
        let contender = Self::new(window);
        (0..2 * window).for_each(|_| contender.append());
        contender
    }
}

impl Contender for Ringlog {
    fn append(&self) {
        black_box(self.log.append_change(&Change::insert(ENTITY, ROW_ID).raw(self.data)));
    }

    fn append_batch(&self, count: usize) {
        let changes: [Change<'_>; 16] =
            std::array::from_fn(|_| Change::insert(ENTITY, ROW_ID).raw(self.data));
        black_box(self.log.append_batch(&changes[..count]));
    }

    fn taken(&self) -> u64 {
        self.log.head()
    }
}

/// The event of the plain programs.
#[derive(Clone)]
struct Event {
    seq: u64,
    entity: String,
    row_id: String,
    data: Option<String>,
    timestamp: u64,
}

impl Event {
    fn new(seq: u64) -> Arc<Self> {
        Arc::new(Self {
            seq,
            entity: ENTITY.to_owned(),
            row_id: ROW_ID.to_owned(),
            data: Some(DATA.to_owned()),
            timestamp: now(),
        })
    }

    /// Something of every field, for a check.
    fn sum(&self) -> u64 {
        let data = self.data.as_ref().map_or(0, String::len);
        self.seq + (self.entity.len() + self.row_id.len() + data) as u64 + self.timestamp % 2
    }
}

fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970").as_millis() as u64
}

#[derive(Default)]
struct Plain {
    window: Mutex<(u64, VecDeque<Arc<Event>>)>,
}

impl Contender for Plain {
    fn append(&self) {
        // All that can be done before the lock is; the seq must be taken under it.
        let mut event = Event::new(0);
        let fresh = Arc::get_mut(&mut event).expect("not shared yet");
        let evicted = {
            let (last, events) = &mut *self.window.lock();
            *last += 1;
            fresh.seq = *last;
            events.push_back(event);
            if events.len() > WINDOW { events.pop_front() } else { None }
        };
        drop(evicted);
    }

    fn taken(&self) -> u64 {
        self.window.lock().1.back().map_or(0, |event| event.seq)
    }
}

struct Broadcast {
    sender: tokio::sync::broadcast::Sender<Arc<Event>>,
    /// Without a receiver the channel keeps nothing.
    _receiver: tokio::sync::broadcast::Receiver<Arc<Event>>,
    sent: AtomicU64,
}

impl Default for Broadcast {
    fn default() -> Self {
        let (sender, receiver) = tokio::sync::broadcast::channel(WINDOW);
        Self { sender, _receiver: receiver, sent: AtomicU64::new(0) }
    }
}

impl Contender for Broadcast {
    fn append(&self) {
        let seq = self.sent.fetch_add(1, Ordering::Relaxed) + 1;
        assert!(self.sender.send(Event::new(seq)).is_ok());
    }

    fn taken(&self) -> u64 {
        self.sent.load(Ordering::Relaxed)
    }
}

/// The seed: it takes a `Value`, so JSON text must be parsed.
struct Pylon {
    log: Mutex<seed::ChangeLog>,
}

impl Pylon {
    fn new(window: usize) -> Self {
        Self { log: Mutex::new(seed::ChangeLog::with_capacity(window)) }
    }

    fn full(window: usize) -> Self {
        let contender = Self::new(window);
        (0..2 * window).for_each(|_| contender.append());
        contender
    }
}

impl Contender for Pylon {
    fn append(&self) {
        let data: Value = serde_json::from_str(DATA).expect("JSON");
        black_box(self.log.lock().append(ENTITY, ROW_ID, seed::ChangeKind::Insert, Some(data)));
    }

    fn taken(&self) -> u64 {
        let log = self.log.lock();
        let ahead = seed::SyncCursor { last_seq: u64::MAX };
        let seed::PullError::ResyncRequired { oldest_seq, .. } =
            log.pull(&ahead, 0).expect_err("a cursor ahead");
        oldest_seq - 1
    }
}

#[derive(Default)]
struct Counter(AtomicU64);

impl Contender for Counter {
    fn append(&self) {
        black_box(self.0.fetch_add(1, Ordering::Relaxed));
    }

    fn taken(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// The wall-clock time in which `writers` threads do `work` `rounds` times, all together.
fn timed(writers: usize, rounds: u64, work: impl Fn() + Sync) -> Duration {
    if writers == 1 {
        let start = Instant::now();
        (0..rounds).for_each(|_| work());
        return start.elapsed();
    }
    let barrier = Barrier::new(writers + 1);
    let mine = rounds.div_ceil(writers as u64);
    let elapsed = std::thread::scope(|scope| {
        for _ in 0..writers {
            scope.spawn(|| {
                barrier.wait();
                (0..mine).for_each(|_| work());
                barrier.wait();
            });
        }
        barrier.wait();
        let start = Instant::now();
        barrier.wait();
        start.elapsed()
    });
    // More rounds than asked for may have been done, by less than one a writer.
    elapsed.mul_f64(rounds as f64 / (mine * writers as u64) as f64)
}

fn bench_append(
    group: &mut BenchmarkGroup<'_, WallTime>,
    name: &str,
    writers: usize,
    contender: &dyn Contender,
) {
    group.bench_function(format!("{writers}/{name}"), |bencher| {
        bencher.iter_custom(|rounds| {
            let before = contender.taken();
            let elapsed = timed(writers, rounds, || contender.append());
            let expected = rounds.div_ceil(writers as u64) * writers as u64;
            assert_eq!(contender.taken() - before, expected, "{name} took every event");
            elapsed
        });
    });
}

/// Appending one event, JSON text in.
fn append(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("append");
    group.throughput(Throughput::Elements(1));
    for writers in [1, 2, 4] {
        bench_append(&mut group, "counter", writers, &Counter::default());
        bench_append(&mut group, "ringlog", writers, &Ringlog::full(WINDOW));
        bench_append(&mut group, "mutex", writers, &Plain::default());
        bench_append(&mut group, "broadcast", writers, &Broadcast::default());
        bench_append(&mut group, "pylon", writers, &Pylon::new(WINDOW));
    }
    group.finish();
}

/// The seed's own call, with a `Value` made for each event.
fn append_value(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("append_value");
    let value = json!({"title": "sixty-two bytes of JSON", "done": false, "position": 12});
    for writers in [1, 2] {
        let log = ChangeLog::with_capacity(WINDOW);
        let seed = Mutex::new(seed::ChangeLog::with_capacity(WINDOW));
        group.bench_function(format!("{writers}/ringlog"), |bencher| {
            bencher.iter_custom(|rounds| {
                timed(writers, rounds, || {
                    black_box(log.append(ENTITY, ROW_ID, ringlog::ChangeKind::Insert, Some(value.clone())));
                })
            });
        });
        group.bench_function(format!("{writers}/pylon"), |bencher| {
            bencher.iter_custom(|rounds| {
                timed(writers, rounds, || {
                    let value = Some(value.clone());
                    black_box(seed.lock().append(ENTITY, ROW_ID, seed::ChangeKind::Insert, value));
                })
            });
        });
        // Both took events, or neither was asked to.
        assert_eq!(log.is_empty(), seed.lock().is_empty());
    }
    group.finish();
}

/// Sixteen events in one call; times are for one event.
fn batch(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("batch_of_16");
    for writers in [1, 2] {
        let contender = Ringlog::full(WINDOW);
        group.bench_function(format!("{writers}/ringlog"), |bencher| {
            bencher.iter_custom(|rounds| {
                let before = contender.taken();
                let elapsed = timed(writers, rounds, || contender.append_batch(16));
                assert_eq!(contender.taken() - before, rounds.div_ceil(writers as u64) * writers as u64 * 16);
                elapsed / 16
            });
        });
    }
    group.finish();
}

/// The last hundred events: in place, as JSON bytes, owned.
fn read(criterion: &mut Criterion) {
    for window in [1_000, 10_000, 100_000, 1_000_000] {
        let mut group = criterion.benchmark_group(format!("last_100_of_{window}"));
        let ringlog = Ringlog::full(window);
        let after = ringlog.log.head() - 100;
        group.bench_function("read/ringlog", |bencher| {
            bencher.iter(|| {
                let batch = ringlog.log.read(after, 100).expect("in the window");
                let bytes: usize =
                    batch.iter().map(|event| event.row_id().len() + event.entity().len()).sum();
                assert_eq!(bytes, 100 * 42);
                batch.cursor().seq
            });
        });
        let mut out = Vec::new();
        group.bench_function("json/ringlog", |bencher| {
            bencher.iter(|| {
                out.clear();
                let summary = ringlog.log.pull_json(after, 100, &mut out).expect("in the window");
                assert_eq!(summary.count, 100);
                out.len()
            });
        });
        let cursor = SyncCursor { last_seq: after };
        group.bench_function("pull/ringlog", |bencher| {
            bencher.iter(|| {
                let response = ringlog.log.pull(&cursor, 100).expect("in the window");
                assert_eq!(response.changes.len(), 100);
                response
            });
        });
        if window <= 100_000 {
            read_seed(&mut group, window);
        }
        group.finish();
    }
}

fn read_seed(group: &mut BenchmarkGroup<'_, WallTime>, window: usize) {
    let pylon = Pylon::full(window);
    let cursor = seed::SyncCursor { last_seq: pylon.taken() - 100 };
    group.bench_function("pull/pylon", |bencher| {
        bencher.iter(|| {
            let response = pylon.log.lock().pull(&cursor, 100).expect("in the window");
            assert_eq!(response.changes.len(), 100);
            response
        });
    });
    group.bench_function("json/pylon", |bencher| {
        bencher.iter(|| {
            let response = pylon.log.lock().pull(&cursor, 100).expect("in the window");
            let body = serde_json::to_vec(&response).expect("it serialises");
            assert!(body.len() > 100 * 104);
            body
        });
    });
}

/// The last hundred events of the plain program, by reference count.
fn read_plain(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("last_100_of_10000");
    let plain = Plain::default();
    (0..2 * WINDOW).for_each(|_| plain.append());
    group.bench_function("read/mutex", |bencher| {
        bencher.iter(|| {
            let events: Vec<_> = plain.window.lock().1.range(WINDOW - 100..).cloned().collect();
            let sum: u64 = events.iter().map(|event| event.sum()).sum();
            assert!(sum > 100 * 104);
            sum
        });
    });
    group.finish();
}

fn quick() -> Criterion {
    Criterion::default()
        .warm_up_time(Duration::from_millis(300))
        .measurement_time(Duration::from_millis(1500))
}

criterion_group! {
    name = benches;
    config = quick();
    targets = append, append_value, batch, read, read_plain
}
criterion_main!(benches);
