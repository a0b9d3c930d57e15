//! Sense data (SPC-4 §4.5): why a command ended with CHECK CONDITION.
//!
//! [`SenseData`] is a small value; it becomes bytes only when a response is built, in the format that D_SENSE of
//! the Control mode page (or the DESC bit of REQUEST SENSE) selects.
//!
//! Absent on purpose: deferred errors (71h, 73h). An error is always reported by the command that met it.

use crate::units::Lba;

/// Longest encoding: descriptor format with an information and a sense-key specific descriptor.
pub const SENSE_BYTES_MAX: usize = 28;

/// Fixed-format sense data is always this long.
pub const FIXED_SENSE_BYTES: usize = 18;

/// The category of an error (SPC-4 table 48).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub enum SenseKey {
    NoSense = 0x0,
    RecoveredError = 0x1,
    NotReady = 0x2,
    MediumError = 0x3,
    HardwareError = 0x4,
    IllegalRequest = 0x5,
    UnitAttention = 0x6,
    DataProtect = 0x7,
    AbortedCommand = 0xB,
    Miscompare = 0xE,
}

/// Additional sense code and its qualifier (SPC-4 annex E).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct AdditionalSense {
    pub code: u8,
    pub qualifier: u8,
}

macro_rules! additional_sense {
    ($($name:ident $code:literal $qualifier:literal),* $(,)?) => {
        #[allow(missing_docs, reason = "the names are those of SPC-4 annex E")]
        impl AdditionalSense {
            $(pub const $name: Self = Self { code: $code, qualifier: $qualifier };)*
        }
    };
}

additional_sense! {
    NO_ADDITIONAL_SENSE_INFORMATION 0x00 0x00,
    LOGICAL_UNIT_NOT_ACCESSIBLE_ASYMMETRIC_ACCESS_STATE_TRANSITION 0x04 0x0A,
    WRITE_ERROR 0x0C 0x00,
    UNEXPECTED_UNSOLICITED_DATA 0x0C 0x0C,
    NOT_ENOUGH_UNSOLICITED_DATA 0x0C 0x0D,
    UNRECOVERED_READ_ERROR 0x11 0x00,
    PARAMETER_LIST_LENGTH_ERROR 0x1A 0x00,
    INVALID_COMMAND_OPERATION_CODE 0x20 0x00,
    LOGICAL_BLOCK_ADDRESS_OUT_OF_RANGE 0x21 0x00,
    INVALID_FIELD_IN_CDB 0x24 0x00,
    LOGICAL_UNIT_NOT_SUPPORTED 0x25 0x00,
    INVALID_FIELD_IN_PARAMETER_LIST 0x26 0x00,
    INVALID_RELEASE_OF_PERSISTENT_RESERVATION 0x26 0x04,
    WRITE_PROTECTED 0x27 0x00,
    LOGICAL_UNIT_SOFTWARE_WRITE_PROTECTED 0x27 0x02,
    POWER_ON_RESET_OR_BUS_DEVICE_RESET_OCCURRED 0x29 0x00,
    SCSI_BUS_RESET_OCCURRED 0x29 0x02,
    BUS_DEVICE_RESET_FUNCTION_OCCURRED 0x29 0x03,
    I_T_NEXUS_LOSS_OCCURRED 0x29 0x07,
    MODE_PARAMETERS_CHANGED 0x2A 0x01,
    RESERVATIONS_PREEMPTED 0x2A 0x03,
    RESERVATIONS_RELEASED 0x2A 0x04,
    REGISTRATIONS_PREEMPTED 0x2A 0x05,
    ASYMMETRIC_ACCESS_STATE_CHANGED 0x2A 0x06,
    CAPACITY_DATA_HAS_CHANGED 0x2A 0x09,
    MISCOMPARE_DURING_VERIFY_OPERATION 0x1D 0x00,
    COMMANDS_CLEARED_BY_ANOTHER_INITIATOR 0x2F 0x00,
    REPORTED_LUNS_DATA_HAS_CHANGED 0x3F 0x0E,
    INTERNAL_TARGET_FAILURE 0x44 0x00,
    PROTOCOL_SERVICE_CRC_ERROR 0x47 0x05,
    INSUFFICIENT_REGISTRATION_RESOURCES 0x55 0x04,
}

/// Where in the CDB or in the parameter list the error is (SPC-4 §4.5.2.4.2).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct FieldPointer {
    /// In the CDB (C/D = 1) or in the parameter list.
    pub in_cdb: bool,
    /// Byte number from 0; the first byte of a longer field.
    pub byte: u16,
    /// The left-most bit of the field in error, 7..=0.
    pub bit: Option<u8>,
}

