//! Pushing: each row of the table of guarantees has a test named after it, and so has each defect
//! of `pylon-sync` that pushing mends.

use ringlog::{
    Change, ChangeKind, ChangeLog, ClientChange, Fingerprint, MAX_RECORD_LEN, OpClaim, OpResult, OpStatus,
    Operation, PushRequest, PushResponse, RowState, SyncCursor,
};
use serde_json::value::RawValue;
use serde_json::{Value, json};
use std::collections::HashMap;
use std::convert::Infallible;
use std::fmt;
use std::panic::{panic_any, resume_unwind};
use std::pin::pin;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Barrier, Mutex};
use std::task::{Context, Wake, Waker};
use std::thread;

fn change(row_id: &str, op_id: impl Into<Option<&'static str>>) -> ClientChange {
    ClientChange {
        entity: "Todo".into(),
        row_id: row_id.into(),
        kind: ChangeKind::Insert,
        data: Some(json!({ "row": row_id })),
        op_id: op_id.into().map(String::from),
    }
}

fn request(changes: impl Into<Vec<ClientChange>>) -> PushRequest {
    PushRequest { changes: changes.into(), client_id: Some("client".into()) }
}

#[expect(clippy::unnecessary_wraps, reason = "what `push` wants")]
fn accept(_: &ClientChange) -> Result<(), Infallible> {
    Ok(())
}

#[expect(clippy::unnecessary_wraps, reason = "what `push_batch` wants")]
fn accept_all(_: &[&ClientChange]) -> Result<(), Infallible> {
    Ok(())
}

fn never(change: &ClientChange) -> Result<(), Infallible> {
    panic!("{} is applied again", change.row_id)
}

/// Counts, and per change its status and seq.
fn summary(response: &PushResponse) -> (usize, usize, Vec<(OpStatus, Option<u64>)>) {
    let results = response.results.iter().map(|result| (result.status, result.seq)).collect();
    (response.applied, response.deduped, results)
}

fn rows(log: &ChangeLog) -> Vec<String> {
    let response = log.pull(&SyncCursor::beginning(), usize::MAX).expect("nothing is evicted");
    response.changes.into_iter().map(|event| event.row_id).collect()
}

use OpStatus::{Applied, Error, Pending, Replayed};

#[test]
fn push_op_id_replayed() {
    let log = ChangeLog::new();
    let request = request([change("a", "1"), change("b", "2")]);
    let first = log.push(&request, accept);
    assert_eq!(summary(&first), (2, 0, vec![(Applied, Some(1)), (Applied, Some(2))]));
    let again = log.push(&request, never);
    assert_eq!(summary(&again), (2, 2, vec![(Replayed, Some(1)), (Replayed, Some(2))]));
    assert!(again.errors.is_empty());
    assert_eq!(rows(&log), ["a", "b"]);
}

#[test]
fn push_op_id_in_flight_elsewhere() {
    let log = ChangeLog::new();
    let one = request([change("a", "1")]);
    let first = log.push(&one, |_| {
        // Another thread gets the same request meanwhile.
        let second = thread::scope(|scope| scope.spawn(|| log.push(&one, never)).join().unwrap());
        assert_eq!(summary(&second), (0, 0, vec![(Pending, None)]));
        assert!(second.errors.is_empty());
        Ok::<(), Infallible>(())
    });
    assert_eq!(summary(&first), (1, 0, vec![(Applied, Some(1))]));
    assert_eq!(summary(&log.push(&one, never)), (1, 1, vec![(Replayed, Some(1))]), "the client retries");
}

#[test]
fn push_apply_fails() {
    let log = ChangeLog::new();
    let request = request([change("a", "1"), change("b", "2"), change("c", "3")]);
    let fail = |change: &ClientChange| if change.row_id == "b" { Err("no room") } else { Ok(()) };
    let first = log.push(&request, fail);
    assert_eq!(summary(&first), (2, 0, vec![(Applied, Some(1)), (Error, None), (Applied, Some(2))]));
    assert_eq!(first.errors, ["Todo/b: no room"]);
    assert_eq!(first.results[1].error.as_deref(), Some("no room"));
    // What failed is applied when it is pushed again, what did not is not.
    let mut applied = Vec::new();
    let again = log.push(&request, |change| {
        applied.push(change.row_id.clone());
        Ok::<(), Infallible>(())
    });
    assert_eq!(summary(&again), (3, 2, vec![(Replayed, Some(1)), (Applied, Some(3)), (Replayed, Some(2))]));
    assert_eq!(applied, ["b"]);
    assert_eq!(rows(&log), ["a", "c", "b"]);
}

#[test]
fn push_apply_panics() {
    let log = ChangeLog::new();
    let request = request([change("a", "1"), change("b", None), change("c", "3")]);
    let response = log.push(&request, |change| match change.row_id.as_str() {
        // Unlike `panic!`, this does not print.
        "a" => std::panic::resume_unwind(Box::new("the disk is gone")),
        "b" => std::panic::resume_unwind(Box::new(7)),
        _ => Ok::<(), Infallible>(()),
    });
    assert_eq!(summary(&response), (1, 0, vec![(Error, None), (Error, None), (Applied, Some(1))]));
    assert_eq!(response.errors, ["Todo/a: panicked: the disk is gone", "Todo/b: panicked: no message"]);
    assert_eq!(log.push(&request, accept).applied, 3);
    assert_eq!(rows(&log), ["c", "a", "b"]);
}

