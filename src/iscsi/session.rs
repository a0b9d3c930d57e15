//! The full feature phase of a session: numbers, tasks, and what follows from each request.
//!
//! MaxConnections is 1, so a session lives inside its connection; it is keyed by [`NexusName`](super::NexusName) all the same, and nothing
//! in it knows of the byte stream.
//!
//! Invariants: every admitted command is answered exactly once or aborted; StatSN rises by one with every PDU that
//! carries status and with no other (§4.2.2.2); `held` counts the buffers in the chunks of all tasks.

use alloc::collections::VecDeque;
use alloc::sync::Arc;
use alloc::vec::Vec;

use crate::block::{BlockOp, BlockRequest, BlockStatus, BufSlice};
use crate::scsi::{InitiatorPort, Nexus, SENSE_BYTES_MAX, SenseData, SenseFormat, Status, UnitAttention};
use crate::time::{Duration, Instant, earliest};
use crate::units::{BlockRange, CHUNK_BYTES, Lba, Pool, RequestId};
use crate::wire::SerialNumber;

use super::access::Grant;
use super::action::ACTION_PIECE;
use super::attribute::Held;
use super::bhs::{Bhs, Lun, Sequence, pad_of};
use super::command_window::{Admission, CommandWindow};
use super::config::TargetConfig;
use super::connection::Origin;
use super::effect::{CloseReason, Effect, Outbox};
use super::keys::Parameters;
use super::nop::Keepalive;
use super::pdu::{self, Numbers, RejectReason};
use super::task::{CHUNK_SHIFT, Ending, Expecting, SLOTS_MAX, Slot, SlotSet, Task, TaskSet, Work};
use super::task_management::Management;
use super::text::TextExchange;
use super::unit::{Changes, UnitSnapshot};

/// What the connection does with the rest of a PDU.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Flow {
    /// Drop this many bytes.
    Skip(usize),
    /// Store `len` bytes in the task's buffers; count `surplus` more as received and drop them, and the padding.
    Media {
        slot: Slot,
        len: u32,
        surplus: u32,
        pad: usize,
        last: bool,
    },
    /// Append `len` bytes to the task's parameter list.
    List {
        slot: Slot,
        len: u32,
        surplus: u32,
        pad: usize,
        last: bool,
    },
    /// Send a Reject with this header, drop this many bytes, and go on.
    Refuse(RejectReason, usize),
    /// Send a Reject with this header, then close: at ErrorRecoveryLevel 0 the session is lost (§7.7, §7.13).
    Reject(RejectReason, &'static str),
    Close(CloseReason),
}

/// A session in full feature phase.
#[derive(Debug)]
pub(super) struct Session {
    pub(super) config: Arc<TargetConfig>,
    pub(super) origin: Origin,
    pub(super) parameters: Parameters,
    pub(super) discovery: bool,
    pub(super) grant: Grant,
    pub(super) cid: u16,
    pub(super) window: CommandWindow,
    stat_sn: SerialNumber,
    pub(super) nexus: Nexus,
    pub(super) changes: Changes,
    /// The connection has ended.
    pub(super) over: bool,
    pub(super) tasks: TaskSet,
    /// Tasks that wait for a buffer, in order.
    pub(super) waiting: VecDeque<Slot>,
    /// Buffers in chunks.
    pub(super) held: usize,
    /// Tasks that wait for others, and their block requests.
    pub(super) held_tasks: Held,
    /// Block requests that the driver has.
    pub(super) in_flight: usize,
    /// The task whose data the stream is at. Its slot and the buffer being filled stay until the PDU ends.
    pub(super) receiving: Option<Slot>,
    /// Tasks with Data-Out due.
    pub(super) expecting: usize,
    pub(super) management: Management,
    /// The session is over for this reason once the outbox is drained.
    pub(super) finished: Option<CloseReason>,
    pub(super) text: Option<TextExchange>,
    pub(super) keepalive: Keepalive,
    /// The initiator was asked to log out by then.
    pub(super) leave_by: Option<Instant>,
    /// Data of the command being executed.
    pub(super) data_in: Vec<u8>,
    /// CDB of the command being executed.
    pub(super) cdb: Vec<u8>,
}

