#![forbid(unsafe_code)]
//! Waiting for events, and following them.
//!
//! A follower is a cursor and a wait. Catch-up and live are one loop: read what is there; if nothing is, wait
//! until the seq after the cursor is visible, and read again. Every event comes from the log itself, in the order of
//! the seqs, so there is no seam between what was there before and what comes after.

use crate::batch::Batch;
use crate::cursor::Cursor;
use crate::error::{Resync, TimedOut};
use crate::log::ChangeLog;
use crate::query::Query;
use crate::wait::Waiter;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

/// Waiting and following.
impl ChangeLog {
    /// Blocks the thread until `seq` and everything before it is visible, or the time is up. Returns the head, as it was at
    /// some moment of the wait.
    ///
    /// An append that has returned is visible at once, unless an earlier one is still being published: this waits
    /// for that too. With `seq` = the last seq seen + 1, it waits for something new.
    ///
    /// # Errors
    /// [`TimedOut`] if `seq` is not visible by then. A `timeout` of zero only looks.
    ///
    /// # Complexity
    /// A look if it is visible already. Else the thread sleeps, and is woken by whoever publishes what it waits for, or
    /// by another waiter that was.
    ///
    /// # Examples
    ///
    /// ```
    /// use ringlog::{Change, ChangeLog};
    /// use std::time::Duration;
    ///
    /// let log = ChangeLog::new();
    /// std::thread::scope(|scope| {
    ///     scope.spawn(|| log.append_change(&Change::insert("Todo", "t1")));
    ///     assert_eq!(log.wait_for(1, Duration::from_secs(60)), Ok(1));
    /// });
    /// assert!(log.wait_for(2, Duration::ZERO).is_err());
    /// ```
    pub fn wait_for(&self, seq: u64, timeout: Duration) -> Result<u64, TimedOut> {
        let reached = Waiter::new(self).block(seq, deadline(timeout));
        reached.ok_or_else(|| TimedOut { seq, head: self.head() })
    }

    /// A future that is ready when `seq` and everything before it is visible. Its output is the head, as it was at some
    /// moment of the wait.
    ///
    /// It needs no particular runtime, and may be dropped at any time: it leaves nothing behind.
    ///
    /// # Complexity
    /// As [`wait_for`](Self::wait_for).
    ///
    /// # Examples
    ///
    /// ```
    /// use ringlog::{Change, ChangeLog};
    ///
    /// # tokio::runtime::Builder::new_current_thread().build()?.block_on(async {
    /// let log = ChangeLog::new();
    /// let seq = log.append_change(&Change::insert("Todo", "t1"));
    /// assert_eq!(log.visible(seq).await, 1);
    /// # });
    /// # Ok::<(), std::io::Error>(())
    /// ```
    pub fn visible(&self, seq: u64) -> Visible<'_> {
        Visible { waiter: Waiter::new(self), seq }
    }

    /// Follows the log from a cursor: first what is there, then what comes, with no gap and no seam between.
    ///
    /// A cursor that the log cannot go on from is not refused here; the first batch is the [`Resync`].
    ///
    /// # Examples
    ///
    /// See [`Follower`].
    pub fn follow(self: &Arc<Self>, cursor: impl Into<Cursor>) -> Follower {
        Follower { log: Arc::clone(self), place: Place { cursor: cursor.into(), resync: None } }
    }
}

/// The moment when `timeout` is over; `None` if no clock reaches it.
fn deadline(timeout: Duration) -> Option<Instant> {
    Instant::now().checked_add(timeout)
}

/// The future of [`ChangeLog::visible`].
#[derive(Debug)]
#[must_use = "a future does nothing unless it is awaited"]
pub struct Visible<'log> {
    waiter: Waiter<&'log ChangeLog>,
    seq: u64,
}

impl Future for Visible<'_> {
    type Output = u64;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<u64> {
        let seq = self.seq;
        self.waiter.poll(seq, context.waker())
    }
}

