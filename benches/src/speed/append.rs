//! Rows about appending.

use super::{Effort, Figures, Sheet, alternate, threads};
use crate::contender::{Contender, Trial};
use crate::contenders::{Batches, Broadcast, Counter, Limit, Plain, Pylon, Ringlog, Values};
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

/// JSON text in, against each of these with its limit, if it has one.
pub(super) fn text(sheet: &mut Sheet, writers: usize, targets: &[(&'static str, Option<f64>)]) {
    let figures = turns(
        writers,
        &[
            ("ringlog", &Ringlog::full(WINDOW)),
            ("mutex", &Plain::full(WINDOW)),
            ("broadcast", &Broadcast::default()),
            ("pylon", &Pylon::full(WINDOW)),
            ("fetch_add", &Counter::default()),
            ("limit", &Limit::default()),
        ],
    );
    let what = format!("append, JSON text in, {}", threads(writers, "writer"));
    for (theirs, limit) in targets {
        sheet.turns(&what, &figures, ["ringlog", theirs], *limit);
    }
}

/// The seed's own call, with a value made for each event.
pub(super) fn value(sheet: &mut Sheet, writers: usize, limit: f64) {
    let (ringlog, pylon) = (Values::of(Ringlog::full(WINDOW)), Values::of(Pylon::full(WINDOW)));
    let figures = turns(writers, &[("ringlog", &ringlog), ("pylon", &pylon)]);
    let what = format!("append(Some(Value)), {}", threads(writers, "writer"));
    sheet.turns(&what, &figures, ["ringlog", "pylon"], Some(limit));
}

/// Sixteen events in one call against sixteen calls; times are for one event.
pub(super) fn batch(sheet: &mut Sheet, writers: usize, limit: f64) {
    let figures = turns(writers, &[("batch", &Batches::full()), ("single append", &Ringlog::full(WINDOW))]);
    let what = format!("batch of 16, an event, {}", threads(writers, "writer"));
    sheet.turns(&what, &figures, ["batch", "single append"], Some(limit));
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
