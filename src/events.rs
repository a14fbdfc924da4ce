#![forbid(unsafe_code)]
//! What a read returns: consecutive events, in place.

use crate::clock::Rfc3339;
use crate::cursor::{Cursor, Incarnation, SyncCursor};
use crate::event::{EventRef, Meta};
use crate::json::JsonWriter;
use crate::limits::MAX_EXAMINED;
use crate::query::Query;
use crate::ring::Run;
use crate::wire::PullResponse;
use serde::ser::SerializeStruct;
use serde::{Serialize, Serializer};

/// Consecutive events of a log, read in place, without a copy.
///
/// They are *pinned*: while this lives, memory that the log gives up is not used again. Other logs
/// are not concerned. It delays no append and no read, and costs memory only: drop it when you are
/// done, before waiting for anything. It stays on its thread (`!Send`).
///
/// # Examples
///
/// ```
/// use ringlog::{Change, ChangeLog};
///
/// let log = ChangeLog::new();
/// log.append_change(&Change::insert("Todo", "t1"));
/// log.append_change(&Change::delete("Todo", "t1"));
///
/// let events = log.read(0, 100)?;
/// for event in &events {
///     println!("{} {} {:?}", event.seq(), event.row_id(), event.kind());
/// }
/// assert_eq!((events.len(), events.cursor().seq, events.has_more()), (2, 2, false));
/// # Ok::<(), ringlog::Resync>(())
/// ```
#[derive(Debug)]
pub struct Events<'log> {
    run: Run<'log, Meta>,
    /// Where in the run the events lie that a filter let through; `None` without a filter: all.
    picked: Option<Vec<u32>>,
    /// The log's, for the cursor; `None` where that stays the bare 0 that was asked with.
    incarnation: Option<Incarnation>,
}

/// What a read returned before it was called [`Events`].
#[deprecated(note = "a batch is what is written; what a read returns is `Events`")]
pub type Batch<'log> = Events<'log>;

/// How many events a read walks over before it looks at them, if it has to look.
const CHUNK: usize = 256;

impl<'log> Events<'log> {
    pub(crate) fn new(run: Run<'log, Meta>, incarnation: Option<Incarnation>) -> Self {
        Self { run, picked: None, incarnation }
    }

    /// How long a run [`pick`](Self::pick) wants to start from.
    pub(crate) fn chunk(query: &Query<'_>) -> usize {
        if query.examines() { query.limit.min(CHUNK) } else { query.limit }
    }

