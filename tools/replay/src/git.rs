//! Push requests from the history of a git repository.
//!
//! Each commit on the first-parent line of `HEAD` is one request, each file it touched one change:
//! the entity is the top-level directory (`(root)` for files beside it), the row is the path, the
//! data is what git records of the file. A merge counts as what it brought to its first parent.
//!
//! With `-z` git writes paths as they are, ended by NUL, so no name needs unquoting.

#![forbid(unsafe_code)]

use ringlog::{ChangeKind, ClientChange, PushRequest};
use ringlog_replay::Result;
use ringlog_replay::input::Input;
use serde_json::json;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::Path;
use std::process::{Command, Output};

/// Starts the line that introduces a commit. A file's line starts with a colon, so they cannot be
/// confused.
const COMMIT: &str = "commit ";

/// Reads the history of the repository at `directory`.
pub(crate) fn read(directory: &Path) -> Result<Input> {
    let source = format!("history of {}", directory.display());
    let output = log(directory).map_err(|e| format!("cannot run git: {e}"))?;
    if !output.status.success() {
        let message = String::from_utf8_lossy(&output.stderr);
        return Err(format!("{source}: {}", message.trim_end()).into());
    }
    let input = parse(&source, &output.stdout)?;
    if input.requests.is_empty() {
        return Err(format!("{source}: no file was ever changed, nothing to replay").into());
    }
    Ok(input)
}

fn log(directory: &Path) -> std::io::Result<Output> {
    let mut git = Command::new("git");
    // The directory was asked for by name: a repository named by the environment must not win over
    // it.
    git.env_remove("GIT_DIR").env_remove("GIT_WORK_TREE").env_remove("GIT_COMMON_DIR");
    git.arg("-C").arg(directory);
    // Settings of the user's that would change what is printed.
    git.args(["-c", "log.showRoot=true", "-c", "log.diffMerges=separate", "-c", "log.showSignature=false"]);
    git.args(["log", "--first-parent", "-m", "--raw", "--no-renames", "--no-relative", "--reverse", "-z"]);
    git.args(["--no-color", "--abbrev=12", "--format=commit %H %ct %ae", "HEAD"]);
    git.output()
}

/// Parses what `git log --raw -z` prints: fields ended by NUL, a commit's first file after a
/// newline.
fn parse(source: &str, output: &[u8]) -> Result<Input> {
    let mut input = Input::new(source);
    let mut commit: Option<Commit> = None;
    let mut fields = output.split(|&byte| byte == 0);
    while let Some(field) = fields.next() {
        let field = String::from_utf8_lossy(field.strip_prefix(b"\n").unwrap_or(field));
        if let Some(header) = field.strip_prefix(COMMIT) {
            let next = Commit::parse(header).ok_or_else(|| unexpected(source, &field))?;
            if let Some(done) = commit.replace(next) {
                input.add(done.request)?;
            }
        } else if field.starts_with(':') {
            let path = fields.next().filter(|path| !path.is_empty());
            let change = path.zip(commit.as_mut()).and_then(|(path, commit)| commit.touch(&field, path));
            change.ok_or_else(|| unexpected(source, &field))?;
        } else if !field.is_empty() {
            return Err(unexpected(source, &field).into());
        }
    }
    if let Some(done) = commit {
        input.add(done.request)?;
    }
    Ok(input)
}

fn unexpected(source: &str, field: &str) -> String {
    format!("{source}: git printed what it should not: {field:?}")
}

/// A commit whose files are being read.
struct Commit {
    id: String,
    time: u64,
    request: PushRequest,
}

impl Commit {
    /// Parses `<id> <seconds> <author's address>`.
    fn parse(header: &str) -> Option<Self> {
        let (id, rest) = header.split_once(' ')?;
        let (time, author) = rest.split_once(' ')?;
        // One client per author, without spreading addresses.
        let mut hasher = DefaultHasher::new();
        author.hash(&mut hasher);
        let client = format!("c_{:012x}", hasher.finish() >> 16);
        let request = PushRequest { client_id: Some(client), changes: Vec::new() };
        Some(Self { id: id.get(..12)?.to_owned(), time: time.parse().ok()?, request })
    }

