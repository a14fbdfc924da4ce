//! What a user sees, a test for each row of the table "Semantics" of the guarantees, named after
//! it, and what bad input gets. All of it on the public API.

use ringlog::{
    Change, ChangeKind, ChangeLog, ConfigError, Cursor, Events, Filter, Incarnation, MAX_BASE_SEQ,
    MAX_CAPACITY, MAX_RECORD_LEN, PullError, Query, Resync, ResyncReason, StartPolicy, SyncCursor,
};
use serde_json::json;
use std::cell::RefCell;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock, mpsc};
use std::thread;
use std::time::Duration;

/// A log of so many events, after so many appends.
fn log_of(capacity: usize, appends: u64) -> ChangeLog {
    let log = ChangeLog::with_capacity(capacity);
    append(&log, appends);
    log
}

fn append(log: &ChangeLog, appends: u64) {
    for _ in 0..appends {
        log.append("Row", "r1", ChangeKind::Update, None);
    }
}

fn seqs(batch: &Events<'_>) -> Vec<u64> {
    batch.iter().map(|event| event.seq()).collect()
}

fn resync_from(log: &ChangeLog, cursor: impl Into<Cursor>) -> Resync {
    log.read(cursor, usize::MAX).expect_err("a resync")
}

// Rows of the table.

#[test]
fn seqs_are_dense_and_start_at_one() {
    let log = ChangeLog::with_capacity(10);
    for expected in 1..=1_000 {
        let change = Change::update("Row", "r1");
        let seq = match expected % 3 {
            0 => log.append("Row", "r1", ChangeKind::Insert, None),
            1 => log.append_change(&change),
            _ => *log.append_batch(&[change]).start(),
        };
        assert_eq!(seq, expected);
    }
}

#[test]
fn seqs_start_after_base_seq() {
    let log = ChangeLog::builder().base_seq(1_000_000).build().unwrap();
    assert_eq!(
        (log.last_seq(), log.head(), log.oldest_seq(), log.len()),
        (1_000_000, 1_000_000, 1_000_001, 0)
    );
    assert_eq!(log.append("Row", "r1", ChangeKind::Insert, None), 1_000_001);
    assert_eq!(
        log.append_batch(&[Change::delete("Row", "r1"), Change::delete("Row", "r2")]),
        1_000_002..=1_000_003
    );
    assert_eq!(seqs(&log.read(1_000_000, 9).unwrap()), [1_000_001, 1_000_002, 1_000_003]);
    assert_eq!(resync_from(&log, 999_999).oldest_seq, 1_000_001, "what came before is not there");
    assert_eq!(resync_from(&log, 0).reason, ResyncReason::Evicted);
}

#[test]
fn an_append_that_returned_before_another_began_has_the_lower_seq() {
    let log = Arc::new(ChangeLog::with_capacity(64));
    let (to_other, from_first) = mpsc::channel();
    let (to_first, from_other) = mpsc::channel();
    let other = thread::spawn({
        let log = Arc::clone(&log);
        move || {
            for theirs in from_first {
                let ours = log.append("Row", "r2", ChangeKind::Update, None);
                assert!(ours > theirs);
                to_first.send(ours).unwrap();
            }
        }
    });
    let mut last = 0;
    for _ in 0..1_000 {
        let ours = log.append("Row", "r1", ChangeKind::Update, None);
        assert!(ours > last);
        to_other.send(ours).unwrap();
        last = from_other.recv().unwrap();
    }
    drop(to_other);
    other.join().unwrap();
    assert_eq!(last, 2_000);
}

#[test]
fn a_pull_is_the_contiguous_run_right_after_the_cursor_at_most_limit() {
    let log = log_of(1_000, 700);
    for cursor in (0..700).step_by(50) {
        for limit in [1, 2, 99, 255, 256, 257, 600] {
            let until = 700.min(cursor + limit as u64);
            let batch = log.read(cursor, limit).unwrap();
            assert_eq!(seqs(&batch), (cursor + 1..=until).collect::<Vec<_>>());
            assert_eq!(batch.cursor(), Cursor::new(until, Some(log.incarnation())));
            assert_eq!(batch.has_more(), until < 700);
        }
    }
}

#[test]
fn a_cursor_ahead_of_last_seq_is_a_resync() {
    let log = log_of(10, 5);
    assert!(log.read(5, 10).unwrap().is_empty(), "a cursor at last_seq has simply seen everything");
    for ahead in [6, 7, 1 << 53, u64::MAX] {
        let resync = resync_from(&log, ahead);
        assert_eq!((resync.reason, resync.oldest_seq), (ResyncReason::Ahead, 6));
        assert_eq!((resync.requested, resync.head), (ahead, 5));
        let PullError::ResyncRequired { oldest_seq, cursor } =
            log.pull(&SyncCursor { last_seq: ahead }, 10).unwrap_err();
        assert_eq!((oldest_seq, cursor.last_seq), (6, ahead));
    }
    assert_eq!(resync_from(&ChangeLog::new(), 1).oldest_seq, 1, "also when nothing was ever appended");
}

