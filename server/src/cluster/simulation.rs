//! A simulation of the protocol: the real machine and the real publisher, with a stream, nodes,
//! clients and a clock that are made up. One seed is one run, always the same.
//!
//! The stream loses, repeats and delays messages and acks, stores nothing for a while, is full, or
//! is rolled back. Nodes are killed and come back with an older state, or stand still. Clients push
//! again on other nodes. An operator resets the log after some of the rollbacks. In the end all
//! faults cease, everything is decided, and the laws are checked; those that must hold all the time
//! are checked at once.
//!
//! What it leaves out: how a node reads the stream (here it reads any position that is stored),
//! and threads.
//!
//! `RINGLOG_SIM_SEEDS=100000` runs more seeds, `RINGLOG_SIM_SEED=7` one of them, with its trace.

use super::frame::{Claim, Frame, Session};
use super::machine::{Link, Machine, Memory, Sent, Verdict};
use super::publisher::{Decision, Publisher};
use bytes::Bytes;
use ringlog::Incarnation;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::fmt::Write as _;
use std::time::Duration;

/// How many seeds `cargo test` runs.
const SEEDS: u64 = 800;

const MEMORY: Memory = Memory { positions: 32, op_ids: 64 };

/// Milliseconds of a step.
const STEP: u64 = 50;

/// Milliseconds with faults, and the most without any until everything is decided.
const FAULTY: u64 = 15_000;
const HEALED: u64 = 60_000;

const NODES: usize = 3;
const CLIENTS: usize = 6;

/// The most requests that wait on a node.
const MAX_WAITING: usize = 12;

/// Milliseconds until a request without a frame is refused, one in a frame is given up by its
/// node, and a client gives up on its own.
const UNFRAMED: u64 = 3000;
const UNDECIDED: u64 = 6000;
const PATIENCE: u64 = 8000;

type Op = u32;

/// Operations from this on have no op id: their clients push them once.
const WITHOUT_ID: Op = 1 << 30;

/// `SplitMix64`.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn below(&mut self, end: u64) -> u64 {
        self.next() % end
    }

    /// True so many times in ten thousand.
    fn happens(&mut self, rate: u64) -> bool {
        self.below(10_000) < rate
    }

    /// One of the rates, for the whole run.
    fn rate(&mut self, rates: &[u64]) -> u64 {
        rates[self.below(rates.len() as u64) as usize]
    }
}

/// How often what goes wrong, in ten thousand.
#[derive(Debug, Clone, Default)]
struct Rates {
    drop: u64,
    lose_ack: u64,
    duplicate: u64,
    delay: u64,
    delay_far: u64,
    kill: u64,
    pause: u64,
    stall: u64,
    full: u64,
    lag: u64,
    lose_answer: u64,
    impatient: u64,
    shares: u64,
    without_ids: u64,
    mute: u64,
    rolls_back: bool,
    resets: bool,
}

impl Rates {
    fn draw(random: &mut Random) -> Self {
        Self {
            drop: random.rate(&[0, 200, 2000]),
            lose_ack: random.rate(&[0, 500, 5000]),
            duplicate: random.rate(&[0, 500, 4000]),
            delay: random.rate(&[0, 500, 4000]),
            delay_far: random.rate(&[0, 100, 1000]),
            kill: random.rate(&[0, 5, 30]),
            pause: random.rate(&[0, 5, 30]),
            stall: random.rate(&[0, 0, 20]),
            full: random.rate(&[0, 0, 20]),
            lag: random.rate(&[0, 1000, 7000]),
            lose_answer: random.rate(&[0, 200, 2000]),
            impatient: random.rate(&[0, 500, 3000]),
            shares: random.rate(&[0, 1000, 5000]),
            without_ids: random.rate(&[0, 3000]),
            mute: random.rate(&[0, 10, 40]),
            rolls_back: random.happens(1500),
            resets: random.happens(8000),
        }
    }
}

/// What a store keeps of a node, and what it is checked by.
#[derive(Debug, Clone, PartialEq, Eq)]
struct State {
    position: u64,
    links: VecDeque<Link>,
    sessions: BTreeMap<Session, Sent>,
    /// The op with each seq from 1 on.
    log: Vec<Op>,
    op_ids: VecDeque<(Op, u64)>,
}

impl State {
    fn machine(&self) -> Machine {
        let sessions = self.sessions.iter().map(|(session, sent)| (*session, *sent));
        Machine::restore(MEMORY, self.position, self.links.iter().copied(), sessions)
    }

    fn remembered(&self, op: Op) -> Option<u64> {
        self.op_ids.iter().find(|(known, _)| *known == op).map(|(_, seq)| *seq)
    }

