//! What all requests share.

use crate::auth::Access;
#[cfg(feature = "cluster")]
use crate::cluster::ClusterStatus;
use crate::config::Config;
use crate::store::disk::DiskReader;
use ringlog_axum::metrics::Gauge;
use std::sync::Arc;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;

/// The server, as requests see it.
pub(crate) struct App {
    pub(crate) config: Config,
    /// The log and its store.
    pub(crate) sync: Arc<ringlog_axum::app::App>,
    /// The reader of the store, where that is on disk: backups are made of it.
    pub(crate) disk: Option<Arc<DiskReader>>,
    /// With `--cluster`.
    #[cfg(feature = "cluster")]
    pub(crate) cluster: Option<Arc<ClusterStatus>>,
    pub(crate) access: Arc<Access>,
    /// One permit for each connection.
    pub(crate) connections: Arc<Semaphore>,
    /// The applier has ended: nothing can be pushed any more.
    pub(crate) failed: CancellationToken,
}

impl App {
    /// The number of open connections.
    pub(crate) fn open_connections(&self) -> usize {
        self.config.max_connections - self.connections.available_permits()
    }

    /// The figures of this moment, for `/metrics`.
    pub(crate) fn gauges(&self) -> Vec<Gauge> {
        let connections = ("connections", "Open connections", self.open_connections() as u64);
        [connections].into_iter().chain(self.sync.gauges()).collect()
    }
}
