//! The store in use: commits by the applier, snapshots for clients that load the rows.
//!
//! The file is open twice. The [`DiskStore`] has it for writing, the [`DiskReader`] for reading, in
//! redb's mode of one writer and many readers: a reader holds locks on the file that keep the pages
//! of its moment, whichever handle writes. A handle on which a write failed is of no use any more,
//! for reading neither; with two of them the one for reading does not notice, and the other one can
//! be replaced.

use super::files::failed;
use super::files::private;
use super::folder::{Folder, StoreFile};
use super::identity::Watermark;
use super::snapshot::DiskSnapshot;
use super::tables::ROWS;
use super::transaction::{Bounds, Transaction, Window};
use crate::config::Config;
use crate::store::{CommitError, Reader, Snapshot, Store, StoreError, row_state};
use redb::{Database, DatabaseError, Durability, ReadOnlyDatabase, ReadableDatabase, WriteTransaction};
use ringlog::{PushClaim, RowState};
use ringlog_axum::crash;
use ringlog_axum::echo::Echoes;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use tokio::sync::Semaphore;

/// So much must fit on the disk before pushes are taken again.
const PROBE: usize = 1 << 20;
const PROBE_FILE: &str = "ringlog.probe";

/// How a file is opened for writing, without making one.
pub(crate) type Opener = Box<dyn Fn(&Path) -> Result<Database, DatabaseError> + Send>;

/// Takes snapshots.
pub(crate) struct DiskReader {
    path: PathBuf,
    handle: Handle,
    /// The snapshot that is served while the store's handle is being replaced: no transaction can
    /// begin then.
    held: Mutex<Option<DiskSnapshot>>,
    /// One backup is sent at a time.
    pub(crate) backups: Arc<Semaphore>,
}

/// What snapshots are read through.
pub(super) enum Handle {
    /// A handle of its own: what it finds is on disk.
    Own(ReadOnlyDatabase),
    /// The store's: what it finds may be in memory only. In a cluster the stream keeps it.
    #[cfg(feature = "cluster")]
    Shared(Arc<Database>),
}

/// Commits to the file, which is closed when this is dropped.
pub(crate) struct DiskStore {
    reader: Arc<DiskReader>,
    /// None after a failure, until it is opened again.
    database: Option<Arc<Database>>,
    opener: Opener,
    watermark: Watermark,
    bounds: Bounds,
    window: Window,
    file: StoreFile,
    /// Keeps other servers out.
    folder: Folder,
}

