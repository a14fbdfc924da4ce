#![forbid(unsafe_code)]
//! What is different, for readers whose cursor is older than the window: the latest change of every
//! row, in the order of seqs (feature `history`).

use crate::cursor::Cursor;
use crate::error::{Conflict, Resync};
use crate::event::{Change, EventRef, Meta};
use crate::events::Events;
use crate::json::JsonWriter;
use crate::kind::ChangeKind;
use crate::log::ChangeLog;
use crate::query::{Filter, Query};
use imbl::{OrdMap, OrdSet};
use std::iter;
use std::ops::{Bound, Range};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// A log's history, compacted: of every row the latest change, each once, in the order of seqs.
///
/// The window of a [`ChangeLog`] answers what has happened since a cursor, as long as that is not
/// too old. A reader that keeps rows asks less: what is different. This answers it from any cursor,
/// so that such a reader never has to load all rows anew. A row that is deleted leaves a
/// *tombstone*, whose seq and time are those of the delete; what data that had is not kept.
///
/// It is fed with the log's events ([`apply`](Self::apply)), or with the changes before they are
/// appended ([`commit`](Self::commit)). A [`read`](Self::read) gives the changes after a cursor
/// that lie behind the window, and leads to a cursor within it. **The rows of a reader that applies
/// what it gets, in order, are those of the writer**:
///
/// 1. A read after the cursor `c` gives every entry with a seq between `c` and its end `e`, as of
///    one moment.
/// 2. Let `s` be the seq of a row's latest change, and `s <= c` at that moment. When the reader's
///    cursor passed `s`, this change was in the history, for every read ends at a seq that the
///    history of its moment has reached. It was the row's latest change then, for it still is. So
///    the reader got it.
/// 3. A row that changes between two reads gets a seq above the log's last one, hence above the
///    reader's cursor: it is read later.
///
/// By induction the reader has all rows whose latest change is at or before its cursor, and the
/// log's window goes on from there. Tombstones are part of this: a delete that is forgotten could
/// not be told. So each tombstone that is dropped raises
/// [`oldest_compacted_seq`](History::oldest_compacted_seq), and a cursor before it gets a
/// [`Resync`].
///
/// A reader takes the [`History`] of a moment, which does not change, and reads that. To take it is
/// to clone four persistent maps under a lock, which is the same however many rows there are; the
/// writer holds the lock while it applies a group of changes in memory.
///
/// # Complexity
/// Memory is proportional to rows and tombstones. A change costs four insertions into persistent
/// maps; a group of changes shares the copying of their nodes.
///
/// # Examples
///
/// ```
/// use ringlog::{Change, ChangeLog, CompactedHistory};
///
/// let log = ChangeLog::with_capacity(2);
/// let history = CompactedHistory::of(&log);
/// let mut cursor = log.cursor();
/// for row_id in ["a", "b", "a", "c", "d"] {
///     log.append_change(&Change::insert("Todo", row_id));
///     // In a server: on a thread of its own, with a `Follower`.
///     let events = log.read(cursor, 100)?;
///     history.apply(&events).expect("no gap");
///     cursor = events.cursor();
/// }
///
/// // A reader that has nothing, although the window holds the last two events only.
/// let page = history.read(&log, 0, None, 100)?;
/// assert_eq!(page.iter().map(|event| event.seq()).collect::<Vec<_>>(), [2, 3]);
/// let rest = log.read(page.cursor(), 100)?;
/// assert_eq!(rest.iter().map(|event| event.seq()).collect::<Vec<_>>(), [4, 5]);
/// # Ok::<(), ringlog::Resync>(())
/// ```
#[derive(Debug)]
pub struct CompactedHistory {
    current: Mutex<History>,
    bounds: Bounds,
}

#[derive(Debug, Clone, Copy)]
struct Bounds {
    rows: usize,
    tombstones: usize,
    tombstone_age_millis: u64,
}

/// The [`CompactedHistory`] of one moment. A clone shares everything.
#[derive(Debug, Clone)]
pub struct History {
    rows: OrdMap<RowKey, Arc<Entry>>,
    by_seq: OrdMap<u64, Arc<Entry>>,
    by_entity: OrdMap<(Arc<str>, u64), Arc<Entry>>,
    tombstones: OrdSet<u64>,
    /// The seq before the first change.
    base_seq: u64,
    last_seq: u64,
    /// The seq of the last tombstone that was dropped, `base_seq` at first.
    dropped_tombstone: u64,
    /// The seq of the last row that was dropped.
    dropped_row: Option<u64>,
}

/// Entity and row id.
type RowKey = (Arc<str>, Arc<str>);

/// The latest change of a row.
#[derive(Debug)]
struct Entry {
    seq: u64,
    meta: Meta,
    entity: Arc<str>,
    row_id: Arc<str>,
    /// Empty if there is none. A tombstone has none.
    data: Box<str>,
}

