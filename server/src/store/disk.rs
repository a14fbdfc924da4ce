//! The store in use: commits by the one writer, views for clients that load the rows.
//!
//! The file is open twice. The [`Committer`] has it for writing, the [`Store`] for reading, in
//! redb's mode of one writer and many readers: a reader holds locks on the file that keep the pages
//! of its moment, whichever handle writes. A handle on which a write failed is of no use any more,
//! for reading neither; with two of them the one for reading does not notice, and the other one can
//! be replaced.

use super::error::{StoreError, failed};
use super::folder::{Folder, StoreFile, private};
use super::identity::Watermark;
use super::tables::{EVENTS, LAST_SEQ_KEY, META, OP_IDS, ROWS, kind_to_byte, text_len};
use super::view::StoredRows;
use crate::config::Config;
use crate::crash;
use redb::{
    Database, DatabaseError, Durability, ReadOnlyDatabase, ReadableDatabase, ReadableTable,
    ReadableTableMetadata, WriteTransaction,
};
use ringlog::{ChangeKind, PushClaim};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use tokio::sync::Semaphore;

/// So much must fit on the disk before pushes are taken again.
const PROBE: usize = 1 << 20;
const PROBE_FILE: &str = "ringlog.probe";

/// How a file is opened for writing, without making one.
pub(crate) type Opener = Box<dyn Fn(&Path) -> Result<Database, DatabaseError> + Send>;

/// What requests read from.
pub(crate) struct Store {
    path: PathBuf,
    reader: ReadOnlyDatabase,
    /// What is served while the committer's handle is being replaced: no transaction can begin
    /// then.
    held: Mutex<Option<StoredRows>>,
    /// One backup is sent at a time.
    pub(crate) backups: Arc<Semaphore>,
}

/// What the writer commits with. The store is closed when it is dropped.
pub(crate) struct Committer {
    store: Arc<Store>,
    /// None after a failure, until it is opened again.
    database: Option<Database>,
    opener: Opener,
    watermark: Watermark,
    window: Window,
    op_ids: u64,
    file: StoreFile,
    /// Keeps other servers out.
    folder: Folder,
}

/// What of the events is kept on disk: just what the log keeps.
#[derive(Debug, Clone, Copy)]
pub(super) struct Window {
    pub(super) capacity: u64,
    pub(super) max_bytes: u64,
    /// The bytes of text in the table as it is on disk.
    pub(super) bytes: u64,
}

/// A commit that failed. The committer must be [reopened](Committer::reopen).
#[derive(Debug)]
pub(crate) struct Failure {
    /// Whether nothing of the transaction can be on disk: it failed before the commit began.
    pub(crate) is_known: bool,
    pub(crate) error: StoreError,
}

impl Store {
    pub(super) fn new(path: PathBuf, reader: ReadOnlyDatabase) -> Self {
        Self { path, reader, held: Mutex::default(), backups: Arc::new(Semaphore::new(1)) }
    }

    /// The rows as they are now, and will be in this view whatever is committed.
    pub(crate) fn rows(&self) -> Result<StoredRows, StoreError> {
        // Locked until the transaction has begun: the committer's handle must not go meanwhile.
        let held = self.held.lock().unwrap_or_else(PoisonError::into_inner);
        match &*held {
            Some(rows) => Ok(rows.clone()),
            None => self.begin(),
        }
    }

    fn begin(&self) -> Result<StoredRows, StoreError> {
        let transaction = self.reader.begin_read().map_err(|error| failed(&self.path, error))?;
        StoredRows::new(&transaction).map_err(|error| failed(&self.path, error))
    }

    /// Serves the rows of this moment until they are released.
    fn hold(&self) {
        let mut held = self.held.lock().unwrap_or_else(PoisonError::into_inner);
        if held.is_none() {
            match self.begin() {
                Ok(rows) => *held = Some(rows),
                Err(error) => tracing::warn!(%error, "snapshots have to wait until the store is open again"),
            }
        }
    }

    fn release(&self) {
        *self.held.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }
}

impl Committer {
    pub(super) fn new(
        (store, folder, file): (Arc<Store>, Folder, StoreFile),
        (database, opener): (Database, Opener),
        watermark: Watermark,
        window: Window,
        config: &Config,
    ) -> Self {
        Self {
            store,
            database: Some(database),
            opener,
            watermark,
            window,
            op_ids: config.op_ids as u64,
            file,
            folder,
        }
    }

