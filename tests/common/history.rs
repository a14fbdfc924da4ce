//! What threads asked of a log, what they were answered, and when: and whether a log could have
//! answered so.
//!
//! A history holds for each call when it began and when it returned. Calls that overlap in time may
//! have taken effect in either order; one that returned before another began came first. [`check`]
//! looks for what no order explains. Each [`Rule`] is a promise of the guarantees.
#![allow(dead_code, reason = "each test program uses a part")]

use std::collections::{BTreeMap, HashMap};

/// Nanoseconds since the history began.
pub(crate) type Time = u64;

/// All that was done to one log, which began empty.
#[derive(Debug, Clone, Default)]
pub(crate) struct History {
    pub(crate) capacity: u64,
    pub(crate) op_id_capacity: u64,
    pub(crate) calls: Vec<Call>,
    pub(crate) books: Books,
}

/// One call.
#[derive(Debug, Clone)]
pub(crate) struct Call {
    pub(crate) start: Time,
    pub(crate) end: Time,
    pub(crate) did: Did,
}

/// What was asked, and the answer.
#[derive(Debug, Clone)]
pub(crate) enum Did {
    /// Rows that were given the seqs from `first` on; several are a batch.
    Append {
        first: u64,
        rows: Vec<Row>,
    },
    /// A read, by a reader that follows from the start if it has a number.
    Read {
        reader: Option<usize>,
        cursor: u64,
        limit: usize,
        answer: Answer,
    },
    Head {
        head: u64,
    },
    /// A wait for a seq; no head at the time-out.
    Wait {
        seq: u64,
        head: Option<u64>,
    },
    /// A claim on an op id. One that proceeds is held until the `Release` of the same number.
    Claim {
        id: u8,
        answer: ClaimAnswer,
    },
    /// The end of a held claim: completed with a seq, or forgotten.
    Release {
        held: usize,
        completed: Option<u64>,
    },
    /// Whether an op id was seen.
    Ask {
        id: u8,
        seen: bool,
    },
}

/// An event in full, as one text.
pub(crate) type Row = String;

#[derive(Debug, Clone)]
pub(crate) enum Answer {
    Page { rows: Vec<(u64, Row)>, cursor: u64, has_more: bool },
    Evicted { oldest: u64 },
    Ahead { oldest: u64 },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ClaimAnswer {
    Proceed { held: usize },
    InFlight,
    Replayed { seq: u64 },
}

/// What the log itself says when all is done.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Books {
    pub(crate) appended: u64,
    pub(crate) superseded: u64,
    pub(crate) head: u64,
    pub(crate) completed: u64,
    pub(crate) forgotten: u64,
    pub(crate) replayed: u64,
    pub(crate) in_flight: u64,
}

/// What a history can violate.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Rule {
    /// Seqs are 1, 2, 3… each given once.
    SeqsAreDense,
    SeqsAreUnique,
    /// An append that returned before another began has the smaller seq.
    RealTimeOrder,
    /// A page is a run right after the cursor, no longer than the limit.
    RunIsContiguous,
    /// An event is what was offered under its seq, in full.
    EventAsOffered,
    /// Nothing is seen before it is offered.
    NotFromTheFuture,
    /// What has left the window is not served, nor an empty page in its place.
    OnlyTheWindow,
    /// What all earlier appends have returned for, and what anyone has seen, can be read.
    VisibleOnceReturned,
    HasMoreIsTrue,
    /// No page ends inside a batch unless its limit cut it.
    BatchIsWhole,
    /// A resync says where to go on: past the cursor, and no further than the window had moved.
    ResyncFloor,
    /// A cursor is called ahead only if it may have been.
    AheadIsTrue,
    HeadIsTrue,
    /// A wait ends when its seq is visible.
    WaitEnds,
    /// Read + lost = offered, for each reader that follows.
    ReaderAccount,
    /// At most one claim on an op id proceeds at a time.
    HeldOnce,
    /// An operation that is remembered does not proceed again, and is seen.
    AppliedOnce,
    /// Replayed, and seen, is only what was completed, with its seq.
    ReplayedAfterComplete,
    /// An op id is forgotten when as many others as the memory holds were completed after it.
    RememberedToTheLimit,
    /// Only an id with a live guard is in flight.
    InFlightIsHeld,
    /// The log's own counters say what the calls say: offered = visible + superseded among them.
    BooksBalance,
}

