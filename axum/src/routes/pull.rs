//! `GET /api/sync/pull`: the events after a cursor, now or as soon as there is one; behind the
//! window, the latest change of every row.

use super::resume::{set_compacted_to, set_resume};
use super::stale::ReadAt;
use crate::app::App;
use crate::echo::read_window;
use crate::error::ApiError;
use crate::history::{Measure, Position};
use crate::params::{MAX_STALE, Params};
use crate::snapshots::MAX_PAGE_BYTES;
use axum::body::Bytes;
use axum::extract::{Extension, RawQuery, State};
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use ringlog::{Cursor, Filter, Query};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio_util::sync::CancellationToken;

/// For so long a filtered pull looks for an event that matches, if it does not wait for longer.
const MAX_SCAN: Duration = Duration::from_secs(1);

/// In the extensions of a request: cancelled when its client has closed its half of the connection.
#[derive(Debug, Clone)]
pub struct HalfClosed(pub CancellationToken);

pub(super) async fn pull(
    State(app): State<Arc<App>>,
    half_closed: Option<Extension<HalfClosed>>,
    RawQuery(query): RawQuery,
    request: HeaderMap,
) -> Result<Response, ApiError> {
    let known = ["since", "resume", "limit", "wait", "entity", "history", MAX_STALE];
    let half_closed = half_closed.map(|Extension(HalfClosed(closed))| closed).unwrap_or_default();
    let params = Params::parse(query.as_deref(), &known)?;
    let start = params.cursor()?.unwrap_or(Cursor::from(0));
    let question = Question {
        limit: params.limit(app.limits.max_limit)?,
        filter: params.filter()?,
        full: params.wants_full_history()?,
    };
    let wait = params.wait(app.limits.max_wait)?;
    drop(params);
    app.reach(start).await?;

    let mut since = Instant::now();
    let deadline = tokio::time::Instant::now() + wait;
    let scanned = deadline.max(tokio::time::Instant::now() + MAX_SCAN);
    let mut from = app.history.locate(start);
    let mut read_at;
    let (page, room) = loop {
        // Not held while it waits for something new, nor by a page without changes.
        let room = app.room().await?;
        read_at = ReadAt { stale_for: app.stale_for() };
        let page = question.read(&app, from).await?;
        // One that leads to the window says so, be it empty: what comes next begins with a gap, and
        // does not. With a filter, gaps say nothing.
        let has_left_history = page.compacted_to.is_some() && question.filter.is_none();
        if page.count > 0 || question.limit == 0 || has_left_history {
            break (page, Some(room));
        }
        drop(room);
        // A filtered read stops now and then, and goes on from there.
        from = page.position;
        let now = tokio::time::Instant::now();
        if page.has_more && now < scanned {
            tokio::task::yield_now().await;
            continue;
        }
        if now >= deadline {
            break (page, None);
        }
        tokio::select! {
            _ = app.log.wait_for(from.cursor.seq.saturating_add(1)) => {}
            () = tokio::time::sleep_until(deadline) => {}
            () = app.stopping.cancelled() => break (page, None),
            () = half_closed.cancelled() => break (page, None),
        }
        since = Instant::now();
    };
    app.metrics.pulled(since);
    let Page { json, count, shown, compacted_to, .. } = page;
    let body = match room {
        Some(room) => room.page(json),
        None => Bytes::from(json),
    };
    // An empty page is shorter than the headers that would save it.
    let tag = (count > 0).then(|| opaque_tag((start, &question), shown, &body));
    let mut headers = HeaderMap::new();
    set_resume(&mut headers, shown);
    if let Some(seq) = compacted_to {
        set_compacted_to(&mut headers, seq);
    }
    let mut response = respond(headers, body, tag, &request);
    response.extensions_mut().insert(read_at);
    Ok(response)
}

/// What a pull asks for, besides where.
#[derive(Hash)]
struct Question {
    limit: usize,
    filter: Option<Filter>,
    /// Whether every event is wanted.
    full: bool,
}

/// What is found.
struct Page {
    json: Vec<u8>,
    count: usize,
    /// The cursor in the JSON.
    shown: Cursor,
    /// Where to look on.
    position: Position,
    has_more: bool,
    /// The seq up to which the history is compacted, if this is of it.
    compacted_to: Option<u64>,
}

impl Question {
    async fn read(&self, app: &App, from: Position) -> Result<Page, ApiError> {
        loop {
            if !self.full && app.history.serves(from.cursor) {
                return self.read_history(app, from).await;
            }
            let query = Query::new(self.limit).max_bytes(MAX_PAGE_BYTES as u64).filter(self.filter.as_ref());
            match read_window(&app.log, from.cursor, query, app.echoes.as_deref()) {
                Ok(page) => {
                    return Ok(Page {
                        json: page.json,
                        count: page.count,
                        shown: page.cursor,
                        position: page.cursor.into(),
                        has_more: page.has_more,
                        compacted_to: None,
                    });
                }
                // The window has moved on in this moment.
                Err(_) if !self.full && app.history.serves(from.cursor) => {}
                Err(resync) => return Err(resync.into()),
            }
        }
    }

    async fn read_history(&self, app: &App, from: Position) -> Result<Page, ApiError> {
        let measure = Measure { limit: self.limit, max_bytes: MAX_PAGE_BYTES };
        let page = app.history.page(from, measure, self.filter.as_ref()).await?;
        Ok(Page {
            json: page.json,
            count: page.count,
            shown: page.shown,
            position: page.position,
            has_more: page.has_more,
            compacted_to: Some(page.position.cursor.seq),
        })
    }
}

fn respond(mut headers: HeaderMap, body: Bytes, tag: Option<String>, request: &HeaderMap) -> Response {
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("private, no-cache"));
    if let Some(tag) = tag
        && let Ok(weak) = HeaderValue::try_from(format!("W/{tag}"))
    {
        headers.insert(header::ETAG, weak);
        if is_known(request, &tag) {
            return (StatusCode::NOT_MODIFIED, headers).into_response();
        }
    }
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    (headers, body).into_response()
}

/// Names what is sent: the log, where in it the page ends, and a hash of what was asked for and of
/// every byte. The cursor alone would not do: a log that was put back to an earlier state, and not
/// recognised as another, has other events under the same seqs.
fn opaque_tag((start, question): (Cursor, &Question), cursor: Cursor, body: &[u8]) -> String {
    let mut hasher = DefaultHasher::new();
    (start.seq, question, body).hash(&mut hasher);
    format!("\"{cursor}-{:016x}\"", hasher.finish())
}

/// Whether the client has this page. The tag is compared weakly (RFC 9110, 8.8.3.2): page and tag
/// are the same compressed or not.
fn is_known(request: &HeaderMap, tag: &str) -> bool {
    let known = request.get_all(header::IF_NONE_MATCH).iter().filter_map(|known| known.to_str().ok());
    known.flat_map(|known| known.split(',')).any(|known| {
        let known = known.trim();
        known.strip_prefix("W/").unwrap_or(known) == tag
    })
}