    /// The seqs of a request, each with whether it is a replay.
    fn apply(&mut self, ops: &[Op]) -> Vec<(u64, bool)> {
        let known: Vec<_> = ops.iter().map(|op| self.remembered(*op)).collect();
        let mut seqs = Vec::new();
        for (op, known) in ops.iter().zip(known) {
            if let Some(seq) = known {
                seqs.push((seq, true));
                continue;
            }
            self.log.push(*op);
            let seq = self.log.len() as u64;
            if *op < WITHOUT_ID {
                self.op_ids.push_back((*op, seq));
            }
            seqs.push((seq, false));
        }
        while self.op_ids.len() as u64 > MEMORY.op_ids {
            self.op_ids.pop_front();
        }
        seqs
    }
}

/// A request on a node.
#[derive(Debug)]
struct Request {
    text: String,
    attempt: usize,
    since: u64,
    claim: Claim,
    answered: bool,
}

impl AsRef<str> for Request {
    fn as_ref(&self) -> &str {
        &self.text
    }
}

/// The text of an attempt: no shorter than so many changes are.
fn text(attempt: usize, ops: &[Op]) -> String {
    ops.iter().fold(format!("{attempt} "), |mut text, op| {
        let _ = write!(text, "{op:16}");
        text
    })
}

fn read(text: &str) -> (usize, Vec<Op>) {
    let mut words = text.split_whitespace();
    let attempt = words.next().and_then(|attempt| attempt.parse().ok());
    (attempt.unwrap(), words.map(|op| op.parse().unwrap()).collect())
}

struct Node {
    /// Which of its lives it is; acks and answers of another are lost.
    life: u32,
    is_up: bool,
    /// It does nothing until then.
    paused_until: u64,
    /// Nothing that it publishes arrives until then, though it reads.
    mute_until: u64,
    state: State,
    kept: State,
    machine: Machine,
    publisher: Publisher<Request>,
    waiting: VecDeque<Request>,
    /// Attempts that have arrived and are not taken yet.
    inbox: VecDeque<usize>,
    framed_at: u64,
    kept_at: u64,
    /// The rollbacks of which it knows.
    rollbacks: usize,
    diverged: bool,
}

/// On its way to the stream, or, as an ack, back from it.
struct Travelling {
    at: u64,
    node: usize,
    life: u32,
    id: (Session, u64),
    /// The position that the node had applied when it sent it.
    applied: u64,
    /// No node is told that a message was refused while the other may be stored.
    has_twin: bool,
    what: What,
}

