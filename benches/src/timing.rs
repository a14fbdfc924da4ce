//! How long so many threads take.

use hdrhistogram::Histogram;
use std::ops::Range;
use std::sync::Barrier;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

/// The wall-clock time from when the first of the threads begins until the last of them has done
/// its part of `rounds`.
///
/// `work` gets the thread's number and which of the rounds are its own: they are shared out as
/// evenly as can be. Several threads are spread over the cores, and each looks at the clock itself:
/// else two may share a core for a few milliseconds until the scheduler separates them, and a
/// thread that waits for all may get to run when they are done already.
pub fn timed(threads: usize, rounds: u64, work: impl Fn(usize, Range<u64>) + Sync) -> Duration {
    let part = |thread| rounds * thread as u64 / threads as u64;
    let times = |thread| {
        let start = Instant::now();
        work(thread, part(thread)..part(thread + 1));
        (start, Instant::now())
    };
    if threads == 1 {
        let (start, end) = times(0);
        return end - start;
    }
    let barrier = Barrier::new(threads);
    let at_once = |thread| {
        stay_on_core(thread);
        barrier.wait();
        times(thread)
    };
    let times: Vec<(Instant, Instant)> = thread::scope(|scope| {
        let at_once = &at_once;
        let workers: Vec<_> = (0..threads).map(|thread| scope.spawn(move || at_once(thread))).collect();
        workers.into_iter().map(|worker| worker.join().expect("its work is done")).collect()
    });
    let first = times.iter().map(|(start, _)| *start).min();
    let last = times.iter().map(|(_, end)| *end).max();
    first.zip(last).map_or(Duration::ZERO, |(first, last)| last - first)
}

/// Binds the calling thread to a core: thread after thread in turn to those that the process may
/// use. Where that is not possible the scheduler decides, as it would have.
fn stay_on_core(thread: usize) {
    let cores = core_affinity::get_core_ids().unwrap_or_default();
    if let Some(core) = cores.get(thread % cores.len().max(1)) {
        core_affinity::set_for_current(*core);
    }
}

/// Runs all in turn, each turn beginning with another one. Returns for each what its turns gave.
pub fn in_turns<C, T>(turns: usize, all: &mut [C], mut run: impl FnMut(&mut C) -> T) -> Vec<Vec<T>> {
    let mut results: Vec<Vec<T>> = all.iter().map(|_| Vec::with_capacity(turns)).collect();
    for turn in 0..turns {
        for place in 0..all.len() {
            let place = (turn + place) % all.len();
            results[place].push(run(&mut all[place]));
        }
    }
    results
}

/// A histogram of nanoseconds, with three digits, that grows as it must.
pub fn histogram() -> Histogram<u64> {
    Histogram::new(3).expect("three digits")
}

/// The nanoseconds since a moment.
pub fn nanos_since(start: Instant) -> u64 {
    start.elapsed().as_nanos() as u64
}

/// Tells threads to stop, also when what they stay for panics.
pub struct StopOnDrop<'a>(pub &'a AtomicBool);

impl Drop for StopOnDrop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Release);
    }
}

/// As many threads as run at a time.
pub fn cores() -> usize {
    thread::available_parallelism().map_or(1, std::num::NonZero::get)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::AtomicU64;

    #[test]
    fn the_time_is_that_of_the_slowest_thread_at_least() {
        let slow = Duration::from_millis(5);
        for threads in [1, 2, 5] {
            let work = |thread, _| {
                if thread == threads - 1 {
                    thread::sleep(slow);
                }
            };
            assert!(timed(threads, 5, work) >= slow);
        }
    }

    #[test]
    fn every_round_is_done_once() {
        for (threads, rounds) in [(1, 0), (1, 5), (2, 5), (4, 3), (3, 100)] {
            let (count, sum) = (AtomicU64::new(0), AtomicU64::new(0));
            timed(threads, rounds, |_, mine| {
                count.fetch_add(mine.end - mine.start, Ordering::Relaxed);
                sum.fetch_add(mine.sum(), Ordering::Relaxed);
            });
            assert_eq!(count.into_inner(), rounds);
            assert_eq!(sum.into_inner(), (0..rounds).sum::<u64>());
        }
    }
}
