//! One contender under load, in this process.

use super::args::{Load, PeerName};
use super::outcome::Outcome;
use super::reader::{self, Read};
use super::writer::{self, Pace, Writer, Written};
use crate::Result;
use crate::contender::Contender;
use crate::contenders::{Broadcast, Plain, Pylon};
use crate::machine::{processor_nanos, resident};
use crate::timing::nanos_since;
use ringlog::{Builder, Change, ChangeLog};
use ringlog_replay::generate;
use ringlog_replay::input::{self, Op};
use serde_json::value::RawValue;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Barrier, OnceLock};
use std::thread::{self, ScopedJoinHandle};
use std::time::Instant;
use thread_priority::ThreadPriority;
use thread_priority::unix::{
    NormalThreadSchedulePolicy, ThreadSchedulePolicy, set_thread_priority_and_policy, thread_native_id,
};

/// The most events that fill the window before the clock starts.
const MOST_BEFORE: u64 = 20_000_000;

/// Events in a batch of the writer that is suspended: long enough that it often is between claim
/// and publish.
const SUSPENDED_BATCH: usize = 64;

/// What writers append, made before the clock starts.
pub(super) fn ops(load: &Load) -> Result<Vec<Op>> {
    let input = match &load.input {
        Some(path) => input::open(path)?,
        None => generate::requests(load.requests, 1)?,
    };
    let mut ops: Vec<Op> = input.requests.into_iter().flatten().collect();
    if let Some(op) = ops.iter().find(|op| writer::read_mark(&op.row_id).is_some()) {
        return Err(format!("the row id `{}` looks like a mark of this program's", op.row_id).into());
    }
    if let Some(bytes) = load.payload {
        let text = "x".repeat(bytes as usize - r#"{"text":""}"#.len());
        let filler = RawValue::from_string(format!(r#"{{"text":"{text}"}}"#))?;
        ops.iter_mut().filter_map(|op| op.data.as_mut()).for_each(|data| data.clone_from(&filler));
    }
    Ok(ops)
}

/// Runs a load, and checks what came of it.
pub(super) fn run(name: PeerName, load: &Load) -> Result<Outcome> {
    let ops = ops(load)?;
    let changes: Vec<_> = ops.iter().map(|op| writer::change(op, &op.row_id)).collect();
    let resident_before = resident();
    let contender = &*make(name, load)?;
    let filled = fill(contender, &changes, load);
    let all =
        Writer { contender, ops: &ops, changes: &changes, batch: 0, place: 0, pace: None, mark_every: 0 };
    let processor_before = processor_nanos();
    let (seconds, written, suspended, read) = threads(&all, load);
    let processor_seconds = (processor_nanos() - processor_before) as f64 / 1e9;

    let offered: u64 = suspended.events + written.iter().map(|written| written.events).sum::<u64>();
    let bytes: u64 = suspended.bytes + written.iter().map(|written| written.bytes).sum::<u64>();
    assert_eq!(contender.taken(), filled + offered, "as many seqs as events");
    let counts_bytes = !matches!(name, PeerName::Pylon | PeerName::PylonBare);
    for Read { kind, reading, bytes: seen, .. } in &read {
        let known = reading.read + reading.lost;
        assert_eq!(known, offered, "{kind:?}, {reading:?}: what was offered was read or told lost");
        let whole = reading.lost > 0 || *seen == bytes || !counts_bytes;
        assert!(whole, "{kind:?}, {reading:?}: {seen} of {bytes} bytes");
    }

    let mut outcome = Outcome {
        appended: offered - suspended.events,
        bytes: bytes - suspended.bytes,
        by_suspended: suspended.events,
        seconds,
        processor_seconds,
        resident: resident().saturating_sub(resident_before),
        superseded: contender.superseded(),
        ..Outcome::default()
    };
    for written in written {
        outcome.append.0 += written.times.0;
    }
    for Read { kind, reading, times, .. } in read {
        outcome.delivery.0 += times.0;
        outcome.readers.entry(kind).or_default().add(&reading);
    }
    Ok(outcome)
}

/// A contender of this name.
fn make(name: PeerName, load: &Load) -> Result<Box<dyn Contender>> {
    let window = load.window as usize;
    let builder = ChangeLog::builder().capacity(window);
    Ok(match name {
        PeerName::Ringlog => Box::new(load.slot.into_iter().fold(builder, Builder::slot_size).build()?),
        PeerName::Mutex => Box::new(Plain::with_window(window)),
        PeerName::Broadcast => Box::new(Broadcast::with_window(window)),
        PeerName::Pylon => Box::new(Pylon::locked(window)),
        PeerName::PylonBare => Box::new(Pylon::with_window(window)),
    })
}

/// Goes round the window twice, so that all memory has been touched. Returns how many events that
/// took.
fn fill(contender: &dyn Contender, changes: &[Change<'_>], load: &Load) -> u64 {
    let events = (2 * load.window).min(MOST_BEFORE);
    let mut left = events as usize;
    while left > 0 {
        let part = &changes[..changes.len().min(left).min(256)];
        contender.append_events(part);
        left -= part.len();
    }
    events
}

/// Starts all threads at a time, and ends the writers first. Returns for how many seconds they
/// wrote, what they did, and what the readers did.
fn threads(like: &Writer<'_>, load: &Load) -> (f64, Vec<Written>, Written, Vec<Read>) {
    let kinds = reader::kinds(load);
    let ready = Barrier::new(load.writers as usize + kinds.len() + usize::from(load.suspend) + 1);
    // The clock starts when all threads are ready.
    let origin = OnceLock::new();
    let start = || {
        ready.wait();
        *origin.get_or_init(Instant::now)
    };
    let (stop, over) = (AtomicBool::new(false), AtomicBool::new(false));
    let until = load.duration.as_nanos() as u64;
    thread::scope(|scope| {
        let spawn_reader = |kind| {
            let (start, over) = (&start, &over);
            scope.spawn(move || {
                let reader = like.contender.reader(reader::LIMIT);
                reader::read(kind, reader, start(), over)
            })
        };
        let spawn_writer = |number| {
            let (start, writer) = (&start, writer(like, load, number));
            scope.spawn(move || writer.run(start(), until))
        };
        let readers: Vec<_> = kinds.into_iter().map(spawn_reader).collect();
        let writers: Vec<_> = (0..load.writers).map(spawn_writer).collect();
        let suspended = load.suspend.then(|| {
            scope.spawn(|| {
                run_when_idle();
                start();
                let writer = Writer { batch: SUSPENDED_BATCH, ..like.clone() };
                writer.run_until(|| stop.load(Ordering::Relaxed))
            })
        });
        let origin = start();
        let written = writers.into_iter().map(joined).collect();
        let seconds = nanos_since(origin) as f64 / 1e9;
        stop.store(true, Ordering::Relaxed);
        let suspended = suspended.map(joined).unwrap_or_default();
        over.store(true, Ordering::Release);
        like.contender.close();
        (seconds, written, suspended, readers.into_iter().map(joined).collect())
    })
}

fn joined<T>(thread: ScopedJoinHandle<'_, T>) -> T {
    thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
}

/// The writer of this number. All begin at different places.
fn writer<'a>(like: &Writer<'a>, load: &Load, number: u64) -> Writer<'a> {
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
    let start = like.ops.len() * number as usize / load.writers as usize;
    Writer { batch: load.batch as usize, place: start, pace, mark_every, ..like.clone() }
}

/// From now on, this thread runs only when no other wants its core.
fn run_when_idle() {
    let policy = ThreadSchedulePolicy::Normal(NormalThreadSchedulePolicy::Idle);
    let set = set_thread_priority_and_policy(thread_native_id(), ThreadPriority::Min, policy);
    set.unwrap_or_else(|error| panic!("the system does not schedule a thread as idle: {error:?}"));
}
