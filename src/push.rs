#![forbid(unsafe_code)]
//! Pushing: a client's changes are applied, each once, and logged.
//!
//! For each change, in this order: its data becomes text and its length is checked; its op id is
//! claimed, with the change's fingerprint; the clock is asked; the change is applied; it is
//! appended; its op id is completed; waiters are woken. Code of the caller runs in four of these
//! steps: the clock, `apply`, the `Display` of its error, and a waiter's waker.
//!
//! - **Everything that can fail happens before a change is applied**: so one that was applied is
//!   always logged, and its op id completed.
//! - **Waiters are woken last**, when the op id is completed: a waker that panics finds nothing
//!   half done.

use crate::dedup::{OpClaim, OpGuard, OpId, OtherChange};
use crate::event::{Change, Data};
use crate::fingerprint::Fingerprint;
use crate::foreign::dispose;
use crate::limits::MAX_RECORD_LEN;
use crate::log::ChangeLog;
use crate::wire::{ClientChange, OpResult, OpStatus, PushRequest, PushResponse, RowState};
use std::any::Any;
use std::collections::HashMap;
use std::fmt::{self, Display};
use std::panic::{AssertUnwindSafe, catch_unwind};

/// So many characters of an entity, a row id and an op id are shown in an error: a name may be as
/// long as a record.
const NAME_SHOWN: usize = 64;

/// One change that a client pushes, with the op id under which it is applied once.
///
/// It is to [`claim_operations`](ChangeLog::claim_operations) what a [`ClientChange`] is to
/// [`push`](ChangeLog::push), with data in any form that a [`Change`] takes.
///
/// # Examples
///
/// ```
/// use ringlog::{Change, Operation};
/// use serde_json::value::RawValue;
///
/// let text: &RawValue = serde_json::from_str(r#"{"price": 1.10}"#)?;
/// let operation = Operation::new(Change::insert("Item", "i1").with_raw(text)).op_id("7");
/// # _ = operation;
/// # Ok::<(), serde_json::Error>(())
/// ```
#[derive(Debug, Clone)]
pub struct Operation<'a> {
    change: Change<'a>,
    op_id: Option<&'a str>,
    if_seq: Option<u64>,
}

impl<'a> Operation<'a> {
    /// An operation without an op id: it is applied each time that it is pushed.
    pub fn new(change: Change<'a>) -> Self {
        Self { change, op_id: None, if_seq: None }
    }

    /// With the client's idempotency key: pushed again under it, the operation is not applied
    /// again.
    pub fn op_id(self, op_id: &'a str) -> Self {
        Self { op_id: Some(op_id), ..self }
    }

    /// To be applied only if the seq of its row's last change is this one, 0 if the row is not to
    /// be there. The log knows no rows: see [`PushClaim::check`].
    pub fn if_seq(self, seq: u64) -> Self {
        Self { if_seq: Some(seq), ..self }
    }
}

impl<'a> From<&'a ClientChange> for Operation<'a> {
    fn from(change: &'a ClientChange) -> Self {
        let prepared = Change::new(change.kind, &change.entity, &change.row_id);
        let prepared = match &change.data {
            Some(data) => prepared.with_value(data),
            None => prepared,
        };
        Self { change: prepared, op_id: change.op_id.as_deref(), if_seq: None }
    }
}

