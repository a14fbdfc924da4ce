//! The tail: the frames of the stream from a position on, each once, in order, none missing.
//!
//! What is stored is told by a subscription as soon as it is, and read from the stream where that
//! has a hole: at the start, after a lost connection, and when nothing came for a while. Neither
//! alone would do: a subscription misses messages in silence, and reading again and again is late.

use super::RESET;
use super::engine::{Engine, EngineError, Extent, Message};
use futures_util::StreamExt;
use futures_util::stream::BoxStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep, timeout};

/// After so long without a message the stream is read.
const SILENCE: Duration = Duration::from_millis(250);

/// The wait after an error.
const RETRY: Duration = Duration::from_millis(250);

/// A stream that ends too early is believed to have been rolled back after so long. Until then it
/// may be the answer of a server that led the stream, stood still, and does not know yet that
/// another one leads it now.
const SUSPICION: Duration = Duration::from_secs(3);

/// Why there is no next frame, and will be none.
#[derive(Debug, thiserror::Error)]
pub(crate) enum TailError {
    #[error(
        "the stream begins at position {first}, and this node ends at {position}: what lies between was removed"
    )]
    Purged { first: u64, position: u64 },
    #[error(
        "DIVERGED: the stream ends at position {last}, and this node has applied {position}: the stream was rolled back. {RESET}"
    )]
    RolledBack { last: u64, position: u64 },
    #[error(
        "DIVERGED: the stream has another frame at position {0} than this node has applied: it was rolled back and went on. {RESET}"
    )]
    Replaced(u64),
}

