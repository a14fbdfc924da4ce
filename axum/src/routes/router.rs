//! Which path leads where, through what.

use super::resume::no_cursor_without_body;
use super::stale::tell_stale;
use super::{live, pull, push, snapshot, socket, ticket};
use crate::app::App;
use crate::error::ApiError;
use crate::params::Params;
use axum::Router;
use axum::extract::{MatchedPath, Request, State};
use axum::http::StatusCode;
use axum::middleware::{self, Next};
use axum::response::Response;
use axum::routing::{get, post};
use std::sync::Arc;

/// `pull` and `snapshot`.
pub fn reading<S: Clone + Send + Sync + 'static>(app: &Arc<App>) -> Router<S> {
    Router::new()
        .route("/pull", get(pull::pull))
        .route("/snapshot", get(snapshot::snapshot))
        .route_layer(middleware::from_fn_with_state(Arc::clone(app), tell_stale))
        .route_layer(middleware::from_fn_with_state(Arc::clone(app), deadline))
        .route_layer(middleware::from_fn(no_cursor_without_body))
        .with_state(Arc::clone(app))
}

/// `live` and `ws`.
pub fn streaming<S: Clone + Send + Sync + 'static>(app: &Arc<App>) -> Router<S> {
    Router::new()
        .route("/live", get(live::events))
        .route("/ws", get(socket::open))
        .route_layer(middleware::from_fn_with_state(Arc::clone(app), tell_stale))
        .route_layer(middleware::from_fn(no_cursor_without_body))
        .with_state(Arc::clone(app))
}

/// `push`.
pub fn writing<S: Clone + Send + Sync + 'static>(app: &Arc<App>) -> Router<S> {
    Router::new()
        .route("/push", post(push::push))
        .route_layer(middleware::from_fn_with_state(Arc::clone(app), deadline))
        .route_layer(middleware::from_fn(no_parameters))
        .with_state(Arc::clone(app))
}

/// `ticket`.
pub fn tickets<S: Clone + Send + Sync + 'static>(app: &Arc<App>) -> Router<S> {
    Router::new()
        .route("/ticket", post(ticket::ticket))
        .route_layer(middleware::from_fn(no_parameters))
        .with_state(Arc::clone(app))
}

/// Refuses parameters, on routes that have none: one that is misspelt or in the wrong place would
/// be ignored.
///
/// # Errors
/// 400 that names the parameter.
pub async fn no_parameters(request: Request, next: Next) -> Result<Response, ApiError> {
    Params::parse(request.uri().query(), &[])?;
    Ok(next.run(request).await)
}

/// Ends a request that takes too long, be it that its body does not come.
///
/// # Errors
/// 408 if it does.
pub async fn deadline(
    State(app): State<Arc<App>>,
    request: Request,
    next: Next,
) -> Result<Response, ApiError> {
    // A pull may wait besides; it keeps to its own time.
    let most = match route(&request) {
        Some("pull") => app.limits.request_timeout + app.limits.max_wait,
        _ => app.limits.request_timeout,
    };
    tokio::time::timeout(most, next.run(request)).await.map_err(|_| {
        ApiError::new(
            StatusCode::REQUEST_TIMEOUT,
            "TIMEOUT",
            "the request took too long; if it was a push, push again under the same op ids",
        )
    })
}

/// The last part of the route's path.
pub(super) fn route(request: &Request) -> Option<&str> {
    request.extensions().get::<MatchedPath>()?.as_str().rsplit('/').next()
}