impl Entry {
    fn event(&self) -> EventRef<'_> {
        EventRef { seq: self.seq, meta: self.meta, parts: [&self.entity, &self.row_id, &self.data] }
    }

    fn is_tombstone(&self) -> bool {
        self.meta.kind() == ChangeKind::Delete
    }
}

impl CompactedHistory {
    /// An empty history of the changes after `base_seq`, without bounds.
    pub fn new(base_seq: u64) -> Self {
        let history = History {
            rows: OrdMap::new(),
            by_seq: OrdMap::new(),
            by_entity: OrdMap::new(),
            tombstones: OrdSet::new(),
            base_seq,
            last_seq: base_seq,
            dropped_tombstone: base_seq,
            dropped_row: None,
        };
        let bounds = Bounds { rows: usize::MAX, tombstones: usize::MAX, tombstone_age_millis: u64::MAX };
        Self { current: Mutex::new(history), bounds }
    }

    /// A history that begins where a log stands, which is best empty: what it had before is not in
    /// the history.
    pub fn of(log: &ChangeLog) -> Self {
        Self::new(log.head())
    }

    /// With at most so many rows. The row that was changed the longest ago is dropped first; from
    /// then on a reader that has nothing gets a [`Resync`].
    pub fn max_rows(mut self, rows: usize) -> Self {
        self.bounds.rows = rows;
        self
    }

    /// With at most so many tombstones. The oldest is dropped first.
    pub fn max_tombstones(mut self, tombstones: usize) -> Self {
        self.bounds.tombstones = tombstones;
        self
    }

    /// With tombstones for so long. Looked at when changes come: their time is what counts.
    pub fn max_tombstone_age(mut self, age: Duration) -> Self {
        self.bounds.tombstone_age_millis = u64::try_from(age.as_millis()).unwrap_or(u64::MAX);
        self
    }

    /// The history of this moment.
    ///
    /// # Complexity
    /// Constant. Waits for a group of changes that is being applied.
    pub fn load(&self) -> Arc<History> {
        Arc::new(self.lock().clone())
    }

    /// Applies events of the log, which readers then see all at once. Those that were applied
    /// before are passed over.
    ///
    /// # Errors
    /// [`Conflict`] if events are missing before the first one. The history is as it was.
    pub fn apply(&self, events: &Events<'_>) -> Result<(), Conflict> {
        let mut history = self.lock();
        let next = history.last_seq + 1;
        let mut events = events.iter().skip_while(|event| event.seq() < next).peekable();
        match events.peek().map(EventRef::seq) {
            Some(first) if first != next => Err(Conflict { expected: first - 1, last_seq: next - 1 }),
            _ => {
                self.write(&mut history, events);
                Ok(())
            }
        }
    }

    /// Applies changes that get the seqs from `first_seq` on, each with its time in milliseconds
    /// since 1970: before they are appended, as a store commits them, or to fill a history with the
    /// rows of a database. Readers see all of them at once.
    ///
    /// # Panics
    /// If `first_seq` is not after the last one.
    pub fn commit<'c>(&self, first_seq: u64, changes: impl IntoIterator<Item = (&'c Change<'c>, u64)>) {
        let mut history = self.lock();
        let last_seq = history.last_seq;
        assert!(first_seq > last_seq, "seq {first_seq} is not after {last_seq}");
        let texts: Vec<_> =
            changes.into_iter().map(|(change, millis)| (change, millis, change.data_json())).collect();
        let events = (first_seq..).zip(&texts).map(|(seq, (change, millis, data))| EventRef {
            seq,
            meta: Meta::new(change.kind(), *millis),
            parts: [change.entity(), change.row_id(), data.as_deref().unwrap_or_default()],
        });
        self.write(&mut history, events);
    }

    fn lock(&self) -> MutexGuard<'_, History> {
        self.current.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn write<'e>(&self, history: &mut History, events: impl Iterator<Item = EventRef<'e>>) {
        let mut now_millis = 0;
        for event in events {
            history.apply(event);
            now_millis = now_millis.max(event.timestamp_millis());
        }
        history.drop_what_is_beyond(&self.bounds, now_millis);
    }

    /// The changes after a seq that lie behind the log's window, and where to read on from there.
    ///
    /// For a cursor that the log has refused as [`Evicted`](crate::ResyncReason::Evicted). The
    /// log's incarnation is the caller's to compare. `began_at` is for readers that began with
    /// nothing, [`base_seq`](History::base_seq) or below: on their first read it is `None`; later
    /// ones pass on [`HistoryEvents::began_at`] of the read before. Such a reader does not need
    /// tombstones of rows that were deleted before it began, and so is not refused for want of
    /// them. `None` for all others.
    ///
    /// # Errors
    /// [`Resync`] with [`Compacted`](crate::ResyncReason::Compacted), if what was deleted after this
    /// seq is not known any more.
    ///
    /// # Complexity
    /// Logarithmic in the number of rows, and proportional to the events returned; with a filter
    /// also to the number of its entities, and with a predicate to the events that it refuses.
    pub fn read<'q>(
        &self,
        log: &ChangeLog,
        after: u64,
        began_at: Option<u64>,
        query: impl Into<Query<'q>>,
    ) -> Result<HistoryEvents, Resync> {
        let history = self.load();
        let began_at = began_at.or((after <= history.base_seq).then_some(history.last_seq));
        if !history.covers(after, began_at) {
            return Err(Resync::compacted(log, after, history.oldest_compacted_seq()));
        }
        let end = log.oldest_seq().min(history.last_seq + 1);
        let Query { limit, max_bytes, filter } = query.into();
        let mut page = HistoryEvents {
            events: Vec::new(),
            cursor: Cursor::new(after.max(end - 1), Some(log.incarnation())),
            has_more: log.head() >= end,
            began_at,
        };
        let mut bytes = 0_u64;
        for entry in history.entries(after, end, filter) {
            bytes += entry.event().text_len();
            if page.events.len() >= limit || (bytes > max_bytes && !page.events.is_empty()) {
                page.cursor.seq = page.events.last().map_or(after, |last| last.seq);
                page.has_more = true;
                break;
            }
            page.events.push(Arc::clone(entry));
        }
        Ok(page)
    }
}

