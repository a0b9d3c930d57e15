//! iSCSI headers as bytes: what this initiator sends, and field access to what it receives (RFC 7143 §11).

/// A basic header segment.
pub type Header = [u8; 48];

/// The reserved task tag (RFC 7143 §11.19).
pub const NO_TAG: u32 = 0xffff_ffff;

/// Opcodes of the target (RFC 7143 §11.2.1.2).
pub const NOP_IN: u8 = 0x20;
pub const SCSI_RESPONSE: u8 = 0x21;
pub const LOGIN_RESPONSE: u8 = 0x23;
pub const TEXT_RESPONSE: u8 = 0x24;
pub const DATA_IN: u8 = 0x25;
pub const LOGOUT_RESPONSE: u8 = 0x26;
pub const TASK_RESPONSE: u8 = 0x22;
pub const R2T: u8 = 0x31;
pub const ASYNC_MESSAGE: u8 = 0x32;
pub const REJECT: u8 = 0x3f;

/// Final bit of byte 1, in every PDU that has one.
pub const FINAL: u8 = 0x80;
/// Data-In: this PDU carries the command's status.
pub const STATUS: u8 = 0x01;
/// Data-In and SCSI Response: residual overflow and underflow.
pub const OVERFLOW: u8 = 0x04;
pub const UNDERFLOW: u8 = 0x02;

/// Reads a big-endian 32-bit field that begins at byte `at`.
pub fn get32(header: &Header, at: usize) -> u32 {
    u32::from_be_bytes([header[at], header[at + 1], header[at + 2], header[at + 3]])
}

/// Writes a big-endian 32-bit field that begins at byte `at`.
pub fn put32(header: &mut Header, at: usize, value: u32) {
    header[at..at + 4].copy_from_slice(&value.to_be_bytes());
}

/// The opcode without the immediate bit.
pub fn opcode(header: &Header) -> u8 {
    header[0] & 0x3f
}

/// DataSegmentLength in bytes, without padding.
pub fn data_length(header: &Header) -> usize {
    usize::from(header[5]) << 16 | usize::from(header[6]) << 8 | usize::from(header[7])
}

/// Sets DataSegmentLength; `length` is below 2^24.
pub fn set_data_length(header: &mut Header, length: usize) {
    assert!(length < 1 << 24, "a data segment is shorter than 2^24 bytes");
    let [_, a, b, c] = (length as u32).to_be_bytes();
    header[5..8].copy_from_slice(&[a, b, c]);
}

/// Pad bytes that follow a data segment of `length` bytes.
pub fn padding(length: usize) -> usize {
    length.wrapping_neg() & 3
}

/// Initiator task tag.
pub fn task_tag(header: &Header) -> u32 {
    get32(header, 16)
}

/// The LUN field of a logical unit below 256 (SAM-5 §4.7.4, peripheral device addressing).
pub fn lun_field(lun: u8) -> [u8; 8] {
    [0, lun, 0, 0, 0, 0, 0, 0]
}

/// Which way the data of a SCSI command goes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Direction {
    None,
    Read,
    Write,
}

/// A SCSI Command with the SIMPLE task attribute; the sender adds CmdSN, ExpStatSN, F and DataSegmentLength.
pub fn scsi_command(lun: u8, tag: u32, cdb: &[u8; 16], direction: Direction, expected: u32) -> Header {
    let mut header = [0u8; 48];
    header[0] = 0x01;
    header[1] = 0x01
        | match direction {
            Direction::None => 0,
            Direction::Read => 0x40,
            Direction::Write => 0x20,
        };
    header[8..16].copy_from_slice(&lun_field(lun));
    put32(&mut header, 16, tag);
    put32(&mut header, 20, expected);
    header[32..48].copy_from_slice(cdb);
    header
}

/// A Data-Out PDU of `length` bytes at `offset` of the command's data; the sender adds ExpStatSN.
pub fn data_out(
    lun: u8,
    tag: u32,
    transfer_tag: u32,
    data_sn: u32,
    offset: u32,
    length: usize,
    last: bool,
) -> Header {
    let mut header = [0u8; 48];
    header[0] = 0x05;
    header[1] = if last { FINAL } else { 0 };
    set_data_length(&mut header, length);
    header[8..16].copy_from_slice(&lun_field(lun));
    put32(&mut header, 16, tag);
    put32(&mut header, 20, transfer_tag);
    put32(&mut header, 36, data_sn);
    put32(&mut header, 40, offset);
    header
}

/// A NOP-Out that asks for an echo, as an ordinary (non-immediate) command.
pub fn ping(lun: u8, tag: u32, length: usize) -> Header {
    let mut header = [0u8; 48];
    header[1] = FINAL;
    set_data_length(&mut header, length);
    header[8..16].copy_from_slice(&lun_field(lun));
    put32(&mut header, 16, tag);
    put32(&mut header, 20, NO_TAG);
    header
}

/// The answer to a NOP-In that asked for one (RFC 7143 §11.18): immediate, no task tag, the target's tag and LUN.
pub fn pong(nop_in: &Header) -> Header {
    let mut header = [0u8; 48];
    header[0] = 0x40;
    header[1] = FINAL;
    header[8..16].copy_from_slice(&nop_in[8..16]);
    put32(&mut header, 16, NO_TAG);
    header[20..24].copy_from_slice(&nop_in[20..24]);
    header
}

/// A Text Request of `length` bytes that is complete in itself.
pub fn text(tag: u32, length: usize) -> Header {
    let mut header = [0u8; 48];
    header[0] = 0x04;
    header[1] = FINAL;
    set_data_length(&mut header, length);
    put32(&mut header, 16, tag);
    put32(&mut header, 20, NO_TAG);
    header
}

/// A Logout Request that closes the session (reason 0), sent as an immediate command.
pub fn logout(tag: u32) -> Header {
    let mut header = [0u8; 48];
    header[0] = 0x46;
    header[1] = FINAL;
    put32(&mut header, 16, tag);
    header
}
