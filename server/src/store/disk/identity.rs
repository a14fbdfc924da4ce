//! Whether a store is the one that was in use last, or a copy.
//!
//! A copy that goes on under the same incarnation loses events in silence: it hands out seqs that
//! the original handed out as well, for other events, and clients cannot tell. So a copy must be
//! recognised, and becomes another log. Two things tell:
//!
//! 1. **The file's identity**, kept inside the store: its inode number and its time of birth. Both
//!    belong to the file, not to its contents: a copy has others, wherever it is put and whatever
//!    is preserved, since no system call sets a time of birth. The inode number alone would not do:
//!    file systems reuse those of deleted files at once. The device does not count: its number
//!    changes when a machine starts again.
//! 2. **A watermark** beside the store: `ringlog.seen.<random>` holds the highest seq that was
//!    committed. It is a file of its own identity, which the store keeps as well. A store that ends
//!    before a watermark is older than its folder; and a store beside other watermarks than its own
//!    was put there with them. This tells where a copy was written *into* the original file, which
//!    keeps inode and birth. The mark has another name after each commit, each start and each stop:
//!    a copy of the whole folder that is written over the folder brings its own mark, and leaves
//!    the later one, or replaces it by another file.
//!
//! | what happens to the data folder | identity | watermark | it is |
//! | --- | --- | --- | --- |
//! | restart, `kill -9`, power loss | same | not above | the same log |
//! | `mv` within a volume; a container on its volume | same | not above | the same log |
//! | `mv` to another volume; `cp -a`, `rsync`, `tar`, restored by these | other | | another log |
//! | a copy put back after the original was deleted | other | | another log |
//! | a server on the original, one on a copy | same; other | | the same log; another log |
//! | `cp copy original`, into the same file, events committed since | same | above | another log |
//! | the same, nothing committed since | same | not above | the same log, nothing is missing |
//! | `cp -a copy/. original`, stopped or killed, events committed since | same | above | another log |
//! | `rsync --inplace --delete copy/ original` | same | another file | another log |
//! | hard links | same | as their folder's | the same log; two servers cannot open one file |
//! | snapshots of a volume, clones of a disk (LVM, btrfs, ZFS, cloud) put back | same | not above | **not recognised** |
//!
//! A snapshot put back is the original in every respect. `--new-incarnation` says that it is
//! another log; a backup made by `ringlog-server backup` needs no such word. Where a file system
//! has no time of birth the inode number alone counts, and a copy that got the number of the
//! deleted original is told by the watermarks only. What also goes unnoticed: a copy of the store
//! that is written into the original file where all watermarks were removed by hand. A store
//! without any is one that was moved alone.
//!
//! # Why a crash at any point does no harm
//!
//! A mark is written after the commit that it speaks of, without a sync: after a power loss it may
//! be older than the store, never younger. An older mark says nothing. A new mark is made before
//! the store names it, in one transaction, and the old one is removed after that: a crash between
//! leaves both, neither is above the store, and one is the store's own. (A store that was moved
//! alone has none; a crash at its first start, just between, makes it another log, which is
//! needless and harms no other log.) A store found to be a copy gets its new incarnation and its
//! identity in one transaction, before anything is served, and the marks that are above it are
//! removed after that: a crash before the transaction finds the same copy again, a crash after it
//! finds marks that are above the store and mints once more, which no client has seen the
//! difference of.

use super::files::{io, private, sync_folder};
use crate::store::StoreError;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::time::UNIX_EPOCH;

const MARK: &str = "ringlog.seen.";

/// Digits of a seq, and the end of the line: a mark is replaced in place, by one write.
const MARK_LEN: usize = 21;

/// What a file has and a copy of it has not. As bytes in the store: inode number, nanoseconds since
/// 1970 at its birth (0 where the file system does not know), 8 bytes each, the most significant
/// first.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Identity {
    inode: u64,
    birth: u64,
}

impl Identity {
    /// That of the file with this name, or that a link of this name leads to.
    pub(super) fn of(path: &Path) -> Result<Self, StoreError> {
        Ok(Self::of_metadata(&fs::metadata(path).map_err(|source| io(path, source))?))
    }

