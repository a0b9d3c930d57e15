//! A session in the full feature phase: commands out, answers in, over one connection.
//!
//! Sending never blocks: what the socket does not take stays queued and is sent while answers are read, so neither
//! side can wait for the other for ever. Every sequence number that the target sends is checked.

use std::collections::VecDeque;
use std::io::IoSlice;
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::os::fd::{AsFd, AsRawFd};
use std::rc::Rc;
use std::time::{Duration, Instant};

use crc32c::{crc32c, crc32c_append};
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{MsgFlags, SockaddrStorage, recv, sendmsg};

use crate::error::Error;
use crate::login::{self, Agreed, LoggedIn, Offer};
use crate::pdu::{self, Header, get32, put32};
use crate::scsi::Sense;
use crate::transfer::{Answer, Command, Task};

/// Bytes taken by one recv() at most: enough for all answers of a deep queue, small enough to stay in the L2 cache.
const INPUT_BYTES: usize = 256 * 1024;
/// Pieces given to one send() at most.
const SEND_PIECES: usize = 128;

/// A received PDU that belongs to no SCSI command.
pub struct Pdu {
    pub header: Header,
    pub data: Vec<u8>,
}

enum Piece {
    Header(Header),
    Data { bytes: Rc<[u8]>, start: usize, end: usize },
}

impl Piece {
    fn bytes(&self) -> &[u8] {
        match self {
            Piece::Header(header) => header,
            Piece::Data { bytes, start, end } => &bytes[*start..*end],
        }
    }
}

/// The PDU that is being received.
struct Incoming {
    header: Header,
    /// Data bytes, and pad bytes after them, that are still to come.
    data_left: usize,
    pad_left: usize,
    /// The data segment, unless it is a Data-In's.
    data: Vec<u8>,
    /// CRC32C of what came of data and padding.
    crc: u32,
}

/// Digests are sent with the least significant byte first (RFC 7143 §13.1).
fn check_digest(what: &str, computed: u32, digest: [u8; 4]) -> Result<(), Error> {
    match u32::from_le_bytes(digest) {
        sent if sent == computed => Ok(()),
        sent => Err(Error::Protocol(format!("a {what} digest of {sent:08x}, not {computed:08x}"))),
    }
}

pub struct Session {
    stream: TcpStream,
    pub agreed: Agreed,
    pub tsih: u16,
    /// What the target said at login.
    pub login_answers: Vec<(String, String)>,
    lun: u8,
    cmd_sn: u32,
    exp_stat_sn: u32,
    exp_cmd_sn: u32,
    max_cmd_sn: u32,
    tasks: Vec<Option<Task>>,
    free: Vec<usize>,
    next_turn: u32,
    pieces: VecDeque<Piece>,
    /// Bytes of the first piece that are sent already.
    sent: usize,
    input: Vec<u8>,
    /// Received bytes in `input` that are not used up: always less than one header and its digest.
    held: usize,
    incoming: Option<Incoming>,
    receive_timeout: Option<Duration>,
    /// PDUs for the caller: answers to pings, text, logout and task management.
    pub others: VecDeque<Pdu>,
}

impl Session {
    /// Logs in to a normal session with room for `depth` SCSI commands in flight to logical unit `lun`.
    pub fn login(address: SocketAddr, offer: &Offer, lun: u8, depth: usize) -> Result<Session, Error> {
        Ok(Session::start(login::normal(address, offer)?, lun, depth))
    }

    /// Logs in to a discovery session.
    pub fn discovery(address: SocketAddr, offer: &Offer) -> Result<Session, Error> {
        Ok(Session::start(login::discovery(address, offer)?, 0, 1))
    }

