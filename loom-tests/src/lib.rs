//! Models of ringlog's protocols, checked by loom.
//!
//! The modules below are the sources of the library itself, compiled here a second time with loom's
//! primitives behind `crate::sync`: what is checked is what ships, and the library needs no loom.
//!
//! Each model states how many threads it has, how often loom may preempt them, and what it
//! explored. A model is worth what it can refute: the faults that it must catch are listed with it,
//! and `cargo xtask faults` breaks the sources in each of these ways and sees the model fail.
#![cfg(loom)]
#![allow(
    dead_code,
    unreachable_pub,
    unused_imports,
    reason = "a model uses a part of the sources it compiles"
)]

#[path = "../../src/append/mod.rs"]
mod append;
#[path = "../../src/clock.rs"]
mod clock;
#[path = "../../src/dedup/mod.rs"]
mod dedup;
#[path = "../../src/event.rs"]
mod event;
#[path = "../../src/fingerprint.rs"]
mod fingerprint;
#[path = "../../src/foreign.rs"]
mod foreign;
#[path = "../../src/json/mod.rs"]
mod json;
#[path = "../../src/kind.rs"]
mod kind;
#[path = "../../src/limits.rs"]
mod limits;
#[path = "../../src/ring/mod.rs"]
mod ring;
#[path = "../../src/sync/mod.rs"]
mod sync;
#[path = "../../src/wait.rs"]
mod wait;

#[cfg(test)]
mod dedup_models;
#[cfg(test)]
mod explore;
#[cfg(test)]
mod ring_models;
#[cfg(test)]
mod wait_models;
