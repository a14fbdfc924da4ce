//! Running: listening, opening the store, serving, stopping.

use crate::app::App;
use crate::auth::Access;
#[cfg(feature = "cluster")]
use crate::cluster::{self, ClusterStatus, Nodes, Started};
#[cfg(feature = "cluster")]
use crate::config::Cluster;
use crate::config::Config;
use crate::connection::{Connections, RESERVE, accept};
use crate::routes::{Gate, router};
use crate::start::{ServerError, builder, join, on_thread};
use crate::store::disk::{self, DiskReader};
use crate::store::{Reader, Store};
use ringlog::{Builder, ChangeLog};
use ringlog_axum::app::Parts;
use ringlog_axum::applier::Applier;
use ringlog_axum::echo::Echoes;
use ringlog_axum::metrics::Metrics;
use ringlog_axum::peers::Peers;
use ringlog_axum::sequencer::{Sequencer, sequencer};
use ringlog_axum::{MemoryStore, Tombstones};
use std::fmt;
use std::future::IntoFuture;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;
use tokio::net::TcpListener;
use tokio::time::{Instant, timeout_at};
use tokio_util::sync::CancellationToken;

/// File descriptors besides those of connections.
const SPARE_FILES: u64 = 64;

/// The part of the time for stopping that is kept for closing the store, at most.
const CLOSING: Duration = Duration::from_secs(2);

/// Runs a server on `listener` until `shutdown` completes. Await it.
///
/// While the store is opened and verified, requests are answered with 503 `STARTING`, and
/// `/healthz` answers. When `shutdown` completes, the server accepts no more connections, ends
/// waits and live streams, lets requests end, and closes the store. That takes no longer than
/// [`Config::drain`]; then connections that are left are cut.
///
/// # Errors
/// [`ServerError`] if the server cannot run as configured, if its store fails, or if the store was
/// not closed in time.
///
/// # Examples
///
/// ```
/// use ringlog_server::{Config, run};
/// use tokio::net::TcpListener;
///
/// # tokio::runtime::Runtime::new()?.block_on(async {
/// let listener = TcpListener::bind("127.0.0.1:0").await?;
/// let url = format!("http://{}/api/sync/pull", listener.local_addr()?);
/// let (stop, stopped) = tokio::sync::oneshot::channel();
/// let shutdown = async {
///     let _ = stopped.await;
/// };
/// let config = Config::default().with_memory(true);
/// run(listener, shutdown, config)
///     .on_ready(move || {
///         println!("try {url}");
/// #       let _ = stop.send(());
///     })
///     .await?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// # })?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub fn run<S: Future<Output = ()> + Send + 'static>(
    listener: TcpListener,
    shutdown: S,
    config: Config,
) -> Run<S> {
    Run { listener, shutdown, config, on_ready: None }
}

/// A server that is to run: see [`run`].
#[must_use = "a server runs only while it is awaited"]
pub struct Run<S> {
    listener: TcpListener,
    shutdown: S,
    config: Config,
    on_ready: Option<Box<dyn FnOnce() + Send>>,
}

impl<S> fmt::Debug for Run<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Run").field("listener", &self.listener).finish_non_exhaustive()
    }
}

impl<S> Run<S> {
    /// Calls `ready` once the store is open and requests are answered.
    pub fn on_ready(self, ready: impl FnOnce() + Send + 'static) -> Self {
        Self { on_ready: Some(Box::new(ready)), ..self }
    }
}

impl<S: Future<Output = ()> + Send + 'static> IntoFuture for Run<S> {
    type Output = Result<(), ServerError>;
    type IntoFuture = Pin<Box<dyn Future<Output = Self::Output> + Send>>;

    fn into_future(self) -> Self::IntoFuture {
        Box::pin(self.serve())
    }
}

