//! One node of the explored pair: the real [`Coordinator`] and the real [`Part`] on a disk of one block.
//!
//! An input is followed by everything that the node does by itself: postures and reports pass between the cores (one
//! shard: direct calls), and metadata, flushes and superblocks are written at once. A crash in the middle of those is
//! no other state than a crash before or after, for nothing leaves the node in between. What others may overtake is an
//! input of its own: each frame, each data operation of the disk, each answer of the arbiter.

use std::collections::VecDeque;

use crate::arbitration::{Lease, Reads, Record};
use crate::block::{BlockOp, BlockRequest, BlockStatus, BufSlice};
use crate::replication::control::Control;
use crate::replication::frame::{FrameHeader, FrameKind};
use crate::replication::receiver::Payload;
use crate::storage::{DiskFlags, Generations, LaneState, Layout, ScsiIdentity, Superblock, UnitCopy};
use crate::time::{Duration, Instant};
use crate::units::{BlockRange, BufId, LaneId, Lba, NodeId, RequestId, SessionId, ShardId};
use crate::volume::coordinator::{
    CasOutcome, ControlEffect, ControlOutbox, Coordinator, CoordinatorConfig, DropReason, RecordOutcome,
};
use crate::volume::effect::{DiskResult, Effect, LinkNo, MetaPage, OpId, Outbox};
use crate::volume::messages::{LinkRole, PartReport, PeerEnd, Posture, Service};
use crate::volume::mutant::Mutants;
use crate::volume::operator::{OperatorCommand, Ticket};
use crate::volume::part::{Part, PartConfig};

/// Where every clock begins. It stands still but for [`Input::Tick`]: nothing else that is explored may rest on it.
const BEGIN: Instant = Instant(1);
/// After which background flushes are due.
const LATER: Duration = Duration::from_millis(50);
/// By how much a clock of rate 1000 moves at a tick: where the leader's goes by this and the follower's faster by as much
/// as it may, a lease and the promise behind it end in the same tick. That is the narrowest moment.
const TICK: Duration = Duration::from_millis(610);
const RESYNC_BUFFER: BufId = BufId(1000);

/// A client's command: its number, and what it writes if it writes.
pub type Value = u8;

/// What a client asks.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Request {
    Write(Value),
    Read(u8),
}

/// Payload of a frame under way.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub enum Load {
    None,
    Block(Value),
    Bytes(Vec<u8>),
}

#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub enum Input {
    Start,
    /// The process ends. `landed`: what the disk was writing is written; `power`: the machine loses its power, and with
    /// `lost` what was only in the disk's cache.
    End {
        landed: bool,
        power: bool,
        lost: bool,
    },
    /// The session, and how often the peer has been started.
    SessionUp(SessionId, u8),
    SessionDown,
    Control(Control),
    Frame(FrameHeader, Load),
    /// The disk ends the data operation of this place in the queue.
    Disk(usize),
    Record(RecordOutcome),
    Swapped(CasOutcome),
    Operator(OperatorCommand),
    Request(Request),
    BackgroundFlush,
    /// Time passes.
    Tick,
    /// The coordinator's deadline has passed.
    Timer,
}

#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub enum Output {
    Control(Control),
    Frame(FrameHeader, Load),
    ReadRecord,
    Swap {
        expected: Record,
        proposed: Record,
    },
    /// `value`: what a read returns. The posture is the one that the answer was given in.
    Answer {
        request: Request,
        status: BlockStatus,
        value: Value,
        posture: Posture,
    },
    Serve(bool),
    /// It begins to answer by itself.
    Leads,
    /// The node has closed the session.
    Closed(DropReason),
}

#[derive(Clone, Copy, Hash, Debug)]
enum Job {
    Read {
        op: OpId,
        to: BufId,
    },
    /// `ordered`: the old or present primary's, not a client's here.
    Write {
        op: OpId,
        value: Value,
        fua: bool,
        ordered: bool,
    },
}

/// What outlives the process.
#[derive(Clone, Hash, Debug)]
pub struct Disk {
    pub volatile: bool,
    pub visible: Value,
    pub durable: Value,
    hot: bool,
    dirty: bool,
    superblock: Superblock,
}

