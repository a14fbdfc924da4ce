//! Memory: bounded while the log runs, none taken by an append in steady state, all of it given
//! back.
//!
//! This program counts its own allocations, so its tests run one at a time.

#[path = "common/counting.rs"]
mod counting;

use counting::{allocations_of, alone, before_a_segment, outstanding, peak, start};
use ringlog::{Change, ChangeKind, ChangeLog, SyncCursor};
use serde_json::json;
use serde_json::value::RawValue;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Barrier};
use std::thread;

/// The memory of this process that is resident, where the system tells it.
fn resident() -> Option<i64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    Some(line.trim().trim_end_matches(" kB").parse::<i64>().ok()? * 1024)
}

fn append(log: &ChangeLog, appends: u64) {
    for _ in 0..appends {
        log.append("Todo", "t1", ChangeKind::Insert, None);
    }
}

const MIB: i64 = 1 << 20;

fn raw(text: &str) -> Box<RawValue> {
    RawValue::from_string(text.into()).expect("JSON")
}

/// A moment of a loaded machine must not fail this: while a reader is suspended with its guard,
/// every segment that the writers give up waits for it, and the allocator keeps the memory of that
/// peak.
///
/// - Heap: what is lost never comes back, so a leak raises the *least* of the later rounds.
/// - Resident memory: judged by the most that was ever allocated. The allocator has a region for
///   each thread, and each region stays as large as its own worst moment made it.
#[test]
fn memory_is_flat_over_ten_million_appends_with_readers_running() {
    const ROUND: u64 = 500_000;
    let _alone = alone();
    let (pages, heap) = (resident(), start());
    let log = ChangeLog::with_capacity(10_000);
    let data = raw(r#"{"title":"Buy milk","done":false,"position":12345}"#);
    // One record in eight is too long for its slot.
    let spilled = raw(&format!("\"{}\"", "x".repeat(400)));
    let done = AtomicBool::new(false);
    let write = || {
        for number in 0..ROUND {
            let data = if number % 8 == 0 { &spilled } else { &data };
            log.append_change(&Change::update("Todo", "01890a5d-ac96-774b-bcce-b302099a8057").with_raw(data));
        }
    };
    let read = || {
        let mut read = 0;
        while !done.load(Ordering::Relaxed) {
            let cursor = log.head().saturating_sub(100);
            read += log
                .read(cursor, 100)
                .map_or(0, |batch| batch.iter().filter(|event| event.seq() > cursor).count());
            thread::yield_now();
        }
        read
    };
    thread::scope(|scope| {
        let readers = [scope.spawn(read), scope.spawn(read)];
        let round = |_| {
            thread::scope(|scope| [scope.spawn(write), scope.spawn(write)].map(drop));
            outstanding() - heap
        };
        let heaps: Vec<_> = (0..10).map(round).collect();
        let (most, pages_after) = (peak() - heap, resident());
        done.store(true, Ordering::Relaxed);

        assert_eq!(log.stats().appended, 10_000_000);
        let (early, late) = heaps.split_at(5);
        assert!(
            late.iter().min() < early.iter().min().map(|least| least + 8 * MIB).as_ref(),
            "heap: {heaps:?}"
        );
        if let (Some(before), Some(after)) = (pages, pages_after) {
            let grown = after - before;
            assert!(grown < 2 * most + 16 * MIB, "resident: {grown} more, and {most} allocated at most");
        }
        println!("{:?}\nheap {heaps:?}, at most {most}, resident {pages:?} {pages_after:?}", log.stats());
        for reader in readers {
            assert!(reader.join().expect("a reader") > 0);
        }
    });
}

/// An append allocates nothing, but for one that opens a segment: the collector takes the segment
/// before it with a node of its own.
#[test]
fn an_append_allocates_nothing_in_steady_state() {
    let _alone = alone();
    let log = ChangeLog::with_capacity(1_000);
    let value = json!({ "title": "Buy milk", "done": false, "tags": [1, 2.5, null] });
    let text = raw(r#"{"title":"Buy milk"}"#);
    let by_text = Change::insert("Todo", "t1").with_raw(&text);
    let by_value = Change::update("Todo", "t1").with_value(&value);
    let batch = [by_text.clone(), by_value.clone(), Change::delete("Todo", "t1")];
    let append = || {
        log.append("Todo", "t1", ChangeKind::Delete, None);
        log.append_change(&by_text);
        log.append_change(&by_value);
        log.append_batch(&batch);
    };
    allocates_for_segments_only(&log, append);
}

/// Calls `append` until the log is warm, then sees that it allocates one thing for each segment
/// that it opens.
fn allocates_for_segments_only(log: &ChangeLog, append: impl Fn()) {
    // A thread that looks at the log pins the epoch as well, and so it may fall behind by a segment
    // more.
    for _ in 0..50 {
        (0..500).for_each(|_| append());
        log.head();
    }
    let (before, warm) = (log.stats(), log.last_seq());
    let count = allocations_of(|| (0..50_000).for_each(|_| append()));
    let segment_len = before.slot_bytes / before.segments_allocated / 192;
    let appended = log.last_seq() - warm;
    let opened = appended / segment_len;
    assert!(count <= opened + 1, "{count} allocations in {appended} appends, which opened {opened} segments");
    assert_eq!(log.stats().segments_allocated, before.segments_allocated);
}

/// Nor does one that is too long for its slot, once the thread has as many blocks as it needs: it
/// gets the slot's.
#[test]
fn a_long_append_allocates_nothing_in_steady_state() {
    let _alone = alone();
    let log = ChangeLog::with_capacity(1_000);
    let text = raw(&format!("\"{}\"", "x".repeat(1_000)));
    let change = Change::insert("Todo", "t1").with_raw(&text);
    let batch = [change.clone(), change.clone(), Change::delete("Todo", "t1")];
    let append = || {
        log.append_change(&change);
        log.append_batch(&batch);
    };
    allocates_for_segments_only(&log, append);
    let after = log.stats();
    assert!(after.spilled_bytes > 600_000, "most of the window: {after:?}");
    assert!(after.spilled_bytes < 2 * 1_300_000, "{after:?}");
}

/// A run that spans two segments takes a list of them, and JSON a text for the date; no event takes
/// anything.
#[test]
fn a_read_and_a_warm_pull_json_allocate_nothing_for_an_event() {
    let _alone = alone();
    let log = ChangeLog::with_capacity(1_000);
    for _ in 0..1_000 {
        log.append("Todo", "t1", ChangeKind::Insert, Some(json!({ "title": "\"Buy\" milk" })));
    }
    let mut out = Vec::new();
    let mut pull = || {
        out.clear();
        log.pull_json(500, 100, &mut out).expect("in the window").count
    };
    let read = || {
        let batch = log.read(500, 100).expect("in the window");
        batch.iter().map(|event| event.row_id().len()).sum::<usize>()
    };
    // With the feature `profile`, the first sample that a thread takes of an operation makes a
    // histogram.
    for _ in 0..100 {
        assert_eq!((pull(), read()), (100, 200));
    }
    assert!(allocations_of(read) <= 1, "a read");
    assert!(allocations_of(&mut pull) <= 2, "a pull_json into a warm buffer");
    assert_eq!(allocations_of(|| (log.head(), log.len(), log.oldest_seq(), log.stats())), 0);
    assert!(allocations_of(|| log.pull(&SyncCursor { last_seq: 500 }, 100)) > 100, "the counter counts");
}

#[test]
fn with_capacity_takes_no_memory_for_events_that_are_not_there() {
    let _alone = alone();
    let before = outstanding();
    let log = ChangeLog::with_capacity(1_000_000);
    let taken = outstanding() - before;
    assert!(taken < MIB / 4, "{taken}");
    append(&log, 1_000);
    let taken = outstanding() - before;
    assert!(taken < MIB, "{taken}");
}

#[test]
fn what_a_kept_batch_holds_up_is_given_back_after_it() {
    let _alone = alone();
    let log = ChangeLog::with_capacity(1_000);
    append(&log, 10_000);
    let flat = log.stats().segments_allocated;
    let batch = log.read(log.head() - 10, 10).expect("in the window");
    append(&log, 50_000);
    let held = log.stats();
    assert!(held.segments_allocated > 100 && held.segments_awaiting_reclaim > 100, "{held:?}");
    assert_eq!(batch.iter().count(), 10);
    drop(batch);
    append(&log, 10_000);
    let after = log.stats();
    assert!(after.segments_allocated <= flat + 2, "{flat} segments, then {after:?}");
}

#[test]
fn a_dropped_log_gives_everything_back() {
    let _alone = alone();
    let before = settled();
    for (capacity, appends) in [(0, 2_000), (1, 3_000), (100, 50), (100, 5_000), (3_000, 20_000)] {
        let log = ChangeLog::with_capacity(capacity);
        for number in 0..appends {
            log.append("Todo", &number.to_string(), ChangeKind::Insert, Some(json!({ "n": number })));
            log.remember_op_id(&number.to_string());
        }
        drop(log);
        same(before, settled());
    }
}

#[test]
fn spilled_records_are_freed_exactly_once() {
    let _alone = alone();
    let name = long_name();
    let before = settled();
    let log = ChangeLog::with_capacity(100);
    for _ in 0..3_000 {
        log.append("Todo", &name, ChangeKind::Insert, None);
    }
    // The window, what its segments still hold beyond it, and what waits for the epoch.
    let held = (outstanding() - before) / LONG;
    assert!((100..=2_000).contains(&held), "{held} of 3,000 are held");
    drop(log);
    same(before, settled());
}

#[test]
fn everything_is_freed_after_threads_that_read_and_wrote() {
    let _alone = alone();
    let name = long_name();
    let before = settled();
    let log = Arc::new(ChangeLog::with_capacity(50));
    let writers = (0..3).map(|_| {
        let (log, name) = (Arc::clone(&log), name.clone());
        thread::spawn(move || {
            for number in 0..1_500 {
                let row_id = if number % 3 == 0 { &name } else { "r1" };
                log.append("Todo", row_id, ChangeKind::Insert, None);
            }
        })
    });
    let readers = (0..3).map(|_| {
        let (log, name) = (Arc::clone(&log), name.clone());
        thread::spawn(move || {
            while log.head() < 4_500 {
                if let Ok(batch) = log.read(log.head().saturating_sub(20), 20) {
                    assert!(batch.iter().all(|event| event.row_id() == "r1" || event.row_id() == name));
                }
            }
        })
    });
    let threads: Vec<_> = writers.chain(readers).collect();
    // The log is dropped by whichever thread is last.
    drop(log);
    for thread in threads {
        thread.join().expect("a thread");
    }
    same(before, settled());
}

/// A writer of another log is held in the middle of its append: it might reach what this log gives
/// up, so that waits, and is there when the log is dropped.
#[test]
fn a_log_dropped_beside_a_held_writer_gives_everything_back() {
    static HELD: Barrier = Barrier::new(2);
    static GO_ON: Barrier = Barrier::new(2);
    let _alone = alone();
    let before = settled();
    thread::scope(|scope| {
        scope.spawn(|| {
            let other = ChangeLog::with_capacity(1);
            append(&other, 1);
            before_a_segment(|| {
                HELD.wait();
                GO_ON.wait();
            });
            append(&other, 1_000);
        });
        HELD.wait();
        let log = ChangeLog::with_capacity(1);
        append(&log, 10_000);
        let stats = log.stats();
        drop(log);
        GO_ON.wait();
        assert!(stats.segments_awaiting_reclaim > 100, "the writer holds nothing up: {stats:?}");
    });
    same(before, settled());
}

/// The length of a record that spills, and of which a single one too many or too few shows.
const LONG: i64 = 64 * 1024;

/// A name of that length.
fn long_name() -> String {
    "x".repeat(usize::try_from(LONG).expect("it is small"))
}

/// The outstanding bytes once nothing waits to be reclaimed any more: the collector moves on when
/// others pin it.
fn settled() -> i64 {
    let mut least = i64::MAX;
    for _ in 0..20 {
        let other = ChangeLog::with_capacity(1);
        append(&other, 2_000);
        drop(other);
        least = least.min(outstanding());
    }
    least
}

fn same(before: i64, after: i64) {
    let difference = after - before;
    assert!(difference.abs() < LONG / 2, "{difference} bytes left over");
}
