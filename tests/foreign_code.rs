//! Code that is not the log's own and panics: what it leaves behind. A test for each row of the
//! table in `guarantees.md`.
//!
//! The panics that this prints are meant.

#[path = "common/waking.rs"]
mod waking;

use ringlog::{
    Change, ChangeLog, Cursor, Filter, MAX_EXAMINED, OpClaim, OpStatus, PushRequest, PushResponse, Query,
    SyncCursor, WaitFor,
};
use serde::{Serialize, Serializer};
use serde_json::json;
use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::{Cell, RefCell};
use std::fmt::{self, Write as _};
use std::future::Future;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::{Pin, pin};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::task::{Context, Poll, RawWaker, RawWakerVTable, Wake, Waker};
use std::thread;
use std::time::{Duration, Instant};
use waking::{Sleeper, waker};

/// Long enough to be out of the question.
const NEVER: Duration = Duration::from_secs(60);

/// More than an append wakes by itself.
const MANY: usize = 20;

fn append(log: &ChangeLog) -> u64 {
    log.append_change(&Change::update("Todo", "t1"))
}

/// Whether it panics.
fn panics<T>(work: impl FnOnce() -> T) -> bool {
    catch_unwind(AssertUnwindSafe(work)).is_err()
}

/// Waits until so many wait at the log.
fn until_waiting(log: &ChangeLog, count: u64) {
    let give_up = Instant::now() + NEVER;
    while log.stats().waiters != count {
        assert!(Instant::now() < give_up, "{} wait, and not {count}", log.stats().waiters);
        thread::yield_now();
    }
}

// Wakers.

struct PanicsWhenWoken;

impl Wake for PanicsWhenWoken {
    fn wake(self: Arc<Self>) {
        panic!("this waker panics");
    }
}

struct PanicsWhenDropped;

impl Wake for PanicsWhenDropped {
    fn wake(self: Arc<Self>) {}
}

impl Drop for PanicsWhenDropped {
    fn drop(&mut self) {
        panic!("the destructor of this waker panics");
    }
}

/// A waker that cannot be cloned.
fn panics_when_cloned() -> Waker {
    static TABLE: RawWakerVTable =
        RawWakerVTable::new(|_| panic!("this waker cannot be cloned"), |_| {}, |_| {}, |_| {});
    // SAFETY: none of the functions touches the pointer.
    unsafe { Waker::from_raw(RawWaker::new(std::ptr::null(), &TABLE)) }
}

type Waiting<'log> = Pin<Box<WaitFor<'log>>>;

/// A wait for `seq` that sleeps with this waker, of which the log then has the only clone.
fn asleep(log: &ChangeLog, seq: u64, waker: Waker) -> Waiting<'_> {
    let mut visible = Box::pin(log.wait_for(seq));
    assert!(visible.as_mut().poll(&mut Context::from_waker(&waker)).is_pending());
    // Its destructor runs when the last clone goes.
    drop(waker);
    visible
}

fn that_panic(log: &ChangeLog) -> Vec<Waiting<'_>> {
    (0..MANY).map(|_| asleep(log, 1, Waker::from(Arc::new(PanicsWhenWoken)))).collect()
}

/// The threads came last, so that all wakers that panic stand before them; and there is one append
/// only.
#[test]
fn a_waker_that_panics_leaves_the_append_its_seq_and_no_other_asleep() {
    let log = Arc::new(ChangeLog::new());
    let _panicking = that_panic(&log);
    let threads: Vec<_> = (0..3)
        .map(|_| {
            let log = Arc::clone(&log);
            thread::spawn(move || log.blocking_wait_for(1, NEVER))
        })
        .collect();
    until_waiting(&log, MANY as u64 + 3);
    assert_eq!(append(&log), 1);
    for thread in threads {
        assert_eq!(thread.join().unwrap(), Ok(1));
    }
    assert_eq!(log.stats().waiters, 0);
    assert_eq!(append(&log), 2, "the log goes on");
}

/// Of the few that are woken at once, one panics, in each place.
#[test]
fn a_waker_that_panics_does_not_keep_those_asleep_that_are_woken_with_it() {
    for place in 0..4 {
        let log = ChangeLog::new();
        let mut panicking = None;
        let mut sleepers = Vec::new();
        for number in 0..4 {
            if number == place {
                panicking = Some(asleep(&log, 1, Waker::from(Arc::new(PanicsWhenWoken))));
            } else {
                sleepers.push(Sleeper::polled(log.wait_for(1)));
            }
        }
        assert_eq!(*log.append_batch(&[Change::delete("Todo", "t1")]).start(), 1);
        assert!(sleepers.iter().all(|sleeper| sleeper.woken() == 1), "place {place}");
        drop(panicking);
    }
}

