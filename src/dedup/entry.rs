//! An entry: one id that is in flight or was completed, and where it stands.
//!
//! A slot of a shard owns it and lends it to every thread that looks at the slot. Its id and its fingerprint never
//! change; its state and its seq are atomics.
#![forbid(unsafe_code)]

use crate::fingerprint::Fingerprint;
use crate::sync::{AtomicU64, Ordering};
use std::hash::{BuildHasher, Hasher};

/// An op id within its scope: the ids of one client, or those that belong to nobody in particular.
///
/// The two parts are kept apart, never joined: no choice of characters makes two of them equal by accident.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct OpId<'a> {
    client: Option<&'a str>,
    op: &'a str,
}

impl<'a> OpId<'a> {
    /// An id that belongs to no client.
    pub(crate) fn bare(op: &'a str) -> Self {
        Self { client: None, op }
    }

    /// An id of `client`; without a client, the same as [`OpId::bare`].
    pub(crate) fn scoped(client: Option<&'a str>, op: &'a str) -> Self {
        Self { client, op }
    }

    /// The id's hash under these keys.
    #[inline]
    pub(super) fn hash_under(self, keys: &impl BuildHasher) -> u64 {
        let mut hasher = keys.build_hasher();
        if let Some(client) = self.client {
            hasher.write_usize(client.len());
            hasher.write(client.as_bytes());
        }
        hasher.write(self.op.as_bytes());
        hasher.finish()
    }

    fn client_len(self) -> usize {
        self.client.map_or(NO_CLIENT, str::len)
    }
}

/// Stands for the length of a client id that is not there; no string is as long.
const NO_CLIENT: usize = usize::MAX;

/// Where an id stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum State {
    /// Claimed; its guard decides.
    InFlight,
    /// Remembered, by a thread that is about to take its ticket.
    Settling,
    /// Completed as the so-manieth of its log, counted from 1.
    Completed(u64),
}

impl State {
    fn pack(self) -> u64 {
        match self {
            Self::InFlight => 0,
            Self::Settling => u64::MAX,
            Self::Completed(ticket) => ticket,
        }
    }

    fn unpack(word: u64) -> Self {
        match word {
            0 => Self::InFlight,
            u64::MAX => Self::Settling,
            ticket => Self::Completed(ticket),
        }
    }
}

/// How many bytes of id an entry holds without a second allocation: two UUIDs as text, and a little.
const NEAR: usize = 77;

/// Stands for the length of a client id that is not there, where lengths are one byte.
const NO_CLIENT_NEAR: u8 = u8::MAX;

/// The bytes of an id: the client's, if there is one, then the op's.
#[derive(Debug)]
enum Bytes {
    Near { client_len: u8, len: u8, bytes: [u8; NEAR] },
    Far { client_len: usize, bytes: Box<[u8]> },
}

impl Bytes {
    fn new(id: OpId<'_>) -> Self {
        let client = id.client.unwrap_or_default().as_bytes();
        let op = id.op.as_bytes();
        let len = client.len() + op.len();
        if len > NEAR {
            return Self::Far {
                client_len: id.client_len(),
                bytes: [client, op].concat().into_boxed_slice(),
            };
        }
        let mut bytes = [0; NEAR];
        bytes[..client.len()].copy_from_slice(client);
        bytes[client.len()..len].copy_from_slice(op);
        let client_len = if id.client.is_none() { NO_CLIENT_NEAR } else { client.len() as u8 };
        Self::Near { client_len, len: len as u8, bytes }
    }

    fn client_len(&self) -> usize {
        match *self {
            Self::Near { client_len: NO_CLIENT_NEAR, .. } => NO_CLIENT,
            Self::Near { client_len, .. } => client_len.into(),
            Self::Far { client_len, .. } => client_len,
        }
    }

    fn get(&self) -> &[u8] {
        match self {
            Self::Near { len, bytes, .. } => &bytes[..usize::from(*len)],
            Self::Far { bytes, .. } => bytes,
        }
    }
}

