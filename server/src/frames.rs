//! What live subscribers are sent, encoded once for all of them.
//!
//! Each subscriber is a [`Follower`] of its own. Those that are up to date stand at the same seq when something happens: the
//! first one to get there encodes the events, and leaves the frame for the others. Who has fallen behind what is kept here
//! encodes from the log for itself, until it has caught up. So a slow subscriber costs its own time and nobody's memory.

use axum::extract::ws::Utf8Bytes;
use bytes::Bytes;
use ringlog::{ChangeLog, Cursor, Filter, Follower, Query, Resync};
use std::collections::VecDeque;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

/// The most events in a frame.
const MAX_FRAME_EVENTS: usize = 256;

/// A frame ends when its texts have so many bytes, however few events that is.
const MAX_FRAME_BYTES: usize = 256 << 10;

/// How many frames are kept, and of how many bytes together (one more may go beyond).
const KEPT_FRAMES: usize = 64;
const KEPT_BYTES: usize = 4 << 20;

/// A run of events, encoded.
#[derive(Debug)]
pub(crate) struct Frame {
    /// The seq before the first event.
    after: u64,
    /// Where its reader stands afterwards.
    cursor: Cursor,
    /// As server-sent event.
    sse: Bytes,
    /// Where in `sse` the JSON lies.
    json: std::ops::Range<usize>,
    /// As WebSocket message; made when the first one wants it.
    ws: OnceLock<Utf8Bytes>,
}

impl Frame {
    fn new(after: u64, cursor: Cursor, json: &[u8]) -> Self {
        let head = format!("id: {cursor}\nevent: changes\ndata: ");
        // Data is written out from values, without line breaks; one would end the field.
        debug_assert!(!json.contains(&b'\n') && !json.contains(&b'\r'));
        let sse = Bytes::from([head.as_bytes(), json, b"\n\n"].concat());
        Self { after, cursor, sse, json: head.len()..head.len() + json.len(), ws: OnceLock::new() }
    }

    /// `id`, `event: changes`, and the JSON that a pull would have had.
    pub(crate) fn sse(&self) -> Bytes {
        self.sse.clone()
    }

    /// `{"event":"changes","id":…,"data":…}` with the same JSON.
    pub(crate) fn ws(&self) -> Utf8Bytes {
        let text = self.ws.get_or_init(|| {
            let json = String::from_utf8_lossy(&self.sse[self.json.clone()]);
            format!(r#"{{"event":"changes","id":"{}","data":{json}}}"#, self.cursor).into()
        });
        text.clone()
    }
}

/// The latest frames.
#[derive(Debug, Default)]
pub(crate) struct Frames {
    kept: Mutex<Kept>,
}

#[derive(Debug, Default)]
struct Kept {
    frames: VecDeque<Arc<Frame>>,
    bytes: usize,
}

impl Frames {
    /// Waits for the follower's next events, and moves it past them. May be dropped at any time: it moves when it is done.
    pub(crate) async fn next(
        &self,
        follower: &mut Follower,
        filter: Option<&Filter>,
    ) -> Result<Arc<Frame>, Resync> {
        loop {
            let next = match filter {
                Some(filter) => follower.next(filter.limit(1)).await,
                None => follower.next(1).await,
            };
            let first = next?.iter().next().map(|event| event.seq());
            let Some(first) = first else { continue };
            // What was filtered out before it may be gone by now, and need not be looked at again.
            let start = Cursor { seq: first - 1, ..follower.cursor() };
            let encoded = self.frame(follower.log(), start, filter);
            match encoded {
                Ok(frame) => {
                    follower.seek(frame.cursor);
                    return Ok(frame);
                }
                // Lapped in this moment: the follower finds out by itself.
                Err(_) => follower.seek(start),
            }
        }
    }

    /// The frame of what comes after `start`: one that is there, or a new one.
    fn frame(&self, log: &ChangeLog, start: Cursor, filter: Option<&Filter>) -> Result<Arc<Frame>, Resync> {
        if let Some(filter) = filter {
            return encode(log, start, Some(filter)).map(Arc::new);
        }
        // Held while encoding: the others want the same frame, and would do the same work.
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(frame) = kept.frames.iter().rev().find(|frame| frame.after == start.seq) {
            return Ok(Arc::clone(frame));
        }
        let is_behind = kept.frames.front().is_some_and(|oldest| start.seq < oldest.after);
        if is_behind {
            // Nobody else is likely to be just there.
            drop(kept);
            return encode(log, start, None).map(Arc::new);
        }
        let frame = Arc::new(encode(log, start, None)?);
        // Only what goes further than the others: who catches up shall not push out what the many are about to want.
        if kept.frames.back().is_none_or(|last| last.cursor.seq < frame.cursor.seq) {
            kept.keep(Arc::clone(&frame));
        }
        Ok(frame)
    }
}

impl Kept {
    fn keep(&mut self, frame: Arc<Frame>) {
        while self.frames.len() >= KEPT_FRAMES || (self.bytes > KEPT_BYTES && !self.frames.is_empty()) {
            self.bytes -= self.frames.pop_front().map_or(0, |oldest| oldest.sse.len());
        }
        self.bytes += frame.sse.len();
        self.frames.push_back(frame);
    }
}

fn encode(log: &ChangeLog, start: Cursor, filter: Option<&Filter>) -> Result<Frame, Resync> {
    let mut json = Vec::new();
    let page = write_page(log, start, MAX_FRAME_EVENTS, filter, MAX_FRAME_BYTES, &mut json)?;
    Ok(Frame::new(start.seq, page.cursor, &json))
}

/// What [`write_page`] wrote.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Page {
    pub(crate) count: usize,
    pub(crate) cursor: Cursor,
    pub(crate) has_more: bool,
}

/// Writes the JSON of the events after a cursor, at most `limit`, and no more than `max_bytes` of texts where that is not
/// exceeded by the first.
pub(crate) fn write_page(
    log: &ChangeLog,
    start: Cursor,
    limit: usize,
    filter: Option<&Filter>,
    max_bytes: usize,
    out: &mut Vec<u8>,
) -> Result<Page, Resync> {
    let query = |limit| filter.map_or_else(|| Query::from(limit), |filter| filter.limit(limit));
    let mut batch = log.read(start, query(limit))?;
    let mut bytes = 0;
    let fits = batch.iter().take_while(|event| {
        bytes += event.entity().len() + event.row_id().len() + event.data_json().map_or(0, str::len);
        bytes <= max_bytes
    });
    let fitting = fits.count().max(1);
    if fitting < batch.len() {
        batch = log.read(start, query(fitting))?;
    }
    batch.write_json(out);
    Ok(Page { count: batch.len(), cursor: batch.cursor(), has_more: batch.has_more() })
}
