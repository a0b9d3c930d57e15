//! Where metadata lies. One drawing for both kinds:
//!
//! ```text
//! internal (one device)                         external (metadata on a device of its own)
//! 0 ............... data area                   0 ............... superblock copy 1
//! M ............... superblock copy 1           4 KiB ........... activity log, bitmap, unit state (as left)
//! M + 4 KiB ....... activity log, lane by lane  last 4 KiB ...... superblock copy 0
//! then ............ bitmap, lane by lane
//! then ............ unit state, copy 0 and copy 1
//! then ............ unused
//! last 4 KiB ...... superblock copy 0
//! ```
//!
//! All offsets are multiples of 4 KiB. Data starts at offset 0, so a volume's data device can be read without
//! twinlun. The two superblock copies lie apart, so that one bad region cannot take both, and where they lie follows
//! from the device's size alone ([`internal_superblocks`]): `M` reserves room for the worst case of
//! [`LANES_MAX`] lanes. A reader therefore finds either copy without the other, and two devices of one size give
//! volumes of one size whatever their lane count.
//!
//! Every lane reserves the same number of pages, computed from the lane with the most extents.

use core::fmt;

use crate::units::{EXTENT_BYTES, Geometry, LANES_MAX, LaneId};

use super::activity_log::EXTENTS_PER_ACTIVITY_PAGE;
use super::bitmap::{BLOCKS_PER_EXTENT, EXTENTS_PER_BITMAP_PAGE};
use super::page::PAGE_BYTES;

/// Smallest device (internal metadata) or data device (external metadata) that can hold a volume: 16 MiB.
pub const DEVICE_BYTES_MIN: u64 = 16 << 20;
/// Largest data area: extents are counted in 32 bits, with room for every lane's unused slot.
pub const DATA_BYTES_MAX: u64 = (u32::MAX as u64 - LANES_MAX as u64) * EXTENT_BYTES;

const PAGE: u64 = PAGE_BYTES as u64;
/// Pages of one copy of the unit state.
pub const UNIT_STATE_PAGES: u64 = 8;
/// Bytes of one copy of the unit state: what a logical unit remembers of its initiators (persistent reservations).
pub const UNIT_STATE_BYTES: usize = UNIT_STATE_PAGES as usize * PAGE_BYTES;

/// Where the metadata is, relative to the data.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[repr(u8)]
pub enum MetadataKind {
    /// At the end of the device that holds the data.
    Internal = 0,
    /// On a device of its own.
    External = 1,
}

/// The places of everything, in bytes from the start of the device that holds the metadata.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Layout {
    pub geometry: Geometry,
    pub kind: MetadataKind,
    /// Of copy 0 and copy 1.
    pub superblocks: [u64; 2],
    pub activity_log: u64,
    pub bitmap: u64,
    /// Copy 0 of the unit state; copy 1 follows it.
    pub unit_state: u64,
    /// First byte after the metadata: the device's size, rounded down to 4 KiB.
    pub end: u64,
}

/// Why no volume fits, or why stored offsets cannot be right.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum LayoutError {
    DeviceTooSmall {
        bytes: u64,
        minimum: u64,
    },
    DeviceTooLarge {
        bytes: u64,
        maximum: u64,
    },
    /// The volume's wanted size does not fit the device.
    VolumeTooLarge {
        bytes: u64,
        room: u64,
    },
    /// The wanted size is zero or not a multiple of 4 KiB.
    BadVolumeSize(u64),
    MetadataDeviceTooSmall {
        bytes: u64,
        minimum: u64,
    },
    /// Logical blocks are 2^9 or 2^12 bytes.
    BadBlockShift(u8),
    /// Lanes are 1 to [`LANES_MAX`].
    BadLanes(u16),
    /// Stored offsets overlap, are not aligned, or leave the device.
    Inconsistent,
}

