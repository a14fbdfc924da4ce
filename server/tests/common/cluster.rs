//! Nodes of a cluster over real NATS servers, clients that move between them, and what all must
//! agree on.

use super::clients::{Random, Replica, Until};
use super::nats::NatsCluster;
use super::network::Network;
use super::process::Process;
use super::{HANG, Rows, fold, get, snapshot};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use tokio::sync::watch;

/// How long a client waits for an answer before it asks another node: most clients, and some.
const PATIENCE: [Duration; 4] =
    [Duration::from_secs(3), Duration::from_secs(3), Duration::from_secs(3), Duration::from_secs(20)];

/// How long a client waits before it tries again.
const PAUSE: Duration = Duration::from_millis(15);

/// The most changes of a push.
const MAX_CHANGES: usize = 8;

/// Three NATS servers and three nodes, all processes of their own.
pub struct Cluster {
    pub nats: Arc<NatsCluster>,
    pub nodes: Vec<Process>,
    log: String,
    folder: tempfile::TempDir,
    network: Option<Network>,
}

impl Cluster {
    /// Starts servers and nodes, those with more arguments. None if NATS is not installed.
    pub fn start(args: &str) -> Option<Arc<Self>> {
        let cluster = Self::of(&Arc::new(servers()?), "test", args);
        assert!(cluster.start_nodes(), "{}", cluster.said());
        Some(Arc::new(cluster))
    }

    /// As [`start`](Self::start), with a network that can be cut where the system allows it.
    pub fn start_apart(args: &str) -> Option<Arc<Self>> {
        let network = Network::new();
        let Some(places) = network.as_ref().map(Network::places) else { return Self::start(args) };
        let nats = NatsCluster::start_in(&places, SYNC, LARGE)?;
        let cluster = Self::new(&Arc::new(nats), "test", (3, args), network);
        assert!(cluster.start_nodes(), "{}", cluster.said());
        Some(Arc::new(cluster))
    }

    /// Three nodes that are not started yet.
    pub fn of(nats: &Arc<NatsCluster>, log: &str, args: &str) -> Self {
        Self::of_nodes(nats, log, 3, args)
    }

    /// So many nodes that are not started yet.
    pub fn of_nodes(nats: &Arc<NatsCluster>, log: &str, count: usize, args: &str) -> Self {
        Self::new(nats, log, (count, args), None)
    }

    fn new(
        nats: &Arc<NatsCluster>,
        log: &str,
        (count, args): (usize, &str),
        network: Option<Network>,
    ) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let (nats, log) = (Arc::clone(nats), log.to_owned());
        let mut cluster = Self { nats, nodes: Vec::new(), log, folder, network };
        // The servers have room for some streams of this size.
        let size = if args.contains("--cluster-max-bytes") { "" } else { "--cluster-max-bytes 100000000" };
        let args = format!("--cluster-create {size} {args}");
        let node = |node| cluster.node_in(&format!("node-{node}"), &cluster.urls_for(node), &args);
        cluster.nodes = (0..count).map(node).collect();
        cluster
    }

    /// One more node that is not started yet, with these arguments.
    pub fn node(&self, args: &str) -> Process {
        self.node_in("other", &self.nats.urls(), args)
    }

    /// Where a node finds the servers.
    fn urls_for(&self, node: usize) -> Vec<String> {
        let addresses = self.network.as_ref().map(|network| network.addresses(node));
        addresses.map_or_else(|| self.nats.urls(), |all| self.nats.urls_at(all.iter().map(String::as_str)))
    }

    fn node_in(&self, name: &str, urls: &[String], args: &str) -> Process {
        let args = format!("--cluster {} --log {} {args}", urls.join(","), self.log);
        Process::new(&self.folder.path().join(name), &args)
    }

    /// Starts the nodes that do not run. Side by side: a node waits for the stream's leader. True
    /// once all can be used.
    pub fn start_nodes(&self) -> bool {
        std::thread::scope(|scope| {
            let away = self.nodes.iter().filter(|node| node.has_ended());
            let starting: Vec<_> = away.map(|node| scope.spawn(|| node.start())).collect();
            starting.into_iter().all(|node| node.join().unwrap())
        })
    }

    /// The stream's name.
    pub fn stream(&self) -> String {
        format!("RINGLOG_{}", self.log)
    }

    /// The NATS server that leads the stream.
    pub fn leader(&self) -> usize {
        self.nats.stream_leader(&self.stream())
    }

    /// Where the nodes listen.
    pub fn urls(&self) -> Vec<String> {
        self.nodes.iter().map(Process::url).collect()
    }

    /// Where a node keeps its store.
    pub fn data(&self, node: usize) -> std::path::PathBuf {
        self.folder.path().join(format!("node-{node}"))
    }

    /// What the nodes said.
    pub fn said(&self) -> String {
        self.nodes.iter().fold(String::new(), |mut said, node| {
            let _ = writeln!(said, "--- {}", node.said());
            said
        })
    }
}

