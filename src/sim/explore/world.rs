//! The explored world: two nodes, what is under way between them and to the arbiter, the clients, and what may still go
//! wrong. [`World::events`] names everything that may happen next; [`World::apply`] makes it happen and checks.

use std::collections::VecDeque;
use std::sync::Arc;

use crate::arbitration::{Epoch, NodeSet, Reads, Record};
use crate::block::BlockStatus;
use crate::replication::control::Control;
use crate::replication::frame::{FrameHeader, FrameKind, FrameStatus};
use crate::units::{NodeId, SessionId};
use crate::volume::coordinator::{CasOutcome, DropReason, RecordOutcome};
use crate::volume::messages::{LinkFault, LinkRole, Posture, Service};
use crate::volume::mutant::{Mutant, Mutants};
use crate::volume::operator::{OperatorCommand, Role};

use super::hash::fingerprint;
use super::memo::Memo;
use super::monitor::{Monitor, Progress};
use super::node::{Input, Load, Node, Output, Request, Traits, Value};

/// How much may happen, of each kind.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Bounds {
    pub writes: usize,
    pub reads: usize,
    pub crashes: u8,
    pub cuts: u8,
    /// Promotions that somebody asks for, rightly or wrongly.
    pub promotions: u8,
    pub handovers: u8,
    /// Reads of the record that the arbiter does not answer.
    pub silences: u8,
    /// Connections that are made, the first included.
    pub sessions: u8,
    /// How often time passes, and how often one node's clock stands still meanwhile.
    pub ticks: u8,
    pub freezes: u8,
    /// Of the nodes' clocks, in parts of a thousand.
    pub rates: [u32; 2],
    /// Reads are answered by leases, not confirmed.
    pub leases: bool,
    /// Promotions are asked for as the agent does, of a node that follows as well; and with a certificate, right or
    /// overtaken, where the other process has ended.
    pub takeovers: bool,
    /// Clients are at the node that does not lead as well, and it forwards.
    pub forwards: bool,
    /// Devices lose completed writes with the power.
    pub volatile: bool,
    pub mutants: Mutants,
}

#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
struct Spent {
    crashes: u8,
    cuts: u8,
    promotions: u8,
    handovers: u8,
    silences: u8,
    ticks: u8,
    freezes: u8,
}

#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
enum Question {
    Read,
    Swap {
        expected: Record,
        proposed: Record,
    },
    /// The arbiter has answered; the node does not know yet.
    Answered(CasOutcome),
}

/// A node with its fingerprint.
#[derive(Clone, Debug)]
pub struct Known {
    pub node: Node,
    pub print: u128,
}

impl Known {
    pub fn new(node: Node) -> Arc<Self> {
        let print = fingerprint(&node);
        Arc::new(Self { node, print })
    }
}

/// See the module.
#[derive(Clone, Debug)]
pub struct World {
    nodes: [Arc<Known>; 2],
    /// By sender. The control link and the data link overtake each other.
    controls: [VecDeque<Control>; 2],
    frames: [VecDeque<(FrameHeader, Load)>; 2],
    /// Nothing that is sent from now on arrives; what is under way may. Each end notices when it does.
    broken: bool,
    sessions: u8,
    questions: [Option<Question>; 2],
    /// Changes that a dead node had asked for: they may still arrive.
    orphans: Vec<(Record, Record)>,
    records: Vec<Record>,
    monitor: Monitor,
    /// Whose machine lost its power, and whose disk its cache with it.
    power_lost: [bool; 2],
    cache_lost: [bool; 2],
    /// Whose process has ended, and the epoch that it told last.
    died: [Option<Epoch>; 2],
    forwards: bool,
    spent: Spent,
}

/// What may happen.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Event {
    Connect,
    Control {
        from: usize,
    },
    Frame {
        from: usize,
    },
    Cut,
    Notice {
        node: usize,
    },
    Disk {
        node: usize,
        job: usize,
    },
    Arbiter {
        node: usize,
    },
    Silence {
        node: usize,
    },
    Orphan(usize),
    Write {
        node: usize,
        number: usize,
    },
    Read {
        node: usize,
        number: usize,
    },
    Promote {
        node: usize,
    },
    TakeOver {
        node: usize,
        died: Option<Epoch>,
    },
    Handover {
        node: usize,
    },
    BackgroundFlush {
        node: usize,
    },
    /// Time passes, at this node only in the world outside.
    Tick {
        frozen: Option<usize>,
    },
    Timer {
        node: usize,
    },
    Start {
        node: usize,
    },
    End {
        node: usize,
        landed: bool,
        power: bool,
        lost: bool,
    },
}

