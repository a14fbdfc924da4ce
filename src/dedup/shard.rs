//! One shard of the set: a control word, and the slots with the entries.

use super::control::{Control, SLOTS, Tag};
use super::entry::{Entry, OpId, State};
use super::lazy::Lazy;
use super::slot::{Ref, Slot};
use super::table::Zeroed;
use crate::fingerprint::Fingerprint;
use crate::sync::{AtomicU64, Ordering};

/// The live entry of an id, and the state that it was seen in.
#[derive(Debug)]
pub(super) struct Found<'a> {
    pub(super) entry: Ref<'a, Entry>,
    pub(super) state: State,
}

/// What became of an attempt to enter an id.
#[derive(Debug)]
pub(super) enum Entered<'a> {
    /// It is in this slot now, and the caller owns it.
    At(usize),
    /// It has a live entry.
    Found(Found<'a>),
    /// The shard takes no more ids; try the child.
    Split,
}

/// An id with what is derived from it, and what it is measured by.
#[derive(Clone, Copy, Debug)]
pub(super) struct Query<'a> {
    pub(super) hash: u64,
    pub(super) id: OpId<'a>,
    pub(super) window: Window<'a>,
}

/// What the entry of a new id says.
#[derive(Clone, Copy, Debug)]
pub(super) struct New {
    pub(super) state: State,
    pub(super) fingerprint: Option<Fingerprint>,
}

/// How many ids were ever completed, and how many of those are remembered.
#[derive(Clone, Copy, Debug)]
pub(super) struct Window<'a> {
    pub(super) completed: &'a AtomicU64,
    pub(super) capacity: u64,
}

impl Window<'_> {
    /// Whether a ticket is followed by as many as are remembered.
    pub(super) fn has_expired(self, ticket: u64) -> bool {
        ticket + self.capacity <= self.completed.load(Ordering::Relaxed)
    }

    /// Whether an entry in this state counts.
    pub(super) fn is_live(self, state: State) -> bool {
        match state {
            State::InFlight | State::Completing(_) => true,
            State::Completed(ticket) => !self.has_expired(ticket),
        }
    }
}

/// Twelve slots and the word that controls them: two cache lines.
#[derive(Debug)]
#[repr(C, align(128))]
pub(super) struct Shard {
    control: AtomicU64,
    /// Two shards that take the ids of this one since it was full.
    children: Lazy<[Shard; 2]>,
    slots: [Slot<Entry>; SLOTS],
}

// SAFETY: `Control::NEW` is 0, no children are a null pointer (`Lazy`), and an empty slot is 0; see
// `default`.
unsafe impl Zeroed for Shard {}

impl Default for Shard {
    fn default() -> Self {
        Self {
            control: AtomicU64::new(Control::NEW.0),
            children: Lazy::default(),
            slots: std::array::from_fn(|_| Slot::empty()),
        }
    }
}

impl Shard {
    fn control(&self) -> Control {
        Control(self.control.load(Ordering::Acquire)) // control:B
    }

    fn change(&self, from: Control, to: Control, order: Ordering) -> bool {
        self.control.compare_exchange(from.0, to.0, order, Ordering::Relaxed).is_ok()
    }

    /// The child that takes the ids of this hash, `depth` splits below the shard it leads to.
    pub(super) fn child(&self, hash: u64, depth: u32) -> Option<&Shard> {
        let children = self.children.get()?;
        let bit = hash >> (28 + depth % 16) & 1;
        Some(&children[usize::from(bit == 1)])
    }

