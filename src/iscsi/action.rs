//! Commands that compare, combine, repeat or give back blocks ([`scsi::Action`](crate::scsi::Action)).
//!
//! All data of such a command is taken first, then a few stages run one after the other: lock, read and compare, write,
//! unlock. Nobody else sees or changes the range between the lock and its end.
//!
//! Why this cannot lock up: a command gets all the buffers it will need at once, before any of its data is asked for,
//! or is answered TASK SET FULL; so no two commands each hold what the other waits for. Locks are taken one after the
//! other, one in each extent, by rising address. A lock that was taken is given back before the task's slot is, aborted
//! or not.

use crate::block::{BlockOp, BufSlice};
use crate::scsi::{Action, ActionKind, LuIndex, SenseData, Status, unmap_descriptor};
use crate::units::{BlockRange, CHUNK_BYTES, Geometry, Lba, Pool, RequestId};

use super::bhs::Command;
use super::effect::{Effect, Examine, Outbox};
use super::pdu::Residual;
use super::session::{Flow, Session, padded};
use super::task::{CHUNK_SHIFT, Ending, Slot, Work};

/// Block requests under way at a time, where they do not wait for each other.
const DEPTH: u16 = 8;
/// Piece numbers of actions have this bit; with it and all others set it is a flush.
pub(super) const ACTION_PIECE: u16 = 0x8000;
/// Piece numbers count up to here and start again.
const PIECE_MASK: u16 = 0x3FFF;

/// What is done with the whole range before the next stage begins.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Stage {
    /// Fill the first chunk with copies of its first block.
    Repeat,
    Lock,
    /// Read into the scratch buffer and nothing else.
    Scan,
    /// Read into the scratch buffer, compare with the data.
    Compare,
    /// Read into the scratch buffer, set its bits in the data.
    Or,
    Write,
    /// Write the first chunk again and again.
    Same,
    Zero,
    Unlock,
}

impl Stage {
    fn depth(self) -> u16 {
        match self {
            Self::Write | Self::Same | Self::Zero | Self::Unlock => DEPTH,
            Self::Repeat | Self::Lock | Self::Scan | Self::Compare | Self::Or => 1,
        }
    }

    fn needs_scratch(self) -> bool {
        matches!(self, Self::Scan | Self::Compare | Self::Or)
    }
}

fn stages_of(kind: ActionKind) -> &'static [Stage] {
    match kind {
        ActionKind::Scan => &[Stage::Scan],
        ActionKind::Compare => &[Stage::Compare],
        ActionKind::CompareOne => &[Stage::Repeat, Stage::Compare],
        ActionKind::WriteAndScan => &[Stage::Write, Stage::Scan],
        ActionKind::WriteAndCompare => &[Stage::Write, Stage::Compare],
        ActionKind::CompareAndWrite => &[Stage::Lock, Stage::Compare, Stage::Write, Stage::Unlock],
        ActionKind::Or => &[Stage::Lock, Stage::Or, Stage::Write, Stage::Unlock],
        ActionKind::Same { .. } => &[Stage::Repeat, Stage::Same],
        ActionKind::Zero { .. } => &[Stage::Zero],
    }
}

/// A task's action on its way.
#[derive(Clone, Copy, Debug)]
pub(super) struct Program {
    action: Action,
    /// Place in [`stages_of`] the action.
    stage: usize,
    /// Blocks of the stage that were asked for.
    asked: u32,
    /// Blocks, from the first on, whose lock is held.
    locked: u32,
    /// The last piece asked for, and where its data is in the command's.
    piece: BlockRange,
    data_at: u32,
    /// Numbers the pieces.
    sequence: u16,
    /// Chunk of the scratch buffer.
    scratch: u16,
    /// UNMAP: descriptors of the parameter list, and which is next.
    descriptors: u16,
    next_descriptor: u16,
}

impl Program {
    fn new(action: Action, scratch: u16) -> Self {
        Self {
            action,
            stage: 0,
            asked: 0,
            locked: 0,
            piece: BlockRange::default(),
            data_at: 0,
            sequence: 0,
            scratch,
            descriptors: 0,
            next_descriptor: 0,
        }
    }

    fn stage(&self) -> Option<Stage> {
        stages_of(self.action.kind).get(self.stage).copied()
    }

    /// Blocks that the stage goes through.
    fn blocks(&self, stage: Stage) -> u32 {
        match stage {
            Stage::Repeat => 0,
            Stage::Unlock => self.locked,
            _ => self.action.range.count,
        }
    }