/// One id, and where it stands.
#[derive(Debug)]
#[repr(C)]
pub(super) struct Entry {
    state: AtomicU64,
    seq: AtomicU64,
    fingerprint: Option<Fingerprint>,
    id: Bytes,
}

impl Entry {
    pub(super) fn new(id: OpId<'_>, fingerprint: Option<Fingerprint>, state: State) -> Self {
        let (state, seq) = (AtomicU64::new(state.pack()), AtomicU64::new(0));
        Self { state, seq, fingerprint, id: Bytes::new(id) }
    }

    /// Whether the entry is that of `id`.
    #[inline]
    pub(super) fn is(&self, id: OpId<'_>) -> bool {
        let (client, bytes) = (id.client.unwrap_or_default().as_bytes(), self.id.get());
        self.id.client_len() == id.client_len()
            && bytes.len() == client.len() + id.op.len()
            && bytes.strip_prefix(client) == Some(id.op.as_bytes())
    }

    /// The fingerprint of the change that the id was claimed for, if the claimer gave one.
    pub(super) fn fingerprint(&self) -> Option<Fingerprint> {
        self.fingerprint
    }

    /// Where the id stands. What its completer did before is visible once this says `Completed`.
    #[inline]
    pub(super) fn state(&self) -> State {
        State::unpack(self.state.load(Ordering::Acquire)) // complete:B
    }

    /// Completes the id; only its owner does, once.
    pub(super) fn settle(&self, ticket: u64, seq: u64) {
        let order =
            if cfg!(ringlog_fault = "complete_relaxed") { Ordering::Relaxed } else { Ordering::Release };
        self.seq.store(seq, Ordering::Relaxed);
        self.state.store(State::Completed(ticket).pack(), order); // complete:A
    }

    /// The seq that the id was completed with; to be asked after [`Entry::state`] said so.
    pub(super) fn seq(&self) -> u64 {
        self.seq.load(Ordering::Relaxed)
    }

    /// The heap bytes that the entry takes, the allocator's own overhead aside.
    #[cfg(test)]
    pub(super) fn bytes(&self) -> usize {
        super::slot::size_in_slot::<Self>()
            + if let Bytes::Far { bytes, .. } = &self.id { bytes.len() } else { 0 }
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn an_entry_knows_its_id_and_no_other() {
        let long = "ü".repeat(1 << 19);
        let (just, over) = ("x".repeat(NEAR), "x".repeat(NEAR + 1));
        let ids = [
            OpId::bare(""),
            OpId::bare("a"),
            OpId::bare("ab"),
            OpId::bare("\0"),
            OpId::bare(&just),
            OpId::bare(&over),
            OpId::bare(&long),
            OpId::scoped(Some(""), ""),
            OpId::scoped(Some(""), "ab"),
            OpId::scoped(Some("a"), "b"),
            OpId::scoped(Some("ab"), ""),
            OpId::scoped(Some(&just), ""),
            OpId::scoped(Some(&just), "x"),
            OpId::scoped(Some(&long), "a"),
        ];
        for (i, &one) in ids.iter().enumerate() {
            let entry = Entry::new(one, None, State::InFlight);
            for (k, &other) in ids.iter().enumerate() {
                assert_eq!(entry.is(other), i == k);
            }
        }
    }

    #[test]
    fn an_entry_starts_where_it_is_told_and_settles() {
        let fingerprint = Fingerprint::from_bits(7);
        let entry = Entry::new(OpId::bare("x"), fingerprint, State::InFlight);
        assert_eq!((entry.state(), entry.fingerprint()), (State::InFlight, fingerprint));
        entry.settle(3, 40);
        assert_eq!((entry.state(), entry.seq()), (State::Completed(3), 40));
        assert_eq!(entry.bytes(), 112);
        assert_eq!(Entry::new(OpId::bare(&"x".repeat(100)), None, State::Settling).bytes(), 212);
    }

    proptest! {
        #[test]
        fn a_state_survives_packing(ticket in 1..u64::MAX) {
            for state in [State::InFlight, State::Settling, State::Completed(ticket)] {
                prop_assert_eq!(State::unpack(state.pack()), state);
            }
        }
    }
}
