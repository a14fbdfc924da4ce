//! This crate.

use crate::contender::{Contender, Held};
use crate::workload::{ENTITY, EVENTS, ROW_ID, TEXT, data};
use serde_json::value::RawValue;
use std::hint::black_box;

/// The library as it ships.
#[derive(Debug)]
pub struct Ringlog {
    /// The log itself.
    pub log: ringlog::ChangeLog,
    data: &'static RawValue,
}

impl Ringlog {
    /// With an empty window.
    pub fn new(window: usize) -> Self {
        Self { log: ringlog::ChangeLog::with_capacity(window), data: data() }
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
            let change = ringlog::Change::insert(ENTITY, ROW_ID).with_raw(self.data);
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
    pub(crate) fn change(&self) -> ringlog::Change<'_> {
        ringlog::Change::insert(ENTITY, ROW_ID).with_raw(self.data)
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
