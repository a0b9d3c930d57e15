//! Bytes on a wire or a disk: bounds-checked readers and writers, CRC32C, serial-number arithmetic, and the
//! contract by which a driver feeds a byte stream to a core.

mod cursor;
mod serial;
mod stream;

pub use cursor::{Reader, Short, Writer};
pub use serial::SerialNumber;
pub use stream::Demand;

/// CRC32C (Castagnoli), as iSCSI digests, the link and the metadata use it.
pub fn crc32c(bytes: &[u8]) -> u32 {
    ::crc32c::crc32c(bytes)
}

/// Continues a CRC32C over further bytes: `crc32c_append(crc32c(a), b) == crc32c(a ++ b)`.
pub fn crc32c_append(crc: u32, bytes: &[u8]) -> u32 {
    ::crc32c::crc32c_append(crc, bytes)
}
