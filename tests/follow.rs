//! Waiting and following: no wake-up lost, no waiter left asleep, every event once, no silent skip.
//!
//! The limits of time in here are no measure of speed: a wait that runs into one has lost its
//! wake-up.

#[path = "common/waking.rs"]
mod waking;

use ringlog::{
    Change, ChangeLog, Closed, Filter, Follower, Next, Resync, ResyncReason, StartPolicy, Stats, TimedOut,
    WaitError, WaitFor,
};
use std::future::Future;
use std::pin::pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, mpsc};
use std::task::{Context, Poll};
use std::thread;
use std::time::{Duration, Instant};
use waking::{Sleeper, block_on, waker};

/// Long enough to be out of the question.
const NEVER: Duration = Duration::from_secs(60);

/// More than the machine has cores.
const MANY: usize = 8;

fn append(log: &ChangeLog) -> u64 {
    log.append_change(&Change::update("Todo", "t1"))
}

fn append_many(log: &ChangeLog, events: usize) {
    for _ in 0..events {
        append(log);
    }
}

fn seqs(batch: &ringlog::Events<'_>) -> Vec<u64> {
    batch.iter().map(|event| event.seq()).collect()
}

fn waiters(log: &ChangeLog) -> u64 {
    let Stats { waiters, .. } = log.stats();
    waiters
}

/// Waits until so many wait at the log.
fn until_waiting(log: &ChangeLog, count: u64) {
    let give_up = Instant::now() + NEVER;
    while waiters(log) != count {
        assert!(Instant::now() < give_up, "{} wait, and not {count}", waiters(log));
        thread::yield_now();
    }
}

#[test]
fn what_follows_can_be_sent() {
    fn sent<T: Send>() {}
    sent::<Follower>();
    sent::<Next<'_>>();
    sent::<WaitFor<'_>>();
}

// Waiting for a seq.

#[test]
fn a_wait_for_what_is_visible_returns_the_head() {
    let log = ChangeLog::new();
    append_many(&log, 3);
    assert_eq!(log.blocking_wait_for(2, Duration::ZERO), Ok(3));
    assert_eq!(log.blocking_wait_for(0, Duration::ZERO), Ok(3));
    assert_eq!(block_on(log.wait_for(3)), Ok(3));
    assert_eq!(waiters(&log), 0);
}

#[test]
fn a_wait_ends_at_its_deadline() {
    let log = ChangeLog::new();
    append_many(&log, 3);
    for timeout in [Duration::ZERO, Duration::from_millis(5)] {
        let answer = log.blocking_wait_for(5, timeout);
        assert!(matches!(answer, Err(WaitError::TimedOut(TimedOut { seq: 5, head: 3, .. }))), "{answer:?}");
        assert_eq!(waiters(&log), 0);
    }
    let error = log.blocking_wait_for(u64::MAX, Duration::ZERO).unwrap_err();
    assert_eq!(error.to_string(), "timed out waiting for seq 18446744073709551615: head is 3");
}

/// What becomes visible in the last moment is no time-out.
#[test]
fn a_time_out_names_a_head_before_the_seq_waited_for() {
    const EVENTS: u64 = 100_000;
    let log = Arc::new(ChangeLog::with_capacity(64));
    thread::scope(|scope| {
        let writer = scope.spawn(|| append_many(&log, EVENTS as usize));
        let mut waits = 0_u64;
        while !writer.is_finished() {
            waits += 1;
            let timeout =
                if waits.is_multiple_of(2) { Duration::ZERO } else { Duration::from_nanos(waits % 5_000) };
            match log.blocking_wait_for(log.head() + 1, timeout) {
                Ok(_) => {}
                Err(WaitError::TimedOut(TimedOut { seq, head, .. })) => {
                    assert!(head < seq, "{head} for {seq}");
                }
                Err(error) => panic!("{error}"),
            }
        }
    });
    assert_eq!((waiters(&log), log.head()), (0, EVENTS));
}

#[test]
fn a_wait_without_end_is_woken() {
    let log = Arc::new(ChangeLog::new());
    let waiter = thread::spawn({
        let log = Arc::clone(&log);
        move || log.blocking_wait_for(2, Duration::MAX)
    });
    until_waiting(&log, 1);
    append(&log);
    until_waiting(&log, 1);
    append(&log);
    assert_eq!(waiter.join().unwrap(), Ok(2));
    assert_eq!(waiters(&log), 0);
}

