//! One live stream: what it is sent next, whatever it is sent over.

use crate::echo::Echoes;
use crate::error::ApiError;
use crate::frames::{Frame, Frames, MAX_FRAME_BYTES, MAX_FRAME_EVENTS, write_data};
use crate::history::{History, Measure, Position};
use crate::limits::Limits;
use bytes::Bytes;
use ringlog::{ChangeLog, Cursor, Filter, Follower};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::{Duration, Instant};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_tungstenite::tungstenite::Utf8Bytes;
use tokio_util::sync::CancellationToken;

/// What all live streams share.
pub(crate) struct Live {
    log: Arc<ChangeLog>,
    history: Arc<History>,
    frames: Frames,
    lag: LagTracker,
    heartbeat: Duration,
    /// One permit for each stream.
    permits: Arc<Semaphore>,
    max_streams: usize,
    /// The server is asked to stop.
    stopping: CancellationToken,
}

impl Live {
    pub(crate) fn new(
        log: &Arc<ChangeLog>,
        history: &Arc<History>,
        echoes: Option<&Arc<Echoes>>,
        limits: &Limits,
        stopping: &CancellationToken,
    ) -> Self {
        Self {
            log: Arc::clone(log),
            history: Arc::clone(history),
            frames: Frames::new(echoes),
            lag: LagTracker::default(),
            heartbeat: limits.heartbeat,
            permits: Arc::new(Semaphore::new(limits.max_subscribers)),
            max_streams: limits.max_subscribers,
            stopping: stopping.clone(),
        }
    }

    /// The number of live streams.
    pub(crate) fn streams(&self) -> usize {
        self.max_streams - self.permits.available_permits()
    }

    /// How many events each stream is behind the head that follows everything, in order. (Events
    /// that a filter leaves out are no lag.)
    pub(crate) fn lags(&self) -> Vec<u64> {
        // Before the head is looked at, or one that has just been fed would be ahead of it.
        let positions = self.lag.positions();
        let head = self.log.head();
        let mut lags: Vec<u64> =
            positions.into_iter().map(|position| head.saturating_sub(position)).collect();
        lags.sort_unstable();
        lags
    }
}

/// The positions of live streams.
#[derive(Debug, Default)]
struct LagTracker {
    positions: Mutex<Vec<Weak<AtomicU64>>>,
}

impl LagTracker {
    /// One more stream, for as long as its position is kept.
    fn open(&self, seq: u64) -> Arc<AtomicU64> {
        let position = Arc::new(AtomicU64::new(seq));
        let mut positions = self.positions.lock().unwrap_or_else(PoisonError::into_inner);
        positions.retain(|position| position.strong_count() > 0);
        positions.push(Arc::downgrade(&position));
        position
    }

    /// The seqs up to which everything was sent.
    fn positions(&self) -> Vec<u64> {
        let positions = self.positions.lock().unwrap_or_else(PoisonError::into_inner);
        positions.iter().filter_map(|position| Some(position.upgrade()?.load(Ordering::Relaxed))).collect()
    }
}

/// The shortest time after which a client whose stream has ended comes back.
const MIN_RETRY: Duration = Duration::from_secs(1);

/// The shortest span of time over which clients that come back are spread.
const MIN_SPREAD: Duration = Duration::from_secs(2);

/// The most clients that come back in a second, when all streams end at once.
const MAX_RETURNS: usize = 500;

/// After how long one of so many clients comes back: a random time, so that they do not all come at
/// once when the server is started again, nor load all their snapshots at once.
pub(crate) fn retry(streams: usize) -> Duration {
    let spread =
        MIN_SPREAD.max(Duration::from_secs(1) * u32::try_from(streams / MAX_RETURNS).unwrap_or(u32::MAX));
    // Without random numbers, some come back at the same time.
    let random = getrandom::u32().unwrap_or_default();
    MIN_RETRY + spread.mul_f64(f64::from(random) / f64::from(u32::MAX))
}

/// What a live stream is asked for, besides where it begins.
#[derive(Debug)]
pub(crate) struct Wanted {
    pub(crate) filter: Option<Filter>,
    /// Whether every event is wanted.
    pub(crate) full: bool,
}

