//! Real clients of other hands on the live streams: they connect, receive, are cut off, and come
//! back, while changes are pushed.
//!
//! `.ci/run` installs them: npm packages by `tests/clients/package-lock.json`, Python packages by
//! `tests/clients/requirements.txt`. Where they are not installed these tests are skipped, and say
//! so.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use common::Server;
use common::browser::Browser;
use common::clients::Sse;
use common::relay::Relay;
use common::{HANG, get, push, start_memory, todos};
use serde_json::{Value, json};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use tokio::io::{AsyncBufReadExt, BufReader, Lines};
use tokio::process::{Child, ChildStdout, Command};

/// Clients of server-sent events, each a script.
const SSE: [&str; 5] =
    ["eventsource.mjs", "undici.mjs", "undici-fetch.mjs", "fetch-event-source.cjs", "httpx_sse_client.py"];

/// Clients of a WebSocket.
const WS: [&str; 2] = ["ws.mjs", "websockets_client.py"];

fn folder() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/clients")
}

/// What a script is run with, if that is installed with its packages.
fn interpreter(script: &str) -> Option<PathBuf> {
    if Path::new(script).extension().is_some_and(|extension| extension == "py") {
        let python = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../target/clients/bin/python");
        return python.exists().then_some(python);
    }
    let node = std::process::Command::new("node").arg("--version").stdout(Stdio::null()).status();
    (node.is_ok() && folder().join("node_modules").exists()).then(|| "node".into())
}

fn skipped(what: &str) {
    let line = format!("\n*** SKIPPED: no client {what}. `.ci/run` installs it. ***\n");
    std::io::stderr().write_all(line.as_bytes()).unwrap();
}

/// Something that follows a live stream by itself, and says what it sees.
trait Watcher {
    /// What it says next.
    async fn said(&mut self) -> Value;
}

/// A client that runs as a process.
struct Script {
    name: String,
    _child: Child,
    lines: Lines<BufReader<ChildStdout>>,
}

impl Script {
    /// Starts one. None, and a line that no test runner hides, if it is not installed.
    fn start(script: &str, args: &[&str]) -> Option<Self> {
        let Some(interpreter) = interpreter(script) else {
            skipped(script);
            return None;
        };
        let mut command = Command::new(interpreter);
        command
            .arg(folder().join(script))
            .args(args)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .kill_on_drop(true);
        let mut child = command.spawn().unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        Some(Self { name: [&[script], args].concat().join(" "), _child: child, lines })
    }
}

impl Watcher for Script {
    async fn said(&mut self) -> Value {
        let line = tokio::time::timeout(HANG, self.lines.next_line()).await;
        let line = line.unwrap_or_else(|_| panic!("{} says nothing", self.name)).unwrap();
        serde_json::from_str(&line.unwrap_or_else(|| panic!("{} ended", self.name))).unwrap()
    }
}

/// A client in a page of a browser.
struct Page {
    browser: Browser,
    seen: usize,
}

impl Page {
    /// In a fresh browser, if there is one.
    async fn start() -> Option<Self> {
        Some(Self { browser: Browser::start().await?, seen: 0 })
    }

    /// Loads a page of a server that does nothing of its own, and runs a script in it:
    /// `watch(EventSource, …)` and `follow(…)` are known to it, and `said` takes what is seen.
    async fn run(&mut self, server: &str, script: &str) {
        self.browser.open(&format!("{server}/healthz")).await;
        self.seen = 0;
        let watch = include_str!("clients/sources.mjs")
            .replace("export function watch", "globalThis.watch = function");
        self.browser.eval(&format!("globalThis.said = []; {watch}; {PAGE_SOCKET}; {script}; 0")).await;
    }
}

impl Watcher for Page {
    async fn said(&mut self) -> Value {
        self.browser.until(&format!("said.length > {}", self.seen)).await;
        self.seen += 1;
        self.browser.eval(&format!("said[{}]", self.seen - 1)).await
    }
}

/// What a page's WebSocket does: it follows, comes back with the last id, and says what it sees.
const PAGE_SOCKET: &str = r#"
    globalThis.follow = (url, does) => {
        const again = (id, retry) => {
            const socket = new WebSocket(id ? `${url}?resume=${id}` : url);
            socket.onmessage = ({ data }) => {
                const message = JSON.parse(data);
                id = message.id ?? id;
                retry = message.data.retry_millis ?? retry;
                said.push(message);
                if (message.event === "heartbeat") does?.(socket);
            };
            socket.onclose = ({ code, reason, wasClean }) => {
                said.push({ event: "close", code, reason, clean: wasClean });
                if (!does) setTimeout(again, retry, id, retry);
            };
        };
        again(null, 1000);
    }"#;

