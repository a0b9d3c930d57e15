//! Two nodes on a table: the volume's cores of both, with disks, links and an arbiter made of maps and queues.
//!
//! Nothing happens by itself. Every operation a core asks for waits in a queue; [`Pair::step`] carries out the next one
//! (queues take turns), [`Pair::run`] goes on until nothing is left, and a test may hold a queue back, cut the link,
//! stop a process or cut the power between any two steps. Time stands still unless a test moves it.
//!
//! A logical block has 4 KiB; one byte stands for its content. What a disk promises: a completed write is visible;
//! it survives a loss of power if it was FUA or was completed before a flush that has completed *began*.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use crate::arbitration::{Reads, Record};
use crate::block::{
    BlockOp, BlockRequest, BlockStatus, BufSlice, UnitAnswer, UnitChange, UnitState, UnitVersion,
};
use crate::replication::control::Control;
use crate::replication::frame::{FrameHeader, FrameKind};
use crate::replication::receiver::Payload;
use crate::storage::*;
use crate::time::{Duration, Instant};
use crate::units::*;
use crate::volume::coordinator::*;
use crate::volume::effect::*;
use crate::volume::messages::{PartReport, PeerEnd, Posture};
use crate::volume::mutant::Mutants;
use crate::volume::operator::{OperatorCommand, Refusal, Role, Ticket};
use crate::volume::part::{Part, PartConfig};

const RESYNC_BUFFERS: u32 = 4;

/// What a disk was asked to do.
#[derive(Debug)]
enum Job {
    Read { first: u64, count: u64, to: BufId },
    Write { first: u64, data: Vec<u8>, fua: bool },
    Flush { begun: u64 },
    Page { at: u64, bytes: Box<Page> },
}

#[derive(Clone, Copy, Debug)]
enum Owner {
    Part(usize, OpId),
    Coordinator(OpId),
}

/// A disk with a volatile cache.
#[derive(Debug, Default)]
pub struct Disk {
    pub pages: BTreeMap<u64, Box<Page>>,
    media: BTreeMap<u64, u8>,
    /// Completed writes that a loss of power takes back, oldest first.
    cache: Vec<(u64, u64, u8)>,
    order: u64,
    queue: VecDeque<(Owner, Job)>,
    /// Metadata pages fail from now on.
    pub fails_pages: bool,
    pub fails_reads: bool,
    /// A flush fails and takes with it what it should have kept.
    pub fails_flushes: bool,
    pub held: bool,
}

impl Disk {
    /// What a read returns.
    pub fn block(&self, lba: u64) -> u8 {
        let cached = self.cache.iter().rev().find(|&&(_, at, _)| at == lba).map(|&(_, _, byte)| byte);
        cached.unwrap_or_else(|| self.media.get(&lba).copied().unwrap_or(0))
    }

    fn perform(&mut self, job: Job, buffers: &mut BTreeMap<BufId, Vec<u8>>) -> DiskResult {
        match job {
            Job::Read { .. } if self.fails_reads => return DiskResult::Error,
            Job::Read { first, count, to } => {
                let data = (first..first + count).map(|lba| self.block(lba)).collect();
                buffers.insert(to, data);
            }
            Job::Write { first, data, fua } => {
                for (lba, byte) in (first..).zip(data) {
                    self.order += 1;
                    self.cache.push((self.order, lba, byte));
                    if fua {
                        self.cache.retain(|&(_, at, _)| at != lba);
                        self.media.insert(lba, byte);
                    }
                }
            }
            Job::Flush { .. } if self.fails_flushes => {
                self.cache.clear();
                return DiskResult::Error;
            }
            Job::Flush { begun } => {
                for &(_, lba, byte) in self.cache.iter().filter(|&&(order, _, _)| order <= begun) {
                    self.media.insert(lba, byte);
                }
                self.cache.retain(|&(order, _, _)| order > begun);
            }
            Job::Page { .. } if self.fails_pages => return DiskResult::Error,
            Job::Page { at, bytes } => {
                self.pages.insert(at, bytes);
            }
        }
        DiskResult::Good
    }
}

/// What travels between the nodes, in order.
#[derive(Debug)]
enum Parcel {
    Frame { to: usize, from: usize, header: FrameHeader, payload: Option<Vec<u8>>, bytes: bool },
    Control(Control),
    Close,
}

/// The running process of a node.
#[derive(Debug)]
struct Process {
    coordinator: Coordinator,
    parts: Vec<Part>,
    postures: VecDeque<(usize, Posture)>,
    reports: VecDeque<PartReport>,
    downs: VecDeque<SessionId>,
    buffers: BTreeMap<BufId, Vec<u8>>,
    requests: BTreeMap<RequestId, BufId>,
    allowed: bool,
    /// What each shard judges by, and the states that it has not adopted yet.
    units: Vec<UnitState>,
    adopting: VecDeque<(usize, u64)>,
}