/// Pushing.
impl ChangeLog {
    /// Applies a client's changes one after the other, and appends those that could be applied.
    ///
    /// `apply` does the work, such as writing to a database; it is called at most once for a
    /// change, and what it does is done before the change is in the log. What becomes of a change:
    ///
    /// - Its op id was completed before, for the same change: it is not applied again, and its
    ///   result is that of the first time.
    /// - Its op id was completed before, for another change (by its [`Fingerprint`]): it is not
    ///   applied, and its result is an error that says so.
    /// - Its op id is in flight in another thread: it is not applied, and `pending`. The client
    ///   pushes it again later.
    /// - `apply` returns an error or panics: the result is that error, and the op id is free again,
    ///   so that the same change can be pushed again. The changes after it are applied all the
    ///   same.
    /// - Else it is applied and appended. A change without an op id is applied each time that it is
    ///   pushed.
    ///
    /// Op ids belong to the client: the same op id of two `client_id`s is two ids, and no two
    /// different pairs are ever taken for one. Those of requests without a `client_id` are the ids
    /// of [`claim_op_id`](Self::claim_op_id) and [`has_seen_op_id`](Self::has_seen_op_id). An id
    /// that [`claim_op_id`](Self::claim_op_id) or [`remember_op_id`](Self::remember_op_id)
    /// completed has no fingerprint: any change under it is a replay.
    ///
    /// A request with more changes than [`max_push_changes`](crate::Builder::max_push_changes) is
    /// refused whole: one error, no results, nothing applied. After a lost reply the client pushes
    /// the same request again; what was applied is answered with its first seq.
    ///
    /// # Panics
    /// Never because of `apply`, the `Display` of its error, or the log's clock: a panic there is
    /// caught and is the result of that change. Nor because of the waker of a waiting task. In a
    /// program built with `panic = "abort"` each of them ends the process.
    ///
    /// # Complexity
    /// For each change, that of [`claim_op_id`](Self::claim_op_id), `apply` and
    /// [`append_change`](Self::append_change).
    ///
    /// # Examples
    ///
    /// ```
    /// use ringlog::{ChangeLog, OpStatus, PushRequest};
    /// use std::collections::HashMap;
    ///
    /// let log = ChangeLog::new();
    /// let mut rows = HashMap::new();
    /// let request: PushRequest = serde_json::from_str(r#"{"client_id": "phone", "changes": [
    ///     {"entity": "Todo", "row_id": "t1", "kind": "insert", "op_id": "1",
    ///      "data": {"title": "Milk"}},
    ///     {"entity": "Todo", "row_id": "t2", "kind": "insert", "op_id": "2"}
    /// ]}"#)?;
    ///
    /// let mut push = || log.push(&request, |change| match &change.data {
    ///     Some(data) => {
    ///         rows.insert(change.row_id.clone(), data.clone());
    ///         Ok(())
    ///     }
    ///     None => Err("a todo has a title"),
    /// });
    /// let response = push();
    /// assert_eq!((response.applied, response.deduped), (1, 0));
    /// assert_eq!(response.errors, ["Todo/t2: a todo has a title"]);
    ///
    /// // The reply was lost, and the client tries again.
    /// let response = push();
    /// assert_eq!((response.applied, response.deduped), (1, 1));
    /// let first = &response.results[0];
    /// assert_eq!((first.status, first.seq), (OpStatus::Replayed, Some(1)));
    /// assert_eq!(log.len(), 1);
    /// # Ok::<(), serde_json::Error>(())
    /// ```
    pub fn push<E: Display>(
        &self,
        request: &PushRequest,
        mut apply: impl FnMut(&ClientChange) -> Result<(), E>,
    ) -> PushResponse {
        if let Some(refusal) = self.refuse(request.changes.len()) {
            return refusal;
        }
        let client_id = request.client_id.as_deref();
        let mut results = Vec::with_capacity(request.changes.len());
        for change in &request.changes {
            let operation = Operation::from(change);
            let subject = Subject::of(&operation);
            let outcome = self.push_one(client_id, operation, || apply(change));
            if matches!(outcome, Outcome::Applied(_)) {
                self.announce();
            }
            results.push((subject, outcome));
        }
        self.respond(results)
    }

    /// Applies and appends one change, and completes its op id. If it was applied, it is yet to be
    /// announced.
    fn push_one<E: Display>(
        &self,
        client_id: Option<&str>,
        operation: Operation<'_>,
        apply: impl FnOnce() -> Result<(), E>,
    ) -> Outcome {
        let change = match prepare(operation.change) {
            Ok(change) => change,
            Err(error) => return Outcome::Failed(error),
        };
        let guard =
            match operation.op_id.map(|op_id| self.claim_for(client_id, op_id, Fingerprint::of(&change))) {
                Some(Err(outcome)) => return outcome,
                Some(Ok(guard)) => Some(guard),
                None => None,
            };
        let applied = caught(|| {
            let timestamp = self.now();
            apply().map_err(|error| error.to_string())?;
            Ok(timestamp)
        });
        match applied {
            Ok(timestamp) => {
                let seq = self.append_unannounced(&change, timestamp);
                if let Some(guard) = guard {
                    guard.complete(seq);
                }
                Outcome::Applied(seq)
            }
            Err(error) => Outcome::Failed(error),
        }
    }

