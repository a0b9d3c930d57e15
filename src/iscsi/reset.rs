//! Task management that reaches beyond its own session: CLEAR TASK SET, resets of a logical unit and of the target.
//!
//! The session that was asked aborts its own tasks and says [`Effect::Reset`]. The driver tells every other session of
//! the node with [`on_reset`](super::Connection::on_reset), wherever it is served; each answers with
//! [`Effect::ResetQuiet`] when none of its tasks has anything on the way to either disk. When all have, the driver calls
//! [`on_reset_done`](super::Connection::on_reset_done), and the initiator is answered.
//!
//! Other initiators hear of it: their tasks end with TASK ABORTED (TAS is 1 in the Control mode page), and after a reset
//! a unit attention says so.

use crate::scsi::{LuIndex, LunAddress, UnitAttention};
use crate::units::ShardId;

use super::bhs::Lun;
use super::effect::{CloseReason, Effect, Outbox};
use super::session::Session;
use super::task_management::Pending;

/// What is reset. Logical units go by their number in the target, whatever number an initiator knows them by.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Reset {
    /// CLEAR TASK SET.
    TaskSet { unit: u16 },
    /// LOGICAL UNIT RESET.
    Unit { unit: u16 },
    /// TARGET WARM RESET.
    Target,
    /// TARGET COLD RESET: sessions end, too.
    TargetAndSessions,
}

impl Reset {
    fn reaches(self, of_task: Option<u16>) -> bool {
        match self {
            Self::TaskSet { unit } | Self::Unit { unit } => of_task == Some(unit),
            Self::Target | Self::TargetAndSessions => true,
        }
    }
}

/// Names one reset among those under way on the node.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ResetId {
    /// Where the session that asked is served.
    pub shard: ShardId,
    pub number: u32,
}

impl Session {
    /// The number in the target of the unit that a LUN field names.
    pub(super) fn unit_of(&self, lun: Lun) -> Option<u16> {
        let LunAddress::Unit(shown) = LunAddress::decode(lun) else { return None };
        match self.config.access.view(self.grant) {
            Some(view) => view.unit_of(shown),
            None => self.config.scsi.find(lun).map(|_| shown),
        }
    }

    /// Where this session knows a unit of the target, if it sees it.
    fn lu_of_unit(&self, unit: u16) -> Option<LuIndex> {
        let shown = match self.config.access.view(self.grant) {
            Some(view) => view.shown_of(unit)?,
            None => unit,
        };
        self.config.target(self.grant).find(LunAddress::encode_unit(shown))
    }

    /// Makes the unit attention of a reset pending.
    pub(super) fn attend(&mut self, reset: Reset) {
        match reset {
            Reset::TaskSet { .. } => {}
            Reset::Unit { unit } => {
                if let Some(lu) = self.lu_of_unit(unit) {
                    self.nexus.post(lu, UnitAttention::LogicalUnitReset);
                }
            }
            Reset::Target | Reset::TargetAndSessions => self.nexus.post_all(UnitAttention::TargetReset),
        }
    }

    /// Aborts the tasks that a reset reaches. `answer`: with TASK ABORTED, for another initiator did it.
    pub(super) fn abort_reached(
        &mut self,
        reset: Reset,
        answer: bool,
        out: &mut Outbox,
    ) -> super::task::SlotSet {
        let reached = |session: &Self, lun: Lun| reset.reaches(session.unit_of(lun));
        let mut affected = super::task::SlotSet::default();
        for slot in self.tasks.slots() {
            if self.tasks.is_live(slot) && reached(self, self.tasks.get(slot).lun) {
                self.abort_into(slot, answer, &mut affected, out);
            }
        }
        affected
    }

    /// Another session's initiator resets.
    pub(super) fn on_reset(&mut self, reset: Reset, id: ResetId, out: &mut Outbox) {
        self.attend(reset);
        let slots = self.abort_reached(reset, true, out);
        self.when_quiet(Pending::Reset(id), slots, None, out);
        if reset == Reset::TargetAndSessions {
            self.finished = Some(CloseReason::Reset);
        }
    }

    /// Another session's initiator resets, and this session is over: what it left behind must come back.
    pub(super) fn on_late_reset(&mut self, id: ResetId, out: &mut Outbox) {
        let slots = self.abort_where(|_| true, out);
        self.when_quiet(Pending::Reset(id), slots, None, out);
    }

    /// Every other session is quiet.
    pub(super) fn on_reset_done(&mut self, ticket: u32, out: &mut Outbox) {
        self.management.others_are_quiet(ticket);
        self.answer_quiet(out);
    }

    /// This session has nothing left that a reset of another one waits for.
    pub(super) fn quiet_for(&mut self, id: ResetId, out: &mut Outbox) {
        out.push(Effect::ResetQuiet(id));
    }
}
