//! The tables, and how a kind of change is kept.

use redb::{TableDefinition, TableError, WriteTransaction};
use ringlog::ChangeKind;

/// What `meta` says under [`FORMAT_KEY`].
pub(super) const FORMAT: u64 = 3;

/// The format without [`HISTORY`] and what belongs to it. It is read, and converted when it is
/// opened for writing.
pub(super) const FORMAT_2: u64 = 2;

/// The format without [`IDENTITY_KEY`] as well, and with [`OP_IDS_1`].
pub(super) const FORMAT_1: u64 = 1;

/// All that can be read.
pub(super) const FORMATS: [u64; 3] = [FORMAT_1, FORMAT_2, FORMAT];

pub(super) const FORMAT_KEY: &str = "format";
pub(super) const INCARNATION_KEY: &str = "incarnation";
pub(super) const LAST_SEQ_KEY: &str = "last_seq";
pub(super) const IDENTITY_KEY: &str = "identity";
pub(super) const MARK_KEY: &str = "mark";
/// Of a node: the incarnation of its stream, if the log was reset and has another one.
#[cfg(feature = "cluster")]
pub(super) const STREAM_KEY: &str = "stream";
/// The oldest seq that a reader may go on with from [`HISTORY`].
pub(super) const OLDEST_COMPACTED_KEY: &str = "oldest_compacted_seq";

pub(super) const META: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("meta");

/// (entity, row id) → (seq, data)
pub(super) type RowKey = (&'static str, &'static str);
pub(super) type RowValue = (u64, Option<&'static str>);
pub(super) const ROWS: TableDefinition<'_, RowKey, RowValue> = TableDefinition::new("rows");

/// seq → (timestamp, kind, entity, row id, data)
pub(super) type EventValue = (u64, u8, &'static str, &'static str, Option<&'static str>);
pub(super) const EVENTS: TableDefinition<'_, u64, EventValue> = TableDefinition::new("events");

/// The latest change of each row, if it is not in the window: seq → (timestamp, kind, entity, row
/// id). Its data is in [`ROWS`].
pub(super) type HistoryValue = (u64, u8, &'static str, &'static str);
pub(super) const HISTORY: TableDefinition<'_, u64, HistoryValue> = TableDefinition::new("history");

/// The same by entity: (entity, seq).
pub(super) type EntityKey = (&'static str, u64);
pub(super) const HISTORY_BY_ENTITY: TableDefinition<'_, EntityKey, ()> =
    TableDefinition::new("history_by_entity");

/// The rows whose latest change is a delete: (entity, row id) → its seq
pub(super) const DELETED: TableDefinition<'_, RowKey, u64> = TableDefinition::new("deleted");

/// The same by seq: seq → timestamp
pub(super) const TOMBSTONES: TableDefinition<'_, u64, u64> = TableDefinition::new("tombstones");

/// seq → (client id, op id, fingerprint of the change)
pub(super) type OpIdValue = (Option<&'static str>, &'static str, Option<u64>);
pub(super) const OP_IDS: TableDefinition<'_, u64, OpIdValue> = TableDefinition::new("operations");

/// The op ids of format 1: seq → (client id, op id)
pub(super) type OpIdValue1 = (Option<&'static str>, &'static str);
pub(super) const OP_IDS_1: TableDefinition<'_, u64, OpIdValue1> = TableDefinition::new("op_ids");

/// The name of a table that only the store of a node has.
pub(super) const LINKS_NAME: &str = "links";

/// Makes all tables, empty.
pub(super) fn create(transaction: &WriteTransaction) -> Result<(), TableError> {
    transaction.open_table(META)?;
    transaction.open_table(ROWS)?;
    transaction.open_table(EVENTS)?;
    transaction.open_table(OP_IDS)?;
    create_history(transaction)
}

/// Makes the tables that format 2 does not have.
pub(super) fn create_history(transaction: &WriteTransaction) -> Result<(), TableError> {
    transaction.open_table(HISTORY)?;
    transaction.open_table(HISTORY_BY_ENTITY)?;
    transaction.open_table(DELETED)?;
    transaction.open_table(TOMBSTONES)?;
    Ok(())
}

/// How many bytes of text an event holds: what the window's limit of bytes counts.
pub(super) fn text_len(entity: &str, row_id: &str, data: Option<&str>) -> u64 {
    entity.len() as u64 + row_id.len() as u64 + data.map_or(0, |data| data.len() as u64)
}

pub(super) const INSERT: u8 = 0;
pub(super) const DELETE: u8 = 2;

pub(super) fn kind_to_byte(kind: ChangeKind) -> u8 {
    match kind {
        ChangeKind::Insert => INSERT,
        ChangeKind::Update => 1,
        ChangeKind::Delete => DELETE,
    }
}

pub(super) fn kind_from_byte(byte: u8) -> Option<ChangeKind> {
    [ChangeKind::Insert, ChangeKind::Update, ChangeKind::Delete].get(usize::from(byte)).copied()
}
