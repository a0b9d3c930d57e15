//! The superblock: what the volume is, who this node is in it, and the node's part of the replicated state.
//!
//! ```text
//!   0 magic "TWINLUN\0"       | 8 format version u32  | 12 CRC32C u32 (of the rest of the page)
//!  16 write counter u64       | 24 copy u8 (0, 1)     | 25 node u8 | 26 block shift u8 | 27 metadata kind u8
//!  28 lanes u16               | 30 zero u16           | 32 volume identifier [16]
//!  48 blocks u64              | 56 superblock offsets u64 × 2
//!  72 activity log offset u64 | 80 bitmap offset u64  | 88 end u64
//!  96 flags u32               | 100 zero u32
//! 104 current generation u64  | 112 base generation u64 | 120 generation history u64 × 8
//! 184 arbiter record [32]     | 216 boot identifier [16] | 232 NAA identifier [16]
//! 248 volume name length u8   | 249 serial length u8  | 250 IQN length u8 | 251 zero [5]
//! 256 volume name [64]        | 320 zero [32]         | 352 IQN [224]
//! 576 serial [64]             | 640 unit state offset u64
//! 648 zero [3448]                                                              (all little-endian)
//! ```
//!
//! There are two copies, written in turn: the write with counter `c` goes to copy `c mod 2`, so the newer valid copy
//! always survives the write of the other, and a copy that was torn or went bad is the next to be written. A change
//! of state is durable when one copy is; write the second one too, or one bad page later would bring the state
//! before the change back.
//!
//! Bytes from a disk are an [`UncheckedSuperblock`] until they are verified; only [`SuperblockCopies::choose`] makes
//! a [`Superblock`] of them.

use alloc::string::String;
use core::fmt;

use crate::arbitration::{RECORD_BYTES, Record};
use crate::units::{Geometry, NodeId};

use super::generation::{GENERATION_HISTORY, Generations};
use super::layout::{Layout, LayoutError, MetadataKind};
use super::page::{AT_CRC, PAGE_BYTES, Page, get, is_sealed, put, seal, u16_at, u32_at, u64_at};

/// Version of everything in the metadata area. A release refuses a newer one.
pub const FORMAT_VERSION: u32 = 2;
/// Longest volume name in bytes.
pub const VOLUME_NAME_MAX: usize = 64;
/// Longest SCSI serial number in bytes.
pub const SERIAL_MAX: usize = 64;
/// Longest iSCSI name in bytes (RFC 7143 §4.2.7.1).
pub const IQN_MAX: usize = 223;

const MAGIC: &[u8; 8] = b"TWINLUN\0";
const AT_VERSION: usize = 8;
const AT_COUNTER: usize = AT_CRC + 4;
const AT_COPY: usize = AT_COUNTER + 8;
const AT_NODE: usize = AT_COPY + 1;
const AT_BLOCK_SHIFT: usize = AT_NODE + 1;
const AT_KIND: usize = AT_BLOCK_SHIFT + 1;
const AT_LANES: usize = AT_KIND + 1;
const AT_VOLUME: usize = AT_LANES + 4;
const AT_BLOCKS: usize = AT_VOLUME + 16;
const AT_SUPERBLOCKS: usize = AT_BLOCKS + 8;
const AT_ACTIVITY: usize = AT_SUPERBLOCKS + 16;
const AT_BITMAP: usize = AT_ACTIVITY + 8;
const AT_END: usize = AT_BITMAP + 8;
const AT_FLAGS: usize = AT_END + 8;
const AT_CURRENT: usize = AT_FLAGS + 8;
const AT_BASE: usize = AT_CURRENT + 8;
const AT_HISTORY: usize = AT_BASE + 8;
const AT_RECORD: usize = AT_HISTORY + GENERATION_HISTORY * 8;
const AT_BOOT: usize = AT_RECORD + RECORD_BYTES;
const AT_NAA: usize = AT_BOOT + 16;
const AT_NAME_LEN: usize = AT_NAA + 16;
const AT_SERIAL_LEN: usize = AT_NAME_LEN + 1;
const AT_IQN_LEN: usize = AT_SERIAL_LEN + 1;
const AT_NAME: usize = AT_NAME_LEN + 8;
const AT_IQN: usize = AT_NAME + VOLUME_NAME_MAX + 32;
const AT_SERIAL: usize = AT_IQN + IQN_MAX + 1;
const AT_UNIT_STATE: usize = AT_SERIAL + SERIAL_MAX;

