//! What twinlun keeps on the disk besides the data: where it lies ([`Layout`]), who and what the volume is
//! ([`Superblock`]), which blocks may differ between the two copies ([`ActivityLog`], [`Bitmap`]), and what the logical
//! unit remembers of its initiators ([`UnitCopy`]).
//!
//! Invariant D4: if a block differs between the two disks, a durable bitmap bit or a durable hot extent on at least
//! one node covers it. The formats serve that invariant: every page carries a CRC32C and the place it belongs to,
//! and whatever cannot be believed reads as "differs". Damage costs resync time, never data.
//!
//! Absent on purpose: devices, descriptors and ordering. Pages are `&[u8; 4096]`; the driver reads and writes them
//! and the volume's cores decide when.

mod activity_log;
mod bitmap;
mod generation;
mod layout;
mod load;
mod page;
mod superblock;
mod unit_state;

pub use activity_log::{ActivityLog, EXTENTS_PER_ACTIVITY_PAGE, EXTENTS_PER_SECTOR};
pub use bitmap::{
    BLOCKS_PER_EXTENT, Bitmap, BlockSpan, EXTENTS_PER_BITMAP_PAGE, Runs, blocks_covered, blocks_touched,
};
pub use generation::{GENERATION_HISTORY, Generations, Known};
pub use layout::{
    DATA_BYTES_MAX, DEVICE_BYTES_MIN, LaneShape, Layout, LayoutError, MetadataKind, UNIT_STATE_BYTES,
    UNIT_STATE_PAGES, internal_superblocks,
};
pub use load::{LaneLoader, LaneState};
pub use page::{Damage, PAGE_BYTES, Page};
pub use superblock::{
    Chosen, CopyError, DiskFlags, FORMAT_VERSION, IQN_MAX, SERIAL_MAX, ScsiIdentity, Superblock,
    SuperblockCopies, SuperblockError, UncheckedSuperblock, VOLUME_NAME_MAX,
};
pub use unit_state::{UnitCopies, UnitCopy, UnitCopyError, UnitStateLost};

#[cfg(test)]
mod tests;
