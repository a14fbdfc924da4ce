//! Rows about waiting.

use super::Sheet;
use crate::wake::{
    Contender, follow_broadcast, follow_ringlog, in_turns, task_append_notify, task_notify, task_ringlog,
    thread_append_condvar, thread_condvar, thread_event_listener, thread_ringlog,
};

/// A line for each percentile, against the second contender, and for each further one to inform.
fn percentiles(
    sheet: &mut Sheet,
    what: &str,
    rounds: u64,
    contenders: &[Contender<'_>],
    lines: &[(f64, Option<f64>)],
) {
    let histograms = in_turns(contenders, rounds);
    for (place, (name, _)) in contenders.iter().enumerate().skip(1) {
        for (percentile, limit) in lines {
            let [ours, theirs] = [0, place].map(|place| histograms[place].value_at_percentile(*percentile));
            let limit = limit.filter(|_| place == 1);
            let what = format!("{what}, p{percentile}");
            sheet.figures(&what, "ns", ours as f64, (name, theirs as f64), limit);
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
    percentiles(sheet, "wake-up of a parked thread", 8_000, &contenders, &[(50.0, Some(1.1)), (99.0, None)]);
}

/// A task.
pub(super) fn task(sheet: &mut Sheet) {
    let contenders: [Contender<'_>; 3] =
        [("ringlog", &task_ringlog), ("Notify", &task_notify), ("append, then Notify", &task_append_notify)];
    percentiles(sheet, "wake-up of a parked task", 8_000, &contenders, &[(50.0, Some(1.1)), (99.0, None)]);
}

/// A follower, with more threads than cores.
pub(super) fn follow(sheet: &mut Sheet) {
    let contenders: [Contender<'_>; 2] = [("ringlog", &follow_ringlog), ("broadcast", &follow_broadcast)];
    let lines = [(99.0, Some(1.2)), (50.0, None), (99.9, None)];
    percentiles(sheet, "append → parked follower, writers ≥ cores", 16_000, &contenders, &lines);
}