    /// Takes the next piece of the stage: within one extent, and within one chunk where it has data.
    fn take_piece(&mut self, stage: Stage, geometry: &Geometry) -> BlockRange {
        let shift = geometry.block_shift;
        let left = self.blocks(stage) - self.asked;
        let start = Lba(self.action.range.start.0 + u64::from(self.asked));
        let to_edge = geometry.extent_pieces(BlockRange::new(start, left)).next();
        let mut count = to_edge.map_or(left, |(piece, _)| piece.count);
        let chunk = (CHUNK_BYTES >> shift) as u32;
        self.data_at = match (stage, self.action.kind) {
            (Stage::Write, ActionKind::CompareAndWrite) => (self.action.range.count + self.asked) << shift,
            (Stage::Compare, ActionKind::CompareOne) | (Stage::Same, _) => 0,
            _ => self.asked << shift,
        };
        if !matches!(stage, Stage::Lock | Stage::Unlock | Stage::Zero) {
            count = count.min(chunk - (self.data_at >> shift) % chunk).min(chunk);
        }
        self.asked += count;
        self.piece = BlockRange::new(start, count);
        self.piece
    }

    /// Where the data of a miscompare stands in what the initiator sent.
    fn miscompare(&self, at: u32, geometry: &Geometry) -> SenseData {
        let at = match self.action.kind {
            ActionKind::CompareOne => at % geometry.block_bytes(),
            _ => self.data_at + at,
        };
        SenseData::miscompare(u64::from(at))
    }
}

impl Session {
    /// Takes in a command on the medium and its data.
    pub(super) fn start_action(
        &mut self,
        slot: Slot,
        command: &Command,
        mut action: Action,
        data: usize,
        pool: &mut impl Pool,
        out: &mut Outbox,
    ) -> Flow {
        let geometry = self.config.target(self.grant).logical_unit(action.lu).geometry;
        let given = if command.write { command.expected } else { 0 };
        let wanted = action.data_blocks() << geometry.block_shift;
        let residual = Residual::between(given, u64::from(wanted));
        if action.may_be_short() {
            action.range.count = action.range.count.min(given >> geometry.block_shift);
            if action.range.count == 0 {
                self.refuse_with(slot, command, Ending::Good, residual, out);
                return Flow::Skip(padded(data));
            }
        } else if action.range.count == 0 && given == 0 {
            self.refuse_with(slot, command, Ending::Good, residual, out);
            return Flow::Skip(padded(data));
        } else if given != wanted && (wanted > 0 || action.range.count == 0) {
            let ending = Ending::Check(SenseData::invalid_cdb_field(0));
            self.refuse_with(slot, command, ending, residual, out);
            return Flow::Skip(padded(data));
        }
        let need = action.data_blocks() << geometry.block_shift;
        if !self.provide_action(slot, action, need, pool, out) {
            return self.refuse(slot, command, Ending::Status(Status::TaskSetFull), data, out);
        }
        let task = self.tasks.get_mut(slot);
        task.work = Work::Act;
        task.residual = residual;
        task.need = need;
        self.expect_unsolicited(slot, command);
        let len = (data as u32).min(need);
        if len > 0 {
            let surplus = data as u32 - len;
            return Flow::Media { slot, len, surplus, pad: padded(data) - data, last: command.last };
        }
        if command.last {
            self.sequence_ended(slot, pool, out);
        }
        Flow::Skip(padded(data))
    }

    /// Gives the task every buffer that its action will need, or none.
    fn provide_action(
        &mut self,
        slot: Slot,
        action: Action,
        need: u32,
        pool: &mut impl Pool,
        out: &mut Outbox,
    ) -> bool {
        let geometry = self.config.target(self.grant).logical_unit(action.lu).geometry;
        let stages = stages_of(action.kind);
        let chunk = CHUNK_BYTES as u32;
        let range = u32::try_from(geometry.range_bytes(action.range)).unwrap_or(u32::MAX).min(chunk);
        let scratch = need.div_ceil(chunk) as u16;
        let repeat = stages.contains(&Stage::Repeat);
        let mut complete = true;
        for at in 0..scratch {
            let len = if repeat { range } else { (need - u32::from(at) * chunk).min(chunk) };
            complete = complete && self.provide_len(slot, usize::from(at), len as usize, true, pool);
        }
        if complete && stages.iter().any(|stage| stage.needs_scratch()) {
            complete = self.provide_len(slot, usize::from(scratch), range as usize, true, pool);
        }
        let task = self.tasks.get_mut(slot);
        (task.lu, task.blocks, task.provided) = (action.lu, action.range, scratch + 1);
        if complete {
            task.program = Some(Program::new(action, scratch));
        } else {
            self.free_chunks(slot, out);
        }
        complete
    }

    fn free_chunks(&mut self, slot: Slot, out: &mut Outbox) {
        for chunk in 0..usize::from(self.tasks.get(slot).provided) {
            self.free_if_quiet(slot, chunk, out);
        }
        self.tasks.get_mut(slot).provided = 0;
    }

