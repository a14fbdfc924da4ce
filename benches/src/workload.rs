//! The workload of the tables: one event of fixed size, and the event of the plain programs.

use serde_json::value::RawValue;
use serde_json::{Value, json};
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

/// Four bytes.
pub const ENTITY: &str = "Todo";
/// Thirty-eight bytes.
pub const ROW_ID: &str = "row-0123456789abcdef0123456789abcdef01";
/// Sixty-two bytes of JSON.
pub const DATA: &str = r#"{"title":"sixty-two bytes of JSON","done":false,"position":12}"#;
/// How many events a window holds, unless said otherwise.
pub const WINDOW: usize = 10_000;
/// How many events a read returns.
pub const EVENTS: u64 = 100;
/// Bytes of text in one event.
pub const TEXT: u64 = (ENTITY.len() + ROW_ID.len() + DATA.len()) as u64;

const _: () =
    assert!(ENTITY.len() == 4 && ROW_ID.len() == 38 && DATA.len() == 62, "the workload as it is stated");

/// [`DATA`] as JSON text that is known to be good.
pub fn data() -> &'static RawValue {
    serde_json::from_str(DATA).expect("JSON")
}

/// [`DATA`] as a value.
pub fn value() -> Value {
    json!({"title": "sixty-two bytes of JSON", "done": false, "position": 12})
}

/// Milliseconds since 1970, as one asks for them without further thought.
pub fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970").as_millis() as u64
}

/// The event of the plain programs: owned strings behind a reference count.
#[derive(Debug)]
pub struct Event {
    /// Its number.
    pub seq: u64,
    /// The table.
    pub entity: String,
    /// The row.
    pub row_id: String,
    /// JSON text.
    pub data: Option<String>,
    /// Milliseconds since 1970.
    pub timestamp: u64,
}

impl Event {
    /// The event of the workload.
    pub fn new(seq: u64) -> Arc<Self> {
        Self::of(seq, ENTITY, ROW_ID, Some(DATA))
    }

    /// Any event.
    pub fn of(seq: u64, entity: &str, row_id: &str, data: Option<&str>) -> Arc<Self> {
        Arc::new(Self {
            seq,
            entity: entity.to_owned(),
            row_id: row_id.to_owned(),
            data: data.map(str::to_owned),
            timestamp: now(),
        })
    }

    /// The bytes of its text.
    pub fn text_len(&self) -> u64 {
        (self.entity.len() + self.row_id.len() + self.data.as_ref().map_or(0, String::len)) as u64
    }
}
