//! Clients as people would write them: they retry, reconnect, resume, and keep a replica.

use super::{Answer, Rows, fold, snapshot};
use futures_util::StreamExt;
use serde_json::Value;
use std::collections::HashMap;
use std::time::{Duration, Instant};
use tokio_tungstenite::tungstenite::Message;

/// A small generator of numbers, the same ones each time.
#[derive(Clone)]
pub struct Random(pub u64);

impl Random {
    /// Less than `bound`. (xorshift)
    pub fn below(&mut self, bound: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 11) as usize % bound
    }
}

/// How long a client waits before it tries again.
const PAUSE: Duration = Duration::from_millis(15);

/// What was acknowledged: for each client and op id its seq and the change.
pub type Acknowledged = HashMap<(String, String), (u64, Value)>;

/// Pushes requests one after the other, each until it is answered. Some answers are not waited for,
/// as if they had been lost.
pub async fn push_all(server: &str, requests: &[Value], mut random: Random) -> Acknowledged {
    let client = reqwest::Client::new();
    let mut acknowledged = Acknowledged::new();
    for request in requests {
        if random.below(5) == 0 {
            // The answer is lost: hung up after a moment, or read and thrown away.
            let lost = client
                .post(format!("{server}/api/sync/push"))
                .timeout(Duration::from_micros(random.below(20_000) as u64))
                .json(request)
                .send();
            let _ = lost.await;
        }
        loop {
            let sent =
                client.post(format!("{server}/api/sync/push")).timeout(super::HANG).json(request).send();
            let Ok(answer) = sent.await else {
                tokio::time::sleep(PAUSE).await;
                continue;
            };
            let status = answer.status().as_u16();
            let Ok(answer) = answer.json::<Value>().await else { continue };
            let pending =
                answer["results"].as_array().is_some_and(|r| r.iter().any(|r| r["status"] == "pending"));
            if status == 503 || pending {
                tokio::time::sleep(PAUSE).await;
                continue;
            }
            assert_eq!(status, 200, "{answer}");
            note(&mut acknowledged, request, &answer);
            break;
        }
    }
    acknowledged
}

/// Notes what an answer says of each change, and checks that it agrees with the request and with
/// itself.
pub fn note(acknowledged: &mut Acknowledged, request: &Value, answer: &Value) {
    let (changes, results) = (request["changes"].as_array().unwrap(), answer["results"].as_array().unwrap());
    assert_eq!(changes.len(), results.len());
    assert_eq!(answer["applied"], changes.len(), "{answer}");
    for (change, result) in changes.iter().zip(results) {
        let seq = result["seq"].as_u64().unwrap_or_else(|| panic!("no seq: {result}"));
        assert!(seq <= answer["cursor"]["last_seq"].as_u64().unwrap(), "answered before it was visible");
        let key = (request["client_id"].to_string(), change["op_id"].to_string());
        let known = acknowledged.insert(key, (seq, change.clone()));
        assert!(known.is_none_or(|(known, _)| known == seq), "one op id, two seqs: {result}");
    }
}

/// Told the last seq once all is pushed.
pub type Until = tokio::sync::watch::Receiver<Option<u64>>;

/// A replica that some client keeps.
#[derive(Default)]
pub struct Replica {
    pub rows: Rows,
    /// Where it stands: a resume token.
    pub token: Option<String>,
    pub last_seq: u64,
    /// How often it had to load the rows anew.
    pub resyncs: usize,
    pub kind: &'static str,
}

impl Replica {
    pub fn new(kind: &'static str) -> Self {
        Self { kind, ..Self::default() }
    }

    /// Takes a page: the events that come next, with nothing between unless it is compacted.
    pub fn take(&mut self, page: &Value, token: &str) {
        let compacted_to = page["compacted_to"].as_u64();
        for change in page["changes"].as_array().expect("changes") {
            let seq = change["seq"].as_u64().unwrap();
            let is_next = seq == self.last_seq + 1 || (compacted_to.is_some() && seq > self.last_seq);
            assert!(is_next, "{}: {seq} after {}, a gap or an event again", self.kind, self.last_seq);
            self.last_seq = seq;
            fold(&mut self.rows, change);
        }
        self.last_seq = compacted_to.unwrap_or(self.last_seq);
        assert_eq!(page["cursor"]["last_seq"], self.last_seq);
        self.token = Some(token.to_owned());
    }

