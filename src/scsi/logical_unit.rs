//! The disk behind one LUN: its facts, and the commands that only need them.
//!
//! A [`LogicalUnit`] never changes while it serves and holds nothing of a nexus, so every shard has its own copy.
//! Media access is not done here: it is checked and handed out as an [`Outcome`].

use alloc::vec::Vec;

use super::cdb::{Access, DefectForm};
use super::data_in::{DataIn, truncate};
use super::identity::{DeviceIdentity, IdentityError, SerialForm};
use super::opcodes::Operation;
use super::sense::SenseData;
use super::target::{LuIndex, Outcome};
use crate::units::{BlockRange, Geometry, Lba};

/// Most bytes that one READ or WRITE may move unless the configuration says otherwise (VPD page B0h).
pub const MAX_TRANSFER_BYTES: u32 = 8 << 20;

/// The facts of a logical unit.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct LogicalUnit {
    pub identity: DeviceIdentity,
    pub serial_form: SerialForm,
    pub geometry: Geometry,
    /// log2 of the physical block size in bytes, not below the logical one: 12 for 512e and 4Kn.
    pub physical_block_shift: u8,
    /// Does a disk of either node keep written data in a cache that a power loss empties? Sets WCE.
    pub volatile_cache: bool,
    /// Most bytes of one READ or WRITE; a multiple of the block size and not zero.
    pub max_transfer_bytes: u32,
    pub provisioning: Provisioning,
    /// Every command that would change the medium is refused with 27/00.
    pub read_only: bool,
}

/// Whether initiators may give blocks back (SBC-3 §4.7).
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Provisioning {
    /// Fully provisioned: every block is always mapped.
    #[default]
    Fixed,
    /// UNMAP and WRITE SAME with UNMAP give blocks back to the disks below; an unmapped block reads as zeroes.
    Thin,
}

impl LogicalUnit {
    /// # Errors
    /// An identity that does not fit its fields.
    ///
    /// # Panics
    /// When the volume has no blocks or a block shift is out of range: the geometry was checked at format.
    pub fn new(
        identity: DeviceIdentity,
        geometry: Geometry,
        physical_block_shift: u8,
        volatile_cache: bool,
    ) -> Result<Self, IdentityError> {
        identity.validate()?;
        assert!(geometry.blocks > 0, "a volume has at least one block");
        assert!(
            geometry.block_shift >= 9 && geometry.block_shift <= 12,
            "logical blocks are 512 to 4096 bytes"
        );
        // The exponent that READ CAPACITY(16) reports has four bits.
        assert!((geometry.block_shift..geometry.block_shift + 16).contains(&physical_block_shift));
        Ok(Self {
            identity,
            serial_form: SerialForm::default(),
            geometry,
            physical_block_shift,
            volatile_cache,
            max_transfer_bytes: MAX_TRANSFER_BYTES,
            provisioning: Provisioning::default(),
            read_only: false,
        })
    }

    pub fn is_thin(&self) -> bool {
        self.provisioning == Provisioning::Thin
    }

    /// Most blocks of one READ or WRITE, the MAXIMUM TRANSFER LENGTH of VPD page B0h.
    pub fn max_transfer_blocks(&self) -> u32 {
        self.max_transfer_bytes >> self.geometry.block_shift
    }

    /// Checks a READ or WRITE against size and limits.
    ///
    /// # Errors
    /// 24/00 for more than the maximum transfer length, 21/00 past the end (SBC-3 §4.5, §6.5.3).
    pub(super) fn checked_range(&self, access: &Access) -> Result<BlockRange, SenseData> {
        if access.blocks > self.max_transfer_blocks() {
            return Err(SenseData::invalid_cdb_field(u16::from(access.length_at)));
        }
        self.in_volume(access.lba, u64::from(access.blocks))?;
        Ok(BlockRange::new(access.lba, access.blocks))
    }

    /// Is the range inside the volume? A range of no blocks may start right behind the last one (SBC-3 §4.5 names the
    /// address alone).
    pub(super) fn in_volume(&self, lba: Lba, blocks: u64) -> Result<(), SenseData> {
        if self.geometry.contains(lba, blocks) {
            return Ok(());
        }
        let first_bad = lba.0.max(self.geometry.blocks);
        Err(SenseData::lba_out_of_range(Lba(first_bad)))
    }

    /// READ: a range of no blocks is done already.
    pub(super) fn read(&self, lu: LuIndex, access: &Access) -> Result<Outcome, SenseData> {
        let range = self.checked_range(access)?;
        if range.count == 0 {
            return Ok(Outcome::Done);
        }
        Ok(Outcome::Read { lu, range, fua: access.fua })
    }

    /// WRITE: a range of no blocks is done already.
    pub(super) fn write(&self, lu: LuIndex, access: &Access) -> Result<Outcome, SenseData> {
        let range = self.checked_range(access)?;
        if range.count == 0 {
            return Ok(Outcome::Done);
        }
        Ok(Outcome::Write { lu, range, fua: access.fua })
    }

