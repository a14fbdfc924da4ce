//! One page that shows how ringlog and its peers bear a load, and the figures in it as files of
//! their own.
//!
//! The load on the command line is run as it is, and then varied in one thing at a time: the number
//! of writers, the offered rate, the window.

mod chart;
mod page;
mod sweep;

use crate::Result;
use crate::load::args::PeerName;
use crate::load::{Args, Ended, Outcome, Times};
use chart::Chart;
use std::fs;
use std::path::Path;
use sweep::{Point, Series};

/// Runs the series, and writes `index.html` and the figures.
pub fn write(folder: &Path, args: &Args) -> Result<()> {
    let io = |error| format!("--report {}: {error}", folder.display());
    // Before the series, which takes minutes: a folder that cannot be made is told at once.
    fs::create_dir_all(folder).map_err(io)?;
    let series = sweep::run(args)?;
    let charts = charts(&series);
    for chart in &charts {
        fs::write(folder.join(format!("{}.svg", chart.name)), chart.svg()?).map_err(io)?;
    }
    let page = folder.join("index.html");
    fs::write(&page, page::html(&series, &charts)?).map_err(io)?;
    println!("{}", page.display());
    Ok(())
}

fn charts(series: &Series) -> Vec<Chart> {
    let from = if series.load.rate.is_some() { "was due" } else { "began" };
    vec![
        Chart {
            name: "append-percentiles",
            title: "How long an append takes",
            text: format!("Percentiles of one call, from when it {from}: {}.", series.load.summary()),
            x: ("percentile", percentile),
            y: "time",
            times: true,
            lines: curves(&series.whole, |outcome| &outcome.append),
        },
        Chart {
            name: "delivery-percentiles",
            title: "From append to reader",
            text: format!(
                "Percentiles of the time from when an append {from} until a reader had the event, on the same run. \
                 Without a rate, writers fill the window faster than readers empty it: this is then how far readers \
                 are behind."
            ),
            x: ("percentile", percentile),
            y: "time",
            times: true,
            lines: curves(&series.whole, |outcome| &outcome.delivery),
        },
        Chart {
            name: "throughput",
            title: "Throughput against writers",
            text: "Events a second by all writers together, without readers and without a rate.".into(),
            x: ("writers", count),
            y: "million events a second",
            times: false,
            lines: lines(&series.writers, |outcome, _| outcome.rate() / 1e6),
        },
        Chart {
            name: "latency-against-rate",
            title: "Latency against the offered rate",
            text: "The 99th percentile of the time from when a call was due until it returned: one writer, and the \
                   readers of the first figure. Where a contender cannot keep up, what waits counts, and the line \
                   turns upwards."
                .into(),
            x: ("offered events a second", count),
            y: "p99 from when it was due",
            times: true,
            lines: lines(&series.rates, |outcome, _| at(&outcome.append, 0.99)),
        },
        Chart {
            name: "memory",
            title: "Memory against the window",
            text: "Resident bytes over events kept, once the window has been gone round: allocator, spare segments \
                   and all. Small windows bear the program's own share."
                .into(),
            x: ("window", count),
            y: "bytes an event",
            times: false,
            lines: lines(&series.windows, |outcome, window| outcome.resident as f64 / window),
        },
    ]
}

/// The time at a quantile, which may be drawn on a logarithmic axis.
fn at(times: &Times, quantile: f64) -> f64 {
    times.0.value_at_quantile(quantile).max(1) as f64
}

type Lines = Vec<(PeerName, Vec<(f64, f64)>)>;

/// The percentile axis of HDR plots: each decade is one nine more.
fn curves(all: &[(PeerName, Ended)], times: fn(&Outcome) -> &Times) -> Lines {
    let curve = |times: &Times| {
        // No nine that was not measured.
        let steps = ((times.0.len().max(1) as f64).log10().min(7.0) * 40.0) as u32;
        let places = (0..=steps).map(|step| 10_f64.powf(f64::from(step) / 40.0));
        places.map(|place| (place, at(times, 1.0 - 1.0 / place))).collect()
    };
    all.iter().filter_map(|(name, ended)| Some((*name, curve(times(ended.outcome()?))))).collect()
}

/// What is written at a place on it: 1 is 0%, 100 is 99%.
fn percentile(place: f64) -> String {
    let digits = (place.log10() - 2.0).max(0.0).round() as usize;
    format!("{:.digits$}%", 100.0 - 100.0 / place)
}

/// A number in few letters: 20k, 1.5M.
fn count(number: f64) -> String {
    let (value, unit) = match number {
        1e6.. => (number / 1e6, "M"),
        1e3.. => (number / 1e3, "k"),
        _ => (number, ""),
    };
    format!("{}{unit}", (value * 10.0).round() / 10.0)
}

/// A line a contender, through what it did at each point.
fn lines(points: &[Point], value: fn(&Outcome, f64) -> f64) -> Lines {
    let line = |place: usize| {
        let of = |(at, all): &Point| Some((*at, value(all[place].1.outcome()?, *at)));
        (points[0].1[place].0, points.iter().filter_map(of).collect())
    };
    (0..points[0].1.len()).map(line).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_percentile_axis_has_a_decade_a_nine() {
        assert_eq!([1.0, 10.0, 100.0, 1e3, 1e5].map(percentile), ["0%", "90%", "99%", "99.9%", "99.999%"]);
        let mut outcome = Outcome::default();
        (1..=10_000_u64).for_each(|nanos| outcome.append.0 += nanos);
        let all = [(PeerName::Ringlog, Ended::Done(Box::new(outcome)))];
        let (_, curve) = &curves(&all, |outcome| &outcome.append)[0];
        assert!((curve[40].1 - 9_000.0).abs() < 20.0);
        assert!((curve[80].1 - 9_900.0).abs() < 20.0);
        assert_eq!(curve.len(), 161, "no nine that was not measured");
    }

    #[test]
    fn numbers_are_short() {
        assert_eq!([0.1 + 0.2, 8.0, 20_000.0, 1_540_000.0].map(count), ["0.3", "8", "20k", "1.5M"]);
    }
}
