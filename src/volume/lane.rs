//! One lane: a stable slice of the volume with its conflict set, activity log, bitmap and unstable writes. Everything
//! in it has one writer, the shard that owns the lane.
//!
//! What it guarantees (D4): if a block may differ between the two disks, then a bit of it is set or its extent is hot
//! in the activity log, durably, on this node.
//! - An extent is hot *on disk* before the first byte of a write to it leaves ([`Lane::touch`]).
//! - It stays hot while a write to it runs, or is acknowledged but not stable on both copies.
//! - Before it turns cold, the bitmap page that covers it is on disk as it is in memory.
//!
//! The lane decides; it performs nothing. Page writes it wants are collected by [`Lane::pump_pages`].

use alloc::collections::VecDeque;
use alloc::vec;
use alloc::vec::Vec;

use crate::replication::conflict_set::ConflictSet;
use crate::storage::{ActivityLog, Bitmap, BlockSpan, LaneState, blocks_covered, blocks_touched};
use crate::units::{BlockRange, Geometry, LaneId, Lba};

use super::effect::MetaPage;
use super::resync::LaneSync;

/// Acknowledged, unstable writes remembered one by one; beyond it a lane falls back to whole extents.
const UNSTABLE_MAX: usize = 32 * 1024;
/// Extents made cold in one go, so that one page write pays for many.
const EVICTION_BATCH: usize = 64;

/// Is the extent hot on disk?
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Touch {
    /// Yes: write.
    Hot,
    /// It will be when write number `write` of activity-log page `page` is done.
    Wait { page: u32, write: u64 },
    /// The activity log has no room; wait until [`Lane::take_room_waiters`] names you.
    Full,
}

/// What the activity log must know of an extent beyond its bit.
#[derive(Clone, Copy, Default, Hash, Debug)]
struct ExtentUse {
    /// Writes to the extent that are not answered yet.
    running: u32,
    /// Flush group of the last acknowledged write.
    last_group: u64,
    /// Page write that makes the hot bit durable.
    hot_since: u64,
}

/// A metadata page in memory and its way to the disk. At most one write of a page is under way.
#[derive(Clone, Copy, Default, Hash, Debug)]
struct Page {
    /// Memory is ahead of what was last sent to the disk.
    changed: bool,
    /// A write is wanted (activity-log pages: always when changed; bitmap pages: when something waits for it).
    wanted: bool,
    writing: bool,
    begun: u64,
    done: u64,
}

impl Page {
    /// Number of the write that will carry what is in memory now.
    fn next_write(&self) -> u64 {
        if self.changed { self.begun + 1 } else { self.begun }
    }
}

/// Extents on their way out of the activity log.
#[derive(Clone, Hash, Debug, Default)]
struct Eviction {
    victims: Vec<u32>,
}

/// See the module.
#[derive(Clone, Hash, Debug)]
pub struct Lane {
    pub id: LaneId,
    geometry: Geometry,
    pub conflicts: ConflictSet,
    pub sync: LaneSync,
    activity: ActivityLog,
    bitmap: Bitmap,
    extents: Vec<ExtentUse>,
    activity_pages: Vec<Page>,
    bitmap_pages: Vec<Page>,
    /// Some page wants to be written: look through them. Most inputs want none.
    pages_wanted: bool,
    /// Hot extents, longest hot first.
    hot_order: VecDeque<u32>,
    hot_max: usize,
    /// `(group, range)` of writes acknowledged by both copies and not yet stable on both.
    unstable: VecDeque<(u64, BlockRange)>,
    /// Some unstable writes are remembered only by their extent's `last_group`.
    unstable_overflow: bool,
    log_waiters: Vec<(u32, u32, u64)>,
    room_waiters: VecDeque<u32>,
    eviction: Option<Eviction>,
}

impl Lane {
    pub fn new(mut state: LaneState, geometry: Geometry, hot_max: usize) -> Self {
        assert!(hot_max >= 1);
        // What was hot when the node stopped may differ. Said here, so that no driver can forget it.
        state.mark_hot_dirty();
        let hot_order: VecDeque<u32> = state.activity.iter_hot().collect();
        let extents = state.bitmap.shape().extents;
        let activity_pages = state.activity.pages();
        let bitmap_pages = state.bitmap.pages();
        let mut lane = Self {
            id: state.lane,
            geometry,
            conflicts: ConflictSet::default(),
            sync: LaneSync::default(),
            activity: state.activity,
            bitmap: state.bitmap,
            extents: vec![ExtentUse::default(); extents as usize],
            activity_pages: vec![Page::default(); activity_pages as usize],
            bitmap_pages: vec![Page::default(); bitmap_pages as usize],
            pages_wanted: false,
            hot_order,
            hot_max,
            unstable: VecDeque::new(),
            unstable_overflow: false,
            log_waiters: Vec::new(),
            room_waiters: VecDeque::new(),
            eviction: None,
        };
        // Bits derived from the activity log are in memory only.
        for at in 0..lane.hot_order.len() {
            lane.bitmap_changed(lane.hot_order[at]);
        }
        lane
    }

