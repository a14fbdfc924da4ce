//! The promises that a replay puts to the test.

#![forbid(unsafe_code)]

use crate::fold::{Fold, through_value};
use crate::plan::Share;
use crate::reader::{Reader, Way};
use crate::run::{Outcome, Written};
use crate::stretch::{Stretch, fingerprint, weighted};
use ringlog::ChangeLog;
use ringlog_replay::input::Op;

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
    pub(crate) fn failures(
        &self,
        log: &ChangeLog,
        shares: &[Share<'_>],
        outcome: &Outcome<'_>,
    ) -> serde_json::Result<Vec<String>> {
        let mut failures = Vec::new();
        let (last, head) = (log.last_seq(), log.head());
        if (last, head) != (self.offered, self.offered) {
            failures.push(format!("offered {} events, last_seq is {last}, head {head}", self.offered));
        }
        let ends = match ends_of_calls(&outcome.writers, self.offered) {
            Ok(ends) => ends,
            Err(failure) => {
                // It is not known what should have been read under which seq.
                failures.push(failure);
                return Ok(failures);
            }
        };
        let appended = Appended::new(ends, shares, &outcome.writers)?;
        for (number, reader) in outcome.readers.iter().enumerate() {
            let checked =
                reader.as_ref().map_err(Clone::clone).and_then(|reader| self.check(reader, &appended));
            if let Err(failure) = checked {
                failures.push(format!("reader {number}: {failure}"));
            }
        }
        Ok(failures)
    }

    fn check(&self, reader: &Reader<'_>, appended: &Appended) -> Result<(), String> {
        let (seen, missed) = (reader.seen(), reader.missed);
        if seen + missed != self.offered {
            return Err(format!("{seen} events read and {missed} missed do not make {}", self.offered));
        }
        let (expected, sums) = match reader.way {
            Way::Read | Way::PullJson => (&self.fold, &appended.texts),
            Way::Pull => (&self.fold_of_values, &appended.values),
        };
        for &Stretch { after, last, sum } in &reader.stretches {
            let up_to = |seq: u64| sums.get(seq as usize).copied();
            let given = up_to(last).zip(up_to(after)).map(|(last, after)| last.wrapping_sub(after));
            if given != Some(sum) {
                return Err(format!(
                    "what it read from seq {} to {last} is not what was appended",
                    after + 1
                ));
            }
        }
        // A reader that was lapped in the middle of a batch keeps what it had read of it.
        let torn = reader.stops.iter().find(|stop| appended.ends.binary_search(stop).is_err());
        if let (0, Some(stop)) = (reader.resyncs, torn) {
            return Err(format!("saw a part of a batch only: up to seq {stop}"));
        }
        match reader.fold.difference(expected) {
            Some(difference) => Err(format!("ended up with other rows than the input: {difference}")),
            None => Ok(()),
        }
    }
}

/// What was appended under which seq.
#[derive(Debug)]
struct Appended {
    /// The last seq of each call, sorted.
    ends: Vec<u64>,
    /// By seq: the weighted fingerprints of all events up to it, summed.
    texts: Vec<u64>,
    /// The same as a reader of owned values sees the events.
    values: Vec<u64>,
}