#[derive(Debug, Default)]
pub struct Node {
    process: Option<Process>,
    pub disk: Disk,
    shards: usize,
    boots: u8,
    starts: u8,
    pub serving: bool,
    session: Option<SessionId>,
    pub replies: BTreeMap<u64, Result<(), Refusal>>,
    pub answers: BTreeMap<u64, (BlockStatus, Vec<u8>)>,
    pub unit_answers: BTreeMap<u64, UnitAnswer>,
    /// What changes of the unit state end does not become quiet.
    pub noisy: bool,
}

#[derive(Clone, Copy, Debug)]
enum Question {
    Read,
    Cas(Record, Record),
}

#[derive(Debug, Default)]
pub struct Arbiter {
    pub record: Record,
    queue: VecDeque<(usize, u8, Question)>,
    pub held: bool,
    pub is_person: bool,
    /// Keeps no record for anybody to read; grants what is right (a fence).
    pub keeps_nothing: bool,
    /// Reads are answered `Unreachable`; changes wait.
    pub is_away: bool,
    /// Changes that were asked for.
    pub asked: u32,
}

/// What may be found in a block. Tests write rising values.
#[derive(Clone, Debug, Default)]
struct Written {
    answered: u8,
    /// Written since, and not answered.
    open: BTreeSet<u8>,
    /// The last value that a flush or FUA made a promise of.
    flushed: u8,
    issued: BTreeSet<u8>,
}

pub struct Pair {
    pub nodes: [Node; 2],
    pub arbiter: Arbiter,
    pub now: Instant,
    /// Frames of these directions (by sender) stay in their queues.
    pub held: [bool; 2],
    links: [VecDeque<Parcel>; 2],
    sessions: u64,
    names: u64,
    turn: usize,
    /// Initiators are at both nodes.
    pub standby_serves: bool,
    pub reads: Reads,
    /// No session is made while set.
    pub unplugged: bool,
    layout: Layout,
    written: BTreeMap<u64, Written>,
    writes: BTreeMap<u64, (u64, u8, bool)>,
    /// Flushes and the answered values when they began.
    flushes: BTreeMap<u64, BTreeMap<u64, u8>>,
    /// What failed checks say of the run.
    pub context: String,
}

impl Pair {
    /// Two formatted disks; `clean`: declared equal. Nothing runs yet.
    pub fn new(clean: bool, shards: [usize; 2]) -> Self {
        let layout = Layout::internal_sized(64 << 20, 16 << 20, 12, 4).expect("the device has room");
        let mut pair = Self {
            nodes: Default::default(),
            arbiter: Arbiter::default(),
            now: Instant(1),
            held: [false; 2],
            links: Default::default(),
            sessions: 0,
            names: 1 << 32,
            turn: 0,
            standby_serves: false,
            reads: Reads::Confirm,
            unplugged: false,
            layout,
            written: BTreeMap::new(),
            writes: BTreeMap::new(),
            flushes: BTreeMap::new(),
            context: String::new(),
        };
        for (number, shards) in shards.into_iter().enumerate() {
            pair.nodes[number].shards = shards;
            pair.format(number, clean);
        }
        pair
    }

    fn format(&mut self, number: usize, clean: bool) {
        let flags = DiskFlags { just_created: !clean, clean_shutdown: true, ..DiskFlags::default() };
        let superblock = Superblock {
            counter: 0,
            node: NodeId(number as u8),
            layout: self.layout,
            volume: [7; 16],
            volume_name: "v".into(),
            flags,
            generations: if clean { Generations::new(77) } else { Generations::default() },
            record: Record::default(),
            boot_id: [0; 16],
            identity: ScsiIdentity {
                naa: [6; 16],
                serial: "s".into(),
                iqn: "iqn.2024-01.org.example:v".into(),
            },
        };
        let pages = &mut self.nodes[number].disk.pages;
        let mut page = Box::new([0; PAGE_BYTES]);
        superblock.encode(&mut page);
        pages.insert(self.layout.superblocks[0], page.clone());
        for lane in (0..4).map(LaneId) {
            let state = LaneState::new(self.layout.lane_shape(lane));
            state.activity.encode_page(0, 0, &mut page);
            pages.insert(self.layout.activity_page_offset(lane, 0), page.clone());
            state.bitmap.encode_page(0, 0, &mut page);
            pages.insert(self.layout.bitmap_page_offset(lane, 0), page.clone());
        }
    }

    // ---- a node's life ----

