//! What a window takes of memory, all told, and how often an append allocates.
//!
//! `cargo bench --bench memory`. Counted by an allocator that keeps the books; so this is a program
//! of its own, and times nothing. A contender's window is gone round twice; then, in the steady
//! state, two laps more are appended, and the most that is allocated at any time is taken, over the
//! events that the window keeps. What the allocator itself adds to a block is not in it, which
//! favours contenders that allocate each event.
#![forbid(unsafe_code)]

use ringlog::ChangeLog;
use ringlog_bench::contender::{Contender, append_text};
use ringlog_bench::contenders::{Broadcast, Plain, Pylon};
use ringlog_bench::speed::MemoryFigures;
use ringlog_bench::workload::WINDOW;
use stats_alloc::{INSTRUMENTED_SYSTEM, Region, StatsAlloc};
use std::alloc::System;

#[global_allocator]
static ALLOCATOR: &StatsAlloc<System> = &INSTRUMENTED_SYSTEM;

fn main() {
    let figures = MemoryFigures::from([
        ("ringlog".to_owned(), measure::<ChangeLog>()),
        ("mutex".to_owned(), measure::<Plain>()),
        ("pylon".to_owned(), measure::<Pylon>()),
        ("broadcast".to_owned(), measure::<Broadcast>()),
    ]);
    if std::env::args().any(|word| word == "--json") {
        println!("{}", serde_json::to_string(&figures).expect("it serialises"));
        return;
    }
    println!("window of {WINDOW}");
    for (name, [bytes, allocations]) in figures {
        println!("{name:<12}{bytes:>7.1} B an event  {allocations:.4} allocations an append");
    }
}

/// Bytes an event, and allocations an append.
fn measure<C: Contender>() -> [f64; 2] {
    let all = Region::new(ALLOCATOR);
    let contender = Box::new(C::full(WINDOW));
    let lap = WINDOW as u64;
    let before = contender.taken();
    let steady = Region::new(ALLOCATOR);
    // Not a divisor of anything: looked at in every phase of a segment.
    let part = 97;
    let (mut most, mut appended) = (0, 0);
    while appended < 2 * lap {
        append_text(&*contender, part);
        appended += part;
        let now = all.change();
        most = most.max(now.bytes_allocated - now.bytes_deallocated);
    }
    let allocations = steady.change().allocations;
    assert_eq!(contender.taken(), before + appended);
    [most as f64 / WINDOW as f64, allocations as f64 / appended as f64]
}
