//! Many nodes that serve one log.
//!
//! Nodes agree by a stream that is kept elsewhere, by NATS `JetStream`: its servers give all
//! messages one order and keep each on a quorum of disks. A node *frames* the pushes that it takes
//! and publishes the frames; it applies all frames, its own and those of others, in the order of
//! the stream and by the same rules. So the state of a node is a function of the stream up to a
//! position, and all nodes have the same log: the same incarnation, the same seqs, the same bytes.
//! A push is answered when its frame is applied.
//!
//! ```text
//! routes → queue → node ──publish──→ stream ──→ tail → applier → log, store
//!                    ↑─────────── verdicts, responses ────┘
//! ```
//!
//! - [`engine`]: the stream, as the rest sees it; [`nats`] is the real one.
//! - [`frame`]: a message.
//! - [`machine`]: which frames are applied, and why an operation is applied once.
//! - [`publisher`]: frames whose verdict is not known, sent again until it is.
//! - [`node`]: the task around the publisher.
//! - [`keeper`]: snapshots, and what they make of the stream superfluous.
//! - [`nodes`]: what nodes tell of themselves, for people.
//! - [`tail`]: the frames in order. [`apply`]: what is done with each, wherever it stops.
//! - [`admin`]: what an operator does to the stream.

mod admin;
mod apply;
mod engine;
pub(crate) mod frame;
mod keeper;
pub(crate) mod machine;
#[cfg(test)]
mod model;
mod nats;
mod node;
mod nodes;
mod publisher;
#[cfg(test)]
mod simulation;
mod tail;

pub(crate) use admin::{reset, skip};
pub(crate) use nodes::{ClusterFigures, Nodes};

use crate::config::{Cluster, Config};
use crate::start::{ServerError, builder, join, on_thread};
use crate::store::disk::{self, DiskReader, DiskStore};
use apply::{ApplyError, NodeApplier};
use engine::{Engine, Extent, Snapshots};
use frame::{Claim, Frame};
use keeper::Keeper;
use machine::{Machine, Memory};
use nats::{NatsOptions, NatsStream, StreamFacts};
use node::{Freshness, Node, new_session};
use nodes::Standing;
use ringlog::{ChangeLog, Incarnation};
use ringlog_axum::echo::Echoes;
use ringlog_axum::metrics::{Gauge, Metrics};
use ringlog_axum::peers::Peers;
use ringlog_axum::sequencer::Groups;
use std::collections::BTreeSet;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};
use tail::{Tail, TailError, verify};
use tokio::sync::{mpsc, watch};
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

/// The most frames that wait to be applied.
const MAX_FRAMES: usize = 256;

/// The interval at which a node that starts says how far it is.
const TELL_EVERY: Duration = Duration::from_secs(5);

/// The wait before the stream is asked again.
const RETRY: Duration = Duration::from_millis(500);

/// What is to be done about a stream that was rolled back.
const RESET: &str = "`ringlog-server cluster reset` gives the log another incarnation, so that no client \
    mistakes it for the one that was lost; then start this node with an empty --data";

/// How a node stands to its cluster.
#[derive(Debug)]
pub(crate) struct ClusterStatus {
    freshness: Arc<Freshness>,
    applied: watch::Receiver<Claim>,
    /// The last position of the stream that is known.
    last: Arc<AtomicU64>,
    started: Instant,
    /// The position of the latest snapshot that is known.
    latest_snapshot: Arc<AtomicU64>,
    nodes: Nodes,
    /// The node has ended, and can go on if it is opened again.
    can_reopen: Arc<AtomicBool>,
}

impl ClusterStatus {
    /// Waits until the node has applied what the stream had when it started. How far that was is
    /// told by a frame that comes back; a server that says where the stream ends may be behind.
    pub(crate) async fn caught_up(&self) {
        while timeout(TELL_EVERY, self.freshness.wait_for(self.started)).await.is_err() {
            let Standing { position, last, .. } = self.standing();
            tracing::info!(position, last, "catching up with the stream");
        }
    }

    fn standing(&self) -> Standing {
        let position = self.applied.borrow().position;
        // The end that is known may be older than the position.
        let last = self.last.load(Ordering::Relaxed).max(position);
        Standing { position, last, stale_for: self.stale_for() }
    }

    /// The cluster's nodes, for people.
    pub(crate) fn figures(&self) -> ClusterFigures {
        self.nodes.figures(self.standing(), Instant::now())
    }

