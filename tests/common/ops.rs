//! Operation sequences run on ringlog and on the crate pylon-sync 0.2.3, which must answer alike.
//!
//! [`run`] is the interpreter; the sequences come from proptest (`differential.rs`), from the
//! fuzzer and from the corpus that it left (`decode.rs`). Two differences are documented and taken
//! out here: the seed's timestamp is not a date, and with capacity 0 the seed loses events without
//! a word.

use pylon_sync as seed;
use ringlog::{Change, ChangeKind, ChangeLog, Cursor, Incarnation, PullError, ResyncReason, SyncCursor};
use serde_json::Value;

/// One sequence of operations on two fresh logs.
#[derive(Debug, Clone)]
pub(crate) struct Case {
    pub(crate) capacity: usize,
    pub(crate) ops: Vec<Op>,
}

#[derive(Debug, Clone)]
pub(crate) enum Op {
    /// One event, by one of the ways to append it.
    Append(Way, Event),
    /// A batch: the seed has none, so it is that many single events there.
    Batch(Vec<Event>),
    /// That many small events: laps, and edges of segments.
    Fill(u16),
    Pull {
        place: Place,
        limit: usize,
    },
    Remember(String),
    HasSeen(String),
    /// Remembers so many op ids, numbers as text: to get past how many are remembered.
    RememberRun {
        first: u16,
        count: u16,
    },
    /// Asks for an op id of such a run.
    HasSeenOfRun(u16),
}

/// The ways ringlog takes an event; the seed has one.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Way {
    Append,
    Value,
    Raw,
    Data,
}

#[derive(Debug, Clone)]
pub(crate) struct Event {
    pub(crate) entity: String,
    pub(crate) row_id: String,
    pub(crate) kind: ChangeKind,
    pub(crate) data: Option<Value>,
}

/// A cursor, told by where it lies: what is interesting about it is on which side of which edge it
/// is.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Place {
    At(u64),
    /// So many seqs after the cursor of a client that has everything but what the window still
    /// holds.
    FromOldest(i8),
    /// So many seqs after the last one handed out.
    FromLast(i8),
}

/// Runs the operations on both logs and panics at the first answer that differs.
pub(crate) fn run(case: &Case) {
    let mut pair = Pair::new(case.capacity);
    for op in &case.ops {
        pair.apply(op);
        pair.same_sizes();
    }
    pair.same_from_every_edge();
}

struct Pair {
    ours: ChangeLog,
    theirs: seed::ChangeLog,
    capacity: u64,
    last: u64,
}

impl Pair {
    fn new(capacity: usize) -> Self {
        Self {
            ours: ChangeLog::with_capacity(capacity),
            theirs: seed::ChangeLog::with_capacity(capacity),
            capacity: capacity as u64,
            last: 0,
        }
    }

    fn apply(&mut self, op: &Op) {
        match op {
            Op::Append(way, event) => self.append(*way, event),
            Op::Batch(events) => self.append_batch(events),
            Op::Fill(count) => {
                for number in 0..*count {
                    let row_id = number.to_string();
                    let event = Event { entity: "Fill".into(), row_id, kind: ChangeKind::Update, data: None };
                    self.append(Way::Append, &event);
                }
            }
            Op::Pull { place, limit } => self.same_pull(self.seq_at(*place), *limit),
            Op::Remember(op_id) => self.remember(op_id),
            Op::HasSeen(op_id) => self.same_memory_of(op_id),
            Op::RememberRun { first, count } => {
                (*first..first.saturating_add(*count)).for_each(|number| self.remember(&number.to_string()));
            }
            Op::HasSeenOfRun(number) => self.same_memory_of(&number.to_string()),
        }
    }

    fn append(&mut self, way: Way, event: &Event) {
        let Event { entity, row_id, kind, data } = event;
        let text = data.as_ref().map(|data| serde_json::value::to_raw_value(data).expect("a Value is JSON"));
        let change = Change::new(*kind, entity, row_id);
        let seq = match (way, data, &text) {
            (Way::Append, ..) => self.ours.append(entity, row_id, *kind, data.clone()),
            (Way::Value, Some(data), _) => self.ours.append_change(&change.with_value(data)),
            (Way::Data, Some(data), _) => {
                self.ours.append_change(&change.with_data(data).expect("a Value is JSON"))
            }
            (Way::Raw, _, Some(text)) => self.ours.append_change(&change.with_raw(text)),
            _ => self.ours.append_change(&change),
        };
        assert_eq!(seq, self.append_theirs(event), "the seq of an append");
        self.last = seq;
    }

