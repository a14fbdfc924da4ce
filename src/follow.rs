#![forbid(unsafe_code)]
//! Waiting for events, and following them.
//!
//! A follower is a cursor and a wait. Catch-up and live are one loop: read what is there; if
//! nothing is, wait until the seq after the cursor is visible, and read again. Every event comes
//! from the log itself, in the order of the seqs, so there is no seam between what was there before
//! and what comes after.

use crate::cursor::Cursor;
use crate::error::{Closed, Resync, TimedOut, WaitError};
use crate::events::Events;
use crate::log::ChangeLog;
use crate::query::Query;
use crate::wait::{Ended, Waiter};
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

/// Waiting and following.
impl ChangeLog {
    /// Blocks the thread until `seq` and everything before it is visible, the log is
    /// [closed](Self::close), or the time is up. Returns the head, as it was at some moment of the
    /// wait.
    ///
    /// An append that has returned is visible at once, unless an earlier one is still being
    /// published: this waits for that too. With `seq` = the last seq seen + 1, it waits for
    /// something new.
    ///
    /// # Errors
    /// [`WaitError::TimedOut`] if `seq` is not visible by then. A `timeout` of zero only looks.
    /// [`WaitError::Closed`] if `seq` is not visible, and was not handed out when the log was
    /// closed.
    ///
    /// # Complexity
    /// A look if it is visible already. Else the thread sleeps, and is woken by the append that
    /// publishes what it waits for, or by another waiter that was.
    ///
    /// # Examples
    ///
    /// ```
    /// use ringlog::{Change, ChangeLog, WaitError};
    /// use std::time::Duration;
    ///
    /// let log = ChangeLog::new();
    /// std::thread::scope(|scope| {
    ///     scope.spawn(|| log.append_change(&Change::insert("Todo", "t1")));
    ///     assert_eq!(log.blocking_wait_for(1, Duration::from_secs(60)), Ok(1));
    /// });
    /// assert!(matches!(log.blocking_wait_for(2, Duration::ZERO), Err(WaitError::TimedOut(_))));
    /// log.close();
    /// assert!(matches!(log.blocking_wait_for(2, Duration::MAX), Err(WaitError::Closed(_))));
    /// ```
    pub fn blocking_wait_for(&self, seq: u64, timeout: Duration) -> Result<u64, WaitError> {
        match Waiter::new(self).block(seq, deadline(timeout)) {
            Ok(Ended::Visible(head)) => Ok(head),
            Ok(Ended::Closed(head)) => Err(Closed { seq, head }.into()),
            Err(head) => Err(TimedOut { seq, head }.into()),
        }
    }

