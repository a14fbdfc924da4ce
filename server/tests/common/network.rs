//! A network that can be cut: each NATS server in a network namespace of its own, joined by
//! bridges. It needs root.
//!
//! The servers are on five networks: one to the tests, for the monitors, which is never cut; one
//! among themselves; and one to each of three nodes. Nodes and clients stay where they are, so that
//! a node that is cut off from the servers can still be asked.

use super::nats::Place;
use std::fmt::Write as _;
use std::io::Write as _;
use std::process::{Child, Command, Stdio};

/// Servers, and nodes with a network of their own.
const MEMBERS: usize = 3;

/// The networks by their numbers; those of nodes follow.
const MONITORS: usize = 0;
const ROUTES: usize = 1;
const NODES: usize = 2;
const NETWORKS: usize = NODES + MEMBERS;

/// The address of the host in each network; the servers have 1, 2 and 3.
const HOST: usize = 254;

/// Namespaces and bridges. They go when this is dropped, and when the test's process ends.
pub struct Network {
    /// Names of namespaces and links begin with it.
    name: String,
    /// The first of the numbers that tell networks apart: 198.18.0.0/16 is for tests.
    first: usize,
    /// Removes everything once its standard input is closed.
    guard: Child,
}

impl Network {
    /// None, and a line that no test runner hides, if the system does not allow it.
    pub fn new() -> Option<Self> {
        // Another test may have a network: that name and its numbers are taken.
        let network = (0..256 / NETWORKS).find_map(|n| Self::try_new(n * NETWORKS));
        if network.is_none() {
            let line = b"\n*** No network namespaces (not root?): processes are stopped instead. ***\n";
            std::io::stderr().write_all(line).unwrap();
        }
        network
    }

    fn try_new(first: usize) -> Option<Self> {
        let name = format!("rl{first}");
        // The name is taken with the first bridge.
        if !sh(&format!("ip link add {name}b0 type bridge")) {
            return None;
        }
        let mut removal = "trap '' INT TERM HUP; read _;".to_owned();
        for server in 0..MEMBERS {
            write!(removal, "ip netns del {name}s{server};").unwrap();
        }
        for network in (0..NETWORKS).rev() {
            write!(removal, "ip link del {name}b{network};").unwrap();
        }
        let mut guard = Command::new("sh");
        guard.args(["-c", &removal]).stdin(Stdio::piped()).stderr(Stdio::null());
        let network = Self { guard: guard.spawn().unwrap(), name, first };
        sh(&network.script()).then_some(network)
    }

    /// Makes all but the first bridge.
    fn script(&self) -> String {
        let (name, mut script) = (&self.name, String::from("set -e\n"));
        for network in 0..NETWORKS {
            let host = self.address(network, HOST);
            if network > 0 {
                writeln!(script, "ip link add {name}b{network} type bridge").unwrap();
            }
            if network != ROUTES {
                writeln!(script, "ip addr add {host}/24 dev {name}b{network}").unwrap();
            }
            writeln!(script, "ip link set {name}b{network} up").unwrap();
        }
        for server in 0..MEMBERS {
            let within = self.namespace(server);
            writeln!(script, "ip netns add {within}\nip -n {within} link set lo up").unwrap();
            for network in 0..NETWORKS {
                let (link, address) = (self.link(network, server), self.address(network, server + 1));
                writeln!(
                    script,
                    "ip link add {link} type veth peer name net{network} netns {within}\n\
                     ip -n {within} addr add {address}/24 dev net{network}\n\
                     ip -n {within} link set net{network} up\n\
                     ip link set {link} master {name}b{network} up"
                )
                .unwrap();
            }
        }
        script
    }

    fn namespace(&self, server: usize) -> String {
        format!("{}s{server}", self.name)
    }

    /// The end of a server's link that is in the bridge.
    fn link(&self, network: usize, server: usize) -> String {
        format!("{}n{network}s{server}", self.name)
    }

    fn address(&self, network: usize, member: usize) -> String {
        format!("198.18.{}.{member}", self.first + network)
    }

    /// Where the servers are.
    pub fn places(&self) -> Vec<Place> {
        let place = |server| Place {
            namespace: Some(self.namespace(server)),
            address: self.address(MONITORS, server + 1),
            routes: self.address(ROUTES, server + 1),
        };
        (0..MEMBERS).map(place).collect()
    }

    /// The addresses of the servers for a node.
    pub fn addresses(&self, node: usize) -> Vec<String> {
        (0..MEMBERS).map(|server| self.address(NODES + node, server + 1)).collect()
    }

    /// Cuts a server off from the other servers and all nodes, or joins it again.
    pub fn server(&self, server: usize, is_up: bool) {
        self.set((ROUTES..NETWORKS).map(|network| (network, server)), is_up);
    }

    /// Cuts a node off from all servers, or joins it again.
    pub fn node(&self, node: usize, is_up: bool) {
        self.set((0..MEMBERS).map(|server| (NODES + node, server)), is_up);
    }

    fn set(&self, links: impl Iterator<Item = (usize, usize)>, is_up: bool) {
        let state = if is_up { "up" } else { "down" };
        let mut script = "set -e\n".to_owned();
        for (network, server) in links {
            writeln!(script, "ip link set {} {state}", self.link(network, server)).unwrap();
        }
        assert!(sh(&script), "a link cannot be set {state}");
    }
}

impl Drop for Network {
    fn drop(&mut self) {
        drop(self.guard.stdin.take());
        let _ = self.guard.wait();
    }
}

/// Runs a script of commands. False if one fails.
fn sh(script: &str) -> bool {
    let mut command = Command::new("sh");
    command.args(["-c", script]).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    command.status().is_ok_and(|status| status.success())
}
