//! The SCSI target device: which logical units there are, and what becomes of a command.
//!
//! [`Target::execute`] is the one way in. It routes by LUN, reports pending unit attentions, decodes, and either
//! answers from facts it has or hands out media access.
//!
//! Invariants: `data_in` never holds more than the allocation length allows; media access that is handed out lies
//! inside the volume, is not empty and not longer than the maximum transfer length.

use alloc::string::String;
use alloc::vec::Vec;
use core::fmt;

use super::alua::{self, PeerPort};
use super::attention::UnitAttention;
use super::cdb::{self, Command};
use super::data_in::{DataIn, set_u32_length, truncate};
use super::identity::{IdentityError, TARGET_NAME_MAX};
use super::inquiry::{self, Device};
use super::logical_unit::LogicalUnit;
use super::lun::{LUN_MAX, LunAddress, REPORT_LUNS_WLUN};
use super::media::{Action, ActionKind};
use super::nexus::Nexus;
use super::reservation::conflict::Standing;
use super::reservation::out::{INSUFFICIENT_REGISTRATION_RESOURCES, OutAction};
use super::reservation::{Ports, Refusal, legacy, report};
use super::sense::{SENSE_BYTES_MAX, SenseData, SenseFormat};
use super::status::Status;
use super::unit_memory::UnitMemory;
use super::{log, mode, supported};
use crate::block::UNIT_BYTES_MAX;
use crate::units::BlockRange;

/// Most logical units of one target.
pub const LOGICAL_UNITS_MAX: usize = 256;

/// With a memory of this size nobody registers any more: what is left is for two names, of an author and of who holds the
/// unit by RESERVE.
const FULL_BYTES: usize = UNIT_BYTES_MAX - 512;

/// Place of a logical unit in its target's LUN map.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct LuIndex(pub u16);

/// What becomes of a command.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Outcome {
    /// GOOD. Bytes for the initiator, if any, are in `data_in`, cut to the allocation length.
    Done,
    /// CHECK CONDITION with autosense. Encode it in the format that [`Nexus::sense_format`] names.
    Check(SenseData),
    /// Read these blocks and send them. With `fua`, what is sent is stable: the volume is flushed before the read.
    Read { lu: LuIndex, range: BlockRange, fua: bool },
    /// Take the data of these blocks and write it; with `fua`, to stable storage.
    Write { lu: LuIndex, range: BlockRange, fua: bool },
    /// Make everything answered so far stable, then GOOD.
    Flush { lu: LuIndex },
    /// Take the data that [`Action::data_blocks`] names, if any, and carry this out.
    Act(Action),
    /// Give back the ranges of the command's parameter list ([`unmap_descriptor`](super::unmap_descriptor)).
    Unmap { lu: LuIndex, descriptors: u16, fua: bool },
    /// Another status, without sense data.
    Status(Status),
    /// The command has a parameter list of this many bytes, at least one. Fetch it, then call
    /// [`Target::execute_with_data`]. When the initiator announced fewer bytes, pass those that came.
    NeedData { bytes: u32 },
    /// The unit's memory must become what `data_in` holds the bytes of, then GOOD. If it is not that of the nexus any more,
    /// call [`Target::execute_with_data`] again with the newest and the same parameter list (if any).
    ChangeUnit,
}

/// The SCSI target port that this portal group is (RFC 7143 §3.4.1). Every node of the pair shows the same one.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct TargetPort {
    /// The iSCSI name of the target, 1..=223 bytes of UTF-8.
    pub target_name: String,
    pub portal_group_tag: u16,
    /// RELATIVE TARGET PORT IDENTIFIER, 1..=65535.
    pub relative_id: u16,
    /// TARGET PORT GROUP (ALUA), not the iSCSI portal group.
    pub target_port_group: u16,
    /// The other node's port, where initiators are at both nodes (ALUA).
    pub peer: Option<PeerPort>,
}

/// Why a target cannot be built.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum TargetError {
    Identity(IdentityError),
    /// Relative port identifier 0 is reserved.
    RelativePort,
    /// More than [`LOGICAL_UNITS_MAX`] logical units.
    TooManyLogicalUnits,
    /// A logical unit number above [`LUN_MAX`].
    LunTooLarge(u16),
    /// Two logical units with one number.
    DuplicateLun(u16),
}

/// A target port with its LUN map. Immutable while it serves; every shard has a copy.
#[derive(Clone, Debug)]
pub struct Target {
    port: TargetPort,
    /// In order of number.
    units: Vec<(u16, LogicalUnit)>,
}

