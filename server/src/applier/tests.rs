//! The applier on a disk that fails on command: at each call of a commit, with each error, once or
//! until it is mended.

use super::*;
use crate::config::Config;
use crate::envelope::Push;
use crate::sequencer::{Sequencer, sequencer};
use crate::share::Pushing;
use crate::store::disk::{DiskReader, Opener, open_with};
use crate::store::{Reader, Snapshot};
use redb::backends::FileBackend;
use redb::{BackendError, ConcurrencyMode, Database, DatabaseError, StorageBackend};
use std::collections::{BTreeMap, VecDeque};
use std::fs::File;
use std::io;
use std::ops::{Bound, ControlFlow};
use std::path::Path;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Call {
    Write,
    SetLen,
    Sync,
}

/// What fails: calls of one kind, from the n-th on, so many of them.
#[derive(Debug, Clone, Copy)]
struct Plan {
    call: Call,
    after: u64,
    times: u64,
    error: io::ErrorKind,
    /// Whether the call is done all the same, as by a sync that fails after its work.
    is_done: bool,
}

#[derive(Debug, Default)]
struct Disk {
    plan: Mutex<Option<Plan>>,
    failed: AtomicU64,
}

impl Disk {
    /// Does a call, or fails it as planned.
    fn call(&self, call: Call, work: impl FnOnce() -> io::Result<()>) -> io::Result<()> {
        let mut plan = self.plan.lock().unwrap();
        let Some(due) = plan.as_mut().filter(|plan| plan.call == call && plan.times > 0) else {
            drop(plan);
            return work();
        };
        if due.after > 0 {
            due.after -= 1;
            drop(plan);
            return work();
        }
        due.times -= 1;
        let (error, is_done) = (due.error, due.is_done);
        drop(plan);
        self.failed.fetch_add(1, Ordering::Relaxed);
        if is_done {
            work()?;
        }
        Err(error.into())
    }

    fn mend(&self) {
        *self.plan.lock().unwrap() = None;
    }
}

#[derive(Debug)]
struct Failing {
    file: FileBackend,
    disk: Arc<Disk>,
}

type Lock = Result<bool, BackendError>;

impl StorageBackend for Failing {
    fn len(&self) -> io::Result<u64> {
        self.file.len()
    }
    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        self.file.read(offset, out)
    }
    fn set_len(&self, len: u64) -> io::Result<()> {
        self.disk.call(Call::SetLen, || self.file.set_len(len))
    }
    fn sync_data(&self) -> io::Result<()> {
        self.disk.call(Call::Sync, || self.file.sync_data())
    }
    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.disk.call(Call::Write, || self.file.write(offset, data))
    }
    fn close(&self) -> io::Result<()> {
        self.file.close()
    }
    fn try_lock_range(&self, start: Bound<u64>, end: Bound<u64>) -> Lock {
        self.file.try_lock_range(start, end)
    }
    fn try_lock_shared_range(&self, start: Bound<u64>, end: Bound<u64>) -> Lock {
        self.file.try_lock_shared_range(start, end)
    }
    fn lock_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<(), BackendError> {
        self.file.lock_range(start, end)
    }
    fn lock_shared_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<(), BackendError> {
        self.file.lock_shared_range(start, end)
    }
    fn unlock_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<(), BackendError> {
        self.file.unlock_range(start, end)
    }
    fn query_lock_range(&self, start: Bound<u64>, end: Bound<u64>) -> Lock {
        self.file.query_lock_range(start, end)
    }
}

fn opener(disk: Arc<Disk>) -> Opener {
    Box::new(move |path: &Path| {
        let file = File::options()
            .read(true)
            .write(true)
            .open(path)
            .map_err(|error| DatabaseError::Storage(redb::StorageError::Io(error)))?;
        let backend = Failing { file: FileBackend::new(file)?, disk: Arc::clone(&disk) };
        Database::builder().set_concurrency_mode(ConcurrencyMode::SingleWriter).create_with_backend(backend)
    })
}

fn request(number: usize) -> Push {
    let body = serde_json::json!({"client_id": "c", "changes": [
        {"entity": "e", "row_id": number.to_string(), "kind": "insert", "op_id": number.to_string(),
         "data": "x".repeat(20_000)},
        {"entity": "e", "row_id": "hot", "kind": "update", "op_id": format!("{number}-hot"), "data": number},
    ]});
    Push::read(body.to_string(), Pushing::new(1 << 20).share(), (2, "--max-changes")).unwrap()
}

