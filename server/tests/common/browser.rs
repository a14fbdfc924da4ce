//! A real browser without a window, driven over its debugging protocol: nothing besides chromium is
//! needed.

use base64::Engine;
use futures_util::{SinkExt, StreamExt};
use serde_json::{Value, json};
use std::io::Write;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};
use tempfile::TempDir;
use tokio::net::TcpStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::{MaybeTlsStream, WebSocketStream};

/// What browsers are called.
const NAMES: [&str; 4] = ["chromium", "chromium-browser", "google-chrome", "chrome"];

const FLAGS: [&str; 9] = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--remote-debugging-port=0",
];

/// Notes what a page must not do: fail, or want what its policy forbids.
const WATCH: &str = "globalThis.faults = [];
    addEventListener('error', (event) => faults.push(`${event.message ?? event.target.outerHTML}`), true);
    addEventListener('unhandledrejection', (event) => faults.push(`${event.reason}`));
    addEventListener('securitypolicyviolation', (event) => faults.push(`policy: ${event.violatedDirective}`));";

/// A browser with one page.
pub struct Browser {
    child: Child,
    _profile: TempDir,
    socket: WebSocketStream<MaybeTlsStream<TcpStream>>,
    session: Option<String>,
    last_id: u64,
}

impl Browser {
    /// Starts one, with an empty profile. None, and a line that no test runner hides, if there is
    /// none here.
    pub async fn start() -> Option<Self> {
        let profile = tempfile::tempdir().unwrap();
        let Some(child) = NAMES.iter().find_map(|name| spawn(name, profile.path())) else {
            let skipped = format!(
                "\n*** SKIPPED: no browser to try the page in. Install one ({}). ***\n",
                NAMES.join(", ")
            );
            std::io::stderr().write_all(skipped.as_bytes()).unwrap();
            return None;
        };
        let address = debugger(profile.path()).await;
        let (socket, _) = tokio_tungstenite::connect_async(address).await.unwrap();
        let mut browser = Self { child, _profile: profile, socket, session: None, last_id: 0 };
        let target = browser.call("Target.createTarget", json!({"url": "about:blank"})).await;
        let attach = json!({"targetId": target["targetId"], "flatten": true});
        let attached = browser.call("Target.attachToTarget", attach).await;
        browser.session = Some(attached["sessionId"].as_str().unwrap().to_owned());
        browser.call("Page.enable", json!({})).await;
        browser.call("Page.addScriptToEvaluateOnNewDocument", json!({"source": WATCH})).await;
        Some(browser)
    }

    /// Calls a method of the protocol, and waits for what it returns.
    async fn call(&mut self, method: &str, params: Value) -> Value {
        self.last_id += 1;
        let mut message = json!({"id": self.last_id, "method": method, "params": params});
        if let Some(session) = &self.session {
            message["sessionId"] = session.as_str().into();
        }
        self.socket.send(Message::text(message.to_string())).await.unwrap();
        let answered = async {
            loop {
                let message = self.socket.next().await.expect("the browser lives").unwrap();
                let Message::Text(text) = message else { continue };
                let mut answer: Value = serde_json::from_str(&text).unwrap();
                if answer["id"] == self.last_id {
                    assert_eq!(answer["error"], Value::Null, "{method}");
                    return answer["result"].take();
                }
            }
        };
        tokio::time::timeout(super::HANG, answered).await.unwrap_or_else(|_| panic!("{method} hangs"))
    }

    /// Opens an address.
    pub async fn open(&mut self, url: &str) {
        self.call("Page.navigate", json!({"url": url})).await;
        self.until("document.readyState === 'complete'").await;
    }

    /// What an expression of JavaScript is in the page.
    pub async fn eval(&mut self, expression: &str) -> Value {
        let params = json!({"expression": expression, "returnByValue": true, "awaitPromise": true});
        let mut answer = self.call("Runtime.evaluate", params).await;
        assert_eq!(answer["exceptionDetails"], Value::Null, "{expression}");
        answer["result"]["value"].take()
    }

    /// Waits until an expression is true. If it never is, says what the page looks like.
    pub async fn until(&mut self, expression: &str) {
        let start = Instant::now();
        while self.eval(expression).await != true {
            if start.elapsed() > super::HANG / 2 {
                let text = self.eval("document.body.innerText").await;
                panic!("never true: {expression}\nfaults: {}\n{text}", self.eval("faults.join()").await);
            }
            tokio::time::sleep(Duration::from_millis(25)).await;
        }
    }

    /// Presses a key, as a person would.
    pub async fn press(&mut self, key: &str, code: u32) {
        let text = if key == "Enter" {
            "\r"
        } else if key.chars().count() == 1 {
            key
        } else {
            ""
        };
        for kind in ["keyDown", "keyUp"] {
            let mut event = json!({"type": kind, "key": key, "windowsVirtualKeyCode": code});
            if kind == "keyDown" {
                event["text"] = text.into();
            }
            self.call("Input.dispatchKeyEvent", event).await;
        }
    }

    /// Types into what has the focus.
    pub async fn write(&mut self, text: &str) {
        self.call("Input.insertText", json!({"text": text})).await;
    }

    /// Shows the page on a screen of this width, in the dark or not.
    pub async fn show(&mut self, width: u32, dark: bool) {
        let scheme = if dark { "dark" } else { "light" };
        let media = json!({"features": [{"name": "prefers-color-scheme", "value": scheme}]});
        self.call("Emulation.setEmulatedMedia", media).await;
        let screen = json!({"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": false});
        self.call("Emulation.setDeviceMetricsOverride", screen).await;
        // They take a part of the width, or not, as the system likes.
        self.call("Emulation.setScrollbarsHidden", json!({"hidden": true})).await;
    }

    /// Keeps a picture of the whole page, if `RINGLOG_SCREENSHOTS` names a folder.
    pub async fn picture(&mut self, name: &str) {
        let Some(folder) = std::env::var_os("RINGLOG_SCREENSHOTS") else { return };
        let params = json!({"format": "png", "captureBeyondViewport": true});
        let answer = self.call("Page.captureScreenshot", params).await;
        let png = base64::engine::general_purpose::STANDARD.decode(answer["data"].as_str().unwrap()).unwrap();
        std::fs::create_dir_all(&folder).unwrap();
        std::fs::write(Path::new(&folder).join(format!("{name}.png")), png).unwrap();
    }
}

impl Drop for Browser {
    fn drop(&mut self) {
        // It may have ended by itself; there is nothing else to do about it.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn spawn(name: &str, profile: &Path) -> Option<Child> {
    let mut command = Command::new(name);
    command.args(FLAGS).arg(format!("--user-data-dir={}", profile.display())).arg("about:blank");
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn().ok()
}

/// Where the browser listens: it says so in a file, once it does.
async fn debugger(profile: &Path) -> String {
    let start = Instant::now();
    loop {
        let said = std::fs::read_to_string(profile.join("DevToolsActivePort")).unwrap_or_default();
        if let Some((port, path)) = said.split_once('\n')
            && path.starts_with('/')
        {
            return format!("ws://127.0.0.1:{port}{}", path.trim_end());
        }
        assert!(start.elapsed() < super::HANG, "the browser does not start");
        tokio::time::sleep(Duration::from_millis(25)).await;
    }
}
