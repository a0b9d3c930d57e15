//! The meeting of two coordinators: states are exchanged, the same decision is taken on both sides, one leads and the
//! other follows, and what differs is copied. The follower always goes first: it has recorded what it is to become
//! and all its shards listen before the leader sends a frame.

use alloc::collections::VecDeque;

use crate::arbitration::NodeSet;
use crate::arbitration::rules::may_act_alone;
use crate::block::UnitVersion;
use crate::replication::control::{ByeReason, Control, Copy, PeerState};
use crate::replication::decision::{Discord, Relation, decide};
use crate::storage::DiskFlags;
use crate::time::{Duration, Instant};
use crate::units::SessionId;

use super::super::messages::{LinkRole, PeerEnd, Service, SyncRole};
use super::super::operator::{Event, Role};
use super::procedure::Procedure;
use super::{ControlEffect, ControlOutbox, Coordinator, DropReason};

/// Messages a peer may send ahead of our reading them.
pub(super) const INBOX_MAX: usize = 16;

/// Where the two stand in the session.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(super) enum Stage {
    /// States are being exchanged.
    Meeting,
    /// Decided that the peer leads; its `Lead` has not come yet.
    AwaitingLead,
    /// Decided that this node leads and copies; it flushes first.
    AwaitingFlush,
    /// Neither copy has data yet; the operator must choose one.
    NoData,
    /// The two must not work together. Both find that out for themselves; the session ends when the peer has said so
    /// too, so that neither is left to guess why the other went away.
    Parting { discord: Discord },
    /// Both in sync, nobody serves.
    Idle,
    /// This node leads. `awaited`: the peer's next word; `steady`: nothing is left to copy or to agree on.
    Leading { copy: Copy, awaited: Awaited, steady: bool },
    /// This node follows.
    Following { copy: Copy },
}

/// What a leader waits for.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(super) enum Awaited {
    Following,
    /// Own parts: every bit clear.
    Clean,
    SyncDoneAck,
    Nothing,
}

/// One session.
#[derive(Clone, Hash, Debug)]
pub(super) struct Session {
    pub id: SessionId,
    pub end: PeerEnd,
    pub heard: Instant,
    pinged: Instant,
    /// The state this node sent; if it is not true any more when the decision falls, the two meet again.
    sent: Option<PeerState>,
    pub peer: Option<PeerState>,
    pub stage: Stage,
    pub inbox: VecDeque<Control>,
    /// The follower was told that this node serves.
    told_serving: bool,
    /// Leading: when a read lease was asked for last, and until when the newest one lasts.
    pub lease_asked: Option<Instant>,
    pub lease_until: Option<Instant>,
    /// Leader: the version of the unit state that the follower was sent last, and the last that it has adopted.
    pub unit_sent: Option<UnitVersion>,
    pub unit_held: Option<UnitVersion>,
    /// The driver was told to close it.
    pub dropping: bool,
}

impl Session {
    pub fn new(id: SessionId, end: PeerEnd, now: Instant) -> Self {
        Self {
            id,
            end,
            heard: now,
            pinged: now,
            sent: None,
            peer: None,
            stage: Stage::Meeting,
            inbox: VecDeque::new(),
            told_serving: false,
            lease_asked: None,
            lease_until: None,
            unit_sent: None,
            unit_held: None,
            dropping: false,
        }
    }

    pub fn is_in_sync(&self) -> bool {
        matches!(
            self.stage,
            Stage::Idle | Stage::Leading { steady: true, .. } | Stage::Following { copy: Copy::Nothing }
        )
    }

    /// When to look at the peer's silence again.
    pub fn next_check(&self, timeout: Duration) -> Instant {
        (self.heard + timeout).min(self.pinged + timeout / 4)
    }
}

impl Coordinator {
    /// Pings the peer and notices its silence.
    pub(super) fn check_peer(&mut self, now: Instant, out: &mut ControlOutbox) {
        let timeout = self.config.peer_timeout;
        let Some(session) = self.session.as_mut().filter(|session| !session.dropping) else { return };
        if now.since(session.heard) >= timeout {
            return self.drop_session(DropReason::Silent, out);
        }
        if now.since(session.pinged) >= timeout / 4 {
            session.pinged = now;
            out.push(ControlEffect::SendControl { session: session.id, message: Control::Ping });
        }
    }

