//! Real threads, more of them than cores, on windows so small that they are lapped all the time.
//!
//! Whatever the schedule, the books must balance: every seq offered is read or told lost by each
//! reader that follows from the start, and what is read is what was offered, whole, once and in
//! order.

use ringlog::{Change, ChangeKind, ChangeLog, Cursor, Events, ResyncReason, SyncCursor};
use serde_json::value::RawValue;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, mpsc};
use std::thread;
use std::time::{Duration, Instant};

/// Runs a test that could hang, and says so if it does. The limit is no measure of speed.
fn must_end<T: Send + 'static>(test: impl FnOnce() -> T + Send + 'static) -> T {
    let (done, result) = mpsc::channel();
    let thread = thread::spawn(move || {
        let _ = done.send(test());
    });
    match result.recv_timeout(Duration::from_secs(120)) {
        Ok(value) => value,
        Err(mpsc::RecvTimeoutError::Timeout) => panic!("it hangs"),
        // The test panicked: pass that on.
        Err(mpsc::RecvTimeoutError::Disconnected) => {
            std::panic::resume_unwind(thread.join().expect_err("it sent nothing"))
        }
    }
}

/// On the crate that this one replaces, an appender and a puller deadlock within this time.
#[test]
fn appenders_and_pullers_do_not_deadlock() {
    must_end(|| {
        let log = ChangeLog::with_capacity(1_000);
        let end = Instant::now() + Duration::from_secs(3);
        thread::scope(|scope| {
            for _ in 0..2 {
                scope.spawn(|| {
                    while Instant::now() < end {
                        log.append("Row", "r1", ChangeKind::Update, None);
                        log.remember_op_id("op");
                    }
                });
                scope.spawn(|| {
                    while Instant::now() < end {
                        let cursor = SyncCursor { last_seq: log.last_seq().saturating_sub(10) };
                        let _ = log.pull(&cursor, 10);
                        log.has_seen_op_id("op");
                        log.len();
                    }
                });
            }
        });
        assert!(log.last_seq() > 0);
    });
}

/// How many writers and readers there are: more than the cores of most machines together.
const WRITERS: u64 = 4;
const READERS: usize = 4;

#[test]
fn books_balance_in_a_window_of_1() {
    must_end(|| balance(1));
}

#[test]
fn books_balance_in_a_window_of_2() {
    must_end(|| balance(2));
}

#[test]
fn books_balance_in_a_window_of_8() {
    must_end(|| balance(8));
}

#[test]
fn books_balance_in_a_window_of_64() {
    must_end(|| balance(64));
}

#[test]
fn books_balance_in_a_window_of_1000() {
    must_end(|| balance(1_000));
}

/// What a writer offers under a name that tells all of it, so that a reader can tell a torn record.
fn row_id(writer: u64, number: u64) -> String {
    format!("{writer}:{number}")
}

