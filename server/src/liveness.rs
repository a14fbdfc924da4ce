//! How a peer that has vanished is noticed, though it says nothing and its system acknowledges
//! nothing.
//!
//! A connection whose peer has lost its power or its network looks like one on which nothing
//! happens. Bytes that are written to it stay in the kernel, which repeats them for a quarter of an
//! hour, so that a time-out for writing never ends. Three measures end it within two heartbeats:
//!
//! - `TCP_USER_TIMEOUT` of one heartbeat: what was sent must be acknowledged in this time. A live
//!   stream sends something each heartbeat, so a peer that vanishes right after an acknowledgement
//!   is gone two heartbeats later.
//! - TCP keep-alive: an idle connection is probed after half a heartbeat, so it ends within one.
//! - A ping over each WebSocket (the route `/api/sync/ws`): its pong must be there when
//!   the next one is due. A proxy acknowledges for a client that is gone; it cannot answer a ping
//!   for it.
//!
//! The kernel counts a window that stays closed as unacknowledged: a client that reads nothing for
//! a heartbeat while something waits to be sent is let go as well.

use socket2::{SockRef, TcpKeepalive};
use std::time::Duration;
use tokio::net::TcpStream;

/// How much of what is to be sent may wait in the kernel, besides what is under way: a ping is not
/// held up by a backlog of more.
#[cfg(target_os = "linux")]
const MAX_UNSENT: u32 = 256 << 10;

/// Has the kernel notice when the peer of a connection has vanished for longer than `patience`.
pub(crate) fn watch(stream: &TcpStream, patience: Duration) {
    // The kernel counts in whole seconds, at least one.
    let seconds = |duration: Duration| Duration::from_secs(duration.as_secs().max(1));
    let keepalive = TcpKeepalive::new().with_time(seconds(patience / 2)).with_interval(seconds(patience / 4));
    let socket = SockRef::from(stream);
    let set = || {
        socket.set_tcp_keepalive(&keepalive)?;
        #[cfg(target_os = "linux")]
        {
            socket.set_tcp_user_timeout(Some(patience))?;
            socket.set_tcp_notsent_lowat(MAX_UNSENT)?;
        }
        std::io::Result::Ok(())
    };
    if let Err(error) = set() {
        tracing::debug!(%error, "cannot set how a vanished peer is noticed");
    }
}
