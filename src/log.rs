#![forbid(unsafe_code)]
//! The log: one front for ring, records and op ids.

use crate::append;
use crate::builder::{Builder, StartPolicy};
use crate::clock::{Clock, LAST_MILLISECOND};
use crate::cursor::{Cursor, Incarnation, SyncCursor};
use crate::dedup::{OpClaim, OpId, OpMemory};
use crate::error::{Conflict, PullError, RestoreError, Resync, ResyncReason};
use crate::event::{Change, Meta};
use crate::events::Events;
use crate::fingerprint::Fingerprint;
use crate::kind::ChangeKind;
#[cfg(feature = "profile")]
use crate::profile::{LatencySnapshot, Operation, Profile};
use crate::query::Query;
use crate::ring::{Missed, Ring};
use crate::stats::Stats;
use crate::sync::{AtomicU64, Ordering};
use crate::wait::{WaitQueue, Watched};
use crate::wire::{PullResponse, PullSummary};
use crossbeam_utils::CachePadded;
use serde_json::Value;
use std::ops::{Range, RangeInclusive};
use std::panic::{RefUnwindSafe, UnwindSafe};

/// A log of the latest changes: any number of threads append, any number read, none waits for
/// another.
///
/// Each change gets the next sequence number. The log keeps exactly the last `capacity` of them;
/// a reader that asks for what came before is told to [`Resync`]. Share it in an `Arc`.
///
/// # Examples
///
/// ```
/// use ringlog::{ChangeKind, ChangeLog, SyncCursor};
/// use serde_json::json;
///
/// let log = ChangeLog::new();
/// let seq = log.append("Todo", "t1", ChangeKind::Insert, Some(json!({"title": "write it down"})));
/// assert_eq!(seq, 1);
///
/// let response = log.pull(&SyncCursor::beginning(), 100)?;
/// assert_eq!(response.changes[0].row_id, "t1");
/// assert_eq!(response.cursor.last_seq, 1);
/// # Ok::<(), ringlog::PullError>(())
/// ```
#[derive(Debug)]
pub struct ChangeLog {
    ring: Ring<Meta>,
    pub(crate) op_ids: OpMemory,
    pub(crate) max_push_changes: usize,
    incarnation: Incarnation,
    clock: Clock,
    start_policy: StartPolicy,
    resyncs: Resyncs,
    /// On cache lines of its own: every append reads from it, and only waiters write to it.
    pub(crate) wait_queue: CachePadded<WaitQueue>,
    #[cfg(feature = "profile")]
    pub(crate) profile: Profile,
}

/// How many reads were refused, by reason.
#[derive(Debug, Default)]
struct Resyncs {
    evicted: AtomicU64,
    ahead: AtomicU64,
    other_log: AtomicU64,
}

/// What can panic (a clock of the user's, a record beyond the limit) does so before a seq is
/// claimed, and leaves the log as it was.
impl RefUnwindSafe for ChangeLog {}
impl UnwindSafe for ChangeLog {}

impl Default for ChangeLog {
    fn default() -> Self {
        Self::new()
    }
}

/// Making a log.
impl ChangeLog {
    /// A log that keeps 10,000 events and remembers 10,000 op ids.
    pub fn new() -> Self {
        Self::from_builder(Builder::default())
    }

    /// A log that keeps `events` events and remembers 10,000 op ids.
    ///
    /// # Panics
    /// If `events` is more than [`MAX_CAPACITY`](crate::MAX_CAPACITY).
    pub fn with_capacity(events: usize) -> Self {
        Self::builder().capacity(events).build().unwrap_or_else(|error| panic!("{error}"))
    }

    /// A log set up in detail.
    pub fn builder() -> Builder {
        Builder::default()
    }

    /// `builder` holds measures in their ranges.
    pub(crate) fn from_builder(builder: Builder) -> Self {
        Self {
            ring: Ring::new(builder.geometry()),
            op_ids: OpMemory::new(builder.op_id_capacity),
            max_push_changes: builder.max_push_changes,
            incarnation: builder.incarnation.unwrap_or_else(Incarnation::random),
            clock: builder.clock,
            start_policy: builder.start_policy,
            resyncs: Resyncs::default(),
            wait_queue: CachePadded::new(WaitQueue::new()),
            #[cfg(feature = "profile")]
            profile: Profile::new(),
        }
    }
}

