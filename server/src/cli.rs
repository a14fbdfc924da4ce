//! The command line and the environment, of which a [`Config`] is made.

use crate::command::Command;
#[cfg(feature = "cluster")]
use crate::config::Cluster;
use crate::config::{AGE, BYTES, COUNTS, Config, SECONDS, Token, WINDOW_BYTES, origin};
use clap::error::ErrorKind;
use clap::parser::ValueSource;
use clap::{ArgMatches, Args, CommandFactory, FromArgMatches, Parser};
use std::ffi::OsString;
use std::fmt;
use std::net::SocketAddr;
use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

/// The command line: how to serve, or a command.
#[derive(Debug, Parser)]
#[command(
    name = "ringlog-server",
    version,
    about = "A sync server: push, pull, snapshot and live streams over HTTP",
    args_conflicts_with_subcommands = true
)]
pub struct Cli {
    /// What to do instead of serving.
    #[command(subcommand)]
    pub command: Option<Command>,
    /// How to serve.
    #[command(flatten)]
    pub serve: Serve,
}

/// How to serve.
#[derive(Debug, Clone, Args)]
#[expect(clippy::struct_excessive_bools, reason = "each is a switch of the command line")]
pub struct Serve {
    /// Address to listen on; any but loopback requires both tokens
    #[arg(long, env = "RINGLOG_LISTEN", value_name = "ADDR:PORT", default_value = "127.0.0.1:7070")]
    pub listen: SocketAddr,

    /// Folder of the store; created if missing
    #[arg(long, env = "RINGLOG_DATA", value_name = "DIR", default_value_os_t = defaults().data)]
    data: PathBuf,

    /// Same log for a data folder that was moved to another disk or machine
    #[arg(long, env = "RINGLOG_ADOPT", value_parser = switch)]
    adopt: bool,

    /// Another log for a data folder put back from a snapshot of its disk
    #[arg(long, env = "RINGLOG_NEW_INCARNATION", value_parser = switch)]
    new_incarnation: bool,

    /// Memory only: nothing is kept on disk
    #[arg(long, env = "RINGLOG_MEMORY", value_parser = switch)]
    memory: bool,

    /// Number of latest events that can be pulled
    #[arg(long, env = "RINGLOG_CAPACITY", value_name = "EVENTS", default_value_t = defaults().capacity, value_parser = count)]
    capacity: usize,

    /// Maximum bytes of text in the window: of entities, row ids and data
    #[arg(long, env = "RINGLOG_WINDOW_BYTES", value_name = "BYTES", default_value_t = defaults().window_bytes, value_parser = window_bytes)]
    window_bytes: usize,

    /// Number of latest op ids remembered
    #[arg(long, env = "RINGLOG_OP_IDS", value_name = "COUNT", default_value_t = defaults().op_ids, value_parser = count)]
    op_ids: usize,

    /// Events that say under which client id and op id they were pushed
    #[arg(long, env = "RINGLOG_ECHO", value_parser = switch)]
    echo: bool,

    /// Number of latest deletes told to clients whose cursor is older than the window
    #[arg(long, env = "RINGLOG_TOMBSTONES", value_name = "COUNT", default_value_t = defaults().tombstones, value_parser = count)]
    tombstones: usize,

    /// Time for which a delete is told to such clients
    #[arg(long, env = "RINGLOG_TOMBSTONE_AGE", value_name = "SECONDS", default_value_t = Seconds(defaults().tombstone_age), value_parser = age)]
    tombstone_age: Seconds,

    /// Maximum changes in a push; never above --capacity or --op-ids
    #[arg(long, env = "RINGLOG_MAX_CHANGES", value_name = "COUNT", default_value_t = defaults().max_changes, value_parser = count)]
    max_changes: usize,

    /// Maximum size of the body of a push
    #[arg(long, env = "RINGLOG_MAX_BODY", value_name = "BYTES", default_value_t = defaults().max_body, value_parser = bytes)]
    max_body: usize,

