//! ringlog in the place of pylon-sync 0.3: what that version's own tests ask for, asked anew, of
//! ringlog and of pylon-sync 0.3.23 itself; and any window and cursor, asked of both.

use proptest::prelude::*;
use pylon_sync_0_3 as pylon;
use ringlog::{ChangeKind, ChangeLog, Cursor, PullError, ResyncReason, SyncCursor};

/// What the program expects of ringlog in that mode.
mod on_ringlog {
    use ringlog::{
        ChangeEvent, ChangeKind, ChangeLog, ClientChange, PullError, PullResponse, PushRequest, SyncCursor,
    };

    fn log_of(capacity: usize) -> ChangeLog {
        ChangeLog::pylon_0_3(capacity)
    }

    include!("pylon_0_3/program.rs");
}

/// That it is what pylon-sync 0.3.23 does.
mod on_pylon_sync {
    use pylon_sync_0_3::{
        ChangeEvent, ChangeKind, ChangeLog, ClientChange, PullError, PullResponse, PushRequest, SyncCursor,
    };

    fn log_of(capacity: usize) -> ChangeLog {
        ChangeLog::with_capacity(capacity)
    }

    include!("pylon_0_3/program.rs");
}

/// The seqs, the cursor and whether there is more; or the oldest seq of a resync.
type Answer = Result<(Vec<u64>, u64, bool), u64>;

fn ours(log: &ChangeLog, last_seq: u64, limit: usize) -> Answer {
    match log.pull(&SyncCursor { last_seq }, limit) {
        Ok(page) => {
            Ok((page.changes.iter().map(|event| event.seq).collect(), page.cursor.last_seq, page.has_more))
        }
        Err(PullError::ResyncRequired { oldest_seq, .. }) => Err(oldest_seq),
    }
}

fn theirs(log: &pylon::ChangeLog, last_seq: u64, limit: usize) -> Answer {
    match log.pull(&pylon::SyncCursor { last_seq }, limit) {
        Ok(page) => {
            Ok((page.changes.iter().map(|event| event.seq).collect(), page.cursor.last_seq, page.has_more))
        }
        Err(pylon::PullError::ResyncRequired { oldest_seq, .. }) => Err(oldest_seq),
    }
}

proptest! {
    /// With a capacity of 0, pylon-sync loses events without a word; ringlog says so.
    #[test]
    fn every_cursor_gets_the_answer_of_pylon_sync_0_3(
        capacity in 1_usize..40,
        appended in 0_u64..100,
        cursor in prop_oneof![Just(0_u64), 0_u64..110],
        limit in prop_oneof![0_usize..4, 0_usize..200],
    ) {
        let (log, other) = (ChangeLog::pylon_0_3(capacity), pylon::ChangeLog::with_capacity(capacity));
        for number in 0..appended {
            let row = number.to_string();
            let seqs = (
                log.append("T", &row, ChangeKind::Insert, None),
                other.append("T", &row, pylon::ChangeKind::Insert, None),
            );
            prop_assert_eq!(seqs.0, seqs.1);
        }
        prop_assert_eq!(log.len(), other.len());
        prop_assert_eq!(ours(&log, cursor, limit), theirs(&other, cursor, limit));
    }
}

/// The two versions differ in this and in nothing else.
#[test]
fn the_default_answers_an_evicted_cursor_0_with_a_resync_and_the_mode_of_0_3_with_the_tail() {
    let (log, as_0_3) = (ChangeLog::with_capacity(2), ChangeLog::pylon_0_3(2));
    for log in [&log, &as_0_3] {
        (0..4).for_each(|_| _ = log.append("T", "1", ChangeKind::Insert, None));
    }
    assert_eq!(ours(&log, 0, 9), Err(3));
    assert_eq!(ours(&as_0_3, 0, 9), Ok((vec![3, 4], 4, false)));
    for cursor in 1..=5 {
        assert_eq!(ours(&log, cursor, 9), ours(&as_0_3, cursor, 9), "cursor {cursor}");
    }
}

/// What pylon-sync 0.3 cannot tell: a token says that its reader was there when nothing was.
#[test]
fn in_the_mode_of_0_3_a_token_at_0_that_missed_something_is_told() {
    let log = ChangeLog::pylon_0_3(2);
    let token: Cursor = log.cursor().to_string().parse().unwrap();
    (0..4).for_each(|_| _ = log.append("T", "1", ChangeKind::Insert, None));
    assert_eq!(log.read(token, 9).unwrap_err().reason, ResyncReason::Evicted);
    assert_eq!(log.read(0, 9).unwrap().len(), 2);
}

#[test]
#[should_panic(expected = "MAX_CAPACITY")]
fn a_capacity_beyond_the_limit_panics_with_the_limit_named() {
    drop(ChangeLog::pylon_0_3(usize::MAX));
}
