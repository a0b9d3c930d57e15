//! Formatting a node's disk: look, plan, ask, write.
//!
//! Order of the writes: old superblocks away, activity log, bitmap and unit state, then the new superblocks, each step durable
//! before the next. An interrupted format leaves a disk without a superblock, never one with half a volume.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use super::config::{Config, NodeConfig, units::human_bytes};
use super::device;
use super::failure::Failure;
use super::identity;
use super::probe::{self, Claimed, DeviceFacts, Kernel, Obstacle};
use crate::storage::{
    DiskFlags, Generations, LaneState, Layout, LayoutError, MetadataKind, PAGE_BYTES, Page, Superblock,
    SuperblockCopies, UNIT_STATE_BYTES, UncheckedSuperblock, internal_superblocks,
};
use crate::units::LaneId;

/// What `init` was told.
#[derive(Clone, Debug, Default)]
pub struct InitOptions {
    /// Devices whose contents may go, as the configuration names them.
    pub forced: Vec<PathBuf>,
    /// The peer's disk holds the same bytes: no first resync.
    pub assume_clean: bool,
    /// What the disk holds is the volume's data: it stays as it is, and must fit in front of the metadata.
    pub keep_data: bool,
}

/// A format that is checked and not yet written.
#[derive(Debug)]
pub struct Plan {
    pub disk: DeviceFacts,
    /// The device that gets the metadata, if it is not the disk.
    pub metadata: Option<DeviceFacts>,
    /// What is overruled by force, for the question that is asked.
    pub overruled: Vec<String>,
    /// What is kept.
    pub kept: Option<String>,
    pub superblock: Superblock,
}

/// Checks everything that can be checked without writing.
pub fn plan(
    config: &Config,
    node: &NodeConfig,
    options: &InitOptions,
    kernel: &Kernel,
) -> Result<Plan, Failure> {
    for forced in &options.forced {
        if *forced != node.disk && Some(forced) != node.metadata.as_ref() {
            let what = format!("{} is not a device of {} in the configuration", forced.display(), node.name);
            let next =
                format!("to force, name the device as the configuration does: {}", node.disk.display());
            return Err(Failure::usage(what, next));
        }
    }
    let mut overruled = Vec::new();
    let role = format!("the disk of {}", node.name);
    let disk = DeviceFacts::read(&node.disk, &role, kernel)?;
    let mut kept = None;
    let stays = options.keep_data.then_some(&mut kept);
    admit(&disk, &role, node, options, kernel, &mut overruled, stays)?;
    if options.keep_data {
        check_kept(config, node, &disk)?;
    }
    let metadata = match &node.metadata {
        None => None,
        Some(path) => {
            let role = format!("the metadata device of {}", node.name);
            let facts = DeviceFacts::read(path, &role, kernel)?;
            if facts.real == disk.real {
                let what = format!("{} and {} are the same device", path.display(), node.disk.display());
                return Err(Failure::usage(what, "remove the key metadata, or name another device"));
            }
            admit(&facts, &role, node, options, kernel, &mut overruled, None)?;
            Some(facts)
        }
    };
    let block = device::block_bytes(&disk.path, &role)?;
    let layout = layout(config, node, &disk, block, metadata.as_ref()).map_err(|failure| {
        if options.keep_data { no_room_behind_data(failure, node, &disk) } else { failure }
    })?;
    let superblock = superblock(config, node, layout, options)?;
    Ok(Plan { disk, metadata, overruled, kept, superblock })
}

/// Data that is kept has no room behind it for the metadata: to make the volume smaller would be the worst advice.
fn no_room_behind_data(failure: Failure, node: &NodeConfig, disk: &DeviceFacts) -> Failure {
    let next = format!(
        "enlarge {0} first (lvextend -L +64M {0}), or give the metadata a device of its own: metadata = \"/dev/...\" \
         in [node.{1}]",
        disk.path.display(),
        node.name
    );
    Failure { next, ..failure }
}