/// What no order of the calls explains.
#[derive(Debug)]
pub(crate) struct Violation {
    pub(crate) rule: Rule,
    pub(crate) what: String,
}

macro_rules! hold {
    ($condition:expr, $rule:ident, $($what:tt)+) => {
        if !$condition {
            return Err(Violation { rule: Rule::$rule, what: format!($($what)+) });
        }
    };
}

/// Decides whether a log that keeps its promises could have answered so.
pub(crate) fn check(history: &History) -> Result<(), Violation> {
    let ledger = Ledger::new(history)?;
    let sights = Sights::new(history, &ledger);
    for call in &history.calls {
        match &call.did {
            Did::Read { cursor, limit, answer, .. } => match answer {
                Answer::Page { rows, cursor: next, has_more } => {
                    let page = Page { after: *cursor, limit: *limit, rows, next: *next, has_more: *has_more };
                    check_page(call, &page, history.capacity, &ledger, &sights)?;
                }
                Answer::Evicted { oldest } => {
                    let last = ledger.last_at_most(call.end);
                    hold!(oldest > &(cursor + 1), ResyncFloor, "a resync that loops: {call:?}");
                    hold!(
                        oldest - 1 + history.capacity <= last,
                        ResyncFloor,
                        "evicted up to {oldest}, when no more than {last} were offered: {call:?}"
                    );
                }
                Answer::Ahead { .. } => {
                    let last = ledger.last_at_least(call.start);
                    hold!(*cursor > last, AheadIsTrue, "{last} were there already: {call:?}");
                }
            },
            Did::Head { head } | Did::Wait { head: Some(head), .. } => {
                let (least, most) = (sights.visible(call.start), ledger.last_at_most(call.end));
                hold!((least..=most).contains(head), HeadIsTrue, "not in {least}..={most}: {call:?}");
                let waited = if let Did::Wait { seq, .. } = &call.did { *seq } else { 0 };
                hold!(waited <= *head, WaitEnds, "{call:?}");
            }
            Did::Wait { seq, head: None } => {
                let visible = sights.visible(call.start);
                hold!(visible < *seq, WaitEnds, "{visible} was visible before: {call:?}");
            }
            Did::Append { .. } | Did::Claim { .. } | Did::Release { .. } | Did::Ask { .. } => {}
        }
    }
    check_readers(history, &ledger)?;
    check_op_ids(history)?;
    check_books(history, &ledger)
}

/// What was offered under each seq, and when.
struct Ledger {
    entries: Vec<Entry>,
    /// When appends began, and when they ended with their last seq: each in order of time.
    starts: Vec<Time>,
    ends: Vec<(Time, u64)>,
}

struct Entry {
    start: Time,
    end: Time,
    row: Row,
    /// The last seq of its batch.
    batch_end: u64,
}

impl Ledger {
    fn new(history: &History) -> Result<Self, Violation> {
        let mut by_seq = BTreeMap::new();
        for call in &history.calls {
            let Did::Append { first, rows } = &call.did else { continue };
            let batch_end = first + rows.len() as u64 - 1;
            for (seq, row) in (*first..).zip(rows) {
                let entry = Entry { start: call.start, end: call.end, row: row.clone(), batch_end };
                hold!(by_seq.insert(seq, entry).is_none(), SeqsAreUnique, "seq {seq} was given twice");
            }
        }
        let offered = by_seq.len() as u64;
        let given = by_seq.first_key_value().zip(by_seq.last_key_value());
        if let Some(((&first, _), (&last, _))) = given {
            hold!((first, last) == (1, offered), SeqsAreDense, "{offered} seqs from {first} to {last}");
        }
        let entries: Vec<Entry> = by_seq.into_values().collect();
        let mut earliest_end = Time::MAX;
        for (seq, entry) in (1..=offered).rev().zip(entries.iter().rev()) {
            hold!(entry.start <= earliest_end, RealTimeOrder, "seq {seq} began after a later one returned");
            earliest_end = earliest_end.min(entry.end);
        }
        let mut starts: Vec<Time> = entries.iter().map(|entry| entry.start).collect();
        starts.sort_unstable();
        let ends = increasing(entries.iter().zip(1..).map(|(entry, seq)| (entry.end, seq)).collect());
        Ok(Self { entries, starts, ends })
    }