    pub fn start(&mut self, number: usize) {
        let unit = self.stored_unit(number);
        let node = &mut self.nodes[number];
        assert!(node.process.is_none());
        node.starts += 1;
        let page = |at: u64| node.disk.pages.get(&at).map(|page| &**page);
        let [first, second] = self.layout.superblocks.map(page);
        let superblock = SuperblockCopies { first, second }.choose().expect("a superblock").superblock;
        let load = |lane: LaneId| {
            let mut loader = LaneLoader::new(&self.layout, lane);
            let _ = loader.on_activity_page(page(self.layout.activity_page_offset(lane, 0)));
            let _ = loader.on_bitmap_page(page(self.layout.bitmap_page_offset(lane, 0)));
            loader.finish()
        };
        let parts = (0..node.shards).map(|shard| {
            let config = PartConfig {
                shard: ShardId(shard as u8),
                shards: node.shards as u8,
                geometry: self.layout.geometry,
                hot_extents_per_lane: 1,
                resync_buffers: (0..RESYNC_BUFFERS).map(|buf| BufId(buf + shard as u32 * 10)).collect(),
                hold_limit: Some(Duration::from_secs(45)),
                mutants: Mutants::NONE,
            };
            Part::new(
                config,
                (0..4)
                    .map(LaneId)
                    .filter(|lane| usize::from(lane.0) % node.shards == shard)
                    .map(load)
                    .collect(),
            )
        });
        let config = CoordinatorConfig {
            node: NodeId(number as u8),
            shards: node.shards as u8,
            replicated: true,
            volatile_cache: true,
            boot_id: [node.boots; 16],
            peer_timeout: Duration::from_secs(1),
            standby_serves: self.standby_serves,
            reads: self.reads,
            entropy: self.names << 8 | number as u64,
            mutants: Mutants::NONE,
        };
        self.names += 1000;
        let state = unit.as_ref().map_or_else(UnitState::empty, |copy| copy.state.clone());
        let parts: Vec<Part> = parts.collect();
        let process = Process {
            coordinator: Coordinator::new(config, superblock, unit),
            units: vec![state; parts.len()],
            adopting: VecDeque::new(),
            parts,
            postures: VecDeque::new(),
            reports: VecDeque::new(),
            downs: VecDeque::new(),
            buffers: BTreeMap::new(),
            requests: BTreeMap::new(),
            allowed: false,
        };
        self.nodes[number].process = Some(process);
        self.control(number, |coordinator, now, out| coordinator.on_start(now, out));
    }

    /// The process ends; what its disk was asked and had not done is not done.
    pub fn kill(&mut self, number: usize) {
        let node = &mut self.nodes[number];
        node.process = None;
        node.serving = false;
        node.disk.queue.clear();
        self.arbiter.queue.retain(|&(asker, _, _)| asker != number);
        self.cut();
    }

    /// The machine loses its power, and the disk its cache.
    pub fn cut_power(&mut self, number: usize) {
        self.kill(number);
        let node = &mut self.nodes[number];
        node.boots += 1;
        node.disk.cache.clear();
    }

    /// The metadata page that was written last goes bad.
    pub fn spoil_newest_superblock(&mut self, number: usize) {
        let pages = &mut self.nodes[number].disk.pages;
        let page = |at: usize| pages.get(&self.layout.superblocks[at]).map(|page| &**page);
        let copies = SuperblockCopies { first: page(0), second: page(1) };
        let newest = copies.choose().expect("a superblock").superblock.copy();
        pages.remove(&self.layout.superblocks[newest]);
    }

    fn unit_page(&self, copy: usize, page: u64) -> u64 {
        self.layout.unit_state_offset(copy) + page * PAGE_BYTES as u64
    }

    /// What a start would find of the unit state.
    pub fn stored_unit(&self, number: usize) -> Option<UnitCopy> {
        let copies = [0, 1].map(|copy| {
            let pages = (0..UNIT_STATE_PAGES).map(|page| {
                let stored = self.nodes[number].disk.pages.get(&self.unit_page(copy, page));
                stored.map_or([0; PAGE_BYTES], |page| **page)
            });
            pages.flatten().collect::<Vec<u8>>()
        });
        UnitCopies { first: Some(&copies[0]), second: Some(&copies[1]) }.choose(&[7; 16]).ok()
    }

    /// A copy of the unit state goes bad.
    pub fn spoil_unit(&mut self, number: usize, copy: usize) {
        let at = self.unit_page(copy, 0);
        self.nodes[number].disk.pages.insert(at, Box::new([0xA5; PAGE_BYTES]));
    }

    /// What a shard judges by.
    pub fn unit(&self, number: usize, shard: usize) -> &UnitState {
        &self.nodes[number].process.as_ref().expect("the node runs").units[shard]
    }

    /// An initiator at a shard changes the unit state, from what the shard has.
    pub fn begin_change(&mut self, number: usize, shard: usize, bytes: &[u8]) -> u64 {
        let base = self.unit(number, shard).version;
        self.begin_change_of(number, shard, base, bytes)
    }

