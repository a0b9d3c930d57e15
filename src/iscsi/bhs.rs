//! The 48-byte basic header segment (RFC 7143 §11): typed requests out of the initiator's bytes.
//!
//! Parsing looks at one header alone. Whether a request may come now (stage, window, live task) is judged by the
//! session. A value of [`Malformed`] is always the initiator's fault.
//!
//! Absent on purpose: header digests (they wrap the header and belong to the stream), and payload.

use crate::wire::SerialNumber;

/// Bytes of every basic header segment.
pub const BHS_BYTES: usize = 48;
/// The tag that names nothing (RFC 7143 §11.2.1.8).
pub const NO_TAG: u32 = 0xFFFF_FFFF;

/// Header bytes as they stand on the wire.
pub type Bhs = [u8; BHS_BYTES];
/// A logical unit number as SAM lays it out; compared as bytes, never interpreted here.
pub type Lun = [u8; 8];

/// Initiator-side operation codes.
pub mod opcode {
    pub const NOP_OUT: u8 = 0x00;
    pub const SCSI_COMMAND: u8 = 0x01;
    pub const TASK_MANAGEMENT: u8 = 0x02;
    pub const LOGIN: u8 = 0x03;
    pub const TEXT: u8 = 0x04;
    pub const DATA_OUT: u8 = 0x05;
    pub const LOGOUT: u8 = 0x06;
    pub const SNACK: u8 = 0x10;
}

const FINAL: u8 = 0x80;
const CONTINUE: u8 = 0x40;
const READ: u8 = 0x40;
const WRITE: u8 = 0x20;
const IMMEDIATE: u8 = 0x40;

/// What the initiator asks for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Request {
    NopOut(NopOut),
    Command(Command),
    TaskManagement(TaskManagement),
    Login(LoginRequest),
    Text(TextRequest),
    DataOut(DataOut),
    Logout(Logout),
}

/// Lengths of what follows the header.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Lengths {
    /// Additional header segments, in bytes, a multiple of 4 up to 1020.
    pub ahs: usize,
    /// Data segment without padding, up to 2²⁴−1.
    pub data: usize,
}

impl Lengths {
    pub fn of(bhs: &Bhs) -> Self {
        Self {
            ahs: usize::from(bhs[4]) * 4,
            data: usize::from(bhs[5]) << 16 | usize::from(bhs[6]) << 8 | usize::from(bhs[7]),
        }
    }

    /// Zero bytes that follow the data segment (§11.1).
    pub fn pad(&self) -> usize {
        pad_of(self.data)
    }
}

/// Bytes that bring `len` to a multiple of four.
pub fn pad_of(len: usize) -> usize {
    len.wrapping_neg() & 3
}

/// Why a header is refused. All of them are the initiator's fault.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Malformed {
    /// Reserved or target-side operation code.
    UnknownOpcode(u8),
    /// SNACK at ErrorRecoveryLevel 0.
    Snack,
    /// A field has a value that the clause forbids.
    InvalidField(&'static str),
}

/// Order of a request in the session (§4.2.2.1).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Sequence {
    pub immediate: bool,
    pub cmd_sn: SerialNumber,
    pub exp_stat_sn: SerialNumber,
}

/// §11.18.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct NopOut {
    pub sequence: Sequence,
    pub lun: Lun,
    pub itt: u32,
    pub ttt: u32,
}

/// §11.3.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Command {
    pub sequence: Sequence,
    /// No unsolicited Data-Out follows.
    pub last: bool,
    pub read: bool,
    pub write: bool,
    /// SAM task attribute, 0..=7 as sent.
    pub attribute: u8,
    pub lun: Lun,
    pub itt: u32,
    /// Expected data transfer length, bytes.
    pub expected: u32,
    pub cdb: [u8; 16],
}

/// §11.5.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct TaskManagement {
    pub sequence: Sequence,
    pub function: u8,
    pub lun: Lun,
    pub itt: u32,
    pub referenced_tag: u32,
    pub ref_cmd_sn: SerialNumber,
}

