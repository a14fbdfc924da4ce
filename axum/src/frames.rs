//! What live subscribers are sent, encoded once for all of them.
//!
//! Each subscriber is a [`Follower`] of its own. Those that are up to date stand at the same seq
//! when something happens: the first one to get there encodes the events, and leaves the frame for
//! the others. A subscriber that has fallen behind what is kept here encodes from the log for
//! itself, until it has caught up. So a slow subscriber costs its own time and no memory.

use crate::echo::{Echoes, read_window};
use bytes::Bytes;
use ringlog::{ChangeLog, Cursor, Filter, Follower, Query, Resync};
use std::collections::VecDeque;
use std::ops::Range;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use tokio_tungstenite::tungstenite::Utf8Bytes;

/// The most events in a frame.
pub(crate) const MAX_FRAME_EVENTS: usize = 256;

/// The most events in a frame with echoes: client id and op id are names as well, two of 512 bytes
/// an event, and not among the texts that [`MAX_FRAME_BYTES`] bounds.
const MAX_ECHOED_EVENTS: usize = 32;

/// A frame ends when its texts have so many bytes, however few events that is.
///
/// Encoded, a frame of several events stays below 1 MiB, the most that Python's `websockets` takes
/// unless told otherwise: a name's byte takes 6 at most (`\u0001`), data none more than it has, and
/// what is put around 256 events less than 64 KiB.
pub(crate) const MAX_FRAME_BYTES: u64 = 128 << 10;

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
    /// The JSON of the page: a part of `sse`, unless it has line breaks.
    json: Bytes,
    /// How many bytes it holds at most, without the WebSocket message.
    weight: usize,
    /// As WebSocket message; made when the first one wants it.
    ws: OnceLock<Utf8Bytes>,
}

impl Frame {
    pub(crate) fn new(after: u64, cursor: Cursor, json: Vec<u8>) -> Self {
        let head = format!("event: changes\nid: {cursor}\n");
        let mut sse = Vec::with_capacity(head.len() + json.len() + 8);
        sse.extend_from_slice(head.as_bytes());
        let place = write_data(&mut sse, &json);
        let sse = Bytes::from(sse);
        let (json, weight) = match place {
            Some(place) => (sse.slice(place), sse.len()),
            None => (Bytes::from(json), 2 * sse.len()),
        };
        Self { after, cursor, sse, json, weight, ws: OnceLock::new() }
    }

    /// `event: changes`, `id`, and the JSON of a pull as `data`.
    pub(crate) fn sse(&self) -> Bytes {
        self.sse.clone()
    }

    /// `{"event":"changes","id":…,"data":…}` with the same JSON.
    pub(crate) fn ws(&self) -> Utf8Bytes {
        let text = self.ws.get_or_init(|| {
            let json = String::from_utf8_lossy(&self.json);
            format!(r#"{{"event":"changes","id":"{}","data":{json}}}"#, self.cursor).into()
        });
        text.clone()
    }
}

/// Writes a text as the `data` of a server-sent event, and ends the event. A line break would end
/// the field: each line is a field of its own, and the client puts them together again with line
/// feeds. JSON has line breaks between its tokens only, so a carriage return that becomes a line
/// feed is the same JSON. A text that this would more than double, for its lines are short, gets
/// spaces in place of its line breaks.
///
/// Returns where the text lies in `out`, if it is there as it is.
pub(crate) fn write_data(out: &mut Vec<u8>, text: &[u8]) -> Option<Range<usize>> {
    const FIELD: &[u8] = b"data: ";
    let is_break = |byte: &u8| matches!(byte, b'\n' | b'\r');
    let breaks = text.iter().filter(|byte| is_break(byte)).count();
    let start = out.len() + FIELD.len();
    out.extend_from_slice(FIELD);
    if breaks == 0 {
        out.extend_from_slice(text);
    } else if breaks * (FIELD.len() + 1) > text.len() {
        out.extend(text.iter().map(|byte| if is_break(byte) { b' ' } else { *byte }));
    } else {
        let mut rest = text;
        while let Some(end) = rest.iter().position(is_break) {
            out.extend_from_slice(&rest[..end]);
            out.push(b'\n');
            out.extend_from_slice(FIELD);
            rest = rest[end..].strip_prefix(b"\r\n").unwrap_or(&rest[end + 1..]);
        }
        out.extend_from_slice(rest);
    }
    out.extend_from_slice(b"\n\n");
    (breaks == 0).then(|| start..start + text.len())
}

/// The latest frames.
#[derive(Default)]
pub(crate) struct Frames {
    kept: Mutex<Kept>,
    echoes: Option<Arc<Echoes>>,
}

#[derive(Debug, Default)]
struct Kept {
    frames: VecDeque<Arc<Frame>>,
    bytes: usize,
}

impl Frames {
    pub(crate) fn new(echoes: Option<&Arc<Echoes>>) -> Self {
        Self { kept: Mutex::default(), echoes: echoes.cloned() }
    }

    /// Waits for the follower's next events, and moves it past them. May be dropped at any time: it
    /// moves when it is done. `None` when the log is closed and everything in it was handed out.
    pub(crate) async fn next(
        &self,
        follower: &mut Follower,
        filter: Option<&Filter>,
    ) -> Result<Option<Arc<Frame>>, Resync> {
        loop {
            let next = match filter {
                Some(filter) => follower.next(filter.limit(1)).await,
                None => follower.next(1).await,
            };
            let Some(batch) = next? else { return Ok(None) };
            let first = batch.iter().next().map(|event| event.seq());
            drop(batch);
            let Some(first) = first else { continue };
            // What was filtered out before it may be gone by now, and need not be looked at again.
            let start = Cursor::new(first - 1, follower.cursor().incarnation);
            let encoded = self.frame(follower.log(), start, filter);
            match encoded {
                Ok(frame) => {
                    follower.seek(frame.cursor);
                    return Ok(Some(frame));
                }
                // Lapped in this moment: the follower finds out by itself.
                Err(_) => follower.seek(start),
            }
        }
    }

