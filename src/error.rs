#![forbid(unsafe_code)]
//! What can go wrong, and what to do then.

use crate::cursor::{Cursor, Incarnation, SyncCursor};
use crate::limits::{MAX_BASE_SEQ, MAX_CAPACITY, MAX_SLOT_SIZE};
use crate::ring::MIN_SLOT_SIZE;
use serde::Serialize;
use std::fmt;

/// Why [`ChangeLog::pull`](crate::ChangeLog::pull) has nothing to give, as pylon-sync says it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PullError {
    /// The changes after the cursor cannot be told. Load the rows anew, then pull from the log's
    /// head.
    ResyncRequired {
        /// The oldest seq that can still be pulled.
        oldest_seq: u64,
        /// The cursor that was asked for.
        cursor: SyncCursor,
    },
}

impl fmt::Display for PullError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self::ResyncRequired { oldest_seq, cursor } = self;
        write!(
            f,
            "resync required: cursor {} is out of reach, the oldest event is {oldest_seq}; load the rows anew",
            cursor.last_seq
        )
    }
}

impl std::error::Error for PullError {}

impl From<Resync> for PullError {
    fn from(resync: Resync) -> Self {
        Self::ResyncRequired {
            oldest_seq: resync.oldest_seq,
            cursor: SyncCursor { last_seq: resync.requested },
        }
    }
}

/// The changes after a cursor cannot be told: the reader must load the rows anew and read on from
/// there.
///
/// Asking again with the same cursor does not help: what has left the window does not come back,
/// and the place of a cursor from another log will never be its own here. What does work: load the
/// rows, then read on from [`resume`](Self::resume).
///
/// In JSON: its fields, with the reason as [`as_str`](ResyncReason::as_str) has it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct Resync {
    /// Why.
    pub reason: ResyncReason,
    /// The seq of the cursor that was asked for.
    pub requested: u64,
    /// The oldest seq that can still be read; `last_seq + 1` when none can, or when the cursor lies
    /// ahead.
    pub oldest_seq: u64,
    /// The log's head: the highest seq below which nothing is unpublished.
    pub head: u64,
    /// The log's incarnation.
    pub incarnation: Incarnation,
}

/// Why a reader must [`Resync`].
///
/// In JSON: `"evicted"`, `"ahead"`, `"other_log"`, `"compacted"`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum ResyncReason {
    /// Events after the cursor have left the window.
    Evicted,
    /// The cursor lies after every seq that this log has handed out: it is another log's.
    Ahead,
    /// The cursor names another incarnation.
    OtherLog,
    /// The cursor is older than the oldest tombstone of the compacted history: rows were deleted
    /// after it, and which ones is not known any more.
    Compacted,
}

impl ResyncReason {
    /// A word for logs and wire formats: `"evicted"`, `"ahead"`, `"other_log"`, `"compacted"`.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Evicted => "evicted",
            Self::Ahead => "ahead",
            Self::OtherLog => "other_log",
            Self::Compacted => "compacted",
        }
    }
}

impl Resync {
    /// How many events between the cursor and the oldest one are gone; 0 when the cursor is not of
    /// this log and cannot be known.
    ///
    /// ```
    /// use ringlog::{Change, ChangeLog};
    /// let log = ChangeLog::with_capacity(2);
    /// for row in ["a", "b", "c", "d", "e"] {
    ///     log.append_change(&Change::delete("Todo", row));
    /// }
    /// let resync = log.read(1, 100).unwrap_err();
    /// assert_eq!((resync.oldest_seq, resync.missed()), (4, 2), "2 and 3 are gone");
    /// ```
    pub fn missed(&self) -> u64 {
        match self.reason {
            ResyncReason::Evicted | ResyncReason::Compacted => {
                self.oldest_seq.saturating_sub(self.requested.saturating_add(1))
            }
            ResyncReason::Ahead | ResyncReason::OtherLog => 0,
        }
    }
}

impl Resync {
    /// Where to read on once the rows are loaded anew: the log's head when this answer was given.
    ///
    /// Load the rows *after* you got this, never before: then they hold every change up to here,
    /// perhaps some later ones, which come once more and change nothing.
    ///
    /// ```
    /// use ringlog::{Change, ChangeLog};
    /// let log = ChangeLog::with_capacity(2);
    /// for row in ["a", "b", "c"] {
    ///     log.append_change(&Change::insert("Todo", row));
    /// }
    /// let resync = log.read(0, 100).unwrap_err();
    /// // … load the rows from the database …
    /// assert!(log.read(resync.resume(), 100)?.is_empty());
    /// # Ok::<(), ringlog::Resync>(())
    /// ```
    pub fn resume(&self) -> Cursor {
        Cursor::new(self.head, Some(self.incarnation))
    }
}