    /// SYNCHRONIZE CACHE (SBC-3 §5.22). The whole volume is flushed whatever the range, for disks know no other way.
    ///
    /// IMMED is not used: an answer before the flush would leave a failed flush with no command to report it, and
    /// waiting keeps every promise that the early answer makes.
    pub(super) fn synchronize_cache(&self, lu: LuIndex, lba: Lba, blocks: u32) -> Result<Outcome, SenseData> {
        self.in_volume(lba, u64::from(blocks))?;
        Ok(Outcome::Flush { lu })
    }

    /// PRE-FETCH (SBC-3 §5.10). There is no cache of the medium to fill: GOOD says that the blocks did not fit.
    pub(super) fn pre_fetch(&self, lba: Lba, blocks: u32) -> Result<Outcome, SenseData> {
        self.in_volume(lba, u64::from(blocks))?;
        Ok(Outcome::Done)
    }

    /// SEND DIAGNOSTIC (SPC-4 §6.42): the default self-test passes, and there is nothing else to test.
    ///
    /// # Errors
    /// 24/00 for another self-test or for a parameter list, as no diagnostic page exists.
    pub(super) fn send_diagnostic(&self, code: u8, parameter_bytes: u32) -> Result<Outcome, SenseData> {
        if code != 0 {
            return Err(SenseData::invalid_cdb_bit(1, 7));
        }
        if parameter_bytes != 0 {
            return Err(SenseData::invalid_cdb_field(3));
        }
        Ok(Outcome::Done)
    }

    /// READ DEFECT DATA (SBC-3 §5.11): both lists are empty, whatever the format asked for.
    pub(super) fn read_defect_data(
        &self,
        form: DefectForm,
        wanted: u8,
        allocation: u32,
        data_in: &mut Vec<u8>,
    ) {
        data_in.extend_from_slice(&[0, wanted & 0x1F]);
        match form {
            DefectForm::Ten => data_in.put_u16(0),
            DefectForm::Twelve => data_in.put_zeros(6), // generation code, length
        }
        truncate(data_in, allocation);
    }

    /// Does this disk have the command? Giving blocks back belongs to thin provisioning.
    pub(super) fn supports(&self, operation: Operation) -> bool {
        operation != Operation::Unmap || self.is_thin()
    }

    /// START STOP UNIT (SBC-3 §5.20). The disk is shared by initiators and never spins down: a stop, or a move to a
    /// lower power condition, writes the caches out (unless NO_FLUSH) and changes nothing else.
    pub(super) fn start_stop_unit(
        &self,
        lu: LuIndex,
        start: bool,
        load_eject: bool,
        no_flush: bool,
        power_condition: u8,
    ) -> Result<Outcome, SenseData> {
        const START_VALID: u8 = 0x0;
        const ACTIVE: u8 = 0x1;
        match power_condition {
            START_VALID if load_eject => Err(SenseData::invalid_cdb_bit(4, 1)), // the medium is not removable
            START_VALID if start => Ok(Outcome::Done),
            ACTIVE => Ok(Outcome::Done),
            // STOP, IDLE, STANDBY, LU_CONTROL and the FORCE_ forms.
            START_VALID | 0x2 | 0x3 | 0x7 | 0xA | 0xB if no_flush => Ok(Outcome::Done),
            START_VALID | 0x2 | 0x3 | 0x7 | 0xA | 0xB => Ok(Outcome::Flush { lu }),
            _ => Err(SenseData::invalid_cdb_bit(4, 7)),
        }
    }

    /// READ CAPACITY(10) data: the last block's address, or FFFFFFFFh when it does not fit (SBC-3 §5.13).
    pub(super) fn read_capacity_10(&self, data_in: &mut Vec<u8>) {
        let last = u32::try_from(self.last_block()).unwrap_or(u32::MAX);
        data_in.put_u32(last);
        data_in.put_u32(self.geometry.block_bytes());
    }

    /// READ CAPACITY(16) data, 32 bytes (SBC-3 §5.14).
    pub(super) fn read_capacity_16(&self, allocation: u32, data_in: &mut Vec<u8>) {
        data_in.put_u64(self.last_block());
        data_in.put_u32(self.geometry.block_bytes());
        data_in.push(0); // no protection information
        data_in.push(self.physical_block_exponent());
        // LBPME: blocks can be given back. LBPRZ: and read as zeroes then. The lowest aligned block is 0.
        data_in.push(if self.is_thin() { 0xC0 } else { 0 });
        data_in.put_zeros(32 - 15);
        truncate(data_in, allocation);
    }

    fn last_block(&self) -> u64 {
        self.geometry.blocks - 1
    }

    /// LOGICAL BLOCKS PER PHYSICAL BLOCK EXPONENT, 0..=15.
    pub(super) fn physical_block_exponent(&self) -> u8 {
        self.physical_block_shift - self.geometry.block_shift
    }
}
