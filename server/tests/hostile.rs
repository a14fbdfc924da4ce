//! Clients that mean no good: heads and bodies that never end, and noise.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use common::Server;
use common::{HANG, get, push, start_memory, todos};
use serde_json::{Value, json};
use std::time::{Duration, Instant};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

async fn connect(server: &Server, text: &str) -> TcpStream {
    let mut stream = TcpStream::connect(server.address()).await.unwrap();
    stream.write_all(text.as_bytes()).await.unwrap();
    stream
}

/// What comes until the server hangs up.
async fn rest(stream: &mut TcpStream) -> String {
    let mut bytes = Vec::new();
    let read = tokio::time::timeout(HANG, stream.read_to_end(&mut bytes)).await.expect("the server hangs up");
    // A reset is one way to hang up.
    drop(read);
    String::from_utf8_lossy(&bytes).into_owned()
}

#[tokio::test]
async fn heads_that_never_end_are_hung_up_on_and_hold_nobody_up() {
    let server = start_memory("--header-timeout 0.5").await;
    let mut slow = Vec::new();
    for beginning in ["", "G", "GET /api/sync/pull HTTP/1.1\r\n", "GET / HTTP/1.1\r\nHost: x\r\nA: "] {
        slow.push(connect(&server, beginning).await);
    }
    assert_eq!(push(&server.url(), &todos(0, 1)).await.status, 200, "others are answered meanwhile");
    // One keeps sending, a byte at a time: the limit is for the whole head.
    let mut dripping = connect(&server, "GET /healthz HTTP/1.1\r\nX: ").await;
    let start = Instant::now();
    let dripped = async {
        while dripping.write_all(b"x").await.is_ok() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(HANG, dripped).await.expect("it is hung up on");
    assert!(start.elapsed() >= Duration::from_millis(400));
    for stream in &mut slow {
        let said = rest(stream).await;
        assert!(said.is_empty() || said.starts_with("HTTP/1.1 408"), "{said}");
    }
    server.shutdown().await;
}

#[tokio::test]
async fn a_body_that_does_not_come_is_given_up() {
    let server = start_memory("--request-timeout 0.4 --max-pushing 1048576").await;
    let url = server.url();
    let mut slow =
        connect(&server, &format!("{}{}", push_head("Content-Length: 1000000\r\n"), " ".repeat(990_000)))
            .await;
    tokio::time::sleep(Duration::from_millis(50)).await;
    let busy = push(&url, &todos(0, 1000)).await;
    assert_eq!((busy.status, busy.error().0), (503, "BUSY"), "what is in work is bounded");
    let mut answer = vec![0; 20];
    tokio::time::timeout(HANG, slow.read_exact(&mut answer)).await.expect("an answer").unwrap();
    assert_eq!(String::from_utf8_lossy(&answer), "HTTP/1.1 408 Request");
    drop(slow);
    assert_eq!(push(&url, &todos(0, 1000)).await.status, 200, "its share is free again");
    server.shutdown().await;
}

#[tokio::test]
async fn noise_is_answered_with_400_or_nothing() {
    let server = start_memory("").await;
    let host = "Host: localhost\r\n";
    for noise in [
        "\0\0\0\0\r\n\r\n".to_owned(),
        "HELO mail.example.com\r\n\r\n".to_owned(),
        "GET / HTTP/9.9\r\n\r\n".to_owned(),
        "GET /\u{7f} HTTP/1.1\r\n\r\n".to_owned(),
        format!("GET / HTTP/1.1\r\n{host}X: {}\r\n\r\n", "y".repeat(200_000)),
        format!("GET / HTTP/1.1\r\n{host}{}\r\n", "X: y\r\n".repeat(500)),
        format!(
            "POST /api/sync/push HTTP/1.1\r\n{host}Content-Type: application/json\r\nContent-Length: 1e3\r\n\r\n"
        ),
        format!(
            "POST /api/sync/push HTTP/1.1\r\n{host}Content-Type: application/json\r\nTransfer-Encoding: chunked\r\nConnection: close\r\n\r\nzz\r\n"
        ),
    ] {
        let mut stream = TcpStream::connect(server.address()).await.unwrap();
        let _ = stream.write_all(noise.as_bytes()).await;
        let said = rest(&mut stream).await;
        let status = said.get(..12).unwrap_or_default();
        assert!(
            said.is_empty() || ["HTTP/1.1 400", "HTTP/1.1 431", "HTTP/1.1 414"].contains(&status),
            "{said}"
        );
    }
    assert_eq!(get(&server.url(), "/api/sync/pull?since=0").await.status, 200, "it still answers");
    server.shutdown().await;
}

#[tokio::test]
async fn a_client_that_hangs_up_in_mid_push_leaves_all_or_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let server = common::start(&format!("--data {}", folder.path().display())).await;
    let url = server.url();
    let body = todos(0, 50).to_string();
    for sent in [10, body.len() / 2, body.len() - 1, body.len()] {
        let head = format!(
            "POST /api/sync/push HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n",
            body.len()
        );
        drop(connect(&server, &format!("{head}{}", &body[..sent])).await);
    }
    tokio::time::sleep(Duration::from_millis(100)).await;
    let changes = common::clients::pull_all(&url, 0).await;
    assert!(changes.len() == 50 || changes.is_empty(), "{}", changes.len());
    server.shutdown().await;
}

