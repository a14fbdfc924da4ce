//! Answers, counted by route and status.

use super::router::route;
use crate::metrics::Metrics;
use axum::extract::{Request, State};
use axum::http::StatusCode;
use axum::middleware::Next;
use axum::response::Response;
use std::sync::Arc;

/// The status that an answer counts as, where it is another than the one that it has.
#[derive(Debug, Clone)]
pub(super) struct Counted(pub(super) StatusCode);

/// Counts an answer.
pub async fn count(State(metrics): State<Arc<Metrics>>, request: Request, next: Next) -> Response {
    // Known paths only: others would let clients fill memory with labels.
    let route = match route(&request) {
        Some("pull") => "pull",
        Some("push") => "push",
        Some("snapshot") => "snapshot",
        Some("live") => "live",
        Some("ws") => "ws",
        _ => "other",
    };
    let response = next.run(request).await;
    let status = response.extensions().get::<Counted>().map_or(response.status(), |counted| counted.0);
    metrics.answered(route, status.as_u16());
    response
}
