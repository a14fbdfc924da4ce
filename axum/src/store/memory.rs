//! The provider without a file: rows in the library's compacted history.

use super::{CommitError, LatestChange, Reader, Row, Snapshot, Store, StoreError, Tombstones, row_state};
use ringlog::{
    Builder, ChangeKind, ChangeLog, CompactedHistory, ConfigError, EventRef, Filter, History, PushClaim,
    RowState,
};
use std::ops::ControlFlow;
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

/// A store that keeps nothing after the process ends.
///
/// # Examples
///
/// ```
/// use ringlog::ChangeLog;
/// use ringlog_axum::{MemoryStore, Store, Tombstones};
///
/// let builder = ChangeLog::builder().capacity(1000);
/// let (store, log) = MemoryStore::open(builder, Tombstones::default())?;
/// assert_eq!(store.reader().snapshot()?.last_seq(), log.last_seq());
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug)]
pub struct MemoryStore {
    reader: Arc<MemoryReader>,
    base_seq: u64,
}

impl MemoryStore {
    /// Opens an empty store and its log.
    ///
    /// The log begins above every seq of an earlier process, unless that appended more than a
    /// million events a second. So an old cursor, even a bare one, is not taken for a cursor of
    /// this log.
    ///
    /// # Errors
    /// A measure of the log is out of its range.
    pub fn open(log: Builder, tombstones: Tombstones) -> Result<(Self, ChangeLog), ConfigError> {
        let micros = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_micros();
        let log = log.base_seq(micros as u64).build()?;
        let history =
            CompactedHistory::of(&log).max_tombstones(tombstones.most).max_tombstone_age(tombstones.age);
        Ok((Self { reader: Arc::new(MemoryReader { history }), base_seq: log.last_seq() }, log))
    }
}

/// The rows as of the last commit.
#[derive(Debug)]
struct MemoryReader {
    history: CompactedHistory,
}

impl Store for MemoryStore {
    fn reader(&self) -> Arc<dyn Reader> {
        Arc::clone(&self.reader) as _
    }

    fn base_seq(&self) -> u64 {
        self.base_seq
    }

    fn is_immediate(&self) -> bool {
        true
    }

    fn commit(&mut self, first_seq: u64, claims: &[&PushClaim<'_>]) -> Result<(), CommitError> {
        let changes = claims
            .iter()
            .flat_map(|claim| claim.changes().iter().map(|change| (change, claim.timestamp_millis())));
        self.reader.history.commit(first_seq, changes);
        Ok(())
    }

    fn row(&self, entity: &str, row_id: &str) -> Result<RowState, StoreError> {
        let history = self.reader.history.load();
        let row = history.row(entity, row_id).filter(|row| row.kind() != ChangeKind::Delete);
        Ok(row.map_or_else(RowState::default, |row| row_state(row.seq(), row.data_json())))
    }

    fn recover(&mut self) -> Result<u64, StoreError> {
        Ok(self.reader.history.load().last_seq())
    }

    fn probe(&mut self) -> Result<(), StoreError> {
        Ok(())
    }
}

impl Reader for MemoryReader {
    fn snapshot(&self) -> Result<Arc<dyn Snapshot>, StoreError> {
        Ok(self.history.load())
    }
}

impl Snapshot for History {
    fn last_seq(&self) -> u64 {
        self.last_seq()
    }

    fn scan(
        &self,
        after: Option<(&str, &str)>,
        each: &mut dyn FnMut(Row<'_>) -> ControlFlow<()>,
    ) -> Result<(), StoreError> {
        let row = |event: EventRef<'_>| {
            let (entity, row_id) = (event.entity(), event.row_id());
            each(Row { entity, row_id, seq: event.seq(), data: event.data_json() })
        };
        let _ = self.rows(after).try_for_each(row);
        Ok(())
    }

    fn changes(
        &self,
        after: u64,
        end: u64,
        filter: Option<&Filter>,
        each: &mut dyn FnMut(LatestChange<'_>) -> ControlFlow<()>,
    ) -> Result<(), StoreError> {
        let _ = self.changes(after, end, filter).try_for_each(|event| each(event.into()));
        Ok(())
    }

    fn oldest_compacted_seq(&self) -> u64 {
        self.oldest_compacted_seq()
    }
}

#[cfg(test)]
mod tests {
    use crate::conformance::{Measures, Open, Opened};

    fn in_memory() -> Open {
        Box::new(|measures: &Measures| {
            let (store, log) = super::MemoryStore::open(measures.builder(), measures.tombstones).unwrap();
            Opened { store: Box::new(store), log }
        })
    }

    crate::conformance_tests!(in_memory);
}
