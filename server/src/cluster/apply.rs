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
//! - *The grouping*: frames that wait are committed together, as many as there are. The outcome is
//!   that of one request after the other:
//!   - A request that finds an op id in flight, or one that is remembered, begins another commit.
//!     The first would be a replay once the requests before it are in the log. The second may be
//!     forgotten by then.
//!   - A frame with conditions begins another commit: the rows before it are in the store.
//!   - What the store drops is decided after each frame.
//! - *The text*: a request is parsed from what its client sent.
//! - *The limits*: those of a request are checked where it is taken, and hold for that node only.
//!   Those that decide what a claim does (window, op ids) are the cluster's.
//!
//! # Wherever it stops
//!
//! The frame is in the stream before any of this, and stays there. The store has the state after
//! some frame, never after a part of one: only what ends with a whole frame is synced.
//!
//! | it stopped | the store has | what happens |
//! | --- | --- | --- |
//! | before the commit, or after it and before a sync | an earlier position | the frames after it are applied again, to the same seqs, whatever is committed together then |
//! | after a sync | the position | the next frame is applied |
//! | before the answer | | the client does not know; it pushes again, here or elsewhere, and is answered as a replay |
//! | at a [reset](super::machine#reset), before its commit | an earlier position | it is applied again |
//! | after that | its position, and the new incarnation, synced together | the node is opened again, as that log |
//!
//! A seq that a client has seen was given by a frame that a quorum of the stream's servers holds.

use super::engine::Message;
use super::frame::{Claim, Frame, FrameError, Session};
use super::machine::{Machine, Memory, Step, Verdict};
use crate::store::StoreError;
use crate::store::disk::{DiskStore, Part, Sync};
use ringlog::{ChangeLog, PushClaim, PushResponse};
use ringlog_axum::conditions;
use ringlog_axum::crash;
use ringlog_axum::echo::Echoes;
use ringlog_axum::envelope::Push;
use ringlog_axum::metrics::Metrics;
use ringlog_axum::share::Pushing;
use std::cell::OnceCell;
use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};
use tokio::sync::{mpsc, watch};

/// The interval at which commits are synced.
const SYNC: Duration = Duration::from_secs(1);

/// The most frames of a commit, and the most changes, which its last frame may go beyond.
const MAX_FRAMES: usize = 64;
const MAX_CHANGES: u64 = 4096;

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

/// The result of claiming a request: its claim, or the answer to it.
type Claimed<'a> = Result<PushClaim<'a>, PushResponse>;

/// A frame that was judged, and the requests of it that are claimed and not committed yet.
struct Judged<'a> {
    session: Session,
    n: u64,
    verdict: Verdict,
    /// Those to requests that are committed.
    responses: Vec<PushResponse>,
    claims: Vec<Claimed<'a>>,
    step: Step,
}

impl NodeApplier {
    /// Runs until no frame can come any more. What was applied is on disk then.
    pub(crate) fn run(mut self, mut frames: mpsc::Receiver<Message>) -> Result<(), ApplyError> {
        let mut synced_at = Instant::now();
        let mut waiting = Vec::new();
        while frames.blocking_recv_many(&mut waiting, MAX_FRAMES) > 0 {
            while !waiting.is_empty() {
                let sync = if synced_at.elapsed() >= SYNC { Sync::Now } else { Sync::Later };
                let decided = self.apply(&waiting, sync)?;
                if sync == Sync::Now {
                    synced_at = Instant::now();
                }
                waiting.drain(..decided.len());
                self.claim.send_replace(self.machine.claim());
                // The publisher is gone while the node ends.
                for decided in decided {
                    let _ = self.decided.send(decided);
                }
            }
        }
        Ok(self.store.sync()?)
    }

