//! The row about appending while others read without pause.

use super::Sheet;
use crate::contender::{Contender, Progress, append_text};
use crate::contenders::Plain;
use crate::timing::{StopOnDrop, histogram};
use crate::workload::{EVENTS, TEXT, WINDOW};
use hdrhistogram::Histogram;
use ringlog::ChangeLog;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

const READERS: usize = 4;
const TURNS: usize = 20;
const TURN: Duration = Duration::from_millis(150);

/// One writer that times each append, while four readers pull a hundred events at a time without
/// pause.
pub(super) fn readers(sheet: &mut Sheet) {
    let (log, plain) = (ChangeLog::full(WINDOW), Plain::full(WINDOW));
    let [mut ours, mut theirs] = [(); 2].map(|()| histogram());
    let mut pulled = [0; 2];
    for _ in 0..TURNS {
        pulled[0] += turn(&mut ours, &log);
        pulled[1] += turn(&mut theirs, &plain);
    }
    for (percentile, limit) in [(50.0, Some(0.3)), (99.9, Some(0.3)), (90.0, None), (99.0, None)] {
        let [ours, theirs] = [&ours, &theirs].map(|times| times.value_at_percentile(percentile) as f64);
        let what = format!("append while 4 readers pull, p{percentile}");
        sheet.figures(&what, "ns", ours, ("mutex", theirs), limit);
    }
    let appended = [ours.len(), theirs.len()];
    for (what, events) in [("appended meanwhile", appended), ("pulled meanwhile", pulled)] {
        let [ours, theirs] = events.map(|events| events as f64 / TURN.as_secs_f64() / TURNS as f64 / 1e6);
        sheet.figures(what, "M/s", ours, ("mutex", theirs), None);
    }
}

/// One turn of one contender. Returns how many events all readers read.
fn turn(times: &mut Histogram<u64>, contender: &impl Contender) -> u64 {
    let stop = AtomicBool::new(false);
    thread::scope(|scope| {
        let readers = [(); READERS].map(|()| {
            let mut reader = contender.reader(EVENTS as usize);
            let stop = &stop;
            scope.spawn(move || {
                let mut all = Progress::default();
                loop {
                    let stopped = stop.load(Ordering::Acquire);
                    let part = reader(Duration::ZERO, &mut |_, text| assert_eq!(text, TEXT));
                    all.read += part.read;
                    all.lost += part.lost;
                    if stopped && part == Progress::default() {
                        return all;
                    }
                }
            })
        });
        let at_last = StopOnDrop(&stop);
        let mut appended = 0;
        let start = Instant::now();
        let mut before = start;
        while before - start < TURN {
            append_text(contender, 1);
            let now = Instant::now();
            *times += (now - before).as_nanos() as u64;
            appended += 1;
            // The time that recording takes is not the append's.
            before = Instant::now();
        }
        drop(at_last);
        let all = readers.map(|reader| reader.join().expect("the reader ends"));
        for Progress { read, lost } in &all {
            assert_eq!(read + lost, appended, "what was appended was read or told to be lost");
        }
        all.iter().map(|progress| progress.read).sum()
    })
}
