//! One contender under load, in this process.

use super::args::{Load, PeerName};
use super::mark::Clock;
use super::outcome::Outcome;
use super::pool::Pool;
use super::reader::{self, Kind, Read};
use super::writer::{Pace, Work, Written};
use crate::Result;
use crate::contenders::{Broadcast, Plain, Pylon, Ringlog};
use crate::machine::{self, processor_nanos};
use crate::peer::{Account, Peer};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Barrier, OnceLock};
use std::thread::{self, ScopedJoinHandle};
use thread_priority::ThreadPriority;
use thread_priority::unix::{
    NormalThreadSchedulePolicy, ThreadSchedulePolicy, set_thread_priority_and_policy, thread_native_id,
};

/// The most events that fill the window before the clock starts.
const MOST_BEFORE: u64 = 20_000_000;

/// Events in a batch of the writer that is suspended: long enough that it often is between claim
/// and publish.
const SUSPENDED_BATCH: usize = 64;

/// Runs a load, and checks what came of it.
pub(super) fn run(name: PeerName, load: &Load) -> Result<Outcome> {
    let pool = Pool::of(load)?;
    let resident_before = machine::resident();
    let peer = make(name, load)?;
    let filled = fill(&*peer, &pool, load);
    let processor_before = processor_nanos();
    let all = threads(&*peer, &pool, load);
    let processor = processor_nanos() - processor_before;
    all.check(name, filled);

    let mut outcome = Outcome {
        by_suspended: all.suspended.events,
        seconds: all.seconds,
        processor_seconds: processor as f64 / 1e9,
        resident: machine::resident().saturating_sub(resident_before),
        superseded: all.account.superseded,
        ..Outcome::default()
    };
    for written in &all.written {
        outcome.appended += written.events;
        outcome.bytes += written.bytes;
        outcome.append.add(&written.times);
    }
    for read in all.read {
        outcome.delivery.add(&read.times);
        outcome.readers.push(read.reading);
    }
    Ok(outcome)
}

/// A contender of this name.
fn make(name: PeerName, load: &Load) -> Result<Box<dyn Peer>> {
    let window = load.window as usize;
    Ok(match name {
        PeerName::Ringlog => Box::new(Ringlog::with_slots(window, load.slot)?),
        PeerName::Mutex => Box::new(Plain::new(window)),
        PeerName::Broadcast => Box::new(Broadcast::new(window)),
        PeerName::Pylon => Box::new(Pylon::locked(window)),
        PeerName::PylonBare => Box::new(Pylon::new(window)),
    })
}

/// Goes round the window twice, so that all memory has been touched. Returns how many events that
/// took.
fn fill(peer: &dyn Peer, pool: &Pool, load: &Load) -> u64 {
    let mut writer = peer.writer();
    let (mut left, mut filled) = ((2 * load.window).min(MOST_BEFORE), 0);
    while left > 0 {
        let part = &pool.ops[..pool.ops.len().min(left as usize).min(256)];
        writer.append(part, None);
        left -= part.len() as u64;
        filled += part.len() as u64;
    }
    filled
}

/// What all threads did.
struct All {
    written: Vec<Written>,
    suspended: Written,
    read: Vec<Read>,
    account: Account,
    seconds: f64,
}

impl All {
    fn check(&self, name: PeerName, filled: u64) {
        let parts = || self.written.iter().chain([&self.suspended]);
        let offered: u64 = parts().map(|written| written.events).sum();
        let bytes: u64 = parts().map(|written| written.bytes).sum();
        if let Some(appended) = self.account.appended {
            assert_eq!(appended, filled + offered, "as many seqs as events");
        }
        for Read { reading, bytes: seen, .. } in &self.read {
            assert_eq!(
                reading.read + reading.lost,
                offered,
                "{reading:?}: what was offered was read or told lost"
            );
            let counts_bytes = !matches!(name, PeerName::Pylon | PeerName::PylonBare);
            assert!(
                reading.lost > 0 || *seen == bytes || !counts_bytes,
                "{reading:?}: {seen} of {bytes} bytes"
            );
        }
    }
}

/// Starts all threads at a time, and ends the writers first.
fn threads(peer: &dyn Peer, pool: &Pool, load: &Load) -> All {
    let kinds = Kind::all(load);
    let ready = Barrier::new(load.writers as usize + kinds.len() + usize::from(load.suspend) + 1);
    // The clock starts when all threads are ready.
    let clock = OnceLock::new();
    let start = || {
        ready.wait();
        *clock.get_or_init(Clock::start)
    };
    let (stop, over) = (AtomicBool::new(false), AtomicBool::new(false));
    let until = load.duration.as_nanos() as u64;
    thread::scope(|scope| {
        let readers: Vec<_> = kinds
            .iter()
            .map(|&kind| {
                let (start, over) = (&start, &over);
                scope.spawn(move || {
                    let mut reader = peer.reader();
                    reader::read(kind, &mut *reader, start(), over)
                })
            })
            .collect();
        let writers: Vec<_> = (0..load.writers)
            .map(|number| {
                let start = &start;
                let work = work(pool, load, number);
                scope.spawn(move || {
                    let mut writer = peer.writer();
                    work.run(&mut *writer, start(), until)
                })
            })
            .collect();
        let suspended = load.suspend.then(|| {
            scope.spawn(|| {
                run_when_idle();
                let mut writer = peer.writer();
                start();
                let work = Work { batch: SUSPENDED_BATCH, pace: None, mark_every: 0, ..work(pool, load, 0) };
                work.run_until(&mut *writer, || stop.load(Ordering::Relaxed))
            })
        });
        let clock = start();
        let written = writers.into_iter().map(joined).collect();
        let seconds = clock.now() as f64 / 1e9;
        stop.store(true, Ordering::Relaxed);
        let suspended = suspended.map(joined).unwrap_or_default();
        let account = peer.close();
        over.store(true, Ordering::Release);
        All { written, suspended, read: readers.into_iter().map(joined).collect(), account, seconds }
    })
}

fn joined<T>(thread: ScopedJoinHandle<'_, T>) -> T {
    thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
}

/// What a writer of this number does.
fn work<'a>(pool: &'a Pool, load: &Load, number: u64) -> Work<'a> {
    let pace = load.rate.map(|rate| {
        let interval = (load.writers * load.batch) as f64 / rate * 1e9;
        Pace { first: interval * number as f64 / load.writers as f64, interval }
    });
    let mark_every = match (load.pullers + load.followers, load.rate) {
        (0, _) => 0,
        (_, Some(_)) => 1,
        // Without a rate there are more calls than a reader should have to look at its clock for.
        (_, None) => 16,
    };
    let start = pool.start(number, load.writers);
    Work { pool, batch: load.batch as usize, place: start, pace, mark_every }
}

/// From now on, this thread runs only when no other wants its core.
fn run_when_idle() {
    let policy = ThreadSchedulePolicy::Normal(NormalThreadSchedulePolicy::Idle);
    let set = set_thread_priority_and_policy(thread_native_id(), ThreadPriority::Min, policy);
    set.unwrap_or_else(|error| panic!("the system does not schedule a thread as idle: {error:?}"));
}
