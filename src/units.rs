//! Numbers with a unit. Every count, address and tag that crosses a room has a type of its own, so that a
//! logical block address can never be handed over where a byte offset is meant.
//!
//! Absent on purpose: conversions that guess. A byte offset comes from a [`Geometry`], which knows the block size.

use core::fmt;

/// Bytes covered by one bit of the out-of-sync bitmap (DRBD's unit, 4 KiB).
pub const BITMAP_BLOCK_BYTES: u64 = 4096;
/// log2 of the bytes in one extent, the unit of the activity log and of lane placement (4 MiB).
pub const EXTENT_SHIFT: u32 = 22;
/// Bytes in one extent.
pub const EXTENT_BYTES: u64 = 1 << EXTENT_SHIFT;
/// Largest data carried by one [`BlockRequest`](crate::block::BlockRequest) and by one link frame.
pub const CHUNK_BYTES: usize = 64 * 1024;
/// Most lanes a volume can be formatted with.
pub const LANES_MAX: u16 = 64;
/// Most shards (pinned threads) of one node.
pub const SHARDS_MAX: usize = 64;

/// Logical block address: the block's number counted in the volume's logical block size (SBC-3 §4.5).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Lba(pub u64);

/// A run of logical blocks. `count` may be zero where SCSI allows it.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct BlockRange {
    pub start: Lba,
    pub count: u32,
}

/// Number of a 4 MiB extent of the volume, from 0.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct ExtentNo(pub u32);

/// A stable slice of the volume, owned by one shard. Extents are dealt to lanes round-robin.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct LaneId(pub u16);

/// One pinned thread with its io_uring.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct ShardId(pub u8);

/// One of the two servers, 0 or 1, in the order of the configuration file.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct NodeId(pub u8);

/// Names one established session between the two nodes; a new one for every reconnect. Never 0.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct SessionId(pub u64);

/// Names a request for its origin; opaque to everyone else. Unique among the origin's live requests.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct RequestId(pub u64);

/// A data buffer owned by the driver. Cores pass the name along; the bytes stay where they are.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct BufId(pub u32);

impl NodeId {
    /// The other server of the pair.
    pub fn peer(self) -> Self {
        assert!(self.0 < 2);
        Self(1 - self.0)
    }
}

impl BlockRange {
    pub fn new(start: Lba, count: u32) -> Self {
        Self { start, count }
    }

    /// First block after the range. Ranges are checked against the volume's size before they get here.
    pub fn end(self) -> Lba {
        Lba(self.start.0 + u64::from(self.count))
    }

    pub fn overlaps(self, other: Self) -> bool {
        self.start < other.end() && other.start < self.end()
    }

    /// Does all of `other` lie in it?
    pub fn covers(self, other: Self) -> bool {
        self.start <= other.start && other.end() <= self.end()
    }
}

/// Size and division of a volume, fixed when its metadata is written.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Geometry {
    /// log2 of the logical block size: 9 (512 B) or 12 (4 KiB).
    pub block_shift: u8,
    /// Logical blocks of the volume.
    pub blocks: u64,
    /// Lanes that the extents are dealt to, 1..=[`LANES_MAX`].
    pub lanes: u16,
}

impl Geometry {
    pub fn block_bytes(&self) -> u32 {
        1 << self.block_shift
    }

    pub fn bytes(&self) -> u64 {
        self.blocks << self.block_shift
    }

    /// Byte offset of a block in the volume's data area.
    pub fn offset(&self, lba: Lba) -> u64 {
        lba.0 << self.block_shift
    }

    pub fn range_bytes(&self, range: BlockRange) -> usize {
        (range.count as usize) << self.block_shift
    }

    /// Is `range` inside the volume? Safe for every 64-bit address, wrap-around included.
    pub fn contains(&self, start: Lba, count: u64) -> bool {
        start.0.checked_add(count).is_some_and(|end| end <= self.blocks)
    }

    /// Extents of the volume; the last one may be short.
    pub fn extents(&self) -> u32 {
        let extents = self.bytes().div_ceil(EXTENT_BYTES);
        u32::try_from(extents).expect("volume size is limited at format")
    }

    pub fn extent_of(&self, lba: Lba) -> ExtentNo {
        ExtentNo((lba.0 >> (EXTENT_SHIFT - u32::from(self.block_shift))) as u32)
    }

    pub fn lane_of(&self, extent: ExtentNo) -> LaneId {
        LaneId((extent.0 % u32::from(self.lanes)) as u16)
    }