/// A reader that waits for what comes next.
///
/// It hands out every event after its cursor, in the order of the seqs, each once. It is only a cursor: however slow it
/// is, it costs writers and other followers nothing. If it falls behind the window it gets the [`Resync`] with how many
/// events it missed, again and again until [`seek`](Self::seek) says where to go on: it never skips silently.
///
/// The cursor moves when a batch is handed out. Who fails to process it can seek back to where it was.
///
/// A follower can be sent to other threads. Between calls and while it waits it pins nothing; the batch that it hands
/// out does, until it is dropped.
///
/// # Examples
///
/// On threads:
///
/// ```
/// use ringlog::{Change, ChangeLog};
/// use std::sync::Arc;
/// use std::time::Duration;
///
/// let log = Arc::new(ChangeLog::new());
/// log.append_change(&Change::insert("Todo", "t1"));
/// let mut follower = log.follow(0);
/// let writer = std::thread::spawn({
///     let log = Arc::clone(&log);
///     move || log.append_change(&Change::delete("Todo", "t1"))
/// });
/// let mut seen = Vec::new();
/// while seen.len() < 2 {
///     let batch = follower.next_batch(100, Duration::from_secs(60))?;
///     seen.extend(batch.iter().map(|event| event.seq()));
/// }
/// assert_eq!(seen, [1, 2]);
/// # writer.join().unwrap();
/// # Ok::<(), ringlog::Resync>(())
/// ```
///
/// After a resync, load the rows, then go on:
///
/// ```
/// use ringlog::{Change, ChangeLog};
/// use std::sync::Arc;
/// use std::time::Duration;
///
/// let log = Arc::new(ChangeLog::with_capacity(2));
/// let mut follower = log.follow(0);
/// for row in ["a", "b", "c", "d"] {
///     log.append_change(&Change::insert("Todo", row));
/// }
/// let resync = follower.next_batch(100, Duration::ZERO).unwrap_err();
/// assert_eq!(resync.missed(), 2);
/// // … load the rows …
/// follower.seek(resync.resume());
/// assert!(follower.next_batch(100, Duration::ZERO)?.is_empty());
/// # Ok::<(), ringlog::Resync>(())
/// ```
#[derive(Debug)]
pub struct Follower {
    log: Arc<ChangeLog>,
    place: Place,
}

/// Where a follower is.
#[derive(Debug, Clone, Copy)]
struct Place {
    cursor: Cursor,
    /// What it gets until it seeks.
    resync: Option<Resync>,
}

impl Place {
    /// Reads on from here, and moves past what was read.
    fn advance<'log>(&mut self, log: &'log ChangeLog, query: Query<'_>) -> Result<Batch<'log>, Resync> {
        if let Some(resync) = self.resync {
            return Err(resync);
        }
        let batch = log.read(self.cursor, query).inspect_err(|resync| self.resync = Some(*resync))?;
        self.cursor = batch.cursor();
        Ok(batch)
    }

    /// The seq to wait for.
    fn next_seq(&self) -> u64 {
        self.cursor.seq.saturating_add(1)
    }

    /// What both ways of polling do: a batch with something in it, or the waker is woken when there may be one.
    fn poll<'log, P>(
        &mut self,
        log: &'log ChangeLog,
        waiter: &mut Waiter<P>,
        query: Query<'_>,
        context: &mut Context<'_>,
    ) -> Poll<Result<Batch<'log>, Resync>>
    where
        P: std::ops::Deref<Target = ChangeLog>,
    {
        // If we were woken, pass it on before we read.
        waiter.cancel();
        loop {
            let batch = match self.advance(log, query) {
                Ok(batch) if batch.is_empty() && query.limit > 0 => batch,
                result => return Poll::Ready(result),
            };
            let unexamined = batch.has_more();
            // Nothing stays pinned while we wait.
            drop(batch);
            if unexamined {
                // A long stretch that the filter let nothing through from: others shall have their turn.
                context.waker().wake_by_ref();
                return Poll::Pending;
            }
            if waiter.poll(self.next_seq(), context.waker()).is_pending() {
                return Poll::Pending;
            }
        }
    }
}

