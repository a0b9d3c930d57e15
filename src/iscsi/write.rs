//! Data from the initiator: immediate data, unsolicited Data-Out, R2T and solicited Data-Out (RFC 7143 §4.2.5, §11.7-8).
//!
//! A chunk of 64 KiB goes to the volume as soon as it is complete, and its buffer comes back as soon as the volume has
//! answered, so a long WRITE never needs all of its buffers at once. A first burst fits into chunk 0.
//!
//! Why this cannot lock up: buffers for solicited data are taken before the R2T is sent, and the rest of a chunk that
//! has its buffer can always be asked for. A command whose first burst finds no buffer stops the stream only while this
//! session expects no Data-Out; otherwise it is answered TASK SET FULL, for the Data-Out that would set buffers free
//! may be behind it in the stream.
//!
//! Absent on purpose: data out of order (DataPDUInOrder and DataSequenceInOrder are Yes), and more than one R2T of a task
//! at a time; one R2T asks for a whole burst.

use crate::block::BlockOp;
use crate::scsi::{AdditionalSense, SenseData, SenseKey, Status};
use crate::units::{BlockRange, CHUNK_BYTES, Pool};

use super::bhs::{Command, DataOut, NO_TAG};
use super::command::DATA_PHASE_ERROR;
use super::effect::Outbox;
use super::pdu::{ReadyToTransfer, RejectReason, Residual};
use super::session::{Flow, Session, padded};
use super::task::{CHUNK_SHIFT, Ending, Expecting, Slot, Work};

/// 0B/47/05 PROTOCOL SERVICE CRC ERROR.
const CRC_ERROR: SenseData =
    SenseData::new(SenseKey::AbortedCommand, AdditionalSense { code: 0x47, qualifier: 0x05 });

/// Longest parameter list, bytes.
const LIST_BYTES_MAX: u32 = 8192;

/// Bytes that the initiator is ready to send.
fn writable(command: &Command) -> u32 {
    if command.write { command.expected } else { 0 }
}

impl Session {
    pub(super) fn expect(&mut self, slot: Slot, expecting: Expecting) {
        let task = self.tasks.get_mut(slot);
        assert!(task.expecting == Expecting::Nothing, "two data sequences of one task at a time");
        task.expecting = expecting;
        self.expecting += 1;
    }

    pub(super) fn expect_nothing(&mut self, slot: Slot) {
        let task = self.tasks.get_mut(slot);
        if task.expecting != Expecting::Nothing {
            task.expecting = Expecting::Nothing;
            self.expecting -= 1;
        }
    }

    /// WRITE: whole blocks of what the initiator sends, never more than the CDB says (§11.4.5).
    pub(super) fn start_write(
        &mut self,
        slot: Slot,
        command: &Command,
        data: usize,
        pool: &mut impl Pool,
        out: &mut Outbox,
    ) -> Flow {
        let task = self.tasks.get(slot);
        let geometry = self.config.target(self.grant).logical_unit(task.lu).geometry;
        let actual = geometry.range_bytes(task.blocks) as u64;
        let usable = u64::from(writable(command)).min(actual) as u32;
        let residual = Residual::between(writable(command), actual);
        let count = usable >> geometry.block_shift;
        if count == 0 {
            self.refuse_with(slot, command, Ending::Good, residual, out);
            return Flow::Skip(padded(data));
        }
        let task = self.tasks.get_mut(slot);
        task.work = Work::Write;
        task.residual = residual;
        task.blocks = BlockRange::new(task.blocks.start, count);
        task.need = count << geometry.block_shift;
        let len = (data as u32).min(task.need);
        if len > 0 && !self.provide_first_burst(slot, pool) {
            return self.refuse(slot, command, Ending::Status(Status::TaskSetFull), data, out);
        }
        self.expect_unsolicited(slot, command);
        if len > 0 {
            let surplus = data as u32 - len;
            return Flow::Media { slot, len, surplus, pad: padded(data) - data, last: command.last };
        }
        if command.last {
            self.sequence_ended(slot, pool, out);
        }
        Flow::Skip(0)
    }

