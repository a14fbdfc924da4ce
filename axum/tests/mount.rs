//! The example: mounted in an app, and used over real connections.
#![expect(clippy::unwrap_used, reason = "what fails is a test")]

use futures_util::StreamExt;
use serde_json::{Value, json};
use std::time::Duration;
use tokio::net::TcpListener;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;
use tokio::time::timeout;

#[expect(dead_code, reason = "its `main`")]
#[path = "../examples/mount.rs"]
mod example;

const HANG: Duration = Duration::from_secs(20);

struct Served {
    address: String,
    stop: oneshot::Sender<()>,
    serving: JoinHandle<()>,
}

impl Served {
    async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let (stop, stopped) = oneshot::channel();
        let serving =
            tokio::spawn(async move { example::serve(listener, stopped).await.expect("it ends well") });
        Self { address, stop, serving }
    }

    fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.address)
    }

    async fn push(&self, row_id: &str) -> Value {
        let change = json!({"entity": "Todo", "row_id": row_id, "kind": "insert", "data": {"n": 1}});
        let request = reqwest::Client::new().post(self.url("/sync/push")).json(&json!({"changes": [change]}));
        request.send().await.unwrap().json().await.unwrap()
    }

    async fn get(&self, path: &str) -> Value {
        reqwest::get(self.url(path)).await.unwrap().json().await.unwrap()
    }

    async fn stop(self) {
        self.stop.send(()).unwrap();
        timeout(HANG, self.serving).await.expect("it stops").unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_routes_work_beside_others_under_the_apps_middleware_and_path() {
    let app = Served::start().await;
    let greeting = reqwest::get(app.url("/")).await.unwrap();
    assert_eq!(greeting.headers()["x-app"], "mine");
    assert_eq!(greeting.text().await.unwrap(), "hello");

    assert_eq!(app.push("t1").await["applied"], 1);
    let pulled = reqwest::get(app.url("/sync/pull")).await.unwrap();
    assert_eq!(pulled.headers()["x-app"], "mine");
    let pulled: Value = pulled.json().await.unwrap();
    assert_eq!(pulled["changes"][0]["row_id"], "t1");
    assert_eq!(app.get("/sync/snapshot").await["rows"][0]["row_id"], "t1");
    app.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn live_streams_are_sent_what_is_pushed_and_end_when_the_app_stops() {
    let app = Served::start().await;
    let mut events = reqwest::get(app.url("/sync/live?since=0")).await.unwrap().bytes_stream();
    let socket = format!("ws://{}/sync/ws?since=0", app.address);
    let (mut socket, _) = tokio_tungstenite::connect_async(socket).await.unwrap();
    app.push("t1").await;

    let mut text = String::new();
    while !text.contains("\"row_id\":\"t1\"") {
        let bytes = timeout(HANG, events.next()).await.unwrap().expect("the stream goes on").unwrap();
        text.push_str(std::str::from_utf8(&bytes).unwrap());
    }
    let mut received = String::new();
    while !received.contains("\"row_id\":\"t1\"") {
        received = timeout(HANG, socket.next()).await.unwrap().unwrap().unwrap().to_string();
    }
    // A client that reads answers the closing handshake.
    let closing = tokio::spawn(async move { while let Some(Ok(_)) = socket.next().await {} });
    let ended = tokio::spawn(async move {
        let mut text = String::new();
        while let Some(Ok(bytes)) = events.next().await {
            text.push_str(std::str::from_utf8(&bytes).unwrap());
        }
        text
    });
    app.stop().await;
    assert!(ended.await.unwrap().contains("event: stopping"));
    closing.await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pull_that_waits_is_answered_when_the_app_stops() {
    let app = Served::start().await;
    let url = app.url("/sync/pull?wait=60");
    let waiting = tokio::spawn(async move { reqwest::get(url).await.unwrap().status() });
    tokio::time::sleep(Duration::from_millis(200)).await;
    app.stop().await;
    assert_eq!(waiting.await.unwrap(), 200);
}
