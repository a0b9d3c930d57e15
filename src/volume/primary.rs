//! Initiators' requests on the node that serves (hops 4 to 8 of the [crate]).
//!
//! A write: its range, then its extent hot on disk, then the local disk and the peer at the same time, then the answer
//! when both have it. A read: its range, then the local disk and, beside it, the peer's confirmation that this node
//! still leads; where reads are leased (R5), a look at the clock beside the answer instead. A flush: both devices, begun after it came.

use crate::arbitration::lease::{GRANTED_FOR, LAPSE_MARGIN, USED_FOR};
use crate::arbitration::{Epoch, Lease};
use crate::block::{BlockCompletion, BlockOp, BlockRequest, BlockStatus};
use crate::replication::conflict_set::Access;
use crate::replication::flush_group::NotBegun;
use crate::replication::frame::{FLAG_FUA, FLAG_UNMAP, FrameHeader, FrameKind, FrameStatus};
use crate::replication::receiver::Payload;
use crate::time::{Duration, Instant};
use crate::units::LaneId;

use super::effect::{Effect, LinkNo, OpId, Outbox};
use super::lane::Touch;
use super::messages::{LinkFault, LinkRole, Service};
use super::mutant::Mutant;
use super::part::Part;
use super::work::{Half, Kind, Stage, Work};

/// [`Work::number`] of a read whose confirmation was not asked for.
pub(super) const UNASKED: u64 = u64::MAX;
/// And of one that a planted bug wants no confirmation for.
const LONG_CONFIRMED: u64 = 0;

impl Part {
    pub(super) fn accept_request(&mut self, request: BlockRequest, out: &mut Outbox) {
        let (kind, lane) = match request.op {
            BlockOp::Read => (Kind::Read, self.lane_of(request.range.start)),
            BlockOp::Write { fua } => (Kind::Write { fua }, self.lane_of(request.range.start)),
            BlockOp::Zero { fua, unmap } => (Kind::Zero { fua, unmap }, self.lane_of(request.range.start)),
            BlockOp::Lock => (Kind::Lock, self.lane_of(request.range.start)),
            BlockOp::Flush => (Kind::Flush, 0),
            BlockOp::Unlock => return self.unlock(&request, out),
        };
        if kind != Kind::Flush {
            assert!(
                self.lanes[usize::from(lane)].owns(request.range),
                "requests are cut and checked by the target"
            );
        }
        let has_data = matches!(kind, Kind::Read | Kind::Write { .. });
        assert!(has_data == request.buf.is_some(), "reads and writes carry a buffer, and nothing else does");
        let work = Work {
            id: request.id,
            origin: request.origin,
            locked: request.locked,
            ..Work::new(kind, lane, request.range, request.buf)
        };
        let slot = self.works.insert(work);
        self.admit(slot, out);
    }

    /// A new request: where does the posture send it?
    pub(super) fn admit(&mut self, slot: u32, out: &mut Outbox) {
        let open = self.posture.service != Service::Closed;
        let work = self.works.get(slot);
        if open && work.locked && !self.has_its_lock(slot) {
            // It was granted elsewhere, or is of a session that is over.
            return self.complete(slot, BlockStatus::NotServing, out);
        }
        match self.posture.service {
            Service::Closed if self.posture.keeps_requests() => self.put_back(slot, out),
            Service::Closed => self.complete(slot, BlockStatus::NotServing, out),
            Service::Held if self.hold.is_over() => self.complete(slot, BlockStatus::NotReady, out),
            Service::Held => self.park(slot, Stage::Parked),
            Service::Standalone | Service::Alone | Service::Both => self.start(slot, out),
        }
    }

    /// Ends a lock and lets those go on that waited for it.
    fn unlock(&mut self, request: &BlockRequest, out: &mut Outbox) {
        let lane = self.lane_of(request.range.start);
        let held = self.works.iter().find(|(_, work)| {
            let place = (work.kind, work.stage, work.lane) == (Kind::Lock, Stage::Running, lane);
            place && !work.remote && (work.range, work.origin) == (request.range, request.origin)
        });
        let (slot, lock) = held.expect("a lock is given back once, by the one that took it");
        if lock.is_granted_by_leader() {
            return self.unlock_at_leader(slot, request, out);
        }
        self.release_range(slot, out);
        self.works.remove(slot);
        let (id, origin) = (request.id, request.origin);
        out.push(Effect::Complete(BlockCompletion { id, origin, status: BlockStatus::Good }));
    }

