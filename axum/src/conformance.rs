//! What every store must do.
//!
//! A store of your own runs the suite in its tests, with the feature `conformance`:
//!
//! ```
//! # #[cfg(test)]
//! mod tests {
//!     use ringlog_axum::conformance::{Measures, Opened};
//!     use ringlog_axum::MemoryStore;
//!
//!     fn open() -> Box<dyn FnMut(&Measures) -> Opened> {
//!         Box::new(|measures| {
//!             let (store, log) =
//!                 MemoryStore::open(measures.builder(), measures.tombstones).unwrap();
//!             Opened { store: Box::new(store), log }
//!         })
//!     }
//!
//!     ringlog_axum::conformance_tests!(open);
//! }
//! ```
#![expect(clippy::unwrap_used, reason = "what fails is a test")]
#![expect(clippy::missing_panics_doc, reason = "a test that fails panics")]

use crate::{LatestChange, Snapshot, Store, Tombstones};
use proptest::prelude::*;
use proptest::test_runner::TestRunner;
use ringlog::{Builder, ChangeKind, ChangeLog, Filter, OpStatus, PushRequest, PushResponse};
use serde_json::json;
use std::collections::BTreeMap;
use std::fmt;
use std::ops::ControlFlow;
use std::sync::Arc;
use std::time::Duration;

/// A store that is open, and its log.
pub struct Opened {
    /// Commits.
    pub store: Box<dyn Store>,
    /// Goes on where the store ends.
    pub log: ChangeLog,
}

impl fmt::Debug for Opened {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Opened").field("log", &self.log).finish_non_exhaustive()
    }
}

/// What a store is opened with.
#[derive(Debug, Clone)]
pub struct Measures {
    /// Capacity of the log's window, in events.
    pub capacity: usize,
    /// Deletes that are told to readers whose cursor is older than the window.
    pub tombstones: Tombstones,
}

impl Default for Measures {
    fn default() -> Self {
        Self { capacity: 100_000, tombstones: Tombstones::default() }
    }
}

impl Measures {
    /// The builder of a log of these measures.
    pub fn builder(&self) -> Builder {
        ChangeLog::builder().capacity(self.capacity)
    }

    fn of_capacity(capacity: usize) -> Self {
        Self { capacity, ..Self::default() }
    }

    fn with_tombstones(mut self, most: usize) -> Self {
        self.tombstones.most = most;
        self
    }
}

/// Opens one store: at the first call it is empty, at a later one it is as it was left. The one
/// that was opened before is dropped by then.
pub type Open = Box<dyn FnMut(&Measures) -> Opened>;

/// By entity and row id: seq and data.
type Rows = BTreeMap<(String, String), (u64, Option<String>)>;

/// Runs a test on a store with the measures of default.
fn each(fresh: impl Fn() -> Open, test: impl Fn(Opened)) {
    each_with(fresh, &Measures::default(), test);
}

fn each_with(fresh: impl Fn() -> Open, measures: &Measures, test: impl Fn(Opened)) {
    let mut open = fresh();
    test(open(measures));
}

impl Opened {
    /// Claims, commits and publishes a group of requests, as the applier does.
    fn push(&mut self, requests: &[PushRequest]) -> Vec<PushResponse> {
        let claims: Vec<_> = requests.iter().map(|request| self.log.claim_push(request).unwrap()).collect();
        let borrowed: Vec<_> = claims.iter().collect();
        self.store.commit(self.log.last_seq() + 1, &borrowed).unwrap();
        claims.into_iter().map(ringlog::PushClaim::publish).collect()
    }

    fn snapshot(&self) -> Arc<dyn Snapshot> {
        self.store.reader().snapshot().unwrap()
    }
}

/// A request of changes: kind, entity, row id, data.
fn request(changes: &[(&str, &str, &str, Option<u64>)]) -> PushRequest {
    let change = |(index, (kind, entity, row_id, data)): (usize, &(&str, &str, &str, Option<u64>))| {
        let op_id = format!("{kind}-{entity}-{row_id}-{data:?}-{index}");
        let mut change = json!({"kind": kind, "entity": entity, "row_id": row_id, "op_id": op_id});
        if let Some(data) = data {
            change["data"] = json!({"n": data});
        }
        change
    };
    let changes: Vec<_> = changes.iter().enumerate().map(change).collect();
    serde_json::from_value(json!({"client_id": "client", "changes": changes})).unwrap()
}

