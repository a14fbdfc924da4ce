//! A relay between clients and a server, as a proxy or a network that fails: it can cut, refuse,
//! and fall silent.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinHandle;

/// What a relay does with the connections that it has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Mode {
    Passing,
    /// Takes what comes from either side of those that asked for this, acknowledges it, and passes
    /// nothing on.
    Silent(&'static str),
    /// Ends them.
    Cut,
}

/// A relay on a port of its own.
pub struct Relay {
    address: SocketAddr,
    server: SocketAddr,
    /// Of the connections that are there; those that come after a change have another.
    mode: watch::Sender<Mode>,
    /// What the next connection listens to.
    next: Arc<Mutex<watch::Receiver<Mode>>>,
    accepting: Option<JoinHandle<()>>,
    heads: Arc<Mutex<Vec<String>>>,
}

impl Relay {
    /// A relay to a server.
    pub async fn start(server: SocketAddr) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let (mode, next) = watch::channel(Mode::Passing);
        let (address, next) = (listener.local_addr().unwrap(), Arc::new(Mutex::new(next)));
        let mut relay = Self { address, server, mode, next, accepting: None, heads: Arc::default() };
        relay.accept(listener);
        relay
    }

    fn accept(&mut self, listener: TcpListener) {
        let (server, next, heads) = (self.server, Arc::clone(&self.next), Arc::clone(&self.heads));
        self.accepting = Some(tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                let mode = next.lock().unwrap_or_else(PoisonError::into_inner).clone();
                tokio::spawn(carry(client, server, mode, Arc::clone(&heads)));
            }
        }));
    }

    /// Where it listens, as the beginning of an address.
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// The heads of the requests that came, without their order being promised.
    pub fn heads(&self) -> Vec<String> {
        self.heads.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Ends all connections, and refuses others until it is opened again.
    pub async fn cut(&mut self) {
        if let Some(accepting) = self.accepting.take() {
            accepting.abort();
            let _ = accepting.await;
        }
        self.mode.send_replace(Mode::Cut);
    }

    /// Takes connections again.
    pub async fn open(&mut self) {
        self.renew();
        let listener = TcpListener::bind(self.address).await.unwrap();
        self.accept(listener);
    }

    /// Has the next connections pass; answers with the mode of those that are there.
    fn renew(&mut self) -> watch::Sender<Mode> {
        let (mode, next) = watch::channel(Mode::Passing);
        *self.next.lock().unwrap_or_else(PoisonError::into_inner) = next;
        std::mem::replace(&mut self.mode, mode)
    }

    /// Passes nothing on any more of the connections whose last request had this in it. Those that
    /// come later are passed.
    pub fn silence(&mut self, request: &'static str) {
        let silent = self.renew();
        silent.send_replace(Mode::Silent(request));
        // The connections end when their mode does: it must be there as long as they are.
        std::mem::forget(silent);
    }
}

/// Carries the bytes of one connection both ways.
async fn carry(
    mut client: TcpStream,
    server: SocketAddr,
    mut mode: watch::Receiver<Mode>,
    heads: Arc<Mutex<Vec<String>>>,
) {
    let Ok(mut server) = TcpStream::connect(server).await else { return };
    let mut request = String::new();
    let (mut up, mut down) = ([0; 16_384], [0; 16_384]);
    loop {
        let is_silent = matches!(*mode.borrow(), Mode::Silent(part) if request.contains(part));
        tokio::select! {
            changed = mode.changed() => match changed {
                Ok(()) if *mode.borrow() != Mode::Cut => {}
                _ => return,
            },
            count = client.read(&mut up) => {
                let Some(count) = count.ok().filter(|count| *count > 0) else { return };
                if is_silent {
                    continue;
                }
                // Clients write a head at once; what they say over a WebSocket is masked, and looks
                // like none.
                if up.starts_with(b"GET ") {
                    request = String::from_utf8_lossy(&up[..count]).into_owned();
                    heads.lock().unwrap_or_else(PoisonError::into_inner).push(request.clone());
                }
                if server.write_all(&up[..count]).await.is_err() {
                    return;
                }
            }
            count = server.read(&mut down) => {
                let Some(count) = count.ok().filter(|count| *count > 0) else { return };
                if !is_silent && client.write_all(&down[..count]).await.is_err() {
                    return;
                }
            }
        }
    }
}