    /// Takes a buffer for chunk 0. `true` without one means: the stream must wait for it, and may.
    fn provide_first_burst(&mut self, slot: Slot, pool: &mut impl Pool) -> bool {
        let own = usize::from(self.tasks.get(slot).expecting != Expecting::Nothing);
        if self.provide(slot, 0, false, pool) {
            self.tasks.get_mut(slot).provided = 1;
            return true;
        }
        self.expecting == own
    }

    /// Has the next byte of this task no buffer to go to?
    pub(super) fn lacks_buffer(&self, slot: Slot) -> bool {
        self.tasks.place(slot, self.tasks.get(slot).moved).is_none()
    }

    /// The stream waits at a first burst without a buffer.
    pub(super) fn provide_stalled(&mut self, slot: Slot, pool: &mut impl Pool) -> bool {
        if !self.lacks_buffer(slot) {
            return true;
        }
        let provided = self.provide(slot, 0, false, pool);
        if provided {
            self.tasks.get_mut(slot).provided = 1;
        }
        provided
    }

    /// A command with a parameter list of `bytes`.
    pub(super) fn start_list(
        &mut self,
        slot: Slot,
        command: &Command,
        bytes: u32,
        data: usize,
        out: &mut Outbox,
    ) -> Flow {
        if bytes > LIST_BYTES_MAX {
            let sense = SenseData::PARAMETER_LIST_LENGTH_ERROR;
            return self.refuse(slot, command, Ending::Check(sense), data, out);
        }
        let task = self.tasks.get_mut(slot);
        task.work = Work::List;
        task.cdb = command.cdb;
        task.residual = Residual::between(writable(command), u64::from(bytes));
        task.need = writable(command).min(bytes);
        let len = (data as u32).min(task.need);
        self.expect_unsolicited(slot, command);
        if len > 0 {
            let surplus = data as u32 - len;
            return Flow::List { slot, len, surplus, pad: padded(data) - data, last: command.last };
        }
        if command.last {
            self.list_sequence_ended(slot, out);
        }
        Flow::Skip(padded(data))
    }

    /// A Data-Out with `data` bytes. Its LUN is not compared: Windows does not set it.
    pub(super) fn on_data_out(
        &mut self,
        pdu: &DataOut,
        data: usize,
        pool: &mut impl Pool,
        out: &mut Outbox,
    ) -> Flow {
        let drop = Flow::Skip(padded(data));
        // The slot in the tag saves the search.
        let slot = match pdu.ttt as Slot {
            slot if pdu.ttt != NO_TAG && self.tasks.holds(slot, pdu.itt) => slot,
            _ => match self.tasks.find(pdu.itt) {
                Some(slot) => slot,
                // Answered or aborted in the meantime: the data is swallowed (§4.2.5.2).
                None => return drop,
            },
        };
        if self.tasks.get(slot).aborted {
            return drop;
        }
        match self.check_data_out(slot, pdu, data) {
            Ok(()) => {}
            Err(Some(flow)) => return flow,
            Err(None) => {
                if pdu.last {
                    self.sequence_ended(slot, pool, out);
                }
                return drop;
            }
        }
        let task = self.tasks.get_mut(slot);
        let len = task.need.saturating_sub(task.moved).min(data as u32);
        let surplus = data as u32 - len;
        let pad = padded(data) - data;
        let work = task.work;
        if len == 0 {
            task.moved += surplus;
            if pdu.last {
                self.sequence_ended(slot, pool, out);
            }
            return drop;
        }
        if work == Work::List {
            return Flow::List { slot, len, surplus, pad, last: pdu.last };
        }
        if self.lacks_buffer(slot) && !self.provide_first_burst(slot, pool) {
            self.tasks.get_mut(slot).fail(Ending::Status(Status::TaskSetFull));
            if pdu.last {
                self.sequence_ended(slot, pool, out);
            }
            return drop;
        }
        Flow::Media { slot, len, surplus, pad, last: pdu.last }
    }