/// Waits until it is known whether the stream has the frame at a position, which a node has
/// applied: `is_it` compares. A frame that was removed is taken for it.
///
/// # Errors
/// The stream has another frame there, or ends before it.
pub(crate) async fn verify(
    engine: &impl Engine,
    position: u64,
    is_it: impl Fn(&[u8]) -> bool,
) -> Result<(), TailError> {
    if position == 0 {
        return Ok(());
    }
    let start = Instant::now();
    loop {
        match engine.read(position).await.map(|messages| messages.into_iter().next()) {
            Ok(Some(message)) if message.position > position || is_it(&message.frame) => return Ok(()),
            Ok(Some(_)) => return Err(TailError::Replaced(position)),
            Ok(None) => match engine.extent().await {
                Ok(Extent { first, .. }) if first > position => return Ok(()),
                Ok(Extent { last, .. }) if last < position && start.elapsed() >= SUSPICION => {
                    return Err(TailError::RolledBack { last, position });
                }
                // The replica that has answered may be behind.
                Ok(_) => {}
                Err(error) => tracing::warn!(%error, "waiting for the stream"),
            },
            Err(error) => tracing::warn!(%error, "waiting for the stream"),
        }
        sleep(RETRY).await;
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
    /// Since when the stream seems to end too early.
    suspicious_since: Option<Instant>,
}

impl<E: Engine> Tail<E> {
    /// Sends frames from `next` on; `last` is kept up to date.
    pub(crate) fn new(
        engine: Arc<E>,
        next: u64,
        frames: mpsc::Sender<Message>,
        last: Arc<AtomicU64>,
    ) -> Self {
        Self { engine, next, frames, last, previous: None, suspicious_since: None }
    }

    /// Runs until no frame is wanted any more.
    ///
    /// # Errors
    /// The stream does not have the next frame, and never will.
    pub(crate) async fn run(mut self) -> Result<(), TailError> {
        while !self.frames.is_closed() {
            match self.engine.subscribe().await {
                Ok(live) => self.follow(live).await?,
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
    async fn follow(&mut self, mut live: BoxStream<'static, Message>) -> Result<(), TailError> {
        self.read().await?;
        loop {
            match timeout(SILENCE, live.next()).await {
                Ok(Some(_)) if self.suspicious_since.is_some() => self.read().await?,
                Ok(Some(message)) if message.position == self.next => self.send(message).await,
                Ok(Some(message)) if message.position < self.next => {}
                Ok(None) => return Ok(()),
                Ok(Some(_)) | Err(_) => self.read().await?,
            }
            if self.frames.is_closed() {
                return Ok(());
            }
        }
    }

    /// Reads what the stream has from the next position on.
    async fn read(&mut self) -> Result<(), TailError> {
        let mut from = self.previous.as_ref().map_or(self.next, |previous| previous.position);
        loop {
            let messages = match self.engine.read(from).await {
                Ok(messages) => messages,
                Err(error) => {
                    self.rest(&error).await;
                    return Ok(());
                }
            };
            if messages.is_empty() {
                return self.check().await;
            }
            for message in messages {
                if message.position > self.next {
                    return self.check().await;
                }
                match &self.previous {
                    Some(previous) if *previous == message => self.suspicious_since = None,
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
    async fn check(&mut self) -> Result<(), TailError> {
        let extent = match self.engine.extent().await {
            Ok(extent) => extent,
            Err(error) => {
                self.rest(&error).await;
                return Ok(());
            }
        };
        self.last.fetch_max(extent.last, Ordering::Relaxed);
        let position = self.next - 1;
        if extent.first > self.next {
            return Err(TailError::Purged { first: extent.first, position });
        }
        if extent.last < position {
            let since = *self.suspicious_since.get_or_insert_with(Instant::now);
            if since.elapsed() >= SUSPICION {
                return Err(TailError::RolledBack { last: extent.last, position });
            }
        } else if self.previous.is_none() {
            self.suspicious_since = None;
        }
        Ok(())
    }

    async fn send(&mut self, message: Message) {
        if message.position == self.next {
            self.next += 1;
            self.last.fetch_max(message.position, Ordering::Relaxed);
            self.previous = Some(message.clone());
            // Nobody wants it while the node ends.
            let _ = self.frames.send(message).await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cluster::engine::PublishError;
    use bytes::Bytes;
    use std::sync::Mutex;

    /// A stream in memory, without subscriptions: the tail reads. Its end may be told wrongly.
    #[derive(Default)]
    struct Told {
        frames: Mutex<Vec<&'static str>>,
        last: Mutex<Option<u64>>,
    }

    impl Told {
        fn set(&self, frames: &[&'static str], last: Option<u64>) {
            *self.frames.lock().unwrap() = frames.to_vec();
            *self.last.lock().unwrap() = last;
        }
    }

    impl Engine for Told {
        async fn publish(&self, _: Bytes) -> Result<u64, PublishError> {
            Err(PublishError::Refused("it is told what it has".into()))
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
        sleep(SUSPICION / 2).await;
        if !run.is_finished() {
            stream.set(&["a", "b", "c"], None);
            return Err(String::from_utf8(receiver.recv().await.unwrap().frame.to_vec()).unwrap());
        }
        Ok(run.await.unwrap())
    }

    #[tokio::test(start_paused = true)]
    async fn a_leader_that_does_not_know_better_for_a_moment_is_not_believed() {
        assert_eq!(after(&["a", "b"], Some(1)).await.unwrap_err(), "c");
        assert_eq!(after(&["a"], None).await.unwrap_err(), "c");
    }

    #[tokio::test(start_paused = true)]
    async fn a_stream_that_stays_too_short_was_rolled_back() {
        let stream = Arc::new(Told::default());
        stream.set(&["a"], None);
        let (sender, _receiver) = mpsc::channel(10);
        let ended = Tail::new(Arc::clone(&stream), 3, sender, Arc::default()).run().await;
        assert!(matches!(ended, Err(TailError::RolledBack { last: 1, position: 2 })), "{ended:?}");
        let ended = verify(&*stream, 2, |_| true).await;
        assert!(matches!(ended, Err(TailError::RolledBack { last: 1, position: 2 })), "{ended:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn a_stream_that_was_rolled_back_and_went_on_is_noticed() {
        let ended = after(&["a", "x", "y"], None).await.unwrap();
        assert!(matches!(ended, Err(TailError::Replaced(2))), "{ended:?}");
        let stream = Told::default();
        stream.set(&["a", "x"], None);
        let ended = verify(&stream, 2, |frame| frame == b"b").await;
        assert!(matches!(ended, Err(TailError::Replaced(2))), "{ended:?}");
        verify(&stream, 2, |frame| frame == b"x").await.unwrap();
        verify(&stream, 0, |_| false).await.unwrap();
    }
}
