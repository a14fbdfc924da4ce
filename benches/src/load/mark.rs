//! Events that carry the moment from which their latency is counted.
//!
//! It stands in the row id, which every contender takes as it is. None that is made up looks like
//! one, and a replayed one that does is refused.

use std::time::Instant;

/// What a marked row id begins with.
const SIGN: &str = "@@";

/// Nanoseconds since the run began.
#[derive(Debug, Clone, Copy)]
pub(super) struct Clock(Instant);

impl Clock {
    pub(super) fn start() -> Self {
        Self(Instant::now())
    }

    pub(super) fn now(self) -> u64 {
        self.0.elapsed().as_nanos() as u64
    }
}

/// The row id that carries a moment.
pub(super) fn of(moment: u64) -> String {
    format!("{SIGN}{moment:x}")
}

/// The moment that a row id carries.
pub(super) fn read(row_id: &str) -> Option<u64> {
    u64::from_str_radix(row_id.strip_prefix(SIGN)?, 16).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mark_comes_back_and_nothing_else_is_one() {
        for moment in [0, 1, 1 << 40, u64::MAX] {
            assert_eq!(read(&of(moment)), Some(moment));
        }
        assert_eq!(read("0123"), None);
        assert_eq!(read(""), None);
    }
}
