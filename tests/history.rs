//! Histories of real threads: every call with its time and its answer, and a checker that decides
//! whether a log could have answered so. The checker is tested itself: each way to be wrong is
//! rejected for its own reason.

#[path = "common/history.rs"]
mod history;
#[path = "common/schedule.rs"]
mod schedule;

use history::{Answer, Books, Call, ClaimAnswer, Did, History, Rule, Time, check};
use proptest::prelude::*;
use proptest::test_runner::TestRunner;
use schedule::Program;
use std::cell::RefCell;
use std::collections::BTreeMap;

/// Enough histories that every kind of answer occurs: else this has tested less than it says.
#[test]
fn what_threads_are_answered_can_be_explained() {
    // A history does not happen twice: there is nothing to shrink.
    let config =
        ProptestConfig { cases: 150, max_shrink_iters: 0, failure_persistence: None, ..Default::default() };
    let capacity = prop_oneof![Just(0_u8), 1..9_u8, Just(63), Just(250)];
    let rest = prop::collection::vec(any::<u8>(), 1000..6000);
    let occurred = RefCell::new(BTreeMap::new());
    let result = TestRunner::new(config).run(&(capacity, rest), |(capacity, rest)| {
        let history = Program::from_bytes(&[&[capacity], &rest[..]].concat()).run();
        for call in &history.calls {
            *occurred.borrow_mut().entry(kind(&call.did)).or_insert(0) += 1;
        }
        check(&history).map_err(|violation| TestCaseError::fail(format!("{violation:?}")))
    });
    result.unwrap_or_else(|error| panic!("{error}"));
    println!("{:?}", occurred.borrow());
    let kinds = [
        "batch",
        "evicted",
        "ahead",
        "page",
        "cut page",
        "woken",
        "timed out",
        "in flight",
        "replayed",
        "seen",
    ];
    for kind in kinds {
        assert!(occurred.borrow().contains_key(kind), "not one `{kind}`");
    }
}

fn kind(did: &Did) -> &'static str {
    match did {
        Did::Append { rows, .. } if rows.len() > 1 => "batch",
        Did::Append { .. } => "append",
        Did::Read { answer: Answer::Page { has_more: true, .. }, .. } => "cut page",
        Did::Read { answer: Answer::Page { .. }, .. } => "page",
        Did::Read { answer: Answer::Evicted { .. }, .. } => "evicted",
        Did::Read { answer: Answer::Ahead { .. }, .. } => "ahead",
        Did::Head { .. } => "head",
        Did::Wait { head: Some(_), .. } => "woken",
        Did::Wait { head: None, .. } => "timed out",
        Did::Claim { answer: ClaimAnswer::Proceed { .. }, .. } => "proceed",
        Did::Claim { answer: ClaimAnswer::InFlight, .. } => "in flight",
        Did::Claim { answer: ClaimAnswer::Replayed { .. }, .. } => "replayed",
        Did::Release { .. } => "release",
        Did::Ask { seen, .. } => {
            if *seen {
                "seen"
            } else {
                "not seen"
            }
        }
    }
}

/// A history in which everything that the checker looks at occurs. The window is 4 events, the
/// op-id memory 2.
///
/// Times are in tens: two appends one after the other, a batch, reads beside and after them,
/// claims.
fn good() -> History {
    let calls = vec![
        append(0, 10, 1, &["a"]),
        append(20, 30, 2, &["b"]),
        read(0, 35, 38, 0, 10, page(&[(1, "a"), (2, "b")], 2, false)),
        append(40, 60, 3, &["c", "d"]),
        // Beside the batch: it may be seen, whole, or not.
        read(1, 45, 55, 0, 10, page(&[(1, "a"), (2, "b"), (3, "c"), (4, "d")], 4, false)),
        head(62, 64, 4),
        wait(65, 66, 4, Some(4)),
        wait(67, 68, 5, None),
        // The limit cuts the batch.
        read(0, 70, 75, 2, 1, page(&[(3, "c")], 3, true)),
        append(80, 90, 5, &["e"]),
        // Seq 1 has left the window: a fresh reader is told.
        read(2, 92, 94, 0, 10, Answer::Evicted { oldest: 2 }),
        read(2, 95, 96, 1, 10, page(&[(2, "b"), (3, "c"), (4, "d"), (5, "e")], 5, false)),
        read(1, 95, 96, 4, 10, page(&[(5, "e")], 5, false)),
        read(0, 95, 96, 3, 10, page(&[(4, "d"), (5, "e")], 5, false)),
        look(97, 98, 6, Answer::Ahead { oldest: 6 }),
        claim(100, 101, 1, ClaimAnswer::Proceed { held: 0 }),
        claim(102, 103, 1, ClaimAnswer::InFlight),
        ask(104, 105, 1, false),
        release(106, 107, 0, Some(7)),
        claim(108, 109, 1, ClaimAnswer::Replayed { seq: 7 }),
        ask(110, 111, 1, true),
        claim(112, 113, 2, ClaimAnswer::Proceed { held: 1 }),
        release(114, 115, 1, None),
        claim(116, 117, 2, ClaimAnswer::Proceed { held: 2 }),
        release(118, 119, 2, Some(8)),
        claim(120, 121, 3, ClaimAnswer::Proceed { held: 3 }),
        release(122, 123, 3, Some(9)),
        // Two others were completed since: it is forgotten, and may run again.
        claim(124, 125, 1, ClaimAnswer::Proceed { held: 4 }),
        release(126, 127, 4, None),
    ];
    let books =
        Books { appended: 5, superseded: 0, head: 5, completed: 3, forgotten: 2, replayed: 1, in_flight: 1 };
    History { capacity: 4, op_id_capacity: 2, calls, books }
}