    fn index_of(&self, lba: Lba) -> u32 {
        self.geometry.lane_index(self.geometry.extent_of(lba))
    }

    /// Is the range inside the volume, inside one extent, and that extent of this lane?
    pub fn owns(&self, range: BlockRange) -> bool {
        if range.count == 0 || !self.geometry.contains(range.start, u64::from(range.count)) {
            return false;
        }
        let first = self.geometry.extent_of(range.start);
        let last = self.geometry.extent_of(Lba(range.end().0 - 1));
        first == last && self.geometry.lane_of(first) == self.id
    }

    // ---- activity log ----

    /// A write is about to run on `range`: is its extent hot on disk? Call [`Lane::write_begins`] once it may wait or go.
    pub fn touch(&mut self, range: BlockRange) -> Touch {
        let index = self.index_of(range.start);
        let number = self.activity.page_of(index);
        let page = &mut self.activity_pages[number as usize];
        if !self.activity.is_hot(index) {
            if self.hot_order.len() >= self.hot_max {
                return Touch::Full;
            }
            self.activity.set_hot(index);
            self.hot_order.push_back(index);
            page.changed = true;
            page.wanted = true;
            self.pages_wanted = true;
            self.extents[index as usize].hot_since = page.next_write();
        }
        let write = self.extents[index as usize].hot_since;
        if page.done >= write { Touch::Hot } else { Touch::Wait { page: number, write } }
    }

    /// The write holds its extent hot from now on.
    pub fn write_begins(&mut self, range: BlockRange) {
        let index = self.index_of(range.start);
        self.extents[index as usize].running += 1;
    }

    /// The write was answered (or given up before it was sent anywhere). `unstable`: the flush group that will make it
    /// stable, if it is not yet.
    pub fn write_ends(&mut self, range: BlockRange, unstable: Option<u64>) {
        let index = self.index_of(range.start);
        let extent = &mut self.extents[index as usize];
        assert!(extent.running > 0, "every end has a begin");
        extent.running -= 1;
        let Some(group) = unstable else { return };
        extent.last_group = extent.last_group.max(group);
        if self.unstable.len() < UNSTABLE_MAX {
            self.unstable.push_back((group, range));
        } else {
            self.unstable_overflow = true;
        }
    }

    pub fn wait_for_log(&mut self, slot: u32, page: u32, write: u64) {
        self.log_waiters.push((slot, page, write));
    }

    pub fn wait_for_room(&mut self, slot: u32) {
        self.room_waiters.push_back(slot);
    }

    /// Takes `slot` out of the waiting lists. Returns whether it was in one.
    pub fn forget_waiter(&mut self, slot: u32) -> bool {
        let before = self.log_waiters.len() + self.room_waiters.len();
        self.log_waiters.retain(|&(waiter, _, _)| waiter != slot);
        self.room_waiters.retain(|&waiter| waiter != slot);
        before != self.log_waiters.len() + self.room_waiters.len()
    }

    /// Slots that waited for room and may ask again.
    pub fn take_room_waiters(&mut self, ready: &mut Vec<u32>) {
        if self.hot_order.len() < self.hot_max {
            ready.extend(self.room_waiters.drain(..));
        }
    }

    pub fn wants_room(&self) -> bool {
        !self.room_waiters.is_empty()
    }

    pub fn hot_count(&self) -> usize {
        self.hot_order.len()
    }

    fn may_turn_cold(&self, index: u32, stable: u64) -> bool {
        let extent = &self.extents[index as usize];
        extent.running == 0 && extent.last_group <= stable
    }

    /// Starts (or continues) turning extents cold: a batch to make room, or with `all` every one that may. Returns
    /// whether some extent only waits for its writes to become stable.
    pub fn evict(&mut self, stable: u64, all: bool) -> bool {
        if self.eviction.is_some() {
            self.finish_eviction(stable);
            return false;
        }
        let batch = if all { self.hot_order.len() } else { EVICTION_BATCH.min(self.hot_max.div_ceil(4)) };
        let mut eviction = Eviction::default();
        let mut unstable = false;
        for &index in &self.hot_order {
            if eviction.victims.len() == batch {
                break;
            }
            if self.may_turn_cold(index, stable) {
                eviction.victims.push(index);
            } else if self.extents[index as usize].running == 0 {
                unstable = true;
            }
        }
        if eviction.victims.is_empty() {
            return unstable;
        }
        for &index in &eviction.victims {
            let number = self.bitmap.page_of(index) as usize;
            let page = &mut self.bitmap_pages[number];
            page.wanted |= page.changed;
        }
        self.pages_wanted = true;
        self.eviction = Some(eviction);
        self.finish_eviction(stable);
        unstable
    }