    fn lane_of(&self, lba: crate::units::Lba) -> u16 {
        let geometry = &self.config.geometry;
        self.lane_index(geometry.lane_of(geometry.extent_of(lba)))
    }

    /// First look at a request while the node serves.
    pub(super) fn start(&mut self, slot: u32, out: &mut Outbox) {
        let work = *self.works.get(slot);
        if work.kind == Kind::Flush {
            self.works.get_mut(slot).stage = Stage::Running;
            self.works.get_mut(slot).number = self.flushes.want();
            self.flush_waiters.push(slot);
            return;
        }
        if work.kind == Kind::Lock && self.config.mutants.has(Mutant::LooseLock) {
            self.works.get_mut(slot).locked = true;
            return self.begin(slot, out);
        }
        if work.locked {
            return self.begin(slot, out);
        }
        let mutants = self.config.mutants;
        let unordered = mutants.has(Mutant::UnorderedOverlap) || mutants.has(Mutant::DirtyRead);
        let side_by_side = work.kind == Kind::Read || unordered;
        let access = if side_by_side { Access::Shared } else { Access::Exclusive };
        if self.lanes[usize::from(work.lane)].conflicts.admit(slot, work.range, access) {
            self.begin(slot, out);
        } else {
            self.works.get_mut(slot).stage = Stage::Conflict;
        }
    }

    /// The request has its range.
    pub(super) fn begin(&mut self, slot: u32, out: &mut Outbox) {
        match self.posture.service {
            Service::Held => return self.park(slot, Stage::Ready),
            Service::Closed => return self.turn_back(slot, out),
            Service::Standalone | Service::Alone | Service::Both => {}
        }
        match self.works.get(slot).kind {
            Kind::Read => self.issue_read(slot, out),
            Kind::Lock => self.grant_lock(slot, out),
            _ => self.begin_write(slot, out),
        }
    }

    /// The range is the sender's. The slot stays until it is unlocked.
    pub(super) fn grant_lock(&mut self, slot: u32, out: &mut Outbox) {
        let work = self.works.get_mut(slot);
        work.stage = Stage::Running;
        let work = *work;
        if work.remote {
            return self.answer_remote(&work, BlockStatus::Good, out);
        }
        let (id, origin) = (work.id, work.origin);
        out.push(Effect::Complete(BlockCompletion { id, origin, status: BlockStatus::Good }));
    }

    fn issue_read(&mut self, slot: u32, out: &mut Outbox) {
        let op = self.works.name(slot);
        let len = self.config.geometry.range_bytes(self.works.get(slot).range) as u32;
        let work = self.works.get_mut(slot);
        work.stage = Stage::Running;
        work.local = Half::Pending;
        let to = work.buf.expect("reads carry a buffer");
        out.push(Effect::DiskRead { op, offset: self.config.geometry.offset(work.range.start), to, len });
        self.stats.reads += 1;
        self.stats.read_bytes += u64::from(len);
        if self.posture.service == Service::Both {
            match self.lease {
                Some(_) if self.is_leased(LAPSE_MARGIN) => {
                    let early = self.config.mutants.has(Mutant::EarlyLease);
                    self.works.get_mut(slot).number = if early { LONG_CONFIRMED } else { UNASKED };
                }
                _ => self.ask_confirmation(slot, out),
            }
        }
    }

    /// R4, R5: may reads be answered without asking the peer, for `margin` more at least?
    fn is_leased(&self, margin: Duration) -> bool {
        let Some(lease) = self.lease else { return false };
        let mutants = self.config.mutants;
        let unused = if mutants.has(Mutant::WholeGrant) { GRANTED_FOR - USED_FOR } else { Duration::ZERO };
        let lease = Lease { until: lease.until + unused, ..lease };
        lease.covers(self.posture.session, self.now.0 + margin) || mutants.has(Mutant::StaleLease)
    }

    pub(super) fn ask_confirmation(&mut self, slot: u32, out: &mut Outbox) {
        let under_way =
            self.confirmations.under_way().filter(|_| self.config.mutants.has(Mutant::EarlyConfirm));
        let (number, begin) = under_way.map_or_else(|| self.confirmations.want(), |number| (number, false));
        self.works.get_mut(slot).number = number;
        if begin {
            self.send_confirm(number, out);
        }
    }

