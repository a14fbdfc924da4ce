//! Manners of a connection that hyper does not have by itself. They are kept between hyper and the
//! socket, for every route.
//!
//! - **A client that has said all may close its half** (`shutdown(SHUT_WR)`, as `nc -N` does) and
//!   still gets its answer. hyper takes the end of the stream for a client that is gone, and drops
//!   the request. So the end is held back while a request is being answered. A handler that waits
//!   is told, and answers at once: if the client is gone for good, the connection ends with that.
//!   Live streams end, as before: nothing else shows in time that their reader left.
//!
//!   Whether the request had arrived whole cannot be told from the end alone: hyper may have read
//!   the rest of the body, and the handler may not have got it yet. So a body ends early when the
//!   handler has found nothing of it, hyper has then asked the socket for more, and the handler
//!   finds nothing again. hyper asks for more with a body in its hands only if it has passed on all
//!   of it, and the handler would find what was passed on.
//! - **Closing lingers.** An answer may be given before the request has been read to its end (413,
//!   401…). If the socket were closed then, what the client still sends would be answered by a
//!   reset, and a reset discards the answer that the client has not read yet. So the sending half
//!   is closed first, and what comes is discarded for a while.
//! - **hyper's own refusals get a body.** A head that is not HTTP or too long never reaches the
//!   router; hyper answers it with a status alone. The JSON that all errors have is put in.

use axum::http::{Request, Response, StatusCode, header};
use axum::{BoxError, Router};
use hyper::body::{Body, Frame, Incoming, SizeHint};
use hyper::service::{Service, service_fn};
use hyper_util::service::TowerToHyperService;
use ringlog_axum::error::ApiError;
use ringlog_axum::routes::HalfClosed;
use std::convert::Infallible;
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker, ready};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Instant, Sleep};
use tokio_util::sync::{CancellationToken, WaitForCancellationFutureOwned};

/// A client that still sends is listened to for so long after its answer.
const LINGER: Duration = Duration::from_secs(30);

/// A client that sends nothing is taken to have read its answer after so long.
const LINGER_IDLE: Duration = Duration::from_secs(2);

/// The most bytes that are discarded before a connection is closed.
const LINGER_BYTES: usize = 64 << 20;

/// The most of a head that is read, in bytes. hyper's limit of headers is 100.
pub(crate) const MAX_HEAD: usize = 64 << 10;

/// What the socket and the service of one connection know of each other.
#[derive(Debug, Clone, Default)]
pub(crate) struct Exchange {
    state: Arc<Mutex<State>>,
    half_closed: CancellationToken,
}

#[derive(Debug, Default)]
struct State {
    phase: Phase,
    /// Wakes the reader, from which an end of the stream is held back.
    held_back: Option<Waker>,
    /// How often the end was held back while the body of the current request was arriving.
    asked: u64,
    /// How often it had been when the handler last found nothing of the body.
    found_nothing: Option<u64>,
    /// Wakes the handler that waits for more of the body.
    handler: Option<Waker>,
}

/// How far the current request is.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
enum Phase {
    /// There is none, or it is a live stream.
    #[default]
    Open,
    /// Its body arrives.
    Arriving,
    /// It is here, and is being answered.
    Whole,
    /// Its answer is with hyper, to be flushed.
    Answered,
}

impl Exchange {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn set(&self, phase: Phase) {
        let mut state = self.state();
        state.phase = phase;
        if phase == Phase::Open
            && let Some(reader) = state.held_back.take()
        {
            drop(state);
            reader.wake();
        }
    }

    /// The service of the connection: the router, and this knows of what it is asked and answers.
    pub(crate) fn service(
        self,
        router: Router,
    ) -> impl Service<
        Request<Incoming>,
        Response = Response<Leaving<axum::body::Body>>,
        Error = Infallible,
        Future: Send,
    > {
        let router = TowerToHyperService::new(router);
        service_fn(move |request| {
            let exchange = self.clone();
            let answered = router.call(exchange.begin(request));
            async move { answered.await.map(|response| exchange.answer(response)) }
        })
    }

