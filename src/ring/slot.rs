//! One seq's place in a segment: a stamp, a record's fixed part, and its text or the block that
//! holds it.
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
//! A block outlives the record that it was made for: it stays in the slot until the slot is written
//! again, and its next writer takes it away, to use it for its own next long text. So in steady
//! state long texts are neither allocated nor freed.

use super::block::{Block, Contents, Parts};
use super::order;
use crate::sync::{AtomicU64, UnsafeCell, prefetch_for_write};
use std::mem::MaybeUninit;
use std::ptr::NonNull;

/// Slots are whole cache lines of this many bytes.
pub(super) const CACHE_LINE: usize = 64;

/// The smallest `slot_size`: the head of a slot and a pointer.
pub(crate) const MIN_SLOT_SIZE: usize = CACHE_LINE;

/// In the place of each end of a text that is in a block. No slot is as long.
const SPILLED: u16 = u16::MAX;

/// The head of a slot. The text area lies behind it, in the same allocation.
#[repr(C)]
struct Head<M> {
    stamp: AtomicU64,
    body: UnsafeCell<Body<M>>,
    /// Stands for the bytes that follow, so that a model sees each access to them. Takes no room.
    text: UnsafeCell<()>,
}

#[repr(C)]
struct Body<M> {
    fixed: MaybeUninit<M>,
    /// Where each part of the text ends, or [`SPILLED`].
    ends: [u16; 3],
}

/// A slot, by its address. Copying it copies the address.
///
/// Its methods are unsafe: the address does not say which thread may use the slot now. The segment
/// does.
pub(super) struct Slot<M>(NonNull<Head<M>>);

impl<M: Copy> Slot<M> {
    /// Bytes between slots for a wished `slot_size`: whole cache lines, with room for a head and a
    /// pointer.
    pub(super) fn stride(slot_size: usize) -> usize {
        let stride =
            slot_size.max(size_of::<Head<M>>() + size_of::<*mut Contents>()).next_multiple_of(CACHE_LINE);
        assert!(stride < usize::from(SPILLED), "slots of {stride} bytes");
        stride
    }

    /// The longest text that slots of this stride hold themselves.
    pub(super) fn inline(stride: usize) -> usize {
        stride - size_of::<Head<M>>()
    }

    /// The slot at `address`.
    ///
    /// # Safety
    /// `address` is aligned to a cache line and starts a stride of one allocation, which is all the
    /// slot's.
    #[inline]
    pub(super) unsafe fn at(address: NonNull<u8>) -> Self {
        Self(address.cast())
    }

    /// Asks for the lines that a text of `len` bytes takes here, to be written soon: for two
    /// always, and for three at most.
    #[inline]
    pub(super) fn prefetch(&self, len: u64) {
        let ask = |line| prefetch_for_write(self.0.as_ptr().wrapping_byte_add(line * CACHE_LINE).cast());
        ask(0);
        ask(1);
        if len > (2 * CACHE_LINE - size_of::<Head<M>>()) as u64 {
            ask(2);
        }
    }

    /// Makes a slot of raw memory, with a stamp that no seq equals.
    ///
    /// # Safety
    /// The memory is the caller's alone, and holds no slot yet.
    pub(super) unsafe fn init(self) {
        let body = Body { fixed: MaybeUninit::uninit(), ends: [0; 3] };
        let head = Head { stamp: AtomicU64::new(0), body: UnsafeCell::new(body), text: UnsafeCell::new(()) };
        // SAFETY: the caller's; a head fits a stride and needs no more than a cache line's
        // alignment.
        unsafe { self.0.write(head) };
    }

    /// Ends the slot's use of its memory. Does not free its block.
    ///
    /// # Safety
    /// The slot was made by [`init`](Self::init), is the caller's alone, and is not used again.
    pub(super) unsafe fn deinit(self) {
        // SAFETY: the caller's.
        unsafe { self.0.drop_in_place() };
    }

