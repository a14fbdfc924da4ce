//! Access: tickets, pages of other origins, proxies, and requests that say something twice.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use common::Server;
use common::process::Process;
use common::{HANG, start, start_memory, try_start};
use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

const READ: &str = "read-read-read-read";
const WRITE: &str = "write-write-write-write";
const TOKENS: &str = "--read-token read-read-read-read --write-token write-write-write-write";
const UPGRADE: &str = "Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n\
                       Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n";

fn bearer(token: &str) -> String {
    format!("Authorization: Bearer {token}\r\n")
}

/// An answer as it came, as far as it has come once its head is here; the head in lower case.
struct Answer {
    status: u16,
    head: String,
    body: String,
}

impl Answer {
    fn code(&self) -> String {
        let body: Value = serde_json::from_str(&self.body).unwrap_or_default();
        body["error"]["code"].as_str().unwrap_or_default().to_owned()
    }

    fn header(&self, name: &str) -> Option<&str> {
        self.head.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(": "))
    }
}

/// Sends a request with these lines; streams are not read to their end.
async fn ask(address: std::net::SocketAddr, line: &str, lines: &str) -> Answer {
    let mut stream = TcpStream::connect(address).await.unwrap();
    let host = if lines.contains("Host: ") { "" } else { "Host: localhost\r\n" };
    stream.write_all(format!("{line} HTTP/1.1\r\n{host}{lines}\r\n").as_bytes()).await.unwrap();
    let (mut bytes, mut buffer) = (Vec::new(), [0; 8192]);
    let reading = async {
        loop {
            let text = String::from_utf8_lossy(&bytes).into_owned();
            if let Some((head, body)) = text.split_once("\r\n\r\n") {
                let head = head.to_ascii_lowercase();
                let length =
                    head.lines().find_map(|line| line.strip_prefix("content-length: ")?.parse().ok());
                if line.starts_with("HEAD") || length.is_none_or(|length: usize| body.len() >= length) {
                    let status = head[9..12].parse().unwrap();
                    return Answer { status, head, body: body.to_owned() };
                }
            }
            let count = stream.read(&mut buffer).await.unwrap();
            assert!(count > 0, "{line} was not answered");
            bytes.extend_from_slice(&buffer[..count]);
        }
    };
    tokio::time::timeout(HANG, reading).await.expect("an answer")
}

async fn ticket(server: &Server) -> String {
    let answer = ask(server.address(), "POST /api/sync/ticket", &bearer(READ)).await;
    assert_eq!((answer.status, answer.header("cache-control")), (200, Some("no-store")));
    serde_json::from_str::<Value>(&answer.body).unwrap()["ticket"].as_str().unwrap().to_owned()
}

#[tokio::test]
async fn a_ticket_opens_one_live_stream_and_nothing_else() {
    let server = start(&format!("--memory {TOKENS}")).await;
    let address = server.address();
    for (lines, status) in
        [(String::new(), 401), (bearer("x"), 401), (bearer(READ), 200), (bearer(WRITE), 200)]
    {
        assert_eq!(ask(address, "POST /api/sync/ticket", &lines).await.status, status, "{lines}");
    }
    let good = ticket(&server).await;
    for line in ["GET /api/sync/pull", "GET /api/sync/snapshot", "POST /api/sync/push", "GET /api/stats"] {
        let line = format!("{line}?ticket={good}");
        assert_eq!(ask(address, &line, "").await.status, 401, "{line}");
    }
    assert_eq!(ask(address, "GET /api/sync/live", &bearer(&good)).await.status, 401, "as a bearer token");
    // None of that has used it up.
    for (path, lines, status) in [("live", "", 200), ("ws", UPGRADE, 101)] {
        let (good, line) =
            (ticket(&server).await, |ticket: &str| format!("GET /api/sync/{path}?ticket={ticket}"));
        assert_eq!(ask(address, &line(&good), lines).await.status, status, "{path}");
        for (path, lines) in [("live", ""), ("ws", UPGRADE)] {
            let used = ask(address, &format!("GET /api/sync/{path}?ticket={good}"), lines).await;
            assert_eq!((used.status, used.code()), (401, "UNAUTHORIZED".into()), "{path}");
        }
        // No bearer token makes up for it, or a page would not notice.
        let other = ask(address, &line("x"), &format!("{lines}{}", bearer(READ))).await;
        assert_eq!(other.status, 401);
    }
    assert_eq!(ask(address, &format!("GET /api/sync/live?ticket={good}"), "").await.status, 200);
    // Refused for another reason, it is used up all the same.
    for query in ["since=x&ticket=", "ticket=x&ticket=", "limit=1&%74icket="] {
        let spent = ticket(&server).await;
        let refused = ask(address, &format!("GET /api/sync/live?{query}{spent}"), "").await;
        assert!([400, 401].contains(&refused.status), "{query}");
    }
    server.shutdown().await;
}