fn rows(snapshot: &dyn Snapshot) -> Rows {
    rows_after(snapshot, None)
}

fn rows_after(snapshot: &dyn Snapshot, after: Option<(&str, &str)>) -> Rows {
    let mut rows = Rows::new();
    let scanned = snapshot.scan(after, &mut |row| {
        let key = (row.entity.to_owned(), row.row_id.to_owned());
        assert!(rows.last_key_value().is_none_or(|(last, _)| *last < key), "in the order of keys");
        rows.insert(key, (row.seq, row.data.map(str::to_owned)));
        ControlFlow::Continue(())
    });
    scanned.unwrap();
    rows
}

/// What a snapshot tells of the changes after `after` and before `end`: seq, kind, row and data.
type Changes = Vec<(u64, ChangeKind, String, String, Option<String>)>;

fn changes(snapshot: &dyn Snapshot, after: u64, end: u64, filter: Option<&Filter>) -> Changes {
    let mut changes = Changes::new();
    let walked = snapshot.changes(after, end, filter, &mut |change: LatestChange<'_>| {
        let LatestChange { seq, kind, entity, row_id, data, .. } = change;
        changes.push((seq, kind, entity.to_owned(), row_id.to_owned(), data.map(str::to_owned)));
        ControlFlow::Continue(())
    });
    walked.unwrap();
    changes
}

fn events(log: &ChangeLog) -> Vec<ringlog::ChangeEvent> {
    log.read(0, 100).unwrap().iter().map(|event| event.to_event()).collect()
}

/// A new store has no rows and its log goes on where it ends.
pub fn a_new_store_has_no_rows_and_its_log_goes_on_where_it_ends(fresh: impl Fn() -> Open) {
    each(fresh, |opened| {
        assert_eq!(rows(&*opened.snapshot()), Rows::new());
        assert_eq!(opened.snapshot().last_seq(), opened.log.last_seq());
    });
}

