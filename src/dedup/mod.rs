//! The op-id memory: which client operations are in flight, and which were completed.
//!
//! It answers two questions. *Was this id completed?* is asked often, and mostly answered with no:
//! a filter answers it without looking at any id. *May I apply it?* is asked once for each
//! operation, and answered by one CAS: of any number of threads that ask about one id at a time,
//! one may.
//!
//! # State
//!
//! - `completed` counts the ids that were ever completed. Completing an id takes a *ticket* from
//!   it; tickets are the order of completion, over all shards. An id is remembered while fewer than
//!   `capacity` tickets are younger than its own.
//! - A **shard** is chosen by the low bits of an id's hash, which is keyed for each log: a client
//!   that chooses ids cannot choose shards; see [`hash`]. It has twelve **slots** and a **control
//!   word**. The word says of each slot whether it is vacant, reserved or filled, and by an id of
//!   which tag; and it has a version.
//! - A slot holds an **entry**: the id itself, the fingerprint of the change that it was claimed
//!   for, if the claimer gave one, and its state, which is one atomic word: in flight, completing,
//!   or completed with a ticket. Ids are compared byte for byte; tags only save comparisons. Id and
//!   fingerprint never change.
//! - The **filter** has as many pieces as there are shards, and a hash of its own that leads to an
//!   id's piece; see [`bloom`].
//! - The **order** of completion has a position for each remembered id, and in it the place of its
//!   entry.
//! - All of these are the **set**, which is *built* when the first id is entered; see [`lazy`].
//!   Before that there is none, and no id is remembered.
//!
//! # Protocol
//!
//! **Claim.** Read the control word; look at the entries in filled slots of the id's tag. If a live
//! one is the id's, that is the answer, with the seq and the fingerprint that it has. Otherwise
//! reserve a vacant slot (CAS), put a new entry into it, and fill the slot (CAS): *that* CAS is the
//! claim. It fails if the control word changed; if its version did, the shard has gained or lost an
//! id, or was split, and the claimer looks again before it tries again.
//!
//! **Complete.** Take a ticket. Set the bits of the ticket's generation in the filter. Store the
//! seq, then the state. Exchange the entry's place with what is at position `ticket % capacity` of
//! the order: that is the id completed `capacity` tickets earlier, now expired. Vacate its slot.
//!
//! **Forget.** Vacate the slot.
//!
//! **Vacate.** Empty the slot, then say so in the control word. Between the two a look finds a
//! filled slot with nothing in it, and passes on.
//!
//! **Look up.** Test the filter; if it lets the id through, look at the entries as a claimer does.
//!
//! **Remember** (the call that knows no claims) reads `completed` as `n`, sets the bits of ticket
//! `n + 1`, and enters the id in state `Completing(n)`, which counts as completed. Then it takes a
//! ticket, sets its bits, and exchanges the state for `Completed` by a CAS.
//!
//! **Rely.** An answer that finds a state `Completing(m)`, be it to a look-up, a claim or another
//! thread that remembers the id, reads `completed` as `x`. If `x > m`, it sets the bits of ticket
//! `x + 1` and exchanges the state for `Completing(x)` by a CAS; if that fails, it looks again. The
//! thread that remembers the id may only store a ticket that had not expired at the count in the
//! state. If its own had, it takes another.
//!
//! **Split.** A claimer that finds no vacant slot adds two child shards, and marks the shard as
//! split. From then on no slot of it can be filled: the mark changes the version, and a claimer
//! that sees it goes on to a child, so that the one control word of the child decides. The entries
//! of a split shard stay until they expire.
//!
//! # Invariants
//!
//! - **D1** A completed id is never missed by a look-up: from the return of `complete` or
//!   `remember` until `capacity` tickets younger than its own are taken, the filter lets it through
//!   and its entry is found.
//! - **D2** A claim never trusts the filter. It is answered by entries alone.
//! - **D3** At most one live entry per id: slots are filled by a CAS that fails if any id came or
//!   went since the claimer looked, and none is filled in a shard that is split.
//! - **D4** A slot has one owner from the CAS that reserves it to the one that makes it vacant, and
//!   only the owner puts, completes or empties: first the claimer; then, from the exchange in
//!   `complete` on, the position of the order; then the one thread that took the place out of
//!   there. So an entry in flight stays where it is for as long as its claim does.
//! - **D5** What is exchanged into the order comes out of it once: places only ever move by `swap`.
//!   Of the two that meet there, the younger is put back and the older vacated.
//! - **D6** What is built on demand, the set and the children of shards, is published once, never
//!   replaced, and freed with what holds it. So there is one set, and shards stay where they are as
//!   long as it lives.
//! - **D7** Of an id in state `Completing(m)` the bits of ticket `m + 1` are set, and no ticket is
//!   stored in its stead that had expired when `m` ids were completed.
//! - **S1** A value in a slot is not written to between `put` and its end (but for its own
//!   atomics).
//! - **S2** A value is alive while its slot has a share in it or a reference to it is out.
//! - **S3** A value is freed once, by the operation that brings its balance to nought; after that
//!   no thread can get at it, for it left its slot before.
//!
//! # By ticket
//!
//! "The last `capacity` completed ids" are those of the last `capacity` tickets, and a ticket is
//! taken before its id can be seen as completed. So the memory is not one atomic queue. While
//! `complete` of an id runs, that id may not be seen yet, and the one that its ticket expires may
//! be gone already: with a capacity of 1, a look-up may find neither. And an id whose completer
//! sleeps after it has taken its ticket can be expired when `complete` returns: `capacity` younger
//! tickets were taken meanwhile. What holds in every case: an id is not seen before its completion
//! began, no two claims on one id proceed while its ticket is one of the last `capacity`, and at
//! rest exactly the ids of the last `capacity` tickets are remembered.
//!
//! # Orderings
//!
//! | at | what | pairs with | so that |
//! | --- | --- | --- | --- |
//! | `control:A` | the CAS that fills a slot, Release | `control:B`, loads of the control word, Acquire | a thread that sees a slot filled finds the entry in it |
//! | `control:C` | the CAS that vacates, Release | `control:B` | the next entry is put after the last was taken out; a thread that finds the next entry in a slot sees the version of its predecessor's end; and a thread that misses an expired id sees the ticket that expired it |
//! | `control:E` | the CAS that splits, Release | `control:B` | a thread that sees the mark finds the children |
//! | `lazy:A` | the CAS that publishes the set, or children, Release | `lazy:B`, the load that finds them, or the CAS that fails, Acquire | they are found fully made |
//! | `slot:A` | the store that puts, Release | `slot:B`, the count that takes a reference, Acquire | an entry is seen as it was made, also through an old control word |
//! | `slot:E` | the swap that empties, Release | `slot:F`, a look that finds nothing, Acquire | a thread that may proceed with a forgotten id sees what its last holder did |
//! | `slot:C` | giving a reference back, Release | `slot:D`, one more load before freeing, Acquire | every use of a value happens before its end |
//! | `complete:A` | the store or CAS of the state, Release | `complete:B`, its load, Acquire | a thread that sees an id completed, or completing, sees its seq, its bits, and what was done before |
//! | `bloom:A` | setting bits, Release | `bloom:B`, testing them, Acquire | a thread that misses an id because a younger generation took its word sees the ticket that did |
//! | `bloom:A` | as above | `bloom:C`, the load before setting them, Acquire | a late completer that meets a younger generation sees that its own ticket has expired |
//! | `order:A` | the exchange of places, as a store | `order:B`, as a load (both `AcqRel`) | the new owner of a place sees the entry as its last owner left it |
//!
//! Everything else is Relaxed: the ticket counter, which only has to count, what is compared by a
//! CAS that comes later, and the CAS that reserves a slot. That one needs no Acquire of its own.
//! The word that it replaces is the very word that `control:B` has read: a value comes back only
//! with another version, since a reserved slot becomes vacant only by a step that changes the
//! version. So the load has acquired already whatever the CAS could.
//!
//! # Arguments
//!
//! **Two builders** of the set, or of a shard's children, are two CASes on one pointer; the one
//! that finds it null succeeds. (1) If the second builder loaded the pointer after the first one's
//! CAS, it finds what was published, fully made (`lazy:A`, `lazy:B`), and builds nothing. (2) If it
//! loaded it before, it builds as well, but its own CAS fails, for the pointer is never null again
//! (D6). That failure finds what was published as in case 1, and what it built, which no other
//! thread has seen, is dropped. So two first claims on one id are two claims in one set.
//!
//! **A look-up that finds no set** answers no. (1) No id was completed yet: that is true. (2) One
//! was: its completer had found the set or published it. A look-up that begins after `complete`
//! returned finds no older value of the pointer, which is one location, so that it finds the set.
//! D1 asks about no other.
//!
//! **Two claims on one id** are two CASes on one control word. (1) If the second claimer read the
//! word after the first one's CAS, it finds the entry (`control:A`, `control:B`). (2) If it read it
//! before, its own CAS fails, for the version has changed; it looks again and is in case 1.
//!
//! **A split between two claims on one id**: the first claimer has reserved a slot, the second
//! finds none and splits. (1) The first one's CAS that fills comes before the split's: the second,
//! which looks again after it, finds the entry (`control:A`, `control:B`). (2) It comes after: it
//! fails, for the split has changed the version. The first claimer sees the mark, gives its slot
//! up, and goes on to a child, where both meet in one control word again.
//!
//! **A claim that finds an entry in flight** may have found one that is not the shard's yet: it
//! read an old control word, and the slot was vacated and reserved again since. It then reads the
//! control word once more. (1) The version is the same: no slot was vacated meanwhile, so that the
//! entry was there all the time. (2) It is not: look again. If the entry was put after an older one
//! was taken out, the claimer got it by `slot:B` from a put (`slot:A`) that happens after the
//! vacation (`control:C`, `control:B`), so that it sees the changed version. The same holds of an
//! entry that is completing.
//!
//! **Complete against look-up.** (1) The look-up reads the state before it is stored: the id is in
//! flight, and the call that completes it has not returned. (2) After: by `complete:A`, the bits
//! are set. D1 asks about look-ups that begin after `complete` returned; those see the bits or what
//! replaced them, for the word of the filter is one location.
//!
//! **Two that remember one id.** Thread A has entered it and sleeps, before or after it took ticket
//! `t`; thread B finds `Completing(m)` and reads `completed` as `x`. The state is one location, so
//! there are two orders. (1) A's CAS to `Completed(t)` comes first. B's CAS fails, or B has seen
//! the result at once: B looks again, and finds an id that is live, or enters it anew. (2) B's CAS
//! to `Completing(x)` comes first (or `x ≤ m`, and an earlier one with a count as high did). A's
//! CAS must exchange that state, so A has seen `x`: it stores `t` only if `t + capacity > x`, so
//! that the id was among the last `capacity` when B read the count; else it takes another ticket.
//! In both cases the id is seen after B has returned, until `capacity` tickets are taken that B had
//! not counted: by its state up to then `Completing` or `Completed`, and in the filter by the bits
//! of ticket `x + 1`, which B or the thread that stored the count has set before (D7,
//! `complete:A`), and then by those of A's ticket. A ticket that A gives up was out of the window
//! when it did; until then the id itself, completing, stood in its place. So each id takes one
//! place of the window, however many threads remember it at once.
//!
//! **Rotation against a completed id.** The bits of ticket `t` go to the word of generation `g = t
//! / G`, and `G` is at least the capacity. They are lost only when a ticket of generation `g + 2`
//! or later replaces the word; such a ticket is at least `(g + 2) × G ≥ t + G + 1`, and `t` has
//! expired. (1) Bits set before the word is replaced were good for as long as the id was. (2) The
//! word was replaced before (the completer slept between its ticket and the filter). The completer
//! loads a word of another generation, with Acquire (`bloom:C`), so that it sees a `completed` of
//! at least that ticket: its own has expired, and it leaves the word as it is. (3) The word is of
//! another generation and the completer's ticket has not expired: by 2 that generation is an older
//! one, whose ids have all expired, and the word is replaced. Tags decide nothing here, since they
//! go round and a word may sleep for any number of generations.
//!
//! **Forget against claim** of the same id: (1) the claimer reads the entry before it is taken out,
//! and answers *in flight*, which it is until the forgetting returns; (2) it reads an empty slot or
//! a vacant one, and may fill another: the id has no live entry any more.
//!
//! **Completers that are late.** A completer `t` may sleep before its exchange while `t + capacity`
//! comes to the same position and takes out `t − capacity`. It then receives the place of `t +
//! capacity`, which is the younger: puts it back, receives its own place (or again a younger one),
//! and vacates that. Each exchange leaves one place at the position and one in hand; the loop ends
//! with the older of the two vacated.
//!
//! **References.** A slot's word counts the references taken over it (`c`), a value's balance
//! starts at `SHARE`; `c + balance − SHARE` references are out while the value is in the slot.
//! Emptying replaces the word by nothing and takes `SHARE − c` off the balance, which from then on
//! *is* the number of references out, and no thread can take another. (1) If it is nought, the
//! thread that emptied the slot frees; (2) otherwise the last one to give back does. Each decrement
//! is one atomic operation, so that exactly one of them reaches nought.
//!
//! **Fingerprints.** An entry has its fingerprint from the put on, so that a claim that finds the
//! entry sees it (`slot:A`, `slot:B`). They are compared only when the id is completed. While it is
//! in flight its claim may yet be forgotten, and then the id was used for no change: a claim for
//! another change is told *in flight*, and is to come back. An entry without a fingerprint (its
//! claimer knew of no change: `claim_op_id`, `remember_op_id`) agrees with every claim, and a claim
//! without one with every entry. So those calls answer as if there were no fingerprints, and mix
//! with pushes in any order: the first that enters an id decides whether it has one.
//!
//! **Progress.** A claim is lock-free: its CAS fails only because another claim, completion or
//! forgetting got further. So is building: no thread waits for the one that began first. A
//! completion is lock-free likewise: to remember an id takes another ticket only if `capacity`
//! others were taken meanwhile. A look-up is wait-free, with two exceptions that are lock-free: it
//! looks again if it finds an id that another thread is just then remembering while its shard or
//! its state changes, and once in half a million references to one entry the word's count has to be
//! moved.
//!
//! # Bounds
//!
//! With `C` the capacity, `B` the shards (half of the power of two from `C` up, at least 16), `F`
//! claims in flight, `T` threads inside a call, `P` splits and `L` the length of the longest id,
//! its client's id included (0 if that is at most 77 bytes):
//!
//! - entries ≤ `C + F + 2 T` at any time: a completed one is in the order (`C` positions) or in the
//!   hands of a completer, and a thread may have one more that it is about to enter or is looking
//!   at;
//! - heap bytes ≤ `256 + 144 B + 256 P + 8 C + (112 + L) × entries`, the allocator's own overhead
//!   and what alignment takes aside; none before the first id is entered. An entry's 112 bytes are
//!   77 for the id, 8 for the fingerprint, and the state, the seq, lengths and the count of
//!   references. While first ids race, each racer may have built `256 + 144 B + 8 C` of its own,
//!   nearly all of it never written to, until it learns which was published.
//!
//! There is nothing else: no garbage waits for anything. A split takes twelve ids in one shard at a
//! time. With two ids to a shard, the most unless many are in flight, about one claim in a million
//! splits one; its children, with half of the ids each, are a thousand times less likely to. They
//! are kept until the log is dropped.
//!
//! # Why not epochs
//!
//! An epoch frees nothing while any thread is pinned, and with more threads than cores there nearly
//! always is one that was preempted while it was. Then every claim takes cold memory from the
//! allocator. Entries with counted references are freed by the last thread that lets go, at once:
//! what a suspended thread holds up is the one entry that it looks at. Claims change the slots in
//! place, with one allocation for each id. `benches/op_ids.rs` measures it beside a mutex around a
//! map.
mod bloom;
mod claim;
mod control;
mod entry;
mod hash;
mod lazy;
mod memory;
mod set;
mod shard;
mod slot;
mod table;
#[cfg(all(test, not(loom)))]
mod tests;

/// What the models look at.
#[cfg(loom)]
pub(crate) mod model {
    pub(crate) use super::entry::OpId;
    pub(crate) use super::hash::Hashes;
    pub(crate) use super::lazy::Lazy;
    pub(crate) use super::set::{Claim, Held, Set};
    pub(crate) use super::slot::Slot;
}

pub(crate) use claim::OtherChange;
pub use claim::{OpClaim, OpGuard};
pub(crate) use entry::OpId;
pub(crate) use memory::OpMemory;
