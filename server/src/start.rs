//! What a server alone and a node of a cluster start with: the measures of the log, threads, and
//! why there is no start.

use crate::config::Config;
use crate::store::StoreError;
use ringlog::{Builder, ChangeLog, ConfigError};
use std::io;
use std::thread::JoinHandle;
use tokio::sync::oneshot;

/// Why a server did not run, or did not stop as it should.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ServerError {
    /// What was set is out of range, or does not go together.
    #[error("{0}")]
    Config(String),
    /// A measure of the log is out of its range.
    #[error(transparent)]
    Log(#[from] ConfigError),
    /// The store cannot be used. Nothing that was stored is changed.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The cluster cannot be used as configured.
    #[cfg(feature = "cluster")]
    #[error("{0}")]
    Cluster(String),
    /// The listener has no address.
    #[error("cannot listen: {0}")]
    Listen(io::Error),
    /// There is no thread to be had.
    #[error("cannot start a thread: {0}")]
    Thread(io::Error),
    /// The store or the cluster failed while the server was running. The store has everything that
    /// was answered.
    #[error("the server could not go on, for the reason in its log; its store has all that was answered")]
    Failed,
    /// The store was not closed in the time for stopping, because its disk does not answer.
    #[error("the store did not close within --drain; nothing that was answered is lost")]
    NotClosed,
}

/// A log of the configured measures.
pub(crate) fn builder(config: &Config) -> Builder {
    ChangeLog::builder()
        .capacity(config.capacity)
        .op_id_capacity(config.op_ids)
        .max_bytes(config.window_bytes as u64)
}

/// Opens something on a thread that the runtime does not wait for.
pub(crate) async fn on_thread<T: Send + 'static>(
    open: impl FnOnce() -> Result<T, StoreError> + Send + 'static,
) -> Result<T, ServerError> {
    let (tell, told) = oneshot::channel();
    std::thread::Builder::new()
        .name("open".into())
        .spawn(move || drop(tell.send(open())))
        .map_err(ServerError::Thread)?;
    let opened =
        told.await.map_err(|_| ServerError::Thread(io::Error::other("opening the store panicked")))?;
    Ok(opened?)
}

/// Waits for a thread on another one: the runtime would not end before one of its own did.
pub(crate) async fn join(thread: JoinHandle<()>) -> Result<(), ()> {
    let (tell, told) = oneshot::channel();
    let joiner = std::thread::Builder::new().name("join".into()).spawn(move || {
        // The receiver is gone if it took too long.
        let _ = tell.send(thread.join().map_err(drop));
    });
    match joiner {
        Ok(_) => told.await.unwrap_or(Err(())),
        Err(_) => Err(()),
    }
}