pub type Broken = String;

impl World {
    /// Two nodes declared equal; nothing runs yet.
    fn new(bounds: &Bounds) -> Self {
        let traits = |id: u8| Traits {
            volatile: bounds.volatile,
            reads: if bounds.leases { Reads::Lease } else { Reads::Confirm },
            forwards: bounds.forwards,
            rate: bounds.rates[usize::from(id)],
            mutants: bounds.mutants,
        };
        let node = |id| Known::new(Node::format(NodeId(id), traits(id)));
        Self {
            nodes: [node(0), node(1)],
            controls: Default::default(),
            frames: Default::default(),
            broken: false,
            sessions: 0,
            questions: [None; 2],
            orphans: Vec::new(),
            records: vec![Record::default()],
            monitor: Monitor::new(0, 0),
            power_lost: [false; 2],
            cache_lost: [false; 2],
            died: [None; 2],
            forwards: bounds.forwards,
            spent: Spent::default(),
        }
    }

    /// Node 0 serves with node 1 in sync, and nothing is under way.
    pub fn serving(bounds: &Bounds, memo: &mut Memo) -> Result<Self, Broken> {
        let mut world = Self::new(bounds);
        let quiet = Bounds {
            sessions: 1,
            writes: 0,
            reads: 0,
            crashes: 0,
            cuts: 0,
            promotions: 0,
            handovers: 0,
            silences: 0,
            ticks: 0,
            freezes: 0,
            ..*bounds
        };
        for begin in [Event::Start { node: 0 }, Event::Start { node: 1 }] {
            world = world.apply(begin, memo)?;
        }
        let mut asked = false;
        loop {
            let mut events = Vec::new();
            world.events(&quiet, &mut events);
            match events.first() {
                Some(&event) => world = world.apply(event, memo)?,
                None if asked => break,
                None => {
                    asked = true;
                    world = world.apply(Event::Promote { node: 0 }, memo)?;
                }
            }
        }
        world.spent = Spent::default();
        world.monitor = Monitor::new(bounds.writes, bounds.reads);
        let together = world.record().in_sync == NodeSet::BOTH && world.record().primary == Some(NodeId(0));
        if together && world.serves(0) { Ok(world) } else { Err(format!("it does not begin: {world:?}")) }
    }

    fn record(&self) -> Record {
        *self.records.last().expect("there is a first record")
    }

    fn serves(&self, node: usize) -> bool {
        self.nodes[node].node.process.as_ref().is_some_and(|process| process.serving)
    }

    fn session(&self, node: usize) -> Option<SessionId> {
        self.nodes[node].node.process.as_ref().and_then(|process| process.session)
    }

    pub fn print(&self) -> u128 {
        fingerprint(&(
            [self.nodes[0].print, self.nodes[1].print],
            (&self.controls, &self.frames, self.broken, self.sessions),
            (&self.questions, &self.orphans, &self.records),
            (&self.monitor, self.power_lost, self.cache_lost, self.died, self.spent),
        ))
    }

    /// Shares nodes that are equal, to save room.
    pub fn share(&mut self, memo: &mut Memo) {
        self.nodes = self.nodes.each_ref().map(|known| memo.share(known));
    }

    /// The event in words, with what it delivers.
    pub fn describe(&self, event: Event) -> String {
        match event {
            Event::Control { from } => {
                format!("control {from} -> {}: {:?}", 1 - from, self.controls[from].front())
            }
            Event::Frame { from } => {
                let frame = self.frames[from].front();
                let text =
                    frame.map(|(header, load)| format!("{:?} e{} {load:?}", header.kind, header.epoch.0));
                format!("frame {from} -> {}: {}", 1 - from, text.unwrap_or_default())
            }
            Event::Arbiter { node } => format!("arbiter, node {node}: {:?}", self.questions[node]),
            other => format!("{other:?}"),
        }
    }

