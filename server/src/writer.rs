//! The writer: one thread through which every push goes, and the only one that appends.
//!
//! # The steps
//!
//! All requests that wait make a *group*. For each group:
//!
//! 1. **Claim.** [`ChangeLog::claim_push`] of each request: its op ids are claimed, those applied before are known as
//!    replays, and what is to be applied is laid out. A request that shares an op id with another one of the group finds it in
//!    flight; it is put off, to be the first of the next group, and is then a replay of the other.
//! 2. **Commit.** One transaction holds, for all claims: the rows, the events with their seqs, the op ids with the same seqs,
//!    the new last seq; what has left the window and the memory of op ids is dropped. It is on disk when the commit returns:
//!    the whole group shares its syncs.
//! 3. **Append.** The claims are published in the order of the transaction, each as a batch. Nobody else appends, so they get
//!    the seqs that were written.
//! 4. **Answer.** Each client gets its results, and the head.
//!
//! While a group is being committed the next one gathers. So the log's order is the order of commits, and a busy server syncs no
//! more often than an idle one.
//!
//! # Why nothing is lost, doubled or renumbered, wherever it stops
//!
//! On disk there is the state before a transaction or after it, never one between. So there are two cases.
//!
//! - **It stopped before the commit was on disk**: in step 1, or in 2 before the header was written. Of this group nothing is on
//!   disk, nothing was appended (3 comes after 2) and nothing was answered. No reader has seen these seqs, so they can be given to
//!   others. The clients got no answer; they push again, the op ids are unknown, and the changes are applied for the first time.
//! - **It stopped after that**: in 2 before it returned, in 3 or in 4. The rows, the events, the op ids and the last seq of the whole
//!   group are on disk. The restored log goes on after them. Readers may have seen all, some or none of these events:
//!   what they saw is what is on disk, under the same seqs, so their cursors are good and they go on. Who got no answer
//!   pushes again, and is answered as a replay with the seq that was written. Who got one is not lied to.
//!
//! A seq is shown to anybody only in steps 3 and 4, when it is on disk with its event. That is why the commit comes first. The
//! other way round, a reader could have seen an event that a crash takes back, and the seq would mean something else
//! afterwards; it would have to resync, if it ever found out.
//!
//! A commit that *fails* leaves it open on which side of the line it stopped. So the writer does not go on: the
//! clients are told that the outcome is unknown, the server ends, and the next start reads from the disk what is true. Op ids make
//! pushing again harmless in either case.
//!
//! A snapshot may read rows that are committed and not appended yet. Its cursor would lie ahead of the log; so it is
//! held back until the log has got there.

use crate::crash;
use crate::metrics::Metrics;
use crate::store::Store;
use ringlog::{ChangeLog, OpStatus, PushRequest, PushResponse};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Instant;
use tokio::sync::{mpsc, oneshot};
use tokio_util::sync::CancellationToken;

/// The most changes that one transaction takes. The last request of a group may go beyond.
const MAX_GROUP_CHANGES: usize = 4096;

/// How many requests wait at most; further ones are told to come back.
const MAX_WAITING: usize = 4096;

/// Why a push was not answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Refused {
    /// Too many wait. Nothing was applied.
    Busy,
    /// The writer has ended, or ended meanwhile. Whether anything was applied is not known.
    Ended,
}

/// A request that waits, and where its answer goes.
struct Job {
    request: PushRequest,
    answer: oneshot::Sender<PushResponse>,
}

/// The way to the writer. It ends when the last clone is dropped and all that waited is done.
#[derive(Debug, Clone)]
pub(crate) struct Writer {
    jobs: mpsc::Sender<Job>,
}

