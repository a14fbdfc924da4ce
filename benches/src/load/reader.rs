//! Readers.

use super::args::Load;
use super::mark::{self, Clock};
use super::outcome::{Reading, Times};
use crate::peer::{Progress, Reader};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

/// How a reader reads.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Puller,
    Follower,
    Slow,
}

impl Kind {
    /// Those that a load asks for.
    pub(super) fn all(load: &Load) -> Vec<Self> {
        let kinds = [(Self::Puller, load.pullers), (Self::Follower, load.followers), (Self::Slow, load.slow)];
        kinds.into_iter().flat_map(|(kind, count)| std::iter::repeat_n(kind, count as usize)).collect()
    }

    fn as_str(self) -> &'static str {
        match self {
            Self::Puller => "puller",
            Self::Follower => "follower",
            Self::Slow => "slow",
        }
    }
}

/// How long a follower sleeps before it looks whether all is over.
const WAIT: Duration = Duration::from_millis(100);

/// What a slow reader does between two reads, which it does nothing with.
const PAUSE: Duration = Duration::from_millis(20);

/// What a reader went through, in full.
#[derive(Debug)]
pub(super) struct Read {
    pub(super) reading: Reading,
    pub(super) bytes: u64,
    pub(super) times: Times,
}

/// Reads until all is over and nothing is left.
pub(super) fn read(kind: Kind, reader: &mut dyn Reader, clock: Clock, over: &AtomicBool) -> Read {
    let reading = Reading { kind: kind.as_str().into(), read: 0, lost: 0, lapped: 0 };
    let mut all = Read { reading, bytes: 0, times: Times::default() };
    loop {
        let ending = over.load(Ordering::Acquire);
        let wait = if kind == Kind::Follower && !ending { WAIT } else { Duration::ZERO };
        let (bytes, times) = (&mut all.bytes, &mut all.times);
        let progress = reader.next(wait, &mut |row_id, text| {
            *bytes += text;
            if kind != Kind::Slow
                && let Some(start) = mark::read(row_id)
            {
                times.record(clock.now() - start);
            }
        });
        all.reading.read += progress.read;
        all.reading.lost += progress.lost;
        all.reading.lapped += u64::from(progress.lost > 0);
        if ending && progress == Progress::default() {
            return all;
        }
        if kind == Kind::Slow && !ending {
            std::thread::sleep(PAUSE);
        }
    }
}
