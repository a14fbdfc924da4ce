//! The row about appending while others read without pause.

use super::Sheet;
use crate::contender::Contender as _;
use crate::contenders::{Plain, Ringlog};
use crate::timing::StopOnDrop;
use crate::wake::histogram;
use crate::workload::{Event, WINDOW};
use hdrhistogram::Histogram;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

const READERS: usize = 4;
const TURNS: usize = 20;
const TURN: Duration = Duration::from_millis(150);

/// What a reader went through.
#[derive(Default)]
struct Reading {
    read: u64,
    lost: u64,
}

/// One writer that times each append, while four readers pull a hundred events at a time without
/// pause.
pub(super) fn readers(sheet: &mut Sheet) {
    let (log, plain) = (Ringlog::full(WINDOW), Plain::full(WINDOW));
    let [mut ours, mut theirs] = [(); 2].map(|()| histogram());
    let mut pulled = [0; 2];
    for _ in 0..TURNS {
        pulled[0] += turn(&mut ours, || log.append(1), || log.taken(), |after| read_log(&log, after));
        pulled[1] += turn(
            &mut theirs,
            || {
                plain.append_event(Event::new(0));
            },
            || plain.last(),
            |after| read_plain(&plain, after),
        );
    }
    for (percentile, limit) in [(50.0, Some(0.3)), (99.9, Some(0.3)), (90.0, None), (99.0, None)] {
        let [ours, theirs] = [&ours, &theirs].map(|times| times.value_at_percentile(percentile) as f64);
        let what = format!("append while 4 readers pull, p{percentile}");
        sheet.figures(&what, "ns", ours, ("mutex", theirs), limit);
    }
    let [appended, pulls] = [[ours.len(), theirs.len()], pulled];
    for (what, [ours, theirs]) in [("appended meanwhile", appended), ("pulled meanwhile", pulls)] {
        let rate = |events| events as f64 / (TURN.as_secs_f64() * TURNS as f64) / 1e6;
        sheet.figures(what, "M/s", rate(ours), ("mutex", rate(theirs)), None);
    }
}

/// One turn of one contender. `read` returns the new cursor, how many events it read, and how many
/// were lost. Returns how many all readers read.
fn turn(
    times: &mut Histogram<u64>,
    append: impl Fn(),
    last: impl Fn() -> u64 + Sync,
    read: impl Fn(u64) -> (u64, Reading) + Sync,
) -> u64 {
    let (stop, first) = (AtomicBool::new(false), last());
    thread::scope(|scope| {
        let readers = [(); READERS].map(|()| {
            scope.spawn(|| {
                let (mut cursor, mut all) = (first, Reading::default());
                loop {
                    let stopped = stop.load(Ordering::Acquire);
                    let (next, part) = read(cursor);
                    let nothing = next == cursor;
                    cursor = next;
                    all.read += part.read;
                    all.lost += part.lost;
                    if stopped && nothing {
                        return (cursor, all);
                    }
                }
            })
        });
        let at_last = StopOnDrop(&stop);
        let mut appended = 0;
        let start = Instant::now();
        let mut before = start;
        while before - start < TURN {
            append();
            let now = Instant::now();
            times.record((now - before).as_nanos() as u64).expect("it grows");
            appended += 1;
            // The time that recording takes is not the append's.
            before = Instant::now();
        }
        drop(at_last);
        let mut read = 0;
        for reader in readers {
            let (cursor, all) = reader.join().expect("the reader ends");
            assert_eq!(cursor, first + appended, "it got to the end");
            assert_eq!(all.read + all.lost, appended, "what was appended was read or told to be lost");
            read += all.read;
        }
        read
    })
}

fn read_log(log: &Ringlog, after: u64) -> (u64, Reading) {
    match log.log.read(after, 100) {
        Ok(batch) => {
            for event in &batch {
                assert_eq!(event.row_id().len() + event.entity().len(), 42);
            }
            (batch.cursor().seq, Reading { read: batch.len() as u64, lost: 0 })
        }
        Err(resync) => (resync.oldest_seq - 1, Reading { read: 0, lost: resync.oldest_seq - 1 - after }),
    }
}

fn read_plain(plain: &Plain, after: u64) -> (u64, Reading) {
    let Some(events) = plain.read(after, 100) else {
        let oldest = plain.last() + 1 - WINDOW as u64;
        return (oldest - 1, Reading { read: 0, lost: oldest - 1 - after });
    };
    for event in &events {
        assert_eq!(event.row_id.len() + event.entity.len(), 42);
    }
    let read = events.len() as u64;
    (after + read, Reading { read, lost: 0 })
}
