//! The memory of op ids: bounded by the stated formula while millions of ids go through, and all of
//! it given back.
//!
//! This program counts its own allocations, so its tests run one at a time.

#[path = "common/counting.rs"]
mod counting;

use counting::{allocations_of, alone, outstanding, peak, start};
use ringlog::{ChangeKind, ChangeLog, ClientChange, OpClaim, PushRequest};
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::Barrier;
use std::thread;

const THREADS: i64 = 2;

/// The bound that the essay of `src/dedup` states, for ids of up to 77 bytes, at most a handful of
/// splits, and nothing in flight between calls: `256 + 144 B + 256 P + 8 C + 112 × (C + F + 2 T)`.
fn bound(capacity: i64) -> i64 {
    let powers_of_two = std::iter::successors(Some(16), |power| Some(2 * power));
    let shards = powers_of_two.into_iter().find(|shards| 2 * shards >= capacity).expect("there is one");
    let splits = 4;
    256 + 144 * shards + 256 * splits + 8 * capacity + 112 * (capacity + THREADS + 2 * THREADS)
}

/// Not the memory's: the strings of the tests, threads, alignment.
const OTHERS: i64 = 32 * 1024;

fn claim(log: &ChangeLog, id: &str, seq: u64) {
    match log.claim_op_id(id) {
        OpClaim::Proceed(guard) => guard.complete(seq),
        other => panic!("{id} is {other:?}"),
    }
}

#[test]
fn ten_million_op_ids_through_a_window_of_ten_thousand() {
    const IDS: u64 = 10_000_000;
    const WINDOW: u64 = 10_000;
    let _alone = alone();
    let before = start();
    let log = ChangeLog::builder().capacity(0).op_id_capacity(WINDOW as usize).build().unwrap();
    // Threads that come first at once would each make the tables, for a moment.
    drop(log.claim_op_id("the first"));
    thread::scope(|scope| {
        for part in 0..THREADS as u64 {
            let log = &log;
            scope.spawn(move || {
                // 36 bytes, as a UUID; only the end changes.
                let mut id = *b"0b9a7d1e-4c0f-4e6b-9a77-0000deadbeef";
                for n in (part..IDS).step_by(THREADS as usize) {
                    let mut rest = n;
                    for byte in id[24..].iter_mut().rev() {
                        *byte = b"0123456789abcdef"[rest as usize % 16];
                        rest /= 16;
                    }
                    claim(log, std::str::from_utf8(&id).unwrap(), n + 1);
                }
            });
        }
    });
    let (peak, now) = (peak() - before, outstanding() - before);
    let bound = bound(WINDOW.cast_signed());
    println!("{IDS} ids: {now} bytes, at most {peak}, where {bound} are allowed");
    assert!(peak <= bound + OTHERS, "{peak} bytes, where {bound} are allowed");
    assert!(now >= bound - 256 * 4 - OTHERS, "{now} bytes of {bound}: is anything remembered?");
    assert_eq!(log.stats().op_ids_completed, IDS);
    drop(log);
    assert!(outstanding() - before < OTHERS, "all of it is given back");
}

#[test]
fn a_million_claims_abandoned_by_panic() {
    let _alone = alone();
    let log = ChangeLog::builder().capacity(0).op_id_capacity(100).build().unwrap();
    for n in 0..100 {
        claim(&log, &format!("kept-{n}"), n);
    }
    let before = start();
    for n in 0..1_000_000_u64 {
        let outcome = catch_unwind(AssertUnwindSafe(|| {
            let claim = log.claim_op_id(&(n % 1000).to_string());
            assert!(matches!(claim, OpClaim::Proceed(_)), "the last one was forgotten");
            // A panic that does not print.
            resume_unwind(Box::new(()))
        }));
        outcome.unwrap_err();
    }
    let peak = peak() - before;
    println!("a million abandoned claims: at most {peak} bytes");
    assert!(peak < OTHERS, "{peak} bytes are left over or were taken on the way");
    assert_eq!(log.stats().op_claims_forgotten, 1_000_000);
    assert!((0..100).all(|n| log.has_seen_op_id(&format!("kept-{n}"))), "they took no place in the window");
}

