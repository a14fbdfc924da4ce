//! The routes, one file each, and what lies around them.

mod backup;
mod count;
mod gate;
mod health;
mod live;
mod page;
mod pull;
mod push;
mod resume;
mod router;
mod snapshot;
mod socket;
mod stale;
mod stats;
mod ticket;

pub(crate) use gate::Gate;
pub(crate) use health::reserve;
pub(crate) use router::router;
