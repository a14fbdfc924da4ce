//! The folder that holds a store: its files, their permissions, and the lock that keeps a second
//! server out.

use super::files::{io, private, sync_folder};
use super::identity::Identity;
use crate::store::StoreError;
use std::fs::{self, DirBuilder, File, TryLockError};
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

const FILE: &str = "ringlog.redb";
/// What a store is called until it is whole.
const NEW_FILE: &str = "ringlog.redb.new";
/// What a store is called until a backup is restored to it. An empty store is not made in its
/// place.
const RESTORING_FILE: &str = "ringlog.redb.restoring";
const LOCK_FILE: &str = "ringlog.lock";

/// A data folder that no other server uses, for as long as this is kept.
#[derive(Debug)]
pub(super) struct Folder {
    path: PathBuf,
    _lock: File,
}

impl Folder {
    /// Makes the folder if it is not there (for its owner only), and locks it.
    pub(super) fn lock(path: &Path) -> Result<Self, StoreError> {
        make_folder(path).map_err(|source| io(path, source))?;
        let lock = path.join(LOCK_FILE);
        let file = private().create(true).truncate(false).write(true).open(&lock);
        let file = file.map_err(|source| io(&lock, source))?;
        match file.try_lock() {
            Ok(()) => Ok(Self { path: path.to_owned(), _lock: file }),
            Err(TryLockError::WouldBlock) => Err(StoreError::InUse(path.to_owned())),
            Err(TryLockError::Error(source)) => Err(io(&lock, source)),
        }
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// The store's file.
    pub(super) fn store(&self) -> PathBuf {
        store_in(&self.path)
    }

    /// Where a store is made.
    pub(super) fn new_path(&self) -> PathBuf {
        self.path.join(NEW_FILE)
    }

    /// Where a backup is restored to.
    pub(super) fn restoring_path(&self) -> PathBuf {
        self.path.join(RESTORING_FILE)
    }

    /// An error if a restore has begun here and did not end: a server that is started by a service
    /// manager would have an empty log.
    pub(super) fn check_restored(&self) -> Result<(), StoreError> {
        let path = self.restoring_path();
        if fs::symlink_metadata(&path).is_ok() { Err(StoreError::Restoring(path)) } else { Ok(()) }
    }

    /// Gives a store that is whole its name.
    pub(super) fn name_store(&self, whole: &Path) -> Result<(), StoreError> {
        let path = self.store();
        fs::rename(whole, &path).map_err(|source| io(&path, source))?;
        // The name is on disk before anything is acknowledged.
        sync_folder(&self.path).map_err(|source| io(&self.path, source))
    }

    /// Whether there is a store.
    pub(super) fn has_store(&self) -> Result<bool, StoreError> {
        has_store(&self.store())
    }
}

/// The file of a store in use. It tells whether it is still the one that has the store's name.
#[derive(Debug)]
pub(super) struct StoreFile {
    file: File,
    path: PathBuf,
    identity: Identity,
}

impl StoreFile {
    pub(super) fn open(path: &Path) -> Result<Self, StoreError> {
        let file = File::open(path).map_err(|source| io(path, source))?;
        let identity = Identity::of_open(&file, path)?;
        Ok(Self { file, path: path.to_owned(), identity })
    }

    /// An error if what is committed to it would not be found at the next start: it was removed, or
    /// another file has its name. A file or a folder that was renamed is none: it is found where it
    /// was put.
    pub(super) fn check(&self) -> Result<(), StoreError> {
        #[cfg(unix)]
        {
            let found = self.file.metadata().map_err(|source| io(&self.path, source))?;
            if std::os::unix::fs::MetadataExt::nlink(&found) == 0 {
                return Err(StoreError::Removed(self.path.clone()));
            }
        }
        match Identity::of(&self.path) {
            Ok(identity) if identity != self.identity => Err(StoreError::Removed(self.path.clone())),
            _ => Ok(()),
        }
    }
}

/// The store's file in a folder.
pub(super) fn store_in(folder: &Path) -> PathBuf {
    folder.join(FILE)
}

/// An empty file to make a store in. What an earlier attempt left there is removed.
pub(super) fn empty_file(path: &Path) -> Result<(), StoreError> {
    match fs::remove_file(path) {
        Err(source) if source.kind() != ErrorKind::NotFound => return Err(io(path, source)),
        _ => {}
    }
    private().create_new(true).write(true).open(path).map_err(|source| io(path, source))?;
    Ok(())
}

/// Warns if others can read or write a store, as those that an earlier version made.
pub(super) fn warn_of_others(path: &Path) {
    #[cfg(unix)]
    if let Ok(found) = fs::metadata(path) {
        let mode = std::os::unix::fs::PermissionsExt::mode(&found.permissions()) & 0o777;
        if mode & 0o077 != 0 {
            tracing::warn!(store = %path.display(), mode = format!("{mode:04o}"), "other users may have access to the store: chmod 600");
        }
    }
    #[cfg(not(unix))]
    let _ = path;
}

/// Whether a store has this name. A link that leads nowhere is an error: the disk that it leads to
/// may not be mounted, and an empty store in its place would hide that.
pub(super) fn has_store(path: &Path) -> Result<bool, StoreError> {
    match fs::symlink_metadata(path) {
        Err(source) if source.kind() == ErrorKind::NotFound => Ok(false),
        Err(source) => Err(io(path, source)),
        Ok(found) => match fs::metadata(path) {
            Ok(_) => Ok(true),
            Err(source) if found.is_symlink() => {
                let target = fs::read_link(path).unwrap_or_default();
                let said = format!("a symbolic link to {}, which cannot be used: {source}", target.display());
                Err(io(path, std::io::Error::new(source.kind(), said)))
            }
            Err(source) => Err(io(path, source)),
        },
    }
}

/// Makes a folder for its owner only. Folders above it that are not there either are made as usual.
fn make_folder(path: &Path) -> std::io::Result<()> {
    if let Some(parent) = path.parent().filter(|parent| !parent.as_os_str().is_empty()) {
        fs::create_dir_all(parent)?;
    }
    let mut builder = DirBuilder::new();
    #[cfg(unix)]
    std::os::unix::fs::DirBuilderExt::mode(&mut builder, 0o700);
    match builder.create(path) {
        Err(error) if error.kind() == ErrorKind::AlreadyExists && path.is_dir() => Ok(()),
        made => made,
    }
}
