#![forbid(unsafe_code)]
//! How much of everything there can be.

/// The most events that a log can keep, and the most op ids that it can remember.
pub const MAX_CAPACITY: usize = 1 << 28;

/// The highest seq that a log can start after, 2^52. JavaScript clients count exactly up to 2^53 -
/// 1: that leaves 142 years of a million appends a second.
pub const MAX_BASE_SEQ: u64 = 1 << 52;

/// The longest record: entity, row id and data together, in bytes.
///
/// # Examples
///
/// ```
/// assert_eq!(ringlog::MAX_RECORD_LEN, 1 << 30);
/// ```
pub const MAX_RECORD_LEN: usize = if cfg!(loom) { 64 } else { 1 << 30 };

/// How many events one filtered read examines at most, so that it is bounded however few of them
/// match.
///
/// It is not an error to have found nothing after so many: the cursor has moved past them, and
/// [`Events::has_more`](crate::Events::has_more) says to go on.
pub const MAX_EXAMINED: usize = 16_384;

/// The largest slot, in bytes.
pub(crate) const MAX_SLOT_SIZE: usize = 4096;
