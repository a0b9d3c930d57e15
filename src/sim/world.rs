//! The world: two nodes, their disks and links, an arbiter, initiators and an operator, in one thread, in virtual time.
//! Events are ordered by (time, number), so that a seed replays exactly.

use std::cmp::Ordering;
use std::collections::BTreeMap;
use std::collections::BinaryHeap;

use crate::arbitration::{Epoch, Record};
use crate::units::{BlockRange, NodeId, SessionId};
use crate::volume::operator::OperatorCommand;

use super::arbiter::{Answer, Question, SimArbiter};
use super::client::{Client, Command};
use super::cover::Cover;
use super::faults::Fault;
use super::history::History;
use super::link::{LinkKey, Session};
use super::node::{Mesh, Node};
use super::rng::Rng;
use super::setup::{Choice, Setup};
use super::unit::UnitWatch;

/// An invariant that does not hold.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Violation {
    /// Its name in the design (D1 to D7, S1 to S4), or what kind of promise it is.
    pub invariant: &'static str,
    pub what: String,
}

pub type Verdict = Result<(), Violation>;

/// Refuses with a violation unless `good`.
pub fn ensure(good: bool, invariant: &'static str, what: impl FnOnce() -> String) -> Verdict {
    if good { Ok(()) } else { Err(Violation { invariant, what: what() }) }
}

/// What happens at a point in time. `life` names the run of a process: what is for an earlier one is dropped.
#[derive(Debug)]
pub enum Event {
    Mesh { node: usize, life: u32, to: u8, message: Mesh },
    Disk { node: usize, op: u64 },
    Frame { session: SessionId, to: usize, key: LinkKey },
    Connect,
    SessionUp { session: SessionId, node: usize },
    SessionDown { session: SessionId, node: usize },
    PartTimer { node: usize, life: u32, shard: u8 },
    ControlTimer { node: usize, life: u32 },
    Asked { node: usize, life: u32, number: u64, question: Question },
    Answered { node: usize, life: u32, number: u64, answer: Answer },
    AskAgain { node: usize, life: u32, number: u64 },
    Client { client: usize },
    ClientWatch { client: usize },
    Operator,
    Command { node: usize, command: OperatorCommand },
    Fault(Fault),
    Restart { node: usize },
    Resume { node: usize },
    UnitQuiet { node: usize, life: u32, shard: u8, serial: u64 },
}

/// Payload of a frame on its way.
#[derive(Clone, Debug)]
pub enum FramePayload {
    None,
    Sectors(Vec<u64>),
    Bytes(Vec<u8>),
}

#[derive(Debug)]
struct Scheduled {
    at: u64,
    number: u64,
    event: Event,
}

impl PartialEq for Scheduled {
    fn eq(&self, other: &Self) -> bool {
        self.number == other.number
    }
}

impl Eq for Scheduled {}

