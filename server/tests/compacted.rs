//! Clients whose cursor is older than the window are told what is different, and have the server's
//! rows afterwards.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use common::clients::{Event, Sse};
use common::{HANG, Rows, Server, fold, get, push, snapshot, start, start_memory, todos};
use futures_util::StreamExt;
use proptest::prelude::*;
use serde_json::{Value, json};

/// A client that keeps rows, and goes on from where the last answer left it.
#[derive(Default)]
struct Client {
    rows: Rows,
    /// What the JSON said, 0 at first.
    since: u64,
    resyncs: usize,
}

impl Client {
    /// Asks once. False when there is nothing more for now.
    async fn pull(&mut self, server: &str, limit: usize) -> bool {
        let page = get(server, &format!("/api/sync/pull?since={}&limit={limit}", self.since)).await;
        if page.status == 410 {
            assert_ne!(self.since, 0, "a client that has nothing is always served: {}", page.body);
            *self = Self { resyncs: self.resyncs + 1, ..Self::default() };
            return true;
        }
        assert_eq!(page.status, 200, "{}", page.body);
        self.take(&page.body);
        page.body["has_more"] == true
    }

    fn take(&mut self, page: &Value) {
        for change in page["changes"].as_array().unwrap() {
            fold(&mut self.rows, change);
        }
        self.since = page["cursor"]["last_seq"].as_u64().unwrap();
    }

    /// Follows a live stream until it has got to `seq`.
    async fn follow(&mut self, server: &str, seq: u64) {
        let mut stream = Sse::open(server, &format!("since={}", self.since)).await;
        while self.since < seq || self.since >= 1 << 52 {
            let event = stream.next().await.unwrap();
            match &*event.name {
                "changes" => self.take(&json(&event)),
                "resync" => {
                    *self = Self { resyncs: self.resyncs + 1, ..Self::default() };
                    return;
                }
                _ => {}
            }
            let id = event.id.rsplit_once('.').unwrap().1.parse().unwrap();
            assert!(event.name == "heartbeat" || id == self.since, "{id} at {}", self.since);
            self.since = id;
        }
    }

    async fn catch_up(&mut self, server: &str, limit: usize) {
        for _ in 0..1000 {
            if !self.pull(server, limit).await {
                return;
            }
        }
        panic!("it never gets there: {} resyncs, at {}", self.resyncs, self.since);
    }
}

fn json(event: &Event) -> Value {
    serde_json::from_str(&event.data).unwrap()
}

#[derive(Debug, Clone)]
enum Step {
    Push(Vec<(&'static str, &'static str, u8)>),
    Pull { client: usize, limit: usize, times: usize },
    Follow { client: usize },
    Restart,
}

fn step() -> impl Strategy<Value = Step> {
    let change = (
        prop::sample::select(vec!["insert", "update", "delete"]),
        prop::sample::select(vec!["A", "B"]),
        0..12_u8,
    );
    prop_oneof![
        4 => prop::collection::vec(change, 1..6).prop_map(Step::Push),
        4 => (0..3_usize, 1..4_usize, 1..4_usize)
            .prop_map(|(client, limit, times)| Step::Pull { client, limit, times }),
        1 => (0..3_usize).prop_map(|client| Step::Follow { client }),
        1 => Just(Step::Restart),
    ]
}