    pub fn begin_change_of(&mut self, number: usize, shard: usize, base: UnitVersion, bytes: &[u8]) -> u64 {
        self.names += 1;
        let id = RequestId(self.names);
        let change = UnitChange { id, origin: ShardId(shard as u8), base, bytes: bytes.into() };
        self.control(number, |coordinator, now, out| coordinator.on_unit_change(now, change, out));
        id.0
    }

    pub fn change_answer(&self, number: usize, name: u64) -> Option<UnitAnswer> {
        self.nodes[number].unit_answers.get(&name).copied()
    }

    pub fn runs(&self, number: usize) -> bool {
        self.nodes[number].process.is_some()
    }

    /// Every connection between the nodes breaks; what is under way is lost.
    pub fn cut(&mut self) {
        self.links = Default::default();
        for node in &mut self.nodes {
            if let (Some(session), Some(process)) = (node.session.take(), &mut node.process) {
                process.downs.push_back(session);
            }
        }
    }

    // ---- asking ----

    pub fn coordinator(&self, number: usize) -> &Coordinator {
        &self.nodes[number].process.as_ref().expect("the node runs").coordinator
    }

    pub fn dirty(&self, number: usize) -> u64 {
        let process = self.nodes[number].process.as_ref().expect("the node runs");
        process.parts.iter().map(|part| part.stats().dirty_blocks).sum()
    }

    /// Reads that were answered by a lease.
    pub fn leased(&self, number: usize) -> u64 {
        let process = self.nodes[number].process.as_ref().expect("the node runs");
        process.parts.iter().map(|part| part.stats().leased).sum()
    }

    pub fn is_primary(&self, number: usize) -> bool {
        self.runs(number) && self.coordinator(number).status().role == Role::Primary
    }

    /// Sends a command; the reply comes into [`Node::replies`].
    pub fn ask(&mut self, number: usize, command: OperatorCommand) -> u64 {
        self.names += 1;
        let ticket = self.names;
        self.control(number, |coordinator, now, out| {
            coordinator.on_operator(now, Ticket(ticket), command, out)
        });
        ticket
    }

    pub fn reply(&self, number: usize, ticket: u64) -> Option<Result<(), Refusal>> {
        self.nodes[number].replies.get(&ticket).copied()
    }

    /// Sends the command and runs until nothing is left to do.
    pub fn command(&mut self, number: usize, command: OperatorCommand) -> Result<(), Refusal> {
        let ticket = self.ask(number, command);
        self.run();
        self.reply(number, ticket).expect("a command is answered")
    }

    pub fn promote(&mut self, number: usize) -> Result<(), Refusal> {
        self.command(number, OperatorCommand::Promote { seed: false, i_have_fenced: None })
    }

    fn request(&mut self, number: usize, shard: usize, op: BlockOp, first: u64, data: Vec<u8>) -> u64 {
        self.request_under(number, shard, op, first, data, false)
    }

    fn request_under(
        &mut self,
        number: usize,
        shard: usize,
        op: BlockOp,
        first: u64,
        data: Vec<u8>,
        locked: bool,
    ) -> u64 {
        self.names += 1;
        let name = self.names;
        let buf = BufId(name as u32 | 1 << 31);
        let range = BlockRange::new(Lba(first), data.len() as u32);
        let process = self.nodes[number].process.as_mut().expect("the node runs");
        process.buffers.insert(buf, data);
        process.requests.insert(RequestId(name), buf);
        let slice =
            matches!(op, BlockOp::Read | BlockOp::Write { .. }).then_some(BufSlice { buf, offset: 0 });
        let request = BlockRequest { id: RequestId(name), origin: ShardId(0), op, range, buf: slice, locked };
        self.part(number, shard, |part, now, out| part.on_request(now, request, out));
        name
    }

    fn owner(&self, number: usize, lba: u64) -> usize {
        let lane = self.layout.geometry.lane_of(self.layout.geometry.extent_of(Lba(lba)));
        usize::from(lane.0) % self.nodes[number].shards
    }

    pub fn begin_write(&mut self, number: usize, lba: u64, value: u8, fua: bool) -> u64 {
        let entry = self.written.entry(lba).or_default();
        entry.open.insert(value);
        entry.issued.insert(value);
        let shard = self.owner(number, lba);
        let name = self.request(number, shard, BlockOp::Write { fua }, lba, vec![value]);
        self.writes.insert(name, (lba, value, fua));
        self.note_answer(number, name);
        name
    }

    pub fn begin_zero(&mut self, number: usize, lba: u64) -> u64 {
        let entry = self.written.entry(lba).or_default();
        entry.open.insert(0);
        let op = BlockOp::Zero { fua: false, unmap: true };
        let name = self.request(number, self.owner(number, lba), op, lba, vec![0]);
        self.writes.insert(name, (lba, 0, false));
        name
    }

