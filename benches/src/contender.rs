//! What a contender is, and how it is held to its work.

use crate::timing::timed;
use crate::workload::TEXT;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// Takes events of the workload from many threads, and knows afterwards what it took.
pub trait Contender: Sync {
    /// Appends so many events, one after the other.
    fn append(&self, events: u64);

    /// How many events it has taken, by its own account.
    fn taken(&self) -> u64;

    /// What it holds, if it holds anything.
    fn held(&self) -> Option<Held>;
}

/// A sum over all events that a contender holds, every field of each read.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub struct Held {
    /// How many.
    pub events: u64,
    /// The sum of their seqs.
    pub seqs: u64,
    /// The sum of their bytes of text.
    pub text: u64,
    /// How many have a timestamp.
    pub dated: u64,
}

impl Held {
    /// Adds an event.
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

/// A contender on trial: counts what it was given.
pub struct Trial<'a> {
    contender: &'a dyn Contender,
    given: AtomicU64,
}

impl std::fmt::Debug for Trial<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Trial").field("given", &self.given).finish_non_exhaustive()
    }
}

impl<'a> Trial<'a> {
    /// Begins with what the contender has taken already.
    pub fn new(contender: &'a dyn Contender) -> Self {
        Self { contender, given: AtomicU64::new(contender.taken()) }
    }

    /// How long so many writers take for so many events in all.
    pub fn append(&self, writers: usize, events: u64) -> Duration {
        let time = timed(writers, events, |_, mine| self.contender.append(mine.end - mine.start));
        self.given.fetch_add(events, Ordering::Relaxed);
        time
    }
}

impl Drop for Trial<'_> {
    /// Checks that the contender took every event, and that it holds the last of them, whole.
    fn drop(&mut self) {
        if std::thread::panicking() {
            return;
        }
        let taken = self.contender.taken();
        assert_eq!(taken, self.given.load(Ordering::Relaxed), "as many taken as were given");
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

    /// Takes events, and gets something wrong.
    #[derive(Default)]
    struct Sloppy {
        taken: AtomicU64,
        /// How many of each hundred events it forgets to take.
        forgets: u64,
        /// By how much one of the texts that it holds is too short.
        cut: u64,
        /// How many of those that it holds have no timestamp.
        undated: u64,
    }

    impl Contender for Sloppy {
        fn append(&self, events: u64) {
            self.taken.fetch_add(events - events / 100 * self.forgets, Ordering::Relaxed);
        }

        fn taken(&self) -> u64 {
            self.taken.load(Ordering::Relaxed)
        }

        fn held(&self) -> Option<Held> {
            let taken = self.taken();
            let mut held = Held::expected(taken - 9, taken);
            held.text -= self.cut;
            held.dated -= self.undated;
            Some(held)
        }
    }

    /// Whether a contender that has appended two hundred events passes.
    fn passes(contender: &Sloppy) -> bool {
        panic::catch_unwind(AssertUnwindSafe(|| {
            Trial::new(contender).append(2, 200);
        }))
        .is_ok()
    }

    #[test]
    fn a_contender_that_does_less_than_its_work_is_found_out() {
        assert!(passes(&Sloppy::default()));
        assert!(!passes(&Sloppy { forgets: 1, ..Sloppy::default() }));
        assert!(!passes(&Sloppy { cut: 1, ..Sloppy::default() }));
        assert!(!passes(&Sloppy { undated: 1, ..Sloppy::default() }));
    }
}
