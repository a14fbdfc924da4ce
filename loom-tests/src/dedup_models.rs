//! The op-id memory's protocols: build, claim, complete, forget, look up, rotate, expire, split,
//! and the counted slots below.
//!
//! In a model a shard has two slots. Ids are entered under hashes that the model chooses, so that
//! they meet.

use crate::dedup::model::{Claim, Hashes, Held, Lazy, OpId, Set, Slot};
use crate::explore::explore;
use loom::sync::Arc;
use loom::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use loom::thread;

/// Hashes that lead to the one shard, with a tag and filter bits of its own.
fn hashes(id: &str) -> Hashes {
    let n = u64::from(id.as_bytes()[0] - b'`');
    Hashes { shard: (n * 0x2aab) << 28, filter: n << 59 | n << 54 | n << 49 | n << 44 }
}

fn claim(set: &Set, id: &str) -> Claim {
    set.claim(hashes(id), OpId::bare(id), None)
}

fn has(set: &Set, id: &str) -> bool {
    set.may_have(hashes(id).filter) && set.has(hashes(id), OpId::bare(id))
}

fn proceed(set: &Set, id: &str) -> Held {
    match claim(set, id) {
        Claim::Proceed(held) => held,
        other => panic!("{id} is {other:?}"),
    }
}

/// Claims and completes; whether it was this call that did.
fn complete(set: &Set, id: &str, seq: u64) -> bool {
    match claim(set, id) {
        Claim::Proceed(held) => {
            set.complete(held, seq);
            true
        }
        _ => false,
    }
}

/// A set of one shard.
fn set(capacity: usize) -> Arc<Set> {
    Arc::new(Set::with_shards(capacity, 1))
}

fn spawn<R: 'static>(set: &Arc<Set>, work: impl FnOnce(&Set) -> R + 'static) -> thread::JoinHandle<R> {
    let set = Arc::clone(set);
    thread::spawn(move || work(&set))
}

/// D2, D3: two threads claim one id: one proceeds, the other is told *in flight* or the first
/// result.
///
/// 2 threads, bound 8: 621 executions, 0.1 s. Catches `fill_relaxed`, `commit_unchecked`.
#[test]
fn two_claims_on_one_id() {
    explore("two_claims_on_one_id", 8, || {
        let set = set(4);
        let applied = Arc::new(AtomicUsize::new(0));
        let work = |set: &Set, applied: &AtomicUsize| match claim(set, "a") {
            Claim::Proceed(held) => {
                applied.fetch_add(1, Ordering::Relaxed);
                set.complete(held, 7);
            }
            Claim::InFlight => {}
            Claim::Replayed { seq, .. } => assert_eq!(seq, 7),
        };
        let other = {
            let applied = Arc::clone(&applied);
            spawn(&set, move |set| work(set, &applied))
        };
        work(&set, &applied);
        other.join().expect("the other claimer ends");
        assert_eq!(applied.load(Ordering::Relaxed), 1);
        assert!(has(&set, "a"));
    });
}

/// D3: three ids in a shard of two slots, two threads after the same one of them: the shard splits
/// under them, and still one proceeds.
///
/// 2 threads, bound 4: 3,022 executions, 0.3 s. Catches `lazy_b_relaxed`.
#[test]
fn two_claims_across_a_split() {
    explore("two_claims_across_a_split", 4, || {
        let set = set(4);
        let held = ["b", "c"].map(|id| proceed(&set, id));
        let other = spawn(&set, |set| complete(set, "a", 1));
        let mine = complete(&set, "a", 2);
        let others = other.join().expect("the other claimer ends");
        assert!(mine != others, "one of two proceeds");
        for held in held {
            set.complete(held, 3);
        }
        assert!(["a", "b", "c"].iter().all(|id| has(&set, id)));
    });
}

/// D3: one slot is left, and two threads claim one id: one of them reserves the slot, the other
/// finds none and splits the shard. The first must not fill its slot then, and one proceeds.
///
/// 2 threads, bound 4: 1,023 executions, 0.1 s. Catches `fill_after_split`.
#[test]
fn two_claims_and_one_vacant_slot() {
    explore("two_claims_and_one_vacant_slot", 4, || {
        let set = set(4);
        let held = proceed(&set, "b");
        let other = spawn(&set, |set| complete(set, "a", 1));
        let mine = complete(&set, "a", 2);
        let others = other.join().expect("the other claimer ends");
        assert!(mine != others, "one of two proceeds");
        set.complete(held, 3);
        assert!(["a", "b"].iter().all(|id| has(&set, id)));
        assert_eq!(set.census().entries, 2);
    });
}

