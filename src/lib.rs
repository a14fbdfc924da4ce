#![doc = include_str!("../README.md")]

mod append;
mod batch;
mod builder;
mod clock;
mod cursor;
mod error;
mod event;
mod log;
mod op_ids;
mod record;
mod ring;
mod stats;
mod sync;
mod wait;
mod wire;

pub use batch::{Batch, Iter};
pub use builder::{Builder, FreshCursor, MAX_BASE_SEQ, MAX_CAPACITY};
pub use cursor::{Cursor, Incarnation, ParseCursorError, SyncCursor};
pub use error::{ConfigError, PullError, Resync, ResyncReason};
pub use event::{Change, ChangeEvent, ChangeKind, EventRef};
pub use log::ChangeLog;
pub use record::MAX_RECORD_LEN;
pub use stats::Stats;
pub use wire::{ClientChange, PullResponse, PullSummary, PushRequest};