#[tokio::test]
async fn no_log_has_a_ticket_or_a_token_however_much_is_logged() {
    let folder = tempfile::tempdir().unwrap();
    let server = Process::new(&folder.path().join("data"), &format!("--memory {TOKENS}"));
    assert!(server.start_with(&[("RUST_LOG", "trace")]));
    let address = server.url().strip_prefix("http://").unwrap().parse().unwrap();
    let issued = ask(address, "POST /api/sync/ticket", &bearer(READ)).await;
    let ticket: Value = serde_json::from_str(&issued.body).unwrap();
    let ticket = ticket["ticket"].as_str().unwrap();
    for lines in ["", UPGRADE] {
        ask(
            address,
            &format!("GET /api/sync/{}?ticket={ticket}", if lines.is_empty() { "live" } else { "ws" }),
            lines,
        )
        .await;
    }
    ask(address, "GET /api/sync/pull", &bearer(WRITE)).await;
    server.kill();
    let said = server.said();
    assert!(said.contains("/api/sync/live"), "it is logged");
    for secret in [ticket, READ, WRITE] {
        assert!(!said.contains(secret), "{secret}");
    }
}

#[tokio::test]
async fn pages_of_a_named_origin_may_use_every_route_and_read_refusals() {
    const APP: &str = "https://app.example";
    let server = start(&format!("--memory {TOKENS} --cors-origin {APP},http://localhost:3000")).await;
    let address = server.address();
    let preflight = |origin: &str| {
        format!(
            "Origin: {origin}\r\nAccess-Control-Request-Method: POST\r\n\
             Access-Control-Request-Headers: authorization,content-type,content-encoding\r\n\
             Access-Control-Request-Private-Network: true\r\n"
        )
    };
    for path in ["push", "pull", "snapshot", "live", "ticket"] {
        let line = format!("OPTIONS /api/sync/{path}");
        for origin in [APP, "http://localhost:3000"] {
            let answer = ask(address, &line, &preflight(origin)).await;
            assert_eq!(
                (answer.status, answer.header("access-control-allow-origin")),
                (200, Some(origin)),
                "{path}"
            );
            assert!(answer.header("access-control-allow-methods").unwrap().contains("post"));
            let allowed = answer.header("access-control-allow-headers").unwrap();
            for name in
                ["authorization", "content-type", "content-encoding", "last-event-id", "if-none-match"]
            {
                assert!(allowed.contains(name), "{name}");
            }
            assert_eq!(answer.header("access-control-allow-private-network"), Some("true"));
            assert_eq!(answer.header("access-control-allow-credentials"), None, "no cookies");
        }
        for origin in
            ["null", "https://app.example.evil", "http://app.example", "https://app.example:444", "*"]
        {
            let answer = ask(address, &line, &preflight(origin)).await;
            assert_eq!(answer.header("access-control-allow-origin"), None, "{origin}");
        }
    }
    let origin = format!("Origin: {APP}\r\n");
    for (line, lines, status) in [
        ("GET /api/sync/pull", bearer(READ), 200),
        ("GET /api/sync/live", bearer(READ), 200),
        ("GET /api/sync/pull", String::new(), 401),
        ("POST /api/sync/push", bearer(READ), 403),
        ("GET /api/sync/pull?sinse=1", bearer(READ), 400),
        ("GET /nothing", String::new(), 404),
        ("PUT /api/sync/push", String::new(), 405),
    ] {
        let answer = ask(address, line, &format!("{origin}{lines}")).await;
        assert_eq!(
            (answer.status, answer.header("access-control-allow-origin")),
            (status, Some(APP)),
            "{line}"
        );
        let exposed = answer.header("access-control-expose-headers").unwrap();
        for name in ["ringlog-resume", "ringlog-stale", "etag", "retry-after", "www-authenticate"] {
            assert!(exposed.contains(name), "{name} is not in {exposed}");
        }
        assert!(
            answer.header("vary").is_some_and(|vary| vary.contains("origin")),
            "for caches: {}",
            answer.head
        );
        let other = ask(address, line, &format!("Origin: https://evil.example\r\n{lines}")).await;
        assert_eq!(other.header("access-control-allow-origin"), None);
    }
    // A browser sends no preflight before it opens a WebSocket.
    for (origin, status) in
        [(APP, 101), ("http://localhost", 101), ("null", 403), ("https://evil.example", 403)]
    {
        let lines = format!("{UPGRADE}Origin: {origin}\r\n{}", bearer(READ));
        assert_eq!(ask(address, "GET /api/sync/ws", &lines).await.status, status, "{origin}");
    }
    server.shutdown().await;
}

