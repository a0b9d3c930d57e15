//! The secondary: applies what the leading node sends, in the order it came where ranges overlap, and acknowledges
//! when its device has completed the write (protocol C). Flushes and confirmations are answered here too.

use crate::arbitration::rules::is_refused;
use crate::replication::conflict_set::Access;
use crate::replication::frame::{FLAG_FUA, FLAG_UNMAP, FrameHeader, FrameKind, FrameStatus};
use crate::replication::receiver::Payload;
use crate::time::Instant;
use crate::units::{BlockRange, BufId, LaneId};

use super::effect::{Effect, LinkNo, Outbox};
use super::messages::{LinkFault, SyncRole};
use super::mutant::Mutant;
use super::part::Part;
use super::work::{Half, Kind, Stage, Work};
use crate::block::BufSlice;

impl Part {
    /// A frame on a link that this node follows.
    pub(super) fn on_order(
        &mut self,
        _now: Instant,
        link: LinkNo,
        header: &FrameHeader,
        payload: Payload<'_>,
        out: &mut Outbox,
    ) -> Result<(), LinkFault> {
        if is_refused(header.epoch, self.posture.epoch) {
            // S3: somebody who was replaced still sends.
            if let Payload::Buf(buf) = payload {
                out.push(Effect::Free(buf));
            }
            return Err(LinkFault::Refused);
        }
        match (header.kind, payload) {
            (FrameKind::ForwardAck, Payload::None) => self.on_forward_answer(link, header, None, out),
            (FrameKind::ForwardData, Payload::Buf(buf)) => {
                self.on_forward_answer(link, header, Some(buf), out)
            }
            (FrameKind::Write, Payload::Buf(buf)) => self.on_peer_write(
                Kind::PeerWrite { fua: header.has(FLAG_FUA) },
                link,
                header,
                Some(buf),
                out,
            ),
            (FrameKind::Zero, Payload::None) => {
                let kind = Kind::PeerZero { fua: header.has(FLAG_FUA), unmap: header.has(FLAG_UNMAP) };
                self.on_peer_write(kind, link, header, None, out)
            }
            (FrameKind::ResyncData, Payload::Buf(buf)) => {
                if self.posture.sync != SyncRole::Target {
                    out.push(Effect::Free(buf));
                    return Err(LinkFault::Protocol);
                }
                self.on_peer_write(Kind::PeerResync, link, header, Some(buf), out)
            }
            (FrameKind::Flush, Payload::None) => {
                // A leader's part has one flush group under way. More are not its doing, and nothing bounds them.
                let flushes = |work: &Work| {
                    work.link == link && !work.orphan && matches!(work.kind, Kind::PeerFlush { .. })
                };
                if self.works.iter().any(|(_, work)| flushes(work)) {
                    return Err(LinkFault::Protocol);
                }
                self.on_peer_flush(link, header, out);
                Ok(())
            }
            (FrameKind::Confirm, Payload::None) => {
                let mut answer = FrameHeader::new(FrameKind::ConfirmAck, header.lane, header.epoch);
                answer.value = header.value;
                out.push(Effect::LinkSend { link, header: answer, payload: None });
                Ok(())
            }
            (FrameKind::Bitmap, Payload::Bytes([])) => self.send_bitmap(header.lane, out),
            (_, Payload::Buf(buf)) => {
                out.push(Effect::Free(buf));
                Err(LinkFault::Protocol)
            }
            _ => Err(LinkFault::Protocol),
        }
    }

    fn on_peer_write(
        &mut self,
        kind: Kind,
        link: LinkNo,
        header: &FrameHeader,
        buf: Option<BufId>,
        out: &mut Outbox,
    ) -> Result<(), LinkFault> {
        let range = BlockRange::new(header.lba, header.blocks);
        let bytes = match buf {
            Some(_) => u64::from(header.blocks) << self.config.geometry.block_shift,
            None => 0,
        };
        let lane = self.lane_of_frame(header.lane);
        let fits = lane.is_some_and(|lane| self.lanes[usize::from(lane)].owns(range));
        let (Some(lane), true, true) = (lane, fits, bytes == u64::from(header.payload_len)) else {
            if let Some(buf) = buf {
                out.push(Effect::Free(buf));
            }
            return Err(LinkFault::Protocol);
        };
        let slot = self.works.insert(Work {
            stage: Stage::Conflict,
            link,
            sequence: header.sequence,
            epoch: header.epoch,
            number: header.value,
            ..Work::new(kind, lane, range, buf.map(|buf| BufSlice { buf, offset: 0 }))
        });
        let unordered = self.config.mutants.has(Mutant::UnorderedOverlap);
        if unordered || self.lanes[usize::from(lane)].conflicts.admit(slot, range, Access::Exclusive) {
            self.apply(slot, out);
        }
        Ok(())
    }

