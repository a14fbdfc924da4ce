//! What a reader saw, event by event, in a few words.
//!
//! Keeping every event of every reader for a comparison would take more memory than the log. A sum
//! over fingerprints does as well: each event's fingerprint is weighted with its seq, so an event
//! in the wrong place changes the sum as much as a wrong event does.

#![forbid(unsafe_code)]

use ringlog::ChangeKind;
use std::hash::{DefaultHasher, Hash, Hasher};

/// A run of events without a gap, as read between two resyncs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Stretch {
    /// The seq before its first event.
    pub(crate) after: u64,
    /// The seq of its last event; `after` if it has none.
    pub(crate) last: u64,
    /// The weighted fingerprints, summed.
    pub(crate) sum: u64,
}

impl Stretch {
    /// A run that starts after this seq, without events yet.
    pub(crate) fn new(after: u64) -> Self {
        Self { after, last: after, sum: 0 }
    }

    /// Adds the next event.
    pub(crate) fn add(&mut self, fingerprint: u64) {
        self.last += 1;
        self.sum = self.sum.wrapping_add(weighted(self.last, fingerprint));
    }

    /// The number of events in it.
    pub(crate) fn len(&self) -> u64 {
        self.last - self.after
    }
}

/// A fingerprint at a place. The weights are odd, so that none loses a bit of it.
pub(crate) fn weighted(seq: u64, fingerprint: u64) -> u64 {
    fingerprint.wrapping_mul(2 * seq + 1)
}

/// Stands for everything that a client can tell about a change.
pub(crate) fn fingerprint(entity: &str, row_id: &str, kind: ChangeKind, data: Option<&str>) -> u64 {
    let mut hasher = DefaultHasher::new();
    (entity, row_id, kind, data).hash(&mut hasher);
    hasher.finish()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fingerprint_knows_every_part() {
        let print = |entity, row_id, data| fingerprint(entity, row_id, ChangeKind::Insert, data);
        let all = [
            print("a", "b", None),
            print("ab", "", None),
            print("a", "b", Some("")),
            print("a", "b", Some("1")),
            fingerprint("a", "b", ChangeKind::Update, Some("1")),
        ];
        let distinct: std::collections::HashSet<u64> = all.into_iter().collect();
        assert_eq!(distinct.len(), all.len());
    }

    #[test]
    fn a_stretch_knows_the_order() {
        let of = |prints: &[u64]| {
            let mut stretch = Stretch::new(7);
            for &print in prints {
                stretch.add(print);
            }
            stretch
        };
        assert_eq!(of(&[11, 12, 13]), of(&[11, 12, 13]));
        assert_ne!(of(&[11, 12, 13]), of(&[12, 11, 13]));
        assert_eq!((of(&[11, 12]).last, of(&[11, 12]).len()), (9, 2));
    }
}