    /// That of an open file, which had this name.
    pub(super) fn of_open(file: &File, path: &Path) -> Result<Self, StoreError> {
        Ok(Self::of_metadata(&file.metadata().map_err(|source| io(path, source))?))
    }

    fn of_metadata(metadata: &fs::Metadata) -> Self {
        #[cfg(unix)]
        let inode = std::os::unix::fs::MetadataExt::ino(metadata);
        #[cfg(not(unix))]
        let inode = 0;
        let birth = metadata.created().ok().and_then(|birth| birth.duration_since(UNIX_EPOCH).ok());
        Self { inode, birth: birth.map_or(0, |birth| birth.as_nanos() as u64) }
    }

    pub(super) fn to_bytes(self) -> [u8; 16] {
        (u128::from(self.inode) << 64 | u128::from(self.birth)).to_be_bytes()
    }

    pub(super) fn from_bytes(bytes: [u8; 16]) -> Self {
        let both = u128::from_be_bytes(bytes);
        Self { inode: (both >> 64) as u64, birth: both as u64 }
    }
}

/// What a store turned out to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Origin {
    /// The one that was in use last.
    Same,
    /// A copy of it, or it itself on another volume.
    Copied,
    /// Older than what was committed in its folder, the last of which is this seq.
    Older { seen: u64 },
}

impl Origin {
    /// What is known of a store from what it says of itself and from what lies beside it. Stores of
    /// format 1 say nothing.
    pub(super) fn of(kept: Kept, found: Identity, last_seq: u64, marks: &Marks) -> Self {
        if marks.highest > last_seq {
            return Self::Older { seen: marks.highest };
        }
        let is_other_file = kept.store.is_some_and(|kept| kept != found);
        let has_other_marks = !marks.found.is_empty() && kept.mark.is_some_and(|kept| !marks.has(kept));
        if is_other_file || has_other_marks { Self::Copied } else { Self::Same }
    }
}

/// What a store says of itself: its file's identity, and its watermark's.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Kept {
    pub(super) store: Option<Identity>,
    pub(super) mark: Option<Identity>,
}

/// The watermarks in a folder.
#[derive(Debug, Default)]
pub(super) struct Marks {
    /// The highest seq that any of them speaks of.
    highest: u64,
    found: Vec<(Identity, PathBuf)>,
}

impl Marks {
    pub(super) fn read(folder: &Path) -> Result<Self, StoreError> {
        let mut marks = Self::default();
        for path in mark_paths(folder)? {
            let text = fs::read_to_string(&path).map_err(|source| io(&path, source))?;
            // One that a power loss cut short says nothing.
            marks.highest = marks.highest.max(text.trim_end().parse().unwrap_or(0));
            marks.found.push((Identity::of(&path)?, path));
        }
        Ok(marks)
    }

    pub(super) fn has(&self, identity: Identity) -> bool {
        self.path(identity).is_some()
    }

    fn path(&self, identity: Identity) -> Option<&Path> {
        self.found.iter().find(|(found, _)| *found == identity).map(|(_, path)| &**path)
    }
}

/// The watermark of this run.
#[derive(Debug)]
pub(super) struct Watermark {
    /// None if none could be made, on a full disk for example: this run leaves no mark then.
    file: Option<(File, PathBuf)>,
    folder: PathBuf,
}

impl Watermark {
    /// The mark that a store which ends at `seq` names, under another name; or else a new one,
    /// which the store must name before the [others go](Self::settle).
    pub(super) fn begin(folder: &Path, seq: u64, kept: Option<Identity>, marks: &Marks) -> Self {
        let own = kept.and_then(|kept| marks.path(kept)).map(|path| take_mark(folder, path));
        let file = match own.unwrap_or_else(|| make_mark(folder, seq)) {
            Ok(made) => Some(made),
            Err(error) => {
                tracing::warn!(folder = %folder.display(), %error, "no watermark can be made: an old copy of the store that is \
                    written into its file may go unnoticed");
                None
            }
        };
        Self { file, folder: folder.to_owned() }
    }

    /// What the store is to name.
    pub(super) fn identity(&self) -> Result<Option<Identity>, StoreError> {
        self.file.as_ref().map(|(file, path)| Identity::of_open(file, path)).transpose()
    }

