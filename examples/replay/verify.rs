//! The promises that a replay puts to the test.

#![forbid(unsafe_code)]

use crate::fold::Fold;
use crate::reader::{Reader, Way};
use crate::run::{Outcome, Written};
use ringlog::ChangeLog;

/// What must have come out.
#[derive(Debug)]
pub(crate) struct Expected {
    /// Events that the writers were given.
    pub(crate) offered: u64,
    /// The rows after folding the input in its own order.
    pub(crate) fold: Fold,
    /// The same as a reader of owned values sees them.
    pub(crate) fold_of_values: Fold,
}

impl Expected {
    /// What a log must come to that was offered so many events and folds to these rows.
    pub(crate) fn new(offered: u64, fold: Fold) -> serde_json::Result<Self> {
        Ok(Self { offered, fold_of_values: fold.through_values()?, fold })
    }

    /// Names every promise that was broken.
    pub(crate) fn failures(&self, log: &ChangeLog, outcome: &Outcome<'_>) -> Vec<String> {
        let mut failures = Vec::new();
        let ends = ends_of_calls(&outcome.writers, self.offered).unwrap_or_else(|failure| {
            failures.push(failure);
            Vec::new()
        });
        let (last, head) = (log.last_seq(), log.head());
        if (last, head) != (self.offered, self.offered) {
            failures.push(format!("offered {} events, last_seq is {last}, head {head}", self.offered));
        }
        for (number, reader) in outcome.readers.iter().enumerate() {
            let checked = reader.as_ref().map_err(Clone::clone).and_then(|reader| self.check(reader, &ends));
            if let Err(failure) = checked {
                failures.push(format!("reader {number}: {failure}"));
            }
        }
        failures
    }

    fn check(&self, reader: &Reader<'_>, ends_of_calls: &[u64]) -> Result<(), String> {
        if reader.seen + reader.missed != self.offered {
            let Reader { seen, missed, .. } = reader;
            return Err(format!("{seen} events read and {missed} missed do not make {}", self.offered));
        }
        // A reader that was lapped in the middle of a batch keeps what it had read of it.
        let torn = reader.stops.iter().find(|stop| ends_of_calls.binary_search(stop).is_err());
        if let (0, Some(stop)) = (reader.resyncs, torn) {
            return Err(format!("saw a part of a batch only: up to seq {stop}"));
        }
        let expected = if reader.way == Way::Pull { &self.fold_of_values } else { &self.fold };
        match reader.fold.difference(expected) {
            Some(difference) => Err(format!("ended up with other rows than the input: {difference}")),
            None => Ok(()),
        }
    }
}

/// Checks that the calls of all writers took the seqs from 1 on, each once, those of one writer in order.
/// Answers with the last seq of each call, sorted.
fn ends_of_calls(writers: &[Written], offered: u64) -> Result<Vec<u64>, String> {
    if let Some(writer) = writers.iter().position(|writer| !writer.ranges.is_sorted()) {
        return Err(format!("writer {writer} was given seqs that go backwards"));
    }
    let mut ranges: Vec<(u64, u64)> = writers.iter().flat_map(|writer| &writer.ranges).copied().collect();
    ranges.sort_unstable();
    let mut next = 1;
    for &(first, last) in &ranges {
        if first != next || last < first {
            return Err(format!("an append was given the seqs {first} to {last} where {next} was due"));
        }
        next = last + 1;
    }
    if next - 1 != offered {
        return Err(format!("{offered} events were appended, but given {} seqs", next - 1));
    }
    Ok(ranges.into_iter().map(|(_, last)| last).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::latency::Latency;
    use ringlog::ChangeKind;
    use std::time::Instant;

    fn writer(ranges: &[(u64, u64)]) -> Written {
        let now = Instant::now();
        Written { ranges: ranges.to_vec(), latency: Latency::new(), started: now, ended: now }
    }

    fn rows(data: &str) -> Fold {
        let mut fold = Fold::default();
        fold.apply("T", "1", ChangeKind::Insert, Some(data));
        fold
    }

    /// A reader that did everything right with three events in calls of two and one.
    fn good_reader<'a>(log: &'a ChangeLog, way: Way, data: &str) -> Reader<'a> {
        let mut reader = Reader::new(log, None, way, 100);
        (reader.seen, reader.stops, reader.fold) = (3, vec![2, 3], rows(data));
        reader
    }

    #[test]
    fn seqs_must_be_dense_unique_and_in_order() {
        let good = [writer(&[(1, 2), (6, 6)]), writer(&[(3, 5)])];
        assert_eq!(ends_of_calls(&good, 6), Ok(vec![2, 5, 6]));
        assert!(ends_of_calls(&good, 7).is_err(), "one too few");
        for bad in [
            [writer(&[(1, 2), (6, 6)]), writer(&[(4, 5)])],
            [writer(&[(1, 3), (6, 6)]), writer(&[(3, 5)])],
            [writer(&[(6, 6), (1, 2)]), writer(&[(3, 5)])],
            [writer(&[(2, 3)]), writer(&[(4, 6)])],
        ] {
            assert!(ends_of_calls(&bad, 6).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn each_broken_promise_of_a_reader_is_found() {
        let log = ChangeLog::new();
        let expected = Expected::new(3, rows("1.50")).expect("good JSON");
        let check = |reader: &Reader<'_>| expected.check(reader, &[2, 3]);
        assert_eq!(check(&good_reader(&log, Way::Read, "1.50")), Ok(()));
        assert_eq!(check(&good_reader(&log, Way::Pull, "1.5")), Ok(()));

        let mut reader = good_reader(&log, Way::Read, "1.5");
        assert!(check(&reader).is_err_and(|e| e.ends_with("T/1 is 1.5, should be 1.50")));
        reader = good_reader(&log, Way::PullJson, "1.50");
        reader.seen = 2;
        assert!(check(&reader).is_err_and(|e| e.contains("do not make 3")));
        reader.missed = 1;
        assert_eq!(check(&reader), Ok(()));
        reader.stops = vec![1, 3];
        assert!(check(&reader).is_err_and(|e| e.contains("a part of a batch")));
        reader.resyncs = 1;
        assert_eq!(check(&reader), Ok(()));
    }
}
