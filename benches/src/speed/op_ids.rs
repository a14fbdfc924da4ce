//! Rows about op ids.

use super::{Effort, Sheet, alternate};
use crate::op_ids::{Claims, Seen, Trial};
use parking_lot::Mutex;
use ringlog::ChangeLog;

/// Ids that are not there, in a full window.
pub(super) fn has_seen(sheet: &mut Sheet, threads: usize, limit: f64) {
    let (log, set) = (ChangeLog::new(), Mutex::new(Seen::default()));
    let pylon = pylon_sync::ChangeLog::new();
    let trials = [Trial::new(&log), Trial::new(&set), Trial::new(&pylon)];
    let [ours, theirs, seed] = trials.each_ref().map(|trial| move |ids| trial.has_seen(threads, ids, false));
    let figures = alternate(
        Effort::for_threads(threads),
        &[("ringlog", &ours), ("Mutex<HashSet>", &theirs), ("pylon", &seed)],
    );
    let what = format!("has_seen_op_id, absent, {threads} thread{}", if threads == 1 { "" } else { "s" });
    sheet.turns(&what, &figures, ["ringlog", "Mutex<HashSet>"], Some(limit));
    sheet.turns(&what, &figures, ["ringlog", "pylon"], None);
}

/// New ids, in a full window.
pub(super) fn claim(sheet: &mut Sheet, threads: usize, limit: f64) {
    let (log, map) = (ChangeLog::new(), Mutex::new(Claims::default()));
    let pylon = pylon_sync::ChangeLog::new();
    let trials = [Trial::new(&log), Trial::new(&map), Trial::new(&pylon)];
    let [ours, theirs, seed] = trials.each_ref().map(|trial| move |ids| trial.claim(threads, ids));
    let figures = alternate(
        Effort::for_threads(threads),
        &[("ringlog", &ours), ("Mutex<HashMap>", &theirs), ("pylon", &seed)],
    );
    let what = format!("claim + complete, {threads} thread{}", if threads == 1 { "" } else { "s" });
    sheet.turns(&what, &figures, ["ringlog", "Mutex<HashMap>"], Some(limit));
    sheet.turns(&what, &figures, ["ringlog", "pylon"], None);
}
