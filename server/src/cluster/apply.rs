//! The applier of a node: each frame in the order of the stream, on a thread of its own.
//!
//! ```text
//! stream → tail → decide → claim → commit to the store → append to the log → answer
//! ```
//!
//! All nodes do the same with the same frame, so that all have the same log. What could differ is
//! kept out:
//!
//! - *The time* of the events is the frame's, not that of a clock.
//! - *The grouping*: a frame is applied alone, and in it each request sees the op ids of those
//!   before it. A request that shares an op id with one that is not committed yet begins another
//!   part of the frame.
//! - *The text*: a request is parsed from what its client sent.
//! - *The limits*: those of a request are checked where it is taken, and hold for that node only.
//!   Those that decide what a claim does (window, op ids) are the cluster's.
//!
//! # Wherever it stops
//!
//! The frame is in the stream before any of this, and stays there. The store has the state after
//! some frame, never after a part of one: only the last part is synced with its position.
//!
//! | it stopped | the store has | what happens |
//! | --- | --- | --- |
//! | before the commit, or after it and before a sync | an earlier position | the frames after it are applied again, to the same seqs |
//! | after a sync | the position | the next frame is applied |
//! | before the answer | | the client does not know; it pushes again, here or elsewhere, and is answered as a replay |
//! | at a [reset](super::machine#reset), before its commit | an earlier position | it is applied again |
//! | after that | its position, and the new incarnation, synced together | the node is opened again, as that log |
//!
//! A seq that a client has seen was given by a frame that a quorum of the stream's servers holds.

use super::engine::Message;
use super::frame::{Claim, Frame, FrameError, Session};
use super::machine::{Machine, Memory, Verdict};
use crate::store::StoreError;
use crate::store::disk::{DiskStore, Sync};
use ringlog::{ChangeLog, PushClaim, PushResponse};
use ringlog_axum::applier::is_pending;
use ringlog_axum::conditions;
use ringlog_axum::crash;
use ringlog_axum::echo::Echoes;
use ringlog_axum::envelope::Push;
use ringlog_axum::metrics::Metrics;
use ringlog_axum::share::Pushing;
use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};
use tokio::sync::{mpsc, watch};

/// The interval at which commits are synced.
const SYNC: Duration = Duration::from_secs(1);

/// Why a node cannot go on.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ApplyError {
    #[error(
        "position {position}: {source} (if no version can, `ringlog-server cluster skip` leads all nodes past it)"
    )]
    Frame { position: u64, source: FrameError },
    #[error("position {position}: a request cannot be read ({reason}): the nodes have different versions")]
    Request { position: u64, reason: String },
    /// The store has the new incarnation.
    #[error("position {0}: the log was reset, and is another one from here on: start the node again")]
    Reset(u64),
    #[error("{0} (the store of a node may be removed: it is made anew from the stream)")]
    Store(#[from] StoreError),
    #[error(transparent)]
    Row(#[from] ringlog_axum::StoreError),
}

/// What became of a frame.
pub(crate) struct Decided {
    pub(crate) session: Session,
    pub(crate) n: u64,
    pub(crate) verdict: Verdict,
    /// Those to its requests, if it is applied.
    pub(crate) responses: Vec<PushResponse>,
}

/// What the thread has in hand.
pub(crate) struct NodeApplier {
    pub(crate) log: Arc<ChangeLog>,
    pub(crate) store: DiskStore,
    pub(crate) machine: Machine,
    pub(crate) memory: Memory,
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) echoes: Option<Arc<Echoes>>,
    /// The time of the frame that is being applied: the clock of the log.
    pub(crate) time: Arc<AtomicU64>,
    pub(crate) decided: mpsc::UnboundedSender<Decided>,
    /// What a frame that is made now claims.
    pub(crate) claim: watch::Sender<Claim>,
    /// Positions of messages that are no frames, and that an operator has told to skip.
    pub(crate) skipped: BTreeSet<u64>,
}

impl NodeApplier {
    /// Runs until no frame can come any more. What was applied is on disk then.
    pub(crate) fn run(mut self, mut frames: mpsc::Receiver<Message>) -> Result<(), ApplyError> {
        let mut synced_at = Instant::now();
        while let Some(message) = frames.blocking_recv() {
            let sync = if synced_at.elapsed() >= SYNC { Sync::Now } else { Sync::Later };
            let decided = self.apply(&message, sync)?;
            if sync == Sync::Now {
                synced_at = Instant::now();
            }
            self.claim.send_replace(self.machine.claim());
            // The publisher is gone while the node ends.
            let _ = self.decided.send(decided);
        }
        Ok(self.store.sync()?)
    }

