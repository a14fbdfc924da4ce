//! Backups: one moment of a store as a stream, and a store made of such a stream.
//!
//! A backup is gzip of lines of JSON: first which store it is of, then rows, events, op ids and the
//! compacted history in the order of their keys, and at last how many there were. It is written and
//! read from front to back, in memory that does not grow with it. One that was cut or damaged is
//! known by the checksum of gzip and by its last line.

use super::files::{failed, io, private, sync_folder};
use super::folder::Folder;
use super::identity::{Identity, Watermark};
use super::open::{Filled, fill, now_millis, verify, with_moment};
use super::snapshot::{DiskSnapshot, as_io};
#[cfg(feature = "cluster")]
use super::store::DiskReader;
use super::tables::kind_from_byte;
use super::transaction::Transaction;
#[cfg(feature = "cluster")]
use crate::cluster::frame::Session;
#[cfg(feature = "cluster")]
use crate::cluster::machine::{Link, Sent};
use crate::store::{Snapshot, StoreError};
use flate2::Compression;
use flate2::bufread::GzDecoder;
use flate2::write::GzEncoder;
use redb::{ReadableTable, WriteTransaction};
use ringlog::Incarnation;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use std::borrow::Cow;
use std::fs::{self, File, TryLockError};
use std::io::{self as stdio, BufRead, BufReader, BufWriter, Seek, Write};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};

/// The version of the stream.
const FORMAT: u32 = 2;

/// The version without a history. It is read as well.
const FORMAT_1: u32 = 1;

/// What a file is called until it is whole: its name and this.
const PARTIAL: &str = ".partial";

