#![forbid(unsafe_code)]
//! From changes to records: everything that can fail, allocate or take long happens here, before a
//! seq is claimed.
//!
//! `layout` lays changes out and appends them; `spill` keeps the blocks for texts that are too long
//! for their slots.

mod layout;
mod spill;

pub(crate) use layout::{batch, batch_if, one};