    /// A future that is ready when `seq` and everything before it is visible, or when the log is
    /// [closed](Self::close). Its output is the head, as it was at some moment of the wait.
    ///
    /// It needs no particular runtime, and may be dropped at any time: it leaves nothing behind.
    ///
    /// Its output is an error, [`Closed`], if `seq` is not visible, and was not handed out when the
    /// log was closed.
    ///
    /// # Complexity
    /// As [`blocking_wait_for`](Self::blocking_wait_for).
    ///
    /// # Examples
    ///
    /// ```
    /// use ringlog::{Change, ChangeLog};
    ///
    /// # tokio::runtime::Builder::new_current_thread().build()?.block_on(async {
    /// let log = ChangeLog::new();
    /// let seq = log.append_change(&Change::insert("Todo", "t1"));
    /// assert_eq!(log.wait_for(seq).await, Ok(1));
    /// # });
    /// # Ok::<(), std::io::Error>(())
    /// ```
    pub fn wait_for(&self, seq: u64) -> WaitFor<'_> {
        WaitFor { waiter: Waiter::new(self), seq }
    }

    /// Says that no more appends are to be expected: ends every wait for one, now and from now on.
    ///
    /// Waits, followers and streams get an answer of their own, which is no time-out:
    ///
    /// - [`blocking_wait_for`](Self::blocking_wait_for) and [`wait_for`](Self::wait_for) give
    ///   [`Closed`] for a seq that was not handed out when the log was closed, whatever the
    ///   time-out. For a seq that was, they wait until it is visible.
    /// - A follower first hands out everything that was appended before. Then
    ///   [`blocking_next`](Follower::blocking_next) and [`next`](Follower::next) give `None`, and a
    ///   stream ends.
    ///
    /// Nothing else changes. Reads answer as ever, and an append, a push or a claim that comes
    /// after the close is carried out like any other: `append` cannot say no, and a claim that was
    /// applied must be logged. It is visible to reads, to waits for its seq, and to followers that
    /// are asked again. But nothing waits for it: stop the writers first, then close.
    ///
    /// Closing twice is closing once. A closed log stays closed.
    ///
    /// # Complexity
    /// Takes the waiters' lock, and wakes every waiter whose wait is over. An append does not look
    /// whether the log is closed.
    ///
    /// # Examples
    ///
    /// ```
    /// use ringlog::{Change, ChangeLog};
    /// use std::sync::Arc;
    /// use std::time::Duration;
    ///
    /// let log = Arc::new(ChangeLog::new());
    /// let mut follower = log.follow(0);
    /// let reader = std::thread::spawn(move || {
    ///     let mut seen = 0;
    ///     while let Some(events) = follower.blocking_next(100, Duration::MAX)? {
    ///         seen += events.len();
    ///     }
    ///     Ok::<usize, ringlog::Resync>(seen)
    /// });
    /// for row in ["a", "b", "c"] {
    ///     log.append_change(&Change::insert("Todo", row));
    /// }
    /// log.close();
    /// assert_eq!(reader.join().unwrap()?, 3);
    /// # Ok::<(), ringlog::Resync>(())
    /// ```
    pub fn close(&self) {
        self.wait_queue.close(self);
    }

    /// Whether the log was [closed](Self::close).
    pub fn is_closed(&self) -> bool {
        self.wait_queue.is_closed()
    }

    /// Follows the log from a cursor: first what is there, then what comes, with no gap and no seam
    /// between.
    ///
    /// A cursor that the log cannot go on from is not refused here; the first answer is the
    /// [`Resync`].
    ///
    /// # Examples
    ///
    /// See [`Follower`].
    pub fn follow(self: &Arc<Self>, cursor: impl Into<Cursor>) -> Follower {
        Follower { log: Arc::clone(self), position: Position { cursor: cursor.into(), resync: None } }
    }
}

/// The moment when `timeout` is over; `None` if no clock reaches it.
fn deadline(timeout: Duration) -> Option<Instant> {
    Instant::now().checked_add(timeout)
}

/// The future of [`ChangeLog::wait_for`].
#[derive(Debug)]
#[must_use = "a future does nothing unless it is awaited"]
pub struct WaitFor<'log> {
    waiter: Waiter<&'log ChangeLog>,
    seq: u64,
}

impl Future for WaitFor<'_> {
    type Output = Result<u64, Closed>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let seq = self.seq;
        self.waiter.poll(seq, context.waker()).map(|ended| match ended {
            Ended::Visible(head) => Ok(head),
            Ended::Closed(head) => Err(Closed { seq, head }),
        })
    }
}

/// A reader that waits for what comes next.
///
/// It hands out every event after its cursor, in the order of the seqs, each once. It is only a
/// cursor: however slow it is, it costs writers and other followers nothing. If it falls behind the
/// window it gets the [`Resync`] with how many events it missed, again and again until
/// [`seek`](Self::seek) says where to go on: it never skips silently.
///
/// The cursor moves when events are handed out. A caller that fails to process it can seek back to
/// where it was.
///
/// A follower can be sent to other threads. Between calls and while it waits it pins nothing; the
/// [`Events`] that it hands out do, until they are dropped.
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
/// while seen.len() < 2
///     && let Some(events) = follower.blocking_next(100, Duration::from_secs(60))?
/// {
///     seen.extend(events.iter().map(|event| event.seq()));
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
/// let resync = follower.blocking_next(100, Duration::ZERO).unwrap_err();
/// assert_eq!(resync.missed(), 2);
/// // … load the rows …
/// follower.seek(resync.resume());
/// assert!(follower.blocking_next(100, Duration::ZERO)?.is_some_and(|events| events.is_empty()));
/// # Ok::<(), ringlog::Resync>(())
/// ```
#[derive(Debug)]
pub struct Follower {
    log: Arc<ChangeLog>,
    position: Position,
}

