//! The target's own headers (RFC 7143 §11), built field by field.
//!
//! Every builder leaves DataSegmentLength zero; [`Outbox`](super::effect::Outbox) sets it when it joins header and data.

use crate::wire::SerialNumber;

use super::bhs::{BHS_BYTES, Bhs, Lun, NO_TAG, Stage};

/// Sequence numbers that every response carries.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Numbers {
    pub stat_sn: SerialNumber,
    pub exp_cmd_sn: SerialNumber,
    pub max_cmd_sn: SerialNumber,
}

/// Difference between what the initiator expected and what the command moves (§11.4.5).
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Residual {
    #[default]
    None,
    /// The command had this many bytes more than EDTL.
    Overflow(u32),
    /// This many bytes of EDTL were not used.
    Underflow(u32),
}

impl Residual {
    /// `expected` is EDTL, `actual` the length the command asks for.
    pub fn between(expected: u32, actual: u64) -> Self {
        match actual.checked_sub(u64::from(expected)) {
            Some(0) => Self::None,
            Some(more) => Self::Overflow(u32::try_from(more).unwrap_or(u32::MAX)),
            None => Self::Underflow(expected - actual as u32),
        }
    }

    fn flag(self) -> u8 {
        match self {
            Self::None => 0,
            Self::Overflow(_) => 0x04,
            Self::Underflow(_) => 0x02,
        }
    }

    fn count(self) -> u32 {
        match self {
            Self::None => 0,
            Self::Overflow(count) | Self::Underflow(count) => count,
        }
    }
}

/// Reject reasons (§11.17.1).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub enum RejectReason {
    DataDigestError = 0x02,
    ProtocolError = 0x04,
    CommandNotSupported = 0x05,
    TooManyImmediate = 0x06,
    TaskInProgress = 0x07,
    InvalidField = 0x09,
    OutOfResources = 0x0A,
}

/// Task management responses (§11.6.1).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub enum TaskManagementResponse {
    Complete = 0x00,
    TaskDoesNotExist = 0x01,
    LunDoesNotExist = 0x02,
    ReassignmentNotSupported = 0x04,
    Rejected = 0xFF,
}

/// Logout responses (§11.15.1).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub enum LogoutResponse {
    Closed = 0,
    CidNotFound = 1,
    RecoveryNotSupported = 2,
}

fn put(bhs: &mut Bhs, at: usize, value: u32) {
    bhs[at..at + 4].copy_from_slice(&value.to_be_bytes());
}

fn start(opcode: u8, flags: u8, itt: u32, numbers: Numbers) -> Bhs {
    let mut bhs = [0; BHS_BYTES];
    bhs[0] = opcode;
    bhs[1] = flags;
    put(&mut bhs, 16, itt);
    put(&mut bhs, 24, numbers.stat_sn.0);
    put(&mut bhs, 28, numbers.exp_cmd_sn.0);
    put(&mut bhs, 32, numbers.max_cmd_sn.0);
    bhs
}

/// SCSI Response, "command completed at target" (§11.4). `data_ins` counts the Data-In PDUs sent for the command.
pub fn scsi_response(itt: u32, numbers: Numbers, status: u8, residual: Residual, data_ins: u32) -> Bhs {
    let mut bhs = start(0x21, 0x80 | residual.flag(), itt, numbers);
    bhs[3] = status;
    put(&mut bhs, 36, data_ins);
    put(&mut bhs, 44, residual.count());
    bhs
}

/// One Data-In (§11.7).
#[derive(Clone, Copy, Debug)]
pub struct DataIn {
    pub lun: Lun,
    pub itt: u32,
    pub data_sn: u32,
    pub offset: u32,
    /// Last of its sequence (F bit).
    pub last: bool,
    /// With GOOD status for the whole command (S bit); then `numbers.stat_sn` is consumed.
    pub good: Option<Residual>,
}

impl DataIn {
    pub fn encode(&self, numbers: Numbers) -> Bhs {
        let mut flags = if self.last { 0x80 } else { 0 };
        let mut numbers = numbers;
        match self.good {
            Some(residual) => flags |= 0x01 | residual.flag(),
            // StatSN must only be set together with the S bit.
            None => numbers.stat_sn = SerialNumber(0),
        }
        let mut bhs = start(0x25, flags, self.itt, numbers);
        bhs[8..16].copy_from_slice(&self.lun);
        put(&mut bhs, 20, NO_TAG);
        put(&mut bhs, 36, self.data_sn);
        put(&mut bhs, 40, self.offset);
        put(&mut bhs, 44, self.good.map_or(0, Residual::count));
        bhs
    }
}

/// Ready to transfer (§11.8). Byte 1 is 80h: Windows drops the connection over any other value.
pub struct ReadyToTransfer {
    pub lun: Lun,
    pub itt: u32,
    pub ttt: u32,
    pub r2t_sn: u32,
    pub offset: u32,
    pub len: u32,
}

impl ReadyToTransfer {
    pub fn encode(&self, numbers: Numbers) -> Bhs {
        let mut bhs = start(0x31, 0x80, self.itt, numbers);
        bhs[8..16].copy_from_slice(&self.lun);
        put(&mut bhs, 20, self.ttt);
        put(&mut bhs, 36, self.r2t_sn);
        put(&mut bhs, 40, self.offset);
        put(&mut bhs, 44, self.len);
        bhs
    }
}

