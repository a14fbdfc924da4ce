//! The ring alone, with writers stopped at any point: claiming and publishing are two calls here.

use super::geometry::Window;
use super::*;
use crate::sync::Arc;
use std::cell::Cell;
use std::sync::Barrier;
use std::time::{Duration, Instant};

const SLOT: usize = 64;

/// A ring of small segments whose records are a number and its text.
fn ring(capacity: usize, segment_len: usize) -> Ring<u64> {
    Ring::new(Geometry::new(capacity, 0, segment_len, SLOT))
}

fn append(ring: &Ring<u64>, value: u64) -> u64 {
    ring.append(ring.enter(), value, text(&value.to_string())).0
}

/// A text in three parts.
fn text(text: &str) -> Parts<'_> {
    let (start, rest) = text.split_at(text.len().min(1));
    [start, rest, ""]
}

/// What a reader after `after` gets: seqs and values, checked against each other's text.
fn read(ring: &Ring<u64>, after: u64, limit: usize) -> Result<Vec<(u64, u64)>, Missed> {
    let run = ring.read(after, limit)?;
    let records = (0..run.len()).map(|index| {
        let (seq, value, text) = run.get(index);
        assert_eq!(text.concat(), value.to_string(), "the record of seq {seq} is torn");
        (seq, value)
    });
    Ok(records.collect())
}

/// `values` with the seqs from `first`.
fn numbered(first: u64, values: impl IntoIterator<Item = u64>) -> Vec<(u64, u64)> {
    (first..).zip(values).collect()
}

#[test]
fn records_come_back_across_segment_edges() {
    let ring = ring(10, 4);
    for value in 100..110 {
        append(&ring, value);
    }
    for after in 0..=10 {
        assert_eq!(read(&ring, after, 100), Ok(numbered(after + 1, 100 + after..110)));
    }
    assert_eq!(read(&ring, 2, 3), Ok(numbered(3, 102..105)));
}

#[test]
fn the_window_is_exact_whatever_the_segments_hold() {
    for capacity in 0..20 {
        let ring = ring(capacity, 4);
        for value in 1..=50 {
            append(&ring, value);
            let oldest = (value + 1).saturating_sub(capacity as u64).max(1);
            assert_eq!(read(&ring, oldest - 1, 100), Ok(numbered(oldest, oldest..=value)));
            if oldest > 1 {
                let window = Window { oldest, last: value };
                assert_eq!(read(&ring, oldest - 2, 100), Err(Missed::Evicted(window)));
            }
            assert_eq!(read(&ring, value + 1, 100), Err(Missed::Ahead(Window { oldest, last: value })));
        }
    }
}

#[test]
fn a_stalled_writer_holds_back_what_comes_after_it_and_nothing_else() {
    let ring = ring(8, 4);
    append(&ring, 1);
    let mut stalled = ring.claim(ring.enter(), 1);
    for value in 3..=5 {
        append(&ring, value);
    }
    assert_eq!(read(&ring, 0, 100), Ok(numbered(1, 1..=1)), "readers stop before the gap");
    assert_eq!((ring.head(), ring.last()), (1, 5));
    stalled.publish_last(2, text("2"));
    assert_eq!(read(&ring, 0, 100), Ok(numbered(1, 1..=5)));
    assert_eq!(ring.head(), 5);
}

#[test]
fn a_lapped_writer_is_superseded_and_overwrites_nothing() {
    let ring = ring(4, 2);
    let mut stalled = ring.claim(ring.enter(), 1);
    let laps = 10 * ring.geometry().positions() as u64 * 2;
    for value in 2..=laps {
        append(&ring, value);
    }
    let before = read(&ring, laps - 4, 100);
    stalled.publish_last(1, text("1"));
    assert_eq!(ring.superseded(), 1);
    assert_eq!(read(&ring, laps - 4, 100), before);
    assert_eq!(before, Ok(numbered(laps - 3, laps - 3..=laps)));
    assert_eq!(ring.head(), laps, "a gap that left the window holds nobody back");
}

