//! `openapi.yaml` is true to the server: the same routes, and answers of a real server as they are
//! described.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use common::{get, push, start, start_memory, todos};
use jsonschema::Validator;
use reqwest::{Method, RequestBuilder};
use serde_json::{Map, Value, json};
use std::collections::BTreeSet;

/// Where the routes are, and under which path.
const SOURCES: [(&str, &str); 3] = [
    ("", include_str!("../src/routes/router.rs")),
    ("", include_str!("../src/routes/page.rs")),
    ("/api/sync", include_str!("../../axum/src/routes/router.rs")),
];

const METHODS: [&str; 5] = ["get", "post", "put", "patch", "delete"];

struct Document(Value);

impl Document {
    fn read() -> Self {
        Self(serde_norway::from_str(include_str!("../openapi.yaml")).unwrap())
    }

    /// Each method and path that is described.
    fn operations(&self) -> BTreeSet<(String, String)> {
        let paths = self.0["paths"].as_object().unwrap().iter();
        let operations = paths.flat_map(|(path, item)| {
            item.as_object().unwrap().keys().map(move |method| (method.clone(), path.clone()))
        });
        operations.collect()
    }

    /// What stands at a place, or where its `$ref` leads.
    fn resolve<'a>(&'a self, value: &'a Value) -> &'a Value {
        match value["$ref"].as_str() {
            Some(reference) => {
                self.0.pointer(reference.strip_prefix('#').unwrap()).expect("a reference leads somewhere")
            }
            None => value,
        }
    }

    /// A schema of the document, with what it refers to.
    fn validator(&self, schema: &Value) -> Validator {
        let mut whole = schema.as_object().unwrap().clone();
        whole.insert("components".into(), self.0["components"].clone());
        jsonschema::draft202012::new(&Value::Object(whole)).unwrap()
    }

    /// Asserts that a request is known, and answered as is described: status, headers and body.
    async fn check(&self, method: &Method, path: &str, request: RequestBuilder, expected: u16) -> Value {
        let (route, query) = path.split_once('?').unwrap_or((path, ""));
        let operation = &self.0["paths"][route][method.as_str().to_lowercase()];
        assert!(operation.is_object(), "{method} {route} is not described");
        let parameters: Vec<_> = operation["parameters"].as_array().into_iter().flatten().collect();
        let names: BTreeSet<_> =
            parameters.iter().map(|one| self.resolve(one)["name"].as_str().unwrap()).collect();
        if expected < 400 {
            for pair in query.split('&').filter(|pair| !pair.is_empty()) {
                assert!(
                    names.contains(pair.split('=').next().unwrap()),
                    "{path}: a parameter is not described"
                );
            }
        }
        let answer = request.send().await.unwrap();
        let what = format!("{method} {path}: {}", answer.status());
        assert_eq!(answer.status().as_u16(), expected, "{what}");
        let described = self.resolve(&operation["responses"][answer.status().as_str()]);
        assert!(described.is_object(), "{what} is not described");
        self.check_headers(described, answer.headers(), &what);
        let content_type =
            answer.headers().get("content-type").map(|value| value.to_str().unwrap().to_owned());
        let Some(content) = described["content"].as_object() else { return Value::Null };
        let essence = content_type.unwrap().split(';').next().unwrap().to_owned();
        let schema =
            &content.get(&essence).unwrap_or_else(|| panic!("{what}: {essence} is not described"))["schema"];
        if essence == "text/event-stream" {
            return Value::Null;
        }
        let body = answer.text().await.unwrap();
        let body = if essence == "application/json" {
            serde_json::from_str(&body).unwrap()
        } else {
            Value::from(body)
        };
        if let Err(error) = self.validator(schema).validate(&body) {
            panic!("{what}: {error} at {}: {body}", error.instance_path());
        }
        body
    }

    fn check_headers(&self, described: &Value, headers: &reqwest::header::HeaderMap, what: &str) {
        for (name, header) in described["headers"].as_object().unwrap_or(&Map::new()) {
            let header = self.resolve(header);
            let Some(value) = headers.get(name.as_str()) else {
                assert_ne!(header["required"], true, "{what}: no header {name}");
                continue;
            };
            let text = value.to_str().unwrap();
            let value = text.parse::<u64>().map_or_else(|_| Value::from(text), Value::from);
            assert!(self.validator(&header["schema"]).is_valid(&value), "{what}: {name}: {value}");
        }
        assert!(
            !headers.contains_key("ringlog-resume") || !described["headers"]["ringlog-resume"].is_null(),
            "{what}: a resume token is not described"
        );
    }

    async fn get(&self, server: &str, path: &str, expected: u16) -> Value {
        let request = reqwest::Client::new().get(format!("{server}{path}"));
        self.check(&Method::GET, path, request, expected).await
    }

