//! The table of targets, measured: `cargo xtask speed`, which builds this and the program `memory`.
//!
//! Less than three minutes for all of it, on two cores with nothing else running. The last line
//! says how many targets were met; the exit status is 0 if all were.
#![forbid(unsafe_code)]

use clap::Parser;
use ringlog_bench::machine::Machine;
use ringlog_bench::speed::{Format, ROWS, Setting, Sheet};
use std::path::PathBuf;
use std::process::ExitCode;

/// Measures ringlog beside what it must beat: each row's contenders in turns, in one process.
#[expect(clippy::struct_excessive_bools, reason = "flags of a command line")]
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
    /// A table in Markdown, to be put into a document.
    #[arg(long, conflicts_with = "json")]
    markdown: bool,
    /// The names of the rows, and nothing else.
    #[arg(long, conflicts_with_all = ["json", "markdown"])]
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
    let format = match (args.json, args.markdown) {
        (true, _) => Format::Json,
        (_, true) => Format::Markdown,
        _ => Format::Text,
    };
    let (machine, mut sheet) = (Machine::here(), Sheet::new(format));
    sheet.head(&machine);
    let setting = Setting { memory: args.memory.as_deref() };
    for (name, measure) in rows {
        sheet.begin(name);
        measure(&mut sheet, &setting);
    }
    if sheet.end(&machine) { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
