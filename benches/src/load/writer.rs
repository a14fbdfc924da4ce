//! Writers.

use super::mark::{self, Clock};
use super::outcome::Times;
use super::pool::Pool;
use crate::peer::Writer;
use ringlog_replay::input::Op;
use std::time::Duration;

/// What a writer did.
#[derive(Debug, Default)]
pub(super) struct Written {
    pub(super) events: u64,
    pub(super) bytes: u64,
    pub(super) times: Times,
}

/// When a writer's calls are due, in nanoseconds of the run's clock.
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

/// One writer's work.
#[derive(Debug)]
pub(super) struct Work<'a> {
    pub(super) pool: &'a Pool,
    pub(super) batch: usize,
    /// The event of the pool that it begins with.
    pub(super) place: usize,
    /// Nothing in a closed loop.
    pub(super) pace: Option<Pace>,
    /// One call in so many carries a mark; 0 without readers.
    pub(super) mark_every: u64,
}

/// Nearer than this, a writer that waits does not go to sleep: it might wake up late.
const SPIN: Duration = Duration::from_micros(150);

impl<'a> Work<'a> {
    /// Appends until the time is up, and all that was due before it is done.
    pub(super) fn run(mut self, writer: &mut dyn Writer, clock: Clock, until: u64) -> Written {
        let mut written = Written::default();
        let mut now = clock.now();
        for call in 0.. {
            let start = self.pace.map_or(now, |pace| pace.due(call));
            if start >= until {
                break;
            }
            if now > 2 * until {
                self.give_up(call, now, until, &mut written.times);
                break;
            }
            if start > now {
                wait(clock, start);
            }
            self.call(writer, call, start, &mut written);
            // Read once: in a closed loop, the end of a call is the start of the next. Its time so
            // contains what is done here for the call before, which is the same for all contenders.
            now = clock.now();
            written.times.record(now - start);
        }
        written
    }

    /// Appends until it is told to stop; it is not measured.
    pub(super) fn run_until(mut self, writer: &mut dyn Writer, stop: impl Fn() -> bool) -> Written {
        let mut written = Written::default();
        while !stop() {
            self.call(writer, 1, 0, &mut written);
        }
        written
    }

    fn call(&mut self, writer: &mut dyn Writer, call: u64, start: u64, written: &mut Written) {
        let marked = (self.mark_every > 0 && call.is_multiple_of(self.mark_every)).then(|| mark::of(start));
        let batch = self.next_batch();
        writer.append(batch, marked.as_deref());
        written.events += batch.len() as u64;
        written.bytes += batch.iter().map(Op::bytes).sum::<u64>();
        if let Some(mark) = marked {
            written.bytes = written.bytes + mark.len() as u64 - batch[0].row_id.len() as u64;
        }
    }

    /// The next events of the pool, from its start again when too few are left.
    fn next_batch(&mut self) -> &'a [Op] {
        let ops = &self.pool.ops;
        let length = self.batch.min(ops.len());
        if self.place + length > ops.len() {
            self.place = 0;
        }
        let batch = &ops[self.place..self.place + length];
        self.place += length;
        batch
    }

    /// It is too far behind: what was due and is not done has waited until now, at least.
    fn give_up(&self, from: u64, now: u64, until: u64, times: &mut Times) {
        let Some(pace) = self.pace else { return };
        let mut call = from;
        while pace.due(call) < until {
            times.record(now - pace.due(call));
            call += 1;
        }
    }
}

/// Until the moment has come. Sleeps while it is far.
fn wait(clock: Clock, moment: u64) {
    loop {
        let left = Duration::from_nanos(moment.saturating_sub(clock.now()));
        if left.is_zero() {
            return;
        }
        match left.checked_sub(SPIN) {
            Some(far) => std::thread::sleep(far),
            None => std::thread::yield_now(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Stalls once.
    struct Stalling(u64);

    impl Writer for Stalling {
        fn append(&mut self, _: &[Op], _: Option<&str>) {
            self.0 += 1;
            if self.0 == 3 {
                std::thread::sleep(Duration::from_millis(20));
            }
        }
    }

    fn pool() -> Pool {
        let op =
            || Op { entity: "T".into(), row_id: "1".into(), kind: ringlog::ChangeKind::Delete, data: None };
        Pool { ops: (0..5).map(|_| op()).collect() }
    }

    #[test]
    fn a_stall_counts_for_every_call_that_it_held_up() {
        let pool = pool();
        let pace = Some(Pace { first: 0.0, interval: 1e6 });
        let work = Work { pool: &pool, batch: 2, place: 0, pace, mark_every: 0 };
        let written = work.run(&mut Stalling(0), Clock::start(), 40_000_000);
        assert_eq!((written.events, written.times.0.len()), (80, 40), "every call that was due was made");
        let late = written.times.0.count_between(5_000_000, u64::MAX);
        assert!(late >= 14, "the calls due in the 15 ms before the end of the stall, not only one: {late}");
    }

    #[test]
    fn batches_go_round() {
        let pool = pool();
        let mut work = Work { pool: &pool, batch: 2, place: 3, pace: None, mark_every: 0 };
        let lengths: Vec<_> = (0..4).map(|_| (work.next_batch().len(), work.place)).collect();
        assert_eq!(lengths, [(2, 5), (2, 2), (2, 4), (2, 2)]);
    }
}
