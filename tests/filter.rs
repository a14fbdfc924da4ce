//! Reading by entity and by predicate: the same answer from every way of reading, the limit
//! counting what matches, and the cursor moving on past what does not.

#[path = "common/waking.rs"]
mod waking;

use proptest::prelude::*;
use ringlog::{
    Change, ChangeEvent, ChangeKind, ChangeLog, Cursor, EventRef, Events, Filter, MAX_EXAMINED, PullResponse,
    Query, ResyncReason, StartPolicy,
};
use serde_json::json;
use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::Poll;
use std::thread;
use std::time::Duration;
use waking::{Sleeper, block_on};

const NEVER: Duration = Duration::from_secs(60);

fn append(log: &ChangeLog, entity: &str) -> u64 {
    log.append_change(&Change::update(entity, "r1"))
}

fn seqs(batch: &Events<'_>) -> Vec<u64> {
    batch.iter().map(|event| event.seq()).collect()
}

/// What a filtered read says, told by the simplest means there are.
fn expected(
    log: &ChangeLog,
    after: u64,
    limit: usize,
    wanted: impl Fn(&ChangeEvent) -> bool,
) -> (Vec<u64>, u64, bool) {
    let all = log.read(after, usize::MAX).expect("in the window").to_response();
    let (mut found, mut cursor) = (Vec::new(), after);
    for event in &all.changes {
        if found.len() == limit {
            return (found, cursor, true);
        }
        cursor = event.seq;
        if wanted(event) {
            found.push(event.seq);
        }
    }
    (found, cursor, false)
}

const NAMES: [&str; 4] = ["Todo", "Tod", "Todos", ""];

proptest! {
    #[test]
    fn a_filtered_read_is_the_read_filtered(
        offered in prop::collection::vec(prop::sample::select(&NAMES[..]), 0..600),
        capacity in 1_usize..700,
        back in 0_usize..700,
        limit in prop_oneof![0_usize..4, 0_usize..400, Just(usize::MAX)],
        entities in prop::option::weighted(0.7, prop::sample::subsequence(&NAMES[..], 0..=NAMES.len())),
        one_in in prop::option::of(1_u64..40),
    ) {
        let log = Arc::new(ChangeLog::with_capacity(capacity));
        for entity in &offered {
            append(&log, entity);
        }
        let after = (offered.len() - back.min(offered.len()).min(capacity)) as u64;
        let (found, cursor, more) = expected(&log, after, limit, |event| {
            entities.as_ref().is_none_or(|entities| entities.contains(&&*event.entity))
                && one_in.is_none_or(|one_in| event.seq % one_in == 0)
        });
        let by_seq = move |event: &EventRef<'_>| one_in.is_none_or(|one_in| event.seq() % one_in == 0);
        let filter = match (entities, one_in) {
            (Some(entities), None) => Filter::entities(entities),
            (Some(entities), Some(_)) => Filter::entities(entities).and(by_seq),
            (None, _) => Filter::by(by_seq),
        };
        let query = filter.limit(limit);

        let batch = log.read(after, query).unwrap();
        prop_assert_eq!(seqs(&batch), found.clone());
        prop_assert_eq!((batch.len(), batch.cursor().seq, batch.has_more()), (found.len(), cursor, more));
        let backwards: Vec<u64> = batch.iter().rev().map(|event| event.seq()).collect();
        prop_assert_eq!(backwards, found.iter().rev().copied().collect::<Vec<_>>());
        let mut json = Vec::new();
        batch.write_json(&mut json);
        prop_assert_eq!(serde_json::from_slice::<PullResponse>(&json).unwrap(), batch.to_response());
        prop_assert_eq!(serde_json::to_vec(&batch).unwrap(), json.clone());
        drop(batch);

        let mut pulled = Vec::new();
        let summary = log.pull_json(after, query, &mut pulled).unwrap();
        prop_assert_eq!(pulled, json);
        prop_assert_eq!((summary.count, summary.cursor.seq, summary.has_more), (found.len(), cursor, more));

        let mut follower = log.follow(after);
        prop_assert_eq!(seqs(&follower.blocking_next(query, Duration::ZERO).unwrap().unwrap()), found);
        prop_assert_eq!(follower.cursor().seq, cursor);
    }
}

