//! A piece of the bloom filter: two words, one for each of two generations of completed ids.
//!
//! Completions are numbered by tickets, and `G` consecutive tickets form a *generation*; `G` is at least the
//! capacity, so that whatever is still remembered belongs to one of the two youngest generations. Even
//! generations keep their bits in one word, odd ones in the other.
//!
//! A word carries the number of its generation in its upper half and the filter's bits in its lower half.
//! Rotating the filter is therefore nothing that anybody *does*: the first id of a new generation replaces
//! the word of the generation before the last, tag and bits in one CAS, and every id of that generation has
//! expired by then. There is no moment at which a filter is empty, nothing to allocate and nothing to clear.
//!
//! A look-up reads both words and ignores the tags. A word that no id of the current generation has reached
//! yet still holds older bits: a few more false positives, never a false negative.

use super::table::Zeroed;
use crate::sync::{AtomicU64, Ordering};

/// How many of a word's bits one id sets.
const PROBES: u32 = 4;

/// How many bits of a word are filter; the rest is the generation's tag.
const FILTER_BITS: u32 = 32;

/// The bits that an id sets in whichever word it goes to. Taken from the upper bits of its hash for the filter: the
/// lower ones choose the piece.
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
    /// Tags are compared around the circle of 2³²: a thread would have to sleep in the middle of
    /// [`Bloom::insert`] for 2³¹ generations to be taken for a younger one.
    fn with(self, generation: u64, bits: u64) -> Option<Self> {
        let behind = (generation as u32).wrapping_sub(self.tag());
        if behind == 0 {
            let grown = Self(self.0 | bits);
            return (grown != self).then_some(grown);
        }
        let younger = behind < 1 << 31 || cfg!(ringlog_fault = "bloom_goes_back");
        younger.then(|| Self::new(generation, bits))
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
    /// Does nothing when the word already belongs to a younger generation: whoever began that one took a
    /// ticket under which every id of `generation` has expired.
    pub(super) fn insert(&self, hash: u64, generation: u64) {
        let word = &self.words[usize::from(generation % 2 == 1)];
        let bits = probes(hash);
        let mut now = word.load(Ordering::Relaxed);
        while let Some(next) = Word(now).with(generation, bits) {
            // bloom:A
            match word.compare_exchange_weak(now, next.0, Ordering::Release, Ordering::Relaxed) {
                Ok(_) => return,
                Err(seen) => now = seen,
            }
        }
    }

    /// Whether an id of this hash may have completed; false means that it is not remembered.
    #[inline]
    pub(super) fn may_contain(&self, hash: u64) -> bool {
        let bits = probes(hash);
        let order = if cfg!(ringlog_fault = "bloom_relaxed") { Ordering::Relaxed } else { Ordering::Acquire };
        self.words.iter().any(|word| word.load(order) & bits == bits) // bloom:B
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
        fn a_word_never_goes_back(older: u32, ahead in 1..(1_u64 << 31), bits: u32) {
            let younger = u64::from(older) + ahead;
            let word = Word::new(younger, 1);
            prop_assert_eq!(word.with(u64::from(older), u64::from(bits)), None);
            let moved = Word::new(u64::from(older), 1).with(younger, u64::from(bits));
            prop_assert_eq!(moved, Some(Word::new(younger, u64::from(bits))));
        }

        #[test]
        fn what_was_inserted_is_found_for_two_generations(hashes: Vec<u64>, start in 0..9_u64) {
            let bloom = Bloom::default();
            let mut previous = None;
            for (&hash, generation) in hashes.iter().zip(start..) {
                bloom.insert(hash, generation);
                prop_assert!(bloom.may_contain(hash));
                prop_assert!(previous.is_none_or(|hash| bloom.may_contain(hash)));
                previous = Some(hash);
            }
        }
    }

    #[test]
    fn a_generation_replaces_the_one_before_the_last() {
        let bloom = Bloom::default();
        bloom.insert(0, 0);
        bloom.insert(u64::MAX, 1);
        assert!(bloom.may_contain(0) && bloom.may_contain(u64::MAX));
        bloom.insert(u64::MAX, 2);
        assert!(!bloom.may_contain(0));
        bloom.insert(0, 0);
        assert!(!bloom.may_contain(0), "a late insert changes nothing");
    }
}
