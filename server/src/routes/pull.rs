//! `GET /api/sync/pull`: the events after a cursor, now or as soon as there is one.

use super::resume::set_resume;
use crate::app::App;
use crate::error::ApiError;
use crate::exchange::HalfClosed;
use crate::params::Params;
use crate::snapshots::MAX_PAGE_BYTES;
use axum::body::Bytes;
use axum::extract::{Extension, RawQuery, State};
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use ringlog::{Cursor, Filter, PullSummary, Query};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// For so long a filtered pull looks for an event that matches, if it does not wait for longer.
const MAX_SCAN: Duration = Duration::from_secs(1);

pub(super) async fn pull(
    State(app): State<Arc<App>>,
    Extension(HalfClosed(half_closed)): Extension<HalfClosed>,
    RawQuery(query): RawQuery,
    headers: HeaderMap,
) -> Result<Response, ApiError> {
    let params = Params::parse(query.as_deref(), &["since", "resume", "limit", "wait", "entity"])?;
    let start = app.begin(params.cursor()?.unwrap_or(Cursor::from(0)));
    let limit = params.limit(app.config.max_limit)?;
    let filter = params.filter()?;
    let wait = params.wait(app.config.max_wait)?;
    drop(params);

    let mut since = Instant::now();
    let deadline = tokio::time::Instant::now() + wait;
    let scanned = deadline.max(tokio::time::Instant::now() + MAX_SCAN);
    let mut from = start;
    let mut body = Vec::new();
    let (page, room) = loop {
        // Not held while it waits for something new, nor by a page without changes.
        let room = app.room().await?;
        body.clear();
        let query = Query::new(limit).max_bytes(MAX_PAGE_BYTES as u64).filter(filter.as_ref());
        let page = app.log.pull_json(from, query, &mut body)?;
        if page.count > 0 || limit == 0 {
            break (page, Some(room));
        }
        drop(room);
        // A filtered read stops now and then, and goes on from there.
        from = page.cursor;
        let now = tokio::time::Instant::now();
        if page.has_more && now < scanned {
            tokio::task::yield_now().await;
            continue;
        }
        if now >= deadline {
            break (page, None);
        }
        tokio::select! {
            _ = app.log.wait_for(from.seq.saturating_add(1)) => {}
            () = tokio::time::sleep_until(deadline) => {}
            () = app.stopping.cancelled() => break (page, None),
            () = half_closed.cancelled() => break (page, None),
        }
        since = Instant::now();
    };
    app.metrics.pulled(since);
    let body = match room {
        Some(room) => room.page(body),
        None => Bytes::from(body),
    };
    Ok(respond((start, limit, filter.as_ref()), page, body, &headers))
}

/// What a pull asks for.
type Question<'a> = (Cursor, usize, Option<&'a Filter>);

fn respond(question: Question<'_>, page: PullSummary, body: Bytes, request: &HeaderMap) -> Response {
    let mut headers = HeaderMap::new();
    set_resume(&mut headers, page.cursor);
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("private, no-cache"));
    // An empty page is shorter than the headers that would save it.
    let tag = (page.count > 0).then(|| opaque_tag(question, page.cursor, &body));
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
fn opaque_tag((start, limit, filter): Question<'_>, cursor: Cursor, body: &[u8]) -> String {
    let mut hasher = DefaultHasher::new();
    (start.seq, limit, filter, body).hash(&mut hasher);
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
