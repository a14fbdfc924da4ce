//! Threads on one log that nothing but the log itself keeps in order: a program for the thread
//! sanitizer, and in small for Miri, which follows every access of every thread and takes a minute
//! for what takes others a millisecond.
//!
//! It has no test harness and uses no lock, channel or scope: the sanitizer knows neither the
//! fences in these nor what of the standard library comes compiled. For the same reason nothing is
//! lapped here and no thread sleeps: memory that goes round the epoch, and the queue of sleepers,
//! are left to loom and to the address sanitizer. What stays is what every append, read and claim
//! does: publish, install, settle, claim, complete, forget, look up.

use ringlog::{Change, ChangeLog, OpClaim, SyncCursor};
use serde_json::value::RawValue;
use std::thread::{self, JoinHandle};

const WRITERS: u64 = 3;
const EVENTS: u64 = if cfg!(miri) { 48 } else { 3_000 };
const IDS: u64 = if cfg!(miri) { 12 } else { 400 };

fn main() {
    // It stays for as long as the process: to drop it, the last thread would have to know that it
    // is the last.
    let log: &ChangeLog = Box::leak(Box::new(
        ChangeLog::builder().capacity(1 << 16).op_id_capacity(500).build().expect("capacities"),
    ));
    // The collector's own beginnings.
    log.append_change(&Change::delete("Row", "first"));

    let writers: Vec<_> = (0..WRITERS).map(|writer| thread::spawn(move || write(log, writer))).collect();
    let readers = [7, 100, usize::MAX].map(|limit| thread::spawn(move || follow(log, limit)));
    let claimers = [0, 1].map(|offset| thread::spawn(move || claim(log, offset)));

    let offered = 1 + join(writers);
    assert_eq!((log.last_seq(), log.head()), (offered, offered));
    assert_eq!(join(readers), 3 * (1 + WRITERS * EVENTS), "each reader reads everything");
    let applied = join(claimers);
    assert_eq!(applied, IDS, "each operation is applied once");
    assert_eq!(log.stats().op_ids_completed, applied);
    println!("{offered} events offered and read by each of three, {applied} operations applied");
}

fn join(threads: impl IntoIterator<Item = JoinHandle<u64>>) -> u64 {
    threads.into_iter().map(|thread| thread.join().expect("no panic")).sum()
}

/// Single events and batches, some too long for a slot.
fn write(log: &ChangeLog, writer: u64) -> u64 {
    let mut number = 0;
    while number < EVENTS {
        let row_id = format!("{writer}:{number}");
        let pad = "p".repeat(if number.is_multiple_of(8) { 300 } else { 20 });
        let data = RawValue::from_string(format!(r#"{{"of":"{row_id}","pad":"{pad}"}}"#)).expect("JSON");
        let change = Change::update("Row", &row_id).with_raw(&data);
        if number.is_multiple_of(16) && number + 4 <= EVENTS {
            log.append_batch(&[change.clone(), change.clone(), change.clone(), change]);
            number += 4;
        } else {
            log.append_change(&change);
            number += 1;
        }
    }
    number
}

/// Reads everything, by reference, and checks that each record is of one piece.
fn follow(log: &ChangeLog, limit: usize) -> u64 {
    let (mut cursor, mut count) = (SyncCursor::beginning(), 0);
    while count < 1 + WRITERS * EVENTS {
        let batch = log.read(&cursor, limit).expect("nothing is lapped");
        for event in &batch {
            let data = event.data_json().unwrap_or_default();
            assert!(event.seq() == 1 || data.contains(&format!("\"{}\"", event.row_id())), "torn: {data}");
            count += 1;
        }
        assert!(log.head() >= batch.cursor().seq);
        if batch.is_empty() {
            thread::yield_now();
        }
        cursor = batch.cursor().into();
    }
    count
}

/// Claims ids that the other claimer wants as well; gives every third claim up once. Returns how
/// many it completed.
fn claim(log: &ChangeLog, offset: u64) -> u64 {
    let mut completed = 0;
    for number in 0..IDS {
        // Not all in the same order, and some too long to lie in place.
        let number = number ^ offset;
        let id = format!("op-{number}{}", "-".repeat((number % 90) as usize));
        let mut given_up = !number.is_multiple_of(3);
        loop {
            match log.claim_op_id(&id) {
                OpClaim::Proceed(guard) if given_up => {
                    guard.complete(number + 1);
                    completed += 1;
                }
                OpClaim::Proceed(_) => given_up = true,
                OpClaim::InFlight => thread::yield_now(),
                OpClaim::Replayed { seq } => {
                    assert_eq!(seq, number + 1);
                    break;
                }
            }
        }
        log.has_seen_op_id(&id);
    }
    completed
}
