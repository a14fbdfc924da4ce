//! Shares of `--max-pushing`: the memory of the pushes in work.
//!
//! A share belongs to what it pays for, not to a request: it is dropped with the text and the changes of a push, wherever these are
//! by then. A client that hangs up frees nothing that is still held.

use crate::error::ApiError;
use std::sync::Arc;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// One permit pays for so many bytes.
const UNIT: usize = 1024;

/// The memory for pushes, all of them together.
#[derive(Debug, Clone)]
pub(crate) struct Pushing {
    permits: Arc<Semaphore>,
    all: usize,
}

impl Pushing {
    pub(crate) fn new(max_pushing: usize) -> Self {
        let all = max_pushing.div_ceil(UNIT);
        Self { permits: Arc::new(Semaphore::new(all)), all }
    }

    /// A share that pays for nothing yet.
    pub(crate) fn share(&self) -> Share {
        Share { pushing: self.clone(), bytes: 0, permit: None }
    }
}

/// What one push has of it.
#[derive(Debug)]
pub(crate) struct Share {
    pushing: Pushing,
    bytes: usize,
    permit: Option<OwnedSemaphorePermit>,
}

impl Share {
    /// Pays for so many more bytes. A push that needs more than there is gets all, if it is alone: it is within the other limits.
    ///
    /// # Errors
    /// `BUSY` if others have too much of it. Nothing waits for them: two that wait for each other would wait for ever.
    pub(crate) fn grow(&mut self, bytes: usize) -> Result<(), ApiError> {
        self.bytes = self.bytes.saturating_add(bytes);
        let wanted = self.bytes.div_ceil(UNIT).min(self.pushing.all);
        let missing = wanted - self.permit.as_ref().map_or(0, OwnedSemaphorePermit::num_permits);
        if missing == 0 {
            return Ok(());
        }
        let more = Arc::clone(&self.pushing.permits).try_acquire_many_owned(missing as u32);
        let more = more.map_err(|_| {
            ApiError::unavailable(
                "BUSY",
                "the pushes in work take all the memory that they may have (--max-pushing): nothing was applied",
            )
        })?;
        match &mut self.permit {
            Some(permit) => permit.merge(more),
            none => *none = Some(more),
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_are_bounded_together_and_given_back() {
        let pushing = Pushing::new(10 * UNIT);
        let (mut one, mut two) = (pushing.share(), pushing.share());
        one.grow(1).unwrap();
        one.grow(UNIT - 1).unwrap();
        assert_eq!(pushing.permits.available_permits(), 9, "a KiB is a permit");
        two.grow(9 * UNIT).unwrap();
        assert!(one.grow(1).is_err());
        drop(two);
        one.grow(100 * UNIT).unwrap();
        assert_eq!(pushing.permits.available_permits(), 0, "alone it has all of it");
        drop(one);
        assert_eq!(pushing.permits.available_permits(), 10);
    }
}