#[test]
fn a_lapped_batch_is_superseded_whole_and_gives_its_block_back() {
    let ring = ring(4, 2);
    let mut stalled = ring.claim(ring.enter(), 3);
    for value in 4..=40 {
        append(&ring, value);
    }
    let mut block = Block::with_capacity(100);
    block.fill(["2", "", ""]);
    let records = [(3, text("3").into()), (2, block.into()), (1, text("1").into())];
    let mut given_back = Vec::new();
    stalled.publish(records.into_iter(), |block| given_back.push(block.capacity()));
    assert_eq!((ring.superseded(), given_back), (3, vec![100]));
    assert_eq!(read(&ring, 36, 100), Ok(numbered(37, 37..=40)));
}

#[test]
fn a_writer_lapped_while_it_holds_its_segment_writes_into_that_one() {
    let ring = ring(2, 1);
    let mut stalled = ring.claim(ring.enter(), 1);
    // A claim asks for a record when it has a segment for it.
    let record = std::iter::once_with(|| {
        for value in 2..=41 {
            append(&ring, value);
        }
        (1, text("1").into())
    });
    stalled.publish(record, drop);
    assert_eq!(read(&ring, 39, 100), Ok(numbered(40, 40..=41)), "41 has the place that 1 had");
}

#[test]
fn a_batch_is_seen_whole_or_not_at_all() {
    let ring = ring(16, 4);
    append(&ring, 1);
    let mut claim = ring.claim(ring.enter(), 6);
    for value in (2..=7).rev() {
        assert_eq!(read(&ring, 0, 100), Ok(numbered(1, 1..=1)), "before {value} is published");
        claim.publish_last(value, text(&value.to_string()));
    }
    claim.finish();
    assert_eq!(read(&ring, 0, 100), Ok(numbered(1, 1..=7)));
}

#[test]
fn a_reader_keeps_what_it_read_while_writers_go_round() {
    let ring = ring(4, 2);
    for value in 1..=4 {
        append(&ring, value);
    }
    let run = ring.read(0, 100).expect("in the window");
    for value in 5..=1000 {
        append(&ring, value);
    }
    let held: Vec<_> = (0..run.len()).map(|index| run.get(index)).collect();
    assert_eq!(held, [1, 2, 3, 4].map(|seq| (seq, seq, text(["1", "2", "3", "4"][seq as usize - 1]))));
    assert!(ring.memory().awaiting > 100, "its memory waits for it: {:?}", ring.memory());
}

/// A run that is extended meets segments again in which it saw nothing yet: each is handed out
/// once.
#[test]
fn a_run_extended_past_a_gap_reads_each_record_from_its_own_segment() {
    // Among them are the first seq of the run, and the first of its second segment, 4.
    for gap in 1..=8 {
        let ring = ring(32, 4);
        (1..gap).for_each(|value| assert_eq!(append(&ring, value), value));
        let mut stalled = ring.claim(ring.enter(), 1);
        append(&ring, gap + 1);
        let mut run = ring.read(0, 100).expect("in the window");
        assert_eq!((run.len() as u64, run.has_more()), (gap - 1, false));
        run.extend(100);
        assert_eq!(run.len() as u64, gap - 1, "the gap is still there");
        stalled.publish_last(gap, text(&gap.to_string()));
        (gap + 2..=16).for_each(|value| assert_eq!(append(&ring, value), value));
        run.extend(100);
        let records: Vec<_> =
            (0..run.len()).map(|index| run.get(index)).map(|(seq, value, _)| (seq, value)).collect();
        assert_eq!(records, numbered(1, 1..=16), "with a gap at {gap}");
    }
}

