//! What requests and streams may take.

use derive_setters::Setters;
use std::time::Duration;

/// A little less than 1 MiB, the longest WebSocket message that Python's `websockets` takes unless
/// told otherwise: so a change of any length that is taken can be sent to every client.
const DEFAULT_MAX_BODY: usize = (1 << 20) - 1024;

/// Shorter heartbeats do not shorten the time in which a peer must show that it lives: a lost
/// packet alone takes up to a second to be repeated.
const MIN_PATIENCE: Duration = Duration::from_secs(1);

/// What requests and live streams may take of the server.
///
/// # Examples
///
/// ```
/// use ringlog_axum::Limits;
/// use std::time::Duration;
///
/// let limits = Limits::default().with_max_subscribers(100).with_heartbeat(Duration::from_secs(5));
/// assert_eq!(limits.max_limit, 1000);
/// ```
#[derive(Debug, Clone, Setters)]
#[setters(prefix = "with_")]
#[non_exhaustive]
pub struct Limits {
    /// Capacity of the log's window, in events.
    pub capacity: usize,
    /// Number of latest op ids that the log remembers.
    pub op_ids: usize,
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
    /// Maximum live streams, of both kinds.
    pub max_subscribers: usize,
    /// Time limit for a request and its body, the wait of a pull excluded.
    pub request_timeout: Duration,
    /// Time limit for a client to take any of what is sent to it over a WebSocket.
    pub write_timeout: Duration,
    /// Interval of heartbeats on an idle live stream.
    pub heartbeat: Duration,
    /// Time limit for asking for the next page of a snapshot.
    pub snapshot_ttl: Duration,
    /// Time limit for loading a whole snapshot.
    pub snapshot_max_age: Duration,
    /// Maximum snapshots held for clients that page through them.
    pub max_snapshots: usize,
    /// Maximum stream tickets issued and not used yet.
    pub max_tickets: usize,
    /// Time limit for using a stream ticket.
    pub ticket_ttl: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            capacity: 100_000,
            op_ids: 100_000,
            max_changes: 1000,
            max_body: DEFAULT_MAX_BODY,
            max_pushing: 64 << 20,
            max_sending: 256 << 20,
            max_limit: 1000,
            max_wait: Duration::from_secs(60),
            max_subscribers: 5000,
            request_timeout: Duration::from_secs(30),
            write_timeout: Duration::from_secs(30),
            heartbeat: Duration::from_secs(15),
            snapshot_ttl: Duration::from_secs(60),
            snapshot_max_age: Duration::from_secs(600),
            max_snapshots: 32,
            max_tickets: 10_000,
            ticket_ttl: Duration::from_secs(30),
        }
    }
}

impl Limits {
    /// The time in which the peer of a connection must show that it lives.
    pub fn patience(&self) -> Duration {
        self.heartbeat.max(MIN_PATIENCE)
    }

    /// The limit of changes in a push, and the option that sets it. A longer push could not be seen
    /// whole, nor repeated.
    pub fn max_changes(&self) -> (usize, &'static str) {
        let limits =
            [(self.max_changes, "--max-changes"), (self.capacity, "--capacity"), (self.op_ids, "--op-ids")];
        limits.into_iter().min_by_key(|(most, _)| *most).unwrap_or(limits[0])
    }
}