/// Piece number of a flush.
pub(super) const FLUSH_PIECE: u16 = u16::MAX;

/// What a login hands over.
pub(super) struct Start {
    pub(super) initiator: InitiatorPort,
    pub(super) unit: UnitSnapshot,
    pub(super) parameters: Parameters,
    pub(super) discovery: bool,
    /// The session goes on over a new connection.
    pub(super) reinstated: bool,
    pub(super) grant: Grant,
    pub(super) cid: u16,
    pub(super) cmd_sn: SerialNumber,
    pub(super) stat_sn: SerialNumber,
}

impl Session {
    pub(super) fn new(config: Arc<TargetConfig>, origin: Origin, start: Start, now: Instant) -> Self {
        let limits = config.limits;
        let slots = usize::from(limits.window) + usize::from(limits.immediate);
        assert!(slots <= SLOTS_MAX, "window and immediate commands exceed the task slots");
        // A discovery session executes nothing.
        let target = config.target(start.grant);
        let bytes = if start.discovery { 0 } else { target.max_data_bytes() + CHUNK_BYTES as u32 };
        let UnitSnapshot { version, memory } = start.unit;
        let mut nexus = Nexus::new(target, start.initiator, memory);
        if start.reinstated {
            nexus.post_all(UnitAttention::NexusLoss);
        }
        Self {
            origin,
            parameters: start.parameters,
            discovery: start.discovery,
            grant: start.grant,
            cid: start.cid,
            window: CommandWindow::new(start.cmd_sn, limits.window),
            stat_sn: start.stat_sn,
            nexus,
            changes: Changes::new(version),
            over: false,
            tasks: TaskSet::new(if start.discovery { 0 } else { slots }, bytes),
            waiting: VecDeque::with_capacity(slots),
            held: 0,
            held_tasks: Held::new(),
            in_flight: 0,
            receiving: None,
            expecting: 0,
            management: Management::new(),
            finished: None,
            text: None,
            keepalive: Keepalive::new(&limits, now),
            leave_by: None,
            data_in: Vec::with_capacity(1024),
            cdb: Vec::with_capacity(32),
            config,
        }
    }

    /// Numbers for a PDU without status: the next StatSN, unconsumed.
    pub(super) fn numbers(&self) -> Numbers {
        Numbers { stat_sn: self.stat_sn, exp_cmd_sn: self.window.expected(), max_cmd_sn: self.window.max() }
    }

    /// Numbers for a PDU with status.
    pub(super) fn status_numbers(&mut self) -> Numbers {
        let numbers = self.numbers();
        self.stat_sn = self.stat_sn.next();
        numbers
    }

    /// Judges the order of a request (§4.2.2.1). `Err` says what to do instead of executing it; `rest` is what follows its
    /// header in the stream.
    pub(super) fn judge(&self, sequence: &Sequence, rest: usize) -> Result<(), Flow> {
        if sequence.immediate {
            return Ok(());
        }
        match self.window.judge(sequence.cmd_sn) {
            Admission::Next => Ok(()),
            Admission::Outside => Err(Flow::Skip(rest)),
            Admission::Gap => Err(Flow::Close(CloseReason::Protocol("a CmdSN was left out"))),
        }
    }

    /// Takes in a request that is done at once and holds no credit.
    pub(super) fn admit(&mut self, sequence: &Sequence, rest: usize) -> Result<(), Flow> {
        self.judge(sequence, rest)?;
        if !sequence.immediate {
            self.window.admit();
        }
        Ok(())
    }

    pub(super) fn reject(&mut self, reason: RejectReason, bhs: &Bhs, out: &mut Outbox) {
        let numbers = self.status_numbers();
        out.send_bytes(pdu::reject(reason, numbers), bhs);
    }

