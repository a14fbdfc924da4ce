//! `cargo xtask package`: what a published library is held to besides its tests.
//!
//! Feature combinations, the oldest compiler and the oldest dependencies that it names, licences,
//! the public API against the last release, and what the package holds. What needs a tool or a
//! toolchain that is not there is skipped, and says so.

use crate::shell;
use std::fs;
use std::path::Path;

const LIBRARY: &str = "ringlog";

/// Its routes, for axum apps.
const ROUTES: &str = "ringlog-axum";

/// All features, each alone and together. With three of them that needs no tool.
const FEATURES: [&str; 8] = [
    "",
    "history",
    "profile",
    "stream",
    "history,profile",
    "history,stream",
    "profile,stream",
    "history,profile,stream",
];

/// The compiler that `rust-version` names.
const OLDEST_COMPILER: &str = "1.88";

/// Where the package's own files are; nothing else may be in it.
const PACKAGED: [&str; 9] = [
    "src/",
    "README.md",
    "CHANGELOG.md",
    "LICENSE-APACHE",
    "LICENSE-MIT",
    "Cargo.toml",
    "Cargo.toml.orig",
    "Cargo.lock",
    ".cargo_vcs_info.json",
];

pub(crate) fn run() -> Result<(), String> {
    for features in FEATURES {
        check(LIBRARY, &format!("--no-default-features --features={features}"))?;
    }
    for features in ["", "conformance"] {
        check(ROUTES, &format!("--features={features}"))?;
    }
    names_its_compiler()?;
    oldest_compiler()?;
    oldest_dependencies()?;
    licences()?;
    api()?;
    contents(LIBRARY)?;
    shell::run(&mut shell::cargo(&format!("package --quiet --package {LIBRARY} --allow-dirty")))?;
    // It is built from its own contents once the library is in the registry.
    contents(ROUTES)
}

fn check(package: &str, words: &str) -> Result<(), String> {
    shell::run(&mut shell::cargo(&format!("check --quiet --package {package} {words}")))
}

/// The compiler that is tried here is the one that the manifest names.
fn names_its_compiler() -> Result<(), String> {
    let manifest = shell::root().join("Cargo.toml");
    let text = fs::read_to_string(&manifest).map_err(|error| format!("{}: {error}", manifest.display()))?;
    let line = format!("rust-version = \"{OLDEST_COMPILER}\"");
    if text.lines().any(|found| found == line) { Ok(()) } else { Err(format!("Cargo.toml has no `{line}`")) }
}

fn oldest_compiler() -> Result<(), String> {
    let run = format!("run {OLDEST_COMPILER} cargo");
    if !shell::answers(&mut shell::command("rustup", &format!("{run} --version"))) {
        skipped("the oldest compiler", &format!("rustup toolchain install {OLDEST_COMPILER}"));
        return Ok(());
    }
    let mut command = shell::command("rustup", &format!("{run} check --package {LIBRARY} --all-features"));
    shell::run(command.env("CARGO_TARGET_DIR", shell::target().join("oldest")))
}

/// Builds the library with the oldest version of each dependency that its manifest allows.
fn oldest_dependencies() -> Result<(), String> {
    if !shell::answers(&mut shell::command("rustup", "run nightly cargo --version")) {
        skipped("the oldest dependencies", "rustup toolchain install nightly");
        return Ok(());
    }
    let copy = shell::target().join("oldest-dependencies");
    library_alone(&copy).map_err(|error| format!("{}: {error}", copy.display()))?;
    let cargo = |words: &str| {
        let mut command = shell::command("rustup", &format!("run nightly cargo {words}"));
        command.current_dir(&copy).env("CARGO_TARGET_DIR", copy.join("target"));
        shell::run(&mut command)
    };
    cargo("update --quiet -Z direct-minimal-versions")?;
    cargo("check --quiet --all-features")
}

/// A copy of the library without the other members, nor what only its tests need.
fn library_alone(copy: &Path) -> std::io::Result<()> {
    let root = shell::root();
    let text = fs::read_to_string(root.join("Cargo.toml"))?;
    let mut kept = String::new();
    let mut is_kept = true;
    for line in text.lines() {
        if line.starts_with('[') {
            is_kept = !["[dev-dependencies]", "[[example]]", "[[test]]"].contains(&line);
        }
        let is_member = ["members", "default-members"].iter().any(|key| line.starts_with(key));
        if is_kept && !is_member {
            kept.push_str(line);
            kept.push('\n');
        }
    }
    if copy.join("src").exists() {
        fs::remove_dir_all(copy.join("src"))?;
    }
    shell::copy_folder(&root.join("src"), &copy.join("src"))?;
    fs::copy(root.join("README.md"), copy.join("README.md"))?;
    fs::write(copy.join("Cargo.toml"), kept)
}

fn licences() -> Result<(), String> {
    if !shell::answers(&mut shell::cargo("deny --version")) {
        skipped("licences and sources of dependencies", "cargo install cargo-deny --locked");
        return Ok(());
    }
    // Advisories need a database from the network, and change without a change here.
    shell::run(&mut shell::cargo("deny --all-features check licenses bans sources"))
}

fn api() -> Result<(), String> {
    let has_release = !shell::output(&mut shell::command("git", "tag --list v*"))?.is_empty();
    if !has_release {
        println!("!! SKIPPED: the public API against the last release: there is none yet\n");
        return Ok(());
    }
    if !shell::answers(&mut shell::cargo("semver-checks --version")) {
        skipped("the public API against the last release", "cargo install cargo-semver-checks --locked");
        return Ok(());
    }
    shell::run(&mut shell::cargo(&format!("semver-checks --package {LIBRARY}")))
}

/// Looks at what a package holds.
fn contents(package: &str) -> Result<(), String> {
    let package = format!("package --quiet --package {package} --allow-dirty");
    let listed = shell::output(&mut shell::cargo(&format!("{package} --list")))?;
    let foreign = |file: &&str| {
        !PACKAGED.iter().any(|known| match known.strip_suffix('/') {
            Some(_) => file.starts_with(known),
            None => file == known,
        })
    };
    let foreign: Vec<_> = listed.lines().filter(foreign).collect();
    if !foreign.is_empty() {
        return Err(format!("the package has files that are none of its own: {}", foreign.join(", ")));
    }
    Ok(())
}

fn skipped(what: &str, install: &str) {
    println!("!! SKIPPED: {what}: `{install}`\n");
}