/// Lines of the servers' configuration: acknowledged is synced, and the largest push has room.
pub const SYNC: &str = "sync_interval: always";
pub const LARGE: &str = "max_payload: 4MB";

/// Three NATS servers with room for the largest push. None if NATS is not installed.
pub fn servers() -> Option<NatsCluster> {
    NatsCluster::start_with(3, SYNC, LARGE)
}

/// A push that was answered.
pub struct Answered {
    /// When it was sent first.
    began: Instant,
    ended: Instant,
    seqs: Vec<u64>,
    changes: Vec<Value>,
}

/// What the clients have seen so far.
#[derive(Default)]
pub struct Seen {
    answers: Mutex<BTreeMap<String, u64>>,
    acknowledged: Mutex<Vec<Instant>>,
    troubles: Mutex<Vec<(&'static str, Instant)>>,
}

impl Seen {
    fn count(&self, answer: impl Into<String>) {
        *self.answers.lock().unwrap().entry(answer.into()).or_default() += 1;
    }

    /// Notes that something is done to the cluster now.
    pub fn trouble(&self, name: &'static str) {
        self.troubles.lock().unwrap().push((name, Instant::now()));
    }

    /// Waits until so many more pushes are acknowledged.
    pub fn wait_for(&self, count: usize) {
        let (start, before) = (Instant::now(), self.acknowledged.lock().unwrap().len());
        while self.acknowledged.lock().unwrap().len() < before + count {
            assert!(start.elapsed() < HANG, "no push is acknowledged: {:?}", self.answers.lock().unwrap());
            std::thread::sleep(PAUSE);
        }
    }

    /// The longest time without an acknowledgement after each kind of trouble, until the next one.
    fn stalls(&self) -> BTreeMap<&'static str, Duration> {
        let (mut acks, troubles) = (self.acknowledged.lock().unwrap().clone(), self.troubles.lock().unwrap());
        acks.sort();
        let mut stalls = BTreeMap::new();
        for (index, (name, at)) in troubles.iter().enumerate() {
            let end = troubles.get(index + 1).map_or_else(Instant::now, |(_, next)| *next);
            let gaps = acks.windows(2).filter(|pair| pair[1] > *at && pair[0] < end);
            let longest = gaps.map(|pair| pair[1] - pair[0]).max().unwrap_or_default();
            let stall = stalls.entry(*name).or_default();
            *stall = longest.max(*stall);
        }
        stalls
    }
}

/// What a storm has to show for itself.
#[derive(Debug)]
pub struct Figures {
    pub pushes: usize,
    pub changes: usize,
    pub answers: BTreeMap<String, u64>,
    pub stalls: BTreeMap<&'static str, Duration>,
    pub took: Duration,
}

