//! The out-of-sync bitmap of one lane: one bit for every 4 KiB that this node has and the other may lack, or the
//! other way round.
//!
//! In memory 16 words for every extent and a count of its set bits, so that scans step over clean extents. On disk
//! 4 KiB pages of 31 extents:
//!
//! ```text
//!   0 magic "TWBM" | 4 lane u16 | 6 zero u16 | 8 page u32 | 12 CRC32C u32 (of the rest of the page)
//!  16 sequence u64 | 24 zero [104]
//! 128 31 × 1024 bits, least significant bit first                                         (little-endian)
//! ```
//!
//! A page that is damaged, torn or in the wrong place makes all its extents out of sync.
//!
//! Bits are set with rounding outwards and cleared with rounding inwards ([`blocks_touched`], [`blocks_covered`]): a
//! block of which a part may differ is marked; a block of which a part was not copied stays marked.

use alloc::vec;
use alloc::vec::Vec;

use crate::units::{BITMAP_BLOCK_BYTES, BlockRange, EXTENT_BYTES, ExtentNo, Geometry, LaneId, Lba};

use super::layout::LaneShape;
use super::page::{Damage, PAGE_BYTES, Page, is_sealed, put, seal, u16_at, u32_at, u64_at};

/// Bits for one extent.
pub const BLOCKS_PER_EXTENT: u16 = (EXTENT_BYTES / BITMAP_BLOCK_BYTES) as u16;
/// Extents of one page.
pub const EXTENTS_PER_BITMAP_PAGE: u32 = ((PAGE_BYTES - AT_BITS) / BYTES_PER_EXTENT) as u32;

const MAGIC: u32 = u32::from_le_bytes(*b"TWBM");
const AT_LANE: usize = 4;
const AT_PAGE: usize = 8;
const AT_SEQUENCE: usize = 16;
const AT_BITS: usize = 128;
const WORDS: usize = BLOCKS_PER_EXTENT as usize / 64;
const BYTES_PER_EXTENT: usize = WORDS * 8;

const _: () = {
    assert!(BLOCKS_PER_EXTENT == 1024);
    assert!(EXTENTS_PER_BITMAP_PAGE == 31);
    assert!(AT_BITS + 31 * BYTES_PER_EXTENT == PAGE_BYTES);
};

/// A run of bitmap blocks inside one extent. `count` is at least 1.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct BlockSpan {
    pub extent: ExtentNo,
    /// 0..1024.
    pub first: u16,
    pub count: u16,
}

impl BlockSpan {
    /// The logical blocks under the span, cut off at the volume's end.
    pub fn range(&self, geometry: &Geometry) -> BlockRange {
        let shift = 12 - u32::from(geometry.block_shift);
        let first = u64::from(self.extent.0) * u64::from(BLOCKS_PER_EXTENT) + u64::from(self.first);
        let start = first << shift;
        let end = ((first + u64::from(self.count)) << shift).min(geometry.blocks);
        assert!(start < end, "a span starts inside the volume");
        BlockRange::new(Lba(start), (end - start) as u32)
    }
}

/// The bitmap blocks that a range touches, partly touched ones included: those to set. The range is not empty and
/// lies within one extent.
pub fn blocks_touched(geometry: &Geometry, range: BlockRange) -> BlockSpan {
    let (extent, start, end) = within_extent(geometry, range);
    let first = start / BITMAP_BLOCK_BYTES;
    let last = end.div_ceil(BITMAP_BLOCK_BYTES);
    BlockSpan { extent, first: first as u16, count: (last - first) as u16 }
}

/// The bitmap blocks that a range covers whole, those that may be cleared; `None` if there are none. The last block
/// of the volume is whole when the range reaches the volume's end. The range is not empty and lies within one extent.
pub fn blocks_covered(geometry: &Geometry, range: BlockRange) -> Option<BlockSpan> {
    let (extent, start, end) = within_extent(geometry, range);
    let first = start.div_ceil(BITMAP_BLOCK_BYTES);
    let last = if range.end().0 == geometry.blocks {
        end.div_ceil(BITMAP_BLOCK_BYTES)
    } else {
        end / BITMAP_BLOCK_BYTES
    };
    (first < last).then(|| BlockSpan { extent, first: first as u16, count: (last - first) as u16 })
}

/// Byte offsets of a range's start and end in its extent.
fn within_extent(geometry: &Geometry, range: BlockRange) -> (ExtentNo, u64, u64) {
    assert!(range.count > 0, "an empty range has no blocks");
    let extent = geometry.extent_of(range.start);
    let start = geometry.offset(range.start) % EXTENT_BYTES;
    let end = start + geometry.range_bytes(range) as u64;
    assert!(end <= EXTENT_BYTES, "{range:?} crosses an extent edge");
    (extent, start, end)
}

