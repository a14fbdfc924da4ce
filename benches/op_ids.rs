//! Op ids beside the programs that one would write without this crate, on one workload, in one run.
//!
//! `cargo bench --bench op_ids` (some two minutes), or `-- claim/4` for a part. The workload: ids of 36 bytes, as UUIDs, a
//! window of 10,000 that is full. Contenders:
//!
//! - `ringlog`: this crate;
//! - `mutex`: `parking_lot::Mutex` around a `HashSet` and a `VecDeque`, for ids that are only remembered; around a
//!   `HashMap` and a `VecDeque`, for ids that are claimed first. What is evicted is dropped outside the lock;
//! - `pylon`: the crate `pylon-sync`, which has no claims: it asks, then remembers.
//!
//! With several threads, a time is the wall-clock time of all divided by the operations of all. Making the id is part
//! of each operation, and the same for all. Each measurement ends with a check of what the contender counted, so that
//! nothing times an empty loop.

use criterion::{
    BenchmarkGroup, Criterion, Throughput, criterion_group, criterion_main, measurement::WallTime,
};
use parking_lot::Mutex;
use ringlog::{ChangeLog, OpClaim};
use std::collections::{HashMap, HashSet, VecDeque};
use std::hint::black_box;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Barrier};
use std::time::{Duration, Instant};

const WINDOW: usize = 10_000;

/// The text of an id, with its number at the end.
struct Id([u8; 36]);

impl Id {
    fn new() -> Self {
        Self(*b"0b9a7d1e-4c0f-4e6b-9a77-000000000000")
    }

    fn number(&mut self, mut number: u64) -> &str {
        for byte in self.0[24..].iter_mut().rev() {
            *byte = b"0123456789abcdef"[(number % 16) as usize];
            number /= 16;
        }
        std::str::from_utf8(&self.0).expect("ASCII")
    }
}

/// Remembers what was done.
trait Contender: Sync {
    /// Asks whether it may do an operation that nobody did, and says that it is done.
    fn claim_and_complete(&self, op_id: &str, seq: u64);

    fn has_seen(&self, op_id: &str) -> bool;

    /// How many operations it was told of, by its own account, as far as it keeps one.
    fn completed(&self) -> Option<u64>;
}

impl Contender for ChangeLog {
    fn claim_and_complete(&self, op_id: &str, seq: u64) {
        match self.claim_op_id(op_id) {
            OpClaim::Proceed(guard) => guard.complete(seq),
            other => panic!("{other:?}"),
        }
    }

    fn has_seen(&self, op_id: &str) -> bool {
        self.has_seen_op_id(op_id)
    }

    fn completed(&self) -> Option<u64> {
        Some(self.stats().op_ids_completed)
    }
}

/// The best plain program for claims: in flight is `None`, completed the seq.
#[derive(Default)]
struct Claims {
    known: HashMap<Arc<str>, Option<u64>>,
    order: VecDeque<Arc<str>>,
    completed: u64,
}

impl Contender for Mutex<Claims> {
    fn claim_and_complete(&self, op_id: &str, seq: u64) {
        let key: Arc<str> = op_id.into();
        let first = self.lock().known.insert(Arc::clone(&key), None).is_none();
        assert!(first, "nobody did it");
        let evicted = {
            let claims = &mut *self.lock();
            if let Some(state) = claims.known.get_mut(op_id) {
                *state = Some(seq);
            }
            claims.order.push_back(key);
            claims.completed += 1;
            let evicted = if claims.order.len() > WINDOW { claims.order.pop_front() } else { None };
            evicted.map(|key| (claims.known.remove(&key), key))
        };
        drop(evicted);
    }

    fn has_seen(&self, op_id: &str) -> bool {
        self.lock().known.get(op_id).is_some_and(Option::is_some)
    }

    fn completed(&self) -> Option<u64> {
        Some(self.lock().completed)
    }
}

/// The best plain program for ids that are only remembered.
#[derive(Default)]
struct Seen {
    known: HashSet<Arc<str>>,
    order: VecDeque<Arc<str>>,
    completed: u64,
}

impl Contender for Mutex<Seen> {
    fn claim_and_complete(&self, op_id: &str, _seq: u64) {
        let key: Arc<str> = op_id.into();
        let evicted = {
            let seen = &mut *self.lock();
            assert!(seen.known.insert(Arc::clone(&key)), "nobody did it");
            seen.order.push_back(key);
            seen.completed += 1;
            let evicted = if seen.order.len() > WINDOW { seen.order.pop_front() } else { None };
            evicted.map(|key| (seen.known.remove(&key), key))
        };
        drop(evicted);
    }

    fn has_seen(&self, op_id: &str) -> bool {
        self.lock().known.contains(op_id)
    }

    fn completed(&self) -> Option<u64> {
        Some(self.lock().completed)
    }
}

impl Contender for pylon_sync::ChangeLog {
    fn claim_and_complete(&self, op_id: &str, _seq: u64) {
        assert!(!self.has_seen_op_id(op_id), "nobody did it");
        self.remember_op_id(op_id);
    }