/// One line.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
enum Line<'a> {
    Backup {
        format: u32,
        incarnation: Cow<'a, str>,
        last_seq: u64,
        /// None if the store had no history: its format was older.
        #[serde(default)]
        oldest_compacted_seq: Option<u64>,
    },
    /// Entity, row id, seq, data.
    Row(Cow<'a, str>, Cow<'a, str>, u64, Option<Cow<'a, str>>),
    /// Seq, timestamp, kind, entity, row id, data.
    Event(u64, u64, u8, Cow<'a, str>, Cow<'a, str>, Option<Cow<'a, str>>),
    /// Seq, client id, op id, fingerprint.
    OpId(u64, Option<Cow<'a, str>>, Cow<'a, str>, Option<u64>),
    /// Of the history: seq, timestamp, kind, entity, row id.
    Latest(u64, u64, u8, Cow<'a, str>, Cow<'a, str>),
    /// Of a node: the incarnation of its stream, if its log has another one.
    Stream(Cow<'a, str>),
    /// Of a node: position, hash (its upper and its lower half), last seq.
    Link(u64, u64, u64, u64),
    /// Of a node: session, number and position of its last frame.
    Session(u64, u64, u64),
    End(BackupSummary),
}

/// What a backup holds.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BackupSummary {
    /// The seq of the last change in it.
    pub last_seq: u64,
    /// How many rows.
    pub rows: u64,
    /// How many events of the window.
    pub events: u64,
    /// How many op ids.
    pub op_ids: u64,
    /// How many changes of the compacted history.
    #[serde(default)]
    pub latest: u64,
}

/// Writes one moment of a store.
///
/// # Errors
/// Those of the writer, as they are; those of the store.
pub(crate) fn write_backup(moment: &DiskSnapshot, out: impl Write) -> stdio::Result<BackupSummary> {
    // On a damaged page redb may panic rather than to return an error.
    catch_unwind(AssertUnwindSafe(|| write_lines(moment, out)))
        .unwrap_or_else(|_| Err(stdio::Error::other("the store is damaged: reading it panics")))
}

fn write_lines(moment: &DiskSnapshot, out: impl Write) -> stdio::Result<BackupSummary> {
    let mut lines =
        Lines { out: BufWriter::with_capacity(1 << 16, GzEncoder::new(out, Compression::fast())) };
    let mut summary = BackupSummary { last_seq: moment.last_seq(), ..BackupSummary::default() };
    lines.write(&Line::Backup {
        format: FORMAT,
        incarnation: moment.incarnation().to_string().into(),
        last_seq: summary.last_seq,
        oldest_compacted_seq: moment.history().map(|(_, oldest)| oldest),
    })?;
    for entry in moment.rows().iter().map_err(as_io)? {
        let (key, value) = entry.map_err(as_io)?;
        let ((entity, row_id), (seq, data)) = (key.value(), value.value());
        lines.write(&Line::Row(entity.into(), row_id.into(), seq, data.map(Into::into)))?;
        summary.rows += 1;
    }
    for entry in moment.events().iter().map_err(as_io)? {
        let (seq, event) = entry.map_err(as_io)?;
        let (timestamp, kind, entity, row_id, data) = event.value();
        let (entity, row_id, data) = (entity.into(), row_id.into(), data.map(Into::into));
        lines.write(&Line::Event(seq.value(), timestamp, kind, entity, row_id, data))?;
        summary.events += 1;
    }
    moment.walk_op_ids(|seq, client_id, op_id, fingerprint| {
        lines.write(&Line::OpId(seq, client_id.map(Into::into), op_id.into(), fingerprint))?;
        summary.op_ids += 1;
        Ok(())
    })?;
    for entry in
        moment.history().map(|(history, _)| history.iter()).transpose().map_err(as_io)?.into_iter().flatten()
    {
        let (seq, change) = entry.map_err(as_io)?;
        let (timestamp, kind, entity, row_id) = change.value();
        lines.write(&Line::Latest(seq.value(), timestamp, kind, entity.into(), row_id.into()))?;
        summary.latest += 1;
    }
    #[cfg(feature = "cluster")]
    if let Some(frames) = moment.frames() {
        if let Some(stream) = frames.stream() {
            lines.write(&Line::Stream(stream.to_string().into()))?;
        }
        for (position, link) in frames.links().map_err(as_io)? {
            let (upper, lower) = ((link.hash >> 64) as u64, link.hash as u64);
            lines.write(&Line::Link(position, upper, lower, link.last_seq))?;
        }
        for (session, sent) in frames.sessions().map_err(as_io)? {
            lines.write(&Line::Session(session.0, sent.n, sent.position))?;
        }
    }
    lines.write(&Line::End(summary))?;
    let encoder = lines.out.into_inner().map_err(stdio::IntoInnerError::into_error)?;
    encoder.finish()?.flush()?;
    Ok(summary)
}

struct Lines<W: Write> {
    out: BufWriter<W>,
}

impl<W: Write> Lines<W> {
    fn write(&mut self, line: &Line<'_>) -> stdio::Result<()> {
        serde_json::to_writer(&mut self.out, line)?;
        self.out.write_all(b"\n")
    }
}

/// Writes a backup of the store in a folder to a file that is not there yet, be a server running on
/// that store or not. The file is read back and checked before it gets its name.
///
/// # Errors
/// [`StoreError`] if there is no store, or the file is there or cannot be written. No file is left
/// then.
pub(crate) fn backup_folder(folder: &Path, to: &Path) -> Result<BackupSummary, StoreError> {
    write_file(to, |file, partial| {
        with_moment(folder, |moment| {
            write_backup(moment, file).map(drop).map_err(|source| io(partial, source))
        })
    })
}

/// Makes a file that is a backup: `write` writes it under another name, then it is checked, synced
/// and renamed.
pub(crate) fn write_file(
    to: &Path,
    write: impl FnOnce(&File, &Path) -> Result<(), StoreError>,
) -> Result<BackupSummary, StoreError> {
    // Asked first, so that what is there is named, whatever of another backup lies beside it.
    refuse_taken(to)?;
    let mut name = to.as_os_str().to_owned();
    name.push(PARTIAL);
    let partial = PathBuf::from(name);
    let file = make_partial(&partial)?;
    let written = write_partial(&file, &partial, write).and_then(|summary| {
        // Another backup may have got this name before the lock was taken.
        refuse_taken(to)?;
        fs::rename(&partial, to).map_err(|source| io(to, source))?;
        let folder = to.parent().unwrap_or(Path::new(""));
        sync_folder(folder).map_err(|source| io(folder, source))?;
        Ok(summary)
    });
    if written.is_err() {
        let _ = fs::remove_file(&partial);
    }
    written
}

fn refuse_taken(to: &Path) -> Result<(), StoreError> {
    match fs::symlink_metadata(to) {
        Ok(_) => {
            let taken = "it is there already: give another name";
            Err(io(to, stdio::Error::new(stdio::ErrorKind::AlreadyExists, taken)))
        }
        Err(_) => Ok(()),
    }
}

/// A new file, locked: no other backup writes to it. What a backup that was killed left under this
/// name is removed; what is in use, or is no file, is left alone.
fn make_partial(path: &Path) -> Result<File, StoreError> {
    let in_use =
        || io(path, stdio::Error::new(stdio::ErrorKind::WouldBlock, "another backup is being written there"));
    let create = || private().create_new(true).read(true).write(true).open(path);
    let made = match create() {
        Err(error) if error.kind() == stdio::ErrorKind::AlreadyExists && is_file(path) => {
            let left = File::open(path).map_err(|source| io(path, source))?;
            if !is_locked(&left, path)? {
                return Err(in_use());
            }
            fs::remove_file(path).map_err(|source| io(path, source))?;
            create()
        }
        made => made,
    };
    let file = made.map_err(|source| io(path, source))?;
    if is_locked(&file, path)? { Ok(file) } else { Err(in_use()) }
}

/// A link is none: it may lead to a file of another user's choice.
fn is_file(path: &Path) -> bool {
    fs::symlink_metadata(path).is_ok_and(|found| found.is_file())
}

/// Locks a file for as long as it is open. False if another process has it, or if `path` is the
/// name of another file by now.
fn is_locked(file: &File, path: &Path) -> Result<bool, StoreError> {
    match file.try_lock() {
        Ok(()) => {}
        Err(TryLockError::WouldBlock) => return Ok(false),
        // Not every file system that takes backups has locks.
        Err(TryLockError::Error(error)) if error.kind() == stdio::ErrorKind::Unsupported => {}
        Err(TryLockError::Error(source)) => return Err(io(path, source)),
    }
    let (ours, named) = (Identity::of_open(file, path)?, Identity::of(path));
    Ok(named.is_ok_and(|named| named == ours))
}

fn write_partial(
    mut file: &File,
    partial: &Path,
    write: impl FnOnce(&File, &Path) -> Result<(), StoreError>,
) -> Result<BackupSummary, StoreError> {
    write(file, partial)?;
    file.sync_all().and_then(|()| file.rewind()).map_err(|source| io(partial, source))?;
    read_backup(file, partial, |_| Ok(()))
}

/// Reads a backup from front to back, and answers with what it holds.
///
/// # Errors
/// [`StoreError`] if it cannot be read, or is not whole.
pub(crate) fn verify_backup(file: &Path) -> Result<BackupSummary, StoreError> {
    read_backup(&open(file)?, file, |_| Ok(()))
}

fn open(file: &Path) -> Result<File, StoreError> {
    File::open(file).map_err(|source| io(file, source))
}

/// Makes a store of a backup, in a folder that has none. It is another log than the one that the
/// backup was taken of: clients are told to load their rows anew.
///
/// # Errors
/// [`StoreError`] if the folder has a store or is in use, or if the backup is not whole. No store
/// is made then.
pub(crate) fn restore(file: &Path, data: &Path) -> Result<BackupSummary, StoreError> {
    let folder = Folder::lock(data)?;
    if folder.has_store()? {
        return Err(StoreError::Exists(folder.store()));
    }
    let mut summary = BackupSummary::default();
    let path = folder.restoring_path();
    fill(&path, |transaction| {
        summary = restore_into(file, transaction)?;
        Ok(Filled { incarnation: Incarnation::random(), last_seq: summary.last_seq })
    })?;
    // A disk that takes it and gives back something else is noticed now rather than at the start.
    verify(&path, 64 << 20, |_| Ok(Ok(())))?;
    Watermark::clear(folder.path())?;
    folder.name_store(&path)?;
    Ok(summary)
}

/// Makes the store of a node of a snapshot, in place of the one that the node may have.
///
/// # Errors
/// [`StoreError`] if the snapshot is not whole, or not of the stream of this incarnation. What the
/// folder has stays then.
#[cfg(feature = "cluster")]
pub(crate) fn restore_node(file: &Path, data: &Path, cluster: Incarnation) -> Result<(), StoreError> {
    let folder = Folder::lock(data)?;
    let path = folder.new_path();
    fill(&path, |transaction| {
        let summary = restore_into(file, transaction)?;
        let (mut log, mut stream) = (None, None);
        let mut tables = super::frames::Tables::open(transaction).map_err(|error| failed(file, error))?;
        read_backup(&self::open(file)?, file, |line| {
            let written = match line {
                Line::Backup { incarnation, .. } => {
                    log = incarnation.parse().ok();
                    Ok(())
                }
                Line::Stream(incarnation) => {
                    stream = incarnation.parse().ok();
                    Ok(())
                }
                Line::Link(position, upper, lower, last_seq) => {
                    let hash = u128::from(upper) << 64 | u128::from(lower);
                    tables.insert_link(position, Link { hash, last_seq })
                }
                Line::Session(session, n, position) => {
                    tables.insert_session(Session(session), Sent { n, position })
                }
                _ => Ok(()),
            };
            written.map_err(|error| failed(file, error))
        })?;
        let path = file.to_owned();
        let Some(incarnation) = log else {
            return Err(StoreError::Backup { path, reason: "its incarnation is none".into() });
        };
        let kept = stream.unwrap_or(incarnation);
        if kept != cluster {
            return Err(StoreError::OtherCluster { path, kept, cluster });
        }
        if let Some(stream) = stream {
            super::frames::set_stream(transaction, stream).map_err(|error| failed(file, error))?;
        }
        Ok(Filled { incarnation, last_seq: summary.last_seq })
    })?;
    verify(&path, 64 << 20, |_| Ok(Ok(())))?;
    Watermark::clear(folder.path())?;
    folder.name_store(&path)
}

/// Writes a snapshot of a node to a file, in place of an older one. Returns its position.
///
/// # Errors
/// Those of the store, and of the file.
#[cfg(feature = "cluster")]
pub(crate) fn write_node_snapshot(reader: &DiskReader, to: &Path) -> Result<u64, StoreError> {
    let moment = reader.moment()?;
    let file = private().create(true).truncate(true).write(true).open(to).map_err(|source| io(to, source))?;
    write_backup(&moment, file).map_err(|source| io(to, source))?;
    let position = moment.frames().map_or(Ok(0), super::frames::Frames::position);
    position.map_err(|error| failed(to, error))
}

fn restore_into(file: &Path, transaction: &WriteTransaction) -> Result<BackupSummary, StoreError> {
    let failed = |error| failed(file, error);
    let mut tables = Transaction::open(transaction).map_err(failed)?;
    let mut oldest_compacted = None;
    let mut insert = |line: Line<'_>| -> Result<(), redb::Error> {
        match line {
            Line::Row(entity, row_id, seq, data) => {
                tables.rows.insert((&*entity, &*row_id), (seq, data.as_deref()))?;
            }
            Line::Event(seq, timestamp, kind, entity, row_id, data) => {
                tables.events.insert(seq, (timestamp, kind, &*entity, &*row_id, data.as_deref()))?;
            }
            Line::OpId(seq, client_id, op_id, fingerprint) => {
                tables.op_ids.insert(seq, (client_id.as_deref(), &*op_id, fingerprint))?;
            }
            Line::Latest(seq, timestamp, kind, entity, row_id) => {
                tables.history.insert(seq, (timestamp, kind, &*entity, &*row_id))?;
            }
            Line::Backup { oldest_compacted_seq, .. } => oldest_compacted = oldest_compacted_seq,
            // Of a node: see `restore_node`. A log that is restored has left its cluster.
            Line::Stream(_) | Line::Link(..) | Line::Session(..) | Line::End(_) => {}
        }
        Ok(())
    };
    let summary = read_backup(&self::open(file)?, file, |line| insert(line).map_err(failed))?;
    let history = match oldest_compacted {
        Some(seq) => tables.set_oldest_compacted_seq(seq).and_then(|()| tables.index()),
        None => tables.convert(summary.last_seq, now_millis()),
    };
    history.map_err(failed)?;
    Ok(summary)
}

