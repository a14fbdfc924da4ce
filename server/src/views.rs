//! Snapshots: the rows of one moment, page by page.
//!
//! A first page that does not have all rows opens a view, or joins the youngest one where that will
//! do, and names it in the token of the next page. A token says after which row to go on, so a page
//! whose reply was lost can be asked for again.
//!
//! While a view is held, the store keeps the pages that it needs: the file grows. So a view expires
//! when no page was asked for in a while, at a certain age however often it is asked for, and when
//! its cursor has left the window: its rows would lead to a resync. A sweeper drops what has
//! expired. There is a fixed number of views at most; if all are in use, newcomers share the
//! youngest, as long as half of the window can be followed from there.

use crate::app::App;
use crate::folded::FoldedRows;
use crate::store::StoredRows;
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use std::io::Write;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// A page ends when it has so many bytes, however few rows that is.
pub(crate) const MAX_PAGE_BYTES: usize = 4 << 20;

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
    max_age: Duration,
}

struct Held {
    id: u128,
    view: Arc<View>,
    opened: Instant,
    last_used: Instant,
}

/// One page of a snapshot.
pub(crate) struct SnapshotPage {
    pub(crate) json: Vec<u8>,
    pub(crate) has_more: bool,
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
    ) -> Result<SnapshotPage, redb::Error> {
        let mut page = Page { json: br#"{"rows":["#.to_vec(), rows: 0, last: None, has_more: false };
        let after = token.map(|token| (&*token.after.0, &*token.after.1));
        self.walk(after, |entity, row_id, seq, data| {
            // The first row goes in however long it is: a client that asks for the next page gets
            // on.
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

    fn finish(mut self, last_seq: u64, next: Option<&PageToken>) -> SnapshotPage {
        let has_more = self.has_more;
        let _ = write!(self.json, r#"],"cursor":{{"last_seq":{last_seq}}},"has_more":{has_more}"#);
        if let Some(next) = next {
            let _ = write!(self.json, r#","next":"{next}""#);
        }
        self.json.push(b'}');
        SnapshotPage { json: self.json, has_more }
    }
}

fn write_string(out: &mut Vec<u8>, text: &str) {
    serde_json::to_writer(out, text).unwrap_or_else(|error| unreachable!("a Vec takes every byte: {error}"));
}

impl Held {
    /// Whether it can be joined, and still be followed from, when no more views can be held.
    fn will_do(&self, head: u64, oldest: u64) -> bool {
        self.view.last_seq() >= oldest.midpoint(head)
    }
}

/// A name for a view.
pub(crate) fn view_id() -> Result<u128, getrandom::Error> {
    let mut bytes = [0; 16];
    getrandom::fill(&mut bytes)?;
    Ok(u128::from_be_bytes(bytes))
}

/// Whether a log whose oldest event is `oldest` can be followed from `last_seq`.
pub(crate) fn is_in_window(last_seq: u64, oldest: u64) -> bool {
    last_seq.saturating_add(1) >= oldest
}

impl Views {
    pub(crate) fn new(most: usize, ttl: Duration, max_age: Duration) -> Self {
        Self { held: Mutex::default(), most, ttl, max_age }
    }

    /// The view that a token names, if it is still held and good.
    pub(crate) fn get(&self, token: &PageToken, oldest: u64) -> Option<Arc<View>> {
        let mut held = self.lock();
        let found = held.iter_mut().find(|held| held.id == token.view && self.is_good(held, oldest))?;
        found.last_used = Instant::now();
        Some(Arc::clone(&found.view))
    }

    /// A view that will do for a snapshot as of `head`: one of just that moment, or if no more can
    /// be held the youngest.
    pub(crate) fn join(&self, head: u64, oldest: u64) -> Option<(u128, Arc<View>)> {
        let mut views = self.lock();
        let full = views.len() >= self.most;
        let good = views.iter_mut().filter(|held| self.is_good(held, oldest));
        let youngest = good.max_by_key(|held| held.view.last_seq())?;
        if youngest.view.last_seq() < head && !(full && youngest.will_do(head, oldest)) {
            return None;
        }
        youngest.last_used = Instant::now();
        Some((youngest.id, Arc::clone(&youngest.view)))
    }

    /// Holds another view; the one that was least recently asked for goes if there are too many.
    /// False if there are, and one of them will do: that one is to be joined.
    pub(crate) fn hold(&self, id: u128, view: &Arc<View>, head: u64, oldest: u64) -> bool {
        let mut views = self.lock();
        let mut dropped = self.take_expired(&mut views, oldest);
        if views.len() >= self.most {
            if views.iter().any(|held| held.will_do(head, oldest)) {
                return false;
            }
            if let Some(oldest) = (0..views.len()).min_by_key(|&index| views[index].last_used) {
                dropped.push(views.swap_remove(oldest));
            }
        }
        let now = Instant::now();
        views.push(Held { id, view: Arc::clone(view), opened: now, last_used: now });
        drop(views);
        // Outside of the lock: it may take a while.
        drop(dropped);
        true
    }

    /// How many are held.
    pub(crate) fn len(&self) -> usize {
        self.lock().len()
    }

    /// Drops views that have expired, until the server stops.
    pub(crate) async fn sweep(app: Arc<App>) {
        let views = &app.views;
        let shortest = views.ttl.min(views.max_age);
        let pause = (shortest / 2).clamp(Duration::from_millis(10), Duration::from_secs(1));
        while app.stopping.run_until_cancelled(tokio::time::sleep(pause)).await.is_some() {
            let expired = views.take_expired(&mut views.lock(), app.log.oldest_seq());
            if !expired.is_empty() {
                // A large tree of rows takes its time. If that thread fails, they are dropped all
                // the same.
                let _ = tokio::task::spawn_blocking(move || drop(expired)).await;
            }
        }
    }

    fn take_expired(&self, held: &mut Vec<Held>, oldest: u64) -> Vec<Held> {
        held.extract_if(.., |held| !self.is_good(held, oldest)).collect()
    }

    fn is_good(&self, held: &Held, oldest: u64) -> bool {
        held.last_used.elapsed() < self.ttl
            && held.opened.elapsed() < self.max_age
            && is_in_window(held.view.last_seq(), oldest)
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Held>> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
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
