#![forbid(unsafe_code)]
//! Writing events and values as JSON.
//!
//! Nothing is prepared for readers: whether a name needs escaping in JSON is for the readers of
//! JSON to find out, and the append, which others may wait for, is a copy.

use crate::clock::Rfc3339;
use crate::kind::ChangeKind;
use serde_json::Value;
use std::fmt::Write;
use std::ops::Range;

/// Whether `text` can stand between quotes in JSON as it is.
#[inline]
fn is_plain(text: &str) -> bool {
    let bytes = text.as_bytes();
    if let Some(last) = bytes.last_chunk::<16>() {
        // The last sixteen may overlap those before them.
        !any_escapes(last) && bytes.as_chunks::<16>().0.iter().all(|chunk| !any_escapes(chunk))
    } else if let (Some(first), Some(last)) = (bytes.first_chunk::<8>(), bytes.last_chunk::<8>()) {
        escapes(u64::from_le_bytes(*first)) | escapes(u64::from_le_bytes(*last)) == 0
    } else if let (Some(first), Some(last)) = (bytes.first_chunk::<4>(), bytes.last_chunk::<4>()) {
        let [first, last] = [first, last].map(|chunk| u64::from(u32::from_le_bytes(*chunk)));
        escapes(first | last << 32) == 0
    } else {
        // Three at most: each in a word of spaces.
        bytes.iter().all(|&byte| escapes(u64::from(byte) | SPACES << 8) == 0)
    }
}

/// Whether a byte of `chunk` needs escaping in JSON: a loop without branches, which compilers turn
/// into a few vector instructions.
#[inline]
#[expect(clippy::needless_bitwise_bool, reason = "no branches")]
fn any_escapes(chunk: &[u8; 16]) -> bool {
    chunk.iter().fold(false, |any, &byte| any | (byte ^ 2 <= b' ') | (byte == b'\\'))
}

/// Eight bytes of 1, and eight spaces.
const ONES: u64 = u64::MAX / 0xff;
const SPACES: u64 = ONES * b' ' as u64;

/// Not 0 if a byte of `word` needs escaping in JSON: a quote, a backslash, or less than a space.
///
/// Eight bytes at once, after "Bit Twiddling Hacks" by Sean Eron Anderson (`hasless`), and with two
/// tests instead of three, after Daniel Lemire: with one bit flipped, a quote and a space change
/// places, and what is less than a space stays less.
#[inline]
fn escapes(word: u64) -> u64 {
    let below_quote = (word ^ (ONES * 2)).wrapping_sub(ONES * (u64::from(b' ') + 1));
    let backslash = (word ^ (ONES * u64::from(b'\\'))).wrapping_sub(ONES);
    (below_quote | backslash) & !word & (ONES << 7)
}

/// Writes events out as JSON, byte for byte as `serde_json` writes a
/// [`ChangeEvent`](crate::ChangeEvent).
///
/// In as few pieces as can be, for each costs more than its bytes. Most events begin as the one
/// before, with the next seq, and end as it does, with the same timestamp.
#[derive(Debug)]
pub(crate) struct JsonWriter<'a> {
    out: &'a mut Vec<u8>,
    /// The last event's seq and entity.
    last: Option<(u64, &'a str)>,
    /// Where in `out` that event's beginning lies, up to its row id.
    head: Range<usize>,
    /// How many digits the seq has there.
    digits: usize,
    time: Rfc3339,
    /// The end of an event of `millis`, from its timestamp on.
    end: [u8; JSON_END.len()],
    /// `u64::MAX`, beyond every clock, at first.
    millis: u64,
}

/// The beginning of an event.
const JSON_START: &[u8; 7] = br#"{"seq":"#;

/// The end of an event; every timestamp is as long.
const JSON_END: &[u8; 41] = br#","timestamp":"1970-01-01T00:00:00.000Z"},"#;

/// What an event takes in JSON besides its text and its seq.
const JSON_FRAME: usize =
    r#"{"seq":,"entity":"","row_id":"","kind":"insert","data":,"timestamp":""},"#.len() + 24 + 20;

impl<'a> JsonWriter<'a> {
    pub(crate) fn new(out: &'a mut Vec<u8>) -> Self {
        Self {
            out,
            last: None,
            head: 0..0,
            digits: 0,
            time: Rfc3339::default(),
            end: *JSON_END,
            millis: u64::MAX,
        }
    }

