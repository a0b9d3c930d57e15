//! A node: its disk, and while the process runs its parts, its coordinator and its buffers. Does what a driver does:
//! brings inputs to the cores, and carries out what they ask.

use crate::arbitration::Lease;
use crate::block::{BlockCompletion, BlockRequest, BufSlice, UnitChange, UnitCompletion, UnitState};
use crate::replication::control::Control;
use crate::replication::frame::{FrameHeader, FrameKind};
use crate::replication::receiver::Payload;
use crate::storage::{
    ActivityLog, Bitmap, DiskFlags, Generations, LaneLoader, LaneState, Layout, PAGE_BYTES, Page,
    ScsiIdentity, Superblock, SuperblockCopies,
};
use crate::time::Instant;
use crate::units::{BufId, LaneId, NodeId, SessionId, ShardId};
use crate::volume::coordinator::{CasOutcome, ControlEffect, Coordinator, CoordinatorConfig, RecordOutcome};
use crate::volume::effect::{DiskResult, Effect, LinkNo, MetaPage, OpId};
use crate::volume::messages::{PartReport, PeerEnd, Posture, Service};
use crate::volume::operator::{OperatorCommand, Ticket};
use crate::volume::part::{Part, PartConfig};

use super::arbiter::Question;
use super::client::zero_of;
use super::disk::{Job, Owner, SimDisk};
use super::setup::{Beginning, Setup};
use super::world::{Event, FramePayload, Verdict, Violation, World, ensure};

/// A node, running or not.
#[derive(Debug)]
pub struct Node {
    pub id: NodeId,
    pub disk: SimDisk,
    pub layout: Layout,
    pub shards: u8,
    /// Rises with every start and every end of the process.
    pub life: u32,
    pub machine: Option<Machine>,
    /// Boots of the machine; a new boot identifier for each.
    pub boots: u64,
    /// Tick of the last loss of power that could take a cache with it; 0: never.
    pub cache_lost_at: u64,
    /// Tick of the last failed disk operation: what the disk holds is not vouched for before a resync.
    pub disk_failed: bool,
    pub paused_until: u64,
    pub clock: Clock,
    pub slow_until: u64,
    /// The disk answers nothing (or reads only) until then.
    pub hangs_until: u64,
    pub hang_spares_reads: bool,
    pub error_left: u32,
}

/// A node's clock: it has a beginning and a rate of its own, and may have stood still.
#[derive(Clone, Copy, Debug)]
pub struct Clock {
    pub begin: u64,
    /// Parts of a thousand of the world's.
    pub rate: u64,
    /// For how long it has stood still.
    pub frozen: u64,
    /// It stands still since.
    pub stopped: Option<u64>,
}

impl Clock {
    pub fn read(&self, now: u64) -> Instant {
        Instant(self.begin + (self.stopped.unwrap_or(now) - self.frozen) * self.rate / 1000)
    }

    /// It goes again.
    pub fn go(&mut self, now: u64) {
        if let Some(since) = self.stopped.take() {
            self.frozen += now - since;
        }
    }

    /// The first moment at which it shows `at`.
    pub fn shows(&self, at: Instant) -> u64 {
        self.frozen + (at.0.saturating_sub(self.begin) * 1000).div_ceil(self.rate)
    }
}

/// A running process.
#[derive(Debug)]
pub struct Machine {
    pub parts: Vec<Part>,
    pub coordinator: Coordinator,
    /// The posture that the coordinator's effects have come to: it may be ahead of them.
    pub told: Posture,
    /// What each shard judges commands by.
    pub units: Vec<UnitState>,
    pub buffers: Buffers,
    /// Initiators may log in.
    pub serving: bool,
    /// Its coordinator has it answer (or hold) requests.
    pub leads: bool,
    pub connect_allowed: bool,
    pub stopped: bool,
    /// The session that the driver holds.
    pub session: Option<SessionId>,
    /// Arbiter questions asked, and the one without an answer yet.
    pub asked: u64,
    pub question: Option<Question>,
    part_timers: Vec<Option<u64>>,
    control_timer: Option<u64>,
    /// Last delivery from shard to shard, for order.
    mesh_last: Vec<u64>,
}

