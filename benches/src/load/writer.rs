//! Writers.

use super::outcome::Times;
use crate::contender::Contender;
use crate::timing::nanos_since;
use crate::workload::text_len;
use ringlog::Change;
use ringlog_replay::input::Op;
use std::ops::Range;
use std::time::{Duration, Instant};

/// What a writer did.
#[derive(Debug, Default)]
pub(super) struct Written {
    pub(super) events: u64,
    pub(super) bytes: u64,
    pub(super) times: Times,
}

/// When a writer's calls are due, in nanoseconds since the run began.
#[derive(Debug, Clone, Copy)]
pub(super) struct Pace {
    pub(super) first: f64,
    pub(super) interval: f64,
}

impl Pace {
    fn due(self, call: u64) -> u64 {
        (self.first + self.interval * call as f64) as u64
    }
}

/// One writer.
#[derive(Clone)]
pub(super) struct Writer<'a> {
    pub(super) contender: &'a dyn Contender,
    pub(super) ops: &'a [Op],
    /// The same as they are appended, if they carry no mark.
    pub(super) changes: &'a [Change<'a>],
    pub(super) batch: usize,
    /// The change that it begins with.
    pub(super) place: usize,
    /// Nothing in a closed loop.
    pub(super) pace: Option<Pace>,
    /// One call in so many carries a mark; 0 without readers.
    pub(super) mark_every: u64,
}

/// Nearer than this, a writer that waits does not go to sleep: it might wake up late.
const SPIN: Duration = Duration::from_micros(150);

impl Writer<'_> {
    /// Appends until the time is up, and all that was due before it is done.
    pub(super) fn run(mut self, origin: Instant, until: u64) -> Written {
        let mut written = Written::default();
        let mut now = nanos_since(origin);
        for call in 0.. {
            let start = self.pace.map_or(now, |pace| pace.due(call));
            if start >= until {
                break;
            }
            if now > 2 * until {
                // Too far behind: what was due and is not done has waited until now, at least.
                let due = (call..).map_while(|call| Some(self.pace?.due(call)));
                due.take_while(|due| *due < until).for_each(|due| written.times.0 += now - due);
                break;
            }
            if start > now {
                wait(origin, start);
            }
            self.call(call, start, &mut written);
            // Read once: in a closed loop, the end of a call is the start of the next. Its time so
            // contains what is done here for the call before, which is the same for all contenders.
            now = nanos_since(origin);
            written.times.0 += now - start;
        }
        written
    }

    /// Appends until it is told to stop; it is not measured.
    pub(super) fn run_until(mut self, stop: impl Fn() -> bool) -> Written {
        let mut written = Written::default();
        while !stop() {
            self.call(1, 0, &mut written);
        }
        written
    }

    fn call(&mut self, call: u64, start: u64, written: &mut Written) {
        let places = self.next_batch();
        let (batch, first) = (&self.changes[places.clone()], &self.ops[places.start]);
        written.events += batch.len() as u64;
        written.bytes += batch.iter().map(text_len).sum::<u64>();
        if self.mark_every == 0 || !call.is_multiple_of(self.mark_every) {
            return self.contender.append_events(batch);
        }
        let row_id = mark(start);
        written.bytes = written.bytes + row_id.len() as u64 - first.row_id.len() as u64;
        let marked = change(first, &row_id);
        if batch.len() == 1 {
            return self.contender.append_event(&marked);
        }
        let marked: Vec<_> = [marked].into_iter().chain(batch[1..].iter().cloned()).collect();
        self.contender.append_events(&marked);
    }

    /// The places of the next changes, from the first again when too few are left.
    fn next_batch(&mut self) -> Range<usize> {
        let length = self.batch.min(self.ops.len());
        if self.place + length > self.ops.len() {
            self.place = 0;
        }
        self.place += length;
        self.place - length..self.place
    }
}

/// What a contender is given, with a row id that may be another.
pub(super) fn change<'a>(op: &'a Op, row_id: &'a str) -> Change<'a> {
    let change = Change::new(op.kind, &op.entity, row_id);
    match &op.data {
        Some(data) => change.with_raw(data),
        None => change,
    }
}

/// Until the moment has come. Sleeps while it is far.
fn wait(origin: Instant, moment: u64) {
    loop {
        let left = Duration::from_nanos(moment.saturating_sub(nanos_since(origin)));
        if left.is_zero() {
            return;
        }
        match left.checked_sub(SPIN) {
            Some(far) => std::thread::sleep(far),
            None => std::thread::yield_now(),
        }
    }
}

/// The row id that carries a moment. None that is made up looks like one, and a replayed one that
/// does is refused.
fn mark(moment: u64) -> String {
    format!("@@{moment:x}")
}

/// The moment that a row id carries.
pub(super) fn read_mark(row_id: &str) -> Option<u64> {
    u64::from_str_radix(row_id.strip_prefix("@@")?, 16).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::contender::Reader;
    use ringlog::ChangeKind;
    use std::sync::atomic::{AtomicU64, Ordering};

    /// Stalls once.
    struct Stalling(AtomicU64);

    impl Contender for Stalling {
        fn with_window(_: usize) -> Self {
            Self(AtomicU64::new(0))
        }

        fn append_event(&self, _: &Change<'_>) {
            if self.0.fetch_add(1, Ordering::Relaxed) == 3 {
                std::thread::sleep(Duration::from_millis(20));
            }
        }

        fn taken(&self) -> u64 {
            self.0.load(Ordering::Relaxed)
        }

        fn reader(&self, _: usize) -> Reader<'_> {
            unreachable!("nothing reads")
        }
    }

    /// Two events a call, from this one of five on.
    fn with_writer<T>(start: usize, pace: Option<Pace>, run: impl FnOnce(Writer<'_>) -> T) -> T {
        let op = || Op { entity: "T".into(), row_id: "1".into(), kind: ChangeKind::Delete, data: None };
        let ops: Vec<_> = (0..5).map(|_| op()).collect();
        let changes: Vec<_> = ops.iter().map(|op| change(op, &op.row_id)).collect();
        let contender = &Stalling::with_window(1);
        run(Writer { contender, ops: &ops, changes: &changes, batch: 2, place: start, pace, mark_every: 0 })
    }

    #[test]
    fn a_stall_counts_for_every_call_that_it_held_up() {
        let pace = Some(Pace { first: 0.0, interval: 1e6 });
        let written = with_writer(0, pace, |writer| writer.run(Instant::now(), 40_000_000));
        assert_eq!((written.events, written.times.0.len()), (80, 40), "every call that was due was made");
        let late = written.times.0.count_between(5_000_000, u64::MAX);
        assert!(late >= 14, "the calls due in the 15 ms before the end of the stall, not only one: {late}");
    }

    #[test]
    fn batches_go_round() {
        with_writer(3, None, |mut writer| {
            let places: Vec<_> = (0..4).map(|_| writer.next_batch()).collect();
            assert_eq!(places, [3..5, 0..2, 2..4, 0..2]);
        });
    }

    #[test]
    fn a_mark_comes_back_and_nothing_else_is_one() {
        for moment in [0, 1, 1 << 40, u64::MAX] {
            assert_eq!(read_mark(&mark(moment)), Some(moment));
        }
        assert_eq!(["0123", ""].map(read_mark), [None, None]);
    }
}