/// Appends a text, spilled if it has to be, in a block that the caller has at hand if it is large
/// enough.
fn append_text(ring: &Ring<u64>, value: u64, parts: Parts<'_>, recycled: &mut Option<Block>) {
    let len = parts.concat().len();
    if ring.fits(len as u64) {
        *recycled = ring.append(ring.enter(), value, parts).1.or(recycled.take());
        return;
    }
    let mut block = recycled.take().unwrap_or_else(|| Block::with_capacity(len));
    block.fill(parts);
    let mut claim = ring.claim(ring.enter(), 1);
    *recycled = claim.publish_last(value, block);
    claim.finish();
}

#[test]
fn long_texts_come_back_in_their_parts() {
    let ring = ring(4, 2);
    let long = "x".repeat(1000);
    for value in 0..100 {
        let parts = ["<", if value % 3 == 0 { &long } else { "short" }, ">"];
        append_text(&ring, value, parts, &mut None);
    }
    let run = ring.read(97, 100).expect("in the window");
    assert_eq!(run.get(0).2, ["<", "short", ">"]);
    assert_eq!(run.get(2).2, ["<", &long, ">"]);
}

#[test]
fn a_slot_gives_its_block_to_its_next_writer() {
    let ring = ring(4, 2);
    let long = "x".repeat(1000);
    // Until slots are used again: other tests' threads may hold the epoch for a moment.
    let patience = || (1..=1_000_000).inspect(|_| std::thread::yield_now());
    let mut recycled = None;
    let appended = patience().find(|&value| {
        append_text(&ring, value, [&long, "", ""], &mut recycled);
        recycled.is_some()
    });
    let appended = appended.expect("a block comes back");
    let held = ring.memory().spilled_bytes;
    assert!(held < appended * 1000, "{held} bytes after {appended} appends");
    // Short records take the blocks out one by one.
    let given_up = patience().find_map(|value| ring.append(ring.enter(), value, text("short")).1);
    assert_eq!(given_up.expect("a short record finds a block").capacity(), 1000);
    assert!(ring.memory().spilled_bytes <= held - 1000);
}

#[test]
fn a_text_comes_back_whatever_the_writer_thought_of_its_length() {
    let ring = ring(4, 2);
    let long = "x".repeat(1000);
    ring.append(ring.enter(), 1, ["a", &long, "z"]);
    let mut block = Block::with_capacity(0);
    block.fill(["b", "", "y"]);
    let mut claim = ring.claim(ring.enter(), 1);
    claim.publish_last(2, block);
    claim.finish();
    // The short way of an append, which finds its segment in place.
    let before = ring.memory().spilled_bytes;
    ring.append(ring.enter(), 3, ["c", &long, "x"]);
    assert_eq!(ring.memory().spilled_bytes - before, long.len() as u64 + 2, "in a block of its own");
    let run = ring.read(0, 100).expect("in the window");
    let texts = [0, 1, 2].map(|index| run.get(index).2);
    assert_eq!(texts, [["a", &long, "z"], ["b", "", "y"], ["c", &long, "x"]]);
}

#[test]
fn a_slot_has_the_size_that_was_asked_for_in_whole_cache_lines() {
    for (asked, size) in [(0, 64), (64, 64), (65, 128), (512, 512)] {
        let ring = Ring::<u64>::new(Geometry::new(8, 0, 4, asked));
        assert_eq!(ring.memory().segment_bytes, 4 * size, "asked for {asked}");
    }
}

/// More is evicted at a time than one segment holds.
#[test]
fn the_blocks_that_the_bound_evicts_come_back_from_every_segment() {
    let ring = Ring::<u64>::new(Geometry::new(1000, 0, 4, SLOT).with_max_bytes(Some(20_000)));
    let long = "x".repeat(10_000);
    for value in 0..100 {
        ring.append(ring.enter(), value, text(&long));
    }
    let deadline = Instant::now() + Duration::from_secs(60);
    // The window, and what is too little to be handed to the epoch.
    while ring.memory().spilled_bytes > 20_000 + 64 * 1024 + 10_000 {
        assert!(Instant::now() < deadline, "{:?}", ring.memory());
        ring.pin().flush();
        std::thread::yield_now();
    }
}

