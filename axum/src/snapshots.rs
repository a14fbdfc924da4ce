//! Snapshots that are paged through: the rows of one moment, page by page.
//!
//! A first page that does not have all rows takes a snapshot, or reuses the youngest one that will
//! do, and names it in the token of the next page. A token says after which row to go on, so a page
//! whose reply was lost can be asked for again.
//!
//! While a snapshot is in the cache, the store keeps the pages that it needs: the file grows. So a
//! snapshot expires when no page was asked for in a while, at a certain age however often it is
//! asked for, and when its cursor has left the window: its rows would lead to a resync. A sweeper
//! drops what has expired. The cache has a fixed size; if it is full, newcomers reuse the youngest
//! snapshot, as long as half of the window can be followed from there.

use crate::store::{Row, Snapshot, StoreError};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use ringlog::{ChangeLog, Filter};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::io::Write;
use std::ops::ControlFlow;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use tokio_util::sync::CancellationToken;

/// A page ends when it has so many bytes, however few rows that is.
pub(crate) const MAX_PAGE_BYTES: usize = 4 << 20;

/// The snapshots that clients are paging through.
pub(crate) struct SnapshotCache {
    entries: Mutex<Vec<Entry>>,
    capacity: usize,
    ttl: Duration,
    max_age: Duration,
}

struct Entry {
    id: u128,
    snapshot: Arc<dyn Snapshot>,
    taken: Instant,
    last_used: Instant,
}

/// One page of a snapshot.
pub(crate) struct SnapshotPage {
    pub(crate) json: Vec<u8>,
    pub(crate) has_more: bool,
}

/// Where a page begins: in which snapshot, after which row.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct PageToken {
    snapshot: u128,
    /// Of the filter: the pages of one load have the same.
    filter_hash: u64,
    after: (String, String),
}

impl PageToken {
    /// The id of the snapshot.
    pub(crate) fn snapshot(&self) -> u128 {
        self.snapshot
    }

    /// Whether it is of a load with this filter.
    pub(crate) fn is_of(&self, filter: Option<&Filter>) -> bool {
        self.filter_hash == filter_hash(filter)
    }
}

fn filter_hash(filter: Option<&Filter>) -> u64 {
    let mut hasher = DefaultHasher::new();
    filter.hash(&mut hasher);
    hasher.finish()
}

