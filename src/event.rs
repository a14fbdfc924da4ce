#![forbid(unsafe_code)]
//! What goes into the log ([`Change`]) and what comes out ([`ChangeEvent`], [`EventRef`]).

use crate::clock::LAST_MILLISECOND;
use crate::json;
use crate::kind::ChangeKind;
use crate::ring::Parts;
use serde::ser::SerializeStruct;
use serde::{Deserialize, Serialize, Serializer};
use serde_json::Value;
use serde_json::value::RawValue;
use std::borrow::Cow;

/// One event of the log, owned.
///
/// [`EventRef`] is the same without copies.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "input::ChangeEvent")]
pub struct ChangeEvent {
    /// Its sequence number: 1, 2, 3… in the order of the log.
    pub seq: u64,
    /// The kind of thing that changed, a table say.
    pub entity: String,
    /// Which one of them.
    pub row_id: String,
    /// What happened to it.
    pub kind: ChangeKind,
    /// Its data after the change. Absent, and absent from the JSON, when there is none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub data: Option<Value>,
    /// When it was appended: RFC 3339, UTC, milliseconds (`2026-11-22T07:09:00.123Z`).
    pub timestamp: String,
}

impl From<input::ChangeEvent> for ChangeEvent {
    fn from(input: input::ChangeEvent) -> Self {
        let input::ChangeEvent { seq, entity, row_id, kind, data, timestamp } = input;
        Self { seq, entity, row_id, kind, data: data.map(Value::from), timestamp }
    }
}

/// A [`ChangeEvent`] while it is read; an error calls it by its name.
mod input {
    use crate::json::Plain;
    use crate::kind::ChangeKind;
    use serde::Deserialize;

    #[derive(Deserialize)]
    pub(super) struct ChangeEvent {
        pub(super) seq: u64,
        pub(super) entity: String,
        pub(super) row_id: String,
        pub(super) kind: ChangeKind,
        pub(super) data: Option<Plain>,
        pub(super) timestamp: String,
    }
}

/// One change on its way into the log, borrowed from the caller.
///
/// # Examples
///
/// ```
/// use ringlog::{Change, ChangeLog};
/// use serde_json::{json, value::RawValue};
///
/// #[derive(serde::Serialize)]
/// struct Todo<'a> { title: &'a str }
///
/// let log = ChangeLog::new();
/// let text: &RawValue = serde_json::from_str(r#"{"title":"text that is JSON already"}"#)?;
/// log.append_change(&Change::insert("Todo", "t1").with_raw(text));
/// log.append_change(&Change::update("Todo", "t1").with_value(&json!({"title": "a value"})));
/// let todo = Todo { title: "anything that serialises" };
/// log.append_change(&Change::update("Todo", "t1").with_data(&todo)?);
/// log.append_change(&Change::delete("Todo", "t1"));
/// assert_eq!(log.last_seq(), 4);
/// # Ok::<(), serde_json::Error>(())
/// ```
#[derive(Debug, Clone)]
pub struct Change<'a> {
    pub(crate) entity: &'a str,
    pub(crate) row_id: &'a str,
    pub(crate) kind: ChangeKind,
    pub(crate) data: Data<'a>,
}

/// The data of a [`Change`], as it was given.
#[derive(Debug, Clone)]
pub(crate) enum Data<'a> {
    None,
    Value(&'a Value),
    Raw(&'a RawValue),
    Owned(Box<RawValue>),
}

impl<'a> Data<'a> {
    /// The data's JSON text, empty for none; or the value that has to be written out first.
    #[inline]
    pub(crate) fn text(&self) -> Result<&str, &'a Value> {
        match self {
            Self::None => Ok(""),
            Self::Raw(raw) => Ok(raw.get()),
            Self::Owned(raw) => Ok(raw.get()),
            Self::Value(value) => Err(value),
        }
    }
}

