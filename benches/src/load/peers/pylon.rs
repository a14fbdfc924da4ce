//! The seed.

use super::{Account, LIMIT, Peer, Progress, Reader, Writer, row_ids};
use parking_lot::{Mutex, MutexGuard};
use pylon_sync::{ChangeKind, ChangeLog, PullError, SyncCursor};
use ringlog_replay::input::Op;
use std::time::Duration;

pub(super) struct Seed {
    log: ChangeLog,
    /// Without it, one writer and one reader lock each other up.
    lock: Option<Mutex<()>>,
}

impl Seed {
    pub(super) fn new(window: usize, locked: bool) -> Self {
        Self { log: ChangeLog::with_capacity(window), lock: locked.then(Mutex::default) }
    }

    fn alone(&self) -> Option<MutexGuard<'_, ()>> {
        self.lock.as_ref().map(Mutex::lock)
    }

    /// The last seq: a pull from ahead is told it.
    fn last(&self) -> u64 {
        let _alone = self.alone();
        let PullError::ResyncRequired { oldest_seq, .. } =
            self.log.pull(&SyncCursor { last_seq: u64::MAX }, 0).expect_err("a cursor ahead");
        oldest_seq - 1
    }
}

impl Peer for Seed {
    fn writer(&self) -> Box<dyn Writer + '_> {
        Box::new(self)
    }

    fn reader(&self) -> Box<dyn Reader + '_> {
        Box::new(Cursor { seed: self, cursor: SyncCursor { last_seq: self.last() } })
    }

    fn close(&self) -> Account {
        Account { appended: Some(self.last()), superseded: 0 }
    }
}

impl Writer for &Seed {
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
    seed: &'a Seed,
    cursor: SyncCursor,
}

impl Reader for Cursor<'_> {
    /// There is nothing to wait on: it looks, and looks again after a millisecond. The bytes of its
    /// data are known only by writing it as JSON, so they are not counted.
    fn next(&mut self, wait: Duration, each: &mut dyn FnMut(&str, u64)) -> Progress {
        let answer = {
            let _alone = self.seed.alone();
            self.seed.log.pull(&self.cursor, LIMIT)
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
