//! The text of a record, and where it is when it is too long for a slot.

/// A record's text: three parts, which stay apart.
pub(crate) type Parts<'a> = [&'a str; 3];

/// How long a text is. The lengths of three `str`s in memory: their sum cannot overflow.
#[inline]
pub(super) fn len(parts: &Parts<'_>) -> usize {
    parts[0].len() + parts[1].len() + parts[2].len()
}

/// A text in memory of its own, which can be filled again and again.
///
/// One word: a slot has room for no more, and a writer that gives up a block, or nearly always none, passes it on at no cost.
#[derive(Debug)]
pub(crate) struct Block(Box<Contents>);

/// What is in a block.
#[derive(Debug)]
pub(super) struct Contents {
    text: String,
    /// Where each part ends.
    ends: [u32; 3],
}

impl Block {
    /// A block with room for `capacity` bytes.
    pub(crate) fn with_capacity(capacity: usize) -> Self {
        Self(Box::new(Contents { text: String::with_capacity(capacity), ends: [0; 3] }))
    }

    /// A block that holds a text. Each part for itself, as a writer has them.
    #[cold]
    pub(super) fn of(a: &str, b: &str, c: &str) -> Self {
        let mut block = Self::with_capacity(a.len() + b.len() + c.len());
        block.fill([a, b, c]);
        block
    }

    /// Takes in a text in the place of what it holds.
    ///
    /// # Panics
    /// If it is longer than a `u32` can say.
    pub(crate) fn fill(&mut self, parts: Parts<'_>) {
        let Contents { text, ends } = &mut *self.0;
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
        (self.text.as_ptr(), self.ends)
    }
}
