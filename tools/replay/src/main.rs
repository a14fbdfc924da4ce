//! Replays push requests through a [`ChangeLog`]: N writers append, M readers follow, and in the
//! end every reader must hold exactly the rows that the input folds to.
//!
//! ```text
//! cargo run --release -p ringlog-replay                       # input made up here
//! cargo run --release -p ringlog-replay -- FILE.ndjson[.gz]   # a request a line; - is stdin
//! cargo run --release -p ringlog-replay -- --git DIR          # the history of any git repository
//! ```
//!
//! **Writers.** Every row belongs to one writer, which appends the row's changes in the input's
//! order. So the fold does not depend on how the writers are interleaved. With one writer each
//! request is one batch, visible all at once; with more, a request is one batch for each writer
//! that owns some of its rows (see `plan.rs`). The JSON text is ready before the clock starts: what
//! is timed is the log.
//!
//! **Readers.** Each starts at seq 0 and follows until the writers are done and nothing is left.
//! They take turns in how they read: `read` by reference, `pull_json` as a client that parses
//! bytes, `pull` with owned values. Each checks that no seq is left out, and folds: a delete
//! removes the row, anything else replaces its data.
//!
//! **Resyncs.** The window holds the whole input unless `--capacity` says less, so no reader falls
//! behind it by default. With a short window the program keeps a database (`database.rs`) beside
//! the log, as a server would; a reader that is told to resync takes a snapshot from it and follows
//! on from there. Its rows must come out the same. The writers then write to the database too,
//! which the throughput includes.
//!
//! **Verdict.** The exit code is 0 if all of this held:
//!
//! - The seqs given out are dense, and each writer's go up.
//! - For every reader, events read + events missed = events offered.
//! - Every event that a reader saw is the one that was appended under its seq.
//! - Every reader's rows equal the input's, as text, byte for byte.
//! - No reader that kept up ever saw a part of a batch.

#![forbid(unsafe_code)]
#![allow(
    clippy::cast_possible_truncation,
    clippy::cast_precision_loss,
    clippy::cast_sign_loss,
    reason = "counts are printed and random numbers cut to size; nothing here nears 2^52"
)]

mod database;
mod fold;
mod git;
mod latency;
mod plan;
mod reader;
mod report;
mod run;
mod stretch;
mod verify;

use clap::Parser;
use clap::builder::RangedU64ValueParser;
use database::Database;
use fold::Fold;
use indicatif::{HumanCount, ProgressBar, ProgressStyle};
use ringlog::ChangeLog;
use ringlog_replay::input::Input;
use ringlog_replay::{Result, generate, input};
use run::Load;
use std::io::{self, Write};
use std::num::NonZero;
use std::path::PathBuf;
use std::process::ExitCode;
use std::thread;
use verify::Expected;

/// The window is as long as the input, but by default no longer than this.
const MAX_DEFAULT_CAPACITY: u64 = 1 << 20;

/// Replays push requests through a change log while readers follow, and checks what they end up
/// with.
#[derive(Debug, Parser)]
#[command(name = "ringlog-replay")]
struct Args {
    /// Push requests, one JSON object a line, plain or gzipped; - is standard input. Without any,
    /// some are made up
    #[arg(value_name = "FILE", conflicts_with_all = ["git", "requests", "seed"])]
    input: Option<PathBuf>,

    /// Replay the history of the git repository in this directory
    #[arg(long, value_name = "DIR", conflicts_with_all = ["requests", "seed"])]
    git: Option<PathBuf>,

    /// Threads that append
    #[arg(long, value_name = "N", default_value = "2", value_parser = RangedU64ValueParser::<usize>::new().range(1..=256))]
    writers: usize,

    /// Threads that follow
    #[arg(long, value_name = "M", default_value = "3", value_parser = RangedU64ValueParser::<usize>::new().range(0..=1024))]
    readers: usize,

    /// Events that the log retains [default: all, up to 1,048,576]
    #[arg(long, value_name = "C")]
    capacity: Option<usize>,

    /// The most events that a reader asks for at a time
    #[arg(long, value_name = "L", default_value = "256", value_parser = RangedU64ValueParser::<usize>::new().range(1..))]
    limit: usize,

    /// Replay the input so many times over
    #[arg(long, value_name = "K", default_value = "1", value_parser = clap::value_parser!(u32).range(1..))]
    repeat: u32,

    /// Append change by change, not a request at a time
    #[arg(long)]
    no_batch: bool,

    /// How many push requests to make up
    #[arg(long, value_name = "R", default_value = "20000", value_parser = clap::value_parser!(u64).range(1..))]
    requests: u64,

    /// What to make them up from: the same seed gives the same requests
    #[arg(long, value_name = "S", default_value = "1")]
    seed: u64,
}

fn main() -> ExitCode {
    match replay(&Args::parse(), &mut io::stdout().lock()) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("ringlog-replay: {error}");
            ExitCode::FAILURE
        }
    }
}

