//! The configuration: command line and environment.

use clap::error::ErrorKind;
use clap::parser::ValueSource;
use clap::{ArgMatches, Command, CommandFactory, FromArgMatches, Parser};
use ringlog::MAX_CAPACITY;
use std::ffi::OsString;
use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

/// The longest wait and the longest time-out that can be set: a day.
const MAX_SECONDS: f64 = 86_400.0;

/// A little less than 1 MiB, the longest WebSocket message that Python's `websockets` takes unless
/// told otherwise: so a change of any length that is taken can be sent to every client.
const DEFAULT_MAX_BODY: usize = (1 << 20) - 1024;

/// Minimum length of a token: shorter ones are guessed too soon.
const MIN_TOKEN_LEN: usize = 16;

/// The configuration of a server. [`Config::load_from`] makes one from arguments.
#[derive(Debug, Clone, Parser)]
#[command(
    name = "ringlog-server",
    version,
    about = "A sync server: push, pull, snapshot and live streams over HTTP"
)]
#[expect(clippy::struct_excessive_bools, reason = "each is a switch of the command line")]
pub struct Config {
    /// Address to listen on; any but loopback requires both tokens
    #[arg(long, env = "RINGLOG_LISTEN", value_name = "ADDR:PORT", default_value = "127.0.0.1:7070")]
    pub listen: SocketAddr,

    /// Folder of the store; created if missing
    #[arg(long, env = "RINGLOG_DATA", value_name = "DIR", default_value = "ringlog-data")]
    pub data: PathBuf,

    /// Same log for a data folder that was moved to another disk or machine
    #[arg(long, env = "RINGLOG_ADOPT", value_parser = switch)]
    pub adopt: bool,

    /// Another log for a data folder put back from a snapshot of its disk
    #[arg(long, env = "RINGLOG_NEW_INCARNATION", value_parser = switch)]
    pub new_incarnation: bool,

    /// Memory only: nothing is kept on disk
    #[arg(long, env = "RINGLOG_MEMORY", value_parser = switch)]
    pub memory: bool,

    /// Number of latest events that can be pulled
    #[arg(long, env = "RINGLOG_CAPACITY", value_name = "EVENTS", default_value_t = 100_000, value_parser = count)]
    pub capacity: usize,

    /// Maximum bytes of text in the window: of entities, row ids and data
    #[arg(long, env = "RINGLOG_WINDOW_BYTES", value_name = "BYTES", default_value_t = 256 << 20, value_parser = window_bytes)]
    pub window_bytes: usize,

    /// Number of latest op ids remembered
    #[arg(long, env = "RINGLOG_OP_IDS", value_name = "COUNT", default_value_t = 100_000, value_parser = count)]
    pub op_ids: usize,

    /// Maximum changes in a push; never above --capacity or --op-ids
    #[arg(long, env = "RINGLOG_MAX_CHANGES", value_name = "COUNT", default_value_t = 1000, value_parser = count)]
    pub max_changes: usize,

    /// Maximum size of the body of a push
    #[arg(long, env = "RINGLOG_MAX_BODY", value_name = "BYTES", default_value_t = DEFAULT_MAX_BODY, value_parser = bytes)]
    pub max_body: usize,

    /// Maximum size of all pushes in progress together
    #[arg(long, env = "RINGLOG_MAX_PUSHING", value_name = "BYTES", default_value_t = 64 << 20, value_parser = bytes)]
    pub max_pushing: usize,

    /// Maximum size of all pages being sent together
    #[arg(long, env = "RINGLOG_MAX_SENDING", value_name = "BYTES", default_value_t = 256 << 20, value_parser = bytes)]
    pub max_sending: usize,

    /// Maximum events in a pull, and rows in a page of a snapshot
    #[arg(long, env = "RINGLOG_MAX_LIMIT", value_name = "COUNT", default_value_t = 1000, value_parser = count)]
    pub max_limit: usize,

    /// Maximum wait of a pull for something new
    #[arg(long, env = "RINGLOG_MAX_WAIT", value_name = "SECONDS", default_value = "60", value_parser = seconds)]
    pub max_wait: Duration,

