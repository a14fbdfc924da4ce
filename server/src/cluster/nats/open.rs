//! Connecting, and finding or making the stream. A stream that does not fit is left as it is.

use super::{ANSWER_TIMEOUT, Names, NatsStream, SUBSCRIPTION_CAPACITY, monitor};
use async_nats::jetstream::context::{CreateStreamErrorKind, GetStreamErrorKind};
use async_nats::jetstream::stream::{Config, DiscardPolicy, Info, Republish, RetentionPolicy, StorageType};
use async_nats::jetstream::{self, ErrorCode};
use async_nats::{Client, ConnectError, ConnectErrorKind, ConnectOptions, Event, ServerAddr};
use itertools::Itertools;
use percent_encoding::percent_decode_str;
use ringlog::Incarnation;
use std::collections::{BTreeSet, HashMap};
use std::error::Error as _;
use std::fmt;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use thiserror::Error;
use tokio::time::Instant;

/// Where the stream is, and how it is made.
#[derive(Debug, Clone)]
pub(crate) struct NatsOptions {
    /// Addresses of servers: `nats://HOST:PORT` or `tls://HOST:PORT`.
    pub(crate) urls: Vec<String>,
    /// Name of the log: letters, digits, `-` and `_`.
    pub(crate) log: String,
    /// Replicas of a stream that is made.
    pub(crate) replicas: usize,
    /// Whether one replica will do. For tests only: it is slow, and one lost disk loses the log.
    pub(crate) allow_one_replica: bool,
    /// Size of a stream that is made.
    pub(crate) max_bytes: u64,
    /// The largest frame that will be published.
    pub(crate) max_frame: usize,
    /// File with credentials: a JWT and the seed of an nkey.
    pub(crate) credentials: Option<PathBuf>,
    /// File with the certificates of authorities that servers' certificates may come from. With
    /// it, TLS is required; without it, the system's authorities apply.
    pub(crate) ca: Option<PathBuf>,
    /// Whether a missing stream is made.
    pub(crate) create: bool,
    /// Address of a server's monitor: `http://HOST:PORT`.
    pub(crate) monitor: Option<String>,
}

/// What the nodes must agree on. The stream's metadata holds it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct StreamFacts {
    /// Format of the frames.
    pub(crate) format: u64,
    /// Which log it is. The stream's counts; a wanted one is for a stream that is made.
    pub(crate) incarnation: Incarnation,
    pub(crate) op_ids: u64,
    pub(crate) capacity: u64,
    pub(crate) window_bytes: u64,
    /// Positions of messages that are no frames and are passed over. The stream's count.
    pub(crate) skipped: BTreeSet<u64>,
}

/// Why the stream cannot be used. It was left as it is.
#[derive(Debug, Error)]
pub(crate) enum OpenError {
    #[error("invalid log name `{0}`: 1 to 64 letters, digits, `-` and `_`")]
    Name(String),
    #[error("{}: {source}", path.display())]
    Credentials { path: PathBuf, source: io::Error },
    #[error("cannot connect to {urls}: {reason}")]
    Connect { urls: String, reason: String },
    #[error("invalid monitor address {address}: {reason}")]
    Monitor { address: String, reason: String },
    #[error("the NATS server has version {0}; {MIN_VERSION} or later is needed")]
    Version(String),
    #[error(
        "max_payload of the NATS server is {found}; frames need {needed}, which is the largest push and 64 KiB: \
         raise it in the configuration of every server"
    )]
    MaxPayload { found: usize, needed: usize },
    #[error(
        "sync_interval of the NATS server at {0} is not `always`: a power failure would lose acknowledged pushes. \
         Set `jetstream {{ sync_interval: always }}` in the configuration of every server"
    )]
    Sync(String),
    #[error("there is no stream {0}: start one node with --cluster-create to make it")]
    Missing(String),
    #[error("one replica of the stream {0} is too few: acknowledged pushes must outlive a server")]
    OneReplica(String),
    #[error("the stream {stream} does not fit, and was left as it is: {}", differences.iter().join("; "))]
    Differs { stream: String, differences: Vec<Difference> },
    #[error(
        "the servers refuse to make the stream {stream} of {max_bytes} bytes (--cluster-max-bytes) \
         with {replicas} replicas (--cluster-replicas): {reason}"
    )]
    NotMade { stream: String, max_bytes: i64, replicas: usize, reason: String },
    #[error("JetStream cannot be used: {0}")]
    JetStream(String),
}

