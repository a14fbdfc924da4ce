//! Whether the server lives, whether it can be used, and its figures.

use crate::app::App;
use crate::error::ApiError;
use axum::extract::State;
use axum::http::header;
use axum::response::IntoResponse;
use std::sync::Arc;

/// The format that Prometheus is told of.
const OPEN_METRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// What `/healthz` answers.
pub(super) const ALIVE: &str = "ok\n";

/// `GET /healthz`: the process answers.
pub(super) async fn healthz() -> &'static str {
    ALIVE
}

/// `GET /readyz`: requests are welcome.
pub(super) async fn readyz(State(app): State<Arc<App>>) -> Result<&'static str, ApiError> {
    if app.failed.is_cancelled() {
        return Err(ApiError::unavailable("STORE_FAILED", "the store failed: nothing can be pushed"));
    }
    if app.stopping.is_cancelled() {
        return Err(ApiError::unavailable("STOPPING", "the server is stopping"));
    }
    Ok("ready\n")
}

/// `GET /metrics`.
pub(super) async fn metrics(State(app): State<Arc<App>>) -> Result<impl IntoResponse, ApiError> {
    let text = app.metrics.encode(&app).map_err(|error| ApiError::internal(&error))?;
    Ok(([(header::CONTENT_TYPE, OPEN_METRICS)], text))
}