/// The head of a push, with another line.
fn push_head(line: &str) -> String {
    format!("POST /api/sync/push HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n{line}\r\n")
}

/// An answer as it came: the status, and the body as JSON (null if it is none).
fn parse(answer: &str) -> (u16, Value) {
    let (head, body) = answer.split_once("\r\n\r\n").unwrap_or((answer, ""));
    let status = head.get(9..12).and_then(|status| status.parse().ok()).unwrap_or(0);
    let is_json = head.to_ascii_lowercase().contains("\r\ncontent-type: application/json");
    (status, if is_json { serde_json::from_str(body).unwrap_or_default() } else { Value::Null })
}

/// Asserts that an answer is a refusal as all are: JSON with a code and a message.
fn assert_refused(answer: &str, status: u16, code: &str, what: &str) {
    let (given, body) = parse(answer);
    assert_eq!((given, &body["error"]["code"]), (status, &code.into()), "{what}: {answer}");
    assert!(body["error"]["message"].as_str().is_some_and(|message| !message.is_empty()), "{what}: {answer}");
}

async fn figure(url: &str, name: &str) -> u64 {
    get(url, "/api/stats").await.body[name].as_u64().unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn clients_that_hang_up_do_not_get_around_the_limit_of_pushes_in_work() {
    let folder = tempfile::tempdir().unwrap();
    let args = "--max-body 65536 --max-pushing 65536";
    let server = common::start(&format!("--data {} {args}", folder.path().display())).await;
    let url = server.url();
    let change =
        json!({"changes": [{"entity": "Big", "row_id": "b", "kind": "insert", "data": "x".repeat(60_000)}]});
    let body = change.to_string();
    let request = format!("{}{body}", push_head(&format!("Content-Length: {}\r\n", body.len())));
    let flood = tokio::spawn({
        let address = server.address();
        async move {
            for _ in 0..300 {
                let mut stream = TcpStream::connect(address).await.unwrap();
                stream.write_all(request.as_bytes()).await.unwrap();
                // Time for the request to get to the applier.
                tokio::task::yield_now().await;
                drop(stream);
            }
        }
    });
    let mut most = 0;
    while !flood.is_finished() {
        most = most.max(figure(&url, "pushes_waiting").await);
    }
    flood.await.unwrap();
    assert!(most <= 1, "{most} pushes of 60 KB waited at a limit of 64 KiB");
    let applied = async {
        while push(&url, &todos(0, 1)).await.status != 200 {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(HANG, applied).await.expect("what they had is free again");
    server.shutdown().await;
}

#[tokio::test]
async fn a_body_counts_as_it_arrives() {
    let server = start_memory("--max-body 1000000 --max-pushing 1000000").await;
    let url = server.url();
    let mut slow = Vec::new();
    for (line, body) in [
        ("Content-Length: 1000000\r\n", ""),
        ("Content-Length: 1000000\r\n", "{"),
        ("Transfer-Encoding: chunked\r\n", ""),
        ("Transfer-Encoding: chunked\r\n", "1\r\n{\r\n"),
        ("Content-Length: 1000000\r\nContent-Encoding: gzip\r\n", ""),
    ] {
        for _ in 0..16 {
            slow.push(connect(&server, &format!("{}{body}", push_head(line))).await);
        }
    }
    tokio::time::sleep(Duration::from_millis(100)).await;
    assert_eq!(
        push(&url, &todos(0, 1000)).await.status,
        200,
        "80 clients that send next to nothing hold next to nothing"
    );
    server.shutdown().await;
}

#[tokio::test]
async fn a_packed_body_counts_as_it_is_unpacked() {
    let server = start_memory("--max-body 1000000 --max-pushing 1000000").await;
    let mut packed = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::best());
    std::io::Write::write_all(&mut packed, &vec![b' '; 900_000]).unwrap();
    let packed = packed.finish().unwrap();
    let line = format!("Content-Encoding: gzip\r\nContent-Length: {}\r\n", packed.len());
    let mut slow = connect(&server, &push_head(&line)).await;
    slow.write_all(&packed[..packed.len() - 9]).await.unwrap();
    let busy = async {
        while push(&server.url(), &todos(0, 1000)).await.error().0 != "BUSY" {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(HANG, busy).await.expect("a kilobyte of gzip counts as what it stands for");
    drop(slow);
    server.shutdown().await;
}

#[tokio::test]
async fn a_push_of_many_small_changes_counts_as_what_it_becomes() {
    let server = start_memory("--max-body 200000 --max-pushing 400000").await;
    let url = server.url();
    let mut slow =
        connect(&server, &format!("{}{}", push_head("Content-Length: 150000\r\n"), " ".repeat(100_000)))
            .await;
    let change = r#"{"entity":"a","row_id":"b","kind":"insert"}"#;
    let many = format!(r#"{{"changes":[{}]}}"#, vec![change; 1000].join(","));
    let ask = async || {
        let request = reqwest::Client::new().post(format!("{url}/api/sync/push"));
        common::Answer::of(request.header("Content-Type", "application/json").body(many.clone())).await
    };
    let busy = async {
        while ask().await.error().0 != "BUSY" {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(HANG, busy).await.expect("44 KB of changes are half a megabyte of results");
    slow.shutdown().await.unwrap();
    drop(slow);
    let applied = async {
        while ask().await.status != 200 {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(HANG, applied).await.expect("alone it may have all there is");
    server.shutdown().await;
}

#[tokio::test]
async fn changes_over_the_limit_are_counted_and_not_kept() {
    let server = start_memory("--max-changes 10").await;
    let request = reqwest::Client::new().post(format!("{}/api/sync/push", server.url()));
    let change = r#"{"entity":"a","row_id":"b","kind":"insert"}"#;
    let many = format!(r#"{{"changes":[{}]}}"#, vec![change; 20_000].join(","));
    let refused = common::Answer::of(request.header("Content-Type", "application/json").body(many)).await;
    assert_eq!((refused.status, refused.error().0), (413, "TOO_MANY_CHANGES"));
    assert!(refused.error().1.contains("10 changes (--max-changes), not 20000"), "{}", refused.body);
    server.shutdown().await;
}

#[tokio::test]
async fn a_refusal_is_read_by_a_client_that_first_sends_all_that_it_has() {
    let server =
        common::start("--memory --max-body 2000 --max-pushing 4000 --write-token write-write-write").await;
    let body = "x".repeat(8 << 20);
    let token = "Authorization: Bearer write-write-write\r\n";
    let length = format!("Content-Length: {}\r\n", body.len());
    let json = "Content-Type: application/json\r\n";
    for (start, lines, status, code) in [
        ("POST /api/sync/push", format!("{json}{token}{length}"), 413, "BODY_TOO_LARGE"),
        (
            "POST /api/sync/push",
            format!("{json}{token}Transfer-Encoding: chunked\r\n"),
            413,
            "BODY_TOO_LARGE",
        ),
        ("POST /api/sync/push", format!("{token}{length}"), 415, "UNSUPPORTED_MEDIA_TYPE"),
        ("POST /api/sync/push", format!("{json}{length}"), 401, "UNAUTHORIZED"),
        ("POST /api/nothing", length.clone(), 404, "NOT_FOUND"),
        ("PUT /healthz", length.clone(), 405, "METHOD_NOT_ALLOWED"),
        ("GET /api/sync/pull?sinse=1", length.clone(), 400, "BAD_REQUEST"),
    ] {
        let mut stream =
            connect(&server, &format!("{start} HTTP/1.1\r\nHost: localhost\r\n{lines}\r\n")).await;
        if lines.contains("chunked") {
            for chunk in body.as_bytes().chunks(64 << 10) {
                stream.write_all(format!("{:x}\r\n", chunk.len()).as_bytes()).await.unwrap();
                stream.write_all(chunk).await.unwrap();
                stream.write_all(b"\r\n").await.unwrap();
            }
        } else {
            stream.write_all(body.as_bytes()).await.unwrap_or_else(|error| panic!("{start}: {error}"));
        }
        assert_refused(&rest(&mut stream).await, status, code, start);
    }
    server.shutdown().await;
}

#[tokio::test]
async fn a_body_that_is_announced_is_not_asked_for_if_it_is_too_long() {
    let server = start_memory("--max-body 2000").await;
    let mut stream = connect(&server, &push_head("Content-Length: 3000\r\nExpect: 100-continue\r\n")).await;
    assert_refused(&rest(&mut stream).await, 413, "BODY_TOO_LARGE", "without 100 Continue before it");
    server.shutdown().await;
}

#[tokio::test]
async fn a_client_that_closes_its_half_gets_its_answer() {
    let folder = tempfile::tempdir().unwrap();
    for args in [format!("--data {}", folder.path().display()), "--memory".to_owned()] {
        let server = common::start(&args).await;
        let url = server.url();
        let base = get(&url, "/api/sync/snapshot").await.last_seq();
        for row in 0..20 {
            push(&url, &json!({"changes": [{"entity": "Big", "row_id": row.to_string(), "kind": "insert", "data": "x".repeat(200_000)}]})).await;
        }
        let body = todos(0, 3).to_string();
        let chunked = format!("{:x}\r\n{body}\r\n0\r\n\r\n", body.len());
        let host = "Host: localhost\r\n";
        for request in [
            format!("{}{body}", push_head(&format!("Content-Length: {}\r\n", body.len()))),
            format!("{}{chunked}", push_head("Transfer-Encoding: chunked\r\n")),
            format!("GET /healthz HTTP/1.1\r\n{host}\r\n"),
            format!("GET /api/sync/pull?since={base}&limit=1000 HTTP/1.1\r\n{host}\r\n"),
            format!(
                "GET /api/sync/pull?since={base}&limit=1000 HTTP/1.1\r\n{host}Accept-Encoding: gzip\r\n\r\n"
            ),
            format!("GET /api/sync/pull?since={base} HTTP/1.0\r\n{host}\r\n"),
        ] {
            let mut stream = connect(&server, &request).await;
            stream.shutdown().await.unwrap();
            let answer = rest(&mut stream).await;
            assert!(
                answer.starts_with("HTTP/1.1 200") || answer.starts_with("HTTP/1.0 200"),
                "{request:.80}: {answer:.200}"
            );
            if !request.contains("gzip") && !request.contains("healthz") {
                serde_json::from_str::<Value>(answer.split_once("\r\n\r\n").unwrap().1)
                    .expect("the whole answer");
            }
        }
        // Half a request is none.
        let mut half = connect(&server, &push_head("Content-Length: 100\r\n")).await;
        half.shutdown().await.unwrap();
        assert!(!rest(&mut half).await.contains(" 200 "));
        server.shutdown().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn pushes_one_after_the_other_are_all_answered_when_their_client_then_closes_its_half() {
    let server = start_memory("").await;
    let body = todos(0, 1).to_string();
    let (begin, end) = body.split_at(20);
    let whole = format!("{}{body}", push_head(&format!("Content-Length: {}\r\n", body.len())));
    let chunked = format!(
        "{}{:x}\r\n{begin}\r\n{:x}\r\n{end}\r\n0\r\n\r\n",
        push_head("Transfer-Encoding: chunked\r\n"),
        begin.len(),
        end.len()
    );
    let health = "GET /healthz HTTP/1.1\r\nHost: localhost\r\nContent-Length: 2\r\n\r\n{}".to_owned();
    for turn in 0..50 {
        for request in [&whole, &chunked, &health] {
            let count = 1 + turn % 5;
            let mut stream = connect(&server, &request.repeat(count)).await;
            stream.shutdown().await.unwrap();
            let answers = rest(&mut stream).await;
            assert_eq!(
                answers.matches("HTTP/1.1 200").count(),
                count,
                "turn {turn}, {request:.80}: {answers}"
            );
        }
        // The end comes with the last part of the body, or instead of it.
        for (part, status) in [(end, "200"), (&end[..end.len() - 1], "400"), ("", "400")] {
            let (head, _) = whole.split_at(whole.len() - end.len());
            let mut stream = connect(&server, head).await;
            tokio::task::yield_now().await;
            stream.write_all(part.as_bytes()).await.unwrap();
            stream.shutdown().await.unwrap();
            let answer = rest(&mut stream).await;
            assert!(answer.starts_with(&format!("HTTP/1.1 {status}")), "turn {turn}: {answer}");
        }
    }
    server.shutdown().await;
}

#[tokio::test]
async fn a_wait_ends_when_its_client_hangs_up() {
    let server = start_memory("--max-wait 80000 --request-timeout 80000").await;
    let url = server.url();
    let idle = figure(&url, "connections").await;
    let base = get(&url, "/api/sync/snapshot").await.last_seq();
    let mut half = Vec::new();
    for _ in 0..10 {
        half.push(
            connect(
                &server,
                &format!("GET /api/sync/pull?since={base}&wait=80000 HTTP/1.1\r\nHost: localhost\r\n\r\n"),
            )
            .await,
        );
    }
    let gone = half.split_off(5);
    tokio::time::sleep(Duration::from_millis(50)).await;
    drop(gone);
    for mut stream in half {
        stream.shutdown().await.unwrap();
        assert_eq!(
            parse(&rest(&mut stream).await).1["changes"],
            json!([]),
            "it is answered with what there is"
        );
    }
    let freed = async {
        while figure(&url, "connections").await > idle {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(HANG, freed).await.expect("their connections are free");
    server.shutdown().await;
}

#[tokio::test]
async fn a_stream_whose_client_hangs_up_frees_its_place_before_anything_is_sent() {
    let server = start_memory("--max-subscribers 3 --heartbeat 80000").await;
    let url = server.url();
    let mut streams = Vec::new();
    for _ in 0..3 {
        let mut stream = connect(&server, "GET /api/sync/live HTTP/1.1\r\nHost: localhost\r\n\r\n").await;
        stream.read_exact(&mut [0; 12]).await.unwrap();
        streams.push(stream);
    }
    let mut refused =
        connect(&server, "GET /api/sync/live HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n").await;
    let answer = rest(&mut refused).await;
    assert_refused(&answer, 503, "TOO_MANY_SUBSCRIBERS", "one too many");
    assert!(answer.to_ascii_lowercase().contains("\r\nretry-after: "), "{answer}");
    drop(streams);
    let freed = async {
        while figure(&url, "subscribers").await > 0 {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(HANG, freed).await.expect("their places are free");
    server.shutdown().await;
}

#[tokio::test]
async fn a_reader_that_takes_nothing_of_its_answers_is_hung_up_on() {
    let server = start_memory("--write-timeout 0.5").await;
    let url = server.url();
    let idle = figure(&url, "connections").await;
    let base = get(&url, "/api/sync/snapshot").await.last_seq();
    for row in 0..20 {
        push(&url, &json!({"changes": [{"entity": "Big", "row_id": row.to_string(), "kind": "insert", "data": "x".repeat(900_000)}]})).await;
    }
    let ask = format!("GET /api/sync/pull?since={base} HTTP/1.1\r\nHost: localhost\r\n\r\n");
    let stream = connect(&server, &ask.repeat(50)).await;
    let ended = async {
        while figure(&url, "connections").await > idle {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(HANG, ended).await.expect("it is hung up on");
    drop(stream);
    server.shutdown().await;
}

#[tokio::test]
async fn every_refusal_is_json_whichever_layer_makes_it() {
    let server = start_memory("").await;
    let host = "Host: localhost\r\nConnection: close\r\n";
    let ask = async |request: String| {
        let mut stream = TcpStream::connect(server.address()).await.unwrap();
        let _ = stream.write_all(request.as_bytes()).await;
        rest(&mut stream).await
    };
    let paths = [
        "/api/sync/push",
        "/api/sync/pull",
        "/api/sync/snapshot",
        "/api/sync/live",
        "/api/sync/ws",
        "/api/stats",
        "/metrics",
        "/healthz",
        "/readyz",
        "/",
        "/page.css",
        "/page.js",
        "/nothing",
        "//",
        "/api/sync/pull/",
        "/%ff%00",
        "/api/sync/pull?%ff=%ff",
        "/api/sync/snapshot?page=%ff",
        "/api/sync/pull?since=x",
        "*",
        "http://localhost/nothing",
    ];
    for path in paths {
        for method in ["GET", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "BREW"] {
            if method == "GET" && path == "/api/sync/live" {
                continue;
            }
            let answer =
                ask(format!("{method} {path} HTTP/1.1\r\n{host}Content-Length: 2\r\n\r\n{{}}")).await;
            let (status, body) = parse(&answer);
            assert!(status >= 200, "{method} {path}: {answer}");
            if status >= 400 {
                assert!(
                    body["error"]["code"].is_string() && body["error"]["message"].is_string(),
                    "{method} {path}: {answer}"
                );
            }
        }
        let head = ask(format!("HEAD {path} HTTP/1.1\r\n{host}\r\n")).await;
        assert!(
            head.ends_with("\r\n\r\n") || path == "/api/sync/live",
            "the answer to HEAD has no body: {head}"
        );
    }
    // What hyper answers by itself, before there is a route.
    for (request, status, code) in [
        ("\0\0\0\0\r\n\r\n".to_owned(), 400, "BAD_REQUEST"),
        ("HELO mail.example.com\r\n\r\n".to_owned(), 400, "BAD_REQUEST"),
        ("GET / HTTP/9.9\r\n\r\n".to_owned(), 400, "BAD_REQUEST"),
        (format!("GET / HTTP/1.1\r\n{host}Content-Length: 1e3\r\n\r\n"), 400, "BAD_REQUEST"),
        (
            format!("GET / HTTP/1.1\r\n{host}Content-Length: 1\r\nContent-Length: 2\r\n\r\n"),
            400,
            "BAD_REQUEST",
        ),
        (format!("GET / HTTP/1.1\r\n{host}X: {}\r\n\r\n", "y".repeat(4 << 20)), 431, "HEAD_TOO_LARGE"),
        (format!("GET / HTTP/1.1\r\n{host}{}\r\n", "X: y\r\n".repeat(500)), 431, "HEAD_TOO_LARGE"),
    ] {
        assert_refused(&ask(request).await, status, code, "hyper's own");
    }
    // Whether this address is too long or the head that it stands in depends on how it comes.
    let (status, body) = parse(&ask(format!("GET /{} HTTP/1.1\r\n{host}\r\n", "a".repeat(80_000))).await);
    assert!([414, 431].contains(&status) && body["error"]["message"].is_string(), "{status}: {body}");
    server.shutdown().await;
}
