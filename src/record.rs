#![forbid(unsafe_code)]
//! How an event is laid out in a slot, and how it is written out as JSON.
//!
//! A record's text has three parts: its entity, row id and data (JSON text, empty for none). Its fixed part, [`Meta`], is one
//! word. Nothing is prepared for readers: whether a name needs escaping in JSON is for those to find out who want JSON, and
//! the append, which others may wait for, is a copy.

use crate::clock::{LAST_MILLISECOND, Rfc3339};
use crate::event::{ChangeKind, EventRef};

/// The longest record: entity, row id and data together, in bytes.
///
/// # Examples
///
/// ```
/// assert_eq!(ringlog::MAX_RECORD_LEN, 1 << 30);
/// ```
pub const MAX_RECORD_LEN: usize = if cfg!(loom) { 64 } else { 1 << 30 };

/// The fixed part of a record, in one word: the timestamp, and below it the kind in two bits.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Meta(u64);

const _: () = assert!(LAST_MILLISECOND < 1 << 62, "a timestamp leaves two bits");

impl Meta {
    /// The fixed part of a change of this kind, appended at `timestamp`.
    #[inline]
    pub(crate) fn new(kind: ChangeKind, timestamp: u64) -> Self {
        Self(timestamp << 2 | kind as u64)
    }

    /// Milliseconds since 1970.
    #[inline]
    pub(crate) fn timestamp(self) -> u64 {
        self.0 >> 2
    }

    #[inline]
    pub(crate) fn kind(self) -> ChangeKind {
        match self.0 & 3 {
            0 => ChangeKind::Insert,
            1 => ChangeKind::Update,
            _ => ChangeKind::Delete,
        }
    }
}

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

/// Whether a byte of `chunk` needs escaping in JSON: a loop without branches, which compilers turn into a few vector instructions.
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
/// Eight bytes at once, after "Bit Twiddling Hacks" by Sean Eron Anderson (`hasless`), and with two tests instead of three, after
/// Daniel Lemire: with one bit flipped, a quote and a space change places, and what is less than a space stays less.
#[inline]
fn escapes(word: u64) -> u64 {
    let below_quote = (word ^ (ONES * 2)).wrapping_sub(ONES * (u64::from(b' ') + 1));
    let backslash = (word ^ (ONES * u64::from(b'\\'))).wrapping_sub(ONES);
    (below_quote | backslash) & !word & (ONES << 7)
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
        let [entity, row_id, data] = event.parts.map(str::as_bytes);
        out.reserve(entity.len() + row_id.len() + data.len() + JSON_FRAME);
        out.extend_from_slice(br#"{"seq":"#);
        out.extend_from_slice(itoa::Buffer::new().format(event.seq).as_bytes());
        if is_plain(event.entity()) && is_plain(event.row_id()) {
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
