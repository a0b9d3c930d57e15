//! What the engine's tests share: a disk in a file, a plan for it, an initiator.

#![allow(dead_code, reason = "each test program uses its part")]

pub mod initiator;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use twinlun::arbitration::Reads;
use twinlun::engine::device::{AlignedBytes, Device};
use twinlun::engine::{EnginePlan, LinkPlan, Tuning};
use twinlun::iscsi::{Access, Caps, Limits, TargetConfig};
use twinlun::scsi::{DeviceIdentity, LogicalUnit, Provisioning, Target, TargetPort};
use twinlun::storage::{
    DiskFlags, Generations, LaneLoader, LaneState, Layout, PAGE_BYTES, ScsiIdentity, Superblock,
    SuperblockCopies, UNIT_STATE_BYTES, UnitCopies, UnitCopy,
};
use twinlun::units::{LaneId, NodeId};
use twinlun::volume::mutant::Mutants;

pub const IQN: &str = "iqn.2026-11.example:test";
pub const PATIENCE: Duration = Duration::from_secs(20);
const LANES: u16 = 4;

/// A file that stands for a disk. It lies beside the test program: a temporary directory may be memory, which takes no
/// direct I/O.
pub struct Disk {
    _directory: tempfile::TempDir,
    path: PathBuf,
}

impl Disk {
    pub fn new(bytes: u64) -> Self {
        let program = std::env::current_exe().expect("the test has a path");
        let directory = tempfile::tempdir_in(program.parent().expect("in a directory")).expect("directory");
        let path = directory.path().join("disk");
        std::fs::File::create(&path).and_then(|file| file.set_len(bytes)).expect("file");
        Self { _directory: directory, path }
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Writes fresh metadata for a node of a pair, or for a node alone.
    pub fn format(&self, node: u8, paired: bool) {
        let device = Device::open(&self.path).expect("direct I/O");
        let layout = Layout::internal(device.facts().bytes, 9, LANES).expect("large enough");
        let mut superblock = Superblock {
            counter: 0,
            node: NodeId(node),
            layout,
            volume: [7; 16],
            volume_name: "test".to_owned(),
            flags: DiskFlags { just_created: paired, clean_shutdown: true, ..DiskFlags::default() },
            generations: Generations::default(),
            record: Default::default(),
            boot_id: [1; 16],
            identity: ScsiIdentity { naa: [0x60; 16], serial: "0001".to_owned(), iqn: IQN.to_owned() },
        };
        for lane in (0..LANES).map(LaneId) {
            let state = LaneState::new(layout.lane_shape(lane));
            let mut page = [0; PAGE_BYTES];
            for number in 0..layout.activity_pages_per_lane() {
                state.activity.encode_page(number, 1, &mut page);
                write_page(&device, layout.activity_page_offset(lane, number), &page);
            }
            for number in 0..layout.bitmap_pages_per_lane() {
                state.bitmap.encode_page(number, 1, &mut page);
                write_page(&device, layout.bitmap_page_offset(lane, number), &page);
            }
        }
        for _ in 0..2 {
            let copy = superblock.advance();
            let mut page = [0; PAGE_BYTES];
            superblock.encode(&mut page);
            write_page(&device, layout.superblocks[copy], &page);
        }
        device.flush().expect("flush");
    }

    /// Reads the metadata and makes the plan of a node.
    pub fn plan(&self, shards: u8, link: Option<LinkPlan>, tuning: Tuning) -> EnginePlan {
        let device = Device::open(&self.path).expect("the disk is free");
        let offsets = twinlun::storage::internal_superblocks(device.facts().bytes).expect("large enough");
        let copies = offsets.map(|offset| read_page(&device, offset));
        let chosen = SuperblockCopies { first: Some(&copies[0]), second: Some(&copies[1]) }.choose();
        let superblock = chosen.expect("formatted").superblock;
        let layout = superblock.layout;
        let unit = load_unit(&device, &superblock);
        let lanes = (0..LANES).map(|lane| load_lane(&device, &layout, LaneId(lane))).collect();
        EnginePlan {
            standby_serves: false,
            reads: Reads::Confirm,
            shards,
            cpus: Vec::new(),
            data: device.clone(),
            metadata: device,
            superblock,
            unit: Some(unit),
            boot_id: [1; 16],
            lanes,
            hot_extents_per_lane: 16,
            hold_limit: Some(std::time::Duration::from_secs(45)),
            portals: vec!["127.0.0.1:0".parse().expect("an address")],
            target: Arc::new(target(layout)),
            faces: Vec::new(),
            link,
            tuning,
            mutants: Mutants::default(),
        }
    }
}

fn load_unit(device: &Device, superblock: &Superblock) -> UnitCopy {
    let copies = [0, 1].map(|copy| {
        let mut bytes = AlignedBytes::zeroed(UNIT_STATE_BYTES);
        device.read_at(&mut bytes, superblock.layout.unit_state_offset(copy)).expect("read");
        bytes
    });
    let [first, second] = copies.each_ref().map(|copy| Some(copy.as_slice()));
    UnitCopies { first, second }.choose(&superblock.volume).expect("the unit state is whole")
}

fn load_lane(device: &Device, layout: &Layout, lane: LaneId) -> LaneState {
    let mut loader = LaneLoader::new(layout, lane);
    for number in 0..layout.activity_pages_per_lane() {
        let page = read_page(device, layout.activity_page_offset(lane, number));
        assert!(loader.on_activity_page(Some(&page)).is_none(), "activity log page {number} is whole");
    }
    for number in 0..layout.bitmap_pages_per_lane() {
        let page = read_page(device, layout.bitmap_page_offset(lane, number));
        assert!(loader.on_bitmap_page(Some(&page)).is_none(), "bitmap page {number} is whole");
    }
    loader.finish()
}

fn read_page(device: &Device, offset: u64) -> [u8; PAGE_BYTES] {
    let mut bytes = AlignedBytes::zeroed(PAGE_BYTES);
    device.read_at(&mut bytes, offset).expect("read");
    bytes.as_slice().try_into().expect("one page")
}

fn write_page(device: &Device, offset: u64, page: &[u8; PAGE_BYTES]) {
    let mut bytes = AlignedBytes::zeroed(PAGE_BYTES);
    bytes.as_mut_slice().copy_from_slice(page);
    device.write_at(&bytes, offset).expect("write");
}

fn target(layout: Layout) -> TargetConfig {
    let identity = DeviceIdentity {
        vendor: *b"TWINLUN ",
        product: *b"disk            ",
        revision: *b"0001",
        serial: "0001".to_owned(),
        naa: [0x60; 16],
    };
    let mut unit = LogicalUnit::new(identity, layout.geometry, 12, true).expect("a good identity");
    unit.provisioning = Provisioning::Thin;
    let port = TargetPort {
        target_name: IQN.to_owned(),
        portal_group_tag: 1,
        relative_id: 1,
        target_port_group: 1,
        peer: None,
    };
    TargetConfig {
        name: IQN.to_owned(),
        alias: String::new(),
        portals: Vec::new(),
        portal_group_tag: 1,
        peer_portals: None,
        access: Access::default(),
        caps: Caps::default(),
        limits: Limits::default(),
        scsi: Target::new(port, vec![(0, unit)]).expect("one logical unit"),
    }
}
