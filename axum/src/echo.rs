//! The client id and the op id of an event (`--echo`): a client recognises its own.
//!
//! The log's records have no room for this. It is kept beside the log, for the last `--op-ids`
//! changes that had a client id or an op id; the store has the op ids, and with them the client
//! ids, over restarts.

use crate::snapshots::write_string;
use crate::store::LatestChange;
use ringlog::{ChangeLog, Cursor, EventRef, PushClaim, Query, Resync};
use std::collections::VecDeque;
use std::io::Write;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, UNIX_EPOCH};

/// What the last changes were pushed under.
pub struct Echoes {
    capacity: usize,
    /// In the order of seqs.
    kept: Mutex<VecDeque<Arc<Echo>>>,
}

/// What one change was pushed under.
#[derive(Debug)]
pub struct Echo {
    seq: u64,
    client_id: Option<Box<str>>,
    op_id: Option<Box<str>>,
}

impl Echoes {
    pub fn new(capacity: usize) -> Self {
        Self { capacity, kept: Mutex::default() }
    }

    /// Notes what the changes of a claim are pushed under, before they are seen.
    pub fn add(&self, first_seq: u64, claim: &PushClaim<'_>) {
        let mut kept = self.lock();
        for (seq, op_id) in (first_seq..).zip(claim.op_ids()) {
            self.keep(&mut kept, seq, claim.client_id(), op_id.map(|(op_id, _)| op_id));
        }
    }

    /// Notes what the store remembers of one change.
    pub fn restore(&self, seq: u64, client_id: Option<&str>, op_id: &str) {
        self.keep(&mut self.lock(), seq, client_id, Some(op_id));
    }

    fn keep(&self, kept: &mut VecDeque<Arc<Echo>>, seq: u64, client_id: Option<&str>, op_id: Option<&str>) {
        if client_id.is_none() && op_id.is_none() {
            return;
        }
        if kept.len() >= self.capacity {
            kept.pop_front();
        }
        kept.push_back(Arc::new(Echo {
            seq,
            client_id: client_id.map(Into::into),
            op_id: op_id.map(Into::into),
        }));
    }

    fn lock(&self) -> MutexGuard<'_, VecDeque<Arc<Echo>>> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn get(&self, seq: u64) -> Option<Arc<Echo>> {
        let kept = self.lock();
        let index = kept.binary_search_by_key(&seq, |echo| echo.seq).ok()?;
        kept.get(index).cloned()
    }
}

/// A page of the window.
pub struct WindowPage {
    pub json: Vec<u8>,
    pub count: usize,
    pub cursor: Cursor,
    pub has_more: bool,
}

/// Reads a page from the window: [`ChangeLog::pull_json`], with the echoes if there are any.
pub fn read_window(
    log: &ChangeLog,
    cursor: Cursor,
    query: Query<'_>,
    echoes: Option<&Echoes>,
) -> Result<WindowPage, Resync> {
    let mut json = Vec::new();
    let Some(echoes) = echoes else {
        let page = log.pull_json(cursor, query, &mut json)?;
        return Ok(WindowPage { json, count: page.count, cursor: page.cursor, has_more: page.has_more });
    };
    let events = log.read(cursor, query)?;
    json.extend_from_slice(br#"{"changes":["#);
    for (index, event) in events.iter().enumerate() {
        if index > 0 {
            json.push(b',');
        }
        write_change(&mut json, event.into(), Some(echoes));
    }
    let (cursor, has_more) = (events.cursor(), events.has_more());
    let _ = write!(json, r#"],"cursor":{{"last_seq":{}}},"has_more":{has_more}}}"#, cursor.seq);
    Ok(WindowPage { json, count: events.len(), cursor, has_more })
}

/// Writes a change as the library writes an event, and what it was pushed under.
pub fn write_change(out: &mut Vec<u8>, change: LatestChange<'_>, echoes: Option<&Echoes>) {
    // Writing to a Vec does not fail.
    let _ = write!(out, r#"{{"seq":{},"entity":"#, change.seq);
    write_string(out, change.entity);
    out.extend_from_slice(br#","row_id":"#);
    write_string(out, change.row_id);
    let _ = write!(out, r#","kind":"{}""#, change.kind.as_str());
    if let Some(data) = change.data {
        out.extend_from_slice(br#","data":"#);
        out.extend_from_slice(data.as_bytes());
    }
    let time = UNIX_EPOCH + Duration::from_millis(change.timestamp_millis);
    let _ = write!(out, r#","timestamp":"{}""#, humantime::format_rfc3339_millis(time));
    if let Some(echo) = echoes.and_then(|echoes| echoes.get(change.seq)) {
        for (name, value) in [("client_id", &echo.client_id), ("op_id", &echo.op_id)] {
            if let Some(value) = value {
                let _ = write!(out, r#","{name}":"#);
                write_string(out, value);
            }
        }
    }
    out.push(b'}');
}

impl<'a> From<EventRef<'a>> for LatestChange<'a> {
    fn from(event: EventRef<'a>) -> Self {
        Self {
            seq: event.seq(),
            timestamp_millis: event.timestamp_millis(),
            kind: event.kind(),
            entity: event.entity(),
            row_id: event.row_id(),
            data: event.data_json(),
        }
    }
}
