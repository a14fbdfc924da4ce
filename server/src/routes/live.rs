//! `GET /api/sync/live` (server-sent events) and `GET /api/sync/ws` (a WebSocket): what is there after a cursor, then what comes.

use super::router::set_resume;
use crate::app::App;
use crate::error::ApiError;
use crate::params::Params;
use crate::subscriber::{Delivery, Subscriber};
use axum::body::{Body, Bytes};
use axum::extract::ws::rejection::WebSocketUpgradeRejection;
use axum::extract::ws::{CloseFrame, Message, WebSocket, WebSocketUpgrade, close_code};
use axum::extract::{RawQuery, State};
use axum::http::{HeaderMap, HeaderValue, header};
use axum::response::{IntoResponse, Response};
use futures_util::stream::{self, Stream};
use ringlog::Cursor;
use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

/// After how long a client that lost its stream comes back, in milliseconds.
const RETRY_MILLIS: u32 = 2000;

/// What clients send over a WebSocket is not looked at, and may not be long.
const MAX_MESSAGE: usize = 4096;

/// The parameters of both routes, and a subscriber made of them.
fn subscribe(app: &Arc<App>, query: Option<&str>, headers: &HeaderMap) -> Result<Subscriber, ApiError> {
    let params = Params::parse(query, &["since", "resume", "entity"])?;
    // What the browser sends when it comes back is later than what stands in the address.
    let last = headers.get("last-event-id").map(|value| {
        let text = value.to_str().unwrap_or_default();
        text.parse::<Cursor>().map_err(|error| ApiError::bad_request(format!("Last-Event-ID: {error}")))
    });
    let start = match last {
        Some(last) => Some(last?),
        None => params.cursor()?,
    };
    Subscriber::new(app, start, params.filter()?)
}

pub(super) async fn events(
    State(app): State<Arc<App>>,
    RawQuery(query): RawQuery,
    headers: HeaderMap,
) -> Result<Response, ApiError> {
    let subscriber = subscribe(&app, query.as_deref(), &headers)?;
    let start = subscriber.cursor();
    let mut response = Body::from_stream(sse(subscriber)).into_response();
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("text/event-stream"));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    // Proxies that buffer would hold events back.
    headers.insert("x-accel-buffering", HeaderValue::from_static("no"));
    set_resume(headers, start);
    Ok(response)
}

/// The stream's bytes. It ends after a resync, and when the server stops.
fn sse(subscriber: Subscriber) -> impl Stream<Item = Result<Bytes, Infallible>> {
    let cursor = subscriber.cursor();
    let first = Bytes::from(format!("retry: {RETRY_MILLIS}\nid: {cursor}\n\n"));
    stream::unfold((Some(subscriber), Some(first)), async |(subscriber, first)| {
        let mut subscriber = subscriber?;
        if let Some(first) = first {
            return Some((Ok(first), (Some(subscriber), None)));
        }
        let (bytes, goes_on) = match subscriber.next().await {
            Delivery::Changes(frame) => (frame.sse(), true),
            // An id without data is remembered, and nobody is bothered.
            Delivery::Heartbeat(cursor) => (format!(": heartbeat\nid: {cursor}\n\n").into(), true),
            // No id: who comes back without having loaded the rows is told again.
            Delivery::Resync(error) => (format!("event: resync\ndata: {}\n\n", error.json()).into(), false),
            Delivery::Stopping => (Bytes::from_static(b": stopping\n\n"), false),
        };
        Some((Ok(bytes), (goes_on.then_some(subscriber), None)))
    })
}

pub(super) async fn socket(
    State(app): State<Arc<App>>,
    RawQuery(query): RawQuery,
    headers: HeaderMap,
    upgrade: Result<WebSocketUpgrade, WebSocketUpgradeRejection>,
) -> Result<Response, ApiError> {
    let upgrade = upgrade.map_err(|error| ApiError::bad_request(format!("this is a WebSocket: {error}")))?;
    let subscriber = subscribe(&app, query.as_deref(), &headers)?;
    let patience = app.config.write_timeout;
    let tasks = app.tasks.clone();
    Ok(upgrade
        .max_message_size(MAX_MESSAGE)
        .max_frame_size(MAX_MESSAGE)
        .on_upgrade(move |socket| tasks.track_future(converse(socket, subscriber, patience))))
}

/// Sends what there is until either side has enough.
async fn converse(mut socket: WebSocket, mut subscriber: Subscriber, patience: Duration) {
    loop {
        let delivery = tokio::select! {
            delivery = subscriber.next() => delivery,
            // Pings are answered while reading; whatever else comes is not looked at.
            received = socket.recv() => match received {
                Some(Ok(Message::Close(_)) | Err(_)) | None => return,
                Some(Ok(_)) => continue,
            },
        };
        let (message, close) = match delivery {
            Delivery::Changes(frame) => (Message::Text(frame.ws()), None),
            Delivery::Heartbeat(cursor) => {
                (text(format!(r#"{{"event":"heartbeat","id":"{cursor}"}}"#)), None)
            }
            Delivery::Resync(error) => {
                let json = error.json();
                (
                    text(format!(r#"{{"event":"resync","data":{json}}}"#)),
                    Some((close_code::NORMAL, "resync required")),
                )
            }
            Delivery::Stopping => {
                (Message::Ping(Bytes::new()), Some((close_code::AWAY, "the server is stopping")))
            }
        };
        let sending = async {
            socket.send(message).await?;
            if let Some((code, reason)) = close {
                socket.send(Message::Close(Some(CloseFrame { code, reason: reason.into() }))).await?;
            }
            Ok::<(), axum::Error>(())
        };
        let sent = tokio::time::timeout(patience, sending).await;
        if close.is_some() || !matches!(sent, Ok(Ok(()))) {
            return;
        }
    }
}

fn text(text: String) -> Message {
    Message::Text(text.into())
}
