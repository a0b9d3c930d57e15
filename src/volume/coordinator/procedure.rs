//! Procedures: chains of steps, each of which asks for one thing and goes on when it is done. See the drawing in the
//! parent module. Nothing interrupts a procedure except the failure of the own disk; what happened meanwhile is seen
//! by reconcile when it is over.

use crate::arbitration::{Epoch, NodeSet, Record};
use crate::replication::control::{Control, Copy};
use crate::storage::Generations;
use crate::time::Instant;
use crate::units::{NodeId, SessionId};

use super::super::effect::OpId;
use super::super::messages::{LinkRole, Service, SyncRole};
use super::super::mutant::Mutant;
use super::super::operator::{Event, Refusal, Role, Ticket};
use super::session::{Awaited, Stage};
use super::{CasOutcome, ControlEffect, ControlOutbox, Coordinator, RecordOutcome};

/// What a procedure is for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Goal {
    /// After start: record the boot, let the parts report.
    Boot,
    /// Primary whose peer is gone (D3).
    GoAlone,
    /// The old primary handed over: lead.
    TakeOver {
        session: SessionId,
    },
    /// Serve. `force`: the other node is fenced, says the operator.
    Promote {
        ticket: Option<Ticket>,
        seed: bool,
        force: Option<NodeId>,
        beside: Option<SessionId>,
    },
    /// Primary: the target is in sync; count it in.
    AddPeer {
        session: SessionId,
    },
    /// Secondary that was sync source: the other copy is equal again.
    EndIdleSync {
        session: SessionId,
    },
    /// Nobody serves and the other copy is to be overwritten: flush this one first.
    FlushSource {
        session: SessionId,
        copy: Copy,
    },
    /// Follow a leader.
    Follow {
        session: SessionId,
        epoch: Epoch,
        copy: Copy,
    },
    /// Target: everything was received.
    FinishTarget {
        session: SessionId,
    },
    /// Follower: the record changed.
    Commit {
        session: SessionId,
        idle: bool,
    },
    Demote {
        ticket: Ticket,
    },
    Switchover {
        ticket: Option<Ticket>,
    },
    Stop {
        ticket: Ticket,
    },
    /// Somebody else took over: stop serving.
    Fence,
    /// The own disk failed while the peer is in sync: give the record to the peer.
    Surrender,
}

/// What a running procedure waits for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Wait {
    /// All parts settled in the current posture.
    Settled,
    Flushed(OpId),
    /// The superblock's first copy is durable; then the second is written, so that no page that goes bad later takes
    /// the node back to rights that it has lost.
    RecordedOnce(OpId),
    Recorded(OpId),
    /// The arbiter's record.
    Read,
    /// The answer to this change.
    Swap(Record),
    /// The arbiter is a person: `promote --force` answers for this change.
    Person(Record),
}

/// A procedure and the step it is in.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Procedure {
    pub goal: Goal,
    pub wait: Wait,
}

impl Procedure {
    /// May a session be established while it runs? Not while it decides alone.
    pub fn lets_peer_in(&self) -> bool {
        matches!(
            self.goal,
            Goal::FlushSource { .. }
                | Goal::AddPeer { .. }
                | Goal::EndIdleSync { .. }
                | Goal::Follow { .. }
                | Goal::FinishTarget { .. }
                | Goal::Commit { .. }
                | Goal::TakeOver { .. }
                | Goal::Promote { beside: Some(_), .. }
        )
    }
}

impl Coordinator {
    pub(super) fn begin(&mut self, goal: Goal, wait: Wait) {
        self.set_procedure(Procedure { goal, wait });
    }

    fn wait_for(&mut self, wait: Wait) {
        self.procedure.as_mut().expect("a procedure runs").wait = wait;
    }

    pub(super) fn done(&mut self) {
        self.procedure = None;
    }

    fn record(&mut self, out: &mut ControlOutbox) {
        let op = self.write_superblock(out);
        self.wait_for(Wait::RecordedOnce(op));
    }

