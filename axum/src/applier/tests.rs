//! The applier with a store that fails as scripted.

use super::*;
use crate::envelope::Push;
use crate::sequencer::{Sequencer, sequencer};
use crate::share::Pushing;
use crate::store::memory::MemoryStore;
use crate::store::{Reader, Tombstones};
use std::collections::VecDeque;
use std::io;
use std::sync::atomic::{AtomicU64, Ordering};

/// A store whose commits and recoveries fail as planned. Where nothing is planned they work.
struct Scripted {
    store: Box<dyn Store>,
    commits: Arc<AtomicU64>,
    /// What the next commits do.
    plan: VecDeque<Step>,
    /// What the next recoveries return, and the next probes.
    recoveries: VecDeque<StoreError>,
    probes: VecDeque<StoreError>,
}

#[derive(Debug, PartialEq, Eq)]
enum Step {
    Commit,
    Panic,
    /// Nothing is written.
    Refuse,
    /// It is written, and says that it failed.
    Pretend,
}

impl Scripted {
    fn new(store: impl Store + 'static, plan: impl Into<VecDeque<Step>>) -> Self {
        Self {
            store: Box::new(store),
            commits: Arc::default(),
            plan: plan.into(),
            recoveries: VecDeque::new(),
            probes: VecDeque::new(),
        }
    }
}

impl Store for Scripted {
    fn reader(&self) -> Arc<dyn Reader> {
        self.store.reader()
    }

