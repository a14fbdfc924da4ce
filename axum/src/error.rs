//! What a client is told when it does not get what it asked for.

use axum::Json;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use ringlog::{Resync, ResyncReason};
use serde::Serialize;
use std::time::Duration;

/// The longest message, in bytes. What a client sent is repeated in it, but not at length.
const MAX_MESSAGE: usize = 512;

/// A refusal: a status, and a body `{"error":{"code":…,"message":…}}`.
#[derive(Debug)]
pub struct ApiError {
    status: StatusCode,
    body: ErrorBody,
    /// After how many seconds to try again.
    retry_after: Option<u32>,
}

#[derive(Debug, Serialize)]
struct ErrorBody {
    code: &'static str,
    message: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    oldest_seq: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<&'static str>,
}

#[derive(Serialize)]
struct Envelope<'a> {
    error: &'a ErrorBody,
}

impl ApiError {
    pub fn new(status: StatusCode, code: &'static str, message: impl Into<String>) -> Self {
        let body = ErrorBody { code, message: excerpt(message.into()), oldest_seq: None, reason: None };
        Self { status, body, retry_after: None }
    }

    pub fn bad_request(message: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, "BAD_REQUEST", message)
    }

    /// It may work later.
    pub fn unavailable(code: &'static str, message: impl Into<String>) -> Self {
        Self { retry_after: Some(1), ..Self::new(StatusCode::SERVICE_UNAVAILABLE, code, message) }
    }

    /// It may work after a while, told in whole seconds.
    pub fn after(self, wait: Duration) -> Self {
        Self { retry_after: Some(u32::try_from(wait.as_secs()).unwrap_or(u32::MAX).max(1)), ..self }
    }

    /// Whether it may work later.
    pub fn is_unavailable(&self) -> bool {
        self.status == StatusCode::SERVICE_UNAVAILABLE
    }

    /// The pages of a snapshot that are not there any more.
    pub fn snapshot_expired() -> Self {
        Self::new(
            StatusCode::GONE,
            "SNAPSHOT_EXPIRED",
            "this snapshot is not held any longer: ask for its first page again, without `page`",
        )
    }

    /// A fault of the server's own. What it was is for the log, not for the client.
    pub fn internal(error: &dyn std::fmt::Display) -> Self {
        tracing::error!(%error, "a request failed");
        Self::new(StatusCode::INTERNAL_SERVER_ERROR, "INTERNAL", "the server failed; its log says more")
    }

    /// Its JSON, for streams that have no status.
    pub fn json(&self) -> String {
        serde_json::to_string(&Envelope { error: &self.body })
            .unwrap_or_else(|error| unreachable!("strings and numbers serialise: {error}"))
    }
}

/// A message that is not too long. Of a longer one the middle goes: it begins with the place, and
/// ends with what is expected there.
fn excerpt(message: String) -> String {
    if message.len() <= MAX_MESSAGE {
        return message;
    }
    let half = (MAX_MESSAGE - "…".len()) / 2;
    let (mut head, mut tail) = (half, message.len() - half);
    while !message.is_char_boundary(head) {
        head -= 1;
    }
    while !message.is_char_boundary(tail) {
        tail += 1;
    }
    format!("{}…{}", &message[..head], &message[tail..])
}

impl From<Resync> for ApiError {
    fn from(resync: Resync) -> Self {
        let Resync { reason, requested, oldest_seq, .. } = resync;
        let why = match reason {
            ResyncReason::Evicted => format!("{} events after seq {requested} are gone", resync.missed()),
            ResyncReason::Ahead => format!("seq {requested} was never handed out by this log"),
            ResyncReason::OtherLog => "the resume token is of another log".into(),
            ResyncReason::Compacted => {
                format!("rows were deleted after seq {requested}, and which ones is not known any more")
            }
            _ => "the cursor cannot be continued".into(),
        };
        let mut error = Self::new(
            StatusCode::GONE,
            "RESYNC_REQUIRED",
            format!("{why}: load /api/sync/snapshot, then go on from its cursor"),
        );
        error.body.oldest_seq = Some(oldest_seq);
        error.body.reason = Some(reason.as_str());
        error
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let mut response = (self.status, Json(Envelope { error: &self.body })).into_response();
        let headers = response.headers_mut();
        headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
        if let Some(seconds) = self.retry_after {
            headers.insert(header::RETRY_AFTER, seconds.into());
        }
        if self.status == StatusCode::UNAUTHORIZED {
            headers.insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        }
        response
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_is_bounded_and_keeps_its_two_ends() {
        for text in ["x".repeat(1 << 20), "é".repeat(600), "\u{1f600}".repeat(200)] {
            let message = ApiError::bad_request(format!("kind: `{text}`, expected a kind")).body.message;
            assert!(message.len() <= MAX_MESSAGE, "{}", message.len());
            assert!(message.starts_with("kind: `") && message.ends_with("`, expected a kind"), "{message}");
        }
        assert_eq!(excerpt("é".repeat(256)), "é".repeat(256));
    }
}