impl<S: Future<Output = ()>> Run<S> {
    async fn serve(self) -> Result<(), ServerError> {
        let Self { listener, shutdown, mut config, on_ready } = self;
        let address = listener.local_addr().map_err(ServerError::Listen)?;
        config.check(address).map_err(ServerError::Config)?;
        config.max_connections = connections_for_files(config.max_connections);
        #[cfg(feature = "cluster")]
        if let Some(cluster) = &mut config.cluster {
            cluster.name.get_or_insert_with(|| address.to_string());
        }
        let listening = Listening::start(listener, config);
        tracing::info!(%address, "listening");
        let mut shutdown = pin!(shutdown);
        let metrics = Arc::new(Metrics::new());
        let opened = tokio::select! {
            opened = open(&listening.connections.config, &metrics) => opened,
            // Nothing is changed yet, so that to stop needs no care.
            () = shutdown.as_mut() => {
                tracing::info!("stopped while starting");
                listening.stop().await;
                return Ok(());
            }
        };
        let opened = match opened {
            Ok(opened) => opened,
            Err(error) => {
                listening.stop().await;
                return Err(error);
            }
        };
        let serving = Serving::start(listening, opened, metrics);
        if let Some(ready) = on_ready {
            ready();
        }
        let failed = serving.failed.clone();
        let has_failed = tokio::select! {
            () = shutdown => false,
            () = failed.cancelled() => true,
        };
        let closed = serving.stop().await;
        match (has_failed, closed) {
            (true, _) => Err(ServerError::Failed),
            (false, false) => Err(ServerError::NotClosed),
            (false, true) => Ok(()),
        }
    }
}

/// A server that accepts connections.
struct Listening {
    connections: Connections,
    /// Leads connections to the routes, once there are any.
    gate: Gate,
    accepting: tokio::task::JoinHandle<()>,
}

impl Listening {
    fn start(listener: TcpListener, config: Config) -> Self {
        let connections = Connections::new(config);
        let gate = Gate::default();
        let accepting = tokio::spawn(accept(listener, gate.router(), connections.clone()));
        Self { connections, gate, accepting }
    }

    /// Accepts no more connections, and lets requests end; most of the time for stopping is theirs.
    /// Then what is left is cut. Returns when the rest of that time is over.
    async fn stop(self) -> Instant {
        let Self { connections, gate, accepting } = self;
        connections.stopping.cancel();
        connections.tasks.close();
        let drain = connections.config.drain;
        let deadline = Instant::now() + drain;
        let ended = async {
            // It owns the listening socket, and starts what is waited for next.
            let _ = accepting.await;
            connections.tasks.wait().await;
        };
        if timeout_at(deadline - CLOSING.min(drain / 5), ended).await.is_err() {
            let connections_left =
                connections.config.max_connections - connections.permits.available_permits();
            tracing::warn!(connections_left, "some requests did not end in time: they get no answer");
            connections.cut.cancel();
            let _ = timeout_at(deadline, connections.tasks.wait()).await;
        }
        gate.close();
        deadline
    }
}

/// A server whose store is open.
struct Serving {
    listening: Listening,
    /// Cancelled when the applier has ended.
    failed: CancellationToken,
    observer: tokio::task::JoinHandle<()>,
    /// The applier's thread, if it has one.
    applier: Option<JoinHandle<()>>,
}

impl Serving {
    fn start(listening: Listening, opened: Opened, metrics: Arc<Metrics>) -> Self {
        let connections = &listening.connections;
        let config = Config::clone(&connections.config);
        #[cfg(feature = "cluster")]
        let cluster = opened.cluster;
        let Opened { log, base_seq, reader, disk, echoes, sequencer, applier, failed, .. } = opened;
        let sync = ringlog_axum::app::App::new(Parts {
            limits: config.limits(),
            log: Arc::clone(&log),
            base_seq,
            reader,
            echoes,
            sequencer,
            #[cfg(feature = "cluster")]
            peers: cluster.clone().map(|cluster| cluster as Arc<dyn Peers>),
            #[cfg(not(feature = "cluster"))]
            peers: None::<Arc<dyn Peers>>,
            metrics,
            stopping: connections.stopping.clone(),
            tasks: connections.tasks.clone(),
        });
        let app = Arc::new(App {
            access: Arc::new(Access::new(&config, &sync.tickets)),
            disk,
            #[cfg(feature = "cluster")]
            cluster,
            connections: Arc::clone(&connections.permits),
            failed: failed.clone(),
            config,
            sync,
        });
        let observer = tokio::spawn(Arc::clone(&app.sync.metrics).observe(Arc::clone(&log)));
        listening.gate.open(router(&app));
        tracing::info!(incarnation = %log.incarnation(), last_seq = log.last_seq(), "ready");
        Self { listening, failed, observer, applier }
    }

    /// Stops. False if the store was not closed in time, or its thread panicked.
    async fn stop(self) -> bool {
        let Self { listening, observer, applier, .. } = self;
        tracing::info!("stopping; a second signal ends at once");
        // The applier ends when it cannot be reached any more: with the last request, and the
        // routes.
        let deadline = listening.stop().await;
        observer.abort();
        let closed = async {
            match applier {
                Some(applier) => join(applier).await,
                None => Ok(()),
            }
        };
        match timeout_at(deadline, closed).await {
            Ok(Ok(())) => {
                tracing::info!("stopped");
                true
            }
            Ok(Err(())) => {
                tracing::error!("the applier panicked");
                false
            }
            Err(_) => {
                tracing::error!("the store did not close in time");
                false
            }
        }
    }
}

