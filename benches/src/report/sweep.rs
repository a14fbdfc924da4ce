//! The loads that a report runs.

use crate::Result;
use crate::load::args::{Load, PeerName};
use crate::load::{Args, Ended, Outcome, in_turns};
use std::time::Duration;

/// What one load came to, and what was varied for it: the writers, the rate, the window.
pub(super) type Point = (f64, Vec<(PeerName, Ended)>);

/// All of it.
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
    let writers = WRITERS.map(|writers| (writers as f64, Load { writers, ..alone.clone() }));
    let writers = vary(&peers, writers)?;

    let ringlog = writers[0].1.iter().find(|(name, _)| *name == PeerName::Ringlog);
    let most = ringlog.and_then(|(_, ended)| ended.outcome()).map_or(1e5, Outcome::rate);
    let rates = RATES.map(|part| {
        let rate = (most * part).round();
        // One writer: it must not wait for a core that another has, only for the log.
        (rate, Load { rate: Some(rate), writers: 1, ..load.clone() })
    });
    let rates = vary(&peers, rates)?;

    // What a window takes is seen once it is full: that is before the clock starts. Little is made
    // up, or the memory in which that was done would be used again, and not count.
    let short = Load { duration: Duration::from_millis(20), writers: 1, requests: 200, ..alone };
    let windows = WINDOWS.map(|window| (window as f64, Load { window, ..short.clone() }));
    let windows = vary(&peers, windows)?;
    Ok(Series { load, turns, whole, writers, rates, windows })
}

fn vary<const N: usize>(peers: &[PeerName], loads: [(f64, Load); N]) -> Result<Vec<Point>> {
    let point = |(at, load)| Ok((at, in_turns(&load, peers, 1, &format!("{at} "))?));
    loads.into_iter().map(point).collect()
}
