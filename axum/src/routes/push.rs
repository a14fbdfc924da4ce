//! `POST /api/sync/push`: a client's changes are applied, each once.

use crate::app::App;
use crate::envelope::Push;
use crate::error::ApiError;
use crate::share::Share;
use axum::Json;
use axum::body::Body;
use axum::extract::State;
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use flate2::write::GzDecoder;
use http_body_util::BodyExt;
use std::io::{self, Write};
use std::sync::Arc;
use std::time::Instant;

/// The memory that a decoder of gzip takes: its window, its output and its tables.
const GZIP_COST: usize = 80 << 10;

pub(super) async fn push(
    State(app): State<Arc<App>>,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, ApiError> {
    let encoding = match check_headers(&app, &headers) {
        Ok(encoding) => encoding,
        Err(refused) => return Ok(with_accepted(refused)),
    };
    let (text, share) = receive(&app, encoding, body).await?;
    let since = Instant::now();
    let push = Push::read(text, share, app.limits.max_changes())?;
    let response = app.push(push).await?;
    app.metrics.pushed(since);
    // No resume token: what others pushed meanwhile lies before the cursor, and this client has not
    // seen it.
    Ok(Json(response).into_response())
}

/// How a body is encoded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Encoding {
    Identity,
    Gzip,
}

/// Refuses what is known to be wrong before the body is read.
fn check_headers(app: &App, headers: &HeaderMap) -> Result<Encoding, ApiError> {
    let unsupported =
        |message| ApiError::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, "UNSUPPORTED_MEDIA_TYPE", message);
    let content_type =
        headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let essence = content_type.split(';').next().unwrap_or_default().trim();
    // A web page of another site cannot send this type without asking first.
    if !essence.eq_ignore_ascii_case("application/json") {
        return Err(unsupported("a push has the header `Content-Type: application/json`"));
    }
    let mut encodings = headers.get_all(header::CONTENT_ENCODING).iter();
    let encoding = encodings.next().map_or("identity", |value| value.to_str().unwrap_or_default().trim());
    let encoding = match encoding.to_ascii_lowercase().as_str() {
        _ if encodings.next().is_some() => None,
        "identity" => Some(Encoding::Identity),
        "gzip" | "x-gzip" => Some(Encoding::Gzip),
        _ => None,
    };
    let encoding = encoding.ok_or_else(|| {
        unsupported("the body of a push is sent as it is, or once with `Content-Encoding: gzip`")
    })?;
    let length = headers.get(header::CONTENT_LENGTH).and_then(|value| value.to_str().ok()?.parse().ok());
    if length.is_some_and(|length: usize| length > app.limits.max_body) {
        return Err(too_large(app.limits.max_body));
    }
    Ok(encoding)
}

/// The refusal, with what would have been accepted if it is the type or the encoding.
fn with_accepted(refused: ApiError) -> Response {
    let mut response = refused.into_response();
    if response.status() == StatusCode::UNSUPPORTED_MEDIA_TYPE {
        response.headers_mut().insert(header::ACCEPT_ENCODING, HeaderValue::from_static("gzip"));
    }
    response
}

fn too_large(max_body: usize) -> ApiError {
    ApiError::new(
        StatusCode::PAYLOAD_TOO_LARGE,
        "BODY_TOO_LARGE",
        format!("the body may have {max_body} bytes (--max-body), also unpacked: nothing was applied"),
    )
}

/// The body's text, and the share that pays for it. It is paid for as it arrives: a client that
/// sends nothing has nothing.
async fn receive(app: &App, encoding: Encoding, mut body: Body) -> Result<(String, Share), ApiError> {
    let mut inbox = match encoding {
        Encoding::Identity => Inbox::Plain(Text::new(app)),
        Encoding::Gzip => Inbox::Empty(Text::new(app)),
    };
    // Of what is packed as well: much of it may stand for nothing.
    let mut received = 0;
    while let Some(frame) = body.frame().await {
        let frame =
            frame.map_err(|_| ApiError::bad_request("the body ended early, or its chunks are malformed"))?;
        let Ok(chunk) = frame.into_data() else { continue };
        received += chunk.len();
        if received > app.limits.max_body {
            return Err(too_large(app.limits.max_body));
        }
        inbox = inbox.take(&chunk)?;
    }
    let Text { bytes, share, .. } = inbox.finish()?;
    let text = String::from_utf8(bytes).map_err(|error| {
        ApiError::bad_request(format!("the body is not UTF-8 at byte {}", error.utf8_error().valid_up_to()))
    })?;
    Ok((text, share))
}

/// Where a body gathers.
enum Inbox {
    Plain(Text),
    /// It will be gzip. The decoder's memory is not taken before something is to be decoded.
    Empty(Text),
    Gzip(Box<GzDecoder<Text>>),
}

impl Inbox {
    fn take(self, chunk: &[u8]) -> Result<Self, ApiError> {
        match self {
            Self::Plain(mut text) => {
                text.push(chunk)?;
                Ok(Self::Plain(text))
            }
            Self::Empty(mut text) => {
                text.share.grow(GZIP_COST)?;
                Self::Gzip(Box::new(GzDecoder::new(text))).take(chunk)
            }
            Self::Gzip(mut decoder) => {
                let written = decoder.write_all(chunk);
                written.map_err(|error| unpacking(decoder.get_mut(), &error))?;
                Ok(Self::Gzip(decoder))
            }
        }
    }

    fn finish(self) -> Result<Text, ApiError> {
        match self {
            Self::Plain(text) | Self::Empty(text) => Ok(text),
            Self::Gzip(mut decoder) => {
                let finished = decoder.try_finish();
                finished.map_err(|error| unpacking(decoder.get_mut(), &error))?;
                decoder.finish().map_err(|error| not_gzip(&error))
            }
        }
    }
}

/// Why unpacking failed: the text was refused, or what came is not gzip.
fn unpacking(text: &mut Text, error: &io::Error) -> ApiError {
    text.refused.take().unwrap_or_else(|| not_gzip(error))
}

fn not_gzip(error: &io::Error) -> ApiError {
    ApiError::bad_request(format!("the body is not gzip, or more than one member of it: {error}"))
}

/// A text as far as it has arrived.
struct Text {
    bytes: Vec<u8>,
    most: usize,
    share: Share,
    /// Why it took no more.
    refused: Option<ApiError>,
}

impl Text {
    fn new(app: &App) -> Self {
        Self { bytes: Vec::new(), most: app.limits.max_body, share: app.pushing.share(), refused: None }
    }

    /// Takes more bytes, and pays for their memory first.
    fn push(&mut self, bytes: &[u8]) -> Result<(), ApiError> {
        let len = self.bytes.len() + bytes.len();
        if len > self.most {
            return Err(too_large(self.most));
        }
        let capacity = self.bytes.capacity();
        if len > capacity {
            let wanted = len.max(2 * capacity).min(self.most);
            self.share.grow(wanted - capacity)?;
            self.bytes.reserve_exact(wanted - self.bytes.len());
        }
        self.bytes.extend_from_slice(bytes);
        Ok(())
    }
}

impl Write for Text {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self.push(bytes) {
            Ok(()) => Ok(bytes.len()),
            Err(refused) => {
                self.refused = Some(refused);
                Err(io::ErrorKind::Other.into())
            }
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