/// Appending.
impl ChangeLog {
    /// Appends a change. Returns its seq.
    ///
    /// It is visible to every read that begins after this returns, as soon as all earlier seqs are
    /// published: at once, unless another writer stalled half-way.
    ///
    /// # Panics
    /// If entity, row id and data together are longer than
    /// [`MAX_RECORD_LEN`](crate::MAX_RECORD_LEN): before a seq is claimed, the log goes on as if
    /// nothing had been asked.
    ///
    /// # Complexity
    /// Proportional to the change's length. Waits for no other thread: wait-free but for installing
    /// a segment, once in up to 256 appends, which is lock-free. Once the window is full it
    /// allocates a few words for each such segment and nothing else; if changes are too long for a
    /// slot (see [`Builder::slot_size`]), now and then a block for one. With any number of sleeping
    /// followers it wakes four of them at most: they wake the others.
    #[inline]
    pub fn append_change(&self, change: &Change<'_>) -> u64 {
        #[cfg(feature = "profile")]
        let _timed = self.profile.time(Operation::Append);
        let seq = append::one(&self.ring, change, self.clock.now());
        self.wait_queue.published(self);
        seq
    }

    /// Appends changes as one batch: their seqs are contiguous, and readers see all of them or
    /// none, except where a read's limit cuts the batch or the window is shorter than it. Returns
    /// the seqs; for no changes an empty range, which starts after the last seq.
    ///
    /// # Panics
    /// As [`append_change`](Self::append_change), before any seq is claimed: nothing is appended.
    ///
    /// # Complexity
    /// As [`append_change`](Self::append_change) for each change, at a fraction of the fixed cost.
    ///
    /// # Examples
    ///
    /// ```
    /// use ringlog::{Change, ChangeLog};
    ///
    /// let log = ChangeLog::new();
    /// let seqs = log.append_batch(&[Change::delete("Todo", "t1"), Change::delete("Todo", "t2")]);
    /// assert_eq!(seqs, 1..=2);
    /// ```
    pub fn append_batch(&self, changes: &[Change<'_>]) -> RangeInclusive<u64> {
        let seqs = self.append_batch_unannounced(changes, self.now());
        self.announce();
        seqs.start..=seqs.end - 1
    }

    /// Appends changes as one batch if `last_seq` is the last seq handed out, and nothing
    /// otherwise. Returns the seqs, which follow `last_seq`; for no changes an empty range.
    ///
    /// Optimistic concurrency: a writer reads the log up to a cursor, decides, and appends only if
    /// no event has come since. Of any number of writers that name the same seq, one at most
    /// succeeds. Name the seq that was read, [`Cursor::seq`], not [`last_seq`](Self::last_seq):
    /// that may be the seq of an event that the writer has not seen.
    ///
    /// It is also how a replica applies the events of another log while readers read: an event
    /// that is applied already is a conflict, and so is a gap.
    ///
    /// `timestamp_millis` is that of all events of the batch, in milliseconds since 1970; `None`
    /// asks the log's clock.
    ///
    /// # Errors
    /// [`Conflict`] if another seq is the last. The log is as it was.
    ///
    /// # Panics
    /// As [`append_change`](Self::append_change), before any seq is claimed: nothing is appended.
    ///
    /// # Complexity
    /// As [`append_batch`](Self::append_batch): a compare-and-swap takes the place of an addition.
    /// A conflict costs what laying the changes out costs.
    ///
    /// # Examples
    ///
    /// A writer that appends only what it has decided on the latest state:
    ///
    /// ```
    /// use ringlog::{Change, ChangeLog};
    ///
    /// let log = ChangeLog::new();
    /// let seen = log.read(0, 100)?.cursor().seq;
    /// log.append_change(&Change::insert("Todo", "another writer's"));
    ///
    /// let changes = [Change::insert("Todo", "t1")];
    /// let conflict = log.append_batch_if(seen, None, &changes).unwrap_err();
    /// assert_eq!((conflict.expected, conflict.last_seq), (0, 1));
    /// // … read on from `seen`, decide anew …
    /// assert_eq!(log.append_batch_if(conflict.last_seq, None, &changes), Ok(2..=2));
    /// # Ok::<(), ringlog::Resync>(())
    /// ```
    ///
    /// A replica. Its log has the seqs, timestamps and incarnation of the first, so readers can
    /// move from one to the other with the cursors that they have:
    ///
    /// ```
    /// use ringlog::{Change, ChangeLog};
    ///
    /// let primary = ChangeLog::new();
    /// primary.append_batch(&[Change::insert("Todo", "t1"), Change::delete("Todo", "t1")]);
    /// let replica = ChangeLog::builder().incarnation(primary.incarnation()).build()?;
    ///
    /// for event in &primary.read(replica.cursor(), 100)? {
    ///     let mut change = Change::new(event.kind(), event.entity(), event.row_id());
    ///     if let Some(data) = event.data() {
    ///         change = change.with_raw(data);
    ///     }
    ///     replica.append_batch_if(event.seq() - 1, Some(event.timestamp_millis()), &[change])?;
    /// }
    /// assert_eq!(replica.cursor(), primary.cursor());
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn append_batch_if(
        &self,
        last_seq: u64,
        timestamp_millis: Option<u64>,
        changes: &[Change<'_>],
    ) -> Result<RangeInclusive<u64>, Conflict> {
        #[cfg(feature = "profile")]
        let _timed = self.profile.time(Operation::AppendBatch);
        let timestamp = timestamp_millis.map_or_else(|| self.now(), |millis| millis.min(LAST_MILLISECOND));
        let seqs = append::batch_if(&self.ring, last_seq, changes, timestamp)
            .map_err(|actual| Conflict { expected: last_seq, last_seq: actual })?;
        self.announce();
        Ok(seqs.start..=seqs.end - 1)
    }

    /// What the log's clock says.
    pub(crate) fn now(&self) -> u64 {
        self.clock.now()
    }

    /// Appends a change with a timestamp taken before. Waiters are not woken:
    /// [`announce`](Self::announce) does that.
    pub(crate) fn append_unannounced(&self, change: &Change<'_>, timestamp: u64) -> u64 {
        #[cfg(feature = "profile")]
        let _timed = self.profile.time(Operation::Append);
        append::one(&self.ring, change, timestamp)
    }

    /// As [`append_unannounced`](Self::append_unannounced), of changes as one batch. Returns their
    /// seqs.
    pub(crate) fn append_batch_unannounced(&self, changes: &[Change<'_>], timestamp: u64) -> Range<u64> {
        #[cfg(feature = "profile")]
        let _timed = self.profile.time(Operation::AppendBatch);
        append::batch(&self.ring, changes, timestamp)
    }

    /// Wakes waiters for what was just appended. Runs foreign code, wakers, and does not panic.
    pub(crate) fn announce(&self) {
        self.wait_queue.published(self);
    }
}

/// Going on with a stored log.
impl ChangeLog {
    /// Puts a stored event back: with its seq, its timestamp and its text as it was.
    ///
    /// A log that goes on where an earlier process ended is built with the stored
    /// [`incarnation`](Builder::incarnation), and with the seq before the oldest stored event as
    /// its [`base_seq`](Builder::base_seq) (or with the last seq ever handed out, if no event is
    /// stored). Then the events are put back, the oldest first, and their op ids with
    /// [`restore_op_id`](Self::restore_op_id). Readers go on with the cursors that they have,
    /// provided that every event which any of them can have seen was stored before: commit first,
    /// append after.
    ///
    /// Takes the log as `&mut`: no thread can read it half restored, nor append in between.
    ///
    /// # Errors
    /// [`RestoreError`] if another seq comes next. The log is as it was.
    ///
    /// # Panics
    /// As [`append_change`](Self::append_change), for a record that is too long.
    ///
    /// # Complexity
    /// As [`append_change`](Self::append_change).
    ///
    /// # Examples
    ///
    /// ```
    /// use ringlog::{Change, ChangeLog, Fingerprint};
    ///
    /// let earlier = ChangeLog::new();
    /// earlier.append_change(&Change::insert("Todo", "t1"));
    /// let client = earlier.cursor();
    /// earlier.append_change(&Change::delete("Todo", "t1"));
    ///
    /// // What was stored: the incarnation and two events, the second with an op id.
    /// let mut log = ChangeLog::builder().incarnation(earlier.incarnation()).base_seq(0).build()?;
    /// log.restore(1, 1_795_331_340_123, &Change::insert("Todo", "t1"))?;
    /// log.restore(2, 1_795_331_340_456, &Change::delete("Todo", "t1"))?;
    /// let fingerprint = Fingerprint::of(&Change::delete("Todo", "t1"));
    /// log.restore_op_id(Some("phone"), "op-7", 2, Some(fingerprint));
    ///
    /// assert_eq!(log.read(client, 100)?.iter().next().unwrap().seq(), 2);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn restore(
        &mut self,
        seq: u64,
        timestamp_millis: u64,
        change: &Change<'_>,
    ) -> Result<(), RestoreError> {
        // Seq 0 is before every log: nothing can come before it, and the difference is no seq.
        let before = seq.wrapping_sub(1);
        match self.append_batch_if(before, Some(timestamp_millis), std::slice::from_ref(change)) {
            Ok(_) => Ok(()),
            Err(Conflict { last_seq, .. }) => Err(RestoreError { expected: last_seq + 1, given: seq }),
        }
    }

    /// Puts a stored op id back as completed, with the seq of its event: a push of it will be
    /// answered with that.
    ///
    /// To be called in the order in which they were completed, for the oldest are forgotten first:
    /// that of the seqs, as far as one thread did all of it. `client_id` is that of the
    /// [`PushRequest`](crate::PushRequest), `None` for the ids of
    /// [`claim_op_id`](Self::claim_op_id). `fingerprint` is that of the change, as the
    /// [`PushClaim`](crate::PushClaim) had it; an id without one is answered as a replay whatever
    /// is pushed under it. An id that is remembered already stays as it is.
    ///
    /// # Complexity
    /// As claiming and completing.
    ///
    /// # Examples
    ///
    /// See [`restore`](Self::restore).
    pub fn restore_op_id(
        &mut self,
        client_id: Option<&str>,
        op_id: &str,
        seq: u64,
        fingerprint: Option<Fingerprint>,
    ) {
        let claim = self.op_ids.claim_change(OpId::scoped(client_id, op_id), fingerprint);
        if let Ok(OpClaim::Proceed(guard)) = claim {
            guard.complete(seq);
        }
    }
}

/// Reading.
impl ChangeLog {
    /// The events after a cursor, in place: a contiguous run of at most `limit`, up to the first
    /// that is not published yet.
    ///
    /// `query` is a limit, or a [`Query`] for the events of some entities only, or for at most so
    /// many bytes.
    ///
    /// # Errors
    /// [`Resync`] if the events after the cursor have left the window, or if the cursor is not of
    /// this log.
    ///
    /// # Complexity
    /// Proportional to the number of events returned, whatever the capacity; with a filter or a
    /// bound in bytes, to the number examined, at most [`MAX_EXAMINED`](crate::MAX_EXAMINED).
    /// Allocates where the events lie in more than one segment of the ring (256 events, fewer in
    /// small windows), a pointer for each, and where events are examined, a number for each that is
    /// returned. Wait-free but for that, and for a cursor at 0 under [`StartPolicy::Earliest`],
    /// which is tried again a few times when writers go round the whole window meanwhile.
    ///
    /// # Examples
    ///
    /// See [`Events`].
    pub fn read<'q>(
        &self,
        cursor: impl Into<Cursor>,
        query: impl Into<Query<'q>>,
    ) -> Result<Events<'_>, Resync> {
        #[cfg(feature = "profile")]
        let _timed = self.profile.time(Operation::Read);
        self.read_from(cursor.into(), query.into())
    }

