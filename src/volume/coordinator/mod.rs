//! The coordinator: one for the volume, on shard 0. It decides what the node is: whether it serves, with or without
//! its peer, who leads, what is copied. It performs the order that keeps D3 and S1 to S3:
//!
//! ```text
//!  link lost ─▶ hold requests ─▶ all disks quiet ─▶ flush ─▶ compare-and-swap {me} ─▶ new generation durable ─▶ alone
//!  promote   ─▶ read record (a hint) ─▶ drop link ─▶ all disks quiet ─▶ flush ─▶ compare-and-swap ─▶ durable ─▶ serve
//!  resync    ─▶ every bit clear and flushed ─▶ target durable ─▶ need its acks ─▶ compare-and-swap {both}
//!  hand over ─▶ both copies stable ─▶ compare-and-swap {peer leads, both} ─▶ the peer leads, this node follows
//! ```
//!
//! The order of the steps, and what may be asked for at all, are [`crate::arbitration::rules`]; here they are carried
//! out. Two layers. A [`Procedure`] is such a chain: each step asks for one thing and waits for its completion; only one
//! runs at a time and nothing interrupts it. Between procedures [`Coordinator::reconcile`] compares what is with what
//! should be and begins the next one. Messages of the peer and requests of the operator wait until no procedure runs.
//! A session that dies in the middle of a procedure is noticed by reconcile afterwards.
//!
//! Absent on purpose: requests and their data (the parts'), sockets, clocks, and any decision on a *read* of the
//! arbiter's record.

mod change;
mod defeat;
mod lease;
mod operate;
mod procedure;
mod service;
mod session;
mod unit;

use alloc::collections::VecDeque;
use alloc::vec::Vec;

use crate::arbitration::rules::{may_act_alone, may_lack_writes};
pub use crate::arbitration::{CasOutcome, RecordOutcome};
use crate::arbitration::{Lease, Promise, Reads, Record};
use crate::block::{UnitCompletion, UnitState};
use crate::replication::control::{ByeReason, Control};
use crate::replication::decision::Discord;
use crate::storage::{Page, Superblock, UnitCopy};
use crate::time::{Duration, Instant, earliest};
use crate::units::{NodeId, ShardId};

use super::effect::{DiskResult, OpId};
use super::messages::{LinkFault, LinkRole, PartReport, PeerEnd, Posture, Service, SessionId, SyncRole};
use super::mutant::{Mutant, Mutants};
use super::operator::{Connection, DiskState, Event, OperatorCommand, Refusal, Role, Status, Ticket};

pub use lease::LeaseView;
use procedure::{Procedure, Wait};
use session::{Session, Stage};
use unit::Unit;

/// What a coordinator is made with.
#[derive(Clone, Hash, Debug)]
pub struct CoordinatorConfig {
    pub node: NodeId,
    pub shards: u8,
    /// Is there a peer? Without one the node serves from the start.
    pub replicated: bool,
    /// Does the device lose completed writes with the power?
    pub volatile_cache: bool,
    /// Do initiators log in at this node also while the other leads (ALUA)? Otherwise they are at the service address.
    pub standby_serves: bool,
    /// How a read is known to be answered by the leader.
    pub reads: Reads,
    /// The running kernel's boot identifier.
    pub boot_id: [u8; 16],
    /// Silence after which the peer counts as gone.
    pub peer_timeout: Duration,
    /// True randomness, for generation identifiers and nonces.
    pub entropy: u64,
    pub mutants: Mutants,
}

/// Why the coordinator ends a session.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum DropReason {
    /// Nothing was heard for the peer timeout.
    Silent,
    Fault(LinkFault),
    Discord(Discord),
    /// The states changed while they were exchanged; meet again.
    Changed,
    /// This node takes over, stops or was told to disconnect.
    OnPurpose,
    /// The peer said goodbye.
    Bye(ByeReason),
    Protocol,
}

