#![forbid(unsafe_code)]
//! What a log has done and what it holds, in plain numbers.

use serde::Serialize;

/// A log's counters, taken one after the other while others go on: each is true, together they may
/// be a moment apart.
///
/// Counting costs appends and reads nothing: what is counted on the way is counted where something
/// rare happens anyway.
///
/// # Examples
///
/// ```
/// use ringlog::{Change, ChangeLog};
///
/// let log = ChangeLog::with_capacity(2);
/// for row in ["a", "b", "c"] {
///     log.append_change(&Change::delete("Todo", row));
/// }
/// let stats = log.stats();
/// assert_eq!((stats.appended, stats.retained, stats.oldest, stats.head), (3, 2, 2, 3));
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize)]
#[non_exhaustive]
pub struct Stats {
    /// Seqs handed out.
    pub appended: u64,
    /// Of these, events that were dropped unwritten, because the segment of their seq had been
    /// replaced: their writer had stalled for a whole lap, or the batch that they came in was
    /// longer than the window. A writer that is late by less writes its event where no read looks
    /// any more, and is not counted.
    pub superseded: u64,
    /// Seqs in the window.
    pub retained: u64,
    /// The bytes of the entities, row ids and data of the events in the window, as far as they are
    /// published; `None` without a [bound in bytes](crate::Builder::max_bytes).
    pub retained_bytes: Option<u64>,
    /// The highest seq below which nothing is unpublished.
    pub head: u64,
    /// The oldest seq in the window, `appended + 1` (after the base) when it is empty.
    pub oldest: u64,
    /// Seqs handed out after `head`: what readers cannot see yet, because it or something before it
    /// is still being written. If this grows and `head` stands still, a writer is stalled.
    pub unpublished: u64,
    /// Reads refused because events after their cursor had left the window.
    pub resyncs_evicted: u64,
    /// Reads refused because their cursor lay ahead of the log.
    pub resyncs_ahead: u64,
    /// Reads refused because their cursor named another incarnation.
    pub resyncs_other_log: u64,
    /// Segments allocated: live, pooled and awaiting reclaim.
    pub segments_allocated: u64,
    /// Segments that hold the window.
    pub segments_live: u64,
    /// Segments that wait to be used again.
    pub segments_pooled: u64,
    /// Segments that are out of the window, but that a reader or writer may still be looking at. If
    /// this grows, a [`Events`](crate::Events) of this log is kept.
    pub segments_awaiting_reclaim: u64,
    /// Bytes of slots in all allocated segments.
    pub slot_bytes: u64,
    /// Op ids that were completed, claimed or only remembered.
    pub op_ids_completed: u64,
    /// Claims on op ids that were given up: their guards were dropped.
    pub op_claims_forgotten: u64,
    /// Claims, and [replays](crate::ChangeLog::replay_operations), that were answered with the first
    /// result.
    pub op_claims_replayed: u64,
    /// Claims for another change than the one that the op id was completed for.
    pub op_claims_mismatched: u64,
    /// Claims that were refused because another one on the same id was in flight.
    pub op_claims_in_flight: u64,
    /// Questions after op ids that the filter let through although the id is not remembered. Far
    /// more than one in fifty of those that are asked means that clients ask for ids that were
    /// forgotten just now.
    pub op_filter_false_positives: u64,
    /// Bytes of the heap blocks in which records lie that were too long for their slots. A block
    /// stays with its slot until the slot is written again; with a [bound in
    /// bytes](crate::Builder::max_bytes), until shortly after its event has left the window.
    pub spilled_bytes: u64,
    /// Threads and tasks that wait for a seq to become visible: in
    /// [`blocking_wait_for`](crate::ChangeLog::blocking_wait_for), in
    /// [`wait_for`](crate::ChangeLog::wait_for), or following.
    pub waiters: u64,
}