    /// The events of a run, and of what follows it, that the query wants.
    pub(crate) fn pick(run: Run<'log, Meta>, incarnation: Option<Incarnation>, query: &Query<'_>) -> Self {
        let mut events = Self::new(run, incarnation);
        let mut picked = Vec::new();
        let (mut examined, mut len, mut bytes) = (0, 0, 0);
        // Without a filter the limit comes first.
        let most = if query.filter.is_some() { MAX_EXAMINED } else { query.limit };
        'read: loop {
            while examined < events.run.len() && len < query.limit {
                let event = event(&events.run, examined);
                if query.lets_through(&event) {
                    bytes += event.text_len();
                    if bytes > query.max_bytes && len > 0 {
                        break 'read;
                    }
                    len += 1;
                    if query.filter.is_some() {
                        picked.push(examined as u32);
                    }
                }
                examined += 1;
            }
            if len == query.limit {
                break;
            }
            events.run.extend(CHUNK.min(most - examined));
            if events.run.len() == examined {
                break;
            }
        }
        events.run.truncate(examined);
        events.picked = query.filter.map(|_| picked);
        events
    }

    /// Gives back all but the first `len` events: the cursor is then that of the last one kept, and
    /// there is more to be read.
    ///
    /// For a reader that finds out while it reads how much it can take. One that knows the number
    /// of events or bytes before says so in its [`Query`]. Does nothing if there are no more than
    /// `len` events.
    ///
    /// A [`Follower`](crate::Follower) has moved past all events that it handed out: seek back to
    /// the cursor.
    ///
    /// # Examples
    ///
    /// ```
    /// use ringlog::{Change, ChangeLog};
    ///
    /// let log = ChangeLog::new();
    /// for row_id in ["a", "b", "c"] {
    ///     log.append_change(&Change::insert("Todo", row_id));
    /// }
    /// let mut events = log.read(0, 100)?;
    /// let wanted = events.iter().take_while(|event| event.row_id() != "c").count();
    /// events.truncate(wanted);
    /// assert_eq!((events.len(), events.cursor().seq, events.has_more()), (2, 2, true));
    /// # Ok::<(), ringlog::Resync>(())
    /// ```
    pub fn truncate(&mut self, len: usize) {
        if len >= self.len() {
            return;
        }
        let examined = match &mut self.picked {
            None => len,
            Some(picked) => {
                picked.truncate(len);
                picked.last().map_or(0, |last| *last as usize + 1)
            }
        };
        self.run.truncate(examined);
    }

    /// The events, in the order of their seqs.
    pub fn iter(&self) -> Iter<'_> {
        Iter { run: &self.run, picked: self.picked.as_deref(), front: 0, back: self.len() }
    }

    /// How many events there are.
    pub fn len(&self) -> usize {
        self.picked.as_ref().map_or(self.run.len(), Vec::len)
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Where to read on: after the last event, or where this read began if there are none. With a
    /// filter, after the last event examined.
    ///
    /// It names the log's incarnation, so that another log refuses it. One exception: where
    /// [`StartPolicy::Earliest`](crate::StartPolicy::Earliest) would give a bare 0 what is left of
    /// the window, a limit of 0 leaves it a bare 0.
    pub fn cursor(&self) -> Cursor {
        Cursor { seq: self.last_seq(), incarnation: self.incarnation }
    }

    /// Whether a further event was there to be read when this read was done. With a filter,
    /// whether a further one was there to be examined: it may not match.
    pub fn has_more(&self) -> bool {
        self.run.has_more()
    }

    /// The events as the owned type of pylon-sync.
    ///
    /// Copies every string and parses every event's data; see [`EventRef::to_event`].
    pub fn to_response(&self) -> PullResponse {
        let mut time = Rfc3339::default();
        let owned = |event: EventRef<'_>| event.to_event_at(time.text(event.timestamp_millis()).to_owned());
        PullResponse {
            changes: self.iter().map(owned).collect(),
            cursor: SyncCursor { last_seq: self.last_seq() },
            has_more: self.has_more(),
        }
    }

    /// Appends the events to `out` as the JSON of a [`PullResponse`].
    ///
    /// The data of an event is copied as the text that was appended.
    ///
    /// ```
    /// # let log = ringlog::ChangeLog::new();
    /// let mut out = Vec::new();
    /// log.read(0, 100)?.write_json(&mut out);
    /// assert_eq!(out, br#"{"changes":[],"cursor":{"last_seq":0},"has_more":false}"#);
    /// # Ok::<(), ringlog::Resync>(())
    /// ```
    pub fn write_json(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(br#"{"changes":["#);
        let mut writer = JsonWriter::new(out);
        for event in self {
            writer.event(event.seq, event.kind(), event.timestamp_millis(), event.parts);
        }
        if !self.is_empty() {
            out.pop();
        }
        out.extend_from_slice(br#"],"cursor":{"last_seq":"#);
        out.extend_from_slice(itoa::Buffer::new().format(self.last_seq()).as_bytes());
        out.extend_from_slice(br#"},"has_more":"#);
        out.extend_from_slice(if self.has_more() { b"true}" } else { b"false}" });
    }

    fn last_seq(&self) -> u64 {
        self.run.first() - 1 + self.run.len() as u64
    }
}

/// As a [`PullResponse`], with each event's data as the text that was appended. Made for
/// `serde_json`; [`write_json`](Events::write_json) writes the same bytes sooner.
impl Serialize for Events<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut response = serializer.serialize_struct("PullResponse", 3)?;
        response.serialize_field("changes", &Changes(self))?;
        response.serialize_field("cursor", &SyncCursor { last_seq: self.last_seq() })?;
        response.serialize_field("has_more", &self.has_more())?;
        response.end()
    }
}

struct Changes<'a>(&'a Events<'a>);

impl Serialize for Changes<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(self.0)
    }
}

impl<'a> IntoIterator for &'a Events<'_> {
    type Item = EventRef<'a>;
    type IntoIter = Iter<'a>;

    fn into_iter(self) -> Iter<'a> {
        self.iter()
    }
}

#[inline]
fn event<'a>(run: &'a Run<'_, Meta>, index: usize) -> EventRef<'a> {
    let (seq, meta, parts) = run.get(index);
    EventRef { seq, meta, parts }
}

/// The events of [`Events`], by reference.
#[derive(Debug, Clone)]
pub struct Iter<'a> {
    run: &'a Run<'a, Meta>,
    picked: Option<&'a [u32]>,
    front: usize,
    back: usize,
}

impl<'a> Iter<'a> {
    #[inline]
    fn get(&self, index: usize) -> EventRef<'a> {
        event(self.run, self.picked.map_or(index, |picked| picked[index] as usize))
    }
}

impl<'a> Iterator for Iter<'a> {
    type Item = EventRef<'a>;

    #[inline]
    fn next(&mut self) -> Option<EventRef<'a>> {
        (self.front < self.back).then(|| {
            self.front += 1;
            self.get(self.front - 1)
        })
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        (self.back - self.front, Some(self.back - self.front))
    }
}

impl DoubleEndedIterator for Iter<'_> {
    fn next_back(&mut self) -> Option<Self::Item> {
        (self.front < self.back).then(|| {
            self.back -= 1;
            self.get(self.back)
        })
    }
}

impl ExactSizeIterator for Iter<'_> {}
impl std::iter::FusedIterator for Iter<'_> {}
