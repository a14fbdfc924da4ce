//! Small programs for several threads on one log, from arbitrary bytes; and running them, with
//! everything recorded.
#![allow(dead_code, reason = "each test program uses a part")]

use super::history::{Answer, Books, Call, ClaimAnswer, Did, History, Row, Time};
use ringlog::{Change, ChangeLog, EventRef, OpClaim, OpGuard, ResyncReason};
use serde_json::value::RawValue;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering, fence};
use std::sync::{Arc, Barrier};
use std::thread;
use std::time::{Duration, Instant};

/// Threads of a program, at most.
const MAX_THREADS: usize = 4;
/// So many op ids, so that they meet.
const IDS: u8 = 6;
/// A claim is held for so many steps at most.
const MAX_HELD: usize = 3;

/// Runs the program that bytes stand for, and checks what came of it.
pub(crate) fn check(bytes: &[u8]) {
    let history = Program::from_bytes(bytes).run();
    if let Err(violation) = super::history::check(&history) {
        panic!("{violation:?}");
    }
}

/// What several threads do to one log.
#[derive(Debug, Clone)]
pub(crate) struct Program {
    capacity: usize,
    op_id_capacity: usize,
    threads: Vec<Vec<Step>>,
}

#[derive(Debug, Clone, Copy)]
enum Step {
    /// One event, with so much padding.
    Append(u8),
    Batch(u8),
    /// The reader of this thread goes on, with this limit.
    Read(u8),
    /// The same by a follower, which waits for a moment when there is nothing.
    Follow(u8),
    /// A read from so many seqs before the last one.
    ReadNear(u8),
    Head,
    /// A wait for a seq near the last one.
    Wait(u8),
    Claim(u8),
    /// The oldest held claim is completed.
    Complete,
    /// The oldest held claim is dropped.
    Forget,
    Ask(u8),
    Yield,
    Spin(u8),
}

impl Program {
    /// Reads a program from bytes: any bytes are one.
    pub(crate) fn from_bytes(bytes: &[u8]) -> Self {
        let mut bytes = bytes.iter().copied();
        let mut byte = || bytes.next();
        let capacity = match byte().unwrap_or(0) {
            small @ 0..=63 => usize::from(small),
            large => usize::from(large) * 16,
        };
        let op_id_capacity = usize::from(byte().unwrap_or(0) % 12);
        let mut threads = vec![Vec::new(); 2 + usize::from(byte().unwrap_or(0)) % (MAX_THREADS - 1)];
        let count = threads.len();
        while let (Some(what), Some(size)) = (byte(), byte()) {
            threads[usize::from(what >> 4) % count].push(Step::from_bytes(what & 15, size));
        }
        Self { capacity, op_id_capacity, threads }
    }

    /// Runs it, each thread's steps on a thread of its own.
    pub(crate) fn run(&self) -> History {
        let log = ChangeLog::builder().capacity(self.capacity).op_id_capacity(self.op_id_capacity).build();
        let log = Arc::new(log.expect("small capacities"));
        let (start, held) = (Instant::now(), AtomicUsize::new(0));
        let line = Barrier::new(self.threads.len());
        let calls = thread::scope(|scope| {
            let (log, line, held) = (&log, &line, &held);
            let threads: Vec<_> = (0..)
                .zip(&self.threads)
                .map(|(number, steps)| {
                    scope.spawn(move || {
                        line.wait();
                        let mut actor = Actor::new(number, log, start, held);
                        for step in steps {
                            actor.take(*step);
                        }
                        // The books are read when all claims are released.
                        actor.release_all();
                        line.wait();
                        actor.drain();
                        actor.calls
                    })
                })
                .collect();
            threads.into_iter().flat_map(|thread| thread.join().expect("an actor")).collect()
        });
        let stats = log.stats();
        let books = Books {
            appended: stats.appended,
            superseded: stats.superseded,
            head: stats.head,
            completed: stats.op_ids_completed,
            forgotten: stats.op_claims_forgotten,
            replayed: stats.op_claims_replayed,
            in_flight: stats.op_claims_in_flight,
        };
        let (capacity, op_id_capacity) = (self.capacity as u64, self.op_id_capacity as u64);
        History { capacity, op_id_capacity, calls, books }
    }
}