    fn has_seen(&self, op_id: &str) -> bool {
        self.has_seen_op_id(op_id)
    }

    fn completed(&self) -> Option<u64> {
        None
    }
}

/// The wall-clock time in which `threads` threads do `work` for `rounds` ids, and how many it was done for. `number` says
/// which the first, second and so on are.
fn timed(
    threads: u64,
    rounds: u64,
    number: impl Fn(u64) -> u64 + Sync,
    work: impl Fn(&str, u64) + Sync,
) -> (Duration, u64) {
    let mine = rounds.div_ceil(threads);
    let barrier = Barrier::new(threads as usize + 1);
    let elapsed = std::thread::scope(|scope| {
        for thread in 0..threads {
            let (work, number, barrier) = (&work, &number, &barrier);
            scope.spawn(move || {
                let mut id = Id::new();
                barrier.wait();
                for round in thread * mine..(thread + 1) * mine {
                    let number = number(round);
                    work(id.number(number), number);
                }
                barrier.wait();
            });
        }
        barrier.wait();
        let start = Instant::now();
        barrier.wait();
        start.elapsed()
    });
    // More rounds than asked for may have been done, by less than one a thread.
    (elapsed.mul_f64(rounds as f64 / (mine * threads) as f64), mine * threads)
}

/// A full window: the numbers below `WINDOW`.
fn filled<C: Contender>(contender: C) -> C {
    let mut id = Id::new();
    (0..WINDOW as u64).for_each(|number| contender.claim_and_complete(id.number(number), number + 1));
    assert!(contender.has_seen(id.number(0)) && contender.has_seen(id.number(WINDOW as u64 - 1)));
    contender
}

fn bench_claims(
    group: &mut BenchmarkGroup<'_, WallTime>,
    name: &str,
    threads: u64,
    contender: &impl Contender,
) {
    // Each number once, in all of the bench.
    let next = AtomicU64::new(WINDOW as u64);
    group.bench_function(format!("{threads}/{name}"), |bencher| {
        bencher.iter_custom(|rounds| {
            let before = contender.completed();
            let first = next.fetch_add(rounds + threads, Ordering::Relaxed);
            let (elapsed, done) = timed(
                threads,
                rounds,
                |n| first + n,
                |op_id, number| {
                    contender.claim_and_complete(op_id, number + 1);
                },
            );
            assert_eq!(contender.completed(), before.map(|before| before + done), "{name} did them all");
            elapsed
        });
    });
}

/// Claiming an id that nobody knows, and completing it; the plain set and the seed only remember it.
fn claim(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("claim");
    group.throughput(Throughput::Elements(1));
    for threads in [1, 4] {
        bench_claims(&mut group, "ringlog", threads, &filled(ChangeLog::new()));
        bench_claims(&mut group, "mutex", threads, &filled(Mutex::new(Claims::default())));
        bench_claims(&mut group, "mutex_remember_only", threads, &filled(Mutex::new(Seen::default())));
        bench_claims(&mut group, "pylon", threads, &filled(pylon_sync::ChangeLog::new()));
    }
    group.finish();
}

fn bench_look_ups(
    group: &mut BenchmarkGroup<'_, WallTime>,
    name: &str,
    threads: u64,
    there: bool,
    contender: &impl Contender,
) {
    let what = if there { "present" } else { "absent" };
    group.bench_function(format!("{what}/{threads}/{name}"), |bencher| {
        bencher.iter_custom(|rounds| {
            let wrong = AtomicU64::new(0);
            let (elapsed, done) = timed(
                threads,
                rounds,
                |n| n % WINDOW as u64,
                |op_id, _| {
                    if black_box(contender.has_seen(op_id)) != there {
                        wrong.fetch_add(1, Ordering::Relaxed);
                    }
                },
            );
            let wrong = wrong.into_inner();
            assert!(done > 0 && wrong == 0, "{name}: {wrong} of {done} answers are wrong");
            elapsed
        });
    });
}

/// Asking whether an id is known: one that is not, as nearly always, and one that is.
fn has_seen(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("has_seen");
    group.throughput(Throughput::Elements(1));
    for there in [false, true] {
        for threads in [1, 4] {
            let (log, seen) = (ChangeLog::new(), Mutex::new(Seen::default()));
            let pylon = pylon_sync::ChangeLog::new();
            let base = if there { 0 } else { 1 << 40 };
            for contender in [&log as &dyn Contender, &seen, &pylon] {
                let mut id = Id::new();
                (0..WINDOW as u64).for_each(|n| contender.claim_and_complete(id.number(base + n), n + 1));
            }
            bench_look_ups(&mut group, "ringlog", threads, there, &log);
            bench_look_ups(&mut group, "mutex", threads, there, &seen);
            bench_look_ups(&mut group, "pylon", threads, there, &pylon);
        }
    }
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
    targets = claim, has_seen
}
criterion_main!(benches);
