#![forbid(unsafe_code)]
//! The op ids that were completed lately.

use std::collections::{HashSet, VecDeque};
use std::sync::{Arc, Mutex, PoisonError};

/// The last `capacity` op ids, behind a lock.
#[derive(Debug)]
pub(crate) struct OpIds {
    capacity: usize,
    seen: Mutex<Seen>,
}

type Seen = (HashSet<Arc<str>>, VecDeque<Arc<str>>);

impl OpIds {
    pub(crate) fn new(capacity: usize) -> Self {
        Self { capacity, seen: Mutex::default() }
    }

    pub(crate) fn contains(&self, op_id: &str) -> bool {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner).0.contains(op_id)
    }

    pub(crate) fn remember(&self, op_id: &str) {
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        let (set, queue) = &mut *seen;
        let op_id: Arc<str> = op_id.into();
        if set.insert(Arc::clone(&op_id)) {
            queue.push_back(op_id);
        }
        while queue.len() > self.capacity {
            if let Some(oldest) = queue.pop_front() {
                set.remove(&oldest);
            }
        }
    }
}
