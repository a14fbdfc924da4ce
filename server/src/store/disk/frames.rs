//! What the store of a node keeps of the stream: its position, and what frames are judged by.
//!
//! The stream keeps the frames, so that a commit need not be on disk when it returns: after a crash
//! the node applies them again from the position that it finds. It may find that of a frame only
//! with all of the frame: a commit is synced with the last part of one.

use super::files::failed;
use super::store::DiskStore;
use super::tables::{INCARNATION_KEY, LINKS_NAME, META, STREAM_KEY};
use crate::cluster::frame::Session;
use crate::cluster::machine::{Link, Machine, Memory, Sent, Step};
use crate::crash;
use crate::store::StoreError;
use redb::{
    Durability, ReadOnlyTable, ReadTransaction, ReadableDatabase, ReadableTable, ReadableTableMetadata,
    Table, TableDefinition, TableError, WriteTransaction,
};
use ringlog::{Incarnation, PushClaim};

/// position → (hash, last seq)
const LINKS: TableDefinition<'_, u64, (u128, u64)> = TableDefinition::new(LINKS_NAME);

/// session → (number, position)
const SESSIONS: TableDefinition<'_, u64, (u64, u64)> = TableDefinition::new("sessions");

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

/// Keeps the incarnation of the stream, in the store of a log that was reset.
pub(super) fn set_stream(transaction: &WriteTransaction, stream: Incarnation) -> Result<(), redb::Error> {
    transaction.open_table(META)?.insert(STREAM_KEY, &stream.to_bytes()[..])?;
    Ok(())
}

/// What is kept of the stream, in a transaction that writes.
pub(super) struct Tables<'t> {
    links: Table<'t, u64, (u128, u64)>,
    sessions: Table<'t, u64, (u64, u64)>,
}

impl<'t> Tables<'t> {
    pub(super) fn open(transaction: &'t WriteTransaction) -> Result<Self, redb::Error> {
        Ok(Self { links: transaction.open_table(LINKS)?, sessions: transaction.open_table(SESSIONS)? })
    }

    pub(super) fn insert_link(&mut self, position: u64, link: Link) -> Result<(), redb::Error> {
        self.links.insert(position, (link.hash, link.last_seq))?;
        Ok(())
    }

    pub(super) fn insert_session(&mut self, session: Session, sent: Sent) -> Result<(), redb::Error> {
        self.sessions.insert(session.0, (sent.n, sent.position))?;
        Ok(())
    }

    fn write(&mut self, step: &Step, memory: Memory) -> Result<(), redb::Error> {
        if step.reset.is_some() {
            self.links.retain(|_, _| false)?;
        }
        self.insert_link(step.position, step.link)?;
        while self.links.len()? > memory.positions {
            self.links.pop_first()?;
        }
        for session in &step.forgotten {
            self.sessions.remove(session.0)?;
        }
        step.session.map_or(Ok(()), |(session, sent)| self.insert_session(session, sent))
    }
}

/// What is kept of the stream, as of some moment.
pub(super) struct Frames {
    links: ReadOnlyTable<u64, (u128, u64)>,
    sessions: ReadOnlyTable<u64, (u64, u64)>,
    /// The incarnation of the stream, if the log was reset and has another one.
    stream: Option<Incarnation>,
}

impl Frames {
    /// None if the store is not that of a node, or of one that has applied nothing.
    pub(super) fn open(transaction: &ReadTransaction) -> Result<Option<Self>, redb::Error> {
        match transaction.open_table(LINKS) {
            Err(TableError::TableDoesNotExist(_)) => Ok(None),
            links => {
                let meta = transaction.open_table(META)?;
                let stream = meta.get(STREAM_KEY)?.and_then(|bytes| bytes.value().try_into().ok());
                let stream = stream.map(Incarnation::from_bytes);
                Ok(Some(Self { links: links?, sessions: transaction.open_table(SESSIONS)?, stream }))
            }
        }
    }

    pub(super) fn stream(&self) -> Option<Incarnation> {
        self.stream
    }

    /// The last position.
    pub(super) fn position(&self) -> Result<u64, redb::Error> {
        Ok(self.links.last()?.map_or(0, |(position, _)| position.value()))
    }

    pub(super) fn links(&self) -> Result<Vec<(u64, Link)>, redb::Error> {
        let links = self.links.iter()?.map(|entry| {
            let (position, link) = entry?;
            let (hash, last_seq) = link.value();
            Ok((position.value(), Link { hash, last_seq }))
        });
        links.collect()
    }

    pub(super) fn sessions(&self) -> Result<Vec<(Session, Sent)>, redb::Error> {
        let sessions = self.sessions.iter()?.map(|entry| {
            let (session, sent) = entry?;
            let (n, position) = sent.value();
            Ok((Session(session.value()), Sent { n, position }))
        });
        sessions.collect()
    }
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
        let first = (is_whole && frames.stream.is_none()).then(|| Link::first(stream));
        let links = first.into_iter().chain(links.into_iter().map(|(_, link)| link));
        Ok(Some(Machine::restore(memory, position, links, frames.sessions()?)))
    };
    load().map_err(|error| failed(store.path(), error))
}
