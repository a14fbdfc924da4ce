//! Which writer appends what: the input's requests, dealt out to the writers.
//!
//! The order of two changes to the same row decides what the row ends up as; the order of changes
//! to different rows does not. So each row belongs to one writer, chosen by a hash of its name, and
//! a writer appends the changes of its rows in the input's order. However the writers are
//! interleaved, folding the log gives what folding the input gives.
//!
//! With one writer a batch is a request, whole. With more, a request falls apart into one batch for
//! each writer that owns some of its rows, as it would on a server that is sharded by row.

#![forbid(unsafe_code)]

use ringlog::Change;
use ringlog_replay::input::{Input, Op};
use std::hash::{DefaultHasher, Hash, Hasher};

/// Changes that are appended with one call.
#[derive(Debug)]
pub(crate) struct Batch<'a> {
    pub(crate) ops: Vec<&'a Op>,
    /// The same, as the log takes them.
    pub(crate) changes: Vec<Change<'a>>,
}

/// The batches of one writer, in order.
pub(crate) type Share<'a> = Vec<Batch<'a>>;

/// Deals the requests out to so many writers.
pub(crate) fn deal(input: &Input, writers: usize) -> Vec<Share<'_>> {
    let mut shares: Vec<Share<'_>> = (0..writers).map(|_| Vec::new()).collect();
    let mut parts: Vec<Vec<&Op>> = vec![Vec::new(); writers];
    for request in &input.requests {
        for op in request {
            parts[owner(op, writers)].push(op);
        }
        for (share, part) in shares.iter_mut().zip(&mut parts) {
            if !part.is_empty() {
                let ops = std::mem::take(part);
                let changes = ops.iter().map(|op| change(op)).collect();
                share.push(Batch { ops, changes });
            }
        }
    }
    shares
}

fn change(op: &Op) -> Change<'_> {
    let change = Change::new(op.kind, &op.entity, &op.row_id);
    match &op.data {
        Some(data) => change.with_raw(data),
        None => change,
    }
}

fn owner(op: &Op, writers: usize) -> usize {
    let mut hasher = DefaultHasher::new();
    (&op.entity, &op.row_id).hash(&mut hasher);
    (hasher.finish() % writers as u64) as usize
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashMap;

    #[test]
    fn one_writer_gets_the_requests_as_they_are() {
        let input = ringlog_replay::generate::requests(200, 1).expect("data that can be written");
        let shares = deal(&input, 1);
        assert_eq!(shares.len(), 1);
        assert_eq!(shares[0].len(), input.requests.len());
        for (batch, request) in shares[0].iter().zip(&input.requests) {
            assert!(batch.ops.iter().copied().zip(request).all(|(dealt, given)| std::ptr::eq(dealt, given)));
            assert_eq!((batch.ops.len(), batch.changes.len()), (request.len(), request.len()));
        }
    }

    #[test]
    fn each_row_keeps_its_order_with_one_writer() {
        let input = ringlog_replay::generate::requests(500, 1).expect("data that can be written");
        let mut given: HashMap<_, Vec<*const Op>> = HashMap::new();
        input.ops().for_each(|op| given.entry((&op.entity, &op.row_id)).or_default().push(op));
        for writers in [2, 3, 8] {
            let shares = deal(&input, writers);
            assert!(shares.iter().all(|share| !share.is_empty()));
            let mut rows = 0;
            for share in &shares {
                let mut dealt: HashMap<_, Vec<*const Op>> = HashMap::new();
                let ops = share.iter().flat_map(|batch| &batch.ops).copied();
                ops.for_each(|op| dealt.entry((&op.entity, &op.row_id)).or_default().push(op));
                rows += dealt.len();
                assert!(dealt.iter().all(|(row, ops)| given[row] == *ops));
            }
            assert_eq!(rows, given.len(), "every row is dealt, to one writer");
        }
    }
}
