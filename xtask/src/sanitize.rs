//! `cargo xtask sanitize`: the multi-threaded tests under the address sanitizer (with its leak
//! check), the program `tests/races.rs` under the thread sanitizer and under Miri, the ring's own
//! tests under Miri, and a short replay under valgrind.

use crate::{shell, valgrind};

/// Tests whose threads share, lap and give back memory.
const ADDRESS: &str = "--test threads --test history --test follow --test push --test fuzz_corpus";

/// The sanitizers need a target to be named, so that build scripts go without.
const TARGET: &str = "x86_64-unknown-linux-gnu";

/// Runs what the toolchains here can; says loudly what they cannot.
pub(crate) fn run() -> Result<(), String> {
    if missing().is_none() {
        test("address", "-Zsanitizer=address", ADDRESS, ("ASAN_OPTIONS", "detect_leaks=1"))?;
    }
    miri()?;
    short()
}

/// The ring's tests, but for the long one with many threads, where every access is checked for what
/// its pointer may do; then `tests/races.rs`, whose threads Miri runs in another order, and with
/// other outcomes of its weak memory, for each seed: some 75 s a seed.
///
/// Tree borrows and permissive provenance: `crossbeam-epoch` keeps tags in its pointers, and lists
/// in its locals. It also leaves what waits for the epoch to the end of the process. The light and
/// heavy fences are plain ones: Miri knows no `membarrier`.
fn miri() -> Result<(), String> {
    const SEEDS: &str = "-Zmiri-many-seeds=0..3";
    if !shell::answers(&mut shell::command("rustup", "run nightly cargo miri --version")) {
        println!("!! SKIPPED: no Miri here: `rustup component add miri rust-src --toolchain nightly`\n");
        return Ok(());
    }
    for (tests, seeds) in [("--lib -- ring::tests --skip held_writers", ""), ("--test races", SEEDS)] {
        let words = format!("run nightly cargo miri test --quiet --package ringlog {tests}");
        let flags = "-Zmiri-tree-borrows -Zmiri-permissive-provenance -Zmiri-ignore-leaks \
                     -Zmiri-disable-isolation";
        let mut command = shell::command("rustup", &words);
        command.env("MIRIFLAGS", format!("{flags} {seeds}").trim_end());
        command.env("CARGO_TARGET_DIR", shell::target().join("miri"));
        shell::run(&mut command)?;
    }
    Ok(())
}

/// What `ci` has time for: it runs the fuzz targets under the address sanitizer anyway, one of them
/// with threads.
pub(crate) fn short() -> Result<(), String> {
    if let Some(missing) = missing() {
        println!("!! SKIPPED: no sanitizers here: {missing}\n");
    } else {
        // The standard library comes compiled without it. There are no suppressions: what the
        // sanitizer cannot judge, `tests/races.rs` does not do, and says why.
        let flags = "-Zsanitizer=thread -Cunsafe-allow-abi-mismatch=sanitizer";
        test("thread", flags, "--test races", ("TSAN_OPTIONS", "halt_on_error=1"))?;
    }
    valgrind::memcheck()
}

fn missing() -> Option<&'static str> {
    if !cfg!(all(target_arch = "x86_64", target_os = "linux")) {
        return Some("they are run on x86-64 Linux only");
    }
    let nightly = shell::answers(&mut shell::command("rustup", "run nightly cargo --version"));
    (!nightly).then_some("no nightly toolchain: `rustup toolchain install nightly`")
}

fn test(name: &str, flags: &str, tests: &str, options: (&str, &str)) -> Result<(), String> {
    let words = format!("run nightly cargo test --quiet --target {TARGET} {tests}");
    let mut command = shell::command("rustup", &words);
    let target = shell::target().join(format!("sanitize-{name}"));
    command.env("RUSTFLAGS", flags).env("CARGO_TARGET_DIR", target).env(options.0, options.1);
    shell::run(&mut command)
}
