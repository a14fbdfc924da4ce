//! The applier: every push goes through it, one group after the other, and nothing else appends.
//! Where the store may wait for a disk, it has a thread of its own ([`Applier::start`]); else it
//! runs on the threads that push, one at a time ([`Applier::direct`]).
//!
//! ```text
//! routes → sequencer → applier: claim → commit to the store → append to the log → answer
//! ```
//!
//! # The steps
//!
//! The [sequencer](crate::sequencer) hands over all requests that wait as a *group*. For each
//! group:
//!
//! 1. **Claim.** `Push::claim` of each request: its op ids are claimed, those applied
//!    before are known as replays, and what is to be applied is laid out. A request that shares an
//!    op id with an earlier one of the group finds it in flight. The group ends before that
//!    request, which begins the next group, and is then a replay of the other. So the order of the
//!    log is the order of requests, however they are grouped.
//!    Changes with an `if_seq` are [checked](crate::conditions) against the rows as the changes
//!    before them leave them. Those whose condition does not hold are taken out, and their op ids
//!    are free again.
//! 2. **Commit.** One transaction of the store holds, for all claims: the rows, the
//!    events with their seqs, the op ids with the same seqs, the new last seq; what has left the
//!    window and the memory of op ids is dropped. On disk, it is synced when the commit returns:
//!    the whole group shares its syncs. In memory, the next snapshot has the rows.
//! 3. **Append.** The claims are published in the order of the transaction, each as a batch. No
//!    other claim is published in between, so they get the seqs that were written.
//! 4. **Answer.** Each client gets its results, and the head.
//!
//! While a group is being committed the next one gathers. So the log's order is the order of
//! commits, and a busy server syncs no more often than an idle one.
//!
//! # Why nothing is lost, doubled or renumbered, wherever it stops
//!
//! This is about the store on disk; the one in memory and its log end together, and the next log
//! has another incarnation. On disk there is the state before a transaction or after it, never one
//! between. So there are two cases.
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
//! snapshots through a handle of their own ([`Reader`](crate::store::Reader)), so neither notices.
//! For the applier it is as if it had crashed and started again:
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

use crate::conditions;
use crate::crash;
use crate::echo::Echoes;
use crate::metrics::Metrics;
use crate::sequencer::{Answer, Groups, Job, Refused};
use crate::store::{CommitError, Store, StoreError};
use ringlog::{ChangeLog, OpStatus, PushClaim, PushResponse};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};
use tokio_util::sync::CancellationToken;

/// The wait before the first probe of a store that takes nothing, and the longest one.
const FIRST_PROBE: Duration = Duration::from_secs(1);
const LAST_PROBE: Duration = Duration::from_secs(60);

/// What the applier's thread has in hand.
pub struct Applier {
    log: Arc<ChangeLog>,
    store: Box<dyn Store>,
    metrics: Arc<Metrics>,
    groups: Groups,
    /// With `--echo`.
    echoes: Option<Arc<Echoes>>,
    /// Why the store takes nothing, since a commit failed and until a probe succeeds.
    refusing: Option<Arc<str>>,
    /// The wait before the next probe.
    next_probe: Duration,
}

/// What became of the commit of a group.
enum Outcome {
    /// It is in the store.
    Committed,
    /// Nothing of it is in the store.
    Refused(Arc<str>),
    /// The server is stopping, and it is not known.
    Stopping,
}

/// The answers of a group, until they are given.
type Answers = [Option<Answer>];

/// A request's claim, or its response where nothing is to be applied.
type Claimed<'a> = Result<PushClaim<'a>, PushResponse>;

impl Applier {
    pub fn new(log: Arc<ChangeLog>, store: Box<dyn Store>, metrics: Arc<Metrics>, groups: Groups) -> Self {
        Self { log, store, metrics, groups, echoes: None, refusing: None, next_probe: FIRST_PROBE }
    }