    /// Whether the slot holds `seq`'s record, and if so, makes the record visible to this thread
    /// (publish:B).
    ///
    /// # Safety
    /// The slot's segment is alive: reached under the caller's guard (R4), or its own.
    #[inline]
    pub(super) unsafe fn holds(&self, seq: u64) -> bool {
        // SAFETY: alive, says the caller; a stamp is only ever accessed atomically.
        unsafe { self.0.as_ref() }.stamp.load(order::PUBLISH_B) == seq
    }

    /// Writes `seq`'s record and publishes it (publish:A). Returns the block that the slot has held
    /// since an earlier life of its segment, if it has; `look` says whether it may.
    ///
    /// # Safety
    /// The slot's segment is alive (R4) and covers `seq`, the caller is the one owner of `seq`,
    /// writing it for the first time (R1), and the text fits: it is no longer than
    /// [`inline`](Self::inline).
    #[inline(always)]
    #[expect(
        clippy::inline_always,
        reason = "a call for each record of a batch takes longer than half of its copy"
    )]
    pub(super) unsafe fn write(&self, seq: u64, fixed: M, parts: Parts<'_>, look: bool) -> Option<Block> {
        let [a, b, c] = parts.map(str::len);
        // The text fits, and no slot is as long as a `u16` can say.
        let ends = [a, a + b, a + b + c].map(|end| end as u16);
        let body = Body { fixed: MaybeUninit::new(fixed), ends };
        // SAFETY: the caller's.
        let before = unsafe { self.begin(body, look) };
        // SAFETY: no other thread may use the slot until it is published; the text fits, says the
        // caller.
        unsafe { self.copy_in(parts) };
        // SAFETY: the record is whole.
        unsafe { self.publish(seq) };
        before
    }

    /// As [`write`](Self::write), for a text in a block, which the slot takes over.
    ///
    /// # Safety
    /// As for [`write`](Self::write), but that the text does not fit.
    pub(super) unsafe fn write_spilled(&self, seq: u64, fixed: M, block: Block) -> Option<Block> {
        let body = Body { fixed: MaybeUninit::new(fixed), ends: [SPILLED; 3] };
        // SAFETY: the caller's.
        let before = unsafe { self.begin(body, true) };
        // SAFETY: alive, says the caller.
        unsafe { self.0.as_ref() }.text.with_mut(|_| {
            // SAFETY: no other thread may use the slot until it is published; a stride has room for
            // a pointer after the head.
            unsafe { self.place().write(block.into_raw()) };
        });
        // SAFETY: the record is whole.
        unsafe { self.publish(seq) };
        before
    }

    /// Begins a record: writes its body, and takes the block out that the slot has, if it is to
    /// `look` for one. What the body says is in the text area follows, then
    /// [`publish`](Self::publish).
    ///
    /// # Safety
    /// As for [`write`](Self::write).
    #[inline]
    unsafe fn begin(&self, new: Body<M>, look: bool) -> Option<Block> {
        // SAFETY: alive, says the caller. The reference covers the head only, not the text area.
        let body = unsafe { self.0.as_ref() }.body.with_mut(|body| body);
        // SAFETY: R1: no other thread writes this slot in this life of its segment; R3: none reads
        // it before the stamp; R4: the lives before it are over.
        let before = if look { unsafe { self.take_block(body) } } else { None };
        // SAFETY: as above.
        unsafe { body.write(new) };
        before
    }

    /// Publishes the record that is in the slot (publish:A).
    ///
    /// # Safety
    /// It is `seq`'s, and whole; the slot's segment is alive (R4).
    #[inline]
    unsafe fn publish(&self, seq: u64) {
        // SAFETY: alive, says the caller; a stamp is only ever accessed atomically.
        unsafe { self.0.as_ref() }.stamp.store(seq, order::PUBLISH_A);
    }

    /// Copies `parts` into the text area, end to end.
    ///
    /// # Safety
    /// As for [`write`](Self::write), and the parts fit the text area.
    #[inline(always)]
    #[expect(
        clippy::inline_always,
        reason = "a call for each record of a batch takes longer than half of its copy"
    )]
    unsafe fn copy_in(&self, parts: Parts<'_>) {
        // Only for a model to see. Not around the copy: compilers do not inline that closure.
        // SAFETY: alive, says the caller.
        unsafe { self.0.as_ref() }.text.with_mut(|_| ());
        let mut to = self.text_area();
        for part in parts {
            // SAFETY: the caller's: the parts fit. `part` cannot lie in a slot that no reader may
            // read yet.
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
        let head = unsafe { self.0.as_ref() };
        head.body.with(|body| {
            // SAFETY: R3: the record was written before the stamp that `holds` saw, and is not
            // written again in this life.
            let body = unsafe { &*body };
            let (text, ends) = if body.ends[2] == SPILLED {
                // SAFETY: the ends say that there is one.
                let block = unsafe { self.block() };
                // SAFETY: the slot owns the block, and no thread changes it in this life.
                unsafe { &*block }.text_and_ends()
            } else {
                head.text.with(|_| (self.text_area().as_ptr().cast_const(), body.ends.map(u32::from)))
            };
            let [a, b, c] = ends.map(|end| end as usize);
            let part = |from: usize, end: usize| {
                // SAFETY: the text is there, up to its last end, and no end lies before the one
                // that precedes it.
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

    /// How long the record's text is.
    ///
    /// # Safety
    /// As for [`read`](Self::read).
    pub(super) unsafe fn text_len(&self) -> u32 {
        // SAFETY: alive, says the caller.
        unsafe { self.0.as_ref() }.body.with(|body| {
            // SAFETY: R3, as in `read`.
            let [.., end] = unsafe { (*body).ends };
            if end == SPILLED {
                // SAFETY: the ends say that there is one.
                let block = unsafe { self.block() };
                // SAFETY: the slot owns the block, and it is not changed in this life.
                unsafe { &*block }.text_and_ends().1[2]
            } else {
                u32::from(end)
            }
        })
    }

    /// Takes the slot's block away, if it has one.
    ///
    /// # Safety
    /// The slot is the caller's alone.
    pub(super) unsafe fn take(&self) -> Option<Block> {
        // SAFETY: the caller's alone.
        let head = unsafe { self.0.as_ref() };
        // SAFETY: as above.
        head.body.with_mut(|body| unsafe { self.take_block(body) })
    }

    /// Takes the block away that `body` says is in the text area, if it says so.
    ///
    /// # Safety
    /// The slot is the caller's alone, and its body was initialised.
    #[inline]
    unsafe fn take_block(&self, body: *mut Body<M>) -> Option<Block> {
        // SAFETY: the ends were initialised with the slot.
        let ends = unsafe { &mut (*body).ends };
        if ends[2] != SPILLED {
            return None;
        }
        *ends = [0; 3];
        // SAFETY: the ends said that there is one.
        let block = unsafe { self.block() };
        // SAFETY: the ends forget it, so that it comes out once.
        Some(unsafe { Block::from_raw(block) })
    }

    /// The block that the text area points to.
    ///
    /// # Safety
    /// The slot is alive, and its ends say that there is one.
    unsafe fn block(&self) -> *mut Contents {
        // SAFETY: alive, says the caller.
        unsafe { self.0.as_ref() }.text.with(|_| {
            // SAFETY: `write_spilled` put its block's pointer here.
            unsafe { *self.place() }
        })
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
        unsafe { self.0.add(1) }.cast()
    }
}

/// Copies `part`. A short one goes in two pieces of a power of two, which overlap: so glibc's
/// `memcpy` does it, but a call takes longer than that.
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
        // SAFETY: `N` bytes from here on are within `part`, and as many within the room for it. An
        // array of bytes is aligned anywhere.
        unsafe { to.add(at).cast::<[u8; N]>().write(part.as_ptr().add(at).cast::<[u8; N]>().read()) };
    }
}
