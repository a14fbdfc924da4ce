//! What a server is told: its limits, its secrets, its store.

use derive_setters::Setters;
use ringlog::MAX_CAPACITY;
use ringlog_axum::{Limits, Tombstones};
use std::fmt;
use std::net::SocketAddr;
use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::time::Duration;

/// What can be set: counts, sizes in bytes, the window's bytes, and times in seconds.
pub(crate) const COUNTS: RangeInclusive<usize> = 1..=MAX_CAPACITY;
pub(crate) const BYTES: RangeInclusive<usize> = 1024..=1 << 32;
pub(crate) const WINDOW_BYTES: RangeInclusive<usize> = 1024..=1 << 40;
pub(crate) const SECONDS: RangeInclusive<f64> = 0.001..=86_400.0;

/// How long something is remembered, in seconds: up to ten years.
pub(crate) const AGE: RangeInclusive<f64> = 1.0..=315_360_000.0;

/// Maximum length of the name of a node, in bytes.
#[cfg(feature = "cluster")]
pub(crate) const MAX_NODE_NAME: usize = 64;

/// Minimum length of a token: shorter ones are guessed too soon.
const MIN_TOKEN_LEN: usize = 16;

/// A frame of many requests has fewer changes, whatever they are. One that had more than the op ids
/// that are remembered would be refused as stale.
#[cfg(feature = "cluster")]
const MIN_CLUSTER_OP_IDS: usize = 20_000;

/// The configuration of a server. The names of its fields are those of the command line.
///
/// It is checked when a server runs; an error names the option and its limit.
///
/// # Examples
///
/// ```
/// use ringlog_server::Config;
///
/// let config = Config::default()
///     .with_data("/var/lib/ringlog")
///     .with_capacity(1_000_000)
///     .with_write_token("a secret of 16 characters and more");
/// assert_eq!(config.capacity, 1_000_000);
/// ```
#[derive(Debug, Clone, Setters)]
#[setters(prefix = "with_")]
#[non_exhaustive]
#[expect(clippy::struct_excessive_bools, reason = "one for each switch of the command line")]
pub struct Config {
    /// Folder of the store; made if missing.
    #[setters(into)]
    pub data: PathBuf,
    /// Whether a data folder that was moved to another disk or machine is the same log.
    pub adopt: bool,
    /// Whether a data folder put back from a snapshot of its disk is another log.
    pub new_incarnation: bool,
    /// Whether nothing is kept on disk.
    pub memory: bool,
    /// Number of latest events that can be pulled.
    pub capacity: usize,
    /// Maximum bytes of text in the window: of entities, row ids and data.
    pub window_bytes: usize,
    /// Number of latest op ids remembered.
    pub op_ids: usize,
    /// Whether events say under which client id and op id they were pushed.
    pub echo: bool,
    /// Number of latest deletes that are told to clients whose cursor is older than the window.
    pub tombstones: usize,
    /// For how long a delete is told to such clients.
    pub tombstone_age: Duration,
    /// Maximum changes in a push; never above `capacity` or `op_ids`.
    pub max_changes: usize,
    /// Maximum size of the body of a push, in bytes.
    pub max_body: usize,
    /// Maximum size of all pushes in progress together, in bytes.
    pub max_pushing: usize,
    /// Maximum size of all pages being sent together, in bytes.
    pub max_sending: usize,
    /// Maximum events in a pull, and rows in a page of a snapshot.
    pub max_limit: usize,
    /// Maximum wait of a pull for something new.
    pub max_wait: Duration,
    /// Maximum open connections, also as a WebSocket.
    pub max_connections: usize,
    /// Maximum live streams, of both kinds.
    pub max_subscribers: usize,
    /// Time limit for the head of a request, and for an idle connection.
    pub header_timeout: Duration,
    /// Time limit for a request and its body, the wait of a pull excluded.
    pub request_timeout: Duration,
    /// Time limit for a client to take any of what is sent to it.
    pub write_timeout: Duration,
    /// Interval of heartbeats on an idle live stream.
    pub heartbeat: Duration,
    /// Time limit for asking for the next page of a snapshot.
    pub snapshot_ttl: Duration,
    /// Time limit for loading a whole snapshot.
    pub snapshot_max_age: Duration,
    /// Maximum snapshots held for clients that page through them.
    pub max_snapshots: usize,
    /// Time limit for stopping.
    pub drain: Duration,
    /// Size of the store's page cache, in MiB.
    pub store_cache: usize,
    /// Bearer token required to read.
    #[setters(into, strip_option)]
    pub read_token: Option<Token>,
    /// Bearer token required to push; allows reading too.
    #[setters(into, strip_option)]
    pub write_token: Option<Token>,
    /// Origins whose web pages may use the server, as browsers send them; `*` for all.
    pub cors_origin: Vec<String>,
    /// Maximum stream tickets issued and not used yet.
    pub max_tickets: usize,
    /// Time limit for using a stream ticket.
    pub ticket_ttl: Duration,
    /// The cluster whose log is served.
    #[cfg(feature = "cluster")]
    #[setters(into, strip_option)]
    pub cluster: Option<Cluster>,
}