/// A field in which a stream is not as it must be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Difference {
    pub(crate) field: String,
    pub(crate) found: String,
    pub(crate) needed: String,
}

impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { field, found, needed } = self;
        write!(f, "{field} is {found}, and must be {needed}")
    }
}

/// The servers have batched direct gets and stream metadata from here on.
const MIN_VERSION: &str = "2.12.0";

/// What a message may have besides its frame, for which `max_payload` must have room.
const PAYLOAD_RESERVE: usize = 64 << 10;

/// How long to wait before the next attempt.
const RETRY: Duration = Duration::from_millis(500);

/// How often to say what is waited for.
const WARN_EVERY: Duration = Duration::from_secs(5);

/// Fields of a stream's configuration, as NATS calls them, that must be as in a stream made here.
const ESSENTIAL: [&str; 23] = [
    "subjects",
    "storage",
    "retention",
    "discard",
    "discard_new_per_subject",
    "max_age",
    "max_msgs",
    "max_msgs_per_subject",
    "max_msg_size",
    "no_ack",
    "sealed",
    "deny_delete",
    "deny_purge",
    "allow_rollup_hdrs",
    "allow_direct",
    "republish",
    "mirror",
    "sources",
    "subject_transform",
    "persist_mode",
    "allow_msg_ttl",
    "allow_msg_counter",
    "allow_msg_schedules",
];

impl NatsStream {
    /// Connects to the stream. Waits for servers that cannot be reached or have no leader; drop the
    /// future to give up.
    ///
    /// # Errors
    /// [`OpenError`] says what does not fit.
    pub(crate) async fn open(options: NatsOptions, wanted: StreamFacts) -> Result<Self, OpenError> {
        if !is_name(&options.log) {
            return Err(OpenError::Name(options.log));
        }
        let names = Names::of(&options.log);
        if options.create && options.replicas <= 1 && !options.allow_one_replica {
            return Err(OpenError::OneReplica(names.stream));
        }
        let client = connect(&options).await?;
        check_server(&client, &options)?;
        check_sync(options.monitor.as_deref()).await?;

        let mut api = jetstream::new(client.clone());
        api.set_timeout(ANSWER_TIMEOUT);
        let config = config(&options, &names, &wanted);
        let found = find_or_make(&api, &config, options.create).await?;
        let facts = check_stream(&found, &config, &options, &wanted)?;
        let replicas = found.config.num_replicas;
        Ok(Self { client, api, names, facts, replicas, is_warned: Arc::default() })
    }

    /// Connects to a stream that is there, whatever its nodes agree on.
    ///
    /// # Errors
    /// [`OpenError`] if there is none, or it is not that of a log.
    pub(crate) async fn attach(options: NatsOptions) -> Result<Self, OpenError> {
        if !is_name(&options.log) {
            return Err(OpenError::Name(options.log));
        }
        let names = Names::of(&options.log);
        let client = connect(&options).await?;
        let mut api = jetstream::new(client.clone());
        api.set_timeout(ANSWER_TIMEOUT);
        let config = Config { name: names.stream.clone(), ..Config::default() };
        let found = find_or_make(&api, &config, false).await?.config;
        let facts = StreamFacts::read(&found.metadata);
        let facts =
            facts.ok_or_else(|| OpenError::JetStream(format!("{} is not a log's stream", found.name)))?;
        Ok(Self { client, api, names, facts, replicas: found.num_replicas, is_warned: Arc::default() })
    }

    /// Notes in the stream's metadata that nodes pass over a position.
    pub(crate) async fn skip(&self, position: u64) -> Result<(), OpenError> {
        let failed = |error: &dyn fmt::Display| OpenError::JetStream(error.to_string());
        let found = self.api.get_stream(&self.names.stream).await.map_err(|error| failed(&error))?;
        let mut config = found.cached_info().config.clone();
        let skipped = skipped(&config.metadata).into_iter().chain([position]);
        let skipped = skipped.collect::<BTreeSet<_>>().iter().join(",");
        // What servers have added is theirs.
        config.metadata.retain(|key, _| !key.starts_with("_nats."));
        config.metadata.insert(StreamFacts::SKIPPED.to_owned(), skipped);
        self.api.update_stream(config).await.map_err(|error| failed(&error))?;
        Ok(())
    }
}