    /// Begins to give back what a parameter list names, which has been checked.
    pub(super) fn start_unmap(
        &mut self,
        slot: Slot,
        lu: LuIndex,
        descriptors: u16,
        fua: bool,
        out: &mut Outbox,
    ) {
        let kind = ActionKind::Zero { unmap: true };
        let action = Action { lu, range: BlockRange::default(), kind, fua };
        let task = self.tasks.get_mut(slot);
        task.work = Work::Act;
        task.lu = lu;
        task.program = Some(Program { descriptors, ..Program::new(action, 0) });
        self.pump_action(slot, out);
    }

    /// All data of the command is there, or it has failed.
    pub(super) fn pump_action(&mut self, slot: Slot, out: &mut Outbox) {
        loop {
            let task = self.tasks.get_mut(slot);
            let program = task.program.as_mut().expect("an action has its program");
            let over = matches!(program.stage(), None | Some(Stage::Unlock));
            if task.ending != Ending::Good && !over {
                // Nothing more than to give the locks back.
                if task.in_flight > 0 {
                    return;
                }
                let stages = stages_of(program.action.kind);
                let unlock = stages.iter().position(|stage| *stage == Stage::Unlock);
                (program.stage, program.asked) = (unlock.unwrap_or(stages.len()), 0);
                continue;
            }
            let Some(stage) = program.stage() else {
                if !self.next_unmap_range(slot) {
                    return self.end_action(slot, out);
                }
                continue;
            };
            if stage == Stage::Repeat {
                return self.repeat_block(slot, out);
            }
            if program.asked == program.blocks(stage) {
                if task.in_flight > 0 {
                    return;
                }
                (program.stage, program.asked) = (program.stage + 1, 0);
                continue;
            }
            if task.in_flight >= stage.depth() {
                return;
            }
            self.ask_piece(slot, stage, out);
        }
    }

    /// UNMAP: goes on with the next range of the list, if there is one.
    fn next_unmap_range(&mut self, slot: Slot) -> bool {
        let task = self.tasks.get_mut(slot);
        let program = task.program.as_mut().expect("an action has its program");
        if task.ending != Ending::Good || program.next_descriptor == program.descriptors {
            return false;
        }
        program.action.range = unmap_descriptor(&task.list, usize::from(program.next_descriptor));
        program.next_descriptor += 1;
        (program.stage, program.asked) = (0, 0);
        true
    }

    /// Asks the volume for the next piece of the stage.
    fn ask_piece(&mut self, slot: Slot, stage: Stage, out: &mut Outbox) {
        let geometry = self.config.target(self.grant).logical_unit(self.tasks.get(slot).lu).geometry;
        let task = self.tasks.get_mut(slot);
        let program = task.program.as_mut().expect("an action has its program");
        let range = program.take_piece(stage, &geometry);
        program.sequence = (program.sequence + 1) & PIECE_MASK;
        let piece = ACTION_PIECE | program.sequence;
        let Program { action, locked, scratch, data_at, .. } = *program;
        let verified = matches!(action.kind, ActionKind::WriteAndScan | ActionKind::WriteAndCompare);
        let fua = action.fua || verified;
        let unmap =
            matches!(action.kind, ActionKind::Zero { unmap: true } | ActionKind::Same { unmap: true });
        let scratch = || BufSlice { buf: self.chunk_buf(slot, usize::from(scratch)), offset: 0 };
        let (op, buf) = match stage {
            Stage::Lock => (BlockOp::Lock, None),
            Stage::Unlock => (BlockOp::Unlock, None),
            Stage::Zero => (BlockOp::Zero { fua, unmap }, None),
            Stage::Scan | Stage::Compare | Stage::Or => (BlockOp::Read, Some(scratch())),
            Stage::Write | Stage::Same => (BlockOp::Write { fua }, Some(self.data_slice(slot, data_at))),
            Stage::Repeat => unreachable!("repeating needs no medium"),
        };
        let locked = locked > 0 && stage != Stage::Lock && stage != Stage::Unlock;
        self.request_locked(slot, piece, op, range, buf, locked, out);
    }

    fn chunk_buf(&self, slot: Slot, chunk: usize) -> crate::units::BufId {
        self.tasks.chunk(slot, chunk).buf.expect("an action has its buffers from the start")
    }

    /// The place of a byte of the command's data.
    fn data_slice(&self, slot: Slot, at: u32) -> BufSlice {
        let buf = self.chunk_buf(slot, (at >> CHUNK_SHIFT) as usize);
        BufSlice { buf, offset: at & (CHUNK_BYTES as u32 - 1) }
    }