/// A cluster: a log that many nodes serve, over NATS `JetStream`.
///
/// # Examples
///
/// ```
/// use ringlog_server::{Cluster, Config};
///
/// let urls = ["nats://10.0.0.1", "nats://10.0.0.2", "nats://10.0.0.3"];
/// let config = Config::default().with_cluster(Cluster::new(urls, "orders"));
/// assert_eq!(config.cluster.unwrap().replicas, 3);
/// ```
#[cfg(feature = "cluster")]
#[derive(Debug, Clone, Setters)]
#[setters(prefix = "with_")]
#[non_exhaustive]
pub struct Cluster {
    /// Addresses of NATS servers, as `nats://host:port` or `tls://host:port`.
    pub urls: Vec<String>,
    /// Name of the log: letters, digits, `-` and `_`.
    pub log: String,
    /// Whether the log's stream is made if it is missing.
    pub create: bool,
    /// Servers that keep a copy of a new stream: 3 or 5. With 1, the stream is as safe as one disk.
    pub replicas: usize,
    /// Maximum size of a new stream, in bytes.
    pub max_bytes: u64,
    /// File with the credentials of a NATS user.
    #[setters(into, strip_option)]
    pub creds: Option<PathBuf>,
    /// File with the certificates of authorities that NATS servers are trusted by.
    #[setters(into, strip_option)]
    pub ca: Option<PathBuf>,
    /// Address of the monitor of a NATS server, by which its syncing is checked.
    #[setters(into, strip_option)]
    pub monitor: Option<String>,
    /// Name of this node in figures and on the page; by default the address it listens on.
    #[setters(into, strip_option)]
    pub name: Option<String>,
}

#[cfg(feature = "cluster")]
impl Cluster {
    /// The cluster at these addresses, with a log of this name.
    pub fn new(urls: impl IntoIterator<Item = impl Into<String>>, log: impl Into<String>) -> Self {
        Self {
            urls: urls.into_iter().map(Into::into).collect(),
            log: log.into(),
            create: false,
            replicas: 3,
            max_bytes: 10 << 30,
            creds: None,
            ca: None,
            monitor: None,
            name: None,
        }
    }

    fn check(&self) -> Result<(), String> {
        let is_name = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '_';
        if self.log.is_empty() || self.log.len() > 64 || !self.log.chars().all(is_name) {
            return Err("--log must have 1 to 64 letters, digits, - or _".into());
        }
        if ![1, 3, 5].contains(&self.replicas) {
            return Err(format!("--cluster-replicas is {}: must be 1, 3 or 5", self.replicas));
        }
        if let Some(name) = &self.name
            && (!(1..=MAX_NODE_NAME).contains(&name.len()) || name.chars().any(char::is_control))
        {
            return Err(format!(
                "--cluster-name must have 1 to {MAX_NODE_NAME} bytes, and no control characters"
            ));
        }
        Ok(())
    }
}

impl Default for Config {
    fn default() -> Self {
        let (limits, tombstones) = (Limits::default(), Tombstones::default());
        Self {
            data: PathBuf::from("ringlog-data"),
            adopt: false,
            new_incarnation: false,
            memory: false,
            capacity: limits.capacity,
            window_bytes: 256 << 20,
            op_ids: limits.op_ids,
            echo: false,
            tombstones: tombstones.most,
            tombstone_age: tombstones.age,
            max_changes: limits.max_changes,
            max_body: limits.max_body,
            max_pushing: limits.max_pushing,
            max_sending: limits.max_sending,
            max_limit: limits.max_limit,
            max_wait: limits.max_wait,
            max_connections: 10_000,
            max_subscribers: limits.max_subscribers,
            header_timeout: Duration::from_secs(30),
            request_timeout: limits.request_timeout,
            write_timeout: limits.write_timeout,
            heartbeat: limits.heartbeat,
            snapshot_ttl: limits.snapshot_ttl,
            snapshot_max_age: limits.snapshot_max_age,
            max_snapshots: limits.max_snapshots,
            drain: Duration::from_secs(10),
            store_cache: 128,
            read_token: None,
            write_token: None,
            cors_origin: Vec::new(),
            max_tickets: limits.max_tickets,
            ticket_ttl: limits.ticket_ttl,
            #[cfg(feature = "cluster")]
            cluster: None,
        }
    }
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
    /// What the routes are told of it.
    pub(crate) fn limits(&self) -> Limits {
        Limits::default()
            .with_capacity(self.capacity)
            .with_op_ids(self.op_ids)
            .with_max_changes(self.max_changes)
            .with_max_body(self.max_body)
            .with_max_pushing(self.max_pushing)
            .with_max_sending(self.max_sending)
            .with_max_limit(self.max_limit)
            .with_max_wait(self.max_wait)
            .with_max_subscribers(self.max_subscribers)
            .with_request_timeout(self.request_timeout)
            .with_write_timeout(self.write_timeout)
            .with_heartbeat(self.heartbeat)
            .with_snapshot_ttl(self.snapshot_ttl)
            .with_snapshot_max_age(self.snapshot_max_age)
            .with_max_snapshots(self.max_snapshots)
            .with_max_tickets(self.max_tickets)
            .with_ticket_ttl(self.ticket_ttl)
    }

