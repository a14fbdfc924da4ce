//! What the body of a push says: the envelope checked field by field, the data of each change kept
//! as the text that was sent.
//!
//! - **The envelope** is read strictly: a key that is not known, misspelt or given twice is refused
//!   by its name, and so is anything but an object where an object belongs. A guard such as `op_id`
//!   is never ignored. That is also how the format can grow: a server that does not know a key yet
//!   says so, and no number of a version has to be agreed on.
//! - **Data** is any JSON text. It is checked to be that, and otherwise left alone: no tree is
//!   built of it. Integers of any length, decimals, `-0`, the order of keys, doubled keys, `null`,
//!   white space and escapes (also half a surrogate pair) come back byte for byte. One bound:
//!   nesting of at most `MAX_DEPTH`, so that every reader can parse the pages it comes in.
//!
//! What is read borrows from the body: a push takes the memory of its text, and of a few words for
//! each change.

use crate::error::ApiError;
use crate::params::MAX_NAME;
use crate::share::Share;
use ringlog::{Change, ChangeKind, ChangeLog, Operation, PushClaim, PushResponse};
use self_cell::self_cell;
use serde::Deserialize;
use serde::de::value::MapAccessDeserializer;
use serde::de::{self, DeserializeSeed, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde_json::value::RawValue;
use std::borrow::Cow;
use std::fmt;
use std::marker::PhantomData;

/// The deepest nesting of data. Parsers of readers give up at some depth, `serde_json`'s at 127, of
/// which the largest frame takes 4.
const MAX_DEPTH: usize = 120;

/// What a change takes besides its text, from here to its answer: the words here, in the claim and
/// in the answer.
const CHANGE_COST: usize = 512;

/// How often an op id is copied on the way: into its result, and into errors that name it, each
/// also as JSON.
const OP_ID_COPIES: usize = 6;

const KEYS: &[&str] = &["changes", "client_id"];
const KINDS: &[&str] = &["insert", "update", "delete"];

self_cell! {
    struct Owned {
        owner: String,
        #[covariant]
        dependent: Envelope,
    }
}

/// A push: its text, what that says, and the share that pays for both.
pub struct Push {
    owned: Owned,
    _share: Share,
}

impl Push {
    /// Reads a body.
    ///
    /// # Errors
    /// What is wrong with it and where, or that it has more than `most` changes, an option's limit.
    pub fn read(body: String, mut share: Share, (most, option): (usize, &str)) -> Result<Self, ApiError> {
        let owned = Owned::try_new(body, |body| parse(body, most))?;
        let envelope = owned.borrow_dependent();
        if envelope.given > most {
            return Err(ApiError::new(
                axum::http::StatusCode::PAYLOAD_TOO_LARGE,
                "TOO_MANY_CHANGES",
                format!(
                    "a push may have {most} changes ({option}), not {}: nothing was applied",
                    envelope.given
                ),
            ));
        }
        share.grow(envelope.cost())?;
        Ok(Self { owned, _share: share })
    }

    /// The body, as it was sent.
    pub fn text(&self) -> &str {
        self.owned.borrow_owner()
    }

    /// How many changes it has.
    #[expect(clippy::len_without_is_empty, reason = "it is counted, and never asked whether it is empty")]
    pub fn len(&self) -> usize {
        self.owned.borrow_dependent().changes.len()
    }

    /// The answer to it, if all of it was applied before.
    pub fn replay(&self, log: &ChangeLog) -> Option<PushResponse> {
        let envelope = self.owned.borrow_dependent();
        let operations = envelope.changes.iter().map(Entry::operation).collect();
        log.replay_operations(envelope.client_id.as_ref().map(|client_id| &*client_id.0), operations)
    }

    /// Claims it: see [`ChangeLog::claim_operations`].
    pub fn claim<'a>(&'a self, log: &'a ChangeLog) -> Result<PushClaim<'a>, PushResponse> {
        let envelope = self.owned.borrow_dependent();
        let operations = envelope.changes.iter().map(Entry::operation).collect();
        log.claim_operations(envelope.client_id.as_ref().map(|client_id| &*client_id.0), operations)
    }
}

/// Reads the text; an error says at which field, and where in the text.
fn parse(body: &str, most: usize) -> Result<Envelope<'_>, ApiError> {
    let mut input = serde_json::Deserializer::from_str(body);
    let mut track = serde_path_to_error::Track::new();
    let read = Top { most }.deserialize(serde_path_to_error::Deserializer::new(&mut input, &mut track));
    let envelope = read.map_err(|error| {
        let path = track.path();
        let named = path.to_string();
        // A key that is no text has no name.
        let named = match path.iter().next_back() {
            Some(serde_path_to_error::Segment::Unknown) => named.trim_end_matches(['?', '.']),
            _ => &*named,
        };
        let place = if matches!(named, "" | ".") { String::new() } else { format!("{named}: ") };
        ApiError::bad_request(format!("{place}{error}"))
    })?;
    input.end().map_err(|error| ApiError::bad_request(format!("after the request: {error}")))?;
    Ok(envelope)
}

