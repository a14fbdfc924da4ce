//! Data is served as the text it came in, and `pull_json` writes what serde_json would.
#![no_main]

#[path = "../../tests/common/json_identity.rs"]
mod json_identity;
#[path = "../../tests/common/reserved_key.rs"]
mod reserved_key;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| json_identity::check(bytes));
