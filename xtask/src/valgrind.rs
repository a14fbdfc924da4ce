//! What valgrind tells: `cargo xtask instructions`, a gate on how many instructions an operation
//! takes, and the memory check of `cargo xtask sanitize`. Both are skipped, and loudly, without
//! valgrind.

use crate::shell;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// Instructions an operation may take, as counted with [`COMPILER`]. A change that is meant to cost
/// or save some changes these, and says so; `cargo xtask instructions` prints what it counts.
const BUDGETS: &[(&str, f64)] = &[
    ("append", 271.0),
    ("batch of 16", 2_720.0),
    ("read 100", 5_970.0),
    ("pull_json 100", 33_870.0),
    ("has_seen absent", 138.0),
    ("claim and complete", 1_190.0),
];

/// How far a count may lie from its budget, up or down: copies of memory differ from one C library
/// to the next.
const TOLERANCE: f64 = 0.04;

/// Other compilers make other instructions: with these the counts are shown and nothing fails.
const COMPILER: &str = "rustc 1.95.";

/// Each operation is run so many times, and so many times more: the difference is its own.
///
/// So many that chance hardly counts: a log's hash keys are random, and so is how many ids its
/// filter lets through. Over 1,000 look-ups that moves the mean by 2 % (one standard deviation),
/// over 5,000 by less than 1 %.
const RUNS: (u32, u32) = (200, 5_200);

const MISSING: &str = "no valgrind: install the package `valgrind`";

/// Counts each operation's instructions and compares them with their budgets.
pub(crate) fn instructions() -> Result<(), String> {
    if !is_there() {
        println!("!! SKIPPED: no instructions counted: {MISSING}\n");
        return Ok(());
    }
    let program = built("bench --package ringlog-bench --bench instructions --no-run", "instructions")?;
    let compiler = shell::output(&mut shell::command("rustc", "--version"))?;
    let gate = compiler.starts_with(COMPILER);
    let mut outside = Vec::new();
    println!("  instructions of   counted    budget");
    for (operation, budget) in BUDGETS {
        let (few, many) = (count(&program, operation, RUNS.0)?, count(&program, operation, RUNS.1)?);
        let each = (many - few) as f64 / f64::from(RUNS.1 - RUNS.0);
        println!("  {operation:<18}{each:>7.0}   {budget:>7.0}");
        if (each / budget - 1.0).abs() > TOLERANCE {
            outside.push(*operation);
        }
    }
    if !gate {
        println!("!! NOT COMPARED: the budgets are those of {COMPILER}x, this is {compiler}");
        return Ok(());
    }
    if outside.is_empty() {
        return Ok(());
    }
    let (names, percent) = (outside.join(", "), TOLERANCE * 100.0);
    Err(format!("more than {percent:.0} % off the budget of xtask/src/valgrind.rs: {names}"))
}

/// All instructions of a run with `turns` of an operation.
fn count(program: &Path, operation: &str, turns: u32) -> Result<i64, String> {
    let mut command = Command::new("valgrind");
    command.args(["--tool=callgrind", "--callgrind-out-file=/dev/null"]).arg(program);
    command.arg(operation).arg(turns.to_string()).stdin(Stdio::null());
    let output = command.output().map_err(|error| format!("valgrind: {error}"))?;
    let stderr = String::from_utf8_lossy(&output.stderr);
    if !output.status.success() {
        return Err(format!("valgrind on `{operation}`: {}\n{stderr}", output.status));
    }
    let collected = stderr.lines().find_map(|line| line.split_once("Collected : ")?.1.trim().parse().ok());
    collected.ok_or_else(|| format!("callgrind names no count:\n{stderr}"))
}

/// A short replay under memcheck: nothing is read that was not written, nothing is lost.
pub(crate) fn memcheck() -> Result<(), String> {
    if !is_there() {
        println!("!! SKIPPED: no memory check: {MISSING}\n");
        return Ok(());
    }
    let replay = built("build --release --package ringlog-replay", "ringlog-replay")?;
    // A thread's own start and what the epoch's list of threads holds by tagged pointers are
    // "possibly" lost.
    let mut command = shell::command(
        "valgrind",
        "--quiet --error-exitcode=9 --leak-check=full --show-leak-kinds=definite,indirect \
         --errors-for-leak-kinds=definite,indirect",
    );
    shell::run(command.arg(replay).args(["--requests", "60", "--capacity", "100"]))
}

fn built(words: &str, target: &str) -> Result<PathBuf, String> {
    let words = format!("{words} --quiet --message-format json-render-diagnostics");
    shell::program(&mut shell::cargo(&words), target)
}

fn is_there() -> bool {
    shell::answers(&mut shell::command("valgrind", "--version"))
}
