//! Commands that do more with the medium than READ and WRITE: compare, combine, repeat, give back (SBC-3 §5).
//!
//! Here they are checked against the disk's size and limits and become an [`Action`]; the session moves the data, and
//! locks, compares and writes in the order that the action's [`kind`](Action::kind) asks for.

use alloc::vec::Vec;

use super::cdb::{Access, ByteCheck};
use super::data_in::{DataIn, set_u32_length, truncate};
use super::logical_unit::LogicalUnit;
use super::sense::SenseData;
use super::target::{LuIndex, Outcome};
use crate::units::{BlockRange, Lba};

/// Most blocks of one COMPARE AND WRITE: all that the field of VPD page B0h can say.
pub const COMPARE_AND_WRITE_BLOCKS_MAX: u32 = 255;
/// Most bytes that one WRITE SAME fills.
pub const FILL_BYTES_MAX: u32 = 16 << 20;
/// Most bytes that one VERIFY reads without data for each block.
pub const SCAN_BYTES_MAX: u32 = 256 << 20;
/// Most blocks that one UNMAP gives back.
pub const UNMAP_BLOCKS_MAX: u32 = 1 << 20;
/// Most block descriptors of one UNMAP.
pub const UNMAP_DESCRIPTORS_MAX: usize = 256;
/// Blocks are given back in units of that many bytes, the file systems' block below.
pub const UNMAP_GRANULARITY_BYTES: u32 = 4096;

/// A command on the medium, checked.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Action {
    pub lu: LuIndex,
    /// Inside the volume; of no blocks for COMPARE AND WRITE alone.
    pub range: BlockRange,
    pub kind: ActionKind,
    /// What it writes is stable before the answer.
    pub fua: bool,
}

/// What an [`Action`] does with its range.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ActionKind {
    /// Read it all, give nothing.
    Scan,
    /// Is it equal to the data?
    Compare,
    /// Is every block equal to the one block of data?
    CompareOne,
    /// Write the data, then read it all.
    WriteAndScan,
    /// Write the data, then compare.
    WriteAndCompare,
    /// If it is equal to the first half of the data, write the second; with everybody else kept out.
    CompareAndWrite,
    /// Write the bits that are set in the data or in it; with everybody else kept out.
    Or,
    /// Write the one block of data to every block. If it is all zeroes, with `unmap`: give the space back.
    Same { unmap: bool },
    /// Make it read as zeroes. `unmap`: and give the space back.
    Zero { unmap: bool },
}

impl Action {
    /// Blocks of data that the initiator sends for it.
    pub fn data_blocks(&self) -> u32 {
        match self.kind {
            ActionKind::Scan | ActionKind::Zero { .. } => 0,
            ActionKind::CompareOne | ActionKind::Same { .. } => 1,
            ActionKind::CompareAndWrite => 2 * self.range.count,
            ActionKind::Compare | ActionKind::WriteAndScan | ActionKind::WriteAndCompare | ActionKind::Or => {
                self.range.count
            }
        }
    }

    /// May the initiator send less than [`data_blocks`](Self::data_blocks), and so many blocks only be dealt with?
    pub fn may_be_short(&self) -> bool {
        matches!(self.kind, ActionKind::WriteAndScan | ActionKind::WriteAndCompare | ActionKind::Or)
    }
}

impl LogicalUnit {
    /// Most blocks of one WRITE SAME.
    pub fn max_fill_blocks(&self) -> u32 {
        FILL_BYTES_MAX >> self.geometry.block_shift
    }

    /// Most bytes that a command of this logical unit takes from the initiator as data for the medium.
    pub fn max_data_bytes(&self) -> u32 {
        let compare = (2 * COMPARE_AND_WRITE_BLOCKS_MAX) << self.geometry.block_shift;
        self.max_transfer_bytes.max(compare)
    }

    pub(super) fn act(
        &self,
        lu: LuIndex,
        range: BlockRange,
        fua: bool,
        kind: ActionKind,
    ) -> Result<Outcome, SenseData> {
        if range.count == 0 {
            return Ok(Outcome::Done);
        }
        Ok(Outcome::Act(Action { lu, range, kind, fua }))
    }

    /// VERIFY and WRITE AND VERIFY (SBC-3 §5.30, §5.41).
    pub(super) fn verify(
        &self,
        lu: LuIndex,
        access: &Access,
        check: ByteCheck,
        write: bool,
    ) -> Result<Outcome, SenseData> {
        let kind = match (write, check) {
            (false, ByteCheck::None) => ActionKind::Scan,
            (false, ByteCheck::EachBlock) => ActionKind::Compare,
            (false, ByteCheck::OneBlock) => ActionKind::CompareOne,
            (true, ByteCheck::None) => ActionKind::WriteAndScan,
            (true, _) => ActionKind::WriteAndCompare,
        };
        let range = match kind {
            ActionKind::Scan | ActionKind::CompareOne => {
                self.checked_fill(access, SCAN_BYTES_MAX >> self.geometry.block_shift)?
            }
            _ => self.checked_range(access)?,
        };
        self.act(lu, range, false, kind)
    }

    /// A range whose length is not that of the data.
    fn checked_fill(&self, access: &Access, most: u32) -> Result<BlockRange, SenseData> {
        if access.blocks > most {
            return Err(SenseData::invalid_cdb_field(u16::from(access.length_at)));
        }
        self.in_volume(access.lba, u64::from(access.blocks))?;
        Ok(BlockRange::new(access.lba, access.blocks))
    }

