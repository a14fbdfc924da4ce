//! Going on with a stored log: what was stored is there again, and each client that read or pushed
//! before goes on as if nothing had been.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use ringlog::{Change, ChangeLog, OpClaim, OpStatus, PushRequest, RestoreError, Resync, ResyncReason};
use serde_json::json;

/// A log with a few events of every kind, some with op ids.
fn earlier() -> ChangeLog {
    let log = ChangeLog::builder().capacity(6).build().unwrap();
    for n in 1..=10 {
        let request: PushRequest = serde_json::from_value(json!({"client_id": "phone", "changes": [{
            "entity": "Todo", "row_id": format!("t\"{n}"), "kind": if n % 3 == 0 { "delete" } else { "insert" },
            "data": if n % 2 == 0 { Some(json!({"n": n, "half": 0.5, "text": "ü".repeat(200)})) } else { None },
            "op_id": format!("op-{n}"),
        }]}))
        .unwrap();
        assert_eq!(log.push(&request, |_| Ok::<(), String>(())).applied, 1);
    }
    log
}

/// A log made of what is left of another, as one that is read from a disk.
fn restored(earlier: &ChangeLog, capacity: usize) -> ChangeLog {
    let builder = ChangeLog::builder().incarnation(earlier.incarnation()).capacity(capacity);
    let mut log = builder.base_seq(earlier.oldest_seq() - 1).build().unwrap();
    for event in &earlier.read(earlier.oldest_seq() - 1, 100).unwrap() {
        let mut change = Change::new(event.kind(), event.entity(), event.row_id());
        if let Some(data) = event.data() {
            change = change.with_raw(data);
        }
        log.restore(event.seq(), event.timestamp_millis(), &change).unwrap();
        log.restore_op_id(Some("phone"), &format!("op-{}", event.seq()), event.seq(), None);
    }
    log
}

fn pulled(log: &ChangeLog, since: u64) -> Result<String, Resync> {
    let mut body = Vec::new();
    log.pull_json(since, 100, &mut body)?;
    Ok(String::from_utf8(body).unwrap())
}

#[test]
fn a_restored_log_gives_the_same_bytes_and_takes_the_same_cursors() {
    let earlier = earlier();
    let log = restored(&earlier, 6);
    for since in 0..=11 {
        let (before, after) = (pulled(&earlier, since), pulled(&log, since));
        assert_eq!(before, after, "since {since}");
        let told = |log: &ChangeLog| {
            log.read(ringlog::Cursor::new(since, Some(earlier.incarnation())), 100).map(|batch| batch.len())
        };
        assert_eq!(told(&earlier), told(&log), "with a token, since {since}");
    }
    assert_eq!((log.cursor(), log.len(), log.oldest_seq()), (earlier.cursor(), 6, 5));
    assert_eq!(log.append_change(&Change::delete("Todo", "t")), 11, "seqs go on");
    assert_eq!(pulled(&log, 4).unwrap_err().reason, ResyncReason::Evicted, "and the window moves on");
}

#[test]
fn a_restored_op_id_is_answered_with_its_first_seq() {
    let log = restored(&earlier(), 6);
    let request: PushRequest = serde_json::from_value(json!({"client_id": "phone", "changes": [
        {"entity": "Todo", "row_id": "t", "kind": "insert", "op_id": "op-7"},
        {"entity": "Todo", "row_id": "t", "kind": "insert", "op_id": "op-4"},
    ]}))
    .unwrap();
    let results = log.push(&request, |_| Ok::<(), String>(())).results;
    assert_eq!((results[0].status, results[0].seq), (OpStatus::Replayed, Some(7)));
    assert_eq!((results[1].status, results[1].seq), (OpStatus::Applied, Some(11)), "one that was not stored");
    assert!(!log.has_seen_op_id("op-7"), "it is that client's");
}

#[test]
fn restored_op_ids_are_forgotten_the_oldest_first() {
    let mut log = ChangeLog::builder().op_id_capacity(2).base_seq(3).build().unwrap();
    for seq in 1..=3 {
        log.restore_op_id(None, &format!("op-{seq}"), seq, None);
    }
    log.restore_op_id(None, "op-3", 99, None);
    assert!(!log.has_seen_op_id("op-1"));
    assert!(matches!(log.claim_op_id("op-2"), OpClaim::Replayed { seq: 2 }));
    assert!(matches!(log.claim_op_id("op-3"), OpClaim::Replayed { seq: 3 }), "the first one counts");
}

#[test]
fn an_event_out_of_order_is_refused_and_changes_nothing() {
    let mut log = ChangeLog::builder().base_seq(5).build().unwrap();
    let change = Change::insert("Todo", "t");
    for given in [0, 5, 7, u64::MAX] {
        let error = log.restore(given, 0, &change).unwrap_err();
        assert!(matches!(error, RestoreError { expected: 6, given: said, .. } if said == given), "{error:?}");
        assert_eq!(error.to_string(), format!("event {given} cannot be restored here: 6 comes next"));
    }
    assert!(log.is_empty());
    log.restore(6, 0, &change).unwrap();
    assert_eq!(log.restore(6, 0, &change).unwrap_err().expected, 7);
    assert_eq!(log.last_seq(), 6);
}

#[test]
fn a_smaller_window_takes_the_end_of_what_was_stored() {
    let earlier = earlier();
    let log = restored(&earlier, 2);
    assert_eq!((log.oldest_seq(), log.head()), (9, 10));
    assert_eq!(pulled(&log, 8), pulled(&earlier, 8));
    assert_eq!(pulled(&log, 7).unwrap_err().oldest_seq, 9);
}

#[test]
fn a_timestamp_is_what_it_was_and_stays_in_the_calendar() {
    let mut log = ChangeLog::builder().clock(|| panic!("it is not asked")).build().unwrap();
    log.restore(1, 123, &Change::insert("Todo", "t")).unwrap();
    log.restore(2, u64::MAX, &Change::insert("Todo", "t")).unwrap();
    let json = pulled(&log, 0).unwrap();
    assert!(json.contains("1970-01-01T00:00:00.123Z") && json.contains("9999-12-31T23:59:59.999Z"), "{json}");
}

/// Events and op ids of a log that is stored and restored over and over are those of one that is
/// not.
#[test]
fn restoring_again_and_again_is_as_never_stopping() {
    let never_stopped = earlier();
    let mut log = earlier();
    for round in 0..20 {
        let change = Change::update("Todo", "t");
        let seq = never_stopped.append_change(&change);
        log = restored(&log, 6);
        assert_eq!(log.append_change(&change), seq, "round {round}");
        assert_eq!(log.oldest_seq(), never_stopped.oldest_seq());
        let seqs = |log: &ChangeLog| -> Vec<u64> {
            log.read(log.oldest_seq() - 1, 100).unwrap().iter().map(|event| event.seq()).collect()
        };
        assert_eq!(seqs(&log), seqs(&never_stopped));
    }
}