    /// Maximum size of all pushes in progress together
    #[arg(long, env = "RINGLOG_MAX_PUSHING", value_name = "BYTES", default_value_t = defaults().max_pushing, value_parser = bytes)]
    max_pushing: usize,

    /// Maximum size of all pages being sent together
    #[arg(long, env = "RINGLOG_MAX_SENDING", value_name = "BYTES", default_value_t = defaults().max_sending, value_parser = bytes)]
    max_sending: usize,

    /// Maximum events in a pull, and rows in a page of a snapshot
    #[arg(long, env = "RINGLOG_MAX_LIMIT", value_name = "COUNT", default_value_t = defaults().max_limit, value_parser = count)]
    max_limit: usize,

    /// Maximum wait of a pull for something new
    #[arg(long, env = "RINGLOG_MAX_WAIT", value_name = "SECONDS", default_value_t = Seconds(defaults().max_wait))]
    max_wait: Seconds,

    /// Maximum open connections, also as a WebSocket
    #[arg(long, env = "RINGLOG_MAX_CONNECTIONS", value_name = "COUNT", default_value_t = defaults().max_connections, value_parser = count)]
    max_connections: usize,

    /// Maximum live streams, of both kinds
    #[arg(long, env = "RINGLOG_MAX_SUBSCRIBERS", value_name = "COUNT", default_value_t = defaults().max_subscribers, value_parser = count)]
    max_subscribers: usize,

    /// Time limit for the head of a request, and for an idle connection
    #[arg(long, env = "RINGLOG_HEADER_TIMEOUT", value_name = "SECONDS", default_value_t = Seconds(defaults().header_timeout))]
    header_timeout: Seconds,

    /// Time limit for a request and its body, the wait of a pull excluded
    #[arg(long, env = "RINGLOG_REQUEST_TIMEOUT", value_name = "SECONDS", default_value_t = Seconds(defaults().request_timeout))]
    request_timeout: Seconds,

    /// Time limit for a client to take any of what is sent to it
    #[arg(long, env = "RINGLOG_WRITE_TIMEOUT", value_name = "SECONDS", default_value_t = Seconds(defaults().write_timeout))]
    write_timeout: Seconds,

    /// Interval of heartbeats on an idle live stream
    #[arg(long, env = "RINGLOG_HEARTBEAT", value_name = "SECONDS", default_value_t = Seconds(defaults().heartbeat))]
    heartbeat: Seconds,

    /// Time limit for asking for the next page of a snapshot
    #[arg(long, env = "RINGLOG_SNAPSHOT_TTL", value_name = "SECONDS", default_value_t = Seconds(defaults().snapshot_ttl))]
    snapshot_ttl: Seconds,

    /// Time limit for loading a whole snapshot
    #[arg(long, env = "RINGLOG_SNAPSHOT_MAX_AGE", value_name = "SECONDS", default_value_t = Seconds(defaults().snapshot_max_age))]
    snapshot_max_age: Seconds,

    /// Maximum snapshots held for clients that page through them
    #[arg(long, env = "RINGLOG_MAX_SNAPSHOTS", value_name = "COUNT", default_value_t = defaults().max_snapshots, value_parser = count)]
    max_snapshots: usize,

    /// Time limit for stopping, from the signal to the end of the process
    #[arg(long, env = "RINGLOG_DRAIN", value_name = "SECONDS", default_value_t = Seconds(defaults().drain))]
    drain: Seconds,

    /// Size of the store's page cache
    #[arg(long, env = "RINGLOG_STORE_CACHE", value_name = "MIB", default_value_t = defaults().store_cache, value_parser = count)]
    store_cache: usize,

    /// Bearer token required to read
    #[arg(long, env = "RINGLOG_READ_TOKEN", value_name = "TOKEN", hide_env_values = true)]
    read_token: Option<Token>,

    /// Bearer token required to push; allows reading too
    #[arg(long, env = "RINGLOG_WRITE_TOKEN", value_name = "TOKEN", hide_env_values = true)]
    write_token: Option<Token>,

