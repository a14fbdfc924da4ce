//! The stream as NATS JetStream keeps it.
//!
//! A log `<name>` is the JetStream stream `RINGLOG_<name>` with the subject
//! `ringlog.<name>.frames`. The servers republish what is stored to `ringlog.<name>.live`. A client
//! that may publish there can show false frames to every node: permissions must deny it. What nodes
//! tell of themselves on `ringlog.<name>.nodes` is not stored.
//!
//! # Permissions
//!
//! The user of a node needs these, and nothing else; `S` is `RINGLOG_<name>`.
//!
//! | may publish | what for |
//! | --- | --- |
//! | `ringlog.<name>.frames` | its frames |
//! | `ringlog.<name>.nodes` | what it tells of itself |
//! | `$JS.API.STREAM.INFO.S` | the configuration of the stream, and where it ends |
//! | `$JS.API.DIRECT.GET.S` | frames that the subscription does not have |
//! | `$JS.API.STREAM.PURGE.S` | removing what a snapshot covers |
//! | `$JS.API.STREAM.CREATE.S` | only for `--cluster-create` |
//! | `$JS.API.STREAM.INFO.OBJ_S`, `$JS.API.STREAM.CREATE.OBJ_S` | the object store of the snapshots |
//! | `$O.S.>` | writing snapshots |
//! | `$JS.API.DIRECT.GET.OBJ_S.>`, `$JS.API.CONSUMER.CREATE.OBJ_S`, `$JS.FC.OBJ_S.>` | listing and reading them |
//! | `$JS.API.STREAM.PURGE.OBJ_S` | removing them |
//!
//! | may subscribe to | what for |
//! | --- | --- |
//! | `ringlog.<name>.live` | frames as soon as they are stored |
//! | `ringlog.<name>.nodes` | what other nodes tell of themselves |
//! | `_INBOX.>` | answers |
//!
//! # What an answer of NATS means
//!
//! - An acknowledgement comes from the stream's leader once a quorum holds the message.
//! - *No responders* means that no server has the subject now: the stream has no leader, and
//!   the message is stored nowhere. A client cannot tell this from a stream that was deleted.
//! - No answer means nothing: a leader that hands over or dies drops what it has not proposed, and
//!   keeps what it has. A message may be stored after the wait for its answer ended.
//! - While it is disconnected the client library holds what is published, and sends it later. So
//!   nothing is given to it then.
//! - Reads are answered by any replica, which may lag: the end of the stream in a read is an end
//!   that was. Only [`extent`](Engine::extent) asks the leader.

mod monitor;
mod open;
mod snapshots;
#[cfg(test)]
mod tests;

#[cfg(test)]
use open::OpenError;
pub(crate) use open::{NatsOptions, StreamFacts};

use super::engine::{Engine, EngineError, Extent, Message, PublishError};
use async_nats::client::{Request, RequestErrorKind};
use async_nats::connection::State;
use async_nats::header::NATS_EXPECTED_LAST_SEQUENCE;
use async_nats::jetstream::response::Response;
use async_nats::jetstream::stream::{Info, PurgeRequest, PurgeResponse};
use async_nats::jetstream::{self, ErrorCode, publish::PublishAck};
use async_nats::{Client, HeaderMap};
use bytes::Bytes;
use futures_util::stream::{BoxStream, StreamExt};
use serde_json::json;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;
use tokio::task::unconstrained;
use tokio::time::timeout;

/// How long an acknowledgement or an answer of the API may take. An election takes longer: what is
/// published meanwhile is unknown.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(5);

/// How long the next message of a read may take.
const READ_TIMEOUT: Duration = Duration::from_secs(2);

/// How often a publication looks whether the connection is back.
const RECONNECT_POLL: Duration = Duration::from_millis(50);

/// A read returns at most so many messages.
const READ_MESSAGES: usize = 512;

/// A read returns at most so many bytes, and one message at least.
const READ_BYTES: usize = 4 << 20;

/// So many messages of a subscription wait to be taken; those after them are dropped. More than a
/// read returns.
const SUBSCRIPTION_CAPACITY: usize = 1024;

/// The position of a message, as servers write it.
const SEQUENCE: &str = "Nats-Sequence";

/// The stream of a message, as servers write it.
const STREAM: &str = "Nats-Stream";

/// Statuses of messages without content: the end of a batch, and nothing from there on.
const END_OF_BATCH: u16 = 204;
const NOT_FOUND: u16 = 404;

/// A stream of NATS JetStream.
#[derive(Debug, Clone)]
pub(crate) struct NatsStream {
    client: Client,
    api: jetstream::Context,
    names: Names,
    facts: StreamFacts,
    replicas: usize,
    /// Whether it was said that there are snapshots of others.
    is_warned: Arc<AtomicBool>,
}