#[test]
fn a_cursor_older_than_the_oldest_retained_is_a_resync() {
    let log = log_of(4, 10);
    assert_eq!(seqs(&log.read(6, 10).unwrap()), [7, 8, 9, 10], "the edge itself is served");
    for old in [1, 4, 5] {
        let resync = resync_from(&log, old);
        assert_eq!((resync.reason, resync.oldest_seq), (ResyncReason::Evicted, 7));
        assert_eq!((resync.requested, resync.head), (old, 10));
        assert_eq!(resync.missed(), 6 - old);
        let PullError::ResyncRequired { oldest_seq, cursor } =
            log.pull(&SyncCursor { last_seq: old }, 10).unwrap_err();
        assert_eq!((oldest_seq, cursor.last_seq), (7, old));
    }
}

#[test]
fn cursor_0_after_eviction_is_a_resync() {
    let log = log_of(4, 4);
    assert_eq!(seqs(&log.read(0, 10).unwrap()), [1, 2, 3, 4], "not before something was evicted");
    append(&log, 1);
    assert_eq!(resync_from(&log, 0).oldest_seq, 2);
    assert!(log.pull(&SyncCursor::beginning(), 10).is_err());
}

#[test]
fn cursor_0_after_eviction_is_the_tail_where_the_builder_says_so() {
    let log = ChangeLog::builder().capacity(4).start_policy(StartPolicy::Earliest).build().unwrap();
    append(&log, 10);
    assert_eq!(seqs(&log.read(0, 10).unwrap()), [7, 8, 9, 10]);
    assert_eq!(seqs(&log.read(0, 2).unwrap()), [7, 8]);
    assert_eq!(log.pull(&SyncCursor::beginning(), 10).unwrap().changes[0].seq, 7);
    assert_eq!(resync_from(&log, 1).reason, ResyncReason::Evicted, "only a fresh cursor is served so");
    assert_eq!(resync_from(&log, 11).reason, ResyncReason::Ahead);
}

#[test]
fn a_cursor_of_another_incarnation_is_a_resync() {
    let (log, other) = (log_of(10, 5), log_of(10, 5));
    assert_ne!(log.incarnation(), other.incarnation());
    let theirs = other.read(2, 1).unwrap().cursor();
    assert_eq!(seqs(&other.read(theirs, 9).unwrap()), [4, 5]);
    let resync = resync_from(&log, theirs);
    assert_eq!((resync.reason, resync.requested), (ResyncReason::OtherLog, 3));
    assert_eq!((resync.oldest_seq, resync.head, resync.incarnation), (1, 5, log.incarnation()));
    assert!(log.pull_json(theirs, 9, &mut Vec::new()).is_err());

    let token = theirs.to_string();
    assert_eq!(token, format!("{}.3", other.incarnation()), "it travels as a string");
    assert_eq!(token.parse::<Cursor>().unwrap(), theirs);
}

#[test]
fn a_bare_cursor_has_no_incarnation_and_is_not_checked() {
    let log = log_of(10, 5);
    assert_eq!(seqs(&log.read(SyncCursor { last_seq: 3 }, 9).unwrap()), [4, 5]);
    assert_eq!(seqs(&log.read(&SyncCursor { last_seq: 3 }, 9).unwrap()), [4, 5]);
    assert_eq!(seqs(&log.read(Cursor::new(3, None), 9).unwrap()), [4, 5]);
}

#[test]
fn an_incarnation_can_be_given() {
    let incarnation = Incarnation::random();
    let log = ChangeLog::builder().incarnation(incarnation).build().unwrap();
    append(&log, 2);
    assert_eq!(log.incarnation(), incarnation);
    assert_eq!(log.read(Cursor::new(1, Some(incarnation)), 9).unwrap().len(), 1);
}

#[test]
fn exactly_the_last_capacity_seqs_are_retained() {
    for capacity in [1, 2, 3, 63, 64, 65, 255, 256, 257, 300, 512, 513] {
        let log = ChangeLog::with_capacity(capacity);
        for last in 1..=3 * capacity as u64 + 2 {
            append(&log, 1);
            let oldest = last.saturating_sub(capacity as u64) + 1;
            assert_eq!((log.last_seq(), log.head(), log.oldest_seq()), (last, last, oldest));
            assert_eq!((log.len() as u64, log.is_empty()), (last + 1 - oldest, false));
            assert_eq!(log.read(oldest - 1, usize::MAX).unwrap().len(), log.len());
            assert_eq!(log.read(last - 1, usize::MAX).unwrap().len(), 1);
            if oldest > 1 {
                assert_eq!(resync_from(&log, oldest - 2).oldest_seq, oldest);
            }
        }
    }
}