/// Runs the steps. At the end, and after each follow, clients have the server's rows.
async fn run(memory: bool, capacity: usize, tombstones: usize, steps: Vec<Step>) {
    let folder = tempfile::tempdir().unwrap();
    let args = format!("--capacity {capacity} --max-changes 5 --tombstones {tombstones}");
    let open = async || {
        if memory {
            start_memory(&args).await
        } else {
            start(&format!("--data {} {args}", folder.path().display())).await
        }
    };
    let mut server = open().await;
    let mut clients: [Client; 3] = Default::default();
    for step in steps {
        match step {
            Step::Push(changes) => {
                let change = |(kind, entity, row): &(&str, &str, u8)| json!({"kind": kind, "entity": entity, "row_id": row.to_string(), "data": {"row": row}});
                let changes: Vec<_> = changes.iter().map(change).collect();
                for changes in changes.chunks(capacity.min(5)) {
                    let pushed = push(&server.url(), &json!({"changes": changes})).await;
                    assert_eq!(pushed.status, 200, "{}", pushed.body);
                }
            }
            Step::Pull { client, limit, times } => {
                for _ in 0..times {
                    clients[client].pull(&server.url(), limit).await;
                }
            }
            Step::Follow { client } => {
                let (rows, token) = snapshot(&server.url(), 100).await.unwrap();
                let seq = token.rsplit_once('.').unwrap().1.parse().unwrap();
                let client = &mut clients[client];
                let resyncs = client.resyncs;
                tokio::time::timeout(HANG, client.follow(&server.url(), seq)).await.expect("it gets there");
                assert!(client.resyncs > resyncs || client.rows == rows, "{:?} is not {rows:?}", client.rows);
            }
            Step::Restart if memory => {}
            Step::Restart => {
                server.shutdown().await;
                server = open().await;
            }
        }
    }
    let (rows, _) = snapshot(&server.url(), 100).await.unwrap();
    for (number, mut client) in clients.into_iter().enumerate() {
        client.catch_up(&server.url(), number + 1).await;
        assert_eq!(client.rows, rows, "client {number}");
    }
    server.shutdown().await;
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 32, max_shrink_iters: 200, ..ProptestConfig::default() })]

    #[test]
    fn a_client_that_goes_on_from_the_last_answer_has_the_rows_of_the_server(
        memory in any::<bool>(),
        capacity in 1..50_usize,
        tombstones in prop_oneof![1..8_usize, Just(1000)],
        steps in prop::collection::vec(step(), 1..40),
    ) {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
        runtime.block_on(run(memory, capacity, tombstones, steps));
    }
}

/// A server of each kind, with a window of two events.
async fn each(args: &str) -> Vec<(tempfile::TempDir, Server)> {
    let mut servers = Vec::new();
    for kind in ["--memory", "--data"] {
        let folder = tempfile::tempdir().unwrap();
        let data = if kind == "--data" { folder.path().display().to_string() } else { String::new() };
        let server = start(&format!("{kind} {data} --capacity 2 --max-changes 2 {args}")).await;
        servers.push((folder, server));
    }
    servers
}

/// Pushes changes one by one: kind and row.
async fn push_each(server: &Server, changes: &[(&str, &str)]) -> u64 {
    let mut last_seq = 0;
    for (kind, row_id) in changes {
        let change = json!({"kind": kind, "entity": "Todo", "row_id": row_id, "data": {"row": row_id}});
        last_seq = push(&server.url(), &json!({"changes": [change]})).await.last_seq();
    }
    last_seq
}

#[tokio::test]
async fn a_page_from_before_the_window_says_so_and_leads_to_the_window() {
    for (_folder, server) in each("").await {
        let changes = [
            ("insert", "a"),
            ("update", "a"),
            ("insert", "b"),
            ("delete", "b"),
            ("insert", "c"),
            ("insert", "d"),
        ];
        let base = push_each(&server, &changes).await - 6;
        let page = get(&server.url(), "/api/sync/pull?since=0&limit=1").await;
        assert_eq!((page.seqs(), page.last_seq()), (vec![base + 2], base + 2));
        assert_eq!((&page.body["has_more"], &page.body["compacted_to"]), (&json!(true), &json!(base + 2)));
        assert_eq!(page.header("ringlog-compacted-to"), Some(&*(base + 2).to_string()));
        assert!(page.header("ringlog-resume").unwrap().ends_with(&format!(".{}", base + 2)));
        let change = &page.body["changes"][0];
        assert_eq!((&change["kind"], &change["data"]), (&json!("update"), &json!({"row": "a"})));
        let page = get(&server.url(), &format!("/api/sync/pull?since={}", base + 2)).await;
        assert_eq!((page.seqs(), page.last_seq()), (vec![base + 4], base + 4));
        assert_eq!(
            (&page.body["changes"][0]["kind"], page.body["changes"][0].get("data")),
            (&json!("delete"), None)
        );
        let page = get(&server.url(), &format!("/api/sync/pull?since={}", base + 4)).await;
        assert_eq!((page.seqs(), page.body.get("compacted_to")), (vec![base + 5, base + 6], None));
        assert_eq!(
            (page.body["has_more"].clone(), page.header("ringlog-compacted-to")),
            (json!(false), None)
        );
    }
}

