//! What all requests share.

use crate::echo::Echoes;
use crate::envelope::Push;
use crate::error::ApiError;
use crate::history::History;
use crate::limits::Limits;
use crate::metrics::{Gauge, Metrics};
use crate::peers::Peers;
use crate::sequencer::{Refused, Sequencer};
use crate::share::{Pushing, Room, Sending};
use crate::snapshots::{MAX_PAGE_BYTES, SnapshotCache};
use crate::store::{Reader, Snapshot};
use crate::subscriber::Live;
use crate::tickets::Tickets;
use arc_swap::ArcSwapOption;
use ringlog::{ChangeLog, Cursor, PushResponse};
use std::fmt;
use std::sync::Arc;
use std::time::Duration;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// What an [`App`] is made of.
#[expect(missing_debug_implementations, reason = "parts that are moved on at once")]
pub struct Parts {
    pub limits: Limits,
    pub log: Arc<ChangeLog>,
    /// The seq before the first one of this log.
    pub base_seq: u64,
    pub reader: Arc<dyn Reader>,
    pub echoes: Option<Arc<Echoes>>,
    pub sequencer: Sequencer,
    /// Other servers of the same log, if there are any.
    pub peers: Option<Arc<dyn Peers>>,
    pub metrics: Arc<Metrics>,
    /// Cancelled when the server is asked to stop.
    pub stopping: CancellationToken,
    /// What is waited for when it stops.
    pub tasks: TaskTracker,
}

/// The log and its store, as requests see them.
pub struct App {
    pub limits: Limits,
    pub log: Arc<ChangeLog>,
    /// None once it is closed.
    sequencer: ArcSwapOption<Sequencer>,
    pub(crate) reader: Arc<dyn Reader>,
    pub(crate) snapshots: Arc<SnapshotCache>,
    pub(crate) history: Arc<History>,
    pub(crate) peers: Option<Arc<dyn Peers>>,
    pub(crate) echoes: Option<Arc<Echoes>>,
    pub tickets: Arc<Tickets>,
    pub(crate) live: Arc<Live>,
    pub metrics: Arc<Metrics>,
    pub(crate) pushing: Pushing,
    pub(crate) sending: Sending,
    /// The server is asked to stop: what lasts long ends.
    pub stopping: CancellationToken,
    /// What goes on beside requests: web sockets, and what was spawned here.
    pub tasks: TaskTracker,
}

impl fmt::Debug for App {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("App").field("limits", &self.limits).finish_non_exhaustive()
    }
}

impl App {
    /// Puts the parts together, and starts to sweep snapshots that have expired.
    pub fn new(parts: Parts) -> Arc<Self> {
        let Parts { limits, log, base_seq, reader, echoes, sequencer, peers, metrics, stopping, tasks } =
            parts;
        let snapshots =
            Arc::new(SnapshotCache::new(limits.max_snapshots, limits.snapshot_ttl, limits.snapshot_max_age));
        let history = Arc::new(History::new(&log, &reader, base_seq, echoes.as_ref()));
        tasks.spawn(Arc::clone(&snapshots).sweep(Arc::clone(&log), stopping.clone()));
        Arc::new(Self {
            snapshots,
            live: Arc::new(Live::new(&log, &history, echoes.as_ref(), &limits, &stopping)),
            history,
            peers,
            echoes,
            tickets: Arc::new(Tickets::new(limits.max_tickets, limits.ticket_ttl)),
            pushing: Pushing::new(limits.max_pushing),
            sending: Sending::new(limits.max_sending, MAX_PAGE_BYTES.saturating_add(limits.max_body)),
            stopping,
            tasks,
            limits,
            log,
            sequencer: ArcSwapOption::from_pointee(sequencer),
            reader,
            metrics,
        })
    }

    /// Takes no more pushes. The applier ends when those that wait are applied.
    pub(crate) fn close(&self) {
        self.sequencer.store(None);
    }

    /// Whether the store takes pushes.
    pub fn is_writable(&self) -> bool {
        self.sequencer.load().as_ref().is_some_and(|sequencer| sequencer.is_writable())
    }

    /// The number of pushes that wait.
    pub fn pushes_waiting(&self) -> usize {
        self.sequencer.load().as_ref().map_or(0, |sequencer| sequencer.waiting())
    }

