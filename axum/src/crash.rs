//! Points at which tests end the process, as `kill -9` would. In builds with debug assertions only:
//! a release build has none.

/// Which point, and at the so-manieth time: `committed` or `committed:3`.
#[cfg(debug_assertions)]
const CRASH_AT: &str = "RINGLOG_TEST_CRASH_AT";

/// Ends the process if the environment says so.
#[cfg(debug_assertions)]
pub fn point(name: &str) {
    use std::sync::LazyLock;
    use std::sync::atomic::{AtomicU64, Ordering};
    static CHOSEN: LazyLock<Option<(String, AtomicU64)>> = LazyLock::new(|| {
        let text = std::env::var(CRASH_AT).ok()?;
        let (name, turn) = text.split_once(':').unwrap_or((&text, "1"));
        Some((name.to_owned(), AtomicU64::new(turn.parse().ok()?)))
    });
    if let Some((chosen, turns)) = &*CHOSEN
        && chosen == name
        && turns.fetch_sub(1, Ordering::Relaxed) == 1
    {
        std::process::abort();
    }
}

#[cfg(not(debug_assertions))]
#[inline]
pub fn point(_name: &str) {}
