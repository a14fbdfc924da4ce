//! Push requests to try a server with: of a real history if one is there, else made up.

use flate2::read::GzDecoder;
use serde_json::{Value, json};
use std::fs::File;
use std::io::{BufRead, BufReader};
use std::path::PathBuf;

/// Where a history may be: one push request a line, gzipped.
fn file() -> PathBuf {
    std::env::var_os("RINGLOG_HISTORY").map_or_else(
        || PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../shared/data/tokio-history.ndjson.gz"),
        PathBuf::from,
    )
}

/// The first so many requests, with at most 100 changes each.
pub fn requests(count: usize) -> Vec<Value> {
    let Ok(file) = File::open(file()) else { return made_up(count) };
    let lines = BufReader::new(GzDecoder::new(file)).lines();
    let requests = lines.map(|line| serde_json::from_str::<Value>(&line.unwrap()).unwrap());
    requests.flat_map(|request| split(&request)).take(count).collect()
}

/// A request in pieces, each with the client of the whole.
fn split(request: &Value) -> Vec<Value> {
    let changes = request["changes"].as_array().unwrap();
    let piece = |changes: &[Value]| json!({"client_id": request["client_id"], "changes": changes});
    changes.chunks(100).map(piece).collect()
}

/// Requests of eight clients over a hundred rows: the same ones every time.
fn made_up(count: usize) -> Vec<Value> {
    let mut random = super::clients::Random(7);
    let change = |request: usize, n: usize, random: &mut super::clients::Random| {
        let kind = ["insert", "update", "update", "delete"][random.below(4)];
        let mut change = json!({
            "entity": (["Todo", "List", "a \"quoted\" name"][random.below(3)]),
            "row_id": format!("row-{}", random.below(100)),
            "kind": kind,
            "op_id": format!("{request}:{n}"),
        });
        if kind != "delete" {
            change["data"] = json!({"request": request, "text": "ü".repeat(random.below(60)), "half": 0.5});
        }
        change
    };
    let request = |number| {
        let changes: Vec<_> = (0..=random.below(8)).map(|n| change(number, n, &mut random)).collect();
        json!({"client_id": format!("client-{}", number % 8), "changes": changes})
    };
    (0..count).map(request).collect()
}
