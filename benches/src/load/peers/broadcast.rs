//! tokio's channel.

use super::{Account, LIMIT, Peer, Progress, Reader, Writer, row_ids};
use crate::workload;
use parking_lot::Mutex;
use ringlog_replay::input::Op;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use tokio::sync::broadcast::error::{RecvError, TryRecvError};
use tokio::sync::broadcast::{self, Receiver, Sender};

type Shared = Arc<workload::Event>;

pub(super) struct Channel {
    sender: Mutex<Option<Sender<Shared>>>,
    sent: AtomicU64,
    /// Without a receiver the channel keeps nothing.
    _receiver: Receiver<Shared>,
}

impl Channel {
    pub(super) fn new(window: usize) -> Self {
        let (sender, receiver) = broadcast::channel(window);
        Self { sender: Mutex::new(Some(sender)), sent: AtomicU64::new(0), _receiver: receiver }
    }

    fn sender(&self) -> Sender<Shared> {
        self.sender.lock().clone().expect("not closed yet")
    }
}

impl Peer for Channel {
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
    channel: &'a Channel,
    sender: Sender<Shared>,
}

impl Writer for Sending<'_> {
    fn append(&mut self, batch: &[Op], marked: Option<&str>) {
        for (event, row_id) in row_ids(batch, marked) {
            let seq = self.channel.sent.fetch_add(1, Ordering::Relaxed) + 1;
            let event = workload::Event::of(seq, &event.entity, row_id, event.text());
            assert!(self.sender.send(event).is_ok(), "there is a receiver");
        }
    }
}

impl Reader for Receiver<Shared> {
    /// It sleeps until something comes or the channel is closed, however short the wait should be.
    fn next(&mut self, wait: Duration, each: &mut dyn FnMut(&str, u64)) -> Progress {
        let mut progress = Progress::default();
        let mut take = |event: &Shared| {
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