#[test]
fn a_push_whose_append_wakes_a_waker_that_panics_is_answered_and_remembered() {
    let request: PushRequest = serde_json::from_value(json!({"client_id": "phone", "changes": [
        {"entity": "Todo", "row_id": "t1", "kind": "insert", "op_id": "1"},
        {"entity": "Todo", "row_id": "t2", "kind": "insert", "op_id": "2"},
    ]}))
    .unwrap();
    let pushes: [fn(&ChangeLog, &PushRequest) -> PushResponse; 3] = [
        |log, request| log.push(request, |_| Ok::<(), String>(())),
        |log, request| log.push_batch(request, |_| Ok::<(), String>(())),
        |log, request| log.claim_push(request).unwrap().publish(),
    ];
    for push in pushes {
        let log = ChangeLog::new();
        let _panicking = that_panic(&log);
        for status in [OpStatus::Applied, OpStatus::Replayed] {
            let response = push(&log, &request);
            let seqs: Vec<_> = response.results.iter().map(|result| (result.status, result.seq)).collect();
            assert_eq!(seqs, [(status, Some(1)), (status, Some(2))]);
        }
        assert_eq!(log.last_seq(), 2);
    }
}

/// A waiter that leaves wakes others, and has nothing to do with their wakers.
#[test]
fn a_waiter_that_wakes_a_waker_that_panics_has_its_own_answer() {
    let log = ChangeLog::new();
    let mut first: Vec<_> = (0..4).map(|_| Sleeper::polled(log.wait_for(1))).collect();
    let _panicking = that_panic(&log);
    let last = Sleeper::polled(log.wait_for(1));
    append(&log);
    assert_eq!(first[0].poll(), Poll::Ready(Ok(1)));
    assert_eq!(last.woken(), 1, "beyond all that panicked");
}

#[test]
fn a_wait_dropped_by_a_panic_may_wake_a_waker_that_panics() {
    let log = ChangeLog::new();
    let first: Vec<_> = (0..4).map(|_| Sleeper::polled(log.wait_for(1))).collect();
    let _panicking = that_panic(&log);
    let last = Sleeper::polled(log.wait_for(1));
    append(&log);
    assert!(panics(move || {
        let _first = first;
        panic!("unwinding past the waits");
    }));
    assert_eq!(last.woken(), 1, "and the process lives");
}

#[test]
fn a_close_that_wakes_a_waker_that_panics_ends_all_waits() {
    let log = ChangeLog::new();
    let mut panicking = that_panic(&log);
    let mut sleepers: Vec<_> = (0..MANY).map(|_| Sleeper::polled(log.wait_for(1))).collect();
    log.close();
    for sleeper in &mut sleepers {
        assert!(sleeper.woken() == 1 && matches!(sleeper.poll(), Poll::Ready(Err(_))));
    }
    let (_, waker) = waker();
    for visible in &mut panicking {
        assert!(visible.as_mut().poll(&mut Context::from_waker(&waker)).is_ready());
    }
    assert_eq!(log.stats().waiters, 0);
}

#[test]
fn a_waker_whose_destructor_panics_leaves_poll_drop_and_append_as_they_are() {
    let log = ChangeLog::new();
    let dropping = || Waker::from(Arc::new(PanicsWhenDropped));
    let (count, other) = waker();

    // Another waker takes its place.
    let mut visible = asleep(&log, 1, dropping());
    assert!(visible.as_mut().poll(&mut Context::from_waker(&other)).is_pending());
    // The wait is dropped.
    drop(asleep(&log, 1, dropping()));
    assert_eq!(log.stats().waiters, 1);
    // It is woken, and gone then.
    let woken: Vec<_> = (0..MANY).map(|_| asleep(&log, 1, dropping())).collect();
    assert_eq!(append(&log), 1);
    assert_eq!(count.count(), 1);
    drop(visible);
    drop(woken);
    assert_eq!(log.stats().waiters, 0);
}

