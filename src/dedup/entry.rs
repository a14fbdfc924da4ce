//! An entry: one id that is in flight or was completed, and where it stands.
//!
//! A slot of a shard owns it and lends it to every thread that looks at the slot. Its id and its
//! fingerprint never change; its state and its seq are atomics.
#![forbid(unsafe_code)]

use crate::fingerprint::Fingerprint;
use crate::sync::{AtomicU64, Ordering};
use std::hash::{BuildHasher, Hasher};

/// An op id within its scope: the ids of one client, or those of no client in particular.
///
/// The two parts are kept apart, never joined: no choice of characters makes two of them equal by
/// accident.
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
    /// Being remembered by a thread that has yet to store its ticket: counts as completed. Answers
    /// have relied on it when so many ids were completed.
    Completing(u64),
    /// Completed with this ticket; the log's first one is 1.
    Completed(u64),
}

/// Marks a word of [`State::Completing`]. No ticket is as high.
const COMPLETING: u64 = 1 << 63;

impl State {
    fn pack(self) -> u64 {
        match self {
            Self::InFlight => 0,
            Self::Completing(relied) => COMPLETING | relied,
            Self::Completed(ticket) => ticket,
        }
    }

    fn unpack(word: u64) -> Self {
        match word {
            0 => Self::InFlight,
            word if word & COMPLETING != 0 => Self::Completing(word & !COMPLETING),
            ticket => Self::Completed(ticket),
        }
    }
}

/// How many bytes of id an entry holds without a second allocation: two UUIDs as text, and a
/// little.
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

    /// Completes the id of a claim. For its owner only, once.
    pub(super) fn complete(&self, ticket: u64, seq: u64) {
        self.seq.store(seq, Ordering::Relaxed);
        self.state.store(State::Completed(ticket).pack(), Ordering::Release); // complete:A
    }

    /// Completes the id of an entry that was entered as [`State::Completing`]. For its owner only.
    /// Refused, as false, if the ticket had expired when an answer relied on the entry.
    pub(super) fn complete_remembered(&self, ticket: u64, capacity: u64) -> bool {
        let mut now = self.state.load(Ordering::Relaxed);
        while let State::Completing(relied) = State::unpack(now)
            && ticket + capacity > relied
        {
            let done = State::Completed(ticket).pack();
            // complete:A
            match self.state.compare_exchange_weak(now, done, Ordering::Release, Ordering::Relaxed) {
                Ok(_) => return true,
                Err(seen) => now = seen,
            }
        }
        false
    }

    /// Notes that an answer relies on an entry that was seen as `Completing(relied)` when
    /// `completed` ids were completed. False if its state has changed.
    pub(super) fn rely(&self, relied: u64, completed: u64) -> bool {
        let [seen, noted] = [relied, completed].map(|count| State::Completing(count).pack());
        // complete:A
        self.state.compare_exchange(seen, noted, Ordering::Release, Ordering::Relaxed).is_ok()
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
    fn an_entry_starts_where_it_is_told_and_is_completed() {
        let fingerprint = Fingerprint::from_bits(7);
        let entry = Entry::new(OpId::bare("x"), fingerprint, State::InFlight);
        assert_eq!((entry.state(), entry.fingerprint()), (State::InFlight, fingerprint));
        entry.complete(3, 40);
        assert_eq!((entry.state(), entry.seq()), (State::Completed(3), 40));
        assert_eq!(entry.bytes(), 112);
        assert_eq!(Entry::new(OpId::bare(&"x".repeat(100)), None, State::Completing(0)).bytes(), 212);
    }

    #[test]
    fn an_entry_that_is_relied_on_is_not_completed_with_a_ticket_that_had_expired() {
        let entry = Entry::new(OpId::bare("x"), None, State::Completing(4));
        assert!(entry.rely(4, 9));
        assert!(!entry.rely(4, 12), "its state has changed");
        assert!(!entry.complete_remembered(6, 3), "the last ticket that it expires by is 9");
        assert_eq!(entry.state(), State::Completing(9));
        assert!(entry.complete_remembered(7, 3));
        assert_eq!((entry.state(), entry.seq()), (State::Completed(7), 0));
        assert!(!entry.rely(9, 10));
    }

    proptest! {
        #[test]
        fn a_state_survives_packing(ticket in 1..COMPLETING, relied in 0..COMPLETING) {
            for state in [State::InFlight, State::Completing(relied), State::Completed(ticket)] {
                prop_assert_eq!(State::unpack(state.pack()), state);
            }
        }
    }
}
