//! Changes that are applied only if their row's last seq is the one that the client has seen.

use crate::store::{Store, StoreError};
use ringlog::{Change, ChangeKind, PushClaim, RowState};
use std::collections::HashMap;

/// Checks the conditions of a group of claims, whose changes get the seqs from `first_seq` on, and
/// takes out those that do not hold. A row is as the changes before leave it, also those of other
/// claims of the group.
///
/// # Errors
/// Those of the store. The conditions are not checked then: nothing may be applied.
pub fn check(store: &dyn Store, first_seq: u64, claims: &mut [&mut PushClaim<'_>]) -> Result<(), StoreError> {
    if !claims.iter().any(|claim| claim.is_conditional()) {
        return Ok(());
    }
    let mut rows = Rows { store, next_seq: first_seq, changed: HashMap::new() };
    let mut failed = None;
    for claim in claims {
        claim.check(|change, if_seq| {
            if let Some(expected) = if_seq.filter(|_| failed.is_none()) {
                match rows.row(change) {
                    Ok(row) if row.seq != expected => return Err(row),
                    Ok(_) => {}
                    Err(error) => failed = Some(error),
                }
            }
            rows.apply(change);
            Ok(())
        });
    }
    failed.map_or(Ok(()), Err)
}

/// The rows of the store, with the changes of the group so far.
struct Rows<'s, 'c> {
    store: &'s dyn Store,
    next_seq: u64,
    changed: HashMap<(&'c str, &'c str), RowState>,
}

impl<'c> Rows<'_, 'c> {
    fn row(&self, change: &Change<'_>) -> Result<RowState, StoreError> {
        match self.changed.get(&(change.entity(), change.row_id())) {
            Some(row) => Ok(row.clone()),
            None => self.store.row(change.entity(), change.row_id()),
        }
    }

    fn apply(&mut self, change: &Change<'c>) {
        let row = match change.kind() {
            ChangeKind::Delete => RowState::default(),
            ChangeKind::Insert | ChangeKind::Update => {
                crate::store::row_state(self.next_seq, change.data_json().as_deref())
            }
        };
        self.changed.insert((change.entity(), change.row_id()), row);
        self.next_seq += 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::Tombstones;
    use crate::store::memory::MemoryStore;
    use ringlog::{ChangeLog, Operation};

    #[test]
    fn a_row_is_as_the_claims_before_it_in_the_group_leave_it() {
        let (mut store, log) = MemoryStore::open(ChangeLog::builder(), Tombstones::default()).unwrap();
        let base = log.last_seq();
        let update = |row_id| Change::update("A", row_id);
        let claim = |operations| log.claim_operations(None, operations).unwrap();
        let mut claims = [
            claim(vec![Operation::new(update("1")), Operation::new(update("2")).if_seq(5)]),
            // The second change of the first claim is taken out, so this one has the next seq.
            claim(vec![
                Operation::new(update("1")).if_seq(base + 1),
                Operation::new(Change::delete("A", "1")),
                Operation::new(update("3")),
            ]),
            claim(vec![
                Operation::new(update("1")).if_seq(base + 2),
                Operation::new(update("1")).if_seq(0),
                Operation::new(update("3")).if_seq(base + 4),
            ]),
        ];
        check(&store, base + 1, &mut claims.iter_mut().collect::<Vec<_>>()).unwrap();
        store.commit(base + 1, &claims.iter().collect::<Vec<_>>()).unwrap();
        let results = claims.into_iter().flat_map(|claim| claim.publish().results);
        let seqs: Vec<_> = results.map(|result| result.seq.map(|seq| seq - base)).collect();
        assert_eq!(seqs, [Some(1), None, Some(2), Some(3), Some(4), None, Some(5), Some(6)]);
    }
}
