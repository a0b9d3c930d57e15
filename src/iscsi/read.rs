//! Data to the initiator (RFC 7143 §11.7): parameter data and blocks, in order, cut by the initiator's
//! MaxRecvDataSegmentLength and into sequences of MaxBurstLength.
//!
//! A chunk of 64 KiB is asked for as soon as it has a buffer and sent as soon as everything before it was, so a long
//! READ never needs all of its buffers at once. GOOD travels in the last Data-In.

use crate::block::{BlockOp, BufSlice};
use crate::units::{BlockRange, CHUNK_BYTES, Pool};

use super::bhs::{Bhs, Command};
use super::effect::{Effect, Outbox};
use super::pdu::{DataIn, Residual};
use super::session::Session;
use super::task::{CHUNK_SHIFT, Ending, Slot, Work};

/// Bytes that the initiator is ready to take. With the W bit EDTL counts the other direction.
fn readable(command: &Command) -> u32 {
    if command.read && !command.write { command.expected } else { 0 }
}

impl Session {
    /// Sends parameter data and GOOD.
    pub(super) fn send_data_in(&mut self, slot: Slot, command: &Command, data: &[u8], out: &mut Outbox) {
        let residual = Residual::between(readable(command), data.len() as u64);
        let need = readable(command).min(data.len() as u32);
        if need == 0 {
            return self.refuse_with(slot, command, Ending::Good, residual, out);
        }
        let task = self.tasks.get_mut(slot);
        (task.work, task.need, task.residual) = (Work::Read, need, residual);
        let mut rest = &data[..need as usize];
        while !rest.is_empty() {
            let (len, header) = self.next_data_in(slot, need);
            let (segment, after) = rest.split_at(len as usize);
            out.send_bytes(header, segment);
            rest = after;
        }
    }

    /// READ: fetch what the initiator takes, send it. A FUA read flushes first, so that what it shows is stable.
    pub(super) fn start_read(
        &mut self,
        slot: Slot,
        command: &Command,
        pool: &mut impl Pool,
        out: &mut Outbox,
    ) {
        let task = self.tasks.get(slot);
        let geometry = self.config.target(self.grant).logical_unit(task.lu).geometry;
        let actual = geometry.range_bytes(task.blocks) as u64;
        let need = u64::from(readable(command)).min(actual) as u32;
        let residual = Residual::between(readable(command), actual);
        if need == 0 {
            return self.refuse_with(slot, command, Ending::Good, residual, out);
        }
        let task = self.tasks.get_mut(slot);
        (task.work, task.need, task.residual) = (Work::Read, need, residual);
        let count = need.div_ceil(geometry.block_bytes());
        task.blocks = BlockRange::new(task.blocks.start, count);
        if task.fua {
            self.issue_flush(slot, out);
        } else if !self.acquire_read(slot, pool, out) {
            self.wait_for_buffer(slot);
        }
    }

    /// The flush before a FUA read is done.
    pub(super) fn read_flushed(&mut self, slot: Slot, pool: &mut impl Pool, out: &mut Outbox) {
        if self.tasks.get(slot).failed() {
            self.fail_read(slot, out);
        } else if !self.acquire_read(slot, pool, out) {
            self.wait_for_buffer(slot);
        }
    }

    /// Asks for as many chunks as there are buffers. `false`: some are still without.
    pub(super) fn acquire_read(&mut self, slot: Slot, pool: &mut impl Pool, out: &mut Outbox) -> bool {
        let chunks = (self.tasks.get(slot).need as usize).div_ceil(CHUNK_BYTES);
        loop {
            let chunk = usize::from(self.tasks.get(slot).provided);
            if chunk == chunks {
                return true;
            }
            if !self.provide(slot, chunk, true, pool) {
                return false;
            }
            self.tasks.get_mut(slot).provided += 1;
            self.issue(slot, chunk, BlockOp::Read, out);
        }
    }

    /// Sends every chunk that is there and whose turn it is.
    pub(super) fn send_ready(&mut self, slot: Slot, out: &mut Outbox) {
        if self.tasks.get(slot).failed() {
            return self.fail_read(slot, out);
        }
        let need = self.tasks.get(slot).need;
        loop {
            let task = self.tasks.get(slot);
            let chunk = (task.moved >> CHUNK_SHIFT) as usize;
            if chunk >= usize::from(task.provided) || self.tasks.chunk(slot, chunk).pieces > 0 {
                return;
            }
            let buf = self.tasks.chunk_mut(slot, chunk).buf.take();
            let buf = buf.expect("a chunk that was read has its buffer until it is sent");
            self.held -= 1;
            let end = need.min((chunk as u32 + 1) << CHUNK_SHIFT);
            let mut at = task_offset(chunk);
            while at < end {
                let (len, header) = self.next_data_in(slot, end);
                out.send_slice(header, BufSlice { buf, offset: at - task_offset(chunk) }, len);
                at += len;
            }
            out.push(Effect::Free(buf));
            if end == need {
                return;
            }
        }
    }

    /// A piece of a READ failed: no more data, status when everything is back.
    fn fail_read(&mut self, slot: Slot, out: &mut Outbox) {
        self.stop_waiting(slot);
        for chunk in 0..usize::from(self.tasks.get(slot).provided) {
            self.free_if_quiet(slot, chunk, out);
        }
        let task = self.tasks.get_mut(slot);
        if task.in_flight == 0 {
            task.residual = Residual::between(task.expected, u64::from(task.moved));
            self.respond(slot, out);
        }
    }

    /// The next Data-In of a task, at most up to offset `until`: its length and header. The one that completes the task
    /// carries GOOD and gives the slot back.
    fn next_data_in(&mut self, slot: Slot, until: u32) -> (u32, Bhs) {
        // Only the last data segment may be no multiple of four (§11.7).
        let segment = self.parameters.initiator_max_recv & !3;
        let burst = self.parameters.max_burst & !3;
        let task = self.tasks.get_mut(slot);
        let to_burst_end = burst - task.moved % burst;
        let len = (until - task.moved).min(segment).min(to_burst_end);
        let mut data_in = DataIn {
            lun: task.lun,
            itt: task.itt,
            data_sn: task.pdus,
            offset: task.moved,
            last: len == to_burst_end,
            good: None,
        };
        task.moved += len;
        task.pdus += 1;
        if task.moved < task.need {
            return (len, data_in.encode(self.numbers()));
        }
        data_in.last = true;
        data_in.good = Some(task.residual);
        self.release(slot);
        (len, data_in.encode(self.status_numbers()))
    }
}

fn task_offset(chunk: usize) -> u32 {
    (chunk as u32) << CHUNK_SHIFT
}