    /// What all reads come down to.
    #[inline]
    fn read_from(&self, cursor: Cursor, query: Query<'_>) -> Result<Events<'_>, Resync> {
        let limit = Events::chunk(&query);
        if cursor.incarnation.is_some_and(|incarnation| incarnation != self.incarnation) {
            let oldest = self.oldest_seq();
            return Err(self.resync(ResyncReason::OtherLog, &self.resyncs.other_log, cursor.seq, oldest));
        }
        // A cursor at 0 that names this log is not fresh: its reader has seen that the log was
        // empty.
        let fresh = cursor == Cursor::from(0) && self.start_policy == StartPolicy::Earliest;
        let mut incarnation = Some(self.incarnation);
        let run = match self.ring.read(cursor.seq, limit) {
            Err(Missed::Evicted(_)) if fresh => {
                // A reader that asks for nothing has seen nothing, and stays fresh.
                incarnation = incarnation.filter(|_| limit > 0);
                Ok(self.ring.read_earliest(limit))
            }
            result => result,
        };
        match run {
            Ok(run) if query.examines() => Ok(Events::pick(run, incarnation, &query)),
            Ok(run) => Ok(Events::new(run, incarnation)),
            Err(Missed::Evicted(window)) => {
                Err(self.resync(ResyncReason::Evicted, &self.resyncs.evicted, cursor.seq, window.oldest))
            }
            Err(Missed::Ahead(window)) => {
                Err(self.resync(ResyncReason::Ahead, &self.resyncs.ahead, cursor.seq, window.last + 1))
            }
        }
    }

    /// Appends to `out` the JSON of the [`PullResponse`] for the events after a cursor, as many as
    /// `query` wants.
    ///
    /// Each event's data is copied as the text that was appended, so the bytes equal
    /// `serde_json::to_vec` of what [`pull`](Self::pull) returns wherever that text is what
    /// `serde_json` writes for its [`Value`]: always after [`append`](Self::append), unless the
    /// value is nested too deep to parse. Text given to [`Change::with_raw`] goes out with its own
    /// spaces, key order and numbers.
    ///
    /// # Errors
    /// As [`read`](Self::read); `out` is left as it was.
    ///
    /// # Complexity
    /// As [`read`](Self::read), and the copying. No [`Value`] is built.
    ///
    /// # Examples
    ///
    /// ```
    /// use ringlog::{ChangeKind, ChangeLog, SyncCursor};
    ///
    /// let log = ChangeLog::new();
    /// log.append("Todo", "t1", ChangeKind::Delete, None);
    /// let mut body = Vec::new();
    /// let summary = log.pull_json(0, 100, &mut body).unwrap();
    /// assert_eq!(summary.cursor, log.cursor());
    /// assert_eq!(body, serde_json::to_vec(&log.pull(&SyncCursor::beginning(), 100).unwrap())?);
    /// # Ok::<(), serde_json::Error>(())
    /// ```
    pub fn pull_json<'q>(
        &self,
        cursor: impl Into<Cursor>,
        query: impl Into<Query<'q>>,
        out: &mut Vec<u8>,
    ) -> Result<PullSummary, Resync> {
        #[cfg(feature = "profile")]
        let _timed = self.profile.time(Operation::PullJson);
        let events = self.read_from(cursor.into(), query.into())?;
        events.write_json(out);
        Ok(PullSummary { count: events.len(), cursor: events.cursor(), has_more: events.has_more() })
    }