/// NOP-In (§11.19): an echo (`ttt` is [`NO_TAG`]) or a ping of the target's own (`itt` is [`NO_TAG`]).
pub fn nop_in(lun: Lun, itt: u32, ttt: u32, numbers: Numbers) -> Bhs {
    let mut bhs = start(0x20, 0x80, itt, numbers);
    bhs[8..16].copy_from_slice(&lun);
    put(&mut bhs, 20, ttt);
    bhs
}

/// Login Response (§11.13).
pub struct LoginResponse {
    /// The stage the target agrees to go to (T bit).
    pub transit: Option<Stage>,
    /// More text of this response follows (C bit).
    pub more: bool,
    pub stage: Stage,
    pub isid: [u8; 6],
    pub tsih: u16,
    pub itt: u32,
    /// Status class and detail.
    pub status: u16,
}

impl LoginResponse {
    pub fn encode(&self, numbers: Numbers) -> Bhs {
        let mut flags = self.stage.bits() << 2;
        if let Some(next) = self.transit {
            flags |= 0x80 | next.bits();
        }
        if self.more {
            flags |= 0x40;
        }
        let mut bhs = start(0x23, flags, self.itt, numbers);
        // Version-max and version-active are 00h (§11.13.1-2).
        bhs[8..14].copy_from_slice(&self.isid);
        bhs[14..16].copy_from_slice(&self.tsih.to_be_bytes());
        bhs[36..38].copy_from_slice(&self.status.to_be_bytes());
        bhs
    }
}

/// Text Response (§11.11). `ttt` is [`NO_TAG`] exactly when `last`.
pub fn text_response(itt: u32, ttt: u32, last: bool, more: bool, numbers: Numbers) -> Bhs {
    let flags = if last { 0x80 } else { 0 } | if more { 0x40 } else { 0 };
    let mut bhs = start(0x24, flags, itt, numbers);
    put(&mut bhs, 20, ttt);
    bhs
}

/// Logout Response (§11.15); times in seconds.
pub fn logout_response(itt: u32, response: LogoutResponse, wait: u16, retain: u16, numbers: Numbers) -> Bhs {
    let mut bhs = start(0x26, 0x80, itt, numbers);
    bhs[2] = response as u8;
    bhs[40..42].copy_from_slice(&wait.to_be_bytes());
    bhs[42..44].copy_from_slice(&retain.to_be_bytes());
    bhs
}

/// Task Management Function Response (§11.6).
pub fn task_management_response(itt: u32, response: TaskManagementResponse, numbers: Numbers) -> Bhs {
    let mut bhs = start(0x22, 0x80, itt, numbers);
    bhs[2] = response as u8;
    bhs
}

/// Reject (§11.17); the refused header goes along as data.
pub fn reject(reason: RejectReason, numbers: Numbers) -> Bhs {
    let mut bhs = start(0x3F, 0x80, NO_TAG, numbers);
    bhs[2] = reason as u8;
    bhs
}

/// Asynchronous Message (§11.9) "the target requests a logout", within `seconds`.
pub fn logout_request(seconds: u16, numbers: Numbers) -> Bhs {
    let mut bhs = start(0x32, 0x80, NO_TAG, numbers);
    bhs[36] = 1;
    bhs[42..44].copy_from_slice(&seconds.to_be_bytes());
    bhs
}

#[cfg(test)]
mod tests {
    use super::*;

    const NUMBERS: Numbers =
        Numbers { stat_sn: SerialNumber(1), exp_cmd_sn: SerialNumber(2), max_cmd_sn: SerialNumber(3) };

    #[test]
    fn residuals_are_exact() {
        assert_eq!(Residual::between(512, 512), Residual::None);
        assert_eq!(Residual::between(0, 512), Residual::Overflow(512));
        assert_eq!(Residual::between(10000, 512), Residual::Underflow(9488));
        assert_eq!(Residual::between(0, 1 << 40), Residual::Overflow(u32::MAX));
        let bhs = scsi_response(9, NUMBERS, 0, Residual::Underflow(9488), 0);
        assert_eq!((bhs[1], &bhs[44..48]), (0x82, &9488u32.to_be_bytes()[..]));
        let bhs = scsi_response(9, NUMBERS, 0, Residual::Overflow(3), 0);
        assert_eq!((bhs[1], bhs[47]), (0x84, 3));
    }

    #[test]
    fn r2t_has_the_final_bit_and_nothing_else() {
        let r2t = ReadyToTransfer { lun: [0; 8], itt: 1, ttt: 2, r2t_sn: 3, offset: 8192, len: 512 };
        let bhs = r2t.encode(NUMBERS);
        assert_eq!(bhs[1], 0x80);
        assert_eq!(bhs[40..48], [0, 0, 0x20, 0, 0, 0, 2, 0]);
    }

    #[test]
    fn stat_sn_only_with_status() {
        let mut data_in = DataIn { lun: [0; 8], itt: 1, data_sn: 0, offset: 0, last: true, good: None };
        assert_eq!(data_in.encode(NUMBERS)[24..28], [0; 4]);
        data_in.good = Some(Residual::None);
        let bhs = data_in.encode(NUMBERS);
        assert_eq!((bhs[1], bhs[27]), (0x81, 1));
    }
}
