//! The operator's requests: the gates before each, and the answers.

use crate::arbitration::NodeSet;
use crate::time::{Duration, Instant};

use super::super::messages::Service;
use super::super::mutant::Mutant;
use super::super::operator::{Event, OperatorCommand, Refusal, Role, Ticket};
use super::procedure::{Goal, Procedure, Wait};
use super::session::{Session, Stage};
use super::{ControlEffect, ControlOutbox, Coordinator, DropReason};

/// How long a switchover waits for the peer to take over.
const TAKE_OVER_PATIENCE: Duration = Duration::from_secs(10);

impl Coordinator {
    pub(super) fn reply(&self, ticket: Option<Ticket>, result: Result<(), Refusal>, out: &mut ControlOutbox) {
        if let Some(ticket) = ticket {
            out.push(ControlEffect::Reply { ticket, result });
        }
    }

    /// Requests that do not wait for their turn: those that would block behind a held volume, and refusals.
    pub(super) fn answer_at_once(
        &mut self,
        now: Instant,
        ticket: Ticket,
        command: OperatorCommand,
        out: &mut ControlOutbox,
    ) -> bool {
        let waiting = match self.procedure {
            Some(Procedure { wait: Wait::Person(proposed), .. }) => Some(proposed),
            _ => None,
        };
        if command == OperatorCommand::Stop && self.disk_failed {
            self.stop_without_disk(ticket, out);
            return true;
        }
        match (command, waiting) {
            (OperatorCommand::Promote { i_have_fenced: Some(node), .. }, Some(proposed)) => {
                if node == self.me() {
                    self.reply(Some(ticket), Err(Refusal::FencedSelf), out);
                    return true;
                }
                out.push(ControlEffect::Event(Event::ForcedPromotion { fenced: node }));
                self.on_granted(now, proposed, out);
                self.reply(Some(ticket), Ok(()), out);
                true
            }
            (OperatorCommand::Promote { .. }, Some(_)) => {
                self.reply(Some(ticket), Err(Refusal::NeedsOperator), out);
                true
            }
            (OperatorCommand::Stop, _) if waiting.is_some() || self.is_asking_to_go_alone() => {
                // Nothing is served and nothing can be decided: stopping loses nothing that was promised. If the
                // arbiter agrees later it names a node that has everything.
                self.procedure = None;
                self.begin_wind_down(Goal::Stop { ticket }, out);
                true
            }
            _ => false,
        }
    }

    /// Held, flushed, and the arbiter does not answer.
    fn is_asking_to_go_alone(&self) -> bool {
        matches!(self.procedure, Some(Procedure { goal: Goal::GoAlone, wait: Wait::Swap(_) | Wait::Read }))
    }

    /// There is nothing to drain to and nothing to record on.
    fn stop_without_disk(&mut self, ticket: Ticket, out: &mut ControlOutbox) {
        self.give_up_procedure(out);
        self.procedure = None;
        self.stopped = true;
        self.drop_session(DropReason::OnPurpose, out);
        self.close_for_good(out);
        out.push(ControlEffect::Event(Event::Stopped));
        self.reply(Some(ticket), Ok(()), out);
    }

    /// Takes the next request of the queue. Returns whether something was done.
    pub(super) fn next_request(&mut self, _now: Instant, out: &mut ControlOutbox) -> bool {
        let Some(&(ticket, command)) = self.requests.front() else { return false };
        let undrained = self.config.mutants.has(Mutant::PromoteUndrained);
        if !self.is_settled() && self.posture.service != Service::Both && !undrained {
            return false;
        }
        let meeting = self.live_session().is_some_and(|session| session.stage == Stage::Meeting);
        if meeting && matches!(command, OperatorCommand::Promote { .. }) {
            // In a moment it is known whether the two can serve together.
            return false;
        }
        if command == OperatorCommand::Switchover && self.unit.is_changing() && self.posture.answers() {
            // It is answered in a moment, by this node.
            return false;
        }
        self.requests.pop_front();
        let refused = match command {
            OperatorCommand::Promote { .. } | OperatorCommand::TakeOver { .. } => {
                self.promote(ticket, command, out)
            }
            OperatorCommand::Demote => self.demote(ticket, out),
            OperatorCommand::Switchover => self.switchover(ticket, out),
            OperatorCommand::Connect { discard_my_data } => self.connect(ticket, discard_my_data, out),
            OperatorCommand::Disconnect => self.disconnect(ticket, out),
            OperatorCommand::Stop => {
                self.begin_wind_down(Goal::Stop { ticket }, out);
                Ok(())
            }
        };
        if let Err(refusal) = refused {
            self.reply(Some(ticket), Err(refusal), out);
        }
        true
    }