#[test]
fn a_waker_that_panics_when_cloned_unwinds_through_its_own_poll_only() {
    let log = ChangeLog::new();
    let mut visible = pin!(log.wait_for(1));
    let panicking = panics_when_cloned();
    assert!(panics(|| visible.as_mut().poll(&mut Context::from_waker(&panicking))));
    assert_eq!(log.stats().waiters, 0, "not queued");

    // Queued with another waker: that one stays.
    let (count, other) = waker();
    assert!(visible.as_mut().poll(&mut Context::from_waker(&other)).is_pending());
    assert!(panics(|| visible.as_mut().poll(&mut Context::from_waker(&panicking))));
    assert_eq!(log.stats().waiters, 1);
    append(&log);
    assert_eq!(count.count(), 1);
    assert_eq!(
        visible.as_mut().poll(&mut Context::from_waker(&panicking)),
        Poll::Ready(Ok(1)),
        "no clone is needed"
    );
}

/// A follower that has examined all it may in one read wakes its own task.
#[test]
fn a_waker_that_panics_in_its_own_poll_leaves_the_follower_where_it_got() {
    let log = Arc::new(ChangeLog::with_capacity(2 * MAX_EXAMINED));
    for _ in 0..=MAX_EXAMINED {
        append(&log);
    }
    let users = Filter::entity("User");
    let mut follower = log.follow(0);
    let panicking = Waker::from(Arc::new(PanicsWhenWoken));
    {
        let mut next = pin!(follower.next(users.limit(1)));
        assert!(panics(|| next.as_mut().poll(&mut Context::from_waker(&panicking))));
    }
    assert_eq!((follower.cursor().seq, log.stats().waiters), (MAX_EXAMINED as u64, 0));
    log.append_change(&Change::update("User", "u1"));
    let batch = follower.blocking_next(users.limit(1), NEVER).unwrap().unwrap();
    assert_eq!(batch.iter().next().unwrap().seq(), MAX_EXAMINED as u64 + 2);
}

// Clocks.

/// A log whose clock panics once it is told to.
fn with_clock() -> (ChangeLog, Arc<AtomicBool>) {
    let broken = Arc::new(AtomicBool::new(false));
    let clock = Arc::clone(&broken);
    let log = ChangeLog::builder().clock(move || {
        assert!(!clock.load(Ordering::Relaxed), "this clock panics");
        5
    });
    (log.build().expect("the defaults are within the limits"), broken)
}

#[test]
fn a_clock_that_panics_leaves_nothing_appended() {
    let (log, broken) = with_clock();
    broken.store(true, Ordering::Relaxed);
    assert!(panics(|| append(&log)));
    assert!(panics(|| log.append_batch(&vec![Change::delete("Todo", "t1"); 3])));
    assert_eq!((log.last_seq(), log.head()), (0, 0));
    broken.store(false, Ordering::Relaxed);
    assert_eq!(append(&log), 1, "no gap");
    assert_eq!(log.head(), 1);
}

#[test]
fn a_clock_that_panics_in_a_push_leaves_nothing_applied_and_its_op_ids_free() {
    let request: PushRequest = serde_json::from_value(json!({"changes": [
        {"entity": "Todo", "row_id": "t1", "kind": "insert", "op_id": "1"},
    ]}))
    .unwrap();
    let (log, broken) = with_clock();
    let applied = AtomicU64::new(0);
    let apply = || {
        applied.fetch_add(1, Ordering::Relaxed);
        Ok::<(), String>(())
    };
    broken.store(true, Ordering::Relaxed);
    let refused = [
        log.push(&request, |_| apply()),
        log.push_batch(&request, |_| apply()),
        log.claim_push(&request).map(|_| ()).unwrap_err(),
    ];
    for response in refused {
        assert_eq!((response.applied, response.results[0].status), (0, OpStatus::Error));
    }
    assert_eq!((applied.load(Ordering::Relaxed), log.last_seq()), (0, 0));
    broken.store(false, Ordering::Relaxed);
    assert_eq!(log.push(&request, |_| apply()).applied, 1);
    assert_eq!(applied.load(Ordering::Relaxed), 1);
}

#[test]
fn a_clock_whose_destructor_panics_unwinds_through_the_drop_of_its_log_only() {
    struct Dropped;
    impl Drop for Dropped {
        fn drop(&mut self) {
            panic!("the destructor of this clock panics");
        }
    }
    let clock = Dropped;
    let log = ChangeLog::builder().clock(move || {
        let _ = &clock;
        5
    });
    let log = log.build().unwrap();
    append(&log);
    assert!(panics(move || drop(log)));
    assert_eq!(append(&ChangeLog::new()), 1);
}

