//! The system's allocator, with the books kept: for test programs that count their own allocations.
#![allow(dead_code, reason = "each test program uses a part")]

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

/// Bytes that are allocated right now, and the most there were since [`start`].
static OUTSTANDING: AtomicI64 = AtomicI64::new(0);
static PEAK: AtomicI64 = AtomicI64::new(0);

thread_local! {
    /// Allocations that this thread has made.
    static ALLOCATIONS: Cell<u64> = const { Cell::new(0) };
    /// What this thread does before it allocates its next segment.
    static BEFORE_A_SEGMENT: Cell<Option<fn()>> = const { Cell::new(None) };
}

/// Segments are aligned to a pair of cache lines.
const SEGMENT_ALIGN: usize = 128;

struct Counting;

#[global_allocator]
static ALLOCATOR: Counting = Counting;

fn note(layout: Layout, sign: i64) {
    let size = sign * i64::try_from(layout.size()).unwrap_or(i64::MAX);
    let now = OUTSTANDING.fetch_add(size, Ordering::Relaxed) + size;
    if sign > 0 {
        ALLOCATIONS.set(ALLOCATIONS.get() + 1);
        if now > PEAK.load(Ordering::Relaxed) {
            PEAK.fetch_max(now, Ordering::Relaxed);
        }
    }
}

// SAFETY: every call goes to the system's allocator as it came; counting allocates nothing.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        note(layout, 1);
        if layout.align() >= SEGMENT_ALIGN
            && let Some(work) = BEFORE_A_SEGMENT.take()
        {
            work();
        }
        // SAFETY: the caller keeps the contract of `alloc`, which is the same there.
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        note(layout, 1);
        // SAFETY: the caller keeps the contract of `alloc_zeroed`, which is the same there.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn dealloc(&self, memory: *mut u8, layout: Layout) {
        note(layout, -1);
        // SAFETY: the memory came from `System`, with this layout.
        unsafe { System.dealloc(memory, layout) }
    }
}

/// Keeps the other tests of this program away.
pub(crate) fn alone() -> MutexGuard<'static, ()> {
    static ONE: Mutex<()> = Mutex::new(());
    ONE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Bytes that are allocated now.
pub(crate) fn outstanding() -> i64 {
    OUTSTANDING.load(Ordering::Relaxed)
}

/// The most bytes that were allocated at a time since [`start`].
pub(crate) fn peak() -> i64 {
    PEAK.load(Ordering::Relaxed)
}

/// Bytes that are allocated now; the peak starts anew from here.
pub(crate) fn start() -> i64 {
    let now = outstanding();
    PEAK.store(now, Ordering::Relaxed);
    now
}

/// Has this thread call `work` in the middle of its next append that opens a segment.
pub(crate) fn before_a_segment(work: fn()) {
    BEFORE_A_SEGMENT.set(Some(work));
}

/// How often this thread allocates while it does `work`.
pub(crate) fn allocations_of<T>(work: impl FnOnce() -> T) -> u64 {
    let before = ALLOCATIONS.get();
    let result = work();
    let count = ALLOCATIONS.get() - before;
    drop(result);
    count
}
