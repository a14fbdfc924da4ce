//! What a commit writes, and what it drops: the invariants of the tables.
//!
//! - `rows` has the rows; `deleted` and `tombstones` have those whose latest change is a delete,
//!   unless it is dropped. A key is in one of `rows` and `deleted`, with the seq of its latest
//!   change.
//! - `events` has the window. `history` has the latest changes that have left it, and
//!   `history_by_entity` the same: an event that leaves moves there if it is still the latest of
//!   its row, and a change removes what the row had there. So a row that changes within the window
//!   costs the history nothing.
//! - Every tombstone that is dropped is older than `oldest_compacted_seq`.

use super::tables::{
    DELETE, DELETED, EVENTS, EntityKey, EventValue, HISTORY, HISTORY_BY_ENTITY, HistoryValue, INSERT,
    LAST_SEQ_KEY, META, OLDEST_COMPACTED_KEY, OP_IDS, OpIdValue, ROWS, RowKey, RowValue, TOMBSTONES,
    kind_to_byte, text_len,
};
use redb::{ReadableTable, ReadableTableMetadata, Table, TableError, WriteTransaction};
use ringlog::{Change, ChangeKind, PushClaim};
use std::collections::{HashMap, HashSet};
use std::time::Duration;

/// The tables of one transaction.
pub(super) struct Transaction<'t> {
    meta: Table<'t, &'static str, &'static [u8]>,
    pub(super) rows: Table<'t, RowKey, RowValue>,
    pub(super) events: Table<'t, u64, EventValue>,
    pub(super) op_ids: Table<'t, u64, OpIdValue>,
    pub(super) history: Table<'t, u64, HistoryValue>,
    history_by_entity: Table<'t, EntityKey, ()>,
    deleted: Table<'t, RowKey, u64>,
    tombstones: Table<'t, u64, u64>,
    /// Events with smaller seqs are not in the window. None before the first event of a window that
    /// is empty.
    window_start: Option<u64>,
}

/// What is known of the events in the window without looking at the store. After a commit that
/// failed it is found out anew.
#[derive(Debug, Default)]
pub(super) struct Window {
    /// The bytes of text.
    pub(super) bytes: u64,
    /// The seqs of those that do not move to the history: the row has changed again, or the
    /// tombstone is dropped.
    superseded: HashSet<u64>,
}

impl Window {
    /// That of a store whose oldest tombstones are dropped, up to a seq.
    pub(super) fn of(
        events: &impl ReadableTable<u64, EventValue>,
        oldest_compacted_seq: u64,
    ) -> Result<Self, redb::Error> {
        let mut window = Self::default();
        let mut latest = HashMap::new();
        for event in events.iter()? {
            let (seq, event) = event?;
            let (seq, (_, kind, entity, row_id, data)) = (seq.value(), event.value());
            window.bytes += text_len(entity, row_id, data);
            window.superseded.extend(latest.insert((entity.to_owned(), row_id.to_owned()), seq));
            if kind == DELETE && seq < oldest_compacted_seq {
                window.superseded.insert(seq);
            }
        }
        Ok(window)
    }
}

/// What is kept.
#[derive(Debug, Clone, Copy)]
pub(super) struct Bounds {
    /// Events of the window: just those that the log keeps.
    pub(super) capacity: u64,
    /// Bytes of text in the window.
    pub(super) max_bytes: u64,
    pub(super) op_ids: u64,
    pub(super) tombstones: u64,
    pub(super) tombstone_age: Duration,
}

impl<'t> Transaction<'t> {
    pub(super) fn open(transaction: &'t WriteTransaction) -> Result<Self, redb::Error> {
        let open = || -> Result<_, TableError> {
            Ok(Self {
                meta: transaction.open_table(META)?,
                rows: transaction.open_table(ROWS)?,
                events: transaction.open_table(EVENTS)?,
                op_ids: transaction.open_table(OP_IDS)?,
                history: transaction.open_table(HISTORY)?,
                history_by_entity: transaction.open_table(HISTORY_BY_ENTITY)?,
                deleted: transaction.open_table(DELETED)?,
                tombstones: transaction.open_table(TOMBSTONES)?,
                window_start: None,
            })
        };
        let mut tables = open()?;
        tables.window_start = tables.events.first()?.map(|(seq, _)| seq.value());
        Ok(tables)
    }