    #[cold]
    fn resync(&self, reason: ResyncReason, count: &AtomicU64, requested: u64, oldest_seq: u64) -> Resync {
        count.fetch_add(1, Ordering::Relaxed);
        Resync { reason, requested, oldest_seq, head: self.head(), incarnation: self.incarnation }
    }
}

impl Resync {
    /// The answer of a compacted history that can be read from `oldest_seq` on, to a reader at
    /// `requested`: see [`Compacted`](ResyncReason::Compacted).
    ///
    /// For programs that keep such a history of a log in a database of their own.
    pub fn compacted(log: &ChangeLog, requested: u64, oldest_seq: u64) -> Self {
        let (head, incarnation) = (log.head(), log.incarnation());
        Self { reason: ResyncReason::Compacted, requested, oldest_seq, head, incarnation }
    }
}

impl Watched for ChangeLog {
    fn wait_queue(&self) -> &WaitQueue {
        &self.wait_queue
    }

    fn head(&self) -> u64 {
        self.head()
    }

    fn last(&self) -> u64 {
        self.last_seq()
    }
}

/// Where the log stands.
impl ChangeLog {
    /// The highest seq below which nothing is unpublished: what a reader that has read everything
    /// has as its cursor.
    ///
    /// # Complexity
    /// Proportional to the events published since anyone last asked, at most the capacity.
    pub fn head(&self) -> u64 {
        self.ring.head()
    }

