//! The key that `serde_json` takes for a message to itself, in an object that begins with it. ringlog takes it for a key like any
//! other; what others make of it can be compared only under another name.

/// `text` with that key under another name, which is as long and needs no escape.
pub(crate) fn renamed(text: &str) -> String {
    text.replace("private::RawValue", "private::RawValu\u{7f}")
}