#[tokio::test]
async fn an_event_is_the_same_in_the_window_and_before_it() {
    for (_folder, server) in each("").await {
        let change = json!({"kind": "insert", "entity": "a \"name\"", "row_id": "\u{1}é", "data": {"x": 1.50, "y": [null]}});
        let base = push(&server.url(), &json!({"changes": [change]})).await.last_seq();
        let text = async |query: &str| {
            let url = format!("{}/api/sync/pull?{query}", server.url());
            let page = reqwest::get(url).await.unwrap().text().await.unwrap();
            page.split_once("}],").unwrap().0.to_owned()
        };
        let within = text("since=0").await;
        push_each(&server, &[("insert", "b"), ("insert", "c")]).await;
        assert_eq!(text("since=0&limit=1").await, within);
        assert_eq!(text(&format!("since={}&limit=1&entity=a+%22name%22", base - 1)).await, within);
    }
}

#[tokio::test]
async fn who_wants_every_event_is_told_that_they_are_gone() {
    for (_folder, server) in each("").await {
        push_each(&server, &["a", "b", "c", "d"].map(|row| ("insert", row))).await;
        for query in ["since=0&history=full", "since=0&history=full&entity=Todo"] {
            let refused = get(&server.url(), &format!("/api/sync/pull?{query}")).await;
            assert_eq!(
                (refused.status, &refused.body["error"]["reason"]),
                (410, &json!("evicted")),
                "{query}"
            );
            let mut stream = Sse::open(&server.url(), query).await;
            assert_eq!(stream.next().await.unwrap().name, "resync", "{query}");
        }
        assert_eq!(get(&server.url(), "/api/sync/pull?since=0&history=compacted").await.status, 200);
        let refused = get(&server.url(), "/api/sync/pull?since=0&history=some").await;
        assert_eq!((refused.status, refused.error().0), (400, "BAD_REQUEST"));
        assert!(refused.error().1.contains("`history` must be `compacted`, the default, or `full`"));
    }
}

#[tokio::test]
async fn a_cursor_of_another_log_or_ahead_of_this_one_is_refused_as_before() {
    for (_folder, server) in each("").await {
        let last = push_each(&server, &["a", "b", "c", "d"].map(|row| ("insert", row))).await;
        let other = format!("resume={}.1", "0".repeat(32));
        for (query, reason) in [
            (format!("since={}", last + 1), "ahead"),
            (other, "other_log"),
            (format!("since={}", (1_u64 << 52) + 5), "ahead"),
        ] {
            let refused = get(&server.url(), &format!("/api/sync/pull?{query}")).await;
            assert_eq!((refused.status, &refused.body["error"]["reason"]), (410, &json!(reason)), "{query}");
        }
    }
}

