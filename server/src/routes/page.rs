//! `GET /`: a page with charts and the tail of the log. It is in the binary, and loads nothing from
//! anywhere else. It says nothing of the log by itself, so it needs no token; what it asks for
//! does.

use axum::Router;
use axum::http::{HeaderName, HeaderValue, header};
use axum::response::IntoResponse;
use axum::routing::get;

/// Nothing but these files and this server's answers: no inline scripts, no other origin, no frame
/// around it.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src data:; \
                      base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

const HEADERS: [(HeaderName, HeaderValue); 4] = [
    (header::CONTENT_SECURITY_POLICY, HeaderValue::from_static(POLICY)),
    (header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff")),
    (header::REFERRER_POLICY, HeaderValue::from_static("no-referrer")),
    // Another version of the server has another page.
    (header::CACHE_CONTROL, HeaderValue::from_static("no-cache")),
];

/// The routes of the page, for any state.
pub(super) fn routes<S: Clone + Send + Sync + 'static>() -> Router<S> {
    Router::new()
        .route("/", get(async || file("text/html; charset=utf-8", include_str!("../../page/index.html"))))
        .route(
            "/page.css",
            get(async || file("text/css; charset=utf-8", include_str!("../../page/page.css"))),
        )
        .route(
            "/page.js",
            get(async || file("text/javascript; charset=utf-8", include_str!("../../page/page.js"))),
        )
}

fn file(content_type: &'static str, text: &'static str) -> impl IntoResponse {
    (HEADERS, [(header::CONTENT_TYPE, content_type)], text)
}
