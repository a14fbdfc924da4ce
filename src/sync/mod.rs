//! The only door to atomics, cells and epochs.
//!
//! Everything concurrent in this crate takes its primitives from here. In an ordinary build they
//! are `std`'s (`real`) and `crossbeam-epoch`'s; under `--cfg loom` (the `loom-tests` crate, which
//! compiles these same sources) they are loom's (`model`), so that the code that ships is the code
//! that is model-checked.

pub(crate) mod asymmetric;
pub(crate) mod epoch;
#[cfg(loom)]
mod model;
mod prefetch;
#[cfg(not(loom))]
mod real;

#[cfg(loom)]
pub(crate) use model::*;
pub(crate) use prefetch::prefetch_for_write;
#[cfg(not(loom))]
pub(crate) use real::*;

/// A static, which in a model begins anew with each execution.
macro_rules! process_wide {
    ($(#[$attribute:meta])* static $name:ident: $type:ty = $value:expr;) => {
        #[cfg(not(loom))]
        $(#[$attribute])*
        static $name: $type = $value;

        #[cfg(loom)]
        loom::lazy_static! {
            $(#[$attribute])*
            static ref $name: $type = $value;
        }
    };
}
pub(crate) use process_wide;
