//! A client that keeps a replica of the server's rows in step, whatever happens to the server or to
//! the connection:
//!
//! ```text
//! cargo run --release -p ringlog-server
//! cargo run --release -p ringlog-server --example replica -- http://127.0.0.1:7070
//! ```
//!
//! It pushes a change each second under an op id of its own, again and again until it is answered;
//! it loads the snapshot, pulls what came since, and stays on the live stream. Kill the server and
//! start it again: the replica goes on from its resume token. Start it on other data: it is told to
//! resync, and loads the snapshot. A connection on which nothing comes for two heartbeats is given
//! up.
#![forbid(unsafe_code)]

use reqwest::{Client, RequestBuilder, Response, StatusCode};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::sync::LazyLock;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

type Error = Box<dyn std::error::Error + Send + Sync>;

/// How long to wait before a push is tried again.
const PAUSE: Duration = Duration::from_millis(500);

/// How long a request may take, and a stream may be silent until it has said how often it is not.
const SILENCE: Duration = Duration::from_secs(10);

/// Keeps connections open between requests.
static CLIENT: LazyLock<Client> = LazyLock::new(Client::new);

/// The server's rows as this client knows them.
#[derive(Debug, Default)]
pub struct Replica {
    /// The data by entity and row id.
    pub rows: BTreeMap<(String, String), Value>,
    /// The resume token: which log, and up to which event. None before the first snapshot.
    pub token: Option<String>,
    /// After how long to follow again, once a stream has ended: the server spreads its clients over
    /// some seconds.
    pub retry: Duration,
}

impl Replica {
    /// Follows the server as long as nothing goes wrong; call it again when something did. Calls
    /// back at each step.
    ///
    /// # Errors
    /// Whatever the connection has; the replica stays what it was, and can go on.
    pub async fn follow(&mut self, server: &str, mut stepped: impl FnMut(&Self, &str)) -> Result<(), Error> {
        if self.token.is_none() {
            self.load(server).await?;
            stepped(self, "loaded the snapshot");
        }
        // What came since, in pages; the live stream would send it as well.
        loop {
            let has_more = self.pull(server).await?;
            stepped(self, "pulled");
            if !has_more {
                break;
            }
        }
        let Some(token) = &self.token else { return Ok(()) };
        let stream = get(&format!("{server}/api/sync/live?resume={token}"));
        let mut live = tokio::time::timeout(SILENCE, stream.send()).await??.error_for_status()?;
        let (mut buffer, mut silence) = (Vec::new(), SILENCE);
        // Something comes each heartbeat. If nothing comes in two, the connection is dead, though
        // nothing says so.
        while let Some(bytes) = tokio::time::timeout(silence, live.chunk()).await?? {
            buffer.extend_from_slice(&bytes);
            while let Some(end) = buffer.windows(2).position(|pair| pair == b"\n\n") {
                let block = String::from_utf8(buffer.drain(..end + 2).collect())?;
                let event = Event::parse(&block)?;
                match event.name {
                    "changes" => {
                        self.take(&event.data, event.id);
                        stepped(self, "live");
                    }
                    "heartbeat" => {
                        self.token = event.id;
                        let number = |name: &str| event.data[name].as_f64();
                        silence =
                            number("heartbeat_seconds").map_or(SILENCE, |s| Duration::from_secs_f64(2.0 * s));
                        self.retry =
                            number("retry_millis").map_or(PAUSE, |ms| Duration::from_secs_f64(ms / 1e3));
                    }
                    "resync" => {
                        self.token = None;
                        return Ok(());
                    }
                    _ => {} // The server is stopping: the stream ends.
                }
            }
        }
        Ok(())
    }

    /// Replaces everything by a snapshot, once all its pages are there.
    async fn load(&mut self, server: &str) -> Result<(), Error> {
        let (mut rows, mut next) = (BTreeMap::new(), String::new());
        loop {
            let answer =
                get(&format!("{server}/api/sync/snapshot?limit=1000{next}")).timeout(SILENCE).send().await?;
            let answer = answer.error_for_status()?;
            let (token, page) = (token(&answer), answer.json::<Value>().await?);
            let more = page["rows"].as_array().into_iter().flatten();
            rows.extend(more.map(|row| (key(row), row["data"].clone())));
            let Some(page) = page["next"].as_str() else {
                (self.rows, self.token) = (rows, token);
                return Ok(());
            };
            next = format!("&page={page}");
        }
    }