    /// Where a reader stands that has read everything: [`head`](Self::head), and the log's
    /// incarnation.
    ///
    /// For a client that starts from the rows: take this first, load the rows second, read on from
    /// here third.
    ///
    /// ```
    /// let log = ringlog::ChangeLog::new();
    /// assert!(log.read(log.cursor(), 100)?.is_empty());
    /// # Ok::<(), ringlog::Resync>(())
    /// ```
    pub fn cursor(&self) -> Cursor {
        Cursor::new(self.head(), Some(self.incarnation))
    }

    /// The highest seq handed out. Its event, and some before it, may not be published yet.
    pub fn last_seq(&self) -> u64 {
        self.ring.last()
    }

    /// The oldest seq in the window; `last_seq() + 1` when there is none.
    pub fn oldest_seq(&self) -> u64 {
        self.ring.window().oldest
    }

    /// The log's incarnation.
    pub fn incarnation(&self) -> Incarnation {
        self.incarnation
    }

    /// How many seqs are in the window.
    pub fn len(&self) -> usize {
        let window = self.ring.window();
        (window.last + 1 - window.oldest) as usize
    }

    /// Whether the window is empty.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The log's counters.
    ///
    /// # Complexity
    /// As [`head`](Self::head).
    pub fn stats(&self) -> Stats {
        let head = self.head();
        let window = self.ring.window();
        let memory = self.ring.memory();
        let ops = self.op_ids.tally();
        Stats {
            appended: window.last - self.ring.geometry().base_seq(),
            superseded: self.ring.superseded(),
            retained: window.last + 1 - window.oldest,
            retained_bytes: self.ring.retained_bytes(),
            head,
            oldest: window.oldest,
            unpublished: window.last.saturating_sub(head),
            resyncs_evicted: self.resyncs.evicted.load(Ordering::Relaxed),
            resyncs_ahead: self.resyncs.ahead.load(Ordering::Relaxed),
            resyncs_other_log: self.resyncs.other_log.load(Ordering::Relaxed),
            segments_allocated: memory.allocated,
            segments_live: memory.allocated.saturating_sub(memory.pooled + memory.awaiting),
            segments_pooled: memory.pooled,
            segments_awaiting_reclaim: memory.awaiting,
            slot_bytes: memory.allocated * memory.segment_bytes,
            op_ids_completed: ops.completed,
            op_claims_forgotten: ops.forgotten,
            op_claims_replayed: ops.replayed,
            op_claims_mismatched: ops.mismatched,
            op_claims_in_flight: ops.in_flight,
            op_filter_false_positives: ops.false_positives,
            spilled_bytes: memory.spilled_bytes,
            waiters: self.wait_queue.sleeping(),
        }
    }
}

