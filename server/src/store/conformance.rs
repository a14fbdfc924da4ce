//! What every provider of a store must do. Each test runs on both.

use super::{LatestChange, Reader, Snapshot, Store, disk, memory};
use crate::config::Config;
use proptest::prelude::*;
use ringlog::{ChangeKind, ChangeLog, Filter, OpStatus, PushRequest, PushResponse};
use serde_json::json;
use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::path::Path;
use std::sync::Arc;

/// A provider that is open, and its log.
struct Opened {
    store: Box<dyn Store>,
    reader: Arc<dyn Reader>,
    log: ChangeLog,
}

/// By entity and row id: seq and data.
type Rows = BTreeMap<(String, String), (u64, Option<String>)>;

fn on_disk(config: &Config, folder: &Path) -> Opened {
    let config = config.clone().with_data(folder).with_store_cache(4);
    let log = ChangeLog::builder().capacity(config.capacity);
    let (store, reader, log) = disk::open(&config, log).unwrap();
    Opened { store: Box::new(store), reader, log }
}

fn in_memory(config: &Config) -> Opened {
    let log = ChangeLog::builder().capacity(config.capacity);
    let (store, reader, log) = memory::open(config, log).unwrap();
    Opened { store: Box::new(store), reader, log }
}

/// Runs a test on each provider.
fn each(test: impl Fn(Opened)) {
    each_with(&Config::default(), test);
}

