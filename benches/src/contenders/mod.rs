//! The contenders, each written once, for the tables and for the load generator.
//!
//! | name | letter in the table of targets | what it is |
//! | --- | --- | --- |
//! | [`ChangeLog`](::ringlog::ChangeLog) | | this crate |
//! | [`Plain`] | M | `parking_lot::Mutex<VecDeque<Arc<Event>>>`, owned strings, dropped outside the lock |
//! | [`Broadcast`] | T | `tokio::sync::broadcast` of `Arc<Event>` |
//! | [`Pylon`] | P | the crate pylon-sync; parses the text, as it keeps values |
//! | [`fetch_add`] | F | one `fetch_add` |
//! | [`limit`] | L | a fence, one `fetch_add` on a shared line, and the same bytes into memory of the thread's own |

mod broadcast;
mod floor;
mod plain;
mod pylon;
mod ringlog;

pub use broadcast::Broadcast;
pub use floor::{fetch_add, limit};
pub use plain::Plain;
pub use pylon::Pylon;
pub(crate) use ringlog::text_len;

use ::ringlog::Change;
use std::borrow::Cow;
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

/// The event of the plain programs: owned strings behind a reference count.
#[derive(Debug, Default)]
struct Event {
    seq: u64,
    entity: String,
    row_id: String,
    /// JSON text.
    data: Option<String>,
    /// Milliseconds since 1970.
    timestamp: u64,
}

impl Event {
    fn new(seq: u64, change: &Change<'_>) -> Arc<Self> {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970");
        Arc::new(Self {
            seq,
            entity: change.entity().to_owned(),
            row_id: change.row_id().to_owned(),
            data: change.data_json().map(Cow::into_owned),
            timestamp: now.as_millis() as u64,
        })
    }

    fn text_len(&self) -> u64 {
        (self.entity.len() + self.row_id.len() + self.data.as_ref().map_or(0, String::len)) as u64
    }
}
