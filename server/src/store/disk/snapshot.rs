//! The store as it was at one moment.

use super::files::failed;
use super::tables::{
    EVENTS, EventValue, FORMAT_1, FORMAT_KEY, INCARNATION_KEY, LAST_SEQ_KEY, META, OP_IDS, OP_IDS_1,
    OpIdValue, OpIdValue1, ROWS, RowKey, RowValue,
};
use crate::store::{Row, Snapshot, StoreError};
use redb::{ReadOnlyTable, ReadTransaction, ReadableTable};
use ringlog::Incarnation;
use std::io;
use std::ops::{Bound, ControlFlow};
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
    incarnation: Incarnation,
    last_seq: u64,
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
        let format = meta.get(FORMAT_KEY)?;
        let tables = Tables {
            path: path.to_owned(),
            rows: transaction.open_table(ROWS)?,
            events: transaction.open_table(EVENTS)?,
            op_ids: match format.as_ref().map(redb::AccessGuard::value) {
                Some(format) if *format == FORMAT_1.to_be_bytes() => {
                    OpIds::Format1(transaction.open_table(OP_IDS_1)?)
                }
                _ => OpIds::Format2(transaction.open_table(OP_IDS)?),
            },
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

impl Snapshot for DiskSnapshot {
    fn last_seq(&self) -> u64 {
        self.tables.last_seq
    }

    fn scan(
        &self,
        after: Option<(&str, &str)>,
        each: &mut dyn FnMut(Row<'_>) -> ControlFlow<()>,
    ) -> Result<(), StoreError> {
        self.scan_rows(after, each).map_err(|error| failed(&self.tables.path, error))
    }
}

/// An error of the database among those of a file that is written.
pub(super) fn as_io(error: impl Into<redb::Error>) -> io::Error {
    match error.into() {
        redb::Error::Io(error) => error,
        error => io::Error::other(error),
    }
}
