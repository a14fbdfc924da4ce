//! Rows about reading.

use super::{Contestant, Effort, Sheet, alternate};
use crate::contenders::{Plain, Pylon, Ringlog};
use crate::contender::Contender as _;
use crate::workload::{TEXT, WINDOW};
use ringlog::SyncCursor;
use std::cell::{Cell, RefCell};
use std::hint::black_box;
use std::time::{Duration, Instant};

/// How many events a read returns.
const EVENTS: u64 = 100;

/// Long enough for the slowest, which takes a millisecond a read.
const EFFORT: Effort = Effort { run: Duration::from_millis(4), turns: 40 };

/// The time of so many calls.
fn times(calls: u64, mut call: impl FnMut()) -> Duration {
    let start = Instant::now();
    (0..calls).for_each(|_| call());
    start.elapsed()
}

/// Reads in place, and adds up the bytes.
fn read_in_place(log: &Ringlog, after: u64) {
    assert_eq!(black_box(log.read(black_box(after))), (EVENTS, EVENTS * TEXT));
}

/// Writes the JSON of a response.
fn write_json(log: &Ringlog, after: u64, out: &mut Vec<u8>) {
    out.clear();
    let summary = log.log.pull_json(black_box(after), EVENTS as usize, out).expect("in the window");
    assert_eq!(summary.count as u64, EVENTS);
    assert!(black_box(&*out).len() as u64 > EVENTS * TEXT);
}

/// Pulls owned events.
fn pull_owned(log: &Ringlog, after: u64) {
    let response = log.log.pull(&SyncCursor { last_seq: black_box(after) }, EVENTS as usize);
    assert_eq!(black_box(response.expect("in the window")).changes.len() as u64, EVENTS);
}

/// The seed's pull.
fn seed_pull(seed: &Pylon, after: &pylon_sync::SyncCursor) -> pylon_sync::PullResponse {
    let response = seed.log.pull(black_box(after), EVENTS as usize).expect("in the window");
    assert_eq!(response.changes.len() as u64, EVENTS);
    response
}

/// In place, against the seed's pull, and the plain program that shares its events.
pub(super) fn read(sheet: &mut Sheet) {
    let (log, seed, plain) = (Ringlog::full(WINDOW), Pylon::full(WINDOW), Plain::full(WINDOW));
    let (after, seed_after, plain_after) = (log.last(EVENTS), seed.last(EVENTS), plain.taken() - EVENTS);
    let figures = alternate(
        EFFORT,
        &[
            ("ringlog", &|calls| times(calls, || read_in_place(&log, after))),
            ("pylon.pull", &|calls| times(calls, || drop(black_box(seed_pull(&seed, &seed_after))))),
            ("mutex", &|calls| {
                times(calls, || {
                    let events = plain.read(plain_after, EVENTS as usize).expect("in the window");
                    assert_eq!(events.iter().map(|event| event.text_len()).sum::<u64>(), EVENTS * TEXT);
                })
            }),
        ],
    );
    let what = "read 100 at the tail, by reference";
    sheet.turns(what, &figures, ["ringlog", "pylon.pull"], Some(1.0 / 150.0));
    sheet.turns(what, &figures, ["ringlog", "mutex"], None);
}

/// As JSON bytes.
pub(super) fn json(sheet: &mut Sheet) {
    let (log, seed) = (Ringlog::full(WINDOW), Pylon::full(WINDOW));
    let (after, seed_after) = (log.last(EVENTS), seed.last(EVENTS));
    let out = RefCell::new(Vec::new());
    let figures = alternate(
        EFFORT,
        &[
            ("ringlog", &|calls| times(calls, || write_json(&log, after, &mut out.borrow_mut()))),
            ("pylon.pull + to_vec", &|calls| {
                times(calls, || {
                    let body = serde_json::to_vec(&seed_pull(&seed, &seed_after)).expect("it serialises");
                    assert!(black_box(body).len() as u64 > EVENTS * TEXT);
                })
            }),
        ],
    );
    sheet.turns("pull_json of 100", &figures, ["ringlog", "pylon.pull + to_vec"], Some(1.0 / 25.0));
}

/// Owned.
pub(super) fn pull(sheet: &mut Sheet, window: usize, limit: f64) {
    let (log, seed) = (Ringlog::full(window), Pylon::full(window));
    let (after, seed_after) = (log.last(EVENTS), seed.last(EVENTS));
    let figures = alternate(
        EFFORT,
        &[
            ("ringlog", &|calls| times(calls, || pull_owned(&log, after))),
            ("pylon.pull", &|calls| times(calls, || drop(black_box(seed_pull(&seed, &seed_after))))),
        ],
    );
    let what = format!("pull (owned) of 100, window {window}");
    sheet.turns(&what, &figures, ["ringlog", "pylon.pull"], Some(limit));
}

/// Windows of very different lengths: the same events again and again, which are in the cache whatever the window is, and
/// then others each time, which are in the cache only if the whole window is.
pub(super) fn flat(sheet: &mut Sheet) {
    const NAMES: [&str; 5] = ["1000", "10000", "100000", "1000000", "10000000"];
    let logs = NAMES.map(|name| Ringlog::full(name.parse().expect("a number")));
    let out = RefCell::new(Vec::new());
    let write_json = |log: &Ringlog, after| write_json(log, after, &mut out.borrow_mut());
    let ways: [(&str, &dyn Fn(&Ringlog, u64)); 3] =
        [("read", &read_in_place), ("pull_json", &write_json), ("pull", &pull_owned)];
    for (way, read) in ways {
        let tail = |log: &Ringlog, calls| {
            let after = log.last(EVENTS);
            times(calls, || read(log, after))
        };
        compare(sheet, &format!("{way} of the last 100"), &NAMES, &logs, &tail, Some(1.2));
    }
    let place = Cell::new(0_u64);
    let anywhere = |log: &Ringlog, calls| {
        let oldest = log.log.oldest_seq();
        let choices = log.log.head() - EVENTS - oldest;
        times(calls, || {
            // A step that is prime to every length comes everywhere, and far from where it was.
            place.set(place.get() + 618_033_989);
            read_in_place(log, oldest + place.get() % choices);
        })
    };
    compare(sheet, "read of any 100 (memory, not cache)", &NAMES, &logs, &anywhere, None);
}

/// Each window against the shortest. The limit is for those up to a million.
fn compare(
    sheet: &mut Sheet,
    what: &str,
    names: &[&'static str; 5],
    logs: &[Ringlog; 5],
    run: &dyn Fn(&Ringlog, u64) -> Duration,
    limit: Option<f64>,
) {
    let runs: Vec<_> = logs.iter().map(|log| move |calls| run(log, calls)).collect();
    let contestants: Vec<Contestant<'_>> =
        names.iter().zip(&runs).map(|(name, run)| (*name, run as &dyn Fn(u64) -> Duration)).collect();
    let figures = alternate(Effort { run: Duration::from_millis(2), turns: 40 }, &contestants);
    for (place, name) in names.iter().enumerate().skip(1) {
        let limit = limit.filter(|_| place < 4);
        sheet.turns(&format!("{what}, window {name}"), &figures, [name, names[0]], limit);
    }
}
