//! The table of targets, measured.
//!
//! # Method
//!
//! A machine is never the same twice, and a virtual one not even for a second. So nothing is
//! compared with a figure from another run. The contenders of a row take turns, in runs of some
//! milliseconds, many times over, and the order of the turns rotates: see [`Contest`]. For each
//! turn the ratio of two contenders' times is taken, and what is judged is the *median* of these
//! ratios. A disturbance hits one run or both of a pair; either way it moves one ratio among many.
//! The quartiles of the ratios are in the JSON: where they lie far apart, believe nothing.
//!
//! Percentiles of wake-ups ([`crate::wake`]) are those of each turn, and are compared like its
//! time. Where a turn has too few operations, and in the module `readers`, they come from the
//! histogram of all turns together.
//!
//! A measured thing is never a closure that might be optimised away: each contender counts what it
//! took and is asked for its contents in the end ([`crate::contender::trial`],
//! [`crate::op_ids::Trial`]).

mod append;
mod contest;
mod op_ids;
mod readers;
mod reads;
mod sheet;
mod waiting;

pub use contest::{Comparison, Contest, Effort, Figures};
pub use sheet::Sheet;
pub(crate) use sheet::amount;

use std::collections::BTreeMap;
use std::process::Command;

/// How a row of the table is measured.
pub enum Row {
    /// By contenders in turns.
    Contests(fn() -> Vec<Contest>),
    /// Otherwise.
    Other(fn(&mut Sheet)),
}

use Row::{Contests, Other};

/// All rows by their names, in the order in which they are run and printed.
pub const ROWS: &[(&str, Row)] = &[
    // The limits are those against mutex, broadcast, pylon, `fetch_add` and limit.
    ("append/1", Contests(|| append::text(1, [Some(0.6), Some(0.4), Some(0.1), Some(4.5), None]))),
    ("append/2", Contests(|| append::text(2, [Some(0.75), None, Some(0.12), None, Some(1.6)]))),
    ("append/4", Contests(|| append::text(4, [Some(0.5), None, Some(0.12), None, None]))),
    ("append-value/1", Contests(|| append::value(1, 0.9))),
    ("append-value/2", Contests(|| append::value(2, 0.25))),
    ("batch/1", Contests(|| append::batch(1, 0.6))),
    ("batch/2", Contests(|| append::batch(2, 0.25))),
    ("read", Contests(reads::read)),
    ("json", Contests(reads::json)),
    ("pull/10000", Contests(|| reads::pull(10_000, 1.0))),
    ("pull/100000", Contests(|| reads::pull(100_000, 0.15))),
    ("flat", Contests(reads::flat)),
    ("readers", Other(readers::readers)),
    ("has-seen/1", Contests(|| op_ids::has_seen(1, 0.8))),
    ("has-seen/4", Contests(|| op_ids::has_seen(4, 0.2))),
    ("claim/1", Contests(|| op_ids::claim(1, 1.2))),
    ("claim/4", Contests(|| op_ids::claim(4, 0.5))),
    ("wake/thread", Other(waiting::thread)),
    ("wake/task", Other(waiting::task)),
    ("follow", Other(waiting::follow)),
    ("memory", Other(memory)),
    ("window/1000000", Contests(|| append::long(1_000_000))),
    ("window/10000000", Contests(|| append::long(10_000_000))),
];

/// `1 writer`, `2 writers`.
fn threads(count: usize, noun: &str) -> String {
    format!("{count} {noun}{}", if count == 1 { "" } else { "s" })
}

/// What the program `memory` says of each contender: bytes an event, and allocations an append.
pub type MemoryFigures = BTreeMap<String, [f64; 2]>;

/// Memory comes from a program of its own: counting every allocation would cost the contenders that
/// allocate, and only those.
fn memory(sheet: &mut Sheet) {
    let Some(program) = &sheet.memory else {
        return sheet.unmeasured("it takes a second program; `cargo xtask speed` builds both");
    };
    let output = Command::new(program).arg("--json").output().expect("the program runs");
    assert!(output.status.success(), "{}: {}", program.display(), String::from_utf8_lossy(&output.stderr));
    let figures: MemoryFigures = serde_json::from_slice(&output.stdout).expect("JSON");
    let ([bytes, allocations], mutex) = (figures["ringlog"], figures["mutex"]);
    sheet.figures("memory, window 10000", "B/event", bytes, ("300 B", 300.0), Some(1.0));
    sheet.figures("memory, window 10000", "B/event", bytes, ("mutex", mutex[0]), None);
    // A segment that is retired takes a node of the collector's: once in 256 appends.
    sheet.figures("allocations an append", "", allocations, ("1/200", 1.0 / 200.0), Some(1.0));
    sheet.figures("allocations an append", "", allocations, ("mutex", mutex[1]), None);
}
