//! The shards, and what happens to an id: it is claimed, completed or forgotten, and at last it
//! expires.

use super::bloom::Bloom;
use super::entry::{OpId, State};
use super::hash::Hashes;
use super::shard::{Entered, Found, New, Query, Shard, Window};
use super::table::Table;
use crate::fingerprint::Fingerprint;
use crate::sync::{AtomicU64, Ordering};
use crossbeam_utils::CachePadded;

/// Fewer shards than this are not worth having.
const MIN_SHARDS: usize = 16;

/// A slot of a shard, as one word: the shard's address, whose low seven bits are zero, and the
/// slot's number.
///
/// The only holder of a reference owns the slot: the claimer of an id in flight, then the order of
/// completion, and at last the thread that took it out of there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct SlotRef(u64);

impl SlotRef {
    /// Stands for no place: what the order is filled with at first.
    const NONE: Self = Self(0);
    const SLOT: u64 = align_of::<Shard>() as u64 - 1;

    fn new(shard: &Shard, slot: usize) -> Self {
        Self(std::ptr::from_ref(shard).expose_provenance() as u64 | slot as u64)
    }
}

/// An id in flight, held by the thread that may complete or forget it.
///
/// Neither copied nor dropped: it ends in [`Set::complete`] or [`Set::forget`]. One that is leaked
/// leaves its id in flight as long as the set lives.
#[derive(Debug)]
#[must_use = "an id stays in flight until it is completed or forgotten"]
pub(crate) struct Held {
    place: SlotRef,
    hashes: Hashes,
}

/// What became of a claim.
#[derive(Debug)]
pub(crate) enum Claim {
    Proceed(Held),
    InFlight,
    Replayed {
        seq: u64,
        /// Not if both the claim and the entry have a fingerprint, and these differ.
        agrees: bool,
    },
}

/// What a look through all shards found. Taken shard by shard: a sum of moments, not of one moment.
#[cfg(test)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Census {
    /// Entries, whatever their state.
    pub(crate) entries: u64,
    /// Entries whose ids are in flight.
    pub(crate) in_flight: u64,
    /// Shards that were added because one was full.
    pub(crate) split: u64,
    /// Bytes of heap: the shards, the order of completion and the entries.
    pub(crate) bytes: u64,
}

/// The ids of a log: those in flight, and the last `capacity` that were completed.
#[derive(Debug)]
pub(crate) struct Set {
    shards: Table<Shard>,
    /// The filter, in as many pieces as there are shards. They are looked at far more often: close
    /// together.
    blooms: Table<Bloom>,
    /// The places of the completed ids, that of ticket `t` at `t % capacity`.
    order: Table<AtomicU64>,
    /// A generation of the filter is two to this many tickets, at least `capacity`.
    generation_bits: u32,
    /// How many ids were ever completed: the youngest ticket.
    completed: CachePadded<AtomicU64>,
}

impl Set {
    pub(crate) fn new(capacity: usize) -> Self {
        Self::with_shards(capacity, (capacity.max(1).next_power_of_two() / 2).max(MIN_SHARDS))
    }

    /// A set of so many shards, a power of two.
    pub(crate) fn with_shards(capacity: usize, shards: usize) -> Self {
        assert!(shards.is_power_of_two(), "shards are chosen by the low bits of a hash");
        Self {
            shards: Table::new(shards),
            blooms: Table::new(shards),
            order: Table::new(capacity),
            generation_bits: capacity.max(1).next_power_of_two().trailing_zeros(),
            completed: CachePadded::new(AtomicU64::new(0)),
        }
    }

    fn shard(&self, hash: u64) -> &Shard {
        &self.shards[hash as usize & (self.shards.len() - 1)]
    }

    fn bloom(&self, filter: u64) -> &Bloom {
        &self.blooms[filter as usize & (self.blooms.len() - 1)]
    }

    fn generation(&self, ticket: u64) -> u64 {
        ticket >> self.generation_bits
    }

