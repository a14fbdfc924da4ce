//! Where the rows are kept: three small traits, and a provider of them.
//!
//! - [`Store`] is the applier's: it commits groups of pushes, one after the other.
//! - [`Reader`] is for requests: it takes snapshots, from any thread, and waits for no disk.
//! - [`Snapshot`] is the rows of one moment, and their latest changes in the order of seqs.
//!
//! [`memory`] keeps nothing after the process ends. Opening a provider gives a store and the log
//! that goes on where the store ends. Every provider passes one suite of tests,
//! `conformance`.

mod error;
pub(crate) mod memory;

pub use error::StoreError;

use ringlog::{ChangeKind, Filter, PushClaim, RowState};
use serde_json::value::RawValue;
use std::ops::ControlFlow;
use std::sync::Arc;
use std::time::Duration;

/// Commits what is pushed. One thread has it, the applier.
///
/// # What a store keeps
///
/// - The rows, each with the seq of its last change.
/// - The latest events, at least those of the log's window.
/// - The latest op ids, each with its client id, its seq and the fingerprint of its change.
/// - The latest change of each row, also of those that were deleted not long ago.
/// - The log's incarnation, and the last seq.
///
/// All that belongs to a commit is written in one transaction.
///
/// # Restoring
///
/// When it is opened, a store makes the log that goes on where it ends:
///
/// 1. [`ChangeLog::builder`](ringlog::ChangeLog::builder) with the incarnation, and with the seq
///    before the first stored event as `base_seq`.
/// 2. [`ChangeLog::restore`](ringlog::ChangeLog::restore) for each event, in their order.
/// 3. [`ChangeLog::restore_op_id`](ringlog::ChangeLog::restore_op_id) for each op id, in the order
///    of seqs.
///
/// Clients go on from their cursors then, and what they push again is known.
pub trait Store: Send {
    /// What takes snapshots of this store.
    fn reader(&self) -> Arc<dyn Reader>;

    /// The seq before the first one that the store ever had: that of its log when both were new.
    fn base_seq(&self) -> u64 {
        0
    }

    /// Whether commits neither wait nor fail. They are made on the threads that push then, one at a
    /// time; else on a thread of their own.
    fn is_immediate(&self) -> bool {
        false
    }

    /// Commits the changes of these claims, all or none: rows, events and op ids. The first event
    /// gets `first_seq`, the others the seqs that follow. They are kept when this returns, for as
    /// long as the provider keeps anything.
    ///
    /// # Errors
    /// What failed, and whether anything may be written. The store is [recovered](Self::recover)
    /// before the next commit.
    fn commit(&mut self, first_seq: u64, claims: &[&PushClaim<'_>]) -> Result<(), CommitError>;

    /// One row as of the last commit; the default if it is not there.
    ///
    /// # Errors
    /// The database cannot be read.
    fn row(&self, entity: &str, row_id: &str) -> Result<RowState, StoreError>;

    /// Makes the store usable after a commit that failed. Returns the last seq that is committed,
    /// which tells what became of that commit.
    ///
    /// # Errors
    /// The store cannot be used yet. Unless the error is [final](StoreError::is_final), this is
    /// called again later.
    fn recover(&mut self) -> Result<u64, StoreError>;

    /// Checks that the store can take commits again.
    ///
    /// # Errors
    /// It cannot. Pushes are refused, and this is called again later.
    fn probe(&mut self) -> Result<(), StoreError>;
}

/// How many deletes a store tells to readers whose cursor is older than the window.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Tombstones {
    /// The most deletes.
    pub most: usize,
    /// For how long each is told.
    pub age: Duration,
}

impl Default for Tombstones {
    /// A million, for 30 days.
    fn default() -> Self {
        Self { most: 1_000_000, age: Duration::from_secs(30 * 86_400) }
    }
}

/// Takes snapshots.
pub trait Reader: Send + Sync {
    /// The rows as of the last commit.
    ///
    /// # Errors
    /// The database cannot be read.
    fn snapshot(&self) -> Result<Arc<dyn Snapshot>, StoreError>;
}

/// The rows of one moment. It stays as it is, whatever is committed meanwhile.
pub trait Snapshot: Send + Sync {
    /// The seq up to which every change is in the rows.
    fn last_seq(&self) -> u64;

    /// Calls `each` for the rows after a key (entity, row id), in the order of keys, until it
    /// breaks.
    ///
    /// # Errors
    /// The database cannot be read.
    fn scan(
        &self,
        after: Option<(&str, &str)>,
        each: &mut dyn FnMut(Row<'_>) -> ControlFlow<()>,
    ) -> Result<(), StoreError>;

    /// Calls `each` for the latest change of each row, also of those that were deleted, with seqs
    /// after `after` and below `end`, in the order of seqs, until it breaks.
    ///
    /// # Errors
    /// The database cannot be read.
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
pub struct LatestChange<'a> {
    /// The seq of the change.
    pub seq: u64,
    /// When it was applied, in milliseconds since 1970.
    pub timestamp_millis: u64,
    /// What happened to the row.
    pub kind: ChangeKind,
    /// The kind of row.
    pub entity: &'a str,
    /// Which of them.
    pub row_id: &'a str,
    /// JSON. None if the row has none, or is deleted.
    pub data: Option<&'a str>,
}

/// One row of a snapshot.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Row<'a> {
    /// The kind of row.
    pub entity: &'a str,
    /// Which of them.
    pub row_id: &'a str,
    /// The seq of its last change.
    pub seq: u64,
    /// JSON. None if the row has none, or is deleted.
    pub data: Option<&'a str>,
}

/// A commit that failed. The store must [recover](Store::recover) before the next one.
#[derive(Debug)]
pub struct CommitError {
    /// Whether it is certain that nothing was written: it failed before the commit began.
    pub nothing_written: bool,
    /// Why.
    pub error: StoreError,
}

/// A row that is there, with data that is JSON.
pub fn row_state(seq: u64, data: Option<&str>) -> RowState {
    RowState { seq, data: data.and_then(|data| RawValue::from_string(data.to_owned()).ok()) }
}
