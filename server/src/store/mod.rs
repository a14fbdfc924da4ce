//! Where the rows are kept: [`disk`] keeps everything in one file. Without one,
//! [`MemoryStore`](ringlog_axum::MemoryStore) keeps nothing after the process ends.

#[cfg(test)]
mod conformance;
pub(crate) mod disk;
mod error;

pub use error::StoreError;
pub(crate) use ringlog_axum::{CommitError, LatestChange, Reader, Row, Snapshot, Store, row_state};