    /// Turns the victims cold once their bitmap pages are on disk.
    fn finish_eviction(&mut self, stable: u64) {
        let Some(eviction) = self.eviction.take() else { return };
        let settled = |page: &Page| !page.wanted && !page.writing;
        if !eviction
            .victims
            .iter()
            .all(|&index| settled(&self.bitmap_pages[self.bitmap.page_of(index) as usize]))
        {
            self.eviction = Some(eviction);
            return;
        }
        for &index in &eviction.victims {
            // A write that came meanwhile may have set bits again: then the extent stays hot.
            if !self.may_turn_cold(index, stable)
                || self.bitmap_pages[self.bitmap.page_of(index) as usize].changed
            {
                continue;
            }
            self.activity.set_cold(index);
            let number = self.activity.page_of(index) as usize;
            self.activity_pages[number].changed = true;
            self.activity_pages[number].wanted = true;
            self.pages_wanted = true;
        }
        let activity = &self.activity;
        self.hot_order.retain(|&index| activity.is_hot(index));
    }

    // ---- metadata pages ----

    /// Names every page whose write is to begin now.
    pub fn pump_pages(&mut self, mut begin: impl FnMut(MetaPage)) {
        if !self.pages_wanted {
            return;
        }
        let lane = self.id;
        let mut left = false;
        for (number, page) in self.activity_pages.iter_mut().enumerate() {
            if begin_write(page) {
                begin(MetaPage::ActivityLog { lane, page: number as u32 });
            }
            left |= page.wanted;
        }
        for (number, page) in self.bitmap_pages.iter_mut().enumerate() {
            if begin_write(page) {
                begin(MetaPage::Bitmap { lane, page: number as u32 });
            }
            left |= page.wanted;
        }
        // Pages that changed again under their own write go next.
        self.pages_wanted = left;
    }

    /// Asks for every bitmap page that memory is ahead of, so that a later start finds the bits as they are now.
    pub fn want_changed_pages(&mut self) {
        self.bitmap_pages.iter_mut().for_each(|page| page.wanted |= page.changed);
        self.pages_wanted = true;
    }

    /// A page write completed. Appends the slots that waited for it.
    pub fn on_page_written(&mut self, page: MetaPage, stable: u64, ready: &mut Vec<u32>) {
        match page {
            MetaPage::ActivityLog { page: number, .. } => {
                let page = &mut self.activity_pages[number as usize];
                assert!(page.writing);
                page.writing = false;
                page.done = page.begun;
                let done = page.done;
                self.log_waiters.retain(|&(slot, at, write)| {
                    let wait = at != number || write > done;
                    if !wait {
                        ready.push(slot);
                    }
                    wait
                });
            }
            MetaPage::Bitmap { page: number, .. } => {
                let page = &mut self.bitmap_pages[number as usize];
                assert!(page.writing);
                page.writing = false;
                page.done = page.begun;
                self.finish_eviction(stable);
            }
        }
    }

    /// The bytes of a page as they are now.
    pub fn render(&self, page: MetaPage, bytes: &mut [u8; 4096]) {
        match page {
            MetaPage::ActivityLog { page, .. } => {
                self.activity.encode_page(page, self.activity_pages[page as usize].begun, bytes);
            }
            MetaPage::Bitmap { page, .. } => {
                self.bitmap.encode_page(page, self.bitmap_pages[page as usize].begun, bytes);
            }
        }
    }

    /// Is nothing of this lane's metadata on its way to the disk, and the activity log empty?
    pub fn is_wound_down(&self) -> bool {
        self.hot_order.is_empty() && self.eviction.is_none() && self.pages_are_quiet()
    }

    /// Has the device been asked to write metadata, and not answered?
    pub fn writes_pages(&self) -> bool {
        self.activity_pages.iter().chain(&self.bitmap_pages).any(|page| page.writing)
    }

    fn pages_are_quiet(&self) -> bool {
        let quiet = |page: &Page| !page.writing && !page.wanted;
        self.activity_pages.iter().all(quiet) && self.bitmap_pages.iter().all(quiet)
    }

    // ---- bitmap ----