    /// Maximum open connections, also as a WebSocket
    #[arg(long, env = "RINGLOG_MAX_CONNECTIONS", value_name = "COUNT", default_value_t = 10_000, value_parser = count)]
    pub max_connections: usize,

    /// Maximum live streams, of both kinds
    #[arg(long, env = "RINGLOG_MAX_SUBSCRIBERS", value_name = "COUNT", default_value_t = 5000, value_parser = count)]
    pub max_subscribers: usize,

    /// Time limit for the head of a request, and for an idle connection
    #[arg(long, env = "RINGLOG_HEADER_TIMEOUT", value_name = "SECONDS", default_value = "30", value_parser = seconds)]
    pub header_timeout: Duration,

    /// Time limit for a request and its body, the wait of a pull excluded
    #[arg(long, env = "RINGLOG_REQUEST_TIMEOUT", value_name = "SECONDS", default_value = "30", value_parser = seconds)]
    pub request_timeout: Duration,

    /// Time limit for a client to take any of what is sent to it
    #[arg(long, env = "RINGLOG_WRITE_TIMEOUT", value_name = "SECONDS", default_value = "30", value_parser = seconds)]
    pub write_timeout: Duration,

    /// Interval of heartbeats on an idle live stream
    #[arg(long, env = "RINGLOG_HEARTBEAT", value_name = "SECONDS", default_value = "15", value_parser = seconds)]
    pub heartbeat: Duration,

    /// Time limit for asking for the next page of a snapshot
    #[arg(long, env = "RINGLOG_SNAPSHOT_TTL", value_name = "SECONDS", default_value = "60", value_parser = seconds)]
    pub snapshot_ttl: Duration,

    /// Time limit for loading a whole snapshot
    #[arg(long, env = "RINGLOG_SNAPSHOT_MAX_AGE", value_name = "SECONDS", default_value = "600", value_parser = seconds)]
    pub snapshot_max_age: Duration,

    /// Maximum snapshots held for clients that page through them
    #[arg(long, env = "RINGLOG_MAX_SNAPSHOTS", value_name = "COUNT", default_value_t = 32, value_parser = count)]
    pub max_snapshots: usize,

    /// Time limit for stopping, from the signal to the end of the process
    #[arg(long, env = "RINGLOG_DRAIN", value_name = "SECONDS", default_value = "10", value_parser = seconds)]
    pub drain: Duration,

    /// Size of the store's page cache
    #[arg(long, env = "RINGLOG_STORE_CACHE", value_name = "MIB", default_value_t = 128, value_parser = count)]
    pub store_cache: usize,

    /// Bearer token required to read
    #[arg(long, env = "RINGLOG_READ_TOKEN", value_name = "TOKEN", hide_env_values = true)]
    pub read_token: Option<Token>,

    /// Bearer token required to push; allows reading too
    #[arg(long, env = "RINGLOG_WRITE_TOKEN", value_name = "TOKEN", hide_env_values = true)]
    pub write_token: Option<Token>,

    /// Origin whose web pages may use the server; repeatable, * for all
    #[arg(long, env = "RINGLOG_CORS_ORIGIN", value_name = "ORIGIN", value_delimiter = ',', value_parser = origin)]
    pub cors_origin: Vec<String>,

    /// Maximum stream tickets issued and not used yet
    #[arg(long, env = "RINGLOG_MAX_TICKETS", value_name = "COUNT", default_value_t = 10_000, value_parser = count)]
    pub max_tickets: usize,

    /// Time limit for using a stream ticket
    #[arg(long, env = "RINGLOG_TICKET_TTL", value_name = "SECONDS", default_value = "30", value_parser = seconds)]
    pub ticket_ttl: Duration,

    /// JSON log lines; `RUST_LOG` sets what is logged
    #[arg(long, env = "RINGLOG_LOG_JSON", value_parser = switch)]
    pub log_json: bool,
}

/// A secret. `Debug` does not show it.
#[derive(Clone, PartialEq, Eq)]
pub struct Token(String);

