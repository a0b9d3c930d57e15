//! Changes of the arbiter's record: the coordinator's hands for the rules in [`crate::arbitration::rules`]. What comes when
//! is said there ([`Change::steps`]); here is how each step is done, and what a change that was made means for this node.

use crate::arbitration::rules::{Change, Denial, Gate, Step, Verdict};
use crate::arbitration::{NodeSet, Record};
use crate::replication::control::{Control, Copy};
use crate::storage::Generations;
use crate::time::{Duration, Instant};
use crate::units::{NodeId, SessionId};

use super::super::messages::{PeerEnd, Service, SyncRole};
use super::super::mutant::Mutant;
use super::super::operator::{Event, Refusal, Role, Ticket};
use super::procedure::{Goal, Procedure, Wait};
use super::session::{Awaited, Stage};
use super::{CasOutcome, ControlEffect, ControlOutbox, Coordinator, DropReason, RecordOutcome};

/// Pause before an arbiter that did not answer is asked again, while requests are held for it.
const ASK_AGAIN: Duration = Duration::from_millis(300);
/// Pause between two looks at the record while this node serves without having asked.
const LOOK_AGAIN: Duration = Duration::from_secs(2);

impl Coordinator {
    // ---- beginnings ----

    fn begin_change(&mut self, goal: Goal, out: &mut ControlOutbox) {
        let first = goal.change().expect("the goal changes the record").first();
        self.begin(goal, Wait::Settled);
        self.take_step(first, out);
    }

    pub(super) fn begin_go_alone(&mut self, out: &mut ControlOutbox) {
        out.push(ControlEffect::Event(Event::Suspended));
        self.begin_change(Goal::GoAlone, out);
    }

    pub(super) fn begin_promote(
        &mut self,
        ticket: Option<Ticket>,
        seed: bool,
        force: Option<NodeId>,
        out: &mut ControlOutbox,
    ) {
        let beside =
            self.live_session().filter(|session| session.stage == Stage::Idle).map(|session| session.id);
        if force.is_some() {
            self.promise.end();
        }
        self.begin_change(Goal::Promote { ticket, seed, force, beside }, out);
    }

    pub(super) fn begin_add_peer(&mut self, out: &mut ControlOutbox) {
        let session = self.session.as_ref().expect("a leader has a session").id;
        self.begin_change(Goal::AddPeer { session }, out);
    }

    pub(super) fn begin_switchover(&mut self, ticket: Ticket, out: &mut ControlOutbox) {
        self.begin_change(Goal::Switchover { ticket: Some(ticket) }, out);
    }

    /// The disk failed. With an in-sync peer the service can be handed over; otherwise requests end in errors where
    /// they are. Returns whether a procedure was begun.
    pub(super) fn begin_surrender(&mut self, out: &mut ControlOutbox) -> bool {
        self.surrendered = true;
        self.drop_session(DropReason::OnPurpose, out);
        let shared = self.superblock.record.in_sync == NodeSet::BOTH;
        if self.superblock.record.in_sync != NodeSet::only(self.me()) {
            // A failed flush may have taken acknowledged writes with it. The next start must know, if the device still
            // takes this.
            self.superblock.flags.outdated = true;
            self.write_superblock(out);
        }
        if self.role == Role::Secondary {
            return true;
        }
        if !shared {
            // The only copy answers with errors where it is bad. Not if it waits for what cannot come any more.
            if matches!(self.posture.service, Service::Held | Service::Both) {
                self.close_for_good(out);
            }
            return true;
        }
        self.close_for_good(out);
        self.begin_change(Goal::Surrender, out);
        true
    }

