//! Rows about reading.

use super::{Comparison, Contest, Effort};
use crate::contender::{Contender, Run};
use crate::contenders::{Plain, Pylon, text_len};
use crate::workload::{EVENTS, TEXT, WINDOW};
use pylon_sync::{PullResponse, SyncCursor};
use ringlog::ChangeLog;
use std::hint::black_box;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Long enough for the slowest, which takes a millisecond a read.
const EFFORT: Effort = Effort { run: Duration::from_millis(4), turns: 40 };

const COUNT: usize = EVENTS as usize;

/// So many calls.
fn calls(mut call: impl FnMut() + 'static) -> Run {
    Box::new(move |count| {
        let start = Instant::now();
        (0..count).for_each(|_| call());
        start.elapsed()
    })
}

/// Reads of the last hundred events.
fn last(log: Arc<ChangeLog>, mut read: impl FnMut(&ChangeLog, u64) + 'static) -> Run {
    let after = log.last_seq() - EVENTS;
    calls(move || read(&log, after))
}

/// In place, every byte's length added up.
fn in_place(log: &ChangeLog, after: u64) {
    let events = log.read(black_box(after), COUNT).expect("in the window");
    let found = (events.len() as u64, events.iter().map(|event| text_len(&event)).sum());
    assert_eq!(black_box(found), (EVENTS, EVENTS * TEXT));
}

/// As the JSON of a response.
fn as_json() -> impl FnMut(&ChangeLog, u64) {
    let mut out = Vec::new();
    move |log, after| {
        out.clear();
        let summary = log.pull_json(black_box(after), COUNT, &mut out).expect("in the window");
        assert_eq!(summary.count as u64, EVENTS);
        assert!(black_box(&*out).len() as u64 > EVENTS * TEXT);
    }
}

fn owned(log: &ChangeLog, after: u64) {
    let response = log.pull(&ringlog::SyncCursor { last_seq: black_box(after) }, COUNT);
    assert_eq!(black_box(response.expect("in the window")).changes.len() as u64, EVENTS);
}

/// The seed's own read of the last hundred.
fn pylon(window: usize, finish: impl Fn(PullResponse) + 'static) -> Run {
    let pylon = Pylon::full(window);
    let after = SyncCursor { last_seq: pylon.taken() - EVENTS };
    calls(move || {
        let response = pylon.log.pull(black_box(&after), COUNT).expect("in the window");
        assert_eq!(response.changes.len() as u64, EVENTS);
        finish(black_box(response));
    })
}

fn full(window: usize) -> Arc<ChangeLog> {
    Arc::new(ChangeLog::full(window))
}

/// In place, against the seed's pull, and the plain program that shares its events.
pub(super) fn read() -> Vec<Contest> {
    let what = "read 100 at the tail, by reference";
    let contest = Contest::new(EFFORT, ("ringlog", last(full(WINDOW), in_place))).against(
        what,
        "pylon.pull",
        pylon(WINDOW, drop),
        Some(1.0 / 150.0),
    );
    let plain = Plain::full(WINDOW);
    let shared = calls(move || assert_eq!(plain.read_last(COUNT), EVENTS * TEXT));
    vec![contest.against(what, "mutex", shared, None)]
}

/// As JSON bytes.
pub(super) fn json() -> Vec<Contest> {
    let to_vec = |response| {
        let body = serde_json::to_vec(&response).expect("it serialises");
        assert!(black_box(body).len() as u64 > EVENTS * TEXT);
    };
    let contest = Contest::new(EFFORT, ("ringlog", last(full(WINDOW), as_json())));
    vec![contest.against(
        "`pull_json` of 100",
        "pylon.pull + `to_vec`",
        pylon(WINDOW, to_vec),
        Some(1.0 / 25.0),
    )]
}

/// Owned.
pub(super) fn pull(window: usize, limit: f64) -> Vec<Contest> {
    let what = format!("pull (owned) of 100, window {window}");
    let contest = Contest::new(EFFORT, ("ringlog", last(full(window), owned)));
    vec![contest.against(&what, "pylon.pull", pylon(window, drop), Some(limit))]
}

const WINDOWS: [&str; 5] = ["1000", "10000", "100000", "1000000", "10000000"];

/// Windows of very different lengths: the same events again and again, which are in the cache
/// whatever the window is, and then others each time, which are in the cache only if the whole
/// window is.
pub(super) fn flat() -> Vec<Contest> {
    let logs = WINDOWS.map(|window| full(window.parse().expect("a number")));
    let anywhere = |log: Arc<ChangeLog>| {
        let oldest = log.oldest_seq();
        let choices = log.last_seq() - EVENTS - oldest;
        let mut place = 0_u64;
        calls(move || {
            // A step that is prime to every length comes everywhere, and far from where it was.
            place += 618_033_989;
            in_place(&log, oldest + place % choices);
        })
    };
    vec![
        windows("read of the last 100", &logs, Some(1.2), |log| last(log, in_place)),
        windows("`pull_json` of the last 100", &logs, Some(1.2), |log| last(log, as_json())),
        windows("pull of the last 100", &logs, Some(1.2), |log| last(log, owned)),
        windows("read of any 100 (memory, not cache)", &logs, None, anywhere),
    ]
}

/// Each window against the shortest. The limit is for those up to a million.
fn windows(
    what: &str,
    logs: &[Arc<ChangeLog>; 5],
    limit: Option<f64>,
    run: impl Fn(Arc<ChangeLog>) -> Run,
) -> Contest {
    let comparison = |window: usize| Comparison {
        what: format!("{what}, window {}", WINDOWS[window]),
        ours: WINDOWS[window],
        theirs: WINDOWS[0],
        limit: limit.filter(|_| window < 4),
    };
    Contest {
        effort: Effort { run: Duration::from_millis(2), turns: 40 },
        contestants: WINDOWS.into_iter().zip(logs.iter().map(|log| run(Arc::clone(log)))).collect(),
        comparisons: (1..WINDOWS.len()).map(comparison).collect(),
    }
}