    fn send_confirm(&self, number: u64, out: &mut Outbox) {
        let mut header = FrameHeader::new(FrameKind::Confirm, LaneId(0), self.posture.epoch);
        header.value = number;
        out.push(Effect::LinkSend { link: self.any_link(), header, payload: None });
    }

    /// The write has its range; its extent must be hot on disk before anything of it leaves.
    pub(super) fn begin_write(&mut self, slot: u32, out: &mut Outbox) {
        let work = *self.works.get(slot);
        if self.posture.service == Service::Standalone {
            return self.issue_write(slot, out);
        }
        if self.metadata_failed && self.posture.service == Service::Alone {
            return self.refuse_holder(slot, BlockStatus::MediumError, out);
        }
        let skip = self.config.mutants.has(Mutant::SkipActivityLogWait);
        let lane = &mut self.lanes[usize::from(work.lane)];
        match lane.touch(work.range) {
            Touch::Full => {
                self.lanes_need_care = true;
                lane.wait_for_room(slot);
                self.works.get_mut(slot).stage = Stage::Log;
                return;
            }
            Touch::Wait { page, write } if !skip => {
                self.lanes_need_care = true;
                lane.write_begins(work.range);
                lane.wait_for_log(slot, page, write);
                self.works.get_mut(slot).stage = Stage::Log;
                self.works.get_mut(slot).number = 1;
                return;
            }
            Touch::Hot => lane.write_begins(work.range),
            Touch::Wait { .. } => {
                self.lanes_need_care = true;
                lane.write_begins(work.range);
            }
        }
        self.works.get_mut(slot).number = 1;
        self.issue_write(slot, out);
    }

    /// The write's extent is hot on disk (`number == 1`: the write is counted there): both copies, at once.
    pub(super) fn issue_write(&mut self, slot: u32, out: &mut Outbox) {
        match self.posture.service {
            Service::Held => return self.park(slot, Stage::Ready),
            Service::Closed => return self.turn_back(slot, out),
            Service::Standalone | Service::Alone | Service::Both => {}
        }
        let op = self.works.name(slot);
        let geometry = self.config.geometry;
        let (service, epoch) = (self.posture.service, self.posture.epoch);
        let write_through = self.posture.write_through;
        let mirrored = self.posture.link == LinkRole::Lead;
        assert!(mirrored || service != Service::Both, "both copies means a link");
        let work = self.works.get_mut(slot);
        assert!(work.kind.is_write());
        let asked = work.kind.fua();
        work.stage = Stage::Running;
        work.local = Half::Pending;
        let here_only = work.buf.is_none() && self.config.mutants.has(Mutant::ZeroHereOnly);
        work.peer = match mirrored {
            true if here_only => Half::Done,
            true => Half::Pending,
            false => Half::Idle,
        };
        work.epoch = epoch;
        let work = *work;
        let len = geometry.range_bytes(work.range) as u32;
        let lane = &mut self.lanes[usize::from(work.lane)];
        if service == Service::Alone && !mirrored {
            lane.mark_out_of_sync(work.range);
        }
        // Alone, write through: nobody else has it (D3).
        let fua = asked || service == Service::Alone || write_through;
        let offset = geometry.offset(work.range.start);
        let lane = lane.id;
        out.push(match (work.kind, work.buf) {
            (Kind::Zero { unmap, .. }, _) => Effect::DiskZero { op, offset, len, fua, unmap, tag: work.id.0 },
            (_, from) => {
                let from = from.expect("writes carry a buffer");
                Effect::DiskWrite { op, offset, from, len, fua }
            }
        });
        if mirrored && !here_only {
            let mut header = write_frame(&work, lane, epoch);
            header.sequence = op.0;
            header.payload_len = if work.buf.is_some() { len } else { 0 };
            let payload = work.buf.map(|from| (from, len));
            out.push(Effect::LinkSend { link: self.link_of(lane), header, payload });
        }
        self.stats.writes += 1;
        self.stats.written_bytes += u64::from(len);
    }

    pub(super) fn on_request_disk(&mut self, slot: u32, out: &mut Outbox) {
        if self.works.get(slot).local == Half::Failed {
            self.report_disk_fault(out);
        }
        self.try_finish(slot, out);
    }