    fn begin_recording(&mut self, goal: Goal, out: &mut ControlOutbox) {
        let op = self.write_superblock(out);
        self.begin(goal, Wait::RecordedOnce(op));
    }

    fn flush_first(&mut self, out: &mut ControlOutbox) {
        let op = self.flush(out);
        self.wait_for(Wait::Flushed(op));
    }

    fn swap(&mut self, expected: Record, mut proposed: Record, out: &mut ControlOutbox) {
        // Above what this node has seen, even where the arbiter has lost that.
        proposed.epoch = expected.epoch.max(self.superblock.record.epoch).next();
        proposed.nonce = self.fresh();
        out.push(ControlEffect::Cas { expected, proposed });
        self.wait_for(Wait::Swap(proposed));
    }

    // ---- beginnings ----

    pub(super) fn begin_boot(&mut self, out: &mut ControlOutbox) {
        // A doubt must outlive the next restart, which would see today's boot identifier.
        self.superblock.flags.outdated |= self.suspect;
        self.superblock.flags.clean_shutdown = false;
        self.begin_recording(Goal::Boot, out);
        let (record, flags) = (self.superblock.record, self.superblock.flags);
        out.push(ControlEffect::Event(Event::Started { record, flags }));
    }

    pub(super) fn begin_go_alone(&mut self, out: &mut ControlOutbox) {
        out.push(ControlEffect::Event(Event::Suspended));
        self.begin(Goal::GoAlone, Wait::Settled);
        self.settle_without_link(Service::Held, out);
        self.drop_session(super::DropReason::OnPurpose, out);
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
        // The hint first: what it refuses leaves the session, and a resync that runs in it, alone.
        self.begin(Goal::Promote { ticket, seed, force, beside }, Wait::Read);
        out.push(ControlEffect::ReadRecord);
    }

    /// R2: close the link, drop what was received but not applied, let the own disk drain.
    fn close_link(&mut self, out: &mut ControlOutbox) {
        self.drop_session(super::DropReason::OnPurpose, out);
        self.settle_without_link(Service::Closed, out);
        self.wait_for(Wait::Settled);
    }

    /// R12: the old primary's last act was the change that names this node, with both in sync; it follows from now on.
    /// No change of this node's own is needed: until there is one it answers nothing without the old primary's word.
    pub(super) fn begin_take_over(&mut self, record: Record, out: &mut ControlOutbox) {
        self.superblock.record = record;
        let session = self.session.as_ref().expect("handed over in a session").id;
        self.set_stage(Stage::Idle);
        self.settle_for_hand_over(out);
        self.begin(Goal::TakeOver { session }, Wait::Settled);
    }

    /// Asks whether the arbiter is there before anything is stopped for it.
    pub(super) fn begin_switchover(&mut self, ticket: Ticket, out: &mut ControlOutbox) {
        self.begin(Goal::Switchover { ticket: Some(ticket) }, Wait::Read);
        out.push(ControlEffect::ReadRecord);
    }

    /// The target's copy counts for nothing from now on, so what this one has only in its cache must not be lost.
    pub(super) fn begin_flush_source(&mut self, copy: Copy, out: &mut ControlOutbox) {
        let session = self.session.as_ref().expect("two meet in a session").id;
        self.set_stage(Stage::AwaitingFlush);
        let op = self.flush(out);
        self.begin(Goal::FlushSource { session, copy }, Wait::Flushed(op));
    }

    pub(super) fn begin_following(
        &mut self,
        epoch: Epoch,
        record: Record,
        copy: Copy,
        out: &mut ControlOutbox,
    ) {
        let session = self.session.as_ref().expect("led in a session").id;
        self.superblock.record = record;
        if copy != Copy::Nothing {
            self.superblock.flags.sync_target = true;
            self.superblock.flags.full_sync |= copy == Copy::Everything;
            let full = copy == Copy::Everything;
            out.push(ControlEffect::Event(Event::ResyncStarted { source: false, full }));
        }
        self.set_stage(Stage::Following { copy });
        self.begin_recording(Goal::Follow { session, epoch, copy }, out);
    }

