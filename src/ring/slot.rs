//! One seq's place in a segment: a stamp, a record's fixed part, and its text or the block that holds it.
//!
//! In memory, `slot_size` bytes apart:
//!
//! ```text
//! ┌───────┬──────────────┬──────────────────┬───────────────────────────────────────────────┐
//! │ stamp │ fixed part M │ ends of 3 parts  │ the text, or the pointer of its block         │
//! └───────┴──────────────┴──────────────────┴───────────────────────────────────────────────┘
//! ```
//!
//! Slots start on cache lines, so that two writers never write the same line.
//!
//! A block outlives the record that it was made for: it stays in the slot until the slot is written again, and its next
//! writer takes it away, to use it for its own next long text. So in steady state long texts are neither allocated nor freed.

use super::block::{Block, Contents, Parts};
use super::order;
use crate::sync::{AtomicU64, UnsafeCell, prefetch_for_write};
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
    /// Where each part of the text ends. A text that is too long for the text area, by its last end, lies in a block.
    ends: [u32; 3],
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
        slot_size.max(size_of::<Head<M>>() + size_of::<*mut Contents>()).next_multiple_of(CACHE_LINE)
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
        let body = Body { fixed: MaybeUninit::uninit(), ends: [0; 3] };
        let head = Head { stamp: AtomicU64::new(0), body: UnsafeCell::new(body) };
        // SAFETY: the caller's; a head fits a stride and needs no more than a cache line's alignment.
        unsafe { self.head.write(head) };
    }

    /// Ends the slot's use of its memory. Does not free its block.
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

    /// Writes `seq`'s record and publishes it (publish:A). Returns the block that the slot has held since an earlier life of
    /// its segment, if it has; `look` says whether it may.
    ///
    /// # Safety
    /// The slot's segment is alive (R4) and covers `seq`, the caller is the one owner of `seq`, writing it for the
    /// first time (R1), and the text fits: it is no longer than [`inline`](Self::inline).
    #[inline]
    pub(super) unsafe fn write(&self, seq: u64, fixed: M, parts: Parts<'_>, look: bool) -> Option<Block> {
        let [a, b, c] = parts.map(str::len);
        // A slot is far shorter than a `u32` can say.
        let body =
            Body { fixed: MaybeUninit::new(fixed), ends: [a as u32, (a + b) as u32, (a + b + c) as u32] };
        // SAFETY: called by `publish`, while nobody else may use the slot; the text fits, says the caller.
        let fill = || unsafe { self.copy_in(parts) };
        // SAFETY: the caller's.
        unsafe { self.publish(seq, body, look, fill) }
    }

    /// As [`write`](Self::write), for a text in a block, which the slot takes over.
    ///
    /// # Safety
    /// As for [`write`](Self::write), but that the text does not fit.
    pub(super) unsafe fn write_spilled(&self, seq: u64, fixed: M, block: Block) -> Option<Block> {
        let body = Body { fixed: MaybeUninit::new(fixed), ends: block.ends() };
        let block = block.into_raw();
        // SAFETY: called by `publish`, while nobody else may use the slot; a stride has room for a pointer behind the head.
        let fill = || unsafe { self.place().write(block) };
        // SAFETY: the caller's. By its last end, the text is too long for the slot: so there is a pointer.
        unsafe { self.publish(seq, body, true, fill) }
    }

    /// Writes a record's body, lets `fill` write its text area, and publishes it. Returns the block that the slot had, if it is
    /// to `look` for one.
    ///
    /// # Safety
    /// As for [`write`](Self::write), and `fill` puts into the text area what the body says is there.
    #[inline]
    unsafe fn publish(&self, seq: u64, new: Body<M>, look: bool, fill: impl FnOnce()) -> Option<Block> {
        // SAFETY: alive, says the caller. The reference covers the head only, not the text area.
        let head = unsafe { self.head.as_ref() };
        if cfg!(ringlog_fault = "stamp_before_record") {
            head.stamp.store(seq, order::PUBLISH_A);
        }
        let before = head.body.with_mut(|body| {
            // SAFETY: R1: nobody else writes this slot in this life of its segment; R3: nobody reads it before the stamp;
            // R4: the lives before it are over.
            let before = look.then(|| unsafe { self.take_block(body) }).flatten();
            // SAFETY: as above.
            unsafe { body.write(new) };
            fill();
            before
        });
        head.stamp.store(seq, order::PUBLISH_A);
        before
    }

    /// Copies `parts` into the text area, end to end.
    ///
    /// # Safety
    /// As for [`write`](Self::write), and the parts fit the text area.
    #[inline]
    unsafe fn copy_in(&self, parts: Parts<'_>) {
        let mut to = self.text_area();
        for part in parts {
            // SAFETY: the caller's: the parts fit. `part` cannot lie in a slot that nobody may read yet.
            unsafe { copy(part.as_bytes(), to) };
            // SAFETY: within the text area, or one past its end.
            to = unsafe { to.add(part.len()) };
        }
    }

    /// The record.
    ///
    /// # Safety
    /// [`holds`](Self::holds) returned true (R3) and the slot's segment stays alive for `'g` (R4).
    #[inline]
    pub(super) unsafe fn read<'g>(&self) -> (M, Parts<'g>) {
        // SAFETY: alive, says the caller.
        let head = unsafe { self.head.as_ref() };
        head.body.with(|body| {
            // SAFETY: R3: the record was written before the stamp that `holds` saw, and is not written again in this life.
            let body = unsafe { &*body };
            let [a, b, c] = body.ends.map(|end| end as usize);
            let text = if c <= self.inline {
                self.text_area().as_ptr()
            } else {
                // SAFETY: a longer text is spilled, and `write_spilled` put its block's pointer here.
                let block = unsafe { *self.place() };
                // SAFETY: the slot owns the block, and nobody changes it in this life.
                unsafe { &*block }.text()
            };
            let part = |from: usize, end: usize| {
                // SAFETY: the text is there, up to its last end, and no end lies before the one that precedes it.
                let start = unsafe { text.add(from) };
                // SAFETY: as above.
                let bytes = unsafe { std::slice::from_raw_parts(start, end - from) };
                // SAFETY: each part is a `str` as it was given.
                unsafe { std::str::from_utf8_unchecked(bytes) }
            };
            // SAFETY: written with the body.
            (unsafe { body.fixed.assume_init() }, [part(0, a), part(a, b), part(b, c)])
        })
    }

    /// Takes the slot's block away, if it has one.
    ///
    /// # Safety
    /// The slot is nobody else's.
    pub(super) unsafe fn take(&self) -> Option<Block> {
        // SAFETY: nobody else's, says the caller.
        let head = unsafe { self.head.as_ref() };
        // SAFETY: as above.
        head.body.with_mut(|body| unsafe { self.take_block(body) })
    }

    /// Takes the block away that `body` says is in the text area, if it says so.
    ///
    /// # Safety
    /// The slot is nobody else's, and its body was initialised.
    #[inline]
    unsafe fn take_block(&self, body: *mut Body<M>) -> Option<Block> {
        // SAFETY: the ends were initialised with the slot.
        let ends = unsafe { &mut (*body).ends };
        if ends[2] as usize <= self.inline || cfg!(ringlog_fault = "leave_block") {
            return None;
        }
        *ends = [0; 3];
        // SAFETY: a longer text is spilled, and `write_spilled` put its block's pointer here.
        let block = unsafe { *self.place() };
        // SAFETY: the ends forget it, so that it comes out once.
        Some(unsafe { Block::from_raw(block) })
    }

    /// Where the pointer of a block is put. Aligned: a head is a number of words.
    #[inline]
    fn place(&self) -> *mut *mut Contents {
        self.text_area().as_ptr().cast()
    }

    /// The bytes behind the head.
    #[inline]
    fn text_area(&self) -> NonNull<u8> {
        // SAFETY: one past the head, within the stride.
        unsafe { self.head.add(1) }.cast()
    }
}