impl History {
    /// The seq before the first change.
    pub fn base_seq(&self) -> u64 {
        self.base_seq
    }

    /// The seq up to which all changes are in it.
    pub fn last_seq(&self) -> u64 {
        self.last_seq
    }

    /// The oldest seq that a reader may go on with: one whose cursor is older has to begin anew,
    /// for rows were deleted after it whose tombstones are dropped.
    pub fn oldest_compacted_seq(&self) -> u64 {
        self.dropped_tombstone.max(self.dropped_row.unwrap_or(0)) + 1
    }

    /// Whether a reader at this cursor gets all that it needs: see [`CompactedHistory::read`].
    pub fn covers(&self, after: u64, began_at: Option<u64>) -> bool {
        match began_at {
            // It has no row that was deleted before it began.
            Some(began_at) => self.dropped_tombstone <= began_at && self.dropped_row.is_none(),
            None => after + 1 >= self.oldest_compacted_seq(),
        }
    }

    /// How many rows there are.
    pub fn rows_len(&self) -> usize {
        self.rows.len() - self.tombstones.len()
    }

    /// How many tombstones there are.
    pub fn tombstones_len(&self) -> usize {
        self.tombstones.len()
    }

    /// The latest change of one row; a delete, if that left a tombstone.
    pub fn row(&self, entity: &str, row_id: &str) -> Option<EventRef<'_>> {
        self.rows.get(&(entity.into(), row_id.into())).map(|entry| entry.event())
    }

    /// The latest changes of the rows that are there, in the order of entities and row ids, after
    /// those of a row.
    pub fn rows<'a>(&'a self, after: Option<(&str, &str)>) -> impl Iterator<Item = EventRef<'a>> {
        let after = after.map(|(entity, row_id)| (Arc::from(entity), Arc::from(row_id)));
        let from: Bound<RowKey> = after.map_or(Bound::Unbounded, Bound::Excluded);
        let entries = self.rows.range((from, Bound::Unbounded)).map(|(_, entry)| entry);
        entries.filter(|entry| !entry.is_tombstone()).map(|entry| entry.event())
    }

    /// The latest changes of rows, deletes among them, with seqs after `after` and below `end`, in
    /// the order of seqs.
    pub fn changes<'a>(
        &'a self,
        after: u64,
        end: u64,
        filter: Option<&'a Filter>,
    ) -> impl Iterator<Item = EventRef<'a>> {
        self.entries(after, end, filter).map(|entry| entry.event())
    }

    fn entries<'a>(
        &'a self,
        after: u64,
        end: u64,
        filter: Option<&'a Filter>,
    ) -> Box<dyn Iterator<Item = &'a Arc<Entry>> + 'a> {
        let range = after.saturating_add(1)..end;
        if range.is_empty() {
            return Box::new(iter::empty());
        }
        let all = |range| self.by_seq.range(range).map(|(_, entry)| entry);
        match filter {
            None => Box::new(all(range)),
            Some(filter) if filter.is_of_all() => {
                Box::new(all(range).filter(|entry| filter.holds_for(&entry.event())))
            }
            Some(filter) => {
                let entries = self.of_entities(range, filter);
                Box::new(entries.filter(|entry| filter.holds_for(&entry.event())))
            }
        }
    }

    /// The entries of a filter's entities, in the order of seqs.
    fn of_entities<'a>(
        &'a self,
        range: Range<u64>,
        filter: &'a Filter,
    ) -> impl Iterator<Item = &'a Arc<Entry>> + 'a {
        let of_entity = |entity: &str| {
            let entity: Arc<str> = entity.into();
            let range = (Arc::clone(&entity), range.start)..(entity, range.end);
            self.by_entity.range(range).map(|(_, entry)| entry).peekable()
        };
        let mut entities: Vec<_> = filter.names().map(of_entity).collect();
        iter::from_fn(move || {
            let seq =
                |entries: &mut iter::Peekable<_>| entries.peek().map(|entry: &&'a Arc<Entry>| entry.seq);
            let next = entities.iter_mut().filter_map(|entries| Some((seq(entries)?, entries)));
            next.min_by_key(|(seq, _)| *seq)?.1.next()
        })
    }

    fn apply(&mut self, event: EventRef<'_>) {
        let data = event.data_json().filter(|_| event.kind() != ChangeKind::Delete);
        let entry = Arc::new(Entry {
            seq: event.seq(),
            meta: event.meta,
            entity: event.entity().into(),
            row_id: event.row_id().into(),
            data: data.unwrap_or_default().into(),
        });
        let key = (Arc::clone(&entry.entity), Arc::clone(&entry.row_id));
        if let Some(earlier) = self.rows.insert(key, Arc::clone(&entry)) {
            self.remove_from_indices(&earlier);
        }
        if entry.is_tombstone() {
            self.tombstones.insert(entry.seq);
        }
        self.last_seq = entry.seq;
        self.by_entity.insert((Arc::clone(&entry.entity), entry.seq), Arc::clone(&entry));
        self.by_seq.insert(entry.seq, entry);
    }

    fn remove_from_indices(&mut self, entry: &Entry) {
        self.by_seq.remove(&entry.seq);
        self.by_entity.remove(&(Arc::clone(&entry.entity), entry.seq));
        self.tombstones.remove(&entry.seq);
    }

    fn drop_what_is_beyond(&mut self, bounds: &Bounds, now_millis: u64) {
        while let Some(oldest) = self.tombstones.get_min().copied()
            && (self.tombstones.len() > bounds.tombstones
                || self.age(oldest, now_millis) > bounds.tombstone_age_millis)
        {
            self.remove(oldest);
        }
        // Tombstones that are older than a row that is dropped serve no reader any more.
        while self.rows_len() > bounds.rows
            && let Some(&(oldest, _)) = self.by_seq.get_min()
        {
            self.remove(oldest);
        }
    }

    fn age(&self, seq: u64, now_millis: u64) -> u64 {
        self.by_seq.get(&seq).map_or(0, |entry| now_millis.saturating_sub(entry.meta.timestamp()))
    }

    fn remove(&mut self, seq: u64) {
        let Some(entry) = self.by_seq.get(&seq).cloned() else { return };
        self.rows.remove(&(Arc::clone(&entry.entity), Arc::clone(&entry.row_id)));
        self.remove_from_indices(&entry);
        if entry.is_tombstone() {
            self.dropped_tombstone = seq;
        } else {
            self.dropped_row = Some(seq);
        }
    }
}

