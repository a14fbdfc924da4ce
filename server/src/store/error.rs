//! What can be wrong with a store.

use std::path::PathBuf;

/// Why a store cannot be used. Nothing in it was changed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StoreError {
    /// Another server is running on it.
    #[error("{} is in use by another server: stop that one, or give another --data", .0.display())]
    InUse(PathBuf),
    /// A folder or a file cannot be made, read, written or locked.
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
    #[error("{} has format {found}, and this server reads formats up to {expected}: use the server that wrote it", path.display())]
    Format {
        /// Which file.
        path: PathBuf,
        /// What it says of itself.
        found: u64,
        /// The latest that is understood.
        expected: u64,
    },
    /// `--adopt` for a store that is older than its folder.
    #[error(
        "{} cannot be adopted: it ends at seq {last_seq}, and seq {seen} was committed in this folder. \
         Start without --adopt: it becomes another log, and clients load their rows anew", path.display()
    )]
    Older {
        /// Which file.
        path: PathBuf,
        /// Its last seq.
        last_seq: u64,
        /// The highest seq that was committed.
        seen: u64,
    },
    /// It is the store of a node of a cluster, and `--cluster` is not given.
    #[error(
        "{} belongs to a cluster: start with --cluster, or make a backup of it and restore that, which makes another log",
        .0.display()
    )]
    Node(PathBuf),
    /// It has a log of its own, or that of another cluster.
    #[error(
        "{} holds log {kept}, and the cluster's log is {cluster}: give an empty folder as --data", path.display()
    )]
    OtherCluster {
        /// Which file.
        path: PathBuf,
        /// Its incarnation.
        kept: ringlog::Incarnation,
        /// That of the cluster.
        cluster: ringlog::Incarnation,
    },
    /// It has events that are not of a stream.
    #[error("the store in {} has events of its own: give an empty folder as --data", .0.display())]
    NotNode(PathBuf),
    /// A store is there where one is to be made.
    #[error("{} is there already: restore into a folder without a store", .0.display())]
    Exists(PathBuf),
    /// It was removed while a server uses it, or another file has its name.
    #[error(
        "{} was removed or replaced while the server uses it: take a backup from the server before it is stopped \
         (ringlog-server backup http://…), or put the file back", .0.display()
    )]
    Removed(PathBuf),
    /// A restore has begun in the folder and did not end.
    #[error("{} is left of a restore that was interrupted: restore again, or remove it to start an empty log", .0.display())]
    Restoring(PathBuf),
    /// A backup is not whole.
    #[error("{} is no whole backup: {reason}", path.display())]
    Backup {
        /// Which file, or where it comes from.
        path: PathBuf,
        /// What was found.
        reason: String,
    },
    /// The database failed while it was used.
    #[error("{}: {source}", path.display())]
    Failed {
        /// Which file.
        path: PathBuf,
        /// What the database says.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
}

impl From<StoreError> for ringlog_axum::StoreError {
    fn from(error: StoreError) -> Self {
        match error {
            StoreError::Damaged { .. } | StoreError::Format { .. } => Self::fatal(error),
            _ => Self::new(error),
        }
    }
}
