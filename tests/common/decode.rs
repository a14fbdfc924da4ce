//! Arbitrary bytes as an operation sequence: any bytes are one, so a fuzzer wastes nothing.

use super::ops::{Case, Event, Op, Place, Way};
use ringlog::ChangeKind;
use serde_json::{Map, Number, Value};

/// How many operations one input may ask for.
const MAX_OPS: usize = 80;
/// How deep an input's values may nest.
const MAX_DEPTH: u8 = 6;

/// Reads a case from bytes. Where they end, zeros follow.
pub(crate) fn case(bytes: &[u8]) -> Case {
    let mut bytes = Bytes(bytes);
    let capacity = match bytes.byte() {
        small @ 0..=70 => small.into(),
        edge @ 71..=199 => 256 - 135 + usize::from(edge),
        big => 1 << (big % 16),
    };
    let mut ops = Vec::new();
    while !bytes.0.is_empty() && ops.len() < MAX_OPS {
        ops.push(bytes.op());
    }
    Case { capacity, ops }
}

struct Bytes<'a>(&'a [u8]);

impl Bytes<'_> {
    fn byte(&mut self) -> u8 {
        let Some((first, rest)) = self.0.split_first() else { return 0 };
        self.0 = rest;
        *first
    }

    fn array<const N: usize>(&mut self) -> [u8; N] {
        std::array::from_fn(|_| self.byte())
    }

    fn op(&mut self) -> Op {
        match self.byte() % 16 {
            0..=5 => Op::Append(self.way(), self.event()),
            6 => Op::Batch((0..self.byte() % 20).map(|_| self.event()).collect()),
            7 => Op::Fill(u16::from_le_bytes(self.array()) % 300),
            8..=11 => Op::Pull { place: self.place(), limit: self.limit() },
            12 => Op::Remember(self.text()),
            13 => Op::HasSeen(self.text()),
            14 => Op::RememberRun {
                first: u16::from_le_bytes(self.array()) % 12_000,
                count: u16::from_le_bytes(self.array()) % 1_000,
            },
            _ => Op::HasSeenOfRun(u16::from_le_bytes(self.array()) % 15_000),
        }
    }

    fn way(&mut self) -> Way {
        match self.byte() % 4 {
            0 => Way::Append,
            1 => Way::Value,
            2 => Way::Raw,
            _ => Way::Data,
        }
    }

    fn event(&mut self) -> Event {
        let kind = match self.byte() % 3 {
            0 => ChangeKind::Insert,
            1 => ChangeKind::Update,
            _ => ChangeKind::Delete,
        };
        let (entity, row_id) = (self.text(), self.text());
        let data = (self.byte() & 3 != 0).then(|| self.value(MAX_DEPTH));
        Event { entity, row_id, kind, data }
    }

    fn place(&mut self) -> Place {
        match self.byte() % 4 {
            0 => Place::At(u64::from_le_bytes(self.array())),
            1 => Place::At(self.byte().into()),
            2 => Place::FromOldest(i8::from_le_bytes(self.array())),
            _ => Place::FromLast(i8::from_le_bytes(self.array())),
        }
    }

    fn limit(&mut self) -> usize {
        match self.byte() {
            255 => usize::MAX,
            small => small.into(),
        }
    }

    /// A text of the input's own bytes, or a long one of one letter: records spill at some length.
    fn text(&mut self) -> String {
        match self.byte() {
            long @ 128.. => "x".repeat(usize::from(long - 128) * 5),
            length => {
                let bytes: Vec<u8> = (0..length.min(40)).map(|_| self.byte()).collect();
                String::from_utf8_lossy(&bytes).into_owned()
            }
        }
    }

    fn value(&mut self, depth: u8) -> Value {
        match self.byte() % if depth == 0 { 7 } else { 9 } {
            0 => Value::Null,
            1 => Value::Bool(self.byte() & 1 == 0),
            2 => Value::from(i64::from_le_bytes(self.array())),
            3 => Value::from(u64::from_le_bytes(self.array())),
            4 => Number::from_f64(f64::from_le_bytes(self.array())).map_or(Value::Null, Value::Number),
            5 | 6 => Value::String(self.text()),
            7 => Value::Array((0..self.byte() % 5).map(|_| self.value(depth - 1)).collect()),
            _ => Value::Object(
                (0..self.byte() % 5).map(|_| (self.text(), self.value(depth - 1))).collect::<Map<_, _>>(),
            ),
        }
    }
}
