//! The load generator: see `ringlog_bench::load`, and `cargo bench --bench load -- --help`.
#![forbid(unsafe_code)]

use clap::Parser;
use ringlog_bench::load::{Args, main as load};
use std::process::ExitCode;

fn main() -> ExitCode {
    load(&Args::parse())
}
