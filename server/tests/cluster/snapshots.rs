//! Snapshots beside the stream: a node starts with one where the stream begins later.

use super::common::clients::Random;
use super::common::cluster::{Cluster, attempt, metric, same_everywhere, seqs};
use super::{HANG, one};
use async_nats::jetstream::context::Context;
use async_nats::jetstream::object_store::ObjectStore;
use futures_util::TryStreamExt;
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::time::{Duration, Instant};

/// So small a stream loses its beginning soon.
const SMALL: &str = "--cluster-max-bytes 2000000";

/// A push of 6 kB that does not get much smaller.
fn large(n: usize) -> Value {
    let (mut request, mut random, mut text) = (one(&n.to_string()), Random(n as u64 + 1), String::new());
    for _ in 0..750 {
        write!(text, "{:08x}", random.below(1 << 32)).unwrap();
    }
    request["changes"][0]["data"] = json!(text);
    request
}

/// Pushes `first`… until there were so many different snapshots. Returns how many pushes there are.
async fn push_until(cluster: &Cluster, first: usize, snapshots: usize) -> usize {
    let (client, urls, start) = (reqwest::Client::new(), cluster.urls(), Instant::now());
    let (mut pushed, mut positions) = (first, BTreeSet::new());
    while positions.len() < snapshots {
        assert!(start.elapsed() < HANG, "snapshots at {positions:?} only: {}", cluster.said());
        attempt(&client, &urls[pushed % 3], &large(pushed), HANG).await.unwrap();
        pushed += 1;
        positions.insert(metric(&urls[pushed % 3], "cluster_snapshot_position").await);
        positions.remove(&0);
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    pushed
}

/// Starts a node anew, without its store.
fn start_anew(cluster: &Cluster, node: usize) {
    assert!(cluster.nodes[node].stop());
    std::fs::remove_dir_all(cluster.data(node)).unwrap();
    assert!(cluster.nodes[node].start(), "{}", cluster.nodes[node].said());
}

async fn jetstream(cluster: &Cluster) -> Context {
    async_nats::jetstream::new(async_nats::connect(cluster.nats.urls()).await.unwrap())
}

/// The names of all snapshots, in order.
async fn names(bucket: &ObjectStore) -> Vec<String> {
    let objects: Vec<_> = bucket.list().await.unwrap().try_collect().await.unwrap();
    let mut names: Vec<_> = objects.into_iter().map(|object| object.name).collect();
    names.sort();
    names
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_node_starts_with_a_snapshot_where_the_stream_begins_later() {
    let Some(cluster) = Cluster::start(SMALL) else { return };
    // The stream loses its beginning with the second snapshot.
    let pushed = push_until(&cluster, 0, 2).await;
    start_anew(&cluster, 2);
    assert!(cluster.nodes[2].said().contains("started with a snapshot"), "{}", cluster.nodes[2].said());
    // What was pushed before the snapshot is known.
    let answer = attempt(&reqwest::Client::new(), &cluster.urls()[2], &large(0), HANG).await.unwrap();
    assert_eq!(seqs(&answer), [1]);
    assert_eq!(same_everywhere(&cluster.urls()).await.0.len(), pushed);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_torn_snapshot_is_passed_over_for_the_one_before_it() {
    let Some(cluster) = Cluster::start(SMALL) else { return };
    let pushed = push_until(&cluster, 0, 2).await;
    let (api, name) = (jetstream(&cluster).await, cluster.stream());
    let bucket = api.get_object_store(&name).await.unwrap();
    let stream = api.get_stream(format!("OBJ_{name}")).await.unwrap();
    for is_all_lost in [false, true] {
        let before = cluster.nodes[2].said().len();
        let kept = names(&bucket).await;
        let [older, latest] = &kept[..] else { panic!("two are kept, not {kept:?}") };
        let object = bucket.info(latest).await.unwrap();
        let chunks = format!("$O.{name}.C.{}", object.nuid);
        if is_all_lost {
            stream.purge().filter(&chunks).await.unwrap();
        } else {
            assert!(object.chunks > 1);
            let last = stream.get_last_raw_message_by_subject(&chunks).await.unwrap();
            stream.delete_message(last.sequence).await.unwrap();
        }
        start_anew(&cluster, 2);
        let position = |name: &str| name.rsplit('-').next().unwrap().trim_start_matches('0').to_owned();
        let said = cluster.nodes[2].said().split_off(before);
        let [refused, started] = ["a snapshot cannot be used", "started with a snapshot"]
            .map(|what| said.lines().find(|line| line.contains(what)).unwrap_or_else(|| panic!("{said}")));
        assert!(refused.contains(&position(latest)), "{refused}");
        assert!(started.contains(&position(older)), "{started}");
        assert_eq!(same_everywhere(&cluster.urls()).await.0.len(), pushed);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn snapshots_of_a_stream_that_was_deleted_do_not_stand_in_the_way() {
    let Some(cluster) = Cluster::start(SMALL) else { return };
    push_until(&cluster, 0, 2).await;
    let (api, name) = (jetstream(&cluster).await, cluster.stream());
    let bucket = api.get_object_store(&name).await.unwrap();
    let old = names(&bucket).await;
    for node in 0..3 {
        assert!(cluster.nodes[node].stop());
        std::fs::remove_dir_all(cluster.data(node)).unwrap();
    }
    api.delete_stream(&name).await.unwrap();

    assert!(cluster.start_nodes(), "{}", cluster.said());
    // At lower positions than the old ones.
    let pushed = push_until(&cluster, 10_000, 2).await - 10_000;
    start_anew(&cluster, 2);
    let said = cluster.nodes[2].said();
    assert!(said.contains("started with a snapshot"), "{said}");
    assert!(said.contains("objects that are no snapshots of this stream"), "{said}");
    assert_eq!(same_everywhere(&cluster.urls()).await.0.len(), pushed);
    let all = names(&bucket).await;
    assert!(old.iter().all(|old| all.contains(old)), "{old:?} are left alone: {all:?}");
}
