//! A disk that is full ends pushes and nothing else: they get 503 and come back, reads go on, and
//! once there is room all goes on.
#![cfg(target_os = "linux")]
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use common::clients::{Acknowledged, folded, note};
use common::process::Process;
use common::{Answer, HANG, get, snapshot};
use serde_json::{Value, json};
use std::path::PathBuf;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

/// So that no snapshot is an older one that is shared.
const MANY_SNAPSHOTS: &str = "--max-snapshots 5000";

/// A small file system in memory. None where this is not allowed.
struct Tmpfs {
    folder: tempfile::TempDir,
}

impl Tmpfs {
    fn mount(size: &str) -> Option<Self> {
        let folder = tempfile::tempdir().unwrap();
        let options = format!("size={size}");
        let mut mount = Command::new("mount");
        mount.args(["-t", "tmpfs", "-o", &options, "ringlog-test"]).arg(folder.path());
        if mount.output().is_ok_and(|output| output.status.success()) {
            return Some(Self { folder });
        }
        println!("SKIPPED: no file system can be mounted here (root can): a full disk is not tried");
        None
    }

    fn path(&self) -> PathBuf {
        self.folder.path().to_owned()
    }
}

impl Drop for Tmpfs {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(self.folder.path()).status();
    }
}

/// A request of its own client and op ids, with so many bytes of data.
fn request(number: usize, bytes: usize) -> Value {
    json!({"client_id": "c", "changes": [{
        "entity": "Todo", "row_id": format!("row-{number}"), "kind": "insert", "op_id": number.to_string(),
        "data": "x".repeat(bytes),
    }]})
}

/// Reads in every way, over and over, until it is told to stop. No read may fail. Answers with how
/// many there were.
async fn read_on(url: String, stop: Arc<AtomicBool>) -> usize {
    let mut reads = 0;
    while !stop.load(Ordering::Relaxed) {
        for path in [
            "/api/sync/pull?since=0&limit=10",
            "/api/sync/snapshot?limit=5",
            "/api/stats",
            "/readyz",
            "/metrics",
        ] {
            let answer = get(&url, path).await;
            assert_eq!(answer.status, 200, "{path}: {}", answer.body);
            reads += 1;
        }
        assert!(snapshot(&url, 20).await.is_some(), "a snapshot is read to its end");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    reads
}

async fn push(url: &str, request: &Value) -> Answer {
    Answer::of(reqwest::Client::new().post(format!("{url}/api/sync/push")).json(request)).await
}

/// Pushes until the store takes no more. Answers with what was acknowledged, and the first request
/// that was refused.
async fn fill(url: &str, acknowledged: &mut Acknowledged) -> usize {
    for number in 0..100_000 {
        let request = request(number, 40_000);
        let answer = push(url, &request).await;
        match answer.status {
            200 => note(acknowledged, &request, &answer.body),
            503 => {
                let (code, message) = answer.error();
                assert_eq!(code, "STORE_FULL", "{message}");
                assert!(
                    message.contains("ringlog.redb") && message.contains("nothing was applied"),
                    "{message}"
                );
                assert_eq!(answer.header("retry-after"), Some("1"));
                return number;
            }
            status => panic!("{status}: {}", answer.body),
        }
    }
    panic!("it is never full");
}

/// The room is used up, a client tries again and again, room is made, and all is as if nothing had
/// been.
async fn full_and_not(server: Process, make_room: impl FnOnce()) {
    let url = server.url();
    let mut acknowledged = Acknowledged::new();
    note(&mut acknowledged, &request(100_001, 10), &push(&url, &request(100_001, 10)).await.body);
    let stop = Arc::new(AtomicBool::new(false));
    let readers: Vec<_> = (0..2).map(|_| tokio::spawn(read_on(url.clone(), Arc::clone(&stop)))).collect();
    // Read all the while: a client that reads nothing for a heartbeat is let go.
    let mut live = common::clients::Sse::open(&url, "since=0").await;
    let (sent, mut seen) = tokio::sync::watch::channel(0);
    let following = tokio::spawn(async move {
        loop {
            let id = live.event("changes").await.id;
            if sent.send(id.rsplit_once('.').unwrap().1.parse::<u64>().unwrap()).is_err() {
                return;
            }
        }
    });
    let refused = fill(&url, &mut acknowledged).await;
    for _ in 0..50 {
        let again = push(&url, &request(refused, 40_000)).await;
        assert_eq!((again.status, again.error().0), (503, "STORE_FULL"));
        tokio::time::sleep(Duration::from_millis(30)).await;
    }
    assert!(!server.has_ended(), "{}", server.said());
    assert_eq!(get(&url, "/api/stats").await.body["writable"], false);
    make_room();
    let pushed = async {
        for number in refused..refused + 3 {
            let request = request(number, 40_000);
            loop {
                let answer = push(&url, &request).await;
                if answer.status == 200 {
                    note(&mut acknowledged, &request, &answer.body);
                    break;
                }
                assert_eq!((answer.status, answer.error().0), (503, "STORE_FULL"));
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        }
    };
    tokio::time::timeout(HANG, pushed).await.expect("it recovers by itself");
    stop.store(true, Ordering::Relaxed);
    for reader in readers {
        assert!(reader.await.unwrap() > 10, "no read failed, and there were some");
    }
    let last = acknowledged.len() as u64;
    tokio::time::timeout(HANG, seen.wait_for(|seen| *seen >= last))
        .await
        .unwrap()
        .expect("the live stream goes on");
    drop(seen);
    following.abort();
    let (rows, token) = snapshot(&url, 100).await.unwrap();
    let expected = folded(&acknowledged);
    let seqs =
        |rows: &common::Rows| rows.iter().map(|(key, (seq, _))| (key.1.clone(), *seq)).collect::<Vec<_>>();
    assert_eq!(
        seqs(&rows),
        seqs(&expected),
        "{token} after {last}, {refused} was refused: {}",
        server.said()
    );
    assert!(rows == expected, "the data is what was pushed");
    server.kill();
    assert!(server.start(), "{}", server.said());
    assert_eq!(
        snapshot(&url, 100).await.unwrap(),
        (rows, token),
        "what was acknowledged is on disk, and nothing else"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_disk_refuses_pushes_and_fails_no_read() {
    let Some(disk) = Tmpfs::mount("24m") else { return };
    let ballast = disk.path().join("ballast");
    std::fs::write(&ballast, vec![1; 12 << 20]).unwrap();
    let server = Process::new(&disk.path().join("data"), MANY_SNAPSHOTS);
    assert!(server.start(), "{}", server.said());
    full_and_not(server, || std::fs::remove_file(&ballast).unwrap()).await;
}

/// Sets how long files of a process may become.
fn limit(process: u32, bytes: &str) {
    let limit = format!("--fsize={bytes}");
    let status = Command::new("prlimit").args(["--pid", &process.to_string(), &limit]).status().unwrap();
    assert!(status.success());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_limit_of_a_files_size_refuses_pushes_and_fails_no_read() {
    if Command::new("prlimit").arg("--version").output().is_err() {
        println!("SKIPPED: no prlimit here: a limit of a file's size is not tried");
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let server = Process::new(&folder.path().join("data"), MANY_SNAPSHOTS);
    assert!(server.start());
    let process = server.id();
    // The soft limit, so that it can be lifted again.
    limit(process, "6000000:unlimited");
    full_and_not(server, || limit(process, "unlimited:unlimited")).await;
}
