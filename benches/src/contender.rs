//! What a contender is, and how it is held to its work.

use crate::timing::timed;
use crate::workload::{ENTITY, ROW_ID, TEXT, data};
use ringlog::Change;
use std::hint::black_box;
use std::time::Duration;

/// Takes changes from any number of writers, and lets any number of readers read.
///
/// This is the only way in: the tables append the [workload](crate::workload) through it, the load
/// generator whatever it was told to.
pub trait Contender: Send + Sync {
    /// Makes one with an empty window.
    fn with_window(window: usize) -> Self
    where
        Self: Sized;

    /// Makes one with a window that writers have gone round once: its memory is its own.
    fn full(window: usize) -> Self
    where
        Self: Sized,
    {
        let contender = Self::with_window(window);
        append_text(&contender, 2 * window as u64);
        contender
    }

    /// Appends one event.
    fn append_event(&self, change: &Change<'_>);

    /// Appends a batch, in one call where the contender has such a call.
    fn append_events(&self, changes: &[Change<'_>]) {
        for change in changes {
            self.append_event(change);
        }
    }

    /// How many events it has taken, by its own account.
    fn taken(&self) -> u64;

    /// What it holds, if it can tell.
    fn held(&self) -> Option<Held> {
        None
    }

    /// A reader that begins with the next event, and gets at most `limit` events a read.
    fn reader(&self, limit: usize) -> Reader<'_>;

    /// Wakes readers that sleep without a limit of time. No writer appends any more.
    fn close(&self) {}

    /// Events that were dropped because their writer was a lap late.
    fn superseded(&self) -> u64 {
        0
    }
}

/// Reads the next events. Waits for the first of them for so long; with no time to wait it only
/// looks. Hands over the row id of each event, and its bytes of text where they are known.
pub type Reader<'a> = Box<dyn FnMut(Duration, &mut dyn FnMut(&str, u64)) -> Progress + Send + 'a>;

/// How far a read got.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Progress {
    /// Events read.
    pub read: u64,
    /// Events that the reader was told it had missed.
    pub lost: u64,
}

/// A sum over all events that a contender holds, every field of each read.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub struct Held {
    events: u64,
    seqs: u64,
    text: u64,
    dated: u64,
}

impl Held {
    /// Adds an event: its seq, its bytes of text, and its timestamp, which must not be 0.
    pub fn add(&mut self, seq: u64, text: u64, timestamp: u64) {
        self.events += 1;
        self.seqs += seq;
        self.text += text;
        self.dated += u64::from(timestamp > 0);
    }

    /// What a contender must hold whose last seqs are these.
    fn expected(first: u64, last: u64) -> Self {
        let events = last + 1 - first;
        Self { events, seqs: (first + last) * events / 2, text: events * TEXT, dated: events }
    }
}

/// Appends the event of the workload so many times.
pub fn append_text<C: Contender>(contender: &C, events: u64) {
    let data = data();
    for _ in 0..events {
        contender.append_event(black_box(&Change::insert(ENTITY, ROW_ID).with_raw(data)));
    }
}

/// Runs so many operations, and returns how long they took.
pub type Run = Box<dyn FnMut(u64) -> Duration>;

/// Runs of appends by so many writers. When they are over, the contender must have taken every
/// event, and must hold the last of them, whole.
pub fn trial<C: Contender + 'static>(
    writers: usize,
    contender: C,
    append: impl Fn(&C, u64) + Sync + 'static,
) -> Run {
    let mut trial = Trial { given: contender.taken(), contender };
    Box::new(move |events| {
        let contender = &trial.contender;
        let time = timed(writers, events, |_, mine| append(contender, mine.end - mine.start));
        trial.given += events;
        time
    })
}

struct Trial<C: Contender> {
    contender: C,
    given: u64,
}

impl<C: Contender> Drop for Trial<C> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            return;
        }
        let taken = self.contender.taken();
        assert_eq!(taken, self.given, "as many taken as were given");
        if let Some(held) = self.contender.held() {
            let first = (taken + 1).saturating_sub(held.events).max(1);
            assert_eq!(held, Held::expected(first, taken), "the last events, whole");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::panic::{self, AssertUnwindSafe};
    use std::sync::atomic::{AtomicU64, Ordering};

    /// Takes events, and forgets some, or holds them with some of it missing.
    #[derive(Default)]
    struct Sloppy {
        taken: AtomicU64,
        forgotten: u64,
        missing: Held,
    }

    impl Contender for Sloppy {
        fn with_window(_: usize) -> Self {
            Self::default()
        }

        fn append_event(&self, _: &Change<'_>) {
            self.taken.fetch_add(1, Ordering::Relaxed);
        }

        fn taken(&self) -> u64 {
            self.taken.load(Ordering::Relaxed).saturating_sub(self.forgotten)
        }

        fn held(&self) -> Option<Held> {
            let held = Held::expected(self.taken() - 9, self.taken());
            let (text, dated) = (held.text - self.missing.text, held.dated - self.missing.dated);
            Some(Held { text, dated, ..held })
        }

        fn reader(&self, _: usize) -> Reader<'_> {
            Box::new(|_, _| Progress::default())
        }
    }

    #[test]
    fn a_contender_that_does_less_than_its_work_is_found_out() {
        let passes = |contender| {
            let run = || trial(2, contender, append_text)(200);
            panic::catch_unwind(AssertUnwindSafe(run)).is_ok()
        };
        assert!(passes(Sloppy::default()));
        assert!(!passes(Sloppy { forgotten: 1, ..Sloppy::default() }));
        assert!(!passes(Sloppy { missing: Held { text: 1, ..Held::default() }, ..Sloppy::default() }));
        assert!(!passes(Sloppy { missing: Held { dated: 1, ..Held::default() }, ..Sloppy::default() }));
    }
}
