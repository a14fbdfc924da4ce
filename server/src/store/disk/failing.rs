//! The applier on a disk that fails on command: at each call of a commit, with each error, once or
//! until it is mended.

use super::{DiskReader, Opener, open_with};
use crate::config::Config;
use crate::store::{Reader, Snapshot};
use redb::backends::FileBackend;
use redb::{BackendError, ConcurrencyMode, Database, DatabaseError, StorageBackend};
use ringlog::ChangeLog;
use ringlog_axum::applier::Applier;
use ringlog_axum::envelope::Push;
use ringlog_axum::metrics::Metrics;
use ringlog_axum::sequencer::{Refused, Sequencer, sequencer};
use ringlog_axum::share::Pushing;
use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::ops::{Bound, ControlFlow};
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;
use tokio_util::sync::CancellationToken;

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
