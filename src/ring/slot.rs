//! One seq's place in a segment: a stamp, a record's fixed part, and its text or a pointer to it.
//!
//! In memory, `slot_size` bytes apart:
//!
//! ```text
//! ┌───────┬──────────────┬──────────┬─────────────────────────────────────────┐
//! │ stamp │ fixed part M │ text_len │ the text, or the pointer of its Box<str> │
//! └───────┴──────────────┴──────────┴─────────────────────────────────────────┘
//! ```
//!
//! Slots start on cache lines, so that two writers never write the same line.

use super::order;
use crate::sync::{AtomicU64, Ordering, UnsafeCell, prefetch_for_write};
use std::mem::MaybeUninit;
use std::ptr::NonNull;

/// Slots are whole cache lines of this many bytes.
pub(super) const CACHE_LINE: usize = 64;

/// The smallest `slot_size`: the head of a slot and a pointer.
pub(crate) const MIN_SLOT_SIZE: usize = CACHE_LINE;

/// The head of a slot. The text area lies behind it, in the same allocation.
#[repr(C)]
struct Head<M> {
    stamp: AtomicU64,
    body: UnsafeCell<Body<M>>,
}

#[repr(C)]
struct Body<M> {
    fixed: MaybeUninit<M>,
    text_len: usize,
}