#[cfg(feature = "profile")]
/// Observing how long operations take (feature `profile`).
impl ChangeLog {
    /// How long this log's appends and reads have taken since it was made: one in
    /// [`LatencySnapshot::ONE_IN`] is timed, on whatever thread.
    ///
    /// Only with the feature `profile`. Waits for nothing but samples being put down; delays no
    /// other thread.
    ///
    /// # Complexity
    /// Merges up to 16 × 5 histograms of 4,608 counters, whatever they counted, into 180 KiB in
    /// what is returned.
    ///
    /// # Examples
    ///
    /// ```
    /// use ringlog::{Change, ChangeLog, LatencySnapshot};
    ///
    /// let log = ChangeLog::new();
    /// for _ in 0..100 * LatencySnapshot::ONE_IN {
    ///     log.append_change(&Change::delete("Todo", "t1"));
    /// }
    /// let latency = log.latency();
    /// assert_eq!(latency.append.count, 100);
    /// assert!(latency.append.p50 <= latency.append.p99);
    /// assert_eq!(latency.append.p99_9, None, "100 samples cannot tell it from the maximum");
    ///
    /// println!("{latency}"); // a table for people
    /// let for_tools = latency.hdr_log(); // an HDR interval log
    /// assert!(for_tools.contains("Tag=append,"));
    /// ```
    pub fn latency(&self) -> LatencySnapshot {
        self.profile.snapshot()
    }
}

