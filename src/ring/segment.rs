//! A run of slots, and the allocator that hands segments out and takes them back.

use super::block::{Block, Parts};
use super::chain::{Chain, Linked, SharedChain};
use super::geometry::Geometry;
use super::pool::Pool;
use super::reservation::RetireEra;
use super::slot::{CACHE_LINE, Slot};
use crate::sync::epoch::Guard;
use crate::sync::{Arc, AtomicBool, AtomicU64, Ordering, UnsafeCell};
use std::alloc::{Layout, alloc, dealloc, handle_alloc_error};
use std::marker::PhantomData;
use std::ops::Range;
use std::ptr::NonNull;

/// S slots for the seqs `base..base + S`.
///
/// While it is reachable (between its installation and the end of the last guard that could have
/// loaded its pointer), `base` does not change (R2) and each slot is written at most once, by the
/// owner of its seq (R1).
pub(super) struct Segment<M: Copy> {
    base: UnsafeCell<u64>,
    /// The next in the chain that holds the segment, if one does. Only the holder of the chain
    /// looks at it.
    next: UnsafeCell<Option<NonNull<Self>>>,
    unlinked: RetireEra,
    /// Whether a slot may hold a block. Set for good, Relaxed, before the first is put: see the
    /// essay.
    spills: AtomicBool,
    slots: NonNull<u8>,
    len: usize,
    stride: usize,
    records: PhantomData<M>,
}

// SAFETY: the slots are memory that the segment owns; `M` and text travel with it.
unsafe impl<M: Copy + Send> Send for Segment<M> {}
// SAFETY: shared access writes a slot once, before its stamp, and reads it after (R1, R3).
unsafe impl<M: Copy + Send + Sync> Sync for Segment<M> {}

impl<M: Copy> Segment<M> {
    fn new(len: usize, stride: usize) -> Self {
        assert!(len.is_power_of_two(), "a segment of {len} slots");
        let layout = Self::layout(len, stride);
        // SAFETY: the layout is not empty: a segment has slots, and a slot has bytes.
        let Some(slots) = NonNull::new(unsafe { alloc(layout) }) else { handle_alloc_error(layout) };
        let segment = Self {
            base: UnsafeCell::new(0),
            next: UnsafeCell::new(None),
            unlinked: RetireEra::never(),
            spills: AtomicBool::new(false),
            slots,
            len,
            stride,
            records: PhantomData,
        };
        for seq in 0..len as u64 {
            // SAFETY: fresh memory of our own.
            unsafe { segment.slot(seq).init() };
        }
        segment
    }

    #[expect(clippy::expect_used, reason = "checked once by `Geometry`'s limits, at the first allocation")]
    fn layout(len: usize, stride: usize) -> Layout {
        // Two lines: processors prefetch lines in pairs.
        Layout::from_size_align(len * stride, 2 * CACHE_LINE).expect("a segment's size fits an isize")
    }

    /// The first seq that this segment covers.
    ///
    /// # Safety
    /// The segment is reachable for the caller (R4): its pointer was loaded with install:B under a
    /// guard.
    #[inline]
    pub(super) unsafe fn base(&self) -> u64 {
        // SAFETY: R2: not written while reachable; install carries the value that was written
        // before.
        self.base.with(|base| unsafe { *base })
    }

    /// Whether `seq`'s record is here.
    #[inline]
    pub(super) fn holds(&self, seq: u64) -> bool {
        // SAFETY: `&self` keeps the slots alive.
        unsafe { self.slot(seq).holds(seq) }
    }