impl Writer {
    /// Starts the writer's thread; `failed` is cancelled if it ends without having been told to.
    pub(crate) fn start(
        log: Arc<ChangeLog>,
        store: Arc<Store>,
        metrics: Arc<Metrics>,
        failed: CancellationToken,
    ) -> std::io::Result<(Self, JoinHandle<()>)> {
        let (jobs, waiting) = mpsc::channel(MAX_WAITING);
        let thread = Thread { log, store, metrics };
        let handle = std::thread::Builder::new().name("writer".into()).spawn(move || {
            // Also if it panics.
            let failing = failed.drop_guard();
            match thread.run(waiting) {
                Ok(()) => drop(failing.disarm()),
                Err(error) => tracing::error!(%error, "the store failed: nothing more is accepted"),
            }
        })?;
        Ok((Self { jobs }, handle))
    }

    /// Applies a request. Its changes are on disk and in the log when this returns.
    pub(crate) async fn push(&self, request: PushRequest) -> Result<PushResponse, Refused> {
        let (answer, answered) = oneshot::channel();
        self.jobs.try_send(Job { request, answer }).map_err(|error| match error {
            mpsc::error::TrySendError::Full(_) => Refused::Busy,
            mpsc::error::TrySendError::Closed(_) => Refused::Ended,
        })?;
        answered.await.map_err(|_| Refused::Ended)
    }

    /// How many requests wait.
    pub(crate) fn waiting(&self) -> usize {
        MAX_WAITING - self.jobs.capacity()
    }
}

/// What the writer's thread has in hand.
struct Thread {
    log: Arc<ChangeLog>,
    store: Arc<Store>,
    metrics: Arc<Metrics>,
}

impl Thread {
    fn run(&self, mut waiting: mpsc::Receiver<Job>) -> Result<(), redb::Error> {
        let mut group = Vec::new();
        loop {
            if group.is_empty() {
                match waiting.blocking_recv() {
                    Some(job) => group.push(job),
                    None => return Ok(()),
                }
            }
            let mut changes: usize = group.iter().map(|job: &Job| job.request.changes.len()).sum();
            while changes < MAX_GROUP_CHANGES
                && let Ok(job) = waiting.try_recv()
            {
                changes += job.request.changes.len();
                group.push(job);
            }
            crash::point("grouped");
            group = self.serve(group)?;
        }
    }

    /// Applies and answers a group. Gives back those that are put off.
    fn serve(&self, group: Vec<Job>) -> Result<Vec<Job>, redb::Error> {
        let answers = self.apply(&group)?;
        crash::point("appended");
        let mut put_off = Vec::new();
        for (job, answer) in group.into_iter().zip(answers) {
            match answer {
                // Who does not wait for it any more can push again.
                Some(answer) => drop(job.answer.send(answer)),
                None => put_off.push(job),
            }
            crash::point("answered");
        }
        Ok(put_off)
    }

    /// Steps 1 to 3. No answer for what is put off.
    fn apply(&self, group: &[Job]) -> Result<Vec<Option<PushResponse>>, redb::Error> {
        let claims: Vec<_> = group.iter().map(|job| self.log.claim_push(&job.request)).collect();
        crash::point("claimed");
        let mut next = self.log.last_seq() + 1;
        let changes: usize = claims.iter().flatten().map(|claim| claim.changes().len()).sum();
        if changes > 0 {
            let start = Instant::now();
            self.store.commit(next, claims.iter().flatten())?;
            self.metrics.committed(changes, start);
        }
        let mut answers = Vec::with_capacity(claims.len());
        for claim in claims {
            answers.push(match claim {
                Ok(claim) => {
                    next += claim.changes().len() as u64;
                    self.metrics.appending(next - 1);
                    let answer = claim.publish();
                    assert_eq!(
                        self.log.last_seq(),
                        next - 1,
                        "somebody else appends: what is on disk has other seqs"
                    );
                    crash::point("claim_appended");
                    Some(answer)
                }
                Err(answer) if is_pending(&answer) => None,
                Err(answer) => Some(answer),
            });
        }
        Ok(answers)
    }
}

/// Whether an op id was in flight: in this group, for nobody else claims.
fn is_pending(answer: &PushResponse) -> bool {
    answer.results.iter().any(|result| result.status == OpStatus::Pending)
}
