//! Real NATS servers, each a process, as a cluster that can be broken.
//!
//! This file stands alone: tests of the crate include it by its path. All calls block.
//!
//! `.ci/run` installs the server: a Python package carries the program, by
//! `tests/clients/requirements.txt`. Without it the tests are skipped, and say so.

use std::collections::hash_map::RandomState;
use std::fs::File;
use std::hash::BuildHasher;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Mutex;
use std::time::{Duration, Instant};

/// Nothing takes so long, unless it hangs.
const HANG: Duration = Duration::from_secs(60);

/// How often to look whether something has come about.
const POLL: Duration = Duration::from_millis(20);

/// Where ports are taken from: below those that the system gives to outgoing connections, so that a
/// server that was killed finds its own again.
const PORTS: std::ops::Range<u16> = 12_000..32_000;

/// Servers with JetStream that sync always: one, or a cluster. They end when this is dropped, and
/// when the test's process ends.
pub struct NatsCluster {
    servers: Vec<Server>,
    _folder: tempfile::TempDir,
}

/// Where a server runs.
#[derive(Clone)]
pub struct Place {
    /// Its network namespace, if it has one of its own.
    pub namespace: Option<String>,
    /// Where its monitor and clients find it.
    pub address: String,
    /// Where the other servers find it.
    pub routes: String,
}

impl Place {
    fn here() -> Self {
        Self { namespace: None, address: "127.0.0.1".into(), routes: "127.0.0.1".into() }
    }
}

/// One server.
struct Server {
    name: String,
    place: Place,
    /// Of clients, of the monitor.
    ports: (u16, u16),
    folder: PathBuf,
    program: PathBuf,
    running: Mutex<Option<Running>>,
}

struct Running {
    server: Child,
    /// Kills the server once its standard input is closed, even by the end of the test's process.
    guard: Child,
}

impl NatsCluster {
    /// Starts so many servers and waits until they can be used. None, and a line that no test
    /// runner hides, if there is no program.
    pub fn start(count: usize) -> Option<Self> {
        Self::start_with(count, "sync_interval: always", "")
    }

    /// As [`start`](Self::start), with the configuration of JetStream and more lines.
    pub fn start_with(count: usize, jetstream: &str, lines: &str) -> Option<Self> {
        Self::start_in(&vec![Place::here(); count], jetstream, lines)
    }

    /// As [`start_with`](Self::start_with), one server in each place.
    pub fn start_in(places: &[Place], jetstream: &str, lines: &str) -> Option<Self> {
        let program = program()?;
        // Another process may take a port before the server does.
        (0..3)
            .find_map(|_| Self::try_start(&program, places, jetstream, lines))
            .or_else(|| panic!("no server starts"))
    }

    fn try_start(program: &Path, places: &[Place], jetstream: &str, lines: &str) -> Option<Self> {
        let folder = tempfile::tempdir().unwrap();
        let ports = ports(places.len() * 3);
        let routes: Vec<_> = places
            .iter()
            .zip(ports.chunks(3))
            .map(|(place, ports)| format!("nats://{}:{}", place.routes, ports[2]))
            .collect();
        let servers = places.iter().zip(ports.chunks(3)).enumerate().map(|(i, (place, ports))| {
            let (name, folder) = (format!("n{i}"), folder.path().join(format!("n{i}")));
            std::fs::create_dir(&folder).unwrap();
            // A namespace has several networks.
            let all = if place.namespace.is_some() { "0.0.0.0" } else { &place.address };
            let mut config = format!(
                "server_name: {name}\nlisten: \"{all}:{}\"\nhttp: \"{all}:{}\"\n\
                 jetstream: {{ store_dir: \"{}\"\n{jetstream} }}\n{lines}\n",
                ports[0],
                ports[1],
                folder.display()
            );
            if places.len() > 1 {
                let (at, port, routes) = (&place.routes, ports[2], routes.join(", "));
                // Clients use the addresses that they are given.
                let cluster =
                    format!("name: test, listen: \"{at}:{port}\", no_advertise: true, routes: [{routes}]");
                config.extend(["cluster { ", &cluster, " }\n"]);
            }
            std::fs::write(folder.join("config"), config).unwrap();
            Server {
                name,
                place: place.clone(),
                ports: (ports[0], ports[1]),
                folder,
                program: program.into(),
                running: Mutex::default(),
            }
        });
        let cluster = Self { servers: servers.collect(), _folder: folder };
        cluster.servers.iter().for_each(Server::start);
        cluster.is_ready().then_some(cluster)
    }

