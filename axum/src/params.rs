//! What stands in a query string, and what a name may be, there or in a body. Read by hand, so that
//! a parameter that is misspelt, doubled or out of range is named.

use crate::error::ApiError;
use percent_encoding::percent_decode_str;
use ringlog::{Cursor, Filter};
use std::borrow::Cow;
use std::str::FromStr;
use std::time::Duration;

/// How many events or rows a client gets that does not say.
const DEFAULT_LIMIT: usize = 100;

/// The most entities that one can filter by.
const MAX_ENTITIES: usize = 100;

/// The longest entity, row id, op id and client id, in bytes.
pub(crate) const MAX_NAME: usize = 512;

/// The parameter of [`max_stale`].
pub(crate) const MAX_STALE: &str = "max_stale";

/// So many characters of an unknown parameter are shown.
const NAME_SHOWN: usize = 64;

/// A number as JSON writes whole ones: no sign, no superfluous zero, nothing around it. `parse`
/// alone is laxer.
fn whole<T: FromStr>(text: &str) -> Option<T> {
    let is_plain = text == "0" || !text.starts_with('0');
    let is_number = is_plain && text.bytes().all(|byte| byte.is_ascii_digit());
    if is_number { text.parse().ok() } else { None }
}

/// A number of seconds: a whole one, or one with decimals.
fn seconds(text: &str) -> Option<f64> {
    let (integer, decimals) = text.split_once('.').unwrap_or((text, "0"));
    whole::<u64>(integer)?;
    let is_fraction = !decimals.is_empty() && decimals.bytes().all(|byte| byte.is_ascii_digit());
    if is_fraction { text.parse().ok() } else { None }
}

/// How old the answer of a read may be at most, if its query says so. Read apart from the other
/// parameters: it is the same on all routes that read.
pub(crate) fn max_stale(query: Option<&str>) -> Result<Option<Duration>, ApiError> {
    /// A day.
    const MOST: f64 = 86_400.0;
    let mut pairs = form_urlencoded::parse(query.unwrap_or_default().as_bytes());
    let Some((_, text)) = pairs.find(|(name, _)| name == MAX_STALE) else { return Ok(None) };
    let limit = seconds(&text).filter(|limit| *limit <= MOST).map(Duration::from_secs_f64);
    let refused = || ApiError::bad_request(format!("`{MAX_STALE}` must be seconds from 0 to {MOST}"));
    limit.ok_or_else(refused).map(Some)
}

/// Refuses a name that no row and no client can have. `place` is where it was found.
fn check_name(place: &str, name: &str) -> Result<(), ApiError> {
    if (1..=MAX_NAME).contains(&name.len()) {
        return Ok(());
    }
    Err(ApiError::bad_request(format!("{place}: must have 1 to {MAX_NAME} bytes, not {}", name.len())))
}

/// The parameters of a request, all of them known to its route.
#[derive(Debug, Default)]
pub(crate) struct Params<'a> {
    pairs: Vec<(Cow<'a, str>, Cow<'a, str>)>,
}

impl<'a> Params<'a> {
    /// Reads a query string of which only these names are known.
    pub(crate) fn parse(query: Option<&'a str>, known: &[&str]) -> Result<Self, ApiError> {
        let query = query.unwrap_or_default();
        let pairs: Vec<_> = form_urlencoded::parse(query.as_bytes()).collect();
        // What each was read from.
        let encoded = query.split('&').filter(|pair| !pair.is_empty());
        for (index, ((name, _), encoded)) in pairs.iter().zip(encoded).enumerate() {
            if !known.contains(&&**name) {
                let known = if known.is_empty() { "none".to_owned() } else { known.join(", ") };
                return Err(ApiError::bad_request(format!(
                    "unknown parameter `{name:.NAME_SHOWN$}`: this route knows {known}"
                )));
            }
            if name != "entity" && pairs[..index].iter().any(|(earlier, _)| earlier == name) {
                return Err(ApiError::bad_request(format!("parameter `{name}` is given twice")));
            }
            if percent_decode_str(encoded).decode_utf8().is_err() {
                return Err(ApiError::bad_request(format!("parameter `{name}` is not UTF-8")));
            }
        }
        Ok(Self { pairs })
    }

