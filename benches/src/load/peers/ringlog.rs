//! This crate.

use super::{Account, LIMIT, Peer, Progress, Reader, Writer, row_ids};
use crate::Result;
use ringlog::{Change, ChangeLog, Follower};
use ringlog_replay::input::Op;
use std::sync::Arc;
use std::time::Duration;

pub(super) struct Log(Arc<ChangeLog>);

impl Log {
    pub(super) fn new(window: usize, slot: Option<usize>) -> Result<Self> {
        let builder = ChangeLog::builder().capacity(window);
        let builder = slot.into_iter().fold(builder, ringlog::Builder::slot_size);
        Ok(Self(Arc::new(builder.build()?)))
    }
}

impl Peer for Log {
    fn writer(&self) -> Box<dyn Writer + '_> {
        Box::new(&*self.0)
    }

    fn reader(&self) -> Box<dyn Reader + '_> {
        Box::new(self.0.follow(self.0.head()))
    }

    fn close(&self) -> Account {
        let stats = self.0.stats();
        assert_eq!(stats.unpublished, 0, "every writer is done");
        Account { appended: Some(stats.appended), superseded: stats.superseded }
    }
}

/// What ringlog is given, with a row id that may be another.
fn change<'a>(op: &'a Op, row_id: &'a str) -> Change<'a> {
    let change = Change::new(op.kind, &op.entity, row_id);
    match &op.data {
        Some(data) => change.with_raw(data),
        None => change,
    }
}

impl Writer for &ChangeLog {
    fn append(&mut self, batch: &[Op], marked: Option<&str>) {
        if let [event] = batch {
            self.append_change(&change(event, marked.unwrap_or(&event.row_id)));
        } else {
            let changes: Vec<Change<'_>> =
                row_ids(batch, marked).map(|(event, row_id)| change(event, row_id)).collect();
            self.append_batch(&changes);
        }
    }
}

impl Reader for Follower {
    fn next(&mut self, wait: Duration, each: &mut dyn FnMut(&str, u64)) -> Progress {
        let resync = match self.blocking_next(LIMIT, wait) {
            Ok(None) => return Progress { read: 0, lost: 0 },
            Ok(Some(batch)) => {
                for event in &batch {
                    let json = event.data_json().map_or(0, str::len);
                    each(event.row_id(), (event.entity().len() + event.row_id().len() + json) as u64);
                }
                return Progress { read: batch.len() as u64, lost: 0 };
            }
            Err(resync) => resync,
        };
        self.seek(resync.oldest_seq - 1);
        Progress { read: 0, lost: resync.oldest_seq - 1 - resync.requested }
    }
}
