#![forbid(unsafe_code)]
//! How a log is set up.

use crate::clock::Clock;
use crate::cursor::Incarnation;
use crate::error::ConfigError;
use crate::limits::{MAX_BASE_SEQ, MAX_CAPACITY, MAX_SLOT_SIZE};
use crate::log::ChangeLog;
use crate::ring::{Geometry, MIN_SLOT_SIZE};
use std::sync::Arc;

/// Room for 168 bytes of text in three cache lines: most changes of most applications.
const DEFAULT_SLOT_SIZE: usize = 192;

/// Slots in a segment, at most: 48 KiB of default slots. Larger segments are retired less often and
/// wait longer to be reused.
const MAX_SEGMENT_LEN: usize = 256;

/// What a fresh cursor gets once events have left the window: a bare 0. A cursor at 0 that names
/// the log is not fresh: its reader knows that the log was empty, and gets a resync like any other
/// that missed something.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
#[non_exhaustive]
pub enum StartPolicy {
    /// A [`Resync`](crate::Resync), as any other cursor that the window has left behind: a fresh
    /// client must load the rows first.
    #[default]
    Resync,
    /// The earliest event that is left: for readers that want the latest events and no state.
    Earliest,
}

/// Sets up a [`ChangeLog`].
///
/// # Examples
///
/// ```
/// use ringlog::{ChangeLog, ConfigError, MAX_CAPACITY};
///
/// let log = ChangeLog::builder().capacity(100_000).base_seq(1_000_000).build()?;
/// assert_eq!(log.oldest_seq(), 1_000_001);
///
/// let error = ChangeLog::builder().capacity(usize::MAX).build().unwrap_err();
/// assert_eq!(error, ConfigError::Capacity { given: usize::MAX });
/// assert!(error.to_string().contains(&MAX_CAPACITY.to_string()));
/// # Ok::<(), ConfigError>(())
/// ```
#[derive(Debug, Clone)]
#[must_use = "a builder does nothing until it builds"]
pub struct Builder {
    pub(crate) capacity: usize,
    pub(crate) max_bytes: Option<u64>,
    pub(crate) op_id_capacity: usize,
    pub(crate) max_push_changes: usize,
    pub(crate) base_seq: u64,
    pub(crate) slot_size: usize,
    pub(crate) incarnation: Option<Incarnation>,
    pub(crate) clock: Clock,
    pub(crate) start_policy: StartPolicy,
}

impl Default for Builder {
    fn default() -> Self {
        Self {
            capacity: 10_000,
            max_bytes: None,
            op_id_capacity: 10_000,
            max_push_changes: 10_000,
            base_seq: 0,
            slot_size: DEFAULT_SLOT_SIZE,
            incarnation: None,
            clock: Clock::default(),
            start_policy: StartPolicy::default(),
        }
    }
}

impl Builder {
    /// How many events the log keeps: exactly the last so many. 10,000 unless said otherwise, at
    /// most [`MAX_CAPACITY`].
    ///
    /// With 0 it keeps none: every cursor behind the last seq gets a resync.
    pub fn capacity(mut self, events: usize) -> Self {
        self.capacity = events;
        self
    }

    /// How many bytes of text the log keeps at most: the window is the longest suffix of the log of
    /// at most [`capacity`](Self::capacity) events whose entities, row ids and data sum to at most
    /// so many bytes. No bound unless said otherwise.
    ///
    /// The bound is exact: once all appends have returned, the window holds the events that this
    /// sentence names. While an append is under way, the window may also hold its events and those
    /// appended since, but never fewer than the bound allows. A reader whose next event was evicted
    /// gets a resync with the reason [`Evicted`](crate::ResyncReason::Evicted), as with the bound
    /// by count. An event that is longer than the bound by itself evicts all events before it and
    /// itself.
    ///
    /// Memory follows: the heap blocks of long texts (see [`slot_size`](Self::slot_size)) are freed
    /// soon after their events are evicted, not when their slots are used again. The window takes
    /// `capacity` slots, at most `bytes` in blocks, some 60 bytes for each block, and up to 8 bytes
    /// an event; besides, up to 64 KiB of evicted blocks wait to be freed, 64 KiB a thread for its
    /// next long texts, and what was evicted while a [`Events`](crate::Events) lives.
    ///
    /// # Complexity
    /// With a bound, an append also pins the collector, and counts what was published since the
    /// last one did. Without, it does nothing for it.
    ///
    /// ```
    /// use ringlog::{Change, ChangeLog};
    ///
    /// let log = ChangeLog::builder().max_bytes(100).build()?;
    /// for row_id in ["a", "b", "c"] {
    ///     log.append_change(&Change::insert("Todo", &row_id.repeat(40)));
    /// }
    /// let stats = log.stats();
    /// assert_eq!((log.oldest_seq(), log.len()), (2, 2));
    /// assert_eq!(stats.retained_bytes, Some(88));
    /// # Ok::<(), ringlog::ConfigError>(())
    /// ```
    pub fn max_bytes(mut self, bytes: u64) -> Self {
        self.max_bytes = Some(bytes);
        self
    }

