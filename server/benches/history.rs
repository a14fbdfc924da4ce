//! What the compacted history costs, and what it saves: `cargo bench -p ringlog-server`.
//!
//! 1. A pull of 100 changes from before the window beside one from the window, alternating.
//! 2. A herd: clients that were away for longer than the window come back at once, beside writers.
//!    Once they are told what is different; once they want every event, get 410, and load the
//!    snapshot. Each way on a server of its own, with the same rows.
//!
//! Fails if a pull from before the window takes more than three times as long, or if a client does
//! not end up with the server's rows.
#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a bench prints its table and fails by panicking"
)]

use hdrhistogram::Histogram;
use ringlog_server::{Config, run};
use serde_json::{Value, json};
use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};
use tokio::net::TcpListener;
use tokio::sync::oneshot;

const ROWS: usize = 50_000;
const WINDOW: usize = 2000;
/// Rows that change while the clients of the herd are away; the last of them are in the window.
const CHANGED: usize = 10_000;
const CLIENTS: usize = 500;

struct Server {
    url: String,
    stop: oneshot::Sender<()>,
    running: tokio::task::JoinHandle<()>,
    _folder: tempfile::TempDir,
}

impl Server {
    async fn start() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let config = Config::default().with_data(folder.path()).with_capacity(WINDOW);
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let (stop, stopped) = oneshot::channel::<()>();
        let (tell, ready) = oneshot::channel();
        let shutdown = async { drop(stopped.await) };
        let server = run(listener, shutdown, config).on_ready(|| tell.send(()).unwrap());
        let running = tokio::spawn(async move { server.await.unwrap() });
        ready.await.unwrap();
        Self { url, stop, running, _folder: folder }
    }

    /// Pushes rows by number. The data of each is some 150 bytes.
    async fn push(&self, client: &reqwest::Client, rows: impl Iterator<Item = usize>) -> u64 {
        let change = |row: usize| {
            json!({"entity": "Todo", "row_id": format!("row-{row}"), "kind": "update",
                "data": {"row": row, "title": "x".repeat(100), "done": row.is_multiple_of(2)}})
        };
        let mut last_seq = 0;
        let changes: Vec<_> = rows.map(change).collect();
        for changes in changes.chunks(1000) {
            let request =
                client.post(format!("{}/api/sync/push", self.url)).json(&json!({"changes": changes}));
            let answer: Value = request.send().await.unwrap().json().await.unwrap();
            last_seq = answer["cursor"]["last_seq"].as_u64().unwrap();
        }
        last_seq
    }

    async fn stop(self) {
        let _ = self.stop.send(());
        self.running.await.unwrap();
    }
}

/// Gets everything as it is: what is sent is counted.
fn client() -> reqwest::Client {
    reqwest::Client::builder().no_gzip().no_brotli().build().unwrap()
}

/// Microseconds.
fn histogram() -> Histogram<u64> {
    Histogram::new(3).unwrap()
}

fn record(histogram: &mut Histogram<u64>, since: Instant) {
    histogram.record(since.elapsed().as_micros() as u64).unwrap();
}

async fn pulls(server: &Server, client: &reqwest::Client, last_seq: u64) {
    let before = format!("{}/api/sync/pull?since={}&limit=100", server.url, last_seq / 2);
    let within = format!("{}/api/sync/pull?since={}&limit=100", server.url, last_seq - 150);
    let [mut from_history, mut from_window] = [histogram(), histogram()];
    for turn in 0..4000 {
        for (url, times) in [(&before, &mut from_history), (&within, &mut from_window)] {
            let start = Instant::now();
            let page = client.get(url).send().await.unwrap().bytes().await.unwrap();
            // The first ones fill caches.
            if turn >= 200 {
                record(times, start);
            }
            assert!(page.len() > 10_000);
        }
    }
    let [history, window] = [&from_history, &from_window].map(|times| times.value_at_quantile(0.5));
    let ratio = history as f64 / window as f64;
    println!("pull of 100, p50: {window} µs from the window, {history} µs from before it: {ratio:.2} times");
    assert!(ratio <= 3.0, "a pull from before the window takes {ratio:.2} times as long");
}

/// What a client of the herd did.
#[derive(Default)]
struct Returned {
    bytes: u64,
    questions: u64,
    rows: HashMap<String, u64>,
}

impl Returned {
    async fn ask(&mut self, client: &reqwest::Client, url: String) -> (u16, Value) {
        let answer = client.get(url).send().await.unwrap();
        let status = answer.status().as_u16();
        let body = answer.bytes().await.unwrap();
        self.bytes += body.len() as u64;
        self.questions += 1;
        (status, serde_json::from_slice(&body).unwrap())
    }