    fn window(&self) -> Window<'_> {
        Window { completed: &self.completed, capacity: self.order.len() as u64 }
    }

    /// How many ids were ever completed.
    pub(crate) fn completed(&self) -> u64 {
        self.completed.load(Ordering::Relaxed)
    }

    /// Whether an id of this hash for the filter may be remembered. False is certain (D1).
    #[inline]
    pub(crate) fn may_have(&self, filter: u64) -> bool {
        self.bloom(filter).may_contain(filter)
    }

    /// Whether the id is completed and remembered, by its entry.
    pub(crate) fn has(&self, hashes: Hashes, id: OpId<'_>) -> bool {
        self.find(hashes, id).is_some()
    }

    /// The seq and the fingerprint that the id was completed with, if it is remembered, by its
    /// entry.
    #[inline]
    pub(crate) fn find(&self, hashes: Hashes, id: OpId<'_>) -> Option<(u64, Option<Fingerprint>)> {
        let query = Query { hash: hashes.shard, id, window: self.window() };
        let mut shard = self.shard(hashes.shard);
        let mut depth = 0;
        loop {
            let (found, split) = shard.look_up(query);
            match found {
                Some(found) if self.rely(hashes.filter, &found) => {
                    return Some((found.entry.seq(), found.entry.fingerprint()));
                }
                Some(_) => {}
                None if !split => return None,
                None => {
                    shard = shard.child(hashes.shard, depth).expect("a shard that is split has children");
                    depth += 1;
                }
            }
        }
    }

    /// Makes sure of an entry that an answer relies on. One that is being remembered must not turn
    /// out to have expired already, nor be denied by the filter. False if its state has changed:
    /// look again.
    fn rely(&self, filter: u64, found: &Found<'_>) -> bool {
        let State::Completing(relied) = found.state else { return true };
        let completed = self.completed();
        if completed <= relied {
            return true;
        }
        self.set_bits(filter, completed + 1);
        found.entry.rely(relied, completed)
    }

    /// Claims the id for a change of this fingerprint. Of any number of claims at a time one
    /// proceeds.
    pub(crate) fn claim(&self, hashes: Hashes, id: OpId<'_>, fingerprint: Option<Fingerprint>) -> Claim {
        self.enter(hashes, id, New { state: State::InFlight, fingerprint })
    }

    /// Completes the id without a claim, unless it is remembered already or another claim on it is
    /// in flight, which then decides.
    pub(crate) fn remember(&self, hashes: Hashes, id: OpId<'_>) {
        if self.order.is_empty() {
            return;
        }
        // Before the entry can be seen, as in `complete`.
        let completed = self.completed();
        self.set_bits(hashes.filter, completed + 1);
        let state = State::Completing(completed);
        if let Claim::Proceed(held) = self.enter(hashes, id, New { state, fingerprint: None }) {
            self.complete_remembered(held);
        }
    }

    /// Enters the id if it has no live entry.
    fn enter(&self, hashes: Hashes, id: OpId<'_>, new: New) -> Claim {
        let hash = hashes.shard;
        let query = Query { hash, id, window: self.window() };
        let mut shard = self.shard(hash);
        let mut depth = 0;
        loop {
            match shard.enter(query, new) {
                Entered::At(slot) => {
                    return Claim::Proceed(Held { place: SlotRef::new(shard, slot), hashes });
                }
                Entered::Found(found) if found.state == State::InFlight => return Claim::InFlight,
                Entered::Found(found) if self.rely(hashes.filter, &found) => {
                    let both = found.entry.fingerprint().zip(new.fingerprint);
                    let agrees = both.is_none_or(|(kept, given)| kept == given);
                    return Claim::Replayed { seq: found.entry.seq(), agrees };
                }
                Entered::Found(_) => {}
                Entered::Split => {
                    shard = shard.child(hash, depth).expect("a shard that is split has children");
                    depth += 1;
                }
            }
        }
    }

    /// The shard and the slot of a place.
    #[expect(clippy::unused_self, reason = "it is what the shard is borrowed from")]
    fn at(&self, place: SlotRef) -> (&Shard, usize) {
        let shard = std::ptr::with_exposed_provenance::<Shard>((place.0 & !SlotRef::SLOT) as usize);
        // SAFETY: places are made of references to shards of this set, which live as long as it
        // does (D6).
        (unsafe { &*shard }, (place.0 & SlotRef::SLOT) as usize)
    }

    /// Sets the bits of an id in the filter, for the generation of this ticket.
    fn set_bits(&self, filter: u64, ticket: u64) {
        let window = self.window();
        self.bloom(filter).insert(filter, self.generation(ticket), || window.has_expired(ticket));
    }

    fn take_ticket(&self) -> u64 {
        self.completed.fetch_add(1, Ordering::Relaxed) + 1
    }

    /// Completes a claimed id with the seq of its change; what expires by that is taken out.
    #[expect(clippy::needless_pass_by_value, reason = "a claim ends once")]
    pub(crate) fn complete(&self, held: Held, seq: u64) {
        let Held { place, hashes: Hashes { filter, .. } } = held;
        let ticket = self.take_ticket();
        self.set_bits(filter, ticket);
        let (shard, slot) = self.at(place);
        // SAFETY: the holder of a claim owns the slot, up to `line_up` (D4).
        unsafe { shard.owned(slot) }.complete(ticket, seq);
        self.line_up(place, ticket);
    }

    /// Completes an id that was entered as [`State::Completing`].
    #[expect(clippy::needless_pass_by_value, reason = "an id is completed once")]
    fn complete_remembered(&self, held: Held) {
        let Held { place, hashes: Hashes { filter, .. } } = held;
        let (shard, slot) = self.at(place);
        // SAFETY: the thread that entered the id owns the slot, up to `line_up` (D4).
        let entry = unsafe { shard.owned(slot) };
        // A ticket that had expired when an answer relied on the entry is given up: its id is out
        // of the window.
        let ticket = loop {
            let ticket = self.take_ticket();
            self.set_bits(filter, ticket);
            if entry.complete_remembered(ticket, self.order.len() as u64) {
                break ticket;
            }
        };
        self.line_up(place, ticket);
    }

    /// Puts a completed id into the order of completion, and takes the one out that is there in its
    /// stead.
    ///
    /// That is the one completed `capacity` tickets before, unless this thread or another one was
    /// late. Then the younger of two stays, and the older goes.
    fn line_up(&self, mut place: SlotRef, mut ticket: u64) {
        let capacity = self.order.len() as u64;
        if capacity == 0 {
            return self.vacate(place);
        }
        let position = &self.order[(ticket % capacity) as usize];
        loop {
            let other = SlotRef(position.swap(place.0, Ordering::AcqRel)); // order:A, order:B
            if other == SlotRef::NONE {
                return;
            }
            let (shard, slot) = self.at(other);
            // SAFETY: what this thread took out of the order is its own (D5).
            let State::Completed(other_ticket) = unsafe { shard.owned(slot) }.state() else {
                unreachable!("only what is completed is lined up")
            };
            if other_ticket < ticket {
                return self.vacate(other);
            }
            (place, ticket) = (other, other_ticket);
        }
    }

    fn vacate(&self, place: SlotRef) {
        let (shard, slot) = self.at(place);
        shard.vacate(slot);
    }

    /// Takes a claimed id out again, as if it had never been claimed. Answers with its hash for the
    /// shard.
    #[expect(clippy::needless_pass_by_value, reason = "a claim ends once")]
    pub(crate) fn forget(&self, held: Held) -> u64 {
        let Held { place, hashes } = held;
        self.vacate(place);
        hashes.shard
    }

    /// Counts what the shards hold. Walks through all of them.
    #[cfg(test)]
    pub(crate) fn census(&self) -> Census {
        let mut census = Census::default();
        let mut shards = 0;
        for shard in self.shards.iter() {
            shards += shard.visit(&mut |entry| {
                census.entries += 1;
                census.in_flight += u64::from(entry.state() == State::InFlight);
                census.bytes += entry.bytes() as u64;
            });
        }
        census.split = (shards - self.shards.len()) as u64;
        census.bytes +=
            (shards * size_of::<Shard>() + size_of_val(&*self.order) + size_of_val(&*self.blooms)) as u64;
        census
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    /// Generations are counted modulo 2³² in the filter; a word that was never used counts as one
    /// of generation 0.
    #[test]
    fn an_id_is_seen_however_long_the_words_of_the_filter_have_slept() {
        let hashes = Hashes { shard: 0, filter: 0x1234_5678_9abc_def0 };
        for capacity in [1, 4] {
            for slept in [1 << 31, (1 << 31) + 1, 3 << 30, (1 << 32) - 1, 1 << 32, (1 << 32) + 1, 1 << 40] {
                let set = Set::new(capacity);
                for start in [0, slept * capacity as u64] {
                    set.completed.store(start, Ordering::Relaxed);
                    let Claim::Proceed(held) = set.claim(hashes, OpId::bare("claimed"), None) else {
                        panic!("{capacity} {slept}: it has expired")
                    };
                    set.complete(held, 1);
                    assert!(set.may_have(hashes.filter), "{capacity}, {slept} generations: denied");
                    set.remember(hashes, OpId::bare("remembered"));
                    assert!(set.may_have(hashes.filter), "{capacity}, {slept} generations: denied");
                    assert!(set.has(hashes, OpId::bare("remembered")));
                }
            }
        }
    }

    /// An id is asked about after its ticket was taken and before it is stored, when others have
    /// expired the ticket, and perhaps taken both words of its piece of the filter.
    fn ask_while_it_is_being_remembered(capacity: usize, others: u64, ask: impl Fn(&Set, Hashes, OpId<'_>)) {
        let id = OpId::bare("remembered");
        let hashes = Hashes { shard: 0, filter: FILTER };
        let set = Set::new(capacity);
        let new = New { state: State::Completing(0), fingerprint: None };
        let Claim::Proceed(held) = set.enter(hashes, id, new) else { panic!("the id is new") };
        let ticket = set.take_ticket();
        let others = Hashes { filter: others, ..hashes };
        for n in 0..3 * capacity as u64 {
            let Claim::Proceed(other) = set.claim(others, OpId::bare(&n.to_string()), None) else {
                panic!("{n} is new")
            };
            set.complete(other, n);
        }
        assert!(!set.may_have(FILTER));
        ask(&set, hashes, id);
        assert!(set.may_have(FILTER), "the filter denies what an answer relied on");
        let (shard, slot) = set.at(held.place);
        // SAFETY: the slot is this thread's, which entered the id (D4).
        let entry = unsafe { shard.owned(slot) };
        assert!(!entry.complete_remembered(ticket, capacity as u64), "the ticket had expired");
        set.complete_remembered(held);
        assert!(set.has(hashes, id));
    }

    const FILTER: u64 = 0x1234_5678_9abc_def0;

    #[test]
    fn an_answer_about_an_id_that_is_being_remembered_stays_true() {
        let (same_piece, another_piece) = (FILTER & 0xffff_ffff, FILTER ^ 1);
        for capacity in [1, 4] {
            for others in [same_piece, another_piece] {
                ask_while_it_is_being_remembered(capacity, others, |set, hashes, id| {
                    assert!(set.has(hashes, id));
                });
                ask_while_it_is_being_remembered(capacity, others, |set, hashes, id| {
                    assert!(matches!(set.claim(hashes, id, None), Claim::Replayed { .. }));
                });
            }
        }
    }
}
