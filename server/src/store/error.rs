//! What can be wrong with a store.

use std::path::PathBuf;

/// Why a store cannot be used. Nothing in it was changed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StoreError {
    /// Another server is running on it.
    #[error("{} is in use by another server: stop that one, or give another --data", .0.display())]
    InUse(PathBuf),
    /// A folder or a file cannot be made, read or locked.
    #[error("{}: {source}", path.display())]
    Io {
        /// Which.
        path: PathBuf,
        /// What the system says.
        source: std::io::Error,
    },
    /// It is damaged.
    #[error(
        "{} is damaged and was left as it is ({reason}): restore it from a backup, or move it away to start an empty log, \
         which makes every client load its rows anew", path.display()
    )]
    Damaged {
        /// Which file.
        path: PathBuf,
        /// What was found.
        reason: String,
    },
    /// It was written by another version of this server.
    #[error("{} has format {found}, and this server reads format {expected}: use the server that wrote it", path.display())]
    Format {
        /// Which file.
        path: PathBuf,
        /// What it says of itself.
        found: u64,
        /// What is understood.
        expected: u64,
    },
    /// The database failed while it was used.
    #[error("the store failed: {0}")]
    Failed(#[from] redb::Error),
}
