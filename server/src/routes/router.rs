//! Which path leads where, through what.

use super::{backup, health, page, stats};
use crate::app::App;
use crate::auth;
use axum::Router;
use axum::extract::Request;
use axum::http::{HeaderName, HeaderValue, StatusCode, header};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use ringlog_axum::error::ApiError;
use ringlog_axum::routes::{self, count, no_parameters};
use std::any::Any;
use std::sync::Arc;
use tower_http::CompressionLevel;
use tower_http::catch_panic::CatchPanicLayer;
use tower_http::compression::CompressionLayer;
use tower_http::compression::predicate::{NotForContentType, Predicate, SizeAbove};
use tower_http::trace::TraceLayer;

/// Shorter bodies are not worth compressing.
const MIN_COMPRESSED: u64 = 1024;

/// All routes.
pub(crate) fn router(app: &Arc<App>) -> Router {
    let sync = &app.sync;
    let access = || Arc::clone(&app.access);
    let figures = Router::new()
        .route("/api/stats", get(stats::stats))
        .route("/metrics", get(health::metrics))
        .route_layer(middleware::from_fn(no_parameters));
    let reading = Router::new()
        .nest("/api/sync", routes::reading(sync))
        .merge(figures)
        .nest("/api/sync", routes::tickets(sync))
        .route_layer(middleware::from_fn_with_state(access(), auth::reader));
    let streaming = Router::new()
        .nest("/api/sync", routes::streaming(sync))
        .route_layer(middleware::from_fn_with_state(access(), auth::subscriber));
    let admin = Router::new()
        .route("/api/admin/backup", get(backup::backup))
        .route_layer(middleware::from_fn(no_parameters));
    let writing = Router::new()
        .nest("/api/sync", routes::writing(sync))
        .merge(admin)
        .route_layer(middleware::from_fn_with_state(access(), auth::writer));
    let open = page::routes()
        .route("/healthz", get(health::healthz))
        .route("/readyz", get(health::readyz))
        .route_layer(middleware::from_fn(no_parameters));
    let compressed = SizeAbove::new(MIN_COMPRESSED)
        .and(NotForContentType::SSE)
        .and(NotForContentType::const_new("application/gzip"));
    reading
        .merge(streaming)
        .merge(writing)
        .merge(open)
        .method_not_allowed_fallback(async || {
            ApiError::new(
                StatusCode::METHOD_NOT_ALLOWED,
                "METHOD_NOT_ALLOWED",
                "this route has another method",
            )
        })
        .fallback(async || ApiError::new(StatusCode::NOT_FOUND, "NOT_FOUND", "there is no such route"))
        .layer(CompressionLayer::new().quality(CompressionLevel::Fastest).compress_when(compressed))
        .layer(middleware::from_fn(accept_identity))
        .layer(middleware::from_fn(unambiguous))
        .layer(middleware::from_fn_with_state(Arc::clone(&sync.metrics), count))
        .layer(CatchPanicLayer::custom(panicked))
        .layer(TraceLayer::new_for_http().make_span_with(span).on_failure(()))
        .with_state(Arc::clone(app))
}

/// The path without its query: nothing of what clients send is logged.
fn span(request: &Request) -> tracing::Span {
    tracing::debug_span!("request", method = %request.method(), path = request.uri().path())
}

/// Headers of which a request has one at most: with two, what it is checked by need not be what it
/// is used by.
const SINGLE: [HeaderName; 6] = [
    header::HOST,
    header::ORIGIN,
    header::AUTHORIZATION,
    header::CONTENT_TYPE,
    HeaderName::from_static("last-event-id"),
    HeaderName::from_static("sec-fetch-site"),
];

/// Refuses requests that name their host, their sender or their contents twice.
async fn unambiguous(request: Request, next: Next) -> Result<Response, ApiError> {
    let headers = request.headers();
    if let Some(name) = SINGLE.iter().find(|name| headers.get_all(*name).iter().nth(1).is_some()) {
        return Err(ApiError::bad_request(format!("the header `{name}` is given twice")));
    }
    let host = headers.get(header::HOST).and_then(|host| host.to_str().ok());
    let named = request.uri().authority().map(axum::http::uri::Authority::as_str);
    if named.zip(host).is_some_and(|(named, host)| !named.eq_ignore_ascii_case(host)) {
        return Err(ApiError::bad_request("the address of the request names another host than `Host`"));
    }
    Ok(next.run(request).await)
}

/// Takes from `Accept-Encoding` what forbids an answer that is not compressed. The layer that
/// compresses would make 406 of such an answer, when the request has been carried out.
async fn accept_identity(mut request: Request, next: Next) -> Response {
    let given = request.headers().get_all(header::ACCEPT_ENCODING).iter();
    let given: Vec<_> =
        given.filter_map(|value| value.to_str().ok()).flat_map(|value| value.split(',')).collect();
    let kept: Vec<_> = given.iter().copied().filter(|encoding| !forbids_identity(encoding)).collect();
    if kept.len() < given.len()
        && let Ok(kept) = HeaderValue::try_from(kept.join(","))
    {
        request.headers_mut().insert(header::ACCEPT_ENCODING, kept);
    }
    next.run(request).await
}

/// Whether an element of `Accept-Encoding` is `identity` or `*` with a weight of zero.
fn forbids_identity(element: &str) -> bool {
    let (encoding, weight) = element.split_once(';').unwrap_or((element, "q=1"));
    let weight = weight.trim().to_ascii_lowercase();
    let is_zero = weight
        .strip_prefix("q=")
        .is_some_and(|weight| weight.trim().bytes().all(|b| matches!(b, b'0' | b'.')));
    is_zero && matches!(encoding.trim().to_ascii_lowercase().as_str(), "identity" | "*")
}

#[expect(clippy::needless_pass_by_value, reason = "what the layer calls")]
fn panicked(panic: Box<dyn Any + Send>) -> Response {
    let message = panic.downcast_ref::<&str>().copied();
    let message = message.or_else(|| panic.downcast_ref::<String>().map(String::as_str));
    ApiError::internal(&format_args!("a panic: {}", message.unwrap_or("no message"))).into_response()
}