impl Token {
    pub(crate) fn as_bytes(&self) -> &[u8] {
        self.0.as_bytes()
    }
}

impl From<&str> for Token {
    fn from(text: &str) -> Self {
        Self(text.to_owned())
    }
}

impl From<String> for Token {
    fn from(text: String) -> Self {
        Self(text)
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Token(..)")
    }
}

impl Config {
    /// A configuration from arguments, the first of which is the program's name, and the
    /// environment.
    ///
    /// # Errors
    /// An argument or a variable that is unknown, out of range, or in conflict with another one of
    /// equal rank.
    pub fn load_from<T: Into<OsString> + Clone>(
        args: impl IntoIterator<Item = T>,
    ) -> Result<Self, clap::Error> {
        let mut command = Self::command();
        let matches = command.try_get_matches_from_mut(args)?;
        let mut config = Self::from_arg_matches(&matches)?;
        config.settle_memory(&mut command, &matches)?;
        Ok(config)
    }

    /// Decides between `--memory` and `--data` where both are said.
    pub(crate) fn settle_memory(
        &mut self,
        command: &mut Command,
        matches: &ArgMatches,
    ) -> Result<(), clap::Error> {
        if !self.memory {
            return Ok(());
        }
        let [memory, data] = ["memory", "data"].map(|id| matches.value_source(id));
        // `--memory` says that data may be lost, `--data` that it may not. The command line
        // outranks the environment; where both are of equal rank, neither is followed.
        match (memory, data) {
            (Some(ValueSource::CommandLine), Some(ValueSource::CommandLine)) => Err(command.error(
                ErrorKind::ArgumentConflict,
                "the argument '--memory' cannot be used with '--data <DIR>'",
            )),
            (Some(ValueSource::EnvVariable), Some(ValueSource::EnvVariable)) => Err(command.error(
                ErrorKind::ArgumentConflict,
                "RINGLOG_MEMORY cannot be used with RINGLOG_DATA: unset one of them, or say --memory or --data",
            )),
            (_, Some(ValueSource::CommandLine)) => {
                self.memory = false;
                Ok(())
            }
            _ => Ok(()),
        }
    }

    /// The limit of changes in a push, and the option that sets it. A longer one could not be seen
    /// whole, nor repeated.
    pub(crate) fn max_changes(&self) -> (usize, &'static str) {
        let limits =
            [(self.max_changes, "--max-changes"), (self.capacity, "--capacity"), (self.op_ids, "--op-ids")];
        limits.into_iter().min_by_key(|(most, _)| *most).unwrap_or(limits[0])
    }

    /// What is wrong with it, if anything.
    pub(crate) fn check(&self) -> Result<(), String> {
        for (name, token) in [
            ("--read-token (RINGLOG_READ_TOKEN)", &self.read_token),
            ("--write-token (RINGLOG_WRITE_TOKEN)", &self.write_token),
        ] {
            token.as_ref().map_or(Ok(()), |Token(token)| check_token(name, token))?;
        }
        if self.read_token.is_some() && self.write_token.is_none() {
            return Err("--read-token without --write-token would let anybody push: set both".into());
        }
        if self.read_token.is_some() && self.read_token == self.write_token {
            return Err("--read-token and --write-token are the same: readers could push".into());
        }
        let open = self.read_token.is_none() || self.write_token.is_none();
        if open && !self.listen.ip().is_loopback() {
            return Err(format!(
                "--listen {} lets other machines in: set --read-token and --write-token \
                 (RINGLOG_READ_TOKEN and RINGLOG_WRITE_TOKEN), or listen on 127.0.0.1",
                self.listen
            ));
        }
        self.check_origins(open)?;
        if self.memory && (self.adopt || self.new_incarnation) {
            return Err(
                "--memory cannot be used with --adopt or --new-incarnation, which are about a data folder"
                    .into(),
            );
        }
        if self.adopt && self.new_incarnation {
            return Err(
                "--adopt cannot be used with --new-incarnation: the log is the same, or another".into()
            );
        }
        if self.window_bytes < self.max_body {
            return Err(format!(
                "--window-bytes is {}: the minimum is --max-body, which is {}, or a push could not be seen whole",
                self.window_bytes, self.max_body
            ));
        }
        if self.max_pushing < self.max_body {
            return Err(format!(
                "--max-pushing is {}: the minimum is --max-body, which is {}",
                self.max_pushing, self.max_body
            ));
        }
        Ok(())
    }

