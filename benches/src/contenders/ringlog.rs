//! This crate, as it ships.

use crate::contender::{Contender, Held, Progress, Reader};
use ringlog::{Change, ChangeLog, EventRef};
use std::hint::black_box;

pub(crate) fn text_len(event: &EventRef<'_>) -> u64 {
    (event.entity().len() + event.row_id().len() + event.data_json().map_or(0, str::len)) as u64
}

impl Contender for ChangeLog {
    fn with_window(window: usize) -> Self {
        Self::with_capacity(window)
    }

    #[inline]
    fn append_event(&self, change: &Change<'_>) {
        black_box(self.append_change(change));
    }

    fn append_events(&self, changes: &[Change<'_>]) {
        match changes {
            [change] => self.append_event(change),
            _ => drop(black_box(self.append_batch(changes))),
        }
    }

    fn taken(&self) -> u64 {
        self.stats().appended
    }

    fn held(&self) -> Option<Held> {
        let mut held = Held::default();
        for event in &self.read(self.oldest_seq() - 1, usize::MAX).expect("the window") {
            held.add(event.seq(), text_len(&event), event.timestamp_millis());
        }
        Some(held)
    }

    fn reader(&self, limit: usize) -> Reader<'_> {
        let mut seen = self.last_seq();
        Box::new(move |wait, each| {
            if !wait.is_zero() {
                // Whether there is something to read is seen below.
                let _waited = self.blocking_wait_for(seen + 1, wait);
            }
            let progress = match self.read(seen, limit) {
                Ok(events) => {
                    for event in &events {
                        each(event.row_id(), text_len(&event));
                    }
                    Progress { read: events.len() as u64, lost: 0 }
                }
                Err(resync) => Progress { read: 0, lost: resync.oldest_seq - 1 - seen },
            };
            seen += progress.read + progress.lost;
            progress
        })
    }

    fn superseded(&self) -> u64 {
        let stats = self.stats();
        assert_eq!(stats.unpublished, 0, "every writer is done");
        stats.superseded
    }
}
