//! The table of targets, measured: `cargo xtask speed`, which builds this and the program `memory`.
//!
//! Less than three minutes for all of it, on two cores with nothing else running. The last line says how many targets
//! were met; the exit status is 0 if all were.
#![forbid(unsafe_code)]

use clap::Parser;
use ringlog_bench::machine::Machine;
use ringlog_bench::speed::{ROWS, Setting, Sheet};
use std::path::PathBuf;
use std::process::ExitCode;

/// Measures ringlog beside what it must beat: each row's contenders in turns, in one process.
#[derive(Debug, Parser)]
#[command(name = "speed")]
struct Args {
    /// Only the rows whose names hold this, such as `append/2`.
    #[arg(default_value = "")]
    filter: String,
    /// One JSON object instead of the table.
    #[arg(long)]
    json: bool,
    /// The names of the rows, and nothing else.
    #[arg(long)]
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
    let rows: Vec<_> = ROWS.iter().filter(|(name, _)| name.contains(&args.filter)).collect();
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
    let (machine, mut sheet) = (Machine::here(), Sheet::new(args.json));
    sheet.head(&machine);
    let setting = Setting { memory: args.memory.as_deref() };
    for (name, measure) in rows {
        sheet.begin(name);
        measure(&mut sheet, &setting);
    }
    if sheet.end(&machine) { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