impl Figures {
    pub fn print(&self) {
        let Self { pushes, changes, answers, stalls, took } = self;
        println!("{pushes} pushes, {changes} changes in {took:.0?}: 0 lost, 0 doubled, 0 differ");
        println!("answers: {answers:?}");
        println!("longest time without an acknowledgement after: {stalls:.1?}");
    }
}

/// Clients push and follow, each at any node, while `disturb` does what it likes; at the end it
/// leaves all in working order. Then all must agree.
pub async fn storm(
    cluster: &Arc<Cluster>,
    pushers: usize,
    disturb: impl FnOnce(&Cluster, &Seen) + Send + 'static,
) -> Figures {
    let start = Instant::now();
    let (seen, urls) = (Arc::new(Seen::default()), cluster.urls());
    let (stop, stopped) = watch::channel(false);
    let (done, until) = watch::channel(None);
    let pushing: Vec<_> = (0..pushers)
        .map(|number| tokio::spawn(push(urls.clone(), number, Arc::clone(&seen), stopped.clone())))
        .collect();
    let following = (1..).zip(["pull", "long poll", "sse", "ws", "sse", "ws"]).map(|(seed, kind)| {
        let (urls, until): (_, Until) = (urls.clone(), until.clone());
        tokio::spawn(async move { Replica::new(kind).follow_any(&urls, Random(seed), until).await })
    });
    let following: Vec<_> = following.collect();
    let disturbing = tokio::task::spawn_blocking({
        let (cluster, seen) = (Arc::clone(cluster), Arc::clone(&seen));
        move || disturb(&cluster, &seen)
    });
    // Dropped if the disturber fails: the clients end.
    disturbing.await.unwrap();
    stop.send_replace(true);
    let work = async {
        let mut outcomes = Vec::new();
        for pusher in pushing {
            outcomes.extend(pusher.await.unwrap());
        }
        let last_seq = outcomes.iter().map(|push| push.seqs.len() as u64).sum();
        done.send_replace(Some(last_seq));
        let mut replicas = Vec::new();
        for replica in following {
            replicas.push(replica.await.unwrap());
        }
        (outcomes, replicas)
    };
    let worked = tokio::time::timeout(HANG, work).await;
    let (outcomes, replicas) = worked.unwrap_or_else(|_| panic!("it hangs: {}", cluster.said()));
    agree(cluster, &outcomes, &replicas).await;
    Figures {
        pushes: outcomes.len(),
        changes: outcomes.iter().map(|push| push.seqs.len()).sum(),
        answers: seen.answers.lock().unwrap().clone(),
        stalls: seen.stalls(),
        took: start.elapsed(),
    }
}

/// Pushes until told to stop, each request until it is acknowledged, each attempt at any node.
async fn push(
    urls: Vec<String>,
    number: usize,
    seen: Arc<Seen>,
    stopped: watch::Receiver<bool>,
) -> Vec<Answered> {
    let (client, mut random) = (reqwest::Client::new(), Random(number as u64 + 11));
    let mut pushes = Vec::new();
    while !*stopped.borrow() && stopped.has_changed().is_ok() {
        let request = request(number, pushes.len(), &mut random);
        let began = Instant::now();
        if random.below(8) == 0 {
            // The answer is lost: hung up after a moment.
            let moment = Duration::from_micros(random.below(30_000) as u64);
            let _ = attempt(&client, &urls[random.below(urls.len())], &request, moment).await;
            seen.count("lost");
        }
        let answer = loop {
            if stopped.has_changed().is_err() {
                return pushes;
            }
            let url = &urls[random.below(urls.len())];
            match attempt(&client, url, &request, PATIENCE[random.below(PATIENCE.len())]).await {
                Ok(answer) => break answer,
                Err(why) => seen.count(why),
            }
            tokio::time::sleep(PAUSE).await;
        };
        let ended = Instant::now();
        seen.count("acknowledged");
        seen.acknowledged.lock().unwrap().push(ended);
        let seqs = seqs(&answer);
        let Value::Array(changes) = request["changes"].clone() else { panic!("no changes") };
        assert_eq!(seqs.len(), changes.len(), "{answer}");
        assert!(seqs.windows(2).all(|pair| pair[1] == pair[0] + 1), "a batch is whole: {answer}");
        pushes.push(Answered { began, ended, seqs, changes });
    }
    pushes
}