/// Runs one replay and prints what came of it; whether every promise held.
fn replay(args: &Args, out: &mut dyn Write) -> Result<bool> {
    let input = take_input(args, out)?;
    let mut fold = Fold::default();
    input.ops().for_each(|op| fold.apply(&op.entity, &op.row_id, op.kind, op.text()));
    report::input(out, &input, fold.rows())?;

    // Each row ends as its last change says, so the input folds to the same rows however often it
    // is repeated.
    let offered = input.ops().count() as u64 * u64::from(args.repeat);
    let expected = Expected::new(offered, fold)?;
    let capacity = args.capacity.unwrap_or(offered.min(MAX_DEFAULT_CAPACITY) as usize);
    let log = ChangeLog::builder().capacity(capacity).build()?;
    let database = (offered > capacity as u64).then(|| Database::new(args.writers));
    describe(args, out, capacity, database.is_some())?;

    let shares = plan::deal(&input, args.writers);
    let load = Load { repeat: args.repeat, batch: !args.no_batch, readers: args.readers, limit: args.limit };
    let bar = progress_bar(offered)?;
    let outcome = run::run(&log, database.as_ref(), &shares, load, &bar);
    report::outcome(out, &input, load, &outcome)?;
    writeln!(out, "\n{:#?}\n", log.stats())?;
    let failures = expected.failures(&log, &shares, &outcome)?;
    verdict(out, &outcome, &failures, expected.fold.rows())
}

fn take_input(args: &Args, out: &mut dyn Write) -> Result<Input> {
    match (&args.input, &args.git) {
        (Some(path), _) => input::open(path),
        (None, Some(directory)) => git::read(directory),
        (None, None) => {
            writeln!(
                out,
                "No input given, so it is made up: see --help for how to replay a file or a git history."
            )?;
            generate::requests(args.requests, args.seed)
        }
    }
}

fn describe(args: &Args, out: &mut dyn Write, capacity: usize, with_database: bool) -> io::Result<()> {
    let cores = thread::available_parallelism().map_or(0, NonZero::get);
    let Args { writers, readers, repeat, .. } = args;
    let capacity = HumanCount(capacity as u64);
    write!(out, "run        {writers} writers, {readers} readers; a window of {capacity} events")?;
    if *repeat > 1 {
        write!(out, "; the input {repeat} times over")?;
    }
    if with_database {
        write!(out, "; snapshots for readers that fall behind it")?;
    }
    writeln!(out)?;
    if writers + readers > cores {
        writeln!(out, "           more threads than the {cores} cores: the slowest calls waited for a core")?;
    }
    Ok(())
}

/// A bar on standard error, hidden where that is no terminal.
fn progress_bar(events: u64) -> Result<ProgressBar> {
    let style = ProgressStyle::with_template("{bar:40} {human_pos} of {human_len} events, {eta} left")?;
    Ok(ProgressBar::new(events).with_style(style))
}

fn verdict(
    out: &mut dyn Write,
    outcome: &run::Outcome<'_>,
    failures: &[String],
    rows: usize,
) -> Result<bool> {
    for failure in failures {
        writeln!(out, "FAILED: {failure}")?;
    }
    if !failures.is_empty() {
        return Ok(false);
    }
    let resynced = outcome.readers.iter().flatten().filter(|reader| reader.resyncs > 0).count();
    match outcome.readers.len() {
        0 => writeln!(out, "OK: all was appended; no reader was there to check the rows")?,
        readers => writeln!(
            out,
            "OK: {readers} of {readers} readers hold the input's {} rows; {resynced} had to resync",
            HumanCount(rows as u64),
        )?,
    }
    Ok(true)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(arguments: &str) -> (Result<bool>, String) {
        let arguments = std::iter::once("replay").chain(arguments.split_whitespace());
        let args = Args::try_parse_from(arguments).expect("good arguments");
        let mut out = Vec::new();
        let verdict = replay(&args, &mut out);
        (verdict, String::from_utf8(out).expect("text"))
    }

    fn ok(arguments: &str) -> String {
        let (verdict, text) = run(arguments);
        assert!(verdict.is_ok_and(|held| held), "{arguments}: {text}");
        text
    }

    #[test]
    fn the_arguments_are_consistent() {
        use clap::CommandFactory;
        Args::command().debug_assert();
        for bad in
            ["--writers 0", "--limit 0", "--repeat 0", "file --git dir", "file --seed 3", "--readers 1025"]
        {
            let arguments = std::iter::once("replay").chain(bad.split_whitespace());
            assert!(Args::try_parse_from(arguments).is_err(), "{bad}");
        }
    }

    #[test]
    fn readers_that_keep_up_hold_the_inputs_rows() {
        for arguments in ["--writers 1", "--writers 4 --readers 6", "--no-batch", "--limit 1"] {
            let text = ok(&format!("--requests 500 {arguments}"));
            assert!(text.contains(" 0 had to resync"), "{text}");
        }
    }

    #[test]
    fn readers_that_are_lapped_hold_the_inputs_rows_too() {
        for capacity in [0, 1, 64] {
            let text = ok(&format!("--requests 500 --repeat 3 --writers 3 --capacity {capacity}"));
            assert!(text.contains("snapshots for readers"), "{text}");
        }
        // Nothing is retained, so every reader must have been told.
        let text = ok("--requests 500 --capacity 0 --readers 3");
        assert!(text.contains("3 had to resync") && text.contains("was first told: "), "{text}");
    }

    #[test]
    fn without_readers_it_says_that_nothing_was_checked() {
        assert!(ok("--requests 10 --readers 0").contains("OK: all was appended; no reader"));
    }

    #[test]
    fn what_cannot_be_is_said() {
        let (verdict, _) = run("no-such-file.ndjson");
        assert!(verdict.is_err_and(|error| error.to_string().starts_with("no-such-file.ndjson: ")));
        let (verdict, _) = run(&format!("--requests 1 --capacity {}", usize::MAX));
        assert!(verdict.is_err_and(|error| error.to_string().contains("capacity")));
    }
}