#[test]
fn push_cursor_in_the_reply() {
    // Defect 9: the seed's server answers with `len()`, which stays behind once the window is full.
    let log = ChangeLog::builder().capacity(3).base_seq(100).build().unwrap();
    for turn in 1..=10 {
        let response = log.push(&request([change("a", None)]), accept);
        assert_eq!(response.cursor, SyncCursor { last_seq: 100 + turn });
        assert_eq!(response.cursor.last_seq, log.head());
        assert!(log.pull(&response.cursor, 1).unwrap().changes.is_empty(), "the client has nothing to pull");
    }
    assert_eq!(log.len(), 3);
    assert_eq!(log.push(&request([]), accept).cursor.last_seq, 110);
}

#[test]
fn changes_without_an_op_id_are_applied_each_time() {
    let log = ChangeLog::new();
    let request = request([change("a", None), change("a", None)]);
    for turn in 0..3 {
        let response = log.push(&request, accept);
        let seqs = [(Applied, Some(2 * turn + 1)), (Applied, Some(2 * turn + 2))];
        assert_eq!(summary(&response), (2, 0, seqs.to_vec()));
    }
}

#[test]
fn an_op_id_that_is_twice_in_a_request_is_applied_once() {
    let log = ChangeLog::new();
    let twice = request([change("a", "1"), change("b", "2"), change("a", "1")]);
    let expected = (3, 1, vec![(Applied, Some(1)), (Applied, Some(2)), (Replayed, Some(1))]);
    assert_eq!(summary(&log.push(&twice, accept)), expected);
    let log = ChangeLog::new();
    let response = log.push_batch(&twice, |changes| {
        assert_eq!(changes.iter().map(|change| change.row_id.as_str()).collect::<Vec<_>>(), ["a", "b"]);
        Ok::<(), Infallible>(())
    });
    assert_eq!(summary(&response), expected);
    assert_eq!(rows(&log), ["a", "b"]);
}

#[test]
fn op_ids_belong_to_their_client() {
    let log = ChangeLog::new();
    let push = |client_id: Option<&str>, op_id: &'static str| {
        let client_id = client_id.map(String::from);
        log.push(&PushRequest { changes: vec![change("a", op_id)], client_id }, accept).deduped == 1
    };
    // Pairs that would be one if they were joined, with whatever separator.
    let pairs = [
        (None, "ab"),
        (Some(""), "ab"),
        (Some("a"), "b"),
        (Some("ab"), ""),
        (Some("a/b"), "c"),
        (Some("a"), "b/c"),
        (Some("a\0"), "b"),
        (Some("a"), "\0b"),
        (None, "a\0b"),
    ];
    assert_eq!(pairs.map(|(client, op)| push(client, op)), [false; 9]);
    assert_eq!(pairs.map(|(client, op)| push(client, op)), [true; 9]);
    assert!(log.has_seen_op_id("ab"), "without a client, the ids are the log's own");
    assert!(matches!(log.claim_op_id("ab"), OpClaim::Replayed { seq: 1 }));
    assert!(!log.has_seen_op_id("b"));
    log.remember_op_id("mine");
    assert!(push(None, "mine"));
}

#[test]
fn a_remembered_op_id_is_replayed_without_a_seq() {
    let log = ChangeLog::new();
    log.remember_op_id("1");
    let request = PushRequest { changes: vec![change("a", "1")], client_id: None };
    assert_eq!(summary(&log.push(&request, never)), (1, 1, vec![(Replayed, None)]));
}

#[test]
fn a_lost_reply_changes_nothing() {
    for batch in [false, true] {
        let log = ChangeLog::new();
        let changes: Vec<_> =
            ["1", "2", "3"].into_iter().map(|op_id| change(op_id, op_id)).chain([change("4", "4")]).collect();
        let request = request(changes);
        let mut applied = 0;
        let first = if batch {
            log.push_batch(&request, |changes| {
                applied += changes.len();
                Ok::<(), Infallible>(())
            })
        } else {
            log.push(&request, |_| {
                applied += 1;
                Ok::<(), Infallible>(())
            })
        };
        for _ in 0..3 {
            let again = if batch {
                log.push_batch(&request, |_| -> Result<(), Infallible> { panic!("nothing is left to apply") })
            } else {
                log.push(&request, never)
            };
            assert_eq!((again.applied, again.deduped), (4, 4));
            let seqs = |response: &PushResponse| {
                response.results.iter().map(|result| result.seq).collect::<Vec<_>>()
            };
            assert_eq!(seqs(&again), seqs(&first));
            assert_eq!(again.cursor, first.cursor);
        }
        assert_eq!((applied, log.len()), (4, 4));
    }
}

#[test]
fn without_op_id_capacity_every_push_is_applied() {
    let log = ChangeLog::builder().op_id_capacity(0).build().unwrap();
    let request = request([change("a", "1"), change("a", "1")]);
    for _ in 0..3 {
        assert_eq!(log.push(&request, accept).deduped, 0);
    }
    assert_eq!(log.len(), 6);
    assert!(!log.has_seen_op_id("1"));
    // What is in flight is known all the same.
    let one = PushRequest { changes: vec![change("a", "1")], client_id: None };
    let guard = log.claim_op_id("1");
    assert_eq!(log.push(&one, never).results[0].status, Pending);
    drop(guard);
    assert_eq!(log.push(&one, accept).results[0].status, Applied);
    // In one batch, a repetition is known for one.
    let response = log.push_batch(&request, accept_all);
    assert_eq!(summary(&response), (2, 1, vec![(Applied, Some(8)), (Replayed, Some(8))]));
}

#[test]
fn a_change_too_long_for_a_record_is_refused_before_it_is_applied() {
    let huge = String::from_utf8(vec![0; MAX_RECORD_LEN]).unwrap();
    let too_long = ClientChange { row_id: huge, ..change("", "1") };
    let log = ChangeLog::new();
    let response = log.push(&request([too_long, change("b", "2")]), |change| {
        // Not `assert_eq`, which would print it.
        assert!(change.row_id == "b", "the long one is not applied");
        Ok::<_, Infallible>(())
    });
    let [error] = response.errors.as_slice() else { panic!("one error") };
    assert!(error.contains(&MAX_RECORD_LEN.to_string()), "it names the limit");
    assert!(error.len() < 200, "it does not repeat the whole name");
    assert_eq!((response.applied, log.len()), (1, 1));
}