    fn take(&mut self, changes: &Value) {
        for change in changes.as_array().unwrap() {
            self.rows.insert(change["row_id"].as_str().unwrap().to_owned(), change["seq"].as_u64().unwrap());
        }
    }

    /// Comes back with an old cursor, and gets to `goal`.
    async fn come_back(
        mut self,
        client: &reqwest::Client,
        url: &str,
        since: u64,
        goal: u64,
        full: bool,
    ) -> Self {
        let mut since = since;
        let history = if full { "&history=full" } else { "" };
        while since < goal {
            let pull = format!("{url}/api/sync/pull?since={since}&limit=1000{history}");
            let (status, page) = self.ask(client, pull).await;
            if status == 410 {
                since = self.load(client, url).await;
                continue;
            }
            self.take(&page["changes"]);
            since = page["cursor"]["last_seq"].as_u64().unwrap();
        }
        self
    }

    async fn load(&mut self, client: &reqwest::Client, url: &str) -> u64 {
        let mut next = String::new();
        loop {
            let (status, page) = self.ask(client, format!("{url}/api/sync/snapshot?limit=1000{next}")).await;
            // A snapshot whose cursor has left the window: from the start again.
            if status != 200 {
                next.clear();
                continue;
            }
            self.take(&page["rows"]);
            match page["next"].as_str() {
                Some(token) => next = format!("&page={token}"),
                None => return page["cursor"]["last_seq"].as_u64().unwrap(),
            }
        }
    }
}

/// Writers push single changes until told to stop. Their latencies.
async fn write(url: String, is_done: Arc<AtomicBool>, next: Arc<AtomicU64>) -> Histogram<u64> {
    let client = client();
    let mut times = histogram();
    while !is_done.load(Ordering::Relaxed) {
        let row = next.fetch_add(1, Ordering::Relaxed);
        let change = json!({"entity": "Todo", "row_id": format!("new-{row}"), "kind": "insert", "data": row});
        let start = Instant::now();
        let request = client.post(format!("{url}/api/sync/push")).json(&json!({"changes": [change]}));
        assert!(request.send().await.unwrap().status().is_success());
        record(&mut times, start);
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    times
}

async fn herd(full: bool) {
    let (server, client) = (Server::start().await, client());
    let since = server.push(&client, 0..ROWS).await;
    let changed = (0..CHANGED).map(|n| n * (ROWS / CHANGED));
    let goal = server.push(&client, changed).await;
    let (is_done, next) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
    let writing: Vec<_> = (0..2)
        .map(|_| tokio::spawn(write(server.url.clone(), Arc::clone(&is_done), Arc::clone(&next))))
        .collect();
    let start = Instant::now();
    let clients: Vec<_> = (0..CLIENTS)
        .map(|_| {
            let (client, url) = (client.clone(), server.url.clone());
            tokio::spawn(async move { Returned::default().come_back(&client, &url, since, goal, full).await })
        })
        .collect();
    let (mut bytes, mut questions) = (0, 0);
    for returned in clients {
        let returned = returned.await.unwrap();
        for row in (0..CHANGED).map(|n| n * (ROWS / CHANGED)) {
            assert!(returned.rows[&format!("row-{row}")] > since, "row {row} is as it was before");
        }
        bytes += returned.bytes;
        questions += returned.questions;
    }
    let elapsed = start.elapsed();
    is_done.store(true, Ordering::Relaxed);
    let mut pushes = histogram();
    for writer in writing {
        pushes.add(writer.await.unwrap()).unwrap();
    }
    let way = if full { "410, snapshot, pull" } else { "what is different" };
    println!(
        "| {way} | {:.1} | {:.0} | {:.1} | {:.1} | {:.1} |",
        elapsed.as_secs_f64(),
        bytes as f64 / f64::from(1 << 20),
        questions as f64 / CLIENTS as f64,
        pushes.value_at_quantile(0.5) as f64 / 1e3,
        pushes.value_at_quantile(0.99) as f64 / 1e3,
    );
    server.stop().await;
}

#[tokio::main]
async fn main() {
    let (server, client) = (Server::start().await, client());
    let last_seq = server.push(&client, 0..ROWS).await;
    pulls(&server, &client, last_seq).await;
    server.stop().await;

    println!(
        "\n{CLIENTS} clients come back; {ROWS} rows, of which {CHANGED} have changed; window of {WINDOW}\n"
    );
    println!("| way | seconds | MiB sent | questions each | push p50 ms | push p99 ms |");
    println!("| --- | --- | --- | --- | --- | --- |");
    for full in [true, false, true, false] {
        herd(full).await;
    }
}