/// Out-of-sync blocks of one lane. Extents are named by their index in the lane, blocks by 0..1024 in the extent.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct Bitmap {
    shape: LaneShape,
    words: Vec<u64>,
    counts: Vec<u16>,
    total: u64,
    sequence: u64,
}

impl Bitmap {
    /// All in sync.
    pub fn new(shape: LaneShape) -> Self {
        let extents = shape.extents as usize;
        Self { shape, words: vec![0; extents * WORDS], counts: vec![0; extents], total: 0, sequence: 0 }
    }

    pub fn shape(&self) -> LaneShape {
        self.shape
    }

    pub fn lane(&self) -> LaneId {
        self.shape.lane
    }

    /// Pages that hold the lane's bits.
    pub fn pages(&self) -> u32 {
        self.shape.extents.div_ceil(EXTENTS_PER_BITMAP_PAGE).max(1)
    }

    /// Largest sequence of any page decoded so far; go on from it.
    pub fn sequence(&self) -> u64 {
        self.sequence
    }

    /// Marks blocks; returns how many were not marked before.
    pub fn set(&mut self, index: u32, first: u16, count: u16) -> u16 {
        let mut newly = 0;
        for (word, mask) in self.masks(index, first, count) {
            newly += (mask & !self.words[word]).count_ones() as u16;
            self.words[word] |= mask;
        }
        self.counts[index as usize] += newly;
        self.total += u64::from(newly);
        newly
    }

    /// Unmarks blocks; returns how many were marked before.
    pub fn clear(&mut self, index: u32, first: u16, count: u16) -> u16 {
        let mut newly = 0;
        for (word, mask) in self.masks(index, first, count) {
            newly += (mask & self.words[word]).count_ones() as u16;
            self.words[word] &= !mask;
        }
        self.counts[index as usize] -= newly;
        self.total -= u64::from(newly);
        newly
    }

    pub fn get(&self, index: u32, block: u16) -> bool {
        assert!(block < self.shape.blocks_in(index), "block {block} of extent index {index}");
        self.words[index as usize * WORDS + usize::from(block / 64)] & (1 << (block % 64)) != 0
    }

    /// Is any of the blocks marked?
    pub fn any(&self, index: u32, first: u16, count: u16) -> bool {
        self.masks(index, first, count).any(|(word, mask)| self.words[word] & mask != 0)
    }

    /// Marked blocks of the lane.
    pub fn count(&self) -> u64 {
        self.total
    }

    /// Marked blocks of one extent.
    pub fn extent_count(&self, index: u32) -> u16 {
        self.counts[index as usize]
    }

    /// Marks a whole extent (as far as the volume reaches); returns how many blocks were not marked before.
    pub fn set_extent(&mut self, index: u32) -> u16 {
        let blocks = self.shape.blocks_in(index);
        self.set(index, 0, blocks)
    }

    /// Marks the whole lane: a full resync.
    pub fn set_all(&mut self) {
        for index in 0..self.shape.extents {
            self.set_extent(index);
        }
    }

    /// Unmarks the whole lane.
    pub fn clear_all(&mut self) {
        self.words.fill(0);
        self.counts.fill(0);
        self.total = 0;
    }

    /// The first run of marked blocks at or after `from` (extent index, block), at most `max_blocks` long and
    /// within one extent, as (extent index, first block, count). To go on, ask from (index, first + count).
    pub fn next_run(&self, from: (u32, u16), max_blocks: u16) -> Option<(u32, u16, u16)> {
        assert!(max_blocks > 0, "a run has at least one block");
        let (mut index, mut block) = from;
        while index < self.shape.extents {
            let marked = self.counts[index as usize] > 0;
            if let Some(first) = marked.then(|| self.scan(index, block, true)).flatten() {
                let end = self.scan(index, first, false).unwrap_or(BLOCKS_PER_EXTENT);
                return Some((index, first, (end - first).min(max_blocks)));
            }
            (index, block) = (index + 1, 0);
        }
        None
    }