    /// The record of `seq`.
    ///
    /// # Safety
    /// [`holds`](Self::holds) returned true for it (R3), and the segment stays reachable for `'g`
    /// (R4).
    #[inline]
    pub(super) unsafe fn read<'g>(&self, seq: u64) -> (M, Parts<'g>) {
        // SAFETY: the caller's.
        unsafe { self.slot(seq).read() }
    }

    /// Writes and publishes `seq`'s record. Returns the block that its slot has held since an
    /// earlier life, if it has.
    ///
    /// # Safety
    /// The caller owns `seq`, writes it for the first time (R1), this segment covers it, and the
    /// text fits its slots.
    #[inline]
    pub(super) unsafe fn write(&self, seq: u64, fixed: M, parts: Parts<'_>) -> Option<Block> {
        // SAFETY: the caller's; `&self` keeps the slot alive.
        unsafe { self.slot(seq).write(seq, fixed, parts, self.spills.load(Ordering::Relaxed)) }
    }

    /// As [`write`](Self::write), for a text in a block.
    ///
    /// # Safety
    /// As for [`write`](Self::write), but that the text does not fit.
    pub(super) unsafe fn write_spilled(&self, seq: u64, fixed: M, block: Block) -> Option<Block> {
        // The line is read by all that use the segment: it is written once.
        if !self.spills.load(Ordering::Relaxed) {
            self.spills.store(true, Ordering::Relaxed);
        }
        // SAFETY: the caller's; `&self` keeps the slot alive.
        unsafe { self.slot(seq).write_spilled(seq, fixed, block) }
    }

    /// How long the text of `seq`'s record is.
    ///
    /// # Safety
    /// As for [`read`](Self::read).
    pub(super) unsafe fn text_len(&self, seq: u64) -> u32 {
        // SAFETY: the caller's.
        unsafe { self.slot(seq).text_len() }
    }

    /// Frees the blocks of the records of these seqs, as far as they are published. Returns their
    /// bytes.
    ///
    /// # Safety
    /// The segment covers the seqs and stays reachable (R4); no reader reads their records, and no
    /// other thread frees their blocks.
    pub(super) unsafe fn take_blocks(&self, seqs: Range<u64>) -> usize {
        if !self.spills.load(Ordering::Relaxed) {
            return 0;
        }
        // SAFETY: its writer is done (publish:B), and the next one has another life; the caller
        // keeps others away.
        let take = |seq| unsafe { self.slot(seq).take() };
        seqs.filter(|seq| self.holds(*seq)).filter_map(take).map(|block| block.capacity()).sum()
    }

    /// Asks for the slot of `seq`, to be written soon with a text of about `len` bytes. A hint: a
    /// seq of another segment does no harm.
    #[inline]
    pub(super) fn prefetch(&self, seq: u64, len: u64) {
        self.slot(seq).prefetch(len);
    }

    /// The slot for `seq`, or for the seq of this segment that shares its place.
    #[inline]
    fn slot(&self, seq: u64) -> Slot<M> {
        // `len` is a power of two: this is below it for every seq.
        let index = seq as usize & (self.len - 1);
        // SAFETY: within the allocation of `len` strides.
        let address = unsafe { self.slots.add(index * self.stride) };
        // SAFETY: a stride of our allocation, aligned like its start: strides are whole cache
        // lines.
        unsafe { Slot::at(address) }
    }

    /// Frees the blocks that the slots hold. Returns their bytes.
    fn free_blocks(&mut self) -> usize {
        if !self.spills.load(Ordering::Relaxed) {
            return 0;
        }
        // SAFETY: `&mut self`: no other thread can reach a slot.
        let take = |seq| unsafe { self.slot(seq).take() };
        let bytes = (0..self.len as u64).filter_map(take).map(|block| block.capacity()).sum();
        self.spills.store(false, Ordering::Relaxed);
        bytes
    }
}

impl<M: Copy> Linked for Segment<M> {
    unsafe fn next(&self) -> Option<NonNull<Self>> {
        // SAFETY: the caller's.
        self.next.with(|next| unsafe { *next })
    }

    unsafe fn set_next(&self, to: Option<NonNull<Self>>) {
        // SAFETY: the caller's.
        self.next.with_mut(|next| unsafe { *next = to });
    }
}

impl<M: Copy> Drop for Segment<M> {
    fn drop(&mut self) {
        self.free_blocks();
        for seq in 0..self.len as u64 {
            // SAFETY: made by `init` in `new`, and ours alone.
            unsafe { self.slot(seq).deinit() };
        }
        // SAFETY: allocated in `new` with this layout, freed once.
        unsafe { dealloc(self.slots.as_ptr(), Self::layout(self.len, self.stride)) };
    }
}