/// A page's `EventSource`.
const PAGE_SOURCE: &str = "watch(EventSource, '/api/sync/live', (one) => said.push(one))";

/// What a watcher sees until an event of a name comes; answers with that. Nothing without a name
/// may come before.
async fn until(watcher: &mut impl Watcher, event: &str) -> Value {
    loop {
        let said = watcher.said().await;
        assert!(said["event"] != "message" && said["event"] != "", "an event without a name: {said}");
        assert_ne!(said["for_good"], true, "it has given up: {said}");
        if said["event"] == event {
            return said;
        }
    }
}

/// The seqs of the next changes, so many of them or more, and the last id.
async fn seqs(watcher: &mut impl Watcher, count: usize) -> (Vec<u64>, String) {
    let (mut all, mut id) = (Vec::new(), String::new());
    while all.len() < count {
        let said = until(watcher, "changes").await;
        let changes = said["data"]["changes"].as_array().unwrap();
        all.extend(changes.iter().map(|change| change["seq"].as_u64().unwrap()));
        said["id"].as_str().unwrap().clone_into(&mut id);
    }
    (all, id)
}

/// Connect, receive, cut, push meanwhile, come back: nothing is lost, nothing comes twice.
async fn is_gap_free(server: &Server, relay: &mut Relay, watcher: &mut impl Watcher) {
    let url = server.url();
    let base = get(&url, "/api/sync/snapshot").await.last_seq();
    let expect = async |watcher: &mut _, from: u64, upto: u64| {
        let (seen, id) = seqs(watcher, (upto - from + 1) as usize).await;
        assert_eq!(seen, (base + from..=base + upto).collect::<Vec<_>>());
        assert!(id.ends_with(&format!(".{}", base + upto)), "{id}");
    };
    // From now on, and cut before anything came: it knows where it stood.
    until(watcher, "heartbeat").await;
    relay.cut().await;
    push(&url, &todos(0, 3)).await;
    relay.open().await;
    expect(watcher, 1, 3).await;
    push(&url, &todos(3, 2)).await;
    expect(watcher, 4, 5).await;
    // Cut right after a push: that may have come, or not.
    push(&url, &todos(5, 1)).await;
    relay.cut().await;
    push(&url, &todos(6, 3)).await;
    relay.open().await;
    expect(watcher, 6, 9).await;
    // Cut twice with nothing between but the beginning of a stream.
    relay.cut().await;
    relay.open().await;
    until(watcher, "heartbeat").await;
    relay.cut().await;
    push(
        &url,
        &json!({"changes": [{"entity": "a\nb", "row_id": "ü", "kind": "insert", "data": "two\nlines"}]}),
    )
    .await;
    relay.open().await;
    expect(watcher, 10, 10).await;
    push(&url, &todos(10, 1)).await;
    expect(watcher, 11, 11).await;
}

