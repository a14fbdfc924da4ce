//! The best plain program: a lock around a queue.

use crate::contender::{Contender, Held};
use crate::peer::{Account, LIMIT, Peer, Progress, Reader, Writer, row_ids};
use crate::workload::{EVENTS, Event, TEXT};
use parking_lot::{Condvar, Mutex};
use ringlog_replay::input::Op;
use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Shared, owned events behind a lock that is held as shortly as can be, with somewhere to sleep.
#[derive(Debug)]
pub struct Plain {
    window: Mutex<Window>,
    capacity: usize,
    grown: Condvar,
}

#[derive(Debug, Default)]
struct Window {
    last: u64,
    events: VecDeque<Arc<Event>>,
    asleep: usize,
    closed: bool,
}

impl Window {
    /// Adds an event that is not shared yet. Returns the one that has to go for it.
    fn add(&mut self, mut event: Arc<Event>, capacity: usize) -> Option<Arc<Event>> {
        self.last += 1;
        // The seq must be taken under the lock.
        Arc::get_mut(&mut event).expect("not shared yet").seq = self.last;
        self.events.push_back(event);
        if self.events.len() > capacity { self.events.pop_front() } else { None }
    }
}

impl Plain {
    /// With an empty window.
    pub fn new(capacity: usize) -> Self {
        Self { window: Mutex::default(), capacity, grown: Condvar::new() }
    }

    /// With a window that writers have gone round once.
    pub fn full(capacity: usize) -> Self {
        let contender = Self::new(capacity);
        contender.append(2 * capacity as u64);
        contender
    }

    /// Appends one event, the work done before the lock is taken and after it is released where
    /// that can be. Returns its seq.
    pub fn append_event(&self, event: Arc<Event>) -> u64 {
        let (seq, evicted, asleep) = {
            let window = &mut *self.window.lock();
            let evicted = window.add(event, self.capacity);
            (window.last, evicted, window.asleep)
        };
        if asleep > 0 {
            self.grown.notify_all();
        }
        drop(evicted);
        seq
    }

    /// At most `limit` events after a seq, shared; `None` if some of them have been evicted.
    pub fn read(&self, after: u64, limit: usize) -> Option<Vec<Arc<Event>>> {
        let Window { last, events, .. } = &*self.window.lock();
        let left = usize::try_from(last - after).ok().filter(|left| *left <= events.len())?;
        let from = events.len() - left;
        Some(events.range(from..from + left.min(limit)).cloned().collect())
    }

    /// Reads a hundred events by reference count, every byte's length added up.
    pub fn read_shared(&self, after: u64) {
        let events = self.read(after, EVENTS as usize).expect("in the window");
        assert_eq!(events.iter().map(|event| event.text_len()).sum::<u64>(), EVENTS * TEXT);
    }

    /// The seq of the last event.
    pub fn last(&self) -> u64 {
        self.window.lock().last
    }
}

impl Contender for Plain {
    fn append(&self, events: u64) {
        for _ in 0..events {
            self.append_event(Event::new(0));
        }
    }

    fn taken(&self) -> u64 {
        self.last()
    }

    fn held(&self) -> Option<Held> {
        let mut held = Held::default();
        for event in &self.window.lock().events {
            held.add(event.seq, event.text_len(), event.timestamp);
        }
        Some(held)
    }
}

impl Peer for Plain {
    fn writer(&self) -> Box<dyn Writer + '_> {
        Box::new(self)
    }

    fn reader(&self) -> Box<dyn Reader + '_> {
        Box::new(Cursor { plain: self, seen: self.last() })
    }

    fn close(&self) -> Account {
        let mut window = self.window.lock();
        window.closed = true;
        self.grown.notify_all();
        Account { appended: Some(window.last), superseded: 0 }
    }
}

impl Writer for &Plain {
    /// Copies before it takes the lock, drops after it has let go, and wakes only if a thread
    /// sleeps.
    fn append(&mut self, batch: &[Op], marked: Option<&str>) {
        let fresh: Vec<_> = row_ids(batch, marked)
            .map(|(event, row_id)| Event::of(0, &event.entity, row_id, event.text()))
            .collect();
        let mut evicted = Vec::with_capacity(fresh.len());
        let asleep = {
            let window = &mut *self.window.lock();
            for event in fresh {
                evicted.extend(window.add(event, self.capacity));
            }
            window.asleep
        };
        if asleep > 0 {
            self.grown.notify_all();
        }
        drop(evicted);
    }
}

struct Cursor<'a> {
    plain: &'a Plain,
    seen: u64,
}

impl Reader for Cursor<'_> {
    fn next(&mut self, wait: Duration, each: &mut dyn FnMut(&str, u64)) -> Progress {
        let deadline = Instant::now() + wait;
        let mut window = self.plain.window.lock();
        while window.last == self.seen && !window.closed && !wait.is_zero() {
            window.asleep += 1;
            let timed_out = self.plain.grown.wait_until(&mut window, deadline).timed_out();
            window.asleep -= 1;
            if timed_out {
                break;
            }
        }
        let oldest = window.last + 1 - window.events.len() as u64;
        let lost = oldest.saturating_sub(self.seen + 1);
        let from = (self.seen + lost + 1 - oldest) as usize;
        let events: Vec<_> = window.events.range(from..).take(LIMIT).cloned().collect();
        drop(window);
        for event in &events {
            each(&event.row_id, event.text_len());
        }
        let read = events.len() as u64;
        self.seen += lost + read;
        Progress { read, lost }
    }
}
