//! `POST /api/sync/push`: a client's changes are applied, each once.

use super::router::set_resume;
use crate::app::App;
use crate::error::ApiError;
use crate::params::check_name;
use axum::Json;
use axum::body::{Body, to_bytes};
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use http_body_util::LengthLimitError;
use ringlog::{Cursor, PushRequest};
use std::error::Error;
use std::sync::Arc;
use std::time::Instant;

pub(super) async fn push(
    State(app): State<Arc<App>>,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, ApiError> {
    let length = check_headers(&app, &headers)?;
    let in_work = app.pushing.try_acquire_many(length.div_ceil(1024) as u32);
    let _in_work = in_work.map_err(|_| {
        ApiError::unavailable("BUSY", "too many bytes of pushes are in work: nothing was applied")
    })?;
    let body = to_bytes(body, app.config.max_body).await.map_err(|error| match error.source() {
        Some(source) if source.is::<LengthLimitError>() => too_large(&app),
        _ => ApiError::bad_request("the body ended early"),
    })?;
    let since = Instant::now();
    let request = parse(&body)?;
    check(&app, &request)?;
    let response = app.push(request).await?;
    app.metrics.pushed(since);
    let cursor = Cursor { seq: response.cursor.last_seq, incarnation: Some(app.log.incarnation()) };
    let mut response = Json(response).into_response();
    set_resume(response.headers_mut(), cursor);
    Ok(response)
}

/// Refuses what is known to be wrong before the body is read. Answers with the length of the body, at most.
fn check_headers(app: &App, headers: &HeaderMap) -> Result<usize, ApiError> {
    let content_type =
        headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let essence = content_type.split(';').next().unwrap_or_default().trim();
    // A web page of another site cannot send this type without asking first.
    if !essence.eq_ignore_ascii_case("application/json") {
        return Err(ApiError::new(
            StatusCode::UNSUPPORTED_MEDIA_TYPE,
            "UNSUPPORTED_MEDIA_TYPE",
            "a push has the header `Content-Type: application/json`",
        ));
    }
    let length = headers.get(header::CONTENT_LENGTH).and_then(|value| value.to_str().ok()?.parse().ok());
    let length = length.unwrap_or(app.config.max_body);
    if length > app.config.max_body { Err(too_large(app)) } else { Ok(length) }
}

fn too_large(app: &App) -> ApiError {
    ApiError::new(
        StatusCode::PAYLOAD_TOO_LARGE,
        "BODY_TOO_LARGE",
        format!("the body may have {} bytes (--max-body): nothing was applied", app.config.max_body),
    )
}

/// Reads the request; an error says at which field, and where in the text.
fn parse(body: &[u8]) -> Result<PushRequest, ApiError> {
    // serde would take an array of the fields as well.
    if body.trim_ascii_start().first() == Some(&b'[') {
        return Err(ApiError::bad_request("a push is an object: {\"changes\":[…]}"));
    }
    let mut input = serde_json::Deserializer::from_slice(body);
    let request = serde_path_to_error::deserialize(&mut input).map_err(|error| {
        let (path, message) = (error.path().to_string(), error.inner().to_string());
        // The library names the field as well.
        let field = path.rsplit('.').next().unwrap_or_default();
        let message =
            message.strip_prefix(field).and_then(|rest| rest.strip_prefix(": ")).unwrap_or(&message);
        let place = if path == "." { String::new() } else { format!("{path}: ") };
        ApiError::bad_request(format!("{place}{message}"))
    })?;
    input.end().map_err(|error| ApiError::bad_request(format!("after the request: {error}")))?;
    Ok(request)
}

/// Refuses what is out of bounds.
fn check(app: &App, request: &PushRequest) -> Result<(), ApiError> {
    let (given, most) = (request.changes.len(), app.config.max_changes());
    if given > most {
        return Err(ApiError::new(
            StatusCode::PAYLOAD_TOO_LARGE,
            "TOO_MANY_CHANGES",
            format!("a push may have {most} changes (--max-changes), not {given}: nothing was applied"),
        ));
    }
    if let Some(client_id) = &request.client_id {
        check_name("client_id", client_id)?;
    }
    for (index, change) in request.changes.iter().enumerate() {
        check_name(&format!("changes[{index}].entity"), &change.entity)?;
        check_name(&format!("changes[{index}].row_id"), &change.row_id)?;
        if let Some(op_id) = &change.op_id {
            check_name(&format!("changes[{index}].op_id"), op_id)?;
        }
    }
    Ok(())
}