/// Login stage (§6.3, §11.12.3).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Stage {
    Security,
    Operational,
    FullFeature,
}

impl Stage {
    fn from_bits(bits: u8) -> Result<Self, Malformed> {
        match bits & 3 {
            0 => Ok(Self::Security),
            1 => Ok(Self::Operational),
            3 => Ok(Self::FullFeature),
            _ => Err(Malformed::InvalidField("login stage 2 is reserved")),
        }
    }

    pub fn bits(self) -> u8 {
        match self {
            Self::Security => 0,
            Self::Operational => 1,
            Self::FullFeature => 3,
        }
    }
}

/// §11.12.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct LoginRequest {
    /// The stage the initiator wants to go to, when it asks for a transit (T bit).
    pub transit: Option<Stage>,
    /// More text of this request follows (C bit).
    pub more: bool,
    pub stage: Stage,
    pub version_max: u8,
    pub version_min: u8,
    pub isid: [u8; 6],
    pub tsih: u16,
    pub itt: u32,
    pub cid: u16,
    pub cmd_sn: SerialNumber,
    pub exp_stat_sn: SerialNumber,
}

/// §11.10.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct TextRequest {
    pub sequence: Sequence,
    pub last: bool,
    pub more: bool,
    pub lun: Lun,
    pub itt: u32,
    pub ttt: u32,
}

/// §11.7.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct DataOut {
    pub last: bool,
    pub itt: u32,
    pub ttt: u32,
    pub data_sn: u32,
    pub offset: u32,
}

/// §11.14.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Logout {
    pub sequence: Sequence,
    pub reason: u8,
    pub itt: u32,
    pub cid: u16,
}

/// A big-endian field; `at` is a constant inside the header.
fn field(bhs: &Bhs, at: usize) -> u32 {
    u32::from_be_bytes([bhs[at], bhs[at + 1], bhs[at + 2], bhs[at + 3]])
}

fn field16(bhs: &Bhs, at: usize) -> u16 {
    u16::from_be_bytes([bhs[at], bhs[at + 1]])
}

fn lun_of(bhs: &Bhs) -> Lun {
    [bhs[8], bhs[9], bhs[10], bhs[11], bhs[12], bhs[13], bhs[14], bhs[15]]
}

fn sequence_of(bhs: &Bhs) -> Sequence {
    Sequence {
        immediate: bhs[0] & IMMEDIATE != 0,
        cmd_sn: SerialNumber(field(bhs, 24)),
        exp_stat_sn: SerialNumber(field(bhs, 28)),
    }
}

/// The operation code alone, without the immediate bit.
pub fn opcode_of(bhs: &Bhs) -> u8 {
    bhs[0] & 0x3F
}

/// Initiator task tag, as it stands in every request.
pub fn itt_of(bhs: &Bhs) -> u32 {
    field(bhs, 16)
}

impl Request {
    pub fn parse(bhs: &Bhs) -> Result<Self, Malformed> {
        match opcode_of(bhs) {
            opcode::NOP_OUT => NopOut::parse(bhs).map(Self::NopOut),
            opcode::SCSI_COMMAND => Command::parse(bhs).map(Self::Command),
            opcode::TASK_MANAGEMENT => TaskManagement::parse(bhs).map(Self::TaskManagement),
            opcode::LOGIN => LoginRequest::parse(bhs).map(Self::Login),
            opcode::TEXT => TextRequest::parse(bhs).map(Self::Text),
            opcode::DATA_OUT => Ok(Self::DataOut(DataOut::parse(bhs))),
            opcode::LOGOUT => Logout::parse(bhs).map(Self::Logout),
            opcode::SNACK => Err(Malformed::Snack),
            other => Err(Malformed::UnknownOpcode(other)),
        }
    }
}