/// The positions that a stream's metadata says to pass over.
fn skipped(metadata: &HashMap<String, String>) -> BTreeSet<u64> {
    let positions = metadata.get(StreamFacts::SKIPPED).map_or("", String::as_str).split(',');
    positions.filter_map(|position| position.parse().ok()).collect()
}

fn is_name(log: &str) -> bool {
    let is_part = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_';
    (1..=64).contains(&log.len()) && log.bytes().all(is_part)
}

/// Says what is waited for, at first and every few seconds.
#[derive(Default)]
struct Patience {
    said: Option<Instant>,
}

impl Patience {
    async fn wait(&mut self, what: &str, reason: impl fmt::Display) {
        if self.said.is_none_or(|said| said.elapsed() >= WARN_EVERY) {
            tracing::warn!("waiting for {what}: {reason}");
            self.said = Some(Instant::now());
        }
        tokio::time::sleep(RETRY).await;
    }
}

async fn connect(options: &NatsOptions) -> Result<Client, OpenError> {
    let urls = options.urls.iter().map(|url| without_password(url)).join(", ");
    let connect = connect_options(options).await?;
    let mut patience = Patience::default();
    loop {
        match connect.clone().connect(&options.urls).await {
            Ok(client) => return Ok(client),
            Err(error) if is_away(&error) => patience.wait(&urls, error).await,
            Err(error) => return Err(OpenError::Connect { urls, reason: error.to_string() }),
        }
    }
}

/// An address as it may be shown.
fn without_password(url: &str) -> String {
    let (scheme, rest) = url.split_once("://").unwrap_or(("nats", url));
    format!("{scheme}://{}", rest.rsplit_once('@').map_or(rest, |(_, host)| host))
}

/// The name and the password that stand in an address, as `nats://USER:PASSWORD@HOST`.
fn user_of(url: &str) -> Option<(String, String)> {
    let address: ServerAddr = url.parse().ok()?;
    let decoded = |text: &str| Some(percent_decode_str(text).decode_utf8().ok()?.into_owned());
    Some((decoded(address.username()?)?, decoded(address.password().unwrap_or_default())?))
}

/// Whether no server can be reached now, rather than one that is refused or refuses.
fn is_away(error: &ConnectError) -> bool {
    let source = error.source().and_then(|source| source.downcast_ref::<io::Error>());
    match error.kind() {
        // A certificate that cannot be trusted, or an answer that is not TLS.
        ConnectErrorKind::Io => source.is_none_or(|source| source.kind() != io::ErrorKind::InvalidData),
        ConnectErrorKind::Dns | ConnectErrorKind::TimedOut => true,
        _ => false,
    }
}

async fn connect_options(options: &NatsOptions) -> Result<ConnectOptions, OpenError> {
    let mut connect = ConnectOptions::new()
        .name(format!("ringlog-server {}", options.log))
        .connection_timeout(Duration::from_secs(2))
        // A server that no longer answers is noticed after three of them.
        .ping_interval(Duration::from_secs(2))
        .reconnect_delay_callback(|attempts| if attempts <= 1 { Duration::ZERO } else { RETRY / 2 })
        .subscription_capacity(SUBSCRIPTION_CAPACITY)
        .event_callback(|event| async move {
            match event {
                Event::Disconnected | Event::ServerError(_) => tracing::warn!("connection to NATS: {event}"),
                // The tail reads what the subscription lost: while it catches up, most of it.
                _ => tracing::debug!("connection to NATS: {event}"),
            }
        });
    // The client library takes none from an address.
    if let Some((user, password)) = options.urls.iter().find_map(|url| user_of(url)) {
        connect = connect.user_and_password(user, password);
    }
    if let Some(path) = &options.credentials {
        let read = connect.credentials_file(path).await;
        connect = read.map_err(|source| OpenError::Credentials { path: path.clone(), source })?;
    }
    if let Some(path) = &options.ca {
        connect = connect.add_root_certificates(path.clone()).require_tls(true);
    }
    Ok(connect)
}

fn check_server(client: &Client, options: &NatsOptions) -> Result<(), OpenError> {
    if !client.is_server_compatible(2, 12, 0) {
        return Err(OpenError::Version(client.server_info().version));
    }
    let (found, needed) = (client.max_payload(), options.max_frame + PAYLOAD_RESERVE);
    if found < needed { Err(OpenError::MaxPayload { found, needed }) } else { Ok(()) }
}

