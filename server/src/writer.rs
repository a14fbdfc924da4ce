//! The writer: one thread through which every push goes, and the only one that appends.
//!
//! # The steps
//!
//! All requests that wait make a *group*. For each group:
//!
//! 1. **Claim.** [`Push::claim`] of each request: its op ids are claimed, those applied
//!    before are known as replays, and what is to be applied is laid out. A request that shares an
//!    op id with another one of the group finds it in flight; it is put off, to be the first of the
//!    next group, and is then a replay of the other.
//! 2. **Commit.** One transaction holds, for all claims: the rows, the events with their seqs, the
//!    op ids with the same seqs, the new last seq; what has left the window and the memory of op
//!    ids is dropped. It is on disk when the commit returns: the whole group shares its syncs.
//! 3. **Append.** The claims are published in the order of the transaction, each as a batch. No
//!    other thread appends, so they get the seqs that were written.
//! 4. **Answer.** Each client gets its results, and the head.
//!
//! While a group is being committed the next one gathers. So the log's order is the order of
//! commits, and a busy server syncs no more often than an idle one.
//!
//! # Why nothing is lost, doubled or renumbered, wherever it stops
//!
//! On disk there is the state before a transaction or after it, never one between. So there are two
//! cases.
//!
//! - **It stopped before the commit was on disk**: in step 1, or in 2 before the header was
//!   written. Of this group nothing is on disk, nothing was appended (3 comes after 2) and nothing
//!   was answered. No reader has seen these seqs, so they can be given to others. The clients got
//!   no answer; they push again, the op ids are unknown, and the changes are applied for the first
//!   time.
//! - **It stopped after that**: in 2 before it returned, in 3 or in 4. The rows, the events, the op
//!   ids and the last seq of the whole group are on disk. The restored log goes on after them.
//!   Readers may have seen all, some or none of these events: what they saw is what is on disk,
//!   under the same seqs, so their cursors are good and they go on. A client that got no answer
//!   pushes again, and is answered as a replay with the seq that was written. One that got an
//!   answer got a true one.
//!
//! A seq is shown only in steps 3 and 4, when it is on disk with its event. That is why
//! the commit comes first. The other way round, a reader could have seen an event that a crash
//! takes back, and the seq would mean something else afterwards; it would have to resync, if it
//! ever found out.
//!
//! # A commit that fails
//!
//! A disk may be full, read-only, or broken. The process goes on then: reads come from the log, and
//! snapshots through a handle of their own ([`Store`](crate::store::Store)), so neither notices.
//! For the writer it is as if it had crashed and started again:
//!
//! | it failed | on disk is | what it does |
//! | --- | --- | --- |
//! | in step 1, or in 2 before the commit began (no room for the file to grow) | the state before | refuses the group, opens the store anew |
//! | in the commit, its pages were written or synced | the state before: no header names them | opens, finds the state before, refuses |
//! | in the commit, its header was written or synced | either | opens, finds one of them; goes on to 3 if it is the one after |
//! | at opening, after one of these | what it was | of the first case refuses the group; else the outcome is unknown: it holds the claims, and opens again later |
//!
//! 5. **Find out.** The failed handle is closed and the file opened, which repairs it as after a
//!    crash and *commits and syncs* the state that it found. So what was found is on disk from then
//!    on, be it that the failed sync had left it in the system's memory only. If its last seq is
//!    that of the group, the group is committed: on to step 3. If not, nothing of it is on disk,
//!    the claims are dropped, and the clients get 503 `STORE_FULL`, which says that nothing was
//!    applied.
//! 6. **Wait for room.** Pushes are refused at once; the store is not touched. After a second, then
//!    after twice as long each time up to a minute, a file of 1 MiB is written, synced and removed.
//!    Once that works, pushes are taken again. What passes this probe and fails all the same waits
//!    for twice as long again.
//!
//! While the outcome is unknown the claims stay in hand, so no repetition of theirs can be applied:
//! their clients are told to push again, and are answered when it is known. Nothing is appended in
//! between, no other change gets their seqs. A crash in step 5 or 6 is one of the two cases above.
//! A store that is found damaged is not written to any more: the server ends.
//!
//! A snapshot may read rows that are committed and not appended yet. Its cursor would lie ahead of
//! the log; so it is held back until the log has got there.

