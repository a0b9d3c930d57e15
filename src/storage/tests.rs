//! Golden bytes (checksums computed by an implementation of their own), torn pages, and comparison with naive sets.

use alloc::collections::BTreeSet;
use alloc::string::String;
use alloc::vec::Vec;

use proptest::prelude::*;

use super::*;
use crate::arbitration::{Epoch, NodeSet, Record};
use crate::units::{BlockRange, EXTENT_BYTES, ExtentNo, Geometry, LANES_MAX, LaneId, Lba, NodeId};

const SECTOR: usize = 512;
const MIB: u64 = 1 << 20;

/// A page that is zero but for the given places.
fn sparse(places: &[(usize, &[u8])]) -> Page {
    let mut page = [0; PAGE_BYTES];
    for (at, bytes) in places {
        page[*at..at + bytes.len()].copy_from_slice(bytes);
    }
    page
}

fn shape(extents: u32, last_blocks: u16) -> LaneShape {
    LaneShape { lane: LaneId(2), extents, last_blocks }
}

fn activity(extents: u32, hot: &[u32]) -> ActivityLog {
    let mut log = ActivityLog::new(LaneId(3), extents);
    for &index in hot {
        log.set_hot(index);
    }
    log
}

fn hot(log: &ActivityLog) -> Vec<u32> {
    log.iter_hot().collect()
}

fn set_bits(bitmap: &Bitmap) -> BTreeSet<(u32, u16)> {
    bitmap.runs().flat_map(|(index, first, count)| (first..first + count).map(move |b| (index, b))).collect()
}

fn superblock() -> Superblock {
    Superblock {
        counter: 5,
        node: NodeId(1),
        layout: Layout::internal(64 * MIB, 9, 16).expect("64 MiB hold a volume"),
        volume: core::array::from_fn(|at| at as u8),
        volume_name: String::from("vol1"),
        flags: DiskFlags { sync_target: true, clean_shutdown: true, ..DiskFlags::default() },
        generations: Generations { current: 0x1111, base: 0x2222, history: [0x3333, 0, 0, 0, 0, 0, 0, 0] },
        record: Record {
            epoch: Epoch(6),
            primary: Some(NodeId(1)),
            in_sync: NodeSet::only(NodeId(1)),
            nonce: 0xABCD,
        },
        boot_id: [0xB0; 16],
        identity: ScsiIdentity {
            naa: core::array::from_fn(|at| if at == 0 { 0x60 } else { 0x11 }),
            serial: String::from("S42"),
            iqn: String::from("iqn.2026-11.example:one"),
        },
    }
}

fn encoded(superblock: &Superblock) -> Page {
    let mut page = [0xEE; PAGE_BYTES];
    superblock.encode(&mut page);
    page
}

fn choose(first: &Page, second: &Page) -> Result<Chosen, SuperblockError> {
    SuperblockCopies { first: Some(first), second: Some(second) }.choose()
}

/// A superblock and its successor, as the pages of copies 0 and 1, the older one first.
fn old_and_new() -> (Superblock, Superblock, Page, Page) {
    let mut old = superblock();
    old.advance();
    let mut new = old.clone();
    new.advance();
    new.generations.go_alone(0x4444);
    assert_eq!((old.copy(), new.copy()), (0, 1));
    let pages = (encoded(&old), encoded(&new));
    (old, new, pages.0, pages.1)
}

#[test]
fn activity_page_has_its_documented_bytes() {
    let log = activity(4000, &[0, 65, 3840]);
    let mut page = [0xEE; PAGE_BYTES];
    log.encode_page(0, 7, &mut page);
    let crcs: [u32; 8] = [
        0x0C64_7509,
        0x2E46_5E74,
        0x66AC_0A2A,
        0x26A4_0FF6,
        0xE370_6013,
        0xA378_65CF,
        0x6360_6BAB,
        0x2368_6E77,
    ];
    let mut expected = [0; PAGE_BYTES];
    for (number, crc) in crcs.iter().enumerate() {
        let sector = &mut expected[number * SECTOR..][..SECTOR];
        sector[..8].copy_from_slice(&[b'T', b'W', b'A', b'L', 3, 0, number as u8, 0]);
        sector[12..16].copy_from_slice(&crc.to_le_bytes());
        sector[16] = 7;
    }
    expected[32] = 1;
    expected[40] = 2;
    expected[SECTOR + 32] = 1;
    assert_eq!(page, expected);
}

