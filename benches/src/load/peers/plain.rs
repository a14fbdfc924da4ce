//! The plain program, with somewhere to sleep.

use super::{Account, LIMIT, Peer, Progress, Reader, Writer, row_ids};
use crate::workload;
use parking_lot::{Condvar, Mutex};
use ringlog_replay::input::Op;
use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

pub(super) struct Queue {
    window: usize,
    state: Mutex<State>,
    grown: Condvar,
}

#[derive(Default)]
struct State {
    last: u64,
    events: VecDeque<Arc<workload::Event>>,
    asleep: usize,
    closed: bool,
}

impl Queue {
    pub(super) fn new(window: usize) -> Self {
        Self { window, state: Mutex::default(), grown: Condvar::new() }
    }
}

impl Peer for Queue {
    fn writer(&self) -> Box<dyn Writer + '_> {
        Box::new(self)
    }

    fn reader(&self) -> Box<dyn Reader + '_> {
        Box::new(Cursor { queue: self, seen: self.state.lock().last })
    }

    fn close(&self) -> Account {
        let mut state = self.state.lock();
        state.closed = true;
        self.grown.notify_all();
        Account { appended: Some(state.last), superseded: 0 }
    }
}

impl Writer for &Queue {
    /// Copies before it takes the lock, drops after it has let go, and wakes only if a thread
    /// sleeps.
    fn append(&mut self, batch: &[Op], marked: Option<&str>) {
        let mut fresh: Vec<_> = row_ids(batch, marked)
            .map(|(event, row_id)| workload::Event::of(0, &event.entity, row_id, event.text()))
            .collect();
        let mut evicted = Vec::with_capacity(fresh.len());
        let asleep = {
            let state = &mut *self.state.lock();
            for mut event in fresh.drain(..) {
                state.last += 1;
                Arc::get_mut(&mut event).expect("not shared yet").seq = state.last;
                state.events.push_back(event);
                if state.events.len() > self.window {
                    evicted.extend(state.events.pop_front());
                }
            }
            state.asleep
        };
        if asleep > 0 {
            self.grown.notify_all();
        }
        drop(evicted);
    }
}

struct Cursor<'a> {
    queue: &'a Queue,
    seen: u64,
}

impl Reader for Cursor<'_> {
    fn next(&mut self, wait: Duration, each: &mut dyn FnMut(&str, u64)) -> Progress {
        let deadline = Instant::now() + wait;
        let mut state = self.queue.state.lock();
        while state.last == self.seen && !state.closed && !wait.is_zero() {
            state.asleep += 1;
            let timed_out = self.queue.grown.wait_until(&mut state, deadline).timed_out();
            state.asleep -= 1;
            if timed_out {
                break;
            }
        }
        let oldest = state.last + 1 - state.events.len() as u64;
        let lost = oldest.saturating_sub(self.seen + 1);
        let from = (self.seen + lost + 1 - oldest) as usize;
        let events: Vec<_> = state.events.range(from..).take(LIMIT).cloned().collect();
        drop(state);
        for event in &events {
            each(&event.row_id, event.text_len());
        }
        let read = events.len() as u64;
        self.seen += lost + read;
        Progress { read, lost }
    }
}
