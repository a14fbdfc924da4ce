//! The tail: the frames of the stream from a position on, each once, in order, none missing.
//!
//! What is stored is told by a subscription as soon as it is, and read from the stream where that
//! has a hole: at the start, after a lost connection, and when nothing came for a while. Neither
//! alone would do: a subscription misses messages in silence, and reading again and again is late.
//!
//! # A stream that ends too early
//! It was rolled back, or its end is told by a server that led it, was cut off or stood still, and
//! does not know yet that another one leads it: for as long as the network is cut. No answer to a
//! question tells these apart. An acknowledgement does, for a quorum gives it: a frame that gets a
//! position which this node has applied says that the stream was rolled back. So the tail never
//! decides it. The frames of the running node do, one each second at least; at the start
//! [`verify`] publishes one.
//!
//! # A server that stays behind
//! Reads are answered by the server that the node is connected to, if it has a replica. Where that
//! does not get what the leader has, the node would wait for as long. It goes on with another
//! server after a while.

use super::RESET;
use super::engine::{Engine, EngineError, Extent, Message};
use bytes::Bytes;
use futures_util::StreamExt;
use futures_util::stream::{BoxStream, Peekable};
use std::future::{Future, pending};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep, timeout};

/// After so long without a message the stream is read.
const SILENCE: Duration = Duration::from_millis(250);

/// The wait after an error.
const RETRY: Duration = Duration::from_millis(250);

/// For so long a server may lack what the stream's leader has, before another one is tried.
const BEHIND: Duration = Duration::from_secs(5);

/// For so long [`verify`] waits for a stream that ends too early, before it publishes to it.
const SUSPICION: Duration = Duration::from_secs(3);

/// What is stored, as the subscription tells it.
type Live = Peekable<BoxStream<'static, Message>>;

/// Why there is no next frame, and will be none.
#[derive(Debug, thiserror::Error)]
pub(crate) enum TailError {
    #[error(
        "the stream begins at position {first}, and this node ends at {position}: what lies between was removed"
    )]
    Purged { first: u64, position: u64 },
    #[error(
        "DIVERGED: the stream ended at position {last}, and this node had applied {position}: the stream was rolled back. {RESET}"
    )]
    RolledBack { last: u64, position: u64 },
    #[error(
        "DIVERGED: the stream has another frame at position {0} than this node has applied: it was rolled back and went on. {RESET}"
    )]
    Replaced(u64),
}

/// Waits until it is known whether the stream has the frame at a position, which a node has
/// applied: `is_it` compares. A frame that was removed is taken for it. Where the stream seems to
/// end before, `probe` is published: a frame that changes nothing.
///
/// # Errors
/// The stream has another frame there, or ended before it.
pub(crate) async fn verify(
    engine: &impl Engine,
    position: u64,
    is_it: impl Fn(&[u8]) -> bool,
    probe: Bytes,
) -> Result<(), TailError> {
    if position == 0 {
        return Ok(());
    }
    let (start, mut server) = (Instant::now(), Server::default());
    loop {
        match engine.read(position).await.map(|messages| messages.into_iter().next()) {
            Ok(Some(message)) if message.position > position || is_it(&message.frame) => return Ok(()),
            Ok(Some(_)) => return Err(TailError::Replaced(position)),
            Ok(None) => match engine.extent().await {
                Ok(Extent { first, .. }) if first > position => return Ok(()),
                Ok(Extent { last, .. }) if last < position && start.elapsed() >= SUSPICION => {
                    match engine.publish(probe.clone()).await {
                        Ok(taken) if taken <= position => {
                            return Err(TailError::RolledBack { last: taken - 1, position });
                        }
                        Ok(_) => {}
                        Err(error) => tracing::warn!(%error, "waiting for the stream"),
                    }
                }
                Ok(Extent { last, .. }) if last >= position => server.is_behind(engine, position).await,
                Ok(_) => {}
                Err(error) => tracing::warn!(%error, "waiting for the stream"),
            },
            Err(error) => tracing::warn!(%error, "waiting for the stream"),
        }
        sleep(RETRY).await;
    }
}

/// The server that answers reads.
#[derive(Default)]
struct Server {
    behind_since: Option<Instant>,
}

