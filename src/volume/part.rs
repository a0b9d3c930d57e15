//! The part of the volume that one shard owns: its lanes, its data links, and every request to them.
//!
//! This file is the door: it takes each input, hands it to the right file, and afterwards checks what the input may
//! have set free ([`Part::settle`]). The ways of the work are in
//! - [`primary`](super::primary): initiators' requests on the serving node (hops 4 to 8 of the [crate]),
//! - [`follower`](super::follower): the peer's writes on the other node,
//! - [`forward`](super::forward): requests of initiators at the node that does not lead,
//! - [`resync`](super::resync): copying out-of-sync blocks while writes go on,
//! - [`posture`](super::posture): taking up what the coordinator says.

use alloc::vec::Vec;

use crate::arbitration::Lease;
use crate::block::{BlockCompletion, BlockRequest, BlockStatus};
use crate::replication::confirm::Confirmations;
use crate::replication::flush_group::FlushGroups;
use crate::replication::frame::{FrameHeader, FrameKind};
use crate::replication::receiver::Payload;
use crate::storage::LaneState;
use crate::time::{Duration, Instant, earliest};
use crate::units::{BufId, Geometry, LaneId, ShardId};

use super::device_watch::{DeviceWatch, Sort};
use super::effect::{DiskResult, Effect, LinkNo, MetaPage, OpId, Outbox};
use super::forward::Forwarding;
use super::hold::Hold;
use super::lane::Lane;
use super::messages::{LinkFault, LinkRole, PartReport, Posture, Service, SessionId, SyncRole};
use super::mutant::{Mutant, Mutants};
use super::patience::{Open, Patience, Takes};
use super::work::{Kind, Stage, Work, WorkSlab};

/// How long acknowledged writes may stay unstable before they are flushed in the background. It bounds how much a
/// lost peer has to resync, not what may be lost: nothing may.
const STABILITY_DELAY: Duration = Duration::from_millis(40);

/// What a part is made with.
#[derive(Clone, Hash, Debug)]
pub struct PartConfig {
    pub shard: ShardId,
    /// Shards of this node: lane `l` belongs to shard `l mod shards`.
    pub shards: u8,
    pub geometry: Geometry,
    /// Extents one lane keeps hot in the activity log (what a crashed primary resyncs at most).
    pub hot_extents_per_lane: usize,
    /// Chunk buffers for resync reads, owned by the part for good. Empty: this node cannot be a sync source.
    pub resync_buffers: Vec<BufId>,
    /// How long initiators' requests are held before they are answered NOT READY; `None`: for ever.
    pub hold_limit: Option<Duration>,
    pub mutants: Mutants,
}

/// Counters since start; sums over parts make the volume's status.
#[derive(Clone, Copy, Default, Debug)]
pub struct PartStats {
    pub reads: u64,
    pub writes: u64,
    pub read_bytes: u64,
    pub written_bytes: u64,
    /// Reads that a lease has answered.
    pub leased: u64,
    pub flushes: u64,
    pub activity_log_writes: u64,
    /// 4 KiB blocks out of sync now.
    pub dirty_blocks: u64,
    /// Blocks out of sync when the running (or last) resync began here, and bytes sent by it since.
    pub resync_blocks_total: u64,
    pub resynced_bytes: u64,
    pub requests_live: u32,
}

/// Counters say nothing of what a part will do: two that differ in them alone are one state to an explorer.
impl core::hash::Hash for PartStats {
    fn hash<H: core::hash::Hasher>(&self, _: &mut H) {}
}

/// The time of the input that is being worked on. It says nothing of what a part will do with the next one.
#[derive(Clone, Copy, Default, Debug)]
pub(super) struct Moment(pub Instant);

impl core::hash::Hash for Moment {
    fn hash<H: core::hash::Hasher>(&self, _: &mut H) {}
}

