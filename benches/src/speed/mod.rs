//! The table of targets, measured.
//!
//! # Method
//!
//! A machine is never the same twice, and a virtual one not even for a second. So nothing is
//! compared with a figure from another run. The contenders of a row take turns, in runs of some
//! milliseconds, many times over, and the order of the turns rotates: see [`alternate()`]. For each
//! turn the ratio of two contenders' times is taken, and what is judged is the *median* of these
//! ratios. A disturbance hits one run or both of a pair; either way it moves one ratio among many.
//! The quartiles of the ratios are in the JSON: where they lie far apart, believe nothing.
//!
//! Percentiles of wake-ups ([`crate::wake`]) are those of each turn, and are compared like its
//! time. Where a turn has too few operations, and in the module `readers`, they come from the
//! histogram of all turns together.
//!
//! A measured thing is never a closure that might be optimised away: each contender counts what it
//! took and is asked for its contents in the end ([`crate::contender::Trial`],
//! [`crate::op_ids::Trial`]).

mod alternate;
mod append;
mod memory;
mod op_ids;
mod readers;
mod reads;
mod sheet;
mod waiting;

pub use alternate::{Contestant, Effort, Figures, alternate};
pub use memory::MemoryFigures;
pub(crate) use sheet::amount;
pub use sheet::{Format, Line, Sheet};

use std::path::Path;

/// What rows may need to know.
#[derive(Debug, Clone, Copy)]
pub struct Setting<'a> {
    /// The program `memory`, which counts allocations.
    pub memory: Option<&'a Path>,
}

/// A row of the table: what its name is, and how it is measured.
pub type Row = (&'static str, fn(&mut Sheet, &Setting<'_>));

/// What an append of JSON text is compared with, and the limit of the ratio where there is one.
type Targets = [(&'static str, Option<f64>); 5];

const APPEND_1: Targets = [
    ("mutex", Some(0.6)),
    ("broadcast", Some(0.4)),
    ("pylon", Some(0.1)),
    ("fetch_add", Some(4.5)),
    ("limit", None),
];
const APPEND_2: Targets = [
    ("mutex", Some(0.75)),
    ("broadcast", None),
    ("pylon", Some(0.12)),
    ("fetch_add", None),
    ("limit", Some(1.6)),
];
const APPEND_4: Targets =
    [("mutex", Some(0.5)), ("broadcast", None), ("pylon", Some(0.12)), ("fetch_add", None), ("limit", None)];

/// `1 writer`, `2 writers`.
fn threads(count: usize, noun: &str) -> String {
    format!("{count} {noun}{}", if count == 1 { "" } else { "s" })
}

/// All rows, in the order in which they are run and printed.
pub const ROWS: &[Row] = &[
    ("append/1", |sheet, _| append::text(sheet, 1, &APPEND_1)),
    ("append/2", |sheet, _| append::text(sheet, 2, &APPEND_2)),
    ("append/4", |sheet, _| append::text(sheet, 4, &APPEND_4)),
    ("append-value/1", |sheet, _| append::value(sheet, 1, 0.9)),
    ("append-value/2", |sheet, _| append::value(sheet, 2, 0.25)),
    ("batch/1", |sheet, _| append::batch(sheet, 1, 0.6)),
    ("batch/2", |sheet, _| append::batch(sheet, 2, 0.25)),
    ("read", |sheet, _| reads::read(sheet)),
    ("json", |sheet, _| reads::json(sheet)),
    ("pull/10000", |sheet, _| reads::pull(sheet, 10_000, 1.0)),
    ("pull/100000", |sheet, _| reads::pull(sheet, 100_000, 0.15)),
    ("flat", |sheet, _| reads::flat(sheet)),
    ("readers", |sheet, _| readers::readers(sheet)),
    ("has-seen/1", |sheet, _| op_ids::has_seen(sheet, 1, 0.8)),
    ("has-seen/4", |sheet, _| op_ids::has_seen(sheet, 4, 0.2)),
    ("claim/1", |sheet, _| op_ids::claim(sheet, 1, 1.2)),
    ("claim/4", |sheet, _| op_ids::claim(sheet, 4, 0.5)),
    ("wake/thread", |sheet, _| waiting::thread(sheet)),
    ("wake/task", |sheet, _| waiting::task(sheet)),
    ("follow", |sheet, _| waiting::follow(sheet)),
    ("memory", |sheet, setting| memory::memory(sheet, setting.memory)),
    ("window/1000000", |sheet, _| append::long(sheet, 1_000_000)),
    ("window/10000000", |sheet, _| append::long(sheet, 10_000_000)),
];
