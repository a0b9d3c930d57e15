//! A node's devices as the daemon starts from them: opened for this process alone, and their metadata believed only
//! when it is this volume's, this node's, and whole.

use std::io;
use std::path::Path;

use super::config::{Config, NodeConfig, units::human_bytes};
use super::failure::Failure;
use super::identity;
use crate::engine::device::{AlignedBytes, Device, DeviceError};
use crate::storage::{
    Chosen, CopyError, LaneLoader, LaneState, Layout, MetadataKind, PAGE_BYTES, Page, Superblock,
    SuperblockCopies, SuperblockError, UNIT_STATE_BYTES, UncheckedSuperblock, UnitCopies, UnitCopy,
    UnitStateLost, internal_superblocks,
};
use crate::units::LaneId;

/// Bytes of metadata read at a time.
const READ_BYTES: usize = 1 << 20;

/// What a node starts from.
pub struct Opened {
    pub data: Device,
    /// A clone of `data` when the metadata is internal.
    pub metadata: Device,
    pub superblock: Superblock,
    /// What the logical unit remembers of its initiators; `None`: both copies are damaged.
    pub unit: Option<UnitCopy>,
    /// Every lane's state, in order.
    pub lanes: Vec<LaneState>,
    /// What was not as it should be and was mended by assuming the worst: one line each.
    pub warnings: Vec<String>,
}

/// Opens a node's devices and checks that they are what the configuration says.
pub fn open(config: &Config, node: &NodeConfig) -> Result<Opened, Failure> {
    let role = format!("the disk of {}", node.name);
    let data = Device::open(&node.disk).map_err(|error| device_failure(&error, &role))?;
    let metadata = match &node.metadata {
        None => data.clone(),
        Some(path) => {
            let role = format!("the metadata device of {}", node.name);
            Device::open(path).map_err(|error| device_failure(&error, &role))?
        }
    };
    let external = node.metadata.is_some();
    let read = |offset| read_page(&metadata, offset);
    let chosen = read_superblock(read, metadata.facts().bytes, external)
        .map_err(|problem| superblock_failure(&problem, &metadata, node))?;
    let superblock = chosen.superblock;
    check_owner(config, node, &superblock, &metadata)?;
    check_shape(config, node, &superblock, &data, &metadata)?;
    let mut warnings = Vec::new();
    if let Some(damage) = chosen.damaged {
        let copy = 1 - superblock.copy();
        warnings.push(format!(
            "superblock copy {copy} of {} is not usable ({damage}); it is rewritten",
            node.name
        ));
    }
    if config.volume.lanes != superblock.layout.geometry.lanes {
        warnings.push(format!(
            "the volume has {} lanes since it was formatted; volume.lanes = {} has no effect",
            superblock.layout.geometry.lanes, config.volume.lanes
        ));
    }
    let lanes = load_lanes(&metadata, &superblock.layout).map_err(|error| {
        let what = format!("cannot read the metadata of {}: {error}", node.name);
        Failure::failed(what, format!("check {} with: dmesg | tail", metadata.path().display()))
    })?;
    let damaged: u32 = lanes.iter().map(|lane| lane.damaged).sum();
    if damaged > 0 {
        warnings.push(format!(
            "{damaged} pages of the activity log or bitmap were not usable; what they cover will be resynced"
        ));
    }
    let unit = load_unit(&metadata, &superblock);
    if let Err(lost) = &unit {
        let then = match config.replication {
            Some(_) => "the other node has them: where it may lead, this one follows it first",
            None => "initiators must register anew",
        };
        warnings.push(format!("{lost}; {then}"));
    }
    let unit = unit.ok();
    Ok(Opened { data, metadata, superblock, unit, lanes, warnings })
}

/// Smallest unit of I/O of a device, in bytes.
pub fn block_bytes(path: &Path, role: &str) -> Result<u32, Failure> {
    let device = Device::open(path).map_err(|error| device_failure(&error, role))?;
    Ok(device.facts().logical_block.max(device.facts().offset_align))
}

fn device_failure(error: &DeviceError, role: &str) -> Failure {
    let next = match error {
        DeviceError::Open { error, .. } if error.kind() == io::ErrorKind::NotFound => {
            "correct the path in the configuration (lsblk -o PATH,SIZE,MODEL lists the disks)"
        }
        DeviceError::Open { error, .. } if error.kind() == io::ErrorKind::PermissionDenied => {
            "run this as root"
        }
        DeviceError::InUse { path } => {
            let next = format!("find who has it with: fuser -v {0}, lsblk {0}", path.display());
            return Failure::refused(format!("{role}: {error}"), next);
        }
        DeviceError::NotADevice { .. } => "name a disk, a partition or a file in the configuration",
        _ => "use another device, or see dmesg",
    };
    Failure::failed(format!("{role}: {error}"), next)
}

fn read_page(device: &Device, offset: u64) -> io::Result<Box<Page>> {
    let mut bytes = AlignedBytes::zeroed(PAGE_BYTES);
    device.read_at(&mut bytes, offset)?;
    let mut page = Box::new([0; PAGE_BYTES]);
    page.copy_from_slice(bytes.as_slice());
    Ok(page)
}