#[test]
fn pages_by_entity_add_up_to_the_whole() {
    let log = ChangeLog::new();
    for number in 0..5_000 {
        append(&log, if number % 7 == 0 { "Todo" } else { "User" });
    }
    let todos = Filter::entity("Todo");
    let (mut cursor, mut seen) = (Cursor::from(0), Vec::new());
    loop {
        let batch = log.read(cursor, todos.limit(10)).unwrap();
        seen.extend(seqs(&batch));
        cursor = batch.cursor();
        if !batch.has_more() {
            break;
        }
    }
    assert_eq!(cursor.seq, 5_000);
    assert_eq!(
        seen,
        (0..5_000).filter(|number| number % 7 == 0).map(|number| number + 1).collect::<Vec<_>>()
    );
}

#[test]
fn a_filtered_read_is_bounded() {
    let log = ChangeLog::with_capacity(3 * MAX_EXAMINED);
    for _ in 0..2 * MAX_EXAMINED + 10 {
        append(&log, "User");
    }
    append(&log, "Todo");
    let todos = Filter::entity("Todo");
    for limit in [1, 300, usize::MAX] {
        let batch = log.read(0, todos.limit(limit)).unwrap();
        assert!(batch.is_empty() && batch.has_more());
        assert_eq!(batch.cursor().seq, MAX_EXAMINED as u64);
    }
    // A follower goes on by itself until it has found something.
    let log = Arc::new(log);
    let last = log.last_seq();
    let mut follower = log.follow(0);
    assert_eq!(seqs(&follower.blocking_next(todos.limit(10), NEVER).unwrap().unwrap()), [last]);
    // So does a future, but lets others have their turn.
    let mut follower = log.follow(0);
    let mut next = Sleeper::new(follower.next(todos.limit(10)));
    assert!(next.poll().is_pending());
    assert!(next.rouse(), "to be polled again at once");
    assert!(next.poll().is_pending());
    assert!(next.rouse());
    let Poll::Ready(Ok(Some(batch))) = next.poll() else { panic!("found") };
    assert_eq!(seqs(&batch), [last]);
}

#[test]
fn a_quiet_follower_can_store_how_far_it_got() {
    let log = Arc::new(ChangeLog::with_capacity(100));
    let todos = Filter::entity("Todo");
    let mut follower = log.follow(0);
    // Ten windows of events that it does not want: it never falls behind.
    for _ in 0..20 {
        for _ in 0..50 {
            append(&log, "User");
        }
        assert!(follower.blocking_next(todos.limit(10), Duration::ZERO).unwrap().unwrap().is_empty());
        assert_eq!(follower.cursor().seq, log.last_seq());
    }
    append(&log, "Todo");
    assert_eq!(seqs(&follower.blocking_next(todos.limit(10), NEVER).unwrap().unwrap()), [1_001]);
}

/// Also when it is dropped before it found anything.
#[test]
fn a_cancelled_wait_keeps_what_it_has_examined() {
    let log = Arc::new(ChangeLog::new());
    let todos = Filter::entity("Todo");
    let mut follower = log.follow(0);
    append(&log, "User");
    let mut next = Sleeper::polled(follower.next(todos.limit(1)));
    append(&log, "User");
    assert!(next.rouse());
    assert!(next.poll().is_pending(), "not what it waits for");
    drop(next);
    assert_eq!((follower.cursor().seq, log.stats().waiters), (2, 0));
    append(&log, "Todo");
    assert_eq!(seqs(&block_on(follower.next(todos.limit(1))).unwrap().unwrap()), [3]);
}

#[test]
fn a_filtered_follower_waits_for_a_match() {
    let log = Arc::new(ChangeLog::new());
    let todos = Filter::entities(["Todo", "List"]);
    let mut follower = log.follow(0);
    let writer = thread::spawn({
        let log = Arc::clone(&log);
        move || {
            for number in 1..=1_000 {
                append(&log, if number % 100 == 0 { "List" } else { "User" });
            }
        }
    });
    let mut seen = Vec::new();
    while seen.len() < 10 {
        let batch = follower.blocking_next(todos.limit(3), NEVER).unwrap().unwrap();
        assert!(!batch.is_empty(), "a lost wake-up after {seen:?}");
        seen.extend(seqs(&batch));
    }
    writer.join().unwrap();
    assert_eq!(seen, (1..=10).map(|hundreds| hundreds * 100).collect::<Vec<_>>());
}

