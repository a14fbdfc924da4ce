//! The page at `/`, in a real browser. Skipped, and says so, where there is none.
//!
//! `RINGLOG_SCREENSHOTS=DIR` keeps pictures of it, dark and light, wide and narrow.

mod common;

use common::browser::Browser;
use common::clients::Sse;
use common::process::Process;
use common::relay::Relay;
use common::{get, push, start, start_memory, todos};
use serde_json::{Value, json};
use std::time::Duration;

const LIVE: &str = "document.querySelector('#status').dataset.state === 'live'";
const LOST: &str = "document.querySelector('#status').dataset.state === 'lost'";

/// Each line of the tail, oldest first.
const TAIL: &str = "[...document.querySelectorAll('#tail li')].map((item) => item.textContent).reverse()";

/// Whether there are so many lines in the tail.
fn lines(count: usize) -> String {
    format!("document.querySelectorAll('#tail li').length === {count}")
}

/// Whether this text stands in the tail.
fn shows(text: &str) -> String {
    format!("document.querySelector('#tail').textContent.includes({})", json!(text))
}

fn titled(title: &str) -> Value {
    json!({"changes": [{"entity": "Todo", "row_id": "t1", "kind": "update", "data": {"title": title}}]})
}

/// Nothing failed in the page, nothing forbidden was asked for.
async fn assert_no_faults(browser: &mut Browser) {
    assert_eq!(browser.eval("faults").await, json!([]));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_page_shows_what_is_pushed_and_survives_a_restart_of_the_server() {
    let Some(mut browser) = Browser::start().await else { return };
    let folder = tempfile::tempdir().unwrap();
    let server = Process::new(&folder.path().join("data"), "");
    assert!(server.start());
    assert_eq!(push(&server.url(), &titled("before the page")).await.status, 200);

    browser.open(&server.url()).await;
    browser.until(LIVE).await;
    assert_eq!(push(&server.url(), &titled("Milk")).await.status, 200);
    browser.until(&shows("Milk")).await;
    browser.until("document.querySelector('#facts').innerText.includes('Last seq\\n2')").await;
    assert_eq!(browser.eval(TAIL).await.as_array().unwrap().len(), 1, "only what came after it was opened");

    server.kill();
    browser.until(LOST).await;
    assert!(server.start());
    // Pushed while the page is likely to be away yet: it goes on from where it was.
    for n in 0..3 {
        assert_eq!(push(&server.url(), &titled(&format!("Bread {n}"))).await.status, 200);
    }
    browser.until(&shows("Bread 2")).await;
    browser.until(LIVE).await;
    let tail = browser.eval(TAIL).await;
    let titles: Vec<_> = tail
        .as_array()
        .unwrap()
        .iter()
        .map(|line| line.as_str().unwrap().split('"').nth(3).unwrap())
        .collect();
    assert_eq!(titles, ["Milk", "Bread 0", "Bread 1", "Bread 2"], "nothing missing, nothing twice");
    browser.until("document.querySelector('#facts').innerText.includes('Last seq\\n5')").await;
    assert_no_faults(&mut browser).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn another_log_under_the_same_address_is_told_apart() {
    let Some(mut browser) = Browser::start().await else { return };
    let folder = tempfile::tempdir().unwrap();
    let server = Process::new(&folder.path().join("none"), "--memory");
    assert!(server.start());
    browser.open(&server.url()).await;
    browser.until(LIVE).await;
    server.kill();
    browser.until(LOST).await;
    assert!(server.start());
    browser.until(&shows("Events are missing here (other_log)")).await;
    browser.until(LIVE).await;
    assert_eq!(push(&server.url(), &titled("In the new log")).await.status, 200);
    browser.until(&shows("In the new log")).await;
    assert_no_faults(&mut browser).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_that_has_fallen_silent_is_given_up() {
    let Some(mut browser) = Browser::start().await else { return };
    let server = start_memory("--heartbeat 0.5").await;
    let mut relay = Relay::start(server.address()).await;
    browser.open(&relay.url()).await;
    browser.until(LIVE).await;
    assert_eq!(push(&server.url(), &titled("Before")).await.status, 200);
    browser.until(&shows("Before")).await;
    // The figures still come, so the server is not away.
    relay.silence("/api/sync/live");
    assert_eq!(push(&server.url(), &titled("During")).await.status, 200);
    browser.until(&shows("During")).await;
    browser.until(LIVE).await;
    assert_eq!(browser.eval(&lines(2)).await, true, "nothing twice");
    server.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_page_says_that_there_is_no_place_and_takes_one_that_becomes_free() {
    let Some(mut browser) = Browser::start().await else { return };
    let server = start_memory("--max-subscribers 1").await;
    let taken = Sse::open(&server.url(), "").await;
    browser.open(&server.url()).await;
    browser.until("document.querySelector('#status').textContent.includes('there are 1 live streams')").await;
    drop(taken);
    browser.until(LIVE).await;
    // Line breaks between tokens are several fields of an event.
    let body = "{\"changes\":[{\"entity\":\"Todo\",\"row_id\":\"t\",\"kind\":\"insert\",\"data\":{\n\"title\":\r\n\"Milk\"\r}}]}";
    let pushed = reqwest::Client::new().post(format!("{}/api/sync/push", server.url()));
    assert_eq!(
        pushed.header("content-type", "application/json").body(body).send().await.unwrap().status(),
        200
    );
    browser.until(&shows("Milk")).await;
    assert_no_faults(&mut browser).await;
    server.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_clients_push_is_shown_as_text() {
    let Some(mut browser) = Browser::start().await else { return };
    let server = start_memory("").await;
    browser.open(&server.url()).await;
    browser.until(LIVE).await;
    let evil = "<img src=x onerror=\"faults.push('ran')\"><script>faults.push('ran')</script>";
    let change = json!({"entity": evil, "row_id": evil, "kind": "insert", "data": {"<b>": [evil, "</li>", "\u{202e}"]}});
    assert_eq!(push(&server.url(), &json!({"changes": [change]})).await.status, 200);
    browser.until(&lines(1)).await;
    assert_eq!(browser.eval(&shows(evil)).await, true);
    let tags =
        browser.eval("[...new Set([...document.querySelectorAll('#tail *')].map((e) => e.tagName))].sort()");
    assert_eq!(tags.await, json!(["LI", "SPAN", "TIME"]));
    assert_no_faults(&mut browser).await;
    server.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_page_is_used_with_the_keyboard_and_asks_for_a_token() {
    let Some(mut browser) = Browser::start().await else { return };
    let (read, write) = ("read-read-read-read", "write-write-write");
    let server = start(&format!("--memory --read-token {read} --write-token {write}")).await;
    browser.open(&server.url()).await;
    browser.until("document.activeElement.id === 'token'").await;
    browser.write("not the token, p").await;
    browser.press("Enter", 13).await;
    browser.until("document.querySelector('#refusal').textContent.includes('does not take')").await;
    browser.until("document.activeElement.id === 'token'").await;
    browser.eval("document.querySelector('#token').value = ''").await;
    browser.write(read).await;
    browser.press("Enter", 13).await;
    browser.until(LIVE).await;
    assert_eq!(browser.eval("document.querySelector('#auth').hidden").await, true);

    let client = reqwest::Client::new();
    let pushed = async |title: &str| {
        let url = format!("{}/api/sync/push", server.url());
        client
            .post(url)
            .bearer_auth(write)
            .json(&titled(title))
            .send()
            .await
            .unwrap()
            .error_for_status()
            .unwrap()
    };
    // The token is kept as long as the tab is open.
    browser.open(&server.url()).await;
    browser.until(LIVE).await;
    pushed("Shown").await;
    browser.until(&shows("Shown")).await;
    // Tab leads through everything that can be used, in the order in which it stands there.
    for id in ["pause", "tail"] {
        browser.press("Tab", 9).await;
        browser.until(&format!("document.activeElement.id === '{id}'")).await;
        let outline = browser.eval("getComputedStyle(document.activeElement).outlineStyle").await;
        assert_eq!(outline, "solid", "the focus is to be seen");
    }

    browser.press("p", 80).await;
    browser.until("document.querySelector('#pause').getAttribute('aria-pressed') === 'true'").await;
    pushed("While paused").await;
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert_eq!(browser.eval(&lines(1)).await, true, "a pause holds the page still");
    browser.press("p", 80).await;
    browser.until(&shows("While paused")).await;
    assert_no_faults(&mut browser).await;
    server.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_page_fits_wide_and_narrow_screens() {
    let Some(mut browser) = Browser::start().await else { return };
    let server = start_memory("--capacity 2000").await;
    browser.open(&server.url()).await;
    browser.until(LIVE).await;
    let loaded = async {
        for n in 0..25 {
            let pushed = push(&server.url(), &todos(n * 7, 1 + (n * n) % 60)).await;
            let since = pushed.last_seq() - 1;
            assert_eq!(get(&server.url(), &format!("/api/sync/pull?since={since}")).await.status, 200);
            tokio::time::sleep(Duration::from_millis(250)).await;
        }
        // One that is behind what is kept.
        let evicted = get(&server.url(), "/api/sync/pull?since=1").await;
        assert_eq!(evicted.status, 410);
    };
    loaded.await;
    let long = json!({"changes": [{"entity": "L".repeat(512), "row_id": "r".repeat(512), "kind": "insert",
        "data": {"text": "an unbroken ".repeat(10) + &"x".repeat(900)}},
        {"entity": "Todo", "row_id": "gone", "kind": "delete"}]});
    assert_eq!(push(&server.url(), &long).await.status, 200);
    browser.until(&shows("gone")).await;
    let resynced = "[...document.querySelectorAll('figure')].at(-1).innerText.includes('evicted 1')";
    browser.until(resynced).await;
    for (width, dark) in [(1400, false), (1400, true), (360, false), (360, true)] {
        browser.show(width, dark).await;
        tokio::time::sleep(Duration::from_millis(100)).await;
        // Less than nothing while a scroll bar comes or goes.
        let over = "Math.max(0, document.documentElement.scrollWidth - document.documentElement.clientWidth)";
        assert_eq!(browser.eval(over).await, 0, "nothing sticks out");
        let scheme = if dark { "dark" } else { "light" };
        browser.picture(&format!("page-{width}-{scheme}")).await;
    }
    assert_no_faults(&mut browser).await;
    server.shutdown().await;
}

/// Waits until the page has these nodes, each in its state.
#[cfg(feature = "cluster")]
async fn until_nodes(browser: &mut Browser, states: &[(&str, &str)]) {
    let rows = "[...document.querySelectorAll('#nodes tr')].map((row) => [row.cells[0].innerText, row.dataset.state])";
    browser.until(&format!("JSON.stringify({rows}) === {}", json!(json!(states).to_string()))).await;
}

#[cfg(feature = "cluster")]
#[tokio::test(flavor = "multi_thread")]
async fn the_page_of_a_node_shows_all_nodes_and_marks_one_that_fell_silent() {
    let Some(mut browser) = Browser::start().await else { return };
    let Some(cluster) = common::cluster::Cluster::start("") else { return };
    let names: Vec<_> = cluster.urls().iter().map(|url| url.replace("http://", "")).collect();
    let with = |states: [&'static str; 3]| {
        let mut nodes: Vec<_> = names.iter().map(String::as_str).zip(states).collect();
        nodes.sort_unstable();
        nodes
    };
    browser.open(&cluster.urls()[0]).await;
    until_nodes(&mut browser, &with(["fresh", "fresh", "fresh"])).await;
    assert_eq!(common::cluster::metric(&cluster.urls()[0], "cluster_nodes").await, 3);
    cluster.nodes[2].kill();
    until_nodes(&mut browser, &with(["fresh", "fresh", "silent"])).await;
    browser.until("document.querySelector('#nodes').innerText.includes('silent for 12 s')").await;
    let stats = get(&cluster.urls()[1], "/api/stats").await.body;
    let mut shown: Vec<_> = stats["cluster"]["nodes"].as_array().unwrap().iter().collect();
    shown.retain(|node| node["version"] == env!("CARGO_PKG_VERSION"));
    let shown: Vec<_> = shown.into_iter().map(|node| node["name"].as_str().unwrap()).collect();
    let mut left = names[..2].to_vec();
    left.sort_unstable();
    assert_eq!(shown, left, "the server forgets it after a while");
    for (width, dark) in [(1400, false), (360, true)] {
        browser.show(width, dark).await;
        let over = "Math.max(0, document.documentElement.scrollWidth - document.documentElement.clientWidth)";
        browser.until(&format!("{over} === 0")).await;
        browser.picture(&format!("nodes-{width}")).await;
    }
    assert!(cluster.nodes[2].start());
    until_nodes(&mut browser, &with(["fresh", "fresh", "fresh"])).await;
    let leader = cluster.leader();
    cluster.nats.stop((leader + 1) % 3);
    cluster.nats.stop((leader + 2) % 3);
    browser.until("document.querySelectorAll('#nodes [data-state=stale]').length > 0").await;
    assert_no_faults(&mut browser).await;
}

#[tokio::test]
async fn the_page_may_load_nothing_from_elsewhere() {
    let server = start_memory("").await;
    for path in ["/", "/page.css", "/page.js"] {
        let answer = reqwest::get(format!("{}{path}", server.url())).await.unwrap();
        assert_eq!(answer.status(), 200, "{path}");
        let policy = answer.headers()["content-security-policy"].to_str().unwrap().to_owned();
        assert!(policy.starts_with("default-src 'none'"), "{policy}");
        assert!(!policy.contains("unsafe") && !policy.contains("http") && !policy.contains('*'), "{policy}");
        assert_eq!(answer.headers()["x-content-type-options"], "nosniff");
        let text = answer.text().await.unwrap().replace("http://www.w3.org/2000/svg", "");
        assert!(!text.contains("http://") && !text.contains("https://"), "{path}");
        assert!(!text.contains("innerHTML") && !text.contains("insertAdjacentHTML"), "{path}");
    }
    server.shutdown().await;
}