#[derive(Clone, Hash, Debug)]
pub struct Process {
    pub coordinator: Coordinator,
    pub part: Part,
    buffers: Vec<(BufId, Value)>,
    requests: Vec<(Request, BufId)>,
    jobs: Vec<Job>,
    pub session: Option<SessionId>,
    pub allowed: bool,
    pub serving: bool,
    leads: bool,
    tickets: u64,
}

/// What does not change about a node.
#[derive(Clone, Copy, Hash, Debug)]
pub struct Traits {
    pub volatile: bool,
    pub reads: Reads,
    /// Clients are at the node that does not lead as well.
    pub forwards: bool,
    /// Of its clock, in parts of a thousand.
    pub rate: u32,
    pub mutants: Mutants,
}

#[derive(Clone, Hash, Debug)]
pub struct Node {
    pub id: NodeId,
    pub process: Option<Process>,
    pub disk: Disk,
    boots: u8,
    starts: u8,
    pub clock: Instant,
    traits: Traits,
}

/// What the node does by itself after an input.
enum Next {
    Posture(Posture),
    Lease(Lease),
    Report(PartReport),
    PartDisk(OpId),
    ControlDisk(OpId),
    Down(SessionId),
}

fn layout() -> Layout {
    Layout::internal_sized(64 << 20, 4096, 12, 1).expect("the device has room")
}

impl Node {
    pub fn format(id: NodeId, traits: Traits) -> Self {
        let superblock = Superblock {
            counter: 0,
            node: id,
            layout: layout(),
            volume: [7; 16],
            volume_name: "v".into(),
            flags: DiskFlags { clean_shutdown: true, ..DiskFlags::default() },
            generations: Generations::new(77),
            record: Record::default(),
            boot_id: [0; 16],
            identity: ScsiIdentity {
                naa: [6; 16],
                serial: "s".into(),
                iqn: "iqn.2024-01.org.example:v".into(),
            },
        };
        let disk =
            Disk { volatile: traits.volatile, visible: 0, durable: 0, hot: false, dirty: false, superblock };
        Self { id, process: None, disk, boots: 0, starts: 0, clock: BEGIN, traits }
    }

    /// How often its process was started.
    pub fn starts(&self) -> u8 {
        self.starts
    }

    /// Data operations that the disk has in hand.
    pub fn jobs(&self) -> usize {
        self.process.as_ref().map_or(0, |process| process.jobs.len())
    }

    pub fn writes_under_way(&self) -> bool {
        let write = |job: &Job| matches!(job, Job::Write { .. });
        self.process.as_ref().is_some_and(|process| process.jobs.iter().any(write))
    }

    /// Is the disk still doing what another node ordered?
    pub fn applies_orders(&self) -> bool {
        let ordered = |job: &Job| matches!(job, Job::Write { ordered: true, .. });
        self.process.as_ref().is_some_and(|process| process.jobs.iter().any(ordered))
    }

    /// Takes the input and does what follows from it.
    pub fn take(&mut self, input: &Input) -> Vec<Output> {
        let mut step = Step { outputs: Vec::new(), next: VecDeque::new() };
        match *input {
            Input::Start => self.start(&mut step),
            Input::End { landed, power, lost } => self.end(landed, power, lost),
            Input::Tick => self.clock = self.clock + TICK * self.traits.rate / 1000,
            _ => self.feed(input, &mut step),
        }
        while let Some(next) = step.next.pop_front() {
            self.go_on(next, &mut step);
        }
        step.outputs
    }

