//! What all requests share.

use crate::auth::Access;
#[cfg(feature = "cluster")]
use crate::cluster::ClusterStatus;
use crate::config::Config;
use crate::echo::Echoes;
use crate::envelope::Push;
use crate::error::ApiError;
use crate::history::History;
use crate::metrics::{Gauge, Metrics};
use crate::sequencer::{Refused, Sequencer};
use crate::share::{Pushing, Room, Sending};
use crate::snapshots::SnapshotCache;
use crate::store::disk::DiskReader;
use crate::store::{Reader, Snapshot};
use crate::subscriber::Live;
#[cfg(feature = "cluster")]
use ringlog::Cursor;
use ringlog::{ChangeLog, PushResponse};
use std::sync::Arc;
#[cfg(feature = "cluster")]
use std::time::Duration;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// The server, as requests see it.
pub(crate) struct App {
    pub(crate) config: Config,
    pub(crate) log: Arc<ChangeLog>,
    pub(crate) sequencer: Sequencer,
    pub(crate) reader: Arc<dyn Reader>,
    /// The reader again, where the store is on disk: backups are made of it.
    pub(crate) disk: Option<Arc<DiskReader>>,
    pub(crate) snapshots: Arc<SnapshotCache>,
    pub(crate) history: Arc<History>,
    /// With `--cluster`.
    #[cfg(feature = "cluster")]
    pub(crate) cluster: Option<Arc<ClusterStatus>>,
    /// With `--echo`.
    pub(crate) echoes: Option<Arc<Echoes>>,
    pub(crate) access: Arc<Access>,
    pub(crate) live: Arc<Live>,
    pub(crate) metrics: Arc<Metrics>,
    /// One permit for each connection.
    pub(crate) connections: Arc<Semaphore>,
    pub(crate) pushing: Pushing,
    pub(crate) sending: Sending,
    /// The server is asked to stop: what lasts long ends.
    pub(crate) stopping: CancellationToken,
    /// The applier has ended: nothing can be pushed any more.
    pub(crate) failed: CancellationToken,
    /// What goes on beside the accepting of connections: these, and web sockets.
    pub(crate) tasks: TaskTracker,
}

impl App {
    /// The number of open connections.
    pub(crate) fn open_connections(&self) -> usize {
        self.config.max_connections - self.connections.available_permits()
    }

    /// Applies a push. What it applied is visible when this returns.
    pub(crate) async fn push(&self, push: Push) -> Result<PushResponse, ApiError> {
        // What comes back from the stream needs no quorum to be told once more.
        #[cfg(feature = "cluster")]
        if let Some(answer) = self.cluster.as_ref().and_then(|_| push.replay(&self.log)) {
            return Ok(answer);
        }
        self.sequencer.push(push).await.map_err(|refused| match refused {
            Refused::Busy => ApiError::unavailable("BUSY", "too many pushes wait: nothing was applied"),
            Refused::ReadOnly(why) => {
                ApiError::unavailable("STORE_FULL", format!("{why}: nothing was applied"))
            }
            #[cfg(feature = "cluster")]
            Refused::NoQuorum(why) => {
                ApiError::unavailable("NO_QUORUM", format!("{why}: nothing was applied"))
            }
            #[cfg(feature = "cluster")]
            Refused::LogFull(why) => ApiError::unavailable("LOG_FULL", format!("{why}: nothing was applied")),
            #[cfg(feature = "cluster")]
            Refused::Stale => ApiError::unavailable(
                "NODE_STALE",
                "this node was too far behind the others: nothing was applied",
            ),
            Refused::Ended => ApiError::unavailable(
                "OUTCOME_UNKNOWN",
                "the store failed or the server stopped: push again under the same op ids",
            ),
        })
    }

    /// Waits until this node has what a client has seen on another one. Such a cursor is ahead of
    /// this log, and no reason to start over.
    #[cfg(feature = "cluster")]
    pub(crate) async fn reach(&self, cursor: Cursor) -> Result<(), ApiError> {
        /// How long a client waits for a node that is behind.
        const BEHIND: Duration = Duration::from_secs(2);
        let Some(cluster) = &self.cluster else { return Ok(()) };
        let is_other = cursor.incarnation.is_some_and(|incarnation| incarnation != self.log.incarnation());
        if is_other || cursor.seq <= self.log.head() || History::is_place(cursor) {
            return Ok(());
        }
        let reached = async {
            tokio::select! {
                _ = self.log.wait_for(cursor.seq) => {}
                // The log has it, or never gave it out.
                () = cluster.is_fresh() => {}
            }
        };
        tokio::time::timeout(BEHIND, reached).await.map_err(|_| {
            let head = self.log.head();
            let message = format!("this node is at seq {head}, and the cursor is {}", cursor.seq);
            ApiError::unavailable("NODE_BEHIND", message)
        })
    }

    /// Room for a page. A server that stops does not wait for it: those that have it may not read.
    pub(crate) async fn room(&self) -> Result<Room, ApiError> {
        tokio::select! {
            biased;
            room = self.sending.room() => Ok(room),
            () = self.stopping.cancelled() => {
                Err(ApiError::unavailable("STOPPING", "the server is stopping"))
            }
        }
    }

    /// The rows as they are now, or a moment later.
    pub(crate) async fn snapshot(&self) -> Result<Arc<dyn Snapshot>, ApiError> {
        let reader = Arc::clone(&self.reader);
        let snapshot = tokio::task::spawn_blocking(move || reader.snapshot()).await;
        let snapshot = snapshot.map_err(|error| ApiError::internal(&error))?;
        let snapshot = snapshot.map_err(|error| ApiError::internal(&error))?;
        // Rows are committed before they are in the log: no client gets a cursor ahead of it.
        let _ = self.log.wait_for(snapshot.last_seq()).await;
        Ok(snapshot)
    }

    /// The figures of this moment, for `/metrics`.
    pub(crate) fn gauges(&self) -> Vec<Gauge> {
        #[cfg(feature = "cluster")]
        let cluster = self.cluster.iter().flat_map(|cluster| cluster.gauges());
        #[cfg(not(feature = "cluster"))]
        let cluster = std::iter::empty();
        cluster.chain(self.own_gauges()).collect()
    }

    fn own_gauges(&self) -> [Gauge; 7] {
        [
            ("connections", "Open connections", self.open_connections() as u64),
            ("subscribers", "Live streams", self.live.streams() as u64),
            (
                "lag_max",
                "Events that the furthest of the unfiltered live streams is behind",
                self.live.lags().last().copied().unwrap_or(0),
            ),
            (
                "snapshots_held",
                "Snapshots held for clients that page through them",
                self.snapshots.len() as u64,
            ),
            ("pushes_waiting", "Pushes that wait to be applied", self.sequencer.waiting() as u64),
            (
                "store_writable",
                "1 if the store takes pushes, 0 if it is read-only",
                self.sequencer.is_writable().into(),
            ),
            ("capacity", "Capacity of the window in events", self.config.capacity as u64),
        ]
    }
}
