//! Shares of `--max-pushing`, the memory of the pushes in work, and of `--max-sending`, the memory
//! of the pages that are being sent.
//!
//! A share belongs to what it pays for, not to a request: it is dropped with the text and the
//! changes of a push, wherever these are by then, or with the last byte of a page. A client that
//! hangs up frees nothing that is still held, and one that reads nothing holds no more than there
//! is.

use crate::error::ApiError;
use bytes::Bytes;
use std::sync::Arc;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// One permit pays for so many bytes.
const UNIT: usize = 1024;

/// The memory for pushes, all of them together.
#[derive(Debug, Clone)]
pub struct Pushing {
    permits: Arc<Semaphore>,
    all: usize,
}

impl Pushing {
    pub fn new(max_pushing: usize) -> Self {
        let all = max_pushing.div_ceil(UNIT);
        Self { permits: Arc::new(Semaphore::new(all)), all }
    }

    /// A share that pays for nothing yet.
    pub fn share(&self) -> Share {
        Share { pushing: self.clone(), bytes: 0, permit: None }
    }
}

/// What one push has of it.
#[derive(Debug)]
pub struct Share {
    pushing: Pushing,
    bytes: usize,
    permit: Option<OwnedSemaphorePermit>,
}

impl Share {
    /// Pays for so many more bytes. A push that needs more than there is gets all, if it is alone:
    /// it is within the other limits.
    ///
    /// # Errors
    /// `BUSY` if others have too much of it. Nothing waits for them: two that wait for each other
    /// would wait for ever.
    pub fn grow(&mut self, bytes: usize) -> Result<(), ApiError> {
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

/// The memory for the pages of pulls and snapshots, all of them together.
#[derive(Debug)]
pub struct Sending {
    permits: Arc<Semaphore>,
    page: u32,
}

/// Room for one page.
#[derive(Debug)]
pub struct Room {
    permit: Option<OwnedSemaphorePermit>,
}

/// A page and its room, which is given back when the page is sent or dropped.
struct Page {
    json: Vec<u8>,
    _room: Room,
}

impl Sending {
    /// Memory of so many bytes, of which a page takes at most `page`.
    pub fn new(max_sending: usize, page: usize) -> Self {
        let all = max_sending.div_ceil(UNIT);
        let page = u32::try_from(page.div_ceil(UNIT).min(all)).unwrap_or(u32::MAX);
        Self { permits: Arc::new(Semaphore::new(all)), page }
    }

    /// Waits for room for a page, the first to come first. It is to be made at once: as long as its
    /// length is not known it has the most that a page takes.
    pub async fn room(&self) -> Room {
        Room { permit: Arc::clone(&self.permits).acquire_many_owned(self.page).await.ok() }
    }
}

impl Room {
    /// The page that the room is for. What it does not take is free again.
    pub fn page(mut self, json: Vec<u8>) -> Bytes {
        if let Some(permit) = &mut self.permit {
            let spare = permit.num_permits().saturating_sub(json.capacity().div_ceil(UNIT));
            drop(permit.split(spare));
        }
        Bytes::from_owner(Page { json, _room: self })
    }
}

impl AsRef<[u8]> for Page {
    fn as_ref(&self) -> &[u8] {
        &self.json
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_page_has_its_room_until_its_last_byte_is_dropped() {
        let sending = Sending::new(10 * UNIT, 4 * UNIT);
        let left = || sending.permits.available_permits();
        let page = sending.room().await.page(vec![1; UNIT + 1]);
        assert_eq!(left(), 8, "what it does not take is free");
        let part = page.slice(UNIT..);
        let others = [sending.room().await, sending.room().await];
        drop(page);
        assert_eq!((left(), part.len()), (0, 1));
        drop((part, others));
        assert_eq!(left(), 10);
        assert_eq!(Sending::new(UNIT, 4 * UNIT).room().await.page(vec![0; 4 * UNIT]).len(), 4 * UNIT);
    }

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
