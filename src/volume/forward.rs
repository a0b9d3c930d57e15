//! Requests of an initiator that is connected to the node that follows: carried to the leader, done there like the
//! leader's own, and answered back. So every path to the volume works, and a hand-over or the loss of the leader's disk
//! need not be noticed by the initiators of the old leader (ALUA active/non-optimized, SPC-4 §5.15.2.4.5).
//!
//! The follower's side: a request is *parked*, or *forwarded* and its answer awaited. It holds no range and no log entry;
//! the leader orders it. The leader's side: a *remote* request is one of its own but for the way of the answer. It is
//! confirmed, mirrored (back to where it came from) and made stable like any other, so it needs no rule of its own:
//! frames are bound to the session, and what executes it asks at the answer whether it still leads (S1).
//!
//! Both sides count what is under way on a link ([`WINDOW`]): the leader's buffers for it can never run out, and so the
//! acknowledgements that come by the same link are never stuck behind a request that waits for a buffer.
//!
//! What becomes of a request when the leader is lost: one that was not sent, a read and a flush may be done again
//! wherever the posture leads. A write that was sent may have been done, and later writes may have been answered over it:
//! it is given up, and its initiator's connection with it, as if the connection had broken. So is a command that works
//! under a lock, because the lock went with the leader. But a write is given up only when the lost leader cannot do it
//! any more (S4): this node leads, or meets it again, in which case it dropped what came by the old session. Until then
//! the write is *in doubt*. (A leader that has not noticed yet may do it, but answers no write without this node.)

use alloc::collections::VecDeque;

use crate::arbitration::Epoch;
use crate::block::{BlockCompletion, BlockRequest, BlockStatus, BufSlice};
use crate::replication::frame::{FLAG_FUA, FLAG_LOCKED, FLAG_UNMAP, FrameHeader, FrameKind, FrameStatus};
use crate::replication::receiver::Payload;
use crate::units::{BlockRange, BufId, LaneId, RequestId, SHARDS_MAX};

use super::effect::{Effect, LinkNo, OpId, Outbox};
use super::messages::{LinkFault, LinkRole, Service};
use super::part::Part;
use super::work::{Half, Kind, Stage, Work};

/// Forwarded requests under way for one shard of the leader, over all its links.
const WINDOW: u16 = 128;
/// And those of commands that hold a lock. They wait for nobody, but others wait for them: they have room of their own.
const WINDOW_LOCKED: u16 = 64;

/// What is under way on one link, of one of the two sorts.
#[derive(Clone, Debug, Hash, Default)]
struct Flow {
    /// Follower: sent and not answered. Leader: received and not answered.
    under_way: u16,
    /// Follower: waits for room on the link, in order.
    waiting: VecDeque<u32>,
}

/// What is under way, by link and sort.
#[derive(Clone, Hash, Debug)]
pub(super) struct Forwarding {
    flows: [[Flow; 2]; SHARDS_MAX],
}

impl Default for Forwarding {
    fn default() -> Self {
        Self { flows: core::array::from_fn(|_| Default::default()) }
    }
}

impl Forwarding {
    fn flow(&mut self, link: LinkNo, locked: bool) -> &mut Flow {
        &mut self.flows[usize::from(link.0)][usize::from(locked)]
    }

    /// Is there room for one more, where `links` links (one of each of the follower's shards) end at a shard of the leader?
    fn has_room(&mut self, link: LinkNo, locked: bool, links: u8) -> bool {
        let window = if locked { WINDOW_LOCKED } else { WINDOW };
        self.flow(link, locked).under_way < (window / u16::from(links.max(1))).max(1)
    }

    fn reset(&mut self) {
        self.flows.iter_mut().flatten().for_each(|flow| flow.under_way = 0);
    }
}

/// What a [`FrameKind::ForwardOrder`] orders, in the high byte of its flags.
const ORDER_SHIFT: u16 = 8;
const ORDER_FLUSH: u16 = 1;
const ORDER_ZERO: u16 = 2;
const ORDER_LOCK: u16 = 3;
/// Not answered: what follows it on the link finds the lock gone.
const ORDER_UNLOCK: u16 = 4;

/// [`Work::number`] of a lock that the leader granted.
const GRANTED: u64 = 1;

impl Part {
    // ---- the follower's side ----

