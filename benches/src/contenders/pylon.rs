//! The seed.

use crate::contender::{Contender, Held, Progress, Reader};
use parking_lot::{Mutex, MutexGuard};
use pylon_sync::{ChangeKind, ChangeLog, PullError, SyncCursor};
use ringlog::Change;
use serde_json::Value;
use std::hint::black_box;
use std::time::Duration;

/// It takes a value, so that JSON text must be parsed. Writers alone, and readers alone, need no
/// lock of ours; one of each lock each other up.
pub struct Pylon {
    /// The log itself.
    pub log: ChangeLog,
    lock: Option<Mutex<()>>,
}

impl Pylon {
    /// With a lock of ours around each call.
    pub fn locked(window: usize) -> Self {
        Self { lock: Some(Mutex::default()), ..Self::with_window(window) }
    }

    fn alone(&self) -> Option<MutexGuard<'_, ()>> {
        self.lock.as_ref().map(Mutex::lock)
    }
}

impl Contender for Pylon {
    fn with_window(window: usize) -> Self {
        Self { log: ChangeLog::with_capacity(window), lock: None }
    }

    /// The text is parsed before the lock is taken.
    #[inline]
    fn append_event(&self, change: &Change<'_>) {
        let data: Option<Value> = change.data_json().map(|json| serde_json::from_str(&json).expect("JSON"));
        let kind = match change.kind() {
            ringlog::ChangeKind::Insert => ChangeKind::Insert,
            ringlog::ChangeKind::Update => ChangeKind::Update,
            ringlog::ChangeKind::Delete => ChangeKind::Delete,
        };
        let _alone = self.alone();
        black_box(self.log.append(change.entity(), change.row_id(), kind, data));
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

    /// There is nothing to wait on: it looks, and looks again after a millisecond. The bytes of its
    /// data are known only by writing it as JSON, so they are not counted.
    fn reader(&self, limit: usize) -> Reader<'_> {
        let mut cursor = SyncCursor { last_seq: self.taken() };
        Box::new(move |wait, each| {
            let alone = self.alone();
            let answer = self.log.pull(&cursor, limit);
            drop(alone);
            let response = match answer {
                Ok(response) => response,
                Err(PullError::ResyncRequired { oldest_seq, .. }) => {
                    let lost = oldest_seq - 1 - cursor.last_seq;
                    cursor.last_seq = oldest_seq - 1;
                    return Progress { read: 0, lost };
                }
            };
            response.changes.iter().for_each(|event| each(&event.row_id, 0));
            let read = response.changes.len() as u64;
            if read == 0 && !wait.is_zero() {
                std::thread::sleep(wait.min(Duration::from_millis(1)));
            }
            cursor = response.cursor;
            Progress { read, lost: 0 }
        })
    }
}