    fn start(&mut self, step: &mut Step) {
        assert!(self.process.is_none());
        self.starts += 1;
        let layout = layout();
        let mut lane = LaneState::new(layout.lane_shape(LaneId(0)));
        if self.disk.hot {
            lane.activity.set_hot(0);
        }
        if self.disk.dirty {
            lane.bitmap.set(0, 0, 1);
        }
        let part = PartConfig {
            shard: ShardId(0),
            shards: 1,
            geometry: layout.geometry,
            hot_extents_per_lane: 1,
            resync_buffers: vec![RESYNC_BUFFER],
            hold_limit: Some(Duration::from_secs(45)),
            mutants: self.traits.mutants,
        };
        let coordinator = CoordinatorConfig {
            node: self.id,
            shards: 1,
            replicated: true,
            volatile_cache: self.disk.volatile,
            standby_serves: self.traits.forwards,
            reads: self.traits.reads,
            boot_id: [self.boots + 1; 16],
            // Silence is a cut that is noticed.
            peer_timeout: Duration::from_secs(3600),
            entropy: u64::from(self.starts) << 8 | u64::from(self.id.0),
            mutants: self.traits.mutants,
        };
        self.process = Some(Process {
            coordinator: Coordinator::new(coordinator, self.disk.superblock.clone(), Some(UnitCopy::blank())),
            part: Part::new(part, vec![lane]),
            buffers: vec![(RESYNC_BUFFER, 0)],
            requests: Vec::new(),
            jobs: Vec::new(),
            session: None,
            allowed: false,
            serving: false,
            leads: false,
            tickets: 0,
        });
        self.control(step, |now, coordinator, out| coordinator.on_start(now, out));
    }

    fn end(&mut self, landed: bool, power: bool, lost: bool) {
        let process = self.process.take().expect("only what runs ends");
        for job in process.jobs {
            if let (Job::Write { value, fua, .. }, true) = (job, landed) {
                self.disk.write(value, fua);
            }
        }
        self.boots += u8::from(power);
        if power && !lost {
            self.disk.durable = self.disk.visible;
        }
        if lost {
            self.disk.visible = self.disk.durable;
        }
    }

    fn feed(&mut self, input: &Input, step: &mut Step) {
        let process = self.process.as_mut().expect("only what runs is fed");
        match input {
            Input::Start | Input::End { .. } | Input::Tick => unreachable!("handled by the caller"),
            &Input::SessionUp(id, starts) => {
                process.session = Some(id);
                let peer = PeerEnd { shards: 1, life: [starts; 16] };
                self.control(step, |now, coordinator, out| coordinator.on_session_up(now, id, peer, out));
            }
            Input::SessionDown => {
                let id = process.session.take().expect("it was up");
                self.control(step, |now, coordinator, out| coordinator.on_session_down(now, id, out));
            }
            Input::Control(message) => {
                let id = process.session.expect("messages come in a session");
                let message = message.clone();
                self.control(step, |now, coordinator, out| coordinator.on_control(now, id, message, out));
            }
            Input::Frame(header, load) => self.on_frame(header, load, step),
            &Input::Disk(at) => self.on_disk(at, step),
            &Input::Record(outcome) => {
                self.control(step, |now, coordinator, out| coordinator.on_record(now, outcome, out));
            }
            &Input::Swapped(outcome) => {
                self.control(step, |now, coordinator, out| coordinator.on_cas(now, outcome, out));
            }
            &Input::Operator(command) => {
                process.tickets += 1;
                let ticket = Ticket(process.tickets);
                self.control(step, |now, coordinator, out| {
                    coordinator.on_operator(now, ticket, command, out)
                });
            }
            &Input::Request(request) => self.on_request(request, step),
            Input::BackgroundFlush => self.part(step, |now, part, out| part.on_timer(now + LATER, out)),
            Input::Timer => self.control(step, |now, coordinator, out| coordinator.on_timer(now, out)),
        }
    }

    fn on_request(&mut self, request: Request, step: &mut Step) {
        let process = self.process.as_mut().expect("only what runs is asked");
        let (op, value) = match request {
            Request::Write(value) => (BlockOp::Write { fua: false }, value),
            Request::Read(_) => (BlockOp::Read, Value::MAX),
        };
        let buf = process.take_buffer(value);
        process.requests.push((request, buf));
        let request = BlockRequest {
            id: RequestId(u64::from(buf.0)),
            origin: ShardId(0),
            op,
            range: BlockRange::new(Lba(0), 1),
            buf: Some(BufSlice { buf, offset: 0 }),
            locked: false,
        };
        self.part(step, |now, part, out| part.on_request(now, request, out));
    }

