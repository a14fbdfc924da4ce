//! The ring: a fixed window of the latest records, with any number of writers and readers, and
//! without a lock.
//!
//! It knows no event. A record is a fixed part `M` (copied) and a text in three parts; its number
//! is its *seq*. Seqs are handed out by one atomic counter, densely, and never twice.
//!
//! # State
//!
//! ```text
//!   last ──► 1000          positions: N = ceil(capacity / S) + 2 pointers
//!                           ┌──────────┬──────────┬──────────┬──────────┐
//!   seq ─► segment ─► slot  │ base 768 │ base 896 │ base 512 │ base 640 │    S = 128
//!        (seq / S) % N      └────┬─────┴──────────┴──────────┴──────────┘
//!                                ▼
//!                          segment: base, S slots      slot: stamp, fixed part, text or its block
//! ```
//!
//! `last` is the highest seq handed out. A *segment* covers the S seqs from its `base`. A *slot*
//! belongs to one seq in each life of its segment, and holds that seq's record exactly when its
//! *stamp* equals the seq. The *window* is the last `capacity` seqs: what lies before it is out of
//! reach, whatever memory still holds. A text that does not fit the slot lies in a [`Block`] that
//! the slot owns (it is *spilled*).
//!
//! # Protocol by role
//!
//! *Writer* ([`Claim`]). Everything that can fail or take long is done before the
//! claim: a long text is spilled, the thread's *reservation* made (see `reservation`). Then: claim
//! seqs with one `fetch_add`; find the segment; write the record; store the stamp; end the
//! reservation. Seqs claimed together are published **back to front**: a reader stops at the first
//! slot that is not stamped, so it meets a batch either before its first record is stamped, and
//! sees none of it, or after, and then all the others are stamped too.
//!
//! *Conditional writer* ([`Ring::claim_if`]). A writer that wants its seqs to follow a certain one
//! claims by a compare-and-swap of `last` in place of the `fetch_add`. If that fails, it holds no
//! seq and has loaded no position: it ends its reservation, and nothing has happened.
//!
//! *Installer.* A writer whose position holds no segment, or an older one, takes a fresh segment
//! (from the pool, else from the allocator), sets its base and swaps it in by compare-and-swap. The
//! loser of the race gives its segment back and uses the winner's. The winner retires the old one,
//! for which it pins the epoch.
//!
//! *Late writer.* A writer that stalled after its claim may find a *newer* segment in its position:
//! it was lapped. Its record is dropped and counted as *superseded*. If it had found its segment
//! before stalling, it finishes its write there: the segment may be retired, but is not reused
//! while the writer's reservation is active. In neither case can it touch a slot of a newer seq.
//!
//! *Reader* ([`Run`]). Pins, checks its start against the window, and walks the slots while stamp
//! and seq agree. If it meets a newer segment on the way, everything that it was after has left the
//! window (R6), so it starts over and is told so by the window check: a walk is repeated at most
//! once.
//!
//! *Reclaimer.* A retired segment is handed to the epoch; when every reader that could have seen it
//! is gone, it goes to a small pool for its next life, or back to the allocator when the pool is
//! full: in either case only if every reservation is inactive, or of a later era than the one in
//! which the segment was unlinked.
//! Stamps are not reset: a stale stamp is smaller than every seq of a later life.
//!
//! *Evictor* (`bytes`). If the window is bounded in bytes, a writer that has published counts
//! what is published, moves the floor, and has the blocks of evicted records taken out of their
//! slots. The argument stands in `bytes`.
//!
//! *Blocks* outlive the records that they were made for. The next writer of a slot, in a later life
//! of its segment, takes the block away and keeps it for its own next long text; what it is about
//! to spill, it has put into such a block before it claimed. So each append of a long text
//! exchanges two blocks: in steady state none is allocated and none is freed. It would mostly be
//! another thread that frees than allocated, which allocators are slow at. What is held is one
//! block for each slot whose last record was long.
//!
//! # Invariants
//!
//! - **R1** Every seq is handed out once; only its owner writes its slot.
//! - **R2** The base of the segment in a position only ever grows; the base of a reachable segment
//!   never changes.
//! - **R3** A record is read only after an Acquire load of its stamp that returned its seq.
//! - **R4** Segment memory is touched only under a guard taken before its pointer was loaded, and
//!   reused only after every such guard is gone. A reader's guard is a pin of the epoch, a writer's
//!   its reservation.
//! - **R5** Claim → publish runs no code of users and nothing that can panic.
//! - **R6** A segment is replaced only when all its seqs are out of the window.
//!
//! R6 is arithmetic. A segment with base *b* is replaced by one with base ≥ *b* + N·S, on behalf of
//! a seq ≥ that, so `last` ≥ *b* + N·S and the window starts at `last` + 1 − capacity ≥ *b* + N·S +
//! 1 − capacity. With N ≥ capacity / S + 1 this is past *b* + S, which is all that R6 asks. The
//! second spare segment keeps a reader at the window's end from being lapped by the next two
//! appends (see `Geometry::new`).
//!
//! # Barriers
//!
//! Everything not named here is `Relaxed`. Each name stands at both ends, in `order`.
//!
//! | name | earlier | later | what it carries |
//! | --- | --- | --- | --- |
//! | publish | writer: stamp store, Release (A) | reader: stamp load, Acquire (B) | the record, and for a batch all records behind it (R3) |
//! | install | installer: position compare-and-swap, Release (A) | anyone: position load, Acquire (B) | the segment's base and slots (R2); that `last` had passed the window of the segment before it (R6) |
//! | pool | thread that recycles a segment: compare-and-swap into the pool, Release (A) | thread that takes it: swap, Acquire (B) | the end of its last life: no thread writes it any more |
//! | memo | observer: `published_upto` max, Release (A) | observer: `published_upto` load, Acquire (B) | the stamps that the first observer saw: a caller that is told head = n can read n |
//! | floor | counting writer: floor store, Release (A) | reader: floor load, Acquire (B) | the stamps that it counted, and so that `last` is not below the seq before the floor |
//! | reap | thread to which a floor comes back from the epoch: `reapable` max, Release (A) | reaper: `reapable` load, Acquire (B) | the end of the readers that could reach what is below it |
//! | count | counting writer or reaper: unlock, full fence | publisher, or thread to which a floor comes back: full fence, attempt at the lock | see `bytes` |
//! | pin | reader: full fence in `pin` | reclaimer: epoch advance (`crossbeam-epoch`) | unlinked segments stay untouched while a guard lives (R4) |
//! | announce | writer: the claim's `fetch_add`, or its compare-and-swap that succeeds, `AcqRel` (A) | installer: `fetch_add(0)` on `last` after it unlinked a segment, `AcqRel` (B), or the other way round | the writer's reservation to the installer and what it hands the segment to, or the unlinking to the writer (R4) |
//! | enter | writer: store of an era to its reservation, Release (A) | reclaimer: load of the reservation (leave:B) | what the thread wrote under an earlier era |
//! | leave | writer: store of `INACTIVE` to its reservation, Release (A) | reclaimer: load of the reservation, Acquire (B) | all that the writer wrote, and that it is done |
//! | register | thread: compare-and-swap of the list's first, Release (A) | any thread: load of the list's first, Acquire (B) | the reservations in the list, and their links |
//! | vacate | thread that ends: store to `owned`, Release (A) | thread that acquires the reservation: compare-and-swap, Acquire (B) | what the former owner stored in it: that happened before what this one stores |
//!
//! **`last` needs no ordering for its own sake.** It is only ever changed by read-modify-writes,
//! which read the latest value in any ordering, so seqs are dense and unique (R1); what *announce*
//! orders is other things. Its readers need one thing: not to miss what they have proof of. A
//! reader holding cursor *c* got it from a walk that acquired stamp *c* (publish), and *c*'s
//! `fetch_add` comes before that stamp store: by coherence the reader's later load of `last` is ≥
//! *c*, so it is never told that its own cursor lies ahead. The same through *install*: a thread
//! that meets a newer segment sees a `last` that puts the older one out of the window.
//!
//! **A conditional claim succeeds exactly if nothing was claimed since.** Let C be a
//! compare-and-swap of `last` from *c* to *c* + *n*, with *n* > 0, and A any other claim of at
//! least one seq. Both are read-modify-writes of `last`, so one comes first.
//!
//! 1. A comes first. `last` only grows, so C reads *c* only if *c* counts A's seqs. C's caller then
//!    named A's seqs as the ones to follow.
//! 2. C comes first and succeeds. A reads at least *c* + *n*: if A is a compare-and-swap from *c*
//!    as well, it fails. So of the claims that are conditional on one seq, one succeeds at most.
//!
//! There is no ABA, because `last` never returns to a value. A claim that fails is `Relaxed`: it
//! hands out nothing and follows no pointer. The seq that it reports may not be published yet.
//! Where the argument of *announce* speaks of the claim, the compare-and-swap that succeeds takes
//! its place: it is a read-modify-write with the same ordering, and on x86-64 a full fence as well.
//!
//! **Late writer against installer, both orders.** Both act on one position: the late writer loads
//! it, the installer swaps it.
//!
//! 1. The load comes first. The writer holds the older segment, under a reservation made before the
//!    load. So that memory is not reused before the reservation ends (R4), and its slot has no
//!    other owner (R1).
//! 2. The swap comes first. The load returns the newer segment, whose base says so (install), and
//!    the record is dropped.
//!
//! There is no third case, because the writer decides on the segment that it loaded and on nothing
//! else.
//!
//! **A writer sees the unlinking, or the reclaimer sees its reservation** (announce). The writer
//! stores the current era to its reservation, claims, and loads a position. The installer swaps the
//! position, adds zero to `last`, and takes the segment's era from the count of eras. The claim and
//! the addition are read-modify-writes of `last`, so one happens before the other.
//!
//! 1. The addition comes first. Then the swap happens before the writer's load, which cannot return
//!    the old segment.
//! 2. The claim comes first. Then the store to the reservation happens before everything that the
//!    installer does after its addition, and so before the reclaimer's load of the reservation: the
//!    segment travels from the installer to it through epoch and pool. That load returns what the
//!    writer stored, or something later.
//!    1. It returns the writer's era. That is at most the segment's: the segment's was taken from
//!       the count after the addition, so a writer that had read a later one would come after the
//!       addition, as in case 1. So the segment is left alone.
//!    2. It returns `INACTIVE`, or a later era than the segment's (the writer is back, for another
//!       claim). Then what the writer did before is visible (leave, enter), and its loads are over.
//!
//! Readers do not add to any counter, so they pin.
//!
//! **The unlinking need not be pinned.** Retirement pins the epoch only after the swap. A reader
//! that could load the old pointer had its pin's fence before the one with which `crossbeam-epoch`
//! dates garbage, so that the date is not before the pin's epoch.
//!
//! **A slot's block** is its record's text in one life, and in a later one its next writer's to
//! take. (1) Readers of the earlier life are gone: they were pinned, and the segment was not used
//! again before their guards had ended (R4). (2) The earlier writer's stores are visible: it had a
//! reservation, and what orders the end of that before the segment's next life (leave, then
//! install) orders them. The same goes for the segment's mark that its slots may have blocks, which
//! is stored, Relaxed, before the first block is put: a writer whose slot has a block finds the
//! mark set. The mark saves the other writers from waiting for a slot's line to arrive before they
//! can write to it.
//!
//! **A compare-and-swap cannot be fooled** by a segment that left and came back (ABA): the expected
//! pointer was loaded under the guard still held, and memory is not reused under it (R4).
//!
//! # Sources
//!
//! Stamped slots and the gap at which readers stop: the LMAX Disruptor's sequencer. Refusing the
//! lapped writer rather than waiting for it: the Linux `printk_ringbuffer`, turned round: there the
//! next lap is refused, here the late one. Epochs: Keir Fraser's thesis, as made by
//! `crossbeam-epoch`. A thread's copy of a global count, as in userspace RCU (Desnoyers and others,
//! `liburcu`): the reservations, their fence left to an instruction that is there anyway. The words
//! reservation and era are those of the crate `seize`.

mod block;
mod bytes;
mod chain;
mod geometry;
mod order;
mod pool;
mod positions;
mod reader;
mod reaper;
mod reservation;
mod segment;
mod slot;
mod state;
mod writer;

pub(crate) use block::{Block, Parts, total};
pub(crate) use geometry::Geometry;
pub(crate) use reader::{Missed, Run};
#[cfg(loom)]
pub(crate) use reservation::WriteGuard;
pub(crate) use slot::MIN_SLOT_SIZE;
pub(crate) use state::Ring;
pub(crate) use writer::{Claim, Text};

#[cfg(all(test, not(loom)))]
mod tests;
