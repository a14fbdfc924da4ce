//! Making a store, and opening one that is there.

use super::files::{failed, io};
use super::folder::{Folder, StoreFile, empty_file, has_store, store_in, warn_of_others};
use super::identity::{Identity, Kept, Marks, Origin, Watermark};
use super::overlay::Overlay;
use super::snapshot::DiskSnapshot;
use super::store::{DiskReader, DiskStore, Handle, Opener, standing};
#[cfg(feature = "cluster")]
use super::tables::STREAM_KEY;
use super::tables::{
    EVENTS, FORMAT, FORMAT_1, FORMAT_KEY, FORMATS, IDENTITY_KEY, INCARNATION_KEY, LAST_SEQ_KEY, LINKS_NAME,
    MARK_KEY, META, OP_IDS, OP_IDS_1, create, create_history, kind_from_byte,
};
use super::transaction::Transaction;
#[cfg(feature = "cluster")]
use crate::cluster::machine::{Machine, Memory};
use crate::config::Config;
use crate::store::StoreError;
use redb::{
    ConcurrencyMode, Database, DatabaseError, ReadTransaction, ReadableDatabase, ReadableTable, TableHandle,
    WriteTransaction,
};
use ringlog::{Builder, Change, ChangeLog, Fingerprint, Incarnation};
use ringlog_axum::crash;
use serde_json::value::RawValue;
use std::fs::File;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

/// What opening a store gives: the store, its reader, and the log that goes on where it ends.
pub(crate) type Opened = (DiskStore, Arc<DiskReader>, ChangeLog);

/// Opens the store in the configured folder, or makes one if there is none, and restores the log
/// from it.
pub(crate) fn open(config: &Config, log: Builder) -> Result<Opened, StoreError> {
    open_with(config, log, opener(config))
}

fn opener(config: &Config) -> Opener {
    let cache = cache_size(config);
    Box::new(move |path: &Path| builder(cache / 2).open(path))
}

/// Opens the store of a node, whose log is that of its cluster: `node` begins with the incarnation
/// of its stream.
#[cfg(feature = "cluster")]
pub(crate) fn open_node(
    config: &Config,
    log: Builder,
    node: (Incarnation, Memory),
) -> Result<(Opened, Machine), StoreError> {
    let (stream, memory) = node;
    let cache = cache_size(config);
    // The file alone: redb leaves out syncs only where no other process reads.
    let opener = move |path: &Path| Database::builder().set_cache_size(cache).open(path);
    let parts = open_as(config, log, Box::new(opener), Some(stream))?;
    let (store, _, log) = &parts;
    let machine = super::node::load(store, node)?;
    if machine.is_none() && log.last_seq() > 0 {
        return Err(StoreError::NotNode(config.data.clone()));
    }
    Ok((parts, machine.unwrap_or_else(|| Machine::new(stream, memory))))
}

/// As [`open`], with a given way to open the file for writing.
pub(crate) fn open_with(config: &Config, log: Builder, opener: Opener) -> Result<Opened, StoreError> {
    open_as(config, log, opener, None)
}