impl Target {
    /// # Errors
    /// A name, number or LUN map that cannot be reported.
    pub fn new(port: TargetPort, mut units: Vec<(u16, LogicalUnit)>) -> Result<Self, TargetError> {
        if port.target_name.is_empty() || port.target_name.len() > TARGET_NAME_MAX {
            return Err(TargetError::Identity(IdentityError::TargetName));
        }
        if port.relative_id == 0 {
            return Err(TargetError::RelativePort);
        }
        if units.len() > LOGICAL_UNITS_MAX {
            return Err(TargetError::TooManyLogicalUnits);
        }
        units.sort_by_key(|(number, _)| *number);
        if let Some((number, _)) = units.last().filter(|(number, _)| *number > LUN_MAX) {
            return Err(TargetError::LunTooLarge(*number));
        }
        if let Some(pair) = units.windows(2).find(|pair| pair[0].0 == pair[1].0) {
            return Err(TargetError::DuplicateLun(pair[0].0));
        }
        Ok(Self { port, units })
    }

    /// Some of the logical units under other numbers, for initiators that see only these. `map`: new number, old number.
    ///
    /// # Panics
    /// When there is no unit of an old number, or a new one is given twice or above [`LUN_MAX`].
    pub fn with_numbers(&self, map: &[(u16, u16)]) -> Self {
        let unit = |number| self.logical_unit(self.index_of(number).expect("the map names units that exist"));
        let units = map.iter().map(|(new, old)| (*new, unit(*old).clone())).collect();
        Self::new(self.port.clone(), units).expect("the map has good numbers")
    }

    pub fn port(&self) -> &TargetPort {
        &self.port
    }

    /// The logical unit of an outcome.
    pub fn logical_unit(&self, lu: LuIndex) -> &LogicalUnit {
        &self.units[usize::from(lu.0)].1
    }

    /// The longest data for or from the medium of any logical unit, bytes.
    pub fn max_data_bytes(&self) -> u32 {
        self.units.iter().map(|(_, unit)| unit.max_data_bytes()).max().unwrap_or(0)
    }

    /// The logical unit that a LUN field names, if there is one.
    pub fn find(&self, lun: [u8; 8]) -> Option<LuIndex> {
        match LunAddress::decode(lun) {
            LunAddress::Unit(number) => self.index_of(number),
            LunAddress::ReportLuns | LunAddress::Absent => None,
        }
    }

    /// How many logical units there are.
    pub(super) fn unit_count(&self) -> usize {
        self.units.len()
    }

    fn index_of(&self, number: u16) -> Option<LuIndex> {
        let at = self.units.iter().position(|(unit, _)| *unit == number)?;
        Some(LuIndex(at as u16))
    }

    /// Executes a command, or says what it needs. `cdb` is the CDB as it came (16 bytes, or longer); `data_in` is
    /// emptied first.
    pub fn execute(&self, nexus: &mut Nexus, lun: [u8; 8], cdb: &[u8], data_in: &mut Vec<u8>) -> Outcome {
        data_in.clear();
        let result = match LunAddress::decode(lun) {
            LunAddress::Unit(number) => match self.index_of(number) {
                Some(lu) => self.execute_at_unit(nexus, lu, cdb, data_in),
                None => self.execute_absent(cdb, data_in),
            },
            LunAddress::ReportLuns => self.execute_well_known(cdb, data_in),
            LunAddress::Absent => self.execute_absent(cdb, data_in),
        };
        result.unwrap_or_else(Outcome::Check)
    }

    /// Goes on with a command that answered [`Outcome::NeedData`], or [`Outcome::ChangeUnit`] and must be judged again.
    /// `data` is the parameter list as far as it came.
    pub fn execute_with_data(
        &self,
        nexus: &Nexus,
        lun: [u8; 8],
        cdb: &[u8],
        data: &[u8],
        data_in: &mut Vec<u8>,
    ) -> Outcome {
        data_in.clear();
        let Some(lu) = self.find(lun) else {
            return Outcome::Check(SenseData::LOGICAL_UNIT_NOT_SUPPORTED);
        };
        let unit = self.logical_unit(lu);
        let result = cdb::decode(cdb).and_then(|command| match command {
            // It may have come before a reservation did.
            _ if nexus.standing.stops(&command) => Ok(Outcome::Status(Status::ReservationConflict)),
            Command::Unmap { .. } => unit.unmap(lu, data).map(|outcome| write_through(nexus, outcome)),
            _ => self.change(nexus, unit, &command, data, data_in),
        });
        result.unwrap_or_else(Outcome::Check)
    }

