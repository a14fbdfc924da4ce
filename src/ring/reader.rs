//! The reading side: the window, runs of records, the head.

use super::block::Parts;
use super::bytes::ByteBound;
use super::geometry::Window;
use super::order;
use super::positions::Found;
use super::segment::Segment;
use super::state::Ring;
use crate::sync::epoch::Guard;
use std::marker::PhantomData;
use std::ptr::NonNull;

/// Why nothing can be read after a seq.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Missed {
    /// The seq lies after every seq handed out.
    Ahead(Window),
    /// The seq after it has left the window.
    Evicted(Window),
}

/// Consecutive published records, pinned: they stay where they are while the run lives.
pub(crate) struct Run<'r, M: Copy + Send + Sync> {
    ring: &'r Ring<M>,
    first: u64,
    len: usize,
    more: bool,
    /// The first seq that is not in the segment of `first`.
    seam: u64,
    /// The segments of the run, in order; most runs lie in one or two.
    first_segment: Option<NonNull<Segment<M>>>,
    other_segments: Vec<NonNull<Segment<M>>>,
    /// Keeps the segments alive (R4): they were loaded under it.
    guard: Guard,
    not_send: PhantomData<*mut ()>,
}

/// The walk met a later lap.
struct Lapped;

impl<M: Copy + Send + Sync> Ring<M> {
    /// The seqs that can be read now.
    #[inline]
    pub(crate) fn window(&self) -> Window {
        // The floor first: `last` is at least the seq before it (floor).
        let floor = self.bytes.as_ref().map_or(0, ByteBound::floor);
        let Window { oldest, last } = self.window_by_count();
        Window { oldest: oldest.max(floor), last }
    }

    /// The last `capacity` seqs, whatever the bound in bytes leaves of them.
    fn window_by_count(&self) -> Window {
        self.geometry().window(self.last())
    }

    /// The published records after seq `after`: a contiguous run of at most `limit`, up to the
    /// first that is not published yet.
    ///
    /// Wait-free: a walk that meets a later lap is repeated, and the window check of the repetition
    /// fails (R6).
    pub(crate) fn read(&self, after: u64, limit: usize) -> Result<Run<'_, M>, Missed> {
        let mut guard = self.pin();
        loop {
            let window = self.window();
            if after > window.last {
                return Err(Missed::Ahead(window));
            }
            if after + 1 < window.oldest {
                return Err(Missed::Evicted(window));
            }
            match self.walk(guard, after + 1, limit, window.last) {
                Ok(run) => return Ok(run),
                Err((Lapped, again)) => guard = again,
            }
        }
    }

    /// The published records from the start of the window, wherever that is by the time they are
    /// read.
    ///
    /// Writers that go round the whole window between one look and the next make it start over, a
    /// few times; then it returns an empty run where the window starts now, to be read on from.
    /// With a limit of 0 the run stands before seq 1, as its reader does.
    pub(crate) fn read_earliest(&self, limit: usize) -> Run<'_, M> {
        const ATTEMPTS: usize = 8;
        for _ in 0..ATTEMPTS {
            if let Ok(run) = self.read(self.window().oldest - 1, limit) {
                return if limit == 0 { Run::empty(self, 1, run.more, run.guard) } else { run };
            }
        }
        Run::empty(self, self.window().oldest, true, self.pin())
    }

    /// The published records from `first`, at most `limit` of them and none after `last`.
    #[inline]
    fn walk(&self, guard: Guard, first: u64, limit: usize, last: u64) -> Result<Run<'_, M>, (Lapped, Guard)> {
        let mut segments = (None, Vec::new());
        let end = first.saturating_add(limit as u64).min(last + 1);
        let scan = self.scan(&guard, first, end, last, |segment| match segments.0 {
            None => segments.0 = Some(segment),
            Some(_) => segments.1.push(segment),
        });
        let Ok((len, more)) = scan else { return Err((Lapped, guard)) };
        let (first_segment, other_segments) = segments;
        Ok(Run { len, first_segment, other_segments, ..Run::empty(self, first, more, guard) })
    }

    /// Walks over published records from `from`, up to `end`, which is at most `last + 1`, and
    /// hands out the segments they lie in. Returns how many they are, and whether another one
    /// follows.
    #[inline]
    fn scan(
        &self,
        guard: &Guard,
        from: u64,
        end: u64,
        last: u64,
        mut meet: impl FnMut(NonNull<Segment<M>>),
    ) -> Result<(usize, bool), Lapped> {
        let mut seq = from;
        while seq < end {
            let segment = match self.positions.find(seq, guard) {
                Found::Segment(segment) => segment,
                Found::NotYet => break,
                Found::Newer => return Err(Lapped),
            };
            let stop = (self.geometry().base_of(seq) + self.geometry().segment_len() as u64).min(end);
            let entered = seq;
            while seq < stop && segment.holds(seq) {
                seq += 1;
            }
            if seq > entered {
                meet(NonNull::from(segment));
            }
            if seq < stop {
                break;
            }
        }
        let more = match self.positions.find(seq, guard) {
            Found::Segment(segment) if seq <= last => segment.holds(seq),
            Found::Newer => return Err(Lapped),
            _ => false,
        };
        Ok(((seq - from) as usize, more))
    }

    /// The highest seq below which nothing is unpublished.
    ///
    /// Walks on from where the last call of any thread got to: amortised one stamp a record, at
    /// most a window's worth.
    pub(crate) fn head(&self) -> u64 {
        let guard = self.pin();
        let window = self.window();
        let mut seq = self.published_upto.load(order::MEMO_B).max(window.oldest - 1);
        let from = seq;
        while seq < window.last {
            match self.positions.find(seq + 1, &guard) {
                Found::Segment(segment) if segment.holds(seq + 1) => {
                    seq += 1;
                }
                // What has left the window counts as published_upto, and so does all before it.
                // Stopping here would be right as well: the answer was the head a moment ago. Going
                // on spares the caller a cursor that has left the window already.
                Found::Newer => seq = seq.max(self.window().oldest - 1),
                _ => break,
            }
        }
        if seq > from {
            self.published_upto.fetch_max(seq, order::MEMO_A);
        }
        seq
    }
}