    pub fn begin_lock(&mut self, number: usize, lba: u64) -> u64 {
        self.request(number, self.owner(number, lba), BlockOp::Lock, lba, vec![0])
    }

    pub fn unlock(&mut self, number: usize, lba: u64) {
        self.request(number, self.owner(number, lba), BlockOp::Unlock, lba, vec![0]);
    }

    /// A write by the one who holds the block's lock.
    pub fn begin_locked(&mut self, number: usize, lba: u64, value: u8) -> u64 {
        let entry = self.written.entry(lba).or_default();
        entry.open.insert(value);
        entry.issued.insert(value);
        let (op, shard) = (BlockOp::Write { fua: false }, self.owner(number, lba));
        let name = self.request_under(number, shard, op, lba, vec![value], true);
        self.writes.insert(name, (lba, value, false));
        self.note_answer(number, name);
        name
    }

    pub fn begin_read(&mut self, number: usize, lba: u64) -> u64 {
        self.request(number, self.owner(number, lba), BlockOp::Read, lba, vec![0])
    }

    pub fn begin_flush(&mut self, number: usize) -> u64 {
        self.begin_flush_at(number, 0)
    }

    pub fn begin_flush_at(&mut self, number: usize, shard: usize) -> u64 {
        let promised = self.written.iter().map(|(&lba, written)| (lba, written.answered)).collect();
        let name = self.request(number, shard, BlockOp::Flush, 0, Vec::new());
        self.flushes.insert(name, promised);
        name
    }

    pub fn answer(&self, number: usize, request: u64) -> Option<BlockStatus> {
        self.nodes[number].answers.get(&request).map(|answer| answer.0)
    }

    pub fn write(&mut self, number: usize, lba: u64, value: u8) {
        let request = self.begin_write(number, lba, value, false);
        self.run();
        assert_eq!(self.answer(number, request), Some(BlockStatus::Good));
    }

    pub fn read(&mut self, number: usize, lba: u64) -> u8 {
        let request = self.begin_read(number, lba);
        self.run();
        assert_eq!(self.answer(number, request), Some(BlockStatus::Good));
        self.nodes[number].answers[&request].1[0]
    }

    pub fn flush(&mut self, number: usize) {
        let request = self.begin_flush(number);
        self.run();
        assert_eq!(self.answer(number, request), Some(BlockStatus::Good));
    }

    /// Lets background flushes happen.
    pub fn pass_time(&mut self, duration: Duration) {
        self.pass_a_moment(duration);
        self.run();
    }

    /// Timers fire; what they ask for is left in the queues.
    pub fn pass_a_moment(&mut self, duration: Duration) {
        self.now = self.now + duration;
        for number in 0..2 {
            if !self.runs(number) {
                continue;
            }
            for shard in 0..self.nodes[number].shards {
                self.part(number, shard, |part, now, out| part.on_timer(now, out));
            }
            self.control(number, |coordinator, now, out| coordinator.on_timer(now, out));
        }
    }

    // ---- checking ----

    /// The node holds every answered write, or a later one that was not answered.
    pub fn check_written(&self, number: usize) {
        for (&lba, Written { answered, open, .. }) in &self.written {
            let holds = self.nodes[number].disk.block(lba);
            let good = holds == *answered || open.contains(&holds);
            assert!(good, "{}: node {number}, block {lba}: {holds}, not {answered}", self.context);
        }
    }

    pub fn check_equal(&self) {
        for &lba in self.written.keys() {
            let [first, second] = [0, 1].map(|number: usize| self.nodes[number].disk.block(lba));
            assert_eq!(first, second, "{}: block {lba} differs", self.context);
        }
    }

    fn note_answer(&mut self, number: usize, name: u64) {
        if self.answer(number, name) != Some(BlockStatus::Good) {
            return;
        }
        if let Some((lba, value, fua)) = self.writes.remove(&name) {
            let entry = self.written.get_mut(&lba).expect("it was written");
            entry.answered = value;
            entry.open.remove(&value);
            entry.flushed = if fua { value } else { entry.flushed };
        }
        for (lba, value) in self.flushes.remove(&name).into_iter().flatten() {
            let entry = self.written.get_mut(&lba).expect("it was written");
            entry.flushed = entry.flushed.max(value);
        }
    }

    /// Both machines lost their power: what no flush promised may be gone.
    pub fn lose_unflushed(&mut self) {
        for entry in self.written.values_mut() {
            entry.answered = entry.flushed;
            entry.open = entry.issued.iter().copied().filter(|&value| value > entry.flushed).collect();
        }
    }

    // ---- the machinery ----

    fn control(&mut self, number: usize, call: impl FnOnce(&mut Coordinator, Instant, &mut ControlOutbox)) {
        let mut out = Vec::new();
        let now = self.now;
        let process = self.nodes[number].process.as_mut().expect("the node runs");
        call(&mut process.coordinator, now, &mut out);
        out.into_iter().for_each(|effect| self.carry_out_control(number, effect));
    }

