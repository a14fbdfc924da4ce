//! Push requests to try a log with: made up, or read from a file.
//!
//! The program `ringlog-replay` replays them and checks the outcome; the load generator of the
//! benches takes them as well.
#![forbid(unsafe_code)]
#![allow(
    clippy::cast_possible_truncation,
    clippy::cast_precision_loss,
    clippy::cast_sign_loss,
    reason = "random numbers are cut to size; nothing here nears 2^52"
)]

pub mod generate;
pub mod input;

/// Anything that ends the program before a verdict.
pub type Result<T, E = Box<dyn std::error::Error + Send + Sync>> = std::result::Result<T, E>;
