//! What is drawn, and on which axes.

use super::chart::{Axis, Chart};
use super::sweep::{Point, Series, outcome};
use crate::load::args::PeerName;
use crate::load::{Ended, Outcome, Times};
use crate::speed::amount;

/// A chart with its name and what is said of it.
#[derive(Debug)]
pub(super) struct Figure {
    /// The file's.
    pub(super) name: &'static str,
    pub(super) title: &'static str,
    pub(super) text: String,
    pub(super) chart: Chart,
}

/// All figures of a report.
pub(super) fn all(series: &Series) -> Vec<Figure> {
    let reader = if series.load.rate.is_some() { "was due" } else { "began" };
    vec![
        Figure {
            name: "append-percentiles",
            title: "How long an append takes",
            text: format!("Percentiles of one call, from when it {reader}: {}.", series.load.summary()),
            chart: percentiles(&series.whole, |outcome| &outcome.append),
        },
        Figure {
            name: "delivery-percentiles",
            title: "From append to reader",
            text: format!(
                "Percentiles of the time from when an append {reader} until a reader had the event, on the same run. \
                 Without a rate, writers fill the window faster than readers empty it: this is then how far readers are behind."
            ),
            chart: percentiles(&series.whole, |outcome| &outcome.delivery),
        },
        Figure {
            name: "throughput",
            title: "Throughput against writers",
            text: "Events a second by all writers together, without readers and without a rate.".into(),
            chart: throughput(&series.writers),
        },
        Figure {
            name: "latency-against-rate",
            title: "Latency against the offered rate",
            text: "The 99th percentile of the time from when a call was due until it returned: one writer, and the readers of \
                   the first figure. Where a contender cannot keep up, what waits counts, and the line turns upwards."
                .into(),
            chart: rates(&series.rates),
        },
        Figure {
            name: "memory",
            title: "Memory against the window",
            text: "Resident bytes over events kept, once the window has been gone round: allocator, spare segments and all. \
                   Small windows bear the program's own share."
                .into(),
            chart: memory(&series.windows),
        },
    ]
}

/// The percentile axis of HDR plots: each step is one nine more. The values are on a logarithmic
/// axis.
fn percentiles(all: &[(PeerName, Ended)], times: fn(&Outcome) -> &Times) -> Chart {
    let lines: Vec<_> = done(all).map(|(name, outcome)| (name, curve(times(outcome)))).collect();
    let nines = greatest(&lines, |point| point.0).clamp(2.0, 7.0).ceil() as usize;
    let names = ["0%", "90%", "99%", "99.9%", "99.99%", "99.999%", "99.9999%", "99.99999%"];
    let ticks = names.iter().take(nines + 1).enumerate();
    Chart {
        x: Axis {
            label: "percentile",
            ticks: ticks.map(|(place, name)| (place as f64, (*name).into())).collect(),
        },
        y: decades("time", &lines, |value| amount(value, "ns")),
        lines,
        points: false,
    }
}

/// Places on the percentile axis, and the logarithm of the time there.
fn curve(times: &Times) -> Vec<(f64, f64)> {
    if times.is_empty() {
        return Vec::new();
    }
    let nines = (times.0.len() as f64).log10();
    let point = |step: u32| {
        let place = f64::from(step) / 40.0;
        let nanos = times.0.value_at_quantile(1.0 - 10_f64.powf(-place));
        (place, (nanos.max(1) as f64).log10())
    };
    (0..=(nines * 40.0) as u32).map(point).collect()
}

fn throughput(points: &[Point]) -> Chart {
    let lines = lines(points, f64::log2, |outcome, _| outcome.rate() / 1e6);
    Chart {
        x: at_points("writers", points, f64::log2, |at| at.to_string()),
        y: from_zero("million events a second", &lines),
        lines,
        points: true,
    }
}

fn rates(points: &[Point]) -> Chart {
    let p99 = |outcome: &Outcome, _| (outcome.append.0.value_at_percentile(99.0).max(1) as f64).log10();
    let lines = lines(points, f64::log10, p99);
    Chart {
        x: at_points("offered events a second", points, f64::log10, count),
        y: decades("p99 from when it was due", &lines, |value| amount(value, "ns")),
        lines,
        points: true,
    }
}

fn memory(points: &[Point]) -> Chart {
    let lines = lines(points, f64::log10, |outcome, window| outcome.resident as f64 / window);
    Chart {
        x: at_points("window", points, f64::log10, count),
        y: from_zero("bytes an event", &lines),
        lines,
        points: true,
    }
}

