//! Stopping, whatever clients hold open: within `--drain`, or at once at a second signal.
#![cfg(unix)]
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use common::process::Process;
use common::{HANG, todos};
use std::io::{Read, Write};
use std::net::TcpStream;
use std::os::unix::process::ExitStatusExt;
use std::time::{Duration, Instant};

const HOST: &str = "HTTP/1.1\r\nHost: localhost\r\n";
const JSON: &str = "Content-Type: application/json\r\n";
const UPGRADE: &str = "Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n\
                       Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n";

fn connect(server: &Process, text: &str) -> TcpStream {
    let mut stream = TcpStream::connect(server.url().strip_prefix("http://").unwrap()).unwrap();
    stream.set_read_timeout(Some(HANG)).unwrap();
    stream.write_all(text.as_bytes()).unwrap();
    stream
}

/// What comes until the server hangs up.
fn rest(stream: &mut TcpStream) -> String {
    let mut bytes = Vec::new();
    // A reset is one way to hang up.
    let _ = stream.read_to_end(&mut bytes);
    String::from_utf8_lossy(&bytes).into_owned()
}

fn push(body: &str) -> String {
    format!("POST /api/sync/push {HOST}{JSON}Content-Length: {}\r\n\r\n{body}", body.len())
}

/// Beginnings that hold a connection, each in another state of it.
fn beginnings() -> Vec<String> {
    let whole = push(&todos(0, 3).to_string());
    vec![
        String::new(),
        "GET /api".into(),
        format!("GET / {HOST}X: "),
        whole[..whole.len() - 1].into(),
        format!("POST /api/sync/push {HOST}{JSON}Transfer-Encoding: chunked\r\n\r\n1\r\n{{\r\n"),
        format!("POST /api/sync/push {HOST}{JSON}Content-Length: 9\r\nExpect: 100-continue\r\n\r\n"),
        // Refused, and still sending.
        format!("POST /api/sync/push {HOST}{JSON}Content-Length: 999999999\r\n\r\n"),
        format!("GET /api/sync/pull?wait=60 {HOST}\r\n"),
        format!("GET /api/sync/live {HOST}\r\n"),
        format!("GET /api/sync/ws {HOST}{UPGRADE}\r\n"),
        format!("GET /api/sync/ws {HOST}{UPGRADE}\r\n\u{1}"),
        // Much is asked for, and nothing is read.
        format!("GET /api/sync/pull?since=0&limit=1000 {HOST}\r\n").repeat(50),
    ]
}

/// A push that the server has begun to answer and waits for: it has asked for the body.
fn begun_push(server: &Process) -> TcpStream {
    let head = format!("POST /api/sync/push {HOST}{JSON}Content-Length: 9\r\nExpect: 100-continue\r\n\r\n");
    let mut stream = connect(server, &head);
    let mut answer = [0; 12];
    stream.read_exact(&mut answer).unwrap();
    assert_eq!(&answer, b"HTTP/1.1 100");
    stream
}

/// Servers of both kinds, each in a process of its own.
fn both(args: &str) -> [(Process, tempfile::TempDir); 2] {
    ["", "--memory"].map(|kind| {
        let folder = tempfile::tempdir().unwrap();
        let server = Process::new(&folder.path().join("data"), &format!("{kind} {args}"));
        assert!(server.start());
        (server, folder)
    })
}

/// Waits until the server has begun to stop.
fn until_stopping(server: &Process) {
    let start = Instant::now();
    while !server.said().contains("stopping; a second signal ends at once") {
        assert!(start.elapsed() < HANG, "it does not begin to stop: {}", server.said());
        std::thread::sleep(Duration::from_millis(5));
    }
}

#[test]
fn stopping_keeps_to_its_time_whatever_clients_hold_open() {
    const DRAIN: Duration = Duration::from_secs(5);
    let servers = both("--drain 5 --write-timeout 3600 --request-timeout 3600 --header-timeout 3600");
    let mut held = Vec::new();
    for (server, _) in &servers {
        for row in 0..15 {
            let data = "x".repeat(900_000);
            let change = format!(r#"{{"entity":"E","row_id":"{row}","kind":"insert","data":"{data}"}}"#);
            let mut stream = connect(server, &push(&format!(r#"{{"changes":[{change}]}}"#)));
            stream.read_exact(&mut [0; 12]).unwrap();
        }
        for beginning in beginnings() {
            held.extend([connect(server, &beginning), connect(server, &beginning)]);
        }
    }
    for (server, _) in servers {
        let start = Instant::now();
        server.signal("TERM");
        assert!(server.ended().success(), "{}", server.said());
        let took = start.elapsed();
        // Twice the time is what it once took.
        assert!(took < DRAIN * 9 / 5, "it took {took:?} of {DRAIN:?}: {}", server.said());
    }
    drop(held);
}

#[test]
fn a_second_signal_ends_at_once_with_its_number() {
    for (first, second, number) in [("TERM", "TERM", 15), ("INT", "INT", 2), ("TERM", "INT", 2)] {
        for (server, _folder) in both("--drain 3600") {
            let held: Vec<_> = beginnings().iter().map(|text| connect(&server, text)).collect();
            let pushing = begun_push(&server);
            server.signal(first);
            until_stopping(&server);
            assert!(!server.has_ended(), "requests may end");
            server.signal(second);
            let status = server.ended();
            assert_eq!((status.code(), status.signal()), (Some(128 + number), None), "{first} {second}");
            assert!(server.said().contains(&format!("SIG{second} again")), "{}", server.said());
            drop((held, pushing));
        }
    }
}

#[test]
fn a_push_whose_body_arrives_while_the_server_stops_is_answered_and_kept() {
    let [(server, _folder), _] = both("--drain 60");
    let request = push(&todos(0, 3).to_string());
    let (begin, end) = request.split_at(request.len() - 20);
    let mut stream = connect(&server, begin);
    // Its handler runs once another request has been answered on a connection that came later.
    assert!(
        rest(&mut connect(&server, &format!("GET /healthz {HOST}Connection: close\r\n\r\n"))).contains("ok")
    );
    server.signal("TERM");
    until_stopping(&server);
    stream.write_all(end.as_bytes()).unwrap();
    let answer = rest(&mut stream);
    assert!(answer.starts_with("HTTP/1.1 200") && answer.contains(r#""applied":3"#), "{answer}");
    assert!(answer.to_ascii_lowercase().contains("connection: close"), "no more requests here: {answer}");
    assert!(server.ended().success());
    assert!(server.start());
    let pull = format!("GET /api/sync/pull?since=0 {HOST}Connection: close\r\n\r\n");
    assert!(rest(&mut connect(&server, &pull)).contains(r#""row_id":"row-2""#));
    assert!(server.stop());
}

#[test]
fn waits_and_streams_end_at_once_and_say_why() {
    for (server, _folder) in both("--drain 3600 --max-wait 3600") {
        let mut poll = connect(&server, &format!("GET /api/sync/pull?wait=3600 {HOST}\r\n"));
        let mut live = connect(&server, &format!("GET /api/sync/live {HOST}\r\n"));
        live.read_exact(&mut [0; 12]).unwrap();
        let idle = connect(&server, &format!("GET /healthz {HOST}\r\n"));
        server.signal("INT");
        assert!(rest(&mut poll).contains(r#""changes":[]"#));
        let said = rest(&mut live);
        assert!(said.contains("event: stopping") && said.contains("STOPPING"), "{said}");
        assert!(server.ended().success(), "{}", server.said());
        drop(idle);
    }
}