/// Calls `each` for every row, event and op id. What it holds is known to be whole only at the end.
fn read_backup(
    opened: &File,
    file: &Path,
    mut each: impl FnMut(Line<'_>) -> Result<(), StoreError>,
) -> Result<BackupSummary, StoreError> {
    let refused = |reason: String| StoreError::Backup { path: file.to_owned(), reason };
    let mut input = BufReader::with_capacity(1 << 16, GzDecoder::new(BufReader::new(opened)));
    let mut buffer = Vec::new();
    let mut counter = Counter::default();
    for number in 1_u64.. {
        buffer.clear();
        let read = input.read_until(b'\n', &mut buffer);
        if read.map_err(|error| refused(format!("at line {number}: {error}")))? == 0 {
            break;
        }
        let line =
            serde_json::from_slice(&buffer).map_err(|error| refused(format!("line {number}: {error}")))?;
        counter.count(&line).map_err(|reason| refused(format!("line {number}: {reason}")))?;
        each(line)?;
    }
    // What follows the stream of gzip would be lost unseen.
    let rest = input.into_inner().into_inner().fill_buf().map_err(|source| io(file, source))?.len();
    if rest > 0 {
        return Err(refused("something follows its end".into()));
    }
    counter.end.ok_or_else(|| refused("its last line is missing".into()))
}

/// Checks that lines come in their order, and are as many as the last one says.
#[derive(Default)]
struct Counter {
    counted: BackupSummary,
    begun: bool,
    last_event: Option<u64>,
    end: Option<BackupSummary>,
}

impl Counter {
    fn count(&mut self, line: &Line<'_>) -> Result<(), String> {
        if self.end.is_some() {
            return Err("it follows the last one".into());
        }
        if self.begun == matches!(line, Line::Backup { .. }) {
            return Err("a backup begins with one line that says so".into());
        }
        match line {
            Line::Backup { format, .. } if ![FORMAT_1, FORMAT].contains(format) => {
                return Err(format!(
                    "a backup of format {format}, and this server reads formats {FORMAT_1} and {FORMAT}"
                ));
            }
            Line::Backup { last_seq, .. } => {
                self.begun = true;
                self.counted.last_seq = *last_seq;
            }
            Line::Row(_, _, seq, data) => {
                self.counted.rows += 1;
                self.check(*seq, data.as_deref())?;
            }
            Line::Event(seq, _, kind, _, _, data) => {
                self.counted.events += 1;
                self.check(*seq, data.as_deref())?;
                kind_from_byte(*kind).ok_or("an event of an unknown kind")?;
                if self.last_event.is_some_and(|last| last + 1 != *seq) {
                    return Err("events are missing before it".into());
                }
                self.last_event = Some(*seq);
            }
            Line::OpId(seq, ..) => {
                self.counted.op_ids += 1;
                self.check(*seq, None)?;
            }
            Line::Latest(seq, _, kind, ..) => {
                self.counted.latest += 1;
                self.check(*seq, None)?;
                kind_from_byte(*kind).ok_or("a change of an unknown kind")?;
            }
            Line::Link(_, _, _, last_seq) if *last_seq > self.counted.last_seq => {
                return Err(format!("a link of seq {last_seq}, after the last"));
            }
            Line::Stream(_) | Line::Link(..) | Line::Session(..) => {}
            Line::End(end) if *end != self.counted => {
                return Err(format!("it says {end:?}, and there are {:?}", self.counted));
            }
            Line::End(end) if self.last_event.is_some_and(|last| last != end.last_seq) => {
                return Err("the last events are missing".into());
            }
            Line::End(end) => self.end = Some(*end),
        }
        Ok(())
    }

    fn check(&self, seq: u64, data: Option<&str>) -> Result<(), String> {
        if !(1..=self.counted.last_seq).contains(&seq) {
            return Err(format!("seq {seq} is none of 1 to {}", self.counted.last_seq));
        }
        if let Some(data) = data {
            serde_json::from_str::<&RawValue>(data)
                .map_err(|error| format!("data that is no JSON: {error}"))?;
        }
        Ok(())
    }
}
