//! What the load generator asks of a contender: writers of batches, and readers that wait.

use ringlog_replay::input::Op;
use std::time::Duration;

/// Takes batches from any number of writers, and lets any number read.
pub trait Peer: Sync {
    /// A writer's way in.
    fn writer(&self) -> Box<dyn Writer + '_>;

    /// A reader's way in, which begins with the next event.
    fn reader(&self) -> Box<dyn Reader + '_>;

    /// No writer will append any more: wakes sleeping readers. Returns what the contender says of
    /// itself.
    fn close(&self) -> Account;
}

/// One writer.
pub trait Writer {
    /// Appends a batch, the first event under the row id given here, if there is one.
    fn append(&mut self, batch: &[Op], marked: Option<&str>);
}

/// One reader.
pub trait Reader {
    /// The next events, each row id and its bytes handed to `each`. Waits for the first of them for
    /// so long; with no time to wait it only looks.
    fn next(&mut self, wait: Duration, each: &mut dyn FnMut(&str, u64)) -> Progress;
}

/// How far a read got.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Progress {
    /// Events read.
    pub read: u64,
    /// Events that the reader was told it had missed.
    pub lost: u64,
}

/// What a contender says of itself in the end.
#[derive(Debug, Clone, Copy, Default)]
pub struct Account {
    /// Seqs given out, if it knows.
    pub appended: Option<u64>,
    /// Events that were dropped because their writer was a lap late.
    pub superseded: u64,
}

/// The most that is read at a time.
pub(crate) const LIMIT: usize = 256;

/// The row id of each event of a batch: the first may be replaced.
pub(crate) fn row_ids<'a>(
    batch: &'a [Op],
    marked: Option<&'a str>,
) -> impl Iterator<Item = (&'a Op, &'a str)> {
    batch
        .iter()
        .enumerate()
        .map(move |(place, event)| (event, marked.filter(|_| place == 0).unwrap_or(&event.row_id)))
}