    fn start(from: LoggedIn, lun: u8, depth: usize) -> Session {
        assert!((1..=0xffff).contains(&depth), "a slot number has 16 bits");
        Session {
            stream: from.stream,
            agreed: from.agreed,
            tsih: from.tsih,
            login_answers: from.answers,
            lun,
            cmd_sn: from.cmd_sn,
            exp_stat_sn: from.exp_stat_sn,
            exp_cmd_sn: from.cmd_sn,
            max_cmd_sn: from.max_cmd_sn,
            tasks: (0..depth).map(|_| None).collect(),
            free: (0..depth).rev().collect(),
            next_turn: 0,
            pieces: VecDeque::new(),
            sent: 0,
            input: vec![0; INPUT_BYTES],
            held: 0,
            incoming: None,
            receive_timeout: None,
            others: VecDeque::new(),
        }
    }

    /// Whether a slot is free and the target's command window is open.
    pub fn can_submit(&self) -> bool {
        !self.free.is_empty() && self.window_open()
    }

    fn window_open(&self) -> bool {
        self.max_cmd_sn.wrapping_sub(self.cmd_sn) as i32 >= 0
    }

    /// SCSI commands in flight.
    pub fn outstanding(&self) -> usize {
        self.tasks.len() - self.free.len()
    }

    /// Queues a command; only when [`can_submit`](Self::can_submit). [`pump`](Self::pump) sends it.
    pub fn submit(&mut self, command: Command, now: Instant) {
        assert!(self.window_open(), "the command window is open");
        let slot = self.free.pop().expect("a slot is free");
        self.next_turn = self.next_turn.wrapping_add(1) & 0x7fff;
        let tag = self.next_turn << 16 | slot as u32;
        let mut task = Task::new(command.name, tag, now, command.data);
        let mut header = pdu::scsi_command(self.lun, tag, &command.cdb, task.direction, task.expected);
        put32(&mut header, 24, self.take_cmd_sn());
        put32(&mut header, 28, self.exp_stat_sn);
        match task.write.clone() {
            Some(bytes) => self.send_unsolicited(&mut task, header, bytes),
            None => {
                header[1] |= pdu::FINAL;
                self.push_header(header);
            }
        }
        self.tasks[slot] = Some(task);
    }

    fn take_cmd_sn(&mut self) -> u32 {
        let cmd_sn = self.cmd_sn;
        self.cmd_sn = cmd_sn.wrapping_add(1);
        cmd_sn
    }

    /// Queues the command with its immediate data and the unsolicited Data-Out PDUs that may follow it.
    fn send_unsolicited(&mut self, task: &mut Task, mut header: Header, bytes: Rc<[u8]>) {
        let first_burst = bytes.len().min(self.agreed.first_burst as usize);
        let immediate = match self.agreed.immediate_data {
            true => first_burst.min(self.agreed.send_limit as usize),
            false => 0,
        };
        let unsolicited = if self.agreed.initial_r2t { immediate } else { first_burst };
        if unsolicited == immediate {
            header[1] |= pdu::FINAL;
        }
        pdu::set_data_length(&mut header, immediate);
        self.push_header(header);
        self.push_data(&bytes, 0, immediate);
        task.solicited = unsolicited as u32;
        self.send_data_out(task.tag, pdu::NO_TAG, &bytes, immediate..unsolicited);
    }

    /// Queues the Data-Out PDUs of one sequence.
    fn send_data_out(
        &mut self,
        tag: u32,
        transfer_tag: u32,
        bytes: &Rc<[u8]>,
        range: std::ops::Range<usize>,
    ) {
        let limit = self.agreed.send_limit as usize;
        for (data_sn, start) in range.clone().step_by(limit).enumerate() {
            let end = range.end.min(start + limit);
            let last = end == range.end;
            let mut header =
                pdu::data_out(self.lun, tag, transfer_tag, data_sn as u32, start as u32, end - start, last);
            put32(&mut header, 28, self.exp_stat_sn);
            self.push_header(header);
            self.push_data(bytes, start, end);
        }
    }

    fn push_header(&mut self, header: Header) {
        self.pieces.push_back(Piece::Header(header));
        if self.agreed.digests {
            self.push_digest(crc32c(&header));
        }
    }

