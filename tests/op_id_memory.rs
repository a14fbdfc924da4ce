//! The memory of op ids: bounded by the stated formula while millions of ids go through, and all of it given back.
//!
//! This program counts its own allocations, so its tests run one at a time.

#[path = "common/counting.rs"]
mod counting;

use counting::{alone, outstanding, peak, start};
use ringlog::{ChangeLog, OpClaim};
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::thread;

const THREADS: i64 = 2;

/// The bound that the essay of `src/dedup` states, for ids of up to 77 bytes, at most a handful of splits, and nothing
/// in flight between calls: `144 B + 256 P + 8 C + 112 × (C + F + 2 T)`.
fn bound(capacity: i64) -> i64 {
    let powers_of_two = std::iter::successors(Some(16), |power| Some(2 * power));
    let shards = powers_of_two.into_iter().find(|shards| 2 * shards >= capacity).expect("there is one");
    let splits = 4;
    144 * shards + 256 * splits + 8 * capacity + 112 * (capacity + THREADS + 2 * THREADS)
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
