#![forbid(unsafe_code)]
//! Blocks for texts that are too long for their slots.
//!
//! A writer fills a block before it claims a seq, and gets the block in exchange that its slot has
//! held since the lap before. Each thread keeps a few such blocks for its next long texts.

use crate::limits::MAX_RECORD_LEN;
use crate::ring::{Block, Parts, total};
use std::cell::Cell;

/// A thread keeps so many bytes at most.
const KEPT: usize = 64 * 1024;

thread_local! {
    static CACHE: Cell<BlockCache> = const { Cell::new(BlockCache { blocks: Vec::new(), bytes: 0 }) };
}

/// Blocks that no slot needs any more.
#[derive(Default)]
struct BlockCache {
    /// Each with its capacity, the oldest first.
    blocks: Vec<(usize, Block)>,
    /// Their capacities, all told.
    bytes: usize,
}

impl BlockCache {
    /// A block for so many bytes: a recycled one that is not more than twice too large, or else a
    /// new one.
    fn take(&mut self, len: usize) -> Block {
        let fits = |(capacity, _): &(usize, Block)| (len..=2 * len).contains(capacity);
        let Some(found) = self.blocks.iter().rposition(fits) else { return Block::with_capacity(len) };
        self.remove(found)
    }

    /// Keeps a block, in the place of the oldest if there are too many. One that is too large by
    /// itself is freed.
    fn put(&mut self, block: Block) {
        let capacity = block.capacity();
        if capacity > KEPT {
            return;
        }
        while self.bytes + capacity > KEPT {
            self.remove(0);
        }
        self.bytes += capacity;
        self.blocks.push((capacity, block));
    }

    fn remove(&mut self, index: usize) -> Block {
        let (capacity, block) = self.blocks.remove(index);
        self.bytes -= capacity;
        block
    }
}

fn with_cache<R>(work: impl FnOnce(&mut BlockCache) -> R) -> R {
    // Taken out while in use: a thread that is being torn down gets some of its own.
    let mut cache = CACHE.try_with(Cell::take).unwrap_or_default();
    let result = work(&mut cache);
    // Where there is no place to keep them any more, they are dropped.
    let _ = CACHE.try_with(|place| place.set(cache));
    result
}

/// A text in a block of its own.
///
/// # Panics
/// If it is longer than [`MAX_RECORD_LEN`].
#[cold]
pub(crate) fn spill(parts: Parts<'_>) -> Block {
    let [entity, row_id, data] = parts.map(str::len);
    let len = total([entity, row_id, data]);
    assert!(
        len <= MAX_RECORD_LEN as u64,
        "a record can hold {MAX_RECORD_LEN} bytes (MAX_RECORD_LEN): entity has {entity}, row_id {row_id}, data {data}"
    );
    let mut block = with_cache(|cache| cache.take(len as usize));
    block.fill(parts);
    block
}

/// Keeps a block for the thread's next long texts.
#[cold]
pub(crate) fn put(block: Block) {
    with_cache(|cache| cache.put(block));
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_block_is_used_again_for_texts_of_about_its_size() {
        let mut cache = BlockCache::default();
        cache.put(Block::with_capacity(1000));
        cache.put(Block::with_capacity(300));
        assert_eq!(cache.take(499).capacity(), 499, "1000 is more than twice as much");
        assert_eq!(cache.take(500).capacity(), 1000);
        assert_eq!(cache.take(301).capacity(), 301, "300 is too small");
        assert_eq!(cache.take(300).capacity(), 300);
        assert_eq!((cache.blocks.len(), cache.bytes), (0, 0));
    }

    #[test]
    fn the_oldest_block_goes_first() {
        let mut cache = BlockCache::default();
        for _ in 0..KEPT / 1000 {
            cache.put(Block::with_capacity(1000));
        }
        for _ in 0..16 {
            cache.put(Block::with_capacity(400));
        }
        let kept = |capacity| cache.blocks.iter().filter(|block| block.0 == capacity).count();
        assert_eq!((kept(400), kept(1000)), (16, (KEPT - 16 * 400) / 1000));
    }

    #[test]
    fn a_block_beyond_the_limit_is_not_kept_and_drives_none_out() {
        let mut cache = BlockCache::default();
        cache.put(Block::with_capacity(KEPT));
        cache.put(Block::with_capacity(KEPT + 1));
        assert_eq!((cache.blocks.len(), cache.bytes), (1, KEPT));
        assert_eq!(cache.take(KEPT).capacity(), KEPT);
    }

    proptest! {
        #[test]
        fn what_is_kept_stays_within_the_limit(lens in prop::collection::vec((any::<bool>(), 1..2 * KEPT), 1..50)) {
            let mut cache = BlockCache::default();
            for (keep, len) in lens {
                if keep {
                    cache.put(Block::with_capacity(len));
                } else {
                    prop_assert!((len..=2 * len).contains(&cache.take(len).capacity()));
                }
                let bytes: usize = cache.blocks.iter().map(|(_, block)| block.capacity()).sum();
                prop_assert_eq!(cache.bytes, bytes);
                prop_assert!(bytes <= KEPT);
            }
        }
    }
}
