#![doc = include_str!("../README.md")]
//! # How the pieces fit
//!
//! ```text
//! POST push ─→ sequencer ─→ applier ─→ ringlog ─┬→ GET pull, long poll
//!                              │                └→ live: SSE, WebSocket
//!                              ▼
//!                            store ─→ GET snapshot
//! ```
//!
//! - `sequencer`: one order for all pushes, in groups. `applier`: the only appender. It claims a
//!   group, commits it, appends it, answers. Why no crash at any point loses or doubles anything is
//!   argued there. It has a thread of its own where the store may wait. `conditions`: changes that
//!   want a row to be as the client has seen it.
//! - `store`: the traits of a store, and [`MemoryStore`]; `conformance`: what every store must do.
//! - `snapshots`: snapshots that stay the same while they are paged through.
//! - `history`: readers whose cursor is older than the window.
//! - `echo`: what changes were pushed under.
//! - `frames`, `subscriber`: what is sent live is encoded once, for all subscribers.
//! - `routes`: one file a route; `params`, `envelope`, `error`: what comes in and is refused;
//!   `tickets`: one-time tokens for the URLs of live streams.
//! - `share`: the memory of pushes, and of pages that are sent.
//! - `peers`: what is asked of a cluster.
#![forbid(unsafe_code)]

#[doc(hidden)]
pub mod app;
#[doc(hidden)]
#[expect(missing_debug_implementations, reason = "parts that nothing prints")]
pub mod applier;
#[doc(hidden)]
pub mod conditions;
#[cfg(any(test, feature = "conformance"))]
pub mod conformance;
#[doc(hidden)]
pub mod crash;
#[doc(hidden)]
#[expect(missing_debug_implementations, reason = "parts that nothing prints")]
pub mod echo;
#[doc(hidden)]
#[expect(missing_debug_implementations, reason = "parts that nothing prints")]
pub mod envelope;
#[doc(hidden)]
pub mod error;
mod frames;
mod history;
mod limits;
#[doc(hidden)]
pub mod metrics;
mod mount;
mod params;
#[doc(hidden)]
pub mod peers;
#[doc(hidden)]
pub mod routes;
#[doc(hidden)]
#[expect(missing_debug_implementations, reason = "parts that nothing prints")]
pub mod sequencer;
#[doc(hidden)]
pub mod share;
mod snapshots;
mod store;
mod subscriber;
#[doc(hidden)]
#[expect(missing_debug_implementations, reason = "parts that nothing prints")]
pub mod tickets;

pub use limits::Limits;
pub use mount::{StoreFailed, SyncHandle, SyncRoutes};
pub use store::memory::MemoryStore;
pub use store::{CommitError, LatestChange, Reader, Row, Snapshot, Store, StoreError, Tombstones, row_state};
