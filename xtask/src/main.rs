//! The daily verbs of this repository, with nothing to install: `cargo xtask VERB`.
//!
//! `cargo xtask help` lists them; `CONTRIBUTING.md` says what each proves and how long it takes.
#![forbid(unsafe_code)]

mod check;
mod ci;
mod cluster;
mod faults;
mod fuzz;
mod loom;
mod mutants;
mod package;
mod sanitize;
mod shell;
mod speed;
mod valgrind;

use std::process::ExitCode;

const HELP: &str = "\
Usage: cargo xtask VERB

  check                              the fast lane: format, lints, docs, unit tests, comment width
  ci                                 everything that must hold before a change lands (.ci/run calls it)
  loom [--deep] [FILTER]             the models of the protocols; --deep: one more preemption each
  faults [FILTER]                    breaks the code on purpose, each time expects its model to fail
  mutants [PATHS]                    small changes of the code that no test sees (cargo-mutants)
  fuzz [TARGET] [--seconds N]        fuzzes one target, or each in turn (60 s; nightly and cargo-fuzz)
  sanitize                           threads under the address and thread sanitizers (nightly), and valgrind
  cluster [storm] [--minutes N]      a storm of kills, stops and pauses over a cluster (10 minutes)
  cluster speed [--quick]            the speed of a cluster, measured (four minutes; --quick: one)
  cluster up [--debug]               three NATS servers and three nodes to try, until Ctrl-C
  package                            features, oldest compiler and dependencies, licences, API, package contents
  instructions                       counts the instructions of each operation against its budget (valgrind)
  speed [--json] [FILTER]            the table of targets, measured (two minutes; wants a quiet machine)
  help                               this text
";

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    match dispatch(&args) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("\nxtask failed: {error}");
            ExitCode::FAILURE
        }
    }
}

fn dispatch(args: &[String]) -> Result<(), String> {
    let Some((verb, rest)) = args.split_first() else {
        return Err(format!("no verb given\n\n{HELP}"));
    };
    match verb.as_str() {
        "check" => no_more(rest).and_then(|()| check::run()),
        "ci" => no_more(rest).and_then(|()| ci::run()),
        "loom" => loom::run(rest),
        "faults" => faults::run(rest),
        "mutants" => mutants::run(rest),
        "fuzz" => fuzz::run(rest),
        "sanitize" => no_more(rest).and_then(|()| sanitize::run()),
        "cluster" => cluster::run(rest),
        "package" => no_more(rest).and_then(|()| package::run()),
        "instructions" => no_more(rest).and_then(|()| valgrind::instructions()),
        "speed" => speed::run(rest),
        "help" | "--help" | "-h" => {
            print!("{HELP}");
            Ok(())
        }
        other => Err(format!("no verb `{other}`\n\n{HELP}")),
    }
}

/// Refuses arguments that a verb does not know, instead of running something else than was asked.
fn no_more(args: &[String]) -> Result<(), String> {
    match args.first() {
        None => Ok(()),
        Some(extra) => Err(format!("unexpected argument `{extra}`\n\n{HELP}")),
    }
}