#[test]
fn bitmap_page_has_its_documented_bytes() {
    let mut bitmap = Bitmap::new(shape(40, 1024));
    bitmap.set(31, 0, 3);
    bitmap.set(33, 1023, 1);
    bitmap.set(3, 7, 7);
    let mut page = [0xEE; PAGE_BYTES];
    bitmap.encode_page(1, 9, &mut page);
    let expected = sparse(&[
        (0, b"TWBM\x02\0\0\0\x01\0\0\0\x31\xDD\xCC\x7C\x09"),
        (128, &[0b111]),
        (128 + 2 * 128 + 127, &[0x80]),
    ]);
    assert_eq!(page, expected);
}

#[test]
fn superblock_has_its_documented_bytes() {
    let metadata = 66_502_656_u64;
    let expected = sparse(&[
        (0, b"TWINLUN\0\x02\0\0\0\x53\x90\x9A\x88\x05\0\0\0\0\0\0\0\x01\x01\x09\0\x10\0\0\0"),
        (32, &[0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15]),
        (48, &(metadata / 512).to_le_bytes()),
        (56, &(64 * MIB - 4096).to_le_bytes()),
        (64, &metadata.to_le_bytes()),
        (72, &(metadata + 4096).to_le_bytes()),
        (80, &(metadata + 17 * 4096).to_le_bytes()),
        (88, &(64 * MIB).to_le_bytes()),
        (96, &[0b1001]),
        (104, &[0x11, 0x11]),
        (112, &[0x22, 0x22]),
        (120, &[0x33, 0x33]),
        (184, &[6]),
        (192, &[0xCD, 0xAB]),
        (200, &[1, 2]),
        (212, &0xB9A6_C1B8_u32.to_le_bytes()),
        (216, &[0xB0; 16]),
        (232, &[0x60]),
        (233, &[0x11; 15]),
        (248, &[4, 3, 23]),
        (256, b"vol1"),
        (352, b"iqn.2026-11.example:one"),
        (576, b"S42"),
        (640, &(metadata + 33 * 4096).to_le_bytes()),
    ]);
    let page = encoded(&superblock());
    assert_eq!(page[..576], expected[..576]);
    assert_eq!(page, expected);
    assert_eq!(UncheckedSuperblock::new(&page, 1).verify(), Ok(superblock()));
}

#[test]
fn the_newer_copy_wins_and_the_worse_is_written_next() {
    let (old, new, old_page, new_page) = old_and_new();
    assert_eq!(choose(&old_page, &new_page), Ok(Chosen { superblock: new.clone(), damaged: None }));
    let chosen = SuperblockCopies { first: Some(&old_page), second: None }.choose();
    let mut chosen = chosen.expect("one copy is good");
    assert_eq!(chosen, Chosen { superblock: old, damaged: Some(CopyError::Unreadable) });
    assert_eq!(chosen.superblock.advance(), 1, "the damaged copy is replaced");
    let wrong_way = choose(&new_page, &old_page);
    let bad = SuperblockError::BothBad { first: CopyError::WrongPlace, second: CopyError::WrongPlace };
    assert_eq!(wrong_way, Err(bad));
}

