//! The sequencer: gives pushes one order, and hands them to the applier in groups.
//!
//! It is a bounded queue in this process. Routes have the [`Sequencer`], the applier has the
//! [`Groups`]. The order of the queue is the order of the log.
//!
//! A store that never waits needs no queue, and no other thread: [`Sequencer::direct`] applies each
//! request on the thread that pushes it. A queue would cost two wake-ups a push.

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
pub enum Refused {
    /// Too many wait. Nothing was applied.
    Busy,
    /// The store takes nothing at present, for this reason. Nothing was applied.
    ReadOnly(Arc<str>),
    /// The stream of the cluster stores nothing at present, for this reason. Nothing was applied.
    NoQuorum(Arc<str>),
    /// The stream of the cluster is full. Nothing was applied.
    LogFull(Arc<str>),
    /// This node was behind the others for too long. Nothing was applied.
    Stale,
    /// The applier has ended, or ended meanwhile. Whether anything was applied is not known.
    Ended,
}

/// Where the answer to a push goes.
pub type Answer = oneshot::Sender<Result<PushResponse, Refused>>;

/// A push that waits, with its memory and what pays for that.
pub struct Job {
    pub push: Push,
    pub answer: Answer,
}

/// The way in. The applier ends when the last clone is dropped and all that waited is done.
#[derive(Clone)]
pub struct Sequencer {
    way: Way,
    read_only: ReadOnly,
}

#[derive(Clone)]
enum Way {
    Queue(mpsc::Sender<Job>),
    Direct(Arc<dyn Fn(Job) + Send + Sync>),
}

/// Why the store takes nothing at present; none if it does.
type ReadOnly = Arc<ArcSwapOption<Arc<str>>>;

/// The way out, for the applier.
pub struct Groups {
    jobs: mpsc::Receiver<Job>,
    /// Were put back: the beginning of the next group.
    ahead: VecDeque<Job>,
    read_only: ReadOnly,
}

/// A queue, both ends.
pub fn sequencer() -> (Sequencer, Groups) {
    let (sender, receiver) = mpsc::channel(MAX_WAITING);
    let read_only = ReadOnly::default();
    let groups = Groups { jobs: receiver, ahead: VecDeque::new(), read_only: Arc::clone(&read_only) };
    (Sequencer { way: Way::Queue(sender), read_only }, groups)
}

impl Sequencer {
    /// A way in without a queue: `apply` takes each request, and answers it before it returns.
    pub fn direct(apply: impl Fn(Job) + Send + Sync + 'static) -> Self {
        Self { way: Way::Direct(Arc::new(apply)), read_only: ReadOnly::default() }
    }

    /// Applies a push. Its changes are committed and in the log when this returns.
    pub async fn push(&self, push: Push) -> Result<PushResponse, Refused> {
        if let Some(why) = self.read_only.load_full() {
            return Err(Refused::ReadOnly(Arc::clone(&why)));
        }
        let (answer, answered) = oneshot::channel();
        let job = Job { push, answer };
        match &self.way {
            Way::Queue(jobs) => jobs.try_send(job).map_err(|error| match error {
                TrySendError::Full(_) => Refused::Busy,
                TrySendError::Closed(_) => Refused::Ended,
            })?,
            Way::Direct(apply) => apply(job),
        }
        answered.await.unwrap_or(Err(Refused::Ended))
    }

    /// The number of requests that wait.
    pub fn waiting(&self) -> usize {
        match &self.way {
            Way::Queue(jobs) => MAX_WAITING - jobs.capacity(),
            Way::Direct(_) => 0,
        }
    }

    /// Whether the store takes pushes.
    pub fn is_writable(&self) -> bool {
        self.read_only.load().is_none()
    }
}

impl Groups {
    /// The queue alone, for what makes its own groups.
    pub fn into_jobs(self) -> mpsc::Receiver<Job> {
        self.jobs
    }

