//! `cargo xtask cluster`: nodes of one log over NATS servers, to break and to try.

use crate::shell;
use std::fs::{self, File};
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::time::{Duration, Instant};

/// The first of three ports each: nodes; clients, monitors and routes of the NATS servers.
const NODES: u16 = 8_081;
const CLIENTS: u16 = 14_222;
const MONITORS: u16 = 18_222;
const ROUTES: u16 = 16_222;

const USAGE: &str = "cluster takes [storm] [--minutes N], speed [--quick], or up [--debug]";

pub(crate) fn run(args: &[String]) -> Result<(), String> {
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    match *args {
        [] | ["storm"] => storm("10"),
        ["--minutes", minutes] | ["storm", "--minutes", minutes] => storm(minutes),
        ["speed"] => speed(""),
        ["speed", "--quick"] => speed(" -- --quick"),
        ["up"] => up("build --release", "release"),
        ["up", "--debug"] => up("build", "debug"),
        _ => Err(format!("{USAGE}, not `{}`", args.join(" "))),
    }
}

/// The long storm of `server/tests/cluster.rs`.
fn storm(minutes: &str) -> Result<(), String> {
    let minutes: u32 = minutes.parse().map_err(|_| "--minutes takes a number")?;
    nats()?;
    let mut cargo = shell::cargo("test --package ringlog-server --test cluster -- --nocapture a_long_storm");
    shell::run(cargo.env("RINGLOG_CLUSTER_DEEP", minutes.to_string()))
}

/// The table of `server/benches/cluster/main.rs`.
fn speed(args: &str) -> Result<(), String> {
    nats()?;
    let bench = "bench --package ringlog-server --bench cluster";
    shell::run(&mut shell::cargo(&format!("{bench}{args}")))
}

/// The program of the NATS server, found as the tests find it.
fn nats() -> Result<PathBuf, String> {
    let installed = shell::root().join("target/clients/bin/nats-server");
    let program = match std::env::var_os("RINGLOG_NATS_SERVER") {
        Some(program) => program.into(),
        None if installed.exists() => installed,
        None => "nats-server".into(),
    };
    if shell::answers(Command::new(&program).arg("--version").stdin(Stdio::null())) {
        return Ok(program);
    }
    Err("no NATS server: `.ci/run` installs it, or RINGLOG_NATS_SERVER names one".into())
}

/// Starts a cluster and waits. It ends with this process, whatever ends that.
fn up(build: &str, profile: &str) -> Result<(), String> {
    let nats = nats()?;
    shell::run(&mut shell::cargo(&format!("{build} --package ringlog-server")))?;
    let node = shell::target().join(profile).join("ringlog-server");
    for port in [NODES, CLIENTS, MONITORS, ROUTES].iter().flat_map(|first| *first..first + 3) {
        TcpListener::bind(("127.0.0.1", port)).map_err(|error| format!("port {port}: {error}"))?;
    }
    let folder = std::env::temp_dir().join(format!("ringlog-cluster-{}", std::process::id()));
    fs::create_dir(&folder).map_err(|error| format!("{}: {error}", folder.display()))?;
    let guard = Guard::start(&folder)?;
    let mut processes = Processes { guard, running: Vec::new() };
    for server in 0..3 {
        let config = folder.join(format!("nats-{server}.conf"));
        fs::write(&config, nats_config(&folder, server)).map_err(|error| error.to_string())?;
        processes.start(
            &folder,
            &format!("nats-{server}"),
            Command::new(&nats).arg("--config").arg(config),
        )?;
    }
    let urls = [0, 1, 2].map(|server| format!("nats://127.0.0.1:{}", CLIENTS + server)).join(",");
    for number in 0..3 {
        let name = format!("node-{number}");
        let mut command = Command::new(&node);
        command.args(["--cluster", &urls, "--log", "try", "--cluster-create"]);
        command.args(["--cluster-max-bytes", "1000000000"]);
        command.args(["--cluster-monitor", &format!("http://127.0.0.1:{MONITORS}")]);
        command.args(["--listen", &format!("127.0.0.1:{}", NODES + number)]);
        command.arg("--data").arg(folder.join(&name));
        processes.start(&folder, &name, &mut command)?;
    }
    processes.wait_until_ready()?;
    println!("{}", usage(&folder));
    loop {
        processes.check()?;
        std::thread::sleep(Duration::from_millis(200));
    }
}

