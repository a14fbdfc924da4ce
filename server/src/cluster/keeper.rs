//! The keeper: makes snapshots, and removes from the stream what they cover, but for a half.
//!
//! A snapshot is a backup of a node's store with its position. A node whose position the stream
//! does not have any more, a new one above all, starts with the latest and goes on in the stream.
//! Each node may make one; two nodes that do so at a time make two good ones, close to each other.
//! So what is removed does not depend on how many there are, but on how far back one is: the stream
//! keeps half of its frames at least. One more is kept after that one, so that one that cannot be
//! read harms nothing.
//!
//! Either may fail, again and again: a leader dies, the network is cut. Both are tried at each
//! look. A stream that is three quarters full all the same is short of room: then each look makes
//! a snapshot, and two of them are enough, how many nodes are behind them. A stream that is full
//! takes no frame, so that nothing that waits for frames may be waited for.

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

    /// Makes a snapshot if one is due, and removes what is covered.
    async fn look(&self) -> Result<(), SnapshotError> {
        let extent = self.engine.extent().await?;
        let mut positions = self.engine.list().await?;
        let latest = positions.last().copied().unwrap_or(0);
        self.latest.store(latest, Ordering::Relaxed);
        if extent.bytes < extent.max_bytes / USED {
            return Ok(());
        }
        let position = self.applied.borrow().position;
        if position.saturating_sub(latest) > half(extent) || (is_short(extent) && position > latest) {
            positions.push(self.make().await?);
        }
        self.tidy(&positions, extent).await
    }

    /// Makes a snapshot, and returns its position.
    async fn make(&self) -> Result<u64, SnapshotError> {
        let file = self.reader.folder().join(FILE);
        let (reader, to) = (Arc::clone(&self.reader), file.clone());
        let position = blocking(move || disk::write_node_snapshot(&reader, &to)).await?;
        self.engine.put(position, &file).await?;
        let _ = tokio::fs::remove_file(&file).await;
        tracing::info!(position, "made a snapshot");
        self.latest.fetch_max(position, Ordering::Relaxed);
        Ok(position)
    }

    /// Removes from the stream what the oldest snapshot that is needed covers, and older snapshots.
    async fn tidy(&self, positions: &[u64], extent: Extent) -> Result<(), SnapshotError> {
        let Some(oldest) = oldest_needed(positions, extent) else { return Ok(()) };
        for old in positions.iter().filter(|position| **position < oldest) {
            self.engine.delete(*old).await?;
        }
        Ok(self.engine.purge_below(oldest + 1).await?)
    }
}

/// Half of the frames of a stream.
fn half(Extent { first, last, .. }: Extent) -> u64 {
    (last + 1 - first) / 2
}

/// Whether the stream is short of room.
fn is_short(Extent { bytes, max_bytes, .. }: Extent) -> bool {
    bytes >= max_bytes / 4 * 3
}

/// The latest of these snapshots that half of the frames follow; if the stream is short of room,
/// the last but one.
fn oldest_needed(positions: &[u64], extent: Extent) -> Option<u64> {
    let known: Vec<_> = positions.iter().copied().filter(|position| *position <= extent.last).collect();
    let far = known.iter().rfind(|position| extent.last - **position >= half(extent));
    let last_but_one = known.iter().rev().nth(1).or(known.last()).filter(|_| is_short(extent));
    far.max(last_but_one).copied()
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
    use super::*;
    use crate::cluster::engine::{Message, PublishError};
    use crate::cluster::machine::Memory;
    use crate::config::Config;
    use crate::start::builder;
    use bytes::Bytes;
    use futures_util::StreamExt;
    use futures_util::stream::BoxStream;
    use std::sync::Mutex;

    /// A stream with room for as much again, or for nothing more.
    fn extent(first: u64, last: u64, is_full: bool) -> Extent {
        Extent { first, last, bytes: 100, max_bytes: if is_full { 100 } else { 200 } }
    }

    #[test]
    fn half_of_the_frames_stay_when_two_nodes_make_snapshots_at_a_time() {
        let oldest = |positions: &[u64], first, last| oldest_needed(positions, extent(first, last, false));
        assert_eq!(oldest(&[100], 1, 100), None);
        assert_eq!(oldest(&[100, 200], 1, 201), Some(100));
        assert_eq!(oldest(&[100, 200, 201], 1, 202), Some(100));
        assert_eq!(oldest(&[100, 200, 201, 302], 101, 302), Some(201));
    }

    #[test]
    fn a_stream_that_is_short_of_room_keeps_what_follows_the_last_snapshot_but_one() {
        let oldest = |positions: &[u64], first, last| oldest_needed(positions, extent(first, last, true));
        assert_eq!(oldest(&[], 1, 400), None);
        assert_eq!(oldest(&[390], 1, 400), Some(390));
        assert_eq!(oldest(&[300, 390], 1, 400), Some(300));
        assert_eq!(oldest(&[150, 190], 1, 400), Some(190));
    }

    #[test]
    fn a_snapshot_of_a_stream_that_was_rolled_back_removes_nothing() {
        assert_eq!(oldest_needed(&[500], extent(1, 100, false)), None);
        assert_eq!(oldest_needed(&[400, 500], extent(1, 100, true)), None);
    }

    /// A stream whose first purge fails.
    struct Purged {
        extent: Mutex<Extent>,
        failures: Mutex<u64>,
    }

    impl Engine for Purged {
        async fn publish(&self, _: Bytes) -> Result<u64, PublishError> {
            Err(PublishError::Full("no room".into()))
        }

        async fn read(&self, _: u64) -> Result<Vec<Message>, EngineError> {
            Ok(Vec::new())
        }

        async fn extent(&self) -> Result<Extent, EngineError> {
            Ok(*self.extent.lock().unwrap())
        }

        async fn subscribe(&self) -> Result<BoxStream<'static, Message>, EngineError> {
            Ok(futures_util::stream::pending().boxed())
        }

        async fn change_server(&self) {}

        async fn purge_below(&self, position: u64) -> Result<(), EngineError> {
            let mut failures = self.failures.lock().unwrap();
            if *failures > 0 {
                *failures -= 1;
                return Err(EngineError("no leader".into()));
            }
            self.extent.lock().unwrap().first = position;
            Ok(())
        }
    }

    impl Snapshots for Purged {
        async fn list(&self) -> Result<Vec<u64>, EngineError> {
            Ok(vec![100])
        }

        async fn put(&self, _: u64, _: &Path) -> Result<(), EngineError> {
            Ok(())
        }

        async fn get(&self, _: u64, _: &Path) -> Result<(), EngineError> {
            Ok(())
        }

        async fn delete(&self, _: u64) -> Result<(), EngineError> {
            Ok(())
        }
    }

    #[tokio::test]
    async fn a_purge_that_has_failed_is_tried_again_without_another_snapshot() {
        let folder = tempfile::tempdir().unwrap();
        let config = Config::default().with_data(folder.path());
        let node = (Incarnation::from_bytes([1; 16]), Memory::of_op_ids(1));
        let ((_store, reader, _), _) = disk::open_node(&config, builder(&config), node).unwrap();
        let stream = Purged { extent: Mutex::new(extent(1, 200, false)), failures: Mutex::new(1) };
        let keeper = Keeper {
            engine: Arc::new(stream),
            reader,
            applied: watch::channel(Claim { position: 200, hash: 0 }).1,
            latest: Arc::default(),
        };
        assert!(keeper.look().await.is_err());
        keeper.look().await.unwrap();
        assert_eq!(keeper.engine.extent().await.unwrap().first, 101);
    }
}
