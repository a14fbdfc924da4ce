//! What a server makes of the store it finds: one in use, one of another format, a torn or damaged
//! one. It refuses to start, says why, and leaves the file as it was; or it starts with all that
//! was acknowledged, and never with less.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use common::Server;
use common::clients::{Random, pull_all};
use common::{Rows, config, snapshot, todos};
use ringlog_server::{Config, ServerError, StoreError, run};
use std::fs;
use std::path::{Path, PathBuf};
use tokio::net::TcpListener;
use tokio::sync::oneshot;

const FILE: &str = "ringlog.redb";

fn config_in(folder: &Path) -> Config {
    config("--capacity 30 --op-ids 30 --drain 5").with_data(folder)
}

async fn start(folder: &Path) -> Result<Server, ServerError> {
    Server::start(config_in(folder)).await
}

/// A store with some rows, half of them deleted or changed, closed or as after `kill -9`. Answers
/// with its file's bytes and its rows.
async fn made(is_closed: bool) -> (Vec<u8>, Rows, String) {
    let folder = tempfile::tempdir().unwrap();
    let server = start(folder.path()).await.unwrap();
    for turn in 0..20 {
        let pushed = common::push(&server.url(), &todos(turn, 5)).await;
        assert_eq!(pushed.status, 200);
    }
    let (rows, token) = snapshot(&server.url(), 100).await.unwrap();
    if is_closed {
        server.shutdown().await;
        return (fs::read(folder.path().join(FILE)).unwrap(), rows, token);
    }
    let bytes = fs::read(folder.path().join(FILE)).unwrap();
    server.shutdown().await;
    (bytes, rows, token)
}

/// Puts a file where a store is looked for.
fn place(bytes: &[u8]) -> (tempfile::TempDir, PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join(FILE);
    fs::write(&file, bytes).unwrap();
    (folder, file)
}

/// Starts on these bytes. None if it refuses, having left them alone; else the rows, and where the
/// log stands.
async fn found(bytes: &[u8]) -> Option<(Rows, String)> {
    let (folder, file) = place(bytes);
    // A copy, but the file may just as well have been damaged where it was.
    match Server::start(config_in(folder.path()).with_adopt(true)).await {
        Ok(server) => {
            let url = server.url();
            let found = snapshot(&url, 100).await;
            let pulled = common::get(&url, "/api/sync/pull?since=90").await;
            assert_eq!(pulled.seqs(), (91..=100).collect::<Vec<_>>());
            server.shutdown().await;
            Some(found.unwrap())
        }
        Err(error) => {
            let ServerError::Store(StoreError::Damaged { .. }) = &error else { panic!("{error}") };
            assert!(
                error.to_string().contains(FILE) && error.to_string().contains("left as it is"),
                "{error}"
            );
            assert!(fs::read(&file).unwrap() == bytes, "it was written to");
            None
        }
    }
}

#[tokio::test]
async fn a_whole_store_is_taken_closed_or_not() {
    for is_closed in [true, false] {
        let (bytes, rows, token) = made(is_closed).await;
        assert_eq!(found(&bytes).await, Some((rows, token)), "closed: {is_closed}");
    }
}

#[tokio::test]
async fn a_torn_store_is_refused_and_left_alone() {
    for is_closed in [true, false] {
        let (bytes, rows, token) = made(is_closed).await;
        for cut in [0, 1, 8, 100, 511, 4096, 10_000, bytes.len() / 2] {
            assert_eq!(found(&bytes[..cut]).await, None, "cut to {cut} of {}", bytes.len());
        }
        // The last page may be a free one, and then nothing is missing.
        for cut in [bytes.len() - 4096, bytes.len() - 1] {
            if let Some(whole) = found(&bytes[..cut]).await {
                assert_eq!(whole, (rows.clone(), token.clone()), "cut to {cut} of {}", bytes.len());
            }
        }
    }
}

#[tokio::test]
async fn what_is_no_store_is_refused_and_left_alone() {
    assert_eq!(found(b"not a database at all").await, None);
    assert_eq!(found(&vec![0; 100_000]).await, None);
    let mut random = Random(11);
    let noise: Vec<u8> = (0..1_000_000).map(|_| random.below(256) as u8).collect();
    assert_eq!(found(&noise).await, None);
}

