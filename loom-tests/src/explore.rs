//! How a model is run.

use crate::sync::epoch::{Registered, register};
use crossbeam_epoch::Collector;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// Runs `model` in the interleavings that loom explores with at most `preemptions` preemptions, one
/// more with `RINGLOG_LOOM_DEEP` set, and prints how many those were.
pub(crate) fn explore(name: &str, preemptions: usize, model: impl Fn() + Send + Sync + 'static) {
    let preemptions = preemptions + usize::from(std::env::var_os("RINGLOG_LOOM_DEEP").is_some());
    let executions = Arc::new(AtomicU64::new(0));
    let counted = Arc::clone(&executions);
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound = Some(preemptions);
    let start = std::time::Instant::now();
    builder.check(move || {
        counted.fetch_add(1, Ordering::Relaxed);
        model();
    });
    let executions = executions.load(Ordering::Relaxed);
    println!("{name}: {executions} executions at preemption bound {preemptions}, {:.1?}", start.elapsed());
}

/// A collector of the model's own, and the calling thread's way into it.
///
/// The process-wide one would start from many more states.
pub(crate) struct Epoch {
    collector: Collector,
}

impl Epoch {
    pub(crate) fn new() -> Self {
        Self { collector: Collector::new() }
    }

    /// The calling thread's pins are pins of this, until what this returns is dropped.
    pub(crate) fn register(&self) -> Registered {
        register(&self.collector)
    }
}
