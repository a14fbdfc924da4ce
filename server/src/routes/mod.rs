//! The routes, one file each, and what lies around them.

mod health;
mod live;
mod pull;
mod push;
mod router;
mod snapshot;

pub(crate) use router::router;
