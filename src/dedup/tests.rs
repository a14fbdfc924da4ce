//! Tests of the memory as a whole: against a model, under threads, with hostile ids.
#![forbid(unsafe_code)]

use super::hash::Hashes;
use super::set::{Claim, Set};
use super::{OpClaim, OpGuard, OpId, OpMemory};
use proptest::prelude::*;
use std::collections::{HashMap, VecDeque};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Barrier};
use std::thread;

fn claim<'a>(memory: &'a OpMemory, id: &str) -> OpClaim<'a> {
    memory.claim_op(OpId::bare(id))
}

fn proceed<'a>(memory: &'a OpMemory, id: &str) -> OpGuard<'a> {
    match claim(memory, id) {
        OpClaim::Proceed(guard) => guard,
        other => panic!("{id:?} is {other:?}"),
    }
}

fn has(memory: &OpMemory, id: &str) -> bool {
    memory.has_seen(OpId::bare(id))
}

/// What the memory should say, by the plainest means.
#[derive(Default)]
struct Model {
    capacity: usize,
    completed: VecDeque<(u8, u64)>,
}

impl Model {
    fn complete(&mut self, id: u8, seq: u64) {
        self.completed.push_back((id, seq));
        if self.completed.len() > self.capacity {
            self.completed.pop_front();
        }
    }

    fn seq(&self, id: u8) -> Option<u64> {
        self.completed.iter().find(|(known, _)| *known == id).map(|(_, seq)| *seq)
    }
}

#[derive(Clone, Copy, Debug)]
enum Step {
    Claim(u8),
    Complete(u8),
    Forget(u8),
    Remember(u8),
}

fn step(ids: u8) -> impl Strategy<Value = Step> {
    let id = 0..ids;
    prop_oneof![
        3 => id.clone().prop_map(Step::Claim),
        2 => id.clone().prop_map(Step::Complete),
        1 => id.clone().prop_map(Step::Forget),
        1 => id.prop_map(Step::Remember),
    ]
}

fn check_against_model(capacity: usize, shards: usize, steps: &[Step], ids: u8) -> Result<(), TestCaseError> {
    let memory = OpMemory::with_shards(capacity, shards);
    let mut model = Model { capacity, ..Model::default() };
    let mut guards: HashMap<u8, OpGuard<'_>> = HashMap::new();
    for (&step, seq) in steps.iter().zip(1..) {
        match step {
            Step::Claim(id) => match claim(&memory, &id.to_string()) {
                OpClaim::Proceed(guard) => {
                    prop_assert_eq!(model.seq(id), None);
                    prop_assert!(guards.insert(id, guard).is_none(), "two claims on {} proceed", id);
                }
                OpClaim::InFlight => prop_assert!(guards.contains_key(&id)),
                OpClaim::Replayed { seq } => prop_assert_eq!(model.seq(id), Some(seq)),
            },
            Step::Complete(id) => {
                if let Some(guard) = guards.remove(&id) {
                    guard.complete(seq);
                    model.complete(id, seq);
                }
            }
            Step::Forget(id) => drop(guards.remove(&id)),
            Step::Remember(id) => {
                memory.remember(OpId::bare(&id.to_string()));
                if !guards.contains_key(&id) && model.seq(id).is_none() {
                    model.complete(id, 0);
                }
            }
        }
        for id in 0..ids {
            prop_assert_eq!(has(&memory, &id.to_string()), model.seq(id).is_some(), "id {}", id);
        }
        let census = memory.census();
        prop_assert_eq!(census.entries, (model.completed.len() + guards.len()) as u64);
        prop_assert_eq!(census.in_flight, guards.len() as u64);
    }
    Ok(())
}

proptest! {
    #[test]
    fn few_ids_in_few_shards_are_a_fifo(
        capacity in 0..6_usize, shards in 0..3_u32, steps in prop::collection::vec(step(9), 0..200)
    ) {
        check_against_model(capacity, 1 << shards, &steps, 9)?;
    }

    #[test]
    fn shards_that_split_are_a_fifo(
        capacity in 0..40_usize, steps in prop::collection::vec(step(60), 0..400)
    ) {
        check_against_model(capacity, 1, &steps, 60)?;
    }
}