    /// A block request ended.
    pub(super) fn on_block_done(
        &mut self,
        id: RequestId,
        status: BlockStatus,
        pool: &mut impl Pool,
        out: &mut Outbox,
    ) -> Result<(), CloseReason> {
        let slot = (id.0 >> 16) as u16;
        let piece = id.0 as u16;
        self.in_flight -= 1;
        self.piece_came_back(slot, piece);
        if status == BlockStatus::Good && self.tasks.get(slot).work == Work::Act {
            self.note_lock(slot);
        }
        if self.tasks.get(slot).aborted {
            self.aborted_piece(slot, piece, out);
            return Ok(());
        }
        match status {
            BlockStatus::Good => {}
            BlockStatus::MediumError => self.medium_error(slot, piece),
            BlockStatus::NotReady => {
                self.tasks.get_mut(slot).fail(Ending::Check(SenseData::ACCESS_STATE_TRANSITION));
            }
            // The initiator must not see an error of the role: it loses the connection and asks the other node.
            BlockStatus::NotServing => return Err(CloseReason::NotServing),
        }
        self.piece_ended(slot, piece, pool, out);
        Ok(())
    }

    /// Counts a piece as not in flight any more.
    pub(super) fn piece_came_back(&mut self, slot: Slot, piece: u16) {
        let task = self.tasks.live_mut(slot).expect("a block request belongs to a live task");
        assert!(task.in_flight > 0, "a block request was completed twice");
        task.in_flight -= 1;
        if piece < ACTION_PIECE {
            let chunk = self.tasks.chunk_mut(slot, usize::from(piece / 2));
            assert!(chunk.pieces > 0, "a piece was completed twice");
            chunk.pieces -= 1;
        }
    }

    /// What follows when a piece of a task that goes on has come back.
    pub(super) fn piece_ended(&mut self, slot: Slot, piece: u16, pool: &mut impl Pool, out: &mut Outbox) {
        match self.tasks.get(slot).work {
            Work::Read if piece == FLUSH_PIECE => self.read_flushed(slot, pool, out),
            Work::Read => self.send_ready(slot, out),
            Work::Write => self.chunk_written(slot, piece, out),
            Work::Flush => self.respond(slot, out),
            Work::Act => self.action_done(slot, out),
            Work::List | Work::Change | Work::Refused => unreachable!("these have no block requests"),
        }
    }

    fn medium_error(&mut self, slot: Slot, piece: u16) {
        if self.tasks.get(slot).work == Work::Act {
            let (lba, read) = self.failed_piece(slot);
            let sense =
                if read { SenseData::unrecovered_read_error(lba) } else { SenseData::write_error(lba) };
            return self.tasks.get_mut(slot).fail(Ending::Check(sense));
        }
        let task = self.tasks.get(slot);
        let blocks_per_chunk = self.blocks_per_chunk(slot);
        let chunk = if piece == FLUSH_PIECE { 0 } else { u64::from(piece / 2) };
        let lba = Lba(task.blocks.start.0 + chunk * blocks_per_chunk);
        let sense = match task.work {
            Work::Read => SenseData::unrecovered_read_error(lba),
            _ => SenseData::write_error(lba),
        };
        self.tasks.get_mut(slot).fail(Ending::Check(sense));
    }

    /// A piece of a task that will not be answered: its buffer, and with the last one its slot.
    pub(super) fn aborted_piece(&mut self, slot: Slot, piece: u16, out: &mut Outbox) {
        if piece < ACTION_PIECE {
            self.free_if_quiet(slot, usize::from(piece / 2), out);
        }
        if self.tasks.get(slot).in_flight == 0 && !self.unlock_aborted(slot, out) {
            self.abandon(slot, out);
            self.task_is_quiet(slot, out);
        }
    }