/// Which bytes [`SenseData::encode`] writes.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum SenseFormat {
    /// Response code 70h, 18 bytes. INFORMATION holds 32 bits.
    #[default]
    Fixed,
    /// Response code 72h. INFORMATION holds 64 bits.
    Descriptor,
}

/// Why a command did not end with GOOD.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct SenseData {
    pub key: SenseKey,
    pub additional: AdditionalSense,
    /// The INFORMATION field: for errors of the medium the address of the first bad block, for a miscompare the
    /// byte offset of the first difference.
    pub information: Option<u64>,
    pub field: Option<FieldPointer>,
}

impl SenseData {
    /// Nothing to report: what REQUEST SENSE returns when no condition is pending.
    pub const NO_SENSE: Self = Self::new(SenseKey::NoSense, AdditionalSense::NO_ADDITIONAL_SENSE_INFORMATION);
    /// The addressed logical unit does not exist (SPC-4 §6.6.1, SAM-5 §4.7).
    pub const LOGICAL_UNIT_NOT_SUPPORTED: Self =
        Self::new(SenseKey::IllegalRequest, AdditionalSense::LOGICAL_UNIT_NOT_SUPPORTED);
    /// The device server does not know this operation code.
    pub const INVALID_OPERATION_CODE: Self =
        Self::new(SenseKey::IllegalRequest, AdditionalSense::INVALID_COMMAND_OPERATION_CODE);
    /// A parameter list that ends inside a header, descriptor or page.
    pub const PARAMETER_LIST_LENGTH_ERROR: Self =
        Self::new(SenseKey::IllegalRequest, AdditionalSense::PARAMETER_LIST_LENGTH_ERROR);
    /// It is being decided which of the two nodes serves (SPC-4 §5.15.2.5).
    pub const ACCESS_STATE_TRANSITION: Self = Self::new(
        SenseKey::NotReady,
        AdditionalSense::LOGICAL_UNIT_NOT_ACCESSIBLE_ASYMMETRIC_ACCESS_STATE_TRANSITION,
    );
    /// A data digest did not match (RFC 7143 §11.4.7.2).
    pub const PROTOCOL_SERVICE_CRC_ERROR: Self =
        Self::new(SenseKey::AbortedCommand, AdditionalSense::PROTOCOL_SERVICE_CRC_ERROR);
    /// Unsolicited data where none was allowed (RFC 7143 §11.4.7.2).
    pub const UNEXPECTED_UNSOLICITED_DATA: Self =
        Self::new(SenseKey::AbortedCommand, AdditionalSense::UNEXPECTED_UNSOLICITED_DATA);
    /// Less unsolicited data than promised (RFC 7143 §11.4.7.2).
    pub const NOT_ENOUGH_UNSOLICITED_DATA: Self =
        Self::new(SenseKey::AbortedCommand, AdditionalSense::NOT_ENOUGH_UNSOLICITED_DATA);
    /// The target failed for a reason of its own; the initiator may try again.
    pub const INTERNAL_TARGET_FAILURE: Self =
        Self::new(SenseKey::HardwareError, AdditionalSense::INTERNAL_TARGET_FAILURE);

    /// A command that changes the medium of a read-only disk (SBC-3 §4.13).
    pub const WRITE_PROTECTED: Self = Self::new(SenseKey::DataProtect, AdditionalSense::WRITE_PROTECTED);
    /// The same, where an initiator has set SWP of the Control mode page (SBC-3 §4.13).
    pub const SOFTWARE_WRITE_PROTECTED: Self =
        Self::new(SenseKey::DataProtect, AdditionalSense::LOGICAL_UNIT_SOFTWARE_WRITE_PROTECTED);

    pub const fn new(key: SenseKey, additional: AdditionalSense) -> Self {
        Self { key, additional, information: None, field: None }
    }

    /// 24/00 for one bit or for a field whose left-most bit is given.
    pub const fn invalid_cdb_bit(byte: u16, bit: u8) -> Self {
        let field = FieldPointer { in_cdb: true, byte, bit: Some(bit) };
        Self { field: Some(field), ..Self::invalid_cdb() }
    }

    /// 24/00 for a field of whole bytes that starts at `byte`.
    pub const fn invalid_cdb_field(byte: u16) -> Self {
        let field = FieldPointer { in_cdb: true, byte, bit: None };
        Self { field: Some(field), ..Self::invalid_cdb() }
    }