#[tokio::test]
async fn a_cursor_older_than_the_oldest_tombstone_is_refused_unless_it_is_0() {
    for (_folder, server) in each("--tombstones 1").await {
        let deletes = [
            ("insert", "a"),
            ("insert", "b"),
            ("delete", "a"),
            ("delete", "x"),
            ("insert", "c"),
            ("insert", "d"),
        ];
        let base = push_each(&server, &deletes).await - 6;
        let refused = get(&server.url(), &format!("/api/sync/pull?since={}", base + 1)).await;
        assert_eq!((refused.status, refused.error().0), (410, "RESYNC_REQUIRED"));
        assert_eq!(refused.body["error"]["reason"], "compacted");
        assert_eq!(refused.body["error"]["oldest_seq"], base + 4);
        assert_eq!(get(&server.url(), "/api/stats").await.body["oldest_compacted_seq"], base + 4);
        let mut stream = Sse::open(&server.url(), &format!("since={}", base + 1)).await;
        assert_eq!(stream.next().await.unwrap().name, "resync");
        assert_eq!(
            get(&server.url(), &format!("/api/sync/pull?since={}", base + 3)).await.seqs(),
            [base + 4]
        );
        assert_eq!(get(&server.url(), "/api/sync/pull?since=0").await.seqs(), [base + 2, base + 4]);
    }
}

#[tokio::test]
async fn a_client_that_began_with_nothing_gets_past_the_oldest_tombstone() {
    for (_folder, server) in each("--tombstones 1").await {
        push_each(&server, &["a", "b", "c"].map(|row| ("insert", row))).await;
        push_each(&server, &["x", "y", "z"].map(|row| ("delete", row))).await;
        push_each(&server, &[("insert", "d"), ("insert", "e")]).await;
        let mut client = Client::default();
        let mut pages = 0;
        while client.pull(&server.url(), 1).await {
            pages += 1;
        }
        assert_eq!((client.resyncs, pages >= 5, client.rows.len()), (0, true, 5));

        // A tombstone that such a client needs is dropped: it is refused, and begins anew.
        let mut client = Client::default();
        client.pull(&server.url(), 1).await;
        assert!(client.since >= 1 << 52, "a place: {}", client.since);
        push_each(&server, &[("delete", "a"), ("delete", "b"), ("delete", "x")]).await;
        client.catch_up(&server.url(), 1).await;
        assert_eq!((client.resyncs, client.rows), (1, snapshot(&server.url(), 9).await.unwrap().0));
    }
}

#[tokio::test]
async fn a_place_is_taken_from_a_page_a_resume_token_and_a_live_stream() {
    for (_folder, server) in each("--tombstones 1").await {
        push_each(&server, &["a", "b", "c"].map(|row| ("insert", row))).await;
        push_each(&server, &["x", "y", "z"].map(|row| ("delete", row))).await;
        push_each(&server, &[("insert", "d"), ("insert", "e")]).await;
        let first = get(&server.url(), "/api/sync/pull?since=0&limit=1").await;
        let token = first.header("ringlog-resume").unwrap();
        assert!(token.ends_with(&format!(".{}", first.last_seq())), "{token}");
        let second = get(&server.url(), &format!("/api/sync/pull?resume={token}&limit=1")).await;
        let seq = first.seqs()[0];
        assert_eq!(second.seqs(), [seq + 1]);
        let mut stream = Sse::open(&server.url(), &format!("resume={token}")).await;
        assert_eq!(stream.next().await.unwrap().id, token, "where it begins");
        let changes = stream.event("changes").await;
        assert_eq!(json(&changes)["changes"][0]["seq"], seq + 1);
    }
}