    pub(crate) fn get(&self, name: &str) -> Option<&str> {
        self.pairs.iter().find(|(known, _)| known == name).map(|(_, value)| &**value)
    }

    /// Where to go on from: the resume token, or the bare seq `since`, if either is given.
    pub(crate) fn cursor(&self) -> Result<Option<Cursor>, ApiError> {
        let since = self.get("since").map(|text| {
            whole::<u64>(text).ok_or_else(|| {
                ApiError::bad_request("`since` must be a seq: a whole number from 0 to 18446744073709551615")
            })
        });
        let resume = self.get("resume").map(|text| {
            text.parse::<Cursor>().map_err(|error| ApiError::bad_request(format!("`resume`: {error}")))
        });
        match (since.transpose()?, resume.transpose()?) {
            (Some(since), Some(resume)) if since != resume.seq => Err(ApiError::bad_request(format!(
                "`since` is {since} and `resume` says {}: give one of them, or both the same",
                resume.seq
            ))),
            (since, resume) => Ok(resume.or(since.map(Cursor::from))),
        }
    }

    /// How many, at most `most`.
    pub(crate) fn limit(&self, most: usize) -> Result<usize, ApiError> {
        let Some(text) = self.get("limit") else { return Ok(DEFAULT_LIMIT.min(most)) };
        let limit = whole(text).filter(|limit| *limit <= most);
        limit.ok_or_else(|| {
            ApiError::bad_request(format!("`limit` must be a whole number from 0 to {most} (--max-limit)"))
        })
    }

    /// How long to wait for something new.
    pub(crate) fn wait(&self, most: Duration) -> Result<Duration, ApiError> {
        let Some(text) = self.get("wait") else { return Ok(Duration::ZERO) };
        let most_seconds = most.as_secs_f64();
        let wait = seconds(text).filter(|wait| (0.0..=most_seconds).contains(wait));
        wait.map(Duration::from_secs_f64).ok_or_else(|| {
            ApiError::bad_request(format!("`wait` must be seconds from 0 to {most_seconds} (--max-wait)"))
        })
    }

    /// Whether every event is wanted, also those that are not the latest of their rows.
    pub(crate) fn wants_full_history(&self) -> Result<bool, ApiError> {
        match self.get("history") {
            None | Some("compacted") => Ok(false),
            Some("full") => Ok(true),
            Some(_) => Err(ApiError::bad_request("`history` must be `compacted`, the default, or `full`")),
        }
    }