enum What {
    Message(Bytes),
    Ack(u64),
    /// The message was not stored, and never will be.
    Refusal,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Answer {
    Applied(Vec<(u64, bool)>),
    /// Nothing was applied: stale, or refused before it had a frame.
    Nothing,
    /// The outcome is not known.
    Unknown,
}

struct Attempt {
    client: usize,
    ops: Vec<Op>,
    at: u64,
    /// Those that the node had applied when it took the request. They may be forgotten, and be
    /// applied again.
    repeated: Vec<Op>,
    answer: Option<Answer>,
}

/// What is known of an operation.
#[derive(Default)]
struct Known {
    /// The highest seq of all answers when it was pushed first.
    floor: u64,
    seq: Option<u64>,
    attempts: Vec<usize>,
    /// It was applied again, after it was repeated on a node that had applied it.
    excused: bool,
    /// It was acknowledged and is gone: the stream was rolled back.
    lost: bool,
}

struct Client {
    ops: Vec<Op>,
    attempts: Vec<usize>,
    next_at: u64,
    last_ops: Vec<Op>,
}

/// What happened, to see that the runs show something.
#[derive(Debug, Default)]
struct Seen {
    verdicts: BTreeMap<Verdict, u64>,
    acknowledged: u64,
    replays: u64,
    nothing: u64,
    unknown: u64,
    excused: u64,
    diverged: u64,
    renewed: u64,
    given_up: u64,
    resets: u64,
    steps: u64,
}

struct Simulation {
    random: Random,
    rates: Rates,
    now: u64,
    healed: bool,
    stream: Vec<Bytes>,
    /// The hash of each position of the stream, by the first node that came there.
    hashes: BTreeMap<u64, u128>,
    /// The last seq of each position, likewise.
    last_seqs: BTreeMap<u64, u64>,
    /// The ends that the stream was cut to.
    rollbacks: Vec<u64>,
    /// The position of the last reset that the stream has.
    reset_at: u64,
    stalled_until: u64,
    holds_while_stalled: bool,
    full_until: u64,
    travelling: Vec<Travelling>,
    nodes: Vec<Node>,
    /// The state before all frames.
    empty: State,
    clients: Vec<Client>,
    attempts: Vec<Attempt>,
    known: BTreeMap<Op, Known>,
    last_acknowledged: u64,
    next_op: Op,
    seen: Seen,
    trace: Option<Vec<String>>,
}

type Checked = Result<(), String>;

macro_rules! trace {
    ($sim:expr, $($arg:tt)*) => {
        if let Some(trace) = &mut $sim.trace {
            let line = format!($($arg)*);
            trace.push(format!("{:>6} {line}", $sim.now));
        }
    };
}

macro_rules! law {
    ($holds:expr, $($arg:tt)*) => {
        if !$holds {
            return Err(format!($($arg)*));
        }
    };
}

fn millis(millis: u64) -> Duration {
    Duration::from_millis(millis)
}

impl Simulation {
    fn new(seed: u64, traced: bool) -> Self {
        let mut random = Random(seed);
        let rates = Rates::draw(&mut random);
        let machine = Machine::new(Incarnation::from_bytes([7; 16]), MEMORY);
        let first = Link { hash: machine.claim().hash, last_seq: 0 };
        let state = State {
            position: 0,
            links: [first].into(),
            sessions: BTreeMap::new(),
            log: Vec::new(),
            op_ids: VecDeque::new(),
        };
        let node = || Node {
            life: 0,
            is_up: true,
            paused_until: 0,
            mute_until: 0,
            kept: state.clone(),
            machine: machine.clone(),
            publisher: Publisher::new(Session(random.next())),
            waiting: VecDeque::new(),
            inbox: VecDeque::new(),
            state: state.clone(),
            framed_at: 0,
            kept_at: 0,
            rollbacks: 0,
            diverged: false,
        };
        let nodes = std::iter::repeat_with(node).take(NODES).collect();
        let client = || Client { ops: Vec::new(), attempts: Vec::new(), next_at: 0, last_ops: Vec::new() };
        let empty = state.clone();
        let trace = traced.then(|| vec![format!("       {rates:?}")]);
        Self {
            random,
            rates,
            now: 0,
            healed: false,
            stream: Vec::new(),
            hashes: [(0, first.hash)].into(),
            last_seqs: [(0, 0)].into(),
            rollbacks: Vec::new(),
            reset_at: 0,
            stalled_until: 0,
            holds_while_stalled: true,
            full_until: 0,
            travelling: Vec::new(),
            nodes,
            empty,
            clients: std::iter::repeat_with(client).take(CLIENTS).collect(),
            attempts: Vec::new(),
            known: BTreeMap::new(),
            last_acknowledged: 0,
            next_op: 1,
            seen: Seen::default(),
            trace,
        }
    }

    fn run(&mut self) -> Checked {
        while self.now < FAULTY {
            self.go_wrong();
            self.step()?;
        }
        self.heal();
        let end = self.now + HEALED;
        while !self.is_settled() {
            law!(self.now < end, "something is never decided");
            self.step()?;
        }
        self.check()
    }

    fn step(&mut self) -> Checked {
        self.now += STEP;
        self.seen.steps += 1;
        for client in 0..CLIENTS {
            self.push(client);
        }
        self.travel()?;
        for index in 0..NODES {
            let node = &self.nodes[index];
            if node.is_up && !node.diverged && node.paused_until <= self.now {
                self.work(index)?;
            }
        }
        Ok(())
    }

    // Faults.

    fn go_wrong(&mut self) {
        for index in 0..NODES {
            if !self.nodes[index].is_up || self.nodes[index].diverged {
                if self.random.happens(500) {
                    self.start(index);
                }
            } else if self.random.happens(self.rates.kill) {
                trace!(self, "node {index} is killed");
                self.nodes[index].is_up = false;
            } else if self.random.happens(self.rates.pause) {
                let until = self.now + self.random.below(15_000);
                trace!(self, "node {index} stands still until {until}");
                self.nodes[index].paused_until = until;
            } else if self.random.happens(self.rates.mute) {
                let until = self.now + self.random.below(6000);
                trace!(self, "node {index} is mute until {until}");
                self.nodes[index].mute_until = until;
            }
        }
        if self.random.happens(self.rates.stall) {
            self.stalled_until = self.now + self.random.below(8000);
            self.holds_while_stalled = self.random.happens(5000);
            trace!(self, "nothing is stored until {}", self.stalled_until);
        }
        if self.random.happens(self.rates.full) {
            self.full_until = self.now + self.random.below(8000);
            trace!(self, "the stream is full until {}", self.full_until);
        }
        if self.rates.rolls_back && self.rollbacks.len() < 2 && self.random.happens(40) {
            self.roll_back();
        }
    }

