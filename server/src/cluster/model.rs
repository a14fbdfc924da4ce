//! A model of the protocol, checked in all its interleavings up to a bound: the real machine and
//! the real publisher on two nodes, and two clients with one operation each. The first pushes its
//! own on one node, and perhaps again on the other; the second on either. The first node may crash,
//! or send an empty frame.
//!
//! Whatever a node ever sent may be stored at any time, again and again, or never: that is loss,
//! delay, repetition and reordering. There is no time. What is undecided is always sent again at
//! once; that adds nothing to what may be stored but new frames.
//!
//! `RINGLOG_MODEL_STREAM=6` makes the stream longer than `cargo test` does.

use super::frame::{Claim, Frame, Session};
use super::machine::{Machine, Memory, Verdict};
use super::publisher::{Decision, Publisher};
use bytes::Bytes;
use ringlog::Incarnation;
use stateright::{Checker, Expectation, Model, Property};
use std::collections::{BTreeSet, VecDeque};
use std::time::Duration;

/// The most messages of the stream, in `cargo test`.
const STREAM: usize = 4;

const NODES: usize = 2;
const CLIENTS: usize = 2;

/// What may happen.
struct Cluster {
    memory: Memory,
    /// The most messages of the stream.
    stream: usize,
    /// The most crashes of the first node.
    crashes: u8,
    /// The most empty frames of the first node.
    ticks: u8,
}

/// What follows from the frames up to a position.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Core {
    machine: Machine,
    /// The client of the operation at each seq.
    log: Vec<usize>,
    op_ids: VecDeque<(usize, u64)>,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Node {
    core: Core,
    publisher: Publisher<Request>,
    waiting: VecDeque<Request>,
    /// How many sessions it has had.
    sessions: u64,
}

/// An attempt of a client: its first or its second.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Request {
    text: String,
    claim: Claim,
}