    /// Frees a chunk's buffer when nothing is in flight for it.
    pub(super) fn free_if_quiet(&mut self, slot: Slot, chunk: usize, out: &mut Outbox) {
        let chunk = self.tasks.chunk_mut(slot, chunk);
        if chunk.pieces == 0 {
            if let Some(buf) = chunk.buf.take() {
                self.held -= 1;
                out.push(Effect::Free(buf));
            }
        }
    }

    /// Gives the chunk a buffer, if it has none and there is one. `bounded`: within the session's own share.
    pub(super) fn provide(&mut self, slot: Slot, chunk: usize, bounded: bool, pool: &mut impl Pool) -> bool {
        let len = self.chunk_len(slot, chunk);
        self.provide_len(slot, chunk, len, bounded, pool)
    }

    /// Like [`provide`](Self::provide), for `len` bytes.
    pub(super) fn provide_len(
        &mut self,
        slot: Slot,
        chunk: usize,
        len: usize,
        bounded: bool,
        pool: &mut impl Pool,
    ) -> bool {
        if self.tasks.chunk(slot, chunk).buf.is_some() {
            return true;
        }
        if bounded && self.held >= usize::from(self.config.limits.buffers) {
            return false;
        }
        let Some(buf) = pool.take(len) else { return false };
        self.tasks.chunk_mut(slot, chunk).buf = Some(buf);
        self.held += 1;
        true
    }

    /// Bytes of the blocks in a chunk.
    fn chunk_len(&self, slot: Slot, chunk: usize) -> usize {
        let range = self.chunk_blocks(slot, chunk);
        let unit = self.config.target(self.grant).logical_unit(self.tasks.get(slot).lu);
        unit.geometry.range_bytes(range)
    }

    fn blocks_per_chunk(&self, slot: Slot) -> u64 {
        let unit = self.config.target(self.grant).logical_unit(self.tasks.get(slot).lu);
        (crate::units::CHUNK_BYTES >> unit.geometry.block_shift) as u64
    }

    fn chunk_blocks(&self, slot: Slot, chunk: usize) -> BlockRange {
        let blocks = self.tasks.get(slot).blocks;
        let per_chunk = self.blocks_per_chunk(slot);
        let first = per_chunk * chunk as u64;
        let count = u64::from(blocks.count).saturating_sub(first).min(per_chunk);
        BlockRange::new(Lba(blocks.start.0 + first), count as u32)
    }

    /// Emits the block requests of a chunk, which has its buffer.
    pub(super) fn issue(&mut self, slot: Slot, chunk: usize, op: BlockOp, out: &mut Outbox) {
        let range = self.chunk_blocks(slot, chunk);
        let geometry = self.config.target(self.grant).logical_unit(self.tasks.get(slot).lu).geometry;
        let buf = self.tasks.chunk(slot, chunk).buf.expect("a chunk has its buffer before it is issued");
        let mut pieces = 0;
        for (range, offset) in geometry.pieces(range) {
            let piece = (chunk * 2) as u16 + u16::from(pieces);
            let slice = BufSlice { buf, offset: offset as u32 };
            self.request(slot, piece, op, range, Some(slice), out);
            pieces += 1;
        }
        assert!(pieces == 1 || pieces == 2, "a chunk crosses at most one extent edge");
        self.tasks.chunk_mut(slot, chunk).pieces = pieces;
    }

    /// Emits the flush of a task.
    pub(super) fn issue_flush(&mut self, slot: Slot, out: &mut Outbox) {
        self.request(slot, FLUSH_PIECE, BlockOp::Flush, BlockRange::default(), None, out);
    }

    fn request(
        &mut self,
        slot: Slot,
        piece: u16,
        op: BlockOp,
        range: BlockRange,
        buf: Option<BufSlice>,
        out: &mut Outbox,
    ) {
        self.request_locked(slot, piece, op, range, buf, false, out);
    }

