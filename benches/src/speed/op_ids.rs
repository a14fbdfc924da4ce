//! Rows about op ids.

use super::{Effort, Sheet, alternate, threads};
use crate::op_ids::{Claims, OpIds, Seen, Trial};
use parking_lot::Mutex;
use ringlog::ChangeLog;
use std::time::Duration;

/// Ids that are not there, in a full window.
pub(super) fn has_seen(sheet: &mut Sheet, count: usize, limit: f64) {
    let set = Mutex::new(Seen::default());
    let what = format!("has_seen_op_id, absent, {}", threads(count, "thread"));
    let ask: Work = |trial, count, ids| trial.has_seen(count, ids, false);
    compare(sheet, &what, count, ("Mutex<HashSet>", &set), limit, ask);
}

/// New ids, in a full window.
pub(super) fn claim(sheet: &mut Sheet, count: usize, limit: f64) {
    let map = Mutex::new(<Claims>::default());
    let what = format!("claim + complete, {}", threads(count, "thread"));
    compare(sheet, &what, count, ("Mutex<HashMap>", &map), limit, |trial, count, ids| {
        trial.claim(count, ids)
    });
}

/// What so many threads do for so many ids.
type Work = fn(&Trial<'_>, usize, u64) -> Duration;

/// This crate against the plain program, which has the limit, and the seed.
fn compare(
    sheet: &mut Sheet,
    what: &str,
    count: usize,
    (name, plain): (&'static str, &dyn OpIds),
    limit: f64,
    work: Work,
) {
    let (log, pylon) = (ChangeLog::new(), pylon_sync::ChangeLog::new());
    let trials = [Trial::new(&log), Trial::new(plain), Trial::new(&pylon)];
    let [ours, theirs, seed] = trials.each_ref().map(|trial| move |ids| work(trial, count, ids));
    let figures =
        alternate(Effort::for_threads(count), &[("ringlog", &ours), (name, &theirs), ("pylon", &seed)]);
    sheet.turns(what, &figures, ["ringlog", name], Some(limit));
    sheet.turns(what, &figures, ["ringlog", "pylon"], None);
}