    /// Applies a push. What it applied is visible when this returns.
    pub(crate) async fn push(&self, push: Push) -> Result<PushResponse, ApiError> {
        // What comes back from the stream needs no quorum to be told once more.
        if let Some(answer) = self.peers.as_ref().and_then(|_| push.replay(&self.log)) {
            return Ok(answer);
        }
        let sequencer = self.sequencer.load_full().ok_or_else(stopping)?;
        sequencer.push(push).await.map_err(|refused| match refused {
            Refused::Busy => ApiError::unavailable("BUSY", "too many pushes wait: nothing was applied"),
            Refused::ReadOnly(why) => {
                ApiError::unavailable("STORE_FULL", format!("{why}: nothing was applied"))
            }
            Refused::NoQuorum(why) => {
                ApiError::unavailable("NO_QUORUM", format!("{why}: nothing was applied"))
            }
            Refused::LogFull(why) => ApiError::unavailable("LOG_FULL", format!("{why}: nothing was applied")),
            Refused::Stale => ApiError::unavailable(
                "NODE_STALE",
                "this node was too far behind the others: nothing was applied",
            ),
            Refused::Ended => ApiError::unavailable(
                "OUTCOME_UNKNOWN",
                "whether it was applied is not known: push again under the same op ids",
            ),
        })
    }

    /// How old what is read now may be: all that was acknowledged anywhere before is in it. A
    /// server alone is never behind.
    pub(crate) fn stale_for(&self) -> Duration {
        self.peers.as_ref().map_or(Duration::ZERO, |peers| peers.stale_for())
    }

    /// Waits until this server has what a client has seen on another one. Such a cursor is ahead of
    /// this log, and no reason to start over.
    pub(crate) async fn reach(&self, cursor: Cursor) -> Result<(), ApiError> {
        /// How long a client waits for a node that is behind.
        const BEHIND: Duration = Duration::from_secs(2);
        let Some(peers) = &self.peers else { return Ok(()) };
        let is_other = cursor.incarnation.is_some_and(|incarnation| incarnation != self.log.incarnation());
        if is_other || cursor.seq <= self.log.head() || History::is_place(cursor) {
            return Ok(());
        }
        let reached = async {
            tokio::select! {
                _ = self.log.wait_for(cursor.seq) => {}
                // The log has it, or never gave it out.
                () = peers.fresh() => {}
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
            () = self.stopping.cancelled() => Err(stopping()),
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

    /// The number of live streams.
    pub fn streams(&self) -> usize {
        self.live.streams()
    }

    /// How many events each live stream that follows everything is behind the head, in order.
    pub fn lags(&self) -> Vec<u64> {
        self.live.lags()
    }

    /// The number of snapshots held for clients that page through them.
    pub fn snapshots_held(&self) -> usize {
        self.snapshots.len()
    }

    /// The oldest seq that a reader may go on with.
    ///
    /// # Errors
    /// Those of the store.
    pub async fn oldest_compacted_seq(&self) -> Result<u64, ApiError> {
        self.history.oldest_compacted_seq().await
    }

    /// The figures of this moment, for Prometheus.
    pub fn gauges(&self) -> Vec<Gauge> {
        let of_peers = self.peers.iter().flat_map(|peers| peers.gauges());
        of_peers.chain(self.own_gauges()).collect()
    }

    fn own_gauges(&self) -> [Gauge; 6] {
        [
            ("subscribers", "Live streams", self.streams() as u64),
            (
                "lag_max",
                "Events that the furthest of the unfiltered live streams is behind",
                self.lags().last().copied().unwrap_or(0),
            ),
            (
                "snapshots_held",
                "Snapshots held for clients that page through them",
                self.snapshots_held() as u64,
            ),
            ("pushes_waiting", "Pushes that wait to be applied", self.pushes_waiting() as u64),
            (
                "store_writable",
                "1 if the store takes pushes, 0 if it is read-only",
                self.is_writable().into(),
            ),
            ("capacity", "Capacity of the window in events", self.limits.capacity as u64),
        ]
    }
}

/// What is answered while the server stops.
fn stopping() -> ApiError {
    ApiError::unavailable("STOPPING", "the server is stopping")
}
