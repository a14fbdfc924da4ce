//! Snapshots: the rows of one moment, page by page.
//!
//! A first page opens a view, or joins the youngest one where that will do, and names it in the token of the next page. A
//! token says after which row to go on, so a page whose reply was lost can be asked for again. A view goes when nobody has asked
//! for a page for a while; there is a fixed number of them at most, and if all are in use newcomers share the youngest, as long as
//! the log can still be followed from there.

use crate::folded::FoldedRows;
use crate::store::StoredRows;
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use std::io::Write;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// A page ends when it has so many bytes, however few rows that is.
const MAX_PAGE_BYTES: usize = 4 << 20;

/// The rows of one moment, from wherever they are kept.
pub(crate) enum View {
    Stored(StoredRows),
    Folded(Arc<FoldedRows>),
}

/// The views that are held.
pub(crate) struct Views {
    held: Mutex<Vec<Held>>,
    most: usize,
    ttl: Duration,
}

struct Held {
    id: u128,
    view: Arc<View>,
    last_used: Instant,
}

/// Where a page begins: in which view, after which row.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct PageToken {
    view: u128,
    after: (String, String),
}

impl PageToken {
    /// The name of the view.
    pub(crate) fn view(&self) -> u128 {
        self.view
    }
}

impl View {
    /// The seq up to which every change is in the rows.
    pub(crate) fn last_seq(&self) -> u64 {
        match self {
            Self::Stored(rows) => rows.last_seq(),
            Self::Folded(rows) => rows.last_seq(),
        }
    }

    fn walk(
        &self,
        after: Option<(&str, &str)>,
        each: impl FnMut(&str, &str, u64, Option<&str>) -> bool,
    ) -> Result<(), redb::Error> {
        match self {
            Self::Stored(rows) => rows.walk(after, each),
            Self::Folded(rows) => {
                rows.walk(after, each);
                Ok(())
            }
        }
    }

