//! tokio's channel of many writers and many readers, which overwrites the oldest.

use crate::contender::{Contender, Held};
use crate::peer::{Account, LIMIT, Peer, Progress, Reader, Writer, row_ids};
use crate::workload::{Event, WINDOW};
use parking_lot::Mutex;
use ringlog_replay::input::Op;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use tokio::sync::broadcast::error::{RecvError, TryRecvError};
use tokio::sync::broadcast::{Receiver, Sender, channel};

/// The channel makes of the window the next power of two.
#[derive(Debug)]
pub struct Broadcast {
    /// None once it is closed.
    sender: Mutex<Option<Sender<Arc<Event>>>>,
    /// Without a receiver the channel keeps nothing.
    receiver: Mutex<Receiver<Arc<Event>>>,
    sent: AtomicU64,
}

impl Default for Broadcast {
    fn default() -> Self {
        Self::new(WINDOW)
    }
}

impl Broadcast {
    /// With an empty window.
    pub fn new(window: usize) -> Self {
        let (sender, receiver) = channel(window);
        Self { sender: Mutex::new(Some(sender)), receiver: Mutex::new(receiver), sent: AtomicU64::new(0) }
    }

    fn sender(&self) -> Sender<Arc<Event>> {
        self.sender.lock().clone().expect("not closed yet")
    }
}

impl Contender for Broadcast {
    fn append(&self, events: u64) {
        let sender = self.sender();
        for _ in 0..events {
            let seq = self.sent.fetch_add(1, Ordering::Relaxed) + 1;
            sender.send(Event::new(seq)).expect("there is a receiver");
        }
    }

    fn taken(&self) -> u64 {
        self.sent.load(Ordering::Relaxed)
    }

    /// Writers take their number before they send: the last events of a window are these, but for
    /// the very first few.
    fn held(&self) -> Option<Held> {
        let mut receiver = self.receiver.lock();
        let (mut held, mut missed) = (Held::default(), 0);
        let mut seqs = Vec::new();
        loop {
            match receiver.try_recv() {
                Ok(event) => {
                    held.add(event.seq, event.text_len(), event.timestamp);
                    seqs.push(event.seq);
                }
                Err(TryRecvError::Lagged(count)) => missed += count,
                Err(TryRecvError::Empty | TryRecvError::Closed) => break,
            }
        }
        seqs.sort_unstable();
        seqs.dedup();
        assert_eq!(seqs.len() as u64, held.events, "no event twice");
        assert!(missed + held.events <= self.taken());
        None
    }
}

impl Peer for Broadcast {
    fn writer(&self) -> Box<dyn Writer + '_> {
        Box::new(Sending { channel: self, sender: self.sender() })
    }

    fn reader(&self) -> Box<dyn Reader + '_> {
        Box::new(self.sender().subscribe())
    }

    fn close(&self) -> Account {
        self.sender.lock().take();
        Account { appended: Some(self.sent.load(Ordering::Relaxed)), superseded: 0 }
    }
}

struct Sending<'a> {
    channel: &'a Broadcast,
    sender: Sender<Arc<Event>>,
}

impl Writer for Sending<'_> {
    fn append(&mut self, batch: &[Op], marked: Option<&str>) {
        for (event, row_id) in row_ids(batch, marked) {
            let seq = self.channel.sent.fetch_add(1, Ordering::Relaxed) + 1;
            let event = Event::of(seq, &event.entity, row_id, event.text());
            assert!(self.sender.send(event).is_ok(), "there is a receiver");
        }
    }
}

impl Reader for Receiver<Arc<Event>> {
    /// It sleeps until something comes or the channel is closed, however short the wait should be.
    fn next(&mut self, wait: Duration, each: &mut dyn FnMut(&str, u64)) -> Progress {
        let mut progress = Progress::default();
        let mut take = |event: &Arc<Event>| {
            each(&event.row_id, event.text_len());
            progress.read += 1;
        };
        if !wait.is_zero() {
            match self.blocking_recv() {
                Ok(event) => take(&event),
                Err(RecvError::Lagged(lost)) => return Progress { read: 0, lost },
                Err(RecvError::Closed) => return progress,
            }
        }
        for _ in 0..LIMIT {
            match self.try_recv() {
                Ok(event) => take(&event),
                Err(TryRecvError::Lagged(lost)) => {
                    progress.lost = lost;
                    break;
                }
                Err(TryRecvError::Empty | TryRecvError::Closed) => break,
            }
        }
        progress
    }
}
