//! The ring's protocols: publish, install, lap, retire, settle.
//!
//! Models whose readers see nothing that is retired run without pins: their states are those of the
//! ring's own protocol, and can be explored further. Those about reclamation run on the real epoch.

use crate::append;
use crate::event::{Change, Meta};
use crate::explore::{Epoch, explore};
use crate::limits::MAX_RECORD_LEN;
use crate::ring::{Block, Geometry, Missed, Ring, WriteGuard};
use crate::sync::epoch::unpinned;
use loom::sync::Arc;
use loom::thread;
use std::panic::{self, AssertUnwindSafe};
use std::sync::atomic::{AtomicU64, Ordering};

/// A record's fixed part here is its value; its text is the value's digits.
fn ring(capacity: usize, segment_len: usize) -> Arc<Ring<u64>> {
    Arc::new(Ring::new(Geometry::new(capacity, 0, segment_len, 64)))
}

/// A writer that no model keeps an eye on.
fn anyone() -> WriteGuard {
    WriteGuard::pinned(unpinned())
}

/// A writer that has pinned the epoch.
fn pinned(ring: &Ring<u64>) -> WriteGuard {
    WriteGuard::pinned(ring.pin())
}

fn append(ring: &Ring<u64>, writing: WriteGuard, value: u64) -> u64 {
    ring.append(writing, value, [&value.to_string(), "", ""]).0
}

/// The run after `after`, checked: consecutive, and no record torn.
fn read(ring: &Ring<u64>, after: u64) -> Result<Vec<u64>, Missed> {
    let run = ring.read(after, 100)?;
    // loom switches threads at atomic operations only: here is one, between taking the run and
    // looking at it.
    ring.last();
    let values = (0..run.len()).map(|index| {
        let (seq, value, text) = run.get(index);
        assert_eq!(seq, after + 1 + index as u64);
        assert_eq!(text.concat(), value.to_string(), "torn");
        value
    });
    Ok(values.collect())
}

/// Lets the epoch move on and reclaim what it can.
fn reclaim(ring: &Ring<u64>) {
    for _ in 0..3 {
        ring.pin().flush();
    }
}

/// R1, R3: two writers and a reader, across a segment edge (S = 1). 3 threads, bound 4: 19,420
/// executions.
///
/// Catches `claim_not_atomic`, `publish_a_relaxed`, `publish_b_relaxed`, `stamp_before_record`.
#[test]
fn two_writers_and_a_reader() {
    explore("two_writers_and_a_reader", 4, || {
        let ring = ring(4, 1);
        let writers = [10, 20].map(|value| {
            let ring = Arc::clone(&ring);
            thread::spawn(move || append(&ring, anyone(), value))
        });
        let seen = read(&ring, 0).expect("in the window");
        let [a, b] = writers.map(|writer| writer.join().expect("the writer ends"));
        assert_eq!(a + b, 3, "seqs 1 and 2, once each");
        let all = read(&ring, 0).expect("in the window");
        assert_eq!(all, if a == 1 { [10, 20] } else { [20, 10] });
        assert!(all.starts_with(&seen), "{seen:?} then {all:?}");
    });
}

/// R2: two writers race to install one segment (S = 4) while a reader looks. 3 threads, bound 4:
/// 47,611 executions.
///
/// Catches `install_a_relaxed`, `install_b_relaxed`.
#[test]
fn racing_installation() {
    explore("racing_installation", 4, || {
        let ring = ring(4, 4);
        let [writer, other] = [10, 20].map(|value| {
            let ring = Arc::clone(&ring);
            thread::spawn(move || append(&ring, anyone(), value))
        });
        read(&ring, 0).expect("in the window");
        writer.join().expect("the writer ends");
        other.join().expect("the other writer ends");
        assert_eq!(read(&ring, 0).expect("in the window").len(), 2);
        let memory = ring.memory();
        assert_eq!((memory.allocated - memory.pooled, memory.awaiting), (1, 0), "one is live");
    });
}