    /// One page of what came since. True if there may be more; false if not, or if only a snapshot
    /// helps.
    async fn pull(&mut self, server: &str) -> Result<bool, Error> {
        let Some(resume) = &self.token else { return Ok(false) };
        let request = get(&format!("{server}/api/sync/pull?limit=1000&resume={resume}"));
        let answer = request.timeout(SILENCE).send().await?;
        if answer.status() == StatusCode::GONE {
            self.token = None;
            return Ok(false);
        }
        let answer = answer.error_for_status()?;
        let (token, page) = (token(&answer), answer.json::<Value>().await?);
        self.take(&page, token);
        Ok(page["has_more"] == true)
    }

    /// Applies events in their order. The token says that they were.
    fn take(&mut self, page: &Value, token: Option<String>) {
        for change in page["changes"].as_array().into_iter().flatten() {
            if change["kind"] == "delete" {
                self.rows.remove(&key(change));
            } else {
                self.rows.insert(key(change), change["data"].clone());
            }
        }
        self.token = token;
    }
}

/// A server-sent event.
struct Event<'a> {
    name: &'a str,
    id: Option<String>,
    data: Value,
}

impl<'a> Event<'a> {
    /// Reads a block of fields. Data of several lines is several fields.
    fn parse(block: &'a str) -> Result<Self, Error> {
        let fields = |name: &'static str| {
            block.lines().filter_map(move |line| line.strip_prefix(name)?.strip_prefix(": "))
        };
        let data: Vec<_> = fields("data").collect();
        let (name, id) = (fields("event").next().unwrap_or_default(), fields("id").next());
        Ok(Self { name, id: id.map(str::to_owned), data: serde_json::from_str(&data.join("\n"))? })
    }
}

/// Pushes a change until the server has answered. With an op id this is safe: it is applied once.
///
/// # Errors
/// If the server refuses it.
pub async fn push(server: &str, client_id: &str, change: &Value) -> Result<u64, Error> {
    loop {
        let request = CLIENT.post(format!("{server}/api/sync/push"));
        let request = authorized(request, "RINGLOG_WRITE_TOKEN").timeout(10 * PAUSE);
        match request.json(&json!({"client_id": client_id, "changes": [change]})).send().await {
            Ok(answer)
                if answer.status().is_client_error() && answer.status() != StatusCode::REQUEST_TIMEOUT =>
            {
                return Err(answer.text().await?.into());
            }
            Ok(answer) if answer.status().is_success() => {
                // The answer may break off, or say `pending`: then it is not known yet.
                let answer = answer.json::<Value>().await.unwrap_or_default();
                if let Some(seq) = answer["results"][0]["seq"].as_u64() {
                    return Ok(seq);
                }
            }
            _ => {}
        }
        tokio::time::sleep(PAUSE).await;
    }
}

fn get(url: &str) -> RequestBuilder {
    authorized(CLIENT.get(url), "RINGLOG_READ_TOKEN")
}

/// With the token from the environment, if there is one.
fn authorized(request: RequestBuilder, variable: &str) -> RequestBuilder {
    match std::env::var(variable) {
        Ok(token) => request.bearer_auth(token),
        Err(_) => request,
    }
}

fn token(answer: &Response) -> Option<String> {
    Some(answer.headers().get("ringlog-resume")?.to_str().ok()?.to_owned())
}

fn key(row: &Value) -> (String, String) {
    let text = |name: &str| row[name].as_str().unwrap_or_default().to_owned();
    (text("entity"), text("row_id"))
}

#[tokio::main]
async fn main() -> Result<(), Error> {
    let server = std::env::args().nth(1).unwrap_or_else(|| "http://127.0.0.1:7070".into());
    let client = format!("replica-{}", SystemTime::now().duration_since(UNIX_EPOCH)?.as_micros());
    let url = server.clone();
    tokio::spawn(async move {
        for n in 0_u64.. {
            let change = json!({"entity": "Tick", "row_id": client, "kind": "update", "data": {"n": n},
                "op_id": n.to_string()});
            match push(&url, &client, &change).await {
                Ok(seq) => println!("pushed {n}: it is event {seq}"),
                Err(error) => return eprintln!("pushing was refused: {error}"),
            }
            tokio::time::sleep(2 * PAUSE).await;
        }
    });
    let mut replica = Replica::default();
    loop {
        let ended = replica.follow(&server, |replica, how| {
            println!("{how}: {} rows at {}", replica.rows.len(), replica.token.as_deref().unwrap_or("?"));
        });
        match ended.await {
            Ok(()) => println!("the stream ended"),
            Err(error) => println!("lost the server: {error}"),
        }
        tokio::time::sleep(replica.retry.max(PAUSE)).await;
    }
}
