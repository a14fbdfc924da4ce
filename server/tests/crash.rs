//! Nothing acknowledged is lost, nothing is applied twice, and no client has to resync, wherever
//! the server is ended: between every two steps of the applier, and at random moments.
//!
//! Servers are processes of their own here. `RINGLOG_SERVER_DEEP=1` makes the runs many times
//! longer.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use common::clients::{Acknowledged, Random, Replica, folded, pull_all, push_all};
use common::process::Process;
use common::{HANG, Rows, history, snapshot};
use serde_json::Value;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::watch;

/// The points at which the server can be made to end, in the order in which it comes by.
const WHILE_MAKING: [&str; 4] = ["created", "made", "renamed", "verified"];
const WHILE_WRITING: [&str; 9] = [
    "grouped",
    "claimed",
    "claim_written",
    "written",
    "committed",
    "marked",
    "claim_appended",
    "appended",
    "answered",
];

fn deep() -> bool {
    std::env::var_os("RINGLOG_SERVER_DEEP").is_some()
}

/// Told how many changes were pushed once all are. Gone when the run has failed, so that no client
/// goes on for ever.
type Until = watch::Receiver<Option<u64>>;

/// Whether there is more to come.
fn goes_on(until: &Until) -> bool {
    until.borrow().is_none() && until.has_changed().is_ok()
}

/// What a run has to show for itself.
struct Outcome {
    events: u64,
    crashes: usize,
    resyncs: usize,
}