/// Two writers race to install a segment (S = 2), and the loser gives its own to the pool, where
/// the other may find it for the next one. 2 threads, bound 4: 355 executions.
///
/// Catches `pool_a_relaxed`, `pool_b_relaxed`.
#[test]
fn a_pooled_segment_changes_hands() {
    explore("a_pooled_segment_changes_hands", 4, || {
        let ring = ring(8, 2);
        let writer = {
            let ring = Arc::clone(&ring);
            thread::spawn(move || [10, 20].map(|value| append(&ring, anyone(), value)))
        };
        let mut seqs = [30, 40].map(|value| append(&ring, anyone(), value)).to_vec();
        seqs.extend(writer.join().expect("the writer ends"));
        seqs.sort_unstable();
        assert_eq!(seqs, [1, 2, 3, 4]);
        assert_eq!(read(&ring, 0).expect("in the window").len(), 4);
    });
}

/// A batch of three across a segment edge is seen whole or not at all. 2 threads, bound 5: 90
/// executions.
///
/// Catches `publish_front_to_back`.
#[test]
fn a_batch_is_whole() {
    explore("a_batch_is_whole", 5, || {
        let ring = ring(8, 2);
        let writer = {
            let ring = Arc::clone(&ring);
            thread::spawn(move || {
                let mut claim = ring.claim(anyone(), 3);
                let records = [(3, "3"), (2, "2"), (1, "1")];
                claim.publish(records.map(|(value, text)| (value, [text, "", ""].into())).into_iter(), drop);
                claim.finish();
            })
        };
        let seen = read(&ring, 0).expect("in the window");
        assert!(seen.is_empty() || seen == [1, 2, 3], "half a batch: {seen:?}");
        writer.join().expect("the writer ends");
    });
}

/// Appends two records if `last` is the last seq. Returns the first seq, or the last one if it is
/// another.
fn append_two_if(ring: &Ring<u64>, last: u64, value: u64) -> Result<u64, u64> {
    let mut claim = ring.claim_if(last, anyone(), 2)?;
    let texts = [value + 1, value].map(|value| (value, value.to_string()));
    let records = texts.iter().map(|(value, text)| (*value, [text.as_str(), "", ""].into()));
    claim.publish(records, drop);
    Ok(claim.finish())
}

/// R1: of two writers that append a batch if seq 0 is the last, one does. A reader sees all of its
/// batch or nothing. 3 threads, bound 4: 4,770 executions.
///
/// Catches `claim_if_not_atomic`.
#[test]
fn of_two_conditional_writers_one_appends() {
    explore("of_two_conditional_writers_one_appends", 4, || {
        let ring = ring(4, 2);
        let writers = [10, 20].map(|value| {
            let ring = Arc::clone(&ring);
            thread::spawn(move || append_two_if(&ring, 0, value))
        });
        let seen = read(&ring, 0).expect("in the window");
        let winner = match writers.map(|writer| writer.join().expect("the writer ends")) {
            [Ok(1), Err(2)] => [10, 11],
            [Err(2), Ok(1)] => [20, 21],
            other => panic!("one appends, and the other is told the last seq: {other:?}"),
        };
        assert!(seen.is_empty() || seen == winner, "{seen:?} of {winner:?}");
        assert_eq!(read(&ring, 0).expect("in the window"), winner);
        assert_eq!((ring.last(), ring.head()), (2, 2));
    });
}

/// R1: a conditional writer against a plain one: the seqs are dense, and a batch that is refused
/// goes where the answer says. 2 threads, bound 6: 91 executions.
///
/// Catches `claim_if_not_atomic`.
#[test]
fn a_conditional_writer_against_a_plain_one() {
    explore("a_conditional_writer_against_a_plain_one", 6, || {
        let ring = ring(4, 2);
        let conditional = {
            let ring = Arc::clone(&ring);
            thread::spawn(move || match append_two_if(&ring, 0, 10) {
                Err(last) => append_two_if(&ring, last, 10).map(|first| (first, last)),
                Ok(first) => Ok((first, 0)),
            })
        };
        let plain = append(&ring, anyone(), 20);
        let conditional = conditional.join().expect("the conditional writer ends");
        let all = read(&ring, 0).expect("in the window");
        match (conditional, plain) {
            (Ok((1, 0)), 3) => assert_eq!(all, [10, 11, 20]),
            (Ok((2, 1)), 1) => assert_eq!(all, [20, 10, 11]),
            other => panic!("a gap, or a seq twice: {other:?}"),
        }
    });
}