fn call(start: Time, end: Time, did: Did) -> Call {
    Call { start, end, did }
}

fn append(start: Time, end: Time, first: u64, rows: &[&str]) -> Call {
    call(start, end, Did::Append { first, rows: rows.iter().map(|row| (*row).into()).collect() })
}

fn page(rows: &[(u64, &str)], cursor: u64, has_more: bool) -> Answer {
    Answer::Page { rows: rows.iter().map(|&(seq, row)| (seq, row.into())).collect(), cursor, has_more }
}

fn read(reader: usize, start: Time, end: Time, cursor: u64, limit: usize, answer: Answer) -> Call {
    call(start, end, Did::Read { reader: Some(reader), cursor, limit, answer })
}

/// A read by no reader in particular.
fn look(start: Time, end: Time, cursor: u64, answer: Answer) -> Call {
    call(start, end, Did::Read { reader: None, cursor, limit: 10, answer })
}

fn head(start: Time, end: Time, head: u64) -> Call {
    call(start, end, Did::Head { head })
}

fn wait(start: Time, end: Time, seq: u64, head: Option<u64>) -> Call {
    call(start, end, Did::Wait { seq, head })
}

fn claim(start: Time, end: Time, id: u8, answer: ClaimAnswer) -> Call {
    call(start, end, Did::Claim { id, answer })
}

fn release(start: Time, end: Time, held: usize, completed: Option<u64>) -> Call {
    call(start, end, Did::Release { held, completed })
}

fn ask(start: Time, end: Time, id: u8, seen: bool) -> Call {
    call(start, end, Did::Ask { id, seen })
}

/// The good history with one more call is rejected, and for this reason.
#[track_caller]
fn rejected(extra: Call, rule: Rule) {
    rejected_when(|history| history.calls.push(extra), rule);
}

/// The good history with one change is rejected, and for this reason.
#[track_caller]
fn rejected_when(change: impl FnOnce(&mut History), rule: Rule) {
    let mut history = good();
    change(&mut history);
    let violation = check(&history).expect_err("a bad history");
    assert_eq!(violation.rule, rule, "{violation:?}");
}

#[test]
fn a_good_history_is_accepted() {
    check(&good()).unwrap_or_else(|violation| panic!("{violation:?}"));
    check(&History::default()).unwrap_or_else(|violation| panic!("{violation:?}"));
}

#[test]
fn seqs_are_dense_unique_and_in_the_order_of_time() {
    rejected(append(130, 131, 5, &["f"]), Rule::SeqsAreUnique);
    rejected(append(130, 131, 7, &["f"]), Rule::SeqsAreDense);
    // Append 2 begins after append 3, 4 has returned.
    rejected_when(|history| history.calls[1] = append(61, 62, 2, &["b"]), Rule::RealTimeOrder);
}

#[test]
fn a_page_is_a_run_after_the_cursor() {
    let gap = page(&[(3, "c"), (5, "e")], 5, false);
    rejected(look(130, 131, 2, gap), Rule::RunIsContiguous);
    let twice = page(&[(3, "c"), (3, "c"), (4, "d"), (5, "e")], 6, false);
    rejected(look(130, 131, 2, twice), Rule::RunIsContiguous);
    let not_after_the_cursor = page(&[(4, "d"), (5, "e")], 4, false);
    rejected(look(130, 131, 2, not_after_the_cursor), Rule::RunIsContiguous);
    let wrong_cursor = page(&[(4, "d"), (5, "e")], 4, false);
    rejected(look(130, 131, 3, wrong_cursor), Rule::RunIsContiguous);
    rejected(read(0, 130, 131, 3, 1, page(&[(4, "d"), (5, "e")], 5, false)), Rule::RunIsContiguous);
}

#[test]
fn an_event_is_what_was_offered() {
    rejected(look(130, 131, 4, page(&[(5, "d")], 5, false)), Rule::EventAsOffered);
    rejected(look(130, 131, 5, page(&[(6, "f")], 6, false)), Rule::EventAsOffered);
    rejected(look(1, 2, 0, page(&[(1, "a"), (2, "b")], 2, false)), Rule::NotFromTheFuture);
}

#[test]
fn only_the_window_is_served() {
    let evicted = page(&[(1, "a"), (2, "b"), (3, "c"), (4, "d"), (5, "e")], 5, false);
    rejected(look(130, 131, 0, evicted), Rule::OnlyTheWindow);
    rejected(look(130, 131, 0, page(&[], 0, false)), Rule::OnlyTheWindow);
}

