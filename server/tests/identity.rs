//! A copy of a data folder is another log, wherever it is put, and clients of the old one are told;
//! the folder itself stays the same log, wherever it is moved. Servers are processes of their own
//! here.
#![cfg(unix)]
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use common::process::Process;
use common::{Answer, get, push, todos};
use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;

/// A folder for data folders, and servers on them.
struct Place {
    folder: tempfile::TempDir,
}

impl Place {
    fn new() -> Self {
        Self { folder: tempfile::tempdir().unwrap() }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// A server on a data folder.
    fn server(&self, name: &str, args: &str) -> Process {
        let server = Process::new(&self.path(name), args);
        assert!(server.start(), "{}", server.said());
        server
    }

    /// Runs a command of the system here.
    fn run(&self, command: &str) {
        let status =
            Command::new("sh").args(["-ec", command]).current_dir(self.folder.path()).status().unwrap();
        assert!(status.success(), "{command}");
    }
}

/// As `rsync --archive --inplace --delete copy/ data` does it: into the files that are there, and
/// what the copy has not is removed.
const IN_PLACE: &str =
    "cat copy/ringlog.redb > data/ringlog.redb; rm data/ringlog.seen.*; cp -a copy/ringlog.seen.* data";

async fn token(server: &Process) -> String {
    common::snapshot(&server.url(), 1000).await.unwrap().1
}

fn incarnation(token: &str) -> &str {
    token.split_once('.').unwrap().0
}

async fn resumed(server: &Process, token: &str) -> Answer {
    get(&server.url(), &format!("/api/sync/pull?resume={token}")).await
}

fn assert_other_log(answer: &Answer, what: &str) {
    assert_eq!(
        (answer.status, &answer.body["error"]["reason"]),
        (410, &"other_log".into()),
        "{what}: {}",
        answer.body
    );
}

/// Makes a log of 3 events that is stopped and copied to `copy`, and goes on to 5. Answers with the
/// token of the end.
async fn copied(place: &Place) -> String {
    let server = place.server("data", "");
    push(&server.url(), &todos(0, 3)).await;
    assert!(server.stop());
    place.run("cp -a data copy");
    assert!(server.start());
    push(&server.url(), &todos(10, 2)).await;
    let token = token(&server).await;
    assert!(token.ends_with(".5"), "{token}");
    assert!(server.stop());
    token
}

/// Whichever way a copy is put back, a client of what came after the copy is told, and no page that
/// it has is confirmed.
#[tokio::test]
async fn a_copy_that_is_put_back_is_another_log() {
    for back in [
        "rm -r data; cp -a copy data",
        "rm -r data; mv copy data",
        "rm -r data; mkdir data; tar -C copy -cf - . | tar -C data -xpf -",
        "cp -a copy/. data",
        IN_PLACE,
        "cat copy/ringlog.redb > data/ringlog.redb",
        "cp copy/ringlog.redb data/ringlog.redb",
        "rm data/ringlog.redb; cp -a copy/ringlog.redb data",
        "cp -a copy/ringlog.redb data/x; mv data/x data/ringlog.redb",
    ] {
        let place = Place::new();
        let server = place.server("data", "");
        let pushed = push(&server.url(), &todos(0, 3)).await;
        assert_eq!(pushed.status, 200);
        assert!(server.stop());
        place.run("cp -a data copy");
        assert!(server.start());
        push(&server.url(), &todos(10, 2)).await;
        let token = token(&server).await;
        let etag = get(&server.url(), "/api/sync/pull?since=0").await.header("etag").unwrap().to_owned();
        assert!(server.stop());
        place.run(back);
        assert!(server.start(), "{back}: {}", server.said());
        push(&server.url(), &todos(20, 3)).await;
        assert_other_log(&resumed(&server, &token).await, back);
        let request = reqwest::Client::new().get(format!("{}/api/sync/pull?since=0&limit=5", server.url()));
        let known = Answer::of(request.header("If-None-Match", &etag)).await;
        assert_eq!(known.status, 200, "{back}: the page is not the one that the client has");
        assert!(server.said().contains("another log from here on"), "{back}: {}", server.said());
        // From here on it is a log like any other.
        let after = self::token(&server).await;
        server.kill();
        assert!(server.start());
        push(&server.url(), &todos(30, 1)).await;
        assert_eq!(resumed(&server, &after).await.seqs(), [7], "{back}");
    }
}

/// No stop gave anything another name between the copy and its return.
#[tokio::test]
async fn a_copy_that_was_taken_from_a_running_server_and_put_back_after_a_kill_is_another_log() {
    for back in ["cp -a copy/. data", IN_PLACE, "rm -r data; cp -a copy data"] {
        let place = Place::new();
        let server = place.server("data", "");
        push(&server.url(), &todos(0, 3)).await;
        place.run("cp -a data copy");
        push(&server.url(), &todos(10, 2)).await;
        let token = token(&server).await;
        server.kill();
        place.run(back);
        assert!(server.start(), "{back}: {}", server.said());
        push(&server.url(), &todos(20, 3)).await;
        assert_other_log(&resumed(&server, &token).await, back);
    }
}

#[tokio::test]
async fn a_crash_at_any_step_of_a_start_leaves_the_same_log() {
    for point in ["verified", "begun", "settled"] {
        let place = Place::new();
        let server = place.server("data", "");
        push(&server.url(), &todos(0, 3)).await;
        let token = token(&server).await;
        assert!(server.stop());
        // A store that names no mark of this folder names a new one, in a transaction.
        if point == "settled" {
            place.run("rm data/ringlog.seen.*");
        }
        assert!(!server.start_with(&[("RINGLOG_TEST_CRASH_AT", point)]), "it ends at {point}");
        assert!(server.start());
        push(&server.url(), &todos(3, 1)).await;
        assert_eq!(resumed(&server, &token).await.seqs(), [4], "{point}");
        assert!(!server.said().contains("WARN"), "{point}: {}", server.said());
    }
}

#[tokio::test]
async fn a_copy_that_misses_nothing_may_be_put_into_the_same_file() {
    let place = Place::new();
    let server = place.server("data", "");
    push(&server.url(), &todos(0, 3)).await;
    let token = token(&server).await;
    assert!(server.stop());
    place.run("cp -a data copy; cp copy/ringlog.redb data/ringlog.redb");
    assert!(server.start());
    push(&server.url(), &todos(3, 1)).await;
    assert_eq!(resumed(&server, &token).await.seqs(), [4]);
}

#[tokio::test]
async fn a_folder_or_a_file_that_is_moved_within_a_volume_stays_the_same_log() {
    for moved in [
        "mv data other",
        "mkdir other; mv data/ringlog.redb other",
        "ln data/ringlog.redb x; rm -r data; mkdir other; mv x other/ringlog.redb",
    ] {
        let place = Place::new();
        let server = place.server("data", "");
        push(&server.url(), &todos(0, 3)).await;
        let token = token(&server).await;
        server.kill();
        place.run(moved);
        let server = place.server("other", "");
        push(&server.url(), &todos(3, 1)).await;
        assert_eq!(resumed(&server, &token).await.seqs(), [4], "{moved}");
        assert!(!server.said().contains("WARN"), "{moved}: {}", server.said());
    }
}

#[tokio::test]
async fn servers_on_two_copies_do_not_take_each_others_tokens() {
    let place = Place::new();
    copied(&place).await;
    let (one, two) = (place.server("data", ""), place.server("copy", ""));
    push(&two.url(), &todos(20, 3)).await;
    let (first, second) = (token(&one).await, token(&two).await);
    assert_other_log(&resumed(&one, &second).await, "the copy's token at the original");
    assert_other_log(&resumed(&two, &first).await, "the original's token at the copy");
}

#[tokio::test]
async fn a_moved_folder_is_adopted_as_the_same_log_and_an_old_one_is_not() {
    let place = Place::new();
    let token = copied(&place).await;
    place.run("cp -a data moved");
    let server = place.server("moved", "--adopt");
    push(&server.url(), &todos(20, 1)).await;
    assert_eq!(resumed(&server, &token).await.seqs(), [6]);
    assert!(server.stop());
    // Adopted once, it needs no word any more.
    let server = place.server("moved", "");
    assert_eq!(incarnation(&self::token(&server).await), incarnation(&token));
    assert!(server.stop());
    place.run("cp copy/ringlog.redb moved/ringlog.redb");
    let server = Process::new(&place.path("moved"), "--adopt");
    assert!(!server.start());
    assert!(
        server.said().contains("ends at seq 3, and seq 6 was committed in this folder"),
        "{}",
        server.said()
    );
}

/// Its watermark is the folder's, and says nothing against it: the file alone is another one.
#[tokio::test]
async fn a_store_that_is_copied_within_its_folder_is_adopted_for_good() {
    let place = Place::new();
    let token = copied(&place).await;
    place.run("cp data/ringlog.redb data/new; mv data/new data/ringlog.redb");
    for args in ["--adopt", ""] {
        let server = place.server("data", args);
        assert_eq!(resumed(&server, &token).await.status, 200, "with `{args}`: {}", server.said());
        assert!(server.stop());
    }
}

/// What its watermark says is of a log that is gone.
#[tokio::test]
async fn a_new_store_in_the_folder_of_one_that_was_removed_is_no_old_copy() {
    let place = Place::new();
    copied(&place).await;
    let [data, file] = ["data", "file"].map(|name| place.path(name).display().to_string());
    assert!(command(&["backup", &place.path("copy").display().to_string(), "--to", &file]).0);
    place.run("rm data/ringlog.redb");
    let (is_well, said) = command(&["restore", &file, "--data", &data]);
    assert!(is_well, "{said}");
    let server = place.server("data", "");
    assert!(!server.said().contains("an old copy"), "{}", server.said());
    push(&server.url(), &todos(0, 3)).await;
    assert!(server.stop());
    place.run("rm data/ringlog.redb");
    assert!(server.start());
    assert!(!server.said().contains("an old copy"), "{}", server.said());
}

#[tokio::test]
async fn a_snapshot_of_the_disk_can_be_said_to_be_another_log() {
    let place = Place::new();
    let token = copied(&place).await;
    let server = place.server("data", "--new-incarnation");
    assert_other_log(&resumed(&server, &token).await, "--new-incarnation");
    assert!(server.stop());
}

/// Mints once, wherever it is ended between two steps.
#[tokio::test]
async fn a_crash_while_a_copy_becomes_another_log_leaves_it_another_log() {
    for point in ["verified", "begun", "settled"] {
        let place = Place::new();
        let token = copied(&place).await;
        place.run("cp -a copy/. data");
        let server = Process::new(&place.path("data"), "");
        assert!(!server.start_with(&[("RINGLOG_TEST_CRASH_AT", point)]), "it ends at {point}");
        assert!(server.start());
        push(&server.url(), &todos(20, 3)).await;
        assert_other_log(&resumed(&server, &token).await, point);
    }
}

#[tokio::test]
async fn data_is_for_its_owner_only_and_a_link_that_leads_nowhere_is_no_empty_store() {
    use std::os::unix::fs::PermissionsExt;
    let place = Place::new();
    let server = place.server("data", "");
    let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(&place.path("data")), 0o700);
    for entry in fs::read_dir(place.path("data")).unwrap() {
        let path = entry.unwrap().path();
        assert_eq!(mode(&path), 0o600, "{}", path.display());
    }
    assert!(server.stop());
    place.run("mv data/ringlog.redb elsewhere; ln -s ../elsewhere data/ringlog.redb");
    assert!(server.start(), "a link to the store is the store: {}", server.said());
    assert!(server.stop());
    place.run("mv elsewhere unmounted");
    assert!(!server.start());
    assert!(server.said().contains("ringlog.redb: a symbolic link to ../elsewhere"), "{}", server.said());
    assert!(fs::symlink_metadata(place.path("data/ringlog.redb")).unwrap().is_symlink(), "it was left alone");
}