    /// Writes what these claims hold, in one transaction that is on disk when this returns. The
    /// first event gets the seq `first`, the others the next ones.
    pub(crate) fn commit<'a>(
        &mut self,
        first: u64,
        claims: impl Iterator<Item = &'a PushClaim<'a>>,
    ) -> Result<(), Failure> {
        self.file.check().map_err(|error| Failure { is_known: true, error })?;
        let path = self.store.path.clone();
        let failure = |is_known, error: redb::Error| Failure { is_known, error: failed(&path, error) };
        let (transaction, last_seq, bytes) =
            self.prepare(first, claims).map_err(|error| failure(true, error))?;
        crash::point("written");
        transaction.commit().map_err(|error| failure(false, error.into()))?;
        crash::point("committed");
        self.window.bytes = bytes;
        self.committed(last_seq);
        Ok(())
    }

    /// Notes that everything up to `last_seq` is on disk.
    pub(crate) fn committed(&mut self, last_seq: u64) {
        self.watermark.note(last_seq);
        crash::point("marked");
    }

    /// A transaction with all that is to be committed, its last seq, and how many bytes of text the
    /// window then has.
    fn prepare<'a>(
        &self,
        first: u64,
        claims: impl Iterator<Item = &'a PushClaim<'a>>,
    ) -> Result<(WriteTransaction, u64, u64), redb::Error> {
        let database = self.database.as_ref().ok_or(redb::Error::DatabaseClosed)?;
        let mut transaction = database.begin_write()?;
        transaction.set_durability(Durability::Immediate)?;
        transaction.set_two_phase_commit(true);
        let (mut seq, mut bytes) = (first, self.window.bytes);
        for claim in claims {
            bytes += write(&transaction, seq, claim)?;
            seq += claim.changes().len() as u64;
            crash::point("claim_written");
        }
        let bytes = self.finish(&transaction, seq - 1, bytes)?;
        Ok((transaction, seq - 1, bytes))
    }

    /// Notes the last seq, and drops what has left the window and the memory of op ids. Answers
    /// with the bytes that stay.
    fn finish(
        &self,
        transaction: &WriteTransaction,
        last_seq: u64,
        mut bytes: u64,
    ) -> Result<u64, redb::Error> {
        let mut meta = transaction.open_table(META)?;
        meta.insert(LAST_SEQ_KEY, &last_seq.to_be_bytes()[..])?;
        let mut events = transaction.open_table(EVENTS)?;
        while events.len()? > self.window.capacity || bytes > self.window.max_bytes {
            let Some((_, event)) = events.pop_first()? else { break };
            let (_, _, entity, row_id, data) = event.value();
            bytes -= text_len(entity, row_id, data);
        }
        let mut op_ids = transaction.open_table(OP_IDS)?;
        while op_ids.len()? > self.op_ids {
            op_ids.pop_first()?;
        }
        Ok(bytes)
    }

    /// Opens the file anew, and answers with the last seq on disk: after a failed commit this tells
    /// what became of it. What is found is on disk for good, since opening commits again. Readers
    /// go on as if nothing had happened.
    pub(crate) fn reopen(&mut self) -> Result<u64, StoreError> {
        // Another file would tell of another log.
        self.file.check()?;
        self.store.hold();
        // Its locks go with it.
        self.database = None;
        let path = &self.store.path;
        let database = (self.opener)(path).map_err(|error| failed(path, error))?;
        let (last_seq, bytes) = standing(&database).map_err(|error| failed(path, error))?;
        self.window.bytes = bytes;
        self.database = Some(database);
        self.store.release();
        Ok(last_seq)
    }

    /// Whether the disk takes something again. Nothing of it stays.
    pub(crate) fn probe(&mut self) -> Result<(), StoreError> {
        self.file.check()?;
        if self.database.is_none() {
            self.reopen()?;
        }
        let path = self.folder.path().join(PROBE_FILE);
        let written = private().create(true).truncate(true).write(true).open(&path).and_then(|mut file| {
            // Not zeros: some file systems keep those for nothing.
            file.write_all(&vec![0xa5; PROBE])?;
            file.sync_all()
        });
        let _ = std::fs::remove_file(&path);
        written.map_err(|source| StoreError::Io { path, source })
    }
}

/// The last seq of a store, and how many bytes of text its window has.
fn standing(database: &Database) -> Result<(u64, u64), redb::Error> {
    let rows = StoredRows::new(&database.begin_read()?)?;
    let mut bytes = 0;
    for event in rows.events().iter()? {
        let (_, event) = event?;
        let (_, _, entity, row_id, data) = event.value();
        bytes += text_len(entity, row_id, data);
    }
    Ok((rows.last_seq(), bytes))
}

/// Writes one claim's changes: to the rows, as events, and the op ids. Answers with how many bytes
/// of text the events have.
fn write(transaction: &WriteTransaction, first: u64, claim: &PushClaim<'_>) -> Result<u64, redb::Error> {
    let mut rows = transaction.open_table(ROWS)?;
    let mut events = transaction.open_table(EVENTS)?;
    let mut op_ids = transaction.open_table(OP_IDS)?;
    let mut bytes = 0;
    for (seq, (change, op_id)) in (first..).zip(claim.changes().iter().zip(claim.op_ids())) {
        let (entity, row_id, data) = (change.entity(), change.row_id(), change.data_json());
        let data = data.as_deref();
        match change.kind() {
            ChangeKind::Insert | ChangeKind::Update => rows.insert((entity, row_id), (seq, data))?,
            ChangeKind::Delete => rows.remove((entity, row_id))?,
        };
        let kind = kind_to_byte(change.kind());
        events.insert(seq, (claim.timestamp_millis(), kind, entity, row_id, data))?;
        bytes += text_len(entity, row_id, data);
        if let Some((op_id, fingerprint)) = op_id {
            op_ids.insert(seq, (claim.client_id(), op_id, Some(fingerprint.to_bits())))?;
        }
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;
    use ringlog::{Change, ChangeLog, Operation};

    #[test]
    fn a_store_that_is_opened_again_knows_the_bytes_of_its_window() {
        let folder = tempfile::tempdir().unwrap();
        let config = Config::parse_from(["ringlog-server", "--data", folder.path().to_str().unwrap()]);
        let (_store, mut committer, log) = Store::open(&config, ChangeLog::builder()).unwrap();
        let operations = ["t1", "t2"].map(|row_id| Operation::new(Change::insert("Todo", row_id)));
        let claim = log.claim_operations(None, operations.into()).unwrap();
        committer.commit(1, std::iter::once(&claim)).unwrap();
        assert_eq!(committer.window.bytes, 12);
        assert_eq!(committer.reopen().unwrap(), 2);
        assert_eq!(committer.window.bytes, 12);
    }
}
