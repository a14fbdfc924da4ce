//! A task sleeps, on a runtime of one thread; another thread wakes it.

use super::{BEFORE, append, log_in_use, ring};
use hdrhistogram::Histogram;
use std::sync::Arc;
use tokio::sync::Notify;

fn ring_task(
    rounds: u64,
    wake: impl Fn(u64),
    mut sleep: impl AsyncFnMut(u64) + Send + 'static,
) -> Histogram<u64> {
    ring(rounds, wake, move |noticed| {
        let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
        runtime.block_on(async {
            for round in 1..=rounds {
                sleep(round).await;
                noticed.noticed(round);
            }
        });
    })
}

/// In `wait_for`.
pub fn task_ringlog(rounds: u64) -> Histogram<u64> {
    let log = Arc::new(log_in_use());
    let sleeper = Arc::clone(&log);
    ring_task(
        rounds,
        move |round| append(&log, round),
        async move |round| {
            assert_eq!(sleeper.wait_for(BEFORE + round).await, Ok(BEFORE + round));
        },
    )
}

/// On tokio's `Notify`, notified after an append to a log without waiters.
pub fn task_append_notify(rounds: u64) -> Histogram<u64> {
    let log = log_in_use();
    let notify = Arc::new(Notify::new());
    let sleeper = Arc::clone(&notify);
    let wake = move |round| {
        append(&log, round);
        notify.notify_one();
    };
    ring_task(rounds, wake, async move |_| sleeper.notified().await)
}

/// On tokio's `Notify` alone: nothing is appended.
pub fn task_notify(rounds: u64) -> Histogram<u64> {
    let notify = Arc::new(Notify::new());
    let sleeper = Arc::clone(&notify);
    ring_task(rounds, move |_| notify.notify_one(), async move |_| sleeper.notified().await)
}