impl Step {
    fn from_bytes(what: u8, size: u8) -> Self {
        match what {
            0..=2 => Self::Append(size),
            3 => Self::Batch(size % 12),
            4..=5 => Self::Read(size),
            6 => Self::Follow(size),
            7 => Self::ReadNear(size),
            8 => Self::Head,
            9 => Self::Wait(size),
            10..=11 => Self::Claim(size % IDS),
            12 => Self::Complete,
            13 => Self::Forget,
            14 => Self::Ask(size % IDS),
            _ if size < 128 => Self::Yield,
            _ => Self::Spin(size),
        }
    }
}

/// One thread, and what it has done.
struct Actor<'a> {
    number: usize,
    log: &'a Arc<ChangeLog>,
    start: Instant,
    /// The number of the next claim that proceeds, of any thread.
    next_held: &'a AtomicUsize,
    cursor: u64,
    held: Vec<(usize, OpGuard<'a>)>,
    rows: u64,
    calls: Vec<Call>,
    /// Written for the sake of the order that writing it keeps.
    latest: AtomicU64,
}

impl<'a> Actor<'a> {
    fn new(number: usize, log: &'a Arc<ChangeLog>, start: Instant, next_held: &'a AtomicUsize) -> Self {
        let (held, calls, latest) = (Vec::new(), Vec::new(), AtomicU64::new(0));
        Self { number, log, start, next_held, cursor: 0, held, rows: 0, calls, latest }
    }

    /// The time, such that what this thread stored before has arrived everywhere, and what it does
    /// next has not begun.
    ///
    /// Without this a store may still be on its way when a clock says that its call has returned:
    /// that a read elsewhere misses it then is no fault, since nothing told that reader of the
    /// call.
    fn now(&self) -> Time {
        fence(Ordering::SeqCst);
        let now = self.start.elapsed().as_nanos() as Time;
        self.latest.swap(now, Ordering::SeqCst);
        now
    }

    /// Makes a call, and records when.
    fn call<R>(&mut self, make: impl FnOnce(&mut Self) -> R, did: impl FnOnce(&mut Self, R) -> Did) {
        let start = self.now();
        let answer = make(self);
        let end = self.now();
        let did = did(self, answer);
        self.calls.push(Call { start, end, did });
    }

    fn take(&mut self, step: Step) {
        match step {
            Step::Append(size) => self.append(1, size),
            Step::Batch(count) => self.append(u64::from(count) + 2, count),
            Step::Read(limit) => self.read(limit_of(limit)),
            Step::Follow(limit) => self.follow(limit_of(limit)),
            Step::ReadNear(back) => {
                let cursor = self.log.last_seq().saturating_sub(u64::from(back)) + u64::from(back % 4);
                self.call(
                    |actor| answer(actor.log.read(cursor, 7)),
                    |_, answer| Did::Read { reader: None, cursor, limit: 7, answer },
                );
            }
            Step::Head => self.call(|actor| actor.log.head(), |_, head| Did::Head { head }),
            Step::Wait(size) => {
                let seq = (self.log.last_seq() + u64::from(size % 4)).saturating_sub(1);
                let patience = Duration::from_micros(u64::from(size));
                self.call(
                    |actor| actor.log.blocking_wait_for(seq, patience).ok(),
                    |_, head| Did::Wait { seq, head },
                );
            }
            Step::Claim(id) => self.claim(id),
            Step::Complete => self.release(true),
            Step::Forget => self.release(false),
            Step::Ask(id) => {
                self.call(|actor| actor.log.has_seen_op_id(&op_id(id)), |_, seen| Did::Ask { id, seen });
            }
            Step::Yield => thread::yield_now(),
            Step::Spin(turns) => (0..u32::from(turns) * 8).for_each(|_| std::hint::spin_loop()),
        }
    }

    fn append(&mut self, count: u64, size: u8) {
        let offers: Vec<Offer> =
            (0..count).map(|index| Offer::new(self.number, self.rows + index, size)).collect();
        self.rows += count;
        let changes: Vec<Change<'_>> = offers.iter().map(Offer::change).collect();
        let first = |log: &ChangeLog| match &changes[..] {
            [change] => log.append_change(change),
            changes => *log.append_batch(changes).start(),
        };
        self.call(
            |actor| first(actor.log),
            |_, first| Did::Append { first, rows: offers.iter().map(Offer::row).collect() },
        );
    }

    fn read(&mut self, limit: usize) {
        let cursor = self.cursor;
        self.call(
            |actor| answer(actor.log.read(cursor, limit)),
            |actor, answer| actor.went_on(limit, answer),
        );
    }