    // ---- what may happen ----

    pub fn events(&self, bounds: &Bounds, out: &mut Vec<Event>) {
        out.clear();
        self.network_events(bounds, out);
        for node in 0..2 {
            match self.questions[node] {
                None => {}
                Some(Question::Read) if self.spent.silences < bounds.silences => {
                    out.extend([Event::Arbiter { node }, Event::Silence { node }]);
                }
                Some(_) => out.push(Event::Arbiter { node }),
            }
            out.extend((0..self.nodes[node].node.jobs()).map(|job| Event::Disk { node, job }));
            self.client_events(node, out);
            self.node_events(node, bounds, out);
        }
        out.extend((0..self.orphans.len()).map(Event::Orphan));
        if self.spent.ticks < bounds.ticks {
            out.push(Event::Tick { frozen: None });
            if self.spent.freezes < bounds.freezes {
                out.extend([0, 1].map(|node| Event::Tick { frozen: Some(node) }));
            }
        }
    }

    fn network_events(&self, bounds: &Bounds, out: &mut Vec<Event>) {
        for from in 0..2 {
            if self.session(1 - from).is_some() {
                if !self.controls[from].is_empty() {
                    out.push(Event::Control { from });
                }
                if !self.frames[from].is_empty() {
                    out.push(Event::Frame { from });
                }
            }
            if self.broken && self.session(from).is_some() {
                out.push(Event::Notice { node: from });
            }
        }
        let both = self.session(0).is_some() && self.session(1).is_some();
        if both && !self.broken && self.spent.cuts < bounds.cuts {
            out.push(Event::Cut);
        }
        let free = |known: &Arc<Known>| {
            known.node.process.as_ref().is_some_and(|process| process.allowed && process.session.is_none())
        };
        if self.nodes.iter().all(free) && self.sessions < bounds.sessions {
            out.push(Event::Connect);
        }
    }

    /// Commands of a kind are asked in order; one write at a time at a node.
    fn client_events(&self, node: usize, out: &mut Vec<Event>) {
        if !self.serves(node) {
            return;
        }
        let free = |list: &[Progress]| !list.contains(&Progress::Pending(node as u8));
        let next = |list: &[Progress]| list.iter().position(|progress| *progress == Progress::NotAsked);
        if let Some(number) = next(&self.monitor.writes).filter(|_| free(&self.monitor.writes)) {
            out.push(Event::Write { node, number });
        }
        if let Some(number) = next(&self.monitor.reads) {
            out.push(Event::Read { node, number });
        }
    }

    fn node_events(&self, node: usize, bounds: &Bounds, out: &mut Vec<Event>) {
        let known = &self.nodes[node].node;
        let Some(process) = &known.process else {
            out.push(Event::Start { node });
            return;
        };
        let status = process.coordinator.status();
        // A node that follows a primary refuses; only a planted bug makes the question worth asking.
        let follows = status.peer_primary && !bounds.mutants.has(Mutant::PromoteWithLinkOpen);
        let promotable = status.role == Role::Secondary && !follows;
        let secondary = status.role == Role::Secondary;
        if self.spent.promotions < bounds.promotions && bounds.takeovers && secondary {
            out.push(Event::TakeOver { node, died: None });
            let died = self.died[1 - node];
            out.extend(died.map(|_| Event::TakeOver { node, died }));
        } else if promotable && self.spent.promotions < bounds.promotions {
            out.push(Event::Promote { node });
        }
        if bounds.ticks > 0 && process.coordinator.deadline().is_some_and(|at| at <= known.clock) {
            out.push(Event::Timer { node });
        }
        if status.role == Role::Primary && self.spent.handovers < bounds.handovers {
            out.push(Event::Handover { node });
        }
        let part = &process.part;
        if bounds.volatile && part.posture().link == LinkRole::Lead && part.lanes()[0].has_unstable() {
            out.push(Event::BackgroundFlush { node });
        }
        if self.spent.crashes < bounds.crashes {
            let landings: &[bool] = if known.writes_under_way() { &[false, true] } else { &[false] };
            for &landed in landings {
                out.push(Event::End { node, landed, power: false, lost: false });
                // When both machines lose their power and one its cache, what no flush covered may be gone.
                if bounds.volatile && !self.cache_lost[1 - node] {
                    out.push(Event::End { node, landed, power: true, lost: false });
                }
                let may_lose = known.disk.visible != known.disk.durable || landed;
                if bounds.volatile && may_lose && !self.power_lost[1 - node] {
                    out.push(Event::End { node, landed, power: true, lost: true });
                }
            }
        }
    }

