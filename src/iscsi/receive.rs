//! The byte stream of a connection: where each PDU begins and ends, where its data goes, and whether its digests hold.
//!
//! Digests at ErrorRecoveryLevel 0 (RFC 7143 §7.8): a header that does not match ends the connection, for nobody knows
//! where the next one begins. Data that does not match is rejected: a Data-Out ends its task with sense data once all
//! of its data has come; a command with immediate data was not received, which at this level only a new session mends.
//! Data goes to the disks only when its digest was found right; the CRC is taken while the data is in the cache.

use alloc::vec::Vec;

use crate::time::Instant;
use crate::units::{CHUNK_BYTES, Pool};
use crate::wire::{Demand, crc32c, crc32c_append};

use super::bhs::{self, BHS_BYTES, Bhs, Lengths, Malformed, Request, opcode};
use super::connection::{Connection, Phase};
use super::effect::{CloseReason, Outbox};
use super::keys::{DEFAULT_MAX_RECV, TEXT_BYTES_MAX};
use super::login::LoginStatus;
use super::pdu::RejectReason;
use super::session::Flow;
use super::task::Slot;

/// Bytes of a digest.
const DIGEST_BYTES: usize = 4;
/// Longest slice that [`Demand::Bytes`] asks for: text with its padding and digest.
pub const BYTES_DEMAND_MAX: usize = TEXT_BYTES_MAX + 4 + DIGEST_BYTES;
/// Bytes of a long ping, or of data that is only digested, taken at a time.
const PIECE_BYTES: usize = 8192;

/// What comes next in the stream.
#[derive(Clone, Copy, Debug)]
pub(super) enum Receive {
    /// A header, with its digest.
    Header,
    /// The additional header segments of a SCSI Command. With a header digest, `start` holds the first four bytes and
    /// the digest comes behind.
    Ahs {
        bhs: Bhs,
        start: [u8; 4],
    },
    /// Data that is read as a slice: text, a ping. With padding and digest.
    Slice {
        bhs: Bhs,
    },
    /// A long ping, in pieces.
    Ping {
        bhs: Bhs,
        left: usize,
    },
    /// A part of a parameter list.
    List {
        len: u32,
        segment: Segment,
    },
    /// Blocks, straight into the task's buffers.
    Media {
        len: u32,
        segment: Segment,
    },
    /// Data that nobody needs but the digest.
    Surplus {
        left: u32,
        segment: Segment,
    },
    /// Padding and digest behind a task's data.
    Tail {
        segment: Segment,
    },
    Skip {
        len: usize,
    },
}

/// What follows a task's data in its PDU, and what the PDU means.
#[derive(Clone, Copy, Debug)]
pub(super) struct Segment {
    slot: Slot,
    /// Bytes that the task does not need.
    surplus: u32,
    pad: usize,
    /// The F bit.
    last: bool,
    /// Offset in the task's data where this PDU's begins.
    from: u32,
    /// It is the immediate data of a command.
    immediate: bool,
}

/// What a PDU under way needs to be remembered for.
#[derive(Clone, Debug)]
pub(super) struct Current {
    bhs: Bhs,
    /// CRC32C of its data so far.
    crc: u32,
    /// A long ping's data.
    ping: Vec<u8>,
}

impl Current {
    pub(super) fn new() -> Self {
        Self { bhs: [0; BHS_BYTES], crc: 0, ping: Vec::new() }
    }
}

impl Connection {
    /// What the driver must bring next.
    pub fn demand(&self) -> Demand {
        match &self.phase {
            Phase::Over(_) => return Demand::Closed,
            Phase::Admission(_) => return Demand::Stalled,
            Phase::Full(session) if session.management.leaving => return Demand::Stalled,
            _ => {}
        }
        let digest = |on: bool| if on { DIGEST_BYTES } else { 0 };
        match self.receive {
            Receive::Header => Demand::Bytes { len: BHS_BYTES + digest(self.digests.header) },
            // The four bytes that came with the header make room for the digest.
            Receive::Ahs { bhs, .. } => Demand::Bytes { len: Lengths::of(&bhs).ahs },
            Receive::Slice { bhs } => {
                let lengths = Lengths::of(&bhs);
                Demand::Bytes { len: lengths.data + lengths.pad() + digest(self.digests.data) }
            }
            Receive::Ping { bhs, left: 0 } => {
                Demand::Bytes { len: Lengths::of(&bhs).pad() + self.digest_len() }
            }
            Receive::Ping { left, .. } => Demand::Bytes { len: left.min(PIECE_BYTES) },
            Receive::List { len, .. } => Demand::Bytes { len: len as usize },
            Receive::Surplus { left, .. } => Demand::Bytes { len: (left as usize).min(PIECE_BYTES) },
            Receive::Tail { segment } => Demand::Bytes { len: segment.pad + DIGEST_BYTES },
            Receive::Skip { len } => Demand::Skip { len },
            Receive::Media { len, segment } => self.media_demand(segment.slot, len),
        }
    }