    /// How many completed op ids the log remembers. 10,000 unless said otherwise, at most
    /// [`MAX_CAPACITY`].
    ///
    /// With 0 it remembers none, and only keeps two threads from applying the same operation at the
    /// same time.
    ///
    /// Take it larger than what clients may push between an operation and its repetition. An op id
    /// of up to 77 bytes, its client's id included, takes 200 to 270 bytes, its share of the tables
    /// included; a longer one its length besides. The tables are made when the first id is claimed,
    /// remembered or restored: a log without op ids takes nothing for them.
    pub fn op_id_capacity(mut self, op_ids: usize) -> Self {
        self.op_id_capacity = op_ids;
        self
    }

    /// How many changes a [`PushRequest`](crate::PushRequest) may have. 10,000 unless said
    /// otherwise.
    ///
    /// One with more is refused whole. No more than `op_id_capacity`, if a push is to be
    /// repeatable: of a longer one, the first op ids are forgotten by the time that the last are
    /// remembered.
    pub fn max_push_changes(mut self, changes: usize) -> Self {
        self.max_push_changes = changes;
        self
    }

    /// The seq after which this log starts; 0 unless said otherwise, at most [`MAX_BASE_SEQ`].
    ///
    /// Put above every seq that was handed out before, it makes clients with bare cursors of
    /// earlier lifetimes resync.
    pub fn base_seq(mut self, seq: u64) -> Self {
        self.base_seq = seq;
        self
    }

    /// Bytes that a slot takes, 64 to 4,096, rounded up to whole cache lines of 64; 192 unless said
    /// otherwise.
    ///
    /// A slot has a head of 24 bytes. A record whose entity, row id and data do not fit the rest
    /// has them in a heap block of its own, and is appended at half the speed, or less. The
    /// window's memory is `capacity` slots and those of a few segments of at most 256 slots more.
    ///
    /// ```
    /// use ringlog::{Change, ChangeLog};
    ///
    /// let log = ChangeLog::builder().slot_size(192).build()?;
    /// log.append_change(&Change::insert("Todo", &"t".repeat(192 - 24 - 4)));
    /// assert_eq!(log.stats().spilled_bytes, 0, "it fits");
    /// log.append_change(&Change::insert("Todo", &"t".repeat(192 - 24 - 4 + 1)));
    /// assert!(log.stats().spilled_bytes > 0, "it does not");
    /// # Ok::<(), ringlog::ConfigError>(())
    /// ```
    pub fn slot_size(mut self, bytes: usize) -> Self {
        self.slot_size = bytes;
        self
    }

    /// The log's incarnation; a new random one unless said otherwise. For a log that goes on where
    /// a stored one ended.
    pub fn incarnation(mut self, incarnation: Incarnation) -> Self {
        self.incarnation = Some(incarnation);
        self
    }

    /// Where timestamps come from: a function that returns milliseconds since 1970.
    ///
    /// The system's coarse clock unless said otherwise. It is asked once for each append or batch,
    /// before a seq is claimed; what lies after the year 9999 is taken for its end.
    pub fn clock(mut self, clock: impl Fn() -> u64 + Send + Sync + 'static) -> Self {
        self.clock = Clock::Custom(Arc::new(clock));
        self
    }

    /// What a cursor at 0 gets once events have left the window; a resync unless said otherwise.
    pub fn start_policy(mut self, policy: StartPolicy) -> Self {
        self.start_policy = policy;
        self
    }

    /// Builds the log. Memory for events is taken as the window fills, that for op ids from the
    /// first one on.
    ///
    /// # Errors
    /// If a measure is out of its range; the error names it, and the range.
    ///
    /// # Panics
    /// If the operating system has no random bytes for an incarnation.
    pub fn build(self) -> Result<ChangeLog, ConfigError> {
        let Self { capacity, op_id_capacity, base_seq, slot_size, .. } = self;
        if capacity > MAX_CAPACITY {
            return Err(ConfigError::Capacity { given: capacity });
        }
        if op_id_capacity > MAX_CAPACITY {
            return Err(ConfigError::OpIdCapacity { given: op_id_capacity });
        }
        if !(MIN_SLOT_SIZE..=MAX_SLOT_SIZE).contains(&slot_size) {
            return Err(ConfigError::SlotSize { given: slot_size });
        }
        if base_seq > MAX_BASE_SEQ {
            return Err(ConfigError::BaseSeq { given: base_seq });
        }
        Ok(ChangeLog::from_builder(self))
    }

    pub(crate) fn geometry(&self) -> Geometry {
        // About eight segments to a small window, so that the two spare ones are not most of its
        // memory.
        let segment_len = self.capacity.div_ceil(8).next_power_of_two().clamp(4, MAX_SEGMENT_LEN);
        Geometry::new(self.capacity, self.base_seq, segment_len, self.slot_size)
            .with_max_bytes(self.max_bytes)
    }
}
