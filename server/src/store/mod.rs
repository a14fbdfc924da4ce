//! Where the rows are kept: three small traits, and two providers of them.
//!
//! - [`Store`] is the applier's: it commits groups of pushes, one after the other.
//! - [`Reader`] is for requests: it takes snapshots, from any thread, and waits for no disk.
//! - [`Snapshot`] is the rows of one moment, and their latest changes in the order of seqs.
//!
//! [`memory`] keeps nothing after the process ends. [`disk`] keeps everything in one file. Opening
//! a provider gives a store, a reader and the log that goes on where the store ends. Both pass one
//! suite of tests, `conformance`.

#[cfg(test)]
mod conformance;
pub(crate) mod disk;
mod error;
pub(crate) mod memory;

pub use error::StoreError;

use ringlog::{ChangeKind, Filter, PushClaim, RowState};
use serde_json::value::RawValue;
use std::ops::ControlFlow;
use std::sync::Arc;

/// Commits what is pushed. One thread has it, the applier.
pub(crate) trait Store: Send {
    /// Commits the changes of these claims, all or none: rows, events and op ids. The first event
    /// gets `first_seq`, the others the seqs that follow. They are kept when this returns, for as
    /// long as the provider keeps anything.
    fn commit(&mut self, first_seq: u64, claims: &[&PushClaim<'_>]) -> Result<(), CommitError>;

    /// One row as of the last commit; the default if it is not there.
    fn row(&self, entity: &str, row_id: &str) -> Result<RowState, StoreError>;

    /// Makes the store usable after a commit that failed. Returns the last seq that is committed,
    /// which tells what became of that commit.
    fn recover(&mut self) -> Result<u64, StoreError>;

    /// Checks that the store can take commits again.
    fn probe(&mut self) -> Result<(), StoreError>;
}

/// Takes snapshots.
pub(crate) trait Reader: Send + Sync {
    /// The rows as of the last commit.
    fn snapshot(&self) -> Result<Arc<dyn Snapshot>, StoreError>;
}

/// The rows of one moment. It stays as it is, whatever is committed meanwhile.
pub(crate) trait Snapshot: Send + Sync {
    /// The seq up to which every change is in the rows.
    fn last_seq(&self) -> u64;

    /// Calls `each` for the rows after a key (entity, row id), in the order of keys, until it
    /// breaks.
    fn scan(
        &self,
        after: Option<(&str, &str)>,
        each: &mut dyn FnMut(Row<'_>) -> ControlFlow<()>,
    ) -> Result<(), StoreError>;

    /// Calls `each` for the latest change of each row, also of those that were deleted, with seqs
    /// after `after` and below `end`, in the order of seqs, until it breaks.
    fn changes(
        &self,
        after: u64,
        end: u64,
        filter: Option<&Filter>,
        each: &mut dyn FnMut(LatestChange<'_>) -> ControlFlow<()>,
    ) -> Result<(), StoreError>;

    /// The oldest seq that a reader may go on with from [`changes`](Self::changes): the tombstones
    /// of what was deleted before it may be dropped.
    fn oldest_compacted_seq(&self) -> u64;
}

/// The latest change of a row.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct LatestChange<'a> {
    pub(crate) seq: u64,
    pub(crate) timestamp_millis: u64,
    pub(crate) kind: ChangeKind,
    pub(crate) entity: &'a str,
    pub(crate) row_id: &'a str,
    pub(crate) data: Option<&'a str>,
}

/// One row of a snapshot.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[expect(clippy::struct_field_names, reason = "row_id is the word of the API")]
pub(crate) struct Row<'a> {
    pub(crate) entity: &'a str,
    pub(crate) row_id: &'a str,
    /// The seq of its last change.
    pub(crate) seq: u64,
    pub(crate) data: Option<&'a str>,
}

/// A commit that failed. The store must [recover](Store::recover) before the next one.
#[derive(Debug)]
pub(crate) struct CommitError {
    /// Whether it is certain that nothing was written: it failed before the commit began.
    pub(crate) nothing_written: bool,
    pub(crate) error: StoreError,
}

/// A row that is there, with data that is JSON.
pub(crate) fn row_state(seq: u64, data: Option<&str>) -> RowState {
    RowState { seq, data: data.and_then(|data| RawValue::from_string(data.to_owned()).ok()) }
}