const _: () = {
    assert!(AT_VOLUME == 32 && AT_BLOCKS == 48 && AT_ACTIVITY == 72 && AT_END == 88);
    assert!(AT_FLAGS == 96 && AT_CURRENT == 104 && AT_HISTORY == 120 && AT_RECORD == 184);
    assert!(AT_BOOT == 216 && AT_NAA == 232 && AT_NAME_LEN == 248 && AT_NAME == 256);
    assert!(AT_IQN == 352 && AT_SERIAL == 576 && AT_UNIT_STATE == 640 && 648 < PAGE_BYTES);
};

/// What is special about this node's copy of the data.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub struct DiskFlags {
    /// The copy is the target of an unfinished resync (Inconsistent): it must never be served.
    pub sync_target: bool,
    /// Formatted and never synchronised: the copy holds no data that anyone wrote.
    pub just_created: bool,
    /// Whatever the bitmap says, every block must be copied to this node.
    pub full_sync: bool,
    /// The daemon stopped in order; the activity log was emptied and the device flushed.
    pub clean_shutdown: bool,
    /// The other node went on without this one: this copy lacks acknowledged writes.
    pub outdated: bool,
    /// A life of this node may have granted read leases that its end did not end (R6).
    pub leases: bool,
}

impl DiskFlags {
    const KNOWN: u32 = 0b11_1111;

    /// Bit 0 sync target, 1 just created, 2 full sync, 3 clean shutdown, 4 outdated, 5 leases.
    pub fn bits(self) -> u32 {
        u32::from(self.sync_target)
            | u32::from(self.just_created) << 1
            | u32::from(self.full_sync) << 2
            | u32::from(self.clean_shutdown) << 3
            | u32::from(self.outdated) << 4
            | u32::from(self.leases) << 5
    }

    /// `None` if a bit is set that this release does not know.
    pub fn from_bits(bits: u32) -> Option<Self> {
        (bits & !Self::KNOWN == 0).then_some(Self {
            sync_target: bits & 1 != 0,
            just_created: bits & 2 != 0,
            full_sync: bits & 4 != 0,
            clean_shutdown: bits & 8 != 0,
            outdated: bits & 16 != 0,
            leases: bits & 32 != 0,
        })
    }
}

/// What an initiator recognises the volume by; the same on both nodes (S4).
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct ScsiIdentity {
    /// NAA 6h identifier (SPC-4 §7.8.6.6).
    pub naa: [u8; 16],
    /// At most [`SERIAL_MAX`] bytes.
    pub serial: String,
    /// At most [`IQN_MAX`] bytes.
    pub iqn: String,
}

/// The verified superblock.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct Superblock {
    /// Number of this write; its parity names the copy.
    pub counter: u64,
    pub node: NodeId,
    pub layout: Layout,
    /// Random, the same on both nodes.
    pub volume: [u8; 16],
    /// At most [`VOLUME_NAME_MAX`] bytes.
    pub volume_name: String,
    pub flags: DiskFlags,
    pub generations: Generations,
    /// The arbiter's record as last seen by this node.
    pub record: Record,
    /// The kernel's boot identifier at the last write: tells a reboot from a restart of the daemon.
    pub boot_id: [u8; 16],
    pub identity: ScsiIdentity,
}

impl Superblock {
    /// Counts the next write and says which copy it goes to. Then [`encode`](Self::encode).
    pub fn advance(&mut self) -> usize {
        self.counter = self.counter.checked_add(1).expect("2^64 superblock writes do not happen");
        self.copy()
    }

    /// The copy (0 or 1) that the current counter belongs to.
    pub fn copy(&self) -> usize {
        (self.counter % 2) as usize
    }

    /// Writes the page for copy [`copy`](Self::copy). Lengths of texts were checked by the configuration.
    pub fn encode(&self, out: &mut Page) {
        out.fill(0);
        put(out, 0, MAGIC);
        put(out, AT_VERSION, &FORMAT_VERSION.to_le_bytes());
        put(out, AT_COUNTER, &self.counter.to_le_bytes());
        out[AT_COPY] = self.copy() as u8;
        out[AT_NODE] = self.node.0;
        put(out, AT_VOLUME, &self.volume);
        put_layout(out, &self.layout);
        put(out, AT_FLAGS, &self.flags.bits().to_le_bytes());
        put(out, AT_CURRENT, &self.generations.current.to_le_bytes());
        put(out, AT_BASE, &self.generations.base.to_le_bytes());
        for (place, generation) in self.generations.history.iter().enumerate() {
            put(out, AT_HISTORY + place * 8, &generation.to_le_bytes());
        }
        put(out, AT_RECORD, &self.record.encode());
        put(out, AT_BOOT, &self.boot_id);
        put(out, AT_NAA, &self.identity.naa);
        put_text(out, AT_NAME_LEN, AT_NAME, VOLUME_NAME_MAX, &self.volume_name);
        put_text(out, AT_SERIAL_LEN, AT_SERIAL, SERIAL_MAX, &self.identity.serial);
        put_text(out, AT_IQN_LEN, AT_IQN, IQN_MAX, &self.identity.iqn);
        seal(out);
    }
}

