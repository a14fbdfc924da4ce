//! `cargo xtask ci`: everything that must hold before a change lands, cheapest first.

use crate::{check, faults, fuzz, loom, package, sanitize, shell, valgrind};
use std::fs;
use std::time::Instant;

/// The README tells a newcomer to run exactly this, and so does CI.
const TESTS: &str = "cargo test --workspace";

/// Two seconds of everything that the load generator has. It fails if an event is lost without its
/// reader being told.
const LOAD: &str = "bench --bench load -- --peers ringlog,mutex,broadcast,pylon --turns 1 --duration 500ms \
                    --writers 2 --pullers 1 --followers 1 --slow 1 --suspend --batch 4 --window 2000";

/// Stops at the first check that fails.
pub(crate) fn run() -> Result<(), String> {
    let start = Instant::now();
    let cargo = |words: &str| shell::run(&mut shell::cargo(words));

    check::style()?;
    readme_names_the_tests()?;
    cargo(TESTS.strip_prefix("cargo ").expect("a cargo command"))?;
    cargo("test --package ringlog --all-features --lib")?;
    cargo("test --package ringlog --all-features --doc")?;
    cargo("test --package ringlog --all-features --test stream --test compacted")?;
    cargo("build --release --package ringlog --examples")?;
    cargo("run --release --package ringlog-replay")?;
    for example in ["follow", "async_follow"] {
        cargo(&format!("run --release --example {example}"))?;
    }
    cargo("build --release --package ringlog-server")?;
    release_has_no_crash_points()?;
    cargo("bench --no-run")?;
    for allocator in ["mimalloc", "jemalloc"] {
        // All but `memory`, which has an allocator of its own.
        cargo(&format!(
            "check --package ringlog-bench --bench micro --bench speed --bench load --features {allocator}"
        ))?;
    }
    package::run()?;
    cargo(LOAD)?;
    loom::run(&[])?;
    faults::after_the_models()?;
    valgrind::instructions()?;
    sanitize::short()?;
    fuzz::short(10)?;

    println!("everything holds, in {:.0} s", start.elapsed().as_secs_f64());
    Ok(())
}

/// What the tests end the server with must not be in what people run.
fn release_has_no_crash_points() -> Result<(), String> {
    let server =
        shell::target().join("release").join(format!("ringlog-server{}", std::env::consts::EXE_SUFFIX));
    let bytes = fs::read(&server).map_err(|error| format!("{}: {error}", server.display()))?;
    let variable = b"RINGLOG_TEST_CRASH_AT";
    if bytes.windows(variable.len()).any(|window| window == variable) {
        return Err(format!("{} can be made to crash by an environment variable", server.display()));
    }
    Ok(())
}

/// The command that is run here and the one that the README gives must not drift apart.
fn readme_names_the_tests() -> Result<(), String> {
    let readme =
        fs::read_to_string(shell::root().join("README.md")).map_err(|error| format!("README.md: {error}"))?;
    if readme.lines().any(|line| line.trim() == TESTS) {
        return Ok(());
    }
    Err(format!("README.md has no line `{TESTS}`, which is what CI runs as the test command"))
}