    /// The store, which ends at `seq`, names this mark: the mark gets this seq, and all others go.
    /// Without a mark the others stay, unless one is above the store.
    pub(super) fn settle(&mut self, seq: u64, marks: &Marks) -> Result<(), StoreError> {
        self.note(seq);
        if self.file.is_none() && marks.highest <= seq {
            return Ok(());
        }
        let own = self.file.as_ref().map(|(_, path)| path);
        for path in mark_paths(&self.folder)?.iter().filter(|path| Some(*path) != own) {
            fs::remove_file(path).map_err(|source| io(path, source))?;
        }
        Ok(())
    }

    /// Removes all marks: those of a store that is gone.
    pub(super) fn clear(folder: &Path) -> Result<(), StoreError> {
        mark_paths(folder)?
            .iter()
            .try_for_each(|path| fs::remove_file(path).map_err(|source| io(path, source)))
    }

    /// Notes that everything up to `seq` is on disk.
    pub(super) fn note(&mut self, seq: u64) {
        if let Some((file, path)) = &self.file
            && let Err(error) = write_mark(file, seq)
        {
            tracing::debug!(path = %path.display(), %error, "the watermark cannot be written");
        }
        self.rename();
    }

    /// Gives the mark another name: see the head of this module.
    fn rename(&mut self) {
        let Some((_, path)) = &mut self.file else { return };
        let renamed = new_name(&self.folder).and_then(|name| fs::rename(&*path, &name).map(|()| name));
        match renamed {
            Ok(name) => *path = name,
            Err(error) => tracing::debug!(path = %path.display(), %error, "the watermark keeps its name"),
        }
    }
}

impl Drop for Watermark {
    fn drop(&mut self) {
        self.rename();
    }
}

/// All marks in a folder.
fn mark_paths(folder: &Path) -> Result<Vec<PathBuf>, StoreError> {
    let mut marks = Vec::new();
    for entry in fs::read_dir(folder).map_err(|source| io(folder, source))? {
        let entry = entry.map_err(|source| io(folder, source))?;
        if entry.file_name().to_str().is_some_and(|name| name.starts_with(MARK)) {
            marks.push(entry.path());
        }
    }
    Ok(marks)
}

/// A mark that is there, under another name. It keeps its seq: one that is above the store accuses
/// it until the store is another log.
fn take_mark(folder: &Path, path: &Path) -> std::io::Result<(File, PathBuf)> {
    let name = new_name(folder)?;
    let file = File::options().write(true).open(path)?;
    fs::rename(path, &name)?;
    Ok((file, name))
}

fn make_mark(folder: &Path, seq: u64) -> std::io::Result<(File, PathBuf)> {
    let path = new_name(folder)?;
    let made = private().create_new(true).write(true).open(&path).and_then(|file| {
        write_mark(&file, seq)?;
        file.sync_all()?;
        sync_folder(folder)?;
        Ok(file)
    });
    match made {
        Ok(file) => Ok((file, path)),
        Err(error) => {
            // Half a mark says nothing; it need not stay.
            let _ = fs::remove_file(&path);
            Err(error)
        }
    }
}

fn new_name(folder: &Path) -> std::io::Result<PathBuf> {
    let mut bytes = [0; 8];
    getrandom::fill(&mut bytes).map_err(std::io::Error::other)?;
    Ok(folder.join(format!("{MARK}{:016x}", u64::from_be_bytes(bytes))))
}

