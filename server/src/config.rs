//! What can be set, on the command line or in the environment.

use clap::Parser;
use ringlog::MAX_CAPACITY;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

/// The longest wait and the longest time-out that can be set: a day.
const MAX_SECONDS: f64 = 86_400.0;

/// A little less than 1 MiB, the longest WebSocket message that Python's `websockets` takes unless told otherwise: so a change
/// of any length that is taken can be sent to every client.
const DEFAULT_MAX_BODY: usize = (1 << 20) - 1024;

/// Tokens shorter than this are guessed too soon.
const MIN_TOKEN_LEN: usize = 16;

/// What a server is started with. [`Config::parse_from`](clap::Parser::parse_from) makes one from arguments.
#[derive(Debug, Clone, Parser)]
#[command(
    name = "ringlog-server",
    version,
    about = "A sync server: push, pull, snapshot and live streams over HTTP"
)]
#[expect(clippy::struct_excessive_bools, reason = "each is a switch of the command line")]
pub struct Config {
    /// Where to listen; port 0 takes any free one. Another address than loopback requires both tokens
    #[arg(long, env = "RINGLOG_LISTEN", value_name = "ADDR:PORT", default_value = "127.0.0.1:7070")]
    pub listen: SocketAddr,

    /// The folder that holds the data; it is made if it is not there
    #[arg(long, env = "RINGLOG_DATA", value_name = "DIR", default_value = "ringlog-data")]
    pub data: PathBuf,

    /// Same log for a data folder that was moved to another disk or machine
    #[arg(long, env = "RINGLOG_ADOPT", conflicts_with_all = ["memory", "new_incarnation"])]
    pub adopt: bool,

    /// Another log for a data folder put back from a snapshot of its disk
    #[arg(long, env = "RINGLOG_NEW_INCARNATION", conflicts_with = "memory")]
    pub new_incarnation: bool,

    /// Keep nothing on disk: all is lost when the server stops
    #[arg(long, env = "RINGLOG_MEMORY", conflicts_with = "data")]
    pub memory: bool,

    /// How many events can be pulled: the last so many
    #[arg(long, env = "RINGLOG_CAPACITY", value_name = "EVENTS", default_value_t = 100_000, value_parser = count)]
    pub capacity: usize,

    /// Most bytes of text in the window: of entities, row ids and data
    #[arg(long, env = "RINGLOG_WINDOW_BYTES", value_name = "BYTES", default_value_t = 256 << 20, value_parser = window_bytes)]
    pub window_bytes: usize,

    /// How many applied op ids are remembered: the last so many
    #[arg(long, env = "RINGLOG_OP_IDS", value_name = "COUNT", default_value_t = 100_000, value_parser = count)]
    pub op_ids: usize,

    /// The most changes in one push; never more than are kept or than op ids are remembered
    #[arg(long, env = "RINGLOG_MAX_CHANGES", value_name = "COUNT", default_value_t = 1000, value_parser = count)]
    pub max_changes: usize,

    /// The longest body of a push, in bytes
    #[arg(long, env = "RINGLOG_MAX_BODY", value_name = "BYTES", default_value_t = DEFAULT_MAX_BODY, value_parser = bytes)]
    pub max_body: usize,

    /// How many bytes of pushes may be in work at a time, all clients together; more are told to come back
    #[arg(long, env = "RINGLOG_MAX_PUSHING", value_name = "BYTES", default_value_t = 64 << 20, value_parser = bytes)]
    pub max_pushing: usize,

    /// The most events in one pull, and the most rows in one page of a snapshot
    #[arg(long, env = "RINGLOG_MAX_LIMIT", value_name = "COUNT", default_value_t = 1000, value_parser = count)]
    pub max_limit: usize,

    /// The longest that a pull may wait for something new
    #[arg(long, env = "RINGLOG_MAX_WAIT", value_name = "SECONDS", default_value = "60", value_parser = seconds)]
    pub max_wait: Duration,

    /// The most connections at a time; further ones wait to be accepted
    #[arg(long, env = "RINGLOG_MAX_CONNECTIONS", value_name = "COUNT", default_value_t = 10_000, value_parser = count)]
    pub max_connections: usize,

    /// The most live streams at a time
    #[arg(long, env = "RINGLOG_MAX_SUBSCRIBERS", value_name = "COUNT", default_value_t = 5000, value_parser = count)]
    pub max_subscribers: usize,

    /// How long a client may take to send a request's head, and a connection may be idle
    #[arg(long, env = "RINGLOG_HEADER_TIMEOUT", value_name = "SECONDS", default_value = "30", value_parser = seconds)]
    pub header_timeout: Duration,

    /// How long a request may take, its body included, the wait of a pull not
    #[arg(long, env = "RINGLOG_REQUEST_TIMEOUT", value_name = "SECONDS", default_value = "30", value_parser = seconds)]
    pub request_timeout: Duration,

    /// How long a client may take nothing of what is sent to it
    #[arg(long, env = "RINGLOG_WRITE_TIMEOUT", value_name = "SECONDS", default_value = "30", value_parser = seconds)]
    pub write_timeout: Duration,

    /// How often a live stream on which nothing happens shows that it lives
    #[arg(long, env = "RINGLOG_HEARTBEAT", value_name = "SECONDS", default_value = "15", value_parser = seconds)]
    pub heartbeat: Duration,

    /// How long the pages of a snapshot can be asked for after the last one was
    #[arg(long, env = "RINGLOG_SNAPSHOT_TTL", value_name = "SECONDS", default_value = "60", value_parser = seconds)]
    pub snapshot_ttl: Duration,