    pub(super) fn begin_finish_target(&mut self, generations: Generations, out: &mut ControlOutbox) {
        let session = self.session.as_ref().expect("synchronised in a session").id;
        self.superblock.generations.adopt(&generations);
        let flags = &mut self.superblock.flags;
        flags.sync_target = false;
        flags.full_sync = false;
        flags.just_created = false;
        flags.outdated = false;
        self.suspect = false;
        self.discard = false;
        self.begin_recording(Goal::FinishTarget { session }, out);
    }

    pub(super) fn begin_commit(&mut self, record: Record, idle: bool, out: &mut ControlOutbox) {
        let session = self.session.as_ref().expect("told in a session").id;
        self.superblock.record = record;
        self.begin_recording(Goal::Commit { session, idle }, out);
    }

    /// From now on the peer's acknowledgement is needed: before the arbiter hears of it, not after (R3).
    pub(super) fn begin_add_peer(&mut self, out: &mut ControlOutbox) {
        let session = self.session.as_ref().expect("a leader has a session").id;
        self.set_posture(
            |posture| {
                posture.service = Service::Both;
                posture.sync = SyncRole::None;
                posture.write_through = true;
            },
            out,
        );
        self.begin(Goal::AddPeer { session }, Wait::Settled);
    }

    pub(super) fn begin_end_idle_sync(&mut self, out: &mut ControlOutbox) {
        let session = self.session.as_ref().expect("a leader has a session").id;
        self.superblock.generations.back_in_sync();
        // The copies are equal: this one lacks nothing that the other has.
        self.suspect = false;
        self.superblock.flags.outdated = false;
        self.begin_recording(Goal::EndIdleSync { session }, out);
    }

    /// Stops in order: what runs finishes on both copies if the peer is in sync, and the activity log is emptied.
    pub(super) fn begin_wind_down(&mut self, goal: Goal, out: &mut ControlOutbox) {
        self.begin(goal, Wait::Settled);
        self.stop_serving(out);
    }

    /// The session went away. A procedure that waits for the peer's part of winding down must not wait for ever.
    pub(super) fn on_session_lost(&mut self, out: &mut ControlOutbox) {
        let Some(Procedure { goal, wait: Wait::Settled | Wait::Read }) = self.procedure else { return };
        match goal {
            Goal::Demote { .. } | Goal::Stop { .. } => self.wind_down(false, false, out),
            Goal::Switchover { ticket } => {
                self.done();
                self.reply(ticket, Err(Refusal::PeerNotReady), out);
            }
            _ => {}
        }
    }

    /// The disk failed. With an in-sync peer the service can be handed over; otherwise requests end in errors where
    /// they are. Returns whether a procedure was begun.
    pub(super) fn begin_surrender(&mut self, out: &mut ControlOutbox) -> bool {
        self.surrendered = true;
        self.drop_session(super::DropReason::OnPurpose, out);
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
        // The disk may never answer what it was asked, so nothing is waited for but the arbiter.
        let peer = self.me().peer();
        self.begin(Goal::Surrender, Wait::Settled);
        // Nobody is made the only copy by another's word: the peer may have to flush first, or lack writes itself. It asks
        // for that when it promotes; this node knows from its superblock that it is not to be trusted.
        let record = self.superblock.record;
        self.swap(record, Record { primary: Some(peer), ..record }, out);
        true
    }

    /// Serves no more, whatever the disk still owes.
    pub(super) fn close_for_good(&mut self, out: &mut ControlOutbox) {
        self.set_serving(false, out);
        self.role = Role::Secondary;
        self.settle_without_link(Service::Closed, out);
    }

    // ---- completions ----

