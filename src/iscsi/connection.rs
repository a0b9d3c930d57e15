//! One TCP connection: the byte stream, the phases, and the contract with the driver.
//!
//! The driver loop: [`demand`](Connection::demand), bring exactly that, drain the outbox, ask again. Completions, free
//! buffers and timers come in between. Every input may queue effects; [`Demand`] is asked again after each.
//!
//! A connection never holds more than the buffers of its [`Limits`](super::Limits), and never queues more than the
//! answers to its window, its immediate commands and one text exchange per PDU read: a driver that stops reading
//! while its send queue is long bounds the rest.
//!
//! Absent on purpose: digests (negotiated to None), more than one connection of a session.

use alloc::boxed::Box;
use alloc::string::String;
use alloc::sync::Arc;

use crate::block::BlockStatus;
use crate::time::Instant;
use crate::units::{Pool, RequestId, ShardId};
use crate::wire::{Demand, SerialNumber};

use super::bhs::{self, BHS_BYTES, Bhs, Lengths, LoginRequest, Malformed, Request};
use super::config::TargetConfig;
use super::effect::{CloseReason, Effect, NexusName, Outbox};
use super::keys::{DEFAULT_MAX_RECV, TEXT_BYTES_MAX};
use super::login::{Agreement, Login, LoginStatus, Reply, Step};
use super::pdu::{self, LoginResponse, Numbers, RejectReason};
use super::session::{Flow, Session, Start};
use super::task::Slot;

/// Where a connection's block requests come from.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Origin {
    /// Unique among the live connections of the node; the upper half of every [`RequestId`].
    pub connection: u32,
    /// The shard that runs the connection.
    pub shard: ShardId,
}

/// What comes next in the stream.
#[derive(Clone, Copy, Debug)]
enum Receive {
    Header,
    /// The additional header segments of a SCSI Command.
    Ahs {
        bhs: Bhs,
    },
    /// Data that is read as a slice: text, a ping. `skip` bytes follow that nobody needs.
    Slice {
        bhs: Bhs,
        len: usize,
        skip: usize,
    },
    /// A part of a parameter list.
    List {
        slot: Slot,
        len: u32,
        surplus: u32,
        pad: usize,
        last: bool,
    },
    /// Blocks, straight into the task's buffers.
    Media {
        slot: Slot,
        len: u32,
        surplus: u32,
        pad: usize,
        last: bool,
    },
    Skip {
        len: usize,
    },
}

#[derive(Debug)]
enum Phase {
    Login(Box<LoginPhase>),
    /// Agreed; waits for `on_admitted`.
    Admission(Box<Admission>),
    Full(Box<Session>),
    /// Close was asked for or TCP is gone. What the session still has in flight comes back.
    Over(Option<Box<Session>>),
}

#[derive(Debug)]
struct LoginPhase {
    login: Login,
    stat_sn: SerialNumber,
}

#[derive(Debug)]
struct Admission {
    agreement: Agreement,
    reply: Reply,
    request: LoginRequest,
    stat_sn: SerialNumber,
    tsih: u16,
}

/// One connection of an initiator.
#[derive(Debug)]
pub struct Connection {
    config: Arc<TargetConfig>,
    /// Local address, as SendTargets names it when the configuration names none.
    portal: String,
    origin: Origin,
    accepted: Instant,
    receive: Receive,
    phase: Phase,
}

/// Longest slice that [`Demand::Bytes`] asks for.
pub const BYTES_DEMAND_MAX: usize = TEXT_BYTES_MAX;

impl Connection {
    /// A connection that was just accepted on `portal` (`ip:port`).
    ///
    /// # Panics
    /// When the limits of `config` are out of their ranges: they are checked where they are configured.
    pub fn new(config: Arc<TargetConfig>, origin: Origin, portal: String, now: Instant) -> Self {
        config.limits.check();
        let login = Login::new(&config);
        let phase = Phase::Login(Box::new(LoginPhase { login, stat_sn: SerialNumber(1) }));
        Self { config, portal, origin, accepted: now, receive: Receive::Header, phase }
    }

    /// The connection moved to another shard. Only between [`Effect::FullFeature`] and `on_admitted`.
    pub fn set_shard(&mut self, shard: ShardId) {
        assert!(matches!(self.phase, Phase::Admission(_)), "a connection moves while it is being admitted");
        self.origin.shard = shard;
    }