/// What a log is called on the servers.
#[derive(Debug, Clone)]
struct Names {
    stream: String,
    /// Where frames are published.
    frames: String,
    /// Where frames are republished.
    live: String,
    /// Where nodes tell of themselves.
    nodes: String,
}

impl Names {
    fn of(log: &str) -> Self {
        Self {
            stream: format!("RINGLOG_{log}"),
            frames: format!("ringlog.{log}.frames"),
            live: format!("ringlog.{log}.live"),
            nodes: format!("ringlog.{log}.nodes"),
        }
    }
}

impl NatsStream {
    /// What the stream says of itself: as wanted, but with the incarnation that it has.
    pub(crate) fn facts(&self) -> &StreamFacts {
        &self.facts
    }

    /// Tells the other nodes something that is not kept. Does not while the connection is lost: the
    /// client would send it later.
    pub(crate) async fn tell_others(&self, message: Bytes) {
        if self.client.connection_state() == State::Connected {
            // An error means that the client is closed.
            let _ = self.client.publish(self.names.nodes.clone(), message).await;
        }
    }

    /// What other nodes tell, and this one.
    pub(crate) async fn others(&self) -> Result<BoxStream<'static, Bytes>, EngineError> {
        let messages = self.client.subscribe(self.names.nodes.clone()).await;
        let messages = messages.map_err(|error| EngineError(format!("{}: {error}", self.names.nodes)))?;
        Ok(messages.map(|message| message.payload).boxed())
    }

    /// Waits until the client is connected, for a while.
    async fn is_connected(&self) -> bool {
        let connected = async {
            while self.client.connection_state() != State::Connected {
                tokio::time::sleep(RECONNECT_POLL).await;
            }
        };
        timeout(ANSWER_TIMEOUT, connected).await.is_ok()
    }

    /// Stores a message just after a position, or not at all.
    ///
    /// # Errors
    /// [`PublishError::Refused`] if something else is there.
    pub(crate) async fn publish_after(&self, last: u64, frame: Bytes) -> Result<u64, PublishError> {
        let mut headers = HeaderMap::new();
        headers.insert(NATS_EXPECTED_LAST_SEQUENCE, last.to_string());
        self.send(Request::new().payload(frame).headers(headers)).await
    }

    async fn send(&self, request: Request) -> Result<u64, PublishError> {
        if self.client.connection_state() != State::Connected {
            let state = if self.is_connected().await { "was" } else { "is" };
            return Err(PublishError::NotSent(format!("the connection {state} lost")));
        }
        let request = request.timeout(Some(ANSWER_TIMEOUT));
        // Unconstrained: else tokio's cooperative budget lets the first poll end before the message
        // is queued, and others overtake it.
        let request = unconstrained(self.client.send_request(self.names.frames.clone(), request));
        let answer = request.await.map_err(|error| {
            let reason = error.to_string();
            match error.kind() {
                RequestErrorKind::MaxPayloadExceeded | RequestErrorKind::InvalidSubject => {
                    PublishError::Refused(reason)
                }
                RequestErrorKind::NoResponders => PublishError::NotSent("the stream has no leader".into()),
                RequestErrorKind::TimedOut | RequestErrorKind::Other => PublishError::Unknown(reason),
            }
        })?;
        match serde_json::from_slice(&answer.payload) {
            Ok(Response::Ok(PublishAck { stream, sequence, duplicate: false, .. }))
                if stream == self.names.stream =>
            {
                Ok(sequence)
            }
            Ok(Response::Ok(ack)) => {
                Err(PublishError::Unknown(format!("no acknowledgement of this stream: {ack:?}")))
            }
            Ok(Response::Err { error }) => Err(refusal(&error)),
            Err(error) => Err(PublishError::Unknown(format!("no acknowledgement: {error}"))),
        }
    }

    /// Asks the API of JetStream about the stream.
    async fn ask<T: serde::de::DeserializeOwned>(
        &self,
        method: &str,
        request: &impl serde::Serialize,
    ) -> Result<T, EngineError> {
        let subject = format!("STREAM.{method}.{}", self.names.stream);
        let failed = |reason: &dyn std::fmt::Display| EngineError(format!("{subject}: {reason}"));
        match self.api.request(subject.clone(), request).await {
            Ok(Response::Ok(answer)) => Ok(answer),
            Ok(Response::Err { error }) => Err(failed(&error)),
            Err(error) => Err(failed(&error)),
        }
    }

    /// A message with the position that its headers give.
    fn message(&self, message: async_nats::Message) -> Result<Message, EngineError> {
        let headers = message.headers.as_ref();
        let header = |name: &str| headers.and_then(|headers: &HeaderMap| headers.get(name));
        let stream = header(STREAM).map(async_nats::HeaderValue::as_str);
        let position = header(SEQUENCE).and_then(|sequence| sequence.as_str().parse().ok());
        match position {
            Some(position) if stream == Some(&*self.names.stream) => {
                Ok(Message { position, frame: message.payload })
            }
            _ => Err(EngineError(format!("a message is not of the stream: its headers are {headers:?}"))),
        }
    }
}

