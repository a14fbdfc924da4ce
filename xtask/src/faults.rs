//! `cargo xtask faults`: a check that cannot fail proves nothing, so each model is shown to fail.
//!
//! `xtask/faults.txt` lists small faults, and for each the model that must catch it. Each is
//! applied by itself to a copy of the sources; the models are built from the copy, and the named
//! one must fail. So with the tests of the library, and with those of the server for its files.

use crate::shell::Outcome;
use crate::{loom, shell};
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

const TABLE: &str = "xtask/faults.txt";

/// What a model may take. A model that runs longer has hung, and has caught nothing.
const LIMIT: Duration = Duration::from_secs(600);

/// A change of one source file that makes it wrong.
#[derive(Debug, PartialEq, Eq)]
struct Fault {
    name: String,
    file: String,
    /// The model that must catch it, or the own test of the package that has the file.
    test: String,
    removed: Vec<String>,
    added: Vec<String>,
}

pub(crate) fn run(args: &[String]) -> Result<(), String> {
    let filter = match args {
        [] => "",
        [filter] if !filter.starts_with('-') => filter,
        _ => return Err("faults takes at most one FILTER".into()),
    };
    let faults: Vec<_> = table()?.into_iter().filter(|fault| fault.name.contains(filter)).collect();
    if faults.is_empty() {
        return Err(format!("no fault's name contains `{filter}`"));
    }
    sound(&faults)?;
    catch(&faults)
}

/// All faults, right after the models have passed without any: they need not do so again.
pub(crate) fn after_the_models() -> Result<(), String> {
    // The others take a build of the server each: `cargo xtask faults` has them.
    let faults: Vec<_> = table()?.into_iter().filter(Fault::is_of_library).collect();
    catch(&faults)
}

/// Breaks the code in each of these ways, and expects the named test to fail.
fn catch(faults: &[Fault]) -> Result<(), String> {
    let copy = copy()?;
    let mut caught = 0;
    for fault in faults {
        let path = copy.join(&fault.file);
        let sound = fs::read_to_string(&path).map_err(|error| format!("{}: {error}", path.display()))?;
        write(&path, &fault.apply(&sound)?)?;
        let program = build(&copy, fault)?;
        write(&path, &sound)?;
        let start = Instant::now();
        let (verdict, counts) = match run_test(&program, &fault.test)? {
            Outcome::Failed => ("caught", 1),
            Outcome::Succeeded => ("MISSED: the model passed", 0),
            Outcome::Hung => ("MISSED: the model hung", 0),
        };
        caught += counts;
        let seconds = start.elapsed().as_secs_f64();
        println!("  {:<28} {:<56} {verdict} in {seconds:.1} s", fault.name, fault.test);
    }
    println!("{caught} of {} faults caught", faults.len());
    if caught == faults.len() { Ok(()) } else { Err("a fault went through: see above".into()) }
}

/// Checks that the models pass on the code as it is: otherwise their failing on a fault means
/// nothing.
fn sound(faults: &[Fault]) -> Result<(), String> {
    let tests: BTreeMap<&str, &Fault> = faults.iter().map(|fault| (fault.test.as_str(), fault)).collect();
    for (test, fault) in tests {
        let program = shell::program(&mut cargo(&shell::root(), fault), fault.package().1)?;
        let start = Instant::now();
        match run_test(&program, test)? {
            Outcome::Succeeded => {}
            Outcome::Failed => {
                return Err(format!("{test} fails without any fault: see {}", log().display()));
            }
            Outcome::Hung => return Err(format!("{test} hangs without any fault")),
        }
        println!("  {:<28} {test:<56} passes in {:.1} s", "(no fault)", start.elapsed().as_secs_f64());
    }
    Ok(())
}

/// Builds the program that has the fault's test, from the copy.
fn build(copy: &Path, fault: &Fault) -> Result<PathBuf, String> {
    let mut cargo = cargo(copy, fault);
    // Nearly all models fail at once: most of the time goes into building them.
    cargo.args(["--", "-C", "opt-level=1", "-C", "debuginfo=0", "--cap-lints", "allow"]);
    shell::program(&mut cargo, fault.package().1)
        .map_err(|error| format!("the tests with the fault `{}`: {error}", fault.name))
}