/// What [`CompactedHistory::read`] returns: the latest changes of rows.
#[derive(Debug, Clone)]
pub struct HistoryEvents {
    events: Vec<Arc<Entry>>,
    cursor: Cursor,
    has_more: bool,
    began_at: Option<u64>,
}

impl HistoryEvents {
    /// The changes, in the order of their seqs.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = EventRef<'_>> {
        self.events.iter().map(|entry| entry.event())
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.events.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.events.is_empty()
    }

    /// Where to read on: in the history if it lies behind the log's window, else in the log.
    pub fn cursor(&self) -> Cursor {
        self.cursor
    }

    /// Whether there is more to read, in the history or in the log.
    pub fn has_more(&self) -> bool {
        self.has_more
    }

    /// What the next read of a reader that began with nothing passes on; `None` for other readers.
    pub fn began_at(&self) -> Option<u64> {
        self.began_at
    }

    /// Appends the changes to `out` as the JSON of a [`PullResponse`](crate::PullResponse), with
    /// one more field: `"compacted_to"`, the seq up to which changes of the same row are left out
    /// but for the latest.
    pub fn write_json(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(br#"{"changes":["#);
        let mut writer = JsonWriter::new(out);
        for event in self.iter() {
            writer.event(event.seq, event.kind(), event.timestamp_millis(), event.parts);
        }
        if !self.is_empty() {
            out.pop();
        }
        let (seq, has_more) = (self.cursor.seq, self.has_more);
        let end = format!(r#"],"cursor":{{"last_seq":{seq}}},"has_more":{has_more},"compacted_to":{seq}}}"#);
        out.extend_from_slice(end.as_bytes());
    }
}