    fn offered(&self) -> u64 {
        self.entries.len() as u64
    }

    fn entry(&self, seq: u64) -> Option<&Entry> {
        self.entries.get(usize::try_from(seq.checked_sub(1)?).ok()?)
    }

    /// No more seqs than this had been handed out by then.
    fn last_at_most(&self, time: Time) -> u64 {
        self.starts.partition_point(|&start| start <= time) as u64
    }

    /// This seq had been handed out by then.
    fn last_at_least(&self, time: Time) -> u64 {
        latest_before(&self.ends, time)
    }
}

/// Up to which seq everything was known to be visible, by time.
struct Sights {
    /// Because all appends up to there had returned.
    returned: Vec<(Time, u64)>,
    /// Because a reader that follows had got so far, or a head was told.
    seen: Vec<(Time, u64)>,
}

impl Sights {
    fn new(history: &History, ledger: &Ledger) -> Self {
        let mut latest = 0;
        let returned = ledger.entries.iter().zip(1..).map(|(entry, seq)| {
            latest = latest.max(entry.end);
            (latest, seq)
        });
        let returned = increasing(returned.collect());
        let batch_end = |seq| ledger.entry(seq).map_or(seq, |entry| entry.batch_end);
        let seen = history.calls.iter().filter_map(|call| match &call.did {
            // A read from a cursor that no reader has may look past what is still unpublished.
            Did::Read { reader: Some(_), answer: Answer::Page { rows, .. }, .. } => {
                Some((call.end, batch_end(rows.last()?.0)))
            }
            Did::Head { head } | Did::Wait { head: Some(head), .. } => Some((call.end, *head)),
            _ => None,
        });
        Self { returned, seen: increasing(seen.collect()) }
    }

    /// Everything up to here was visible by then.
    fn visible(&self, time: Time) -> u64 {
        latest_before(&self.returned, time).max(latest_before(&self.seen, time))
    }
}

/// In order of time, each with the highest seq so far.
fn increasing(mut marks: Vec<(Time, u64)>) -> Vec<(Time, u64)> {
    marks.sort_unstable();
    let mut highest = 0;
    for (_, seq) in &mut marks {
        highest = highest.max(*seq);
        *seq = highest;
    }
    marks
}

/// The seq of the last mark before `time`.
fn latest_before(marks: &[(Time, u64)], time: Time) -> u64 {
    let count = marks.partition_point(|&(end, _)| end < time);
    count.checked_sub(1).map_or(0, |last| marks[last].1)
}

struct Page<'a> {
    after: u64,
    limit: usize,
    rows: &'a [(u64, Row)],
    next: u64,
    has_more: bool,
}

fn check_page(
    call: &Call,
    page: &Page<'_>,
    capacity: u64,
    ledger: &Ledger,
    sights: &Sights,
) -> Result<(), Violation> {
    let seqs = page.rows.iter().map(|(seq, _)| *seq);
    let len = page.rows.len();
    let contiguous = seqs.eq(page.after + 1..=page.after + len as u64);
    hold!(contiguous && len <= page.limit, RunIsContiguous, "{call:?}");
    hold!(page.next == page.after + len as u64, RunIsContiguous, "the cursor: {call:?}");
    for (seq, row) in page.rows {
        let entry = ledger.entry(*seq);
        hold!(entry.is_some_and(|entry| entry.row == *row), EventAsOffered, "seq {seq}: {call:?}");
        hold!(entry.is_some_and(|entry| entry.start <= call.end), NotFromTheFuture, "seq {seq}: {call:?}");
    }
    let last = ledger.last_at_least(call.start);
    hold!(page.after + capacity >= last, OnlyTheWindow, "{last} were handed out: {call:?}");
    let most = ledger.last_at_most(call.end);
    hold!(page.after <= most, AheadIsTrue, "no more than {most} were handed out: {call:?}");

    let visible = sights.visible(call.start);
    let cut = len == page.limit;
    hold!(cut || page.next >= visible, VisibleOnceReturned, "{visible} was visible: {call:?}");
    let more = ledger.entry(page.next + 1).is_some_and(|entry| entry.start <= call.end);
    hold!(more || !page.has_more, HasMoreIsTrue, "there is no more: {call:?}");
    let gone = page.next + capacity < most;
    hold!(page.has_more || gone || page.next >= visible, HasMoreIsTrue, "{visible} was visible: {call:?}");
    let batch_end = ledger.entry(page.next).map_or(0, |entry| entry.batch_end);
    hold!(cut || len == 0 || page.next == batch_end, BatchIsWhole, "it ends at {batch_end}: {call:?}");
    Ok(())
}