    pub(super) fn request_id(&self, slot: Slot, piece: u16) -> RequestId {
        RequestId(u64::from(self.origin.connection) << 32 | u64::from(slot) << 16 | u64::from(piece))
    }

    /// A block request. `locked`: the task holds the lock of its range.
    #[allow(clippy::too_many_arguments, reason = "the fields of a block request")]
    pub(super) fn request_locked(
        &mut self,
        slot: Slot,
        piece: u16,
        op: BlockOp,
        range: BlockRange,
        buf: Option<BufSlice>,
        locked: bool,
        out: &mut Outbox,
    ) {
        let id = self.request_id(slot, piece);
        let request = BlockRequest { id, origin: self.origin.shard, op, range, buf, locked };
        self.tasks.get_mut(slot).in_flight += 1;
        self.emit(request, out);
    }

    /// Lets tasks that wait for buffers have them, oldest first.
    pub(super) fn serve_waiting(&mut self, pool: &mut impl Pool, out: &mut Outbox) {
        while let Some(slot) = self.waiting.front().copied() {
            let satisfied = match self.tasks.get(slot).work {
                Work::Read => self.acquire_read(slot, pool, out),
                Work::Write => self.ask_for_data(slot, pool, out),
                Work::List | Work::Flush | Work::Act | Work::Change | Work::Refused => {
                    unreachable!("these wait for no buffers")
                }
            };
            if !satisfied {
                break;
            }
            self.waiting.pop_front();
            self.tasks.get_mut(slot).queued = false;
        }
    }

    pub(super) fn wait_for_buffer(&mut self, slot: Slot) {
        let task = self.tasks.get_mut(slot);
        if !task.queued {
            task.queued = true;
            self.waiting.push_back(slot);
        }
    }

    /// Answers a task, with status and sense, and releases its slot. Status of a read that went well travels in its
    /// last Data-In instead.
    pub(super) fn respond(&mut self, slot: Slot, out: &mut Outbox) {
        let task = self.tasks.get(slot);
        let (itt, ending, residual) = (task.itt, task.ending, task.residual);
        let data_ins = if task.work == Work::Read { task.pdus } else { 0 };
        let lun = task.lun;
        self.release(slot);
        let numbers = self.status_numbers();
        match ending {
            Ending::Good => out.send(pdu::scsi_response(itt, numbers, 0, residual, data_ins)),
            Ending::Status(status) => {
                out.send(pdu::scsi_response(itt, numbers, status.code(), residual, data_ins));
            }
            Ending::Check(sense) => {
                let mut bytes = [0; SENSE_BYTES_MAX];
                let len = sense.encode(self.sense_format(lun), &mut bytes);
                let mut data = [0; 2 + SENSE_BYTES_MAX];
                data[..2].copy_from_slice(&(len as u16).to_be_bytes());
                data[2..2 + len].copy_from_slice(&bytes[..len]);
                let header = pdu::scsi_response(itt, numbers, 2, residual, data_ins);
                out.send_bytes(header, &data[..2 + len]);
            }
        }
    }

    /// Of an answer at this LUN: a unit that is not there has no mode parameters.
    fn sense_format(&self, lun: Lun) -> SenseFormat {
        match self.config.target(self.grant).find(lun) {
            Some(_) => self.nexus.sense_format(),
            None => SenseFormat::Fixed,
        }
    }

    /// Releases a slot and its credit. Its buffers are free already.
    pub(super) fn release(&mut self, slot: Slot) {
        // It may have ended before its turn came, without a block request.
        self.forget_held(slot);
        let task = self.tasks.get(slot);
        assert!(task.expecting == Expecting::Nothing, "Data-Out of a released task is due");
        if !task.immediate {
            self.window.release();
        }
        self.tasks.release(slot);
    }

