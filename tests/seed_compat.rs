//! The program of `seed_compat/` on pylon-sync 0.2.3 itself: what holds there on ringlog is what
//! held before.
//!
//! The workspace member `seed-compat` runs the very same tests on ringlog under the seed's name.

#[path = "seed_compat/program.rs"]
pub mod program;