#[test]
fn a_superblock_torn_at_any_sector_leaves_the_other_copy() {
    let (old, new, old_page, new_page) = old_and_new();
    let mut newest = new.clone();
    newest.advance();
    newest.flags.outdated = true;
    let newest_page = encoded(&newest);
    for edge in (0..=PAGE_BYTES).step_by(SECTOR) {
        let mut torn = old_page;
        torn[..edge].copy_from_slice(&newest_page[..edge]);
        let chosen = choose(&torn, &new_page).expect("copy 1 was not touched");
        // Everything that differs lies in the first sector.
        assert_eq!(chosen.superblock, if edge == 0 { new.clone() } else { newest.clone() }, "edge {edge}");
        torn = old_page;
        torn[edge..].fill(0xFF);
        let chosen = choose(&torn, &new_page).expect("copy 1 was not touched");
        assert_eq!(chosen.superblock, new);
        assert_eq!(chosen.damaged.is_none(), edge == PAGE_BYTES);
    }
    assert_eq!(choose(&old_page, &[0; PAGE_BYTES]).map(|chosen| chosen.superblock), Ok(old));
}

#[test]
fn every_damaged_bit_of_a_superblock_is_noticed() {
    let page = encoded(&superblock());
    for at in 0..PAGE_BYTES {
        let mut damaged = page;
        damaged[at] ^= 1 << (at % 8);
        assert!(UncheckedSuperblock::new(&damaged, 1).verify().is_err(), "byte {at}");
    }
}

#[test]
fn intact_superblocks_that_make_no_sense_are_refused() {
    let refused = |at: usize, byte: u8| {
        let mut page = encoded(&superblock());
        page[at] = byte;
        page::seal(&mut page);
        UncheckedSuperblock::new(&page, 1).verify().expect_err("a wrong field")
    };
    assert_eq!(refused(8, 1), CopyError::UnknownVersion(1));
    assert_eq!(refused(24, 0), CopyError::WrongPlace);
    assert_eq!(refused(25, 2), CopyError::BadField("node number"));
    assert_eq!(refused(26, 10), CopyError::BadLayout(LayoutError::BadBlockShift(10)));
    assert_eq!(refused(27, 2), CopyError::BadField("metadata kind"));
    assert_eq!(refused(28, 0), CopyError::BadLayout(LayoutError::BadLanes(0)));
    assert_eq!(refused(28, 65), CopyError::BadLayout(LayoutError::BadLanes(65)));
    assert_eq!(refused(56, 1), CopyError::BadLayout(LayoutError::Inconsistent));
    assert_eq!(refused(79, 0xFF), CopyError::BadLayout(LayoutError::Inconsistent));
    assert!(matches!(refused(53, 0xFF), CopyError::BadLayout(LayoutError::VolumeTooLarge { .. })));
    assert_eq!(refused(99, 0x80), CopyError::UnknownFlags(0x8000_0009));
    assert_eq!(refused(184, 0), CopyError::BadField("arbiter record"));
    assert_eq!(refused(248, 65), CopyError::BadField("volume name"));
    assert_eq!(refused(249, 65), CopyError::BadField("serial number"));
    assert_eq!(refused(250, 224), CopyError::BadField("target name"));
    assert_eq!(refused(256, 0xFF), CopyError::BadField("volume name"));
}

#[test]
fn two_volumes_on_one_device_are_told() {
    let (_, mut new, old_page, _) = old_and_new();
    new.volume = [0xAA; 16];
    assert_eq!(choose(&old_page, &encoded(&new)), Err(SuperblockError::TwoVolumes));
    let none = choose(&[0; PAGE_BYTES], &[0; PAGE_BYTES]).expect_err("an empty device");
    assert!(alloc::format!("{none}").contains("twinlun init"));
}

#[test]
fn flags_keep_their_bits() {
    for bits in 0..=63 {
        assert_eq!(DiskFlags::from_bits(bits).map(DiskFlags::bits), Some(bits));
    }
    assert_eq!(DiskFlags::from_bits(64), None);
}

