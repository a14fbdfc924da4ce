//! The tables, and how a kind of change is kept.

use redb::{TableDefinition, TableError, WriteTransaction};
use ringlog::ChangeKind;

/// What `meta` says under [`FORMAT_KEY`].
pub(super) const FORMAT: u64 = 2;

/// The format without [`IDENTITY_KEY`] and with [`OP_IDS_1`]. It is read, and converted when it is
/// opened for writing.
pub(super) const FORMAT_1: u64 = 1;

pub(super) const FORMAT_KEY: &str = "format";
pub(super) const INCARNATION_KEY: &str = "incarnation";
pub(super) const LAST_SEQ_KEY: &str = "last_seq";
pub(super) const IDENTITY_KEY: &str = "identity";
pub(super) const MARK_KEY: &str = "mark";

pub(super) const META: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("meta");

/// (entity, row id) → (seq, data)
pub(super) type RowKey = (&'static str, &'static str);
pub(super) type RowValue = (u64, Option<&'static str>);
pub(super) const ROWS: TableDefinition<'_, RowKey, RowValue> = TableDefinition::new("rows");

/// seq → (timestamp, kind, entity, row id, data)
pub(super) type EventValue = (u64, u8, &'static str, &'static str, Option<&'static str>);
pub(super) const EVENTS: TableDefinition<'_, u64, EventValue> = TableDefinition::new("events");

/// seq → (client id, op id, fingerprint of the change)
pub(super) type OpIdValue = (Option<&'static str>, &'static str, Option<u64>);
pub(super) const OP_IDS: TableDefinition<'_, u64, OpIdValue> = TableDefinition::new("operations");

/// The op ids of format 1: seq → (client id, op id)
pub(super) type OpIdValue1 = (Option<&'static str>, &'static str);
pub(super) const OP_IDS_1: TableDefinition<'_, u64, OpIdValue1> = TableDefinition::new("op_ids");

/// Makes all tables, empty.
pub(super) fn create(transaction: &WriteTransaction) -> Result<(), TableError> {
    transaction.open_table(META)?;
    transaction.open_table(ROWS)?;
    transaction.open_table(EVENTS)?;
    transaction.open_table(OP_IDS)?;
    Ok(())
}

/// How many bytes of text an event holds: what the window's limit of bytes counts.
pub(super) fn text_len(entity: &str, row_id: &str, data: Option<&str>) -> u64 {
    entity.len() as u64 + row_id.len() as u64 + data.map_or(0, |data| data.len() as u64)
}

pub(super) fn kind_to_byte(kind: ChangeKind) -> u8 {
    match kind {
        ChangeKind::Insert => 0,
        ChangeKind::Update => 1,
        ChangeKind::Delete => 2,
    }
}

pub(super) fn kind_from_byte(byte: u8) -> Option<ChangeKind> {
    [ChangeKind::Insert, ChangeKind::Update, ChangeKind::Delete].get(usize::from(byte)).copied()
}