#[test]
fn a_push_beyond_the_limit_is_refused_whole() {
    let log = ChangeLog::builder().max_push_changes(2).build().unwrap();
    let three = request([change("a", "1"), change("b", "2"), change("c", "3")]);
    let refused =
        [log.push(&three, never), log.push_batch(&three, |_| -> Result<(), Infallible> { panic!() })];
    for response in refused {
        assert_eq!(summary(&response), (0, 0, vec![]));
        assert_eq!(response.errors, ["a push may have 2 changes, not 3: nothing was applied"]);
    }
    assert!(log.is_empty());
    let short = request([change("a", "1"), change("b", "2")]);
    assert_eq!(log.push(&short, accept).deduped, 0, "nothing was half remembered");
    assert_eq!(ChangeLog::new().push(&request(vec![change("a", None); 10_000]), accept).applied, 10_000);
    assert_eq!(ChangeLog::new().push(&request(vec![change("a", None); 10_001]), never).applied, 0);
}

#[test]
fn a_batch_is_applied_whole() {
    let log = ChangeLog::new();
    log.push(&request([change("b", "2")]), accept);
    let mixed = request([change("a", "1"), change("b", "2"), change("c", None)]);
    let response = log.push_batch(&mixed, |changes| {
        assert_eq!(changes.len(), 2, "b is applied already");
        assert_eq!(log.len(), 1, "nothing is visible yet");
        Ok::<(), Infallible>(())
    });
    let expected = vec![(Applied, Some(2)), (Replayed, Some(1)), (Applied, Some(3))];
    assert_eq!(summary(&response), (3, 1, expected));
    assert_eq!(response.cursor.last_seq, 3);
}

#[test]
fn a_batch_of_replays_only_is_answered_without_a_call_of_apply() {
    let log = ChangeLog::new();
    let two = request([change("a", "1"), change("b", "2")]);
    assert_eq!(log.push_batch(&two, accept_all).applied, 2);
    let mut calls = 0;
    let response = log.push_batch(&two, |_| {
        calls += 1;
        Ok::<(), Infallible>(())
    });
    assert_eq!(summary(&response), (2, 2, vec![(Replayed, Some(1)), (Replayed, Some(2))]));
    assert_eq!(calls, 0, "there is nothing to apply");
}

#[test]
fn a_batch_that_fails_leaves_nothing() {
    let log = ChangeLog::new();
    log.push(&request([change("b", "2")]), accept);
    let mixed = request([change("a", "1"), change("b", "2"), change("a", "1"), change("c", None)]);
    let failed = log.push_batch(&mixed, |_| Err("conflict"));
    let expected = vec![(Error, None), (Replayed, Some(1)), (Error, None), (Error, None)];
    assert_eq!(summary(&failed), (1, 1, expected.clone()));
    assert_eq!(failed.errors, ["Todo/a: conflict", "Todo/a: conflict", "Todo/c: conflict"]);
    let panicked = log.push_batch(&mixed, |_| -> Result<(), Infallible> {
        std::panic::resume_unwind(Box::new(String::from("out of memory")))
    });
    assert_eq!(summary(&panicked), (1, 1, expected));
    assert_eq!(panicked.results[0].error.as_deref(), Some("panicked: out of memory"));
    assert_eq!(log.len(), 1);
    let later = log.push_batch(&mixed, accept_all);
    let expected = vec![(Applied, Some(2)), (Replayed, Some(1)), (Replayed, Some(2)), (Applied, Some(3))];
    assert_eq!(summary(&later), (4, 2, expected));
}

#[test]
fn a_batch_with_an_op_id_in_flight_elsewhere_is_pending_whole() {
    let log = ChangeLog::new();
    log.push(&request([change("b", "2")]), accept);
    let mixed = request([change("a", "1"), change("b", "2"), change("c", "3"), change("d", None)]);
    let pending = Mutex::new(None);
    log.push(&request([change("c", "3")]), |_| {
        *pending.lock().unwrap() = Some(log.push_batch(&mixed, |_| -> Result<(), Infallible> { panic!() }));
        Ok::<(), Infallible>(())
    });
    let pending = pending.into_inner().unwrap().unwrap();
    let expected = vec![(Pending, None), (Replayed, Some(1)), (Pending, None), (Pending, None)];
    assert_eq!(summary(&pending), (1, 1, expected));
    assert!(pending.errors.is_empty());
    let later = log.push_batch(&mixed, accept_all);
    assert_eq!((later.applied, later.deduped), (4, 2));
}

/// Threads ask about one op at the same time, and go on together once all have asked.
fn who_is_told_to_apply(threads: usize, ask: impl Fn(&Barrier) -> bool + Sync) -> usize {
    let (barrier, applied) = (Barrier::new(threads), AtomicUsize::new(0));
    thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| applied.fetch_add(usize::from(ask(&barrier)), Ordering::Relaxed));
        }
    });
    applied.into_inner()
}

#[test]
fn defect_2_an_operation_is_applied_twice() {
    let seed = pylon_sync::ChangeLog::new();
    let applied = who_is_told_to_apply(4, |all_have_asked| {
        let go = !seed.has_seen_op_id("1");
        all_have_asked.wait();
        if go {
            seed.remember_op_id("1");
        }
        go
    });
    assert_eq!(applied, 4, "the defect is there to be seen");

    let log = ChangeLog::new();
    let applied = who_is_told_to_apply(4, |all_have_asked| {
        let claim = log.claim_op_id("1");
        all_have_asked.wait();
        match claim {
            OpClaim::Proceed(guard) => {
                guard.complete(1);
                true
            }
            OpClaim::InFlight | OpClaim::Replayed { .. } => false,
        }
    });
    assert_eq!(applied, 1);
}

