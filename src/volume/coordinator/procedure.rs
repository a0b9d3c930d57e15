//! Procedures: chains of steps, each of which asks for one thing and goes on when it is done. See the drawing in the
//! parent module. Those that change the arbiter's record go by [`Change::steps`]: see [`change`](super::change). Nothing
//! interrupts a procedure except the failure of the own disk; what happened meanwhile is seen
//! by reconcile when it is over.

use crate::arbitration::rules::{Change, Step};
use crate::arbitration::{Epoch, Record};
use crate::block::UnitState;
use crate::replication::control::{Control, Copy};
use crate::storage::Generations;
use crate::time::Instant;
use crate::units::{NodeId, SessionId};

use super::super::effect::OpId;
use super::super::messages::{LinkRole, Service, SyncRole};
use super::super::mutant::Mutant;
use super::super::operator::{Event, Refusal, Role, Ticket};
use super::session::Stage;
use super::{ControlEffect, ControlOutbox, Coordinator};

/// What a procedure is for.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
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
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(super) enum Wait {
    /// All parts settled in the current posture.
    Settled,
    /// Both copies of the leader's unit state are durable.
    UnitHeld,
    /// Every shard has adopted it.
    Adopted,
    Flushed(OpId),
    /// The superblock's first copy is durable; then the second is written, so that no page that goes bad later takes
    /// the node back to rights that it has lost.
    RecordedOnce(OpId),
    Recorded(OpId),
    /// What this node has promised to whom it followed is over.
    Promise,
    /// The arbiter's record.
    Read,
    /// The answer to this change.
    Swap(Record),
    /// The arbiter is a person: `promote --force` answers for this change.
    Person(Record),
}

/// A procedure and the step it is in.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(super) struct Procedure {
    pub goal: Goal,
    pub wait: Wait,
}

impl Goal {
    /// The change of the record that it is about, if any; then [`Change::steps`] says what comes when.
    pub fn change(&self) -> Option<Change> {
        Some(match self {
            Self::GoAlone => Change::Alone,
            Self::Promote { beside: None, .. } => Change::Promote,
            Self::Promote { beside: Some(_), .. } => Change::PromoteBeside,
            Self::AddPeer { .. } => Change::Add,
            Self::Switchover { .. } => Change::HandOver,
            Self::Surrender => Change::Surrender,
            _ => return None,
        })
    }
}

impl Procedure {
    /// Held, and this node has asked for nothing yet: the peer's return may end the wait
    /// ([`Coordinator::end_undecided_hold`]).
    pub fn is_undecided(&self) -> bool {
        matches!((self.goal, self.wait), (Goal::GoAlone, Wait::Person(_) | Wait::Read))
    }

