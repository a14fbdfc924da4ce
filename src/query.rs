#![forbid(unsafe_code)]
//! How much of a log a read wants, and of what.

use crate::event::EventRef;
use std::fmt;
use std::hash::{Hash, Hasher};
use std::panic::{RefUnwindSafe, UnwindSafe};
use std::sync::Arc;

/// Which events a reader wants: those of some entities, those that a predicate accepts, or both.
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
/// use ringlog::{Change, ChangeKind, ChangeLog, Filter};
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
///
/// let deleted = Filter::entity("Todo").and(|event| event.kind() == ChangeKind::Delete);
/// let events = log.read(0, deleted.limit(100))?;
/// assert_eq!(events.iter().map(|event| event.seq()).collect::<Vec<_>>(), [3]);
/// # Ok::<(), ringlog::Resync>(())
/// ```
///
/// # Predicates
///
/// A predicate gets each event by reference, as a reader does. It may be called again for an event
/// that it was asked about before, also by another thread and at the same time: hence `Fn`, `Send`
/// and `Sync`. It is best a function of the event alone. One whose answer changes with time is
/// honoured as it answers when the event is examined: the cursor has moved past what it refused.
///
/// It runs on the reader's thread, while the read is pinned: a slow predicate delays its own reader
/// and the reuse of memory, no append and no other reader. It may use the log.
///
/// Two filters are equal if their entities are, and if they share their predicate: one is a clone
/// of the other. Predicates made apart are never equal, even from the same closure.
///
/// # Panics
/// A panic of a predicate unwinds through the read to its caller. Nothing is lost and nothing is
/// poisoned: the read is unpinned, the cursor and `out` are as they were before the call (a
/// follower's cursor may have moved past events that earlier rounds of the same call examined and
/// refused), and the next call examines the event again.
///
/// # Complexity
/// A read calls the predicate once for each event that it examines, after the entities: it is not
/// called for an event of another entity. A read without a predicate does nothing for it.
#[derive(Clone)]
pub struct Filter {
    /// In order, each once; `None` for all.
    entities: Option<Arc<[Box<str>]>>,
    predicate: Option<Arc<Predicate>>,
}

