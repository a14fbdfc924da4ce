//! The routes, one file each, and what lies around them.

mod count;
mod live;
mod pull;
mod push;
mod resume;
mod router;
mod snapshot;
mod socket;
mod stale;
mod ticket;

pub use count::count;
pub use live::refuse;
pub use pull::HalfClosed;
pub use router::{deadline, no_parameters, reading, streaming, tickets, writing};
