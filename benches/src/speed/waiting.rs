//! Rows about waiting.

use super::{Figures, Sheet};
use crate::timing::{histogram, in_turns};
use crate::wake::{FOLLOWERS, TASKS, THREADS, Waker};
use hdrhistogram::Histogram;

/// How many operations of a turn must lie above a percentile for the turn to have one.
const ENOUGH: f64 = 4.0;

/// A line for each percentile, against the second contender, and for each further one to inform.
///
/// Compared are percentiles of turns, or of all turns together where a turn has too few operations.
/// Each turn is on new threads: what the scheduler thinks of two threads, and on which processors
/// it puts them, changes from turn to turn.
fn percentiles(
    sheet: &mut Sheet,
    what: &str,
    (turns, rounds): (usize, u64),
    contenders: &[Waker],
    percentiles: &[(f64, Option<f64>)],
) {
    let histograms = in_turns(turns, &mut contenders.to_vec(), |(_, run)| {
        let times = run(rounds);
        assert_eq!(times.len(), rounds, "every round was measured");
        times
    });
    let names: Vec<_> = contenders.iter().map(|(name, _)| *name).collect();
    for (place, name) in names.iter().enumerate().skip(1) {
        for (percentile, limit) in percentiles {
            let at = |times: &Histogram<u64>| times.value_at_percentile(*percentile) as f64;
            let limit = limit.filter(|_| place == 1);
            let what = format!("{what}, p{percentile}");
            if (1.0 - percentile / 100.0) * (rounds as f64) < ENOUGH {
                let pooled = |turns: &Vec<_>| turns.iter().fold(histogram(), |all, turn| all + turn);
                let [ours, theirs] = [0, place].map(|place| at(&pooled(&histograms[place])));
                sheet.figures(&what, "ns", ours, (name, theirs), limit);
            } else {
                let nanos = histograms.iter().map(|turns| turns.iter().map(at).collect()).collect();
                sheet.turns(&what, &Figures { names: names.clone(), nanos }, [names[0], name], limit);
            }
        }
    }
}

/// A thread.
pub(super) fn thread(sheet: &mut Sheet) {
    let lines = [(50.0, Some(1.1)), (99.0, None)];
    percentiles(sheet, "wake-up of a parked thread", (100, 120), &THREADS, &lines);
}

/// A task.
pub(super) fn task(sheet: &mut Sheet) {
    let lines = [(50.0, Some(1.1)), (99.0, None)];
    percentiles(sheet, "wake-up of a parked task", (100, 120), &TASKS, &lines);
}

/// A follower, with more threads than cores.
pub(super) fn follow(sheet: &mut Sheet) {
    let lines = [(99.0, Some(1.2)), (50.0, None), (99.9, None)];
    percentiles(sheet, "append → parked follower, writers ≥ cores", (40, 500), &FOLLOWERS, &lines);
}
