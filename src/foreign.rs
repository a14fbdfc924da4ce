#![forbid(unsafe_code)]
//! Running code that is not this crate's, and may panic.

use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind};

/// Runs foreign code. A panic of it ends here, after the panic hook has reported it; then this
/// returns `None`.
///
/// The caller hands the code nothing of the log's that could be left half done.
pub(crate) fn contained<T>(foreign: impl FnOnce() -> T) -> Option<T> {
    catch_unwind(AssertUnwindSafe(foreign)).map_err(dispose).ok()
}

/// Drops what a panic carried: its destructor is foreign code as well. If that panics too, what the
/// second panic carries is leaked.
pub(crate) fn dispose(panic: Box<dyn Any + Send>) {
    if let Err(again) = catch_unwind(AssertUnwindSafe(|| drop(panic))) {
        std::mem::forget(again);
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;
    use std::panic::resume_unwind;

    #[test]
    fn what_does_not_panic_is_returned() {
        assert_eq!(contained(|| 5), Some(5));
    }

    #[test]
    fn a_panic_in_the_destructor_of_a_panic_goes_no_further() {
        struct Again(u32);
        impl Drop for Again {
            fn drop(&mut self) {
                resume_unwind(Box::new(Again(self.0 + 1)));
            }
        }
        assert_eq!(contained(|| resume_unwind(Box::new("once"))), None::<()>);
        assert_eq!(contained(|| resume_unwind(Box::new(Again(0)))), None::<()>);
    }
}