    fn part(&mut self, number: usize, shard: usize, call: impl FnOnce(&mut Part, Instant, &mut Outbox)) {
        let mut out = Vec::new();
        let now = self.now;
        let process = self.nodes[number].process.as_mut().expect("the node runs");
        call(&mut process.parts[shard], now, &mut out);
        out.into_iter().for_each(|effect| self.carry_out(number, shard, effect));
    }

    fn carry_out(&mut self, number: usize, shard: usize, effect: Effect) {
        let layout = self.layout;
        let node = &mut self.nodes[number];
        let process = node.process.as_mut().expect("the node runs");
        let mut queue = |op, job| node.disk.queue.push_back((Owner::Part(shard, op), job));
        match effect {
            Effect::DiskRead { op, offset, to, len } => {
                queue(op, Job::Read { first: offset >> 12, count: u64::from(len >> 12), to: to.buf });
            }
            Effect::DiskZero { op, offset, len, fua, .. } => {
                let data = vec![0; len as usize / 4096];
                let job = Job::Write { first: offset / 4096, data, fua };
                node.disk.queue.push_back((Owner::Part(shard, op), job));
            }
            Effect::DiskWrite { op, offset, from, fua, .. } => {
                let data = process.buffers[&from.buf].clone();
                queue(op, Job::Write { first: offset >> 12, data, fua });
            }
            Effect::DiskFlush { op } => {
                let begun = node.disk.order;
                node.disk.queue.push_back((Owner::Part(shard, op), Job::Flush { begun }));
            }
            Effect::MetaWrite { op, page } => {
                let mut bytes = Box::new([0; PAGE_BYTES]);
                process.parts[shard].render(page, &mut bytes);
                let at = match page {
                    MetaPage::ActivityLog { lane, page } => layout.activity_page_offset(lane, page),
                    MetaPage::Bitmap { lane, page } => layout.bitmap_page_offset(lane, page),
                };
                queue(op, Job::Page { at, bytes });
            }
            Effect::LinkSend { link, header, payload } => {
                let payload = payload.map(|(from, _)| process.buffers[&from.buf].clone());
                self.send(number, shard, link, header, payload, false);
            }
            Effect::LinkSendBytes { link, header, payload } => {
                self.send(number, shard, link, header, Some(payload), true);
            }
            Effect::LinkGive { link, header, payload, .. } => {
                let data = process.buffers.remove(&payload.buf).expect("a buffer is given once");
                self.send(number, shard, link, header, Some(data), false);
            }
            Effect::Deliver { from, completion, .. } => {
                let _ = process.requests.remove(&completion.id).expect("a request is completed once");
                let data = process.buffers.remove(&from).expect("its buffer is there");
                node.answers.insert(completion.id.0, (completion.status, data));
            }
            Effect::Complete(completion) => {
                let buf = process.requests.remove(&completion.id).expect("a request is completed once");
                let data = process.buffers.remove(&buf).expect("its buffer is there");
                node.answers.insert(completion.id.0, (completion.status, data));
                self.note_answer(number, completion.id.0);
            }
            Effect::Free(buf) => assert!(process.buffers.remove(&buf).is_some(), "a buffer is freed once"),
            Effect::Report(report) => process.reports.push_back(report),
        }
    }

    /// Something that the peer of `number` never said arrives there, before all that is under way.
    pub fn forge_control(&mut self, number: usize, message: Control) {
        self.links[1 - number].push_front(Parcel::Control(message));
    }

    /// A frame that the peer of `number` never sent arrives at shard 0 there; `data`: one block of it.
    pub fn forge_frame(&mut self, number: usize, header: FrameHeader, payload: Option<Vec<u8>>) {
        let bytes = !matches!(header.kind, FrameKind::Write | FrameKind::ResyncData);
        self.links[1 - number].push_front(Parcel::Frame { to: 0, from: 0, header, payload, bytes });
    }

    pub fn session(&self, number: usize) -> Option<SessionId> {
        self.nodes[number].session
    }

    /// Is a change of the record on its way to the arbiter?
    pub fn has_asked_for_a_change(&self) -> bool {
        self.arbiter.queue.iter().any(|(_, _, question)| matches!(question, Question::Cas(..)))
    }

    pub fn has_session(&self) -> bool {
        self.nodes.iter().all(|node| node.session.is_some())
    }

    fn send(
        &mut self,
        number: usize,
        from: usize,
        link: LinkNo,
        header: FrameHeader,
        payload: Option<Vec<u8>>,
        bytes: bool,
    ) {
        if self.nodes[number].session.is_some() {
            let to = usize::from(link.0);
            self.links[number].push_back(Parcel::Frame { to, from, header, payload, bytes });
        }
    }

