//! Making a store, and opening one that is there.

use super::disk::Store;
use super::error::StoreError;
use super::overlay::Overlay;
use super::tables::{
    EVENTS, FORMAT, FORMAT_KEY, INCARNATION_KEY, LAST_SEQ_KEY, META, OP_IDS, create, kind_from_byte,
};
use crate::config::Config;
use crate::crash;
use redb::{Database, ReadTransaction, ReadableDatabase, ReadableTable};
use ringlog::{Builder, Change, ChangeLog, Incarnation};
use serde_json::value::RawValue;
use std::fs::{self, File, TryLockError};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};

const FILE: &str = "ringlog.redb";
/// What a store is called until it is whole.
const NEW_FILE: &str = "ringlog.redb.new";
const LOCK_FILE: &str = "ringlog.lock";

impl Store {
    /// Opens the store in the configured folder, makes one if there is none, and restores the log from it.
    pub(crate) fn open(config: &Config, log: Builder) -> Result<(Self, ChangeLog), StoreError> {
        let folder = &config.data;
        fs::create_dir_all(folder).map_err(|source| io(folder, source))?;
        let lock = lock(folder)?;
        let path = folder.join(FILE);
        if !path.try_exists().map_err(|source| io(&path, source))? {
            make(folder, &path)?;
        }
        let log = verify(&path, log)?;
        crash::point("verified");
        let database = Database::builder()
            .set_cache_size(config.store_cache << 20)
            .open(&path)
            .map_err(|error| StoreError::Failed(error.into()))?;
        Ok((Self::new(database, lock, config), log))
    }
}

fn io(path: &Path, source: std::io::Error) -> StoreError {
    StoreError::Io { path: path.to_owned(), source }
}

/// Takes the folder for this process, until the file is closed.
fn lock(folder: &Path) -> Result<File, StoreError> {
    let path = folder.join(LOCK_FILE);
    let file = File::options()
        .create(true)
        .truncate(false)
        .write(true)
        .open(&path)
        .map_err(|source| io(&path, source))?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => Err(StoreError::InUse(folder.to_owned())),
        Err(TryLockError::Error(source)) => Err(io(&path, source)),
    }
}

/// Makes an empty store with an incarnation of its own.
fn make(folder: &Path, path: &Path) -> Result<(), StoreError> {
    let new = folder.join(NEW_FILE);
    match fs::remove_file(&new) {
        Err(source) if source.kind() != std::io::ErrorKind::NotFound => return Err(io(&new, source)),
        _ => {}
    }
    fill(&new, Incarnation::random())?;
    crash::point("made");
    fs::rename(&new, path).map_err(|source| io(path, source))?;
    // The name is on disk before anything is acknowledged.
    #[cfg(unix)]
    File::open(folder).and_then(|folder| folder.sync_all()).map_err(|source| io(folder, source))?;
    crash::point("renamed");
    Ok(())
}

fn fill(path: &Path, incarnation: Incarnation) -> Result<(), StoreError> {
    let make = || -> Result<(), redb::Error> {
        let mut transaction = {
            let database = Database::create(path)?;
            crash::point("created");
            database.begin_write()?
        };
        transaction.set_two_phase_commit(true);
        create(&transaction)?;
        {
            let mut meta = transaction.open_table(META)?;
            meta.insert(FORMAT_KEY, &FORMAT.to_be_bytes()[..])?;
            meta.insert(INCARNATION_KEY, &incarnation.to_bytes()[..])?;
            meta.insert(LAST_SEQ_KEY, &0_u64.to_be_bytes()[..])?;
        }
        Ok(transaction.commit()?)
    };
    Ok(make()?)
}

