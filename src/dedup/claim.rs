//! What a caller of `claim_op_id` gets: the right to apply an operation, or the reason not to.
#![forbid(unsafe_code)]

use super::entry::OpId;
use super::memory::OpMemory;
use super::set::{Claim, Held};
use crate::fingerprint::Fingerprint;

/// The answer to a claim on an op id.
#[derive(Debug)]
#[must_use = "a claim that proceeds is forgotten when it is dropped"]
pub enum OpClaim<'a> {
    /// The id is not completed, and no other claim on it is in flight: apply the operation, then
    /// complete the guard.
    Proceed(OpGuard<'a>),
    /// Another claim on the id is being worked on. It may yet fail: tell the client to try again.
    InFlight,
    /// The id was completed before; the operation must not be applied again.
    Replayed {
        /// The seq it was completed with; 0 when it was only remembered, without one.
        seq: u64,
    },
}

/// The right to apply the operation of one op id.
///
/// While the guard lives, every other claim on the id is answered with [`OpClaim::InFlight`].
/// [`OpGuard::complete`] makes the id remembered. Dropping the guard instead, be it on an error, by
/// an early return or while a panic unwinds, forgets the claim: the next one proceeds.
///
/// A guard may be sent to another thread. One that is leaked ([`std::mem::forget`]) leaves its id
/// in flight for as long as the log lives.
#[derive(Debug)]
#[must_use = "a claim is forgotten when its guard is dropped"]
pub struct OpGuard<'a> {
    memory: &'a OpMemory,
    /// There until the claim is completed or forgotten.
    held: Option<Held>,
}

impl OpGuard<'_> {
    /// Marks the operation as applied, with the seq of its change: from here on claims on the id
    /// are answered with [`OpClaim::Replayed`] and this seq, until as many ids as the memory holds
    /// have been completed after it.
    ///
    /// # Complexity
    ///
    /// Lock-free; constant on average.
    pub fn complete(mut self, seq: u64) {
        if let Some(held) = self.held.take() {
            self.memory.complete(held, seq);
        }
    }
}

impl Drop for OpGuard<'_> {
    fn drop(&mut self) {
        if let Some(held) = self.held.take() {
            self.memory.forget(held);
        }
    }
}

/// A claim on an id that was completed for another change, and the seq that it was completed with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct OtherChange {
    pub(crate) seq: u64,
}

impl OpMemory {
    /// Claims the id, whatever it is for. Of any number of claims at a time one proceeds.
    /// Lock-free.
    pub(crate) fn claim_op(&self, id: OpId<'_>) -> OpClaim<'_> {
        self.answer(self.claim(id, None))
    }

    /// Claims the id for a change. The fingerprint is kept with the id, and compared with the one
    /// that is kept already.
    pub(crate) fn claim_change(
        &self,
        id: OpId<'_>,
        fingerprint: Option<Fingerprint>,
    ) -> Result<OpClaim<'_>, OtherChange> {
        match self.claim(id, fingerprint) {
            Claim::Replayed { seq, agrees: false } => Err(OtherChange { seq }),
            claim => Ok(self.answer(claim)),
        }
    }

    fn answer(&self, claim: Claim) -> OpClaim<'_> {
        match claim {
            Claim::Proceed(held) => OpClaim::Proceed(OpGuard { memory: self, held: Some(held) }),
            Claim::InFlight => OpClaim::InFlight,
            Claim::Replayed { seq, .. } => OpClaim::Replayed { seq },
        }
    }
}