/// D3, D6: two threads are the first to claim an id, the same one: each builds the set or meets the
/// other's, fully made. One proceeds, and the id is found afterwards.
///
/// 2 threads, bound 8: 3,429 executions, 0.3 s. Catches `lazy_a_relaxed`, `lazy_blindly`.
#[test]
fn two_first_claims() {
    explore("two_first_claims", 8, || {
        let lazy = Arc::new(Lazy::default());
        let first = |lazy: &Lazy<Set>| complete(lazy.get_or_build(|| Set::with_shards(4, 1)), "a", 7);
        let seen = |lazy: &Lazy<Set>| lazy.get().is_some_and(|set| has(set, "a"));
        assert!(!seen(&lazy), "nothing was built yet");
        let other = {
            let lazy = Arc::clone(&lazy);
            thread::spawn(move || first(&lazy))
        };
        let before = seen(&lazy);
        let mine = first(&lazy);
        let others = other.join().expect("the other claimer ends");
        assert!(mine != others, "one of two proceeds");
        assert!(!(before && mine), "seen, and yet to be applied");
        assert!(seen(&lazy));
    });
}

/// D1: a thread that learns that an id was completed sees it, with its seq.
///
/// 2 threads, bound 8: 6,853 executions, 0.9 s. Catches `complete_relaxed`, `bloom_after_complete`.
#[test]
fn complete_against_look_up() {
    explore("complete_against_look_up", 8, || {
        let set = set(4);
        let completer = spawn(&set, |set| complete(set, "a", 7));
        let seen = has(&set, "a");
        match claim(&set, "a") {
            Claim::Replayed { seq, .. } => {
                assert_eq!(seq, 7);
                assert!(has(&set, "a"), "replayed, but not seen");
                assert!(completer.join().expect("the completer ends"));
            }
            Claim::InFlight => {
                assert!(!seen, "seen before it was completed");
                assert!(completer.join().expect("the completer ends"));
            }
            Claim::Proceed(held) => {
                assert!(!seen, "seen, and yet to be applied");
                set.forget(held);
                completer.join().expect("the completer ends");
            }
        }
    });
}

/// D3, D4: an id is forgotten while another thread claims it, and a third claims another id: the
/// first one is never held twice, and the other claim is not lost.
///
/// 3 threads, bound 3: 12,424 executions, 2.7 s. Catches `vacate_blindly`, `slot_e_relaxed`.
#[test]
fn forget_against_claim() {
    explore("forget_against_claim", 3, || {
        let set = set(4);
        let held = proceed(&set, "a");
        let forgotten = Arc::new(AtomicBool::new(false));
        let forgetter = {
            let forgotten = Arc::clone(&forgotten);
            spawn(&set, move |set| {
                forgotten.store(true, Ordering::Relaxed);
                set.forget(held);
            })
        };
        let claimer = spawn(&set, move |set| match claim(set, "a") {
            Claim::Proceed(_) => assert!(forgotten.load(Ordering::Relaxed), "held twice"),
            Claim::InFlight => {}
            Claim::Replayed { .. } => panic!("nobody completed it"),
        });
        let _other = proceed(&set, "b");
        forgetter.join().expect("the forgetter ends");
        claimer.join().expect("the claimer ends");
        assert!(matches!(claim(&set, "b"), Claim::InFlight), "a claim was lost");
    });
}

/// D1: the window moves on by two while someone asks after the oldest id (capacity 1: each ticket
/// is a generation, and the third takes the first one's bits): a look-up that misses it finds it
/// expired.
///
/// 3 threads, bound 4: 184,652 executions, 31 s. Catches `bloom_relaxed`.
#[test]
fn rotation_against_a_completed_id() {
    explore("rotation_against_a_completed_id", 4, || {
        let set = set(1);
        assert!(complete(&set, "a", 1));
        let completers = ["b", "c"].map(|id| {
            let held = proceed(&set, id);
            spawn(&set, move |set| set.complete(held, 2))
        });
        if !has(&set, "a") {
            match claim(&set, "a") {
                Claim::Proceed(held) => _ = set.forget(held),
                other => panic!("missed, and yet {other:?}"),
            }
        }
        for completer in completers {
            completer.join().expect("the completer ends");
        }
        assert_eq!(["a", "b", "c"].map(|id| has(&set, id)).iter().filter(|seen| **seen).count(), 1);
        assert!(!has(&set, "a"));
    });
}

/// D1: a completer that sleeps between its ticket and the filter does not take the bits of a
/// younger id away.
///
/// 2 threads, bound 4: 147,350 executions, 25 s. Catches `bloom_goes_back`, `bloom_late_relaxed`,
/// `window_too_long`.
#[test]
fn a_late_completer_against_rotation() {
    explore("a_late_completer_against_rotation", 4, || {
        let set = set(1);
        let late = spawn(&set, |set| complete(set, "a", 1));
        // Two tickets: with that of the late one three generations, the first and the third of one
        // word.
        assert!(complete(&set, "b", 2));
        assert!(complete(&set, "c", 3));
        assert!(!has(&set, "b"), "one is remembered, and a younger one is completed");
        let youngest_is_mine = has(&set, "c");
        assert!(late.join().expect("the late one ends"));
        assert!(youngest_is_mine || has(&set, "a"), "of one remembered id, none is seen");
        assert_eq!(["a", "b", "c"].iter().filter(|id| has(&set, id)).count(), 1);
    });
}