impl PartialOrd for Scheduled {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Scheduled {
    fn cmp(&self, other: &Self) -> Ordering {
        // The heap gives the greatest first.
        (other.at, other.number).cmp(&(self.at, self.number))
    }
}

/// What a run did.
#[derive(Clone, Copy, Default, Debug)]
pub struct Tally {
    pub events: u64,
    pub writes: u64,
    pub reads: u64,
    pub flushes: u64,
    /// Of the writes: made by zeroing, and made under a lock.
    pub zeroes: u64,
    pub updates: u64,
    /// Changes of the unit state that were done.
    pub changes: u64,
    pub sessions: u64,
    pub solo_answers: u64,
    pub resyncs: u64,
    pub crashes: u64,
    pub promotions: u64,
    /// Reads answered by a lease, without a confirmation.
    pub leased: u64,
    pub virtual_time: u64,
}

/// See the module.
pub struct World {
    pub(super) setup: Setup,
    pub(super) rng: Rng,
    pub(super) now: u64,
    /// Clock of the history: all its times are different.
    pub(super) tick: u64,
    scheduled: u64,
    queue: BinaryHeap<Scheduled>,
    pub(super) nodes: [Node; 2],
    pub(super) sessions: BTreeMap<SessionId, Session>,
    pub(super) last_session: u64,
    pub(super) arbiter: SimArbiter,
    pub(super) clients: Vec<Client>,
    pub(super) commands: BTreeMap<u64, Command>,
    pub(super) next_command: u64,
    /// Ranges that a running update keeps others out of: node, its life, attempt, range.
    pub(super) locks: Vec<(usize, u32, u64, BlockRange)>,
    pub(super) commands_left: u64,
    pub(super) history: History,
    pub(super) unit: UnitWatch,
    pub(super) cover: Cover,
    /// Which node answered at an epoch (S1).
    pub(super) answered_at: BTreeMap<Epoch, NodeId>,
    pub(super) faults_left: u64,
    pub(super) calm: bool,
    pub(super) lied: bool,
    pub(super) discarded: bool,
    /// Answered writes that only this node has, since the copies were last equal.
    pub(super) solo_writes: [u64; 2],
    pub(super) tickets: u64,
    pub(super) tally: Tally,
    pub(super) trace: bool,
}

impl World {
    pub fn new(choice: &Choice) -> Self {
        let mut rng =
            Rng::new(choice.seed.wrapping_mul(0x2545_F491_4F6C_DD1D) ^ u64::from(choice.shards) << 56);
        let setup = Setup::draw(choice, &mut rng);
        let sectors = setup.layout.geometry.bytes() / 512;
        let nodes = [0, 1].map(|id| Node::format(NodeId(id), &setup));
        let mut world = Self {
            now: 0,
            tick: 1,
            scheduled: 0,
            queue: BinaryHeap::new(),
            nodes,
            sessions: BTreeMap::new(),
            last_session: 0,
            arbiter: SimArbiter::new(),
            clients: (0..setup.clients).map(|_| Client::default()).collect(),
            commands: BTreeMap::new(),
            locks: Vec::new(),
            next_command: 1,
            commands_left: setup.commands,
            history: History::new(sectors),
            unit: UnitWatch::default(),
            cover: Cover::new(&setup.layout),
            answered_at: BTreeMap::new(),
            faults_left: setup.faults,
            calm: false,
            lied: false,
            discarded: false,
            solo_writes: [0; 2],
            tickets: 0,
            tally: Tally::default(),
            trace: choice.trace,
            setup,
            rng,
        };
        world.begin();
        world
    }

    fn begin(&mut self) {
        if self.trace {
            println!("setup {:?}", self.setup);
        }
        for node in 0..2 {
            self.cover.load(node, &self.nodes[node]);
            self.after(0, 1_000_000, Event::Restart { node });
        }
        for client in 0..self.clients.len() {
            self.after(1_000_000, 5_000_000, Event::Client { client });
            self.after(50_000_000, 100_000_000, Event::ClientWatch { client });
        }
        self.after(1_000_000, 3_000_000, Event::Operator);
        self.after(1_000_000, 2_000_000, Event::Connect);
        if self.faults_left > 0 {
            self.next_fault(30_000_000);
        }
    }

    pub(super) fn tick(&mut self) -> u64 {
        self.tick += 1;
        self.tick
    }

    /// Schedules an event between `low` and `high` nanoseconds from now.
    pub(super) fn after(&mut self, low: u64, high: u64, event: Event) {
        let at = self.now + self.rng.range(low, high);
        self.at(at, event);
    }

    pub(super) fn at(&mut self, at: u64, event: Event) {
        self.scheduled += 1;
        self.queue.push(Scheduled { at: at.max(self.now), number: self.scheduled, event });
    }

    pub(super) fn log(&self, text: impl FnOnce() -> String) {
        if self.trace {
            println!("{:>12.6} ms  {}", self.now as f64 / 1e6, text());
        }
    }

