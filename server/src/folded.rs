//! The rows in memory, where there is no store: an embedded follower folds the log, and publishes
//! each state whole.
//!
//! The follower must not be lapped, or changes would be missing from the rows for ever. So a push
//! takes a permit for each of its changes and for each byte of their text before it appends, there
//! are as many permits as the window has seqs and bytes, and they are given back when the changes
//! are folded: what is not folded yet is always in the window.

use arc_swap::ArcSwap;
use imbl::OrdMap;
use ringlog::{ChangeKind, ChangeLog, Follower};
use std::ops::Bound;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;
use tokio::sync::{Semaphore, SemaphorePermit, watch};
use tokio_util::sync::CancellationToken;

/// So many events are folded before the state is published again.
const BATCH: usize = 1024;

/// How long the thread that folds sleeps before it looks whether it shall end.
const PATIENCE: Duration = Duration::from_millis(200);

/// The rows, kept in step with a log.
#[derive(Debug)]
pub(crate) struct Folded {
    state: ArcSwap<FoldedRows>,
    /// The last seq folded, for a thread that waits for it.
    reached: watch::Sender<u64>,
    /// One for each seq of the window that is free to be appended to.
    seqs: Semaphore,
    /// One for each byte of the window that is free to be appended to.
    bytes: Semaphore,
}

/// Room in the window, for changes that are to be appended.
#[derive(Debug)]
pub(crate) struct Room<'a> {
    seqs: SemaphorePermit<'a>,
    bytes: SemaphorePermit<'a>,
}

impl Room<'_> {
    /// So much was appended: the follower gives it back when it is folded. The rest goes back now.
    pub(crate) fn used(mut self, changes: usize, bytes: usize) {
        for (permit, count) in [(&mut self.seqs, changes), (&mut self.bytes, bytes)] {
            if let Some(taken) = permit.split(count) {
                taken.forget();
            }
        }
    }
}

/// The rows of one moment. A copy shares what did not change.
#[derive(Debug, Clone, Default)]
pub(crate) struct FoldedRows {
    rows: OrdMap<(Arc<str>, Arc<str>), Row>,
    last_seq: u64,
}

#[derive(Debug, Clone)]
struct Row {
    seq: u64,
    data: Option<Arc<str>>,
}

impl Folded {
    /// No rows yet, for a log that is empty.
    pub(crate) fn new(log: &ChangeLog, capacity: usize, bytes: usize) -> Self {
        let last_seq = log.last_seq();
        Self {
            state: ArcSwap::from_pointee(FoldedRows { rows: OrdMap::new(), last_seq }),
            reached: watch::Sender::new(last_seq),
            seqs: Semaphore::new(capacity),
            bytes: Semaphore::new(bytes),
        }
    }

    /// Starts the thread that folds. It ends when `stop` is cancelled, or cancels `failed` if it
    /// cannot go on.
    pub(crate) fn start(
        self: &Arc<Self>,
        log: &Arc<ChangeLog>,
        stop: CancellationToken,
        failed: CancellationToken,
    ) -> std::io::Result<JoinHandle<()>> {
        let follower = log.follow(log.cursor());
        let folded = Arc::clone(self);
        std::thread::Builder::new().name("fold".into()).spawn(move || {
            // Also if it panics: the rows would not be kept.
            let failing = failed.drop_guard();
            folded.follow(follower, &stop);
            if stop.is_cancelled() {
                failing.disarm();
            }
        })
    }

    fn follow(&self, mut follower: Follower, stop: &CancellationToken) {
        let mut state = FoldedRows::clone(&self.state.load());
        while !stop.is_cancelled() {
            let (count, bytes) = match follower.blocking_next(BATCH, PATIENCE) {
                Ok(None) => return,
                Ok(Some(batch)) if batch.is_empty() => continue,
                Ok(Some(batch)) => {
                    let mut bytes = 0;
                    for event in &batch {
                        bytes += text_len(event.entity(), event.row_id(), event.data_json());
                        state.apply(
                            event.kind(),
                            event.entity(),
                            event.row_id(),
                            event.data_json(),
                            event.seq(),
                        );
                    }
                    (batch.len(), bytes)
                }
                Err(resync) => {
                    tracing::error!(%resync, "the rows cannot be kept any longer");
                    return;
                }
            };
            self.state.store(Arc::new(state.clone()));
            self.reached.send_replace(state.last_seq);
            self.seqs.add_permits(count);
            self.bytes.add_permits(bytes);
        }
    }

    /// Waits until so many changes, with so many bytes of text, can be appended without the oldest
    /// unfolded one leaving the window.
    pub(crate) async fn room(&self, changes: usize, bytes: usize) -> Option<Room<'_>> {
        let seqs = self.seqs.acquire_many(changes as u32).await.ok()?;
        Some(Room { seqs, bytes: self.bytes.acquire_many(u32::try_from(bytes).ok()?).await.ok()? })
    }

    /// The rows, once everything up to `seq` is folded into them.
    pub(crate) async fn rows(&self, seq: u64) -> Arc<FoldedRows> {
        // It cannot fail: the sender is here.
        let _ = self.reached.subscribe().wait_for(|reached| *reached >= seq).await;
        self.state.load_full()
    }
}

/// How many bytes of text an event holds: what the window's limit of bytes counts.
pub(crate) fn text_len(entity: &str, row_id: &str, data: Option<&str>) -> usize {
    entity.len() + row_id.len() + data.map_or(0, str::len)
}

impl FoldedRows {
    fn apply(&mut self, kind: ChangeKind, entity: &str, row_id: &str, data: Option<&str>, seq: u64) {
        let key = (Arc::from(entity), Arc::from(row_id));
        match kind {
            ChangeKind::Insert | ChangeKind::Update => {
                self.rows.insert(key, Row { seq, data: data.map(Arc::from) });
            }
            ChangeKind::Delete => {
                self.rows.remove(&key);
            }
        }
        self.last_seq = seq;
    }

    pub(crate) fn last_seq(&self) -> u64 {
        self.last_seq
    }

    /// As [`StoredRows::walk`](crate::store::StoredRows::walk).
    pub(crate) fn walk(
        &self,
        after: Option<(&str, &str)>,
        mut each: impl FnMut(&str, &str, u64, Option<&str>) -> bool,
    ) {
        let after = after.map(|(entity, row_id)| (Arc::from(entity), Arc::from(row_id)));
        let from: Bound<(Arc<str>, Arc<str>)> = after.map_or(Bound::Unbounded, Bound::Excluded);
        for ((entity, row_id), row) in self.rows.range((from, Bound::Unbounded)) {
            if !each(entity, row_id, row.seq, row.data.as_deref()) {
                break;
            }
        }
    }
}