fn command(args: &[&str]) -> (bool, String) {
    let output = Command::new(env!("CARGO_BIN_EXE_ringlog-server")).args(args).output().unwrap();
    (
        output.status.success(),
        format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr)),
    )
}

/// While clients push, backups are taken from the folder and over HTTP; each is one moment of the
/// log.
#[tokio::test(flavor = "multi_thread")]
async fn a_backup_of_a_running_server_is_one_moment_and_is_restored_as_another_log() {
    let place = Place::new();
    let server = place.server("data", "");
    push(&server.url(), &todos(0, 3)).await;
    let url = server.url();
    let pushing = tokio::spawn(async move {
        for turn in 0..200 {
            assert_eq!(push(&url, &todos(turn * 5, 5)).await.status, 200, "pushes go on");
        }
    });
    let data = place.path("data").display().to_string();
    for (number, from) in [&data, &server.url(), &data, &server.url()].into_iter().enumerate() {
        let file = place.path(&format!("{number}.backup")).display().to_string();
        let (from, to) = (from.clone(), file.clone());
        let (is_well, said) =
            tokio::task::spawn_blocking(move || command(&["backup", &from, "--to", &to])).await.unwrap();
        assert!(is_well, "{said}");
        let restored = format!("restored-{number}");
        let (is_well, said) =
            command(&["restore", &file, "--data", &place.path(&restored).display().to_string()]);
        assert!(is_well, "{said}");
        let copy = place.server(&restored, "");
        let (rows, token) = common::snapshot(&copy.url(), 1000).await.unwrap();
        let mut folded = common::Rows::new();
        for change in common::clients::pull_all(&copy.url(), 0).await {
            common::fold(&mut folded, &change);
        }
        assert_eq!(rows, folded, "rows and events are of one moment");
        assert_other_log(&resumed(&server, &token).await, "the restored store's token at the original");
        assert_other_log(&resumed(&copy, &self::token(&server).await).await, "and the other way round");
        let (is_well, said) =
            command(&["restore", &file, "--data", &place.path(&restored).display().to_string()]);
        assert!(!is_well && said.contains("in use by another server"), "{said}");
        assert!(copy.stop());
        let (is_well, said) =
            command(&["restore", &file, "--data", &place.path(&restored).display().to_string()]);
        assert!(!is_well && said.contains("is there already"), "{said}");
        let (is_well, said) = command(&["backup", &data, "--to", &file]);
        assert!(!is_well && said.contains("is there already"), "{said}");
    }
    pushing.await.unwrap();
    // Of a server that was killed, too.
    server.kill();
    let file = place.path("killed.backup").display().to_string();
    let (is_well, said) = command(&["backup", &data, "--to", &file]);
    assert!(is_well && said.contains("up to seq 1003"), "{said}");
    assert!(server.start(), "{}", server.said());
}

