#![forbid(unsafe_code)]
//! How much of a log a read wants, and of what.

use crate::event::EventRef;
use std::sync::Arc;

/// Which events a reader wants: those of some entities.
///
/// Make it once for each subscriber; a clone shares it. Its [`limit`](Self::limit) makes the
/// [`Query`] which every way of reading takes in the place of a bare limit:
/// [`read`](crate::ChangeLog::read), [`pull_json`](crate::ChangeLog::pull_json),
/// [`Follower::blocking_next`](crate::Follower::blocking_next) and
/// [`Follower::next`](crate::Follower::next).
///
/// # Examples
///
/// ```
/// use ringlog::{Change, ChangeLog, Filter};
///
/// let log = ChangeLog::new();
/// log.append_change(&Change::insert("Todo", "t1"));
/// log.append_change(&Change::insert("User", "u1"));
/// log.append_change(&Change::delete("Todo", "t1"));
/// log.append_change(&Change::delete("User", "u1"));
///
/// let todos = Filter::entity("Todo");
/// let events = log.read(0, todos.limit(100))?;
/// assert_eq!(events.iter().map(|event| event.seq()).collect::<Vec<_>>(), [1, 3]);
/// assert_eq!(events.cursor().seq, 4, "past what was filtered out");
/// # Ok::<(), ringlog::Resync>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Filter {
    /// In order, each once.
    entities: Arc<[Box<str>]>,
}

impl Filter {
    /// Events of one entity.
    pub fn entity(entity: &str) -> Self {
        Self::entities([entity])
    }

    /// Events of any of these entities. Of none, if there are none.
    ///
    /// ```
    /// use ringlog::Filter;
    /// let filter = Filter::entities(["Todo", "List"]);
    /// assert!(filter.matches("List") && !filter.matches("User"));
    /// ```
    pub fn entities<S: Into<Box<str>>>(entities: impl IntoIterator<Item = S>) -> Self {
        let mut entities: Vec<Box<str>> = entities.into_iter().map(Into::into).collect();
        entities.sort_unstable();
        entities.dedup();
        Self { entities: entities.into() }
    }

    /// Whether it lets events of this entity through.
    ///
    /// # Complexity
    /// Logarithmic in the number of entities.
    pub fn matches(&self, entity: &str) -> bool {
        self.entities.binary_search_by(|known| (**known).cmp(entity)).is_ok()
    }

    /// The entities, in order, each once.
    ///
    /// ```
    /// let filter = ringlog::Filter::entities(["Todo", "List", "Todo"]);
    /// assert!(filter.names().eq(["List", "Todo"]));
    /// ```
    pub fn names(&self) -> impl ExactSizeIterator<Item = &str> {
        self.entities.iter().map(|name| &**name)
    }

    /// At most `limit` events that match.
    pub fn limit(&self, limit: usize) -> Query<'_> {
        Query::new(limit).filter(self)
    }
}

/// How much a read wants at most, and of which entities.
///
/// A bare limit is a query for all entities: where one is asked for, a `usize` will do. With a
/// [`Filter`]:
///
/// - `limit` counts the events that match;
/// - the cursor moves on past all that were examined, so an idle subscriber can store how far it
///   has got, and does not fall behind the window;
/// - a read examines at most [`MAX_EXAMINED`](crate::MAX_EXAMINED) events, and `has_more` tells
///   whether further ones are there to be examined.
///
/// # Examples
///
/// ```
/// use ringlog::{Change, ChangeLog, Query};
///
/// let log = ChangeLog::new();
/// for row_id in ["a", "b", "c"] {
///     log.append_change(&Change::insert("Todo", &row_id.repeat(96)));
/// }
/// let events = log.read(0, Query::new(100).max_bytes(200))?;
/// assert_eq!((events.len(), events.cursor().seq, events.has_more()), (2, 2, true));
/// # Ok::<(), ringlog::Resync>(())
/// ```
#[derive(Debug, Clone, Copy)]
#[must_use = "a query does nothing until it is read with"]
pub struct Query<'a> {
    pub(crate) limit: usize,
    /// `u64::MAX` without a bound.
    pub(crate) max_bytes: u64,
    pub(crate) filter: Option<&'a Filter>,
}

impl<'a> Query<'a> {
    /// At most `limit` events, of all entities.
    pub fn new(limit: usize) -> Self {
        Self { limit, max_bytes: u64::MAX, filter: None }
    }

    /// Only events that the filter lets through; all of them with `None`.
    pub fn filter(mut self, filter: impl Into<Option<&'a Filter>>) -> Self {
        self.filter = filter.into();
        self
    }

    /// At most so many bytes of text: the read ends before the event with which entities, row ids
    /// and data would sum to more. The first event is read however long it is, so that a reader
    /// gets on.
    ///
    /// JSON is longer than the text: by a frame for each event, and by what is escaped in names.
    pub fn max_bytes(mut self, bytes: u64) -> Self {
        self.max_bytes = bytes;
        self
    }

    /// Whether a read has to look at events.
    pub(crate) fn examines(&self) -> bool {
        self.filter.is_some() || self.max_bytes < u64::MAX
    }

    pub(crate) fn lets_through(&self, event: &EventRef<'_>) -> bool {
        self.filter.is_none_or(|filter| filter.matches(event.entity()))
    }
}

impl From<usize> for Query<'_> {
    fn from(limit: usize) -> Self {
        Self::new(limit)
    }
}
