#![forbid(unsafe_code)]
//! Pushing: a client's changes are applied, each once, and logged.
//!
//! Whatever can fail comes before a change is applied, so that one that was applied is always logged, and its op id
//! completed.

use crate::dedup::{OpClaim, OpGuard, OpId};
use crate::event::Change;
use crate::log::ChangeLog;
use crate::record::MAX_RECORD_LEN;
use crate::wire::{ClientChange, OpResult, OpStatus, PushRequest, PushResponse};
use std::any::Any;
use std::collections::HashMap;
use std::fmt::Display;
use std::panic::{AssertUnwindSafe, catch_unwind};

/// So many characters of an entity and a row id are shown in an error: a name may be as long as a record.
const NAME_SHOWN: usize = 64;

/// Pushing.
impl ChangeLog {
    /// Applies a client's changes one after the other, and appends those that could be applied.
    ///
    /// `apply` does the work, such as writing to a database; it is called at most once for a change, and what it does is
    /// done before the change is in the log. What becomes of a change:
    ///
    /// - Its op id was completed before: it is not applied again, and its result is that of the first time.
    /// - Its op id is in flight in another thread: it is not applied, and `pending`. The client pushes it again later.
    /// - `apply` returns an error or panics: the result is that error, and the op id is free again, so that the same
    ///   change can be pushed again. The changes after it are applied all the same.
    /// - Else it is applied and appended. A change without an op id is applied each time that it is pushed.
    ///
    /// Op ids belong to the client: the same op id of two `client_id`s is two ids, and no two different pairs are ever
    /// taken for one. Those of requests without a `client_id` are the ids of [`claim_op_id`](Self::claim_op_id) and
    /// [`has_seen_op_id`](Self::has_seen_op_id).
    ///
    /// A request with more changes than [`max_push_changes`](crate::Builder::max_push_changes) is refused whole: one
    /// error, no results, nothing applied. After a lost reply the client pushes the same request again; what was applied is
    /// answered with its first seq.
    ///
    /// # Panics
    /// Never because of `apply`: a panic there is caught and reported. In a program built with `panic = "abort"` it ends
    /// the process.
    ///
    /// # Complexity
    /// For each change, that of [`claim_op_id`](Self::claim_op_id), `apply` and [`append_change`](Self::append_change).
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
    ///     {"entity": "Todo", "row_id": "t1", "kind": "insert", "data": {"title": "Milk"}, "op_id": "1"},
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
    /// assert_eq!((response.results[0].status, response.results[0].seq), (OpStatus::Replayed, Some(1)));
    /// assert_eq!(log.len(), 1);
    /// # Ok::<(), serde_json::Error>(())
    /// ```
    pub fn push<E: Display>(
        &self,
        request: &PushRequest,
        mut apply: impl FnMut(&ClientChange) -> Result<(), E>,
    ) -> PushResponse {
        if let Some(refusal) = self.refuse(request) {
            return refusal;
        }
        let push_one = |change| self.push_one(request, change, &mut apply);
        self.respond(request, request.changes.iter().map(push_one).collect())
    }

    fn push_one<E: Display>(
        &self,
        request: &PushRequest,
        change: &ClientChange,
        apply: &mut impl FnMut(&ClientChange) -> Result<(), E>,
    ) -> Outcome {
        let guard = match change.op_id.as_deref().map(|op_id| self.claim_for(request, op_id)) {
            Some(OpClaim::Replayed { seq }) => return Outcome::Replayed(seq),
            Some(OpClaim::InFlight) => return Outcome::Pending,
            Some(OpClaim::Proceed(guard)) => Some(guard),
            None => None,
        };
        let applied = to_append(change).and_then(|prepared| {
            caught(|| {
                apply(change).map_err(|error| error.to_string())?;
                Ok(self.append_change(&prepared))
            })
        });
        match applied {
            Ok(seq) => {
                if let Some(guard) = guard {
                    guard.complete(seq);
                }
                Outcome::Applied(seq)
            }
            Err(error) => Outcome::Failed(error),
        }
    }

