//! The loads that a report runs.

use crate::Result;
use crate::load::args::{Load, PeerName};
use crate::load::{Args, Ended, Outcome, in_turns};
use std::time::Duration;

/// What one load came to.
#[derive(Debug)]
pub(super) struct Point {
    /// What was varied: the writers, the rate, the window.
    pub(super) at: f64,
    pub(super) contenders: Vec<(PeerName, Ended)>,
}

/// All of it.
#[derive(Debug)]
pub(super) struct Series {
    pub(super) load: Load,
    pub(super) turns: u32,
    /// The load as it was given, with a follower if there was no reader.
    pub(super) whole: Vec<(PeerName, Ended)>,
    pub(super) writers: Vec<Point>,
    pub(super) rates: Vec<Point>,
    pub(super) windows: Vec<Point>,
}

const WRITERS: [u64; 4] = [1, 2, 4, 8];
/// Parts of what one writer gets into ringlog without a rate.
const RATES: [f64; 6] = [0.02, 0.05, 0.1, 0.2, 0.4, 0.8];
const WINDOWS: [u64; 5] = [10_000, 30_000, 100_000, 300_000, 1_000_000];

/// Runs them all.
pub(super) fn run(args: &Args) -> Result<Series> {
    let peers = if args.compare || !args.peers.is_empty() {
        args.contenders()
    } else {
        // Without `pylon-bare`, which hangs.
        vec![PeerName::Ringlog, PeerName::Mutex, PeerName::Broadcast, PeerName::Pylon]
    };
    let mut load = args.load.clone();
    if load.pullers + load.followers == 0 {
        load.followers = 1;
    }
    let turns = args.turns.unwrap_or(3);
    let whole = in_turns(&load, &peers, turns, "")?;

    let alone = Load { pullers: 0, followers: 0, slow: 0, rate: None, suspend: false, ..load.clone() };
    let writers =
        vary(&peers, &WRITERS.map(|writers| Load { writers, ..alone.clone() }), |load| load.writers as f64)?;

    let most: f64 = writers.first().and_then(|point| point.contenders.iter().find_map(rate)).unwrap_or(1e5);
    // One writer: it must not wait for a core that another has, only for the log.
    let rates = RATES.map(|part| Load { rate: Some((most * part).round()), writers: 1, ..load.clone() });
    let rates = vary(&peers, &rates, |load| load.rate.unwrap_or_default())?;

    // What a window takes is seen once it is full: that is before the clock starts. Little is made
    // up, or the memory in which that was done would be used again, and not count.
    let short = Load { duration: Duration::from_millis(20), writers: 1, requests: 200, ..alone };
    let windows =
        vary(&peers, &WINDOWS.map(|window| Load { window, ..short.clone() }), |load| load.window as f64)?;
    Ok(Series { load, turns, whole, writers, rates, windows })
}

fn rate((name, ended): &(PeerName, Ended)) -> Option<f64> {
    outcome(ended).filter(|_| *name == PeerName::Ringlog).map(Outcome::rate)
}

/// What came of a contender that came to an end.
pub(super) fn outcome(ended: &Ended) -> Option<&Outcome> {
    match ended {
        Ended::Done(outcome) => Some(outcome),
        Ended::Hung(_) | Ended::Failed(_) => None,
    }
}

fn vary(peers: &[PeerName], loads: &[Load], at: impl Fn(&Load) -> f64) -> Result<Vec<Point>> {
    let point = |load: &Load| {
        let label = format!("{} ", at(load));
        Ok(Point { at: at(load), contenders: in_turns(load, peers, 1, &label)? })
    };
    loads.iter().map(point).collect()
}
