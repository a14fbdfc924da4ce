//! `GET /api/sync/live`: what is there after a cursor, then what comes, as server-sent events.

use super::count::Counted;
use super::resume::set_resume;
use crate::app::App;
use crate::error::ApiError;
use crate::params::{MAX_STALE, Params};
use crate::subscriber::{Delivery, Notice, Subscriber, Wanted, retry};
use axum::body::{Body, Bytes};
use axum::extract::{RawQuery, State};
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use futures_util::stream::{self, Stream};
use ringlog::Cursor;
use std::convert::Infallible;
use std::sync::Arc;

/// The media type of server-sent events.
const EVENT_STREAM: &str = "text/event-stream";

/// A subscriber made of what both routes of live streams are asked with.
pub(super) async fn subscribe(
    app: &Arc<App>,
    query: Option<&str>,
    headers: &HeaderMap,
) -> Result<Subscriber, ApiError> {
    let known = ["since", "resume", "entity", "history", "ticket", MAX_STALE];
    let params = Params::parse(query, &known)?;
    // What the browser sends when it comes back is later than what stands in the address. An empty
    // id is none.
    let last = headers.get("last-event-id").filter(|id| !id.is_empty()).map(|id| {
        let text = id.to_str().unwrap_or_default();
        text.parse::<Cursor>().map_err(|error| ApiError::bad_request(format!("Last-Event-ID: {error}")))
    });
    let given = params.cursor()?;
    let start = last.transpose()?.or(given);
    let wanted = Wanted { filter: params.filter()?, full: params.wants_full_history()? };
    drop(params);
    if let Some(start) = start {
        app.reach(start).await?;
    }
    Subscriber::new(&app.live, start, wanted).await
}

pub(super) async fn events(
    State(app): State<Arc<App>>,
    RawQuery(query): RawQuery,
    headers: HeaderMap,
) -> Response {
    let subscriber = match subscribe(&app, query.as_deref(), &headers).await {
        Ok(subscriber) => subscriber,
        Err(error) => return refuse(error, &headers, app.limits.max_subscribers),
    };
    let start = subscriber.start();
    let mut response = respond(Body::from_stream(sse(subscriber)));
    if let Some(start) = start {
        set_resume(response.headers_mut(), start);
    }
    response
}

/// The stream's bytes. It ends after a resync, and when the server stops.
fn sse(subscriber: Subscriber) -> impl Stream<Item = Result<Bytes, Infallible>> {
    stream::unfold(Some(subscriber), async |subscriber| {
        let mut subscriber = subscriber?;
        let (bytes, goes_on) = match subscriber.next().await {
            Delivery::Changes(frame) => (frame.sse(), true),
            Delivery::Heartbeat(notice) => (notice.sse(), true),
            Delivery::Resync(notice) | Delivery::Stopping(notice) => (notice.sse(), false),
        };
        Some((Ok(bytes), goes_on.then_some(subscriber)))
    })
}

/// A refusal. One that passes is a stream for a client that asks for `text/event-stream`: an
/// `EventSource` gives up for good at any status but 200, and comes back when a stream has ended.
/// `streams` is how many may be coming back.
pub fn refuse(error: ApiError, headers: &HeaderMap, streams: usize) -> Response {
    let accepted = headers.get_all(header::ACCEPT).iter().filter_map(|value| value.to_str().ok());
    let mut types = accepted.flat_map(|value| value.split(',')).filter_map(|range| range.split(';').next());
    let is_event_source = types.any(|name| name.trim().eq_ignore_ascii_case(EVENT_STREAM));
    if !(error.is_unavailable() && is_event_source) {
        return error.into_response();
    }
    let notice = Notice::refusal("unavailable", None, retry(streams), &error);
    let mut response = respond(Body::from(notice.sse()));
    response.extensions_mut().insert(Counted(StatusCode::SERVICE_UNAVAILABLE));
    response
}

fn respond(body: Body) -> Response {
    let mut response = body.into_response();
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(EVENT_STREAM));
    // A proxy that compresses, or buffers, holds events back.
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store, no-transform"));
    headers.insert("x-accel-buffering", HeaderValue::from_static("no"));
    response
}
