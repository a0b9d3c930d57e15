//! The activity log of one lane: the extents in which the two copies may differ at the moment ("hot").
//!
//! On disk a flat map, one bit for every extent of the lane, in 4 KiB pages of eight sectors:
//!
//! ```text
//!  0 magic "TWAL" | 4 lane u16 | 6 sector in page u16 | 8 page u32 | 12 CRC32C u32 (of the rest of the sector)
//! 16 sequence u64 | 24 zero u64 | 32 bits of 3840 extents, least significant bit first     (little-endian)
//! ```
//!
//! The sector, not the page, is what a disk writes whole, so each sector stands for itself: a page torn at any sector
//! edge is a mixture of old and new sectors, and both are right. An extent that was to become hot has no data
//! written before the page is durable, so its old bit is still true; one that was to become cold is merely hot for
//! longer. A sector that is damaged, missing or in the wrong place reads as all hot: a longer resync, never a lost
//! write.
//!
//! DRBD keeps a ring of transactions instead, each with the slots that changed and a rolling part of the context,
//! and limits the number of hot extents to what the ring can hold. The flat map needs no such machinery: a bit says
//! the same whenever it was written, so there is no order between pages to restore, no replay, no slots to evict
//! for want of room, and a damaged sector says nothing about the others. One page covers 120 GiB of one lane.

use alloc::vec;
use alloc::vec::Vec;

use crate::units::LaneId;

use super::page::{Damage, PAGE_BYTES, Page, is_sealed, put, seal, u16_at, u32_at, u64_at};

const SECTOR_BYTES: usize = 512;
const SECTORS: usize = PAGE_BYTES / SECTOR_BYTES;
const MAGIC: u32 = u32::from_le_bytes(*b"TWAL");
const AT_LANE: usize = 4;
const AT_SECTOR: usize = 6;
const AT_PAGE: usize = 8;
const AT_SEQUENCE: usize = 16;
const AT_BITS: usize = 32;
const WORDS_PER_SECTOR: usize = (SECTOR_BYTES - AT_BITS) / 8;

/// Extents of one 512-byte sector.
pub const EXTENTS_PER_SECTOR: u32 = WORDS_PER_SECTOR as u32 * 64;
/// Extents of one page.
pub const EXTENTS_PER_ACTIVITY_PAGE: u32 = EXTENTS_PER_SECTOR * SECTORS as u32;

const _: () = {
    assert!(EXTENTS_PER_SECTOR == 3840);
    assert!(EXTENTS_PER_ACTIVITY_PAGE == 30720);
};

/// Hot extents of one lane. Extents are named by their index in the lane.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct ActivityLog {
    lane: LaneId,
    extents: u32,
    /// Whole pages, so that a page's words are one slice. Bits from `extents` on are 0.
    words: Vec<u64>,
    hot: u32,
    sequence: u64,
}

impl ActivityLog {
    /// All cold. Keeps one bit for each of `extents` extents.
    pub fn new(lane: LaneId, extents: u32) -> Self {
        let pages = extents.div_ceil(EXTENTS_PER_ACTIVITY_PAGE).max(1) as usize;
        Self { lane, extents, words: vec![0; pages * WORDS_PER_SECTOR * SECTORS], hot: 0, sequence: 0 }
    }

    pub fn lane(&self) -> LaneId {
        self.lane
    }

    pub fn extents(&self) -> u32 {
        self.extents
    }

    /// Pages that the log has in memory; the disk may reserve one more for a lane that is an extent short.
    pub fn pages(&self) -> u32 {
        (self.words.len() / (WORDS_PER_SECTOR * SECTORS)) as u32
    }

    /// Largest sequence of any page decoded so far; go on from it.
    pub fn sequence(&self) -> u64 {
        self.sequence
    }

    /// Marks an extent hot; `true` if it was cold, so that its page must be written before data is.
    pub fn set_hot(&mut self, index: u32) -> bool {
        let (word, bit) = self.place(index);
        let newly = self.words[word] & bit == 0;
        self.words[word] |= bit;
        self.hot += u32::from(newly);
        newly
    }

    /// Marks an extent cold; `true` if it was hot.
    pub fn set_cold(&mut self, index: u32) -> bool {
        let (word, bit) = self.place(index);
        let newly = self.words[word] & bit != 0;
        self.words[word] &= !bit;
        self.hot -= u32::from(newly);
        newly
    }