/// A task tag that must name a task.
fn task_tag(bhs: &Bhs) -> Result<u32, Malformed> {
    match itt_of(bhs) {
        NO_TAG => Err(Malformed::InvalidField("initiator task tag FFFFFFFFh is reserved")),
        itt => Ok(itt),
    }
}

impl NopOut {
    fn parse(bhs: &Bhs) -> Result<Self, Malformed> {
        let nop =
            Self { sequence: sequence_of(bhs), lun: lun_of(bhs), itt: itt_of(bhs), ttt: field(bhs, 20) };
        if nop.itt == NO_TAG && !nop.sequence.immediate {
            return Err(Malformed::InvalidField("a NOP-Out without task tag must be immediate"));
        }
        Ok(nop)
    }
}

impl Command {
    fn parse(bhs: &Bhs) -> Result<Self, Malformed> {
        let flags = bhs[1];
        let mut cdb = [0; 16];
        cdb.copy_from_slice(&bhs[32..]);
        let command = Self {
            sequence: sequence_of(bhs),
            last: flags & FINAL != 0,
            read: flags & READ != 0,
            write: flags & WRITE != 0,
            attribute: flags & 7,
            lun: lun_of(bhs),
            itt: task_tag(bhs)?,
            expected: field(bhs, 20),
            cdb,
        };
        if !command.last && !command.write {
            return Err(Malformed::InvalidField("F=0 in a SCSI Command that writes nothing"));
        }
        Ok(command)
    }
}

impl TaskManagement {
    fn parse(bhs: &Bhs) -> Result<Self, Malformed> {
        Ok(Self {
            sequence: sequence_of(bhs),
            function: bhs[1] & 0x7F,
            lun: lun_of(bhs),
            itt: task_tag(bhs)?,
            referenced_tag: field(bhs, 20),
            ref_cmd_sn: SerialNumber(field(bhs, 32)),
        })
    }
}

impl LoginRequest {
    fn parse(bhs: &Bhs) -> Result<Self, Malformed> {
        let flags = bhs[1];
        let stage = Stage::from_bits(flags >> 2)?;
        let more = flags & CONTINUE != 0;
        let transit = if flags & FINAL != 0 { Some(Stage::from_bits(flags)?) } else { None };
        if stage == Stage::FullFeature {
            return Err(Malformed::InvalidField("login in full feature phase"));
        }
        if transit.is_some_and(|next| next <= stage) {
            return Err(Malformed::InvalidField("next login stage is not later than the current one"));
        }
        if transit.is_some() && more {
            return Err(Malformed::InvalidField("T and C set in one Login Request"));
        }
        let sequence = sequence_of(bhs);
        Ok(Self {
            transit,
            more,
            stage,
            version_max: bhs[2],
            version_min: bhs[3],
            isid: [bhs[8], bhs[9], bhs[10], bhs[11], bhs[12], bhs[13]],
            tsih: field16(bhs, 14),
            itt: itt_of(bhs),
            cid: field16(bhs, 20),
            cmd_sn: sequence.cmd_sn,
            exp_stat_sn: sequence.exp_stat_sn,
        })
    }
}

impl TextRequest {
    fn parse(bhs: &Bhs) -> Result<Self, Malformed> {
        let text = Self {
            sequence: sequence_of(bhs),
            last: bhs[1] & FINAL != 0,
            more: bhs[1] & CONTINUE != 0,
            lun: lun_of(bhs),
            itt: task_tag(bhs)?,
            ttt: field(bhs, 20),
        };
        if text.last && text.more {
            return Err(Malformed::InvalidField("F and C set in one Text Request"));
        }
        Ok(text)
    }
}

impl DataOut {
    fn parse(bhs: &Bhs) -> Self {
        Self {
            last: bhs[1] & FINAL != 0,
            itt: itt_of(bhs),
            ttt: field(bhs, 20),
            data_sn: field(bhs, 36),
            offset: field(bhs, 40),
        }
    }
}

