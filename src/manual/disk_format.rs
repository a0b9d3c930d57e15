//! What lies on the disk: format version 2.
//!
//! # The data
//!
//! With internal metadata the data area begins at byte 0 of the device and block `n` of the volume is block `n` of the
//! device. A volume whose data must be read without twinlun can therefore be read with any tool: the metadata lies
//! behind the data and touches none of it. With external metadata the data device is the volume, whole.
//!
//! # The metadata
//!
//! Everything is little-endian, in pages of 4 KiB at offsets that are multiples of 4 KiB. Three kinds of page:
//!
//! | page | magic | how many | drawn in |
//! |---|---|---|---|
//! | superblock | `TWINLUN\0` | 2 copies, far apart | [`Superblock`](crate::storage::Superblock) |
//! | activity log | `TWAL` | per lane: its extents / 30720 | [`ActivityLog`](crate::storage::ActivityLog) |
//! | bitmap | `TWBM` | per lane: its extents / 31 | [`Bitmap`](crate::storage::Bitmap) |
//!
//! Behind the bitmap, two times 32 KiB are what the logical unit remembers of its initiators: persistent reservations,
//! saved parameters. The drawing is at [`UnitCopy`](crate::storage::UnitCopy). Zeroes are a volume that remembers nothing.
//!
//! Where each lies follows from the device's size, the volume's size and the lane count; the drawing is at
//! [`Layout`](crate::storage::Layout). Metadata takes about 1/8000 of the device: one bit for 4 KiB, and what headers
//! and the unused slots of short lanes cost.
//!
//! An *extent* is 4 MiB of the volume. Extents are dealt to *lanes* round-robin: extent `e` belongs to lane
//! `e mod lanes`. The lane count is fixed by `twinlun init`; how many threads serve the lanes is not on the disk, so it
//! may differ between the nodes and change at any start.
//!
//! # How it survives a power cut
//!
//! - A superblock write goes to the copy that is older, so one valid copy is always left. A reader takes the valid copy
//!   with the higher write counter.
//! - An activity log page consists of eight 512-byte sectors, each with a CRC of its own: a page torn at a sector edge
//!   is a mixture of old and new sectors, and both are true.
//! - A bitmap page has one CRC. Torn or damaged, all its extents count as out of sync.
//!
//! - A change of the unit state goes to both of its copies, the second when the first is durable: a torn copy leaves the
//!   state before, a damaged one the same state in the other.
//!
//! Damage to both copies of the unit state costs reservations and never data. The node starts, says so, and counts as one
//! that may lack what was answered: in a pair it leads only after it has followed the other node, or by a person's word.
//! Alone it starts with nothing remembered. So damage to the activity log or the bitmap costs resync time and never data, and damage to both superblock copies
//! is the only thing that stops a node from starting. It then takes the volume's data from its peer.
//!
//! # The invariant
//!
//! **If a block differs between the two disks, a durable bitmap bit or a durable hot extent on at least one node covers
//! it** (D4). The order that keeps it true, for every write:
//!
//! 1. The extent is hot in the durable activity log (flush, or FUA).
//! 2. The data is written on both nodes.
//! 3. Both devices were flushed after that; only now may the extent turn cold.
//! 4. Where the peer does not have the write, the bitmap page is durable before the extent turns cold.
//! 5. A bit set for resync is durably cleared only after the target flushed the copied data.
//!
//! # Versions
//!
//! [`FORMAT_VERSION`](crate::storage::FORMAT_VERSION) covers the whole metadata area. A release refuses a newer one and
//! says so. Golden bytes in the tests of `src/storage` hold the format still.
