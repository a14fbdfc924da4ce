//! Rows about waiting.

use super::{Figures, Sheet};
use crate::wake::{
    Contender, follow_broadcast, follow_ringlog, in_turns, pooled, task_append_notify, task_notify,
    task_ringlog, thread_append_condvar, thread_condvar, thread_event_listener, thread_ringlog,
};
use hdrhistogram::Histogram;

/// How many operations of a turn must lie above a percentile for the turn to have one.
const ENOUGH: f64 = 4.0;

/// A line for each percentile, against the second contender, and for each further one to inform.
///
/// Compared are percentiles of turns, or of all turns together where a turn has too few operations.
fn percentiles(
    sheet: &mut Sheet,
    what: &str,
    (turns, rounds): (usize, u64),
    contenders: &[Contender<'_>],
    lines: &[(f64, Option<f64>)],
) {
    let histograms = in_turns(contenders, turns, rounds);
    let names: Vec<_> = contenders.iter().map(|(name, _)| *name).collect();
    for (place, name) in names.iter().enumerate().skip(1) {
        for (percentile, limit) in lines {
            let at = |times: &Histogram<u64>| times.value_at_percentile(*percentile) as f64;
            let limit = limit.filter(|_| place == 1);
            let what = format!("{what}, p{percentile}");
            if (1.0 - percentile / 100.0) * (rounds as f64) < ENOUGH {
                let [ours, theirs] = [0, place].map(|place| at(&pooled(&histograms[place])));
                sheet.figures(&what, "ns", ours, (name, theirs), limit);
            } else {
                let nanos = histograms.iter().map(|turns| turns.iter().map(at).collect()).collect();
                sheet.turns(&what, &Figures::new(names.clone(), nanos), [names[0], name], limit);
            }
        }
    }
}

/// A thread.
pub(super) fn thread(sheet: &mut Sheet) {
    let contenders: [Contender<'_>; 4] = [
        ("ringlog", &thread_ringlog),
        ("Condvar", &thread_condvar),
        ("append, then Condvar", &thread_append_condvar),
        ("event-listener", &thread_event_listener),
    ];
    percentiles(
        sheet,
        "wake-up of a parked thread",
        (100, 120),
        &contenders,
        &[(50.0, Some(1.1)), (99.0, None)],
    );
}

/// A task.
pub(super) fn task(sheet: &mut Sheet) {
    let contenders: [Contender<'_>; 3] =
        [("ringlog", &task_ringlog), ("Notify", &task_notify), ("append, then Notify", &task_append_notify)];
    percentiles(
        sheet,
        "wake-up of a parked task",
        (100, 120),
        &contenders,
        &[(50.0, Some(1.1)), (99.0, None)],
    );
}

/// A follower, with more threads than cores.
pub(super) fn follow(sheet: &mut Sheet) {
    let contenders: [Contender<'_>; 2] = [("ringlog", &follow_ringlog), ("broadcast", &follow_broadcast)];
    let lines = [(99.0, Some(1.2)), (50.0, None), (99.9, None)];
    percentiles(sheet, "append → parked follower, writers ≥ cores", (40, 500), &contenders, &lines);
}