    /// R12: the old primary's last act was the change that names this node, with both in sync; it follows from now on.
    /// No change of this node's own is needed: until there is one it answers nothing without the old primary's word.
    pub(super) fn begin_take_over(&mut self, record: Record, out: &mut ControlOutbox) {
        self.superblock.record = record;
        // It has drained, and gave its lease up with that.
        self.promise.end();
        let session = self.session.as_ref().expect("handed over in a session").id;
        self.note_witness(Some(session));
        self.set_stage(Stage::Idle);
        self.settle_for_hand_over(out);
        self.begin(Goal::TakeOver { session }, Wait::Settled);
    }

    /// The peer is back while this node holds requests and has asked for nothing.
    ///
    /// With a person nothing is under way anywhere. Where a record is kept, the peer may have asked for the lead while the
    /// two were apart. One that still runs knows the answer: it meets nobody before it has it, and comes with a newer
    /// record if it was granted. One that was started anew does not remember, and what it asked for before it died may be
    /// granted at any time: then only a change of this node's own settles the matter, and the arbiter is waited for. What
    /// was asked for before the newest record was made is refused; so the life that counts is the one that saw it made.
    pub(super) fn end_undecided_hold(&mut self, now: Instant, peer: PeerEnd, out: &mut ControlOutbox) {
        let Some(procedure) = self.procedure.filter(Procedure::is_undecided) else { return };
        let mutants = self.config.mutants;
        let trusts = mutants.has(Mutant::TrustForgetful) || mutants.has(Mutant::NamedSkipsWait);
        let remembers = self.witness == Some(peer.life) || trusts;
        if matches!(procedure.wait, Wait::Person(_)) {
            // The arbiter may have been another one when the peer asked.
            self.procedure = None;
            self.unasked = true;
            self.ask_again = Some(now);
        } else if remembers {
            self.procedure = None;
            self.ask_again = None;
        } else {
            self.peer_is_no_help = true;
            self.drop_session(DropReason::Changed, out);
        }
    }

    /// The newest record was made with this peer, or without one.
    pub(super) fn note_witness(&mut self, session: Option<SessionId>) {
        let with = self.session.as_ref().filter(|current| Some(current.id) == session);
        self.witness = with.map(|current| current.end.life);
    }

    // ---- steps ----

    /// `ended` is over: the rules say what comes next.
    pub(super) fn go_on(&mut self, ended: Step, out: &mut ControlOutbox) {
        let Some(Procedure { goal, .. }) = self.procedure else { return };
        let change = goal.change().expect("the goal changes the record");
        let mutants = self.config.mutants;
        if change == Change::Alone && ended == Step::Settle && mutants.has(Mutant::AloneBeforeArbiter) {
            self.settle_without_link(Service::Alone, out);
            return self.take_step(Step::Ask, out);
        }
        let mut next = change.after(ended);
        if next == Step::Flush && change == Change::Alone && mutants.has(Mutant::SkipFlushBeforeAlone) {
            next = change.after(next);
        }
        if next == Step::Read && change.is_made(self.me(), self.superblock.record) {
            next = change.after(next);
        }
        self.take_step(next, out);
    }

    fn take_step(&mut self, step: Step, out: &mut ControlOutbox) {
        let goal = self.procedure.as_ref().expect("a step of a procedure").goal;
        match step {
            Step::Read => {
                out.push(ControlEffect::ReadRecord);
                self.wait_for(Wait::Read);
            }
            Step::Settle => self.settle_for(goal, out),
            Step::Flush => self.flush_first(out),
            Step::Outwait => self.outwait(),
            Step::Ask => self.ask(goal, out),
            Step::Record => self.record(out),
            Step::Act => self.act(goal, out),
        }
    }

