//! Each route's answers, and each way to be refused, over real sockets.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use common::Server;
use common::{Answer, get, push, snapshot, start, start_memory, todos};
use reqwest::Client;
use serde_json::{Value, json};
use std::time::{Duration, Instant};

/// Both kinds of server: what a client sees is the same.
async fn both(args: &str) -> [(Server, Option<tempfile::TempDir>); 2] {
    let folder = tempfile::tempdir().unwrap();
    let durable = start(&format!("--data {} {args}", folder.path().display())).await;
    [(durable, Some(folder)), (start_memory(args).await, None)]
}

/// The seq before the first one of a server that nothing was pushed to.
async fn base(server: &str) -> u64 {
    get(server, "/api/sync/snapshot").await.last_seq()
}

#[tokio::test]
async fn what_is_pushed_is_pulled_and_in_the_snapshot() {
    for (server, _folder) in both("").await {
        let url = server.url();
        let base = base(&url).await;
        let request = json!({"client_id": "phone", "changes": [
            {"entity": "Todo", "row_id": "t1", "kind": "insert", "data": {"title": "Milk", "n": 0.1}, "op_id": "1"},
            {"entity": "Todo", "row_id": "t2", "kind": "insert", "data": [1, 2], "op_id": "2"},
            {"entity": "Todo", "row_id": "t2", "kind": "delete", "op_id": "3"},
            {"entity": "a \"b\"", "row_id": "ü", "kind": "update", "op_id": "4"},
        ]});
        let pushed = push(&url, &request).await;
        assert_eq!(pushed.status, 200, "{}", pushed.body);
        assert_eq!((&pushed.body["applied"], &pushed.body["deduped"]), (&4.into(), &0.into()));
        assert_eq!(pushed.last_seq(), base + 4);
        let pulled = get(&url, &format!("/api/sync/pull?since={base}")).await;
        assert_eq!(pulled.seqs(), (base + 1..=base + 4).collect::<Vec<_>>());
        for (change, event) in
            request["changes"].as_array().unwrap().iter().zip(pulled.body["changes"].as_array().unwrap())
        {
            for field in ["entity", "row_id", "kind", "data"] {
                assert_eq!(change[field], event[field]);
            }
        }
        let (rows, token) = snapshot(&url, 1).await.unwrap();
        assert_eq!(pulled.header("ringlog-resume"), Some(&*token));
        assert_eq!(rows.keys().map(|(_, row)| &**row).collect::<Vec<_>>(), ["t1", "ü"]);
        assert_eq!(
            rows[&("Todo".to_owned(), "t1".to_owned())],
            (base + 1, json!({"title": "Milk", "n": 0.1}))
        );

        let again = push(&url, &request).await;
        assert_eq!((&again.body["applied"], &again.body["deduped"]), (&4.into(), &4.into()));
        assert_eq!(again.body["results"][3], json!({"op_id": "4", "status": "replayed", "seq": base + 4}));
        assert_eq!(push(&url, &json!({"changes": []})).await.body["applied"], 0);
        server.shutdown().await;
    }
}

#[tokio::test]
async fn requests_that_share_an_op_id_are_applied_once_however_they_come() {
    let folder = tempfile::tempdir().unwrap();
    let server = start(&format!("--data {}", folder.path().display())).await;
    let url = server.url();
    // While the first is being committed the others gather: both pushes of an op id are in one
    // group then.
    let request = |op: usize| {
        json!({"client_id": "c", "changes": [
            {"entity": "Todo", "row_id": "t1", "kind": "insert", "op_id": op.to_string()},
            {"entity": "Todo", "row_id": "t1", "kind": "insert", "op_id": op.to_string()},
        ]})
    };
    let pushes: Vec<_> = (0..60)
        .map(|n| {
            tokio::spawn({
                let (url, request) = (url.clone(), request(n / 3));
                async move { push(&url, &request).await }
            })
        })
        .collect();
    let mut seqs = std::collections::BTreeMap::new();
    let mut applied = 0;
    for (n, pushed) in pushes.into_iter().enumerate() {
        let answer = pushed.await.unwrap();
        assert_eq!((answer.status, &answer.body["applied"]), (200, &2.into()), "{}", answer.body);
        for result in answer.body["results"].as_array().unwrap() {
            let seq = result["seq"].as_u64().unwrap();
            assert_eq!(*seqs.entry(n / 3).or_insert(seq), seq, "one op id, one seq");
            applied += usize::from(result["status"] == "applied");
        }
    }
    assert_eq!(applied, 20);
    assert_eq!(get(&url, "/api/sync/pull").await.seqs(), (1..=20).collect::<Vec<_>>());
    server.shutdown().await;
}

#[tokio::test]
async fn a_cursor_that_cannot_go_on_gets_410_and_the_way_out() {
    for (server, _folder) in both("--capacity 5").await {
        let url = server.url();
        let base = base(&url).await;
        push(&url, &todos(0, 4)).await;
        push(&url, &todos(4, 4)).await;
        let other = format!("{}.{}", "0".repeat(32), base + 7);
        for (query, reason, oldest) in [
            ("since=0&history=full".to_owned(), "evicted", base + 4),
            (format!("since={}&history=full", base + 2), "evicted", base + 4),
            (format!("since={}", base + 9), "ahead", base + 9),
            (format!("resume={other}"), "other_log", base + 4),
        ] {
            let refused = get(&url, &format!("/api/sync/pull?{query}")).await;
            assert_eq!((refused.status, refused.header("cache-control")), (410, Some("no-store")), "{query}");
            let error = &refused.body["error"];
            assert_eq!((&error["code"], &error["reason"]), (&"RESYNC_REQUIRED".into(), &reason.into()));
            assert_eq!(error["oldest_seq"], oldest, "{query}");
            assert!(refused.error().1.contains("/api/sync/snapshot"), "{}", refused.body);
        }
        // The way out: the rows, then on from there; nothing is missing and no client comes back
        // here.
        let (rows, token) = snapshot(&url, 3).await.unwrap();
        assert_eq!(rows.len(), 8);
        let on = format!("/api/sync/pull?resume={token}");
        assert_eq!(get(&url, &on).await.seqs(), [0; 0]);
        push(&url, &todos(8, 1)).await;
        assert_eq!(get(&url, &on).await.seqs(), [base + 9]);
        server.shutdown().await;
    }
}

