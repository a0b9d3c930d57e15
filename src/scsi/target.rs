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

use super::alua::{self, Leader, PeerPort};
use super::attention::{Attentions, UnitAttention};
use super::cdb::{self, Command};
use super::data_in::{DataIn, set_u32_length, truncate};
use super::identity::{IdentityError, TARGET_NAME_MAX};
use super::inquiry::{self, Device};
use super::logical_unit::LogicalUnit;
use super::lun::{LUN_MAX, LunAddress, REPORT_LUNS_WLUN};
use super::media::{Action, ActionKind};
use super::sense::{SENSE_BYTES_MAX, SenseData, SenseFormat};
use super::status::Status;
use super::{log, mode, supported};
use crate::units::BlockRange;

/// Most logical units of one target.
pub const LOGICAL_UNITS_MAX: usize = 256;

/// Place of a logical unit in its target's LUN map.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct LuIndex(pub u16);

/// What becomes of a command.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Outcome {
    /// GOOD. Bytes for the initiator, if any, are in `data_in`, cut to the allocation length.
    Done,
    /// CHECK CONDITION with autosense. Encode it in the format that [`Target::sense_format`] names.
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
    Unmap { lu: LuIndex, descriptors: u16 },
    /// Another status, without sense data.
    Status(Status),
    /// The command has a parameter list of this many bytes, at least one. Fetch it, then call
    /// [`Target::execute_with_data`]. When the initiator announced fewer bytes, pass those that came.
    NeedData { bytes: u32 },
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

/// What the target remembers of one I_T nexus: one per iSCSI session.
#[derive(Clone, Debug)]
pub struct Nexus {
    /// By [`LuIndex`].
    attentions: Vec<Attentions>,
    leader: Leader,
}

impl Nexus {
    /// A new nexus. Its first command to each logical unit hears of a reset (SAM-5 §5.14.2): whatever the initiator
    /// knew of the logical unit from before must be asked for again.
    pub fn new(target: &Target) -> Self {
        let mut attentions = Vec::new();
        attentions.resize(target.units.len(), Attentions::default());
        let mut nexus = Self { attentions, leader: Leader::default() };
        nexus.post_all(UnitAttention::PowerOnOrReset);
        nexus
    }

    /// Who leads from now on. The initiator hears of a change once (SPC-4 §5.15.2.7).
    pub fn set_leader(&mut self, leader: Leader) {
        let told = core::mem::replace(&mut self.leader, leader);
        if told != leader && told != Leader::Between {
            self.post_all(UnitAttention::AccessStateChanged);
        }
    }

    /// Makes a unit attention pending at one logical unit.
    pub fn post(&mut self, lu: LuIndex, attention: UnitAttention) {
        self.attentions[usize::from(lu.0)].post(attention);
    }

    /// Makes a unit attention pending at every logical unit.
    pub fn post_all(&mut self, attention: UnitAttention) {
        for pending in &mut self.attentions {
            pending.post(attention);
        }
    }
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

    /// How sense data for this LUN is encoded.
    pub fn sense_format(&self, lun: [u8; 8]) -> SenseFormat {
        self.find(lun).map_or(SenseFormat::Fixed, |lu| self.logical_unit(lu).sense_format())
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

    /// Finishes a command that answered [`Outcome::NeedData`]. `data` is the parameter list as far as it came.
    pub fn execute_with_data(&self, lun: [u8; 8], cdb: &[u8], data: &[u8], data_in: &mut Vec<u8>) -> Outcome {
        data_in.clear();
        let Some(lu) = self.find(lun) else {
            return Outcome::Check(SenseData::LOGICAL_UNIT_NOT_SUPPORTED);
        };
        let unit = self.logical_unit(lu);
        let result = cdb::decode(cdb).and_then(|command| match command {
            Command::ModeSelect { form, parameter_bytes, .. } => {
                let data = &data[..data.len().min(parameter_bytes as usize)];
                mode::select(unit, form, data).map(|()| Outcome::Done)
            }
            Command::Unmap { .. } => unit.unmap(lu, data),
            _ => Err(SenseData::INTERNAL_TARGET_FAILURE),
        });
        result.unwrap_or_else(Outcome::Check)
    }

    fn execute_at_unit(
        &self,
        nexus: &mut Nexus,
        lu: LuIndex,
        cdb: &[u8],
        data_in: &mut Vec<u8>,
    ) -> Result<Outcome, SenseData> {
        let pending = &mut nexus.attentions[usize::from(lu.0)];
        if !pending.is_empty() && !is_always_allowed(cdb) {
            if let Some(attention) = pending.take() {
                return Err(attention.sense());
            }
        }
        let unit = self.logical_unit(lu);
        let command = cdb::decode_for(unit, cdb)?;
        if unit.read_only && command.changes_medium() {
            return Err(SenseData::WRITE_PROTECTED);
        }
        if let Some(outcome) = begin(unit, lu, &command) {
            return outcome;
        }
        match command {
            Command::GetLbaStatus { lba, allocation } => unit.get_lba_status(lba, allocation, data_in)?,
            // The medium cannot be removed anyway.
            Command::TestUnitReady | Command::PreventAllowMediumRemoval => {}
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
            Command::ModeSense(request) => mode::sense(unit, &request, data_in)?,
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
            _ => unreachable!("begun above"),
        }
        Ok(Outcome::Done)
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
        Command::ModeSelect { page_format, save_pages, parameter_bytes, .. } => {
            mode::begin_select(page_format, save_pages, parameter_bytes)
        }
        _ => return None,
    })
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
