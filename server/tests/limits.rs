//! The limits of `--help`, against clients that do not keep to them.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use clap::CommandFactory;
use common::Server;
use common::clients::Sse;
use common::process::Process;
use common::{Answer, HANG, get, push, start, start_memory, todos};
use reqwest::Client;
use ringlog_server::Cli;
use serde_json::{Value, json};
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};

const UPGRADE: &str = "Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n\
                       Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n";

/// Sends the beginning of something.
async fn connect(server: &Server, text: &str) -> TcpStream {
    let socket = TcpSocket::new_v4().unwrap();
    // Little, so that the server soon has nowhere to write to.
    socket.set_recv_buffer_size(65_536).unwrap();
    let mut stream = socket.connect(server.address()).await.unwrap();
    stream.write_all(text.as_bytes()).await.unwrap();
    stream
}

fn head(path: &str, more: &str) -> String {
    format!("GET {path} HTTP/1.1\r\nHost: localhost\r\n{more}\r\n")
}

/// A WebSocket that is open, and not read from.
async fn web_socket(server: &Server) -> TcpStream {
    let mut stream = connect(server, &head("/api/sync/ws", UPGRADE)).await;
    let mut status = [0; 12];
    stream.read_exact(&mut status).await.unwrap();
    assert_eq!(&status, b"HTTP/1.1 101");
    stream
}

/// Waits until the server hangs up. (A reset is one way to do so.)
async fn hung_up(stream: &mut TcpStream) {
    let ended = async { while stream.read(&mut [0; 8192]).await.is_ok_and(|count| count > 0) {} };
    tokio::time::timeout(HANG, ended).await.expect("the server hangs up");
}

