//! The routes beside those of the log, one file each, and what lies around all of them.

mod backup;
mod gate;
mod health;
mod page;
mod router;
mod stats;

pub(crate) use gate::Gate;
pub(crate) use health::reserve;
pub(crate) use router::router;