    fn push_digest(&mut self, crc: u32) {
        self.pieces.push_back(Piece::Data { bytes: Rc::from(crc.to_le_bytes()), start: 0, end: 4 });
    }

    fn push_data(&mut self, bytes: &Rc<[u8]>, start: usize, end: usize) {
        if end > start {
            self.pieces.push_back(Piece::Data { bytes: bytes.clone(), start, end });
        }
        let pad = pdu::padding(end - start);
        if pad > 0 {
            self.pieces.push_back(Piece::Data { bytes: Rc::from([0u8; 4]), start: 0, end: pad });
        }
        if self.agreed.digests && end > start {
            self.push_digest(crc32c_append(crc32c(&bytes[start..end]), &[0; 4][..pad]));
        }
    }

    /// Queues a PDU that is not a SCSI command, with the sequence numbers filled in. An immediate one (bit 40h of
    /// byte 0) does not use up a CmdSN.
    pub fn send_other(&mut self, mut header: Header, data: &[u8]) {
        let immediate = header[0] & 0x40 != 0;
        let cmd_sn = if immediate { self.cmd_sn } else { self.take_cmd_sn() };
        put32(&mut header, 24, cmd_sn);
        put32(&mut header, 28, self.exp_stat_sn);
        self.push_header(header);
        self.push_data(&Rc::from(data), 0, data.len());
    }

    /// Sends what is queued, waits for input for `timeout` at most, and adds the answers that came to `answers`.
    /// Returns whether anything was received.
    pub fn pump(&mut self, timeout: Duration, answers: &mut Vec<Answer>) -> Result<bool, Error> {
        self.flush()?;
        while !self.pieces.is_empty() {
            // The socket is full. The target may in turn be waiting for us to read.
            let ready = self.poll(PollFlags::POLLIN | PollFlags::POLLOUT, timeout)?;
            if ready.is_empty() {
                return Ok(false);
            }
            if ready.contains(PollFlags::POLLIN) {
                return self.receive(MsgFlags::MSG_DONTWAIT, answers);
            }
            self.flush()?;
        }
        if self.receive_timeout != Some(timeout) {
            self.stream.set_read_timeout(Some(timeout))?;
            self.receive_timeout = Some(timeout);
        }
        self.receive(MsgFlags::empty(), answers)
    }

    /// Takes what has arrived, without waiting. Returns whether anything was received.
    pub fn receive_ready(&mut self, answers: &mut Vec<Answer>) -> Result<bool, Error> {
        self.receive(MsgFlags::MSG_DONTWAIT, answers)
    }

    /// Sends as much of the queue as the socket takes. Returns whether the queue is empty now.
    pub fn flush(&mut self) -> Result<bool, Error> {
        while !self.pieces.is_empty() {
            let mut slices = [IoSlice::new(&[]); SEND_PIECES];
            let mut count = 0;
            for (slice, piece) in slices.iter_mut().zip(&self.pieces) {
                let skip = if count == 0 { self.sent } else { 0 };
                *slice = IoSlice::new(&piece.bytes()[skip..]);
                count += 1;
            }
            let flags = MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_NOSIGNAL;
            let to: Option<&SockaddrStorage> = None;
            match sendmsg(self.stream.as_raw_fd(), &slices[..count], &[], flags, to) {
                Ok(bytes) => self.on_sent(bytes),
                Err(Errno::EAGAIN) => return Ok(false),
                Err(Errno::EINTR) => {}
                Err(errno) => return Err(errno.into()),
            }
        }
        Ok(true)
    }

    fn on_sent(&mut self, bytes: usize) {
        let mut left = self.sent + bytes;
        while let Some(piece) = self.pieces.front() {
            let length = piece.bytes().len();
            if left < length {
                break;
            }
            left -= length;
            self.pieces.pop_front();
        }
        self.sent = left;
    }

