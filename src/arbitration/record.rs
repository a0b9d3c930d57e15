//! The arbiter's record. It is changed only by compare-and-swap; a read of it is a hint, never a right.

use crate::units::NodeId;
use crate::wire::{Reader, Short, Writer, crc32c};

/// Ownership term. Every committed change of the record raises it by one; frames of an older one are refused (S3).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct Epoch(pub u64);

impl Epoch {
    /// The highest that any record may carry. Nothing reaches it by counting.
    pub const MAX: Self = Self(1 << 63);
    /// The highest that is believed of a peer, so that a node that adopts it can go on counting for ever.
    pub const MAX_OF_A_PEER: Self = Self(1 << 62);

    pub fn next(self) -> Self {
        assert!(self < Self::MAX, "2^63 ownership changes do not happen");
        Self(self.0 + 1)
    }
}

/// A subset of the two nodes.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub struct NodeSet(u8);

impl NodeSet {
    pub const BOTH: Self = Self(0b11);
    pub const NONE: Self = Self(0);

    pub fn only(node: NodeId) -> Self {
        assert!(node.0 < 2);
        Self(1 << node.0)
    }

    pub fn contains(self, node: NodeId) -> bool {
        self.0 & (1 << node.0) != 0
    }

    pub fn bits(self) -> u8 {
        self.0
    }

    pub fn from_bits(bits: u8) -> Option<Self> {
        (bits <= 0b11).then_some(Self(bits))
    }
}

/// The one small fact that both nodes and the arbiter share.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub struct Record {
    pub epoch: Epoch,
    /// The node that may serve; `None` before the first promotion.
    pub primary: Option<NodeId>,
    /// The nodes whose copies hold every acknowledged write.
    pub in_sync: NodeSet,
    /// Random; lets a node whose answer was lost recognise its own change.
    pub nonce: u64,
}

/// Bytes of an encoded record.
pub const RECORD_BYTES: usize = 32;
const NO_PRIMARY: u8 = 0xFF;

/// Why bytes are not a record.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum RecordError {
    Damaged,
    BadPrimary(u8),
    BadInSync(u8),
    BadEpoch(u64),
}

impl core::fmt::Display for RecordError {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        match self {
            Self::Damaged => write!(f, "arbiter record is damaged (wrong length or checksum)"),
            Self::BadPrimary(node) => {
                write!(f, "arbiter record names node {node} as primary; there are only 0 and 1")
            }
            Self::BadInSync(bits) => {
                write!(f, "arbiter record has in-sync set {bits:#x}; only nodes 0 and 1 exist")
            }
            Self::BadEpoch(epoch) => write!(f, "arbiter record has epoch {epoch}, which no pair reaches"),
        }
    }
}

impl core::error::Error for RecordError {}

impl Record {
    /// `epoch u64 | nonce u64 | primary u8 (255: none) | in-sync bits u8 | zero[10] | crc32c u32`, little-endian.
    pub fn encode(&self) -> [u8; RECORD_BYTES] {
        let mut bytes = [0; RECORD_BYTES];
        self.write(&mut Writer::new(&mut bytes)).expect("the record has a fixed size");
        let crc = crc32c(&bytes[..28]);
        bytes[28..].copy_from_slice(&crc.to_le_bytes());
        bytes
    }

    fn write(&self, out: &mut Writer<'_>) -> Result<(), Short> {
        out.u64_le(self.epoch.0)?;
        out.u64_le(self.nonce)?;
        out.u8(self.primary.map_or(NO_PRIMARY, |node| node.0))?;
        out.u8(self.in_sync.bits())
    }

    pub fn decode(bytes: &[u8]) -> Result<Self, RecordError> {
        let bytes: &[u8; RECORD_BYTES] = bytes.try_into().map_err(|_| RecordError::Damaged)?;
        let mut reader = Reader::new(bytes);
        let fields = (|| -> Result<_, Short> {
            let epoch = Epoch(reader.u64_le()?);
            let nonce = reader.u64_le()?;
            let primary = reader.u8()?;
            let in_sync = reader.u8()?;
            reader.skip(10)?;
            Ok((epoch, nonce, primary, in_sync, reader.u32_le()?))
        })();
        let (epoch, nonce, primary, in_sync, crc) = fields.map_err(|Short| RecordError::Damaged)?;
        if crc != crc32c(&bytes[..28]) {
            return Err(RecordError::Damaged);
        }
        let primary = match primary {
            NO_PRIMARY => None,
            0 | 1 => Some(NodeId(primary)),
            other => return Err(RecordError::BadPrimary(other)),
        };
        if epoch > Epoch::MAX {
            return Err(RecordError::BadEpoch(epoch.0));
        }
        let in_sync = NodeSet::from_bits(in_sync).ok_or(RecordError::BadInSync(in_sync))?;
        Ok(Self { epoch, primary, in_sync, nonce })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn record_survives_and_damage_is_noticed() {
        let record = Record { epoch: Epoch(5), primary: Some(NodeId(1)), in_sync: NodeSet::BOTH, nonce: 42 };
        let bytes = record.encode();
        assert_eq!(Record::decode(&bytes), Ok(record));
        for at in 0..RECORD_BYTES {
            let mut damaged = bytes;
            damaged[at] ^= 0x10;
            assert_eq!(Record::decode(&damaged), Err(RecordError::Damaged));
        }
    }

    #[test]
    fn an_epoch_that_could_not_be_raised_is_refused() {
        let record = |epoch| Record { epoch, ..Record::default() };
        let last = record(Epoch::MAX);
        assert_eq!(Record::decode(&last.encode()), Ok(last));
        for epoch in [Epoch(Epoch::MAX.0 + 1), Epoch(u64::MAX)] {
            assert_eq!(Record::decode(&record(epoch).encode()), Err(RecordError::BadEpoch(epoch.0)));
        }
    }
}
