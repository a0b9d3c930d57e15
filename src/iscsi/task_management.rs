//! Task management functions (RFC 7143 §11.5-6): ABORT TASK, ABORT TASK SET, LOGICAL UNIT RESET, TARGET WARM RESET.
//!
//! A function is answered only when every task it affects is quiet: nothing of it is on its way to either disk
//! (§4.2.3). Aborted tasks are not answered.
//!
//! Absent, and answered "not supported": CLEAR ACA, CLEAR TASK SET, TARGET COLD RESET, TASK REASSIGN. A reset reaches the
//! tasks of its own session only.

use alloc::vec::Vec;

use crate::scsi::UnitAttention;

use super::bhs::{Lun, TaskManagement};
use super::effect::Outbox;
use super::pdu::{self, TaskManagementResponse};
use super::session::{Flow, Session};
use super::task::{Slot, SlotSet};

/// Most functions that wait at a time; further ones are rejected (FFh).
const PENDING_MAX: usize = 16;

const ABORT_TASK: u8 = 1;
const ABORT_TASK_SET: u8 = 2;
const CLEAR_ACA: u8 = 3;
const CLEAR_TASK_SET: u8 = 4;
const LOGICAL_UNIT_RESET: u8 = 5;
const TARGET_WARM_RESET: u8 = 6;
const TARGET_COLD_RESET: u8 = 7;
const TASK_REASSIGN: u8 = 8;

/// What is answered when tasks are quiet.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Pending {
    Function { itt: u32 },
    Logout { itt: u32 },
}

/// Answers that wait for tasks.
#[derive(Debug)]
pub(super) struct Management {
    pending: Vec<(Pending, SlotSet)>,
    /// The initiator logs out: nothing more is taken in.
    pub(super) leaving: bool,
}

impl Management {
    pub(super) fn new() -> Self {
        Self { pending: Vec::new(), leaving: false }
    }

    /// Nobody waits for an answer any more.
    pub(super) fn forget(&mut self) {
        self.pending.clear();
    }
}

impl Session {
    pub(super) fn on_task_management(
        &mut self,
        request: &TaskManagement,
        out: &mut Outbox,
    ) -> Result<(), Flow> {
        self.admit(&request.sequence, 0)?;
        if self.management.pending.len() >= PENDING_MAX {
            self.answer_function(request.itt, TaskManagementResponse::Rejected, out);
            return Ok(());
        }
        match self.apply(request, out) {
            Ok(slots) => self.when_quiet(Pending::Function { itt: request.itt }, slots, out),
            Err(response) => self.answer_function(request.itt, response, out),
        }
        Ok(())
    }

    /// Aborts what the function names; the slots that are not quiet yet.
    fn apply(
        &mut self,
        request: &TaskManagement,
        out: &mut Outbox,
    ) -> Result<SlotSet, TaskManagementResponse> {
        let lun = request.lun;
        match request.function {
            ABORT_TASK => self.abort_task(request, out),
            ABORT_TASK_SET => {
                self.known(lun)?;
                Ok(self.abort_where(|task| task.lun == lun, out))
            }
            LOGICAL_UNIT_RESET => {
                let lu = self.known(lun)?;
                self.nexus.post(lu, UnitAttention::LogicalUnitReset);
                Ok(self.abort_where(|task| task.lun == lun, out))
            }
            TARGET_WARM_RESET => {
                self.nexus.post_all(UnitAttention::TargetReset);
                Ok(self.abort_where(|_| true, out))
            }
            TASK_REASSIGN => Err(TaskManagementResponse::ReassignmentNotSupported),
            CLEAR_ACA | CLEAR_TASK_SET | TARGET_COLD_RESET => Err(TaskManagementResponse::NotSupported),
            _ => Err(TaskManagementResponse::Rejected),
        }
    }

    fn known(&self, lun: Lun) -> Result<crate::scsi::LuIndex, TaskManagementResponse> {
        self.config.scsi.find(lun).ok_or(TaskManagementResponse::LunDoesNotExist)
    }

    /// §11.6.1. On one connection everything before the function has arrived, so a task that is not here was answered.
    fn abort_task(
        &mut self,
        request: &TaskManagement,
        out: &mut Outbox,
    ) -> Result<SlotSet, TaskManagementResponse> {
        let slot = self.tasks.find(request.referenced_tag);
        let slot = slot.filter(|slot| self.tasks.get(*slot).lun == request.lun);
        let slot = slot.ok_or(TaskManagementResponse::TaskDoesNotExist)?;
        self.abort(slot, out);
        let mut slots = SlotSet::default();
        if self.tasks.live_mut(slot).is_some() {
            slots.insert(slot);
        }
        Ok(slots)
    }

    /// Answers now if `slots` is empty, else when the last of them is quiet.
    pub(super) fn when_quiet(&mut self, pending: Pending, slots: SlotSet, out: &mut Outbox) {
        if slots.is_empty() {
            self.answer_pending(pending, out);
        } else {
            self.management.pending.push((pending, slots));
        }
    }

    /// An aborted task has nothing in flight any more.
    pub(super) fn task_is_quiet(&mut self, slot: Slot, out: &mut Outbox) {
        let mut at = 0;
        while let Some((pending, slots)) = self.management.pending.get_mut(at) {
            slots.remove(slot);
            if slots.is_empty() {
                let pending = *pending;
                self.management.pending.remove(at);
                self.answer_pending(pending, out);
            } else {
                at += 1;
            }
        }
    }

    fn answer_pending(&mut self, pending: Pending, out: &mut Outbox) {
        match pending {
            Pending::Function { itt } => self.answer_function(itt, TaskManagementResponse::Complete, out),
            Pending::Logout { itt } => self.logged_out(itt, out),
        }
    }

    fn answer_function(&mut self, itt: u32, response: TaskManagementResponse, out: &mut Outbox) {
        let numbers = self.status_numbers();
        out.send(pdu::task_management_response(itt, response, numbers));
    }
}
