//! One TCP connection: the phases, and the contract with the driver.
//!
//! The driver loop: [`demand`](Connection::demand), bring exactly that, drain the outbox, ask again. Completions, free
//! buffers and timers come in between. Every input may queue effects; [`Demand`](crate::wire::Demand) is asked again
//! after each. `receive` holds what is about the byte stream, `entering` what is about the login.
//!
//! A connection never holds more than the buffers of its [`Limits`](super::Limits), and never queues more than the
//! answers to its window, its immediate commands and one text exchange per PDU read: a driver that stops reading
//! while its send queue is long bounds the rest.
//!
//! Absent on purpose: more than one connection of a session.

use alloc::borrow::ToOwned;
use alloc::boxed::Box;
use alloc::string::String;
use alloc::sync::Arc;

use crate::block::{BlockStatus, UnitAnswer};
use crate::scsi::{InitiatorPort, Leader};
use crate::time::Instant;
use crate::units::{Pool, RequestId, ShardId};
use crate::wire::SerialNumber;

use super::bhs::{self, Bhs};
use super::config::{Arrival, TargetConfig};
use super::effect::{CloseReason, Effect, Outbox};
use super::entering::{Admission, LoginPhase};
use super::keys::Parameters;
use super::login::{Login, LoginStatus};
use super::receive::{Current, Receive};
use super::session::{Session, Start};
use super::unit::UnitSnapshot;

/// Where a connection's block requests come from.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Origin {
    /// Unique among the live connections of the node; the upper half of every [`RequestId`].
    pub connection: u32,
    /// The shard that runs the connection.
    pub shard: ShardId,
}

/// Operation code of a Login Response.
const LOGIN_RESPONSE: u8 = 0x23;

/// Which parts of a PDU are followed by a CRC32C (RFC 7143 §11.2.3-4), least significant byte first.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Digests {
    /// Of the header with its additional segments.
    pub header: bool,
    /// Of the data segment with its padding, if there is one.
    pub data: bool,
}

#[derive(Debug)]
pub(super) enum Phase {
    Login(Box<LoginPhase>),
    /// Agreed; waits for `on_admitted`.
    Admission(Box<Admission>),
    Full(Box<Session>),
    /// Close was asked for or TCP is gone. What the session still has in flight comes back.
    Over(Option<Box<Session>>),
}

/// One connection of an initiator.
#[derive(Debug)]
pub struct Connection {
    pub(super) config: Arc<TargetConfig>,
    /// Local address, as SendTargets names it when the configuration names none.
    pub(super) portal: String,
    pub(super) origin: Origin,
    accepted: Instant,
    pub(super) receive: Receive,
    pub(super) current: Current,
    /// In force, in both directions.
    pub(super) digests: Digests,
    pub(super) phase: Phase,
}

impl Connection {
    /// A connection that was just accepted.
    ///
    /// # Panics
    /// When the limits of `config` are out of their ranges: they are checked where they are configured.
    pub fn new(config: Arc<TargetConfig>, origin: Origin, arrival: Arrival, now: Instant) -> Self {
        config.limits.check();
        let Arrival { portal, peer, entropy, service } = arrival;
        let login = Login::new(&config, peer, service, entropy);
        let phase = Phase::Login(Box::new(LoginPhase { login, stat_sn: SerialNumber(1) }));
        let digests = Digests::default();
        Self {
            config,
            portal,
            origin,
            accepted: now,
            receive: Receive::Header,
            current: Current::new(),
            digests,
            phase,
        }
    }

    /// The connection moved to another shard. Only between [`Effect::FullFeature`] and `on_admitted`.
    pub fn set_shard(&mut self, shard: ShardId) {
        assert!(matches!(self.phase, Phase::Admission(_)), "a connection moves while it is being admitted");
        self.origin.shard = shard;
    }

    /// The digests that a PDU of this connection with this header is sent with.
    pub fn digests_of(&self, header: &Bhs) -> Digests {
        // The last Login Response is sent without, though what follows it is not (RFC 7143 §13.1).
        if bhs::opcode_of(header) == LOGIN_RESPONSE { Digests::default() } else { self.digests }
    }

    /// Buffers came free.
    pub fn on_pool_ready(&mut self, pool: &mut impl Pool, out: &mut Outbox) {
        self.settle(pool, out);
    }