    /// Applies a client's changes as one: all of them, in one transaction of the server's, or none.
    /// Those that are applied are appended as one batch, which readers see whole.
    ///
    /// `apply` is called at most once, with the changes that are to be applied, in the order of the
    /// request. Not among them are:
    ///
    /// - changes that were applied before, and those whose op id was used for another change: as in
    ///   [`push`](Self::push);
    /// - repetitions of an op id within the request. They get the result of its first change if
    ///   they are the same change, and an error if they are another one.
    ///
    /// If nothing is left, `apply` is not called. If a change cannot be appended, for it is too
    /// long, nothing is applied: that change has this error as its result, and the others have one
    /// that names it.
    ///
    /// If `apply` returns an error or panics, **it must have undone what it did**, as a transaction
    /// that is dropped does: nothing is appended, every one of these op ids is free again, and each
    /// of these changes has the error as its result.
    ///
    /// If any op id is in flight in another thread, nothing is applied: that change and all that
    /// would have been applied with it are `pending`. The client pushes the whole request again
    /// later, best after a while of random length: two requests that share op ids in different
    /// orders may put each other off.
    ///
    /// Otherwise, op ids, limits and the response are those of [`push`](Self::push).
    ///
    /// # Panics
    /// As [`push`](Self::push).
    ///
    /// # Complexity
    /// As [`push`](Self::push), with one [`append_batch`](Self::append_batch).
    ///
    /// # Examples
    ///
    /// ```
    /// use ringlog::{ChangeLog, PushRequest};
    ///
    /// let log = ChangeLog::new();
    /// let request: PushRequest = serde_json::from_str(r#"{"changes": [
    ///     {"entity": "Account", "row_id": "a", "kind": "update", "op_id": "1a",
    ///      "data": {"sum": 70}},
    ///     {"entity": "Account", "row_id": "b", "kind": "update", "op_id": "1b",
    ///      "data": {"sum": 30}}
    /// ]}"#)?;
    ///
    /// let response = log.push_batch(&request, |_changes| Err("the database is read-only"));
    /// assert_eq!((response.applied, response.errors.len(), log.len()), (0, 2, 0));
    ///
    /// let response = log.push_batch(&request, |changes| {
    ///     assert_eq!(changes.len(), 2); // begin, write both, commit
    ///     Ok::<(), String>(())
    /// });
    /// assert_eq!((response.applied, log.len()), (2, 2));
    /// # Ok::<(), serde_json::Error>(())
    /// ```
    pub fn push_batch<E: Display>(
        &self,
        request: &PushRequest,
        apply: impl FnOnce(&[&ClientChange]) -> Result<(), E>,
    ) -> PushResponse {
        let claim = match self.claim_push(request) {
            Ok(claim) if claim.changes().is_empty() => return claim.publish(),
            Ok(claim) => claim,
            Err(response) => return response,
        };
        let is_planned = |(_, outcome): &(Subject<'_>, Outcome)| matches!(outcome, Outcome::Planned(_));
        let planned = request.changes.iter().zip(claim.plan.results.iter().map(is_planned));
        let changes: Vec<_> = planned.filter(|(_, planned)| *planned).map(|(change, _)| change).collect();
        match caught(|| apply(&changes).map_err(|error| error.to_string())) {
            Ok(()) => claim.publish(),
            Err(error) => claim.fail(error),
        }
    }

    /// The first half of a [`push_batch`](Self::push_batch): claims the request's op ids, and lays
    /// out what is to be appended.
    ///
    /// [`claim_operations`](Self::claim_operations) with the changes of the request, whose data is
    /// written out as text.
    ///
    /// # Errors
    /// As [`claim_operations`](Self::claim_operations).
    ///
    /// # Complexity
    /// As [`claim_operations`](Self::claim_operations).
    ///
    /// # Examples
    ///
    /// ```
    /// use ringlog::{ChangeLog, PushRequest};
    ///
    /// let log = ChangeLog::new();
    /// let request: PushRequest = serde_json::from_str(
    ///     r#"{"changes": [{"entity": "Todo", "row_id": "t1", "kind": "delete", "op_id": "1"}]}"#,
    /// )?;
    /// let claim = log.claim_push(&request).expect("no other claim");
    /// // begin a transaction, write claim.changes(), commit
    /// assert_eq!(claim.publish().applied, 1);
    /// # Ok::<(), serde_json::Error>(())
    /// ```
    pub fn claim_push<'a>(&'a self, request: &'a PushRequest) -> Result<PushClaim<'a>, PushResponse> {
        self.claim_operations(
            request.client_id.as_deref(),
            request.changes.iter().map(Operation::from).collect(),
        )
    }

    /// The first half of a push whose data may be text, for programs that apply several requests in
    /// one transaction: claims the operations' op ids, and lays out what is to be appended.
    ///
    /// No other thread can apply these operations while the claim lives. Apply
    /// [`changes`](PushClaim::changes), then [`publish`](PushClaim::publish), or give up with
    /// [`fail`](PushClaim::fail) or by dropping the claim. Claims can be held side by side, also
    /// those of different requests:
    ///
    /// 1. claim each request that waits, begin a transaction, write the changes of all claims,
    ///    commit;
    /// 2. publish the claims, in the order in which they were written;
    /// 3. send the responses.
    ///
    /// If no other thread appends meanwhile, the seqs are known before the commit: they go on from
    /// [`last_seq`](Self::last_seq), claim by claim, and can be written along with the changes.
    ///
    /// # Errors
    /// The response for a request of which nothing can be applied now: it has too many changes, one
    /// that is too long, or an op id that is in flight, be it in another claim of the same thread.
    /// In the last case, to be told by a [`Pending`](OpStatus::Pending) result, the request can be
    /// claimed once those claims are gone. Nothing is claimed.
    ///
    /// # Complexity
    /// For each change, that of [`claim_op_id`](Self::claim_op_id) and of [`Fingerprint::of`]. Data
    /// that is text already is not copied.
    ///
    /// # Examples
    ///
    /// ```
    /// use ringlog::{Change, ChangeLog, Operation};
    /// use serde_json::value::RawValue;
    ///
    /// let log = ChangeLog::new();
    /// let text: &RawValue = serde_json::from_str(r#"{"title": "Milk", "price": 1.10}"#)?;
    /// let claim = |client| {
    ///     let change = Change::insert("Todo", client).with_raw(text);
    ///     log.claim_operations(Some(client), vec![Operation::new(change).op_id("1")])
    /// };
    ///
    /// let claims = ["a", "b"].into_iter().filter_map(|client| claim(client).ok());
    /// let claims: Vec<_> = claims.collect();
    /// let mut seq = log.last_seq();
    /// // begin a transaction
    /// for change in claims.iter().flat_map(|claim| claim.changes()) {
    ///     seq += 1;
    ///     println!("write row {} and event {seq}", change.row_id());
    /// }
    /// // commit
    /// for (claim, seq) in claims.into_iter().zip(1..) {
    ///     assert_eq!(claim.publish().results[0].seq, Some(seq));
    /// }
    /// # Ok::<(), serde_json::Error>(())
    /// ```
    pub fn claim_operations<'a>(
        &'a self,
        client_id: Option<&'a str>,
        operations: Vec<Operation<'a>>,
    ) -> Result<PushClaim<'a>, PushResponse> {
        if let Some(refusal) = self.refuse(operations.len()) {
            return Err(refusal);
        }
        let mut plan = self.plan(client_id, operations);
        if let Some(index) = plan.refused {
            plan.give_up(|| Outcome::Failed(format!("not applied: changes[{index}] is refused")));
            return Err(self.respond(plan.results));
        }
        if plan.is_blocked {
            plan.give_up(|| Outcome::Pending);
            return Err(self.respond(plan.results));
        }
        match caught(|| Ok(self.now())) {
            Ok(timestamp) => Ok(PushClaim { log: self, client_id, plan, timestamp }),
            Err(error) => {
                plan.give_up(|| Outcome::Failed(error.clone()));
                Err(self.respond(plan.results))
            }
        }
    }

    /// The answer to a push all of whose operations were applied before: their op ids are
    /// remembered, and for these changes. `None` if one is not, or has no op id, or if the push
    /// would be refused.
    ///
    /// Nothing is claimed, so that other claims never meet this call. Where pushes are applied
    /// elsewhere and come back in another order, it answers a retry at once.
    ///
    /// # Complexity
    /// For each change, that of [`has_seen_op_id`](Self::has_seen_op_id) and of
    /// [`Fingerprint::of`], up to the first that is not known.
    ///
    /// # Examples
    ///
    /// ```
    /// use ringlog::{Change, ChangeLog, OpStatus, Operation};
    ///
    /// let log = ChangeLog::new();
    /// let operations = || vec![Operation::new(Change::insert("Todo", "t1")).op_id("1")];
    /// assert!(log.replay_operations(Some("phone"), operations()).is_none());
    ///
    /// log.claim_operations(Some("phone"), operations()).expect("no other claim").publish();
    /// let retried = log.replay_operations(Some("phone"), operations()).expect("it is known");
    /// assert_eq!((retried.results[0].status, retried.results[0].seq), (OpStatus::Replayed, Some(1)));
    /// assert!(log.replay_operations(Some("laptop"), operations()).is_none());
    /// ```
    pub fn replay_operations<'a>(
        &self,
        client_id: Option<&str>,
        operations: Vec<Operation<'a>>,
    ) -> Option<PushResponse> {
        if operations.is_empty() || self.refuse(operations.len()).is_some() {
            return None;
        }
        let replay = |operation: Operation<'a>| {
            let (subject, op_id) = (Subject::of(&operation), operation.op_id?);
            let change = prepare(operation.change).ok()?;
            let (seq, kept) = self.op_ids.find(OpId::scoped(client_id, op_id))?;
            let agrees = kept.is_none_or(|kept| kept == Fingerprint::of(&change));
            agrees.then_some((subject, Outcome::Replayed(seq)))
        };
        let results: Vec<_> = operations.into_iter().map(replay).collect::<Option<_>>()?;
        for (subject, _) in &results {
            self.op_ids.replayed(OpId::scoped(client_id, subject.op_id.unwrap_or_default()));
        }
        Some(self.respond(results))
    }

    /// Claims what is asked for, as far as it gets.
    fn plan<'a>(&'a self, client_id: Option<&str>, operations: Vec<Operation<'a>>) -> Plan<'a> {
        let mut plan = Plan::default();
        let mut own = HashMap::new();
        for (index, operation) in operations.into_iter().enumerate() {
            let subject = Subject::of(&operation);
            let if_seq = operation.if_seq;
            let outcome = match (prepare(operation.change), operation.op_id) {
                (Err(error), _) => {
                    plan.refused.get_or_insert(index);
                    Outcome::Failed(error)
                }
                (Ok(change), None) => plan.take(change, if_seq, None),
                (Ok(change), Some(op_id)) => {
                    let fingerprint = Fingerprint::of(&change);
                    match own.get(op_id) {
                        Some(&(turn, first)) if first == fingerprint => Outcome::Repeats(turn),
                        Some(&(turn, _)) => Outcome::Differs(turn),
                        None => match self.claim_for(client_id, op_id, fingerprint) {
                            Ok(guard) => {
                                own.insert(op_id, (plan.changes.len(), fingerprint));
                                plan.take(change, if_seq, Some(Claimed { op_id, fingerprint, guard }))
                            }
                            Err(outcome) => outcome,
                        },
                    }
                }
            };
            plan.is_blocked |= matches!(outcome, Outcome::Pending);
            plan.results.push((subject, outcome));
        }
        plan
    }

    /// Claims an op id for a change of this fingerprint; or what that change's outcome is.
    fn claim_for(
        &self,
        client_id: Option<&str>,
        op_id: &str,
        fingerprint: Fingerprint,
    ) -> Result<OpGuard<'_>, Outcome> {
        match self.op_ids.claim_change(OpId::scoped(client_id, op_id), Some(fingerprint)) {
            Ok(OpClaim::Proceed(guard)) => Ok(guard),
            Ok(OpClaim::InFlight) => Err(Outcome::Pending),
            Ok(OpClaim::Replayed { seq }) => Err(Outcome::Replayed(seq)),
            Err(OtherChange { seq }) => Err(Outcome::Failed(used(op_id, seq))),
        }
    }

    /// The answer to a push of so many changes, if that is refused whole.
    fn refuse(&self, given: usize) -> Option<PushResponse> {
        let limit = self.max_push_changes;
        (given > limit).then(|| {
            let mut response = self.respond(Vec::new());
            response
                .errors
                .push(format!("a push may have {limit} changes, not {given}: nothing was applied"));
            response
        })
    }

    /// The answer to a push, with what became of each of its changes.
    fn respond(&self, results: Vec<(Subject<'_>, Outcome)>) -> PushResponse {
        let mut response = PushResponse {
            applied: 0,
            deduped: 0,
            errors: Vec::new(),
            cursor: self.cursor().into(),
            results: Vec::with_capacity(results.len()),
        };
        for (Subject { entity, row_id, op_id }, outcome) in results {
            let (status, seq, error, row) = match outcome {
                Outcome::Applied(seq) => (OpStatus::Applied, Some(seq), None, None),
                Outcome::Replayed(seq) => (OpStatus::Replayed, Some(seq).filter(|&seq| seq > 0), None, None),
                Outcome::Failed(error) => (OpStatus::Error, None, Some(error), None),
                Outcome::Conflict(expected, row) => {
                    let error = format!("if_seq is {expected}, and the row's last seq is {}", row.seq);
                    (OpStatus::Conflict, None, Some(error), Some(row))
                }
                Outcome::Pending | Outcome::Planned(_) | Outcome::Repeats(_) | Outcome::Differs(_) => {
                    (OpStatus::Pending, None, None, None)
                }
            };
            response.applied += usize::from(matches!(status, OpStatus::Applied | OpStatus::Replayed));
            response.deduped += usize::from(status == OpStatus::Replayed);
            let named = |error| format!("{entity:.NAME_SHOWN$}/{row_id:.NAME_SHOWN$}: {error}");
            response.errors.extend(error.as_ref().map(named));
            response.results.push(OpResult { op_id: op_id.map(String::from), status, seq, error, row });
        }
        response
    }
}

