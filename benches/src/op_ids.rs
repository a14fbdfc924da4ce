//! Contenders that remember op ids. The workload: ids of 36 bytes, as UUIDs, and a window that is
//! full.
//!
//! - this crate;
//! - [`Claims`], a `HashMap` and a `VecDeque` behind a lock: in flight, or done with a result;
//! - [`Sharded`], [`SHARDS`] of these, each behind a lock of its own;
//! - [`Seen`], a `HashSet` and a `VecDeque` behind a lock: remembered or not;
//! - pylon-sync, which has no claims: it asks, then remembers.
//!
//! What a claim evicts is dropped outside the lock. To make the text of an id takes nearly as long
//! as to look for it: those that are asked after are made before. Those that are claimed are new
//! each time, so that making them is part of it, the same for all.

use crate::timing::{histogram, nanos_since, timed};
use crate::workload::WINDOW;
use crossbeam_utils::CachePadded;
use foldhash::fast::RandomState as FastState;
use hdrhistogram::Histogram;
use parking_lot::Mutex;
use ringlog::{ChangeLog, OpClaim};
use std::collections::{HashMap, HashSet, VecDeque};
use std::hash::{BuildHasher, RandomState};
use std::hint::black_box;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// The text of an id, with its number at the end.
struct Id([u8; Id::LEN]);

impl Id {
    const LEN: usize = 36;

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
pub trait OpIds: Sync {
    /// Claims an operation that is not known yet, and completes it.
    fn claim_and_complete(&self, op_id: &str, seq: u64);

    /// Whether it was done.
    fn has_seen(&self, op_id: &str) -> bool;

    /// How many operations it was told of, by its own account, if it keeps one.
    fn completed(&self) -> Option<u64> {
        None
    }
}

impl OpIds for ChangeLog {
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
pub struct Claims<S = RandomState> {
    known: HashMap<Arc<str>, Option<u64>, S>,
    /// Completed ids, the oldest first.
    order: VecDeque<Arc<str>>,
    capacity: usize,
}

impl<S: Default> Default for Claims<S> {
    fn default() -> Self {
        Self { known: HashMap::default(), order: VecDeque::new(), capacity: WINDOW }
    }
}

impl<S: BuildHasher + Send> OpIds for Mutex<Claims<S>> {
    fn claim_and_complete(&self, op_id: &str, seq: u64) {
        let key: Arc<str> = op_id.into();
        let first = self.lock().known.insert(Arc::clone(&key), None).is_none();
        assert!(first, "nobody did it");
        let evicted = {
            let claims = &mut *self.lock();
            let state = claims.known.get_mut(op_id).expect("in flight");
            assert!(state.replace(seq).is_none(), "nobody completed it");
            claims.order.push_back(key);
            let full = claims.order.len() > claims.capacity;
            let evicted = if full { claims.order.pop_front() } else { None };
            evicted.map(|key| (claims.known.remove_entry(&key), key))
        };
        drop(evicted);
    }

    fn has_seen(&self, op_id: &str) -> bool {
        self.lock().known.get(op_id).is_some_and(Option::is_some)
    }
}

/// The number of shards of [`Sharded`].
pub const SHARDS: usize = 64;

/// The best program with locks, and with a quick hash: the shards share nothing. Each evicts by
/// itself, so the window is not exactly the last ids.
pub struct Sharded {
    shards: Vec<CachePadded<Mutex<Claims<FastState>>>>,
    hasher: FastState,
}

impl Default for Sharded {
    fn default() -> Self {
        let claims = || Claims { capacity: WINDOW / SHARDS, ..Claims::default() };
        let shard = || CachePadded::new(Mutex::new(claims()));
        Self { shards: (0..SHARDS).map(|_| shard()).collect(), hasher: FastState::default() }
    }
}

impl Sharded {
    fn shard(&self, op_id: &str) -> &Mutex<Claims<FastState>> {
        // The maps' own hashes take the low bits.
        &self.shards[(self.hasher.hash_one(op_id) >> 58) as usize % SHARDS]
    }
}

impl OpIds for Sharded {
    fn claim_and_complete(&self, op_id: &str, seq: u64) {
        self.shard(op_id).claim_and_complete(op_id, seq);
    }

