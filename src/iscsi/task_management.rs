//! Task management functions (RFC 7143 §11.5-6, SAM-5 §7).
//!
//! A function is answered only when every task it affects, of whatever session, is quiet: nothing of it is on its way to
//! either disk (§4.2.3). Tasks of the session that asks end without an answer; `reset` tells what others hear.
//!
//! CLEAR ACA has nothing to do, for no command sets NACA. Absent, and answered so: TASK REASSIGN, which belongs to
//! ErrorRecoveryLevel 2.

use alloc::vec::Vec;

use crate::scsi::ResetKind;

use super::bhs::TaskManagement;
use super::effect::{CloseReason, Effect, Outbox};
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
    /// A function of this session.
    Function {
        itt: u32,
        /// The session ends with it.
        cold: bool,
    },
    Logout {
        itt: u32,
    },
    /// A new memory of the unit, by the driver's number.
    Unit(u64),
}

impl Pending {
    /// It is answered to the driver, whatever becomes of the session.
    fn is_of_others(self) -> bool {
        matches!(self, Self::Unit(_))
    }
}

/// An answer that waits.
#[derive(Debug)]
struct Waiting {
    pending: Pending,
    /// For these tasks.
    slots: SlotSet,
    /// And for all other sessions; the ticket they were told of.
    others: Option<u32>,
}

/// Answers that wait for tasks.
#[derive(Debug)]
pub(super) struct Management {
    waiting: Vec<Waiting>,
    tickets: u32,
    /// The initiator logs out: nothing more is taken in.
    pub(super) leaving: bool,
}

impl Management {
    pub(super) fn new() -> Self {
        Self { waiting: Vec::new(), tickets: 0, leaving: false }
    }

    /// This session's initiator waits for no answer any more. Others do.
    pub(super) fn forget(&mut self) {
        self.waiting.retain(|waiting| waiting.pending.is_of_others());
    }

    /// A new name for what others are waited for with.
    pub(super) fn new_ticket(&mut self) -> u32 {
        self.tickets = self.tickets.wrapping_add(1);
        self.tickets
    }

    pub(super) fn others_are_quiet(&mut self, ticket: u32) {
        for waiting in &mut self.waiting {
            if waiting.others == Some(ticket) {
                waiting.others = None;
            }
        }
    }

    /// Functions and logouts of this session that wait.
    fn own(&self) -> usize {
        self.waiting.iter().filter(|waiting| !waiting.pending.is_of_others()).count()
    }
}

impl Session {
    pub(super) fn on_task_management(
        &mut self,
        request: &TaskManagement,
        out: &mut Outbox,
    ) -> Result<(), Flow> {
        self.admit(&request.sequence, 0)?;
        if self.discovery || self.management.own() >= PENDING_MAX {
            self.answer_function(request.itt, TaskManagementResponse::Rejected, out);
            return Ok(());
        }
        let pending = Pending::Function { itt: request.itt, cold: request.function == TARGET_COLD_RESET };
        match self.apply(request, out) {
            Ok((slots, others)) => self.when_quiet(pending, slots, others, out),
            Err(response) => self.answer_function(request.itt, response, out),
        }
        Ok(())
    }

    /// Aborts what the function names; the slots that are not quiet yet, and the ticket of what others were told.
    fn apply(
        &mut self,
        request: &TaskManagement,
        out: &mut Outbox,
    ) -> Result<(SlotSet, Option<u32>), TaskManagementResponse> {
        let lun = request.lun;
        let target = self.config.target(self.grant);
        let unit = || target.find(lun).map(|_| ()).ok_or(TaskManagementResponse::LunDoesNotExist);
        let reset = match request.function {
            ABORT_TASK => return Ok((self.abort_task(request, out)?, None)),
            ABORT_TASK_SET => {
                unit()?;
                return Ok((self.abort_where(|task| task.lun == lun, out), None));
            }
            CLEAR_ACA => {
                unit()?;
                return Ok((SlotSet::default(), None));
            }
            CLEAR_TASK_SET => unit().map(|()| ResetKind::TaskSet)?,
            LOGICAL_UNIT_RESET => unit().map(|()| ResetKind::Unit)?,
            TARGET_WARM_RESET => ResetKind::Target,
            TARGET_COLD_RESET => ResetKind::TargetAndSessions,
            TASK_REASSIGN => return Err(TaskManagementResponse::ReassignmentNotSupported),
            _ => return Err(TaskManagementResponse::Rejected),
        };
        let (slots, ticket) = self.begin_reset(reset, out);
        Ok((slots, Some(ticket)))
    }

    /// §11.6.1. On one connection everything with a lower CmdSN has arrived, so a task that is not here was answered.
    fn abort_task(
        &mut self,
        request: &TaskManagement,
        out: &mut Outbox,
    ) -> Result<SlotSet, TaskManagementResponse> {
        let mut slots = SlotSet::default();
        let slot = self.tasks.find(request.referenced_tag);
        let slot = slot.filter(|slot| self.tasks.get(*slot).lun == request.lun);
        let slot = slot.ok_or(TaskManagementResponse::TaskDoesNotExist)?;
        self.abort_into(slot, false, &mut slots, out);
        Ok(slots)
    }

    /// Answers now if `slots` is empty and no other session is waited for, else when that is so.
    pub(super) fn when_quiet(
        &mut self,
        pending: Pending,
        slots: SlotSet,
        others: Option<u32>,
        out: &mut Outbox,
    ) {
        self.management.waiting.push(Waiting { pending, slots, others });
        self.answer_quiet(out);
    }

    /// An aborted task has nothing in flight any more.
    pub(super) fn task_is_quiet(&mut self, slot: Slot, out: &mut Outbox) {
        for waiting in &mut self.management.waiting {
            waiting.slots.remove(slot);
        }
        self.answer_quiet(out);
    }

    /// Gives the answers that wait for nothing any more.
    pub(super) fn answer_quiet(&mut self, out: &mut Outbox) {
        let is_due = |waiting: &Waiting| waiting.slots.is_empty() && waiting.others.is_none();
        while let Some(at) = self.management.waiting.iter().position(is_due) {
            let pending = self.management.waiting.remove(at).pending;
            self.answer_pending(pending, out);
        }
    }

    fn answer_pending(&mut self, pending: Pending, out: &mut Outbox) {
        match pending {
            Pending::Function { itt, cold } => {
                self.answer_function(itt, TaskManagementResponse::Complete, out);
                if cold {
                    self.finished = Some(CloseReason::Reset);
                }
            }
            // What it has by RESERVE is free when the initiator knows that it is out.
            Pending::Logout { .. } if self.nexus.has_reserved() => {
                let ticket = self.management.new_ticket();
                self.when_quiet(pending, SlotSet::default(), Some(ticket), out);
                self.give_back(Some(ticket), out);
            }
            Pending::Logout { itt } => self.logged_out(itt, out),
            Pending::Unit(number) => out.push(Effect::UnitQuiet(number)),
        }
    }

    fn answer_function(&mut self, itt: u32, response: TaskManagementResponse, out: &mut Outbox) {
        let numbers = self.status_numbers();
        out.send(pdu::task_management_response(itt, response, numbers));
    }
}
