//! The window's bound in bytes: which events it leaves, what readers are told, and that memory
//! follows.
//!
//! This program counts its own allocations, so its tests run one at a time.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]
#![allow(
    clippy::cast_sign_loss,
    clippy::cast_possible_wrap,
    reason = "sizes, whose differences may be negative"
)]

#[path = "common/counting.rs"]
mod counting;

use counting::{alone, outstanding, peak, start};
use proptest::prelude::*;
use ringlog::{Builder, Change, ChangeLog, Events, Resync, ResyncReason, StartPolicy, SyncCursor};
use serde_json::value::RawValue;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

const KIB: i64 = 1 << 10;
const MIB: i64 = 1 << 20;

fn log_of(capacity: usize, max_bytes: u64) -> ChangeLog {
    ChangeLog::builder().capacity(capacity).max_bytes(max_bytes).build().unwrap()
}

/// Appends an event whose text has so many bytes.
fn append(log: &ChangeLog, len: usize) -> u64 {
    log.append_change(&Change::insert("", &"x".repeat(len)))
}

fn seqs(batch: &Events<'_>) -> Vec<u64> {
    batch.iter().map(|event| event.seq()).collect()
}

/// How many of the last of `lengths` are within both bounds.
fn longest_suffix(lengths: &[usize], capacity: usize, max_bytes: u64) -> usize {
    let fits = |count: &usize| lengths[lengths.len() - count..].iter().sum::<usize>() as u64 <= max_bytes;
    (0..=lengths.len().min(capacity)).take_while(fits).last().unwrap_or(0)
}

/// Checks everything that tells where the window starts, against the texts of all events so far.
fn holds_exactly(log: &ChangeLog, base_seq: u64, lengths: &[usize], capacity: usize, max_bytes: u64) {
    let count = longest_suffix(lengths, capacity, max_bytes);
    let last = base_seq + lengths.len() as u64;
    let oldest = last + 1 - count as u64;
    assert_eq!((log.last_seq(), log.head(), log.oldest_seq()), (last, last, oldest));
    assert_eq!((log.len(), log.is_empty()), (count, count == 0));
    let stats = log.stats();
    let bytes = lengths[lengths.len() - count..].iter().sum::<usize>() as u64;
    assert_eq!((stats.retained, stats.oldest), (count as u64, oldest));
    assert_eq!(stats.retained_bytes, Some(bytes));
    let batch = log.read(oldest - 1, usize::MAX).unwrap();
    assert_eq!(seqs(&batch), (oldest..=last).collect::<Vec<_>>());
    let texts: Vec<usize> = batch.iter().map(|event| event.row_id().len()).collect();
    assert_eq!(texts, lengths[lengths.len() - count..]);
    if oldest > base_seq + 1 {
        let resync = log.read(oldest - 2, 1).unwrap_err();
        assert_eq!((resync.reason, resync.oldest_seq, resync.head), (ResyncReason::Evicted, oldest, last));
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, failure_persistence: None, ..ProptestConfig::default() })]

    /// Appends and batches of any lengths, within the slot and beyond it, some longer than the
    /// bound.
    #[test]
    fn the_window_is_the_longest_suffix_within_both_bounds(
        capacity in prop::sample::select(vec![0, 1, 3, 20, 300]),
        max_bytes in prop::sample::select(vec![0, 1, 150, 1_000, 20_000]),
        base_seq in prop::sample::select(vec![0_u64, 7, 1 << 40]),
        batches in prop::collection::vec(prop::collection::vec(prop_oneof![0_usize..3, 0_usize..200, 150_usize..2_000], 1..12), 1..30),
    ) {
        let _alone = alone();
        let builder = ChangeLog::builder().capacity(capacity).max_bytes(max_bytes).base_seq(base_seq);
        let log = builder.build().unwrap();
        let mut lengths = Vec::new();
        for batch in batches {
            if batch.len() % 2 == 0 {
                let texts: Vec<String> = batch.iter().map(|len| "x".repeat(*len)).collect();
                let changes: Vec<_> = texts.iter().map(|text| Change::insert("", text)).collect();
                log.append_batch(&changes);
                lengths.extend(batch);
                holds_exactly(&log, base_seq, &lengths, capacity, max_bytes);
            } else {
                for len in batch {
                    append(&log, len);
                    lengths.push(len);
                    holds_exactly(&log, base_seq, &lengths, capacity, max_bytes);
                }
            }
        }
    }
}