    fn follow(&mut self, limit: usize) {
        let mut follower = self.log.follow(self.cursor);
        let patience = Duration::from_micros(200);
        self.call(
            |_| answer(follower.blocking_next(limit, patience).map(|batch| batch.expect("an open log"))),
            |actor, answer| actor.went_on(limit, answer),
        );
    }

    /// Enters what the reader of this thread was answered.
    fn went_on(&mut self, limit: usize, answer: Answer) -> Did {
        let cursor = self.cursor;
        self.cursor = match &answer {
            Answer::Page { cursor, .. } => *cursor,
            Answer::Evicted { oldest } | Answer::Ahead { oldest } => oldest - 1,
        };
        Did::Read { reader: Some(self.number), cursor, limit, answer }
    }

    /// Reads on to the end, when no writer appends any more.
    fn drain(&mut self) {
        while self.cursor < self.log.last_seq() {
            self.read(100);
        }
        self.read(100);
    }

    fn claim(&mut self, id: u8) {
        if self.held.len() == MAX_HELD {
            self.release(true);
        }
        let (log, next_held) = (self.log, self.next_held);
        self.call(
            |_| log.claim_op_id(&op_id(id)),
            |actor, claim| {
                let answer = match claim {
                    OpClaim::Proceed(guard) => {
                        let held = next_held.fetch_add(1, Ordering::Relaxed);
                        actor.held.push((held, guard));
                        ClaimAnswer::Proceed { held }
                    }
                    OpClaim::InFlight => ClaimAnswer::InFlight,
                    OpClaim::Replayed { seq } => ClaimAnswer::Replayed { seq },
                };
                Did::Claim { id, answer }
            },
        );
    }

    fn release(&mut self, complete: bool) {
        if self.held.is_empty() {
            return;
        }
        let (held, guard) = self.held.remove(0);
        // A seq of its own, so that a replay tells which completion it repeats.
        let completed = complete.then_some(held as u64 + 1);
        self.call(
            |_| match completed {
                Some(seq) => guard.complete(seq),
                None => drop(guard),
            },
            |_, ()| Did::Release { held, completed },
        );
    }

    fn release_all(&mut self) {
        while !self.held.is_empty() {
            self.release(self.held.len().is_multiple_of(2));
        }
    }
}

fn op_id(id: u8) -> String {
    // Some are longer than an entry holds in place.
    format!("op-{id}{}", "-".repeat(usize::from(id) * 20))
}

/// A limit of a few, or none.
fn limit_of(byte: u8) -> usize {
    if byte >= 200 { usize::MAX } else { usize::from(byte % 40) }
}

/// An event to be offered, of which each part tells the others.
struct Offer {
    row_id: String,
    entity: String,
    data: Box<RawValue>,
}

impl Offer {
    fn new(thread: usize, number: u64, size: u8) -> Self {
        let row_id = format!("{thread}:{number}");
        let entity = format!("E{}", "e".repeat(usize::from(size % 7)));
        // From beside nothing to several times what a slot holds.
        let data = format!(r#"{{"of":"{row_id}","pad":"{}"}}"#, "p".repeat(usize::from(size) * 2));
        Self { row_id, entity, data: RawValue::from_string(data).expect("JSON") }
    }

    fn change(&self) -> Change<'_> {
        Change::update(&self.entity, &self.row_id).with_raw(&self.data)
    }

    fn row(&self) -> Row {
        format!("{} {} update {}", self.entity, self.row_id, self.data.get())
    }
}

fn row(event: EventRef<'_>) -> Row {
    let kind = serde_json::to_string(&event.kind()).expect("a name");
    let data = event.data_json().unwrap_or("nothing");
    format!("{} {} {} {data}", event.entity(), event.row_id(), kind.trim_matches('"'))
}

fn answer(result: Result<ringlog::Events<'_>, ringlog::Resync>) -> Answer {
    match result {
        Ok(batch) => Answer::Page {
            rows: batch.iter().map(|event| (event.seq(), row(event))).collect(),
            cursor: batch.cursor().seq,
            has_more: batch.has_more(),
        },
        Err(resync) if resync.reason == ResyncReason::Ahead => Answer::Ahead { oldest: resync.oldest_seq },
        Err(resync) => Answer::Evicted { oldest: resync.oldest_seq },
    }
}