/// Whichever byte is damaged: either it is noticed, or it was of no importance.
#[tokio::test]
async fn a_damaged_store_is_refused_or_whole() {
    let deep = std::env::var_os("RINGLOG_SERVER_DEEP").is_some();
    for is_closed in [true, false] {
        let (bytes, rows, token) = made(is_closed).await;
        let mut random = Random(5);
        // Pages that hold something; most of the file is room.
        let used: Vec<usize> = (0..bytes.len() / 4096)
            .filter(|page| bytes[page * 4096..][..4096].iter().any(|&byte| byte != 0))
            .collect();
        let mut refused = 0;
        let most = if deep { 3000 } else { 60 };
        for _ in 0..most {
            let page = used[random.below(used.len())] * 4096;
            let held = bytes[page..][..4096].iter().rposition(|&byte| byte != 0).unwrap();
            let at = page + random.below(held + 1);
            let mut damaged = bytes.clone();
            damaged[at] ^= 1 << random.below(8);
            match found(&damaged).await {
                None => refused += 1,
                Some(found) => assert_eq!(found, (rows.clone(), token.clone()), "byte {at}"),
            }
        }
        assert!(refused > 0, "not one of {most} damages was noticed");
        println!("closed: {is_closed}; {refused} of {most} refused, the others of no importance");
    }
}

#[tokio::test]
async fn a_store_of_another_format_is_refused_by_name() {
    let folder = tempfile::tempdir().unwrap();
    start(folder.path()).await.unwrap().shutdown().await;
    let file = folder.path().join(FILE);
    {
        let database = redb::Database::open(&file).unwrap();
        let transaction = database.begin_write().unwrap();
        let meta = redb::TableDefinition::<&str, &[u8]>::new("meta");
        transaction.open_table(meta).unwrap().insert("format", &7_u64.to_be_bytes()[..]).unwrap();
        transaction.commit().unwrap();
    }
    let before = fs::read(&file).unwrap();
    let error = start(folder.path()).await.unwrap_err();
    assert!(error.to_string().contains("has format 7, and this server reads formats up to 3"), "{error}");
    let mut backup = std::process::Command::new(env!("CARGO_BIN_EXE_ringlog-server"));
    let said =
        backup.arg("backup").arg(folder.path()).arg("--to").arg(folder.path().join("b")).output().unwrap();
    assert!(String::from_utf8_lossy(&said.stderr).contains("has format 7"), "{said:?}");
    assert!(fs::read(&file).unwrap() == before);
}

#[tokio::test]
async fn a_store_that_lacks_a_table_is_refused_by_the_tables_name() {
    let folder = tempfile::tempdir().unwrap();
    start(folder.path()).await.unwrap().shutdown().await;
    {
        let database = redb::Database::open(folder.path().join(FILE)).unwrap();
        let transaction = database.begin_write().unwrap();
        assert!(transaction.delete_table(redb::TableDefinition::<u64, u64>::new("events")).unwrap());
        transaction.commit().unwrap();
    }
    let error = start(folder.path()).await.unwrap_err().to_string();
    assert!(error.contains("is damaged") && error.contains("'events'"), "{error}");
}

#[tokio::test]
async fn a_second_server_on_the_same_data_does_not_start() {
    let folder = tempfile::tempdir().unwrap();
    let first = start(folder.path()).await.unwrap();
    let error = start(folder.path()).await.unwrap_err();
    assert!(error.to_string().contains("in use by another server"), "{error}");
    assert_eq!(common::push(&first.url(), &todos(0, 1)).await.status, 200, "the first one goes on");
    first.shutdown().await;
    start(folder.path()).await.unwrap().shutdown().await;
}

#[tokio::test]
async fn a_log_goes_on_with_its_seqs_kinds_timestamps_and_op_ids() {
    let folder = tempfile::tempdir().unwrap();
    let server = start(folder.path()).await.unwrap();
    let mut request = todos(0, 3);
    for (n, change) in request["changes"].as_array_mut().unwrap().iter_mut().enumerate() {
        change["op_id"] = format!("op-{n}").into();
        change["kind"] = ["insert", "update", "delete"][n].into();
    }
    common::push(&server.url(), &request).await;
    let before = common::get(&server.url(), "/api/sync/pull").await;
    let token = before.header("ringlog-resume").unwrap().to_owned();
    server.shutdown().await;

    let server = start(folder.path()).await.unwrap();
    let after = common::get(&server.url(), "/api/sync/pull").await;
    assert_eq!(after.body, before.body, "kinds, timestamps and all");
    assert_eq!(after.body["changes"][2]["kind"], "delete");
    assert_eq!(after.header("etag"), before.header("etag"));
    let again = common::push(&server.url(), &request).await;
    assert_eq!((&again.body["deduped"], &again.body["cursor"]["last_seq"]), (&3.into(), &3.into()));
    assert_eq!(again.body["results"][2]["seq"], 3);
    let next = common::push(&server.url(), &todos(9, 1)).await;
    assert_eq!(next.last_seq(), 4);
    let resumed = common::get(&server.url(), &format!("/api/sync/pull?resume={token}")).await;
    assert_eq!(resumed.seqs(), [4]);
    server.shutdown().await;
}