    /// Starts over from the rows. Tries again if the server is gone or the snapshot.
    async fn resync(&mut self, server: &str) {
        self.resyncs += 1;
        if let Some((rows, token)) = snapshot(server, 500).await {
            self.last_seq = token.rsplit_once('.').unwrap().1.parse().unwrap();
            (self.rows, self.token) = (rows, Some(token));
        }
    }

    fn place(&self) -> String {
        self.token.as_ref().map_or_else(|| "since=0".to_owned(), |token| format!("resume={token}"))
    }

    /// Follows until the seq is reached, over whatever this replica is a client of.
    pub async fn follow(self, server: &str, until: Until) -> Self {
        self.follow_any(&[server.to_owned()], Random(1), until).await
    }

    /// Follows until the seq is reached, each request and each stream at any of these servers.
    pub async fn follow_any(mut self, servers: &[String], mut random: Random, until: Until) -> Self {
        while until.borrow().is_none_or(|last| self.last_seq < last) {
            let server = &servers[random.below(servers.len())];
            let stays = Duration::from_millis(100 + random.below(2000) as u64);
            let stays = if servers.len() == 1 { super::HANG * 60 } else { stays };
            let went_on = match self.kind {
                "pull" => self.pull(server, "").await,
                "long poll" => self.pull(server, "&wait=0.3").await,
                "sse" => self.sse(server, &until, stays).await,
                "ws" => self.ws(server, &until, stays).await,
                kind => panic!("no client {kind}"),
            };
            if went_on.is_none() {
                tokio::time::sleep(PAUSE).await;
            }
        }
        self
    }

    /// One pull. None if the server is not there.
    async fn pull(&mut self, server: &str, more: &str) -> Option<()> {
        let url = format!("{server}/api/sync/pull?{}&limit=200{more}", self.place());
        let answer = reqwest::Client::new().get(url).timeout(super::HANG).send().await.ok()?;
        if answer.status().as_u16() == 410 {
            self.resync(server).await;
            return Some(());
        }
        if answer.status().as_u16() == 503 {
            return None;
        }
        assert_eq!(answer.status().as_u16(), 200);
        let token = answer.headers()["ringlog-resume"].to_str().unwrap().to_owned();
        let page: Value = answer.json().await.ok()?;
        let is_empty = page["changes"].as_array()?.is_empty();
        self.take(&page, &token);
        if is_empty && more.is_empty() { None } else { Some(()) }
    }

    /// Server-sent events until the connection breaks, or for a time.
    async fn sse(&mut self, server: &str, until: &Until, stays: Duration) -> Option<()> {
        let start = Instant::now();
        let mut request = reqwest::Client::new().get(format!("{server}/api/sync/live?since=0"));
        if let Some(token) = &self.token {
            request = request.header("Last-Event-ID", token);
        }
        let answer = request.send().await.ok()?;
        if answer.status().as_u16() == 503 {
            return None;
        }
        let mut stream = Sse::new(answer);
        while start.elapsed() < stays && until.borrow().is_none_or(|last| self.last_seq < last) {
            let event = tokio::time::timeout(Duration::from_millis(500), stream.next()).await;
            let Ok(event) = event else { continue };
            let event = event?;
            match &*event.name {
                "changes" => self.take(&serde_json::from_str(&event.data).unwrap(), &event.id),
                "resync" => {
                    self.resync(server).await;
                    return Some(());
                }
                _ => {}
            }
        }
        Some(())
    }

    /// A WebSocket until it breaks, or for a time.
    async fn ws(&mut self, server: &str, until: &Until, stays: Duration) -> Option<()> {
        let start = Instant::now();
        let url = format!("{}/api/sync/ws?{}", server.replace("http", "ws"), self.place());
        let (mut socket, _) = tokio_tungstenite::connect_async(url).await.ok()?;
        while start.elapsed() < stays && until.borrow().is_none_or(|last| self.last_seq < last) {
            let message = tokio::time::timeout(Duration::from_millis(500), socket.next()).await;
            let Ok(message) = message else { continue };
            let Message::Text(text) = message?.ok()? else { continue };
            let message: Value = serde_json::from_str(&text).unwrap();
            match message["event"].as_str().unwrap() {
                "changes" => self.take(&message["data"], message["id"].as_str().unwrap()),
                "resync" => {
                    self.resync(server).await;
                    return Some(());
                }
                _ => {}
            }
        }
        Some(())
    }
}

