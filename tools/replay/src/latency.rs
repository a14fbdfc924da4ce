//! How long the calls of one kind took.

#![forbid(unsafe_code)]

use hdrhistogram::Histogram;
use std::time::Duration;

/// The longest duration that is told from longer ones: a minute.
const LONGEST: u64 = 60_000_000_000;

/// Durations of calls that did something, in nanoseconds, to three digits.
#[derive(Debug)]
pub(crate) struct Latency {
    histogram: Histogram<u64>,
    /// Events appended or read by these calls.
    pub(crate) events: u64,
}

impl Latency {
    /// Nothing recorded yet.
    pub(crate) fn new() -> Self {
        let histogram = Histogram::new_with_bounds(1, LONGEST, 3).expect("allowed bounds");
        Self { histogram, events: 0 }
    }

    /// Records one call.
    pub(crate) fn record(&mut self, took: Duration, events: u64) {
        self.histogram.saturating_record(u64::try_from(took.as_nanos()).unwrap_or(u64::MAX));
        self.events += events;
    }

    /// Adds another thread's calls.
    pub(crate) fn add(&mut self, other: &Latency) {
        self.histogram.add(&other.histogram).expect("the bounds are the same");
        self.events += other.events;
    }

    /// The number of calls.
    pub(crate) fn calls(&self) -> u64 {
        self.histogram.len()
    }

    /// The duration within which this part of the calls returned: 0.5 for half of them, 1 for all.
    pub(crate) fn within(&self, part: f64) -> Duration {
        Duration::from_nanos(self.histogram.value_at_quantile(part).min(self.histogram.max()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_of_two_threads() {
        let mut all = Latency::new();
        let mut other = Latency::new();
        (1..=50).for_each(|ns| all.record(Duration::from_nanos(ns), 2));
        (51..=100).for_each(|ns| other.record(Duration::from_nanos(ns), 2));
        all.add(&other);
        assert_eq!((all.calls(), all.events), (100, 200));
        let within = [0.5, 0.99, 1.0].map(|part| all.within(part).as_nanos());
        assert_eq!(within, [50, 99, 100]);
    }

    #[test]
    fn long_calls_are_not_cut_short() {
        let mut latency = Latency::new();
        for millis in [1, 30_000] {
            latency.record(Duration::from_millis(millis), 1);
        }
        let close = |part, millis: u64| latency.within(part).as_micros().abs_diff(u128::from(millis) * 1_000);
        assert!(close(0.5, 1) <= 1 && close(1.0, 30_000) <= 30_000, "{latency:?}");
    }
}