/// What shards of a node tell each other.
#[derive(Clone, Debug)]
pub enum Mesh {
    Request(BlockRequest),
    Done(BlockCompletion),
    Posture(Posture),
    Lease(Lease),
    Report(PartReport),
    UnitChange(UnitChange),
    Unit { serial: u64, state: UnitState },
    UnitAdopted { shard: ShardId, serial: u64 },
    UnitAnswer(UnitCompletion),
}

/// An input of a part.
#[derive(Debug)]
pub enum PartInput {
    Request(BlockRequest),
    Disk(OpId, DiskResult),
    Frame { session: SessionId, link: LinkNo, header: FrameHeader, payload: FramePayload },
    Posture(Posture),
    Timer,
}

/// An input of the coordinator.
#[derive(Debug)]
pub enum ControlInput {
    Start,
    SessionUp { session: SessionId, peer: PeerEnd },
    SessionDown(SessionId),
    Control(SessionId, Control),
    Report(PartReport),
    Record(RecordOutcome),
    Swapped(CasOutcome),
    Disk(OpId, DiskResult),
    Operator(Ticket, OperatorCommand),
    UnitChange(UnitChange),
    UnitAdopted { shard: ShardId, serial: u64 },
    Timer,
}

/// The data buffers of a process.
#[derive(Debug, Default)]
pub struct Buffers {
    slots: Vec<Option<Vec<u64>>>,
    free: Vec<u32>,
    pub live: usize,
}

impl Buffers {
    pub fn take(&mut self, data: Vec<u64>) -> BufId {
        self.live += 1;
        if let Some(slot) = self.free.pop() {
            self.slots[slot as usize] = Some(data);
            return BufId(slot);
        }
        self.slots.push(Some(data));
        BufId(self.slots.len() as u32 - 1)
    }

    pub fn get(&mut self, buf: BufId) -> Result<&mut Vec<u64>, Violation> {
        self.slots[buf.0 as usize]
            .as_mut()
            .ok_or_else(|| Violation { invariant: "D6", what: format!("{buf:?} is used after it went home") })
    }

    pub fn free(&mut self, buf: BufId) -> Verdict {
        self.get(buf)?;
        self.slots[buf.0 as usize] = None;
        self.free.push(buf.0);
        self.live -= 1;
        Ok(())
    }

    fn slice(&mut self, from: crate::block::BufSlice, len: u32) -> Result<Vec<u64>, Violation> {
        let (start, count) = (from.offset as usize / 512, len as usize / 512);
        let data = self.get(from.buf)?;
        ensure(data.len() >= start + count, "D6", || format!("{from:?}+{len} leaves its buffer"))?;
        Ok(data[start..start + count].to_vec())
    }
}

impl Node {
    /// A formatted device, and no process.
    pub fn format(id: NodeId, setup: &Setup) -> Self {
        let layout = setup.layout;
        let index = usize::from(id.0);
        let mut disk = SimDisk::new(layout.geometry.bytes() / 512, setup.volatile[index]);
        let fresh = setup.beginning == Beginning::Seed;
        let mut superblock = Superblock {
            counter: 0,
            node: id,
            layout,
            volume: *b"simulated volume",
            volume_name: "simulated".into(),
            flags: DiskFlags { just_created: fresh, clean_shutdown: true, ..DiskFlags::default() },
            generations: if fresh { Generations::default() } else { Generations::new(0xFEED) },
            record: Default::default(),
            boot_id: boot_id(id, 1),
            identity: ScsiIdentity {
                naa: [6; 16],
                serial: "1".into(),
                iqn: "iqn.2026-11.example:sim".into(),
            },
        };
        for _ in 0..2 {
            let copy = superblock.advance();
            let mut page = blank();
            superblock.encode(&mut page);
            disk.format_page(layout.superblocks[copy], page);
        }
        for lane in (0..layout.geometry.lanes).map(LaneId) {
            format_lane(&mut disk, &layout, lane);
        }
        Self {
            id,
            disk,
            layout,
            shards: setup.shards[index],
            life: 0,
            machine: None,
            boots: 1,
            cache_lost_at: 0,
            disk_failed: false,
            paused_until: 0,
            clock: setup.clocks[index],
            slow_until: 0,
            hangs_until: 0,
            hang_spares_reads: false,
            error_left: 0,
        }
    }

    /// The superblock as a start now would find it.
    pub fn superblock(&self, layout: &Layout) -> Superblock {
        let [first, second] = layout.superblocks.map(|at| self.disk.page(at));
        SuperblockCopies { first, second }.choose().expect("one copy always survives").superblock
    }