impl<'a> Change<'a> {
    /// A change of the given kind, without data.
    #[inline]
    pub const fn new(kind: ChangeKind, entity: &'a str, row_id: &'a str) -> Self {
        Self { entity, row_id, kind, data: Data::None }
    }

    /// The row came to be.
    #[inline]
    pub const fn insert(entity: &'a str, row_id: &'a str) -> Self {
        Self::new(ChangeKind::Insert, entity, row_id)
    }

    /// The row got new data.
    #[inline]
    pub const fn update(entity: &'a str, row_id: &'a str) -> Self {
        Self::new(ChangeKind::Update, entity, row_id)
    }

    /// The row is gone.
    #[inline]
    pub const fn delete(entity: &'a str, row_id: &'a str) -> Self {
        Self::new(ChangeKind::Delete, entity, row_id)
    }

    /// With data that is JSON text already: the cheapest form. The text goes out again as it came
    /// in, byte for byte.
    #[inline]
    pub fn with_raw(self, data: &'a RawValue) -> Self {
        Self { data: Data::Raw(data), ..self }
    }

    /// With data that is a [`Value`]. It is written out as text when the change is appended.
    #[inline]
    pub fn with_value(self, data: &'a Value) -> Self {
        Self { data: Data::Value(data), ..self }
    }

    /// With data of any type that serialises.
    ///
    /// # Errors
    /// If it does not serialise to JSON: a map with keys that are no strings, or an error of its
    /// own.
    pub fn with_data<T: Serialize + ?Sized>(self, data: &T) -> Result<Self, serde_json::Error> {
        Ok(Self { data: Data::Owned(serde_json::value::to_raw_value(data)?), ..self })
    }
}

/// What it says, for a caller that stores it as well.
impl<'a> Change<'a> {
    /// The kind of thing that changed.
    pub fn entity(&self) -> &'a str {
        self.entity
    }

    /// Which one of them.
    pub fn row_id(&self) -> &'a str {
        self.row_id
    }

    /// What happened to it.
    pub fn kind(&self) -> ChangeKind {
        self.kind
    }

    /// Its data as the JSON text that will be appended. Written out for each call if it was given
    /// as a [`Value`].
    ///
    /// ```
    /// let value = serde_json::json!({"n": 1});
    /// let change = ringlog::Change::insert("Todo", "t1").with_value(&value);
    /// assert_eq!(change.data_json().as_deref(), Some(r#"{"n":1}"#));
    /// ```
    pub fn data_json(&self) -> Option<Cow<'_, str>> {
        match self.data.text() {
            Ok("") => None,
            Ok(text) => Some(Cow::Borrowed(text)),
            Err(value) => Some(Cow::Owned(value.to_string())),
        }
    }
}

/// The fixed part of a record, in one word: the timestamp, and below it the kind in two bits.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Meta(u64);

const _: () = assert!(LAST_MILLISECOND < 1 << 62, "a timestamp leaves two bits");

impl Meta {
    /// The fixed part of a change of this kind, appended at `timestamp`.
    #[inline]
    pub(crate) fn new(kind: ChangeKind, timestamp: u64) -> Self {
        Self(timestamp << 2 | kind as u64)
    }

    /// Milliseconds since 1970.
    #[inline]
    pub(crate) fn timestamp(self) -> u64 {
        self.0 >> 2
    }

    #[inline]
    pub(crate) fn kind(self) -> ChangeKind {
        match self.0 & 3 {
            0 => ChangeKind::Insert,
            1 => ChangeKind::Update,
            _ => ChangeKind::Delete,
        }
    }
}

/// One of the [`Events`](crate::Events), borrowed from the log.
#[derive(Clone, Copy)]
pub struct EventRef<'a> {
    pub(crate) seq: u64,
    pub(crate) meta: Meta,
    /// Entity, row id and data.
    pub(crate) parts: Parts<'a>,
}

impl<'a> EventRef<'a> {
    /// Its sequence number.
    #[inline]
    pub fn seq(&self) -> u64 {
        self.seq
    }

