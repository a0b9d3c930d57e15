//! Losing: the arbiter's record is not the one that this node expected. Either another node was faster, or the arbiter
//! has forgotten what this node knows; in both cases this node stops serving, and never argues.

use crate::arbitration::Record;

use super::super::messages::Service;
use super::super::operator::{Event, Refusal, Role};
use super::procedure::{Goal, Wait};
use super::{ControlEffect, ControlOutbox, Coordinator, DropReason};

impl Coordinator {
    pub(super) fn on_lost(&mut self, goal: Goal, current: Record, out: &mut ControlOutbox) {
        // Records are never taken back, so one that is not above this node's own comes from an arbiter that forgot it.
        let seen = self.superblock.record;
        let lost = current.epoch <= seen.epoch;
        let refusal = match lost {
            true => Refusal::ArbiterLostData { record: current, seen },
            false => Refusal::LostRace { record: current },
        };
        match goal {
            Goal::GoAlone | Goal::AddPeer { .. } | Goal::Switchover { .. } => {
                if lost {
                    self.arbiter_lost = Some(current);
                } else {
                    self.superblock.record = current;
                }
                self.done();
                if let Goal::Switchover { ticket } = goal {
                    self.reply(ticket, Err(refusal), out);
                }
                self.superseded = true;
            }
            Goal::Promote { .. } => self.refuse_promotion(refusal, out),
            _ => self.done(),
        }
    }

    pub(super) fn begin_fence(&mut self, out: &mut ControlOutbox) {
        self.superseded = false;
        let seen = self.superblock.record;
        out.push(ControlEffect::Event(match self.arbiter_lost.take() {
            Some(record) => Event::ArbiterLostData { record, seen },
            None => Event::Superseded { record: seen },
        }));
        self.set_serving(false, out);
        self.role = Role::Secondary;
        self.drop_session(DropReason::OnPurpose, out);
        self.settle_without_link(Service::Closed, out);
        self.begin(Goal::Fence, Wait::Settled);
    }
}
