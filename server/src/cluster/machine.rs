//! The machine: which frames are applied. A pure function of the frames in the order of the stream.
//!
//! All nodes have the same machine, so they decide alike. It knows no stream, no clock and no disk.
//!
//! # The rules, in their order
//!
//! A frame at position *p* has a claim (P, C), a session and a number n.
//!
//! 1. *p* − P > [`positions`](Memory::positions): [`Stale`](Verdict::Stale). What was decided then
//!    is forgotten.
//! 2. P ≥ *p*, or C is not the hash at P: [`Foreign`](Verdict::Foreign). Its node has seen another
//!    stream: this one was rolled back, or restored from a copy.
//! 3. More seqs are given after P, up to the last request of the frame, than op ids are remembered:
//!    *Stale*. An operation of it may have been applied and forgotten. Those that its other
//!    requests get count by the most changes that their bytes can hold.
//! 4. n is not above the session's last: [`Duplicate`](Verdict::Duplicate), it was decided.
//! 5. The session is unknown and n is not 1: [`Unknown`](Verdict::Unknown).
//! 6. n is not the session's last + 1: [`Gap`](Verdict::Gap), one before it is missing.
//! 7. Else [`Applied`](Verdict::Applied).
//!
//! # Why an operation is applied once
//!
//! The operation comes in one frame twice, or in two.
//!
//! - *One frame, stored twice.* (1) Its session is known at the second copy: rule 4. (2) It is
//!   forgotten: it was last applied at least [`positions`](Memory::positions) ago, and the frame's
//!   P lies before that: rule 1. So sessions are forgotten by position, and by nothing else.
//! - *Two frames*, of two nodes or of two lives of one: the op id is remembered since the first,
//!   and the second is a replay; or it is forgotten. Then more seqs were given since the first
//!   than op ids are remembered. (1) The second's P lies before the first: rule 3. (2) It does
//!   not. P is the position that the second's node had applied when it took the request (or an
//!   earlier one), and stays so in whatever session the frame is sent: so the node had applied the
//!   first, and the client repeated what it could have been answered. From the first until the
//!   repetition is decided it has the time of `op_ids` others, as on a single server.
//!
//! Rule 1 comes before rule 4: a forgotten session has no last n. Rule 2 comes before rule 3, for
//! the seq at P is known only if P is of this stream.
//!
//! # Reset
//!
//! An operator puts a frame into the stream that [resets](Frame::reset) the log, after the stream
//! was rolled back: seqs that clients have seen were lost, and are given once more. The frame is
//! applied whatever it claims. From its position on the log has the incarnation that it names, so
//! that clients start over; seqs, rows and op ids go on. All links and sessions before it are
//! forgotten. So a frame that was made before it, by a node that may know what was lost, is stale
//! or foreign.

use super::frame::{Claim, Frame, Session};
use ringlog::Incarnation;
use std::collections::{BTreeMap, VecDeque};
use twox_hash::XxHash3_128;

/// No change of a request has fewer bytes, whether it is an object or an array.
const MIN_CHANGE: usize = 16;

/// How much is remembered: the same on all nodes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct Memory {
    /// Positions, of which hash and session are known.
    pub(crate) positions: u64,
    /// Op ids.
    pub(crate) op_ids: u64,
}

impl Memory {
    /// That of a server.
    pub(crate) fn of_op_ids(op_ids: u64) -> Self {
        Self { positions: 1 << 16, op_ids }
    }
}

/// What becomes of a frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) enum Verdict {
    Applied,
    Duplicate,
    Gap,
    Unknown,
    Stale,
    Foreign,
}

impl Verdict {
    #[cfg(test)]
    pub(crate) const ALL: [Self; 6] =
        [Self::Applied, Self::Duplicate, Self::Gap, Self::Unknown, Self::Stale, Self::Foreign];

    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Applied => "applied",
            Self::Duplicate => "duplicate",
            Self::Gap => "gap",
            Self::Unknown => "unknown",
            Self::Stale => "stale",
            Self::Foreign => "foreign",
        }
    }
}

