//! What an operator does to a log's stream, from outside of all nodes.

use super::engine::{Engine, EngineError, Extent, PublishError, Snapshots};
use super::frame::{Claim, Frame, Session};
use super::nats::NatsStream;
use super::options;
use crate::config::Cluster;
use ringlog::Incarnation;
use std::fmt::Display;
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use tokio::time::{Instant, sleep};

/// How long servers without a leader, which have just been started, are waited for.
const PATIENCE: Duration = Duration::from_secs(30);

/// How long to wait before the next attempt.
const RETRY: Duration = Duration::from_millis(500);

fn text(error: impl Display) -> String {
    error.to_string()
}

/// Tries until it succeeds, for a while.
async fn patiently<T, E: Display>(attempt: impl AsyncFn() -> Result<T, E>) -> Result<T, String> {
    let start = Instant::now();
    loop {
        match attempt().await {
            Err(error) if start.elapsed() < PATIENCE => tracing::warn!("trying again: {error}"),
            result => return result.map_err(text),
        }
        sleep(RETRY).await;
    }
}

/// Gives the log another incarnation from the end of its stream on. Answers with what was done.
///
/// # Errors
/// Why there was no reset, or may have been one.
pub(crate) async fn reset(cluster: &Cluster) -> Result<String, String> {
    let stream = NatsStream::attach(options(cluster, 0)).await.map_err(text)?;
    patiently(async || remove_ahead(&stream).await).await?;
    let incarnation = Incarnation::random();
    let position = put(&stream, incarnation).await?;
    Ok(format!(
        "the log {} is {incarnation} from position {position} on. Start all nodes again, those that had diverged with an \
         empty --data. Clients load their rows anew",
        cluster.log
    ))
}

/// Removes snapshots of what the stream has lost: those beyond its end. The list is older than the
/// end, so that none of what nodes publish meanwhile is beyond it.
async fn remove_ahead(stream: &NatsStream) -> Result<(), EngineError> {
    let snapshots = stream.list().await?;
    let Extent { last, .. } = stream.extent().await?;
    for ahead in snapshots.into_iter().filter(|snapshot| *snapshot > last) {
        stream.delete(ahead).await?;
    }
    Ok(())
}

/// Puts the frame at the end of the stream, again where another one comes first.
async fn put(stream: &NatsStream, incarnation: Incarnation) -> Result<u64, String> {
    let attempt = async || {
        let Extent { last, .. } = stream.extent().await.map_err(text)?;
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let frame = Frame {
            session: Session(0),
            n: 0,
            claim: Claim { position: last, hash: 0 },
            timestamp_millis: now.as_millis() as u64,
            requests: Vec::new(),
            reset: Some(incarnation),
        };
        match stream.publish_after(last, frame.encode()).await {
            // Another attempt may be a second reset.
            Err(error @ PublishError::Unknown(_)) => Ok(Err(text(error))),
            Err(error) => Err(text(error)),
            Ok(position) => Ok(Ok(position)),
        }
    };
    patiently(attempt).await?
}

/// Lets all nodes pass over a message that is no frame. Answers with what was done.
///
/// # Errors
/// Why nothing was done.
pub(crate) async fn skip(cluster: &Cluster, position: u64) -> Result<String, String> {
    let stream = NatsStream::attach(options(cluster, 0)).await.map_err(text)?;
    let messages = patiently(async || stream.read(position).await).await?;
    let message = messages.first().filter(|message| message.position == position);
    let message = message.ok_or_else(|| format!("the stream has no position {position}"))?;
    let Err(error) = Frame::decode(&message.frame) else {
        return Err(format!("position {position} is a frame, and is not skipped"));
    };
    patiently(async || stream.skip(position).await).await?;
    Ok(format!("position {position} of the log {} is skipped ({error}). Start all nodes again", cluster.log))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::cell::Cell;

    #[tokio::test(start_paused = true)]
    async fn a_command_waits_for_a_leader_for_a_while() {
        let attempts = Cell::new(0);
        let attempt = async |until| {
            attempts.update(|attempts| attempts + 1);
            if attempts.get() < until { Err("no leader") } else { Ok(attempts.get()) }
        };
        assert_eq!(patiently(async || attempt(20).await).await, Ok(20));
        assert_eq!(patiently(async || attempt(1000).await).await, Err("no leader".to_owned()));
        let most = 1 + (PATIENCE.as_millis() / RETRY.as_millis()) as usize;
        assert_eq!(attempts.get(), 20 + most);
    }
}
