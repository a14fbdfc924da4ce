//! Readers whose cursor is older than the window get the latest change of every row, and have the
//! writer's rows afterwards.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use proptest::prelude::*;
use ringlog::{
    Change, ChangeKind, ChangeLog, CompactedHistory, Cursor, EventRef, Filter, Query, ResyncReason,
};
use serde_json::json;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

type Rows = BTreeMap<(String, String), (u64, Option<String>)>;

fn fold(rows: &mut Rows, event: EventRef<'_>) {
    let key = (event.entity().to_owned(), event.row_id().to_owned());
    match event.kind() {
        ChangeKind::Delete => drop(rows.remove(&key)),
        ChangeKind::Insert | ChangeKind::Update => {
            rows.insert(key, (event.seq(), event.data_json().map(str::to_owned)));
        }
    }
}

/// A reader that keeps rows.
#[derive(Default)]
struct Reader {
    rows: Rows,
    cursor: u64,
    began_at: Option<u64>,
    resyncs: usize,
}

impl Reader {
    /// Reads once, wherever it stands. Whether there is more.
    fn read(&mut self, log: &ChangeLog, history: &CompactedHistory, limit: usize) -> bool {
        match log.read(Cursor::new(self.cursor, Some(log.incarnation())), limit) {
            Ok(events) => {
                events.iter().for_each(|event| fold(&mut self.rows, event));
                (self.cursor, self.began_at) = (events.cursor().seq, None);
                events.has_more()
            }
            Err(resync) => {
                assert_eq!(resync.reason, ResyncReason::Evicted);
                let Ok(events) = history.read(log, self.cursor, self.began_at, limit) else {
                    assert!(self.cursor > 0, "a reader that has nothing is served");
                    *self = Self { resyncs: self.resyncs + 1, ..Self::default() };
                    return true;
                };
                assert!(events.cursor().seq > self.cursor, "it gets on");
                events.iter().for_each(|event| fold(&mut self.rows, event));
                (self.cursor, self.began_at) = (events.cursor().seq, events.began_at());
                events.has_more()
            }
        }
    }
}

/// A change of kind, entity and row.
type Made = (ChangeKind, &'static str, u8);

fn made() -> impl Strategy<Value = Made> {
    let kinds = vec![ChangeKind::Insert, ChangeKind::Update, ChangeKind::Delete];
    (prop::sample::select(kinds), prop::sample::select(vec!["A", "B"]), 0..12_u8)
}

#[derive(Debug, Clone)]
enum Step {
    Append(Vec<Made>),
    Read { reader: usize, limit: usize },
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        prop::collection::vec(made(), 1..6).prop_map(Step::Append),
        (0..3_usize, 1..5_usize).prop_map(|(reader, limit)| Step::Read { reader, limit }),
    ]
}

proptest! {
    #[test]
    fn readers_that_stop_and_go_on_anywhere_have_the_rows_of_the_writer(
        capacity in 1..50_usize,
        tombstones in prop_oneof![0..8_usize, Just(1000)],
        steps in prop::collection::vec(step(), 1..60),
    ) {
        let log = ChangeLog::with_capacity(capacity);
        let history = CompactedHistory::of(&log).max_tombstones(tombstones);
        let mut rows = Rows::new();
        let mut readers: [Reader; 3] = Default::default();
        for step in steps {
            match step {
                Step::Append(changes) => {
                    for (kind, entity, row) in changes {
                        let (row_id, data) = (row.to_string(), json!({"row": row}));
                        let change = Change::new(kind, entity, &row_id).with_value(&data);
                        log.append_change(&change);
                        let events = log.read(log.last_seq() - 1, 1).unwrap();
                        history.apply(&events).unwrap();
                        events.iter().for_each(|event| fold(&mut rows, event));
                    }
                }
                Step::Read { reader, limit } => drop(readers[reader].read(&log, &history, limit)),
            }
        }
        for (number, mut reader) in readers.into_iter().enumerate() {
            while reader.read(&log, &history, number + 1) {}
            prop_assert_eq!(&reader.rows, &rows);
            prop_assert!(tombstones < 1000 || reader.resyncs == 0);
        }
        let loaded = history.load();
        let kept: Rows = loaded.rows(None).map(|row| {
            ((row.entity().to_owned(), row.row_id().to_owned()), (row.seq(), row.data_json().map(str::to_owned)))
        }).collect();
        prop_assert_eq!((kept.len(), &kept), (loaded.rows_len(), &rows));
        prop_assert!(loaded.tombstones_len() <= tombstones);
    }
}

fn insert(row_id: &str) -> Change<'_> {
    Change::insert("Todo", row_id)
}