    pub(super) fn on_settled(&mut self, _now: Instant, out: &mut ControlOutbox) {
        let Some(Procedure { goal, wait: Wait::Settled }) = self.procedure else { return };
        match goal {
            Goal::Boot => self.end_boot(out),
            Goal::GoAlone if self.config.mutants.has(Mutant::AloneBeforeArbiter) => {
                self.settle_without_link(Service::Alone, out);
                self.ask_alone(out);
            }
            Goal::GoAlone if self.config.mutants.has(Mutant::SkipFlushBeforeAlone) => self.ask_alone(out),
            Goal::GoAlone => self.flush_first(out),
            Goal::Promote { .. } => self.flush_first(out),
            Goal::TakeOver { .. } => self.record(out),
            Goal::AddPeer { .. } if self.superblock.record.in_sync == NodeSet::BOTH => {
                self.count_peer_in(out)
            }
            Goal::AddPeer { .. } => {
                let record = self.superblock.record;
                let proposed = Record { primary: Some(self.me()), in_sync: NodeSet::BOTH, ..record };
                self.swap(record, proposed, out);
            }
            Goal::Follow { session, copy, .. } => {
                self.done();
                if self.is_current(session) {
                    self.set_stage(Stage::Following { copy });
                    self.send(Control::Following, out);
                }
            }
            Goal::FinishTarget { session } => {
                self.done();
                if self.is_current(session) {
                    self.set_stage(Stage::Following { copy: Copy::Nothing });
                    self.send(Control::SyncDoneAck, out);
                }
                out.push(ControlEffect::Event(Event::ResyncFinished { source: false }));
            }
            Goal::EndIdleSync { .. } | Goal::Commit { .. } => self.done(),
            Goal::Demote { .. } | Goal::Stop { .. } | Goal::Switchover { .. } => self.flush_first(out),
            Goal::Fence => {
                self.superblock.flags.outdated |= !self.superblock.record.in_sync.contains(self.me());
                self.record(out);
            }
            Goal::Surrender | Goal::FlushSource { .. } => {}
        }
    }

    pub(super) fn on_written(&mut self, now: Instant, op: OpId, out: &mut ControlOutbox) {
        let Some(Procedure { goal, wait }) = self.procedure else { return };
        match wait {
            Wait::Flushed(wanted) if wanted == op => self.on_flushed(now, goal, out),
            Wait::RecordedOnce(wanted) if wanted == op => {
                let op = self.write_superblock(out);
                self.wait_for(Wait::Recorded(op));
            }
            Wait::Recorded(wanted) if wanted == op => self.on_recorded(now, goal, out),
            _ => {}
        }
    }

    fn on_flushed(&mut self, now: Instant, goal: Goal, out: &mut ControlOutbox) {
        if self.disk_failed {
            // A flush that succeeds after one that failed says nothing.
            return self.give_up_procedure(out);
        }
        match goal {
            Goal::GoAlone => self.ask_alone(out),
            Goal::FlushSource { session, copy } => {
                self.done();
                if self.is_current(session) {
                    self.begin_leading(copy, out);
                }
            }
            Goal::Promote { .. } => self.ask_promotion(out),
            Goal::Switchover { .. } => {
                let record = self.superblock.record;
                let peer = self.me().peer();
                self.swap(record, Record { primary: Some(peer), ..record }, out);
            }
            Goal::Demote { .. } => {
                self.role = Role::Secondary;
                self.record(out);
            }
            Goal::Stop { .. } => {
                self.role = Role::Secondary;
                self.superblock.flags.clean_shutdown = true;
                self.record(out);
            }
            _ => self.on_settled(now, out),
        }
    }

    fn ask_alone(&mut self, out: &mut ControlOutbox) {
        let record = self.superblock.record;
        let proposed = Record { primary: Some(self.me()), in_sync: NodeSet::only(self.me()), ..record };
        if (record.primary, record.in_sync) == (proposed.primary, proposed.in_sync) {
            // The peer was never counted in: nobody can have changed the record. It may have taken over this node's
            // generation, though, at the end of a resync.
            self.start_generation();
            return self.record(out);
        }
        self.swap(record, proposed, out);
    }