/// R2, R4: a writer that claimed seq 1 publishes while another goes round the ring past it: the
/// newer record stays, and the books balance. 2 threads, the real epoch, bound 4: 776 executions.
///
/// Catches `late_writer_installs`.
#[test]
fn a_lapped_late_writer() {
    explore("a_lapped_late_writer", 4, || {
        let (ring, epoch) = (ring(1, 1), Arc::new(Epoch::new()));
        let _registered = epoch.register();
        let mut late = ring.claim(pinned(&ring), 1);
        let lapper = {
            let (ring, epoch) = (Arc::clone(&ring), Arc::clone(&epoch));
            thread::spawn(move || {
                let _registered = epoch.register();
                // Three positions: 4 takes the place of 1.
                for value in 2..=4 {
                    append(&ring, pinned(&ring), value);
                }
            })
        };
        late.publish_last(1, ["1", "", ""]);
        late.finish();
        lapper.join().expect("the lapper ends");
        assert_eq!(read(&ring, 3), Ok(vec![4]), "the newer record was overwritten");
        assert!(ring.superseded() <= 1);
        assert_eq!((ring.last(), ring.head()), (4, 4));
    });
}

/// R4: a reader comes while a writer laps it and reclaims: it gets the record whole, or is told
/// that it is gone. 2 threads, the real epoch, bound 5: 13,146 executions.
///
/// Catches `reclaim_at_once`, `read_unpinned`.
#[test]
fn a_reader_against_a_lap() {
    explore("a_reader_against_a_lap", 5, || {
        let (ring, epoch) = (ring(1, 1), Arc::new(Epoch::new()));
        let _registered = epoch.register();
        append(&ring, pinned(&ring), 1);
        let writer = {
            let (ring, epoch) = (Arc::clone(&ring), Arc::clone(&epoch));
            thread::spawn(move || {
                let _registered = epoch.register();
                for value in 2..=4 {
                    append(&ring, pinned(&ring), value);
                }
                reclaim(&ring);
                append(&ring, pinned(&ring), 5);
            })
        };
        match read(&ring, 0) {
            Ok(values) => assert_eq!(values.first(), Some(&1)),
            Err(missed) => assert!(matches!(missed, Missed::Evicted(_))),
        }
        writer.join().expect("the writer ends");
    });
}

/// R1, R4: long texts lie in blocks, which stay with their slots until these are written again, and
/// go to their next writer. A writer goes round the ring and fills the block that it gets anew,
/// while a reader looks at the first record: that is whole. In the end a short record gets a block
/// too. 2 threads, the real epoch, bound 5: 13,146 executions.
///
/// Catches `leave_block`, `spill_unsaid`.
#[test]
fn a_block_changes_hands() {
    explore("a_block_changes_hands", 5, || {
        let (ring, epoch) = (ring(1, 1), Arc::new(Epoch::new()));
        let _registered = epoch.register();
        assert!(append_long(&ring, pinned(&ring), 1).is_none());
        let writer = {
            let (ring, epoch) = (Arc::clone(&ring), Arc::clone(&epoch));
            thread::spawn(move || {
                let _registered = epoch.register();
                for value in 2..=4 {
                    assert!(append_long(&ring, pinned(&ring), value).is_none());
                }
                reclaim(&ring);
                let recycled = append_long(&ring, pinned(&ring), 5);
                recycled.map(|mut block| block.fill([&long(6), "", ""])).is_some()
            })
        };
        if let Ok(run) = ring.read(0, 1) {
            // loom switches threads here, between taking the run and looking at it.
            ring.last();
            assert_eq!(run.get(0).2.concat(), long(1), "torn");
        }
        let given_up = 1 + usize::from(writer.join().expect("the writer ends"));
        reclaim(&ring);
        let (_, recycled) = ring.append(pinned(&ring), 6, ["6", "", ""]);
        assert_eq!(recycled.expect("the block of the slot").capacity(), LONG);
        assert_eq!(ring.memory().spilled_bytes, ((5 - given_up) * LONG) as u64, "the books");
    });
}

/// An observer that is told head = n can read n, also when it was another observer that walked
/// there. 3 threads, bound 4: 21,053 executions.
///
/// Catches `memo_a_relaxed`, `memo_b_relaxed`.
#[test]
fn what_head_promises_can_be_read() {
    explore("what_head_promises_can_be_read", 4, || {
        let ring = ring(4, 4);
        let writer = {
            let ring = Arc::clone(&ring);
            thread::spawn(move || append(&ring, anyone(), 1))
        };
        let observer = {
            let ring = Arc::clone(&ring);
            thread::spawn(move || ring.head())
        };
        let head = ring.head();
        let seen = read(&ring, 0).expect("in the window");
        assert!(seen.len() as u64 >= head, "head is {head}, and {} can be read", seen.len());
        writer.join().expect("the writer ends");
        observer.join().expect("the observer ends");
    });
}