/// Does the volume hold all of the data that is to be kept?
fn check_kept(config: &Config, node: &NodeConfig, disk: &DeviceFacts) -> Result<(), Failure> {
    let show = disk.path.display();
    let claimed = disk.with_ends(|ends| ends.claimed()).map_err(|error| {
        let what = format!("cannot read {show}, the disk of {}: {error}", node.name);
        Failure::failed(what, "check the device with: dmesg | tail")
    })?;
    let kib = |bytes: u64| bytes.div_ceil(PAGE_BYTES as u64) * (PAGE_BYTES as u64 / 1024);
    match (config.volume.size, claimed) {
        (Some(size), Some(claimed)) if size < claimed.bytes => Err(Failure::refused(
            format!(
                "the {} on {show} reaches to byte {}, and volume.size is {size}: its end would be lost",
                claimed.name, claimed.bytes
            ),
            format!("set volume.size = \"{}KiB\" on both nodes", kib(claimed.bytes)),
        )),
        (Some(_), _) => Ok(()),
        (None, claimed) => {
            let what =
                "--keep-data needs volume.size, so that initiators see a disk of the size that they know";
            let next = match claimed {
                Some(Claimed { name, bytes }) => {
                    format!("set volume.size = \"{}KiB\" on both nodes ({name} on {show})", kib(bytes))
                }
                None => format!(
                    "set it on both nodes; as the disk was served: echo $(($(blockdev --getsize64 {show}) / 1024))KiB"
                ),
            };
            Err(Failure::refused(what, next))
        }
    }
}

/// Refuses a device that is in use, or holds something and is neither forced nor kept.
fn admit(
    facts: &DeviceFacts,
    role: &str,
    node: &NodeConfig,
    options: &InitOptions,
    kernel: &Kernel,
    overruled: &mut Vec<String>,
    kept: Option<&mut Option<String>>,
) -> Result<(), Failure> {
    let show = facts.path.display();
    let forced = options.forced.contains(&facts.path);
    let obstacle = facts.obstacle(kernel)?;
    if let Some(Obstacle::Busy { how, end }) = obstacle {
        let what = format!("{show}, {role}, is {how}: formatting it now would destroy data in use");
        return Err(Failure::refused(what, format!("name another disk, or free this one: {end}")));
    }
    // Our own metadata first: the data of a volume of ours may well carry the signature of a client's file system.
    let ours = existing(facts).map_err(|error| {
        let what = format!("cannot read {show}, {role}: {error}");
        Failure::failed(what, "check the device with: dmesg | tail")
    })?;
    let found = match (ours, obstacle) {
        (None, Some(Obstacle::Signature(found))) => {
            let holds = format!("carries {} ({}, at byte {})", found.name, found.owner, found.offset);
            if let Some(kept) = kept {
                *kept = Some(format!("{show} {holds}"));
                return Ok(());
            }
            let next = format!(
                "name another disk, or, if all of it may go: twinlun init --node {0} --force {show}; if it is to be \
                 the volume's data: twinlun init --node {0} --keep-data",
                node.name
            );
            Some((holds, next))
        }
        (ours, _) => ours,
    };
    match found {
        None => Ok(()),
        Some((holds, _)) if forced => {
            overruled.push(format!("{show} {holds}"));
            Ok(())
        }
        Some((holds, next)) => Err(Failure::refused(format!("{show}, {role}, {holds}"), next)),
    }
}

/// Metadata of ours on the device: what it is, and what to do about it.
fn existing(facts: &DeviceFacts) -> io::Result<Option<(String, String)>> {
    let file = File::open(&facts.real)?;
    let end = facts.size - facts.size % PAGE_BYTES as u64;
    let external = (end >= 2 * PAGE_BYTES as u64).then(|| [end - PAGE_BYTES as u64, 0]);
    let places = internal_superblocks(facts.size).into_iter().chain(external);
    for place in places {
        let first = read_page(&file, place[0])?;
        let second = read_page(&file, place[1])?;
        let ours = UncheckedSuperblock::new(&first, 0).has_magic()
            || UncheckedSuperblock::new(&second, 1).has_magic();
        if !ours {
            continue;
        }
        let again = format!("to begin anew and lose its data: twinlun init --force {}", facts.path.display());
        let copies = SuperblockCopies { first: Some(&first), second: Some(&second) };
        return Ok(Some(match copies.choose() {
            Ok(chosen) => {
                let owner = chosen.superblock;
                let holds = format!(
                    "holds volume {:?} of twinlun already (node {})",
                    owner.volume_name, owner.node.0
                );
                (holds, format!("if it is this volume: twinlun up; {again}"))
            }
            Err(error) => (format!("holds metadata of twinlun that cannot be used: {error}"), again),
        }));
    }
    Ok(None)
}

