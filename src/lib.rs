// The first definition of a link counts: in the README, read as it is, these lead to files; here,
// to modules.
//! [guarantees]: docs::guarantees
//! [internals]: docs::internals
//! [proof]: docs::proof
//! [limitations]: docs::limitations
//!
#![doc = include_str!("../README.md")]

// The map. Each line imports from lines below it only; `builder` and `log` also from each other.
//
//   push, follow          what one does with a log besides appending and reading
//   history               the latest change of every row, behind the window (feature `history`)
//   log, builder          the log: the API, and how it is set up
//   profile               how long its operations take (feature `profile`)
//   append/               changes laid out as records, and appended; blocks for long texts
//   events                what a read returns
//   query                 how much a read wants, and of what
//   dedup/                op ids: claims, and which operations were applied
//   wire, fingerprint     requests and answers; a change as one number
//   event                 changes and events, borrowed and owned
//   json/                 values read, events and values written
//   kind                  what can happen to a row
//   error                 what can go wrong
//   cursor, limits, stats, clock
//   ring/                 seqs, slots, segments: the core
//   wait                  sleeping threads and tasks
//   foreign               code of others that may panic
//   sync/                 atomics, locks, epochs, fences: std's, or loom's in a model
//
// `unsafe` is in `ring/`, `dedup/` and `sync/`.

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
#[cfg(feature = "history")]
mod history;
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
#[cfg(feature = "history")]
pub use history::{CompactedHistory, History, HistoryEvents};
pub use kind::ChangeKind;
pub use limits::{MAX_BASE_SEQ, MAX_CAPACITY, MAX_EXAMINED, MAX_RECORD_LEN};
pub use log::ChangeLog;
#[cfg(feature = "profile")]
pub use profile::{Latency, LatencySnapshot};
pub use push::{Operation, PushClaim};
pub use query::{Filter, Query};
pub use stats::Stats;
pub use wire::{
    ClientChange, OpResult, OpStatus, PullResponse, PullSummary, PushRequest, PushResponse, RowState,
};