/// The window and the memory of op ids are trimmed on disk to just what the log keeps.
#[tokio::test]
async fn what_has_left_the_window_is_not_kept_on_disk() {
    let folder = tempfile::tempdir().unwrap();
    let server = start(folder.path()).await.unwrap();
    let push = async |url: &str, turn: usize| {
        let mut request = todos(turn * 7, 7);
        for (n, change) in request["changes"].as_array_mut().unwrap().iter_mut().enumerate() {
            change["op_id"] = format!("{turn}-{n}").into();
        }
        common::push(url, &request).await
    };
    for turn in 0..10 {
        push(&server.url(), turn).await;
    }
    server.shutdown().await;
    {
        use redb::ReadableTableMetadata;
        let database = redb::Database::open(folder.path().join(FILE)).unwrap();
        let transaction = redb::ReadableDatabase::begin_read(&database).unwrap();
        for name in ["events", "operations"] {
            let untyped =
                transaction.open_untyped_table(redb::TableDefinition::<u64, u64>::new(name)).unwrap();
            assert_eq!(untyped.len().unwrap(), 30, "{name}");
        }
    }
    let server = start(folder.path()).await.unwrap();
    let refused = common::get(&server.url(), "/api/sync/pull?since=39&history=full").await;
    assert_eq!((refused.status, &refused.body["error"]["oldest_seq"]), (410, &41.into()));
    assert_eq!(common::get(&server.url(), "/api/sync/pull?since=40").await.seqs().len(), 30);
    assert_eq!(push(&server.url(), 9).await.body["deduped"], 7, "remembered");
    assert_eq!(push(&server.url(), 1).await.body["deduped"], 0, "forgotten long ago");
    server.shutdown().await;
}

/// A store of a gigabyte takes seconds to verify. Clients and supervisors see a server that is
/// there and asks for patience.
#[tokio::test]
async fn before_its_store_is_verified_a_server_listens_and_says_so() {
    let folder = tempfile::tempdir().unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let ((stop, stopped), (tell, ready)) = (oneshot::channel::<()>(), oneshot::channel());
    let shutdown = async { stopped.await.unwrap() };
    let server = run(listener, shutdown, config_in(folder.path())).on_ready(move || tell.send(()).unwrap());
    // It listens once it is polled, and goes on when it is polled again, however soon the store is
    // open.
    let mut server = server.into_future();
    assert!(futures_util::poll!(server.as_mut()).is_pending());
    // One client for all, so that its connection is older than the routes.
    let client = reqwest::Client::new();
    let get = async |path: &str| common::Answer::of(client.get(format!("{url}{path}"))).await;
    assert_eq!(get("/healthz").await.status, 200);
    for path in
        ["/readyz", "/api/sync/pull", "/api/sync/snapshot", "/api/sync/live", "/api/stats", "/metrics", "/"]
    {
        let refused = get(path).await;
        assert_eq!((refused.status, refused.error().0), (503, "STARTING"), "{path}");
        assert!(refused.error().1.contains("verifying"), "{path}: {}", refused.body);
        assert_eq!(refused.header("retry-after"), Some("1"), "{path}");
    }
    // An EventSource would give up for good at any status but 200.
    let stream = client.get(format!("{url}/api/sync/live")).header("Accept", "text/event-stream");
    let stream = stream.send().await.unwrap();
    assert_eq!(
        (stream.status().as_u16(), stream.headers()["content-type"].as_bytes()),
        (200, &b"text/event-stream"[..])
    );
    let said = stream.text().await.unwrap();
    assert!(said.starts_with("event: unavailable\nretry: ") && said.contains("STARTING"), "{said}");
    let refused = common::push(&url, &todos(0, 1)).await;
    assert_eq!((refused.status, refused.error().0), (503, "STARTING"));
    let server = tokio::spawn(server);
    ready.await.unwrap();
    assert_eq!(get("/readyz").await.status, 200);
    assert_eq!(get("/api/sync/pull").await.seqs(), [0; 0], "what was refused is not applied");
    stop.send(()).unwrap();
    server.await.unwrap().unwrap();
}