    /// A request begins.
    fn begin<B: Body>(&self, mut request: Request<B>) -> Request<Arriving<B>> {
        request.extensions_mut().insert(HalfClosed(self.half_closed.clone()));
        let phase = if request.body().is_end_stream() { Phase::Whole } else { Phase::Arriving };
        *self.state() = State { phase, ..State::default() };
        request.map(|body| Arriving { body, exchange: self.clone() })
    }

    /// The handler finds nothing of the body at present. True if nothing more can come.
    fn is_cut_short(&self, context: &Context<'_>) -> bool {
        let mut state = self.state();
        if state.found_nothing.is_some_and(|before| state.asked > before) {
            return true;
        }
        if state.asked == 0 {
            state.handler = Some(context.waker().clone());
        } else {
            state.found_nothing = Some(state.asked);
            context.waker().wake_by_ref();
        }
        false
    }

    /// It is answered.
    fn answer<A>(&self, response: Response<A>) -> Response<Leaving<A>> {
        let content_type = response.headers().get(header::CONTENT_TYPE);
        let is_live = response.status() == StatusCode::SWITCHING_PROTOCOLS
            || content_type.is_some_and(|value| value == "text/event-stream");
        if is_live {
            self.set(Phase::Open);
        }
        response.map(|body| Leaving { body, exchange: (!is_live).then(|| self.clone()) })
    }
}

/// A request's body. It says when it has arrived.
pub(crate) struct Arriving<B> {
    body: B,
    exchange: Exchange,
}

