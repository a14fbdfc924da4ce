//! Speed of a cluster: three NATS servers that sync always, three replicas, nodes that are
//! processes of their own. `cargo xtask cluster speed [--quick]` builds and runs it.
//!
//! It prints one Markdown table. The exit status is 0 if every aim was met.
//!
//! - *Throughput.* Eight clients a node, as many as a node may have frames undecided. Each client
//!   sends one push of a group of changes at a time, so that a group is a frame. The bare publisher
//!   takes turns with the nodes: it publishes the frames that the nodes made in the turn before,
//!   byte for byte, to a stream of the same configuration, over one connection a node with eight
//!   frames outstanding. It applies nothing.
//! - *Visibility.* One push at a time at one node, while a pull waits at another.
//! - *Stalls.* The longest time without an acknowledgement after a kill or a stop of the leader,
//!   as the storm of the tests measures it, with all its checks.
//! - *Cold start.* A node with an empty store, from the start of its process until it is ready.
//!
//! Each result is asserted: every node has as many changes as were acknowledged.
#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a bench prints its table and fails by panicking"
)]

#[path = "../../tests/common/mod.rs"]
mod common;
mod http;
mod load;
mod stream;

use common::cluster::{Cluster, Trouble, servers, storm};
use common::nats::NatsCluster;
use common::{HANG, get};
use load::Load;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, Instant};
use stream::Stream;

/// Streams must not be large enough for a snapshot: a cold start reads all.
const ARGS: &str = "--cluster-max-bytes 4000000000";

/// A cold start is measured with so many changes, or more.
const COLD: u64 = 200_000;

/// What is measured, and for how long.
struct Plan {
    nodes: &'static [usize],
    groups: &'static [usize],
    turns: usize,
    turn: Duration,
    pushes: usize,
    stalls: usize,
}

const FULL: Plan = Plan {
    nodes: &[1, 2, 3, 5],
    groups: &[16, 256],
    turns: 5,
    turn: Duration::from_secs(2),
    pushes: 1000,
    stalls: 3,
};

const QUICK: Plan = Plan {
    nodes: &[3],
    groups: &[16, 256],
    turns: 2,
    turn: Duration::from_millis(700),
    pushes: 100,
    stalls: 1,
};

