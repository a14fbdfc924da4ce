//! Following as a stream: the same events as any follower's, owned, and no waiter left asleep.

#[path = "common/waking.rs"]
mod waking;

use futures_core::{FusedStream, Stream};
use ringlog::{Change, ChangeLog, Filter, FollowerStream, PullResponse, Resync, ResyncReason};
use std::future::poll_fn;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::thread;
use waking::{block_on, waker};

fn append(log: &ChangeLog, entity: &str) -> u64 {
    log.append_change(&Change::update(entity, "r1"))
}

async fn next(stream: &mut FollowerStream) -> Option<Result<PullResponse, Resync>> {
    poll_fn(|context| Pin::new(&mut *stream).poll_next(context)).await
}

fn seqs(response: &PullResponse) -> Vec<u64> {
    response.changes.iter().map(|event| event.seq).collect()
}

#[test]
fn a_stream_and_its_items_can_be_sent() {
    fn sent<T: Send + 'static>() {}
    sent::<FollowerStream>();
    sent::<<FollowerStream as Stream>::Item>();
}

#[test]
fn a_stream_is_what_follows() {
    const EVENTS: u64 = 2_000;
    let log = Arc::new(ChangeLog::new());
    append(&log, "Todo");
    let mut stream = log.follow(0).into_stream(7);
    let writer = thread::spawn({
        let log = Arc::clone(&log);
        move || (1..EVENTS).for_each(|_| assert!(append(&log, "Todo") > 0))
    });
    let mut seen = 0;
    while seen < EVENTS {
        let response = block_on(next(&mut stream)).unwrap().unwrap();
        assert!((1..=7).contains(&response.changes.len()));
        assert_eq!(seqs(&response), (seen + 1..=seen + response.changes.len() as u64).collect::<Vec<_>>());
        seen = response.cursor.last_seq;
        assert_eq!(stream.follower().cursor().seq, seen);
    }
    writer.join().unwrap();
    drop(stream);
    assert_eq!((log.stats().waiters, Arc::strong_count(&log)), (0, 1));
}

#[test]
fn a_stream_by_entity_skips_the_others() {
    let log = Arc::new(ChangeLog::new());
    let filter = Filter::entity("Todo");
    let mut stream = log.follow(0).into_stream(filter.limit(10));
    drop(filter);
    for entity in ["User", "Todo", "User", "Todo", "User"] {
        append(&log, entity);
    }
    let response = block_on(next(&mut stream)).unwrap().unwrap();
    assert_eq!((seqs(&response), response.cursor.last_seq), (vec![2, 4], 5));
}

#[test]
fn a_stream_ends_with_a_resync_and_goes_on_after_a_seek() {
    let log = Arc::new(ChangeLog::with_capacity(2));
    (0..5).for_each(|_| assert!(append(&log, "Todo") > 0));
    let mut stream = log.follow(0).into_stream(10);
    assert!(!stream.is_terminated());
    let resync = block_on(next(&mut stream)).unwrap().unwrap_err();
    assert_eq!((resync.reason, resync.missed()), (ResyncReason::Evicted, 3));
    assert!(stream.is_terminated());
    assert_eq!(block_on(next(&mut stream)), None);

    // A follower that has not been told where to go on says so again, as a stream too.
    let mut again = stream.into_follower().into_stream(10);
    assert_eq!(block_on(next(&mut again)), Some(Err(resync)));
    let mut follower = again.into_follower();
    follower.seek(resync.oldest_seq - 1);
    assert_eq!(seqs(&block_on(next(&mut follower.into_stream(10))).unwrap().unwrap()), [4, 5]);
}

#[test]
fn a_stream_ends_when_the_log_is_closed_and_everything_is_handed_out() {
    let log = Arc::new(ChangeLog::new());
    let mut stream = log.follow(0).into_stream(2);
    let (count, waker) = waker();
    let mut context = Context::from_waker(&waker);
    assert_eq!(Pin::new(&mut stream).poll_next(&mut context), Poll::Pending);
    (0..3).for_each(|_| assert!(append(&log, "Todo") > 0));
    log.close();
    assert_eq!(count.count(), 1);
    assert_eq!(seqs(&block_on(next(&mut stream)).unwrap().unwrap()), [1, 2]);
    assert_eq!(seqs(&block_on(next(&mut stream)).unwrap().unwrap()), [3]);
    assert!(!stream.is_terminated());
    for _ in 0..2 {
        assert_eq!(block_on(next(&mut stream)), None);
        assert!(stream.is_terminated());
    }
    assert_eq!(stream.follower().cursor().seq, 3);

    // One that sleeps is woken by the close alone.
    let log = Arc::new(ChangeLog::new());
    let mut stream = log.follow(0).into_stream(2);
    assert_eq!(Pin::new(&mut stream).poll_next(&mut context), Poll::Pending);
    log.close();
    assert_eq!(count.count(), 2);
    assert_eq!(Pin::new(&mut stream).poll_next(&mut context), Poll::Ready(None));
    drop(stream);
    assert_eq!((log.stats().waiters, Arc::strong_count(&log)), (0, 1));
}

/// An append wakes four. Each of them has its item at once, without waiting: it passes the wake-up
/// on all the same.
#[test]
fn streams_that_are_woken_and_find_an_item_wake_the_others() {
    let log = Arc::new(ChangeLog::new());
    let mut streams: Vec<_> = (0..20).map(|_| (log.follow(0).into_stream(10), waker())).collect();
    for (stream, (_, waker)) in &mut streams {
        assert!(Pin::new(stream).poll_next(&mut Context::from_waker(waker)).is_pending());
    }
    append(&log, "Todo");
    let mut done = 0;
    while done < 20 {
        let before = done;
        for (stream, (count, waker)) in &mut streams {
            if count.count() == 1 && stream.follower().cursor().seq == 0 {
                assert!(Pin::new(stream).poll_next(&mut Context::from_waker(waker)).is_ready());
                done += 1;
            }
        }
        assert!(done > before, "{done} of 20 are woken, and no one wakes the others");
    }
    assert_eq!(log.stats().waiters, 0);
}

#[test]
fn a_stream_that_is_dropped_asleep_leaves_nobody_behind() {
    let log = Arc::new(ChangeLog::new());
    let mut stream = log.follow(0).into_stream(0);
    let (count, waker) = waker();
    let mut context = Context::from_waker(&waker);
    for _ in 0..3 {
        assert_eq!(Pin::new(&mut stream).poll_next(&mut context), Poll::Pending);
        assert_eq!(log.stats().waiters, 1);
    }
    append(&log, "Todo");
    assert_eq!(count.count(), 1);
    let Poll::Ready(Some(Ok(response))) = Pin::new(&mut stream).poll_next(&mut context) else {
        panic!("an item")
    };
    assert_eq!(seqs(&response), [1], "a limit of 0 is one of 1");
    assert_eq!(Pin::new(&mut stream).poll_next(&mut context), Poll::Pending);
    drop(stream);
    assert_eq!((log.stats().waiters, Arc::strong_count(&log)), (0, 1));
}