    /// Origin whose web pages may use the server; repeatable, * for all
    #[arg(long, env = "RINGLOG_CORS_ORIGIN", value_name = "ORIGIN", value_delimiter = ',', value_parser = origin)]
    cors_origin: Vec<String>,

    /// Maximum stream tickets issued and not used yet
    #[arg(long, env = "RINGLOG_MAX_TICKETS", value_name = "COUNT", default_value_t = defaults().max_tickets, value_parser = count)]
    max_tickets: usize,

    /// Time limit for using a stream ticket
    #[arg(long, env = "RINGLOG_TICKET_TTL", value_name = "SECONDS", default_value_t = Seconds(defaults().ticket_ttl))]
    ticket_ttl: Seconds,

    #[cfg(feature = "cluster")]
    #[command(flatten)]
    cluster: ClusterArgs,

    /// JSON log lines; `RUST_LOG` sets what is logged
    #[arg(long, env = "RINGLOG_LOG_JSON", value_parser = switch)]
    pub log_json: bool,
}

/// The cluster, if the server is a node of one.
#[cfg(feature = "cluster")]
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Cluster")]
struct ClusterArgs {
    /// Addresses of NATS servers whose JetStream keeps the log
    #[arg(long, env = "RINGLOG_CLUSTER", value_name = "URL", value_delimiter = ',', requires = "log")]
    cluster: Vec<String>,

    /// Name of the log in the cluster
    #[arg(long, env = "RINGLOG_LOG", value_name = "NAME", requires = "cluster")]
    log: Option<String>,

    /// New stream for a log that the cluster does not have
    #[arg(long, env = "RINGLOG_CLUSTER_CREATE", value_parser = switch, requires = "cluster")]
    cluster_create: bool,

    /// Number of NATS servers that keep a copy of a new stream
    #[arg(long, env = "RINGLOG_CLUSTER_REPLICAS", value_name = "COUNT", default_value_t = 3)]
    cluster_replicas: usize,

    /// Maximum size of a new stream
    #[arg(long, env = "RINGLOG_CLUSTER_MAX_BYTES", value_name = "BYTES", default_value_t = 10 << 30)]
    cluster_max_bytes: u64,

    /// File with the credentials of a NATS user
    #[arg(long, env = "RINGLOG_CLUSTER_CREDS", value_name = "FILE")]
    cluster_creds: Option<PathBuf>,

    /// File with the certificate authorities of NATS servers
    #[arg(long, env = "RINGLOG_CLUSTER_CA", value_name = "FILE")]
    cluster_ca: Option<PathBuf>,

    /// Monitor address of a NATS server, to check that it syncs always
    #[arg(long, env = "RINGLOG_CLUSTER_MONITOR", value_name = "URL")]
    cluster_monitor: Option<String>,

    /// Name of this node on the page [default: the address it listens on]
    #[arg(long, env = "RINGLOG_CLUSTER_NAME", value_name = "NAME")]
    cluster_name: Option<String>,
}

#[cfg(feature = "cluster")]
impl ClusterArgs {
    fn cluster(self) -> Option<Cluster> {
        Some(Cluster {
            urls: self.cluster,
            log: self.log?,
            create: self.cluster_create,
            replicas: self.cluster_replicas,
            max_bytes: self.cluster_max_bytes,
            creds: self.cluster_creds,
            ca: self.cluster_ca,
            monitor: self.cluster_monitor,
            name: self.cluster_name,
        })
    }
}

/// A time in seconds.
#[derive(Debug, Clone, Copy)]
struct Seconds(Duration);

impl fmt::Display for Seconds {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.as_secs_f64().fmt(f)
    }
}

impl FromStr for Seconds {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        seconds(text, SECONDS)
    }
}

fn age(text: &str) -> Result<Seconds, String> {
    seconds(text, AGE)
}

fn seconds(text: &str, range: RangeInclusive<f64>) -> Result<Seconds, String> {
    let number = text.parse().ok().filter(|seconds| range.contains(seconds));
    let number = number.ok_or_else(|| format!("must be seconds in {}..={}", range.start(), range.end()))?;
    Ok(Seconds(Duration::from_secs_f64(number)))
}

