//! Live streams: gap-free, resumable, the same bytes for all, and nobody held up by who does not read.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use common::clients::{Event, Sse};
use common::{HANG, get, push, start_memory, todos};
use futures_util::{SinkExt, StreamExt};
use serde_json::{Value, json};
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_tungstenite::tungstenite::Message;

fn seqs(event: &Event) -> Vec<u64> {
    let page: Value = serde_json::from_str(&event.data).unwrap();
    page["changes"].as_array().unwrap().iter().map(|change| change["seq"].as_u64().unwrap()).collect()
}

/// Reads events until so many changes have come; answers with their seqs.
async fn read(stream: &mut Sse, count: usize) -> Vec<u64> {
    let mut all = Vec::new();
    while all.len() < count {
        all.extend(seqs(&stream.event("changes").await));
    }
    all
}

async fn base(url: &str) -> u64 {
    get(url, "/api/sync/snapshot").await.last_seq()
}

async fn socket(url: &str, query: &str) -> impl StreamExt<Item = Value> + Unpin + use<> {
    let url = format!("{}/api/sync/ws?{query}", url.replace("http", "ws"));
    let (socket, _) = tokio_tungstenite::connect_async(url).await.unwrap();
    Box::pin(socket.filter_map(async |message| match message.unwrap() {
        Message::Text(text) => Some(serde_json::from_str(&text).unwrap()),
        _ => None,
    }))
}

#[tokio::test]
async fn what_was_there_and_what_comes_is_one_stream_that_can_be_resumed() {
    let server = start_memory("").await;
    let url = server.url();
    let base = base(&url).await;
    push(&url, &todos(0, 300)).await;
    let mut stream = Sse::open(&url, &format!("since={base}")).await;
    let first = stream.next().await.unwrap();
    assert_eq!(
        (&*first.name, first.id.ends_with(&format!(".{base}"))),
        ("", true),
        "a token, though a bare seq came"
    );
    push(&url, &todos(300, 20)).await;
    assert_eq!(read(&mut stream, 320).await, (base + 1..=base + 320).collect::<Vec<_>>());
    push(&url, &todos(320, 1)).await;
    assert_eq!(read(&mut stream, 1).await, [base + 321]);

    // The connection breaks; the browser comes back with the same address and the last id.
    let last = stream.last_id.clone();
    drop(stream);
    push(&url, &todos(321, 5)).await;
    let request = reqwest::Client::new().get(format!("{url}/api/sync/live?since={base}"));
    let mut stream = Sse::new(request.header("Last-Event-ID", &last).send().await.unwrap());
    assert_eq!(read(&mut stream, 5).await, (base + 322..=base + 326).collect::<Vec<_>>());

    // Without a place to begin, from now on.
    let mut live = Sse::open(&url, "").await;
    live.next().await.unwrap();
    push(&url, &todos(400, 1)).await;
    assert_eq!(read(&mut live, 1).await, [base + 327]);
    server.shutdown().await;
    while live.next().await.is_some() {}
}

#[tokio::test]
async fn all_subscribers_are_sent_the_same_bytes_over_either_transport() {
    let server = start_memory("").await;
    let url = server.url();
    let base = base(&url).await;
    let mut streams = Vec::new();
    for _ in 0..5 {
        let mut stream = Sse::open(&url, &format!("since={base}")).await;
        stream.next().await.unwrap();
        streams.push(stream);
    }
    let mut socket = socket(&url, &format!("since={base}")).await;
    push(&url, &json!({"changes": [{"entity": "a\nb", "row_id": "ü", "kind": "insert", "data": {"text": "two\nlines"}}]})).await;
    let first = streams[0].event("changes").await;
    for stream in &mut streams[1..] {
        assert_eq!(stream.event("changes").await, first);
    }
    let message = socket.next().await.unwrap();
    assert_eq!((&message["event"], &message["id"]), (&"changes".into(), &(&*first.id).into()));
    let page: Value = serde_json::from_str(&first.data).unwrap();
    assert_eq!(message["data"], page);
    assert_eq!(page, get(&url, &format!("/api/sync/pull?since={base}")).await.body, "and the same as pulled");

    // Who comes later gets what the others had, from where it stands, not what was encoded last.
    for n in 0..4 {
        push(&url, &todos(n, 1)).await;
        assert_eq!(read(&mut streams[0], 1).await, [base + 2 + n as u64]);
    }
    for behind in 0..5 {
        let mut late = Sse::open(&url, &format!("since={}", base + behind)).await;
        let rest: Vec<_> = (base + behind + 1..=base + 5).collect();
        assert_eq!(read(&mut late, rest.len()).await, rest);
    }
    server.shutdown().await;
}

