//! The store in use: commits by the one writer, views for who loads the rows.

use super::tables::{EVENTS, LAST_SEQ_KEY, META, OP_IDS, ROWS, kind_to_byte};
use super::view::StoredRows;
use crate::config::Config;
use crate::crash;
use redb::{Database, Durability, ReadableDatabase, ReadableTableMetadata, WriteTransaction};
use ringlog::{ChangeKind, PushClaim};
use std::fs::File;

/// A store that is open. Closed when it is dropped.
#[derive(Debug)]
pub(crate) struct Store {
    database: Database,
    /// Keeps other servers out.
    _lock: File,
    capacity: u64,
    op_ids: u64,
}

impl Store {
    pub(super) fn new(database: Database, lock: File, config: &Config) -> Self {
        Self { database, _lock: lock, capacity: config.capacity as u64, op_ids: config.op_ids as u64 }
    }

    /// Writes what these claims hold, in one transaction that is on disk when this returns. The first event gets the seq
    /// `first`, the others the next ones.
    ///
    /// After an error nobody knows whether the transaction is on disk: the process must end, and find out when it starts.
    pub(crate) fn commit<'a>(
        &self,
        first: u64,
        claims: impl Iterator<Item = &'a PushClaim<'a>>,
    ) -> Result<(), redb::Error> {
        let mut transaction = self.database.begin_write()?;
        transaction.set_durability(Durability::Immediate)?;
        transaction.set_two_phase_commit(true);
        let mut seq = first;
        for claim in claims {
            write(&transaction, seq, claim)?;
            seq += claim.changes().len() as u64;
            crash::point("claim_written");
        }
        self.finish(&transaction, seq - 1)?;
        crash::point("written");
        transaction.commit()?;
        crash::point("committed");
        Ok(())
    }

    /// Notes the last seq, and drops what has left the window and the memory of op ids.
    fn finish(&self, transaction: &WriteTransaction, last_seq: u64) -> Result<(), redb::Error> {
        let mut meta = transaction.open_table(META)?;
        meta.insert(LAST_SEQ_KEY, &last_seq.to_be_bytes()[..])?;
        let mut events = transaction.open_table(EVENTS)?;
        while events.len()? > self.capacity {
            events.pop_first()?;
        }
        let mut op_ids = transaction.open_table(OP_IDS)?;
        while op_ids.len()? > self.op_ids {
            op_ids.pop_first()?;
        }
        Ok(())
    }

    /// The rows as they are now, and will be in this view whatever is committed.
    pub(crate) fn rows(&self) -> Result<StoredRows, redb::Error> {
        StoredRows::new(&self.database.begin_read()?)
    }
}

/// Writes one claim's changes: to the rows, as events, and the op ids.
fn write(transaction: &WriteTransaction, first: u64, claim: &PushClaim<'_>) -> Result<(), redb::Error> {
    let mut rows = transaction.open_table(ROWS)?;
    let mut events = transaction.open_table(EVENTS)?;
    let mut op_ids = transaction.open_table(OP_IDS)?;
    let client_id = claim.client_id();
    let changes = claim.changes().iter().zip(claim.op_ids());
    for (seq, (change, op_id)) in (first..).zip(changes) {
        let (entity, row_id, data) = (change.entity(), change.row_id(), change.data_json());
        let data = data.as_deref();
        match change.kind() {
            ChangeKind::Insert | ChangeKind::Update => rows.insert((entity, row_id), (seq, data))?,
            ChangeKind::Delete => rows.remove((entity, row_id))?,
        };
        let kind = kind_to_byte(change.kind());
        events.insert(seq, (claim.timestamp_millis(), kind, entity, row_id, data))?;
        if let Some((op_id, _)) = op_id {
            op_ids.insert(seq, (client_id, op_id))?;
        }
    }
    Ok(())
}
