//! Starting and stopping.

use crate::app::{App, Pushes};
use crate::auth::Access;
use crate::config::Config;
use crate::connection::{Connections, RESERVE, accept};
use crate::folded::Folded;
use crate::frames::Frames;
use crate::metrics::Metrics;
use crate::routes::{Gate, router};
use crate::share::{Pushing, Sending};
use crate::store::{Store, StoreError};
use crate::subscriber::LagTracker;
use crate::tickets::Tickets;
use crate::views::{MAX_PAGE_BYTES, Views};
use crate::writer::Writer;
use ringlog::{Builder, ChangeLog, ConfigError};
use std::net::SocketAddr;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use tokio::net::TcpListener;
use tokio::sync::{Semaphore, oneshot};
use tokio::time::{Instant, timeout_at};
use tokio_util::sync::CancellationToken;

/// File descriptors besides those of connections.
const SPARE_FILES: u64 = 64;

/// The part of the time for stopping that is kept for closing the store, at most.
const CLOSING: Duration = Duration::from_secs(2);

/// Why a server does not start.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StartError {
    /// What was set does not go together.
    #[error("{0}")]
    Config(String),
    /// A measure of the log is out of its range.
    #[error(transparent)]
    Log(#[from] ConfigError),
    /// The store cannot be used.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The address cannot be listened on.
    #[error("cannot listen on {address}: {source}")]
    Listen {
        /// Which.
        address: SocketAddr,
        /// What the system says.
        source: std::io::Error,
    },
    /// There is no thread to be had.
    #[error("cannot start a thread: {0}")]
    Thread(std::io::Error),
}

/// A server that runs.
///
/// # Examples
///
/// ```
/// use clap::Parser;
/// use ringlog_server::{Config, Server};
///
/// # tokio::runtime::Runtime::new()?.block_on(async {
/// let config = Config::parse_from(["ringlog-server", "--memory", "--listen", "127.0.0.1:0"]);
/// let server = Server::start(config).await?;
/// println!("{}/api/sync/pull", server.url());
/// server.shutdown().await;
/// # Ok::<(), ringlog_server::StartError>(())
/// # })?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub struct Server {
    app: Arc<App>,
    address: SocketAddr,
    accepting: tokio::task::JoinHandle<()>,
    /// Leads connections to the routes, which hold the app.
    gate: Gate,
    /// Cancelled when the time for stopping is over: connections are dropped.
    cut: CancellationToken,
    observer: tokio::task::JoinHandle<()>,
    /// The writer, or the thread that folds.
    thread: JoinHandle<()>,
    /// Ends the thread that folds.
    stop_thread: CancellationToken,
}

impl std::fmt::Debug for Server {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Server").field("address", &self.address).finish_non_exhaustive()
    }
}

/// A server that listens, and opens and verifies its store. Until that is done it answers 503
/// `STARTING`; `/healthz` answers.
#[derive(Debug)]
pub struct Starting {
    connections: Connections,
    gate: Gate,
    address: SocketAddr,
    accepting: tokio::task::JoinHandle<()>,
}

impl Starting {
    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Where it listens, as the beginning of an address for clients.
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Opens and verifies the store. Requests are answered when this returns.
    ///
    /// # Errors
    /// [`StartError`] if the store cannot be used. It listens no longer then, and nothing that was
    /// stored is changed.
    pub async fn ready(self) -> Result<Server, StartError> {
        let metrics = Arc::new(Metrics::new());
        let (failed, stop_thread) = (CancellationToken::new(), CancellationToken::new());
        let opened = open(&self.connections.config, &metrics, &failed, &stop_thread).await;
        let (log, pushes, thread) = match opened {
            Ok(opened) => opened,
            Err(error) => {
                self.connections.stopping.cancel();
                // It owns the listening socket. Ended or not, nothing more is accepted.
                let _ = self.accepting.await;
                return Err(error);
            }
        };
        let Self { connections, gate, address, accepting } = self;
        let config = Config::clone(&connections.config);
        // Nothing is appended yet. A log that is restored begins at 0, whatever of it has left the
        // window.
        let base_seq = if config.memory { log.last_seq() } else { 0 };
        let app = Arc::new(App {
            views: Views::new(config.max_snapshots, config.snapshot_ttl, config.snapshot_max_age),
            tickets: Tickets::new(config.max_tickets, config.ticket_ttl),
            access: Access::new(&config),
            frames: Frames::default(),
            lag: LagTracker::default(),
            connections: connections.permits,
            subscribers: Arc::new(Semaphore::new(config.max_subscribers)),
            pushing: Pushing::new(config.max_pushing),
            sending: Sending::new(config.max_sending, MAX_PAGE_BYTES.saturating_add(config.max_body)),
            stopping: connections.stopping,
            failed,
            tasks: connections.tasks,
            config,
            log,
            base_seq,
            pushes,
            metrics,
        });
        let observer = tokio::spawn(Arc::clone(&app.metrics).observe(Arc::clone(&app.log)));
        app.tasks.spawn(Views::sweep(Arc::clone(&app)));
        gate.open(router(&app));
        tracing::info!(%address, incarnation = %app.log.incarnation(), last_seq = app.log.last_seq(), "ready");
        let cut = connections.cut;
        Ok(Server { app, address, accepting, gate, cut, observer, thread, stop_thread })
    }
}

impl Server {
    /// Starts a server on the runtime that this is called in. Requests are answered when this
    /// returns.
    ///
    /// # Errors
    /// [`StartError`] if it cannot run as configured. Nothing that was stored is changed then.
    pub async fn start(config: Config) -> Result<Self, StartError> {
        Self::listen(config).await?.ready().await
    }

