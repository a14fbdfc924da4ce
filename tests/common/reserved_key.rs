//! The key that `serde_json` takes for a message to itself, in an object that begins with it. ringlog takes it for a key like any
//! other; what others make of it can be compared only under another name.

/// The same text, perhaps no UTF-8, with that key under another name, which is as long and is quoted as it is.
pub(crate) fn renamed(text: impl AsRef<[u8]>) -> Vec<u8> {
    const END: &[u8] = b"private::RawValue";
    let mut text = text.as_ref().to_vec();
    for last in END.len()..=text.len() {
        if text[..last].ends_with(END) {
            text[last - 1] = b'~';
        }
    }
    text
}
