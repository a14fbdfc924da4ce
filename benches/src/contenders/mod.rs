//! The contenders, each written once: for the tables
//! ([`Contender`](crate::contender::Contender)) and for the load generator
//! ([`Peer`](crate::peer::Peer)).
//!
//! | name | letter in the table of targets | what it is |
//! | --- | --- | --- |
//! | [`Ringlog`] | | this crate |
//! | [`Plain`] | M | `parking_lot::Mutex<VecDeque<Arc<Event>>>`, owned strings, dropped outside the lock |
//! | [`Broadcast`] | T | `tokio::sync::broadcast` of `Arc<Event>` |
//! | [`Pylon`] | P | the crate pylon-sync; parses the text, as it keeps values |
//! | [`Disrupted`] | | the crate `disruptor`: writers wait for the slowest consumer, of which there is one |
//! | [`Counter`] | F | one `fetch_add` |
//! | [`Limit`] | L | a fence, one `fetch_add` on a shared line, and the same bytes into memory of the thread's own |

mod broadcast;
mod disrupted;
mod floor;
mod plain;
mod pylon;
mod ringlog;
mod ways;

pub use broadcast::Broadcast;
pub use disrupted::Disrupted;
pub use floor::{Counter, Limit};
pub use plain::Plain;
pub use pylon::Pylon;
pub use ringlog::Ringlog;
pub use ways::{Batches, TakesValues, Values};
