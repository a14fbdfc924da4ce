//! A lock-free change log for realtime sync servers.
mod dedup;
mod sync;

pub use dedup::{OpClaim, OpGuard};
