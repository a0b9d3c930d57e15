//! Frames of the replication link: a 64-byte header, then at most [`CHUNK_BYTES`] of payload.
//!
//! ```text
//!  0 magic "TWLF" | 4 version | 5 kind | 6 flags u16 | 8 lane u16 | 10 status u16 | 12 blocks u32
//! 16 epoch u64    | 24 sequence u64 | 32 lba u64     | 40 payload length u32 | 44 payload CRC32C
//! 48 value u64    | 56 zero u32     | 60 CRC32C of bytes 0..60        (all little-endian)
//! ```
//!
//! The header is checked before any of its fields is believed; the payload has a CRC of its own, so that a frame
//! whose data went bad is told apart from a stream that lost its place. Either ends the link.

use crate::arbitration::Epoch;
use crate::units::{CHUNK_BYTES, LaneId, Lba};
use crate::wire::{Reader, Writer, crc32c};

/// Bytes of every frame header.
pub const HEADER_BYTES: usize = 64;
const MAGIC: u32 = u32::from_le_bytes(*b"TWLF");
/// Version of the frame layout; the handshake negotiates what the frames mean.
pub const FRAME_VERSION: u8 = 1;

/// What a frame is for. Control frames travel on the control link, the others on the data link of their lane.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[repr(u8)]
pub enum FrameKind {
    /// Data link, primary → secondary: apply `blocks` at `lba`; flag [`FLAG_FUA`].
    Write = 1,
    /// The secondary's device completed the write of this sequence.
    WriteAck = 2,
    /// Make everything acknowledged so far on any link stable; `value` names the flush group.
    Flush = 3,
    FlushAck = 4,
    /// Is the sender still primary? `value` names the batch of reads that waits.
    Confirm = 5,
    ConfirmAck = 6,
    /// Sync source → target: the data of out-of-sync blocks.
    ResyncData = 7,
    ResyncAck = 8,
    /// Sync source → target, without payload: tell the next runs of out-of-sync blocks of the lane. Target → source: the
    /// runs, [`FLAG_LAST`] on the last frame.
    Bitmap = 9,
    /// Data link, primary → secondary: make `blocks` at `lba` read as zeroes; flags [`FLAG_FUA`], [`FLAG_UNMAP`]. Answered
    /// with WriteAck. `value` is the request's number at the sender, for those who follow it in a capture.
    Zero = 10,
    /// Secondary → primary: an initiator at the secondary writes `blocks` at `lba`. `sequence` names the request in the
    /// answer; flags [`FLAG_FUA`], [`FLAG_LOCKED`].
    ForwardWrite = 11,
    /// Secondary → primary: an initiator reads; `value` is the length of the answer in bytes. [`FLAG_LOCKED`].
    ForwardRead = 12,
    /// Secondary → primary: a request without data; the high byte of the flags says which (`volume::forward`).
    ForwardOrder = 13,
    /// Primary → secondary: how a forwarded request ended. [`FrameStatus::Refused`]: it was not carried out.
    ForwardAck = 14,
    /// Primary → secondary: what a forwarded read brought.
    ForwardData = 15,
    /// Control link: one encoded [`Control`](super::control::Control) message as payload.
    Control = 16,
    /// Link establishment, before anything else (see [`handshake`](super::handshake)).
    Handshake = 17,
}

/// Write through: stable before the acknowledgement.
pub const FLAG_FUA: u16 = 1;
/// Last frame of a series.
pub const FLAG_LAST: u16 = 2;

/// The space need not be kept.
pub const FLAG_UNMAP: u16 = 4;
/// The sender holds the lock of a range that covers this one.
pub const FLAG_LOCKED: u16 = 8;

/// Result field of an acknowledgement.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[repr(u16)]
pub enum FrameStatus {
    Good = 0,
    /// The peer's device failed the operation.
    DeviceError = 1,
    /// The peer refuses: it is not a secondary of the sender any more.
    Refused = 2,
    /// A forwarded request: the leader has held it for too long.
    NotReady = 3,
}

/// A checked frame header. The payload's CRC is added when the frame is encoded and checked when it is received.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct FrameHeader {
    pub kind: FrameKind,
    pub flags: u16,
    pub lane: LaneId,
    pub status: FrameStatus,
    pub blocks: u32,
    pub epoch: Epoch,
    pub sequence: u64,
    pub lba: Lba,
    pub value: u64,
    pub payload_len: u32,
}