    /// May a session be established while it runs? Not while it decides alone.
    pub fn lets_peer_in(&self) -> bool {
        self.is_undecided()
            || matches!(
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

    pub(super) fn wait_for(&mut self, wait: Wait) {
        self.procedure.as_mut().expect("a procedure runs").wait = wait;
    }

    pub(super) fn done(&mut self) {
        self.procedure = None;
    }

    pub(super) fn record(&mut self, out: &mut ControlOutbox) {
        let op = self.write_superblock(out);
        self.wait_for(Wait::RecordedOnce(op));
    }

    pub(super) fn begin_recording(&mut self, goal: Goal, out: &mut ControlOutbox) {
        let op = self.write_superblock(out);
        self.begin(goal, Wait::RecordedOnce(op));
    }

    pub(super) fn flush_first(&mut self, out: &mut ControlOutbox) {
        let op = self.flush(out);
        self.wait_for(Wait::Flushed(op));
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
        unit: Option<UnitState>,
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
        let goal = Goal::Follow { session, epoch, copy };
        if self.join_unit(unit, out) {
            self.begin(goal, Wait::UnitHeld);
        } else {
            self.begin_recording(goal, out);
        }
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
        let adding =
            matches!(self.procedure, Some(Procedure { goal: Goal::AddPeer { .. }, wait: Wait::Swap(_) }));
        if adding && self.config.mutants.has(Mutant::AddAfterAnswer) {
            return self.done();
        }
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

    /// Serves no more, whatever the disk still owes.
    pub(super) fn close_for_good(&mut self, out: &mut ControlOutbox) {
        self.set_serving(false, out);
        self.role = Role::Secondary;
        self.settle_without_link(Service::Closed, out);
    }

    // ---- completions ----

    pub(super) fn on_settled(&mut self, _now: Instant, out: &mut ControlOutbox) {
        let Some(Procedure { goal, wait: Wait::Settled }) = self.procedure else { return };
        if goal.change().is_some() {
            return self.go_on(Step::Settle, out);
        }
        match goal {
            Goal::Boot => self.end_boot(out),
            Goal::TakeOver { .. } => self.record(out),
            Goal::Follow { session, copy, .. } if self.unit.is_adopted() => {
                self.end_follow(session, copy, out);
            }
            Goal::Follow { .. } => self.wait_for(Wait::Adopted),
            Goal::FinishTarget { session } => {
                self.done();
                if self.is_current(session) {
                    self.set_stage(Stage::Following { copy: Copy::Nothing });
                    self.send(Control::SyncDoneAck, out);
                }
                out.push(ControlEffect::Event(Event::ResyncFinished { source: false }));
            }
            Goal::EndIdleSync { .. } | Goal::Commit { .. } => self.done(),
            Goal::Demote { .. } | Goal::Stop { .. } => self.flush_first(out),
            Goal::Fence => {
                self.superblock.flags.outdated |= !self.superblock.record.in_sync.contains(self.me());
                self.record(out);
            }
            Goal::FlushSource { .. }
            | Goal::GoAlone
            | Goal::Promote { .. }
            | Goal::AddPeer { .. }
            | Goal::Switchover { .. }
            | Goal::Surrender => {}
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
        if goal.change().is_some() {
            return self.go_on(Step::Flush, out);
        }
        match goal {
            Goal::FlushSource { session, copy } => {
                self.done();
                if self.is_current(session) {
                    self.begin_leading(copy, out);
                }
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

    fn on_recorded(&mut self, _now: Instant, goal: Goal, out: &mut ControlOutbox) {
        if goal.change().is_some() {
            return self.go_on(Step::Record, out);
        }
        match goal {
            Goal::Boot => {
                self.settle_without_link(Service::Closed, out);
                self.wait_for(Wait::Settled);
            }
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
            Goal::TakeOver { session } => {
                self.done();
                self.end_promote(None, None, Some(session), out);
            }
            Goal::Fence => self.done(),
            Goal::FlushSource { .. }
            | Goal::GoAlone
            | Goal::Promote { .. }
            | Goal::AddPeer { .. }
            | Goal::Switchover { .. }
            | Goal::Surrender => {}
        }
    }

    // ---- ends ----

    /// All shards listen, and judge by the leader's unit state.
    pub(super) fn end_follow(&mut self, session: SessionId, copy: Copy, out: &mut ControlOutbox) {
        self.done();
        if self.is_current(session) {
            self.set_stage(Stage::Following { copy });
            self.send(Control::Following, out);
        }
    }

    fn end_boot(&mut self, out: &mut ControlOutbox) {
        self.done();
        let named = self.superblock.record.primary == Some(self.me());
        if named && self.config.mutants.has(Mutant::ServeBeforeClaim) {
            self.role = Role::Primary;
            self.serve_alone(out);
        }
        if !self.config.replicated {
            self.role = Role::Primary;
            self.settle_without_link(Service::Standalone, out);
            self.set_serving(true, out);
        }
    }

    fn listen(&mut self, session: SessionId, epoch: Epoch, copy: Copy, out: &mut ControlOutbox) {
        let Some(peer_shards) =
            self.live_session().filter(|live| live.id == session).map(|live| live.end.shards)
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
