//! The text of a record, and where it is when it is too long for a slot.

use crate::sync::UnsafeCell;

/// A record's text: three parts, which stay apart.
pub(crate) type Parts<'a> = [&'a str; 3];

/// How long a text is.
#[inline]
pub(super) fn len(parts: &Parts<'_>) -> u64 {
    total([parts[0].len(), parts[1].len(), parts[2].len()])
}

/// The sum of the lengths of three `str`s, which may be one and the same: on a 32-bit target, more
/// than a `usize` can hold.
#[inline]
pub(crate) fn total(lens: [usize; 3]) -> u64 {
    lens[0] as u64 + lens[1] as u64 + lens[2] as u64
}

/// A text in memory of its own, which can be filled again and again.
///
/// One word: a slot has room for no more, and a writer that gives up a block, or nearly always
/// none, passes it on at no cost.
#[derive(Debug)]
pub(crate) struct Block(Box<Contents>);

/// What is in a block.
#[derive(Debug)]
pub(super) struct Contents {
    text: String,
    /// Where each part ends.
    ends: [u32; 3],
    /// Stands for both, so that a model sees each access to them. Takes no room.
    tracked: UnsafeCell<()>,
}

impl Block {
    /// A block with room for `capacity` bytes.
    pub(crate) fn with_capacity(capacity: usize) -> Self {
        let (text, ends) = (String::with_capacity(capacity), [0; 3]);
        Self(Box::new(Contents { text, ends, tracked: UnsafeCell::new(()) }))
    }

    /// A block that holds a text. Takes the parts as separate arguments, as a writer has them.
    #[cold]
    pub(super) fn of(a: &str, b: &str, c: &str) -> Self {
        let mut block = Self::with_capacity(len(&[a, b, c]) as usize);
        block.fill([a, b, c]);
        block
    }

    /// Takes in a text in the place of what it holds.
    ///
    /// # Panics
    /// If it is longer than a `u32` can say.
    pub(crate) fn fill(&mut self, parts: Parts<'_>) {
        let Contents { text, ends, tracked } = &mut *self.0;
        tracked.with_mut(|_| ());
        text.clear();
        *ends = parts.map(|part| {
            text.push_str(part);
            u32::try_from(text.len()).unwrap_or_else(|_| panic!("a text of {} bytes", text.len()))
        });
    }

    /// The bytes that it has room for.
    pub(crate) fn capacity(&self) -> usize {
        self.0.text.capacity()
    }

    /// The block as a pointer, to be turned back by [`from_raw`](Self::from_raw).
    pub(super) fn into_raw(self) -> *mut Contents {
        Box::into_raw(self.0)
    }

    /// A block that was a pointer.
    ///
    /// # Safety
    /// The pointer came from [`into_raw`](Self::into_raw), and is turned back once.
    pub(super) unsafe fn from_raw(contents: *mut Contents) -> Self {
        // SAFETY: the caller's.
        Self(unsafe { Box::from_raw(contents) })
    }
}

impl Contents {
    /// Where the text begins, and where each of its parts ends.
    pub(super) fn text_and_ends(&self) -> (*const u8, [u32; 3]) {
        self.tracked.with(|_| (self.text.as_ptr(), self.ends))
    }
}

impl Drop for Contents {
    fn drop(&mut self) {
        self.tracked.with_mut(|_| ());
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    #[test]
    fn lengths_that_a_32_bit_word_cannot_sum_are_summed() {
        for len in [0, 1, 0x5555_5555, 0x5555_5556, i32::MAX as usize] {
            assert_eq!(total([len; 3]), 3 * len as u64);
        }
    }
}