/// The command that builds the program with the fault's test, from the sources at `root`.
fn cargo(root: &Path, fault: &Fault) -> Command {
    let words = format!("rustc --quiet --profile {} --lib", fault.package().0);
    let mut cargo = shell::cargo(&words);
    cargo.args(["--message-format", "json-render-diagnostics"]).current_dir(root);
    cargo.env("CARGO_TARGET_DIR", shell::target());
    if fault.has_model() { loom::with_loom(cargo) } else { cargo }
}

/// Runs one test, which must be there under exactly this name.
fn run_test(program: &Path, name: &str) -> Result<Outcome, String> {
    let list = Command::new(program).args([name, "--exact", "--list"]).output();
    let list = list.map_err(|error| format!("{}: {error}", program.display()))?.stdout;
    if !String::from_utf8_lossy(&list).lines().any(|line| line == format!("{name}: test")) {
        return Err(format!("there is no test `{name}`"));
    }
    let mut command = Command::new(program);
    command.args([name, "--exact"]).stdin(Stdio::null());
    shell::run_within(&mut command, LIMIT, &log())
}

/// What the last test printed.
fn log() -> PathBuf {
    shell::target().join("last-model.log")
}

/// The faults of the table, each of which can be applied and has its row in the documentation.
fn table() -> Result<Vec<Fault>, String> {
    let faults = parse(&read(TABLE)?)?;
    let page = read("src/docs/proof.md")?;
    for fault in &faults {
        fault.apply(&read(&fault.file)?)?;
        fault.find_row(&page)?;
    }
    Ok(faults)
}

fn read(file: &str) -> Result<String, String> {
    fs::read_to_string(shell::root().join(file)).map_err(|error| format!("{file}: {error}"))
}

fn write(path: &Path, text: &str) -> Result<(), String> {
    fs::write(path, text).map_err(|error| format!("{}: {error}", path.display()))
}

fn parse(table: &str) -> Result<Vec<Fault>, String> {
    let mut faults: Vec<Fault> = Vec::new();
    let lines = table.lines().enumerate();
    for (index, line) in lines.filter(|(_, line)| !line.is_empty() && !line.starts_with('#')) {
        let malformed = || format!("{TABLE}, line {}: `{line}`", index + 1);
        if let [name, file, test] = line.split(": ").collect::<Vec<_>>()[..]
            && !line.starts_with(['-', '+'])
        {
            let [name, file, test] = [name, file, test].map(String::from);
            faults.push(Fault { name, file, test, removed: Vec::new(), added: Vec::new() });
            continue;
        }
        let fault = faults.last_mut().ok_or_else(malformed)?;
        match line.split_at_checked(2) {
            Some(("- ", text)) => fault.removed.push(text.trim().to_owned()),
            Some(("+ ", text)) => fault.added.push(text.to_owned()),
            _ => return Err(malformed()),
        }
    }
    let names: BTreeSet<_> = faults.iter().map(|fault| &fault.name).collect();
    if names.len() == faults.len() { Ok(faults) } else { Err(format!("{TABLE}: two faults of one name")) }
}

impl Fault {
    /// How the program with its test is built, and its name: the models, or the own tests of the
    /// server, of the routes or of the library.
    fn package(&self) -> (&'static str, &'static str) {
        if self.has_model() {
            ("bench --package loom-tests", "loom_tests")
        } else if self.file.starts_with("server/") {
            ("test --package ringlog-server", "ringlog_server")
        } else if self.file.starts_with("axum/") {
            ("test --package ringlog-axum", "ringlog_axum")
        } else {
            ("test --package ringlog", "ringlog")
        }
    }

    /// Whether it is in the log, not in what serves it.
    fn is_of_library(&self) -> bool {
        !self.file.starts_with("server/") && !self.file.starts_with("axum/")
    }

