//! Rows about reading.

use super::{Contestant, Effort, Sheet, alternate};
use crate::contenders::{Plain, Pylon, Ringlog};
use crate::workload::{EVENTS, WINDOW};
use std::cell::{Cell, RefCell};
use std::hint::black_box;
use std::time::{Duration, Instant};

/// Long enough for the slowest, which takes a millisecond a read.
const EFFORT: Effort = Effort { run: Duration::from_millis(4), turns: 40 };

/// How the last hundred are read, after this cursor.
type Way<'a> = &'a dyn Fn(&Ringlog, u64);

/// The time of so many calls.
fn times(calls: u64, mut call: impl FnMut()) -> Duration {
    let start = Instant::now();
    (0..calls).for_each(|_| call());
    start.elapsed()
}

/// In place, against the seed's pull, and the plain program that shares its events.
pub(super) fn read(sheet: &mut Sheet) {
    let (log, seed, plain) = (Ringlog::full(WINDOW), Pylon::full(WINDOW), Plain::full(WINDOW));
    let (after, seed_after, plain_after) = (log.tail(), seed.tail(), plain.last() - EVENTS);
    let figures = alternate(
        EFFORT,
        &[
            ("ringlog", &|calls| times(calls, || log.read(after))),
            ("pylon.pull", &|calls| times(calls, || drop(black_box(seed.read_owned(&seed_after))))),
            ("mutex", &|calls| times(calls, || plain.read_shared(plain_after))),
        ],
    );
    let what = "read 100 at the tail, by reference";
    sheet.turns(what, &figures, ["ringlog", "pylon.pull"], Some(1.0 / 150.0));
    sheet.turns(what, &figures, ["ringlog", "mutex"], None);
}

/// As JSON bytes.
pub(super) fn json(sheet: &mut Sheet) {
    let (log, seed) = (Ringlog::full(WINDOW), Pylon::full(WINDOW));
    let (after, seed_after) = (log.tail(), seed.tail());
    let out = RefCell::new(Vec::new());
    let figures = alternate(
        EFFORT,
        &[
            ("ringlog", &|calls| times(calls, || log.read_json(after, &mut out.borrow_mut()))),
            ("pylon.pull + to_vec", &|calls| times(calls, || drop(black_box(seed.read_json(&seed_after))))),
        ],
    );
    sheet.turns("pull_json of 100", &figures, ["ringlog", "pylon.pull + to_vec"], Some(1.0 / 25.0));
}

/// Owned.
pub(super) fn pull(sheet: &mut Sheet, window: usize, limit: f64) {
    let (log, seed) = (Ringlog::full(window), Pylon::full(window));
    let (after, seed_after) = (log.tail(), seed.tail());
    let figures = alternate(
        EFFORT,
        &[
            ("ringlog", &|calls| times(calls, || log.read_owned(after))),
            ("pylon.pull", &|calls| times(calls, || drop(black_box(seed.read_owned(&seed_after))))),
        ],
    );
    let what = format!("pull (owned) of 100, window {window}");
    sheet.turns(&what, &figures, ["ringlog", "pylon.pull"], Some(limit));
}

/// Windows of very different lengths: the same events again and again, which are in the cache
/// whatever the window is, and then others each time, which are in the cache only if the whole
/// window is.
pub(super) fn flat(sheet: &mut Sheet) {
    const NAMES: [&str; 5] = ["1000", "10000", "100000", "1000000", "10000000"];
    let logs = NAMES.map(|name| Ringlog::full(name.parse().expect("a number")));
    let out = RefCell::new(Vec::new());
    let read_json = |log: &Ringlog, after| log.read_json(after, &mut out.borrow_mut());
    let ways: [(&str, Way<'_>); 3] =
        [("read", &Ringlog::read), ("pull_json", &read_json), ("pull", &Ringlog::read_owned)];
    for (way, read) in ways {
        let tail = |log: &Ringlog, calls| {
            let after = log.tail();
            times(calls, || read(log, after))
        };
        compare(sheet, &format!("{way} of the last 100"), &NAMES, &logs, &tail, Some(1.2));
    }
    let place = Cell::new(0_u64);
    let anywhere = |log: &Ringlog, calls| {
        let oldest = log.log.oldest_seq();
        let choices = log.log.head() - EVENTS - oldest;
        times(calls, || {
            // A step that is prime to every length comes everywhere, and far from where it was.
            place.set(place.get() + 618_033_989);
            log.read(oldest + place.get() % choices);
        })
    };
    compare(sheet, "read of any 100 (memory, not cache)", &NAMES, &logs, &anywhere, None);
}

/// Each window against the shortest. The limit is for those up to a million.
fn compare(
    sheet: &mut Sheet,
    what: &str,
    names: &[&'static str; 5],
    logs: &[Ringlog; 5],
    run: &dyn Fn(&Ringlog, u64) -> Duration,
    limit: Option<f64>,
) {
    let runs: Vec<_> = logs.iter().map(|log| move |calls| run(log, calls)).collect();
    let contestants: Vec<Contestant<'_>> =
        names.iter().zip(&runs).map(|(name, run)| (*name, run as &dyn Fn(u64) -> Duration)).collect();
    let figures = alternate(Effort { run: Duration::from_millis(2), turns: 40 }, &contestants);
    for (place, name) in names.iter().enumerate().skip(1) {
        let limit = limit.filter(|_| place < 4);
        sheet.turns(&format!("{what}, window {name}"), &figures, [name, names[0]], limit);
    }
}