    /// A lane's state as a start now would load it.
    pub fn load_lane(&self, layout: &Layout, lane: LaneId) -> LaneState {
        let mut loader = LaneLoader::new(layout, lane);
        for page in 0..layout.activity_pages_per_lane() {
            let _ = loader.on_activity_page(self.disk.page(layout.activity_page_offset(lane, page)));
        }
        for page in 0..layout.bitmap_pages_per_lane() {
            let _ = loader.on_bitmap_page(self.disk.page(layout.bitmap_page_offset(lane, page)));
        }
        loader.finish()
    }
}

pub fn blank() -> Box<Page> {
    Box::new([0; PAGE_BYTES])
}

fn boot_id(node: NodeId, boots: u64) -> [u8; 16] {
    let mut id = [node.0; 16];
    id[..8].copy_from_slice(&boots.to_le_bytes());
    id
}

fn format_lane(disk: &mut SimDisk, layout: &Layout, lane: LaneId) {
    let shape = layout.lane_shape(lane);
    let activity = ActivityLog::new(lane, shape.extents);
    let bitmap = Bitmap::new(shape);
    for number in 0..layout.activity_pages_per_lane() {
        let mut page = blank();
        activity.encode_page(number, 1, &mut page);
        disk.format_page(layout.activity_page_offset(lane, number), page);
    }
    for number in 0..layout.bitmap_pages_per_lane() {
        let mut page = blank();
        bitmap.encode_page(number, 1, &mut page);
        disk.format_page(layout.bitmap_page_offset(lane, number), page);
    }
}

impl World {
    // ---- the process ----

    /// Starts the process, as the daemon does: superblock, lanes, parts, coordinator.
    pub(super) fn on_restart(&mut self, node: usize) -> Verdict {
        if self.nodes[node].machine.is_some() {
            return Ok(());
        }
        let layout = self.setup.layout;
        let entropy = self.rng.next_u64();
        let tick = self.tick();
        let this = &mut self.nodes[node];
        this.life += 1;
        if this.disk_failed {
            // Nothing that was written while its disk was failed is here for sure.
            this.cache_lost_at = tick;
        }
        this.disk_failed = false;
        this.error_left = 0;
        let superblock = this.superblock(&layout);
        let mut buffers = Buffers::default();
        let shards = this.shards;
        let parts = self.load_parts(node, &mut buffers);
        let this = &mut self.nodes[node];
        let config = CoordinatorConfig {
            node: this.id,
            shards,
            replicated: true,
            volatile_cache: self.setup.volatile[node],
            boot_id: boot_id(this.id, this.boots),
            peer_timeout: self.setup.peer_timeout,
            standby_serves: self.setup.standby_serves,
            reads: self.setup.reads,
            entropy,
            mutants: self.setup.mutants,
        };
        let unit = this.stored_unit();
        let state = unit.as_ref().map_or_else(UnitState::empty, |copy| copy.state.clone());
        this.machine = Some(Machine {
            coordinator: Coordinator::new(config, superblock, unit),
            told: Posture::START,
            units: vec![state; parts.len()],
            buffers,
            serving: false,
            leads: false,
            connect_allowed: false,
            stopped: false,
            session: None,
            asked: 0,
            question: None,
            part_timers: vec![None; parts.len()],
            control_timer: None,
            mesh_last: vec![0; parts.len() * parts.len()],
            parts,
        });
        self.log(|| format!("node {node} starts"));
        self.feed_control(node, ControlInput::Start)
    }

    /// The shards of a node that starts, with what its disk holds of their lanes.
    fn load_parts(&mut self, node: usize, buffers: &mut Buffers) -> Vec<Part> {
        let layout = self.setup.layout;
        let this = &mut self.nodes[node];
        let shards = this.shards;
        let mut parts = Vec::new();
        for shard in 0..shards {
            let resync_buffers = (0..self.setup.resync_buffers).map(|_| buffers.take(vec![0; 128])).collect();
            let lanes = (u16::from(shard)..layout.geometry.lanes).step_by(usize::from(shards)).map(|lane| {
                let mut state = this.load_lane(&layout, LaneId(lane));
                state.mark_hot_dirty();
                state
            });
            let config = PartConfig {
                shard: ShardId(shard),
                shards,
                geometry: layout.geometry,
                hot_extents_per_lane: self.setup.hot_extents_per_lane,
                resync_buffers,
                hold_limit: self.setup.hold_limit,
                mutants: self.setup.mutants,
            };
            parts.push(Part::new(config, lanes.collect()));
        }
        parts
    }

