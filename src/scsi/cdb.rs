//! Command descriptor blocks, decoded to a typed [`Command`].
//!
//! Decoding checks what the CDB alone can tell: operation code, service action, reserved bits, CONTROL. Whether the
//! addressed blocks exist is for the logical unit.
//!
//! Absent on purpose: variable-length CDBs (7Fh) and those of 32 bytes; their commands need protection information.

use super::logical_unit::LogicalUnit;
use super::opcodes::{self, Operation, OperationSpec, Unknown};
use super::reservation::out::ReserveOut;
use super::reservation::report::InAction;
use super::sense::SenseData;
use crate::units::Lba;

/// The longest CDB known here; iSCSI's header has room for as many bytes (RFC 7143 §11.3.5).
pub const CDB_BYTES: usize = 16;

/// A decoded command. Allocation and parameter list lengths are in bytes, transfer lengths in blocks.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Command {
    TestUnitReady,
    RequestSense {
        descriptor_format: bool,
        allocation: u32,
    },
    Inquiry {
        /// The VPD page, or `None` for standard INQUIRY data.
        page: Option<u8>,
        allocation: u32,
    },
    ModeSelect {
        form: ModeForm,
        page_format: bool,
        save_pages: bool,
        parameter_bytes: u32,
    },
    ModeSense(ModeSense),
    StartStopUnit {
        start: bool,
        load_eject: bool,
        no_flush: bool,
        power_condition: u8,
    },
    ReadCapacity10,
    ReadCapacity16 {
        allocation: u32,
    },
    Read(Access),
    Write(Access),
    SynchronizeCache {
        lba: Lba,
        /// Zero: up to the last block.
        blocks: u32,
    },
    ReportLuns {
        select: u8,
        allocation: u32,
    },
    ReportSupportedOperationCodes {
        timeouts: bool,
        option: u8,
        opcode: u8,
        service_action: u16,
        allocation: u32,
    },
    ReportTargetPortGroups {
        /// PARAMETER DATA FORMAT, 0..=7.
        format: u8,
        allocation: u32,
    },
    ReportSupportedTaskManagementFunctions {
        /// REPD: the long format.
        extended: bool,
        allocation: u32,
    },
    SendDiagnostic {
        /// SELF-TEST CODE, 0..=7.
        self_test_code: u8,
        self_test: bool,
        parameter_bytes: u32,
    },
    PreventAllowMediumRemoval {
        /// PREVENT, 0..=3.
        prevent: u8,
    },
    /// RESERVE(6) or RESERVE(10).
    Reserve,
    /// RELEASE(6) or RELEASE(10).
    Release,
    PersistentReserveIn {
        action: InAction,
        allocation: u32,
    },
    PersistentReserveOut(ReserveOut),
    PreFetch {
        lba: Lba,
        /// Zero: up to the last block.
        blocks: u32,
    },
    ReadDefectData {
        form: DefectForm,
        /// PLIST and GLIST, as their bits stand in the CDB, and the format: echoed in the answer.
        wanted: u8,
        allocation: u32,
    },
    /// VERIFY and WRITE AND VERIFY. `access.fua` is never set.
    Verify {
        access: Access,
        check: ByteCheck,
        write: bool,
    },
    /// COMPARE AND WRITE: `access.blocks` blocks are compared, and as many written.
    CompareAndWrite(Access),
    OrWrite(Access),
    WriteAtomic {
        access: Access,
        /// ATOMIC BOUNDARY; zero: none.
        boundary: u32,
    },
    WriteSame {
        access: Access,
        anchor: bool,
        unmap: bool,
        /// NDOB: there is no data, the blocks become zero.
        no_data: bool,
    },
    Unmap {
        anchor: bool,
        parameter_bytes: u32,
    },
    GetLbaStatus {
        lba: Lba,
        allocation: u32,
    },
    LogSense {
        save: bool,
        page: u8,
        subpage: u8,
        /// PARAMETER POINTER: parameters with smaller codes are left out.
        from: u16,
        allocation: u32,
    },
}

impl Command {
    /// Would it change the medium? A read-only disk refuses it.
    pub fn changes_medium(&self) -> bool {
        match self {
            Self::Write(_)
            | Self::CompareAndWrite(_)
            | Self::OrWrite(_)
            | Self::WriteAtomic { .. }
            | Self::WriteSame { .. }
            | Self::Unmap { .. } => true,
            Self::Verify { write, .. } => *write,
            _ => false,
        }
    }
}

/// BYTCHK: what a VERIFY compares (SBC-3 table 121).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ByteCheck {
    /// Nothing; the medium must be readable.
    None,
    /// Every block with the data sent for it.
    EachBlock,
    /// Every block with the one block sent.
    OneBlock,
}