impl Logout {
    fn parse(bhs: &Bhs) -> Result<Self, Malformed> {
        Ok(Self {
            sequence: sequence_of(bhs),
            reason: bhs[1] & 0x7F,
            itt: task_tag(bhs)?,
            cid: field16(bhs, 20),
        })
    }
}

/// Walks the additional header segments of a SCSI Command and appends an extended CDB (§11.2.2.3) to `cdb`.
///
/// A bidirectional read length (§11.2.2.4) is refused: no command of this target moves data both ways.
pub fn extended_cdb(mut ahs: &[u8], cdb: &mut alloc::vec::Vec<u8>) -> Result<(), Malformed> {
    while ahs.len() >= 4 {
        // AHSLength counts what follows the type byte; segments are padded to four bytes.
        let len = usize::from(u16::from_be_bytes([ahs[0], ahs[1]]));
        let end = 3 + len;
        let body = ahs.get(3..end).ok_or(Malformed::InvalidField("AHSLength beyond TotalAHSLength"))?;
        match ahs[2] & 0x3F {
            1 => cdb.extend_from_slice(body.get(1..).unwrap_or(&[])),
            2 => return Err(Malformed::InvalidField("bidirectional commands are not supported")),
            _ => return Err(Malformed::InvalidField("unknown AHSType")),
        }
        ahs = ahs.get(end + pad_of(end)..).unwrap_or(&[]);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lengths_and_padding() {
        let mut bhs = [0; BHS_BYTES];
        bhs[4..8].copy_from_slice(&[2, 1, 2, 3]);
        let lengths = Lengths::of(&bhs);
        assert_eq!(lengths, Lengths { ahs: 8, data: 0x010203 });
        assert_eq!(lengths.pad(), 1);
        assert_eq!([0, 1, 2, 3, 4].map(pad_of), [0, 3, 2, 1, 0]);
    }

    #[test]
    fn login_stages_only_go_forward() {
        let login = |flags| {
            let mut bhs = [0; BHS_BYTES];
            bhs[0] = 0x43;
            bhs[1] = flags;
            Request::parse(&bhs)
        };
        for good in [0x81, 0x83, 0x87, 0x00, 0x04, 0x40, 0x44] {
            assert!(login(good).is_ok(), "{good:#x}");
        }
        for bad in [0x80, 0x85, 0x84, 0x82, 0x86, 0x8F, 0x08, 0x0C, 0xC1] {
            assert!(matches!(login(bad), Err(Malformed::InvalidField(_))), "{bad:#x}");
        }
    }

    #[test]
    fn extended_cdb_is_appended_and_bidi_refused() {
        let mut cdb = alloc::vec![0x7F; 16];
        // 16 further CDB bytes: AHSLength = 17, one reserved byte first.
        let mut ahs = alloc::vec![0, 17, 1, 0];
        ahs.extend(1..=16);
        assert_eq!(extended_cdb(&ahs, &mut cdb), Ok(()));
        assert_eq!(cdb.len(), 32);
        assert_eq!(cdb[16..], (1..=16).collect::<alloc::vec::Vec<u8>>());
        assert!(extended_cdb(&[0, 5, 2, 0, 0, 0, 0, 8], &mut cdb).is_err());
        assert!(extended_cdb(&[0, 40, 1, 0], &mut cdb).is_err());
        assert!(extended_cdb(&[0, 1, 9, 0], &mut cdb).is_err());
    }

    #[test]
    fn reserved_opcodes_are_told_apart() {
        let mut bhs = [0; BHS_BYTES];
        bhs[0] = 0x1E;
        assert_eq!(Request::parse(&bhs), Err(Malformed::UnknownOpcode(0x1E)));
        bhs[0] = 0x21;
        assert_eq!(Request::parse(&bhs), Err(Malformed::UnknownOpcode(0x21)));
        bhs[0] = 0x10;
        assert_eq!(Request::parse(&bhs), Err(Malformed::Snack));
    }
}
