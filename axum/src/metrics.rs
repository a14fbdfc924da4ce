//! What is counted and timed, and how it is shown to Prometheus.

use hdrhistogram::Histogram;
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeLabelSet, EncodeMetric, text};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::{ConstCounter, Counter};
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::registry::Registry;
use ringlog::{ChangeLog, Stats};
use std::collections::VecDeque;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// Percentiles are those of this long ago to twice as long ago, until now.
const WINDOW: Duration = Duration::from_secs(10);

const QUANTILES: [f64; 5] = [0.5, 0.9, 0.99, 0.999, 1.0];

/// An hour, in microseconds: what takes longer counts as an hour.
const MAX_MICROS: u64 = 3_600_000_000;

/// Appends whose visibility is yet to be timed; further ones are not timed.
const MAX_PENDING: usize = 1024;

/// The engine's counters that only grow; the others are gauges.
const COUNTERS: [&str; 11] = [
    "appended",
    "superseded",
    "resyncs_evicted",
    "resyncs_ahead",
    "resyncs_other_log",
    "op_ids_completed",
    "op_claims_replayed",
    "op_claims_mismatched",
    "op_claims_forgotten",
    "op_claims_in_flight",
    "op_filter_false_positives",
];

/// Latencies of the last while.
#[derive(Debug)]
struct Latency {
    inner: Mutex<RollingHistogram>,
}

#[derive(Debug)]
struct RollingHistogram {
    current: Histogram<u64>,
    previous: Histogram<u64>,
    since: Instant,
}

impl Latency {
    fn new() -> Self {
        #[expect(clippy::expect_used, reason = "constant bounds, known to be fit")]
        let histogram = || Histogram::new_with_bounds(1, MAX_MICROS, 3).expect("bounds are in order");
        let rolling = RollingHistogram { current: histogram(), previous: histogram(), since: Instant::now() };
        Self { inner: Mutex::new(rolling) }
    }

    fn record(&self, elapsed: Duration) {
        let micros = u64::try_from(elapsed.as_micros()).unwrap_or(MAX_MICROS).clamp(1, MAX_MICROS);
        self.rolling().current.saturating_record(micros);
    }