#[test]
fn an_id_is_evicted_by_exactly_capacity_younger_ones() {
    for capacity in [1, 2, 3, 100] {
        let memory = OpMemory::new(capacity);
        proceed(&memory, "first").complete(7);
        for n in 0..capacity {
            assert!(has(&memory, "first"), "after {n} of {capacity}");
            assert!(matches!(claim(&memory, "first"), OpClaim::Replayed { seq: 7 }));
            proceed(&memory, &n.to_string()).complete(n as u64);
        }
        assert!(!has(&memory, "first"));
        drop(proceed(&memory, "first"));
    }
}

#[test]
fn remembering_again_does_not_refresh() {
    let memory = OpMemory::new(2);
    memory.remember(OpId::bare("a"));
    memory.remember(OpId::bare("b"));
    memory.remember(OpId::bare("a"));
    memory.remember(OpId::bare("c"));
    assert_eq!([has(&memory, "a"), has(&memory, "b"), has(&memory, "c")], [false, true, true]);
}

#[test]
fn without_capacity_only_what_is_in_flight_is_known() {
    let memory = OpMemory::new(0);
    memory.remember(OpId::bare("a"));
    assert!(!has(&memory, "a"));
    let guard = proceed(&memory, "a");
    assert!(matches!(claim(&memory, "a"), OpClaim::InFlight));
    guard.complete(1);
    assert!(!has(&memory, "a"));
    proceed(&memory, "a").complete(2);
    assert_eq!(memory.census().entries, 0);
}

#[test]
fn a_guard_may_be_completed_on_another_thread() {
    let memory = OpMemory::new(4);
    let guard = proceed(&memory, "a");
    thread::scope(|scope| {
        scope.spawn(|| {
            assert!(!has(&memory, "a"));
            guard.complete(3);
        });
    });
    assert!(matches!(claim(&memory, "a"), OpClaim::Replayed { seq: 3 }));
}

#[test]
fn a_leaked_claim_stays_in_flight_and_is_freed_with_the_memory() {
    let memory = OpMemory::new(1);
    std::mem::forget(proceed(&memory, "a"));
    for n in 0..100 {
        proceed(&memory, &n.to_string()).complete(n);
    }
    assert!(matches!(claim(&memory, "a"), OpClaim::InFlight));
    assert_eq!(memory.census().entries, 2);
}

#[test]
fn outcomes_are_counted() {
    let memory = OpMemory::new(8);
    let guard = proceed(&memory, "a");
    assert!(matches!(claim(&memory, "a"), OpClaim::InFlight));
    guard.complete(1);
    drop(proceed(&memory, "b"));
    for _ in 0..3 {
        assert!(matches!(claim(&memory, "a"), OpClaim::Replayed { seq: 1 }));
    }
    let tally = memory.tally();
    assert_eq!((tally.completed, tally.in_flight, tally.forgotten, tally.replayed), (1, 1, 1, 3));
}

#[test]
fn a_look_up_counts_as_a_false_positive_if_the_filter_has_the_id_and_the_set_does_not() {
    let memory = OpMemory::new(1);
    memory.remember(OpId::bare("a"));
    assert!(has(&memory, "a"));
    assert_eq!(memory.tally().false_positives, 0);
    // Of the next generation: the bits of "a" stay.
    memory.remember(OpId::bare("b"));
    assert!(!has(&memory, "a"));
    assert_eq!(memory.tally().false_positives, 1);
}

/// Ids that an attacker would send, for two of them to be taken for one, or to make the memory
/// slow.
fn hostile_ids() -> Vec<String> {
    let long = "x".repeat(1 << 20);
    let mut ids: Vec<String> =
        ["", " ", "\0", "\0\0", "é", "e\u{301}", "\u{feff}", "\u{10ffff}", "op", "op ", "Op"]
            .map(String::from)
            .to_vec();
    // Same length, same prefix, one bit apart.
    ids.extend((0..128_u8).map(|byte| format!("op-{}{}", "0".repeat(32), char::from(byte))));
    ids.extend((0..4).map(|n| format!("{long}{n}")));
    ids.extend([76, 77, 78, 79].map(|len| "y".repeat(len)));
    ids.push(long);
    ids
}