#[test]
fn what_has_returned_and_what_was_seen_is_visible() {
    rejected(look(91, 92, 2, page(&[(3, "c"), (4, "d")], 4, true)), Rule::VisibleOnceReturned);
    rejected(look(91, 92, 4, page(&[], 4, true)), Rule::VisibleOnceReturned);
    // The batch has not returned, but reader 1 has seen it.
    rejected(look(56, 57, 2, page(&[], 2, true)), Rule::VisibleOnceReturned);
}

/// Found by the fuzz target `threads`, in the checker: a cursor that no read gave may lie past what
/// is unpublished.
#[test]
fn a_page_from_beyond_a_gap_proves_nothing() {
    let calls = vec![
        append(0, 100, 1, &["a"]),
        append(10, 20, 2, &["b"]),
        look(30, 40, 1, page(&[(2, "b")], 2, false)),
        look(50, 60, 0, page(&[], 0, false)),
    ];
    let books = Books { appended: 2, head: 2, ..Books::default() };
    let history = History { capacity: 4, op_id_capacity: 0, calls, books };
    check(&history).unwrap_or_else(|violation| panic!("{violation:?}"));
}

#[test]
fn has_more_is_true() {
    rejected(look(130, 131, 4, page(&[(5, "e")], 5, true)), Rule::HasMoreIsTrue);
    rejected_when(
        |history| {
            history.calls[8] = read(0, 70, 75, 2, 1, page(&[(3, "c")], 3, false));
        },
        Rule::HasMoreIsTrue,
    );
}

#[test]
fn a_batch_is_whole() {
    rejected(look(44, 46, 1, page(&[(2, "b"), (3, "c")], 3, true)), Rule::BatchIsWhole);
}

#[test]
fn a_resync_says_where_to_go_on() {
    rejected(look(130, 131, 1, Answer::Evicted { oldest: 2 }), Rule::ResyncFloor);
    rejected(look(130, 131, 1, Answer::Evicted { oldest: 3 }), Rule::ResyncFloor);
    rejected(look(130, 131, 5, Answer::Ahead { oldest: 6 }), Rule::AheadIsTrue);
    rejected(look(130, 131, 6, page(&[], 6, false)), Rule::AheadIsTrue);
}

#[test]
fn head_and_waiting_tell_the_truth() {
    rejected(head(130, 131, 4), Rule::HeadIsTrue);
    rejected(head(130, 131, 6), Rule::HeadIsTrue);
    rejected(wait(65, 66, 5, Some(4)), Rule::WaitEnds);
    rejected(wait(130, 131, 5, None), Rule::WaitEnds);
}

#[test]
fn each_reader_has_read_or_lost_everything() {
    rejected(read(3, 130, 131, 4, 10, page(&[(5, "e")], 5, false)), Rule::ReaderAccount);
    // Reader 0 never reads the end.
    rejected_when(|history| drop(history.calls.remove(13)), Rule::ReaderAccount);
}

#[test]
fn an_op_id_is_held_once() {
    rejected(claim(102, 103, 1, ClaimAnswer::Proceed { held: 9 }), Rule::HeldOnce);
}

#[test]
fn an_operation_is_applied_once() {
    rejected(claim(124, 125, 3, ClaimAnswer::Proceed { held: 9 }), Rule::AppliedOnce);
    rejected(ask(124, 125, 3, false), Rule::AppliedOnce);
}

#[test]
fn replayed_is_what_was_completed() {
    rejected(claim(100, 105, 2, ClaimAnswer::Replayed { seq: 8 }), Rule::ReplayedAfterComplete);
    rejected(claim(124, 125, 3, ClaimAnswer::Replayed { seq: 8 }), Rule::ReplayedAfterComplete);
    rejected(ask(102, 103, 1, true), Rule::ReplayedAfterComplete);
    rejected(claim(124, 125, 1, ClaimAnswer::Replayed { seq: 7 }), Rule::RememberedToTheLimit);
    rejected(ask(124, 125, 1, true), Rule::RememberedToTheLimit);
}

#[test]
fn in_flight_is_what_somebody_holds() {
    rejected(claim(130, 131, 3, ClaimAnswer::InFlight), Rule::InFlightIsHeld);
}

#[test]
fn the_books_balance() {
    rejected_when(|history| history.books.appended = 6, Rule::BooksBalance);
    rejected_when(|history| history.books.head = 4, Rule::BooksBalance);
    rejected_when(|history| history.books.completed = 4, Rule::BooksBalance);
    rejected_when(|history| history.books.forgotten = 1, Rule::BooksBalance);
    rejected_when(|history| history.books.replayed = 0, Rule::BooksBalance);
    rejected_when(|history| history.books.in_flight = 0, Rule::BooksBalance);
    // All five were seen: none can have been dropped.
    rejected_when(|history| history.books.superseded = 1, Rule::BooksBalance);
}