    /// A block request ended. Also after the connection closed, until [`is_idle`](Self::is_idle).
    pub fn on_block_done(
        &mut self,
        id: RequestId,
        status: BlockStatus,
        pool: &mut impl Pool,
        out: &mut Outbox,
    ) {
        let result = match &mut self.phase {
            Phase::Full(session) | Phase::Over(Some(session)) => session.on_block_done(id, status, pool, out),
            _ => panic!("a block request of no session was completed"),
        };
        if let Err(reason) = result {
            self.close(reason, out);
        }
        self.settle(pool, out);
        self.bury();
    }

    /// The driver has done what [`Effect::Examine`] asked for. Also after the connection closed.
    pub fn on_examined(&mut self, id: RequestId, found: Option<u32>, pool: &mut impl Pool, out: &mut Outbox) {
        match &mut self.phase {
            Phase::Full(session) | Phase::Over(Some(session)) => session.on_examined(id, found, out),
            _ => panic!("an examination for no session was answered"),
        }
        self.settle(pool, out);
        self.bury();
    }

    /// The time of [`deadline`](Self::deadline) has come (earlier does no harm).
    pub fn on_timer(&mut self, now: Instant, out: &mut Outbox) {
        let due = self.deadline().is_some_and(|deadline| deadline <= now);
        // An answer to the ping would lie unread behind data that has no buffer.
        let deaf = self.stalled_at().is_some();
        match &mut self.phase {
            Phase::Login(_) if due => self.close(CloseReason::LoginTimeout, out),
            Phase::Full(session) => {
                if deaf {
                    session.keepalive.heard(now);
                }
                session.on_timer(now, out);
            }
            _ => {}
        }
        self.finish(out);
    }

    /// When `on_timer` is due.
    pub fn deadline(&self) -> Option<Instant> {
        match &self.phase {
            Phase::Login(_) => Some(self.accepted + self.config.limits.login_timeout),
            Phase::Full(session) => session.deadline(),
            Phase::Admission(_) | Phase::Over(_) => None,
        }
    }

    /// The driver has registered the nexus and an older session of it is gone: tell the initiator. `tsih` is the
    /// session's, not 0; `unit` the newest memory of the logical unit that the shard has.
    pub fn on_admitted(&mut self, now: Instant, tsih: u16, unit: &UnitSnapshot, out: &mut Outbox) {
        let phase = core::mem::replace(&mut self.phase, Phase::Over(None));
        let Phase::Admission(admission) = phase else {
            // Closed in the meantime.
            self.phase = phase;
            return;
        };
        let Admission { agreement, reply, request, stat_sn } = *admission;
        self.send_login(&request, &reply, tsih, stat_sn, out);
        let Parameters { header_digest: header, data_digest: data, .. } = agreement.parameters;
        self.digests = Digests { header, data };
        let name = agreement.initiator.as_str().to_owned();
        let start = Start {
            initiator: InitiatorPort { name, isid: Some(agreement.isid) },
            unit: unit.clone(),
            parameters: agreement.parameters,
            discovery: agreement.discovery,
            // A session that goes on over a new connection has lost its tasks, not its nexus.
            reinstated: agreement.tsih != 0,
            grant: agreement.grant,
            cid: agreement.cid,
            cmd_sn: request.cmd_sn,
            stat_sn: stat_sn.next(),
        };
        let session = Session::new(Arc::clone(&self.config), self.origin, start, now);
        self.phase = Phase::Full(Box::new(session));
    }

    /// The driver cannot take the session in.
    pub fn on_refused(&mut self, status: LoginStatus, out: &mut Outbox) {
        let phase = core::mem::replace(&mut self.phase, Phase::Over(None));
        let Phase::Admission(admission) = phase else {
            self.phase = phase;
            return;
        };
        let Admission { request, stat_sn, .. } = *admission;
        self.send_login_status(&request, stat_sn, status, &[], out);
        out.push(Effect::Close { reason: CloseReason::LoginRefused(status) });
    }

    /// The logical unit's memory has changed. Answered by [`Effect::UnitQuiet`] with this number, perhaps at once, perhaps after the
    /// connection is closed; exactly once.
    pub fn on_unit(&mut self, number: u64, unit: &UnitSnapshot, out: &mut Outbox) {
        match &mut self.phase {
            Phase::Full(session) | Phase::Over(Some(session)) => session.on_unit(number, unit, out),
            _ => out.push(Effect::UnitQuiet(number)),
        }
        self.drop_aborted(out);
        self.finish(out);
    }