/// The seqs of an answer.
pub fn seqs(answer: &Value) -> Vec<u64> {
    let results = answer["results"].as_array().expect("results");
    results
        .iter()
        .map(|result| result["seq"].as_u64().unwrap_or_else(|| panic!("no seq: {result}")))
        .collect()
}

/// Sends a push once. Answers with the acknowledgement, or why there is none.
pub async fn attempt(
    client: &reqwest::Client,
    url: &str,
    request: &Value,
    patience: Duration,
) -> Result<Value, String> {
    let sent = client.post(format!("{url}/api/sync/push")).timeout(patience).json(request).send().await;
    let sent = sent.map_err(|error| {
        if error.is_timeout() { "no answer in time".to_owned() } else { "no connection".into() }
    })?;
    let status = sent.status().as_u16();
    let answer: Value = sent.json().await.map_err(|_| "half an answer")?;
    if status == 503 {
        return Err(format!("503 {}", answer["error"]["code"].as_str().unwrap_or("without a code")));
    }
    assert_eq!(status, 200, "{answer}");
    let mut results = answer["results"].as_array().into_iter().flatten();
    if results.any(|result| result["status"] == "pending") { Err("pending".into()) } else { Ok(answer) }
}

/// Some changes of a few rows, each with an op id of its own.
fn request(pusher: usize, n: usize, random: &mut Random) -> Value {
    let count = 1 + random.below(MAX_CHANGES);
    let change = |i: usize, random: &mut Random| {
        let kind = ["insert", "update", "update", "delete"][random.below(4)];
        let mut change = json!({
            "entity": (["Todo", "List", "a \"quoted\" name"][random.below(3)]),
            "row_id": format!("row-{}", random.below(200)),
            "kind": kind,
            "op_id": format!("{pusher}:{n}:{i}"),
        });
        if kind != "delete" {
            change["data"] =
                json!({"push": [pusher, n, i], "text": "ü".repeat(random.below(60)), "half": 0.5});
        }
        change
    };
    let changes: Vec<_> = (0..count).map(|i| change(i, random)).collect();
    json!({"client_id": format!("client-{}", pusher % 4), "changes": changes})
}

/// What was acknowledged, all logs, all rows and all replicas are the same.
async fn agree(cluster: &Cluster, pushes: &[Answered], replicas: &[Replica]) {
    in_real_time_order(pushes);
    let mut acknowledged = BTreeMap::new();
    for (seq, change) in pushes.iter().flat_map(|push| push.seqs.iter().zip(&push.changes)) {
        assert!(acknowledged.insert(*seq, change).is_none(), "seq {seq} was given twice");
    }
    let last_seq = acknowledged.len() as u64;
    assert!(acknowledged.keys().copied().eq(1..=last_seq), "seqs are dense");
    let mut rows = Rows::new();
    for (seq, change) in &acknowledged {
        let mut change = (*change).clone();
        change["seq"] = (*seq).into();
        fold(&mut rows, &change);
    }
    let (log, snapshot) = same_everywhere(&cluster.urls()).await;
    assert_eq!(snapshot.0, rows, "the rows of the nodes");
    assert!(snapshot.1.ends_with(&format!(".{last_seq}")), "{}: one event for each change", snapshot.1);
    for event in &log {
        let change = acknowledged[&event["seq"].as_u64().unwrap()];
        for field in ["entity", "row_id", "kind", "data"] {
            assert_eq!(event[field], change[field], "{event} is not what was acknowledged: {change}");
        }
    }
    for replica in replicas {
        assert_eq!(replica.rows, rows, "the replica kept by {}", replica.kind);
        assert_eq!(replica.resyncs, 0, "the replica kept by {} had to start over", replica.kind);
    }
}