    /// The extent's number among those of its own lane.
    pub fn lane_index(&self, extent: ExtentNo) -> u32 {
        extent.0 / u32::from(self.lanes)
    }

    /// Inverse of [`lane_index`](Self::lane_index).
    pub fn extent_at(&self, lane: LaneId, index: u32) -> ExtentNo {
        ExtentNo(index * u32::from(self.lanes) + u32::from(lane.0))
    }

    /// Slots every lane reserves for its extents; the same for all lanes, so a few may stay unused.
    pub fn extents_per_lane(&self) -> u32 {
        self.extents().div_ceil(u32::from(self.lanes))
    }

    fn blocks_per_extent(&self) -> u64 {
        EXTENT_BYTES >> self.block_shift
    }

    /// Cuts a range into pieces that cross neither an extent edge nor a multiple of [`CHUNK_BYTES`] of its own
    /// data, in order. Each piece comes with its byte offset in the command's data.
    pub fn pieces(&self, range: BlockRange) -> Pieces {
        let per_chunk = (CHUNK_BYTES >> self.block_shift) as u32;
        Pieces { geometry: *self, range, done: 0, per_chunk: Some(per_chunk) }
    }

    /// Cuts a range at extent edges only, in order.
    pub fn extent_pieces(&self, range: BlockRange) -> Pieces {
        Pieces { geometry: *self, range, done: 0, per_chunk: None }
    }
}

/// Iterator of [`Geometry::pieces`] and [`Geometry::extent_pieces`].
#[derive(Clone, Debug)]
pub struct Pieces {
    geometry: Geometry,
    range: BlockRange,
    done: u32,
    per_chunk: Option<u32>,
}

impl Iterator for Pieces {
    type Item = (BlockRange, usize);

    fn next(&mut self) -> Option<Self::Item> {
        let left = self.range.count - self.done;
        if left == 0 {
            return None;
        }
        let start = Lba(self.range.start.0 + u64::from(self.done));
        let per_extent = self.geometry.blocks_per_extent();
        let to_edge = (per_extent - start.0 % per_extent).min(u64::from(u32::MAX)) as u32;
        let to_chunk = self.per_chunk.map_or(left, |blocks| blocks - self.done % blocks);
        let count = left.min(to_edge).min(to_chunk);
        let offset = (self.done as usize) << self.geometry.block_shift;
        self.done += count;
        Some((BlockRange::new(start, count), offset))
    }
}

impl fmt::Debug for Lba {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "lba {}", self.0)
    }
}

impl fmt::Debug for BlockRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "lba {}+{}", self.start.0, self.count)
    }
}

/// Where buffers come from. The engine's slabs implement it; the simulator hands out patterns.
///
/// A buffer taken here is given back by an effect, never by a call: the ring may still use it.
pub trait Pool {
    /// A buffer for `len` bytes (`1..=`[`CHUNK_BYTES`]), or `None` when the pool is used up: then wait.
    fn take(&mut self, len: usize) -> Option<BufId>;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_cut_at_extents_and_chunks() {
        let geometry = Geometry { block_shift: 9, blocks: 1 << 20, lanes: 4 };
        let range = BlockRange::new(Lba(8192 - 16), 300);
        let pieces: alloc::vec::Vec<_> = geometry.pieces(range).collect();
        assert_eq!(pieces[0], (BlockRange::new(Lba(8176), 16), 0));
        assert_eq!(pieces[1], (BlockRange::new(Lba(8192), 112), 16 * 512));
        assert_eq!(pieces[2], (BlockRange::new(Lba(8304), 128), 65536));
        assert_eq!(pieces.iter().map(|(r, _)| r.count).sum::<u32>(), 300);
        let extents: alloc::vec::Vec<_> = geometry.extent_pieces(range).collect();
        let expected = [(BlockRange::new(Lba(8176), 16), 0), (BlockRange::new(Lba(8192), 284), 16 * 512)];
        assert_eq!(extents, expected);
    }

    #[test]
    fn extents_deal_round_robin_and_back() {
        let geometry = Geometry { block_shift: 12, blocks: 10 * 1024 + 5, lanes: 3 };
        assert_eq!(geometry.extents(), 11);
        for number in 0..geometry.extents() {
            let extent = ExtentNo(number);
            let lane = geometry.lane_of(extent);
            assert_eq!(geometry.extent_at(lane, geometry.lane_index(extent)), extent);
            assert!(geometry.lane_index(extent) < geometry.extents_per_lane());
        }
        assert!(!geometry.contains(Lba(u64::MAX), 2));
    }
}
