//! Building parameter data for the initiator: big-endian fields on a reused `Vec<u8>`.
//!
//! Data is built in full and truncated last, so that length fields inside it keep their full value (SPC-4 §4.3.5.6).

use alloc::vec::Vec;

/// Appends fields.
pub(super) trait DataIn {
    fn put_u16(&mut self, value: u16);
    fn put_u32(&mut self, value: u32);
    fn put_u64(&mut self, value: u64);
    fn put_zeros(&mut self, count: usize);
}

impl DataIn for Vec<u8> {
    fn put_u16(&mut self, value: u16) {
        self.extend_from_slice(&value.to_be_bytes());
    }

    fn put_u32(&mut self, value: u32) {
        self.extend_from_slice(&value.to_be_bytes());
    }

    fn put_u64(&mut self, value: u64) {
        self.extend_from_slice(&value.to_be_bytes());
    }

    fn put_zeros(&mut self, count: usize) {
        self.resize(self.len() + count, 0);
    }
}

/// Cuts parameter data to the allocation length. Zero is a length like any other.
pub(super) fn truncate(data_in: &mut Vec<u8>, allocation: u32) {
    data_in.truncate(allocation as usize);
}

/// Writes a 16-bit length at `at` that counts the bytes behind the field.
pub(super) fn set_u16_length(data_in: &mut [u8], at: usize) {
    let length = u16::try_from(data_in.len() - at - 2).expect("parameter data is shorter than 64 KiB");
    data_in[at..at + 2].copy_from_slice(&length.to_be_bytes());
}

/// Writes a 32-bit length at `at` that counts the bytes behind a header of `header` bytes.
pub(super) fn set_u32_length(data_in: &mut [u8], at: usize, header: usize) {
    let length = u32::try_from(data_in.len() - header).expect("parameter data is shorter than 64 KiB");
    data_in[at..at + 4].copy_from_slice(&length.to_be_bytes());
}
