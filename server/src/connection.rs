//! Connections: accepting them, their number, and their end.
//!
//! A connection takes one of `--max-connections` places and has it until its socket is closed, also
//! after it has become a WebSocket.
//!
//! When all places are taken, a connection gets into the *reserve*, where one request is answered:
//! a health probe as ever, so that a full server is not taken for a dead one, anything else with
//! 503 and `Retry-After`. (Left in the system's queue of connections it would look like a server
//! that hangs.) The reserve cannot be filled: the oldest of its connections makes room for the
//! newest. A probe speaks at once, so it is answered as long as fewer than [`RESERVE`] others come
//! in that moment.

use crate::auth;
use crate::config::Config;
use crate::exchange::{Courteous, Exchange, MAX_HEAD};
use crate::liveness;
use crate::routes;
use axum::Router;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use std::collections::VecDeque;
use std::future::Future;
use std::io;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::task::AbortHandle;
use tokio_io_timeout::TimeoutStream;
use tokio_util::sync::{CancellationToken, WaitForCancellationFutureOwned};
use tokio_util::task::TaskTracker;
use tokio_util::task::task_tracker::TaskTrackerToken;

/// Connections over the limit that are held at a time.
pub(crate) const RESERVE: usize = 64;

/// The longest that a connection of the reserve lasts.
const RESERVE_PATIENCE: Duration = Duration::from_secs(2);

/// What all connections share.
#[derive(Debug, Clone)]
pub(crate) struct Connections {
    pub(crate) config: Arc<Config>,
    /// One for each connection.
    pub(crate) permits: Arc<Semaphore>,
    /// The server is asked to stop.
    pub(crate) stopping: CancellationToken,
    /// The time for stopping is over: connections are dropped.
    pub(crate) cut: CancellationToken,
    pub(crate) tasks: TaskTracker,
}

impl Connections {
    pub(crate) fn new(config: Config) -> Self {
        Self {
            permits: Arc::new(Semaphore::new(config.max_connections)),
            stopping: CancellationToken::new(),
            cut: CancellationToken::new(),
            tasks: TaskTracker::new(),
            config: Arc::new(config),
        }
    }

    fn builder(&self) -> http1::Builder {
        let mut builder = http1::Builder::new();
        builder
            .timer(TokioTimer::new())
            .header_read_timeout(self.config.header_timeout)
            .max_buf_size(MAX_HEAD);
        builder
    }

    /// Answers the requests of one connection. When the server stops, the one that is being
    /// answered is the last; when connections are cut, it is dropped.
    fn serve(
        &self,
        builder: &http1::Builder,
        stream: TcpStream,
        place: Option<OwnedSemaphorePermit>,
        router: Router,
    ) -> impl Future<Output = ()> + use<> {
        let exchange = Exchange::default();
        let socket =
            Courteous::new(Socket::new(stream, self, place), exchange.clone(), self.stopping.clone());
        let service = exchange.service(router);
        let connection = builder.serve_connection(TokioIo::new(socket), service).with_upgrades();
        let (stopping, cut) = (self.stopping.clone(), self.cut.clone());
        let serving = async move {
            let mut connection = pin!(connection);
            tokio::select! {
                ended = connection.as_mut() => ended,
                () = stopping.cancelled() => {
                    connection.as_mut().graceful_shutdown();
                    connection.await
                }
            }
        };
        async move {
            if let Some(Err(error)) = cut.run_until_cancelled(serving).await {
                tracing::debug!(%error, "a connection failed");
            }
        }
    }
}

/// Accepts connections until the server stops.
pub(crate) async fn accept(listener: TcpListener, router: Router, connections: Connections) {
    let builder = connections.builder();
    let mut reserve = Reserve::new(&connections, router.clone());
    let router = auth::with_cors(router, &connections.config);
    let patience = connections.config.limits().patience();
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = connections.stopping.cancelled() => return,
        };
        let stream = match accepted {
            Ok((stream, _)) => stream,
            Err(error) => {
                // Too many open files, most likely: it passes.
                tracing::warn!(%error, "cannot accept a connection");
                tokio::time::sleep(Duration::from_millis(50)).await;
                continue;
            }
        };
        // Answers are short and do not wait for the next one.
        let _ = stream.set_nodelay(true);
        liveness::watch(&stream, patience);
        match Arc::clone(&connections.permits).try_acquire_owned() {
            Ok(place) => {
                let serving = connections.serve(&builder, stream, Some(place), router.clone());
                connections.tasks.spawn(serving);
            }
            Err(_) => reserve.admit(stream, &connections),
        }
    }
}

/// The connections over the limit, the oldest first.
struct Reserve {
    held: VecDeque<AbortHandle>,
    builder: http1::Builder,
    router: Router,
}

impl Reserve {
    fn new(connections: &Connections, router: Router) -> Self {
        let mut builder = connections.builder();
        builder.keep_alive(false);
        let router = routes::reserve(router, connections.config.max_connections);
        let router = auth::with_cors(router, &connections.config);
        Self { held: VecDeque::with_capacity(RESERVE), builder, router }
    }

    /// Answers one request of a connection; the oldest one of the others is closed if there are too
    /// many.
    fn admit(&mut self, stream: TcpStream, connections: &Connections) {
        self.held.retain(|held| !held.is_finished());
        if self.held.len() >= RESERVE
            && let Some(oldest) = self.held.pop_front()
        {
            oldest.abort();
        }
        let serving = connections.serve(&self.builder, stream, None, self.router.clone());
        let task = connections.tasks.spawn(async move {
            // Out of patience, it is closed like one that made room.
            let _ = tokio::time::timeout(RESERVE_PATIENCE, serving).await;
        });
        self.held.push_back(task.abort_handle());
    }
}

/// A client's socket, in whatever hands: hyper's, or those of a WebSocket. It holds the
/// connection's place, keeps the server from having stopped, and fails when connections are cut.
struct Socket {
    stream: Pin<Box<TimeoutStream<TcpStream>>>,
    cut: Pin<Box<WaitForCancellationFutureOwned>>,
    _place: Option<OwnedSemaphorePermit>,
    _tracked: TaskTrackerToken,
}

impl Socket {
    fn new(stream: TcpStream, connections: &Connections, place: Option<OwnedSemaphorePermit>) -> Self {
        let mut stream = TimeoutStream::new(stream);
        stream.set_write_timeout(Some(connections.config.write_timeout));
        Self {
            stream: Box::pin(stream),
            cut: Box::pin(connections.cut.clone().cancelled_owned()),
            _place: place,
            _tracked: connections.tasks.token(),
        }
    }

    /// An error instead of waiting, once connections are cut.
    fn unless_cut<T>(
        &mut self,
        context: &mut Context<'_>,
        polled: Poll<io::Result<T>>,
    ) -> Poll<io::Result<T>> {
        if polled.is_pending() && self.cut.as_mut().poll(context).is_ready() {
            return Poll::Ready(Err(io::Error::new(
                io::ErrorKind::ConnectionAborted,
                "the server has stopped",
            )));
        }
        polled
    }
}

impl AsyncRead for Socket {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let polled = self.stream.as_mut().poll_read(context, buffer);
        self.unless_cut(context, polled)
    }
}

impl AsyncWrite for Socket {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let polled = self.stream.as_mut().poll_write(context, bytes);
        self.unless_cut(context, polled)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let polled = self.stream.as_mut().poll_write_vectored(context, slices);
        self.unless_cut(context, polled)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let polled = self.stream.as_mut().poll_flush(context);
        self.unless_cut(context, polled)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let polled = self.stream.as_mut().poll_shutdown(context);
        self.unless_cut(context, polled)
    }
}