/// A push whose op ids are claimed and whose changes are to be applied: see
/// [`ChangeLog::claim_operations`].
///
/// While it lives, every other claim on its op ids is told that they are in flight. Dropped, be it
/// by an early return or while a panic unwinds, it frees them: nothing was applied.
#[must_use = "a claim that is dropped gives the push up"]
pub struct PushClaim<'a> {
    log: &'a ChangeLog,
    client_id: Option<&'a str>,
    plan: Plan<'a>,
    timestamp: u64,
}

impl<'a> PushClaim<'a> {
    /// What is to be applied, and will be appended as it stands here: in the order of the push,
    /// without those changes that were applied before. It may be nothing; then the claim is
    /// published with nothing to apply.
    pub fn changes(&self) -> &[Change<'a>] {
        &self.plan.changes
    }

    /// The op id of each of these [`changes`](Self::changes), and the fingerprint of the change, to
    /// be stored with it. `None` for a change without an op id.
    ///
    /// ```
    /// use ringlog::{Change, ChangeLog, Fingerprint, Operation};
    ///
    /// let log = ChangeLog::new();
    /// let change = Change::delete("Todo", "t1");
    /// let first = Operation::new(change.clone()).op_id("1");
    /// let operations = vec![first, Operation::new(change.clone())];
    /// let claim = log.claim_operations(Some("phone"), operations).expect("no other claim");
    /// for (change, op_id) in claim.changes().iter().zip(claim.op_ids()) {
    ///     println!("{} {op_id:?} of {:?}", change.row_id(), claim.client_id());
    /// }
    /// assert!(claim.op_ids().eq([Some(("1", Fingerprint::of(&change))), None]));
    /// ```
    pub fn op_ids(&self) -> impl ExactSizeIterator<Item = Option<(&'a str, Fingerprint)>> {
        let claims = self.plan.claims.iter();
        claims.map(|claimed| claimed.as_ref().map(|claimed| (claimed.op_id, claimed.fingerprint)))
    }