    fn own_gauges(&self) -> [Gauge; 5] {
        let Standing { position, last, stale_for } = self.standing();
        let nodes = self.nodes.count(Instant::now()) as u64;
        [
            ("cluster_position", "Position in the stream up to which frames are applied", position),
            ("cluster_lag", "Frames of the stream that are not applied yet", last - position),
            (
                "cluster_snapshot_position",
                "Position of the latest snapshot",
                self.latest_snapshot.load(Ordering::Relaxed),
            ),
            ("cluster_stale_seconds", "What this node serves may be so old", stale_for.as_secs()),
            ("cluster_nodes", "Nodes that were heard in the last 10 seconds, and this one", nodes),
        ]
    }
}

impl Peers for ClusterStatus {
    fn stale_for(&self) -> Duration {
        self.freshness.stale_for()
    }

    /// A frame came back that the node made after the call.
    fn fresh(&self) -> Pin<Box<dyn Future<Output = ()> + Send + '_>> {
        Box::pin(self.freshness.wait_for(Instant::now()))
    }

    fn gauges(&self) -> Vec<Gauge> {
        self.own_gauges().into()
    }
}

/// A node whose store is open.
pub(crate) struct Opened {
    log: Arc<ChangeLog>,
    store: DiskStore,
    reader: Arc<DiskReader>,
    echoes: Option<Arc<Echoes>>,
    machine: Machine,
    memory: Memory,
    time: Arc<AtomicU64>,
    metrics: Arc<Metrics>,
}

/// A node that runs.
pub(crate) struct Started {
    pub(crate) log: Arc<ChangeLog>,
    pub(crate) reader: Arc<DiskReader>,
    pub(crate) echoes: Option<Arc<Echoes>>,
    pub(crate) status: Arc<ClusterStatus>,
    pub(crate) applier: JoinHandle<()>,
    /// The tasks of the node.
    pub(crate) running: tokio::task::JoinHandle<()>,
}

impl Started {
    /// Waits until the store of a node that has ended is closed. True if it is to be opened again:
    /// the log was reset, or the stream has lost what comes next to a snapshot.
    pub(crate) async fn can_reopen(self) -> bool {
        let Self { running, applier, status, .. } = self;
        let _ = running.await;
        join(applier).await.is_ok() && status.can_reopen.load(Ordering::Relaxed)
    }
}

/// Connects to the log's stream. Waits for servers that do not answer.
pub(crate) async fn connect(config: &Config, cluster: &Cluster) -> Result<NatsStream, ServerError> {
    let options = options(cluster, config.max_body.max(frame::MAX_REQUESTS) + frame::OVERHEAD);
    let facts = StreamFacts {
        format: frame::FORMAT.into(),
        incarnation: Incarnation::random(),
        op_ids: config.op_ids as u64,
        capacity: config.capacity as u64,
        window_bytes: config.window_bytes as u64,
        skipped: BTreeSet::new(),
    };
    NatsStream::open(options, facts).await.map_err(|error| ServerError::Cluster(error.to_string()))
}

fn options(cluster: &Cluster, max_frame: usize) -> NatsOptions {
    NatsOptions {
        urls: cluster.urls.clone(),
        log: cluster.log.clone(),
        replicas: cluster.replicas,
        allow_one_replica: cluster.replicas == 1,
        max_bytes: cluster.max_bytes,
        max_frame,
        credentials: cluster.creds.clone(),
        ca: cluster.ca.clone(),
        create: cluster.create,
        monitor: cluster.monitor.clone(),
    }
}

/// Opens the store of a node. If the stream does not reach back to its position, it is made anew
/// from a snapshot.
pub(crate) async fn open(
    config: &Config,
    stream: &NatsStream,
    metrics: &Arc<Metrics>,
) -> Result<Opened, ServerError> {
    let extent = extent(stream).await;
    let opened = open_store(config, stream, metrics).await?;
    if extent.first <= opened.machine.position() + 1 {
        return Ok(opened);
    }
    // The file is closed before it is replaced.
    drop(opened);
    let log = (&*config.data, stream.facts().incarnation);
    keeper::load(stream, log, extent).await.map_err(|error| ServerError::Cluster(error.to_string()))?;
    open_store(config, stream, metrics).await
}