/// Op ids.
impl ChangeLog {
    /// Claims an op id: of any number of threads that ask at a time, one is told to
    /// [proceed](OpClaim::Proceed) and apply the operation.
    ///
    /// The others are told that the id is [in flight](OpClaim::InFlight) until the first one's
    /// [`OpGuard`](crate::OpGuard) is completed, and from then on, for as long as the id is among
    /// the last `op_id_capacity` completed ones, that it was [replayed](OpClaim::Replayed), with
    /// the first result. A guard that is dropped gives the id free again.
    ///
    /// Ids are compared byte for byte, whatever their length. Clients choose them: put something of
    /// the client into the id, as [`push`](Self::push) does, or one client's ids are another's.
    ///
    /// # Complexity
    /// Lock-free; proportional to the id's length, whatever the capacity. One allocation if it
    /// proceeds. The log's first id also makes the tables, of zeroed memory that is not touched.
    ///
    /// # Examples
    ///
    /// ```
    /// use ringlog::{Change, ChangeLog, OpClaim};
    ///
    /// let log = ChangeLog::new();
    /// let apply_once = |op_id: &str| match log.claim_op_id(op_id) {
    ///     OpClaim::Proceed(guard) => {
    ///         // Write to the database here; a return on an error drops the guard.
    ///         let seq = log.append_change(&Change::insert("Todo", "t1"));
    ///         guard.complete(seq);
    ///         Some(seq)
    ///     }
    ///     OpClaim::Replayed { seq } => Some(seq),
    ///     OpClaim::InFlight => None, // try again later
    /// };
    /// assert_eq!(apply_once("op-1"), Some(1));
    /// assert_eq!(apply_once("op-1"), Some(1));
    /// assert_eq!(log.len(), 1);
    /// ```
    pub fn claim_op_id(&self, op_id: &str) -> OpClaim<'_> {
        self.op_ids.claim_op(OpId::bare(op_id))
    }
}

/// Compatibility with pylon-sync.
///
/// These calls have its names and its types, beside [`new`](Self::new),
/// [`with_capacity`](Self::with_capacity), [`len`](Self::len) and [`is_empty`](Self::is_empty). New
/// programs are better served by [`append_change`](Self::append_change), [`read`](Self::read) or
/// [`pull_json`](Self::pull_json), and [`claim_op_id`](Self::claim_op_id).
impl ChangeLog {
    /// A log that answers as pylon-sync 0.3 does: it keeps `events` events, and serves a cursor at
    /// 0 what is left of the window. [`new`](Self::new) and [`with_capacity`](Self::with_capacity)
    /// answer as 0.2.3 does: a resync, once events have left the window.
    ///
    /// The same as [`StartPolicy::Earliest`] in a [`builder`](Self::builder). In this mode a fresh
    /// client is not told that rows are missing: give it the rows from elsewhere, or keep all that
    /// it needs in the window. The other mode needs clients that load the rows on a resync: one
    /// that only resets its cursor to 0 and pulls again is refused for ever.
    ///
    /// # Panics
    /// If `events` is more than [`MAX_CAPACITY`](crate::MAX_CAPACITY).
    ///
    /// # Complexity
    /// As [`new`](Self::new).
    ///
    /// # Examples
    ///
    /// ```
    /// use ringlog::{ChangeKind, ChangeLog, PullError, SyncCursor};
    ///
    /// let (as_0_2, as_0_3) = (ChangeLog::with_capacity(2), ChangeLog::pylon_0_3(2));
    /// for log in [&as_0_2, &as_0_3] {
    ///     for row in ["a", "b", "c"] {
    ///         log.append("Todo", row, ChangeKind::Insert, None);
    ///     }
    /// }
    /// let refused = as_0_2.pull(&SyncCursor::beginning(), 10);
    /// assert!(matches!(refused, Err(PullError::ResyncRequired { oldest_seq: 2, .. })));
    /// assert_eq!(as_0_3.pull(&SyncCursor::beginning(), 10)?.changes[0].seq, 2);
    /// # Ok::<(), PullError>(())
    /// ```
    pub fn pylon_0_3(events: usize) -> Self {
        let builder = Self::builder().capacity(events).start_policy(StartPolicy::Earliest);
        builder.build().unwrap_or_else(|error| panic!("{error}"))
    }

