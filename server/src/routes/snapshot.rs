//! `GET /api/sync/snapshot`: all rows, page by page, as they were at one moment.

use super::router::set_resume;
use crate::app::App;
use crate::error::ApiError;
use crate::params::Params;
use crate::views::{PageToken, View};
use axum::extract::{RawQuery, State};
use axum::http::{HeaderMap, HeaderValue, header};
use axum::response::{IntoResponse, Response};
use ringlog::Cursor;
use std::sync::Arc;

pub(super) async fn snapshot(
    State(app): State<Arc<App>>,
    RawQuery(query): RawQuery,
) -> Result<Response, ApiError> {
    let params = Params::parse(query.as_deref(), &["page", "limit"])?;
    let limit = params.limit(app.config.max_limit)?;
    let token = params.get("page").map(|text| {
        text.parse::<PageToken>()
            .map_err(|()| ApiError::bad_request("`page` must be what `next` of the page before says"))
    });
    let token = token.transpose()?;
    drop(params);

    let (id, view) = match &token {
        Some(token) => (token.view(), app.views.get(token).ok_or_else(ApiError::view_expired)?),
        None => open(&app).await?,
    };
    let cursor = Cursor { seq: view.last_seq(), incarnation: Some(app.log.incarnation()) };
    let page = tokio::task::spawn_blocking(move || view.page(id, token.as_ref(), limit)).await;
    let page = page.map_err(|error| ApiError::internal(&error))?;
    let json = page.map_err(|error| ApiError::internal(&error))?;
    let mut headers = HeaderMap::new();
    set_resume(&mut headers, cursor);
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    Ok((headers, json).into_response())
}

/// A view for a first page.
async fn open(app: &App) -> Result<(u128, Arc<View>), ApiError> {
    // When no more can be held, one will do from which half of the window is still to be followed.
    let (head, oldest) = (app.log.head(), app.log.oldest_seq());
    if let Some(joined) = app.views.join(head, oldest.midpoint(head)) {
        return Ok(joined);
    }
    let view = Arc::new(app.rows().await?);
    let id = app.views.hold(Arc::clone(&view)).map_err(|error| ApiError::internal(&error))?;
    Ok((id, view))
}