/// A follower, and its place among those that are allowed.
pub(crate) struct Subscriber {
    live: Arc<Live>,
    follower: Follower,
    /// Where it stands if it is told to come back with a place, and that place.
    place: Option<(Position, Cursor)>,
    wanted: Wanted,
    lag: Option<Arc<AtomicU64>>,
    /// The first delivery is due: where the stream begins. Not if it cannot begin there.
    is_new: bool,
    /// When it was last sent something.
    last_sent: Instant,
    permit: OwnedSemaphorePermit,
}

/// What a subscriber is sent.
pub(crate) enum Delivery {
    Changes(Arc<Frame>),
    /// Where the stream stands: at its beginning, and when nothing has happened for a while.
    Heartbeat(Notice),
    /// It cannot go on from where it is; the stream ends.
    Resync(Notice),
    /// The server is stopping; the stream ends.
    Stopping(Notice),
}

/// What a stream says besides changes.
pub(crate) struct Notice {
    event: &'static str,
    /// Where the stream stands. None where coming back must not go on from here.
    id: Option<Cursor>,
    /// After how long the client comes back, once the stream has ended.
    retry: Duration,
    json: String,
}

impl Notice {
    /// A refusal: the JSON is that of an error.
    pub(crate) fn refusal(
        event: &'static str,
        id: Option<Cursor>,
        retry: Duration,
        error: &ApiError,
    ) -> Self {
        Self { event, id, retry, json: error.json() }
    }

    fn heartbeat(cursor: Cursor, retry: Duration, heartbeat: Duration) -> Self {
        let (seq, seconds, millis) = (cursor.seq, heartbeat.as_secs_f64(), retry.as_millis());
        let json = format!(
            r#"{{"cursor":{{"last_seq":{seq}}},"heartbeat_seconds":{seconds},"retry_millis":{millis}}}"#
        );
        Self { event: "heartbeat", id: Some(cursor), retry, json }
    }

    /// `event`, `id`, `retry` and `data`: a client remembers an id only of a block that has data.
    pub(crate) fn sse(&self) -> Bytes {
        let id = self.id.map_or(String::new(), |id| format!("id: {id}\n"));
        let head = format!("event: {}\n{id}retry: {}\n", self.event, self.retry.as_millis());
        let mut block = head.into_bytes();
        write_data(&mut block, self.json.as_bytes());
        block.into()
    }