/// The JSON of one page of a snapshot: at most `limit` rows that match, after the row of the token.
pub(crate) fn page(
    snapshot: &dyn Snapshot,
    id: u128,
    token: Option<&PageToken>,
    limit: usize,
    filter: Option<&Filter>,
) -> Result<SnapshotPage, StoreError> {
    let mut page = Page { json: br#"{"rows":["#.to_vec(), rows: 0, last: None, has_more: false };
    let after = token.map(|token| (&*token.after.0, &*token.after.1));
    scan(snapshot, after, filter, &mut |row| {
        // The first row goes in however long it is: a client that asks for the next page gets on.
        if page.rows >= limit || (page.rows > 0 && page.json.len() >= MAX_PAGE_BYTES) {
            page.has_more = true;
            return ControlFlow::Break(());
        }
        page.push(row);
        ControlFlow::Continue(())
    })?;
    // A limit of 0 takes no row, and so the token of such a page is that of the page itself.
    let start = || token.map_or_else(Default::default, |token| token.after.clone());
    let next = page.has_more.then(|| PageToken {
        snapshot: id,
        filter_hash: filter_hash(filter),
        after: page.last.take().unwrap_or_else(start),
    });
    Ok(page.finish(snapshot.last_seq(), next.as_ref()))
}

/// [`Snapshot::scan`], of the entities that match only.
fn scan(
    snapshot: &dyn Snapshot,
    after: Option<(&str, &str)>,
    filter: Option<&Filter>,
    each: &mut dyn FnMut(Row<'_>) -> ControlFlow<()>,
) -> Result<(), StoreError> {
    let Some(filter) = filter else { return snapshot.scan(after, each) };
    for name in filter.names() {
        let from = match after {
            Some((entity, _)) if entity > name => continue,
            Some(after @ (entity, _)) if entity == name => after,
            // No row id is empty.
            _ => (name, ""),
        };
        let mut is_full = false;
        snapshot.scan(Some(from), &mut |row| {
            if row.entity != name {
                return ControlFlow::Break(());
            }
            let flow = each(row);
            is_full = flow.is_break();
            flow
        })?;
        if is_full {
            break;
        }
    }
    Ok(())
}

struct Page {
    json: Vec<u8>,
    rows: usize,
    last: Option<(String, String)>,
    has_more: bool,
}

impl Page {
    fn push(&mut self, row: Row<'_>) {
        let Row { entity, row_id, seq, data } = row;
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

/// Appends a text as a JSON string.
pub(crate) fn write_string(out: &mut Vec<u8>, text: &str) {
    serde_json::to_writer(out, text).unwrap_or_else(|error| unreachable!("a Vec takes every byte: {error}"));
}

impl Entry {
    /// Whether it can be reused, and still be followed from, when the cache is full.
    fn will_do(&self, head: u64, oldest: u64) -> bool {
        self.snapshot.last_seq() >= oldest.midpoint(head)
    }
}

/// An id for a snapshot.
pub(crate) fn new_id() -> Result<u128, getrandom::Error> {
    let mut bytes = [0; 16];
    getrandom::fill(&mut bytes)?;
    Ok(u128::from_be_bytes(bytes))
}

/// Whether a log whose oldest event is `oldest` can be followed from `last_seq`.
pub(crate) fn is_in_window(last_seq: u64, oldest: u64) -> bool {
    last_seq.saturating_add(1) >= oldest
}

impl SnapshotCache {
    pub(crate) fn new(capacity: usize, ttl: Duration, max_age: Duration) -> Self {
        Self { entries: Mutex::default(), capacity, ttl, max_age }
    }

    /// The snapshot that a token names, unless it has expired.
    pub(crate) fn get(&self, token: &PageToken, oldest: u64) -> Option<Arc<dyn Snapshot>> {
        let mut entries = self.lock();
        let found =
            entries.iter_mut().find(|entry| entry.id == token.snapshot && self.is_good(entry, oldest))?;
        found.last_used = Instant::now();
        Some(Arc::clone(&found.snapshot))
    }

    /// A snapshot that will do for one as of `head`: one of just that moment, or if the cache is
    /// full the youngest.
    pub(crate) fn reuse(&self, head: u64, oldest: u64) -> Option<(u128, Arc<dyn Snapshot>)> {
        let mut entries = self.lock();
        let full = entries.len() >= self.capacity;
        let good = entries.iter_mut().filter(|entry| self.is_good(entry, oldest));
        let youngest = good.max_by_key(|entry| entry.snapshot.last_seq())?;
        if youngest.snapshot.last_seq() < head && !(full && youngest.will_do(head, oldest)) {
            return None;
        }
        youngest.last_used = Instant::now();
        Some((youngest.id, Arc::clone(&youngest.snapshot)))
    }

    /// Inserts a snapshot. If the cache is full, the least recently used one goes; but if one of
    /// them will do, this returns false, and that one is to be reused.
    pub(crate) fn insert(&self, id: u128, snapshot: &Arc<dyn Snapshot>, head: u64, oldest: u64) -> bool {
        let mut entries = self.lock();
        let mut dropped = self.take_expired(&mut entries, oldest);
        if entries.len() >= self.capacity {
            if entries.iter().any(|entry| entry.will_do(head, oldest)) {
                return false;
            }
            if let Some(least) = (0..entries.len()).min_by_key(|&index| entries[index].last_used) {
                dropped.push(entries.swap_remove(least));
            }
        }
        let now = Instant::now();
        entries.push(Entry { id, snapshot: Arc::clone(snapshot), taken: now, last_used: now });
        drop(entries);
        // Outside of the lock: it may take a while.
        drop(dropped);
        true
    }

    /// The number of snapshots in the cache.
    pub(crate) fn len(&self) -> usize {
        self.lock().len()
    }

    /// Drops snapshots that have expired, until the server stops.
    pub(crate) async fn sweep(self: Arc<Self>, log: Arc<ChangeLog>, stopping: CancellationToken) {
        let shortest = self.ttl.min(self.max_age);
        let pause = (shortest / 2).clamp(Duration::from_millis(10), Duration::from_secs(1));
        while stopping.run_until_cancelled(tokio::time::sleep(pause)).await.is_some() {
            let expired = self.take_expired(&mut self.lock(), log.oldest_seq());
            if !expired.is_empty() {
                // A large tree of rows takes its time. If that thread fails, they are dropped all
                // the same.
                let _ = tokio::task::spawn_blocking(move || drop(expired)).await;
            }
        }
    }

    fn take_expired(&self, entries: &mut Vec<Entry>, oldest: u64) -> Vec<Entry> {
        entries.extract_if(.., |entry| !self.is_good(entry, oldest)).collect()
    }

    fn is_good(&self, entry: &Entry, oldest: u64) -> bool {
        entry.last_used.elapsed() < self.ttl
            && entry.taken.elapsed() < self.max_age
            && is_in_window(entry.snapshot.last_seq(), oldest)
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Entry>> {
        self.entries.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl std::fmt::Display for PageToken {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let after = serde_json::to_vec(&self.after).map_err(|_| std::fmt::Error)?;
        write!(f, "{:032x}{:016x}.{}", self.snapshot, self.filter_hash, URL_SAFE_NO_PAD.encode(after))
    }
}

impl std::str::FromStr for PageToken {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        let (head, after) = text.split_once('.').ok_or(())?;
        // Stricter than `from_str_radix`, which takes a sign and capitals.
        if head.len() != 48 || !head.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f')) {
            return Err(());
        }
        let (snapshot, filter_hash) = head.split_at(32);
        let snapshot = u128::from_str_radix(snapshot, 16).map_err(drop)?;
        let filter_hash = u64::from_str_radix(filter_hash, 16).map_err(drop)?;
        let after = URL_SAFE_NO_PAD.decode(after).map_err(drop)?;
        Ok(Self { snapshot, filter_hash, after: serde_json::from_slice(&after).map_err(drop)? })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn a_page_token_comes_back(snapshot: u128, filter_hash: u64, after: (String, String)) {
            let token = PageToken { snapshot, filter_hash, after };
            prop_assert_eq!(token.to_string().parse(), Ok(token));
        }

        #[test]
        fn other_text_is_no_page_token(text in "[0-9a-f]{46,49}\\.?[A-Za-z0-9_-]{0,20}") {
            if let Ok(token) = text.parse::<PageToken>() {
                prop_assert_eq!(token.to_string(), text);
            }
        }
    }
}
