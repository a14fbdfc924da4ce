//! The seed.

use crate::contender::{Contender, Held};
use crate::workload::{DATA, ENTITY, EVENTS, ROW_ID, TEXT};
use pylon_sync::{ChangeKind, ChangeLog, PullError, PullResponse, SyncCursor};
use serde_json::Value;
use std::hint::black_box;

/// It takes a value, so that JSON text must be parsed. Writers alone, and readers alone, need no
/// lock of ours; one of each lock each other up.
pub struct Pylon {
    /// The log itself.
    pub log: ChangeLog,
}

impl std::fmt::Debug for Pylon {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Pylon").finish_non_exhaustive()
    }
}

impl Pylon {
    /// With an empty window.
    pub fn new(window: usize) -> Self {
        Self { log: ChangeLog::with_capacity(window) }
    }

    /// With a full window.
    pub fn full(window: usize) -> Self {
        let contender = Self::new(window);
        contender.append(2 * window as u64);
        contender
    }

    /// A cursor behind which come the last hundred events.
    pub fn tail(&self) -> SyncCursor {
        SyncCursor { last_seq: self.taken() - EVENTS }
    }

    /// These, owned.
    pub fn read_owned(&self, after: &SyncCursor) -> PullResponse {
        let response = self.log.pull(black_box(after), EVENTS as usize).expect("in the window");
        assert_eq!(response.changes.len() as u64, EVENTS);
        response
    }

    /// As JSON.
    pub fn read_json(&self, after: &SyncCursor) -> Vec<u8> {
        let body = serde_json::to_vec(&self.read_owned(after)).expect("it serialises");
        assert!(body.len() as u64 > EVENTS * TEXT);
        body
    }
}

impl Contender for Pylon {
    fn append(&self, events: u64) {
        for _ in 0..events {
            let data: Value = serde_json::from_str(DATA).expect("JSON");
            black_box(self.log.append(ENTITY, ROW_ID, ChangeKind::Insert, Some(data)));
        }
    }

    fn taken(&self) -> u64 {
        let ahead = SyncCursor { last_seq: u64::MAX };
        let PullError::ResyncRequired { oldest_seq, .. } =
            self.log.pull(&ahead, 0).expect_err("a cursor ahead");
        oldest_seq - 1
    }

    fn held(&self) -> Option<Held> {
        let mut held = Held::default();
        let before = SyncCursor { last_seq: self.taken() - self.log.len() as u64 };
        for event in self.log.pull(&before, usize::MAX).expect("the window").changes {
            let data = event.data.map_or(0, |data| data.to_string().len());
            let text = event.entity.len() + event.row_id.len() + data;
            held.add(event.seq, text as u64, event.timestamp.len() as u64);
        }
        Some(held)
    }
}
