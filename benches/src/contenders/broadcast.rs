//! tokio's channel of many writers and many readers, which overwrites the oldest.

use crate::contender::{Contender, Held};
use crate::workload::{Event, WINDOW};
use parking_lot::Mutex;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use tokio::sync::broadcast::{Receiver, Sender, channel, error::TryRecvError};

/// The channel makes of the window the next power of two.
#[derive(Debug)]
pub struct Broadcast {
    sender: Sender<Arc<Event>>,
    /// Without a receiver the channel keeps nothing.
    receiver: Mutex<Receiver<Arc<Event>>>,
    sent: AtomicU64,
}

impl Default for Broadcast {
    fn default() -> Self {
        let (sender, receiver) = channel(WINDOW);
        Self { sender, receiver: Mutex::new(receiver), sent: AtomicU64::new(0) }
    }
}

impl Contender for Broadcast {
    fn append(&self, events: u64) {
        for _ in 0..events {
            let seq = self.sent.fetch_add(1, Ordering::Relaxed) + 1;
            self.sender.send(Event::new(seq)).expect("there is a receiver");
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