    /// Carries a request to the leader, or lets it wait for room on the link.
    pub(super) fn forward(&mut self, slot: u32, out: &mut Outbox) {
        let work = *self.works.get(slot);
        // A flush concerns no lane, and a shard may have none.
        let lane = self.lanes.get(usize::from(work.lane)).map(|lane| lane.id);
        let link = lane.map_or_else(|| self.any_link(), |lane| self.link_of(lane));
        self.works.get_mut(slot).stage = Stage::Parked;
        let room = self.forwarding.has_room(link, work.locked, self.config.shards);
        let flow = self.forwarding.flow(link, work.locked);
        if !room {
            return flow.waiting.push_back(slot);
        }
        flow.under_way += 1;
        let sequence = self.works.name(slot).0;
        self.works.get_mut(slot).stage = Stage::Forwarded;
        let len = self.config.geometry.range_bytes(work.range) as u32;
        let mut header = request_frame(&work, lane.unwrap_or(LaneId(0)), self.posture.epoch, len);
        header.sequence = sequence;
        let payload = match work.kind {
            Kind::Write { .. } => Some((work.buf.expect("writes carry a buffer"), len)),
            _ => None,
        };
        header.payload_len = payload.map_or(0, |(_, len)| len);
        out.push(Effect::LinkSend { link, header, payload });
    }

    /// The leader answers a forwarded request.
    pub(super) fn on_forward_answer(
        &mut self,
        link: LinkNo,
        header: &FrameHeader,
        data: Option<BufId>,
        out: &mut Outbox,
    ) -> Result<(), LinkFault> {
        let slot = self.works.find(OpId(header.sequence)).filter(|&slot| {
            let work = self.works.get(slot);
            let len = self.config.geometry.range_bytes(work.range) as u64;
            let fits = match data {
                Some(_) => work.kind == Kind::Read && u64::from(header.payload_len) == len,
                None => work.kind != Kind::Read || header.status != FrameStatus::Good,
            };
            work.stage == Stage::Forwarded && !work.orphan && fits
        });
        let Some(slot) = slot else {
            out.extend(data.map(Effect::Free));
            return Err(LinkFault::Protocol);
        };
        self.leave_link(link, self.works.get(slot).locked, out);
        match (header.status, data) {
            (_, Some(from)) => {
                let work = self.works.remove(slot);
                let to = work.buf.expect("reads carry a buffer");
                let completion =
                    BlockCompletion { id: work.id, origin: work.origin, status: BlockStatus::Good };
                out.push(Effect::Deliver { from, to, len: header.payload_len, completion });
            }
            (FrameStatus::Good, None) if self.works.get(slot).kind == Kind::Lock => {
                self.works.get_mut(slot).number = GRANTED;
                self.grant_lock(slot, out);
            }
            (FrameStatus::Good, None) => self.complete(slot, BlockStatus::Good, out),
            (FrameStatus::DeviceError, None) => self.complete(slot, BlockStatus::MediumError, out),
            (FrameStatus::NotReady, None) => self.complete(slot, BlockStatus::NotReady, out),
            // Not carried out: the leader is about to hand over. The next posture tells where it goes.
            (FrameStatus::Refused, None) if self.needs_its_lock(slot) => {
                self.complete(slot, BlockStatus::NotServing, out);
            }
            (FrameStatus::Refused, None) => self.park(slot, Stage::Parked),
        }
        Ok(())
    }

    /// One less is under way on the link: the next that waits for it goes.
    fn leave_link(&mut self, link: LinkNo, locked: bool, out: &mut Outbox) {
        let flow = self.forwarding.flow(link, locked);
        flow.under_way -= 1;
        if let Some(next) = flow.waiting.pop_front() {
            self.forward(next, out);
        }
    }

    /// The leader, or the way to it, is another one from now on. What was not sent is parked.
    pub(super) fn stop_forwarding(&mut self) {
        let waiting = core::mem::take(&mut self.forwarding);
        for slot in waiting.flows.into_iter().flatten().flat_map(|flow| flow.waiting) {
            self.park(slot, Stage::Parked);
        }
        for slot in 0..self.works.slots() {
            if !self.works.is_live(slot) {
                continue;
            }
            let work = *self.works.get(slot);
            if work.kind == Kind::Lock && work.number == GRANTED {
                self.works.get_mut(slot).orphan = true;
            }
            if work.stage == Stage::Forwarded {
                let again = matches!(work.kind, Kind::Read | Kind::Flush) && !work.locked;
                match again {
                    true => self.park(slot, Stage::Parked),
                    false => self.works.get_mut(slot).orphan = true,
                }
            }
        }
    }