/// Why a device cannot be started from.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum SuperblockProblem {
    /// Too small for any volume.
    NoRoom,
    /// Written by another release.
    OtherVersion(u32),
    Unusable(SuperblockError),
}

/// Reads the superblock of a node's metadata. `external`: the device holds nothing but metadata.
pub fn read_superblock(
    read: impl Fn(u64) -> io::Result<Box<Page>>,
    size: u64,
    external: bool,
) -> Result<Chosen, SuperblockProblem> {
    let end = size - size % PAGE_BYTES as u64;
    let places = if external {
        (end >= 2 * PAGE_BYTES as u64).then(|| [end - PAGE_BYTES as u64, 0])
    } else {
        internal_superblocks(size)
    };
    let [first, second] = places.ok_or(SuperblockProblem::NoRoom)?;
    let (first, second) = (read(first).ok(), read(second).ok());
    // One copy of a newer release is enough to stop: the other may be an old state of the same volume.
    let newer = [(&first, 0), (&second, 1)].into_iter().find_map(|(page, copy)| {
        match UncheckedSuperblock::new(page.as_ref()?, copy).verify() {
            Err(CopyError::UnknownVersion(version)) => Some(version),
            _ => None,
        }
    });
    if let Some(version) = newer {
        return Err(SuperblockProblem::OtherVersion(version));
    }
    let copies = SuperblockCopies { first: first.as_deref(), second: second.as_deref() };
    copies.choose().map_err(SuperblockProblem::Unusable)
}

fn superblock_failure(problem: &SuperblockProblem, metadata: &Device, node: &NodeConfig) -> Failure {
    let (show, name) = (metadata.path().display(), &node.name);
    let init = format!("twinlun init --node {name}, if this is the right device");
    match problem {
        SuperblockProblem::NoRoom => {
            let size = human_bytes(metadata.facts().bytes);
            Failure::failed(format!("{show} of {name} has {size}, too small for any volume"), init)
        }
        SuperblockProblem::OtherVersion(version) => Failure::failed(
            format!("{show} of {name} was written by another release (metadata version {version})"),
            "start the twinlund that wrote it; this one has changed nothing",
        ),
        SuperblockProblem::Unusable(SuperblockError::BothBad {
            first: CopyError::NoMagic,
            second: CopyError::NoMagic,
        }) => Failure::failed(format!("{show} of {name} holds no volume of twinlun"), init),
        SuperblockProblem::Unusable(error) => {
            let next = format!(
                "look for failing hardware (dmesg); if this copy is lost: twinlun init --node {name} --force {show}, and it is resynced from its peer"
            );
            Failure::failed(format!("{show} of {name}: {error}"), next)
        }
    }
}

/// Is this the volume and the node that the configuration means?
fn check_owner(
    config: &Config,
    node: &NodeConfig,
    superblock: &Superblock,
    metadata: &Device,
) -> Result<(), Failure> {
    let show = metadata.path().display();
    let next = "correct the configuration, or the device in it; nothing was changed";
    if superblock.volume_name != config.volume.name {
        let what = format!(
            "{show} holds volume {:?}, the configuration is for {:?}",
            superblock.volume_name, config.volume.name
        );
        return Err(Failure::refused(what, next));
    }
    let wanted = identity::scsi_identity(config);
    if superblock.identity.iqn != wanted.iqn {
        let what = format!(
            "{show} was formatted for target {}, the configuration says {}: initiators would see another disk",
            superblock.identity.iqn, wanted.iqn
        );
        return Err(Failure::refused(what, next));
    }
    if superblock.volume != identity::volume_identifier(config) {
        let what = format!("{show} holds another volume that is also called {:?}", config.volume.name);
        return Err(Failure::refused(what, next));
    }
    if superblock.identity.serial != wanted.serial {
        let what = format!(
            "{show} was formatted with serial number {:?}, the configuration says {:?}: initiators would see another disk",
            superblock.identity.serial, wanted.serial
        );
        return Err(Failure::refused(what, next));
    }
    if superblock.identity.naa != wanted.naa {
        let hexadecimal = |naa: &[u8; 16]| data_encoding::HEXLOWER.encode(naa);
        let what = format!(
            "{show} was formatted with NAA designator {}, the configuration says {}: initiators would see another disk",
            hexadecimal(&superblock.identity.naa),
            hexadecimal(&wanted.naa)
        );
        return Err(Failure::refused(what, next));
    }
    if superblock.node != node.id {
        let owner = config.node(superblock.node).map_or("another node", |owner| owner.name.as_str());
        let what =
            format!("{show} holds the copy of {owner} (id {}), this is {}", superblock.node.0, node.name);
        return Err(Failure::refused(what, "swap the disks or the node sections of the configuration"));
    }
    let paired = superblock.flags.just_created || superblock.record.epoch.0 > 0;
    if config.replication.is_none() && paired {
        let what = format!(
            "{show} belongs to a pair, the configuration has no [replication]: the nodes would go apart"
        );
        return Err(Failure::refused(what, format!("add it, or begin anew: twinlun init --force {show}")));
    }
    Ok(())
}

