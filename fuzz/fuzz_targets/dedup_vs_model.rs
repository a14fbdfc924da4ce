//! Arbitrary claims, completions and pushes, against a queue and a set: the same answers.
#![no_main]

#[path = "../../tests/common/op_ids.rs"]
mod op_ids;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| op_ids::check(bytes));