    /// Which entities: all of those named, each by an `entity` of its own.
    pub(crate) fn filter(&self) -> Result<Option<Filter>, ApiError> {
        let named = self.pairs.iter().filter(|(name, _)| name == "entity");
        let entities: Vec<&str> = named.map(|(_, value)| &**value).collect();
        if entities.len() > MAX_ENTITIES {
            return Err(ApiError::bad_request(format!(
                "`entity` may be given {MAX_ENTITIES} times, not {}",
                entities.len()
            )));
        }
        entities.iter().try_for_each(|entity| check_name("`entity`", entity))?;
        Ok((!entities.is_empty()).then(|| Filter::entities(entities)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused<T>(query: &str, read: impl FnOnce(&Params<'_>) -> Result<T, ApiError>) -> String {
        let known = ["since", "resume", "limit", "wait", "entity"];
        match Params::parse(Some(query), &known).and_then(|params| read(&params)) {
            Ok(_) => panic!("{query} was taken"),
            Err(error) => error.json(),
        }
    }

    #[test]
    #[expect(
        clippy::redundant_closure_for_method_calls,
        reason = "the methods are of one lifetime, a closure is of all"
    )]
    fn a_parameter_that_cannot_be_meant_is_named() {
        let token = format!("{}.7", "0".repeat(32));
        for (query, said) in [
            ("sinse=1", "unknown parameter `sinse`"),
            ("since=1&since=2", "`since` is given twice"),
            ("since=", "`since` must be a seq"),
            ("since=-1", "`since` must be a seq"),
            ("since=18446744073709551616", "`since` must be a seq"),
            ("resume=12", "`resume`: invalid cursor"),
            (&format!("since=6&resume={token}"), "`since` is 6 and `resume` says 7"),
        ] {
            assert!(refused(query, |params| params.cursor()).contains(said), "{query}");
        }
        assert!(refused("limit=1001", |params| params.limit(1000)).contains("from 0 to 1000"));
        assert!(refused("wait=NaN", |params| params.wait(Duration::from_secs(60))).contains("from 0 to 60"));
        assert!(refused(&"entity=a&".repeat(101), |params| params.filter()).contains("100 times, not 101"));
        let long = format!("entity=a&entity={}", "é".repeat(257));
        for (query, said) in [
            ("entity=", "`entity`: must have 1 to 512 bytes, not 0"),
            (&*long, "`entity`: must have 1 to 512 bytes, not 514"),
            ("since=1&&entity=a&entity=%E9", "`entity` is not UTF-8"),
            ("since=1&%FF=a", "unknown parameter `\u{fffd}`"),
        ] {
            assert!(refused(query, |params| params.filter()).contains(said), "{query}");
        }
    }

    #[test]
    fn a_limit_of_staleness_is_seconds() {
        for (query, limit) in
            [("", None), ("a=1", None), ("a=1&max_stale=2.5", Some(2.5)), ("max_stale=0", Some(0.0))]
        {
            let expected = limit.map(Duration::from_secs_f64);
            assert_eq!(max_stale(Some(query)).unwrap(), expected, "{query}");
        }
        for query in ["max_stale=", "max_stale=-1", "max_stale=86401", "max_stale=1e3", "max_stale=NaN"] {
            let refused = max_stale(Some(query)).unwrap_err().json();
            assert!(refused.contains("`max_stale` must be seconds from 0 to 86400"), "{query}");
        }
    }

    #[test]
    fn a_number_is_taken_in_one_spelling_only() {
        for text in ["0", "5", "18446744073709551615"] {
            assert_eq!(whole::<u64>(text).map(|number| number.to_string()).as_deref(), Some(text));
        }
        for text in
            ["", "+5", "-0", "007", "00", "5.0", "1e1", " 5", "5 ", "0x5", "٥", "18446744073709551616"]
        {
            assert_eq!(whole::<u64>(text), None, "{text}");
        }
        for (text, number) in [("0", 0.0), ("0.5", 0.5), ("1.50", 1.5), ("60", 60.0)] {
            assert_eq!(seconds(text), Some(number), "{text}");
        }
        for text in ["", ".5", "5.", "+1", "-1", "01", "1e1", "1.e1", "1.+5", "inf", "NaN", "1.2.3", " 1"] {
            assert_eq!(seconds(text), None, "{text}");
        }
    }

    #[test]
    fn an_unknown_parameter_is_shown_in_part() {
        let refused = refused(&format!("{}=1", "x".repeat(100_000)), |_| Ok(()));
        assert!(refused.contains(&"x".repeat(64)) && refused.len() < 300, "{refused}");
        assert!(
            Params::parse(Some("a=1"), &[])
                .unwrap_err()
                .json()
                .contains("unknown parameter `a`: this route knows none")
        );
    }

    #[test]
    fn a_resume_token_wins_over_nothing_and_goes_with_its_seq() {
        let token = format!("{}.7", "0".repeat(32));
        let query = format!("since=7&resume={token}&entity=a%26b&entity=c");
        let params = Params::parse(Some(&query), &["since", "resume", "entity"]).unwrap();
        assert_eq!(params.cursor().unwrap().unwrap().to_string(), token);
        assert_eq!(params.filter().unwrap(), Some(Filter::entities(["c", "a&b"])));
        assert_eq!(params.limit(50).unwrap(), 50, "the default is held to the limit");
    }
}