#[test]
fn parts_of_every_length_come_back() {
    let ring = Ring::<u64>::new(Geometry::new(8, 0, 4, 512));
    let text: String = ('!'..='~').cycle().take(500).collect();
    for len in 0..=140 {
        let parts = [&text[..len], &text[len..2 * len], &text[300..440 - len]];
        let (seq, _) = ring.append(ring.enter(), 0, parts);
        let run = ring.read(seq - 1, 1).expect("in the window");
        assert_eq!(run.get(0).2, parts);
    }
}

/// A writer that is held in mid-claim may still write into any segment that was there when it came:
/// none of them is used again, and all of them when it has gone.
#[test]
fn what_a_held_writer_can_reach_is_not_used_again() {
    let ring = &ring(8, 4);
    let appends = |count: u64| {
        for value in 0..count {
            append(ring, value);
        }
    };
    appends(100);
    let before = ring.memory().allocated;
    let (held, go_on) = (&Barrier::new(2), &Barrier::new(2));
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let mut claim = ring.claim(ring.enter(), 1);
            held.wait();
            go_on.wait();
            claim.publish_last(HELD, text(&HELD.to_string()));
            claim.finish();
        });
        held.wait();
        // Segments that were unlinked before it came are still used, the others are not.
        appends(400);
        let memory = ring.memory();
        go_on.wait();
        assert!(memory.allocated >= 100 - before, "{memory:?}, and there were {before}");
    });
    assert_eq!(ring.superseded(), 1);
    appends(400);
    gives_back(ring, before + 3);
}

/// The record of a claim may panic while it is made.
#[test]
fn what_an_unfinished_claim_unlinked_is_used_again() {
    let ring = ring(8, 4);
    for value in 0..400 {
        let mut claim = ring.claim(ring.enter(), 1);
        claim.publish_last(value, text("1"));
        drop(claim);
    }
    gives_back(&ring, 20);
}

/// With a bound in bytes, a segment in the pool has no blocks: all are in segments that are in use
/// or wait for the epoch.
#[test]
fn a_pooled_segment_of_a_ring_with_a_byte_bound_holds_no_blocks() {
    const LONG: u64 = 1000;
    let ring = Ring::<u64>::new(Geometry::new(1, 0, 1, SLOT).with_max_bytes(Some(1 << 30)));
    let long = "x".repeat(LONG as usize);
    let deadline = Instant::now() + Duration::from_secs(60);
    // Until the pool is full: writers of other tests keep segments out of it.
    loop {
        ring.append(ring.enter(), 1, text(&long));
        ring.pin().flush();
        let memory = ring.memory();
        // More appends than it takes to hand blocks to the epoch.
        if ring.last() > 200 && memory.pooled == 3 && memory.spilled_bytes <= (memory.allocated - 3) * LONG {
            break;
        }
        assert!(Instant::now() < deadline, "{memory:?}");
        std::thread::yield_now();
    }
}

/// Waits until the ring has given back all but fewer than so many segments: writers of other tests,
/// held with their reservations, hold the segments of all rings.
fn gives_back(ring: &Ring<u64>, segments: u64) {
    let deadline = Instant::now() + Duration::from_secs(60);
    while ring.memory().allocated >= segments {
        assert!(Instant::now() < deadline, "{:?}, not fewer than {segments}", ring.memory());
        append(ring, 0);
        ring.pin().flush();
        std::thread::yield_now();
    }
}

