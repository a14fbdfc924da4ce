//! What every provider of a store must do. Each test runs on both.

use super::{Reader, Snapshot, Store, disk, memory};
use crate::config::Config;
use proptest::prelude::*;
use ringlog::{ChangeLog, OpStatus, PushRequest, PushResponse};
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

fn on_disk(folder: &Path) -> Opened {
    let config = Config::default().with_data(folder).with_store_cache(4);
    let (store, reader, log) = disk::open(&config, ChangeLog::builder()).unwrap();
    Opened { store: Box::new(store), reader, log }
}

fn in_memory() -> Opened {
    let (store, reader, log) = memory::open(ChangeLog::builder()).unwrap();
    Opened { store: Box::new(store), reader, log }
}

/// Runs a test on each provider.
fn each(test: impl Fn(Opened)) {
    let folder = tempfile::tempdir().unwrap();
    test(in_memory());
    test(on_disk(folder.path()));
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
    let mut opened = on_disk(folder.path());
    let requests = [request(&[("insert", "A", "1", Some(1)), ("insert", "A", "2", Some(2))])];
    opened.push(&requests);
    let (before, last_seq) = (rows(&*opened.snapshot()), opened.log.last_seq());
    let events = events(&opened.log);
    drop(opened);
    let opened = on_disk(folder.path());
    assert_eq!((rows(&*opened.snapshot()), opened.log.last_seq()), (before, last_seq));
    assert_eq!(self::events(&opened.log), events);
    let again = opened.log.claim_push(&requests[0]).map(ringlog::PushClaim::publish);
    let statuses = again.unwrap_or_else(|response| response).results;
    assert!(statuses.iter().all(|result| result.status == OpStatus::Replayed && result.seq.is_some()));
    assert_eq!(opened.log.last_seq(), last_seq, "a repetition is answered and not applied");
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
}
