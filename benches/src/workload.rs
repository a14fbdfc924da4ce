//! The workload of the tables: one event of fixed size.

use ringlog::Change;
use serde_json::value::RawValue;
use std::sync::LazyLock;

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
    static RAW: LazyLock<&RawValue> = LazyLock::new(|| serde_json::from_str(DATA).expect("JSON"));
    *RAW
}

/// The bytes of a change's text.
pub fn text_len(change: &Change<'_>) -> u64 {
    let data = change.data_json().map_or(0, |json| json.len());
    (change.entity().len() + change.row_id().len() + data) as u64
}