    /// Appends a change. Returns its seq.
    ///
    /// The call of pylon-sync. [`append_change`](Self::append_change) takes JSON text, and any type
    /// that serialises.
    ///
    /// # Panics
    /// If entity, row id and data together are longer than
    /// [`MAX_RECORD_LEN`](crate::MAX_RECORD_LEN): before a seq is claimed, the log goes on as if
    /// nothing had been asked.
    ///
    /// # Complexity
    /// As [`append_change`](Self::append_change).
    #[expect(clippy::needless_pass_by_value, reason = "the signature of pylon-sync")]
    pub fn append(&self, entity: &str, row_id: &str, kind: ChangeKind, data: Option<Value>) -> u64 {
        let change = Change::new(kind, entity, row_id);
        match &data {
            Some(value) => self.append_change(&change.with_value(value)),
            None => self.append_change(&change),
        }
    }

    /// The events after a cursor, at most `limit`, owned.
    ///
    /// The call of pylon-sync: copies every string and parses every event's data.
    /// [`read`](Self::read) does neither, and [`pull_json`](Self::pull_json) writes the JSON that
    /// this would be turned into.
    ///
    /// # Errors
    /// [`PullError::ResyncRequired`] if the events after the cursor have left the window, or if the
    /// cursor lies ahead of the log.
    ///
    /// # Complexity
    /// As [`read`](Self::read), and the copying.
    pub fn pull(&self, cursor: &SyncCursor, limit: usize) -> Result<PullResponse, PullError> {
        #[cfg(feature = "profile")]
        let _timed = self.profile.time(Operation::Pull);
        Ok(self.read_from(cursor.into(), limit.into())?.to_response())
    }

    /// Whether this op id is among the last `op_id_capacity` that were completed. One that is in
    /// flight is not.
    ///
    /// The last are those of the last tickets: while another thread completes an id, that id may
    /// not be seen yet and the one that it expires no longer. See
    /// [guarantees](crate::docs::guarantees#op-ids-are-remembered-by-ticket).
    ///
    /// # Complexity
    /// Wait-free; proportional to the id's length, whatever the capacity. Nearly always the answer
    /// "no" is found in one cache line.
    pub fn has_seen_op_id(&self, op_id: &str) -> bool {
        self.op_ids.has_seen(OpId::bare(op_id))
    }

    /// Remembers an op id as completed. Does nothing if it is remembered already: it does not
    /// become younger by that.
    ///
    /// The call of pylon-sync, for callers without a claim. Asking
    /// [`has_seen_op_id`](Self::has_seen_op_id) first and remembering afterwards lets two threads
    /// apply the same operation; [`claim_op_id`](Self::claim_op_id) does not. If a claim on the id
    /// is in flight, it is left to that claim whether the id will be completed.
    pub fn remember_op_id(&self, op_id: &str) {
        self.op_ids.remember(OpId::bare(op_id));
    }
}