#[test]
fn all_three_texts_of_an_event_count() {
    let _alone = alone();
    let log = log_of(100, 29);
    let data: &RawValue = serde_json::from_str("[1, 2]").unwrap();
    for _ in 0..3 {
        log.append_change(&Change::insert("Todo", "t1").with_raw(data));
    }
    assert_eq!((log.len(), log.stats().retained_bytes), (2, Some(24)));
    let log = log_of(100, 24);
    log.append_change(&Change::insert("Todo", "t1").with_raw(data));
    log.append_change(&Change::insert("Todo", "t1").with_value(&serde_json::json!([1, 22])));
    assert_eq!((log.len(), log.stats().retained_bytes), (2, Some(24)));
}

#[test]
fn an_event_longer_than_the_bound_evicts_itself_and_all_before_it() {
    let _alone = alone();
    let log = log_of(100, 1_000);
    append(&log, 10);
    append(&log, 1_001);
    assert_eq!((log.len(), log.oldest_seq(), log.head()), (0, 3, 2));
    assert!(log.read(2, 10).unwrap().is_empty());
    for cursor in [0, 1] {
        assert_eq!(log.read(cursor, 10).unwrap_err().oldest_seq, 3);
    }
    assert_eq!(log.blocking_wait_for(2, Duration::ZERO).unwrap(), 2, "it is not waited for");
    append(&log, 1_000);
    assert_eq!((seqs(&log.read(2, 10).unwrap()), log.len()), (vec![3], 1));
}

#[test]
fn of_a_batch_longer_than_the_bound_the_end_is_left() {
    let _alone = alone();
    let log = log_of(100, 1_000);
    let texts: Vec<String> = (0..20).map(|_| "x".repeat(300)).collect();
    let changes: Vec<_> = texts.iter().map(|text| Change::insert("", text)).collect();
    assert_eq!(log.append_batch(&changes), 1..=20);
    assert_eq!((log.oldest_seq(), log.head(), log.len()), (18, 20, 3));
    assert_eq!(seqs(&log.read(17, 100).unwrap()), [18, 19, 20]);
}

#[test]
fn a_reader_whose_next_event_was_evicted_by_bytes_is_resynced_however_it_reads() {
    let _alone = alone();
    let log = Arc::new(log_of(100, 250));
    for _ in 0..5 {
        append(&log, 100);
    }
    let resync = |answer: Resync| {
        let Resync { reason, requested, oldest_seq, head, incarnation, .. } = answer;
        assert_eq!((reason, requested, oldest_seq, head), (ResyncReason::Evicted, 2, 4, 5));
        assert_eq!(incarnation, log.incarnation());
    };
    resync(log.read(2, 10).unwrap_err());
    let mut out = b"before".to_vec();
    resync(log.pull_json(2, 10, &mut out).unwrap_err());
    assert_eq!(out, b"before");
    assert!(log.pull(&SyncCursor { last_seq: 2 }, 10).is_err());
    let mut follower = log.follow(2);
    resync(follower.blocking_next(10, Duration::ZERO).unwrap_err());
    assert_eq!(log.stats().resyncs_evicted, 4);
}

#[test]
fn a_fresh_cursor_starts_at_the_earliest_event_that_the_bound_leaves() {
    let _alone = alone();
    let builder = ChangeLog::builder().max_bytes(250).start_policy(StartPolicy::Earliest);
    let log = builder.build().unwrap();
    for _ in 0..5 {
        append(&log, 100);
    }
    assert_eq!(seqs(&log.read(0, 10).unwrap()), [4, 5]);
    append(&log, 251);
    assert!(log.read(0, 10).unwrap().is_empty(), "nothing is left");
}

#[test]
fn a_restored_log_keeps_the_bound() {
    let _alone = alone();
    let mut log = ChangeLog::builder().max_bytes(1_000).base_seq(50).build().unwrap();
    let mut lengths = Vec::new();
    for seq in 51..=80 {
        let len = (seq as usize * 37) % 300;
        log.restore(seq, 0, &Change::insert("", &"x".repeat(len))).unwrap();
        lengths.push(len);
        holds_exactly(&log, 50, &lengths, 10_000, 1_000);
    }
}

