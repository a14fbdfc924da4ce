//! The key that `serde_json` takes for a message to itself, in an object that begins with it.
//! ringlog takes it for a key like any other; what others make of it can be compared only under
//! another name.

/// How the key ends, and how its other name ends: as long, quoted alike, and next to it in the
/// order of keys.
const END: &[u8] = b"private::RawValue";
const OTHER: &[u8] = b"private::RawValuf";

/// The same text, perhaps no UTF-8, with that key under its other name.
pub(crate) fn renamed(text: impl AsRef<[u8]>) -> Vec<u8> {
    let mut text = text.as_ref().to_vec();
    for last in END.len()..=text.len() {
        if text[..last].ends_with(END) {
            text[last - END.len()..last].copy_from_slice(OTHER);
        }
    }
    text
}

/// Whether [`renamed`] renames the key wherever a text has it, and makes no two keys one: it
/// neither spells any of it with escapes, nor has the other name.
pub(crate) fn can_be_renamed(text: &[u8]) -> bool {
    let count = |text: &[u8], end: &[u8]| text.windows(end.len()).filter(|found| *found == end).count();
    let plain = without_escapes(text);
    count(&plain, OTHER) == 0 && count(&plain, END) == count(text, END)
}

/// The text with each `\u00XX` that stands for ASCII replaced by what it stands for, even behind
/// another backslash.
fn without_escapes(text: &[u8]) -> Vec<u8> {
    let mut plain = Vec::with_capacity(text.len());
    let mut rest = text;
    while let [first, behind @ ..] = rest {
        let escaped = rest.strip_prefix(br"\u00").and_then(|hex| str::from_utf8(hex.get(..2)?).ok());
        let code = escaped.and_then(|hex| u8::from_str_radix(hex, 16).ok()).filter(u8::is_ascii);
        plain.push(code.unwrap_or(*first));
        rest = if code.is_some() { &rest[6..] } else { behind };
    }
    plain
}