/// See the module.
#[derive(Clone, Hash, Debug)]
pub struct Part {
    pub(super) config: PartConfig,
    pub(super) lanes: Vec<Lane>,
    pub(super) works: WorkSlab,
    pub(super) posture: Posture,
    /// The posture is in force and drained; already reported.
    pub(super) settled: bool,
    pub(super) sync_clean_reported: bool,
    pub(super) flushes: FlushGroups,
    /// Requests that wait for a flush group.
    pub(super) flush_waiters: Vec<u32>,
    /// Reads that wait for the peer's confirmation.
    pub(super) confirm_waiters: Vec<u32>,
    pub(super) confirmations: Confirmations,
    /// Both copies count, and reads need no confirmation for a while.
    pub(super) lease: Option<Lease>,
    /// When the present input came.
    pub(super) now: Moment,
    /// Requests that wait until the node serves again, in order.
    pub(super) parked: Vec<u32>,
    pub(super) resync_free: Vec<BufId>,
    pub(super) fault_reported: bool,
    /// No extent can be made hot any more.
    pub(super) metadata_failed: bool,
    pub(super) stats: PartStats,
    /// Reused lists of slots that may go on.
    pub(super) ready: Vec<u32>,
    pub(super) next_background_flush: Option<Instant>,
    /// How long requests have been kept without an answer.
    pub(super) hold: Hold,
    /// Leading: whether the peer answers.
    pub(super) patience: Patience,
    /// Serving beside a peer in sync: whether the own device does.
    pub(super) device: DeviceWatch,
    /// Some lane wants a page written, room in its activity log, or a look at what became stable.
    pub(super) lanes_need_care: bool,
    /// Some lane has acknowledged writes that are not stable on both copies.
    pub(super) has_unstable: bool,
    pub(super) forwarding: Forwarding,
    /// Flushes done for the peer, to tell which resync data each covers.
    pub(super) target_flushes: u64,
}

/// [`OpId`] tags of operations that are not a slot's.
const TAG_SHIFT: u32 = 60;
const TAG_ACTIVITY_PAGE: u64 = 1;
const TAG_BITMAP_PAGE: u64 = 2;
const TAG_FLUSH: u64 = 3;

impl Part {
    /// `lanes` are this shard's lanes in ascending order, as loaded from the metadata.
    pub fn new(config: PartConfig, lanes: Vec<LaneState>) -> Self {
        let geometry = config.geometry;
        let lanes: Vec<Lane> =
            lanes.into_iter().map(|state| Lane::new(state, geometry, config.hot_extents_per_lane)).collect();
        for (index, lane) in lanes.iter().enumerate() {
            let expected = index * usize::from(config.shards) + usize::from(config.shard.0);
            assert_eq!(usize::from(lane.id.0), expected, "the shard's lanes, in order");
        }
        let resync_free = config.resync_buffers.clone();
        let hold = Hold::new(config.hold_limit);
        Self {
            config,
            lanes,
            works: WorkSlab::default(),
            posture: Posture::START,
            settled: true,
            sync_clean_reported: false,
            flushes: FlushGroups::default(),
            flush_waiters: Vec::new(),
            confirm_waiters: Vec::new(),
            confirmations: Confirmations::default(),
            lease: None,
            now: Moment::default(),
            parked: Vec::new(),
            resync_free,
            fault_reported: false,
            metadata_failed: false,
            stats: PartStats::default(),
            ready: Vec::new(),
            next_background_flush: None,
            hold,
            patience: Patience::default(),
            device: DeviceWatch::default(),
            lanes_need_care: true,
            has_unstable: false,
            forwarding: Forwarding::default(),
            target_flushes: 0,
        }
    }

    // ---- inputs ----

    /// An initiator's request for one of this shard's lanes (any lane for a flush).
    pub fn on_request(&mut self, now: Instant, request: BlockRequest, out: &mut Outbox) {
        self.now = Moment(now);
        self.accept_request(request, out);
        self.settle(now, out);
    }

    /// The local device finished an operation of this part.
    pub fn on_disk(&mut self, now: Instant, op: OpId, result: DiskResult, out: &mut Outbox) {
        self.now = Moment(now);
        let read = op.0 >> TAG_SHIFT == 0 && self.is_read(op);
        self.device.on_answer(if read { Sort::Read } else { Sort::Other });
        match op.0 >> TAG_SHIFT {
            TAG_ACTIVITY_PAGE | TAG_BITMAP_PAGE => self.on_page_written(op, result, out),
            TAG_FLUSH => self.on_flushed(result, out),
            _ => self.on_data(op, result, out),
        }
        self.settle(now, out);
    }