#[test]
fn a_filter_of_nothing_lets_nothing_through() {
    let log = ChangeLog::new();
    append(&log, "");
    let nothing = Filter::entities::<&str>([]);
    let batch = log.read(0, nothing.limit(10)).unwrap();
    assert_eq!((batch.len(), batch.cursor().seq, batch.has_more()), (0, 1, false));
    assert_eq!(log.read(0, Filter::entity("").limit(10)).unwrap().len(), 1);
}

#[test]
fn a_filtered_read_is_refused_as_any_other() {
    let log = ChangeLog::with_capacity(2);
    (0..5).for_each(|_| assert!(append(&log, "Todo") > 0));
    let todos = Filter::entity("Todo");
    assert_eq!(log.read(1, todos.limit(1)).unwrap_err().reason, ResyncReason::Evicted);
    assert_eq!(log.read(6, todos.limit(1)).unwrap_err().reason, ResyncReason::Ahead);

    let log = ChangeLog::builder().capacity(2).start_policy(StartPolicy::Earliest).build().unwrap();
    for entity in ["Todo", "Todo", "Todo", "User", "Todo"] {
        append(&log, entity);
    }
    assert_eq!(seqs(&log.read(0, todos.limit(10)).unwrap()), [5], "of the tail, 4 and 5");
}

