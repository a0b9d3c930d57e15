//! The table of commands: operation code, service action, and which CDB bits are evaluated.
//!
//! One table serves three readers: finding the operation, refusing reserved bits, and REPORT SUPPORTED OPERATION
//! CODES. So what the device reports is what it does.

use super::reservation::out::OutAction;
use super::reservation::report::InAction;

/// A command of the table, by its name in SPC-4 and SBC-3.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Operation {
    TestUnitReady,
    RequestSense,
    Read6,
    Write6,
    Inquiry,
    ModeSelect6,
    ModeSense6,
    StartStopUnit,
    ReadCapacity10,
    Read10,
    Write10,
    SynchronizeCache10,
    ModeSelect10,
    ModeSense10,
    Read16,
    Write16,
    SynchronizeCache16,
    ReadCapacity16,
    ReportLuns,
    ReportTargetPortGroups,
    ReportSupportedOperationCodes,
    ReportSupportedTaskManagementFunctions,
    Read12,
    Write12,
    SendDiagnostic,
    PreventAllowMediumRemoval,
    PreFetch10,
    PreFetch16,
    ReadDefectData10,
    ReadDefectData12,
    LogSense,
    Verify10,
    Verify12,
    Verify16,
    WriteAndVerify10,
    WriteAndVerify12,
    WriteAndVerify16,
    CompareAndWrite,
    WriteSame10,
    WriteSame16,
    Unmap,
    GetLbaStatus,
    OrWrite16,
    WriteAtomic16,
    Reserve6,
    Release6,
    Reserve10,
    Release10,
    PersistentReserveIn(InAction),
    PersistentReserveOut(OutAction),
}

/// One row of the table.
#[derive(Clone, Copy, Debug)]
pub struct OperationSpec {
    pub operation: Operation,
    pub opcode: u8,
    /// For operation codes whose byte 1 (low five bits) selects among commands.
    pub service_action: Option<u8>,
    /// CDB usage data (SPC-4 §6.35.3): byte 0 is the operation code, a set bit elsewhere means "evaluated". Bits of a
    /// service action are shown as its value.
    pub usage: &'static [u8],
    /// Bits that may be set, over a 16-byte CDB; bytes past the CDB's end are not looked at.
    allowed: u128,
}

impl OperationSpec {
    const fn new(operation: Operation, opcode: u8, service_action: Option<u8>, usage: &'static [u8]) -> Self {
        let mut bytes = [0xFF; 16];
        let mut at = 1;
        while at < usage.len() {
            bytes[at] = usage[at];
            at += 1;
        }
        if service_action.is_some() {
            bytes[1] |= 0x1F;
        }
        Self { operation, opcode, service_action, usage, allowed: u128::from_be_bytes(bytes) }
    }

    /// The first bit, from the left, that must be zero and is not: its byte and its number in the byte.
    pub fn reserved_bit_set(&self, cdb: &[u8; 16]) -> Option<(u16, u8)> {
        let wrong = u128::from_be_bytes(*cdb) & !self.allowed;
        if wrong == 0 {
            return None;
        }
        let from_left = wrong.leading_zeros();
        Some(((from_left / 8) as u16, 7 - (from_left % 8) as u8))
    }
}

/// DPO, FUA and the obsolete FUA_NV of READ and WRITE. RDPROTECT and WRPROTECT are missing: the logical units carry
/// no protection information, so these fields must be zero (SBC-3 §5.8). FUA_NV is accepted and means nothing, as
/// drivers of SBC-2 times set it together with FUA.
const ACCESS: u8 = 0x1A;
/// DPO and BYTCHK of VERIFY and WRITE AND VERIFY.
const VERIFY: u8 = 0x16;
/// GROUP NUMBER: accepted and not collected into anything, for there are no group attributes to report.
const GROUP: u8 = 0x1F;
/// IMMED of PRE-FETCH.
const IMMED: u8 = 0x02;
/// IMMED, and the obsolete SYNC_NV, of SYNCHRONIZE CACHE.
const SYNC: u8 = 0x06;

const fn row(operation: Operation, usage: &'static [u8]) -> OperationSpec {
    OperationSpec::new(operation, usage[0], None, usage)
}

const fn reserve_in(action: InAction) -> OperationSpec {
    let usage: &[u8] = match action {
        InAction::ReadKeys => &[0x5E, 0x00, 0, 0, 0, 0, 0, 0xFF, 0xFF, 0],
        InAction::ReadReservation => &[0x5E, 0x01, 0, 0, 0, 0, 0, 0xFF, 0xFF, 0],
        InAction::ReportCapabilities => &[0x5E, 0x02, 0, 0, 0, 0, 0, 0xFF, 0xFF, 0],
        InAction::ReadFullStatus => &[0x5E, 0x03, 0, 0, 0, 0, 0, 0xFF, 0xFF, 0],
    };
    OperationSpec::new(Operation::PersistentReserveIn(action), 0x5E, Some(action as u8), usage)
}