/// A push that began after another was answered has the greater seqs.
fn in_real_time_order(pushes: &[Answered]) {
    let mut by_end: Vec<_> = pushes.iter().collect();
    by_end.sort_by_key(|push| push.ended);
    let mut by_start: Vec<_> = pushes.iter().collect();
    by_start.sort_by_key(|push| push.began);
    let (mut ended, mut greatest) = (by_end.into_iter().peekable(), 0);
    for push in by_start {
        while let Some(earlier) = ended.next_if(|earlier| earlier.ended < push.began) {
            greatest = greatest.max(*earlier.seqs.last().unwrap());
        }
        assert!(push.seqs[0] > greatest, "{:?} came after {greatest} was answered", push.seqs);
    }
}

/// Waits until the nodes rest at one position, and compares all that they serve, byte by byte.
/// Returns the log, as far as it is in the window, the rows and their token.
pub async fn same_everywhere(urls: &[String]) -> (Vec<Value>, (Rows, String)) {
    let start = Instant::now();
    loop {
        let mut positions = Vec::new();
        for url in urls {
            positions.push(metric(url, "cluster_position").await);
        }
        if positions.windows(2).all(|pair| pair[0] == pair[1]) {
            break;
        }
        assert!(start.elapsed() < HANG, "the nodes stay apart: {positions:?}");
        tokio::time::sleep(PAUSE).await;
    }
    let oldest = get(&urls[0], "/api/stats").await.body["log"]["oldest"].as_u64().unwrap();
    let mut first = None;
    for url in urls {
        let snapshot = snapshot(url, 500).await.expect("a snapshot");
        let pages = pages(url, oldest - 1).await;
        match &first {
            None => first = Some((pages, snapshot)),
            Some(first) => {
                assert!((&pages, &snapshot) == (&first.0, &first.1), "{url} differs from {}", urls[0]);
            }
        }
    }
    let (pages, snapshot) = first.unwrap();
    let changes = pages.iter().flat_map(|page| {
        let page: Value = serde_json::from_str(page).unwrap();
        page["changes"].as_array().unwrap().clone()
    });
    (changes.collect(), snapshot)
}

/// The bytes of the log after a seq, in pages.
async fn pages(url: &str, mut since: u64) -> Vec<String> {
    let mut pages = Vec::new();
    loop {
        let answer = reqwest::get(format!("{url}/api/sync/pull?since={since}&limit=1000")).await.unwrap();
        assert_eq!(answer.status().as_u16(), 200);
        let text = answer.text().await.unwrap();
        let page: Value = serde_json::from_str(&text).unwrap();
        since = page["cursor"]["last_seq"].as_u64().unwrap();
        pages.push(text);
        if page["has_more"] != true {
            return pages;
        }
    }
}

/// A figure of a node.
#[expect(clippy::cast_sign_loss, reason = "none is negative")]
pub async fn metric(url: &str, name: &str) -> u64 {
    let text = reqwest::get(format!("{url}/metrics")).await.unwrap().text().await.unwrap();
    let mut values = text.lines().filter_map(|line| line.strip_prefix(&format!("ringlog_{name} ")));
    let value: f64 = values.next().unwrap_or_else(|| panic!("no {name} in {text}")).parse().unwrap();
    value as u64
}

/// What can happen to a cluster.
#[derive(Debug, Clone, Copy)]
pub enum Trouble {
    KillLeader,
    KillFollower,
    KillNode,
    KillServers,
    KillEverything,
    StopLeader,
    StopFollower,
    StopNode,
    PauseLeader,
    PauseNode,
    CutLeader,
    CutFollower,
    CutNode,
}