    /// COMPARE AND WRITE (SBC-3 §5.3). The field has room for no more blocks than are allowed; with none at all, data is
    /// an error and no data is none.
    pub(super) fn compare_and_write(&self, lu: LuIndex, access: &Access) -> Result<Outcome, SenseData> {
        self.in_volume(access.lba, u64::from(access.blocks))?;
        let range = BlockRange::new(access.lba, access.blocks);
        Ok(Outcome::Act(Action { lu, range, kind: ActionKind::CompareAndWrite, fua: access.fua }))
    }

    /// WRITE ATOMIC(16) (SBC-4). One block is all that the disks of two servers promise not to tear when both lose power.
    pub(super) fn write_atomic(
        &self,
        lu: LuIndex,
        access: &Access,
        boundary: u32,
    ) -> Result<Outcome, SenseData> {
        if boundary != 0 {
            return Err(SenseData::invalid_cdb_field(10));
        }
        self.in_volume(access.lba, u64::from(access.blocks))?;
        if access.blocks > 1 {
            return Err(SenseData::invalid_cdb_field(u16::from(access.length_at)));
        }
        self.write(lu, access)
    }

    /// WRITE SAME (SBC-3 §5.46). NUMBER OF LOGICAL BLOCKS must not be zero (WSNZ).
    pub(super) fn write_same(
        &self,
        lu: LuIndex,
        access: &Access,
        anchor: bool,
        unmap: bool,
        no_data: bool,
    ) -> Result<Outcome, SenseData> {
        if anchor {
            return Err(SenseData::invalid_cdb_bit(1, 4));
        }
        if unmap && !self.is_thin() {
            return Err(SenseData::invalid_cdb_bit(1, 3));
        }
        if access.blocks == 0 {
            self.in_volume(access.lba, 0)?;
            return Err(SenseData::invalid_cdb_field(u16::from(access.length_at)));
        }
        let range = self.checked_fill(access, self.max_fill_blocks())?;
        let kind = if no_data { ActionKind::Zero { unmap } } else { ActionKind::Same { unmap } };
        self.act(lu, range, false, kind)
    }

    /// Checks the CDB of an UNMAP (SBC-3 §5.28).
    pub(super) fn begin_unmap(&self, anchor: bool, parameter_bytes: u32) -> Result<Outcome, SenseData> {
        if anchor {
            return Err(SenseData::invalid_cdb_bit(1, 0));
        }
        match parameter_bytes {
            0 => Ok(Outcome::Done),
            1..8 => Err(SenseData::PARAMETER_LIST_LENGTH_ERROR),
            _ => Ok(Outcome::NeedData { bytes: parameter_bytes }),
        }
    }

    /// Checks all descriptors of an UNMAP's parameter list; nothing is given back when one of them is wrong.
    ///
    /// # Errors
    /// 1A/00 for a list without a header; 21/00 for a range past the end; 26/00 for too many descriptors or blocks.
    pub(super) fn unmap(&self, lu: LuIndex, list: &[u8]) -> Result<Outcome, SenseData> {
        let count = unmap_descriptors(list)?;
        if count > UNMAP_DESCRIPTORS_MAX {
            return Err(SenseData::invalid_parameter(2));
        }
        let mut total = 0u64;
        for index in 0..count {
            let range = unmap_descriptor(list, index);
            self.in_volume(range.start, u64::from(range.count))?;
            total += u64::from(range.count);
        }
        if total > u64::from(UNMAP_BLOCKS_MAX) {
            return Err(SenseData::invalid_parameter(8));
        }
        Ok(if total == 0 {
            Outcome::Done
        } else {
            Outcome::Unmap { lu, descriptors: count as u16, fua: false }
        })
    }

    /// GET LBA STATUS (SBC-3 §5.5): one descriptor up to the end. Whether a block has room of its own below is not
    /// tracked, and "mapped" is an answer that nobody can be misled by.
    pub(super) fn get_lba_status(
        &self,
        lba: Lba,
        allocation: u32,
        data_in: &mut Vec<u8>,
    ) -> Result<(), SenseData> {
        const MAPPED: u8 = 0x0;
        if lba.0 >= self.geometry.blocks {
            return Err(SenseData::lba_out_of_range(lba));
        }
        data_in.put_zeros(8);
        data_in.put_u64(lba.0);
        data_in.put_u32(u32::try_from(self.geometry.blocks - lba.0).unwrap_or(u32::MAX));
        data_in.extend_from_slice(&[MAPPED, 0, 0, 0]);
        set_u32_length(data_in, 0, 4);
        truncate(data_in, allocation);
        Ok(())
    }
}

/// Whole descriptors of an UNMAP parameter list, as many as the list and its length fields agree on (SBC-3 §5.28.2).
fn unmap_descriptors(list: &[u8]) -> Result<usize, SenseData> {
    let header = list.get(..8).ok_or(SenseData::PARAMETER_LIST_LENGTH_ERROR)?;
    let data = usize::from(u16::from_be_bytes([header[0], header[1]])).saturating_sub(6);
    let descriptors = usize::from(u16::from_be_bytes([header[2], header[3]]));
    Ok(descriptors.min(data).min(list.len() - 8) / 16)
}

/// A descriptor of a list that [`LogicalUnit::unmap`] has accepted.
pub fn unmap_descriptor(list: &[u8], index: usize) -> BlockRange {
    let at = 8 + index * 16;
    let field = |from: usize, len: usize| {
        list[at + from..at + from + len].iter().fold(0u64, |value, byte| value << 8 | u64::from(*byte))
    };
    BlockRange::new(Lba(field(0, 8)), field(8, 4) as u32)
}
