#![forbid(unsafe_code)]
//! JSON, in and out: `read` makes a `Value` of a text, `write` writes events and values out, byte
//! for byte as `serde_json` does.

mod read;
mod write;

#[cfg(all(test, not(loom)))]
pub(crate) use read::tests::value as any_value;
pub(crate) use read::{Plain, parse};
pub(crate) use write::{JsonWriter, write_value};