/// SCOPE and TYPE are ignored where they mean nothing, so they may always be set.
const fn reserve_out(action: OutAction) -> OperationSpec {
    let usage: &[u8] = match action {
        OutAction::Register => &[0x5F, 0x00, 0xFF, 0, 0, 0xFF, 0xFF, 0xFF, 0xFF, 0],
        OutAction::Reserve => &[0x5F, 0x01, 0xFF, 0, 0, 0xFF, 0xFF, 0xFF, 0xFF, 0],
        OutAction::Release => &[0x5F, 0x02, 0xFF, 0, 0, 0xFF, 0xFF, 0xFF, 0xFF, 0],
        OutAction::Clear => &[0x5F, 0x03, 0xFF, 0, 0, 0xFF, 0xFF, 0xFF, 0xFF, 0],
        OutAction::Preempt => &[0x5F, 0x04, 0xFF, 0, 0, 0xFF, 0xFF, 0xFF, 0xFF, 0],
        OutAction::PreemptAndAbort => &[0x5F, 0x05, 0xFF, 0, 0, 0xFF, 0xFF, 0xFF, 0xFF, 0],
        OutAction::RegisterAndIgnoreExistingKey => &[0x5F, 0x06, 0xFF, 0, 0, 0xFF, 0xFF, 0xFF, 0xFF, 0],
        OutAction::RegisterAndMove => &[0x5F, 0x07, 0xFF, 0, 0, 0xFF, 0xFF, 0xFF, 0xFF, 0],
    };
    OperationSpec::new(Operation::PersistentReserveOut(action), 0x5F, Some(action as u8), usage)
}

const fn action(operation: Operation, usage: &'static [u8]) -> OperationSpec {
    OperationSpec::new(operation, usage[0], Some(usage[1]), usage)
}

