//! A sync server around [`ringlog`]: clients push changes and pull, follow or load what others
//! pushed, over HTTP.
//!
//! It can be run as it is (`cargo run --release -p ringlog-server`) and read as the example of
//! embedding the library in a server with a database. [`Server`] runs one inside another program,
//! or a test.
//!
//! # How the pieces fit
//!
//! ```text
//! POST push ─→ writer ─→ store (redb, one commit for a group) ─→ ringlog ─┬→ GET pull, long poll
//!                                    │                                    ├→ live: SSE, WebSocket
//!                                    └→ GET snapshot, one view            └→ metrics
//! ```
//!
//! - `writer`: the only appender. Groups pushes, commits them, appends them, answers. Why no crash
//!   at any point loses or doubles anything is argued there.
//! - `store`: rows, window, op ids and incarnation in one file.
//! - `folded`: the rows when there is no file: an embedded follower folds the log.
//! - `views`: snapshots that stay the same while they are paged through.
//! - `frames`, `subscriber`: what is sent live is encoded once, for all subscribers.
//! - `liveness`: how a peer that has vanished is noticed.
//! - `routes`: one file a route; `params`, `envelope`, `error`, `auth`: what comes in and is
//!   refused; `share`: the memory of pushes.
//! - `tickets`: one-time tokens for the URLs of live streams.
//! - `connection`: sockets, their number and their end; `exchange`: manners of connections that
//!   hyper does not have.
//! - `server`: starting and stopping.
#![forbid(unsafe_code)]

mod app;
mod auth;
mod command;
mod config;
mod connection;
mod crash;
mod envelope;
mod error;
mod exchange;
mod folded;
mod frames;
mod liveness;
mod metrics;
mod params;
mod routes;
mod server;
mod share;
mod store;
mod subscriber;
mod tickets;
mod views;
mod writer;

pub use command::{Cli, Command, CommandError};
pub use config::{Config, Token};
pub use server::{Server, StartError, Starting};
pub use store::{BackupSummary, StoreError};