#[test]
fn defect_2_apply_runs_once_for_each_op_id_whoever_pushes_it() {
    const OPS: usize = 2_000;
    let log = ChangeLog::builder().capacity(OPS).op_id_capacity(OPS).build().unwrap();
    let applied: Vec<_> = (0..OPS).map(|_| AtomicUsize::new(0)).collect();
    let seqs = Mutex::new(HashMap::new());
    let push = |turn: usize| {
        for start in (0..OPS).step_by(10) {
            let rows = (start..start + 10).map(|n| if turn.is_multiple_of(2) { n } else { OPS - 1 - n });
            let mut changes: Vec<ClientChange> = rows
                .map(|n| ClientChange { op_id: Some(n.to_string()), ..change(&n.to_string(), None) })
                .collect();
            while !changes.is_empty() {
                let apply = |change: &ClientChange| {
                    applied[change.row_id.parse::<usize>().unwrap()].fetch_add(1, Ordering::Relaxed);
                    Ok::<(), Infallible>(())
                };
                let request = request(changes);
                let response = if turn % 4 < 2 {
                    log.push(&request, apply)
                } else {
                    log.push_batch(&request, |changes| changes.iter().copied().try_for_each(apply))
                };
                let mut pending = Vec::new();
                for (change, OpResult { status, seq, .. }) in
                    request.changes.into_iter().zip(response.results)
                {
                    if status == Pending {
                        pending.push(change);
                        continue;
                    }
                    let seq = seq.unwrap();
                    let known = *seqs.lock().unwrap().entry(change.row_id).or_insert(seq);
                    assert_eq!(known, seq, "each push gets the first seq");
                }
                changes = pending;
            }
        }
    };
    thread::scope(|scope| {
        for turn in 0..8 {
            let push = &push;
            scope.spawn(move || push(turn));
        }
    });
    assert!(applied.iter().all(|times| times.load(Ordering::Relaxed) == 1));
    assert_eq!(log.len(), OPS);
    for event in log.pull(&SyncCursor::beginning(), OPS).unwrap().changes {
        assert_eq!(seqs.lock().unwrap()[&event.row_id], event.seq);
    }
}

#[test]
fn defect_3_a_replay_gets_the_first_result() {
    let log = ChangeLog::new();
    for row in ["a", "b"] {
        log.append("Todo", row, ChangeKind::Insert, None);
    }
    let request = request([change("c", "1")]);
    log.push(&request, accept);
    log.append("Todo", "d", ChangeKind::Insert, None);
    let response = serde_json::to_value(log.push(&request, never)).unwrap();
    assert_eq!(
        response,
        json!({
            "applied": 1, "deduped": 1, "errors": [], "cursor": {"last_seq": 4},
            "results": [{"op_id": "1", "status": "replayed", "seq": 3}]
        })
    );
}

#[test]
fn defect_4_a_failed_operation_is_not_remembered() {
    let log = ChangeLog::new();
    let request = request([change("a", "1")]);
    for failures in 0..3 {
        let response = log.push(&request, |_| Err(failures));
        assert_eq!(response.errors, [format!("Todo/a: {failures}")]);
    }
    assert!(log.is_empty());
    assert_eq!(summary(&log.push(&request, accept)), (1, 0, vec![(Applied, Some(1))]));
    assert_eq!(log.stats().op_claims_forgotten, 3);
}

#[test]
fn a_malformed_request_is_refused_by_the_name_of_its_field() {
    let good = json!({"entity": "T", "row_id": "1", "kind": "insert", "data": null, "op_id": "o"});
    let parse = |request: &Value| serde_json::from_str::<PushRequest>(&request.to_string());
    assert!(parse(&json!({"changes": [good], "client_id": null})).is_ok());
    let message = |request: &Value| parse(request).unwrap_err().to_string();

    for field in ["entity", "row_id", "kind"] {
        let mut absent = good.clone();
        absent.as_object_mut().unwrap().remove(field);
        let message = message(&json!({"changes": [absent]}));
        assert!(message.contains(&format!("missing field `{field}`")), "{message}");
    }
    for field in ["entity", "row_id", "kind", "op_id"] {
        for wrong in [json!(7), json!(["x"]), json!({})] {
            let mut malformed = good.clone();
            malformed[field] = wrong;
            let message = message(&json!({"changes": [malformed]}));
            assert!(message.starts_with(&format!("{field}: ")), "{message}");
            assert!(message.contains("line 1 column"), "{message}");
        }
    }
    let mut upsert = good.clone();
    upsert["kind"] = json!("upsert");
    assert!(message(&json!({"changes": [upsert]})).contains("kind: unknown variant `upsert`"));
    assert!(message(&json!({})).contains("missing field `changes`"));
    assert!(message(&json!({"changes": 1})).contains("changes: invalid type"));
    assert!(message(&json!({"changes": [], "client_id": 1})).contains("client_id: invalid type"));
}

#[test]
fn a_response_survives_json_and_older_ones_are_read() {
    let log = ChangeLog::new();
    let response = log.push(&request([change("a", "1"), change("b", None)]), |change| {
        if change.op_id.is_some() { Ok(()) } else { Err("no") }
    });
    let text = serde_json::to_string(&response).unwrap();
    assert_eq!(serde_json::from_str::<PushResponse>(&text).unwrap(), response);
    let older = r#"{"applied": 1, "deduped": 0, "errors": [], "cursor": {"last_seq": 1}}"#;
    assert!(serde_json::from_str::<PushResponse>(older).unwrap().results.is_empty());
}