/// A server that cannot use its store lets go of its address.
#[tokio::test]
async fn a_refused_store_frees_the_address() {
    let (folder, _) = place(b"not a database at all");
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    Server::start_on(listener, config_in(folder.path())).await.err().unwrap();
    std::net::TcpListener::bind(address).unwrap();
}

/// Makes what format 2 was of a store that is stopped.
fn to_format_2(file: &Path) {
    use redb::TableDefinition;
    let database = redb::Database::open(file).unwrap();
    let transaction = database.begin_write().unwrap();
    {
        let mut meta = transaction.open_table(TableDefinition::<&str, &[u8]>::new("meta")).unwrap();
        meta.insert("format", &2_u64.to_be_bytes()[..]).unwrap();
        meta.remove("oldest_compacted_seq").unwrap();
    }
    for table in ["history", "history_by_entity", "deleted", "tombstones"] {
        assert!(transaction.delete_table(TableDefinition::<u64, u64>::new(table)).unwrap());
    }
    transaction.commit().unwrap();
}

/// Makes what format 1 was of a store that is stopped.
fn to_format_1(file: &Path) {
    use redb::{ReadableTable, TableDefinition};
    type Id = (Option<&'static str>, &'static str);
    type Operation = (Option<&'static str>, &'static str, Option<u64>);
    to_format_2(file);
    let (meta, op_ids) =
        (TableDefinition::<&str, &[u8]>::new("meta"), TableDefinition::<u64, Id>::new("op_ids"));
    let operations = TableDefinition::<u64, Operation>::new("operations");
    let database = redb::Database::open(file).unwrap();
    let transaction = database.begin_write().unwrap();
    {
        let (after, mut before) =
            (transaction.open_table(operations).unwrap(), transaction.open_table(op_ids).unwrap());
        for entry in after.iter().unwrap() {
            let (seq, operation) = entry.unwrap();
            let (client_id, op_id, _) = operation.value();
            before.insert(seq.value(), (client_id, op_id)).unwrap();
        }
        let mut meta = transaction.open_table(meta).unwrap();
        meta.insert("format", &1_u64.to_be_bytes()[..]).unwrap();
        meta.remove("identity").unwrap();
    }
    transaction.delete_table(operations).unwrap();
    transaction.commit().unwrap();
}