impl fmt::Display for LayoutError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::DeviceTooSmall { bytes, minimum } => {
                write!(f, "device of {bytes} bytes is too small; a volume needs at least {minimum} bytes")
            }
            Self::DeviceTooLarge { bytes, maximum } => {
                write!(f, "device of {bytes} bytes is too large; a volume holds at most {maximum} bytes")
            }
            Self::VolumeTooLarge { bytes, room } => {
                write!(
                    f,
                    "volume of {bytes} bytes does not fit; the device has room for {room} bytes of data"
                )
            }
            Self::BadVolumeSize(bytes) => {
                write!(f, "volume size of {bytes} bytes is not a positive multiple of {PAGE_BYTES}")
            }
            Self::MetadataDeviceTooSmall { bytes, minimum } => {
                write!(f, "metadata device of {bytes} bytes is too small; this volume needs {minimum} bytes")
            }
            Self::BadBlockShift(shift) => {
                write!(f, "logical blocks of 2^{shift} bytes are not supported; use 512 or 4096")
            }
            Self::BadLanes(lanes) => write!(f, "{lanes} lanes are not possible; use 1 to {LANES_MAX}"),
            Self::Inconsistent => write!(f, "stored metadata offsets contradict each other"),
        }
    }
}

impl core::error::Error for LayoutError {}

/// The part of a volume that one lane has.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct LaneShape {
    pub lane: LaneId,
    /// Extents of the lane, indexed from 0; a small volume may leave a lane without any.
    pub extents: u32,
    /// Bitmap blocks of the lane's last extent, 1..=1024; only the volume's last extent is short.
    pub last_blocks: u16,
}

impl LaneShape {
    pub fn of(geometry: &Geometry, lane: LaneId) -> Self {
        assert!(lane.0 < geometry.lanes, "the volume has no lane {}", lane.0);
        let all = geometry.extents();
        let lanes = u32::from(geometry.lanes);
        let extents = all.saturating_sub(u32::from(lane.0)).div_ceil(lanes);
        let has_last = extents > 0 && geometry.extent_at(lane, extents - 1).0 == all - 1;
        let last_blocks = if has_last {
            let tail = geometry.bytes() - u64::from(all - 1) * EXTENT_BYTES;
            tail.div_ceil(crate::units::BITMAP_BLOCK_BYTES) as u16
        } else {
            BLOCKS_PER_EXTENT
        };
        Self { lane, extents, last_blocks }
    }

    /// Bitmap blocks of the extent with this index.
    pub fn blocks_in(&self, index: u32) -> u16 {
        assert!(index < self.extents, "extent index {index} of {} in lane {}", self.extents, self.lane.0);
        if index + 1 == self.extents { self.last_blocks } else { BLOCKS_PER_EXTENT }
    }

    /// Bitmap blocks of the lane.
    pub fn blocks(&self) -> u64 {
        match self.extents {
            0 => 0,
            extents => u64::from(extents - 1) * u64::from(BLOCKS_PER_EXTENT) + u64::from(self.last_blocks),
        }
    }
}

/// Offsets of superblock copies 0 and 1 on a device with internal metadata, from its size alone. `None` when no
/// volume can be on such a device. On an external metadata device they are the last page and offset 0.
pub fn internal_superblocks(device_bytes: u64) -> Option<[u64; 2]> {
    let end = page_floor(device_bytes);
    if !(DEVICE_BYTES_MIN..=DATA_BYTES_MAX).contains(&end) {
        return None;
    }
    Some([end - PAGE, end - reserved_bytes(end)])
}

impl Layout {
    /// Metadata at the end of the data's own device; the volume takes all the room there is.
    pub fn internal(device_bytes: u64, block_shift: u8, lanes: u16) -> Result<Self, LayoutError> {
        let room = internal_room(device_bytes)?;
        Self::internal_sized(device_bytes, room, block_shift, lanes)
    }

    /// Like [`internal`](Self::internal) with a volume of `volume_bytes`, for a pair of devices of unequal size.
    pub fn internal_sized(
        device_bytes: u64,
        volume_bytes: u64,
        block_shift: u8,
        lanes: u16,
    ) -> Result<Self, LayoutError> {
        let room = internal_room(device_bytes)?;
        let geometry = geometry(volume_bytes, room, block_shift, lanes)?;
        let end = page_floor(device_bytes);
        Ok(Self::place(geometry, MetadataKind::Internal, end - reserved_bytes(end), end))
    }

