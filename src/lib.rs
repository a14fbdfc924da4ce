// The first definition of a link counts: in the README, read as it is, these lead to files; here,
// to modules.
//! [guarantees]: docs::guarantees
//! [internals]: docs::internals
//! [proof]: docs::proof
//! [limitations]: docs::limitations
//!
#![doc = include_str!("../README.md")]

mod append;
mod builder;
mod clock;
mod cursor;
mod dedup;
pub mod docs;
mod error;
mod event;
mod events;
mod fingerprint;
mod follow;
mod foreign;
mod json;
mod kind;
mod limits;
mod log;
#[cfg(feature = "profile")]
mod profile;
mod push;
mod query;
mod ring;
mod stats;
mod sync;
mod wait;
mod wire;

pub use builder::{Builder, StartPolicy};
pub use cursor::{Cursor, Incarnation, ParseCursorError, ParseIncarnationError, SyncCursor};
pub use dedup::{OpClaim, OpGuard};
pub use error::{
    Closed, ConfigError, Conflict, PullError, RestoreError, Resync, ResyncReason, TimedOut, WaitError,
};
pub use event::{Change, ChangeEvent, EventRef};
#[expect(deprecated, reason = "re-exported for one release")]
pub use events::Batch;
pub use events::{Events, Iter};
pub use fingerprint::Fingerprint;
#[cfg(feature = "stream")]
pub use follow::FollowerStream;
pub use follow::{Follower, Next, WaitFor};
pub use kind::ChangeKind;
pub use limits::{MAX_BASE_SEQ, MAX_CAPACITY, MAX_EXAMINED, MAX_RECORD_LEN};
pub use log::ChangeLog;
#[cfg(feature = "profile")]
pub use profile::{Latency, LatencySnapshot};
pub use push::{Operation, PushClaim};
pub use query::{Filter, Query};
pub use stats::Stats;
pub use wire::{ClientChange, OpResult, OpStatus, PullResponse, PullSummary, PushRequest, PushResponse};