    /// Notes what each change is pushed under.
    pub fn with_echoes(self, echoes: Option<Arc<Echoes>>) -> Self {
        Self { echoes, ..self }
    }

    /// Starts the thread. It ends when no push can come any more; if it ends for another reason,
    /// it cancels `failed`.
    pub fn start(self, failed: CancellationToken) -> std::io::Result<JoinHandle<()>> {
        std::thread::Builder::new().name("applier".into()).spawn(move || {
            // Cancelled if it panics as well.
            let failing = failed.drop_guard();
            match self.run() {
                Ok(()) => drop(failing.disarm()),
                Err(error) => tracing::error!(%error, "the store failed: nothing more is accepted"),
            }
        })
    }

    /// For a store whose commits neither wait nor fail: applies each request on the thread that
    /// calls. A panic, in this call or an earlier one, cancels `failed` and leaves the request
    /// without an answer.
    pub fn direct(self, failed: CancellationToken) -> impl Fn(Job) + Send + Sync {
        let applier = Mutex::new(self);
        move |job| {
            let Ok(mut applier) = applier.lock() else { return };
            let failing = failed.clone().drop_guard();
            if applier.serve(vec![job]).is_ok() {
                failing.disarm();
            }
        }
    }

    fn run(mut self) -> Result<(), StoreError> {
        while let Some(group) = self.groups.next() {
            crash::point("grouped");
            self.serve(group)?;
            if let Some(why) = self.refusing.take()
                && !self.wait_for_room(&why)?
            {
                break;
            }
        }
        Ok(())
    }

    /// Applies and answers a group, or the beginning of it.
    fn serve(&mut self, group: Vec<Job>) -> Result<(), StoreError> {
        let (pushes, mut answers): (Vec<_>, Vec<_>) =
            group.into_iter().map(|job| (job.push, Some(job.answer))).unzip();
        // Not of `self`, which the commit needs.
        let log = Arc::clone(&self.log);
        let mut claims: Vec<Claimed<'_>> = Vec::with_capacity(pushes.len());
        for push in &pushes {
            let claim = push.claim(&log);
            // In flight in this group, for no other thread claims.
            if !claims.is_empty() && claim.as_ref().is_err_and(is_pending) {
                break;
            }
            claims.push(claim);
        }
        crash::point("claimed");
        let served = claims.len();
        let outcome = self.commit(&mut claims, &mut answers)?;
        self.answer(claims, &mut answers, &outcome);
        let put_back = pushes.into_iter().zip(answers).skip(served);
        let put_back = put_back.filter_map(|(push, answer)| Some(Job { push, answer: answer? }));
        self.groups.put_back(put_back.collect());
        Ok(())
    }

