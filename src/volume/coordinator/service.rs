//! Postures between serving and serving: closing, winding down, handing over, and forwarding to the other node.

use crate::time::{Duration, Instant};

use super::super::messages::{LinkRole, Service, SyncRole};
use super::procedure::{Goal, Procedure};
use super::{ControlOutbox, Coordinator};

/// How long initiators' requests wait between two primaries.
const HOLD_PATIENCE: Duration = Duration::from_secs(5);

impl Coordinator {
    pub(super) fn settle_without_link(&mut self, service: Service, out: &mut ControlOutbox) {
        self.settle_apart(service, false, out);
    }

    /// Closed between two primaries. Where initiators stay at a node that does not lead, what they ask for waits.
    pub(super) fn settle_for_hand_over(&mut self, out: &mut ControlOutbox) {
        self.settle_apart(Service::Closed, self.config.standby_serves, out);
    }

    fn settle_apart(&mut self, service: Service, hold: bool, out: &mut ControlOutbox) {
        self.set_posture(
            |posture| {
                posture.service = service;
                posture.session = None;
                posture.link = LinkRole::Off;
                posture.sync = SyncRole::None;
                posture.write_through = false;
                posture.wind_down = false;
                posture.forward = false;
                posture.hold = hold;
            },
            out,
        );
    }

    pub(super) fn stop_serving(&mut self, out: &mut ControlOutbox) {
        let together = self.posture.service == Service::Both;
        let hand_over = matches!(self.procedure, Some(Procedure { goal: Goal::Switchover { .. }, .. }));
        let hand_over = hand_over && self.config.standby_serves;
        if !hand_over {
            self.set_serving(false, out);
        }
        if !together {
            self.drop_session(super::DropReason::OnPurpose, out);
        }
        self.wind_down(together, hand_over, out);
    }

    /// `hold`: initiators' requests wait for the next primary.
    pub(super) fn wind_down(&mut self, together: bool, hold: bool, out: &mut ControlOutbox) {
        self.set_posture(
            |posture| {
                posture.service = Service::Closed;
                posture.wind_down = true;
                posture.forward = false;
                posture.hold = hold;
                posture.sync = SyncRole::None;
                if !together {
                    posture.session = None;
                    posture.link = LinkRole::Off;
                }
            },
            out,
        );
    }

    /// The next primary does not come: initiators may know another way.
    pub(super) fn stop_holding(&mut self, now: Instant, out: &mut ControlOutbox) -> bool {
        if !self.posture.hold {
            self.hold_until = None;
            return false;
        }
        let until = *self.hold_until.get_or_insert(now + HOLD_PATIENCE);
        if now < until {
            return false;
        }
        self.hold_until = None;
        self.set_serving(false, out);
        self.set_posture(|posture| posture.hold = false, out);
        true
    }

    /// The leader serves: so does this node, by forwarding.
    pub(super) fn begin_forwarding(&mut self, out: &mut ControlOutbox) {
        if !self.config.standby_serves {
            return;
        }
        self.set_posture(
            |posture| {
                posture.forward = true;
                posture.hold = false;
            },
            out,
        );
        self.set_serving(true, out);
    }
}