/// A record's text on its way into a slot, made before the seq is claimed.
pub(crate) enum Text<'a> {
    /// Short enough for the slot: copied there, end to end.
    Inline([&'a str; 3]),
    /// Too long for it: the slot takes the block over.
    Spilled(Box<str>),
}

impl<'a> Text<'a> {
    /// The text of `parts` laid end to end, for slots with room for `inline` bytes.
    #[inline]
    pub(crate) fn new(parts: [&'a str; 3], inline: usize) -> Self {
        let text = Self::Inline(parts);
        if text.len() <= inline { text } else { Self::Spilled(text.into_spilled()) }
    }

    #[inline]
    fn len(&self) -> usize {
        match self {
            Self::Inline([a, b, c]) => a.len() + b.len() + c.len(),
            Self::Spilled(text) => text.len(),
        }
    }

    #[cold]
    fn into_spilled(self) -> Box<str> {
        match self {
            Self::Inline(parts) => parts.concat().into_boxed_str(),
            Self::Spilled(text) => text,
        }
    }
}

/// A slot, by its address. Copying it copies the address.
///
/// Its methods are unsafe: the address says nothing about who may use the slot now. The segment does.
pub(super) struct Slot<M> {
    head: NonNull<Head<M>>,
    inline: usize,
}

impl<M: Copy> Slot<M> {
    /// Bytes between slots for a wished `slot_size`: whole cache lines, with room for a head and a pointer.
    pub(super) fn stride(slot_size: usize) -> usize {
        slot_size.max(size_of::<Head<M>>() + size_of::<*mut u8>()).next_multiple_of(CACHE_LINE)
    }

    /// The longest text that slots of this stride hold themselves.
    pub(super) fn inline(stride: usize) -> usize {
        stride - size_of::<Head<M>>()
    }

    /// The slot at `address`.
    ///
    /// # Safety
    /// `address` is aligned to a cache line and starts `stride` bytes of one allocation.
    #[inline]
    pub(super) unsafe fn at(address: NonNull<u8>, stride: usize) -> Self {
        Self { head: address.cast(), inline: Self::inline(stride) }
    }

    /// Asks for the slot's first lines, to be written soon.
    #[inline]
    pub(super) fn prefetch(&self) {
        const LINES: usize = 3;
        for line in 0..LINES {
            prefetch_for_write(self.head.as_ptr().wrapping_byte_add(line * CACHE_LINE).cast());
        }
    }

    /// Makes a slot of raw memory, with a stamp that no seq equals.
    ///
    /// # Safety
    /// The memory is nobody else's, and holds no slot yet.
    pub(super) unsafe fn init(self) {
        let body = Body { fixed: MaybeUninit::uninit(), text_len: 0 };
        let head = Head { stamp: AtomicU64::new(0), body: UnsafeCell::new(body) };
        // SAFETY: the caller's; a head fits a stride and needs no more than a cache line's alignment.
        unsafe { self.head.write(head) };
    }

    /// Ends the slot's use of its memory. Does not free a spilled text.
    ///
    /// # Safety
    /// The slot was made by [`init`](Self::init), is nobody else's, and is not used again.
    pub(super) unsafe fn deinit(self) {
        // SAFETY: the caller's.
        unsafe { self.head.drop_in_place() };
    }

    /// Whether the slot holds `seq`'s record, and if so, makes the record visible to this thread (publish:B).
    ///
    /// # Safety
    /// The slot's segment is alive: reached under the caller's guard (R4), or its own.
    #[inline]
    pub(super) unsafe fn holds(&self, seq: u64) -> bool {
        // SAFETY: alive, says the caller; a stamp is only ever accessed atomically.
        unsafe { self.head.as_ref() }.stamp.load(order::PUBLISH_B) == seq
    }

    /// Writes `seq`'s record and publishes it (publish:A). Returns the bytes that it spilled.
    ///
    /// # Safety
    /// The slot's segment is alive (R4) and covers `seq`, and the caller is the one owner of `seq`, writing it for the
    /// first time (R1).
    #[inline]
    pub(super) unsafe fn write(&self, seq: u64, fixed: M, text: Text<'_>) -> usize {
        // SAFETY: alive, says the caller. The reference covers the head only, not the text area.
        let head = unsafe { self.head.as_ref() };
        if cfg!(ringlog_fault = "stamp_before_record") {
            head.stamp.store(seq, order::PUBLISH_A);
        }
        let mut spilled = 0;
        head.body.with_mut(|body| {
            let text_len = text.len();
            let body_value = Body { fixed: MaybeUninit::new(fixed), text_len };
            // SAFETY: R1: nobody else writes this slot in this life of its segment; R3: nobody reads it before the stamp.
            unsafe { body.write(body_value) };
            match text {
                // SAFETY: as above, and it fits the text area, checked here.
                Text::Inline(parts) if text_len <= self.inline => unsafe { self.copy_in(parts) },
                text => {
                    spilled = text_len;
                    let block = Box::into_raw(text.into_spilled()).cast::<u8>();
                    // SAFETY: as above; a stride has room for a pointer behind the head.
                    unsafe { self.text_area().cast::<*mut u8>().write_unaligned(block) };
                }
            }
        });
        head.stamp.store(seq, order::PUBLISH_A);
        spilled
    }

    /// Copies `parts` into the text area, end to end.
    ///
    /// # Safety
    /// As for [`write`](Self::write), and the parts fit the text area.
    #[inline]
    unsafe fn copy_in(&self, parts: [&str; 3]) {
        let mut to = self.text_area();
        for part in parts {
            // SAFETY: the caller's: the parts fit. `part` cannot lie in a slot that nobody may read yet.
            unsafe { to.copy_from_nonoverlapping(NonNull::from(part.as_bytes()).cast(), part.len()) };
            // SAFETY: within the text area, or one past its end.
            to = unsafe { to.add(part.len()) };
        }
    }

    /// The record.
    ///
    /// # Safety
    /// [`holds`](Self::holds) returned true (R3) and the slot's segment stays alive for `'g` (R4).
    #[inline]
    pub(super) unsafe fn read<'g>(&self) -> (M, &'g str) {
        // SAFETY: alive, says the caller.
        let head = unsafe { self.head.as_ref() };
        head.body.with(|body| {
            // SAFETY: R3: the record was written before the stamp that `holds` saw, and is not written again in this life.
            let body = unsafe { &*body };
            // SAFETY: the body was written, as above.
            let text = unsafe { self.text(body) };
            // SAFETY: `text_len` bytes of text were written with the body, inline or spilled.
            let text = unsafe { std::slice::from_raw_parts(text.as_ptr(), body.text_len) };
            // SAFETY: `str`s laid end to end are UTF-8.
            let text = unsafe { std::str::from_utf8_unchecked(text) };
            // SAFETY: written with the body.
            (unsafe { body.fixed.assume_init() }, text)
        })
    }

    /// Frees the record's text if it was spilled. Returns how many bytes that were.
    ///
    /// # Safety
    /// The slot is nobody else's, its record was published in this life of its segment, and is not used again.
    pub(super) unsafe fn free_spilled(&self) -> usize {
        // SAFETY: nobody else's, says the caller.
        let head = unsafe { self.head.as_ref() };
        head.body.with(|body| {
            // SAFETY: the record was published: its body was written.
            let body = unsafe { &*body };
            if body.text_len <= self.inline {
                return 0;
            }
            // SAFETY: a longer text is spilled: the text area holds the pointer of its block.
            let block = unsafe { self.text(body) };
            let block = std::ptr::slice_from_raw_parts_mut(block.as_ptr(), body.text_len);
            // SAFETY: made by `Box::into_raw` in `write`, from a `Box<str>` of this length; freed once, says the caller.
            drop(unsafe { Box::from_raw(block as *mut str) });
            body.text_len
        })
    }

    /// Where the text of a written record is.
    ///
    /// # Safety
    /// The body was written, and the slot is alive.
    #[inline]
    unsafe fn text(&self, body: &Body<M>) -> NonNull<u8> {
        if body.text_len <= self.inline {
            return self.text_area();
        }
        // SAFETY: a longer text is spilled, and `write` put the block's pointer here.
        unsafe { self.text_area().cast::<NonNull<u8>>().read_unaligned() }
    }

    /// The bytes behind the head.
    #[inline]
    fn text_area(&self) -> NonNull<u8> {
        // SAFETY: one past the head, within the stride.
        unsafe { self.head.add(1) }.cast()
    }

    /// The stamp, for the segment's owner.
    ///
    /// # Safety
    /// The slot is nobody else's.
    pub(super) unsafe fn stamp(&self) -> u64 {
        // SAFETY: the caller's.
        unsafe { self.head.as_ref() }.stamp.load(Ordering::Relaxed)
    }
}