    /// A frame came in over data link `link` of `session`.
    pub fn on_frame(
        &mut self,
        now: Instant,
        session: SessionId,
        link: LinkNo,
        header: &FrameHeader,
        payload: Payload<'_>,
        out: &mut Outbox,
    ) {
        self.now = Moment(now);
        let current = self.posture.session == Some(session);
        if !current || self.posture.link == LinkRole::Off {
            // A straggler of a session that is over.
            if let Payload::Buf(buf) = payload {
                out.push(Effect::Free(buf));
            }
            return;
        }
        let handled = match self.posture.link {
            LinkRole::Lead => {
                self.patience.on_answer(link, header.kind);
                self.on_answer(now, link, header, payload, out)
            }
            LinkRole::Follow => self.on_order(now, link, header, payload, out),
            LinkRole::Off => unreachable!("looked at above"),
        };
        if let Err(fault) = handled {
            self.report_link_fault(fault, out);
        }
        self.settle(now, out);
    }

    /// The coordinator has decided.
    pub fn on_posture(&mut self, now: Instant, posture: Posture, out: &mut Outbox) {
        self.now = Moment(now);
        self.take_up(now, posture, out);
        self.settle(now, out);
    }

    /// The peer has granted a lease. Of what was granted before, only the end is moved.
    pub fn on_lease(&mut self, lease: Lease) {
        let wanted = self.posture.service == Service::Both && self.posture.session == Some(lease.session);
        if wanted && self.lease.is_none_or(|old| old.until < lease.until) {
            self.lease = Some(lease);
        }
    }

    /// Does an answer depend on the time that comes with an input? Then it must be the time of that very input.
    pub fn reads_clock(&self) -> bool {
        self.lease.is_some()
    }

    /// [`Part::deadline`] has passed.
    pub fn on_timer(&mut self, now: Instant, out: &mut Outbox) {
        self.now = Moment(now);
        if self.next_background_flush.is_some_and(|at| at <= now) {
            self.next_background_flush = None;
            self.flushes.want();
        }
        if self.hold.take_end(now) {
            self.end_hold(out);
        }
        if self.patience.deadline().is_some_and(|at| at <= now) {
            let open = self.unanswered();
            if self.patience.check(now, open) {
                self.report_link_fault(LinkFault::Unanswered, out);
            }
        }
        if self.device.deadline().is_some_and(|at| at <= now) && self.check_device(now) {
            out.push(Effect::Report(PartReport::DiskHangs { shard: self.config.shard }));
        }
        self.settle(now, out);
    }

    fn is_read(&self, op: OpId) -> bool {
        self.works.find(op).is_some_and(|slot| matches!(self.works.get(slot).kind, Kind::Read | Kind::Resync))
    }

    /// Does the own device hang?
    fn check_device(&mut self, now: Instant) -> bool {
        let sort = |kind| if matches!(kind, Kind::Read | Kind::Resync) { Sort::Read } else { Sort::Other };
        let at_disk = self.works.iter().filter(|(_, work)| work.on_disk());
        let works = at_disk.map(|(slot, work)| (self.works.name(slot).0, sort(work.kind)));
        let flush = self.flushes.is_running_here().then_some((TAG_FLUSH << TAG_SHIFT, Sort::Other));
        let pages = self.lanes.iter().filter(|lane| lane.writes_pages());
        let pages = pages.map(|lane| (TAG_BITMAP_PAGE << TAG_SHIFT | u64::from(lane.id.0), Sort::Other));
        // Of these only the silence of all counts: one may follow the other under the same name.
        let hurried = flush.into_iter().chain(pages).map(|(_, sort)| (now.0 | 1 << 63, sort));
        let running: Vec<(u64, Sort)> = works.chain(hurried).collect();
        self.device.check(now, running.into_iter())
    }

    pub fn deadline(&self) -> Option<Instant> {
        let watches = earliest(self.patience.deadline(), self.device.deadline());
        earliest(earliest(self.next_background_flush, self.hold.deadline()), watches)
    }

    /// Links on which the peer owes an answer.
    fn unanswered(&self) -> Open {
        let mut open = [0; 2];
        let mut owe = |takes: Takes, link: LinkNo| open[takes as usize] |= 1 << link.0;
        if self.flushes.waits_for_peer() {
            owe(Takes::Device, self.any_link());
        }
        if self.confirmations.under_way().is_some() {
            owe(Takes::Word, self.any_link());
        }
        for (_, work) in self.works.iter().filter(|(_, work)| work.peer == Half::Pending) {
            owe(Takes::Device, self.link_of(self.lanes[usize::from(work.lane)].id));
        }
        for lane in self.lanes.iter().filter(|lane| lane.sync.awaits_bitmap()) {
            owe(Takes::Word, self.link_of(lane.id));
        }
        open
    }