/// The state after a position, as far as frames are judged by it.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct Machine {
    memory: Memory,
    position: u64,
    /// Of the last positions, the newest last. Never empty: position 0 has a link as well.
    links: VecDeque<Link>,
    sessions: BTreeMap<Session, Sent>,
    /// The sessions again, by the position of their last frame.
    by_position: BTreeMap<u64, Session>,
}

/// What is known of a position.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct Link {
    /// The hash of all frames up to it.
    pub(crate) hash: u128,
    /// The last seq after it.
    pub(crate) last_seq: u64,
}

impl Link {
    /// That of position 0.
    pub(crate) fn first(incarnation: Incarnation) -> Self {
        Self { hash: XxHash3_128::oneshot(&incarnation.to_bytes()), last_seq: 0 }
    }

    /// The hash after one more frame.
    fn hash_with(self, frame: &[u8]) -> u128 {
        XxHash3_128::oneshot(&[&self.hash.to_be_bytes(), frame].concat())
    }
}

/// The last frame of a session that was applied.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct Sent {
    pub(crate) n: u64,
    pub(crate) position: u64,
}

/// What a step has changed: what a store keeps of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Step {
    pub(crate) position: u64,
    pub(crate) link: Link,
    /// The session whose frame was applied.
    pub(crate) session: Option<(Session, Sent)>,
    pub(crate) forgotten: Vec<Session>,
    /// The incarnation of the log from here on, if it was reset. No link before it is left.
    pub(crate) reset: Option<Incarnation>,
}

impl Machine {
    /// The machine of an empty stream.
    pub(crate) fn new(incarnation: Incarnation, memory: Memory) -> Self {
        Self::restore(memory, 0, [Link::first(incarnation)], [])
    }

    /// The machine after a position, from what a store has kept: the links of all positions that
    /// are remembered, up to that one, and the sessions.
    pub(crate) fn restore(
        memory: Memory,
        position: u64,
        links: impl IntoIterator<Item = Link>,
        sessions: impl IntoIterator<Item = (Session, Sent)>,
    ) -> Self {
        let sessions: BTreeMap<_, _> = sessions.into_iter().collect();
        let by_position = sessions.iter().map(|(session, sent)| (sent.position, *session)).collect();
        Self { memory, position, links: links.into_iter().collect(), sessions, by_position }
    }

    /// The position of the last frame.
    pub(crate) fn position(&self) -> u64 {
        self.position
    }

    /// What a frame that is made now claims.
    pub(crate) fn claim(&self) -> Claim {
        Claim { position: self.position, hash: self.last().hash }
    }

    fn last(&self) -> Link {
        *self.links.back().unwrap_or_else(|| unreachable!("there is a link of the last position"))
    }

    /// The link of a position; none if it is forgotten or not reached yet.
    fn link(&self, position: u64) -> Option<Link> {
        let age = self.position.checked_sub(position)?;
        let index = (self.links.len() as u64).checked_sub(1 + age)?;
        self.links.get(usize::try_from(index).ok()?).copied()
    }

    /// Whether this is the frame at the last position. True if that cannot be known.
    pub(crate) fn has_last(&self, frame: &[u8]) -> bool {
        let before = self.links.len().checked_sub(2).map(|index| self.links[index]);
        before.is_none_or(|before| before.hash_with(frame) == self.last().hash)
    }

    /// Judges the frame at the next position.
    pub(crate) fn decide(&self, frame: &Frame<'_>) -> Verdict {
        if frame.reset.is_some() {
            return Verdict::Applied;
        }
        let next = self.position + 1;
        if next.saturating_sub(frame.claim.position) > self.memory.positions {
            return Verdict::Stale;
        }
        let Some(claimed) = self.link(frame.claim.position).filter(|link| link.hash == frame.claim.hash)
        else {
            return Verdict::Foreign;
        };
        let before_the_last = frame.requests.split_last().map_or(&[][..], |(_, before)| before);
        let bytes: usize = before_the_last.iter().map(|request| request.len()).sum();
        let given = self.last().last_seq - claimed.last_seq + (bytes / MIN_CHANGE) as u64;
        if given > self.memory.op_ids {
            return Verdict::Stale;
        }
        match (self.sessions.get(&frame.session), frame.n) {
            (Some(last), n) if n <= last.n => Verdict::Duplicate,
            (None, n) if n != 1 => Verdict::Unknown,
            (Some(last), n) if n != last.n + 1 => Verdict::Gap,
            _ => Verdict::Applied,
        }
    }