/// Effects of the coordinator.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum ControlEffect {
    /// Deliver to every part, in order.
    Posture(Posture),
    /// Deliver to every part.
    Lease(Lease),
    /// Send on the control link.
    SendControl {
        session: SessionId,
        message: Control,
    },
    /// Close all links of the session, after what was queued; then call `on_session_down`.
    DropSession {
        session: SessionId,
        reason: DropReason,
    },
    /// May sessions be established?
    AllowConnect(bool),
    ReadRecord,
    Cas {
        expected: Record,
        proposed: Record,
    },
    /// Write the superblock ([`Coordinator::render_superblock`], while draining), durable before it completes.
    WriteSuperblock {
        op: OpId,
    },
    DiskFlush {
        op: OpId,
    },
    /// Write a page of the unit state ([`Coordinator::render_unit`], while draining), durable before it completes.
    WriteUnit {
        op: OpId,
        page: u8,
    },
    /// Deliver to every shard, in order, and before any [`UnitAnswer`](Self::UnitAnswer) that follows: the unit state is
    /// this from now on. Each answers with [`Coordinator::on_unit_adopted`].
    Unit {
        serial: u64,
        state: UnitState,
    },
    /// Deliver to the shard that asked.
    UnitAnswer(UnitCompletion),
    /// Accept initiators, or drop them all without an answer.
    /// May initiators log in? Without, sessions end.
    Serve(bool),
    Reply {
        ticket: Ticket,
        result: Result<(), Refusal>,
    },
    Event(Event),
}

/// Pause after two nodes found that a person must decide between them, before they look whether that has happened.
const DISCORD_PAUSE: Duration = Duration::from_secs(5);

/// The coordinator's outbox.
pub type ControlOutbox = Vec<ControlEffect>;

/// See the module.
#[derive(Clone, Hash, Debug)]
pub struct Coordinator {
    config: CoordinatorConfig,
    superblock: Superblock,
    role: Role,
    serving: bool,
    /// Until when requests are kept for a leader that is not there ([`Posture::hold`]).
    hold_until: Option<Instant>,
    posture: Posture,
    /// Shards that have not settled in the current posture, as bits.
    unsettled: u64,
    dirty: Vec<u64>,
    /// Shards whose lanes are clean, as bits, in the current posture.
    clean: u64,
    session: Option<Session>,
    procedure: Option<Procedure>,
    operations: u64,
    random: u64,
    /// The life of the peer that was there when the newest record was made.
    witness: Option<[u8; 16]>,
    /// The operator wants the peer connected.
    connect_wanted: bool,
    discord: Option<Discord>,
    /// When to meet again in spite of it: the person may have decided at the other node.
    discord_until: Option<Instant>,
    discard: bool,
    /// The peer was told this node's generation: what this node takes alone from now on needs another one.
    generation_told: bool,
    suspect: bool,
    superseded: bool,
    /// Since the start, this node and its peer have found that both copies are good.
    agreed: bool,
    /// The arbiter shows this record, which is older than what this node has seen: it lost data.
    arbiter_lost: Option<Record>,
    disk_failed: bool,
    surrendered: bool,
    /// Held, and the peer that came back cannot end that soon: it lacks everything, or does not know what it asked for.
    peer_is_no_help: bool,
    /// Held, and the arbiter did not answer: when to ask again.
    ask_again: Option<Instant>,
    /// This node serves on beside its peer without having asked the arbiter, which may have granted something else.
    unasked: bool,
    stopped: bool,
    connect_allowed: bool,
    requests: VecDeque<(Ticket, OperatorCommand)>,
    /// What keeps this node from bidding for the lead.
    promise: Promise,
    /// A switchover that waits for the peer to take over.
    handing_over: Option<(Option<Ticket>, Instant)>,
    unit: Unit,
}

impl Coordinator {
    /// `unit`: as chosen from the two copies; every shard begins with it. `None`: they are lost. Then this node may lack
    /// answered changes, and is treated as one that may lack writes: it leads only by a person's word.
    pub fn new(config: CoordinatorConfig, superblock: Superblock, unit: Option<UnitCopy>) -> Self {
        assert!((1..=64).contains(&config.shards), "shards are named by bits");
        let forgot = unit.is_none() && config.replicated;
        let suspect = lost_cache(&config, &superblock)
            || forgot && may_lack_writes(config.node, superblock.record, true);
        Self {
            role: Role::Secondary,
            serving: false,
            hold_until: None,
            posture: Posture::START,
            unsettled: 0,
            dirty: alloc::vec![0; usize::from(config.shards)],
            clean: 0,
            session: None,
            procedure: None,
            operations: 0,
            random: config.entropy,
            witness: None,
            connect_wanted: config.replicated,
            discord: None,
            discord_until: None,
            discard: false,
            generation_told: false,
            suspect,
            superseded: false,
            agreed: false,
            arbiter_lost: None,
            disk_failed: false,
            surrendered: false,
            peer_is_no_help: false,
            ask_again: None,
            unasked: false,
            stopped: false,
            connect_allowed: false,
            requests: VecDeque::new(),
            promise: Promise::default(),
            handing_over: None,
            unit: Unit::new(unit),
            config,
            superblock,
        }
    }

    // ---- inputs ----

