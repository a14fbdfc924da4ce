//! What is kept on disk: rows, the window of events, the op ids, and which log it is. One file, `ringlog.redb`, beside a lock.
//!
//! | table | key | value |
//! | --- | --- | --- |
//! | `meta` | `format`, `incarnation`, `last_seq` | 8, 16 and 8 bytes, the most significant first |
//! | `rows` | entity, row id | seq of its last change, data |
//! | `events` | seq | timestamp, kind, entity, row id, data; the last `capacity` |
//! | `op_ids` | seq of the operation's event | client id, op id; the last `op_ids` |
//!
//! # Opening
//!
//! A new store is made under another name, committed, and then renamed: under its own name there is a whole store or none.
//!
//! A store that is there is first opened through an [`Overlay`](overlay::Overlay), which keeps in memory what redb would write to
//! repair it. There all checksums are verified and all of the window is read. Only if nothing is wrong is the file opened for writing:
//! whatever else is found, the server refuses to start and the file is as it was.
//!
//! Commits are made in two phases (redb's word: the pages are synced before the header names them). So a header that
//! names a broken page means that the file was damaged, never that a commit was torn, and redb does not fall back silently to
//! the commit before, which would lose what was acknowledged.

mod disk;
mod error;
mod open;
mod overlay;
mod tables;
mod view;

pub(crate) use disk::Store;
pub use error::StoreError;
pub(crate) use view::StoredRows;
