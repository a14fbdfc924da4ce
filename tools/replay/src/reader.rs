//! A reader: follows the log with a cursor and folds what it sees, as a client would.

#![forbid(unsafe_code)]

use crate::database::Database;
use crate::fold::Fold;
use crate::latency::Latency;
use crate::stretch::{Stretch, fingerprint};
use ringlog::{ChangeKind, ChangeLog, Cursor, PullError, Resync, ResyncReason, SyncCursor};
use serde::Deserialize;
use serde_json::value::RawValue;
use std::borrow::Cow;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

/// How long a reader sleeps when there is nothing to read.
const PAUSE: Duration = Duration::from_micros(50);
/// How long a reader may stand still after the last append before that counts as a failure.
const PATIENCE: Duration = Duration::from_secs(10);

/// The call a reader reads with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Way {
    /// `ChangeLog::read`: events by reference.
    Read,
    /// `ChangeLog::pull_json`: bytes for the wire, which the reader parses.
    PullJson,
    /// `ChangeLog::pull`: owned events.
    Pull,
}

impl Way {
    /// Every way.
    pub(crate) const ALL: [Way; 3] = [Way::Read, Way::PullJson, Way::Pull];

    /// The name of the call.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Way::Read => "read",
            Way::PullJson => "pull_json",
            Way::Pull => "pull",
        }
    }
}

/// A reader, with what it saw so far.
#[derive(Debug)]
pub(crate) struct Reader<'a> {
    log: &'a ChangeLog,
    database: Option<&'a Database>,
    pub(crate) way: Way,
    limit: usize,
    cursor: Cursor,
    body: Vec<u8>,
    /// What it ended up with.
    pub(crate) fold: Fold,
    /// Events read, in runs without a gap: one more than resyncs.
    pub(crate) stretches: Vec<Stretch>,
    /// Events passed over, because a snapshot took their place.
    pub(crate) missed: u64,
    /// How often it was told to resync.
    pub(crate) resyncs: u64,
    /// What it was told the first time.
    pub(crate) first_told: Option<String>,
    /// Calls that found nothing new.
    pub(crate) idle_calls: u64,
    /// Calls that brought events.
    pub(crate) latency: Latency,
    /// Where it stood when a call had brought all there was, not cut by the limit.
    pub(crate) stops: Vec<u64>,
}

/// What one call came to: `Some` with the log's words if it told the reader to resync. The error is
/// a broken promise.
type Answer = Result<Option<String>, String>;

impl<'a> Reader<'a> {
    /// A reader at the beginning. Without a database it must never be told to resync.
    pub(crate) fn new(log: &'a ChangeLog, database: Option<&'a Database>, way: Way, limit: usize) -> Self {
        Self {
            log,
            database,
            way,
            limit,
            cursor: Cursor::new(0, Some(log.incarnation())),
            body: Vec::new(),
            fold: Fold::default(),
            stretches: vec![Stretch::new(0)],
            missed: 0,
            resyncs: 0,
            first_told: None,
            idle_calls: 0,
            latency: Latency::new(),
            stops: Vec::new(),
        }
    }

    /// The number of events read.
    pub(crate) fn seen(&self) -> u64 {
        self.stretches.iter().map(Stretch::len).sum()
    }

    /// Reads until the writers are done and nothing is left.
    pub(crate) fn follow(mut self, writers_done: &AtomicBool) -> Result<Self, String> {
        let mut standing_since = None;
        loop {
            // Asked before the call: what is appended after the answer is "no" is read the next
            // time.
            let last = writers_done.load(Ordering::Acquire).then(|| self.log.last_seq());
            let before = self.cursor.seq;
            self.step()?;
            if self.cursor.seq != before {
                standing_since = None;
                continue;
            }
            if last.is_some_and(|last| before >= last) {
                return Ok(self);
            }
            let since = *standing_since.get_or_insert_with(Instant::now);
            if last.is_some() && since.elapsed() > PATIENCE {
                return Err(format!("still at seq {before} of {last:?} after {PATIENCE:?}"));
            }
            thread::sleep(PAUSE);
        }
    }

    /// One call, and what follows from its answer.
    fn step(&mut self) -> Result<(), String> {
        let told = match self.way {
            Way::Read => self.read(),
            Way::PullJson => self.pull_json(),
            Way::Pull => self.pull(),
        }?;
        told.map_or(Ok(()), |told| self.resync(told))
    }

    fn read(&mut self) -> Answer {
        let log = self.log;
        let start = Instant::now();
        let answer = log.read(self.cursor, self.limit);
        let took = start.elapsed();
        let batch = match answer {
            Ok(batch) => batch,
            Err(resync) => return expected(&resync),
        };
        for event in &batch {
            self.take(event.seq(), event.entity(), event.row_id(), event.kind(), event.data_json())?;
        }
        self.arrived(took, batch.len(), batch.cursor().seq)
    }