    /// Whether a change of it is to be applied only [if](Operation::if_seq) its row has a certain
    /// seq, and is not [checked](Self::check) yet.
    pub fn is_conditional(&self) -> bool {
        self.plan.conditions.iter().any(Option::is_some)
    }

    /// Checks the conditions of its changes, and takes out those that do not hold: they are not
    /// among [`changes`](Self::changes) any more, their op ids are free again, and their result is
    /// a [`Conflict`](OpStatus::Conflict) with the row. The others are applied all the same.
    ///
    /// `row` is called with each of the changes, in their order, and with its condition. It returns
    /// the row as it is then, after the changes before it that stay: to find a condition false is
    /// its part, by returning an error. A change without a condition stays whatever it returns.
    ///
    /// To be called before anything is applied, on the thread that applies: the rows must not
    /// change between this and the commit.
    ///
    /// # Examples
    ///
    /// ```
    /// use ringlog::{Change, ChangeLog, OpStatus, Operation, RowState};
    /// use std::collections::HashMap;
    ///
    /// let log = ChangeLog::new();
    /// let mut last_seqs = HashMap::from([("t1", 7)]);
    /// let operation = |row_id| Operation::new(Change::update("Todo", row_id)).if_seq(7);
    /// let operations = vec![operation("t1"), operation("t2")];
    /// let mut claim = log.claim_operations(None, operations).expect("no other claim");
    /// claim.check(|change, if_seq| {
    ///     let row = RowState { seq: *last_seqs.get(change.row_id()).unwrap_or(&0), data: None };
    ///     if if_seq.is_none_or(|seq| seq == row.seq) { Ok(()) } else { Err(row) }
    /// });
    /// assert_eq!(claim.changes().len(), 1);
    /// // … write it, commit …
    /// let results = claim.publish().results;
    /// assert_eq!((results[0].status, results[1].status), (OpStatus::Applied, OpStatus::Conflict));
    /// assert_eq!(results[1].row.as_ref().map(|row| row.seq), Some(0));
    /// ```
    pub fn check(&mut self, mut row: impl FnMut(&Change<'a>, Option<u64>) -> Result<(), RowState>) {
        let each = self.plan.changes.iter().zip(&self.plan.conditions);
        let conflicts: Vec<_> = each
            .map(|(change, if_seq)| row(change, *if_seq).err().and_then(|row| Some(((*if_seq)?, row))))
            .collect();
        self.plan.take_out(&conflicts);
    }

    /// The client that its op ids belong to.
    pub fn client_id(&self) -> Option<&'a str> {
        self.client_id
    }