    // ---- making it happen ----

    pub fn apply(&self, event: Event, memo: &mut Memo) -> Result<Self, Broken> {
        let mut next = self.clone();
        next.happen(event, memo)?;
        next.check()?;
        Ok(next)
    }

    fn happen(&mut self, event: Event, memo: &mut Memo) -> Result<(), Broken> {
        match event {
            Event::Connect => self.connect(memo)?,
            Event::Control { from } => {
                let message = self.controls[from].pop_front().expect("named by events");
                self.feed(1 - from, Input::Control(message), memo)?;
            }
            Event::Frame { from } => {
                let (header, load) = self.frames[from].pop_front().expect("named by events");
                self.feed(1 - from, Input::Frame(header, load), memo)?;
            }
            Event::Cut => {
                self.spent.cuts += 1;
                self.broken = true;
            }
            Event::Notice { node } => {
                self.forget_incoming(node);
                self.feed(node, Input::SessionDown, memo)?;
            }
            Event::Disk { node, job } => self.feed(node, Input::Disk(job), memo)?,
            Event::Arbiter { node } => self.ask_arbiter(node, memo)?,
            Event::Silence { node } => {
                self.spent.silences += 1;
                self.questions[node] = None;
                self.feed(node, Input::Record(RecordOutcome::Unreachable), memo)?;
            }
            Event::Orphan(at) => {
                let (expected, proposed) = self.orphans.remove(at);
                self.swap(expected, proposed)?;
            }
            Event::Write { node, number } => {
                self.monitor.ask_write(number, node);
                self.feed(node, Input::Request(Request::Write(number as Value + 1)), memo)?;
            }
            Event::Read { node, number } => {
                self.monitor.ask_read(number, node);
                self.feed(node, Input::Request(Request::Read(number as u8)), memo)?;
            }
            Event::Promote { node } => {
                self.spent.promotions += 1;
                let command = OperatorCommand::Promote { seed: false, i_have_fenced: None };
                self.feed(node, Input::Operator(command), memo)?;
            }
            Event::TakeOver { node, died } => {
                self.spent.promotions += 1;
                self.feed(node, Input::Operator(OperatorCommand::TakeOver { died }), memo)?;
            }
            Event::Tick { frozen } => self.tick(frozen, memo)?,
            Event::Timer { node } => self.feed(node, Input::Timer, memo)?,
            Event::Handover { node } => {
                self.spent.handovers += 1;
                self.feed(node, Input::Operator(OperatorCommand::Switchover), memo)?;
            }
            Event::BackgroundFlush { node } => self.feed(node, Input::BackgroundFlush, memo)?,
            Event::Start { node } => self.feed(node, Input::Start, memo)?,
            Event::End { node, landed, power, lost } => self.end(node, landed, power, lost, memo)?,
        }
        // Of a connection that both have left nothing is under way.
        if self.session(0).is_none() && self.session(1).is_none() {
            self.controls.iter_mut().for_each(VecDeque::clear);
            self.frames.iter_mut().for_each(VecDeque::clear);
            self.broken = false;
        }
        Ok(())
    }

    fn tick(&mut self, frozen: Option<usize>, memo: &mut Memo) -> Result<(), Broken> {
        self.spent.ticks += 1;
        self.spent.freezes += u8::from(frozen.is_some());
        (0..2).filter(|&node| frozen != Some(node)).try_for_each(|node| self.feed(node, Input::Tick, memo))
    }