use crate::crash;
use crate::envelope::Push;
use crate::metrics::Metrics;
use crate::store::{Committer, Failure, StoreError};
use arc_swap::ArcSwapOption;
use ringlog::{ChangeLog, OpStatus, PushClaim, PushResponse};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};
use tokio::sync::mpsc::error::{TryRecvError, TrySendError};
use tokio::sync::{mpsc, oneshot};
use tokio_util::sync::CancellationToken;

/// The most changes that one transaction takes. The last request of a group may go beyond.
const MAX_GROUP_CHANGES: usize = 4096;

/// How many requests wait at most; further ones are told to come back.
const MAX_WAITING: usize = 4096;

/// How long it waits before it looks whether the disk takes something again, the first time and at
/// most.
const FIRST_PROBE: Duration = Duration::from_secs(1);
const LAST_PROBE: Duration = Duration::from_secs(60);

/// How often it looks for pushes to refuse meanwhile.
const REFUSING: Duration = Duration::from_millis(20);

/// Why a push was not answered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Refused {
    /// Too many wait. Nothing was applied.
    Busy,
    /// The store takes nothing at present. Nothing was applied.
    ReadOnly(Arc<str>),
    /// The writer has ended, or ended meanwhile. Whether anything was applied is not known.
    Ended,
}

/// A push that waits, with its memory and what pays for that, and where its answer goes.
struct Job {
    push: Push,
    answer: Answer,
}

type Answer = oneshot::Sender<Result<PushResponse, Refused>>;

/// The way to the writer. It ends when the last clone is dropped and all that waited is done.
#[derive(Debug, Clone)]
pub(crate) struct Writer {
    jobs: mpsc::Sender<Job>,
    /// Why the store takes nothing, if it does not.
    read_only: Arc<ArcSwapOption<Arc<str>>>,
}

impl Writer {
    /// Starts the writer's thread; `failed` is cancelled if it ends without having been told to.
    pub(crate) fn start(
        log: Arc<ChangeLog>,
        committer: Committer,
        metrics: Arc<Metrics>,
        failed: CancellationToken,
    ) -> std::io::Result<(Self, JoinHandle<()>)> {
        let (jobs, waiting) = mpsc::channel(MAX_WAITING);
        let read_only = Arc::default();
        let thread = Thread {
            log,
            committer,
            metrics,
            waiting,
            read_only: Arc::clone(&read_only),
            next_probe: FIRST_PROBE,
        };
        let handle = std::thread::Builder::new().name("writer".into()).spawn(move || {
            // Also if it panics.
            let failing = failed.drop_guard();
            match thread.run() {
                Ok(()) => drop(failing.disarm()),
                Err(error) => tracing::error!(%error, "the store failed: nothing more is accepted"),
            }
        })?;
        Ok((Self { jobs, read_only }, handle))
    }

    /// Applies a request. Its changes are on disk and in the log when this returns.
    pub(crate) async fn push(&self, push: Push) -> Result<PushResponse, Refused> {
        if let Some(why) = self.read_only.load_full() {
            return Err(Refused::ReadOnly(Arc::clone(&why)));
        }
        let (answer, answered) = oneshot::channel();
        self.jobs.try_send(Job { push, answer }).map_err(|error| match error {
            TrySendError::Full(_) => Refused::Busy,
            TrySendError::Closed(_) => Refused::Ended,
        })?;
        answered.await.unwrap_or(Err(Refused::Ended))
    }

    /// How many requests wait.
    pub(crate) fn waiting(&self) -> usize {
        MAX_WAITING - self.jobs.capacity()
    }

    /// Whether the store takes pushes.
    pub(crate) fn is_writable(&self) -> bool {
        self.read_only.load().is_none()
    }
}