    /// What this node takes from here on, the peer does not get.
    fn start_generation(&mut self) {
        self.generation_told = false;
        if !self.config.mutants.has(Mutant::SkipGenerationBump) {
            let fresh = self.fresh();
            self.superblock.generations.go_alone(fresh);
        }
    }

    /// The record is at hand (in the superblock) and every gate was passed: ask the arbiter.
    fn ask_promotion(&mut self, out: &mut ControlOutbox) {
        let Some(Procedure { goal: Goal::Promote { beside, .. }, .. }) = self.procedure else { return };
        let record = self.superblock.record;
        let in_sync = if beside.is_some() { NodeSet::BOTH } else { NodeSet::only(self.me()) };
        let expected = self.arbiter_lost.take().unwrap_or(record);
        self.swap(expected, Record { primary: Some(self.me()), in_sync, ..record }, out);
    }

    pub(super) fn on_record_read(&mut self, _now: Instant, outcome: RecordOutcome, out: &mut ControlOutbox) {
        let Some(Procedure { goal, wait: Wait::Read }) = self.procedure else { return };
        match (goal, outcome) {
            (Goal::Promote { .. }, RecordOutcome::Unreachable) => {
                self.refuse_promotion(Refusal::ArbiterUnreachable, out);
            }
            (Goal::Promote { .. }, RecordOutcome::Known(hint)) => self.judge_promotion(hint, false, out),
            // Only this node's own knowledge is left.
            (Goal::Promote { .. }, RecordOutcome::NeedsOperator) => {
                self.judge_promotion(self.superblock.record, true, out);
            }
            (Goal::Switchover { ticket }, RecordOutcome::Unreachable) => {
                self.done();
                self.reply(ticket, Err(Refusal::ArbiterUnreachable), out);
            }
            (Goal::Switchover { .. }, _) => {
                self.wait_for(Wait::Settled);
                self.stop_serving(out);
            }
            _ => {}
        }
    }

    /// The gates of a promotion. `by_person`: the arbiter is a person, and the hint this node's own memory.
    fn judge_promotion(&mut self, hint: Record, by_person: bool, out: &mut ControlOutbox) {
        let Some(Procedure { goal: Goal::Promote { ticket, force, seed, beside }, .. }) = self.procedure
        else {
            return;
        };
        let seen = self.superblock.record;
        let lost = hint.epoch < seen.epoch;
        if lost && force.is_none() {
            return self.refuse_promotion(Refusal::ArbiterLostData { record: hint, seen }, out);
        }
        // By force: what this node has seen is written over what the arbiter has left.
        self.arbiter_lost = lost.then_some(hint);
        let hint = if lost { seen } else { hint };
        let fresh = hint.epoch == Epoch(0);
        if force.is_none() && !fresh && !hint.in_sync.contains(self.me()) {
            return self.refuse_promotion(Refusal::NotInSync { record: hint }, out);
        }
        // Named alone it had flushed before, and wrote through since: a lost cache cost it nothing (D3).
        let only_me = hint.in_sync == NodeSet::only(self.me());
        if self.suspect && !only_me && force.is_none() {
            return self.refuse_promotion(Refusal::MayLackWrites, out);
        }
        let may_be_seeded = seed && (fresh || force.is_some());
        if self.superblock.flags.just_created && !may_be_seeded {
            return self.refuse_promotion(Refusal::NeverSynced, out);
        }
        // Beside a peer that the record leaves out this node serves alone first; the resync counts the peer in.
        let together = fresh || hint.in_sync == NodeSet::BOTH;
        let beside = beside.filter(|&session| self.is_current(session) && together);
        if by_person && beside.is_none() && force.is_none() {
            return self.refuse_promotion(Refusal::NeedsOperator, out);
        }
        self.superblock.record = hint;
        self.procedure =
            Some(Procedure { goal: Goal::Promote { ticket, seed, force, beside }, wait: Wait::Read });
        if beside.is_some() { self.ask_promotion(out) } else { self.close_link(out) }
    }