    /// Applies a client's changes as one: all of them, in one transaction of the server's, or none. Those that are
    /// applied are appended as one batch, which readers see whole.
    ///
    /// `apply` is called at most once, with the changes that are to be applied, in the order of the request. Not among
    /// them are changes that were applied before (`replayed`, as in [`push`](Self::push)), and repetitions of an op id
    /// within the request, which get the result of its first change. If nothing is left, `apply` is not called.
    ///
    /// If `apply` returns an error or panics, **it must have undone what it did**, as a transaction that is dropped does:
    /// nothing is appended, every one of these op ids is free again, and each of these changes has the error as its result.
    ///
    /// If any op id is in flight in another thread, nothing is applied: that change and all that would have been applied
    /// with it are `pending`. The client pushes the whole request again later, best after a while of random length: two
    /// requests that share op ids in different orders may put each other off.
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
    ///     {"entity": "Account", "row_id": "a", "kind": "update", "data": {"sum": 70}, "op_id": "transfer-1a"},
    ///     {"entity": "Account", "row_id": "b", "kind": "update", "data": {"sum": 30}, "op_id": "transfer-1b"}
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
        if let Some(refusal) = self.refuse(request) {
            return refusal;
        }
        let mut plan = self.plan(request);
        if plan.is_blocked {
            plan.finish(|_| Outcome::Pending);
            return self.respond(request, plan.outcomes);
        }
        match self.apply_plan(&plan, apply) {
            Ok(first) => plan.complete(first),
            Err(error) => plan.finish(|_| Outcome::Failed(error.clone())),
        }
        self.respond(request, plan.outcomes)
    }

    /// Claims what the request asks for, as far as it gets.
    fn plan<'a>(&'a self, request: &'a PushRequest) -> Plan<'a> {
        let mut plan = Plan::default();
        let mut own: HashMap<&str, usize> = HashMap::new();
        for change in &request.changes {
            let outcome = match change.op_id.as_deref() {
                None => plan.take(change, None),
                Some(op_id) => match own.get(op_id) {
                    Some(&turn) => Outcome::Repeats(turn),
                    None => match self.claim_for(request, op_id) {
                        OpClaim::Replayed { seq } => Outcome::Replayed(seq),
                        OpClaim::InFlight => {
                            plan.is_blocked = true;
                            Outcome::Pending
                        }
                        OpClaim::Proceed(guard) => {
                            own.insert(op_id, plan.changes.len());
                            plan.take(change, Some(guard))
                        }
                    },
                },
            };
            plan.outcomes.push(outcome);
        }
        plan
    }

    /// Applies and appends what was planned. Answers with the first seq.
    fn apply_plan<E: Display>(
        &self,
        plan: &Plan<'_>,
        apply: impl FnOnce(&[&ClientChange]) -> Result<(), E>,
    ) -> Result<u64, String> {
        if plan.changes.is_empty() {
            return Ok(0);
        }
        let prepared = plan.changes.iter().map(|change| to_append(change)).collect::<Result<Vec<_>, _>>()?;
        caught(|| {
            apply(&plan.changes).map_err(|error| error.to_string())?;
            Ok(*self.append_batch(&prepared).start())
        })
    }

    fn claim_for(&self, request: &PushRequest, op_id: &str) -> OpClaim<'_> {
        self.op_ids.claim_op(OpId::scoped(request.client_id.as_deref(), op_id))
    }

    /// The answer to a request that is refused whole.
    fn refuse(&self, request: &PushRequest) -> Option<PushResponse> {
        let (given, limit) = (request.changes.len(), self.max_push_changes);
        (given > limit).then(|| {
            let mut response = self.respond(request, Vec::new());
            response
                .errors
                .push(format!("a push may have {limit} changes, not {given}: nothing was applied"));
            response
        })
    }

    /// The answer to a request, with what became of each of its changes.
    fn respond(&self, request: &PushRequest, outcomes: Vec<Outcome>) -> PushResponse {
        let mut response = PushResponse {
            applied: 0,
            deduped: 0,
            errors: Vec::new(),
            cursor: self.cursor().into(),
            results: Vec::with_capacity(outcomes.len()),
        };
        for (change, outcome) in request.changes.iter().zip(outcomes) {
            let (status, seq, error) = match outcome {
                Outcome::Applied(seq) => (OpStatus::Applied, Some(seq), None),
                Outcome::Replayed(seq) => (OpStatus::Replayed, Some(seq).filter(|&seq| seq > 0), None),
                Outcome::Failed(error) => (OpStatus::Error, None, Some(error)),
                Outcome::Pending | Outcome::Planned(_) | Outcome::Repeats(_) => {
                    (OpStatus::Pending, None, None)
                }
            };
            response.applied += usize::from(matches!(status, OpStatus::Applied | OpStatus::Replayed));
            response.deduped += usize::from(status == OpStatus::Replayed);
            let (entity, row_id) = (&change.entity, &change.row_id);
            let named = |error| format!("{entity:.NAME_SHOWN$}/{row_id:.NAME_SHOWN$}: {error}");
            response.errors.extend(error.as_ref().map(named));
            response.results.push(OpResult { op_id: change.op_id.clone(), status, seq, error });
        }
        response
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
    /// To be applied as the so-manieth of a batch.
    Planned(usize),
    /// The op id of another change of the request, which is the so-manieth to be applied.
    Repeats(usize),
}