    /// Does a Data-Out continue what came before? `Err(None)`: its data is to be dropped, up to the F bit.
    fn check_data_out(&mut self, slot: Slot, pdu: &DataOut, data: usize) -> Result<(), Option<Flow>> {
        let task = self.tasks.get_mut(slot);
        let (tag, next_sn, end) = match &mut task.expecting {
            Expecting::Nothing => {
                let what = "Data-Out that was not asked for";
                return Err(Some(Flow::Reject(RejectReason::ProtocolError, what)));
            }
            Expecting::Unsolicited { next_sn, end } => (NO_TAG, next_sn, *end),
            Expecting::Solicited { ttt, next_sn, end } => (*ttt, next_sn, *end),
        };
        if pdu.ttt != tag {
            let what = "a Target Transfer Tag that is not outstanding";
            return Err(Some(Flow::Reject(RejectReason::InvalidField, what)));
        }
        let expected_sn = *next_sn;
        *next_sn = next_sn.wrapping_add(1);
        if task.failed() || task.work == Work::Refused {
            return Err(None);
        }
        let reach = u64::from(pdu.offset) + data as u64;
        if pdu.data_sn != expected_sn || pdu.offset != task.moved || reach > u64::from(end) {
            task.fail(Ending::Check(DATA_PHASE_ERROR));
            return Err(None);
        }
        Ok(())
    }

    /// `len` more bytes of a task are in its buffer.
    pub(super) fn media_arrived(&mut self, slot: Slot, len: u32, out: &mut Outbox) {
        let task = self.tasks.get_mut(slot);
        task.moved += len;
        let (moved, fua) = (task.moved, task.fua);
        assert!(moved <= task.need, "more data than the command has");
        // With a digest the data waits for it, aborted data for nothing, an action's for all of it.
        if task.aborted || task.work == Work::Act || self.parameters.data_digest {
            return;
        }
        if moved == task.need || moved % CHUNK_BYTES as u32 == 0 {
            let chunk = ((moved - 1) >> CHUNK_SHIFT) as usize;
            self.issue(slot, chunk, BlockOp::Write { fua }, out);
        }
    }

    /// The digest of the data from offset `from` on was found right: what is complete may go to the disks.
    pub(super) fn data_verified(&mut self, slot: Slot, from: u32, out: &mut Outbox) {
        let task = self.tasks.get(slot);
        if task.aborted || task.work != Work::Write {
            return;
        }
        let (need, fua) = (task.need, task.fua);
        let end = task.moved.min(need);
        for chunk in from >> CHUNK_SHIFT..end.div_ceil(CHUNK_BYTES as u32) {
            if end == need || end >= (chunk + 1) << CHUNK_SHIFT {
                self.issue(slot, chunk as usize, BlockOp::Write { fua }, out);
            }
        }
    }

    /// The data of a Data-Out does not match its digest: none of it is written, and the task ends with sense data when
    /// all of its data has come (§7.8).
    pub(super) fn data_damaged(&mut self, slot: Slot) {
        self.tasks.get_mut(slot).fail(Ending::Check(CRC_ERROR));
    }

    /// A part of a parameter list.
    pub(super) fn list_arrived(&mut self, slot: Slot, bytes: &[u8]) {
        let task = self.tasks.get_mut(slot);
        task.list.extend_from_slice(bytes);
        task.moved += bytes.len() as u32;
    }

    /// The data segment of a PDU is complete.
    pub(super) fn segment_ended(
        &mut self,
        slot: Slot,
        surplus: u32,
        last: bool,
        pool: &mut impl Pool,
        out: &mut Outbox,
    ) {
        self.tasks.get_mut(slot).moved += surplus;
        if last {
            self.sequence_ended(slot, pool, out);
        }
    }

