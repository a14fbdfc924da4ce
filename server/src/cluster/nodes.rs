//! The nodes of the cluster, as each tells of itself. For people: nothing depends on it.
//!
//! Each node says once a second where it stands, by a message that the servers do not keep. A node
//! that is not heard for [`REMEMBERED`] is forgotten. Messages that are not understood are ignored;
//! a later version may say more. What is told cannot be trusted further than the permissions of the
//! subject go: text is bounded, and so is the number of nodes.

use super::ClusterStatus;
use super::nats::NatsStream;
use crate::config::{Cluster, MAX_NODE_NAME};
use futures_util::StreamExt;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};
use tokio::time::MissedTickBehavior;

/// The interval of messages.
const INTERVAL: Duration = Duration::from_secs(1);

/// How long a node is remembered that says nothing.
const REMEMBERED: Duration = Duration::from_secs(10);

/// The most nodes that are remembered, with this one.
const MAX_NODES: usize = 64;

/// Longer messages and versions are ignored.
const MAX_MESSAGE: usize = 1024;
const MAX_VERSION: usize = 64;

const VERSION: &str = env!("CARGO_PKG_VERSION");

/// What a node tells of itself.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct Told {
    /// Random for each life of a process: names may be the same by mistake.
    id: u64,
    name: String,
    version: String,
    position: u64,
    lag: u64,
    stale_ms: u64,
}

/// Where a node stands in the stream.
#[derive(Debug, Clone, Copy)]
pub(super) struct Standing {
    pub(super) position: u64,
    /// The last position that it knows of.
    pub(super) last: u64,
    pub(super) stale_for: Duration,
}

/// The figures of a cluster, as one of its nodes sees it.
#[derive(Debug, Serialize)]
pub(crate) struct ClusterFigures {
    log: String,
    position: u64,
    last: u64,
    stale_ms: u64,
    nodes: Vec<NodeFigures>,
}

#[derive(Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
struct NodeFigures {
    name: String,
    position: u64,
    lag: u64,
    stale_ms: u64,
    heard_ms_ago: u64,
    version: String,
}

/// This node, and those that were heard.
#[derive(Debug)]
pub(crate) struct Nodes {
    id: u64,
    log: String,
    name: String,
    heard: Mutex<BTreeMap<u64, (Told, Instant)>>,
}

impl Nodes {
    /// This node alone.
    pub(crate) fn new(cluster: &Cluster) -> Self {
        let id =
            getrandom::u64().unwrap_or_else(|error| unreachable!("the system has random numbers: {error}"));
        let name = cluster.name.clone().unwrap_or_default();
        Self { id, log: cluster.log.clone(), name, heard: Mutex::default() }
    }

    fn told(&self, standing: Standing) -> Told {
        Told {
            id: self.id,
            name: self.name.clone(),
            version: VERSION.into(),
            position: standing.position,
            lag: standing.last.saturating_sub(standing.position),
            stale_ms: standing.stale_for.as_millis() as u64,
        }
    }

    fn hear(&self, message: &[u8], now: Instant) {
        if message.len() > MAX_MESSAGE {
            return;
        }
        let Ok(told) = serde_json::from_slice::<Told>(message) else { return };
        if told.id == self.id || told.name.len() > MAX_NODE_NAME || told.version.len() > MAX_VERSION {
            return;
        }
        let mut heard = self.heard.lock().unwrap_or_else(PoisonError::into_inner);
        heard.retain(|_, (_, at)| now.duration_since(*at) <= REMEMBERED);
        if heard.contains_key(&told.id) || heard.len() < MAX_NODES - 1 {
            heard.insert(told.id, (told, now));
        }
    }

    /// What was heard lately, and when.
    fn recent(&self, now: Instant) -> Vec<(Told, Duration)> {
        let heard = self.heard.lock().unwrap_or_else(PoisonError::into_inner);
        let recent = heard.values().map(|(told, at)| (told.clone(), now.duration_since(*at)));
        recent.filter(|(_, ago)| *ago <= REMEMBERED).collect()
    }

    /// How many nodes there are, with this one.
    pub(super) fn count(&self, now: Instant) -> usize {
        1 + self.recent(now).len()
    }