fn each_with(config: &Config, test: impl Fn(Opened)) {
    let folder = tempfile::tempdir().unwrap();
    test(in_memory(config));
    test(on_disk(config, folder.path()));
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
        self.reader.snapshot().unwrap()
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

#[test]
fn a_new_store_has_no_rows_and_its_log_goes_on_where_it_ends() {
    each(|opened| {
        assert_eq!(rows(&*opened.snapshot()), Rows::new());
        assert_eq!(opened.snapshot().last_seq(), opened.log.last_seq());
    });
}

#[test]
fn a_group_is_committed_in_its_order_with_the_seqs_that_it_was_given() {
    each(|mut opened| {
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

#[test]
fn a_commit_is_in_a_snapshot_before_it_is_in_the_log() {
    each(|mut opened| {
        let request = request(&[("insert", "A", "1", Some(1))]);
        let claim = opened.log.claim_push(&request).unwrap();
        opened.store.commit(opened.log.last_seq() + 1, &[&claim]).unwrap();
        assert_eq!(opened.reader.snapshot().unwrap().last_seq(), opened.log.last_seq() + 1);
        claim.publish();
    });
}

#[test]
fn a_change_without_data_is_a_row_without_data() {
    each(|mut opened| {
        opened.push(&[request(&[("insert", "A", "1", None)])]);
        let rows = rows(&*opened.snapshot());
        assert_eq!(rows.values().next().unwrap().1, None);
    });
}

#[test]
fn a_scan_begins_after_a_key_that_need_not_be_there_and_stops_when_told() {
    each(|mut opened| {
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

#[test]
fn a_store_that_has_not_failed_recovers_to_its_last_commit_and_takes_more() {
    each(|mut opened| {
        opened.push(&[request(&[("insert", "A", "1", None)])]);
        assert_eq!(opened.store.recover().unwrap(), opened.log.last_seq());
        opened.store.probe().unwrap();
        opened.push(&[request(&[("insert", "A", "2", None)])]);
        assert_eq!(rows(&*opened.snapshot()).len(), 2);
    });
}

#[test]
fn a_store_on_disk_is_found_as_it_was_left() {
    let folder = tempfile::tempdir().unwrap();
    let mut opened = on_disk(&Config::default(), folder.path());
    let requests = [request(&[("insert", "A", "1", Some(1)), ("insert", "A", "2", Some(2))])];
    opened.push(&requests);
    let (before, last_seq) = (rows(&*opened.snapshot()), opened.log.last_seq());
    let events = events(&opened.log);
    drop(opened);
    let opened = on_disk(&Config::default(), folder.path());
    assert_eq!((rows(&*opened.snapshot()), opened.log.last_seq()), (before, last_seq));
    assert_eq!(self::events(&opened.log), events);
    let again = opened.log.claim_push(&requests[0]).map(ringlog::PushClaim::publish);
    let statuses = again.unwrap_or_else(|response| response).results;
    assert!(statuses.iter().all(|result| result.status == OpStatus::Replayed && result.seq.is_some()));
    assert_eq!(opened.log.last_seq(), last_seq, "a repetition is answered and not applied");
}

#[test]
fn the_latest_change_of_each_row_is_told_once_in_the_order_of_seqs() {
    each_with(&Config::default().with_capacity(2), |mut opened| {
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

#[test]
fn a_row_is_as_the_last_commit_left_it() {
    each(|mut opened| {
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

#[test]
fn a_walk_of_changes_stops_when_told() {
    each_with(&Config::default().with_capacity(1), |mut opened| {
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

#[test]
fn the_oldest_tombstones_go_first_and_a_row_that_is_there_again_has_none() {
    each_with(&Config::default().with_capacity(1).with_tombstones(2), |mut opened| {
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

#[test]
fn tombstones_that_are_too_old_go_with_the_next_commit() {
    use std::time::Duration;
    let config = Config::default().with_tombstone_age(Duration::from_millis(20));
    each_with(&config, |mut opened| {
        let base = opened.log.last_seq();
        opened.push(&[request(&[("delete", "A", "1", None)])]);
        assert_eq!(opened.snapshot().oldest_compacted_seq(), 1.max(base + 1));
        std::thread::sleep(Duration::from_millis(30));
        opened.push(&[request(&[("insert", "A", "2", None)])]);
        assert_eq!(opened.snapshot().oldest_compacted_seq(), base + 2);
    });
}

#[test]
fn a_history_on_disk_is_found_as_it_was_left() {
    let folder = tempfile::tempdir().unwrap();
    let config = Config::default().with_capacity(2).with_tombstones(1);
    let mut opened = on_disk(&config, folder.path());
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
    assert_eq!(told(&on_disk(&config, folder.path())), before);
}

/// One change: entity and row, and what it does.
fn change() -> impl Strategy<Value = (&'static str, &'static str, &'static str, Option<u64>)> {
    (
        prop::sample::select(vec!["insert", "update", "delete"]),
        prop::sample::select(vec!["", "A", "B", "é"]),
        prop::sample::select(vec!["1", "2", "3", "\u{1}"]),
        prop::option::of(any::<u64>()),
    )
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    /// After each group the rows are those of a map that took the same changes, and snapshots of
    /// before are as they were.
    #[test]
    fn snapshots_are_the_changes_folded_and_stay_as_they_are(
        groups in prop::collection::vec(prop::collection::vec(prop::collection::vec(change(), 1..4), 1..4), 1..6),
    ) {
        each(|mut opened| {
            let mut expected = Rows::new();
            let mut taken = Vec::new();
            for group in &groups {
                let mut seq = opened.log.last_seq();
                // Each is a request of its own client op ids: none is a repetition.
                let requests: Vec<_> = group.iter().map(|changes| {
                    let mut request = request(changes);
                    request.changes.iter_mut().for_each(|change| change.op_id = None);
                    request
                }).collect();
                for (kind, entity, row_id, data) in group.iter().flatten() {
                    seq += 1;
                    let key = ((*entity).to_owned(), (*row_id).to_owned());
                    match *kind {
                        "delete" => drop(expected.remove(&key)),
                        _ => drop(expected.insert(key, (seq, data.map(|n| format!(r#"{{"n":{n}}}"#))))),
                    }
                }
                opened.push(&requests);
                taken.push((opened.snapshot(), expected.clone(), seq));
            }
            for (snapshot, expected, last_seq) in &taken {
                assert_eq!((&rows(&**snapshot), snapshot.last_seq()), (expected, *last_seq));
            }
        });
    }

    /// After each group the history is that of a model: the latest change of each row, and the last
    /// tombstones. On disk also after a restart.
    #[test]
    fn the_history_is_the_latest_change_of_each_row(
        capacity in 1_usize..8,
        tombstones in 1_usize..5,
        groups in prop::collection::vec(prop::collection::vec(prop::collection::vec(change(), 1..4), 1..4), 1..6),
    ) {
        let config = Config::default().with_capacity(capacity).with_tombstones(tombstones);
        let folder = tempfile::tempdir().unwrap();
        for is_on_disk in [false, true] {
            let mut opened =
                if is_on_disk { on_disk(&config, folder.path()) } else { in_memory(&config) };
            let base = opened.log.last_seq();
            let mut latest: BTreeMap<(&str, &str), (u64, ChangeKind, Option<String>)> = BTreeMap::new();
            let mut oldest = base + 1;
            for group in &groups {
                let mut seq = opened.log.last_seq();
                let requests: Vec<_> = group.iter().map(|changes| {
                    let mut request = request(changes);
                    request.changes.iter_mut().for_each(|change| change.op_id = None);
                    request
                }).collect();
                for (change, (_, entity, row_id, data)) in
                    requests.iter().flat_map(|request| &request.changes).zip(group.iter().flatten())
                {
                    seq += 1;
                    let data = data.filter(|_| change.kind != ChangeKind::Delete).map(|n| format!(r#"{{"n":{n}}}"#));
                    latest.insert((entity, row_id), (seq, change.kind, data));
                }
                opened.push(&requests);
                let deleted = latest.iter().filter(|(_, (_, kind, _))| *kind == ChangeKind::Delete);
                let mut deleted: Vec<_> = deleted.map(|(key, (seq, ..))| (*seq, *key)).collect();
                deleted.sort_unstable();
                // What is dropped at the end of a commit is what was the oldest then.
                for (seq, key) in &deleted[..deleted.len().saturating_sub(tombstones)] {
                    latest.remove(key);
                    oldest = oldest.max(seq + 1);
                }
                let expect = |entities: &[&str]| -> Changes {
                    let rows = latest.iter().filter(|((entity, _), _)| entities.contains(entity));
                    let mut expected: Changes = rows
                        .map(|((entity, row_id), (seq, kind, data))| {
                            (*seq, *kind, (*entity).to_owned(), (*row_id).to_owned(), data.clone())
                        })
                        .collect();
                    expected.sort_unstable_by_key(|(seq, ..)| *seq);
                    expected
                };
                let snapshot = opened.snapshot();
                let told = |filter: Option<&Filter>| changes(&*snapshot, base, u64::MAX, filter);
                prop_assert_eq!(told(None), expect(&["", "A", "B", "é"]));
                prop_assert_eq!(told(Some(&Filter::entities(["A", "é"]))), expect(&["A", "é"]));
                prop_assert_eq!(snapshot.oldest_compacted_seq().max(base + 1), oldest);
                if is_on_disk {
                    drop(snapshot);
                    drop(opened);
                    opened = on_disk(&config, folder.path());
                }
            }
        }
    }
}