// Serialisation, formatting, errors.

struct PanicsWhenWritten;

impl Serialize for PanicsWhenWritten {
    fn serialize<S: Serializer>(&self, _: S) -> Result<S::Ok, S::Error> {
        panic!("this data cannot be written");
    }
}

impl fmt::Display for PanicsWhenWritten {
    fn fmt(&self, _: &mut fmt::Formatter<'_>) -> fmt::Result {
        panic!("this error cannot be shown");
    }
}

#[test]
fn data_that_panics_when_it_is_serialised_makes_no_change() {
    fn append_data(log: &ChangeLog) -> u64 {
        log.append_change(&Change::insert("Todo", "t1").with_data(&PanicsWhenWritten).unwrap())
    }
    let log = ChangeLog::new();
    assert!(panics(|| append_data(&log)));
    assert_eq!((log.last_seq(), append(&log)), (0, 1));
}

#[test]
fn an_error_that_panics_when_it_is_shown_is_an_error_of_its_change() {
    let request: PushRequest = serde_json::from_value(json!({"changes": [
        {"entity": "Todo", "row_id": "t1", "kind": "insert", "op_id": "1"},
    ]}))
    .unwrap();
    let log = ChangeLog::new();
    let failed = [
        log.push(&request, |_| Err(PanicsWhenWritten)),
        log.push_batch(&request, |_| Err(PanicsWhenWritten)),
    ];
    for response in failed {
        assert_eq!(response.results[0].status, OpStatus::Error);
    }
    // A claim that is failed with such an error unwinds, and is given up all the same.
    let claim = log.claim_push(&request).unwrap();
    let _ = catch_unwind(AssertUnwindSafe(|| claim.fail(PanicsWhenWritten)));
    assert!(matches!(log.claim_op_id("1"), OpClaim::Proceed(_)), "free again");
    assert_eq!(log.last_seq(), 0);
}

#[test]
fn a_claim_on_a_push_that_is_dropped_by_a_panic_gives_its_op_ids_back() {
    let request: PushRequest = serde_json::from_value(json!({"client_id": "phone", "changes": [
        {"entity": "Todo", "row_id": "t1", "kind": "insert", "op_id": "1"},
        {"entity": "Todo", "row_id": "t2", "kind": "insert", "op_id": "2"},
    ]}))
    .unwrap();
    let log = ChangeLog::new();
    assert!(panics(|| {
        let _claim = log.claim_push(&request).unwrap();
        panic!("the transaction panics");
    }));
    assert_eq!((log.last_seq(), log.stats().op_claims_forgotten), (0, 2));
    assert_eq!(log.claim_push(&request).unwrap().publish().applied, 2);
}

#[test]
fn a_guard_that_is_dropped_by_a_panic_gives_its_op_id_back() {
    let log = ChangeLog::new();
    assert!(panics(|| {
        let OpClaim::Proceed(_guard) = log.claim_op_id("1") else { panic!("new") };
        panic!("the operation panics");
    }));
    assert!(matches!(log.claim_op_id("1"), OpClaim::Proceed(_)));
}

/// A sink that panics, or comes back to the log.
struct Sink<F: FnMut()>(F);

impl<F: FnMut()> fmt::Write for Sink<F> {
    fn write_str(&mut self, _: &str) -> fmt::Result {
        (self.0)();
        Ok(())
    }
}

