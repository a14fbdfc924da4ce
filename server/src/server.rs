//! Sockets and connections; starting and stopping.

use crate::app::{App, Pushes};
use crate::config::Config;
use crate::exchange::{Courteous, Exchange, MAX_HEAD};
use crate::folded::Folded;
use crate::frames::Frames;
use crate::liveness;
use crate::metrics::Metrics;
use crate::routes::{Gate, router};
use crate::share::Pushing;
use crate::store::{Store, StoreError};
use crate::subscriber::Places;
use crate::views::Views;
use crate::writer::Writer;
use axum::Router;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
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
    /// Leads connections to the routes, which hold the app.
    gate: Gate,
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

/// A server that listens, and opens and verifies its store. Until that is done it answers 503 `STARTING`; `/healthz` answers.
#[derive(Debug)]
pub struct Starting {
    connections: Connections,
    gate: Gate,
    address: SocketAddr,
    accepting: tokio::task::JoinHandle<()>,
}

/// What the accepting of connections needs to know.
#[derive(Debug, Clone)]
struct Connections {
    config: Arc<Config>,
    /// One permit for each connection.
    permits: Arc<Semaphore>,
    stopping: CancellationToken,
    tasks: TaskTracker,
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
    /// [`StartError`] if the store cannot be used. It listens no longer then, and nothing that was stored is changed.
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
        let app = Arc::new(App {
            views: Views::new(config.max_snapshots, config.snapshot_ttl),
            frames: Frames::default(),
            places: Places::default(),
            connections: connections.permits,
            subscribers: Arc::new(Semaphore::new(config.max_subscribers)),
            pushing: Pushing::new(config.max_pushing),
            stopping: connections.stopping,
            failed,
            tasks: connections.tasks,
            config,
            log,
            pushes,
            metrics,
        });
        let observer = tokio::spawn(Arc::clone(&app.metrics).observe(Arc::clone(&app.log)));
        gate.open(router(&app));
        tracing::info!(%address, incarnation = %app.log.incarnation(), last_seq = app.log.last_seq(), "ready");
        Ok(Server { app, address, accepting, gate, observer, thread, stop_thread })
    }
}

impl Server {
    /// Starts a server on the runtime that this is called in. Requests are answered when this returns.
    ///
    /// # Errors
    /// [`StartError`] if it cannot run as configured. Nothing that was stored is changed then.
    pub async fn start(config: Config) -> Result<Self, StartError> {
        Self::listen(config).await?.ready().await
    }

    /// Listens, and leaves the opening of the store to [`Starting::ready`].
    ///
    /// # Errors
    /// [`StartError`] if what is configured does not go together, or the address cannot be listened on.
    pub async fn listen(config: Config) -> Result<Starting, StartError> {
        config.check().map_err(StartError::Config)?;
        let (address, listener) = listen(&config).await?;
        let connections = Connections {
            permits: Arc::new(Semaphore::new(config.max_connections)),
            stopping: CancellationToken::new(),
            tasks: TaskTracker::new(),
            config: Arc::new(config),
        };
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

    /// Waits until the store has failed, which it may never do. Nothing can be pushed any more then: shut the server down.
    pub async fn failed(&self) {
        self.app.failed.cancelled().await;
    }

    /// Stops: takes no more connections, ends waits and live streams, lets requests end for as long as is configured, and
    /// closes the store.
    pub async fn shutdown(self) {
        let Self { app, accepting, gate, observer, thread, stop_thread, .. } = self;
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
        // The writer ends when nobody can reach it any more: with the last request, and these.
        gate.close();
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
        .max_bytes(config.window_bytes as u64)
        .max_push_changes(config.max_changes().0);
    if config.memory {
        return open_memory(config, builder, failed, stop);
    }
    let opening = config.clone();
    let (tell, told) = tokio::sync::oneshot::channel();
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
    // Above every seq of an earlier lifetime, unless that appended a million events a second: an old cursor, even a bare
    // one, is not taken for one of this log.
    let micros = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_micros();
    let log = Arc::new(builder.base_seq(micros as u64).build()?);
    let folded = Arc::new(Folded::new(&log, config.capacity, config.window_bytes));
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
async fn accept(listener: TcpListener, router: Router, connections: Connections) {
    let Connections { config, permits, stopping, tasks } = connections;
    loop {
        let next = async {
            let permit = Arc::clone(&permits).acquire_owned().await;
            (permit, listener.accept().await)
        };
        let (permit, accepted) = tokio::select! {
            next = next => next,
            () = stopping.cancelled() => return,
        };
        match accepted {
            Ok((stream, _)) => {
                let serving = serve(stream, router.clone(), &config, stopping.clone());
                tasks.spawn(async move {
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
    liveness::watch(&stream, config.heartbeat);
    let mut stream = TimeoutStream::new(stream);
    stream.set_write_timeout(Some(config.write_timeout));
    let exchange = Exchange::default();
    let socket = Courteous::new(Box::pin(stream), exchange.clone(), stopping.clone());
    let service = exchange.service(router);
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(config.header_timeout)
        .max_buf_size(MAX_HEAD)
        .serve_connection(TokioIo::new(socket), service)
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
