//! Nodes of a cluster, their NATS servers and their clients, all real: nothing acknowledged is
//! lost, nothing is applied twice, all nodes serve the same, whatever ends or stands still.
//!
//! `RINGLOG_CLUSTER_DEEP=<minutes>` makes one storm of everything last that long.
#![cfg(feature = "cluster")]
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use common::clients::Random;
use common::cluster::{Cluster, Trouble, attempt, metric, same_everywhere, seqs, servers, storm};
use common::process::Process;
use common::{HANG, get};
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, Instant};

fn deep() -> Option<u64> {
    std::env::var("RINGLOG_CLUSTER_DEEP").ok().map(|minutes| minutes.parse().expect("minutes"))
}

fn sleep(seconds: u64) {
    std::thread::sleep(Duration::from_secs(seconds));
}

/// A push of one row under an op id.
fn one(op_id: &str) -> Value {
    json!({"client_id": "c", "changes": [
        {"entity": "Todo", "row_id": op_id, "kind": "insert", "data": {"id": op_id}, "op_id": op_id}
    ]})
}

/// Pushes until it is acknowledged. Returns the seqs.
async fn push(url: &str, request: &Value) -> Vec<u64> {
    let (client, start) = (reqwest::Client::new(), Instant::now());
    loop {
        match attempt(&client, url, request, HANG).await {
            Ok(answer) => return seqs(&answer),
            Err(why) => assert!(start.elapsed() < HANG, "{why}"),
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// Pushes so many rows, one after the other.
async fn push_rows(url: &str, name: &str, count: usize) {
    for n in 0..count {
        push(url, &one(&format!("{name}-{n}"))).await;
    }
}

/// Waits until a node has ended by itself.
async fn ended(node: &Process) {
    let start = Instant::now();
    while !node.has_ended() {
        assert!(start.elapsed() < HANG, "it does not end: {}", node.said());
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn clients_may_use_any_node_at_any_time() {
    let Some(cluster) = Cluster::start("") else { return };
    let figures = storm(&cluster, 12, |_, _| sleep(5)).await;
    figures.print();
    assert!(figures.answers.keys().all(|kind| kind == "acknowledged" || kind == "lost"));
}

async fn befallen(troubles: &'static [Trouble], time: u64) {
    let Some(cluster) = Cluster::start("") else { return };
    let figures = storm(&cluster, 8, move |cluster, seen| {
        let mut random = Random(std::process::id().into());
        for trouble in troubles {
            trouble.befall(cluster, seen, &mut random, Duration::from_secs(time));
        }
    });
    figures.await.print();
}

#[tokio::test(flavor = "multi_thread")]
async fn kills_of_servers_and_nodes_lose_nothing_and_double_nothing() {
    use Trouble::{KillEverything, KillFollower, KillLeader, KillNode, KillServers};
    befallen(&[KillLeader, KillFollower, KillNode, KillServers, KillEverything], 1).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn servers_and_nodes_may_be_stopped_one_after_the_other() {
    use Trouble::{StopFollower, StopLeader, StopNode};
    befallen(&[StopLeader, StopNode, StopFollower, StopLeader], 1).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_stood_still_goes_on_correctly() {
    use Trouble::{PauseLeader, PauseNode};
    befallen(&[PauseLeader, PauseNode], if deep().is_some() { 15 } else { 8 }).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_long_storm_of_everything() {
    let Some(minutes) = deep() else { return };
    let Some(cluster) = Cluster::start("--op-ids 200000 --capacity 200000") else { return };
    let figures = storm(&cluster, 8, move |cluster, seen| {
        let (start, mut random) = (Instant::now(), Random(u64::from(std::process::id())));
        while start.elapsed() < Duration::from_secs(60 * minutes) {
            let trouble = Trouble::ALL[random.below(Trouble::ALL.len())];
            let time = Duration::from_millis(200 + random.below(15_000) as u64);
            println!("{:>6.0?} {trouble:?} for {time:.1?}", start.elapsed());
            trouble.befall(cluster, seen, &mut random, time);
            std::thread::sleep(Duration::from_millis(random.below(5000) as u64));
        }
    });
    figures.await.print();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_minority_of_servers_takes_no_push_and_reads_go_on() {
    let Some(cluster) = Cluster::start("") else { return };
    let urls = cluster.urls();
    push_rows(&urls[0], "before", 5).await;
    same_everywhere(&urls).await;
    let leader = cluster.leader();
    cluster.nats.stop((leader + 1) % 3);
    cluster.nats.stop((leader + 2) % 3);
    let pushes: Vec<_> = (0..90)
        .map(|n| {
            let url = urls[n % 3].clone();
            tokio::spawn(async move {
                tokio::time::sleep(Duration::from_millis(50 * n as u64)).await;
                let start = Instant::now();
                let why = attempt(&reqwest::Client::new(), &url, &one(&format!("during-{n}")), HANG).await;
                (n, why.expect_err("there is no quorum"), start.elapsed())
            })
        })
        .collect();
    for url in &urls {
        let start = Instant::now();
        assert_eq!(get(url, "/api/sync/pull?since=0").await.seqs(), [1, 2, 3, 4, 5]);
        assert_eq!(get(url, "/api/sync/snapshot").await.status, 200);
        assert!(start.elapsed() < Duration::from_secs(1), "{:?}", start.elapsed());
    }
    let known = attempt(&reqwest::Client::new(), &urls[2], &one("before-3"), HANG).await.unwrap();
    assert_eq!((seqs(&known), &known["deduped"]), (vec![4], &json!(1)), "a retry needs no quorum");
    let (mut refused, mut unknown) = (BTreeSet::new(), BTreeSet::new());
    for push in pushes {
        let (n, why, took) = push.await.unwrap();
        let limit = match &*why {
            "503 NO_QUORUM" if refused.insert(n) => 3500,
            "503 OUTCOME_UNKNOWN" if unknown.insert(n) => 16_500,
            why => panic!("{why}"),
        };
        assert!(took < Duration::from_millis(limit), "{why} after {took:?}");
    }
    println!("{} refused, {} unknown", refused.len(), unknown.len());
    assert!(!refused.is_empty());
    cluster.nats.restart((leader + 1) % 3);
    cluster.nats.restart((leader + 2) % 3);
    push_rows(&urls[1], "after", 5).await;
    push_rows(&urls[0], "after", 5).await;
    push_rows(&urls[2], "after", 5).await;
    for n in unknown {
        push(&urls[(n + 1) % 3], &one(&format!("during-{n}"))).await;
    }
    let (log, _) = same_everywhere(&urls).await;
    let logged: BTreeSet<_> = log.iter().map(|event| event["row_id"].as_str().unwrap()).collect();
    assert_eq!(logged.len(), log.len(), "each once");
    for n in refused {
        assert!(!logged.contains(&*format!("during-{n}")), "it was said that nothing was applied");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn one_op_id_at_two_nodes_at_once_is_applied_once() {
    let Some(cluster) = Cluster::start("") else { return };
    let (urls, rounds) = (cluster.urls(), if deep().is_some() { 10_000 } else { 2000 });
    let pairs: Vec<_> = (0..16)
        .map(|part| {
            let (urls, client) = (urls.clone(), reqwest::Client::new());
            tokio::spawn(async move {
                let mut applied = Vec::new();
                for n in (part..rounds).step_by(16) {
                    let request = one(&n.to_string());
                    let sent = |node: usize| attempt(&client, &urls[node % 3], &request, HANG);
                    let (first, second) = tokio::join!(sent(n), sent(n + 1));
                    let (first, second) = (first.unwrap(), second.unwrap());
                    assert_eq!(seqs(&first), seqs(&second), "both name the same seq");
                    let fresh = [first, second].iter().filter(|answer| answer["deduped"] == 0).count();
                    assert_eq!(fresh, 1, "one was applied, the other is its replay");
                    applied.push(n);
                }
                applied
            })
        })
        .collect();
    let mut applied = BTreeSet::new();
    for pair in pairs {
        applied.extend(pair.await.unwrap());
    }
    assert_eq!(applied.len(), rounds);
    let (log, _) = same_everywhere(&urls).await;
    assert_eq!(log.len(), rounds);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_does_not_fit_is_refused_by_name_and_no_stream_is_made_unasked() {
    let Some(nats) = servers() else { return };
    let cluster = Cluster::of(&Arc::new(nats), "test", "--op-ids 20000 --capacity 500");
    let early = cluster.node("--op-ids 20000 --capacity 500");
    assert!(!early.start());
    assert!(early.said().contains("no stream RINGLOG_test"), "{}", early.said());
    let client = async_nats::connect(&*cluster.nats.urls()[0]).await.unwrap();
    let names = async_nats::jetstream::new(client).stream_names();
    assert_eq!(futures_util::StreamExt::count(names).await, 0, "nothing was made");

    assert!(cluster.start_nodes(), "{}", cluster.said());
    push_rows(&cluster.urls()[0], "row", 3).await;
    for (args, why) in [
        ("--op-ids 30000 --capacity 500", "ringlog.op_ids is 20000, and must be 30000"),
        ("--op-ids 19999 --capacity 500", "--op-ids is 19999: with --cluster the minimum is 20000"),
        ("--op-ids 20000 --capacity 600", "ringlog.capacity is 500, and must be 600"),
    ] {
        let other = cluster.node(args);
        assert!(!other.start());
        assert!(other.said().contains(why), "{}", other.said());
    }
    let late = cluster.node("--op-ids 20000 --capacity 500");
    assert!(late.start(), "{}", late.said());
    same_everywhere(&[cluster.urls(), vec![late.url()]].concat()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_stream_takes_no_push_and_says_so() {
    let Some(cluster) = Cluster::start("--cluster-max-bytes 300000") else { return };
    let (client, urls) = (reqwest::Client::new(), cluster.urls());
    let text = "x".repeat(20_000);
    let (mut acknowledged, mut refused, mut unknown) = (0, 0, 0);
    for n in 0..60 {
        let mut request = one(&n.to_string());
        request["changes"][0]["data"] = json!(text);
        let start = Instant::now();
        match attempt(&client, &urls[n % 3], &request, HANG).await.map_err(|why| (why, start.elapsed())) {
            Ok(_) => acknowledged += 1,
            Err((why, _)) if why == "503 LOG_FULL" => refused += 1,
            Err((why, took)) if why == "503 OUTCOME_UNKNOWN" => {
                println!("unknown after {took:?}");
                unknown += 1;
            }
            Err((why, _)) => panic!("{why}"),
        }
        if refused == 3 {
            break;
        }
    }
    println!("{acknowledged} acknowledged, {refused} refused, {unknown} unknown");
    assert!(acknowledged > 5 && refused == 3);
    assert_eq!(unknown, 0, "nothing of what is refused can be stored");
    let (log, _) = same_everywhere(&urls).await;
    assert_eq!(log.len(), acknowledged);
}

/// The file of a node's store.
fn store(data: &Path) -> PathBuf {
    let files = std::fs::read_dir(data).unwrap().map(|entry| entry.unwrap().path());
    files.max_by_key(|file| file.metadata().unwrap().len()).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_lost_its_store_or_has_a_damaged_one_comes_back_with_the_same_log() {
    let Some(cluster) = Cluster::start("") else { return };
    push_rows(&cluster.urls()[0], "before", 200).await;
    let node = &cluster.nodes[1];
    assert!(node.stop());
    std::fs::remove_dir_all(cluster.data(1)).unwrap();
    push_rows(&cluster.urls()[0], "meanwhile", 50).await;
    assert!(node.start(), "{}", node.said());
    let (log, _) = same_everywhere(&cluster.urls()).await;
    assert_eq!(log.len(), 250);

    assert!(node.stop());
    let file = store(&cluster.data(1));
    let whole = std::fs::read(&file).unwrap();
    let used: Vec<_> = (0..whole.len()).filter(|&at| whole[at] != 0).collect();
    let mut random = Random(7);
    let is_refused = |at: usize| {
        let mut damaged = whole.clone();
        damaged[at] ^= 0x10;
        std::fs::write(&file, damaged).unwrap();
        // One that starts has not needed the byte.
        let is_refused = !node.start();
        node.kill();
        is_refused
    };
    assert!((0..20).any(|_| is_refused(used[random.below(used.len())])), "no damage is noticed");
    assert!(node.said().contains("damaged"), "{}", node.said());
    std::fs::remove_dir_all(cluster.data(1)).unwrap();
    assert!(node.start(), "{}", node.said());
    assert_eq!(same_everywhere(&cluster.urls()).await.0, log);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_node_starts_with_a_snapshot_where_the_stream_begins_later() {
    let Some(cluster) = Cluster::start("--cluster-max-bytes 2000000") else { return };
    let (client, urls) = (reqwest::Client::new(), cluster.urls());
    let (mut pushed, mut positions) = (0, BTreeSet::new());
    let start = Instant::now();
    // The stream loses its beginning with the second snapshot.
    while positions.len() < 3 {
        assert!(start.elapsed() < HANG, "snapshots at {positions:?} only: {}", cluster.said());
        let mut request = one(&pushed.to_string());
        request["changes"][0]["data"] = json!("x".repeat(6_000));
        attempt(&client, &urls[pushed % 3], &request, HANG).await.unwrap();
        pushed += 1;
        positions.insert(metric(&urls[pushed % 3], "cluster_snapshot_position").await);
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let node = &cluster.nodes[2];
    assert!(node.stop());
    std::fs::remove_dir_all(cluster.data(2)).unwrap();
    assert!(node.start(), "{}", node.said());
    assert!(node.said().contains("started with a snapshot"), "{}", node.said());
    // What was pushed before the snapshot is known.
    let mut repeated = one("0");
    repeated["changes"][0]["data"] = json!("x".repeat(6_000));
    let answer = attempt(&client, &urls[2], &repeated, HANG).await.unwrap();
    assert_eq!(seqs(&answer), [1]);
    assert_eq!(same_everywhere(&urls).await.0.len(), pushed);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_message_that_is_no_frame_ends_the_nodes_which_name_its_position() {
    let Some(cluster) = Cluster::start("") else { return };
    push_rows(&cluster.urls()[0], "row", 3).await;
    let client = async_nats::connect(&*cluster.nats.urls()[0]).await.unwrap();
    let jetstream = async_nats::jetstream::new(client);
    let sent = jetstream.publish("ringlog.test.frames", "no frame".into()).await.unwrap();
    let position = sent.await.unwrap().sequence;
    for node in &cluster.nodes {
        ended(node).await;
        assert!(node.said().contains(&format!("position {position}: ")), "{}", node.said());
    }
    let node = &cluster.nodes[0];
    assert!(!node.start(), "it would apply what comes after");

    let skip = |position: u64| operator(&cluster, &format!("skip --position {position}"));
    assert_eq!(skip(1), Err("position 1 is a frame, and is not skipped".into()));
    assert_eq!(skip(position + 1000), Err(format!("the stream has no position {}", position + 1000)));
    let skipped = skip(position).unwrap();
    assert!(skipped.contains("is skipped (a frame has format 110"), "{skipped}");
    assert!(cluster.start_nodes(), "{}", cluster.said());
    push_rows(&cluster.urls()[1], "after", 3).await;
    let (log, _) = same_everywhere(&cluster.urls()).await;
    assert_eq!(log.len(), 6);
}

/// What `ringlog-server cluster` does for an operator: what it says, or the error.
fn operator(cluster: &Cluster, command: &str) -> Result<String, String> {
    let mut ringlog = Command::new(env!("CARGO_BIN_EXE_ringlog-server"));
    ringlog.arg("cluster").args(command.split(' '));
    ringlog.args(["--log", "test", "--cluster", &cluster.nats.urls().join(",")]).env("RUST_LOG", "off");
    let output = ringlog.output().unwrap();
    let said = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap().trim().to_owned();
    let (out, error) = (said(output.stdout), said(output.stderr));
    if output.status.success() { Ok(out) } else { Err(error.trim_start_matches("ringlog-server: ").into()) }
}

/// A node ends at a point of the applier for the `turn`th time, and is started again.
#[tokio::test(flavor = "multi_thread")]
async fn a_crash_between_any_two_steps_of_a_node_loses_nothing_and_doubles_nothing() {
    let Some(nats) = servers() else { return };
    let nats = Arc::new(nats);
    for point in ["frame_written", "frame_committed", "frame_appended"] {
        for turn in [3, 40] {
            let cluster = Arc::new(Cluster::of(&nats, &format!("{point}-{turn}"), ""));
            let at = format!("{point}:{turn}");
            let node = &cluster.nodes[0];
            let is_up = node.start_with(&[("RINGLOG_TEST_CRASH_AT", &at)]);
            assert!(cluster.start_nodes(), "{}", cluster.said());
            let crashed = storm(&cluster, 6, move |cluster, seen| {
                let (node, start) = (&cluster.nodes[0], Instant::now());
                while is_up && !node.has_ended() {
                    assert!(start.elapsed() < HANG, "it does not end at {at}");
                    std::thread::sleep(Duration::from_millis(5));
                }
                assert!(node.has_ended() == is_up && cluster.start_nodes(), "{}", node.said());
                seen.wait_for(50);
            });
            crashed.await;
        }
    }
}

/// The folders in which the NATS servers keep their streams.
async fn nats_folders(cluster: &Cluster) -> Vec<String> {
    let mut folders = Vec::new();
    for server in 0..3 {
        let state = get(&cluster.nats.monitor(server), "/jsz").await.body;
        folders.push(state["config"]["store_dir"].as_str().unwrap().to_owned());
    }
    folders
}

fn copy(from: &str, to: &str) {
    std::fs::remove_dir_all(to).unwrap_or_default();
    assert!(Command::new("cp").args(["-a", from, to]).status().unwrap().success());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_that_was_rolled_back_ends_the_nodes_that_know_more() {
    let Some(cluster) = Cluster::start("") else { return };
    let (urls, folders) = (cluster.urls(), nats_folders(&cluster).await);
    push_rows(&urls[0], "before", 20).await;
    (0..3).for_each(|server| cluster.nats.stop(server));
    for folder in &folders {
        copy(folder, &format!("{folder}.old"));
    }
    (0..3).for_each(|server| cluster.nats.restart(server));
    push_rows(&urls[0], "after", 20).await;
    same_everywhere(&urls).await;
    (0..3).for_each(|server| cluster.nats.stop(server));
    for folder in &folders {
        copy(&format!("{folder}.old"), folder);
    }
    (0..3).for_each(|server| cluster.nats.restart(server));
    for node in &cluster.nodes {
        ended(node).await;
        assert!(node.said().contains("DIVERGED"), "{}", node.said());
    }
    assert!(!cluster.nodes[0].start(), "started again it refuses as well");

    // A node that knows nothing makes the stream longer than the others know it, with other frames.
    std::fs::remove_dir_all(cluster.data(2)).unwrap();
    let fresh = &cluster.nodes[2];
    assert!(fresh.start(), "{}", fresh.said());
    push_rows(&fresh.url(), "other", 60).await;
    let known = 40 + 3 * 60;
    let start = Instant::now();
    while metric(&fresh.url(), "cluster_position").await < known && start.elapsed() < HANG / 6 {
        push_rows(&fresh.url(), "more", 20).await;
    }
    let before = cluster.nodes[0].said().matches("DIVERGED").count();
    assert!(!cluster.nodes[0].start(), "it would serve something else: {}", cluster.nodes[0].said());
    assert!(cluster.nodes[0].said().matches("DIVERGED").count() > before, "{}", cluster.nodes[0].said());
    std::fs::remove_dir_all(cluster.data(0)).unwrap();
    assert!(cluster.nodes[0].start(), "{}", cluster.nodes[0].said());
    same_everywhere(&[cluster.nodes[0].url(), fresh.url()]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_log_that_is_reset_after_a_rollback_is_another_one_to_its_clients() {
    let Some(cluster) = Cluster::start("") else { return };
    let (urls, folders) = (cluster.urls(), nats_folders(&cluster).await);
    push_rows(&urls[0], "before", 20).await;
    let (_, (_, kept)) = same_everywhere(&urls).await;
    (0..3).for_each(|server| cluster.nats.stop(server));
    for folder in &folders {
        copy(folder, &format!("{folder}.old"));
    }
    (0..3).for_each(|server| cluster.nats.restart(server));
    push_rows(&urls[0], "lost", 20).await;
    let (_, (_, lost)) = same_everywhere(&urls).await;
    (0..3).for_each(|server| cluster.nats.stop(server));
    for folder in &folders {
        copy(&format!("{folder}.old"), folder);
    }
    (0..3).for_each(|server| cluster.nats.restart(server));
    for node in &cluster.nodes {
        ended(node).await;
        assert!(node.said().contains("ringlog-server cluster reset"), "{}", node.said());
    }

    let said = operator(&cluster, "reset").unwrap();
    assert!(!cluster.nodes[0].start(), "its store has what was lost: {said}");
    (0..3).for_each(|node| std::fs::remove_dir_all(cluster.data(node)).unwrap());
    // They meet the reset while they start, and go on as the new log.
    assert!(cluster.start_nodes(), "{}", cluster.said());
    push_rows(&urls[1], "after", 30).await;
    let (log, (rows, token)) = same_everywhere(&urls).await;
    assert_eq!((log.len(), rows.len()), (50, 50), "seqs go on, and none of what was lost is there");
    let incarnation = token.split('.').next().unwrap();
    assert!(said.contains(incarnation), "{said}: {token}");
    for (url, token) in urls.iter().zip([&kept, &lost, &kept]) {
        let answer = get(url, &format!("/api/sync/pull?resume={token}")).await;
        assert_eq!(answer.status, 410, "{token}: {}", answer.body);
        assert_eq!(get(url, "/api/sync/pull?since=20").await.seqs().len(), 30);
    }

    // One that runs ends, has the new incarnation on disk, and goes on with it.
    let said = operator(&cluster, "reset").unwrap();
    for node in &cluster.nodes {
        ended(node).await;
        assert!(node.said().contains("the log was reset"), "{}", node.said());
    }
    assert!(cluster.start_nodes(), "{}", cluster.said());
    push_rows(&urls[2], "again", 5).await;
    let (log, (_, token)) = same_everywhere(&urls).await;
    assert!(log.len() == 55 && said.contains(token.split('.').next().unwrap()), "{said}: {token}");
    assert!(cluster.nodes[0].stop() && cluster.nodes[0].start(), "{}", cluster.nodes[0].said());
    let again = push(&urls[0], &one("before-3")).await;
    assert_eq!(again, [4], "op ids go on");
    same_everywhere(&urls).await;
}