/// Do the devices still have the shape they were formatted with?
fn check_shape(
    config: &Config,
    node: &NodeConfig,
    superblock: &Superblock,
    data: &Device,
    metadata: &Device,
) -> Result<(), Failure> {
    let layout = &superblock.layout;
    let (show, name) = (data.path().display(), &node.name);
    let kind = if node.metadata.is_some() { MetadataKind::External } else { MetadataKind::Internal };
    if layout.kind != kind {
        let what = format!("{} was formatted with its metadata elsewhere", metadata.path().display());
        return Err(Failure::refused(what, format!("check the key node.{name}.metadata")));
    }
    let bytes = layout.geometry.bytes();
    if data.facts().bytes < bytes || metadata.facts().bytes < layout.end {
        let what = format!(
            "{show} of {name} has shrunk: it has {}, the volume and its metadata need {}",
            human_bytes(data.facts().bytes),
            human_bytes(bytes.max(if kind == MetadataKind::Internal { layout.end } else { 0 }))
        );
        return Err(Failure::refused(what, "use the disk that was formatted, or restore its size"));
    }
    let block = data.facts().logical_block.max(data.facts().offset_align);
    if block > layout.geometry.block_bytes() {
        let what = format!(
            "{show} of {name} has sectors of {block} bytes, the volume has blocks of {}",
            layout.geometry.block_bytes()
        );
        return Err(Failure::refused(what, "use a disk with the sectors that the volume was formatted for"));
    }
    if config.volume.size.is_some_and(|size| size != bytes) {
        let what = format!(
            "the volume on {show} has {} ({bytes} bytes), volume.size says otherwise; a volume cannot be resized yet",
            human_bytes(bytes)
        );
        return Err(Failure::refused(
            what,
            format!("set volume.size = \"{}KiB\", or remove it", bytes >> 10),
        ));
    }
    Ok(())
}

/// Reads every lane's activity log and bitmap. A page that cannot be read counts as lost, not as an error: what it
/// covers is then taken to differ.
fn load_lanes(metadata: &Device, layout: &Layout) -> io::Result<Vec<LaneState>> {
    let mut pages = PageReader { device: metadata, bytes: AlignedBytes::zeroed(READ_BYTES), from: 0, to: 0 };
    let lanes = layout.geometry.lanes;
    let mut loaders: Vec<LaneLoader> = (0..lanes).map(|lane| LaneLoader::new(layout, LaneId(lane))).collect();
    for (lane, loader) in (0..).map(LaneId).zip(&mut loaders) {
        for page in 0..layout.activity_pages_per_lane() {
            // The lane's state counts the damage.
            let _ = loader.on_activity_page(pages.page(layout.activity_page_offset(lane, page), layout.end));
        }
    }
    for (lane, loader) in (0..).map(LaneId).zip(&mut loaders) {
        for page in 0..layout.bitmap_pages_per_lane() {
            let _ = loader.on_bitmap_page(pages.page(layout.bitmap_page_offset(lane, page), layout.end));
        }
    }
    Ok(loaders.into_iter().map(LaneLoader::finish).collect())
}

/// Reads both copies of the unit state. A page that cannot be read makes its copy unreadable.
fn load_unit(metadata: &Device, superblock: &Superblock) -> Result<UnitCopy, UnitStateLost> {
    let copies = [0, 1].map(|copy| {
        let mut bytes = AlignedBytes::zeroed(UNIT_STATE_BYTES);
        metadata.read_at(&mut bytes, superblock.layout.unit_state_offset(copy)).ok().map(|()| bytes)
    });
    let [first, second] = copies.each_ref().map(|copy| copy.as_ref().map(AlignedBytes::as_slice));
    UnitCopies { first, second }.choose(&superblock.volume)
}

/// Reads pages through a window, because they are asked for in the order of the disk.
struct PageReader<'a> {
    device: &'a Device,
    bytes: AlignedBytes,
    /// What of the device is in `bytes`.
    from: u64,
    to: u64,
}

impl PageReader<'_> {
    /// The page at `offset`; `None` if the device cannot read it. `end`: nothing behind it is read.
    fn page(&mut self, offset: u64, end: u64) -> Option<&Page> {
        let page = PAGE_BYTES as u64;
        if offset < self.from || offset + page > self.to {
            let window = (READ_BYTES as u64).min(end - offset);
            if self.fill(offset, window).is_err() {
                // The bad place may be another page of the window.
                self.fill(offset, page).ok()?;
            }
        }
        let at = (offset - self.from) as usize;
        self.bytes.as_slice()[at..at + PAGE_BYTES].first_chunk()
    }

    fn fill(&mut self, offset: u64, len: u64) -> io::Result<()> {
        (self.from, self.to) = (0, 0);
        self.bytes = AlignedBytes::zeroed(len as usize);
        self.device.read_at(&mut self.bytes, offset)?;
        (self.from, self.to) = (offset, offset + len);
        Ok(())
    }
}

#[cfg(test)]
mod tests;