/// Entity and data as functions of the row id: of many lengths, inside a slot and beyond.
fn content(row_id: &str, number: u64) -> (String, Box<RawValue>) {
    let entity = format!("E{row_id}{}", "e".repeat((number % 29) as usize));
    let length = if number.is_multiple_of(16) { 700 } else { number % 97 };
    let json = format!(r#"{{"of": "{row_id}", "pad": "{}"}}"#, "p".repeat(length as usize));
    (entity, RawValue::from_string(json).expect("JSON"))
}

/// What one call offered: the seqs it was given, and the number of its first event.
struct Offer {
    first_seq: u64,
    first_number: u64,
    len: u64,
}

fn write(log: &ChangeLog, writer: u64, events: u64) -> Vec<Offer> {
    let mut offers = Vec::new();
    let mut number = 0;
    while number < events {
        // Single events, and batches of up to 9, those longer than the window among them.
        let len = if number.is_multiple_of(5) { 1 + (number / 5) % 9 } else { 1 };
        let rows: Vec<_> = (number..number + len)
            .map(|number| {
                let row_id = row_id(writer, number);
                let (entity, data) = content(&row_id, number);
                (entity, row_id, data)
            })
            .collect();
        let changes: Vec<_> =
            rows.iter().map(|(entity, row_id, data)| Change::update(entity, row_id).with_raw(data)).collect();
        let first_seq = match &changes[..] {
            [change] => log.append_change(change),
            changes => {
                let seqs = log.append_batch(changes);
                assert_eq!(seqs.end() - seqs.start() + 1, len, "a batch is contiguous");
                *seqs.start()
            }
        };
        offers.push(Offer { first_seq, first_number: number, len });
        number += len;
        // Readers get their turn, also where the window is shorter than a time slice. One writer is
        // rude.
        if writer > 0 && number.is_multiple_of(4) {
            thread::yield_now();
        }
    }
    offers
}

/// What one reader that followed from the start can tell.
#[derive(Default)]
struct Account {
    /// Each event read, in order: its seq, its writer, its number there.
    seen: Vec<(u64, u64, u64)>,
    lost: u64,
    /// The seqs at which a run ended that no limit had cut.
    ends: Vec<u64>,
}

impl Account {
    fn take(&mut self, batch: &Events<'_>, cursor: u64, limit: usize) {
        for (event, expected) in batch.iter().zip(cursor + 1..) {
            assert_eq!(event.seq(), expected, "a run is contiguous, right after the cursor");
            let (writer, number) = event.row_id().split_once(':').expect("a row id of ours");
            let (writer, number) = (writer.parse().expect("a number"), number.parse().expect("a number"));
            let (entity, data) = content(event.row_id(), number);
            assert_eq!((event.entity(), event.data_json()), (&*entity, Some(data.get())), "a torn record");
            self.seen.push((event.seq(), writer, number));
        }
        assert!(batch.len() <= limit);
        assert_eq!(batch.cursor().seq, cursor + batch.len() as u64);
        if batch.len() < limit && !batch.is_empty() {
            self.ends.push(batch.cursor().seq);
        }
    }
}

fn follow(log: &ChangeLog, writers_done: &AtomicBool, limits: &[usize]) -> Account {
    let mut account = Account::default();
    let mut cursor = 0;
    for limit in limits.iter().copied().cycle() {
        let done = writers_done.load(Ordering::Acquire);
        match log.read(cursor, limit) {
            Ok(batch) => {
                account.take(&batch, cursor, limit);
                cursor = batch.cursor().seq;
                if done && cursor == log.last_seq() {
                    break;
                }
                if batch.is_empty() {
                    thread::yield_now();
                }
            }
            Err(resync) => {
                assert_eq!(resync.reason, ResyncReason::Evicted, "{resync}");
                assert!(resync.oldest_seq > cursor + 1, "a resync that loops: {resync:?}");
                account.lost += resync.oldest_seq - 1 - cursor;
                assert_eq!(resync.missed(), resync.oldest_seq - 1 - cursor);
                cursor = resync.oldest_seq - 1;
            }
        }
    }
    account
}

fn balance(capacity: usize) {
    let events = 12_000;
    let log = ChangeLog::with_capacity(capacity);
    let writers_done = AtomicBool::new(false);
    let (offers, accounts) = thread::scope(|scope| {
        let readers: Vec<_> = (0..READERS)
            .map(|reader| {
                let limits: &[usize] = [&[usize::MAX][..], &[1], &[3, 700, 1], &[64]][reader % 4];
                let (log, writers_done) = (&log, &writers_done);
                scope.spawn(move || follow(log, writers_done, limits))
            })
            .collect();
        let writers: Vec<_> = (0..WRITERS)
            .map(|writer| {
                scope.spawn({
                    let log = &log;
                    move || write(log, writer, events)
                })
            })
            .collect();
        let offers: Vec<_> = writers.into_iter().map(|thread| thread.join().expect("a writer")).collect();
        writers_done.store(true, Ordering::Release);
        let accounts: Vec<_> = readers.into_iter().map(|thread| thread.join().expect("a reader")).collect();
        (offers, accounts)
    });

    let (ledger, inner) = enter(&offers);
    let offered = ledger.len() as u64;
    assert_eq!((log.last_seq(), log.head()), (offered, offered));
    check_stats(&log, offered, &accounts);
    for account in &accounts {
        assert_eq!(account.seen.len() as u64 + account.lost, offered, "read + lost = offered");
        assert!(account.seen.is_sorted_by(|a, b| a.0 < b.0), "doubled or out of order");
        for (seq, writer, number) in &account.seen {
            assert_eq!(ledger[*seq as usize - 1], (*writer, *number), "seq {seq} is not what was offered");
        }
        for end in &account.ends {
            assert!(!inner[*end as usize - 1], "a run ended at {end}, inside a batch");
        }
    }
    let lost: u64 = accounts.iter().map(|account| account.lost).sum();
    assert!(capacity > 64 || lost > 0, "no reader was ever lapped: this has tested nothing");
}

/// The seqs in order, each with its writer and what it offered, and whether the next seq is of the
/// same batch.
/// Every seq is there exactly once, and each writer's are in the order of its calls.
fn enter(offers: &[Vec<Offer>]) -> (Vec<(u64, u64)>, Vec<bool>) {
    let offered: u64 = offers.iter().flatten().map(|offer| offer.len).sum();
    let mut ledger = vec![None; offered as usize];
    let mut inner = vec![false; offered as usize];
    for (writer, offers) in (0..).zip(offers) {
        assert!(offers.is_sorted_by(|a, b| a.first_seq + a.len <= b.first_seq), "seqs against program order");
        for offer in offers {
            for index in 0..offer.len {
                let place = (offer.first_seq + index - 1) as usize;
                assert!(
                    ledger[place].replace((writer, offer.first_number + index)).is_none(),
                    "a seq given twice"
                );
                inner[place] = index + 1 < offer.len;
            }
        }
    }
    (ledger.into_iter().map(|entry| entry.expect("seqs are dense")).collect(), inner)
}

/// Offered = visible + superseded: nothing that was dropped unseen was seen.
fn check_stats(log: &ChangeLog, offered: u64, accounts: &[Account]) {
    let mut seen: Vec<u64> =
        accounts.iter().flat_map(|account| account.seen.iter().map(|entry| entry.0)).collect();
    seen.sort_unstable();
    seen.dedup();
    let stats = log.stats();
    assert_eq!((stats.appended, stats.head, stats.unpublished), (offered, offered, 0));
    assert!(seen.len() as u64 + stats.superseded <= offered, "{} seen, {stats:?}", seen.len());
    println!("{} of {offered} seen, {stats:?}", seen.len());
}

/// Nothing but appends, as fast as they go: two writers that meet at the counter get two seqs.
#[test]
fn every_seq_is_handed_out_once() {
    must_end(|| {
        let log = ChangeLog::with_capacity(100);
        let (change, batch) =
            (Change::delete("Row", "r1"), [Change::delete("Row", "r1"), Change::delete("Row", "r2")]);
        let append = |mine: &mut Vec<u64>| {
            for _ in 0..100_000 {
                mine.push(log.append_change(&change));
            }
            for _ in 0..20_000 {
                mine.extend(log.append_batch(&batch));
            }
        };
        let mut seqs = Vec::new();
        thread::scope(|scope| {
            let write = || {
                let mut mine = Vec::new();
                append(&mut mine);
                assert!(mine.is_sorted_by(|a, b| a < b), "seqs against program order");
                mine
            };
            let writers: Vec<_> = (0..WRITERS).map(|_| scope.spawn(write)).collect();
            for writer in writers {
                seqs.extend(writer.join().expect("a writer"));
            }
        });
        seqs.sort_unstable();
        assert!(seqs.iter().copied().eq(1..=WRITERS * 140_000));
        assert_eq!(log.last_seq(), WRITERS * 140_000);
    });
}

/// What `head` names can be read, until it has left the window: no late writer takes it away again.
#[test]
fn what_head_promises_can_be_read() {
    must_end(|| {
        for capacity in [1, 8, 100] {
            let log = ChangeLog::with_capacity(capacity);
            let done = AtomicBool::new(false);
            let observe = || {
                let mut last_head = 0;
                while !done.load(Ordering::Relaxed) {
                    let head = log.head();
                    assert!(head >= last_head, "head went back from {last_head} to {head}");
                    last_head = head;
                    match log.read(head.max(1) - 1, 1) {
                        Ok(batch) => {
                            assert!(head == 0 || batch.len() == 1, "{head} was published, and is gone");
                        }
                        Err(resync) => assert_eq!(resync.reason, ResyncReason::Evicted),
                    }
                }
            };
            let append = || {
                for _ in 0..150_000 {
                    log.append_change(&Change::delete("Row", "r1"));
                }
            };
            thread::scope(|scope| {
                let observers = [scope.spawn(observe), scope.spawn(observe)];
                let writers: Vec<_> = (0..WRITERS).map(|_| scope.spawn(append)).collect();
                for writer in writers {
                    writer.join().expect("a writer");
                }
                done.store(true, Ordering::Relaxed);
                for observer in observers {
                    observer.join().expect("an observer");
                }
            });
            println!("{:?}", log.stats());
            assert_eq!(log.head(), WRITERS * 150_000);
            assert_eq!(log.read(log.oldest_seq() - 1, usize::MAX).expect("the window").len(), capacity);
        }
    });
}

/// A reader that keeps a batch keeps what it borrows, whatever the writers do meanwhile.
#[test]
fn a_batch_that_is_kept_stays_as_it_was() {
    must_end(|| {
        let log = Arc::new(ChangeLog::with_capacity(300));
        let kept_until = write(&log, 0, 300).iter().map(|offer| offer.len).sum::<u64>();
        let batch = log.read(kept_until - 300, usize::MAX).expect("in the window");
        let before = batch.to_response();
        let writer = thread::spawn({
            let log = Arc::clone(&log);
            move || write(&log, 1, 20_000)
        });
        writer.join().expect("a writer");
        assert_eq!(batch.to_response().changes, before.changes);
        let mut account = Account::default();
        account.take(&batch, kept_until - 300, usize::MAX);
        assert_eq!(account.seen.len(), 300);
        drop(batch);
        assert!(log.read(kept_until - 300, 1).is_err(), "and then it is gone");
    });
}

/// Threads that come and go, each with its own registration at the collector.
#[test]
fn short_lived_threads_leave_nothing_behind() {
    must_end(|| {
        let log = Arc::new(ChangeLog::with_capacity(8));
        for round in 0..300 {
            let threads: Vec<_> = (0..3)
                .map(|_| {
                    let log = Arc::clone(&log);
                    thread::spawn(move || {
                        let seq = (0..20).map(|_| log.append("Row", "r1", ChangeKind::Update, None)).max();
                        log.read(Cursor::from(seq.expect("twenty") - 1), 1).map(|batch| batch.len()).ok()
                    })
                })
                .collect();
            for thread in threads {
                assert!(thread.join().expect("a thread").is_none_or(|len| len <= 1));
            }
            assert_eq!(log.head(), (round + 1) * 60);
        }
    });
}