    fn on_frame(&mut self, header: &FrameHeader, load: &Load, step: &mut Step) {
        let process = self.process.as_mut().expect("only what runs is fed");
        let session = process.session.expect("frames come in a session");
        let payload = match load {
            &Load::Block(value) => Payload::Buf(process.take_buffer(value)),
            Load::Bytes(bytes) => Payload::Bytes(bytes),
            Load::None if header.kind == FrameKind::Bitmap => Payload::Bytes(&[]),
            Load::None if header.kind == FrameKind::ForwardRead => {
                Payload::Buf(process.take_buffer(Value::MAX))
            }
            Load::None => Payload::None,
        };
        self.part(step, |now, part, out| part.on_frame(now, session, LinkNo(0), header, payload, out));
    }

    fn on_disk(&mut self, at: usize, step: &mut Step) {
        let process = self.process.as_mut().expect("only what runs has jobs");
        let op = match process.jobs.remove(at) {
            Job::Read { op, to } => {
                *process.buffer(to) = self.disk.visible;
                op
            }
            Job::Write { op, value, fua, .. } => {
                self.disk.write(value, fua);
                op
            }
        };
        self.part(step, |now, part, out| part.on_disk(now, op, DiskResult::Good, out));
    }

    fn go_on(&mut self, next: Next, step: &mut Step) {
        match next {
            Next::Posture(posture) => self.part(step, |now, part, out| part.on_posture(now, posture, out)),
            Next::Lease(lease) => self.part(step, |_, part, _| part.on_lease(lease)),
            Next::Report(report) => {
                self.control(step, |now, coordinator, out| coordinator.on_report(now, report, out));
            }
            Next::PartDisk(op) => {
                self.part(step, |now, part, out| part.on_disk(now, op, DiskResult::Good, out))
            }
            Next::ControlDisk(op) => {
                self.control(step, |now, coordinator, out| {
                    coordinator.on_disk(now, op, DiskResult::Good, out)
                });
            }
            Next::Down(id) => {
                self.control(step, |now, coordinator, out| coordinator.on_session_down(now, id, out));
            }
        }
    }

    fn control(&mut self, step: &mut Step, call: impl FnOnce(Instant, &mut Coordinator, &mut ControlOutbox)) {
        let mut out = Vec::new();
        call(self.clock, &mut self.process.as_mut().expect("only what runs is fed").coordinator, &mut out);
        for effect in out {
            self.carry_out_control(effect, step);
        }
    }

    fn part(&mut self, step: &mut Step, call: impl FnOnce(Instant, &mut Part, &mut Outbox)) {
        let mut out = Vec::new();
        call(self.clock, &mut self.process.as_mut().expect("only what runs is fed").part, &mut out);
        for effect in out {
            self.carry_out(effect, step);
        }
    }

    fn carry_out_control(&mut self, effect: ControlEffect, step: &mut Step) {
        let process = self.process.as_mut().expect("effects come of what runs");
        match effect {
            ControlEffect::Posture(posture) => {
                if posture.answers() && !process.leads {
                    step.outputs.push(Output::Leads);
                }
                process.leads = posture.answers() || process.leads && posture.service == Service::Held;
                step.next.push_back(Next::Posture(posture));
            }
            ControlEffect::Lease(lease) => step.next.push_back(Next::Lease(lease)),
            ControlEffect::SendControl { session, message } if process.session == Some(session) => {
                step.outputs.push(Output::Control(message));
            }
            ControlEffect::DropSession { session, reason } if process.session == Some(session) => {
                process.session = None;
                step.outputs.push(Output::Closed(reason));
                step.next.push_back(Next::Down(session));
            }
            ControlEffect::SendControl { .. } | ControlEffect::DropSession { .. } => {}
            ControlEffect::AllowConnect(allowed) => process.allowed = allowed,
            ControlEffect::ReadRecord => step.outputs.push(Output::ReadRecord),
            ControlEffect::Cas { expected, proposed } => {
                step.outputs.push(Output::Swap { expected, proposed })
            }
            ControlEffect::WriteSuperblock { op } => {
                self.disk.superblock = process.coordinator.superblock().clone();
                step.next.push_back(Next::ControlDisk(op));
            }
            ControlEffect::DiskFlush { op } => {
                self.disk.durable = self.disk.visible;
                step.next.push_back(Next::ControlDisk(op));
            }
            ControlEffect::WriteUnit { .. } | ControlEffect::Unit { .. } | ControlEffect::UnitAnswer(_) => {
                unreachable!("no client changes the unit state")
            }
            ControlEffect::Serve(serving) => {
                process.serving = serving;
                step.outputs.push(Output::Serve(serving));
            }
            ControlEffect::Reply { .. } | ControlEffect::Event(_) => {}
        }
    }