/// A server's parts on a disk.
struct Parts {
    log: Arc<ChangeLog>,
    reader: Arc<DiskReader>,
    sequencer: Sequencer,
    applier: JoinHandle<()>,
    failed: CancellationToken,
}

fn parts(folder: &Path, disk: &Arc<Disk>) -> Parts {
    let config = Config::default().with_data(folder).with_store_cache(4);
    let opener = opener(Arc::clone(disk));
    let (store, reader, log) = open_with(&config, ChangeLog::builder().capacity(1000), opener).unwrap();
    let (log, failed) = (Arc::new(log), CancellationToken::new());
    let (sequencer, groups) = sequencer();
    let applier = Applier::new(Arc::clone(&log), Box::new(store), Arc::new(Metrics::new()), groups);
    Parts { log, reader, sequencer, applier: applier.start(failed.clone()).unwrap(), failed }
}

type Rows = BTreeMap<String, (u64, String)>;

fn rows(snapshot: &dyn Snapshot) -> Rows {
    let mut rows = Rows::new();
    let scanned = snapshot.scan(None, &mut |row| {
        rows.insert(row.row_id.to_owned(), (row.seq, row.data.unwrap_or_default().to_owned()));
        ControlFlow::Continue(())
    });
    scanned.expect("no read fails");
    rows
}

fn stored(reader: &DiskReader) -> Rows {
    rows(&*reader.snapshot().expect("no read fails"))
}

fn folded(log: &ChangeLog) -> Rows {
    let mut rows = Rows::new();
    for event in &log.read(0, 1000).unwrap() {
        rows.insert(
            event.row_id().to_owned(),
            (event.seq(), event.data_json().unwrap_or_default().to_owned()),
        );
    }
    rows
}

/// What the fault did to the one push that met it.
#[derive(Debug, PartialEq, Eq)]
enum Met {
    Nothing,
    Refused,
    Unknown,
}

/// Pushes, fails as planned, mends the disk, pushes again until all is applied. Nothing is lost,
/// doubled or left half done, and no read fails at any time.
async fn run(plan: Plan) -> Met {
    let (folder, disk) = (tempfile::tempdir().unwrap(), Arc::new(Disk::default()));
    let Parts { log, reader, sequencer, applier, failed } = parts(folder.path(), &disk);
    for number in 0..3 {
        sequencer.push(request(number)).await.unwrap();
    }
    let early = reader.snapshot().unwrap();
    let before = rows(&*early);
    *disk.plan.lock().unwrap() = Some(plan);
    let (mut met, mut pushed) = (Met::Nothing, 0);
    for number in 3..100 {
        pushed = number + 3;
        match sequencer.push(request(number)).await {
            Ok(_) if disk.failed.load(Ordering::Relaxed) > 0 => break,
            Ok(_) => continue,
            Err(Refused::ReadOnly(_)) => met = Met::Refused,
            Err(Refused::Ended) => met = Met::Unknown,
            Err(refused) => panic!("{plan:?}: {refused:?}"),
        }
        // A push that was refused shows in no read, one whose outcome is unknown not yet.
        assert_eq!(stored(&reader), folded(&log), "{plan:?}");
        break;
    }
    assert!(disk.failed.load(Ordering::Relaxed) > 0, "{plan:?} is never met");
    disk.mend();
    let last = 2 * pushed as u64;
    for number in 0..pushed {
        let mut request = request(number);
        let response = loop {
            match sequencer.push(request).await {
                Ok(response) => break response,
                Err(_) => tokio::time::sleep(Duration::from_millis(50)).await,
            }
            assert!(!failed.is_cancelled(), "{plan:?}: the applier has ended");
            request = self::request(number);
        };
        assert_eq!(response.applied, 2, "{plan:?}: {response:?}");
    }
    assert_eq!((log.last_seq(), folded(&log)), (last, stored(&reader)), "{plan:?}: each was applied once");
    assert_eq!(rows(&*early), before, "{plan:?}: a snapshot from before is what it was");
    let expected = stored(&reader);
    drop((sequencer, early, reader));
    tokio::task::spawn_blocking(move || applier.join().unwrap()).await.unwrap();
    let after = parts(folder.path(), &Arc::new(Disk::default()));
    assert_eq!(
        (after.log.last_seq(), stored(&after.reader)),
        (last, expected.clone()),
        "{plan:?}: it is on disk"
    );
    assert_eq!(folded(&after.log), expected, "{plan:?}: the log goes on");
    drop(after.sequencer);
    tokio::task::spawn_blocking(move || after.applier.join().unwrap()).await.unwrap();
    met
}