    fn poll(&self, events: PollFlags, timeout: Duration) -> Result<PollFlags, Error> {
        let mut fds = [PollFd::new(self.stream.as_fd(), events)];
        let timeout = PollTimeout::try_from(timeout).unwrap_or(PollTimeout::MAX);
        match poll(&mut fds, timeout) {
            Ok(_) | Err(Errno::EINTR) => {}
            Err(errno) => return Err(errno.into()),
        }
        let ready = fds[0].revents().unwrap_or(PollFlags::empty());
        if ready.intersects(PollFlags::POLLERR | PollFlags::POLLHUP) {
            // The receive that follows reports what is wrong.
            return Ok(PollFlags::POLLIN);
        }
        Ok(ready)
    }

    fn receive(&mut self, flags: MsgFlags, answers: &mut Vec<Answer>) -> Result<bool, Error> {
        let received = match recv(self.stream.as_raw_fd(), &mut self.input[self.held..], flags) {
            Ok(0) => return Err(Error::Closed),
            Ok(received) => received,
            Err(Errno::EAGAIN | Errno::EINTR) => return Ok(false),
            Err(errno) => return Err(errno.into()),
        };
        let end = self.held + received;
        let input = std::mem::take(&mut self.input);
        let used = self.on_bytes(&input[..end], answers);
        self.input = input;
        let used = used?;
        self.input.copy_within(used..end, 0);
        self.held = end - used;
        Ok(true)
    }

    /// Works through received bytes and returns how many are used up: all but a header's beginning.
    fn on_bytes(&mut self, bytes: &[u8], answers: &mut Vec<Answer>) -> Result<usize, Error> {
        let mut at = 0;
        loop {
            let Some(mut incoming) = self.incoming.take() else {
                let Some(header) = bytes[at..].first_chunk::<48>() else { return Ok(at) };
                if self.agreed.digests {
                    let Some(digest) = bytes[at + 48..].first_chunk::<4>() else { return Ok(at) };
                    check_digest("header", crc32c(header), *digest)?;
                    at += 4;
                }
                at += 48;
                self.incoming = Some(self.on_header(*header)?);
                continue;
            };
            let data = incoming.data_left.min(bytes.len() - at);
            self.on_data(&mut incoming, &bytes[at..at + data]);
            incoming.data_left -= data;
            at += data;
            let pad = incoming.pad_left.min(bytes.len() - at);
            let taken = if incoming.data_left == 0 { data + pad } else { data };
            if self.agreed.digests {
                incoming.crc = crc32c_append(incoming.crc, &bytes[at - data..at - data + taken]);
            }
            if incoming.data_left == 0 {
                incoming.pad_left -= pad;
                at += pad;
            }
            if incoming.data_left > 0 || incoming.pad_left > 0 {
                self.incoming = Some(incoming);
                return Ok(at);
            }
            if self.agreed.digests && pdu::data_length(&incoming.header) > 0 {
                let Some(digest) = bytes[at..].first_chunk::<4>() else {
                    self.incoming = Some(incoming);
                    return Ok(at);
                };
                check_digest("data", incoming.crc, *digest)?;
                at += 4;
            }
            self.on_pdu(incoming, answers)?;
        }
    }

    fn on_header(&mut self, header: Header) -> Result<Incoming, Error> {
        let length = pdu::data_length(&header);
        if header[4] != 0 || length > self.agreed.recv_limit as usize {
            let text = format!("opcode {:02x} with {length} bytes of data, AHS {}", header[0], header[4]);
            return Err(Error::Protocol(text));
        }
        self.check_numbers(&header)?;
        if pdu::opcode(&header) == pdu::DATA_IN {
            let max_burst = self.agreed.max_burst;
            self.task(&header)?.on_data_in(&header, max_burst).map_err(Error::Protocol)?;
        }
        Ok(Incoming { header, data_left: length, pad_left: pdu::padding(length), data: Vec::new(), crc: 0 })
    }