/// Opens a store of its own, or that of a node, whose stream has this incarnation.
fn open_as(
    config: &Config,
    log: Builder,
    opener: Opener,
    cluster: Option<Incarnation>,
) -> Result<Opened, StoreError> {
    // A mistyped name would be adopted as an empty log.
    if config.adopt && !has_store(&store_in(&config.data))? {
        return Err(missing(&store_in(&config.data)));
    }
    let folder = Folder::lock(&config.data)?;
    let path = folder.store();
    if !folder.has_store()? {
        make(&folder, cluster.unwrap_or_else(Incarnation::random))?;
    }
    warn_of_others(&path);
    let marks = Marks::read(folder.path())?;
    let found = verify(&path, cache_size(config), |transaction| {
        Reader { transaction, path: &path, cluster }.read(config, &marks, log)
    })?;
    crash::point("verified");
    let database = opener(&path).map_err(|error| failed(&path, error))?;
    let last_seq = found.log.last_seq();
    let mut watermark = Watermark::begin(folder.path(), last_seq, found.kept.mark, &marks);
    crash::point("begun");
    // One that is there and cannot be taken over stays the store's; one that is not is
    // forgotten.
    let mark = watermark.identity()?.or_else(|| found.kept.mark.filter(|mark| marks.has(*mark)));
    if found.is_outdated || mark != found.kept.mark {
        settle(&database, &found, mark).map_err(|error| failed(&path, error))?;
        crash::point("settled");
    }
    watermark.settle(last_seq, &marks)?;
    let database = Arc::new(database);
    let handle = match cluster {
        #[cfg(feature = "cluster")]
        Some(_) => Handle::Shared(Arc::clone(&database)),
        _ => Handle::Own(
            builder(cache_size(config) / 2).open_read_only(&path).map_err(|error| failed(&path, error))?,
        ),
    };
    let file = StoreFile::open(&path)?;
    let reader = Arc::new(DiskReader::new(path, handle));
    let parts = (Arc::clone(&reader), folder, file);
    let (_, window) = standing(&database, reader.path()).map_err(|error| failed(reader.path(), error))?;
    let store = DiskStore::new(parts, (database, opener), watermark, window, config);
    Ok((store, reader, found.log))
}

fn cache_size(config: &Config) -> usize {
    config.store_cache << 20
}

/// Opens files so that another handle can read what this one writes, or is read from what another
/// one writes.
fn builder(cache: usize) -> redb::Builder {
    let mut builder = Database::builder();
    builder.set_cache_size(cache).set_concurrency_mode(ConcurrencyMode::SingleWriter);
    builder
}

/// Reads one moment of the store in a folder, be a server running on it or not.
pub(super) fn with_moment<T>(
    folder: &Path,
    read: impl FnOnce(&DiskSnapshot) -> Result<T, StoreError>,
) -> Result<T, StoreError> {
    const CACHE: usize = 64 << 20;
    let path = store_in(folder);
    if !has_store(&path)? {
        return Err(missing(&path));
    }
    let read = |transaction: &ReadTransaction| {
        check_format(transaction, &path)?;
        read(&DiskSnapshot::new(transaction, &path).map_err(|error| failed(&path, error))?)
    };
    match builder(CACHE).open_read_only(&path) {
        Ok(database) => {
            let transaction = database.begin_read().map_err(|error| failed(&path, error))?;
            read(&transaction)
        }
        // Its last server was killed; what it would need for repair stays in memory.
        Err(DatabaseError::RepairAborted) => verify(&path, CACHE, |transaction| Ok(read(&transaction))),
        Err(error) => Err(failed(&path, error)),
    }
}

fn missing(path: &Path) -> StoreError {
    io(path, std::io::Error::new(std::io::ErrorKind::NotFound, "there is no store"))
}

fn check_format(transaction: &ReadTransaction, path: &Path) -> Result<(), StoreError> {
    let found = meta(transaction, FORMAT_KEY).map(u64::from_be_bytes);
    let found = found.map_err(|reason| StoreError::Damaged { path: path.to_owned(), reason })?;
    if FORMATS.contains(&found) {
        return Ok(());
    }
    Err(StoreError::Format { path: path.to_owned(), found, expected: FORMAT })
}

/// Makes an empty store of this incarnation.
fn make(folder: &Folder, incarnation: Incarnation) -> Result<(), StoreError> {
    folder.check_restored()?;
    // Of a store that is gone; they say nothing about this one.
    Watermark::clear(folder.path())?;
    let path = folder.new_path();
    fill(&path, |_| Ok(Filled { incarnation, last_seq: 0 }))?;
    crash::point("made");
    folder.name_store(&path)?;
    crash::point("renamed");
    Ok(())
}

/// What a new store holds.
pub(super) struct Filled {
    pub(super) incarnation: Incarnation,
    pub(super) last_seq: u64,
}

/// Makes a store under another name: `contents` writes what is in it. On any error nothing stays.
pub(super) fn fill(
    path: &Path,
    contents: impl FnOnce(&WriteTransaction) -> Result<Filled, StoreError>,
) -> Result<(), StoreError> {
    empty_file(path)?;
    let filled = fill_at(path, contents);
    if filled.is_err() {
        let _ = std::fs::remove_file(path);
    }
    filled
}

