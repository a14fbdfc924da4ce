//! The first minutes with the program: the commands that it prints, and how it is configured.
#![cfg(unix)]
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use common::HANG;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::sync::mpsc;

const TOKENS: [(&str, &str); 2] =
    [("RINGLOG_READ_TOKEN", "read-read-read-read"), ("RINGLOG_WRITE_TOKEN", "write-write-write-write")];

/// The program in a folder, with no variables but these.
fn program(folder: &Path, args: &[&str], variables: &[(&str, &str)]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_ringlog-server"));
    let ours = |name: &str| name.starts_with("RINGLOG_") || name == "RUST_LOG";
    for (name, _) in std::env::vars().filter(|(name, _)| ours(name)) {
        command.env_remove(name);
    }
    command.current_dir(folder).args(["--listen", "127.0.0.1:0"]).args(args).envs(variables.iter().copied());
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

struct Running {
    child: Child,
    /// The commands that it printed.
    commands: Vec<String>,
}

impl Running {
    /// A program that has printed its commands.
    fn start(mut command: Command) -> Self {
        let mut child = command.spawn().unwrap();
        let (tell, told) = mpsc::channel();
        let output = BufReader::new(child.stdout.take().unwrap());
        std::thread::spawn(move || {
            for line in output.lines().map_while(Result::ok) {
                let _ = tell.send(line);
            }
        });
        let mut commands = Vec::new();
        while commands.len() < 3 {
            let line = told.recv_timeout(HANG).expect("three commands");
            commands.extend(line.trim().starts_with("curl ").then(|| line.trim().to_owned()));
        }
        Self { child, commands }
    }

    /// Ends it, and answers with its log.
    fn stop(self) -> String {
        let id = self.child.id().to_string();
        assert!(Command::new("kill").args(["-s", "TERM", &id]).status().unwrap().success());
        let output = self.child.wait_with_output().unwrap();
        assert!(output.status.success(), "{output:?}");
        String::from_utf8(output.stderr).unwrap()
    }
}

/// How the program ends that does not start.
fn refused(command: &mut Command) -> String {
    let Output { status, stderr, .. } = command.output().unwrap();
    assert!(!status.success());
    String::from_utf8(stderr).unwrap()
}

/// Runs a command as it would be pasted; a stream ends after a while.
fn pasted(command: &str, variables: &[(&str, &str)]) -> String {
    let limited = command.replacen("curl", "curl -s --max-time 2", 1);
    let output = Command::new("sh").args(["-c", &limited]).envs(variables.iter().copied()).output().unwrap();
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn each_command_that_it_prints_works_as_it_is_pasted() {
    if Command::new("curl").arg("--version").output().is_err() {
        eprintln!("SKIPPED: there is no curl");
        return;
    }
    for (args, variables) in
        [(&["--memory"][..], &[][..]), (&[], &[]), (&["--memory"], &TOKENS), (&[], &TOKENS)]
    {
        let folder = tempfile::tempdir().unwrap();
        let server = Running::start(program(folder.path(), args, variables));
        let [push, snapshot, live] = [0, 1, 2].map(|n| pasted(&server.commands[n], variables));
        assert!(push.contains(r#""applied":1"#), "{args:?}: {push}");
        assert!(snapshot.contains("Milk"), "{args:?}: {snapshot}");
        assert!(live.contains("event: changes") && live.contains("Milk"), "{args:?}: {live}");
        assert!(!live.contains("event: resync"), "{live}");
        for (_, token) in &TOKENS {
            assert!(!server.commands.concat().contains(token), "tokens stay in the environment");
        }
        server.stop();
    }
}

#[test]
fn a_boolean_variable_means_what_it_says() {
    for (value, is_memory) in [
        ("false", false),
        ("0", false),
        ("no", false),
        ("off", false),
        ("", false),
        ("FALSE", false),
        ("true", true),
        ("1", true),
        ("yes", true),
        ("On", true),
    ] {
        let folder = tempfile::tempdir().unwrap();
        Running::start(program(folder.path(), &[], &[("RINGLOG_MEMORY", value)])).stop();
        let is_stored = folder.path().join("ringlog-data").exists();
        assert_eq!(is_stored, !is_memory, "RINGLOG_MEMORY={value}");
    }
    let folder = tempfile::tempdir().unwrap();
    for value in ["maybe", "2", " true", "falsch"] {
        let said = refused(&mut program(folder.path(), &[], &[("RINGLOG_MEMORY", value)]));
        assert!(said.contains("--memory") && said.contains("must be true, 1, yes or on"), "{value}: {said}");
    }
}

#[test]
fn the_command_line_outranks_the_environment_and_equal_ranks_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let stored = |args: &[&str], variables: &[(&str, &str)]| {
        Running::start(program(folder.path(), args, variables)).stop();
        let is_stored = folder.path().join("d").exists();
        let _ = std::fs::remove_dir_all(folder.path().join("d"));
        is_stored
    };
    assert!(!stored(&["--memory"], &[("RINGLOG_DATA", "d")]));
    assert!(stored(&["--data", "d"], &[("RINGLOG_MEMORY", "1")]));
    assert!(stored(&[], &[("RINGLOG_DATA", "d"), ("RINGLOG_MEMORY", "")]));
    let both = [("RINGLOG_DATA", "d"), ("RINGLOG_MEMORY", "1")];
    assert!(
        refused(&mut program(folder.path(), &[], &both))
            .contains("RINGLOG_MEMORY cannot be used with RINGLOG_DATA")
    );
    assert!(
        refused(&mut program(folder.path(), &["--memory", "--data", "d"], &[]))
            .contains("cannot be used with")
    );
    let said = refused(&mut program(folder.path(), &[], &[("RINGLOG_CAPACITY", "many")]));
    assert!(said.contains("--capacity") && said.contains("many"), "{said}");
}

#[test]
fn an_empty_log_filter_does_not_turn_the_log_off_and_one_that_cannot_be_meant_is_named() {
    let folder = tempfile::tempdir().unwrap();
    for (filter, wanted) in
        [("", "ready"), (" ", "ready"), ("inof", "RUST_LOG=inof is not followed"), ("=", "ready")]
    {
        let said = Running::start(program(folder.path(), &["--memory"], &[("RUST_LOG", filter)])).stop();
        assert!(said.contains(wanted) && said.contains("stopped"), "RUST_LOG={filter}: {said}");
    }
    let said = Running::start(program(folder.path(), &["--memory"], &[("RUST_LOG", "off")])).stop();
    assert_eq!(said, "", "off is off");
}
