//! Where several servers serve one log: what the routes ask of that.

use crate::metrics::Gauge;
use std::pin::Pin;
use std::time::Duration;

/// Other servers of the same log. A server alone has none.
pub trait Peers: Send + Sync {
    /// What this server serves is at most so old.
    fn stale_for(&self) -> Duration;

    /// Waits until this server has all that was acknowledged anywhere before this call.
    fn fresh(&self) -> Pin<Box<dyn Future<Output = ()> + Send + '_>>;

    /// Its figures of this moment.
    fn gauges(&self) -> Vec<Gauge>;
}