    /// The process is gone. `power`: and the machine with it.
    pub(super) fn end_process(&mut self, node: usize, power: bool) -> Verdict {
        self.count_leased(node);
        let now = self.now;
        let this = &mut self.nodes[node];
        this.life += 1;
        this.paused_until = 0;
        this.clock.go(now);
        this.machine = None;
        if power {
            this.disk.on_power_cut(&mut self.rng);
            this.boots += 1;
        } else {
            this.disk.on_process_gone(&mut self.rng);
        }
        self.cover.load(node, &self.nodes[node]);
        if power {
            self.on_cache_lost(node);
        }
        self.drop_connections(node);
        let sessions: Vec<SessionId> = self.sessions.keys().copied().collect();
        for session in sessions {
            self.on_side_died(session, node, power);
        }
        self.check_everything_covered()
    }

    /// The process's reads that a lease has answered.
    pub(super) fn count_leased(&mut self, node: usize) {
        let parts = self.nodes[node].machine.iter().flat_map(|machine| &machine.parts);
        self.tally.leased += parts.map(|part| part.stats().leased).sum::<u64>();
    }

    // ---- inputs ----

    pub(super) fn feed_part(&mut self, node: usize, shard: u8, input: PartInput) -> Verdict {
        let now = self.nodes[node].clock.read(self.now);
        let mut out = Vec::new();
        let machine = self.nodes[node].machine.as_mut().expect("a running node is fed");
        let part = &mut machine.parts[usize::from(shard)];
        match input {
            PartInput::Request(request) => part.on_request(now, request, &mut out),
            PartInput::Disk(op, result) => part.on_disk(now, op, result, &mut out),
            PartInput::Posture(posture) => part.on_posture(now, posture, &mut out),
            PartInput::Timer => part.on_timer(now, &mut out),
            PartInput::Frame { session, link, header, payload } => {
                let payload = match &payload {
                    FramePayload::None if header.kind == FrameKind::ForwardRead => {
                        Payload::Buf(machine.buffers.take(vec![u64::MAX; header.value as usize / 512]))
                    }
                    FramePayload::None => Payload::None,
                    FramePayload::Bytes(bytes) => Payload::Bytes(bytes),
                    FramePayload::Sectors(data) => Payload::Buf(machine.buffers.take(data.clone())),
                };
                part.on_frame(now, session, link, &header, payload, &mut out);
            }
        }
        for effect in out {
            self.carry_out(node, shard, effect)?;
        }
        self.arm_part_timer(node, shard);
        Ok(())
    }

    pub(super) fn feed_control(&mut self, node: usize, input: ControlInput) -> Verdict {
        let now = self.nodes[node].clock.read(self.now);
        let mut out = Vec::new();
        let machine = self.nodes[node].machine.as_mut().expect("a running node is fed");
        let core = &mut machine.coordinator;
        match input {
            ControlInput::Start => core.on_start(now, &mut out),
            ControlInput::SessionUp { session, peer } => core.on_session_up(now, session, peer, &mut out),
            ControlInput::SessionDown(session) => core.on_session_down(now, session, &mut out),
            ControlInput::Control(session, message) => core.on_control(now, session, message, &mut out),
            ControlInput::Report(report) => core.on_report(now, report, &mut out),
            ControlInput::Record(outcome) => core.on_record(now, outcome, &mut out),
            ControlInput::Swapped(outcome) => core.on_cas(now, outcome, &mut out),
            ControlInput::Disk(op, result) => core.on_disk(now, op, result, &mut out),
            ControlInput::Operator(ticket, command) => core.on_operator(now, ticket, command, &mut out),
            ControlInput::UnitChange(change) => core.on_unit_change(now, change, &mut out),
            ControlInput::UnitAdopted { shard, serial } => core.on_unit_adopted(now, shard, serial, &mut out),
            ControlInput::Timer => core.on_timer(now, &mut out),
        }
        for effect in out {
            self.carry_out_control(node, effect)?;
        }
        self.arm_control_timer(node);
        Ok(())
    }