impl AsRef<str> for Request {
    fn as_ref(&self) -> &str {
        &self.text
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Attempt {
    NotMade,
    Open { node: usize },
    Applied { seq: u64 },
    Nothing,
    Lost,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct State {
    /// The most that anything can be applied to.
    stream: Vec<Bytes>,
    truth: Core,
    verdicts: BTreeSet<Verdict>,
    replayed: bool,
    sent: BTreeSet<Bytes>,
    nodes: Vec<Node>,
    attempts: [[Attempt; 2]; CLIENTS],
    /// Operations that were repeated on a node that had applied them and forgotten it.
    excused: [bool; CLIENTS],
    crashes: u8,
    ticks: u8,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Action {
    Push {
        client: usize,
        again: bool,
    },
    Frame {
        node: usize,
    },
    Tick {
        node: usize,
    },
    Store {
        index: usize,
    },
    Apply {
        node: usize,
    },
    /// The node comes back with what it had applied, or with nothing.
    Crash {
        node: usize,
        forgets: bool,
    },
}

impl Core {
    fn new(memory: Memory) -> Self {
        let machine = Machine::new(Incarnation::from_bytes([7; 16]), memory);
        Self { machine, log: Vec::new(), op_ids: VecDeque::new() }
    }

    fn remembered(&self, client: usize) -> Option<u64> {
        self.op_ids.iter().find(|(known, _)| *known == client).map(|(_, seq)| *seq)
    }

    /// Applies the next frame: its verdict, and each request's seq and whether it is a replay.
    fn apply(&mut self, memory: Memory, bytes: &Bytes) -> (Verdict, Vec<(u64, bool)>) {
        let frame = Frame::decode(bytes).unwrap();
        let verdict = self.machine.decide(&frame);
        let mut seqs = Vec::new();
        for request in frame.requests.iter().filter(|_| verdict == Verdict::Applied) {
            let client = client(request);
            let known = self.remembered(client);
            let seq = known.unwrap_or(self.log.len() as u64 + 1);
            if known.is_none() {
                self.log.push(client);
                self.op_ids.push_back((client, seq));
            }
            seqs.push((seq, known.is_some()));
            while self.op_ids.len() as u64 > memory.op_ids {
                self.op_ids.pop_front();
            }
        }
        let step = self.machine.step(bytes, &frame, verdict, self.log.len() as u64);
        self.machine.advance(&step);
        (verdict, seqs)
    }
}

/// The text of a request names its client, then its attempt. It is as long as a change is.
fn text(client: usize, attempt: usize) -> String {
    format!("{client}{attempt:<15}")
}

fn client(text: &str) -> usize {
    text.as_bytes()[0].wrapping_sub(b'0').into()
}

fn attempt(text: &str) -> usize {
    text.as_bytes()[1].wrapping_sub(b'0').into()
}

fn session(node: usize, life: u64) -> Session {
    Session(node as u64 * 100 + life)
}

impl State {
    fn send(&mut self, node: usize) {
        // Often, so that the wait is the longest always and tells no states apart.
        for _ in 0..5 {
            let frames = self.nodes[node].publisher.resend(Duration::ZERO);
            self.sent.extend(frames.into_iter().map(|(_, bytes)| bytes));
        }
    }

    fn push(&mut self, client: usize, again: bool) {
        let node = (client + usize::from(again)) % NODES;
        let core = &self.nodes[node].core;
        if let Some(seq) = core.remembered(client) {
            self.attempts[client][usize::from(again)] = Attempt::Applied { seq };
            return;
        }
        self.excused[client] |= core.log.contains(&client);
        let claim = core.machine.claim();
        let text = text(client, again.into());
        self.nodes[node].waiting.push_back(Request { text, claim });
        self.attempts[client][usize::from(again)] = Attempt::Open { node };
    }

    fn frame(&mut self, node: usize) {
        let Node { core, publisher, waiting, .. } = &mut self.nodes[node];
        let claim = waiting.front().map_or_else(|| core.machine.claim(), |request| request.claim);
        publisher.frame(waiting, claim, 0, Duration::ZERO);
        self.send(node);
    }

    fn apply(&mut self, memory: Memory, index: usize) {
        let node = &mut self.nodes[index];
        let bytes = &self.stream[node.core.machine.position() as usize];
        let frame = Frame::decode(bytes).unwrap();
        let (verdict, seqs) = node.core.apply(memory, bytes);
        let fresh = session(index, node.sessions);
        let decision = node.publisher.decided((frame.session, frame.n, verdict), fresh);
        node.sessions += u64::from(node.publisher.session() == fresh);
        match decision {
            Decision::None => {}
            Decision::Applied(requests, _) => {
                for (request, (seq, _)) in requests.into_iter().zip(seqs) {
                    self.answer(&request, Attempt::Applied { seq });
                }
            }
            Decision::Stale(requests) => {
                for request in &requests {
                    self.answer(request, Attempt::Nothing);
                }
            }
            Decision::Diverged => unreachable!("the stream is never rolled back"),
        }
        self.send(index);
    }

    fn answer(&mut self, request: &Request, answer: Attempt) {
        self.attempts[client(&request.text)][attempt(&request.text)] = answer;
    }

    fn crash(&mut self, memory: Memory, index: usize, forgets: bool) {
        self.crashes += 1;
        let node = &mut self.nodes[index];
        node.publisher = Publisher::new(session(index, node.sessions));
        node.sessions += 1;
        node.waiting.clear();
        if forgets {
            node.core = Core::new(memory);
        }
        for attempt in self.attempts.as_flattened_mut() {
            if *attempt == (Attempt::Open { node: index }) {
                *attempt = Attempt::Lost;
            }
        }
    }

    fn counted(&self) -> impl Iterator<Item = (usize, &[Attempt; 2])> {
        self.attempts.iter().enumerate().filter(|(client, _)| !self.excused[*client])
    }
}

impl Model for Cluster {
    type State = State;
    type Action = Action;

    fn init_states(&self) -> Vec<State> {
        let core = Core::new(self.memory);
        let node = |index| Node {
            core: core.clone(),
            publisher: Publisher::new(session(index, 0)),
            waiting: VecDeque::new(),
            sessions: 1,
        };
        vec![State {
            stream: Vec::new(),
            truth: core.clone(),
            verdicts: BTreeSet::new(),
            replayed: false,
            sent: BTreeSet::new(),
            nodes: (0..NODES).map(node).collect(),
            attempts: [[Attempt::NotMade; 2]; CLIENTS],
            excused: [false; CLIENTS],
            crashes: 0,
            ticks: 0,
        }]
    }

    fn actions(&self, state: &State, actions: &mut Vec<Action>) {
        for (client, [first, second]) in state.attempts.iter().enumerate() {
            if *first == Attempt::NotMade && (client == 0 || *second == Attempt::NotMade) {
                actions.push(Action::Push { client, again: false });
            }
            let may_be_second = (client == 0) != (*first == Attempt::NotMade);
            if may_be_second && *second == Attempt::NotMade {
                actions.push(Action::Push { client, again: true });
            }
        }
        for (index, node) in state.nodes.iter().enumerate() {
            if !node.waiting.is_empty() {
                actions.push(Action::Frame { node: index });
            } else if index == 0 && state.ticks < self.ticks {
                actions.push(Action::Tick { node: index });
            }
            if (node.core.machine.position() as usize) < state.stream.len() {
                actions.push(Action::Apply { node: index });
            }
            if index == 0 && state.crashes < self.crashes {
                let crash = |forgets| Action::Crash { node: index, forgets };
                actions.extend([crash(false), crash(true)]);
            }
        }
        if state.stream.len() < self.stream {
            actions.extend((0..state.sent.len()).map(|index| Action::Store { index }));
        }
    }

    fn next_state(&self, state: &State, action: Action) -> Option<State> {
        let mut next = state.clone();
        match action {
            Action::Push { client, again } => next.push(client, again),
            Action::Frame { node } => next.frame(node),
            Action::Tick { node } => {
                next.ticks += 1;
                next.frame(node);
            }
            Action::Store { index } => {
                let bytes = next.sent.iter().nth(index)?.clone();
                let (verdict, seqs) = next.truth.apply(self.memory, &bytes);
                next.verdicts.insert(verdict);
                next.replayed |= seqs.iter().any(|(_, is_replay)| *is_replay);
                next.stream.push(bytes);
            }
            Action::Apply { node } => next.apply(self.memory, node),
            Action::Crash { node, forgets } => next.crash(self.memory, node, forgets),
        }
        Some(next)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        vec![
            Property::always("an operation has one seq", |_, state: &State| {
                let times = |client| state.truth.log.iter().filter(|known| **known == client).count();
                (0..CLIENTS).all(|client| times(client) <= 1 || state.excused[client])
            }),
            Property::always("what is acknowledged is in the stream", |_, state: &State| {
                state.counted().all(|(client, attempts)| {
                    attempts.iter().all(|attempt| match attempt {
                        Attempt::Applied { seq } => state.truth.log.get(*seq as usize - 1) == Some(&client),
                        _ => true,
                    })
                })
            }),
            Property::always("the nodes agree at a position", |_, state: &State| {
                let [one, other] = [&state.nodes[0].core, &state.nodes[1].core];
                let is_of_it = |core: &Core| state.truth.log.starts_with(&core.log);
                let at_the_same = one.machine.position() != other.machine.position() || one == other;
                at_the_same && is_of_it(one) && is_of_it(other)
            }),
            Property::always("the answers to an operation agree", |_, state: &State| {
                state.counted().all(|(_, attempts)| match attempts {
                    [Attempt::Applied { seq }, Attempt::Applied { seq: other }] => seq == other,
                    _ => true,
                })
            }),
            Property::always("nothing was applied where it is said so", |_, state: &State| {
                state.counted().all(|(client, attempts)| match attempts {
                    [Attempt::Nothing, Attempt::Nothing | Attempt::NotMade]
                    | [Attempt::NotMade, Attempt::Nothing] => !state.truth.log.contains(&client),
                    _ => true,
                })
            }),
            Property::always("no claim is foreign", |_, state: &State| {
                !state.verdicts.contains(&Verdict::Foreign)
            }),
            Property::sometimes("a duplicate", |_, state: &State| {
                state.verdicts.contains(&Verdict::Duplicate)
            }),
            Property::sometimes("a gap", |_, state: &State| state.verdicts.contains(&Verdict::Gap)),
            Property::sometimes("an unknown session", |_, state: &State| {
                state.verdicts.contains(&Verdict::Unknown)
            }),
            Property::sometimes("a stale frame", |_, state: &State| state.verdicts.contains(&Verdict::Stale)),
            Property::sometimes("a replay", |_, state: &State| state.replayed),
            Property::sometimes("an answer that nothing was applied", |_, state: &State| {
                state.attempts.as_flattened().contains(&Attempt::Nothing)
            }),
            Property::sometimes("another session", |_, state: &State| {
                state.crashes == 0 && state.nodes.iter().any(|node| node.sessions > 1)
            }),
        ]
    }
}

#[test]
fn in_all_interleavings_of_two_nodes_an_operation_has_one_seq_and_nodes_and_answers_agree() {
    let stream = std::env::var("RINGLOG_MODEL_STREAM").ok();
    let stream = stream.map_or(STREAM, |stream| stream.parse().expect("RINGLOG_MODEL_STREAM is a number"));
    let memory = Memory { positions: 2, op_ids: 1 };
    let mut seen = BTreeSet::new();
    for (stream, crashes, ticks) in [(stream, 0, 0), (stream - 1, 1, 0), (stream - 2, 0, 2)] {
        let checker = Cluster { memory, stream, crashes, ticks }.checker().threads(2).spawn_bfs().join();
        let (states, depth) = (checker.unique_state_count(), checker.max_depth());
        println!("{stream} messages, {crashes} crashes, {ticks} ticks: {states} states, depth {depth}");
        for property in checker.model().properties() {
            match (property.expectation, checker.discovery(property.name)) {
                (_, None) => {}
                (Expectation::Sometimes, Some(_)) => drop(seen.insert(property.name)),
                (_, Some(path)) => panic!("not always: {}\n{path}", property.name),
            }
        }
    }
    println!("seen: {seen:?}");
    assert_eq!(seen.len(), 7, "each case that is of interest occurs");
}
