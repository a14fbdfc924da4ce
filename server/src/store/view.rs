//! The rows of one moment.

use super::tables::{LAST_SEQ_KEY, META, ROWS, RowKey, RowValue};
use redb::{ReadOnlyTable, ReadTransaction};
use std::ops::Bound;

/// The rows of one transaction. While it is held, the store keeps their pages.
pub(crate) struct StoredRows {
    rows: ReadOnlyTable<RowKey, RowValue>,
    last_seq: u64,
}

impl StoredRows {
    pub(super) fn new(transaction: &ReadTransaction) -> Result<Self, redb::Error> {
        let meta = transaction.open_table(META)?;
        let last_seq = meta.get(LAST_SEQ_KEY)?;
        let last_seq = last_seq.and_then(|bytes| Some(u64::from_be_bytes(bytes.value().try_into().ok()?)));
        let last_seq = last_seq.ok_or_else(|| redb::Error::Corrupted("no last_seq".into()))?;
        Ok(Self { rows: transaction.open_table(ROWS)?, last_seq })
    }

    /// The seq of the last change in them.
    pub(crate) fn last_seq(&self) -> u64 {
        self.last_seq
    }

    /// Calls `each` with entity, row id, seq and data of the rows after a key, in the order of the keys, until it says to stop.
    pub(crate) fn walk(
        &self,
        after: Option<(&str, &str)>,
        mut each: impl FnMut(&str, &str, u64, Option<&str>) -> bool,
    ) -> Result<(), redb::Error> {
        let from = after.map_or(Bound::Unbounded, Bound::Excluded);
        for entry in self.rows.range::<(&str, &str)>((from, Bound::Unbounded))? {
            let (key, value) = entry?;
            let ((entity, row_id), (seq, data)) = (key.value(), value.value());
            if !each(entity, row_id, seq, data) {
                break;
            }
        }
        Ok(())
    }
}
