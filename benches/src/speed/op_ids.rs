//! Rows about op ids.

use super::{Contest, Effort, threads};
use crate::contender::Run;
use crate::op_ids::{Claims, OpIds, Seen, Trial};
use parking_lot::Mutex;
use ringlog::ChangeLog;
use std::time::Duration;

/// Ids that are not there, in a full window.
pub(super) fn has_seen(count: usize, limit: f64) -> Vec<Contest> {
    let what = format!("`has_seen_op_id`, absent, {}", threads(count, "thread"));
    let mutex = ("`Mutex<HashSet>`", Mutex::new(Seen::default()));
    compare(&what, count, mutex, limit, Trial::has_seen)
}

/// New ids, in a full window.
pub(super) fn claim(count: usize, limit: f64) -> Vec<Contest> {
    let what = format!("claim + complete, {}", threads(count, "thread"));
    let mutex = ("`Mutex<HashMap>`", Mutex::new(<Claims>::default()));
    compare(&what, count, mutex, limit, Trial::claim)
}

/// This crate against the plain program, which has the limit, and the seed.
fn compare(
    what: &str,
    count: usize,
    (name, plain): (&'static str, impl OpIds + 'static),
    limit: f64,
    work: fn(&Trial, usize, u64) -> Duration,
) -> Vec<Contest> {
    let run = |contender: Box<dyn OpIds>| -> Run {
        let trial = Trial::new(contender);
        Box::new(move |ids| work(&trial, count, ids))
    };
    let contest = Contest::new(Effort::for_threads(count), ("ringlog", run(Box::new(ChangeLog::new()))))
        .against(what, name, run(Box::new(plain)), Some(limit))
        .against(what, "pylon", run(Box::new(pylon_sync::ChangeLog::new())), None);
    vec![contest]
}
