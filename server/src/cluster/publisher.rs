//! The publisher: the frames that this node has sent and whose verdict it does not know yet.
//!
//! It knows no stream and no clock, and is told what happens. A frame is kept until its verdict is
//! known, and sent again in the meantime: an ack says that it is stored, not that it is applied,
//! and no ack says nothing at all.
//!
//! # Frames that change their session
//!
//! Undecided frames are sent again as they are, byte for byte, but in three cases. Then they get
//! another session and numbers from 1 on. They keep their claims: what else was applied since, of
//! another node perhaps the same operation, must still be counted. It is safe, for no copy of the
//! old ones can be applied any more:
//!
//! - *All copies of the first undecided frame were refused.* The stream is full, say. It is given
//!   up. For the frames after it, one is missing in the old session for ever: each copy is a gap.
//! - *A frame is stale.* Its claim gets no younger, so each copy of it is stale. The frames before
//!   it have older claims: stale as well. For the frames after it, one is missing in the old
//!   session for ever: each copy is a gap.
//! - *The session is unknown, and the first undecided frame has not the number 1.* The session was
//!   forgotten; no undecided frame has the number 1, so each copy is unknown as well. A copy of the
//!   frame that had it is stale: see [`machine`](super::machine).

use super::frame::{Claim, Frame, MAX_REQUESTS, Session};
use super::machine::Verdict;
use bytes::Bytes;
use std::collections::VecDeque;
use std::time::Duration;

/// The most frames that are undecided at a time.
const MAX_FRAMES: usize = 8;

/// The most bytes of requests in them. A single frame may have more.
const MAX_BYTES: usize = 1 << 20;

/// The time after which undecided frames are sent again: the first, doubled each time, and the
/// longest.
const FIRST_RESEND: Duration = Duration::from_secs(1);
const LAST_RESEND: Duration = Duration::from_secs(8);

/// The time between two sendings where a frame is known to be missing.
const GAP_RESEND: Duration = Duration::from_millis(100);

/// The undecided frames. Times are those since some moment, the same for all calls.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct Publisher<R> {
    session: Session,
    /// The number of the next frame.
    next_n: u64,
    undecided: VecDeque<Undecided<R>>,
    bytes: usize,
    sent_at: Duration,
    /// The wait before undecided frames are sent again.
    wait: Duration,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Undecided<R> {
    n: u64,
    claim: Claim,
    timestamp_millis: u64,
    made_at: Duration,
    requests: Vec<R>,
    len: usize,
    /// Copies of it that may be stored: those sent in this session and not refused.
    copies: usize,
}

/// What follows from a verdict.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Decision<R> {
    /// Nothing that the publisher has to do, or not yet.
    None,
    /// These requests are applied; their frame was made at this time.
    Applied(Vec<R>, Duration),
    /// These requests are not applied, and never will be.
    Stale(Vec<R>),
    /// The stream is not the one that this node has applied.
    Diverged,
}

impl<R: AsRef<str>> Publisher<R> {
    /// Without frames, in a session that was never used.
    pub(crate) fn new(session: Session) -> Self {
        Self {
            session,
            next_n: 1,
            undecided: VecDeque::new(),
            bytes: 0,
            sent_at: Duration::ZERO,
            wait: FIRST_RESEND,
        }
    }

    /// Whether a frame can be made.
    pub(crate) fn has_room(&self) -> bool {
        self.undecided.len() < MAX_FRAMES && self.bytes < MAX_BYTES
    }

    /// Whether all frames are decided.
    pub(crate) fn is_idle(&self) -> bool {
        self.undecided.is_empty()
    }

    /// The requests of undecided frames that were made before a time.
    pub(crate) fn made_before(&mut self, time: Duration) -> impl Iterator<Item = &mut R> {
        let old = self.undecided.iter_mut().take_while(move |frame| frame.made_at < time);
        old.flat_map(|frame| &mut frame.requests)
    }

    /// Makes a frame of what waits, as much as fits, and answers with its number and its bytes.
    /// With nothing that waits it is empty. The claim is that of the time at which the first of
    /// the requests was taken, or now for an empty frame.
    pub(crate) fn frame(
        &mut self,
        waiting: &mut VecDeque<R>,
        claim: Claim,
        timestamp_millis: u64,
        now: Duration,
    ) -> (u64, Bytes) {
        let (mut requests, mut len) = (Vec::new(), 0);
        while let Some(request) = waiting.front() {
            let with_it = len + request.as_ref().len();
            if !requests.is_empty() && with_it > MAX_REQUESTS {
                break;
            }
            len = with_it;
            requests.extend(waiting.pop_front());
        }
        let n = self.next_n;
        self.next_n += 1;
        self.bytes += len;
        self.sent_at = now;
        let frame = Undecided { n, claim, timestamp_millis, made_at: now, requests, len, copies: 1 };
        self.undecided.push_back(frame);
        (n, self.encode(self.undecided.len() - 1))
    }

