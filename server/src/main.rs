//! `ringlog-server`: see `--help`, and `server/README.md`.
#![forbid(unsafe_code)]

use clap::Parser;
use ringlog_server::{Cli, Command, Config, Server};
use std::io::{IsTerminal, Write};
use std::process::ExitCode;
use tracing_subscriber::EnvFilter;

#[tokio::main]
async fn main() -> ExitCode {
    let Cli { command, config } = Cli::parse();
    init_logs(&config);
    let ended = match command {
        Some(command) => obey(command).await,
        None => run(config).await,
    };
    match ended {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // Nothing is left to be done if that cannot be said.
            let _ = writeln!(std::io::stderr(), "ringlog-server: {error}");
            ExitCode::FAILURE
        }
    }
}

async fn obey(command: Command) -> Result<(), Box<dyn std::error::Error>> {
    writeln!(std::io::stdout(), "{}", command.run().await?)?;
    Ok(())
}

async fn run(config: Config) -> Result<(), Box<dyn std::error::Error>> {
    #[cfg(unix)]
    survive_file_limits();
    let starting = Server::listen(config.clone()).await?;
    // Whoever started it may have closed standard output; that is no reason to end.
    if let Err(error) = std::io::stdout().write_all(greeting(&starting.url(), &config).as_bytes()) {
        tracing::debug!(%error, "nobody reads standard output");
    }
    // To verify a large store takes a while. Nothing was changed yet, so that to stop then needs no care.
    let server = tokio::select! {
        ready = starting.ready() => ready?,
        () = stop_signal() => return Ok(()),
    };
    tokio::select! {
        () = stop_signal() => server.shutdown().await,
        () = server.failed() => {
            server.shutdown().await;
            Err("the store failed, see the log; nothing that was answered is lost, start again")?;
        }
    }
    Ok(())
}

/// Logs go to standard error: standard output begins with where the server listens.
fn init_logs(config: &Config) {
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("info"));
    // A line that cannot be written is lost. To say that on standard error as well would end whoever logs by a panic.
    let logs = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .log_internal_errors(false);
    if config.log_json {
        logs.json().init();
    } else {
        logs.with_ansi(std::io::stderr().is_terminal()).init();
    }
}

/// Says where the server listens, and three commands to try.
fn greeting(url: &str, config: &Config) -> String {
    let auth = |token: &Option<String>, name: &str| {
        token.as_ref().map_or(String::new(), |_| format!(" -H \"Authorization: Bearer ${name}\""))
    };
    let (read, write) =
        (auth(&config.read_token, "RINGLOG_READ_TOKEN"), auth(&config.write_token, "RINGLOG_WRITE_TOKEN"));
    let change = r#"{"changes":[{"entity":"Todo","row_id":"t1","kind":"insert","data":{"title":"Milk"}}]}"#;
    format!(
        "listening on {url}\n\ntry:\n  \
         curl{write} {url}/api/sync/push --json '{change}'\n  \
         curl{read} {url}/api/sync/snapshot\n  \
         curl{read} -N '{url}/api/sync/live?since=0'\n"
    )
}

/// A write beyond the limit of a file's size (`ulimit -f`) is an error like a full disk; unheard, its signal ends the process.
#[cfg(unix)]
fn survive_file_limits() {
    const SIGXFSZ: i32 = 25;
    // Who hears a signal once has changed what it does for good.
    if let Err(error) = tokio::signal::unix::signal(tokio::signal::unix::SignalKind::from_raw(SIGXFSZ)) {
        tracing::debug!(%error, "a limit of a file's size would end the server");
    }
}

#[cfg(unix)]
async fn stop_signal() {
    use tokio::signal::unix::{SignalKind, signal};
    let Ok(mut terminate) = signal(SignalKind::terminate()) else {
        return interrupted().await;
    };
    tokio::select! {
        _ = terminate.recv() => {}
        () = interrupted() => {}
    }
}

#[cfg(not(unix))]
async fn stop_signal() {
    interrupted().await;
}

/// Without a way to be interrupted, the server runs until it is killed.
async fn interrupted() {
    if tokio::signal::ctrl_c().await.is_err() {
        std::future::pending::<()>().await;
    }
}