    fn on_data(&mut self, incoming: &mut Incoming, bytes: &[u8]) {
        if pdu::opcode(&incoming.header) != pdu::DATA_IN {
            incoming.data.extend_from_slice(bytes);
        } else if let Ok(task) = self.task(&incoming.header) {
            task.on_bytes(bytes);
        }
    }

    /// Checks StatSN and moves the command window (RFC 7143 §4.2.2).
    fn check_numbers(&mut self, header: &Header) -> Result<(), Error> {
        let opcode = pdu::opcode(header);
        let unasked_nop = opcode == pdu::NOP_IN && pdu::task_tag(header) == pdu::NO_TAG;
        let carries_status = match opcode {
            pdu::DATA_IN => header[1] & pdu::STATUS != 0,
            pdu::R2T => false,
            pdu::NOP_IN => !unasked_nop,
            _ => true,
        };
        // A Data-In without status has no StatSN; an R2T and an unasked NOP-In show the next one.
        if (carries_status || opcode == pdu::R2T || unasked_nop) && get32(header, 24) != self.exp_stat_sn {
            let text = format!("opcode {opcode:02x}: StatSN {}, not {}", get32(header, 24), self.exp_stat_sn);
            return Err(Error::Protocol(text));
        }
        if carries_status {
            self.exp_stat_sn = self.exp_stat_sn.wrapping_add(1);
        }
        let (expected, max) = (get32(header, 28), get32(header, 32));
        if (self.cmd_sn.wrapping_sub(expected) as i32) < 0 {
            return Err(Error::Protocol(format!("ExpCmdSN {expected} is ahead of CmdSN {}", self.cmd_sn)));
        }
        // A window that ends before it begins is to be ignored; older numbers than the known ones are too.
        if (max.wrapping_sub(expected.wrapping_sub(1)) as i32) >= 0 {
            if (max.wrapping_sub(self.max_cmd_sn) as i32) > 0 {
                self.max_cmd_sn = max;
            }
            if (expected.wrapping_sub(self.exp_cmd_sn) as i32) > 0 {
                self.exp_cmd_sn = expected;
            }
        }
        Ok(())
    }

    fn task(&mut self, header: &Header) -> Result<&mut Task, Error> {
        let tag = pdu::task_tag(header);
        match self.tasks.get_mut((tag & 0xffff) as usize) {
            Some(Some(task)) if task.tag == tag => Ok(task),
            _ => Err(Error::Protocol(format!("opcode {:02x} for unknown task {tag:08x}", header[0]))),
        }
    }

    fn on_pdu(&mut self, incoming: Incoming, answers: &mut Vec<Answer>) -> Result<(), Error> {
        let header = &incoming.header;
        match pdu::opcode(header) {
            pdu::DATA_IN if header[1] & pdu::STATUS != 0 => answers.push(self.finish(header, None)?),
            pdu::DATA_IN => {}
            pdu::SCSI_RESPONSE => answers.push(self.on_response(&incoming)?),
            pdu::R2T => self.on_r2t(header)?,
            pdu::NOP_IN if pdu::task_tag(header) == pdu::NO_TAG => {
                if get32(header, 20) != pdu::NO_TAG {
                    let pong = pdu::pong(header);
                    self.send_other(pong, &[]);
                }
            }
            pdu::REJECT => return Err(Error::Protocol(format!("reject with reason {:02x}", header[2]))),
            // Event 0 carries sense data and 4 asks for a negotiation; all others announce the end.
            pdu::ASYNC_MESSAGE if matches!(header[36], 0 | 4) => {}
            pdu::ASYNC_MESSAGE => return Err(Error::Closed),
            pdu::NOP_IN | pdu::TEXT_RESPONSE | pdu::LOGOUT_RESPONSE | pdu::TASK_RESPONSE => {
                self.others.push_back(Pdu { header: incoming.header, data: incoming.data });
            }
            other => return Err(Error::Protocol(format!("opcode {other:02x} in the full feature phase"))),
        }
        Ok(())
    }