/// Without an answer there is a warning only: a node must be able to start while a server is away.
async fn check_sync(address: Option<&str>) -> Result<(), OpenError> {
    let Some(address) = address else {
        tracing::warn!(
            "whether `sync_interval: always` is set is not known without the address of a NATS monitor; \
             without it a power failure loses acknowledged pushes"
        );
        return Ok(());
    };
    let uri = monitor::address(address)
        .map_err(|reason| OpenError::Monitor { address: address.to_owned(), reason })?;
    match monitor::syncs_always(&uri).await {
        Ok(true) => Ok(()),
        Ok(false) => Err(OpenError::Sync(address.to_owned())),
        Err(reason) => {
            tracing::warn!("{address} does not say whether `sync_interval: always` is set: {reason}");
            Ok(())
        }
    }
}

/// How a stream is made.
pub(super) fn config(options: &NatsOptions, names: &Names, facts: &StreamFacts) -> Config {
    Config {
        name: names.stream.clone(),
        description: Some("Frames of a ringlog cluster".into()),
        subjects: vec![names.frames.clone()],
        storage: StorageType::File,
        num_replicas: options.replicas,
        retention: RetentionPolicy::Limits,
        discard: DiscardPolicy::New,
        max_bytes: options.max_bytes.try_into().unwrap_or(i64::MAX),
        max_messages: -1,
        max_messages_per_subject: -1,
        max_message_size: -1,
        max_consumers: -1,
        deny_delete: true,
        allow_direct: true,
        republish: Some(Republish {
            source: names.frames.clone(),
            destination: names.live.clone(),
            headers_only: false,
        }),
        metadata: facts.metadata(),
        ..Config::default()
    }
}

/// The stream as its leader describes it.
async fn find_or_make(api: &jetstream::Context, config: &Config, create: bool) -> Result<Info, OpenError> {
    let mut patience = Patience::default();
    loop {
        let reason = match api.get_stream(&config.name).await {
            Ok(stream) => return Ok(stream.cached_info().clone()),
            Err(error) => match error.kind() {
                GetStreamErrorKind::JetStream(error) if error.error_code() == ErrorCode::STREAM_NOT_FOUND => {
                    if !create {
                        return Err(OpenError::Missing(config.name.clone()));
                    }
                    match make(api, config).await? {
                        Ok(info) => return Ok(info),
                        Err(reason) => reason,
                    }
                }
                GetStreamErrorKind::JetStream(error) if is_transient(&error) => error.to_string(),
                GetStreamErrorKind::Request => error.to_string(),
                GetStreamErrorKind::JetStream(_)
                | GetStreamErrorKind::EmptyName
                | GetStreamErrorKind::InvalidStreamName => {
                    return Err(OpenError::JetStream(error.to_string()));
                }
            },
        };
        patience.wait(&config.name, reason).await;
    }
}

/// Makes the stream. The inner error says why it may be there later.
pub(super) async fn make(
    api: &jetstream::Context,
    config: &Config,
) -> Result<Result<Info, String>, OpenError> {
    match api.create_stream(config).await {
        Ok(stream) => {
            tracing::info!("made the stream {}", config.name);
            Ok(Ok(stream.cached_info().clone()))
        }
        Err(error) => match error.kind() {
            // Another node has made it meanwhile.
            CreateStreamErrorKind::JetStream(error) if error.error_code() == ErrorCode::STREAM_NAME_EXIST => {
                Ok(Err(error.to_string()))
            }
            CreateStreamErrorKind::JetStream(error) if is_transient(&error) => Ok(Err(error.to_string())),
            CreateStreamErrorKind::TimedOut | CreateStreamErrorKind::JetStreamUnavailable => {
                Ok(Err(error.to_string()))
            }
            _ => Err(OpenError::NotMade {
                stream: config.name.clone(),
                max_bytes: config.max_bytes,
                replicas: config.num_replicas,
                reason: error.to_string(),
            }),
        },
    }
}

/// Whether JetStream may say something else later: when it has a leader, or enough servers.
fn is_transient(error: &jetstream::Error) -> bool {
    match error.error_code() {
        ErrorCode::JETSTREAM_NOT_ENABLED | ErrorCode::JETSTREAM_NOT_ENABLED_FOR_ACCOUNT => false,
        // Servers may be away or unknown yet, which the text says; those that are there have enough
        // room or not.
        ErrorCode::CLUSTER_NO_PEERS => {
            let reason = error.to_string();
            reason.contains("offline") || !reason.contains("insufficient")
        }
        _ => error.code() == 503,
    }
}