    /// The timestamp that the events will have, in milliseconds since 1970.
    pub fn timestamp_millis(&self) -> u64 {
        self.timestamp
    }

    /// Appends the changes as one batch and completes their op ids. To be called when they are
    /// applied for good.
    ///
    /// # Complexity
    /// That of [`append_batch`](ChangeLog::append_batch), and of [`complete`](OpGuard::complete)
    /// for each op id.
    pub fn publish(mut self) -> PushResponse {
        let seqs = self.log.append_batch_unannounced(&self.plan.changes, self.timestamp);
        self.plan.complete(seqs.start);
        let response = self.log.respond(self.plan.results);
        self.log.announce();
        response
    }

    /// Gives the push up: nothing is appended, the op ids are free again, and each of these changes
    /// has the error as its result. What was applied must have been undone.
    pub fn fail(mut self, error: impl Display) -> PushResponse {
        let error = caught(|| Ok(error.to_string())).unwrap_or_else(|panicked| panicked);
        self.plan.give_up(|| Outcome::Failed(error.clone()));
        self.log.respond(self.plan.results)
    }
}

impl fmt::Debug for PushClaim<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PushClaim")
            .field("changes", &self.plan.changes)
            .field("timestamp", &self.timestamp)
            .finish_non_exhaustive()
    }
}