    fn roll_back(&mut self) {
        let cut = self.random.below(6).min(self.stream.len() as u64);
        let end = self.stream.len() as u64 - cut;
        trace!(self, "the stream is rolled back to {end}");
        self.stream.truncate(end as usize);
        self.rollbacks.push(end);
        self.hashes.split_off(&(end + 1));
        self.last_seqs.split_off(&(end + 1));
        let last_seq = self.last_seqs.values().next_back().copied().unwrap_or_default();
        for known in self.known.values_mut() {
            known.lost |= known.seq.is_some_and(|seq| seq > last_seq);
        }
        if self.reset_at > end {
            self.reset_at = 0;
        }
        if self.rates.resets {
            self.reset();
        }
    }

    fn reset(&mut self) {
        let mut frame = Frame::none();
        frame.reset =
            Some(Incarnation::from_bytes(self.random.next().to_be_bytes().repeat(2).try_into().unwrap()));
        self.stream.push(frame.encode());
        self.reset_at = self.stream.len() as u64;
        self.seen.resets += 1;
        trace!(self, "the log is reset at {}", self.reset_at);
    }

    fn heal(&mut self) {
        trace!(self, "all is well from now on");
        self.healed = true;
        self.rates = Rates::default();
        (self.stalled_until, self.full_until) = (0, 0);
        for index in 0..NODES {
            (self.nodes[index].paused_until, self.nodes[index].mute_until) = (0, 0);
            if !self.nodes[index].is_up || self.nodes[index].diverged {
                self.start(index);
            }
        }
    }

    /// Starts a node from what it has kept. One that has diverged gets the state of another, or
    /// begins anew.
    fn start(&mut self, index: usize) {
        let donor = self.nodes.iter().find(|node| self.is_of_the_stream(node)).map(|node| node.kept.clone());
        let is_of_the_stream = self.is_of_the_stream(&self.nodes[index]);
        let node = &mut self.nodes[index];
        if !is_of_the_stream {
            node.kept = donor.unwrap_or_else(|| self.empty.clone());
            node.rollbacks = self.rollbacks.len();
        }
        node.life += 1;
        node.is_up = true;
        node.diverged = false;
        node.paused_until = 0;
        node.state = node.kept.clone();
        node.machine = node.kept.machine();
        node.publisher = Publisher::new(Session(self.random.next()));
        node.waiting.clear();
        node.inbox.clear();
        let position = node.kept.position;
        trace!(self, "node {index} starts at {position}");
    }

    /// Whether what a node has kept is of the stream as it is now.
    fn is_of_the_stream(&self, node: &Node) -> bool {
        !node.diverged && self.rollbacks[node.rollbacks..].iter().all(|end| node.kept.position <= *end)
    }

    // Clients.

    fn push(&mut self, client: usize) {
        let now = self.now;
        if self.clients[client].next_at > now {
            return;
        }
        let attempts = &self.clients[client].attempts;
        let is_done = |attempt: &usize| matches!(self.attempts[*attempt].answer, Some(Answer::Applied(_)));
        if attempts.iter().any(is_done) && !self.random.happens(self.rates.lose_answer) {
            let ops = std::mem::take(&mut self.clients[client].ops);
            self.clients[client].last_ops = ops;
            self.clients[client].attempts.clear();
        }
        if self.clients[client].ops.is_empty() {
            if !self.healed {
                self.begin(client);
            }
            return;
        }
        if self.clients[client].ops[0] >= WITHOUT_ID {
            let [attempt] = self.clients[client].attempts[..] else { return };
            let attempt = &self.attempts[attempt];
            if attempt.answer.is_some() || now >= attempt.at + PATIENCE {
                self.clients[client].ops.clear();
                self.clients[client].attempts.clear();
            }
            return;
        }
        let Some(last) = self.clients[client].attempts.last() else { return };
        let last = &self.attempts[*last];
        let waits = last.answer.is_none() && now < last.at + PATIENCE;
        if waits && !self.random.happens(self.rates.impatient / 20) {
            return;
        }
        let nothing = |attempt: &usize| self.attempts[*attempt].answer == Some(Answer::Nothing);
        if self.clients[client].attempts.iter().all(nothing) && self.random.happens(3000) {
            trace!(self, "client {client} gives {:?} up", self.clients[client].ops);
            self.clients[client].ops.clear();
            self.clients[client].attempts.clear();
            return;
        }
        self.attempt(client);
    }

    /// Begins a request: new operations, and perhaps some of the one before.
    fn begin(&mut self, client: usize) {
        let count = 1 + self.random.below(5) as Op;
        let first = if self.random.happens(self.rates.without_ids) { WITHOUT_ID } else { 0 } + self.next_op;
        let mut ops: Vec<Op> = (first..first + count).collect();
        self.next_op += count;
        for op in &ops {
            self.known.insert(*op, Known { floor: self.last_acknowledged, ..Known::default() });
        }
        if first < WITHOUT_ID && self.random.happens(self.rates.shares) {
            ops.extend(self.clients[client].last_ops.first().filter(|op| **op < WITHOUT_ID));
        }
        self.clients[client].ops = ops;
        self.attempt(client);
    }

