//! Checks D4 at every change: if a block may differ between the two disks, whatever fails next, then something durable
//! on at least one node says so. That is a set bit or a hot extent in every version of the metadata page that may be on
//! the disk (the durable one, and those under way); or superblocks from which the two nodes would conclude, when they
//! meet, that everything must be copied or that a person must decide.
//!
//! Whether cover is lacking can change only when a data write begins, when a metadata page that takes cover away
//! begins, when a superblock begins, and when a node stops. Those are the places where this is called.

use std::collections::{BTreeMap, BTreeSet};

use crate::replication::control::{Copy, PeerState};
use crate::replication::decision::{Discord, Relation, decide};
use crate::storage::{LaneLoader, LaneState, Layout, Page, Superblock, SuperblockCopies};
use crate::units::{BITMAP_BLOCK_BYTES, ExtentNo, LaneId};
use crate::volume::effect::MetaPage;

use super::disk::SECTOR_BYTES;
use super::node::{Node, blank};
use super::world::{Verdict, World, ensure};

const SECTORS_PER_BLOCK: u64 = BITMAP_BLOCK_BYTES / SECTOR_BYTES;
const BLOCKS_PER_EXTENT: u64 = 1024;

/// What the durable metadata says, lane by lane, and which blocks anybody ever wrote.
#[derive(Debug)]
pub struct Cover {
    lanes: [Vec<LaneState>; 2],
    /// Extent → its blocks that were ever written with something.
    written: BTreeMap<u32, BTreeSet<u16>>,
    lane_count: u16,
}

impl Cover {
    pub fn new(layout: &Layout) -> Self {
        Self { lanes: [Vec::new(), Vec::new()], written: BTreeMap::new(), lane_count: layout.geometry.lanes }
    }

    /// Takes over what is on a node's disk.
    pub fn load(&mut self, node: usize, from: &Node) {
        let layout = from.layout;
        self.lanes[node] = (0..self.lane_count).map(|lane| from.load_lane(&layout, LaneId(lane))).collect();
    }

    /// A metadata page (or a superblock) has become durable.
    pub fn on_page_durable(&mut self, node: usize, at: u64, from: &Node) {
        let layout = from.layout;
        for lane in (0..self.lane_count).map(LaneId) {
            let activity = layout.activity_page_offset(lane, 0);
            let bitmap = layout.bitmap_page_offset(lane, 0);
            let state = &mut self.lanes[node][usize::from(lane.0)];
            let page = from.disk.page(at).expect("it was written");
            if at == activity {
                let _ = state.activity.decode_page(0, page);
                return;
            }
            if at == bitmap {
                let _ = state.bitmap.decode_page(0, page);
                return;
            }
        }
    }

    fn on_written(&mut self, extent: u32, block: u16) {
        self.written.entry(extent).or_default().insert(block);
    }
}

/// A lane's state as it would be if `page` had become durable.
fn with_page(layout: &Layout, lane: LaneId, activity: Option<&Page>, bitmap: Option<&Page>) -> LaneState {
    let mut loader = LaneLoader::new(layout, lane);
    let _ = loader.on_activity_page(activity);
    let _ = loader.on_bitmap_page(bitmap);
    loader.finish()
}

impl World {
    /// A data write begins: are its blocks covered, if it makes a difference?
    pub(super) fn check_covered(&mut self, node: usize, start: u64, count: u64) -> Verdict {
        let first = start / SECTORS_PER_BLOCK;
        let last = (start + count - 1) / SECTORS_PER_BLOCK;
        for block in first..=last {
            let (extent, place) = ((block / BLOCKS_PER_EXTENT) as u32, (block % BLOCKS_PER_EXTENT) as u16);
            self.cover.on_written(extent, place);
            self.check_block(extent, place, || format!("node {node} writes"))?;
        }
        Ok(())
    }

    /// A metadata page begins its way to the disk: whatever it does not cover any more must be equal.
    pub(super) fn check_page_begun(&mut self, node: usize, page: MetaPage) -> Verdict {
        let (MetaPage::ActivityLog { lane, .. } | MetaPage::Bitmap { lane, .. }) = page;
        let geometry = self.setup.layout.geometry;
        let extents: Vec<u32> =
            self.cover.written.keys().copied().filter(|&e| geometry.lane_of(ExtentNo(e)) == lane).collect();
        for extent in extents {
            let blocks: Vec<u16> = self.cover.written[&extent].iter().copied().collect();
            for block in blocks {
                self.check_block(extent, block, || format!("node {node} writes {page:?}"))?;
            }
        }
        Ok(())
    }