    /// `{"event":…,"id":…,"data":…}`, without the id if there is none.
    pub(crate) fn ws(&self) -> Utf8Bytes {
        let id = self.id.map_or(String::new(), |id| format!(r#""id":"{id}","#));
        format!(r#"{{"event":"{}",{id}"data":{}}}"#, self.event, self.json).into()
    }
}

impl Subscriber {
    /// One more live stream, from `start` or from the end of the log, unless there are too many.
    pub(crate) async fn new(
        live: &Arc<Live>,
        start: Option<Cursor>,
        wanted: Wanted,
    ) -> Result<Self, ApiError> {
        let permit = Arc::clone(&live.permits).try_acquire_owned().map_err(|_| {
            let most = live.max_streams;
            let message =
                format!("there are {most} live streams, the most that are allowed (--max-subscribers)");
            ApiError::unavailable("TOO_MANY_SUBSCRIBERS", message).after(retry(most))
        })?;
        let shown = start.unwrap_or_else(|| live.log.cursor());
        let position = live.history.locate(shown);
        // A bare seq that is good gets to know its log before anything happens: its first id is a
        // whole token.
        let known = Cursor::new(position.cursor.seq, Some(live.log.incarnation()));
        let (cursor, is_new) = if !wanted.full && live.history.serves(position.cursor) {
            (known, live.history.covers(position).await)
        } else {
            let read = live.log.read(position.cursor, 0).map(|nothing| nothing.cursor());
            (read.unwrap_or(position.cursor), read.is_ok())
        };
        let place = position.is_place().then(|| (position, Cursor::new(shown.seq, known.incarnation)));
        let follower = live.log.follow(cursor);
        let lag = wanted.filter.is_none().then(|| live.lag.open(cursor.seq));
        let live = Arc::clone(live);
        Ok(Self { live, follower, place, wanted, lag, is_new, last_sent: Instant::now(), permit })
    }

    /// Where the stream begins. None if the log cannot go on from there.
    pub(crate) fn start(&self) -> Option<Cursor> {
        self.is_new.then(|| self.cursor())
    }

    /// What its client is told to come back with.
    fn cursor(&self) -> Cursor {
        self.place.map_or_else(|| self.follower.cursor(), |(_, shown)| shown)
    }

    /// Its place among those that are allowed, when nothing more is sent to it.
    pub(crate) fn into_permit(self) -> OwnedSemaphorePermit {
        self.permit
    }

    /// What it is sent next. May be dropped at any time, and loses nothing.
    pub(crate) async fn next(&mut self) -> Delivery {
        let delivery = if std::mem::take(&mut self.is_new) { self.heartbeat() } else { self.wait().await };
        self.last_sent = Instant::now();
        delivery
    }

    async fn wait(&mut self) -> Delivery {
        // Counts from the last delivery, not from this call: a caller may drop the wait and begin
        // it again.
        let quiet = self.live.heartbeat.saturating_sub(self.last_sent.elapsed());
        let live = Arc::clone(&self.live);
        let refusal = tokio::select! {
            biased;
            () = live.stopping.cancelled() => None,
            frame = self.next_frame() => match frame {
                Ok(None) => None,
                Ok(Some(frame)) => {
                    if let Some(lag) = &self.lag {
                        lag.store(self.follower.cursor().seq, Ordering::Relaxed);
                    }
                    return Delivery::Changes(frame);
                }
                Err(refusal) => Some(refusal),
            },
            () = tokio::time::sleep(quiet) => return self.heartbeat(),
        };
        let retry = retry(live.streams());
        if let Some(refusal) = refusal {
            // No id: a client that comes back without having loaded the rows is told again.
            return Delivery::Resync(Notice::refusal("resync", None, retry, &refusal));
        }
        let stopping = ApiError::unavailable("STOPPING", "the server is stopping");
        Delivery::Stopping(Notice::refusal("stopping", Some(self.cursor()), retry, &stopping))
    }

    /// The next frame: of the window, or of the compacted history before it. May be dropped at any
    /// time: the subscriber moves when it is done. `None` when the log is closed.
    async fn next_frame(&mut self) -> Result<Option<Arc<Frame>>, ApiError> {
        let Self { live, follower, place, wanted, .. } = self;
        let filter = wanted.filter.as_ref();
        let is_behind = |follower: &Follower| !wanted.full && live.history.serves(follower.cursor());
        loop {
            if !is_behind(follower) {
                match live.frames.next(follower, filter).await {
                    Ok(frame) => {
                        *place = None;
                        return Ok(frame);
                    }
                    Err(resync) if !is_behind(follower) => return Err(resync.into()),
                    Err(_) => {}
                }
            }
            let after = follower.cursor();
            let position = place.map_or(after.into(), |(position, _)| position);
            let measure = Measure { limit: MAX_FRAME_EVENTS, max_bytes: MAX_FRAME_BYTES as usize };
            let page = live.history.page(position, measure, filter).await?;
            follower.seek(page.position.cursor);
            *place = page.position.is_place().then_some((page.position, page.shown));
            // One that leads to the window is sent, be it empty: the next frame begins with a gap,
            // and does not say so. With a filter, gaps say nothing.
            if page.count > 0 || filter.is_none() {
                return Ok(Some(Arc::new(Frame::new(after.seq, page.shown, page.json))));
            }
        }
    }

    fn heartbeat(&self) -> Delivery {
        let retry = retry(self.live.streams());
        Delivery::Heartbeat(Notice::heartbeat(self.cursor(), retry, self.live.heartbeat))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clients_that_come_back_are_spread_over_the_longer_the_more_there_are() {
        for (streams, most) in [(0, 3), (1000, 3), (5000, 11), (50_000, 101)] {
            let times: Vec<_> = (0..1000).map(|_| retry(streams)).collect();
            let (first, last) = (*times.iter().min().unwrap(), *times.iter().max().unwrap());
            assert!(
                first >= MIN_RETRY && last <= Duration::from_secs(most),
                "{streams}: {first:?} to {last:?}"
            );
            // A thousand that are all in one half of the span would be no accident.
            assert!(last > first + Duration::from_secs(most - 1) / 2, "{streams}: {first:?} to {last:?}");
        }
    }
}