/// Each round has one append, and no later one that could make up for a wake-up that it lost.
#[test]
fn every_waiting_thread_is_woken_by_one_append() {
    const ROUNDS: u64 = 2_000;
    let log = Arc::new(ChangeLog::with_capacity(100));
    let (seen, seen_by) = mpsc::channel();
    let threads: Vec<_> = (0..MANY)
        .map(|_| {
            let (log, seen) = (Arc::clone(&log), seen.clone());
            thread::spawn(move || {
                for seq in 1..=ROUNDS {
                    let head = log.blocking_wait_for(seq, NEVER).expect("a lost wake-up");
                    assert_eq!(head, seq, "the next round waits for all");
                    seen.send(seq).unwrap();
                }
            })
        })
        .collect();
    for seq in 1..=ROUNDS {
        assert_eq!(append(&log), seq);
        for _ in 0..MANY {
            assert_eq!(seen_by.recv_timeout(NEVER), Ok(seq));
        }
    }
    for thread in threads {
        thread.join().unwrap();
    }
    assert_eq!(waiters(&log), 0);
}

/// Appends from all sides, and waits so short that most of them are given up while they are being
/// woken.
#[test]
fn a_storm_of_appends_and_short_waits_loses_nothing() {
    const WRITERS: u64 = 4;
    const EACH: u64 = 20_000;
    let log = Arc::new(ChangeLog::with_capacity(64));
    let timed_out = AtomicU64::new(0);
    thread::scope(|scope| {
        for _ in 0..WRITERS {
            scope.spawn(|| {
                for number in 0..EACH {
                    append(&log);
                    if number % 64 == 0 {
                        thread::yield_now();
                    }
                }
            });
        }
        for waiter in 0..MANY as u64 {
            let (log, timed_out) = (&log, &timed_out);
            scope.spawn(move || {
                let mut head = 0;
                let mut round = waiter;
                while head < WRITERS * EACH {
                    round += 1;
                    let timeout = Duration::from_micros(round * 37 % 200);
                    let wanted = (head + 1 + round % 7).min(WRITERS * EACH);
                    match log.blocking_wait_for(wanted, timeout) {
                        Ok(reached) => {
                            assert!(reached >= wanted);
                            head = reached;
                        }
                        Err(error) => {
                            let WaitError::TimedOut(error) = error else { panic!("not closed") };
                            assert!(error.seq == wanted && error.head < wanted, "{error:?}");
                            timed_out.fetch_add(1, Ordering::Relaxed);
                            // What is up to the others now must come, without a further append if
                            // this was the last.
                            head = log.blocking_wait_for(head + 1, NEVER).expect("a lost wake-up");
                        }
                    }
                }
                assert_eq!(log.blocking_wait_for(WRITERS * EACH, NEVER), Ok(WRITERS * EACH));
            });
        }
    });
    assert_eq!(waiters(&log), 0);
    assert_eq!(log.head(), WRITERS * EACH);
}

// Cancelling, and the baton.

/// Polls `wait_for` so many times, with an append somewhere between or not at all, and drops it.
#[test]
fn a_wait_can_be_cancelled_between_any_two_polls() {
    for polls in 0..4 {
        for append_before in 0..6 {
            let log = ChangeLog::new();
            let mut sleeper = Sleeper::new(log.wait_for(1));
            let other = Sleeper::polled(log.wait_for(1));
            for poll in 0..polls {
                if poll == append_before {
                    append(&log);
                }
                let ready = sleeper.poll();
                assert_eq!(ready, if log.head() >= 1 { Poll::Ready(Ok(1)) } else { Poll::Pending });
                assert_eq!(waiters(&log), if log.head() >= 1 { 0 } else { 2 });
                if ready.is_ready() {
                    break;
                }
            }
            drop(sleeper);
            if log.head() == 0 {
                assert_eq!(waiters(&log), 1, "the other");
                append(&log);
            }
            assert_eq!(other.woken(), 1, "{polls} polls, append before {append_before}");
            drop(other);
            assert_eq!(waiters(&log), 0);
        }
    }
}

/// What an append may wake by itself.
const FAN_OUT: usize = 4;