impl Follower {
    /// The next events, at most `query`'s limit of them. Waits for the first up to `timeout`; empty if none came by then.
    ///
    /// `query` is a limit, or [`Filter::limit`](crate::Filter::limit) for the events of some entities only: then it waits
    /// for one that matches, and the cursor moves on past the others, also when the time is up. With a limit of 0 there is
    /// nothing to wait for.
    ///
    /// # Errors
    /// [`Resync`] if the log cannot go on from the cursor. The same one again until [`seek`](Self::seek).
    ///
    /// # Complexity
    /// As [`ChangeLog::read`] when something is there; else the thread sleeps.
    ///
    /// # Examples
    ///
    /// See [`Follower`].
    pub fn next_batch<'q>(
        &mut self,
        query: impl Into<Query<'q>>,
        timeout: Duration,
    ) -> Result<Batch<'_>, Resync> {
        let query = query.into();
        let deadline = deadline(timeout);
        let Self { log, place } = self;
        let mut timed_out = false;
        loop {
            let batch = place.advance(log, query)?;
            if !batch.is_empty() || query.limit == 0 || timed_out {
                return Ok(batch);
            }
            let unexamined = batch.has_more();
            drop(batch);
            timed_out = if unexamined {
                deadline.is_some_and(|deadline| Instant::now() >= deadline)
            } else {
                Waiter::new(&**log).block(place.next_seq(), deadline).is_none()
            };
        }
    }

    /// A future of the next events, at most `query`'s limit of them. It is ready when there is one.
    ///
    /// `query` is as for [`next_batch`](Self::next_batch). The future needs no particular runtime and may be dropped at any
    /// time: it leaves nothing behind, and no event is lost, for the cursor moves past an event only when
    /// it is handed out. The batch stays on its thread, so drop it before the next `await`.
    ///
    /// Its output is an error, [`Resync`], as of `next_batch`.
    ///
    /// # Complexity
    /// As [`ChangeLog::read`] for each poll.
    ///
    /// # Examples
    ///
    /// ```
    /// use ringlog::{Change, ChangeLog, Filter};
    /// use std::sync::Arc;
    ///
    /// # tokio::runtime::Builder::new_current_thread().build()?.block_on(async {
    /// let log = Arc::new(ChangeLog::new());
    /// let mut follower = log.follow(0);
    /// log.append_change(&Change::insert("User", "u1"));
    /// log.append_change(&Change::insert("Todo", "t1"));
    ///
    /// let todos = Filter::entity("Todo");
    /// assert_eq!(follower.next(todos.limit(10)).await.unwrap().len(), 1);
    /// assert_eq!(follower.cursor().seq, 2);
    /// # });
    /// # Ok::<(), std::io::Error>(())
    /// ```
    pub fn next<'a>(&'a mut self, query: impl Into<Query<'a>>) -> Next<'a> {
        let Self { log, place } = self;
        Next { waiter: Waiter::new(log), place, query: query.into() }
    }

    /// Where it stands: after the last event handed out, or filtered out.
    ///
    /// After the first successful read it names the log's incarnation: its text is the token to resume from.
    pub fn cursor(&self) -> Cursor {
        self.place.cursor
    }

    /// Goes on from another cursor, backwards or forwards. Ends a [`Resync`].
    pub fn seek(&mut self, cursor: impl Into<Cursor>) {
        self.place = Place { cursor: cursor.into(), resync: None };
    }

    /// The log that it follows.
    pub fn log(&self) -> &Arc<ChangeLog> {
        &self.log
    }

    /// A stream of what follows, in owned batches of at most `query`'s limit (of 1 for a limit of 0).
    ///
    /// Needs the feature `stream`.
    ///
    /// # Examples
    ///
    /// See [`FollowerStream`].
    #[cfg(feature = "stream")]
    pub fn into_stream<'q>(self, query: impl Into<Query<'q>>) -> FollowerStream {
        let query = query.into();
        FollowerStream {
            waiter: Waiter::new(Arc::clone(&self.log)),
            follower: self,
            limit: query.limit.max(1),
            filter: query.filter.cloned(),
            ended: false,
        }
    }
}

