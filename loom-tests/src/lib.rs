//! Models of ringlog's protocols, checked by loom.
//!
//! The modules below are the sources of the library itself, compiled here a second time with loom's
//! primitives behind `crate::sync`: what is checked is what ships, and the library needs no loom.
#![cfg(loom)]
#![allow(dead_code, reason = "a model uses a part of the sources it compiles")]

#[path = "../../src/sync.rs"]
mod sync;

#[path = "../../src/wait.rs"]
mod wait;

#[cfg(test)]
#[path = "wait.rs"]
mod wait_model;