    /// Answers a running read or write if nothing is missing any more. The question whether this node may answer is
    /// asked here, beside the answer (S1).
    pub(super) fn try_finish(&mut self, slot: u32, out: &mut Outbox) {
        let work = *self.works.get(slot);
        if work.local == Half::Pending {
            return;
        }
        let status = match self.posture.service {
            Service::Held if self.hold.is_over() => BlockStatus::NotReady,
            Service::Held => return,
            Service::Closed if self.posture.wind_down && work.peer == Half::Pending => return,
            Service::Closed if self.posture.keeps_requests() => return self.finish_held(slot, out),
            Service::Closed => BlockStatus::NotServing,
            // The only copy failed.
            Service::Standalone | Service::Alone if work.local == Half::Failed => BlockStatus::MediumError,
            Service::Standalone => BlockStatus::Good,
            Service::Alone if work.peer == Half::Pending => return,
            Service::Alone => BlockStatus::Good,
            // The other copy is good: the coordinator hands the service over, the initiator sees no error.
            Service::Both if work.local == Half::Failed => return,
            // A device that failed a flush may have dropped what it had answered: it is not asked any more.
            Service::Both if work.kind == Kind::Read && self.fault_reported => return,
            Service::Both => {
                if !self.both_have(slot, &work, out) {
                    return;
                }
                BlockStatus::Good
            }
        };
        self.finish(slot, status, out);
    }

    /// Service `Both`: has the peer done its half?
    fn both_have(&mut self, slot: u32, work: &Work, out: &mut Outbox) -> bool {
        match work.kind {
            Kind::Read if self.config.mutants.has(Mutant::UnconfirmedRead) => true,
            Kind::Read if self.is_leased(Duration::ZERO) => {
                self.stats.leased += 1;
                // It may have waited for a confirmation when there was no lease.
                self.confirm_waiters.retain(|&waiter| waiter != slot);
                true
            }
            Kind::Read => {
                if work.number == UNASKED {
                    // The lease has lapsed meanwhile, or was of another session.
                    self.ask_confirmation(slot, out);
                }
                let number = self.works.get(slot).number;
                let confirmed = self.confirmations.is_confirmed(number);
                if !confirmed && !self.confirm_waiters.contains(&slot) {
                    self.confirm_waiters.push(slot);
                }
                confirmed
            }
            _ if self.config.mutants.has(Mutant::AckBeforePeer) => true,
            _ => work.peer == Half::Done,
        }
    }

    pub(super) fn finish(&mut self, slot: u32, status: BlockStatus, out: &mut Outbox) {
        self.end_write(slot);
        self.release_range(slot, out);
        self.complete(slot, status, out);
    }

    /// A write that was at the disks no longer keeps its extent hot by running, only by being unstable.
    pub(super) fn end_write(&mut self, slot: u32) {
        let work = *self.works.get(slot);
        if work.kind.is_write() && work.number == 1 {
            let forget = self.config.mutants.has(Mutant::ForgetUnstable);
            let stable = work.kind.fua() || work.peer != Half::Done || forget;
            let group = (!stable).then_some(self.flushes.open());
            self.has_unstable |= !stable;
            self.lanes[usize::from(work.lane)].write_ends(work.range, group);
        }
    }

    /// The only copy cannot keep its activity log: the writes that wait for it fail.
    pub(super) fn fail_log_waiters(&mut self, out: &mut Outbox) {
        if !self.metadata_failed || self.posture.service != Service::Alone {
            return;
        }
        for slot in 0..self.works.slots() {
            if !self.works.is_live(slot) || self.works.get(slot).stage != Stage::Log {
                continue;
            }
            let lane = usize::from(self.works.get(slot).lane);
            self.lanes[lane].forget_waiter(slot);
            self.refuse_holder(slot, BlockStatus::MediumError, out);
        }
    }

    /// The node does not serve any more: a request that holds its range was not issued and will not be, here.
    fn turn_back(&mut self, slot: u32, out: &mut Outbox) {
        if !self.posture.keeps_requests() {
            return self.refuse_holder(slot, BlockStatus::NotServing, out);
        }
        self.works.get_mut(slot).stage = Stage::Ready;
        self.give_back(slot, out);
    }

    /// A request that holds its range but was not issued and will not be.
    pub(super) fn refuse_holder(&mut self, slot: u32, status: BlockStatus, out: &mut Outbox) {
        let work = *self.works.get(slot);
        if work.kind.is_write() && work.number == 1 {
            self.lanes[usize::from(work.lane)].write_ends(work.range, None);
        }
        self.release_range(slot, out);
        self.complete(slot, status, out);
    }

    // ---- the peer's answers ----