    fn carry_out(&mut self, effect: Effect, step: &mut Step) {
        let process = self.process.as_mut().expect("effects come of what runs");
        match effect {
            Effect::DiskRead { op, to, .. } => process.jobs.push(Job::Read { op, to: to.buf }),
            Effect::DiskWrite { op, from, fua, .. } => {
                let value = *process.buffer(from.buf);
                // A leader does only what clients want, its own or the other node's.
                let ordered = process.part.posture().link == LinkRole::Follow
                    && process.requests.iter().all(|entry| entry.1 != from.buf);
                process.jobs.push(Job::Write { op, value, fua, ordered });
            }
            Effect::DiskZero { .. } => unreachable!("no client zeroes"),
            Effect::LinkGive { header, payload, .. } => {
                let value = process.free_buffer(payload.buf);
                step.outputs.push(Output::Frame(header, Load::Block(value)));
            }
            Effect::Deliver { from, to, completion, .. } => {
                let value = process.free_buffer(from);
                *process.buffer(to.buf) = value;
                self.carry_out(Effect::Complete(completion), step);
            }
            Effect::DiskFlush { op } => {
                self.disk.durable = self.disk.visible;
                step.next.push_back(Next::PartDisk(op));
            }
            Effect::MetaWrite { op, page } => {
                let lane = &process.part.lanes()[0];
                match page {
                    MetaPage::ActivityLog { .. } => self.disk.hot = lane.hot_count() > 0,
                    MetaPage::Bitmap { .. } => self.disk.dirty = lane.dirty_blocks() > 0,
                }
                step.next.push_back(Next::PartDisk(op));
            }
            Effect::LinkSend { header, payload, .. } => {
                let load = payload.map_or(Load::None, |(from, _)| Load::Block(*process.buffer(from.buf)));
                step.outputs.push(Output::Frame(header, load));
            }
            Effect::LinkSendBytes { header, payload, .. } => {
                let load = if payload.is_empty() { Load::None } else { Load::Bytes(payload) };
                step.outputs.push(Output::Frame(header, load));
            }
            Effect::Complete(completion) => {
                let buf = BufId(completion.id.0 as u32);
                let at = process.requests.iter().position(|entry| entry.1 == buf);
                let (request, _) = process.requests.remove(at.expect("a request is answered once"));
                let value = process.free_buffer(buf);
                let posture = *process.part.posture();
                step.outputs.push(Output::Answer { request, status: completion.status, value, posture });
            }
            Effect::Free(buf) => {
                process.free_buffer(buf);
            }
            Effect::Report(report) => step.next.push_back(Next::Report(report)),
        }
    }
}

struct Step {
    outputs: Vec<Output>,
    next: VecDeque<Next>,
}

impl Disk {
    fn write(&mut self, value: Value, fua: bool) {
        self.visible = value;
        if fua || !self.volatile {
            self.durable = value;
        }
    }
}

impl Process {
    /// The lowest free name: what has come and gone leaves no trace.
    fn take_buffer(&mut self, value: Value) -> BufId {
        let free = |name: &u32| self.buffers.iter().all(|(buf, _)| buf.0 != *name);
        let buf = BufId((0..).find(free).expect("names are not exhausted"));
        self.buffers.push((buf, value));
        self.buffers.sort_unstable_by_key(|(buf, _)| buf.0);
        buf
    }

    fn buffer(&mut self, buf: BufId) -> &mut Value {
        let found = self.buffers.iter_mut().find(|(name, _)| *name == buf);
        &mut found.expect("a buffer is used while it is held").1
    }

    fn free_buffer(&mut self, buf: BufId) -> Value {
        let at = self.buffers.iter().position(|(name, _)| *name == buf).expect("a buffer is freed once");
        self.buffers.remove(at).1
    }
}