    fn carry_out_control(&mut self, number: usize, effect: ControlEffect) {
        let node = &mut self.nodes[number];
        let process = node.process.as_mut().expect("the node runs");
        match effect {
            ControlEffect::Posture(posture) => {
                process.postures.extend((0..node.shards).map(|shard| (shard, posture)));
            }
            ControlEffect::Lease(lease) => process.parts.iter_mut().for_each(|part| part.on_lease(lease)),
            ControlEffect::SendControl { session, message } if node.session == Some(session) => {
                self.links[number].push_back(Parcel::Control(message));
            }
            ControlEffect::SendControl { .. } => {}
            ControlEffect::DropSession { session, .. } if node.session == Some(session) => {
                node.session = None;
                process.downs.push_back(session);
                self.links[1 - number].clear();
                self.links[number].push_back(Parcel::Close);
            }
            ControlEffect::DropSession { .. } => {}
            ControlEffect::AllowConnect(allowed) => process.allowed = allowed,
            ControlEffect::ReadRecord => self.arbiter.queue.push_back((number, node.boots, Question::Read)),
            ControlEffect::Cas { expected, proposed } => {
                self.arbiter.queue.push_back((number, node.boots, Question::Cas(expected, proposed)));
            }
            ControlEffect::WriteSuperblock { op } => {
                let mut bytes = Box::new([0; PAGE_BYTES]);
                let copy = process.coordinator.render_superblock(&mut bytes);
                let job = Job::Page { at: self.layout.superblocks[copy], bytes };
                node.disk.queue.push_back((Owner::Coordinator(op), job));
            }
            ControlEffect::DiskFlush { op } => {
                let begun = node.disk.order;
                node.disk.queue.push_back((Owner::Coordinator(op), Job::Flush { begun }));
            }
            ControlEffect::WriteUnit { op, page } => {
                let mut bytes = Box::new([0; PAGE_BYTES]);
                let copy = process.coordinator.render_unit(page, &mut bytes);
                let at = self.layout.unit_state_offset(copy) + u64::from(page) * PAGE_BYTES as u64;
                node.disk.queue.push_back((Owner::Coordinator(op), Job::Page { at, bytes }));
            }
            ControlEffect::Unit { serial, state } => {
                process.units.fill(state);
                process.adopting.extend((0..node.shards).map(|shard| (shard, serial)));
            }
            ControlEffect::UnitAnswer(completion) => {
                let old = node.unit_answers.insert(completion.id.0, completion.answer);
                assert!(old.is_none(), "a change is answered once");
            }
            ControlEffect::Serve(on) => node.serving = on,
            ControlEffect::Reply { ticket, result } => {
                assert!(node.replies.insert(ticket.0, result).is_none(), "a command is answered once");
            }
            ControlEffect::Event(_) => {}
        }
    }

    /// Runs until nothing is left that may go on.
    pub fn run(&mut self) {
        for _ in 0..200_000 {
            if !self.step() {
                return;
            }
        }
        panic!("the pair does not come to rest");
    }

    /// Carries out one thing. Returns whether there was one.
    pub fn step(&mut self) -> bool {
        const SOURCES: usize = 14;
        for offset in 0..SOURCES {
            let source = (self.turn + offset) % SOURCES;
            let done = match (source / 2, source % 2) {
                (0, number) => self.step_posture(number),
                (1, number) => self.step_report(number),
                (2, number) => self.step_disk(number),
                (3, number) => self.step_link(number),
                (4, number) => self.step_down(number),
                (5, number) => self.step_adoption(number),
                (_, 0) => self.step_arbiter(),
                _ => self.step_connect(),
            };
            if done {
                self.turn = source + 1;
                return true;
            }
        }
        false
    }

    fn step_posture(&mut self, number: usize) -> bool {
        let next = self.nodes[number].process.as_mut().and_then(|process| process.postures.pop_front());
        let Some((shard, posture)) = next else { return false };
        self.part(number, shard, |part, now, out| part.on_posture(now, posture, out));
        true
    }

    fn step_report(&mut self, number: usize) -> bool {
        let next = self.nodes[number].process.as_mut().and_then(|process| process.reports.pop_front());
        let Some(report) = next else { return false };
        self.control(number, |coordinator, now, out| coordinator.on_report(now, report, out));
        true
    }

    fn step_down(&mut self, number: usize) -> bool {
        let next = self.nodes[number].process.as_mut().and_then(|process| process.downs.pop_front());
        let Some(session) = next else { return false };
        self.control(number, |coordinator, now, out| coordinator.on_session_down(now, session, out));
        true
    }

    fn step_adoption(&mut self, number: usize) -> bool {
        let node = &mut self.nodes[number];
        let process = node.process.as_mut().filter(|_| !node.noisy);
        let Some((shard, serial)) = process.and_then(|process| process.adopting.pop_front()) else {
            return false;
        };
        let shard = ShardId(shard as u8);
        self.control(number, |coordinator, now, out| coordinator.on_unit_adopted(now, shard, serial, out));
        true
    }