/// The outermost object.
struct Envelope<'a> {
    client_id: Option<Name<'a>>,
    /// As many as are allowed.
    changes: Vec<Entry<'a>>,
    /// How many were given.
    given: usize,
}

impl Envelope<'_> {
    /// The memory that it takes besides the text, until it is answered.
    fn cost(&self) -> usize {
        let names = |entry: &Entry<'_>| {
            let op_id = entry.op_id.as_ref().map_or(0, |op_id| op_id.0.len());
            entry.entity.copied() + entry.row_id.copied() + OP_ID_COPIES * op_id
        };
        self.changes.iter().map(|entry| CHANGE_COST + names(entry)).sum()
    }
}

/// One change.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Entry<'a> {
    #[serde(borrow)]
    entity: Name<'a>,
    row_id: Name<'a>,
    kind: Kind,
    #[serde(default, deserialize_with = "data")]
    data: Option<&'a RawValue>,
    #[serde(default)]
    op_id: Option<Name<'a>>,
    #[serde(default)]
    if_seq: Option<u64>,
}

impl Entry<'_> {
    fn operation(&self) -> Operation<'_> {
        let change = Change::new(self.kind.0, &self.entity.0, &self.row_id.0);
        let change = match self.data {
            Some(data) => change.with_raw(data),
            None => change,
        };
        let operation = Operation::new(change);
        let operation = match &self.op_id {
            Some(op_id) => operation.op_id(&op_id.0),
            None => operation,
        };
        match self.if_seq {
            Some(seq) => operation.if_seq(seq),
            None => operation,
        }
    }
}

/// Any JSON, `null` included: that is data as well, and not the same as none.
fn data<'de, D: Deserializer<'de>>(input: D) -> Result<Option<&'de RawValue>, D::Error> {
    let data = <&RawValue>::deserialize(input)?;
    if depth(data.get()) > MAX_DEPTH {
        return Err(de::Error::custom(format_args!("may be nested {MAX_DEPTH} deep, not deeper")));
    }
    Ok(Some(data))
}

/// How many arrays and objects are open at a time, at most, in a text that is JSON.
fn depth(json: &str) -> usize {
    let (mut open, mut deepest) = (0_usize, 0);
    let mut bytes = json.bytes();
    while let Some(byte) = bytes.next() {
        match byte {
            b'[' | b'{' => {
                open += 1;
                deepest = deepest.max(open);
            }
            b']' | b'}' => open -= 1,
            b'"' => {
                while let Some(byte) = bytes.next().filter(|byte| *byte != b'"') {
                    if byte == b'\\' {
                        bytes.next();
                    }
                }
            }
            _ => {}
        }
    }
    deepest
}

/// An entity, a row id, an op id or a client id.
struct Name<'a>(Cow<'a, str>);

impl Name<'_> {
    /// The bytes that it has besides the text: it has escapes there.
    fn copied(&self) -> usize {
        match &self.0 {
            Cow::Borrowed(_) => 0,
            Cow::Owned(name) => name.len(),
        }
    }
}