    /// Ends the session. What it means for the service is seen when the driver reports it down.
    pub(super) fn drop_session(&mut self, reason: DropReason, out: &mut ControlOutbox) {
        let Some(session) = self.session.as_mut().filter(|session| !session.dropping) else { return };
        session.dropping = true;
        if reason == DropReason::OnPurpose {
            let message = Control::Bye { reason: ByeReason::Disconnected };
            out.push(ControlEffect::SendControl { session: session.id, message });
        }
        out.push(ControlEffect::DropSession { session: session.id, reason });
    }

    pub(super) fn send(&self, message: Control, out: &mut ControlOutbox) {
        if let Some(session) = self.session.as_ref().filter(|session| !session.dropping) {
            out.push(ControlEffect::SendControl { session: session.id, message });
        }
    }

    pub(super) fn set_stage(&mut self, stage: Stage) {
        if let Some(session) = self.session.as_mut() {
            session.stage = stage;
        }
    }

    /// A session that is up and not being closed.
    pub(super) fn live_session(&self) -> Option<&Session> {
        self.session.as_ref().filter(|session| !session.dropping)
    }

    fn own_state(&self) -> PeerState {
        PeerState {
            node: self.config.node,
            geometry: self.superblock.layout.geometry,
            generations: self.superblock.generations,
            record: self.superblock.record,
            // What this node may have promised is its own affair, and older releases do not know the flag.
            flags: DiskFlags { leases: false, ..self.superblock.flags },
            primary: self.role == Role::Primary,
            dirty_blocks: self.dirty_blocks(),
            suspect: self.suspect,
            discard: self.discard,
        }
    }

    /// One step of the session, if there is one to take while no procedure runs. Returns whether there was.
    pub(super) fn step_session(&mut self, now: Instant, out: &mut ControlOutbox) -> bool {
        let Some(session) = self.session.as_mut().filter(|session| !session.dropping) else { return false };
        if let (Stage::Meeting, Some(mine), Some(theirs)) = (session.stage, session.sent, session.peer) {
            self.meet(now, mine, theirs, out);
            return true;
        }
        if let Some(message) = session.inbox.pop_front() {
            self.on_message(now, message, out);
            return true;
        }
        let leads = matches!(session.stage, Stage::Leading { awaited, .. } if awaited != Awaited::Following);
        let held = self.posture.service == Service::Held;
        if leads && !session.told_serving && self.role == Role::Primary && !held && self.unsettled == 0 {
            session.told_serving = true;
            self.send(Control::Serving, out);
            return true;
        }
        match session.stage {
            Stage::Meeting if session.sent.is_none() => {
                if !self.is_settled() {
                    return false;
                }
                let state = self.own_state();
                self.session.as_mut().expect("looked at above").sent = Some(state);
                self.send(Control::State(state), out);
                true
            }
            Stage::Leading { awaited: Awaited::Clean, copy, .. } => {
                if !self.all_clean() {
                    return false;
                }
                let awaited = Awaited::SyncDoneAck;
                self.set_stage(Stage::Leading { copy, awaited, steady: false });
                self.generation_told = true;
                self.send(Control::SyncDone { generations: self.superblock.generations }, out);
                true
            }
            _ => false,
        }
    }

    /// Both states are known: decide.
    fn meet(&mut self, now: Instant, mine: PeerState, theirs: PeerState, out: &mut ControlOutbox) {
        if mine != self.own_state() {
            return self.drop_session(DropReason::Changed, out);
        }
        if theirs.node == mine.node {
            return self.drop_session(DropReason::Protocol, out);
        }
        if !theirs.primary {
            // Who says so has no part left that answers, and needs a new promise before one does.
            self.promise.end();
        }
        let decision = decide(&mine, &theirs);
        let stays = matches!(decision, Ok(Relation::Idle | Relation::Lead(_)));
        if stays && self.role == Role::Secondary && theirs.record.epoch > self.superblock.record.epoch {
            // A committed fact this node had not heard of. (A follower takes the record over with the lead.)
            self.superblock.record = theirs.record;
        }
        if decision.is_ok() {
            self.discord = None;
        }
        match decision {
            Err(Discord::NoData) => self.set_stage(Stage::NoData),
            Ok(Relation::Idle) => self.set_stage(Stage::Idle),
            Ok(Relation::Follow(_)) => self.set_stage(Stage::AwaitingLead),
            Ok(Relation::Lead(Copy::Everything)) if self.needs_peer() => {
                // Initiators do not wait for a whole disk.
                self.peer_is_no_help = true;
                self.drop_session(DropReason::Changed, out);
            }
            Ok(Relation::Lead(copy)) if copy != Copy::Nothing && self.role == Role::Secondary => {
                self.begin_flush_source(copy, out);
            }
            Ok(Relation::Lead(copy)) => self.begin_leading(copy, out),
            Err(discord) => self.fall_out(now, discord, out),
        }
    }

