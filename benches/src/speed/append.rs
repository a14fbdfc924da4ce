//! Rows about appending.

use super::{Contest, Effort, threads};
use crate::contender::{Contender, Run, append_text, trial};
use crate::contenders::{Broadcast, Plain, Pylon, fetch_add, limit};
use crate::workload::{ENTITY, ROW_ID, WINDOW, data};
use ringlog::{Change, ChangeLog};
use serde_json::{Value, json};
use std::hint::black_box;

/// So many writers.
fn of<C: Contender + 'static>(writers: usize, contender: C) -> Run {
    trial(writers, contender, append_text)
}

/// JSON text in, against each of these with its limit, if it has one.
pub(super) fn text(writers: usize, limits: [Option<f64>; 5]) -> Vec<Contest> {
    let what = &format!("append, JSON text in, {}", threads(writers, "writer"));
    let [mutex, broadcast, pylon, counter, floor] = limits;
    let contest =
        Contest::new(Effort::for_threads(writers), ("ringlog", of(writers, ChangeLog::full(WINDOW))))
            .against(what, "mutex", of(writers, Plain::full(WINDOW)), mutex)
            .against(what, "broadcast", of(writers, Broadcast::with_window(WINDOW)), broadcast)
            .against(what, "pylon", of(writers, Pylon::full(WINDOW)), pylon)
            .against(what, "`fetch_add`", fetch_add(writers), counter)
            .against(what, "limit", limit(writers), floor);
    vec![contest]
}

/// Appends so many values.
fn values<T>(events: u64, append: impl Fn(Value) -> T) {
    let value = json!({"title": "sixty-two bytes of JSON", "done": false, "position": 12});
    for _ in 0..events {
        black_box(append(value.clone()));
    }
}

/// The seed's own call, with a value made for each event.
pub(super) fn value(writers: usize, limit: f64) -> Vec<Contest> {
    let what = format!("`append(Some(Value))`, {}", threads(writers, "writer"));
    let ours = trial(writers, ChangeLog::full(WINDOW), |log, events| {
        values(events, |value| log.append(ENTITY, ROW_ID, ringlog::ChangeKind::Insert, Some(value)));
    });
    let seed = trial(writers, Pylon::full(WINDOW), |pylon, events| {
        values(events, |value| pylon.log.append(ENTITY, ROW_ID, pylon_sync::ChangeKind::Insert, Some(value)));
    });
    let contest = Contest::new(Effort::for_threads(writers), ("ringlog", ours));
    vec![contest.against(&what, "pylon", seed, Some(limit))]
}

/// Sixteen events in one call against sixteen calls; times are for one event.
pub(super) fn batch(writers: usize, limit: f64) -> Vec<Contest> {
    const LENGTH: u64 = 16;
    let what = format!("batch of 16, an event, {}", threads(writers, "writer"));
    // What does not fill a call goes into a shorter one, once.
    let batches = trial(writers, ChangeLog::full(WINDOW), |log, events| {
        let changes = [(); LENGTH as usize].map(|()| Change::insert(ENTITY, ROW_ID).with_raw(data()));
        for _ in 0..events / LENGTH {
            black_box(log.append_batch(black_box(&changes)));
        }
        log.append_batch(&changes[..(events % LENGTH) as usize]);
    });
    let single = of(writers, ChangeLog::full(WINDOW));
    let contest = Contest::new(Effort::for_threads(writers), ("batch", batches));
    vec![contest.against(&what, "single append", single, Some(limit))]
}

/// Past the caches.
pub(super) fn long(window: usize) -> Vec<Contest> {
    let what = &format!("append, window {window}");
    let contest = Contest::new(Effort::for_threads(1), ("ringlog", of(1, ChangeLog::full(window)))).against(
        what,
        "window of 10,000",
        of(1, ChangeLog::full(WINDOW)),
        None,
    );
    if window > 1_000_000 {
        return vec![contest];
    }
    vec![contest.against(what, "mutex", of(1, Plain::full(window)), None)]
}