/// The ten-byte or the twelve-byte form of READ DEFECT DATA; their headers differ.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum DefectForm {
    Ten,
    Twelve,
}

/// A READ or WRITE.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Access {
    pub lba: Lba,
    pub blocks: u32,
    /// Force unit access: from, or to, stable storage.
    pub fua: bool,
    /// Byte of the CDB where TRANSFER LENGTH starts, for the field pointer.
    pub length_at: u8,
}

/// The six-byte or the ten-byte form of a MODE command; their headers differ.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ModeForm {
    Six,
    Ten,
}

/// MODE SENSE (SPC-4 §6.11).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ModeSense {
    pub form: ModeForm,
    pub disable_block_descriptors: bool,
    /// LLBAA: the block descriptor may be the long one. MODE SENSE(10) only.
    pub long_lba: bool,
    /// PAGE CONTROL, 0..=3.
    pub control: u8,
    pub page: u8,
    pub subpage: u8,
    pub allocation: u32,
}

/// Fields of a CDB, by byte number.
struct Fields([u8; CDB_BYTES]);

impl Fields {
    fn u16(&self, at: usize) -> u32 {
        u32::from(u16::from_be_bytes([self.0[at], self.0[at + 1]]))
    }

    fn u32(&self, at: usize) -> u32 {
        u32::from_be_bytes([self.0[at], self.0[at + 1], self.0[at + 2], self.0[at + 3]])
    }

    fn u64(&self, at: usize) -> u64 {
        u64::from(self.u32(at)) << 32 | u64::from(self.u32(at + 4))
    }

    fn bit(&self, byte: usize, bit: u8) -> bool {
        self.0[byte] & (1 << bit) != 0
    }
}

/// Decodes a CDB. Bytes past the command's own length are not looked at.
///
/// # Errors
/// 20/00 for an operation code that is not known; 24/00 with a field pointer for an unknown service action, a reserved
/// bit or NACA that is set, or a CDB that ends early (SPC-4 §4.3).
pub fn decode(cdb: &[u8]) -> Result<Command, SenseData> {
    decode_if(cdb, |_| true)
}

/// [`decode`], for a disk that may not have every command.
pub(super) fn decode_for(unit: &LogicalUnit, cdb: &[u8]) -> Result<Command, SenseData> {
    decode_if(cdb, |operation| unit.supports(operation))
}

fn decode_if(cdb: &[u8], supported: impl Fn(Operation) -> bool) -> Result<Command, SenseData> {
    let mut bytes = [0; CDB_BYTES];
    let len = cdb.len().min(CDB_BYTES);
    bytes[..len].copy_from_slice(&cdb[..len]);
    let [opcode, service_action, ..] = bytes;
    let row = opcodes::find(opcode, service_action & 0x1F).map_err(|unknown| match unknown {
        Unknown::OperationCode => SenseData::INVALID_OPERATION_CODE,
        Unknown::ServiceAction => SenseData::invalid_cdb_bit(1, 4),
    })?;
    if !supported(row.operation) {
        return Err(SenseData::INVALID_OPERATION_CODE);
    }
    if len < row.usage.len() {
        return Err(SenseData::invalid_cdb_field(len as u16));
    }
    if let Some((byte, bit)) = row.reserved_bit_set(&bytes) {
        return Err(SenseData::invalid_cdb_bit(byte, bit));
    }
    decode_fields(row, &Fields(bytes))
}

fn decode_fields(row: &OperationSpec, cdb: &Fields) -> Result<Command, SenseData> {
    let simple = decode_access(row.operation, cdb).or_else(|| decode_reservation(row.operation, cdb));
    if let Some(command) = simple {
        return Ok(command);
    }
    match decode_block_command(row.operation, cdb) {
        Some(command) => command,
        None => decode_other(row.operation, cdb),
    }
}

/// Commands that do more with blocks than read or write them.
fn decode_block_command(operation: Operation, cdb: &Fields) -> Option<Result<Command, SenseData>> {
    let access10 = || access(cdb, u64::from(cdb.u32(2)), 7, cdb.u16(7));
    let access12 = || access(cdb, u64::from(cdb.u32(2)), 6, cdb.u32(6));
    let access16 = || access(cdb, cdb.u64(2), 10, cdb.u32(10));
    Some(Ok(match operation {
        Operation::Verify10 => return Some(verify(cdb, access10(), false)),
        Operation::Verify12 => return Some(verify(cdb, access12(), false)),
        Operation::Verify16 => return Some(verify(cdb, access16(), false)),
        Operation::WriteAndVerify10 => return Some(verify(cdb, access10(), true)),
        Operation::WriteAndVerify12 => return Some(verify(cdb, access12(), true)),
        Operation::WriteAndVerify16 => return Some(verify(cdb, access16(), true)),
        Operation::CompareAndWrite => {
            Command::CompareAndWrite(access(cdb, cdb.u64(2), 13, u32::from(cdb.0[13])))
        }
        Operation::OrWrite16 => Command::OrWrite(access16()),
        Operation::WriteAtomic16 => {
            Command::WriteAtomic { access: access(cdb, cdb.u64(2), 12, cdb.u16(12)), boundary: cdb.u16(10) }
        }
        Operation::WriteSame10 => write_same(cdb, access10(), false),
        Operation::WriteSame16 => write_same(cdb, access16(), cdb.bit(1, 0)),
        Operation::Unmap => Command::Unmap { anchor: cdb.bit(1, 0), parameter_bytes: cdb.u16(7) },
        Operation::GetLbaStatus => Command::GetLbaStatus { lba: Lba(cdb.u64(2)), allocation: cdb.u32(10) },
        _ => return None,
    }))
}