impl<'de: 'a, 'a> Deserialize<'de> for Name<'a> {
    fn deserialize<D: Deserializer<'de>>(input: D) -> Result<Self, D::Error> {
        struct Names;

        impl<'de> Visitor<'de> for Names {
            type Value = Name<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a string")
            }

            fn visit_borrowed_str<E: de::Error>(self, name: &'de str) -> Result<Name<'de>, E> {
                check(name).map(|()| Name(Cow::Borrowed(name)))
            }

            fn visit_str<E: de::Error>(self, name: &str) -> Result<Name<'de>, E> {
                check(name).map(|()| Name(Cow::Owned(name.to_owned())))
            }
        }

        fn check<E: de::Error>(name: &str) -> Result<(), E> {
            if (1..=MAX_NAME).contains(&name.len()) {
                return Ok(());
            }
            Err(E::custom(format_args!("must have 1 to {MAX_NAME} bytes, not {}", name.len())))
        }

        input.deserialize_str(Names)
    }
}

/// What happened to the row. The library's own type would also be read from an object.
struct Kind(ChangeKind);

impl<'de> Deserialize<'de> for Kind {
    fn deserialize<D: Deserializer<'de>>(input: D) -> Result<Self, D::Error> {
        struct Kinds;

        impl Visitor<'_> for Kinds {
            type Value = Kind;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a string")
            }

            fn visit_str<E: de::Error>(self, kind: &str) -> Result<Kind, E> {
                match kind {
                    "insert" => Ok(Kind(ChangeKind::Insert)),
                    "update" => Ok(Kind(ChangeKind::Update)),
                    "delete" => Ok(Kind(ChangeKind::Delete)),
                    _ => Err(E::unknown_variant(kind, KINDS)),
                }
            }
        }

        input.deserialize_str(Kinds)
    }
}

/// The reader of the outermost object.
struct Top {
    most: usize,
}

impl<'de> DeserializeSeed<'de> for Top {
    type Value = Envelope<'de>;

    fn deserialize<D: Deserializer<'de>>(self, input: D) -> Result<Envelope<'de>, D::Error> {
        input.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Top {
    type Value = Envelope<'de>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, _: A) -> Result<Envelope<'de>, A::Error> {
        Err(de::Error::custom("a push is an object: {\"changes\":[…]}"))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut fields: A) -> Result<Envelope<'de>, A::Error> {
        let (mut changes, mut client_id) = (None, None);
        while let Some(key) = fields.next_key::<Cow<'de, str>>()? {
            match &*key {
                "changes" if changes.is_none() => {
                    changes = Some(fields.next_value_seed(Changes { most: self.most })?);
                }
                "client_id" if client_id.is_none() => {
                    client_id = Some(fields.next_value::<Option<Name<'de>>>()?);
                }
                "changes" => return Err(de::Error::duplicate_field("changes")),
                "client_id" => return Err(de::Error::duplicate_field("client_id")),
                unknown => return Err(de::Error::unknown_field(unknown, KEYS)),
            }
        }
        let (changes, given) = changes.ok_or_else(|| de::Error::missing_field("changes"))?;
        Ok(Envelope { client_id: client_id.flatten(), changes, given })
    }
}

/// The reader of the changes. What is over the limit is counted, and not kept.
struct Changes {
    most: usize,
}

impl<'de> DeserializeSeed<'de> for Changes {
    type Value = (Vec<Entry<'de>>, usize);

    fn deserialize<D: Deserializer<'de>>(self, input: D) -> Result<Self::Value, D::Error> {
        input.deserialize_seq(self)
    }
}

impl<'de> Visitor<'de> for Changes {
    type Value = (Vec<Entry<'de>>, usize);

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a sequence")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Self::Value, A::Error> {
        let mut changes = Vec::new();
        while changes.len() < self.most
            && let Some(Object(change)) = items.next_element()?
        {
            changes.push(change);
        }
        let mut given = changes.len();
        if given == self.most {
            while items.next_element::<IgnoredAny>()?.is_some() {
                given += 1;
            }
        }
        Ok((changes, given))
    }
}

/// What is read from an object only. serde takes an array of the values as well.
struct Object<T>(T);

impl<'de, T: Deserialize<'de>> Deserialize<'de> for Object<T> {
    fn deserialize<D: Deserializer<'de>>(input: D) -> Result<Self, D::Error> {
        struct Objects<T>(PhantomData<T>);

        impl<'de, T: Deserialize<'de>> Visitor<'de> for Objects<T> {
            type Value = Object<T>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a change, which is an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, fields: A) -> Result<Object<T>, A::Error> {
                T::deserialize(MapAccessDeserializer::new(fields)).map(Object)
            }
        }

        input.deserialize_map(Objects(PhantomData))
    }
}
