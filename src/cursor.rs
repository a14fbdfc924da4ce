#![forbid(unsafe_code)]
//! Where a reader stands, and in which log.

use serde::{Deserialize, Deserializer, Serialize, Serializer};
use std::fmt;
use std::str::FromStr;

/// A reader's place in a log, as pylon-sync has it: a bare number.
///
/// It does not say *which* log. After a restart, a number from before it may be taken for one of
/// the new log; a [`Cursor`] with its incarnation is not.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SyncCursor {
    /// The last seq that the reader has seen.
    pub last_seq: u64,
}

impl SyncCursor {
    /// Before the first event.
    ///
    /// ```
    /// assert_eq!(ringlog::SyncCursor::beginning().last_seq, 0);
    /// ```
    pub fn beginning() -> Self {
        Self { last_seq: 0 }
    }
}

/// One lifetime of a log: 128 random bits, written as 32 hexadecimal digits, also in JSON.
///
/// ```
/// use ringlog::Incarnation;
///
/// let incarnation = Incarnation::random();
/// assert_eq!(incarnation.to_string().parse(), Ok(incarnation));
/// ```
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Incarnation(u128);

impl Incarnation {
    /// A new random one.
    ///
    /// # Panics
    /// If the operating system has no random bytes to give.
    #[expect(
        clippy::expect_used,
        reason = "documented; a system without random bytes cannot keep logs apart"
    )]
    pub fn random() -> Self {
        let mut bytes = [0; 16];
        getrandom::fill(&mut bytes).expect("random bytes from the operating system");
        Self::from_bytes(bytes)
    }

    /// The one with these bytes, the most significant first: to go on with a stored log.
    ///
    /// ```
    /// use ringlog::Incarnation;
    /// let incarnation = Incarnation::random();
    /// assert_eq!(Incarnation::from_bytes(incarnation.to_bytes()), incarnation);
    /// ```
    pub const fn from_bytes(bytes: [u8; 16]) -> Self {
        Self(u128::from_be_bytes(bytes))
    }

    /// Its bytes, the most significant first.
    pub const fn to_bytes(self) -> [u8; 16] {
        self.0.to_be_bytes()
    }
}

impl fmt::Display for Incarnation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", self.0)
    }
}

impl FromStr for Incarnation {
    type Err = ParseIncarnationError;

    /// Strict: only what [`Display`](fmt::Display) writes.
    fn from_str(digits: &str) -> Result<Self, ParseIncarnationError> {
        if digits.len() != 32 {
            return Err(ParseIncarnationError::Length { found: digits.len() });
        }
        // Stricter than `from_str_radix`, which takes a sign and capitals.
        if let Some(at) = digits.bytes().position(|byte| !matches!(byte, b'0'..=b'9' | b'a'..=b'f')) {
            return Err(ParseIncarnationError::Digit { at });
        }
        let bits = u128::from_str_radix(digits, 16);
        bits.map(Self).map_err(|_| ParseIncarnationError::Length { found: digits.len() })
    }
}

/// The reason that a text is not an [`Incarnation`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum ParseIncarnationError {
    /// It is not 32 bytes long.
    Length {
        /// Its length in bytes.
        found: usize,
    },
    /// It holds a byte that is not a digit 0-9 or a-f.
    Digit {
        /// Where, counted in bytes from 0.
        at: usize,
    },
}

impl fmt::Display for ParseIncarnationError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Length { found } => {
                write!(f, "invalid incarnation: expected 32 hexadecimal digits, found {found} bytes")
            }
            Self::Digit { at } => write!(f, "invalid incarnation: byte {at} is not a digit 0-9 or a-f"),
        }
    }
}

impl std::error::Error for ParseIncarnationError {}

impl Serialize for Incarnation {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Incarnation {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        parsed(deserializer)
    }
}

impl fmt::Debug for Incarnation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Incarnation({self})")
    }
}

/// A reader's place in a log: a seq, and the log's incarnation if it is known.
///
/// Where one is asked for, a `u64` or a [`SyncCursor`] will do; these name no incarnation, and none
/// is checked.
///
/// Its text is the resume token to give to clients: `<incarnation>.<seq>`, or `-.<seq>` without an
/// incarnation. The same string is its form in JSON.
///
/// # Examples
///
/// ```
/// use ringlog::{ChangeLog, Cursor};
///
/// let log = ChangeLog::new();
/// let token = log.read(0, 100)?.cursor().to_string();
/// let cursor: Cursor = token.parse()?;
/// assert!(log.read(cursor, 100).is_ok());
/// assert!(ChangeLog::new().read(cursor, 100).is_err(), "another log");
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub struct Cursor {
    /// The last seq that the reader has seen.
    pub seq: u64,
    /// The log that it saw it in; not checked when `None`.
    pub incarnation: Option<Incarnation>,
}