fn put_layout(out: &mut Page, layout: &Layout) {
    out[AT_BLOCK_SHIFT] = layout.geometry.block_shift;
    out[AT_KIND] = layout.kind as u8;
    put(out, AT_LANES, &layout.geometry.lanes.to_le_bytes());
    put(out, AT_BLOCKS, &layout.geometry.blocks.to_le_bytes());
    put(out, AT_SUPERBLOCKS, &layout.superblocks[0].to_le_bytes());
    put(out, AT_SUPERBLOCKS + 8, &layout.superblocks[1].to_le_bytes());
    put(out, AT_ACTIVITY, &layout.activity_log.to_le_bytes());
    put(out, AT_BITMAP, &layout.bitmap.to_le_bytes());
    put(out, AT_UNIT_STATE, &layout.unit_state.to_le_bytes());
    put(out, AT_END, &layout.end.to_le_bytes());
}

fn put_text(out: &mut Page, len_at: usize, at: usize, max: usize, text: &str) {
    assert!(text.len() <= max, "a superblock text has at most {max} bytes");
    out[len_at] = text.len() as u8;
    put(out, at, text.as_bytes());
}

/// Why a page is not a superblock copy.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum CopyError {
    /// The device could not read the page.
    Unreadable,
    /// There is no superblock here.
    NoMagic,
    /// Torn or gone bad.
    BadCrc,
    /// Written by another release.
    UnknownVersion(u32),
    /// The page is intact but belongs to the other copy's place.
    WrongPlace,
    /// A flag of a newer release.
    UnknownFlags(u32),
    BadLayout(LayoutError),
    /// A field that no release writes: its name.
    BadField(&'static str),
}

impl fmt::Display for CopyError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unreadable => write!(f, "the device cannot read it"),
            Self::NoMagic => write!(f, "there is none"),
            Self::BadCrc => write!(f, "its checksum is wrong"),
            Self::UnknownVersion(version) => {
                write!(f, "its format version is {version}; this release knows version {FORMAT_VERSION}")
            }
            Self::WrongPlace => write!(f, "it belongs to another place"),
            Self::UnknownFlags(bits) => write!(f, "its flags {bits:#x} are not known to this release"),
            Self::BadLayout(error) => write!(f, "{error}"),
            Self::BadField(name) => write!(f, "its {name} is not valid"),
        }
    }
}

impl core::error::Error for CopyError {}

/// A page that may be a superblock copy. Nothing in it is believed yet.
#[derive(Clone, Copy, Debug)]
pub struct UncheckedSuperblock<'a> {
    page: &'a Page,
    copy: usize,
}

impl<'a> UncheckedSuperblock<'a> {
    /// `page` was read from the place of copy `copy` (0 or 1).
    pub fn new(page: &'a Page, copy: usize) -> Self {
        Self { page, copy }
    }

    /// Is there something that twinlun wrote, however damaged? For a tool that must not overwrite it unasked.
    pub fn has_magic(&self) -> bool {
        self.page.starts_with(MAGIC)
    }

    /// Checks everything.
    pub fn verify(self) -> Result<Superblock, CopyError> {
        let page = self.page;
        if !self.has_magic() {
            return Err(CopyError::NoMagic);
        }
        if !is_sealed(page) {
            return Err(CopyError::BadCrc);
        }
        let version = u32_at(page, AT_VERSION);
        if version != FORMAT_VERSION {
            return Err(CopyError::UnknownVersion(version));
        }
        let counter = u64_at(page, AT_COUNTER);
        if usize::from(page[AT_COPY]) != self.copy || (counter % 2) as usize != self.copy {
            return Err(CopyError::WrongPlace);
        }
        let node = NodeId(page[AT_NODE]);
        if node.0 > 1 {
            return Err(CopyError::BadField("node number"));
        }
        let bits = u32_at(page, AT_FLAGS);
        let flags = DiskFlags::from_bits(bits).ok_or(CopyError::UnknownFlags(bits))?;
        let record = Record::decode(&page[AT_RECORD..AT_RECORD + RECORD_BYTES])
            .map_err(|_| CopyError::BadField("arbiter record"))?;
        Ok(Superblock {
            counter,
            node,
            layout: layout_of(page)?,
            volume: get(page, AT_VOLUME),
            volume_name: text_of(page, AT_NAME_LEN, AT_NAME, VOLUME_NAME_MAX, "volume name")?,
            flags,
            generations: generations_of(page),
            record,
            boot_id: get(page, AT_BOOT),
            identity: ScsiIdentity {
                naa: get(page, AT_NAA),
                serial: text_of(page, AT_SERIAL_LEN, AT_SERIAL, SERIAL_MAX, "serial number")?,
                iqn: text_of(page, AT_IQN_LEN, AT_IQN, IQN_MAX, "target name")?,
            },
        })
    }
}

