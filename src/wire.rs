#![forbid(unsafe_code)]
//! What goes over the wire, name for name as pylon-sync has it.

use crate::cursor::{Cursor, SyncCursor};
use crate::event::ChangeEvent;
use crate::kind::ChangeKind;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use serde_json::value::RawValue;

/// The answer to a pull.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PullResponse {
    /// The events after the cursor, in the order of their seqs, without a gap.
    pub changes: Vec<ChangeEvent>,
    /// Where to pull on.
    pub cursor: SyncCursor,
    /// Whether a further event was there to be pulled.
    pub has_more: bool,
}

/// What [`ChangeLog::pull_json`](crate::ChangeLog::pull_json) wrote.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct PullSummary {
    /// How many events.
    pub count: usize,
    /// Where to pull on. It names the log, which the JSON does not.
    pub cursor: Cursor,
    /// Whether a further event was there to be pulled.
    pub has_more: bool,
}

/// Changes that a client pushes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PushRequest {
    /// The changes, to be applied in this order.
    #[serde(deserialize_with = "field::changes")]
    pub changes: Vec<ClientChange>,
    /// The client that pushes: the same string each time it connects. Absent from clients that
    /// have none.
    #[serde(default, skip_serializing_if = "Option::is_none", deserialize_with = "field::client_id")]
    pub client_id: Option<String>,
}

/// One change of a [`PushRequest`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "input::ClientChange")]
pub struct ClientChange {
    /// The kind of thing that changed.
    pub entity: String,
    /// Which one of them.
    pub row_id: String,
    /// What happened to it.
    pub kind: ChangeKind,
    /// Its data after the change.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub data: Option<Value>,
    /// The client's idempotency key for this change: pushed again under the same key, it is applied
    /// once. Without one it is applied each time.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub op_id: Option<String>,
}

impl From<input::ClientChange> for ClientChange {
    fn from(input: input::ClientChange) -> Self {
        let input::ClientChange { entity, row_id, kind, data, op_id } = input;
        Self { entity, row_id, kind, data: data.map(Value::from), op_id }
    }
}

/// A [`ClientChange`] while it is read; an error calls it by its name.
mod input {
    use super::{ChangeKind, field};
    use crate::json::Plain;
    use serde::Deserialize;

    #[derive(Deserialize)]
    pub(super) struct ClientChange {
        #[serde(deserialize_with = "field::entity")]
        pub(super) entity: String,
        #[serde(deserialize_with = "field::row_id")]
        pub(super) row_id: String,
        #[serde(deserialize_with = "field::kind")]
        pub(super) kind: ChangeKind,
        pub(super) data: Option<Plain>,
        #[serde(default, deserialize_with = "field::op_id")]
        pub(super) op_id: Option<String>,
    }
}

/// Reading fields so that an error names the one that is malformed, which `serde_json` by itself
/// does not.
mod field {
    use super::{ChangeKind, ClientChange};
    use serde::de::{Deserialize, Deserializer, Error, SeqAccess, Visitor, value::SeqAccessDeserializer};
    use std::cell::Cell;
    use std::fmt;

    macro_rules! fields {
        ($($name:ident: $type:ty),*) => {$(
            pub(super) fn $name<'de, D: Deserializer<'de>>(input: D) -> Result<$type, D::Error> {
                <$type>::deserialize(input).map_err(|error| named(stringify!($name), &error))
            }
        )*};
    }

    fields! { client_id: Option<String>, entity: String, row_id: String, kind: ChangeKind, op_id: Option<String> }

    /// A sequence is named only if it is none: an error within it names a field of its own.
    pub(super) fn changes<'de, D: Deserializer<'de>>(input: D) -> Result<Vec<ClientChange>, D::Error> {
        let within = Cell::new(false);
        let result = input.deserialize_seq(Changes { within: &within });
        result.map_err(|error| if within.get() { error } else { named("changes", &error) })
    }

    fn named<E: Error>(field: &str, error: &E) -> E {
        E::custom(format_args!("{field}: {error}"))
    }

    struct Changes<'a> {
        within: &'a Cell<bool>,
    }

    impl<'de> Visitor<'de> for Changes<'_> {
        type Value = Vec<ClientChange>;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("a sequence")
        }

        fn visit_seq<A: SeqAccess<'de>>(self, items: A) -> Result<Self::Value, A::Error> {
            self.within.set(true);
            Vec::deserialize(SeqAccessDeserializer::new(items))
        }
    }
}

/// The answer to a push.
///
/// # Examples
///
/// What a client sees:
///
/// ```
/// use ringlog::{ChangeLog, PushRequest};
///
/// let log = ChangeLog::new();
/// let request: PushRequest = serde_json::from_str(
///     r#"{"client_id": "c", "changes": [
///         {"entity": "Todo", "row_id": "t1", "kind": "delete", "op_id": "o1"}]}"#,
/// )?;
/// let response = log.push(&request, |_| Ok::<(), String>(()));
/// assert_eq!(
///     serde_json::to_string(&response)?,
///     r#"{"applied":1,"deduped":0,"errors":[],"cursor":{"last_seq":1},"#.to_owned()
///         + r#""results":[{"op_id":"o1","status":"applied","seq":1}]}"#,
/// );
/// # Ok::<(), serde_json::Error>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct PushResponse {
    /// How many of the changes are applied: now, or before under the same op id.
    pub applied: usize,
    /// How many of these were applied before.
    pub deduped: usize,
    /// What went wrong, in words; each names the change that it is about.
    pub errors: Vec<String>,
    /// The log's [`head`](crate::ChangeLog::head) after the push: never past an event that cannot
    /// be read yet. A client that has pulled up to here has its own changes, if no other writer was
    /// half-way.
    pub cursor: SyncCursor,
    /// What became of each change, in the order of the request. Empty if the request was refused
    /// whole.
    #[serde(default)]
    pub results: Vec<OpResult>,
}

/// What became of one change of a [`PushRequest`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct OpResult {
    /// The change's op id, if it has one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub op_id: Option<String>,
    /// What became of it.
    pub status: OpStatus,
    /// The seq of its event: of the first one, if it was replayed. None if it was not applied, or
    /// if its op id was only [remembered](crate::ChangeLog::remember_op_id), without a seq.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub seq: Option<u64>,
    /// Why it was not applied, if the status is [`OpStatus::Error`] or [`OpStatus::Conflict`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
    /// The row as it is, if the status is [`OpStatus::Conflict`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub row: Option<RowState>,
}

/// A row as a conditional change finds it: see [`Operation::if_seq`](crate::Operation::if_seq).
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct RowState {
    /// The seq of its last change; 0 if it is not there.
    pub seq: u64,
    /// Its data, byte for byte.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub data: Option<Box<RawValue>>,
}

impl PartialEq for RowState {
    fn eq(&self, other: &Self) -> bool {
        let text = |row: &Self| row.data.as_ref().map(|data| data.get().to_owned());
        self.seq == other.seq && text(self) == text(other)
    }
}

impl Eq for RowState {}

/// What became of one change.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[non_exhaustive]
pub enum OpStatus {
    /// It was applied by this push.
    Applied,
    /// It was applied before, under the same op id; not again.
    Replayed,
    /// Another push of the same op id is at it. It was not applied here: push it again later, to
    /// learn what became of it.
    Pending,
    /// It could not be applied. Its op id is free again.
    Error,
    /// It was to be applied only if its row's last seq is another one than it is. Its op id is free
    /// again.
    Conflict,
}