    fn has_seen(&self, op_id: &str) -> bool {
        self.shard(op_id).has_seen(op_id)
    }
}

/// The best plain program for ids that are only remembered.
#[derive(Debug, Default)]
pub struct Seen {
    known: HashSet<Arc<str>>,
    order: VecDeque<Arc<str>>,
}

impl OpIds for Mutex<Seen> {
    fn claim_and_complete(&self, op_id: &str, _seq: u64) {
        let key: Arc<str> = op_id.into();
        let seen = &mut *self.lock();
        assert!(seen.known.insert(Arc::clone(&key)), "nobody did it");
        seen.order.push_back(key);
        if seen.order.len() > WINDOW {
            let evicted = seen.order.pop_front();
            evicted.map(|key| seen.known.remove(&key));
        }
    }

    fn has_seen(&self, op_id: &str) -> bool {
        self.lock().known.contains(op_id)
    }
}

impl OpIds for pylon_sync::ChangeLog {
    fn claim_and_complete(&self, op_id: &str, _seq: u64) {
        assert!(!self.has_seen_op_id(op_id), "nobody did it");
        self.remember_op_id(op_id);
    }

    fn has_seen(&self, op_id: &str) -> bool {
        self.has_seen_op_id(op_id)
    }
}

/// A contender with a full window, and ids that are not claimed yet.
pub struct Trial {
    contender: Box<dyn OpIds>,
    next: AtomicU64,
}

/// The first number of ids that are never claimed.
const ABSENT: u64 = 1 << 47;

impl Trial {
    /// Fills the contender's window.
    pub fn new(contender: Box<dyn OpIds>) -> Self {
        let trial = Self { contender, next: AtomicU64::new(0) };
        trial.claim(1, WINDOW as u64);
        trial
    }

    /// How long so many threads take to claim and complete so many new ids in all.
    pub fn claim(&self, threads: usize, ids: u64) -> Duration {
        self.each_new(threads, ids, |mine, first, id| {
            for number in mine {
                self.contender.claim_and_complete(id.number(first + number), first + number + 1);
            }
        })
    }

    /// How long a claim and its completion take, each by itself, with so many threads at it.
    pub fn claim_times(&self, threads: usize, ids: u64) -> Histogram<u64> {
        let all = Mutex::new(histogram());
        self.each_new(threads, ids, |mine, first, id| {
            let mut times = histogram();
            for number in mine {
                let op_id = id.number(first + number);
                let start = Instant::now();
                self.contender.claim_and_complete(op_id, first + number + 1);
                times.saturating_record(nanos_since(start));
            }
            all.lock().add(&times).expect("the same bounds");
        });
        all.into_inner()
    }

    /// Has so many threads work on new ids, and checks that all were completed.
    fn each_new(&self, threads: usize, ids: u64, work: impl Fn(Range<u64>, u64, &mut Id) + Sync) -> Duration {
        let (first, before) = (self.next.fetch_add(ids, Ordering::Relaxed), self.contender.completed());
        let time = timed(threads, ids, |_, mine| work(mine, first, &mut Id::new()));
        assert_eq!(self.contender.completed(), before.map(|before| before + ids), "it did them all");
        time
    }

    /// How long so many threads take to ask after so many ids in all, which are not there.
    pub fn has_seen(&self, threads: usize, ids: u64) -> Duration {
        let mut id = Id::new();
        let all: String =
            (ABSENT..ABSENT + WINDOW as u64).map(|number| id.number(number).to_owned()).collect();
        let right = AtomicU64::new(0);
        let time = timed(threads, ids, |_, mine| {
            let answers = mine.map(|number| {
                let start = number as usize % WINDOW * Id::LEN;
                black_box(self.contender.has_seen(&all[start..start + Id::LEN]))
            });
            right.fetch_add(answers.filter(|seen| !seen).count() as u64, Ordering::Relaxed);
        });
        assert_eq!(right.into_inner(), ids, "the right answer to each");
        time
    }
}