fn nats_config(folder: &Path, server: u16) -> String {
    let routes = [0, 1, 2].map(|server| format!("nats://127.0.0.1:{}", ROUTES + server)).join(", ");
    format!(
        "server_name: n{server}\nlisten: \"127.0.0.1:{}\"\nhttp: \"127.0.0.1:{}\"\nmax_payload: 4MB\n\
         jetstream: {{ store_dir: \"{}\", sync_interval: always }}\n\
         cluster {{ name: try, listen: \"127.0.0.1:{}\", routes: [{routes}] }}\n",
        CLIENTS + server,
        MONITORS + server,
        folder.join(format!("nats-{server}")).display(),
        ROUTES + server
    )
}

fn usage(folder: &Path) -> String {
    let [a, b, c] = [0, 1, 2].map(|node| format!("http://127.0.0.1:{}", NODES + node));
    format!(
        "Nodes: {a} {b} {c}\nNATS:  {}\nLogs:  {}\nPush at one, read at the others:\n\n  \
         curl {a}/api/sync/push -H 'content-type: application/json' -d '{{\"changes\":[{{\"entity\":\"Todo\",\
         \"row_id\":\"1\",\"kind\":\"insert\",\"data\":{{\"title\":\"milk\"}}}}]}}'\n  \
         curl '{b}/api/sync/pull?since=0'\n  curl -N '{c}/api/sync/live?since=0'\n\nCtrl-C ends all.",
        [0, 1, 2].map(|server| format!("nats://127.0.0.1:{}", CLIENTS + server)).join(" "),
        folder.join("*.log").display(),
    )
}

/// Ends the processes of a cluster and removes its folder once its standard input is closed, even
/// by the end of this process.
struct Guard {
    /// Dropped before the wait.
    input: Option<ChildStdin>,
    child: Child,
}

impl Guard {
    fn start(folder: &Path) -> Result<Self, String> {
        let script = "trap '' INT TERM HUP; while read id; do ids=\"$ids $id\"; done
            kill -s KILL $ids 2>&-; sleep 0.2; rm -rf \"$0\"";
        let mut command = Command::new("sh");
        command.arg("-c").arg(script).arg(folder).stdin(Stdio::piped()).stderr(Stdio::null());
        let mut child = command.spawn().map_err(|error| format!("sh: {error}"))?;
        Ok(Self { input: child.stdin.take(), child })
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        drop(self.input.take());
        let _ = self.child.wait();
    }
}

struct Processes {
    guard: Guard,
    running: Vec<(Child, PathBuf)>,
}

impl Processes {
    /// Starts a process; what it says goes to a file.
    fn start(&mut self, folder: &Path, name: &str, command: &mut Command) -> Result<(), String> {
        let failed = |error: std::io::Error| format!("{name}: {error}");
        let log = folder.join(format!("{name}.log"));
        let file = File::create(&log).map_err(failed)?;
        let out = file.try_clone().map_err(failed)?;
        let child = command.stdin(Stdio::null()).stdout(out).stderr(file).spawn().map_err(failed)?;
        if let Some(input) = &mut self.guard.input {
            writeln!(input, "{}", child.id()).map_err(failed)?;
        }
        self.running.push((child, log));
        Ok(())
    }

    /// Fails once a process has ended.
    fn check(&mut self) -> Result<(), String> {
        for (child, log) in &mut self.running {
            if let Some(status) = child.try_wait().map_err(|error| error.to_string())? {
                let said = fs::read_to_string(&*log).unwrap_or_default();
                return Err(format!("{}: {status}\n{said}", log.display()));
            }
        }
        Ok(())
    }

    fn wait_until_ready(&mut self) -> Result<(), String> {
        let start = Instant::now();
        while !(NODES..NODES + 3).all(is_ready) {
            self.check()?;
            if start.elapsed() > Duration::from_secs(60) {
                return Err("the nodes do not become ready".into());
            }
            std::thread::sleep(Duration::from_millis(100));
        }
        Ok(())
    }
}

fn is_ready(port: u16) -> bool {
    let ask = || -> std::io::Result<String> {
        let mut stream = TcpStream::connect(("127.0.0.1", port))?;
        stream.write_all(b"GET /readyz HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer)?;
        Ok(answer)
    };
    ask().is_ok_and(|answer| answer.starts_with("HTTP/1.1 200"))
}
