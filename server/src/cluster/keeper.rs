//! The keeper: makes snapshots, and removes from the stream what they cover, but for a half.
//!
//! A snapshot is a backup of a node's store with its position. A node whose position the stream
//! does not have any more, a new one above all, starts with the latest and goes on in the stream.
//! Each node may make one; two nodes that do so at a time make two good ones, close to each other.
//! So what is removed does not depend on how many there are, but on how far back one is: the stream
//! keeps half of its frames at least. One more is kept after that one, so that one that cannot be
//! read harms nothing.

use super::engine::{Engine, EngineError, Extent, Snapshots};
use super::frame::Claim;
use crate::store::StoreError;
use crate::store::disk::{self, DiskReader};
use ringlog::Incarnation;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use tokio::sync::watch;

/// The interval at which the stream's size is looked at, and a random part more, so that one node
/// is the first.
const INTERVAL: Duration = Duration::from_secs(5);

/// A snapshot is due when so large a part of the stream's room is used, and half of its frames
/// follow the snapshot before. A node that is behind, by less than half of that part, goes on
/// without a snapshot.
const USED: u64 = 4;

/// The file of a snapshot on its way.
const FILE: &str = "ringlog.snapshot";

/// Why there is no snapshot.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SnapshotError {
    #[error(transparent)]
    Engine(#[from] EngineError),
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error("the stream begins at position {0}, and there is no snapshot that reaches it")]
    None(u64),
}

/// Makes snapshots of a node for as long as it runs.
pub(crate) struct Keeper<E> {
    pub(crate) engine: Arc<E>,
    pub(crate) reader: Arc<DiskReader>,
    pub(crate) applied: watch::Receiver<Claim>,
    /// The position of the latest snapshot that is known.
    pub(crate) latest: Arc<AtomicU64>,
}

impl<E: Engine + Snapshots> Keeper<E> {
    pub(crate) async fn run(self) {
        loop {
            let random = Duration::from_millis(getrandom::u64().unwrap_or(0) % INTERVAL.as_millis() as u64);
            tokio::time::sleep(INTERVAL + random).await;
            if let Err(error) = self.look().await {
                tracing::warn!(%error, "no snapshot was made; trying again");
            }
        }
    }

    /// Makes a snapshot if one is due.
    async fn look(&self) -> Result<(), SnapshotError> {
        let Extent { first, last, bytes, max_bytes } = self.engine.extent().await?;
        let positions = self.engine.list().await?;
        let latest = positions.last().copied().unwrap_or(0);
        self.latest.store(latest, Ordering::Relaxed);
        let position = self.applied.borrow().position;
        if bytes >= max_bytes / USED && position.saturating_sub(latest) > half(first, last) {
            self.make().await?;
            self.tidy(first, last).await?;
        }
        Ok(())
    }

    async fn make(&self) -> Result<(), SnapshotError> {
        let file = self.reader.folder().join(FILE);
        let (reader, to) = (Arc::clone(&self.reader), file.clone());
        let position = blocking(move || disk::write_node_snapshot(&reader, &to)).await?;
        self.engine.put(position, &file).await?;
        let _ = tokio::fs::remove_file(&file).await;
        tracing::info!(position, "made a snapshot");
        Ok(())
    }

    /// Removes from the stream what the oldest snapshot that is needed covers, and older snapshots.
    async fn tidy(&self, first: u64, last: u64) -> Result<(), SnapshotError> {
        let positions = self.engine.list().await?;
        self.latest.store(positions.last().copied().unwrap_or(0), Ordering::Relaxed);
        let Some(oldest) = oldest_needed(&positions, first, last) else { return Ok(()) };
        for old in positions.into_iter().filter(|position| *position < oldest) {
            self.engine.delete(old).await?;
        }
        self.engine.purge_below(oldest + 1).await?;
        Ok(())
    }
}

/// Half of the frames of a stream.
fn half(first: u64, last: u64) -> u64 {
    (last + 1 - first) / 2
}

/// The latest of these snapshots that half of the frames follow.
fn oldest_needed(positions: &[u64], first: u64, last: u64) -> Option<u64> {
    let far =
        positions.iter().copied().filter(|position| last.saturating_sub(*position) >= half(first, last));
    far.max()
}

/// Makes the store of a node anew from the latest snapshot that is whole, reaches the beginning of
/// the stream, and is not ahead of its end: the stream was rolled back then.
pub(crate) async fn load(
    engine: &impl Snapshots,
    (data, stream): (&Path, Incarnation),
    Extent { first, last, .. }: Extent,
) -> Result<(), SnapshotError> {
    let positions = engine.list().await?;
    let reach = positions.into_iter().rev().filter(|position| (first - 1..=last).contains(position));
    let mut failed = None;
    for position in reach {
        match load_one(engine, (data, stream), position).await {
            Ok(()) => return Ok(()),
            Err(error) => {
                tracing::warn!(%error, position, "a snapshot cannot be used; trying the one before");
                failed = Some(error);
            }
        }
    }
    Err(failed.unwrap_or(SnapshotError::None(first)))
}

async fn load_one(
    engine: &impl Snapshots,
    (data, stream): (&Path, Incarnation),
    position: u64,
) -> Result<(), SnapshotError> {
    let file = data.join(FILE);
    engine.get(position, &file).await?;
    let (from, data) = (file.clone(), data.to_owned());
    blocking(move || disk::restore_node(&from, &data, stream)).await?;
    let _ = tokio::fs::remove_file(&file).await;
    tracing::info!(position, "started with a snapshot");
    Ok(())
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, StoreError> + Send + 'static,
) -> Result<T, SnapshotError> {
    let done = tokio::task::spawn_blocking(work).await;
    Ok(done.map_err(|error| EngineError(error.to_string()))??)
}

#[cfg(test)]
mod tests {
    use super::oldest_needed;

    #[test]
    fn half_of_the_frames_stay_when_two_nodes_make_snapshots_at_a_time() {
        assert_eq!(oldest_needed(&[100], 1, 100), None);
        assert_eq!(oldest_needed(&[100, 200], 1, 201), Some(100));
        assert_eq!(oldest_needed(&[100, 200, 201], 1, 202), Some(100));
        assert_eq!(oldest_needed(&[100, 200, 201, 302], 101, 302), Some(201));
    }

    #[test]
    fn a_snapshot_of_a_stream_that_was_rolled_back_removes_nothing() {
        assert_eq!(oldest_needed(&[500], 1, 100), None);
    }
}