    /// Runs to the end: work and faults, then peace, then the last comparison.
    pub fn run(&mut self) -> Result<Tally, Violation> {
        let deadline = 20_000_000_000;
        while self.now < deadline
            && !(self.commands_left == 0 && self.commands.is_empty() && self.faults_left == 0)
        {
            self.step()?;
        }
        self.make_peace()?;
        let deadline = self.now + 120_000_000_000;
        loop {
            let pause = self.now + 20_000_000;
            while self.now < pause {
                self.step()?;
            }
            if self.is_at_peace() {
                break;
            }
            ensure(self.now < deadline, "liveness", || self.what_is_missing())?;
        }
        self.check_end()?;
        (0..2).for_each(|node| self.count_leased(node));
        self.tally.virtual_time = self.now;
        Ok(self.tally)
    }

    fn step(&mut self) -> Verdict {
        let Scheduled { at, event, .. } = self.queue.pop().expect("timers never end");
        self.now = at;
        self.tally.events += 1;
        ensure(self.tally.events < 500_000, "liveness", || "the run does not end (livelock)".into())?;
        self.dispatch(event)
    }

    /// Events for a stopped (paused) node wait until it goes on.
    fn paused_until(&self, event: &Event) -> Option<u64> {
        let node = match event {
            Event::Mesh { node, .. }
            | Event::Disk { node, .. }
            | Event::Frame { to: node, .. }
            | Event::SessionUp { node, .. }
            | Event::SessionDown { node, .. }
            | Event::PartTimer { node, .. }
            | Event::ControlTimer { node, .. }
            | Event::Answered { node, .. }
            | Event::AskAgain { node, .. }
            | Event::UnitQuiet { node, .. }
            | Event::Command { node, .. } => *node,
            _ => return None,
        };
        let until = self.nodes[node].paused_until;
        (until > self.now).then_some(until)
    }

    fn dispatch(&mut self, event: Event) -> Verdict {
        if let Some(until) = self.paused_until(&event) {
            // In their old order: numbers rise.
            self.at(until, event);
            return Ok(());
        }
        match event {
            Event::Mesh { node, life, to, message } => self.on_mesh(node, life, to, message),
            Event::Disk { node, op } => self.on_disk(node, op),
            Event::Frame { session, to, key } => self.on_frame(session, to, key),
            Event::Connect => self.on_connect(),
            Event::SessionUp { session, node } => self.on_session_up(session, node),
            Event::SessionDown { session, node } => self.on_session_down(session, node),
            Event::PartTimer { node, life, shard } => self.on_part_timer(node, life, shard),
            Event::ControlTimer { node, life } => self.on_control_timer(node, life),
            Event::Asked { node, life, number, question } => self.on_asked(node, life, number, question),
            Event::Answered { node, life, number, answer } => {
                self.on_arbiter_answer(node, life, number, answer)
            }
            Event::AskAgain { node, life, number } => self.on_ask_again(node, life, number),
            Event::Client { client } => self.on_client(client),
            Event::ClientWatch { client } => self.on_client_watch(client),
            Event::Operator => self.on_operator_round(),
            Event::Command { node, command } => self.on_command(node, command),
            Event::Fault(fault) => self.on_fault(fault),
            Event::Restart { node } => self.on_restart(node),
            Event::UnitQuiet { node, life, shard, serial } => self.on_unit_quiet(node, life, shard, serial),
            Event::Resume { node } => {
                self.log(|| format!("node {node} goes on"));
                if self.nodes[node].paused_until <= self.now {
                    self.nodes[node].clock.go(self.now);
                }
                Ok(())
            }
        }
    }

    /// The record that counts.
    pub(super) fn record(&self) -> Record {
        self.arbiter.record()
    }

    pub(super) fn is_in_sync(&self, node: usize) -> bool {
        self.record().in_sync.contains(NodeId(node as u8))
    }
}