/// What the writer's thread has in hand.
struct Thread {
    log: Arc<ChangeLog>,
    committer: Committer,
    metrics: Arc<Metrics>,
    waiting: mpsc::Receiver<Job>,
    read_only: Arc<ArcSwapOption<Arc<str>>>,
    /// How long to wait before the next look whether the disk takes something.
    next_probe: Duration,
}

/// How the commit of a group went.
enum Outcome {
    /// It is on disk.
    Committed,
    /// Nothing of it is on disk.
    Refused(Arc<str>),
    /// The server is stopping, and it is not known.
    Stopping,
}

/// Whether there is more to come.
enum Goes {
    On,
    /// Pushes are refused from now on.
    Ending,
}

impl Thread {
    fn run(mut self) -> Result<(), StoreError> {
        let mut group = Vec::new();
        loop {
            if group.is_empty() {
                match self.waiting.blocking_recv() {
                    Some(job) => group.push(job),
                    None => return Ok(()),
                }
            }
            let mut changes: usize = group.iter().map(|job: &Job| job.push.len()).sum();
            while changes < MAX_GROUP_CHANGES
                && let Ok(job) = self.waiting.try_recv()
            {
                changes += job.push.len();
                group.push(job);
            }
            crash::point("grouped");
            group = self.serve(group)?;
            if !self.read_only.load().is_none() {
                refuse(group.drain(..).map(|job| job.answer), &self.reason());
                if let Goes::Ending = self.wait_for_room()? {
                    return Ok(());
                }
            }
        }
    }

    /// Applies and answers a group. Gives back those that are put off.
    fn serve(&mut self, group: Vec<Job>) -> Result<Vec<Job>, StoreError> {
        let (pushes, mut answers): (Vec<_>, Vec<_>) =
            group.into_iter().map(|job| (job.push, Some(job.answer))).unzip();
        let responses = self.apply(&pushes, &mut answers)?;
        crash::point("appended");
        let mut put_off = Vec::new();
        for ((push, answer), response) in pushes.into_iter().zip(answers).zip(responses) {
            match (answer, response) {
                // A client that does not wait for it any more can push again.
                (Some(answer), Some(response)) => drop(answer.send(response)),
                (Some(answer), None) => put_off.push(Job { push, answer }),
                // It was told that the outcome is not known.
                (None, _) => {}
            }
            crash::point("answered");
        }
        Ok(put_off)
    }

    /// Steps 1 to 3. No response for what is put off.
    fn apply(
        &mut self,
        pushes: &[Push],
        answers: &mut [Option<Answer>],
    ) -> Result<Vec<Option<Result<PushResponse, Refused>>>, StoreError> {
        // Not of `self`, which the commit needs.
        let log = Arc::clone(&self.log);
        let claims: Vec<_> = pushes.iter().map(|push| push.claim(&log)).collect();
        crash::point("claimed");
        let changes: usize = claims.iter().flatten().map(|claim| claim.changes().len()).sum();
        let outcome = if changes > 0 { self.commit(&claims, changes, answers)? } else { Outcome::Committed };
        let mut responses = Vec::with_capacity(claims.len());
        let mut next = log.last_seq() + 1;
        for claim in claims {
            responses.push(match (claim, &outcome) {
                (Ok(_), Outcome::Stopping) => Some(Err(Refused::Ended)),
                // What it was to apply is not on disk; a repetition alone is answered.
                (Ok(claim), Outcome::Refused(why)) if !claim.changes().is_empty() => {
                    Some(Err(Refused::ReadOnly(Arc::clone(why))))
                }
                (Ok(claim), _) => Some(Ok(self.publish(claim, &mut next))),
                (Err(response), _) if is_pending(&response) => None,
                (Err(response), _) => Some(Ok(response)),
            });
        }
        Ok(responses)
    }

    /// Step 3 for one claim.
    fn publish(&self, claim: PushClaim<'_>, next: &mut u64) -> PushResponse {
        *next += claim.changes().len() as u64;
        self.metrics.appending(*next - 1);
        let response = claim.publish();
        assert_eq!(self.log.last_seq(), *next - 1, "another thread appends: what is on disk has other seqs");
        crash::point("claim_appended");
        response
    }

