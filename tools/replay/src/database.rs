//! The server's own store, where a reader that lost its place finds a snapshot.
//!
//! A log with a short window cannot serve a reader that fell behind it; such a reader starts over
//! from a copy of the data. The recipe is any server's:
//!
//! 1. A writer stores a change here *before* it appends it to the log.
//! 2. A snapshot takes [`ChangeLog::head`] first and copies the rows second.
//!
//! So all that the log shows up to that head is in the copy. The copy may be newer, and the reader
//! then meets some changes again; meeting them in order leaves the same rows.

#![forbid(unsafe_code)]

use crate::fold::Fold;
use parking_lot::RwLock;
use ringlog::ChangeLog;
use ringlog_replay::input::Op;

/// All rows; each writer has its own part of them.
#[derive(Debug)]
pub(crate) struct Database {
    parts: Vec<RwLock<Fold>>,
}

impl Database {
    /// An empty store for so many writers.
    pub(crate) fn new(writers: usize) -> Self {
        Self { parts: (0..writers).map(|_| RwLock::default()).collect() }
    }

    /// Stores changes of one writer's rows.
    pub(crate) fn store(&self, writer: usize, ops: &[&Op]) {
        let mut part = self.parts[writer].write();
        for op in ops {
            part.apply(&op.entity, &op.row_id, op.kind, op.text());
        }
    }

    /// Copies all rows; with the seq from which to follow the log on.
    pub(crate) fn snapshot(&self, log: &ChangeLog) -> (Fold, u64) {
        let head = log.head();
        let mut rows = Fold::default();
        for part in &self.parts {
            rows.absorb(part.read().clone());
        }
        (rows, head)
    }
}
