//! The 4 KiB page, unit of every metadata read and write, and fields at fixed offsets of one.

use crate::wire::{crc32c, crc32c_append};

/// Bytes of a metadata page. Everything in the metadata area starts at a multiple of it.
pub const PAGE_BYTES: usize = 4096;

/// One metadata page.
pub type Page = [u8; PAGE_BYTES];

/// What was found unreadable while a page was decoded: damaged sectors of an activity log page (0 to 8), or 1 for a
/// damaged bitmap page. The state already holds the conservative answer; this is for the report.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
#[must_use]
pub struct Damage(pub u8);

impl Damage {
    pub const NONE: Self = Self(0);

    pub fn is_none(self) -> bool {
        self == Self::NONE
    }
}

pub(super) fn put(bytes: &mut [u8], at: usize, field: &[u8]) {
    bytes[at..at + field.len()].copy_from_slice(field);
}

pub(super) fn get<const N: usize>(bytes: &[u8], at: usize) -> [u8; N] {
    bytes[at..at + N].try_into().expect("the slice has N bytes")
}

pub(super) fn u16_at(bytes: &[u8], at: usize) -> u16 {
    u16::from_le_bytes(get(bytes, at))
}

pub(super) fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(get(bytes, at))
}

pub(super) fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(get(bytes, at))
}

/// Offset of the CRC32C in every structure of this room.
pub(super) const AT_CRC: usize = 12;

/// CRC32C of everything but the four bytes at [`AT_CRC`].
pub(super) fn checksum(bytes: &[u8]) -> u32 {
    crc32c_append(crc32c(&bytes[..AT_CRC]), &bytes[AT_CRC + 4..])
}

pub(super) fn seal(bytes: &mut [u8]) {
    let crc = checksum(bytes);
    put(bytes, AT_CRC, &crc.to_le_bytes());
}

pub(super) fn is_sealed(bytes: &[u8]) -> bool {
    u32_at(bytes, AT_CRC) == checksum(bytes)
}
