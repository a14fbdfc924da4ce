//! How long so many threads take.

use std::ops::Range;
use std::sync::Barrier;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

/// The wall-clock time from when all threads are ready until the last of them has done its part of `rounds`.
///
/// `work` gets the thread's number and which of the rounds are its own: they are shared out as evenly as can be.
pub fn timed(threads: usize, rounds: u64, work: impl Fn(usize, Range<u64>) + Sync) -> Duration {
    if threads == 1 {
        let start = Instant::now();
        work(0, 0..rounds);
        return start.elapsed();
    }
    let barrier = Barrier::new(threads + 1);
    std::thread::scope(|scope| {
        for thread in 0..threads {
            let (barrier, work) = (&barrier, &work);
            let part = |thread| rounds * thread as u64 / threads as u64;
            scope.spawn(move || {
                barrier.wait();
                work(thread, part(thread)..part(thread + 1));
                barrier.wait();
            });
        }
        barrier.wait();
        let start = Instant::now();
        barrier.wait();
        start.elapsed()
    })
}

/// How criterion measures here: as shortly as it can be done, since there is much to measure.
pub fn criterion() -> criterion::Criterion {
    criterion::Criterion::default()
        .warm_up_time(Duration::from_millis(300))
        .measurement_time(Duration::from_millis(1500))
}

/// Tells threads to stop, also when what they stay for panics.
#[derive(Debug)]
pub struct StopOnDrop<'a>(pub &'a AtomicBool);

impl Drop for StopOnDrop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Release);
    }
}

/// As many threads as run at a time.
pub fn cores() -> usize {
    std::thread::available_parallelism().map_or(1, std::num::NonZero::get)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::AtomicU64;

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