/// R5: what a pin may run, and it may free segments by the dozen, runs before a claim or after its
/// publish.
#[test]
fn nothing_that_waits_for_the_epoch_runs_between_claim_and_publish() {
    thread_local! {
        static CLAIMED: Cell<bool> = const { Cell::new(false) };
        /// What ran while nothing was claimed, and while something was.
        static RAN: Cell<[u32; 2]> = const { Cell::new([0; 2]) };
    }
    // Every claim installs a segment.
    let ring = ring(4, 1);
    for value in 1..=2_000 {
        let guard = ring.pin();
        let count = || {
            let mut ran = RAN.get();
            ran[usize::from(CLAIMED.get())] += 1;
            RAN.set(ran);
        };
        // SAFETY: it uses thread-local memory only.
        unsafe { guard.defer_unchecked(count) };
        guard.flush();
        drop(guard);
        let mut claim = ring.claim(ring.enter(), 1);
        CLAIMED.set(true);
        claim.publish_last(value, text("1"));
        CLAIMED.set(false);
        claim.finish();
    }
    let [before_or_after, between] = RAN.get();
    assert!(before_or_after > 1_000, "{before_or_after} ran at all");
    assert_eq!(between, 0, "ran in the middle");
}

#[test]
fn a_run_that_is_forgotten_in_one_ring_holds_no_memory_of_another() {
    let [forgotten, other] = [ring(8, 4), ring(8, 4)];
    append(&forgotten, 1);
    append(&other, 1);
    std::mem::forget(forgotten.read(0, 10));
    for value in 0..4_000 {
        append(&forgotten, value);
        append(&other, value);
    }
    gives_back(&other, 20);
    assert!(forgotten.memory().awaiting > 900, "{:?}", forgotten.memory());
}

#[test]
fn a_thread_uses_more_rings_than_it_keeps_registrations_for() {
    let rings: Vec<_> = (0..50).map(|_| ring(8, 4)).collect();
    for value in 1..=200 {
        for ring in &rings {
            append(ring, value);
            assert_eq!(read(ring, value - 1, 9), Ok(numbered(value, [value])));
        }
    }
    for ring in &rings {
        gives_back(ring, 20);
    }
    // Pinned in all at once, and dropped in another order.
    let runs: Vec<_> =
        rings.iter().map(|ring| ring.read(ring.last() - 8, 8).expect("in the window")).collect();
    for (ring, run) in rings.iter().zip(runs) {
        (0..100).for_each(|value| _ = append(ring, value));
        let (seq, value, text) = run.get(7);
        assert_eq!((seq, text.concat()), (run.first() + 7, value.to_string()));
    }
}

#[test]
fn has_more_tells_whether_a_published_record_follows() {
    let ring = ring(8, 4);
    let more = |after, limit| ring.read(after, limit).expect("in the window").has_more();
    assert!(!more(0, 0));
    append(&ring, 1);
    assert!(more(0, 0));
    assert!(!more(0, 1));
    let mut stalled = ring.claim(ring.enter(), 1);
    append(&ring, 3);
    assert!(!more(0, 1), "the next seq is not published");
    stalled.publish_last(2, text("2"));
    assert!(more(0, 1));
    assert!(more(0, 2));
    assert!(!more(0, 3));
}

#[test]
fn a_ring_may_start_anywhere_below_2_to_the_53() {
    let base = (1 << 53) - 1;
    let ring = Ring::<u64>::new(Geometry::new(3, base, 2, SLOT));
    assert_eq!(ring.head(), base);
    for value in base + 1..=base + 10 {
        assert_eq!(append(&ring, value), value);
    }
    assert_eq!(read(&ring, base + 7, 100), Ok(numbered(base + 8, base + 8..=base + 10)));
    assert!(matches!(read(&ring, 5, 100), Err(Missed::Evicted(_))));
}

/// Follows the ring until seq `until` has been seen or lost. Returns how many records it saw and
/// how many it lost.
fn follow(ring: &Ring<u64>, until: u64) -> (u64, u64) {
    let (mut cursor, mut seen, mut lost) = (0, 0, 0);
    while cursor < until {
        match read(ring, cursor, 7) {
            Ok(records) => {
                for (seq, value) in records {
                    assert_eq!(seq, cursor + 1, "in order, without a gap, once");
                    assert!(value == seq || value == HELD, "seq {seq} holds the record of {value}");
                    (cursor, seen) = (seq, seen + 1);
                }
            }
            Err(Missed::Evicted(window)) => {
                assert!(window.oldest > cursor + 1, "told to have missed something, and nothing was");
                lost += window.oldest - 1 - cursor;
                cursor = window.oldest - 1;
            }
            Err(missed) => panic!("{missed:?} at {cursor}"),
        }
        std::thread::yield_now();
    }
    (seen, lost)
}