fn verify(cdb: &Fields, access: Access, write: bool) -> Result<Command, SenseData> {
    let check = match (cdb.0[1] >> 1) & 3 {
        0 => ByteCheck::None,
        1 => ByteCheck::EachBlock,
        3 if !write => ByteCheck::OneBlock,
        _ => return Err(SenseData::invalid_cdb_bit(1, 2)),
    };
    Ok(Command::Verify { access: Access { fua: false, ..access }, check, write })
}

fn write_same(cdb: &Fields, access: Access, no_data: bool) -> Command {
    let access = Access { fua: false, ..access };
    Command::WriteSame { access, anchor: cdb.bit(1, 4), unmap: cdb.bit(1, 3), no_data }
}

/// Commands that name blocks of the medium.
fn decode_access(operation: Operation, cdb: &Fields) -> Option<Command> {
    Some(match operation {
        Operation::Read6 => Command::Read(access6(cdb)),
        Operation::Write6 => Command::Write(access6(cdb)),
        Operation::Read10 => Command::Read(access(cdb, u64::from(cdb.u32(2)), 7, cdb.u16(7))),
        Operation::Write10 => Command::Write(access(cdb, u64::from(cdb.u32(2)), 7, cdb.u16(7))),
        Operation::Read12 => Command::Read(access(cdb, u64::from(cdb.u32(2)), 6, cdb.u32(6))),
        Operation::Write12 => Command::Write(access(cdb, u64::from(cdb.u32(2)), 6, cdb.u32(6))),
        Operation::Read16 => Command::Read(access(cdb, cdb.u64(2), 10, cdb.u32(10))),
        Operation::Write16 => Command::Write(access(cdb, cdb.u64(2), 10, cdb.u32(10))),
        Operation::SynchronizeCache10 => {
            Command::SynchronizeCache { lba: Lba(u64::from(cdb.u32(2))), blocks: cdb.u16(7) }
        }
        Operation::SynchronizeCache16 => {
            Command::SynchronizeCache { lba: Lba(cdb.u64(2)), blocks: cdb.u32(10) }
        }
        Operation::PreFetch10 => Command::PreFetch { lba: Lba(u64::from(cdb.u32(2))), blocks: cdb.u16(7) },
        Operation::PreFetch16 => Command::PreFetch { lba: Lba(cdb.u64(2)), blocks: cdb.u32(10) },
        _ => return None,
    })
}

fn decode_reservation(operation: Operation, cdb: &Fields) -> Option<Command> {
    Some(match operation {
        Operation::Reserve6 | Operation::Reserve10 => Command::Reserve,
        Operation::Release6 | Operation::Release10 => Command::Release,
        Operation::PersistentReserveIn(action) => {
            Command::PersistentReserveIn { action, allocation: cdb.u16(7) }
        }
        Operation::PersistentReserveOut(action) => Command::PersistentReserveOut(ReserveOut {
            action,
            scope: cdb.0[2] >> 4,
            kind: cdb.0[2] & 0x0F,
            parameter_bytes: cdb.u32(5),
        }),
        _ => return None,
    })
}

