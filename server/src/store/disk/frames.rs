//! What the store of a node keeps of the stream: its position, and what frames are judged by.

use super::tables::{LINKS_NAME, META, STREAM_KEY};
use crate::cluster::frame::Session;
use crate::cluster::machine::{Link, Memory, Sent, Step};
use redb::{
    ReadOnlyTable, ReadTransaction, ReadableTable, ReadableTableMetadata, Table, TableDefinition, TableError,
    WriteTransaction,
};
use ringlog::Incarnation;

/// position → (hash, last seq)
const LINKS: TableDefinition<'_, u64, (u128, u64)> = TableDefinition::new(LINKS_NAME);

/// session → (number, position)
const SESSIONS: TableDefinition<'_, u64, (u64, u64)> = TableDefinition::new("sessions");

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

    pub(super) fn write(&mut self, step: &Step, memory: Memory) -> Result<(), redb::Error> {
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