    fn check_origins(&self, open: bool) -> Result<(), String> {
        if !self.cors_origin.iter().any(|origin| origin == ANY_ORIGIN) {
            return Ok(());
        }
        if self.cors_origin.len() > 1 {
            return Err(format!(
                "--cors-origin is {}: * includes all others, say it alone",
                self.cors_origin.join(",")
            ));
        }
        if open {
            return Err("--cors-origin * would let any web page read, and push: set --read-token and \
                        --write-token, or name the origins"
                .into());
        }
        Ok(())
    }
}

/// `--cors-origin` for every origin.
pub(crate) const ANY_ORIGIN: &str = "*";

/// The error says how long the token is, never what it is.
fn check_token(name: &str, token: &str) -> Result<(), String> {
    if token.len() < MIN_TOKEN_LEN {
        return Err(format!("{name} has {} characters: the minimum is {MIN_TOKEN_LEN}", token.len()));
    }
    match token.chars().position(|char| !char.is_ascii_graphic()) {
        Some(index) => Err(format!("{name}: character {} is not visible ASCII", index + 1)),
        None => Ok(()),
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

/// A boolean of the environment; an empty one is false, as if it were not set.
fn switch(text: &str) -> Result<bool, String> {
    match &*text.to_ascii_lowercase() {
        "1" | "true" | "yes" | "on" => Ok(true),
        "" | "0" | "false" | "no" | "off" => Ok(false),
        _ => Err("must be true, 1, yes or on, or false, 0, no or off".into()),
    }
}

/// An origin as browsers send it: `scheme://host` or `scheme://host:port`, in lower case, without
/// the scheme's own port.
fn origin(text: &str) -> Result<String, String> {
    if text == ANY_ORIGIN {
        return Ok(text.to_owned());
    }
    let form = || "must be * or `scheme://host[:port]`, as https://app.example".to_owned();
    let (scheme, authority) = text.split_once("://").ok_or_else(form)?;
    let is_scheme = scheme.starts_with(|c: char| c.is_ascii_lowercase())
        && scheme.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b"+-.".contains(&b));
    let parsed: axum::http::uri::Authority = authority.parse().map_err(|_| form())?;
    let is_host = !parsed.host().is_empty() && !authority.contains(['@', '*', '/', '?', '#']);
    if !is_scheme || !is_host || authority.bytes().any(|b| b.is_ascii_uppercase() || !b.is_ascii()) {
        return Err(form());
    }
    let rest = authority.strip_prefix(parsed.host()).unwrap_or_default();
    if !rest.is_empty() && parsed.port_u16().is_none() {
        return Err(form());
    }
    match (scheme, parsed.port_u16()) {
        ("http", Some(80)) | ("https", Some(443)) => {
            Err(format!("browsers leave the port of {scheme} out: say {scheme}://{}", parsed.host()))
        }
        _ => Ok(text.to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn load(args: &str) -> Result<Config, String> {
        let args = ["ringlog-server"].into_iter().chain(args.split_whitespace());
        Config::load_from(args).map_err(|error| error.to_string())
    }

    fn check(args: &str) -> Result<(), String> {
        load(args)?.check()
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
        assert!(check("--write-token=").unwrap_err().contains("the minimum is 16"));
    }

    #[test]
    fn a_token_that_is_unfit_is_not_repeated() {
        let short = check("--write-token hush-hush").unwrap_err();
        assert_eq!(short, "--write-token (RINGLOG_WRITE_TOKEN) has 9 characters: the minimum is 16");
        let odd = check("--write-token hush-hush-hush-hüsh").unwrap_err();
        assert_eq!(odd, "--write-token (RINGLOG_WRITE_TOKEN): character 17 is not visible ASCII");
    }

    #[test]
    fn debug_does_not_show_tokens() {
        let config = load("--read-token read-read-read-read --write-token write-write-write").unwrap();
        let text = format!("{config:?} {config:#?}");
        assert!(text.contains("read_token: Some(Token(..))"), "{text}");
        assert!(!text.contains("read-read") && !text.contains("write-write"), "{text}");
    }

    #[test]
    fn measures_out_of_range_name_option_value_and_range() {
        for (args, said) in [
            ("--capacity 0", ["'0'", "--capacity", "1..=268435456"]),
            ("--max-wait 1e9", ["'1e9'", "--max-wait", "0.001..=86400"]),
            ("--drain NaN", ["'NaN'", "--drain", "0.001..=86400"]),
            ("--max-body 1", ["'1'", "--max-body", "1024..="]),
            (
                "--max-body 100000 --max-pushing 5000",
                ["5000", "--max-pushing", "--max-body, which is 100000"],
            ),
        ] {
            let error = check(args).unwrap_err();
            assert!(said.iter().all(|said| error.contains(said)), "{args}: {error}");
        }
    }

    #[test]
    fn memory_and_data_exclude_each_other() {
        assert!(load("--memory --data somewhere").unwrap_err().contains("cannot be used with"));
        assert!(load("--memory").unwrap().memory);
        assert!(!load("--data somewhere").unwrap().memory);
    }

    #[test]
    fn switches_are_read_as_people_write_them() {
        for text in ["1", "true", "TRUE", "yes", "on"] {
            assert_eq!(switch(text), Ok(true), "{text}");
        }
        for text in ["", "0", "false", "False", "no", "off"] {
            assert_eq!(switch(text), Ok(false), "{text}");
        }
        for text in ["2", "ture", "tru", " "] {
            assert!(switch(text).unwrap_err().contains("must be true"), "{text}");
        }
    }

    #[test]
    fn an_origin_is_one_as_browsers_send_it() {
        for text in [
            "*",
            "https://app.example",
            "http://localhost:5173",
            "https://app.example:8443",
            "http://127.0.0.1:3000",
            "http://[::1]:3000",
            "capacitor://localhost",
            "chrome-extension://abcdefghijklmnop",
        ] {
            assert_eq!(origin(text).as_deref(), Ok(text));
        }
        for text in [
            "",
            "null",
            "app.example",
            "https://",
            "https://app.example/",
            "https://app.example/path",
            "https://App.example",
            "HTTPS://app.example",
            "https://*.example",
            "https://me@app.example",
            "https://bücher.example",
            "https://app.example:",
            "https://app.example:99999",
            "https://app.example:443",
            "http://app.example:80",
        ] {
            assert!(origin(text).is_err(), "{text}");
        }
    }

    #[test]
    fn every_origin_may_ask_only_where_tokens_are_asked_for() {
        let tokens = "--read-token read-read-read-read --write-token write-write-write";
        assert!(check("--cors-origin *").unwrap_err().contains("--write-token"));
        assert!(check("--write-token write-write-write --cors-origin *").is_err());
        assert_eq!(check(&format!("{tokens} --cors-origin *")), Ok(()));
        assert!(check(&format!("{tokens} --cors-origin *,https://a.example")).is_err());
        let two = load("--cors-origin https://a.example --cors-origin https://b.example").unwrap();
        assert_eq!(two.cors_origin, ["https://a.example", "https://b.example"]);
    }

    #[test]
    fn help_is_noun_phrases_of_less_than_80_characters() {
        for arg in Config::command().get_arguments() {
            let Some(help) = arg.get_help().map(ToString::to_string) else { continue };
            assert!(help.chars().count() < 80, "{help}");
            assert!(!help.ends_with('.'), "{help}");
            let first = help.split(' ').next().unwrap_or_default();
            let begins_well = first.starts_with(|char: char| char.is_uppercase() || char.is_ascii_digit());
            let is_clause =
                ["How", "Who", "What", "Where", "Whether", "The", "A", "An", "If"].contains(&first);
            assert!(begins_well && !is_clause, "{help}");
        }
    }
}
