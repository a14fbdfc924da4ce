//! What a client pushes is what readers get, byte for byte: through the log, the store, a restart,
//! pull, snapshot and live streams.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use common::Server;
use common::{HANG, start, start_memory};
use futures_util::StreamExt;
use proptest::prelude::*;
use serde::Deserialize;
use serde_json::value::RawValue;
use std::time::Duration;

/// Texts that a parser that builds values would change, or refuse.
const TEXTS: &[&str] = &[
    "null",
    "-0",
    "-0.0",
    "0.1000",
    "1E+2",
    "1e400",
    "12345678901234567890123456789012345678901234567890",
    "-9223372036854775809",
    "3.141592653589793238462643383279502884197",
    r#"{"b":1,"a":2,"b":3}"#,
    r#"{"":null,"":{"":null}}"#,
    "{ \"a\" :\t[ 1 ,\n\r\n 2 ] }",
    r#""\u0041\/\u00e9\ud83d\ude00\ud800\udfff""#,
    "\"\u{2028}\u{7f}é😀\"",
    r#"{"$serde_json::private::RawValue":"[1]"}"#,
    r#"{"$serde_json::private::Number":"1"}"#,
    "[]",
    "\"\"",
];

#[derive(Deserialize)]
struct Page<'a> {
    #[serde(borrow, alias = "rows")]
    changes: Vec<Event<'a>>,
}

#[derive(Deserialize)]
struct Event<'a> {
    row_id: String,
    #[serde(default, borrow, deserialize_with = "present")]
    data: Option<&'a RawValue>,
}

fn present<'de, D: serde::Deserializer<'de>>(input: D) -> Result<Option<&'de RawValue>, D::Error> {
    <&RawValue>::deserialize(input).map(Some)
}

/// The data of a page, in the order of the row ids, which are numbers.
fn data_of(page: &str) -> Vec<Option<String>> {
    let page: Page<'_> = serde_json::from_str(page).unwrap();
    let mut events = page.changes;
    events.sort_by_key(|event| event.row_id.parse::<usize>().unwrap());
    events.iter().map(|event| event.data.map(|data| data.get().to_owned())).collect()
}