    /// Applies the first of these frames, and those after it that can be committed with it.
    fn apply(&mut self, messages: &[Message], sync: Sync) -> Result<Vec<Decided>, ApplyError> {
        // Not of `self`, which the commit needs.
        let log = Arc::clone(&self.log);
        let pushes: Vec<_> = messages.iter().map(|_| OnceCell::new()).collect();
        let mut batch: Vec<Judged<'_>> = Vec::new();
        for (message, pushes) in messages.iter().zip(&pushes) {
            let judged = match batch.last() {
                None => self.first(&log, message, pushes)?,
                Some(before) => match self.next(&log, before, message, pushes) {
                    Some(judged) => judged,
                    None => break,
                },
            };
            self.machine.advance(&judged.step);
            let changes = judged.step.link.last_seq - log.last_seq();
            let is_last = judged.step.reset.is_some() || changes >= MAX_CHANGES;
            batch.push(judged);
            if is_last {
                break;
            }
        }
        let is_reset = batch.iter().any(|judged| judged.step.reset.is_some());
        let parts: Vec<_> = batch.iter().map(Judged::part).collect();
        self.commit(&parts, if is_reset { Sync::Now } else { sync })?;
        let decided = batch.into_iter().map(|judged| self.publish(judged)).collect();
        crash::point("frame_appended");
        if is_reset { Err(ApplyError::Reset(self.machine.position())) } else { Ok(decided) }
    }