#[test]
fn an_append_wakes_a_few_and_these_wake_the_others() {
    let log = ChangeLog::new();
    let mut sleepers: Vec<_> = (0..10_000).map(|_| Sleeper::polled(log.wait_for(1))).collect();
    assert_eq!(waiters(&log), 10_000);
    append(&log);
    assert_eq!(sleepers.iter().filter(|sleeper| sleeper.woken() > 0).count(), FAN_OUT);

    let mut done = 0;
    while done < sleepers.len() {
        let before = done;
        for sleeper in &mut sleepers {
            if sleeper.rouse() {
                assert_eq!(sleeper.poll(), Poll::Ready(Ok(1)));
                assert_eq!(sleeper.woken(), 1, "woken once, for something");
                done += 1;
            }
        }
        assert!(done > before, "{done} woken, and the baton is lost");
    }
    assert_eq!(waiters(&log), 0);
}

#[test]
fn who_is_woken_and_gives_up_passes_the_wake_up_on() {
    let log = ChangeLog::new();
    let mut sleepers: Vec<_> = (0..100).map(|_| Sleeper::polled(log.wait_for(1))).collect();
    append(&log);
    // None of those that are woken is polled again: they are dropped, all of them.
    while !sleepers.is_empty() {
        let before = sleepers.len();
        sleepers.retain(|sleeper| sleeper.woken() == 0);
        assert!(sleepers.len() < before, "{before} are left asleep");
    }
    assert_eq!(waiters(&log), 0);
}

