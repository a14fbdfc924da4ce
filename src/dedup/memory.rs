//! The op-id memory of one log: the set, once an id was entered, the keys of its hash, and what it
//! counts.
#![forbid(unsafe_code)]

use super::entry::OpId;
use super::hash::Keys;
use super::lazy::Lazy;
use super::set::{Claim, Held, Set};
use crate::fingerprint::Fingerprint;
use crate::sync::{AtomicU64, Ordering};
use crossbeam_utils::CachePadded;

/// Counters of the rarer outcomes, spread so that threads seldom share a line of them.
const STRIPES: usize = 8;

#[derive(Debug, Default)]
struct Stripe {
    replayed: AtomicU64,
    mismatched: AtomicU64,
    in_flight: AtomicU64,
    forgotten: AtomicU64,
    false_positives: AtomicU64,
}

/// How often things happened.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Tally {
    /// Ids completed, claimed or not.
    pub(crate) completed: u64,
    /// Claims answered with the first result.
    pub(crate) replayed: u64,
    /// Claims for another change than the one that the id was completed for.
    pub(crate) mismatched: u64,
    /// Claims refused because another one was in flight.
    pub(crate) in_flight: u64,
    /// Claims that were given up.
    pub(crate) forgotten: u64,
    /// Look-ups that the filter let through although the id is not remembered.
    pub(crate) false_positives: u64,
}

/// What a log remembers of op ids.
#[derive(Debug)]
pub(crate) struct OpMemory {
    /// Built when the first id is entered.
    set: Lazy<Set>,
    capacity: usize,
    keys: Keys,
    stripes: [CachePadded<Stripe>; STRIPES],
}

impl OpMemory {
    /// A memory of the last `capacity` completed ids. It takes nothing for them yet.
    pub(crate) fn new(capacity: usize) -> Self {
        Self { set: Lazy::default(), capacity, keys: Keys::new(), stripes: Default::default() }
    }

    /// A memory of so many shards, a power of two: few enough and every id meets every other.
    #[cfg(test)]
    pub(crate) fn with_shards(capacity: usize, shards: usize) -> Self {
        let memory = Self::new(capacity);
        memory.set.get_or_build(|| Set::with_shards(capacity, shards));
        memory
    }

    /// The set to enter an id into.
    #[inline]
    fn set(&self) -> &Set {
        self.set.get_or_build(|| Set::new(self.capacity))
    }

    /// The set that a claim was made in.
    fn set_of(&self, _: &Held) -> &Set {
        self.set.get().expect("what is held was entered into a set")
    }

    fn count(&self, hash: u64, counter: impl Fn(&Stripe) -> &AtomicU64) {
        let stripe = &self.stripes[hash as usize % STRIPES];
        counter(stripe).fetch_add(1, Ordering::Relaxed);
    }

    /// Whether the id is completed and remembered. Wait-free.
    #[inline]
    pub(crate) fn has_seen(&self, id: OpId<'_>) -> bool {
        self.set.get().is_some_and(|set| set.may_have(self.keys.filter(id)) && self.look_closer(set, id))
    }

    #[cold]
    fn look_closer(&self, set: &Set, id: OpId<'_>) -> bool {
        let hashes = self.keys.both(id);
        let seen = set.has(hashes, id);
        if !seen {
            self.count(hashes.shard, |stripe| &stripe.false_positives);
        }
        seen
    }

    /// The seq and the fingerprint that the id was completed with, if it is remembered. Wait-free.
    pub(crate) fn find(&self, id: OpId<'_>) -> Option<(u64, Option<Fingerprint>)> {
        let set = self.set.get().filter(|set| set.may_have(self.keys.filter(id)))?;
        set.find(self.keys.both(id), id)
    }

    /// Counts the id as one that was answered with its first result.
    pub(crate) fn replayed(&self, id: OpId<'_>) {
        self.count(self.keys.both(id).shard, |stripe| &stripe.replayed);
    }

    /// Completes the id, unless it is remembered already or in flight elsewhere. Lock-free.
    pub(crate) fn remember(&self, id: OpId<'_>) {
        self.set().remember(self.keys.both(id), id);
    }

    /// Claims the id, for a change of this fingerprint if there is one. Lock-free.
    pub(super) fn claim(&self, id: OpId<'_>, fingerprint: Option<Fingerprint>) -> Claim {
        let hashes = self.keys.both(id);
        let claim = self.set().claim(hashes, id, fingerprint);
        match claim {
            Claim::Proceed(_) => {}
            Claim::InFlight => self.count(hashes.shard, |stripe| &stripe.in_flight),
            Claim::Replayed { agrees: true, .. } => self.count(hashes.shard, |stripe| &stripe.replayed),
            Claim::Replayed { agrees: false, .. } => self.count(hashes.shard, |stripe| &stripe.mismatched),
        }
        claim
    }

    pub(super) fn complete(&self, held: Held, seq: u64) {
        self.set_of(&held).complete(held, seq);
    }

    pub(super) fn forget(&self, held: Held) {
        let hash = self.set_of(&held).forget(held);
        self.count(hash, |stripe| &stripe.forgotten);
    }

    /// How often things happened so far.
    pub(crate) fn tally(&self) -> Tally {
        let completed = self.set.get().map_or(0, Set::completed);
        let mut tally = Tally { completed, ..Tally::default() };
        for stripe in &self.stripes {
            tally.replayed += stripe.replayed.load(Ordering::Relaxed);
            tally.mismatched += stripe.mismatched.load(Ordering::Relaxed);
            tally.in_flight += stripe.in_flight.load(Ordering::Relaxed);
            tally.forgotten += stripe.forgotten.load(Ordering::Relaxed);
            tally.false_positives += stripe.false_positives.load(Ordering::Relaxed);
        }
        tally
    }

    /// What the memory holds now. Walks through all of it.
    #[cfg(test)]
    pub(super) fn census(&self) -> super::set::Census {
        self.set.get().map(Set::census).unwrap_or_default()
    }
}
