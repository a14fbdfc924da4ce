//! The tables, and how a kind of change is kept.

use redb::{TableDefinition, TableError, WriteTransaction};
use ringlog::ChangeKind;

/// What `meta` says under [`FORMAT_KEY`].
pub(super) const FORMAT: u64 = 1;

pub(super) const FORMAT_KEY: &str = "format";
pub(super) const INCARNATION_KEY: &str = "incarnation";
pub(super) const LAST_SEQ_KEY: &str = "last_seq";

pub(super) const META: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("meta");

/// (entity, row id) → (seq, data)
pub(super) type RowKey = (&'static str, &'static str);
pub(super) type RowValue = (u64, Option<&'static str>);
pub(super) const ROWS: TableDefinition<'_, RowKey, RowValue> = TableDefinition::new("rows");

/// seq → (timestamp, kind, entity, row id, data)
type EventValue = (u64, u8, &'static str, &'static str, Option<&'static str>);
pub(super) const EVENTS: TableDefinition<'_, u64, EventValue> = TableDefinition::new("events");

/// seq → (client id, op id)
type OpIdValue = (Option<&'static str>, &'static str);
pub(super) const OP_IDS: TableDefinition<'_, u64, OpIdValue> = TableDefinition::new("op_ids");

/// Makes all tables, empty.
pub(super) fn create(transaction: &WriteTransaction) -> Result<(), TableError> {
    transaction.open_table(META)?;
    transaction.open_table(ROWS)?;
    transaction.open_table(EVENTS)?;
    transaction.open_table(OP_IDS)?;
    Ok(())
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