/// Checks every page of a store, and reads the log out of it. Writes nothing, whatever is found.
fn verify(path: &Path, log: Builder) -> Result<ChangeLog, StoreError> {
    let damaged = |reason: String| StoreError::Damaged { path: path.to_owned(), reason };
    let file = File::open(path).map_err(|source| io(path, source))?;
    let overlay = Overlay::new(file).map_err(|source| io(path, source))?;
    if redb::StorageBackend::len(&overlay).is_ok_and(|len| len == 0) {
        return Err(damaged("it is empty".into()));
    }
    // On some damages redb panics rather than to return an error.
    let checked = catch_unwind(AssertUnwindSafe(|| {
        let mut database =
            Database::builder().create_with_backend(overlay).map_err(|error| error.to_string())?;
        match database.check_integrity() {
            Ok(true) => {}
            Ok(false) => return Err("its pages do not agree".to_owned()),
            Err(error) => return Err(error.to_string()),
        }
        let transaction = database.begin_read().map_err(|error| error.to_string())?;
        Reader { transaction, path }.log(log)
    }));
    match checked {
        Ok(Ok(Ok(log))) => Ok(log),
        Ok(Ok(Err(error))) => Err(error),
        Ok(Err(reason)) => Err(damaged(reason)),
        Err(_) => Err(damaged("reading it panics".into())),
    }
}

/// Reads a log out of a store whose pages are known to be whole.
struct Reader<'a> {
    transaction: ReadTransaction,
    path: &'a Path,
}

/// What was found there: a log, or something that is refused for a reason of its own; else, what is wrong with it.
type Found = Result<Result<ChangeLog, StoreError>, String>;

impl Reader<'_> {
    fn log(&self, builder: Builder) -> Found {
        let format = u64::from_be_bytes(self.meta(FORMAT_KEY)?);
        if format != FORMAT {
            let path: PathBuf = self.path.to_owned();
            return Ok(Err(StoreError::Format { path, found: format, expected: FORMAT }));
        }
        let incarnation = Incarnation::from_bytes(self.meta(INCARNATION_KEY)?);
        let last_seq = u64::from_be_bytes(self.meta(LAST_SEQ_KEY)?);
        let events = self.transaction.open_table(EVENTS).map_err(text)?;
        let oldest = events.first().map_err(text)?.map_or(last_seq + 1, |(seq, _)| seq.value());
        let base_seq = oldest.checked_sub(1).ok_or("an event has seq 0")?;
        let mut log =
            builder.incarnation(incarnation).base_seq(base_seq).build().map_err(|error| error.to_string())?;
        for entry in events.iter().map_err(text)? {
            let (seq, event) = entry.map_err(text)?;
            let (timestamp, kind, entity, row_id, data) = event.value();
            let kind = kind_from_byte(kind).ok_or("an event is of an unknown kind")?;
            let mut change = Change::new(kind, entity, row_id);
            if let Some(data) = data {
                let raw: &RawValue = serde_json::from_str(data).map_err(|error| error.to_string())?;
                change = change.raw(raw);
            }
            log.restore(seq.value(), timestamp, &change).map_err(|error| error.to_string())?;
        }
        if log.last_seq() != last_seq {
            return Err(format!("its events end at {}, not at {last_seq}", log.last_seq()));
        }
        self.restore_op_ids(&mut log)?;
        Ok(Ok(log))
    }

    fn restore_op_ids(&self, log: &mut ChangeLog) -> Result<(), String> {
        let op_ids = self.transaction.open_table(OP_IDS).map_err(text)?;
        for entry in op_ids.iter().map_err(text)? {
            let (seq, id) = entry.map_err(text)?;
            let (client_id, op_id) = id.value();
            if seq.value() > log.last_seq() {
                return Err(format!("an op id has seq {}, after the last", seq.value()));
            }
            log.restore_op_id(client_id, op_id, seq.value(), None);
        }
        Ok(())
    }

    fn meta<const N: usize>(&self, key: &str) -> Result<[u8; N], String> {
        let meta = self.transaction.open_table(META).map_err(text)?;
        let value = meta.get(key).map_err(text)?.ok_or_else(|| format!("it has no `{key}`"))?;
        value
            .value()
            .try_into()
            .map_err(|_| format!("its `{key}` has {} bytes, not {N}", value.value().len()))
    }
}

fn text(error: impl std::fmt::Display) -> String {
    error.to_string()
}
