#![forbid(unsafe_code)]
//! What can happen to a row.

use serde::{Deserialize, Serialize};

/// What happened to a row.
///
/// In JSON: `"insert"`, `"update"`, `"delete"`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ChangeKind {
    /// The row came to be.
    Insert,
    /// The row got new data.
    Update,
    /// The row is gone.
    Delete,
}

impl ChangeKind {
    /// The kind as it stands in JSON, without the quotes.
    ///
    /// ```
    /// assert_eq!(ringlog::ChangeKind::Insert.as_str(), "insert");
    /// ```
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Insert => "insert",
            Self::Update => "update",
            Self::Delete => "delete",
        }
    }
}
