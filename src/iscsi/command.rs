//! SCSI commands: admission, execution, and results that need no media access.

use crate::scsi::{AdditionalSense, LuIndex, Outcome, SenseData, SenseKey};
use crate::units::Pool;

use super::attribute::{INVALID_ATTRIBUTE, attribute};
use super::bhs::{self, Command};
use super::effect::Outbox;
use super::pdu::{RejectReason, Residual};
use super::session::{Flow, Session, padded};
use super::task::{Attribute, Ending, Expecting, Slot, Work};

/// 0B/4B/00 DATA PHASE ERROR: data that does not fit the command or the data before it.
pub(super) const DATA_PHASE_ERROR: SenseData =
    SenseData::new(SenseKey::AbortedCommand, AdditionalSense { code: 0x4B, qualifier: 0x00 });

impl Session {
    /// A SCSI Command with `data` bytes of immediate data behind it.
    pub(super) fn on_command(
        &mut self,
        command: &Command,
        ahs: &[u8],
        data: usize,
        pool: &mut impl Pool,
        out: &mut Outbox,
    ) -> Flow {
        if self.discovery {
            return Flow::Reject(RejectReason::ProtocolError, "a SCSI command in a discovery session");
        }
        self.cdb.clear();
        self.cdb.extend_from_slice(&command.cdb);
        if bhs::extended_cdb(ahs, &mut self.cdb).is_err() {
            return Flow::Reject(RejectReason::InvalidField, "a bad additional header segment");
        }
        let slot = match self.admit_command(command, data) {
            Ok(slot) => slot,
            Err(flow) => return flow,
        };
        if attribute(command.attribute).is_none() {
            return self.refuse(slot, command, Ending::Check(INVALID_ATTRIBUTE), data, out);
        }
        if let Some(sense) = self.misplaced_data(command, data) {
            return self.refuse(slot, command, Ending::Check(sense), data, out);
        }
        let mut data_in = core::mem::take(&mut self.data_in);
        let outcome =
            self.config.target(self.grant).execute(&mut self.nexus, command.lun, &self.cdb, &mut data_in);
        let flow = self.follow(slot, command, outcome, &data_in, data, pool, out);
        self.data_in = data_in;
        flow
    }

    #[allow(clippy::too_many_arguments, reason = "the one place where a command meets its outcome")]
    fn follow(
        &mut self,
        slot: Slot,
        command: &Command,
        outcome: Outcome,
        data_in: &[u8],
        data: usize,
        pool: &mut impl Pool,
        out: &mut Outbox,
    ) -> Flow {
        match outcome {
            Outcome::Write { lu, range, fua } => {
                let task = self.tasks.get_mut(slot);
                (task.lu, task.blocks, task.fua) = (lu, range, fua);
                self.start_write(slot, command, data, pool, out)
            }
            Outcome::Act(action) if action.data_blocks() > 0 => {
                self.start_action(slot, command, action, data, pool, out)
            }
            Outcome::NeedData { bytes } => self.start_list(slot, command, bytes, data, out),
            Outcome::Check(sense) => self.refuse(slot, command, Ending::Check(sense), data, out),
            Outcome::Status(status) => self.refuse(slot, command, Ending::Status(status), data, out),
            // Unsolicited data was announced for a command that takes none.
            _ if !command.last => self.refuse(slot, command, Ending::Check(DATA_PHASE_ERROR), data, out),
            Outcome::Done if data_in.is_empty() => self.refuse(slot, command, Ending::Good, data, out),
            Outcome::Done => {
                self.send_data_in(slot, command, data_in, out);
                Flow::Skip(padded(data))
            }
            Outcome::Act(action) => self.start_action(slot, command, action, data, pool, out),
            Outcome::ChangeUnit => {
                let task = self.tasks.get_mut(slot);
                task.cdb = command.cdb;
                task.residual = Residual::between(command.expected, 0);
                self.start_change(slot, data_in, out);
                Flow::Skip(padded(data))
            }
            Outcome::Unmap { .. } => {
                let sense = SenseData::INTERNAL_TARGET_FAILURE;
                self.refuse(slot, command, Ending::Check(sense), data, out)
            }
            Outcome::Flush { lu } => {
                self.start_flush(slot, command, lu, out);
                Flow::Skip(padded(data))
            }
            Outcome::Read { lu, range, fua } => {
                let task = self.tasks.get_mut(slot);
                (task.lu, task.blocks, task.fua) = (lu, range, fua);
                self.start_read(slot, command, pool, out);
                Flow::Skip(padded(data))
            }
        }
    }