    /// A command that changes the memory, with its parameter list.
    fn change(
        &self,
        nexus: &Nexus,
        unit: &LogicalUnit,
        command: &Command,
        data: &[u8],
        data_in: &mut Vec<u8>,
    ) -> Result<Outcome, SenseData> {
        let memory = &**nexus.memory();
        let mut next = UnitMemory { author: Some(nexus.id().clone()), ..memory.clone() };
        let changed = match *command {
            Command::ModeSelect { form, save_pages, parameter_bytes, .. } => {
                if parameter_bytes > 0 {
                    let data = &data[..data.len().min(parameter_bytes as usize)];
                    next.current = mode::select(unit, next.current, form, data)?;
                }
                if save_pages {
                    next.saved = next.current;
                }
                Ok((next.current, next.saved) != (memory.current, memory.saved))
            }
            Command::PersistentReserveOut(_) if memory.reserved.is_some() => Err(Refusal::Conflict),
            Command::PersistentReserveOut(out) => {
                let ports =
                    Ports { own: self.port.relative_id, peer: self.port.peer.map(|peer| peer.relative_id) };
                let changed = out.apply(&mut next.reservations, nexus.id(), ports, data);
                if out.action == OutAction::PreemptAndAbort && changed == Ok(true) {
                    next.resets.preempted = next.resets.preempted.wrapping_add(1);
                }
                changed
            }
            Command::Reserve => {
                let changed = legacy::reserve(&memory.reservations, memory.reserved.as_ref(), nexus.id());
                next.reserved = next.author.clone();
                changed
            }
            Command::Release => {
                next.reserved = None;
                legacy::release(&memory.reservations, memory.reserved.as_ref(), nexus.id())
            }
            _ => Err(Refusal::Check(SenseData::INTERNAL_TARGET_FAILURE)),
        };
        match changed {
            Ok(false) => Ok(Outcome::Done),
            Ok(true) => {
                let more = next.reservations.registrations.len() > memory.reservations.registrations.len();
                let fits = next.encode(data_in).is_ok() && !(more && data_in.len() > FULL_BYTES);
                if fits {
                    return Ok(Outcome::ChangeUnit);
                }
                data_in.clear();
                Err(INSUFFICIENT_REGISTRATION_RESOURCES)
            }
            Err(Refusal::Conflict) => Ok(Outcome::Status(Status::ReservationConflict)),
            Err(Refusal::Check(sense)) => Err(sense),
        }
    }

    fn execute_at_unit(
        &self,
        nexus: &mut Nexus,
        lu: LuIndex,
        cdb: &[u8],
        data_in: &mut Vec<u8>,
    ) -> Result<Outcome, SenseData> {
        let unit = self.logical_unit(lu);
        let pending = &mut nexus.attentions[usize::from(lu.0)];
        if nexus.standing != Standing::Free {
            // RESERVATION CONFLICT comes after a reset and before everything else (SAM-5 §5.3.3).
            if let Some(attention) = (!is_always_allowed(cdb)).then(|| pending.take_reset()).flatten() {
                return Err(attention.sense());
            }
            if cdb::decode_for(unit, cdb).is_ok_and(|command| nexus.standing.stops(&command)) {
                return Ok(Outcome::Status(Status::ReservationConflict));
            }
        }
        if !pending.is_empty() && !is_always_allowed(cdb) {
            if let Some(attention) = pending.take() {
                return Err(attention.sense());
            }
        }
        let command = cdb::decode_for(unit, cdb)?;
        if unit.read_only && command.changes_medium() {
            return Err(SenseData::WRITE_PROTECTED);
        }
        if nexus.memory().current.write_protect && command.changes_medium() {
            return Err(SenseData::SOFTWARE_WRITE_PROTECTED);
        }
        if let Some(outcome) = begin(unit, lu, &command) {
            return outcome.map(|outcome| write_through(nexus, outcome));
        }
        match command {
            // MODE SELECT without a list, which saves.
            Command::Reserve | Command::Release | Command::ModeSelect { .. } => {
                self.change(nexus, unit, &command, &[], data_in)
            }
            Command::PersistentReserveIn { action, allocation } => {
                if nexus.memory().reserved.is_some() {
                    return Ok(Outcome::Status(Status::ReservationConflict));
                }
                report::report(&nexus.memory().reservations, action, allocation, data_in);
                Ok(Outcome::Done)
            }
            _ => self.inform(nexus, lu, command, data_in).map(|()| Outcome::Done),
        }
    }