#[tokio::test]
async fn live_streams_begin_before_the_window_and_go_on_live() {
    for (_folder, server) in each("").await {
        let last = push_each(&server, &["a", "b", "a", "c", "d"].map(|row| ("insert", row))).await;
        let mut sse = Sse::open(&server.url(), "since=0").await;
        let url = server.url().replace("http", "ws");
        let (mut ws, _) =
            tokio_tungstenite::connect_async(format!("{url}/api/sync/ws?since=0")).await.unwrap();
        let mut ws_changes = async || loop {
            let text = ws.next().await.unwrap().unwrap().into_text().unwrap();
            let message: Value = serde_json::from_str(&text).unwrap();
            if message["event"] == "changes" {
                return message["data"].clone();
            }
        };
        let seqs = |data: &Value| -> Vec<u64> {
            data["changes"].as_array().unwrap().iter().map(|change| change["seq"].as_u64().unwrap()).collect()
        };
        let mut sse_changes = async || json(&sse.event("changes").await);
        for (before, within) in
            [(sse_changes().await, sse_changes().await), (ws_changes().await, ws_changes().await)]
        {
            assert_eq!(
                (seqs(&before), &before["compacted_to"]),
                (vec![last - 3, last - 2], &json!(last - 2))
            );
            assert_eq!((seqs(&within), within.get("compacted_to")), (vec![last - 1, last], None));
        }
        push_each(&server, &[("insert", "e")]).await;
        assert_eq!((seqs(&sse_changes().await), seqs(&ws_changes().await)), (vec![last + 1], vec![last + 1]));
    }
}

/// A frame of several changes stays below 1 MiB, before the window as well.
#[tokio::test]
async fn a_long_change_has_a_frame_of_its_own() {
    for (_folder, server) in each("").await {
        let base = push_each(&server, &[("insert", "a")]).await - 1;
        let long =
            json!({"kind": "insert", "entity": "Todo", "row_id": "long", "data": "x".repeat(1_000_000)});
        assert_eq!(push(&server.url(), &json!({"changes": [long]})).await.status, 200);
        push_each(&server, &["b", "c", "d"].map(|row| ("insert", row))).await;
        let mut stream = Sse::open(&server.url(), "since=0").await;
        for expected in [base + 1, base + 2, base + 3] {
            let changes = json(&stream.event("changes").await)["changes"].clone();
            assert_eq!((changes.as_array().unwrap().len(), &changes[0]["seq"]), (1, &json!(expected)));
        }
    }
}

#[tokio::test]
async fn a_client_of_one_entity_gets_its_rows_only_and_the_cursor_moves_past_the_others() {
    for (_folder, server) in each("").await {
        for n in 0..20 {
            let entity = if n % 5 == 0 { "Rare" } else { "Todo" };
            let change = json!({"kind": "insert", "entity": entity, "row_id": n.to_string()});
            push(&server.url(), &json!({"changes": [change]})).await;
        }
        let first = get(&server.url(), "/api/sync/pull?since=0&entity=Rare&limit=3").await;
        let base = first.seqs()[0] - 1;
        assert_eq!(first.seqs(), [base + 1, base + 6, base + 11]);
        let next =
            get(&server.url(), &format!("/api/sync/pull?since={}&entity=Rare&limit=3", first.last_seq()))
                .await;
        assert_eq!((next.seqs(), next.last_seq()), (vec![base + 16], base + 18));
        let none = get(&server.url(), "/api/sync/pull?since=0&entity=None").await;
        assert_eq!(
            (none.seqs(), none.last_seq(), &none.body["has_more"]),
            (vec![], base + 20, &json!(false))
        );
        let two = get(&server.url(), "/api/sync/pull?since=0&entity=Rare&entity=Todo&limit=2").await;
        assert_eq!(two.seqs(), [base + 1, base + 2]);
    }
}

#[tokio::test]
async fn a_client_at_0_of_a_log_in_memory_is_served_and_one_of_an_earlier_process_is_not() {
    let server = start_memory("--capacity 2 --max-changes 2").await;
    let last = push_each(&server, &["a", "b", "c", "d"].map(|row| ("insert", row))).await;
    assert_eq!(get(&server.url(), "/api/sync/pull?since=0").await.seqs(), [last - 3, last - 2]);
    for since in [1, last - 5] {
        let refused = get(&server.url(), &format!("/api/sync/pull?since={since}")).await;
        assert_eq!((refused.status, &refused.body["error"]["reason"]), (410, &json!("evicted")), "{since}");
    }
    assert_eq!(get(&server.url(), &format!("/api/sync/pull?since={}", last - 4)).await.seqs().len(), 2);
}

