//! The client of `examples/replica.rs` stays in step with a server that is killed, started again,
//! and started on other data.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

#[path = "../examples/replica.rs"]
#[expect(dead_code, unreachable_pub, reason = "its `main` is for people, the rest for this test as well")]
mod replica;

use common::process::Process;
use common::relay::Relay;
use common::{HANG, get, snapshot, start_memory};
use replica::{Replica, push};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::task::JoinHandle;

/// What happened to a replica, and what it held after each step.
#[derive(Default)]
struct Seen {
    steps: Vec<String>,
    rows: BTreeMap<(String, String), Value>,
}

fn change(n: usize) -> Value {
    json!({"entity": "Tick", "row_id": format!("r{}", n % 7), "kind": if n % 5 == 4 { "delete" } else { "update" },
        "data": if n % 5 == 4 { Value::Null } else { json!(n) }, "op_id": n.to_string()})
}

/// Waits until a replica holds the rows that the server has.
async fn in_step(server: &str, seen: &Mutex<Seen>) {
    let (rows, _) = snapshot(server, 100).await.unwrap();
    let rows: BTreeMap<_, _> = rows.into_iter().map(|(key, (_, data))| (key, data)).collect();
    let waited = async {
        while seen.lock().unwrap().rows != rows {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    let waited = tokio::time::timeout(HANG, waited).await;
    assert!(waited.is_ok(), "{:?} is not {rows:?}", seen.lock().unwrap().rows);
}

/// Keeps a replica in step, as the example does; says what it holds.
fn follow(server: &str) -> (Arc<Mutex<Seen>>, JoinHandle<()>) {
    let seen = Arc::new(Mutex::new(Seen::default()));
    let (noted, server) = (Arc::clone(&seen), server.to_owned());
    let following = tokio::spawn(async move {
        let mut replica = Replica::default();
        loop {
            let ended = replica.follow(&server, |replica, how| {
                let mut seen = noted.lock().unwrap();
                seen.steps.push(how.to_owned());
                seen.rows.clone_from(&replica.rows);
            });
            let _ = ended.await;
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    });
    (seen, following)
}

#[tokio::test(flavor = "multi_thread")]
async fn the_replica_stays_in_step_through_kills_and_resyncs() {
    let folder = tempfile::tempdir().unwrap();
    let server = Process::new(&folder.path().join("data"), "");
    assert!(server.start());
    let url = server.url();
    for n in 0..10 {
        push(&url, "before", &change(n)).await.unwrap();
    }
    let (seen, following) = follow(&url);
    in_step(&url, &seen).await;

    // Killed while a client pushes: it tries again until it is answered.
    let pushing = {
        let url = url.clone();
        tokio::spawn(async move {
            for n in 0..100 {
                push(&url, "during", &change(n)).await.unwrap();
            }
        })
    };
    for _ in 0..3 {
        tokio::time::sleep(Duration::from_millis(60)).await;
        server.kill();
        assert!(server.start());
    }
    pushing.await.unwrap();
    in_step(&url, &seen).await;
    assert_eq!(get(&url, "/api/stats").await.body["log"]["head"], 110, "each was applied once");
    let loads = |seen: &Mutex<Seen>| {
        seen.lock().unwrap().steps.iter().filter(|step| *step == "loaded the snapshot").count()
    };
    assert_eq!(loads(&seen), 1, "no restart made it load the rows again");

    // Other data under the same address.
    server.kill();
    std::fs::remove_dir_all(folder.path().join("data")).unwrap();
    assert!(server.start());
    push(&url, "after", &json!({"entity": "New", "row_id": "1", "kind": "insert", "data": 1})).await.unwrap();
    in_step(&url, &seen).await;
    push(&url, "after", &json!({"entity": "New", "row_id": "2", "kind": "insert", "data": 2})).await.unwrap();
    in_step(&url, &seen).await;
    following.abort();
}

/// A network that has lost a connection and does not say so; what is between takes what comes, and
/// passes nothing on.
#[tokio::test(flavor = "multi_thread")]
async fn the_replica_gives_up_a_stream_that_has_fallen_silent() {
    let server = start_memory("--heartbeat 0.5").await;
    let mut relay = Relay::start(server.address()).await;
    push(&server.url(), "before", &change(0)).await.unwrap();
    let (seen, following) = follow(&relay.url());
    in_step(&server.url(), &seen).await;
    // It is on the stream: what is pushed comes at once.
    push(&server.url(), "during", &change(1)).await.unwrap();
    in_step(&server.url(), &seen).await;
    relay.silence("");
    push(&server.url(), "during", &change(2)).await.unwrap();
    in_step(&server.url(), &seen).await;
    assert_eq!(seen.lock().unwrap().steps.iter().filter(|step| *step == "loaded the snapshot").count(), 1);
    following.abort();
    server.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_replica_stays_in_step_without_a_place_on_a_stream() {
    let server = start_memory("--max-subscribers 1").await;
    let taken = common::clients::Sse::open(&server.url(), "").await;
    let (seen, following) = follow(&server.url());
    for n in 0..3 {
        push(&server.url(), "during", &change(n)).await.unwrap();
        in_step(&server.url(), &seen).await;
    }
    assert!(!seen.lock().unwrap().steps.iter().any(|step| step == "live"));
    drop(taken);
    // It comes by itself to what is free.
    let live = async {
        for n in 3.. {
            push(&server.url(), "during", &change(n)).await.unwrap();
            in_step(&server.url(), &seen).await;
            if seen.lock().unwrap().steps.iter().any(|step| step == "live") {
                return;
            }
        }
    };
    tokio::time::timeout(HANG, live).await.expect("it gets a place");
    following.abort();
    server.shutdown().await;
}
