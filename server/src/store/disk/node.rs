//! The commits of a node's store, and the machine that they leave.
//!
//! The stream keeps the frames, so that a commit need not be on disk when it returns: after a crash
//! the node applies them again from the position that it finds. It may find that of a frame only
//! with all of the frame: a commit is synced with the last part of one.

use super::files::failed;
use super::frames::{Frames, Tables};
use super::store::DiskStore;
use super::tables::{INCARNATION_KEY, META, STREAM_KEY};
use super::transaction::Transaction;
use crate::cluster::machine::{Link, Machine, Memory, Step};
use crate::store::StoreError;
use redb::{Durability, ReadableDatabase, ReadableTable, WriteTransaction};
use ringlog::{Incarnation, PushClaim};
use ringlog_axum::crash;

/// When a commit is on disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Sync {
    /// When it returns, with all before it.
    Now,
    /// With a later one.
    Later,
}

/// What is committed of a frame.
pub(crate) struct Part<'c, 'a> {
    pub(crate) claims: Vec<&'c PushClaim<'a>>,
    /// The step that it is; none if it has more requests.
    pub(crate) step: Option<&'c Step>,
}

impl Part<'_, '_> {
    pub(crate) fn changes(&self) -> usize {
        self.claims.iter().map(|claim| claim.changes().len()).sum()
    }
}

impl DiskStore {
    /// Commits what frames apply, all or nothing. What is dropped is what would be if each was
    /// committed by itself.
    pub(crate) fn commit_frames(
        &mut self,
        first_seq: u64,
        parts: &[Part<'_, '_>],
        memory: Memory,
        sync: Sync,
    ) -> Result<(), StoreError> {
        let mut commit = || -> Result<(), redb::Error> {
            let mut transaction = self.database()?.begin_write()?;
            transaction.set_durability(match sync {
                Sync::Now => Durability::Immediate,
                Sync::Later => Durability::None,
            })?;
            transaction.set_two_phase_commit(true);
            self.write_frames(&transaction, first_seq, parts, memory)?;
            crash::point("frame_written");
            Ok(transaction.commit()?)
        };
        commit().map_err(|error| failed(self.path(), error))?;
        let last = parts.iter().filter_map(|part| part.step).next_back();
        if let (Sync::Now, Some(step)) = (sync, last) {
            self.committed(step.link.last_seq);
        }
        crash::point("frame_committed");
        Ok(())
    }

    fn write_frames(
        &mut self,
        transaction: &WriteTransaction,
        first_seq: u64,
        parts: &[Part<'_, '_>],
        memory: Memory,
    ) -> Result<(), redb::Error> {
        let (mut tables, mut frames) = (Transaction::open(transaction)?, Tables::open(transaction)?);
        let mut seq = first_seq;
        for part in parts {
            if part.changes() > 0 {
                seq = self.write(&mut tables, seq, &part.claims)? + 1;
            }
            part.step.map_or(Ok(()), |step| frames.write(step, memory))?;
        }
        drop(tables);
        let incarnation = parts.iter().find_map(|part| part.step?.reset);
        incarnation.map_or(Ok(()), |incarnation| reset(transaction, incarnation))
    }

    /// Syncs what is committed.
    pub(crate) fn sync(&mut self) -> Result<(), StoreError> {
        let sync = || -> Result<(), redb::Error> {
            let mut transaction = self.database()?.begin_write()?;
            transaction.set_durability(Durability::Immediate)?;
            transaction.set_two_phase_commit(true);
            Ok(transaction.commit()?)
        };
        sync().map_err(|error| failed(self.path(), error))
    }
}

/// Gives the log another incarnation than its stream has, which is kept beside it.
fn reset(transaction: &WriteTransaction, incarnation: Incarnation) -> Result<(), redb::Error> {
    let mut meta = transaction.open_table(META)?;
    let first =
        meta.insert(INCARNATION_KEY, &incarnation.to_bytes()[..])?.map(|first| first.value().to_vec());
    let is_first = meta.get(STREAM_KEY)?.is_none();
    if let Some(first) = first.filter(|_| is_first) {
        meta.insert(STREAM_KEY, &*first)?;
    }
    Ok(())
}

/// The machine after the last step of a store; none if it has no step.
pub(super) fn load(
    store: &DiskStore,
    (stream, memory): (Incarnation, Memory),
) -> Result<Option<Machine>, StoreError> {
    let load = || -> Result<Option<Machine>, redb::Error> {
        let Some(frames) = Frames::open(&store.database()?.begin_read()?)? else { return Ok(None) };
        let (position, links) = (frames.position()?, frames.links()?);
        // The link of position 0 is not written, and a reset forgets it.
        let is_whole = links.len() as u64 == position && position < memory.positions;
        let first = (is_whole && frames.stream().is_none()).then(|| Link::first(stream));
        let links = first.into_iter().chain(links.into_iter().map(|(_, link)| link));
        Ok(Some(Machine::restore(memory, position, links, frames.sessions()?)))
    };
    load().map_err(|error| failed(store.path(), error))
}