/// Waits until an answer is as wanted.
async fn until(what: &str, url: &str, path: &str, is_so: impl Fn(&Answer) -> bool) {
    let waiting = async {
        loop {
            let answer = get(url, path).await;
            if is_so(&answer) {
                return;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(HANG, waiting).await.unwrap_or_else(|_| panic!("never: {what}"));
}

/// Waits until one of the server's figures has a value.
async fn until_figure(url: &str, name: &str, value: usize) {
    until(&format!("{name} = {value}"), url, "/api/stats", |answer| answer.body[name] == value).await;
}

/// The tests that attack a limit, by option and file.
const ATTACKED: [(&str, &str, &str); 19] = [
    ("window-bytes", STORE, "the_window_keeps_to_its_bytes_in_memory_and_on_disk"),
    ("max-changes", HOSTILE, "changes_over_the_limit_are_counted_and_not_kept"),
    ("max-body", HOSTILE, "a_refusal_is_read_by_a_client_that_first_sends_all_that_it_has"),
    ("max-pushing", HOSTILE, "clients_that_hang_up_do_not_get_around_the_limit_of_pushes_in_work"),
    ("max-sending", LIMITS, "pages_that_are_not_read_take_no_more_memory_together_than_is_allowed"),
    ("max-limit", API, "a_question_that_makes_no_sense_is_refused"),
    ("max-wait", LIMITS, "no_pull_waits_longer_than_is_allowed"),
    ("max-connections", LIMITS, "health_probes_are_answered_when_all_connections_are_taken"),
    ("max-subscribers", LIMITS, "subscribers_that_take_all_places_and_never_read_lose_them"),
    ("header-timeout", HOSTILE, "heads_that_never_end_are_hung_up_on_and_hold_nobody_up"),
    ("request-timeout", HOSTILE, "a_body_that_does_not_come_is_given_up"),
    ("write-timeout", LIMITS, "a_client_that_asks_and_never_reads_is_let_go"),
    ("snapshot-ttl", LIMITS, "a_snapshot_that_is_forgotten_is_dropped_without_being_asked_for"),
    ("snapshot-max-age", LIMITS, "a_page_that_is_asked_for_again_and_again_does_not_keep_its_snapshot"),
    ("max-snapshots", LIMITS, "more_snapshots_than_are_held_are_shared_and_none_is_taken_away"),
    ("drain", STOPPING, "stopping_keeps_to_its_time_whatever_clients_hold_open"),
    ("max-tickets", LIMITS, "tickets_that_are_hoarded_run_out_and_then_expire"),
    ("ticket-ttl", LIMITS, "tickets_that_are_hoarded_run_out_and_then_expire"),
    ("cluster-max-bytes", CLUSTER, "a_full_stream_takes_no_push_and_says_so"),
];

const CLUSTER: &str = include_str!("cluster.rs");
const API: &str = include_str!("api.rs");
const HOSTILE: &str = include_str!("hostile.rs");
const LIMITS: &str = include_str!("limits.rs");
const STOPPING: &str = include_str!("stopping.rs");
const STORE: &str = include_str!("store.rs");

#[test]
fn each_limit_of_the_help_has_a_test_that_attacks_it() {
    let command = Cli::command();
    let limits = command.get_arguments().filter(|option| {
        let help = option.get_help().map(ToString::to_string).unwrap_or_default();
        help.starts_with("Maximum ") || help.starts_with("Time limit ")
    });
    let limits: Vec<_> = limits.filter_map(clap::Arg::get_long).collect();
    let left_out = usize::from(!cfg!(feature = "cluster"));
    assert_eq!(limits.len(), ATTACKED.len() - left_out, "{limits:?}");
    for limit in limits {
        let (_, file, test) = ATTACKED.iter().find(|(option, ..)| *option == limit).expect(limit);
        let (before, after) = file.split_once(&format!("fn {test}() {{")).expect(test);
        assert!(before.trim_end().ends_with("async") || before.ends_with("#[test]\n"), "{test} is a test");
        let body = after.split("\n}\n").next().unwrap();
        assert!(body.contains(&format!("--{limit}")), "{test} sets --{limit}");
    }
}

#[tokio::test]
async fn health_probes_are_answered_when_all_connections_are_taken() {
    let server = start_memory("--max-connections 3").await;
    let url = server.url();
    let mut held = vec![web_socket(&server).await];
    for beginning in [head("/healthz", ""), "GET / HT".into()] {
        held.push(connect(&server, &beginning).await);
    }
    held[1].read_exact(&mut [0; 12]).await.unwrap();
    // Taken in the order in which they came: the third place is taken once this is refused.
    until("all places are taken", &url, "/api/sync/pull", |answer| answer.status == 503).await;
    // More than the reserve holds, and all silent.
    let mut flood = Vec::new();
    for _ in 0..150 {
        flood.push(connect(&server, "").await);
    }
    for path in ["/healthz", "/readyz"] {
        assert_eq!(get(&url, path).await.status, 200, "{path}");
    }
    let refused = get(&url, "/api/sync/pull").await;
    assert_eq!((refused.status, refused.error().0), (503, "TOO_MANY_CONNECTIONS"));
    assert_eq!((refused.header("retry-after"), refused.header("connection")), (Some("1"), Some("close")));
    assert!(refused.error().1.contains("3 connections") && refused.error().1.contains("--max-connections"));
    // With a body that it is still sending.
    let refused = push(&url, &todos(0, 200)).await;
    assert_eq!((refused.status, refused.error().0), (503, "TOO_MANY_CONNECTIONS"));
    for stream in &mut flood {
        hung_up(stream).await;
    }
    held.pop();
    until("a place is free", &url, "/api/sync/pull", |answer| answer.status == 200).await;
    server.shutdown().await;
}

#[cfg(target_os = "linux")]
#[tokio::test]
async fn health_probes_are_answered_when_fewer_files_may_be_open_than_connections() {
    let folder = tempfile::tempdir().unwrap();
    let server = Process::new(&folder.path().join("data"), "--memory --max-connections 1000");
    assert!(server.start_with_files(200));
    let url = server.url();
    let address = url.strip_prefix("http://").unwrap();
    let mut held = Vec::new();
    for _ in 0..300 {
        held.push(TcpStream::connect(address).await.unwrap());
    }
    for path in ["/healthz", "/readyz"] {
        assert_eq!(get(&url, path).await.status, 200, "{path}");
    }
    let refused = get(&url, "/api/sync/pull").await;
    assert_eq!((refused.status, refused.error().0), (503, "TOO_MANY_CONNECTIONS"));
    assert!(refused.error().1.contains(" 72 connections"), "{}", refused.error().1);
    drop(held);
    until("places are free", &url, "/api/sync/pull", |answer| answer.status == 200).await;
    assert!(server.stop());
}

#[tokio::test]
async fn a_web_socket_holds_its_place_among_the_connections_until_it_is_closed() {
    let server = start_memory("--max-connections 3").await;
    let url = server.url();
    let mut sockets = Vec::new();
    for _ in 0..3 {
        sockets.push(web_socket(&server).await);
    }
    let refused = get(&url, "/api/stats").await;
    assert_eq!((refused.status, refused.error().0), (503, "TOO_MANY_CONNECTIONS"));
    sockets.pop();
    until("a place is free", &url, "/api/stats", |answer| answer.status == 200).await;
    // The sockets, and the one that asks; and no other, once these are gone.
    until_figure(&url, "connections", 3).await;
    sockets.clear();
    until_figure(&url, "connections", 1).await;
    server.shutdown().await;
}

#[tokio::test]
async fn connections_that_break_off_at_any_point_give_their_places_back() {
    let server = start_memory("--max-connections 4 --max-subscribers 4").await;
    let url = server.url();
    let post = "POST /api/sync/push HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: 100\r\n\r\n{\"ch";
    for _ in 0..10 {
        for beginning in [
            String::new(),
            "GET /api".into(),
            post.into(),
            head("/api/sync/pull?wait=60", ""),
            head("/api/sync/live", ""),
            head("/api/sync/ws", UPGRADE),
            format!("{}\u{1}\u{2}", head("/api/sync/ws", UPGRADE)),
        ] {
            drop(connect(&server, &beginning).await);
        }
    }
    until("a place is free", &url, "/api/stats", |answer| answer.status == 200).await;
    until_figure(&url, "connections", 1).await;
    until_figure(&url, "subscribers", 0).await;
    server.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn subscribers_that_take_all_places_and_never_read_lose_them() {
    let server = start_memory("--max-subscribers 4 --write-timeout 0.5 --heartbeat 0.05").await;
    let url = server.url();
    let mut silent = Vec::new();
    for _ in 0..2 {
        silent.push(web_socket(&server).await);
        silent.push(connect(&server, &head("/api/sync/live", "")).await);
    }
    until_figure(&url, "subscribers", 4).await;
    let refused = get(&url, "/api/sync/live").await;
    assert_eq!((refused.status, refused.error().0), (503, "TOO_MANY_SUBSCRIBERS"));
    for turn in 0..30 {
        assert_eq!(push(&url, &large(turn)).await.status, 200);
    }
    until_figure(&url, "subscribers", 0).await;
    drop(silent);
    drop(Sse::open(&url, "").await);
    server.shutdown().await;
}

/// A push of 10 rows of 20 kB each.
fn large(turn: usize) -> Value {
    let row = |n: usize| json!({"entity": "E", "row_id": format!("{turn}-{n}"), "kind": "update", "data": "x".repeat(20_000)});
    json!({"changes": (0..10).map(row).collect::<Vec<_>>()})
}

#[tokio::test]
async fn the_time_for_a_head_counts_from_the_end_of_the_request_before() {
    let server = start_memory("--header-timeout 0.3").await;
    let mut idle = connect(&server, &head("/healthz", "")).await;
    hung_up(&mut idle).await;
    // The second head, a byte at a time, for ever.
    let stream = connect(&server, &head("/healthz", "")).await;
    let (mut from, mut to) = stream.into_split();
    let dripping = async {
        to.write_all(b"GET /healthz HTTP/1.1\r\nX: ").await.unwrap();
        while to.write_all(b"x").await.is_ok() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    let reading = async { while from.read(&mut [0; 1024]).await.is_ok_and(|count| count > 0) {} };
    let both = async { tokio::join!(dripping, reading) };
    tokio::time::timeout(HANG, both).await.expect("it is hung up on");
    server.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_asks_and_never_reads_is_let_go() {
    let server = start_memory("--write-timeout 0.5").await;
    let url = server.url();
    for turn in 0..20 {
        assert_eq!(push(&url, &large(turn)).await.status, 200);
    }
    let question = head("/api/sync/pull?limit=200", "") + &head("/api/sync/snapshot?limit=200", "");
    let mut greedy = Vec::new();
    for _ in 0..3 {
        greedy.push(connect(&server, &question.repeat(5)).await);
    }
    until_figure(&url, "connections", 4).await;
    until_figure(&url, "connections", 1).await;
    server.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn pages_that_are_not_read_take_no_more_memory_together_than_is_allowed() {
    let server = start_memory("--max-sending 6000000 --request-timeout 0.5 --max-wait 0.01").await;
    let url = server.url();
    for turn in 0..30 {
        assert_eq!(push(&url, &large(turn)).await.status, 200);
    }
    for path in ["/api/sync/pull?limit=300", "/api/sync/snapshot?limit=300"] {
        let mut greedy = Vec::new();
        for _ in 0..20 {
            greedy.push(connect(&server, &head(path, "")).await);
        }
        for asked in ["/api/sync/pull", "/api/sync/snapshot"] {
            until("no room is left", &url, asked, |answer| answer.error().0 == "TIMEOUT").await;
        }
        // What has no page is answered.
        let last = get(&url, "/api/stats").await.body["log"]["head"].as_u64().unwrap();
        assert_eq!(push(&url, &todos(0, 1)).await.status, 200);
        assert_eq!(get(&url, "/healthz").await.status, 200);
        drop(greedy);
        let pull = format!("/api/sync/pull?since={last}");
        until("there is room again", &url, &pull, |answer| answer.status == 200).await;
        until("there is room again", &url, "/api/sync/snapshot", |answer| answer.status == 200).await;
    }
    server.shutdown().await;
}

#[tokio::test]
async fn no_pull_waits_longer_than_is_allowed() {
    let server = start_memory("--max-wait 0.4").await;
    let url = server.url();
    for wait in ["0.5", "1e3", "1e400", "inf", "-1", "NaN", "0x1", ""] {
        let refused = get(&url, &format!("/api/sync/pull?wait={wait}")).await;
        assert_eq!(refused.status, 400, "{wait}");
        assert!(refused.error().1.contains("0.4 (--max-wait)"), "{}", refused.body);
    }
    // What is pushed meanwhile is not for it, and does not prolong its wait.
    let pushing = async {
        for n in 0.. {
            push(&url, &todos(n, 1)).await;
        }
    };
    let waiting = get(&url, "/api/sync/pull?wait=0.4&entity=User");
    tokio::select! {
        () = pushing => unreachable!("it goes on"),
        answer = tokio::time::timeout(HANG, waiting) => {
            assert!(answer.expect("it ends").seqs().is_empty());
        }
    }
    server.shutdown().await;
}

/// The first page of a snapshot of several, and where the next one is.
async fn first_page(url: &str) -> (Answer, String) {
    let first = get(url, "/api/sync/snapshot?limit=2").await;
    let next = format!("/api/sync/snapshot?limit=2&page={}", first.body["next"].as_str().unwrap());
    (first, next)
}

/// Servers of both kinds, with three rows.
async fn both(args: &str) -> [(Server, Option<tempfile::TempDir>); 2] {
    let folder = tempfile::tempdir().unwrap();
    let durable = start(&format!("--data {} {args}", folder.path().display())).await;
    let servers = [(durable, Some(folder)), (start_memory(args).await, None)];
    for (server, _) in &servers {
        assert_eq!(push(&server.url(), &todos(0, 3)).await.status, 200);
    }
    servers
}

#[tokio::test]
async fn a_page_that_is_asked_for_again_and_again_does_not_keep_its_snapshot() {
    for (server, _folder) in both("--snapshot-ttl 60 --snapshot-max-age 0.5").await {
        let url = server.url();
        let (_, next) = first_page(&url).await;
        assert_eq!(get(&url, &next).await.status, 200);
        until("it expires", &url, &next, |answer| {
            (answer.status, answer.error().0) == (410, "SNAPSHOT_EXPIRED")
        })
        .await;
        until_figure(&url, "snapshots_held", 0).await;
        server.shutdown().await;
    }
}

#[tokio::test]
async fn a_snapshot_that_is_forgotten_is_dropped_without_being_asked_for() {
    for (server, _folder) in both("--snapshot-ttl 0.2").await {
        let url = server.url();
        first_page(&url).await;
        until_figure(&url, "snapshots_held", 0).await;
        server.shutdown().await;
    }
}

#[tokio::test]
async fn pages_whose_cursor_has_left_the_window_are_not_served() {
    for (server, _folder) in both("--capacity 4 --max-changes 4").await {
        let url = server.url();
        let (first, next) = first_page(&url).await;
        let pull = format!("/api/sync/pull?history=full&since={}", first.last_seq());
        push(&url, &todos(3, 4)).await;
        assert_eq!((get(&url, &pull).await.status, get(&url, &next).await.status), (200, 200), "just in it");
        push(&url, &todos(7, 1)).await;
        assert_eq!(get(&url, &pull).await.status, 410);
        let expired = get(&url, &next).await;
        assert_eq!((expired.status, expired.error().0), (410, "SNAPSHOT_EXPIRED"));
        until_figure(&url, "snapshots_held", 0).await;
        server.shutdown().await;
    }
}

#[tokio::test]
async fn a_snapshot_of_one_page_is_not_held() {
    for (server, _folder) in both("").await {
        let url = server.url();
        for _ in 0..3 {
            let whole = get(&url, "/api/sync/snapshot").await;
            assert_eq!(
                (whole.body["rows"].as_array().unwrap().len(), &whole.body["next"]),
                (3, &Value::Null)
            );
        }
        assert_eq!(get(&url, "/api/stats").await.body["snapshots_held"], 0);
        first_page(&url).await;
        assert_eq!(get(&url, "/api/stats").await.body["snapshots_held"], 1);
        server.shutdown().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn more_snapshots_than_are_held_are_shared_and_none_is_taken_away() {
    for (server, _folder) in both("--max-snapshots 2").await {
        let url = server.url();
        // So many that each view that comes now is of the younger half of the window.
        assert_eq!(push(&url, &todos(1000, 1000)).await.status, 200);
        // All begin before any goes on.
        let mut beginning = tokio::task::JoinSet::new();
        for n in 0..30 {
            let url = url.clone();
            beginning.spawn(async move {
                push(&url, &todos(10 + n, 1)).await;
                first_page(&url).await
            });
        }
        for (first, next) in beginning.join_all().await {
            let page = get(&url, &next).await;
            assert_eq!((page.status, page.last_seq()), (200, first.last_seq()));
        }
        let held = get(&url, "/api/stats").await.body["snapshots_held"].as_u64().unwrap();
        assert!((1..=2).contains(&held), "{held}");
        server.shutdown().await;
    }
}

async fn ticket(url: &str) -> Answer {
    Answer::of(Client::new().post(format!("{url}/api/sync/ticket"))).await
}

#[tokio::test]
async fn tickets_that_are_hoarded_run_out_and_then_expire() {
    let server = start_memory("--max-tickets 3 --ticket-ttl 0.5").await;
    let url = server.url();
    let mut tickets = Vec::new();
    for _ in 0..3 {
        let answer = ticket(&url).await;
        assert_eq!((answer.status, &answer.body["expires_in"]), (200, &json!(0.5)));
        tickets.push(answer.body["ticket"].as_str().unwrap().to_owned());
    }
    let refused = ticket(&url).await;
    assert_eq!((refused.status, refused.error().0), (503, "TOO_MANY_TICKETS"));
    assert_eq!(refused.header("retry-after"), Some("1"));
    assert!(refused.error().1.contains("--max-tickets"));
    let issued = async {
        while ticket(&url).await.status == 503 {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(HANG, issued).await.expect("they expire");
    for ticket in tickets {
        let refused = get(&url, &format!("/api/sync/live?ticket={ticket}")).await;
        assert_eq!((refused.status, refused.error().0), (401, "UNAUTHORIZED"));
    }
    server.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_ticket_opens_one_stream_however_many_ask_at_once() {
    let server = start_memory("").await;
    let url = server.url();
    for _ in 0..5 {
        let ticket = ticket(&url).await.body["ticket"].as_str().unwrap().to_owned();
        let mut asking = tokio::task::JoinSet::new();
        for _ in 0..8 {
            let live = format!("{url}/api/sync/live?ticket={ticket}");
            asking.spawn(async move { reqwest::get(live).await.unwrap().status().as_u16() });
        }
        let mut statuses = asking.join_all().await;
        statuses.sort_unstable();
        assert_eq!(statuses, [200, 401, 401, 401, 401, 401, 401, 401]);
    }
    server.shutdown().await;
}