    /// Commands that are answered from what is known.
    fn inform(
        &self,
        nexus: &mut Nexus,
        lu: LuIndex,
        command: Command,
        data_in: &mut Vec<u8>,
    ) -> Result<(), SenseData> {
        let unit = self.logical_unit(lu);
        let pending = &mut nexus.attentions[usize::from(lu.0)];
        match command {
            Command::GetLbaStatus { lba, allocation } => unit.get_lba_status(lba, allocation, data_in)?,
            // The medium cannot be removed anyway.
            Command::TestUnitReady | Command::PreventAllowMediumRemoval { .. } => {}
            Command::ReadDefectData { form, wanted, allocation } => {
                unit.read_defect_data(form, wanted, allocation, data_in);
            }
            Command::LogSense { save, page, subpage, from, allocation } => {
                log::sense(unit, save, page, subpage, from, allocation, data_in)?;
            }
            Command::ReportTargetPortGroups { format, allocation } => {
                alua::report(&self.port, nexus.leader, format, allocation, data_in)?;
            }
            Command::ReportSupportedTaskManagementFunctions { extended, allocation } => {
                supported::report_functions(extended, allocation, data_in);
            }
            Command::RequestSense { descriptor_format, allocation } => {
                let sense = pending.take().map_or(SenseData::NO_SENSE, UnitAttention::sense);
                report_sense(&sense, descriptor_format, allocation, data_in);
            }
            Command::Inquiry { page, allocation } => {
                inquiry::inquiry(Device::Unit(unit), &self.port, page, allocation, data_in)?;
            }
            Command::ModeSense(request) => mode::sense(unit, nexus.memory(), &request, data_in)?,
            Command::ReadCapacity10 => unit.read_capacity_10(data_in),
            Command::ReadCapacity16 { allocation } => unit.read_capacity_16(allocation, data_in),
            Command::ReportLuns { select, allocation } => {
                pending.clear(UnitAttention::ReportedLunsChanged);
                self.report_luns(select, allocation, data_in)?;
            }
            Command::ReportSupportedOperationCodes {
                timeouts,
                option,
                opcode,
                service_action,
                allocation,
            } => supported::report(unit, timeouts, option, opcode, service_action, allocation, data_in)?,
            _ => unreachable!("begun before"),
        }
        Ok(())
    }

    /// No logical unit there: INQUIRY says so, REQUEST SENSE reports it, REPORT LUNS works anywhere, and everything
    /// else is refused (SPC-4 §6.6.1, §6.33, §6.39).
    fn execute_absent(&self, cdb: &[u8], data_in: &mut Vec<u8>) -> Result<Outcome, SenseData> {
        match cdb::decode(cdb) {
            Ok(Command::Inquiry { page, allocation }) => {
                inquiry::inquiry(Device::Absent, &self.port, page, allocation, data_in)?;
            }
            Ok(Command::ReportLuns { select, allocation }) => {
                self.report_luns(select, allocation, data_in)?;
            }
            Ok(Command::RequestSense { descriptor_format, allocation }) => {
                report_sense(&SenseData::LOGICAL_UNIT_NOT_SUPPORTED, descriptor_format, allocation, data_in);
            }
            Err(sense) if is_always_allowed(cdb) => return Err(sense),
            _ => return Err(SenseData::LOGICAL_UNIT_NOT_SUPPORTED),
        }
        Ok(Outcome::Done)
    }

    /// The REPORT LUNS well-known logical unit (SPC-4 §8.2). It has no unit attentions of its own.
    fn execute_well_known(&self, cdb: &[u8], data_in: &mut Vec<u8>) -> Result<Outcome, SenseData> {
        match cdb::decode(cdb)? {
            Command::TestUnitReady => {}
            Command::Inquiry { page, allocation } => {
                inquiry::inquiry(Device::ReportLuns, &self.port, page, allocation, data_in)?;
            }
            Command::ReportLuns { select, allocation } => self.report_luns(select, allocation, data_in)?,
            Command::RequestSense { descriptor_format, allocation } => {
                report_sense(&SenseData::NO_SENSE, descriptor_format, allocation, data_in);
            }
            _ => return Err(SenseData::INVALID_OPERATION_CODE),
        }
        Ok(Outcome::Done)
    }

