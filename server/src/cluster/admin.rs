//! What an operator does to a log's stream, from outside of all nodes.

use super::engine::{Engine, Extent, PublishError, Snapshots};
use super::frame::{Claim, Frame, Session};
use super::nats::NatsStream;
use super::options;
use crate::config::Cluster;
use ringlog::Incarnation;
use std::fmt::Display;
use std::time::{SystemTime, UNIX_EPOCH};

/// How often a reset is tried at the end of the stream while nodes publish there.
const ATTEMPTS: usize = 20;

fn text(error: impl Display) -> String {
    error.to_string()
}

/// Gives the log another incarnation from the end of its stream on. Answers with what was done.
///
/// # Errors
/// Why nothing was done, or may have been.
pub(crate) async fn reset(cluster: &Cluster) -> Result<String, String> {
    let stream = NatsStream::attach(options(cluster, 0)).await.map_err(text)?;
    let incarnation = Incarnation::random();
    let position = put(&stream, incarnation).await?;
    // They know what the stream has lost.
    for ahead in stream.list().await.map_err(text)?.into_iter().filter(|snapshot| *snapshot >= position) {
        stream.delete(ahead).await.map_err(text)?;
    }
    Ok(format!(
        "the log {} is {incarnation} from position {position} on. Start all nodes again, those that had diverged with an \
         empty --data. Clients load their rows anew",
        cluster.log
    ))
}

/// Puts the frame at the end of the stream.
async fn put(stream: &NatsStream, incarnation: Incarnation) -> Result<u64, String> {
    let mut refused = String::new();
    for _ in 0..ATTEMPTS {
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
            Ok(position) => return Ok(position),
            // Another frame came there first.
            Err(PublishError::Refused(reason)) => refused = reason,
            Err(error) => return Err(error.to_string()),
        }
    }
    Err(format!("nothing was done: {refused}"))
}

/// Lets all nodes pass over a message that is no frame. Answers with what was done.
///
/// # Errors
/// Why nothing was done.
pub(crate) async fn skip(cluster: &Cluster, position: u64) -> Result<String, String> {
    let stream = NatsStream::attach(options(cluster, 0)).await.map_err(text)?;
    let messages = stream.read(position).await.map_err(text)?;
    let message = messages.first().filter(|message| message.position == position);
    let message = message.ok_or_else(|| format!("the stream has no position {position}"))?;
    let Err(error) = Frame::decode(&message.frame) else {
        return Err(format!("position {position} is a frame, and is not skipped"));
    };
    stream.skip(position).await.map_err(text)?;
    Ok(format!("position {position} of the log {} is skipped ({error}). Start all nodes again", cluster.log))
}
