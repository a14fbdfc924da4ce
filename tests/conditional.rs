//! Appends that are conditional on the log's last seq: optimistic writers, and replicas.

use ringlog::{Change, ChangeLog, Conflict, Cursor, ResyncReason};
use serde_json::json;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;

fn row_ids(log: &ChangeLog, after: u64) -> Vec<String> {
    log.read(after, 1_000).expect("in the window").iter().map(|event| event.row_id().to_owned()).collect()
}

#[test]
fn a_conditional_batch_follows_the_named_seq_or_is_refused_whole() {
    let log = ChangeLog::with_capacity(10);
    let changes = [Change::insert("Todo", "a"), Change::insert("Todo", "b")];
    assert_eq!(log.append_batch_if(0, None, &changes), Ok(1..=2));
    for expected in [0, 1, 3, u64::MAX - 1, u64::MAX] {
        let conflict = log.append_batch_if(expected, None, &changes).unwrap_err();
        assert_eq!((conflict.expected, conflict.last_seq), (expected, 2));
        assert_eq!(conflict.to_string(), format!("nothing appended: the last seq is 2, not {expected}"));
    }
    assert_eq!((log.last_seq(), log.head()), (2, 2));
    assert_eq!(log.append_batch_if(2, None, &changes), Ok(3..=4));
    assert_eq!(row_ids(&log, 0), ["a", "b", "a", "b"]);
}

#[test]
fn a_conditional_batch_without_changes_only_compares() {
    let log = ChangeLog::builder().base_seq(7).build().unwrap();
    let seqs = log.append_batch_if(7, None, &[]).unwrap();
    assert!(seqs.is_empty() && *seqs.start() == 8, "{seqs:?}");
    assert_eq!(log.append_batch_if(6, None, &[]).unwrap_err().last_seq, 7);
    assert_eq!(log.last_seq(), 7);
}

#[test]
fn a_conditional_batch_has_the_timestamp_that_is_given_or_the_clocks() {
    let log = ChangeLog::builder().clock(|| 5).build().unwrap();
    let change = [Change::insert("Todo", "a")];
    log.append_batch_if(0, Some(123), &change).unwrap();
    log.append_batch_if(1, None, &change).unwrap();
    log.append_batch_if(2, Some(u64::MAX), &change).unwrap();
    let events = log.read(0, 10).unwrap();
    let times: Vec<_> = events.iter().map(|event| event.timestamp_millis()).collect();
    assert_eq!(times, [123, 5, 253_402_300_799_999], "the last is the end of the calendar");
}

/// Values are written out, and wide texts lie in blocks: a refused batch leaves neither behind.
#[test]
fn a_refused_batch_of_every_kind_of_text_leaves_nothing_behind() {
    let log = ChangeLog::with_capacity(10);
    let (object, wide) = (json!({"n": 1}), "x".repeat(5_000));
    let changes = [
        Change::insert("Todo", "plain"),
        Change::insert("Todo", "value").with_value(&object),
        Change::insert("Todo", &wide),
    ];
    for _ in 0..100 {
        log.append_batch_if(1, None, &changes).unwrap_err();
    }
    assert_eq!((log.last_seq(), log.stats().spilled_bytes), (0, 0));
    assert_eq!(log.append_batch_if(0, None, &changes), Ok(1..=3));
    assert_eq!(row_ids(&log, 0), ["plain", "value", &wide]);
}

#[test]
fn a_conditional_batch_longer_than_the_window_leaves_its_end() {
    let log = ChangeLog::with_capacity(2);
    let changes = ["a", "b", "c", "d"].map(|row_id| Change::insert("Todo", row_id));
    assert_eq!(log.append_batch_if(0, None, &changes), Ok(1..=4));
    assert_eq!(row_ids(&log, 2), ["c", "d"]);
    assert_eq!(log.append_batch_if(3, None, &changes).unwrap_err().last_seq, 4);
}

/// Each writer counts on from the last seq that it was told. With appends that are not conditional,
/// two of them would append the same count.
#[test]
fn optimistic_writers_never_decide_on_what_is_out_of_date() {
    const WRITERS: usize = 4;
    const EACH: u64 = 2_000;
    let log = ChangeLog::with_capacity(64);
    let conflicts = AtomicU64::new(0);
    thread::scope(|scope| {
        for _ in 0..WRITERS {
            scope.spawn(|| {
                let mut expected = 0;
                for _ in 0..EACH {
                    // The count is the seq, since each event adds one to the last.
                    while let Err(Conflict { last_seq, .. }) = log.append_batch_if(
                        expected,
                        None,
                        &[Change::update("Count", &(expected + 1).to_string())],
                    ) {
                        conflicts.fetch_add(1, Ordering::Relaxed);
                        expected = last_seq;
                    }
                    expected += 1;
                }
            });
        }
    });
    let total = WRITERS as u64 * EACH;
    assert_eq!((log.last_seq(), log.head()), (total, total), "{conflicts:?} conflicts");
    let expected: Vec<_> = (total - 63..=total).map(|count| count.to_string()).collect();
    assert_eq!(row_ids(&log, total - 64), expected);
}