#[tokio::test]
async fn a_torn_or_damaged_backup_is_refused_and_leaves_nothing() {
    let place = Place::new();
    let server = place.server("data", "");
    push(&server.url(), &todos(0, 300)).await;
    let (data, file) = (place.path("data").display().to_string(), place.path("whole").display().to_string());
    assert!(command(&["backup", &data, "--to", &file]).0);
    let whole = fs::read(&file).unwrap();
    let mut broken: Vec<Vec<u8>> =
        [0, 1, 10, whole.len() / 2, whole.len() - 1].map(|cut| whole[..cut].to_vec()).into();
    broken.push([&whole[..], &whole[..]].concat());
    broken.extend((0..20).map(|n| {
        let mut damaged = whole.clone();
        let at = whole.len() * n / 20;
        damaged[at] ^= 0x10;
        damaged
    }));
    let torn = place.path("torn").display().to_string();
    let target = place.path("restored");
    for (number, bytes) in broken.iter().enumerate() {
        fs::write(&torn, bytes).unwrap();
        let (is_well, said) = command(&["restore", &torn, "--data", &target.display().to_string()]);
        // A header's time and name are of no importance.
        if is_well && number > 5 && number < 8 {
            fs::remove_dir_all(&target).unwrap();
            continue;
        }
        assert!(!is_well && said.contains("torn is no whole backup"), "{number}: {said}");
        assert!(
            !target.join("ringlog.redb").exists() && !target.join("ringlog.redb.restoring").exists(),
            "{number}"
        );
        assert!(!command(&["verify-backup", &torn]).0);
    }
    let (is_well, said) = command(&["backup", &data, "--to", "/dev/full/x"]);
    assert!(!is_well && said.contains("/dev/full"), "{said}");
    let (is_well, said) =
        command(&["backup", &server.url().replace("http", "https"), "--to", &torn.replace("torn", "t")]);
    assert!(!is_well && said.contains("verify-backup"), "{said}");
}