#[test]
fn a_torn_activity_page_is_a_mixture_that_is_right() {
    let extents = EXTENTS_PER_ACTIVITY_PAGE;
    let per_sector = EXTENTS_PER_SECTOR;
    let old: Vec<u32> = (0..8).map(|sector| sector * per_sector).collect();
    let new: Vec<u32> = (0..8).map(|sector| sector * per_sector + 1).collect();
    let (mut old_page, mut new_page) = ([0; PAGE_BYTES], [0; PAGE_BYTES]);
    activity(extents, &old).encode_page(0, 1, &mut old_page);
    activity(extents, &new).encode_page(0, 2, &mut new_page);
    for sectors in 0..=8 {
        let edge = sectors * SECTOR;
        let mut torn = old_page;
        torn[..edge].copy_from_slice(&new_page[..edge]);
        let mut log = ActivityLog::new(LaneId(3), extents);
        assert_eq!(log.decode_page(0, &torn), Damage::NONE);
        let expected: Vec<u32> = new[..sectors].iter().chain(&old[sectors..]).copied().collect();
        assert_eq!(hot(&log), expected);
        assert_eq!(log.sequence(), if sectors == 0 { 1 } else { 2 });

        // The rest of the page never written at all.
        torn[edge..].fill(0);
        assert_eq!(log.decode_page(0, &torn), Damage(8 - sectors as u8));
        let lost = sectors as u32 * per_sector..extents;
        let expected: Vec<u32> = new[..sectors].iter().copied().chain(lost).collect();
        assert_eq!(hot(&log), expected);
        assert_eq!(log.hot_count() as usize, expected.len());
    }
}

#[test]
fn a_sector_torn_inside_is_all_hot() {
    let (mut old_page, mut new_page) = ([0; PAGE_BYTES], [0; PAGE_BYTES]);
    activity(8000, &[1]).encode_page(0, 1, &mut old_page);
    activity(8000, &[1, 3839]).encode_page(0, 2, &mut new_page);
    for edge in 17..SECTOR {
        let mut torn = old_page;
        torn[..edge].copy_from_slice(&new_page[..edge]);
        let mut log = ActivityLog::new(LaneId(3), 8000);
        assert_eq!(log.decode_page(0, &torn), Damage(1), "edge {edge}");
        assert_eq!(log.hot_count(), EXTENTS_PER_SECTOR);
    }
}

#[test]
fn activity_sectors_in_the_wrong_place_are_not_believed() {
    let mut page = [0; PAGE_BYTES];
    activity(70_000, &[]).encode_page(1, 1, &mut page);
    let mut log = ActivityLog::new(LaneId(3), 70_000);
    assert_eq!(log.decode_page(1, &page), Damage::NONE);
    assert_eq!(log.decode_page(2, &page), Damage(8));
    assert_eq!(log.hot_count(), 70_000 - 2 * EXTENTS_PER_ACTIVITY_PAGE, "only extents that exist");
    assert_eq!(ActivityLog::new(LaneId(4), 70_000).decode_page(1, &page), Damage(8));
    page.copy_within(0..SECTOR, SECTOR);
    assert_eq!(log.decode_page(1, &page), Damage(1));
    let mut all = ActivityLog::new(LaneId(3), 5);
    assert_eq!(all.lose_page(0), Damage(8));
    assert_eq!(hot(&all), [0, 1, 2, 3, 4]);
    assert_eq!(all.decode_page(1, &page), Damage(1), "a page reserved beyond the lane's own");
    assert_eq!(hot(&all), [0, 1, 2, 3, 4]);
}

