//! Read leases: asking for them while this node leads, and promising them while it follows. The rules are
//! [`crate::arbitration::lease`]'s; a part that is told of a lease asks its own clock beside each answer.

use crate::arbitration::lease::ASKED_EVERY;
use crate::arbitration::rules::Step;
use crate::arbitration::{Epoch, Lease, Promise, Reads};
use crate::replication::control::Control;
use crate::time::{Duration, Instant};

use super::super::messages::{LinkRole, Service};
use super::super::mutant::Mutant;
use super::super::operator::Role;
use super::procedure::{Goal, Procedure, Wait};
use super::session::{Awaited, Stage};
use super::{ControlEffect, ControlOutbox, Coordinator, DropReason};

/// What a node has of leases, for people.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct LeaseView {
    /// Leading: for how much longer reads need not be confirmed.
    pub held: Option<Duration>,
    /// For how much longer this node asks for nothing that names itself.
    pub promised: Option<Duration>,
}

impl Coordinator {
    /// R6: what a life before this one may have promised.
    pub(super) fn remember_promises(&mut self, now: Instant) {
        let leases = self.config.reads == Reads::Lease;
        self.superblock.flags.leases |= leases;
        if self.superblock.flags.leases && !self.config.mutants.has(Mutant::ForgetGrants) {
            self.promise = Promise::at_start(now);
        }
    }

    /// A right to lead was won, and everything promised was waited out before.
    pub(super) fn promises_are_over(&mut self) {
        self.promise.end();
        self.superblock.flags.leases = self.config.reads == Reads::Lease;
    }

    // ---- the leader's side ----

    /// Both copies count and the peer follows: a lease is worth having. Before [`Service::Both`] nothing is read by it.
    fn leases(&self) -> bool {
        let follows = |stage: Stage| match stage {
            Stage::Leading { awaited, .. } => awaited != Awaited::Following,
            _ => false,
        };
        self.config.reads == Reads::Lease
            && self.role == Role::Primary
            && self.posture.service == Service::Both
            && self.live_session().is_some_and(|session| follows(session.stage))
    }

    pub(super) fn next_lease_question(&self) -> Option<Instant> {
        let asked = self.session.as_ref().and_then(|session| session.lease_asked);
        asked.filter(|_| self.leases()).map(|asked| asked + ASKED_EVERY)
    }

    pub(super) fn ask_for_lease(&mut self, now: Instant, out: &mut ControlOutbox) {
        if !self.leases() || self.next_lease_question().is_some_and(|at| now < at) {
            return;
        }
        if let Some(session) = self.session.as_mut() {
            session.lease_asked = Some(now);
        }
        self.send(Control::LeaseAsk { epoch: self.posture.epoch, asked: now }, out);
    }

    /// The follower has promised. `asked` is what this node told it, and may be older than the newest question.
    pub(super) fn on_lease_granted(&mut self, asked: Instant, out: &mut ControlOutbox) {
        let Some(session) = self.session.as_mut() else { return };
        if session.lease_asked.is_none_or(|newest| asked > newest) {
            return self.drop_session(DropReason::Protocol, out);
        }
        let lease = Lease::granted(session.id, asked);
        session.lease_until = session.lease_until.max(Some(lease.until));
        if self.leases() {
            out.push(ControlEffect::Lease(lease));
        }
    }

    // ---- the follower's side ----

    /// The leader asks. Who wants to lead itself promises nothing more. `now` was read after the question came: a promise
    /// that begins before it would end too early.
    pub(super) fn on_lease_asked(
        &mut self,
        now: Instant,
        epoch: Epoch,
        asked: Instant,
        out: &mut ControlOutbox,
    ) {
        let following =
            self.live_session().is_some_and(|session| matches!(session.stage, Stage::Following { .. }));
        let follows = following && self.role == Role::Secondary && self.posture.link == LinkRole::Follow;
        let bids = self.procedure.as_ref().is_some_and(|it| matches!(it.goal, Goal::Promote { .. }));
        if self.config.reads == Reads::Lease && follows && !bids && epoch >= self.superblock.record.epoch {
            self.promise.grant(now, epoch);
            self.send(Control::LeaseGrant { asked }, out);
        }
    }

    // ---- before a bid for the lead ----

    pub(super) fn outwait(&mut self) {
        self.wait_for(Wait::Promise);
    }

    /// Goes on with a bid that has waited long enough.
    pub(super) fn end_outwait(&mut self, now: Instant, out: &mut ControlOutbox) {
        let Some(Procedure { wait: Wait::Promise, .. }) = self.procedure else { return };
        let named = self.superblock.record.primary == Some(self.me());
        let mutants = self.config.mutants;
        let over = self.promise.binds(now).is_none()
            || mutants.has(Mutant::PromoteDuringGrant)
            || named && mutants.has(Mutant::NamedSkipsWait);
        if over {
            self.go_on(Step::Outwait, out);
        }
    }

    /// When a bid that waits goes on.
    pub(super) fn outwaited_at(&self) -> Option<Instant> {
        match self.procedure {
            Some(Procedure { wait: Wait::Promise, .. }) => self.promise.binds(Instant(0)),
            _ => None,
        }
    }

    pub fn lease_view(&self, now: Instant) -> LeaseView {
        let until = self.session.as_ref().and_then(|session| session.lease_until);
        LeaseView {
            held: until.filter(|&until| self.leases() && now < until).map(|until| until.since(now)),
            promised: self.promise.binds(now).map(|until| until.since(now)),
        }
    }
}
