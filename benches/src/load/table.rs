//! How outcomes are shown.

use super::args::{Args, PeerName};
use super::{Ended, Outcome, PERCENTILES, Times};
use crate::speed::amount;
use crate::{Result, machine};
use comfy_table::{CellAlignment, presets};
use indicatif::HumanCount;
use serde_json::{Value, json};
use std::collections::BTreeMap;

/// Rows under a head, for the terminal and for the page.
pub(crate) struct Table {
    pub(crate) head: Vec<&'static str>,
    pub(crate) rows: Vec<Vec<String>>,
}

/// Prints all tables.
pub(super) fn print(args: &Args, all: &[(PeerName, Ended)]) {
    println!("{}\n{}", machine::summary(), args.load.summary());
    println!("{} x {} each, in turn", args.turns(), humantime::format_duration(args.load.duration));
    for Table { head, rows } in tables(all) {
        let mut table = comfy_table::Table::new();
        table.load_preset(presets::NOTHING).set_header(head).add_rows(rows);
        table.column_iter_mut().skip(1).for_each(|column| column.set_cell_alignment(CellAlignment::Right));
        println!("\n{table}");
    }
    for (name, ended) in all {
        if let Some(why) = trouble(ended) {
            println!("\n{} {why}", name.name());
        }
    }
}

/// Why there are no figures.
pub(crate) fn trouble(ended: &Ended) -> Option<String> {
    match ended {
        Ended::Done(_) => None,
        Ended::Hung(seconds) => Some(format!("hung: ended after {seconds:.0} s")),
        Ended::Failed(why) => Some(format!("failed: {why}")),
    }
}

/// Throughput, latencies, readers, and the first contender's figures over those of each other one;
/// without those that have no rows.
pub(crate) fn tables(all: &[(PeerName, Ended)]) -> Vec<Table> {
    let done: Vec<(String, &Outcome)> =
        all.iter().filter_map(|(name, ended)| Some((name.name(), ended.outcome()?))).collect();
    let count = |count: u64| HumanCount(count).to_string();
    let percentiles = PERCENTILES.map(|(name, _)| name);

    let throughput = done.iter().map(|(name, outcome)| {
        vec![
            name.clone(),
            count(outcome.rate() as u64),
            format!("{:.1}", outcome.bytes as f64 / outcome.seconds / 1e6),
            amount(outcome.processor_nanos(), "ns"),
            count(outcome.by_suspended),
            count(outcome.superseded),
        ]
    });
    let latencies = done.iter().flat_map(|(name, outcome)| {
        outcome.times().into_iter().map(move |(what, times)| {
            let values = times.percentiles().into_iter().map(|nanos| amount(nanos as f64, "ns"));
            [format!("{name}, {what}"), count(times.0.len())].into_iter().chain(values).collect()
        })
    });
    let readers = done.iter().flat_map(|(name, outcome)| {
        outcome.readers.iter().map(move |(kind, reading)| {
            let figures = [reading.read, reading.lost, reading.lapped].map(count);
            [format!("{name}, {kind:?}")].into_iter().chain(figures).collect()
        })
    });
    let ratios = done.iter().skip(1).flat_map(|(name, theirs)| {
        let ours = done[0].1;
        let pairs = ours.times().into_iter().zip(theirs.times());
        pairs.map(move |((what, ours_times), (_, theirs_times))| {
            let ratio = |ours: f64, theirs: f64| format!("{:.2}", ours / theirs);
            let rates =
                [ratio(ours.rate(), theirs.rate()), ratio(ours.processor_nanos(), theirs.processor_nanos())];
            let pairs = ours_times.percentiles().into_iter().zip(theirs_times.percentiles());
            let times = pairs.map(|(ours, theirs)| ratio(ours as f64, theirs.max(1) as f64));
            [format!("over {name}, {what}")].into_iter().chain(rates).chain(times).collect()
        })
    });
    let tables = [
        Table {
            head: vec!["", "events/s", "MB/s", "processor an event", "by suspended writer", "superseded"],
            rows: throughput.collect(),
        },
        Table { head: [&["time of", "count"][..], &percentiles].concat(), rows: latencies.collect() },
        Table { head: vec!["readers", "read", "lost", "lapped"], rows: readers.collect() },
        Table {
            head: [&["ratios", "events/s", "processor"][..], &percentiles].concat(),
            rows: ratios.collect(),
        },
    ];
    tables.into_iter().filter(|table| !table.rows.is_empty()).collect()
}

/// All of it as one JSON object, percentiles by their names in nanoseconds.
pub(super) fn json(args: &Args, all: &[(PeerName, Ended)]) -> Result<()> {
    let percentiles = |times: &Times| -> Value {
        let names = PERCENTILES.into_iter().map(|(name, _)| name.to_owned());
        let values = times.percentiles().into_iter().map(Value::from);
        names.zip(values).chain([("count".to_owned(), times.0.len().into())]).collect()
    };
    let mut contenders = BTreeMap::new();
    for (name, ended) in all {
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
        contenders.insert(name.name(), figures);
    }
    let (machine, turns) = (BTreeMap::from(machine::machine()), args.turns());
    let all = json!({ "machine": machine, "load": args.load, "turns": turns, "contenders": contenders });
    println!("{all:#}");
    Ok(())
}
