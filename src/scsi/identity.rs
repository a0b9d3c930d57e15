//! Who the disk says it is. Comes from the pair's replicated metadata, the same bytes on both nodes, so that a
//! takeover shows the initiator the disk that it knew (S4).

use alloc::string::String;
use core::fmt;

/// Longest unit serial number, in bytes.
pub const SERIAL_MAX: usize = 64;
/// Longest iSCSI name (RFC 7143 §4.2.7.1), in bytes.
pub const TARGET_NAME_MAX: usize = 223;

/// The names of one logical unit.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct DeviceIdentity {
    /// T10 VENDOR IDENTIFICATION, printable ASCII, padded with spaces.
    pub vendor: [u8; 8],
    /// PRODUCT IDENTIFICATION, printable ASCII, padded with spaces.
    pub product: [u8; 16],
    /// PRODUCT REVISION LEVEL, printable ASCII, padded with spaces.
    pub revision: [u8; 4],
    /// Unit serial number, 1..=[`SERIAL_MAX`] bytes of printable ASCII. Its first eight characters should tell logical
    /// units apart: some initiators compare no more of the T10 designator.
    pub serial: String,
    /// NAA IEEE Registered Extended designator of the logical unit; the first four bits are 6h.
    pub naa: [u8; 16],
}

/// How VPD pages 80h and 83h write the serial number. An initiator that compares them must find again what it knew.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum SerialForm {
    /// The serial number alone; the T10 designator is the vendor and the serial number.
    #[default]
    Plain,
    /// As LIO does: a NUL behind it, and `product:serial` in the T10 designator.
    Lio,
}

/// An identity that no INQUIRY can carry.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum IdentityError {
    /// Vendor, product or revision holds a byte outside 20h..=7Eh.
    NotPrintable,
    /// The serial number is empty, longer than [`SERIAL_MAX`], or not printable.
    Serial,
    /// The designator's first four bits are not 6h.
    Naa,
    /// The target name is empty or longer than [`TARGET_NAME_MAX`].
    TargetName,
}

impl DeviceIdentity {
    /// Are all names within their fields?
    pub fn validate(&self) -> Result<(), IdentityError> {
        let printable = |bytes: &[u8]| bytes.iter().all(|byte| (0x20..=0x7E).contains(byte));
        if !printable(&self.vendor) || !printable(&self.product) || !printable(&self.revision) {
            return Err(IdentityError::NotPrintable);
        }
        let serial = self.serial.as_bytes();
        if serial.is_empty() || serial.len() > SERIAL_MAX || !printable(serial) {
            return Err(IdentityError::Serial);
        }
        if self.naa[0] >> 4 != 6 {
            return Err(IdentityError::Naa);
        }
        Ok(())
    }
}

impl fmt::Display for IdentityError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::NotPrintable => "vendor, product and revision must be printable ASCII",
            Self::Serial => "the serial number must be 1 to 64 printable ASCII characters",
            Self::Naa => "the NAA designator must be of type 6 (IEEE Registered Extended)",
            Self::TargetName => "the target name must be 1 to 223 bytes long",
        })
    }
}

impl core::error::Error for IdentityError {}