/// Why bytes are not a frame. All of them are the sender's fault (or the network's); the link is closed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum FrameError {
    BadMagic(u32),
    BadHeaderCrc {
        computed: u32,
        stored: u32,
    },
    UnknownVersion(u8),
    UnknownKind(u8),
    UnknownStatus(u16),
    PayloadTooLong(u32),
    /// An answer of no bytes, or of more than a buffer holds, is asked for.
    AnswerTooLong(u64),
    /// A kind that carries no payload announces some.
    UnexpectedPayload {
        kind: FrameKind,
        len: u32,
    },
    /// A kind that is nothing without a payload announces none.
    MissingPayload(FrameKind),
    /// A kind other than Handshake before the peer has proven itself, or Handshake after.
    OutOfPlace(FrameKind),
    BadPayloadCrc {
        computed: u32,
        stored: u32,
    },
}

impl core::fmt::Display for FrameError {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        match self {
            Self::BadMagic(magic) => write!(f, "not a twinlun link frame (magic {magic:#010x})"),
            Self::BadHeaderCrc { computed, stored } => {
                write!(f, "frame header damaged (CRC32C {computed:#010x}, stored {stored:#010x})")
            }
            Self::UnknownVersion(version) => {
                write!(f, "frame version {version} is not known to this release")
            }
            Self::UnknownKind(kind) => write!(f, "frame kind {kind} is not known to this release"),
            Self::UnknownStatus(status) => write!(f, "frame status {status} is not known to this release"),
            Self::PayloadTooLong(len) => write!(f, "frame payload of {len} bytes exceeds {CHUNK_BYTES}"),
            Self::AnswerTooLong(len) => {
                write!(f, "an answer of {len} bytes is asked for; 1 to {CHUNK_BYTES} may be")
            }
            Self::UnexpectedPayload { kind, len } => {
                write!(f, "{kind:?} frame with a payload of {len} bytes; it carries none")
            }
            Self::MissingPayload(kind) => write!(f, "{kind:?} frame without its payload"),
            Self::OutOfPlace(kind) => write!(f, "{kind:?} frame at this point of the link's establishment"),
            Self::BadPayloadCrc { computed, stored } => {
                write!(f, "frame payload damaged (CRC32C {computed:#010x}, stored {stored:#010x})")
            }
        }
    }
}

impl core::error::Error for FrameError {}

impl FrameHeader {
    /// A header of `kind` with every other field zero; fill in what the kind uses.
    pub fn new(kind: FrameKind, lane: LaneId, epoch: Epoch) -> Self {
        Self {
            kind,
            flags: 0,
            lane,
            status: FrameStatus::Good,
            blocks: 0,
            epoch,
            sequence: 0,
            lba: Lba(0),
            value: 0,
            payload_len: 0,
        }
    }

    pub fn has(&self, flag: u16) -> bool {
        self.flags & flag != 0
    }

    /// The header's bytes. `payload_crc` is the CRC32C of the payload, 0 when there is none.
    pub fn encode(&self, payload_crc: u32) -> [u8; HEADER_BYTES] {
        let mut bytes = [0; HEADER_BYTES];
        self.write(&mut Writer::new(&mut bytes), payload_crc).expect("the header has a fixed size");
        let crc = crc32c(&bytes[..60]);
        bytes[60..].copy_from_slice(&crc.to_le_bytes());
        bytes
    }

    fn write(&self, out: &mut Writer<'_>, payload_crc: u32) -> Result<(), crate::wire::Short> {
        out.u32_le(MAGIC)?;
        out.u8(FRAME_VERSION)?;
        out.u8(self.kind as u8)?;
        out.u16_le(self.flags)?;
        out.u16_le(self.lane.0)?;
        out.u16_le(self.status as u16)?;
        out.u32_le(self.blocks)?;
        out.u64_le(self.epoch.0)?;
        out.u64_le(self.sequence)?;
        out.u64_le(self.lba.0)?;
        out.u32_le(self.payload_len)?;
        out.u32_le(payload_crc)?;
        out.u64_le(self.value)
    }

