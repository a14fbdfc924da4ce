//! Live streams: gap-free, resumable, the same bytes for all, and none held up by a client that
//! does not read.
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
    let mut messages = Box::pin(socket.filter_map(async |message| match message.unwrap() {
        Message::Text(text) => Some(serde_json::from_str::<Value>(&text).unwrap()),
        _ => None,
    }));
    if !query.contains("since=0") {
        assert_eq!(messages.next().await.unwrap()["event"], "heartbeat", "where it begins");
    }
    messages
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
        ("heartbeat", true),
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

    // A later subscriber gets what the others had, from where it stands, not what was encoded last.
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
    // The cursor moves on past what does not match: a client that comes back later has not fallen
    // behind.
    loop {
        let beat = tokio::time::timeout(HANG, users.next()).await.unwrap().unwrap();
        assert_eq!(beat.name, "heartbeat");
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
    let mut stream = Sse::open(&url, "since=0&history=full").await;
    let resync = stream.next().await.unwrap();
    assert_eq!(resync.name, "resync");
    let error: Value = serde_json::from_str(&resync.data).unwrap();
    assert_eq!(
        (&error["error"]["code"], &error["error"]["reason"]),
        (&"RESYNC_REQUIRED".into(), &"evicted".into())
    );
    assert_eq!(resync.id, "", "coming back without the rows leads here again");
    assert_eq!(stream.next().await, None);

    let mut socket = socket(&url, "since=0&history=full").await;
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
        assert_eq!((&*beat.name, &beat.id), ("heartbeat", &first.id));
    }
    let mut socket = socket(&url, "").await;
    let beat = socket.next().await.unwrap();
    assert_eq!((&beat["event"], &beat["id"]), (&"heartbeat".into(), &(&*first.id).into()));

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
    let heard = async {
        for _ in 0..2 {
            assert!(from.next().await.unwrap().unwrap().is_text());
        }
    };
    tokio::select! {
        () = says => unreachable!("it goes on"),
        heard = tokio::time::timeout(HANG, heard) => heard.expect("a heartbeat"),
    }
    server.shutdown().await;
}

