//! The driver of the publisher: makes frames of pushes, sends them, and answers.

use super::RESET;
use super::apply::Decided;
use super::engine::{Engine, PublishError};
use super::frame::{Claim, Session};
use super::publisher::{Decision, Publisher};
use bytes::Bytes;
use futures_util::StreamExt;
use futures_util::future::BoxFuture;
use futures_util::stream::FuturesUnordered;
use ringlog::PushResponse;
use ringlog_axum::envelope::Push;
use ringlog_axum::metrics::Metrics;
use ringlog_axum::sequencer::{Answer, Job, Refused};
use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};
use tokio::sync::{mpsc, watch};

/// The most requests that wait for a frame; more of them wait in the queue before.
const MAX_WAITING: usize = 4096;

/// A request is refused that got into no frame for so long, or only into one of which no copy can
/// have been stored.
const UNSENT: Duration = Duration::from_secs(3);

/// A request whose frame is undecided for so long is answered that its outcome is not known.
const UNDECIDED: Duration = Duration::from_secs(15);

/// The interval of frames of an idle node.
const TICK: Duration = Duration::from_secs(1);

/// A push, until it is answered.
pub(crate) struct Request {
    push: Push,
    answer: Option<Answer>,
    since: Duration,
    /// That of the moment at which it was taken: an operation that was not known then may be
    /// applied, and forgotten, before its frame is made.
    claim: Claim,
}

impl AsRef<str> for Request {
    fn as_ref(&self) -> &str {
        self.push.text()
    }
}

impl Request {
    fn answer(&mut self, response: Result<PushResponse, Refused>) {
        if let Some(answer) = self.answer.take() {
            // A client that does not wait any more can push again.
            let _ = answer.send(response);
        }
    }
}

/// How fresh a node is, by a clock of its own: the time since it made the newest of its frames that
/// came back.
#[derive(Debug)]
pub(crate) struct Freshness {
    start: Instant,
    /// Time since the start; nought until a frame came back.
    made_at: watch::Sender<Duration>,
}

impl Freshness {
    pub(crate) fn new() -> Self {
        Self { start: Instant::now(), made_at: watch::Sender::new(Duration::ZERO) }
    }

    /// What it serves is at most so old.
    pub(crate) fn stale_for(&self) -> Duration {
        self.start.elapsed().saturating_sub(*self.made_at.borrow())
    }

    /// Waits until a frame came back that was made after this moment: then the node has applied all
    /// that was acknowledged anywhere before it.
    pub(crate) async fn wait_for(&self, moment: Instant) {
        let moment = moment.saturating_duration_since(self.start);
        // It cannot fail: the sender is here.
        let _ = self.made_at.subscribe().wait_for(|made_at| *made_at > moment).await;
    }

    fn note(&self, made_at: Duration) {
        self.made_at.send_if_modified(|newest| {
            made_at > *newest && {
                *newest = made_at;
                true
            }
        });
    }
}

/// Why frames are not stored at present.
enum Trouble {
    Full(Arc<str>),
    Other(Arc<str>),
}

/// A copy of a frame on its way.
struct Sent {
    session: Session,
    n: u64,
    /// The position that this node had applied when it was sent.
    applied: u64,
    result: Result<u64, PublishError>,
}

type Sending = BoxFuture<'static, Sent>;

pub(crate) struct Node<E> {
    engine: Arc<E>,
    publisher: Publisher<Request>,
    jobs: mpsc::Receiver<Job>,
    waiting: VecDeque<Request>,
    decided: mpsc::UnboundedReceiver<Decided>,
    claim: watch::Receiver<Claim>,
    sending: FuturesUnordered<Sending>,
    trouble: Option<Trouble>,
    freshness: Arc<Freshness>,
    metrics: Arc<Metrics>,
    /// When a frame was made last.
    framed_at: Duration,
}

/// The stream is not the one that this node has applied.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Diverged {
    #[error(
        "DIVERGED: the stream ended at position {last}, and this node had applied {applied}: the stream was rolled back. {RESET}"
    )]
    RolledBack { last: u64, applied: u64 },
    #[error("DIVERGED: the stream has other frames than this node has applied. {RESET}")]
    Foreign,
}

impl<E: Engine> Node<E> {
    pub(crate) fn new(
        engine: Arc<E>,
        jobs: mpsc::Receiver<Job>,
        (decided, claim): (mpsc::UnboundedReceiver<Decided>, watch::Receiver<Claim>),
        freshness: Arc<Freshness>,
        metrics: Arc<Metrics>,
    ) -> Self {
        Self {
            engine,
            publisher: Publisher::new(new_session()),
            jobs,
            waiting: VecDeque::new(),
            decided,
            claim,
            sending: FuturesUnordered::new(),
            trouble: None,
            freshness,
            metrics,
            framed_at: Duration::ZERO,
        }
    }

    fn now(&self) -> Duration {
        self.freshness.start.elapsed()
    }

    /// Runs until no push can come any more, and all are answered.
    ///
    /// # Errors
    /// The node must not go on.
    pub(crate) async fn run(mut self) -> Result<(), Diverged> {
        // When it comes back, the node has what the stream had when it started.
        self.make_frame();
        let mut is_open = true;
        while is_open || !self.is_done() {
            self.make_frames();
            let deadline = tokio::time::Instant::from_std(self.freshness.start + self.next_timer());
            tokio::select! {
                job = self.jobs.recv(), if is_open && self.waiting.len() < MAX_WAITING => match job {
                    Some(job) => self.take(job),
                    None => is_open = false,
                },
                Some(decided) = self.decided.recv() => self.on_decided(decided)?,
                Some(sent) = self.sending.next() => self.on_sent(sent)?,
                () = tokio::time::sleep_until(deadline) => self.on_timer(),
            }
        }
        Ok(())
    }