    /// The live entry of an id among the slots that `control` calls filled.
    ///
    /// A slot may have been vacated since, and reserved for another entry, even one of the same id
    /// that is not the shard's yet: see [`Self::is_certain`].
    fn find(&self, control: Control, query: Query<'_>) -> Option<Found<'_>> {
        control.filled_by(Tag::of(query.hash)).find_map(|slot| {
            let entry = self.slots[slot].get()?;
            if !entry.is(query.id) {
                return None;
            }
            let state = entry.state();
            query.window.is_live(state).then_some(Found { entry, state })
        })
    }

    /// Whether what was found under `control` is an entry of the shard, and not one that may yet be
    /// withdrawn.
    ///
    /// Only entries of the shard are completed. Any other state counts only if the version is still
    /// the same.
    fn is_certain(&self, found: &Found<'_>, control: Control) -> bool {
        matches!(found.state, State::Completed(_)) || self.control().same_version(control)
    }

    /// The live entry of the id if it is completed or being remembered, and whether the shard was
    /// split by then.
    pub(super) fn look_up(&self, query: Query<'_>) -> (Option<Found<'_>>, bool) {
        loop {
            let control = self.control();
            let found = self.find(control, query).filter(|found| found.state != State::InFlight);
            // Only an entry that another thread is just about to remember makes a look-up look
            // again.
            if found.as_ref().is_none_or(|found| self.is_certain(found, control)) {
                return (found, control.is_split());
            }
        }
    }

    /// Enters an id, unless it has a live entry here or the shard is split.
    pub(super) fn enter(&self, query: Query<'_>, new: New) -> Entered<'_> {
        loop {
            let seen = self.control();
            if let Some(found) = self.find(seen, query) {
                if self.is_certain(&found, seen) {
                    return Entered::Found(found);
                }
                continue;
            }
            if seen.is_split() {
                return Entered::Split;
            }
            let Some(slot) = seen.vacant() else {
                self.split(seen);
                continue;
            };
            let reserved = seen.reserve(slot);
            if self.change(seen, reserved, Ordering::Relaxed) {
                self.slots[slot].put(Entry::new(query.id, new.fingerprint, new.state));
                if let Some(entered) = self.commit(reserved, slot, query) {
                    return entered;
                }
            }
        }
    }

    /// Fills a reserved slot, unless the id got a live entry or the shard split meanwhile.
    fn commit(&self, reserved: Control, slot: usize, query: Query<'_>) -> Option<Entered<'_>> {
        let mut now = reserved;
        loop {
            // control:A. This CAS is the claim: it fails if any thread changed the shard since it
            // was looked at.
            if self.change(now, now.fill(slot, Tag::of(query.hash)), Ordering::Release) {
                return Some(Entered::At(slot));
            }
            let next = self.control();
            if !next.same_version(now) && (next.is_split() || self.find(next, query).is_some()) {
                self.vacate(slot);
                return None;
            }
            now = next;
        }
    }

    /// Takes the entry out of a slot. For its owner only.
    pub(super) fn vacate(&self, slot: usize) {
        self.slots[slot].take();
        let mut now = self.control.load(Ordering::Relaxed);
        // control:C
        while let Err(seen) = self.control.compare_exchange_weak(
            now,
            Control(now).vacate(slot).0,
            Ordering::Release,
            Ordering::Relaxed,
        ) {
            now = seen;
        }
    }

    /// Closes a shard that is full, and opens its children.
    #[cold]
    fn split(&self, full: Control) {
        self.children.get_or_build(Default::default);
        self.change(full, full.split(), Ordering::Release); // control:E
    }

    /// The entry in a slot, for its owner.
    ///
    /// # Safety
    ///
    /// The caller owns the slot, and does not vacate it as long as the entry is used.
    pub(super) unsafe fn owned(&self, slot: usize) -> &Entry {
        // SAFETY: only its owner empties the slot (D4).
        unsafe { self.slots[slot].peek() }.expect("an owned slot is filled")
    }

    /// Calls `visit` with each entry, here and in the children; answers with how many shards there
    /// are.
    #[cfg(test)]
    pub(super) fn visit(&self, visit: &mut impl FnMut(&Entry)) -> usize {
        self.slots.iter().filter_map(Slot::get).for_each(|entry| visit(&entry));
        1 + self.children.get().map_or(0, |children| children.iter().map(|child| child.visit(visit)).sum())
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    /// It may be withdrawn again by then, or its slot may be another's.
    #[test]
    fn an_entry_that_is_not_completed_is_certain_in_one_version_only() {
        let (shard, completed) = (Shard::default(), AtomicU64::new(0));
        let window = Window { completed: &completed, capacity: 10 };
        let query = |id| Query { hash: 0, id: OpId::bare(id), window };
        let enter = |id| match shard.enter(query(id), New { state: State::InFlight, fingerprint: None }) {
            Entered::At(slot) => slot,
            other => panic!("{id}: {other:?}"),
        };
        let slot = enter("a");
        let control = shard.control();
        let found = || shard.find(control, query("a")).unwrap();
        assert!(shard.is_certain(&found(), control));
        enter("b");
        assert!(!shard.is_certain(&found(), control));
        // SAFETY: the slot is this thread's.
        unsafe { shard.owned(slot) }.complete(1, 1);
        assert!(shard.is_certain(&found(), control));
    }

    #[test]
    fn each_split_divides_the_ids_by_a_bit_of_its_own() {
        let shard = Shard::default();
        shard.children.get_or_build(Default::default);
        let children = shard.children.get().unwrap();
        let is_first = |hash, depth| std::ptr::eq(shard.child(hash, depth).unwrap(), &raw const children[0]);
        for depth in 0..32 {
            for bit in 0..64 {
                let chooses = bit == 28 + depth % 16;
                assert_eq!(
                    is_first(0, depth) != is_first(1 << bit, depth),
                    chooses,
                    "bit {bit}, depth {depth}"
                );
                assert_eq!(is_first(u64::MAX, depth) != is_first(!(1 << bit), depth), chooses);
            }
        }
    }
}
