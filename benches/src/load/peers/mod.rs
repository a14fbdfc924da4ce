//! The contenders that are loaded.

mod broadcast;
mod plain;
mod pylon;
mod ringlog;

use super::args::{Load, PeerName};
use crate::Result;
use ringlog_replay::input::Op;
use std::time::Duration;

/// Takes batches from any number of writers, and lets any number read.
pub(super) trait Peer: Sync {
    /// A writer's way in.
    fn writer(&self) -> Box<dyn Writer + '_>;

    /// A reader's way in, which begins with the next event.
    fn reader(&self) -> Box<dyn Reader + '_>;

    /// No writer will append any more: wakes sleeping readers. Returns what the contender says of
    /// itself.
    fn close(&self) -> Account;
}

/// One writer.
pub(super) trait Writer {
    /// Appends a batch, the first event under the row id given here, if there is one.
    fn append(&mut self, batch: &[Op], marked: Option<&str>);
}

/// One reader.
pub(super) trait Reader {
    /// The next events, each row id and its bytes handed to `each`. Waits for the first of them for
    /// so long; with no time to wait it only looks.
    fn next(&mut self, wait: Duration, each: &mut dyn FnMut(&str, u64)) -> Progress;
}

/// How far a read got.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Progress {
    pub(super) read: u64,
    /// Events that the reader was told it had missed.
    pub(super) lost: u64,
}

/// What a contender says of itself in the end.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Account {
    /// Seqs given out, if it knows.
    pub(super) appended: Option<u64>,
    /// Events that were dropped because their writer was a lap late.
    pub(super) superseded: u64,
}

/// The most that is read at a time.
const LIMIT: usize = 256;

/// The row id of each event of a batch: the first may be replaced.
fn row_ids<'a>(batch: &'a [Op], marked: Option<&'a str>) -> impl Iterator<Item = (&'a Op, &'a str)> {
    batch
        .iter()
        .enumerate()
        .map(move |(place, event)| (event, marked.filter(|_| place == 0).unwrap_or(&event.row_id)))
}

/// A contender of this name.
pub(super) fn make(name: PeerName, load: &Load) -> Result<Box<dyn Peer>> {
    let window = load.window as usize;
    Ok(match name {
        PeerName::Ringlog => Box::new(ringlog::Log::new(window, load.slot)?),
        PeerName::Mutex => Box::new(plain::Queue::new(window)),
        PeerName::Broadcast => Box::new(broadcast::Channel::new(window)),
        PeerName::Pylon => Box::new(pylon::Seed::new(window, true)),
        PeerName::PylonBare => Box::new(pylon::Seed::new(window, false)),
    })
}
