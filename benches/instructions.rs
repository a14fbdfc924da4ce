//! One operation, so many times over: what `cargo xtask instructions` counts the instructions of.
//!
//! Without arguments it says what there is. Nothing is timed here.

use ringlog::{Change, ChangeLog, OpClaim};
use serde_json::value::RawValue;
use std::hint::black_box;

/// Events in the window, and op ids in the memory: all in cache, and full before the count begins.
const CAPACITY: usize = 1_000;
/// A row id of the usual length.
const ROW_ID: &str = "0192f0c1-7b1e-7c3a-9d4e-5f6a7b8c9d0e01";
const DATA: &str = r#"{"title":"buy milk","done":false,"position":1024,"tags":["a"]}"#;

/// The name of an operation, and one of it on a log that is full.
type Operation = (&'static str, fn(&ChangeLog, &Input<'_>, u64));

/// What operations are about, made before they are counted.
struct Input<'a> {
    batch: Vec<Change<'a>>,
    /// Op ids that the log has not seen, of the usual length: one for each turn.
    fresh_ids: Vec<String>,
}

/// How many turns there are ids for.
const TURNS: usize = 10_000;

const OPERATIONS: [Operation; 6] = [
    ("append", |log, input, _| {
        black_box(log.append_change(black_box(&input.batch[0])));
    }),
    ("batch of 16", |log, input, _| {
        black_box(log.append_batch(black_box(&input.batch)));
    }),
    ("read 100", |log, _, _| {
        let batch = log.read(log.last_seq() - 100, 100).expect("in the window");
        assert_eq!(
            batch.iter().map(|event| black_box(event.row_id()).len()).sum::<usize>(),
            100 * ROW_ID.len()
        );
    }),
    ("pull_json 100", |log, _, _| {
        let mut json = Vec::with_capacity(32 * 1024);
        let summary = log.pull_json(log.last_seq() - 100, 100, &mut json).expect("in the window");
        assert_eq!((summary.count, black_box(&json).last()), (100, Some(&b'}')));
    }),
    ("has_seen absent", |log, input, turn| {
        assert!(!log.has_seen_op_id(black_box(&input.fresh_ids[turn as usize])));
    }),
    ("claim and complete", |log, input, turn| claim_and_complete(log, &input.fresh_ids[turn as usize], turn)),
];

fn claim_and_complete(log: &ChangeLog, id: &str, seq: u64) {
    match log.claim_op_id(id) {
        OpClaim::Proceed(guard) => guard.complete(seq),
        other => panic!("{other:?}"),
    }
}

fn main() {
    let args: Vec<String> = std::env::args().skip(1).filter(|arg| arg != "--bench").collect();
    let [name, count] = &args[..] else {
        let names: Vec<&str> = OPERATIONS.iter().map(|(name, _)| *name).collect();
        println!("instructions OPERATION COUNT, where OPERATION is one of: {}", names.join(", "));
        return;
    };
    let (_, operation) = OPERATIONS.iter().find(|(known, _)| known == name).expect("an operation");
    let log = ChangeLog::builder().capacity(CAPACITY).op_id_capacity(CAPACITY).build().expect("capacities");
    let data: &RawValue = serde_json::from_str(DATA).expect("JSON");
    let input = Input {
        batch: vec![Change::update("Todo", ROW_ID).with_raw(data); 16],
        fresh_ids: (0..TURNS).map(|number| format!("0192f0c1-7b1e-7c3a-9d4e-{number:012}")).collect(),
    };
    for turn in 0..2 * CAPACITY as u64 {
        log.append_change(&input.batch[0]);
        claim_and_complete(&log, &format!("0192f0c1-7b1e-7c3a-9d4d-{turn:012}"), turn);
    }
    let count = count.parse().expect("COUNT is a number");
    assert!(count <= TURNS as u64, "COUNT is {TURNS} at most");
    for turn in 0..count {
        operation(&log, &input, turn);
    }
}