/// A group is committed in its order with the seqs that it was given.
pub fn a_group_is_committed_in_its_order_with_the_seqs_that_it_was_given(fresh: impl Fn() -> Open) {
    each(fresh, |mut opened| {
        let base = opened.log.last_seq();
        let responses = opened.push(&[
            request(&[("insert", "A", "1", Some(1)), ("insert", "A", "2", None)]),
            request(&[
                ("update", "A", "1", Some(2)),
                ("delete", "A", "2", None),
                ("insert", "B", "1", Some(3)),
            ]),
        ]);
        let seqs = responses.iter().flat_map(|response| &response.results).map(|result| result.seq.unwrap());
        assert_eq!(seqs.collect::<Vec<_>>(), (base + 1..=base + 5).collect::<Vec<_>>());
        let row = |entity: &str, row_id: &str, seq, data: &str| {
            ((entity.to_owned(), row_id.to_owned()), (base + seq, Some(data.to_owned())))
        };
        let expected = Rows::from([row("A", "1", 3, r#"{"n":2}"#), row("B", "1", 5, r#"{"n":3}"#)]);
        assert_eq!(rows(&*opened.snapshot()), expected);
        assert_eq!(opened.snapshot().last_seq(), base + 5);
    });
}

/// A commit is in a snapshot before it is in the log.
pub fn a_commit_is_in_a_snapshot_before_it_is_in_the_log(fresh: impl Fn() -> Open) {
    each(fresh, |mut opened| {
        let request = request(&[("insert", "A", "1", Some(1))]);
        let claim = opened.log.claim_push(&request).unwrap();
        opened.store.commit(opened.log.last_seq() + 1, &[&claim]).unwrap();
        assert_eq!(opened.store.reader().snapshot().unwrap().last_seq(), opened.log.last_seq() + 1);
        claim.publish();
    });
}

/// A change without data is a row without data.
pub fn a_change_without_data_is_a_row_without_data(fresh: impl Fn() -> Open) {
    each(fresh, |mut opened| {
        opened.push(&[request(&[("insert", "A", "1", None)])]);
        let rows = rows(&*opened.snapshot());
        assert_eq!(rows.values().next().unwrap().1, None);
    });
}

/// A scan begins after a key that need not be there and stops when told.
pub fn a_scan_begins_after_a_key_that_need_not_be_there_and_stops_when_told(fresh: impl Fn() -> Open) {
    each(fresh, |mut opened| {
        let inserts = ["1", "3", "5"].map(|row_id| ("insert", "A", row_id, None));
        opened.push(&[request(&inserts), request(&[("insert", "B", "0", None)])]);
        let snapshot = opened.snapshot();
        for (after, expected) in [
            (None, &["A1", "A3", "A5", "B0"][..]),
            (Some(("A", "3")), &["A5", "B0"]),
            (Some(("A", "2")), &["A3", "A5", "B0"]),
            (Some(("A", "9")), &["B0"]),
            (Some(("B", "0")), &[]),
            (Some(("", "")), &["A1", "A3", "A5", "B0"]),
        ] {
            let found = rows_after(&*snapshot, after).into_keys().map(|(entity, row_id)| entity + &row_id);
            assert_eq!(found.collect::<Vec<_>>(), expected, "{after:?}");
        }
        let mut scanned = 0;
        let stop = &mut |_: super::Row<'_>| {
            scanned += 1;
            if scanned == 2 { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        };
        snapshot.scan(None, stop).unwrap();
        assert_eq!(scanned, 2);
    });
}

/// A store that has not failed recovers to its last commit and takes more.
pub fn a_store_that_has_not_failed_recovers_to_its_last_commit_and_takes_more(fresh: impl Fn() -> Open) {
    each(fresh, |mut opened| {
        opened.push(&[request(&[("insert", "A", "1", None)])]);
        assert_eq!(opened.store.recover().unwrap(), opened.log.last_seq());
        opened.store.probe().unwrap();
        opened.push(&[request(&[("insert", "A", "2", None)])]);
        assert_eq!(rows(&*opened.snapshot()).len(), 2);
    });
}

/// A durable store is found as it was left.
pub fn a_durable_store_is_found_as_it_was_left(fresh: impl Fn() -> Open) {
    let (mut open, measures) = (fresh(), Measures::default());
    let mut opened = open(&measures);
    let requests = [request(&[("insert", "A", "1", Some(1)), ("insert", "A", "2", Some(2))])];
    opened.push(&requests);
    let (before, last_seq) = (rows(&*opened.snapshot()), opened.log.last_seq());
    let events = events(&opened.log);
    drop(opened);
    let opened = open(&measures);
    assert_eq!((rows(&*opened.snapshot()), opened.log.last_seq()), (before, last_seq));
    assert_eq!(self::events(&opened.log), events);
    let again = opened.log.claim_push(&requests[0]).map(ringlog::PushClaim::publish);
    let statuses = again.unwrap_or_else(|response| response).results;
    assert!(statuses.iter().all(|result| result.status == OpStatus::Replayed && result.seq.is_some()));
    assert_eq!(opened.log.last_seq(), last_seq, "a repetition is answered and not applied");
}

/// The latest change of each row is told once in the order of seqs.
pub fn the_latest_change_of_each_row_is_told_once_in_the_order_of_seqs(fresh: impl Fn() -> Open) {
    each_with(fresh, &Measures::of_capacity(2), |mut opened| {
        let base = opened.log.last_seq();
        opened.push(&[request(&[("insert", "A", "1", Some(1)), ("insert", "B", "1", Some(2))])]);
        opened.push(&[request(&[("update", "A", "1", Some(3)), ("delete", "B", "1", None)])]);
        opened.push(&[request(&[("insert", "B", "2", None), ("insert", "A", "2", Some(6))])]);
        let change = |seq, kind, entity: &str, row_id: &str, data: Option<&str>| {
            (base + seq, kind, entity.to_owned(), row_id.to_owned(), data.map(str::to_owned))
        };
        let all = [
            change(3, ChangeKind::Update, "A", "1", Some(r#"{"n":3}"#)),
            change(4, ChangeKind::Delete, "B", "1", None),
            change(5, ChangeKind::Insert, "B", "2", None),
            change(6, ChangeKind::Insert, "A", "2", Some(r#"{"n":6}"#)),
        ];
        let snapshot = opened.snapshot();
        let told = |after, end, filter| changes(&*snapshot, base + after, base + end, filter);
        assert_eq!(told(0, 7, None), all);
        assert_eq!(told(3, 6, None), all[1..3]);
        assert_eq!(told(6, 7, None), []);
        assert_eq!(told(5, 5, None), []);
        let filter = Filter::entities(["B", "C"]);
        assert_eq!(told(0, 7, Some(&filter)), all[1..3]);
        assert_eq!(told(4, 7, Some(&filter)), all[2..3]);
    });
}

/// A row is as the last commit left it.
pub fn a_row_is_as_the_last_commit_left_it(fresh: impl Fn() -> Open) {
    each(fresh, |mut opened| {
        let base = opened.log.last_seq();
        let row = |opened: &Opened, row_id: &str| {
            let row = opened.store.row("A", row_id).unwrap();
            (row.seq, row.data.map(|data| data.get().to_owned()))
        };
        assert_eq!(row(&opened, "1"), (0, None));
        opened.push(&[request(&[("insert", "A", "1", Some(1)), ("insert", "A", "2", None)])]);
        assert_eq!(row(&opened, "1"), (base + 1, Some(r#"{"n":1}"#.to_owned())));
        assert_eq!(row(&opened, "2"), (base + 2, None));
        opened.push(&[request(&[("delete", "A", "1", None)])]);
        assert_eq!(row(&opened, "1"), (0, None));
    });
}

/// A walk of changes stops when told.
pub fn a_walk_of_changes_stops_when_told(fresh: impl Fn() -> Open) {
    each_with(fresh, &Measures::of_capacity(1), |mut opened| {
        let inserts = ["1", "2", "3"].map(|row_id| ("insert", "A", row_id, None));
        opened.push(&[request(&inserts)]);
        let filter = Filter::entity("A");
        for filter in [None, Some(&filter)] {
            let mut told = 0;
            let stop = &mut |_: LatestChange<'_>| {
                told += 1;
                ControlFlow::Break(())
            };
            opened.snapshot().changes(0, u64::MAX, filter, stop).unwrap();
            assert_eq!(told, 1);
        }
    });
}

/// The oldest tombstones go first and a row that is there again has none.
pub fn the_oldest_tombstones_go_first_and_a_row_that_is_there_again_has_none(fresh: impl Fn() -> Open) {
    each_with(fresh, &Measures::of_capacity(1).with_tombstones(2), |mut opened| {
        let base = opened.log.last_seq();
        opened.push(&[request(&["1", "2", "3"].map(|row_id| ("delete", "A", row_id, None)))]);
        let oldest = |opened: &Opened| opened.snapshot().oldest_compacted_seq() - base;
        assert_eq!(oldest(&opened), 2, "the first is dropped");
        opened.push(&[request(&[("insert", "A", "2", None)])]);
        opened.push(&[request(&[("delete", "A", "4", None)])]);
        assert_eq!(oldest(&opened), 2, "there are two again");
        let told = changes(&*opened.snapshot(), 0, u64::MAX, None);
        let told: Vec<_> = told.iter().map(|(seq, kind, _, row, _)| (seq - base, *kind, &**row)).collect();
        let (insert, delete) = (ChangeKind::Insert, ChangeKind::Delete);
        assert_eq!(told, [(3, delete, "3"), (4, insert, "2"), (5, delete, "4")]);
    });
}

/// Tombstones that are too old go with the next commit.
pub fn tombstones_that_are_too_old_go_with_the_next_commit(fresh: impl Fn() -> Open) {
    let tombstones = Tombstones { age: Duration::from_millis(20), ..Tombstones::default() };
    let measures = Measures { tombstones, ..Measures::default() };
    each_with(fresh, &measures, |mut opened| {
        let base = opened.log.last_seq();
        opened.push(&[request(&[("delete", "A", "1", None)])]);
        assert_eq!(opened.snapshot().oldest_compacted_seq(), 1.max(base + 1));
        std::thread::sleep(Duration::from_millis(30));
        opened.push(&[request(&[("insert", "A", "2", None)])]);
        assert_eq!(opened.snapshot().oldest_compacted_seq(), base + 2);
    });
}

/// A durable history is found as it was left.
pub fn a_durable_history_is_found_as_it_was_left(fresh: impl Fn() -> Open) {
    let (mut open, measures) = (fresh(), Measures::of_capacity(2).with_tombstones(1));
    let mut opened = open(&measures);
    for (kind, row_id) in
        [("delete", "0"), ("insert", "1"), ("delete", "1"), ("insert", "2"), ("update", "3")]
    {
        opened.push(&[request(&[(kind, "A", row_id, None)])]);
    }
    let told = |opened: &Opened| {
        let snapshot = opened.snapshot();
        (changes(&*snapshot, 0, u64::MAX, None), snapshot.oldest_compacted_seq())
    };
    let before = told(&opened);
    assert_eq!((before.0.len(), before.1), (3, 2));
    drop(opened);
    assert_eq!(told(&open(&measures)), before);
}

/// One change: what it does, entity and row, data.
type Changed = (&'static str, &'static str, &'static str, Option<u64>);

fn change() -> impl Strategy<Value = Changed> {
    (
        prop::sample::select(vec!["insert", "update", "delete"]),
        prop::sample::select(vec!["", "A", "B", "é"]),
        prop::sample::select(vec!["1", "2", "3", "\u{1}"]),
        prop::option::of(any::<u64>()),
    )
}

/// Requests of these changes, none of which repeats another.
fn group(changes: &[Vec<Changed>]) -> Vec<PushRequest> {
    let mut requests: Vec<_> = changes.iter().map(|changes| request(changes)).collect();
    let changes = requests.iter_mut().flat_map(|request| &mut request.changes);
    changes.for_each(|change| change.op_id = None);
    requests
}

/// Groups of requests of changes.
fn groups() -> impl Strategy<Value = Vec<Vec<Vec<Changed>>>> {
    let requests = prop::collection::vec(prop::collection::vec(change(), 1..4), 1..4);
    prop::collection::vec(requests, 1..6)
}

fn check<T: Strategy>(values: &T, test: impl Fn(T::Value)) {
    let mut runner = TestRunner::new(ProptestConfig::with_cases(48));
    let checked = runner.run(values, |value| {
        test(value);
        Ok(())
    });
    checked.unwrap_or_else(|failed| panic!("{failed}"));
}

/// After each group the rows are those of a map that took the same changes, and snapshots of before
/// are as they were.
pub fn snapshots_are_the_changes_folded_and_stay_as_they_are(fresh: impl Fn() -> Open) {
    check(&groups(), |groups| {
        each(&fresh, |mut opened| {
            let mut expected = Rows::new();
            let mut taken = Vec::new();
            for changes in &groups {
                let mut seq = opened.log.last_seq();
                for (kind, entity, row_id, data) in changes.iter().flatten() {
                    seq += 1;
                    let key = ((*entity).to_owned(), (*row_id).to_owned());
                    match *kind {
                        "delete" => drop(expected.remove(&key)),
                        _ => drop(expected.insert(key, (seq, data.map(|n| format!(r#"{{"n":{n}}}"#))))),
                    }
                }
                opened.push(&group(changes));
                taken.push((opened.snapshot(), expected.clone(), seq));
            }
            for (snapshot, expected, last_seq) in &taken {
                assert_eq!((&rows(&**snapshot), snapshot.last_seq()), (expected, *last_seq));
            }
        });
    });
}

/// After each group the history is that of a model: the latest change of each row, and the last
/// tombstones.
pub fn the_history_is_the_latest_change_of_each_row(fresh: impl Fn() -> Open) {
    check(&(1_usize..8, 1_usize..5, groups()), |(capacity, tombstones, groups)| {
        let measures = Measures::of_capacity(capacity).with_tombstones(tombstones);
        compare_history(&mut fresh(), &measures, &groups, false);
    });
}

/// The same, of a store that is opened anew after each group.
pub fn a_durable_history_is_the_latest_change_of_each_row(fresh: impl Fn() -> Open) {
    check(&(1_usize..8, 1_usize..5, groups()), |(capacity, tombstones, groups)| {
        let measures = Measures::of_capacity(capacity).with_tombstones(tombstones);
        compare_history(&mut fresh(), &measures, &groups, true);
    });
}

/// The latest change of each row: seq, kind, data.
#[derive(Default)]
struct Model {
    latest: BTreeMap<(&'static str, &'static str), (u64, ChangeKind, Option<String>)>,
    oldest: u64,
}

impl Model {
    fn apply(&mut self, mut seq: u64, changes: &[Vec<Changed>], tombstones: usize) {
        for (kind, entity, row_id, data) in changes.iter().flatten() {
            seq += 1;
            let kind = match *kind {
                "insert" => ChangeKind::Insert,
                "update" => ChangeKind::Update,
                _ => ChangeKind::Delete,
            };
            let data = data.filter(|_| kind != ChangeKind::Delete).map(|n| format!(r#"{{"n":{n}}}"#));
            self.latest.insert((*entity, *row_id), (seq, kind, data));
        }
        let deleted = self.latest.iter().filter(|(_, (_, kind, _))| *kind == ChangeKind::Delete);
        let mut deleted: Vec<_> = deleted.map(|(key, (seq, ..))| (*seq, *key)).collect();
        deleted.sort_unstable();
        // What is dropped at the end of a commit is what was the oldest then.
        for (seq, key) in &deleted[..deleted.len().saturating_sub(tombstones)] {
            self.latest.remove(key);
            self.oldest = self.oldest.max(seq + 1);
        }
    }

    fn changes(&self, entities: &[&str]) -> Changes {
        let rows = self.latest.iter().filter(|((entity, _), _)| entities.contains(entity));
        let mut changes: Changes = rows
            .map(|((entity, row_id), (seq, kind, data))| {
                (*seq, *kind, (*entity).to_owned(), (*row_id).to_owned(), data.clone())
            })
            .collect();
        changes.sort_unstable_by_key(|(seq, ..)| *seq);
        changes
    }
}

fn compare_history(open: &mut Open, measures: &Measures, groups: &[Vec<Vec<Changed>>], reopens: bool) {
    let mut opened = open(measures);
    let base = opened.log.last_seq();
    let mut model = Model { oldest: base + 1, ..Model::default() };
    for changes in groups {
        model.apply(opened.log.last_seq(), changes, measures.tombstones.most);
        opened.push(&group(changes));
        let snapshot = opened.snapshot();
        let told = |filter: Option<&Filter>| self::changes(&*snapshot, base, u64::MAX, filter);
        assert_eq!(told(None), model.changes(&["", "A", "B", "é"]));
        assert_eq!(told(Some(&Filter::entities(["A", "é"]))), model.changes(&["A", "é"]));
        assert_eq!(snapshot.oldest_compacted_seq().max(base + 1), model.oldest);
        if reopens {
            drop(snapshot);
            drop(opened);
            opened = open(measures);
        }
    }
}

/// Makes a test of each function of the suite, for a `fn() -> Open`; with `durable`, also of those
/// about a store that is opened again.
#[macro_export]
macro_rules! conformance_tests {
    ($fresh:path) => {
        $crate::conformance_tests! { @ $fresh:
            a_new_store_has_no_rows_and_its_log_goes_on_where_it_ends
            a_group_is_committed_in_its_order_with_the_seqs_that_it_was_given
            a_commit_is_in_a_snapshot_before_it_is_in_the_log
            a_change_without_data_is_a_row_without_data
            a_scan_begins_after_a_key_that_need_not_be_there_and_stops_when_told
            a_store_that_has_not_failed_recovers_to_its_last_commit_and_takes_more
            the_latest_change_of_each_row_is_told_once_in_the_order_of_seqs
            a_row_is_as_the_last_commit_left_it
            a_walk_of_changes_stops_when_told
            the_oldest_tombstones_go_first_and_a_row_that_is_there_again_has_none
            tombstones_that_are_too_old_go_with_the_next_commit
            snapshots_are_the_changes_folded_and_stay_as_they_are
            the_history_is_the_latest_change_of_each_row
        }
    };
    ($fresh:path, durable) => {
        $crate::conformance_tests!($fresh);
        $crate::conformance_tests! { @ $fresh:
            a_durable_store_is_found_as_it_was_left
            a_durable_history_is_found_as_it_was_left
            a_durable_history_is_the_latest_change_of_each_row
        }
    };
    (@ $fresh:path: $($name:ident)*) => {
        $(
            #[test]
            fn $name() {
                $crate::conformance::$name($fresh);
            }
        )*
    };
}