impl<F: FnMut()> std::io::Write for Sink<F> {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        (self.0)();
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

/// What is printed while threads wait must hold no lock of theirs.
#[test]
fn a_log_may_be_shown_to_a_sink_that_panics_or_uses_the_log() {
    let log = ChangeLog::new();
    let mut sleeper = Sleeper::polled(log.wait_for(9));
    let mut writes = 0;
    let mut uses = Sink(|| {
        writes += 1;
        assert!(Sleeper::new(log.wait_for(log.head() + 1)).poll().is_pending());
        append(&log);
        assert!(log.blocking_wait_for(u64::MAX, Duration::from_nanos(1)).is_err());
    });
    write!(uses, "{log:?}").unwrap();
    assert!(writes > 0);
    assert!(panics(|| write!(Sink(|| panic!("this sink panics")), "{log:?}")));
    while log.head() < 9 {
        append(&log);
    }
    assert!(sleeper.woken() == 1 && sleeper.poll().is_ready());
}

#[test]
fn a_batch_and_a_wait_may_be_shown_to_a_sink_that_panics() {
    let log = Arc::new(ChangeLog::new());
    append(&log);
    let mut visible = Box::pin(log.wait_for(2));
    let (count, waker) = waker();
    assert!(visible.as_mut().poll(&mut Context::from_waker(&waker)).is_pending());
    let batch = log.read(0, 10).unwrap();
    let mut follower = log.follow(0);
    let shown: [&dyn fmt::Debug; 4] = [&batch, &visible, &log.follow(0), &follower.next(10)];
    for shown in shown {
        assert!(panics(|| write!(Sink(|| panic!("this sink panics")), "{shown:?}")));
    }
    assert_eq!((append(&log), count.count(), batch.len()), (2, 1, 1));
}

/// A cursor, a query or a list of entities that cannot be made of it.
#[derive(Clone, Copy)]
struct PanicsWhenConverted;

impl From<PanicsWhenConverted> for Cursor {
    fn from(_: PanicsWhenConverted) -> Self {
        panic!("this is no cursor");
    }
}

impl From<PanicsWhenConverted> for Query<'_> {
    fn from(_: PanicsWhenConverted) -> Self {
        panic!("this is no query");
    }
}

impl From<PanicsWhenConverted> for Box<str> {
    fn from(_: PanicsWhenConverted) -> Self {
        panic!("this is no entity");
    }
}

#[test]
fn a_conversion_or_an_iterator_that_panics_does_so_before_its_call_has_begun() {
    let log = Arc::new(ChangeLog::with_capacity(2));
    (0..4).for_each(|_| _ = append(&log));
    let mut follower = log.follow(2);
    let mut body = Vec::from(*b"before");
    let no = PanicsWhenConverted;
    assert!(panics(|| log.read(no, 10).map(|batch| batch.len())));
    assert!(panics(|| log.read(2, no).map(|batch| batch.len())));
    assert!(panics(|| log.pull_json(no, 10, &mut body)));
    assert!(panics(|| log.pull_json(2, no, &mut body)));
    assert!(panics(|| log.follow(no)));
    assert!(panics(|| follower.seek(no)));
    assert!(panics(|| follower.blocking_next(no, NEVER).map(|batch| batch.is_some())));
    assert!(panics(|| _ = follower.next(no)));
    assert!(panics(|| Filter::entities([no])));
    assert!(panics(|| Filter::entities(std::iter::from_fn(|| -> Option<&str> { panic!("no next one") }))));
    assert_eq!((body.as_slice(), follower.cursor().seq, log.stats().waiters), (&b"before"[..], 2, 0));
    let batch = follower.blocking_next(10, NEVER).unwrap().unwrap();
    assert_eq!(batch.iter().map(|event| event.seq()).collect::<Vec<_>>(), [3, 4]);

    // A follower that gets a resync keeps it until it seeks, and this was no seek.
    let mut lapped = log.follow(0);
    let resync = lapped.blocking_next(10, NEVER).unwrap_err();
    assert!(panics(|| lapped.seek(no)));
    assert_eq!(lapped.blocking_next(10, NEVER).unwrap_err(), resync);
}

/// A predicate that panics at one seq until it is told not to.
fn panics_at(seq: u64) -> (Filter, Arc<AtomicBool>) {
    let armed = Arc::new(AtomicBool::new(true));
    let is_armed = Arc::clone(&armed);
    let filter = Filter::by(move |event| {
        assert!(event.seq() != seq || !is_armed.load(Ordering::Relaxed), "this predicate panics");
        event.seq() % 2 == 0
    });
    (filter, armed)
}