    /// What the driver must bring next.
    pub fn demand(&self) -> Demand {
        match &self.phase {
            Phase::Over(_) => return Demand::Closed,
            Phase::Admission(_) => return Demand::Stalled,
            Phase::Full(session) if session.management.leaving => return Demand::Stalled,
            _ => {}
        }
        match self.receive {
            Receive::Header => Demand::Bytes { len: BHS_BYTES },
            Receive::Ahs { bhs } => Demand::Bytes { len: Lengths::of(&bhs).ahs },
            Receive::Slice { len, .. } => Demand::Bytes { len },
            Receive::List { len, .. } => Demand::Bytes { len: len as usize },
            Receive::Skip { len } => Demand::Skip { len },
            Receive::Media { slot, len, .. } => self.media_demand(slot, len),
        }
    }

    fn media_demand(&self, slot: Slot, len: u32) -> Demand {
        let Phase::Full(session) = &self.phase else { return Demand::Closed };
        let moved = session.tasks.get(slot).moved;
        match session.tasks.place(slot, moved) {
            Some(place) => {
                let room = crate::units::CHUNK_BYTES - place.offset as usize;
                Demand::Data { buf: place.buf, offset: place.offset as usize, len: room.min(len as usize) }
            }
            None => Demand::Stalled,
        }
    }

    /// Does the connection wait for buffers, in the stream or with commands it has taken in? Then it wants
    /// `on_pool_ready` when some are free.
    pub fn waits_for_buffers(&self) -> bool {
        match (&self.phase, self.receive) {
            (Phase::Full(session), Receive::Media { slot, .. }) => {
                !session.waiting.is_empty() || session.lacks_buffer(slot)
            }
            (Phase::Full(session), _) => !session.waiting.is_empty(),
            _ => false,
        }
    }

    /// Bytes that [`Demand::Bytes`] asked for, exactly as many.
    ///
    /// Ignored, like every input but completions, when the connection is closed already: the bytes were on their way.
    pub fn on_bytes(&mut self, now: Instant, bytes: &[u8], pool: &mut impl Pool, out: &mut Outbox) {
        if self.is_over() {
            return;
        }
        self.heard(now);
        match self.receive {
            Receive::Header => {
                let Some(bhs) = bytes.first_chunk::<BHS_BYTES>() else {
                    panic!("the driver brings the bytes that were asked for");
                };
                self.on_header(bhs, pool, out);
            }
            Receive::Ahs { bhs } => self.on_request(&bhs, bytes, pool, out),
            Receive::Slice { bhs, len, skip } => {
                assert!(bytes.len() == len, "the driver brings the bytes that were asked for");
                self.skip(skip);
                self.on_slice(&bhs, bytes, out);
            }
            Receive::List { slot, len, surplus, pad, last } => {
                assert!(bytes.len() == len as usize, "the driver brings the bytes that were asked for");
                self.skip(surplus as usize + pad);
                if let Phase::Full(session) = &mut self.phase {
                    session.list_arrived(slot, bytes);
                    session.segment_ended(slot, surplus, last, pool, out);
                }
            }
            Receive::Media { .. } | Receive::Skip { .. } => panic!("no bytes were asked for"),
        }
        self.settle(pool, out);
    }

    /// Data that [`Demand::Data`] asked for is in its buffer; `data` is that part of the buffer.
    pub fn on_data(&mut self, now: Instant, data: &[u8], pool: &mut impl Pool, out: &mut Outbox) {
        if self.is_over() {
            return;
        }
        self.heard(now);
        let Receive::Media { slot, len, surplus, pad, last } = self.receive else {
            panic!("no data was asked for");
        };
        let Phase::Full(session) = &mut self.phase else { return };
        let left = len - data.len() as u32;
        session.media_arrived(slot, data.len() as u32, out);
        if left > 0 {
            self.receive = Receive::Media { slot, len: left, surplus, pad, last };
        } else {
            session.segment_ended(slot, surplus, last, pool, out);
            self.skip(surplus as usize + pad);
        }
        self.settle(pool, out);
    }