/// Runs plans side by side, for each waits a second for its first probe. Answers with what they
/// met.
async fn run_all(plans: Vec<Plan>) -> Vec<Met> {
    let mut met = Vec::new();
    for plans in plans.chunks(16) {
        let running: Vec<_> = plans.iter().map(|plan| tokio::spawn(run(*plan))).collect();
        for one in running {
            met.push(one.await.unwrap());
        }
    }
    met
}

/// One commit has some calls; each of them fails once in its turn, and before it the growth of the
/// file.
#[tokio::test(flavor = "multi_thread")]
async fn a_call_that_fails_once_refuses_a_push_or_does_it() {
    let mut plans = Vec::new();
    for error in [io::ErrorKind::StorageFull, io::ErrorKind::Other] {
        for (call, calls) in [(Call::Write, 24), (Call::Sync, 4), (Call::SetLen, 1)] {
            plans.extend((0..calls).map(|after| Plan { call, after, times: 1, error, is_done: false }));
        }
    }
    // A sync that reports a fault of before, when all is on disk.
    plans.extend((0..4).map(|after| Plan {
        call: Call::Sync,
        after,
        times: 1,
        error: io::ErrorKind::Other,
        is_done: true,
    }));
    let met = run_all(plans).await;
    assert!(
        met.contains(&Met::Refused) && met.contains(&Met::Nothing),
        "undone, and done all the same: {met:?}"
    );
}

/// A disk that stays broken cannot even be looked at: the outcome is unknown until it is mended,
/// and known then.
#[tokio::test(flavor = "multi_thread")]
async fn a_disk_that_stays_broken_leaves_the_outcome_unknown_until_it_is_mended() {
    let mut plans = Vec::new();
    for error in [io::ErrorKind::StorageFull, io::ErrorKind::ReadOnlyFilesystem, io::ErrorKind::Other] {
        for (call, calls) in [(Call::Write, 12), (Call::Sync, 3), (Call::SetLen, 1)] {
            plans.extend((0..calls).map(|after| Plan {
                call,
                after,
                times: u64::MAX,
                error,
                is_done: false,
            }));
        }
    }
    let met = run_all(plans).await;
    assert!(met.contains(&Met::Refused) && met.contains(&Met::Unknown), "{met:?}");
}

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
    StoreError::Io { path: "store".into(), source: io::ErrorKind::StorageFull.into() }
}

/// Pushes that all wait before the applier begins, and what they are answered; the log, and whether
/// the applier failed.
async fn answered(
    store: impl FnOnce(crate::store::memory::MemoryStore) -> Scripted,
    pushes: Vec<Push>,
) -> (Vec<Result<PushResponse, Refused>>, Arc<ChangeLog>, bool) {
    let (memory, _reader, log) =
        crate::store::memory::open(&Config::default(), ChangeLog::builder()).unwrap();
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
    let (memory, _reader, log) =
        crate::store::memory::open(&Config::default(), ChangeLog::builder()).unwrap();
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
    StoreError::Damaged { path: "store".into(), reason: "a test".into() }
}

/// Until a probe succeeds; one that finds the store damaged is the last.
#[tokio::test(flavor = "multi_thread")]
async fn pushes_are_refused_until_a_probe_succeeds() {
    for (probes, is_taken) in [(vec![broken()], true), (vec![broken(), damaged()], false)] {
        let (memory, _reader, log) =
            crate::store::memory::open(&Config::default(), ChangeLog::builder()).unwrap();
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
    let (memory, _reader, log) =
        crate::store::memory::open(&Config::default(), ChangeLog::builder()).unwrap();
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
    let (store, _reader, log) = crate::store::memory::open(&Config::default(), ChangeLog::builder()).unwrap();
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
    let (store, _reader, log) = crate::store::memory::open(&Config::default(), ChangeLog::builder()).unwrap();
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