    /// Waits until all servers run and a leader knows all. False if one ends.
    fn is_ready(&self) -> bool {
        let start = Instant::now();
        loop {
            if self.servers.iter().any(Server::has_ended) {
                return false;
            }
            let is_ready = |server: &Server| {
                let Some(state) = server.ask("/jsz") else { return false };
                let meta = &state["meta_cluster"];
                let has_leader = meta["leader"].as_str().is_some_and(|leader| !leader.is_empty());
                self.servers.len() == 1 || (has_leader && meta["cluster_size"] == self.servers.len())
            };
            if self.servers.iter().all(is_ready) {
                return true;
            }
            assert!(start.elapsed() < HANG, "it does not become ready: {}", self.said());
            std::thread::sleep(POLL);
        }
    }

    /// Where clients connect.
    pub fn urls(&self) -> Vec<String> {
        self.urls_at(self.servers.iter().map(|server| &*server.place.address))
    }

    /// Where clients connect that find the servers at other addresses.
    pub fn urls_at<'a>(&self, addresses: impl IntoIterator<Item = &'a str>) -> Vec<String> {
        let ports = self.servers.iter().map(|server| server.ports.0);
        addresses.into_iter().zip(ports).map(|(address, port)| format!("nats://{address}:{port}")).collect()
    }

    /// Where the monitor of a server is.
    pub fn monitor(&self, server: usize) -> String {
        let Server { place, ports, .. } = &self.servers[server];
        format!("http://{}:{}", place.address, ports.1)
    }

    /// Ends a server on the spot, as `kill -9`.
    pub fn kill(&self, server: usize) {
        self.servers[server].kill();
    }

    /// Asks a server to stop, and waits until it has.
    pub fn stop(&self, server: usize) {
        let server = &self.servers[server];
        server.signal("TERM");
        let start = Instant::now();
        while !server.has_ended() {
            assert!(start.elapsed() < HANG, "{} does not stop", server.name);
            std::thread::sleep(POLL);
        }
        server.kill();
    }

    /// Lets a server stand still; its connections stay.
    pub fn pause(&self, server: usize) {
        self.servers[server].signal("STOP");
    }

    /// Lets a paused server go on.
    pub fn resume(&self, server: usize) {
        self.servers[server].signal("CONT");
    }

    /// Starts a server again, on its ports and its data. Does not wait until it can be used.
    pub fn restart(&self, server: usize) {
        self.servers[server].kill();
        self.servers[server].start();
    }

    /// The server that leads a stream, by its own account. Waits until there is one.
    pub fn stream_leader(&self, stream: &str) -> usize {
        let start = Instant::now();
        loop {
            let leads = |server: &Server| {
                let state = server.ask("/jsz?streams=true").unwrap_or_default();
                let accounts = state["account_details"].as_array().into_iter().flatten();
                let mut streams =
                    accounts.filter_map(|account| account["stream_detail"].as_array()).flatten();
                streams.any(|found| found["name"] == stream && found["cluster"]["leader"] == server.name)
            };
            if let Some(leader) = self.servers.iter().position(leads) {
                return leader;
            }
            assert!(start.elapsed() < HANG, "{stream} has no leader: {}", self.said());
            std::thread::sleep(POLL);
        }
    }

    /// What the servers said.
    fn said(&self) -> String {
        let logs = self.servers.iter().map(|server| std::fs::read_to_string(server.folder.join("log")));
        logs.map(Result::unwrap_or_default).collect()
    }
}