    /// Checks and decodes a header; also returns the CRC32C its payload must have.
    pub fn decode(bytes: &[u8; HEADER_BYTES]) -> Result<(Self, u32), FrameError> {
        let mut reader = Reader::new(bytes);
        // The slice has a fixed size, so no field can run short.
        let fields = Self::read(&mut reader).expect("the header has a fixed size");
        let (magic, version, kind, status, stored, payload_crc, mut header) = fields;
        if magic != MAGIC {
            return Err(FrameError::BadMagic(magic));
        }
        let computed = crc32c(&bytes[..60]);
        if computed != stored {
            return Err(FrameError::BadHeaderCrc { computed, stored });
        }
        if version != FRAME_VERSION {
            return Err(FrameError::UnknownVersion(version));
        }
        header.kind = FrameKind::from_wire(kind)?;
        header.status = FrameStatus::from_wire(status)?;
        if header.payload_len as usize > CHUNK_BYTES {
            return Err(FrameError::PayloadTooLong(header.payload_len));
        }
        Ok((header, payload_crc))
    }

    #[allow(clippy::type_complexity)]
    fn read(reader: &mut Reader<'_>) -> Result<(u32, u8, u8, u16, u32, u32, Self), crate::wire::Short> {
        let magic = reader.u32_le()?;
        let version = reader.u8()?;
        let kind = reader.u8()?;
        let flags = reader.u16_le()?;
        let lane = LaneId(reader.u16_le()?);
        let status = reader.u16_le()?;
        let blocks = reader.u32_le()?;
        let epoch = Epoch(reader.u64_le()?);
        let sequence = reader.u64_le()?;
        let lba = Lba(reader.u64_le()?);
        let payload_len = reader.u32_le()?;
        let payload_crc = reader.u32_le()?;
        let value = reader.u64_le()?;
        reader.skip(4)?;
        let stored = reader.u32_le()?;
        let header = Self {
            flags,
            blocks,
            sequence,
            lba,
            value,
            payload_len,
            ..Self::new(FrameKind::Handshake, lane, epoch)
        };
        Ok((magic, version, kind, status, stored, payload_crc, header))
    }
}

impl FrameKind {
    fn from_wire(kind: u8) -> Result<Self, FrameError> {
        Ok(match kind {
            1 => Self::Write,
            2 => Self::WriteAck,
            3 => Self::Flush,
            4 => Self::FlushAck,
            5 => Self::Confirm,
            6 => Self::ConfirmAck,
            7 => Self::ResyncData,
            8 => Self::ResyncAck,
            9 => Self::Bitmap,
            10 => Self::Zero,
            11 => Self::ForwardWrite,
            12 => Self::ForwardRead,
            13 => Self::ForwardOrder,
            14 => Self::ForwardAck,
            15 => Self::ForwardData,
            16 => Self::Control,
            17 => Self::Handshake,
            other => return Err(FrameError::UnknownKind(other)),
        })
    }
}

impl FrameStatus {
    fn from_wire(status: u16) -> Result<Self, FrameError> {
        Ok(match status {
            0 => Self::Good,
            1 => Self::DeviceError,
            2 => Self::Refused,
            3 => Self::NotReady,
            other => return Err(FrameError::UnknownStatus(other)),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn header_survives_the_wire() {
        let mut header = FrameHeader::new(FrameKind::Write, LaneId(7), Epoch(9));
        header.flags = FLAG_FUA;
        header.blocks = 8;
        header.sequence = 0x0102_0304_0506_0708;
        header.lba = Lba(0xABCDEF);
        header.payload_len = 4096;
        header.value = 77;
        let bytes = header.encode(0xDEAD_BEEF);
        assert_eq!(FrameHeader::decode(&bytes), Ok((header, 0xDEAD_BEEF)));
    }

    #[test]
    fn every_damaged_bit_is_noticed() {
        let bytes = FrameHeader::new(FrameKind::Flush, LaneId(0), Epoch(1)).encode(0);
        for bit in 0..HEADER_BYTES * 8 {
            let mut damaged = bytes;
            damaged[bit / 8] ^= 1 << (bit % 8);
            assert!(FrameHeader::decode(&damaged).is_err(), "bit {bit}");
        }
    }
}