    /// Whether nothing is left to be answered.
    fn is_done(&mut self) -> bool {
        self.waiting.is_empty()
            && self.publisher.made_before(Duration::MAX).all(|request| request.answer.is_none())
    }

    /// Takes a push, and what else waits in the queue.
    fn take(&mut self, job: Job) {
        let (claim, since) = (*self.claim.borrow(), self.now());
        let mut next = Some(job);
        while let Some(Job { push, answer }) = next {
            self.waiting.push_back(Request { push, answer: Some(answer), since, claim });
            next = if self.waiting.len() < MAX_WAITING { self.jobs.try_recv().ok() } else { None };
        }
    }

    fn make_frames(&mut self) {
        while !self.waiting.is_empty() && self.publisher.has_room() {
            self.make_frame();
        }
    }

    fn make_frame(&mut self) {
        let now = self.now();
        // Requests wait in the order in which they were taken: the first has the oldest claim.
        let claim = self.waiting.front().map_or_else(|| *self.claim.borrow(), |request| request.claim);
        let millis = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_millis() as u64;
        let (n, bytes) = self.publisher.frame(&mut self.waiting, claim, millis, now);
        self.framed_at = now;
        self.send(n, bytes);
    }

    fn send(&mut self, n: u64, bytes: Bytes) {
        let (engine, session) = (Arc::clone(&self.engine), self.publisher.session());
        let applied = self.claim.borrow().position;
        self.sending.push(Box::pin(async move {
            let result = engine.publish(bytes).await;
            Sent { session, n, applied, result }
        }));
    }

    fn on_sent(&mut self, sent: Sent) -> Result<(), Diverged> {
        let Sent { session, n, applied, result } = sent;
        match result {
            // The place was taken when it was sent.
            Ok(position) if position <= applied => {
                return Err(Diverged::RolledBack { last: position - 1, applied });
            }
            Ok(_) => self.trouble = None,
            Err(error @ PublishError::Full(_)) => {
                self.trouble = Some(Trouble::Full(error.to_string().into()));
                self.publisher.refused(session, n);
                self.give_up();
            }
            Err(error @ PublishError::Refused(_)) => {
                self.trouble = Some(Trouble::Other(error.to_string().into()));
                self.publisher.refused(session, n);
                self.give_up();
            }
            Err(error @ PublishError::NotSent(_)) => {
                self.trouble = Some(Trouble::Other(error.to_string().into()));
                self.publisher.refused(session, n);
                self.give_up_what_is_old();
            }
            Err(error @ PublishError::Unknown(_)) => {
                self.trouble = Some(Trouble::Other(error.to_string().into()));
                self.publisher.not_stored();
            }
        }
        Ok(())
    }

    fn give_up(&mut self) {
        for mut request in self.publisher.give_up(new_session()) {
            request.answer(Err(self.refusal()));
        }
    }

    /// Gives up the frames that wait too long for servers that take nothing.
    fn give_up_what_is_old(&mut self) {
        let now = self.now();
        while self.publisher.refused_since().is_some_and(|made_at| made_at + UNSENT <= now) {
            self.give_up();
        }
    }

    fn on_decided(&mut self, decided: Decided) -> Result<(), Diverged> {
        let Decided { session, n, verdict, responses } = decided;
        match self.publisher.decided((session, n, verdict), new_session()) {
            Decision::None => {}
            Decision::Applied(requests, made_at) => {
                self.freshness.note(made_at);
                for (mut request, response) in requests.into_iter().zip(responses) {
                    request.answer(Ok(response));
                }
            }
            Decision::Stale(requests) => {
                for mut request in requests {
                    request.answer(Err(Refused::Stale));
                }
            }
            Decision::Diverged => return Err(Diverged::Foreign),
        }
        Ok(())
    }

    fn next_timer(&self) -> Duration {
        let timers = [
            Some(self.framed_at + TICK),
            self.publisher.due(),
            self.publisher.refused_since().map(|made_at| made_at + UNSENT),
            self.waiting.front().map(|request| request.since + UNSENT),
        ];
        timers.into_iter().flatten().min().unwrap_or_default()
    }

    fn on_timer(&mut self) {
        let now = self.now();
        if self.publisher.due().is_some_and(|due| due <= now) {
            let frames = self.publisher.resend(now);
            self.metrics.retransmitted(frames.len());
            for (n, bytes) in frames {
                self.send(n, bytes);
            }
        }
        if now >= self.framed_at + TICK {
            // With frames that are not decided, a tick would not come back sooner.
            if self.publisher.is_idle() {
                self.make_frame();
            }
            self.framed_at = now;
        }
        self.give_up_what_is_old();
        while self.waiting.front().is_some_and(|request| request.since + UNSENT <= now) {
            let refused = self.refusal();
            if let Some(mut request) = self.waiting.pop_front() {
                request.answer(Err(refused));
            }
        }
        for request in self.publisher.made_before(now.saturating_sub(UNDECIDED)) {
            request.answer(Err(Refused::Ended));
        }
    }

    fn refusal(&self) -> Refused {
        match &self.trouble {
            Some(Trouble::Full(why)) => Refused::LogFull(Arc::clone(why)),
            Some(Trouble::Other(why)) => Refused::NoQuorum(Arc::clone(why)),
            None => Refused::NoQuorum("the stream does not answer".into()),
        }
    }
}

pub(super) fn new_session() -> Session {
    let random =
        getrandom::u64().unwrap_or_else(|error| unreachable!("the system has random numbers: {error}"));
    Session(random)
}
