//! Which path leads where, through what.

use super::{backup, health, live, page, pull, push, snapshot, socket, stats};
use crate::app::App;
use crate::auth;
use crate::error::ApiError;
use axum::Router;
use axum::extract::{MatchedPath, Request, State};
use axum::http::{HeaderMap, HeaderValue, StatusCode};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use ringlog::Cursor;
use std::any::Any;
use std::sync::Arc;
use tower_http::CompressionLevel;
use tower_http::catch_panic::CatchPanicLayer;
use tower_http::compression::CompressionLayer;
use tower_http::compression::predicate::{NotForContentType, Predicate, SizeAbove};
use tower_http::trace::TraceLayer;

/// Shorter bodies are not worth compressing.
const MIN_COMPRESSED: u64 = 1024;

/// The header with the resume token of where an answer leaves its reader.
const RESUME: &str = "ringlog-resume";

/// The status that an answer counts as, where it is another than the one that it has.
#[derive(Debug, Clone)]
pub(super) struct Counted(pub(super) StatusCode);

/// All routes.
pub(crate) fn router(app: &Arc<App>) -> Router {
    let state = || Arc::clone(app);
    let reading = Router::new()
        .route("/api/sync/pull", get(pull::pull))
        .route("/api/sync/snapshot", get(snapshot::snapshot))
        .route_layer(middleware::from_fn_with_state(state(), deadline))
        .route("/api/sync/live", get(live::events))
        .route("/api/sync/ws", get(socket::open))
        .route("/api/stats", get(stats::stats))
        .route("/metrics", get(health::metrics))
        .route_layer(middleware::from_fn_with_state(state(), auth::reader));
    let writing = Router::new()
        .route("/api/sync/push", post(push::push))
        .route_layer(middleware::from_fn_with_state(state(), deadline))
        .route("/api/admin/backup", get(backup::backup))
        .route_layer(middleware::from_fn_with_state(state(), auth::writer));
    let compressed = SizeAbove::new(MIN_COMPRESSED)
        .and(NotForContentType::SSE)
        .and(NotForContentType::const_new("application/gzip"));
    reading
        .merge(writing)
        .merge(page::routes())
        .route("/healthz", get(health::healthz))
        .route("/readyz", get(health::readyz))
        .method_not_allowed_fallback(async || {
            ApiError::new(
                StatusCode::METHOD_NOT_ALLOWED,
                "METHOD_NOT_ALLOWED",
                "this route has another method",
            )
        })
        .fallback(async || ApiError::new(StatusCode::NOT_FOUND, "NOT_FOUND", "there is no such route"))
        .layer(CompressionLayer::new().quality(CompressionLevel::Fastest).compress_when(compressed))
        .layer(middleware::from_fn_with_state(state(), count))
        .layer(CatchPanicLayer::custom(panicked))
        .layer(TraceLayer::new_for_http().make_span_with(span).on_failure(()))
        .with_state(state())
}

/// The path without its query: nothing of what clients send is logged.
fn span(request: &Request) -> tracing::Span {
    tracing::debug_span!("request", method = %request.method(), path = request.uri().path())
}

/// Counts answers by route and status.
async fn count(State(app): State<Arc<App>>, request: Request, next: Next) -> Response {
    // Known paths only: others would let clients fill memory with labels.
    let route = request.extensions().get::<MatchedPath>().map_or("other", |path| match path.as_str() {
        "/api/sync/pull" => "pull",
        "/api/sync/push" => "push",
        "/api/sync/snapshot" => "snapshot",
        "/api/sync/live" => "live",
        "/api/sync/ws" => "ws",
        _ => "other",
    });
    let response = next.run(request).await;
    let status = response.extensions().get::<Counted>().map_or(response.status(), |counted| counted.0);
    app.metrics.answered(route, status.as_u16());
    response
}

/// Ends a request that takes too long, be it that its body does not come.
async fn deadline(State(app): State<Arc<App>>, request: Request, next: Next) -> Result<Response, ApiError> {
    // A pull may wait besides; it keeps to its own time.
    let most = match request.uri().path() {
        "/api/sync/pull" => app.config.request_timeout + app.config.max_wait,
        _ => app.config.request_timeout,
    };
    tokio::time::timeout(most, next.run(request)).await.map_err(|_| {
        ApiError::new(
            StatusCode::REQUEST_TIMEOUT,
            "TIMEOUT",
            "the request took too long; if it was a push, push again under the same op ids",
        )
    })
}

#[expect(clippy::needless_pass_by_value, reason = "what the layer calls")]
fn panicked(panic: Box<dyn Any + Send>) -> Response {
    let message = panic.downcast_ref::<&str>().copied();
    let message = message.or_else(|| panic.downcast_ref::<String>().map(String::as_str));
    ApiError::internal(&format_args!("a panic: {}", message.unwrap_or("no message"))).into_response()
}

/// Sets the header that says where the reader stands.
pub(super) fn set_resume(headers: &mut HeaderMap, cursor: Cursor) {
    if let Ok(value) = HeaderValue::try_from(cursor.to_string()) {
        headers.insert(RESUME, value);
    }
}
