//! Followers as tasks: a hundred clients, each served the changes after its resume token, on one
//! thread of a runtime.
//!
//! `cargo run --release --example async_follow`. Any runtime will do; this is tokio's. The clients
//! hang up now and then, some in the middle of a wait, and come back with the token that they were
//! given last. Each ends up with every event once, or the program fails.

use ringlog::{Change, ChangeLog, Cursor};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::mpsc;
use tokio::time::timeout;

const CLIENTS: usize = 100;
const EVENTS: u64 = 20_000;
/// Events in one answer.
const PAGE: usize = 500;

#[tokio::main(flavor = "current_thread")]
async fn main() {
    let log = Arc::new(ChangeLog::with_capacity(EVENTS as usize));
    let clients: Vec<_> = (0..CLIENTS).map(|number| tokio::spawn(client(Arc::clone(&log), number))).collect();

    // Writers need no runtime: they append from wherever they are.
    let writer = std::thread::spawn({
        let log = Arc::clone(&log);
        move || {
            for number in 0..EVENTS {
                log.append_change(&Change::insert("Todo", &number.to_string()));
                if number % 100 == 0 {
                    std::thread::sleep(Duration::from_micros(200));
                }
            }
        }
    });

    let (mut connections, mut given_up) = (0, 0);
    for client in clients {
        let (connected, waits) = client.await.expect("the client ends");
        connections += connected;
        given_up += waits;
    }
    writer.join().expect("the writer ends");
    assert_eq!(log.stats().waiters, 0, "nobody is left waiting");
    println!("{CLIENTS} clients saw {EVENTS} events each, over {connections} connections");
    println!("{given_up} of these ended in the middle of a wait");
}

/// A client that hangs up and reconnects until it has everything. Returns how many connections that
/// took, and how many of them it ended while nothing came.
async fn client(log: Arc<ChangeLog>, number: usize) -> (u64, u64) {
    let (mut token, mut seen) = (Cursor::from(0).to_string(), 0);
    let (mut connections, mut given_up) = (0, 0);
    while seen < EVENTS {
        connections += 1;
        let (to_client, mut answers) = mpsc::channel(1);
        let server = tokio::spawn(serve(Arc::clone(&log), token.clone(), to_client));
        // Some clients are patient, others are not.
        for _ in 0..=number % 7 {
            let Ok(answer) = timeout(Duration::from_millis(1 + number as u64 % 5), answers.recv()).await
            else {
                given_up += 1;
                break;
            };
            let Answer { rows, next } = answer.expect("the server serves until we hang up");
            for row in rows {
                assert_eq!(row, seen.to_string(), "every event once, and in order");
                seen += 1;
            }
            token = next;
            if seen == EVENTS {
                break;
            }
        }
        // Whatever the server is doing, waiting or sending, it is cancelled there.
        server.abort();
        let _ = server.await;
        // An answer that was on its way when we hung up is lost. The token is not: the next server
        // sends it again.
    }
    (connections, given_up)
}

/// What a client gets: rows, and where to go on.
struct Answer {
    rows: Vec<String>,
    next: String,
}

/// Serves the events after a resume token to one client, for as long as it listens.
async fn serve(log: Arc<ChangeLog>, token: String, client: mpsc::Sender<Answer>) {
    let cursor: Cursor = token.parse().expect("a token that we made");
    let mut follower = log.follow(cursor);
    loop {
        let answer = {
            // The batch stays in this block: it pins memory, and may not be kept across an await.
            let batch = follower.next(PAGE).await.expect("the window holds everything");
            let batch = batch.expect("the log is not closed");
            let rows = batch.iter().map(|event| event.row_id().to_owned()).collect();
            Answer { rows, next: batch.cursor().to_string() }
        };
        if client.send(answer).await.is_err() {
            return;
        }
    }
}