/// Opens a stream and reads nothing of it.
async fn not_reading(server: &common::Server, path: &str, more: &str) -> TcpStream {
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

/// One that reads slowly and wants every event is lapped, told so, loads the rows and goes on.
#[tokio::test(flavor = "multi_thread")]
async fn a_slow_subscriber_is_lapped_and_told() {
    let server = start_memory("--capacity 10").await;
    let url = server.url();
    let base = base(&url).await;
    let mut slow =
        not_reading(&server, &format!("/api/sync/live?since={base}&history=full"), "Connection: close\r\n")
            .await;
    for turn in 0..60 {
        assert_eq!(push(&url, &large(turn * 10, 10)).await.status, 200);
    }
    let mut text = String::new();
    tokio::time::timeout(HANG, slow.read_to_string(&mut text)).await.expect("the stream ends").unwrap();
    let last = text.lines().rev().find_map(|line| line.strip_prefix("id: ")).unwrap().to_owned();
    assert!(text.contains("event: resync"), "it was told");
    assert_eq!(get(&url, &format!("/api/sync/pull?resume={last}&history=full")).await.status, 410);
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
    assert_eq!((refused.status, refused.error().0), (503, "TOO_MANY_SUBSCRIBERS"));
    assert!(refused.error().1.contains("2 live streams") && refused.error().1.contains("--max-subscribers"));
    let seconds: u64 = refused.header("retry-after").unwrap().parse().unwrap();
    assert!((1..=3).contains(&seconds), "{seconds}");
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
    assert!(socket.next().await.unwrap().unwrap().is_text(), "where it begins");
    socket.send(Message::text("hello")).await.unwrap();
    socket.send(Message::Ping(vec![1, 2].into())).await.unwrap();
    assert_eq!(socket.next().await.unwrap().unwrap(), Message::Pong(vec![1, 2].into()));
    push(&url, &todos(0, 1)).await;
    assert!(socket.next().await.unwrap().unwrap().is_text());
    server.shutdown().await;
}

/// Sends bytes over a fresh WebSocket; answers with the code of the close frame that comes back,
/// and whether the server then ends the connection in order.
async fn closed_after(server: &common::Server, bytes: &[u8]) -> (Option<u16>, bool) {
    let mut stream = not_reading(server, "/api/sync/ws", UPGRADE).await;
    stream.write_all(bytes).await.unwrap();
    let mut answer = Vec::new();
    let ended = tokio::time::timeout(HANG, stream.read_to_end(&mut answer)).await.expect("it is hung up on");
    let head = answer.windows(4).position(|bytes| bytes == b"\r\n\r\n").expect("a head") + 4;
    let mut frames = &answer[head..];
    while let [opcode, length, rest @ ..] = frames {
        let (length, rest) = match length {
            126 => (usize::from(u16::from_be_bytes([rest[0], rest[1]])), &rest[2..]),
            short => (usize::from(*short), rest),
        };
        if *opcode == 0x88 {
            let code = (length >= 2).then(|| u16::from_be_bytes([rest[0], rest[1]]));
            assert_eq!(rest.len(), length, "the close frame is the last");
            return (code, ended.is_ok());
        }
        frames = &rest[length..];
    }
    (None, ended.is_ok())
}

/// A frame of a client: its mask is zero.
fn frame(first: u8, payload: &[u8]) -> Vec<u8> {
    let length = match payload.len() {
        short @ ..126 => vec![0x80 | short as u8],
        long @ ..65_536 => [&[0xfe][..], &(long as u16).to_be_bytes()].concat(),
        longer => [&[0xff][..], &(longer as u64).to_be_bytes()].concat(),
    };
    [&[first][..], &length, &[0; 4], payload].concat()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_web_socket_that_breaks_the_rules_is_told_which_before_it_ends() {
    let server = start_memory("").await;
    let long = vec![b'x'; 10_000];
    let cases: [(&str, u16, Vec<u8>); 15] = [
        ("a message over the limit", 1009, frame(0x82, &long)),
        ("a message far over the limit, sent to its end", 1009, frame(0x82, &vec![0; 15 << 20])),
        ("only the head of such a one", 1009, frame(0x82, &vec![0; 15 << 20])[..14].to_vec()),
        (
            "one over the limit in pieces",
            1009,
            [frame(0x01, &long[..4000]), frame(0x80, &long[..4000])].concat(),
        ),
        ("a text that is not UTF-8", 1007, frame(0x81, b"\xff\xfe")),
        (
            "one that is not UTF-8 in its second piece",
            1007,
            [frame(0x01, b"a"), frame(0x80, b"\xff")].concat(),
        ),
        ("a reason that is not UTF-8", 1007, frame(0x88, b"\x03\xe8\xff")),
        ("a frame without a mask", 1002, vec![0x81, 0x05, b'h', b'e', b'l', b'l', b'o']),
        ("a reserved bit", 1002, frame(0xc1, b"hello")),
        ("an unknown opcode", 1002, frame(0x83, b"hello")),
        ("an unknown control opcode", 1002, frame(0x8b, b"")),
        ("a continuation of nothing", 1002, frame(0x80, b"hello")),
        ("a ping in pieces", 1002, frame(0x09, b"hello")),
        ("a ping that is too long", 1002, frame(0x89, &long[..126])),
        ("half a closing code", 1002, frame(0x88, b"\x03")),
    ];
    for (what, code, bytes) in cases {
        assert_eq!(closed_after(&server, &bytes).await, (Some(code), true), "{what}");
    }
    server.shutdown().await;
}

#[tokio::test]
async fn a_web_socket_that_is_closed_is_answered() {
    let server = start_memory("").await;
    let code = |code: u16, reason: &str| frame(0x88, &[&code.to_be_bytes()[..], reason.as_bytes()].concat());
    assert_eq!(closed_after(&server, &code(1000, "done")).await, (Some(1000), true));
    assert_eq!(closed_after(&server, &code(4321, "")).await, (Some(4321), true), "a code of its own");
    assert_eq!(closed_after(&server, &frame(0x88, b"")).await, (None, true), "without a code");
    assert_eq!(
        closed_after(&server, &code(1006, "")).await,
        (Some(1002), true),
        "a code that may not be sent"
    );
    // A frame that follows is not looked at.
    let more = [code(1001, "leaving"), frame(0x82, &[0; 5000])].concat();
    assert_eq!(closed_after(&server, &more).await, (Some(1001), true));
    server.shutdown().await;
}

/// Waits until there are so many live streams.
async fn until_subscribers(url: &str, count: usize) {
    let wanted = format!("ringlog_subscribers {count}.0");
    let reached = async {
        while !reqwest::get(format!("{url}/metrics")).await.unwrap().text().await.unwrap().contains(&wanted) {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(HANG, reached).await.unwrap_or_else(|_| panic!("never {count} live streams"));
}

#[tokio::test]
async fn a_web_socket_that_does_not_answer_its_closing_holds_nothing() {
    let server = start_memory("--max-subscribers 2 --heartbeat 60").await;
    let url = server.url();
    // One breaks a rule and keeps its connection, one is told to resync and keeps it.
    let mut wrong = not_reading(&server, "/api/sync/ws", UPGRADE).await;
    wrong.write_all(&[0x81, 0x01, b'x']).await.unwrap();
    let lapped = not_reading(&server, "/api/sync/ws?since=1", UPGRADE).await;
    until_subscribers(&url, 0).await;
    // Nor do they hold up the end of the server.
    let more = not_reading(&server, "/api/sync/ws", UPGRADE).await;
    until_subscribers(&url, 1).await;
    tokio::time::timeout(HANG, server.shutdown()).await.expect("it stops");
    drop((wrong, lapped, more));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_web_socket_that_sends_pings_and_reads_nothing_is_not_read_from_either() {
    let server = start_memory("--heartbeat 600 --write-timeout 600").await;
    let mut stream = not_reading(&server, "/api/sync/ws", UPGRADE).await;
    let pings = frame(0x89, &[b'p'; 125]).repeat(1000);
    let mut sent = 0;
    // What the two systems hold for both directions is less than half of this.
    while sent < 32 << 20 {
        match tokio::time::timeout(Duration::from_secs(2), stream.write(&pings[sent % pings.len()..])).await {
            Ok(written) => sent += written.unwrap(),
            Err(_) => break,
        }
    }
    assert!(sent < 32 << 20, "{sent} bytes of pings are taken, and so many of pongs held");
    // Once it reads, it is read from again, and gets a pong for each ping.
    let (mut from, mut to) = stream.split();
    let rest = &pings[sent % pings.len()..];
    let rest = if rest.len() < pings.len() { rest } else { &[] };
    let length = 127 * (sent + rest.len()) / 131;
    let mut answers = vec![0; length];
    let (written, read) = tokio::join!(to.write_all(rest), from.read_exact(&mut answers));
    written.and(read.map(drop)).unwrap();
    server.shutdown().await;
}

#[tokio::test]
async fn a_stream_is_asked_for_with_good_parameters_also_where_its_last_id_is_what_counts() {
    let server = start_memory("").await;
    let token = push_token(&server.url()).await;
    for query in ["since=007", "resume=7", "since=7&resume=00000000000000000000000000000000.8", "entity="] {
        for (route, more) in [("live", ""), ("ws", UPGRADE)] {
            let more = format!("{more}Last-Event-ID: {token}\r\n");
            let mut stream = not_reading(&server, &format!("/api/sync/{route}?{query}"), &more).await;
            let mut head = [0; 12];
            stream.read_exact(&mut head).await.unwrap();
            assert!(head.ends_with(b" 400"), "{route}?{query}: {}", String::from_utf8_lossy(&head));
        }
    }
    server.shutdown().await;
}

/// The resume token of a server's rows, after a push.
async fn push_token(url: &str) -> String {
    push(url, &todos(0, 1)).await;
    get(url, "/api/sync/snapshot").await.header("ringlog-resume").unwrap().to_owned()
}

#[tokio::test]
async fn the_route_of_web_sockets_says_that_it_wants_an_upgrade() {
    let server = start_memory("").await;
    let plain = get(&server.url(), "/api/sync/ws").await;
    assert_eq!(
        (plain.status, plain.error().0, plain.header("upgrade"), plain.header("connection")),
        (426, "UPGRADE_REQUIRED", Some("websocket"), Some("upgrade"))
    );
    for (what, change, status) in [
        ("another version", ("Version: 13", "Version: 8"), "426 "),
        ("another protocol", ("Upgrade: websocket", "Upgrade: h2c"), "426 "),
        ("no upgrade", ("Connection: Upgrade", "Connection: close"), "426 "),
        ("no key", ("Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==", "X: y"), "400 "),
        ("a short key", ("dGhlIHNhbXBsZSBub25jZQ==", "dGhl"), "400 "),
        ("several protocols", ("Upgrade: websocket", "Upgrade: h2c, WebSocket"), "101 "),
        ("a connection kept alive", ("Connection: Upgrade", "Connection: keep-alive, Upgrade"), "101 "),
    ] {
        let upgrade = UPGRADE.replace(change.0, change.1);
        let mut stream = not_reading(&server, "/api/sync/ws", &upgrade).await;
        let mut head = [0; 13];
        stream.read_exact(&mut head).await.unwrap();
        let head = String::from_utf8_lossy(&head);
        assert!(head.ends_with(status), "{what}: {head}");
        if status == "426 " {
            let mut rest = vec![0; 400];
            let count = stream.read(&mut rest).await.unwrap();
            let rest = String::from_utf8_lossy(&rest[..count]).to_lowercase();
            assert!(
                rest.contains("upgrade: websocket\r\n") && rest.contains("sec-websocket-version: 13\r\n"),
                "{rest}"
            );
        }
    }
    server.shutdown().await;
}

#[tokio::test]
async fn no_other_method_than_get_opens_a_web_socket() {
    let server = start_memory("").await;
    for method in ["HEAD", "POST", "OPTIONS"] {
        let mut stream = TcpStream::connect(server.address()).await.unwrap();
        let head = format!("{method} /api/sync/ws HTTP/1.1\r\nHost: {}\r\n{UPGRADE}\r\n", server.address());
        stream.write_all(head.as_bytes()).await.unwrap();
        let mut head = [0; 12];
        stream.read_exact(&mut head).await.unwrap();
        assert!(head.ends_with(b" 405"), "{method}: {}", String::from_utf8_lossy(&head));
    }
    server.shutdown().await;
}

/// Each block of a stream that ends, as its fields.
async fn blocks(response: reqwest::Response) -> Vec<Vec<(String, String)>> {
    let text = tokio::time::timeout(HANG, response.text()).await.expect("it ends").unwrap();
    let field = |line: &str| line.split_once(": ").map(|(name, value)| (name.to_owned(), value.to_owned()));
    let fields = |block: &str| block.lines().map(|line| field(line).expect("a field")).collect();
    text.split_terminator("\n\n").map(fields).collect()
}

#[tokio::test]
async fn no_block_has_an_id_without_data_and_all_say_when_to_come_back() {
    let server = start_memory("--heartbeat 0.05").await;
    let url = server.url();
    let stream = reqwest::get(format!("{url}/api/sync/live")).await.unwrap();
    assert_eq!(stream.headers()["cache-control"], "no-store, no-transform", "no proxy may hold events back");
    push(&url, &todos(0, 1)).await;
    let beats = tokio::time::sleep(Duration::from_millis(300));
    let (all, ()) = tokio::join!(blocks(stream), async {
        beats.await;
        server.shutdown().await;
    });
    let mut retries = std::collections::BTreeSet::new();
    for block in &all {
        let field = |name| block.iter().find_map(|(known, value)| (known == name).then_some(&**value));
        assert!(field("event").is_some() && field("data").is_some() && field("id").is_some(), "{block:?}");
        let data: Value = serde_json::from_str(field("data").unwrap()).unwrap();
        if field("event") == Some("heartbeat") {
            let seq = field("id").unwrap().rsplit_once('.').unwrap().1.parse::<u64>().unwrap();
            assert_eq!(data["cursor"]["last_seq"], seq);
            assert_eq!(data["heartbeat_seconds"], 0.05);
            assert_eq!(data["retry_millis"].to_string(), field("retry").unwrap());
        }
        retries.extend(field("retry").map(str::to_owned));
    }
    let names: Vec<_> = all.iter().map(|block| &*block[0].1).collect();
    assert_eq!((names[0], names[names.len() - 1]), ("heartbeat", "stopping"), "{names:?}");
    assert!(names.contains(&"changes") && retries.len() > 1, "{names:?} come back after {retries:?}");
}

#[tokio::test]
async fn an_event_source_that_is_one_too_many_gets_a_stream_that_says_when_to_come_back() {
    let server = start_memory("--max-subscribers 1").await;
    let url = server.url();
    let first = Sse::open(&url, "").await;
    let request = reqwest::Client::new().get(format!("{url}/api/sync/live"));
    // As every EventSource sends it. A status other than 200 would end it for good.
    let answer = request.header("Accept", "text/event-stream").send().await.unwrap();
    assert_eq!(
        (answer.status().as_u16(), answer.headers()["content-type"].to_str().unwrap()),
        (200, "text/event-stream")
    );
    let blocks = blocks(answer).await;
    let [block] = &blocks[..] else { panic!("{blocks:?}") };
    let names: Vec<_> = block.iter().map(|(name, _)| &**name).collect();
    assert_eq!((names, &*block[0].1), (vec!["event", "retry", "data"], "unavailable"));
    let error: Value = serde_json::from_str(&block[2].1).unwrap();
    assert_eq!(error["error"]["code"], "TOO_MANY_SUBSCRIBERS");
    let metrics = reqwest::get(format!("{url}/metrics")).await.unwrap().text().await.unwrap();
    assert!(
        metrics.contains(r#"ringlog_requests_total{route="live",status="503"} 1"#),
        "it is counted as refused"
    );
    drop(first);
    server.shutdown().await;
}

/// A connection whose peer's system drops every packet that comes: it acknowledges nothing any
/// more.
#[cfg(target_os = "linux")]
fn vanish(stream: &TcpStream) {
    let drop_all = socket2::SockFilter::new(0x06, 0, 0, 0);
    socket2::SockRef::from(stream).attach_filter(&[drop_all]).unwrap();
}

#[cfg(target_os = "linux")]
#[tokio::test(flavor = "multi_thread")]
async fn peers_that_vanish_are_let_go_whatever_they_did_last() {
    let server = start_memory("--heartbeat 1 --write-timeout 600 --header-timeout 600").await;
    let url = server.url();
    let client = reqwest::Client::new();
    let connections = async || {
        let figures = client.get(format!("{url}/metrics")).send().await.unwrap().text().await.unwrap();
        figures.lines().find(|line| line.starts_with("ringlog_connections ")).unwrap().to_owned()
    };
    let before = connections().await;
    let mut peers = Vec::new();
    for (path, more) in [("live", ""), ("ws", UPGRADE), ("live?entity=None", ""), ("ws?entity=None", UPGRADE)]
    {
        peers.push(not_reading(&server, &format!("/api/sync/{path}"), more).await);
    }
    let head = get(&url, "/api/sync/snapshot").await.last_seq();
    peers.push(not_reading(&server, &format!("/api/sync/pull?wait=60&since={head}"), "").await);
    // One has had its answer, and keeps the connection.
    peers.push(not_reading(&server, "/healthz", "").await);
    until_subscribers(&url, 4).await;
    tokio::time::sleep(Duration::from_millis(100)).await;
    peers.iter().for_each(vanish);
    // There is something to send, more than once.
    for n in 0..3 {
        push(&url, &todos(n, 1)).await;
    }
    until_subscribers(&url, 0).await;
    // All of their connections are gone, also of those that are no streams.
    let gone = async {
        while connections().await != before {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(HANG, gone).await.expect("their connections end");
    drop(peers);
    server.shutdown().await;
}

#[tokio::test]
async fn a_web_socket_that_answers_no_ping_is_let_go_though_something_acknowledges_for_it() {
    let server = start_memory("--heartbeat 1").await;
    let url = server.url();
    // Reads, as a proxy does for a client that is gone, and even says something; it answers no
    // ping.
    let mut silent = not_reading(&server, "/api/sync/ws", UPGRADE).await;
    let (mut answering, _) =
        tokio_tungstenite::connect_async(format!("{}/api/sync/ws", url.replace("http", "ws"))).await.unwrap();
    let ended = async {
        let mut buffer = [0; 4096];
        while silent.read(&mut buffer).await.is_ok_and(|count| count > 0) {
            let _ = silent.write_all(&frame(0x81, b"hello")).await;
        }
    };
    let mut pings = 0;
    let living = async {
        while let Some(Ok(message)) = answering.next().await {
            pings += usize::from(message.is_ping());
        }
    };
    tokio::select! {
        () = living => panic!("one that answers is let go"),
        ended = tokio::time::timeout(HANG, ended) => ended.expect("it is let go"),
    }
    assert!(pings >= 1, "pings come");
    until_subscribers(&url, 1).await;
    server.shutdown().await;
}