    /// Waits for a request, and takes what else waits, up to the size of a group. None once no
    /// request can come any more.
    #[expect(clippy::should_implement_trait, reason = "it blocks, which an iterator is not expected to")]
    pub fn next(&mut self) -> Option<Vec<Job>> {
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
    pub fn put_back(&mut self, jobs: Vec<Job>) {
        debug_assert!(self.ahead.is_empty() || jobs.is_empty(), "a group is taken before it is put back");
        self.ahead.extend(jobs);
    }

    /// Refuses pushes from now on, for this reason, until [`accept`](Self::accept).
    pub fn refuse(&mut self, why: &Arc<str>) {
        self.read_only.store(Some(Arc::new(Arc::clone(why))));
    }

    /// Takes pushes again.
    pub fn accept(&mut self) {
        self.read_only.store(None);
    }

    /// Refuses all that waits and all that comes in this time. False once no request can come any
    /// more.
    pub fn refuse_for(&mut self, time: Duration, why: &Arc<str>) -> bool {
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::share::Pushing;
    use std::pin::pin;
    use std::task::{Context, Poll, Waker};

    fn push(row_id: usize, changes: usize) -> Push {
        let change = serde_json::json!({"entity": "e", "row_id": row_id.to_string(), "kind": "insert"});
        let body = serde_json::json!({"changes": vec![change; changes]}).to_string();
        Push::read(body, Pushing::new(1 << 30).share(), (changes, "--max-changes")).unwrap()
    }

    fn job(changes: usize) -> (Job, oneshot::Receiver<Result<PushResponse, Refused>>) {
        let (answer, answered) = oneshot::channel();
        (Job { push: push(0, changes), answer }, answered)
    }

    /// Queues requests of so many changes each.
    fn queue(sequencer: &Sequencer, changes: &[usize]) {
        for changes in changes {
            send(sequencer, job(*changes).0);
        }
    }

    fn send(sequencer: &Sequencer, job: Job) {
        let Way::Queue(jobs) = &sequencer.way else { panic!("it has a queue") };
        jobs.try_send(job).unwrap_or_else(|_| panic!("there is room"));
    }

    fn lengths(group: &[Job]) -> Vec<usize> {
        group.iter().map(|job| job.push.len()).collect()
    }

    #[test]
    fn a_group_takes_what_waits_until_it_has_its_size() {
        let (sequencer, mut groups) = sequencer();
        queue(&sequencer, &[1000, 1000, 1000, 1095, 1, 7, 4096, 4095, 1, 2]);
        let taken = std::array::from_fn(|_| lengths(&groups.next().unwrap()));
        assert_eq!(taken, [vec![1000, 1000, 1000, 1095, 1], vec![7, 4096], vec![4095, 1], vec![2]]);
        drop(sequencer);
        assert!(groups.next().is_none());
    }

    #[test]
    fn what_is_put_back_begins_the_next_group_in_its_order() {
        let (sequencer, mut groups) = sequencer();
        queue(&sequencer, &[1, 2, 3]);
        let mut group = groups.next().unwrap();
        groups.put_back(group.split_off(1));
        queue(&sequencer, &[4]);
        assert_eq!(lengths(&groups.next().unwrap()), [2, 3, 4]);
    }

    #[test]
    fn a_full_queue_refuses_and_says_how_many_wait() {
        let (sequencer, mut groups) = sequencer();
        let context = &mut Context::from_waker(Waker::noop());
        let mut pushed = || pin!(sequencer.push(push(1, 1))).poll(context);
        assert_eq!(sequencer.waiting(), 0);
        queue(&sequencer, &vec![1; MAX_WAITING]);
        assert_eq!(sequencer.waiting(), MAX_WAITING);
        assert_eq!(pushed(), Poll::Ready(Err(Refused::Busy)));
        assert_eq!(groups.next().unwrap().len(), MAX_GROUP_CHANGES);
        assert_eq!(sequencer.waiting(), 0);
        drop(groups);
        assert_eq!(pushed(), Poll::Ready(Err(Refused::Ended)));
    }

    #[test]
    fn while_the_store_takes_nothing_every_push_is_refused_with_the_reason() {
        let (sequencer, mut groups) = sequencer();
        let why: Arc<str> = "no room".into();
        let refused = || Err(Refused::ReadOnly("no room".into()));
        let [(waits, mut first), (was_put_back, mut second)] = [job(1), job(1)];
        send(&sequencer, waits);
        groups.put_back(vec![was_put_back]);
        assert!(sequencer.is_writable());
        groups.refuse(&why);
        assert!(!sequencer.is_writable());
        assert!(groups.refuse_for(Duration::from_millis(1), &why));
        assert_eq!([first.try_recv().unwrap(), second.try_recv().unwrap()], [refused(), refused()]);
        let context = &mut Context::from_waker(Waker::noop());
        assert_eq!(pin!(sequencer.push(push(1, 1))).poll(context), Poll::Ready(refused()));
        groups.accept();
        assert!(sequencer.is_writable());
        assert!(pin!(sequencer.push(push(1, 1))).poll(context).is_pending());
        drop(sequencer);
        assert!(!groups.refuse_for(Duration::from_secs(60), &why), "it does not wait for what cannot come");
    }
}