    /// The bytes of a page named by [`Effect::MetaWrite`], as they are at this moment.
    pub fn render(&self, page: MetaPage, bytes: &mut [u8; 4096]) {
        let (MetaPage::ActivityLog { lane, .. } | MetaPage::Bitmap { lane, .. }) = page;
        self.lanes[usize::from(self.lane_index(lane))].render(page, bytes);
    }

    pub fn stats(&self) -> PartStats {
        let dirty_blocks = self.lanes.iter().map(Lane::dirty_blocks).sum();
        PartStats { dirty_blocks, requests_live: self.works.live(), ..self.stats }
    }

    pub fn posture(&self) -> &Posture {
        &self.posture
    }

    pub fn lanes(&self) -> &[Lane] {
        &self.lanes
    }

    // ---- after every input ----

    /// Does what the input made possible, and reports what the coordinator waits for.
    fn settle(&mut self, now: Instant, out: &mut Outbox) {
        // Serving in the steady state, with every extent hot, there is nothing to look after in the lanes.
        if self.lanes_need_care
            || self.posture.service == Service::Closed
            || self.posture.sync != SyncRole::None
        {
            self.lanes_need_care = false;
            self.make_room(out);
            self.pump_resync(out);
            self.pump_flush(now, out);
            self.pump_pages(out);
        } else {
            self.pump_flush(now, out);
        }
        if !self.posture.answers() || self.hold.is_over() {
            self.hold.note(now, self.keeps_requests());
        }
        if !self.settled && self.has_settled() {
            self.settled = true;
            let (shard, serial) = (self.config.shard, self.posture.serial);
            let dirty_blocks = self.lanes.iter().map(Lane::dirty_blocks).sum();
            out.push(Effect::Report(PartReport::Settled { shard, serial, dirty_blocks }));
        }
    }

    /// Is some request kept without an answer, or would one be that came now?
    fn keeps_requests(&self) -> bool {
        match self.posture.service {
            Service::Held => true,
            // What is at the leader is for the leader to end.
            Service::Closed if self.posture.forward => !self.parked.is_empty(),
            Service::Closed => self.posture.hold,
            Service::Standalone | Service::Alone | Service::Both => false,
        }
    }

    fn has_settled(&self) -> bool {
        let (hold, forward) = (self.posture.hold, self.posture.forward);
        let stays = |work: &Work| match work.stage {
            Stage::Parked => hold || forward,
            Stage::Forwarded => forward || work.orphan,
            Stage::Running => work.is_granted_by_leader(),
            _ => false,
        };
        let requests_gone = || !self.works.iter().any(|(_, work)| work.kind.is_request() && !stays(work));
        let orphans_gone = || !self.works.iter().any(|(_, work)| work.orphan && !stays(work));
        // A flush that is under way may still fail, and lose what the coordinator's next flush would vouch for.
        let disk_quiet =
            || !self.flushes.is_running_here() && !self.works.iter().any(|(_, work)| work.on_disk());
        match self.posture.service {
            Service::Standalone | Service::Alone | Service::Both => true,
            Service::Held => disk_quiet(),
            Service::Closed if self.posture.wind_down => {
                requests_gone() && disk_quiet() && orphans_gone() && self.is_wound_down()
            }
            Service::Closed => {
                requests_gone() && orphans_gone() && (self.posture.link != LinkRole::Off || disk_quiet())
            }
        }
    }

    fn is_wound_down(&self) -> bool {
        // A confirmation that came back after the hand-over would be an answer to one who follows.
        !self.flushes.is_running()
            && self.confirmations.under_way().is_none()
            && self.lanes.iter().all(|lane| lane.is_wound_down() && !lane.has_unstable())
    }

    /// Turns extents cold where a write waits for room, and all of them when the node does not serve.
    fn make_room(&mut self, out: &mut Outbox) {
        let stable = self.flushes.stable();
        let closed = self.posture.service == Service::Closed
            && matches!(self.posture.sync, SyncRole::None)
            && (self.posture.wind_down || self.posture.link != LinkRole::Lead);
        for index in 0..self.lanes.len() {
            let lane = &mut self.lanes[index];
            if lane.wants_room() || (closed && lane.hot_count() > 0) {
                if lane.evict(stable, closed) {
                    self.flushes.want();
                }
                let mut ready = core::mem::take(&mut self.ready);
                self.lanes[index].take_room_waiters(&mut ready);
                for slot in ready.drain(..) {
                    self.begin_write(slot, out);
                }
                self.ready = ready;
            }
            self.lanes_need_care |= self.lanes[index].wants_room();
        }
    }