impl Cursor {
    /// After the event `seq`, of the log with this incarnation; of any log with `None`.
    ///
    /// ```
    /// use ringlog::{ChangeLog, Cursor};
    /// let log = ChangeLog::new();
    /// assert_eq!(log.cursor(), Cursor::new(0, Some(log.incarnation())));
    /// ```
    pub const fn new(seq: u64, incarnation: Option<Incarnation>) -> Self {
        Self { seq, incarnation }
    }
}

impl From<u64> for Cursor {
    fn from(seq: u64) -> Self {
        Self::new(seq, None)
    }
}

impl From<SyncCursor> for Cursor {
    fn from(cursor: SyncCursor) -> Self {
        cursor.last_seq.into()
    }
}

impl From<&SyncCursor> for Cursor {
    fn from(cursor: &SyncCursor) -> Self {
        cursor.last_seq.into()
    }
}

impl From<Cursor> for SyncCursor {
    /// Forgets the incarnation.
    fn from(cursor: Cursor) -> Self {
        Self { last_seq: cursor.seq }
    }
}

impl fmt::Display for Cursor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.incarnation {
            Some(incarnation) => write!(f, "{incarnation}.{}", self.seq),
            None => write!(f, "-.{}", self.seq),
        }
    }
}

/// The reason that a text is not a valid [`Cursor`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum ParseCursorError {
    /// There is no dot.
    NoDot,
    /// What stands before the dot is neither `-` nor 32 bytes long.
    IncarnationLength {
        /// Its length in bytes.
        found: usize,
    },
    /// What stands before the dot holds a byte that is not a digit 0-9 or a-f.
    IncarnationDigit {
        /// Where, counted in bytes from 0.
        at: usize,
    },
    /// What stands after the dot is empty.
    NoSeq,
    /// What stands after the dot holds a byte that is not a decimal digit.
    SeqDigit {
        /// Where, counted in bytes from 0.
        at: usize,
    },
    /// The seq starts with a superfluous zero: not a text that a cursor is written as.
    LeadingZero,
    /// The seq is larger than 2^64 - 1.
    SeqOverflow,
}

impl fmt::Display for ParseCursorError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("invalid cursor: ")?;
        match self {
            Self::NoDot => f.write_str("expected `<incarnation>.<seq>`, found no dot"),
            Self::IncarnationLength { found } => {
                write!(
                    f,
                    "the incarnation before the dot must be 32 hexadecimal digits or `-`, not {found} bytes"
                )
            }
            Self::IncarnationDigit { at } => {
                write!(f, "byte {at}, in the incarnation, is not a digit 0-9 or a-f")
            }
            Self::NoSeq => f.write_str("there is no seq after the dot"),
            Self::SeqDigit { at } => write!(f, "byte {at}, in the seq, is not a digit 0-9"),
            Self::LeadingZero => f.write_str("the seq starts with a superfluous zero"),
            Self::SeqOverflow => f.write_str("the seq is larger than 18446744073709551615"),
        }
    }
}

impl std::error::Error for ParseCursorError {}

impl FromStr for Cursor {
    type Err = ParseCursorError;

    /// Parses a resume token. Strict: only what [`Display`](fmt::Display) writes, so that two
    /// tokens are the same cursor only if they are the same text.
    fn from_str(text: &str) -> Result<Self, ParseCursorError> {
        let (incarnation, seq) = text.split_once('.').ok_or(ParseCursorError::NoDot)?;
        let incarnation = match incarnation {
            "-" => None,
            digits => Some(digits.parse().map_err(|error| match error {
                ParseIncarnationError::Length { found } => ParseCursorError::IncarnationLength { found },
                ParseIncarnationError::Digit { at } => ParseCursorError::IncarnationDigit { at },
            })?),
        };
        let seq = parse_seq(seq, text.len() - seq.len())?;
        Ok(Self { seq, incarnation })
    }
}

fn parse_seq(digits: &str, offset: usize) -> Result<u64, ParseCursorError> {
    if digits.is_empty() {
        return Err(ParseCursorError::NoSeq);
    }
    if let Some(at) = digits.bytes().position(|byte| !byte.is_ascii_digit()) {
        return Err(ParseCursorError::SeqDigit { at: offset + at });
    }
    if digits.len() > 1 && digits.starts_with('0') {
        return Err(ParseCursorError::LeadingZero);
    }
    digits.parse().map_err(|_| ParseCursorError::SeqOverflow)
}

impl Serialize for Cursor {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Cursor {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        parsed(deserializer)
    }
}

