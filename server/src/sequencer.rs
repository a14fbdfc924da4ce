//! The sequencer: gives pushes one order, and hands them to the applier in groups.
//!
//! It is a bounded queue in this process. Routes have the [`Sequencer`], the applier has the
//! [`Groups`]. The order of the queue is the order of the log.

use crate::envelope::Push;
use arc_swap::ArcSwapOption;
use ringlog::PushResponse;
use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::mpsc::error::{TryRecvError, TrySendError};
use tokio::sync::{mpsc, oneshot};

/// The most requests that wait; further ones are refused.
const MAX_WAITING: usize = 4096;

/// The most changes of a group. Its last request may go beyond.
const MAX_GROUP_CHANGES: usize = 4096;

/// Interval at which waiting requests are refused while the store takes nothing.
const REFUSING: Duration = Duration::from_millis(20);

/// Why a push got no results.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Refused {
    /// Too many wait. Nothing was applied.
    Busy,
    /// The store takes nothing at present, for this reason. Nothing was applied.
    ReadOnly(Arc<str>),
    /// The applier has ended, or ended meanwhile. Whether anything was applied is not known.
    Ended,
}

/// Where the answer to a push goes.
pub(crate) type Answer = oneshot::Sender<Result<PushResponse, Refused>>;

/// A push that waits, with its memory and what pays for that.
pub(crate) struct Job {
    pub(crate) push: Push,
    pub(crate) answer: Answer,
}

/// The way in. The applier ends when the last clone is dropped and all that waited is done.
#[derive(Debug, Clone)]
pub(crate) struct Sequencer {
    jobs: mpsc::Sender<Job>,
    read_only: ReadOnly,
}

/// Why the store takes nothing at present; none if it does.
type ReadOnly = Arc<ArcSwapOption<Arc<str>>>;

/// The way out, for the applier.
pub(crate) struct Groups {
    jobs: mpsc::Receiver<Job>,
    /// Were put back: the beginning of the next group.
    ahead: VecDeque<Job>,
    read_only: ReadOnly,
}

/// A queue, both ends.
pub(crate) fn sequencer() -> (Sequencer, Groups) {
    let (sender, receiver) = mpsc::channel(MAX_WAITING);
    let read_only = ReadOnly::default();
    let groups = Groups { jobs: receiver, ahead: VecDeque::new(), read_only: Arc::clone(&read_only) };
    (Sequencer { jobs: sender, read_only }, groups)
}

impl Sequencer {
    /// Applies a push. Its changes are committed and in the log when this returns.
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

    /// The number of requests that wait.
    pub(crate) fn waiting(&self) -> usize {
        MAX_WAITING - self.jobs.capacity()
    }

    /// Whether the store takes pushes.
    pub(crate) fn is_writable(&self) -> bool {
        self.read_only.load().is_none()
    }
}

impl Groups {
    /// Waits for a request, and takes what else waits, up to the size of a group. None once no
    /// request can come any more.
    pub(crate) fn next(&mut self) -> Option<Vec<Job>> {
        let mut group = Vec::new();
        let mut changes = 0;
        while changes < MAX_GROUP_CHANGES {
            let next = match self.ahead.pop_front() {
                Some(job) => Some(job),
                None if group.is_empty() => Some(self.jobs.blocking_recv()?),
                None => self.jobs.try_recv().ok(),
            };
            let Some(job) = next else { break };
            changes += job.push.len();
            group.push(job);
        }
        Some(group)
    }

    /// Puts requests back, in their order: the next group begins with them.
    pub(crate) fn put_back(&mut self, jobs: Vec<Job>) {
        debug_assert!(self.ahead.is_empty() || jobs.is_empty(), "a group is taken before it is put back");
        self.ahead.extend(jobs);
    }

    /// Refuses pushes from now on, for this reason, until [`accept`](Self::accept).
    pub(crate) fn refuse(&mut self, why: &Arc<str>) {
        self.read_only.store(Some(Arc::new(Arc::clone(why))));
    }

    /// Takes pushes again.
    pub(crate) fn accept(&mut self) {
        self.read_only.store(None);
    }

    /// Refuses all that waits and all that comes in this time. False once no request can come any
    /// more.
    pub(crate) fn refuse_for(&mut self, time: Duration, why: &Arc<str>) -> bool {
        let refuse = |job: Job| drop(job.answer.send(Err(Refused::ReadOnly(Arc::clone(why)))));
        self.ahead.drain(..).for_each(refuse);
        let until = Instant::now() + time;
        while Instant::now() < until {
            match self.jobs.try_recv() {
                Ok(job) => refuse(job),
                Err(TryRecvError::Empty) => std::thread::sleep(REFUSING),
                Err(TryRecvError::Disconnected) => return false,
            }
        }
        true
    }
}