impl Cli {
    /// The command line and environment of this process. Ends the process where they ask for help
    /// or are wrong.
    pub fn load() -> Self {
        Self::load_from(std::env::args_os()).unwrap_or_else(|error| error.exit())
    }

    /// From arguments, the first of which is the program's name, and the environment.
    ///
    /// # Errors
    /// An argument or a variable that is unknown, out of range, or in conflict with another one of
    /// equal rank.
    pub fn load_from<T: Into<OsString> + Clone>(
        args: impl IntoIterator<Item = T>,
    ) -> Result<Self, clap::Error> {
        let mut command = Self::command();
        let matches = command.try_get_matches_from_mut(args)?;
        let mut cli = Self::from_arg_matches(&matches)?;
        if cli.command.is_none() {
            cli.serve.settle_memory(&mut command, &matches)?;
        }
        Ok(cli)
    }
}

impl Serve {
    /// The configuration of the server.
    pub fn config(self) -> Config {
        Config {
            data: self.data,
            adopt: self.adopt,
            new_incarnation: self.new_incarnation,
            memory: self.memory,
            capacity: self.capacity,
            window_bytes: self.window_bytes,
            op_ids: self.op_ids,
            echo: self.echo,
            tombstones: self.tombstones,
            tombstone_age: self.tombstone_age.0,
            max_changes: self.max_changes,
            max_body: self.max_body,
            max_pushing: self.max_pushing,
            max_sending: self.max_sending,
            max_limit: self.max_limit,
            max_wait: self.max_wait.0,
            max_connections: self.max_connections,
            max_subscribers: self.max_subscribers,
            header_timeout: self.header_timeout.0,
            request_timeout: self.request_timeout.0,
            write_timeout: self.write_timeout.0,
            heartbeat: self.heartbeat.0,
            snapshot_ttl: self.snapshot_ttl.0,
            snapshot_max_age: self.snapshot_max_age.0,
            max_snapshots: self.max_snapshots,
            drain: self.drain.0,
            store_cache: self.store_cache,
            read_token: self.read_token,
            write_token: self.write_token,
            cors_origin: self.cors_origin,
            max_tickets: self.max_tickets,
            ticket_ttl: self.ticket_ttl.0,
            #[cfg(feature = "cluster")]
            cluster: self.cluster.cluster(),
        }
    }

    /// Decides between `--memory` and `--data` where both are said.
    fn settle_memory(
        &mut self,
        command: &mut clap::Command,
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
}

fn defaults() -> Config {
    Config::default()
}

fn count(text: &str) -> Result<usize, String> {
    in_range(text, COUNTS)
}

fn bytes(text: &str) -> Result<usize, String> {
    in_range(text, BYTES)
}

fn window_bytes(text: &str) -> Result<usize, String> {
    in_range(text, WINDOW_BYTES)
}

fn in_range(text: &str, range: RangeInclusive<usize>) -> Result<usize, String> {
    let number = text.parse().ok().filter(|number| range.contains(number));
    number.ok_or_else(|| format!("must be a whole number in {}..={}", range.start(), range.end()))
}

/// A boolean of the environment; an empty one is false, as if it were not set.
fn switch(text: &str) -> Result<bool, String> {
    match &*text.to_ascii_lowercase() {
        "1" | "true" | "yes" | "on" => Ok(true),
        "" | "0" | "false" | "no" | "off" => Ok(false),
        _ => Err("must be true, 1, yes or on, or false, 0, no or off".into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(args: &str) -> Result<Serve, String> {
        let args = ["ringlog-server"].into_iter().chain(args.split_whitespace());
        Cli::load_from(args).map(|cli| cli.serve).map_err(|error| error.to_string())
    }

    fn load(args: &str) -> Result<Config, String> {
        parse(args).map(Serve::config)
    }

    fn check(args: &str) -> Result<(), String> {
        let serve = parse(args)?;
        let address = serve.listen;
        serve.config().check(address)
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
        for arg in Cli::command().get_arguments() {
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