#[test]
fn a_predicate_sees_all_of_an_event() {
    let log = ChangeLog::builder().clock(|| 1_795_331_340_123).build().unwrap();
    let data = json!({"done": true});
    log.append_change(&Change::insert("Todo", "t1").with_value(&data));
    log.append_change(&Change::delete("List", "l1"));
    let exactly = |seq, entity: &'static str, row_id: &'static str, kind, data: Option<&'static str>| {
        Filter::by(move |event| {
            (event.seq(), event.entity(), event.row_id(), event.kind()) == (seq, entity, row_id, kind)
                && event.data_json() == data
                && event.timestamp_millis() == 1_795_331_340_123
        })
    };
    let first = exactly(1, "Todo", "t1", ChangeKind::Insert, Some(r#"{"done":true}"#));
    assert_eq!(seqs(&log.read(0, first.limit(10)).unwrap()), [1]);
    let second = exactly(2, "List", "l1", ChangeKind::Delete, None);
    assert_eq!(seqs(&log.read(0, second.limit(10)).unwrap()), [2]);
}

#[test]
fn a_predicate_is_asked_about_its_entities_only_and_once_an_event() {
    let log = ChangeLog::new();
    (0..1_000).for_each(|number| _ = append(&log, if number % 2 == 0 { "Todo" } else { "User" }));
    let asked = Arc::new(AtomicU64::new(0));
    let filter = Filter::entity("Todo").and({
        let asked = Arc::clone(&asked);
        move |event| {
            assert_eq!(event.entity(), "Todo");
            asked.fetch_add(1, Ordering::Relaxed);
            event.seq() > 900
        }
    });
    assert_eq!(log.read(0, filter.limit(1_000)).unwrap().len(), 50);
    assert_eq!(asked.load(Ordering::Relaxed), 500);
}

#[test]
fn predicates_that_are_combined_must_all_hold() {
    let log = ChangeLog::new();
    (0..30).for_each(|_| _ = append(&log, "Todo"));
    let filter = Filter::by(|event| event.seq() % 2 == 0)
        .and(|event| event.seq() % 3 == 0)
        .and(|event| event.seq() > 10);
    assert_eq!(seqs(&log.read(0, filter.limit(100)).unwrap()), [12, 18, 24, 30]);
}

#[test]
fn a_read_by_predicate_keeps_its_bounds() {
    let log = ChangeLog::with_capacity(2 * MAX_EXAMINED);
    (0..MAX_EXAMINED + 10).for_each(|_| _ = append(&log, "Todo"));
    let never = Filter::by(|_| false);
    let events = log.read(0, never.limit(1)).unwrap();
    assert!(events.is_empty() && events.has_more());
    assert_eq!(events.cursor().seq, MAX_EXAMINED as u64);
    drop(events);
    // "Todo" and "r1" are six bytes: two events are twelve, and refused ones do not count.
    let even = Filter::by(|event| event.seq() % 2 == 0);
    let events = log.read(0, Query::new(100).filter(&even).max_bytes(13)).unwrap();
    assert_eq!((seqs(&events), events.cursor().seq, events.has_more()), (vec![2, 4], 5, true));
}

#[test]
fn a_quiet_follower_by_predicate_does_not_fall_behind() {
    let log = Arc::new(ChangeLog::with_capacity(100));
    let filter = Filter::by(|event| event.row_id() == "r2");
    let mut follower = log.follow(0);
    for _ in 0..20 {
        (0..50).for_each(|_| _ = append(&log, "Todo"));
        assert!(follower.blocking_next(filter.limit(10), Duration::ZERO).unwrap().unwrap().is_empty());
        assert_eq!(follower.cursor().seq, log.last_seq());
    }
    let seq = log.append_change(&Change::insert("Todo", "r2"));
    assert_eq!(seqs(&block_on(follower.next(filter.limit(10))).unwrap().unwrap()), [seq]);
}

#[test]
fn a_filter_is_shared_by_readers_on_any_threads() {
    let log = Arc::new(ChangeLog::new());
    let filter = Filter::by(|event| event.seq() % 10 == 0);
    let readers: Vec<_> = (0..3)
        .map(|_| {
            let (log, filter) = (Arc::clone(&log), filter.clone());
            thread::spawn(move || {
                let (mut follower, mut seen) = (log.follow(0), Vec::new());
                while seen.len() < 100 {
                    seen.extend(seqs(&follower.blocking_next(filter.limit(7), NEVER).unwrap().unwrap()));
                }
                seen
            })
        })
        .collect();
    (0..1_000).for_each(|_| _ = append(&log, "Todo"));
    for reader in readers {
        assert_eq!(reader.join().unwrap(), (1..=100).map(|tens| tens * 10).collect::<Vec<_>>());
    }
}

#[test]
fn a_predicate_may_use_the_log_that_is_read() {
    let log = Arc::new(ChangeLog::with_capacity(1_000));
    append(&log, "Todo");
    let filter = Filter::by({
        let log = Arc::clone(&log);
        move |event| append(&log, "Echo") > 1 && log.read(0, 1).is_ok() && event.entity() == "Todo"
    });
    let events = log.read(0, filter.limit(10)).unwrap();
    assert_eq!(events.cursor().seq, MAX_EXAMINED as u64, "it goes on as long as there is something");
    drop((events, filter));
    assert_eq!(Arc::strong_count(&log), 1);
}

#[test]
fn filters_are_equal_if_they_share_entities_and_predicate() {
    let predicate = |event: &EventRef<'_>| event.seq() > 1;
    let filter = Filter::entity("Todo").and(predicate);
    let others = [
        Filter::entity("Todo").and(predicate),
        Filter::entity("Todo"),
        Filter::by(predicate),
        filter.clone().and(predicate),
    ];
    assert_eq!(filter, filter.clone());
    assert!(others.iter().all(|other| *other != filter));
    let same = filter.clone();
    let all: HashSet<_> = others.iter().chain([&filter, &same]).collect();
    assert_eq!(all.len(), 5);
    assert_eq!(
        format!("{filter:?} {:?}", Filter::entity("a")),
        "Filter { entities: Some([\"Todo\"]), predicate: Some(..) } \
         Filter { entities: Some([\"a\"]), predicate: None }"
    );
}

#[test]
fn a_filter_goes_wherever_a_reader_does() {
    fn anywhere<T: Send + Sync + std::panic::UnwindSafe + std::panic::RefUnwindSafe + 'static>() {}
    anywhere::<Filter>();
    anywhere::<Query<'static>>();
}