#[test]
fn huge_op_ids_leave_with_the_window() {
    let _alone = alone();
    let log = ChangeLog::builder().capacity(0).op_id_capacity(4).build().unwrap();
    let before = start();
    let mut id = "x".repeat(1 << 20);
    for n in 0..1000 {
        id.replace_range(..4, &format!("{n:04}"));
        claim(&log, &id, n + 1);
    }
    let peak = peak() - before;
    let len = 1 << 20;
    let allowed = (112 + len) * (4 + 1 + 2) + len + OTHERS;
    assert!(peak <= allowed, "{peak} bytes, where {allowed} are allowed");
}

fn change(op_id: Option<&str>) -> ClientChange {
    ClientChange {
        entity: "Todo".into(),
        row_id: "t1".into(),
        kind: ChangeKind::Insert,
        data: None,
        op_id: op_id.map(String::from),
    }
}

fn push(log: &ChangeLog, op_id: Option<&str>) {
    let request = PushRequest { changes: vec![change(op_id)], client_id: None };
    let response = log.push(&request, |_| Ok::<_, String>(()));
    assert_eq!((response.applied, response.errors.len()), (1, 0));
}

#[test]
fn a_log_that_saw_no_op_id_holds_nothing_for_them() {
    const WINDOW: i64 = 1_000_000;
    let _alone = alone();
    // The collector knows this thread from here on.
    push(&ChangeLog::with_capacity(1), None);
    let new = || ChangeLog::builder().capacity(1).op_id_capacity(WINDOW as usize).build().unwrap();
    let before = start();
    let log = new();
    push(&log, None);
    assert_eq!(allocations_of(|| (log.has_seen_op_id("a"), log.has_seen_op_id(""), log.stats())), 0);
    let stats = log.stats();
    let counts = [
        stats.op_ids_completed,
        stats.op_claims_forgotten,
        stats.op_claims_replayed,
        stats.op_claims_in_flight,
        stats.op_filter_false_positives,
    ];
    assert_eq!(counts, [0; 5]);
    let taken = peak() - before;
    assert!(taken < OTHERS, "{taken} bytes for no op id");
    drop(log);

    // Whatever enters the first id makes the tables, and the id is there.
    let firsts: [fn(&mut ChangeLog); 4] = [
        |log| claim(log, "a", 1),
        |log| log.remember_op_id("a"),
        |log| log.restore_op_id(None, "a", 1, None),
        |log| push(log, Some("a")),
    ];
    for first in firsts {
        let before = start();
        let mut log = new();
        assert!(!log.has_seen_op_id("a"));
        first(&mut log);
        assert!(log.has_seen_op_id("a") && !log.has_seen_op_id("b"));
        assert_eq!(log.stats().op_ids_completed, 1);
        let taken = outstanding() - before;
        assert!(taken > 8 * WINDOW, "{taken} bytes: is the window as long as asked for?");
        assert!(taken < bound(WINDOW) + OTHERS, "{taken} bytes");
        drop(log);
        assert!(outstanding() - before < OTHERS, "all of it is given back");
    }
}

#[test]
fn of_many_first_claims_one_proceeds_and_one_table_stays() {
    const CLAIMERS: usize = 4;
    const WINDOW: i64 = 10_000;
    let _alone = alone();
    let before = start();
    for round in 0..300 {
        let log = ChangeLog::builder().capacity(0).op_id_capacity(WINDOW as usize).build().unwrap();
        let barrier = Barrier::new(CLAIMERS);
        let claim = || {
            barrier.wait();
            log.claim_op_id("a")
        };
        let claims = thread::scope(|scope| {
            [(); CLAIMERS].map(|()| scope.spawn(claim)).map(|claimer| claimer.join().expect("no panic"))
        });
        let (winners, others): (Vec<_>, Vec<_>) =
            claims.into_iter().partition(|claim| matches!(claim, OpClaim::Proceed(_)));
        assert_eq!(winners.len(), 1, "round {round}: {winners:?}");
        assert!(others.iter().all(|claim| matches!(claim, OpClaim::InFlight)), "round {round}: {others:?}");
        assert!(!log.has_seen_op_id("a"));
        for winner in winners {
            let OpClaim::Proceed(guard) = winner else { unreachable!("they were parted") };
            guard.complete(7);
        }
        assert!(matches!(log.claim_op_id("a"), OpClaim::Replayed { seq: 7 }));
        assert_eq!(log.stats().op_claims_in_flight, CLAIMERS as u64 - 1);
        let taken = outstanding() - before;
        assert!(taken < bound(WINDOW) + OTHERS, "round {round}: {taken} bytes");
    }
    assert!(outstanding() - before < OTHERS, "all of it is given back");
}