#[test]
fn capacity_0_retains_nothing_and_says_so() {
    let log = log_of(0, 0);
    assert!(log.read(0, 9).unwrap().is_empty(), "nothing was lost yet");
    append(&log, 3);
    assert_eq!((log.len(), log.is_empty(), log.last_seq(), log.oldest_seq()), (0, true, 3, 4));
    for behind in 0..3 {
        let resync = resync_from(&log, behind);
        assert_eq!((resync.reason, resync.oldest_seq), (ResyncReason::Evicted, 4));
        assert!(log.pull(&SyncCursor { last_seq: behind }, 9).is_err());
        assert!(log.pull(&SyncCursor { last_seq: behind }, 0).is_err());
    }
    let answer = log.pull(&SyncCursor { last_seq: 3 }, 9).unwrap();
    assert_eq!((answer.changes.len(), answer.cursor.last_seq, answer.has_more), (0, 3, false));
    assert_eq!(log.append_batch(&[Change::delete("Row", "r1"), Change::delete("Row", "r2")]), 4..=5);
    assert_eq!(resync_from(&log, 4).oldest_seq, 6);
}

#[test]
fn memory_is_taken_as_the_window_fills() {
    let log = ChangeLog::with_capacity(100_000);
    assert_eq!(log.stats().segments_allocated, 0, "not up front");
    append(&log, 1);
    assert_eq!(log.stats().segments_allocated, 1);
    append(&log, 50_000);
    let half = log.stats().segments_allocated;
    append(&log, 100_000);
    assert!(half >= 50_000 / 256 && log.stats().segments_allocated > half);
}