/// What the answer to a change calls it by.
#[derive(Debug)]
struct Subject<'a> {
    entity: &'a str,
    row_id: &'a str,
    op_id: Option<&'a str>,
}

impl<'a> Subject<'a> {
    fn of(operation: &Operation<'a>) -> Self {
        let Change { entity, row_id, .. } = operation.change;
        Self { entity, row_id, op_id: operation.op_id }
    }
}

/// What became of a change, or will.
#[derive(Debug)]
enum Outcome {
    Applied(u64),
    /// Applied before; with the seq, or 0 if it is not known.
    Replayed(u64),
    Pending,
    Failed(String),
    /// Its row's last seq was to be this one, and the row is another.
    Conflict(u64, RowState),
    /// Will be applied; index into [`Plan::changes`].
    Planned(usize),
    /// The same change, under the same op id, as this one of [`Plan::changes`].
    Repeats(usize),
    /// Another change under the op id of this one of [`Plan::changes`].
    Differs(usize),
}

/// What a batch is going to do.
#[derive(Default)]
struct Plan<'a> {
    /// What is known of each change of the push.
    results: Vec<(Subject<'a>, Outcome)>,
    /// The changes to be applied, with the claim on the op id and the condition of each.
    changes: Vec<Change<'a>>,
    claims: Vec<Option<Claimed<'a>>>,
    conditions: Vec<Option<u64>>,
    /// An op id is in flight elsewhere.
    is_blocked: bool,
    /// The first change of the push that cannot be appended.
    refused: Option<usize>,
}

/// An op id that a plan has claimed.
struct Claimed<'a> {
    op_id: &'a str,
    fingerprint: Fingerprint,
    guard: OpGuard<'a>,
}

