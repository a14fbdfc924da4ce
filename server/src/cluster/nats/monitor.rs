//! What only the monitor of a NATS server tells.

use bytes::Bytes;
use http_body_util::{BodyExt, Empty, Limited};
use hyper::client::conn::http1;
use hyper::{Request, StatusCode, Uri, header};
use hyper_util::rt::TokioIo;
use std::time::Duration;
use tokio::net::TcpStream;
use tokio::time::timeout;

/// How long an answer may take.
const TIMEOUT: Duration = Duration::from_secs(3);

/// The longest answer.
const MAX_ANSWER: usize = 1 << 20;

/// The address of a monitor.
pub(super) fn address(text: &str) -> Result<Uri, String> {
    let uri: Uri = text.parse().map_err(|error| format!("{error}"))?;
    if uri.scheme_str() != Some("http") || uri.host().is_none() {
        return Err("it must be http://HOST:PORT".into());
    }
    Ok(uri)
}

/// Whether the server syncs its files before it acknowledges.
pub(super) async fn syncs_always(monitor: &Uri) -> Result<bool, String> {
    let answer =
        timeout(TIMEOUT, get(monitor, "/jsz")).await.map_err(|_| "no answer in time".to_owned())??;
    let answer: serde_json::Value = serde_json::from_slice(&answer).map_err(|error| error.to_string())?;
    let config = answer.get("config").ok_or("the server has no JetStream")?;
    Ok(config.get("sync_always").and_then(serde_json::Value::as_bool).unwrap_or(false))
}

async fn get(monitor: &Uri, path: &str) -> Result<Bytes, String> {
    let error = |error: &dyn std::fmt::Display| error.to_string();
    let host = monitor.host().unwrap_or_default();
    let port = monitor.port_u16().unwrap_or(80);
    let socket = TcpStream::connect((host.trim_matches(['[', ']']), port)).await.map_err(|e| error(&e))?;
    let (mut sender, connection) = http1::handshake(TokioIo::new(socket)).await.map_err(|e| error(&e))?;
    let request = Request::get(path)
        .header(header::HOST, format!("{host}:{port}"))
        .body(Empty::<Bytes>::new())
        .map_err(|e| error(&e))?;
    let answer = async {
        let answer = sender.send_request(request).await.map_err(|e| error(&e))?;
        if answer.status() != StatusCode::OK {
            return Err(format!("{path}: {}", answer.status()));
        }
        let body = Limited::new(answer.into_body(), MAX_ANSWER).collect().await;
        body.map(http_body_util::Collected::to_bytes).map_err(|e| error(&e))
    };
    // The connection is driven here, so that it ends with the request.
    tokio::pin!(connection, answer);
    tokio::select! {
        answer = &mut answer => answer,
        ended = &mut connection => match ended {
            Ok(()) => answer.await,
            Err(e) => Err(error(&e)),
        },
    }
}