#[test]
fn a_torn_bitmap_page_is_all_out_of_sync() {
    let mut old = Bitmap::new(shape(40, 1024));
    let mut new = old.clone();
    for index in 0..31 {
        old.set(index, 0, 1);
        new.set(index, 1, 1);
    }
    let (mut old_page, mut new_page) = ([0; PAGE_BYTES], [0; PAGE_BYTES]);
    old.encode_page(0, 1, &mut old_page);
    new.encode_page(0, 2, &mut new_page);
    for edge in (0..=PAGE_BYTES).step_by(SECTOR) {
        let mut torn = old_page;
        torn[..edge].copy_from_slice(&new_page[..edge]);
        let mut bitmap = Bitmap::new(shape(40, 1024));
        bitmap.set(35, 0, 5);
        let damage = bitmap.decode_page(0, &torn);
        let whole = edge == 0 || edge == PAGE_BYTES;
        assert_eq!(damage, if whole { Damage::NONE } else { Damage(1) });
        assert_eq!(bitmap.count(), 5 + if whole { 31 } else { 31 * 1024 });
        assert_eq!(bitmap.extent_count(35), 5, "other pages are not touched");
    }
    let mut other_lane = Bitmap::new(LaneShape { lane: LaneId(3), ..shape(40, 1024) });
    assert_eq!(other_lane.decode_page(0, &old_page), Damage(1));
    assert_eq!(old.decode_page(1, &new_page), Damage(1), "a page of another place");
}

#[test]
fn bits_beyond_the_volume_do_not_exist() {
    let mut bitmap = Bitmap::new(shape(2, 5));
    bitmap.set_all();
    assert_eq!(bitmap.count(), 1029);
    assert_eq!(bitmap.runs().collect::<Vec<_>>(), [(0, 0, 1024), (1, 0, 5)]);
    let mut page = [0xFF; PAGE_BYTES];
    bitmap.encode_page(0, 1, &mut page);
    page[128..].fill(0xFF);
    page::seal(&mut page);
    assert_eq!(bitmap.decode_page(0, &page), Damage::NONE);
    assert_eq!(bitmap.count(), 1029);
    let _ = bitmap.lose_page(7);
    assert_eq!(bitmap.count(), 1029);
    bitmap.clear_all();
    assert_eq!((bitmap.count(), bitmap.runs().count()), (0, 0));
}

#[test]
fn spans_round_outwards_to_set_and_inwards_to_clear() {
    let geometry = Geometry { block_shift: 9, blocks: 3 * 8192 - 4, lanes: 2 };
    let span = |first, count| BlockSpan { extent: ExtentNo(1), first, count };
    let range = |start: u64, count| BlockRange::new(Lba(8192 + start), count);
    for (from, len, touched, covered) in [
        (0, 8, span(0, 1), Some(span(0, 1))),
        (1, 8, span(0, 2), None),
        (7, 10, span(0, 3), Some(span(1, 1))),
        (3, 2, span(0, 1), None),
        (8184, 8, span(1023, 1), Some(span(1023, 1))),
        (0, 8192, span(0, 1024), Some(span(0, 1024))),
    ] {
        assert_eq!(blocks_touched(&geometry, range(from, len)), touched);
        assert_eq!(blocks_covered(&geometry, range(from, len)), covered);
    }
    let last = BlockSpan { extent: ExtentNo(2), first: 1023, count: 1 };
    let tail = BlockRange::new(Lba(3 * 8192 - 8), 4);
    assert_eq!(blocks_touched(&geometry, tail), last);
    assert_eq!(blocks_covered(&geometry, tail), Some(last), "nothing of the block lies beyond the volume");
    assert_eq!(last.range(&geometry), tail);
    assert_eq!(span(1, 2).range(&geometry), range(8, 16));
}

