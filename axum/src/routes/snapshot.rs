//! `GET /api/sync/snapshot`: all rows, or those of some entities, page by page, as they were at one
//! moment.

use super::resume::set_resume;
use crate::app::App;
use crate::error::ApiError;
use crate::params::{MAX_STALE, Params};
use crate::snapshots::{PageToken, SnapshotPage, is_in_window, new_id, page};
use crate::store::Snapshot;
use axum::extract::{RawQuery, State};
use axum::http::{HeaderMap, HeaderValue, header};
use axum::response::{IntoResponse, Response};
use ringlog::{Cursor, Filter};
use std::sync::Arc;

pub(super) async fn snapshot(
    State(app): State<Arc<App>>,
    RawQuery(query): RawQuery,
) -> Result<Response, ApiError> {
    let params = Params::parse(query.as_deref(), &["page", "limit", "entity", MAX_STALE])?;
    let wanted = Wanted { limit: params.limit(app.limits.max_limit)?, filter: params.filter()? };
    let token = params.get("page").map(|text| {
        text.parse::<PageToken>()
            .map_err(|()| ApiError::bad_request("`page` must be what `next` of the page before says"))
    });
    let token = token.transpose()?;
    drop(params);
    if token.as_ref().is_some_and(|token| !token.is_of(wanted.filter.as_ref())) {
        return Err(ApiError::bad_request("`entity` must be that of the page before, in all pages"));
    }

    let room = app.room().await?;
    let (page, last_seq) = match token {
        Some(token) => next_page(&app, token, wanted).await?,
        None => first_page(&app, wanted).await?,
    };
    let cursor = Cursor::new(last_seq, Some(app.log.incarnation()));
    let mut headers = HeaderMap::new();
    // Before its last page a client misses rows, and must not follow the log.
    if !page.has_more {
        set_resume(&mut headers, cursor);
    }
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    Ok((headers, room.page(page.json)).into_response())
}

/// How many rows of a page, and of which entities.
#[derive(Clone)]
struct Wanted {
    limit: usize,
    filter: Option<Filter>,
}

/// A page of a snapshot in the cache, as long as the log can be followed from its cursor.
async fn next_page(app: &App, token: PageToken, wanted: Wanted) -> Result<(SnapshotPage, u64), ApiError> {
    let snapshot = app.snapshots.get(&token, app.log.oldest_seq()).ok_or_else(ApiError::snapshot_expired)?;
    let last_seq = snapshot.last_seq();
    let page = build(snapshot, token.snapshot(), Some(token), wanted).await?;
    if is_in_window(last_seq, app.log.oldest_seq()) {
        Ok((page, last_seq))
    } else {
        Err(ApiError::snapshot_expired())
    }
}

/// The first page of a snapshot in the cache, or of a new one, which is inserted if it has more
/// pages.
async fn first_page(app: &App, wanted: Wanted) -> Result<(SnapshotPage, u64), ApiError> {
    loop {
        let window = || (app.log.head(), app.log.oldest_seq());
        let (head, oldest) = window();
        if let Some((id, snapshot)) = app.snapshots.reuse(head, oldest) {
            let last_seq = snapshot.last_seq();
            return Ok((build(snapshot, id, None, wanted).await?, last_seq));
        }
        let snapshot = app.snapshot().await?;
        let id = new_id().map_err(|error| ApiError::internal(&error))?;
        let page = build(Arc::clone(&snapshot), id, None, wanted.clone()).await?;
        let (head, oldest) = window();
        // Refused if others filled the cache meanwhile: then one of theirs will do, and has to.
        if !page.has_more || app.snapshots.insert(id, &snapshot, head, oldest) {
            return Ok((page, snapshot.last_seq()));
        }
    }
}

async fn build(
    snapshot: Arc<dyn Snapshot>,
    id: u128,
    token: Option<PageToken>,
    wanted: Wanted,
) -> Result<SnapshotPage, ApiError> {
    let built = tokio::task::spawn_blocking(move || {
        page(&*snapshot, id, token.as_ref(), wanted.limit, wanted.filter.as_ref())
    });
    let built = built.await.map_err(|error| ApiError::internal(&error))?;
    built.map_err(|error| ApiError::internal(&error))
}