    fn attempt(&mut self, client: usize) {
        let (ops, attempt) = (self.clients[client].ops.clone(), self.attempts.len());
        let node = self.random.below(NODES as u64) as usize;
        trace!(self, "client {client} pushes {ops:?} to node {node}, attempt {attempt}");
        for op in &ops {
            self.known.entry(*op).or_default().attempts.push(attempt);
        }
        self.attempts.push(Attempt { client, ops, at: self.now, repeated: Vec::new(), answer: None });
        let pause = if self.random.happens(5000) { 0 } else { self.random.below(500) };
        let client = &mut self.clients[client];
        client.attempts.push(attempt);
        client.next_at = self.now + pause;
        self.nodes[node].inbox.push_back(attempt);
    }

    fn answer(&mut self, node: usize, attempt: usize, answer: Answer) -> Checked {
        trace!(self, "node {node} answers attempt {attempt}: {answer:?}");
        match &answer {
            Answer::Nothing => self.seen.nothing += 1,
            Answer::Unknown => self.seen.unknown += 1,
            Answer::Applied(seqs) => self.acknowledge(attempt, seqs)?,
        }
        let pushed = &mut self.attempts[attempt];
        law!(pushed.answer.is_none(), "attempt {attempt} is answered twice");
        pushed.answer = Some(answer);
        let client = pushed.client;
        self.clients[client].next_at = self.now;
        Ok(())
    }

    fn acknowledge(&mut self, attempt: usize, seqs: &[(u64, bool)]) -> Checked {
        self.seen.acknowledged += 1;
        let mut first_new = None;
        for (op, (seq, is_replay)) in self.attempts[attempt].ops.iter().zip(seqs) {
            let known = self.known.entry(*op).or_default();
            self.last_acknowledged = self.last_acknowledged.max(*seq);
            if known.excused || known.lost {
                continue;
            }
            self.seen.replays += u64::from(*is_replay);
            let before = *known.seq.get_or_insert(*seq);
            law!(before == *seq, "op {op} is answered with seq {before}, then with {seq}");
            if self.rollbacks.is_empty() {
                law!(*seq > known.floor, "op {op} has seq {seq}, and began after {}", known.floor);
            }
            if !is_replay {
                let expected = first_new.map_or(*seq, |last| last + 1);
                law!(*seq == expected, "attempt {attempt} is not whole");
                first_new = Some(*seq);
            }
        }
        Ok(())
    }

    // The stream.

    fn travel(&mut self) -> Checked {
        let now = self.now;
        let (mut due, later): (Vec<_>, _) = self.travelling.drain(..).partition(|it| it.at <= now);
        self.travelling = later;
        // Those of the same time keep their order.
        due.sort_by_key(|it| it.at);
        for mut it in due {
            match it.what {
                What::Message(ref bytes) if now < self.stalled_until => {
                    let _ = bytes;
                    if self.holds_while_stalled {
                        it.at = self.stalled_until;
                        self.travelling.push(it);
                    }
                }
                What::Message(_) if now < self.full_until && it.has_twin => {}
                What::Message(_) if now < self.full_until => {
                    let at = now + self.random.below(400);
                    self.travelling.push(Travelling { at, what: What::Refusal, ..it });
                }
                What::Message(bytes) => {
                    self.stream.push(bytes);
                    let position = self.stream.len() as u64;
                    trace!(self, "{:x?} of node {} is stored at {position}", it.id, it.node);
                    if !self.random.happens(self.rates.lose_ack) {
                        let at = now + self.random.below(400);
                        let what = What::Ack(position);
                        self.travelling.push(Travelling { at, what, ..it });
                    }
                }
                What::Ack(position) => self.acked(&it, position)?,
                What::Refusal => self.refused(&it),
            }
        }
        Ok(())
    }

    fn acked(&mut self, sent: &Travelling, position: u64) -> Checked {
        let node = &self.nodes[sent.node];
        if node.life != sent.life || !node.is_up || node.diverged || position > sent.applied {
            return Ok(());
        }
        law!(!self.rollbacks.is_empty(), "node {} takes an ack for a rollback", sent.node);
        self.diverge(sent.node);
        Ok(())
    }

    fn refused(&mut self, sent: &Travelling) {
        let node = &mut self.nodes[sent.node];
        if node.life == sent.life && node.is_up && !node.diverged {
            node.publisher.refused(sent.id.0, sent.id.1);
        }
    }

    /// Gives up the frames of which no copy can have been stored for long.
    fn give_up(&mut self, index: usize) -> Checked {
        let now = self.now;
        let is_old = |since: Duration| since + millis(UNFRAMED) <= millis(now);
        while self.nodes[index].publisher.refused_since().is_some_and(is_old) {
            let fresh = Session(self.random.next());
            for request in self.nodes[index].publisher.give_up(fresh) {
                self.seen.given_up += 1;
                if !request.answered {
                    self.answer(index, request.attempt, Answer::Nothing)?;
                }
            }
        }
        Ok(())
    }

