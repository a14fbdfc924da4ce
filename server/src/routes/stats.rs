//! `GET /api/stats`: the figures that the page draws, as JSON.

use crate::app::App;
#[cfg(feature = "cluster")]
use crate::cluster::ClusterFigures;
use axum::Json;
use axum::extract::State;
use axum::http::header;
use axum::response::IntoResponse;
use ringlog::Stats;
use ringlog_axum::error::ApiError;
use serde::Serialize;
use std::collections::BTreeMap;
use std::sync::Arc;

#[derive(Serialize)]
struct Figures {
    incarnation: String,
    uptime_seconds: f64,
    store: &'static str,
    writable: bool,
    capacity: usize,
    connections: usize,
    subscribers: usize,
    snapshots_held: usize,
    /// The oldest seq that a client may go on with: see `history`.
    oldest_compacted_seq: u64,
    pushes_waiting: usize,
    followers: Followers,
    latency_seconds: BTreeMap<&'static str, Percentiles>,
    log: Stats,
    /// With `--cluster`.
    #[cfg(feature = "cluster")]
    #[serde(skip_serializing_if = "Option::is_none")]
    cluster: Option<ClusterFigures>,
}

/// The live streams that follow everything, and how many events they are behind the head.
#[derive(Serialize)]
struct Followers {
    count: usize,
    lag_p50: u64,
    lag_p90: u64,
    lag_max: u64,
}

impl Followers {
    /// From their lags, in order.
    fn new(lags: &[u64]) -> Self {
        let rank = |per_cent: usize| lags.get((lags.len() * per_cent).div_ceil(100).saturating_sub(1));
        let lag = |per_cent| rank(per_cent).copied().unwrap_or(0);
        Self { count: lags.len(), lag_p50: lag(50), lag_p90: lag(90), lag_max: lag(100) }
    }
}

/// Of the last 10 to 20 seconds. All are 0 if there was nothing to time.
#[derive(Serialize)]
struct Percentiles {
    samples: u64,
    p50: f64,
    p90: f64,
    p99: f64,
    p999: f64,
    max: f64,
}

/// `GET /api/stats`.
pub(super) async fn stats(State(app): State<Arc<App>>) -> Result<impl IntoResponse, ApiError> {
    let latencies = app.sync.metrics.latencies().map(|(name, samples, [p50, p90, p99, p999, max])| {
        (name, Percentiles { samples, p50, p90, p99, p999, max })
    });
    let figures = Figures {
        incarnation: app.sync.log.incarnation().to_string(),
        uptime_seconds: app.sync.metrics.uptime().as_secs_f64(),
        store: if app.disk.is_some() { "durable" } else { "memory" },
        writable: app.sync.is_writable(),
        capacity: app.config.capacity,
        connections: app.open_connections(),
        subscribers: app.sync.streams(),
        snapshots_held: app.sync.snapshots_held(),
        oldest_compacted_seq: app.sync.oldest_compacted_seq().await?,
        pushes_waiting: app.sync.pushes_waiting(),
        followers: Followers::new(&app.sync.lags()),
        latency_seconds: BTreeMap::from(latencies),
        log: app.sync.log.stats(),
        #[cfg(feature = "cluster")]
        cluster: app.cluster.as_ref().map(|cluster| cluster.figures()),
    };
    Ok(([(header::CACHE_CONTROL, "no-store")], Json(figures)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lags_are_ranked() {
        let ten: Vec<u64> = (1..=10).collect();
        for (lags, expected) in
            [(&[][..], [0, 0, 0, 0]), (&[7], [1, 7, 7, 7]), (&[1, 9], [2, 1, 9, 9]), (&ten, [10, 5, 9, 10])]
        {
            let Followers { count, lag_p50, lag_p90, lag_max } = Followers::new(lags);
            assert_eq!([count as u64, lag_p50, lag_p90, lag_max], expected, "{lags:?}");
        }
    }
}
