//! A hint to the processor.

/// Asks the processor for a cache line that will be written soon. Only ever a hint: any address
/// will do.
#[inline]
#[cfg_attr(
    any(not(target_arch = "x86_64"), miri),
    expect(unused_variables, reason = "no hint known for this processor")
)]
pub(crate) fn prefetch_for_write(address: *const u8) {
    #[cfg(all(target_arch = "x86_64", not(miri)))]
    // SAFETY: PREFETCHW changes no memory and no register, never faults, and where it is not known
    // it does nothing.
    unsafe {
        std::arch::asm!("prefetchw [{}]", in(reg) address, options(nostack, preserves_flags, readonly));
    }
}
