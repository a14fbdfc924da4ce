#![forbid(unsafe_code)]
//! Laying changes out as records, and appending them: one, a batch, a conditional batch.

use super::spill;
use crate::event::{Change, Meta};
use crate::json::write_value;
use crate::ring::{Block, Claim, Ring, Text, total};
use std::cell::Cell;
use std::convert::Infallible;
use std::ops::Range;

/// What a thread keeps from one append to the next, so that appending allocates nothing.
#[derive(Default)]
struct Scratch {
    /// Data that had to be written out as text.
    written: String,
    /// Texts of a batch's records that are not as the changes have them, by the changes' places in
    /// the batch.
    staged: Vec<(usize, Staged)>,
    /// Blocks that slots gave up while it was published.
    spares: Vec<Block>,
}

/// The text of a change in a batch, all done but for the claim.
enum Staged {
    /// The change has the names; its data was written out, and lies here in the scratch.
    Written(Range<usize>),
    /// Too long for a slot.
    Block(Block),
}

/// More scratch than this is given back after use: one huge change does not stay in every thread's
/// memory.
const KEPT_SCRATCH: usize = 64 * 1024;

thread_local! {
    static SCRATCH: Cell<Option<Box<Scratch>>> = const { Cell::new(None) };
}

/// Lends the thread's scratch, empty.
fn with_scratch<R>(work: impl FnOnce(&mut Scratch) -> R) -> R {
    // Taken out while in use: a thread that is being torn down gets one of its own.
    let mut scratch = SCRATCH.try_with(Cell::take).ok().flatten().unwrap_or_default();
    let result = work(&mut scratch);
    scratch.written.clear();
    scratch.written.shrink_to(KEPT_SCRATCH);
    scratch.staged.clear();
    scratch.staged.shrink_to(KEPT_SCRATCH / size_of::<(usize, Staged)>());
    scratch.spares.shrink_to(KEPT_SCRATCH / size_of::<Block>());
    // Where there is no place to keep it any more, it is dropped.
    let _ = SCRATCH.try_with(|place| place.set(Some(scratch)));
    result
}

/// Appends one change. Returns its seq.
#[inline]
pub(crate) fn one(ring: &Ring<Meta>, change: &Change<'_>, timestamp: u64) -> u64 {
    let append = |json: &str| {
        let (entity, row_id) = (change.entity, change.row_id);
        let meta = Meta::new(change.kind, timestamp);
        let (seq, recycled) = if ring.fits(total([entity.len(), row_id.len(), json.len()])) {
            ring.append(ring.enter(), meta, [entity, row_id, json])
        } else {
            spilled(ring, meta, entity, row_id, json)
        };
        if let Some(block) = recycled {
            spill::put(block);
        }
        seq
    };
    ring.prefetch_claim();
    match change.data.text() {
        Ok(json) => append(json),
        Err(value) => with_scratch(|scratch| {
            write_value(&mut scratch.written, value);
            append(&scratch.written)
        }),
    }
}

/// Appends one change that is too long for a slot. Each part of its text for itself: an array would
/// be in memory, also on the path that does not come here.
#[cold]
fn spilled(ring: &Ring<Meta>, meta: Meta, entity: &str, row_id: &str, json: &str) -> (u64, Option<Block>) {
    let block = spill::spill([entity, row_id, json]);
    let mut claim = ring.claim(ring.enter(), 1);
    let recycled = claim.publish_last(meta, block);
    (claim.finish(), recycled)
}