fn run_command(args: [&std::ffi::OsStr; 4]) {
    let output =
        std::process::Command::new(env!("CARGO_BIN_EXE_ringlog-server")).args(args).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

fn with_op_id(op_id: &str, n: usize) -> serde_json::Value {
    let mut request = todos(n, 1);
    request["client_id"] = "phone".into();
    request["changes"][0]["op_id"] = op_id.into();
    request
}

/// What was deleted before its window is not known: a client that stands there begins anew.
#[tokio::test]
async fn a_store_of_format_2_gets_a_history_of_its_rows() {
    for is_restored in [false, true] {
        let folder = tempfile::tempdir().unwrap();
        let server = start(folder.path()).await.unwrap();
        for n in 0..40 {
            common::push(&server.url(), &todos(n, 1)).await;
        }
        let delete = |n| serde_json::json!({"changes": [{"entity": "Todo", "row_id": format!("row-{n}"), "kind": "delete"}]});
        common::push(&server.url(), &delete(2)).await;
        let (rows, _) = snapshot(&server.url(), 100).await.unwrap();
        server.shutdown().await;
        to_format_2(&folder.path().join(FILE));
        let mut data = folder.path().to_owned();
        if is_restored {
            let (file, restored) = (folder.path().join("file"), folder.path().join("restored"));
            run_command(["backup".as_ref(), folder.path().as_ref(), "--to".as_ref(), file.as_ref()]);
            run_command(["restore".as_ref(), file.as_ref(), "--data".as_ref(), restored.as_ref()]);
            data = restored;
        }
        for _ in 0..2 {
            let server = start(&data).await.unwrap();
            let url = server.url();
            let mut pulled = common::Rows::new();
            let changes = pull_all(&url, 0).await;
            for change in &changes {
                common::fold(&mut pulled, change);
            }
            assert_eq!((changes.len(), pulled), (40, rows.clone()), "39 rows, and a delete");
            // The window begins at 12.
            let refused = common::get(&url, "/api/sync/pull?since=10").await;
            assert_eq!((refused.status, &refused.body["error"]["reason"]), (410, &"compacted".into()));
            assert_eq!(refused.body["error"]["oldest_seq"], 12);
            server.shutdown().await;
        }
        // A delete that was in the window then is told when it has left it.
        let server = start(&data).await.unwrap();
        for n in 100..140 {
            common::push(&server.url(), &todos(n, 1)).await;
        }
        let page = common::get(&server.url(), "/api/sync/pull?since=39&limit=2").await;
        let change =
            |n: usize| (page.body["changes"][n]["seq"].as_u64(), page.body["changes"][n]["kind"].clone());
        assert_eq!(change(0), (Some(40), "insert".into()));
        assert_eq!(change(1), (Some(41), "delete".into()));
        server.shutdown().await;
    }
}

#[tokio::test]
async fn a_store_of_format_1_is_converted_and_goes_on() {
    let folder = tempfile::tempdir().unwrap();
    let server = start(folder.path()).await.unwrap();
    for n in 0..40 {
        common::push(&server.url(), &with_op_id(&n.to_string(), n)).await;
    }
    let (rows, token) = snapshot(&server.url(), 100).await.unwrap();
    server.shutdown().await;
    to_format_1(&folder.path().join(FILE));
    for _ in 0..2 {
        let server = start(folder.path()).await.unwrap();
        assert_eq!(
            snapshot(&server.url(), 100).await.unwrap(),
            (rows.clone(), token.clone()),
            "the same log"
        );
        let again = common::push(&server.url(), &with_op_id("39", 39)).await;
        assert_eq!(again.body["deduped"], 1, "{}", again.body);
        // What it was used for is not known.
        let other = common::push(&server.url(), &with_op_id("38", 7)).await;
        assert_eq!(other.body["deduped"], 1, "{}", other.body);
        server.shutdown().await;
    }
}

/// What has no room is not converted by halves: with room again it is the same log.
#[cfg(unix)]
#[tokio::test]
async fn a_store_of_format_1_without_room_to_be_converted_is_converted_later() {
    let folder = tempfile::tempdir().unwrap();
    let server = start(folder.path()).await.unwrap();
    for n in 0..40 {
        common::push(&server.url(), &with_op_id(&n.to_string(), n)).await;
    }
    let (rows, token) = snapshot(&server.url(), 100).await.unwrap();
    server.shutdown().await;
    to_format_1(&folder.path().join(FILE));
    let output = std::process::Command::new("sh")
        .args(["-c", "ulimit -f 10; exec \"$0\" --listen 127.0.0.1:0 --data \"$1\""])
        .arg(env!("CARGO_BIN_EXE_ringlog-server"))
        .arg(folder.path())
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success() && said.contains("ringlog.redb: File too large"), "{said}");
    let server = start(folder.path()).await.unwrap();
    assert_eq!(snapshot(&server.url(), 100).await.unwrap(), (rows, token), "the same log");
    let again = common::push(&server.url(), &with_op_id("39", 39)).await;
    assert_eq!(again.body["deduped"], 1, "{}", again.body);
    server.shutdown().await;
}

/// It is taken before the new server is tried.
#[tokio::test]
async fn a_store_of_format_1_is_backed_up_with_its_op_ids() {
    let folder = tempfile::tempdir().unwrap();
    let server = start(folder.path()).await.unwrap();
    for n in 0..40 {
        common::push(&server.url(), &with_op_id(&n.to_string(), n)).await;
    }
    let (rows, _) = snapshot(&server.url(), 100).await.unwrap();
    server.shutdown().await;
    to_format_1(&folder.path().join(FILE));
    let (file, restored) = (folder.path().join("file"), folder.path().join("restored"));
    run_command(["backup".as_ref(), folder.path().as_ref(), "--to".as_ref(), file.as_ref()]);
    run_command(["restore".as_ref(), file.as_ref(), "--data".as_ref(), restored.as_ref()]);
    let server = start(&restored).await.unwrap();
    assert_eq!(snapshot(&server.url(), 100).await.unwrap().0, rows);
    let again = common::push(&server.url(), &with_op_id("39", 39)).await;
    assert_eq!(again.body["deduped"], 1, "{}", again.body);
    server.shutdown().await;
}

