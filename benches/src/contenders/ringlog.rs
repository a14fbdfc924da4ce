//! This crate.

use crate::Result;
use crate::contender::{Contender, Held};
use crate::peer::{Account, LIMIT, Peer, Progress, Reader, Writer, row_ids};
use crate::workload::{ENTITY, EVENTS, ROW_ID, TEXT, data};
use ringlog::{Change, ChangeLog, Follower};
use ringlog_replay::input::Op;
use serde_json::value::RawValue;
use std::hint::black_box;
use std::sync::Arc;
use std::time::Duration;

/// The library as it ships.
#[derive(Debug)]
pub struct Ringlog {
    /// The log itself.
    pub log: Arc<ChangeLog>,
    data: &'static RawValue,
}

impl Ringlog {
    /// With an empty window.
    pub fn new(window: usize) -> Self {
        Self { log: Arc::new(ChangeLog::with_capacity(window)), data: data() }
    }

    /// With an empty window, and slots of so many bytes unless they are as usual.
    ///
    /// # Errors
    /// If there are no such slots.
    pub fn with_slots(window: usize, slot: Option<usize>) -> Result<Self> {
        let builder = ChangeLog::builder().capacity(window);
        let builder = slot.into_iter().fold(builder, ringlog::Builder::slot_size);
        Ok(Self { log: Arc::new(builder.build()?), data: data() })
    }

    /// With a window that writers have gone round once: its memory is its own.
    pub fn full(window: usize) -> Self {
        let contender = Self::new(window);
        contender.append(2 * window as u64);
        contender
    }
}

impl Contender for Ringlog {
    fn append(&self, events: u64) {
        for _ in 0..events {
            let change = Change::insert(ENTITY, ROW_ID).with_raw(self.data);
            black_box(self.log.append_change(black_box(&change)));
        }
    }

    fn taken(&self) -> u64 {
        self.log.head()
    }

    fn held(&self) -> Option<Held> {
        let mut held = Held::default();
        let before = self.log.oldest_seq() - 1;
        for event in &self.log.read(before, usize::MAX).expect("the window") {
            let text = event.entity().len() + event.row_id().len();
            let data = event.data_json().map_or(0, str::len);
            held.add(event.seq(), (text + data) as u64, event.timestamp_millis());
        }
        Some(held)
    }
}

/// Reading the last hundred events. Each way checks what it got.
impl Ringlog {
    /// What is appended.
    pub(crate) fn change(&self) -> Change<'_> {
        Change::insert(ENTITY, ROW_ID).with_raw(self.data)
    }

    /// A cursor behind which come the last hundred.
    pub fn tail(&self) -> u64 {
        self.log.head() - EVENTS
    }

    /// In place, every byte's length added up.
    pub fn read(&self, after: u64) {
        let batch = self.log.read(black_box(after), EVENTS as usize).expect("in the window");
        let text = |event: ringlog::EventRef<'_>| {
            event.row_id().len() + event.entity().len() + event.data_json().map_or(0, str::len)
        };
        let found = (batch.len() as u64, batch.iter().map(text).sum::<usize>() as u64);
        assert_eq!(black_box(found), (EVENTS, EVENTS * TEXT));
    }

    /// As the JSON of a response.
    pub fn read_json(&self, after: u64, out: &mut Vec<u8>) {
        out.clear();
        let summary = self.log.pull_json(black_box(after), EVENTS as usize, out).expect("in the window");
        assert_eq!(summary.count as u64, EVENTS);
        assert!(black_box(&*out).len() as u64 > EVENTS * TEXT);
    }

    /// Owned.
    pub fn read_owned(&self, after: u64) {
        let response = self.log.pull(&ringlog::SyncCursor { last_seq: black_box(after) }, EVENTS as usize);
        assert_eq!(black_box(response.expect("in the window")).changes.len() as u64, EVENTS);
    }
}

impl Peer for Ringlog {
    fn writer(&self) -> Box<dyn Writer + '_> {
        Box::new(&*self.log)
    }

    fn reader(&self) -> Box<dyn Reader + '_> {
        Box::new(self.log.follow(self.log.head()))
    }

    fn close(&self) -> Account {
        let stats = self.log.stats();
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
