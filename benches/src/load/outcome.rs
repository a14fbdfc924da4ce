//! What came of a run.

use crate::timing::histogram;
use hdrhistogram::Histogram;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// The percentiles that are printed, by their true names.
pub const PERCENTILES: [(&str, f64); 6] =
    [("p50", 50.0), ("p90", 90.0), ("p99", 99.0), ("p99.9", 99.9), ("p99.99", 99.99), ("max", 100.0)];

/// Times in nanoseconds. As JSON, pairs of a value and how often it was recorded.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(from = "Vec<(u64, u64)>", into = "Vec<(u64, u64)>")]
pub struct Times(pub Histogram<u64>);

impl Default for Times {
    fn default() -> Self {
        Self(histogram())
    }
}

impl From<Vec<(u64, u64)>> for Times {
    fn from(steps: Vec<(u64, u64)>) -> Self {
        let mut times = Self::default();
        for (value, count) in steps {
            times.0.record_n(value, count).expect("a histogram that grows takes every value");
        }
        times
    }
}

impl From<Times> for Vec<(u64, u64)> {
    fn from(times: Times) -> Self {
        times.0.iter_recorded().map(|step| (step.value_iterated_to(), step.count_at_value())).collect()
    }
}

impl Times {
    /// The percentiles and the maximum, in the order of [`PERCENTILES`].
    pub fn percentiles(&self) -> Vec<u64> {
        let values = PERCENTILES.map(|(_, percentile)| self.0.value_at_percentile(percentile));
        values.to_vec()
    }
}

/// How a reader reads.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// Without pause.
    Puller,
    /// Sleeps until there is something.
    Follower,
    /// Pauses after each read.
    Slow,
}

/// What readers of one kind went through.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct Reading {
    /// Events read.
    pub read: u64,
    /// Events that they were told they had missed.
    pub lost: u64,
    /// How often they were told so.
    pub lapped: u64,
}

impl Reading {
    /// Adds that of another reader.
    pub fn add(&mut self, other: &Self) {
        self.read += other.read;
        self.lost += other.lost;
        self.lapped += other.lapped;
    }
}

/// What came of one contender's run, or of several put together.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct Outcome {
    /// Events appended by the writers that are measured.
    pub appended: u64,
    /// Their bytes of text.
    pub bytes: u64,
    /// Events appended by the writer that is suspended.
    pub by_suspended: u64,
    /// For how long writers wrote, in seconds.
    pub seconds: f64,
    /// Processor time of the whole process meanwhile, in seconds.
    pub processor_seconds: f64,
    /// Bytes that became resident from before the log was made until the end.
    pub resident: u64,
    /// Events dropped because their writer was a lap late.
    pub superseded: u64,
    /// Times of calls.
    pub append: Times,
    /// From the start of a call, or when it was due, until a reader had the event; slow readers do
    /// not count.
    pub delivery: Times,
    /// The readers by their kinds.
    pub readers: BTreeMap<Kind, Reading>,
}

impl Outcome {
    /// Adds another run.
    pub fn add(&mut self, other: &Self) {
        self.appended += other.appended;
        self.bytes += other.bytes;
        self.by_suspended += other.by_suspended;
        self.seconds += other.seconds;
        self.processor_seconds += other.processor_seconds;
        self.resident = self.resident.max(other.resident);
        self.superseded += other.superseded;
        self.append.0 += &other.append.0;
        self.delivery.0 += &other.delivery.0;
        for (kind, reading) in &other.readers {
            self.readers.entry(*kind).or_default().add(reading);
        }
    }

    /// The times that there are, with their names.
    pub fn times(&self) -> Vec<(&'static str, &Times)> {
        let all = [("append", &self.append), ("delivery", &self.delivery)];
        all.into_iter().filter(|(_, times)| !times.0.is_empty()).collect()
    }

    /// Events a second.
    pub fn rate(&self) -> f64 {
        self.appended as f64 / self.seconds
    }

    /// Processor nanoseconds an event, readers included.
    pub fn processor_nanos(&self) -> f64 {
        self.processor_seconds * 1e9 / (self.appended + self.by_suspended).max(1) as f64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_come_back_from_json() {
        let mut times = Times::default();
        for nanos in [1, 1, 50, 123_456_789] {
            times.0 += nanos;
        }
        let text = serde_json::to_string(&times).expect("it serialises");
        let back: Times = serde_json::from_str(&text).expect("it comes back");
        assert_eq!(back.0, times.0);
    }
}