    fn connect(&mut self, memo: &mut Memo) -> Result<(), Broken> {
        self.sessions += 1;
        let id = SessionId(u64::from(self.sessions));
        self.broken = false;
        for node in 0..2 {
            self.forget_incoming(node);
        }
        let starts = [1, 0].map(|peer| self.nodes[peer].node.starts());
        self.feed(0, Input::SessionUp(id, starts[0]), memo)?;
        self.feed(1, Input::SessionUp(id, starts[1]), memo)
    }

    fn forget_incoming(&mut self, node: usize) {
        self.controls[1 - node].clear();
        self.frames[1 - node].clear();
    }

    fn ask_arbiter(&mut self, node: usize, memo: &mut Memo) -> Result<(), Broken> {
        match self.questions[node].take().expect("named by events") {
            Question::Read => {
                let outcome = RecordOutcome::Known(self.record());
                self.feed(node, Input::Record(outcome), memo)
            }
            Question::Swap { expected, proposed } => {
                let outcome = self.swap(expected, proposed)?;
                self.questions[node] = Some(Question::Answered(outcome));
                Ok(())
            }
            Question::Answered(outcome) => self.feed(node, Input::Swapped(outcome), memo),
        }
    }

    fn swap(&mut self, expected: Record, proposed: Record) -> Result<CasOutcome, Broken> {
        let current = self.record();
        if current != expected {
            return Ok(if current == proposed { CasOutcome::Won } else { CasOutcome::Lost(current) });
        }
        if proposed.epoch != current.epoch.next() {
            return Err(format!("epochs: the record goes from {current:?} to {proposed:?}"));
        }
        self.records.push(proposed);
        Ok(CasOutcome::Won)
    }

    fn end(
        &mut self,
        node: usize,
        landed: bool,
        power: bool,
        lost: bool,
        memo: &mut Memo,
    ) -> Result<(), Broken> {
        self.spent.crashes += 1;
        self.power_lost[node] |= power;
        self.cache_lost[node] |= lost;
        self.monitor.end(node);
        let process = self.nodes[node].node.process.as_ref().expect("it ran");
        self.died[node] = Some(process.coordinator.superblock().record.epoch);
        if let Some(Question::Swap { expected, proposed }) = self.questions[node].take() {
            self.orphans.push((expected, proposed));
        }
        self.forget_incoming(node);
        self.broken = true;
        self.feed(node, Input::End { landed, power, lost }, memo)
    }

    fn feed(&mut self, node: usize, input: Input, memo: &mut Memo) -> Result<(), Broken> {
        let step = memo.take(&self.nodes[node], &input)?;
        self.nodes[node] = step.0.clone();
        for output in &step.1 {
            self.put_out(node, output)?;
        }
        Ok(())
    }

    fn put_out(&mut self, node: usize, output: &Output) -> Result<(), Broken> {
        match *output {
            Output::Control(ref message) if !self.broken => self.controls[node].push_back(message.clone()),
            Output::Frame(header, ref load) if !self.broken => {
                self.check_forward_answer(node, &header)?;
                self.frames[node].push_back((header, load.clone()))
            }
            Output::Control(_) | Output::Frame(..) => {}
            Output::ReadRecord => self.questions[node] = Some(Question::Read),
            Output::Swap { expected, proposed } => {
                self.questions[node] = Some(Question::Swap { expected, proposed });
            }
            // Between two that follow the protocol nothing is out of place.
            Output::Closed(reason @ (DropReason::Protocol | DropReason::Fault(LinkFault::Protocol))) => {
                return Err(format!("protocol: node {node} drops the session: {reason:?}"));
            }
            Output::Closed(_) => {
                self.broken = true;
                self.forget_incoming(node);
            }
            Output::Serve(true) if !self.forwards => self.monitor.seal(node),
            Output::Leads if self.forwards => self.monitor.seal_lost(node),
            Output::Serve(true) | Output::Leads => {}
            Output::Serve(false) => self.monitor.lose(node),
            Output::Answer { request, status, value, posture } => {
                return self.on_answer(node, request, status, value, &posture);
            }
        }
        Ok(())
    }

    // ---- what must hold ----