/// R6: what is in the window can be read, at every point of every lap. 1 thread.
///
/// Catches `too_few_segments`.
#[test]
fn the_window_is_there() {
    explore("the_window_is_there", 0, || {
        let (ring, epoch) = (ring(4, 2), Epoch::new());
        let _registered = epoch.register();
        for value in 1..=12_u64 {
            append(&ring, pinned(&ring), value);
            let oldest = ring.window().oldest;
            assert_eq!(read(&ring, oldest - 1), Ok((oldest..=value).collect()));
        }
    });
}

/// R5: what cannot be appended is refused before a seq is claimed, so that no reader waits for it.
/// A writer is refused while another one appends. 2 threads, bound 2: 226 executions, each of which
/// says that it is refused.
///
/// Catches `lay_out_after_claim`.
#[test]
fn a_refused_change_leaves_no_gap() {
    explore("a_refused_change_leaves_no_gap", 2, || {
        let ring = Arc::new(Ring::new(Geometry::new(4, 0, 4, 128)));
        let append = |ring: &Ring<Meta>, row_id: &str| append::one(ring, &Change::delete("Row", row_id), 0);
        let writer = {
            let ring = Arc::clone(&ring);
            thread::spawn(move || append(&ring, "r1"))
        };
        // Longer than a slot as well.
        let too_long = "r".repeat(MAX_RECORD_LEN.max(128));
        panic::catch_unwind(AssertUnwindSafe(|| append(&ring, &too_long))).expect_err("refused");
        append(&ring, "r2");
        writer.join().expect("the writer ends");
        assert_eq!((ring.last(), ring.head()), (2, 2), "a gap");
    });
}

/// The books balance: two batches longer than the window at the same time. Offered = visible +
/// superseded + what left the window, and every segment is live or pooled. 2 threads, bound 4: 201
/// executions.
///
/// Catches `superseded_not_atomic`.
#[test]
fn the_books_balance() {
    explore("the_books_balance", 4, || {
        let ring = Arc::new(Ring::new(Geometry::new(1, 0, 4, 128)));
        let append = |ring: &Ring<Meta>| {
            let changes = ["r1", "r2"].map(|row_id| Change::delete("Row", row_id));
            append::batch(ring, &changes, 0)
        };
        let writer = {
            let ring = Arc::clone(&ring);
            thread::spawn(move || append(&ring))
        };
        append(&ring);
        writer.join().expect("the writer ends");
        assert_eq!((ring.last(), ring.head(), ring.superseded()), (4, 4, 2));
        assert_eq!(ring.read(3, 10).expect("in the window").len(), 1);
        let memory = ring.memory();
        assert_eq!((memory.allocated - memory.pooled, memory.awaiting), (2, 0), "two are live");
    });
}

/// R4: a writer with a reservation is writing while another goes round the ring: what it writes to
/// is not used again before it has left. Then it comes once more. 2 threads, bound 3: 17,256
/// executions.
///
/// Catches `reservations_unseen`, `enter_a_relaxed`, `leave_a_relaxed`, `leave_b_relaxed`.
#[test]
fn a_late_writer_with_a_reservation() {
    explore("a_late_writer_with_a_reservation", 3, || {
        let ring = ring(1, 1);
        let late = {
            let ring = Arc::clone(&ring);
            thread::spawn(move || {
                append(&ring, ring.enter(), 10);
                drop(ring.enter());
            })
        };
        // Three positions: the fourth seq after the late writer's would be put into its segment.
        for value in 1..=4 {
            append(&ring, anyone(), value);
        }
        late.join().expect("the late writer ends");
    });
}

