//! The best plain program: a lock around a queue.

use super::Event;
use crate::contender::{Contender, Held, Progress, Reader};
use parking_lot::{Condvar, Mutex};
use ringlog::Change;
use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Instant;

/// Shared, owned events behind a lock that is held as shortly as can be, with somewhere to sleep.
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
    /// Wakes readers, if there are any asleep.
    fn wake(&self, asleep: usize) {
        if asleep > 0 {
            self.grown.notify_all();
        }
    }

    /// The bytes of the last events, each of them shared on the way.
    pub fn read_last(&self, count: usize) -> u64 {
        let window = self.window.lock();
        let from = window.events.len() - count;
        let events: Vec<_> = window.events.range(from..).cloned().collect();
        drop(window);
        events.iter().map(|event| event.text_len()).sum()
    }
}

/// Copies before the lock is taken, and drops after it is released.
impl Contender for Plain {
    fn with_window(capacity: usize) -> Self {
        Self { window: Mutex::default(), capacity, grown: Condvar::new() }
    }

    #[inline]
    fn append_event(&self, change: &Change<'_>) {
        let event = Event::new(0, change);
        let (evicted, asleep) = {
            let window = &mut *self.window.lock();
            (window.add(event, self.capacity), window.asleep)
        };
        self.wake(asleep);
        drop(evicted);
    }

    fn append_events(&self, changes: &[Change<'_>]) {
        let fresh: Vec<_> = changes.iter().map(|change| Event::new(0, change)).collect();
        let mut evicted = Vec::with_capacity(fresh.len());
        let asleep = {
            let window = &mut *self.window.lock();
            evicted.extend(fresh.into_iter().filter_map(|event| window.add(event, self.capacity)));
            window.asleep
        };
        self.wake(asleep);
        drop(evicted);
    }

    fn taken(&self) -> u64 {
        self.window.lock().last
    }

    fn held(&self) -> Option<Held> {
        let mut held = Held::default();
        for event in &self.window.lock().events {
            held.add(event.seq, event.text_len(), event.timestamp);
        }
        Some(held)
    }

    fn reader(&self, limit: usize) -> Reader<'_> {
        let mut seen = self.taken();
        Box::new(move |wait, each| {
            let mut window = self.window.lock();
            if window.last == seen && !wait.is_zero() {
                let deadline = Instant::now() + wait;
                window.asleep += 1;
                while window.last == seen && !self.grown.wait_until(&mut window, deadline).timed_out() {}
                window.asleep -= 1;
            }
            let oldest = window.last + 1 - window.events.len() as u64;
            let lost = oldest.saturating_sub(seen + 1);
            let from = (seen + lost + 1 - oldest) as usize;
            let events: Vec<_> = window.events.range(from..).take(limit).cloned().collect();
            drop(window);
            for event in &events {
                each(&event.row_id, event.text_len());
            }
            let read = events.len() as u64;
            seen += lost + read;
            Progress { read, lost }
        })
    }
}