impl<'a> Plan<'a> {
    fn take(&mut self, change: Change<'a>, if_seq: Option<u64>, claimed: Option<Claimed<'a>>) -> Outcome {
        self.changes.push(change);
        self.claims.push(claimed);
        self.conditions.push(if_seq);
        Outcome::Planned(self.changes.len() - 1)
    }

    /// Takes out those changes for which there is a conflict: what was expected, and the row.
    fn take_out(&mut self, conflicts: &[Option<(u64, RowState)>]) {
        let mut next = 0..;
        let turns: Vec<_> =
            conflicts.iter().map(|conflict| if conflict.is_none() { next.next() } else { None }).collect();
        for (subject, known) in &mut self.results {
            let (Outcome::Planned(turn) | Outcome::Repeats(turn) | Outcome::Differs(turn)) = known else {
                continue;
            };
            match (turns[*turn], &conflicts[*turn]) {
                (Some(new_turn), _) => *turn = new_turn,
                (None, conflict) => {
                    let (expected, row) = conflict.clone().unwrap_or_default();
                    *known = match known {
                        Outcome::Differs(_) => Outcome::Failed(used(subject.op_id.unwrap_or_default(), 0)),
                        _ => Outcome::Conflict(expected, row),
                    };
                }
            }
        }
        let mut stays = turns.iter().map(Option::is_some);
        self.changes.retain(|_| stays.next() == Some(true));
        let mut stays = turns.iter().map(Option::is_some);
        self.claims.retain(|_| stays.next() == Some(true));
        self.conditions.clear();
    }

    /// Gives the claims up. Every change that was to be applied has this outcome.
    fn give_up(&mut self, outcome: impl Fn() -> Outcome) {
        self.claims.clear();
        for (subject, known) in &mut self.results {
            match known {
                Outcome::Planned(_) | Outcome::Repeats(_) => *known = outcome(),
                Outcome::Differs(_) => *known = Outcome::Failed(used(subject.op_id.unwrap_or_default(), 0)),
                _ => {}
            }
        }
    }

    /// Completes the claims with seqs from `first` on.
    fn complete(&mut self, first: u64) {
        for (claimed, seq) in self.claims.drain(..).zip(first..) {
            if let Some(claimed) = claimed {
                claimed.guard.complete(seq);
            }
        }
        let seq = |turn: usize| first + turn as u64;
        for (subject, known) in &mut self.results {
            *known = match *known {
                Outcome::Planned(turn) => Outcome::Applied(seq(turn)),
                Outcome::Repeats(turn) => Outcome::Replayed(seq(turn)),
                Outcome::Differs(turn) => Outcome::Failed(used(subject.op_id.unwrap_or_default(), seq(turn))),
                _ => continue,
            }
        }
    }
}

/// Says of a change that its op id was used for another one, with this seq; 0 if that has none.
fn used(op_id: &str, seq: u64) -> String {
    let for_another = format!("op_id `{op_id:.NAME_SHOWN$}` was used for another change");
    if seq == 0 { for_another } else { format!("{for_another} (seq {seq})") }
}

/// The change as it will be appended, its data as text; an error if it cannot be.
fn prepare(change: Change<'_>) -> Result<Change<'_>, String> {
    let change = match change.data {
        Data::Value(value) => change.with_data(value).map_err(|error| format!("data: {error}"))?,
        _ => change,
    };
    let texts = [change.entity, change.row_id, change.data.text().unwrap_or_default()];
    let len: u64 = texts.iter().map(|text| text.len() as u64).sum();
    if len > MAX_RECORD_LEN as u64 {
        return Err(format!("entity, row_id and data may have {MAX_RECORD_LEN} bytes together, not {len}"));
    }
    Ok(change)
}

/// What `work` returns; if it panics, an error that says so.
fn caught<T>(work: impl FnOnce() -> Result<T, String>) -> Result<T, String> {
    // What `apply` leaves half done is its owner's to mend; the log's own state is never left half
    // done.
    catch_unwind(AssertUnwindSafe(work)).unwrap_or_else(|panic| {
        let error = format!("panicked: {}", message(&*panic));
        dispose(panic);
        Err(error)
    })
}

/// What a panic said.
fn message(panic: &(dyn Any + Send)) -> &str {
    if let Some(text) = panic.downcast_ref::<&str>() {
        return text;
    }
    panic.downcast_ref::<String>().map_or("no message", String::as_str)
}
