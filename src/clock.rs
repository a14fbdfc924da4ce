#![forbid(unsafe_code)]
//! What time it is, and how that is written.

use std::sync::Arc;
use std::time::{Duration, UNIX_EPOCH};

/// The last millisecond that RFC 3339 can write: the end of the year 9999.
pub(crate) const LAST_MILLISECOND: u64 = 253_402_300_799_999;

/// Where timestamps come from.
#[derive(Clone, Default)]
pub(crate) enum Clock {
    /// The system's coarse clock: a few milliseconds late at most, and several times cheaper than
    /// the exact one.
    #[default]
    Coarse,
    Custom(Arc<dyn Fn() -> u64 + Send + Sync>),
}

impl Clock {
    /// Milliseconds since 1970.
    #[inline]
    pub(crate) fn now(&self) -> u64 {
        match self {
            Self::Coarse => coarse_now(),
            Self::Custom(clock) => clock().min(LAST_MILLISECOND),
        }
    }
}

impl std::fmt::Debug for Clock {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Coarse => "Coarse",
            Self::Custom(_) => "Custom",
        })
    }
}

#[cfg(target_os = "linux")]
#[inline]
fn coarse_now() -> u64 {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::RealtimeCoarse);
    in_the_calendar(now.tv_sec, now.tv_nsec)
}

/// The milliseconds of a `timespec`, held to the years that a timestamp can be written for: a clock
/// set before 1970 reads as 1970, one set after the year 9999 as its last millisecond.
#[cfg(target_os = "linux")]
#[inline]
fn in_the_calendar(seconds: i64, nanos: i64) -> u64 {
    let unsigned = seconds.cast_unsigned();
    if unsigned <= LAST_MILLISECOND / 1000 {
        unsigned * 1000 + nanos.cast_unsigned() / 1_000_000
    } else if seconds < 0 {
        0
    } else {
        LAST_MILLISECOND
    }
}

#[cfg(not(target_os = "linux"))]
fn coarse_now() -> u64 {
    let since_1970 = std::time::SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since_1970.as_millis()).unwrap_or(u64::MAX).min(LAST_MILLISECOND)
}

/// A timestamp as text: RFC 3339, UTC, milliseconds.
pub(crate) fn rfc3339(millis: u64) -> String {
    humantime::format_rfc3339_millis(UNIX_EPOCH + Duration::from_millis(millis)).to_string()
}

/// Writes timestamps, remembering the last: most events of a batch share their second.
#[derive(Debug, Default)]
pub(crate) struct Rfc3339 {
    /// The second that `text` stands for. Empty text stands for none.
    second: u64,
    text: String,
}

impl Rfc3339 {
    /// `millis` as text.
    #[inline]
    pub(crate) fn text(&mut self, millis: u64) -> &str {
        let second = millis / 1000;
        if second != self.second || self.text.is_empty() {
            self.second = second;
            self.text = rfc3339(second * 1000);
        }
        let digits = (millis % 1000) as u16;
        self.text.truncate("2026-11-22T07:09:00.".len());
        for digit in [digits / 100, digits / 10 % 10, digits % 10] {
            self.text.push(char::from(b'0' + digit as u8));
        }
        self.text.push('Z');
        &self.text
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_timestamp_is_rfc_3339_with_milliseconds() {
        assert_eq!(rfc3339(0), "1970-01-01T00:00:00.000Z");
        assert_eq!(rfc3339(1_795_331_340_123), "2026-11-22T07:09:00.123Z");
        assert_eq!(rfc3339(LAST_MILLISECOND), "9999-12-31T23:59:59.999Z");
    }

    #[test]
    fn a_custom_clock_cannot_leave_the_calendar() {
        let clock = Clock::Custom(Arc::new(|| u64::MAX));
        assert_eq!(clock.now(), LAST_MILLISECOND);
    }

    /// The system's clock is as free as a custom one: a timestamp after the year 9999 cannot be
    /// written at all.
    #[cfg(target_os = "linux")]
    #[test]
    fn the_system_clock_cannot_leave_the_calendar() {
        let cases = [
            (i64::MIN, 0, 0),
            (-1, 999_999_999, 0),
            (0, 0, 0),
            (1_795_331_340, 123_999_999, 1_795_331_340_123),
            (253_402_300_799, 999_999_999, LAST_MILLISECOND),
            (253_402_300_800, 0, LAST_MILLISECOND),
            (i64::MAX, 999_999_999, LAST_MILLISECOND),
        ];
        for (seconds, nanos, millis) in cases {
            assert_eq!(in_the_calendar(seconds, nanos), millis, "{seconds} s and {nanos} ns");
        }
    }

    #[test]
    fn the_coarse_clock_agrees_with_the_exact_one() {
        let exact = || {
            std::time::SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970").as_millis() as u64
        };
        let (before, coarse, after) = (exact(), Clock::Coarse.now(), exact());
        assert!(coarse + 1000 > before && coarse <= after, "{before} {coarse} {after}");
    }

    proptest! {
        #[test]
        fn the_remembered_second_changes_nothing(times in prop::collection::vec(0..=LAST_MILLISECOND, 1..20), step in 0_u64..3000) {
            let mut writer = Rfc3339::default();
            for time in times.into_iter().flat_map(|t| [t, (t + step).min(LAST_MILLISECOND)]) {
                prop_assert_eq!(writer.text(time), rfc3339(time));
            }
        }
    }
}