    /// Metadata on a device of its own; the volume takes `data_bytes` of the data device, rounded down to 4 KiB.
    pub fn external(
        data_bytes: u64,
        metadata_bytes: u64,
        block_shift: u8,
        lanes: u16,
    ) -> Result<Self, LayoutError> {
        let room = page_floor(data_bytes);
        if room < DEVICE_BYTES_MIN {
            return Err(LayoutError::DeviceTooSmall { bytes: data_bytes, minimum: DEVICE_BYTES_MIN });
        }
        let geometry = geometry(room, room, block_shift, lanes)?;
        let end = page_floor(metadata_bytes);
        let minimum = used_bytes(&geometry);
        if end < minimum {
            return Err(LayoutError::MetadataDeviceTooSmall { bytes: metadata_bytes, minimum });
        }
        Ok(Self::place(geometry, MetadataKind::External, 0, end))
    }

    fn place(geometry: Geometry, kind: MetadataKind, start: u64, end: u64) -> Self {
        let activity_log = start + PAGE;
        let bitmap = activity_log + activity_pages(&geometry) * PAGE;
        let unit_state = bitmap + bitmap_pages(&geometry) * PAGE;
        let superblocks = [end - PAGE, start];
        let layout = Self { geometry, kind, superblocks, activity_log, bitmap, unit_state, end };
        assert_eq!(layout.check(), Ok(()), "a computed layout is consistent");
        layout
    }

    /// Do the parts fit the device without overlap? For offsets that were read from a disk.
    pub fn check(&self) -> Result<(), LayoutError> {
        let Geometry { block_shift, blocks, lanes } = self.geometry;
        let bytes = blocks.saturating_mul(1 << check_block_shift(block_shift)?);
        check_lanes(lanes)?;
        if bytes == 0 || bytes % PAGE != 0 {
            return Err(LayoutError::BadVolumeSize(bytes));
        }
        if bytes > DATA_BYTES_MAX {
            return Err(LayoutError::VolumeTooLarge { bytes, room: DATA_BYTES_MAX });
        }
        let start = match self.kind {
            MetadataKind::Internal => bytes,
            MetadataKind::External => 0,
        };
        let [first, second] = self.superblocks;
        let areas = [
            (second, PAGE),
            (self.activity_log, activity_pages(&self.geometry) * PAGE),
            (self.bitmap, bitmap_pages(&self.geometry) * PAGE),
            (self.unit_state, 2 * UNIT_STATE_PAGES * PAGE),
            (first, PAGE),
        ];
        let mut from = start;
        for (at, len) in areas {
            if at % PAGE != 0 || at < from {
                return Err(LayoutError::Inconsistent);
            }
            from = at.checked_add(len).ok_or(LayoutError::Inconsistent)?;
        }
        if from == self.end { Ok(()) } else { Err(LayoutError::Inconsistent) }
    }

    /// Pages every lane has in the activity log, at least 1.
    pub fn activity_pages_per_lane(&self) -> u32 {
        self.geometry.extents_per_lane().div_ceil(EXTENTS_PER_ACTIVITY_PAGE)
    }

    /// Pages every lane has in the bitmap, at least 1.
    pub fn bitmap_pages_per_lane(&self) -> u32 {
        self.geometry.extents_per_lane().div_ceil(EXTENTS_PER_BITMAP_PAGE)
    }

    pub fn activity_page_offset(&self, lane: LaneId, page: u32) -> u64 {
        assert!(lane.0 < self.geometry.lanes && page < self.activity_pages_per_lane());
        self.activity_log + page_number(lane, self.activity_pages_per_lane(), page) * PAGE
    }