    fn settle_for(&mut self, goal: Goal, out: &mut ControlOutbox) {
        self.wait_for(Wait::Settled);
        match goal {
            Goal::GoAlone => {
                self.settle_without_link(Service::Held, out);
                self.drop_session(DropReason::OnPurpose, out);
            }
            // R2: close the link, drop what was received but not applied, let the own disk drain.
            Goal::Promote { .. } => {
                if self.config.mutants.has(Mutant::PromoteWithLinkOpen) {
                    return self.go_on(Step::Settle, out);
                }
                self.drop_session(DropReason::OnPurpose, out);
                self.settle_without_link(Service::Closed, out);
                if self.config.mutants.has(Mutant::PromoteUndrained) {
                    self.go_on(Step::Settle, out);
                }
            }
            // R3: from now on the peer's acknowledgement is needed, before the arbiter hears of it.
            Goal::AddPeer { .. } => {
                let late = self.config.mutants.has(Mutant::AddAfterAnswer);
                self.set_posture(
                    |posture| {
                        posture.service = if late { posture.service } else { Service::Both };
                        posture.sync = SyncRole::None;
                        posture.write_through = true;
                    },
                    out,
                );
            }
            Goal::Switchover { .. } => self.stop_serving(out),
            _ => unreachable!("{goal:?} settles nothing for a change"),
        }
    }

    fn ask(&mut self, goal: Goal, out: &mut ControlOutbox) {
        let change = goal.change().expect("only a change is asked for");
        let (me, seen) = (self.me(), self.superblock.record);
        if change.is_made(me, seen) {
            if change == Change::Alone {
                // The peer was never counted in: nobody can have changed the record. It may have taken over this node's
                // generation, though, at the end of a resync.
                self.start_generation();
            }
            return self.go_on(Step::Ask, out);
        }
        // Above what this node has seen, even where the arbiter has lost that.
        let proposed = Record { nonce: self.fresh(), ..change.proposal(me, seen) };
        let expected = self.arbiter_lost.take().unwrap_or(seen);
        out.push(ControlEffect::Cas { expected, proposed });
        self.wait_for(Wait::Swap(proposed));
    }

    /// What this node takes from here on, the peer does not get.
    fn start_generation(&mut self) {
        self.generation_told = false;
        if !self.config.mutants.has(Mutant::SkipGenerationBump) {
            let fresh = self.fresh();
            self.superblock.generations.go_alone(fresh);
        }
    }

    // ---- the arbiter's answers ----

    pub(super) fn on_record_read(&mut self, now: Instant, outcome: RecordOutcome, out: &mut ControlOutbox) {
        let Some(Procedure { goal, wait: Wait::Read }) = self.procedure else { return };
        match (goal, outcome) {
            (Goal::Promote { .. }, RecordOutcome::Unreachable) => {
                self.refuse_promotion(Refusal::ArbiterUnreachable, out);
            }
            (Goal::Promote { .. }, RecordOutcome::Known(hint)) => self.judge_promotion(hint, false, out),
            (Goal::Promote { .. }, RecordOutcome::Own) => {
                self.judge_promotion(self.superblock.record, false, out);
            }
            // Only this node's own knowledge is left.
            (Goal::Promote { .. }, RecordOutcome::NeedsOperator) => {
                self.judge_promotion(self.superblock.record, true, out);
            }
            (Goal::Switchover { ticket }, RecordOutcome::Unreachable) => {
                self.done();
                self.reply(ticket, Err(Refusal::ArbiterUnreachable), out);
            }
            (_, RecordOutcome::Unreachable) => self.ask_again = Some(now + ASK_AGAIN),
            _ => self.go_on(Step::Read, out),
        }
    }

    /// The pause after a silence of the arbiter is over.
    pub(super) fn read_again(&mut self, now: Instant, out: &mut ControlOutbox) {
        if self.ask_again.is_none_or(|at| at > now) {
            return;
        }
        self.ask_again = None;
        let waits = matches!(self.procedure, Some(Procedure { goal: Goal::GoAlone, wait: Wait::Read }));
        self.unasked &= self.role == Role::Primary;
        if self.unasked && !waits {
            self.ask_again = Some(now + LOOK_AGAIN);
        }
        if waits || self.unasked && self.procedure.is_none() {
            out.push(ControlEffect::ReadRecord);
        }
    }

