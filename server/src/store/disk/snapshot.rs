//! The store as it was at one moment.

use super::files::failed;
#[cfg(feature = "cluster")]
use super::frames::Frames;
use super::tables::{
    DELETE, DELETED, EVENTS, EntityKey, EventValue, FORMAT, FORMAT_1, FORMAT_KEY, HISTORY, HISTORY_BY_ENTITY,
    HistoryValue, INCARNATION_KEY, LAST_SEQ_KEY, META, OP_IDS, OP_IDS_1, OpIdValue, OpIdValue1, ROWS, RowKey,
    RowValue, kind_from_byte,
};
use super::transaction::oldest_compacted_seq;
use crate::store::{LatestChange, Row, Snapshot};
use itertools::kmerge_by;
use redb::{AccessGuard, ReadOnlyTable, ReadTransaction, ReadableTable};
use ringlog::{ChangeKind, Filter, Incarnation};
use ringlog_axum::StoreError;
use std::io;
use std::ops::{Bound, ControlFlow, Range};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// The tables of one transaction. While a clone of it is held, the store keeps their pages.
#[derive(Clone)]
pub(crate) struct DiskSnapshot {
    tables: Arc<Tables>,
}

struct Tables {
    /// Of the file.
    path: PathBuf,
    rows: ReadOnlyTable<RowKey, RowValue>,
    events: ReadOnlyTable<u64, EventValue>,
    op_ids: OpIds,
    /// None before format 3.
    history: Option<History>,
    /// Of a node.
    #[cfg(feature = "cluster")]
    frames: Option<Frames>,
    incarnation: Incarnation,
    last_seq: u64,
}

/// The tables of the compacted history.
struct History {
    changes: ReadOnlyTable<u64, HistoryValue>,
    by_entity: ReadOnlyTable<EntityKey, ()>,
    deleted: ReadOnlyTable<RowKey, u64>,
    oldest_compacted_seq: u64,
}

enum OpIds {
    Format1(ReadOnlyTable<u64, OpIdValue1>),
    Format2(ReadOnlyTable<u64, OpIdValue>),
}

impl DiskSnapshot {
    pub(super) fn new(transaction: &ReadTransaction, path: &Path) -> Result<Self, redb::Error> {
        let meta = transaction.open_table(META)?;
        let missing = |key: &str| redb::Error::Corrupted(format!("no {key}"));
        let last_seq = meta.get(LAST_SEQ_KEY)?.and_then(|bytes| bytes.value().try_into().ok());
        let incarnation = meta.get(INCARNATION_KEY)?.and_then(|bytes| bytes.value().try_into().ok());
        let format = meta.get(FORMAT_KEY)?.and_then(|bytes| bytes.value().try_into().ok());
        let format = format.map_or(FORMAT, u64::from_be_bytes);
        let history = || -> Result<History, redb::Error> {
            Ok(History {
                changes: transaction.open_table(HISTORY)?,
                by_entity: transaction.open_table(HISTORY_BY_ENTITY)?,
                deleted: transaction.open_table(DELETED)?,
                oldest_compacted_seq: oldest_compacted_seq(&meta)?,
            })
        };
        let tables = Tables {
            path: path.to_owned(),
            rows: transaction.open_table(ROWS)?,
            events: transaction.open_table(EVENTS)?,
            op_ids: match format {
                FORMAT_1 => OpIds::Format1(transaction.open_table(OP_IDS_1)?),
                _ => OpIds::Format2(transaction.open_table(OP_IDS)?),
            },
            history: (format >= FORMAT).then(history).transpose()?,
            #[cfg(feature = "cluster")]
            frames: Frames::open(transaction)?,
            incarnation: Incarnation::from_bytes(incarnation.ok_or_else(|| missing(INCARNATION_KEY))?),
            last_seq: u64::from_be_bytes(last_seq.ok_or_else(|| missing(LAST_SEQ_KEY))?),
        };
        Ok(Self { tables: Arc::new(tables) })
    }

    pub(super) fn incarnation(&self) -> Incarnation {
        self.tables.incarnation
    }

    pub(super) fn rows(&self) -> &ReadOnlyTable<RowKey, RowValue> {
        &self.tables.rows
    }

    pub(super) fn events(&self) -> &ReadOnlyTable<u64, EventValue> {
        &self.tables.events
    }

    /// The latest changes that have left the window, and the oldest seq that a reader may go on
    /// with from there. None before format 3.
    pub(super) fn history(&self) -> Option<(&ReadOnlyTable<u64, HistoryValue>, u64)> {
        let history = self.tables.history.as_ref()?;
        Some((&history.changes, history.oldest_compacted_seq))
    }

    /// What a node keeps of its stream.
    #[cfg(feature = "cluster")]
    pub(super) fn frames(&self) -> Option<&Frames> {
        self.tables.frames.as_ref()
    }

