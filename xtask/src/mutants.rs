//! `cargo xtask mutants`: small changes of the code, one at a time, each of which a test should
//! see.
//!
//! What needs to be known is in `.cargo/mutants.toml`; what survives, and why, in
//! `src/docs/proof.md`.

use crate::shell;

/// The library's files that are held to it unless others are named.
const PATHS: &[&str] = &[
    "src/ring/*.rs",
    "src/dedup/*.rs",
    "src/wait.rs",
    "src/follow.rs",
    "src/push.rs",
    "src/append/layout.rs",
    "src/events.rs",
    "src/clock.rs",
    "src/cursor.rs",
    "src/query.rs",
    "src/json/write.rs",
    "src/append/spill.rs",
    "src/json/read.rs",
];

/// The unit tests first: seconds a mutant. All tests but the longest then, for those that these let
/// through.
const LIBRARY: [&str; 2] = [
    "--package ringlog --timeout 20 -- --lib -- --skip held_writers",
    "--package ringlog --timeout 120 --iterate -- --lib --test semantics --test filter --test restore \
     --test fuzz_corpus --test follow --test push --test byte_bound --test foreign_code --test memory",
];

const SERVER: [&str; 1] =
    ["--package ringlog-axum --package ringlog-server --timeout 300 -- --lib --test store --test api"];

/// Runs the mutants of these files. Fails if one survives, as those do that proof.md argues.
pub(crate) fn run(paths: &[String]) -> Result<(), String> {
    if let Some(option) = paths.iter().find(|path| path.starts_with('-')) {
        return Err(format!("mutants takes PATHS of source files, not `{option}`"));
    }
    if !shell::answers(&mut shell::cargo("mutants --version")) {
        println!("!! SKIPPED: no mutants here: `cargo install cargo-mutants --locked`\n");
        return Ok(());
    }
    let given: Vec<&str> = paths.iter().map(String::as_str).collect();
    let of = |server: bool| given.iter().copied().filter(move |path| is_served(path) == server);
    let library: Vec<&str> = if given.is_empty() { PATHS.to_vec() } else { of(false).collect() };
    let mut survived = stages(&library, &LIBRARY);
    survived |= stages(&of(true).collect::<Vec<_>>(), &SERVER);
    if survived {
        Err("mutants survived: see above, and the table in src/docs/proof.md".into())
    } else {
        Ok(())
    }
}

/// Whether a file is of the server or its routes.
fn is_served(path: &str) -> bool {
    ["server/", "axum/"].iter().any(|folder| path.starts_with(folder))
}

/// Each stage tries what those before it let through. Whether anything is left.
fn stages(paths: &[&str], stages: &[&str]) -> bool {
    let mut survived = false;
    for stage in stages.iter().filter(|_| !paths.is_empty()) {
        let mut command = shell::cargo("mutants --baseline skip --no-shuffle --output");
        command.arg(shell::target());
        command.args(paths.iter().flat_map(|path| ["--file", path])).args(stage.split_whitespace());
        // Built often and run once: without optimisation, and with less of each property.
        command.env("CARGO_PROFILE_TEST_OPT_LEVEL", "0").env("CARGO_PROFILE_TEST_DEBUG", "0");
        command.env("PROPTEST_CASES", "64").env("CARGO_TARGET_DIR", shell::target().join("mutants"));
        survived = shell::run(&mut command).is_err();
        if !survived {
            break;
        }
    }
    survived
}