    /// The parts are there and the metadata was loaded. Called once.
    pub fn on_start(&mut self, now: Instant, out: &mut ControlOutbox) {
        self.remember_promises(now);
        self.begin_boot(out);
        self.after_input(now, out);
    }

    /// All links of a new session are authenticated on both sides.
    pub fn on_session_up(&mut self, now: Instant, id: SessionId, peer: PeerEnd, out: &mut ControlOutbox) {
        assert!(self.session.is_none(), "one session at a time");
        self.session = Some(Session::new(id, peer, now));
        self.tell_meeting(Event::Connected, out);
        self.end_undecided_hold(now, peer, out);
        self.after_input(now, out);
    }

    /// A link of the session died, or the session was dropped on request.
    pub fn on_session_down(&mut self, now: Instant, id: SessionId, out: &mut ControlOutbox) {
        if self.session.as_ref().is_some_and(|session| session.id == id) {
            self.session = None;
            self.tell_meeting(Event::Disconnected, out);
            self.lose_unit_session(out);
            self.on_session_lost(out);
        }
        self.after_input(now, out);
    }

    /// A message of the peer's coordinator.
    pub fn on_control(&mut self, now: Instant, id: SessionId, message: Control, out: &mut ControlOutbox) {
        if let Some(session) = self.session.as_mut().filter(|session| session.id == id && !session.dropping) {
            // A peer that does not take its leave is not waited for, however alive it is.
            if !matches!(session.stage, Stage::Parting { .. }) {
                session.heard = now;
            }
            match message {
                Control::Ping => out.push(ControlEffect::SendControl { session: id, message: Control::Pong }),
                Control::Pong => {}
                Control::LeaseAsk { epoch, asked } => self.on_lease_asked(now, epoch, asked, out),
                Control::LeaseGrant { asked } => self.on_lease_granted(asked, out),
                message if session.inbox.len() < session::INBOX_MAX => session.inbox.push_back(message),
                _ => self.drop_session(DropReason::Protocol, out),
            }
        }
        self.after_input(now, out);
    }

    /// A part has something to say.
    pub fn on_report(&mut self, now: Instant, report: PartReport, out: &mut ControlOutbox) {
        match report {
            PartReport::Settled { shard, serial, dirty_blocks } if serial == self.posture.serial => {
                self.unsettled &= !bit(shard);
                self.dirty[usize::from(shard.0)] = dirty_blocks;
                if self.unsettled == 0 {
                    self.on_settled(now, out);
                }
            }
            PartReport::SyncClean { shard, serial } if serial == self.posture.serial => {
                self.clean |= bit(shard)
            }
            PartReport::Settled { .. } | PartReport::SyncClean { .. } => {}
            PartReport::LinkFault { session, fault, .. } => {
                if self.session.as_ref().is_some_and(|current| current.id == session) {
                    if fault == LinkFault::PeerDisk {
                        out.push(ControlEffect::Event(Event::PeerDiskFailed));
                    }
                    self.drop_session(DropReason::Fault(fault), out);
                }
            }
            PartReport::DiskHangs { .. } => self.on_disk_hangs(out),
            PartReport::DiskFault { .. } => {
                self.on_disk_fault(out);
                // It may wait for this very part, whose metadata cannot be written any more.
                self.give_up_procedure(out);
            }
        }
        self.after_input(now, out);
    }

    /// The arbiter answered a read.
    pub fn on_record(&mut self, now: Instant, outcome: RecordOutcome, out: &mut ControlOutbox) {
        if matches!(self.procedure, Some(Procedure { wait: Wait::Read, .. })) {
            self.on_record_read(now, outcome, out);
        } else {
            self.on_late_record(outcome);
        }
        self.after_input(now, out);
    }

    /// The arbiter answered a compare-and-swap.
    pub fn on_cas(&mut self, now: Instant, outcome: CasOutcome, out: &mut ControlOutbox) {
        self.on_swapped(now, outcome, out);
        self.after_input(now, out);
    }

    /// The device finished an operation of the coordinator's.
    pub fn on_disk(&mut self, now: Instant, op: OpId, result: DiskResult, out: &mut ControlOutbox) {
        if result == DiskResult::Error {
            self.unit.stop_writing();
            self.on_disk_fault(out);
            self.give_up_procedure(out);
        } else if !self.on_unit_written(op, out) {
            self.on_written(now, op, out);
        }
        self.after_input(now, out);
    }

