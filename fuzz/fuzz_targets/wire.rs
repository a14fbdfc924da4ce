//! What comes over the wire: nothing panics, and what parses keeps its meaning.
#![no_main]

#[path = "../../tests/common/reserved_key.rs"]
mod reserved_key;
#[path = "../../tests/common/wire.rs"]
mod wire;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| wire::check(bytes));