    pub(super) fn on_swapped(&mut self, now: Instant, outcome: CasOutcome, out: &mut ControlOutbox) {
        let Some(Procedure { goal, wait: Wait::Swap(proposed) }) = self.procedure else { return };
        match outcome {
            CasOutcome::Won => self.on_won(now, proposed, out),
            CasOutcome::NeedsOperator => match goal {
                Goal::Promote { force: Some(_), .. } => self.on_won(now, proposed, out),
                Goal::Promote { beside: Some(_), .. } | Goal::Switchover { .. } | Goal::AddPeer { .. } => {
                    // Both nodes are here and agree; no third vote is needed to widen or move the set.
                    self.on_won(now, proposed, out);
                }
                Goal::Promote { .. } => self.refuse_promotion(Refusal::NeedsOperator, out),
                _ => self.wait_for(Wait::Person(proposed)),
            },
            CasOutcome::Lost(current) => self.on_lost(goal, current, out),
        }
    }

    /// The change is committed: rights grow by this, and by nothing else (R1).
    pub(super) fn on_won(&mut self, _now: Instant, record: Record, out: &mut ControlOutbox) {
        let Some(Procedure { goal, .. }) = self.procedure else { return };
        let alone = record.in_sync == NodeSet::only(self.me());
        self.superblock.record = record;
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
                self.discord = None;
                self.suspect = false;
                self.superblock.flags.outdated = false;
                self.superblock.flags.sync_target = false;
                self.superblock.flags.full_sync = false;
            }
            Goal::Surrender => return self.done(),
            // This node records it when it follows. Until then it knows less, and serves nobody.
            Goal::Switchover { ticket } => return self.hand_over(ticket, out),
            _ => {}
        }
        self.record(out);
    }

    pub(super) fn refuse_promotion(&mut self, refusal: Refusal, out: &mut ControlOutbox) {
        self.arbiter_lost = None;
        if let Some(Procedure { goal: Goal::Promote { ticket, .. }, .. }) = self.procedure {
            self.reply(ticket, Err(refusal), out);
        }
        self.done();
    }

    fn on_recorded(&mut self, _now: Instant, goal: Goal, out: &mut ControlOutbox) {
        match goal {
            Goal::Boot => {
                self.settle_without_link(Service::Closed, out);
                self.wait_for(Wait::Settled);
            }
            Goal::GoAlone => {
                self.done();
                self.serve_alone(out);
            }
            Goal::Promote { ticket, force, beside, .. } => self.end_promote(ticket, force, beside, out),
            Goal::AddPeer { .. } => self.count_peer_in(out),
            Goal::EndIdleSync { session } => {
                if self.is_current(session) {
                    self.set_stage(Stage::Idle);
                    self.send(Control::Commit { record: self.superblock.record, idle: true }, out);
                }
                self.settle_without_link(Service::Closed, out);
                self.wait_for(Wait::Settled);
            }
            Goal::Follow { session, epoch, copy } => self.listen(session, epoch, copy, out),
            Goal::FinishTarget { .. } => {
                self.set_posture(|posture| posture.sync = SyncRole::None, out);
                self.wait_for(Wait::Settled);
            }
            Goal::Commit { session, idle } if idle => {
                if self.is_current(session) {
                    self.set_stage(Stage::Idle);
                }
                self.settle_without_link(Service::Closed, out);
                self.wait_for(Wait::Settled);
            }
            Goal::Commit { .. } => self.done(),
            Goal::Demote { ticket } => {
                self.done();
                out.push(ControlEffect::Event(Event::Demoted));
                // Meet again, as two secondaries.
                self.drop_session(super::DropReason::OnPurpose, out);
                self.reply(Some(ticket), Ok(()), out);
            }
            Goal::Stop { ticket } => {
                self.done();
                self.stopped = true;
                self.drop_session(super::DropReason::OnPurpose, out);
                out.push(ControlEffect::Event(Event::Stopped));
                self.reply(Some(ticket), Ok(()), out);
            }
            Goal::TakeOver { session } => self.end_promote(None, None, Some(session), out),
            Goal::Switchover { .. } | Goal::Fence | Goal::Surrender | Goal::FlushSource { .. } => self.done(),
        }
    }

    // ---- ends ----

    fn end_boot(&mut self, out: &mut ControlOutbox) {
        self.done();
        if !self.config.replicated {
            self.role = Role::Primary;
            self.settle_without_link(Service::Standalone, out);
            self.set_serving(true, out);
        }
    }

    fn serve_alone(&mut self, out: &mut ControlOutbox) {
        let record = self.superblock.record;
        out.push(ControlEffect::Event(Event::AloneNow { record }));
        self.settle_without_link(Service::Alone, out);
        self.set_serving(true, out);
    }

    fn end_promote(
        &mut self,
        ticket: Option<Ticket>,
        force: Option<NodeId>,
        beside: Option<SessionId>,
        out: &mut ControlOutbox,
    ) {
        self.done();
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

    fn count_peer_in(&mut self, out: &mut ControlOutbox) {
        let Some(Procedure { goal: Goal::AddPeer { session }, .. }) = self.procedure else { return };
        self.done();
        let record = self.superblock.record;
        out.push(ControlEffect::Event(Event::PeerInSync { record }));
        self.set_posture(|posture| posture.write_through = false, out);
        if self.is_current(session) {
            self.set_stage(Stage::Leading { copy: Copy::Nothing, awaited: Awaited::Nothing, steady: true });
            self.send(Control::Commit { record, idle: false }, out);
        }
    }

    fn listen(&mut self, session: SessionId, epoch: Epoch, copy: Copy, out: &mut ControlOutbox) {
        let Some(peer_shards) =
            self.live_session().filter(|live| live.id == session).map(|live| live.peer_shards)
        else {
            return self.done();
        };
        self.set_posture(
            |posture| {
                posture.service = Service::Closed;
                posture.session = Some(session);
                posture.peer_shards = peer_shards;
                posture.link = LinkRole::Follow;
                posture.sync = if copy == Copy::Nothing { SyncRole::None } else { SyncRole::Target };
                posture.wind_down = false;
                // Not before the leader says that it serves.
                posture.forward = false;
                posture.epoch = epoch;
            },
            out,
        );
        self.wait_for(Wait::Settled);
    }

    fn hand_over(&mut self, ticket: Option<Ticket>, out: &mut ControlOutbox) {
        self.done();
        self.role = Role::Secondary;
        let record = self.superblock.record;
        out.push(ControlEffect::Event(Event::HandedOver { record }));
        self.settle_for_hand_over(out);
        self.set_stage(Stage::Idle);
        self.send(Control::Handover { record }, out);
        self.await_take_over(ticket, out);
    }

    pub(super) fn is_current(&self, session: SessionId) -> bool {
        self.live_session().is_some_and(|live| live.id == session)
    }

    /// The own disk failed in the middle: there is nothing to wait for any more.
    pub(super) fn give_up_procedure(&mut self, out: &mut ControlOutbox) {
        let Some(procedure) = self.procedure else { return };
        if matches!(procedure.wait, Wait::Swap(_)) {
            return;
        }
        self.procedure = None;
        match procedure.goal {
            Goal::Promote { ticket, .. } | Goal::Switchover { ticket } => {
                self.reply(ticket, Err(Refusal::DiskFailed), out);
            }
            Goal::Demote { ticket } | Goal::Stop { ticket } => {
                self.reply(Some(ticket), Err(Refusal::DiskFailed), out)
            }
            _ => {}
        }
    }
}