/// Claims a request that is free to be claimed.
fn claimed<'a>(log: &'a ChangeLog, request: &'a PushRequest) -> ringlog::PushClaim<'a> {
    log.claim_push(request).unwrap_or_else(|refused| panic!("{refused:?}"))
}

#[test]
fn claims_of_several_requests_are_applied_together_under_seqs_known_before() {
    let log = ChangeLog::builder().base_seq(10).build().unwrap();
    let first = request([change("a", "1"), change("b", None), change("a", "1")]);
    let second = request([change("d", "2")]);
    let replay = request([change("d", "2"), change("a", "1")]);
    let (one, two) = (claimed(&log, &first), claimed(&log, &second));
    let rows = |claim: &ringlog::PushClaim<'_>| {
        claim.changes().iter().map(|c| c.row_id().to_owned()).collect::<String>()
    };
    assert_eq!((rows(&one), rows(&two)), ("ab".into(), "d".into()), "a repetition is not applied");
    assert_eq!(one.changes()[0].data_json().as_deref(), Some(r#"{"row":"a"}"#));
    let ids: Vec<_> = one.op_ids().map(|id| id.map(|(op_id, _)| op_id)).collect();
    assert_eq!((ids, one.client_id()), (vec![Some("1"), None], Some("client")));
    assert_eq!((log.last_seq(), log.stats().appended), (10, 0), "nothing is taken before it is published");

    let (one, two) = (one.publish(), two.publish());
    assert_eq!(
        summary(&one).2,
        [(OpStatus::Applied, Some(11)), (OpStatus::Applied, Some(12)), (OpStatus::Replayed, Some(11)),]
    );
    assert_eq!((summary(&two).2, two.cursor.last_seq), (vec![(OpStatus::Applied, Some(13))], 13));
    let replay = claimed(&log, &replay);
    assert!(replay.changes().is_empty());
    assert_eq!(
        summary(&replay.publish()).2,
        [(OpStatus::Replayed, Some(13)), (OpStatus::Replayed, Some(11))]
    );
    assert_eq!(log.last_seq(), 13);
}

#[test]
fn a_claim_keeps_others_from_its_op_ids_until_it_is_given_up() {
    let log = ChangeLog::new();
    let request = request([change("a", "1"), change("b", "2")]);
    let claim = claimed(&log, &request);
    let refused = log.claim_push(&request).unwrap_err();
    assert_eq!(summary(&refused).2, [(OpStatus::Pending, None); 2]);
    assert_eq!(log.push(&request, never).applied, 0);
    drop(claim);
    let failed = claimed(&log, &request).fail("the disk is full");
    assert_eq!(failed.errors, ["Todo/a: the disk is full", "Todo/b: the disk is full"]);
    assert_eq!((log.len(), log.stats().op_claims_forgotten), (0, 4));
    assert_eq!(claimed(&log, &request).publish().applied, 2);
}

#[test]
fn a_request_that_cannot_be_claimed_claims_nothing() {
    let log = ChangeLog::builder().max_push_changes(1).build().unwrap();
    let many = request([change("a", "1"), change("b", "2")]);
    assert_eq!(
        log.claim_push(&many).unwrap_err().errors,
        ["a push may have 1 changes, not 2: nothing was applied"]
    );
    let mut oversized = request([change("a", "1")]);
    oversized.changes[0].row_id = "x".repeat(MAX_RECORD_LEN);
    let refused = log.claim_push(&oversized).unwrap_err();
    assert_eq!(refused.results[0].status, OpStatus::Error);
    assert_eq!(refused.errors.len(), 1);
    assert_eq!(claimed(&log, &request([change("a", "1")])).publish().applied, 1);
}

#[test]
fn the_timestamp_of_a_claim_is_that_of_its_events() {
    let time = std::sync::Arc::new(AtomicUsize::new(5));
    let clock = std::sync::Arc::clone(&time);
    let log = ChangeLog::builder().clock(move || clock.load(Ordering::Relaxed) as u64).build().unwrap();
    let request = request([change("a", None), change("b", None)]);
    let claim = claimed(&log, &request);
    time.store(9, Ordering::Relaxed);
    assert_eq!(claim.timestamp_millis(), 5);
    claim.publish();
    assert!(log.read(0, 10).unwrap().iter().all(|event| event.timestamp_millis() == 5));
}

#[test]
fn a_clock_that_panics_fails_a_batch_and_leaves_its_op_ids_free() {
    let broken = std::sync::Arc::new(std::sync::atomic::AtomicBool::new(true));
    let clock = std::sync::Arc::clone(&broken);
    let log = ChangeLog::builder()
        .clock(move || if clock.load(Ordering::Relaxed) { panic!("no time") } else { 1 })
        .build()
        .unwrap();
    let request = request([change("a", "1")]);
    assert_eq!(log.push_batch(&request, accept_all).errors, ["Todo/a: panicked: no time"]);
    broken.store(false, Ordering::Relaxed);
    assert_eq!(log.push_batch(&request, accept_all).applied, 1);
}

/// A push of one request by each way that there is: one by one, as one, and by claims, of the
/// request and of its texts.
const WAYS: [fn(&ChangeLog, &PushRequest) -> PushResponse; 4] = [
    |log, request| log.push(request, accept),
    |log, request| log.push_batch(request, accept_all),
    |log, request| log.claim_push(request).map_or_else(|refused| refused, ringlog::PushClaim::publish),
    |log, request| {
        let operations = request.changes.iter().map(Operation::from).collect();
        let claim = log.claim_operations(request.client_id.as_deref(), operations);
        claim.map_or_else(|refused| refused, ringlog::PushClaim::publish)
    },
];

#[test]
fn an_op_id_that_is_used_for_another_change_is_an_error_and_the_others_are_handled() {
    let original = change("a", "1");
    let others = [
        ClientChange { entity: "Note".into(), ..original.clone() },
        ClientChange { row_id: "b".into(), ..original.clone() },
        ClientChange { kind: ChangeKind::Update, ..original.clone() },
        ClientChange { data: Some(json!({"row": "b"})), ..original.clone() },
        ClientChange { data: Some(Value::Null), ..original.clone() },
        ClientChange { data: None, ..original.clone() },
    ];
    for (first, again) in WAYS.iter().flat_map(|first| WAYS.iter().map(move |again| (first, again))) {
        let log = ChangeLog::new();
        first(&log, &request([change("z", "0"), original.clone()]));
        for (turn, other) in others.iter().enumerate() {
            let seq = 3 + turn as u64;
            let response = again(&log, &request([original.clone(), other.clone(), change("c", None)]));
            let expected = vec![(Replayed, Some(2)), (Error, None), (Applied, Some(seq))];
            assert_eq!(summary(&response), (2, 1, expected), "{other:?}");
            let message = "op_id `1` was used for another change (seq 2)";
            assert_eq!(response.results[1].error.as_deref(), Some(message));
            assert_eq!(response.errors, [format!("{}/{}: {message}", other.entity, other.row_id)]);
        }
        let stats = log.stats();
        assert_eq!((stats.op_claims_mismatched, stats.op_claims_replayed), (6, 6));
        assert!(
            again(&log, &PushRequest { client_id: None, ..request([others[0].clone()]) }).errors.is_empty()
        );
    }
}

#[test]
fn an_op_id_that_is_twice_in_a_request_for_two_changes_is_applied_once() {
    for way in WAYS {
        let log = ChangeLog::new();
        let twice = request([change("a", "1"), change("b", "1"), change("c", "2"), change("a", "1")]);
        let response = way(&log, &twice);
        let expected = vec![(Applied, Some(1)), (Error, None), (Applied, Some(2)), (Replayed, Some(1))];
        assert_eq!(summary(&response), (3, 1, expected));
        assert_eq!(response.errors, ["Todo/b: op_id `1` was used for another change (seq 1)"]);
        assert_eq!(rows(&log), ["a", "c"]);
    }
    // Nothing has a seq if nothing is applied; it is an error all the same.
    let log = ChangeLog::new();
    let twice = request([change("a", "1"), change("b", "1")]);
    let failed = log.push_batch(&twice, |_| Err("conflict"));
    assert_eq!(failed.errors, ["Todo/a: conflict", "Todo/b: op_id `1` was used for another change"]);
    assert_eq!(log.push(&request([change("b", "1")]), accept).applied, 1, "the op id is free again");
}

#[test]
fn an_op_id_in_flight_for_another_change_is_pending() {
    let log = ChangeLog::new();
    let (one, other) = (request([change("a", "1")]), request([change("b", "1")]));
    let claim = claimed(&log, &one);
    for way in WAYS {
        assert_eq!(summary(&way(&log, &other)), (0, 0, vec![(Pending, None)]));
    }
    drop(claim);
    assert_eq!(log.push(&other, accept).applied, 1, "it was never used");
    assert_eq!(log.push(&one, never).errors, ["Todo/a: op_id `1` was used for another change (seq 1)"]);
}

#[test]
fn an_op_id_that_is_kept_without_a_fingerprint_is_a_replay_of_any_change() {
    let mut log = ChangeLog::new();
    log.remember_op_id("remembered");
    let OpClaim::Proceed(guard) = log.claim_op_id("claimed") else { panic!("nobody else claims it") };
    guard.complete(7);
    log.restore_op_id(None, "restored", 8, None);
    for (op_id, seq) in [("remembered", None), ("claimed", Some(7)), ("restored", Some(8))] {
        for row in ["a", "b"] {
            let request = PushRequest { changes: vec![change(row, op_id)], client_id: None };
            assert_eq!(summary(&log.push(&request, never)), (1, 1, vec![(Replayed, seq)]), "{op_id}");
        }
    }
    // And the calls that know of no change are answered as ever.
    log.push(&PushRequest { changes: vec![change("a", "pushed")], client_id: None }, accept);
    log.remember_op_id("pushed");
    assert!(log.has_seen_op_id("pushed"));
    assert!(matches!(log.claim_op_id("pushed"), OpClaim::Replayed { seq: 1 }));
    let other = PushRequest { changes: vec![change("b", "pushed")], client_id: None };
    assert_eq!(log.push(&other, never).errors.len(), 1, "remembering it again does not change it");
}

#[test]
fn a_restored_op_id_tells_its_change_from_another() {
    let log = ChangeLog::new();
    let one = request([change("a", "1")]);
    let claim = claimed(&log, &one);
    let Some((op_id, fingerprint)) = claim.op_ids().next().unwrap() else { panic!("it has one") };
    assert_eq!(Fingerprint::of(&claim.changes()[0]), fingerprint);
    let stored = fingerprint.to_bits();

    let mut log = ChangeLog::builder().base_seq(9).build().unwrap();
    log.restore_op_id(Some("client"), op_id, 5, Fingerprint::from_bits(stored));
    assert_eq!(summary(&log.push(&one, never)).2, [(Replayed, Some(5))]);
    let other = log.push(&request([change("b", "1")]), never);
    assert_eq!(other.errors, ["Todo/b: op_id `1` was used for another change (seq 5)"]);
}

#[test]
fn text_that_is_pushed_comes_out_byte_for_byte_and_counts_byte_for_byte() {
    const TEXT: &str = "{ \"b\": 1.10, \"a\": -0,\n\"a\": 123456789012345678901234567890, \"c\":1e15}";
    let log = ChangeLog::new();
    let push = |text: &str| {
        let raw: &RawValue = serde_json::from_str(text).unwrap();
        let operation = Operation::new(Change::insert("Item", "i").with_raw(raw)).op_id("1");
        log.claim_operations(None, vec![operation]).expect("nobody else claims it").publish()
    };
    assert_eq!(push(TEXT).applied, 1);
    assert_eq!(log.read(0, 1).unwrap().iter().next().unwrap().data_json(), Some(TEXT));
    assert_eq!(push(TEXT).deduped, 1);
    assert_eq!(push(&TEXT.replace("1.10", "1.1")).errors.len(), 1);
    assert_eq!(push("null").errors.len(), 1);
    assert_eq!(log.len(), 1);
}

#[test]
fn a_change_too_long_for_a_record_is_told_so_and_the_others_of_its_batch_which_it_was() {
    let zeros = String::from_utf8(vec![0; MAX_RECORD_LEN]).unwrap();
    let huge = ClientChange { row_id: zeros, ..change("", "2") };
    let log = ChangeLog::new();
    let mixed = request([change("a", "1"), huge, change("c", None)]);
    let response = log.push_batch(&mixed, |_| -> Result<(), Infallible> { panic!("nothing is applied") });
    assert_eq!(summary(&response), (0, 0, vec![(Error, None); 3]));
    let len = MAX_RECORD_LEN + "Todo".len() + mixed.changes[1].data.as_ref().unwrap().to_string().len();
    let too_long = format!("entity, row_id and data may have {MAX_RECORD_LEN} bytes together, not {len}");
    let errors: Vec<_> = response.results.iter().map(|result| result.error.as_deref().unwrap()).collect();
    assert_eq!(
        errors,
        ["not applied: changes[1] is refused", &too_long, "not applied: changes[1] is refused"]
    );
    assert!(response.errors.iter().all(|error| error.len() < 200), "none repeats the whole name");
    assert_eq!(log.push(&request([change("a", "1")]), accept).applied, 1, "its op id is free");
}

/// Counts wake-ups, and panics at each.
struct Explosive(AtomicUsize);

impl Wake for Explosive {
    fn wake(self: Arc<Self>) {
        self.0.fetch_add(1, Ordering::Relaxed);
        // Unlike `panic!`, this does not print.
        resume_unwind(Box::new("a waker panics"));
    }
}

#[test]
fn a_waker_that_panics_leaves_every_change_of_a_push_applied_and_its_op_id_completed() {
    for way in WAYS {
        let log = ChangeLog::new();
        let explosive = Arc::new(Explosive(AtomicUsize::new(0)));
        let waker = Waker::from(Arc::clone(&explosive));
        let mut futures = [pin!(log.wait_for(1)), pin!(log.wait_for(2))];
        for future in &mut futures {
            assert!(future.as_mut().poll(&mut Context::from_waker(&waker)).is_pending());
        }
        let two = request([change("a", "1"), change("b", "2")]);
        assert_eq!(summary(&way(&log, &two)), (2, 0, vec![(Applied, Some(1)), (Applied, Some(2))]));
        assert_eq!(rows(&log), ["a", "b"]);
        let again = log.push(&two, never);
        assert_eq!(summary(&again), (2, 2, vec![(Replayed, Some(1)), (Replayed, Some(2))]));
        assert_eq!(log.stats().op_claims_forgotten, 0);
    }
}

/// When it is woken, asks the log whether an op id is completed.
struct Curious(Arc<ChangeLog>, AtomicBool);

impl Wake for Curious {
    fn wake(self: Arc<Self>) {
        self.1.store(self.0.has_seen_op_id("1"), Ordering::Relaxed);
    }
}

#[test]
fn an_op_id_is_completed_before_a_waiter_is_woken() {
    for way in WAYS {
        let log = Arc::new(ChangeLog::new());
        let curious = Arc::new(Curious(Arc::clone(&log), AtomicBool::new(false)));
        let waker = Waker::from(Arc::clone(&curious));
        let mut future = pin!(log.wait_for(1));
        assert!(future.as_mut().poll(&mut Context::from_waker(&waker)).is_pending());
        way(&log, &PushRequest { changes: vec![change("a", "1")], client_id: None });
        assert!(curious.1.load(Ordering::Relaxed));
    }
}

#[test]
fn a_clock_that_panics_does_so_before_a_change_is_applied() {
    let calls = Arc::new(AtomicUsize::new(0));
    let clock = Arc::clone(&calls);
    // It works for the second change only.
    let clock = move || if clock.fetch_add(1, Ordering::Relaxed) == 1 { 1 } else { panic_any("no time") };
    let log = ChangeLog::builder().clock(clock).build().unwrap();
    let three = request([change("a", "1"), change("b", "2"), change("c", None)]);
    let mut applied = Vec::new();
    let response = log.push(&three, |change| {
        applied.push(change.row_id.clone());
        Ok::<(), Infallible>(())
    });
    assert_eq!(applied, ["b"]);
    assert_eq!(summary(&response), (1, 0, vec![(Error, None), (Applied, Some(1)), (Error, None)]));
    assert_eq!(response.errors, ["Todo/a: panicked: no time", "Todo/c: panicked: no time"]);
    let refused = log.claim_push(&request([change("a", "1")])).unwrap_err();
    assert_eq!(refused.errors, ["Todo/a: panicked: no time"], "its op id was free");
}

/// Panics when it is dropped.
struct Grenade;

impl Drop for Grenade {
    fn drop(&mut self) {
        resume_unwind(Box::new("dropped"));
    }
}

#[test]
fn a_panic_whose_payload_panics_when_it_is_dropped_is_a_failed_change_like_any_other() {
    let log = ChangeLog::new();
    let two = request([change("a", "1"), change("b", "2")]);
    let response = log.push(&two, |change| match change.row_id.as_str() {
        "a" => resume_unwind(Box::new(Grenade)),
        _ => Ok::<(), Infallible>(()),
    });
    assert_eq!(summary(&response), (1, 0, vec![(Error, None), (Applied, Some(1))]));
    assert_eq!(response.errors, ["Todo/a: panicked: no message"]);
    let response = log.push_batch(&two, |_| -> Result<(), Infallible> { resume_unwind(Box::new(Grenade)) });
    assert_eq!(summary(&response), (1, 1, vec![(Error, None), (Replayed, Some(1))]));
    assert_eq!(log.push(&two, accept).applied, 2);
}

/// An error that panics when it is written out.
struct Unspeakable;

impl fmt::Display for Unspeakable {
    fn fmt(&self, _: &mut fmt::Formatter<'_>) -> fmt::Result {
        resume_unwind(Box::new("no words"))
    }
}

#[test]
fn an_error_that_panics_when_it_is_written_out_is_a_failed_change_like_any_other() {
    let log = ChangeLog::new();
    let one = request([change("a", "1")]);
    let responses = [
        log.push(&one, |_| Err(Unspeakable)),
        log.push_batch(&one, |_| Err(Unspeakable)),
        claimed(&log, &one).fail(Unspeakable),
    ];
    for response in responses {
        assert_eq!(response.errors, ["Todo/a: panicked: no words"]);
    }
    assert_eq!(log.stats().op_claims_forgotten, 3);
    assert_eq!(log.push(&one, accept).applied, 1);
}

#[test]
fn changes_whose_condition_does_not_hold_are_taken_out_and_the_others_are_applied() {
    let log = ChangeLog::new();
    let operation = |row_id, op_id| Operation::new(Change::insert("Todo", row_id)).op_id(op_id);
    let operations = || {
        vec![
            operation("a", "1").if_seq(7),
            operation("b", "2"),
            operation("a", "1"), // repeats the first
            operation("c", "1"), // another change under its op id
            operation("b", "2"), // repeats the second
            operation("d", "2"),
            operation("e", "3").if_seq(8),
        ]
    };
    let mut claim = log.claim_operations(Some("c"), operations()).unwrap();
    assert!(claim.is_conditional());
    let mut asked = Vec::new();
    claim.check(|change, if_seq| {
        asked.push((change.row_id().to_owned(), if_seq));
        let row = RowState { seq: 8, data: None };
        if if_seq.is_none_or(|seq| seq == row.seq) { Ok(()) } else { Err(row) }
    });
    assert_eq!(asked, [("a".into(), Some(7)), ("b".into(), None), ("e".into(), Some(8))]);
    assert!(!claim.is_conditional());
    assert_eq!(claim.changes().iter().map(Change::row_id).collect::<Vec<_>>(), ["b", "e"]);
    assert_eq!(claim.op_ids().map(|op_id| op_id.unwrap().0).collect::<Vec<_>>(), ["2", "3"]);
    let response = claim.publish();
    let conflict = OpStatus::Conflict;
    let expected = vec![
        (conflict, None),
        (Applied, Some(1)),
        (conflict, None),
        (Error, None),
        (Replayed, Some(1)),
        (Error, None),
        (Applied, Some(2)),
    ];
    assert_eq!(summary(&response), (3, 1, expected));
    assert_eq!(response.errors[0], "Todo/a: if_seq is 7, and the row's last seq is 8");
    assert_eq!(response.results[2].row.as_ref().unwrap().seq, 8);
    // Its op id is free again, and the others are not.
    let mut again = log.claim_operations(Some("c"), operations()).unwrap();
    assert_eq!(again.changes().len(), 1);
    again.check(|_, _| Ok(()));
    assert_eq!(again.publish().results[0].seq, Some(3));
}

#[test]
fn a_replay_is_answered_as_a_claim_would_be_and_claims_nothing() {
    let log = ChangeLog::builder().op_id_capacity(3).build().unwrap();
    let operation = |id, row_id| Operation::new(Change::insert("Todo", row_id)).op_id(id);
    let replay =
        |client, operations: &[Operation<'static>]| log.replay_operations(client, operations.to_vec());
    let claim = |operations: &[Operation<'static>]| log.claim_operations(Some("phone"), operations.to_vec());
    let known = [operation("1", "a"), operation("2", "b")];
    claim(&known).unwrap().publish();

    let answer = replay(Some("phone"), &known).expect("all of it is known");
    assert_eq!(answer, claim(&known).unwrap().publish());
    let twice = [known[0].clone(), known[0].clone()];
    assert_eq!(replay(Some("phone"), &twice), Some(claim(&twice).unwrap().publish()));
    assert_eq!(log.stats().op_claims_replayed, 8, "counted once, by whichever answers");

    let without = Operation::new(Change::insert("Todo", "a"));
    for unknown in [operation("3", "a"), operation("1", "other"), without] {
        let partly = [known[0].clone(), unknown];
        assert_eq!(replay(Some("phone"), &partly), None);
    }
    assert_eq!(replay(Some("laptop"), &known), None);
    assert_eq!(replay(None, &known), None);
    assert_eq!(replay(Some("phone"), &[]), None);
    assert_eq!(log.stats().op_claims_in_flight, 0, "a claim never met a replay");

    let held = claim(&[operation("3", "c")]).unwrap();
    assert_eq!(replay(Some("phone"), &[operation("3", "c")]), None, "it may yet be given up");
    held.publish();
    assert!(replay(Some("phone"), &[operation("3", "c")]).is_some());
    claim(&[operation("4", "d")]).unwrap().publish();
    assert_eq!(replay(Some("phone"), &known), None, "the first is forgotten");
}