    /// Judges a frame when all before it is in the log, and claims its requests. Applies those that
    /// others of the frame have to see.
    fn first<'a>(
        &mut self,
        log: &'a ChangeLog,
        message: &Message,
        pushes: &'a OnceCell<Vec<Push>>,
    ) -> Result<Judged<'a>, ApplyError> {
        let (frame, verdict) = self.judge(message)?;
        let mut rest = read(message.position, &frame, verdict, pushes)?;
        self.time.store(frame.timestamp_millis, Ordering::Relaxed);
        let mut responses = Vec::with_capacity(rest.len());
        let claims = loop {
            let mut claims = claim(log, &mut rest, true);
            let mut to_apply: Vec<_> = claims.iter_mut().flatten().collect();
            conditions::check(&self.store, log.last_seq() + 1, &mut to_apply)?;
            if rest.is_empty() {
                break claims;
            }
            self.commit(&[Part { claims: claims.iter().flatten().collect(), step: None }], Sync::Later)?;
            responses.extend(claims.into_iter().map(|claim| self.respond(claim)));
        };
        let step = self.step(message, &frame, verdict, log.last_seq(), &claims);
        Ok(Judged { session: frame.session, n: frame.n, verdict, responses, claims, step })
    }

    /// Judges the frame after one that is not in the log yet, and claims its requests. None if it
    /// has to wait for that.
    fn next<'a>(
        &self,
        log: &'a ChangeLog,
        before: &Judged<'_>,
        message: &Message,
        pushes: &'a OnceCell<Vec<Push>>,
    ) -> Option<Judged<'a>> {
        let (frame, verdict) = self.judge(message).ok().filter(|(frame, _)| frame.reset.is_none())?;
        let mut rest = read(message.position, &frame, verdict, pushes).ok()?;
        self.time.store(frame.timestamp_millis, Ordering::Relaxed);
        let claims = claim(log, &mut rest, false);
        if !rest.is_empty() || claims.iter().flatten().any(PushClaim::is_conditional) {
            return None;
        }
        let step = self.step(message, &frame, verdict, before.step.link.last_seq, &claims);
        Some(Judged { session: frame.session, n: frame.n, verdict, responses: Vec::new(), claims, step })
    }

    fn judge<'m>(&self, message: &'m Message) -> Result<(Frame<'m>, Verdict), ApplyError> {
        let position = message.position;
        match Frame::decode(&message.frame) {
            Ok(frame) => {
                let verdict = self.machine.decide(&frame);
                Ok((frame, verdict))
            }
            Err(_) if self.skipped.contains(&position) => Ok((Frame::none(), Verdict::Foreign)),
            Err(source) => Err(ApplyError::Frame { position, source }),
        }
    }

    /// The step of a frame, with what its claims add to the last seq before them.
    fn step(
        &self,
        message: &Message,
        frame: &Frame<'_>,
        verdict: Verdict,
        last_seq: u64,
        claims: &[Claimed<'_>],
    ) -> Step {
        let changes: usize = claims.iter().flatten().map(|claim| claim.changes().len()).sum();
        self.machine.step(&message.frame, frame, verdict, last_seq + changes as u64)
    }

    fn commit(&mut self, parts: &[Part<'_, '_>], sync: Sync) -> Result<(), StoreError> {
        let start = Instant::now();
        self.store.commit_frames(self.log.last_seq() + 1, parts, self.memory, sync)?;
        let changes = parts.iter().map(Part::changes).sum();
        if changes > 0 {
            self.metrics.committed(changes, start);
        }
        Ok(())
    }

    /// Appends what is committed of a frame.
    fn publish(&self, judged: Judged<'_>) -> Decided {
        let Judged { session, n, verdict, mut responses, claims, step } = judged;
        self.metrics.decided(verdict.as_str());
        if verdict == Verdict::Foreign {
            tracing::error!(
                position = step.position,
                session = session.0,
                "a frame of another history is not applied: its node has diverged"
            );
        }
        responses.extend(claims.into_iter().map(|claim| self.respond(claim)));
        Decided { session, n, verdict, responses }
    }

    fn respond(&self, claim: Claimed<'_>) -> PushResponse {
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

impl<'a> Judged<'a> {
    fn part(&self) -> Part<'_, 'a> {
        Part { claims: self.claims.iter().flatten().collect(), step: Some(&self.step) }
    }
}

/// Claims requests from the front, until one depends on what is not in the log yet: an op id of it
/// is in flight, or is remembered and may be forgotten by then. All before the first is in the log
/// if it `is_first`.
fn claim<'a>(log: &'a ChangeLog, rest: &mut &'a [Push], is_first: bool) -> Vec<Claimed<'a>> {
    let mut claims = Vec::with_capacity(rest.len());
    while let Some((push, others)) = rest.split_first() {
        let claim = push.claim(log);
        let is_new = claim.as_ref().is_ok_and(|claim| claim.changes().len() == push.len());
        let needs_nothing = is_new || (is_first && claims.is_empty());
        if !needs_nothing {
            break;
        }
        claims.push(claim);
        *rest = others;
    }
    claims
}

/// Reads the requests of a frame that is applied: their limits were checked where they were taken.
fn read<'a>(
    position: u64,
    frame: &Frame<'_>,
    verdict: Verdict,
    pushes: &'a OnceCell<Vec<Push>>,
) -> Result<&'a [Push], ApplyError> {
    let requests = if verdict == Verdict::Applied { &*frame.requests } else { &[] };
    let share = || Pushing::new(usize::MAX >> 16).share();
    let read = |text: &&str| Push::read((*text).to_owned(), share(), (usize::MAX, ""));
    let read: Result<Vec<_>, _> = requests.iter().map(read).collect();
    let read = read.map_err(|error| ApplyError::Request { position, reason: error.json() })?;
    Ok(pushes.get_or_init(|| read))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Config;
    use crate::start::builder;
    use crate::store::disk::{DiskReader, open_node};
    use proptest::prelude::*;
    use proptest::sample::Index;
    use ringlog::Incarnation;
    use ringlog_axum::Snapshot;
    use serde_json::Value;
    use std::ops::ControlFlow;
    use tempfile::TempDir;

    const MEMORY: Memory = Memory { positions: 6, op_ids: 4 };

    /// What a request is made of: of each change whether it has an op id, its row and kind, and its
    /// condition.
    type Changes = Vec<(bool, u8, Option<u64>)>;

    /// A frame: its session, how many numbers it leaves out, how old its claim is, its time, and
    /// its requests.
    type Made = (u64, u64, Index, u64, Vec<Changes>);

    fn made() -> impl Strategy<Value = Made> {
        let change = (prop::bool::weighted(0.7), 0..6_u8, prop::option::weighted(0.05, 0..9_u64));
        let request = prop::collection::vec(change, 1..3);
        let gap = prop_oneof![19 => Just(0), 1 => Just(1)];
        let requests = prop_oneof![4 => prop::collection::vec(request.clone(), 1), 1 => prop::collection::vec(request, 0..4)];
        (0..3_u64, gap, any::<Index>(), 0..5_u64, requests)
    }

    fn request(changes: &Changes) -> String {
        let changes = changes.iter().map(|(has_op_id, row, if_seq)| {
            let kind = if row % 2 == 0 { "update" } else { "delete" };
            let mut change =
                serde_json::json!({"entity": "e", "row_id": (row / 2).to_string(), "kind": kind});
            // An op id is for one change.
            let op_id = has_op_id.then(|| row.to_string());
            for (key, value) in [("op_id", op_id.map(Value::from)), ("if_seq", if_seq.map(Value::from))] {
                if let Some(value) = value {
                    change[key] = value;
                }
            }
            change
        });
        serde_json::json!({"changes": changes.collect::<Vec<_>>(), "client_id": "c"}).to_string()
    }

    /// A node without a stream.
    struct Alone {
        applier: NodeApplier,
        reader: Arc<DiskReader>,
        _folder: TempDir,
    }

    impl Alone {
        fn new() -> Self {
            let folder = tempfile::tempdir().unwrap();
            let mut config = Config::default().with_data(folder.path());
            (config.capacity, config.op_ids, config.tombstones) = (8, MEMORY.op_ids as usize, 1);
            let time = Arc::new(AtomicU64::new(0));
            let clock = Arc::clone(&time);
            let builder = builder(&config).clock(move || clock.load(Ordering::Relaxed));
            let incarnation = Incarnation::from_bytes([1; 16]);
            let ((store, reader, log), machine) = open_node(&config, builder, (incarnation, MEMORY)).unwrap();
            let applier = NodeApplier {
                log: Arc::new(log),
                store,
                memory: MEMORY,
                metrics: Arc::new(Metrics::new()),
                echoes: None,
                time,
                decided: mpsc::unbounded_channel().0,
                claim: watch::Sender::new(machine.claim()),
                machine,
                skipped: BTreeSet::new(),
            };
            Self { applier, reader, _folder: folder }
        }

        /// Applies messages, so many at a time at most, and returns the answers.
        fn apply(&mut self, mut messages: &[Message], most: usize) -> Vec<String> {
            let mut answers = Vec::new();
            while !messages.is_empty() {
                let decided = self.applier.apply(&messages[..most.min(messages.len())], Sync::Later).unwrap();
                messages = &messages[decided.len()..];
                let answer = |decided: Decided| {
                    let Decided { session, n, verdict, responses } = decided;
                    let results: Vec<_> = responses.into_iter().map(|response| response.results).collect();
                    format!("{session:?} {n} {verdict:?} {results:?}")
                };
                answers.extend(decided.into_iter().map(answer));
            }
            answers
        }

        /// All that a client can see.
        fn state(&self) -> Vec<String> {
            let snapshot = self.reader.moment().unwrap();
            let mut state = vec![format!("{} {}", snapshot.last_seq(), snapshot.oldest_compacted_seq())];
            let log = &self.applier.log;
            let mut pulled = Vec::new();
            let summary = log.pull_json(log.last_seq().saturating_sub(8), 9, &mut pulled);
            state.push(format!("{summary:?} {}", String::from_utf8(pulled).unwrap()));
            let mut note = |text: String| {
                state.push(text);
                ControlFlow::Continue(())
            };
            snapshot.scan(None, &mut |row| note(format!("{row:?}"))).unwrap();
            snapshot.changes(0, u64::MAX, None, &mut |change| note(format!("{change:?}"))).unwrap();
            state
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(100))]

        /// With op ids, rows and tombstones so few that all of them are forgotten and come again.
        #[test]
        fn frames_that_are_committed_together_have_the_outcome_of_one_after_the_other(
            made in prop::collection::vec(made(), 1..25),
            most in 2..9_usize,
        ) {
            let (mut alone, mut together) = (Alone::new(), Alone::new());
            let (mut claims, mut numbers) = (vec![alone.applier.machine.claim()], [0; 3]);
            let (mut messages, mut answers) = (Vec::new(), Vec::new());
            for (position, (session, gap, age, time, requests)) in (1..).zip(&made) {
                numbers[*session as usize] += 1 + gap;
                let texts: Vec<_> = requests.iter().map(request).collect();
                let recent = claims.len().saturating_sub(3);
                let frame = Frame {
                    session: Session(*session),
                    n: numbers[*session as usize],
                    claim: claims[recent + age.index(claims.len() - recent)],
                    timestamp_millis: 1000 + time,
                    requests: texts.iter().map(String::as_str).collect(),
                    reset: None,
                };
                messages.push(Message { position, frame: frame.encode() });
                answers.extend(alone.apply(&messages[messages.len() - 1..], 1));
                claims.push(alone.applier.machine.claim());
                if !answers.last().unwrap().contains("Applied") {
                    numbers[*session as usize] -= 1 + gap;
                }
            }
            prop_assert_eq!(together.apply(&messages, most), answers);
            prop_assert_eq!(together.state(), alone.state());
            prop_assert_eq!(together.applier.machine, alone.applier.machine);
        }
    }
}