/// Each reader that follows goes on where it stopped, and has read or lost every event at the end.
fn check_readers(history: &History, ledger: &Ledger) -> Result<(), Violation> {
    let mut accounts: BTreeMap<usize, (u64, u64)> = BTreeMap::new();
    for call in &history.calls {
        let Did::Read { reader: Some(reader), cursor, answer, .. } = &call.did else { continue };
        let (at, entered) = accounts.entry(*reader).or_default();
        hold!(at == cursor, ReaderAccount, "reader {reader} stood at {at}: {call:?}");
        match answer {
            Answer::Page { rows, cursor, .. } => {
                *entered += rows.len() as u64;
                *at = *cursor;
            }
            Answer::Evicted { oldest } => {
                *entered += oldest - 1 - *at;
                *at = oldest - 1;
            }
            Answer::Ahead { .. } => hold!(false, AheadIsTrue, "a follower was sent back: {call:?}"),
        }
    }
    let offered = ledger.offered();
    for (reader, (at, entered)) in accounts {
        hold!(
            (at, entered) == (offered, offered),
            ReaderAccount,
            "reader {reader} stands at {at}, with {entered} of {offered} read or lost"
        );
    }
    Ok(())
}

/// A claim that proceeded, until it was released, as far as it was.
#[derive(Debug)]
struct Hold {
    id: u8,
    from: (Time, Time),
    until: (Time, Time),
    completed: Option<u64>,
}

/// Calls that completed an op id, by their beginnings and by their ends.
struct Completions {
    starts: Vec<Time>,
    ends: Vec<Time>,
}

impl Completions {
    /// So many may have come after one that took `earlier`, and before something that ended at
    /// `end`.
    fn at_most_between(&self, earlier: (Time, Time), end: Time) -> u64 {
        let before = self.ends.partition_point(|&time| time < earlier.0);
        let not_after = self.starts.partition_point(|&time| time <= end);
        // Itself is among them.
        (not_after - before).saturating_sub(1) as u64
    }

    /// So many came after one that took `earlier`, and before something that began at `start`.
    fn at_least_between(&self, earlier: (Time, Time), start: Time) -> u64 {
        let not_after = self.starts.partition_point(|&time| time <= earlier.1);
        let before = self.ends.partition_point(|&time| time < start);
        before.saturating_sub(not_after) as u64
    }
}

fn check_op_ids(history: &History) -> Result<(), Violation> {
    let holds = holds(history);
    let completed = || holds.iter().filter(|hold| hold.completed.is_some());
    let mut starts: Vec<Time> = completed().map(|hold| hold.until.0).collect();
    let mut ends: Vec<Time> = completed().map(|hold| hold.until.1).collect();
    starts.sort_unstable();
    ends.sort_unstable();
    let completions = Completions { starts, ends };

    let mut by_id: HashMap<u8, Vec<&Hold>> = HashMap::new();
    for hold in &holds {
        by_id.entry(hold.id).or_default().push(hold);
    }
    for holds in by_id.values_mut() {
        holds.sort_unstable_by_key(|hold| hold.from.1);
        let mut free_from = 0;
        for hold in holds {
            hold!(hold.from.1 >= free_from, HeldOnce, "held until {free_from}: {hold:?}");
            free_from = free_from.max(hold.until.0);
        }
    }
    for call in &history.calls {
        let (id, remembered) = match call.did {
            Did::Claim { id, answer: ClaimAnswer::Proceed { .. } } | Did::Ask { id, seen: false } => {
                (id, None)
            }
            Did::Claim { id, answer: ClaimAnswer::Replayed { seq } } => (id, Some(Some(seq))),
            Did::Ask { id, seen: true } => (id, Some(None)),
            Did::Claim { id, answer: ClaimAnswer::InFlight } => {
                let held = by_id.get(&id).is_some_and(|holds| {
                    holds.iter().any(|hold| hold.from.0 <= call.end && hold.until.1 >= call.start)
                });
                hold!(held, InFlightIsHeld, "nobody holds it: {call:?}");
                continue;
            }
            _ => continue,
        };
        let completed = by_id.get(&id).into_iter().flatten().filter(|hold| hold.completed.is_some());
        match remembered {
            None => check_forgotten(call, completed, &completions, history.op_id_capacity)?,
            Some(seq) => check_remembered(call, seq, completed, &completions, history.op_id_capacity)?,
        }
    }
    Ok(())
}

