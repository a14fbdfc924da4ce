//! What a replay prints.

#![forbid(unsafe_code)]

use crate::latency::Latency;
use crate::reader::{Reader, Way};
use crate::run::{Load, Outcome};
use indicatif::HumanCount;
use ringlog::ChangeKind;
use ringlog_replay::input::{Input, Op};
use std::io::{self, Write};
use std::time::Duration;

/// The percentiles of a latency line; the last is the maximum.
const PARTS: [f64; 5] = [0.5, 0.9, 0.99, 0.999, 1.0];

/// What is replayed.
pub(crate) fn input(out: &mut dyn Write, input: &Input, rows: usize) -> io::Result<()> {
    let of = |kind| HumanCount(input.ops().filter(|op| op.kind == kind).count() as u64);
    let (inserts, updates, deletes) =
        (of(ChangeKind::Insert), of(ChangeKind::Update), of(ChangeKind::Delete));
    let mut lengths: Vec<usize> = input.requests.iter().map(Vec::len).collect();
    lengths.sort_unstable();
    let length = |part: usize| lengths.get((lengths.len() * part / 100).min(lengths.len() - 1)).unwrap_or(&0);
    writeln!(out, "input      {}", input.source)?;
    writeln!(
        out,
        "           {} requests of {} changes: {inserts} inserts, {updates} updates, {deletes} deletes",
        HumanCount(input.requests.len() as u64),
        HumanCount(input.ops().count() as u64),
    )?;
    if input.skipped > 0 {
        writeln!(out, "           {} without changes, skipped", HumanCount(input.skipped))?;
    }
    writeln!(
        out,
        "           changes per request: p50 {}, p99 {}, max {}; {:.1} MB of entities, row ids and JSON",
        length(50),
        length(99),
        length(100),
        megabytes(input),
    )?;
    writeln!(out, "           {} rows when folded", HumanCount(rows as u64))
}

fn megabytes(input: &Input) -> f64 {
    input.ops().map(Op::bytes).sum::<u64>() as f64 / 1e6
}

/// Throughput, latencies and what each reader went through.
pub(crate) fn outcome(
    out: &mut dyn Write,
    input: &Input,
    load: Load,
    outcome: &Outcome<'_>,
) -> io::Result<()> {
    let events: u64 = outcome.writers.iter().map(|writer| writer.latency.events).sum();
    let took = outcome.appending();
    let rate = |amount: f64| amount / took.as_secs_f64();
    let repeat = f64::from(load.repeat);
    writeln!(
        out,
        "appended   {} events in {}: {} events/s, {:.1} MB/s",
        HumanCount(events),
        short(took),
        HumanCount(rate(events as f64) as u64),
        rate(megabytes(input) * repeat),
    )?;
    latencies(out, load, outcome)?;
    readers(out, outcome)
}

fn latencies(out: &mut dyn Write, load: Load, outcome: &Outcome<'_>) -> io::Result<()> {
    let heads = ["calls", "events/call", "p50", "p90", "p99", "p99.9", "max"];
    let [calls, events, p50, p90, p99, p999, max] = heads;
    writeln!(
        out,
        "\n{:<16}{calls:>11}{events:>12}{p50:>10}{p90:>10}{p99:>10}{p999:>10}{max:>10}",
        "latency"
    )?;
    let append = if load.batch { "append_batch" } else { "append_change" };
    latency(out, append, outcome.writers.iter().map(|writer| &writer.latency))?;
    for way in Way::ALL {
        let readers = outcome.readers.iter().flatten().filter(|reader| reader.way == way);
        latency(out, way.name(), readers.map(|reader| &reader.latency))?;
    }
    Ok(())
}

fn latency<'a>(out: &mut dyn Write, name: &str, parts: impl Iterator<Item = &'a Latency>) -> io::Result<()> {
    let mut all = Latency::new();
    parts.for_each(|part| all.add(part));
    if all.calls() == 0 {
        return Ok(());
    }
    let events = all.events as f64 / all.calls() as f64;
    write!(out, "{name:<16}{:>11}{events:>12.1}", HumanCount(all.calls()).to_string())?;
    for part in PARTS {
        write!(out, "{:>10}", short(all.within(part)))?;
    }
    writeln!(out)
}

fn readers(out: &mut dyn Write, outcome: &Outcome<'_>) -> io::Result<()> {
    if outcome.readers.is_empty() {
        return Ok(());
    }
    let heads = ["read", "missed", "resyncs", "rows", "idle calls"];
    let [read, missed, resyncs, rows, idle] = heads;
    writeln!(out, "\nreader          {read:>11}{missed:>12}{resyncs:>10}{rows:>10}{idle:>14}")?;
    for (number, reader) in outcome.readers.iter().enumerate() {
        if let Ok(reader) = reader {
            let rows = reader.fold.rows() as u64;
            let counts = [reader.seen(), reader.missed, reader.resyncs, rows, reader.idle_calls];
            let [read, missed, resyncs, rows, idle] = counts.map(|count| HumanCount(count).to_string());
            let name = format!("{number} {}", reader.way.name());
            writeln!(out, "{name:<16}{read:>11}{missed:>12}{resyncs:>10}{rows:>10}{idle:>14}")?;
        }
    }
    for (number, reader) in outcome.readers.iter().enumerate() {
        if let Ok(Reader { first_told: Some(told), .. }) = reader {
            writeln!(out, "reader {number} was first told: {told}")?;
        }
    }
    Ok(())
}

/// A duration with three digits.
fn short(duration: Duration) -> String {
    let nanos = duration.as_nanos() as f64;
    let (value, unit) = match nanos {
        0.0..1e3 => return format!("{nanos} ns"),
        1e3..1e6 => (nanos / 1e3, "µs"),
        1e6..1e9 => (nanos / 1e6, "ms"),
        _ => (nanos / 1e9, "s"),
    };
    let digits = match value {
        0.0..9.995 => 2,
        0.0..99.95 => 1,
        _ => 0,
    };
    format!("{value:.digits$} {unit}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_have_three_digits() {
        let cases = [
            (0, "0 ns"),
            (999, "999 ns"),
            (1_234, "1.23 µs"),
            (12_345, "12.3 µs"),
            (123_456, "123 µs"),
            (9_999_000, "10.0 ms"),
            (61_000_000_000, "61.0 s"),
        ];
        for (nanos, expected) in cases {
            assert_eq!(short(Duration::from_nanos(nanos)), expected);
        }
    }
}