    /// A person or the agent asks.
    pub fn on_operator(
        &mut self,
        now: Instant,
        ticket: Ticket,
        command: OperatorCommand,
        out: &mut ControlOutbox,
    ) {
        if let OperatorCommand::TakeOver { died: Some(epoch) } = command {
            self.promise.on_death(epoch);
        }
        if !self.answer_at_once(now, ticket, command, out) {
            self.requests.push_back((ticket, command));
        }
        self.after_input(now, out);
    }

    /// [`Coordinator::deadline`] has passed.
    pub fn on_timer(&mut self, now: Instant, out: &mut ControlOutbox) {
        self.check_peer(now, out);
        if self.handing_over.is_some_and(|(_, until)| until <= now) {
            self.end_hand_over(Err(Refusal::PeerNotReady), out);
        }
        self.read_again(now, out);
        if self.discord_until.is_some_and(|until| until <= now) {
            self.discord_until = None;
        }
        self.after_input(now, out);
    }

    pub fn deadline(&self) -> Option<Instant> {
        let session = self.session.as_ref().filter(|session| !session.dropping);
        let peer = session.map(|session| session.next_check(self.config.peer_timeout));
        let pauses = earliest(earliest(self.discord_until, self.hold_until), self.ask_again);
        let leases = earliest(self.next_lease_question(), self.outwaited_at());
        earliest(earliest(peer, pauses), earliest(leases, self.handing_over.map(|(_, until)| until)))
    }

    /// The superblock's bytes and the copy (0 or 1) they are for. Called while the effect is drained.
    pub fn render_superblock(&self, page: &mut Page) -> usize {
        self.superblock.encode(page);
        self.superblock.copy()
    }

    pub fn superblock(&self) -> &Superblock {
        &self.superblock
    }

    pub fn posture(&self) -> &Posture {
        &self.posture
    }

    /// For how long the peer has said nothing; `None` without a session.
    pub fn peer_silence(&self, now: Instant) -> Option<Duration> {
        self.live_session().map(|session| now.since(session.heard))
    }

    pub fn status(&self) -> Status {
        Status {
            role: self.role,
            serving: self.role == Role::Primary && self.serving,
            suspended: self.posture.service == Service::Held,
            disk: self.disk_state(),
            peer_disk: self.peer_disk_state(),
            peer_primary: self.follows_primary(),
            connection: self.connection(),
            discord: self.discord,
            record: self.superblock.record,
            generations: self.superblock.generations,
            flags: self.superblock.flags,
            suspect: self.suspect,
            unit: self.unit.state().version,
        }
    }

    // ---- shared ----

    /// Does the peer lead this node as its primary? The state that the peer told when they met may be of before its
    /// promotion; the record came with its word to follow.
    pub(super) fn follows_primary(&self) -> bool {
        let following =
            self.live_session().is_some_and(|session| matches!(session.stage, Stage::Following { .. }));
        following
            && self.superblock.record.primary == Some(self.me().peer())
            && self.posture.link == LinkRole::Follow
    }

    /// Two that cannot work together meet every now and then; that is told once.
    fn tell_meeting(&self, event: Event, out: &mut ControlOutbox) {
        if self.discord.is_none() {
            out.push(ControlEffect::Event(event));
        }
    }

    /// What every input ends with: begin whatever should be done now.
    fn after_input(&mut self, now: Instant, out: &mut ControlOutbox) {
        self.end_outwait(now, out);
        self.reconcile(now, out);
        self.step_unit(out);
        // A change that has ended may be what a request of the operator's waited for.
        self.reconcile(now, out);
        self.ask_for_lease(now, out);
        if !self.agreed && self.live_session().is_some_and(Session::is_in_sync) {
            self.agreed = true;
            out.push(ControlEffect::Event(Event::Agreed));
        }
        let allowed = self.may_connect();
        if allowed != self.connect_allowed {
            self.connect_allowed = allowed;
            out.push(ControlEffect::AllowConnect(allowed));
        }
    }

    fn may_connect(&self) -> bool {
        let lets_in = |procedure: &Procedure| {
            procedure.lets_peer_in() && !(procedure.is_undecided() && self.peer_is_no_help)
        };
        let free = self.procedure.as_ref().is_none_or(lets_in);
        let willing =
            self.connect_wanted && self.discord_until.is_none() && !self.disk_failed && !self.stopped;
        self.config.replicated && willing && free
    }

