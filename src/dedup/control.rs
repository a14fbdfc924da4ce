//! The control word of a shard: which of its slots are vacant, reserved or filled, and a version.
#![forbid(unsafe_code)]

/// How many slots a shard has. With two ids to a shard on average, which is the most unless many
/// are in flight, about one claim in a million finds all of them taken; with one, one in a thousand
/// million.
pub(super) const SLOTS: usize = if cfg!(loom) { 2 } else { 12 };

/// The bits of a slot's code: 0 vacant, 1 reserved, 2 to 7 filled by an id of this tag.
const CODE_BITS: usize = 3;
const VACANT: u64 = 0;
const RESERVED: u64 = 1;
const FIRST_TAG: u64 = 2;
const TAGS: u64 = 6;

const SPLIT: u64 = 1 << (CODE_BITS * SLOTS);
/// The version is what is left of the word: 27 bits, counted around.
const VERSION: u64 = SPLIT << 1;

/// A few bits of a hash that tell most ids of a shard apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Tag(u64);

impl Tag {
    /// The tag of a hash: of bits that do not choose the shard.
    pub(super) fn of(hash: u64) -> Self {
        Self(FIRST_TAG + (((hash >> 28) & 0xffff) * TAGS) / (1 << 16))
    }
}

/// A shard's control word.
///
/// Its version changes whenever a slot is filled or vacated, and when the shard splits: two equal
/// versions mean that the shard held the same ids all the while. To be wrong about that a thread
/// would have to sleep, between two instructions, through exactly a multiple of 2²⁷ such changes of
/// one shard.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Control(pub(super) u64);

impl Control {
    pub(super) const NEW: Self = Self(0);

    fn code(self, slot: usize) -> u64 {
        self.0 >> (CODE_BITS * slot) & ((1 << CODE_BITS) - 1)
    }

    fn with_code(self, slot: usize, code: u64) -> Self {
        Self(self.0 ^ (self.code(slot) ^ code) << (CODE_BITS * slot))
    }

    fn next_version(self) -> Self {
        Self(self.0.wrapping_add(VERSION))
    }

    pub(super) fn same_version(self, other: Self) -> bool {
        self.0 / VERSION == other.0 / VERSION
    }

    /// Whether the shard takes no more ids: its children do.
    pub(super) fn is_split(self) -> bool {
        self.0 & SPLIT != 0
    }

    /// A vacant slot.
    pub(super) fn vacant(self) -> Option<usize> {
        (0..SLOTS).find(|&slot| self.code(slot) == VACANT)
    }

    /// The slots that are filled by ids of this tag.
    pub(super) fn filled_by(self, tag: Tag) -> impl Iterator<Item = usize> {
        (0..SLOTS).filter(move |&slot| self.code(slot) == tag.0)
    }

    /// Reserves a vacant slot for the thread that makes this change, which owns it from then on.
    pub(super) fn reserve(self, slot: usize) -> Self {
        debug_assert_eq!(self.code(slot), VACANT);
        self.with_code(slot, RESERVED)
    }

    /// Fills a reserved slot: the id in it is the shard's from now on.
    pub(super) fn fill(self, slot: usize, tag: Tag) -> Self {
        debug_assert_eq!(self.code(slot), RESERVED);
        self.with_code(slot, tag.0).next_version()
    }

    /// Makes a slot vacant that was reserved or filled.
    pub(super) fn vacate(self, slot: usize) -> Self {
        debug_assert_ne!(self.code(slot), VACANT);
        self.with_code(slot, VACANT).next_version()
    }

    /// Closes the shard for new ids.
    pub(super) fn split(self) -> Self {
        Self(self.0 | SPLIT).next_version()
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn a_slot_changes_alone(word: u64, slot in 0..SLOTS, hash: u64) {
            let start = Control(word).with_code(slot, VACANT);
            let tag = Tag::of(hash);
            let reserved = start.reserve(slot);
            let filled = reserved.fill(slot, tag);
            let vacated = filled.vacate(slot);
            let steps = [start, reserved, filled, vacated];
            for (step, code) in steps.into_iter().zip([VACANT, RESERVED, tag.0, VACANT]) {
                prop_assert_eq!(step.code(slot), code);
                prop_assert!((0..SLOTS).all(|other| other == slot || step.code(other) == start.code(other)));
                prop_assert_eq!(step.is_split(), start.is_split());
            }
            prop_assert!(start.same_version(reserved));
            prop_assert!(!reserved.same_version(filled) && !filled.same_version(vacated));
            prop_assert!(filled.filled_by(tag).any(|found| found == slot));
            prop_assert!(!reserved.filled_by(tag).any(|found| found == slot));
        }

        #[test]
        fn a_split_leaves_the_slots_alone(word: u64) {
            let (before, after) = (Control(word), Control(word).split());
            prop_assert!(after.is_split() && !before.same_version(after));
            prop_assert!((0..SLOTS).all(|slot| before.code(slot) == after.code(slot)));
        }

        #[test]
        fn a_vacant_slot_is_found_if_there_is_one(word: u64) {
            let control = Control(word);
            match control.vacant() {
                Some(slot) => prop_assert_eq!(control.code(slot), VACANT),
                None => prop_assert!((0..SLOTS).all(|slot| control.code(slot) != VACANT)),
            }
        }

        #[test]
        fn a_tag_is_neither_vacant_nor_reserved(hash: u64) {
            prop_assert!((FIRST_TAG..1 << CODE_BITS).contains(&Tag::of(hash).0));
        }
    }

    #[test]
    fn the_ids_of_a_shard_are_spread_over_all_tags_alike() {
        let hashes = (0..0x1_0000_u64).map(|n| n << 28 | 0x123);
        for tag in FIRST_TAG..FIRST_TAG + TAGS {
            let share = hashes.clone().filter(|&hash| Tag::of(hash).0 == tag).count();
            assert!((10_922..=10_923).contains(&share), "{share} of 65536 have tag {tag}");
        }
    }
}