/// Reads server-sent events, as a browser does.
pub struct Sse {
    body: std::pin::Pin<Box<dyn futures_util::Stream<Item = reqwest::Result<bytes::Bytes>> + Send>>,
    buffer: Vec<u8>,
    pub last_id: String,
    /// After how many milliseconds to come back.
    pub retry: Option<u64>,
}

/// One event; its name is empty if it has none.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Event {
    pub id: String,
    pub name: String,
    pub data: String,
}

impl Sse {
    pub fn new(response: reqwest::Response) -> Self {
        assert_eq!(response.status().as_u16(), 200);
        Self {
            body: Box::pin(response.bytes_stream()),
            buffer: Vec::new(),
            last_id: String::new(),
            retry: None,
        }
    }

    /// Opens a stream.
    pub async fn open(server: &str, query: &str) -> Self {
        let response = reqwest::get(format!("{server}/api/sync/live?{query}")).await;
        Self::new(response.expect("an answer"))
    }

    /// The next block, also one without an event in it. None at the end.
    pub async fn next(&mut self) -> Option<Event> {
        loop {
            if let Some(end) = self.buffer.windows(2).position(|pair| pair == b"\n\n") {
                let block: Vec<u8> = self.buffer.drain(..end + 2).collect();
                return Some(self.parse(std::str::from_utf8(&block).expect("UTF-8")));
            }
            self.buffer.extend_from_slice(&self.body.next().await?.ok()?);
        }
    }

    /// The next block that is an event of this name.
    pub async fn event(&mut self, name: &str) -> Event {
        let wanted = async {
            loop {
                match self.next().await {
                    Some(event) if event.name == name => return event,
                    Some(_) => {}
                    None => panic!("the stream ended before a `{name}` came"),
                }
            }
        };
        tokio::time::timeout(super::HANG, wanted).await.expect("an event in time")
    }

    fn parse(&mut self, block: &str) -> Event {
        let fields = |name: &'static str| {
            block.lines().filter_map(move |line| line.strip_prefix(name)?.strip_prefix(": "))
        };
        let field = |name| fields(name).next().unwrap_or_default().to_owned();
        let (id, data) = (field("id"), fields("data").collect::<Vec<_>>().join("\n"));
        // As a browser: an event without data is none, and its id is not remembered.
        if !id.is_empty() && !data.is_empty() {
            self.last_id.clone_from(&id);
        }
        self.retry = field("retry").parse().ok().or(self.retry);
        Event { id: self.last_id.clone(), name: field("event"), data }
    }
}

/// The rows that acknowledged changes make, folded in the order of their seqs. Fails unless those
/// are dense.
pub fn folded(acknowledged: &Acknowledged) -> Rows {
    let mut changes: Vec<_> = acknowledged.values().collect();
    changes.sort_by_key(|(seq, _)| *seq);
    let mut rows = Rows::new();
    for ((seq, change), expected) in changes.into_iter().zip(1..) {
        assert_eq!(*seq, expected, "an acknowledged change has a seq that is another's, or one is missing");
        let mut change = change.clone();
        change["seq"] = (*seq).into();
        fold(&mut rows, &change);
    }
    rows
}

/// A pull of everything after a seq, in pages.
pub async fn pull_all(server: &str, since: u64) -> Vec<Value> {
    let mut changes = Vec::new();
    let mut since = since;
    loop {
        let page = super::get(server, &format!("/api/sync/pull?since={since}&limit=1000")).await;
        assert_eq!(page.status, 200, "{}", page.body);
        since = page.last_seq();
        let has_more = page.body["has_more"] == true;
        let Answer { mut body, .. } = page;
        let Value::Array(more) = body["changes"].take() else { panic!("no changes") };
        changes.extend(more);
        if !has_more {
            return changes;
        }
    }
}
