//! `GET /api/sync/pull`: the events after a cursor, now or as soon as there is one.

use super::router::set_resume;
use crate::app::App;
use crate::error::ApiError;
use crate::frames::{Page, write_page};
use crate::params::Params;
use axum::body::Bytes;
use axum::extract::{RawQuery, State};
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use ringlog::{Cursor, Filter};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;
use std::time::Instant;

/// A page ends when its texts have so many bytes, however few events that is.
const MAX_PULL_BYTES: usize = 4 << 20;

pub(super) async fn pull(
    State(app): State<Arc<App>>,
    RawQuery(query): RawQuery,
    headers: HeaderMap,
) -> Result<Response, ApiError> {
    let params = Params::parse(query.as_deref(), &["since", "resume", "limit", "wait", "entity"])?;
    let start = params.cursor()?.unwrap_or(Cursor::from(0));
    let limit = params.limit(app.config.max_limit)?;
    let filter = params.filter()?;
    let wait = params.wait(app.config.max_wait)?;
    drop(params);

    let deadline = tokio::time::Instant::now() + wait;
    let mut since = Instant::now();
    let mut from = start;
    let mut body = Vec::new();
    let page = loop {
        body.clear();
        let page = write_page(&app.log, from, limit, filter.as_ref(), MAX_PULL_BYTES, &mut body)?;
        // A filtered read that found nothing so far goes on where it stopped, if it has the time.
        let is_over = page.count > 0 || limit == 0 || tokio::time::Instant::now() >= deadline;
        if is_over {
            break page;
        }
        from = page.cursor;
        if !page.has_more {
            tokio::select! {
                _ = app.log.visible(from.seq.saturating_add(1)) => {}
                () = tokio::time::sleep_until(deadline) => {}
                () = app.stopping.cancelled() => break page,
            }
            since = Instant::now();
        }
    };
    app.metrics.pulled(since);
    Ok(respond(start, limit, filter.as_ref(), page, body, &headers))
}

fn respond(
    start: Cursor,
    limit: usize,
    filter: Option<&Filter>,
    page: Page,
    body: Vec<u8>,
    request: &HeaderMap,
) -> Response {
    let mut headers = HeaderMap::new();
    set_resume(&mut headers, page.cursor);
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("private, no-cache"));
    // An empty page is shorter than the headers that would save it.
    if page.count > 0
        && let Ok(tag) = HeaderValue::try_from(etag(start, limit, filter, page))
    {
        let is_known = request
            .get_all(header::IF_NONE_MATCH)
            .iter()
            .any(|known| known.to_str().is_ok_and(|known| known.split(',').any(|known| known.trim() == tag)));
        headers.insert(header::ETAG, tag);
        if is_known {
            return (StatusCode::NOT_MODIFIED, headers).into_response();
        }
    }
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    (headers, Bytes::from(body)).into_response()
}

/// What an event says never changes: where a page begins and ends, in which log and through which filter, is what it says. Weak,
/// for it is the same compressed or not.
fn etag(start: Cursor, limit: usize, filter: Option<&Filter>, page: Page) -> String {
    let mut hasher = DefaultHasher::new();
    (limit, filter).hash(&mut hasher);
    format!("W/\"{}-{}-{:x}-{}\"", start.seq, page.cursor, hasher.finish(), u8::from(page.has_more))
}
