//! What came of a run.

use crate::Result;
use hdrhistogram::Histogram;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// The percentiles that are printed, by their true names; after them comes the maximum.
pub const PERCENTILES: [(&str, f64); 5] =
    [("p50", 50.0), ("p90", 90.0), ("p99", 99.0), ("p99.9", 99.9), ("p99.99", 99.99)];

/// Times in nanoseconds.
#[derive(Debug, Clone)]
pub struct Times(pub Histogram<u64>);

impl Default for Times {
    fn default() -> Self {
        Self(crate::wake::histogram())
    }
}

impl Times {
    /// Adds a time.
    pub fn record(&mut self, nanos: u64) {
        self.0.record(nanos).expect("a histogram that grows takes every value");
    }

    /// Adds those of another.
    pub fn add(&mut self, other: &Self) {
        self.0.add(&other.0).expect("all have three digits");
    }

    /// The percentiles and the maximum, with their names.
    pub fn percentiles(&self) -> Vec<(&'static str, u64)> {
        let named = PERCENTILES.map(|(name, percentile)| (name, self.0.value_at_percentile(percentile)));
        named.into_iter().chain([("max", self.0.max())]).collect()
    }

    /// Whether there are any.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

/// As pairs of a value and how often it was recorded.
impl Serialize for Times {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer
            .collect_seq(self.0.iter_recorded().map(|step| (step.value_iterated_to(), step.count_at_value())))
    }
}

impl<'de> Deserialize<'de> for Times {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let mut times = Self::default();
        for (value, count) in Vec::<(u64, u64)>::deserialize(deserializer)? {
            times.0.record_n(value, count).map_err(serde::de::Error::custom)?;
        }
        Ok(times)
    }
}

/// What one reader went through.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Reading {
    /// How it reads.
    pub kind: String,
    /// Events read.
    pub read: u64,
    /// Events that it was told it had missed.
    pub lost: u64,
    /// How often it was told so.
    pub lapped: u64,
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
    /// Each reader.
    pub readers: Vec<Reading>,
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
        self.append.add(&other.append);
        self.delivery.add(&other.delivery);
        self.readers.extend(other.readers.iter().cloned());
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
            times.record(nanos);
        }
        let text = serde_json::to_string(&times).expect("it serialises");
        let back: Times = serde_json::from_str(&text).expect("it comes back");
        assert_eq!(back.0.len(), 4);
        assert_eq!(back.percentiles(), times.percentiles());
    }
}