    async fn push(&self, server: &str, body: &Value, expected: u16) -> Value {
        let request = reqwest::Client::new().post(format!("{server}/api/sync/push")).json(body);
        self.check(&Method::POST, "/api/sync/push", request, expected).await
    }
}

/// Each method and path that the router has, as its source says.
fn routes() -> BTreeSet<(String, String)> {
    let mut routes = BTreeSet::new();
    let calls = |(prefix, source): (&'static str, &'static str)| {
        source.split(".route(").skip(1).map(move |call| (prefix, call))
    };
    for (prefix, call) in SOURCES.into_iter().flat_map(calls) {
        let mut parts = call.trim_start().strip_prefix('"').expect("a path").splitn(2, '"');
        let (path, rest) = (parts.next().unwrap(), parts.next().unwrap());
        let method = rest.trim_start_matches([',', ' ', '\n']).split('(').next().unwrap();
        assert!(METHODS.contains(&method), "`{method}` of {path} is a method");
        routes.insert((method.to_owned(), format!("{prefix}{path}")));
    }
    routes
}

#[test]
fn the_document_has_the_routes_of_the_router_and_no_others() {
    assert_eq!(Document::read().operations(), routes());
}

#[tokio::test]
async fn every_route_of_the_document_is_there() {
    let server = start_memory("").await;
    for (method, path) in Document::read().operations() {
        let method = Method::from_bytes(method.to_uppercase().as_bytes()).unwrap();
        let url = format!("{}{path}", server.url());
        let status =
            reqwest::Client::new().request(method.clone(), url).send().await.unwrap().status().as_u16();
        assert!(![404, 405].contains(&status), "{method} {path}: {status}");
    }
    server.shutdown().await;
}

#[test]
fn every_reference_leads_somewhere_and_every_schema_is_one() {
    fn walk(document: &Document, value: &Value) {
        match value {
            Value::Object(fields) => {
                document.resolve(value);
                if let Some(schema) = fields.get("schema") {
                    document.validator(schema);
                }
                fields.values().for_each(|value| walk(document, value));
            }
            Value::Array(items) => items.iter().for_each(|value| walk(document, value)),
            _ => {}
        }
    }
    let document = Document::read();
    walk(&document, &document.0);
    for schema in document.0["components"]["schemas"].as_object().unwrap().values() {
        document.validator(schema);
    }
}

#[test]
fn every_error_code_of_the_source_is_described() {
    let described =
        &Document::read().0["components"]["schemas"]["Error"]["properties"]["error"]["properties"]["code"];
    let described: BTreeSet<String> = serde_json::from_value(described["enum"].clone()).unwrap();
    let mut used = BTreeSet::new();
    let package = std::path::Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut folders = vec![package.join("src"), package.join("../axum/src")];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
                continue;
            }
            let source = std::fs::read_to_string(path).unwrap();
            // Where a refusal is made, its code is the only text of this shape.
            let makers = ["ApiError::new(", "ApiError::unavailable(", "Self::new("];
            for call in makers.iter().flat_map(|maker| source.split(maker).skip(1)) {
                let code = call.split('"').nth(1).unwrap_or_default();
                if code.len() > 3 && code.bytes().all(|byte| byte.is_ascii_uppercase() || byte == b'_') {
                    used.insert(code.to_owned());
                }
            }
        }
    }
    assert_eq!(described, used);
}