    /// The lost leader does nothing of the old session any more: what was in doubt is given up.
    pub(super) fn give_up_doubtful(&mut self, out: &mut Outbox) {
        for slot in 0..self.works.slots() {
            let in_doubt = |work: &Work| work.stage == Stage::Forwarded && work.orphan;
            if self.works.is_live(slot) && in_doubt(self.works.get(slot)) {
                self.complete(slot, BlockStatus::NotServing, out);
            }
        }
    }

    /// Is the request part of a command that works under a lock?
    pub(super) fn needs_its_lock(&self, slot: u32) -> bool {
        let work = self.works.get(slot);
        work.locked || work.kind == Kind::Lock
    }

    /// Is the lock that a request says it has still in force, where the request would be done?
    pub(super) fn has_its_lock(&self, slot: u32) -> bool {
        let work = self.works.get(slot);
        let granted = if self.posture.forward && !work.remote { GRANTED } else { 0 };
        self.works.iter().any(|(_, lock)| {
            let in_force = lock.kind == Kind::Lock && lock.stage == Stage::Running && !lock.orphan;
            let theirs = (lock.remote, lock.origin, lock.lane) == (work.remote, work.origin, work.lane);
            in_force && theirs && lock.number == granted && lock.range.covers(work.range)
        })
    }

    /// The sender gives a lock back that the leader granted (or did, before it was lost).
    pub(super) fn unlock_at_leader(&mut self, slot: u32, request: &BlockRequest, out: &mut Outbox) {
        let lock = self.works.remove(slot);
        if !lock.orphan {
            let lane = self.lanes[usize::from(lock.lane)].id;
            let mut header = FrameHeader::new(FrameKind::ForwardOrder, lane, self.posture.epoch);
            header.flags = ORDER_UNLOCK << ORDER_SHIFT;
            header.lba = lock.range.start;
            header.blocks = lock.range.count;
            out.push(Effect::LinkSend { link: self.link_of(lane), header, payload: None });
        }
        let (id, origin) = (request.id, request.origin);
        out.push(Effect::Complete(BlockCompletion { id, origin, status: BlockStatus::Good }));
    }

    /// The node follows a leader that serves: what waits goes there.
    pub(super) fn forward_parked(&mut self, out: &mut Outbox) {
        for slot in core::mem::take(&mut self.parked) {
            assert!(self.works.get(slot).stage == Stage::Parked, "a follower's requests hold nothing");
            self.forward(slot, out);
        }
    }

    // ---- the leader's side ----

    /// A request of an initiator at the peer.
    pub(super) fn on_remote_frame(
        &mut self,
        link: LinkNo,
        header: &FrameHeader,
        payload: Payload<'_>,
        out: &mut Outbox,
    ) -> Result<(), LinkFault> {
        let buf = match payload {
            Payload::Buf(buf) => Some(buf),
            Payload::None | Payload::Bytes(_) => None,
        };
        let accepted = self.remote_work(link, header, buf);
        match accepted {
            Err(fault) => {
                out.extend(buf.map(Effect::Free));
                Err(fault)
            }
            Ok(None) => self.remote_unlock(header, out),
            Ok(Some(work)) => {
                self.forwarding.flow(link, work.locked).under_way += 1;
                let slot = self.works.insert(work);
                self.admit(slot, out);
                Ok(())
            }
        }
    }

    /// Checks a request frame. `None`: it ends a lock.
    fn remote_work(
        &mut self,
        link: LinkNo,
        header: &FrameHeader,
        buf: Option<BufId>,
    ) -> Result<Option<Work>, LinkFault> {
        let fua = header.has(FLAG_FUA);
        let bytes = u64::from(header.blocks) << self.config.geometry.block_shift;
        let (kind, announced) = match (header.kind, header.flags >> ORDER_SHIFT) {
            (FrameKind::ForwardRead, 0) => (Kind::Read, header.value),
            (FrameKind::ForwardWrite, 0) => (Kind::Write { fua }, u64::from(header.payload_len)),
            (FrameKind::ForwardOrder, ORDER_FLUSH) => (Kind::Flush, bytes),
            (FrameKind::ForwardOrder, ORDER_ZERO) => {
                (Kind::Zero { fua, unmap: header.has(FLAG_UNMAP) }, bytes)
            }
            (FrameKind::ForwardOrder, ORDER_LOCK) => (Kind::Lock, bytes),
            (FrameKind::ForwardOrder, ORDER_UNLOCK) => return Ok(None),
            _ => return Err(LinkFault::Protocol),
        };
        let range = BlockRange::new(header.lba, header.blocks);
        let flush = kind == Kind::Flush;
        let lane = if flush { Some(0) } else { self.lane_of_frame(header.lane) };
        let lane =
            lane.filter(|&lane| flush || self.lanes[usize::from(lane)].owns(range) && bytes == announced);
        let locked = header.has(FLAG_LOCKED);
        let room = self.forwarding.has_room(link, locked, self.posture.peer_shards);
        let locks = || self.works.iter().filter(|(_, work)| work.remote && work.kind == Kind::Lock).count();
        let (Some(lane), true) = (lane, room && (kind != Kind::Lock || locks() < usize::from(WINDOW))) else {
            return Err(LinkFault::Protocol);
        };
        Ok(Some(Work {
            id: RequestId(header.value),
            link,
            sequence: header.sequence,
            remote: true,
            locked,
            ..Work::new(
                kind,
                lane,
                if flush { BlockRange::default() } else { range },
                buf.map(|buf| BufSlice { buf, offset: 0 }),
            )
        }))
    }

