//! Task management that reaches beyond its own session: CLEAR TASK SET, resets of the logical unit and of the target.
//!
//! A reset is a change of what the unit remembers: the session that was asked aborts its own tasks, counts the reset in the
//! memory and asks for that to be kept. Every other session of both nodes learns of it as of any change ([`unit`](super::unit)),
//! ends its tasks, and says when they are quiet; then the change is done, and the initiator is answered.
//!
//! Other initiators hear of it: their tasks end with TASK ABORTED (unless TAS is cleared in the Control mode page), and
//! after a reset a unit attention says so.

use crate::scsi::{ResetKind, TooLarge, UnitAttention};

use super::effect::{CloseReason, Outbox};
use super::session::Session;
use super::task::SlotSet;
use super::unit::Asker;

impl Session {
    /// Resets for this session's initiator. Returns what of its own is not quiet yet, and the ticket that is given back
    /// when all others are.
    pub(super) fn begin_reset(&mut self, kind: ResetKind, out: &mut Outbox) -> (SlotSet, u32) {
        let own = self.abort_where(|_| true, out);
        match kind {
            ResetKind::TaskSet => {}
            ResetKind::Unit => self.nexus.post_all(UnitAttention::LogicalUnitReset),
            ResetKind::Target | ResetKind::TargetAndSessions => {
                self.nexus.post_all(UnitAttention::TargetReset);
            }
        }
        let ticket = self.management.new_ticket();
        self.ask_for_reset(Asker::Function { ticket, kind }, out);
        (own, ticket)
    }

    /// Asks for the memory to count a reset; again, when others were faster.
    pub(super) fn ask_for_reset(&mut self, asker: Asker, out: &mut Outbox) {
        let Asker::Function { kind, .. } = asker else { return };
        let next = self.nexus.memory().after_reset(kind, self.nexus.id());
        let mut bytes = core::mem::take(&mut self.data_in);
        match next.encode(&mut bytes) {
            Ok(()) => self.ask_for_change(asker, &bytes, 0, out),
            // Registrations leave room for it, unless another program made them.
            Err(TooLarge) => self.finished = Some(CloseReason::NotServing),
        }
        self.data_in = bytes;
    }

    /// All others are quiet.
    pub(super) fn reset_done(&mut self, ticket: u32, out: &mut Outbox) {
        self.management.others_are_quiet(ticket);
        self.answer_quiet(out);
    }
}