    fn send(&mut self, index: usize, n: u64, bytes: &Bytes) {
        let node = &self.nodes[index];
        let (life, id, applied) = (node.life, (node.publisher.session(), n), node.machine.position());
        if self.now < node.mute_until && self.random.happens(5000) {
            let at = self.now + self.random.below(400);
            let (what, has_twin) = (What::Refusal, false);
            self.travelling.push(Travelling { at, node: index, life, id, applied, has_twin, what });
            return;
        }
        if self.now < self.nodes[index].mute_until || self.random.happens(self.rates.drop) {
            return;
        }
        let copies = 1 + u64::from(self.random.happens(self.rates.duplicate));
        for _ in 0..copies {
            let mut at = self.now;
            if self.random.happens(self.rates.delay) {
                at += self.random.below(2000);
            }
            if self.random.happens(self.rates.delay_far) {
                at += self.random.below(20_000);
            }
            let (what, has_twin) = (What::Message(bytes.clone()), copies > 1);
            self.travelling.push(Travelling { at, node: index, life, id, applied, has_twin, what });
        }
    }

    // Nodes.

    fn diverge(&mut self, index: usize) {
        trace!(self, "node {index} has diverged");
        self.seen.diverged += 1;
        self.nodes[index].diverged = true;
        if self.healed {
            self.start(index);
        }
    }

    fn work(&mut self, index: usize) -> Checked {
        self.learn_of_rollbacks(index);
        if self.nodes[index].diverged {
            return Ok(());
        }
        // The order matters: a node that stood still takes requests with an old state.
        self.take(index)?;
        self.make_frames(index);
        self.tail(index)?;
        if self.nodes[index].diverged {
            return Ok(());
        }
        self.timers(index)
    }

    fn learn_of_rollbacks(&mut self, index: usize) {
        let node = &mut self.nodes[index];
        let missed = &self.rollbacks[node.rollbacks..];
        let is_cut = missed.iter().any(|end| node.state.position > *end);
        node.rollbacks = if is_cut { node.rollbacks } else { self.rollbacks.len() };
        if is_cut {
            self.diverge(index);
        }
    }

    fn take(&mut self, index: usize) -> Checked {
        while let Some(attempt) = self.nodes[index].inbox.pop_front() {
            let node = &mut self.nodes[index];
            let ops = &self.attempts[attempt].ops;
            let known: Option<Vec<_>> =
                ops.iter().map(|op| node.state.remembered(*op).map(|seq| (seq, true))).collect();
            if let Some(known) = known {
                self.answer(index, attempt, Answer::Applied(known))?;
                continue;
            }
            if node.waiting.len() >= MAX_WAITING {
                self.answer(index, attempt, Answer::Nothing)?;
                continue;
            }
            let claim = node.machine.claim();
            let repeated = ops.iter().copied().filter(|op| node.state.log.contains(op)).collect();
            let text = text(attempt, ops);
            self.attempts[attempt].repeated = repeated;
            let request = Request { text, attempt, since: self.now, claim, answered: false };
            node.waiting.push_back(request);
        }
        Ok(())
    }

    fn make_frames(&mut self, index: usize) {
        while !self.nodes[index].waiting.is_empty() && self.nodes[index].publisher.has_room() {
            self.make_frame(index);
        }
    }

    fn make_frame(&mut self, index: usize) {
        let now = self.now;
        let node = &mut self.nodes[index];
        let claim = node.waiting.front().map_or_else(|| node.machine.claim(), |request| request.claim);
        let (n, bytes) = node.publisher.frame(&mut node.waiting, claim, now, millis(now));
        node.framed_at = now;
        trace!(self, "node {index} makes frame {n}, claims {}", claim.position);
        self.send(index, n, &bytes);
    }

    fn tail(&mut self, index: usize) -> Checked {
        if self.random.happens(self.rates.lag) {
            return Ok(());
        }
        let count = if self.healed { u64::MAX } else { 1 + self.random.below(12) };
        for _ in 0..count {
            let position = self.nodes[index].machine.position();
            let Some(bytes) = self.stream.get(position as usize).cloned() else { break };
            self.apply(index, &bytes)?;
            if self.nodes[index].diverged {
                break;
            }
        }
        Ok(())
    }