    fn remote_unlock(&mut self, header: &FrameHeader, out: &mut Outbox) -> Result<(), LinkFault> {
        let range = BlockRange::new(header.lba, header.blocks);
        let lane = self.lane_of_frame(header.lane).ok_or(LinkFault::Protocol)?;
        let held = self.works.iter().find(|(_, work)| {
            let place = (work.kind, work.stage, work.lane) == (Kind::Lock, Stage::Running, lane);
            place && work.remote && work.range == range
        });
        let Some((slot, _)) = held else { return Err(LinkFault::Protocol) };
        self.release_range(slot, out);
        self.works.remove(slot);
        Ok(())
    }

    /// Answers a remote request and forgets it.
    pub(super) fn answer_remote(&mut self, work: &Work, status: BlockStatus, out: &mut Outbox) {
        assert!(work.remote);
        if work.orphan {
            return out.extend(work.buf.map(|slice| Effect::Free(slice.buf)));
        }
        self.forwarding.flow(work.link, work.locked).under_way -= 1;
        let lane = self.lanes.get(usize::from(work.lane)).map_or(LaneId(0), |lane| lane.id);
        let read = work.kind == Kind::Read && status == BlockStatus::Good;
        let kind = if read { FrameKind::ForwardData } else { FrameKind::ForwardAck };
        let mut header = FrameHeader::new(kind, lane, self.posture.epoch);
        header.sequence = work.sequence;
        header.value = if work.kind == Kind::Read { 0 } else { work.id.0 };
        header.status = match status {
            BlockStatus::Good => FrameStatus::Good,
            BlockStatus::MediumError => FrameStatus::DeviceError,
            BlockStatus::NotReady => FrameStatus::NotReady,
            BlockStatus::NotServing => FrameStatus::Refused,
        };
        if read {
            let len = self.config.geometry.range_bytes(work.range) as u32;
            header.payload_len = len;
            let payload = work.buf.expect("reads carry a buffer");
            return out.push(Effect::LinkGive { link: work.link, header, payload, len });
        }
        out.push(Effect::LinkSend { link: work.link, header, payload: None });
        out.extend(work.buf.map(|slice| Effect::Free(slice.buf)));
    }

    /// The session that the remote requests came by is over: none of them is answered any more.
    pub(super) fn orphan_remote_requests(&mut self) {
        self.forwarding.reset();
        for slot in 0..self.works.slots() {
            if self.works.is_live(slot) && self.works.get(slot).remote {
                self.works.get_mut(slot).orphan = true;
            }
        }
    }

    /// Orphaned requests that are not at a disk go; the others finish.
    pub(super) fn drop_orphaned_requests(&mut self, out: &mut Outbox) {
        for slot in 0..self.works.slots() {
            if !self.works.is_live(slot) || !self.works.get(slot).remote {
                continue;
            }
            let work = *self.works.get(slot);
            match (work.stage, work.kind) {
                (Stage::Running, Kind::Flush) => {
                    self.flush_waiters.retain(|&waiter| waiter != slot);
                    self.complete(slot, BlockStatus::NotServing, out);
                }
                (Stage::Running, Kind::Lock) => {
                    self.release_range(slot, out);
                    self.works.remove(slot);
                }
                (Stage::Running, _) => {}
                _ => self.give_back(slot, out),
            }
        }
    }

    // ---- holding back ----