/// Compares a stream with one that would be made. Returns its facts.
fn check_stream(
    found: &Info,
    config: &Config,
    options: &NatsOptions,
    wanted: &StreamFacts,
) -> Result<StreamFacts, OpenError> {
    let stream = &config.name;
    let mut differences = differences(&found.config, config)?;
    if found.config.max_bytes <= 0 {
        let (found, needed) = ("unlimited".into(), config.max_bytes.to_string());
        differences.push(Difference { field: "max_bytes".into(), found, needed });
    } else if found.config.max_bytes != config.max_bytes {
        tracing::info!("max_bytes of {stream} is {}, not {}", found.config.max_bytes, config.max_bytes);
    }
    if found.config.num_replicas <= 1 && !options.allow_one_replica {
        let (found, needed) = (found.config.num_replicas.to_string(), "2 or more".into());
        differences.push(Difference { field: "num_replicas".into(), found, needed });
    }
    let incarnation = wanted.compare(&found.config.metadata, &mut differences);
    match incarnation {
        Some(incarnation) if differences.is_empty() => {
            let skipped = skipped(&found.config.metadata);
            Ok(StreamFacts { incarnation, skipped, ..wanted.clone() })
        }
        _ => Err(OpenError::Differs { stream: stream.clone(), differences }),
    }
}

fn differences(found: &Config, needed: &Config) -> Result<Vec<Difference>, OpenError> {
    let fields = |config: &Config| {
        serde_json::to_value(config).map_err(|error| OpenError::JetStream(error.to_string()))
    };
    let (found, needed) = (fields(found)?, fields(needed)?);
    let text = |value: Option<&serde_json::Value>| match value {
        None | Some(serde_json::Value::Null) => "unset".to_owned(),
        Some(value) => value.to_string(),
    };
    let both = ESSENTIAL.map(|field| (field, text(found.get(field)), text(needed.get(field))));
    let different = both.into_iter().filter(|(_, found, needed)| found != needed);
    Ok(different.map(|(field, found, needed)| Difference { field: field.into(), found, needed }).collect())
}

impl StreamFacts {
    const INCARNATION: &str = "ringlog.incarnation";
    const SKIPPED: &str = "ringlog.skipped";

    /// Those in a stream's metadata, if all are there.
    fn read(metadata: &HashMap<String, String>) -> Option<Self> {
        let number = |key: &str| metadata.get(key)?.parse().ok();
        Some(Self {
            format: number("ringlog.format")?,
            incarnation: metadata.get(Self::INCARNATION)?.parse().ok()?,
            op_ids: number("ringlog.op_ids")?,
            capacity: number("ringlog.capacity")?,
            window_bytes: number("ringlog.window_bytes")?,
            skipped: skipped(metadata),
        })
    }

    /// What every node must want alike.
    fn shared(&self) -> [(&'static str, u64); 4] {
        [
            ("ringlog.format", self.format),
            ("ringlog.op_ids", self.op_ids),
            ("ringlog.capacity", self.capacity),
            ("ringlog.window_bytes", self.window_bytes),
        ]
    }

    fn metadata(&self) -> HashMap<String, String> {
        let shared = self.shared().map(|(key, value)| (key.to_owned(), value.to_string()));
        shared.into_iter().chain([(Self::INCARNATION.to_owned(), self.incarnation.to_string())]).collect()
    }

    /// Compares with the metadata of a stream, which has keys of the servers too. Returns the
    /// incarnation that the stream has.
    fn compare(
        &self,
        metadata: &HashMap<String, String>,
        differences: &mut Vec<Difference>,
    ) -> Option<Incarnation> {
        let found = |key| metadata.get(key).map_or("unset", String::as_str);
        for (key, needed) in self.shared() {
            let (field, found, needed) = (key.to_owned(), found(key).to_owned(), needed.to_string());
            if found != needed {
                differences.push(Difference { field, found, needed });
            }
        }
        let incarnation = found(Self::INCARNATION).parse().ok();
        if incarnation.is_none() {
            let (field, found) = (Self::INCARNATION.to_owned(), found(Self::INCARNATION).to_owned());
            differences.push(Difference { field, found, needed: "16 hexadecimal digits".into() });
        }
        incarnation
    }
}