/// What the ring's memory is doing, in segments and bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Memory {
    /// Held by the allocator's account: live, pooled and awaiting reclaim together.
    pub(crate) allocated: u64,
    pub(crate) pooled: u64,
    /// Retired, but some guard may still look at them.
    pub(crate) awaiting: u64,
    pub(crate) segment_bytes: u64,
    /// In blocks that slots hold.
    pub(crate) spilled_bytes: u64,
}

/// So many segments are pooled in the smallest ring.
const MIN_POOLED: usize = 3;

/// Where segments come from and go back to: a bounded pool, then the global allocator. It keeps the
/// account. They are on cache lines that an append does not look at: a thread that updates them
/// delays no writer else.
pub(super) struct SegmentAllocator<M: Copy> {
    pool: Pool<Segment<M>>,
    /// What found no place in the pool while a late writer could reach it.
    late: SharedChain<Segment<M>>,
    segment_len: usize,
    stride: usize,
    /// Whether segments give their blocks up when they are retired: the window is bounded in bytes.
    empties: bool,
    allocated: AtomicU64,
    retired: AtomicU64,
    reclaimed: AtomicU64,
    spilled_bytes: AtomicU64,
    /// Records dropped because their writer was lapped.
    superseded: AtomicU64,
}

impl<M: Copy + Send + Sync> SegmentAllocator<M> {
    pub(super) fn new(geometry: &Geometry) -> Self {
        Self {
            // Segments come back in bursts, when the epoch moves: enough for a burst, little beside
            // the window.
            pool: Pool::new((geometry.positions() / 16).clamp(MIN_POOLED, 64)),
            late: SharedChain::new(),
            segment_len: geometry.segment_len(),
            stride: Slot::<M>::stride(geometry.slot_size()),
            empties: geometry.max_bytes().is_some(),
            allocated: AtomicU64::new(0),
            retired: AtomicU64::new(0),
            reclaimed: AtomicU64::new(0),
            spilled_bytes: AtomicU64::new(0),
            superseded: AtomicU64::new(0),
        }
    }

    /// The longest text that a slot holds itself.
    pub(super) fn inline(&self) -> usize {
        Slot::<M>::inline(self.stride)
    }