async fn open_store(
    config: &Config,
    stream: &NatsStream,
    metrics: &Arc<Metrics>,
) -> Result<Opened, ServerError> {
    let time = Arc::new(AtomicU64::new(0));
    let clock = Arc::clone(&time);
    let most = config.capacity.min(config.op_ids);
    let builder = builder(config).max_push_changes(most).clock(move || clock.load(Ordering::Relaxed));
    let memory = Memory::of_op_ids(config.op_ids as u64);
    let (incarnation, node_config) = (stream.facts().incarnation, config.clone());
    let open = move || disk::open_node(&node_config, builder, (incarnation, memory));
    let ((store, reader, log), machine) = on_thread(open).await?;
    let probe = Frame { session: new_session(), n: 1, claim: machine.claim(), ..Frame::none() };
    let verified = verify(stream, machine.position(), |frame| machine.has_last(frame), probe.encode()).await;
    verified.map_err(|error| ServerError::Cluster(error.to_string()))?;
    let echoes = config.echo.then(|| reader.echoes(config.op_ids)).transpose()?.map(Arc::new);
    let (log, metrics) = (Arc::new(log), Arc::clone(metrics));
    Ok(Opened { log, store, reader, echoes, machine, memory, time, metrics })
}

impl Opened {
    /// Starts the node. It ends when no push can come any more; if it ends for another reason, it
    /// cancels `failed`.
    pub(crate) async fn start(
        self,
        stream: NatsStream,
        nodes: Nodes,
        groups: Groups,
        failed: CancellationToken,
    ) -> io::Result<Started> {
        let Self { log, store, reader, echoes, machine, memory, time, metrics } = self;
        let skipped = stream.facts().skipped.clone();
        let stream = Arc::new(stream);
        let extent = extent(&*stream).await;
        let (frames, to_apply) = mpsc::channel(MAX_FRAMES);
        let (tell_decided, decided) = mpsc::unbounded_channel();
        let (claim, position) = watch::channel(machine.claim());
        let last = Arc::new(AtomicU64::new(extent.last));
        let freshness = Arc::new(Freshness::new());
        let keeper = Keeper {
            engine: Arc::clone(&stream),
            reader: Arc::clone(&reader),
            applied: position.clone(),
            latest: Arc::default(),
        };
        let latest_snapshot = Arc::clone(&keeper.latest);
        let tail = Tail::new(Arc::clone(&stream), machine.position() + 1, frames, Arc::clone(&last));
        let node = Node::new(
            Arc::clone(&stream),
            groups.into_jobs(),
            (decided, position.clone()),
            Arc::clone(&freshness),
            Arc::clone(&metrics),
        );
        let applier = NodeApplier {
            log: Arc::clone(&log),
            store,
            machine,
            memory,
            metrics,
            echoes: echoes.clone(),
            time,
            decided: tell_decided,
            claim,
            skipped,
        };
        let can_reopen = Arc::new(AtomicBool::new(false));
        let status = Arc::new(ClusterStatus {
            freshness,
            applied: position,
            last,
            started: Instant::now(),
            latest_snapshot,
            nodes,
            can_reopen: Arc::clone(&can_reopen),
        });
        let (applier_failed, was_reset) = (failed.clone(), Arc::clone(&can_reopen));
        let applier = std::thread::Builder::new().name("applier".into()).spawn(move || {
            // Cancelled if it panics as well.
            let failing = applier_failed.drop_guard();
            match applier.run(to_apply) {
                Ok(()) => drop(failing.disarm()),
                Err(error) => {
                    was_reset.store(matches!(error, ApplyError::Reset(_)), Ordering::Relaxed);
                    tracing::error!(%error, "this node cannot go on");
                }
            }
        });
        let applier = applier?;
        let telling = nodes::run(stream, Arc::clone(&status));
        let running = tokio::spawn(run(node, tail, keeper, telling, (failed, can_reopen)));
        Ok(Started { log, reader, echoes, status, applier, running })
    }
}

/// Where the stream ends. Waits until it can be known.
async fn extent(stream: &impl Engine) -> Extent {
    loop {
        match stream.extent().await {
            Ok(extent) => return extent,
            Err(error) => tracing::warn!(%error, "waiting for the stream"),
        }
        tokio::time::sleep(RETRY).await;
    }
}

/// Runs a node until it ends; with the tail the applier ends as well.
async fn run<E: Engine + Snapshots>(
    node: Node<E>,
    tail: Tail<E>,
    keeper: Keeper<E>,
    telling: impl Future<Output = ()>,
    (failed, can_reopen): (CancellationToken, Arc<AtomicBool>),
) {
    let error: Box<dyn std::error::Error + Send> = tokio::select! {
        ended = node.run() => match ended {
            Ok(()) => return,
            Err(diverged) => Box::new(diverged),
        },
        ended = tail.run() => match ended {
            Ok(()) => return,
            Err(error) => {
                can_reopen.store(matches!(error, TailError::Purged { .. }), Ordering::Relaxed);
                Box::new(error)
            }
        },
        () = keeper.run() => return,
        () = telling => return,
        () = failed.cancelled() => return,
    };
    tracing::error!(%error, "this node cannot go on");
    failed.cancel();
}