    /// The bytes that [`Demand::Skip`] named were dropped.
    pub fn on_skipped(&mut self, now: Instant) {
        self.heard(now);
        if !self.is_over() {
            assert!(matches!(self.receive, Receive::Skip { .. }), "nothing was to be skipped");
            self.receive = Receive::Header;
        }
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

    /// The time of [`deadline`](Self::deadline) has come (earlier does no harm).
    pub fn on_timer(&mut self, now: Instant, out: &mut Outbox) {
        let due = self.deadline().is_some_and(|deadline| deadline <= now);
        match &mut self.phase {
            Phase::Login(_) if due => self.close(CloseReason::LoginTimeout, out),
            Phase::Full(session) => {
                // An answer to the ping would lie unread behind data that has no buffer.
                if let Receive::Media { slot, .. } = self.receive {
                    if session.lacks_buffer(slot) {
                        session.keepalive.heard(now);
                    }
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
            Phase::Full(session) => session.keepalive.deadline(),
            Phase::Admission(_) | Phase::Over(_) => None,
        }
    }

    /// The driver has registered the nexus and an older session of it is gone: tell the initiator.
    pub fn on_admitted(&mut self, now: Instant, out: &mut Outbox) {
        let phase = core::mem::replace(&mut self.phase, Phase::Over(None));
        let Phase::Admission(admission) = phase else {
            // Closed in the meantime.
            self.phase = phase;
            return;
        };
        let Admission { agreement, reply, request, stat_sn, tsih } = *admission;
        self.send_login(&request, &reply, tsih, stat_sn, out);
        let start = Start {
            parameters: agreement.parameters,
            discovery: agreement.discovery,
            cid: agreement.cid,
            cmd_sn: request.cmd_sn,
            stat_sn: stat_sn.next(),
        };
        let session = Session::new(Arc::clone(&self.config), self.origin, &start, now);
        self.phase = Phase::Full(Box::new(session));
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

    /// Asks the initiator to log out within `seconds` (Asynchronous Message 1, RFC 7143 §11.9). It should; when it does not,
    /// the driver closes the connection after that time.
    pub fn request_logout(&mut self, seconds: u16, out: &mut Outbox) {
        if let Phase::Full(session) = &mut self.phase {
            let numbers = session.status_numbers();
            out.send(pdu::logout_request(seconds, numbers));
        }
    }

    fn is_over(&self) -> bool {
        matches!(self.phase, Phase::Over(_))
    }

    fn heard(&mut self, now: Instant) {
        if let Phase::Full(session) = &mut self.phase {
            session.keepalive.heard(now);
        }
    }

    fn skip(&mut self, len: usize) {
        self.receive = if len == 0 { Receive::Header } else { Receive::Skip { len } };
    }

    fn on_header(&mut self, bhs: &Bhs, pool: &mut impl Pool, out: &mut Outbox) {
        let lengths = Lengths::of(bhs);
        let limit = match &self.phase {
            Phase::Full(session) => session.parameters.target_max_recv,
            _ => DEFAULT_MAX_RECV,
        };
        if lengths.data > limit as usize {
            let what = "a data segment longer than MaxRecvDataSegmentLength";
            return self.close(CloseReason::Protocol(what), out);
        }
        if lengths.ahs > 0 {
            let in_full = matches!(self.phase, Phase::Full(_));
            if !in_full || bhs::opcode_of(bhs) != bhs::opcode::SCSI_COMMAND {
                return self.malformed(bhs, Malformed::InvalidField("an unexpected header segment"), out);
            }
            self.receive = Receive::Ahs { bhs: *bhs };
            return;
        }
        self.on_request(bhs, &[], pool, out);
    }

    fn on_request(&mut self, bhs: &Bhs, ahs: &[u8], pool: &mut impl Pool, out: &mut Outbox) {
        let lengths = Lengths::of(bhs);
        let request = match Request::parse(bhs) {
            Ok(request) => request,
            Err(malformed) => return self.malformed(bhs, malformed, out),
        };
        let Phase::Full(session) = &mut self.phase else {
            return match request {
                Request::Login(_) => self.want_slice(bhs, lengths, out),
                _ => self.refuse_login(bhs, LoginStatus::InvalidDuringLogin, out),
            };
        };
        let flow = match request {
            Request::Command(command) => session.on_command(&command, ahs, lengths.data, pool, out),
            Request::DataOut(data_out) => session.on_data_out(&data_out, lengths.data, pool, out),
            Request::NopOut(_) | Request::Text(_) => return self.want_slice(bhs, lengths, out),
            Request::TaskManagement(request) => {
                let result = session.on_task_management(&request, out);
                followed(result, lengths.data + lengths.pad())
            }
            Request::Logout(logout) => {
                let result = session.on_logout(&logout, out);
                followed(result, lengths.data + lengths.pad())
            }
            Request::Login(_) => {
                Flow::Reject(RejectReason::ProtocolError, "a Login Request in full feature phase")
            }
        };
        self.follow(bhs, flow, out);
    }

    /// Asks for the data segment as a slice, or goes on at once when there is none.
    fn want_slice(&mut self, bhs: &Bhs, lengths: Lengths, out: &mut Outbox) {
        if lengths.data == 0 {
            self.receive = Receive::Header;
            return self.on_slice(bhs, &[], out);
        }
        // A longer ping is echoed in part; longer text is refused by its own bound.
        let len = lengths.data.min(BYTES_DEMAND_MAX);
        let skip = lengths.data - len + lengths.pad();
        if skip > lengths.pad() && bhs::opcode_of(bhs) == bhs::opcode::TEXT {
            return self.close(CloseReason::Protocol("too much text"), out);
        }
        self.receive = Receive::Slice { bhs: *bhs, len, skip };
    }

    /// A request with the data segment it needs. The stream is set to what follows already.
    fn on_slice(&mut self, bhs: &Bhs, data: &[u8], out: &mut Outbox) {
        // It was parsed when its header came.
        let Ok(request) = Request::parse(bhs) else { return };
        let Self { phase, portal, .. } = self;
        let result = match (phase, request) {
            (Phase::Login(_), Request::Login(request)) => return self.on_login(&request, data, out),
            (Phase::Full(session), Request::NopOut(nop)) => session.on_nop_out(&nop, data, out),
            (Phase::Full(session), Request::Text(text)) => session.on_text(&text, data, portal, out),
            _ => Ok(()),
        };
        match result {
            // What follows is set; nothing more to skip for a request that was ignored.
            Ok(()) | Err(Flow::Skip(_)) => {}
            Err(flow) => self.follow(bhs, flow, out),
        }
    }

    fn on_login(&mut self, request: &LoginRequest, data: &[u8], out: &mut Outbox) {
        let phase = core::mem::replace(&mut self.phase, Phase::Over(None));
        let Phase::Login(login_phase) = phase else {
            self.phase = phase;
            return;
        };
        let LoginPhase { login, stat_sn } = *login_phase;
        match login.on_request(request, data, &self.config) {
            Step::Next(login, reply) => {
                self.send_login(request, &reply, 0, stat_sn, out);
                self.phase = Phase::Login(Box::new(LoginPhase { login, stat_sn: stat_sn.next() }));
            }
            Step::Done(agreement, reply) => {
                let tsih = self.tsih();
                let nexus = NexusName {
                    initiator: agreement.initiator.clone(),
                    isid: agreement.isid,
                    portal_group_tag: self.config.portal_group_tag,
                };
                let discovery = agreement.discovery;
                let request = *request;
                self.phase =
                    Phase::Admission(Box::new(Admission { agreement, reply, request, stat_sn, tsih }));
                out.push(Effect::FullFeature { nexus, tsih, discovery });
            }
            Step::Refuse(status) => {
                self.send_login_status(request.isid, request.itt, request.cmd_sn, stat_sn, status, out);
                // The login is consumed, so the phase is over already.
                out.push(Effect::Close { reason: CloseReason::LoginRefused(status) });
            }
        }
    }

    /// Never 0, and different for connections that live at the same time.
    fn tsih(&self) -> u16 {
        (self.origin.connection % 0xFFFF) as u16 + 1
    }

    fn login_numbers(&self, cmd_sn: SerialNumber, stat_sn: SerialNumber) -> Numbers {
        let window = u32::from(self.config.limits.window);
        Numbers { stat_sn, exp_cmd_sn: cmd_sn, max_cmd_sn: cmd_sn.plus(window).minus(1) }
    }

    fn send_login(
        &self,
        request: &LoginRequest,
        reply: &Reply,
        tsih: u16,
        stat_sn: SerialNumber,
        out: &mut Outbox,
    ) {
        let response = LoginResponse {
            transit: reply.transit,
            more: reply.more,
            stage: reply.stage,
            isid: request.isid,
            tsih,
            itt: request.itt,
            status: LoginStatus::Success as u16,
        };
        out.send_bytes(response.encode(self.login_numbers(request.cmd_sn, stat_sn)), &reply.text);
    }

    fn send_login_status(
        &self,
        isid: [u8; 6],
        itt: u32,
        cmd_sn: SerialNumber,
        stat_sn: SerialNumber,
        status: LoginStatus,
        out: &mut Outbox,
    ) {
        let response = LoginResponse {
            transit: None,
            more: false,
            stage: bhs::Stage::Security,
            isid,
            tsih: 0,
            itt,
            status: status as u16,
        };
        out.send(response.encode(self.login_numbers(cmd_sn, stat_sn)));
    }

    fn refuse_login(&mut self, bhs: &Bhs, status: LoginStatus, out: &mut Outbox) {
        if let Phase::Login(login) = &self.phase {
            let stat_sn = login.stat_sn;
            let cmd_sn = SerialNumber(u32::from_be_bytes([bhs[24], bhs[25], bhs[26], bhs[27]]));
            self.send_login_status([0; 6], bhs::itt_of(bhs), cmd_sn, stat_sn, status, out);
        }
        self.close(CloseReason::LoginRefused(status), out);
    }

    fn malformed(&mut self, bhs: &Bhs, malformed: Malformed, out: &mut Outbox) {
        if !matches!(self.phase, Phase::Full(_)) {
            let status = match bhs::opcode_of(bhs) {
                bhs::opcode::LOGIN => LoginStatus::InitiatorError,
                _ => LoginStatus::InvalidDuringLogin,
            };
            return self.refuse_login(bhs, status, out);
        }
        let (reason, what) = match malformed {
            Malformed::UnknownOpcode(_) => {
                (RejectReason::CommandNotSupported, "an operation code that is not an initiator's")
            }
            Malformed::Snack => (RejectReason::ProtocolError, "SNACK at ErrorRecoveryLevel 0"),
            Malformed::InvalidField(what) => (RejectReason::InvalidField, what),
        };
        self.follow(bhs, Flow::Reject(reason, what), out);
    }

    fn follow(&mut self, bhs: &Bhs, flow: Flow, out: &mut Outbox) {
        match flow {
            Flow::Skip(len) => self.skip(len),
            Flow::Media { slot, len, surplus, pad, last } => {
                self.receive = Receive::Media { slot, len, surplus, pad, last };
            }
            Flow::List { slot, len, surplus, pad, last } => {
                self.receive = Receive::List { slot, len, surplus, pad, last };
            }
            Flow::Refuse(reason, len) => {
                self.reject(reason, bhs, out);
                self.skip(len);
            }
            Flow::Reject(reason, what) => {
                self.reject(reason, bhs, out);
                self.close(CloseReason::Protocol(what), out);
            }
            Flow::Close(reason) => self.close(reason, out),
        }
    }

    fn reject(&mut self, reason: RejectReason, bhs: &Bhs, out: &mut Outbox) {
        if let Phase::Full(session) = &mut self.phase {
            session.reject(reason, bhs, out);
        }
    }

    /// After every input: the stalled stream first, then commands that wait, then the end of the session.
    fn settle(&mut self, pool: &mut impl Pool, out: &mut Outbox) {
        if let Phase::Full(session) = &mut self.phase {
            let stalled = match self.receive {
                Receive::Media { slot, .. } => {
                    session.lacks_buffer(slot) && !session.provide_stalled(slot, pool)
                }
                _ => false,
            };
            // While the stream stands still, nothing else may take a buffer or ask for data that is behind it.
            if !stalled {
                session.serve_waiting(pool, out);
            }
        }
        self.finish(out);
    }

    fn finish(&mut self, out: &mut Outbox) {
        if let Phase::Full(session) = &mut self.phase {
            if let Some(reason) = session.finished.take() {
                self.close(reason, out);
            }
        }
    }

    fn close(&mut self, reason: CloseReason, out: &mut Outbox) {
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

/// Where the stream goes on after a request without a data segment of its own.
fn followed(result: Result<(), Flow>, rest: usize) -> Flow {
    match result {
        Ok(()) | Err(Flow::Skip(_)) => Flow::Skip(rest),
        Err(Flow::Refuse(reason, _)) => Flow::Refuse(reason, rest),
        Err(flow) => flow,
    }
}