    fn has_model(&self) -> bool {
        self.test.contains("_models::")
    }

    /// The text of the file, broken.
    fn apply(&self, text: &str) -> Result<String, String> {
        let lines: Vec<&str> = text.lines().collect();
        let len = self.removed.len();
        let matches =
            |window: &[&str]| window.iter().zip(&self.removed).all(|(line, removed)| line.trim() == removed);
        let found: Vec<usize> = lines
            .windows(len.max(1))
            .enumerate()
            .filter(|(_, window)| matches(window))
            .map(|(at, _)| at)
            .collect();
        let [at] = found[..] else {
            return Err(format!(
                "the lines that `{}` removes from {} occur {} times",
                self.name,
                self.file,
                found.len()
            ));
        };
        let added: Vec<&str> = self.added.iter().map(String::as_str).collect();
        let broken: Vec<&str> = [&lines[..at], &added, &lines[at + len..], &[""]].concat();
        Ok(broken.join("\n"))
    }

    /// Checks that the page which documents the faults has this one.
    fn find_row(&self, page: &str) -> Result<(), String> {
        let test = self.test.rsplit(':').next().unwrap_or_default();
        let (begin, end) = (format!("| `{}` |", self.name), format!("| `{test}` |"));
        if page.lines().any(|line| line.starts_with(&begin) && line.ends_with(&end)) {
            return Ok(());
        }
        Err(format!("src/docs/proof.md has no row for the fault `{}`, with its model", self.name))
    }
}

/// A fresh copy of all that a build needs. It always lies at the same place, so that dependencies
/// stay built.
fn copy() -> Result<PathBuf, String> {
    let copy = shell::target().join("faults");
    let io = |error| format!("{}: {error}", copy.display());
    if copy.exists() {
        fs::remove_dir_all(&copy).map_err(io)?;
    }
    shell::copy_folder(&shell::root(), &copy).map_err(io)?;
    Ok(copy)
}

#[cfg(test)]
mod tests {
    use super::*;

    const TABLE: &str =
        "# A comment.\n\nstale: src/a.rs: models::b\n- if fresh(\n-     x) {\n+ if true {\n+     y();\n";

    #[test]
    fn a_fault_takes_the_place_of_its_lines_whatever_their_indentation() {
        let [fault] = &parse(TABLE).unwrap()[..] else { panic!("one fault") };
        assert_eq!((&*fault.name, &*fault.file, &*fault.test), ("stale", "src/a.rs", "models::b"));
        let broken = fault.apply("fn a() {\n        if fresh(\n            x) {\n    }\n}\n").unwrap();
        assert_eq!(broken, "fn a() {\nif true {\n    y();\n    }\n}\n");
    }

    #[test]
    fn lines_that_occur_twice_or_not_at_all_are_refused_with_the_faults_name() {
        let [fault] = &parse(TABLE).unwrap()[..] else { panic!("one fault") };
        for (text, times) in [("if fresh(\n x) }\n", 0), ("if fresh(\nx) {\nif fresh(\nx) {\n", 2)] {
            let error = fault.apply(text).unwrap_err();
            assert_eq!(error, format!("the lines that `stale` removes from src/a.rs occur {times} times"));
        }
    }

    #[test]
    fn the_program_with_the_test_follows_from_the_test_and_the_file() {
        let built = |file, test| parse(&format!("a: {file}: {test}\n")).unwrap()[0].package().1;
        assert_eq!(built("src/ring/order.rs", "ring_models::b"), "loom_tests");
        assert_eq!(built("src/wait.rs", "wait::tests::b"), "ringlog");
        assert_eq!(built("server/src/cluster/machine.rs", "cluster::simulation::b"), "ringlog_server");
    }

    #[test]
    fn a_table_with_a_line_of_no_fault_or_with_one_name_twice_is_refused() {
        assert!(parse("- a\n").unwrap_err().contains("line 1"));
        assert!(parse("a: b: c\n* d\n").unwrap_err().contains("line 2"));
        assert!(parse("a: b: c\na: d: e\n").unwrap_err().contains("one name"));
    }
}