/// Where a follower is.
#[derive(Debug, Clone, Copy)]
struct Position {
    cursor: Cursor,
    /// What it gets until it seeks.
    resync: Option<Resync>,
}

impl Position {
    /// Reads on from here, and moves past what was read.
    fn advance<'log>(&mut self, log: &'log ChangeLog, query: Query<'_>) -> Result<Events<'log>, Resync> {
        if let Some(resync) = self.resync {
            return Err(resync);
        }
        let events = log.read(self.cursor, query).inspect_err(|resync| self.resync = Some(*resync))?;
        self.cursor = events.cursor();
        Ok(events)
    }

    /// The seq to wait for.
    fn next_seq(&self) -> u64 {
        self.cursor.seq.saturating_add(1)
    }

    /// What both ways of polling do: events, at least one, or the waker is woken when there
    /// may be one. `None` if the log is closed.
    fn poll<'log, P>(
        &mut self,
        log: &'log ChangeLog,
        waiter: &mut Waiter<P>,
        query: Query<'_>,
        context: &mut Context<'_>,
    ) -> Poll<Result<Option<Events<'log>>, Resync>>
    where
        P: std::ops::Deref<Target = ChangeLog>,
    {
        // The last poll's wait is over, and if it was woken, the wake-up is passed on: the next
        // wait is for another seq.
        waiter.cancel();
        loop {
            let events = self.advance(log, query)?;
            if !events.is_empty() || query.limit == 0 {
                return Poll::Ready(Ok(Some(events)));
            }
            let unexamined = events.has_more();
            // Nothing stays pinned while we wait.
            drop(events);
            if unexamined {
                // A long stretch that the filter let nothing through from: others shall have their
                // turn.
                context.waker().wake_by_ref();
                return Poll::Pending;
            }
            match waiter.poll(self.next_seq(), context.waker()) {
                Poll::Pending => return Poll::Pending,
                Poll::Ready(Ended::Closed(_)) => return Poll::Ready(Ok(None)),
                Poll::Ready(Ended::Visible(_)) => {}
            }
        }
    }
}

