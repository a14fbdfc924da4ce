//! `cargo xtask speed`: the table of targets, measured.

use crate::shell;
use std::path::PathBuf;

/// Builds the two programs that the table takes, then runs the one that prints it.
pub(crate) fn run(args: &[String]) -> Result<(), String> {
    let [speed, memory] = build(["speed", "memory"])?;
    let mut table = shell::command(&speed.to_string_lossy(), "");
    let status = table.arg("--memory").arg(&memory).args(args).status();
    let status = status.map_err(|error| format!("{}: {error}", speed.display()))?;
    if status.success() { Ok(()) } else { Err("not every target is met: see above".into()) }
}

/// Builds benches, and says where the programs lie.
fn build<const N: usize>(names: [&str; N]) -> Result<[PathBuf; N], String> {
    let mut cargo = shell::cargo(
        "bench --no-run --quiet --package ringlog-bench --message-format json-render-diagnostics",
    );
    for name in names {
        cargo.args(["--bench", name]);
    }
    let messages = shell::output(&mut cargo)?;
    let programs: Vec<PathBuf> = names.iter().filter_map(|name| shell::executable(&messages, name)).collect();
    programs.try_into().map_err(|_| "cargo does not name every program".into())
}