    fn append_batch(&mut self, events: &[Event]) {
        let changes: Vec<Change<'_>> = events
            .iter()
            .map(|Event { entity, row_id, kind, data }| {
                let change = Change::new(*kind, entity, row_id);
                data.iter().fold(change, Change::with_value)
            })
            .collect();
        let seqs = self.ours.append_batch(&changes);
        let theirs: Vec<u64> = events.iter().map(|event| self.append_theirs(event)).collect();
        assert_eq!(seqs.clone().collect::<Vec<u64>>(), theirs, "the seqs of a batch");
        self.last += events.len() as u64;
    }

    fn append_theirs(&self, event: &Event) -> u64 {
        let Event { entity, row_id, kind, data } = event;
        self.theirs.append(entity, row_id, their_kind(*kind), data.clone())
    }

    fn remember(&self, op_id: &str) {
        self.ours.remember_op_id(op_id);
        self.theirs.remember_op_id(op_id);
    }

    fn same_memory_of(&self, op_id: &str) {
        let (ours, theirs) = (self.ours.has_seen_op_id(op_id), self.theirs.has_seen_op_id(op_id));
        assert_eq!(ours, theirs, "has_seen_op_id({op_id:?})");
    }

    fn same_sizes(&self) {
        assert_eq!(self.ours.len(), self.theirs.len(), "len");
        assert_eq!(self.ours.is_empty(), self.theirs.is_empty(), "is_empty");
        assert_eq!(self.ours.last_seq(), self.last, "last_seq");
        assert_eq!(self.ours.head(), self.last, "head, with no append under way");
        assert_eq!(self.ours.oldest_seq(), self.oldest(), "oldest_seq");
    }

    /// The first seq of the window, the next one to be handed out when it holds nothing.
    fn oldest(&self) -> u64 {
        self.last.saturating_sub(self.capacity) + 1
    }

    fn seq_at(&self, place: Place) -> u64 {
        match place {
            Place::At(seq) => seq,
            Place::FromOldest(by) => (self.oldest() - 1).saturating_add_signed(by.into()),
            Place::FromLast(by) => self.last.saturating_add_signed(by.into()),
        }
    }

    fn same_from_every_edge(&self) {
        let edges = [0, self.oldest().saturating_sub(2), self.oldest() - 1, self.last, self.last + 1];
        for seq in edges {
            for limit in [0, 1, 300] {
                self.same_pull(seq, limit);
            }
        }
    }

    /// What pylon-sync answers, and what it should where it loses silently.
    fn their_pull(&self, seq: u64, limit: usize) -> Result<seed::PullResponse, (u64, u64)> {
        if self.capacity == 0 && seq < self.last {
            return Err((self.last + 1, seq));
        }
        self.theirs.pull(&seed::SyncCursor { last_seq: seq }, limit).map_err(|error| match error {
            seed::PullError::ResyncRequired { oldest_seq, cursor } => (oldest_seq, cursor.last_seq),
        })
    }

    fn same_pull(&self, seq: u64, limit: usize) {
        let ours = self.ours.pull(&SyncCursor { last_seq: seq }, limit);
        match (&ours, self.their_pull(seq, limit)) {
            (Ok(ours), Ok(theirs)) => {
                assert_eq!(ours.cursor.last_seq, theirs.cursor.last_seq, "cursor");
                assert_eq!(ours.has_more, theirs.has_more, "has_more");
                assert_eq!(ours.changes.len(), theirs.changes.len(), "count of changes");
                ours.changes.iter().zip(&theirs.changes).for_each(|(ours, theirs)| same_event(ours, theirs));
            }
            (Err(PullError::ResyncRequired { oldest_seq, cursor }), Err(theirs)) => {
                assert_eq!((*oldest_seq, cursor.last_seq), theirs, "resync");
            }
            (ours, theirs) => panic!("pull from {seq}, at most {limit}: {ours:?}, the seed: {theirs:?}"),
        }
        self.same_by_every_road(seq, limit, ours);
    }