#[tokio::test]
async fn without_a_configured_origin_no_page_is_told_that_it_may() {
    let server = start(&format!("--memory {TOKENS}")).await;
    for line in ["OPTIONS /api/sync/push", "GET /api/sync/pull"] {
        let lines =
            format!("Origin: https://a.example\r\nAccess-Control-Request-Method: POST\r\n{}", bearer(READ));
        let answer = ask(server.address(), line, &lines).await;
        assert!(!answer.head.contains("access-control-"), "{}", answer.head);
    }
    server.shutdown().await;
    let server = start(&format!("--memory {TOKENS} --cors-origin *")).await;
    let lines = format!("Origin: null\r\n{}", bearer(READ));
    let answer = ask(server.address(), "GET /api/sync/pull", &lines).await;
    assert_eq!((answer.status, answer.header("access-control-allow-origin")), (200, Some("*")));
    server.shutdown().await;
}

#[tokio::test]
async fn without_tokens_what_a_proxy_forwards_is_refused_and_with_tokens_it_is_answered() {
    let open = start_memory("").await;
    let closed = start(&format!("--memory {TOKENS}")).await;
    for name in [
        "X-Forwarded-For",
        "x-forwarded-proto",
        "X-Forwarded",
        "Forwarded",
        "Forwarded-For",
        "Via",
        "X-Real-IP",
        "X-Original-Host",
        "X-Original-Forwarded-For",
        "Client-IP",
        "True-Client-IP",
        "X-Azure-ClientIP",
        "CF-Connecting-IP",
        "X-Cluster-Client-IP",
        "X-Envoy-External-Address",
        "X-Amzn-Trace-Id",
    ] {
        for value in ["203.0.113.7", "127.0.0.1", ""] {
            let line = format!("{name}: {value}\r\n");
            for request in
                ["GET /api/sync/pull", "POST /api/sync/push", "GET /api/sync/live", "POST /api/sync/ticket"]
            {
                let refused = ask(open.address(), request, &line).await;
                assert_eq!((refused.status, refused.code()), (403, "FORBIDDEN".into()), "{line}{request}");
                assert!(refused.body.contains(&name.to_ascii_lowercase()), "{}", refused.body);
            }
            assert_eq!(
                ask(open.address(), "GET /healthz", &line).await.status,
                200,
                "probes come through proxies"
            );
            let lines = format!("{line}{}", bearer(READ));
            assert_eq!(ask(closed.address(), "GET /api/sync/pull", &lines).await.status, 200, "{line}");
        }
    }
    open.shutdown().await;
    closed.shutdown().await;
}

#[tokio::test]
async fn a_header_that_decides_something_may_be_given_once() {
    let server = start_memory("").await;
    for (lines, name) in [
        ("Host: localhost\r\nHost: evil.example\r\n", "host"),
        ("Host: localhost\r\nHost: localhost\r\n", "host"),
        ("Origin: http://localhost\r\nOrigin: http://evil.example\r\n", "origin"),
        ("Sec-Fetch-Site: none\r\nSec-Fetch-Site: cross-site\r\n", "sec-fetch-site"),
        ("Authorization: Bearer a\r\nAuthorization: Bearer b\r\n", "authorization"),
        ("Content-Type: application/json\r\nContent-Type: text/plain\r\n", "content-type"),
        ("Last-Event-ID: 1\r\nLast-Event-ID: 2\r\n", "last-event-id"),
    ] {
        for line in ["GET /api/sync/live", "POST /api/sync/push", "GET /api/sync/pull"] {
            let refused = ask(server.address(), line, lines).await;
            assert_eq!((refused.status, refused.code()), (400, "BAD_REQUEST".into()), "{lines}");
            assert!(refused.body.contains(&format!("`{name}` is given twice")), "{}", refused.body);
        }
    }
    for (address, status) in
        [("localhost", 200), ("LOCALHOST", 200), ("evil.example", 400), ("localhost:1", 400)]
    {
        let line = format!("GET http://{address}/api/sync/pull");
        assert_eq!(ask(server.address(), &line, "").await.status, status, "{address}");
    }
    server.shutdown().await;
}

#[tokio::test]
async fn two_tokens_that_are_the_same_are_refused() {
    let refused = try_start(&format!("--memory --read-token {READ} --write-token {READ}")).await;
    let said = refused.err().map(|error| error.to_string()).unwrap_or_default();
    assert_eq!(said, "--read-token and --write-token are the same: readers could push");
}
