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
use std::fmt::{self, Display};
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
        let claim = match self.claim_push(request) {
            Ok(claim) if claim.changes().is_empty() => return claim.publish(),
            Ok(claim) => claim,
            Err(response) => return response,
        };
        match caught(|| apply(claim.client_changes()).map_err(|error| error.to_string())) {
            Ok(()) => claim.publish(),
            Err(error) => claim.fail(error),
        }
    }

    /// The first half of a [`push_batch`](Self::push_batch), for who applies several requests in one transaction: claims the
    /// request's op ids, and lays out what is to be appended.
    ///
    /// Nobody else can apply these operations while the claim lives. Apply [`changes`](PushClaim::changes), then
    /// [`publish`](PushClaim::publish), or give up with [`fail`](PushClaim::fail) or by dropping the claim. Claims can
    /// be held side by side, also those of different requests:
    ///
    /// 1. claim each request that waits, begin a transaction, write the changes of all claims, commit;
    /// 2. publish the claims, in the order in which they were written;
    /// 3. send the responses.
    ///
    /// If nobody else appends meanwhile, the seqs are known before the commit: they go on from
    /// [`last_seq`](Self::last_seq), claim by claim, and can be written along with the changes.
    ///
    /// # Errors
    /// The response for a request of which nothing can be applied now: it has too many changes, one that is too long, or an
    /// op id that is in flight, be it in another claim of the same thread. In the last case, to be told by a
    /// [`Pending`](OpStatus::Pending) result, the request can be claimed once those claims are gone. Nothing is claimed.
    ///
    /// # Complexity
    /// For each change, that of [`claim_op_id`](Self::claim_op_id), and the writing of its data as text.
    ///
    /// # Examples
    ///
    /// ```
    /// use ringlog::{ChangeLog, PushRequest};
    ///
    /// let log = ChangeLog::new();
    /// let requests: Vec<PushRequest> = ["a", "b"].iter().map(|client| serde_json::from_value(serde_json::json!({
    ///     "client_id": client,
    ///     "changes": [{"entity": "Todo", "row_id": client, "kind": "insert", "op_id": "1"}],
    /// }))).collect::<Result<_, _>>()?;
    ///
    /// let claims: Vec<_> = requests.iter().filter_map(|request| log.claim_push(request).ok()).collect();
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
    pub fn claim_push<'a>(&'a self, request: &'a PushRequest) -> Result<PushClaim<'a>, PushResponse> {
        if let Some(refusal) = self.refuse(request) {
            return Err(refusal);
        }
        let mut plan = self.plan(request);
        if plan.is_blocked {
            plan.finish(|_| Outcome::Pending);
            return Err(self.respond(request, plan.outcomes));
        }
        let lay_out = || plan.changes.iter().map(|change| to_append(change)).collect::<Result<Vec<_>, _>>();
        // The clock may be the user's own.
        match lay_out().and_then(|changes| Ok((changes, caught(|| Ok(self.now()))?))) {
            Ok((changes, timestamp)) => Ok(PushClaim { log: self, request, plan, changes, timestamp }),
            Err(error) => {
                plan.finish(|_| Outcome::Failed(error.clone()));
                Err(self.respond(request, plan.outcomes))
            }
        }
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

/// A request whose op ids are claimed and whose changes are to be applied: see [`ChangeLog::claim_push`].
///
/// While it lives, every other claim on its op ids is told that they are in flight. Dropped, be it by an early return or while
/// a panic unwinds, it frees them: nothing was applied.
#[must_use = "a claim that is dropped gives the push up"]
pub struct PushClaim<'a> {
    log: &'a ChangeLog,
    request: &'a PushRequest,
    plan: Plan<'a>,
    /// What is to be appended, in the order of `plan.changes`.
    changes: Vec<Change<'a>>,
    timestamp: u64,
}

impl<'a> PushClaim<'a> {
    /// What is to be applied, and will be appended as it stands here: in the order of the request, without those changes that
    /// were applied before. It may be nothing; then the claim is published with nothing to apply.
    pub fn changes(&self) -> &[Change<'a>] {
        &self.changes
    }

    /// The same changes, as the client sent them, with their op ids.
    pub fn client_changes(&self) -> &[&'a ClientChange] {
        &self.plan.changes
    }

    /// The request that is claimed.
    pub fn request(&self) -> &'a PushRequest {
        self.request
    }

    /// The timestamp that the events will have, in milliseconds since 1970.
    pub fn timestamp_millis(&self) -> u64 {
        self.timestamp
    }

    /// Appends the changes as one batch and completes their op ids. To be called when they are applied for good.
    ///
    /// # Complexity
    /// That of [`append_batch`](ChangeLog::append_batch), and of [`complete`](OpGuard::complete) for each op id.
    pub fn publish(mut self) -> PushResponse {
        if !self.changes.is_empty() {
            let first = *self.log.append_batch_at(&self.changes, self.timestamp).start();
            self.plan.complete(first);
        }
        self.log.respond(self.request, self.plan.outcomes)
    }

    /// Gives the push up: nothing is appended, the op ids are free again, and each of these changes has the error as its
    /// result. What was applied must have been undone.
    pub fn fail(mut self, error: impl Display) -> PushResponse {
        let error = error.to_string();
        self.plan.finish(|_| Outcome::Failed(error.clone()));
        self.log.respond(self.request, self.plan.outcomes)
    }
}

impl fmt::Debug for PushClaim<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { changes, timestamp, .. } = self;
        f.debug_struct("PushClaim")
            .field("changes", changes)
            .field("timestamp", timestamp)
            .finish_non_exhaustive()
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
