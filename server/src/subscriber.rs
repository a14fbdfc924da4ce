//! One live stream: what it is sent next, whatever it is sent over.

use crate::app::App;
use crate::error::ApiError;
use crate::frames::Frame;
use ringlog::{Cursor, Filter, Follower};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Instant;
use tokio::sync::OwnedSemaphorePermit;

/// Where the live streams stand that follow everything. (What is not for a filtered one is no lag.)
#[derive(Debug, Default)]
pub(crate) struct Places {
    places: Mutex<Vec<Weak<AtomicU64>>>,
}

impl Places {
    /// One more, for as long as it is kept.
    fn open(&self, seq: u64) -> Arc<AtomicU64> {
        let place = Arc::new(AtomicU64::new(seq));
        let mut places = self.places.lock().unwrap_or_else(PoisonError::into_inner);
        places.retain(|place| place.strong_count() > 0);
        places.push(Arc::downgrade(&place));
        place
    }

    /// The seqs up to which they were sent everything.
    pub(crate) fn all(&self) -> Vec<u64> {
        let places = self.places.lock().unwrap_or_else(PoisonError::into_inner);
        places.iter().filter_map(|place| Some(place.upgrade()?.load(Ordering::Relaxed))).collect()
    }
}

/// A follower, and its place among those that are allowed.
pub(crate) struct Subscriber {
    app: Arc<App>,
    follower: Follower,
    filter: Option<Filter>,
    place: Option<Arc<AtomicU64>>,
    /// When it was last sent something.
    last_sent: Instant,
    _permit: OwnedSemaphorePermit,
}

/// What a subscriber is sent.
pub(crate) enum Delivery {
    Changes(Arc<Frame>),
    /// Nothing happened for a while; this is where it stands.
    Heartbeat(Cursor),
    /// It cannot go on from where it is; the stream ends.
    Resync(ApiError),
    /// The server is stopping; the stream ends.
    Stopping,
}

impl Subscriber {
    /// One more live stream, unless there are too many.
    pub(crate) fn new(
        app: &Arc<App>,
        start: Option<Cursor>,
        filter: Option<Filter>,
    ) -> Result<Self, ApiError> {
        let permit = Arc::clone(&app.subscribers).try_acquire_owned().map_err(|_| {
            ApiError::unavailable(
                "TOO_MANY_SUBSCRIBERS",
                format!("there are {} live streams, the most that are allowed", app.config.max_subscribers),
            )
        })?;
        let start = start.unwrap_or_else(|| app.log.cursor());
        // A bare seq that is good gets to know its log before anything happens: its first id is a whole token.
        let known = app.log.read(start, 0).map(|nothing| nothing.cursor());
        let follower = app.log.follow(known.unwrap_or(start));
        let place = filter.is_none().then(|| app.places.open(start.seq));
        Ok(Self { app: Arc::clone(app), follower, filter, place, last_sent: Instant::now(), _permit: permit })
    }

    /// Where it stands.
    pub(crate) fn cursor(&self) -> Cursor {
        self.follower.cursor()
    }

    /// What it is sent next. May be dropped at any time, and loses nothing.
    pub(crate) async fn next(&mut self) -> Delivery {
        let delivery = self.wait().await;
        self.last_sent = Instant::now();
        delivery
    }

    async fn wait(&mut self) -> Delivery {
        let Self { app, follower, filter, place, last_sent, .. } = self;
        // Since it was sent something, not since now: who waits here may be called away, again and again.
        let quiet = app.config.heartbeat.saturating_sub(last_sent.elapsed());
        tokio::select! {
            biased;
            () = app.stopping.cancelled() => return Delivery::Stopping,
            frame = app.frames.next(follower, filter.as_ref()) => return match frame {
                Ok(frame) => {
                    if let Some(place) = place {
                        place.store(follower.cursor().seq, Ordering::Relaxed);
                    }
                    Delivery::Changes(frame)
                }
                Err(resync) => Delivery::Resync(resync.into()),
            },
            () = tokio::time::sleep(quiet) => {}
        }
        Delivery::Heartbeat(self.follower.cursor())
    }
}
