#![forbid(unsafe_code)]
//! What goes over the wire, name for name as the seed has it.

use crate::cursor::SyncCursor;
use crate::event::{ChangeEvent, ChangeKind};
use serde::{Deserialize, Serialize};
use serde_json::Value;

/// The answer to a pull.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PullResponse {
    /// The events after the cursor, in the order of their seqs, without a gap.
    pub changes: Vec<ChangeEvent>,
    /// Where to pull on.
    pub cursor: SyncCursor,
    /// Whether a further event was there to be pulled.
    pub has_more: bool,
}

/// What [`ChangeLog::pull_json`](crate::ChangeLog::pull_json) wrote.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PullSummary {
    /// How many events.
    pub count: usize,
    /// Where to pull on.
    pub cursor: SyncCursor,
    /// Whether a further event was there to be pulled.
    pub has_more: bool,
}

/// Changes that a client pushes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PushRequest {
    /// The changes, to be applied in this order.
    pub changes: Vec<ClientChange>,
    /// Who pushes: the same string each time the same client connects. Absent from clients that have none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub client_id: Option<String>,
}

/// One change of a [`PushRequest`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClientChange {
    /// The kind of thing that changed.
    pub entity: String,
    /// Which one of them.
    pub row_id: String,
    /// What happened to it.
    pub kind: ChangeKind,
    /// Its data after the change.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub data: Option<Value>,
    /// The client's idempotency key for this change: pushed again under the same key, it is applied once. Without
    /// one it is applied each time.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub op_id: Option<String>,
}
