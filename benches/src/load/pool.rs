//! What writers append, made before the clock starts.

use super::args::Load;
use super::mark;
use crate::Result;
use crate::generate;
use crate::input::{self, Op};
use ringlog::{Change, ChangeKind};
use serde_json::value::RawValue;

/// How many push requests are made up. Writers go round.
const REQUESTS: u64 = 5_000;

/// An event to be appended.
#[derive(Debug)]
pub(super) struct Event {
    pub(super) entity: String,
    pub(super) row_id: String,
    pub(super) kind: ChangeKind,
    pub(super) data: Option<Box<RawValue>>,
}

impl Event {
    /// The bytes of its text.
    pub(super) fn text_len(&self) -> u64 {
        (self.entity.len() + self.row_id.len() + self.json().map_or(0, str::len)) as u64
    }

    /// The JSON text.
    pub(super) fn json(&self) -> Option<&str> {
        self.data.as_deref().map(RawValue::get)
    }

    /// What ringlog is given, with a row id that may be another.
    pub(super) fn change<'a>(&'a self, row_id: &'a str) -> Change<'a> {
        let change = Change::new(self.kind, &self.entity, row_id);
        match &self.data {
            Some(data) => change.raw(data),
            None => change,
        }
    }
}

/// Events in the order of the input.
#[derive(Debug)]
pub(super) struct Pool {
    pub(super) events: Vec<Event>,
}

impl Pool {
    /// What this load asks for.
    pub(super) fn of(load: &Load) -> Result<Self> {
        let input = match &load.input {
            Some(path) => input::open(path)?,
            None => generate::requests(REQUESTS, load.seed)?,
        };
        let filler = load.payload.map(filler).transpose()?;
        let event = |op: Op| {
            let data = match (&filler, op.data) {
                (Some(filler), Some(_)) => Some(filler.clone()),
                (_, data) => data,
            };
            Event { entity: op.entity, row_id: op.row_id, kind: op.kind, data }
        };
        let events: Vec<_> = input.requests.into_iter().flatten().map(event).collect();
        match events.iter().find(|event| mark::read(&event.row_id).is_some()) {
            Some(event) => {
                Err(format!("the row id `{}` looks like a mark of this program's", event.row_id).into())
            }
            None => Ok(Self { events }),
        }
    }

    /// The number of the event at which a writer begins, so that all are at different places.
    pub(super) fn start(&self, writer: u64, writers: u64) -> usize {
        self.events.len() * writer as usize / writers as usize
    }
}

/// JSON of exactly so many bytes.
fn filler(bytes: u64) -> Result<Box<RawValue>> {
    let around = r#"{"text":""}"#.len();
    let text = "x".repeat((bytes as usize).saturating_sub(around));
    Ok(RawValue::from_string(format!(r#"{{"text":"{text}"}}"#))?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_payload_has_the_length_that_was_asked_for() {
        for bytes in [16, 17, 1000] {
            assert_eq!(filler(bytes).expect("JSON").get().len() as u64, bytes);
        }
    }
}