    /// Adds a file: `:<old mode> <new mode> <old blob> <new blob> <letter>`, and its path.
    fn touch(&mut self, line: &str, path: &[u8]) -> Option<()> {
        let mut words = line.strip_prefix(':')?.split(' ');
        let (_, mode, _, blob) = (words.next()?, words.next()?, words.next()?, words.next()?);
        let kind = match words.next()? {
            "A" => ChangeKind::Insert,
            "D" => ChangeKind::Delete,
            "M" | "T" => ChangeKind::Update,
            _ => return None,
        };
        let data = json!({ "blob": blob, "mode": mode, "commit": self.id, "time": self.time });
        let row_id = readable(path);
        let entity = row_id.split_once('/').map_or("(root)", |(directory, _)| directory).to_owned();
        let op_id = format!("{}:{}", self.id, self.request.changes.len());
        let data = (kind != ChangeKind::Delete).then_some(data);
        self.request.changes.push(ClientChange { entity, row_id, kind, data, op_id: Some(op_id) });
        Some(())
    }
}

/// A path as text. Git knows only bytes; those that are no UTF-8 are shown as `\xNN`.
fn readable(path: &[u8]) -> String {
    let mut text = String::with_capacity(path.len());
    for chunk in path.utf8_chunks() {
        text.push_str(chunk.valid());
        text.extend(chunk.invalid().iter().map(|byte| format!("\\x{byte:02x}")));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fold::Fold;
    use ringlog_replay::input::Op;
    use std::path::PathBuf;

    const FIRST: &str = "commit 0123456789abcdef0123456789abcdef01234567 1469926392 a@example.org\0";

    fn summary(input: &Input) -> Vec<Vec<(&str, &str, ChangeKind)>> {
        fn row(op: &Op) -> (&str, &str, ChangeKind) {
            (&op.entity, &op.row_id, op.kind)
        }
        input.requests.iter().map(|ops| ops.iter().map(row).collect()).collect()
    }

    #[test]
    fn commits_and_files_with_odd_names() {
        let mut output = FIRST.as_bytes().to_vec();
        output.extend(b"\n:000000 100644 000000000000 aaaaaaaaaaaa A\0a \"q\"\ttab\nnl\0");
        output.extend(b":000000 100644 000000000000 bbbbbbbbbbbb A\0:100644 commit \0");
        output.extend(b":000000 100644 000000000000 cccccccccccc A\0\xc3\xbc/\xff\xfe\0");
        output.extend(b"commit 1111111111112222222222222222222222222222 1469926400 b@example.org\0");
        output.extend(b"commit 2222222222223333333333333333333333333333 1469926500 c d\n@example.org\0");
        output.extend(b"\n:100644 000000 aaaaaaaaaaaa 000000000000 D\0a \"q\"\ttab\nnl\0");
        output.extend(b":100644 120000 cccccccccccc dddddddddddd T\0\xc3\xbc/\xff\xfe\0");
        let input = parse("in", &output).expect("well-formed");
        let first = vec![
            ("(root)", "a \"q\"\ttab\nnl", ChangeKind::Insert),
            ("(root)", ":100644 commit ", ChangeKind::Insert),
            ("ü", "ü/\\xff\\xfe", ChangeKind::Insert),
        ];
        let last = vec![
            ("(root)", "a \"q\"\ttab\nnl", ChangeKind::Delete),
            ("ü", "ü/\\xff\\xfe", ChangeKind::Update),
        ];
        assert_eq!(summary(&input), [first, last]);
        assert_eq!(input.skipped, 1, "the commit that touched nothing");
        let data = r#"{"blob":"dddddddddddd","commit":"222222222222","mode":"120000","time":1469926500}"#;
        assert_eq!(input.requests[1][1].text(), Some(data));
        assert_eq!(input.requests[1][0].text(), None);
    }

    #[test]
    fn what_git_never_prints_is_refused() {
        let file = ":000000 100644 000000000000 aaaaaaaaaaaa A\0a\0";
        for bad in [
            file.to_owned(),
            format!("{FIRST}:000000 100644 A\0a\0"),
            format!("{FIRST}:000000 100644 000000000000 aaaaaaaaaaaa R100\0a\0b\0"),
            format!("{FIRST}:000000 100644 000000000000 aaaaaaaaaaaa A\0"),
            format!("{FIRST}{file}stray\0"),
            "commit 0123 1469926392 a@example.org\0".to_owned(),
            "commit 0123456789abcdef yesterday a@example.org\0".to_owned(),
        ] {
            let error = parse("in", bad.as_bytes()).expect_err("must be refused").to_string();
            assert!(error.starts_with("in: git printed what it should not: "), "{error}");
        }
    }

    /// A repository in the temporary directory, removed in the end. `None` where there is no git.
    struct Repository(PathBuf);

    impl Repository {
        fn new(name: &str) -> Option<Self> {
            let directory =
                std::env::temp_dir().join(format!("ringlog-replay-{name}-{}", std::process::id()));
            std::fs::create_dir_all(&directory).expect("the temporary directory takes a directory");
            let repository = Self(directory);
            if Command::new("git").arg("--version").output().is_err() {
                eprintln!("no git here: not tested");
                return None;
            }
            repository.git(&["init", "--quiet"]);
            Some(repository)
        }

        fn git(&self, arguments: &[&str]) -> String {
            let mut git = Command::new("git");
            // Neither the environment's repository nor the user's settings have a say.
            git.env_remove("GIT_DIR").env_remove("GIT_WORK_TREE").env_remove("GIT_INDEX_FILE");
            git.env("GIT_CONFIG_GLOBAL", "/dev/null").env("GIT_CONFIG_NOSYSTEM", "1");
            git.arg("-C").arg(&self.0).args(["-c", "user.name=A", "-c", "user.email=a@example.org"]);
            let output = git.args(arguments).output().expect("git runs");
            let errors = String::from_utf8_lossy(&output.stderr);
            assert!(output.status.success(), "git {arguments:?}: {errors}");
            String::from_utf8(output.stdout).expect("the test's names are UTF-8")
        }

        fn write(&self, path: &str, text: &str) {
            let path = self.0.join(path);
            std::fs::create_dir_all(path.parent().expect("inside the repository")).expect("a directory");
            std::fs::write(path, text).expect("a file");
        }

        fn commit(&self) {
            self.git(&["add", "--all"]);
            self.git(&["commit", "--quiet", "--message", "a\n\n:100644 fake\n"]);
        }
    }

    impl Drop for Repository {
        fn drop(&mut self) {
            // What cannot be removed is left in the temporary directory.
            let _ = std::fs::remove_dir_all(&self.0);
        }
    }

    #[test]
    fn folding_a_history_leaves_the_files_of_its_head() {
        let Some(repository) = Repository::new("fold") else { return };
        repository.write("a \"b\"", "1");
        repository.write("src/é", "1");
        repository.write("src/gone", "1");
        repository.commit();
        repository.git(&["checkout", "--quiet", "-b", "side"]);
        repository.write("src/side", "1");
        repository.commit();
        repository.git(&["checkout", "--quiet", "-"]);
        repository.write("src/é", "2");
        std::fs::remove_file(repository.0.join("src/gone")).expect("it is there");
        repository.commit();
        repository.git(&["merge", "--quiet", "--no-ff", "--message", "merge", "side"]);

        let input = read(&repository.0).expect("a good repository");
        assert_eq!(input.requests.len(), 3, "the merge is one request, the side branch none");
        let mut seen = Fold::default();
        input.ops().for_each(|op| seen.apply(&op.entity, &op.row_id, op.kind, op.text()));
        let files = repository.git(&["ls-tree", "-r", "-z", "--name-only", "HEAD"]);
        let files: Vec<&str> = files.split_terminator('\0').collect();
        assert_eq!(files, ["a \"b\"", "src/side", "src/é"]);
        assert_eq!(seen.rows(), files.len());
    }

    #[test]
    fn no_commits_and_no_repository_are_said_in_gits_words() {
        let Some(repository) = Repository::new("empty") else { return };
        let error = read(&repository.0).expect_err("no commits").to_string();
        assert!(error.starts_with("history of ") && error.contains("fatal: "), "{error}");
        let error = read(&repository.0.join("missing")).expect_err("no directory").to_string();
        assert!(error.contains("fatal: "), "{error}");
    }
}
