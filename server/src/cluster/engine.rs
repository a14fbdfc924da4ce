//! The stream that gives all frames their order, as the rest of the cluster sees it.
//!
//! A stream holds messages at dense positions: 1, 2, … A message that is stored never changes and
//! never moves. Messages are removed from the beginning only.

use bytes::Bytes;
use futures_util::stream::BoxStream;
use std::future::Future;
use std::path::Path;
use thiserror::Error;

/// A message of the stream.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Message {
    pub(crate) position: u64,
    pub(crate) frame: Bytes,
}

/// Where the stream begins and ends. If it is empty, `first` is `last` + 1.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Extent {
    pub(crate) first: u64,
    pub(crate) last: u64,
    /// The size of its messages, and the most that it may have.
    pub(crate) bytes: u64,
    pub(crate) max_bytes: u64,
}

/// Why a publication is not acknowledged.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub(crate) enum PublishError {
    /// Not stored, and never will be: the stream is full.
    #[error("the stream is full: {0}")]
    Full(String),
    /// Not stored, and never will be: too large, not permitted, or the like.
    #[error("the stream refuses the message: {0}")]
    Refused(String),
    /// Not stored, and never will be: no server has taken the message. One may take the next.
    #[error("no server takes the message: {0}")]
    NotSent(String),
    /// May be stored, now or later: a timeout, or a lost connection.
    #[error("the stream may or may not hold the message: {0}")]
    Unknown(String),
}

/// Why the stream cannot be read or purged now.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("{0}")]
pub(crate) struct EngineError(pub(crate) String);

/// The stream. All methods may be called at the same time.
pub(crate) trait Engine: Send + Sync + 'static {
    /// Stores a message at the end. Returns its position once a quorum holds it.
    fn publish(&self, frame: Bytes) -> impl Future<Output = Result<u64, PublishError>> + Send;

    /// Messages in order from a position on, as many as come at once: their count and their bytes
    /// are bounded. Empty at the end of the stream. Where the stream begins later than `from`, so
    /// does the answer.
    fn read(&self, from: u64) -> impl Future<Output = Result<Vec<Message>, EngineError>> + Send;

    /// Where the stream begins and ends, as its leader knows it. A leader that was cut off answers
    /// as well, until it knows that another one leads: then the stream goes on after that end.
    fn extent(&self) -> impl Future<Output = Result<Extent, EngineError>> + Send;

    /// What is stored from now on, as soon as it is. Some messages may be missing or come twice.
    fn subscribe(&self) -> impl Future<Output = Result<BoxStream<'static, Message>, EngineError>> + Send;

    /// Goes on with another server, if there is one: this one answers, and is behind.
    fn change_server(&self) -> impl Future<Output = ()> + Send;

    /// Removes the messages below a position.
    fn purge_below(&self, position: u64) -> impl Future<Output = Result<(), EngineError>> + Send;
}

/// Snapshots of nodes, by position, kept beside the stream.
pub(crate) trait Snapshots: Send + Sync + 'static {
    /// The positions of those that are whole, in order.
    fn list(&self) -> impl Future<Output = Result<Vec<u64>, EngineError>> + Send;

    /// Keeps the contents of a file.
    fn put(&self, position: u64, file: &Path) -> impl Future<Output = Result<(), EngineError>> + Send;

    /// Writes one to a file.
    fn get(&self, position: u64, file: &Path) -> impl Future<Output = Result<(), EngineError>> + Send;

    fn delete(&self, position: u64) -> impl Future<Output = Result<(), EngineError>> + Send;
}