    /// Writes one claim's changes: to the rows, as events, and the op ids.
    pub(super) fn write(
        &mut self,
        window: &mut Window,
        first_seq: u64,
        claim: &PushClaim<'_>,
    ) -> Result<(), redb::Error> {
        for (seq, (change, op_id)) in (first_seq..).zip(claim.changes().iter().zip(claim.op_ids())) {
            self.write_change(window, seq, claim.timestamp_millis(), change)?;
            if let Some((op_id, fingerprint)) = op_id {
                self.op_ids.insert(seq, (claim.client_id(), op_id, Some(fingerprint.to_bits())))?;
            }
        }
        Ok(())
    }

    fn write_change(
        &mut self,
        window: &mut Window,
        seq: u64,
        timestamp: u64,
        change: &Change<'_>,
    ) -> Result<(), redb::Error> {
        let (key @ (entity, row_id), data) = ((change.entity(), change.row_id()), change.data_json());
        let data = data.as_deref();
        let row = match change.kind() {
            ChangeKind::Insert | ChangeKind::Update => self.rows.insert(key, (seq, data))?,
            ChangeKind::Delete => self.rows.remove(key)?,
        };
        let earlier = row.map(|row| row.value().0);
        // A key that was among the rows is not among the deleted.
        let earlier = if earlier.is_none() { self.forget_delete(key)? } else { earlier };
        let window_start = *self.window_start.get_or_insert(seq);
        match earlier {
            Some(earlier) if earlier < window_start => self.remove_from_history(entity, earlier)?,
            Some(earlier) => drop(window.superseded.insert(earlier)),
            None => {}
        }
        if change.kind() == ChangeKind::Delete {
            self.note_delete(key, seq, timestamp)?;
        }
        self.events.insert(seq, (timestamp, kind_to_byte(change.kind()), entity, row_id, data))?;
        window.bytes += text_len(entity, row_id, data);
        Ok(())
    }

    /// Notes the last seq, and drops what is beyond the bounds. `now_millis` is the time of the
    /// commit.
    pub(super) fn finish(
        &mut self,
        window: &mut Window,
        last_seq: u64,
        now_millis: u64,
        bounds: &Bounds,
    ) -> Result<(), redb::Error> {
        self.meta.insert(LAST_SEQ_KEY, &last_seq.to_be_bytes()[..])?;
        self.drop_tombstones(window, now_millis, bounds)?;
        while self.events.len()? > bounds.capacity || window.bytes > bounds.max_bytes {
            let Some((seq, event)) = self.events.pop_first()? else { break };
            let (seq, (timestamp, kind, entity, row_id, data)) = (seq.value(), event.value());
            window.bytes -= text_len(entity, row_id, data);
            if !window.superseded.remove(&seq) {
                self.history.insert(seq, (timestamp, kind, entity, row_id))?;
                self.history_by_entity.insert((entity, seq), ())?;
            }
        }
        while self.op_ids.len()? > bounds.op_ids {
            self.op_ids.pop_first()?;
        }
        Ok(())
    }

    fn drop_tombstones(
        &mut self,
        window: &mut Window,
        now_millis: u64,
        bounds: &Bounds,
    ) -> Result<(), redb::Error> {
        let most_millis = u64::try_from(bounds.tombstone_age.as_millis()).unwrap_or(u64::MAX);
        let mut dropped = None;
        loop {
            let oldest = self.tombstones.first()?.map(|(seq, timestamp)| (seq.value(), timestamp.value()));
            let Some((seq, timestamp)) = oldest else { break };
            let is_too_old = now_millis.saturating_sub(timestamp) > most_millis;
            if self.tombstones.len()? <= bounds.tombstones && !is_too_old {
                break;
            }
            self.drop_tombstone(window, seq)?;
            dropped = Some(seq);
        }
        dropped.map_or(Ok(()), |seq| self.set_oldest_compacted_seq(seq + 1))
    }

