//! Why a store cannot be used.

use std::error::Error;
use std::fmt;

/// Why a store cannot be used.
///
/// # Examples
///
/// ```
/// use ringlog_axum::StoreError;
///
/// let error = StoreError::new(std::io::Error::other("the database does not answer"));
/// assert_eq!(error.to_string(), "the database does not answer");
/// assert!(!error.is_final());
/// ```
#[derive(Debug)]
pub struct StoreError {
    error: Box<dyn Error + Send + Sync>,
    is_final: bool,
}

impl StoreError {
    /// A fault that may pass: pushes are refused until a [probe](crate::Store::probe) succeeds.
    pub fn new(error: impl Into<Box<dyn Error + Send + Sync>>) -> Self {
        Self { error: error.into(), is_final: false }
    }

    /// A fault after which the store must not be written to any more: nothing is pushed from then
    /// on.
    pub fn fatal(error: impl Into<Box<dyn Error + Send + Sync>>) -> Self {
        Self { error: error.into(), is_final: true }
    }

    /// Whether the store must not be written to any more.
    pub fn is_final(&self) -> bool {
        self.is_final
    }
}

impl fmt::Display for StoreError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.error.fmt(f)
    }
}

impl Error for StoreError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        self.error.source()
    }
}
