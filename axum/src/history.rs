//! Readers whose cursor is older than the window: they are told what is different, from the
//! compacted history.
//!
//! A page holds the latest change of every row between the reader's cursor and the window, as of
//! one moment of the store; it is built in one go and holds no transaction afterwards. The next
//! question finds the cursor in the history or in the window, whichever it has got to. That this
//! leaves no gap is argued at [`CompactedHistory`](ringlog::CompactedHistory). The moment is taken
//! after the window's start is read, and everything is committed before it is appended, so the
//! moment has all changes before that start.
//!
//! # Readers that began with nothing
//!
//! Tombstones are dropped in the end. A cursor before [`Snapshot::oldest_compacted_seq`] is
//! refused, for rows may have been deleted after it that the reader still has. A reader that began
//! with nothing, at a moment when the last seq was *t*, has no row that was deleted before *t*. It
//! is refused only if a tombstone after *t* was dropped. Its cursor does not say that; so until it
//! has passed the oldest of the others, its cursor is a *place*: a number above every seq, which
//! stands for a seq and *t* in [`Places`].

use crate::echo::{Echoes, write_change};
use crate::error::ApiError;
use crate::store::{LatestChange, Reader, Snapshot, StoreError};
use ringlog::{ChangeLog, Cursor, Filter, Resync};
use std::collections::VecDeque;
use std::io::Write;
use std::ops::ControlFlow;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{SystemTime, UNIX_EPOCH};

/// The compacted history, as requests see it.
pub(crate) struct History {
    log: Arc<ChangeLog>,
    reader: Arc<dyn Reader>,
    /// The seq before the first one of this log.
    base_seq: u64,
    echoes: Option<Arc<Echoes>>,
    places: Places,
}

/// Where a reader stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Position {
    pub(crate) cursor: Cursor,
    /// For a reader that began with nothing: the last seq of that moment.
    began_at: Option<u64>,
}

/// How much a reader wants.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Measure {
    pub(crate) limit: usize,
    /// Of JSON. The first change is told however long it is.
    pub(crate) max_bytes: usize,
}

/// A run of changes.
pub(crate) struct CompactedPage {
    /// That of a pull, and `compacted_to`.
    pub(crate) json: Vec<u8>,
    pub(crate) count: usize,
    /// What the reader is told to go on with: its cursor, or a place.
    pub(crate) shown: Cursor,
    pub(crate) position: Position,
    pub(crate) has_more: bool,
}

impl History {
    pub(crate) fn new(
        log: &Arc<ChangeLog>,
        reader: &Arc<dyn Reader>,
        base_seq: u64,
        echoes: Option<&Arc<Echoes>>,
    ) -> Self {
        let (log, reader) = (Arc::clone(log), Arc::clone(reader));
        Self { log, reader, base_seq, echoes: echoes.cloned(), places: Places::new() }
    }

    /// Whether the number of a cursor is that of a place.
    pub(crate) fn is_place(cursor: Cursor) -> bool {
        cursor.seq >= FIRST_PLACE
    }

    /// Where a reader stands that goes on with `cursor`. A bare 0 is that of a reader that has seen
    /// nothing: it begins with the first event of this log, whatever its seq.
    pub(crate) fn locate(&self, cursor: Cursor) -> Position {
        let is_ours = cursor.incarnation.is_none_or(|incarnation| incarnation == self.log.incarnation());
        if cursor == Cursor::from(0) {
            return Cursor::from(self.base_seq).into();
        }
        match self.places.get(cursor.seq).filter(|_| is_ours) {
            Some(place) => Position {
                cursor: Cursor::new(place.seq, Some(self.log.incarnation())),
                began_at: Some(place.began_at),
            },
            None => cursor.into(),
        }
    }

    /// Whether a reader stands before the window, and is told what is different. Not one that
    /// stands before this log's first seq: it is another log's.
    pub(crate) fn serves(&self, cursor: Cursor) -> bool {
        let is_ours = cursor.incarnation.is_none_or(|incarnation| incarnation == self.log.incarnation());
        let is_known = cursor.seq == 0 || cursor.seq >= self.base_seq;
        is_ours && is_known && cursor.seq.saturating_add(1) < self.log.oldest_seq()
    }

    /// The changes between a position and the window.
    ///
    /// # Errors
    /// 410 if the tombstones of what was deleted after the position may be dropped.
    pub(crate) async fn page(
        self: &Arc<Self>,
        position: Position,
        measure: Measure,
        filter: Option<&Filter>,
    ) -> Result<CompactedPage, ApiError> {
        let (history, filter) = (Arc::clone(self), filter.cloned());
        let page =
            tokio::task::spawn_blocking(move || history.build(position, measure, filter.as_ref())).await;
        page.map_err(|error| ApiError::internal(&error))?
    }

    fn build(
        &self,
        position: Position,
        measure: Measure,
        filter: Option<&Filter>,
    ) -> Result<CompactedPage, ApiError> {
        // Read first: the moment that is taken next has all changes before it.
        let window_start = self.log.oldest_seq();
        let snapshot = self.reader.snapshot().map_err(|error| ApiError::internal(&error))?;
        let began_at = self.began_at(position, &*snapshot)?;
        let after = position.cursor.seq;
        let page = write_page(&*snapshot, (after, window_start), measure, filter, self.echoes.as_deref())
            .map_err(|error| ApiError::internal(&error))?;
        let cursor = Cursor::new(page.last_seq, Some(self.log.incarnation()));
        let is_old = cursor.seq + 1 < snapshot.oldest_compacted_seq();
        let shown = match began_at {
            Some(began_at) if is_old => {
                let place = self.places.add(Place { seq: cursor.seq, began_at });
                Cursor::new(place, cursor.incarnation)
            }
            _ => cursor,
        };
        let has_more = page.is_cut || self.log.head() > cursor.seq;
        let began_at = began_at.filter(|_| is_old);
        let (count, json) = (page.count, page.finish(shown.seq, cursor.seq, has_more));
        Ok(CompactedPage { json, count, shown, position: Position { cursor, began_at }, has_more })
    }