    /// Begins the page writes that the lanes want.
    fn pump_pages(&mut self, out: &mut Outbox) {
        for (index, lane) in self.lanes.iter_mut().enumerate() {
            let stats = &mut self.stats;
            lane.pump_pages(|page| {
                let (tag, number) = match page {
                    MetaPage::ActivityLog { page, .. } => (TAG_ACTIVITY_PAGE, page),
                    MetaPage::Bitmap { page, .. } => (TAG_BITMAP_PAGE, page),
                };
                stats.activity_log_writes += u64::from(tag == TAG_ACTIVITY_PAGE);
                let op = OpId(tag << TAG_SHIFT | (index as u64) << 32 | u64::from(number));
                out.push(Effect::MetaWrite { op, page });
            });
        }
    }

    fn on_page_written(&mut self, op: OpId, result: DiskResult, out: &mut Outbox) {
        if result == DiskResult::Error {
            // Without metadata nothing may be promised any more. What waits for the page goes on waiting until the
            // coordinator has taken the node out of service; there is no other copy to wait for if it is alone.
            self.metadata_failed = true;
            self.report_disk_fault(out);
            return self.fail_log_waiters(out);
        }
        let index = (op.0 >> 32 & 0xFFFF) as usize;
        let number = op.0 as u32;
        let lane = self.lanes[index].id;
        let page = if op.0 >> TAG_SHIFT == TAG_ACTIVITY_PAGE {
            MetaPage::ActivityLog { lane, page: number }
        } else {
            MetaPage::Bitmap { lane, page: number }
        };
        self.lanes_need_care = true;
        let mut ready = core::mem::take(&mut self.ready);
        self.lanes[index].on_page_written(page, self.flushes.stable(), &mut ready);
        for slot in ready.drain(..) {
            self.issue_write(slot, out);
        }
        self.ready = ready;
    }

    // ---- flush groups ----

    /// Flushes both devices when somebody waits for it, or when writes have been unstable for long enough.
    fn pump_flush(&mut self, now: Instant, out: &mut Outbox) {
        let mirrored = self.posture.link == LinkRole::Lead;
        if self.posture.service == Service::Held && !mirrored {
            return;
        }
        let unstable = self.has_unstable;
        if self.posture.wind_down && unstable {
            self.flushes.want();
        }
        if let Some(group) = self.flushes.begin(mirrored) {
            self.next_background_flush = None;
            out.push(Effect::DiskFlush { op: OpId(TAG_FLUSH << TAG_SHIFT | group & 0xFFFF_FFFF) });
            if mirrored {
                if self.config.mutants.has(Mutant::FlushLocalOnly) {
                    let _ = self.flushes.on_peer(group);
                } else {
                    let mut header = FrameHeader::new(FrameKind::Flush, LaneId(0), self.posture.epoch);
                    header.value = group;
                    out.push(Effect::LinkSend { link: self.any_link(), header, payload: None });
                }
            }
        } else if mirrored && unstable && !self.flushes.is_running() && self.next_background_flush.is_none() {
            self.next_background_flush = Some(now + STABILITY_DELAY);
        }
    }

    fn on_flushed(&mut self, result: DiskResult, out: &mut Outbox) {
        if result == DiskResult::Error {
            // A failed flush loses what it should have kept, and a retry may lie about it: the device is lost.
            self.report_disk_fault(out);
            return;
        }
        if let Some(group) = self.flushes.on_local() {
            self.on_stable(group, out);
        }
    }

    /// Everything up to `group` is stable on both copies (or on the only one).
    pub(super) fn on_stable(&mut self, group: u64, out: &mut Outbox) {
        for lane in &mut self.lanes {
            lane.on_stable(group);
        }
        self.has_unstable = self.lanes.iter().any(Lane::has_unstable);
        self.lanes_need_care = true;
        self.on_resync_stable(group);
        // Losing the peer can end a flush group too: whether that counts is for the posture to say.
        let serves = !matches!(self.posture.service, Service::Held | Service::Closed);
        let mut waiters = core::mem::take(&mut self.flush_waiters);
        waiters.retain(|&slot| {
            let wait = self.works.get(slot).number > group || !serves;
            if !wait {
                self.stats.flushes += 1;
                self.complete(slot, BlockStatus::Good, out);
            }
            wait
        });
        self.flush_waiters = waiters;
    }

