//! Clients that mean no good: heads and bodies that never end, noise, more connections than there are places.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use common::{HANG, get, push, start_memory, todos};
use ringlog_server::Server;
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
    let head = "POST /api/sync/push HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: 1000000\r\n\r\n{";
    let mut slow = connect(&server, head).await;
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
    assert_eq!(get(&server.url(), "/api/sync/pull?since=0").await.status, 410, "it still answers");
    server.shutdown().await;
}

#[tokio::test]
async fn connections_over_the_limit_wait_for_a_place() {
    let server = start_memory("--max-connections 3").await;
    let mut held = Vec::new();
    for _ in 0..3 {
        let mut stream = connect(&server, "GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n").await;
        stream.read_exact(&mut [0; 12]).await.unwrap();
        held.push(stream);
    }
    let waiting = tokio::spawn({
        let url = server.url();
        async move { get(&url, "/healthz").await.status }
    });
    tokio::time::sleep(Duration::from_millis(200)).await;
    assert!(!waiting.is_finished());
    held.pop();
    assert_eq!(tokio::time::timeout(HANG, waiting).await.expect("a place").unwrap(), 200);
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