    /// All nodes, by name; this one as it stands now.
    pub(super) fn figures(&self, standing: Standing, now: Instant) -> ClusterFigures {
        let own = self.told(standing);
        let (position, stale_ms) = (own.position, own.stale_ms);
        let mut all = self.recent(now);
        all.push((own, Duration::ZERO));
        let figures = all.into_iter().map(|(told, ago)| NodeFigures {
            name: told.name,
            position: told.position,
            lag: told.lag,
            stale_ms: told.stale_ms,
            heard_ms_ago: ago.as_millis() as u64,
            version: told.version,
        });
        let mut nodes: Vec<_> = figures.collect();
        nodes.sort_unstable();
        ClusterFigures { log: self.log.clone(), position, last: standing.last, stale_ms, nodes }
    }
}

/// Tells the others of this node, and hears of them. Does not end.
pub(super) async fn run(stream: Arc<NatsStream>, status: Arc<ClusterStatus>) {
    let mut ticks = tokio::time::interval(INTERVAL);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        let mut others = match stream.others().await {
            Ok(others) => others,
            Err(error) => {
                tracing::warn!(%error, "the other nodes are not heard; trying again");
                tokio::time::sleep(INTERVAL).await;
                continue;
            }
        };
        loop {
            tokio::select! {
                _ = ticks.tick() => {
                    let told = serde_json::to_vec(&status.nodes.told(status.standing()));
                    let told = told.unwrap_or_else(|error| unreachable!("text and numbers serialise: {error}"));
                    stream.tell_others(told.into()).await;
                }
                message = others.next() => match message {
                    Some(message) => status.nodes.hear(&message, Instant::now()),
                    None => break,
                },
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    const STANDING: Standing = Standing { position: 7, last: 9, stale_for: Duration::from_millis(300) };

    fn nodes() -> Nodes {
        Nodes::new(&Cluster::new(["nats://a"], "orders").with_name("here"))
    }

    fn message(id: u64, name: &str) -> Value {
        json!({"id": id, "name": name, "version": "9.9", "position": 3, "lag": 6, "stale_ms": 12, "news": 1})
    }

    fn hear(nodes: &Nodes, message: &Value, now: Instant) {
        nodes.hear(message.to_string().as_bytes(), now);
    }

    #[test]
    fn a_node_is_shown_until_it_is_silent_for_too_long() {
        let (nodes, start) = (nodes(), Instant::now());
        hear(&nodes, &message(1, "there"), start);
        let shown = |after: u64| {
            let figures = nodes.figures(STANDING, start + Duration::from_secs(after));
            serde_json::to_value(figures).unwrap()
        };
        let here = json!({"name": "here", "position": 7, "lag": 2, "stale_ms": 300, "heard_ms_ago": 0,
            "version": VERSION});
        let there = json!({"name": "there", "position": 3, "lag": 6, "stale_ms": 12, "heard_ms_ago": 4000,
            "version": "9.9"});
        let expected =
            json!({"log": "orders", "position": 7, "last": 9, "stale_ms": 300, "nodes": [here, there]});
        assert_eq!(shown(4), expected);
        assert_eq!(shown(11)["nodes"], json!([here]));
        assert_eq!(nodes.count(start + Duration::from_secs(11)), 1);
    }

    #[test]
    fn what_it_tells_is_heard_by_others_and_not_by_itself() {
        let (one, other, now) = (nodes(), nodes(), Instant::now());
        let told = serde_json::to_vec(&one.told(STANDING)).unwrap();
        one.hear(&told, now);
        other.hear(&told, now);
        assert_eq!((one.count(now), other.count(now)), (1, 2), "though both have the same name");
    }

    #[test]
    fn bad_messages_are_ignored_and_the_number_of_nodes_is_bounded() {
        let (nodes, start) = (nodes(), Instant::now());
        nodes.hear(b"", start);
        nodes.hear(b"{}", start);
        hear(&nodes, &message(1, &"x".repeat(65)), start);
        let mut long = message(1, "there");
        long["news"] = "x".repeat(1024).into();
        hear(&nodes, &long, start);
        let mut negative = message(1, "there");
        negative["lag"] = (-1).into();
        hear(&nodes, &negative, start);
        assert_eq!(nodes.count(start), 1);
        for id in 0..1000 {
            hear(&nodes, &message(id, "many"), start);
        }
        assert_eq!(nodes.count(start), MAX_NODES);
        let later = start + REMEMBERED + INTERVAL;
        hear(&nodes, &message(1000, "new"), later);
        assert_eq!(nodes.count(later), 2, "those that fell silent leave room");
    }
}