/// The id was said not to be remembered: no completion of it may still have to be.
fn check_forgotten<'a>(
    call: &Call,
    mut completed: impl Iterator<Item = &'a &'a Hold>,
    completions: &Completions,
    capacity: u64,
) -> Result<(), Violation> {
    let must = completed.find(|hold| {
        hold.until.1 < call.start && completions.at_most_between(hold.until, call.end) < capacity
    });
    hold!(must.is_none(), AppliedOnce, "{must:?} is among the last {capacity}: {call:?}");
    Ok(())
}

/// The id was said to be remembered, with this seq if one was told: some completion of it may be.
fn check_remembered<'a>(
    call: &Call,
    seq: Option<u64>,
    completed: impl Iterator<Item = &'a &'a Hold>,
    completions: &Completions,
    capacity: u64,
) -> Result<(), Violation> {
    let mut candidates = completed
        .filter(|hold| hold.until.0 <= call.end && (seq.is_none() || hold.completed == seq))
        .peekable();
    hold!(candidates.peek().is_some(), ReplayedAfterComplete, "it was not completed: {call:?}");
    let lives = candidates.any(|hold| completions.at_least_between(hold.until, call.start) < capacity);
    hold!(lives, RememberedToTheLimit, "{capacity} others were completed since: {call:?}");
    Ok(())
}

fn holds(history: &History) -> Vec<Hold> {
    let mut holds: BTreeMap<usize, Hold> = BTreeMap::new();
    for call in &history.calls {
        if let Did::Claim { id, answer: ClaimAnswer::Proceed { held } } = call.did {
            let until = (Time::MAX, Time::MAX);
            holds.insert(held, Hold { id, from: (call.start, call.end), until, completed: None });
        }
    }
    for call in &history.calls {
        if let Did::Release { held, completed } = call.did {
            let hold = holds.get_mut(&held).expect("only what is held is released");
            (hold.until, hold.completed) = ((call.start, call.end), completed);
        }
    }
    holds.into_values().collect()
}

/// What the log counted is what was called. Offered = visible + superseded: what was dropped unseen
/// was not seen, and where nothing can have left the window nothing was dropped, and each follower
/// has seen all.
fn check_books(history: &History, ledger: &Ledger) -> Result<(), Violation> {
    let offered = ledger.offered();
    let mut seen = vec![false; ledger.entries.len()];
    let mut counted = Books { appended: offered, head: offered, ..history.books };
    (counted.completed, counted.forgotten, counted.replayed, counted.in_flight) = (0, 0, 0, 0);
    let mut followed = false;
    for call in &history.calls {
        match &call.did {
            Did::Read { reader, answer: Answer::Page { rows, .. }, .. } => {
                followed |= reader.is_some();
                for (seq, _) in rows {
                    seen[*seq as usize - 1] = true;
                }
            }
            Did::Release { completed: Some(_), .. } => counted.completed += 1,
            Did::Release { completed: None, .. } => counted.forgotten += 1,
            Did::Claim { answer: ClaimAnswer::Replayed { .. }, .. } => counted.replayed += 1,
            Did::Claim { answer: ClaimAnswer::InFlight, .. } => counted.in_flight += 1,
            _ => {}
        }
    }
    let said = history.books;
    hold!(said == counted, BooksBalance, "{said:?}, not {counted:?}");
    let seen = seen.into_iter().filter(|&seen| seen).count() as u64;
    let fits = offered <= history.capacity;
    hold!(
        seen + said.superseded <= offered && !(fits && said.superseded > 0),
        BooksBalance,
        "{seen} of {offered} seen, {said:?}"
    );
    hold!(!fits || !followed || seen == offered, BooksBalance, "{seen} of {offered} seen");
    Ok(())
}
