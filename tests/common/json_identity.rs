//! Data goes out as the text that it came in, and `pull_json` writes what `serde_json` would write.

use crate::reserved_key::{can_be_renamed, renamed};
use ringlog::{Change, ChangeLog, SyncCursor};
use serde_json::Value;
use serde_json::value::RawValue;

/// Takes bytes as an entity, a row id and a JSON text, parted by line ends (a text may hold more of
/// them), and checks every road that the text can take through a log. Bytes that are no JSON text
/// are fine too.
pub(crate) fn check(bytes: &[u8]) {
    let mut parts = bytes.splitn(3, |byte| *byte == b'\n');
    let mut part = || String::from_utf8_lossy(parts.next().unwrap_or_default()).into_owned();
    let (entity, row_id, text) = (part(), part(), part());

    if let Ok(raw) = RawValue::from_string(text) {
        a_raw_text_comes_back(&entity, &row_id, &raw);
        if let Ok(value) = serde_json::from_str::<Value>(raw.get()) {
            a_value_comes_back(&entity, &row_id, &value);
        }
    }
    a_value_comes_back(&entity, &row_id, &Value::String(row_id.clone()));
}

/// A raw text is served letter for letter; as a `Value` where one can hold it, else as a string of
/// it.
fn a_raw_text_comes_back(entity: &str, row_id: &str, raw: &RawValue) {
    let log = ChangeLog::with_capacity(2);
    log.append_change(&Change::insert(entity, row_id).with_raw(raw));

    let batch = log.read(0, 1).expect("nothing was evicted");
    let event = batch.iter().next().expect("one event");
    assert_eq!((event.entity(), event.row_id()), (entity, row_id));
    assert_eq!(event.data_json(), Some(raw.get()));
    assert_eq!(event.data().map(RawValue::get), Some(raw.get()));

    let mut json = Vec::new();
    log.pull_json(0, 1, &mut json).expect("nothing was evicted");
    let served = String::from_utf8(json).expect("JSON is UTF-8");
    let pulled = log.pull(&SyncCursor::beginning(), 1).expect("nothing was evicted");
    let data = pulled.changes[0].data.clone().expect("it had data");
    if can_be_renamed(raw.get().as_bytes()) {
        match serde_json::from_slice::<Value>(&renamed(raw.get())) {
            Ok(value) => assert_eq!(renamed(data.to_string()), renamed(value.to_string())),
            Err(_) => assert_eq!(data, Value::String(raw.get().into())),
        }
    }

    // What a client gets is what serde_json writes around the very text.
    let mut around = pulled;
    let mark = Value::String("\u{1}mark\u{1}".into());
    around.changes[0].data = Some(mark.clone());
    let around = serde_json::to_string(&around).expect("plain data");
    let field = |data: &str| format!(r#""data":{data},"timestamp""#);
    let expected = around.replacen(&field(&mark.to_string()), &field(raw.get()), 1);
    assert_eq!(served, expected);
}

/// A `Value` comes back equal, and its bytes are those of `serde_json`.
fn a_value_comes_back(entity: &str, row_id: &str, value: &Value) {
    let log = ChangeLog::with_capacity(2);
    log.append(entity, row_id, ringlog::ChangeKind::Update, Some(value.clone()));
    log.append_change(&Change::delete(row_id, entity));

    let pulled = log.pull(&SyncCursor::beginning(), 2).expect("nothing was evicted");
    assert_eq!(pulled.changes[0].data.as_ref(), Some(value));
    let mut json = Vec::new();
    log.pull_json(0, 2, &mut json).expect("nothing was evicted");
    assert_eq!(String::from_utf8_lossy(&json), serde_json::to_string(&pulled).expect("plain data"));
}
