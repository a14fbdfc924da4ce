//! A sync server around [`ringlog`]: clients push changes and pull, follow or load what others
//! pushed, over HTTP.
//!
//! It can be run as it is (`cargo run --release -p ringlog-server`) and read as the example of
//! embedding the library in a server with a database. [`run`] runs one inside another program, or a
//! test.
//!
//! # How the pieces fit
//!
//! ```text
//! POST push ─→ sequencer ─→ applier ─→ ringlog ─┬→ GET pull, long poll
//!                              │                ├→ live: SSE, WebSocket
//!                              ▼                └→ metrics
//!                            store ─→ GET snapshot, backup
//! ```
//!
//! - `sequencer`: one order for all pushes, in groups. `applier`: the only appender. It claims a
//!   group, commits it, appends it, answers. Why no crash at any point loses or doubles anything is
//!   argued there. It has a thread of its own where the store may wait. `conditions`: changes that
//!   want a row to be as the client has seen it.
//! - `store`: rows, window, op ids and incarnation, by one of two providers: `store::disk`, one
//!   file (redb), and `store::memory`.
//! - `snapshots`: snapshots that stay the same while they are paged through.
//! - `history`: readers whose cursor is older than the window.
//! - `echo`: what changes were pushed under.
//! - `frames`, `subscriber`: what is sent live is encoded once, for all subscribers.
//! - `liveness`: how a peer that has vanished is noticed.
//! - `routes`: one file a route; `params`, `envelope`, `error`, `auth`: what comes in and is
//!   refused; `tickets`: one-time tokens for the URLs of live streams.
//! - `share`: the memory of pushes, and of pages that are sent.
//! - `connection`: sockets, their number and their end; `exchange`: manners of connections that
//!   hyper does not have.
//! - `server`: running and stopping; `start`: what it shares with a node.
//! - `config`: what a server is told; `cli`, `command`: the command line.
#![forbid(unsafe_code)]

mod app;
mod applier;
mod auth;
mod cli;
#[cfg(feature = "cluster")]
mod cluster;
mod command;
mod conditions;
mod config;
mod connection;
mod crash;
mod echo;
mod envelope;
mod error;
mod exchange;
mod frames;
mod history;
mod liveness;
mod metrics;
mod params;
mod routes;
mod sequencer;
mod server;
mod share;
mod snapshots;
mod start;
mod store;
mod subscriber;
mod tickets;

pub use cli::{Cli, Serve};
#[cfg(feature = "cluster")]
pub use command::{ClusterCommand, LogArgs};
pub use command::{Command, CommandError};
#[cfg(feature = "cluster")]
pub use config::Cluster;
pub use config::{Config, Token};
pub use server::{Run, run};
pub use start::ServerError;
pub use store::StoreError;
pub use store::disk::BackupSummary;