    /// The most snapshots held for clients that page through them
    #[arg(long, env = "RINGLOG_MAX_SNAPSHOTS", value_name = "COUNT", default_value_t = 32, value_parser = count)]
    pub max_snapshots: usize,

    /// How long requests may take to end when the server is asked to stop
    #[arg(long, env = "RINGLOG_DRAIN", value_name = "SECONDS", default_value = "10", value_parser = seconds)]
    pub drain: Duration,

    /// Memory for pages of the store, in MiB
    #[arg(long, env = "RINGLOG_STORE_CACHE", value_name = "MIB", default_value_t = 128, value_parser = count)]
    pub store_cache: usize,

    /// Who reads must show it as a bearer token
    #[arg(long, env = "RINGLOG_READ_TOKEN", value_name = "TOKEN", hide_env_values = true)]
    pub read_token: Option<String>,

    /// Who pushes must show it as a bearer token; it is good for reading too
    #[arg(long, env = "RINGLOG_WRITE_TOKEN", value_name = "TOKEN", hide_env_values = true)]
    pub write_token: Option<String>,

    /// Log lines as JSON; what is logged is chosen by `RUST_LOG`
    #[arg(long, env = "RINGLOG_LOG_JSON")]
    pub log_json: bool,
}

impl Config {
    /// The limit of changes in a push, and the option that sets it. A longer one could not be seen whole, nor repeated.
    pub(crate) fn max_changes(&self) -> (usize, &'static str) {
        let limits =
            [(self.max_changes, "--max-changes"), (self.capacity, "--capacity"), (self.op_ids, "--op-ids")];
        limits.into_iter().min_by_key(|(most, _)| *most).unwrap_or(limits[0])
    }

    /// What is wrong with it, if anything.
    pub(crate) fn check(&self) -> Result<(), String> {
        for (name, token) in [("--read-token", &self.read_token), ("--write-token", &self.write_token)] {
            let unfit =
                |token: &String| token.len() < MIN_TOKEN_LEN || !token.bytes().all(|b| b.is_ascii_graphic());
            if token.as_ref().is_some_and(unfit) {
                return Err(format!(
                    "{name} must have at least {MIN_TOKEN_LEN} characters, all of them visible ASCII"
                ));
            }
        }
        if self.read_token.is_some() && self.write_token.is_none() {
            return Err("--read-token without --write-token would let anybody push: set both".into());
        }
        let open = self.read_token.is_none() || self.write_token.is_none();
        if open && !self.listen.ip().is_loopback() {
            return Err(format!(
                "listening on {} lets other machines in: set --read-token and --write-token \
                 (or RINGLOG_READ_TOKEN and RINGLOG_WRITE_TOKEN), or listen on 127.0.0.1",
                self.listen
            ));
        }
        if self.window_bytes < self.max_body {
            return Err(format!(
                "--window-bytes must be at least --max-body ({}), not {}: a push could not be seen whole",
                self.max_body, self.window_bytes
            ));
        }
        if self.max_pushing < self.max_body {
            return Err(format!(
                "--max-pushing must be at least --max-body ({}), not {}",
                self.max_body, self.max_pushing
            ));
        }
        Ok(())
    }
}

fn count(text: &str) -> Result<usize, String> {
    in_range(text, 1, MAX_CAPACITY)
}

fn bytes(text: &str) -> Result<usize, String> {
    in_range(text, 1024, 1 << 32)
}

fn window_bytes(text: &str) -> Result<usize, String> {
    in_range(text, 1024, 1 << 40)
}

fn in_range(text: &str, least: usize, most: usize) -> Result<usize, String> {
    let number = text.parse().ok().filter(|number| (least..=most).contains(number));
    number.ok_or_else(|| format!("must be a whole number in {least}..={most}"))
}

fn seconds(text: &str) -> Result<Duration, String> {
    let number = text.parse().ok().filter(|seconds| (0.001..=MAX_SECONDS).contains(seconds));
    number.map(Duration::from_secs_f64).ok_or_else(|| format!("must be seconds in 0.001..={MAX_SECONDS}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(args: &str) -> Result<(), String> {
        let args = ["ringlog-server"].into_iter().chain(args.split_whitespace());
        Config::try_parse_from(args).map_err(|error| error.to_string())?.check()
    }

    #[test]
    fn other_addresses_than_loopback_require_both_tokens() {
        let tokens = "--read-token read-read-read-read --write-token write-write-write";
        assert!(check("--listen 0.0.0.0:0").unwrap_err().contains("--read-token and --write-token"));
        assert!(check("--listen [::]:0 --write-token write-write-write").is_err());
        assert_eq!(check(&format!("--listen 0.0.0.0:0 {tokens}")), Ok(()));
        assert_eq!(check("--listen [::1]:0"), Ok(()));
    }

    #[test]
    fn half_a_protection_is_none() {
        assert!(check("--read-token read-read-read-read").unwrap_err().contains("anybody push"));
        assert!(check("--write-token short").unwrap_err().contains("16 characters"));
        assert!(check("--write-token=").unwrap_err().contains("16 characters"));
    }

    #[test]
    fn measures_out_of_range_name_the_range() {
        assert!(check("--capacity 0").unwrap_err().contains("1..=268435456"));
        assert!(check("--max-wait 1e9").unwrap_err().contains("0.001..=86400"));
        assert!(check("--max-body 1").unwrap_err().contains("1024..="));
        assert!(check("--max-body 100000 --max-pushing 5000").unwrap_err().contains("at least --max-body"));
        assert!(check("--memory --data somewhere").unwrap_err().contains("cannot be used with"));
    }
}