    const fn invalid_cdb() -> Self {
        Self::new(SenseKey::IllegalRequest, AdditionalSense::INVALID_FIELD_IN_CDB)
    }

    /// 26/00 for the field of a parameter list that starts at `byte`.
    pub const fn invalid_parameter(byte: u16) -> Self {
        let field = FieldPointer { in_cdb: false, byte, bit: None };
        let key = SenseKey::IllegalRequest;
        let additional = AdditionalSense::INVALID_FIELD_IN_PARAMETER_LIST;
        Self { field: Some(field), ..Self::new(key, additional) }
    }

    /// 21/00: the command reaches past the end. INFORMATION is the first block of the command that does not exist.
    pub const fn lba_out_of_range(first_bad: Lba) -> Self {
        let key = SenseKey::IllegalRequest;
        let additional = AdditionalSense::LOGICAL_BLOCK_ADDRESS_OUT_OF_RANGE;
        Self { information: Some(first_bad.0), ..Self::new(key, additional) }
    }

    /// 0E/1D: the data differs from the medium. INFORMATION is the offset of the first byte that does (SBC-3 §5.3).
    pub const fn miscompare(offset: u64) -> Self {
        let new = Self::new(SenseKey::Miscompare, AdditionalSense::MISCOMPARE_DURING_VERIFY_OPERATION);
        Self { information: Some(offset), ..new }
    }

    /// 03/11/00: no copy could be read. INFORMATION is the first unreadable block known (SBC-3 §4.18.2).
    pub const fn unrecovered_read_error(lba: Lba) -> Self {
        let new = Self::new(SenseKey::MediumError, AdditionalSense::UNRECOVERED_READ_ERROR);
        Self { information: Some(lba.0), ..new }
    }

    /// 03/0C/00: no copy could be written. INFORMATION is the first unwritten block known.
    pub const fn write_error(lba: Lba) -> Self {
        let new = Self::new(SenseKey::MediumError, AdditionalSense::WRITE_ERROR);
        Self { information: Some(lba.0), ..new }
    }

    /// Writes the sense data and returns its length.
    pub fn encode(&self, format: SenseFormat, out: &mut [u8; SENSE_BYTES_MAX]) -> usize {
        out.fill(0);
        match format {
            SenseFormat::Fixed => self.encode_fixed(out),
            SenseFormat::Descriptor => self.encode_descriptor(out),
        }
    }

    fn encode_fixed(&self, out: &mut [u8; SENSE_BYTES_MAX]) -> usize {
        out[0] = 0x70;
        out[2] = self.key as u8;
        // A 64-bit value that does not fit leaves VALID clear (SPC-4 §4.5.3).
        if let Some(information) = self.information.and_then(|value| u32::try_from(value).ok()) {
            out[0] |= 0x80;
            out[3..7].copy_from_slice(&information.to_be_bytes());
        }
        out[7] = (FIXED_SENSE_BYTES - 8) as u8;
        out[12] = self.additional.code;
        out[13] = self.additional.qualifier;
        if let Some(field) = self.field {
            out[15..18].copy_from_slice(&field.encode());
        }
        FIXED_SENSE_BYTES
    }

    fn encode_descriptor(&self, out: &mut [u8; SENSE_BYTES_MAX]) -> usize {
        out[..4].copy_from_slice(&[0x72, self.key as u8, self.additional.code, self.additional.qualifier]);
        let mut end = 8;
        if let Some(information) = self.information {
            // Information descriptor, VALID set (SPC-4 §4.5.2.2).
            out[end..end + 4].copy_from_slice(&[0x00, 0x0A, 0x80, 0x00]);
            out[end + 4..end + 12].copy_from_slice(&information.to_be_bytes());
            end += 12;
        }
        if let Some(field) = self.field {
            // Sense key specific descriptor (SPC-4 §4.5.2.4).
            out[end..end + 2].copy_from_slice(&[0x02, 0x06]);
            out[end + 4..end + 7].copy_from_slice(&field.encode());
            end += 8;
        }
        out[7] = (end - 8) as u8;
        end
    }
}

impl FieldPointer {
    fn encode(self) -> [u8; 3] {
        let mut first = 0x80; // SKSV
        if self.in_cdb {
            first |= 0x40;
        }
        if let Some(bit) = self.bit {
            first |= 0x08 | (bit & 0x07);
        }
        let [high, low] = self.byte.to_be_bytes();
        [first, high, low]
    }
}