fn write_mark(mut file: &File, seq: u64) -> std::io::Result<()> {
    use std::io::{Seek, SeekFrom, Write};
    let text = format!("{seq:020}\n");
    debug_assert_eq!(text.len(), MARK_LEN);
    file.seek(SeekFrom::Start(0))?;
    file.write_all(text.as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn an_identity_comes_back_from_its_bytes(inode: u64, birth: u64) {
            let identity = Identity { inode, birth };
            prop_assert_eq!(Identity::from_bytes(identity.to_bytes()), identity);
        }
    }

    #[test]
    fn a_mark_above_the_store_says_more_than_its_identity() {
        let (kept, found) = (Identity { inode: 1, birth: 5 }, Identity { inode: 1, birth: 6 });
        let (mark, other) = (Identity { inode: 2, birth: 5 }, Identity { inode: 2, birth: 6 });
        let marks = |highest, found: &[Identity]| Marks {
            highest,
            found: found.iter().map(|mark| (*mark, PathBuf::new())).collect(),
        };
        let origin = |store, marks: &Marks| Origin::of(Kept { store, mark: Some(mark) }, found, 3, marks);
        assert_eq!(Origin::of(Kept::default(), found, 3, &marks(3, &[other])), Origin::Same);
        assert_eq!(origin(Some(found), &marks(3, &[mark])), Origin::Same);
        assert_eq!(origin(Some(found), &marks(3, &[other, mark])), Origin::Same);
        assert_eq!(origin(Some(found), &marks(0, &[])), Origin::Same, "it was moved alone");
        assert_eq!(origin(Some(found), &marks(3, &[other])), Origin::Copied);
        assert_eq!(origin(Some(kept), &marks(3, &[mark])), Origin::Copied);
        assert_eq!(origin(Some(kept), &marks(4, &[mark])), Origin::Older { seen: 4 });
        assert_eq!(origin(Some(found), &marks(4, &[mark])), Origin::Older { seen: 4 });
    }

    #[test]
    fn a_copy_has_another_identity_and_a_renamed_file_the_same() {
        let folder = tempfile::tempdir().unwrap();
        let (one, two, three) = (folder.path().join("1"), folder.path().join("2"), folder.path().join("3"));
        fs::write(&one, "x").unwrap();
        let identity = Identity::of(&one).unwrap();
        fs::copy(&one, &two).unwrap();
        assert_ne!(Identity::of(&two).unwrap(), identity);
        fs::rename(&one, &three).unwrap();
        assert_eq!(Identity::of(&three).unwrap(), identity);
        // The number of a deleted file may be given to the next one.
        fs::remove_file(&three).unwrap();
        fs::copy(&two, &three).unwrap();
        assert_ne!(Identity::of(&three).unwrap(), identity);
    }

    #[test]
    fn a_mark_has_another_name_after_each_start_each_commit_and_each_stop_and_is_the_same_file() {
        let folder = tempfile::tempdir().unwrap();
        let read = || Marks::read(folder.path()).unwrap();
        let begin = |seq, kept| {
            let (mut mark, marks) = (Watermark::begin(folder.path(), seq, kept, &read()), read());
            mark.settle(seq, &marks).unwrap();
            mark
        };
        let mut seen = std::collections::BTreeSet::new();
        let mut names = || {
            let names = mark_paths(folder.path()).unwrap();
            assert!(names.len() == 1 && seen.insert(names[0].clone()), "{names:?}");
        };
        let mut first = begin(3, None);
        let identity = first.identity().unwrap();
        names();
        first.note(7);
        names();
        assert_eq!(read().highest, 7);
        drop(first);
        names();
        assert_eq!(read().highest, 7);
        let second = begin(8, identity);
        names();
        assert_eq!((read().highest, second.identity().unwrap()), (8, identity));
        let third = begin(2, Some(Identity { inode: 0, birth: 0 }));
        assert_ne!(third.identity().unwrap(), identity, "another store's mark is not taken over");
        assert_eq!(read().highest, 2, "and does not stay");
    }

    #[test]
    fn marks_that_the_store_does_not_name_go() {
        let folder = tempfile::tempdir().unwrap();
        let read = || Marks::read(folder.path()).unwrap();
        for seq in [3, 5] {
            let marks = read();
            let mut mark = Watermark::begin(folder.path(), seq, None, &marks);
            mark.settle(seq, &marks).unwrap();
        }
        assert_eq!((read().highest, read().found.len()), (5, 1));
        // Where none can be made, one that is not above the store does no harm.
        let mut none = Watermark { file: None, folder: folder.path().to_owned() };
        none.settle(5, &read()).unwrap();
        assert_eq!(read().found.len(), 1);
        none.settle(4, &read()).unwrap();
        assert_eq!(read().found.len(), 0);
    }
}