    /// Puts a new posture in force, built from the current one.
    pub(super) fn set_posture(&mut self, change: impl FnOnce(&mut Posture), out: &mut ControlOutbox) {
        change(&mut self.posture);
        self.posture.serial += 1;
        self.posture.epoch = self.posture.epoch.max(self.superblock.record.epoch);
        assert!(self.posture.service != Service::Both || self.posture.link == LinkRole::Lead);
        let alone = self.posture.service == Service::Alone;
        let granted = may_act_alone(self.me(), self.superblock.record);
        assert!(!alone || granted || self.config.mutants != Mutants::NONE, "R3: alone only by the record");
        self.unsettled = self.all_shards();
        self.clean = 0;
        out.push(ControlEffect::Posture(self.posture));
    }

    /// Every shard, as bits.
    pub(super) fn all_shards(&self) -> u64 {
        u64::MAX >> (64 - u32::from(self.config.shards))
    }

    pub(super) fn all_clean(&self) -> bool {
        self.clean == self.all_shards()
    }

    pub(super) fn is_settled(&self) -> bool {
        self.unsettled == 0
    }

    pub(super) fn dirty_blocks(&self) -> u64 {
        self.dirty.iter().sum()
    }

    pub(super) fn set_serving(&mut self, serving: bool, out: &mut ControlOutbox) {
        if self.serving != serving {
            self.serving = serving;
            out.push(ControlEffect::Serve(serving));
        }
    }

    pub(super) fn write_superblock(&mut self, out: &mut ControlOutbox) -> OpId {
        self.superblock.boot_id = self.config.boot_id;
        self.superblock.advance();
        self.operations += 1;
        let op = OpId(self.operations);
        out.push(ControlEffect::WriteSuperblock { op });
        op
    }

    pub(super) fn flush(&mut self, out: &mut ControlOutbox) -> OpId {
        self.operations += 1;
        let op = OpId(self.operations);
        out.push(ControlEffect::DiskFlush { op });
        op
    }

    /// A fresh random number, never 0 (splitmix64 over the driver's entropy).
    pub(super) fn fresh(&mut self) -> u64 {
        loop {
            self.random = self.random.wrapping_add(0x9E37_79B9_7F4A_7C15);
            let mut mixed = self.random;
            mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
            mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
            mixed ^= mixed >> 31;
            if mixed != 0 {
                return mixed;
            }
        }
    }

    pub(super) fn me(&self) -> NodeId {
        self.config.node
    }

    fn disk_state(&self) -> DiskState {
        let flags = self.superblock.flags;
        if self.disk_failed {
            DiskState::Diskless
        } else if flags.sync_target || flags.just_created {
            DiskState::Inconsistent
        } else if flags.outdated || self.suspect {
            DiskState::Outdated
        } else if self.role == Role::Primary || self.session.as_ref().is_some_and(Session::is_in_sync) {
            DiskState::UpToDate
        } else {
            DiskState::Consistent
        }
    }

    fn peer_disk_state(&self) -> DiskState {
        let Some(session) = &self.session else { return DiskState::Unknown };
        match (session.stage, session.peer) {
            (Stage::Idle | Stage::Leading { steady: true, .. } | Stage::Following { .. }, _) => {
                DiskState::UpToDate
            }
            (Stage::Leading { .. }, _) => DiskState::Inconsistent,
            _ => DiskState::Unknown,
        }
    }

    fn connection(&self) -> Connection {
        if !self.config.replicated {
            return Connection::Single;
        }
        let Some(session) = &self.session else {
            let looking = self.connect_wanted && self.discord.is_none() && !self.disk_failed;
            return if looking { Connection::Connecting } else { Connection::StandAlone };
        };
        match (session.stage, self.posture.sync) {
            (Stage::Leading { .. }, SyncRole::Source { .. }) => Connection::SyncSource,
            (Stage::Following { .. }, SyncRole::Target) => Connection::SyncTarget,
            (Stage::Leading { steady: true, .. } | Stage::Following { .. } | Stage::Idle, _) => {
                Connection::Established
            }
            _ => Connection::Negotiating,
        }
    }
}

fn bit(shard: ShardId) -> u64 {
    1 << shard.0
}

/// Did this node lose a volatile cache with acknowledged writes that only the other may still hold (R7, R8)?
fn lost_cache(config: &CoordinatorConfig, superblock: &Superblock) -> bool {
    let was_primary = superblock.record.primary == Some(config.node);
    let trusted = if was_primary { Mutant::TrustLostPrimary } else { Mutant::TrustLostSecondary };
    if !config.replicated || config.mutants.has(trusted) {
        return false;
    }
    let rebooted = superblock.boot_id != config.boot_id;
    let lost_now = rebooted && config.volatile_cache && !superblock.flags.clean_shutdown;
    // Or the doubt of an earlier start.
    may_lack_writes(config.node, superblock.record, superblock.flags.outdated || lost_now)
}
