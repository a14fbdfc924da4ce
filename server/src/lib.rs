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
//! Sequencer, applier, live streams and the routes of the log are those of [`ringlog_axum`]. Here
//! is what makes a process of them:
//!
//! - `store`: rows, window, op ids and incarnation. `store::disk` is one file (redb); without it,
//!   [`MemoryStore`](ringlog_axum::MemoryStore).
//! - `routes`: the routes beside those of the log, one file each; `auth`: who is let through.
//! - `connection`: sockets, their number and their end; `exchange`: manners of connections that
//!   hyper does not have; `liveness`: how a peer that has vanished is noticed.
//! - `server`: running and stopping; `start`: what it shares with a node.
//! - `cluster`: many nodes that serve one log.
//! - `config`: what a server is told; `cli`, `command`: the command line.
#![forbid(unsafe_code)]

mod app;
mod auth;
mod cli;
#[cfg(feature = "cluster")]
mod cluster;
mod command;
mod config;
mod connection;
mod exchange;
mod liveness;
mod routes;
mod server;
mod start;
mod store;

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