#[test]
fn hostile_ids_are_told_apart() {
    let ids = hostile_ids();
    for shards in [1, 256] {
        let memory = OpMemory::with_shards(ids.len(), shards);
        let guards: Vec<_> = ids.iter().map(|id| proceed(&memory, id)).collect();
        assert!(ids.iter().all(|id| matches!(claim(&memory, id), OpClaim::InFlight)));
        for (guard, seq) in guards.into_iter().zip(1..) {
            guard.complete(seq);
        }
        for (id, expected) in ids.iter().zip(1..) {
            assert!(has(&memory, id));
            assert!(matches!(claim(&memory, id), OpClaim::Replayed { seq } if seq == expected));
        }
    }
}

#[test]
fn the_same_id_of_two_clients_is_two_ids() {
    let memory = OpMemory::new(100);
    let scopes = [None, Some(""), Some("a"), Some("ab"), Some("b")];
    for op in ["", "a", "b", "ab", "bc", "abc"] {
        for client in scopes {
            let OpClaim::Proceed(guard) = memory.claim_op(OpId::scoped(client, op)) else {
                panic!("{client:?} {op:?} is taken for another")
            };
            guard.complete(1);
            assert!(memory.has_seen(OpId::scoped(client, op)));
        }
    }
}

/// Threads claim the same ids, in different orders. What is remembered is never applied again.
fn race_for_the_same_ids(threads: usize, ids: usize, shards: usize) {
    let memory = OpMemory::with_shards(ids, shards);
    let applied: Vec<_> = (0..ids).map(|_| AtomicUsize::new(0)).collect();
    let (proceeded, replayed) = (AtomicUsize::new(0), AtomicUsize::new(0));
    let barrier = Barrier::new(threads);
    thread::scope(|scope| {
        for start in 0..threads {
            let (memory, applied, barrier) = (&memory, &applied, &barrier);
            let (proceeded, replayed) = (&proceeded, &replayed);
            scope.spawn(move || {
                barrier.wait();
                for n in 0..ids {
                    let n = if start % 2 == 0 { n } else { ids - 1 - n };
                    loop {
                        match claim(memory, &n.to_string()) {
                            OpClaim::Proceed(guard) => {
                                applied[n].fetch_add(1, Ordering::Relaxed);
                                guard.complete(n as u64 + 1);
                                proceeded.fetch_add(1, Ordering::Relaxed);
                                break;
                            }
                            OpClaim::InFlight => thread::yield_now(),
                            OpClaim::Replayed { seq } => {
                                assert_eq!(seq, n as u64 + 1);
                                assert!(has(memory, &n.to_string()), "replayed, but not seen");
                                replayed.fetch_add(1, Ordering::Relaxed);
                                break;
                            }
                        }
                    }
                }
            });
        }
    });
    assert!(applied.iter().all(|times| times.load(Ordering::Relaxed) == 1));
    assert_eq!(proceeded.into_inner() + replayed.into_inner(), threads * ids);
    assert_eq!(memory.census().entries, ids as u64);
}

#[test]
fn of_many_claims_on_an_id_one_proceeds() {
    race_for_the_same_ids(8, 20_000, 8192);
    race_for_the_same_ids(8, 200, 1);
}