    /// Applies the next frame.
    fn apply(&mut self, message: &Message, sync: Sync) -> Result<Decided, ApplyError> {
        let position = message.position;
        let (frame, verdict) = match Frame::decode(&message.frame) {
            Ok(frame) => {
                let verdict = self.machine.decide(&frame);
                (frame, verdict)
            }
            Err(_) if self.skipped.contains(&position) => (Frame::none(), Verdict::Foreign),
            Err(source) => return Err(ApplyError::Frame { position, source }),
        };
        self.metrics.decided(verdict.as_str());
        if verdict == Verdict::Foreign {
            let session = frame.session.0;
            tracing::error!(
                position,
                session,
                "a frame of another history is not applied: its node has diverged"
            );
        }
        let requests = if verdict == Verdict::Applied { &*frame.requests } else { &[] };
        let pushes: Result<Vec<_>, _> = requests.iter().map(|text| read(text)).collect();
        let pushes = pushes.map_err(|reason| ApplyError::Request { position, reason })?;
        self.time.store(frame.timestamp_millis, Ordering::Relaxed);
        let sync = if frame.reset.is_some() { Sync::Now } else { sync };

        // Not of `self`, which the commit needs.
        let log = Arc::clone(&self.log);
        let (mut responses, mut rest) = (Vec::with_capacity(pushes.len()), &*pushes);
        loop {
            let mut claims = claim(&log, &mut rest);
            let (first_seq, start) = (log.last_seq() + 1, Instant::now());
            let mut to_apply: Vec<_> = claims.iter_mut().flatten().collect();
            conditions::check(&self.store, first_seq, &mut to_apply)?;
            let to_apply: Vec<&PushClaim<'_>> = to_apply.into_iter().map(|claim| &*claim).collect();
            let changes: usize = to_apply.iter().map(|claim| claim.changes().len()).sum();
            if rest.is_empty() {
                let last_seq = log.last_seq() + changes as u64;
                let step = self.machine.step(&message.frame, &frame, verdict, last_seq);
                self.store.commit_frame(first_seq, &to_apply, (&step, self.memory), sync)?;
                self.machine.advance(&step);
            } else {
                self.store.commit_requests(first_seq, &to_apply)?;
            }
            if changes > 0 {
                self.metrics.committed(changes, start);
            }
            responses.extend(claims.into_iter().map(|claim| self.respond(claim)));
            if rest.is_empty() {
                break;
            }
        }
        crash::point("frame_appended");
        if frame.reset.is_some() {
            return Err(ApplyError::Reset(position));
        }
        Ok(Decided { session: frame.session, n: frame.n, verdict, responses })
    }

    fn respond(&self, claim: Result<PushClaim<'_>, PushResponse>) -> PushResponse {
        let claim = match claim {
            Ok(claim) => claim,
            Err(response) => return response,
        };
        self.metrics.appending(self.log.last_seq() + claim.changes().len() as u64);
        if let Some(echoes) = &self.echoes {
            echoes.add(self.log.last_seq() + 1, &claim);
        }
        claim.publish()
    }
}

/// Claims requests from the front, until one shares an op id with those before it.
fn claim<'a>(log: &'a ChangeLog, rest: &mut &'a [Push]) -> Vec<Result<PushClaim<'a>, PushResponse>> {
    let mut claims: Vec<Result<PushClaim<'a>, PushResponse>> = Vec::with_capacity(rest.len());
    while let Some((push, others)) = rest.split_first() {
        let claim = push.claim(log);
        if !claims.is_empty() && claim.as_ref().is_err_and(is_pending) {
            break;
        }
        claims.push(claim);
        *rest = others;
    }
    claims
}

/// Reads a request that a node has taken: its limits were checked there.
fn read(text: &str) -> Result<Push, String> {
    let share = Pushing::new(usize::MAX >> 16).share();
    Push::read(text.to_owned(), share, (usize::MAX, "")).map_err(|error| error.json())
}