impl Follower {
    /// The next events, as many as `query` wants. Waits for the first up to `timeout`; empty
    /// if none came by then. `None` if the log is [closed](ChangeLog::close), and everything that
    /// was appended before is handed out.
    ///
    /// `query` is a limit, or a [`Query`]. With a filter it waits for one that matches, and the
    /// cursor moves on past the others, also when the time is up. With a limit of 0 there is
    /// nothing to wait for.
    ///
    /// # Errors
    /// [`Resync`] if the log cannot go on from the cursor. The same one again until
    /// [`seek`](Self::seek).
    ///
    /// # Complexity
    /// As [`ChangeLog::read`] when something is there; else the thread sleeps.
    ///
    /// # Examples
    ///
    /// See [`Follower`].
    pub fn blocking_next<'q>(
        &mut self,
        query: impl Into<Query<'q>>,
        timeout: Duration,
    ) -> Result<Option<Events<'_>>, Resync> {
        let query = query.into();
        let deadline = deadline(timeout);
        let Self { log, position } = self;
        let mut timed_out = false;
        loop {
            let events = position.advance(log, query)?;
            if !events.is_empty() || query.limit == 0 || timed_out {
                return Ok(Some(events));
            }
            let unexamined = events.has_more();
            // Nothing stays pinned while we wait.
            drop(events);
            if unexamined {
                timed_out = deadline.is_some_and(|deadline| Instant::now() >= deadline);
                continue;
            }
            match Waiter::new(&**log).block(position.next_seq(), deadline) {
                Ok(Ended::Visible(_)) => {}
                Ok(Ended::Closed(_)) => return Ok(None),
                Err(_) => timed_out = true,
            }
        }
    }

    /// A future of the next events, as many as `query` wants. It is ready when there is one,
    /// or with `None` if the log is [closed](ChangeLog::close), and everything that was appended
    /// before is handed out.
    ///
    /// `query` is as for [`blocking_next`](Self::blocking_next). The future needs no particular
    /// runtime and may be dropped at any time: it leaves nothing behind, and no event is lost, for
    /// the cursor moves past an event only when it is handed out. The events stay on their thread,
    /// so drop them before the next `await`.
    ///
    /// Its output is an error, [`Resync`], as of `blocking_next`.
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
    /// let events = follower.next(todos.limit(10)).await.unwrap();
    /// assert_eq!(events.map(|events| events.len()), Some(1));
    /// assert_eq!(follower.cursor().seq, 2);
    /// # });
    /// # Ok::<(), std::io::Error>(())
    /// ```
    pub fn next<'a>(&'a mut self, query: impl Into<Query<'a>>) -> Next<'a> {
        let Self { log, position } = self;
        Next { waiter: Waiter::new(log), position, query: query.into() }
    }

    /// Where it stands: after the last event handed out, or filtered out.
    ///
    /// After the first successful read it names the log's incarnation: its text is the token to
    /// resume from.
    pub fn cursor(&self) -> Cursor {
        self.position.cursor
    }

    /// Goes on from another cursor, backwards or forwards. Ends a [`Resync`].
    pub fn seek(&mut self, cursor: impl Into<Cursor>) {
        self.position = Position { cursor: cursor.into(), resync: None };
    }

    /// The log that it follows.
    pub fn log(&self) -> &Arc<ChangeLog> {
        &self.log
    }

    /// A stream of what follows, each item owned and at most as long as `query` says (1 event for a
    /// limit of 0).
    ///
    /// Needs the feature `stream`.
    ///
    /// # Examples
    ///
    /// See [`FollowerStream`].
    #[cfg(feature = "stream")]
    pub fn into_stream<'q>(self, query: impl Into<Query<'q>>) -> FollowerStream {
        let Query { limit, max_bytes, filter } = query.into();
        FollowerStream {
            waiter: Waiter::new(Arc::clone(&self.log)),
            follower: self,
            limit: limit.max(1),
            max_bytes,
            filter: filter.cloned(),
            ended: false,
        }
    }
}

/// The future of [`Follower::next`].
#[derive(Debug)]
#[must_use = "a future does nothing unless it is awaited"]
pub struct Next<'a> {
    waiter: Waiter<&'a ChangeLog>,
    position: &'a mut Position,
    query: Query<'a>,
}

impl<'a> Future for Next<'a> {
    type Output = Result<Option<Events<'a>>, Resync>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let Self { waiter, position, query } = &mut *self;
        position.poll(waiter.watched(), waiter, *query, context)
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

    /// What a [`Follower`] hands out, as a stream of owned responses that can be sent anywhere.
    ///
    /// None of them is empty. A [`Resync`] is the last item: take the follower back with
    /// [`into_follower`](Self::into_follower), seek, and make a stream of it again. Without one,
    /// the stream ends when the log is [closed](ChangeLog::close) and everything that was appended
    /// before is handed out.
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
        pub(super) max_bytes: u64,
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
            let Self { waiter, follower, limit, max_bytes, filter, ended } = &mut *self;
            let Follower { log, position } = follower;
            if *ended {
                return Poll::Ready(None);
            }
            let query = Query { limit: *limit, max_bytes: *max_bytes, filter: filter.as_ref() };
            let polled = position.poll(log, waiter, query, context).map(Result::transpose);
            *ended = matches!(polled, Poll::Ready(None | Some(Err(_))));
            polled.map_ok(|events| events.to_response())
        }
    }

    impl FusedStream for FollowerStream {
        /// Whether the stream has ended, with a resync or because the log is closed.
        fn is_terminated(&self) -> bool {
            self.ended
        }
    }
}
