//! Where a measurement was made, and of what.

use rustix::time::{ClockId, clock_gettime};
use std::fs;
use std::process::Command;

/// What must be said beside any figure, each with its name: the machine, the system, the toolchain,
/// the commit, and the command as it was given.
pub fn machine() -> [(&'static str, String); 5] {
    let processor = field("/proc/cpuinfo", "model name").unwrap_or_else(|| std::env::consts::ARCH.into());
    let memory = kilobytes("/proc/meminfo", "MemTotal") >> 20;
    let unknown = || "unknown".to_owned();
    let rustc = says("rustc", &["--version"]).unwrap_or_else(unknown);
    [
        ("machine", format!("{} cores of {processor}, {memory} GiB", crate::timing::cores())),
        ("system", says("uname", &["-sr"]).unwrap_or_else(unknown)),
        ("toolchain", format!("{rustc}, {} allocator", crate::ALLOCATOR_NAME)),
        ("commit", commit().unwrap_or_else(unknown)),
        ("command", command(std::env::args())),
    ]
}

/// The machine in one line, without the command.
pub fn summary() -> String {
    let [machine, system, toolchain, commit, _] = machine().map(|(_, value)| value);
    format!("{machine}, {system}, {toolchain}, commit {commit}")
}

/// The processor time of this process so far, in nanoseconds.
pub fn processor_nanos() -> u64 {
    let time = clock_gettime(ClockId::ProcessCPUTime);
    time.tv_sec as u64 * 1_000_000_000 + time.tv_nsec as u64
}

/// Bytes of this process that are in memory, 0 where the system does not tell.
pub(crate) fn resident() -> u64 {
    kilobytes("/proc/self/status", "VmRSS") * 1024
}

fn kilobytes(file: &str, key: &str) -> u64 {
    field(file, key).and_then(|text| text.trim_end_matches(" kB").parse().ok()).unwrap_or(0)
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

/// With a `+` if the checkout differs from it.
fn commit() -> Option<String> {
    says("git", &["-C", env!("CARGO_MANIFEST_DIR"), "describe", "--always", "--exclude=*", "--dirty=+"])
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
        let given = of(&["target/release/deps/load-0f", "--bench", "--json"]);
        assert_eq!(given, "cargo bench --bench load -- --json");
        assert_eq!(of(&["load-0f"]), "cargo bench --bench load");
    }
}