/// D4, D5: ids expire around one that is in flight; completers meet at the order's one position,
/// one of them late. What is in flight stays, and of the completed ones exactly the youngest.
///
/// 3 threads, bound 4: 2,176 executions, 0.5 s. Catches `expire_in_flight`,
/// `order_evicts_the_younger`.
#[test]
fn expiry_against_what_is_in_flight() {
    explore("expiry_against_what_is_in_flight", 4, || {
        let set = set(1);
        let held = proceed(&set, "a");
        let others = ["b", "c"].map(|id| spawn(&set, move |set| complete(set, id, 1)));
        assert!(matches!(claim(&set, "a"), Claim::InFlight), "what is in flight was taken for expired");
        for other in others {
            assert!(other.join().expect("the completer ends"));
        }
        assert!(matches!(claim(&set, "a"), Claim::InFlight));
        assert_eq!(["b", "c"].iter().filter(|id| has(&set, id)).count(), 1);
        assert_eq!(set.census().entries, 2, "the expired one has left its slot");
        set.complete(held, 2);
        assert!(has(&set, "a"));
        assert_eq!(set.census().entries, 1);
    });
}

/// Two threads remember one id: it takes one ticket, and each sees it at once.
///
/// 2 threads, bound 3: 28,196 executions, 2.6 s. Catches `remember_in_flight`.
#[test]
fn two_remember_one_id() {
    explore("two_remember_one_id", 3, || {
        let set = set(2);
        let remember = |set: &Set| {
            set.remember(hashes("a"), OpId::bare("a"));
            assert!(has(set, "a"), "remembered, but not seen");
        };
        let other = spawn(&set, remember);
        remember(&set);
        other.join().expect("the other thread ends");
        assert_eq!(set.completed(), 1);
    });
}

/// D1: a thread remembers an id and stalls while others complete as many as are remembered. Another
/// thread remembers the same id: it sees it at once, and still sees it when the first one goes on.
///
/// 2 threads, bound 2: 12,692 executions, 2 s. Catches `rely_unsaid`.
#[test]
fn one_remembers_what_another_is_remembering() {
    explore("one_remembers_what_another_is_remembering", 2, || {
        let set = set(1);
        let remember = |set: &Set| set.remember(hashes("a"), OpId::bare("a"));
        let stalled = spawn(&set, remember);
        assert!(complete(&set, "b", 1));
        remember(&set);
        assert!(has(&set, "a"), "remembered, but not seen");
        stalled.join().expect("the stalled thread ends");
        assert!(has(&set, "a"), "seen, and no longer, though nothing was completed since");
        assert!(!has(&set, "b"));
    });
}

/// D1: a claim is answered with what another thread is remembering, whose bits are of a generation
/// that is gone: the id is seen from then on.
///
/// 2 threads, bound 2: 119,864 executions, 15 s. Catches `rely_without_bits`.
#[test]
fn a_claim_relies_on_what_another_is_remembering() {
    explore("a_claim_relies_on_what_another_is_remembering", 2, || {
        let set = set(1);
        let remembering = spawn(&set, |set| set.remember(hashes("a"), OpId::bare("a")));
        for (id, seq) in [("b", 1), ("c", 2), ("d", 3)] {
            assert!(complete(&set, id, seq));
        }
        match claim(&set, "a") {
            Claim::Replayed { .. } => assert!(has(&set, "a"), "replayed, but not seen"),
            Claim::Proceed(held) => _ = set.forget(held),
            Claim::InFlight => panic!("no claim is in flight"),
        }
        remembering.join().expect("the other thread ends");
    });
}

/// S2, S3: a value is taken out of its slot, and another put, while two threads read: no thread
/// reads a freed value, none reads half of one, and each is dropped once (loom counts the `Arc`s).
///
/// 3 threads, bound 4: 7,265 executions, 0.3 s. Catches `slot_c_relaxed`, `slot_a_relaxed`,
/// `slot_counts_twice`.
#[test]
fn a_slot_changes_hands() {
    explore("a_slot_changes_hands", 4, || {
        let slot = Arc::new(Slot::empty());
        slot.put(Arc::new(1_u64));
        let readers = [(), ()].map(|()| {
            let slot = Arc::clone(&slot);
            thread::spawn(move || slot.get().map(|value| **value))
        });
        slot.take();
        slot.put(Arc::new(2));
        for reader in readers {
            assert!(matches!(reader.join().expect("the reader ends"), None | Some(1 | 2)));
        }
        assert_eq!(slot.get().map(|value| **value), Some(2));
    });
}