    fn pull_json(&mut self) -> Answer {
        let mut body = std::mem::take(&mut self.body);
        body.clear();
        let start = Instant::now();
        let answer = self.log.pull_json(self.cursor, self.limit, &mut body);
        let took = start.elapsed();
        let summary = match answer {
            Ok(summary) => summary,
            Err(resync) => return expected(&resync),
        };
        let page: Page<'_> = serde_json::from_slice(&body).map_err(|e| format!("pull_json's JSON: {e}"))?;
        for change in &page.changes {
            let data = change.data.map(RawValue::get);
            self.take(change.seq, &change.entity, &change.row_id, change.kind, data)?;
        }
        let said = (page.changes.len(), page.cursor.last_seq, page.has_more);
        if said != (summary.count, summary.cursor.seq, summary.has_more) {
            return Err(format!("pull_json returned {summary:?}, its JSON says {said:?}"));
        }
        self.body = body;
        self.arrived(took, summary.count, summary.cursor.seq)
    }

    fn pull(&mut self) -> Answer {
        let cursor = SyncCursor { last_seq: self.cursor.seq };
        let start = Instant::now();
        let answer = self.log.pull(&cursor, self.limit);
        let took = start.elapsed();
        let page = match answer {
            Ok(page) => page,
            Err(told @ PullError::ResyncRequired { .. }) => return Ok(Some(told.to_string())),
        };
        for change in &page.changes {
            let data = change.data.as_ref().map(ToString::to_string);
            self.take(change.seq, &change.entity, &change.row_id, change.kind, data.as_deref())?;
        }
        self.arrived(took, page.changes.len(), page.cursor.last_seq)
    }

    /// Folds one event, which must be the next one.
    fn take(
        &mut self,
        seq: u64,
        entity: &str,
        row_id: &str,
        kind: ChangeKind,
        data: Option<&str>,
    ) -> Result<(), String> {
        if seq != self.cursor.seq + 1 {
            return Err(format!("got seq {seq} after seq {}", self.cursor.seq));
        }
        self.cursor.seq = seq;
        if let Some(stretch) = self.stretches.last_mut() {
            stretch.add(fingerprint(entity, row_id, kind, data));
        }
        self.fold.apply(entity, row_id, kind, data);
        Ok(())
    }

    /// Notes a call that brought `count` events and left the reader at `cursor`.
    fn arrived(&mut self, took: Duration, count: usize, cursor: u64) -> Answer {
        if cursor != self.cursor.seq {
            return Err(format!("the answer's cursor is {cursor}, its last event {}", self.cursor.seq));
        }
        if count == 0 {
            self.idle_calls += 1;
            return Ok(None);
        }
        self.latency.record(took, count as u64);
        if count < self.limit {
            self.stops.push(cursor);
        }
        Ok(None)
    }

    /// Starts over from a snapshot.
    fn resync(&mut self, told: String) -> Result<(), String> {
        let Some(database) = self.database else {
            return Err(format!("told to resync though the window holds everything: {told}"));
        };
        let (rows, seq) = database.snapshot(self.log);
        let passed_over = seq.checked_sub(self.cursor.seq);
        self.missed += passed_over.ok_or_else(|| format!("read up to {}, head is {seq}", self.cursor.seq))?;
        self.cursor.seq = seq;
        self.stretches.push(Stretch::new(seq));
        self.fold = match self.way {
            Way::Read | Way::PullJson => rows,
            Way::Pull => rows.through_values().map_err(|e| format!("the snapshot's JSON: {e}"))?,
        };
        self.resyncs += 1;
        self.first_told.get_or_insert(told);
        Ok(())
    }
}

/// In a replay a reader can only have fallen behind; any other reason is a mistake of the log's.
fn expected(resync: &Resync) -> Answer {
    if resync.reason == ResyncReason::Evicted {
        Ok(Some(resync.to_string()))
    } else {
        Err(format!("told to resync for no good reason: {resync}"))
    }
}

/// `pull_json`'s answer as a client parses it, the data left as text.
#[derive(Deserialize)]
struct Page<'a> {
    #[serde(borrow)]
    changes: Vec<Row<'a>>,
    cursor: SyncCursor,
    has_more: bool,
}

#[derive(Deserialize)]
#[expect(clippy::struct_field_names, reason = "the names on the wire")]
struct Row<'a> {
    seq: u64,
    #[serde(borrow)]
    entity: Cow<'a, str>,
    #[serde(borrow)]
    row_id: Cow<'a, str>,
    kind: ChangeKind,
    #[serde(borrow)]
    data: Option<&'a RawValue>,
}