    /// Lets go of an aborted task that has nothing in flight, unless the stream is at its data: then at its end.
    pub(super) fn abandon(&mut self, slot: Slot, out: &mut Outbox) {
        let task = self.tasks.get(slot);
        if task.in_flight > 0 || self.receiving == Some(slot) {
            return;
        }
        if self.unlock_aborted(slot, out) {
            return;
        }
        let task = self.tasks.get(slot);
        let answered = task.answered;
        for chunk in 0..usize::from(task.provided) {
            self.free_if_quiet(slot, chunk, out);
        }
        if answered {
            self.respond(slot, out);
        } else {
            self.release(slot);
        }
    }

    pub(super) fn stop_waiting(&mut self, slot: Slot) {
        let task = self.tasks.get_mut(slot);
        if task.queued {
            task.queued = false;
            self.waiting.retain(|waiting| *waiting != slot);
        }
    }

    /// Ends a task: frees what is not in flight now, the rest as it comes back. `answer`: with TASK ABORTED, when all has.
    fn abort(&mut self, slot: Slot, answer: bool, out: &mut Outbox) {
        let task = self.tasks.get(slot);
        if task.aborted {
            return;
        }
        // What is being received has a place to go to until its PDU ends.
        let filling = (self.receiving == Some(slot)).then_some((task.moved >> CHUNK_SHIFT) as usize);
        self.stop_waiting(slot);
        self.expect_nothing(slot);
        self.forget_held(slot);
        let task = self.tasks.get_mut(slot);
        task.aborted = true;
        if answer {
            task.answered = true;
            task.ending = Ending::Status(Status::TaskAborted);
        }
        // Buffers of an action are in use wherever something of it is in flight.
        let acting = task.work == Work::Act && task.in_flight > 0;
        for chunk in 0..usize::from(task.provided) {
            if Some(chunk) != filling && !acting {
                self.free_if_quiet(slot, chunk, out);
            }
        }
        self.abandon(slot, out);
    }

    /// Aborts a live task, and adds it to `affected` if something of it is still on its way to the disks.
    pub(super) fn abort_into(&mut self, slot: Slot, answer: bool, affected: &mut SlotSet, out: &mut Outbox) {
        self.abort(slot, answer, out);
        if self.tasks.live_mut(slot).is_some_and(|task| task.in_flight > 0) {
            affected.insert(slot);
        }
    }

    /// Aborts every live task that `chosen` picks, without an answer, and says which of them (aborted before, perhaps)
    /// have something in flight.
    pub(super) fn abort_where(&mut self, chosen: impl Fn(&Task) -> bool, out: &mut Outbox) -> SlotSet {
        let mut affected = SlotSet::default();
        for slot in self.tasks.slots() {
            if self.tasks.live_mut(slot).is_some_and(|task| chosen(task)) {
                self.abort_into(slot, false, &mut affected, out);
            }
        }
        affected
    }

    /// Asks the initiator to log out.
    pub(super) fn ask_to_leave(&mut self, now: Instant, seconds: u16, out: &mut Outbox) {
        let numbers = self.status_numbers();
        out.send(pdu::logout_request(seconds, numbers));
        self.leave_by = Some(now + Duration::from_secs(u64::from(seconds)));
    }

    /// When `on_timer` is due.
    pub(super) fn deadline(&self) -> Option<Instant> {
        earliest(self.keepalive.deadline(), self.leave_by)
    }

    /// The connection is over: no more answers, and every task ends.
    pub(super) fn shut(&mut self, out: &mut Outbox) {
        self.management.forget();
        self.receiving = None;
        for slot in self.tasks.slots() {
            if let Some(task) = self.tasks.live_mut(slot) {
                task.answered = false;
            }
        }
        self.abort_where(|_| true, out);
        self.over = true;
        self.give_back_reservation(out);
    }

    /// Nothing is in flight and no task is live.
    pub(super) fn is_quiet(&self) -> bool {
        self.tasks.is_empty() && self.changes.is_empty()
    }
}

/// Bytes of a data segment with its padding.
pub(super) fn padded(len: usize) -> usize {
    len + pad_of(len)
}