#[tokio::test(flavor = "multi_thread")]
async fn answers_are_as_described() {
    let document = Document::read();
    let folder = tempfile::tempdir().unwrap();
    let server = start(&format!(
        "--data {} --echo --capacity 50 --max-changes 20 --max-snapshots 1 --max-body 4000 --max-subscribers 1",
        folder.path().display()
    ))
    .await;
    let url = server.url();
    let mut change = todos(0, 1);
    change["client_id"] = "c".into();
    change["changes"][0]["op_id"] = "o".into();
    assert_eq!(document.push(&url, &change, 200).await["applied"], 1);
    assert_eq!(document.push(&url, &change, 200).await["deduped"], 1);
    let conflict = json!({"changes": [{"entity": "Todo", "row_id": "none", "kind": "update", "if_seq": 7}]});
    assert_eq!(document.push(&url, &conflict, 200).await["results"][0]["status"], "conflict");
    for n in 0..10 {
        document.push(&url, &todos(n * 7, 7), 200).await;
    }
    let kind = json!({"changes": [{"entity": "e", "row_id": "r", "kind": "upsert"}]});
    document.push(&url, &kind, 400).await;
    document.push(&url, &todos(0, 21), 413).await;
    let long =
        json!({"changes": [{"entity": "e", "row_id": "r", "kind": "insert", "data": "x".repeat(5000)}]});
    document.push(&url, &long, 413).await;
    let client = reqwest::Client::new();
    let plain = client.post(format!("{url}/api/sync/push")).body("{}");
    document.check(&Method::POST, "/api/sync/push", plain, 415).await;

    let page = document.get(&url, "/api/sync/pull?since=60&limit=5&entity=Todo&wait=0", 200).await;
    assert_eq!(page["changes"].as_array().unwrap().len(), 5);
    document.get(&url, "/api/sync/pull?since=71", 200).await;
    let answer = get(&url, "/api/sync/pull?since=60").await;
    let known = client
        .get(format!("{url}/api/sync/pull?since=60"))
        .header("If-None-Match", answer.header("etag").unwrap());
    document.check(&Method::GET, "/api/sync/pull?since=60", known, 304).await;
    let before = document.get(&url, "/api/sync/pull?since=1&limit=1", 200).await;
    assert!(before["compacted_to"].is_u64(), "{before}");
    document.get(&url, "/api/sync/pull?since=1&history=full", 410).await;
    document.get(&url, "/api/sync/pull?sinse=1", 400).await;
    let first = document.get(&url, "/api/sync/snapshot?limit=3", 200).await;
    let next = format!("/api/sync/snapshot?limit=3&page={}", first["next"].as_str().unwrap());
    document.get(&url, &next, 200).await;
    document.get(&url, "/api/sync/snapshot?limit=1000", 200).await;
    document.get(&url, "/api/sync/snapshot?page=nonsense", 400).await;

    let stats = document.get(&url, "/api/stats", 200).await;
    assert_eq!((&stats["log"]["head"], &stats["log"]["retained"]), (&json!(71), &json!(50)));
    for path in ["/metrics", "/healthz", "/readyz", "/", "/page.css", "/page.js"] {
        document.get(&url, path, 200).await;
    }
    document.get(&url, "/api/sync/ws", 426).await;
    document.get(&url, "/api/sync/live?since=1", 200).await;
    let ticket = client.post(format!("{url}/api/sync/ticket"));
    document.check(&Method::POST, "/api/sync/ticket", ticket, 200).await;
    // Held open, so that it is one too many for the next.
    let mut live = common::clients::Sse::open(&url, "since=70").await;
    let heartbeat = document.validator(&json!({"$ref": "#/components/schemas/Heartbeat"}));
    heartbeat.validate(&serde_json::from_str(&live.event("heartbeat").await.data).unwrap()).unwrap();
    let frame = live.event("changes").await;
    let page = document.validator(&json!({"$ref": "#/components/schemas/Page"}));
    page.validate(&serde_json::from_str(&frame.data).unwrap()).unwrap();
    let followers = &document.get(&url, "/api/stats", 200).await["followers"];
    assert_eq!(
        (&followers["count"], &followers["lag_max"]),
        (&json!(1), &json!(0)),
        "it was sent everything"
    );
    document.get(&url, "/api/sync/live", 503).await;
    let foreign = client.get(format!("{url}/api/stats")).header("Origin", "https://elsewhere.example");
    document.check(&Method::GET, "/api/stats", foreign, 403).await;
    drop(live);
    server.shutdown().await;
}

#[cfg(feature = "cluster")]
#[tokio::test(flavor = "multi_thread")]
async fn answers_of_a_node_are_as_described() {
    let document = Document::read();
    let Some(cluster) = common::cluster::Cluster::start("") else { return };
    let url = &cluster.urls()[0];
    document.push(url, &todos(0, 1), 200).await;
    for path in ["/api/sync/pull?max_stale=3", "/api/sync/snapshot?max_stale=3", "/api/sync/live?max_stale=3"]
    {
        document.get(url, path, 200).await;
    }
    let stats = document.get(url, "/api/stats", 200).await;
    assert_eq!(stats["cluster"]["log"], "test");
    cluster.nats.stop(0);
    cluster.nats.stop(1);
    tokio::time::sleep(std::time::Duration::from_secs(6)).await;
    document.get(url, "/api/sync/pull?max_stale=1", 503).await;
    document.get(url, "/api/sync/pull", 200).await;
    document.get(url, "/api/stats", 200).await;
}

#[tokio::test]
async fn refusals_for_want_of_a_token_are_as_described() {
    let document = Document::read();
    let server = start("--memory --read-token read-read-read-read --write-token write-write-write").await;
    for (method, path) in document.operations() {
        let described = &document.0["paths"][&path][&method]["responses"]["401"];
        let verb = Method::from_bytes(method.to_uppercase().as_bytes()).unwrap();
        let request = reqwest::Client::new().request(verb.clone(), format!("{}{path}", server.url()));
        if described.is_null() {
            assert_eq!(request.send().await.unwrap().status(), 200, "{path} wants no token");
        } else {
            document.check(&verb, &path, request, 401).await;
        }
    }
    let open = push(&server.url(), &todos(0, 1)).await;
    assert_eq!(open.status, 401);
    server.shutdown().await;
}