#[test]
fn devices_that_are_too_small_are_told_with_figures() {
    let error = Layout::internal(16 * MIB - 1, 9, 16).expect_err("too small");
    assert_eq!(error, LayoutError::DeviceTooSmall { bytes: 16 * MIB - 1, minimum: 16 * MIB });
    assert!(alloc::format!("{error}").contains("16777216"));
    let layout = Layout::internal(16 * MIB, 9, 16).expect("just large enough");
    assert!(layout.geometry.bytes() > 15 * MIB);
    assert!(matches!(Layout::internal(u64::MAX, 12, 1), Err(LayoutError::DeviceTooLarge { .. })));
    assert!(matches!(
        Layout::external(64 * MIB, 4096, 9, 16),
        Err(LayoutError::MetadataDeviceTooSmall { minimum: 204_800, .. })
    ));
    assert!(Layout::external(64 * MIB, 204_800, 9, 16).is_ok());
    assert!(matches!(Layout::external(MIB, MIB, 9, 16), Err(LayoutError::DeviceTooSmall { .. })));
    assert_eq!(Layout::internal(64 * MIB, 10, 16), Err(LayoutError::BadBlockShift(10)));
    assert_eq!(Layout::internal(64 * MIB, 9, 65), Err(LayoutError::BadLanes(65)));
    assert!(matches!(
        Layout::internal_sized(64 * MIB, 64 * MIB, 9, 1),
        Err(LayoutError::VolumeTooLarge { .. })
    ));
    assert_eq!(Layout::internal_sized(64 * MIB, 512, 9, 1), Err(LayoutError::BadVolumeSize(512)));
}

#[test]
fn a_lane_is_put_together_and_hot_extents_become_dirty() {
    let layout = Layout::internal(1024 * MIB, 9, 4).expect("a gigabyte holds a volume");
    let lane = LaneId(1);
    let mut state = LaneState::new(layout.lane_shape(lane));
    assert!(state.bitmap.set(40, 3, 2) == 2 && state.activity.set_hot(7));
    let load = |break_bitmap: bool, break_activity: bool| {
        let mut loader = LaneLoader::new(&layout, lane);
        let mut page = [0; PAGE_BYTES];
        for number in 0..layout.activity_pages_per_lane() {
            state.activity.encode_page(number, 1, &mut page);
            let _ = loader.on_activity_page((!break_activity).then_some(&page));
        }
        for number in 0..layout.bitmap_pages_per_lane() {
            state.bitmap.encode_page(number, 1, &mut page);
            let _ = loader.on_bitmap_page((!break_bitmap || number != 1).then_some(&page));
        }
        loader.finish()
    };
    let mut good = load(false, false);
    assert_eq!((good.bitmap.count(), good.activity.hot_count(), good.damaged), (2, 1, 0));
    assert_eq!(good.mark_hot_dirty(), 1024);
    assert_eq!((good.bitmap.extent_count(7), good.bitmap.count()), (1024, 1026));
    assert_eq!(good.mark_hot_dirty(), 0);
    let bad = load(true, false);
    assert_eq!((bad.bitmap.count(), bad.damaged), (31 * 1024, 1));
    let mut worse = load(false, true);
    assert_eq!((worse.activity.hot_count(), worse.damaged), (worse.activity.extents(), 8));
    worse.mark_hot_dirty();
    assert_eq!(worse.bitmap.count(), layout.lane_shape(lane).blocks());
}

#[test]
#[should_panic(expected = "bitmap pages are missing")]
fn a_lane_with_pages_left_out_is_not_accepted() {
    let layout = Layout::internal(64 * MIB, 9, 1).expect("64 MiB hold a volume");
    let mut loader = LaneLoader::new(&layout, LaneId(0));
    let _ = loader.on_activity_page(Some(&[0; PAGE_BYTES]));
    loader.finish();
}

/// Every page of a layout, with its offset.
fn pages_of(layout: &Layout) -> BTreeSet<u64> {
    let mut offsets = BTreeSet::from(layout.superblocks);
    let mut count = 2;
    for lane in (0..layout.geometry.lanes).map(LaneId) {
        let activity =
            (0..layout.activity_pages_per_lane()).map(|page| layout.activity_page_offset(lane, page));
        let bitmap = (0..layout.bitmap_pages_per_lane()).map(|page| layout.bitmap_page_offset(lane, page));
        for offset in activity.chain(bitmap) {
            offsets.insert(offset);
            count += 1;
        }
    }
    assert_eq!(offsets.len(), count, "no page is used twice");
    offsets
}

