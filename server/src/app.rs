//! What all requests share.

use crate::auth::Access;
use crate::config::Config;
use crate::envelope::Push;
use crate::error::ApiError;
use crate::folded::Folded;
use crate::frames::Frames;
use crate::metrics::Metrics;
use crate::share::{Pushing, Room, Sending};
use crate::store::Store;
use crate::subscriber::LagTracker;
use crate::tickets::Tickets;
use crate::views::{View, Views};
use crate::writer::{Refused, Writer};
use ringlog::{ChangeLog, Cursor, OpStatus, PushClaim, PushResponse};
use std::sync::Arc;
use std::time::Instant;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// The server, as requests see it.
pub(crate) struct App {
    pub(crate) config: Config,
    pub(crate) log: Arc<ChangeLog>,
    /// The seq before the first one of this log.
    pub(crate) base_seq: u64,
    pub(crate) pushes: Pushes,
    pub(crate) views: Views,
    pub(crate) tickets: Tickets,
    pub(crate) access: Access,
    pub(crate) frames: Frames,
    pub(crate) lag: LagTracker,
    pub(crate) metrics: Arc<Metrics>,
    /// One permit for each connection and each live stream.
    pub(crate) connections: Arc<Semaphore>,
    pub(crate) subscribers: Arc<Semaphore>,
    pub(crate) pushing: Pushing,
    pub(crate) sending: Sending,
    /// The server is asked to stop: what lasts long ends.
    pub(crate) stopping: CancellationToken,
    /// The writer has ended: nothing can be pushed any more.
    pub(crate) failed: CancellationToken,
    /// What goes on beside the accepting of connections: these, and web sockets.
    pub(crate) tasks: TaskTracker,
}

/// How changes get into the log, and where the rows are.
pub(crate) enum Pushes {
    /// Through the writer, into the store.
    Durable { writer: Writer, store: Arc<Store> },
    /// Straight into the log, from any thread; a follower keeps the rows.
    Memory { folded: Arc<Folded> },
}

impl Pushes {
    /// How many requests wait to be applied.
    pub(crate) fn waiting(&self) -> usize {
        match self {
            Self::Durable { writer, .. } => writer.waiting(),
            Self::Memory { .. } => 0,
        }
    }

    /// Whether pushes are taken, as far as the disk is concerned.
    pub(crate) fn is_writable(&self) -> bool {
        match self {
            Self::Durable { writer, .. } => writer.is_writable(),
            Self::Memory { .. } => true,
        }
    }
}

impl App {
    /// How many connections are open.
    pub(crate) fn open_connections(&self) -> usize {
        self.config.max_connections - self.connections.available_permits()
    }

    /// How many live streams there are.
    pub(crate) fn live_streams(&self) -> usize {
        self.config.max_subscribers - self.subscribers.available_permits()
    }

    /// Where to begin for a reader that stands at `cursor`. A bare 0 is that of a reader that has
    /// seen nothing: it begins with the first event of this log, whatever its seq.
    pub(crate) fn begin(&self, cursor: Cursor) -> Cursor {
        if cursor == Cursor::from(0) { Cursor::from(self.base_seq) } else { cursor }
    }

    /// Applies a push. What it applied is visible when this returns.
    pub(crate) async fn push(&self, push: Push) -> Result<PushResponse, ApiError> {
        let response = match &self.pushes {
            Pushes::Durable { writer, .. } => writer.push(push).await.map_err(|refused| match refused {
                Refused::Busy => ApiError::unavailable("BUSY", "too many pushes wait: nothing was applied"),
                Refused::ReadOnly(why) => {
                    ApiError::unavailable("STORE_FULL", format!("{why}: nothing was applied"))
                }
                Refused::Ended => ApiError::unavailable(
                    "OUTCOME_UNKNOWN",
                    "the store failed or the server stopped: push again under the same op ids",
                ),
            })?,
            Pushes::Memory { folded } => self.push_to_memory(folded, &push).await?,
        };
        if let Some(seq) = response.results.iter().filter_map(|result| result.seq).max() {
            // Handed out already: a closed log waits for it as well.
            let _ = self.log.wait_for(seq).await;
        }
        Ok(response)
    }

    async fn push_to_memory(&self, folded: &Folded, push: &Push) -> Result<PushResponse, ApiError> {
        let lengths = push.lengths();
        let room = folded.room(lengths.len(), lengths.iter().sum()).await;
        let room = room.ok_or_else(|| ApiError::unavailable("STOPPING", "the server is stopping"))?;
        let since = Instant::now();
        let response = push.claim(&self.log).map_or_else(|refusal| refusal, PushClaim::publish);
        let appended = response.applied - response.deduped;
        let applied =
            response.results.iter().zip(lengths).filter(|(result, _)| result.status == OpStatus::Applied);
        room.used(appended, applied.map(|(_, length)| length).sum());
        if appended > 0 {
            self.metrics.appended(response.cursor.last_seq, since);
        }
        Ok(response)
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
    pub(crate) async fn rows(&self) -> Result<View, ApiError> {
        let view = match &self.pushes {
            Pushes::Durable { store, .. } => {
                let store = Arc::clone(store);
                let rows = tokio::task::spawn_blocking(move || store.rows()).await;
                let rows = rows.map_err(|error| ApiError::internal(&error))?;
                View::Stored(rows.map_err(|error| ApiError::internal(&error))?)
            }
            Pushes::Memory { folded } => View::Folded(folded.rows(self.log.head()).await),
        };
        // Rows are committed before they are in the log: no client shall get a cursor ahead of it.
        let _ = self.log.wait_for(view.last_seq()).await;
        Ok(view)
    }
}