#[tokio::test]
async fn only_the_entities_that_were_asked_for_come() {
    let server = start_memory("--heartbeat 0.05").await;
    let url = server.url();
    let base = base(&url).await;
    let mut users = Sse::open(&url, &format!("since={base}&entity=User")).await;
    push(&url, &todos(0, 3)).await;
    // The place moves on past what does not match: who comes back later has not fallen behind.
    loop {
        let beat = tokio::time::timeout(HANG, users.next()).await.unwrap().unwrap();
        assert_eq!(beat.name, "");
        if beat.id.ends_with(&format!(".{}", base + 3)) {
            break;
        }
    }
    push(&url, &json!({"changes": [{"entity": "User", "row_id": "u", "kind": "insert"}]})).await;
    assert_eq!(read(&mut users, 1).await, [base + 4]);
    server.shutdown().await;
}

#[tokio::test]
async fn what_is_filtered_out_may_leave_the_window_before_something_matches() {
    let server = start_memory("--capacity 20 --heartbeat 60").await;
    let url = server.url();
    let base = base(&url).await;
    let mut users = Sse::open(&url, &format!("since={base}&entity=User")).await;
    users.next().await.unwrap();
    for first in (0..100).step_by(10) {
        push(&url, &todos(first, 10)).await;
        // Seen by the stream, which goes on waiting.
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    push(&url, &json!({"changes": [{"entity": "User", "row_id": "u", "kind": "insert"}]})).await;
    let event = tokio::time::timeout(HANG, users.next()).await.unwrap().unwrap();
    assert_eq!((&*event.name, seqs(&event)), ("changes", vec![base + 101]));
    server.shutdown().await;
}

#[tokio::test]
async fn who_cannot_go_on_is_told_to_resync_and_the_stream_ends() {
    let server = start_memory("--capacity 4").await;
    let url = server.url();
    push(&url, &todos(0, 4)).await;
    push(&url, &todos(4, 4)).await;
    let mut stream = Sse::open(&url, "since=0").await;
    let token = stream.next().await.unwrap().id;
    let resync = stream.event("resync").await;
    let error: Value = serde_json::from_str(&resync.data).unwrap();
    assert_eq!(
        (&error["error"]["code"], &error["error"]["reason"]),
        (&"RESYNC_REQUIRED".into(), &"evicted".into())
    );
    assert_eq!(resync.id, token, "coming back without the rows leads here again");
    assert_eq!(stream.next().await, None);

    let mut socket = socket(&url, "since=0").await;
    let message = socket.next().await.unwrap();
    assert_eq!(
        (&message["event"], &message["data"]["error"]["code"]),
        (&"resync".into(), &"RESYNC_REQUIRED".into())
    );
    assert!(socket.next().await.is_none());
    server.shutdown().await;
}

#[tokio::test]
async fn a_stream_on_which_nothing_happens_shows_that_it_lives() {
    let server = start_memory("--heartbeat 0.05").await;
    let url = server.url();
    let mut stream = Sse::open(&url, "").await;
    let first = stream.next().await.unwrap();
    for _ in 0..3 {
        let beat = tokio::time::timeout(HANG, stream.next()).await.unwrap().unwrap();
        assert_eq!((&*beat.name, &beat.id), ("", &first.id));
    }
    let mut socket = socket(&url, "").await;
    assert_eq!(socket.next().await.unwrap(), json!({"event": "heartbeat", "id": first.id}));

    // Also to a client that has more to say than that.
    let address = format!("{}/api/sync/ws", url.replace("http", "ws"));
    let (socket, _) = tokio_tungstenite::connect_async(&address).await.unwrap();
    let (mut to, mut from) = socket.split();
    let says = async {
        loop {
            to.send(Message::text("hello")).await.unwrap();
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    let heard = async { assert!(from.next().await.unwrap().unwrap().is_text()) };
    tokio::select! {
        () = says => unreachable!("it goes on"),
        heard = tokio::time::timeout(HANG, heard) => heard.expect("a heartbeat"),
    }
    server.shutdown().await;
}

/// Opens a stream and reads nothing of it.
async fn not_reading(server: &ringlog_server::Server, path: &str, more: &str) -> TcpStream {
    let socket = tokio::net::TcpSocket::new_v4().unwrap();
    // Little, so that the server soon has nowhere to write to.
    socket.set_recv_buffer_size(65_536).unwrap();
    let mut stream = socket.connect(server.address()).await.unwrap();
    let head = format!("GET {path} HTTP/1.1\r\nHost: {}\r\n{more}\r\n", server.address());
    stream.write_all(head.as_bytes()).await.unwrap();
    stream
}

/// A push of rows of 20 kB each.
fn large(first: usize, count: usize) -> Value {
    let row = |n: usize| json!({"entity": "E", "row_id": n.to_string(), "kind": "update", "data": "x".repeat(20_000)});
    json!({"changes": (first..first + count).map(row).collect::<Vec<_>>()})
}

const UPGRADE: &str = "Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n\
                       Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n";

#[tokio::test(flavor = "multi_thread")]
async fn subscribers_that_never_read_hold_nobody_up_and_are_let_go() {
    let server = start_memory("--capacity 2000 --write-timeout 1 --heartbeat 0.1").await;
    let url = server.url();
    let base = base(&url).await;
    let mut silent = Vec::new();
    for _ in 0..10 {
        silent.push(not_reading(&server, &format!("/api/sync/live?since={base}"), "").await);
        silent.push(not_reading(&server, &format!("/api/sync/ws?since={base}"), UPGRADE).await);
    }
    let mut reading = Sse::open(&url, &format!("since={base}")).await;
    // Far more than sockets and kept frames hold.
    let pushing = async {
        for turn in 0..60 {
            assert_eq!(push(&url, &large(turn * 10, 10)).await.status, 200);
        }
    };
    let (seqs, ()) = tokio::join!(read(&mut reading, 600), pushing);
    assert_eq!(seqs, (base + 1..=base + 600).collect::<Vec<_>>(), "who reads misses nothing");
    // Their places become free.
    let freed = async {
        loop {
            let figures = reqwest::get(format!("{url}/metrics")).await.unwrap().text().await.unwrap();
            if figures.contains("ringlog_subscribers 1.0") {
                return;
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    };
    tokio::time::timeout(HANG, freed).await.expect("those that never read are let go");
    drop(silent);
    server.shutdown().await;
}

/// One that reads slowly is lapped, told so, loads the rows and goes on.
#[tokio::test(flavor = "multi_thread")]
async fn a_slow_subscriber_is_lapped_and_told() {
    let server = start_memory("--capacity 10").await;
    let url = server.url();
    let base = base(&url).await;
    let mut slow =
        not_reading(&server, &format!("/api/sync/live?since={base}"), "Connection: close\r\n").await;
    for turn in 0..60 {
        assert_eq!(push(&url, &large(turn * 10, 10)).await.status, 200);
    }
    let mut text = String::new();
    tokio::time::timeout(HANG, slow.read_to_string(&mut text)).await.expect("the stream ends").unwrap();
    let last = text.lines().rev().find_map(|line| line.strip_prefix("id: ")).unwrap().to_owned();
    assert!(text.contains("event: resync"), "it was told");
    assert_eq!(get(&url, &format!("/api/sync/pull?resume={last}")).await.status, 410);
    let (rows, token) = common::snapshot(&url, 1000).await.unwrap();
    assert_eq!(
        (rows.len(), token),
        (
            600,
            get(&url, &format!("/api/sync/pull?since={}", base + 595))
                .await
                .header("ringlog-resume")
                .unwrap()
                .to_owned()
        )
    );
    server.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_thousand_idle_subscribers_are_all_woken() {
    let _ = rlimit::increase_nofile_limit(4096);
    let server = start_memory("").await;
    let url = server.url();
    let mut streams = Vec::new();
    let client = reqwest::Client::builder().pool_max_idle_per_host(0).build().unwrap();
    for _ in 0..500 {
        let response = client.get(format!("{url}/api/sync/live")).send().await.unwrap();
        let mut stream = Sse::new(response);
        stream.next().await.unwrap();
        streams.push(stream);
    }
    let mut sockets = Vec::new();
    for _ in 0..500 {
        sockets.push(socket(&url, "").await);
    }
    // A socket is a subscriber a moment after it is open.
    let figures = async {
        loop {
            let figures = reqwest::get(format!("{url}/metrics")).await.unwrap().text().await.unwrap();
            if figures.contains("ringlog_subscribers 1000.0") && figures.contains("ringlog_log_waiters 100") {
                return;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(HANG, figures).await.expect("1,000 subscribers that sleep");
    let pushed = push(&url, &todos(0, 1)).await;
    let all = async {
        for stream in &mut streams {
            assert_eq!(read(stream, 1).await, [pushed.last_seq()]);
        }
        for socket in &mut sockets {
            assert_eq!(socket.next().await.unwrap()["data"]["cursor"]["last_seq"], pushed.last_seq());
        }
    };
    tokio::time::timeout(HANG, all).await.expect("all are woken");
    server.shutdown().await;
}

#[tokio::test]
async fn more_subscribers_than_are_allowed_are_told_to_come_back() {
    let server = start_memory("--max-subscribers 2").await;
    let url = server.url();
    let first = Sse::open(&url, "").await;
    let second = socket(&url, "").await;
    let refused = get(&url, "/api/sync/live").await;
    assert_eq!(
        (refused.status, refused.error().0, refused.header("retry-after")),
        (503, "TOO_MANY_SUBSCRIBERS", Some("1"))
    );
    drop((first, second));
    let freed = async {
        while reqwest::get(format!("{url}/api/sync/live")).await.unwrap().status().as_u16() == 503 {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(HANG, freed).await.expect("places become free");
    server.shutdown().await;
}

#[tokio::test]
async fn what_a_client_says_over_a_web_socket_is_not_looked_at() {
    let server = start_memory("").await;
    let url = server.url();
    let address = format!("{}/api/sync/ws", url.replace("http", "ws"));
    let (mut socket, _) = tokio_tungstenite::connect_async(&address).await.unwrap();
    socket.send(Message::text("hello")).await.unwrap();
    socket.send(Message::Ping(vec![1, 2].into())).await.unwrap();
    assert_eq!(socket.next().await.unwrap().unwrap(), Message::Pong(vec![1, 2].into()));
    push(&url, &todos(0, 1)).await;
    assert!(socket.next().await.unwrap().unwrap().is_text());
    // But it may not be long.
    socket.send(Message::binary(vec![0; 10_000])).await.unwrap();
    let ended = async { while let Some(Ok(_)) = socket.next().await {} };
    tokio::time::timeout(HANG, ended).await.expect("it is hung up on");

    // Nor is it waited for when it only says that it will be: a frame of 15 MiB, of which the head comes.
    let mut stream = not_reading(&server, "/api/sync/ws", UPGRADE).await;
    let head = [&[0x82, 0xff][..], &(15_u64 << 20).to_be_bytes(), &[0; 4]].concat();
    stream.write_all(&head).await.unwrap();
    let ended = async { while stream.read(&mut [0; 1024]).await.is_ok_and(|count| count > 0) {} };
    tokio::time::timeout(HANG, ended).await.expect("it is hung up on");
    server.shutdown().await;
}