impl<'r, M: Copy + Send + Sync> Run<'r, M> {
    /// No records, before seq `first`.
    fn empty(ring: &'r Ring<M>, first: u64, more: bool, guard: Guard) -> Self {
        let seam = ring.geometry().base_of(first) + ring.geometry().segment_len() as u64;
        let (first_segment, other_segments) = (None, Vec::new());
        Self { ring, first, len: 0, more, seam, first_segment, other_segments, guard, not_send: PhantomData }
    }

    /// The seq of the first record, if there is one: the one after the seq asked for.
    #[inline]
    pub(crate) fn first(&self) -> u64 {
        self.first
    }

    #[inline]
    pub(crate) fn len(&self) -> usize {
        self.len
    }

    /// Whether a further published record followed when the run was taken.
    #[inline]
    pub(crate) fn has_more(&self) -> bool {
        self.more
    }

    /// Walks on, by at most `count` records.
    ///
    /// A run that meets a later lap stays as it is: what follows it is gone, as the next read will
    /// say.
    pub(crate) fn extend(&mut self, count: usize) {
        let Self { ring, first, len, first_segment, other_segments, guard, .. } = self;
        let (last, from) = (ring.last(), *first + *len as u64);
        let end = from.saturating_add(count as u64).min(last + 1);
        // The walk may start in the segment in which the run ends.
        let mut known = (*len > 0).then(|| ring.geometry().base_of(from - 1));
        let scan = ring.scan(guard, from, end, last, |segment| {
            if known.take() == Some(ring.geometry().base_of(from)) {
                return;
            }
            match first_segment {
                None => *first_segment = Some(segment),
                Some(_) => other_segments.push(segment),
            }
        });
        if let Ok((count, more)) = scan {
            *len += count;
            self.more = more;
        }
    }

    /// Gives back all but the first `len` records.
    pub(crate) fn truncate(&mut self, len: usize) {
        if len < self.len {
            self.len = len;
            self.more = true;
        }
    }

    /// The record at `index`, and its seq.
    ///
    /// # Panics
    /// If `index` is not less than [`len`](Self::len).
    #[inline(always)]
    #[expect(clippy::inline_always, reason = "a call for each event takes as long as the reading")]
    pub(crate) fn get(&self, index: usize) -> (u64, M, Parts<'_>) {
        assert!(index < self.len, "index {index} of a run of {}", self.len);
        let seq = self.first + index as u64;
        let segment = if seq < self.seam {
            self.first_segment
        } else {
            Some(self.other_segments[self.ring.geometry().segments_between(self.seam, seq)])
        };
        let Some(segment) = segment else { unreachable!("a run with records has a segment") };
        // SAFETY: loaded under `self.guard` (R4).
        let segment = unsafe { segment.as_ref() };
        // SAFETY: the walk saw this seq's stamp (R3); the guard lives as long as the borrow of
        // `self`.
        let (fixed, text) = unsafe { segment.read(seq) };
        (seq, fixed, text)
    }
}

impl<M: Copy + Send + Sync> std::fmt::Debug for Run<'_, M> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Run").field("first", &self.first).field("len", &self.len).finish_non_exhaustive()
    }
}