    fn admit_command(&mut self, command: &Command, data: usize) -> Result<Slot, Flow> {
        let sequence = &command.sequence;
        if sequence.immediate && self.tasks.immediate() >= self.config.limits.immediate {
            return Err(Flow::Refuse(RejectReason::TooManyImmediate, padded(data)));
        }
        self.judge(sequence, padded(data))?;
        if self.tasks.find(command.itt).is_some() {
            return Err(Flow::Reject(RejectReason::TaskInProgress, "a task tag that is in use"));
        }
        if !sequence.immediate {
            self.window.admit();
            self.window.hold();
        }
        let slot = self.tasks.insert(command.itt, sequence.immediate);
        // ACA and reserved attributes are refused before anything is done.
        self.queue(slot, attribute(command.attribute).unwrap_or(Attribute::Simple));
        let task = self.tasks.get_mut(slot);
        task.lun = command.lun;
        task.expected = command.expected;
        Ok(slot)
    }

    /// Unsolicited data against what was agreed (§11.3.4, §11.4.7.2).
    fn misplaced_data(&self, command: &Command, data: usize) -> Option<SenseData> {
        let parameters = &self.parameters;
        let allowed = command.write && parameters.immediate_data;
        if data > 0 && (!allowed || data > parameters.first_burst as usize) {
            return Some(SenseData::UNEXPECTED_UNSOLICITED_DATA);
        }
        if data > command.expected as usize {
            return Some(DATA_PHASE_ERROR);
        }
        (!command.last && parameters.initial_r2t).then_some(SenseData::UNEXPECTED_UNSOLICITED_DATA)
    }

    /// The result stands already: answer, but not before the unsolicited data has come (§11.4.2). It is dropped.
    pub(super) fn refuse(
        &mut self,
        slot: Slot,
        command: &Command,
        ending: Ending,
        data: usize,
        out: &mut Outbox,
    ) -> Flow {
        let residual = Residual::between(command.expected, 0);
        self.refuse_with(slot, command, ending, residual, out);
        Flow::Skip(padded(data))
    }

    pub(super) fn refuse_with(
        &mut self,
        slot: Slot,
        command: &Command,
        ending: Ending,
        residual: Residual,
        out: &mut Outbox,
    ) {
        let task = self.tasks.get_mut(slot);
        task.work = Work::Refused;
        task.ending = ending;
        task.residual = residual;
        self.expect_unsolicited(slot, command);
        if self.tasks.get(slot).expecting == Expecting::Nothing {
            self.respond(slot, out);
        }
    }

    /// Notes the unsolicited Data-Out that a command without the F bit announces. Where none is allowed, none is waited
    /// for: what comes all the same finds no task and is dropped.
    pub(super) fn expect_unsolicited(&mut self, slot: Slot, command: &Command) {
        if command.last || self.parameters.initial_r2t {
            return;
        }
        let end = command.expected.min(self.parameters.first_burst);
        self.expect(slot, Expecting::Unsolicited { next_sn: 0, end });
    }

    fn start_flush(&mut self, slot: Slot, command: &Command, lu: LuIndex, out: &mut Outbox) {
        let task = self.tasks.get_mut(slot);
        task.work = Work::Flush;
        task.lu = lu;
        task.residual = Residual::between(command.expected, 0);
        self.issue_flush(slot, out);
    }

    /// The parameter list is complete.
    pub(super) fn execute_list(&mut self, slot: Slot, out: &mut Outbox) {
        let task = self.tasks.get_mut(slot);
        let list = core::mem::take(&mut task.list);
        let (lun, cdb) = (task.lun, task.cdb);
        let mut data_in = core::mem::take(&mut self.data_in);
        let target = self.config.target(self.grant);
        let outcome = target.execute_with_data(&self.nexus, lun, &cdb, &list, &mut data_in);
        self.tasks.get_mut(slot).list = list;
        match outcome {
            Outcome::Unmap { lu, descriptors, fua } => self.start_unmap(slot, lu, descriptors, fua, out),
            Outcome::ChangeUnit => self.start_change(slot, &data_in, out),
            outcome => {
                self.tasks.get_mut(slot).fail(Ending::of(&outcome));
                self.respond(slot, out);
            }
        }
        self.data_in = data_in;
    }
}