    fn encode(&self, index: usize) -> Bytes {
        let frame = &self.undecided[index];
        let requests = frame.requests.iter().map(AsRef::as_ref).collect();
        let Undecided { n, claim, timestamp_millis, .. } = *frame;
        Frame { session: self.session, n, claim, timestamp_millis, requests, reset: None }.encode()
    }

    /// The session of the frames that are made now.
    pub(crate) fn session(&self) -> Session {
        self.session
    }

    /// Learns that frames could not be stored, or may not be: the wait becomes no longer by it.
    pub(crate) fn not_stored(&mut self) {
        self.wait = self.wait.min(FIRST_RESEND);
    }

    /// Learns that a copy of a frame is not stored and never will be.
    pub(crate) fn refused(&mut self, session: Session, n: u64) {
        self.not_stored();
        let is_it = |frame: &&mut Undecided<R>| session == self.session && frame.n == n;
        if let Some(frame) = self.undecided.iter_mut().find(is_it) {
            frame.copies -= 1;
        }
    }

    /// When the first undecided frame was made, if all its copies were refused.
    pub(crate) fn refused_since(&self) -> Option<Duration> {
        self.undecided.front().filter(|first| first.copies == 0).map(|first| first.made_at)
    }

    /// Gives the first undecided frame up, if all its copies were refused. Returns its requests.
    /// The frames after it get another session, as in [`decided`](Self::decided).
    pub(crate) fn give_up(&mut self, fresh: Session) -> Vec<R> {
        if self.refused_since().is_none() {
            return Vec::new();
        }
        let first = self.undecided.front().map(|first| first.n);
        let Some(frame) = first.and_then(|n| self.take(n)) else { return Vec::new() };
        self.renew(fresh);
        frame.requests
    }

    /// Learns of a verdict. Where another session is needed it is `fresh`, which was never used.
    pub(crate) fn decided(
        &mut self,
        (session, n, verdict): (Session, u64, Verdict),
        fresh: Session,
    ) -> Decision<R> {
        let first = self.undecided.front().map(|frame| frame.n);
        if session != self.session || first.is_none_or(|first| n < first) {
            return Decision::None;
        }
        match verdict {
            Verdict::Applied => match self.take(n) {
                Some(frame) => {
                    self.wait = FIRST_RESEND;
                    Decision::Applied(frame.requests, frame.made_at)
                }
                None => Decision::None,
            },
            Verdict::Duplicate => Decision::None,
            Verdict::Unknown if first != Some(1) => {
                self.renew(fresh);
                Decision::None
            }
            Verdict::Gap | Verdict::Unknown => {
                self.wait = GAP_RESEND;
                Decision::None
            }
            Verdict::Stale => {
                let frame = self.take(n);
                self.renew(fresh);
                frame.map_or(Decision::None, |frame| Decision::Stale(frame.requests))
            }
            Verdict::Foreign => Decision::Diverged,
        }
    }

    fn take(&mut self, n: u64) -> Option<Undecided<R>> {
        let index = self.undecided.iter().position(|frame| frame.n == n)?;
        let frame = self.undecided.remove(index)?;
        self.bytes -= frame.len;
        Some(frame)
    }

    /// Puts the undecided frames into another session; they are due at once.
    fn renew(&mut self, session: Session) {
        self.session = session;
        for (n, frame) in (1..).zip(&mut self.undecided) {
            (frame.n, frame.copies) = (n, 0);
        }
        self.next_n = self.undecided.len() as u64 + 1;
        self.wait = Duration::ZERO;
    }

    /// When undecided frames are to be sent again; none if there are none.
    pub(crate) fn due(&self) -> Option<Duration> {
        (!self.undecided.is_empty()).then(|| self.sent_at + self.wait)
    }