/// `Send` and `Sync`, because a filter is shared by readers on any threads, and `'static`, because
/// a stream keeps a clone of it.
type Predicate = dyn Fn(&EventRef<'_>) -> bool + Send + Sync;

impl Filter {
    /// Events of any entity for which the predicate is true.
    ///
    /// ```
    /// use ringlog::{Change, ChangeLog, Filter};
    ///
    /// let log = ChangeLog::new();
    /// for row_id in ["alice/1", "bob/1", "alice/2"] {
    ///     log.append_change(&Change::insert("Todo", row_id));
    /// }
    /// let user = String::from("alice/");
    /// let hers = Filter::by(move |event| event.row_id().starts_with(&user));
    /// let mut body = Vec::new();
    /// assert_eq!(log.pull_json(0, hers.limit(100), &mut body)?.count, 2);
    /// # Ok::<(), ringlog::Resync>(())
    /// ```
    pub fn by(predicate: impl Fn(&EventRef<'_>) -> bool + Send + Sync + 'static) -> Self {
        Self { entities: None, predicate: Some(Arc::new(predicate)) }
    }

    /// Only those of its events for which this predicate is true as well.
    ///
    /// ```
    /// use ringlog::{Change, ChangeLog, Filter};
    ///
    /// let log = ChangeLog::new();
    /// log.append_change(&Change::insert("Todo", "a"));
    /// log.append_change(&Change::insert("User", "a"));
    /// log.append_change(&Change::insert("Todo", "b"));
    ///
    /// let filter = Filter::entities(["Todo", "List"]).and(|event| event.row_id() == "a");
    /// assert_eq!(log.read(0, filter.limit(100))?.len(), 1);
    /// let none = filter.and(|event| event.seq() > 1);
    /// assert!(log.read(0, none.limit(100))?.is_empty());
    /// # Ok::<(), ringlog::Resync>(())
    /// ```
    pub fn and(self, predicate: impl Fn(&EventRef<'_>) -> bool + Send + Sync + 'static) -> Self {
        let Self { entities, predicate: first } = self;
        let predicate: Arc<Predicate> = match first {
            Some(first) => Arc::new(move |event| first(event) && predicate(event)),
            None => Arc::new(predicate),
        };
        Self { entities, predicate: Some(predicate) }
    }

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
        Self { entities: Some(entities.into()), predicate: None }
    }

    /// Whether it lets events of this entity through, as far as entities decide: a predicate may
    /// still refuse the event.
    ///
    /// # Complexity
    /// Logarithmic in the number of entities.
    pub fn matches(&self, entity: &str) -> bool {
        let is_one_of =
            |entities: &Arc<[Box<str>]>| entities.binary_search_by(|known| (**known).cmp(entity)).is_ok();
        self.entities.as_ref().is_none_or(is_one_of)
    }

    /// Whether it lets this event through.
    ///
    /// ```
    /// use ringlog::{Change, ChangeLog, Filter};
    ///
    /// let log = ChangeLog::new();
    /// log.append_change(&Change::insert("Todo", "t1"));
    /// let events = log.read(0, 1)?;
    /// let event = events.iter().next().unwrap();
    /// assert!(Filter::entity("Todo").accepts(&event));
    /// assert!(!Filter::by(|event| event.data_json().is_some()).accepts(&event));
    /// # Ok::<(), ringlog::Resync>(())
    /// ```
    ///
    /// # Panics
    /// If its predicate does.
    ///
    /// # Complexity
    /// As [`matches`](Self::matches), and one call of the predicate if the entity matches.
    pub fn accepts(&self, event: &EventRef<'_>) -> bool {
        self.matches(event.entity()) && self.holds_for(event)
    }

    /// Whether its predicate accepts this event, if it has one.
    #[inline]
    pub(crate) fn holds_for(&self, event: &EventRef<'_>) -> bool {
        self.predicate.as_ref().is_none_or(|accepts| accepts(event))
    }

    /// The entities, in order, each once. None if it lets [every entity](Self::is_of_all) through.
    ///
    /// ```
    /// let filter = ringlog::Filter::entities(["Todo", "List", "Todo"]);
    /// assert!(filter.names().eq(["List", "Todo"]));
    /// ```
    pub fn names(&self) -> impl ExactSizeIterator<Item = &str> {
        self.entities.as_deref().unwrap_or_default().iter().map(|name| &**name)
    }

    /// Whether it is for events of every entity: it was made [by a predicate](Self::by).
    ///
    /// ```
    /// use ringlog::Filter;
    /// assert!(Filter::by(|_| true).is_of_all());
    /// assert!(!Filter::entities(["Todo"]).and(|_| true).is_of_all());
    /// ```
    pub fn is_of_all(&self) -> bool {
        self.entities.is_none()
    }

    /// Where its predicate lies, as what it is told from others by.
    fn identity(&self) -> Option<*const ()> {
        self.predicate.as_ref().map(|predicate| Arc::as_ptr(predicate).cast())
    }

    /// At most `limit` events that match.
    pub fn limit(&self, limit: usize) -> Query<'_> {
        Query::new(limit).filter(self)
    }
}

impl PartialEq for Filter {
    fn eq(&self, other: &Self) -> bool {
        self.entities == other.entities && self.identity() == other.identity()
    }
}

impl Eq for Filter {}

impl Hash for Filter {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.entities.hash(state);
        self.identity().hash(state);
    }
}

impl fmt::Debug for Filter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Filter")
            .field("entities", &self.entities)
            .field("predicate", &self.predicate.as_ref().map(|_| ..))
            .finish()
    }
}

/// A read that a predicate's panic unwinds through leaves filter and log as they were. What the
/// predicate keeps for itself is its own to look after.
impl RefUnwindSafe for Filter {}
impl UnwindSafe for Filter {}

/// How much a read wants at most, and which events.
///
/// A bare limit is a query for all events: where one is asked for, a `usize` will do. With a
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
    /// At most `limit` events, whatever they are.
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
        self.filter.is_none_or(|filter| filter.accepts(event))
    }
}

impl From<usize> for Query<'_> {
    fn from(limit: usize) -> Self {
        Self::new(limit)
    }
}
