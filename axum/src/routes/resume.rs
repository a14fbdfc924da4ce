//! The headers that say where an answer leaves its reader.

use axum::extract::Request;
use axum::http::{HeaderMap, HeaderValue, Method};
use axum::middleware::Next;
use axum::response::Response;
use ringlog::Cursor;

const RESUME: &str = "ringlog-resume";
const COMPACTED_TO: &str = "ringlog-compacted-to";

/// Sets the header: only on an answer that holds all that lies between there and where the reader
/// stood before.
pub(super) fn set_resume(headers: &mut HeaderMap, cursor: Cursor) {
    if let Ok(value) = HeaderValue::try_from(cursor.to_string()) {
        headers.insert(RESUME, value);
    }
}

/// Sets the header that says up to which seq only the latest change of each row is told.
pub(super) fn set_compacted_to(headers: &mut HeaderMap, seq: u64) {
    headers.insert(COMPACTED_TO, seq.into());
}

/// Takes the token from an answer to HEAD: its reader is sent nothing of what lies before that.
pub(super) async fn no_cursor_without_body(request: Request, next: Next) -> Response {
    let is_head = request.method() == Method::HEAD;
    let mut response = next.run(request).await;
    if is_head {
        response.headers_mut().remove(RESUME);
    }
    response
}