/// Appends changes with contiguous seqs, published as one. Returns the first seq and the one after
/// the last.
pub(crate) fn batch(ring: &Ring<Meta>, changes: &[Change<'_>], timestamp: u64) -> Range<u64> {
    let claim = |count| Ok::<_, Infallible>(ring.claim(ring.enter(), count));
    match batch_by(ring, changes, timestamp, claim) {
        Ok(seqs) => seqs,
        Err(never) => match never {},
    }
}

/// As [`batch`], if `last` is the highest seq handed out. Returns the highest if it is another.
pub(crate) fn batch_if(
    ring: &Ring<Meta>,
    last: u64,
    changes: &[Change<'_>],
    timestamp: u64,
) -> Result<Range<u64>, u64> {
    batch_by(ring, changes, timestamp, |count| ring.claim_if(last, ring.enter(), count))
}

/// Appends changes as a batch, on the seqs that `claim` claims. Its refusal is passed on.
#[inline]
fn batch_by<'r, E>(
    ring: &'r Ring<Meta>,
    changes: &[Change<'_>],
    timestamp: u64,
    claim: impl FnOnce(u64) -> Result<Claim<'r, Meta>, E>,
) -> Result<Range<u64>, E> {
    with_scratch(|scratch| {
        let Scratch { written, staged, spares } = scratch;
        // Of a batch longer than the window, the front has left it before it could be seen. It is
        // refused as the rest would be.
        let unseen = changes.len().saturating_sub(ring.geometry().capacity().max(1) as usize);
        let (unseen, seen) = changes.split_at(unseen);
        for change in unseen {
            drop(stage(ring, change, written));
            written.clear();
        }
        for (index, change) in seen.iter().enumerate() {
            match change.data.text() {
                Ok(json) if ring.fits(total([change.entity.len(), change.row_id.len(), json.len()])) => {}
                _ => staged.push((index, stage(ring, change, written))),
            }
        }
        spares.reserve(seen.len());
        ring.prefetch_claim();
        let mut claim = match claim(changes.len() as u64) {
            Ok(claim) => claim,
            Err(refusal) => {
                put_back(staged);
                return Err(refusal);
            }
        };
        let records = seen.iter().enumerate().rev().map(|(index, change)| {
            let in_slot = |json| Text::Parts([change.entity, change.row_id, json]);
            let text = match staged.pop_if(|(place, _)| *place == index) {
                None => in_slot(change.data.text().unwrap_or("")),
                Some((_, Staged::Written(range))) => in_slot(&written[range]),
                Some((_, Staged::Block(block))) => Text::Block(block),
            };
            (Meta::new(change.kind, timestamp), text)
        });
        claim.publish(records, |block| spares.push(block));
        if !unseen.is_empty() {
            claim.supersede_last(unseen.len() as u64);
        }
        let first = claim.finish();
        spares.drain(..).for_each(spill::put);
        Ok(first..first + changes.len() as u64)
    })
}

/// Keeps the blocks of a batch that is not appended for the thread's next long texts.
#[cold]
fn put_back(staged: &mut Vec<(usize, Staged)>) {
    for (_, staged) in staged.drain(..) {
        if let Staged::Block(block) = staged {
            spill::put(block);
        }
    }
}

/// What the change does not have as its slot will have it: its data written out, or all of its text
/// in a block.
///
/// Not in line, where it would be in the way of changes that need neither.
#[inline(never)]
fn stage(ring: &Ring<Meta>, change: &Change<'_>, written: &mut String) -> Staged {
    let start = written.len();
    if let Err(value) = change.data.text() {
        write_value(written, value);
    }
    let json_len = change.data.text().map_or(written.len() - start, str::len);
    if ring.fits(total([change.entity.len(), change.row_id.len(), json_len])) {
        return Staged::Written(start..written.len());
    }
    let json = change.data.text().unwrap_or(&written[start..]);
    let block = spill::spill([change.entity, change.row_id, json]);
    written.truncate(start);
    Staged::Block(block)
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    /// Each list is cut down to the limit, and no further: what lies below it is kept for the next
    /// append.
    #[test]
    fn a_thread_keeps_64_kib_of_each_scratch_after_a_huge_change() {
        with_scratch(|scratch| {
            scratch.written.reserve(1 << 20);
            scratch.staged.reserve(1 << 20);
            scratch.spares.reserve(1 << 20);
        });
        with_scratch(|scratch| {
            let kept = [
                scratch.written.capacity(),
                scratch.staged.capacity() * size_of::<(usize, Staged)>(),
                scratch.spares.capacity() * size_of::<Block>(),
            ];
            assert!(kept.iter().all(|bytes| (60 * 1024..=64 * 1024).contains(bytes)), "{kept:?}");
        });
    }
    /// Short texts, values and long texts in every order, with and without a front that is never
    /// seen.
    #[test]
    fn each_change_of_a_batch_keeps_its_own_text() {
        use crate::{Change, ChangeLog};
        let (value, long) = (serde_json::json!({"n": 1}), "x".repeat(500));
        let kinds = |n: usize| [n % 3, n / 3 % 3, n / 9 % 3, n / 27 % 3];
        for kinds in (0..81).map(kinds) {
            let names: Vec<_> =
                (0..4).map(|n| format!("r{n}{}", if kinds[n] == 2 { &long } else { "" })).collect();
            let changes: Vec<_> = names
                .iter()
                .zip(kinds)
                .map(|(name, kind)| match kind {
                    1 => Change::insert("Todo", name).with_value(&value),
                    _ => Change::delete("Todo", name),
                })
                .collect();
            for capacity in [3, 10] {
                let window = ChangeLog::with_capacity(capacity);
                assert_eq!(window.append_batch(&changes), 1..=4);
                let unseen = 4_usize.saturating_sub(capacity);
                let batch = window.read(unseen as u64, 100).expect("in the window");
                let seen: Vec<_> = batch.iter().map(|event| (event.row_id(), event.data_json())).collect();
                let data = |kind| (kind == 1).then_some(r#"{"n":1}"#);
                let expected: Vec<_> =
                    names.iter().zip(kinds).map(|(name, kind)| (&**name, data(kind))).collect();
                assert_eq!(seen, expected[unseen..]);
                assert_eq!(window.stats().superseded, unseen as u64);
            }
        }
    }
}
