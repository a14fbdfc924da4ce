//! A fixed array that costs nothing until it is used: zeroed memory as the system hands it out.
//!
//! A log that is made for a million ids, and sees ten, takes memory for ten.

use crate::sync::AtomicU64;
use std::alloc::{Layout, alloc_zeroed, dealloc, handle_alloc_error};
use std::ops::Deref;
use std::ptr::NonNull;

/// Types whose new value is all zeros.
///
/// # Safety
///
/// Outside of models, memory filled with zeros is a valid value, and the same as
/// [`Default::default`]'s.
pub(super) unsafe trait Zeroed: Default {}

// SAFETY: an atomic has the representation of its integer; and that is what `default` is.
unsafe impl Zeroed for AtomicU64 {}

/// A boxed slice of new values.
#[derive(Debug)]
pub(super) struct Table<T> {
    memory: NonNull<u8>,
    layout: Layout,
    values: NonNull<T>,
    len: usize,
}

// SAFETY: it owns its values, as a boxed slice does.
unsafe impl<T: Send> Send for Table<T> {}
// SAFETY: it lends its values, as a boxed slice does.
unsafe impl<T: Sync> Sync for Table<T> {}

impl<T: Zeroed> Table<T> {
    pub(super) fn new(len: usize) -> Self {
        // Aligned by hand: the allocator would clear memory of a larger alignment itself, and touch
        // all of it.
        let bytes = Layout::array::<T>(len).map(|array| array.size() + align_of::<T>());
        let layout =
            bytes.and_then(|bytes| Layout::from_size_align(bytes, 16)).expect("a table fits the memory");
        // SAFETY: the size is not zero, for an alignment is added to it.
        let memory = unsafe { alloc_zeroed(layout) };
        let Some(memory) = NonNull::new(memory) else { handle_alloc_error(layout) };
        let offset = memory.align_offset(align_of::<T>());
        // SAFETY: within the allocation, by the alignment that was added.
        let values = unsafe { memory.add(offset) }.cast::<T>();
        if cfg!(loom) {
            for index in 0..len {
                // SAFETY: within the allocation.
                let value = unsafe { values.add(index) };
                // SAFETY: within the allocation, aligned, and not shared yet.
                unsafe { value.write(T::default()) };
            }
        }
        Self { memory, layout, values, len }
    }
}

impl<T> Deref for Table<T> {
    type Target = [T];

    #[inline]
    fn deref(&self) -> &[T] {
        // SAFETY: `len` values, of zeros or written, aligned, and alive as long as the table.
        unsafe { std::slice::from_raw_parts(self.values.as_ptr(), self.len) }
    }
}

impl<T> Drop for Table<T> {
    fn drop(&mut self) {
        let values = NonNull::slice_from_raw_parts(self.values, self.len);
        // SAFETY: the table's own, and dropped here only.
        unsafe { values.drop_in_place() };
        // SAFETY: allocated with this layout, and freed here only.
        unsafe { dealloc(self.memory.as_ptr(), self.layout) };
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;
    use std::sync::atomic::Ordering;

    #[test]
    fn a_table_is_new_aligned_and_its_own() {
        for len in [0, 1, 7, 1000] {
            let table = Table::<AtomicU64>::new(len);
            assert_eq!(table.len(), len);
            assert!(table.iter().all(|value| value.swap(1, Ordering::Relaxed) == 0));
            assert!(table.iter().all(|value| value.load(Ordering::Relaxed) == 1));
        }
    }
}