/// R4: a writer with a reservation looks at an older segment in its position (S = 2), as another
/// takes the segment away and it is to be used again by a third, which claimed before both. 2
/// threads, bound 4: 6,433 executions.
///
/// Catches `announce_a_relaxed`, `announce_b_relaxed`.
#[test]
fn a_writer_that_only_looks() {
    explore("a_writer_that_only_looks", 4, || {
        let ring = ring(1, 2);
        append(&ring, anyone(), 1);
        let mut third = ring.claim(anyone(), 1);
        // Three positions: 6 and 7 take the place of 1, and no segment has been in that of 2.
        drop(ring.claim(anyone(), 3));
        let looker = {
            let ring = Arc::clone(&ring);
            thread::spawn(move || append(&ring, ring.enter(), 10))
        };
        append(&ring, anyone(), 20);
        third.publish_last(2, ["2", "", ""]);
        third.finish();
        looker.join().expect("the looker ends");
    });
}

/// R4: as `a_writer_that_only_looks`, with a claim that is conditional. 2 threads, bound 4: 20,757
/// executions.
///
/// Catches `claim_if_relaxed`, `announce_b_relaxed`.
#[test]
fn a_conditional_writer_that_only_looks() {
    explore("a_conditional_writer_that_only_looks", 4, || {
        let ring = ring(1, 2);
        append(&ring, anyone(), 1);
        let mut third = ring.claim(anyone(), 1);
        // Three positions: 6 and 7 take the place of 1, and no segment has been in that of 2.
        drop(ring.claim(anyone(), 3));
        let looker = {
            let ring = Arc::clone(&ring);
            thread::spawn(move || {
                let mut last = 5;
                let mut claim = loop {
                    match ring.claim_if(last, ring.enter(), 1) {
                        Ok(claim) => break claim,
                        Err(now) => last = now,
                    }
                };
                claim.publish_last(10, ["10", "", ""]);
                claim.finish();
            })
        };
        append(&ring, anyone(), 20);
        third.publish_last(2, ["2", "", ""]);
        third.finish();
        looker.join().expect("the looker ends");
    });
}

/// R4: a thread ends, and another acquires its reservation: what sees that one's era sees what the
/// first wrote. 3 threads, bound 2: 130,742 executions.
///
/// Catches `register_a_relaxed`, `register_b_relaxed`, `vacate_a_relaxed`, `vacate_b_relaxed`.
#[test]
fn a_reservation_changes_hands() {
    explore("a_reservation_changes_hands", 2, || {
        let ring = ring(1, 1);
        let first = {
            let ring = Arc::clone(&ring);
            thread::spawn(move || append(&ring, ring.enter(), 10))
        };
        let second = {
            let ring = Arc::clone(&ring);
            thread::spawn(move || drop(ring.enter()))
        };
        for value in 1..=4 {
            append(&ring, anyone(), value);
        }
        first.join().expect("the first ends");
        second.join().expect("the second ends");
    });
}

/// R2, R4: an append in one call is lapped between its claim and its look at the position, where a
/// newer segment lies by then: it drops its record, and the newer one stays. 2 threads, bound 3:
/// 4,908 executions.
///
/// Catches `base_unchecked`.
#[test]
fn a_lapped_append() {
    static LAPPED: AtomicU64 = AtomicU64::new(0);
    explore("a_lapped_append", 3, || {
        let ring = ring(1, 1);
        let late = {
            let ring = Arc::clone(&ring);
            thread::spawn(move || append(&ring, ring.enter(), 10))
        };
        let seqs = [20, 30, 40, 50].map(|value| append(&ring, anyone(), value));
        let late = late.join().expect("the late writer ends");
        let superseded = ring.superseded();
        LAPPED.fetch_add(superseded, Ordering::Relaxed);
        assert_eq!(seqs.iter().sum::<u64>() + late, 15, "seqs 1 to 5, once each");
        assert!(superseded <= u64::from(late <= 3), "lapped by three at least");
        assert_eq!(read(&ring, 4), Ok(vec![if late == 5 { 10 } else { 50 }]));
    });
    assert!(LAPPED.load(Ordering::Relaxed) > 0, "a newer segment was found in some execution");
}