    pub fn bitmap_page_offset(&self, lane: LaneId, page: u32) -> u64 {
        assert!(lane.0 < self.geometry.lanes && page < self.bitmap_pages_per_lane());
        self.bitmap + page_number(lane, self.bitmap_pages_per_lane(), page) * PAGE
    }

    /// Offset of a copy (0 or 1) of the unit state.
    pub fn unit_state_offset(&self, copy: usize) -> u64 {
        assert!(copy < 2);
        self.unit_state + copy as u64 * UNIT_STATE_PAGES * PAGE
    }

    pub fn lane_shape(&self, lane: LaneId) -> LaneShape {
        LaneShape::of(&self.geometry, lane)
    }
}

fn page_number(lane: LaneId, per_lane: u32, page: u32) -> u64 {
    u64::from(lane.0) * u64::from(per_lane) + u64::from(page)
}

fn page_floor(bytes: u64) -> u64 {
    bytes - bytes % PAGE
}

/// Room for data on a device with internal metadata.
fn internal_room(device_bytes: u64) -> Result<u64, LayoutError> {
    match internal_superblocks(device_bytes) {
        Some([_, metadata]) => Ok(metadata),
        None if device_bytes < DEVICE_BYTES_MIN => {
            Err(LayoutError::DeviceTooSmall { bytes: device_bytes, minimum: DEVICE_BYTES_MIN })
        }
        None => Err(LayoutError::DeviceTooLarge { bytes: device_bytes, maximum: DATA_BYTES_MAX }),
    }
}

fn geometry(bytes: u64, room: u64, block_shift: u8, lanes: u16) -> Result<Geometry, LayoutError> {
    check_block_shift(block_shift)?;
    check_lanes(lanes)?;
    if bytes == 0 || bytes % PAGE != 0 {
        return Err(LayoutError::BadVolumeSize(bytes));
    }
    if bytes > room {
        return Err(LayoutError::VolumeTooLarge { bytes, room });
    }
    if bytes > DATA_BYTES_MAX {
        return Err(LayoutError::DeviceTooLarge { bytes, maximum: DATA_BYTES_MAX });
    }
    Ok(Geometry { block_shift, blocks: bytes >> block_shift, lanes })
}

fn check_block_shift(shift: u8) -> Result<u8, LayoutError> {
    if shift == 9 || shift == 12 { Ok(shift) } else { Err(LayoutError::BadBlockShift(shift)) }
}

fn check_lanes(lanes: u16) -> Result<(), LayoutError> {
    if (1..=LANES_MAX).contains(&lanes) { Ok(()) } else { Err(LayoutError::BadLanes(lanes)) }
}

fn activity_pages(geometry: &Geometry) -> u64 {
    let per_lane = geometry.extents_per_lane().div_ceil(EXTENTS_PER_ACTIVITY_PAGE);
    u64::from(per_lane) * u64::from(geometry.lanes)
}

fn bitmap_pages(geometry: &Geometry) -> u64 {
    let per_lane = geometry.extents_per_lane().div_ceil(EXTENTS_PER_BITMAP_PAGE);
    u64::from(per_lane) * u64::from(geometry.lanes)
}

fn used_bytes(geometry: &Geometry) -> u64 {
    (activity_pages(geometry) + bitmap_pages(geometry) + 2 * UNIT_STATE_PAGES + 2) * PAGE
}

/// Upper bound of [`used_bytes`] over every geometry that fits `device_bytes`. For `L` lanes of `⌈E/L⌉` extents and
/// `p` extents in a page, the pages are `L·⌈⌈E/L⌉/p⌉ ≤ ⌈E/p⌉ + L`.
fn reserved_bytes(device_bytes: u64) -> u64 {
    let extents = device_bytes.div_ceil(EXTENT_BYTES);
    let spare = u64::from(LANES_MAX);
    let activity = extents.div_ceil(u64::from(EXTENTS_PER_ACTIVITY_PAGE)) + spare;
    let bitmap = extents.div_ceil(u64::from(EXTENTS_PER_BITMAP_PAGE)) + spare;
    (activity + bitmap + 2 * UNIT_STATE_PAGES + 2) * PAGE
}
