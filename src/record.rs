#![forbid(unsafe_code)]
//! How an event is laid out in a slot, and how it is written out as JSON.
//!
//! A record's text is its entity, row id and data (JSON text), laid end to end; its fixed part, [`Meta`], says where
//! each ends. Whether the two names need escaping in JSON is found out once, when the event is appended, so that
//! writing it out, once for every reader, is copying.

use crate::clock::Rfc3339;
use crate::event::{Change, ChangeKind, EventRef};

/// The longest record: entity, row id and data together, in bytes.
///
/// # Examples
///
/// ```
/// assert_eq!(ringlog::MAX_RECORD_LEN, 1 << 30);
/// ```
pub const MAX_RECORD_LEN: usize = if cfg!(loom) { 64 } else { 1 << 30 };

/// The fixed part of a record.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Meta {
    /// Milliseconds since 1970.
    pub(crate) timestamp: u64,
    entity_len: u32,
    row_id_len: u32,
    pub(crate) kind: ChangeKind,
    /// Whether entity and row id can stand in JSON as they are.
    plain: bool,
}

impl Meta {
    /// The fixed part of a change appended at `timestamp`, whose data is `data_len` bytes of JSON text.
    ///
    /// # Panics
    /// If the record would be longer than [`MAX_RECORD_LEN`].
    #[inline]
    pub(crate) fn new(change: &Change<'_>, data_len: usize, timestamp: u64) -> Self {
        let (entity, row_id) = (change.entity, change.row_id);
        // Lengths of `str`s in memory: the sum of three cannot overflow.
        let len = entity.len() + row_id.len() + data_len;
        if len > MAX_RECORD_LEN {
            refuse(change, data_len);
        }
        Self {
            timestamp,
            entity_len: entity.len() as u32,
            row_id_len: row_id.len() as u32,
            kind: change.kind,
            plain: is_plain(entity) && is_plain(row_id),
        }
    }

    #[inline]
    pub(crate) fn entity_end(&self) -> usize {
        self.entity_len as usize
    }

    #[inline]
    pub(crate) fn row_id_end(&self) -> usize {
        self.entity_len as usize + self.row_id_len as usize
    }
}

#[cold]
fn refuse(change: &Change<'_>, data_len: usize) -> ! {
    panic!(
        "a record can hold {MAX_RECORD_LEN} bytes (MAX_RECORD_LEN): entity has {}, row_id {}, data {data_len}",
        change.entity.len(),
        change.row_id.len(),
    );
}

/// Whether `text` can stand between quotes in JSON as it is.
#[inline]
fn is_plain(text: &str) -> bool {
    let bytes = text.as_bytes();
    let word = |chunk: &[u8; 8]| escapes(u64::from_le_bytes(*chunk));
    if let Some(last) = bytes.last_chunk::<8>() {
        // The last word may overlap the one before it.
        bytes.as_chunks::<8>().0.iter().fold(word(last), |found, chunk| found | word(chunk)) == 0
    } else if let (Some(first), Some(last)) = (bytes.first_chunk::<4>(), bytes.last_chunk::<4>()) {
        let [first, last] = [first, last].map(|chunk| u64::from(u32::from_le_bytes(*chunk)));
        escapes(first | last << 32) == 0
    } else {
        // Three at most: each in a word of spaces.
        bytes.iter().all(|&byte| escapes(u64::from(byte) | SPACES << 8) == 0)
    }
}

/// Eight bytes of 1, and eight spaces.
const ONES: u64 = u64::MAX / 0xff;
const SPACES: u64 = ONES * b' ' as u64;

