//! The table of targets, measured: `cargo xtask speed`, which builds this and the program `memory`.
//!
//! Less than three minutes for all of it, on two cores with nothing else running. The last line
//! says how many targets were met; the exit status is 0 if all were.
#![forbid(unsafe_code)]

use clap::Parser;
use ringlog_bench::speed::{ROWS, Row, Sheet};
use std::path::PathBuf;
use std::process::ExitCode;

/// Measures ringlog beside what it must beat: each row's contenders in turns, in one process.
#[derive(Debug, Parser)]
#[command(name = "speed")]
struct Args {
    /// Only the row of this name, such as `append/2`, or else those whose names hold this, such as
    /// `append`.
    #[arg(default_value = "")]
    filter: String,
    /// One JSON object instead of the table.
    #[arg(long)]
    json: bool,
    /// The names of the rows, and nothing else.
    #[arg(long, conflicts_with = "json")]
    list: bool,
    /// The program `memory`, which counts allocations.
    #[arg(long, value_name = "PROGRAM")]
    memory: Option<PathBuf>,
    /// What cargo says to every bench.
    #[arg(long, hide = true)]
    bench: bool,
}

fn main() -> ExitCode {
    let args = Args::parse();
    let exact = ROWS.iter().any(|(name, _)| *name == args.filter);
    let chosen = |name: &str| if exact { name == args.filter } else { name.contains(&args.filter) };
    let rows: Vec<_> = ROWS.iter().filter(|(name, _)| chosen(name)).collect();
    if rows.is_empty() {
        eprintln!("no row's name holds `{}`; --list names them", args.filter);
        return ExitCode::FAILURE;
    }
    if args.list {
        for (name, _) in rows {
            println!("{name}");
        }
        return ExitCode::SUCCESS;
    }
    let mut sheet = Sheet::new(args.json, args.memory);
    for (name, row) in rows {
        sheet.row = name;
        match row {
            Row::Contests(contests) => contests().into_iter().for_each(|contest| sheet.contest(contest)),
            Row::Other(measure) => measure(&mut sheet),
        }
    }
    if sheet.end() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