    /// A request of an action ended well. A lock counts even if the task was aborted meanwhile.
    pub(super) fn note_lock(&mut self, slot: Slot) {
        if let Some(program) = self.tasks.get_mut(slot).program.as_mut() {
            if program.stage() == Some(Stage::Lock) {
                program.locked += program.piece.count;
            }
        }
    }

    /// A request of the action ended; failures are noted already.
    pub(super) fn action_done(&mut self, slot: Slot, out: &mut Outbox) {
        let task = self.tasks.get_mut(slot);
        let good = task.ending == Ending::Good;
        let program = task.program.as_ref().expect("an action has its program");
        let how = match program.stage() {
            Some(Stage::Compare) if good => Some(Examine::Compare),
            Some(Stage::Or) if good => Some(Examine::Or),
            _ => None,
        };
        let Some(how) = how else { return self.pump_action(slot, out) };
        let (scratch, at, piece) = (program.scratch, program.data_at, program.piece);
        let len = self.config.target(self.grant).logical_unit(task.lu).geometry.range_bytes(piece) as u32;
        let right = BufSlice { buf: self.chunk_buf(slot, usize::from(scratch)), offset: 0 };
        let left = self.data_slice(slot, at);
        self.examine(slot, how, left, right, len, out);
    }

    fn repeat_block(&mut self, slot: Slot, out: &mut Outbox) {
        let task = self.tasks.get(slot);
        if task.in_flight > 0 {
            return;
        }
        let geometry = self.config.target(self.grant).logical_unit(task.lu).geometry;
        let len = geometry.range_bytes(task.blocks).min(CHUNK_BYTES) as u32;
        let chunk = self.data_slice(slot, 0);
        self.examine(slot, Examine::Repeat { block: geometry.block_bytes() }, chunk, chunk, len, out);
    }

    fn examine(
        &mut self,
        slot: Slot,
        how: Examine,
        left: BufSlice,
        right: BufSlice,
        len: u32,
        out: &mut Outbox,
    ) {
        self.tasks.get_mut(slot).in_flight += 1;
        let id = self.request_id(slot, ACTION_PIECE);
        out.push(Effect::Examine { id, how, left, right, len });
    }

    /// The driver has looked at the bytes: the first that differs, or is not zero.
    pub(super) fn on_examined(&mut self, id: RequestId, found: Option<u32>, out: &mut Outbox) {
        let slot = (id.0 >> 16) as u16;
        let task = self.tasks.live_mut(slot).expect("an examination belongs to a live task");
        assert!(task.in_flight > 0, "an examination was answered twice");
        task.in_flight -= 1;
        if task.aborted {
            return self.aborted_piece(slot, ACTION_PIECE, out);
        }
        let geometry = self.config.target(self.grant).logical_unit(task.lu).geometry;
        let program = task.program.as_mut().expect("an action has its program");
        match (program.stage(), found) {
            (Some(Stage::Compare), Some(at)) => {
                let sense = program.miscompare(at, &geometry);
                task.fail(Ending::Check(sense));
            }
            (Some(Stage::Repeat), found) => {
                (program.stage, program.asked) = (program.stage + 1, 0);
                if let (ActionKind::Same { unmap }, None) = (program.action.kind, found) {
                    // All zeroes: that is done without data.
                    (program.action.kind, program.stage) = (ActionKind::Zero { unmap }, 0);
                }
            }
            _ => {}
        }
        self.pump_action(slot, out);
    }

    /// The first block of the piece that failed, and whether it was being read.
    pub(super) fn failed_piece(&self, slot: Slot) -> (Lba, bool) {
        let program = self.tasks.get(slot).program.as_ref().expect("an action has its program");
        let read = program.stage().is_some_and(Stage::needs_scratch);
        // Where several were under way, it is one of those from here on.
        let start = if read { program.piece.start } else { program.action.range.start };
        (start, read)
    }

    fn end_action(&mut self, slot: Slot, out: &mut Outbox) {
        self.free_chunks(slot, out);
        self.respond(slot, out);
    }

    /// An aborted action that has nothing in flight goes no further than to its locks' end. `true`: that is under way.
    pub(super) fn unlock_aborted(&mut self, slot: Slot, out: &mut Outbox) -> bool {
        let Some(mut program) = self.tasks.get_mut(slot).program.take() else { return false };
        if program.locked == 0 || program.stage() == Some(Stage::Unlock) {
            return false;
        }
        let geometry = self.config.target(self.grant).logical_unit(self.tasks.get(slot).lu).geometry;
        program.asked = 0;
        while program.asked < program.locked {
            let range = program.take_piece(Stage::Unlock, &geometry);
            self.request_locked(slot, ACTION_PIECE, BlockOp::Unlock, range, None, false, out);
        }
        true
    }
}