    fn rolling(&self) -> MutexGuard<'_, RollingHistogram> {
        let mut rolling = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
        let age = rolling.since.elapsed();
        if age >= WINDOW {
            let RollingHistogram { current, previous, since } = &mut *rolling;
            std::mem::swap(current, previous);
            current.reset();
            if age >= 2 * WINDOW {
                previous.reset();
            }
            *since = Instant::now();
        }
        rolling
    }

    /// How many there were, and their quantiles in seconds.
    fn summary(&self) -> (u64, [f64; QUANTILES.len()]) {
        let rolling = self.rolling();
        let mut all = rolling.current.clone();
        // Both have the same bounds.
        let _ = all.add(&rolling.previous);
        (all.len(), QUANTILES.map(|quantile| all.value_at_quantile(quantile) as f64 / 1e6))
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Request {
    route: &'static str,
    status: u16,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Frame {
    verdict: &'static str,
}

/// What is timed, by name: how many of each there were, and their quantiles in seconds.
type Latencies = [(&'static str, u64, [f64; QUANTILES.len()]); 4];

/// A figure that is looked up when it is asked for: its name, what it means, its value.
pub type Gauge = (&'static str, &'static str, u64);

/// The server's figures.
#[derive(Debug)]
pub struct Metrics {
    started: Instant,
    requests: Family<Request, Counter>,
    commits: Counter,
    committed_changes: Counter,
    frames: Family<Frame, Counter>,
    retransmissions: Counter,
    push: Latency,
    pull: Latency,
    commit: Latency,
    visibility: Latency,
    /// When the events up to a seq were about to be appended.
    pending: Mutex<VecDeque<(u64, Instant)>>,
}

impl Default for Metrics {
    fn default() -> Self {
        Self {
            started: Instant::now(),
            requests: Family::default(),
            commits: Counter::default(),
            committed_changes: Counter::default(),
            frames: Family::default(),
            retransmissions: Counter::default(),
            push: Latency::new(),
            pull: Latency::new(),
            commit: Latency::new(),
            visibility: Latency::new(),
            pending: Mutex::default(),
        }
    }
}

impl Metrics {
    /// Figures of nothing yet.
    pub fn new() -> Self {
        Self::default()
    }

    pub fn answered(&self, route: &'static str, status: u16) {
        self.requests.get_or_create(&Request { route, status }).inc();
    }

    /// A push took so long, from its last byte to its answer.
    pub fn pushed(&self, since: Instant) {
        self.push.record(since.elapsed());
    }

    /// A pull took so long, without its wait.
    pub fn pulled(&self, since: Instant) {
        self.pull.record(since.elapsed());
    }

    pub fn committed(&self, changes: usize, since: Instant) {
        self.commit.record(since.elapsed());
        self.commits.inc();
        self.committed_changes.inc_by(changes as u64);
    }

    /// A frame of the stream was judged.
    pub fn decided(&self, verdict: &'static str) {
        self.frames.get_or_create(&Frame { verdict }).inc();
    }

    /// So many frames of this node were sent again.
    pub fn retransmitted(&self, frames: usize) {
        self.retransmissions.inc_by(frames as u64);
    }

    /// The events up to `seq` are about to be appended.
    pub fn appending(&self, seq: u64) {
        let since = Instant::now();
        let mut pending = self.pending.lock().unwrap_or_else(PoisonError::into_inner);
        if pending.len() < MAX_PENDING {
            pending.push_back((seq, since));
        }
    }

    /// Follows the log as any reader would, and times when it sees what was appended.
    pub async fn observe(self: Arc<Self>, log: Arc<ChangeLog>) {
        let mut follower = log.follow(log.cursor());
        loop {
            let before = follower.cursor().seq;
            let seen = follower.next(1024).await.map(|batch| batch.map(|batch| batch.cursor()));
            match seen {
                Ok(Some(cursor)) => self.seen(before, cursor.seq),
                Ok(None) => return,
                Err(resync) => follower.seek(resync.resume()),
            }
        }
    }

    fn seen(&self, before: u64, upto: u64) {
        let mut pending = self.pending.lock().unwrap_or_else(PoisonError::into_inner);
        while let Some(&(seq, since)) = pending.front()
            && seq <= upto
        {
            pending.pop_front();
            // An entry that came after its event had been seen says nothing.
            if seq > before {
                self.visibility.record(since.elapsed());
            }
        }
    }

    /// What is timed.
    pub fn latencies(&self) -> Latencies {
        [
            ("push", &self.push),
            ("pull", &self.pull),
            ("commit", &self.commit),
            ("visibility", &self.visibility),
        ]
        .map(|(name, latency)| {
            let (count, values) = latency.summary();
            (name, count, values)
        })
    }

    /// How long the server has been running.
    pub fn uptime(&self) -> Duration {
        self.started.elapsed()
    }

    /// All figures as text, in the format of `OpenMetrics`.
    pub fn encode(&self, log: Stats, gauges: impl Into<Vec<Gauge>>) -> Result<String, fmt::Error> {
        let mut registry = Registry::with_prefix("ringlog");
        registry.register("requests", "Requests answered, by route and status", self.requests.clone());
        registry.register("commits", "Transactions committed", self.commits.clone());
        registry.register(
            "committed_changes",
            "Changes in these transactions",
            self.committed_changes.clone(),
        );
        {
            registry.register("frames", "Frames of the cluster's stream, by verdict", self.frames.clone());
            registry.register(
                "frames_retransmitted",
                "Frames of this node that were sent again",
                self.retransmissions.clone(),
            );
        }
        let moment = Moment { log, gauges: gauges.into(), latencies: self.latencies() };
        registry.register_collector(Box::new(moment));
        let mut text = String::new();
        text::encode(&mut text, &registry)?;
        Ok(text)
    }
}

/// The figures of one moment.
#[derive(Debug)]
struct Moment {
    log: Stats,
    gauges: Vec<Gauge>,
    latencies: Latencies,
}

impl Collector for Moment {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        encode_engine(&mut encoder, &self.log)?;
        for (name, help, value) in &self.gauges {
            gauge(&mut encoder, name, help, *value as f64)?;
        }
        encode_latencies(&mut encoder, self.latencies)
    }
}

fn gauge(encoder: &mut DescriptorEncoder<'_>, name: &str, help: &str, value: f64) -> fmt::Result {
    let metric = ConstGauge::new(value);
    metric.encode(encoder.encode_descriptor(name, help, None, metric.metric_type())?)
}

/// Every field of the engine's stats, under its own name.
fn encode_engine(encoder: &mut DescriptorEncoder<'_>, stats: &Stats) -> fmt::Result {
    let stats = serde_json::to_value(stats).map_err(|_| fmt::Error)?;
    for (name, value) in stats.as_object().into_iter().flatten() {
        let value = value.as_u64().unwrap_or(0);
        let help = "The engine's counter of this name: see ringlog::Stats";
        if COUNTERS.contains(&&**name) {
            let metric = ConstCounter::new(value);
            metric.encode(encoder.encode_descriptor(
                &format!("log_{name}"),
                help,
                None,
                metric.metric_type(),
            )?)?;
        } else {
            gauge(encoder, &format!("log_{name}"), help, value as f64)?;
        }
    }
    Ok(())
}

fn encode_latencies(encoder: &mut DescriptorEncoder<'_>, latencies: Latencies) -> fmt::Result {
    let help = "Latency of the last 10 to 20 seconds; quantile 1 is the longest";
    let mut family = encoder.encode_descriptor("latency_seconds", help, None, MetricType::Gauge)?;
    for (name, count, values) in latencies {
        for (quantile, value) in QUANTILES.into_iter().zip(values) {
            if count > 0 {
                let labels = [("operation", name.to_owned()), ("quantile", quantile.to_string())];
                ConstGauge::new(value).encode(family.encode_family(&labels)?)?;
            }
        }
    }
    let help = "How many were timed in these seconds";
    let mut family = encoder.encode_descriptor("latency_samples", help, None, MetricType::Gauge)?;
    for (name, count, _) in latencies {
        ConstGauge::new(count as f64).encode(family.encode_family(&[("operation", name)])?)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mark_that_comes_late_is_not_timed() {
        let metrics = Metrics::new();
        metrics.appending(5);
        metrics.appending(9);
        metrics.seen(5, 7);
        assert_eq!(metrics.visibility.summary().0, 0, "5 had been seen before");
        metrics.seen(7, 9);
        assert_eq!(metrics.visibility.summary().0, 1);
    }

    #[test]
    fn each_figure_of_the_engine_is_a_counter_or_can_fall() {
        const GAUGES: [&str; 12] = [
            "retained",
            "retained_bytes",
            "head",
            "oldest",
            "unpublished",
            "segments_allocated",
            "segments_live",
            "segments_pooled",
            "segments_awaiting_reclaim",
            "slot_bytes",
            "spilled_bytes",
            "waiters",
        ];
        let stats = serde_json::to_value(ringlog::Stats::default()).unwrap();
        let mut known: Vec<&str> = COUNTERS.into_iter().chain(GAUGES).collect();
        known.sort_unstable();
        assert_eq!(stats.as_object().unwrap().keys().collect::<Vec<_>>(), known);
    }

    #[test]
    fn quantiles_are_those_of_what_was_recorded() {
        let latency = Latency::new();
        for millis in 1..=1000 {
            latency.record(Duration::from_millis(millis));
        }
        let (count, [p50, .., max]) = latency.summary();
        assert_eq!(count, 1000);
        assert!((0.499..0.502).contains(&p50) && (0.999..1.002).contains(&max), "{p50} {max}");
    }
}
