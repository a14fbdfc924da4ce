//! A parked follower, while as many writers as the machine has cores append in bursts.
//!
//! The measured writer's events carry the round's number as row id; those of the others are noise,
//! and the follower reads them too.

use super::{CHANGE, NEVER, PAUSE, ring};
use crate::timing::{StopOnDrop, cores};
use crate::workload::ROW_ID;
use hdrhistogram::Histogram;
use ringlog::{Change, ChangeLog};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use tokio::sync::broadcast::{self, error::RecvError};

const MEASURED: &str = "Measured";
/// No reader is lapped.
const LONG: usize = 1 << 20;

/// A follower in `blocking_next`.
pub fn follow_ringlog(rounds: u64) -> Histogram<u64> {
    let log = Arc::new(ChangeLog::with_capacity(LONG));
    let mut follower = log.follow(0);
    let noise = Arc::clone(&log);
    under_noise(
        move || {
            noise.append_change(&CHANGE);
        },
        || {
            let wake = |round: u64| {
                log.append_change(&Change::insert(MEASURED, &round.to_string()));
            };
            ring(rounds, wake, move |sleeper| {
                let mut round = 0;
                while round < rounds {
                    let batch =
                        follower.blocking_next(1_000, NEVER).expect("a long window").expect("an open log");
                    assert!(!batch.is_empty(), "a lost wake-up");
                    for event in batch.iter().filter(|event| event.entity() == MEASURED) {
                        round += 1;
                        sleeper.noticed(round);
                        assert_eq!(event.row_id().parse(), Ok(round));
                    }
                }
            })
        },
    )
}

/// A receiver of tokio's `broadcast`.
pub fn follow_broadcast(rounds: u64) -> Histogram<u64> {
    let (sender, mut receiver) = broadcast::channel::<Arc<(&str, String)>>(LONG);
    let noise = sender.clone();
    under_noise(
        move || {
            // At the end the receiver may be gone before the noise is.
            noise.send(Arc::new(("Todo", ROW_ID.to_owned()))).ok();
        },
        || {
            let wake = |round: u64| {
                sender.send(Arc::new((MEASURED, round.to_string()))).expect("there is a receiver");
            };
            ring(rounds, wake, move |sleeper| {
                let mut round = 0;
                while round < rounds {
                    let event = match receiver.blocking_recv() {
                        Ok(event) => event,
                        Err(RecvError::Lagged(missed)) => panic!("a long window, and {missed} missed"),
                        Err(RecvError::Closed) => panic!("closed"),
                    };
                    if event.0 == MEASURED {
                        round += 1;
                        sleeper.noticed(round);
                        assert_eq!(event.1.parse(), Ok(round));
                    }
                }
            })
        },
    )
}

/// As many writers as cores, each some hundred appends and a short sleep in turn, so that a
/// follower can keep up.
fn under_noise<T>(append: impl Fn() + Send + Sync, measured: impl FnOnce() -> T) -> T {
    const BURST: usize = 200;
    let stop = AtomicBool::new(false);
    thread::scope(|scope| {
        for _ in 0..cores() {
            scope.spawn(|| {
                while !stop.load(Ordering::Relaxed) {
                    (0..BURST).for_each(|_| append());
                    thread::sleep(PAUSE);
                }
            });
        }
        let _at_last = StopOnDrop(&stop);
        measured()
    })
}