    fn apply(&mut self, index: usize, bytes: &Bytes) -> Checked {
        let frame = Frame::decode(bytes).map_err(|error| error.to_string())?;
        let node = &mut self.nodes[index];
        let verdict = node.machine.decide(&frame);
        let position = node.machine.position() + 1;
        let mut responses = Vec::new();
        if verdict == Verdict::Applied {
            let claim = frame.claim;
            let is_of_it = frame.reset.is_some() || self.hashes.get(&claim.position) == Some(&claim.hash);
            law!(is_of_it, "node {index} applies a frame of another stream at {position}");
            for request in &frame.requests {
                let (attempt, ops) = read(request);
                let len = node.state.log.len();
                responses.push(node.state.apply(&ops));
                let (before, new) = node.state.log.split_at(len);
                let is_first = !self.hashes.contains_key(&position);
                for op in new.iter().filter(|op| is_first && before.contains(op)) {
                    let is_excused = self.attempts[attempt].repeated.contains(op);
                    law!(is_excused, "op {op} of attempt {attempt} is applied twice, at {position}");
                    self.known.entry(*op).or_default().excused = true;
                    self.seen.excused += 1;
                }
            }
        }
        if verdict == Verdict::Applied && frame.reset.is_none() && self.reset_at < position {
            law!(
                frame.claim.position >= self.reset_at,
                "a frame of before the reset is applied at {position}"
            );
        }
        let last_seq = node.state.log.len() as u64;
        let step = node.machine.step(bytes, &frame, verdict, last_seq);
        node.machine.advance(&step);
        keep(&mut node.state, &step);
        let fresh = Session(self.random.next());
        let before = node.publisher.session();
        let decision = node.publisher.decided((frame.session, frame.n, verdict), fresh);
        self.seen.renewed += u64::from(node.publisher.session() != before);
        *self.seen.verdicts.entry(verdict).or_default() += 1;
        let hash = *self.hashes.entry(position).or_insert(step.link.hash);
        law!(hash == step.link.hash, "node {index} has another hash at {position}");
        let seq = *self.last_seqs.entry(position).or_insert(last_seq);
        law!(seq == last_seq, "node {index} has {last_seq} after {position}, another {seq}");
        let (session, n) = (frame.session, frame.n);
        trace!(self, "node {index} applies {position}, {session:x?} {n}: {verdict:?} {responses:?}");
        if frame.reset.is_some() {
            // Its store has it before the node goes on.
            self.nodes[index].kept = self.nodes[index].state.clone();
            self.start(index);
            return Ok(());
        }
        if verdict == Verdict::Foreign {
            law!(!self.rollbacks.is_empty(), "a frame at {position} is foreign");
        }
        self.conclude(index, decision, responses)
    }

    fn conclude(
        &mut self,
        index: usize,
        decision: Decision<Request>,
        responses: Vec<Vec<(u64, bool)>>,
    ) -> Checked {
        match decision {
            Decision::None => {}
            Decision::Applied(requests, _) => {
                law!(requests.len() == responses.len(), "answers are not those to the frame");
                for (request, response) in requests.into_iter().zip(responses) {
                    if !request.answered {
                        self.answer(index, request.attempt, Answer::Applied(response))?;
                    }
                }
            }
            Decision::Stale(requests) => {
                for request in requests.into_iter().filter(|request| !request.answered) {
                    self.answer(index, request.attempt, Answer::Nothing)?;
                }
            }
            Decision::Diverged => {
                law!(!self.rollbacks.is_empty(), "node {index} finds that it has diverged");
                self.diverge(index);
            }
        }
        Ok(())
    }

    fn timers(&mut self, index: usize) -> Checked {
        let now = self.now;
        let node = &mut self.nodes[index];
        if node.publisher.due().is_some_and(|due| due <= millis(now)) {
            let frames = node.publisher.resend(millis(now));
            trace!(self, "node {index} sends {} frames again", frames.len());
            for (n, bytes) in frames {
                self.send(index, n, &bytes);
            }
        }
        self.give_up(index)?;
        let node = &mut self.nodes[index];
        if node.publisher.is_idle() && node.waiting.is_empty() && now >= node.framed_at + 1000 {
            self.make_frame(index);
        }
        let node = &mut self.nodes[index];
        let old = node.waiting.iter().take_while(|request| request.since + UNFRAMED <= now).count();
        let refused: Vec<_> = node.waiting.drain(..old).collect();
        let mut unknown = Vec::new();
        for request in node.publisher.made_before(millis(now.saturating_sub(UNDECIDED))) {
            if !std::mem::replace(&mut request.answered, true) {
                unknown.push(request.attempt);
            }
        }
        // Not at once, so that what is kept is older than what is applied.
        if now >= node.kept_at + 1000 {
            node.kept_at = now;
            node.kept = node.state.clone();
        }
        for request in refused {
            self.answer(index, request.attempt, Answer::Nothing)?;
        }
        for attempt in unknown {
            self.answer(index, attempt, Answer::Unknown)?;
        }
        Ok(())
    }

    // The end.