/// A history of changes at time 0, on a log whose window holds none of them.
fn filled(history: CompactedHistory, changes: &[Change<'_>]) -> (ChangeLog, CompactedHistory) {
    let log = ChangeLog::with_capacity(0);
    log.append_batch(changes);
    history.commit(1, changes.iter().map(|change| (change, 0)));
    (log, history)
}

fn seqs(history: &CompactedHistory, log: &ChangeLog, after: u64) -> Vec<u64> {
    history.read(log, after, None, 100).unwrap().iter().map(|event| event.seq()).collect()
}

#[test]
fn a_row_that_is_dropped_for_want_of_room_is_a_resync_also_for_readers_that_have_nothing() {
    let changes = [insert("a"), Change::delete("Todo", "x"), insert("b"), insert("c")];
    let (log, history) = filled(CompactedHistory::new(0).max_rows(2), &changes);
    assert_eq!(history.load().oldest_compacted_seq(), 2);
    for after in [0, 1] {
        let read = history.read(&log, after, None, 100);
        assert_eq!(read.is_ok(), after == 1, "{after}");
        if let Err(resync) = read {
            assert_eq!((resync.reason, resync.oldest_seq, resync.missed()), (ResyncReason::Compacted, 2, 1));
            assert_eq!(
                resync.to_string(),
                "resync required: rows were deleted after seq 0 whose tombstones are dropped; load the rows anew \
                 and read on from there (head is 4)"
            );
        }
    }
    assert_eq!(seqs(&history, &log, 1), [2, 3, 4]);
}

#[test]
fn tombstones_go_by_number_and_by_age() {
    let deletes = ["a", "b", "c"].map(|row_id| Change::delete("Todo", row_id));
    let (log, history) = filled(CompactedHistory::new(0).max_tombstones(1), &deletes);
    assert_eq!((seqs(&history, &log, 2), history.load().oldest_compacted_seq()), (vec![3], 3));
    let (_, history) = filled(CompactedHistory::new(0).max_tombstone_age(Duration::from_millis(5)), &deletes);
    history.commit(4, [(&insert("d"), 5)]);
    assert_eq!(history.load().tombstones_len(), 3, "just as old as they may be");
    history.commit(5, [(&insert("e"), 6)]);
    assert_eq!((history.load().tombstones_len(), history.load().oldest_compacted_seq()), (0, 4));
}

#[test]
fn a_row_that_is_there_again_leaves_no_tombstone() {
    let changes = [insert("a"), Change::delete("Todo", "a"), insert("a")];
    let (log, history) = filled(CompactedHistory::new(0), &changes);
    assert_eq!((seqs(&history, &log, 0), history.load().tombstones_len()), (vec![3], 0));
    assert_eq!(history.load().row("Todo", "a").map(|row| row.seq()), Some(3));
    assert!(history.load().row("Todo", "b").is_none());
}

#[test]
fn a_page_ends_at_its_limit_in_events_and_in_bytes_and_says_where_to_go_on() {
    let row_ids = ["a", "b", "c", "d"].map(|row_id| row_id.repeat(96));
    let changes: Vec<_> = row_ids.iter().map(|row_id| insert(row_id)).collect();
    let (log, history) = filled(CompactedHistory::new(0), &changes);
    for (query, expected) in [
        (Query::new(3), (3, 3)),
        (Query::new(4), (4, 4)),
        (Query::new(100).max_bytes(200), (2, 2)),
        (Query::new(100).max_bytes(1), (1, 1)),
        (Query::new(0), (0, 0)),
    ] {
        let page = history.read(&log, 0, None, query).unwrap();
        assert_eq!((page.len() as u64, page.cursor().seq), expected, "{query:?}");
        assert_eq!((page.has_more(), page.is_empty()), (expected.1 < 4, expected.0 == 0), "{query:?}");
        assert_eq!(page.cursor().incarnation, Some(log.incarnation()));
    }
}

#[test]
fn a_filter_finds_its_entities_and_the_cursor_moves_past_the_others() {
    let changes =
        [insert("a"), Change::insert("User", "u"), insert("b"), Change::delete("List", "l"), insert("c")];
    let (log, history) = filled(CompactedHistory::new(0), &changes);
    let filter = Filter::entities(["User", "List", "None"]);
    let page = history.read(&log, 0, None, filter.limit(100)).unwrap();
    assert_eq!(page.iter().map(|event| event.seq()).collect::<Vec<_>>(), [2, 4]);
    assert_eq!(page.cursor().seq, 5);
    let page = history.read(&log, 2, None, filter.limit(1)).unwrap();
    assert_eq!((page.len(), page.cursor().seq, page.has_more()), (1, 5, false));
    let page = history.read(&log, 0, None, filter.limit(1)).unwrap();
    assert_eq!((page.len(), page.cursor().seq, page.has_more()), (1, 2, true));
}

#[test]
fn a_predicate_finds_its_events_and_the_cursor_moves_past_the_others() {
    let changes =
        [insert("a"), Change::insert("User", "u"), insert("b"), Change::delete("List", "l"), insert("c")];
    let (log, history) = filled(CompactedHistory::new(0), &changes);
    let seqs = |filter: &Filter| {
        let page = history.read(&log, 0, None, filter.limit(100)).unwrap();
        assert_eq!(page.cursor().seq, 5);
        page.iter().map(|event| event.seq()).collect::<Vec<_>>()
    };
    assert_eq!(
        seqs(&Filter::by(|event| event.kind() == ChangeKind::Delete || event.row_id() == "b")),
        [3, 4]
    );
    assert_eq!(seqs(&Filter::entities(["Todo", "User"]).and(|event| event.seq() < 4)), [1, 2, 3]);
    assert_eq!(seqs(&Filter::by(|_| false)), [0_u64; 0]);
}

#[test]
fn events_that_were_applied_are_passed_over_and_a_gap_is_refused() {
    let log = ChangeLog::new();
    let history = CompactedHistory::of(&log);
    for row_id in ["a", "b", "c", "d"] {
        log.append_change(&insert(row_id));
    }
    history.apply(&log.read(0, 2).unwrap()).unwrap();
    let conflict = history.apply(&log.read(3, 1).unwrap()).unwrap_err();
    assert_eq!((conflict.expected, conflict.last_seq), (3, 2));
    assert_eq!(history.load().last_seq(), 2, "as it was");
    history.apply(&log.read(1, 3).unwrap()).unwrap();
    history.apply(&log.read(0, 1).unwrap()).unwrap();
    let loaded = history.load();
    assert_eq!((loaded.last_seq(), loaded.rows_len(), loaded.base_seq()), (4, 4, 0));
}

#[test]
#[should_panic(expected = "seq 2 is not after 2")]
fn a_seq_that_is_taken_is_not_committed_again() {
    let history = CompactedHistory::new(0);
    history.commit(1, [(&insert("a"), 0), (&insert("b"), 0)]);
    history.commit(2, [(&insert("c"), 0)]);
}

#[test]
fn its_json_is_that_of_a_pull_and_says_up_to_where_it_is_compacted() {
    let data = json!({"n": [1, null]});
    let changes = [insert("a \"name\"").with_value(&data), Change::delete("Todo", "x").with_value(&data)];
    let (log, history) = filled(CompactedHistory::new(0), &changes);
    let mut json = Vec::new();
    history.read(&log, 0, None, 100).unwrap().write_json(&mut json);
    let expected = r#"{"changes":[{"seq":1,"entity":"Todo","row_id":"a \"name\"","kind":"insert","data":{"n":[1,null]},"timestamp":"1970-01-01T00:00:00.000Z"},{"seq":2,"entity":"Todo","row_id":"x","kind":"delete","timestamp":"1970-01-01T00:00:00.000Z"}],"cursor":{"last_seq":2},"has_more":false,"compacted_to":2}"#;
    assert_eq!(String::from_utf8(json).unwrap(), expected);
    let mut json = Vec::new();
    history.read(&log, 2, None, 100).unwrap().write_json(&mut json);
    assert_eq!(json, br#"{"changes":[],"cursor":{"last_seq":2},"has_more":false,"compacted_to":2}"#);
}

#[test]
fn a_history_that_lags_behind_the_window_gives_what_it_has() {
    let log = ChangeLog::with_capacity(1);
    let history = CompactedHistory::of(&log);
    log.append_change(&insert("a"));
    history.apply(&log.read(0, 1).unwrap()).unwrap();
    log.append_change(&insert("b"));
    log.append_change(&insert("c"));
    let page = history.read(&log, 0, None, 100).unwrap();
    assert_eq!((page.len(), page.cursor().seq, page.has_more()), (1, 1, true));
}

/// A writer, a thread that feeds the history, and readers, all at once.
#[test]
fn readers_beside_a_writer_end_up_with_its_rows() {
    let log = Arc::new(ChangeLog::with_capacity(256));
    let history = Arc::new(CompactedHistory::of(&log));
    let is_done = AtomicBool::new(false);
    thread::scope(|scope| {
        scope.spawn(|| {
            let mut follower = log.follow(0);
            while let Ok(Some(events)) = follower.blocking_next(64, Duration::from_secs(60)) {
                history.apply(&events).unwrap();
            }
        });
        let readers: Vec<_> = (0..2)
            .map(|_| {
                scope.spawn(|| {
                    let mut reader = Reader::default();
                    loop {
                        let was_done = is_done.load(Ordering::SeqCst);
                        if !reader.read(&log, &history, 50) && was_done {
                            return reader.rows;
                        }
                        // It falls behind the window.
                        thread::yield_now();
                    }
                })
            })
            .collect();
        for n in 0..20_000_u32 {
            let row_id = (n.wrapping_mul(2_654_435_761) >> 20).to_string();
            let change = if n % 3 == 0 { Change::delete("Todo", &row_id) } else { insert(&row_id) };
            log.append_change(&change);
            // The feeder must not be lapped.
            while log.last_seq() - history.load().last_seq() > 200 {
                thread::yield_now();
            }
        }
        while history.load().last_seq() < log.last_seq() {
            thread::yield_now();
        }
        log.close();
        is_done.store(true, Ordering::SeqCst);
        let mut rows = Rows::new();
        history.load().rows(None).for_each(|row| fold(&mut rows, row));
        for reader in readers {
            assert_eq!(reader.join().unwrap(), rows);
        }
    });
}