    /// A request that has not reached a disk lets go of everything that it holds or waits for, and is put back.
    pub(super) fn give_back(&mut self, slot: u32, out: &mut Outbox) {
        let work = *self.works.get(slot);
        let lane = usize::from(work.lane);
        match work.stage {
            Stage::Parked => self.parked.retain(|&parked| parked != slot),
            Stage::Conflict => {
                let mut ready = alloc::vec::Vec::new();
                let waited = self.lanes[lane].conflicts.forget_waiting(slot, &mut ready);
                assert!(waited, "a request in conflict waits in its lane");
                self.put_back(slot, out);
                return self.run_ready(&ready, out);
            }
            Stage::Log | Stage::Ready => {
                if work.stage == Stage::Log {
                    let waited = self.lanes[lane].forget_waiter(slot);
                    assert!(waited, "a request that waits for the log is in one of the lists");
                }
                self.parked.retain(|&parked| parked != slot);
                if work.kind.is_write() && work.number == 1 {
                    self.lanes[lane].write_ends(work.range, None);
                }
                self.release_range(slot, out);
            }
            Stage::Running | Stage::Forwarded => unreachable!("it is on its way"),
        }
        self.put_back(slot, out);
    }

    /// Sends a request that holds nothing to the leader, or lets it wait for the next posture. One of the peer's goes
    /// back there.
    pub(super) fn put_back(&mut self, slot: u32, out: &mut Outbox) {
        let forward = self.posture.forward;
        let lost = self.works.get(slot).locked && !(forward && self.has_its_lock(slot));
        let unlockable = self.works.get(slot).kind == Kind::Lock && !forward;
        if self.works.get(slot).remote || lost || unlockable {
            return self.complete(slot, BlockStatus::NotServing, out);
        }
        let work = self.works.get_mut(slot);
        (work.local, work.peer, work.number) = (Half::Idle, Half::Idle, 0);
        match forward {
            true => self.forward(slot, out),
            false if self.hold.is_over() => self.complete(slot, BlockStatus::NotReady, out),
            false => self.park(slot, Stage::Parked),
        }
    }

    /// The node hands over or follows: what is at the disks finishes, everything else waits or is forwarded.
    pub(super) fn hold_back(&mut self, out: &mut Outbox) {
        assert!(self.posture.service == Service::Closed && self.posture.keeps_requests());
        // No read is answered from here.
        self.confirm_waiters.clear();
        for slot in 0..self.works.slots() {
            if !self.works.is_live(slot) || !self.works.get(slot).kind.is_request() {
                continue;
            }
            match (self.works.get(slot).stage, self.works.get(slot).kind) {
                (Stage::Running, Kind::Flush) => {
                    self.flush_waiters.retain(|&waiter| waiter != slot);
                    self.put_back(slot, out);
                }
                // Whoever holds it gives it back.
                (Stage::Running, Kind::Lock) => {}
                (Stage::Running, _) => self.try_finish(slot, out),
                (Stage::Parked, _) if !self.works.get(slot).remote => {}
                (Stage::Forwarded, _) => {}
                _ => self.give_back(slot, out),
            }
        }
    }

    /// Closed and held: how does a read or write that was at the disks end? Nothing that only one copy has is answered.
    pub(super) fn finish_held(&mut self, slot: u32, out: &mut Outbox) {
        let work = *self.works.get(slot);
        let write = work.kind.is_write();
        let lead = self.posture.link == LinkRole::Lead;
        if write && lead && work.local == Half::Done && work.peer == Half::Done {
            return self.finish(slot, BlockStatus::Good, out);
        }
        if write {
            self.end_write(slot);
        }
        self.release_range(slot, out);
        self.put_back(slot, out);
    }
}

/// The frame that carries a request to the leader, without its name there.
fn request_frame(work: &Work, lane: LaneId, epoch: Epoch, len: u32) -> FrameHeader {
    let (kind, order) = match work.kind {
        Kind::Read => (FrameKind::ForwardRead, 0),
        Kind::Write { .. } => (FrameKind::ForwardWrite, 0),
        Kind::Zero { .. } => (FrameKind::ForwardOrder, ORDER_ZERO),
        Kind::Lock => (FrameKind::ForwardOrder, ORDER_LOCK),
        _ => (FrameKind::ForwardOrder, ORDER_FLUSH),
    };
    let mut header = FrameHeader::new(kind, lane, epoch);
    let flag = |on, flag| if on { flag } else { 0 };
    header.flags = order << ORDER_SHIFT
        | flag(work.kind.fua(), FLAG_FUA)
        | flag(matches!(work.kind, Kind::Zero { unmap: true, .. }), FLAG_UNMAP)
        | flag(work.locked, FLAG_LOCKED);
    header.lba = work.range.start;
    header.blocks = work.range.count;
    header.value = if work.kind == Kind::Read { u64::from(len) } else { work.id.0 };
    header
}
