//! Clients that push.

use crate::common::HANG;
use crate::http::Connection;
use serde_json::Value;
use std::fmt::Write as _;
use std::time::{Duration, Instant};

/// The clients of a node: as many as it may have frames undecided.
const CLIENTS: usize = 8;

/// Rows that are written again and again.
const ROWS: u64 = 50_000;

/// Clients at every node.
pub(crate) struct Load {
    clients: Vec<Client>,
}

struct Client {
    connection: Connection,
    name: String,
    group: usize,
    pushed: u64,
}

impl Load {
    /// Clients that push so many changes at a time.
    pub(crate) async fn new(urls: &[String], group: usize) -> Self {
        let mut clients = Vec::new();
        for (number, url) in urls.iter().flat_map(|url| [url; CLIENTS]).enumerate() {
            clients.push(Client::new(url, number, group).await);
        }
        Self { clients }
    }

    /// How many changes are acknowledged.
    pub(crate) fn changes(&self) -> u64 {
        self.clients.iter().map(|client| client.pushed).sum()
    }

    /// All clients push for a time. Answers with how many changes were acknowledged, and in which
    /// time.
    pub(crate) async fn turn(&mut self, time: Duration) -> (u64, Duration) {
        let (before, start) = (self.changes(), Instant::now());
        let pushing: Vec<_> = self.clients.drain(..).map(|client| tokio::spawn(client.run(time))).collect();
        for client in pushing {
            self.clients.push(tokio::time::timeout(HANG, client).await.unwrap().unwrap());
        }
        (self.changes() - before, start.elapsed())
    }
}

impl Client {
    async fn new(url: &str, number: usize, group: usize) -> Self {
        let name = format!("{number}-{:x}", std::hash::BuildHasher::hash_one(&random(), number));
        Self { connection: Connection::open(url).await, name, group, pushed: 0 }
    }

    async fn run(mut self, time: Duration) -> Self {
        let start = Instant::now();
        while start.elapsed() < time {
            let body = self.body();
            self.connection.push(&body).await;
            self.acknowledged().await;
        }
        self
    }

    /// Entity 4 bytes, row id 38 bytes, data 62 bytes, as the benches of the library have them.
    fn body(&self) -> String {
        let mut body = format!(r#"{{"client_id":"{}","changes":["#, self.name);
        for n in self.pushed..self.pushed + self.group as u64 {
            let row = n.wrapping_mul(0x9E37_79B9) % ROWS;
            let comma = if n == self.pushed { "" } else { "," };
            write!(
                body,
                r#"{comma}{{"entity":"Todo","row_id":"{row:038}","kind":"update","data":{{"title":"{n:036}","done":false}},"op_id":"{n}"}}"#,
            )
            .unwrap();
        }
        body + "]}"
    }

    async fn acknowledged(&mut self) -> u64 {
        let answer = self.connection.answer().await;
        assert!(answer.contains(r#""deduped":0"#), "{answer}");
        self.pushed += self.group as u64;
        let answer: Last = serde_json::from_str(answer).unwrap();
        answer.cursor.last_seq
    }
}

#[derive(serde::Deserialize)]
struct Last {
    cursor: Cursor,
}

#[derive(serde::Deserialize)]
struct Cursor {
    last_seq: u64,
}

fn random() -> std::hash::RandomState {
    std::hash::RandomState::new()
}

/// Pushes at one node while a pull waits at another. The times from the start of each push until it
/// is answered, and until the pull is.
pub(crate) async fn visibility(at: &str, other: &str, count: usize) -> (Vec<Duration>, Vec<Duration>) {
    let (mut client, mut reader) = (Client::new(at, 0, 1).await, Connection::open(other).await);
    let (mut pushed, mut visible) = (Vec::new(), Vec::new());
    for seq in 1..=count as u64 {
        reader.get(&format!("/api/sync/pull?since={}&wait=10", seq - 1)).await;
        // The pull waits before the push begins.
        tokio::time::sleep(Duration::from_millis(2)).await;
        let (body, start) = (client.body(), Instant::now());
        let push = async {
            client.connection.push(&body).await;
            assert_eq!(client.acknowledged().await, seq);
            start.elapsed()
        };
        let pull = async {
            let page: Value = serde_json::from_str(reader.answer().await).unwrap();
            let took = start.elapsed();
            assert_eq!(page["changes"][0]["seq"], seq, "{page}");
            took
        };
        let (push, pull) = tokio::join!(push, pull);
        pushed.push(push);
        visible.push(pull);
    }
    (pushed, visible)
}