    /// An answer that no procedure waits for. Whoever is not the primary of the newest record serves no more; that needs no
    /// change of one's own.
    pub(super) fn on_late_record(&mut self, outcome: RecordOutcome) {
        match outcome {
            RecordOutcome::Known(record) => {
                let newer = record.epoch > self.superblock.record.epoch;
                if newer && self.role == Role::Primary && self.procedure.is_none() {
                    self.superblock.record = record;
                    self.superseded = true;
                }
            }
            RecordOutcome::Unreachable => {}
            // Nobody keeps what an earlier life asked for.
            _ => self.unasked = false,
        }
    }

    /// `by_person`: the arbiter is a person, and the hint this node's own memory.
    fn judge_promotion(&mut self, hint: Record, by_person: bool, out: &mut ControlOutbox) {
        let Some(Procedure { goal: Goal::Promote { ticket, force, seed, beside }, .. }) = self.procedure
        else {
            return;
        };
        let beside = beside.filter(|&session| self.is_current(session));
        let gate = Gate {
            me: self.me(),
            seen: self.superblock.record,
            suspect: self.suspect,
            just_created: self.superblock.flags.just_created,
            seed,
            forced: force.is_some(),
            beside: beside.is_some(),
            by_person,
        };
        let lost = hint.epoch < gate.seen.epoch && gate.forced;
        // By force: what this node has seen is written over what the arbiter has left.
        self.arbiter_lost = lost.then_some(hint);
        let hint = if lost { gate.seen } else { hint };
        let change = match gate.check(hint) {
            Ok(change) => change,
            Err(denial) => return self.refuse_promotion(refusal(denial, hint, gate.seen), out),
        };
        self.superblock.record = hint;
        let beside = beside.filter(|_| change == Change::PromoteBeside);
        let goal = Goal::Promote { ticket, seed, force, beside };
        self.procedure = Some(Procedure { goal, wait: Wait::Read });
        self.go_on(Step::Read, out);
    }

    pub(super) fn on_swapped(&mut self, now: Instant, outcome: CasOutcome, out: &mut ControlOutbox) {
        let Some(Procedure { goal, wait: Wait::Swap(proposed) }) = self.procedure else { return };
        let change = goal.change().expect("only a change is asked for");
        if let (CasOutcome::Lost(current), true) = (outcome, self.config.mutants.has(Mutant::BlindSwap)) {
            let proposed = Record { epoch: current.epoch.next(), ..proposed };
            out.push(ControlEffect::Cas { expected: current, proposed });
            return self.wait_for(Wait::Swap(proposed));
        }
        let forced = matches!(goal, Goal::Promote { force: Some(_), .. });
        match change.on_answer(outcome, forced) {
            Verdict::Granted => self.on_granted(now, proposed, out),
            Verdict::AwaitPerson => self.wait_for(Wait::Person(proposed)),
            Verdict::NeedsPerson => self.refuse_promotion(Refusal::NeedsOperator, out),
            Verdict::Superseded(record) | Verdict::LostRace(record) => self.on_lost(goal, record, out),
        }
    }

    /// The change is committed: rights grow by this, and by nothing else (R1).
    pub(super) fn on_granted(&mut self, _now: Instant, record: Record, out: &mut ControlOutbox) {
        let Some(Procedure { goal, .. }) = self.procedure else { return };
        let alone = record.in_sync == NodeSet::only(self.me());
        self.superblock.record = record;
        // What anybody asked for before this is refused.
        self.unasked = false;
        self.note_witness(match goal {
            Goal::AddPeer { session } => Some(session),
            Goal::Promote { beside, .. } => beside,
            _ => None,
        });
        if self.superblock.flags.just_created && matches!(goal, Goal::Promote { .. }) {
            // What is on this disk is the first copy now, and not before: another node may have been faster.
            self.superblock.flags.just_created = false;
            self.superblock.generations = Generations::new(self.fresh());
        }
        if alone && record.primary == Some(self.me()) {
            self.start_generation();
        }
        match goal {
            Goal::AddPeer { .. } => self.superblock.generations.back_in_sync(),
            Goal::Promote { .. } => {
                self.promises_are_over();
                self.discord = None;
                self.suspect = false;
                self.superblock.flags.outdated = false;
                self.superblock.flags.sync_target = false;
                self.superblock.flags.full_sync = false;
            }
            _ => {}
        }
        self.go_on(Step::Ask, out);
    }

