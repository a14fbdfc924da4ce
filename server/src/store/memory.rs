//! The provider without a file: rows in a map whose clones share what has not changed.
//!
//! A snapshot is a clone. Nothing is copied before a row changes that it shares, so a commit costs
//! no more than its own rows while no snapshot is held.

use super::{CommitError, Reader, Row, Snapshot, Store, StoreError};
use imbl::OrdMap;
use ringlog::{Builder, Change, ChangeKind, ChangeLog, ConfigError, PushClaim};
use std::ops::{Bound, ControlFlow};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{SystemTime, UNIX_EPOCH};

/// Opens an empty store and its log.
///
/// The log begins above every seq of an earlier process, unless that appended more than a million
/// events a second. So an old cursor, even a bare one, is not taken for a cursor of this log.
pub(crate) fn open(log: Builder) -> Result<(MemoryStore, Arc<MemoryReader>, ChangeLog), ConfigError> {
    let micros = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_micros();
    let log = log.base_seq(micros as u64).build()?;
    let rows = Rows { map: OrdMap::new(), last_seq: log.last_seq() };
    let reader = Arc::new(MemoryReader { rows: Mutex::new(rows) });
    Ok((MemoryStore { reader: Arc::clone(&reader) }, reader, log))
}

/// Commits to the rows that its reader has.
#[derive(Debug)]
pub(crate) struct MemoryStore {
    reader: Arc<MemoryReader>,
}

/// The rows as of the last commit. To take a snapshot locks them for as long as a clone takes,
/// which is the same however many there are.
#[derive(Debug)]
pub(crate) struct MemoryReader {
    rows: Mutex<Rows>,
}

impl MemoryReader {
    fn rows(&self) -> MutexGuard<'_, Rows> {
        self.rows.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The rows of one moment. A clone shares what has not changed since.
#[derive(Debug, Clone)]
struct Rows {
    map: OrdMap<Key, Value>,
    last_seq: u64,
}

/// Entity and row id.
type Key = (Arc<str>, Arc<str>);

#[derive(Debug, Clone)]
struct Value {
    seq: u64,
    data: Option<Arc<str>>,
}

impl Store for MemoryStore {
    fn commit(&mut self, first_seq: u64, claims: &[&PushClaim<'_>]) -> Result<(), CommitError> {
        let changes = claims.iter().flat_map(|claim| claim.changes());
        let mut rows = self.reader.rows();
        for (seq, change) in (first_seq..).zip(changes) {
            rows.apply(seq, change);
        }
        Ok(())
    }

    fn recover(&mut self) -> Result<u64, StoreError> {
        Ok(self.reader.rows().last_seq)
    }

    fn probe(&mut self) -> Result<(), StoreError> {
        Ok(())
    }
}

impl Reader for MemoryReader {
    fn snapshot(&self) -> Result<Arc<dyn Snapshot>, StoreError> {
        Ok(Arc::new(self.rows().clone()))
    }
}

impl Rows {
    fn apply(&mut self, seq: u64, change: &Change) {
        let key = (Arc::from(change.entity()), Arc::from(change.row_id()));
        match change.kind() {
            ChangeKind::Insert | ChangeKind::Update => {
                let data = change.data_json().map(|data| Arc::from(&*data));
                self.map.insert(key, Value { seq, data });
            }
            ChangeKind::Delete => {
                self.map.remove(&key);
            }
        }
        self.last_seq = seq;
    }
}

impl Snapshot for Rows {
    fn last_seq(&self) -> u64 {
        self.last_seq
    }

    fn scan(
        &self,
        after: Option<(&str, &str)>,
        each: &mut dyn FnMut(Row<'_>) -> ControlFlow<()>,
    ) -> Result<(), StoreError> {
        let after = after.map(|(entity, row_id)| (Arc::from(entity), Arc::from(row_id)));
        let from: Bound<Key> = after.map_or(Bound::Unbounded, Bound::Excluded);
        for ((entity, row_id), value) in self.map.range((from, Bound::Unbounded)) {
            let Value { seq, data } = value;
            if each(Row { entity, row_id, seq: *seq, data: data.as_deref() }).is_break() {
                break;
            }
        }
        Ok(())
    }
}
