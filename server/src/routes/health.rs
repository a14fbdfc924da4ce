//! Whether the server lives, whether it can be used, and its figures.

use crate::app::App;
use axum::Router;
use axum::body::to_bytes;
use axum::extract::{Request, State};
use axum::http::header;
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use ringlog_axum::error::ApiError;
use std::sync::Arc;

/// The format that Prometheus is told of.
const OPEN_METRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// What `/healthz` answers.
pub(super) const ALIVE: &str = "ok\n";

/// The most of a body that is taken before a request is refused: a client that still sends would
/// not read why.
const MAX_DRAINED: usize = 64 << 10;

/// Leads health probes on to `routes`; refuses all other requests, for want of a place among this
/// many connections.
pub(crate) fn reserve(routes: Router, most: usize) -> Router {
    routes.layer(middleware::from_fn_with_state(most, probes_only))
}

async fn probes_only(State(most): State<usize>, request: Request, next: Next) -> Response {
    if matches!(request.uri().path(), "/healthz" | "/readyz") {
        return next.run(request).await;
    }
    let (head, body) = request.into_parts();
    drop(to_bytes(body, MAX_DRAINED).await);
    let error = ApiError::unavailable(
        "TOO_MANY_CONNECTIONS",
        format!("there are {most} connections, the most that are allowed (--max-connections)"),
    );
    match head.uri.path() {
        "/api/sync/live" => ringlog_axum::routes::refuse(error, &head.headers, most),
        _ => error.into_response(),
    }
}

/// `GET /healthz`: the process answers.
pub(super) async fn healthz() -> &'static str {
    ALIVE
}

/// `GET /readyz`: requests are welcome.
pub(super) async fn readyz(State(app): State<Arc<App>>) -> Result<&'static str, ApiError> {
    if app.failed.is_cancelled() {
        return Err(ApiError::unavailable("STORE_FAILED", "the store failed: nothing can be pushed"));
    }
    if app.sync.stopping.is_cancelled() {
        return Err(ApiError::unavailable("STOPPING", "the server is stopping"));
    }
    Ok("ready\n")
}

/// `GET /metrics`.
pub(super) async fn metrics(State(app): State<Arc<App>>) -> Result<impl IntoResponse, ApiError> {
    let text = app
        .sync
        .metrics
        .encode(app.sync.log.stats(), app.gauges())
        .map_err(|error| ApiError::internal(&error))?;
    Ok(([(header::CONTENT_TYPE, OPEN_METRICS)], text))
}