    /// Appends the JSON of an event, and a comma. Its parts are entity, row id and data.
    #[inline]
    pub(crate) fn event(&mut self, seq: u64, kind: ChangeKind, millis: u64, parts: [&'a str; 3]) {
        if millis != self.millis {
            self.set_time(millis);
        }
        let [entity, row_id, data] = parts;
        self.out.reserve(entity.len() + row_id.len() + data.len() + JSON_FRAME);
        if self.last != Some((seq - 1, entity)) || !self.repeat_head() {
            self.write_head(seq, entity);
        }
        self.last = Some((seq, entity));
        let out = &mut *self.out;
        name_into(out, row_id);
        out.extend_from_slice(match kind {
            ChangeKind::Insert => br#"","kind":"insert""#,
            ChangeKind::Update => br#"","kind":"update""#,
            ChangeKind::Delete => br#"","kind":"delete""#,
        });
        if !data.is_empty() {
            out.extend_from_slice(br#","data":"#);
            out.extend_from_slice(data.as_bytes());
        }
        out.extend_from_slice(&self.end);
    }

    /// Writes the beginning of the event of this seq and entity, up to its row id.
    fn write_head(&mut self, seq: u64, entity: &str) {
        let out = &mut *self.out;
        let start = out.len();
        out.extend_from_slice(JSON_START);
        out.extend_from_slice(itoa::Buffer::new().format(seq).as_bytes());
        self.digits = out.len() - start - JSON_START.len();
        out.extend_from_slice(br#","entity":""#);
        name_into(out, entity);
        out.extend_from_slice(br#"","row_id":""#);
        self.head = start..out.len();
    }

    /// Writes the last event's beginning once more, with the next seq. Writes nothing, and says so,
    /// if that has more digits.
    #[inline]
    fn repeat_head(&mut self) -> bool {
        let start = self.out.len();
        self.out.extend_from_within(self.head.clone());
        let digits = &mut self.out[start + JSON_START.len()..][..self.digits];
        for digit in digits.iter_mut().rev() {
            if *digit < b'9' {
                *digit += 1;
                self.head = start..self.out.len();
                return true;
            }
            *digit = b'0';
        }
        self.out.truncate(start);
        false
    }

    #[cold]
    fn set_time(&mut self, millis: u64) {
        let text = self.time.text(millis).as_bytes();
        self.end[br#","timestamp":""#.len()..][..text.len()].copy_from_slice(text);
        self.millis = millis;
    }
}

/// Appends a value's JSON, byte for byte as `serde_json` writes it, but sooner: texts without
/// escapes are copied as a whole.
pub(crate) fn write_value(out: &mut String, value: &Value) {
    match value {
        Value::Null => out.push_str("null"),
        Value::Bool(true) => out.push_str("true"),
        Value::Bool(false) => out.push_str("false"),
        Value::Number(number) => {
            let _ = write!(out, "{number}");
        }
        Value::String(text) => write_text(out, text),
        Value::Array(items) => {
            let mut before = '[';
            for item in items {
                out.push(before);
                write_value(out, item);
                before = ',';
            }
            out.push_str(if items.is_empty() { "[]" } else { "]" });
        }
        Value::Object(fields) => {
            let mut before = '{';
            for (name, field) in fields {
                out.push(before);
                write_text(out, name);
                out.push(':');
                write_value(out, field);
                before = ',';
            }
            out.push_str(if fields.is_empty() { "{}" } else { "}" });
        }
    }
}

/// Appends `text` as a JSON string.
#[inline]
fn write_text(out: &mut String, text: &str) {
    if is_plain(text) {
        out.push('"');
        out.push_str(text);
        out.push('"');
    } else {
        out.push_str(&Value::from(text).to_string());
    }
}

/// Appends `name` to what ends in a quote, as it stands in JSON behind that.
#[inline]
fn name_into(out: &mut Vec<u8>, name: &str) {
    if is_plain(name) {
        out.extend_from_slice(name.as_bytes());
    } else {
        escape_into(out, name);
    }
}

/// As [`name_into`], for one that needs escapes.
#[cold]
fn escape_into(out: &mut Vec<u8>, text: &str) {
    out.pop();
    serde_json::to_writer(&mut *out, text)
        .unwrap_or_else(|error| unreachable!("a Vec takes every byte: {error}"));
    out.pop();
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;
    use crate::json::any_value;
    use crate::{Change, ChangeLog, Filter, Query};
    use proptest::prelude::*;

    /// In texts of every length that is looked at in another way, and where two looks overlap.
    #[test]
    fn an_escape_is_found_wherever_it_stands_alone_or_with_another() {
        for len in 1..50 {
            for (one, other) in (0..len).flat_map(|one| (one..len).map(move |other| (one, other))) {
                for byte in [b'"', b'\\', b'\n'] {
                    let mut text = vec![b'a'; len];
                    (text[one], text[other]) = (byte, byte);
                    assert!(!is_plain(str::from_utf8(&text).expect("ASCII")), "{one} and {other} of {len}");
                }
            }
        }
    }

    proptest! {
        #[test]
        fn a_value_is_written_as_serde_json_writes_it(value in any_value()) {
            let mut out = "before".to_owned();
            write_value(&mut out, &value);
            prop_assert_eq!(out, format!("before{value}"));
        }

        /// Runs of an entity and changes of it, gaps between seqs, one more digit, names that need
        /// escapes.
        #[test]
        fn json_is_that_of_serde_json(
            base_seq in prop::sample::select(vec![0, 5, 87, 99_990, 999_999_999_995]),
            entities in prop::collection::vec(prop::sample::select(vec!["", "Todo", "Todos", "quo\"ted"]), 0..40),
            row_id in "[a-z\"\\\\\n]{0,3}",
            filter in any::<bool>(),
        ) {
            let log = ChangeLog::builder().base_seq(base_seq).build().expect("in range");
            for entity in &entities {
                log.append_change(&Change::delete(entity, &row_id));
            }
            let filtered = filter.then(|| Filter::entities(["Todo", "quo\"ted"]));
            let query = filtered.as_ref().map_or(Query::from(100), |filter| filter.limit(100));
            let batch = log.read(base_seq, query).expect("in the window");
            let mut json = b"before".to_vec();
            batch.write_json(&mut json);
            let expected = format!("before{}", serde_json::to_string(&batch).expect("it serialises"));
            prop_assert_eq!(String::from_utf8(json).expect("JSON is UTF-8"), expected);
        }

        #[test]
        fn plain_text_is_what_serde_json_does_not_escape(text in "[ -~]{0,40}|[a-z]{0,50}[\\x00-\\x7f][a-z]{0,50}|\\PC*") {
            let quoted = serde_json::to_string(&text).expect("a string serialises");
            prop_assert_eq!(is_plain(&text), quoted == format!("\"{text}\""));
        }
    }
}
