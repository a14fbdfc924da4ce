//! The load generator: any number of writers and readers of each kind on one log, or on one of its
//! peers.
//!
//! # How a latency is counted
//!
//! With a rate (open loop), each call of each writer has a moment at which it is due, fixed in
//! advance. Its latency runs from that moment, not from when the writer got round to it: a stall
//! counts for every call that it held up. So there is no coordinated omission. Without a rate
//! (closed loop), calls follow each other, and a latency is the time of the call.
//!
//! One event in so many carries the moment from which its latency is counted, in its row id, which
//! every contender takes as it is. A reader that meets it counts the time until then as that of
//! delivery.
//!
//! # What is checked
//!
//! Each contender runs in a process of its own, which exits with an error unless, for every reader,
//! events read + events lost = events offered, and all bytes of those that lost none; and, for the
//! log, the seqs given out are as many as events were offered.
//!
//! # What a suspended writer is
//!
//! A further writer, of batches of 64, on a thread that the kernel schedules as idle
//! (`SCHED_IDLE`). As soon as another thread wants its core it loses it, at whichever instruction
//! it stands: also between claim and publish, or with the lock in its hand. While there are as many
//! busy writers as cores, it gets next to nothing, and stays away for milliseconds to hundreds of
//! them, which is many laps of a window. How long exactly is the kernel's choice.

pub mod args;
mod outcome;
mod reader;
mod run;
mod table;
mod writer;

pub use args::Args;
pub use outcome::{Outcome, PERCENTILES, Times};
pub(crate) use table::{Table, tables, trouble};

use crate::{Result, timing};
use args::{Load, PeerName};
use indicatif::{ProgressBar, ProgressStyle};
use serde::Serialize;
use std::process::{Command, ExitCode, exit};
use std::thread;
use std::time::Duration;

/// The whole program.
pub fn main(args: &Args) -> ExitCode {
    let result = args.child.as_ref().map_or_else(|| parent(args), |job| child(job).map(|()| true));
    match result {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}

/// Runs the contenders and prints what came of it. Whether the first of them came to an end, and
/// no contender broke a promise.
fn parent(args: &Args) -> Result<bool> {
    if let Some(folder) = &args.report {
        return crate::report::write(folder, args).map(|()| true);
    }
    // A file that cannot be read, or is not what it should be, is refused here and not by each
    // child.
    run::ops(&args.load)?;
    let all = in_turns(&args.load, &args.contenders(), args.turns(), "")?;
    if args.json {
        table::json(args, &all)?;
    } else {
        table::print(args, &all);
    }
    let failed = all.iter().any(|(_, ended)| matches!(ended, Ended::Failed(_)));
    Ok(!failed && all.first().is_some_and(|(_, ended)| ended.outcome().is_some()))
}

/// How the runs of a contender ended.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Ended {
    /// All that was offered was taken, and read or told lost.
    Done(Box<Outcome>),
    /// It ended itself after so many seconds.
    Hung(f64),
    /// It broke a promise, or could not run; what it said of it.
    Failed(String),
}

impl Ended {
    /// What came of a contender that came to an end.
    pub fn outcome(&self) -> Option<&Outcome> {
        match self {
            Self::Done(outcome) => Some(outcome),
            Self::Hung(_) | Self::Failed(_) => None,
        }
    }

    /// With the outcome of a further run.
    fn and(self, more: Self) -> Self {
        match (self, more) {
            (Self::Done(mut sum), Self::Done(more)) => {
                sum.add(&more);
                Self::Done(sum)
            }
            (Self::Done(_), ended) | (ended, _) => ended,
        }
    }
}

/// Each contender in turn, so many times, each run in a process of its own.
pub fn in_turns(
    load: &Load,
    contenders: &[PeerName],
    turns: u32,
    label: &str,
) -> Result<Vec<(PeerName, Ended)>> {
    // Draws nothing unless standard error is a terminal.
    let bar = ProgressBar::new(u64::from(turns) * contenders.len() as u64);
    bar.set_style(ProgressStyle::with_template("{msg:<24} {wide_bar} {elapsed} of {duration}")?);
    bar.enable_steady_tick(Duration::from_millis(200));
    let runs = timing::in_turns(turns as usize, &mut contenders.to_vec(), |peer| {
        bar.set_message(format!("{label}{}", peer.name()));
        let ended = in_child(*peer, load);
        bar.inc(1);
        ended
    });
    bar.finish_and_clear();
    let together = |runs: Vec<Result<Ended>>| {
        let runs: Vec<Ended> = runs.into_iter().collect::<Result<_>>()?;
        Ok(runs.into_iter().reduce(Ended::and))
    };
    let all: Vec<Option<Ended>> = runs.into_iter().map(together).collect::<Result<_>>()?;
    Ok(contenders.iter().copied().zip(all.into_iter().flatten()).collect())
}

/// What a child that hangs exits with.
const HUNG: i32 = 3;

/// How long a run may take: the writers may be as far behind as they wrote, and filling the window
/// takes time too.
fn limit(load: &Load) -> Duration {
    3 * load.duration + Duration::from_secs(10) + Duration::from_micros(20 * load.window)
}

/// A contender that hangs takes none with it.
fn in_child(peer: PeerName, load: &Load) -> Result<Ended> {
    let job = serde_json::to_string(&(peer, load))?;
    let output = Command::new(std::env::current_exe()?).arg("--child").arg(job).output()?;
    let complaint = String::from_utf8_lossy(&output.stderr);
    Ok(match (output.status.code(), serde_json::from_slice(&output.stdout)) {
        (Some(0), Ok(outcome)) => Ended::Done(Box::new(outcome)),
        (Some(HUNG), _) => Ended::Hung(limit(load).as_secs_f64()),
        _ => Ended::Failed(format!("{}: {}", output.status, complaint.trim())),
    })
}

/// The child's side: its outcome goes to standard output.
fn child(job: &str) -> Result<()> {
    let (peer, load): (PeerName, Load) = serde_json::from_str(job)?;
    let limit = limit(&load);
    thread::spawn(move || {
        thread::sleep(limit);
        exit(HUNG);
    });
    let outcome = run::run(peer, &load)?;
    serde_json::to_writer(std::io::stdout().lock(), &outcome)?;
    Ok(())
}