impl Trouble {
    pub const ALL: [Self; 13] = [
        Self::KillLeader,
        Self::KillFollower,
        Self::KillNode,
        Self::KillServers,
        Self::KillEverything,
        Self::StopLeader,
        Self::StopFollower,
        Self::StopNode,
        Self::PauseLeader,
        Self::PauseNode,
        Self::CutLeader,
        Self::CutFollower,
        Self::CutNode,
    ];

    fn name(self) -> &'static str {
        match self {
            Self::KillLeader => "kill of the leader",
            Self::KillFollower => "kill of a follower",
            Self::KillNode => "kill of a node",
            Self::KillServers => "kill of all servers",
            Self::KillEverything => "kill of everything",
            Self::StopLeader => "SIGTERM of the leader",
            Self::StopFollower => "SIGTERM of a follower",
            Self::StopNode => "SIGTERM of a node",
            Self::PauseLeader => "SIGSTOP of the leader",
            Self::PauseNode => "SIGSTOP of a node",
            Self::CutLeader => "cut around the leader",
            Self::CutFollower => "cut around a follower",
            Self::CutNode => "cut around a node",
        }
    }

    /// Lets it happen, and mends it after a time. Where the network cannot be cut, processes stand
    /// still.
    pub fn befall(self, cluster: &Cluster, seen: &Seen, random: &mut Random, time: Duration) {
        let Cluster { nodes, network, .. } = cluster;
        let (leader, number) = (cluster.leader(), random.below(3));
        let node = &nodes[number];
        let server = match self {
            Self::KillFollower | Self::StopFollower | Self::CutFollower => (leader + 1 + random.below(2)) % 3,
            _ => leader,
        };
        seen.trouble(self.name());
        match (self, network) {
            (Self::CutLeader | Self::CutFollower, Some(network)) => network.server(server, false),
            (Self::CutNode, Some(network)) => network.node(number, false),
            _ => self.begin(cluster, server, node),
        }
        std::thread::sleep(time);
        match (self, network) {
            (Self::CutLeader | Self::CutFollower, Some(network)) => network.server(server, true),
            (Self::CutNode, Some(network)) => network.node(number, true),
            _ => self.end(cluster, server, node),
        }
        seen.wait_for(50);
        for node in nodes {
            assert!(!node.has_ended(), "it ended after a {}: {}", self.name(), node.said());
        }
    }

    fn begin(self, Cluster { nats, nodes, .. }: &Cluster, server: usize, node: &Process) {
        match self {
            Self::KillLeader | Self::KillFollower => nats.kill(server),
            Self::StopLeader | Self::StopFollower => nats.stop(server),
            Self::PauseLeader | Self::CutLeader | Self::CutFollower => nats.pause(server),
            Self::PauseNode | Self::CutNode => node.signal("STOP"),
            Self::KillNode => node.kill(),
            Self::StopNode => assert!(node.stop(), "{}", node.said()),
            Self::KillServers => (0..3).for_each(|server| nats.kill(server)),
            Self::KillEverything => {
                nodes.iter().for_each(Process::kill);
                (0..3).for_each(|server| nats.kill(server));
            }
        }
    }

    fn end(self, cluster: &Cluster, server: usize, node: &Process) {
        let nats = &cluster.nats;
        match self {
            Self::KillLeader | Self::KillFollower | Self::StopLeader | Self::StopFollower => {
                nats.restart(server);
            }
            Self::PauseLeader | Self::CutLeader | Self::CutFollower => nats.resume(server),
            Self::PauseNode | Self::CutNode => node.signal("CONT"),
            Self::KillNode | Self::StopNode => assert!(node.start(), "{}", node.said()),
            Self::KillServers | Self::KillEverything => (0..3).for_each(|server| nats.restart(server)),
        }
        if matches!(self, Self::KillEverything) {
            assert!(cluster.start_nodes(), "{}", cluster.said());
        }
    }
}