    /// The step to the next position, whose frame was judged so; `last_seq` is the last seq after
    /// it.
    pub(crate) fn step(&self, bytes: &[u8], frame: &Frame<'_>, verdict: Verdict, last_seq: u64) -> Step {
        let position = self.position + 1;
        let link = Link { hash: self.last().hash_with(bytes), last_seq };
        if verdict == Verdict::Applied && frame.reset.is_some() {
            let forgotten = self.sessions.keys().copied().collect();
            return Step { position, link, session: None, forgotten, reset: frame.reset };
        }
        let session = (verdict == Verdict::Applied).then_some((frame.session, Sent { n: frame.n, position }));
        let old = self.by_position.range(..=position.saturating_sub(self.memory.positions));
        let is_left = |old: &Session| session.is_none_or(|(applied, _)| applied != *old);
        let forgotten = old.map(|(_, session)| *session).filter(is_left).collect();
        Step { position, link, session, forgotten, reset: None }
    }

    /// Takes a step.
    pub(crate) fn advance(&mut self, step: &Step) {
        self.position = step.position;
        if step.reset.is_some() {
            self.links.clear();
        }
        self.links.push_back(step.link);
        // That of the oldest P that is not stale at the next position.
        while self.links.len() as u64 > self.memory.positions {
            self.links.pop_front();
        }
        for session in &step.forgotten {
            let sent = self.sessions.remove(session);
            sent.and_then(|sent| self.by_position.remove(&sent.position));
        }
        if let Some((session, sent)) = step.session {
            let before = self.sessions.insert(session, sent);
            before.and_then(|before| self.by_position.remove(&before.position));
            self.by_position.insert(sent.position, session);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const MEMORY: Memory = Memory { positions: 4, op_ids: 3 };

    fn machine() -> Machine {
        Machine::new(Incarnation::from_bytes([1; 16]), MEMORY)
    }

    fn frame(session: u64, n: u64, claim: Claim) -> Frame<'static> {
        let session = Session(session);
        Frame { session, n, claim, timestamp_millis: 0, requests: Vec::new(), reset: None }
    }

    /// Applies a frame that gives so many seqs if it is applied.
    fn apply(machine: &mut Machine, frame: &Frame<'_>, seqs: u64) -> Verdict {
        let verdict = machine.decide(frame);
        let seqs = if verdict == Verdict::Applied { seqs } else { 0 };
        let step = machine.step(&frame.encode(), frame, verdict, machine.last().last_seq + seqs);
        machine.advance(&step);
        verdict
    }

    /// Applies the first frame of a session that nothing else uses, with a claim of now.
    fn pass(machine: &mut Machine, seqs: u64) {
        let other = frame(1000 + machine.position(), 1, machine.claim());
        assert_eq!(apply(machine, &other, seqs), Verdict::Applied);
    }

    #[test]
    fn a_claim_is_good_for_as_many_positions_as_are_remembered_and_stale_after() {
        let mut machine = machine();
        pass(&mut machine, 0);
        let claim = machine.claim();
        for _ in 1..MEMORY.positions {
            pass(&mut machine, 0);
        }
        assert_eq!(machine.decide(&frame(1, 1, claim)), Verdict::Applied);
        pass(&mut machine, 0);
        assert_eq!(machine.decide(&frame(1, 1, claim)), Verdict::Stale);
    }

    #[test]
    fn a_claim_is_good_for_as_many_seqs_as_op_ids_are_remembered_and_stale_after() {
        let mut machine = machine();
        let claim = machine.claim();
        pass(&mut machine, MEMORY.op_ids);
        assert_eq!(machine.decide(&frame(1, 1, claim)), Verdict::Applied);
        pass(&mut machine, 1);
        assert_eq!(machine.decide(&frame(1, 1, claim)), Verdict::Stale);
    }

    #[test]
    fn the_requests_of_a_frame_but_for_the_last_count_as_seqs_that_are_given() {
        let mut machine = machine();
        let claim = machine.claim();
        pass(&mut machine, 2);
        let [short, long] = [MIN_CHANGE * 2 - 1, MIN_CHANGE * 2].map(|len| "x".repeat(len));
        let of = |requests| Frame { requests, ..frame(1, 1, claim) };
        assert_eq!(machine.decide(&of(vec![&long])), Verdict::Applied);
        assert_eq!(machine.decide(&of(vec![&short, &long])), Verdict::Applied);
        assert_eq!(machine.decide(&of(vec![&long, &short])), Verdict::Stale);
    }

    #[test]
    fn a_claim_of_another_history_is_foreign_and_so_is_one_of_a_position_to_come() {
        let mut machine = machine();
        pass(&mut machine, 0);
        let claim = machine.claim();
        let other = Claim { hash: claim.hash ^ 1, ..claim };
        let ahead = Claim { position: 2, ..claim };
        assert_eq!(machine.decide(&frame(1, 1, other)), Verdict::Foreign);
        assert_eq!(machine.decide(&frame(1, 1, ahead)), Verdict::Foreign);
        assert_eq!(machine.decide(&frame(1, 1, Claim { position: u64::MAX, ..claim })), Verdict::Foreign);
        assert_eq!(machine.decide(&frame(1, 1, claim)), Verdict::Applied);
    }

    #[test]
    fn the_hash_of_a_position_depends_on_all_frames_up_to_it_and_on_the_incarnation() {
        let run = |incarnation, sessions: [u64; 2]| {
            let mut machine = Machine::new(Incarnation::from_bytes([incarnation; 16]), MEMORY);
            for session in sessions {
                let next = frame(session, 1, machine.claim());
                apply(&mut machine, &next, 0);
            }
            machine.claim().hash
        };
        assert_eq!(run(1, [1, 2]), run(1, [1, 2]));
        assert_ne!(run(1, [1, 2]), run(2, [1, 2]));
        assert_ne!(run(1, [1, 2]), run(1, [3, 2]));
        assert_ne!(run(1, [1, 2]), run(1, [1, 3]));
    }

    #[test]
    fn the_numbers_of_a_session_are_applied_in_order_and_once() {
        let mut machine = machine();
        let claim = machine.claim();
        assert_eq!(machine.decide(&frame(1, 0, claim)), Verdict::Unknown);
        assert_eq!(apply(&mut machine, &frame(1, 2, claim), 0), Verdict::Unknown);
        assert_eq!(apply(&mut machine, &frame(1, 1, claim), 0), Verdict::Applied);
        for (n, verdict) in [
            (0, Verdict::Duplicate),
            (1, Verdict::Duplicate),
            (2, Verdict::Applied),
            (3, Verdict::Gap),
            (u64::MAX, Verdict::Gap),
        ] {
            assert_eq!(machine.decide(&frame(1, n, claim)), verdict, "{n}");
        }
    }

    #[test]
    fn what_is_stale_or_foreign_is_so_before_its_number_is_looked_at() {
        let mut machine = machine();
        let old = machine.claim();
        pass(&mut machine, MEMORY.op_ids + 1);
        let first = frame(1, 1, machine.claim());
        apply(&mut machine, &first, 0);
        for n in 1..=3 {
            assert_eq!(machine.decide(&frame(1, n, old)), Verdict::Stale);
            assert_eq!(machine.decide(&frame(1, n, Claim { hash: 0, ..old })), Verdict::Foreign);
        }
        for _ in 0..MEMORY.positions {
            pass(&mut machine, 0);
        }
        assert_eq!(machine.decide(&frame(1, 1, Claim { hash: 0, ..old })), Verdict::Stale);
    }

    #[test]
    fn a_session_is_forgotten_so_many_positions_after_its_last_frame_and_not_before() {
        let mut machine = machine();
        let first = frame(1, 1, machine.claim());
        apply(&mut machine, &first, 0);
        for _ in 1..MEMORY.positions {
            pass(&mut machine, 0);
        }
        assert_eq!(machine.decide(&frame(1, 2, machine.claim())), Verdict::Applied);
        pass(&mut machine, 0);
        assert_eq!(machine.decide(&frame(1, 2, machine.claim())), Verdict::Unknown);
        assert_eq!(machine.decide(&first), Verdict::Stale);
    }

    #[test]
    fn a_session_is_forgotten_as_well_at_a_frame_of_its_own_that_is_not_applied() {
        let mut machine = machine();
        let first = frame(1, 1, machine.claim());
        apply(&mut machine, &first, 0);
        for _ in 1..MEMORY.positions {
            pass(&mut machine, 0);
        }
        let mut kept = machine.clone();
        let third = frame(1, 3, machine.claim());
        assert_eq!(apply(&mut machine, &third, 0), Verdict::Gap);
        assert!(!machine.sessions.contains_key(&Session(1)));

        let second = frame(1, 2, kept.claim());
        assert_eq!(apply(&mut kept, &second, 0), Verdict::Applied);
        assert_eq!(kept.sessions[&Session(1)], Sent { n: 2, position: 5 });
    }

    #[test]
    fn a_reset_is_applied_and_nothing_that_was_made_before_it_is() {
        let mut machine = machine();
        let first = frame(1, 1, machine.claim());
        apply(&mut machine, &first, 1);
        let before = machine.claim();
        let reset = |claim| Frame { reset: Some(Incarnation::from_bytes([2; 16])), ..frame(0, 0, claim) };
        let nowhere = Claim { position: u64::MAX, hash: 0 };
        assert_eq!(apply(&mut machine, &reset(nowhere), 0), Verdict::Applied);
        assert_eq!((machine.links.len(), machine.sessions.len(), machine.by_position.len()), (1, 0, 0));
        for (session, n) in [(1, 1), (1, 2), (2, 1)] {
            assert_eq!(machine.decide(&frame(session, n, before)), Verdict::Foreign);
        }
        let after = machine.claim();
        assert_eq!(machine.decide(&frame(1, 2, after)), Verdict::Unknown);
        assert_eq!(machine.decide(&frame(2, 1, after)), Verdict::Applied);
        assert_eq!(apply(&mut machine, &reset(after), 0), Verdict::Applied);
        assert_eq!(machine.decide(&frame(2, 1, after)), Verdict::Foreign);
        assert_eq!(machine.claim().position, 3);
    }

    proptest! {
        #[test]
        fn a_machine_that_is_restored_anywhere_goes_on_as_the_one_that_was_kept(
            frames in prop::collection::vec((0..3_u64, 1..4_u64, 0..7_u64, 0..3_u64, 0..15_u8), 0..40),
        ) {
            let mut machine = machine();
            let mut claims = vec![machine.claim()];
            for (session, n, age, seqs, resets) in frames {
                let claim = claims[claims.len().saturating_sub(1 + age as usize)];
                let sessions: Vec<_> = machine.sessions.iter().map(|(id, sent)| (*id, *sent)).collect();
                let links = machine.links.iter().copied();
                let mut restored = Machine::restore(MEMORY, machine.position, links, sessions);
                prop_assert_eq!(&restored, &machine);
                let n = n + machine.sessions.get(&Session(session)).map_or(0, |last| last.n - 1);
                let mut frame = frame(session, n, claim);
                frame.reset = (resets == 0).then(|| Incarnation::from_bytes([2; 16]));
                let verdict = apply(&mut machine, &frame, seqs);
                prop_assert_eq!(apply(&mut restored, &frame, seqs), verdict);
                prop_assert_eq!(&restored, &machine);
                prop_assert!(machine.links.len() as u64 <= MEMORY.positions);
                prop_assert!(machine.sessions.len() as u64 <= MEMORY.positions);
                prop_assert_eq!(machine.by_position.len(), machine.sessions.len());
                claims.push(machine.claim());
            }
        }
    }
}
