//! The seed.

use crate::contender::{Contender, Held};
use crate::peer::{Account, LIMIT, Peer, Progress, Reader, Writer, row_ids};
use crate::workload::{DATA, ENTITY, EVENTS, ROW_ID, TEXT};
use parking_lot::{Mutex, MutexGuard};
use pylon_sync::{ChangeKind, ChangeLog, PullError, PullResponse, SyncCursor};
use ringlog_replay::input::Op;
use serde_json::Value;
use std::hint::black_box;
use std::time::Duration;

/// It takes a value, so that JSON text must be parsed. Writers alone, and readers alone, need no
/// lock of ours; one of each lock each other up.
pub struct Pylon {
    /// The log itself.
    pub log: ChangeLog,
    /// Without it, one writer and one reader lock each other up.
    lock: Option<Mutex<()>>,
}

impl std::fmt::Debug for Pylon {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Pylon").finish_non_exhaustive()
    }
}

impl Pylon {
    /// With an empty window.
    pub fn new(window: usize) -> Self {
        Self { log: ChangeLog::with_capacity(window), lock: None }
    }

    /// With an empty window, and a lock of ours around each call of the load generator's.
    pub fn locked(window: usize) -> Self {
        Self { lock: Some(Mutex::default()), ..Self::new(window) }
    }

    fn alone(&self) -> Option<MutexGuard<'_, ()>> {
        self.lock.as_ref().map(Mutex::lock)
    }

    /// The last seq, by a call of the load generator's.
    fn last(&self) -> u64 {
        let _alone = self.alone();
        self.taken()
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

impl Peer for Pylon {
    fn writer(&self) -> Box<dyn Writer + '_> {
        Box::new(self)
    }

    fn reader(&self) -> Box<dyn Reader + '_> {
        Box::new(Cursor { pylon: self, cursor: SyncCursor { last_seq: self.last() } })
    }

    fn close(&self) -> Account {
        Account { appended: Some(self.last()), superseded: 0 }
    }
}

impl Writer for &Pylon {
    /// It takes values: the text is parsed, before the lock is taken.
    fn append(&mut self, batch: &[Op], marked: Option<&str>) {
        for (event, row_id) in row_ids(batch, marked) {
            let data = event.text().map(|json| serde_json::from_str(json).expect("JSON"));
            let kind = match event.kind {
                ringlog::ChangeKind::Insert => ChangeKind::Insert,
                ringlog::ChangeKind::Update => ChangeKind::Update,
                ringlog::ChangeKind::Delete => ChangeKind::Delete,
            };
            let _alone = self.alone();
            self.log.append(&event.entity, row_id, kind, data);
        }
    }
}

struct Cursor<'a> {
    pylon: &'a Pylon,
    cursor: SyncCursor,
}

impl Reader for Cursor<'_> {
    /// There is nothing to wait on: it looks, and looks again after a millisecond. The bytes of its
    /// data are known only by writing it as JSON, so they are not counted.
    fn next(&mut self, wait: Duration, each: &mut dyn FnMut(&str, u64)) -> Progress {
        let answer = {
            let _alone = self.pylon.alone();
            self.pylon.log.pull(&self.cursor, LIMIT)
        };
        match answer {
            Ok(response) => {
                for event in &response.changes {
                    each(&event.row_id, 0);
                }
                let read = response.changes.len() as u64;
                if read == 0 && !wait.is_zero() {
                    std::thread::sleep(wait.min(Duration::from_millis(1)));
                }
                self.cursor = response.cursor;
                Progress { read, lost: 0 }
            }
            Err(PullError::ResyncRequired { oldest_seq, .. }) => {
                let lost = oldest_seq - 1 - self.cursor.last_seq;
                self.cursor.last_seq = oldest_seq - 1;
                Progress { read: 0, lost }
            }
        }
    }
}