/// The bound in bytes: two writers meet at the lock of the count, and when both have returned, the
/// bound is exact. 2 threads, bound 4: 17,295 executions.
///
/// Catches `count_publish_fence`, `count_look_fence`, `count_once`.
#[test]
fn each_publish_is_counted() {
    explore("each_publish_is_counted", 4, || {
        let geometry = Geometry::new(4, 0, 4, 64).with_max_bytes(Some(1));
        let ring = Arc::new(Ring::<u64>::new(geometry));
        let writer = {
            let ring = Arc::clone(&ring);
            thread::spawn(move || append(&ring, anyone(), 1))
        };
        append(&ring, anyone(), 2);
        writer.join().expect("the writer ends");
        assert_eq!((ring.window().oldest, ring.retained_bytes()), (2, Some(1)));
        assert_eq!(read(&ring, 1).expect("in the window").len(), 1);
    });
}

/// The floor is seen with what was counted, also with what another writer published: the window's
/// start is never beyond its end. 3 threads, bound 3.
///
/// Catches `floor_a_relaxed`, `floor_b_relaxed`.
#[test]
fn the_window_starts_before_it_ends() {
    explore("the_window_starts_before_it_ends", 3, || {
        let geometry = Geometry::new(4, 0, 4, 64).with_max_bytes(Some(0));
        let ring = Arc::new(Ring::<u64>::new(geometry));
        let writers = [1, 2].map(|value| {
            let ring = Arc::clone(&ring);
            thread::spawn(move || append(&ring, anyone(), value))
        });
        let window = ring.window();
        assert!(window.oldest <= window.last + 1, "{window:?}");
        for writer in writers {
            writer.join().expect("a writer ends");
        }
    });
}

/// A text that takes a block.
const LONG: usize = 200;

/// Appends a text in a block. Returns a block that is needed no more.
fn append_long(ring: &Ring<u64>, writing: WriteGuard, value: u64) -> Option<Block> {
    let mut block = Block::with_capacity(LONG);
    block.fill([&long(value), "", ""]);
    let mut claim = ring.claim(writing, 1);
    let recycled = claim.publish_last(value, block);
    claim.finish();
    recycled
}

fn long(value: u64) -> String {
    format!("{value:0>LONG$}")
}

/// Two floors come back from the epoch at once: when both threads have returned, the blocks below
/// both are taken. 2 threads, bound 2: 7,098 executions. What is handed to an unpinned epoch comes
/// back at once.
///
/// Catches `reap_hand_fence`, `reap_look_fence`, `reap_once`.
#[test]
fn two_floors_come_back_at_once() {
    explore("two_floors_come_back_at_once", 2, || {
        let geometry = Geometry::new(4, 0, 4, 64).with_max_bytes(Some(0));
        let ring = Arc::new(Ring::<u64>::new(geometry));
        let writer = {
            let ring = Arc::clone(&ring);
            thread::spawn(move || append_long(&ring, anyone(), 1))
        };
        append_long(&ring, anyone(), 2);
        writer.join().expect("the writer ends");
        assert_eq!(ring.window().oldest, 3);
        assert_eq!(ring.memory().spilled_bytes, 0, "a block was left behind");
    });
}

/// R4: the block of an evicted record is taken when no reader can reach it, and no sooner. 2
/// threads, the real epoch, bound 2: 507 executions.
///
/// Catches `reap_at_once`, `place_after_stamp`.
#[test]
fn an_evicted_block_against_its_reader() {
    explore("an_evicted_block_against_its_reader", 2, || {
        let geometry = Geometry::new(4, 0, 4, 64).with_max_bytes(Some(LONG as u64));
        let ring = Arc::new(Ring::<u64>::new(geometry));
        let epoch = Arc::new(Epoch::new());
        let _registered = epoch.register();
        append_long(&ring, pinned(&ring), 1);
        let writer = {
            let (ring, epoch) = (Arc::clone(&ring), Arc::clone(&epoch));
            thread::spawn(move || {
                let _registered = epoch.register();
                append_long(&ring, pinned(&ring), 2);
                reclaim(&ring);
            })
        };
        match ring.read(0, 2) {
            Ok(run) => {
                // loom switches threads here, between taking the run and looking at it.
                ring.last();
                for index in 0..run.len() {
                    assert_eq!(run.get(index).2.concat(), long(index as u64 + 1), "torn");
                }
            }
            Err(missed) => assert!(matches!(missed, Missed::Evicted(window) if window.oldest == 2)),
        }
        writer.join().expect("the writer ends");
        assert_eq!(ring.window().oldest, 2);
        reclaim(&ring);
        assert_eq!(ring.memory().spilled_bytes, LONG as u64, "the block of 1 is taken, that of 2 is not");
    });
}