#[test]
fn without_a_bound_nothing_is_evicted_by_bytes() {
    let _alone = alone();
    let log = ChangeLog::with_capacity(100);
    (0..100).for_each(|_| _ = append(&log, 100_000));
    assert_eq!((log.len(), log.stats().retained_bytes), (100, None));
    let log = log_of(100, u64::MAX);
    (0..200).for_each(|_| _ = append(&log, 1_000));
    assert_eq!((log.len(), log.stats().retained_bytes), (100, Some(100_000)));
}

/// Writers meet at the lock of the count; when all have returned, the bound is exact. Readers see
/// runs of whole texts meanwhile, and are never told that a seq was evicted that is not.
#[test]
fn when_all_appends_have_returned_the_bound_is_exact() {
    const MAX_BYTES: u64 = 9_000;
    let _alone = alone();
    for round in 0..20 {
        let (log, done) = (&log_of(200, MAX_BYTES), &AtomicBool::new(false));
        let mut lengths: Vec<(u64, usize)> = std::thread::scope(|scope| {
            let readers = [(); 2].map(|()| {
                scope.spawn(|| {
                    let mut cursor = 0;
                    while !done.load(Ordering::Relaxed) {
                        match log.read(cursor, 50) {
                            Ok(batch) => {
                                assert!(
                                    batch.iter().all(|event| event.row_id().bytes().all(|byte| byte == b'x'))
                                );
                                cursor = batch.cursor().seq;
                            }
                            Err(resync) => {
                                assert!(
                                    resync.oldest_seq > cursor + 1 && resync.oldest_seq <= log.last_seq() + 1
                                );
                                cursor = resync.oldest_seq - 1;
                            }
                        }
                        assert!(log.len() <= 200);
                        std::thread::yield_now();
                    }
                })
            });
            let writers = [0, 1, 2, 3].map(|writer| {
                scope.spawn(move || {
                    let append_one = |n: usize| {
                        let len = (n * 131 + writer * 17 + round) % 700;
                        (append(log, len), len)
                    };
                    (0..500).map(append_one).collect::<Vec<_>>()
                })
            });
            let lengths = writers.into_iter().flat_map(|writer| writer.join().unwrap()).collect();
            done.store(true, Ordering::Relaxed);
            for reader in readers {
                reader.join().unwrap();
            }
            lengths
        });
        lengths.sort_unstable();
        let lengths: Vec<usize> = lengths.into_iter().map(|(_, len)| len).collect();
        holds_exactly(log, 0, &lengths, 200, MAX_BYTES);
    }
}

/// What a log takes beside its long texts: its slots, a word and a half for each event, and the
/// head of each block.
fn frame(builder: &Builder, appends: usize, texts: i64) -> i64 {
    let before = outstanding();
    let log = builder.clone().build().unwrap();
    (0..appends).for_each(|_| _ = append(&log, 0));
    let slots = outstanding() - before;
    slots + texts * 64
}

/// The texts in memory are those in the window, up to 64 KiB of evicted ones, and the one that is
/// appended.
#[test]
fn memory_is_bounded_by_the_bytes_of_the_window() {
    let _alone = alone();
    for (capacity, max_bytes, len, appends) in [
        (1_000, MIB, 10_000, 10_000),
        (100_000, 4 * MIB, 10_000, 3_000),
        (100, 10 * MIB, 1_000_000, 300),
        (100_000, 10 * MIB, 1_000_000, 300),
        // Here the count is what evicts, and long texts leave with it.
        (10, 100 * MIB, 1_000_000, 300),
        // Not the bound's multiple, and texts just beyond the slot.
        (10_000, MIB, 181, 30_000),
    ] {
        let max_texts = (max_bytes / len).min(capacity);
        let builder = ChangeLog::builder().capacity(capacity as usize).max_bytes(max_bytes as u64);
        let frame = frame(&builder, appends, max_texts);
        let text = "x".repeat(len as usize);
        let before = start();
        let log = builder.build().unwrap();
        for _ in 0..appends {
            log.append_change(&Change::insert("", &text));
        }
        let (most, now) = (peak() - before, outstanding() - before);
        let allowed = frame + max_texts * len + 2 * 64 * KIB + 2 * len;
        println!(
            "{capacity} events, {max_bytes} bytes, texts of {len}: {now}, at most {most}, allowed {allowed}"
        );
        assert!(most <= allowed, "{most} bytes at most, {allowed} are allowed");
        assert_eq!(log.len() as i64, max_texts);
        assert!(log.stats().spilled_bytes as i64 <= max_texts * len + 64 * KIB + len);
    }
}