#[tokio::test]
async fn a_change_with_if_seq_is_applied_only_if_its_row_is_as_the_client_saw_it() {
    for (server, _folder) in both("").await {
        let url = server.url();
        let base = base(&url).await;
        let change = |row_id: &str, if_seq: u64, op_id: &str| {
            json!({"entity": "Todo", "row_id": row_id, "kind": "update", "op_id": op_id, "if_seq": if_seq,
                "data": {"by": op_id}})
        };
        push(
            &url,
            &json!({"changes": [{"entity": "Todo", "row_id": "a", "kind": "insert", "data": {"n": 1.50}}]}),
        )
        .await;
        // The second is of a row that the first has changed, the third of one that is not there.
        let request = json!({"client_id": "c", "changes": [
            change("a", base + 1, "1"), change("a", base + 1, "2"), change("b", 7, "3"), change("b", 0, "4"),
        ]});
        let answer = push(&url, &request).await;
        assert_eq!((answer.status, answer.body["applied"].as_u64()), (200, Some(2)), "{}", answer.body);
        let results = &answer.body["results"];
        assert_eq!(results[0], json!({"op_id": "1", "status": "applied", "seq": base + 2}));
        let error = format!("if_seq is {}, and the row's last seq is {}", base + 1, base + 2);
        let row = json!({"seq": base + 2, "data": {"by": "1"}});
        assert_eq!(results[1], json!({"op_id": "2", "status": "conflict", "error": error, "row": row}));
        assert_eq!((&results[2]["status"], &results[2]["row"]), (&json!("conflict"), &json!({"seq": 0})));
        assert_eq!(results[3], json!({"op_id": "4", "status": "applied", "seq": base + 3}));
        assert_eq!(answer.body["errors"].as_array().unwrap().len(), 2);
        // What was applied is replayed; what was not can be pushed on what the row is now.
        let again = push(
            &url,
            &json!({"client_id": "c", "changes": [change("a", base + 1, "1"), change("a", base + 2, "2")]}),
        )
        .await;
        let statuses = |answer: &common::Answer| -> Vec<(String, Option<u64>)> {
            let results = answer.body["results"].as_array().unwrap().iter();
            results.map(|r| (r["status"].as_str().unwrap().to_owned(), r["seq"].as_u64())).collect()
        };
        assert_eq!(
            statuses(&again),
            [("replayed".into(), Some(base + 2)), ("applied".into(), Some(base + 4))]
        );
        // A row that is deleted is not there.
        push(&url, &json!({"changes": [{"entity": "Todo", "row_id": "a", "kind": "delete"}]})).await;
        let gone = push(&url, &json!({"changes": [{"entity": "Todo", "row_id": "a", "kind": "insert", "if_seq": base + 5}, {"entity": "Todo", "row_id": "a", "kind": "insert", "if_seq": 0}]})).await;
        assert_eq!(statuses(&gone), [("conflict".into(), None), ("applied".into(), Some(base + 6))]);
        assert_eq!(get(&url, "/api/sync/pull?since=0").await.seqs().len(), 6);
        for wrong in [json!("1"), json!(-1), json!(1.5)] {
            let refused = push(
                &url,
                &json!({"changes": [{"entity": "T", "row_id": "a", "kind": "insert", "if_seq": wrong}]}),
            )
            .await;
            assert_eq!(refused.status, 400);
            assert!(refused.error().1.starts_with("changes[0].if_seq: "), "{}", refused.body);
        }
        server.shutdown().await;
    }
}

/// In the window and before it, in pulls and live, on disk and in memory, over a restart.
#[tokio::test]
async fn events_say_under_what_they_were_pushed_if_they_are_asked_to() {
    let folder = tempfile::tempdir().unwrap();
    let disk = format!("--data {} --capacity 3 --max-changes 3 --echo", folder.path().display());
    for args in ["--memory --capacity 3 --max-changes 3 --echo", &disk] {
        let mut server = common::start(args).await;
        let change = |row_id: &str, op_id: Option<&str>| json!({"entity": "Todo", "row_id": row_id, "kind": "insert", "op_id": op_id});
        push(
            &server.url(),
            &json!({"client_id": "a \"b\"", "changes": [change("1", Some("op-1")), change("2", None)]}),
        )
        .await;
        push(&server.url(), &json!({"changes": [change("3", Some("op-3")), change("4", None)]})).await;
        let under = |change: &Value| (change.get("client_id").cloned(), change.get("op_id").cloned());
        let (client, op) = (Some(json!("a \"b\"")), |op_id: &str| Some(json!(op_id)));
        let mut expected = [(client.clone(), op("op-1")), (client, None), (None, op("op-3")), (None, None)];
        for restarted in [false, true] {
            if restarted {
                if args == disk {
                    server.shutdown().await;
                    server = common::start(args).await;
                    // The store has what comes with an op id.
                    expected[1] = (None, None);
                } else {
                    continue;
                }
            }
            let url = server.url();
            let mut pulled = Vec::new();
            let first = get(&url, "/api/sync/pull?since=0").await;
            let rest = get(&url, &format!("/api/sync/pull?since={}", first.last_seq())).await;
            for page in [&first, &rest] {
                pulled.extend(page.body["changes"].as_array().unwrap().iter().map(under));
            }
            assert_eq!(pulled, expected, "{args}");
            let mut live = common::clients::Sse::open(&url, "since=0").await;
            let mut followed = Vec::new();
            while followed.len() < 4 {
                let page: Value = serde_json::from_str(&live.event("changes").await.data).unwrap();
                followed.extend(page["changes"].as_array().unwrap().iter().map(under));
            }
            assert_eq!(followed, expected, "{args}");
        }
        server.shutdown().await;
    }
    let server = start_memory("").await;
    push(&server.url(), &json!({"client_id": "c", "changes": [{"entity": "E", "row_id": "1", "kind": "insert", "op_id": "1"}]})).await;
    let change = &get(&server.url(), "/api/sync/pull").await.body["changes"][0];
    assert_eq!((change.get("client_id"), change.get("op_id")), (None, None), "not unless it is asked to");
    server.shutdown().await;
}