/// The value of a record whose writer was held between claim and publish.
const HELD: u64 = u64::MAX;

/// More threads than cores on a window so small that it is lapped all the time, one writer being
/// held between claim and publish again and again: nothing is torn, doubled or out of order, and
/// what each reader saw and what it lost add up.
#[test]
fn held_writers_and_lapped_readers_lose_nothing_untold() {
    const APPENDS: u64 = 30_000;
    const HOLDS: u64 = 300;
    const WRITERS: u64 = 4;
    let offered = WRITERS * APPENDS + HOLDS;
    let ring = &ring(32, 4);
    std::thread::scope(|scope| {
        for _ in 0..WRITERS {
            scope.spawn(|| {
                for _ in 0..APPENDS {
                    let mut claim = ring.claim(ring.enter(), 1);
                    let seq = claim.first();
                    claim.publish_last(seq, text(&seq.to_string()));
                    claim.finish();
                }
            });
        }
        scope.spawn(|| {
            for round in 0..HOLDS {
                let mut claim = ring.claim(ring.enter(), 1);
                // Every tenth is held until it is lapped, as long as the others are there to do it.
                let lapped = (claim.first() + 2 * 32).min(WRITERS * APPENDS);
                let patience = if round % 10 == 0 { 100_000 } else { round };
                (0..patience).take_while(|_| ring.last() < lapped).for_each(|_| std::thread::yield_now());
                claim.publish_last(HELD, text(&HELD.to_string()));
                claim.finish();
            }
        });
        let readers = [(); 3].map(|()| scope.spawn(|| follow(ring, offered)));
        for reader in readers {
            let (seen, lost) = reader.join().expect("the reader ends");
            assert_eq!(seen + lost, offered);
            assert!(lost >= ring.superseded(), "{lost} lost, {} superseded", ring.superseded());
        }
    });
    assert_eq!((ring.last(), ring.head()), (offered, offered));
    assert!(ring.superseded() > 0, "held long enough to be lapped, at least once");
}

/// What waits for the epoch holds it, and may run later.
#[test]
fn a_ring_that_is_dropped_closes_its_reaper() {
    let ring = Ring::<u64>::new(Geometry::new(8, 0, 4, 64).with_max_bytes(Some(100)));
    let reaper = Arc::clone(&ring.bytes.as_ref().unwrap().reaper);
    assert!(!reaper.is_closed());
    drop(ring);
    assert!(reaper.is_closed());
}

#[test]
fn a_bound_is_behind_as_long_as_a_published_record_is_not_counted() {
    let ring = Ring::<u64>::new(Geometry::new(4, 0, 4, 64).with_max_bytes(Some(100)));
    let is_behind = || ring.bytes.as_ref().unwrap().is_behind(&ring.last, &ring.pin());
    assert!(!is_behind(), "of an empty ring");
    let mut claim = ring.claim(ring.enter(), 1);
    assert!(!is_behind(), "by a record that is not published");
    claim.publish_last(1, ["a", "", ""]);
    assert!(is_behind());
    claim.finish();
    assert!(!is_behind(), "by what the append has counted");
}

#[test]
fn a_bound_is_behind_as_long_as_it_counts_from_before_the_window() {
    let ring = Ring::<u64>::new(Geometry::new(4, 0, 4, 64).with_max_bytes(Some(100)));
    let is_behind = || ring.bytes.as_ref().unwrap().is_behind(&ring.last, &ring.pin());
    let claim = ring.claim(ring.enter(), 4);
    assert!(!is_behind(), "seq 1 is in the window");
    let next = ring.claim(ring.enter(), 1);
    assert!(is_behind(), "seq 1 left the window and was never published");
    drop((next, claim));
}
