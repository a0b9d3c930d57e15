//! The core's part of what moves in order: the way to the clients, handing over, giving back, and a dead peer's portals.

use super::super::effect::{Ask, Effect, Outbox};
use super::super::message::{ClientNetwork, Disk, Link, Role, Service};
use super::{CLIENTS_DOWN, Core, Standing};
use crate::arbitration::NodeSet;
use crate::time::Instant;

impl Core {
    /// Is it silent where the clients are, and only there?
    pub(super) fn look_for_clients(&mut self, now: Instant, out: &mut Outbox) {
        let before = self.reach.word();
        let hears = self.detector.hears(now, self.timing.takeover_after);
        let silent =
            self.policy.client_networks != 0 && hears != 0 && hears & self.policy.client_networks == 0;
        let (ask, next) = self.reach.look(now, silent);
        if ask {
            out.push(Effect::AskClients);
        }
        if let Some(at) = next {
            self.wake(at);
        }
        // When each of the networks falls silent, if nothing comes.
        let after = self.timing.takeover_after;
        let ends: Vec<Instant> = self.detector.heard_on().flatten().map(|heard| heard + after).collect();
        for at in ends.into_iter().filter(|at| *at > now) {
            self.wake(at);
        }
        if self.reach.word() != before {
            out.push(Effect::Speak);
        }
    }

    pub(super) fn decide_hand_over(&mut self, now: Instant, out: &mut Outbox) {
        let Some(why) = self.hand_over_wanted(now) else { return };
        if self.can_hand_over(now) {
            self.ask(now, now, Ask::HandOver(why), out);
        }
    }

    fn hand_over_wanted(&mut self, now: Instant) -> Option<&'static str> {
        let failback = self.failback_due(now);
        if self.leaving_since.is_some() {
            // Refused once, it leaves without.
            return (self.refusals == 0).then_some("the agent ends");
        }
        if self.standby {
            return Some("this node is on standby");
        }
        let peer = self.detector.report().map_or(ClientNetwork::Unknown, |(_, report)| report.clients);
        let (why, since) = match (self.reach.word(), peer) {
            (ClientNetwork::Down, ClientNetwork::Up) => {
                ("the way to the clients is down", self.reach.since() + CLIENTS_DOWN)
            }
            _ => ("the other node is preferred", failback?),
        };
        let at = self.damped_until().map_or(since, |until| since.max(until));
        self.due(now, at).then_some(why)
    }

    /// When the service is to be given back to the preferred node, if this is not it.
    fn failback_due(&mut self, now: Instant) -> Option<Instant> {
        let willing = self.detector.report().is_some_and(|(_, report)| {
            !report.standby && !report.leaving && report.clients != ClientNetwork::Down
        });
        let whole = self.peer_view().is_some_and(|view| view.disk == Disk::Whole && !view.demoted);
        let counted = self.known.in_sync.contains(self.me.peer());
        let fit = self.standing(now) == Standing::Alive && willing && whole && counted;
        let here = self.own_view(now).is_some_and(|view| view.role == Role::Primary);
        self.failback.as_mut()?.look(now, fit, here)
    }

    /// Is the peer able to take the service in order?
    pub(super) fn can_hand_over(&self, now: Instant) -> bool {
        let Some(own) = self.own_view(now) else { return false };
        let serves = own.role == Role::Primary && own.service == Service::Both;
        let ready = own.link == Link::Connected && own.in_sync == NodeSet::BOTH;
        let peer = self.detector.report().is_some_and(|(_, report)| !report.standby && !report.leaving);
        let view =
            self.peer_view().is_some_and(|view| view.disk == Disk::Whole && view.role == Role::Secondary);
        self.automatic && serves && ready && peer && view && self.standing(now) == Standing::Alive
    }

    // ---- the dead peer's portal addresses ----

    /// They are here while this node serves and the other one is as good as gone. One whose kernel lives answers for them
    /// itself: that is found out before they are taken.
    pub(super) fn decide_stand_in(&mut self, now: Instant, out: &mut Outbox) {
        if !self.policy.stands_in {
            return;
        }
        let gone = match self.standing(now) {
            Standing::Silent => true,
            // Not heard since this agent began; perhaps it is starting as well.
            Standing::Unheard => self.due(now, self.began + self.timing.start_wait),
            _ => false,
        };
        let wanted = gone && self.serving && self.leaving_since.is_none();
        if wanted != self.stand_in_wanted {
            self.stand_in_wanted = wanted;
            out.push(Effect::StandIn(wanted));
        }
        // A peer that is heard for the first time may have had this node's.
        let theirs = self.detector.report().map(|(_, report)| report.stands_in);
        if theirs == Some(false) && std::mem::replace(&mut self.stood_in_for, false) {
            out.push(Effect::AnnounceOwn);
        }
        self.stood_in_for |= theirs == Some(true);
    }
}
