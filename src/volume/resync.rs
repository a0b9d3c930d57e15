//! Resync: the source copies out-of-sync blocks to the target while writes go on.
//!
//! The source asks for the target's bitmap, lane by lane, and adds it to its own (what the target wrote alone, or may
//! have written before a crash, is out of sync too). Then it walks its bits: a run's range is taken like a reader's, so
//! writes to it wait; the run is read and sent; the target writes it in stream order and acknowledges. Resync data can
//! therefore never overwrite newer data (D5).
//!
//! A bit is cleared, on either node, only when a flush of the target's device that began after the data was written
//! is done (D4). If the source dies first, each node still has the bits of what it cannot vouch for.

use alloc::vec::Vec;

use crate::block::BufSlice;
use crate::replication::conflict_set::Access;
use crate::replication::frame::{FLAG_LAST, FrameHeader, FrameKind};
use crate::units::{BITMAP_BLOCK_BYTES, BlockRange, CHUNK_BYTES, LaneId};

use super::effect::{Effect, LinkNo, OpId, Outbox};
use super::messages::{LinkFault, LinkRole, PartReport, Service, SyncRole};
use super::mutant::Mutant;
use super::part::Part;
use super::primary::check_status;
use super::work::{Half, Kind, Stage, Work};

/// Bytes of one run in a bitmap frame: extent in lane u32, first block u16, blocks u16, little-endian.
const RUN_BYTES: usize = 8;
/// [`Work::number`] of a run that did not take its range.
const WITHOUT_RANGE: u64 = 1;
/// Blocks read and sent at once.
const RUN_BLOCKS_MAX: u16 = (CHUNK_BYTES as u64 / BITMAP_BLOCK_BYTES) as u16;
/// Acknowledged runs after which the source asks the target to flush even though more is on its way.
const UNFLUSHED_MAX: usize = 1024;
/// Runs that a target's lane remembers until the next flush.
const APPLIED_MAX: usize = 8 * 1024;

/// One lane's side of a resync.
#[derive(Clone, Hash, Debug, Default)]
pub struct LaneSync {
    source: bool,
    peer_bitmap_known: bool,
    /// Source: where to look for the next run. Target: the next run to tell.
    cursor: (u32, u16),
    running: u32,
    /// Source: acknowledged by the target, by flush group.
    unflushed: Vec<(u64, BlockRange)>,
    /// Target: written, not yet covered by a flush.
    applied: Vec<BlockRange>,
    /// Target: covered by a running flush of that number.
    flushing: Vec<(u64, BlockRange)>,
}

impl LaneSync {
    fn source() -> Self {
        Self { source: true, ..Self::default() }
    }

    pub(super) fn applied(&mut self, range: BlockRange) {
        // A peer with fewer shards may never send this one a flush. What is not remembered keeps its bit until the
        // end of the resync.
        if self.applied.len() < APPLIED_MAX {
            self.applied.push(range);
        }
    }

    pub(super) fn on_target_flush_begins(&mut self, number: u64) {
        self.flushing.extend(self.applied.drain(..).map(|range| (number, range)));
    }

    pub(super) fn take_target_flushed(&mut self, number: u64) -> Vec<BlockRange> {
        take_up_to(&mut self.flushing, number)
    }

    pub(super) fn take_source_flushed(&mut self, stable: u64) -> Vec<BlockRange> {
        take_up_to(&mut self.unflushed, stable)
    }

    /// Source: has the target been asked for its bitmap, and not told all of it?
    pub(super) fn awaits_bitmap(&self) -> bool {
        self.source && !self.peer_bitmap_known
    }

    fn is_idle(&self) -> bool {
        self.running == 0 && self.unflushed.is_empty()
    }
}

/// Removes the entries whose number is at most `limit`.
fn take_up_to(list: &mut Vec<(u64, BlockRange)>, limit: u64) -> Vec<BlockRange> {
    if list.iter().all(|&(number, _)| number > limit) {
        return Vec::new();
    }
    let taken = list.iter().filter(|&&(number, _)| number <= limit).map(|&(_, range)| range).collect();
    list.retain(|&(number, _)| number > limit);
    taken
}

impl Part {
    /// This node becomes sync source on a fresh session.
    pub(super) fn begin_source(&mut self, full: bool, out: &mut Outbox) {
        self.sync_clean_reported = false;
        self.stats.resync_blocks_total = 0;
        self.stats.resynced_bytes = 0;
        for index in 0..self.lanes.len() {
            self.lanes[index].sync = LaneSync::source();
            if full {
                self.lanes[index].mark_all();
            }
            self.ask_bitmap(self.lanes[index].id, out);
        }
    }