    fn commit(&mut self, first_seq: u64, claims: &[&PushClaim<'_>]) -> Result<(), CommitError> {
        self.commits.fetch_add(1, Ordering::Relaxed);
        let step = self.plan.pop_front().unwrap_or(Step::Commit);
        assert_ne!(step, Step::Panic, "a store that panics");
        if step != Step::Refuse {
            self.store.commit(first_seq, claims)?;
        }
        match step {
            Step::Commit | Step::Panic => Ok(()),
            Step::Refuse => Err(CommitError { nothing_written: true, error: broken() }),
            Step::Pretend => Err(CommitError { nothing_written: false, error: broken() }),
        }
    }

    fn row(&self, entity: &str, row_id: &str) -> Result<ringlog::RowState, StoreError> {
        self.store.row(entity, row_id)
    }

    fn recover(&mut self) -> Result<u64, StoreError> {
        self.recoveries.pop_front().map_or_else(|| self.store.recover(), Err)
    }

    fn probe(&mut self) -> Result<(), StoreError> {
        self.probes.pop_front().map_or_else(|| self.store.probe(), Err)
    }
}

fn broken() -> StoreError {
    StoreError::new(io::Error::from(io::ErrorKind::StorageFull))
}

/// Pushes that all wait before the applier begins, and what they are answered; the log, and whether
/// the applier failed.
async fn answered(
    store: impl FnOnce(MemoryStore) -> Scripted,
    pushes: Vec<Push>,
) -> (Vec<Result<PushResponse, Refused>>, Arc<ChangeLog>, bool) {
    let (memory, log) = MemoryStore::open(ChangeLog::builder(), Tombstones::default()).unwrap();
    let (log, failed) = (Arc::new(log), CancellationToken::new());
    let (sequencer, groups) = sequencer();
    let mut waiting: Vec<_> = pushes.into_iter().map(|push| Box::pin(sequencer.push(push))).collect();
    for push in &mut waiting {
        assert!(futures_util::poll!(push).is_pending());
    }
    let applier = Applier::new(Arc::clone(&log), Box::new(store(memory)), Arc::new(Metrics::new()), groups);
    let applier = applier.start(failed.clone()).unwrap();
    let mut answers = Vec::new();
    for push in waiting {
        answers.push(push.await);
    }
    drop(sequencer);
    let _ = tokio::task::spawn_blocking(move || applier.join()).await.unwrap();
    (answers, log, failed.is_cancelled())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_repetition_in_a_group_that_is_refused_is_answered_all_the_same() {
    let pushes = vec![one("a", "1"), one("a", "1"), one("b", "2")];
    let store = |memory| Scripted::new(memory, [Step::Commit, Step::Refuse]);
    let (answers, log, has_failed) = answered(store, pushes).await;
    let statuses: Vec<_> =
        answers.iter().map(|answer| answer.as_ref().ok().map(|answer| answer.results[0].status)).collect();
    assert_eq!(statuses, [Some(OpStatus::Applied), Some(OpStatus::Replayed), None]);
    assert!(matches!(answers[2], Err(Refused::ReadOnly(_))));
    assert_eq!((log.len(), has_failed), (1, false));
}

/// It does not wait for the store to open again: nothing of the group can be in it.
#[tokio::test(flavor = "multi_thread")]
async fn a_group_of_which_nothing_is_written_is_refused_whether_the_store_opens_or_not() {
    let store = |memory| Scripted { recoveries: [broken()].into(), ..Scripted::new(memory, [Step::Refuse]) };
    let (answers, log, has_failed) = answered(store, vec![one("a", "1")]).await;
    assert!(matches!(answers[0], Err(Refused::ReadOnly(_))), "{answers:?}");
    assert_eq!((log.len(), has_failed), (0, false));
}

/// What is in the store is found at the next start.
#[tokio::test(flavor = "multi_thread")]
async fn a_group_whose_outcome_is_not_known_when_the_server_stops_is_not_appended() {
    let store = |memory| Scripted { recoveries: [broken()].into(), ..Scripted::new(memory, [Step::Pretend]) };
    let (answers, log, has_failed) = answered(store, vec![one("a", "1")]).await;
    assert!(matches!(answers[0], Err(Refused::Ended)), "{answers:?}");
    assert_eq!((log.len(), has_failed), (0, false), "the stop ends the wait");
}

/// The client is told that the outcome is not known; it is known when the store opens again.
#[tokio::test(flavor = "multi_thread")]
async fn a_group_that_is_written_all_the_same_is_appended_when_the_store_opens_again() {
    let (memory, log) = MemoryStore::open(ChangeLog::builder(), Tombstones::default()).unwrap();
    let (log, failed) = (Arc::new(log), CancellationToken::new());
    let (sequencer, groups) = sequencer();
    let store = Scripted { recoveries: [broken()].into(), ..Scripted::new(memory, [Step::Pretend]) };
    let applier = Applier::new(Arc::clone(&log), Box::new(store), Arc::new(Metrics::new()), groups);
    let applier = applier.start(failed).unwrap();
    assert!(matches!(sequencer.push(one("a", "1")).await, Err(Refused::Ended)));
    let first = log.oldest_seq();
    tokio::time::timeout(Duration::from_secs(60), log.wait_for(first)).await.unwrap().unwrap();
    drop(sequencer);
    tokio::task::spawn_blocking(move || applier.join().unwrap()).await.unwrap();
}

fn damaged() -> StoreError {
    StoreError::fatal("a test")
}

/// Until a probe succeeds; one that finds the store damaged is the last.
#[tokio::test(flavor = "multi_thread")]
async fn pushes_are_refused_until_a_probe_succeeds() {
    for (probes, is_taken) in [(vec![broken()], true), (vec![broken(), damaged()], false)] {
        let (memory, log) = MemoryStore::open(ChangeLog::builder(), Tombstones::default()).unwrap();
        let (log, failed) = (Arc::new(log), CancellationToken::new());
        let (sequencer, groups) = sequencer();
        let store = Scripted { probes: probes.into(), ..Scripted::new(memory, [Step::Refuse]) };
        let mut applier = Applier::new(Arc::clone(&log), Box::new(store), Arc::new(Metrics::new()), groups);
        applier.next_probe = Duration::from_millis(20);
        let applier = applier.start(failed.clone()).unwrap();
        let mut answer = sequencer.push(one("a", "1")).await;
        // Refused from the first one on; the applier is waited for, or that it ends.
        while matches!(answer, Err(Refused::ReadOnly(_))) && !failed.is_cancelled() {
            tokio::time::sleep(Duration::from_millis(5)).await;
            answer = sequencer.push(one("a", "1")).await;
        }
        assert_eq!((answer.is_ok(), log.len()), (is_taken, usize::from(is_taken)), "{answer:?}");
        drop(sequencer);
        tokio::task::spawn_blocking(move || applier.join().unwrap()).await.unwrap();
        assert_eq!(failed.is_cancelled(), !is_taken);
    }
}

#[test]
fn each_probe_waits_twice_as_long_as_the_one_before_up_to_a_minute() {
    let (memory, log) = MemoryStore::open(ChangeLog::builder(), Tombstones::default()).unwrap();
    let (sequencer, groups) = sequencer();
    // Nothing can come any more: no pause takes its time.
    drop(sequencer);
    let mut applier = Applier::new(Arc::new(log), Box::new(memory), Arc::new(Metrics::new()), groups);
    let mut waits = Vec::new();
    for _ in 0..8 {
        waits.push(applier.next_probe.as_secs());
        assert!(!applier.pause(&Arc::from("full")));
    }
    assert_eq!(waits, [1, 2, 4, 8, 16, 32, 60, 60]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_that_is_found_damaged_ends_the_applier() {
    let store = |memory| Scripted { recoveries: [damaged()].into(), ..Scripted::new(memory, [Step::Refuse]) };
    let (answers, log, has_failed) = answered(store, vec![one("a", "1")]).await;
    assert!(matches!(answers[0], Err(Refused::Ended)), "{answers:?}");
    assert_eq!((log.len(), has_failed), (0, true));
}

/// A push of one change.
fn one(row_id: &str, op_id: &str) -> Push {
    let change = serde_json::json!({"entity": "e", "row_id": row_id, "kind": "insert", "op_id": op_id});
    let body = serde_json::json!({"client_id": "c", "changes": [change]}).to_string();
    Push::read(body, Pushing::new(1 << 20).share(), (1, "--max-changes")).unwrap()
}

/// The server says that it failed, and serves no more pushes: a half of one may be in the rows.
#[tokio::test]
async fn a_store_that_panics_on_a_pushing_thread_ends_the_applier() {
    let (store, log) = MemoryStore::open(ChangeLog::builder(), Tombstones::default()).unwrap();
    let (log, failed) = (Arc::new(log), CancellationToken::new());
    let store = Scripted::new(store, [Step::Commit, Step::Panic]);
    let commits = Arc::clone(&store.commits);
    let (_, groups) = sequencer();
    let applier = Applier::new(Arc::clone(&log), Box::new(store), Arc::new(Metrics::new()), groups);
    let sequencer = Arc::new(Sequencer::direct(applier.direct(failed.clone())));
    assert_eq!(sequencer.push(one("a", "1")).await.unwrap().applied, 1);
    assert!(!failed.is_cancelled());
    let panicking = tokio::spawn({
        let sequencer = Arc::clone(&sequencer);
        async move { sequencer.push(one("b", "2")).await.map(drop) }
    });
    assert!(panicking.await.unwrap_err().is_panic());
    assert!(failed.is_cancelled());
    assert!(matches!(sequencer.push(one("c", "3")).await, Err(Refused::Ended)));
    assert_eq!((commits.load(Ordering::Relaxed), log.len()), (2, 1));
}

/// The same op id thrice among requests that wait together.
#[tokio::test(flavor = "multi_thread")]
async fn the_order_of_the_log_is_the_order_of_requests_however_they_share_op_ids() {
    let (store, log) = MemoryStore::open(ChangeLog::builder(), Tombstones::default()).unwrap();
    let (base, log, failed) = (log.last_seq(), Arc::new(log), CancellationToken::new());
    let (sequencer, groups) = sequencer();
    let requests = [("a", "1"), ("b", "2"), ("a", "1"), ("c", "3"), ("a", "1"), ("b", "2"), ("d", "4")];
    let mut waiting: Vec<_> =
        requests.iter().map(|(row_id, op_id)| Box::pin(sequencer.push(one(row_id, op_id)))).collect();
    for request in &mut waiting {
        assert!(futures_util::poll!(request).is_pending());
    }
    let store = Scripted::new(store, []);
    let commits = Arc::clone(&store.commits);
    let applier = Applier::new(Arc::clone(&log), Box::new(store), Arc::new(Metrics::new()), groups);
    let applier = applier.start(failed.clone()).unwrap();
    let mut seqs = Vec::new();
    for request in waiting {
        let [result] = &request.await.unwrap().results[..] else { panic!("one result") };
        seqs.push((result.seq.unwrap() - base, result.status));
    }
    let (new, repeated) = (OpStatus::Applied, OpStatus::Replayed);
    let expected = [1, 2, 1, 3, 1, 2, 4];
    let statuses = [new, new, repeated, new, repeated, repeated, new];
    assert_eq!(seqs, expected.into_iter().zip(statuses).collect::<Vec<_>>());
    assert_eq!(commits.load(Ordering::Relaxed), 2, "before the first repetition, and from there on");
    drop(sequencer);
    tokio::task::spawn_blocking(move || applier.join().unwrap()).await.unwrap();
    assert!(!failed.is_cancelled(), "it ended because nothing can come any more");
}