    /// [`Snapshot::changes`]: those in the history, then those in the window.
    fn walk_changes(
        &self,
        (after, end): (u64, u64),
        filter: Option<&Filter>,
        each: &mut dyn FnMut(LatestChange<'_>) -> ControlFlow<()>,
    ) -> Result<(), redb::Error> {
        let (Some(history), range) = (&self.tables.history, after.saturating_add(1)..end) else {
            return Ok(());
        };
        if range.is_empty() {
            return Ok(());
        }
        let mut walk = |seq: u64| -> Result<ControlFlow<()>, redb::Error> {
            match history.changes.get(seq)? {
                Some(change) => self.compacted_change(seq, &change, each),
                None => Ok(ControlFlow::Continue(())),
            }
        };
        match filter {
            Some(filter) => {
                for seq in history.seqs_of(filter, &range)? {
                    if walk(seq?)?.is_break() {
                        return Ok(());
                    }
                }
            }
            None => {
                for change in history.changes.range(range.clone())? {
                    let (seq, change) = change?;
                    if self.compacted_change(seq.value(), &change, each)?.is_break() {
                        return Ok(());
                    }
                }
            }
        }
        self.walk_window(history, range, filter, each)
    }

    fn compacted_change(
        &self,
        seq: u64,
        change: &AccessGuard<'_, HistoryValue>,
        each: &mut dyn FnMut(LatestChange<'_>) -> ControlFlow<()>,
    ) -> Result<ControlFlow<()>, redb::Error> {
        let (timestamp_millis, kind, entity, row_id) = change.value();
        let row = if kind == DELETE { None } else { self.tables.rows.get((entity, row_id))? };
        let data = row.as_ref().and_then(|row| row.value().1);
        let kind = known(kind)?;
        Ok(each(LatestChange { seq, timestamp_millis, kind, entity, row_id, data }))
    }

    /// The events that are still the latest of their rows.
    fn walk_window(
        &self,
        history: &History,
        range: Range<u64>,
        filter: Option<&Filter>,
        each: &mut dyn FnMut(LatestChange<'_>) -> ControlFlow<()>,
    ) -> Result<(), redb::Error> {
        for event in self.tables.events.range(range)? {
            let (seq, event) = event?;
            let (seq, (timestamp_millis, kind, entity, row_id, data)) = (seq.value(), event.value());
            if filter.is_some_and(|filter| !filter.matches(entity)) {
                continue;
            }
            let (latest, data) = match kind {
                DELETE => (history.deleted.get((entity, row_id))?.map(|seq| seq.value()), None),
                _ => (self.tables.rows.get((entity, row_id))?.map(|row| row.value().0), data),
            };
            let change = LatestChange { seq, timestamp_millis, kind: known(kind)?, entity, row_id, data };
            if latest == Some(seq) && each(change).is_break() {
                break;
            }
        }
        Ok(())
    }

    fn scan_rows(
        &self,
        after: Option<(&str, &str)>,
        each: &mut dyn FnMut(Row<'_>) -> ControlFlow<()>,
    ) -> Result<(), redb::Error> {
        let from = after.map_or(Bound::Unbounded, Bound::Excluded);
        for entry in self.tables.rows.range::<(&str, &str)>((from, Bound::Unbounded))? {
            let (key, value) = entry?;
            let ((entity, row_id), (seq, data)) = (key.value(), value.value());
            if each(Row { entity, row_id, seq, data }).is_break() {
                break;
            }
        }
        Ok(())
    }

    /// Calls `each` with seq, client id, op id and fingerprint of each op id, in the order of seqs.
    pub(super) fn walk_op_ids(
        &self,
        mut each: impl FnMut(u64, Option<&str>, &str, Option<u64>) -> io::Result<()>,
    ) -> io::Result<()> {
        match &self.tables.op_ids {
            OpIds::Format1(table) => {
                for entry in table.iter().map_err(as_io)? {
                    let (seq, id) = entry.map_err(as_io)?;
                    let (client_id, op_id) = id.value();
                    each(seq.value(), client_id, op_id, None)?;
                }
            }
            OpIds::Format2(table) => {
                for entry in table.iter().map_err(as_io)? {
                    let (seq, id) = entry.map_err(as_io)?;
                    let (client_id, op_id, fingerprint) = id.value();
                    each(seq.value(), client_id, op_id, fingerprint)?;
                }
            }
        }
        Ok(())
    }
}

impl History {
    /// The seqs of the changes of some entities, in order.
    fn seqs_of(
        &self,
        filter: &Filter,
        range: &Range<u64>,
    ) -> Result<impl Iterator<Item = Result<u64, redb::StorageError>> + use<>, redb::Error> {
        let of_entity = |entity: &str| {
            let seqs = self.by_entity.range((entity, range.start)..(entity, range.end))?;
            Ok::<_, redb::Error>(seqs.map(|entry| entry.map(|(key, _)| key.value().1)))
        };
        let entities = filter.names().map(of_entity).collect::<Result<Vec<_>, _>>()?;
        // An error comes first, and ends the walk.
        Ok(kmerge_by(entities, |a: &Result<u64, _>, b: &Result<u64, _>| match (a, b) {
            (Ok(a), Ok(b)) => a < b,
            (a, _) => a.is_err(),
        }))
    }
}

fn known(kind: u8) -> Result<ChangeKind, redb::Error> {
    kind_from_byte(kind).ok_or_else(|| redb::Error::Corrupted("an unknown kind of change".into()))
}

impl Snapshot for DiskSnapshot {
    fn last_seq(&self) -> u64 {
        self.tables.last_seq
    }

    fn scan(
        &self,
        after: Option<(&str, &str)>,
        each: &mut dyn FnMut(Row<'_>) -> ControlFlow<()>,
    ) -> Result<(), StoreError> {
        self.scan_rows(after, each).map_err(|error| failed(&self.tables.path, error).into())
    }

    fn changes(
        &self,
        after: u64,
        end: u64,
        filter: Option<&Filter>,
        each: &mut dyn FnMut(LatestChange<'_>) -> ControlFlow<()>,
    ) -> Result<(), StoreError> {
        self.walk_changes((after, end), filter, each).map_err(|error| failed(&self.tables.path, error).into())
    }

    fn oldest_compacted_seq(&self) -> u64 {
        self.history().map_or(self.tables.last_seq + 1, |(_, oldest)| oldest)
    }
}

/// An error of the database among those of a file that is written.
pub(super) fn as_io(error: impl Into<redb::Error>) -> io::Error {
    match error.into() {
        redb::Error::Io(error) => error,
        error => io::Error::other(error),
    }
}