    fn promote(
        &mut self,
        ticket: Ticket,
        command: OperatorCommand,
        out: &mut ControlOutbox,
    ) -> Result<(), Refusal> {
        let (seed, force) = match command {
            OperatorCommand::Promote { seed, i_have_fenced } => (seed, i_have_fenced),
            _ => (false, None),
        };
        if self.role == Role::Primary {
            if self.posture.service == Service::Held {
                // Its peer is back and being brought level.
                return Err(Refusal::Busy);
            }
            self.reply(Some(ticket), Ok(()), out);
            return Ok(());
        }
        let flags = self.superblock.flags;
        if self.disk_failed {
            return Err(Refusal::DiskFailed);
        }
        if force == Some(self.me()) {
            return Err(Refusal::FencedSelf);
        }
        if flags.just_created && !seed {
            return Err(Refusal::NeverSynced);
        }
        if force.is_none() && flags.sync_target {
            return Err(Refusal::Inconsistent);
        }
        let ordered = matches!(command, OperatorCommand::TakeOver { .. });
        let believes = !ordered && self.follows_primary();
        if believes && !self.config.mutants.has(Mutant::PromoteWithLinkOpen) {
            return Err(Refusal::PeerIsPrimary);
        }
        self.begin_promote(Some(ticket), seed, force, out);
        Ok(())
    }

    fn demote(&mut self, ticket: Ticket, out: &mut ControlOutbox) -> Result<(), Refusal> {
        if !self.config.replicated {
            return Err(Refusal::NotReplicated);
        }
        if self.role == Role::Secondary {
            self.reply(Some(ticket), Ok(()), out);
            return Ok(());
        }
        self.begin_wind_down(Goal::Demote { ticket }, out);
        Ok(())
    }

    fn switchover(&mut self, ticket: Ticket, out: &mut ControlOutbox) -> Result<(), Refusal> {
        if self.role != Role::Primary {
            return Err(Refusal::NotPrimary);
        }
        let ready =
            self.live_session().is_some_and(|s| matches!(s.stage, Stage::Leading { steady: true, .. }));
        if !ready || self.superblock.record.in_sync != NodeSet::BOTH {
            return Err(Refusal::PeerNotReady);
        }
        self.begin_switchover(ticket, out);
        Ok(())
    }

    /// The peer was told to take over; the operator hears when it leads.
    pub(super) fn await_take_over(&mut self, ticket: Option<Ticket>, _out: &mut ControlOutbox) {
        let since = self.session.as_ref().map_or(Instant(0), |session| session.heard);
        self.handing_over = Some((ticket, since + TAKE_OVER_PATIENCE));
    }

    pub(super) fn end_hand_over(&mut self, result: Result<(), Refusal>, out: &mut ControlOutbox) {
        if let Some((ticket, _)) = self.handing_over.take() {
            self.reply(ticket, result, out);
        }
    }

    fn connect(&mut self, ticket: Ticket, discard: bool, out: &mut ControlOutbox) -> Result<(), Refusal> {
        if !self.config.replicated {
            return Err(Refusal::NotReplicated);
        }
        if self.disk_failed {
            return Err(Refusal::DiskFailed);
        }
        if discard && self.role == Role::Primary {
            return Err(Refusal::Busy);
        }
        self.connect_wanted = true;
        self.discord = None;
        self.discord_until = None;
        self.discard = discard;
        self.reply(Some(ticket), Ok(()), out);
        Ok(())
    }

    fn disconnect(&mut self, ticket: Ticket, out: &mut ControlOutbox) -> Result<(), Refusal> {
        if !self.config.replicated {
            return Err(Refusal::NotReplicated);
        }
        self.connect_wanted = false;
        self.drop_session(DropReason::OnPurpose, out);
        self.reply(Some(ticket), Ok(()), out);
        Ok(())
    }

    /// The own device answers nothing. With a peer in sync there is one that can serve, so the device is given up, as if it
    /// had failed; what it does later is nobody's answer. Without one it is waited for.
    pub(super) fn on_disk_hangs(&mut self, out: &mut ControlOutbox) {
        let steady = self.live_session().is_some_and(Session::is_in_sync);
        let shared = self.role == Role::Primary && self.superblock.record.in_sync == NodeSet::BOTH;
        if steady && shared && self.posture.service == Service::Both && self.procedure.is_none() {
            if !self.disk_failed {
                out.push(ControlEffect::Event(Event::DiskHangs));
            }
            self.disk_failed = true;
        }
    }

    /// The own device failed an operation.
    pub(super) fn on_disk_fault(&mut self, out: &mut ControlOutbox) {
        if !core::mem::replace(&mut self.disk_failed, true) {
            out.push(ControlEffect::Event(Event::DiskFailed));
        }
    }
}
