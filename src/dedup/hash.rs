//! What an id is found by: two hashes, under keys that each log makes for itself.
//!
//! Clients choose op ids, so that a hash must not let them choose what meets what. That of the
//! shards is that of a `HashMap`, `SipHash`: a client cannot fill a shard on purpose. But it takes
//! twice as long as all the rest of a look-up. The filter has one of its own, foldhash, which takes
//! a fraction of that and is not made to withstand a client that observes the log to find its key
//! out. What could be gained by that is little: ids for which the filter errs are looked for in
//! their shard, as those are that are remembered.
#![forbid(unsafe_code)]

use super::entry::OpId;
use foldhash::SharedSeed;
use foldhash::quality::SeedableRandomState;
use std::hash::{BuildHasher, RandomState};

/// Both hashes of an id.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Hashes {
    /// Leads to its shard and to its entry there.
    pub(crate) shard: u64,
    /// Leads to its word of the filter and to its bits there.
    pub(crate) filter: u64,
}

/// A log's keys.
pub(super) struct Keys {
    shard: RandomState,
    filter: SeedableRandomState,
}

impl Keys {
    pub(super) fn new() -> Self {
        let shard = RandomState::new();
        let seed = shard.hash_one("the filter's key");
        Self { shard, filter: SeedableRandomState::with_seed(seed, SharedSeed::global_random()) }
    }

    #[inline]
    pub(super) fn shard(&self, id: OpId<'_>) -> u64 {
        id.hash_under(&self.shard)
    }

    #[inline]
    pub(super) fn filter(&self, id: OpId<'_>) -> u64 {
        id.hash_under(&self.filter)
    }

    pub(super) fn both(&self, id: OpId<'_>) -> Hashes {
        Hashes { shard: self.shard(id), filter: self.filter(id) }
    }
}

/// Says nothing of them: what is printed of a log may be read by anyone.
impl std::fmt::Debug for Keys {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Keys")
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn keys_are_not_told() {
        assert_eq!(format!("{:?}", Keys::new()), "Keys");
        let log = format!("{:?}", crate::ChangeLog::new());
        assert!(log.contains("Keys") && !log.contains("seed"), "{log}");
    }

    #[test]
    fn each_log_has_keys_of_its_own() {
        let [one, other] = [(); 2].map(|()| Keys::new().both(OpId::bare("a")));
        assert!(one.shard != other.shard && one.filter != other.filter && one.shard != one.filter);
    }

    proptest! {
        #[test]
        fn equal_ids_hash_alike_and_scopes_differ(client: String, op: String) {
            let keys = Keys::new();
            let id = OpId::scoped(Some(&client), &op);
            prop_assert_eq!(keys.both(id), keys.both(id));
            prop_assert_eq!(keys.both(OpId::scoped(None, &op)), keys.both(OpId::bare(&op)));
            let (scoped, bare) = (keys.both(id), keys.both(OpId::bare(&op)));
            prop_assert!(scoped.shard != bare.shard && scoped.filter != bare.filter);
        }
    }
}