    fn media_demand(&self, slot: Slot, len: u32) -> Demand {
        let Phase::Full(session) = &self.phase else { return Demand::Closed };
        let moved = session.tasks.get(slot).moved;
        match session.tasks.place(slot, moved) {
            Some(place) => {
                let room = CHUNK_BYTES - place.offset as usize;
                Demand::Data { buf: place.buf, offset: place.offset as usize, len: room.min(len as usize) }
            }
            None => Demand::Stalled,
        }
    }

    /// The task whose data the stream cannot take in for want of a buffer.
    pub(super) fn stalled_at(&self) -> Option<Slot> {
        let (Phase::Full(session), Receive::Media { segment, .. }) = (&self.phase, self.receive) else {
            return None;
        };
        session.lacks_buffer(segment.slot).then_some(segment.slot)
    }

    /// Does the connection wait for buffers, in the stream or with commands it has taken in? Then it wants
    /// `on_pool_ready` when some are free.
    pub fn waits_for_buffers(&self) -> bool {
        match &self.phase {
            Phase::Full(session) => !session.waiting.is_empty() || self.stalled_at().is_some(),
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
        if let Demand::Bytes { len } = self.demand() {
            assert!(bytes.len() == len, "the driver brings the bytes that were asked for");
        }
        match self.receive {
            Receive::Header => self.on_header_bytes(bytes, pool, out),
            Receive::Ahs { bhs, start } => self.on_ahs(&bhs, start, bytes, pool, out),
            Receive::Slice { bhs } => self.on_slice_bytes(&bhs, bytes, out),
            Receive::Ping { bhs, left } => self.on_ping_piece(&bhs, left, bytes, out),
            Receive::List { segment, .. } => {
                if let Phase::Full(session) = &mut self.phase {
                    session.list_arrived(segment.slot, bytes);
                }
                self.digest(bytes);
                self.data_ended(segment, pool, out);
            }
            Receive::Surplus { left, segment } => {
                self.digest(bytes);
                self.receive = match left - bytes.len() as u32 {
                    0 => Receive::Tail { segment },
                    left => Receive::Surplus { left, segment },
                };
            }
            Receive::Tail { segment } => self.on_tail(segment, bytes, pool, out),
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
        let Receive::Media { len, segment } = self.receive else {
            panic!("no data was asked for");
        };
        self.digest(data);
        let Phase::Full(session) = &mut self.phase else { return };
        session.media_arrived(segment.slot, data.len() as u32, out);
        match len - data.len() as u32 {
            0 => self.data_ended(segment, pool, out),
            left => {
                self.receive = Receive::Media { len: left, segment };
                self.drop_aborted(out);
            }
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

    pub(super) fn skip(&mut self, len: usize) {
        self.receive = if len == 0 { Receive::Header } else { Receive::Skip { len } };
    }

    /// Takes data into the running digest, if there is one.
    fn digest(&mut self, data: &[u8]) {
        if self.digests.data {
            self.current.crc = crc32c_append(self.current.crc, data);
        }
    }

    /// Digest bytes behind the data of the PDU under way.
    fn digest_len(&self) -> usize {
        let has = self.digests.data && Lengths::of(&self.current.bhs).data > 0;
        if has { DIGEST_BYTES } else { 0 }
    }

    fn on_header_bytes(&mut self, bytes: &[u8], pool: &mut impl Pool, out: &mut Outbox) {
        let (Some(bhs), behind) = (bytes.first_chunk::<BHS_BYTES>(), &bytes[BHS_BYTES..]) else {
            panic!("the driver brings the bytes that were asked for");
        };
        let has_ahs = Lengths::of(bhs).ahs > 0;
        let behind = behind.first_chunk::<DIGEST_BYTES>().copied();
        match behind {
            Some(start) if has_ahs => self.receive = Receive::Ahs { bhs: *bhs, start },
            Some(digest) if digest != crc32c(bhs).to_le_bytes() => self.bad_header(out),
            _ if has_ahs => self.receive = Receive::Ahs { bhs: *bhs, start: [0; 4] },
            _ => self.on_header(bhs, &[], pool, out),
        }
    }

    fn on_ahs(&mut self, bhs: &Bhs, start: [u8; 4], bytes: &[u8], pool: &mut impl Pool, out: &mut Outbox) {
        if !self.digests.header {
            return self.on_header(bhs, bytes, pool, out);
        }
        let (rest, digest) = bytes.split_at(bytes.len() - DIGEST_BYTES);
        let ahs = [&start[..], rest].concat();
        if crc32c_append(crc32c(bhs), &ahs).to_le_bytes() != digest {
            return self.bad_header(out);
        }
        self.on_header(bhs, &ahs, pool, out);
    }

    fn bad_header(&mut self, out: &mut Outbox) {
        self.close(CloseReason::Protocol("a header that does not match its digest"), out);
    }

    /// A header is complete.
    fn on_header(&mut self, bhs: &Bhs, ahs: &[u8], pool: &mut impl Pool, out: &mut Outbox) {
        let lengths = Lengths::of(bhs);
        let limit = match &self.phase {
            Phase::Full(session) => session.parameters.target_max_recv,
            _ => DEFAULT_MAX_RECV,
        };
        if lengths.data > limit as usize {
            let what = "a data segment longer than MaxRecvDataSegmentLength";
            return self.close(CloseReason::Protocol(what), out);
        }
        let may_have_ahs =
            matches!(self.phase, Phase::Full(_)) && bhs::opcode_of(bhs) == opcode::SCSI_COMMAND;
        if lengths.ahs > 0 && !may_have_ahs {
            return self.malformed(bhs, Malformed::InvalidField("an unexpected header segment"), out);
        }
        (self.current.bhs, self.current.crc) = (*bhs, 0);
        self.on_request(bhs, ahs, pool, out);
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
        self.receive = Receive::Header;
        if lengths.data == 0 {
            self.on_slice(bhs, &[], out);
        } else if lengths.data <= TEXT_BYTES_MAX {
            self.receive = Receive::Slice { bhs: *bhs };
        } else if bhs::opcode_of(bhs) == opcode::NOP_OUT {
            self.receive = Receive::Ping { bhs: *bhs, left: lengths.data };
        } else {
            self.close(CloseReason::Protocol("too much text"), out);
        }
    }

    fn on_slice_bytes(&mut self, bhs: &Bhs, bytes: &[u8], out: &mut Outbox) {
        let lengths = Lengths::of(bhs);
        let (data, tail) = bytes.split_at(lengths.data);
        self.receive = Receive::Header;
        self.digest(data);
        if self.tail_matches(lengths.pad(), tail) {
            self.on_slice(bhs, data, out);
        } else {
            self.bad_request_data(bhs, out);
        }
    }

    /// Some of a ping that is too long for a slice. What the initiator would take back is kept.
    fn on_ping_piece(&mut self, bhs: &Bhs, left: usize, bytes: &[u8], out: &mut Outbox) {
        let lengths = Lengths::of(bhs);
        let limit = match &self.phase {
            Phase::Full(session) => session.parameters.initiator_max_recv as usize,
            _ => 0,
        };
        if left > 0 {
            let ping = &mut self.current.ping;
            let room = limit.saturating_sub(ping.len());
            ping.extend_from_slice(&bytes[..bytes.len().min(room)]);
            self.digest(bytes);
            let left = left - bytes.len();
            self.receive = Receive::Ping { bhs: *bhs, left };
            let tail = lengths.pad() + self.digest_len();
            if left > 0 || tail > 0 {
                return;
            }
        }
        let good = left > 0 || self.tail_matches(lengths.pad(), bytes);
        let ping = core::mem::take(&mut self.current.ping);
        self.receive = Receive::Header;
        if good {
            self.on_slice(bhs, &ping, out);
        } else {
            self.bad_request_data(bhs, out);
        }
    }

    /// Do padding and digest fit the data that was digested? Without a digest anything does.
    fn tail_matches(&self, pad: usize, tail: &[u8]) -> bool {
        let (pad, digest) = tail.split_at(pad);
        !self.digests.data || crc32c_append(self.current.crc, pad).to_le_bytes() == digest
    }

    /// The data of a NOP-Out or a Text Request does not match its digest: the PDU does not count as received (§7.8). If
    /// it had a number of its own, the gap cannot be filled.
    fn bad_request_data(&mut self, bhs: &Bhs, out: &mut Outbox) {
        let immediate = bhs[0] & 0x40 != 0;
        self.reject(RejectReason::DataDigestError, bhs, out);
        if !immediate {
            self.close(CloseReason::Protocol("data that does not match its digest"), out);
        }
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

    /// All of a task's data in this PDU has come.
    fn data_ended(&mut self, segment: Segment, pool: &mut impl Pool, out: &mut Outbox) {
        if !self.digests.data {
            self.skip(segment.surplus as usize + segment.pad);
            return self.segment_ended(segment, pool, out);
        }
        self.receive = match segment.surplus {
            0 => Receive::Tail { segment },
            left => Receive::Surplus { left, segment },
        };
    }

    fn segment_ended(&mut self, segment: Segment, pool: &mut impl Pool, out: &mut Outbox) {
        let Segment { slot, surplus, last, .. } = segment;
        if let Phase::Full(session) = &mut self.phase {
            session.receiving = None;
            if session.tasks.get(slot).aborted {
                session.abandon(slot, out);
            } else {
                session.segment_ended(slot, surplus, last, pool, out);
            }
        }
    }

    fn on_tail(&mut self, segment: Segment, bytes: &[u8], pool: &mut impl Pool, out: &mut Outbox) {
        self.receive = Receive::Header;
        let good = self.tail_matches(segment.pad, bytes);
        let bhs = self.current.bhs;
        if !good {
            self.reject(RejectReason::DataDigestError, &bhs, out);
            if segment.immediate {
                let what = "immediate data that does not match its digest";
                return self.close(CloseReason::Protocol(what), out);
            }
        }
        if let Phase::Full(session) = &mut self.phase {
            match good {
                true => session.data_verified(segment.slot, segment.from, out),
                false => session.data_damaged(segment.slot),
            }
        }
        self.segment_ended(segment, pool, out);
    }

    /// The stream is at data of a task that another session's initiator has aborted: what is not asked for yet is
    /// dropped. Data that is being received goes to its buffer first.
    pub(super) fn drop_aborted(&mut self, out: &mut Outbox) {
        let (Phase::Full(session), Receive::Media { len, segment }) = (&mut self.phase, self.receive) else {
            return;
        };
        if session.tasks.get(segment.slot).aborted && session.lacks_buffer(segment.slot) {
            session.receiving = None;
            session.abandon(segment.slot, out);
            let rest = (len + segment.surplus) as usize + segment.pad;
            self.skip(rest + self.digest_len());
        }
    }

    fn malformed(&mut self, bhs: &Bhs, malformed: Malformed, out: &mut Outbox) {
        if !matches!(self.phase, Phase::Full(_)) {
            let status = match bhs::opcode_of(bhs) {
                opcode::LOGIN => LoginStatus::InitiatorError,
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
            Flow::Skip(len) => self.skip(len + self.digest_len()),
            Flow::Media { slot, len, surplus, pad, last } => {
                let segment = self.segment(slot, surplus, pad, last);
                self.receive = Receive::Media { len, segment };
            }
            Flow::List { slot, len, surplus, pad, last } => {
                let segment = self.segment(slot, surplus, pad, last);
                self.receive = Receive::List { len, segment };
            }
            Flow::Refuse(reason, len) => {
                self.reject(reason, bhs, out);
                self.skip(len + self.digest_len());
            }
            Flow::Reject(reason, what) => {
                self.reject(reason, bhs, out);
                self.close(CloseReason::Protocol(what), out);
            }
            Flow::Close(reason) => self.close(reason, out),
        }
    }

    fn segment(&mut self, slot: Slot, surplus: u32, pad: usize, last: bool) -> Segment {
        let immediate = bhs::opcode_of(&self.current.bhs) == opcode::SCSI_COMMAND;
        let from = match &mut self.phase {
            Phase::Full(session) => {
                session.receiving = Some(slot);
                session.tasks.get(slot).moved
            }
            _ => 0,
        };
        Segment { slot, surplus, pad, last, from, immediate }
    }

    fn reject(&mut self, reason: RejectReason, bhs: &Bhs, out: &mut Outbox) {
        if let Phase::Full(session) = &mut self.phase {
            session.reject(reason, bhs, out);
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
