//! A server in this process.

use ringlog_server::{Config, ServerError, run};
use std::net::SocketAddr;
use tokio::net::TcpListener;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

/// A server that is ready. One that is dropped runs on until its runtime ends.
#[derive(Debug)]
pub struct Server {
    address: SocketAddr,
    stop: Option<oneshot::Sender<()>>,
    running: JoinHandle<Result<(), ServerError>>,
}

impl Server {
    /// Starts one on a free port, and waits until it is ready.
    pub async fn start(config: Config) -> Result<Self, ServerError> {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        Self::start_on(listener, config).await
    }

    pub async fn start_on(listener: TcpListener, config: Config) -> Result<Self, ServerError> {
        let address = listener.local_addr().unwrap();
        let (stop, stopped) = oneshot::channel::<()>();
        let shutdown = async {
            if stopped.await.is_err() {
                std::future::pending::<()>().await;
            }
        };
        let (tell, ready) = oneshot::channel();
        let server = run(listener, shutdown, config).on_ready(|| tell.send(()).unwrap());
        let running = tokio::spawn(server.into_future());
        match ready.await {
            Ok(()) => Ok(Self { address, stop: Some(stop), running }),
            Err(_) => Err(running.await.unwrap().unwrap_err()),
        }
    }

    pub fn address(&self) -> SocketAddr {
        self.address
    }

    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Stops it. False if it did not stop as it should.
    pub async fn shutdown(mut self) -> bool {
        let _ = self.stop.take().unwrap().send(());
        self.ended().await.is_ok()
    }

    /// Waits until it ends by itself.
    pub async fn ended(&mut self) -> Result<(), ServerError> {
        (&mut self.running).await.unwrap()
    }
}