    fn on_response(&mut self, incoming: &Incoming) -> Result<Answer, Error> {
        let header = &incoming.header;
        if header[2] != 0 {
            return Err(Error::Protocol(format!("SCSI Response with iSCSI response {:02x}", header[2])));
        }
        // The data segment is SenseLength, sense data, response data (RFC 7143 §11.4.7).
        let data = &incoming.data;
        let sense = match data.first_chunk::<2>().map(|length| usize::from(u16::from_be_bytes(*length))) {
            Some(length) if length > 0 => match data.get(2..2 + length) {
                Some(bytes) => Sense::parse(bytes),
                None => return Err(Error::Protocol("sense data longer than its data segment".into())),
            },
            _ => None,
        };
        if header[3] == crate::scsi::CHECK_CONDITION && sense.is_none() {
            return Err(Error::Protocol("CHECK CONDITION without sense data".into()));
        }
        self.finish(header, sense)
    }

    fn finish(&mut self, header: &Header, sense: Option<Sense>) -> Result<Answer, Error> {
        self.task(header)?;
        let slot = (pdu::task_tag(header) & 0xffff) as usize;
        let task = self.tasks[slot].take().expect("the task was found");
        self.free.push(slot);
        task.finish(header, sense).map_err(Error::Protocol)
    }

    fn on_r2t(&mut self, header: &Header) -> Result<(), Error> {
        let max_burst = self.agreed.max_burst;
        let task = self.task(header)?;
        let (tag, range) = (task.tag, task.on_r2t(header, max_burst).map_err(Error::Protocol)?);
        let bytes = task.write.clone().expect("a command that writes has bytes");
        self.send_data_out(tag, get32(header, 20), &bytes, range.start as usize..range.end as usize);
        Ok(())
    }

    /// Runs one command to its end, alone.
    pub fn run(&mut self, command: Command, timeout: Duration) -> Result<Answer, Error> {
        let mut answers = Vec::new();
        self.submit(command, Instant::now());
        self.pump_until(timeout, &mut answers, |_, answers| !answers.is_empty())?;
        Ok(answers.pop().expect("an answer came"))
    }

    /// Waits for an answer that belongs to no SCSI command.
    pub fn await_other(&mut self, timeout: Duration) -> Result<Pdu, Error> {
        self.pump_until(timeout, &mut Vec::new(), |session, _| !session.others.is_empty())?;
        Ok(self.others.pop_front().expect("a PDU came"))
    }

    fn pump_until(
        &mut self,
        timeout: Duration,
        answers: &mut Vec<Answer>,
        done: impl Fn(&Session, &[Answer]) -> bool,
    ) -> Result<(), Error> {
        let end = Instant::now() + timeout;
        while !done(self, answers) {
            let left = end.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err(Error::TimedOut);
            }
            self.pump(left.max(Duration::from_millis(1)), answers)?;
        }
        Ok(())
    }

    /// Logs out and closes the connection; commands in flight are forgotten.
    pub fn logout(mut self, timeout: Duration) -> Result<(), Error> {
        self.send_other(pdu::logout(0x7fff_0000), &[]);
        let end = Instant::now() + timeout;
        loop {
            let left = end.saturating_duration_since(Instant::now()).max(Duration::from_millis(1));
            let response = self.await_other(left)?;
            if pdu::opcode(&response.header) != pdu::LOGOUT_RESPONSE {
                continue;
            }
            let code = response.header[2];
            // The connection is closed either way, and an error of that tells nothing.
            let _ = self.stream.shutdown(Shutdown::Both);
            return if code == 0 { Ok(()) } else { Err(Error::Protocol(format!("logout response {code}"))) };
        }
    }

    pub fn as_poll_fd(&self) -> PollFd<'_> {
        let waiting = if self.pieces.is_empty() { PollFlags::empty() } else { PollFlags::POLLOUT };
        PollFd::new(self.stream.as_fd(), PollFlags::POLLIN | waiting)
    }
}