fn fill_at(
    path: &Path,
    contents: impl FnOnce(&WriteTransaction) -> Result<Filled, StoreError>,
) -> Result<(), StoreError> {
    const CACHE: usize = 64 << 20;
    let identity = Identity::of(path)?;
    let begin = || -> Result<(Database, WriteTransaction), redb::Error> {
        let database = Database::builder().set_cache_size(CACHE).create(path)?;
        crash::point("created");
        let mut transaction = database.begin_write()?;
        transaction.set_two_phase_commit(true);
        create(&transaction)?;
        Ok((database, transaction))
    };
    let (database, transaction) = begin().map_err(|error| failed(path, error))?;
    let Filled { incarnation, last_seq } = contents(&transaction)?;
    let finish = || -> Result<(), redb::Error> {
        {
            let mut meta = transaction.open_table(META)?;
            meta.insert(FORMAT_KEY, &FORMAT.to_be_bytes()[..])?;
            meta.insert(INCARNATION_KEY, &incarnation.to_bytes()[..])?;
            meta.insert(LAST_SEQ_KEY, &last_seq.to_be_bytes()[..])?;
            meta.insert(IDENTITY_KEY, &identity.to_bytes()[..])?;
        }
        transaction.commit()?;
        Ok(database.close()?)
    };
    finish().map_err(|error| failed(path, error))
}

/// What is found in a store whose pages are whole: something, or what is refused for a reason of
/// its own; else, what is wrong with it.
pub(super) type Checked<T> = Result<Result<T, StoreError>, String>;

/// Checks every page of a store, then reads it. Writes nothing, whatever is found.
pub(super) fn verify<T>(
    path: &Path,
    cache: usize,
    read: impl FnOnce(ReadTransaction) -> Checked<T>,
) -> Result<T, StoreError> {
    let damaged = |reason: String| StoreError::Damaged { path: path.to_owned(), reason };
    let file = File::open(path).map_err(|source| io(path, source))?;
    let overlay = Overlay::new(file).map_err(|source| io(path, source))?;
    if redb::StorageBackend::len(&overlay).is_ok_and(|len| len == 0) {
        return Err(damaged("it is empty".into()));
    }
    // On some damages redb panics rather than to return an error.
    let checked = catch_unwind(AssertUnwindSafe(|| {
        let database = Database::builder()
            .set_cache_size(cache)
            .set_check_integrity_on_open(true)
            .create_with_backend(overlay)
            .map_err(|error| error.to_string())?;
        read(database.begin_read().map_err(|error| error.to_string())?)
    }));
    match checked {
        Ok(Ok(Ok(found))) => Ok(found),
        Ok(Ok(Err(error))) => Err(error),
        Ok(Err(reason)) => Err(damaged(reason)),
        Err(_) => Err(damaged("reading it panics".into())),
    }
}

/// A store that was read.
struct Found {
    log: ChangeLog,
    format: u64,
    kept: Kept,
    identity: Identity,
    /// Whether format, incarnation or identity on disk are not those that hold from now on.
    is_outdated: bool,
}

/// Brings a store up to date in one transaction: its format, its incarnation, its identity, its
/// watermark's.
fn settle(database: &Database, found: &Found, mark: Option<Identity>) -> Result<(), redb::Error> {
    let mut transaction = database.begin_write()?;
    transaction.set_two_phase_commit(true);
    {
        let mut meta = transaction.open_table(META)?;
        if found.format == FORMAT_1 {
            convert_op_ids(&transaction)?;
        }
        meta.insert(FORMAT_KEY, &FORMAT.to_be_bytes()[..])?;
        meta.insert(INCARNATION_KEY, &found.log.incarnation().to_bytes()[..])?;
        meta.insert(IDENTITY_KEY, &found.identity.to_bytes()[..])?;
        match mark {
            Some(mark) => drop(meta.insert(MARK_KEY, &mark.to_bytes()[..])?),
            None => drop(meta.remove(MARK_KEY)?),
        }
    }
    if found.format < FORMAT {
        create_history(&transaction)?;
        Transaction::open(&transaction)?.convert(found.log.last_seq(), now_millis())?;
    }
    Ok(transaction.commit()?)
}