/// A push of one row for each text; the last one has none.
fn body(texts: &[String]) -> String {
    let with = texts
        .iter()
        .enumerate()
        .map(|(row, text)| format!(r#"{{"entity":"E","row_id":"{row}","kind":"insert","data": {text} }}"#));
    let without = format!(r#"{{"entity":"E","row_id":"{}","kind":"insert"}}"#, texts.len());
    format!(r#"{{"changes":[{}]}}"#, with.chain([without]).collect::<Vec<_>>().join(","))
}

async fn text(url: String) -> String {
    let answer = reqwest::get(url).await.unwrap();
    assert_eq!(answer.status(), 200);
    answer.text().await.unwrap()
}

async fn push_text(server: &Server, body: String) -> reqwest::Response {
    let request = reqwest::Client::new().post(format!("{}/api/sync/push", server.url()));
    request.header("Content-Type", "application/json").body(body).send().await.unwrap()
}

/// The data of the first event `changes` of a stream, as server-sent events join their lines.
async fn live_data(server: &Server, since: u64) -> String {
    let stream = reqwest::get(format!("{}/api/sync/live?since={since}", server.url())).await.unwrap();
    let mut chunks = stream.bytes_stream();
    let mut received = Vec::new();
    let wanted = async {
        loop {
            received.extend(chunks.next().await.unwrap().unwrap());
            // A chunk may end within a character.
            let lines = String::from_utf8_lossy(&received).replace("\r\n", "\n").replace('\r', "\n");
            if let Some((_, block)) = lines.split_once("event: changes\n")
                && let Some((block, _)) = block.split_once("\n\n")
            {
                let data = block.lines().filter_map(|line| line.strip_prefix("data:"));
                return data
                    .map(|line| line.strip_prefix(' ').unwrap_or(line))
                    .collect::<Vec<_>>()
                    .join("\n");
            }
        }
    };
    tokio::time::timeout(HANG, wanted).await.expect("an event")
}

fn expected(texts: &[String]) -> Vec<Option<String>> {
    texts.iter().cloned().map(Some).chain([None]).collect()
}

async fn come_back(texts: &[String]) {
    let folder = tempfile::tempdir().unwrap();
    let args = format!("--data {}", folder.path().display());
    let server = start(&args).await;
    let pushed = push_text(&server, body(texts)).await;
    assert_eq!(pushed.status(), 200, "{}", pushed.text().await.unwrap());
    let pull = |server: &Server| text(format!("{}/api/sync/pull?since=0&limit=1000", server.url()));
    assert_eq!(data_of(&pull(&server).await), expected(texts), "pulled");
    // The standard has one kind of line break.
    let lines = |data: Vec<Option<String>>| -> Vec<_> {
        data.into_iter().map(|data| data.map(|data| data.replace("\r\n", "\n").replace('\r', "\n"))).collect()
    };
    assert_eq!(lines(data_of(&live_data(&server, 0).await)), lines(expected(texts)), "live");
    server.shutdown().await;

    let server = start(&args).await;
    assert_eq!(data_of(&pull(&server).await), expected(texts), "pulled after a restart");
    let rows = text(format!("{}/api/sync/snapshot?limit=1000", server.url())).await;
    assert_eq!(data_of(&rows), expected(texts), "in the snapshot");
    server.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn data_that_a_parser_would_change_comes_back_as_it_was_pushed() {
    let texts: Vec<_> = TEXTS.iter().map(|text| (*text).to_owned()).collect();
    come_back(&texts).await;
    let server = start_memory("").await;
    let base = common::get(&server.url(), "/api/sync/snapshot").await.last_seq();
    assert_eq!(push_text(&server, body(&texts)).await.status(), 200);
    let pulled = text(format!("{}/api/sync/pull?since={base}", server.url())).await;
    assert_eq!(data_of(&pulled), expected(&texts));
    let rows = text(format!("{}/api/sync/snapshot", server.url())).await;
    assert_eq!(data_of(&rows), expected(&texts), "the rows in memory");
    server.shutdown().await;
}

/// The page in the first message `changes` of a WebSocket.
async fn socket_page(server: &Server) -> String {
    let url = format!("{}/api/sync/ws?since=0", server.url().replace("http", "ws"));
    let (mut socket, _) = tokio_tungstenite::connect_async(url).await.unwrap();
    let page = async {
        loop {
            let message = socket.next().await.unwrap().unwrap().into_text().unwrap();
            if let Some((_, page)) = message.split_once(r#","data":{"changes":"#) {
                return format!(r#"{{"changes":{}"#, page.strip_suffix('}').unwrap());
            }
        }
    };
    tokio::time::timeout(HANG, page).await.expect("changes")
}

async fn packed_page(server: &Server) -> String {
    let client = reqwest::Client::builder().no_gzip().build().unwrap();
    let request = client.get(format!("{}/api/sync/pull", server.url()));
    let packed = request.header("Accept-Encoding", "gzip").send().await.unwrap();
    assert_eq!(packed.headers()["content-encoding"], "gzip");
    let mut page = String::new();
    let packed = packed.bytes().await.unwrap();
    std::io::Read::read_to_string(&mut flate2::read::GzDecoder::new(&*packed), &mut page).unwrap();
    page
}

#[tokio::test(flavor = "multi_thread")]
async fn data_comes_back_over_a_web_socket_from_a_packed_answer_and_from_a_backup() {
    let texts: Vec<_> = TEXTS.iter().map(|text| (*text).to_owned()).collect();
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name).display().to_string();
    let server = start(&format!("--data {}", path("data"))).await;
    assert_eq!(push_text(&server, body(&texts)).await.status(), 200);
    assert_eq!(data_of(&socket_page(&server).await), expected(&texts), "a WebSocket");
    assert_eq!(data_of(&packed_page(&server).await), expected(&texts), "gzip");
    let (url, backup, restored) = (server.url(), path("backup"), path("restored"));
    for args in [["backup", &url, "--to", &backup], ["restore", &backup, "--data", &restored]] {
        let mut program = tokio::process::Command::new(env!("CARGO_BIN_EXE_ringlog-server"));
        assert!(program.args(args).status().await.unwrap().success(), "{args:?}");
    }
    server.shutdown().await;
    let server = start(&format!("--data {restored}")).await;
    for route in ["pull", "snapshot"] {
        let page = text(format!("{}/api/sync/{route}", server.url())).await;
        assert_eq!(data_of(&page), expected(&texts), "{route} of what was restored");
    }
    server.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_body_full_of_numbers_is_answered_with_no_more_bytes_than_it_had() {
    let server = start_memory("").await;
    let base = common::get(&server.url(), "/api/sync/snapshot").await.last_seq();
    for item in ["1e15", r#"{"":0}"#] {
        let count = 900_000 / (item.len() + 1);
        let texts = [format!("[{}]", vec![item; count].join(","))];
        assert_eq!(push_text(&server, body(&texts)).await.status(), 200);
    }
    let page = text(format!("{}/api/sync/pull?since={base}", server.url())).await;
    assert!(page.len() < 2_000_000, "{}", page.len());
    server.shutdown().await;
}

#[tokio::test]
async fn data_may_be_nested_as_deep_as_every_reader_can_parse_in_a_page() {
    let server = start_memory("").await;
    let base = common::get(&server.url(), "/api/sync/snapshot").await.last_seq();
    let nested = |depth: usize| {
        format!("{}{}", "[{\"a[\\\"\":".repeat(depth / 2), "0".to_owned() + &"}]".repeat(depth / 2))
    };
    assert_eq!(push_text(&server, body(&[nested(120)])).await.status(), 200);
    for depth in [122, 100_000] {
        let refused = push_text(&server, body(&[nested(depth)])).await;
        assert_eq!(refused.status(), 400);
        let said = refused.text().await.unwrap();
        assert!(said.contains("changes[0].data: may be nested 120 deep"), "{said}");
    }
    // The deepest frame: one more level than a page has.
    let page = text(format!("{}/api/sync/pull?since={base}", server.url())).await;
    let frame = format!(r#"{{"event":"changes","data":{page}}}"#);
    serde_json::from_str::<serde_json::Value>(&frame).expect("a parser with a limit of 127 reads it");
    server.shutdown().await;
}

#[tokio::test]
async fn what_is_no_json_or_no_utf8_is_refused_with_the_place() {
    let server = start_memory("").await;
    for (data, said) in [
        ("01", "changes[0].data"),
        ("1.", "changes[0].data"),
        ("+1", "changes[0].data"),
        (".5", "changes[0].data"),
        ("NaN", "changes[0].data"),
        ("'a'", "changes[0].data"),
        ("[1,]", "changes[0].data"),
        ("\"\\x\"", "changes[0].data"),
        ("\"\\u12\"", "changes[0].data"),
        ("\"a\nb\"", "changes[0].data"),
        ("{\"a\":1,}", "changes[0].data"),
        ("1 2", "changes[0]"),
        ("\u{feff}1", "changes[0].data"),
    ] {
        let refused = push_text(&server, body(&[data.to_owned()])).await;
        assert_eq!(refused.status(), 400, "{data}");
        let answer = refused.text().await.unwrap();
        assert!(answer.contains(said), "{data}: {answer}");
    }
    let bytes = [body(&["\"".to_owned()]).into_bytes(), vec![0xc3, 0x28]].concat();
    let request = reqwest::Client::new().post(format!("{}/api/sync/push", server.url()));
    let refused =
        request.header("Content-Type", "application/json").body(bytes.clone()).send().await.unwrap();
    let said = refused.text().await.unwrap();
    assert!(said.contains(&format!("not UTF-8 at byte {}", bytes.len() - 2)), "{said}");
    // A name is a text for readers of every kind: half a surrogate pair is none.
    let half = r#"{"changes":[{"entity":"\ud800","row_id":"a","kind":"insert"}]}"#;
    let refused = push_text(&server, half.to_owned()).await;
    assert_eq!(refused.status(), 400);
    server.shutdown().await;
}

/// Any JSON text, with white space wherever it may be.
fn any_json() -> impl Strategy<Value = String> {
    let space = "[ \t\r\n]{0,2}";
    let string = r#""([a-zé😀 ]|\\["\\/bfnrt]|\\u[0-9a-fA-F]{4}){0,6}""#;
    let leaf = prop_oneof![
        "(null|true|false)",
        r"-?(0|[1-9][0-9]{0,40})(\.[0-9]{1,20})?([eE][+-]?[0-9]{1,3})?",
        string,
    ];
    leaf.prop_recursive(6, 40, 5, move |inner| {
        let spaced = (space, inner, space).prop_map(|(before, json, after)| format!("{before}{json}{after}"));
        let member = (space, string, space, spaced.clone())
            .prop_map(|(before, key, after, value)| format!("{before}{key}{after}:{value}"));
        prop_oneof![
            (proptest::collection::vec(spaced, 0..5), space).prop_map(|(items, space)| if items.is_empty() {
                format!("[{space}]")
            } else {
                format!("[{}]", items.join(","))
            }),
            (proptest::collection::vec(member, 0..5), space).prop_map(|(items, space)| if items.is_empty() {
                format!("{{{space}}}")
            } else {
                format!("{{{}}}", items.join(","))
            }),
        ]
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, ..ProptestConfig::default() })]

    #[test]
    fn any_json_comes_back_byte_for_byte(texts in proptest::collection::vec(any_json(), 1..40)) {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
        runtime.block_on(come_back(&texts));
        runtime.shutdown_timeout(Duration::from_secs(1));
    }
}