impl Server {
    fn start(&self) {
        let log = File::options().create(true).append(true).open(self.folder.join("log")).unwrap();
        let mut command = match &self.place.namespace {
            None => Command::new(&self.program),
            Some(namespace) => {
                // It becomes the server: the process has the same number.
                let mut command = Command::new("ip");
                command.args(["netns", "exec", namespace]).arg(&self.program);
                command
            }
        };
        command.arg("--config").arg(self.folder.join("config"));
        let server = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log).spawn().unwrap();
        let mut guard = Command::new("sh");
        guard.args(["-c", "read _; kill -s KILL $0 2>&-", &server.id().to_string()]);
        let guard = guard.stdin(Stdio::piped()).spawn().unwrap();
        *self.running.lock().unwrap() = Some(Running { server, guard });
    }

    fn kill(&self) {
        if let Some(Running { mut server, mut guard }) = self.running.lock().unwrap().take() {
            guard.kill().unwrap();
            guard.wait().unwrap();
            server.kill().unwrap();
            server.wait().unwrap();
        }
    }

    fn has_ended(&self) -> bool {
        let mut running = self.running.lock().unwrap();
        running.as_mut().is_none_or(|running| running.server.try_wait().unwrap().is_some())
    }

    fn signal(&self, name: &str) {
        let id = self.running.lock().unwrap().as_ref().expect("it runs").server.id();
        let sent = Command::new("kill").args(["-s", name, &id.to_string()]).status().unwrap();
        assert!(sent.success());
    }

    /// What the monitor answers. None if the server is away or stands still.
    fn ask(&self, path: &str) -> Option<serde_json::Value> {
        let mut stream = TcpStream::connect((&*self.place.address, self.ports.1)).ok()?;
        stream.set_read_timeout(Some(Duration::from_secs(1))).unwrap();
        write!(stream, "GET {path} HTTP/1.0\r\n\r\n").ok()?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).ok()?;
        serde_json::from_str(answer.split_once("\r\n\r\n")?.1).ok()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.kill();
    }
}

/// The program of the server, if it is installed.
fn program() -> Option<PathBuf> {
    let installed = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../target/clients/bin/nats-server");
    let program = match std::env::var_os("RINGLOG_NATS_SERVER") {
        Some(program) => program.into(),
        None if installed.exists() => installed,
        None => "nats-server".into(),
    };
    let version = Command::new(&program).arg("--version").output();
    let version =
        version.map(|output| String::from_utf8_lossy(&output.stdout).into_owned()).unwrap_or_default();
    if is_new_enough(&version) {
        return Some(program);
    }
    let line = "\n*** SKIPPED: no NATS server of version 2.12 or later. `.ci/run` installs it. ***\n";
    std::io::stderr().write_all(line.as_bytes()).unwrap();
    None
}

/// `nats-server: v2.15.1` is.
fn is_new_enough(version: &str) -> bool {
    let mut numbers = version.trim().rsplit_once('v').map_or("", |(_, numbers)| numbers).split('.');
    let mut number = || numbers.next().and_then(|number| number.parse::<u32>().ok()).unwrap_or(0);
    (number(), number()) >= (2, 12)
}

/// So many different ports that are free now.
fn ports(count: usize) -> Vec<u16> {
    let random = RandomState::new();
    let candidates = (0..10_000_u32).map(|n| {
        let below = u64::from(PORTS.end - PORTS.start);
        PORTS.start + u16::try_from(random.hash_one(n) % below).unwrap()
    });
    // Held until all are found, so that none comes twice.
    let free = candidates.filter_map(|port| TcpListener::bind(("127.0.0.1", port)).ok());
    let held: Vec<_> = free.take(count).collect();
    held.iter().map(|listener| listener.local_addr().unwrap().port()).collect()
}
