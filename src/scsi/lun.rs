//! The eight-byte LUN field (SAM-5 §4.7): which logical unit a command is for.
//!
//! Known: peripheral device addressing (bus 0), flat space addressing, and the REPORT LUNS well-known logical unit.
//! Every other form names a logical unit that does not exist here; it is not an error of the protocol.

/// Largest number that flat space addressing can carry.
pub const LUN_MAX: u16 = 0x3FFF;

/// The REPORT LUNS well-known logical unit: extended addressing, one-byte W-LUN 01h.
pub const REPORT_LUNS_WLUN: [u8; 8] = [0xC1, 0x01, 0, 0, 0, 0, 0, 0];

/// A decoded LUN field.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum LunAddress {
    /// A plain logical unit, `0..=`[`LUN_MAX`].
    Unit(u16),
    /// The REPORT LUNS well-known logical unit (SPC-4 §8.2).
    ReportLuns,
    /// A form, bus or level that no logical unit here has.
    Absent,
}

impl LunAddress {
    pub fn decode(field: [u8; 8]) -> Self {
        if field == REPORT_LUNS_WLUN {
            return Self::ReportLuns;
        }
        let [first, second, rest @ ..] = field;
        if rest != [0; 6] {
            return Self::Absent;
        }
        match first >> 6 {
            0b00 if first == 0 => Self::Unit(u16::from(second)),
            0b01 => Self::Unit(u16::from_be_bytes([first & 0x3F, second])),
            _ => Self::Absent,
        }
    }

    /// The field that REPORT LUNS lists: peripheral addressing below 256, flat space above.
    pub fn encode_unit(number: u16) -> [u8; 8] {
        assert!(number <= LUN_MAX, "the LUN map refuses larger numbers");
        let form = if number < 256 { 0 } else { 0x4000 };
        let [first, second] = (form | number).to_be_bytes();
        [first, second, 0, 0, 0, 0, 0, 0]
    }
}
