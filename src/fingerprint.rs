#![forbid(unsafe_code)]
//! A change as one number, to tell it from another one that is pushed under the same op id.

use crate::event::Change;
use crate::kind::ChangeKind;
use std::hash::Hasher;
use std::num::NonZeroU64;
use twox_hash::XxHash64;

/// A hash of a change: of its entity, its row id, its kind and the text of its data.
///
/// It is the same in every process, on every architecture and in every release, so that it can be
/// stored beside an op id. The text of the data counts, byte for byte: other spaces or another
/// order of keys make another fingerprint. A client that pushes again must send the bytes that it
/// sent before.
///
/// Two different changes have the same fingerprint once in 2⁶⁴, unless a client searches for such a
/// pair. A client that does deceives itself: op ids belong to their client.
///
/// # Format
///
/// XXH64 (seed 0) of: the kind in one byte (0 insert, 1 update, 2 delete); for the entity and then
/// the row id, the length in bytes as 64 bits, least significant byte first, and the text; the text
/// of the data, nothing if there is none. A hash of 0 counts as 1.
///
/// # Examples
///
/// ```
/// use ringlog::{Change, Fingerprint};
///
/// let insert = Fingerprint::of(&Change::insert("Todo", "t1"));
/// assert_ne!(insert, Fingerprint::of(&Change::delete("Todo", "t1")));
/// assert_eq!(Fingerprint::from_bits(insert.to_bits()), Some(insert));
/// assert_eq!(Fingerprint::from_bits(0), None);
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Fingerprint(NonZeroU64);

impl Fingerprint {
    /// The fingerprint of a change.
    ///
    /// # Complexity
    /// Proportional to the change's length. Data given as a [`Value`](serde_json::Value) is written
    /// out first.
    pub fn of(change: &Change<'_>) -> Self {
        let mut hasher = XxHash64::with_seed(0);
        hasher.write(&[match change.kind() {
            ChangeKind::Insert => 0,
            ChangeKind::Update => 1,
            ChangeKind::Delete => 2,
        }]);
        for name in [change.entity(), change.row_id()] {
            // Not `write_u64`, whose bytes are in the machine's own order.
            hasher.write(&(name.len() as u64).to_le_bytes());
            hasher.write(name.as_bytes());
        }
        // Last, so that it needs no length. JSON text is never empty.
        hasher.write(change.data_json().unwrap_or_default().as_bytes());
        Self(NonZeroU64::new(hasher.finish()).unwrap_or(NonZeroU64::MIN))
    }

    /// The fingerprint as a number to store. Never 0.
    pub const fn to_bits(self) -> u64 {
        self.0.get()
    }

    /// A stored fingerprint; `None` for 0, which can stand for an op id that has none.
    pub const fn from_bits(bits: u64) -> Option<Self> {
        match NonZeroU64::new(bits) {
            Some(bits) => Some(Self(bits)),
            None => None,
        }
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::json;
    use serde_json::value::RawValue;

    fn raw(text: &str) -> &RawValue {
        serde_json::from_str(text).expect("the test's own JSON")
    }

    /// Computed by the C library libxxhash from the documented format. Stored fingerprints are
    /// compared with new ones: these numbers never change.
    #[test]
    fn a_fingerprint_is_what_it_was_in_every_release() {
        let changes = [
            (Change::insert("", ""), PINNED[0]),
            (Change::update("Todo", "t1"), PINNED[1]),
            (Change::delete("Todo", "t1").with_raw(raw("null")), PINNED[2]),
            (
                Change::insert("Todo", "ü")
                    .with_raw(raw(r#"{"title": "a text that is longer than a block"}"#)),
                PINNED[3],
            ),
        ];
        for (change, bits) in changes {
            assert_eq!(Fingerprint::of(&change).to_bits(), bits, "{change:?}");
        }
    }

    const PINNED: [u64; 4] =
        [0x9439_ed18_5e55_50fa, 0xfa25_b634_677e_343c, 0xbde8_24ec_bc04_f8ce, 0x2ea8_6d30_2ebe_8f4d];

    #[test]
    fn each_field_counts_and_the_text_of_the_data_byte_for_byte() {
        let value = json!({"a": 1});
        let base = Change::insert("ab", "c").with_raw(raw(r#"{"a":1}"#));
        assert_eq!(Fingerprint::of(&base), Fingerprint::of(&Change::insert("ab", "c").with_value(&value)));
        let others = [
            Change::update("ab", "c").with_raw(raw(r#"{"a":1}"#)),
            Change::insert("a", "bc").with_raw(raw(r#"{"a":1}"#)),
            Change::insert("ab", "d").with_raw(raw(r#"{"a":1}"#)),
            Change::insert("ab", "c").with_raw(raw(r#"{"a": 1}"#)),
            Change::insert("ab", "c").with_raw(raw("null")),
            Change::insert("ab", "c"),
        ];
        for other in others {
            assert_ne!(Fingerprint::of(&base), Fingerprint::of(&other), "{other:?}");
        }
    }

    proptest! {
        #[test]
        fn names_are_kept_apart_from_each_other_and_from_the_data(
            one in any::<[String; 2]>(), other in any::<[String; 2]>(), n: Option<u64>, m: Option<u64>
        ) {
            let texts = [n, m].map(|n| n.map(|n| serde_json::value::to_raw_value(&n).expect("a number")));
            let change = |[entity, row_id]: &'_ [String; 2], data: usize| {
                let change = Change::insert(entity, row_id);
                Fingerprint::of(&match &texts[data] { Some(text) => change.with_raw(text), None => change })
            };
            prop_assert_eq!(change(&one, 0) == change(&other, 1), one == other && n == m);
        }
    }
}