impl Engine for NatsStream {
    /// Publications are sent in the order in which their futures are first polled. One that finds
    /// the connection lost is not sent; it fails once the connection is back, or after a while.
    async fn publish(&self, frame: Bytes) -> Result<u64, PublishError> {
        self.send(Request::new().payload(frame)).await
    }

    /// Any replica answers.
    async fn read(&self, from: u64) -> Result<Vec<Message>, EngineError> {
        let failed = |reason: &dyn std::fmt::Display| EngineError(format!("read from {from}: {reason}"));
        let inbox = self.client.new_inbox();
        let mut answers = self.client.subscribe(inbox.clone()).await.map_err(|error| failed(&error))?;
        let subject = format!("$JS.API.DIRECT.GET.{}", self.names.stream);
        let request = json!({"seq": from.max(1), "batch": READ_MESSAGES, "max_bytes": READ_BYTES});
        let request = request.to_string().into();
        let sent = self.client.publish_with_reply(subject, inbox, request).await;
        sent.map_err(|error| failed(&error))?;

        let mut messages: Vec<Message> = Vec::new();
        while messages.len() < READ_MESSAGES {
            let answer = match timeout(READ_TIMEOUT, answers.next()).await {
                Ok(Some(answer)) => answer,
                // The server has gone in the middle. What came is in order.
                Ok(None) | Err(_) if !messages.is_empty() => break,
                Ok(None) => return Err(failed(&"the client is closed")),
                Err(_) => return Err(failed(&"no answer in time")),
            };
            match answer.status.map(|status| status.as_u16()) {
                None => {}
                Some(END_OF_BATCH | NOT_FOUND) => break,
                Some(status) => {
                    return Err(failed(&format!("{status} {}", answer.description.unwrap_or_default())));
                }
            }
            let message = self.message(answer)?;
            // Answers may be dropped on their way. The next read begins there.
            if messages.last().is_some_and(|last| message.position != last.position + 1) {
                break;
            }
            if message.position >= from {
                messages.push(message);
            }
        }
        Ok(messages)
    }

    async fn extent(&self) -> Result<Extent, EngineError> {
        let Info { state, config, .. } = self.ask("INFO", &()).await?;
        let last = state.last_sequence;
        let first = if state.messages == 0 { last + 1 } else { state.first_sequence };
        let max_bytes = u64::try_from(config.max_bytes).unwrap_or(u64::MAX);
        Ok(Extent { first, last, bytes: state.bytes, max_bytes })
    }

    /// The subscription outlives a lost connection; what is stored meanwhile is missing.
    async fn subscribe(&self) -> Result<BoxStream<'static, Message>, EngineError> {
        let failed = |reason: &dyn std::fmt::Display| EngineError(format!("{}: {reason}", self.names.live));
        let messages =
            self.client.subscribe(self.names.live.clone()).await.map_err(|error| failed(&error))?;
        self.client.flush().await.map_err(|error| failed(&error))?;
        let this = self.clone();
        let messages = messages.filter_map(move |message| {
            let message = this.message(message).inspect_err(|error| tracing::warn!("{error}")).ok();
            std::future::ready(message)
        });
        Ok(messages.boxed())
    }

    async fn change_server(&self) {
        // The client takes one at random, which may be the same. An error means that it is closed.
        let _ = self.client.force_reconnect().await;
    }

    async fn purge_below(&self, position: u64) -> Result<(), EngineError> {
        // To the servers a purge below 0 is a purge of everything, and one beyond the end moves the
        // end: the positions up to there would never be given.
        let Extent { first, last, .. } = self.extent().await?;
        if position <= first {
            return Ok(());
        }
        if position > last + 1 {
            return Err(EngineError(format!("a purge below {position} of a stream that ends at {last}")));
        }
        let request = PurgeRequest { sequence: Some(position), filter: None, keep: None };
        let PurgeResponse { success, .. } = self.ask("PURGE", &request).await?;
        if success { Ok(()) } else { Err(EngineError(format!("a purge below {position} has failed"))) }
    }
}

/// What it means that the stream answers with an error.
fn refusal(error: &jetstream::Error) -> PublishError {
    let reason = error.to_string();
    match error.error_code() {
        // The leader compares with the limits before it proposes a message, and all replicas do
        // once more when they store it.
        ErrorCode::STREAM_STORE_FAILED if reason.contains("maximum") => PublishError::Full(reason),
        ErrorCode::ACCOUNT_RESOURCES_EXCEEDED
        | ErrorCode::INSUFFICIENT_RESOURCES
        | ErrorCode::STORAGE_RESOURCES_EXCEEDED => PublishError::Full(reason),
        _ if error.code() == 400 => PublishError::Refused(reason),
        _ => PublishError::Unknown(reason),
    }
}