    /// What [`Position::began_at`] is from now on, if the reader can be served from this moment.
    fn began_at(&self, position: Position, snapshot: &dyn Snapshot) -> Result<Option<u64>, ApiError> {
        let (after, oldest) = (position.cursor.seq, snapshot.oldest_compacted_seq());
        let has_nothing = after == 0 || after == self.base_seq;
        let began_at = position.began_at.or(has_nothing.then_some(snapshot.last_seq()));
        let is_covered = match began_at {
            Some(began_at) => oldest <= began_at + 1,
            None => oldest <= after.saturating_add(1),
        };
        if is_covered {
            return Ok(began_at);
        }
        Err(Resync::compacted(&self.log, after, oldest).into())
    }

    /// Whether a reader can be served from a position.
    pub(crate) async fn covers(self: &Arc<Self>, position: Position) -> bool {
        let measure = Measure { limit: 0, max_bytes: 0 };
        self.page(position, measure, None).await.is_ok()
    }

    /// The oldest seq that a reader may go on with.
    ///
    /// # Errors
    /// Those of the store.
    pub(crate) async fn oldest_compacted_seq(&self) -> Result<u64, ApiError> {
        let reader = Arc::clone(&self.reader);
        let snapshot = tokio::task::spawn_blocking(move || reader.snapshot()).await;
        let snapshot = snapshot.map_err(|error| ApiError::internal(&error))?;
        Ok(snapshot.map_err(|error| ApiError::internal(&error))?.oldest_compacted_seq())
    }
}

impl Position {
    /// Whether its reader is told a place to go on with, not its cursor.
    pub(crate) fn is_place(self) -> bool {
        self.began_at.is_some()
    }
}

impl From<Cursor> for Position {
    fn from(cursor: Cursor) -> Self {
        Self { cursor, began_at: None }
    }
}

/// A page that is being written.
struct Page {
    json: Vec<u8>,
    count: usize,
    /// Whether a change was left out, for the page is full.
    is_cut: bool,
    last_seq: u64,
}

/// The changes after `after` and before `end`.
fn write_page(
    snapshot: &dyn Snapshot,
    (after, end): (u64, u64),
    measure: Measure,
    filter: Option<&Filter>,
    echoes: Option<&Echoes>,
) -> Result<Page, StoreError> {
    let mut page = Page { json: br#"{"changes":["#.to_vec(), count: 0, is_cut: false, last_seq: after };
    snapshot.changes(after, end, filter, &mut |change| {
        let (len, last_seq) = (page.json.len(), page.last_seq);
        if page.count < measure.limit {
            page.push(change, echoes);
            if page.count == 1 || page.json.len() <= measure.max_bytes {
                return ControlFlow::Continue(());
            }
            page.json.truncate(len);
            (page.count, page.last_seq) = (page.count - 1, last_seq);
        }
        page.is_cut = true;
        ControlFlow::Break(())
    })?;
    if !page.is_cut {
        page.last_seq = after.max(end - 1);
    }
    Ok(page)
}

impl Page {
    fn push(&mut self, change: LatestChange<'_>, echoes: Option<&Echoes>) {
        if self.count > 0 {
            self.json.push(b',');
        }
        write_change(&mut self.json, change, echoes);
        self.count += 1;
        self.last_seq = change.seq;
    }

    fn finish(mut self, shown: u64, compacted_to: u64, has_more: bool) -> Vec<u8> {
        let _ = write!(
            self.json,
            r#"],"cursor":{{"last_seq":{shown}}},"has_more":{has_more},"compacted_to":{compacted_to}}}"#
        );
        self.json
    }
}

/// Above every seq: those of a log in memory are microseconds since 1970, those of a store begin at
/// 1. A number in JSON is exact up to twice as much.
const FIRST_PLACE: u64 = 1 << 52;

/// The places that are remembered. The oldest is forgotten first; its reader begins anew.
const MAX_PLACES: usize = 1 << 16;

/// Where readers stand that began with nothing, by number.
struct Places {
    kept: Mutex<Kept>,
}

struct Kept {
    places: VecDeque<Place>,
    /// The number of the oldest.
    first: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Place {
    seq: u64,
    began_at: u64,
}

impl Places {
    /// None. The numbers go on above those of an earlier process, unless that gave out more than a
    /// million a second.
    fn new() -> Self {
        let micros = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_micros();
        let first = FIRST_PLACE + micros as u64 % FIRST_PLACE;
        Self { kept: Mutex::new(Kept { places: VecDeque::new(), first }) }
    }

    fn add(&self, place: Place) -> u64 {
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        if kept.places.len() == MAX_PLACES {
            kept.places.pop_front();
            kept.first += 1;
        }
        kept.places.push_back(place);
        kept.first + kept.places.len() as u64 - 1
    }

    fn get(&self, number: u64) -> Option<Place> {
        let kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        let index = number.checked_sub(kept.first)?;
        kept.places.get(usize::try_from(index).ok()?).copied()
    }
}
