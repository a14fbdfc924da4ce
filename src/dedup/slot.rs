//! A place that holds one shared value, or none: read by any thread, filled and emptied by its
//! owner.
//!
//! A slot is one word: the value's address, and how often that address was taken from the slot.
//! Taking a reference adds one to the word, which yields the address in the same instant: there is
//! no moment between knowing a value and holding it. Giving a reference back subtracts one from the
//! value's own balance. Emptying the slot moves the word's count into that balance and takes the
//! slot's own share away; the operation that brings the balance to nought frees the value.
//!
//! So a value is freed as soon as its last holder lets go. A thread that is suspended in
//! the middle of a look-up holds one value; under an epoch it would hold whatever all threads
//! retire until it runs again, which, with more threads than cores, is megabytes of cold memory at
//! any time.
//!
//! The invariants S1 to S3 are stated and argued in the module's essay ([`super`]).

use crate::sync::{AtomicU64, Ordering, UnsafeCell};
use std::marker::PhantomData;
use std::ops::Deref;
use std::ptr::NonNull;

/// The bits of a word that count; an address has sixteen zeros above and four below to make room.
const COUNT_BITS: u32 = 20;

/// From so many references on, a thread that takes one moves the count into the balance before it
/// goes on. What is left above is for the threads that come meanwhile: more than half a million of
/// them.
const MOVE_AT: u64 = if cfg!(loom) { 2 } else { 1 << (COUNT_BITS - 1) };

/// The slot's own share of a balance: more than can ever be given back before it is taken away.
const SHARE: u64 = 1 << 62;

/// A slot's word: `address << 16 | count`. Addresses are multiples of 16 below 2⁴⁸.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Word(u64);

impl Word {
    const EMPTY: Self = Self(0);

    fn new<T>(value: NonNull<Counted<T>>) -> Self {
        let address = value.as_ptr().expose_provenance() as u64;
        assert!(address >> 48 == 0 && address.trailing_zeros() >= 4, "heap addresses have 48 bits");
        Self(address << 16)
    }

    fn count(self) -> u64 {
        self.0 & ((1 << COUNT_BITS) - 1)
    }

    fn without_count(self) -> Self {
        Self(self.0 - self.count())
    }

    fn value<T>(self) -> Option<NonNull<Counted<T>>> {
        NonNull::new(std::ptr::with_exposed_provenance_mut((self.without_count().0 >> 16) as usize))
    }
}

/// A value with the balance of its references.
#[derive(Debug)]
#[repr(align(16))]
struct Counted<T> {
    /// `SHARE` while the value is in its slot, plus the references moved here, less those given
    /// back.
    balance: AtomicU64,
    value: UnsafeCell<T>,
}

/// The heap bytes of a value in a slot.
#[cfg(test)]
pub(super) const fn size_in_slot<T>() -> usize {
    size_of::<Counted<T>>()
}

/// A place that holds a shared value or none.
#[derive(Debug)]
pub(crate) struct Slot<T> {
    word: AtomicU64,
    values: PhantomData<Box<Counted<T>>>,
}

// SAFETY: references to the value are handed to any thread, and any thread may be the one to drop
// it.
unsafe impl<T: Send + Sync> Send for Slot<T> {}
// SAFETY: as above.
unsafe impl<T: Send + Sync> Sync for Slot<T> {}

/// A value that was in the slot when it was asked for, and stays alive as long as this.
#[derive(Debug)]
pub(crate) struct Ref<'a, T> {
    slot: &'a Slot<T>,
    value: NonNull<Counted<T>>,
}

impl<T> Slot<T> {
    pub(crate) fn empty() -> Self {
        Self { word: AtomicU64::new(Word::EMPTY.0), values: PhantomData }
    }

    /// The value in the slot.
    ///
    /// Wait-free, but that once in half a million times the count has to be moved, which is
    /// lock-free.
    #[inline]
    pub(crate) fn get(&self) -> Option<Ref<'_, T>> {
        Word(self.word.load(Ordering::Acquire)).value::<T>()?; // slot:F
        let word = Word(self.word.fetch_add(1, Ordering::Acquire) + 1); // slot:B
        let value = Ref { slot: self, value: word.value()? };
        if word.count() >= MOVE_AT {
            value.move_count();
        }
        Some(value)
    }

    /// Puts a value into the slot, which is empty. For the slot's owner only: another value put at
    /// the same time would be lost.
    pub(crate) fn put(&self, value: T) {
        let counted = Counted { balance: AtomicU64::new(SHARE), value: UnsafeCell::new(value) };
        let word = Word::new(NonNull::from(Box::leak(Box::new(counted))));
        // The count that the empty word may have had is of threads that came for a former value,
        // and got none.
        self.word.swap(word.0, Ordering::Release); // slot:A
    }

    /// Empties the slot; its value is freed now or by its last holder.
    pub(crate) fn take(&self) {
        let word = Word(self.word.swap(Word::EMPTY.0, Ordering::Release)); // slot:E
        let Some(value) = word.value::<T>() else { return };
        // `count` references went out over the word, and the slot gives up its share.
        // SAFETY: the swap took the value out of the slot, and with it the slot's share.
        unsafe { release(value, SHARE.wrapping_sub(word.count())) };
    }

    /// The value in the slot, for the slot's owner.
    ///
    /// # Safety
    ///
    /// The slot is not emptied as long as the reference is used: the caller is the one that may do
    /// that.
    pub(crate) unsafe fn peek(&self) -> Option<&T> {
        let counted = Word(self.word.load(Ordering::Relaxed)).value::<T>()?;
        // SAFETY: the slot has its share in the value as long as it is not emptied (S2).
        let counted = unsafe { counted.as_ref() };
        // SAFETY: a value is not written to between its publication and its end (S1).
        Some(counted.value.with(|value| unsafe { &*value }))
    }
}