/// Not 0 if a byte of `word` needs escaping in JSON: a quote, a backslash, or less than a space.
///
/// Eight bytes at once, after "Bit Twiddling Hacks" by Sean Eron Anderson (`haszero`, `hasless`).
#[inline]
fn escapes(word: u64) -> u64 {
    let less_than = |bytes: u64, limit: u8| bytes.wrapping_sub(ONES * u64::from(limit)) & !bytes;
    let quotes = less_than(word ^ (ONES * u64::from(b'"')), 1);
    let backslashes = less_than(word ^ (ONES * u64::from(b'\\')), 1);
    (quotes | backslashes | less_than(word, b' ')) & (ONES << 7)
}

/// Writes events out as JSON, byte for byte as `serde_json` writes a [`ChangeEvent`](crate::ChangeEvent).
#[derive(Debug)]
pub(crate) struct JsonWriter<'a> {
    out: &'a mut Vec<u8>,
    time: Rfc3339,
    /// The end of an event of `millis`, from its timestamp on. Most events share it with the one before.
    end: [u8; JSON_END.len()],
    /// `u64::MAX`, beyond every clock, at first.
    millis: u64,
}

/// The end of an event; every timestamp is as long.
const JSON_END: &[u8; 41] = br#","timestamp":"1970-01-01T00:00:00.000Z"},"#;

/// What an event takes in JSON besides its text and its seq.
const JSON_FRAME: usize =
    r#"{"seq":,"entity":"","row_id":"","kind":"insert","data":,"timestamp":""},"#.len() + 24 + 20;

impl<'a> JsonWriter<'a> {
    pub(crate) fn new(out: &'a mut Vec<u8>) -> Self {
        Self { out, time: Rfc3339::default(), end: *JSON_END, millis: u64::MAX }
    }

    /// Appends `event`'s JSON, and a comma.
    ///
    /// In as few pieces as can be: each costs more than its bytes.
    #[inline]
    pub(crate) fn event(&mut self, event: &EventRef<'_>) {
        if event.timestamp_millis() != self.millis {
            self.set_time(event.timestamp_millis());
        }
        let out = &mut *self.out;
        out.reserve(event.text.len() + JSON_FRAME);
        out.extend_from_slice(br#"{"seq":"#);
        out.extend_from_slice(itoa::Buffer::new().format(event.seq).as_bytes());
        let (names, data) = event.text.as_bytes().split_at(event.meta.row_id_end());
        if event.meta.plain {
            let (entity, row_id) = names.split_at(event.meta.entity_end());
            out.extend_from_slice(br#","entity":""#);
            out.extend_from_slice(entity);
            out.extend_from_slice(br#"","row_id":""#);
            out.extend_from_slice(row_id);
            out.push(b'"');
        } else {
            out.extend_from_slice(br#","entity":"#);
            escape_into(out, event.entity());
            out.extend_from_slice(br#","row_id":"#);
            escape_into(out, event.row_id());
        }
        out.extend_from_slice(match event.kind() {
            ChangeKind::Insert => br#","kind":"insert""#,
            ChangeKind::Update => br#","kind":"update""#,
            ChangeKind::Delete => br#","kind":"delete""#,
        });
        if !data.is_empty() {
            out.extend_from_slice(br#","data":"#);
            out.extend_from_slice(data);
        }
        out.extend_from_slice(&self.end);
    }

    #[cold]
    fn set_time(&mut self, millis: u64) {
        let text = self.time.text(millis).as_bytes();
        self.end[br#","timestamp":""#.len()..][..text.len()].copy_from_slice(text);
        self.millis = millis;
    }
}

/// Appends `text` as a JSON string.
#[cold]
fn escape_into(out: &mut Vec<u8>, text: &str) {
    serde_json::to_writer(out, text).unwrap_or_else(|error| unreachable!("a Vec takes every byte: {error}"));
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
            #[test]
        fn plain_text_is_what_serde_json_does_not_escape(text in "[ -~]{0,40}|[a-z]{0,50}[\\x00-\\x7f][a-z]{0,50}|\\PC*") {
            let quoted = serde_json::to_string(&text).expect("a string serialises");
            prop_assert_eq!(is_plain(&text), quoted == format!("\"{text}\""));
        }
    }
}
