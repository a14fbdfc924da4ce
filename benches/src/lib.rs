//! ringlog beside the programs that one would write without it: the parts that the benches share.
//!
//! - [`workload`]: what every contender is given.
//! - [`contender`] and [`contenders`]: what takes it, and must prove to have taken it.
//! - [`timing`]: how long so many threads take.
//! - [`op_ids`]: the same for op ids. [`wake`]: the same for waiting.
//! - [`load`]: the load generator; [`report`]: what it draws.
//! - [`speed`]: the table of targets, each row from alternating runs in one process.
#![forbid(unsafe_code)]
#![allow(clippy::missing_panics_doc, reason = "a bench that finds a wrong result panics, everywhere")]
#![allow(clippy::missing_errors_doc, reason = "every error ends the program, with a message that says all")]
#![allow(missing_debug_implementations, reason = "what is printed with `{:?}` derives it, and little is")]
#![allow(clippy::cast_sign_loss, reason = "times and counts are not negative")]

pub mod contender;
pub mod contenders;
pub mod load;
pub mod machine;
pub mod op_ids;
pub mod report;
pub mod speed;
pub mod timing;
pub mod wake;
pub mod workload;

/// Anything that ends a program.
pub type Result<T, E = Box<dyn std::error::Error + Send + Sync>> = std::result::Result<T, E>;

#[cfg(all(feature = "jemalloc", not(feature = "mimalloc")))]
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

#[cfg(feature = "mimalloc")]
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// The allocator that the programs here are built with.
pub const ALLOCATOR_NAME: &str = if cfg!(feature = "mimalloc") {
    "mimalloc"
} else if cfg!(feature = "jemalloc") {
    "jemalloc"
} else {
    "system"
};