    fn arm_part_timer(&mut self, node: usize, shard: u8) {
        let this = &mut self.nodes[node];
        let Some(machine) = this.machine.as_mut() else { return };
        let Some(at) = machine.parts[usize::from(shard)].deadline() else { return };
        let at = this.clock.shows(at);
        let armed = &mut machine.part_timers[usize::from(shard)];
        if armed.is_none_or(|armed| armed > at) {
            *armed = Some(at);
            let life = this.life;
            self.at(at, Event::PartTimer { node, life, shard });
        }
    }

    fn arm_control_timer(&mut self, node: usize) {
        let this = &mut self.nodes[node];
        let Some(machine) = this.machine.as_mut() else { return };
        let Some(at) = machine.coordinator.deadline() else { return };
        let at = this.clock.shows(at);
        if machine.control_timer.is_none_or(|armed| armed > at) {
            machine.control_timer = Some(at);
            let life = this.life;
            self.at(at, Event::ControlTimer { node, life });
        }
    }

    pub(super) fn on_part_timer(&mut self, node: usize, life: u32, shard: u8) -> Verdict {
        let now = self.nodes[node].clock.read(self.now);
        let this = &mut self.nodes[node];
        let Some(machine) = this.machine.as_mut().filter(|_| this.life == life) else { return Ok(()) };
        machine.part_timers[usize::from(shard)] = None;
        if machine.parts[usize::from(shard)].deadline().is_some_and(|at| at <= now) {
            return self.feed_part(node, shard, PartInput::Timer);
        }
        self.arm_part_timer(node, shard);
        Ok(())
    }

    pub(super) fn on_control_timer(&mut self, node: usize, life: u32) -> Verdict {
        let now = self.nodes[node].clock.read(self.now);
        let this = &mut self.nodes[node];
        let Some(machine) = this.machine.as_mut().filter(|_| this.life == life) else { return Ok(()) };
        machine.control_timer = None;
        if machine.coordinator.deadline().is_some_and(|at| at <= now) {
            return self.feed_control(node, ControlInput::Timer);
        }
        self.arm_control_timer(node);
        Ok(())
    }

    // ---- the mesh ----

    /// Sends between shards of a node: in order for each pair, late by chance.
    pub(super) fn mesh(&mut self, node: usize, from: u8, to: u8, message: Mesh) {
        let (low, high) = self.setup.mesh_latency;
        let delay = if from == to { 0 } else { self.rng.range(low, high) };
        let this = &mut self.nodes[node];
        let life = this.life;
        let machine = this.machine.as_mut().expect("a running node has a mesh");
        let place = usize::from(from) * machine.parts.len() + usize::from(to);
        let at = (self.now + delay).max(machine.mesh_last[place]);
        machine.mesh_last[place] = at;
        self.at(at, Event::Mesh { node, life, to, message });
    }

    pub(super) fn on_mesh(&mut self, node: usize, life: u32, to: u8, message: Mesh) -> Verdict {
        if self.nodes[node].life != life {
            return Ok(());
        }
        match message {
            Mesh::Request(request) => {
                self.on_unlock_begun(node, &request);
                self.feed_part(node, to, PartInput::Request(request))
            }
            Mesh::Done(completion) => self.on_piece_done(node, completion),
            Mesh::Posture(posture) => {
                self.log(|| format!("node {node} shard {to}: {posture:?}"));
                self.feed_part(node, to, PartInput::Posture(posture))
            }
            Mesh::Lease(lease) => {
                self.nodes[node].machine.as_mut().expect("it lives").parts[usize::from(to)].on_lease(lease);
                Ok(())
            }
            Mesh::Report(report) => {
                self.log(|| format!("node {node}: {report:?}"));
                self.feed_control(node, ControlInput::Report(report))
            }
            Mesh::Unit { serial, state } => {
                self.on_unit_given(node, to, serial, state);
                Ok(())
            }
            message => self.feed_unit(node, message),
        }
    }

    // ---- effects ----