    /// The rest of step 1, step 2, and 5 if it fails.
    fn commit(&mut self, claims: &mut [Claimed<'_>], answers: &mut Answers) -> Result<Outcome, StoreError> {
        let (start, first_seq) = (Instant::now(), self.log.last_seq() + 1);
        let mut claims: Vec<&mut PushClaim<'_>> = claims.iter_mut().flatten().collect();
        let checked = conditions::check(&*self.store, first_seq, &mut claims);
        let claims: Vec<&PushClaim<'_>> = claims.into_iter().map(|claim| &*claim).collect();
        let changes: usize = claims.iter().map(|claim| claim.changes().len()).sum();
        if changes == 0 {
            return Ok(Outcome::Committed);
        }
        let checked = checked.map_err(|error| CommitError { nothing_written: true, error });
        match checked.and_then(|()| self.store.commit(first_seq, &claims)) {
            Ok(()) => {
                self.next_probe = FIRST_PROBE;
                self.metrics.committed(changes, start);
                Ok(Outcome::Committed)
            }
            Err(error) => {
                crash::point("failed");
                self.find_out(first_seq + changes as u64 - 1, &error, answers)
            }
        }
    }

    /// Steps 3 and 4. A client that does not wait for its answer any more can push again.
    fn answer(&self, claims: Vec<Claimed<'_>>, answers: &mut Answers, outcome: &Outcome) {
        let responses: Vec<_> = claims.into_iter().map(|claim| self.respond(claim, outcome)).collect();
        crash::point("appended");
        for (answer, response) in answers.iter_mut().zip(responses) {
            // None was told already that the outcome is not known.
            if let Some(answer) = answer.take() {
                let _ = answer.send(response);
            }
            crash::point("answered");
        }
    }

    /// Step 3 for one claim.
    fn respond(&self, claim: Claimed<'_>, outcome: &Outcome) -> Result<PushResponse, Refused> {
        let claim = match claim {
            Ok(claim) => claim,
            Err(response) => return Ok(response),
        };
        match outcome {
            Outcome::Stopping => Err(Refused::Ended),
            // What it was to apply is not stored; a repetition alone is answered.
            Outcome::Refused(why) if !claim.changes().is_empty() => Err(Refused::ReadOnly(Arc::clone(why))),
            Outcome::Committed | Outcome::Refused(_) => Ok(self.publish(claim)),
        }
    }

    fn publish(&self, claim: PushClaim<'_>) -> PushResponse {
        let last_seq = self.log.last_seq() + claim.changes().len() as u64;
        self.metrics.appending(last_seq);
        if let Some(echoes) = &self.echoes {
            echoes.add(self.log.last_seq() + 1, &claim);
        }
        let response = claim.publish();
        assert_eq!(self.log.last_seq(), last_seq, "another thread appends: what is stored has other seqs");
        crash::point("claim_appended");
        response
    }

    /// Step 5. Ends when it is known whether the group, whose last seq is `last_seq`, is stored.
    fn find_out(
        &mut self,
        last_seq: u64,
        failure: &CommitError,
        answers: &mut Answers,
    ) -> Result<Outcome, StoreError> {
        tracing::error!(error = %failure.error, "a commit failed: pushes are refused until the store takes them again");
        let why: Arc<str> = format!("the store takes nothing: {}", failure.error).into();
        self.groups.refuse(&why);
        self.refusing = Some(Arc::clone(&why));
        loop {
            match self.store.recover() {
                Ok(found) if found >= last_seq => {
                    tracing::warn!("the commit is stored all the same");
                    return Ok(Outcome::Committed);
                }
                Ok(_) => return Ok(Outcome::Refused(why)),
                Err(error) if error.is_final() => return Err(error),
                Err(error) if failure.nothing_written => {
                    tracing::error!(%error, "the store cannot be opened");
                    return Ok(Outcome::Refused(why));
                }
                Err(error) => {
                    tracing::error!(%error, "the store cannot be opened: whether the commit is stored is not known");
                }
            }
            // Their clients are told that the outcome is not known.
            answers.fill_with(|| None);
            if !self.pause(&why) {
                return Ok(Outcome::Stopping);
            }
        }
    }

    /// Step 6. False if the server stops meanwhile.
    fn wait_for_room(&mut self, why: &Arc<str>) -> Result<bool, StoreError> {
        while self.pause(why) {
            match self.store.probe() {
                Ok(()) => {
                    tracing::info!("the store takes pushes again");
                    self.groups.accept();
                    return Ok(true);
                }
                Err(error) if error.is_final() => return Err(error),
                Err(error) => tracing::debug!(%error, "there is no room yet"),
            }
        }
        Ok(false)
    }

    /// Refuses all pushes until the next probe is due; each time for twice as long. False if no
    /// push can come any more.
    fn pause(&mut self, why: &Arc<str>) -> bool {
        let time = self.next_probe;
        self.next_probe = (time * 2).min(LAST_PROBE);
        self.groups.refuse_for(time, why)
    }
}

/// Whether an op id of the request is in flight.
pub fn is_pending(response: &PushResponse) -> bool {
    response.results.iter().any(|result| result.status == OpStatus::Pending)
}

#[cfg(test)]
mod tests;