fn decode_other(operation: Operation, cdb: &Fields) -> Result<Command, SenseData> {
    Ok(match operation {
        Operation::TestUnitReady => Command::TestUnitReady,
        Operation::RequestSense => {
            Command::RequestSense { descriptor_format: cdb.bit(1, 0), allocation: u32::from(cdb.0[4]) }
        }
        Operation::Inquiry => inquiry(cdb)?,
        Operation::ModeSelect6 => mode_select(cdb, ModeForm::Six, u32::from(cdb.0[4])),
        Operation::ModeSelect10 => mode_select(cdb, ModeForm::Ten, cdb.u16(7)),
        Operation::ModeSense6 => mode_sense(cdb, ModeForm::Six, u32::from(cdb.0[4])),
        Operation::ModeSense10 => mode_sense(cdb, ModeForm::Ten, cdb.u16(7)),
        Operation::StartStopUnit => Command::StartStopUnit {
            start: cdb.bit(4, 0),
            load_eject: cdb.bit(4, 1),
            no_flush: cdb.bit(4, 2),
            power_condition: cdb.0[4] >> 4,
        },
        Operation::ReadCapacity10 => {
            partial_medium(cdb, 8, u64::from(cdb.u32(2)))?;
            Command::ReadCapacity10
        }
        Operation::ReadCapacity16 => {
            partial_medium(cdb, 14, cdb.u64(2))?;
            Command::ReadCapacity16 { allocation: cdb.u32(10) }
        }
        Operation::ReportLuns => Command::ReportLuns { select: cdb.0[2], allocation: cdb.u32(6) },
        Operation::ReportSupportedOperationCodes => Command::ReportSupportedOperationCodes {
            timeouts: cdb.bit(2, 7),
            option: cdb.0[2] & 0x07,
            opcode: cdb.0[3],
            service_action: cdb.u16(4) as u16,
            allocation: cdb.u32(6),
        },
        Operation::ReportTargetPortGroups => {
            Command::ReportTargetPortGroups { format: cdb.0[1] >> 5, allocation: cdb.u32(6) }
        }
        Operation::ReportSupportedTaskManagementFunctions => {
            Command::ReportSupportedTaskManagementFunctions {
                extended: cdb.bit(2, 7),
                allocation: cdb.u32(6),
            }
        }
        Operation::SendDiagnostic => Command::SendDiagnostic {
            self_test_code: cdb.0[1] >> 5,
            self_test: cdb.bit(1, 2),
            parameter_bytes: cdb.u16(3),
        },
        Operation::PreventAllowMediumRemoval => {
            Command::PreventAllowMediumRemoval { prevent: cdb.0[4] & 0x03 }
        }
        Operation::ReadDefectData10 => {
            Command::ReadDefectData { form: DefectForm::Ten, wanted: cdb.0[2], allocation: cdb.u16(7) }
        }
        Operation::ReadDefectData12 => {
            Command::ReadDefectData { form: DefectForm::Twelve, wanted: cdb.0[1], allocation: cdb.u32(6) }
        }
        Operation::LogSense => Command::LogSense {
            save: cdb.bit(1, 0),
            page: cdb.0[2] & 0x3F,
            subpage: cdb.0[3],
            from: cdb.u16(5) as u16,
            allocation: cdb.u16(7),
        },
        _ => unreachable!("decoded as an access"),
    })
}

fn access(cdb: &Fields, lba: u64, length_at: u8, blocks: u32) -> Access {
    Access { lba: Lba(lba), blocks, fua: cdb.bit(1, 3), length_at }
}

/// The six-byte forms: 21 bits of address, and a length of zero means 256 blocks (SBC-3 §5.9).
fn access6(cdb: &Fields) -> Access {
    let lba = u64::from(cdb.u32(0) & 0x001F_FFFF);
    let blocks = if cdb.0[4] == 0 { 256 } else { u32::from(cdb.0[4]) };
    Access { lba: Lba(lba), blocks, fua: false, length_at: 4 }
}

/// A page code without EVPD has no meaning (SPC-4 §6.6.1).
fn inquiry(cdb: &Fields) -> Result<Command, SenseData> {
    let vital = cdb.bit(1, 0);
    if !vital && cdb.0[2] != 0 {
        return Err(SenseData::invalid_cdb_field(2));
    }
    Ok(Command::Inquiry { page: vital.then_some(cdb.0[2]), allocation: cdb.u16(3) })
}

fn mode_select(cdb: &Fields, form: ModeForm, parameter_bytes: u32) -> Command {
    Command::ModeSelect { form, page_format: cdb.bit(1, 4), save_pages: cdb.bit(1, 0), parameter_bytes }
}

fn mode_sense(cdb: &Fields, form: ModeForm, allocation: u32) -> Command {
    Command::ModeSense(ModeSense {
        form,
        disable_block_descriptors: cdb.bit(1, 3),
        long_lba: cdb.bit(1, 4),
        control: cdb.0[2] >> 6,
        page: cdb.0[2] & 0x3F,
        subpage: cdb.0[3],
        allocation,
    })
}

/// READ CAPACITY's obsolete PMI: an address needs it. With it, every block of the disk is as quick to reach as any
/// other, so the answer is the last block all the same.
fn partial_medium(cdb: &Fields, pmi_at: usize, lba: u64) -> Result<(), SenseData> {
    if lba != 0 && !cdb.bit(pmi_at, 0) {
        return Err(SenseData::invalid_cdb_field(2));
    }
    Ok(())
}