    /// `pull`, `read` and `pull_json` are three roads to the same answer.
    fn same_by_every_road(&self, seq: u64, limit: usize, pulled: Result<ringlog::PullResponse, PullError>) {
        let mut json = b"before".to_vec();
        let summary = self.ours.pull_json(seq, limit, &mut json);
        match (self.ours.read(seq, limit), pulled) {
            (Ok(batch), Ok(pulled)) => {
                assert_eq!(batch.to_response().changes, pulled.changes, "to_response");
                same_batch(&batch, &pulled);
                let summary = summary.expect("pull_json refuses what pull gives");
                assert_eq!((summary.count, summary.has_more), (pulled.changes.len(), pulled.has_more));
                assert_eq!(summary.cursor, batch.cursor());
                assert_eq!(
                    batch.cursor(),
                    Cursor::new(pulled.cursor.last_seq, Some(self.ours.incarnation()))
                );
                let expected =
                    [b"before".to_vec(), serde_json::to_vec(&pulled).expect("plain data")].concat();
                same_bytes(&json, &expected, "pull_json");
                let known = Cursor::new(seq, Some(self.ours.incarnation()));
                assert_eq!(self.ours.read(known, limit).expect("its own incarnation").len(), batch.len());
            }
            (Err(resync), Err(PullError::ResyncRequired { oldest_seq, cursor })) => {
                let reason = if seq > self.last { ResyncReason::Ahead } else { ResyncReason::Evicted };
                assert_eq!(resync.reason, reason, "reason");
                assert_eq!((resync.requested, cursor.last_seq), (seq, seq), "requested");
                assert_eq!((resync.oldest_seq, resync.head), (oldest_seq, self.last), "oldest_seq and head");
                assert_eq!(resync.incarnation, self.ours.incarnation());
                assert_eq!(summary.expect_err("pull_json gives what pull refuses"), resync, "pull_json");
                assert_eq!(json, b"before", "a refused pull_json writes nothing");
            }
            (read, pulled) => panic!("from {seq}, at most {limit}: read {read:?}, pull {pulled:?}"),
        }
        let other = Cursor::new(seq, Some(other_than(self.ours.incarnation())));
        let resync = self.ours.read(other, limit).expect_err("a cursor of another log");
        assert_eq!(resync.reason, ResyncReason::OtherLog);
    }
}

fn same_batch(batch: &ringlog::Events<'_>, pulled: &ringlog::PullResponse) {
    assert_eq!((batch.len(), batch.is_empty()), (pulled.changes.len(), pulled.changes.is_empty()));
    assert_eq!(batch.has_more(), pulled.has_more);
    assert_eq!(batch.iter().count(), pulled.changes.len());
    for (event, pulled) in batch.iter().zip(&pulled.changes) {
        assert_eq!(event.to_event(), *pulled, "to_event");
        assert_eq!((event.seq(), event.kind()), (pulled.seq, pulled.kind));
        assert_eq!((event.entity(), event.row_id()), (&*pulled.entity, &*pulled.row_id));
        let text = pulled.data.as_ref().map(|data| serde_json::to_string(data).expect("a Value is JSON"));
        assert_eq!(event.data_json(), text.as_deref(), "data_json");
        assert_eq!(event.data().map(serde_json::value::RawValue::get), text.as_deref(), "data");
    }
    let expected = serde_json::to_vec(pulled).expect("plain data");
    let mut written = Vec::new();
    batch.write_json(&mut written);
    same_bytes(&written, &expected, "write_json");
    same_bytes(&serde_json::to_vec(batch).expect("plain data"), &expected, "Batch as Serialize");
}

/// The same event but for the timestamp, which ours gives as a date.
fn same_event(ours: &ringlog::ChangeEvent, theirs: &seed::ChangeEvent) {
    assert_eq!((ours.seq, &ours.entity, &ours.row_id), (theirs.seq, &theirs.entity, &theirs.row_id));
    assert_eq!(their_kind(ours.kind), theirs.kind);
    assert_eq!(ours.data, theirs.data, "data of seq {}", ours.seq);
    let shape: String = ours.timestamp.chars().map(|c| if c.is_ascii_digit() { '0' } else { c }).collect();
    assert_eq!(shape, "0000-00-00T00:00:00.000Z", "timestamp {}", ours.timestamp);
}

fn same_bytes(ours: &[u8], expected: &[u8], what: &str) {
    let (ours, expected) = (String::from_utf8_lossy(ours), String::from_utf8_lossy(expected));
    assert_eq!(ours, expected, "{what}");
}

fn their_kind(kind: ChangeKind) -> seed::ChangeKind {
    match kind {
        ChangeKind::Insert => seed::ChangeKind::Insert,
        ChangeKind::Update => seed::ChangeKind::Update,
        ChangeKind::Delete => seed::ChangeKind::Delete,
    }
}

fn other_than(incarnation: Incarnation) -> Incarnation {
    std::iter::repeat_with(Incarnation::random)
        .find(|other| *other != incarnation)
        .expect("an endless iterator")
}