    /// Checks it for a server that listens on `address`. [`run`](crate::run) does so as well.
    ///
    /// # Errors
    /// What is out of range or does not go together, by the name of the option, and the limit.
    pub fn check(&self, address: SocketAddr) -> Result<(), String> {
        self.check_ranges()?;
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
        if open && !address.ip().is_loopback() {
            return Err(format!(
                "--listen {address} lets other machines in: set --read-token and --write-token \
                 (RINGLOG_READ_TOKEN and RINGLOG_WRITE_TOKEN), or listen on 127.0.0.1"
            ));
        }
        self.check_origins(open)?;
        if self.memory && (self.adopt || self.new_incarnation) {
            return Err(
                "--memory cannot be used with --adopt or --new-incarnation, which are about a data folder"
                    .into(),
            );
        }
        #[cfg(feature = "cluster")]
        if let Some(cluster) = &self.cluster {
            cluster.check()?;
            if self.op_ids < MIN_CLUSTER_OP_IDS {
                return Err(format!(
                    "--op-ids is {}: with --cluster the minimum is {MIN_CLUSTER_OP_IDS}, more than the changes of a frame",
                    self.op_ids
                ));
            }
            if self.memory || self.adopt || self.new_incarnation {
                return Err("--cluster cannot be used with --memory, --adopt or --new-incarnation".into());
            }
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

    fn check_ranges(&self) -> Result<(), String> {
        let in_range = |name, value, range: RangeInclusive<usize>| {
            if range.contains(&value) {
                return Ok(());
            }
            Err(format!("--{name} is {value}: must be in {}..={}", range.start(), range.end()))
        };
        for (name, value) in [
            ("capacity", self.capacity),
            ("op-ids", self.op_ids),
            ("tombstones", self.tombstones),
            ("max-changes", self.max_changes),
            ("max-limit", self.max_limit),
            ("max-connections", self.max_connections),
            ("max-subscribers", self.max_subscribers),
            ("max-snapshots", self.max_snapshots),
            ("store-cache", self.store_cache),
            ("max-tickets", self.max_tickets),
        ] {
            in_range(name, value, COUNTS)?;
        }
        for (name, value) in [
            ("max-body", self.max_body),
            ("max-pushing", self.max_pushing),
            ("max-sending", self.max_sending),
        ] {
            in_range(name, value, BYTES)?;
        }
        in_range("window-bytes", self.window_bytes, WINDOW_BYTES)?;
        let times = [
            ("max-wait", self.max_wait),
            ("header-timeout", self.header_timeout),
            ("request-timeout", self.request_timeout),
            ("write-timeout", self.write_timeout),
            ("heartbeat", self.heartbeat),
            ("snapshot-ttl", self.snapshot_ttl),
            ("snapshot-max-age", self.snapshot_max_age),
            ("drain", self.drain),
            ("ticket-ttl", self.ticket_ttl),
        ];
        let times = times.into_iter().map(|(name, value)| (name, value, SECONDS));
        for (name, value, range) in times.chain([("tombstone-age", self.tombstone_age, AGE)]) {
            let (seconds, least, most) = (value.as_secs_f64(), range.start(), range.end());
            if !range.contains(&seconds) {
                return Err(format!("--{name} is {seconds} seconds: must be in {least}..={most}"));
            }
        }
        Ok(())
    }

    fn check_origins(&self, open: bool) -> Result<(), String> {
        for given in &self.cors_origin {
            origin(given).map_err(|error| format!("--cors-origin: {error}"))?;
        }
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

/// An origin as browsers send it: `scheme://host` or `scheme://host:port`, in lower case, without
/// the scheme's own port.
pub(crate) fn origin(text: &str) -> Result<String, String> {
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

    #[test]
    fn a_configuration_out_of_range_names_the_option_and_the_range() {
        let address = SocketAddr::from(([127, 0, 0, 1], 0));
        let check = |config: Config| config.check(address).unwrap_err();
        for (config, said) in [
            (Config::default().with_capacity(0), "--capacity is 0: must be in 1..="),
            (Config::default().with_max_snapshots(1 << 40), "--max-snapshots is 1099511627776: must be in"),
            (Config::default().with_max_body(3), "--max-body is 3: must be in 1024..="),
            (Config::default().with_window_bytes(0), "--window-bytes is 0: must be in 1024..="),
            (Config::default().with_drain(Duration::ZERO), "--drain is 0 seconds: must be in 0.001..=86400"),
            (Config::default().with_cors_origin(vec!["app.example".into()]), "--cors-origin: must be"),
        ] {
            assert!(check(config.clone()).starts_with(said), "{}", check(config));
        }
        assert_eq!(Config::default().check(address), Ok(()));
    }
}