/// Plain and conditional writers at once: seqs are dense, offered = appended, and each batch is
/// met whole and consecutive by a reader that follows.
#[test]
fn conditional_batches_are_whole_among_plain_appends() {
    const BATCHES: u64 = 3_000;
    let log = ChangeLog::with_capacity(1 << 16);
    let done = AtomicBool::new(false);
    let batch = ["b1", "b2", "b3"].map(|row_id| Change::update("Batch", row_id));
    let (plain, batches) = thread::scope(|scope| {
        let conditional: Vec<_> = (0..2)
            .map(|_| {
                scope.spawn(|| {
                    let mut expected = 0;
                    for _ in 0..BATCHES {
                        expected = loop {
                            match log.append_batch_if(expected, None, &batch) {
                                Ok(seqs) => {
                                    assert_eq!(*seqs.start(), expected + 1, "it follows what was named");
                                    break *seqs.end();
                                }
                                Err(conflict) => expected = conflict.last_seq,
                            }
                        };
                    }
                })
            })
            .collect();
        let plain = scope.spawn(|| {
            let mut appended = 0_u64;
            while !done.load(Ordering::Relaxed) && appended < 30_000 {
                log.append_change(&Change::insert("Plain", "p"));
                appended += 1;
            }
            appended
        });
        let reader = scope.spawn(|| {
            let (mut cursor, mut batches) = (Cursor::from(0), 0_u64);
            loop {
                // Looked at before the read: what was appended by then is read.
                let last = done.load(Ordering::Acquire);
                let events = log.read(cursor, usize::MAX).expect("in the window");
                let names: Vec<_> = events.iter().map(|event| event.row_id()).collect();
                for (at, _) in names.iter().enumerate().filter(|(_, name)| **name == "b1") {
                    assert_eq!(names.get(at..at + 3), Some(&["b1", "b2", "b3"][..]), "half a batch");
                    batches += 1;
                }
                cursor = events.cursor();
                if last && !events.has_more() {
                    return batches;
                }
            }
        });
        for writer in conditional {
            writer.join().expect("a writer ends");
        }
        done.store(true, Ordering::Release);
        let plain = plain.join().expect("the plain writer ends");
        (plain, reader.join().expect("the reader ends"))
    });
    assert!(batches <= 2 * BATCHES);
    assert_eq!(log.last_seq(), 2 * BATCHES * 3 + plain);
    assert_eq!((log.len() as u64, log.stats().superseded), (log.last_seq(), 0));
}

/// A replica is read while it applies the other log, in the batches of one timestamp each.
#[test]
fn a_replica_applies_another_log_while_readers_read() {
    const EVENTS: u64 = 5_000;
    let now = std::sync::Arc::new(AtomicU64::new(1));
    let clock = std::sync::Arc::clone(&now);
    let primary = ChangeLog::builder()
        .capacity(EVENTS as usize)
        .clock(move || clock.fetch_add(1, Ordering::Relaxed) / 7)
        .build()
        .unwrap();
    let value = json!({"a": [1, 2]});
    for n in 0..EVENTS {
        let row_id = n.to_string();
        match n % 3 {
            0 => primary.append_change(&Change::insert("Todo", &row_id).with_value(&value)),
            1 => primary.append_change(&Change::delete("Todo", &row_id)),
            _ => primary.append_change(&Change::update("Todo", &row_id.repeat(100))),
        };
    }
    let replica =
        ChangeLog::builder().capacity(EVENTS as usize).incarnation(primary.incarnation()).build().unwrap();
    thread::scope(|scope| {
        scope.spawn(|| {
            while replica.last_seq() < EVENTS {
                let events = primary.read(replica.cursor(), 100).unwrap();
                let events: Vec<_> = events.iter().collect();
                for run in events.chunk_by(|a, b| a.timestamp_millis() == b.timestamp_millis()) {
                    let changes: Vec<_> = run
                        .iter()
                        .map(|event| {
                            let change = Change::new(event.kind(), event.entity(), event.row_id());
                            match event.data() {
                                Some(data) => change.with_raw(data),
                                None => change,
                            }
                        })
                        .collect();
                    let (before, time) = (run[0].seq() - 1, run[0].timestamp_millis());
                    replica.append_batch_if(before, Some(time), &changes).expect("the only writer");
                    let again = replica.append_batch_if(before, Some(time), &changes);
                    again.expect_err("applied already");
                }
            }
        });
        scope.spawn(|| {
            let mut cursor = Cursor::from(0);
            while cursor.seq < EVENTS {
                let events = replica.read(cursor, 50).expect("in the window");
                for event in &events {
                    let seq = event.seq();
                    let original = primary.read(seq - 1, 1).unwrap();
                    let original = original.iter().next().unwrap();
                    assert_eq!(event.to_event(), original.to_event());
                }
                cursor = events.cursor();
            }
        });
    });
    let mut bodies = [Vec::new(), Vec::new()];
    primary.pull_json(0, usize::MAX, &mut bodies[0]).unwrap();
    replica.pull_json(0, usize::MAX, &mut bodies[1]).unwrap();
    assert!(bodies[0] == bodies[1], "the same bytes");
    assert_eq!(replica.cursor(), primary.cursor());
    assert_eq!(replica.read(EVENTS + 1, 1).unwrap_err().reason, ResyncReason::Ahead);
}

#[test]
fn a_conditional_batch_wakes_waiters_and_a_closed_log_takes_it() {
    let log = ChangeLog::new();
    thread::scope(|scope| {
        let waiter = scope.spawn(|| log.blocking_wait_for(1, std::time::Duration::from_secs(60)));
        while log.stats().waiters == 0 {
            thread::yield_now();
        }
        log.append_batch_if(0, None, &[Change::insert("Todo", "a")]).unwrap();
        assert_eq!(waiter.join().unwrap(), Ok(1));
    });
    log.close();
    assert_eq!(log.append_batch_if(1, None, &[Change::insert("Todo", "b")]), Ok(2..=2));
}
