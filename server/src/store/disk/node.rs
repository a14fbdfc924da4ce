//! The commits of a node's store, and the machine that they leave.
//!
//! The stream keeps the frames, so that a commit need not be on disk when it returns: after a crash
//! the node applies them again from the position that it finds. It may find that of a frame only
//! with all of the frame: a commit is synced with the last part of one.

use super::files::failed;
use super::frames::{Frames, Tables};
use super::store::DiskStore;
use super::tables::{INCARNATION_KEY, META, STREAM_KEY};
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

impl DiskStore {
    /// Commits what a frame applies, and the step that it is.
    pub(crate) fn commit_frame(
        &mut self,
        first_seq: u64,
        claims: &[&PushClaim<'_>],
        (step, memory): (&Step, Memory),
        sync: Sync,
    ) -> Result<(), StoreError> {
        self.commit_part(first_seq, claims, Some((step, memory)), sync)
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

    /// Commits some requests of a frame that has more.
    pub(crate) fn commit_requests(
        &mut self,
        first_seq: u64,
        claims: &[&PushClaim<'_>],
    ) -> Result<(), StoreError> {
        self.commit_part(first_seq, claims, None, Sync::Later)
    }

    fn commit_part(
        &mut self,
        first_seq: u64,
        claims: &[&PushClaim<'_>],
        step: Option<(&Step, Memory)>,
        sync: Sync,
    ) -> Result<(), StoreError> {
        let mut commit = || -> Result<(), redb::Error> {
            let mut transaction = self.database()?.begin_write()?;
            transaction.set_durability(match sync {
                Sync::Now => Durability::Immediate,
                Sync::Later => Durability::None,
            })?;
            transaction.set_two_phase_commit(true);
            if claims.iter().any(|claim| !claim.changes().is_empty()) {
                self.write(&transaction, first_seq, claims)?;
            }
            if let Some((step, memory)) = step {
                Tables::open(&transaction)?.write(step, memory)?;
                step.reset.map_or(Ok(()), |incarnation| reset(&transaction, incarnation))?;
            }
            crash::point("frame_written");
            Ok(transaction.commit()?)
        };
        commit().map_err(|error| failed(self.path(), error))?;
        if let (Sync::Now, Some((step, _))) = (sync, step) {
            self.committed(step.link.last_seq);
        }
        crash::point("frame_committed");
        Ok(())
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