impl Server {
    /// It does not have a position, and the stream's leader does.
    async fn is_behind(&mut self, engine: &impl Engine, position: u64) {
        if self.behind_since.get_or_insert_with(Instant::now).elapsed() >= BEHIND {
            tracing::warn!(position, "the server does not have what the stream's leader has; trying another");
            engine.change_server().await;
            self.behind_since = None;
        }
    }
}

pub(crate) struct Tail<E> {
    engine: Arc<E>,
    /// The position of the next frame.
    next: u64,
    frames: mpsc::Sender<Message>,
    /// The last position of the stream that is known.
    last: Arc<AtomicU64>,
    /// The frame before the next one, if it came here. Each read begins with it: a stream that was
    /// rolled back and went on has another.
    previous: Option<Message>,
    /// The stream seems to end too early: it is read, whatever the subscription tells, until it has
    /// the frame before the next one.
    is_suspicious: bool,
    server: Server,
}

impl<E: Engine> Tail<E> {
    /// Sends frames from `next` on; `last` is kept up to date.
    pub(crate) fn new(
        engine: Arc<E>,
        next: u64,
        frames: mpsc::Sender<Message>,
        last: Arc<AtomicU64>,
    ) -> Self {
        Self { engine, next, frames, last, previous: None, is_suspicious: false, server: Server::default() }
    }

    /// Runs until no frame is wanted any more.
    ///
    /// # Errors
    /// The stream does not have the next frame, and never will.
    pub(crate) async fn run(mut self) -> Result<(), TailError> {
        while !self.frames.is_closed() {
            match self.engine.subscribe().await {
                Ok(live) => self.follow(live.peekable()).await?,
                Err(error) => self.rest(&error).await,
            }
        }
        Ok(())
    }

    async fn rest(&self, error: &EngineError) {
        tracing::warn!(%error, position = self.next - 1, "the stream cannot be read; trying again");
        sleep(RETRY).await;
    }

    /// Until the subscription ends, or no frame is wanted any more.
    async fn follow(&mut self, mut live: Live) -> Result<(), TailError> {
        self.read(&mut live).await?;
        loop {
            match timeout(SILENCE, live.next()).await {
                Ok(Some(_)) if self.is_suspicious => self.read(&mut live).await?,
                Ok(Some(message)) if message.position == self.next => self.send(message).await,
                Ok(Some(message)) if message.position < self.next => {}
                Ok(None) => return Ok(()),
                Ok(Some(_)) | Err(_) => self.read(&mut live).await?,
            }
            if self.frames.is_closed() {
                return Ok(());
            }
        }
    }

    /// Waits for an answer of the stream, unless the subscription has the next frame before: a
    /// server that is cut off or stands still does not answer, for seconds.
    async fn ask<T>(&self, live: &mut Live, answer: impl Future<Output = T>) -> Option<T> {
        let next_is_there = async {
            while let Some(message) = Pin::new(&mut *live).peek().await {
                if message.position == self.next && !self.is_suspicious {
                    return;
                }
                if message.position >= self.next {
                    break;
                }
                live.next().await;
            }
            pending::<()>().await;
        };
        tokio::select! {
            biased;
            answer = answer => Some(answer),
            () = next_is_there => None,
        }
    }

    /// Reads what the stream has from the next position on, until the subscription has it.
    async fn read(&mut self, live: &mut Live) -> Result<(), TailError> {
        let mut from = self.previous.as_ref().map_or(self.next, |previous| previous.position);
        loop {
            let messages = match self.ask(live, self.engine.read(from)).await {
                Some(Ok(messages)) => messages,
                Some(Err(error)) => {
                    self.rest(&error).await;
                    return Ok(());
                }
                None => return Ok(()),
            };
            if messages.is_empty() {
                return self.check(live).await;
            }
            for message in messages {
                if message.position > self.next {
                    return self.check(live).await;
                }
                match &self.previous {
                    Some(previous) if *previous == message => self.is_suspicious = false,
                    Some(previous) if previous.position == message.position => {
                        return Err(TailError::Replaced(message.position));
                    }
                    _ => self.send(message).await,
                }
            }
            from = self.next;
        }
    }

