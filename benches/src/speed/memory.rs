//! Rows about memory. They come from a program of their own: counting every allocation would cost
//! the contenders that allocate, and only those.

use super::Sheet;
use serde::{Deserialize, Serialize};
use std::path::Path;
use std::process::Command;

/// What the program `memory` says of a contender, a line of JSON each.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct MemoryFigures {
    /// The contender.
    pub contender: String,
    /// How many events it keeps.
    pub window: usize,
    /// Allocated bytes over events kept: the most there were in the steady state.
    pub bytes_per_event: f64,
    /// Allocations over appends, in the steady state.
    pub allocations_per_append: f64,
}

/// Bytes an event, and allocations an append.
pub(super) fn memory(sheet: &mut Sheet, program: Option<&Path>) {
    let Some(program) = program else {
        return sheet.unmeasured("it takes a second program; `cargo xtask speed` builds both");
    };
    let output = Command::new(program).arg("--json").output().expect("the program runs");
    assert!(output.status.success(), "{}: {}", program.display(), String::from_utf8_lossy(&output.stderr));
    let figures: Vec<MemoryFigures> = serde_json::Deserializer::from_slice(&output.stdout)
        .into_iter()
        .collect::<Result<_, _>>()
        .expect("lines of JSON");
    let of = |name: &str| {
        let mine = figures.iter().find(|figures| figures.contender == name && figures.window == 10_000);
        mine.unwrap_or_else(|| panic!("no figures of {name}"))
    };
    let (ours, mutex) = (of("ringlog"), of("mutex"));
    sheet.figures("memory, window 10000", "B/event", ours.bytes_per_event, ("300 B", 300.0), Some(1.0));
    sheet.figures(
        "memory, window 10000",
        "B/event",
        ours.bytes_per_event,
        ("mutex", mutex.bytes_per_event),
        None,
    );
    // A segment that is retired takes a node of the collector's: once in 256 appends.
    let what = "allocations an append";
    sheet.figures(what, "", ours.allocations_per_append, ("1/200", 1.0 / 200.0), Some(1.0));
    sheet.figures(what, "", ours.allocations_per_append, ("mutex", mutex.allocations_per_append), None);
}
