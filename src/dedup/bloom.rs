//! A piece of the bloom filter: two words, one for each of two generations of completed ids.
//!
//! Completions are numbered by tickets, and `G` consecutive tickets form a *generation*; `G` is at
//! least the capacity, so that every id that is still remembered belongs to one of the two youngest
//! generations. Even generations keep their bits in one word, odd ones in the other.
//!
//! A word carries the number of its generation, modulo 2³², in its upper half and the filter's bits
//! in its lower half. No step rotates the filter: the first id of a new generation replaces the
//! word of the generation before the last, tag and bits in one CAS, and every id of that generation
//! has expired by then. The filter is never empty, never allocated again and never cleared.
//!
//! A look-up reads both words and ignores the tags. A word that no id of the current generation has
//! reached yet still holds older bits: a few more false positives, never a false negative.

use super::table::Zeroed;
use crate::sync::{AtomicU64, Ordering};

/// How many of a word's bits one id sets.
const PROBES: u32 = 4;

/// How many bits of a word are filter; the rest is the generation's tag.
const FILTER_BITS: u32 = 32;

/// The bits that an id sets in whichever word it goes to. Taken from the upper bits of its hash for
/// the filter: the lower ones choose the piece.
fn probes(hash: u64) -> u64 {
    let mut bits = 0;
    for probe in 0..PROBES {
        bits |= 1 << (hash >> (64 - 5 * (probe + 1)) & u64::from(FILTER_BITS - 1));
    }
    bits
}

/// A word of the filter: the generation's number modulo 2³² above, the filter's bits below.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Word(u64);

impl Word {
    fn new(generation: u64, bits: u64) -> Self {
        Self(generation << FILTER_BITS | bits & u64::from(u32::MAX))
    }

    fn tag(self) -> u32 {
        (self.0 >> FILTER_BITS) as u32
    }

    /// What the word becomes when an id of `generation` sets `bits`; `None` when it stays as it is.
    ///
    /// A word of another generation is an older one, unless the id has expired. Tags cannot tell:
    /// they go round at 2³², and a word may keep its tag for any number of generations. If it keeps
    /// it for exactly 2³² or a multiple, old bits are kept as well: the filter errs more often
    /// there.
    fn with(self, generation: u64, bits: u64, has_expired: impl FnOnce() -> bool) -> Option<Self> {
        if self.tag() == generation as u32 {
            let grown = Self(self.0 | bits);
            return (grown != self).then_some(grown);
        }
        (!has_expired()).then(|| Self::new(generation, bits))
    }
}

/// A piece of the filter.
#[derive(Debug, Default)]
pub(super) struct Bloom {
    words: [AtomicU64; 2],
}

// SAFETY: two words of 0, as `default` has it.
unsafe impl Zeroed for Bloom {}

impl Bloom {
    /// Sets the bits of an id that completes in `generation`.
    ///
    /// Does nothing if the word belongs to another generation and the id has expired: that
    /// generation may be a younger one, whose bits must stay. A younger generation begins with a
    /// ticket that expires every id of this one. The word is loaded with Acquire, so that
    /// `has_expired` sees that ticket.
    pub(super) fn insert(&self, hash: u64, generation: u64, has_expired: impl Fn() -> bool) {
        let word = &self.words[usize::from(generation % 2 == 1)];
        let bits = probes(hash);
        let mut now = word.load(Ordering::Acquire); // bloom:C
        while let Some(next) = Word(now).with(generation, bits, &has_expired) {
            // bloom:A; on failure bloom:C
            match word.compare_exchange_weak(now, next.0, Ordering::Release, Ordering::Acquire) {
                Ok(_) => return,
                Err(seen) => now = seen,
            }
        }
    }

    /// Whether an id of this hash may have completed; false means that it is not remembered.
    #[inline]
    pub(super) fn may_contain(&self, hash: u64) -> bool {
        let bits = probes(hash);
        self.words.iter().any(|word| word.load(Ordering::Acquire) & bits == bits) // bloom:B
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn a_word_keeps_its_tag_and_its_bits(generation: u64, bits: u32) {
            let word = Word::new(generation, u64::from(bits));
            prop_assert_eq!(u64::from(word.tag()), generation & u64::from(u32::MAX));
            prop_assert_eq!(word.0 & u64::from(u32::MAX), u64::from(bits));
        }

        #[test]
        fn an_expired_id_takes_no_word_away_and_any_other_is_set(tag: u32, generation: u64, old: u32, bits: u32) {
            let (word, bits) = (Word::new(tag.into(), old.into()), u64::from(bits));
            let after = |has_expired| word.with(generation, bits, || has_expired).unwrap_or(word);
            if tag == generation as u32 {
                prop_assert_eq!(after(true), Word::new(generation, u64::from(old) | bits));
                prop_assert_eq!(after(false), after(true));
            } else {
                prop_assert_eq!(after(true), word);
                prop_assert_eq!(after(false), Word::new(generation, bits));
            }
        }

        #[test]
        fn what_was_inserted_is_found_for_two_generations(hashes: Vec<u64>, start: u64) {
            let start = start / 2;
            let bloom = Bloom::default();
            let mut previous = None;
            for (&hash, generation) in hashes.iter().zip(start..) {
                bloom.insert(hash, generation, || false);
                prop_assert!(bloom.may_contain(hash));
                prop_assert!(previous.is_none_or(|hash| bloom.may_contain(hash)));
                previous = Some(hash);
            }
        }
    }

    /// The lower ones choose the piece, and are the same for all ids of a piece.
    #[test]
    fn the_bits_of_an_id_depend_on_the_upper_twenty_of_its_hash_and_on_each_of_them() {
        let hash = 0x1234_5678_9abc_def0;
        for bit in 0..64 {
            assert_eq!(probes(hash) != probes(hash ^ 1 << bit), bit >= 44, "bit {bit}");
        }
    }

    #[test]
    fn a_generation_replaces_the_one_before_the_last() {
        let bloom = Bloom::default();
        bloom.insert(0, 0, || false);
        bloom.insert(u64::MAX, 1, || false);
        assert!(bloom.may_contain(0) && bloom.may_contain(u64::MAX));
        bloom.insert(u64::MAX, 2, || false);
        assert!(!bloom.may_contain(0));
        bloom.insert(0, 0, || true);
        assert!(!bloom.may_contain(0), "a late insert changes nothing");
    }
}
