//! `GET /api/sync/ws`: the live stream over a WebSocket.
//!
//! The server closes with the code that the standard has for the reason, waits for the client's
//! answer, and answers a client that closes. None of this waits for longer than [`CLOSING`].

use super::live::subscribe;
use crate::app::App;
use crate::error::ApiError;
use crate::subscriber::{Delivery, Subscriber};
use axum::body::Body;
use axum::extract::{Request, State};
use axum::http::{HeaderMap, HeaderValue, Method, StatusCode, Version, header};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use futures_util::{SinkExt, StreamExt};
use hyper::upgrade::{OnUpgrade, Upgraded};
use hyper_util::rt::TokioIo;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::AsyncWriteExt;
use tokio::time::{Instant, MissedTickBehavior, interval_at, timeout};
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Error;
use tokio_tungstenite::tungstenite::error::ProtocolError;
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;
use tokio_tungstenite::tungstenite::protocol::{CloseFrame, Message, Role, WebSocketConfig};

/// What clients send over a WebSocket is not looked at, and may not be long.
const MAX_MESSAGE: usize = 4096;

/// How long a client may take to answer a closing handshake.
const CLOSING: Duration = Duration::from_secs(5);

type Socket = WebSocketStream<TokioIo<Upgraded>>;

pub(super) async fn open(State(app): State<Arc<App>>, mut request: Request) -> Response {
    let key = match accept_key(&request) {
        Ok(key) => key,
        Err(refusal) => return *refusal,
    };
    let subscriber = match subscribe(&app, request.uri().query(), request.headers()).await {
        Ok(subscriber) => subscriber,
        Err(error) => return error.into_response(),
    };
    let upgrade = hyper::upgrade::on(&mut request);
    let (write_timeout, patience) = (app.limits.write_timeout, app.limits.patience());
    app.tasks.spawn(async move {
        let Some(mut socket) = upgraded(upgrade).await else { return };
        let mut subscriber = subscriber;
        let end = converse(&mut socket, &mut subscriber, write_timeout, patience).await;
        // Its place stays taken while the socket is open: there are no more sockets than places.
        let permit = subscriber.into_permit();
        // A client that does not answer in time is left alone.
        let _ = timeout(CLOSING, close(socket, end)).await;
        drop(permit);
    });
    let headers = [
        (header::CONNECTION, HeaderValue::from_static("upgrade")),
        (header::UPGRADE, HeaderValue::from_static("websocket")),
        (header::SEC_WEBSOCKET_ACCEPT, key),
    ];
    (StatusCode::SWITCHING_PROTOCOLS, headers, Body::empty()).into_response()
}

/// What an opening handshake is accepted with, or the refusal of a request that is none.
fn accept_key(request: &Request) -> Result<HeaderValue, Box<Response>> {
    // The router leads HEAD here as well.
    if request.method() != Method::GET {
        let message = "a WebSocket is opened with GET";
        let error = ApiError::new(StatusCode::METHOD_NOT_ALLOWED, "METHOD_NOT_ALLOWED", message);
        return Err(([(header::ALLOW, HeaderValue::from_static("GET"))], error).into_response().into());
    }
    let headers = request.headers();
    let names = |name, wanted: &str| {
        let values = headers.get_all(name).iter().filter_map(|value| value.to_str().ok());
        values.flat_map(|value| value.split(',')).any(|value| value.trim().eq_ignore_ascii_case(wanted))
    };
    let is_upgrade = request.version() >= Version::HTTP_11
        && names(header::CONNECTION, "upgrade")
        && names(header::UPGRADE, "websocket");
    if !is_upgrade {
        return Err(upgrade_required("this route is a WebSocket: it wants `Upgrade: websocket`").into());
    }
    if !names(header::SEC_WEBSOCKET_VERSION, "13") {
        return Err(upgrade_required("`Sec-WebSocket-Version` must be 13").into());
    }
    let key = headers.get(header::SEC_WEBSOCKET_KEY).filter(|key| is_key(key));
    let key = key.ok_or_else(|| {
        Box::new(ApiError::bad_request("`Sec-WebSocket-Key` must be 16 bytes in base64").into_response())
    })?;
    HeaderValue::try_from(derive_accept_key(key.as_bytes()))
        .map_err(|error| ApiError::internal(&error).into_response().into())
}

fn is_key(key: &HeaderValue) -> bool {
    use base64::{Engine, engine::general_purpose::STANDARD};
    STANDARD.decode(key).is_ok_and(|bytes| bytes.len() == 16)
}