fn read_page(file: &File, offset: u64) -> io::Result<Box<Page>> {
    let mut page = Box::new([0; PAGE_BYTES]);
    file.read_exact_at(page.as_mut_slice(), offset)?;
    Ok(page)
}

fn layout(
    config: &Config,
    node: &NodeConfig,
    disk: &DeviceFacts,
    block: u32,
    metadata: Option<&DeviceFacts>,
) -> Result<Layout, Failure> {
    let show = disk.path.display();
    let shift = match config.volume.block_size.unwrap_or(block) {
        512 => 9,
        4096 => 12,
        other => {
            let what = format!("{show}, the disk of {}, has sectors of {other} bytes", node.name);
            return Err(Failure::failed(what, "use a disk with sectors of 512 or 4096 bytes"));
        }
    };
    if block > 1 << shift {
        let what = format!(
            "{show}, the disk of {}, has sectors of {block} bytes and cannot serve blocks of {}",
            node.name,
            1 << shift
        );
        return Err(Failure::failed(what, "set volume.block_size = 4096 in the configuration of both nodes"));
    }
    let lanes = config.volume.lanes;
    let made = match (metadata, config.volume.size) {
        (None, None) => Layout::internal(disk.size, shift, lanes),
        (None, Some(size)) => Layout::internal_sized(disk.size, size, shift, lanes),
        (Some(_), Some(size)) if size > disk.size => {
            Err(LayoutError::VolumeTooLarge { bytes: size, room: disk.size })
        }
        (Some(device), size) => Layout::external(size.unwrap_or(disk.size), device.size, shift, lanes),
    };
    made.map_err(|error| layout_failure(node, disk, metadata, &error))
}

fn layout_failure(
    node: &NodeConfig,
    disk: &DeviceFacts,
    metadata: Option<&DeviceFacts>,
    error: &LayoutError,
) -> Failure {
    let show = disk.path.display();
    let name = &node.name;
    let size = human_bytes(disk.size);
    match *error {
        LayoutError::DeviceTooSmall { minimum, .. } => Failure::failed(
            format!("{show}, the disk of {name}, is too small: it has {size} ({} bytes)", disk.size),
            format!("use one of at least {}", human_bytes(minimum)),
        ),
        LayoutError::VolumeTooLarge { bytes, room } => Failure::failed(
            format!(
                "{show}, the disk of {name}, is too small: a volume of {} is wanted, there is room for {}",
                human_bytes(bytes),
                human_bytes(room)
            ),
            format!("use a larger disk, or set volume.size to at most \"{}KiB\" on both nodes", room >> 10),
        ),
        LayoutError::MetadataDeviceTooSmall { minimum, .. } => {
            let (path, bytes) =
                metadata.map_or((disk.path.as_path(), 0), |device| (&device.path, device.size));
            Failure::failed(
                format!(
                    "{}, the metadata device of {name}, is too small: it has {}",
                    path.display(),
                    human_bytes(bytes)
                ),
                format!("use one of at least {}", human_bytes(minimum)),
            )
        }
        other => Failure::failed(
            format!("{show}, the disk of {name} ({size}), cannot hold the volume: {other}"),
            "",
        ),
    }
}

fn superblock(
    config: &Config,
    node: &NodeConfig,
    layout: Layout,
    options: &InitOptions,
) -> Result<Superblock, Failure> {
    let volume = identity::volume_identifier(config);
    let paired = config.replication.is_some();
    let generations = if !paired {
        Generations::new(random()?)
    } else if options.assume_clean {
        // The same on both nodes, so that they meet as equals with nothing to copy.
        let first: [u8; 8] = volume[..8].try_into().expect("an identifier has 16 bytes");
        Generations::new(u64::from_le_bytes(first).max(1))
    } else {
        Generations::default()
    };
    Ok(Superblock {
        counter: 0,
        node: node.id,
        layout,
        volume,
        volume_name: config.volume.name.clone(),
        flags: DiskFlags {
            just_created: paired && !options.assume_clean,
            clean_shutdown: true,
            ..DiskFlags::default()
        },
        generations,
        record: Default::default(),
        boot_id: boot_identifier()?,
        identity: identity::scsi_identity(config),
    })
}

