//! The signals that ask the process to end.

/// A signal, and its number: a process that it ends exits with 128 and this.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Signal {
    pub(crate) name: &'static str,
    pub(crate) number: u8,
}

const INTERRUPT: Signal = Signal { name: "SIGINT", number: 2 };

#[cfg(unix)]
const TERMINATE: Signal = Signal { name: "SIGTERM", number: 15 };

/// SIGTERM and SIGINT, from when it is made: neither ends the process by itself any more.
#[cfg(unix)]
pub(crate) struct Signals {
    terminate: tokio::signal::unix::Signal,
    interrupt: tokio::signal::unix::Signal,
}

#[cfg(unix)]
impl Signals {
    pub(crate) fn new() -> std::io::Result<Self> {
        use tokio::signal::unix::{SignalKind, signal};
        Ok(Self { terminate: signal(SignalKind::terminate())?, interrupt: signal(SignalKind::interrupt())? })
    }

    /// The next one that comes.
    pub(crate) async fn next(&mut self) -> Signal {
        tokio::select! {
            _ = self.terminate.recv() => TERMINATE,
            _ = self.interrupt.recv() => INTERRUPT,
        }
    }
}

/// Ctrl-C.
#[cfg(not(unix))]
pub(crate) struct Signals;

#[cfg(not(unix))]
impl Signals {
    #[expect(clippy::unnecessary_wraps, reason = "as where it can fail")]
    pub(crate) fn new() -> std::io::Result<Self> {
        Ok(Self)
    }

    /// The next one that comes. None ever, if there is no console.
    pub(crate) async fn next(&mut self) -> Signal {
        if tokio::signal::ctrl_c().await.is_err() {
            std::future::pending::<()>().await;
        }
        INTERRUPT
    }
}

/// A write beyond the limit of a file's size (`ulimit -f`) is an error like a full disk; unheard,
/// its signal ends the process.
#[cfg(unix)]
pub(crate) fn survive_file_limits() {
    const SIGXFSZ: i32 = 25;
    // A signal that is heard once keeps its new effect for good.
    if let Err(error) = tokio::signal::unix::signal(tokio::signal::unix::SignalKind::from_raw(SIGXFSZ)) {
        tracing::debug!(%error, "a limit of a file's size would end the server");
    }
}