    /// After something that may change all cover at once.
    pub(super) fn check_everything_covered(&mut self) -> Verdict {
        let blocks: Vec<(u32, u16)> = self
            .cover
            .written
            .iter()
            .flat_map(|(&extent, blocks)| blocks.iter().map(move |&block| (extent, block)))
            .collect();
        for (extent, block) in blocks {
            self.check_block(extent, block, || "after a stop or a superblock".into())?;
        }
        Ok(())
    }

    fn check_block(&self, extent: u32, block: u16, when: impl FnOnce() -> String) -> Verdict {
        let first = (u64::from(extent) * BLOCKS_PER_EXTENT + u64::from(block)) * SECTORS_PER_BLOCK;
        let [zero, one] = &self.nodes;
        if zero.disk.surely_equal(&one.disk, first, SECTORS_PER_BLOCK) {
            return Ok(());
        }
        if self.is_marked(0, extent, block) || self.is_marked(1, extent, block) || self.all_is_copied() {
            return Ok(());
        }
        ensure(false, "D4", || {
            let contents: Vec<String> = (first..first + SECTORS_PER_BLOCK)
                .filter(|&s| {
                    zero.disk.visible(s) != one.disk.visible(s) || zero.disk.durable(s) != one.disk.durable(s)
                })
                .map(|s| {
                    format!(
                        "sector {s}: {:#x}/{:#x} and {:#x}/{:#x} (visible/durable)",
                        zero.disk.visible(s),
                        zero.disk.durable(s),
                        one.disk.visible(s),
                        one.disk.durable(s)
                    )
                })
                .collect();
            format!(
                "{}: block {block} of extent {extent} may differ and nothing durable covers it: {}",
                when(),
                contents.join(", ")
            )
        })
    }

    /// Is the block marked in every version of the node's metadata that may be on the disk?
    fn is_marked(&self, node: usize, extent: u32, block: u16) -> bool {
        let layout = &self.setup.layout;
        let lane = layout.geometry.lane_of(ExtentNo(extent));
        let index = layout.geometry.lane_index(ExtentNo(extent));
        let durable = &self.cover.lanes[node][usize::from(lane.0)];
        let disk = &self.nodes[node].disk;
        let empty = blank();
        let hot = durable.activity.is_hot(index)
            && disk
                .pages_under_way(layout.activity_page_offset(lane, 0))
                .all(|page| with_page(layout, lane, Some(page), Some(&empty)).activity.is_hot(index));
        hot || (durable.bitmap.get(index, block)
            && disk
                .pages_under_way(layout.bitmap_page_offset(lane, 0))
                .all(|page| with_page(layout, lane, Some(&empty), Some(page)).bitmap.get(index, block)))
    }

    /// Would the nodes, meeting after whatever fails next, copy everything or refuse?
    fn all_is_copied(&self) -> bool {
        let (zero, one) = (self.possible_superblocks(0), self.possible_superblocks(1));
        zero.iter().all(|mine| {
            one.iter().all(|theirs| match decide(&state(mine), &state(theirs)) {
                Ok(Relation::Lead(copy) | Relation::Follow(copy)) => copy == Copy::Everything,
                Ok(Relation::Idle) => false,
                Err(discord) => discord != Discord::Geometry,
            })
        })
    }

    fn possible_superblocks(&self, node: usize) -> Vec<Superblock> {
        let layout = &self.setup.layout;
        let disk = &self.nodes[node].disk;
        let [first, second] = layout.superblocks.map(|at| disk.page(at));
        let mut all = vec![self.nodes[node].superblock(layout)];
        for (copy, at) in layout.superblocks.iter().enumerate() {
            for page in disk.pages_under_way(*at) {
                let copies = if copy == 0 {
                    SuperblockCopies { first: Some(page), second }
                } else {
                    SuperblockCopies { first, second: Some(page) }
                };
                all.extend(copies.choose().ok().map(|chosen| chosen.superblock));
            }
        }
        all
    }
}

fn state(superblock: &Superblock) -> PeerState {
    PeerState {
        node: superblock.node,
        geometry: superblock.layout.geometry,
        generations: superblock.generations,
        record: superblock.record,
        flags: superblock.flags,
        primary: false,
        dirty_blocks: 1,
        suspect: false,
        discard: false,
    }
}