/// The future of [`Follower::next`].
#[derive(Debug)]
#[must_use = "a future does nothing unless it is awaited"]
pub struct Next<'a> {
    waiter: Waiter<&'a ChangeLog>,
    place: &'a mut Place,
    query: Query<'a>,
}

impl<'a> Future for Next<'a> {
    type Output = Result<Batch<'a>, Resync>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let Self { waiter, place, query } = &mut *self;
        place.poll(waiter.watched(), waiter, *query, context)
    }
}

#[cfg(feature = "stream")]
pub use stream::FollowerStream;

#[cfg(feature = "stream")]
mod stream {
    use super::{ChangeLog, Follower, Query, Resync, Waiter};
    use crate::query::Filter;
    use crate::wire::PullResponse;
    use futures_core::{FusedStream, Stream};
    use std::pin::Pin;
    use std::sync::Arc;
    use std::task::{Context, Poll};

    /// What a [`Follower`] hands out, as a stream of owned batches that can be sent anywhere.
    ///
    /// None of them is empty. A [`Resync`] is the last item: take the follower back with
    /// [`into_follower`](Self::into_follower), seek, and make a stream of it again.
    ///
    /// Needs the feature `stream`.
    ///
    /// # Examples
    ///
    /// ```
    /// use futures_core::Stream;
    /// use ringlog::{Change, ChangeLog};
    /// use std::pin::pin;
    /// use std::sync::Arc;
    ///
    /// # tokio::runtime::Builder::new_current_thread().build()?.block_on(async {
    /// let log = Arc::new(ChangeLog::new());
    /// log.append_change(&Change::insert("Todo", "t1"));
    /// let mut stream = pin!(log.follow(0).into_stream(100));
    /// // With the crate `futures`: stream.next().await
    /// let item = std::future::poll_fn(|context| stream.as_mut().poll_next(context)).await;
    /// assert_eq!(item.unwrap().unwrap().changes[0].row_id, "t1");
    /// # });
    /// # Ok::<(), std::io::Error>(())
    /// ```
    #[derive(Debug)]
    #[must_use = "a stream does nothing unless it is polled"]
    pub struct FollowerStream {
        pub(super) waiter: Waiter<Arc<ChangeLog>>,
        pub(super) follower: Follower,
        pub(super) limit: usize,
        pub(super) filter: Option<Filter>,
        pub(super) ended: bool,
    }

    impl FollowerStream {
        /// The follower, to be asked where it stands.
        pub fn follower(&self) -> &Follower {
            &self.follower
        }

        /// Ends the stream and takes the follower back.
        pub fn into_follower(self) -> Follower {
            self.follower
        }
    }

    impl Stream for FollowerStream {
        type Item = Result<PullResponse, Resync>;

        fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
            let Self { waiter, follower: Follower { log, place }, limit, filter, ended } = &mut *self;
            if *ended {
                return Poll::Ready(None);
            }
            let query = Query { limit: *limit, filter: filter.as_ref() };
            let polled = place.poll(log, waiter, query, context).map_ok(|batch| batch.to_response());
            *ended = matches!(polled, Poll::Ready(Err(_)));
            polled.map(Some)
        }
    }

    impl FusedStream for FollowerStream {
        /// Whether the stream has ended with a resync.
        fn is_terminated(&self) -> bool {
            self.ended
        }
    }
}
