// Part of a module that names the types and has a `log_of`. What pylon-sync 0.3.23's own sixteen
// tests ask for, one test each.

use serde_json::json;

fn since(log: &ChangeLog, last_seq: u64, limit: usize) -> Result<PullResponse, PullError> {
    log.pull(&SyncCursor { last_seq }, limit)
}

/// A log that has had so many inserts.
fn after_inserts(capacity: usize, inserts: usize) -> ChangeLog {
    let log = log_of(capacity);
    (0..inserts).for_each(|row| _ = log.append("Item", &row.to_string(), ChangeKind::Insert, None));
    log
}

fn seqs(page: &PullResponse) -> Vec<u64> {
    page.changes.iter().map(|event| event.seq).collect()
}

#[test]
fn a_new_log_holds_nothing() {
    let log = log_of(10_000);
    assert_eq!((log.len(), log.is_empty()), (0, true));
}

#[test]
fn two_inserts_are_pulled_from_the_beginning() {
    let log = log_of(10_000);
    for (row, name) in [("1", "Ada"), ("2", "Bo")] {
        log.append("Person", row, ChangeKind::Insert, Some(json!({"name": name})));
    }
    let page = log.pull(&SyncCursor::beginning(), 50).unwrap();
    assert_eq!((log.len(), page.changes.len(), page.cursor.last_seq, page.has_more), (2, 2, 2, false));
    assert_eq!(page.changes[1].data, Some(json!({"name": "Bo"})));
}

#[test]
fn a_cursor_leaves_out_what_its_client_has() {
    assert_eq!(seqs(&since(&after_inserts(10, 3), 1, 50).unwrap()), [2, 3]);
}

#[test]
fn a_limit_cuts_a_page_and_its_cursor_goes_on_from_there() {
    let log = after_inserts(10, 3);
    let first = since(&log, 0, 2).unwrap();
    assert_eq!((seqs(&first), first.cursor.last_seq, first.has_more), (vec![1, 2], 2, true));
    let second = log.pull(&first.cursor, 2).unwrap();
    assert_eq!((seqs(&second), second.has_more), (vec![3], false));
}

#[test]
fn each_kind_of_change_comes_back_as_it_went_in() {
    let log = log_of(10);
    log.append("Item", "1", ChangeKind::Insert, Some(json!({"n": 1})));
    log.append("Item", "1", ChangeKind::Update, Some(json!({"n": 2})));
    log.append("Item", "1", ChangeKind::Delete, None);
    let page = since(&log, 0, 50).unwrap();
    let kinds: Vec<_> = page.changes.iter().map(|event| &event.kind).collect();
    assert_eq!(kinds, [&ChangeKind::Insert, &ChangeKind::Update, &ChangeKind::Delete]);
    assert_eq!(page.changes[2].data, None);
}

#[test]
fn seqs_count_from_one_whatever_the_entity() {
    let log = log_of(10);
    let appended = ["X", "Y", "Z"].map(|entity| log.append(entity, "1", ChangeKind::Insert, None));
    assert_eq!(appended, [1, 2, 3]);
}

#[test]
fn an_event_survives_json() {
    let event = ChangeEvent {
        seq: 7,
        entity: "Item".to_owned(),
        row_id: "1".to_owned(),
        kind: ChangeKind::Update,
        data: Some(json!({"tags": ["a", null]})),
        timestamp: "2026-11-30T02:00:00Z".to_owned(),
    };
    let text = serde_json::to_string(&event).unwrap();
    assert_eq!(serde_json::from_str::<ChangeEvent>(&text).unwrap(), event);
}

#[test]
fn a_cursor_from_the_future_must_resync() {
    let PullError::ResyncRequired { cursor, oldest_seq } = since(&after_inserts(10, 1), 50, 9).unwrap_err();
    assert_eq!((cursor.last_seq, oldest_seq), (50, 2));
}

#[test]
fn a_limit_of_zero_gives_no_changes() {
    assert!(since(&after_inserts(10, 1), 0, 0).unwrap().changes.is_empty());
}

#[test]
fn a_cursor_behind_the_window_must_resync() {
    let PullError::ResyncRequired { oldest_seq, .. } = since(&after_inserts(2, 4), 1, 9).unwrap_err();
    assert_eq!(oldest_seq, 3);
}

#[test]
fn a_fresh_cursor_gets_what_is_left_and_no_resync() {
    let page = since(&after_inserts(2, 4), 0, 9).unwrap();
    assert_eq!((seqs(&page), page.cursor.last_seq, page.has_more), (vec![3, 4], 4, false));
}

#[test]
fn a_cursor_right_before_the_window_is_served() {
    assert_eq!(seqs(&since(&after_inserts(2, 3), 1, 9).unwrap()), [2, 3]);
}

#[test]
fn a_delete_has_no_data() {
    let log = log_of(10);
    log.append("Item", "1", ChangeKind::Delete, None);
    assert_eq!(since(&log, 0, 9).unwrap().changes[0].data, None);
}

#[test]
fn later_appends_to_one_row_have_larger_seqs() {
    let log = log_of(10);
    let kinds = [ChangeKind::Insert, ChangeKind::Update, ChangeKind::Delete];
    let appended = kinds.map(|kind| log.append("Item", "1", kind, None));
    assert!(appended.is_sorted() && appended[0] < appended[1] && appended[1] < appended[2]);
}

#[test]
fn a_push_request_survives_json() {
    let change = ClientChange {
        entity: "Item".to_owned(),
        row_id: "1".to_owned(),
        kind: ChangeKind::Insert,
        data: Some(json!({"n": 1})),
        op_id: None,
    };
    let request = PushRequest { changes: vec![change], client_id: Some("tablet".to_owned()) };
    let text = serde_json::to_string(&request).unwrap();
    let PushRequest { changes, client_id } = serde_json::from_str(&text).unwrap();
    assert_eq!((changes.len(), &*changes[0].entity, client_id.as_deref()), (1, "Item", Some("tablet")));
}

#[test]
fn a_push_request_without_a_client_id_is_read() {
    let request: PushRequest = serde_json::from_str(r#"{"changes":[]}"#).unwrap();
    assert_eq!((request.changes.len(), request.client_id), (0, None));
}