    /// All undecided frames, in their order, to be sent again.
    pub(crate) fn resend(&mut self, now: Duration) -> Vec<(u64, Bytes)> {
        self.sent_at = now;
        self.wait = (self.wait * 2).clamp(FIRST_RESEND, LAST_RESEND);
        self.undecided.iter_mut().for_each(|frame| frame.copies += 1);
        (0..self.undecided.len()).map(|index| (self.undecided[index].n, self.encode(index))).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FIRST: Session = Session(1);
    const SECOND: Session = Session(2);

    type Texts = Publisher<String>;

    fn claim(position: u64) -> Claim {
        Claim { position, hash: 0 }
    }

    fn at(millis: u64) -> Duration {
        Duration::from_millis(millis)
    }

    /// A publisher with so many frames, the first with request "1" and claim 1, …
    fn with_frames(count: u64) -> Texts {
        let mut publisher = Texts::new(FIRST);
        for n in 1..=count {
            let made = publisher.frame(&mut [n.to_string()].into(), claim(n), n, at(n));
            assert_eq!(made.0, n);
        }
        publisher
    }

    /// Session, number, position claimed and requests of what is sent again.
    fn resent(publisher: &mut Texts) -> Vec<(u64, u64, u64, String)> {
        let frames = publisher.resend(at(0));
        let read = |(n, bytes): (u64, Bytes)| {
            let frame = Frame::decode(&bytes).unwrap();
            assert_eq!(frame.n, n);
            (frame.session.0, n, frame.claim.position, frame.requests.join(","))
        };
        frames.into_iter().map(read).collect()
    }

    fn decide(publisher: &mut Texts, n: u64, verdict: Verdict) -> Decision<String> {
        let session = publisher.session();
        publisher.decided((session, n, verdict), SECOND)
    }

    fn of(session: u64, n: u64, position: u64) -> (u64, u64, u64, String) {
        (session, n, position, position.to_string())
    }

    #[test]
    fn a_frame_takes_what_waits_up_to_its_bytes_and_a_longer_request_alone() {
        let lengths = [MAX_REQUESTS - 1, 1, 1, MAX_REQUESTS + 1, 0];
        let mut waiting: VecDeque<_> = lengths.iter().map(|len| "x".repeat(*len)).collect();
        let mut publisher = Texts::new(FIRST);
        let mut sizes = Vec::new();
        while !waiting.is_empty() {
            let (_, bytes) = publisher.frame(&mut waiting, claim(0), 0, at(0));
            sizes.push(Frame::decode(&bytes).unwrap().requests.len());
        }
        assert_eq!(sizes, [2, 1, 1, 1]);
        let empty = publisher.frame(&mut waiting, claim(0), 0, at(0)).1;
        assert_eq!(Frame::decode(&empty).unwrap().requests, [""; 0]);
    }

    #[test]
    fn there_is_room_for_so_many_frames_and_bytes_that_are_undecided() {
        let mut publisher = with_frames(MAX_FRAMES as u64 - 1);
        assert!(publisher.has_room());
        publisher.frame(&mut VecDeque::new(), claim(0), 0, at(0));
        assert!(!publisher.has_room());
        decide(&mut publisher, 1, Verdict::Applied);
        assert!(publisher.has_room());

        let mut publisher = Texts::new(FIRST);
        publisher.frame(&mut ["x".repeat(MAX_BYTES - 1)].into(), claim(0), 0, at(0));
        assert!(publisher.has_room());
        publisher.frame(&mut ["x".into()].into(), claim(0), 0, at(0));
        assert!(!publisher.has_room());
        decide(&mut publisher, 1, Verdict::Applied);
        assert!(publisher.has_room());
    }

    #[test]
    fn a_frame_that_is_applied_gives_its_requests_back_once() {
        let mut publisher = with_frames(2);
        assert_eq!(decide(&mut publisher, 1, Verdict::Applied), Decision::Applied(vec!["1".into()], at(1)));
        for verdict in Verdict::ALL {
            assert_eq!(decide(&mut publisher, 1, verdict), Decision::None, "{verdict:?}");
        }
        assert_eq!(resent(&mut publisher), [of(1, 2, 2)]);
        assert!(!publisher.is_idle());
        decide(&mut publisher, 2, Verdict::Applied);
        assert!(publisher.is_idle() && publisher.due().is_none());
    }

    #[test]
    fn verdicts_on_frames_of_others_change_nothing() {
        let mut publisher = with_frames(2);
        let before = publisher.clone();
        for verdict in Verdict::ALL {
            assert_eq!(publisher.decided((Session(9), 1, verdict), SECOND), Decision::None);
        }
        assert_eq!(publisher, before);
    }

    #[test]
    fn a_gap_and_an_unknown_first_frame_are_mended_by_sending_again_soon_in_order() {
        for verdict in [Verdict::Gap, Verdict::Unknown] {
            let mut publisher = with_frames(3);
            assert_eq!(decide(&mut publisher, 2, verdict), Decision::None);
            assert_eq!(publisher.due(), Some(at(3) + GAP_RESEND));
            assert_eq!(resent(&mut publisher), [of(1, 1, 1), of(1, 2, 2), of(1, 3, 3)]);
        }
    }

    #[test]
    fn a_stale_frame_is_given_back_and_the_others_change_their_session_and_keep_their_claims() {
        let mut publisher = with_frames(3);
        assert_eq!(decide(&mut publisher, 2, Verdict::Stale), Decision::Stale(vec!["2".into()]));
        assert_eq!(publisher.due(), Some(at(3)));
        assert_eq!(resent(&mut publisher), [of(2, 1, 1), of(2, 2, 3)]);
        assert_eq!(publisher.frame(&mut VecDeque::new(), claim(4), 0, at(0)).0, 3);
        let late = publisher.decided((FIRST, 1, Verdict::Stale), Session(3));
        assert_eq!((late, publisher.session()), (Decision::None, SECOND));
    }

    #[test]
    fn a_session_that_is_forgotten_is_left_and_claims_are_kept() {
        let mut publisher = with_frames(3);
        decide(&mut publisher, 1, Verdict::Applied);
        assert_eq!(decide(&mut publisher, 3, Verdict::Unknown), Decision::None);
        assert_eq!(resent(&mut publisher), [of(2, 1, 2), of(2, 2, 3)]);
    }

    #[test]
    fn the_first_frame_is_given_up_once_all_its_copies_are_refused() {
        let mut publisher = with_frames(3);
        publisher.resend(FIRST_RESEND);
        publisher.refused(FIRST, 1);
        assert_eq!(publisher.give_up(SECOND), [""; 0], "the other copy may be stored");
        assert_eq!((publisher.session(), publisher.refused_since()), (FIRST, None));
        publisher.refused(FIRST, 1);
        assert_eq!(publisher.refused_since(), Some(at(1)));
        assert_eq!(publisher.give_up(SECOND), ["1"]);
        // Those after it have another session, and are sent at once.
        assert_eq!((publisher.session(), publisher.due()), (SECOND, Some(FIRST_RESEND)));
        assert_eq!(resent(&mut publisher), [of(2, 1, 2), of(2, 2, 3)]);
        // What comes of the copies of before is of no importance.
        publisher.refused(FIRST, 2);
        assert_eq!(publisher.give_up(Session(3)), [""; 0]);
        publisher.refused(SECOND, 1);
        assert_eq!(publisher.give_up(Session(3)), ["2"]);
    }

    /// Those before it may be stored, and keep their session.
    #[test]
    fn a_frame_that_is_not_the_first_is_kept_though_it_is_refused() {
        let mut publisher = with_frames(2);
        publisher.refused(FIRST, 2);
        assert_eq!(publisher.give_up(SECOND), [""; 0]);
        decide(&mut publisher, 1, Verdict::Applied);
        assert_eq!(resent(&mut publisher), [of(1, 2, 2)]);
        publisher.refused(FIRST, 2);
        assert_eq!(publisher.give_up(SECOND), ["2"]);
        assert!(publisher.is_idle());
    }

    #[test]
    fn a_foreign_frame_of_its_own_says_that_the_node_has_diverged() {
        assert_eq!(decide(&mut with_frames(1), 1, Verdict::Foreign), Decision::Diverged);
    }

    #[test]
    fn the_wait_doubles_up_to_its_bound_and_begins_anew_when_a_frame_is_applied() {
        let mut publisher = with_frames(2);
        assert_eq!(publisher.due(), Some(at(2) + FIRST_RESEND));
        let mut waits = Vec::new();
        for _ in 0..5 {
            publisher.resend(at(0));
            waits.extend(publisher.due().map(|due| due.as_secs()));
        }
        assert_eq!(waits, [2, 4, 8, 8, 8]);
        decide(&mut publisher, 1, Verdict::Duplicate);
        assert_eq!(publisher.due(), Some(LAST_RESEND));
        publisher.not_stored();
        assert_eq!(publisher.due(), Some(FIRST_RESEND));
        publisher.resend(at(0));
        decide(&mut publisher, 1, Verdict::Applied);
        assert_eq!(publisher.due(), Some(FIRST_RESEND));
    }

    #[test]
    fn the_requests_that_were_framed_before_a_time_can_be_seen() {
        let mut publisher = with_frames(3);
        assert_eq!(publisher.made_before(at(1)).count(), 0);
        assert_eq!(publisher.made_before(at(3)).collect::<Vec<_>>(), ["1", "2"]);
    }
}
