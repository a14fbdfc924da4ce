//! Other ways to append the same events.

use super::{Pylon, Ringlog};
use crate::contender::{Contender, Held};
use crate::workload::{ENTITY, ROW_ID, WINDOW, value};
use serde_json::Value;
use std::hint::black_box;

/// Sixteen events in one call.
#[derive(Debug)]
pub struct Batches(Ringlog);

impl Batches {
    /// How many events are in one call.
    pub const LENGTH: u64 = 16;

    /// With a full window.
    pub fn full() -> Self {
        Self(Ringlog::full(WINDOW))
    }
}

impl Contender for Batches {
    /// What does not fill a call goes into a shorter one, once.
    fn append(&self, events: u64) {
        let changes: [_; Self::LENGTH as usize] = std::array::from_fn(|_| self.0.change());
        for _ in 0..events / Self::LENGTH {
            black_box(self.0.log.append_batch(black_box(&changes)));
        }
        self.0.log.append_batch(&changes[..(events % Self::LENGTH) as usize]);
    }

    fn taken(&self) -> u64 {
        self.0.taken()
    }

    fn held(&self) -> Option<Held> {
        self.0.held()
    }
}

/// The seed's own call, with a value made for each event.
#[derive(Debug)]
pub struct Values<C> {
    contender: C,
    value: Value,
}

impl<C> Values<C> {
    /// The same contender, called otherwise.
    pub fn of(contender: C) -> Self {
        Self { contender, value: value() }
    }
}

/// Has the seed's own call.
pub trait TakesValues: Contender {
    /// Appends one event.
    fn append_value(&self, value: Value);
}

impl TakesValues for Ringlog {
    fn append_value(&self, value: Value) {
        black_box(self.log.append(ENTITY, ROW_ID, ringlog::ChangeKind::Insert, Some(value)));
    }
}

impl TakesValues for Pylon {
    fn append_value(&self, value: Value) {
        black_box(self.log.append(ENTITY, ROW_ID, pylon_sync::ChangeKind::Insert, Some(value)));
    }
}

impl<C: TakesValues> Contender for Values<C> {
    fn append(&self, events: u64) {
        (0..events).for_each(|_| self.contender.append_value(self.value.clone()));
    }

    fn taken(&self) -> u64 {
        self.contender.taken()
    }

    fn held(&self) -> Option<Held> {
        self.contender.held()
    }
}