    /// The F bit came: what now?
    pub(super) fn sequence_ended(&mut self, slot: Slot, pool: &mut impl Pool, out: &mut Outbox) {
        let task = self.tasks.get_mut(slot);
        if let Expecting::Solicited { end, .. } = task.expecting {
            if task.moved < end {
                task.fail(Ending::Check(DATA_PHASE_ERROR));
            }
        }
        self.expect_nothing(slot);
        match self.tasks.get(slot).work {
            Work::List => self.list_sequence_ended(slot, out),
            Work::Refused => self.respond(slot, out),
            Work::Act => self.action_sequence_ended(slot, pool, out),
            _ => {
                if !self.ask_for_data(slot, pool, out) {
                    self.wait_for_buffer(slot);
                }
                self.settle_write(slot, out);
            }
        }
    }

    /// An action begins when all of its data is there.
    fn action_sequence_ended(&mut self, slot: Slot, pool: &mut impl Pool, out: &mut Outbox) {
        let task = self.tasks.get(slot);
        if task.failed() || task.moved >= task.need {
            return self.pump_action(slot, out);
        }
        let asked = self.ask_for_data(slot, pool, out);
        assert!(asked, "an action has its buffers from the start");
    }

    /// Sends an R2T for the data that is still missing, as far as there are buffers. `false`: there is none.
    pub(super) fn ask_for_data(&mut self, slot: Slot, pool: &mut impl Pool, out: &mut Outbox) -> bool {
        let task = self.tasks.get(slot);
        if task.failed() || task.moved >= task.need {
            return true;
        }
        let start = task.moved;
        let burst_end = u64::from(start) + u64::from(self.parameters.max_burst);
        let limit = u64::from(task.need).min(burst_end) as u32;
        let mut end = start;
        while end < limit {
            let chunk = (end >> CHUNK_SHIFT) as usize;
            if !self.provide(slot, chunk, true, pool) {
                break;
            }
            let task = self.tasks.get_mut(slot);
            task.provided = task.provided.max(chunk as u16 + 1);
            end = limit.min((chunk as u32 + 1) << CHUNK_SHIFT);
        }
        if end == start {
            return false;
        }
        self.send_r2t(slot, start, end, out);
        true
    }

    fn send_r2t(&mut self, slot: Slot, start: u32, end: u32, out: &mut Outbox) {
        let numbers = self.numbers();
        let task = self.tasks.get_mut(slot);
        let r2t_sn = task.pdus;
        task.pdus += 1;
        // The number makes a tag of an earlier R2T stale. Slots end below 256, so this is never FFFFFFFFh.
        let ttt = u32::from(slot) | (r2t_sn & 0xFFFF) << 16;
        let r2t =
            ReadyToTransfer { lun: task.lun, itt: task.itt, ttt, r2t_sn, offset: start, len: end - start };
        out.send(r2t.encode(numbers));
        self.expect(slot, Expecting::Solicited { ttt, next_sn: 0, end });
    }

    fn list_sequence_ended(&mut self, slot: Slot, out: &mut Outbox) {
        let task = self.tasks.get(slot);
        let (moved, need) = (task.moved, task.need);
        if task.failed() {
            self.respond(slot, out);
        } else if moved < need {
            self.send_r2t(slot, moved, need, out);
        } else {
            self.execute_list(slot, out);
        }
    }

    /// A piece of a chunk is on the disks.
    pub(super) fn chunk_written(&mut self, slot: Slot, piece: u16, out: &mut Outbox) {
        self.free_if_quiet(slot, usize::from(piece / 2), out);
        self.settle_write(slot, out);
    }

    /// Answers a WRITE when nothing more is to come and nothing is in flight.
    fn settle_write(&mut self, slot: Slot, out: &mut Outbox) {
        let task = self.tasks.get(slot);
        if task.expecting != Expecting::Nothing || task.in_flight > 0 {
            return;
        }
        if task.failed() {
            self.stop_waiting(slot);
            for chunk in 0..usize::from(self.tasks.get(slot).provided) {
                self.free_if_quiet(slot, chunk, out);
            }
            self.respond(slot, out);
        } else if task.moved >= task.need {
            self.respond(slot, out);
        }
    }
}
