//! Arbitrary operations on ringlog and on pylon-sync 0.2.3: the same answers.
#![no_main]

#[path = "../../tests/common/decode.rs"]
mod decode;
#[path = "../../tests/common/ops.rs"]
mod ops;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| ops::run(&decode::case(bytes)));