fn main() -> ExitCode {
    // `cargo bench` adds an argument.
    let is_quick = match &*std::env::args().skip(1).filter(|arg| arg != "--bench").collect::<Vec<_>>() {
        [] => false,
        [only] if only == "--quick" => true,
        others => panic!("it takes --quick only, not {others:?}"),
    };
    let Some(nats) = servers() else { return ExitCode::FAILURE };
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let table = runtime.block_on(measure(Arc::new(nats), if is_quick { QUICK } else { FULL }));
    table.print();
    if table.is_met() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

async fn measure(nats: Arc<NatsCluster>, plan: Plan) -> Table {
    let mut table = Table::default();
    for &nodes in plan.nodes {
        for &group in plan.groups {
            let cluster = cluster(&nats, &format!("n{nodes}-g{group}"), nodes);
            let has_aim = nodes == 3;
            throughput(&mut table, &cluster, group, &plan).await;
            if has_aim {
                cold_start(&mut table, &cluster, group).await;
            }
            remove(&cluster).await;
        }
    }
    let three = cluster(&nats, "visibility", 3);
    visibility(&mut table, &three, plan.pushes).await;
    remove(&three).await;
    let three = Arc::new(cluster(&nats, "stalls", 3));
    stalls(&mut table, &three, plan.stalls).await;
    table
}

/// Nodes that run.
fn cluster(nats: &Arc<NatsCluster>, log: &str, nodes: usize) -> Cluster {
    let cluster = Cluster::of_nodes(nats, log, nodes, ARGS);
    assert!(cluster.start_nodes(), "{}", cluster.said());
    cluster
}

/// Stops the nodes and removes their stream.
async fn remove(cluster: &Cluster) {
    for node in &cluster.nodes {
        assert!(node.stop(), "{}", node.said());
    }
    Stream::of(cluster).await.delete().await;
}

async fn throughput(table: &mut Table, cluster: &Cluster, group: usize, plan: &Plan) {
    let (urls, stream) = (cluster.urls(), Stream::of(cluster).await);
    let bare = stream.bare().await;
    let mut load = Load::new(&urls, group).await;
    // The first turn fills caches and is not counted.
    load.turn(plan.turn / 2).await;
    let (mut nodes, mut alone, mut frames) = (Vec::new(), Vec::new(), 0);
    let first = load.changes();
    for _ in 0..plan.turns {
        let from = stream.last().await + 1;
        let (changes, took) = load.turn(plan.turn).await;
        nodes.push(changes as f64 / took.as_secs_f64());
        let made = stream.frames(from).await;
        frames += made.len();
        let took = bare.publish(made, urls.len()).await;
        alone.push(changes as f64 / took.as_secs_f64());
    }
    bare.delete().await;
    all_have(&urls, load.changes()).await;
    let size = (load.changes() - first) as f64 / frames as f64;
    let ratio = median(nodes.iter().zip(&alone).map(|(nodes, alone)| nodes / alone));
    let aim = (urls.len() == 3).then(|| ("≥ 0.70".into(), ratio >= 0.7));
    let (nodes, alone) = (median(nodes.into_iter()), median(alone.into_iter()));
    table.row(
        &format!("{} nodes, pushes of {group}, {size:.0} changes a frame", urls.len()),
        &format!("{nodes:.0} changes/s; bare publisher {alone:.0}; ratio {ratio:.2}"),
        aim,
    );
}

async fn cold_start(table: &mut Table, cluster: &Cluster, group: usize) {
    let urls = cluster.urls();
    let mut load = Load::new(&urls, group).await;
    let before = last_seq(&urls[0]).await;
    while before + load.changes() < COLD {
        load.turn(Duration::from_millis(500)).await;
    }
    let changes = before + load.changes();
    all_have(&urls, changes).await;
    let node = cluster.node("");
    let start = Instant::now();
    assert!(node.start(), "{}", node.said());
    let took = start.elapsed();
    assert_eq!(last_seq(&node.url()).await, changes, "a node that is ready has all");
    let rate = changes as f64 / took.as_secs_f64();
    table.row(
        &format!("cold start, {changes} changes in frames of {group}"),
        &format!("{rate:.0} changes/s, {:.1} s", took.as_secs_f64()),
        Some(("≥ 100,000 changes/s".into(), rate >= 100_000.0)),
    );
    assert!(node.stop());
}

async fn visibility(table: &mut Table, cluster: &Cluster, count: usize) {
    let urls = cluster.urls();
    let (mut pushed, mut visible) = load::visibility(&urls[0], &urls[1], count).await;
    all_have(&urls, count as u64).await;
    let [push, seen] =
        [&mut pushed, &mut visible].map(|times| [50, 99].map(|per_cent| percentile(times, per_cent)));
    let millis = |[p50, p99]: [Duration; 2]| {
        format!("p50 {:.2} ms, p99 {:.2} ms", p50.as_secs_f64() * 1e3, p99.as_secs_f64() * 1e3)
    };
    table.row("a push of one change, no other load", &millis(push), None);
    let ratio = seen[0].as_secs_f64() / push[0].as_secs_f64();
    table.row(
        "from its start until another node serves it (long poll)",
        &format!("{}; {ratio:.2} times that of the push", millis(seen)),
        Some(("p50 ≤ 2 times".into(), ratio <= 2.0)),
    );
}

async fn stalls(table: &mut Table, cluster: &Arc<Cluster>, turns: usize) {
    let figures = storm(cluster, 12, move |cluster, seen| {
        let mut random = common::clients::Random(1);
        for trouble in [Trouble::KillLeader, Trouble::StopLeader].into_iter().cycle().take(2 * turns) {
            seen.wait_for(200);
            trouble.befall(cluster, seen, &mut random, Duration::from_secs(5));
        }
    });
    for (trouble, longest) in figures.await.stalls {
        let (aim, longest) = (if trouble.starts_with("kill") { 10.0 } else { 1.0 }, longest.as_secs_f64());
        let row = format!("longest time without an acknowledgement after a {trouble}, {turns} turns");
        table.row(&row, &format!("{longest:.2} s"), Some((format!("≤ {aim} s"), longest <= aim)));
    }
}

async fn last_seq(url: &str) -> u64 {
    get(url, "/api/stats").await.body["log"]["head"].as_u64().unwrap()
}

/// Waits until each node has so many changes, and no more.
async fn all_have(urls: &[String], changes: u64) {
    let start = Instant::now();
    for url in urls {
        loop {
            let last_seq = last_seq(url).await;
            assert!(last_seq <= changes, "{url} has {last_seq} changes, {changes} were acknowledged");
            if last_seq == changes {
                break;
            }
            assert!(start.elapsed() < HANG, "{url} has {last_seq} changes, {changes} were acknowledged");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
}

fn median(values: impl Iterator<Item = f64>) -> f64 {
    let mut values: Vec<_> = values.collect();
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

fn percentile(times: &mut [Duration], per_cent: usize) -> Duration {
    times.sort_unstable();
    times[(times.len() * per_cent).div_ceil(100) - 1]
}

#[derive(Default)]
struct Table {
    rows: Vec<String>,
    missed: usize,
}

impl Table {
    /// One row, and what was aimed at.
    fn row(&mut self, what: &str, figure: &str, aim: Option<(String, bool)>) {
        let aim = aim.map_or_else(String::new, |(aim, is_met)| {
            self.missed += usize::from(!is_met);
            format!("{aim}, {}", if is_met { "met" } else { "**missed**" })
        });
        eprintln!("{what}: {figure} {aim}");
        self.rows.push(format!("| {what} | {figure} | {aim} |"));
    }

    fn is_met(&self) -> bool {
        self.missed == 0
    }

    fn print(&self) {
        println!("| measure | result | aim |\n| --- | --- | --- |\n{}", self.rows.join("\n"));
    }
}
