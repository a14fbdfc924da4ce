#![forbid(unsafe_code)]
//! From changes to records: everything that can fail, allocate or take long happens here, before a seq is claimed.

use crate::event::Change;
use crate::record::Meta;
use crate::ring::{Block, Parts, Ring};
use crate::spill;
use crate::sync::epoch::Guard;
use serde_json::Value;
use std::cell::Cell;
use std::ops::Range;

/// What a thread keeps from one append to the next, so that appending allocates nothing.
#[derive(Default)]
struct Scratch {
    /// Data that had to be written out as text.
    written: Vec<u8>,
    /// The changes of a batch, all done but for the claim.
    staged: Vec<Staged>,
    /// Blocks that slots gave up while it was published.
    spares: Vec<Block>,
}

/// One change of a batch, ready to be published.
struct Staged {
    meta: Meta,
    /// Where its data lies in the scratch, if it was written there.
    written: Option<Range<usize>>,
    /// Its text, if it is too long for a slot.
    block: Option<Block>,
}

/// More scratch than this is given back after use: one huge change does not stay in every thread's memory.
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
    scratch.staged.shrink_to(KEPT_SCRATCH / size_of::<Staged>());
    scratch.spares.shrink_to(KEPT_SCRATCH / size_of::<Block>());
    // Where there is no place to keep it any more, it is dropped.
    let _ = SCRATCH.try_with(|place| place.set(Some(scratch)));
    result
}

/// Appends one change. Returns its seq.
#[inline]
pub(crate) fn one(
    ring: &Ring<Meta>,
    change: &Change<'_>,
    timestamp: u64,
    pin: impl FnOnce() -> Guard,
) -> u64 {
    let append = |json: &str| {
        if cfg!(ringlog_fault = "lay_out_after_claim") {
            let (guard, mut claim) = (pin(), ring.claim(1));
            let meta = Meta::new(change, json.len(), timestamp);
            claim.publish_last(&guard, meta, [change.entity, change.row_id, json]);
            return claim.finish(&guard);
        }
        let meta = Meta::new(change, json.len(), timestamp);
        let (entity, row_id) = (change.entity, change.row_id);
        let (seq, spare) = if ring.fits(entity.len() + row_id.len() + json.len()) {
            ring.append(&pin(), meta, [entity, row_id, json])
        } else {
            spilled(ring, meta, entity, row_id, json, pin)
        };
        if let Some(block) = spare {
            spill::keep(block);
        }
        seq
    };
    ring.prefetch_claim();
    match change.data.text() {
        Ok(json) => append(json),
        Err(value) => with_scratch(|scratch| {
            write_out(&mut scratch.written, value);
            append(as_text(&scratch.written))
        }),
    }
}

/// Appends one change that is too long for a slot. Each part of its text for itself: an array would be in memory, for those
/// who do not come here too.
#[cold]
fn spilled(
    ring: &Ring<Meta>,
    meta: Meta,
    entity: &str,
    row_id: &str,
    json: &str,
    pin: impl FnOnce() -> Guard,
) -> (u64, Option<Block>) {
    let block = spill::spill([entity, row_id, json]);
    let guard = pin();
    let mut claim = ring.claim(1);
    let spare = claim.publish_last_spilled(&guard, meta, block);
    (claim.finish(&guard), spare)
}

/// Appends changes with contiguous seqs, published as one. Returns the first seq and the one after the last.
pub(crate) fn batch(
    ring: &Ring<Meta>,
    changes: &[Change<'_>],
    timestamp: u64,
    pin: impl FnOnce() -> Guard,
) -> Range<u64> {
    with_scratch(|scratch| {
        let Scratch { written, staged, spares } = scratch;
        // Of a batch longer than the window, the front has left it before it could be seen.
        let unseen = changes.len().saturating_sub(ring.geometry().capacity().max(1) as usize);
        for (index, change) in changes.iter().enumerate() {
            let start = written.len();
            let (mut one, len) = stage(change, timestamp, written);
            if !ring.fits(len) && index >= unseen {
                one.block = Some(spill_staged(change, &written[start..]));
            }
            staged.push(one);
        }
        let written = as_text(written);
        spares.reserve(changes.len());
        ring.prefetch_claim();
        let guard = pin();
        let mut claim = ring.claim(changes.len() as u64);
        for (change, staged) in changes.iter().zip(staged).skip(unseen).rev() {
            let spare = match staged.block.take() {
                None => claim.publish_last(&guard, staged.meta, parts(change, staged, written)),
                Some(block) => claim.publish_last_spilled(&guard, staged.meta, block),
            };
            spares.extend(spare);
        }
        claim.supersede_last(unseen as u64);
        let first = claim.finish(&guard);
        drop(guard);
        spares.drain(..).for_each(spill::keep);
        first..first + changes.len() as u64
    })
}

/// Writes a change's data out if it is no text yet, and checks its length. Returns the length of its text, too.
#[inline]
fn stage(change: &Change<'_>, timestamp: u64, scratch: &mut Vec<u8>) -> (Staged, usize) {
    let start = scratch.len();
    let (written, data_len) = match change.data.text() {
        Ok(json) => (None, json.len()),
        Err(value) => {
            write_out(scratch, value);
            (Some(start..scratch.len()), scratch.len() - start)
        }
    };
    let staged = Staged { meta: Meta::new(change, data_len, timestamp), written, block: None };
    (staged, change.entity.len() + change.row_id.len() + data_len)
}

/// The text of a change that is too long for a slot, in a block. `written` is its data, if it was no text.
#[cold]
fn spill_staged(change: &Change<'_>, written: &[u8]) -> Block {
    let json = change.data.text().unwrap_or_else(|_| as_text(written));
    spill::spill([change.entity, change.row_id, json])
}

/// The text of a staged change, in its parts.
#[inline]
fn parts<'a>(change: &'a Change<'_>, staged: &Staged, written: &'a str) -> Parts<'a> {
    let json = match &staged.written {
        Some(range) => &written[range.clone()],
        None => change.data.text().unwrap_or_default(),
    };
    [change.entity, change.row_id, json]
}

fn write_out(scratch: &mut Vec<u8>, value: &Value) {
    serde_json::to_writer(scratch, value)
        .unwrap_or_else(|error| unreachable!("a Value has string keys, and a Vec takes every byte: {error}"));
}

fn as_text(written: &[u8]) -> &str {
    std::str::from_utf8(written).unwrap_or_else(|error| unreachable!("serde_json writes UTF-8: {error}"))
}
