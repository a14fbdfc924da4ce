//! What a window takes of memory, all told, and how often an append allocates.
//!
//! `cargo bench --bench memory`. Counted by an allocator that keeps the books; so this is a program
//! of its own, and times nothing. A contender's window is gone round twice; then, in the steady
//! state, two laps more are appended, and the most that is allocated at any time is taken, over the
//! events that the window keeps. What the allocator itself adds to a block is not in it, which
//! spares those who allocate each event.
#![forbid(unsafe_code)]

use clap::Parser;
use ringlog_bench::contender::Contender;
use ringlog_bench::contenders::{Broadcast, Plain, Pylon, Ringlog};
use ringlog_bench::speed::MemoryFigures;
use ringlog_bench::workload::WINDOW;
use stats_alloc::{INSTRUMENTED_SYSTEM, Region, StatsAlloc};
use std::alloc::System;

#[global_allocator]
static ALLOCATOR: &StatsAlloc<System> = &INSTRUMENTED_SYSTEM;

/// Counts the memory of full windows.
#[derive(Debug, Parser)]
#[command(name = "memory")]
struct Args {
    /// The windows. Those of the channel are always of 10,000.
    #[arg(long, value_delimiter = ',', default_value = "10000",
        value_parser = clap::value_parser!(u64).range(1..=100_000_000))]
    windows: Vec<u64>,
    /// A line of JSON each.
    #[arg(long)]
    json: bool,
    /// What cargo says to every bench.
    #[arg(long, hide = true)]
    bench: bool,
}

fn main() {
    let args = Args::parse();
    for window in args.windows.iter().map(|window| *window as usize) {
        let mut all = vec![
            measure("ringlog", window, || Ringlog::new(window)),
            measure("mutex", window, || Plain::new(window)),
            measure("pylon", window, || Pylon::new(window)),
        ];
        if window == WINDOW {
            all.push(measure("broadcast", window, Broadcast::default));
        }
        for figures in all {
            print(&figures, args.json);
        }
    }
}

fn print(figures: &MemoryFigures, json: bool) {
    if json {
        println!("{}", serde_json::to_string(figures).expect("it serialises"));
    } else {
        let MemoryFigures { contender, window, bytes_per_event, allocations_per_append } = figures;
        println!(
            "{contender:<12} window {window:>9}  {bytes_per_event:>7.1} B an event  {allocations_per_append:.4} allocations an append"
        );
    }
}

fn measure<C: Contender>(name: &str, window: usize, make: impl FnOnce() -> C) -> MemoryFigures {
    let all = Region::new(ALLOCATOR);
    let contender = Box::new(make());
    let lap = window as u64;
    contender.append(2 * lap);
    let steady = Region::new(ALLOCATOR);
    // Not a divisor of anything: looked at in every phase of a segment.
    let part = 97;
    let (mut most, mut appended) = (0, 0);
    while appended < 2 * lap {
        contender.append(part);
        appended += part;
        let now = all.change();
        most = most.max(now.bytes_allocated - now.bytes_deallocated);
    }
    let allocations = steady.change().allocations;
    assert_eq!(contender.taken(), 2 * lap + appended);
    MemoryFigures {
        contender: name.to_owned(),
        window,
        bytes_per_event: most as f64 / window as f64,
        allocations_per_append: allocations as f64 / appended as f64,
    }
}
