//! What the tests share: servers, in this process or of their own, clients of every kind, and what
//! they must agree on.

#![allow(
    dead_code,
    unreachable_pub,
    clippy::unwrap_used,
    reason = "every test takes what it needs, and fails by panicking"
)]

pub mod browser;
pub mod clients;
#[cfg(feature = "cluster")]
pub mod cluster;
pub mod history;
pub mod nats;
#[cfg(feature = "cluster")]
pub mod network;
pub mod process;
pub mod relay;
pub mod server;

pub use server::Server;

use ringlog_server::{Cli, Config, ServerError};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::time::Duration;

/// Nothing takes so long, unless it hangs.
pub const HANG: Duration = Duration::from_secs(120);

/// Rows by entity and row id, each with the seq of its last change and its data.
pub type Rows = BTreeMap<(String, String), (u64, Value)>;

/// A configuration from arguments.
pub fn config(args: &str) -> Config {
    let all = ["ringlog-server"].into_iter().chain(args.split_whitespace());
    Cli::load_from(all).unwrap_or_else(|error| panic!("{error}")).serve.config()
}

/// A server in this process.
pub async fn start(args: &str) -> Server {
    try_start(args).await.unwrap_or_else(|error| panic!("{error}"))
}

pub async fn try_start(args: &str) -> Result<Server, ServerError> {
    Server::start(config(args)).await
}

/// A server in this process that keeps nothing.
pub async fn start_memory(args: &str) -> Server {
    start(&format!("--memory {args}")).await
}

/// An answer: status, headers and JSON body (null if it is no JSON).
pub struct Answer {
    pub status: u16,
    pub headers: reqwest::header::HeaderMap,
    pub body: Value,
}

impl Answer {
    pub async fn of(request: reqwest::RequestBuilder) -> Self {
        Self::try_of(request).await.expect("an answer")
    }

    /// None if the server is not there, or goes meanwhile.
    pub async fn try_of(request: reqwest::RequestBuilder) -> Option<Self> {
        let response = request.send().await.ok()?;
        let (status, headers) = (response.status().as_u16(), response.headers().clone());
        let bytes = response.bytes().await.ok()?;
        Some(Self { status, headers, body: serde_json::from_slice(&bytes).unwrap_or(Value::Null) })
    }

    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).map(|value| value.to_str().expect("a header of visible characters"))
    }

    /// The code and the message of a refusal.
    pub fn error(&self) -> (&str, &str) {
        let error = &self.body["error"];
        (error["code"].as_str().unwrap_or_default(), error["message"].as_str().unwrap_or_default())
    }

    pub fn last_seq(&self) -> u64 {
        self.body["cursor"]["last_seq"].as_u64().expect("a cursor")
    }

    /// The seqs of the changes.
    pub fn seqs(&self) -> Vec<u64> {
        let changes = self.body["changes"].as_array().expect("changes");
        changes.iter().map(|change| change["seq"].as_u64().expect("a seq")).collect()
    }
}

/// Asks for a path of a server.
pub async fn get(server: &str, path: &str) -> Answer {
    Answer::of(reqwest::Client::new().get(format!("{server}{path}"))).await
}

/// Pushes a request.
pub async fn push(server: &str, request: &Value) -> Answer {
    Answer::of(reqwest::Client::new().post(format!("{server}/api/sync/push")).json(request)).await
}

/// A push of rows `row-<first>`… of the entity `Todo`, so many of them.
pub fn todos(first: usize, count: usize) -> Value {
    let change =
        |n| json!({"entity": "Todo", "row_id": format!("row-{n}"), "kind": "insert", "data": {"n": n}});
    json!({"changes": (first..first + count).map(change).collect::<Vec<_>>()})
}

/// Folds one change, as it stands in a pull, into rows.
pub fn fold(rows: &mut Rows, change: &Value) {
    let text = |name: &str| change[name].as_str().expect("a text").to_owned();
    let key = (text("entity"), text("row_id"));
    if change["kind"] == "delete" {
        rows.remove(&key);
    } else {
        rows.insert(key, (change["seq"].as_u64().expect("a seq"), change["data"].clone()));
    }
}

/// Loads all pages of a snapshot. Answers with the rows and the resume token; none if the server or
/// the snapshot goes meanwhile.
pub async fn snapshot(server: &str, limit: usize) -> Option<(Rows, String)> {
    let mut rows = Rows::new();
    let mut path = format!("/api/sync/snapshot?limit={limit}");
    loop {
        let page = Answer::try_of(reqwest::Client::new().get(format!("{server}{path}"))).await?;
        if page.status == 410 || page.status == 503 {
            return None;
        }
        assert_eq!(page.status, 200, "{}", page.body);
        for row in page.body["rows"].as_array().expect("rows") {
            let before = rows.len();
            fold(&mut rows, row);
            assert_eq!(rows.len(), before + 1, "a row comes once: {row}");
        }
        match page.body["next"].as_str() {
            Some(next) => path = format!("/api/sync/snapshot?limit={limit}&page={next}"),
            None => return Some((rows, page.header("ringlog-resume").expect("a token").to_owned())),
        }
    }
}