    /// This node becomes sync target on a fresh session, or is no side of a resync any more.
    pub(super) fn reset_sync(&mut self) {
        for lane in &mut self.lanes {
            lane.sync = LaneSync::default();
        }
    }

    fn ask_bitmap(&self, lane: LaneId, out: &mut Outbox) {
        let header = FrameHeader::new(FrameKind::Bitmap, lane, self.posture.epoch);
        out.push(Effect::LinkSend { link: self.link_of(lane), header, payload: None });
    }

    /// Target: the source asks for the next frame of a lane's bitmap.
    pub(super) fn send_bitmap(&mut self, lane: LaneId, out: &mut Outbox) -> Result<(), LinkFault> {
        let index = self.lane_of_frame(lane).ok_or(LinkFault::Protocol)?;
        if self.posture.sync != SyncRole::Target {
            return Err(LinkFault::Protocol);
        }
        let link = self.link_of(lane);
        let lane = &mut self.lanes[usize::from(index)];
        let mut payload = Vec::new();
        let mut cursor = lane.sync.cursor;
        let mut last = true;
        while let Some((extent, first, count)) = lane.bitmap().next_run(cursor, u16::MAX) {
            if payload.len() + RUN_BYTES > CHUNK_BYTES {
                last = false;
                break;
            }
            payload.extend_from_slice(&extent.to_le_bytes());
            payload.extend_from_slice(&first.to_le_bytes());
            payload.extend_from_slice(&count.to_le_bytes());
            cursor = (extent, first + count);
        }
        lane.sync.cursor = cursor;
        let mut header = FrameHeader::new(FrameKind::Bitmap, lane.id, self.posture.epoch);
        header.flags = if last { FLAG_LAST } else { 0 };
        header.payload_len = payload.len() as u32;
        out.push(Effect::LinkSendBytes { link, header, payload });
        Ok(())
    }

    /// Source: a frame of the target's bitmap.
    pub(super) fn on_peer_bitmap(
        &mut self,
        _link: LinkNo,
        header: &FrameHeader,
        runs: &[u8],
        out: &mut Outbox,
    ) -> Result<(), LinkFault> {
        let index = self.lane_of_frame(header.lane).ok_or(LinkFault::Protocol)?;
        let ignore = self.config.mutants.has(Mutant::IgnoreTargetBitmap);
        let lane = &mut self.lanes[usize::from(index)];
        if !lane.sync.source || lane.sync.peer_bitmap_known || runs.len() % RUN_BYTES != 0 {
            return Err(LinkFault::Protocol);
        }
        for run in runs.chunks_exact(RUN_BYTES) {
            let extent = u32::from_le_bytes([run[0], run[1], run[2], run[3]]);
            let first = u16::from_le_bytes([run[4], run[5]]);
            let count = u16::from_le_bytes([run[6], run[7]]);
            if !ignore {
                lane.merge_run(extent, first, count).ok_or(LinkFault::Protocol)?;
            }
        }
        if header.has(FLAG_LAST) {
            lane.sync.peer_bitmap_known = true;
            self.stats.resync_blocks_total += lane.dirty_blocks();
        } else {
            let lane = lane.id;
            self.ask_bitmap(lane, out);
        }
        Ok(())
    }

    /// Source: keeps its resync buffers busy, wants flushes, notices the end.
    pub(super) fn pump_resync(&mut self, out: &mut Outbox) {
        if !matches!(self.posture.sync, SyncRole::Source { .. }) || self.posture.link != LinkRole::Lead {
            return;
        }
        let mut clean = true;
        for index in 0..self.lanes.len() {
            self.pump_lane(index, out);
            let lane = &self.lanes[index];
            clean &= lane.sync.peer_bitmap_known && lane.dirty_blocks() == 0 && lane.sync.is_idle();
        }
        if clean && !self.sync_clean_reported {
            self.sync_clean_reported = true;
            let report = PartReport::SyncClean { shard: self.config.shard, serial: self.posture.serial };
            out.push(Effect::Report(report));
        }
    }