proptest! {
    #[test]
    fn layouts_fit_their_devices(
        device in 16 * MIB..1 << 42,
        shift in prop_oneof![Just(9u8), Just(12)],
        lanes in 1..=LANES_MAX,
    ) {
        let layout = Layout::internal(device, shift, lanes).expect("large enough");
        prop_assert_eq!(layout.check(), Ok(()));
        prop_assert_eq!(internal_superblocks(device), Some(layout.superblocks));
        prop_assert!(layout.end <= device && device - layout.end < 4096);
        prop_assert_eq!(layout.geometry.bytes(), layout.superblocks[1]);
        let extents: u64 = (0..lanes).map(|lane| u64::from(layout.lane_shape(LaneId(lane)).extents)).sum();
        prop_assert_eq!(extents, u64::from(layout.geometry.extents()));
        let blocks: u64 = (0..lanes).map(|lane| layout.lane_shape(LaneId(lane)).blocks()).sum();
        prop_assert_eq!(blocks * 4096, layout.geometry.bytes());
    }

    #[test]
    fn pages_never_meet(device in 16 * MIB..40_000 * MIB, lanes in 1..=LANES_MAX) {
        let layout = Layout::internal(device, 9, lanes).expect("large enough");
        let offsets = pages_of(&layout);
        prop_assert!(offsets.iter().all(|at| at % 4096 == 0));
        prop_assert!(offsets.iter().all(|&at| at >= layout.geometry.bytes() && at + 4096 <= layout.end));
        prop_assert_eq!(offsets.last(), Some(&layout.superblocks[0]));
    }

    #[test]
    fn lane_shapes_agree_with_the_volume(bytes in 1u64..300, tail in 0u64..1024, lanes in 1..=LANES_MAX) {
        let blocks = ((bytes - 1) * EXTENT_BYTES + (tail + 1) * 4096) >> 9;
        let geometry = Geometry { block_shift: 9, blocks, lanes };
        for number in 0..geometry.extents() {
            let lane = geometry.lane_of(ExtentNo(number));
            let shape = LaneShape::of(&geometry, lane);
            let last = number + 1 == geometry.extents();
            let expected = if last { tail + 1 } else { 1024 };
            prop_assert_eq!(u64::from(shape.blocks_in(geometry.lane_index(ExtentNo(number)))), expected);
        }
    }

    #[test]
    fn activity_log_is_a_set(
        extents in 1u32..9000,
        steps in proptest::collection::vec((any::<prop::sample::Index>(), any::<bool>()), 0..80),
    ) {
        let mut log = ActivityLog::new(LaneId(3), extents);
        let mut oracle = BTreeSet::new();
        for (index, heat) in steps {
            let index = index.index(extents as usize) as u32;
            if heat {
                prop_assert_eq!(log.set_hot(index), oracle.insert(index));
            } else {
                prop_assert_eq!(log.set_cold(index), oracle.remove(&index));
            }
            prop_assert_eq!(log.is_hot(index), heat);
        }
        prop_assert_eq!(log.hot_count() as usize, oracle.len());
        prop_assert!(log.iter_hot().eq(oracle.iter().copied()));
        let mut copy = ActivityLog::new(LaneId(3), extents);
        let mut page = [0; PAGE_BYTES];
        for number in 0..log.pages() {
            log.encode_page(number, 0, &mut page);
            prop_assert!(copy.decode_page(number, &page).is_none());
        }
        prop_assert_eq!(copy, log);
    }

    #[test]
    fn bitmap_is_a_set(
        extents in 1u32..70,
        last in 1u16..=1024,
        steps in proptest::collection::vec((any::<u32>(), 0u16..1024, 1u16..=1024, any::<bool>()), 0..40),
        step in 1u16..300,
    ) {
        let mut bitmap = Bitmap::new(shape(extents, last));
        let mut oracle = BTreeSet::new();
        for (index, first, count, set) in steps {
            let index = index % extents;
            let limit = bitmap.shape().blocks_in(index);
            let first = first % limit;
            let count = count.min(limit - first);
            let blocks = (first..first + count).map(|block| (index, block));
            let any = blocks.clone().any(|block| oracle.contains(&block));
            prop_assert_eq!(bitmap.any(index, first, count), any);
            let before = oracle.len();
            if set {
                oracle.extend(blocks);
                prop_assert_eq!(usize::from(bitmap.set(index, first, count)), oracle.len() - before);
            } else {
                blocks.for_each(|block| { oracle.remove(&block); });
                prop_assert_eq!(usize::from(bitmap.clear(index, first, count)), before - oracle.len());
            }
            prop_assert_eq!(bitmap.get(index, first), set);
        }
        prop_assert_eq!(bitmap.count() as usize, oracle.len());
        for index in 0..extents {
            let count = oracle.range((index, 0)..(index + 1, 0)).count();
            prop_assert_eq!(usize::from(bitmap.extent_count(index)), count);
        }
        prop_assert_eq!(&set_bits(&bitmap), &oracle);
        let mut seen = BTreeSet::new();
        let mut from = (0, 0);
        while let Some((index, first, count)) = bitmap.next_run(from, step) {
            prop_assert!((1..=step).contains(&count));
            seen.extend((first..first + count).map(|block| (index, block)));
            from = (index, first + count);
        }
        prop_assert_eq!(&seen, &oracle);
        let mut copy = Bitmap::new(bitmap.shape());
        copy.set_all();
        let mut page = [0; PAGE_BYTES];
        for number in 0..bitmap.pages() {
            bitmap.encode_page(number, 0, &mut page);
            prop_assert!(copy.decode_page(number, &page).is_none());
        }
        prop_assert_eq!(copy, bitmap);
    }

    #[test]
    fn noise_decodes_to_the_safe_side(noise in proptest::collection::vec(any::<u8>(), PAGE_BYTES)) {
        let page: Page = noise.try_into().expect("a page of noise");
        let mut log = ActivityLog::new(LaneId(3), 100);
        prop_assert_eq!(log.decode_page(0, &page), Damage(8));
        prop_assert_eq!(log.hot_count(), 100);
        let mut bitmap = Bitmap::new(shape(3, 9));
        prop_assert_eq!(bitmap.decode_page(0, &page), Damage(1));
        prop_assert_eq!(bitmap.count(), bitmap.shape().blocks());
        prop_assert!(choose(&page, &page).is_err());
    }

    #[test]
    fn sealed_superblock_noise_never_panics(
        noise in proptest::collection::vec(any::<u8>(), 600),
        at in 16usize..576,
        len in 1usize..24,
    ) {
        let mut page = encoded(&superblock());
        let end = (at + len).min(576);
        page[at..end].copy_from_slice(&noise[at..end]);
        page::seal(&mut page);
        if let Ok(read) = UncheckedSuperblock::new(&page, 1).verify() {
            prop_assert_eq!(read.layout.check(), Ok(()));
        }
    }

    #[test]
    fn spans_contain_and_are_contained(start in 0u64..3 * 8192, count in 1u32..2048, shift in 0u8..2) {
        let geometry = Geometry { block_shift: 9 + 3 * shift, blocks: 3 * 8192, lanes: 1 };
        let per_extent = EXTENT_BYTES >> geometry.block_shift;
        let to_edge = (per_extent - start % per_extent).min(geometry.blocks - start);
        let range = BlockRange::new(Lba(start), count.min(to_edge as u32));
        let touched = blocks_touched(&geometry, range).range(&geometry);
        prop_assert!(touched.start <= range.start && touched.end() >= range.end());
        if let Some(span) = blocks_covered(&geometry, range) {
            let covered = span.range(&geometry);
            prop_assert!(covered.start >= range.start && covered.end() <= range.end());
        }
        if geometry.block_shift == 12 {
            prop_assert_eq!(blocks_covered(&geometry, range).map(|span| span.range(&geometry)), Some(range));
        }
    }
}