#[test]
fn a_predicate_that_panics_loses_no_event_and_leaves_nothing_pinned() {
    let log = Arc::new(ChangeLog::with_capacity(1_000));
    (0..600).for_each(|_| _ = append(&log));
    let (filter, armed) = panics_at(400);
    let mut body = Vec::from(*b"before");
    let mut follower = log.follow(100);
    let mut task = log.follow(100);
    assert!(panics(|| log.read(100, filter.limit(1_000)).map(|events| events.len())));
    assert!(panics(|| log.pull_json(100, filter.limit(1_000), &mut body)));
    assert!(panics(|| follower.blocking_next(filter.limit(1_000), NEVER).map(|events| events.is_some())));
    assert!(panics(|| Sleeper::new(task.next(filter.limit(1_000))).poll().is_ready()));
    assert_eq!((body.as_slice(), log.stats().waiters), (&b"before"[..], 0));
    assert_eq!((follower.cursor().seq, task.cursor().seq), (100, 100));

    // What is not examined does not panic.
    assert_eq!(follower.blocking_next(filter.limit(10), NEVER).unwrap().unwrap().len(), 10);
    follower.seek(100);
    armed.store(false, Ordering::Relaxed);
    for follower in [&mut follower, &mut task] {
        let events = follower.blocking_next(filter.limit(1_000), NEVER).unwrap().unwrap();
        assert!(events.iter().map(|event| event.seq()).eq((102..=600).step_by(2)));
    }

    // Were a read still pinned, every segment of these laps would wait for it.
    armed.store(true, Ordering::Relaxed);
    (0..100_000).for_each(|_| _ = append(&log));
    let stats = log.stats();
    assert!(stats.segments_allocated < 50, "{stats:?}");
}

/// A follower that sleeps is woken, and panics in the poll that follows.
#[test]
fn a_predicate_that_panics_after_a_wake_up_leaves_its_follower_where_it_was() {
    let log = Arc::new(ChangeLog::new());
    let (filter, armed) = panics_at(2);
    let mut follower = log.follow(0);
    append(&log);
    let mut next = Sleeper::polled(follower.next(filter.limit(1)));
    append(&log);
    assert!(next.rouse());
    assert!(panics(|| next.poll().is_ready()));
    drop(next);
    assert_eq!((follower.cursor().seq, log.stats().waiters), (1, 0), "past what it refused");
    armed.store(false, Ordering::Relaxed);
    assert_eq!(follower.blocking_next(filter.limit(1), NEVER).unwrap().unwrap().len(), 1);
    // The destructor of a predicate is foreign code too, and runs where the last filter is dropped.
    let dropped = PanicsWhenDropped;
    let filter = Filter::by(move |_| std::mem::size_of_val(&dropped) == 0);
    assert_eq!(log.read(0, filter.limit(9)).unwrap().len(), 2);
    assert!(panics(|| drop(filter)));
    assert_eq!(append(&log), 3);
}

#[test]
fn a_batch_may_be_written_to_a_sink_that_panics() {
    let log = ChangeLog::new();
    append(&log);
    let batch = log.read(0, 10).unwrap();
    assert!(panics(|| serde_json::to_writer(Sink(|| panic!("this sink panics")), &batch)));
    assert_eq!(batch.iter().count(), 1);
    drop(batch);
    assert_eq!(append(&log), 2);
}

// The end of a thread.

/// In a thread-local destructor that runs after the log's own: whatever the log keeps for a thread
/// is gone.
#[test]
fn a_log_can_be_used_while_its_thread_is_torn_down() {
    struct AtTheEnd(Option<Box<dyn FnOnce()>>);
    impl Drop for AtTheEnd {
        fn drop(&mut self) {
            if let Some(work) = self.0.take() {
                work();
            }
        }
    }
    thread_local! {
        static AT_THE_END: RefCell<AtTheEnd> = const { RefCell::new(AtTheEnd(None)) };
    }
    let request: PushRequest = serde_json::from_value(json!({"changes": [
        {"entity": "Todo", "row_id": "t1", "kind": "insert", "op_id": "1", "data": {"title": "x".repeat(1000)}},
    ]}))
    .unwrap();
    let log = Arc::new(ChangeLog::with_capacity(100));
    let done = Arc::new(AtomicBool::new(false));
    let use_it = {
        let log = Arc::clone(&log);
        move || {
            for _ in 0..300 {
                append(&log);
            }
            let seq =
                log.append("Todo", "t1", ringlog::ChangeKind::Insert, Some(json!({"a": "x".repeat(1000)})));
            log.append_batch(&vec![Change::delete("Todo", "t1"); 3]);
            assert_eq!(log.blocking_wait_for(seq, NEVER), Ok(seq + 3));
            assert!(log.blocking_wait_for(u64::MAX, Duration::from_millis(1)).is_err());
            assert!(Sleeper::new(log.wait_for(u64::MAX)).poll().is_pending());
            let response = log.push(&request, |_| Ok::<(), String>(()));
            assert_eq!(response.applied, 1);
            assert_eq!(
                log.pull(&SyncCursor { last_seq: response.cursor.last_seq - 1 }, 10).unwrap().changes.len(),
                1
            );
        }
    };
    thread::spawn({
        let done = Arc::clone(&done);
        move || {
            // Registered before anything of the log's: destroyed after it.
            AT_THE_END.with(|end| {
                let use_it = use_it.clone();
                end.borrow_mut().0 = Some(Box::new(move || {
                    use_it();
                    done.store(true, Ordering::Relaxed);
                }));
            });
            use_it();
        }
    })
    .join()
    .unwrap();
    assert!(done.load(Ordering::Relaxed));
    assert_eq!(log.stats().waiters, 0);
    assert_eq!(log.head(), log.last_seq());
}