/// A store that is open, and the way from pushes to it.
struct Opened {
    log: Arc<ChangeLog>,
    /// The seq before the first one of this log.
    base_seq: u64,
    reader: Arc<dyn Reader>,
    disk: Option<Arc<DiskReader>>,
    echoes: Option<Arc<Echoes>>,
    sequencer: Sequencer,
    applier: Option<JoinHandle<()>>,
    failed: CancellationToken,
    #[cfg(feature = "cluster")]
    cluster: Option<Arc<ClusterStatus>>,
}

/// Opens the store, or that of a node with its cluster.
async fn open(config: &Config, metrics: &Arc<Metrics>) -> Result<Opened, ServerError> {
    #[cfg(feature = "cluster")]
    if let Some(cluster) = &config.cluster {
        return open_node(config, cluster, metrics).await;
    }
    open_alone(config, metrics).await
}

#[cfg(feature = "cluster")]
async fn open_node(
    config: &Config,
    cluster: &Cluster,
    metrics: &Arc<Metrics>,
) -> Result<Opened, ServerError> {
    let stream = cluster::connect(config, cluster).await?;
    let (started, sequencer, failed) = loop {
        let node = cluster::open(config, &stream, metrics).await?;
        let (sequencer, groups) = sequencer();
        let failed = CancellationToken::new();
        let (stream, nodes) = (stream.clone(), Nodes::new(cluster));
        let started = node.start(stream, nodes, groups, failed.clone()).await.map_err(ServerError::Thread)?;
        tokio::select! {
            () = started.status.caught_up() => break (started, sequencer, failed),
            () = failed.cancelled() => {}
        }
        drop(sequencer);
        if !started.can_reopen().await {
            return Err(ServerError::Failed);
        }
    };
    let Started { log, reader, echoes, status, applier, running: _ } = started;
    Ok(Opened {
        log,
        base_seq: 0,
        disk: Some(Arc::clone(&reader)),
        reader,
        echoes,
        sequencer,
        applier: Some(applier),
        failed,
        cluster: Some(status),
    })
}

async fn open_alone(config: &Config, metrics: &Arc<Metrics>) -> Result<Opened, ServerError> {
    let builder = builder(config).max_push_changes(config.limits().max_changes().0);
    let (store, reader, disk, log): (Box<dyn Store>, Arc<dyn Reader>, _, _) = if config.memory {
        let tombstones = Tombstones { most: config.tombstones, age: config.tombstone_age };
        let (store, log) = MemoryStore::open(builder, tombstones)?;
        let reader = store.reader();
        (Box::new(store), reader, None, log)
    } else {
        let (store, reader, log) = open_disk(config.clone(), builder).await?;
        (Box::new(store), Arc::clone(&reader) as _, Some(reader), log)
    };
    let echoes = match (&disk, config.echo) {
        (_, false) => None,
        (None, true) => Some(Echoes::new(config.op_ids)),
        (Some(disk), true) => Some(disk.echoes(config.op_ids)?),
    };
    let echoes = echoes.map(Arc::new);
    // A log that is restored begins at 0, whatever of it has left the window.
    let base_seq = if disk.is_some() { 0 } else { log.last_seq() };
    let (log, failed) = (Arc::new(log), CancellationToken::new());
    let (queue, groups) = sequencer();
    let applier =
        Applier::new(Arc::clone(&log), store, Arc::clone(metrics), groups).with_echoes(echoes.clone());
    let (sequencer, applier) = if disk.is_some() {
        (queue, Some(applier.start(failed.clone()).map_err(ServerError::Thread)?))
    } else {
        (Sequencer::direct(applier.direct(failed.clone())), None)
    };
    Ok(Opened {
        log,
        base_seq,
        reader,
        disk,
        echoes,
        sequencer,
        applier,
        failed,
        #[cfg(feature = "cluster")]
        cluster: None,
    })
}

/// Opens the store on a thread that the runtime does not wait for: asked to stop meanwhile, the
/// process just ends.
async fn open_disk(config: Config, builder: Builder) -> Result<disk::Opened, ServerError> {
    on_thread(move || disk::open(&config, builder)).await
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
