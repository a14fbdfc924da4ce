//! A few threads whose steps come from the input: what they are answered can be explained.
#![no_main]

#[path = "../../tests/common/history.rs"]
mod history;
#[path = "../../tests/common/schedule.rs"]
mod schedule;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| schedule::check(bytes));