#[tokio::test]
async fn a_push_larger_than_the_page_and_a_limit_of_0_lose_nothing() {
    for (_folder, server) in each("").await {
        for n in 0..5 {
            push(&server.url(), &todos(2 * n, 2)).await;
        }
        let nothing = get(&server.url(), "/api/sync/pull?since=0&limit=0").await;
        assert_eq!((nothing.status, nothing.seqs(), &nothing.body["has_more"]), (200, vec![], &json!(true)));
        let mut client = Client { since: nothing.last_seq(), ..Client::default() };
        client.catch_up(&server.url(), 1).await;
        assert_eq!(client.rows, snapshot(&server.url(), 100).await.unwrap().0);
    }
}

#[tokio::test]
async fn a_store_that_is_restored_from_a_backup_has_the_history_of_the_first() {
    let folder = tempfile::tempdir().unwrap();
    let (data, file, restored) =
        (folder.path().join("data"), folder.path().join("file"), folder.path().join("restored"));
    let args = "--capacity 2 --max-changes 2 --tombstones 2";
    let server = start(&format!("--data {} {args}", data.display())).await;
    let changes = [
        ("delete", "x"),
        ("insert", "a"),
        ("delete", "y"),
        ("insert", "b"),
        ("delete", "a"),
        ("insert", "c"),
    ];
    push_each(&server, &changes).await;
    let run = |args: &[&std::path::Path]| {
        let status = std::process::Command::new(env!("CARGO_BIN_EXE_ringlog-server")).args(args).status();
        assert!(status.unwrap().success());
    };
    run(&["backup".as_ref(), &data, "--to".as_ref(), &file]);
    let told = async |server: &Server| {
        let page = get(&server.url(), "/api/sync/pull?since=0").await;
        let filtered = get(&server.url(), "/api/sync/pull?since=0&entity=Todo").await;
        let stats = get(&server.url(), "/api/stats").await;
        (page.body, filtered.body, stats.body["oldest_compacted_seq"].clone())
    };
    let before = told(&server).await;
    assert_eq!((before.0["changes"].as_array().unwrap().len(), &before.2), (2, &json!(2)));
    server.shutdown().await;
    run(&["restore".as_ref(), &file, "--data".as_ref(), &restored]);
    let server = start(&format!("--data {} {args}", restored.display())).await;
    assert_eq!(told(&server).await, before);
    // The tombstones are those of before: the next delete drops the older one.
    push_each(&server, &[("delete", "b")]).await;
    assert_eq!(get(&server.url(), "/api/stats").await.body["oldest_compacted_seq"], 4);
    server.shutdown().await;
}

/// All rows that were changed between the cursor and the window are in the window again: nothing of
/// the history is told, and still something was left out.
#[tokio::test(flavor = "multi_thread")]
async fn a_reader_is_told_that_events_are_left_out_though_the_history_has_none_for_it() {
    let folder = tempfile::tempdir().unwrap();
    let server = start(&format!("--data {} --capacity 2", folder.path().display())).await;
    for _ in 0..2 {
        push(&server.url(), &todos(0, 2)).await;
    }
    let page = get(&server.url(), "/api/sync/pull?since=1").await.body;
    assert_eq!((&page["changes"], &page["compacted_to"]), (&json!([]), &json!(2)));
    assert_eq!(page["has_more"], true);
    let mut stream = Sse::open(&server.url(), "since=1").await;
    let told = loop {
        let event = stream.next().await.unwrap();
        if event.name == "changes" {
            break json(&event);
        }
    };
    assert_eq!((&told["changes"], &told["compacted_to"]), (&json!([]), &json!(2)));
    drop(stream);
    server.shutdown().await;
}
