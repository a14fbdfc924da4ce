//! Making the routes, mounting them, stopping.

use crate::app::{App, Parts};
use crate::applier::Applier;
use crate::echo::Echoes;
use crate::limits::Limits;
use crate::metrics::Metrics;
use crate::routes;
use crate::sequencer::{Sequencer, sequencer};
use crate::store::Store;
use axum::{Router, middleware};
use ringlog::ChangeLog;
use std::io;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use tokio_util::sync::CancellationToken;
use tokio_util::task::{AbortOnDropHandle, TaskTracker};

/// The routes of a log and its store, before they are started.
///
/// # Examples
///
/// ```
/// use axum::{Router, routing::get};
/// use ringlog::ChangeLog;
/// use ringlog_axum::{MemoryStore, SyncRoutes, Tombstones};
///
/// # tokio::runtime::Runtime::new()?.block_on(async {
/// let (store, log) = MemoryStore::open(ChangeLog::builder(), Tombstones::default())?;
/// let sync = SyncRoutes::new(log, store).start()?;
/// let app: Router = Router::new().route("/", get(async || "hello")).nest("/sync", sync.router());
/// # drop(app);
/// # sync.stopped().await?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// # })?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[must_use = "routes are served once they are started"]
pub struct SyncRoutes {
    log: Arc<ChangeLog>,
    store: Box<dyn Store>,
    limits: Limits,
    echo: bool,
}

impl std::fmt::Debug for SyncRoutes {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SyncRoutes")
            .field("log", &self.log)
            .field("limits", &self.limits)
            .finish_non_exhaustive()
    }
}

impl SyncRoutes {
    /// Routes of this log, which goes on where the store ends: see [`Store`].
    ///
    /// Nothing but these routes may append to the log: what is stored would have other seqs than
    /// what is read.
    pub fn new(log: impl Into<Arc<ChangeLog>>, store: impl Store + 'static) -> Self {
        Self { log: log.into(), store: Box::new(store), limits: Limits::default(), echo: false }
    }

    /// With these limits.
    pub fn limits(self, limits: Limits) -> Self {
        Self { limits, ..self }
    }

    /// Whether events say under which client id and op id they were pushed. Those that were pushed
    /// before the start do not.
    pub fn echo(self, echo: bool) -> Self {
        Self { echo, ..self }
    }

    /// Starts the applier, on a thread of its own unless the store is
    /// [immediate](Store::is_immediate).
    ///
    /// # Errors
    /// There is no thread to be had.
    ///
    /// # Panics
    /// If it is not called on a Tokio runtime.
    pub fn start(self) -> io::Result<SyncHandle> {
        let Self { log, store, limits, echo } = self;
        let (base_seq, reader, is_immediate) = (store.base_seq(), store.reader(), store.is_immediate());
        let (metrics, failed) = (Arc::new(Metrics::new()), CancellationToken::new());
        let echoes = echo.then(|| Arc::new(Echoes::new(limits.op_ids)));
        let (queue, groups) = sequencer();
        let applier =
            Applier::new(Arc::clone(&log), store, Arc::clone(&metrics), groups).with_echoes(echoes.clone());
        let (sequencer, applier) = if is_immediate {
            (Sequencer::direct(applier.direct(failed.clone())), None)
        } else {
            (queue, Some(applier.start(failed.clone())?))
        };
        let observer = tokio::spawn(Arc::clone(&metrics).observe(Arc::clone(&log)));
        let app = App::new(Parts {
            limits,
            log,
            base_seq,
            reader,
            echoes,
            sequencer,
            peers: None,
            metrics,
            stopping: CancellationToken::new(),
            tasks: TaskTracker::new(),
        });
        let running = Running {
            app,
            applier: Mutex::new(applier),
            failed,
            _observer: AbortOnDropHandle::new(observer),
        };
        Ok(SyncHandle { running: Arc::new(running) })
    }
}

/// Routes that are started: to be mounted, watched and stopped. Clones are of the same routes.
#[derive(Clone)]
pub struct SyncHandle {
    running: Arc<Running>,
}

struct Running {
    app: Arc<App>,
    /// The applier's thread, if it has one and is not waited for yet.
    applier: Mutex<Option<JoinHandle<()>>>,
    failed: CancellationToken,
    _observer: AbortOnDropHandle<()>,
}

/// The store failed while the routes were served. It has everything that was answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct StoreFailed;

impl std::fmt::Display for StoreFailed {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("the store failed, for the reason in the log; it has all that was answered")
    }
}

impl std::error::Error for StoreFailed {}

impl std::fmt::Debug for SyncHandle {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SyncHandle").field("app", &self.running.app).finish_non_exhaustive()
    }
}

impl SyncHandle {
    /// The routes: `push`, `pull`, `snapshot`, `live`, `ws` and `ticket`, for an app of any state.
    /// To be [nested](Router::nest) under any path.
    pub fn router<S: Clone + Send + Sync + 'static>(&self) -> Router<S> {
        let app = &self.running.app;
        routes::reading(app)
            .merge(routes::streaming(app))
            .merge(routes::writing(app))
            .merge(routes::tickets(app))
            .layer(middleware::from_fn_with_state(Arc::clone(&app.metrics), routes::count))
    }

    /// Ends what lasts long: live streams, and pulls that wait. To be called when the server is
    /// asked to stop, which then waits for its connections, as `axum::serve` does
    /// `with_graceful_shutdown`.
    pub fn stop(&self) {
        self.running.app.stopping.cancel();
    }

    /// [Stops](Self::stop), and waits until web sockets are closed and all that was pushed is
    /// applied. Pushes that come later are refused with 503 `STOPPING`. To be called when the
    /// server has answered its last request.
    ///
    /// # Errors
    /// The store failed, now or earlier.
    pub async fn stopped(&self) -> Result<(), StoreFailed> {
        let Running { app, applier, failed, .. } = &*self.running;
        self.stop();
        app.tasks.close();
        app.tasks.wait().await;
        app.close();
        let applier = applier.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(applier) = applier {
            let joined = tokio::task::spawn_blocking(move || applier.join()).await;
            if !matches!(joined, Ok(Ok(()))) {
                return Err(StoreFailed);
            }
        }
        if failed.is_cancelled() { Err(StoreFailed) } else { Ok(()) }
    }

    /// Whether the store has failed: nothing can be pushed any more. For a route that tells whether
    /// the app is healthy.
    pub fn has_failed(&self) -> bool {
        self.running.failed.is_cancelled()
    }

    /// The figures of this moment, as text for Prometheus (`OpenMetrics` 1.0). Their names begin
    /// with `ringlog_`.
    ///
    /// # Complexity
    /// That of the number of live streams.
    pub fn metrics(&self) -> String {
        let app = &self.running.app;
        let text = app.metrics.encode(app.log.stats(), app.gauges());
        text.unwrap_or_else(|error| unreachable!("a String takes every text: {error}"))
    }
}