fn upgrade_required(message: &str) -> Response {
    let mut headers = HeaderMap::new();
    headers.insert(header::CONNECTION, HeaderValue::from_static("upgrade"));
    headers.insert(header::UPGRADE, HeaderValue::from_static("websocket"));
    headers.insert(header::SEC_WEBSOCKET_VERSION, HeaderValue::from_static("13"));
    let error = ApiError::new(StatusCode::UPGRADE_REQUIRED, "UPGRADE_REQUIRED", message);
    (headers, error).into_response()
}

/// The socket, once the answer is out. None if the connection ended before.
async fn upgraded(upgrade: OnUpgrade) -> Option<Socket> {
    let upgraded = upgrade.await.inspect_err(|error| tracing::debug!(%error, "no WebSocket")).ok()?;
    let config = WebSocketConfig::default()
        .read_buffer_size(MAX_MESSAGE)
        .max_message_size(Some(MAX_MESSAGE))
        .max_frame_size(Some(MAX_MESSAGE));
    Some(WebSocketStream::from_raw_socket(TokioIo::new(upgraded), Role::Server, Some(config)).await)
}

/// How a conversation ends.
enum End {
    /// The server closes, for this reason.
    Close(CloseFrame),
    /// The client closes; its close frame is to be answered.
    Answer,
    /// The client is gone, or takes nothing.
    Gone,
}

impl End {
    fn close(code: CloseCode, reason: &'static str) -> Self {
        Self::Close(CloseFrame { code, reason: reason.into() })
    }

    /// What a client is told that has sent something wrong.
    fn failed(error: &Error) -> Self {
        match error {
            Error::Capacity(_) => Self::close(CloseCode::Size, "messages may have 4096 bytes"),
            Error::Utf8(_) => Self::close(CloseCode::Invalid, "a text that is not UTF-8"),
            Error::Protocol(ProtocolError::ResetWithoutClosingHandshake) => Self::Gone,
            Error::Protocol(_) => Self::close(CloseCode::Protocol, "not the WebSocket protocol"),
            _ => Self::Gone,
        }
    }
}

/// Sends what there is until either side has enough, or the client has vanished.
async fn converse(
    socket: &mut Socket,
    subscriber: &mut Subscriber,
    write_timeout: Duration,
    patience: Duration,
) -> End {
    let mut pings = interval_at(Instant::now() + patience, patience);
    pings.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut is_awaiting_pong = false;
    loop {
        let (message, end) = tokio::select! {
            // In this order: a pong that is there is seen before it is missed.
            biased;
            received = socket.next() => match received {
                Some(Ok(Message::Pong(_))) => {
                    is_awaiting_pong = false;
                    continue;
                }
                Some(Ok(Message::Close(_))) => return End::Answer,
                // The pong is sent before anything else is read: pongs would pile up for a client
                // that sends pings and reads nothing.
                Some(Ok(Message::Ping(_))) => {
                    if !matches!(timeout(write_timeout, socket.flush()).await, Ok(Ok(()))) {
                        return End::Gone;
                    }
                    continue;
                }
                // Whatever else comes is not looked at.
                Some(Ok(_)) => continue,
                Some(Err(error)) => return End::failed(&error),
                None => return End::Gone,
            },
            _ = pings.tick() => {
                if is_awaiting_pong {
                    return End::Gone;
                }
                is_awaiting_pong = true;
                (Message::Ping(Bytes::new()), None)
            }
            delivery = subscriber.next() => match delivery {
                Delivery::Changes(frame) => (Message::Text(frame.ws()), None),
                Delivery::Heartbeat(notice) => (Message::Text(notice.ws()), None),
                Delivery::Resync(notice) => {
                    (Message::Text(notice.ws()), Some(End::close(CloseCode::Normal, "resync required")))
                }
                Delivery::Stopping(notice) => {
                    (Message::Text(notice.ws()), Some(End::close(CloseCode::Away, "the server is stopping")))
                }
            },
        };
        let sent = timeout(write_timeout, socket.send(message)).await;
        if !matches!(sent, Ok(Ok(()))) {
            return End::Gone;
        }
        if let Some(end) = end {
            return end;
        }
    }
}

/// Closes the socket, so that the client knows why: a connection that is ended while the client
/// still sends is reset, and a close frame that is under way is lost with it.
async fn close(mut socket: Socket, end: End) {
    match end {
        End::Gone => return,
        End::Answer => {}
        End::Close(frame) => {
            if socket.close(Some(frame)).await.is_err() {
                return;
            }
        }
    }
    // Sends the answer, or waits for the client's. Ends at once where the client's bytes make no
    // frames any more.
    while let Some(Ok(_)) = socket.next().await {}
    let connection = socket.get_mut();
    if connection.shutdown().await.is_ok() {
        // What the client has under way is thrown away, until it hangs up as well. Only then is
        // nothing reset.
        let _ = tokio::io::copy(connection, &mut tokio::io::sink()).await;
    }
}