impl<T> Ref<'_, T> {
    fn balance(&self) -> &AtomicU64 {
        // SAFETY: the value is alive as long as this reference is (S2), and is only ever shared.
        unsafe { &(*self.value.as_ptr()).balance }
    }

    /// Moves the count of the slot's word into the balance, so that it does not run over.
    #[cold]
    fn move_count(&self) {
        loop {
            let now = Word(self.slot.word.load(Ordering::Relaxed));
            if now.value() != Some(self.value) || now.count() < MOVE_AT {
                return;
            }
            // First the balance: it must never fall short of the references that are out.
            self.balance().fetch_add(now.count(), Ordering::Relaxed);
            let (from, to) = (now.0, now.without_count().0);
            if self.slot.word.compare_exchange(from, to, Ordering::Relaxed, Ordering::Relaxed).is_ok() {
                return;
            }
            self.balance().fetch_sub(now.count(), Ordering::Relaxed);
        }
    }
}

/// Takes `share` off the balance of a value, and frees the value if that was the last of it.
///
/// # Safety
///
/// The caller has this share: references that are out, or the slot's own. It is gone afterwards.
#[inline]
unsafe fn release<T>(value: NonNull<Counted<T>>, share: u64) {
    // SAFETY: the value is alive as long as the caller's share is in it (S2).
    let balance = unsafe { &(*value.as_ptr()).balance };
    // slot:C
    if balance.fetch_sub(share, Ordering::Release) == share {
        balance.load(Ordering::Acquire); // slot:D
        // SAFETY: no thread holds the value any more, and none can reach it: it left its slot (S3).
        let value = unsafe { Box::from_raw(value.as_ptr()) };
        // For the model checker: this is a write, which every read must have happened before.
        value.value.with_mut(|_| ());
    }
}

impl<T> Deref for Ref<'_, T> {
    type Target = T;

    #[inline]
    fn deref(&self) -> &T {
        // SAFETY: the value is alive as long as this reference is (S2).
        let counted = unsafe { self.value.as_ref() };
        // SAFETY: a value is not written to between its publication and its end (S1).
        counted.value.with(|value| unsafe { &*value })
    }
}

impl<T> Drop for Ref<'_, T> {
    #[inline]
    fn drop(&mut self) {
        // SAFETY: this reference is one share, and ends here.
        unsafe { release(self.value, 1) };
    }
}

impl<T> Drop for Slot<T> {
    fn drop(&mut self) {
        self.take();
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;
    use std::sync::Arc;

    /// A thread that saw the count run high may be suspended until the slot has another value, of
    /// which as many references are out.
    #[test]
    fn the_count_of_a_later_value_is_not_moved_into_the_balance_of_an_earlier_one() {
        let slot = Slot::empty();
        slot.put(1);
        let earlier = slot.get().unwrap();
        slot.take();
        slot.put(2);
        slot.word.fetch_add(MOVE_AT, Ordering::Relaxed);
        earlier.move_count();
        let count = Word(slot.word.load(Ordering::Relaxed)).count();
        // None of these references is there.
        slot.word.fetch_sub(count, Ordering::Relaxed);
        assert_eq!(count, MOVE_AT);
    }

    /// As many threads took references before one of them came to move the count.
    #[test]
    fn a_count_that_is_past_its_limit_is_moved_by_the_next_reference() {
        let slot = Slot::empty();
        slot.put(1);
        slot.word.fetch_add(MOVE_AT, Ordering::Relaxed);
        let value = slot.get().unwrap();
        assert_eq!(Word(slot.word.load(Ordering::Relaxed)).count(), 0);
        // None of the others is there.
        assert_eq!(value.balance().fetch_sub(MOVE_AT, Ordering::Relaxed), SHARE + MOVE_AT + 1);
    }

    #[test]
    fn a_slot_that_is_dropped_frees_its_value() {
        let value = Arc::new(());
        let slot = Slot::empty();
        slot.put(Arc::clone(&value));
        assert_eq!(Arc::strong_count(&value), 2);
        drop(slot);
        assert_eq!(Arc::strong_count(&value), 1);
    }

    /// So often that the count is moved, and would have run over twice.
    #[test]
    #[cfg_attr(miri, ignore = "millions of steps")]
    fn a_value_that_is_looked_at_millions_of_times_is_freed_once_and_not_before() {
        let value = Arc::new(());
        let slot = Slot::empty();
        slot.put(Arc::clone(&value));
        for _ in 0..3 << COUNT_BITS {
            assert_eq!(Arc::strong_count(&slot.get().unwrap()), 2);
            assert!(Word(slot.word.load(Ordering::Relaxed)).count() < MOVE_AT);
        }
        let held = slot.get().unwrap();
        slot.take();
        assert!(slot.get().is_none());
        assert_eq!(Arc::strong_count(&value), 2);
        drop(held);
        assert_eq!(Arc::strong_count(&value), 1);
    }
}
