//! tokio's channel of many writers and many readers, which overwrites the oldest.

use super::Event;
use crate::contender::{Contender, Held, Progress, Reader};
use parking_lot::Mutex;
use ringlog::Change;
use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use tokio::sync::broadcast::error::{RecvError, TryRecvError};
use tokio::sync::broadcast::{Receiver, Sender, channel};

/// The channel makes of the window the next power of two.
pub struct Broadcast {
    sender: Sender<Arc<Event>>,
    /// Without a receiver the channel keeps nothing.
    receiver: Mutex<Receiver<Arc<Event>>>,
    sent: AtomicU64,
}

impl Contender for Broadcast {
    fn with_window(window: usize) -> Self {
        let (sender, receiver) = channel(window);
        Self { sender, receiver: Mutex::new(receiver), sent: AtomicU64::new(0) }
    }

    #[inline]
    fn append_event(&self, change: &Change<'_>) {
        let seq = self.sent.fetch_add(1, Ordering::Relaxed) + 1;
        self.sender.send(Event::new(seq, change)).expect("there is a receiver");
    }

    fn taken(&self) -> u64 {
        self.sent.load(Ordering::Relaxed)
    }

    /// Writers take their number before they send: the events of a window are not exactly the last,
    /// but each is there once.
    fn held(&self) -> Option<Held> {
        let mut receiver = self.receiver.lock();
        let (mut seqs, mut missed) = (HashSet::new(), 0);
        loop {
            match receiver.try_recv() {
                Ok(event) => assert!(event.timestamp > 0 && seqs.insert(event.seq), "no event twice"),
                Err(TryRecvError::Lagged(count)) => missed += count,
                Err(TryRecvError::Empty | TryRecvError::Closed) => break,
            }
        }
        assert_eq!(missed + seqs.len() as u64, self.taken());
        None
    }

    /// It sleeps until something comes, however short the wait should be.
    fn reader(&self, limit: usize) -> Reader<'_> {
        let mut receiver = self.sender.subscribe();
        Box::new(move |wait, each| {
            let mut progress = Progress::default();
            let mut take = |event: &Event| {
                // That of `close` has no number.
                if event.seq > 0 {
                    each(&event.row_id, event.text_len());
                    progress.read += 1;
                }
            };
            if !wait.is_zero() {
                match receiver.blocking_recv() {
                    Ok(event) => take(&event),
                    Err(RecvError::Lagged(lost)) => return Progress { read: 0, lost },
                    Err(RecvError::Closed) => return progress,
                }
            }
            for _ in 0..limit {
                match receiver.try_recv() {
                    Ok(event) => take(&event),
                    Err(TryRecvError::Lagged(lost)) => return Progress { lost, ..progress },
                    Err(TryRecvError::Empty | TryRecvError::Closed) => break,
                }
            }
            progress
        })
    }

    fn close(&self) {
        self.sender.send(Arc::default()).expect("there is a receiver");
    }
}
