//! Op ids against a model: a queue of what was completed, and a set of what is in flight. One
//! thread.

use ringlog::{ChangeKind, ChangeLog, ClientChange, OpClaim, OpGuard, OpStatus, PushRequest};
use std::collections::{BTreeSet, VecDeque};

/// So many steps of one input are taken.
const MAX_STEPS: usize = 400;
/// Claims that are held at a time.
const MAX_HELD: usize = 12;
/// Ids that meet, and ids that only fill the memory up.
const IDS: u8 = 40;

/// An op id, and the client that it belongs to.
type Id = (Option<&'static str>, String);

/// What the memory should hold.
#[derive(Default)]
struct Model {
    capacity: usize,
    /// The oldest first.
    completed: VecDeque<Completed>,
    in_flight: BTreeSet<Id>,
    count_completed: u64,
    count_forgotten: u64,
    count_replayed: u64,
    count_mismatched: u64,
    count_in_flight: u64,
}

struct Completed {
    id: Id,
    seq: u64,
    /// The row of the change that it was for, if that is known: all else is the same in every
    /// change.
    row: Option<String>,
}

#[derive(Debug, PartialEq, Eq)]
enum Claimed {
    Proceed,
    InFlight,
    Replayed(u64),
    OtherChange,
}

impl Claimed {
    /// What a change is answered if it is not applied.
    fn result(&self) -> (OpStatus, Option<u64>) {
        match *self {
            Self::Replayed(seq) => (OpStatus::Replayed, Some(seq).filter(|&seq| seq > 0)),
            Self::OtherChange => (OpStatus::Error, None),
            Self::InFlight | Self::Proceed => (OpStatus::Pending, None),
        }
    }
}

impl Model {
    fn find(&self, id: &Id) -> Option<&Completed> {
        self.completed.iter().find(|known| known.id == *id)
    }

    /// A claim for the change of a row, or for none in particular.
    fn claim(&mut self, id: &Id, row: Option<&str>) -> Claimed {
        if let Some(&Completed { seq, row: ref known, .. }) = self.find(id) {
            if known.as_deref().zip(row).is_some_and(|(known, row)| known != row) {
                self.count_mismatched += 1;
                return Claimed::OtherChange;
            }
            self.count_replayed += 1;
            Claimed::Replayed(seq)
        } else if self.in_flight.insert(id.clone()) {
            Claimed::Proceed
        } else {
            self.count_in_flight += 1;
            Claimed::InFlight
        }
    }

    fn complete(&mut self, id: Id, seq: u64, row: Option<String>) {
        assert!(self.in_flight.remove(&id), "only what is in flight is completed");
        self.enter(Completed { id, seq, row });
    }

    fn enter(&mut self, completed: Completed) {
        self.count_completed += 1;
        self.completed.push_back(completed);
        while self.completed.len() > self.capacity {
            self.completed.pop_front();
        }
    }

    fn forget(&mut self, id: &Id) {
        assert!(self.in_flight.remove(id), "only what is in flight is forgotten");
        self.count_forgotten += 1;
    }

    /// A memory of nothing does not even count what it is told to remember.
    fn remember(&mut self, id: Id) {
        if self.capacity > 0 && self.find(&id).is_none() && !self.in_flight.contains(&id) {
            self.enter(Completed { id, seq: 0, row: None });
        }
    }

    /// What a push of one change is answered, if `apply` succeeds or not.
    fn push(
        &mut self,
        id: Option<Id>,
        row: &str,
        succeeds: bool,
        next_seq: &mut u64,
    ) -> (OpStatus, Option<u64>) {
        match id.as_ref().map(|id| self.claim(id, Some(row))) {
            Some(Claimed::Proceed) | None => {}
            Some(other) => return other.result(),
        }
        if succeeds {
            *next_seq += 1;
            if let Some(id) = id {
                self.complete(id, *next_seq, Some(row.into()));
            }
            (OpStatus::Applied, Some(*next_seq))
        } else {
            if let Some(id) = id {
                self.forget(&id);
            }
            (OpStatus::Error, None)
        }
    }

    /// What a push of changes as one is answered, and how many `apply` gets if it is called.
    fn push_batch(
        &mut self,
        changes: &[(Option<Id>, &str)],
        succeeds: bool,
        next_seq: &mut u64,
    ) -> (Vec<(OpStatus, Option<u64>)>, usize) {
        let mut planned: Vec<&(Option<Id>, &str)> = Vec::new();
        let mut known = Vec::new();
        for change in changes {
            let (id, row) = change;
            let earlier = planned.iter().position(|(earlier, _)| id.is_some() && earlier == id);
            known.push(match (earlier, id) {
                (Some(turn), _) => Known::Again { turn, same: planned[turn].1 == *row },
                (None, None) => Known::Planned(planned.len()),
                (None, Some(id)) => match self.claim(id, Some(row)) {
                    Claimed::Proceed => Known::Planned(planned.len()),
                    other => Known::Told(other),
                },
            });
            if let Some(Known::Planned(_)) = known.last() {
                planned.push(change);
            }
        }
        let blocked = known.iter().any(|known| matches!(known, Known::Told(Claimed::InFlight)));
        let (applies, first) = (succeeds && !blocked, *next_seq + 1);
        for (id, row) in &planned {
            *next_seq += u64::from(applies);
            match id {
                Some(id) if applies => self.complete(id.clone(), *next_seq, Some((*row).into())),
                Some(id) => self.forget(id),
                None => {}
            }
        }
        let given_up = (if blocked { OpStatus::Pending } else { OpStatus::Error }, None);
        let seq = |turn: usize| Some(first + turn as u64);
        let results = known.into_iter().map(|known| match known {
            Known::Told(claimed) => claimed.result(),
            Known::Again { same: false, .. } => (OpStatus::Error, None),
            Known::Planned(_) | Known::Again { .. } if !applies => given_up,
            Known::Planned(turn) => (OpStatus::Applied, seq(turn)),
            Known::Again { turn, .. } => (OpStatus::Replayed, seq(turn)),
        });
        (results.collect(), if blocked { 0 } else { planned.len() })
    }
}

/// What is known of a change of a batch before it is applied.
enum Known {
    Told(Claimed),
    Planned(usize),
    /// It has the op id of this planned one.
    Again {
        turn: usize,
        same: bool,
    },
}

/// Takes bytes as operations on a log and on the model, which must answer alike at each step.
pub(crate) fn check(bytes: &[u8]) {
    let mut bytes = bytes.iter().copied();
    let mut byte = || bytes.next();
    let capacity = match byte().unwrap_or(0) {
        small @ 0..=127 => usize::from(small % 32),
        large => usize::from(large) * 3,
    };
    let log = ChangeLog::builder().capacity(4).op_id_capacity(capacity).build().expect("small capacities");
    let mut both = Both {
        log: &log,
        model: Model { capacity, ..Model::default() },
        held: VecDeque::new(),
        next_seq: 0,
        filler: 0,
    };
    for _ in 0..MAX_STEPS {
        let (Some(what), Some(which)) = (byte(), byte()) else { break };
        both.step(what, which);
        both.compare();
    }
    both.compare_all();
}

struct Both<'a> {
    log: &'a ChangeLog,
    model: Model,
    held: VecDeque<(Id, OpGuard<'a>)>,
    next_seq: u64,
    filler: u32,
}

impl Both<'_> {
    fn step(&mut self, what: u8, which: u8) {
        match what % 10 {
            0..=2 => self.claim(name(which)),
            3 => self.complete(u64::from(which)),
            4 => self.forget(),
            5 => {
                self.log.remember_op_id(&name(which));
                self.model.remember((None, name(which)));
            }
            6 => self.ask(&name(which)),
            7 => self.fill(which),
            8 => self.push(what / 10, which),
            _ => self.push_batch(what / 10, which),
        }
    }

    fn claim(&mut self, name: String) {
        let id = (None, name);
        let expected = self.model.claim(&id, None);
        let claimed = match self.log.claim_op_id(&id.1) {
            OpClaim::Proceed(guard) => {
                self.held.push_back((id, guard));
                Claimed::Proceed
            }
            OpClaim::InFlight => Claimed::InFlight,
            OpClaim::Replayed { seq } => Claimed::Replayed(seq),
        };
        assert_eq!(claimed, expected);
        if self.held.len() > MAX_HELD {
            self.forget();
        }
    }

    fn complete(&mut self, seq: u64) {
        if let Some((id, guard)) = self.held.pop_front() {
            guard.complete(seq);
            self.model.complete(id, seq, None);
        }
    }

    fn forget(&mut self) {
        if let Some((id, guard)) = self.held.pop_back() {
            drop(guard);
            self.model.forget(&id);
        }
    }

    fn ask(&self, name: &str) {
        let expected = self.model.find(&(None, name.into())).is_some();
        assert_eq!(self.log.has_seen_op_id(name), expected, "{name}");
    }

    /// Completes so many ids that are not asked for again but to see that they go in turn.
    fn fill(&mut self, count: u8) {
        for _ in 0..count {
            self.filler += 1;
            let id = (None, format!("filler {}", self.filler));
            self.log.remember_op_id(&id.1);
            self.model.remember(id);
        }
        let oldest = self.filler.saturating_sub(self.model.capacity as u32);
        (oldest.saturating_sub(1)..oldest + 3).for_each(|number| self.ask(&format!("filler {number}")));
    }

    /// Changes one after the other, each applied or not.
    fn push(&mut self, shape: u8, which: u8) {
        let request = request(shape, which);
        let client = client(&request);
        let fails = |row_id: &str| row_id.ends_with('3');
        let expected: Vec<_> = request
            .changes
            .iter()
            .map(|change| {
                let id = change.op_id.clone().map(|op_id| (client, op_id));
                self.model.push(id, &change.row_id, !fails(&change.row_id), &mut self.next_seq)
            })
            .collect();
        let response = self
            .log
            .push(&request, |change| if fails(&change.row_id) { Err("it ends in 3") } else { Ok(()) });
        let results: Vec<_> = response.results.iter().map(|result| (result.status, result.seq)).collect();
        assert_eq!(results, expected);
        let with =
            |statuses: &[OpStatus]| results.iter().filter(|(status, _)| statuses.contains(status)).count();
        assert_eq!(response.applied, with(&[OpStatus::Applied, OpStatus::Replayed]));
        assert_eq!(response.deduped, with(&[OpStatus::Replayed]));
        assert_eq!(response.errors.len(), with(&[OpStatus::Error]));
        assert_eq!(response.cursor.last_seq, self.next_seq);
    }

    /// Changes as one: whether any was appended, and whether every id of theirs is as it should be,
    /// is seen after.
    fn push_batch(&mut self, shape: u8, which: u8) {
        let request = request(shape, which);
        let client = client(&request);
        let succeeds = which % 4 != 3;
        let changes: Vec<_> = request
            .changes
            .iter()
            .map(|change| (change.op_id.clone().map(|op_id| (client, op_id)), change.row_id.as_str()))
            .collect();
        let (expected, planned) = self.model.push_batch(&changes, succeeds, &mut self.next_seq);
        let mut calls = 0;
        let response = self.log.push_batch(&request, |changes| {
            calls += 1;
            assert_eq!(changes.len(), planned);
            if succeeds { Ok(()) } else { Err("no") }
        });
        assert_eq!(calls, usize::from(planned > 0));
        assert_eq!(response.cursor.last_seq, self.next_seq);
        let results: Vec<_> = response.results.iter().map(|result| (result.status, result.seq)).collect();
        assert_eq!(results, expected);
    }

    fn compare(&self) {
        let (stats, model) = (self.log.stats(), &self.model);
        assert_eq!(
            (
                stats.op_ids_completed,
                stats.op_claims_forgotten,
                stats.op_claims_replayed,
                stats.op_claims_mismatched,
                stats.op_claims_in_flight
            ),
            (
                model.count_completed,
                model.count_forgotten,
                model.count_replayed,
                model.count_mismatched,
                model.count_in_flight
            )
        );
        assert_eq!(stats.appended, self.next_seq);
    }

    fn compare_all(&self) {
        (0..IDS).for_each(|which| self.ask(&name(which)));
        for number in 1..=self.filler {
            self.ask(&format!("filler {number}"));
        }
    }
}

/// One of the ids that meet; some are longer than an entry holds in place, one is empty.
fn name(which: u8) -> String {
    let which = which % IDS;
    match which {
        0 => String::new(),
        1..=29 => format!("op {which}"),
        _ => format!("op {}", "x".repeat(usize::from(which) * 3)),
    }
}

/// Up to five changes, with op ids beside each other, some of them without or twice, for the same
/// change or another.
fn request(shape: u8, which: u8) -> PushRequest {
    let turn = |index: u8| if which & 8 == 0 { index } else { index % 3 };
    let change = |index: u8| ClientChange {
        entity: "Row".into(),
        row_id: format!("r{}", (which >> 4) + turn(index)),
        kind: ChangeKind::Update,
        data: None,
        op_id: (index % 4 != 3).then(|| name(which.wrapping_add(index % 3))),
    };
    let client_id = [None, Some("phone"), Some("laptop")][usize::from(which % 3)];
    PushRequest { changes: (0..shape % 6).map(change).collect(), client_id: client_id.map(String::from) }
}

fn client(request: &PushRequest) -> Option<&'static str> {
    match request.client_id.as_deref() {
        None => None,
        Some("phone") => Some("phone"),
        Some(_) => Some("laptop"),
    }
}
