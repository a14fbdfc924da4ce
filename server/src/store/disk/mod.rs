//! The provider on disk. It keeps rows, the window of events, the op ids, and which log it is, in
//! one file, `ringlog.redb`, beside a lock and a watermark.
//!
//! | table | key | value |
//! | --- | --- | --- |
//! | `meta` | `format`, `incarnation`, `last_seq`, `identity`, `mark`, `oldest_compacted_seq` | 8, 16, 8, 16, 16 and 8 bytes, the most significant first |
//! | `meta` | `stream` | 16 bytes: the incarnation of a node's stream, if its log was reset |
//! | `rows` | entity, row id | seq of its last change, data |
//! | `events` | seq | timestamp, kind, entity, row id, data; just those of the log's window |
//! | `operations` | seq of the operation's event | client id, op id, fingerprint of the change; the last `op_ids` |
//! | `history` | seq | timestamp, kind, entity, row id; the latest change of each row, unless it is in the window |
//! | `history_by_entity` | entity, seq | nothing; the same changes |
//! | `deleted` | entity, row id | seq of the delete that is its latest change |
//! | `tombstones` | seq | timestamp; the same deletes |
//! | `links` | position in the stream | hash of the frames up to there, last seq; nodes of a cluster only |
//! | `sessions` | session | number and position of its last frame; nodes only |
//!
//! This is format 3. Format 2 has no `history` and what follows it. Format 1 has no `identity`
//! either, and a table `op_ids` without fingerprints. Both are converted when they are opened.
//!
//! # Opening
//!
//! A new store is made under another name, committed, and then renamed: under its own name there is
//! a whole store or none.
//!
//! A store that is there is first opened through an [`Overlay`](overlay::Overlay), which keeps in
//! memory what redb would write to repair it. There all checksums are verified and all of the
//! window is read. Only if nothing is wrong is the file opened for writing: whatever else is found,
//! the server refuses to start and the file is as it was. Nothing of the store is served before all
//! of it is verified; the server listens meanwhile, and says so.
//!
//! Commits are made in two phases (redb's word: the pages are synced before the header names them).
//! So a header that names a broken page means that the file was damaged, never that a commit was
//! torn, and redb does not fall back silently to the commit before, which would lose what was
//! acknowledged.
//!
//! Whether it is the store that was in use last or a copy, which becomes another log, is told in
//! [`identity`].

mod backup;
#[cfg(test)]
mod failing;
mod files;
mod folder;
#[cfg(feature = "cluster")]
mod frames;
mod identity;
#[cfg(feature = "cluster")]
mod node;
mod open;
mod overlay;
mod snapshot;
mod store;
mod tables;
mod transaction;

pub use backup::BackupSummary;
pub(crate) use backup::{backup_folder, restore, verify_backup, write_backup, write_file};
#[cfg(feature = "cluster")]
pub(crate) use backup::{restore_node, write_node_snapshot};
#[cfg(feature = "cluster")]
pub(crate) use node::{Part, Sync};
#[cfg(feature = "cluster")]
pub(crate) use open::open_node;
#[cfg(test)]
pub(crate) use open::open_with;
pub(crate) use open::{Opened, open};
pub(crate) use store::DiskReader;
#[cfg(feature = "cluster")]
pub(crate) use store::DiskStore;
#[cfg(test)]
pub(crate) use store::Opener;