/// What a batch is going to do.
#[derive(Default)]
struct Plan<'a> {
    /// What is known of each change of the request.
    outcomes: Vec<Outcome>,
    /// The changes to be applied, and with each the claim on its op id.
    changes: Vec<&'a ClientChange>,
    guards: Vec<Option<OpGuard<'a>>>,
    /// An op id is in flight elsewhere.
    is_blocked: bool,
}

impl<'a> Plan<'a> {
    fn take(&mut self, change: &'a ClientChange, guard: Option<OpGuard<'a>>) -> Outcome {
        self.changes.push(change);
        self.guards.push(guard);
        Outcome::Planned(self.changes.len() - 1)
    }

    /// Gives the claims up, and says `outcome` of all changes that were to be applied.
    fn finish(&mut self, outcome: impl Fn(usize) -> Outcome) {
        self.guards.clear();
        for known in &mut self.outcomes {
            if let Outcome::Planned(turn) | Outcome::Repeats(turn) = known {
                *known = outcome(*turn);
            }
        }
    }

    /// Completes the claims with seqs from `first` on.
    fn complete(&mut self, first: u64) {
        for (guard, seq) in self.guards.drain(..).zip(first..) {
            if let Some(guard) = guard {
                guard.complete(seq);
            }
        }
        for known in &mut self.outcomes {
            match *known {
                Outcome::Planned(turn) => *known = Outcome::Applied(first + turn as u64),
                Outcome::Repeats(turn) => *known = Outcome::Replayed(first + turn as u64),
                _ => {}
            }
        }
    }
}

/// The change as it will be appended; an error if it cannot be.
fn to_append(change: &ClientChange) -> Result<Change<'_>, String> {
    let mut prepared = Change::new(change.kind, &change.entity, &change.row_id);
    if let Some(data) = &change.data {
        // Written out already here: nothing may fail once the change is applied.
        prepared = prepared.data(data).map_err(|error| error.to_string())?;
    }
    let data_len = prepared.data.text().map_or(0, str::len);
    let len = prepared.entity.len() + prepared.row_id.len() + data_len;
    if len > MAX_RECORD_LEN {
        return Err(format!("a change may have {MAX_RECORD_LEN} bytes, not {len}"));
    }
    Ok(prepared)
}

/// What `work` returns; if it panics, an error that says so.
fn caught<T>(work: impl FnOnce() -> Result<T, String>) -> Result<T, String> {
    // What `apply` leaves half done is its owner's to mend; the log's own state is never left half done.
    catch_unwind(AssertUnwindSafe(work))
        .unwrap_or_else(|panic| Err(format!("panicked: {}", message(&*panic))))
}

/// What a panic said.
fn message(panic: &(dyn Any + Send)) -> &str {
    if let Some(text) = panic.downcast_ref::<&str>() {
        return text;
    }
    panic.downcast_ref::<String>().map_or("no message", String::as_str)
}
