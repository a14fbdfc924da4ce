//! `cargo xtask check`: the fast lane, for every few minutes. `ci` begins with it.

use crate::shell;
use std::fmt::Write as _;
use std::fs;

/// Comments wrap here. rustfmt leaves them alone.
const WIDTH: usize = 100;

/// Format, lints, docs and unit tests: two minutes when everything is built.
pub(crate) fn run() -> Result<(), String> {
    style()?;
    shell::run(&mut shell::cargo("test --workspace --lib"))
}

/// What needs no test to run.
pub(crate) fn style() -> Result<(), String> {
    let cargo = |words: &str| shell::run(&mut shell::cargo(words));
    cargo("fmt --all -- --check")?;
    cargo("fmt --manifest-path fuzz/Cargo.toml -- --check")?;
    comments()?;
    cargo("clippy --workspace --all-targets -- -D warnings")?;
    cargo("clippy --package ringlog --all-targets --all-features -- -D warnings")?;
    cargo("clippy --package ringlog-server --no-default-features --all-targets -- -D warnings")?;
    cargo("clippy --package ringlog-axum --all-targets --all-features -- -D warnings")?;
    docs("doc --package ringlog --no-deps --all-features")?;
    docs("doc --package ringlog-axum --no-deps --all-features")?;
    docs("doc --workspace --no-deps --document-private-items")
}

fn docs(words: &str) -> Result<(), String> {
    shell::run(shell::cargo(words).env("RUSTDOCFLAGS", "-D warnings"))
}

/// No line of a comment is too long, but for what cannot be wrapped.
fn comments() -> Result<(), String> {
    if !shell::answers(&mut shell::command("git", "rev-parse HEAD")) {
        println!("!! SKIPPED: no git checkout here: the width of comments is not looked at\n");
        return Ok(());
    }
    let files = shell::output(&mut shell::command("git", "ls-files *.rs"))?;
    let mut long = String::new();
    for file in files.lines() {
        let path = shell::root().join(file);
        let text = fs::read_to_string(&path).map_err(|error| format!("{file}: {error}"))?;
        for (number, line) in (1..).zip(text.lines()).filter(|(_, line)| is_too_long(line)) {
            let _ = write!(long, "\n  {file}:{number}: {line}");
        }
    }
    if long.is_empty() { Ok(()) } else { Err(format!("comments of more than {WIDTH} columns:{long}")) }
}

/// Tables and links cannot be wrapped.
fn is_too_long(line: &str) -> bool {
    let line = line.trim_end();
    let Some(comment) = line.trim_start().strip_prefix("//") else { return false };
    let text = comment.trim_start_matches(['/', '!']).trim_start();
    line.chars().count() > WIDTH && !text.starts_with(['|', '[']) && !text.contains("://")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn comments_are_measured_and_code_tables_and_links_are_not() {
        let words = "word ".repeat(20);
        for comment in [format!("// {words}"), format!("    /// {words}"), format!("//! é{words}")] {
            assert!(is_too_long(&comment), "{comment}");
        }
        for other in [
            format!("// {}", &words[..90]),
            format!("let a = \"{words}\";"),
            format!("//! | {words} |"),
            format!("// https://example.org/{words}"),
        ] {
            assert!(!is_too_long(&other), "{other}");
        }
    }
}