#[tokio::test]
async fn an_op_id_that_comes_with_another_change_is_refused_after_a_restart_as_well() {
    let folder = tempfile::tempdir().unwrap();
    let server = start(folder.path()).await.unwrap();
    common::push(&server.url(), &with_op_id("1", 1)).await;
    server.shutdown().await;
    let server = start(folder.path()).await.unwrap();
    let again = common::push(&server.url(), &with_op_id("1", 1)).await;
    assert_eq!(again.body["deduped"], 1, "{}", again.body);
    let other = common::push(&server.url(), &with_op_id("1", 2)).await;
    assert_eq!(other.body["results"][0]["error"], "op_id `1` was used for another change (seq 1)");
    assert_eq!(common::get(&server.url(), "/api/sync/pull").await.seqs(), [1]);
    server.shutdown().await;
}

/// A row of so many bytes of text, all told.
fn sized(n: usize, bytes: usize) -> serde_json::Value {
    let row_id = format!("row-{n:04}");
    // The entity, the row id, and the quotes of the data.
    let data = "x".repeat(bytes - 4 - row_id.len() - 2);
    serde_json::json!({"changes": [{"entity": "Todo", "row_id": row_id, "kind": "insert", "data": data}]})
}

#[tokio::test]
async fn the_window_keeps_to_its_bytes_in_memory_and_on_disk() {
    let folder = tempfile::tempdir().unwrap();
    let args = "--capacity 100 --max-changes 10 --max-body 2000 --window-bytes 4000";
    let config = || config(args).with_data(folder.path());
    let server = Server::start(config()).await.unwrap();
    for n in 0..20 {
        assert_eq!(common::push(&server.url(), &sized(n, 1000)).await.status, 200);
    }
    let kept = async |server: &Server, oldest: u64, last: u64| {
        let url = server.url();
        let pulled = common::get(&url, &format!("/api/sync/pull?since={}", oldest - 1)).await;
        assert_eq!(pulled.seqs(), (oldest..=last).collect::<Vec<_>>());
        let refused = common::get(&url, &format!("/api/sync/pull?history=full&since={}", oldest - 2)).await;
        assert_eq!((refused.status, &refused.body["error"]["reason"]), (410, &"evicted".into()));
    };
    kept(&server, 17, 20).await;
    server.shutdown().await;
    let server = Server::start(config()).await.unwrap();
    kept(&server, 17, 20).await;
    // Five smaller ones have room.
    for n in 20..25 {
        common::push(&server.url(), &sized(n, 800)).await;
    }
    kept(&server, 21, 25).await;
    server.shutdown().await;
    {
        use redb::ReadableTableMetadata;
        let database = redb::Database::open(folder.path().join(FILE)).unwrap();
        let transaction = redb::ReadableDatabase::begin_read(&database).unwrap();
        let untyped =
            transaction.open_untyped_table(redb::TableDefinition::<u64, u64>::new("events")).unwrap();
        assert_eq!(untyped.len().unwrap(), 5);
    }
    // A narrower window takes the youngest of what is there.
    let server = Server::start(config().with_window_bytes(2000)).await.unwrap();
    kept(&server, 24, 25).await;
    server.shutdown().await;
    let error = Server::start(config().with_window_bytes(1999)).await.unwrap_err();
    assert!(
        error.to_string().contains("--window-bytes is 1999: the minimum is --max-body, which is 2000"),
        "{error}"
    );
}

/// In memory the rows are not folded from the log: what the window is too small for is in them all
/// the same.
#[tokio::test(flavor = "multi_thread")]
async fn large_changes_do_not_outrun_the_rows_in_memory() {
    let server = common::start_memory("--window-bytes 1048576 --max-wait 1").await;
    let url = server.url();
    let pushing: Vec<_> = (0..8)
        .map(|client| {
            let url = url.clone();
            tokio::spawn(async move {
                for n in 0..40 {
                    let pushed = common::push(&url, &sized(client * 40 + n, 500_000)).await;
                    assert_eq!(pushed.status, 200, "{}", pushed.body);
                }
            })
        })
        .collect();
    for one in pushing {
        one.await.unwrap();
    }
    assert_eq!(snapshot(&url, 1000).await.unwrap().0.len(), 320, "no change was missed");
    server.shutdown().await;
}