/// Copies `part`. A short one goes in two pieces of a power of two, which overlap: so glibc's `memcpy` does it, but a call takes
/// longer than that.
///
/// # Safety
/// `to` has room for it, and lies outside of it.
#[inline]
#[expect(clippy::multiple_unsafe_ops_per_block, reason = "the same for each length")]
unsafe fn copy(part: &[u8], to: NonNull<u8>) {
    let len = part.len();
    // SAFETY: the caller's; and it is as long as the pieces, as each condition says.
    unsafe {
        if len > 64 {
            to.copy_from_nonoverlapping(NonNull::from(part).cast(), len);
        } else if len >= 32 {
            copy_ends::<32>(part, to);
        } else if len >= 8 {
            if len >= 16 { copy_ends::<16>(part, to) } else { copy_ends::<8>(part, to) }
        } else if len >= 4 {
            copy_ends::<4>(part, to);
        } else if len >= 2 {
            copy_ends::<2>(part, to);
        } else if len == 1 {
            copy_ends::<1>(part, to);
        }
    }
}

/// Copies the first `N` bytes of `part`, and the last.
///
/// # Safety
/// As for [`copy`], and there are as many.
#[inline]
#[expect(clippy::multiple_unsafe_ops_per_block, reason = "a pointer is moved and followed")]
unsafe fn copy_ends<const N: usize>(part: &[u8], to: NonNull<u8>) {
    for at in [0, part.len() - N] {
        // SAFETY: `N` bytes from here on are within `part`, and as many within the room for it. An array of bytes is aligned anywhere.
        unsafe { to.add(at).cast::<[u8; N]>().write(part.as_ptr().add(at).cast::<[u8; N]>().read()) };
    }
}
