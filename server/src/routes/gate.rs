//! The way from a connection to the routes: while the store is opened and verified there are none,
//! and requests are told to come back.

use arc_swap::ArcSwapOption;
use axum::Router;
use axum::extract::Request;
use axum::response::{IntoResponse, Response};
use ringlog_axum::error::ApiError;
use std::sync::Arc;
use tower::ServiceExt;

/// How many streams are taken to come back while the server starts: they are spread accordingly.
const RETURNING: usize = 5000;

/// Leads each request to the routes that are there when it comes, also on connections that are
/// older.
#[derive(Debug, Clone, Default)]
pub(crate) struct Gate {
    routes: Arc<ArcSwapOption<Router>>,
}

impl Gate {
    /// Requests go to these routes from now on.
    pub(crate) fn open(&self, routes: Router) {
        self.routes.store(Some(Arc::new(routes)));
    }

    /// Lets go of the routes, and of all that they hold.
    pub(crate) fn close(&self) {
        self.routes.store(None);
    }

    /// What connections are served with.
    pub(crate) fn router(&self) -> Router {
        let gate = self.clone();
        Router::new().fallback(async move |request: Request| gate.answer(request).await)
    }

    async fn answer(&self, request: Request) -> Response {
        let Some(routes) = self.routes.load_full() else { return starting(&request) };
        let routes = Router::clone(&routes);
        routes.oneshot(request).await.into_response()
    }
}

/// What is answered without routes. The process lives, and cannot be used yet.
fn starting(request: &Request) -> Response {
    let error =
        ApiError::unavailable("STARTING", "verifying the store: nothing is answered before that is done");
    match request.uri().path() {
        "/healthz" => super::health::ALIVE.into_response(),
        // The clients of the server that was there before: there may be many, and none may give up.
        "/api/sync/live" => ringlog_axum::routes::refuse(error, request.headers(), RETURNING),
        _ => error.into_response(),
    }
}