    /// A frame on a link that this node leads.
    pub(super) fn on_answer(
        &mut self,
        _now: Instant,
        link: LinkNo,
        header: &FrameHeader,
        payload: Payload<'_>,
        out: &mut Outbox,
    ) -> Result<(), LinkFault> {
        match (header.kind, payload) {
            (FrameKind::WriteAck, Payload::None) => self.on_write_ack(header, out),
            (FrameKind::FlushAck, Payload::None) => {
                check_status(header)?;
                let stable = self.flushes.on_peer(header.value).map_err(|NotBegun| LinkFault::Protocol)?;
                if let Some(group) = stable {
                    self.on_stable(group, out);
                }
                Ok(())
            }
            (FrameKind::ConfirmAck, Payload::None) => self.on_confirmed(header, out),
            (FrameKind::ResyncAck, Payload::None) => self.on_resync_ack(header, out),
            (FrameKind::Bitmap, Payload::Bytes(runs)) => self.on_peer_bitmap(link, header, runs, out),
            (FrameKind::ForwardRead | FrameKind::ForwardWrite | FrameKind::ForwardOrder, payload) => {
                self.on_remote_frame(link, header, payload, out)
            }
            // The peer led until now, and this node followed: the hand-over went by the control link and came first. What
            // was asked for then was asked anew, or given up.
            (FrameKind::ForwardAck, Payload::None) if header.epoch < self.posture.epoch => Ok(()),
            (FrameKind::ForwardData, Payload::Buf(buf)) if header.epoch < self.posture.epoch => {
                out.push(Effect::Free(buf));
                Ok(())
            }
            (_, Payload::Buf(buf)) => {
                out.push(Effect::Free(buf));
                Err(LinkFault::Protocol)
            }
            _ => Err(LinkFault::Protocol),
        }
    }

    fn on_write_ack(&mut self, header: &FrameHeader, out: &mut Outbox) -> Result<(), LinkFault> {
        check_status(header)?;
        let slot = match self.works.find(OpId(header.sequence)) {
            Some(slot) => slot,
            // Only a planted bug answers before the peer.
            None if self.config.mutants.has(Mutant::AckBeforePeer) => return Ok(()),
            None => return Err(LinkFault::Protocol),
        };
        let work = self.works.get_mut(slot);
        let expected = work.kind.is_write() && work.peer == Half::Pending;
        if !expected || work.epoch != header.epoch {
            return Err(LinkFault::Protocol);
        }
        work.peer = Half::Done;
        self.try_finish(slot, out);
        Ok(())
    }

    fn on_confirmed(&mut self, header: &FrameHeader, out: &mut Outbox) -> Result<(), LinkFault> {
        check_status(header)?;
        if let Some(next) =
            self.confirmations.on_return(header.value).map_err(|NotBegun| LinkFault::Protocol)?
        {
            self.send_confirm(next, out);
        }
        let mut waiters = core::mem::take(&mut self.confirm_waiters);
        waiters.retain(|&slot| {
            let wait = !self.confirmations.is_confirmed(self.works.get(slot).number);
            if !wait {
                self.try_finish(slot, out);
            }
            wait
        });
        // Finishing a read may start others; none of them can wait for a confirmation that already returned.
        waiters.append(&mut self.confirm_waiters);
        self.confirm_waiters = waiters;
        Ok(())
    }
}

/// The frame of a write, without sequence and payload.
fn write_frame(work: &Work, lane: LaneId, epoch: Epoch) -> FrameHeader {
    let (kind, unmap) = match work.kind {
        Kind::Zero { unmap, .. } => (FrameKind::Zero, unmap),
        _ => (FrameKind::Write, false),
    };
    let mut header = FrameHeader::new(kind, lane, epoch);
    header.flags = if work.kind.fua() { FLAG_FUA } else { 0 } | if unmap { FLAG_UNMAP } else { 0 };
    header.lba = work.range.start;
    header.blocks = work.range.count;
    header.value = if kind == FrameKind::Zero { work.id.0 } else { 0 };
    header
}

/// What the peer said of an operation.
pub(super) fn check_status(header: &FrameHeader) -> Result<(), LinkFault> {
    match header.status {
        FrameStatus::Good => Ok(()),
        FrameStatus::DeviceError => Err(LinkFault::PeerDisk),
        FrameStatus::Refused => Err(LinkFault::Refused),
        FrameStatus::NotReady => Err(LinkFault::Protocol),
    }
}