#[test]
fn an_id_is_held_by_one_thread_at_a_time_whatever_comes_and_goes() {
    const IDS: usize = 24;
    let memory = OpMemory::with_shards(5, 1);
    let held: Vec<_> = (0..IDS).map(|_| AtomicBool::new(false)).collect();
    let completed = AtomicU64::new(0);
    thread::scope(|scope| {
        for seed in 1..=6_u64 {
            let (memory, held, completed) = (&memory, &held, &completed);
            scope.spawn(move || {
                let mut random = seed;
                for _ in 0..30_000 {
                    random = random
                        .wrapping_mul(6_364_136_223_846_793_005)
                        .wrapping_add(1_442_695_040_888_963_407);
                    let n = (random >> 33) as usize % IDS;
                    match claim(memory, &n.to_string()) {
                        OpClaim::Proceed(guard) => {
                            assert!(!held[n].swap(true, Ordering::Relaxed), "{n} is held twice");
                            if random >> 62 == 0 {
                                thread::yield_now();
                            }
                            held[n].store(false, Ordering::Relaxed);
                            if random >> 60 & 1 == 0 {
                                guard.complete(n as u64 + 1);
                                completed.fetch_add(1, Ordering::Relaxed);
                            }
                        }
                        OpClaim::InFlight => {}
                        OpClaim::Replayed { seq } => assert_eq!(seq, n as u64 + 1),
                    }
                }
            });
        }
    });
    let census = memory.census();
    assert_eq!((census.entries, census.in_flight), (5, 0));
    assert_eq!(memory.tally().completed, completed.into_inner());
    assert_eq!((0..IDS).filter(|n| has(&memory, &n.to_string())).count(), 5);
}

#[test]
fn who_remembers_an_id_sees_it_at_once() {
    let memory = Arc::new(OpMemory::with_shards(1000, 4));
    let threads: Vec<_> = (0..6)
        .map(|_| {
            let memory = Arc::clone(&memory);
            thread::spawn(move || {
                for n in 0..1000 {
                    let id = n.to_string();
                    memory.remember(OpId::bare(&id));
                    assert!(has(&memory, &id), "{id} was remembered");
                }
            })
        })
        .collect();
    for thread in threads {
        thread.join().unwrap();
    }
    assert_eq!(memory.tally().completed, 1000, "each id takes one ticket, whoever remembers it");
}

/// A fixed stand-in for the keyed hashes: `SplitMix64`.
fn hash(n: u64) -> u64 {
    let mut z = n.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    z = (z ^ z >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ z >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ z >> 31
}

#[test]
fn the_filter_errs_as_often_as_theory_says() {
    // 8192 words to a generation of 16,384 ids: two ids to a word. The generations end full.
    let set = Set::new(10_000);
    let generation = 16_384;
    for n in 1..4 * generation {
        match set.claim(Hashes { shard: hash(n), filter: hash(n) }, OpId::bare(&n.to_string()), None) {
            Claim::Proceed(held) => set.complete(held, n),
            other => panic!("{other:?}"),
        }
    }
    let absent = 200_000_u32;
    let errors = (0..absent).filter(|&n| set.may_have(hash(1 << 40 | u64::from(n)))).count();
    let measured = f64::from(u32::try_from(errors).unwrap()) / f64::from(absent);
    // A word of n ids has 4n of 32 bits set, some twice; n is Poisson distributed around two. A
    // test of four bits passes a word if all are set; either of two words will do.
    let (mut one_word, mut poisson) = (0.0, (-2.0_f64).exp());
    for n in 0..30 {
        let bits_set = 1.0 - (1.0 - 1.0 / 32.0_f64).powi(4 * n);
        one_word += poisson * bits_set.powi(4);
        poisson *= 2.0 / f64::from(n + 1);
    }
    let theory = 1.0 - (1.0 - one_word) * (1.0 - one_word);
    println!("false positives: measured {measured:.4}, theory {theory:.4}");
    // Words that no id of the generation reached still hold older bits, which the theory leaves
    // out.
    assert!((0.8 * theory..1.5 * theory).contains(&measured), "measured {measured}, theory {theory}");
}

#[test]
fn a_full_shard_splits_and_loses_nothing() {
    let memory = OpMemory::with_shards(10, 1);
    let guards: Vec<_> = (0..1000).map(|n| proceed(&memory, &n.to_string())).collect();
    assert!(memory.census().split > 100);
    assert!((0..1000).all(|n| matches!(claim(&memory, &n.to_string()), OpClaim::InFlight)));
    for (guard, seq) in guards.into_iter().zip(1..) {
        guard.complete(seq);
    }
    assert_eq!(memory.census().entries, 10);
    assert!((990..1000).all(|n| has(&memory, &n.to_string())));
}
