//! `ringlog-server`: see `--help`, and `server/README.md`.
#![forbid(unsafe_code)]

mod signals;

use ringlog_server::{Cli, Command, Config, Serve, ServerError};
use signals::Signals;
use std::future::IntoFuture;
use std::io::{IsTerminal, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::pin::pin;
use std::process::ExitCode;
use tokio::net::TcpListener;
use tokio::sync::oneshot;
use tracing_subscriber::EnvFilter;
use tracing_subscriber::filter::LevelFilter;

/// The variable that says what is logged.
const RUST_LOG: &str = "RUST_LOG";

fn main() -> ExitCode {
    let Cli { command, serve } = Cli::load();
    init_logs(serve.log_json);
    let runtime = match tokio::runtime::Runtime::new() {
        Ok(runtime) => runtime,
        Err(error) => return fail(format_args!("cannot start a thread: {error}")),
    };
    let code = runtime.block_on(async {
        #[cfg(unix)]
        signals::survive_file_limits();
        match command {
            Some(command) => obey(command).await,
            None => run(serve).await,
        }
    });
    // A thread that waits for a disk may do so for ever: it ends with the process.
    runtime.shutdown_background();
    code
}

/// Does something else than to serve, and says what came of it.
async fn obey(command: Command) -> ExitCode {
    let said = match command.run().await {
        Ok(said) => said,
        Err(error) => return fail(error),
    };
    match writeln!(std::io::stdout(), "{said}") {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => fail(error),
    }
}

/// Runs a server until it is told to stop, or fails. A second signal ends the process at once.
async fn run(serve: Serve) -> ExitCode {
    let mut signals = match Signals::new() {
        Ok(signals) => signals,
        Err(error) => return fail(format_args!("cannot listen for signals: {error}")),
    };
    let listen = serve.listen;
    let config = serve.config();
    // Before it listens, if only for a moment.
    if let Err(error) = config.check(listen) {
        return fail(error);
    }
    let listener = TcpListener::bind(listen).await;
    let listener = listener.and_then(|listener| Ok((listener.local_addr()?, listener)));
    let (address, listener) = match listener {
        Ok(bound) => bound,
        Err(error) => return fail(format_args!("cannot listen on {listen}: {error}")),
    };
    print(&format!("listening on http://{address}\n"));
    let (stop, stopped) = oneshot::channel();
    let shutdown = async {
        let _ = stopped.await;
    };
    let ready = commands(address, &config);
    let server = ringlog_server::run(listener, shutdown, config).on_ready(move || print(&ready));
    let mut server = pin!(server.into_future());
    tokio::select! {
        ended = server.as_mut() => return exit_code(ended),
        _ = signals.next() => drop(stop.send(())),
    }
    tokio::select! {
        ended = server => exit_code(ended),
        signal = signals.next() => {
            say(format_args!("{} again: ended at once, requests in progress got no answer", signal.name));
            ExitCode::from(128 + signal.number)
        }
    }
}

fn exit_code(ended: Result<(), ServerError>) -> ExitCode {
    ended.map_or_else(fail, |()| ExitCode::SUCCESS)
}

fn print(text: &str) {
    // Standard output may have been closed; that is no reason to end.
    if let Err(error) = std::io::stdout().write_all(text.as_bytes()) {
        tracing::debug!(%error, "standard output is closed");
    }
}

fn fail(error: impl std::fmt::Display) -> ExitCode {
    say(error);
    ExitCode::FAILURE
}

fn say(message: impl std::fmt::Display) {
    // Nothing is left to be done if that cannot be said.
    let _ = writeln!(std::io::stderr(), "ringlog-server: {message}");
}

/// Logs go to standard error: standard output begins with where the server listens.
fn init_logs(json: bool) {
    let (filter, problem) =
        log_filter(std::env::var_os(RUST_LOG).as_deref().map(std::ffi::OsStr::to_string_lossy).as_deref());
    // A line that cannot be written is lost. To say that on standard error as well would end the
    // thread that logs by a panic.
    let logs = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .log_internal_errors(false);
    if json {
        logs.json().init();
    } else {
        logs.with_ansi(std::io::stderr().is_terminal()).init();
    }
    if let Some(problem) = problem {
        tracing::warn!("{problem}");
    }
}

/// The filter that `RUST_LOG` says, or that of level `info` if it says nothing or what cannot be
/// meant; and what is wrong with it.
fn log_filter(text: Option<&str>) -> (EnvFilter, Option<String>) {
    let builder = EnvFilter::builder().with_default_directive(LevelFilter::INFO.into());
    let text = text.unwrap_or_default().trim();
    let problem = match builder.parse(text) {
        Ok(_) if is_word(text) => {
            "a level is off, error, warn, info, debug or trace; a module has one, as ringlog_server=debug"
                .to_owned()
        }
        Ok(filter) => return (filter, None),
        Err(error) => error.to_string(),
    };
    let problem = format!("{RUST_LOG}={text} is not followed, level info is logged: {problem}");
    (EnvFilter::new("info"), Some(problem))
}

/// Whether this is one word that is no level. Taken for the name of a module, it would turn
/// everything else off.
fn is_word(text: &str) -> bool {
    !text.is_empty()
        && text.bytes().all(|byte| byte.is_ascii_alphanumeric())
        && text.parse::<LevelFilter>().is_err()
}

/// Three commands to try.
fn commands(address: SocketAddr, config: &Config) -> String {
    let auth = |is_set: bool, name: &str| {
        if is_set { format!(" -H \"Authorization: Bearer ${name}\"") } else { String::new() }
    };
    let read = auth(config.read_token.is_some(), "RINGLOG_READ_TOKEN");
    let write = auth(config.write_token.is_some(), "RINGLOG_WRITE_TOKEN");
    let given = if write.is_empty() { "" } else { ", with the tokens in the environment" };
    let url = format!("http://{}", reachable(address));
    let change = r#"{"changes":[{"entity":"Todo","row_id":"t1","kind":"insert","data":{"title":"Milk"}}]}"#;
    format!(
        "\ntry{given}:\n  \
         curl{write} -H 'Content-Type: application/json' -d '{change}' {url}/api/sync/push\n  \
         curl{read} {url}/api/sync/snapshot\n  \
         curl{read} -N '{url}/api/sync/live?since=0'\n"
    )
}

/// An address that a client on this machine can use: all addresses of it include loopback.
fn reachable(address: SocketAddr) -> SocketAddr {
    let ip = match address.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(ip) if ip.is_unspecified() => Ipv6Addr::LOCALHOST.into(),
        ip => ip,
    };
    SocketAddr::new(ip, address.port())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_log_filter_that_cannot_be_meant_is_named_and_info_is_logged() {
        for text in ["ringlog_server=loud", "info,a=b=c", "inof", "verbose", "9"] {
            let (filter, problem) = log_filter(Some(text));
            assert_eq!(filter.to_string(), "info", "{text}");
            assert!(problem.unwrap().starts_with(&format!("RUST_LOG={text} is not followed")));
        }
    }

    #[test]
    fn a_log_filter_that_says_nothing_means_info() {
        for text in [None, Some(""), Some(" ")] {
            let (filter, problem) = log_filter(text);
            assert_eq!((&*filter.to_string(), problem), ("info", None), "{text:?}");
        }
        for text in ["debug", "OFF", "warn,ringlog_server=debug", "hyper::proto"] {
            assert_eq!(log_filter(Some(text)).1, None, "{text}");
        }
    }
}