    fn on_answer(
        &mut self,
        node: usize,
        request: Request,
        status: BlockStatus,
        value: Value,
        posture: &Posture,
    ) -> Result<(), Broken> {
        let number = match request {
            Request::Write(value) => usize::from(value) - 1,
            Request::Read(number) => usize::from(number),
        };
        let waits = match request {
            Request::Write(_) => self.monitor.writes[number],
            Request::Read(_) => self.monitor.reads[number],
        } == Progress::Pending(node as u8);
        // Its client has gone: nobody hears the answer.
        if !waits {
            return Ok(());
        }
        match (request, status) {
            (Request::Write(_), BlockStatus::Good) => self.monitor.write_done(number),
            (Request::Read(_), BlockStatus::Good) => self.monitor.read_done(number, value),
            (Request::Write(_), _) => self.monitor.lose_write(number, node),
            (Request::Read(_), _) => self.monitor.lose_read(number, node),
        }
        if !self.monitor.is_possible() {
            return Err(format!("linearizability: node {node} answers {request:?} with {value}"));
        }
        // What was forwarded was looked at where it was done.
        if status != BlockStatus::Good || posture.forward {
            return Ok(());
        }
        self.check_right(node, posture.epoch)
    }

    fn check_right(&self, node: usize, epoch: Epoch) -> Result<(), Broken> {
        let id = NodeId(node as u8);
        let record = self.records.iter().find(|record| record.epoch == epoch);
        if record.is_none_or(|record| record.primary != Some(id) || !record.in_sync.contains(id)) {
            return Err(format!("one writer: node {node} answers at epoch {}, {record:?}", epoch.0));
        }
        Ok(())
    }

    /// The leader answers what was forwarded.
    fn check_forward_answer(&self, node: usize, header: &FrameHeader) -> Result<(), Broken> {
        match header.kind {
            FrameKind::ForwardData => self.check_right(node, header.epoch),
            FrameKind::ForwardAck if header.status == FrameStatus::Good => {
                self.check_right(node, header.epoch)
            }
            _ => Ok(()),
        }
    }

    fn check(&self) -> Result<(), Broken> {
        let record = self.record();
        for (number, known) in self.nodes.iter().enumerate() {
            let Some(process) = &known.node.process else { continue };
            let posture = process.part.posture();
            if process.coordinator.superblock().record.epoch > record.epoch || posture.epoch > record.epoch {
                return Err(format!("epochs: node {number} is ahead of the arbiter's {record:?}"));
            }
            let me = NodeId(number as u8);
            let alone = (record.primary, record.in_sync) == (Some(me), NodeSet::only(me));
            // One that forwards serves and applies at the same time.
            let serves = process.serving && (!self.forwards || posture.answers());
            if serves && known.node.applies_orders() {
                return Err(format!(
                    "sealed past: node {number} serves while its disk does what another ordered"
                ));
            }
            if posture.service == Service::Alone && !alone {
                return Err(format!("acting: node {number} answers alone, the record is {record:?}"));
            }
        }
        self.check_convergence()
    }

    /// Joined, in sync and at rest: the same on both disks.
    fn check_convergence(&self) -> Result<(), Broken> {
        let quiet = |list: &[bool]| list.iter().all(|&busy| !busy);
        let busy = [
            self.broken,
            !self.controls.iter().all(VecDeque::is_empty),
            !self.frames.iter().all(VecDeque::is_empty),
            self.nodes.iter().any(|known| known.node.jobs() > 0),
            self.record().in_sync != NodeSet::BOTH,
            self.session(0).is_none() || self.session(1).is_none(),
        ];
        if !quiet(&busy) {
            return Ok(());
        }
        let [zero, one] = self.nodes.each_ref().map(|known| known.node.process.as_ref());
        let (Some(zero), Some(one)) = (zero, one) else { return Ok(()) };
        let (zero, one) = (zero.part.posture(), one.part.posture());
        let joined = |leader: &Posture, other: &Posture| {
            leader.service == Service::Both
                && other.link == LinkRole::Follow
                && other.session == leader.session
        };
        if zero.session != self.session(0) || !(joined(zero, one) || joined(one, zero)) {
            return Ok(());
        }
        let [first, second] = self.nodes.each_ref().map(|known| known.node.disk.visible);
        if first == second {
            Ok(())
        } else {
            Err(format!("convergence: {first} on node 0, {second} on node 1"))
        }
    }
}