fn layout_of(page: &Page) -> Result<Layout, CopyError> {
    let geometry = Geometry {
        block_shift: page[AT_BLOCK_SHIFT],
        blocks: u64_at(page, AT_BLOCKS),
        lanes: u16_at(page, AT_LANES),
    };
    let kind = match page[AT_KIND] {
        0 => MetadataKind::Internal,
        1 => MetadataKind::External,
        _ => return Err(CopyError::BadField("metadata kind")),
    };
    let layout = Layout {
        geometry,
        kind,
        superblocks: [u64_at(page, AT_SUPERBLOCKS), u64_at(page, AT_SUPERBLOCKS + 8)],
        activity_log: u64_at(page, AT_ACTIVITY),
        bitmap: u64_at(page, AT_BITMAP),
        unit_state: u64_at(page, AT_UNIT_STATE),
        end: u64_at(page, AT_END),
    };
    layout.check().map_err(CopyError::BadLayout)?;
    Ok(layout)
}

fn generations_of(page: &Page) -> Generations {
    let mut history = [0; GENERATION_HISTORY];
    for (place, generation) in history.iter_mut().enumerate() {
        *generation = u64_at(page, AT_HISTORY + place * 8);
    }
    Generations { current: u64_at(page, AT_CURRENT), base: u64_at(page, AT_BASE), history }
}

fn text_of(
    page: &Page,
    len_at: usize,
    at: usize,
    max: usize,
    name: &'static str,
) -> Result<String, CopyError> {
    let len = usize::from(page[len_at]);
    if len > max {
        return Err(CopyError::BadField(name));
    }
    let text = core::str::from_utf8(&page[at..at + len]).map_err(|_| CopyError::BadField(name))?;
    Ok(String::from(text))
}

/// Why there is no superblock to believe.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum SuperblockError {
    /// Neither copy can be used.
    BothBad { first: CopyError, second: CopyError },
    /// The copies are of two volumes: formatting the device was interrupted.
    TwoVolumes,
}

impl fmt::Display for SuperblockError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::BothBad { first: CopyError::NoMagic, second: CopyError::NoMagic } => {
                write!(f, "no twinlun metadata found; was the device formatted (`twinlun init`)?")
            }
            Self::BothBad { first, second } => {
                write!(f, "no usable superblock: copy 0: {first}; copy 1: {second}")
            }
            Self::TwoVolumes => {
                write!(f, "the superblock copies are of two volumes; formatting was interrupted, repeat it")
            }
        }
    }
}

impl core::error::Error for SuperblockError {}

/// The two copies as read; `None` is a page that the device could not read.
#[derive(Clone, Copy, Debug)]
pub struct SuperblockCopies<'a> {
    pub first: Option<&'a Page>,
    pub second: Option<&'a Page>,
}

/// The superblock to go on from.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Chosen {
    pub superblock: Superblock,
    /// What is wrong with the other copy, if anything. It is the next to be written.
    pub damaged: Option<CopyError>,
}

impl SuperblockCopies<'_> {
    /// The newer valid copy.
    pub fn choose(self) -> Result<Chosen, SuperblockError> {
        match (verify(self.first, 0), verify(self.second, 1)) {
            (Ok(first), Ok(second)) if first.volume != second.volume => Err(SuperblockError::TwoVolumes),
            (Ok(first), Ok(second)) => {
                let superblock = if first.counter > second.counter { first } else { second };
                Ok(Chosen { superblock, damaged: None })
            }
            (Ok(superblock), Err(error)) | (Err(error), Ok(superblock)) => {
                Ok(Chosen { superblock, damaged: Some(error) })
            }
            (Err(first), Err(second)) => Err(SuperblockError::BothBad { first, second }),
        }
    }
}

fn verify(page: Option<&Page>, copy: usize) -> Result<Superblock, CopyError> {
    UncheckedSuperblock::new(page.ok_or(CopyError::Unreadable)?, copy).verify()
}