impl fmt::Display for Resync {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { requested, oldest_seq, head, incarnation, .. } = self;
        match self.reason {
            ResyncReason::Evicted => write!(
                f,
                "resync required: {} events after seq {requested} have left the window, which starts at {oldest_seq}",
                self.missed()
            )?,
            ResyncReason::Ahead => {
                write!(f, "resync required: seq {requested} lies ahead of the log: it is another log's")?;
            }
            ResyncReason::OtherLog => write!(
                f,
                "resync required: the cursor at seq {requested} belongs to another log than {incarnation}"
            )?,
            ResyncReason::Compacted => write!(
                f,
                "resync required: rows were deleted after seq {requested} whose tombstones are dropped"
            )?,
        }
        write!(f, "; load the rows anew and read on from there (head is {head})")
    }
}

impl std::error::Error for Resync {}

/// Other events were appended meanwhile: the log's last seq is not the one that
/// [`ChangeLog::append_batch_if`](crate::ChangeLog::append_batch_if) was told.
///
/// Nothing was appended. Read what came since, decide anew, and try again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct Conflict {
    /// The last seq that the caller expected.
    pub expected: u64,
    /// The last seq that the log had handed out. Its event may not be visible yet:
    /// [`blocking_wait_for`](crate::ChangeLog::blocking_wait_for) waits for it.
    pub last_seq: u64,
}

impl fmt::Display for Conflict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { expected, last_seq } = self;
        write!(f, "nothing appended: the last seq is {last_seq}, not {expected}")
    }
}

impl std::error::Error for Conflict {}

/// A stored event does not fit where [`ChangeLog::restore`](crate::ChangeLog::restore) is: its seq
/// is not the next one.
///
/// The log is as it was; restoring the event that comes next will do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct RestoreError {
    /// The seq that comes next: the one after the last, or after `base_seq`.
    pub expected: u64,
    /// The seq that was given.
    pub given: u64,
}

impl fmt::Display for RestoreError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { expected, given } = self;
        write!(f, "event {given} cannot be restored here: {expected} comes next")
    }
}

impl std::error::Error for RestoreError {}

/// What [`ChangeLog::blocking_wait_for`](crate::ChangeLog::blocking_wait_for) waited for did not
/// become visible in time.
///
/// Waiting again goes on where this left off: nothing is lost by a time-out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct TimedOut {
    /// The seq that was waited for.
    pub seq: u64,
    /// The log's head at the time-out: less than `seq`.
    pub head: u64,
}

impl fmt::Display for TimedOut {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "timed out waiting for seq {}: head is {}", self.seq, self.head)
    }
}

impl std::error::Error for TimedOut {}

/// What was waited for had not been handed out when the log was [closed](crate::ChangeLog::close).
///
/// Waiting again gives the same answer at once, unless the seq is appended after all.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct Closed {
    /// The seq that was waited for.
    pub seq: u64,
    /// The log's head when this was answered: less than `seq`.
    pub head: u64,
}

impl fmt::Display for Closed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the log was closed before seq {} was appended: head is {}", self.seq, self.head)
    }
}

impl std::error::Error for Closed {}

/// Why [`ChangeLog::blocking_wait_for`](crate::ChangeLog::blocking_wait_for) returns without what
/// it waited for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum WaitError {
    /// The time is up.
    TimedOut(TimedOut),
    /// The log is closed.
    Closed(Closed),
}

impl fmt::Display for WaitError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::TimedOut(timed_out) => timed_out.fmt(f),
            Self::Closed(closed) => closed.fmt(f),
        }
    }
}

impl std::error::Error for WaitError {}

impl From<TimedOut> for WaitError {
    fn from(timed_out: TimedOut) -> Self {
        Self::TimedOut(timed_out)
    }
}

impl From<Closed> for WaitError {
    fn from(closed: Closed) -> Self {
        Self::Closed(closed)
    }
}

/// Why a [`Builder`](crate::Builder) cannot build.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum ConfigError {
    /// `capacity` is more than [`MAX_CAPACITY`].
    Capacity {
        /// What was asked for.
        given: usize,
    },
    /// `op_id_capacity` is more than [`MAX_CAPACITY`].
    OpIdCapacity {
        /// What was asked for.
        given: usize,
    },
    /// `slot_size` is out of range.
    SlotSize {
        /// What was asked for.
        given: usize,
    },
    /// `base_seq` is more than [`MAX_BASE_SEQ`].
    BaseSeq {
        /// What was asked for.
        given: u64,
    },
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Capacity { given } => {
                write!(f, "capacity must be in 0..={MAX_CAPACITY} (MAX_CAPACITY), not {given}")
            }
            Self::OpIdCapacity { given } => {
                write!(f, "op_id_capacity must be in 0..={MAX_CAPACITY} (MAX_CAPACITY), not {given}")
            }
            Self::SlotSize { given } => {
                write!(f, "slot_size must be in {MIN_SLOT_SIZE}..={MAX_SLOT_SIZE} bytes, not {given}")
            }
            Self::BaseSeq { given } => {
                write!(f, "base_seq must be in 0..={MAX_BASE_SEQ} (2^52), not {given}")
            }
        }
    }
}

impl std::error::Error for ConfigError {}