#[test]
fn limit_0_has_no_changes_and_leaves_the_cursor() {
    let log = log_of(4, 10);
    for (cursor, more) in [(6, true), (9, true), (10, false)] {
        let answer = log.pull(&SyncCursor { last_seq: cursor }, 0).unwrap();
        assert_eq!((answer.changes.len(), answer.cursor.last_seq, answer.has_more), (0, cursor, more));
        let batch = log.read(cursor, 0).unwrap();
        assert_eq!((batch.len(), batch.cursor().seq, batch.has_more()), (0, cursor, more));
        let mut json = Vec::new();
        let summary = log.pull_json(cursor, 0, &mut json).unwrap();
        assert_eq!((summary.count, summary.cursor.seq, summary.has_more), (0, cursor, more));
        let text = format!(r#"{{"changes":[],"cursor":{{"last_seq":{cursor}}},"has_more":{more}}}"#);
        assert_eq!(String::from_utf8(json).unwrap(), text);
    }
    assert_eq!(log.read(5, 0).unwrap_err().oldest_seq, 7, "a resync comes first");
    assert_eq!(log.read(11, 0).unwrap_err().oldest_seq, 11);
}

/// Whether by a bare read, by a filtered one, as JSON or by a follower.
#[test]
fn limit_0_leaves_a_fresh_cursor_fresh_where_that_starts_at_the_earliest() {
    let log = ChangeLog::builder().capacity(4).start_policy(StartPolicy::Earliest).build().unwrap();
    let log = Arc::new(log);
    assert_eq!(log.read(0, 0).unwrap().cursor(), log.cursor(), "it has seen that the log was empty");
    append(&log, 10);
    let filter = Filter::entity("Todo");
    for query in [Query::from(0), filter.limit(0)] {
        let batch = log.read(0, query).unwrap();
        assert_eq!((batch.len(), batch.cursor(), batch.has_more()), (0, Cursor::from(0), true));
        let summary = log.pull_json(0, query, &mut Vec::new()).unwrap();
        assert_eq!((summary.count, summary.cursor.seq, summary.has_more), (0, 0, true));
        let mut follower = log.follow(0);
        assert!(follower.blocking_next(query, Duration::ZERO).unwrap().unwrap().is_empty());
        assert_eq!(follower.cursor(), Cursor::from(0));
        append(&log, 10);
        assert_eq!(
            follower.blocking_next(100, Duration::ZERO).unwrap().unwrap().len(),
            4,
            "the tail, no resync"
        );
    }
    let log = ChangeLog::builder().capacity(0).start_policy(StartPolicy::Earliest).build().unwrap();
    append(&log, 10);
    let batch = log.read(0, 0).unwrap();
    assert_eq!((batch.cursor(), batch.has_more()), (Cursor::from(0), false), "nothing is kept");
}

#[test]
fn has_more_tells_whether_a_further_event_is_there() {
    let log = log_of(300, 300);
    for limit in [1, 43, 44, 45, 46] {
        assert_eq!(log.read(255, limit).unwrap().has_more(), limit < 45);
    }
    let batch = log.read(299, 1).unwrap();
    assert!(!batch.has_more());
    append(&log, 1);
    assert!(!batch.has_more(), "a batch tells how it was when it was read");
    assert!(log.read(299, 1).unwrap().has_more());
}

/// Entity, row id and data count; the filter comes first, the limit as ever.
#[test]
fn a_read_with_a_bound_in_bytes_ends_before_the_event_that_would_exceed_it() {
    let log = Arc::new(ChangeLog::with_capacity(2_000));
    for number in 0..1_000_u64 {
        let entity = if number % 3 == 0 { "Other" } else { "Row" };
        let row_id = "r".repeat(if number == 10 { 500 } else { 7 });
        log.append_change(&Change::insert(entity, &row_id).with_value(&json!(null)));
    }
    let event = "Row".len() + 7 + "null".len();
    let texts: Vec<(u64, u64)> = log
        .read(0, 2_000)
        .unwrap()
        .iter()
        .filter(|event| event.entity() == "Row")
        .map(|event| (event.seq(), (event.entity().len() + event.row_id().len() + "null".len()) as u64))
        .collect();
    let filter = Filter::entity("Row");
    for limit in [1, 3, 300, 2_000] {
        for max_bytes in [0, 1, 14, 28, 500, 1_000, 10_000, u64::MAX] {
            let query = Query::new(limit).max_bytes(max_bytes);
            let mut follower = log.follow(0);
            let mut read = Vec::new();
            while read.len() < texts.len() {
                let events = follower.blocking_next(query.filter(&filter), Duration::ZERO).unwrap().unwrap();
                let bytes: u64 = texts[read.len()..][..events.len()].iter().map(|text| text.1).sum();
                assert!(events.len() <= limit && (bytes <= max_bytes || events.len() == 1));
                let next = texts.get(read.len() + events.len());
                assert!(
                    events.len() == limit || next.is_none_or(|next| bytes + next.1 > max_bytes),
                    "it could have gone on"
                );
                assert_eq!(events.has_more(), next.is_some() || events.cursor().seq < log.last_seq());
                read.extend(seqs(&events));
            }
            assert!(read.iter().eq(texts.iter().map(|(seq, _)| seq)), "each once");
        }
    }
    assert_eq!(event, 14);
    let events = log.read(0, Query::new(10).max_bytes(0)).unwrap();
    assert_eq!((seqs(&events), events.has_more()), (vec![1], true), "the first is read");
    let mut json = Vec::new();
    let summary = log.pull_json(1, Query::new(2_000).max_bytes(30), &mut json).unwrap();
    assert_eq!((summary.count, summary.cursor.seq, summary.has_more), (2, 3, true));
}

#[test]
fn a_read_that_is_cut_goes_on_after_the_last_event_kept() {
    let log = log_of(600, 0);
    for number in 0..600 {
        log.append_change(&Change::insert(if number % 2 == 0 { "Even" } else { "Odd" }, "r"));
    }
    let filter = Filter::entity("Odd");
    for query in [Query::new(600), filter.limit(600)] {
        let all = seqs(&log.read(0, query).unwrap());
        for len in [0, 1, 7, 299] {
            let mut events = log.read(0, query).unwrap();
            events.truncate(len);
            assert_eq!((seqs(&events), events.has_more()), (all[..len].to_vec(), true));
            assert_eq!(events.cursor().seq, len.checked_sub(1).map_or(0, |last| all[last]));
            assert_eq!(seqs(&log.read(events.cursor(), query).unwrap()), all[len..]);
            let mut json = Vec::new();
            events.write_json(&mut json);
            assert_eq!(serde_json::from_slice::<ringlog::PullResponse>(&json).unwrap(), events.to_response());
        }
        for len in [all.len(), usize::MAX] {
            let mut events = log.read(0, query).unwrap();
            events.truncate(len);
            assert_eq!((seqs(&events), events.has_more()), (all.clone(), false), "nothing to cut");
        }
    }
}

#[test]
fn an_append_that_has_returned_is_visible() {
    let log = Arc::new(ChangeLog::with_capacity(1 << 16));
    let appenders: Vec<_> = (0..4)
        .map(|_| {
            let log = Arc::clone(&log);
            thread::spawn(move || (0..5_000).map(|_| log.append("Row", "r1", ChangeKind::Update, None)).max())
        })
        .collect();
    let last = appenders.into_iter().map(|thread| thread.join().unwrap()).max().unwrap();
    assert_eq!(last, Some(20_000));
    assert_eq!((log.head(), log.last_seq()), (20_000, 20_000), "all earlier seqs are published");
    assert_eq!(seqs(&log.read(0, usize::MAX).unwrap()), (1..=20_000).collect::<Vec<_>>());

    // In one thread, each append is there when it returns.
    for _ in 0..1_000 {
        let seq = log.append("Row", "r1", ChangeKind::Update, None);
        assert_eq!(seqs(&log.read(seq - 1, 9).unwrap()), [seq]);
        assert_eq!(log.head(), seq);
    }
}

#[test]
fn a_batch_is_contiguous_and_whole() {
    let log = ChangeLog::with_capacity(1_000);
    append(&log, 250);
    let rows: Vec<String> = (0..600).map(|row| row.to_string()).collect();
    let changes: Vec<_> = rows.iter().map(|row| Change::insert("Row", row)).collect();
    assert_eq!(log.append_batch(&changes), 251..=850);
    let batch = log.read(250, usize::MAX).unwrap();
    assert_eq!(batch.iter().map(|event| event.row_id()).collect::<Vec<_>>(), rows);
    assert_eq!(log.read(250, 100).unwrap().len(), 100, "a limit cuts it");
    assert_eq!(log.append("Row", "r1", ChangeKind::Insert, None), 851);
}

#[test]
fn an_iterator_over_a_batch_knows_how_many_events_are_left() {
    let log = log_of(10, 5);
    let batch = log.read(0, 10).unwrap();
    let mut events = batch.iter();
    for left in (0..=5).rev() {
        assert_eq!(events.size_hint(), (left, Some(left)));
        let taken = if left % 2 == 0 { events.next() } else { events.next_back() };
        assert_eq!(taken.is_some(), left > 0);
    }
}

#[test]
fn a_batch_longer_than_the_window_leaves_its_end() {
    for capacity in [0, 1, 3, 300] {
        let log = ChangeLog::with_capacity(capacity);
        let rows: Vec<String> = (1..=1_000).map(|row| row.to_string()).collect();
        let changes: Vec<_> = rows.iter().map(|row| Change::insert("Row", row)).collect();
        assert_eq!(log.append_batch(&changes), 1..=1_000);
        assert_eq!((log.head(), log.len()), (1_000, capacity));
        // The last one always has a slot.
        assert_eq!(log.stats().superseded, 1_000 - capacity.max(1) as u64);
        let batch = log.read(1_000 - capacity as u64, usize::MAX).unwrap();
        assert_eq!(batch.len(), capacity);
        assert!(batch.iter().all(|event| event.row_id() == event.seq().to_string()));
    }
}

#[test]
fn an_empty_batch_takes_no_seq() {
    let log = log_of(10, 3);
    assert!(log.append_batch(&[]).is_empty());
    assert_eq!(log.last_seq(), 3);
    assert_eq!(log.append("Row", "r1", ChangeKind::Insert, None), 4);
    assert!(ChangeLog::new().append_batch(&[]).is_empty());
}

#[test]
fn a_timestamp_is_a_date_with_milliseconds() {
    let millis = Arc::new(AtomicU64::new(0));
    let clock = Arc::clone(&millis);
    let log = ChangeLog::builder().clock(move || clock.load(Ordering::Relaxed)).build().unwrap();
    let dates = [
        (0, "1970-01-01T00:00:00.000Z"),
        (1_795_331_349_123, "2026-11-22T07:09:09.123Z"),
        (951_782_400_001, "2000-02-29T00:00:00.001Z"),
        (4_102_444_799_999, "2099-12-31T23:59:59.999Z"),
        (253_402_300_799_999, "9999-12-31T23:59:59.999Z"),
    ];
    for (seq, (at, date)) in (1..).zip(dates) {
        millis.store(at, Ordering::Relaxed);
        log.append("Row", "r1", ChangeKind::Update, Some(json!({ "at": at })));
        let batch = log.read(seq - 1, 1).unwrap();
        assert_eq!(batch.iter().next().unwrap().timestamp_millis(), at);
        assert_eq!(batch.to_response().changes[0].timestamp, date);
        assert_eq!(log.pull(&SyncCursor { last_seq: seq - 1 }, 1).unwrap().changes[0].timestamp, date);
        let mut json = Vec::new();
        batch.write_json(&mut json);
        assert!(String::from_utf8(json).unwrap().contains(&format!(r#""timestamp":"{date}""#)));
    }
}

#[test]
fn a_timestamp_is_the_time_of_the_append() {
    let now = || u64::try_from(std::time::UNIX_EPOCH.elapsed().unwrap().as_millis()).unwrap();
    let log = ChangeLog::new();
    let before = now();
    log.append("Row", "r1", ChangeKind::Insert, None);
    let at = log.read(0, 1).unwrap().iter().next().unwrap().timestamp_millis();
    // The coarse clock ticks every few milliseconds.
    assert!((before - 1_000..=now()).contains(&at), "{before} {at}");
}

#[test]
fn exactly_the_most_recent_op_ids_are_remembered() {
    for capacity in [1, 2, 3, 100, 1_000] {
        let log = ChangeLog::builder().op_id_capacity(capacity).build().unwrap();
        for last in 0..3 * capacity {
            log.remember_op_id(&last.to_string());
            log.remember_op_id(&last.to_string());
            let oldest = (last + 1).saturating_sub(capacity);
            assert!(log.has_seen_op_id(&last.to_string()));
            assert!(log.has_seen_op_id(&oldest.to_string()));
            assert!(oldest == 0 || !log.has_seen_op_id(&(oldest - 1).to_string()));
        }
        let remembered = (0..3 * capacity).filter(|op_id| log.has_seen_op_id(&op_id.to_string())).count();
        assert_eq!(remembered, capacity);
    }
}

#[test]
fn the_default_is_ten_thousand_events_and_op_ids() {
    let log = log_of(10_000, 0);
    for log in [ChangeLog::new(), ChangeLog::builder().build().unwrap(), log] {
        append(&log, 10_001);
        assert_eq!((log.len(), log.oldest_seq()), (10_000, 2));
        (0..=10_000).for_each(|op_id| log.remember_op_id(&op_id.to_string()));
        assert!(!log.has_seen_op_id("0"));
        assert!((1..=10_000).all(|op_id| log.has_seen_op_id(&op_id.to_string())));
    }
}

#[test]
fn a_batch_stays_on_its_thread() {
    // Does not compile if `Events` is `Send`: then it is not clear which of the two is meant.
    trait UnlessSend<Which> {
        const HOLDS: bool = true;
    }
    impl<T: ?Sized> UnlessSend<()> for T {}
    impl<T: ?Sized + Send> UnlessSend<u8> for T {}
    const { assert!(<Events<'static> as UnlessSend<_>>::HOLDS) };
}

#[test]
fn a_dropped_log_leaves_other_logs_alone() {
    // That every record is dropped exactly once is counted in `memory.rs`.
    let kept = log_of(300, 0);
    for round in 0..20 {
        let dropped = log_of(300, 700);
        let other = thread::spawn(move || {
            let batch = dropped.read(600, 50).unwrap();
            (batch.len(), batch.iter().next_back().unwrap().seq())
        });
        append(&kept, 100);
        assert_eq!(other.join().unwrap(), (50, 650));
        assert_eq!(kept.read(round * 100, 100).unwrap().len(), 100);
    }
}

// Bad input.

fn refusal(build: Result<ChangeLog, ConfigError>) -> String {
    build.expect_err("a configuration that is refused").to_string()
}

#[test]
fn a_capacity_beyond_the_limit_is_refused_by_name() {
    let words = refusal(ChangeLog::builder().capacity(MAX_CAPACITY + 1).build());
    assert!(words.contains("capacity") && words.contains(&MAX_CAPACITY.to_string()), "{words}");
    assert!(words.contains(&(MAX_CAPACITY + 1).to_string()), "{words}");
    refusal(ChangeLog::builder().capacity(usize::MAX).build());
    assert!(ChangeLog::builder().capacity(MAX_CAPACITY).build().is_ok());
}

#[test]
fn an_op_id_capacity_beyond_the_limit_is_refused_by_name() {
    let words = refusal(ChangeLog::builder().op_id_capacity(MAX_CAPACITY + 1).build());
    assert!(words.contains("op_id_capacity") && words.contains(&MAX_CAPACITY.to_string()), "{words}");
    assert!(ChangeLog::builder().op_id_capacity(MAX_CAPACITY).build().is_ok());
}

#[test]
fn with_capacity_panics_with_the_words_of_the_builder() {
    let words = refusal(ChangeLog::builder().capacity(MAX_CAPACITY + 1).build());
    let panic = std::panic::catch_unwind(|| ChangeLog::with_capacity(MAX_CAPACITY + 1)).err().unwrap();
    let panic = panic.downcast_ref::<String>().expect("a message");
    assert!(panic.contains(&words), "{panic}");
}

#[test]
fn a_base_seq_beyond_what_javascript_can_hold_is_refused_by_name() {
    for seq in [MAX_BASE_SEQ + 1, (1 << 53) - 1, 1 << 53, u64::MAX] {
        let words = refusal(ChangeLog::builder().base_seq(seq).build());
        assert!(words.contains("base_seq") && words.contains(&seq.to_string()), "{words}");
        assert!(words.contains(&MAX_BASE_SEQ.to_string()) && words.contains("2^52"), "{words}");
    }
    let log = ChangeLog::builder().base_seq(MAX_BASE_SEQ).build().unwrap();
    append(&log, 1_000);
    assert_eq!((log.oldest_seq(), log.last_seq()), (MAX_BASE_SEQ + 1, MAX_BASE_SEQ + 1_000));
    assert!(log.last_seq() < 1 << 53, "JavaScript counts these");
    assert_eq!(log.read(MAX_BASE_SEQ, usize::MAX).unwrap().len(), 1_000);
}

#[test]
fn a_slot_size_out_of_range_is_refused_by_name() {
    for size in [0, 1, 1 << 40, usize::MAX] {
        let words = refusal(ChangeLog::builder().slot_size(size).build());
        assert!(words.contains("slot_size") && words.contains(&size.to_string()), "{words}");
    }
    for size in [63, 4097] {
        refusal(ChangeLog::builder().slot_size(size).build());
    }
    for size in [64, 65, 256, 4095, 4096] {
        let log = ChangeLog::builder().slot_size(size).build().unwrap();
        append(&log, 10);
        assert_eq!(log.read(0, 100).unwrap().len(), 10, "slots of {size} bytes");
    }
}

#[test]
fn a_record_beyond_the_limit_is_refused_before_a_seq_is_claimed() {
    let log = log_of(10, 1);
    let huge = String::from_utf8(vec![0; MAX_RECORD_LEN]).unwrap();
    let refused = |append: &dyn Fn()| {
        let panic = std::panic::catch_unwind(std::panic::AssertUnwindSafe(append)).unwrap_err();
        let words = panic.downcast_ref::<String>().expect("a message");
        assert!(words.contains(&MAX_RECORD_LEN.to_string()), "{words}");
        assert_eq!((log.last_seq(), log.head()), (1, 1));
    };
    refused(&|| {
        log.append_change(&Change::insert("E", &huge));
    });
    refused(&|| {
        log.append_change(&Change::insert(&huge, "r"));
    });
    refused(&|| {
        log.append(&huge, &huge, ChangeKind::Delete, None);
    });
    refused(&|| {
        log.append_batch(&[Change::insert("E", "r"), Change::insert(&huge, "r")]);
    });
    // Also where the window is too short for it to be seen.
    let mut changes = vec![Change::insert("E", "r"); 12];
    changes[0] = Change::insert(&huge, "r");
    refused(&|| {
        log.append_batch(&changes);
    });
    assert_eq!(log.append("E", "r", ChangeKind::Insert, None), 2, "and the log goes on");
    assert_eq!(seqs(&log.read(0, 9).unwrap()), [1, 2]);
}

#[test]
fn long_strings_are_stored_whole() {
    let log = ChangeLog::with_capacity(3);
    for length in (0..600).chain([4_095, 4_096, 65_535, 65_536, 1 << 20]) {
        let (entity, row_id) = ("é".repeat(length / 2), "r".repeat(length));
        let data = json!({ "text": "\n".repeat(length) });
        let seq = log.append(&entity, &row_id, ChangeKind::Insert, Some(data.clone()));
        let event = log.pull(&SyncCursor { last_seq: seq - 1 }, 1).unwrap().changes.remove(0);
        assert!(event.entity == entity && event.row_id == row_id && event.data == Some(data), "{length}");
    }
}

struct Unwritable;

impl serde::Serialize for Unwritable {
    fn serialize<S: serde::Serializer>(&self, _: S) -> Result<S::Ok, S::Error> {
        Err(serde::ser::Error::custom("not today"))
    }
}

#[test]
fn text_that_is_no_json_cannot_be_appended() {
    for text in ["", "{", "nul", "1.", "\"\n\"", "[1] 2"] {
        assert!(serde_json::value::RawValue::from_string(text.into()).is_err(), "{text:?}");
    }
    let error = Change::insert("E", "r").with_data(&Unwritable).unwrap_err();
    assert_eq!(error.to_string(), "not today");
}

#[test]
fn text_that_no_value_holds_is_served_as_text_and_pulled_as_a_string() {
    let deep = format!("{}{}", "[".repeat(200), "]".repeat(200));
    for text in ["1e999", r#""\ud800""#, &deep] {
        let log = ChangeLog::with_capacity(3);
        let raw = serde_json::value::RawValue::from_string(text.into()).unwrap();
        log.append_change(&Change::insert("E", "r").with_raw(&raw));
        let pulled = log.pull(&SyncCursor::beginning(), 1).unwrap();
        assert_eq!(pulled.changes[0].data, Some(json!(text)));
        assert_eq!(log.read(0, 1).unwrap().iter().next().unwrap().data_json(), Some(text));
        let mut json = Vec::new();
        log.pull_json(0, 1, &mut json).unwrap();
        assert!(String::from_utf8(json).unwrap().contains(&format!(r#""data":{text},"#)));
    }
}

#[test]
fn a_value_nested_too_deep_to_parse_is_pulled_as_its_text() {
    let nested = |depth| (1..depth).fold(json!([]), |inner, _| json!([inner]));
    let log = ChangeLog::with_capacity(3);
    for (depth, comes_back) in [(127, nested(127)), (128, json!(nested(128).to_string()))] {
        let seq = log.append("E", "r", ChangeKind::Insert, Some(nested(depth)));
        let pulled = log.pull(&SyncCursor { last_seq: seq - 1 }, 1).unwrap();
        assert_eq!(pulled.changes[0].data, Some(comes_back), "{depth} deep");
        let batch = log.read(seq - 1, 1).unwrap();
        assert_eq!(batch.iter().next().unwrap().data_json(), Some(&*nested(depth).to_string()));
    }
}

#[test]
fn a_clock_that_panics_or_appends_does_no_harm() {
    let log: Arc<OnceLock<ChangeLog>> = Arc::default();
    let inner = Arc::downgrade(&log);
    let asked = AtomicU64::new(0);
    let clock = move || match asked.fetch_add(1, Ordering::Relaxed) {
        0 => panic!("no time yet"),
        1 => {
            let log = inner.upgrade().expect("it is asked by the log");
            log.get().expect("it is built").append("Inner", "r", ChangeKind::Insert, Some(json!("inner")))
        }
        _ => 7,
    };
    let log = log.get_or_init(|| ChangeLog::builder().clock(clock).build().unwrap());
    assert!(std::panic::catch_unwind(|| log.append("E", "r", ChangeKind::Insert, None)).is_err());
    assert_eq!((log.last_seq(), log.head(), log.len()), (0, 0, 0));
    assert_eq!(log.append("Outer", "r", ChangeKind::Insert, Some(json!("outer"))), 2);
    let batch = log.read(0, 9).unwrap();
    let entities: Vec<_> = batch.iter().map(|event| (event.entity(), event.data_json())).collect();
    assert_eq!(entities, [("Inner", Some(r#""inner""#)), ("Outer", Some(r#""outer""#))]);
}

#[test]
fn a_thread_that_is_being_torn_down_can_still_append_and_read() {
    struct AtExit(Arc<ChangeLog>);
    impl Drop for AtExit {
        fn drop(&mut self) {
            for _ in 0..100 {
                let data = Some(json!({ "at": "exit" }));
                let seq = self.0.append("E", "r", ChangeKind::Insert, data);
                assert_eq!(self.0.read(seq - 1, 1).unwrap().len(), 1);
            }
        }
    }
    // One is made before the thread has used the log and one after, so that one of them is dropped
    // last.
    thread_local! {
        static EARLY: RefCell<Option<AtExit>> = const { RefCell::new(None) };
        static LATE: RefCell<Option<AtExit>> = const { RefCell::new(None) };
    }
    let log = Arc::new(ChangeLog::with_capacity(10));
    let ours = Arc::clone(&log);
    thread::spawn(move || {
        EARLY.set(Some(AtExit(Arc::clone(&ours))));
        append(&ours, 1);
        LATE.set(Some(AtExit(ours)));
    })
    .join()
    .unwrap();
    assert_eq!((log.last_seq(), log.head(), log.len()), (201, 201, 10));
}

#[test]
fn a_resync_says_in_json_what_it_says() {
    let log = log_of(2, 5);
    let incarnation = log.incarnation().to_string();
    assert_eq!(
        serde_json::to_value(resync_from(&log, 1)).unwrap(),
        json!({"reason": "evicted", "requested": 1, "oldest_seq": 4, "head": 5, "incarnation": incarnation})
    );
    for reason in [ResyncReason::Evicted, ResyncReason::Ahead, ResyncReason::OtherLog] {
        assert_eq!(serde_json::to_value(reason).unwrap(), json!(reason.as_str()));
    }
}

#[test]
fn a_cursor_token_is_strict() {
    let incarnation = "0123456789abcdef0123456789abcdef";
    let token = format!("{incarnation}.18446744073709551615");
    assert_eq!(token.parse::<Cursor>().unwrap().seq, u64::MAX);
    assert_eq!(token.parse::<Cursor>().unwrap().to_string(), token);
    assert_eq!("-.7".parse::<Cursor>().unwrap(), Cursor::new(7, None));
    assert_eq!(Cursor::new(7, None).to_string(), "-.7");
    let bad =
        ["", "7", ".7", "-", "-.", "-.-1", "-.+1", "-.07", "-. 7", "-.7 ", " -.7", "-.7.", "--.7", "-.x"];
    for text in bad {
        assert!(text.parse::<Cursor>().is_err(), "{text:?}");
    }
    for bad in [
        "0123456789ABCDEF0123456789abcdef.7",
        "0123456789abcdef0123456789abcde.7",
        "0123456789abcdef0123456789abcdef0.7",
    ] {
        assert!(bad.parse::<Cursor>().is_err(), "{bad:?}");
    }
    assert!(format!("{incarnation}.18446744073709551616").parse::<Cursor>().is_err(), "beyond u64");
    assert!(format!("+{}.7", &incarnation[1..]).parse::<Cursor>().is_err(), "a sign is no digit");
}