    pub(super) fn refuse_promotion(&mut self, refusal: Refusal, out: &mut ControlOutbox) {
        self.arbiter_lost = None;
        if let Some(Procedure { goal: Goal::Promote { ticket, .. }, .. }) = self.procedure {
            self.reply(ticket, Err(refusal), out);
        }
        self.done();
    }

    // ---- ends ----

    fn act(&mut self, goal: Goal, out: &mut ControlOutbox) {
        self.done();
        match goal {
            Goal::GoAlone => self.serve_alone(out),
            Goal::Promote { ticket, force, beside, .. } => self.end_promote(ticket, force, beside, out),
            Goal::AddPeer { session } => self.count_peer_in(session, out),
            Goal::Switchover { ticket } => self.hand_over(ticket, out),
            // The peer is named; it promotes when it is asked to.
            Goal::Surrender => {}
            _ => unreachable!("{goal:?} is no change"),
        }
    }

    pub(super) fn serve_alone(&mut self, out: &mut ControlOutbox) {
        let record = self.superblock.record;
        self.peer_is_no_help = false;
        out.push(ControlEffect::Event(Event::AloneNow { record }));
        self.settle_without_link(Service::Alone, out);
        self.set_serving(true, out);
    }

    pub(super) fn end_promote(
        &mut self,
        ticket: Option<Ticket>,
        force: Option<NodeId>,
        beside: Option<SessionId>,
        out: &mut ControlOutbox,
    ) {
        self.role = Role::Primary;
        if let Some(fenced) = force {
            out.push(ControlEffect::Event(Event::ForcedPromotion { fenced }));
        }
        let record = self.superblock.record;
        out.push(ControlEffect::Event(Event::Promoted { record, alone: beside.is_none() }));
        self.reply(ticket, Ok(()), out);
        match beside {
            None => self.serve_alone(out),
            Some(session) if self.is_current(session) => self.begin_leading(Copy::Nothing, out),
            // The peer went away meanwhile: reconcile goes alone.
            Some(_) => {}
        }
    }

    fn count_peer_in(&mut self, session: SessionId, out: &mut ControlOutbox) {
        let record = self.superblock.record;
        out.push(ControlEffect::Event(Event::PeerInSync { record }));
        self.set_posture(
            |posture| {
                posture.write_through = false;
                posture.service = Service::Both;
            },
            out,
        );
        self.set_serving(true, out);
        if self.is_current(session) {
            self.set_stage(Stage::Leading { copy: Copy::Nothing, awaited: Awaited::Nothing, steady: true });
            self.send(Control::Commit { record, idle: false }, out);
        }
    }

    fn hand_over(&mut self, ticket: Option<Ticket>, out: &mut ControlOutbox) {
        self.role = Role::Secondary;
        let record = self.superblock.record;
        out.push(ControlEffect::Event(Event::HandedOver { record }));
        self.settle_for_hand_over(out);
        self.set_stage(Stage::Idle);
        self.send(Control::Handover { record }, out);
        self.await_take_over(ticket, out);
    }
}

fn refusal(denial: Denial, record: Record, seen: Record) -> Refusal {
    match denial {
        Denial::RecordWentBack => Refusal::ArbiterLostData { record, seen },
        Denial::NotInSync => Refusal::NotInSync { record },
        Denial::MayLackWrites => Refusal::MayLackWrites,
        Denial::NeverSynced => Refusal::NeverSynced,
        Denial::NeedsPerson => Refusal::NeedsOperator,
    }
}