    pub fn is_hot(&self, index: u32) -> bool {
        let (word, bit) = self.place(index);
        self.words[word] & bit != 0
    }

    pub fn hot_count(&self) -> u32 {
        self.hot
    }

    /// Indexes of the hot extents, rising.
    pub fn iter_hot(&self) -> impl Iterator<Item = u32> + '_ {
        self.words.iter().enumerate().filter(|(_, word)| **word != 0).flat_map(|(at, &word)| {
            let base = at as u32 * 64;
            bits_of(word).map(move |bit| base + bit)
        })
    }

    /// The page that holds an extent's bit.
    pub fn page_of(&self, index: u32) -> u32 {
        index / EXTENTS_PER_ACTIVITY_PAGE
    }

    /// Writes a page's bytes. `sequence` rises with every write of the page; it is for people who look at a disk and
    /// for the writer's own restart, and decides nothing.
    pub fn encode_page(&self, page: u32, sequence: u64, out: &mut Page) {
        for (number, sector) in out.chunks_exact_mut(SECTOR_BYTES).enumerate() {
            sector[..AT_BITS].fill(0);
            put(sector, 0, &MAGIC.to_le_bytes());
            put(sector, AT_LANE, &self.lane.0.to_le_bytes());
            put(sector, AT_SECTOR, &(number as u16).to_le_bytes());
            put(sector, AT_PAGE, &page.to_le_bytes());
            put(sector, AT_SEQUENCE, &sequence.to_le_bytes());
            let first = first_word(page, number);
            for (offset, bytes) in sector[AT_BITS..].chunks_exact_mut(8).enumerate() {
                let word = self.words.get(first + offset).copied().unwrap_or(0);
                bytes.copy_from_slice(&word.to_le_bytes());
            }
            seal(sector);
        }
    }

    /// Takes over a page as read from the disk, replacing what the log says about its extents. Sectors that cannot
    /// be believed make their extents hot and are counted.
    pub fn decode_page(&mut self, page: u32, bytes: &Page) -> Damage {
        let mut damaged = 0;
        for (number, sector) in bytes.chunks_exact(SECTOR_BYTES).enumerate() {
            let good = is_sealed(sector)
                && u32_at(sector, 0) == MAGIC
                && u16_at(sector, AT_LANE) == self.lane.0
                && usize::from(u16_at(sector, AT_SECTOR)) == number
                && u32_at(sector, AT_PAGE) == page;
            if good {
                self.sequence = self.sequence.max(u64_at(sector, AT_SEQUENCE));
            } else {
                damaged += 1;
            }
            let first = first_word(page, number);
            for offset in 0..WORDS_PER_SECTOR {
                let word = if good { u64_at(sector, AT_BITS + offset * 8) } else { u64::MAX };
                self.replace_word(first + offset, word);
            }
        }
        Damage(damaged)
    }

    /// The device could not read the page: all its extents are hot.
    pub fn lose_page(&mut self, page: u32) -> Damage {
        for offset in 0..SECTORS * WORDS_PER_SECTOR {
            self.replace_word(first_word(page, 0) + offset, u64::MAX);
        }
        Damage(SECTORS as u8)
    }

    fn replace_word(&mut self, at: usize, word: u64) {
        let base = at as u64 * 64;
        let valid = u64::from(self.extents).saturating_sub(base).min(64);
        let Some(slot) = self.words.get_mut(at) else { return };
        let word = if valid == 0 { 0 } else { word & (u64::MAX >> (64 - valid)) };
        self.hot = self.hot - slot.count_ones() + word.count_ones();
        *slot = word;
    }

    fn place(&self, index: u32) -> (usize, u64) {
        assert!(index < self.extents, "extent index {index} of {} in lane {}", self.extents, self.lane.0);
        ((index / 64) as usize, 1 << (index % 64))
    }
}

fn first_word(page: u32, sector: usize) -> usize {
    (page as usize * SECTORS + sector) * WORDS_PER_SECTOR
}

fn bits_of(mut word: u64) -> impl Iterator<Item = u32> {
    core::iter::from_fn(move || {
        if word == 0 {
            return None;
        }
        let bit = word.trailing_zeros();
        word &= word - 1;
        Some(bit)
    })
}
