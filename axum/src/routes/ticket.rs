//! `POST /api/sync/ticket`: a one-time token for the URL of a live stream.

use crate::app::App;
use crate::error::ApiError;
use axum::Json;
use axum::extract::State;
use axum::http::header;
use axum::response::IntoResponse;
use serde::Serialize;
use std::sync::Arc;

#[derive(Serialize)]
struct Ticket {
    ticket: String,
    /// In seconds.
    expires_in: f64,
}

pub(super) async fn ticket(State(app): State<Arc<App>>) -> Result<impl IntoResponse, ApiError> {
    let ticket = Ticket { ticket: app.tickets.issue()?, expires_in: app.tickets.ttl().as_secs_f64() };
    Ok(([(header::CACHE_CONTROL, "no-store")], Json(ticket)))
}