    pub(super) fn begin_leading(&mut self, copy: Copy, out: &mut ControlOutbox) {
        if let Some(session) = self.session.as_mut() {
            session.told_serving = false;
        }
        self.set_stage(Stage::Leading { copy, awaited: Awaited::Following, steady: false });
        let (record, unit) = (self.superblock.record, self.unit_to_lead_with());
        self.send(Control::Lead { epoch: self.posture.epoch.max(record.epoch), record, copy, unit }, out);
    }

    fn fall_out(&mut self, now: Instant, discord: Discord, out: &mut ControlOutbox) {
        if self.discord != Some(discord) {
            out.push(ControlEffect::Event(Event::Refused(discord)));
        }
        match discord {
            // Solved by stopping here, or by the peer's stopping there: meet again afterwards.
            Discord::Superseded => self.superseded = true,
            Discord::PeerSuperseded => {}
            // A person must say.
            _ => {
                self.discord = Some(discord);
                self.discord_until = Some(now + super::DISCORD_PAUSE);
                self.send(Control::Bye { reason: ByeReason::Refused }, out);
                return self.set_stage(Stage::Parting { discord });
            }
        }
        self.drop_session(DropReason::Discord(discord), out);
    }

    fn on_message(&mut self, now: Instant, message: Control, out: &mut ControlOutbox) {
        let me = self.me();
        let session = self.session.as_mut().expect("messages come in a session");
        match (message, session.stage) {
            (Control::State(state), Stage::Meeting) if session.peer.is_none() => session.peer = Some(state),
            (Control::Lead { epoch, record, copy, unit }, Stage::AwaitingLead | Stage::Idle)
                if self.role == Role::Secondary && epoch >= self.superblock.record.epoch =>
            {
                self.end_hand_over(Ok(()), out);
                self.begin_following(epoch, record, copy, unit, out);
            }
            // It was promoted while this node was: one of the two changes of the record is the newer. Meet again and see.
            (Control::Lead { .. }, _) => self.drop_session(DropReason::Changed, out),
            (Control::Following, Stage::Leading { copy, awaited: Awaited::Following, .. }) => {
                self.lead(copy, out)
            }
            (Control::SyncDone { generations }, Stage::Following { copy }) if copy != Copy::Nothing => {
                self.begin_finish_target(generations, out);
            }
            (Control::SyncDoneAck, Stage::Leading { awaited: Awaited::SyncDoneAck, copy, .. }) => {
                self.on_target_done(copy, out);
            }
            (Control::Commit { record, idle }, Stage::Following { .. })
                if record.epoch >= self.superblock.record.epoch =>
            {
                self.begin_commit(record, idle, out);
            }
            (Control::Handover { record }, Stage::Following { copy: Copy::Nothing })
                if record.epoch > self.superblock.record.epoch
                    && (record.primary, record.in_sync) == (Some(me), NodeSet::BOTH) =>
            {
                self.begin_take_over(record, out);
            }
            (Control::Serving, Stage::Following { .. }) => self.begin_forwarding(out),
            (Control::Bye { .. }, Stage::Parting { discord }) => {
                self.drop_session(DropReason::Discord(discord), out);
            }
            (_, Stage::Parting { .. }) => {}
            (Control::Bye { reason }, _) => self.drop_session(DropReason::Bye(reason), out),
            (Control::Ping | Control::Pong, _) => session.heard = now,
            (
                message @ (Control::Unit(_)
                | Control::UnitAdopted { .. }
                | Control::UnitChange { .. }
                | Control::UnitChanged { .. }),
                _,
            ) => self.on_unit_message(message, out),
            _ => self.drop_session(DropReason::Protocol, out),
        }
    }

