//! Files for their owner only, and errors that name the file.

use crate::store::StoreError;
use std::fs::{File, OpenOptions};
use std::path::Path;

/// Opens files; those that it makes are for their owner only.
pub(super) fn private() -> OpenOptions {
    let mut options = File::options();
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    options
}

/// Puts the names in a folder on disk.
pub(super) fn sync_folder(folder: &Path) -> std::io::Result<()> {
    // `parent` of a bare name is empty.
    let folder = if folder.as_os_str().is_empty() { Path::new(".") } else { folder };
    if cfg!(unix) { File::open(folder)?.sync_all() } else { Ok(()) }
}

pub(super) fn io(path: &Path, source: std::io::Error) -> StoreError {
    StoreError::Io { path: path.to_owned(), source }
}

/// What the database says of a file.
pub(super) fn failed(path: &Path, source: impl Into<redb::Error>) -> StoreError {
    match source.into() {
        redb::Error::Io(source) => io(path, source),
        redb::Error::Corrupted(reason) => StoreError::Damaged { path: path.to_owned(), reason },
        redb::Error::DatabaseAlreadyOpen => StoreError::InUse(path.to_owned()),
        source => StoreError::Failed { path: path.to_owned(), source: source.into() },
    }
}
