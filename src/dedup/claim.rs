//! What a caller of `claim_op_id` gets: the right to apply an operation, or the reason not to.
#![forbid(unsafe_code)]

use super::entry::OpId;
use super::memory::OpMemory;
use super::set::{Claim, Held};

/// The answer to a claim on an op id.
#[derive(Debug)]
#[must_use = "a claim that proceeds is forgotten when it is dropped"]
pub enum OpClaim<'a> {
    /// Nobody has completed the id, and nobody else is at it: apply the operation, then complete the guard.
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
/// [`OpGuard::complete`] makes the id remembered. Dropping the guard instead, be it on an error, by an early
/// return or while a panic unwinds, forgets the claim: the next one proceeds.
///
/// A guard may be sent to another thread. One that is leaked ([`std::mem::forget`]) leaves its id in flight
/// for as long as the log lives.
#[derive(Debug)]
#[must_use = "a claim is forgotten when its guard is dropped"]
pub struct OpGuard<'a> {
    memory: &'a OpMemory,
    /// There until the claim is completed or forgotten.
    held: Option<Held>,
}

impl OpGuard<'_> {
    /// Marks the operation as applied, with the seq of its change: from here on claims on the id are
    /// answered with [`OpClaim::Replayed`] and this seq, until as many ids as the memory holds have been
    /// completed after it.
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

impl OpMemory {
    /// Claims the id for the caller. Of any number of claims at a time one proceeds. Lock-free.
    pub(crate) fn claim_op(&self, id: OpId<'_>) -> OpClaim<'_> {
        match self.claim(id) {
            Claim::Proceed(held) => OpClaim::Proceed(OpGuard { memory: self, held: Some(held) }),
            Claim::InFlight => OpClaim::InFlight,
            Claim::Replayed { seq } => OpClaim::Replayed { seq },
        }
    }
}
