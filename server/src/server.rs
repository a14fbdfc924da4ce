//! Sockets and connections; starting and stopping.

use crate::app::{App, Pushes};
use crate::config::Config;
use crate::folded::Folded;
use crate::frames::Frames;
use crate::metrics::Metrics;
use crate::routes::router;
use crate::store::{Store, StoreError};
use crate::subscriber::Places;
use crate::views::Views;
use crate::writer::Writer;
use axum::Router;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use ringlog::{Builder, ChangeLog, ConfigError};
use std::net::SocketAddr;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio_io_timeout::TimeoutStream;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// The most memory for the head of a request.
const MAX_HEAD: usize = 64 << 10;

/// File descriptors besides those of connections.
const SPARE_FILES: u64 = 64;

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

impl Server {
    /// Starts a server on the runtime that this is called in. Requests are answered when this returns.
    ///
    /// # Errors
    /// [`StartError`] if it cannot run as configured. Nothing that was stored is changed then.
    pub async fn start(config: Config) -> Result<Self, StartError> {
        config.check().map_err(StartError::Config)?;
        let metrics = Arc::new(Metrics::new());
        let (failed, stop_thread) = (CancellationToken::new(), CancellationToken::new());
        let (log, pushes, thread) = open(&config, &metrics, &failed, &stop_thread).await?;
        let listener = listen(&config).await?;
        let address = listener.0;
        let app = Arc::new(App {
            views: Views::new(config.max_snapshots, config.snapshot_ttl),
            frames: Frames::default(),
            places: Places::default(),
            connections: Arc::new(Semaphore::new(config.max_connections)),
            subscribers: Arc::new(Semaphore::new(config.max_subscribers)),
            pushing: Semaphore::new(config.max_pushing.div_ceil(1024)),
            stopping: CancellationToken::new(),
            failed,
            tasks: TaskTracker::new(),
            config,
            log,
            pushes,
            metrics,
        });
        let observer = tokio::spawn(Arc::clone(&app.metrics).observe(Arc::clone(&app.log)));
        let accepting = tokio::spawn(accept(listener.1, router(&app), Arc::clone(&app)));
        tracing::info!(%address, incarnation = %app.log.incarnation(), last_seq = app.log.last_seq(), "listening");
        Ok(Self { app, address, accepting, observer, thread, stop_thread })
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Where it listens, as the beginning of an address for clients.
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Waits until the store has failed, which it may never do. Nothing can be pushed any more then: shut the server down.
    pub async fn failed(&self) {
        self.app.failed.cancelled().await;
    }

    /// Stops: takes no more connections, ends waits and live streams, lets requests end for as long as is configured, and
    /// closes the store.
    pub async fn shutdown(self) {
        let Self { app, accepting, observer, thread, stop_thread, .. } = self;
        tracing::info!("stopping");
        app.stopping.cancel();
        app.tasks.close();
        let drain = app.config.drain;
        let drained = tokio::time::timeout(drain, async {
            // It owns the listening socket, and starts what is waited for next.
            let _ = accepting.await;
            app.tasks.wait().await;
        });
        if drained.await.is_err() {
            tracing::warn!(?drain, "some requests did not end in time");
        }
        observer.abort();
        stop_thread.cancel();
        // The writer ends when nobody can reach it any more: with the last request, and this.
        drop(app);
        let joined = tokio::time::timeout(drain, tokio::task::spawn_blocking(|| thread.join())).await;
        match joined {
            Ok(Ok(Ok(()))) => tracing::info!("stopped"),
            Ok(_) => tracing::error!("the writer panicked"),
            Err(_) => tracing::warn!("stopped while requests are still there"),
        }
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
        .max_push_changes(config.max_changes());
    if config.memory {
        return open_memory(config, builder, failed, stop);
    }
    let opening = config.clone();
    let opened = tokio::task::spawn_blocking(move || Store::open(&opening, builder)).await;
    let (store, log) = opened.unwrap_or_else(|error| std::panic::resume_unwind(error.into_panic()))?;
    let (log, store) = (Arc::new(log), Arc::new(store));
    let (writer, thread) =
        Writer::start(Arc::clone(&log), Arc::clone(&store), Arc::clone(metrics), failed.clone())
            .map_err(StartError::Thread)?;
    Ok((log, Pushes::Durable { writer, store }, thread))
}

fn open_memory(
    config: &Config,
    builder: Builder,
    failed: &CancellationToken,
    stop: &CancellationToken,
) -> Result<(Arc<ChangeLog>, Pushes, JoinHandle<()>), StartError> {
    // Above every seq of an earlier lifetime, unless that appended a million events a second: an old cursor, even a bare
    // one, is not taken for one of this log.
    let micros = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_micros();
    let log = Arc::new(builder.base_seq(micros as u64).build()?);
    let folded = Arc::new(Folded::new(&log, config.capacity));
    let thread = folded.start(&log, stop.clone(), failed.clone()).map_err(StartError::Thread)?;
    Ok((log, Pushes::Memory { folded }, thread))
}

async fn listen(config: &Config) -> Result<(SocketAddr, TcpListener), StartError> {
    let wanted = config.max_connections as u64 + SPARE_FILES;
    match rlimit::increase_nofile_limit(wanted) {
        Ok(files) if files < wanted => {
            tracing::warn!(files, wanted, "fewer open files are allowed than connections");
        }
        _ => {}
    }
    let address = config.listen;
    let failed = |source| StartError::Listen { address, source };
    let listener = TcpListener::bind(address).await.map_err(failed)?;
    Ok((listener.local_addr().map_err(failed)?, listener))
}

/// Takes connections until the server stops. Each has a permit for as long as it lasts.
async fn accept(listener: TcpListener, router: Router, app: Arc<App>) {
    loop {
        let next = async {
            let permit = Arc::clone(&app.connections).acquire_owned().await;
            (permit, listener.accept().await)
        };
        let (permit, accepted) = tokio::select! {
            next = next => next,
            () = app.stopping.cancelled() => return,
        };
        match accepted {
            Ok((stream, _)) => {
                let serving = serve(stream, router.clone(), &app.config, app.stopping.clone());
                app.tasks.spawn(async move {
                    serving.await;
                    drop(permit);
                });
            }
            Err(error) => {
                // Too many open files, most likely: it passes.
                tracing::warn!(%error, "cannot accept a connection");
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        }
    }
}

/// Answers the requests of one connection; when the server stops, the one that is being answered is the last.
fn serve(
    stream: TcpStream,
    router: Router,
    config: &Config,
    stopping: CancellationToken,
) -> impl Future<Output = ()> + use<> {
    // Answers are short and nobody shall wait for the next one.
    let _ = stream.set_nodelay(true);
    let mut stream = TimeoutStream::new(stream);
    stream.set_write_timeout(Some(config.write_timeout));
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(config.header_timeout)
        .max_buf_size(MAX_HEAD)
        .serve_connection(TokioIo::new(Box::pin(stream)), TowerToHyperService::new(router))
        .with_upgrades();
    async move {
        let mut connection = std::pin::pin!(connection);
        let ended = tokio::select! {
            ended = connection.as_mut() => ended,
            () = stopping.cancelled() => {
                connection.as_mut().graceful_shutdown();
                connection.await
            }
        };
        if let Err(error) = ended {
            tracing::debug!(%error, "a connection failed");
        }
    }
}
