//! Rows about appending.

use super::{Effort, Figures, Sheet, alternate};
use crate::contender::{Contender, Trial};
use crate::contenders::{
    Batches, Broadcast, Counter, Limit, Plain, Profiled, Pylon, Ringlog, Ungated, Values,
};
use crate::workload::WINDOW;
use std::time::Duration;

/// Contenders that append the workload, in turns.
fn turns(writers: usize, contenders: &[(&'static str, &dyn Contender)]) -> Figures {
    let trials: Vec<_> = contenders
        .iter()
        .map(|(name, contender)| {
            let trial = Trial::new(*contender);
            (*name, move |events| trial.append(writers, events))
        })
        .collect();
    let contestants: Vec<super::Contestant<'_>> =
        trials.iter().map(|(name, run)| (*name, run as &dyn Fn(u64) -> Duration)).collect();
    alternate(Effort::for_threads(writers), &contestants)
}

/// One writer.
pub(super) fn one(sheet: &mut Sheet) {
    let figures = turns(
        1,
        &[
            ("ringlog", &Ringlog::full(WINDOW)),
            ("mutex", &Plain::full(WINDOW)),
            ("broadcast", &Broadcast::default()),
            ("pylon", &Pylon::full(WINDOW)),
            ("fetch_add", &Counter::default()),
            ("limit", &Limit::default()),
        ],
    );
    let what = "append, JSON text in, 1 writer";
    for (theirs, limit) in [("mutex", 0.6), ("broadcast", 0.4), ("pylon", 0.1), ("fetch_add", 4.5)] {
        sheet.turns(what, &figures, ["ringlog", theirs], Some(limit));
    }
    sheet.turns(what, &figures, ["ringlog", "limit"], None);
}

/// Two writers.
pub(super) fn two(sheet: &mut Sheet) {
    let figures = turns(
        2,
        &[
            ("ringlog", &Ringlog::full(WINDOW)),
            ("mutex", &Plain::full(WINDOW)),
            ("broadcast", &Broadcast::default()),
            ("pylon", &Pylon::full(WINDOW)),
            ("fetch_add", &Counter::default()),
            ("limit", &Limit::default()),
        ],
    );
    let what = "append, 2 writers";
    for (theirs, limit) in [("mutex", 0.75), ("pylon", 0.12), ("limit", 1.6)] {
        sheet.turns(what, &figures, ["ringlog", theirs], Some(limit));
    }
    for theirs in ["broadcast", "fetch_add"] {
        sheet.turns(what, &figures, ["ringlog", theirs], None);
    }
}

/// Four writers, on however many cores there are.
pub(super) fn four(sheet: &mut Sheet) {
    let figures = turns(
        4,
        &[
            ("ringlog", &Ringlog::full(WINDOW)),
            ("mutex", &Plain::full(WINDOW)),
            ("broadcast", &Broadcast::default()),
            ("pylon", &Pylon::full(WINDOW)),
        ],
    );
    let what = "append, 4 writers";
    for (theirs, limit) in [("mutex", Some(0.5)), ("pylon", Some(0.12)), ("broadcast", None)] {
        sheet.turns(what, &figures, ["ringlog", theirs], limit);
    }
}

/// The seed's own call, with a value made for each event.
pub(super) fn value(sheet: &mut Sheet, writers: usize, limit: f64) {
    let (ringlog, pylon) = (Values::of(Ringlog::full(WINDOW)), Values::of(Pylon::full(WINDOW)));
    let figures = turns(writers, &[("ringlog", &ringlog), ("pylon", &pylon)]);
    let what = format!("append(Some(Value)), {writers} writer{}", if writers == 1 { "" } else { "s" });
    sheet.turns(&what, &figures, ["ringlog", "pylon"], Some(limit));
}

/// Sixteen events in one call against sixteen calls; times are for one event.
pub(super) fn batch(sheet: &mut Sheet, writers: usize, limit: f64) {
    let figures = turns(writers, &[("batch", &Batches::full()), ("single append", &Ringlog::full(WINDOW))]);
    let what = format!("batch of 16, an event, {writers} writer{}", if writers == 1 { "" } else { "s" });
    sheet.turns(&what, &figures, ["batch", "single append"], Some(limit));
}

/// With the look for waiters, and without it.
pub(super) fn nobody_waiting(sheet: &mut Sheet) {
    let figures = turns(1, &[("ringlog", &Ringlog::full(WINDOW)), ("ungated", &Ungated::full(WINDOW))]);
    sheet.turns("append, nobody waiting", &figures, ["ringlog", "ungated"], Some(1.35));
}

/// With the feature `profile`, and without it.
pub(super) fn profile(sheet: &mut Sheet) {
    let figures = turns(1, &[("profiled", &Profiled::full(WINDOW)), ("plain", &Ringlog::full(WINDOW))]);
    sheet.turns("append with the feature `profile`", &figures, ["profiled", "plain"], None);
}

/// Past the caches.
pub(super) fn long(sheet: &mut Sheet, window: usize) {
    let mut contenders: Vec<(&'static str, Box<dyn Contender>)> = vec![
        ("ringlog", Box::new(Ringlog::full(window))),
        ("window of 10,000", Box::new(Ringlog::full(WINDOW))),
    ];
    if window <= 1_000_000 {
        contenders.push(("mutex", Box::new(Plain::full(window))));
    }
    let contenders: Vec<(&'static str, &dyn Contender)> =
        contenders.iter().map(|(name, contender)| (*name, &**contender)).collect();
    let figures = turns(1, &contenders);
    for (theirs, _) in &contenders[1..] {
        sheet.turns(&format!("append, window {window}"), &figures, ["ringlog", theirs], None);
    }
}