    /// What became of an [`Effect::ChangeUnit`]. Also after the connection closed, until [`is_idle`](Self::is_idle). After
    /// [`UnitAnswer::Done`] is said, `on_unit` has been called with that version or a newer one.
    pub fn on_unit_answer(&mut self, id: RequestId, answer: UnitAnswer, out: &mut Outbox) {
        let result = match &mut self.phase {
            Phase::Full(session) | Phase::Over(Some(session)) => session.on_unit_answer(id, answer, out),
            _ => panic!("a change of no session was answered"),
        };
        if let Err(reason) = result {
            self.close(reason, out);
        }
        self.finish(out);
        self.bury();
    }

    /// TCP is gone. Buffers come back as the block requests that use them end.
    pub fn on_closed(&mut self, out: &mut Outbox) {
        self.end(out);
    }

    /// Ends the connection: session reinstatement, or the operator's wish.
    pub fn on_close_wanted(&mut self, reason: CloseReason, out: &mut Outbox) {
        self.close(reason, out);
    }

    /// Is the connection closed with nothing in flight? Then it may be dropped.
    pub fn is_idle(&self) -> bool {
        matches!(self.phase, Phase::Over(None))
    }

    /// Asks the initiator to log out within `seconds` (Asynchronous Message 1, RFC 7143 §11.9): the node is about to hand
    /// over. An initiator that has not gone by then is disconnected.
    pub fn on_logout_wanted(&mut self, now: Instant, seconds: u16, out: &mut Outbox) {
        if let Phase::Full(session) = &mut self.phase {
            session.ask_to_leave(now, seconds, out);
        }
    }

    /// Who leads the volume from now on. Nothing to initiators that have one path (no ALUA).
    pub fn on_leader(&mut self, leader: Leader) {
        if let Phase::Full(session) = &mut self.phase {
            if self.config.scsi.port().peer.is_some() {
                session.nexus.set_leader(leader);
            }
        }
    }

    pub(super) fn is_over(&self) -> bool {
        matches!(self.phase, Phase::Over(_))
    }

    pub(super) fn heard(&mut self, now: Instant) {
        if let Phase::Full(session) = &mut self.phase {
            session.keepalive.heard(now);
        }
    }

    /// After every input: the stalled stream first, then commands that wait, then the end of the session.
    pub(super) fn settle(&mut self, pool: &mut impl Pool, out: &mut Outbox) {
        let waits = self.stalled_at();
        if let Phase::Full(session) = &mut self.phase {
            let stalled = waits.is_some_and(|slot| !session.provide_stalled(slot, pool));
            // While the stream stands still, nothing else may take a buffer or ask for data that is behind it.
            if !stalled {
                session.serve_waiting(pool, out);
            }
            session.shed_held(stalled, pool, out);
        }
        self.finish(out);
    }

    pub(super) fn finish(&mut self, out: &mut Outbox) {
        if let Phase::Full(session) = &mut self.phase {
            session.enable_held(out);
            if let Some(reason) = session.finished.take() {
                self.close(reason, out);
            }
        }
    }

    pub(super) fn close(&mut self, reason: CloseReason, out: &mut Outbox) {
        if !self.is_over() {
            self.end(out);
            out.push(Effect::Close { reason });
        }
    }

    /// Ends whatever phase there is. In-flight block requests keep the session until they are back.
    fn end(&mut self, out: &mut Outbox) {
        self.receive = Receive::Header;
        let phase = core::mem::replace(&mut self.phase, Phase::Over(None));
        self.phase = match phase {
            Phase::Full(mut session) => {
                session.shut(out);
                Phase::Over(Some(session))
            }
            Phase::Over(session) => Phase::Over(session),
            Phase::Login(_) | Phase::Admission(_) => Phase::Over(None),
        };
        self.bury();
    }

    /// Lets go of a session that has nothing in flight.
    fn bury(&mut self) {
        if let Phase::Over(session) = &mut self.phase {
            if session.as_ref().is_some_and(|session| session.is_quiet()) {
                *session = None;
            }
        }
    }
}