    fn carry_out(&mut self, node: usize, shard: u8, effect: Effect) -> Verdict {
        let machine = self.nodes[node].machine.as_mut().expect("a running node");
        match effect {
            Effect::DiskRead { op, offset, to, len } => {
                self.begin_disk(node, Owner::Part(shard, op), SimDisk::read(to, offset, len));
            }
            Effect::DiskWrite { op, offset, from, len, fua } => {
                let data = machine.buffers.slice(from, len)?;
                return self.begin_write(node, Owner::Part(shard, op), offset, data, fua);
            }
            Effect::DiskZero { op, offset, len, fua, tag, .. } => {
                // Every zero has a value of its own, so that it can be told from the others.
                let (start, count) = (offset / 512, u64::from(len) / 512);
                let data: Vec<u64> = (start..start + count).map(|at| zero_of(tag, at)).collect();
                return self.begin_write(node, Owner::Part(shard, op), offset, data, fua);
            }
            Effect::DiskFlush { op } => {
                let job = self.nodes[node].disk.flush();
                self.begin_disk(node, Owner::Part(shard, op), job);
            }
            Effect::MetaWrite { op, page } => {
                let mut bytes = blank();
                machine.parts[usize::from(shard)].render(page, &mut bytes);
                let at = match page {
                    MetaPage::ActivityLog { lane, page } => {
                        self.setup.layout.activity_page_offset(lane, page)
                    }
                    MetaPage::Bitmap { lane, page } => self.setup.layout.bitmap_page_offset(lane, page),
                };
                self.log(|| format!("node {node}: writes {page:?}"));
                self.begin_disk(node, Owner::Part(shard, op), Job::Page { at, bytes });
                return self.check_page_begun(node, page);
            }
            Effect::LinkSend { link, header, payload } => {
                self.check_forward_answer(node, shard, &header)?;
                let machine = self.nodes[node].machine.as_mut().expect("a running node");
                let payload = match payload {
                    None => FramePayload::None,
                    Some((from, len)) => FramePayload::Sectors(machine.buffers.slice(from, len)?),
                };
                self.send_data(node, shard, link, header, payload);
            }
            Effect::LinkSendBytes { link, header, payload } => {
                let payload =
                    if payload.is_empty() { FramePayload::None } else { FramePayload::Bytes(payload) };
                self.send_data(node, shard, link, header, payload);
            }
            Effect::LinkGive { link, header, payload, len } => {
                self.check_forward_answer(node, shard, &header)?;
                let machine = self.nodes[node].machine.as_mut().expect("a running node");
                let sectors = machine.buffers.slice(payload, len)?;
                machine.buffers.free(payload.buf)?;
                self.send_data(node, shard, link, header, FramePayload::Sectors(sectors));
            }
            Effect::Deliver { from, to, len, completion } => {
                let data = machine.buffers.slice(BufSlice { buf: from, offset: 0 }, len)?;
                machine.buffers.free(from)?;
                let start = to.offset as usize / 512;
                machine.buffers.get(to.buf)?[start..start + data.len()].copy_from_slice(&data);
                self.mesh(node, shard, completion.origin.0, Mesh::Done(completion));
            }
            Effect::Complete(completion) => {
                self.check_answer(node, shard, &completion)?;
                self.mesh(node, shard, completion.origin.0, Mesh::Done(completion));
            }
            Effect::Free(buf) => return machine.buffers.free(buf),
            Effect::Report(report) => self.mesh(node, shard, 0, Mesh::Report(report)),
        }
        Ok(())
    }