    /// Every run of marked blocks, each within one extent.
    pub fn runs(&self) -> Runs<'_> {
        Runs { bitmap: self, from: (0, 0) }
    }

    /// The page that holds an extent's bits.
    pub fn page_of(&self, index: u32) -> u32 {
        index / EXTENTS_PER_BITMAP_PAGE
    }

    /// Writes a page's bytes. `sequence` rises with every write of the page; it is for people who look at a disk and
    /// for the writer's own restart, and decides nothing.
    pub fn encode_page(&self, page: u32, sequence: u64, out: &mut Page) {
        out[..AT_BITS].fill(0);
        put(out, 0, &MAGIC.to_le_bytes());
        put(out, AT_LANE, &self.shape.lane.0.to_le_bytes());
        put(out, AT_PAGE, &page.to_le_bytes());
        put(out, AT_SEQUENCE, &sequence.to_le_bytes());
        let first = first_extent(page) * WORDS;
        for (offset, bytes) in out[AT_BITS..].chunks_exact_mut(8).enumerate() {
            let word = self.words.get(first + offset).copied().unwrap_or(0);
            bytes.copy_from_slice(&word.to_le_bytes());
        }
        seal(out);
    }

    /// Takes over a page as read from the disk, replacing what the bitmap says about its extents. A page that cannot
    /// be believed marks them whole.
    pub fn decode_page(&mut self, page: u32, bytes: &Page) -> Damage {
        let good = is_sealed(bytes)
            && u32_at(bytes, 0) == MAGIC
            && u16_at(bytes, AT_LANE) == self.shape.lane.0
            && u32_at(bytes, AT_PAGE) == page;
        if !good {
            return self.lose_page(page);
        }
        self.sequence = self.sequence.max(u64_at(bytes, AT_SEQUENCE));
        for (slot, index) in self.extents_of(page).enumerate() {
            let blocks = self.shape.blocks_in(index);
            self.clear(index, 0, blocks);
            for offset in 0..WORDS {
                let word = u64_at(bytes, AT_BITS + slot * BYTES_PER_EXTENT + offset * 8);
                self.words[index as usize * WORDS + offset] = word & mask(offset, 0, blocks);
            }
            self.recount(index);
        }
        Damage::NONE
    }

    /// The device could not read the page: all its extents are out of sync.
    pub fn lose_page(&mut self, page: u32) -> Damage {
        for index in self.extents_of(page) {
            self.set_extent(index);
        }
        Damage(1)
    }

    fn extents_of(&self, page: u32) -> core::ops::Range<u32> {
        let extents = self.shape.extents;
        let first = page.saturating_mul(EXTENTS_PER_BITMAP_PAGE).min(extents);
        first..first.saturating_add(EXTENTS_PER_BITMAP_PAGE).min(extents)
    }

    fn recount(&mut self, index: u32) {
        let words = &self.words[index as usize * WORDS..][..WORDS];
        let count: u32 = words.iter().map(|word| word.count_ones()).sum();
        let old = core::mem::replace(&mut self.counts[index as usize], count as u16);
        self.total = self.total - u64::from(old) + u64::from(count);
    }

    /// The first block at or after `from` whose bit is `wanted`.
    fn scan(&self, index: u32, from: u16, wanted: bool) -> Option<u16> {
        let words = &self.words[index as usize * WORDS..][..WORDS];
        let mut keep = u64::MAX << (from % 64);
        for (at, &word) in words.iter().enumerate().skip(usize::from(from / 64)) {
            let word = if wanted { word } else { !word } & keep;
            if word != 0 {
                return Some((at * 64) as u16 + word.trailing_zeros() as u16);
            }
            keep = u64::MAX;
        }
        None
    }

    /// Words of the lane and the bits in them that the blocks stand for.
    fn masks(&self, index: u32, first: u16, count: u16) -> impl Iterator<Item = (usize, u64)> + use<> {
        let end = first.checked_add(count).expect("blocks are counted to 1024");
        assert!(end <= self.shape.blocks_in(index), "blocks {first}+{count} of extent index {index}");
        let base = index as usize * WORDS;
        let words = usize::from(first / 64)..usize::from(end.div_ceil(64));
        words.map(move |word| (base + word, mask(word, first, end)))
    }
}

/// Bits of word `word` of an extent that stand for blocks `first..end`.
fn mask(word: usize, first: u16, end: u16) -> u64 {
    let base = (word * 64) as u16;
    let low = first.saturating_sub(base).min(64);
    let high = end.saturating_sub(base).min(64);
    if low >= high { 0 } else { (u64::MAX << low) & (u64::MAX >> (64 - high)) }
}

fn first_extent(page: u32) -> usize {
    page as usize * EXTENTS_PER_BITMAP_PAGE as usize
}

/// Iterator of [`Bitmap::runs`].
#[derive(Clone, Debug)]
pub struct Runs<'a> {
    bitmap: &'a Bitmap,
    from: (u32, u16),
}

impl Iterator for Runs<'_> {
    type Item = (u32, u16, u16);

    fn next(&mut self) -> Option<Self::Item> {
        let (index, first, count) = self.bitmap.next_run(self.from, BLOCKS_PER_EXTENT)?;
        self.from = (index, first + count);
        Some((index, first, count))
    }
}