    fn pump_lane(&mut self, index: usize, out: &mut Outbox) {
        if !self.lanes[index].sync.peer_bitmap_known {
            return;
        }
        while let Some(&buf) = self.resync_free.last() {
            let lane = &mut self.lanes[index];
            let Some((next, range)) = lane.next_dirty(lane.sync.cursor, RUN_BLOCKS_MAX) else {
                if lane.sync.is_idle() && lane.dirty_blocks() > 0 && lane.sync.cursor != (0, 0) {
                    lane.sync.cursor = (0, 0);
                    continue;
                }
                break;
            };
            lane.sync.cursor = next;
            lane.sync.running += 1;
            self.resync_free.pop();
            let buf = Some(BufSlice { buf, offset: 0 });
            let work = Work { stage: Stage::Conflict, ..Work::new(Kind::Resync, index as u16, range, buf) };
            let slot = self.works.insert(work);
            // While requests are held none touches a disk, and those that hold their range wait for this very copy.
            if self.posture.service == Service::Held {
                self.works.get_mut(slot).number = WITHOUT_RANGE;
                self.resync_read(slot, out);
            } else if self.lanes[index].conflicts.admit(slot, range, Access::Shared) {
                self.resync_read(slot, out);
            }
        }
        let sync = &self.lanes[index].sync;
        let waiting = sync.running == 0 || sync.unflushed.len() >= UNFLUSHED_MAX;
        if waiting
            && !sync.unflushed.is_empty()
            && sync.unflushed.last().is_some_and(|e| e.0 == self.flushes.open())
        {
            self.flushes.want();
        }
    }

    /// The run has its range: nobody writes to it until it is at the target.
    pub(super) fn resync_read(&mut self, slot: u32, out: &mut Outbox) {
        let op = self.works.name(slot);
        let geometry = self.config.geometry;
        let work = self.works.get_mut(slot);
        work.stage = Stage::Running;
        work.local = Half::Pending;
        let len = geometry.range_bytes(work.range) as u32;
        let to = work.buf.expect("a resync run has a buffer");
        out.push(Effect::DiskRead { op, offset: geometry.offset(work.range.start), to, len });
    }

    pub(super) fn on_resync_read(&mut self, slot: u32, out: &mut Outbox) {
        let work = *self.works.get(slot);
        if work.local == Half::Failed {
            self.report_disk_fault(out);
        }
        if work.orphan || work.local == Half::Failed {
            return self.end_resync_run(slot, out);
        }
        let name = self.works.name(slot);
        self.works.get_mut(slot).peer = Half::Pending;
        self.works.get_mut(slot).epoch = self.posture.epoch;
        let lane = self.lanes[usize::from(work.lane)].id;
        let len = self.config.geometry.range_bytes(work.range) as u32;
        let mut header = FrameHeader::new(FrameKind::ResyncData, lane, self.posture.epoch);
        header.sequence = name.0;
        header.lba = work.range.start;
        header.blocks = work.range.count;
        header.payload_len = len;
        let from = work.buf.expect("a resync run has a buffer");
        out.push(Effect::LinkSend { link: self.link_of(lane), header, payload: Some((from, len)) });
    }

    /// Source: the target's device has the run.
    pub(super) fn on_resync_ack(&mut self, header: &FrameHeader, out: &mut Outbox) -> Result<(), LinkFault> {
        check_status(header)?;
        let slot = self.works.find(OpId(header.sequence)).ok_or(LinkFault::Protocol)?;
        let work = *self.works.get(slot);
        if work.kind != Kind::Resync || work.peer != Half::Pending {
            return Err(LinkFault::Protocol);
        }
        self.stats.resynced_bytes += self.config.geometry.range_bytes(work.range) as u64;
        let group = self.flushes.open();
        let lane = &mut self.lanes[usize::from(work.lane)];
        if self.config.mutants.has(Mutant::ClearBitBeforeFlush) {
            lane.mark_in_sync(work.range);
        } else {
            lane.sync.unflushed.push((group, work.range));
        }
        self.end_resync_run(slot, out);
        Ok(())
    }

    pub(super) fn on_resync_stable(&mut self, group: u64) {
        for lane in &mut self.lanes {
            lane.on_source_flushed(group);
        }
    }

    /// Gives a run's range and buffer back.
    pub(super) fn end_resync_run(&mut self, slot: u32, out: &mut Outbox) {
        let lane = usize::from(self.works.get(slot).lane);
        if self.works.get(slot).number != WITHOUT_RANGE {
            self.release_range(slot, out);
        }
        let work = self.works.remove(slot);
        if !work.orphan {
            self.lanes[lane].sync.running -= 1;
        }
        self.resync_free.push(work.buf.expect("a resync run has a buffer").buf);
    }
}