    fn carry_out_control(&mut self, node: usize, effect: ControlEffect) -> Verdict {
        let machine = self.nodes[node].machine.as_mut().expect("a running node");
        match effect {
            ControlEffect::Posture(posture) => {
                machine.told = posture;
                let begins = posture.answers() && !machine.leads;
                machine.leads = posture.answers() || machine.leads && posture.service == Service::Held;
                if begins {
                    self.on_lead(node)?;
                }
                self.forget_remote_locks(node);
                let machine = self.nodes[node].machine.as_mut().expect("a running node");
                for shard in 0..machine.parts.len() as u8 {
                    self.mesh(node, 0, shard, Mesh::Posture(posture));
                }
            }
            ControlEffect::Lease(lease) => {
                for shard in 0..machine.parts.len() as u8 {
                    self.mesh(node, 0, shard, Mesh::Lease(lease));
                }
            }
            ControlEffect::SendControl { session, message } => return self.say(node, session, message),
            ControlEffect::DropSession { session, reason } => {
                self.log(|| format!("node {node}: drops {session:?}: {reason:?}"));
                self.drop_session(node, session);
            }
            ControlEffect::AllowConnect(allowed) => machine.connect_allowed = allowed,
            ControlEffect::ReadRecord => self.ask_arbiter(node, Question::Read),
            ControlEffect::Cas { expected, proposed } => {
                self.log(|| format!("node {node}: asks for {proposed:?}"));
                self.ask_arbiter(node, Question::Swap { expected, proposed });
            }
            ControlEffect::WriteSuperblock { op } => {
                let mut bytes = blank();
                let copy = machine.coordinator.render_superblock(&mut bytes);
                let at = self.setup.layout.superblocks[copy];
                let (flags, generations) =
                    (machine.coordinator.superblock().flags, machine.coordinator.superblock().generations);
                self.log(|| format!("node {node}: writes superblock {flags:?} {generations:x?}"));
                self.begin_disk(node, Owner::Coordinator(op), Job::Page { at, bytes });
                return self.check_everything_covered();
            }
            ControlEffect::DiskFlush { op } => {
                let job = self.nodes[node].disk.flush();
                self.begin_disk(node, Owner::Coordinator(op), job);
            }
            ControlEffect::WriteUnit { op, page } => self.write_unit_page(node, op, page),
            ControlEffect::Unit { serial, state } => self.give_unit(node, serial, &state),
            ControlEffect::UnitAnswer(completion) => return self.answer_unit(node, completion),
            ControlEffect::Serve(serving) => {
                machine.serving = serving;
                self.log(|| format!("node {node}: serve {serving}"));
                if !serving {
                    self.drop_connections(node);
                }
            }
            ControlEffect::Reply { ticket, result } => {
                self.log(|| format!("node {node}: {ticket:?} {result:?}"));
            }
            ControlEffect::Event(event) => {
                self.log(|| format!("node {node}: {event:?}"));
                return self.on_node_event(node, event);
            }
        }
        Ok(())
    }

    fn begin_write(&mut self, node: usize, owner: Owner, offset: u64, data: Vec<u64>, fua: bool) -> Verdict {
        let (start, count) = (offset / 512, data.len() as u64);
        self.check_locks(node, start, &data)?;
        self.begin_disk(node, owner, SimDisk::write(offset, data, fua));
        self.check_covered(node, start, count)
    }

    pub(super) fn begin_disk(&mut self, node: usize, owner: Owner, job: Job) {
        let (low, high) = self.setup.disk_latency;
        let mut delay = self.rng.range(low, high);
        if self.nodes[node].slow_until > self.now {
            delay = delay * 50 + self.rng.below(20_000_000);
        }
        let this = &mut self.nodes[node];
        let spared = this.hang_spares_reads && matches!(job, Job::Read { .. });
        let begins = if spared { self.now } else { self.now.max(this.hangs_until) };
        let op = this.disk.begin(owner, job);
        self.at(begins + delay, Event::Disk { node, op });
    }

    pub(super) fn on_disk(&mut self, node: usize, op: u64) -> Verdict {
        let this = &mut self.nodes[node];
        let fail = this.error_left > 0 && this.machine.is_some();
        let Some(done) = this.disk.complete(op, fail, &mut self.rng) else { return Ok(()) };
        if fail {
            this.error_left -= 1;
        }
        if !done.good {
            this.disk_failed = true;
            self.log(|| format!("node {node}: disk error for {:?}", done.owner));
            self.cover.load(node, &self.nodes[node]);
            // Whatever failed, the device's cache is not to be relied on any more.
            self.on_copy_lost(node);
        }
        let machine = self.nodes[node].machine.as_mut().expect("operations end with the process");
        if let Some((to, data)) = done.read {
            let start = to.offset as usize / 512;
            let buffer = machine.buffers.get(to.buf)?;
            ensure(buffer.len() >= start + data.len(), "D6", || format!("{to:?} leaves its buffer"))?;
            buffer[start..start + data.len()].copy_from_slice(&data);
        }
        if let Some(at) = done.page {
            self.cover.on_page_durable(node, at, &self.nodes[node]);
        }
        let result = if done.good { DiskResult::Good } else { DiskResult::Error };
        match done.owner {
            Owner::Part(shard, op) => self.feed_part(node, shard, PartInput::Disk(op, result)),
            Owner::Coordinator(op) => self.feed_control(node, ControlInput::Disk(op, result)),
        }
    }
}