/// Clients push requests with retries and lost answers, others follow in every way there is, while
/// `disturb` ends the server as it likes, until it is told that all is pushed. Then all must agree.
async fn storm(
    server: Arc<Process>,
    requests: Vec<Value>,
    pushers: usize,
    followers: &[&'static str],
    disturb: impl FnOnce(Arc<Process>, Until) -> usize + Send + 'static,
) -> Outcome {
    let url = server.url();
    let (done, until) = watch::channel(None);
    let disturber = tokio::task::spawn_blocking({
        let (server, until) = (Arc::clone(&server), until.clone());
        move || disturb(server, until)
    });
    let replicas: Vec<_> = followers
        .iter()
        .map(|kind| {
            tokio::spawn({
                let (url, until, replica) = (url.clone(), until.clone(), Replica::new(kind));
                async move { replica.follow(&url, until).await }
            })
        })
        .collect();
    let parts: Vec<Vec<Value>> =
        (0..pushers).map(|part| requests.iter().skip(part).step_by(pushers).cloned().collect()).collect();
    let pushing: Vec<_> = parts
        .into_iter()
        .enumerate()
        .map(|(part, requests)| {
            tokio::spawn({
                let url = url.clone();
                async move { push_all(&url, &requests, Random(part as u64 + 1)).await }
            })
        })
        .collect();

    let pushed = async {
        let mut acknowledged = Acknowledged::new();
        for pusher in pushing {
            acknowledged.extend(pusher.await.unwrap());
        }
        done.send_replace(Some(acknowledged.len() as u64));
        acknowledged
    };
    let work = async {
        let (acknowledged, crashes) = tokio::join!(pushed, async { disturber.await.unwrap() });
        let mut kept = Vec::new();
        for replica in replicas {
            kept.push(replica.await.unwrap());
        }
        (acknowledged, crashes, kept)
    };
    let limit = if deep() { HANG * 20 } else { HANG * 3 };
    let (acknowledged, crashes, replicas) =
        tokio::time::timeout(limit, work).await.unwrap_or_else(|_| panic!("it hangs: {}", server.said()));

    let offered: usize = requests.iter().map(|request| request["changes"].as_array().unwrap().len()).sum();
    assert_eq!(acknowledged.len(), offered, "every change is acknowledged, each op id once");
    agree(&url, &acknowledged, &replicas).await;
    Outcome {
        events: acknowledged.len() as u64,
        crashes,
        resyncs: replicas.iter().map(|replica| replica.resyncs).sum(),
    }
}

/// The rows of the server, the folding of what was acknowledged, the folding of the log, and every
/// replica are the same.
async fn agree(url: &str, acknowledged: &Acknowledged, replicas: &[Replica]) {
    let expected = folded(acknowledged);
    let (rows, token) = snapshot(url, 300).await.unwrap();
    assert!(token.ends_with(&format!(".{}", acknowledged.len())), "{token}: one event for each op id");
    assert_eq!(rows, expected, "the server's rows");
    let mut logged = Rows::new();
    let changes = pull_all(url, 0).await;
    for change in &changes {
        common::fold(&mut logged, change);
    }
    assert_eq!(logged, expected, "the log");
    if common::get(url, "/api/stats").await.body["log"]["oldest"] == 1 {
        assert_eq!(changes.len(), acknowledged.len(), "all of it is in the window");
    }
    for replica in replicas {
        assert_eq!(replica.rows, expected, "the replica kept by {}", replica.kind);
    }
}

/// Starts the server again each time that it has ended, until all is pushed.
fn keep_up(server: &Process, until: &Until) -> usize {
    let mut crashes = 0;
    while goes_on(until) || server.has_ended() {
        if server.has_ended() {
            crashes += 1;
            assert!(server.start(), "it starts again: {}", server.said());
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    crashes
}

/// A run in which the server ends once, at a point, when it comes there for the `turn`th time.
async fn crash_at(point: &str, turn: usize) {
    let folder = tempfile::tempdir().unwrap();
    let server = Arc::new(Process::new(&folder.path().join("data"), ""));
    let at = format!("{point}:{turn}");
    let started = server.start_with(&[("RINGLOG_TEST_CRASH_AT", &at)]);
    let mut crashes = 0;
    if WHILE_MAKING.contains(&point) {
        assert!(!started, "it ends at {point} before it listens");
        crashes += 1;
        assert!(server.start(), "it starts after {point}: {}", server.said());
    }
    let followers = ["pull", "long poll", "sse", "ws"];
    let outcome =
        storm(server, history::requests(40), 4, &followers, |server, until| keep_up(&server, &until)).await;
    crashes += outcome.crashes;
    assert_eq!((crashes, outcome.resyncs), (1, 0), "{at}: one crash, and nobody had to resync");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_crash_while_a_store_is_made_leaves_none_or_a_whole_one() {
    for point in WHILE_MAKING {
        crash_at(point, 1).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_crash_between_any_two_steps_loses_nothing_and_doubles_nothing() {
    for point in WHILE_WRITING {
        for turn in if deep() { 1..=9 } else { 2..=3 } {
            crash_at(point, turn).await;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn kills_at_random_moments_lose_nothing_and_double_nothing() {
    kills_at_random_moments("").await;
}

/// The window is shorter than what is pushed while a server is away: its readers are told what is
/// different.
#[tokio::test(flavor = "multi_thread")]
async fn kills_at_random_moments_lose_nothing_where_the_window_is_short() {
    kills_at_random_moments("--capacity 100 --max-changes 100").await;
}

async fn kills_at_random_moments(args: &str) {
    let folder = tempfile::tempdir().unwrap();
    let server = Arc::new(Process::new(&folder.path().join("data"), args));
    assert!(server.start());
    let (requests, most) = if deep() { (usize::MAX, 300) } else { (500, 15) };
    let requests = history::requests(requests.min(6000));
    let followers = ["pull", "long poll", "sse", "ws", "sse", "ws"];
    let outcome = storm(server, requests, 8, &followers, move |server, until| {
        let mut random = Random(std::process::id().into());
        let mut kills = 0;
        let mut next = Instant::now();
        while goes_on(&until) {
            assert!(!server.has_ended(), "it ended by itself: {}", server.said());
            if kills < most && Instant::now() >= next {
                server.kill();
                kills += 1;
                assert!(server.start(), "it starts again: {}", server.said());
                next = Instant::now() + Duration::from_millis(random.below(150) as u64);
            }
            std::thread::sleep(Duration::from_millis(1));
        }
        kills
    })
    .await;
    assert_eq!(outcome.resyncs, 0, "nobody had to resync");
    assert!(outcome.crashes > 5, "it was killed {} times only", outcome.crashes);
    println!("{} events, {} kills, {} resyncs", outcome.events, outcome.crashes, outcome.resyncs);
}

/// Without a store a restart is another log: replicas are told, and load what there is then.
#[tokio::test(flavor = "multi_thread")]
async fn a_restart_without_a_store_makes_everybody_resync_once() {
    let folder = tempfile::tempdir().unwrap();
    let server = Process::new(&folder.path().join("data"), "--memory");
    assert!(server.start());
    let url = server.url();
    let before = common::push(&url, &common::todos(0, 3)).await;
    let (_, token) = snapshot(&url, 10).await.unwrap();
    server.kill();
    assert!(server.start());
    let after = common::push(&url, &common::todos(10, 2)).await;
    assert!(after.last_seq() > before.last_seq() && after.last_seq() < 1 << 53);
    for place in [format!("resume={token}"), format!("since={}", before.last_seq())] {
        let refused = common::get(&url, &format!("/api/sync/pull?{place}")).await;
        assert_eq!((refused.status, refused.error().0), (410, "RESYNC_REQUIRED"), "{place}");
    }
    let (rows, token) = snapshot(&url, 10).await.unwrap();
    assert_eq!(rows.len(), 2);
    assert_eq!(common::get(&url, &format!("/api/sync/pull?resume={token}")).await.seqs(), [0; 0]);
}

#[tokio::test]
async fn a_server_whose_output_nobody_reads_goes_on() {
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let mut child = std::process::Command::new(env!("CARGO_BIN_EXE_ringlog-server"))
        .args(["--memory", "--listen", &format!("127.0.0.1:{port}")])
        .stdout(std::process::Stdio::piped())
        .stderr(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    drop((child.stdout.take(), child.stderr.take()));
    let url = format!("http://127.0.0.1:{port}/healthz");
    let answered = async {
        while reqwest::get(&url).await.is_err() {
            assert!(child.try_wait().unwrap().is_none(), "it has ended");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(HANG, answered).await.expect("it answers");
    tokio::time::sleep(Duration::from_millis(100)).await;
    assert!(reqwest::get(&url).await.is_ok(), "it still answers");
    child.kill().unwrap();
    child.wait().unwrap();
}

#[cfg(unix)]
#[tokio::test(flavor = "multi_thread")]
async fn asked_to_stop_it_answers_what_it_has_begun_and_closes_the_store() {
    let folder = tempfile::tempdir().unwrap();
    let server = Arc::new(Process::new(&folder.path().join("data"), ""));
    assert!(server.start());
    let url = server.url();
    common::push(&url, &common::todos(0, 1)).await;
    // One waits for something new, one follows; neither holds the stop up.
    let waiting = tokio::spawn({
        let url = url.clone();
        async move { common::get(&url, "/api/sync/pull?since=1&wait=50").await }
    });
    let mut live = common::clients::Sse::open(&url, "since=1").await;
    live.next().await.unwrap();
    let requests = history::requests(200);
    let pusher = tokio::spawn({
        let (url, requests) = (url.clone(), requests.clone());
        async move { push_all(&url, &requests, Random(3)).await }
    });
    tokio::time::sleep(Duration::from_millis(100)).await;
    let stopping = Instant::now();
    let stopped = tokio::task::spawn_blocking({
        let server = Arc::clone(&server);
        move || server.stop()
    });
    assert!(stopped.await.unwrap(), "it ends well: {}", server.said());
    assert!(stopping.elapsed() < Duration::from_secs(9), "nobody was waited for until the limit");
    assert_eq!(waiting.await.unwrap().status, 200);
    while live.next().await.is_some() {}
    assert!(server.start());
    let acknowledged = pusher.await.unwrap();
    let changes = pull_all(&url, 1).await;
    assert_eq!(changes.len(), acknowledged.len());
}
