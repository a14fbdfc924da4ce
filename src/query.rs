#![forbid(unsafe_code)]
//! How much of a log a read wants, and of what.

use crate::event::EventRef;
use std::sync::Arc;

/// How many events one filtered read examines at most, so that it is bounded however few of them
/// match.
///
/// It is not an error to have found nothing after so many: the cursor has moved past them, and
/// [`Batch::has_more`](crate::Batch::has_more) says to go on.
pub const MAX_EXAMINED: usize = 16_384;

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
/// let batch = log.read(0, todos.limit(100))?;
/// assert_eq!(batch.iter().map(|event| event.seq()).collect::<Vec<_>>(), [1, 3]);
/// assert_eq!(batch.cursor().seq, 4, "past what was filtered out");
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

    /// At most `limit` events that match.
    pub fn limit(&self, limit: usize) -> Query<'_> {
        Query { limit, filter: Some(self) }
    }

    pub(crate) fn lets_through(&self, event: &EventRef<'_>) -> bool {
        self.matches(event.entity())
    }
}

/// How many events a read wants at most, and whether of all entities.
///
/// A bare limit is a query for all: where one is asked for, a `usize` will do. With a [`Filter`]:
///
/// - `limit` counts the events that match;
/// - the cursor moves on past all that were examined, so a reader to whom nothing happens can store
///   how far it has got, and does not fall behind the window;
/// - a read examines at most [`MAX_EXAMINED`] events, and `has_more` tells whether further ones are
///   there to be examined.
///
/// Made by [`Filter::limit`], or from a `usize`.
#[derive(Debug, Clone, Copy)]
pub struct Query<'a> {
    pub(crate) limit: usize,
    pub(crate) filter: Option<&'a Filter>,
}

impl From<usize> for Query<'_> {
    fn from(limit: usize) -> Self {
        Self { limit, filter: None }
    }
}