/// A value that is a text in JSON.
fn parsed<'de, T: FromStr<Err: fmt::Display>, D: Deserializer<'de>>(deserializer: D) -> Result<T, D::Error> {
    let text = std::borrow::Cow::<str>::deserialize(deserializer)?;
    text.parse().map_err(serde::de::Error::custom)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const HEX: &str = "0123456789abcdef0123456789abcdef";

    #[test]
    fn a_malformed_token_is_refused_with_its_reason() {
        let cases = [
            (String::new(), ParseCursorError::NoDot),
            (HEX.to_owned(), ParseCursorError::NoDot),
            ("12".to_owned(), ParseCursorError::NoDot),
            (".1".to_owned(), ParseCursorError::IncarnationLength { found: 0 }),
            (format!("{}.1", &HEX[1..]), ParseCursorError::IncarnationLength { found: 31 }),
            (format!("{HEX}0.1"), ParseCursorError::IncarnationLength { found: 33 }),
            (format!("+{}.1", &HEX[1..]), ParseCursorError::IncarnationDigit { at: 0 }),
            (format!("{}.1", HEX.to_uppercase()), ParseCursorError::IncarnationDigit { at: 10 }),
            (format!("{HEX}."), ParseCursorError::NoSeq),
            (format!("{HEX}.+1"), ParseCursorError::SeqDigit { at: 33 }),
            (format!("{HEX}.1 "), ParseCursorError::SeqDigit { at: 34 }),
            (format!("{HEX}.1.2"), ParseCursorError::SeqDigit { at: 34 }),
            (format!("{HEX}.01"), ParseCursorError::LeadingZero),
            (format!("{HEX}.18446744073709551616"), ParseCursorError::SeqOverflow),
        ];
        for (text, expected) in cases {
            assert_eq!(text.parse::<Cursor>(), Err(expected), "{text:?}");
        }
    }

    #[test]
    fn a_cursor_at_the_beginning_has_a_token_and_an_incarnation_its_bytes() {
        assert_eq!("-.0".parse(), Ok(Cursor::from(0)));
        let bytes = [1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16];
        let incarnation = Incarnation::from_bytes(bytes);
        assert_eq!(incarnation.to_bytes(), bytes);
        assert_eq!(incarnation.to_string(), "0102030405060708090a0b0c0d0e0f10");
    }

    #[test]
    fn an_error_calls_the_cursor_invalid_and_says_where() {
        let words = |text: &str| text.parse::<Cursor>().expect_err("not a cursor").to_string();
        assert_eq!(words("12"), "invalid cursor: expected `<incarnation>.<seq>`, found no dot");
        assert_eq!(words(&format!("{HEX}.1x")), "invalid cursor: byte 34, in the seq, is not a digit 0-9");
        assert_eq!(words("-."), "invalid cursor: there is no seq after the dot");
    }

    #[test]
    fn an_incarnation_that_is_not_32_small_hexadecimal_digits_is_refused_with_the_reason() {
        let words = |text: &str| text.parse::<Incarnation>().expect_err("not one").to_string();
        assert_eq!(words(&HEX[1..]), "invalid incarnation: expected 32 hexadecimal digits, found 31 bytes");
        assert_eq!(words(&HEX.to_uppercase()), "invalid incarnation: byte 10 is not a digit 0-9 or a-f");
        assert_eq!(
            words(&format!("+{}", &HEX[1..])),
            "invalid incarnation: byte 0 is not a digit 0-9 or a-f"
        );
        assert!(serde_json::from_str::<Incarnation>("\"-\"").is_err());
    }

    proptest! {
        #[test]
        fn an_incarnation_and_its_json_come_back(bits in any::<u128>()) {
            let incarnation = Incarnation(bits);
            prop_assert_eq!(incarnation.to_string().parse(), Ok(incarnation));
            let json = serde_json::to_string(&incarnation).expect("it serialises");
            prop_assert_eq!(&json, &format!("\"{incarnation}\""));
            prop_assert_eq!(serde_json::from_str::<Incarnation>(&json).expect("and comes back"), incarnation);
        }

        #[test]
        fn a_token_and_its_json_come_back(seq in any::<u64>(), bits in any::<Option<u128>>()) {
            let cursor = Cursor { seq, incarnation: bits.map(Incarnation) };
            prop_assert_eq!(cursor.to_string().parse::<Cursor>(), Ok(cursor));
            let json = serde_json::to_string(&cursor).expect("a cursor serialises");
            prop_assert_eq!(serde_json::from_str::<Cursor>(&json).expect("and comes back"), cursor);
        }

        #[test]
        fn what_parses_is_written_the_same(text in "[-0-9a-f.+ ]{0,40}|[0-9a-f]{32}\\.[0-9]{1,21}") {
            if let Ok(cursor) = text.parse::<Cursor>() {
                prop_assert_eq!(cursor.to_string(), text);
            }
        }
    }
}