/// Each request of a route but the first said where to go on.
fn assert_resumed(relay: &Relay, route: &str) {
    let heads: Vec<_> = relay.heads().into_iter().filter(|head| head.contains(route)).collect();
    let resumed =
        |head: &&String| head.to_lowercase().contains("last-event-id: ") || head.contains("resume=");
    assert!(heads.len() >= 4, "{heads:?}");
    assert_eq!(heads.iter().filter(resumed).count(), heads.len() - 1, "{heads:#?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn clients_of_server_sent_events_lose_nothing_when_they_are_cut_off() {
    for script in SSE {
        let server = start_memory("--heartbeat 5").await;
        let mut relay = Relay::start(server.address()).await;
        let Some(mut client) = Script::start(script, &[&format!("{}/api/sync/live", relay.url())]) else {
            continue;
        };
        is_gap_free(&server, &mut relay, &mut client).await;
        assert_resumed(&relay, "/api/sync/live");
        drop(client);
        server.shutdown().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn clients_of_web_sockets_lose_nothing_when_they_are_cut_off() {
    for script in WS {
        let server = start_memory("--heartbeat 5").await;
        let mut relay = Relay::start(server.address()).await;
        let url = format!("{}/api/sync/ws", relay.url().replace("http", "ws"));
        let Some(mut client) = Script::start(script, &[&url]) else { continue };
        is_gap_free(&server, &mut relay, &mut client).await;
        assert_resumed(&relay, "/api/sync/ws");
        drop(client);
        server.shutdown().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_browser_loses_nothing_when_it_is_cut_off() {
    let server = start_memory("--heartbeat 5").await;
    let mut relay = Relay::start(server.address()).await;
    let Some(mut page) = Page::start().await else { return };
    page.run(&relay.url(), PAGE_SOURCE).await;
    is_gap_free(&server, &mut relay, &mut page).await;
    assert_resumed(&relay, "/api/sync/live");
    page.run(&relay.url(), "follow('/api/sync/ws')").await;
    is_gap_free(&server, &mut relay, &mut page).await;
    assert_resumed(&relay, "/api/sync/ws");
    server.shutdown().await;
}

/// Waits for a place, gets it when it becomes free, and goes on from there.
async fn gets_a_place(server: &Server, taken: Sse, watcher: &mut impl Watcher, refused: &str) {
    let said = until(watcher, refused).await;
    if refused == "unavailable" {
        assert_eq!(said["data"]["error"]["code"], "TOO_MANY_SUBSCRIBERS");
    }
    drop(taken);
    until(watcher, "heartbeat").await;
    let pushed = push(&server.url(), &todos(0, 1)).await.last_seq();
    assert_eq!(seqs(watcher, 1).await.0, [pushed]);
}

#[tokio::test(flavor = "multi_thread")]
async fn clients_that_are_one_too_many_come_back_by_themselves() {
    for script in SSE.into_iter().chain(WS) {
        let server = start_memory("--max-subscribers 1").await;
        let url = server.url();
        let taken = Sse::open(&url, "").await;
        let route = if WS.contains(&script) {
            url.replace("http", "ws") + "/api/sync/ws"
        } else {
            url + "/api/sync/live"
        };
        let Some(mut client) = Script::start(script, &[&route]) else { continue };
        let refused = if WS.contains(&script) { "error" } else { "unavailable" };
        gets_a_place(&server, taken, &mut client, refused).await;
        drop(client);
        server.shutdown().await;
    }
    let Some(mut page) = Page::start().await else { return };
    for (script, refused) in [(PAGE_SOURCE, "unavailable"), ("follow('/api/sync/ws')", "close")] {
        let server = start_memory("--max-subscribers 1").await;
        let taken = Sse::open(&server.url(), "").await;
        page.run(&server.url(), script).await;
        gets_a_place(&server, taken, &mut page, refused).await;
        server.shutdown().await;
    }
}

/// What a watcher sees of the end: the code and the reason.
async fn closed(watcher: &mut impl Watcher) -> (u64, String) {
    let said = until(watcher, "close").await;
    // Only a browser says whether the handshake was whole. In the middle of a message that is too
    // long, the server cannot wait for the answer: it reads no frames any more.
    assert!(said["clean"] != false || said["code"] == 1009, "{said}");
    (said["code"].as_u64().unwrap(), said["reason"].as_str().unwrap().to_owned())
}

#[tokio::test(flavor = "multi_thread")]
async fn clients_of_web_sockets_see_why_one_is_closed() {
    let server = start_memory("--capacity 1").await;
    let url = server.url().replace("http", "ws") + "/api/sync/ws";
    push(&server.url(), &todos(0, 1)).await;
    push(&server.url(), &todos(1, 1)).await;
    let lapped = format!("{url}?since=0&history=full");
    for (script, does, code) in [
        ("ws.mjs", "close", 1000),
        ("ws.mjs", "long", 1009),
        ("ws.mjs", "utf8", 1007),
        ("ws.mjs", "unmasked", 1002),
        ("websockets_client.py", "close", 1000),
        ("websockets_client.py", "long", 1009),
    ] {
        let Some(mut client) = Script::start(script, &[&url, does]) else { continue };
        assert_eq!(closed(&mut client).await.0, code, "{script} {does}");
    }
    let mut following = Vec::new();
    for script in WS {
        let Some(mut client) = Script::start(script, &[&lapped]) else { continue };
        until(&mut client, "resync").await;
        assert_eq!(closed(&mut client).await, (1000, "resync required".into()), "{script}");
        let Some(mut client) = Script::start(script, &[&url]) else { continue };
        until(&mut client, "heartbeat").await;
        following.push(client);
    }
    let mut page = Page::start().await;
    if let Some(page) = &mut page {
        for (does, code) in
            [("close(1000, 'done')", 1000), ("close(4321)", 4321), ("send('x'.repeat(2_000_000))", 1009)]
        {
            page.run(&server.url(), &format!("follow('/api/sync/ws', (socket) => socket.{does})")).await;
            assert_eq!(closed(page).await.0, code, "a browser: {does}");
        }
        page.run(&server.url(), "follow('/api/sync/ws?since=0&history=full')").await;
        until(page, "resync").await;
        assert_eq!(closed(page).await, (1000, "resync required".into()));
        page.run(&server.url(), "follow('/api/sync/ws')").await;
        until(page, "heartbeat").await;
    }
    // Those that follow are told that the server stops, and it waits until they know.
    let stopping = tokio::spawn(server.shutdown());
    for client in &mut following {
        until(client, "stopping").await;
        assert_eq!(closed(client).await, (1001, "the server is stopping".into()), "{}", client.name);
    }
    if let Some(page) = &mut page {
        until(page, "stopping").await;
        assert_eq!(closed(page).await, (1001, "the server is stopping".into()));
    }
    stopping.await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn the_client_that_the_readme_shows_loses_nothing_through_a_cut_and_a_silence() {
    let Some(mut page) = Page::start().await else { return };
    let [read, write] = ["read-read-read-read", "write-write-write-write"];
    let server = start_memory(&format!("--heartbeat 0.5 --read-token {read} --write-token {write}")).await;
    let mut relay = Relay::start(server.address()).await;
    let client = reqwest::Client::new();
    let push = async |first: usize| {
        let request = client.post(format!("{}/api/sync/push", server.url())).bearer_auth(write);
        assert_eq!(request.json(&todos(first, 1)).send().await.unwrap().status().as_u16(), 200);
    };
    let rows = client.get(format!("{}/api/sync/snapshot", server.url())).bearer_auth(read);
    let resume = rows.send().await.unwrap().headers()["ringlog-resume"].to_str().unwrap().to_owned();
    let readme = std::fs::read_to_string(folder().join("../../README.md")).unwrap();
    let (_, shown) = readme.split_once("```js\n").unwrap();
    let (shown, _) = shown.split_once("```").unwrap();
    page.browser.open(&format!("{}/healthz", relay.url())).await;
    let script = format!(
        "{shown}; globalThis.seen = [];
         const take = (page) => seen.push(...page.changes.map((change) => change.row_id));
         follow('', '{read}', '{resume}', take, () => seen.push('resync')); 0"
    );
    page.browser.eval(&script).await;
    push(0).await;
    page.browser.until("seen.length > 0").await;
    relay.cut().await;
    push(1).await;
    relay.open().await;
    page.browser.until("seen.length > 1").await;
    relay.silence("/api/sync/live");
    push(2).await;
    page.browser.until("seen.length > 2").await;
    assert_eq!(page.browser.eval("seen.join()").await, "row-0,row-1,row-2");
    server.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_longest_change_that_a_server_takes_by_default_fits_what_pythons_websockets_takes_by_default() {
    let server = start_memory("").await;
    let url = server.url().replace("http", "ws") + "/api/sync/ws";
    let Some(mut client) = Script::start("websockets_client.py", &[&url, "text"]) else { return };
    until(&mut client, "heartbeat").await;
    // Names that are written as six bytes each.
    let name = "\u{1}".repeat(512);
    let body = |data: &str| {
        format!(r#"{{"changes":[{{"entity":{0},"row_id":{0},"kind":"update","data":{data}}}]}}"#, json!(name))
    };
    let push = async |body: String| {
        let request = reqwest::Client::new().post(format!("{}/api/sync/push", server.url()));
        request.header("content-type", "application/json").body(body).send().await.unwrap().status().as_u16()
    };
    let most = server_default_body();
    let data = format!(r#""{}""#, "x".repeat(most - body(r#""""#).len()));
    assert_eq!((body(&data).len(), push(body(&data)).await), (most, 200));
    let said = until(&mut client, "changes").await;
    assert!(said["length"].as_u64().unwrap() <= 1 << 20, "{}", said["length"]);
    // Numbers that a server which builds them anew writes four times as long.
    let numbers = format!("[{}0]", "1e15,".repeat((most - body("[0]").len()) / 5));
    assert_eq!(push(body(&numbers)).await, 200);
    let said = until(&mut client, "changes").await;
    assert!(said["length"].as_u64().unwrap() <= 1 << 20, "{}", said["length"]);
    // Many at once are cut into frames that fit.
    let row = |n: usize| json!({"entity": name, "row_id": format!("{n}{}", &name[3..]), "kind": "update"});
    let rows = json!({"changes": (0..150).map(row).collect::<Vec<_>>()});
    assert_eq!(push(rows.to_string()).await, 200);
    let mut count = 0;
    while count < 150 {
        count += until(&mut client, "changes").await["data"]["changes"].as_array().unwrap().len();
    }
    server.shutdown().await;
}

/// The longest body that is taken unless something else is set.
fn server_default_body() -> usize {
    common::config("--memory").max_body
}