// What ends the process.

/// Set in a child process, which runs the one test that it was started for.
const CHILD: &str = "RINGLOG_ENDS_HERE";

/// What a child says that was not ended.
const WENT_ON: &str = "the process went on";

/// Runs `work` in a process of its own, which runs the test of this name only. Returns what it
/// said when it was ended, as `abort` ends a process.
fn ends_the_process(test: &str, work: impl FnOnce()) -> Option<String> {
    if std::env::var_os(CHILD).is_some() {
        work();
        println!("{WENT_ON}");
        return None;
    }
    let mut child = Command::new(std::env::current_exe().expect("a program"));
    let output = child.args(["--exact", test, "--nocapture"]).env(CHILD, "").output().expect("it starts");
    let said = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
    assert!(!said.contains(WENT_ON), "{said}");
    #[cfg(unix)]
    assert_eq!(
        std::os::unix::process::ExitStatusExt::signal(&output.status),
        Some(6),
        "not by SIGABRT: {}, {said}",
        output.status
    );
    assert!(!output.status.success());
    Some(said)
}

#[test]
fn a_thread_local_destructor_that_uses_a_log_and_panics_ends_the_process() {
    struct PanicsAtTheEnd(Arc<ChangeLog>);
    impl Drop for PanicsAtTheEnd {
        fn drop(&mut self) {
            append(&self.0);
            panic!("this thread-local destructor panics");
        }
    }
    thread_local! {
        static AT_THE_END: RefCell<Option<PanicsAtTheEnd>> = const { RefCell::new(None) };
    }
    let name = "a_thread_local_destructor_that_uses_a_log_and_panics_ends_the_process";
    let said = ends_the_process(name, || {
        let log = Arc::new(ChangeLog::new());
        let joined = thread::spawn(move || AT_THE_END.set(Some(PanicsAtTheEnd(log)))).join();
        println!("{WENT_ON}: {}", joined.is_ok());
    });
    let Some(said) = said else { return };
    assert!(said.contains("this thread-local destructor panics"), "{said}");
}

/// An append that needs a segment, in the middle of a claim.
#[test]
fn an_append_that_gets_no_memory_ends_the_process() {
    let said = ends_the_process("an_append_that_gets_no_memory_ends_the_process", || {
        let log = ChangeLog::with_capacity(100);
        append(&log);
        HAS_MEMORY.set(false);
        let appended = catch_unwind(AssertUnwindSafe(|| (0..1_000).map(|_| append(&log)).max()));
        HAS_MEMORY.set(true);
        println!("{WENT_ON}: {}", appended.is_ok());
    });
    let Some(said) = said else { return };
    assert!(said.contains("memory allocation of"), "{said}");
}

thread_local! {
    /// Whether this thread gets memory.
    static HAS_MEMORY: Cell<bool> = const { Cell::new(true) };
}

/// The system's allocator, which refuses a thread that is to have no memory.
struct Refusing;

#[global_allocator]
static ALLOCATOR: Refusing = Refusing;

// SAFETY: every call goes to the system's allocator as it came, or fails as `alloc` may.
unsafe impl GlobalAlloc for Refusing {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        // What is small is granted: the message that the process ends with needs some.
        if layout.size() >= 1024 && !HAS_MEMORY.get() {
            return std::ptr::null_mut();
        }
        // SAFETY: the caller keeps the contract of `alloc`, which is the same there.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, memory: *mut u8, layout: Layout) {
        // SAFETY: the memory came from `System`, with this layout.
        unsafe { System.dealloc(memory, layout) }
    }
}