/// Random and not zero.
pub fn random() -> Result<u64, Failure> {
    let number = getrandom::u64().map_err(|error| {
        Failure::failed(format!("the kernel gives no random numbers: {error}"), "check /dev/urandom")
    })?;
    Ok(number.max(1))
}

/// The kernel's identifier of this boot.
pub fn boot_identifier() -> Result<[u8; 16], Failure> {
    let path = "/proc/sys/kernel/random/boot_id";
    let cannot = |why: String| Failure::failed(format!("cannot read {path}: {why}"), "mount /proc");
    let text = fs::read_to_string(path).map_err(|error| cannot(error.to_string()))?;
    let digits = text.trim().replace('-', "");
    let bytes =
        data_encoding::HEXLOWER.decode(digits.as_bytes()).map_err(|error| cannot(error.to_string()))?;
    bytes.try_into().map_err(|_| cannot("it is not 16 bytes long".to_owned()))
}

impl Plan {
    /// The volume's size in bytes.
    pub fn volume_bytes(&self) -> u64 {
        self.superblock.layout.geometry.bytes()
    }

    /// Writes the format.
    pub fn write(mut self) -> Result<(), Failure> {
        let target = self.metadata.as_ref().unwrap_or(&self.disk);
        let show = target.path.display().to_string();
        let cannot = |error: io::Error| {
            let what = format!("writing the metadata to {show} failed: {error}; the device is not formatted");
            Failure::failed(what, "check the device with: dmesg | tail, then run twinlun init again")
        };
        // Both devices are claimed, so that nothing mounts the disk while its metadata is written elsewhere.
        let hold = |facts: &DeviceFacts| probe::claim(&facts.real, facts.number.is_some()).map_err(cannot);
        let _disk = hold(&self.disk)?;
        let _metadata = self.metadata.as_ref().map(hold).transpose()?;
        let file = open(&target.real).map_err(cannot)?;
        write(&file, target.size, &mut self.superblock).map_err(cannot)
    }
}

fn open(path: &Path) -> io::Result<File> {
    OpenOptions::new().read(true).write(true).custom_flags(libc::O_CLOEXEC).open(path)
}

fn write(file: &File, size: u64, superblock: &mut Superblock) -> io::Result<()> {
    let layout = superblock.layout;
    let end = size - size % PAGE_BYTES as u64;
    let nothing = [0; PAGE_BYTES];
    for place in internal_superblocks(size).into_iter().flatten().chain(layout.superblocks) {
        file.write_all_at(&nothing, place)?;
    }
    if layout.kind == MetadataKind::External {
        file.write_all_at(&nothing, end - PAGE_BYTES as u64)?;
    }
    file.sync_all()?;
    write_lanes(file, &layout)?;
    // Nothing is remembered of any initiator.
    for copy in 0..2 {
        file.write_all_at(&[0; UNIT_STATE_BYTES], layout.unit_state_offset(copy))?;
    }
    file.sync_all()?;
    let mut page: Page = [0; PAGE_BYTES];
    for _ in 0..2 {
        let copy = superblock.advance();
        superblock.encode(&mut page);
        file.write_all_at(&page, layout.superblocks[copy])?;
        file.sync_all()?;
    }
    Ok(())
}

/// An empty activity log and bitmap, a lane at a time.
fn write_lanes(file: &File, layout: &Layout) -> io::Result<()> {
    let mut page: Page = [0; PAGE_BYTES];
    for number in 0..layout.geometry.lanes {
        let lane = LaneId(number);
        let state = LaneState::new(layout.lane_shape(lane));
        for number in 0..layout.activity_pages_per_lane() {
            state.activity.encode_page(number, 1, &mut page);
            file.write_all_at(&page, layout.activity_page_offset(lane, number))?;
        }
        for number in 0..layout.bitmap_pages_per_lane() {
            state.bitmap.encode_page(number, 1, &mut page);
            file.write_all_at(&page, layout.bitmap_page_offset(lane, number))?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests;