    /// The peer may lack `range`: sets its bits, partly touched blocks included.
    pub fn mark_out_of_sync(&mut self, range: BlockRange) {
        let span = blocks_touched(&self.geometry, range);
        let index = self.geometry.lane_index(span.extent);
        if self.bitmap.set(index, span.first, span.count) > 0 {
            self.bitmap_changed(index);
        }
    }

    /// The peer holds `range`, on stable media: clears the bits of blocks that it covers whole.
    pub fn mark_in_sync(&mut self, range: BlockRange) {
        let Some(span) = blocks_covered(&self.geometry, range) else { return };
        let index = self.geometry.lane_index(span.extent);
        if self.bitmap.clear(index, span.first, span.count) > 0 {
            self.bitmap_changed(index);
        }
    }

    fn bitmap_changed(&mut self, index: u32) {
        let page = self.bitmap.page_of(index);
        self.bitmap_pages[page as usize].changed = true;
    }

    /// Sets bits named by the peer; `None` if they are outside the lane.
    pub fn merge_run(&mut self, index: u32, first: u16, count: u16) -> Option<()> {
        let shape = self.bitmap.shape();
        if index >= shape.extents || count == 0 || first.checked_add(count)? > shape.blocks_in(index) {
            return None;
        }
        if self.bitmap.set(index, first, count) > 0 {
            self.bitmap_changed(index);
        }
        Some(())
    }

    /// Marks everything out of sync (full resync).
    pub fn mark_all(&mut self) {
        self.bitmap.set_all();
        self.bitmap_pages.iter_mut().for_each(|page| page.changed = true);
    }

    /// The peer's data is here, whole and on stable media (end of a resync to this node).
    pub fn mark_all_in_sync(&mut self) {
        if self.bitmap.count() > 0 {
            self.bitmap.clear_all();
            self.bitmap_pages.iter_mut().for_each(|page| page.changed = true);
        }
    }

    pub fn dirty_blocks(&self) -> u64 {
        self.bitmap.count()
    }

    pub fn bitmap(&self) -> &Bitmap {
        &self.bitmap
    }

    /// The next out-of-sync run at or after `from`, at most `blocks_max` bitmap blocks: where to go on, and its range.
    pub fn next_dirty(&self, from: (u32, u16), blocks_max: u16) -> Option<((u32, u16), BlockRange)> {
        let (index, first, count) = self.bitmap.next_run(from, blocks_max)?;
        let span = BlockSpan { extent: self.geometry.extent_at(self.id, index), first, count };
        Some(((index, first + count), span.range(&self.geometry)))
    }

    /// The target's device is flushed: resync data applied before that flush is stable here.
    pub fn on_target_flushed(&mut self, flush: u64) {
        let flushed = self.sync.take_target_flushed(flush);
        for range in flushed {
            self.mark_in_sync(range);
        }
    }

    /// Group `stable` is stable: the source may forget that its resync data was missing at the target.
    pub fn on_source_flushed(&mut self, stable: u64) {
        let flushed = self.sync.take_source_flushed(stable);
        for range in flushed {
            self.mark_in_sync(range);
        }
    }

    // ---- stability ----

    pub fn has_unstable(&self) -> bool {
        !self.unstable.is_empty() || self.unstable_overflow
    }

    /// Everything up to group `stable` is on stable media of both copies.
    pub fn on_stable(&mut self, stable: u64) {
        while self.unstable.front().is_some_and(|&(group, _)| group <= stable) {
            self.unstable.pop_front();
        }
        if self.unstable_overflow && self.extents.iter().all(|extent| extent.last_group <= stable) {
            self.unstable_overflow = false;
        }
    }

    /// The peer is gone: whatever it acknowledged and may not have on stable media is out of sync.
    pub fn mark_unstable_out_of_sync(&mut self, stable: u64) {
        let unstable = core::mem::take(&mut self.unstable);
        for &(_, range) in &unstable {
            self.mark_out_of_sync(range);
        }
        if core::mem::take(&mut self.unstable_overflow) {
            for index in 0..self.extents.len() as u32 {
                if self.extents[index as usize].last_group > stable {
                    self.bitmap.set_extent(index);
                    self.bitmap_changed(index);
                }
            }
        }
        self.unstable = unstable;
        self.unstable.clear();
        // The bits cover them now; the activity log need not hold their extents for the old groups.
        self.extents.iter_mut().for_each(|extent| extent.last_group = 0);
    }
}

fn begin_write(page: &mut Page) -> bool {
    if page.writing || !page.wanted {
        return false;
    }
    page.wanted = false;
    page.changed = false;
    page.writing = true;
    page.begun += 1;
    true
}
