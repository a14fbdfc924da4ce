#![forbid(unsafe_code)]
//! Where a seq lives, and which seqs are in the window. Arithmetic only.

/// The fixed measures of a ring.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Geometry {
    capacity: u64,
    max_bytes: Option<u64>,
    base_seq: u64,
    segment_shift: u32,
    positions: u64,
    /// (2^64 - 1) / `positions`, rounded down: to multiply by it is sooner done than to divide.
    reciprocal: u64,
    slot_size: usize,
}

/// The seqs that can be read, seen at one moment: `oldest..=last`, empty when `oldest` is `last +
/// 1`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Window {
    pub(crate) oldest: u64,
    pub(crate) last: u64,
}

impl Geometry {
    /// A ring that keeps `capacity` records after `base_seq`, in segments of `segment_len` (a power
    /// of two) slots of `slot_size` bytes.
    pub(crate) fn new(capacity: usize, base_seq: u64, segment_len: usize, slot_size: usize) -> Self {
        debug_assert!(segment_len.is_power_of_two());
        // R6 needs one more than the window. The second is for readers at the window's end: with
        // one, two appends between a reader's look at the window and its look at the position
        // replace the segment that it came for, and it is told that it was lapped; with two, it
        // takes as many appends as a segment is long, and two.
        let positions = capacity.div_ceil(segment_len) as u64 + 2;
        Self {
            capacity: capacity as u64,
            max_bytes: None,
            base_seq,
            segment_shift: segment_len.trailing_zeros(),
            positions,
            reciprocal: u64::MAX / positions,
            slot_size,
        }
    }

    /// A ring whose records' texts also sum to at most so many bytes, if a number is given.
    pub(crate) fn with_max_bytes(mut self, max_bytes: Option<u64>) -> Self {
        self.max_bytes = max_bytes;
        self
    }

    /// The most bytes of text in the window, if they are bounded.
    pub(crate) fn max_bytes(&self) -> Option<u64> {
        self.max_bytes
    }

    /// How many segments the window needs, and so how many positions there are.
    pub(crate) fn positions(&self) -> usize {
        self.positions as usize
    }

    pub(crate) fn capacity(&self) -> u64 {
        self.capacity
    }

    /// The seq before the first.
    pub(crate) fn base_seq(&self) -> u64 {
        self.base_seq
    }

    pub(crate) fn slot_size(&self) -> usize {
        self.slot_size
    }

    /// Slots in a segment.
    #[inline]
    pub(crate) fn segment_len(&self) -> usize {
        1 << self.segment_shift
    }

    /// Whether one segment covers both seqs.
    #[inline]
    pub(crate) fn share_segment(&self, a: u64, b: u64) -> bool {
        a >> self.segment_shift == b >> self.segment_shift
    }

    /// How many segments `to` lies after the segment of `from`.
    #[inline]
    pub(crate) fn segments_between(&self, from: u64, to: u64) -> usize {
        ((to >> self.segment_shift) - (from >> self.segment_shift)) as usize
    }

    /// The first seq of the segment that covers `seq`.
    #[inline]
    pub(crate) fn base_of(&self, seq: u64) -> u64 {
        seq >> self.segment_shift << self.segment_shift
    }

    /// The position whose segment covers `seq`.
    #[inline]
    pub(crate) fn position_of(&self, seq: u64) -> usize {
        let segment = seq >> self.segment_shift;
        // After Granlund and Montgomery, "Division by Invariant Integers using Multiplication"
        // (1994). The reciprocal is too small by 1 at most, so the product by less than 1 once it
        // is divided by 2^64, and its whole part by 1 at most.
        let quotient = ((u128::from(segment) * u128::from(self.reciprocal)) >> 64) as u64;
        let rest = segment - quotient * self.positions;
        (if rest < self.positions { rest } else { rest - self.positions }) as usize
    }

    /// The window when `last` is the highest seq handed out.
    #[inline]
    pub(crate) fn window(&self, last: u64) -> Window {
        Window { oldest: (last + 1).saturating_sub(self.capacity).max(self.base_seq + 1), last }
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn every_seq_has_one_place(shift in 0_u32..9, capacity in 0_usize..5000, seq in 1..u64::MAX) {
            let g = Geometry::new(capacity, 0, 1 << shift, 64);
            prop_assert!((g.base_of(seq)..g.base_of(seq) + g.segment_len() as u64).contains(&seq));
            prop_assert_eq!(g.position_of(seq), (seq >> shift) as usize % g.positions());
            prop_assert_eq!(g.position_of(seq), g.position_of(g.base_of(seq)));
        }

        /// R6: when the first seq of the segment one round later is handed out, the segment is out
        /// of the window.
        #[test]
        fn a_replaced_segment_is_out_of_the_window(shift in 0_u32..9, capacity in 0_usize..5000, seq in 1_u64..1 << 53) {
            let g = Geometry::new(capacity, 0, 1 << shift, 64);
            let newest_of_old = g.base_of(seq) + g.segment_len() as u64 - 1;
            let replacing = g.base_of(seq) + (g.positions() * g.segment_len()) as u64;
            prop_assert_eq!(g.position_of(replacing), g.position_of(seq));
            prop_assert!(g.window(replacing).oldest > newest_of_old);
        }

        #[test]
        fn the_oldest_segment_of_the_window_stays_for_more_appends_than_a_segment_is_long(
            shift in 0_u32..9, capacity in 1_usize..5000, last in 1_u64..1 << 53,
        ) {
            let g = Geometry::new(capacity, 0, 1 << shift, 64);
            let replacing = g.base_of(g.window(last).oldest) + (g.positions() * g.segment_len()) as u64;
            prop_assert!(replacing > last + 1 + g.segment_len() as u64, "{replacing} comes soon after {last}");
        }

        #[test]
        fn the_window_holds_the_last_capacity_seqs(capacity in 0_usize..100, base_seq in 0_u64..100, offered in 0_u64..300) {
            let window = Geometry::new(capacity, base_seq, 4, 64).window(base_seq + offered);
            prop_assert_eq!(window.last + 1 - window.oldest, offered.min(capacity as u64));
        }
    }
}