    /// A segment for the seqs from `base`, the caller's alone until it is installed.
    #[expect(
        clippy::unnecessary_box_returns,
        reason = "it lives in its box, from one installation to the next"
    )]
    ///
    /// One of the pool that a late writer can still reach is put aside, for the caller to give
    /// back.
    pub(super) fn take(&self, base: u64, aside: &mut Chain<Segment<M>>) -> Box<Segment<M>> {
        let segment = self.take_pooled(aside).unwrap_or_else(|| {
            self.allocated.fetch_add(1, Ordering::Relaxed);
            Box::new(Segment::new(self.segment_len, self.stride))
        });
        // SAFETY: ours alone: fresh, or reclaimed after the last guard that could have seen it
        // (R4).
        segment.base.with_mut(|old| unsafe { *old = base });
        segment
    }

    /// A segment of the pool, if there is one that no writer can reach.
    fn take_pooled(&self, aside: &mut Chain<Segment<M>>) -> Option<Box<Segment<M>>> {
        let segment = self.pool.take()?;
        // SAFETY: out of the pool, and not freed.
        if unsafe { segment.as_ref() }.unlinked.is_over() {
            // SAFETY: it was made by `Box`. Its readers had gone when it came to the pool, its
            // writers have now (R4).
            let mut segment = unsafe { Box::from_raw(segment.as_ptr()) };
            self.empty(&mut segment);
            return Some(segment);
        }
        // SAFETY: out of the pool, and not freed.
        unsafe { aside.push(segment) };
        None
    }

    /// Takes a segment back that no reader can reach, though a late writer may.
    pub(super) fn recycle(&self, segment: NonNull<Segment<M>>) {
        // What came before it may be free to go by now.
        let mut late = self.late.take();
        while let Some(segment) = late.pop() {
            self.reclaimed.fetch_add(1, Ordering::Relaxed);
            self.put(segment);
        }
        self.put(segment);
    }

    /// Puts a segment into the pool, or frees it if there is no place, or has it wait if a late
    /// writer can reach it.
    fn put(&self, mut segment: NonNull<Segment<M>>) {
        // SAFETY: not in the pool, and not freed.
        let is_over = unsafe { segment.as_ref() }.unlinked.is_over();
        if is_over {
            // SAFETY: no reader and no writer can reach it (R4).
            self.empty(unsafe { segment.as_mut() });
        }
        let Err(mut surplus) = self.pool.put(segment) else { return };
        if !is_over {
            self.reclaimed.fetch_sub(1, Ordering::Relaxed);
            // SAFETY: not in the pool, and not freed.
            return unsafe { self.late.push(surplus) };
        }
        // SAFETY: no reader and no writer can reach it (R4).
        self.count_spilled(0, unsafe { surplus.as_mut() }.free_blocks());
        // SAFETY: as above, and it was made by `Box`.
        drop(unsafe { Box::from_raw(surplus.as_ptr()) });
        self.allocated.fetch_sub(1, Ordering::Relaxed);
    }

    /// Frees the blocks of a segment that nothing can reach, if this ring's segments are to have
    /// none then.
    fn empty(&self, segment: &mut Segment<M>) {
        if self.empties {
            self.count_spilled(0, segment.free_blocks());
        }
    }

    /// Ends the life of a segment that was just unlinked from its position, and its unlinking
    /// announced: it comes back when every guard that could have loaded its pointer is gone (R4).
    ///
    /// # Safety
    /// The caller unlinked it, and retires it once.
    pub(super) unsafe fn retire(allocator: &Arc<Self>, segment: NonNull<Segment<M>>, guard: &Guard) {
        // SAFETY: not freed before it is retired.
        unsafe { segment.as_ref() }.unlinked.mark();
        allocator.retired.fetch_add(1, Ordering::Relaxed);
        let allocator = Arc::clone(allocator);
        let reclaim = move || {
            allocator.reclaimed.fetch_add(1, Ordering::Relaxed);
            allocator.recycle(segment);
        };
        // SAFETY: the closure owns all that it uses, and may run on any thread: allocator and
        // segment are `Send`.
        unsafe { guard.defer_unchecked(reclaim) };
    }

    /// Notes that slots hold blocks of so many bytes instead of so many.
    #[cold]
    pub(super) fn count_spilled(&self, now: usize, before: usize) {
        // Most often a block takes the place of one like it: then writers do not meet here.
        if now != before {
            self.spilled_bytes.fetch_add((now as u64).wrapping_sub(before as u64), Ordering::Relaxed);
        }
    }

    /// Notes that records were dropped because the ring had gone round before they were written.
    #[cold]
    pub(super) fn count_superseded(&self, count: u64) {
        self.superseded.fetch_add(count, Ordering::Relaxed);
    }

    /// How many records were dropped so.
    pub(super) fn superseded(&self) -> u64 {
        self.superseded.load(Ordering::Relaxed)
    }

    /// The bytes of all blocks that slots hold.
    pub(super) fn spilled_bytes(&self) -> u64 {
        self.spilled_bytes.load(Ordering::Relaxed)
    }

    pub(super) fn memory(&self) -> Memory {
        // Reclaimed before retired: the difference never shows below zero.
        let reclaimed = self.reclaimed.load(Ordering::Relaxed);
        Memory {
            allocated: self.allocated.load(Ordering::Relaxed),
            pooled: self.pool.len() as u64,
            awaiting: self.retired.load(Ordering::Relaxed).saturating_sub(reclaimed),
            segment_bytes: (self.segment_len * self.stride) as u64,
            spilled_bytes: self.spilled_bytes(),
        }
    }
}
