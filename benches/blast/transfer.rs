//! One SCSI command in flight: its data, and the rules that its Data-In and R2T PDUs must keep (RFC 7143 §11.7, 11.8).
//!
//! The session always agrees on DataPDUInOrder=Yes, DataSequenceInOrder=Yes and MaxOutstandingR2T=1, so both
//! directions are strictly sequential and any gap, overlap or repetition is the target's fault.

use std::rc::Rc;
use std::time::Instant;

use crate::pdu::{self, Direction, Header, get32};
use crate::scsi::{Cdb, Sense};

/// The data of a command.
pub enum Data {
    None,
    /// Up to `length` bytes come in; they are thrown away unless `keep`.
    Read {
        length: u32,
        keep: bool,
    },
    /// These bytes go out.
    Write(Rc<[u8]>),
}

/// A SCSI command to send.
pub struct Command {
    pub cdb: Cdb,
    pub data: Data,
    /// The caller's own name for it; comes back in the [`Answer`].
    pub name: u64,
}

/// A finished command.
pub struct Answer {
    pub name: u64,
    /// When it was submitted.
    pub started: Instant,
    pub status: u8,
    pub sense: Option<Sense>,
    /// What was read, if it was to be kept.
    pub data: Vec<u8>,
}

/// A command in flight.
pub struct Task {
    pub name: u64,
    pub tag: u32,
    pub started: Instant,
    pub direction: Direction,
    /// Expected data transfer length in bytes.
    pub expected: u32,
    pub write: Option<Rc<[u8]>>,
    keep: bool,
    kept: Vec<u8>,
    received: u32,
    /// Bytes of the current Data-In sequence.
    burst: u32,
    next_data_sn: u32,
    next_r2t_sn: u32,
    /// Bytes of the write that were sent unasked or asked for.
    pub solicited: u32,
}

impl Task {
    pub fn new(name: u64, tag: u32, started: Instant, data: Data) -> Task {
        let (direction, expected, keep, write) = match data {
            Data::None => (Direction::None, 0, false, None),
            Data::Read { length, keep } => (Direction::Read, length, keep, None),
            Data::Write(bytes) => (Direction::Write, bytes.len() as u32, false, Some(bytes)),
        };
        let kept = if keep { Vec::with_capacity(expected as usize) } else { Vec::new() };
        Task {
            name,
            tag,
            started,
            direction,
            expected,
            write,
            keep,
            kept,
            received: 0,
            burst: 0,
            next_data_sn: 0,
            next_r2t_sn: 0,
            solicited: 0,
        }
    }

    /// Checks the header of a Data-In PDU against what came before it.
    pub fn on_data_in(&mut self, header: &Header, max_burst: u32) -> Result<(), String> {
        let length = pdu::data_length(header) as u32;
        let (data_sn, offset) = (get32(header, 36), get32(header, 40));
        if self.direction != Direction::Read {
            return Err("Data-In for a command that reads nothing".into());
        }
        if data_sn != self.next_data_sn {
            return Err(format!("Data-In with DataSN {data_sn}, not {}", self.next_data_sn));
        }
        if offset != self.received || length > self.expected - self.received {
            return Err(format!(
                "Data-In of {length} bytes at {offset} after {} of {}",
                self.received, self.expected
            ));
        }
        self.next_data_sn += 1;
        self.received += length;
        self.burst += length;
        if self.burst > max_burst {
            return Err(format!("a Data-In sequence of {} bytes exceeds MaxBurstLength", self.burst));
        }
        if header[1] & pdu::FINAL != 0 {
            self.burst = 0;
        } else if header[1] & pdu::STATUS != 0 {
            return Err("Data-In with status but without the final bit".into());
        }
        Ok(())
    }

    /// Takes data of the Data-In PDU that was announced last.
    pub fn on_bytes(&mut self, bytes: &[u8]) {
        if self.keep {
            self.kept.extend_from_slice(bytes);
        }
    }

    /// Checks an R2T and returns the range of the write's bytes that it asks for.
    pub fn on_r2t(&mut self, header: &Header, max_burst: u32) -> Result<std::ops::Range<u32>, String> {
        let (r2t_sn, offset, length) = (get32(header, 36), get32(header, 40), get32(header, 44));
        if self.direction != Direction::Write {
            return Err("R2T for a command that writes nothing".into());
        }
        if get32(header, 20) == pdu::NO_TAG {
            return Err("R2T with the reserved target transfer tag".into());
        }
        if header[1] != pdu::FINAL || pdu::data_length(header) != 0 {
            return Err(format!("R2T with flags {:02x} or with data", header[1]));
        }
        if r2t_sn != self.next_r2t_sn {
            return Err(format!("R2T with R2TSN {r2t_sn}, not {}", self.next_r2t_sn));
        }
        if offset != self.solicited || length == 0 || length > max_burst.min(self.expected - self.solicited) {
            return Err(format!("R2T of {length} bytes at {offset}, after {}", self.solicited));
        }
        self.next_r2t_sn += 1;
        self.solicited += length;
        Ok(offset..offset + length)
    }

    /// Ends the command: checks the residual count (RFC 7143 §11.4.5) and makes the answer.
    pub fn finish(mut self, header: &Header, sense: Option<Sense>) -> Result<Answer, String> {
        let (flags, status, residual) = (header[1], header[3], get32(header, 44));
        if flags & pdu::OVERFLOW != 0 && flags & pdu::UNDERFLOW != 0 {
            return Err("residual overflow and underflow at once".into());
        }
        let underflow = if flags & pdu::UNDERFLOW != 0 { residual } else { 0 };
        if self.direction == Direction::Read && status == 0 && self.received + underflow != self.expected {
            return Err(format!(
                "GOOD after {} of {} bytes with an underflow of {underflow}",
                self.received, self.expected
            ));
        }
        if self.direction == Direction::Write
            && status == 0
            && underflow == 0
            && self.solicited != self.expected
        {
            return Err(format!("GOOD after {} of {} bytes were taken", self.solicited, self.expected));
        }
        Ok(Answer {
            name: self.name,
            started: self.started,
            status,
            sense,
            data: std::mem::take(&mut self.kept),
        })
    }
}
