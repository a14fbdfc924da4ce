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
//! One event in so many carries the moment from which its latency is counted, in its row id (see
//! the module `mark`); a reader that meets it counts the time until then as that of delivery.
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
mod child;
mod mark;
mod outcome;
mod pool;
mod reader;
mod run;
mod table;
mod writer;

pub use args::Args;
pub use child::{Ended, Job, in_turns};
pub use outcome::{Outcome, PERCENTILES, Times};

use crate::Result;
use crate::machine::Machine;
use std::fs::File;
use std::process::ExitCode;

/// The whole program.
pub fn main(args: &Args) -> ExitCode {
    let result = if args.child { child::serve().map(|()| true) } else { parent(args) };
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
    let machine = Machine::here();
    if let Some(folder) = &args.report {
        return crate::report::write(folder, args, &machine).map(|()| true);
    }
    // A file that cannot be read, or is not what it should be, is refused here and not by each
    // child.
    pool::Pool::of(&args.load)?;
    let ended = in_turns(&args.load, &args.contenders(), args.turns(), "")?;
    if args.json {
        table::json(args, &machine, &ended)?;
    } else {
        table::print(args, &machine, &ended);
    }
    if let Some(path) = &args.hdr {
        let file = File::create(path).map_err(|error| format!("--hdr {}: {error}", path.display()))?;
        table::hdr(file, &machine, &ended)?;
    }
    let failed = ended.iter().any(|(_, ended)| matches!(ended, Ended::Failed(_)));
    Ok(!failed && matches!(ended.first(), Some((_, Ended::Done(_)))))
}
