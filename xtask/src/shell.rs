//! Running commands: each is printed before it runs and timed when it is done.

use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// The root of the repository, wherever the command was given.
pub(crate) fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("xtask lies in the repository").to_path_buf()
}

/// Where cargo builds, unless it is told otherwise.
pub(crate) fn target() -> PathBuf {
    std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| root().join("target"), PathBuf::from)
}

/// A cargo command at the root of the repository, from words parted by blanks.
pub(crate) fn cargo(words: &str) -> Command {
    command("cargo", words)
}

/// Any command at the root of the repository, with nothing on standard input.
pub(crate) fn command(program: &str, words: &str) -> Command {
    let mut command = Command::new(program);
    command.args(words.split_whitespace()).current_dir(root()).stdin(Stdio::null());
    command
}

/// Prints the command, runs it and prints its time. Fails when it does.
pub(crate) fn run(command: &mut Command) -> Result<(), String> {
    let line = shown(command);
    println!("$ {line}");
    let start = Instant::now();
    let status = command.status().map_err(|error| format!("cannot run `{line}`: {error}"))?;
    let seconds = start.elapsed().as_secs_f64();
    if status.success() {
        println!("  ok in {seconds:.1} s\n");
        return Ok(());
    }
    Err(format!("`{line}` after {seconds:.1} s: {status}"))
}

/// Whether a command is there and answers, with nothing printed.
pub(crate) fn answers(command: &mut Command) -> bool {
    command.stdout(Stdio::null()).stderr(Stdio::null()).status().is_ok_and(|status| status.success())
}

/// What a command prints, without the end of its last line.
pub(crate) fn output(command: &mut Command) -> Result<String, String> {
    let output = command.stderr(Stdio::inherit()).output();
    let output = output.map_err(|error| format!("cannot run `{}`: {error}", shown(command)))?;
    if !output.status.success() {
        return Err(format!("`{}`: {}", shown(command), output.status));
    }
    Ok(String::from_utf8_lossy(&output.stdout).trim_end().to_string())
}

/// Runs a cargo command that builds the target of this name, and says where its program lies. The
/// command says `--message-format json-render-diagnostics`.
pub(crate) fn program(cargo: &mut Command, target: &str) -> Result<PathBuf, String> {
    let messages = output(cargo)?;
    executable(&messages, target).ok_or_else(|| format!("`{}` names no program `{target}`", shown(cargo)))
}

/// What became of a command that had a time limit.
pub(crate) enum Outcome {
    Succeeded,
    Failed,
    /// It was ended at the limit.
    Hung,
}

/// Runs a command for at most `limit`; what it prints goes to the file `log`.
pub(crate) fn run_within(command: &mut Command, limit: Duration, log: &Path) -> Result<Outcome, String> {
    let io = |error| format!("`{}`: {error}", shown(command));
    let file = fs::File::create(log).map_err(io)?;
    let copy = file.try_clone().map_err(io)?;
    let line = shown(command);
    let io = |error| format!("`{line}`: {error}");
    let mut child = command.stdout(file).stderr(copy).spawn().map_err(io)?;
    let start = Instant::now();
    loop {
        if let Some(status) = child.try_wait().map_err(io)? {
            return Ok(if status.success() { Outcome::Succeeded } else { Outcome::Failed });
        }
        if start.elapsed() > limit {
            child.kill().and_then(|()| child.wait()).map_err(io)?;
            return Ok(Outcome::Hung);
        }
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// The program that cargo says, in `--message-format json`, to have built for the target of this
/// name.
pub(crate) fn executable(messages: &str, target: &str) -> Option<PathBuf> {
    let named = format!("\"name\":\"{target}\"");
    let mut lines = messages.lines().rev().filter(|line| line.contains(&named));
    lines.find_map(|line| line.split_once("\"executable\":\"")?.1.split('"').next()).map(PathBuf::from)
}

/// Copies a folder, without what is built or fetched in it.
pub(crate) fn copy_folder(from: &Path, to: &Path) -> std::io::Result<()> {
    fs::create_dir_all(to)?;
    for entry in fs::read_dir(from)? {
        let entry = entry?;
        let name = entry.file_name();
        if entry.file_type()?.is_file() {
            fs::copy(entry.path(), to.join(name))?;
        } else if !["target", ".git", "node_modules", "corpus"].iter().any(|skipped| name == *skipped) {
            copy_folder(&entry.path(), &to.join(name))?;
        }
    }
    Ok(())
}

/// The command as one would type it: the variables it sets, the program, the arguments.
fn shown(command: &Command) -> String {
    let mut line = String::new();
    for (name, value) in command.get_envs() {
        let value = value.unwrap_or_default().to_string_lossy();
        let _ = write!(line, "{}={} ", name.to_string_lossy(), quoted(&value));
    }
    line.push_str(&command.get_program().to_string_lossy());
    for arg in command.get_args() {
        let _ = write!(line, " {}", quoted(&arg.to_string_lossy()));
    }
    line
}

fn quoted(word: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_=./:+,".contains(c);
    if !word.is_empty() && word.chars().all(plain) { word.into() } else { format!("'{word}'") }
}