    /// Listens, and leaves the opening of the store to [`Starting::ready`].
    ///
    /// # Errors
    /// [`StartError`] if what is configured does not go together, or the address cannot be listened
    /// on.
    pub async fn listen(mut config: Config) -> Result<Starting, StartError> {
        config.check().map_err(StartError::Config)?;
        let (address, listener) = listen(&config).await?;
        config.max_connections = connections_for_files(config.max_connections);
        let connections = Connections::new(config);
        let gate = Gate::default();
        let accepting = tokio::spawn(accept(listener, gate.router(), connections.clone()));
        tracing::info!(%address, "listening");
        Ok(Starting { connections, gate, address, accepting })
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Where it listens, as the beginning of an address for clients.
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Waits until the store has failed, which it may never do. Nothing can be pushed any more
    /// then: shut the server down.
    pub async fn failed(&self) {
        self.app.failed.cancelled().await;
    }

    /// Stops: accepts no more connections, ends waits and live streams, lets requests end, and
    /// closes the store. Takes no longer than the configured time; then the connections that are
    /// left have been cut. False if the store was not closed in this time, because its disk does
    /// not answer: the next start finds everything that was acknowledged.
    pub async fn shutdown(self) -> bool {
        let Self { app, accepting, gate, cut, observer, thread, stop_thread, .. } = self;
        tracing::info!("stopping; a second signal ends at once");
        app.stopping.cancel();
        app.tasks.close();
        let drain = app.config.drain;
        let deadline = Instant::now() + drain;
        let ended = async {
            // It owns the listening socket, and starts what is waited for next.
            let _ = accepting.await;
            app.tasks.wait().await;
        };
        let ended = timeout_at(deadline - CLOSING.min(drain / 5), ended).await;
        if ended.is_err() {
            tracing::warn!(
                connections = app.open_connections(),
                "some requests did not end in time: they get no answer"
            );
            cut.cancel();
            let _ = timeout_at(deadline, app.tasks.wait()).await;
        }
        observer.abort();
        stop_thread.cancel();
        // The writer ends when it cannot be reached any more: with the last request, and these.
        gate.close();
        drop(app);
        match timeout_at(deadline, join(thread)).await {
            Ok(Ok(())) => {
                tracing::info!("stopped");
                true
            }
            Ok(Err(())) => {
                tracing::error!("the writer panicked");
                false
            }
            Err(_) => {
                tracing::error!(?drain, "the store did not close in time");
                false
            }
        }
    }
}

/// Waits for a thread on another one: the runtime would not end before one of its own did.
async fn join(thread: JoinHandle<()>) -> Result<(), ()> {
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

/// The log, how changes get into it, and the thread behind that.
async fn open(
    config: &Config,
    metrics: &Arc<Metrics>,
    failed: &CancellationToken,
    stop: &CancellationToken,
) -> Result<(Arc<ChangeLog>, Pushes, JoinHandle<()>), StartError> {
    let builder = ChangeLog::builder()
        .capacity(config.capacity)
        .op_id_capacity(config.op_ids)
        .max_bytes(config.window_bytes as u64)
        .max_push_changes(config.max_changes().0);
    if config.memory {
        return open_memory(config, builder, failed, stop);
    }
    let opening = config.clone();
    let (tell, told) = oneshot::channel();
    // A thread that the runtime does not wait for: asked to stop meanwhile, the process just ends.
    std::thread::Builder::new()
        .name("open".into())
        .spawn(move || drop(tell.send(Store::open(&opening, builder))))
        .map_err(StartError::Thread)?;
    let opened =
        told.await.map_err(|_| StartError::Thread(std::io::Error::other("opening the store panicked")))?;
    let (store, committer, log) = opened?;
    let log = Arc::new(log);
    let (writer, thread) = Writer::start(Arc::clone(&log), committer, Arc::clone(metrics), failed.clone())
        .map_err(StartError::Thread)?;
    Ok((log, Pushes::Durable { writer, store }, thread))
}

fn open_memory(
    config: &Config,
    builder: Builder,
    failed: &CancellationToken,
    stop: &CancellationToken,
) -> Result<(Arc<ChangeLog>, Pushes, JoinHandle<()>), StartError> {
    // Above every seq of an earlier lifetime, unless that appended a million events a second: an
    // old cursor, even a bare one, is not taken for one of this log.
    let micros = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_micros();
    let log = Arc::new(builder.base_seq(micros as u64).build()?);
    let folded = Arc::new(Folded::new(&log, config.capacity, config.window_bytes));
    let thread = folded.start(&log, stop.clone(), failed.clone()).map_err(StartError::Thread)?;
    Ok((log, Pushes::Memory { folded }, thread))
}

/// How many connections the allowed number of open files is enough for, at most `wanted`.
/// Connections of the reserve have their files besides: without one, a health probe would wait in
/// the system's queue.
fn connections_for_files(wanted: usize) -> usize {
    let besides = RESERVE as u64 + SPARE_FILES;
    let needed = (wanted as u64).saturating_add(besides);
    match rlimit::increase_nofile_limit(needed) {
        Ok(files) if files < needed => {
            let connections = files.saturating_sub(besides).max(1) as usize;
            tracing::warn!(
                files,
                needed,
                connections,
                "fewer open files are allowed than --max-connections needs"
            );
            connections
        }
        _ => wanted,
    }
}

async fn listen(config: &Config) -> Result<(SocketAddr, TcpListener), StartError> {
    let address = config.listen;
    let failed = |source| StartError::Listen { address, source };
    let listener = TcpListener::bind(address).await.map_err(failed)?;
    Ok((listener.local_addr().map_err(failed)?, listener))
}
