//! How outcomes are shown.

use super::args::{Args, PeerName};
use super::child::Ended;
use super::outcome::{Outcome, Times};
use crate::Result;
use crate::machine::Machine;
use crate::speed::amount;
use hdrhistogram::serialization::V2DeflateSerializer;
use hdrhistogram::serialization::interval_log::{IntervalLogWriterBuilder, Tag};
use indicatif::HumanCount;
use serde_json::{Value, json};
use std::io::Write;
use std::time::{Duration, SystemTime};

/// All tables.
pub(super) fn print(args: &Args, machine: &Machine, all: &[(PeerName, Ended)]) {
    println!("{}\n{}", machine.summary(), args.load.summary());
    println!("{} x {} each, in turn\n", args.turns(), humantime::format_duration(args.load.duration));
    for (name, ended) in all {
        match ended {
            Ended::Done(outcome) => throughput(*name, outcome),
            Ended::Hung(seconds) => println!("{:<12} hung: killed after {seconds:.0} s", name.as_str()),
            Ended::Failed(why) => println!("{:<12} failed: {why}", name.as_str()),
        }
    }
    latencies("append", all, |outcome| &outcome.append);
    latencies("delivery", all, |outcome| &outcome.delivery);
    readers(all);
    ratios(all);
}

fn done(all: &[(PeerName, Ended)]) -> impl Iterator<Item = (PeerName, &Outcome)> {
    all.iter().filter_map(|(name, ended)| match ended {
        Ended::Done(outcome) => Some((*name, &**outcome)),
        Ended::Hung(_) | Ended::Failed(_) => None,
    })
}

fn throughput(name: PeerName, outcome: &Outcome) {
    let rate = HumanCount(outcome.rate() as u64).to_string();
    print!(
        "{:<12}{rate:>12} events/s{:>9.1} MB/s{:>10} of processor an event",
        name.as_str(),
        outcome.bytes as f64 / outcome.seconds / 1e6,
        amount(outcome.processor_nanos(), "ns"),
    );
    if outcome.by_suspended > 0 {
        print!(
            "; {} more by the suspended writer, {} superseded",
            HumanCount(outcome.by_suspended),
            HumanCount(outcome.superseded)
        );
    }
    println!();
}

fn latencies(what: &str, all: &[(PeerName, Ended)], times: fn(&Outcome) -> &Times) {
    let rows: Vec<_> = done(all).map(|(name, outcome)| (name, times(outcome))).collect();
    let Some((_, first)) = rows.iter().find(|(_, times)| !times.is_empty()) else { return };
    print!("\n{what:<12}{:>12}", "count");
    first.percentiles().iter().for_each(|(name, _)| print!("{name:>11}"));
    println!();
    for (name, times) in rows {
        print!("{:<12}{:>12}", name.as_str(), HumanCount(times.0.len()).to_string());
        times.percentiles().iter().for_each(|(_, nanos)| print!("{:>11}", amount(*nanos as f64, "ns")));
        println!();
    }
}

fn readers(all: &[(PeerName, Ended)]) {
    if done(all).all(|(_, outcome)| outcome.readers.is_empty()) {
        return;
    }
    println!("\n{:<12}{:<10}{:>14}{:>14}{:>10}", "readers", "kind", "read", "lost", "lapped");
    for (name, outcome) in done(all) {
        for kind in ["puller", "follower", "slow"] {
            let mine: Vec<_> = outcome.readers.iter().filter(|reading| reading.kind == kind).collect();
            if !mine.is_empty() {
                let sum = |of: fn(&super::outcome::Reading) -> u64| {
                    HumanCount(mine.iter().map(|reading| of(reading)).sum()).to_string()
                };
                let (read, lost, lapped) = (sum(|r| r.read), sum(|r| r.lost), sum(|r| r.lapped));
                println!("{:<12}{kind:<10}{read:>14}{lost:>14}{lapped:>10}", name.as_str());
            }
        }
    }
}

/// The first contender's figures over those of each other one.
fn ratios(all: &[(PeerName, Ended)]) {
    let mut rows = done(all);
    let Some((first, ours)) = rows.next() else { return };
    let others: Vec<_> = rows.collect();
    if others.is_empty() {
        return;
    }
    println!("\n{} over each other: throughput (more is better), times (less is better)", first.as_str());
    for (name, theirs) in others {
        print!("{:<12}events/s {:.2}", name.as_str(), ours.rate() / theirs.rate());
        print!("  processor {:.2}", ours.processor_nanos() / theirs.processor_nanos());
        for (what, times) in times_of(ours).into_iter().zip(times_of(theirs)).map(|(a, b)| (a.0, [a.1, b.1]))
        {
            if times.iter().any(|times| times.is_empty()) {
                continue;
            }
            print!("\n            {what}:");
            let [ours, theirs] = times.map(Times::percentiles);
            for ((name, ours), (_, theirs)) in ours.into_iter().zip(theirs) {
                print!("  {name} {:.2}", ours as f64 / theirs.max(1) as f64);
            }
        }
        println!();
    }
}

fn times_of(outcome: &Outcome) -> [(&'static str, &Times); 2] {
    [("append", &outcome.append), ("delivery", &outcome.delivery)]
}

/// All of it as one JSON object, percentiles by their names in nanoseconds.
pub(super) fn json(args: &Args, machine: &Machine, all: &[(PeerName, Ended)]) -> Result<()> {
    let percentiles = |times: &Times| -> Value {
        let named = times.percentiles().into_iter().map(|(name, nanos)| (name.to_owned(), json!(nanos)));
        named.chain([("count".to_owned(), json!(times.0.len()))]).collect()
    };
    let contenders: serde_json::Map<String, Value> = all
        .iter()
        .map(|(name, ended)| {
            let figures = match ended {
                Ended::Done(outcome) => json!({
                    "events_per_second": outcome.rate(),
                    "processor_nanos_per_event": outcome.processor_nanos(),
                    "append_nanos": percentiles(&outcome.append),
                    "delivery_nanos": percentiles(&outcome.delivery),
                    "outcome": outcome,
                }),
                other => serde_json::to_value(other)?,
            };
            Ok((name.as_str().to_owned(), figures))
        })
        .collect::<Result<_>>()?;
    let load = &args.load;
    println!(
        "{:#}",
        json!({ "machine": machine, "load": load, "turns": args.turns(), "contenders": contenders })
    );
    Ok(())
}

/// All histograms as an HDR interval log, one interval a contender, the times of appends and of
/// deliveries as its tags.
pub(super) fn hdr(mut out: impl Write, machine: &Machine, all: &[(PeerName, Ended)]) -> Result<()> {
    let mut serializer = V2DeflateSerializer::new();
    let mut log = IntervalLogWriterBuilder::new()
        .add_comment(&format!("ringlog load, nanoseconds; {}; {}", machine.summary(), machine.command))
        .with_start_time(SystemTime::now())
        .with_max_value_divisor(1e6)
        .begin_log_with(&mut out, &mut serializer)?;
    let mut start = Duration::ZERO;
    for (name, outcome) in done(all) {
        let length = Duration::from_secs_f64(outcome.seconds);
        for (what, times) in times_of(outcome).into_iter().filter(|(_, times)| !times.is_empty()) {
            let tag = format!("{}.{what}", name.as_str());
            log.write_histogram(&times.0, start, length, Tag::new(&tag))
                .map_err(|error| format!("cannot write the log: {error:?}"))?;
        }
        start += length;
    }
    Ok(())
}