    /// The frame of what comes after `start`: one that is there, or a new one.
    fn frame(&self, log: &ChangeLog, start: Cursor, filter: Option<&Filter>) -> Result<Arc<Frame>, Resync> {
        if let Some(filter) = filter {
            return encode(log, start, Some(filter), self.echoes.as_deref()).map(Arc::new);
        }
        // Held while encoding: the others want the same frame, and would do the same work.
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(frame) = kept.frames.iter().rev().find(|frame| frame.after == start.seq) {
            return Ok(Arc::clone(frame));
        }
        let is_behind = kept.frames.front().is_some_and(|oldest| start.seq < oldest.after);
        if is_behind {
            // No other subscriber is likely to be just there.
            drop(kept);
            return encode(log, start, None, self.echoes.as_deref()).map(Arc::new);
        }
        let frame = Arc::new(encode(log, start, None, self.echoes.as_deref())?);
        // Only what goes further than the others: one that catches up shall not push out what the
        // many are about to want.
        if kept.frames.back().is_none_or(|last| last.cursor.seq < frame.cursor.seq) {
            kept.keep(Arc::clone(&frame));
        }
        Ok(frame)
    }
}

impl Kept {
    fn keep(&mut self, frame: Arc<Frame>) {
        while self.frames.len() >= KEPT_FRAMES || (self.bytes > KEPT_BYTES && !self.frames.is_empty()) {
            self.bytes -= self.frames.pop_front().map_or(0, |oldest| oldest.weight);
        }
        self.bytes += frame.weight;
        self.frames.push_back(frame);
    }
}

fn encode(
    log: &ChangeLog,
    start: Cursor,
    filter: Option<&Filter>,
    echoes: Option<&Echoes>,
) -> Result<Frame, Resync> {
    let limit = if echoes.is_some() { MAX_ECHOED_EVENTS } else { MAX_FRAME_EVENTS };
    let query = Query::new(limit).max_bytes(MAX_FRAME_BYTES).filter(filter);
    let page = read_window(log, start, query, echoes)?;
    Ok(Frame::new(start.seq, page.cursor, page.json))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What a client makes of an event's bytes: the values of its `data` fields, put together with
    /// line feeds.
    fn data(event: &[u8]) -> String {
        let text = std::str::from_utf8(event).unwrap().strip_suffix("\n\n").unwrap();
        assert!(!text.contains("\n\n") && !text.contains('\r'), "{text:?} is one event");
        let lines: Vec<_> = text.split('\n').map(|line| line.strip_prefix("data: ").unwrap()).collect();
        lines.join("\n")
    }

    #[test]
    fn each_line_of_a_text_is_a_data_field_of_its_own() {
        let long = "[1, 2, 3, 4, 5, 6, 7, 8]";
        let pretty = |line_break: &str| [long, long, "", long].join(line_break);
        for (text, seen) in [
            (String::new(), String::new()),
            (long.into(), long.into()),
            (pretty("\n"), pretty("\n")),
            (pretty("\r"), pretty("\n")),
            (pretty("\r\n"), pretty("\n")),
            (format!("\n{long}\n"), format!("\n{long}\n")),
            // Short lines: a field for each would make more of them than there is.
            ("{\n\r\n}".into(), "{   }".into()),
            ("\n".repeat(1000), " ".repeat(1000)),
        ] {
            let mut out = b"event: e\n".to_vec();
            let place = write_data(&mut out, text.as_bytes());
            assert_eq!(data(&out["event: e\n".len()..]), seen, "{text:?}");
            assert!(out.len() <= 2 * text.len() + 20, "{text:?} grows to {}", out.len());
            assert_eq!(place.is_some(), text == seen && !text.contains('\n'), "{text:?}");
            if let Some(place) = place {
                assert_eq!(&out[place], text.as_bytes());
            }
        }
    }

    #[test]
    fn a_web_socket_message_has_the_text_with_its_line_breaks() {
        for text in ["{\"changes\":[]}", "{\r\n\t\"changes\":\r[]\n}"] {
            let frame = Frame::new(0, Cursor::from(1), text.as_bytes().to_vec());
            assert!(frame.ws().ends_with(&format!(r#","data":{text}}}"#)), "{}", frame.ws());
        }
    }

    #[test]
    fn a_frame_of_several_events_stays_below_a_mebibyte() {
        let log = ChangeLog::builder().capacity(1000).build().unwrap();
        // The worst that names and data can be: each byte of a name is written as six.
        let name = "\u{1}".repeat(512);
        for _ in 0..1000 {
            log.append_change(&ringlog::Change::update(&name, &name));
        }
        let echoes = Echoes::new(1000);
        (1..=1000).for_each(|seq| echoes.restore(seq, Some(&name), &name));
        for echoes in [None, Some(&echoes)] {
            let frame = encode(&log, Cursor::from(0), None, echoes).unwrap();
            assert!(frame.cursor.seq > 1 && frame.ws().len() < 1 << 20, "{} bytes", frame.ws().len());
        }
        // Nor where names are short, and what they were pushed under is not.
        let log = ChangeLog::builder().capacity(1000).build().unwrap();
        for _ in 0..1000 {
            log.append_change(&ringlog::Change::update("E", "r"));
        }
        let frame = encode(&log, Cursor::from(0), None, Some(&echoes)).unwrap();
        assert!(frame.cursor.seq > 1 && frame.ws().len() < 1 << 20, "{} bytes", frame.ws().len());
    }
}