/// All commands, in order of operation code and service action. The last byte of each is CONTROL: no bit of it may be
/// set, for NACA is not supported (NORMACA = 0) and LINK is obsolete.
pub static OPERATIONS: [OperationSpec; 60] = {
    use Operation as O;
    const F: u8 = 0xFF;
    [
        row(O::TestUnitReady, &[0x00, 0, 0, 0, 0, 0]),
        row(O::RequestSense, &[0x03, 0x01, 0, 0, F, 0]),
        row(O::Read6, &[0x08, 0x1F, F, F, F, 0]),
        row(O::Write6, &[0x0A, 0x1F, F, F, F, 0]),
        row(O::Inquiry, &[0x12, 0x01, F, F, F, 0]),
        row(O::ModeSelect6, &[0x15, 0x11, 0, 0, F, 0]),
        row(O::Reserve6, &[0x16, 0, 0, 0, 0, 0]),
        row(O::Release6, &[0x17, 0, 0, 0, 0, 0]),
        row(O::ModeSense6, &[0x1A, 0x08, F, F, F, 0]),
        row(O::StartStopUnit, &[0x1B, 0x01, 0, 0x0F, 0xF7, 0]),
        row(O::SendDiagnostic, &[0x1D, 0xF7, 0, F, F, 0]),
        row(O::PreventAllowMediumRemoval, &[0x1E, 0, 0, 0, 0x03, 0]),
        row(O::ReadCapacity10, &[0x25, 0, F, F, F, F, 0, 0, 0x01, 0]),
        row(O::Read10, &[0x28, ACCESS, F, F, F, F, GROUP, F, F, 0]),
        row(O::Write10, &[0x2A, ACCESS, F, F, F, F, GROUP, F, F, 0]),
        row(O::WriteAndVerify10, &[0x2E, VERIFY, F, F, F, F, GROUP, F, F, 0]),
        row(O::Verify10, &[0x2F, VERIFY, F, F, F, F, GROUP, F, F, 0]),
        row(O::PreFetch10, &[0x34, IMMED, F, F, F, F, GROUP, F, F, 0]),
        row(O::SynchronizeCache10, &[0x35, SYNC, F, F, F, F, GROUP, F, F, 0]),
        row(O::ReadDefectData10, &[0x37, 0, 0x1F, 0, 0, 0, 0, F, F, 0]),
        row(O::WriteSame10, &[0x41, 0x18, F, F, F, F, GROUP, F, F, 0]),
        row(O::Unmap, &[0x42, 0x01, 0, 0, 0, 0, GROUP, F, F, 0]),
        row(O::LogSense, &[0x4D, 0x03, F, F, 0, F, F, F, F, 0]),
        row(O::ModeSelect10, &[0x55, 0x11, 0, 0, 0, 0, 0, F, F, 0]),
        row(O::Reserve10, &[0x56, 0, 0, 0, 0, 0, 0, 0, 0, 0]),
        row(O::Release10, &[0x57, 0, 0, 0, 0, 0, 0, 0, 0, 0]),
        row(O::ModeSense10, &[0x5A, 0x18, F, F, 0, 0, 0, F, F, 0]),
        reserve_in(InAction::ReadKeys),
        reserve_in(InAction::ReadReservation),
        reserve_in(InAction::ReportCapabilities),
        reserve_in(InAction::ReadFullStatus),
        reserve_out(OutAction::Register),
        reserve_out(OutAction::Reserve),
        reserve_out(OutAction::Release),
        reserve_out(OutAction::Clear),
        reserve_out(OutAction::Preempt),
        reserve_out(OutAction::PreemptAndAbort),
        reserve_out(OutAction::RegisterAndIgnoreExistingKey),
        reserve_out(OutAction::RegisterAndMove),
        row(O::Read16, &[0x88, ACCESS, F, F, F, F, F, F, F, F, F, F, F, F, GROUP, 0]),
        row(O::CompareAndWrite, &[0x89, ACCESS, F, F, F, F, F, F, F, F, 0, 0, 0, F, GROUP, 0]),
        row(O::Write16, &[0x8A, ACCESS, F, F, F, F, F, F, F, F, F, F, F, F, GROUP, 0]),
        row(O::OrWrite16, &[0x8B, ACCESS, F, F, F, F, F, F, F, F, F, F, F, F, GROUP, 0]),
        row(O::WriteAndVerify16, &[0x8E, VERIFY, F, F, F, F, F, F, F, F, F, F, F, F, GROUP, 0]),
        row(O::Verify16, &[0x8F, VERIFY, F, F, F, F, F, F, F, F, F, F, F, F, GROUP, 0]),
        row(O::PreFetch16, &[0x90, IMMED, F, F, F, F, F, F, F, F, F, F, F, F, GROUP, 0]),
        row(O::SynchronizeCache16, &[0x91, SYNC, F, F, F, F, F, F, F, F, F, F, F, F, GROUP, 0]),
        row(O::WriteSame16, &[0x93, 0x19, F, F, F, F, F, F, F, F, F, F, F, F, GROUP, 0]),
        row(O::WriteAtomic16, &[0x9C, 0x18, F, F, F, F, F, F, F, F, F, F, F, F, GROUP, 0]),
        action(O::ReadCapacity16, &[0x9E, 0x10, F, F, F, F, F, F, F, F, F, F, F, F, 0x01, 0]),
        action(O::GetLbaStatus, &[0x9E, 0x12, F, F, F, F, F, F, F, F, F, F, F, F, 0, 0]),
        row(O::ReportLuns, &[0xA0, 0, F, 0, 0, 0, F, F, F, F, 0, 0]),
        OperationSpec::new(
            O::ReportTargetPortGroups,
            0xA3,
            Some(0x0A),
            &[0xA3, 0xEA, 0, 0, 0, 0, F, F, F, F, 0, 0],
        ),
        action(O::ReportSupportedOperationCodes, &[0xA3, 0x0C, 0x87, F, F, F, F, F, F, F, 0, 0]),
        action(O::ReportSupportedTaskManagementFunctions, &[0xA3, 0x0D, 0x80, 0, 0, 0, F, F, F, F, 0, 0]),
        row(O::Read12, &[0xA8, ACCESS, F, F, F, F, F, F, F, F, GROUP, 0]),
        row(O::Write12, &[0xAA, ACCESS, F, F, F, F, F, F, F, F, GROUP, 0]),
        row(O::WriteAndVerify12, &[0xAE, VERIFY, F, F, F, F, F, F, F, F, GROUP, 0]),
        row(O::Verify12, &[0xAF, VERIFY, F, F, F, F, F, F, F, F, GROUP, 0]),
        row(O::ReadDefectData12, &[0xB7, 0x1F, F, F, F, F, F, F, F, F, 0, 0]),
    ]
};

/// No row has this operation code.
const NONE: u8 = u8::MAX;

/// For every operation code its first row.
static FIRST: [u8; 256] = {
    let mut first = [NONE; 256];
    let mut at = OPERATIONS.len();
    while at > 0 {
        at -= 1;
        first[OPERATIONS[at].opcode as usize] = at as u8;
    }
    first
};

/// Why no row matches.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Unknown {
    OperationCode,
    ServiceAction,
}

/// All rows of one operation code; empty when there is none.
pub fn rows_of(opcode: u8) -> &'static [OperationSpec] {
    let first = FIRST[usize::from(opcode)];
    if first == NONE {
        return &[];
    }
    let rest = &OPERATIONS[usize::from(first)..];
    let count = rest.iter().take_while(|row| row.opcode == opcode).count();
    &rest[..count]
}

/// The row of a command. `service_action` is looked at only where the operation code has some.
pub fn find(opcode: u8, service_action: u8) -> Result<&'static OperationSpec, Unknown> {
    match rows_of(opcode) {
        [] => Err(Unknown::OperationCode),
        [row] if row.service_action.is_none() => Ok(row),
        rows => {
            let wanted = Some(service_action);
            rows.iter().find(|row| row.service_action == wanted).ok_or(Unknown::ServiceAction)
        }
    }
}