#[tokio::test]
async fn an_event_is_written_the_same_with_and_without_echoes() {
    let change = json!({"entity": "a \"b\"\u{1}", "row_id": "é\n", "kind": "update", "data": {"x": 1.50, "y": [null]}});
    let mut pages = Vec::new();
    for args in ["", "--echo"] {
        let server = start_memory(args).await;
        push(&server.url(), &json!({"changes": [change]})).await;
        let page =
            reqwest::get(format!("{}/api/sync/pull", server.url())).await.unwrap().text().await.unwrap();
        // What differs from log to log.
        let (_, rest) = page.split_once(r#","entity":"#).unwrap();
        let (event, rest) = rest.split_once(r#""timestamp":""#).unwrap();
        pages.push((
            event.to_owned(),
            rest.len(),
            rest["2026-11-22T07:09:00.123Z".len()..].split_once("cursor").unwrap().0.to_owned(),
        ));
        server.shutdown().await;
    }
    assert_eq!(pages[0], pages[1]);
}

#[tokio::test]
async fn a_snapshot_of_some_entities_has_their_rows_only_in_all_pages() {
    for (server, _folder) in both("").await {
        let url = server.url();
        for entity in ["A", "B", "Be", "C", "D"] {
            let change = |n: usize| json!({"entity": entity, "row_id": n.to_string(), "kind": "insert", "data": entity});
            push(&url, &json!({"changes": (0..3).map(change).collect::<Vec<_>>()})).await;
        }
        for entities in [&["B", "D"][..], &["A", "Be", "D", "None"], &["None"], &["C"]] {
            let filter = format!("&entity={}", entities.join("&entity="));
            for limit in [1, 2, 3, 100] {
                let (mut rows, mut next) = (Vec::new(), String::new());
                loop {
                    let page = get(&url, &format!("/api/sync/snapshot?limit={limit}{filter}{next}")).await;
                    assert_eq!(page.status, 200, "{}", page.body);
                    rows.extend(
                        page.body["rows"].as_array().unwrap().iter().map(|row| row["entity"].clone()),
                    );
                    let Some(token) = page.body["next"].as_str() else { break };
                    next = format!("&page={token}");
                }
                let expected: Vec<_> =
                    entities.iter().filter(|e| **e != "None").flat_map(|e| vec![json!(e); 3]).collect();
                assert_eq!(rows, expected, "{filter} {limit}");
            }
        }
        let first = get(&url, "/api/sync/snapshot?limit=1&entity=B&entity=C").await;
        let page = format!("page={}", first.body["next"].as_str().unwrap());
        assert_eq!(get(&url, &format!("/api/sync/snapshot?{page}&entity=C&entity=B")).await.status, 200);
        for other in ["", "&entity=B"] {
            let refused = get(&url, &format!("/api/sync/snapshot?{page}{other}")).await;
            assert_eq!((refused.status, refused.error().0), (400, "BAD_REQUEST"), "{other}");
            assert!(
                refused.error().1.contains("`entity` must be that of the page before"),
                "{}",
                refused.body
            );
        }
        server.shutdown().await;
    }
}

/// Of clients that count at the same time, each on what it has seen, none is lost.
#[tokio::test(flavor = "multi_thread")]
async fn counters_that_are_updated_with_if_seq_lose_no_count() {
    for (server, _folder) in both("").await {
        let url = server.url();
        let client = async |url: String| {
            let (mut seq, mut count, mut done) = (0, 0, 0);
            while done < 25 {
                let change = json!({"entity": "Counter", "row_id": "c", "kind": "update", "if_seq": seq, "data": count + 1});
                let answer = push(&url, &json!({"changes": [change]})).await;
                let result = &answer.body["results"][0];
                if result["status"] == "applied" {
                    (seq, count, done) = (result["seq"].as_u64().unwrap(), count + 1, done + 1);
                } else {
                    let row = &result["row"];
                    (seq, count) = (row["seq"].as_u64().unwrap(), row["data"].as_u64().unwrap_or(0));
                }
            }
        };
        let clients: Vec<_> = (0..4).map(|_| tokio::spawn(client(url.clone()))).collect();
        for client in clients {
            client.await.unwrap();
        }
        let rows = snapshot(&url, 9).await.unwrap().0;
        assert_eq!(rows.values().map(|(_, data)| data.clone()).collect::<Vec<_>>(), [json!(100)]);
        server.shutdown().await;
    }
}

#[tokio::test]
async fn a_pull_waits_for_something_new() {
    for (server, _folder) in both("--max-wait 90").await {
        let url = server.url();
        let base = base(&url).await;
        let wait = |query: String| {
            let url = url.clone();
            tokio::spawn(async move { get(&url, &format!("/api/sync/pull?{query}")).await })
        };
        let any = wait(format!("since={base}&wait=90"));
        let users = wait(format!("since={base}&wait=90&entity=User"));
        let some = wait(format!("since={base}&wait=90&entity=List&entity=Todo"));
        tokio::time::sleep(Duration::from_millis(50)).await;
        push(&url, &todos(0, 1)).await;
        assert_eq!(any.await.unwrap().seqs(), [base + 1]);
        assert_eq!(some.await.unwrap().seqs(), [base + 1]);
        push(&url, &json!({"changes": [{"entity": "User", "row_id": "u", "kind": "insert"}]})).await;
        assert_eq!(users.await.unwrap().seqs(), [base + 2]);

        let waited = Instant::now();
        let nothing = get(&url, &format!("/api/sync/pull?since={}&wait=0.1&entity=User", base + 2)).await;
        assert_eq!((nothing.status, nothing.seqs()), (200, vec![]));
        assert!(waited.elapsed() >= Duration::from_millis(100));
        assert_eq!(
            get(&url, &format!("/api/sync/pull?since={}&wait=90", base + 9)).await.status,
            410,
            "not waited for"
        );
        server.shutdown().await;
    }
}

#[tokio::test]
async fn a_page_is_bounded_in_events_and_in_bytes() {
    let server = start_memory("--max-body 1000000").await;
    let url = server.url();
    let base = base(&url).await;
    for turn in 0..12 {
        let big = json!({"changes": [{"entity": "Big", "row_id": turn.to_string(), "kind": "insert", "data": "x".repeat(900_000)}]});
        assert_eq!(push(&url, &big).await.status, 200);
    }
    let page = get(&url, &format!("/api/sync/pull?since={base}")).await;
    assert_eq!((page.seqs().len(), &page.body["has_more"]), (4, &true.into()), "4 MiB hold four of these");
    assert_eq!(page.last_seq(), base + 4);
    let page = get(&url, &format!("/api/sync/pull?since={base}&limit=3")).await;
    assert_eq!(page.seqs().len(), 3);
    let page = get(&url, &format!("/api/sync/pull?since={base}&limit=0")).await;
    assert_eq!((page.seqs().len(), page.last_seq(), &page.body["has_more"]), (0, base, &true.into()));
    let page = get(&url, "/api/sync/snapshot").await;
    assert_eq!(page.body["rows"].as_array().unwrap().len(), 5, "the page ends when it has 4 MiB");
    assert_eq!(snapshot(&url, 100).await.unwrap().0.len(), 12);
    server.shutdown().await;
}

#[tokio::test]
async fn a_page_that_is_known_is_not_sent_again_and_long_ones_are_compressed() {
    let server = start_memory("").await;
    let url = server.url();
    push(&url, &todos(0, 100)).await;
    let base = base(&url).await - 100;
    let page = format!("{url}/api/sync/pull?since={base}&limit=50");
    let client = Client::builder().no_gzip().no_brotli().build().unwrap();
    let first = Answer::of(client.get(&page)).await;
    let tag = first.header("etag").unwrap().to_owned();
    let again = Answer::of(client.get(&page).header("If-None-Match", format!("\"x\", {tag}"))).await;
    assert_eq!((again.status, &again.body), (304, &Value::Null));
    let other = Answer::of(client.get(format!("{page}&entity=Todo")).header("If-None-Match", &tag)).await;
    assert_eq!(other.status, 200, "another filter, another page");
    for encoding in ["gzip", "br"] {
        let packed = client.get(&page).header("Accept-Encoding", encoding).send().await.unwrap();
        assert_eq!(packed.headers()["content-encoding"], encoding);
        assert!(packed.bytes().await.unwrap().len() * 3 < first.body.to_string().len());
        let unpacked = Answer::of(Client::new().get(&page).header("Accept-Encoding", encoding)).await;
        assert_eq!(unpacked.body, first.body);
    }
    let short =
        client.get(format!("{url}/api/sync/pull?since={}", base + 100)).header("Accept-Encoding", "gzip");
    let short = Answer::of(short).await;
    assert_eq!((short.header("content-encoding"), short.header("etag")), (None, None));
    server.shutdown().await;
}

#[tokio::test]
async fn a_snapshot_stays_as_it_was_while_it_is_paged_through() {
    for (server, _folder) in both("--snapshot-ttl 0.4 --max-snapshots 2").await {
        let url = server.url();
        push(&url, &todos(0, 10)).await;
        let first = get(&url, "/api/sync/snapshot?limit=4").await;
        let next = first.body["next"].as_str().unwrap().to_owned();
        push(&url, &todos(10, 10)).await;
        push(&url, &json!({"changes": [{"entity": "Todo", "row_id": "row-9", "kind": "delete"}]})).await;
        let path = format!("/api/sync/snapshot?limit=100&page={next}");
        let rest = get(&url, &path).await;
        assert_eq!(rest.body["rows"].as_array().unwrap().len(), 6, "the rows as they were");
        assert_eq!(rest.body["cursor"], first.body["cursor"]);
        assert_eq!(get(&url, &path).await.body, rest.body, "a page may be asked for again");
        let missed = get(&url, &format!("/api/sync/pull?since={}", first.last_seq())).await;
        assert_eq!(missed.seqs().len(), 11, "what happened meanwhile is pulled");
        assert_eq!(snapshot(&url, 7).await.unwrap().0.len(), 19);

        tokio::time::sleep(Duration::from_millis(500)).await;
        let expired = get(&url, &path).await;
        assert_eq!((expired.status, expired.error().0), (410, "SNAPSHOT_EXPIRED"));
        assert_eq!(get(&url, "/api/sync/snapshot?page=x").await.status, 400);
        server.shutdown().await;
    }
}

#[tokio::test]
async fn many_snapshots_at_a_time_share_what_is_held() {
    for (server, _folder) in both("--max-snapshots 2").await {
        let url = server.url();
        for turn in 0..6 {
            push(&url, &todos(turn * 5, 5)).await;
            let (rows, _) = snapshot(&url, 3).await.expect("nobody's view is taken from them");
            assert!(rows.len() >= 5 * turn.min(2));
        }
        let held = get_text(&url, "/metrics").await;
        assert!(held.contains("ringlog_snapshots_held 2"), "{held}");
        server.shutdown().await;
    }
}

async fn get_text(url: &str, path: &str) -> String {
    reqwest::get(format!("{url}{path}")).await.unwrap().text().await.unwrap()
}

#[tokio::test]
async fn a_malformed_push_is_refused_with_the_place() {
    for (server, _folder) in both("--max-changes 10").await {
        let url = server.url();
        let post = |body: &str| {
            let request = Client::new().post(format!("{url}/api/sync/push"));
            request.header("Content-Type", "application/json; charset=utf-8").body(body.to_owned())
        };
        let good = r#"{"entity":"a","row_id":"b","kind":"insert"}"#;
        let long = "x".repeat(513);
        for (body, said) in [
            ("", "EOF while parsing"),
            ("{", "EOF while parsing"),
            ("[[]]", "a push is an object"),
            ("{}", "missing field `changes`"),
            (r#"{"changes":7}"#, "changes: invalid type: integer `7`, expected a sequence"),
            (r#"{"changes":[7]}"#, "changes[0]"),
            (r#"{"changes":[{"entity":"a","row_id":"b"}]}"#, "changes[0]: missing field `kind`"),
            (
                &format!(r#"{{"changes":[{good},{{"entity":"a","row_id":7,"kind":"insert"}}]}}"#),
                "changes[1].row_id: invalid type",
            ),
            (
                r#"{"changes":[{"entity":"a","row_id":"b","kind":"upsert"}]}"#,
                "changes[0].kind: unknown variant `upsert`",
            ),
            (r#"{"changes":[],"client_id":3}"#, "client_id: invalid type"),
            (&format!(r#"{{"changes":[{good}]}} x"#), "after the request: trailing characters"),
            (
                r#"{"changes":[{"entity":"","row_id":"b","kind":"insert"}]}"#,
                "changes[0].entity: must have 1 to 512 bytes, not 0",
            ),
            (
                &format!(r#"{{"changes":[{{"entity":"a","row_id":"{long}","kind":"insert"}}]}}"#),
                "changes[0].row_id: must have 1 to 512 bytes, not 513",
            ),
            (
                &format!(r#"{{"changes":[{{"entity":"a","row_id":"b","kind":"delete","op_id":"{long}"}}]}}"#),
                "changes[0].op_id",
            ),
            (&format!(r#"{{"changes":[],"client_id":"{long}"}}"#), "client_id: must have"),
            (
                &format!(
                    r#"{{"changes":[{{"entity":"a","row_id":"b","kind":"insert","data":{}1{}}}]}}"#,
                    "[".repeat(200),
                    "]".repeat(200)
                ),
                "changes[0].data: may be nested 120 deep",
            ),
        ] {
            let refused = Answer::of(post(body)).await;
            assert_eq!((refused.status, refused.error().0), (400, "BAD_REQUEST"), "{body}: {}", refused.body);
            assert!(refused.error().1.contains(said), "{body}: {}", refused.body);
        }
        let bytes =
            Client::new().post(format!("{url}/api/sync/push")).header("Content-Type", "application/json");
        assert_eq!(Answer::of(bytes.body(vec![b'"', 0xff, b'"'])).await.status, 400);
        let plain =
            Client::new().post(format!("{url}/api/sync/push")).body(format!(r#"{{"changes":[{good}]}}"#));
        assert_eq!(Answer::of(plain).await.error().0, "UNSUPPORTED_MEDIA_TYPE");
        let many = push(&url, &todos(0, 11)).await;
        assert_eq!((many.status, many.error().0), (413, "TOO_MANY_CHANGES"));
        assert!(many.error().1.contains("10 changes (--max-changes), not 11"));
        assert!(snapshot(&url, 10).await.unwrap().0.is_empty(), "nothing of all that was applied");
        server.shutdown().await;
    }
}

#[tokio::test]
async fn a_body_over_the_limit_is_refused_and_nothing_is_applied() {
    let server = start_memory("--max-body 2000").await;
    let url = server.url();
    let big =
        json!({"changes": [{"entity": "Big", "row_id": "b", "kind": "insert", "data": "x".repeat(2000)}]});
    let refused = push(&url, &big).await;
    assert_eq!((refused.status, refused.error().0), (413, "BODY_TOO_LARGE"));
    assert!(refused.error().1.contains("2000 bytes (--max-body)"));
    // In pieces, without its length said before.
    let pieces = futures_util::stream::iter(
        big.to_string()
            .into_bytes()
            .chunks(100)
            .map(<[u8]>::to_vec)
            .map(Ok::<_, std::io::Error>)
            .collect::<Vec<_>>(),
    );
    let chunked = Client::new()
        .post(format!("{url}/api/sync/push"))
        .header("Content-Type", "application/json")
        .body(reqwest::Body::wrap_stream(pieces));
    assert_eq!(Answer::of(chunked).await.status, 413);
    assert!(snapshot(&url, 10).await.unwrap().0.is_empty());
    server.shutdown().await;
}

#[tokio::test]
async fn a_question_that_makes_no_sense_is_refused() {
    let server = start_memory("--max-limit 50 --max-wait 5").await;
    let url = server.url();
    for (path, status, said) in [
        ("/api/sync/pull?since=x", 400, "`since` must be a seq"),
        ("/api/sync/pull?sinse=1", 400, "unknown parameter `sinse`"),
        ("/api/sync/pull?limit=51", 400, "`limit` must be a whole number from 0 to 50"),
        ("/api/sync/pull?wait=6", 400, "`wait` must be seconds from 0 to 5"),
        ("/api/sync/pull?resume=1", 400, "`resume`: invalid cursor"),
        ("/api/sync/live?limit=1", 400, "unknown parameter `limit`"),
        ("/api/sync/pull?max_stale=-1", 400, "`max_stale` must be seconds from 0 to 86400"),
        ("/api/sync/snapshot?max_stale=", 400, "`max_stale` must be seconds from 0 to 86400"),
        ("/api/sync/live?max_stale=soon", 400, "`max_stale` must be seconds from 0 to 86400"),
        ("/api/sync/pull?max_stale=1&max_stale=2", 400, "`max_stale` is given twice"),
        ("/api/stats?max_stale=1", 400, "unknown parameter `max_stale`"),
        ("/api/sync/ws", 426, "this route is a WebSocket"),
        ("/api/sync/nothing", 404, "no such route"),
        ("/api/sync/push", 405, "another method"),
    ] {
        let refused = get(&url, path).await;
        assert_eq!(refused.status, status, "{path}: {}", refused.body);
        assert!(refused.error().1.contains(said), "{path}: {}", refused.body);
    }
    let request = Client::new().get(format!("{url}/api/sync/live")).header("Last-Event-ID", "7");
    assert!(Answer::of(request).await.error().1.contains("Last-Event-ID: invalid cursor"));
    server.shutdown().await;
}

#[tokio::test]
async fn tokens_say_who_may_read_and_who_may_push() {
    let (read, write) = ("read-read-read-read", "write-write-write");
    let server = start_memory(&format!("--read-token {read} --write-token {write}")).await;
    let url = server.url();
    let ask = async |path: &str, token: &str| {
        let path = format!("{url}{path}");
        let request = if path.ends_with("push") {
            Client::new().post(path).json(&todos(0, 1))
        } else {
            Client::new().get(path)
        };
        let request = if token.is_empty() { request } else { request.header("Authorization", token) };
        request.send().await.unwrap()
    };
    let paths = ["pull", "snapshot", "live", "ws"].map(|route| format!("/api/sync/{route}"));
    for path in paths.iter().map(|path| &**path).chain(["/metrics"]) {
        for token in [
            "",
            "Bearer wrong-wrong-wrong",
            "Bearer read-read-read-rea",
            "read-read-read-read",
            "Basic cmVhZA==",
        ] {
            let refused = ask(path, token).await;
            assert_eq!(
                (refused.status().as_u16(), &refused.headers()["www-authenticate"]),
                (401, &"Bearer".parse().unwrap())
            );
        }
        for token in [format!("Bearer {read}"), format!("bearer {write}")] {
            assert_ne!(ask(path, &token).await.status().as_u16(), 401, "{path}");
        }
    }
    assert_eq!(ask("/api/sync/push", &format!("Bearer {read}")).await.status().as_u16(), 403);
    assert_eq!(ask("/api/sync/push", "").await.status().as_u16(), 401);
    assert_eq!(ask("/api/sync/push", &format!("Bearer {write}")).await.status().as_u16(), 200);
    for path in ["/healthz", "/readyz"] {
        assert_eq!(ask(path, "").await.status().as_u16(), 200, "a load balancer has no token");
    }
    server.shutdown().await;
}

#[tokio::test]
async fn without_tokens_web_pages_of_other_sites_are_kept_out() {
    let server = start_memory("").await;
    let url = server.url();
    let ask = async |name: &'static str, value: &str| {
        get_status(Client::new().get(format!("{url}/api/sync/pull?since=0")).header(name, value)).await
    };
    assert_eq!(ask("Origin", "http://evil.example").await, 403);
    assert_eq!(ask("Origin", "null").await, 403);
    assert_eq!(ask("Host", "evil.example").await, 403, "a name that was made to point here");
    assert_eq!(ask("Origin", &url).await, 200, "its own page may ask");
    assert_eq!(ask("Host", "localhost:1").await, 200);
    // Requests that carry no origin: an image, a script, a link.
    for (site, status) in [("cross-site", 403), ("same-site", 403), ("same-origin", 200), ("none", 200)] {
        assert_eq!(ask("Sec-Fetch-Site", site).await, status, "{site}");
    }
    let push = Client::new()
        .post(format!("{url}/api/sync/push"))
        .json(&todos(0, 1))
        .header("Origin", "http://evil.example");
    assert_eq!(get_status(push).await, 403);
    server.shutdown().await;
}

async fn get_status(request: reqwest::RequestBuilder) -> u16 {
    request.send().await.unwrap().status().as_u16()
}

#[tokio::test]
async fn another_address_than_loopback_wants_tokens() {
    let start = async |config| {
        let listener = tokio::net::TcpListener::bind("0.0.0.0:0").await.unwrap();
        Server::start_on(listener, config).await
    };
    let config = common::config("--memory");
    let error = start(config.clone()).await.err().unwrap().to_string();
    assert!(error.contains("--read-token and --write-token"), "{error}");
    let config = config.with_read_token("read-read-read-read").with_write_token("write-write-write");
    start(config).await.unwrap().shutdown().await;
}

#[tokio::test]
async fn the_figures_are_those_of_what_happened() {
    for (server, _folder) in both("--capacity 500").await {
        let url = server.url();
        let base = base(&url).await;
        push(&url, &todos(0, 3)).await;
        push(&url, &todos(3, 4)).await;
        get(&url, &format!("/api/sync/pull?since={base}")).await;
        get(&url, "/api/sync/pull?since=99").await;
        let figures = get_text(&url, "/metrics").await;
        for line in [
            "ringlog_requests_total{route=\"push\",status=\"200\"} 2",
            "ringlog_log_appended_total 7",
            "ringlog_log_retained 7.0",
            "ringlog_capacity 500.0",
            "ringlog_commits_total 2",
            "ringlog_committed_changes_total 7",
            "ringlog_latency_samples{operation=\"push\"} 2.0",
            "ringlog_latency_samples{operation=\"visibility\"} 2.0",
            "ringlog_latency_seconds{operation=\"push\",quantile=\"0.999\"}",
            "ringlog_latency_seconds{operation=\"pull\",quantile=\"1\"}",
            "# EOF",
        ] {
            assert!(figures.contains(line), "{line} is not in\n{figures}");
        }
        assert_eq!(get_text(&url, "/readyz").await, "ready\n");
        server.shutdown().await;
    }
}

/// A push of text, as a client that writes JSON by hand sends it.
async fn push_text(url: &str, path: &str, body: &str) -> Answer {
    let request = Client::new().post(format!("{url}{path}")).header("Content-Type", "application/json");
    Answer::of(request.body(body.to_owned())).await
}

#[tokio::test]
async fn a_push_hands_out_no_resume_token_since_its_client_has_not_seen_what_others_pushed() {
    for (server, _folder) in both("").await {
        let url = server.url();
        push(&url, &todos(0, 1)).await;
        let pulled = get(&url, &format!("/api/sync/pull?since={}", base(&url).await - 1)).await;
        let token = pulled.header("ringlog-resume").unwrap().to_owned();
        push(&url, &todos(1, 3)).await;
        let own = push(&url, &todos(4, 1)).await;
        assert_eq!((own.status, own.header("ringlog-resume")), (200, None));
        let seen = get(&url, &format!("/api/sync/pull?resume={token}")).await;
        assert_eq!(seen.seqs().len(), 4, "what others pushed meanwhile, and its own");
        server.shutdown().await;
    }
}

#[tokio::test]
async fn a_snapshot_hands_out_its_resume_token_with_the_last_page_only() {
    for (server, _folder) in both("").await {
        let url = server.url();
        push(&url, &todos(0, 5)).await;
        let mut path = "/api/sync/snapshot?limit=2".to_owned();
        for rows in [2, 2, 1] {
            let page = get(&url, &path).await;
            assert_eq!(page.body["rows"].as_array().unwrap().len(), rows);
            assert_eq!(
                page.header("ringlog-resume").is_some(),
                rows == 1,
                "rows are missing before the last"
            );
            path =
                format!("/api/sync/snapshot?limit=2&page={}", page.body["next"].as_str().unwrap_or_default());
        }
        server.shutdown().await;
    }
}

#[tokio::test]
async fn an_answer_to_head_hands_out_no_resume_token_since_its_client_was_sent_nothing() {
    for (server, _folder) in both("").await {
        let url = server.url();
        push(&url, &todos(0, 3)).await;
        for path in ["pull?since=0", "snapshot", "live?since=0"] {
            let url = format!("{url}/api/sync/{path}");
            let head = reqwest::Client::new().head(&url).send().await.unwrap();
            let got = reqwest::get(&url).await.unwrap();
            assert_eq!((head.status(), got.status()), (reqwest::StatusCode::OK, reqwest::StatusCode::OK));
            let token = |answer: &reqwest::Response| answer.headers().contains_key("ringlog-resume");
            assert_eq!((token(&head), token(&got)), (false, true), "{path}");
        }
        server.shutdown().await;
    }
}

#[tokio::test]
async fn a_tag_of_an_earlier_history_is_never_answered_with_304() {
    let (first, second) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let args = |folder: &tempfile::TempDir| format!("--data {}", folder.path().display());
    let server = start(&args(&first)).await;
    push(&server.url(), &todos(0, 1)).await;
    server.shutdown().await;
    for entry in std::fs::read_dir(&first).unwrap() {
        let path = entry.unwrap().path();
        std::fs::copy(&path, second.path().join(path.file_name().unwrap())).unwrap();
    }
    let mut tags = Vec::new();
    for (folder, row) in [(&first, 5), (&second, 6)] {
        let server = start(&args(folder)).await;
        push(&server.url(), &todos(row, 1)).await;
        let page = format!("{}/api/sync/pull?since=1", server.url());
        let fresh = Answer::of(Client::new().get(&page)).await;
        let tag = fresh.header("etag").unwrap().to_owned();
        for known in &tags {
            let answer = Answer::of(Client::new().get(&page).header("If-None-Match", known)).await;
            assert_eq!(answer.status, 200, "these events are others");
        }
        for spelling in [tag.clone(), tag.trim_start_matches("W/").to_owned(), format!("\"x\",{tag}")] {
            let answer = Answer::of(Client::new().get(&page).header("If-None-Match", &spelling)).await;
            assert_eq!(answer.status, 304, "{spelling}");
        }
        tags.push(tag);
        server.shutdown().await;
    }
}

#[tokio::test]
async fn a_misspelt_or_doubled_key_is_refused_by_name_and_nothing_is_applied() {
    for (server, _folder) in both("").await {
        let url = server.url();
        let (change, object) = (r#""entity":"a","row_id":"b","kind":"insert""#, "which is an object");
        for (body, said) in [
            (
                format!(r#"{{"changes":[{{{change},"opId":"1"}}]}}"#),
                "unknown field `opId`, expected one of `entity`, `row_id`, `kind`, `data`, `op_id`",
            ),
            (format!(r#"{{"changes":[{{{change},"op\u0049d":"1"}}]}}"#), "unknown field `opId`"),
            (
                format!(r#"{{"changes":[{{{change}}}],"clientId":"c"}}"#),
                "unknown field `clientId`, expected `changes` or `client_id`",
            ),
            (format!(r#"{{"clientId":"c","changes":[{{{change}}}]}}"#), "unknown field `clientId`"),
            (format!(r#"{{"changes":[{{{change}}}],"op_id":"c"}}"#), "unknown field `op_id`"),
            (format!(r#"{{"changes":[{{{change},"client_id":"c"}}]}}"#), "changes[0]"),
            (format!(r#"{{"changes":[{{{change},"":1}}]}}"#), "unknown field ``"),
            (format!(r#"{{"changes":[{{{change},"op_id":"1","op_id":"2"}}]}}"#), "duplicate field `op_id`"),
            (format!(r#"{{"changes":[{{{change},"data":1,"d\u0061ta":2}}]}}"#), "duplicate field `data`"),
            (format!(r#"{{"changes":[{{{change},"op_id":null,"op_id":"2"}}]}}"#), "duplicate field `op_id`"),
            (format!(r#"{{"changes":[{{{change}}}],"changes":[]}}"#), "duplicate field `changes`"),
            (
                format!(r#"{{"client_id":null,"client_id":"c","changes":[{{{change}}}]}}"#),
                "duplicate field `client_id`",
            ),
            (r#"{"changes":[["a","b","insert",null,"1"]]}"#.to_owned(), object),
            (r#"{"changes":[null]}"#.to_owned(), object),
            (r#"{"changes":null}"#.to_owned(), "changes: invalid type: null"),
            (r#"{"changes":{"entity":"a"}}"#.to_owned(), "changes: invalid type: map"),
            (r#"[[{"entity":"a","row_id":"b","kind":"insert"}]]"#.to_owned(), "a push is an object"),
            (r#""changes""#.to_owned(), "expected an object"),
            (
                r#"{"changes":[{"entity":"a","row_id":"b","kind":{"insert":null}}]}"#.to_owned(),
                "changes[0].kind: invalid type",
            ),
            (
                r#"{"changes":[{"entity":["a"],"row_id":"b","kind":"insert"}]}"#.to_owned(),
                "changes[0].entity: invalid type",
            ),
            (format!(r#"{{"changes":[{{{change},"op_id":7}}]}}"#), "changes[0].op_id: invalid type"),
        ] {
            let refused = push_text(&url, "/api/sync/push", &body).await;
            assert_eq!((refused.status, refused.error().0), (400, "BAD_REQUEST"), "{body}: {}", refused.body);
            assert!(refused.error().1.contains(said), "{body}: {}", refused.body);
        }
        assert!(snapshot(&url, 10).await.unwrap().0.is_empty(), "nothing of all that was applied");
        server.shutdown().await;
    }
}

#[tokio::test]
async fn a_parameter_that_a_route_does_not_know_is_refused_on_every_route() {
    let server = start_memory("").await;
    let url = server.url();
    let one = todos(0, 1).to_string();
    let refused = push_text(&url, "/api/sync/push?client_id=c", &one).await;
    assert_eq!((refused.status, refused.error().0), (400, "BAD_REQUEST"));
    assert!(
        refused.error().1.contains("unknown parameter `client_id`: this route knows none"),
        "{}",
        refused.body
    );
    assert!(snapshot(&url, 10).await.unwrap().0.is_empty());
    for path in [
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
    ] {
        let refused = get(&url, &format!("{path}?sinse=1")).await;
        let of_socket = path.ends_with("/ws");
        assert!(
            of_socket || refused.error().1.contains("unknown parameter `sinse`"),
            "{path}: {}",
            refused.body
        );
        assert!((400..=426).contains(&refused.status), "{path}: {}", refused.status);
    }
    assert_eq!(get_status(Client::new().get(format!("{url}/healthz?"))).await, 200, "an empty query is none");
    server.shutdown().await;
}

#[tokio::test]
async fn a_server_alone_is_never_stale() {
    for (server, _folder) in both("").await {
        let url = server.url();
        assert_eq!(push(&url, &todos(0, 1)).await.status, 200);
        for path in ["/api/sync/pull?since=0&", "/api/sync/pull?wait=0.1&since=1&", "/api/sync/snapshot?"] {
            let answer = get(&url, &format!("{path}max_stale=0")).await;
            assert_eq!((answer.status, answer.header("ringlog-stale")), (200, None), "{path}");
        }
        let answer = Client::new().get(format!("{url}/api/sync/live?max_stale=0")).send().await.unwrap();
        assert_eq!((answer.status().as_u16(), answer.headers().get("ringlog-stale")), (200, None));
        drop(answer);
        server.shutdown().await;
    }
}

#[tokio::test]
async fn a_number_in_another_spelling_is_refused() {
    let server = start_memory("").await;
    for query in [
        "since=%2B5",
        "since=007",
        "since=-0",
        "since=5.0",
        "limit=%2B1",
        "limit=01",
        "wait=1e0",
        "wait=.5",
        "wait=%2B1",
        "wait=inf",
    ] {
        let refused = get(&server.url(), &format!("/api/sync/pull?{query}")).await;
        assert_eq!(refused.status, 400, "{query}");
    }
    server.shutdown().await;
}

#[tokio::test]
async fn the_limit_that_binds_is_the_one_that_is_named() {
    for (args, said) in [
        ("--op-ids 5", "5 changes (--op-ids), not 6"),
        ("--capacity 5", "5 changes (--capacity), not 6"),
        ("--max-changes 5", "5 changes (--max-changes), not 6"),
        ("--max-changes 5 --op-ids 5", "5 changes (--max-changes), not 6"),
    ] {
        let server = start_memory(args).await;
        let refused = push(&server.url(), &todos(0, 6)).await;
        assert_eq!((refused.status, refused.error().0), (413, "TOO_MANY_CHANGES"));
        assert!(refused.error().1.contains(said), "{}", refused.body);
        server.shutdown().await;
    }
}

#[tokio::test]
async fn a_message_repeats_no_more_than_an_excerpt_of_what_was_sent() {
    let server = start_memory("").await;
    let url = server.url();
    let long = "x".repeat(500_000);
    for body in [
        format!(r#"{{"changes":[{{"entity":"a","row_id":"b","kind":"{long}"}}]}}"#),
        format!(r#"{{"changes":[{{"entity":"a","row_id":"b","kind":"insert","{long}":1}}]}}"#),
        format!(r#"{{"changes":[{{"entity":"{long}","row_id":"b","kind":"insert"}}]}}"#),
        format!(r#"{{"{long}":1}}"#),
        format!(r#"{{"changes":"{long}"}}"#),
        format!(r#"{{"changes":["{long}"]}}"#),
        format!(r#""{long}""#),
    ] {
        let refused = push_text(&url, "/api/sync/push", &body).await;
        assert_eq!(refused.status, 400);
        assert!(refused.body.to_string().len() < 1000, "{} bytes", refused.body.to_string().len());
    }
    let path = format!("/api/sync/pull?{}=1", &long[..20_000]);
    assert!(get(&url, &path).await.body.to_string().len() < 1000);
    let path = format!("/api/sync/pull?resume={}", &long[..20_000]);
    assert!(get(&url, &path).await.body.to_string().len() < 1000);
    server.shutdown().await;
}

#[tokio::test]
async fn a_filtered_pull_goes_on_past_what_does_not_match() {
    for (server, _folder) in both("").await {
        let url = server.url();
        let base = base(&url).await;
        for turn in 0..3 {
            push(&url, &todos(turn * 1000, 1000)).await;
        }
        push(&url, &json!({"changes": [{"entity": "User", "row_id": "u", "kind": "insert"}]})).await;
        let found = get(&url, &format!("/api/sync/pull?since={base}&entity=User")).await;
        assert_eq!((found.seqs(), &found.body["has_more"]), (vec![base + 3001], &false.into()));
        let none = get(&url, &format!("/api/sync/pull?since={base}&entity=Nothing")).await;
        assert_eq!(
            (none.seqs().len(), &none.body["has_more"], none.last_seq()),
            (0, &false.into(), base + 3001)
        );
        server.shutdown().await;
    }
}

#[tokio::test]
async fn a_body_may_be_gzip_within_the_same_limits() {
    let pack = |text: &[u8]| {
        let mut packed = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::best());
        std::io::Write::write_all(&mut packed, text).unwrap();
        packed.finish().unwrap()
    };
    let server = start_memory("--max-body 100000").await;
    let url = server.url();
    let ask = async |encoding: &str, body: Vec<u8>| {
        let request =
            Client::new().post(format!("{url}/api/sync/push")).header("Content-Type", "application/json");
        Answer::of(request.header("Content-Encoding", encoding).body(body)).await
    };
    let good = todos(0, 3).to_string().into_bytes();
    for encoding in ["gzip", "x-gzip", "GZIP"] {
        assert_eq!(ask(encoding, pack(&good)).await.body["applied"], 3, "{encoding}");
    }
    assert_eq!(ask("identity", good.clone()).await.status, 200);
    let bomb = ask("gzip", pack(&vec![b' '; 50_000_000])).await;
    assert_eq!((bomb.status, bomb.error().0), (413, "BODY_TOO_LARGE"), "{}", bomb.body);
    let packed = pack(&good);
    for (body, what) in [
        (good.clone(), "not packed"),
        (packed[..packed.len() - 3].to_vec(), "cut off"),
        ([&packed[..], b"x"].concat(), "something after it"),
        ([&packed[..], &packed[..]].concat(), "two members"),
        (vec![], "nothing"),
    ] {
        assert_eq!(ask("gzip", body).await.status, 400, "{what}");
    }
    for encoding in ["br", "deflate", "zstd", "gzip, gzip", "chunked", ""] {
        let refused = ask(encoding, good.clone()).await;
        assert_eq!((refused.status, refused.error().0), (415, "UNSUPPORTED_MEDIA_TYPE"), "{encoding}");
        assert_eq!(refused.header("accept-encoding"), Some("gzip"));
    }
    server.shutdown().await;
}

#[tokio::test]
async fn what_was_applied_is_never_answered_as_not_acceptable() {
    let server = start_memory("").await;
    let url = server.url();
    let base = base(&url).await;
    let client = Client::builder().no_gzip().no_brotli().build().unwrap();
    for accepted in [
        "identity;q=0",
        "*;q=0",
        "identity;q=0.000, deflate",
        "*; q=0, zstd",
        "gzip;q=0, *;q=0",
        "nonsense;;;",
        "",
    ] {
        let request = client.post(format!("{url}/api/sync/push")).header("Accept-Encoding", accepted);
        let pushed = Answer::of(request.json(&todos(0, 40))).await;
        assert_eq!((pushed.status, &pushed.body["applied"]), (200, &40.into()), "{accepted}");
        let request =
            client.get(format!("{url}/api/sync/pull?since={base}")).header("Accept-Encoding", accepted);
        assert_eq!(Answer::of(request).await.status, 200, "{accepted}");
    }
    let request = client
        .get(format!("{url}/api/sync/pull?since={base}"))
        .header("Accept-Encoding", "identity;q=0, gzip");
    assert_eq!(Answer::of(request).await.header("content-encoding"), Some("gzip"));
    server.shutdown().await;
}