impl Appended {
    fn new(ends: Vec<u64>, shares: &[Share<'_>], writers: &[Written]) -> serde_json::Result<Self> {
        let print = |op: &Op, data: Option<&str>| fingerprint(&op.entity, &op.row_id, op.kind, data);
        let texts = sums(shares, writers, |op| Ok(print(op, op.text())))?;
        let values = sums(shares, writers, |op| {
            let data = op.text().map(through_value).transpose()?;
            Ok(print(op, data.as_deref()))
        })?;
        Ok(Self { ends, texts, values })
    }
}

/// The sums of the weighted fingerprints of seqs 1 to 0, 1 to 1, 1 to 2 and so on. The seqs must be
/// dense.
fn sums(
    shares: &[Share<'_>],
    writers: &[Written],
    print: impl Fn(&Op) -> serde_json::Result<u64>,
) -> serde_json::Result<Vec<u64>> {
    let last = writers.iter().flat_map(|writer| &writer.ranges).map(|&(_, last)| last).max();
    let mut sums = vec![0; last.unwrap_or(0) as usize + 1];
    for (share, writer) in shares.iter().zip(writers) {
        let ops = share.iter().flat_map(|batch| &batch.ops);
        let prints = ops.map(|op| print(op)).collect::<Result<Vec<u64>, _>>()?;
        let seqs = writer.ranges.iter().flat_map(|&(first, last)| first..=last);
        // A writer that repeats its share starts over where the share ends.
        for (seq, &print) in seqs.zip(prints.iter().cycle()) {
            sums[seq as usize] = weighted(seq, print);
        }
    }
    let mut sum = 0u64;
    for term in &mut sums {
        sum = sum.wrapping_add(*term);
        *term = sum;
    }
    Ok(sums)
}

/// Checks that the calls of all writers took the seqs from 1 on, each once, those of one writer in
/// order. Answers with the last seq of each call, sorted.
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
    use crate::plan;
    use ringlog::ChangeKind;
    use ringlog_replay::input::Input;
    use std::time::Instant;

    fn writer(ranges: &[(u64, u64)]) -> Written {
        let now = Instant::now();
        Written { ranges: ranges.to_vec(), latency: Latency::new(), started: now, ended: now }
    }

    /// A request of three changes to one row, the last of which must win.
    fn three_changes() -> Input {
        let line = br#"{"changes":[
            {"entity":"T","row_id":"1","kind":"insert","data":{"n":1}},
            {"entity":"T","row_id":"1","kind":"delete"},
            {"entity":"T","row_id":"1","kind":"update","data":{"n":2}}]}"#;
        let line: Vec<u8> = line.iter().copied().filter(|&byte| byte != b'\n').collect();
        ringlog_replay::input::read("test", &*line).expect("good input")
    }

    /// A reader that did everything right, in one call.
    fn good_reader<'a>(log: &'a ChangeLog, way: Way, ops: &[&Op]) -> Reader<'a> {
        let mut reader = Reader::new(log, None, way, 100);
        for op in ops {
            let print = fingerprint(&op.entity, &op.row_id, op.kind, op.text());
            reader.stretches[0].add(print);
            reader.fold.apply(&op.entity, &op.row_id, op.kind, op.text());
        }
        reader.stops = vec![3];
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
        let input = three_changes();
        let shares = plan::deal(&input, 1);
        let appended = Appended::new(vec![3], &shares, &[writer(&[(1, 3)])]).expect("good JSON");
        let ops: Vec<&Op> = input.ops().collect();
        let expected = Expected::new(3, good_reader(&log, Way::Read, &ops).fold).expect("good JSON");
        let check = |reader: &Reader<'_>| expected.check(reader, &appended);
        for way in Way::ALL {
            assert_eq!(check(&good_reader(&log, way, &ops)), Ok(()));
        }

        let swapped = good_reader(&log, Way::Read, &[ops[1], ops[0], ops[2]]);
        assert!(check(&swapped).is_err_and(|e| e.contains("is not what was appended")));
        let mut reader = good_reader(&log, Way::PullJson, &ops);
        reader.fold.apply("T", "1", ChangeKind::Update, Some("3"));
        assert!(check(&reader).is_err_and(|e| e.ends_with(r#"T/1 is 3, should be {"n":2}"#)));
        reader = good_reader(&log, Way::Read, &ops[..2]);
        assert!(check(&reader).is_err_and(|e| e == "2 events read and 0 missed do not make 3"));
        reader = good_reader(&log, Way::Read, &ops);
        reader.stops = vec![2, 3];
        assert!(check(&reader).is_err_and(|e| e.contains("a part of a batch only: up to seq 2")));
        reader.resyncs = 1;
        assert_eq!(check(&reader), Ok(()));
    }

    #[test]
    fn a_repeated_share_starts_over() {
        let input = three_changes();
        let shares = plan::deal(&input, 1);
        let print = |op: &Op| Ok(op.text().map_or(0, str::len) as u64);
        let sums = sums(&shares, &[writer(&[(1, 3), (4, 6)])], print).expect("nothing fails");
        // Lengths 7, 0, 7, 7, 0, 7 with the weights 3, 5, 7, 9, 11, 13.
        assert_eq!(sums, [0, 21, 21, 70, 133, 133, 224]);
    }
}