    fn step_disk(&mut self, number: usize) -> bool {
        let node = &mut self.nodes[number];
        let Some(process) = node.process.as_mut().filter(|_| !node.disk.held) else { return false };
        let Some((owner, job)) = node.disk.queue.pop_front() else { return false };
        let result = node.disk.perform(job, &mut process.buffers);
        match owner {
            Owner::Part(shard, op) => {
                self.part(number, shard, |part, now, out| part.on_disk(now, op, result, out))
            }
            Owner::Coordinator(op) => {
                self.control(number, |coordinator, now, out| coordinator.on_disk(now, op, result, out));
            }
        }
        true
    }

    fn step_link(&mut self, sender: usize) -> bool {
        if self.held[sender] {
            return false;
        }
        let Some(parcel) = self.links[sender].pop_front() else { return false };
        let number = 1 - sender;
        let Some(session) = self.nodes[number].session else { return true };
        match parcel {
            Parcel::Frame { to, from, header, payload, bytes } => {
                self.names += 1;
                let buf = BufId(self.names as u32 | 1 << 31);
                let process = self.nodes[number].process.as_mut().expect("a session needs a process");
                let payload = match &payload {
                    Some(payload) if bytes => Payload::Bytes(payload),
                    Some(data) => {
                        process.buffers.insert(buf, data.clone());
                        Payload::Buf(buf)
                    }
                    None if header.kind == FrameKind::Bitmap => Payload::Bytes(&[]),
                    None if header.kind == FrameKind::ForwardRead => {
                        process.buffers.insert(buf, vec![0; header.value as usize >> 12]);
                        Payload::Buf(buf)
                    }
                    None => Payload::None,
                };
                let link = LinkNo(from as u8);
                self.part(number, to, |part, now, out| {
                    part.on_frame(now, session, link, &header, payload, out)
                });
            }
            Parcel::Control(message) => {
                let message = Control::decode(&message.encode()).expect("what is sent can be read");
                self.control(number, |coordinator, now, out| {
                    coordinator.on_control(now, session, message, out)
                });
            }
            Parcel::Close => {
                self.links[number].clear();
                self.nodes[number].session = None;
                self.nodes[number]
                    .process
                    .as_mut()
                    .expect("a session needs a process")
                    .downs
                    .push_back(session);
            }
        }
        true
    }

    fn step_arbiter(&mut self) -> bool {
        if self.arbiter.held {
            return false;
        }
        let away = self.arbiter.is_away;
        let answered = |question: &Question| !away || matches!(question, Question::Read);
        let Some(at) = self.arbiter.queue.iter().position(|(_, _, question)| answered(question)) else {
            return false;
        };
        let (number, boots, question) = self.arbiter.queue.remove(at).expect("it was found there");
        assert_eq!(self.nodes[number].boots, boots);
        let person = self.arbiter.is_person;
        match question {
            Question::Read => {
                let record = self.arbiter.record;
                let outcome = match person {
                    _ if away => RecordOutcome::Unreachable,
                    _ if self.arbiter.keeps_nothing => RecordOutcome::Own,
                    true => RecordOutcome::NeedsOperator,
                    false => RecordOutcome::Known(record),
                };
                self.control(number, |coordinator, now, out| coordinator.on_record(now, outcome, out));
            }
            Question::Cas(expected, proposed) => {
                self.arbiter.asked += 1;
                let outcome = if person {
                    CasOutcome::NeedsOperator
                } else if self.arbiter.record == expected {
                    self.arbiter.record = proposed;
                    CasOutcome::Won
                } else {
                    CasOutcome::Lost(self.arbiter.record)
                };
                self.control(number, |coordinator, now, out| coordinator.on_cas(now, outcome, out));
            }
        }
        true
    }

    /// A new session, when both want one and the old one is gone on both sides.
    fn step_connect(&mut self) -> bool {
        let free = |node: &Node| {
            let ready = |process: &Process| process.allowed && process.downs.is_empty();
            node.session.is_none() && node.process.as_ref().is_some_and(ready)
        };
        if self.unplugged || !self.nodes.iter().all(free) || self.links.iter().any(|link| !link.is_empty()) {
            return false;
        }
        self.sessions += 1;
        let session = SessionId(self.sessions);
        for number in 0..2 {
            self.nodes[number].session = Some(session);
        }
        for number in 0..2 {
            let Node { shards, starts, .. } = self.nodes[1 - number];
            let peer = PeerEnd { shards: shards as u8, life: [starts; 16] };
            self.control(number, |coordinator, now, out| coordinator.on_session_up(now, session, peer, out));
        }
        true
    }
}