    fn drop_tombstone(&mut self, window: &mut Window, seq: u64) -> Result<(), redb::Error> {
        self.tombstones.remove(seq)?;
        if let Some(change) = self.history.remove(seq)? {
            let (_, _, entity, row_id) = change.value();
            self.history_by_entity.remove((entity, seq))?;
            self.deleted.remove((entity, row_id))?;
        } else if let Some(event) = self.events.get(seq)? {
            let (_, _, entity, row_id, _) = event.value();
            self.deleted.remove((entity, row_id))?;
            window.superseded.insert(seq);
        }
        Ok(())
    }

    pub(super) fn set_oldest_compacted_seq(&mut self, seq: u64) -> Result<(), redb::Error> {
        self.meta.insert(OLDEST_COMPACTED_KEY, &seq.to_be_bytes()[..])?;
        Ok(())
    }

    fn note_delete(&mut self, key: (&str, &str), seq: u64, timestamp: u64) -> Result<(), redb::Error> {
        self.deleted.insert(key, seq)?;
        self.tombstones.insert(seq, timestamp)?;
        Ok(())
    }

    /// Removes the tombstone of a row, if it has one. Returns its seq.
    fn forget_delete(&mut self, key: (&str, &str)) -> Result<Option<u64>, redb::Error> {
        let seq = self.deleted.remove(key)?.map(|seq| seq.value());
        if let Some(seq) = seq {
            self.tombstones.remove(seq)?;
        }
        Ok(seq)
    }

    fn remove_from_history(&mut self, entity: &str, seq: u64) -> Result<(), redb::Error> {
        self.history.remove(seq)?;
        self.history_by_entity.remove((entity, seq))?;
        Ok(())
    }

    /// Fills the history of a store whose format has none. The times of rows, and whether they were
    /// inserted or updated last, are not known: they are given the time of the window's oldest
    /// event, else `now_millis`, and are told as inserted. What was deleted before the window is
    /// not known either: readers go on from the window, or begin with nothing.
    pub(super) fn convert(&mut self, last_seq: u64, now_millis: u64) -> Result<(), redb::Error> {
        let oldest = self.events.first()?.map(|(seq, event)| (seq.value(), event.value().0));
        let (start, timestamp) = oldest.unwrap_or((last_seq + 1, now_millis));
        for row in self.rows.iter()? {
            let (key, value) = row?;
            let ((entity, row_id), (seq, _)) = (key.value(), value.value());
            if seq < start {
                self.history.insert(seq, (timestamp, INSERT, entity, row_id))?;
            }
        }
        self.set_oldest_compacted_seq(start)?;
        self.index()
    }

    /// Fills what can be derived: the history by entity, and the tombstones.
    pub(super) fn index(&mut self) -> Result<(), redb::Error> {
        for change in self.history.iter()? {
            let (seq, value) = change?;
            let (seq, (timestamp, kind, entity, row_id)) = (seq.value(), value.value());
            self.history_by_entity.insert((entity, seq), ())?;
            if kind == DELETE {
                self.deleted.insert((entity, row_id), seq)?;
                self.tombstones.insert(seq, timestamp)?;
            }
        }
        for event in self.events.iter()? {
            let (seq, value) = event?;
            let (seq, (timestamp, kind, entity, row_id, _)) = (seq.value(), value.value());
            if let Some(earlier) = self.deleted.remove((entity, row_id))? {
                self.tombstones.remove(earlier.value())?;
            }
            // One whose tombstone was dropped is no tombstone again.
            if kind == DELETE && seq >= oldest_compacted_seq(&self.meta)? {
                self.deleted.insert((entity, row_id), seq)?;
                self.tombstones.insert(seq, timestamp)?;
            }
        }
        Ok(())
    }
}

/// What `meta` says; 1 for a store that has never dropped a tombstone.
pub(super) fn oldest_compacted_seq(
    meta: &impl ReadableTable<&'static str, &'static [u8]>,
) -> Result<u64, redb::Error> {
    let Some(bytes) = meta.get(OLDEST_COMPACTED_KEY)? else { return Ok(1) };
    let bytes = bytes.value().try_into();
    bytes.map(u64::from_be_bytes).map_err(|_| redb::Error::Corrupted("oldest_compacted_seq".into()))
}