/// Polls those that were woken, as their runtime would.
fn poll_roused(sleepers: &mut [Sleeper<WaitFor<'_>>], head: u64) {
    let mut roused = 0;
    for sleeper in sleepers {
        if sleeper.rouse() {
            assert_eq!(sleeper.poll(), Poll::Ready(Ok(head)));
            roused += 1;
        }
    }
    assert!(roused > 0, "the baton is lost");
}

#[test]
fn who_waits_for_a_later_seq_sleeps_on() {
    let log = ChangeLog::new();
    let mut later: Vec<_> = (0..20).map(|_| Sleeper::polled(log.wait_for(3))).collect();
    let mut sooner: Vec<_> = (0..20).map(|_| Sleeper::polled(log.wait_for(2))).collect();
    append(&log);
    assert!(later.iter().chain(&sooner).all(|sleeper| sleeper.woken() == 0));
    append(&log);
    while waiters(&log) > 20 {
        poll_roused(&mut sooner, 2);
    }
    assert!(sooner.iter().all(|sleeper| sleeper.woken() == 1));
    assert!(later.iter().all(|sleeper| sleeper.woken() == 0));
    for sleeper in &mut later {
        assert_eq!(sleeper.poll(), Poll::Pending, "still there");
    }
    assert_eq!(waiters(&log), 20);
    drop(later);
    assert_eq!(waiters(&log), 0);
}

#[test]
fn a_batch_wakes_all_that_it_makes_visible() {
    let log = ChangeLog::new();
    let mut sleepers: Vec<_> = (1..=30).map(|seq| Sleeper::polled(log.wait_for(seq))).collect();
    log.append_batch(&vec![Change::update("Todo", "t1"); 20]);
    while waiters(&log) > 10 {
        poll_roused(&mut sleepers, 20);
    }
    assert!(sleepers[..20].iter().all(|sleeper| sleeper.woken() == 1));
    assert!(sleepers[20..].iter().all(|sleeper| sleeper.woken() == 0));
}

#[test]
fn a_wait_that_moves_to_another_task_wakes_that_one() {
    let log = ChangeLog::new();
    let mut visible = pin!(log.wait_for(1));
    let (first, first_waker) = waker();
    let (second, second_waker) = waker();
    for waker in [&first_waker, &second_waker] {
        assert!(visible.as_mut().poll(&mut Context::from_waker(waker)).is_pending());
    }
    assert_eq!(waiters(&log), 1);
    append(&log);
    assert_eq!((first.count(), second.count()), (0, 1));
}

/// Tasks and threads wait side by side, and each round has one append.
#[test]
fn tasks_and_threads_wake_each_other() {
    const ROUNDS: u64 = 500;
    let log = Arc::new(ChangeLog::new());
    let (seen, seen_by) = mpsc::channel();
    thread::scope(|scope| {
        for _ in 0..4 {
            let (log, seen) = (&log, seen.clone());
            scope.spawn(move || {
                for seq in 1..=ROUNDS {
                    log.blocking_wait_for(seq, NEVER).expect("a lost wake-up");
                    seen.send(seq).unwrap();
                }
            });
        }
        for _ in 0..2 {
            let (log, seen) = (&log, seen.clone());
            scope.spawn(move || {
                let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
                for seq in 1..=ROUNDS {
                    let tasks: Vec<_> = (0..20)
                        .map(|_| {
                            let log = Arc::clone(log);
                            runtime.spawn(async move { log.wait_for(seq).await })
                        })
                        .collect();
                    runtime.block_on(async {
                        for task in tasks {
                            let head = tokio::time::timeout(NEVER, task).await.expect("a lost wake-up");
                            assert!(head.unwrap().is_ok_and(|head| head >= seq));
                        }
                    });
                    seen.send(seq).unwrap();
                }
            });
        }
        for seq in 1..=ROUNDS {
            assert_eq!(append(&log), seq);
            for _ in 0..6 {
                assert_eq!(seen_by.recv_timeout(NEVER), Ok(seq));
            }
        }
    });
    assert_eq!(waiters(&log), 0);
}

// Following.

#[test]
fn a_follower_catches_up_then_waits() {
    let log = Arc::new(ChangeLog::new());
    append_many(&log, 5);
    let mut follower = log.follow(1);
    assert_eq!(seqs(&follower.blocking_next(2, NEVER).unwrap().unwrap()), [2, 3]);
    let batch = follower.blocking_next(100, NEVER).unwrap().unwrap();
    assert_eq!((seqs(&batch), batch.has_more()), (vec![4, 5], false));
    drop(batch);
    let cursor = follower.cursor();
    assert_eq!((cursor.seq, cursor.incarnation), (5, Some(log.incarnation())));
    assert!(follower.blocking_next(100, Duration::ZERO).unwrap().unwrap().is_empty());
    assert!(follower.blocking_next(100, Duration::from_millis(5)).unwrap().unwrap().is_empty());
    assert!(follower.blocking_next(0, NEVER).unwrap().unwrap().is_empty(), "nothing to wait for");
    assert_eq!(follower.cursor(), cursor);

    let writer = thread::spawn({
        let log = Arc::clone(&log);
        move || {
            until_waiting(&log, 1);
            append(&log)
        }
    });
    assert_eq!(seqs(&follower.blocking_next(100, NEVER).unwrap().unwrap()), [6]);
    writer.join().unwrap();
    assert_eq!(waiters(&log), 0);
}

#[test]
fn a_follower_that_starts_during_a_burst_sees_every_event_once() {
    const WRITERS: u64 = 3;
    const EACH: u64 = 5_000;
    let log = Arc::new(ChangeLog::with_capacity((WRITERS * EACH) as usize));
    thread::scope(|scope| {
        for writer in 0..WRITERS {
            let log = &log;
            scope.spawn(move || {
                for number in 0..EACH {
                    let row_id = format!("{writer}:{number}");
                    if number % 10 == 0 {
                        thread::yield_now();
                    }
                    log.append_change(&Change::insert("Todo", &row_id));
                }
            });
        }
        for follower in 0..MANY as u64 {
            let log = &log;
            scope.spawn(move || {
                // Each starts at another time, from the beginning.
                log.blocking_wait_for(follower * WRITERS * EACH / MANY as u64, NEVER).unwrap();
                let mut follower = log.follow(0);
                let mut next = [0; WRITERS as usize];
                let mut seen = 0;
                while seen < WRITERS * EACH {
                    let batch = follower.blocking_next(1 + (seen % 50) as usize, NEVER).unwrap().unwrap();
                    assert!(!batch.is_empty(), "a lost wake-up at {seen}");
                    for event in &batch {
                        seen += 1;
                        assert_eq!(event.seq(), seen, "no gap, no duplicate");
                        let (writer, number) = event.row_id().split_once(':').unwrap();
                        let writer: usize = writer.parse().unwrap();
                        assert_eq!(number.parse(), Ok(next[writer]), "each writer's own order");
                        next[writer] += 1;
                    }
                }
            });
        }
    });
    assert_eq!(waiters(&log), 0);
}

/// A window so small that followers are lapped all the time: what they see and what they are told
/// to have missed must add up.
#[test]
fn the_books_of_lapped_followers_balance() {
    const WRITERS: u64 = 3;
    const EACH: u64 = 20_000;
    let log = Arc::new(ChangeLog::with_capacity(16));
    thread::scope(|scope| {
        for _ in 0..WRITERS {
            scope.spawn(|| append_many(&log, EACH as usize));
        }
        for _ in 0..MANY {
            scope.spawn(|| {
                let mut follower = log.follow(0);
                let (mut seen, mut missed) = (0, 0);
                while seen + missed < WRITERS * EACH {
                    match follower.blocking_next(8, NEVER) {
                        Ok(None) => panic!("the log is open"),
                        Ok(Some(batch)) => {
                            assert!(!batch.is_empty(), "a lost wake-up after {seen} seen, {missed} missed");
                            for event in &batch {
                                seen += 1;
                                assert_eq!(event.seq(), seen + missed, "no silent skip");
                            }
                        }
                        Err(resync) => {
                            assert_eq!(resync.reason, ResyncReason::Evicted);
                            assert_eq!(resync.requested, seen + missed);
                            assert!(resync.missed() > 0);
                            missed += resync.missed();
                            follower.seek(resync.oldest_seq - 1);
                        }
                    }
                }
                assert_eq!(seen + missed, WRITERS * EACH);
            });
        }
    });
    assert_eq!(waiters(&log), 0);
}

#[test]
fn a_follower_that_is_lapped_while_it_waits_is_told() {
    let log = Arc::new(ChangeLog::with_capacity(10));
    let (told, told_by) = mpsc::channel();
    let thread = thread::spawn({
        let mut follower = log.follow(0);
        move || {
            let first = follower.blocking_next(100, NEVER).map(|batch| batch.map(|batch| batch.len()));
            told.send(first).unwrap();
            follower
        }
    });
    until_waiting(&log, 1);
    log.append_batch(&vec![Change::update("Todo", "t1"); 25]);
    let resync = told_by.recv_timeout(NEVER).expect("a lost wake-up").unwrap_err();
    assert_eq!((resync.reason, resync.oldest_seq, resync.missed()), (ResyncReason::Evicted, 16, 15));

    // And again, until it says where to go on.
    let mut follower = thread.join().unwrap();
    append(&log);
    assert_eq!(follower.blocking_next(100, NEVER).unwrap_err(), resync);
    assert_eq!(block_on(follower.next(100)).unwrap_err(), resync);
    assert_eq!(follower.cursor().seq, 0);
    follower.seek(resync.head);
    assert_eq!(seqs(&follower.blocking_next(100, NEVER).unwrap().unwrap()), [26]);
}

/// A cursor ahead of the log would come into reach as the log grows: the follower must not go on
/// there by itself.
#[test]
fn a_follower_ahead_of_the_log_stays_refused() {
    let log = Arc::new(ChangeLog::new());
    let mut follower = log.follow(3);
    let resync = follower.blocking_next(100, NEVER).unwrap_err();
    assert_eq!((resync.reason, resync.missed()), (ResyncReason::Ahead, 0));
    append_many(&log, 5);
    assert_eq!(follower.blocking_next(100, NEVER).unwrap_err(), resync);
    follower.seek(3);
    assert_eq!(seqs(&follower.blocking_next(100, NEVER).unwrap().unwrap()), [4, 5]);
}

#[test]
fn a_log_that_keeps_nothing_tells_its_followers() {
    let log = Arc::new(ChangeLog::with_capacity(0));
    let mut follower = log.follow(0);
    let mut next = Sleeper::polled(follower.next(10));
    append(&log);
    assert!(next.rouse());
    let Poll::Ready(Err(resync)) = next.poll() else { panic!("a resync") };
    assert_eq!((resync.missed(), resync.head), (1, 1));
}

/// Where a bare 0 gets what is left of the window, a follower that began there has seen that the
/// log was empty: skipping to the tail would be silent.
#[test]
fn a_follower_from_0_is_told_that_it_was_lapped_where_others_get_the_tail() {
    let log = ChangeLog::builder().capacity(3).start_policy(StartPolicy::Earliest).build().unwrap();
    let log = Arc::new(log);
    let mut follower = log.follow(0);
    assert!(follower.blocking_next(10, Duration::ZERO).unwrap().unwrap().is_empty());
    append_many(&log, 5);
    assert_eq!(follower.blocking_next(10, NEVER).unwrap_err().missed(), 2);
    assert_eq!(seqs(&log.follow(0).blocking_next(10, NEVER).unwrap().unwrap()), [3, 4, 5]);
}

/// At each await point: before the first poll, asleep, woken, and with batches before it.
#[test]
fn a_follower_can_be_cancelled_between_any_two_polls() {
    let log = Arc::new(ChangeLog::new());
    let mut follower = log.follow(0);
    let mut expected = 1;
    for polls in 0..4 {
        for appends in 0..3 {
            let mut next = Sleeper::new(follower.next(1));
            for _ in 0..polls {
                assert!(next.poll().is_pending());
                assert_eq!(waiters(&log), 1);
            }
            append_many(&log, appends);
            assert_eq!(next.woken(), usize::from(polls > 0 && appends > 0));
            drop(next);
            assert_eq!(waiters(&log), 0, "{polls} polls, {appends} appends");
            // Nothing is lost: whatever was appended is still to come.
            for _ in 0..appends {
                assert_eq!(seqs(&block_on(follower.next(1)).unwrap().unwrap()), [expected]);
                expected += 1;
            }
        }
    }
}

#[test]
fn a_waiting_follower_keeps_no_memory() {
    let log = Arc::new(ChangeLog::with_capacity(1_000));
    let mut follower = log.follow(0);
    let mut next = Sleeper::polled(follower.next(10));
    append_many(&log, 50_000);
    let allocated = log.stats().segments_allocated;
    append_many(&log, 50_000);
    // A pin held by the sleeping future would keep all segments since.
    assert!(log.stats().segments_allocated < 2 * allocated, "{:?}", log.stats());
    assert!(matches!(next.poll(), Poll::Ready(Err(Resync { reason: ResyncReason::Evicted, .. }))));
}

/// A pin holds up the memory of all logs of the process, also that of one without waiters.
#[test]
fn a_thread_in_next_batch_keeps_no_memory() {
    let quiet = Arc::new(ChangeLog::new());
    append(&quiet);
    let thread = thread::spawn({
        let mut follower = quiet.follow(1);
        move || follower.blocking_next(10, NEVER).unwrap().map(|batch| batch.len())
    });
    until_waiting(&quiet, 1);
    let busy = ChangeLog::with_capacity(1_000);
    append_many(&busy, 100_000);
    let once = busy.stats().segments_allocated;
    append_many(&busy, 400_000);
    // Other tests pin for moments only. A batch kept by the sleeping thread would hold everything:
    // five times as much.
    assert!(busy.stats().segments_allocated < 3 * once, "{once} at first, {:?}", busy.stats());
    append(&quiet);
    assert_eq!(thread.join().unwrap(), Some(1));
}

// Closing.

/// The answer of a log that was closed with this head.
fn closed(seq: u64, head: u64) -> Closed {
    let log = ChangeLog::builder().base_seq(head).build().expect("in range");
    log.close();
    match log.blocking_wait_for(seq, Duration::ZERO) {
        Err(WaitError::Closed(closed)) if (closed.seq, closed.head) == (seq, head) => closed,
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_close_ends_every_kind_of_wait() {
    let log = Arc::new(ChangeLog::new());
    append_many(&log, 2);
    let threads: Vec<_> = (0..MANY as u64)
        .map(|number| {
            let log = Arc::clone(&log);
            thread::spawn(move || {
                assert_eq!(
                    log.blocking_wait_for(3 + number, Duration::MAX),
                    Err(closed(3 + number, 2).into())
                );
                let mut follower = log.follow(2);
                assert!(follower.blocking_next(10, NEVER).unwrap().is_none());
                assert_eq!(follower.cursor().seq, 2);
            })
        })
        .collect();
    until_waiting(&log, MANY as u64);
    let mut visible: Vec<_> = (3..100).map(|seq| Sleeper::polled(log.wait_for(seq))).collect();
    let mut followers: Vec<_> = (0..100).map(|_| log.follow(2)).collect();
    let mut nexts: Vec<_> = followers.iter_mut().map(|follower| Sleeper::polled(follower.next(10))).collect();
    assert!(!log.is_closed());

    log.close();
    assert!(log.is_closed());
    for (sleeper, seq) in visible.iter_mut().zip(3..) {
        assert_eq!((sleeper.woken(), sleeper.poll()), (1, Poll::Ready(Err(closed(seq, 2)))));
    }
    for next in &mut nexts {
        assert!(next.rouse());
        assert!(matches!(next.poll(), Poll::Ready(Ok(None))));
    }
    for thread in threads {
        thread.join().unwrap();
    }
    assert_eq!(waiters(&log), 0);
}

#[test]
fn a_closed_log_answers_at_once_and_tells_a_close_from_a_time_out() {
    let log = Arc::new(ChangeLog::new());
    append_many(&log, 2);
    log.close();
    log.close();
    for timeout in [Duration::ZERO, Duration::from_millis(1), Duration::MAX] {
        assert_eq!(log.blocking_wait_for(2, timeout), Ok(2), "visible");
        assert_eq!(log.blocking_wait_for(3, timeout), Err(WaitError::Closed(closed(3, 2))));
        assert_eq!(log.blocking_wait_for(u64::MAX, timeout), Err(WaitError::Closed(closed(u64::MAX, 2))));
        let mut follower = log.follow(0);
        assert_eq!(seqs(&follower.blocking_next(10, timeout).unwrap().unwrap()), [1, 2]);
        for _ in 0..2 {
            assert!(follower.blocking_next(10, timeout).unwrap().is_none());
            assert!(block_on(follower.next(10)).unwrap().is_none());
        }
        assert!(follower.blocking_next(0, timeout).unwrap().unwrap().is_empty(), "nothing to wait for");
    }
    assert_eq!(block_on(log.wait_for(1)), Ok(2));
    let error = block_on(log.wait_for(3)).unwrap_err();
    assert_eq!(error.to_string(), "the log was closed before seq 3 was appended: head is 2");
    assert_eq!(WaitError::from(error).to_string(), error.to_string());
    assert_eq!(waiters(&log), 0);
}

#[test]
fn a_log_closed_with_nothing_in_it_has_nothing_to_wait_for() {
    for (log, head) in [
        (ChangeLog::new(), 0),
        (ChangeLog::builder().base_seq(7).build().unwrap(), 7),
        (ChangeLog::with_capacity(0), 0),
    ] {
        let log = Arc::new(log);
        log.close();
        assert_eq!(log.blocking_wait_for(head + 1, NEVER), Err(closed(head + 1, head).into()));
        assert!(log.follow(log.cursor()).blocking_next(10, NEVER).unwrap().is_none());
    }
}

#[test]
fn a_filtered_follower_examines_everything_before_it_ends() {
    const EVENTS: u64 = 40_000;
    let log = Arc::new(ChangeLog::with_capacity(EVENTS as usize));
    append_many(&log, EVENTS as usize);
    let users = Filter::entity("User");
    let mut follower = log.follow(0);
    let mut next = Sleeper::polled(follower.next(users.limit(10)));
    log.close();
    while next.poll().is_pending() {
        assert!(next.rouse(), "the log is closed, and it is asleep");
    }
    drop(next);
    assert_eq!(follower.cursor().seq, EVENTS);
    follower.seek(0);
    assert!(follower.blocking_next(users.limit(10), NEVER).unwrap().is_none());
    assert_eq!(follower.cursor().seq, EVENTS);
}

#[test]
fn a_follower_that_was_lapped_before_the_close_is_told_that_first() {
    let log = Arc::new(ChangeLog::with_capacity(3));
    append_many(&log, 5);
    log.close();
    let mut follower = log.follow(0);
    let resync = follower.blocking_next(10, NEVER).unwrap_err();
    assert_eq!(resync.missed(), 2);
    assert_eq!(follower.blocking_next(10, NEVER).unwrap_err(), resync, "until it seeks");
    follower.seek(resync.oldest_seq - 1);
    assert_eq!(seqs(&follower.blocking_next(10, NEVER).unwrap().unwrap()), [3, 4, 5]);
    assert!(follower.blocking_next(10, NEVER).unwrap().is_none());
    assert_eq!(log.follow(9).blocking_next(10, NEVER).unwrap_err().reason, ResyncReason::Ahead);
}

#[test]
fn an_append_to_a_closed_log_is_appended_and_nothing_waits_for_it() {
    let log = Arc::new(ChangeLog::new());
    append(&log);
    let mut follower = log.follow(0);
    log.close();
    assert_eq!(append(&log), 2);
    assert_eq!(log.append_batch(&vec![Change::delete("Todo", "t1"); 2]), 3..=4);
    assert_eq!((log.head(), log.is_closed()), (4, true));
    assert_eq!(log.blocking_wait_for(4, Duration::ZERO), Ok(4));
    assert_eq!(seqs(&follower.blocking_next(10, NEVER).unwrap().unwrap()), [1, 2, 3, 4]);
    assert!(follower.blocking_next(10, NEVER).unwrap().is_none());
    append(&log);
    assert_eq!(seqs(&follower.blocking_next(10, NEVER).unwrap().unwrap()), [5], "asked again");
    assert!(follower.blocking_next(10, NEVER).unwrap().is_none());
}

/// Each writer's appends that returned before the close are handed out, in order and without a gap,
/// and every follower ends, on a thread or as a task.
#[test]
fn a_close_beside_appends_ends_every_follower_and_loses_nothing() {
    const ROUNDS: u64 = 300;
    for round in 0..ROUNDS {
        let log = Arc::new(ChangeLog::new());
        let returned = AtomicU64::new(0);
        let before_close = thread::scope(|scope| {
            let followers: Vec<_> = (0..3)
                .map(|number| {
                    let mut follower = log.follow(0);
                    scope.spawn(move || {
                        let mut seen = 0;
                        loop {
                            let batch = if number == 0 {
                                block_on(follower.next(7))
                            } else {
                                follower.blocking_next(7, NEVER)
                            };
                            let Some(batch) = batch.unwrap() else { return seen };
                            assert!(!batch.is_empty(), "a lost wake-up after {seen}");
                            for event in &batch {
                                seen += 1;
                                assert_eq!(event.seq(), seen);
                            }
                        }
                    })
                })
                .collect();
            for _ in 0..2 {
                scope.spawn(|| {
                    for _ in 0..50 {
                        returned.fetch_max(append(&log), Ordering::SeqCst);
                    }
                });
            }
            while returned.load(Ordering::SeqCst) < round % 100 {
                thread::yield_now();
            }
            let before_close = returned.load(Ordering::SeqCst);
            log.close();
            for follower in followers {
                let seen = follower.join().unwrap();
                assert!(
                    seen >= before_close,
                    "{before_close} were appended before the close, {seen} handed out"
                );
            }
            before_close
        });
        assert!(before_close <= log.head() && log.head() == 100);
        assert_eq!(waiters(&log), 0);
    }
}

// Resume tokens.

#[test]
fn a_restarted_log_refuses_an_old_token() {
    let before = Arc::new(ChangeLog::new());
    append_many(&before, 5);
    let mut follower = before.follow(0);
    assert_eq!(follower.blocking_next(100, NEVER).unwrap().unwrap().len(), 5);
    let token = follower.cursor().to_string();

    // As far as the old one had got, and further: only the incarnation can tell them apart.
    let after = Arc::new(ChangeLog::new());
    append_many(&after, 7);
    let mut follower = after.follow(token.parse::<ringlog::Cursor>().unwrap());
    let resync = follower.blocking_next(100, NEVER).unwrap_err();
    assert_eq!((resync.reason, resync.requested, resync.missed()), (ResyncReason::OtherLog, 5, 0));
    assert_eq!(resync.incarnation, after.incarnation());

    // A log that goes on under the same incarnation takes it.
    let again = Arc::new(ChangeLog::builder().incarnation(before.incarnation()).build().unwrap());
    append_many(&again, 7);
    let mut follower = again.follow(token.parse::<ringlog::Cursor>().unwrap());
    assert_eq!(seqs(&follower.blocking_next(100, NEVER).unwrap().unwrap()), [6, 7]);
}

#[test]
fn with_base_seq_a_restarted_log_refuses_an_old_bare_cursor() {
    let before = ChangeLog::new();
    append_many(&before, 5);
    let after = Arc::new(ChangeLog::builder().base_seq(before.last_seq()).build().unwrap());
    append_many(&after, 7);
    for stale in 0..before.last_seq() {
        let resync = after.follow(stale).blocking_next(100, NEVER).unwrap_err();
        assert_eq!((resync.reason, resync.oldest_seq), (ResyncReason::Evicted, 6), "from {stale}");
    }
    let mut follower = after.follow(before.last_seq());
    assert_eq!(follower.blocking_next(100, NEVER).unwrap().unwrap().len(), 7);
}

#[test]
fn nobody_waits_when_all_are_gone() {
    let log = Arc::new(ChangeLog::new());
    let followers: Vec<_> = (0..10).map(|_| log.follow(0)).collect();
    let visible: Vec<_> = (0..10).map(|seq| Sleeper::polled(log.wait_for(seq + 1))).collect();
    assert_eq!(waiters(&log), 10);
    let threads: Vec<_> = followers
        .into_iter()
        .map(|mut follower| {
            thread::spawn(move || follower.blocking_next(10, NEVER).unwrap().map(|batch| batch.len()))
        })
        .collect();
    until_waiting(&log, 20);
    drop(visible);
    until_waiting(&log, 10);
    append(&log);
    for thread in threads {
        assert_eq!(thread.join().unwrap(), Some(1));
    }
    assert_eq!(waiters(&log), 0);
    assert_eq!(Arc::strong_count(&log), 1);
}