impl DiskReader {
    pub(super) fn new(path: PathBuf, handle: Handle) -> Self {
        Self { path, handle, held: Mutex::default(), backups: Arc::new(Semaphore::new(1)) }
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// The data folder.
    #[cfg(feature = "cluster")]
    pub(crate) fn folder(&self) -> &Path {
        self.path.parent().unwrap_or(Path::new(""))
    }

    /// The store as of the last commit.
    pub(crate) fn moment(&self) -> Result<DiskSnapshot, StoreError> {
        // Locked until the transaction has begun: the store's handle must not go meanwhile.
        let held = self.held.lock().unwrap_or_else(PoisonError::into_inner);
        match &*held {
            Some(rows) => Ok(rows.clone()),
            None => self.begin(),
        }
    }

    /// What the store remembers of what changes were pushed under.
    pub(crate) fn echoes(&self, capacity: usize) -> Result<Echoes, StoreError> {
        let echoes = Echoes::new(capacity);
        let walked = self.moment()?.walk_op_ids(|seq, client_id, op_id, _| {
            echoes.restore(seq, client_id, op_id);
            Ok(())
        });
        walked.map_err(|source| StoreError::Io { path: self.path.clone(), source })?;
        Ok(echoes)
    }

    fn begin(&self) -> Result<DiskSnapshot, StoreError> {
        let transaction = match &self.handle {
            Handle::Own(database) => database.begin_read(),
            #[cfg(feature = "cluster")]
            Handle::Shared(database) => database.begin_read(),
        };
        let transaction = transaction.map_err(|error| failed(&self.path, error))?;
        DiskSnapshot::new(&transaction, &self.path).map_err(|error| failed(&self.path, error))
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

impl Reader for DiskReader {
    fn snapshot(&self) -> Result<Arc<dyn Snapshot>, ringlog_axum::StoreError> {
        Ok(Arc::new(self.moment()?))
    }
}

impl DiskStore {
    pub(super) fn new(
        (reader, folder, file): (Arc<DiskReader>, Folder, StoreFile),
        (database, opener): (Arc<Database>, Opener),
        watermark: Watermark,
        window: Window,
        config: &Config,
    ) -> Self {
        let bounds = Bounds {
            capacity: config.capacity as u64,
            max_bytes: config.window_bytes as u64,
            op_ids: config.op_ids as u64,
            tombstones: config.tombstones as u64,
            tombstone_age: config.tombstone_age,
        };
        Self { reader, database: Some(database), opener, watermark, bounds, window, file, folder }
    }

    /// A transaction with all that is to be committed, and its last seq.
    fn prepare(
        &mut self,
        first_seq: u64,
        claims: &[&PushClaim<'_>],
    ) -> Result<(WriteTransaction, u64), redb::Error> {
        let database = Arc::clone(self.database()?);
        let mut transaction = database.begin_write()?;
        transaction.set_durability(Durability::Immediate)?;
        transaction.set_two_phase_commit(true);
        let last_seq = self.write(&mut Transaction::open(&transaction)?, first_seq, claims)?;
        Ok((transaction, last_seq))
    }

    /// Writes claims. Returns their last seq.
    pub(super) fn write(
        &mut self,
        tables: &mut Transaction<'_>,
        first_seq: u64,
        claims: &[&PushClaim<'_>],
    ) -> Result<u64, redb::Error> {
        let (mut seq, mut now) = (first_seq, 0);
        for claim in claims {
            tables.write(&mut self.window, seq, claim)?;
            seq += claim.changes().len() as u64;
            now = now.max(claim.timestamp_millis());
            crash::point("claim_written");
        }
        tables.finish(&mut self.window, seq - 1, now, &self.bounds)?;
        Ok(seq - 1)
    }

    #[cfg(feature = "cluster")]
    pub(super) fn path(&self) -> &Path {
        self.reader.path()
    }

    /// The file, open for writing.
    pub(super) fn database(&self) -> Result<&Arc<Database>, redb::Error> {
        self.database.as_ref().ok_or(redb::Error::DatabaseClosed)
    }

    /// Opens the file anew. Readers go on as if nothing had happened.
    fn reopen(&mut self) -> Result<u64, StoreError> {
        // Another file would tell of another log.
        self.file.check()?;
        self.reader.hold();
        // Its locks go with it.
        self.database = None;
        let path = &self.reader.path;
        let database = (self.opener)(path).map_err(|error| failed(path, error))?;
        let (last_seq, window) = standing(&database, path).map_err(|error| failed(path, error))?;
        self.window = window;
        self.database = Some(Arc::new(database));
        self.reader.release();
        Ok(last_seq)
    }

    /// Notes that everything up to `last_seq` is on disk.
    pub(super) fn committed(&mut self, last_seq: u64) {
        self.watermark.note(last_seq);
        crash::point("marked");
    }
}

impl Store for DiskStore {
    fn reader(&self) -> Arc<dyn Reader> {
        Arc::clone(&self.reader) as _
    }

    /// One transaction, which is on disk when this returns.
    fn commit(&mut self, first_seq: u64, claims: &[&PushClaim<'_>]) -> Result<(), CommitError> {
        self.file.check().map_err(|error| CommitError { nothing_written: true, error: error.into() })?;
        let path = self.reader.path.clone();
        let failure =
            |nothing_written, error| CommitError { nothing_written, error: failed(&path, error).into() };
        let (transaction, last_seq) =
            self.prepare(first_seq, claims).map_err(|error| failure(true, error))?;
        crash::point("written");
        transaction.commit().map_err(|error| failure(false, error.into()))?;
        crash::point("committed");
        self.committed(last_seq);
        Ok(())
    }

    fn row(&self, entity: &str, row_id: &str) -> Result<RowState, ringlog_axum::StoreError> {
        let read = || -> Result<RowState, redb::Error> {
            let row = self.database()?.begin_read()?.open_table(ROWS)?.get((entity, row_id))?;
            Ok(row.map_or_else(RowState::default, |row| {
                let (seq, data) = row.value();
                row_state(seq, data)
            }))
        };
        read().map_err(|error| failed(&self.reader.path, error).into())
    }

    /// Opens the file anew. What is found there is on disk for good, since opening commits again.
    fn recover(&mut self) -> Result<u64, ringlog_axum::StoreError> {
        let last_seq = self.reopen()?;
        self.committed(last_seq);
        Ok(last_seq)
    }

    /// Checks that the disk takes something. Nothing of it stays.
    fn probe(&mut self) -> Result<(), ringlog_axum::StoreError> {
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
        written.map_err(|source| StoreError::Io { path, source }.into())
    }
}

/// The last seq of a store, and its window.
pub(super) fn standing(database: &Database, path: &Path) -> Result<(u64, Window), redb::Error> {
    let moment = DiskSnapshot::new(&database.begin_read()?, path)?;
    Ok((moment.last_seq(), Window::of(moment.events(), moment.oldest_compacted_seq())?))
}

#[cfg(test)]
mod tests {
    use super::super::open::{open, open_with};
    use super::*;
    use ringlog::{Change, ChangeLog, Operation};
    use std::sync::OnceLock;

    fn insert<'a>(row_ids: &[&'a str]) -> Vec<Operation<'a>> {
        row_ids.iter().map(|row_id| Operation::new(Change::insert("Todo", row_id))).collect()
    }

    #[test]
    fn a_store_that_is_opened_again_knows_the_bytes_of_its_window() {
        let folder = tempfile::tempdir().unwrap();
        let config = Config::default().with_data(folder.path());
        let (mut store, _reader, log) = open(&config, ChangeLog::builder()).unwrap();
        let claim = log.claim_operations(None, insert(&["t1", "t2"])).unwrap();
        store.commit(1, &[&claim]).unwrap();
        assert_eq!(store.window.bytes, 12);
        assert_eq!(store.recover().unwrap(), 2);
        assert_eq!(store.window.bytes, 12);
    }

    #[test]
    fn a_snapshot_in_the_moment_of_a_reopening_is_as_of_the_last_commit() {
        let folder = tempfile::tempdir().unwrap();
        let config = Config::default().with_data(folder.path());
        let known = Arc::new(OnceLock::<Arc<DiskReader>>::new());
        let reader_in_use = Arc::clone(&known);
        let opener: Opener = Box::new(move |path| {
            // No handle is open for writing now.
            if let Some(reader) = reader_in_use.get() {
                assert_eq!(reader.snapshot().unwrap().last_seq(), 1);
            }
            Database::builder().set_concurrency_mode(redb::ConcurrencyMode::SingleWriter).open(path)
        });
        let (mut store, reader, log) = open_with(&config, ChangeLog::builder(), opener).unwrap();
        let claim = log.claim_operations(None, insert(&["t1"])).unwrap();
        store.commit(1, &[&claim]).unwrap();
        assert!(known.set(reader).is_ok());
        assert_eq!(store.recover().unwrap(), 1);
    }
}