/// The same when the ring has gone round many times, with several writers, readers that come and
/// go, and short texts between.
#[test]
fn memory_stays_bounded_over_many_laps_with_writers_and_readers() {
    const WRITERS: i64 = 3;
    let _alone = alone();
    for (capacity, max_bytes, len) in [(16, MIB, 10_000), (500, MIB, 10_000), (8, 4 * MIB, 1_000_000)] {
        let builder = ChangeLog::builder().capacity(capacity).max_bytes(max_bytes as u64);
        let frame = frame(&builder, 4_000, capacity as i64);
        let text = "x".repeat(len as usize);
        let before = start();
        let (log, done) = (&builder.build().unwrap(), &AtomicBool::new(false));
        let rounds = if len > 100_000 { 200 } else { 3_000 };
        std::thread::scope(|scope| {
            let reader = scope.spawn(|| {
                while !done.load(Ordering::Relaxed) {
                    if let Ok(batch) = log.read(log.oldest_seq() - 1, 10) {
                        assert!(batch.iter().all(|event| [1, len as usize].contains(&event.row_id().len())));
                    }
                    std::thread::yield_now();
                }
            });
            let writers = [(); WRITERS as usize].map(|()| {
                scope.spawn(|| {
                    for n in 0..rounds {
                        let row_id = if n % 3 == 0 { "x" } else { &text };
                        log.append_change(&Change::insert("", row_id));
                    }
                })
            });
            for writer in writers {
                writer.join().unwrap();
            }
            done.store(true, Ordering::Relaxed);
            reader.join().unwrap();
        });
        let texts = max_bytes.min(capacity as i64 * len);
        let allowed = frame + texts + (1 + WRITERS + 1) * 64 * KIB + 2 * len;
        // What was evicted while a suspended reader was pinned goes with the next operations, some
        // at a time.
        let taken = || outstanding() - before;
        (0..100).take_while(|_| taken() > allowed).for_each(|_| _ = append(log, len as usize));
        let now = taken();
        println!(
            "{capacity} events, {max_bytes} bytes, texts of {len}: {now}, peak {}, allowed {allowed}",
            peak() - before
        );
        assert!(now <= allowed, "{now} bytes, {allowed} are allowed");
    }
}

#[test]
fn what_was_evicted_while_a_batch_was_kept_is_freed_when_the_log_is_used_after_it() {
    let _alone = alone();
    let text = "x".repeat(10_000);
    let builder = ChangeLog::builder().capacity(1_000).max_bytes(100_000);
    let frame = frame(&builder, 2_000, 10);
    let before = outstanding();
    let log = builder.build().unwrap();
    let append = || log.append_change(&Change::insert("", &text));
    (0..10).for_each(|_| _ = append());
    let batch = log.read(0, 5).unwrap();
    (0..500).for_each(|_| _ = append());
    assert!(batch.iter().all(|event| event.row_id() == text), "it is still there");
    assert!(outstanding() - before > 4 * MIB, "and so is what it may reach");
    drop(batch);
    // Reads alone do it, too.
    for _ in 0..1_000 {
        log.read(log.head(), 1).unwrap();
    }
    let now = outstanding() - before;
    assert!(now <= frame + 100_000 + 2 * 64 * KIB, "{now}");
}

#[test]
fn a_dropped_log_frees_its_blocks_once() {
    let _alone = alone();
    let before = outstanding();
    for capacity in [1, 10, 1_000] {
        let log = log_of(capacity, 50_000);
        (0..2_000).for_each(|n| _ = append(&log, n % 3 * 500));
        drop(log);
    }
    // The thread's blocks for its next long texts, and what the collector keeps for the thread.
    let left = outstanding() - before;
    assert!(left < 100 * KIB, "{left} bytes are left");
}
