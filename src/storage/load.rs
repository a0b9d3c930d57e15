//! Puts a lane's state together from its pages at start.
//!
//! The driver reads every activity log page and every bitmap page of the lane, in order, and hands them over; a page
//! that the device cannot read is handed over as `None`. Whatever is damaged is taken for different.

use crate::units::LaneId;

use super::activity_log::ActivityLog;
use super::bitmap::Bitmap;
use super::layout::{LaneShape, Layout};
use super::page::{Damage, Page};

/// What a lane knows about differences between the two copies.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct LaneState {
    pub lane: LaneId,
    pub activity: ActivityLog,
    pub bitmap: Bitmap,
    /// Sectors and pages that could not be read or believed.
    pub damaged: u32,
}

impl LaneState {
    /// Nothing hot, nothing out of sync: what a fresh volume starts from.
    pub fn new(shape: LaneShape) -> Self {
        Self {
            lane: shape.lane,
            activity: ActivityLog::new(shape.lane, shape.extents),
            bitmap: Bitmap::new(shape),
            damaged: 0,
        }
    }

    /// After a crash: every block of a hot extent may differ. Returns how many blocks were newly marked. The extents
    /// stay hot; they may turn cold once the marked pages are durable.
    pub fn mark_hot_dirty(&mut self) -> u64 {
        let Self { activity, bitmap, .. } = self;
        activity.iter_hot().map(|index| u64::from(bitmap.set_extent(index))).sum()
    }
}

/// Collects a lane's pages.
#[derive(Clone, Debug)]
pub struct LaneLoader {
    state: LaneState,
    activity_pages: u32,
    bitmap_pages: u32,
    activity_seen: u32,
    bitmap_seen: u32,
}

impl LaneLoader {
    pub fn new(layout: &Layout, lane: LaneId) -> Self {
        Self {
            state: LaneState::new(layout.lane_shape(lane)),
            activity_pages: layout.activity_pages_per_lane(),
            bitmap_pages: layout.bitmap_pages_per_lane(),
            activity_seen: 0,
            bitmap_seen: 0,
        }
    }

    /// The next activity log page of the lane, from page 0; `None` if the device could not read it.
    pub fn on_activity_page(&mut self, page: Option<&Page>) -> Damage {
        assert!(self.activity_seen < self.activity_pages, "more activity log pages than the layout has");
        let number = self.activity_seen;
        self.activity_seen += 1;
        let damage = match page {
            Some(bytes) => self.state.activity.decode_page(number, bytes),
            None => self.state.activity.lose_page(number),
        };
        self.state.damaged += u32::from(damage.0);
        damage
    }

    /// The next bitmap page of the lane, from page 0; `None` if the device could not read it.
    pub fn on_bitmap_page(&mut self, page: Option<&Page>) -> Damage {
        assert!(self.bitmap_seen < self.bitmap_pages, "more bitmap pages than the layout has");
        let number = self.bitmap_seen;
        self.bitmap_seen += 1;
        let damage = match page {
            Some(bytes) => self.state.bitmap.decode_page(number, bytes),
            None => self.state.bitmap.lose_page(number),
        };
        self.state.damaged += u32::from(damage.0);
        damage
    }

    /// The lane's state. Every page must have been handed over: a page left out would read as "in sync".
    pub fn finish(self) -> LaneState {
        assert_eq!(self.activity_seen, self.activity_pages, "activity log pages are missing");
        assert_eq!(self.bitmap_seen, self.bitmap_pages, "bitmap pages are missing");
        self.state
    }
}
