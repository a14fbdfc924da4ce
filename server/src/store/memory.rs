//! The provider without a file: rows in an immutable map, published whole with each commit.

use super::{CommitError, Reader, Row, Snapshot, Store, StoreError};
use arc_swap::ArcSwap;
use imbl::OrdMap;
use ringlog::{Builder, Change, ChangeKind, ChangeLog, ConfigError, PushClaim};
use std::ops::{Bound, ControlFlow};
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

/// Opens an empty store and its log.
///
/// The log begins above every seq of an earlier process, unless that appended more than a million
/// events a second. So an old cursor, even a bare one, is not taken for a cursor of this log.
pub(crate) fn open(log: Builder) -> Result<(MemoryStore, Arc<MemoryReader>, ChangeLog), ConfigError> {
    let micros = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_micros();
    let log = log.base_seq(micros as u64).build()?;
    let rows = Rows { map: OrdMap::new(), last_seq: log.last_seq() };
    let reader = Arc::new(MemoryReader { published: ArcSwap::from_pointee(rows.clone()) });
    Ok((MemoryStore { rows, reader: Arc::clone(&reader) }, reader, log))
}

/// The rows as of the last commit, and where they are published.
#[derive(Debug)]
pub(crate) struct MemoryStore {
    rows: Rows,
    reader: Arc<MemoryReader>,
}

/// Takes snapshots; a commit does not wait for them, nor they for it.
#[derive(Debug)]
pub(crate) struct MemoryReader {
    published: ArcSwap<Rows>,
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
        for (seq, change) in (first_seq..).zip(changes) {
            self.rows.apply(seq, change);
        }
        self.reader.published.store(Arc::new(self.rows.clone()));
        Ok(())
    }

    fn recover(&mut self) -> Result<u64, StoreError> {
        Ok(self.rows.last_seq)
    }

    fn probe(&mut self) -> Result<(), StoreError> {
        Ok(())
    }
}

impl Reader for MemoryReader {
    fn snapshot(&self) -> Result<Arc<dyn Snapshot>, StoreError> {
        Ok(self.published.load_full())
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
