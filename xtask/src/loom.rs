//! `cargo xtask loom`: the models of the protocols, on the sources that ship.

use crate::shell;
use std::path::PathBuf;
use std::process::Command;

/// Turns every primitive behind `src/sync/`, and those of `crossbeam-epoch`, into loom's.
const FLAGS: &str = "--cfg loom --cfg crossbeam_loom";

/// Cargo's own variable for this target. `RUSTFLAGS` takes its place, so its flags are added.
const TARGET_FLAGS: &str = "CARGO_TARGET_X86_64_UNKNOWN_LINUX_GNU_RUSTFLAGS";

/// Set, it makes each model take one more preemption.
const DEEP: &str = "RINGLOG_LOOM_DEEP";

pub(crate) fn run(args: &[String]) -> Result<(), String> {
    let mut deep = false;
    let mut filter = None;
    for arg in args {
        match arg.as_str() {
            "--deep" => deep = true,
            name if !name.starts_with('-') && filter.is_none() => filter = Some(name),
            other => return Err(format!("loom takes [--deep] [FILTER], not `{other}`")),
        }
    }
    let mut tests =
        with_loom(shell::cargo("test --release --package loom-tests --lib -- --nocapture --test-threads 2"));
    if deep {
        tests.env(DEEP, "1");
    }
    shell::run(tests.args(filter))
}

/// Sets what every build of the models needs. Their own target directory keeps ordinary builds
/// warm.
pub(crate) fn with_loom(mut command: Command) -> Command {
    let flags = std::env::var(TARGET_FLAGS).unwrap_or_default();
    command.env("RUSTFLAGS", format!("{FLAGS} {flags}").trim_end()).env("CARGO_TARGET_DIR", target());
    command
}

/// Where the models are built.
pub(crate) fn target() -> PathBuf {
    shell::target().join("loom")
}