    /// REPORT LUNS (SPC-4 §6.33). SELECT REPORT 00h: plain logical units, 01h: well-known ones, 02h: both.
    fn report_luns(&self, select: u8, allocation: u32, data_in: &mut Vec<u8>) -> Result<(), SenseData> {
        if select > 0x02 {
            return Err(SenseData::invalid_cdb_field(2));
        }
        if allocation < 16 {
            return Err(SenseData::invalid_cdb_field(6));
        }
        data_in.put_zeros(8);
        if select != 0x00 {
            data_in.extend_from_slice(&REPORT_LUNS_WLUN);
        }
        if select != 0x01 {
            for (number, _) in &self.units {
                data_in.extend_from_slice(&LunAddress::encode_unit(*number));
            }
        }
        set_u32_length(data_in, 0, 8);
        truncate(data_in, allocation);
        Ok(())
    }
}

/// Commands that touch the medium or take data: what they need. `None`: another command.
fn begin(unit: &LogicalUnit, lu: LuIndex, command: &Command) -> Option<Result<Outcome, SenseData>> {
    Some(match *command {
        Command::PreFetch { lba, blocks } => unit.pre_fetch(lba, blocks),
        Command::SendDiagnostic { self_test_code, parameter_bytes, .. } => {
            unit.send_diagnostic(self_test_code, parameter_bytes)
        }
        Command::Verify { access, check, write } => unit.verify(lu, &access, check, write),
        Command::CompareAndWrite(access) => unit.compare_and_write(lu, &access),
        Command::OrWrite(access) => {
            let range = unit.checked_range(&access);
            range.and_then(|range| unit.act(lu, range, access.fua, ActionKind::Or))
        }
        Command::WriteAtomic { access, boundary } => unit.write_atomic(lu, &access, boundary),
        Command::WriteSame { access, anchor, unmap, no_data } => {
            unit.write_same(lu, &access, anchor, unmap, no_data)
        }
        Command::Unmap { anchor, parameter_bytes } => unit.begin_unmap(anchor, parameter_bytes),
        Command::Read(access) => unit.read(lu, &access),
        Command::Write(access) => unit.write(lu, &access),
        Command::SynchronizeCache { lba, blocks } => unit.synchronize_cache(lu, lba, blocks),
        Command::StartStopUnit { start, load_eject, no_flush, power_condition } => {
            unit.start_stop_unit(lu, start, load_eject, no_flush, power_condition)
        }
        Command::ModeSelect { save_pages: true, parameter_bytes: 0, .. } => return None,
        Command::ModeSelect { page_format, parameter_bytes, .. } => {
            mode::begin_select(page_format, parameter_bytes)
        }
        Command::PersistentReserveOut(out) => out.begin().map(|bytes| Outcome::NeedData { bytes }),
        _ => return None,
    })
}

/// With WCE cleared every write is one with FUA.
fn write_through(nexus: &Nexus, outcome: Outcome) -> Outcome {
    if !nexus.memory().current.write_through {
        return outcome;
    }
    match outcome {
        Outcome::Write { lu, range, .. } => Outcome::Write { lu, range, fua: true },
        Outcome::Act(action) => Outcome::Act(Action { fua: true, ..action }),
        Outcome::Unmap { lu, descriptors, .. } => Outcome::Unmap { lu, descriptors, fua: true },
        other => other,
    }
}

/// INQUIRY, REPORT LUNS and REQUEST SENSE run on any LUN, present or absent, and in spite of a pending unit attention
/// (SAM-5 §5.14.1).
fn is_always_allowed(cdb: &[u8]) -> bool {
    matches!(cdb.first(), Some(0x03 | 0x12 | 0xA0))
}

/// REQUEST SENSE data (SPC-4 §6.39).
fn report_sense(sense: &SenseData, descriptor_format: bool, allocation: u32, data_in: &mut Vec<u8>) {
    let format = if descriptor_format { SenseFormat::Descriptor } else { SenseFormat::Fixed };
    let mut bytes = [0; SENSE_BYTES_MAX];
    let len = sense.encode(format, &mut bytes);
    data_in.extend_from_slice(&bytes[..len]);
    truncate(data_in, allocation);
}

impl fmt::Display for TargetError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Identity(error) => error.fmt(f),
            Self::RelativePort => f.write_str("relative target port identifier 0 is reserved"),
            Self::TooManyLogicalUnits => write!(f, "more than {LOGICAL_UNITS_MAX} logical units"),
            Self::LunTooLarge(lun) => write!(f, "logical unit number {lun} is above {LUN_MAX}"),
            Self::DuplicateLun(lun) => write!(f, "logical unit number {lun} is used twice"),
        }
    }
}

impl core::error::Error for TargetError {}

impl From<IdentityError> for TargetError {
    fn from(error: IdentityError) -> Self {
        Self::Identity(error)
    }
}