    /// Step 2, and 5 if it fails.
    fn commit(
        &mut self,
        claims: &[Result<PushClaim<'_>, PushResponse>],
        changes: usize,
        answers: &mut [Option<Answer>],
    ) -> Result<Outcome, StoreError> {
        let (start, first) = (Instant::now(), self.log.last_seq() + 1);
        match self.committer.commit(first, claims.iter().flatten()) {
            Ok(()) => {
                self.next_probe = FIRST_PROBE;
                self.metrics.committed(changes, start);
                Ok(Outcome::Committed)
            }
            Err(failure) => {
                crash::point("failed");
                self.find_out(first + changes as u64 - 1, &failure, answers)
            }
        }
    }

    /// Step 5. Ends when it is known whether the group, whose last seq is `last`, is on disk.
    fn find_out(
        &mut self,
        last: u64,
        failure: &Failure,
        answers: &mut [Option<Answer>],
    ) -> Result<Outcome, StoreError> {
        tracing::error!(error = %failure.error, "a commit failed: pushes are refused until the store takes them again");
        let why: Arc<str> = format!("the store takes nothing: {}", failure.error).into();
        self.read_only.store(Some(Arc::new(Arc::clone(&why))));
        loop {
            match self.committer.reopen() {
                Ok(found) if found >= last => {
                    tracing::warn!("the commit is on disk all the same");
                    self.committer.committed(found);
                    return Ok(Outcome::Committed);
                }
                Ok(_) => return Ok(Outcome::Refused(why)),
                Err(error @ (StoreError::Damaged { .. } | StoreError::Format { .. })) => return Err(error),
                Err(error) if failure.is_known => {
                    tracing::error!(%error, "the store cannot be opened");
                    return Ok(Outcome::Refused(why));
                }
                Err(error) => {
                    tracing::error!(%error, "the store cannot be opened: whether the commit is on disk is not known");
                }
            }
            // They are told that the outcome is not known.
            for answer in answers.iter_mut() {
                drop(answer.take());
            }
            if let Goes::Ending = self.pause() {
                return Ok(Outcome::Stopping);
            }
        }
    }

    /// Step 6.
    fn wait_for_room(&mut self) -> Result<Goes, StoreError> {
        loop {
            if let Goes::Ending = self.pause() {
                return Ok(Goes::Ending);
            }
            match self.committer.probe() {
                Ok(()) => {
                    tracing::info!("the store takes pushes again");
                    self.read_only.store(None);
                    return Ok(Goes::On);
                }
                Err(error @ (StoreError::Damaged { .. } | StoreError::Format { .. })) => return Err(error),
                Err(error) => tracing::debug!(%error, "there is no room yet"),
            }
        }
    }

    /// Refuses all pushes until it is time for the next look, each time for twice as long.
    fn pause(&mut self) -> Goes {
        let until = Instant::now() + self.next_probe;
        self.next_probe = (self.next_probe * 2).min(LAST_PROBE);
        let why = self.reason();
        while Instant::now() < until {
            match self.waiting.try_recv() {
                Ok(job) => refuse([job.answer], &why),
                Err(TryRecvError::Empty) => std::thread::sleep(REFUSING),
                Err(TryRecvError::Disconnected) => return Goes::Ending,
            }
        }
        Goes::On
    }

    /// Why pushes are refused.
    fn reason(&self) -> Arc<str> {
        self.read_only.load().as_deref().map_or_else(|| "the store takes nothing".into(), Arc::clone)
    }
}

fn refuse(answers: impl IntoIterator<Item = Answer>, why: &Arc<str>) {
    for answer in answers {
        drop(answer.send(Err(Refused::ReadOnly(Arc::clone(why)))));
    }
}

/// Whether an op id was in flight: in this group, for no other thread claims.
fn is_pending(answer: &PushResponse) -> bool {
    answer.results.iter().any(|result| result.status == OpStatus::Pending)
}

#[cfg(test)]
mod tests;
