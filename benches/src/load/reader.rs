//! Readers.

use super::args::Load;
use super::outcome::{Kind, Reading, Times};
use super::writer;
use crate::contender::{Progress, Reader};
use crate::timing::nanos_since;
use std::iter::repeat_n;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

/// Those that a load asks for.
pub(super) fn kinds(load: &Load) -> Vec<Kind> {
    let kinds = [(Kind::Puller, load.pullers), (Kind::Follower, load.followers), (Kind::Slow, load.slow)];
    kinds.into_iter().flat_map(|(kind, count)| repeat_n(kind, count as usize)).collect()
}

/// The most that is read at a time.
pub(super) const LIMIT: usize = 256;

/// How long a follower sleeps before it looks whether all is over.
const WAIT: Duration = Duration::from_millis(100);

/// What a slow reader does between two reads, which it does nothing with.
const PAUSE: Duration = Duration::from_millis(20);

/// What a reader went through, in full.
pub(super) struct Read {
    pub(super) kind: Kind,
    pub(super) reading: Reading,
    pub(super) bytes: u64,
    pub(super) times: Times,
}

/// Reads until all is over and nothing is left.
pub(super) fn read(kind: Kind, mut reader: Reader<'_>, origin: Instant, over: &AtomicBool) -> Read {
    let mut all = Read { kind, reading: Reading::default(), bytes: 0, times: Times::default() };
    loop {
        let ending = over.load(Ordering::Acquire);
        let wait = if kind == Kind::Follower && !ending { WAIT } else { Duration::ZERO };
        let progress = reader(wait, &mut |row_id, text| {
            all.bytes += text;
            if kind != Kind::Slow
                && let Some(start) = writer::read_mark(row_id)
            {
                all.times.0 += nanos_since(origin) - start;
            }
        });
        let lapped = u64::from(progress.lost > 0);
        all.reading.add(&Reading { read: progress.read, lost: progress.lost, lapped });
        if ending && progress == Progress::default() {
            return all;
        }
        if kind == Kind::Slow && !ending {
            std::thread::sleep(PAUSE);
        }
    }
}
