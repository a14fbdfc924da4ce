//! Where a measurement was made, and of what.

use rustix::time::{ClockId, clock_gettime};
use serde::Serialize;
use std::fs;
use std::process::Command;

/// What must be said beside any figure.
#[derive(Debug, Clone, Serialize)]
pub struct Machine {
    /// The processor's name, and how many of it this process may use.
    pub processor: String,
    /// How many threads run at a time.
    pub cores: usize,
    /// Memory of the machine, in bytes.
    pub memory: Option<u64>,
    /// The operating system.
    pub system: String,
    /// The compiler.
    pub toolchain: String,
    /// The commit, with a `+` if the checkout differs from it.
    pub commit: String,
    /// The allocator.
    pub allocator: &'static str,
    /// The command, as it was given.
    pub command: String,
}

impl Machine {
    /// This one.
    pub fn here() -> Self {
        Self {
            processor: field("/proc/cpuinfo", "model name").unwrap_or_else(|| std::env::consts::ARCH.into()),
            cores: crate::timing::cores(),
            memory: field("/proc/meminfo", "MemTotal")
                .and_then(|total| total.trim_end_matches(" kB").parse().ok())
                .map(|kilobytes: u64| kilobytes * 1024),
            system: says("uname", &["-sr"]).unwrap_or_else(|| std::env::consts::OS.into()),
            toolchain: says("rustc", &["--version"]).unwrap_or_else(|| "rustc, unknown".into()),
            commit: commit().unwrap_or_else(|| "unknown".into()),
            allocator: crate::ALLOCATOR_NAME,
            command: command(std::env::args()),
        }
    }

    /// One line.
    pub fn summary(&self) -> String {
        let memory = self.memory.map_or(String::new(), |bytes| format!(", {} GiB", bytes >> 30));
        format!(
            "{} cores of {}{memory}, {}, {}, commit {}, {} allocator",
            self.cores, self.processor, self.system, self.toolchain, self.commit, self.allocator
        )
    }
}

/// The processor time of this process so far, in nanoseconds.
pub fn processor_nanos() -> u64 {
    let time = clock_gettime(ClockId::ProcessCPUTime);
    time.tv_sec as u64 * 1_000_000_000 + time.tv_nsec as u64
}

/// Bytes of this process that are in memory, 0 where the system does not tell.
pub(crate) fn resident() -> u64 {
    let kilobytes = field("/proc/self/status", "VmRSS");
    kilobytes.and_then(|text| text.trim_end_matches(" kB").parse::<u64>().ok()).map_or(0, |kb| kb * 1024)
}

/// The value behind a key in one of the kernel's tables.
fn field(file: &str, key: &str) -> Option<String> {
    let text = fs::read_to_string(file).ok()?;
    let line = text.lines().find(|line| line.starts_with(key))?;
    Some(line.split_once(':')?.1.trim().to_owned())
}

/// What a program prints, if it is there and succeeds.
fn says(program: &str, words: &[&str]) -> Option<String> {
    let output = Command::new(program).args(words).output().ok().filter(|output| output.status.success())?;
    Some(String::from_utf8_lossy(&output.stdout).trim().to_owned())
}

fn commit() -> Option<String> {
    let folder = ["-C", env!("CARGO_MANIFEST_DIR")];
    let commit = says("git", &[&folder[..], &["rev-parse", "--short", "HEAD"]].concat())?;
    let changed = says("git", &[&folder[..], &["status", "--porcelain", "--untracked-files=no"]].concat())?;
    Some(format!("{commit}{}", if changed.is_empty() { "" } else { "+" }))
}

/// The program's name without the folder and the hash that cargo gives it, and its arguments.
fn command(mut words: impl Iterator<Item = String>) -> String {
    let program = words.next().unwrap_or_default();
    let name = program.rsplit(std::path::MAIN_SEPARATOR).next().unwrap_or_default();
    let name = name.rsplit_once('-').map_or(name, |(name, _)| name);
    let words: Vec<_> = words.filter(|word| word != "--bench").collect();
    format!("cargo bench --bench {name} -- {}", words.join(" ")).trim_end_matches([' ', '-']).to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_command_is_one_that_can_be_given_again() {
        let of = |words: &[&str]| command(words.iter().map(ToString::to_string));
        assert_eq!(
            of(&["target/release/deps/load-0f", "--bench", "--json"]),
            "cargo bench --bench load -- --json"
        );
        assert_eq!(of(&["load-0f"]), "cargo bench --bench load");
    }
}