impl<B: Body<Error: Into<BoxError>> + Unpin> Body for Arriving<B> {
    type Data = B::Data;
    type Error = BoxError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<B::Data>, BoxError>>> {
        let Poll::Ready(frame) = Pin::new(&mut self.body).poll_frame(context) else {
            return if self.exchange.is_cut_short(context) {
                Poll::Ready(Some(Err(io::Error::from(io::ErrorKind::UnexpectedEof).into())))
            } else {
                Poll::Pending
            };
        };
        if frame.is_none() || self.body.is_end_stream() {
            self.exchange.set(Phase::Whole);
        }
        Poll::Ready(frame.map(|frame| frame.map_err(Into::into)))
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// An answer's body. When hyper has taken all of it, it is dropped.
pub(crate) struct Leaving<B> {
    body: B,
    exchange: Option<Exchange>,
}

impl<B: Body + Unpin> Body for Leaving<B> {
    type Data = B::Data;
    type Error = B::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<B::Data>, B::Error>>> {
        Pin::new(&mut self.body).poll_frame(context)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

impl<B> Drop for Leaving<B> {
    fn drop(&mut self) {
        if let Some(exchange) = &self.exchange
            && matches!(exchange.state().phase, Phase::Arriving | Phase::Whole)
        {
            exchange.set(Phase::Answered);
        }
    }
}

/// A socket with manners.
pub(crate) struct Courteous<S> {
    socket: S,
    exchange: Exchange,
    stopping: CancellationToken,
    /// What is written in place of a refusal of hyper's, and how much of it is.
    instead: Option<(Vec<u8>, usize)>,
    linger: Option<Linger>,
}

/// The time that a connection has left.
struct Linger {
    until: Instant,
    idle: Pin<Box<Sleep>>,
    stopping: Pin<Box<WaitForCancellationFutureOwned>>,
    bytes: usize,
}

impl<S: AsyncRead + AsyncWrite + Unpin> Courteous<S> {
    pub(crate) fn new(socket: S, exchange: Exchange, stopping: CancellationToken) -> Self {
        Self { socket, exchange, stopping, instead: None, linger: None }
    }

    /// Whether the end of the stream is held back for now.
    fn holds_back(&self, context: &Context<'_>) -> bool {
        let mut state = self.exchange.state();
        if state.phase == Phase::Open {
            return false;
        }
        state.held_back = Some(context.waker().clone());
        state.asked += 1;
        let handler = state.handler.take();
        drop(state);
        if let Some(handler) = handler {
            handler.wake();
        }
        self.exchange.half_closed.cancel();
        true
    }

    /// Discards what comes until the client hangs up, or its time is over.
    fn poll_linger(&mut self, context: &mut Context<'_>) -> Poll<()> {
        let Self { socket, stopping, linger, .. } = self;
        let linger = linger.get_or_insert_with(|| Linger {
            until: Instant::now() + LINGER,
            idle: Box::pin(tokio::time::sleep(LINGER_IDLE)),
            stopping: Box::pin(stopping.clone().cancelled_owned()),
            bytes: 0,
        });
        let mut discarded = [0; 8192];
        loop {
            if linger.stopping.as_mut().poll(context).is_ready()
                || linger.idle.as_mut().poll(context).is_ready()
            {
                return Poll::Ready(());
            }
            let mut buffer = ReadBuf::new(&mut discarded);
            if ready!(Pin::new(&mut *socket).poll_read(context, &mut buffer)).is_err() {
                return Poll::Ready(());
            }
            let count = buffer.filled().len();
            linger.bytes += count;
            if count == 0 || linger.bytes > LINGER_BYTES {
                return Poll::Ready(());
            }
            linger.idle.as_mut().reset((Instant::now() + LINGER_IDLE).min(linger.until));
        }
    }

    /// Writes what there is instead of a refusal of `len` bytes.
    fn poll_instead(&mut self, context: &mut Context<'_>, len: usize) -> Poll<io::Result<usize>> {
        while let Some((bytes, written)) = &mut self.instead {
            let count = ready!(Pin::new(&mut self.socket).poll_write(context, &bytes[*written..]))?;
            if count == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            *written += count;
            if *written == bytes.len() {
                self.instead = None;
            }
        }
        Poll::Ready(Ok(len))
    }
}

/// The same refusal with a body, if these bytes are one of hyper's own: of a client's fault, and
/// empty. None of the routes' is.
fn with_body(bytes: &[u8]) -> Option<Vec<u8>> {
    const NO_BODY: &str = "content-length: 0\r\n";
    if !bytes.starts_with(b"HTTP/1.1 4") {
        return None;
    }
    let text = std::str::from_utf8(bytes).ok().filter(|text| text.ends_with("\r\n\r\n"))?;
    let (before, after) = text.split_once(NO_BODY)?;
    let status = StatusCode::from_bytes(bytes.get(9..12)?).ok()?;
    let refused = match status {
        StatusCode::URI_TOO_LONG => {
            ApiError::new(status, "URI_TOO_LONG", "the address of a request may have 65534 bytes")
        }
        StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE => ApiError::new(
            status,
            "HEAD_TOO_LARGE",
            format!("the head of a request may have {MAX_HEAD} bytes, and 100 headers"),
        ),
        _ => ApiError::new(status, "BAD_REQUEST", "the head of the request is not one of HTTP/1.1"),
    };
    let json = refused.json();
    let fields = "content-type: application/json\r\ncache-control: no-store\r\n";
    Some(format!("{before}{fields}content-length: {}\r\n{after}{json}", json.len()).into_bytes())
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncRead for Courteous<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        ready!(Pin::new(&mut self.socket).poll_read(context, buffer))?;
        let is_end = buffer.filled().len() == before && buffer.remaining() > 0;
        if is_end && self.holds_back(context) {
            return Poll::Pending;
        }
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncWrite for Courteous<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        if self.instead.is_none() {
            self.instead = with_body(bytes).map(|instead| (instead, 0));
        }
        if self.instead.is_some() {
            return self.poll_instead(context, bytes.len());
        }
        Pin::new(&mut self.socket).poll_write(context, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match slices {
            [only] => self.poll_write(context, only),
            _ => Pin::new(&mut self.socket).poll_write_vectored(context, slices),
        }
    }

    fn is_write_vectored(&self) -> bool {
        self.socket.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(Pin::new(&mut self.socket).poll_flush(context))?;
        let is_answered = self.exchange.state().phase == Phase::Answered;
        if is_answered {
            self.exchange.set(Phase::Open);
        }
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.linger.is_none() {
            ready!(Pin::new(&mut self.socket).poll_shutdown(context))?;
        }
        ready!(self.poll_linger(context));
        Poll::Ready(Ok(()))
    }
}