/// Whole as a stream of gzip, and not what a server writes.
#[test]
fn a_backup_whose_lines_disagree_is_refused_with_the_line() {
    const BEGIN: &str =
        r#"{"backup":{"format":2,"incarnation":"0000000000000000","last_seq":3,"oldest_compacted_seq":1}}"#;
    const ROW: &str = r#"{"row":["Todo","t1",3,"1"]}"#;
    const LATEST: &str = r#"{"latest":[1,0,2,"Todo","t0"]}"#;
    const EVENTS: [&str; 2] =
        [r#"{"event":[2,0,0,"Todo","t1","1"]}"#, r#"{"event":[3,0,1,"Todo","t1","1"]}"#];
    const OP_ID: &str = r#"{"op_id":[3,null,"op",null]}"#;
    const END: &str = r#"{"end":{"last_seq":3,"rows":1,"events":2,"op_ids":1,"latest":1}}"#;
    let [first, second] = EVENTS;
    let place = Place::new();
    let file = place.path("backup");
    let verify = |lines: &[&str]| {
        let mut out =
            flate2::write::GzEncoder::new(fs::File::create(&file).unwrap(), flate2::Compression::fast());
        for line in lines {
            writeln!(out, "{line}").unwrap();
        }
        out.finish().unwrap();
        command(&["verify-backup", file.to_str().unwrap()])
    };
    let (is_well, said) = verify(&[BEGIN, ROW, first, second, OP_ID, LATEST, END]);
    assert!(is_well, "{said}");
    // As servers wrote them that kept no history.
    let earlier = BEGIN.replace("\"format\":2", "\"format\":1").replace(",\"oldest_compacted_seq\":1", "");
    let (is_well, said) = verify(&[&earlier, ROW, first, second, OP_ID, &END.replace(",\"latest\":1", "")]);
    assert!(is_well, "{said}");
    let later = BEGIN.replace("\"format\":2", "\"format\":3");
    let fewer = END.replace("\"rows\":1", "\"rows\":2");
    let one_event = END.replace("\"events\":2", "\"events\":1");
    let refused: [(&[&str], &str); 11] = [
        (
            &[&later, ROW, first, second, OP_ID, END],
            "line 1: a backup of format 3, and this server reads formats 1 and 2",
        ),
        (&[ROW, BEGIN, first, second, OP_ID, END], "line 1: a backup begins with one line that says so"),
        (&[BEGIN, ROW, first, second, OP_ID, LATEST, &fewer], "line 7: it says"),
        (&[BEGIN, ROW, first, second, OP_ID, END], "line 6: it says"),
        (&[BEGIN, ROW, first, OP_ID, LATEST, &one_event], "line 6: the last events are missing"),
        (&[BEGIN, ROW, second, first, OP_ID, END], "line 4: events are missing before it"),
        (&[BEGIN, &ROW.replace(",3,", ",4,"), first, second, OP_ID, END], "line 2: seq 4 is none of 1 to 3"),
        (&[BEGIN, ROW, first, second, &OP_ID.replace('3', "0"), END], "line 5: seq 0 is none of 1 to 3"),
        (&[BEGIN, ROW, &first.replace("\"1\"", "\"{\""), second, OP_ID, END], "line 3: data that is no JSON"),
        (
            &[BEGIN, ROW, first, second, OP_ID, &LATEST.replace(",0,2,", ",0,3,"), END],
            "line 6: a change of an unknown kind",
        ),
        (
            &[BEGIN, ROW, first, &second.replace(",0,1,", ",0,3,"), OP_ID, END],
            "line 4: an event of an unknown kind",
        ),
    ];
    for (lines, reason) in refused {
        let (is_well, said) = verify(lines);
        assert!(!is_well && said.contains(reason), "{reason}: {said}");
    }
    let (is_well, said) = verify(&[BEGIN, ROW, first, second, OP_ID, LATEST, END, ROW]);
    assert!(!is_well && said.contains("line 8: it follows the last one"), "{said}");
}

#[tokio::test]
async fn a_backup_wants_the_write_token() {
    let place = Place::new();
    let tokens = "--read-token read-read-read-read --write-token write-write-write";
    let server = place.server("data", tokens);
    let file = place.path("file").display().to_string();
    for token in ["read-read-read-read", "wrong-wrong-wrong-wrong"] {
        let (is_well, said) = command(&["backup", &server.url(), "--to", &file, "--write-token", token]);
        assert!(!is_well && (said.contains("401") || said.contains("403")), "{said}");
        assert!(!Path::new(&file).exists());
    }
    let (is_well, said) =
        command(&["backup", &server.url(), "--to", &file, "--write-token", "write-write-write"]);
    assert!(is_well, "{said}");
}

/// Data in another folder, by a shell with limits of its own.
fn limited(limit: &str, args: &[&str]) -> (bool, String) {
    let output = Command::new("sh")
        .args(["-c", &format!("{limit}; exec \"$0\" \"$@\""), env!("CARGO_BIN_EXE_ringlog-server")])
        .args(args)
        .output()
        .unwrap();
    (output.status.success(), String::from_utf8_lossy(&output.stderr).into_owned())
}

fn mode(path: &Path) -> u32 {
    use std::os::unix::fs::PermissionsExt;
    fs::metadata(path).unwrap().permissions().mode() & 0o777
}

#[tokio::test]
async fn a_backup_and_a_restored_folder_are_for_their_owner_only_whatever_the_umask() {
    let place = Place::new();
    let server = place.server("data", "");
    push(&server.url(), &todos(0, 3)).await;
    let paths = ["data", "file", "restored"].map(|name| place.path(name));
    let [data, file, restored] = paths.each_ref().map(|path| path.to_str().unwrap());
    // Left by a backup that was killed, for all to read.
    fs::write(place.path("file.partial"), "half").unwrap();
    for args in [["backup", data, "--to", file], ["restore", file, "--data", restored]] {
        let (is_well, said) = limited("umask 0", &args);
        assert!(is_well, "{said}");
    }
    assert_eq!(mode(&paths[1]), 0o600);
    assert!(!place.path("file.partial").exists());
    assert_eq!(mode(&paths[2]), 0o700);
    for entry in fs::read_dir(&paths[2]).unwrap() {
        let path = entry.unwrap().path();
        assert_eq!(mode(&path), 0o600, "{}", path.display());
    }
}

#[tokio::test]
async fn two_backups_do_not_write_to_one_file_and_a_link_is_not_followed() {
    let place = Place::new();
    let server = place.server("data", "");
    push(&server.url(), &todos(0, 3)).await;
    let [data, file] = ["data", "file"].map(|name| place.path(name).display().to_string());
    let partial = place.path("file.partial");
    let other = fs::File::create_new(&partial).unwrap();
    other.lock().unwrap();
    fs::write(&partial, "another backup writes").unwrap();
    let (is_well, said) = command(&["backup", &data, "--to", &file]);
    assert!(!is_well && said.contains("file.partial: another backup is being written there"), "{said}");
    assert_eq!(fs::read_to_string(&partial).unwrap(), "another backup writes");
    drop(other);
    fs::rename(&partial, place.path("victim")).unwrap();
    std::os::unix::fs::symlink(place.path("victim"), &partial).unwrap();
    let (is_well, said) = command(&["backup", &data, "--to", &file]);
    assert!(!is_well && said.contains("file.partial"), "{said}");
    assert_eq!(fs::read_to_string(place.path("victim")).unwrap(), "another backup writes");
    fs::remove_file(&partial).unwrap();
    // Really at once: one of them at least is done, and what is there is whole.
    let begun: Vec<_> = (0..8)
        .map(|_| {
            Command::new(env!("CARGO_BIN_EXE_ringlog-server"))
                .args(["backup", &data, "--to", &file])
                .stderr(std::process::Stdio::null())
                .stdout(std::process::Stdio::null())
                .spawn()
                .unwrap()
        })
        .collect();
    let done =
        begun.into_iter().map(|mut backup| backup.wait().unwrap().success()).filter(|done| *done).count();
    assert_eq!(done, 1, "the others find the name taken, or the file in use");
    assert!(command(&["verify-backup", &file]).0);
    assert!(!partial.exists());
}

#[tokio::test]
async fn a_backup_or_a_restore_beyond_the_limit_of_a_files_size_says_so_and_leaves_nothing() {
    let place = Place::new();
    let server = place.server("data", "");
    let mut random = 1_u64;
    for turn in 0..20 {
        let mut request = todos(turn * 100, 100);
        for change in request["changes"].as_array_mut().unwrap() {
            random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            change["data"] = format!("{random:064b}").into();
        }
        push(&server.url(), &request).await;
    }
    let [data, file, restored] =
        ["data", "file", "restored"].map(|name| place.path(name).display().to_string());
    for from in [&data, &server.url()] {
        let (is_well, said) = limited("ulimit -f 10", &["backup", from, "--to", &file]);
        assert!(!is_well && said.contains("file.partial: File too large"), "{from}: {said}");
        assert!(!place.path("file").exists() && !place.path("file.partial").exists());
    }
    assert!(command(&["backup", &data, "--to", &file]).0);
    let (is_well, said) = limited("ulimit -f 100", &["restore", &file, "--data", &restored]);
    assert!(!is_well && said.contains("ringlog.redb.restoring: File too large"), "{said}");
    let left: Vec<_> = fs::read_dir(&restored).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(left, ["ringlog.lock"]);
    assert!(command(&["restore", &file, "--data", &restored]).0, "with room it is done");
}

/// What is committed to a file without a name would be lost at the stop, in silence.
#[tokio::test]
async fn a_store_that_is_removed_or_replaced_while_it_is_used_takes_no_pushes_and_can_be_backed_up() {
    for removed in [
        "rm data/ringlog.redb",
        "rm -r data",
        "cp -a data/ringlog.redb x; mv x data/ringlog.redb",
        "mv data/ringlog.redb x; cp -a x data/ringlog.redb",
    ] {
        let place = Place::new();
        let server = place.server("data", "");
        push(&server.url(), &todos(0, 3)).await;
        place.run(removed);
        for _ in 0..2 {
            let refused = push(&server.url(), &todos(3, 1)).await;
            let (code, said) = refused.error();
            assert_eq!((refused.status, code), (503, "STORE_FULL"), "{removed}");
            assert!(said.contains("was removed or replaced"), "{removed}: {said}");
        }
        let (rows, _) = common::snapshot(&server.url(), 1000).await.unwrap();
        assert_eq!(rows.len(), 3, "{removed}: reads go on");
        let [file, restored] = ["file", "restored"].map(|name| place.path(name).display().to_string());
        let url = server.url();
        let (is_well, said) =
            tokio::task::spawn_blocking(move || command(&["backup", &url, "--to", &file])).await.unwrap();
        assert!(is_well, "{removed}: {said}");
        assert!(server.stop());
        let file = place.path("file").display().to_string();
        assert!(command(&["restore", &file, "--data", &restored]).0);
        let server = place.server("restored", "");
        assert_eq!(common::snapshot(&server.url(), 1000).await.unwrap().0, rows, "{removed}");
    }
}

#[tokio::test]
async fn a_store_that_is_put_back_in_time_takes_pushes_again() {
    let place = Place::new();
    let server = place.server("data", "");
    push(&server.url(), &todos(0, 3)).await;
    let token = token(&server).await;
    place.run("mv data/ringlog.redb x; cp -a x data/ringlog.redb");
    assert_eq!(push(&server.url(), &todos(3, 1)).await.status, 503);
    place.run("mv x data/ringlog.redb");
    let pushed = async {
        while push(&server.url(), &todos(3, 1)).await.status != 200 {
            tokio::time::sleep(std::time::Duration::from_millis(50)).await;
        }
    };
    tokio::time::timeout(common::HANG, pushed).await.expect("it recovers by itself");
    assert_eq!(resumed(&server, &token).await.seqs(), [4]);
    // A folder that is renamed under a server is found again where it was put.
    place.run("mv data other");
    assert_eq!(push(&server.url(), &todos(4, 1)).await.status, 200);
    assert!(server.stop());
    let server = place.server("other", "");
    assert_eq!(resumed(&server, &token).await.seqs(), [4, 5]);
}

#[tokio::test]
async fn a_folder_without_a_store_is_not_adopted() {
    let place = Place::new();
    let server = Process::new(&place.path("mistyped"), "--adopt");
    assert!(!server.start());
    assert!(server.said().contains("ringlog.redb: there is no store"), "{}", server.said());
    assert!(!place.path("mistyped").exists(), "nothing is made");
}

#[tokio::test]
async fn folders_above_a_data_folder_are_made_and_a_file_in_its_place_is_named() {
    let place = Place::new();
    let server = Process::new(&place.path("a.file"), "");
    fs::write(place.path("a.file"), "").unwrap();
    assert!(!server.start());
    assert!(server.said().contains("a.file: File exists"), "{}", server.said());
    let adopting = Process::new(&place.path("a.file"), "--adopt");
    assert!(!adopting.start());
    assert!(adopting.said().contains("ringlog.redb: Not a directory"), "{}", adopting.said());
    let server = place.server("data", "");
    assert!(server.stop());
    let [data, file, nested] =
        ["data", "file", "not/there/yet"].map(|name| place.path(name).display().to_string());
    assert!(command(&["backup", &data, "--to", &file]).0);
    let (is_well, said) = command(&["restore", &file, "--data", &nested]);
    assert!(is_well, "{said}");
}

/// As cron runs it: by `sh`, with a path that has nothing of ours, `\%` being a `%`.
#[tokio::test]
async fn the_line_for_cron_in_readme_and_help_makes_a_backup_and_deletes_old_ones() {
    let readme = fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/README.md")).unwrap();
    let line = readme.lines().find(|line| line.starts_with("17 3 * * *")).unwrap();
    let (is_well, help) = command(&["backup", "--help"]);
    assert!(is_well && help.lines().any(|said| said.trim() == line), "{help}");
    let place = Place::new();
    let server = place.server("data", "");
    push(&server.url(), &todos(0, 3)).await;
    place.run("mkdir backup; cd backup; touch -d '20 days ago' ringlog-2020-01-01.backup ringlog-2020-01-01.backup.partial other");
    let line = line
        .trim_start_matches("17 3 * * *")
        .replace(r"\%", "%")
        .replace("/usr/local/bin/ringlog-server", env!("CARGO_BIN_EXE_ringlog-server"))
        .replace("/var/lib/ringlog", place.path("data").to_str().unwrap())
        .replace("/backup", place.path("backup").to_str().unwrap());
    let mut cron = Command::new("sh");
    cron.args(["-c", &line]).env_clear().env("PATH", "/usr/bin:/bin").current_dir("/");
    assert!(cron.status().unwrap().success(), "{line}");
    let mut left: Vec<_> =
        fs::read_dir(place.path("backup")).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    left.sort();
    assert_eq!(left.len(), 2, "{left:?}");
    assert_eq!(left[0], "other");
    assert!(command(&["verify-backup", place.path("backup").join(&left[1]).to_str().unwrap()]).0);
}

/// A service manager starts the server again and again, whatever was going on.
#[tokio::test]
async fn a_restore_that_was_killed_does_not_become_an_empty_log_and_can_be_repeated() {
    let place = Place::new();
    let server = place.server("data", "");
    push(&server.url(), &todos(0, 3)).await;
    let [data, file, restored] =
        ["data", "file", "restored"].map(|name| place.path(name).display().to_string());
    assert!(command(&["backup", &data, "--to", &file]).0);
    place.run("mkdir restored; mkfifo slow");
    let slow = place.path("slow").display().to_string();
    let mut killed = Command::new(env!("CARGO_BIN_EXE_ringlog-server"))
        .args(["restore", &slow, "--data", &restored])
        .spawn()
        .unwrap();
    // It is open for reading once this returns, and waits for more.
    let writer = fs::File::options().write(true).open(&slow).unwrap();
    let left = place.path("restored/ringlog.redb.restoring");
    assert!(left.exists());
    killed.kill().unwrap();
    killed.wait().unwrap();
    drop(writer);
    let server = Process::new(&place.path("restored"), "");
    assert!(!server.start());
    assert!(server.said().contains("ringlog.redb.restoring is left of a restore"), "{}", server.said());
    let (is_well, said) = command(&["restore", &file, "--data", &restored]);
    assert!(is_well && !left.exists(), "{said}");
    assert!(server.start(), "{}", server.said());
    assert_eq!(common::snapshot(&server.url(), 10).await.unwrap().0.len(), 3);
}

#[tokio::test]
async fn a_store_that_other_users_can_read_is_warned_of() {
    let place = Place::new();
    let server = place.server("data", "");
    assert!(server.stop());
    assert!(!server.said().contains("WARN"), "{}", server.said());
    place.run("chmod 644 data/ringlog.redb");
    assert!(server.start());
    assert!(
        server.said().contains("other users may have access to the store: chmod 600"),
        "{}",
        server.said()
    );
}