    /// The JSON of one page: at most `limit` rows after that of the token.
    pub(crate) fn page(
        &self,
        id: u128,
        token: Option<&PageToken>,
        limit: usize,
    ) -> Result<Vec<u8>, redb::Error> {
        let mut page = Page { json: br#"{"rows":["#.to_vec(), rows: 0, last: None, has_more: false };
        let after = token.map(|token| (&*token.after.0, &*token.after.1));
        self.walk(after, |entity, row_id, seq, data| {
            // The first row goes in however long it is: who asks for the next page gets on.
            if page.rows >= limit || (page.rows > 0 && page.json.len() >= MAX_PAGE_BYTES) {
                page.has_more = true;
                return false;
            }
            page.push(entity, row_id, seq, data);
            true
        })?;
        // A limit of 0 takes no row, and so the token of such a page is that of the page itself.
        let start = || token.map_or_else(Default::default, |token| token.after.clone());
        let next =
            page.has_more.then(|| PageToken { view: id, after: page.last.take().unwrap_or_else(start) });
        Ok(page.finish(self.last_seq(), next.as_ref()))
    }
}

struct Page {
    json: Vec<u8>,
    rows: usize,
    last: Option<(String, String)>,
    has_more: bool,
}

impl Page {
    fn push(&mut self, entity: &str, row_id: &str, seq: u64, data: Option<&str>) {
        if self.rows > 0 {
            self.json.push(b',');
        }
        self.json.extend_from_slice(br#"{"entity":"#);
        write_string(&mut self.json, entity);
        self.json.extend_from_slice(br#","row_id":"#);
        write_string(&mut self.json, row_id);
        // Writing to a Vec does not fail.
        let _ = write!(self.json, r#","seq":{seq}"#);
        if let Some(data) = data {
            self.json.extend_from_slice(br#","data":"#);
            self.json.extend_from_slice(data.as_bytes());
        }
        self.json.push(b'}');
        self.rows += 1;
        self.last = Some((entity.to_owned(), row_id.to_owned()));
    }

    fn finish(mut self, last_seq: u64, next: Option<&PageToken>) -> Vec<u8> {
        let has_more = self.has_more;
        let _ = write!(self.json, r#"],"cursor":{{"last_seq":{last_seq}}},"has_more":{has_more}"#);
        if let Some(next) = next {
            let _ = write!(self.json, r#","next":"{next}""#);
        }
        self.json.push(b'}');
        self.json
    }
}

fn write_string(out: &mut Vec<u8>, text: &str) {
    serde_json::to_writer(out, text).unwrap_or_else(|error| unreachable!("a Vec takes every byte: {error}"));
}

impl Views {
    pub(crate) fn new(most: usize, ttl: Duration) -> Self {
        Self { held: Mutex::default(), most, ttl }
    }

    /// The view that a token names, if it is still held.
    pub(crate) fn get(&self, token: &PageToken) -> Option<Arc<View>> {
        self.with(|held| {
            let found = held.iter_mut().find(|held| held.id == token.view)?;
            found.last_used = Instant::now();
            Some(Arc::clone(&found.view))
        })
    }

    /// A view that will do for who wants the rows as of `head`: one of just that moment, or if no more can be held the youngest,
    /// provided that it stands at `oldest` or later.
    pub(crate) fn join(&self, head: u64, oldest: u64) -> Option<(u128, Arc<View>)> {
        self.with(|held| {
            let full = held.len() >= self.most;
            let youngest = held.iter_mut().max_by_key(|held| held.view.last_seq())?;
            let least = if full { oldest } else { head };
            if youngest.view.last_seq() < least {
                return None;
            }
            youngest.last_used = Instant::now();
            Some((youngest.id, Arc::clone(&youngest.view)))
        })
    }

    /// Holds another view; the one that was least recently asked for goes if there are too many. Answers with its name.
    pub(crate) fn hold(&self, view: Arc<View>) -> Result<u128, getrandom::Error> {
        let mut bytes = [0; 16];
        getrandom::fill(&mut bytes)?;
        let id = u128::from_be_bytes(bytes);
        self.with(|held| {
            if held.len() >= self.most
                && let Some(oldest) = (0..held.len()).min_by_key(|&index| held[index].last_used)
            {
                held.swap_remove(oldest);
            }
            held.push(Held { id, view, last_used: Instant::now() });
        });
        Ok(id)
    }

    /// How many are held.
    pub(crate) fn len(&self) -> usize {
        self.with(|held| held.len())
    }

    /// Drops those that nobody asked for lately, then calls `work` with the others.
    fn with<T>(&self, work: impl FnOnce(&mut Vec<Held>) -> T) -> T {
        let mut held = self.held.lock().unwrap_or_else(PoisonError::into_inner);
        held.retain(|held| held.last_used.elapsed() < self.ttl);
        work(&mut held)
    }
}

impl std::fmt::Display for PageToken {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let after = serde_json::to_vec(&self.after).map_err(|_| std::fmt::Error)?;
        write!(f, "{:032x}.{}", self.view, URL_SAFE_NO_PAD.encode(after))
    }
}

impl std::str::FromStr for PageToken {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        let (view, after) = text.split_once('.').ok_or(())?;
        if view.len() != 32 {
            return Err(());
        }
        let view = u128::from_str_radix(view, 16).map_err(drop)?;
        let after = URL_SAFE_NO_PAD.decode(after).map_err(drop)?;
        Ok(Self { view, after: serde_json::from_slice(&after).map_err(drop)? })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn a_page_token_comes_back(view: u128, after: (String, String)) {
            let token = PageToken { view, after };
            prop_assert_eq!(token.to_string().parse(), Ok(token));
        }

        #[test]
        fn other_text_is_no_page_token(text in "[0-9a-f]{0,33}\\.?[A-Za-z0-9_-]{0,20}") {
            if let Ok(token) = text.parse::<PageToken>() {
                prop_assert_eq!(token.to_string(), text);
            }
        }
    }
}