/// Milliseconds since 1970.
pub(super) fn now_millis() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_millis() as u64
}

/// The op ids of format 1 have no fingerprints.
fn convert_op_ids(transaction: &WriteTransaction) -> Result<(), redb::Error> {
    {
        let (before, mut after) = (transaction.open_table(OP_IDS_1)?, transaction.open_table(OP_IDS)?);
        for entry in before.iter()? {
            let (seq, id) = entry?;
            let (client_id, op_id) = id.value();
            after.insert(seq.value(), (client_id, op_id, None))?;
        }
    }
    transaction.delete_table(OP_IDS_1)?;
    Ok(())
}

/// Reads a log out of a store whose pages are known to be whole.
struct Reader<'a> {
    transaction: ReadTransaction,
    path: &'a Path,
    /// The incarnation of the stream, if it is the store of a node.
    cluster: Option<Incarnation>,
}

impl Reader<'_> {
    fn read(&self, config: &Config, marks: &Marks, builder: Builder) -> Checked<Found> {
        let format = u64::from_be_bytes(meta(&self.transaction, FORMAT_KEY)?);
        if !FORMATS.contains(&format) {
            let path = self.path.to_owned();
            return Ok(Err(StoreError::Format { path, found: format, expected: FORMAT }));
        }
        let last_seq = u64::from_be_bytes(meta(&self.transaction, LAST_SEQ_KEY)?);
        let kept = Incarnation::from_bytes(meta(&self.transaction, INCARNATION_KEY)?);
        let identity = match Identity::of(self.path) {
            Ok(identity) => identity,
            Err(error) => return Ok(Err(error)),
        };
        let known = if format == FORMAT_1 {
            Kept::default()
        } else {
            let store = Some(Identity::from_bytes(meta(&self.transaction, IDENTITY_KEY)?));
            Kept { store, mark: optional(&self.transaction, MARK_KEY)?.map(Identity::from_bytes) }
        };
        let origin = Origin::of(known, identity, last_seq, marks);
        let incarnation = match self.incarnation(config, kept, origin, last_seq) {
            Ok(incarnation) => incarnation,
            Err(error) => return Ok(Err(error)),
        };
        let mut log = self.log(builder.incarnation(incarnation), last_seq)?;
        self.restore_op_ids(format, &mut log)?;
        let is_outdated = format != FORMAT || incarnation != kept || known.store != Some(identity);
        Ok(Ok(Found { log, format, kept: known, identity, is_outdated }))
    }

    /// The incarnation of this log from now on: what is a copy is another log.
    fn incarnation(
        &self,
        config: &Config,
        kept: Incarnation,
        origin: Origin,
        last_seq: u64,
    ) -> Result<Incarnation, StoreError> {
        let (store, path) = (self.path.display(), self.path.to_owned());
        match self.cluster {
            #[cfg(feature = "cluster")]
            Some(cluster) => return self.check_stream(cluster, kept).map(|()| kept),
            #[cfg(not(feature = "cluster"))]
            Some(_) => {}
            None if self.is_node() => return Err(StoreError::Node(path)),
            None => {}
        }
        let new = || Incarnation::random();
        Ok(match origin {
            Origin::Older { seen } if config.adopt => {
                return Err(StoreError::Older { path: self.path.to_owned(), last_seq, seen });
            }
            Origin::Older { seen } => {
                tracing::warn!(%store, last_seq, seen, "an old copy of the store was put back: it is another log from here on, \
                    and clients load their rows anew");
                new()
            }
            _ if config.new_incarnation => {
                tracing::info!(%store, "--new-incarnation: it is another log from here on, and clients load their rows anew");
                new()
            }
            Origin::Copied if config.adopt => {
                tracing::info!(%store, "--adopt: a copy of the store goes on as the same log; the original must not");
                kept
            }
            Origin::Copied => {
                tracing::warn!(%store, "this is a copy of the store: it is another log from here on, and clients load their rows \
                    anew (if it was moved here and the original is not used again, start a fresh copy with --adopt)");
                new()
            }
            Origin::Same => kept,
        })
    }

    /// Checks that it is of this stream. A copy of it is as good, and so is an old one: the stream
    /// has the rest.
    #[cfg(feature = "cluster")]
    fn check_stream(&self, cluster: Incarnation, kept: Incarnation) -> Result<(), StoreError> {
        let path = self.path.to_owned();
        let stream = match optional(&self.transaction, STREAM_KEY) {
            Ok(stream) => stream.map_or(kept, Incarnation::from_bytes),
            Err(reason) => return Err(StoreError::Damaged { path, reason }),
        };
        if stream == cluster { Ok(()) } else { Err(StoreError::OtherCluster { path, kept: stream, cluster }) }
    }

    /// Whether it is the store of a node.
    fn is_node(&self) -> bool {
        self.transaction
            .list_tables()
            .is_ok_and(|mut tables| tables.any(|table| TableHandle::name(&table) == LINKS_NAME))
    }

    /// A log with the events.
    fn log(&self, builder: Builder, last_seq: u64) -> Result<ChangeLog, String> {
        let events = self.transaction.open_table(EVENTS).map_err(text)?;
        let oldest = events.first().map_err(text)?.map_or(last_seq + 1, |(seq, _)| seq.value());
        let base_seq = oldest.checked_sub(1).ok_or("an event has seq 0")?;
        let mut log = builder.base_seq(base_seq).build().map_err(text)?;
        for entry in events.iter().map_err(text)? {
            let (seq, event) = entry.map_err(text)?;
            let (timestamp, kind, entity, row_id, data) = event.value();
            let kind = kind_from_byte(kind).ok_or("an event is of an unknown kind")?;
            let mut change = Change::new(kind, entity, row_id);
            if let Some(data) = data {
                let raw: &RawValue = serde_json::from_str(data).map_err(text)?;
                change = change.with_raw(raw);
            }
            log.restore(seq.value(), timestamp, &change).map_err(text)?;
        }
        if log.last_seq() != last_seq {
            return Err(format!("its events end at {}, not at {last_seq}", log.last_seq()));
        }
        Ok(log)
    }

    fn restore_op_ids(&self, format: u64, log: &mut ChangeLog) -> Result<(), String> {
        let last_seq = log.last_seq();
        let mut restore = |seq: u64, client_id: Option<&str>, op_id: &str, fingerprint: Option<u64>| {
            if seq > last_seq {
                return Err(format!("an op id has seq {seq}, after the last"));
            }
            log.restore_op_id(client_id, op_id, seq, fingerprint.and_then(Fingerprint::from_bits));
            Ok(())
        };
        if format == FORMAT_1 {
            for entry in self.transaction.open_table(OP_IDS_1).map_err(text)?.iter().map_err(text)? {
                let (seq, id) = entry.map_err(text)?;
                let (client_id, op_id) = id.value();
                restore(seq.value(), client_id, op_id, None)?;
            }
            return Ok(());
        }
        for entry in self.transaction.open_table(OP_IDS).map_err(text)?.iter().map_err(text)? {
            let (seq, id) = entry.map_err(text)?;
            let (client_id, op_id, fingerprint) = id.value();
            restore(seq.value(), client_id, op_id, fingerprint)?;
        }
        Ok(())
    }
}

/// A value of the table `meta`, of just so many bytes.
fn meta<const N: usize>(transaction: &ReadTransaction, key: &str) -> Result<[u8; N], String> {
    optional(transaction, key)?.ok_or_else(|| format!("it has no `{key}`"))
}

/// A value of the table `meta` that not every store has.
fn optional<const N: usize>(transaction: &ReadTransaction, key: &str) -> Result<Option<[u8; N]>, String> {
    let meta = transaction.open_table(META).map_err(text)?;
    let Some(value) = meta.get(key).map_err(text)? else { return Ok(None) };
    let bytes = value.value();
    bytes.try_into().map(Some).map_err(|_| format!("its `{key}` has {} bytes, not {N}", bytes.len()))
}

fn text(error: impl std::fmt::Display) -> String {
    error.to_string()
}