/// A number in few letters: 20k, 1.5M.
fn count(number: f64) -> String {
    let (value, unit) = match number {
        1e6.. => (number / 1e6, "M"),
        1e3.. => (number / 1e3, "k"),
        _ => (number, ""),
    };
    if value < 10.0 && value.fract() > 0.05 {
        format!("{value:.1}{unit}")
    } else {
        format!("{value:.0}{unit}")
    }
}

fn done(all: &[(PeerName, Ended)]) -> impl Iterator<Item = (PeerName, &Outcome)> {
    all.iter().filter_map(|(name, ended)| Some((*name, outcome(ended)?)))
}

type Lines = Vec<(PeerName, Vec<(f64, f64)>)>;

/// A line a contender, through what it did at each point; `place` is that on the axis.
fn lines(points: &[Point], place: fn(f64) -> f64, value: impl Fn(&Outcome, f64) -> f64) -> Lines {
    let names = points.first().into_iter().flat_map(|point| point.contenders.iter().map(|(name, _)| *name));
    names
        .map(|name| {
            let of = |point: &Point| {
                let (_, outcome) = done(&point.contenders).find(|(other, _)| *other == name)?;
                Some((place(point.at), value(outcome, point.at)))
            };
            (name, points.iter().filter_map(of).collect())
        })
        .collect()
}

fn greatest(lines: &Lines, of: fn(&(f64, f64)) -> f64) -> f64 {
    lines.iter().flat_map(|(_, points)| points.iter().map(of)).fold(0.0, f64::max)
}

/// A tick at each point that was measured.
fn at_points(
    label: &'static str,
    points: &[Point],
    place: fn(f64) -> f64,
    text: impl Fn(f64) -> String,
) -> Axis {
    Axis { label, ticks: points.iter().map(|point| (place(point.at), text(point.at))).collect() }
}

/// A logarithmic axis of whole decades around all values.
fn decades(label: &'static str, lines: &Lines, text: impl Fn(f64) -> String) -> Axis {
    let values = || lines.iter().flat_map(|(_, points)| points.iter().map(|point| point.1));
    let low = values().fold(f64::INFINITY, f64::min).floor();
    let high = values().fold(low + 1.0, f64::max).ceil();
    let low = if low.is_finite() { low } else { 0.0 };
    let exponents = low as i32..=(high.max(low + 1.0) as i32);
    let ticks = exponents.map(|exponent| (f64::from(exponent), text(10_f64.powi(exponent))));
    Axis { label, ticks: ticks.collect() }
}

/// A linear axis from zero, with a handful of round ticks.
fn from_zero(label: &'static str, lines: &Lines) -> Axis {
    let most = greatest(lines, |point| point.1).max(1e-9);
    let decade = 10_f64.powf((most / 4.0).log10().floor());
    let steps = [1.0, 2.0, 5.0, 10.0].map(|factor| factor * decade);
    let step = steps.into_iter().find(|step| most / step <= 6.0).unwrap_or(10.0 * decade);
    let count = (most / step).ceil() as u32;
    let digits = usize::from(step < 1.0);
    let ticks =
        (0..=count).map(|tick| (f64::from(tick) * step, format!("{:.digits$}", f64::from(tick) * step)));
    Axis { label, ticks: ticks.collect() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_percentile_axis_has_a_step_a_nine() {
        let mut times = Times::default();
        (1..=10_000).for_each(|nanos| times.record(nanos));
        let curve = curve(&times);
        let at = |place: f64| {
            let near = curve.iter().find(|point| (point.0 - place).abs() < 1e-9);
            10_f64.powf(near.expect("a point there").1)
        };
        assert!((at(0.0) - 1.0).abs() < 0.01);
        assert!((at(1.0) - 9_000.0).abs() < 20.0);
        assert!((at(2.0) - 9_900.0).abs() < 20.0);
        assert!(curve.last().is_some_and(|point| point.0 <= 4.0), "no nine that was not measured");
    }

    #[test]
    fn ticks_are_round_and_reach_over_all_values() {
        let lines = vec![(PeerName::Ringlog, vec![(0.0, 0.3), (1.0, 17.3)])];
        let axis = from_zero("", &lines);
        assert_eq!(axis.ticks.first().map(|tick| tick.1.as_str()), Some("0"));
        assert!(axis.ticks.last().is_some_and(|tick| tick.0 >= 17.3));
        assert!((3..=8).contains(&axis.ticks.len()));
        let axis = decades("", &lines, |value| value.to_string());
        assert_eq!(
            (axis.ticks.first().map(|t| t.0), axis.ticks.last().map(|t| t.0)),
            (Some(0.0), Some(18.0))
        );
    }
}