    /// The follower listens on all shards: send.
    fn lead(&mut self, copy: Copy, out: &mut ControlOutbox) {
        let session = self.session.as_mut().expect("a leader has a session");
        session.unit_held = session.unit_sent;
        let (id, peer_shards) = (session.id, session.end.shards);
        let primary = self.role == Role::Primary;
        let (service, sync, awaited) = match copy {
            Copy::Nothing => (Service::Both, SyncRole::None, Awaited::Nothing),
            copy => {
                // Counted in and yet not the same: requests go on being held until it is (R3).
                let alone = may_act_alone(self.me(), self.superblock.record);
                let service = match (primary, alone) {
                    (true, true) => Service::Alone,
                    (true, false) => Service::Held,
                    (false, _) => Service::Closed,
                };
                out.push(ControlEffect::Event(Event::ResyncStarted {
                    source: true,
                    full: copy == Copy::Everything,
                }));
                (service, SyncRole::Source { full: copy == Copy::Everything }, Awaited::Clean)
            }
        };
        self.set_stage(Stage::Leading { copy, awaited, steady: copy == Copy::Nothing });
        self.set_posture(
            |posture| {
                posture.service = service;
                posture.session = Some(id);
                posture.peer_shards = peer_shards;
                posture.link = LinkRole::Lead;
                posture.sync = sync;
                posture.wind_down = false;
                posture.forward = false;
                posture.hold = false;
            },
            out,
        );
        if matches!(service, Service::Alone | Service::Both) {
            self.set_serving(true, out);
        }
    }

    /// Primary, and not able to answer anything by itself?
    pub(super) fn needs_peer(&self) -> bool {
        self.role == Role::Primary && !matches!(self.posture.service, Service::Alone | Service::Standalone)
    }

    /// The target has everything, durably, and says so on its own disk.
    fn on_target_done(&mut self, copy: Copy, out: &mut ControlOutbox) {
        out.push(ControlEffect::Event(Event::ResyncFinished { source: true }));
        self.set_stage(Stage::Leading { copy, awaited: Awaited::Nothing, steady: false });
        if self.role == Role::Primary {
            self.begin_add_peer(out);
        } else {
            self.begin_end_idle_sync(out);
        }
    }

    /// What should be done now that no procedure runs? Begins it.
    pub(super) fn reconcile(&mut self, now: Instant, out: &mut ControlOutbox) {
        while self.procedure.is_none() && self.reconcile_once(now, out) {}
    }

    fn reconcile_once(&mut self, now: Instant, out: &mut ControlOutbox) -> bool {
        let live = self.live_session().map(|session| session.id);
        if self.stopped {
            return false;
        }
        if self.superseded {
            self.begin_fence(out);
            return true;
        }
        if self.disk_failed && !self.surrendered {
            return self.begin_surrender(out);
        }
        if self.unit.is_writing() && !self.disk_failed {
            return false;
        }
        if self.posture.link != LinkRole::Off && self.posture.session != live {
            return self.on_peer_lost(out);
        }
        let hopeful = |session: &Session| matches!(session.stage, Stage::Leading { .. } | Stage::Meeting);
        if self.needs_peer() && !self.live_session().is_some_and(hopeful) && !self.disk_failed {
            // Promoted beside a peer that went away before it followed, or came back and went again.
            self.begin_go_alone(out);
            return true;
        }
        if self.step_session(now, out) {
            return true;
        }
        self.stop_holding(now, out) || self.next_request(now, out)
    }

    /// The session that the posture relies on is gone.
    fn on_peer_lost(&mut self, out: &mut ControlOutbox) -> bool {
        out.push(ControlEffect::Event(Event::PeerGone));
        let alone = self.posture.service == Service::Alone && !self.generation_told;
        if self.role == Role::Primary && !alone {
            self.begin_go_alone(out);
            return true;
        }
        if self.role == Role::Secondary {
            // Initiators find the other path, or come again when this node leads. What waits in their connections must
            // not be carried to a leader that they have reached otherwise meanwhile (S4).
            self.set_serving(false, out);
        }
        self.set_posture(
            |posture| {
                posture.session = None;
                posture.link = LinkRole::Off;
                posture.sync = SyncRole::None;
                posture.wind_down = false;
                posture.forward = false;
                posture.hold = false;
            },
            out,
        );
        true
    }

    pub(super) fn set_procedure(&mut self, procedure: Procedure) {
        assert!(self.procedure.is_none(), "one procedure at a time");
        self.procedure = Some(procedure);
    }
}
