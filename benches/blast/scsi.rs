//! Command descriptor blocks that this initiator sends, and sense data that it receives (SPC-5, SBC-4).

use std::fmt;

pub type Cdb = [u8; 16];

/// SCSI status codes (SAM-5 §5.3).
pub const GOOD: u8 = 0x00;
pub const CHECK_CONDITION: u8 = 0x02;
pub const BUSY: u8 = 0x08;
pub const TASK_SET_FULL: u8 = 0x28;

/// Sense keys (SPC-5 §4.4.8).
pub const NOT_READY: u8 = 0x2;
pub const ILLEGAL_REQUEST: u8 = 0x5;
pub const UNIT_ATTENTION: u8 = 0x6;

/// A CDB that begins with `bytes`; the rest is zero.
pub fn cdb(bytes: &[u8]) -> Cdb {
    let mut cdb = [0; 16];
    cdb[..bytes.len()].copy_from_slice(bytes);
    cdb
}

pub fn test_unit_ready() -> Cdb {
    cdb(&[0x00])
}

/// INQUIRY; a vital product data page when `page` is given.
pub fn inquiry(page: Option<u8>, allocation: u16) -> Cdb {
    let [high, low] = allocation.to_be_bytes();
    cdb(&[0x12, u8::from(page.is_some()), page.unwrap_or(0), high, low, 0])
}

pub fn report_luns(allocation: u32) -> Cdb {
    let mut cdb = cdb(&[0xa0]);
    cdb[6..10].copy_from_slice(&allocation.to_be_bytes());
    cdb
}

pub fn read_capacity_10() -> Cdb {
    cdb(&[0x25])
}

/// READ CAPACITY(16): SERVICE ACTION IN(16), service action 10h.
pub fn read_capacity_16(allocation: u32) -> Cdb {
    let mut cdb = cdb(&[0x9e, 0x10]);
    cdb[10..14].copy_from_slice(&allocation.to_be_bytes());
    cdb
}

/// MODE SENSE(6) of one page, current values.
pub fn mode_sense_6(page: u8, allocation: u8) -> Cdb {
    cdb(&[0x1a, 0, page, 0, allocation, 0])
}

pub fn read_16(lba: u64, blocks: u32) -> Cdb {
    media_16(0x88, lba, blocks, false)
}

pub fn write_16(lba: u64, blocks: u32, fua: bool) -> Cdb {
    media_16(0x8a, lba, blocks, fua)
}

fn media_16(opcode: u8, lba: u64, blocks: u32, fua: bool) -> Cdb {
    let mut cdb = cdb(&[opcode, if fua { 0x08 } else { 0 }]);
    cdb[2..10].copy_from_slice(&lba.to_be_bytes());
    cdb[10..14].copy_from_slice(&blocks.to_be_bytes());
    cdb
}

/// READ(10) or WRITE(10), whichever `opcode` says.
pub fn media_10(opcode: u8, lba: u32, blocks: u16) -> Cdb {
    let mut cdb = cdb(&[opcode, 0]);
    cdb[2..6].copy_from_slice(&lba.to_be_bytes());
    cdb[7..9].copy_from_slice(&blocks.to_be_bytes());
    cdb
}

/// SYNCHRONIZE CACHE(10) of the whole medium.
pub fn synchronize_cache() -> Cdb {
    cdb(&[0x35])
}

/// Sense key, additional sense code and its qualifier.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Sense {
    pub key: u8,
    pub asc: u8,
    pub ascq: u8,
}

impl Sense {
    /// Reads fixed (70h, 71h) or descriptor (72h, 73h) sense data; `None` when it is neither or too short.
    pub fn parse(bytes: &[u8]) -> Option<Sense> {
        match bytes.first()? & 0x7f {
            0x70 | 0x71 => {
                Some(Sense { key: bytes.get(2)? & 0x0f, asc: *bytes.get(12)?, ascq: *bytes.get(13)? })
            }
            0x72 | 0x73 => {
                Some(Sense { key: bytes.get(1)? & 0x0f, asc: *bytes.get(2)?, ascq: *bytes.get(3)? })
            }
            _ => None,
        }
    }
}

impl fmt::Display for Sense {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "sense {:x}/{:02x}/{:02x}", self.key, self.asc, self.ascq)
    }
}

/// What READ CAPACITY(16) says.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Capacity {
    pub blocks: u64,
    pub block_bytes: u32,
}

impl Capacity {
    /// Reads the first 12 bytes of READ CAPACITY(16) parameter data.
    pub fn parse(data: &[u8]) -> Option<Capacity> {
        let last = u64::from_be_bytes(data.get(..8)?.try_into().ok()?);
        let block_bytes = u32::from_be_bytes(data.get(8..12)?.try_into().ok()?);
        Some(Capacity { blocks: last.checked_add(1)?, block_bytes })
    }

    pub fn bytes(&self) -> u64 {
        self.blocks * u64::from(self.block_bytes)
    }
}