    /// The kind of thing that changed.
    #[inline]
    pub fn entity(&self) -> &'a str {
        self.parts[0]
    }

    /// Which one of them.
    #[inline]
    pub fn row_id(&self) -> &'a str {
        self.parts[1]
    }

    /// What happened to it.
    #[inline]
    pub fn kind(&self) -> ChangeKind {
        self.meta.kind()
    }

    /// Its data as JSON text, exactly as it was appended.
    ///
    /// Free; [`data`](Self::data) checks the text once more.
    #[inline]
    pub fn data_json(&self) -> Option<&'a str> {
        // JSON text is never empty: an empty one means no data.
        Some(self.parts[2]).filter(|json| !json.is_empty())
    }

    /// Its data as a [`RawValue`], ready to be serialised or parsed.
    ///
    /// `serde_json` has no way to borrow a `RawValue` from text known to be JSON: this scans the
    /// text, without building anything. Use [`data_json`](Self::data_json) where text will do.
    #[inline]
    pub fn data(&self) -> Option<&'a RawValue> {
        self.data_json().map(|json| match serde_json::from_str(json) {
            Ok(raw) => raw,
            Err(error) => unreachable!("data was JSON when it was appended: {error}"),
        })
    }

    /// The length of its entity, row id and data together.
    pub(crate) fn text_len(&self) -> u64 {
        crate::ring::total(self.parts.map(str::len))
    }

    /// When it was appended, in milliseconds since 1970-01-01T00:00:00Z.
    #[inline]
    pub fn timestamp_millis(&self) -> u64 {
        self.meta.timestamp()
    }

    /// The event as the owned type of pylon-sync.
    ///
    /// JSON text that cannot be parsed into a [`Value`] becomes a `Value::String` of the text: a
    /// number beyond `f64`, half a surrogate pair (only [`Change::with_raw`] lets these in), and
    /// what is nested deeper than 127, also if it came as a `Value`.
    pub fn to_event(&self) -> ChangeEvent {
        self.to_event_at(crate::clock::rfc3339(self.meta.timestamp()))
    }

    /// The event, with its timestamp written out.
    pub(crate) fn to_event_at(self, timestamp: String) -> ChangeEvent {
        ChangeEvent {
            seq: self.seq,
            entity: self.entity().to_owned(),
            row_id: self.row_id().to_owned(),
            kind: self.kind(),
            data: self
                .data_json()
                .map(|text| json::parse(text).unwrap_or_else(|| Value::String(text.to_owned()))),
            timestamp,
        }
    }
}

impl std::fmt::Debug for EventRef<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("EventRef")
            .field("seq", &self.seq)
            .field("entity", &self.entity())
            .field("row_id", &self.row_id())
            .field("kind", &self.kind())
            .field("data", &self.data_json())
            .field("timestamp_millis", &self.timestamp_millis())
            .finish()
    }
}

/// As [`ChangeEvent`], with the data as the text that was appended. Made for `serde_json`.
impl Serialize for EventRef<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let data = self.data();
        let mut event = serializer.serialize_struct("ChangeEvent", 5 + usize::from(data.is_some()))?;
        event.serialize_field("seq", &self.seq)?;
        event.serialize_field("entity", self.entity())?;
        event.serialize_field("row_id", self.row_id())?;
        event.serialize_field("kind", &self.kind())?;
        match data {
            Some(data) => event.serialize_field("data", data)?,
            None => event.skip_field("data")?,
        }
        event.serialize_field("timestamp", &crate::clock::rfc3339(self.meta.timestamp()))?;
        event.end()
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    #[test]
    fn a_record_keeps_its_kind_and_its_time() {
        for kind in [ChangeKind::Insert, ChangeKind::Update, ChangeKind::Delete] {
            for time in [0, 1, 1_795_331_340_123, LAST_MILLISECOND] {
                let meta = Meta::new(kind, time);
                assert_eq!((meta.kind(), meta.timestamp()), (kind, time));
            }
        }
    }
}
