//! What writers append, made before the clock starts.

use super::args::Load;
use super::mark;
use crate::Result;
use ringlog_replay::generate;
use ringlog_replay::input::{self, Op};
use serde_json::value::RawValue;

/// Events in the order of the input.
#[derive(Debug)]
pub(super) struct Pool {
    pub(super) ops: Vec<Op>,
}

impl Pool {
    /// What this load asks for.
    pub(super) fn of(load: &Load) -> Result<Self> {
        let input = match &load.input {
            Some(path) => input::open(path)?,
            None => generate::requests(load.requests, load.seed)?,
        };
        let filler = load.payload.map(filler).transpose()?;
        let mut ops: Vec<Op> = input.requests.into_iter().flatten().collect();
        if let Some(op) = ops.iter().find(|op| mark::read(&op.row_id).is_some()) {
            return Err(format!("the row id `{}` looks like a mark of this program's", op.row_id).into());
        }
        for data in ops.iter_mut().filter_map(|op| op.data.as_mut()) {
            if let Some(filler) = &filler {
                data.clone_from(filler);
            }
        }
        Ok(Self { ops })
    }

    /// The number of the event at which a writer begins, so that all are at different places.
    pub(super) fn start(&self, writer: u64, writers: u64) -> usize {
        self.ops.len() * writer as usize / writers as usize
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