    // ---- shared by the ways ----

    /// Answers a request and forgets it. Its range must have been given back.
    pub(super) fn complete(&mut self, slot: u32, status: BlockStatus, out: &mut Outbox) {
        let work = self.works.remove(slot);
        assert!(work.kind.is_request());
        if work.remote {
            return self.answer_remote(&work, status, out);
        }
        out.push(Effect::Complete(BlockCompletion { id: work.id, origin: work.origin, status }));
    }

    /// Gives the range of `slot` back and lets those go on that waited for it.
    pub(super) fn release_range(&mut self, slot: u32, out: &mut Outbox) {
        let work = self.works.get(slot);
        if work.locked {
            return;
        }
        let lane = usize::from(work.lane);
        let mut ready = Vec::new();
        self.lanes[lane].conflicts.release(slot, &mut ready);
        self.run_ready(&ready, out);
    }

    pub(super) fn run_ready(&mut self, ready: &[u32], out: &mut Outbox) {
        for &slot in ready {
            match self.works.get(slot).kind {
                Kind::Read | Kind::Write { .. } | Kind::Zero { .. } | Kind::Lock => self.begin(slot, out),
                Kind::PeerWrite { .. } | Kind::PeerZero { .. } | Kind::PeerResync => self.apply(slot, out),
                Kind::Resync => self.resync_read(slot, out),
                Kind::Flush | Kind::PeerFlush { .. } => unreachable!("flushes hold no range"),
            }
        }
    }

    fn on_data(&mut self, op: OpId, result: DiskResult, out: &mut Outbox) {
        // Slots outlive their disk operations, so the name is always current.
        let slot = self.works.find(op).expect("a disk operation belongs to a live slot");
        let work = self.works.get_mut(slot);
        assert!(work.local == Half::Pending, "the disk answers once");
        work.local = if result == DiskResult::Good { Half::Done } else { Half::Failed };
        match work.kind {
            Kind::Read | Kind::Write { .. } | Kind::Zero { .. } => self.on_request_disk(slot, out),
            Kind::PeerWrite { .. } | Kind::PeerZero { .. } | Kind::PeerResync | Kind::PeerFlush { .. } => {
                self.on_applied(slot, out)
            }
            Kind::Resync => self.on_resync_read(slot, out),
            Kind::Flush | Kind::Lock => unreachable!("flushes are flush groups, and a lock is no operation"),
        }
    }

    /// The part's own number of a lane. The lane must be this shard's.
    pub(super) fn lane_index(&self, lane: LaneId) -> u16 {
        let shards = u16::from(self.config.shards);
        assert_eq!(lane.0 % shards, u16::from(self.config.shard.0), "the lane belongs to this shard");
        lane.0 / shards
    }

    /// Data link that joins a lane to its owner at the peer.
    pub(super) fn link_of(&self, lane: LaneId) -> LinkNo {
        LinkNo((lane.0 % u16::from(self.posture.peer_shards)) as u8)
    }

    /// Some data link of this shard, for what concerns the peer's whole device.
    pub(super) fn any_link(&self) -> LinkNo {
        let lane = self.lanes.first().map_or(LaneId(u16::from(self.config.shard.0)), |lane| lane.id);
        self.link_of(lane)
    }

    pub(super) fn report_link_fault(&mut self, fault: LinkFault, out: &mut Outbox) {
        let Some(session) = self.posture.session else { return };
        out.push(Effect::Report(PartReport::LinkFault { shard: self.config.shard, session, fault }));
    }

    pub(super) fn report_disk_fault(&mut self, out: &mut Outbox) {
        if !core::mem::replace(&mut self.fault_reported, true) {
            out.push(Effect::Report(PartReport::DiskFault { shard: self.config.shard }));
        }
    }

    /// The stage of a slot that waits for nothing but leave to go.
    pub(super) fn park(&mut self, slot: u32, stage: Stage) {
        assert!(matches!(stage, Stage::Parked | Stage::Ready));
        self.works.get_mut(slot).stage = stage;
        self.parked.push(slot);
    }
}

use super::work::Half;