    /// Whether all is decided, and all nodes have applied all of it. Ticks go on for ever.
    fn is_settled(&self) -> bool {
        self.clients.iter().all(|client| client.ops.is_empty())
            && self.nodes.iter().all(|node| {
                node.is_up
                    && !node.diverged
                    && node.inbox.is_empty()
                    && node.waiting.is_empty()
                    && node.publisher.is_idle()
                    && node.machine.position() == self.stream.len() as u64
            })
    }

    fn check(&self) -> Checked {
        let [first, others @ ..] = &*self.nodes else { return Ok(()) };
        for node in others {
            law!(node.state == first.state, "two nodes have other states after the same frames");
        }
        for node in &self.nodes {
            law!(node.machine == first.machine, "two machines differ after the same frames");
            law!(node.state.machine() == node.machine, "a machine is not restored as it was");
        }
        let log = &first.state.log;
        let mut once = BTreeSet::new();
        for op in log {
            let excused = self.known.get(op).is_some_and(|known| known.excused);
            law!(once.insert(*op) || excused, "op {op} is there twice");
        }
        for (op, known) in &self.known {
            if known.excused || known.lost {
                continue;
            }
            if let Some(seq) = known.seq {
                let there = log.get(seq as usize - 1);
                law!(there == Some(op), "op {op} was answered with {seq}, where {there:?} is");
            }
            let nothing = |attempt: &usize| self.attempts[*attempt].answer == Some(Answer::Nothing);
            if known.attempts.iter().all(nothing) {
                law!(!once.contains(op), "nothing was applied of op {op}, it was said, and it is there");
            }
        }
        Ok(())
    }
}

fn keep(state: &mut State, step: &super::machine::Step) {
    state.position = step.position;
    if step.reset.is_some() {
        state.links.clear();
    }
    state.links.push_back(step.link);
    while state.links.len() as u64 > MEMORY.positions {
        state.links.pop_front();
    }
    for session in &step.forgotten {
        state.sessions.remove(session);
    }
    state.sessions.extend(step.session);
}

fn variable(name: &str) -> Option<u64> {
    std::env::var(name).ok().map(|value| value.parse().unwrap_or_else(|_| panic!("{name} is a number")))
}

/// Says which seed it was if the run panics.
struct Named(u64);

impl Drop for Named {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("seed {}: RINGLOG_SIM_SEED={0} replays it", self.0);
        }
    }
}

fn run(seed: u64, traced: bool) -> (Simulation, Checked) {
    let _named = Named(seed);
    let mut simulation = Simulation::new(seed, traced);
    let checked = simulation.run();
    (simulation, checked)
}

/// Runs a failing seed again, with its trace.
fn explain(seed: u64, why: &str) -> ! {
    let trace = run(seed, true).0.trace.unwrap_or_default();
    let skipped = if variable("RINGLOG_SIM_SEED").is_some() { 0 } else { trace.len().saturating_sub(60) };
    let trace = trace[skipped..].join("\n");
    panic!("seed {seed}: {why}\nRINGLOG_SIM_SEED={seed} replays it. The trace from line {skipped}:\n{trace}")
}

#[test]
fn whatever_goes_wrong_an_operation_is_applied_once_everywhere_and_all_is_decided() {
    let seeds = match variable("RINGLOG_SIM_SEED") {
        Some(seed) => seed..seed + 1,
        None => 0..variable("RINGLOG_SIM_SEEDS").unwrap_or(SEEDS),
    };
    let is_whole = seeds.end - seeds.start >= SEEDS;
    let mut total = Seen::default();
    for seed in seeds.clone() {
        let (simulation, checked) = run(seed, false);
        if let Err(why) = checked {
            explain(seed, &why);
        }
        let seen = simulation.seen;
        for (verdict, count) in seen.verdicts {
            *total.verdicts.entry(verdict).or_default() += count;
        }
        total.acknowledged += seen.acknowledged;
        total.replays += seen.replays;
        total.nothing += seen.nothing;
        total.unknown += seen.unknown;
        total.excused += seen.excused;
        total.diverged += seen.diverged;
        total.renewed += seen.renewed;
        total.given_up += seen.given_up;
        total.resets += seen.resets;
        total.steps += seen.steps;
    }
    println!("seeds {seeds:?}: {total:?}");
    if is_whole {
        assert_eq!(total.verdicts.len(), Verdict::ALL.len(), "each verdict occurs");
        let counts = [total.replays, total.nothing, total.unknown, total.diverged, total.renewed];
        let counts = counts.into_iter().chain([total.given_up, total.resets]).collect::<Vec<_>>();
        assert!(counts.iter().all(|count| *count > SEEDS / 10), "the runs show what they are for");
        assert!(total.excused < total.acknowledged / 100, "few operations may be applied twice");
    }
}