    /// Checks that the next frame is there, or may come.
    async fn check(&mut self, live: &mut Live) -> Result<(), TailError> {
        let extent = match self.ask(live, self.engine.extent()).await {
            Some(Ok(extent)) => extent,
            Some(Err(error)) => {
                self.rest(&error).await;
                return Ok(());
            }
            None => return Ok(()),
        };
        self.last.fetch_max(extent.last, Ordering::Relaxed);
        let position = self.next - 1;
        if extent.first > self.next {
            return Err(TailError::Purged { first: extent.first, position });
        }
        if extent.last < position {
            self.is_suspicious = true;
        } else if self.previous.is_none() {
            self.is_suspicious = false;
        }
        if extent.last >= self.next {
            self.server.is_behind(&*self.engine, self.next).await;
        }
        Ok(())
    }

    async fn send(&mut self, message: Message) {
        if message.position == self.next {
            self.next += 1;
            self.server.behind_since = None;
            self.last.fetch_max(message.position, Ordering::Relaxed);
            self.previous = Some(message.clone());
            // It fails while the node ends: the frame is not wanted.
            let _ = self.frames.send(message).await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cluster::engine::PublishError;
    use std::sync::Mutex;

    /// A stream in memory, without subscriptions: the tail reads. Its end may be told wrongly, and
    /// it has a quorum only if it is said what is stored next.
    #[derive(Default)]
    struct Told {
        frames: Mutex<Vec<&'static str>>,
        /// Those that another server has.
        other_server: Mutex<Vec<&'static str>>,
        last: Mutex<Option<u64>>,
        stores: Mutex<Option<u64>>,
    }

    impl Told {
        fn set(&self, frames: &[&'static str], last: Option<u64>) {
            *self.frames.lock().unwrap() = frames.to_vec();
            *self.last.lock().unwrap() = last;
        }
    }

    impl Engine for Told {
        async fn publish(&self, _: Bytes) -> Result<u64, PublishError> {
            self.stores.lock().unwrap().ok_or_else(|| PublishError::Unknown("no quorum".into()))
        }

        async fn read(&self, from: u64) -> Result<Vec<Message>, EngineError> {
            let frames = self.frames.lock().unwrap();
            let all =
                (1..).zip(&*frames).map(|(position, frame)| Message { position, frame: (*frame).into() });
            Ok(all.filter(|message| message.position >= from).collect())
        }

        async fn extent(&self) -> Result<Extent, EngineError> {
            let len = self.frames.lock().unwrap().len() as u64;
            let last = self.last.lock().unwrap().unwrap_or(len);
            Ok(Extent { first: 1, last, bytes: 0, max_bytes: u64::MAX })
        }

        async fn subscribe(&self) -> Result<BoxStream<'static, Message>, EngineError> {
            Ok(futures_util::stream::pending().boxed())
        }

        async fn change_server(&self) {
            *self.frames.lock().unwrap() = self.other_server.lock().unwrap().clone();
        }

        async fn purge_below(&self, _: u64) -> Result<(), EngineError> {
            Ok(())
        }
    }

    /// A tail that has sent `a`, `b`; then the stream is told to be another.
    async fn after(frames: &[&'static str], last: Option<u64>) -> Result<Result<(), TailError>, String> {
        let stream = Arc::new(Told::default());
        stream.set(&["a", "b"], None);
        let (sender, mut receiver) = mpsc::channel(10);
        let tail = Tail::new(Arc::clone(&stream), 1, sender, Arc::default());
        let run = tokio::spawn(tail.run());
        for frame in ["a", "b"] {
            assert_eq!(receiver.recv().await.unwrap().frame, frame);
        }
        stream.set(frames, last);
        sleep(20 * SUSPICION).await;
        if !run.is_finished() {
            stream.set(&["a", "b", "c"], None);
            return Err(String::from_utf8(receiver.recv().await.unwrap().frame.to_vec()).unwrap());
        }
        Ok(run.await.unwrap())
    }

    #[tokio::test(start_paused = true)]
    async fn a_leader_that_does_not_know_better_is_not_believed_however_long() {
        assert_eq!(after(&["a", "b"], Some(1)).await.unwrap_err(), "c");
        assert_eq!(after(&["a"], None).await.unwrap_err(), "c");
    }

    #[tokio::test(start_paused = true)]
    async fn a_node_that_starts_waits_for_a_quorum_to_say_where_the_stream_ends() {
        let stream = Arc::new(Told::default());
        stream.set(&["a"], None);
        let verified = tokio::spawn({
            let stream = Arc::clone(&stream);
            async move { verify(&*stream, 2, |frame| frame == b"b", Bytes::new()).await }
        });
        sleep(20 * SUSPICION).await;
        assert!(!verified.is_finished(), "without a quorum");
        // The one that has answered was cut off; the stream goes on after what it knows of.
        *stream.stores.lock().unwrap() = Some(3);
        sleep(20 * SUSPICION).await;
        assert!(!verified.is_finished(), "the position is not read yet");
        stream.set(&["a", "b", ""], None);
        verified.await.unwrap().unwrap();
    }

    #[tokio::test(start_paused = true)]
    async fn a_server_that_stays_behind_is_left() {
        let stream = Arc::new(Told::default());
        stream.set(&["a"], Some(2));
        let verified = verify(&*stream, 2, |frame| frame == b"b", Bytes::new());
        assert!(timeout(BEHIND / 2, verified).await.is_err(), "it may catch up");
        *stream.other_server.lock().unwrap() = vec!["a", "b"];
        timeout(2 * BEHIND, verify(&*stream, 2, |frame| frame == b"b", Bytes::new())).await.unwrap().unwrap();

        stream.set(&["a"], Some(2));
        let (sender, mut receiver) = mpsc::channel(10);
        tokio::spawn(Tail::new(stream, 1, sender, Arc::default()).run());
        let mut next = async || Some(timeout(2 * BEHIND, receiver.recv()).await.ok()??.position);
        assert_eq!((next().await, next().await), (Some(1), Some(2)));
    }

    /// A stream whose reads are answered once, and never again.
    #[derive(Default)]
    struct Silent {
        is_read: AtomicU64,
        live: Mutex<Option<BoxStream<'static, Message>>>,
    }

    impl Engine for Silent {
        async fn publish(&self, _: Bytes) -> Result<u64, PublishError> {
            pending().await
        }

        async fn read(&self, _: u64) -> Result<Vec<Message>, EngineError> {
            if self.is_read.fetch_add(1, Ordering::Relaxed) == 0 { Ok(Vec::new()) } else { pending().await }
        }

        async fn extent(&self) -> Result<Extent, EngineError> {
            pending().await
        }

        async fn subscribe(&self) -> Result<BoxStream<'static, Message>, EngineError> {
            Ok(self.live.lock().unwrap().take().unwrap())
        }

        async fn change_server(&self) {}

        async fn purge_below(&self, _: u64) -> Result<(), EngineError> {
            pending().await
        }
    }

    #[tokio::test(start_paused = true)]
    async fn frames_of_the_subscription_do_not_wait_for_a_server_that_does_not_answer() {
        let (live, told) = mpsc::unbounded_channel();
        let told = futures_util::stream::unfold(told, async |mut told| Some((told.recv().await?, told)));
        let stream = Arc::new(Silent { live: Mutex::new(Some(told.boxed())), ..Silent::default() });
        let (sender, mut receiver) = mpsc::channel(10);
        tokio::spawn(Tail::new(stream, 1, sender, Arc::default()).run());
        for position in 1..=3 {
            // It asks where the stream ends, then for frames.
            sleep(2 * SILENCE).await;
            live.send(Message { position, frame: Bytes::new() }).unwrap();
            let start = Instant::now();
            assert_eq!(receiver.recv().await.unwrap().position, position);
            assert!(start.elapsed() < SILENCE, "{:?}", start.elapsed());
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_stream_that_stores_again_at_a_position_that_was_applied_was_rolled_back() {
        let stream = Told::default();
        stream.set(&["a"], None);
        *stream.stores.lock().unwrap() = Some(2);
        let ended = verify(&stream, 2, |_| true, Bytes::new()).await;
        assert!(matches!(ended, Err(TailError::RolledBack { last: 1, position: 2 })), "{ended:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn a_stream_that_was_rolled_back_and_went_on_is_noticed() {
        let ended = after(&["a", "x", "y"], None).await.unwrap();
        assert!(matches!(ended, Err(TailError::Replaced(2))), "{ended:?}");
        let stream = Told::default();
        stream.set(&["a", "x"], None);
        let ended = verify(&stream, 2, |frame| frame == b"b", Bytes::new()).await;
        assert!(matches!(ended, Err(TailError::Replaced(2))), "{ended:?}");
        verify(&stream, 2, |frame| frame == b"x", Bytes::new()).await.unwrap();
        verify(&stream, 0, |_| false, Bytes::new()).await.unwrap();
    }
}