    /// The lane of a frame, if this shard owns it.
    pub(super) fn lane_of_frame(&self, lane: LaneId) -> Option<u16> {
        let shards = u16::from(self.config.shards);
        let mine = lane.0 < self.config.geometry.lanes && lane.0 % shards == u16::from(self.config.shard.0);
        mine.then(|| lane.0 / shards)
    }

    /// The peer's write has its range.
    pub(super) fn apply(&mut self, slot: u32, out: &mut Outbox) {
        let op = self.works.name(slot);
        let geometry = self.config.geometry;
        let work = self.works.get_mut(slot);
        work.stage = Stage::Running;
        work.local = Half::Pending;
        let len = geometry.range_bytes(work.range) as u32;
        let (offset, fua) = (geometry.offset(work.range.start), work.kind.fua());
        out.push(match (work.kind, work.buf) {
            (Kind::PeerZero { unmap, .. }, _) => {
                Effect::DiskZero { op, offset, len, fua, unmap, tag: work.number }
            }
            (_, from) => {
                let from = from.expect("the peer's writes carry data");
                Effect::DiskWrite { op, offset, from, len, fua }
            }
        });
    }

    fn on_peer_flush(&mut self, link: LinkNo, header: &FrameHeader, out: &mut Outbox) {
        // Resync data that was applied before this flush begins is stable when it ends.
        self.target_flushes += 1;
        let number = self.target_flushes;
        for lane in &mut self.lanes {
            lane.sync.on_target_flush_begins(number);
        }
        let slot = self.works.insert(Work {
            stage: Stage::Running,
            local: Half::Pending,
            number,
            link,
            epoch: header.epoch,
            ..Work::new(Kind::PeerFlush { group: header.value }, 0, BlockRange::default(), None)
        });
        out.push(Effect::DiskFlush { op: self.works.name(slot) });
    }

    /// The device finished an operation of the peer's.
    pub(super) fn on_applied(&mut self, slot: u32, out: &mut Outbox) {
        let work = *self.works.get(slot);
        let status = if work.local == Half::Done { FrameStatus::Good } else { FrameStatus::DeviceError };
        if status != FrameStatus::Good {
            self.report_disk_fault(out);
        }
        let kind = match work.kind {
            Kind::PeerWrite { .. } | Kind::PeerZero { .. } => FrameKind::WriteAck,
            Kind::PeerResync => FrameKind::ResyncAck,
            _ => FrameKind::FlushAck,
        };
        if !work.orphan {
            // A flush concerns no lane, and a shard may have none.
            let lane = self.lanes.get(usize::from(work.lane)).map_or(LaneId(0), |lane| lane.id);
            let mut header = FrameHeader::new(kind, lane, work.epoch);
            header.status = status;
            header.sequence = work.sequence;
            if let Kind::PeerFlush { group } = work.kind {
                header.value = group;
            }
            out.push(Effect::LinkSend { link: work.link, header, payload: None });
        }
        if let Kind::PeerFlush { .. } = work.kind {
            if status == FrameStatus::Good && !work.orphan {
                self.lanes.iter_mut().for_each(|lane| lane.on_target_flushed(work.number));
            }
            self.works.remove(slot);
            return;
        }
        if work.kind == Kind::PeerResync && status == FrameStatus::Good {
            self.lanes[usize::from(work.lane)].sync.applied(work.range);
        }
        if !self.config.mutants.has(Mutant::UnorderedOverlap) {
            self.release_range(slot, out);
        }
        if let Some(slice) = self.works.remove(slot).buf {
            out.push(Effect::Free(slice.buf));
        }
    }
}
