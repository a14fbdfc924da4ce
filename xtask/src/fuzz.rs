//! `cargo xtask fuzz`: the fuzz targets, with what only nightly and cargo-fuzz can do.

use crate::shell;
use std::fs;
use std::path::Path;

/// Runs the targets; without nightly or cargo-fuzz this is an error that says what to install.
pub(crate) fn run(args: &[String]) -> Result<(), String> {
    let mut seconds = 60;
    let mut chosen = None;
    let mut args = args.iter();
    while let Some(arg) = args.next() {
        match arg.as_str() {
            "--seconds" => {
                let number = args.next().and_then(|number| number.parse().ok());
                seconds = number.ok_or("--seconds takes a number")?;
            }
            name if !name.starts_with('-') && chosen.is_none() => chosen = Some(name),
            other => return Err(format!("fuzz takes [TARGET] [--seconds N], not `{other}`")),
        }
    }
    if let Some(missing) = missing() {
        return Err(missing.into());
    }
    let targets = targets()?;
    if let Some(name) = chosen.filter(|name| !targets.iter().any(|target| target == name)) {
        return Err(format!("no target `{name}`: there are {}", targets.join(", ")));
    }
    for target in targets.iter().filter(|target| chosen.is_none_or(|name| name == *target)) {
        fuzz(target, seconds)?;
    }
    Ok(())
}

/// The short run of each target for `ci`: skipped, and loudly, where the tools are not there.
pub(crate) fn short(seconds: u32) -> Result<(), String> {
    if let Some(missing) = missing() {
        println!("!! SKIPPED: no fuzzing here: {missing}\n");
        return Ok(());
    }
    targets()?.iter().try_for_each(|target| fuzz(target, seconds))
}

/// What has to be installed first, if anything.
fn missing() -> Option<&'static str> {
    if !shell::answers(&mut shell::command("rustup", "run nightly cargo --version")) {
        return Some("no nightly toolchain: `rustup toolchain install nightly`");
    }
    if !shell::answers(&mut shell::command("rustup", "run nightly cargo fuzz --version")) {
        return Some("no cargo-fuzz: `cargo install cargo-fuzz`");
    }
    None
}

/// The targets are the programs of `fuzz/fuzz_targets/`.
fn targets() -> Result<Vec<String>, String> {
    let folder = shell::root().join("fuzz/fuzz_targets");
    let files = fs::read_dir(&folder).map_err(|error| format!("{}: {error}", folder.display()))?;
    let mut names: Vec<String> = files
        .filter_map(Result::ok)
        .filter_map(|file| Some(file.file_name().to_str()?.strip_suffix(".rs")?.to_string()))
        .collect();
    names.sort();
    Ok(names)
}

/// Fuzzes one target. New inputs go below `fuzz/target/`; `fuzz/corpus/` is only read, so that a
/// run leaves the repository as it was. An input that fails is left in `fuzz/artifacts/`.
fn fuzz(target: &str, seconds: u32) -> Result<(), String> {
    let found = format!("fuzz/target/corpus/{target}");
    fs::create_dir_all(shell::root().join(Path::new(&found))).map_err(|error| format!("{found}: {error}"))?;
    shell::run(&mut shell::command(
        "rustup",
        &format!(
            "run nightly cargo fuzz run {target} {found} fuzz/corpus/{target} \
             -- -max_total_time={seconds} -max_len=4096 -timeout=25 -verbosity=0 -print_final_stats=1"
        ),
    ))
}
