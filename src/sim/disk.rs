//! A disk that keeps its promises and no more.
//!
//! Data is a pattern of 64 bits for every 512-byte sector; metadata pages are real bytes. A write that has completed is
//! in the volatile cache (unless the disk has none, or the write was FUA) and a loss of power keeps any subset of the
//! cached sectors. What is under way when the node stops may be done, torn at any sector edge, or not done. Concurrent
//! operations complete in any order; overlapping writes under way land in any order, and a read beside a write returns
//! either version of each sector. A flush makes durable what had completed before it began.
//!
//! For the checker of D4 the disk tells what may be left of a sector after a loss of power ([`SimDisk::surely_equal`]).

use std::collections::BTreeMap;

use crate::block::BufSlice;
use crate::storage::Page;
use crate::volume::effect::OpId;

use super::rng::Rng;

/// Bytes of a sector; a pattern of 64 bits stands for it.
pub const SECTOR_BYTES: u64 = 512;
const PAGE_SECTORS: usize = 8;
/// Writes that a cache holds.
const CACHED_MAX: usize = 2048;

/// Who asked, and is told.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Owner {
    Part(u8, OpId),
    Coordinator(OpId),
}

/// What is under way.
#[derive(Clone, Debug)]
pub enum Job {
    Read { start: u64, count: u32, to: BufSlice },
    Write { start: u64, data: Vec<u64>, fua: bool, live: u128 },
    Flush { begun: u64 },
    Page { at: u64, bytes: Box<Page> },
}

#[derive(Clone, Debug)]
struct Running {
    id: u64,
    owner: Owner,
    job: Job,
}

/// A completed write in the volatile cache. `live`: sectors not made durable or overwritten durably since.
#[derive(Clone, Debug)]
struct Cached {
    order: u64,
    start: u64,
    data: Vec<u64>,
    live: u128,
}

/// A completed operation.
#[derive(Debug)]
pub struct Done {
    pub owner: Owner,
    pub good: bool,
    pub read: Option<(BufSlice, Vec<u64>)>,
    /// Metadata page that is durable now.
    pub page: Option<u64>,
}

/// See the module.
#[derive(Debug)]
pub struct SimDisk {
    pub volatile: bool,
    /// A flush has failed: none succeeds any more before the device is opened anew.
    flush_failed: bool,
    now: Vec<u64>,
    safe: Vec<u64>,
    cache: Vec<Cached>,
    next_order: u64,
    pages: BTreeMap<u64, Box<Page>>,
    running: Vec<Running>,
    next_id: u64,
}

/// Does a write of `len` sectors at `start` touch `first..first + count`?
fn touches(start: u64, len: usize, first: u64, count: u64) -> bool {
    start < first + count && first < start + len as u64
}

impl SimDisk {
    pub fn new(sectors: u64, volatile: bool) -> Self {
        Self {
            volatile,
            flush_failed: false,
            now: vec![0; sectors as usize],
            safe: vec![0; sectors as usize],
            cache: Vec::new(),
            next_order: 1,
            pages: BTreeMap::new(),
            running: Vec::new(),
            next_id: 1,
        }
    }

    /// Formats a metadata page, durably.
    pub fn format_page(&mut self, at: u64, bytes: Box<Page>) {
        self.pages.insert(at, bytes);
    }

    pub fn page(&self, at: u64) -> Option<&Page> {
        self.pages.get(&at).map(|page| &**page)
    }

    /// What a read of the sector would return now.
    pub fn visible(&self, sector: u64) -> u64 {
        self.now[sector as usize]
    }

    /// What is on stable media.
    pub fn durable(&self, sector: u64) -> u64 {
        self.safe[sector as usize]
    }

    /// Pages being written to `at`.
    pub fn pages_under_way(&self, at: u64) -> impl Iterator<Item = &Page> {
        self.running.iter().filter_map(move |running| match &running.job {
            Job::Page { at: place, bytes } if *place == at => Some(&**bytes),
            _ => None,
        })
    }

    // ---- operations ----

    /// Begins an operation and returns its number.
    pub fn begin(&mut self, owner: Owner, job: Job) -> u64 {
        let id = self.next_id;
        self.next_id += 1;
        self.running.push(Running { id, owner, job });
        id
    }

    pub fn read(to: BufSlice, offset: u64, len: u32) -> Job {
        Job::Read { start: offset / SECTOR_BYTES, count: len / SECTOR_BYTES as u32, to }
    }

    pub fn write(offset: u64, data: Vec<u64>, fua: bool) -> Job {
        assert!(!data.is_empty() && data.len() <= 128, "a chunk has at most 64 KiB");
        let live = u128::MAX >> (128 - data.len());
        Job::Write { start: offset / SECTOR_BYTES, data, fua, live }
    }

    pub fn flush(&self) -> Job {
        Job::Flush { begun: self.next_order }
    }

    /// Completes an operation; `None` if the node stopped meanwhile.
    pub fn complete(&mut self, id: u64, fail: bool, rng: &mut Rng) -> Option<Done> {
        let at = self.running.iter().position(|running| running.id == id)?;
        let Running { owner, job, .. } = self.running.swap_remove(at);
        let fail = fail || (self.flush_failed && matches!(job, Job::Flush { .. }));
        self.flush_failed |= fail && matches!(job, Job::Flush { .. });
        let mut done = Done { owner, good: !fail, read: None, page: None };
        match job {
            Job::Read { start, count, to } => {
                if !fail {
                    done.read = Some((to, self.fetch(start, count, rng)));
                }
            }
            Job::Write { start, data, fua, live } => {
                let live = if fail { live & random_mask(rng) } else { live };
                self.cover_concurrent(start, data.len(), rng);
                // What a failed write leaves behind stays: it was not promised, but an initiator may see it from now on.
                self.land(start, data, live, fua || !self.volatile);
            }
            Job::Flush { begun } if fail => self.lose_cache(|cached| cached.order < begun, rng),
            Job::Flush { begun } => self.make_durable(begun),
            Job::Page { at, bytes } => {
                self.store_page(at, &bytes, if fail { rng.next_u64() as u8 } else { u8::MAX });
                done.page = Some(at);
            }
        }
        Some(done)
    }

    fn fetch(&self, start: u64, count: u32, rng: &mut Rng) -> Vec<u64> {
        let mut data = self.now[start as usize..][..count as usize].to_vec();
        for running in &self.running {
            let Job::Write { start: first, data: newer, .. } = &running.job else { continue };
            if !touches(*first, newer.len(), start, u64::from(count)) {
                continue;
            }
            for (place, value) in data.iter_mut().enumerate() {
                let sector = start + place as u64;
                if sector >= *first && sector < first + newer.len() as u64 && rng.coin() {
                    *value = newer[(sector - first) as usize];
                }
            }
        }
        data
    }

    /// A write lands beside others that are under way: some of their sectors were there before it.
    fn cover_concurrent(&mut self, start: u64, len: usize, rng: &mut Rng) {
        for running in &mut self.running {
            let Job::Write { start: first, data, fua, live } = &mut running.job else { continue };
            if *fua || !touches(start, len, *first, data.len() as u64) {
                continue;
            }
            for place in 0..data.len() as u64 {
                let sector = *first + place;
                if sector >= start && sector < start + len as u64 && rng.coin() {
                    *live &= !(1 << place);
                }
            }
        }
    }

    fn land(&mut self, start: u64, data: Vec<u64>, live: u128, durable: bool) {
        for (place, &value) in data.iter().enumerate() {
            if live & (1 << place) != 0 {
                self.now[start as usize + place] = value;
            }
        }
        let order = self.next_order;
        self.next_order += 1;
        if durable {
            self.settle(start, &data, live);
        } else {
            self.cache.push(Cached { order, start, data, live });
            if self.cache.len() > CACHED_MAX {
                // The device makes room.
                let oldest = self.cache[CACHED_MAX / 2].order;
                self.make_durable(oldest);
            }
        }
    }

    /// Sectors become durable; older cached versions of them are gone.
    fn settle(&mut self, start: u64, data: &[u64], live: u128) {
        for (place, &value) in data.iter().enumerate() {
            if live & (1 << place) != 0 {
                self.safe[start as usize + place] = value;
            }
        }
        for cached in &mut self.cache {
            if !touches(cached.start, cached.data.len(), start, data.len() as u64) {
                continue;
            }
            for place in 0..cached.data.len() as u64 {
                let sector = cached.start + place;
                let inside = sector >= start && sector < start + data.len() as u64;
                if inside && live & (1 << (sector - start)) != 0 {
                    cached.live &= !(1 << place);
                }
            }
        }
        self.cache.retain(|cached| cached.live != 0);
    }

    fn make_durable(&mut self, begun: u64) {
        let cache = core::mem::take(&mut self.cache);
        for cached in cache {
            if cached.order >= begun {
                self.cache.push(cached);
                continue;
            }
            for (place, &value) in cached.data.iter().enumerate() {
                if cached.live & (1 << place) != 0 {
                    self.safe[cached.start as usize + place] = value;
                }
            }
        }
    }

    fn store_page(&mut self, at: u64, bytes: &Page, sectors: u8) {
        let page = self.pages.entry(at).or_insert_with(|| Box::new([0; 4096]));
        for sector in 0..PAGE_SECTORS {
            if sectors & (1 << sector) != 0 {
                let range = sector * 512..(sector + 1) * 512;
                page[range.clone()].copy_from_slice(&bytes[range]);
            }
        }
    }

    // ---- the node stops ----

    /// The process is gone: what is under way is done, torn or dropped before anybody can open the device again.
    pub fn on_process_gone(&mut self, rng: &mut Rng) {
        self.flush_failed = false;
        let mut running = core::mem::take(&mut self.running);
        while !running.is_empty() {
            let at = rng.below(running.len() as u64) as usize;
            let fate = match rng.below(3) {
                0 => 0,
                1 => u128::MAX,
                _ => random_mask(rng),
            };
            match running.swap_remove(at).job {
                Job::Write { start, data, fua, live } => {
                    let durable = !self.volatile || (fua && rng.coin());
                    self.land(start, data, live & fate, durable);
                }
                Job::Page { at, bytes } => self.store_page(at, &bytes, fate as u8),
                Job::Flush { begun } if fate == u128::MAX => self.make_durable(begun),
                Job::Flush { .. } | Job::Read { .. } => {}
            }
        }
    }

    /// Power is gone: like the end of the process, and of the cache any subset of the sectors is left.
    pub fn on_power_cut(&mut self, rng: &mut Rng) {
        self.on_process_gone(rng);
        self.lose_cache(|_| true, rng);
        debug_assert!(self.cache.is_empty());
    }

    /// Cached sectors are written or lost, each by chance.
    fn lose_cache(&mut self, which: impl Fn(&Cached) -> bool, rng: &mut Rng) {
        // None, few, half, most or all of them survive.
        let survive = *rng.pick(&[0, 100, 500, 900, 1000]);
        let cache = core::mem::take(&mut self.cache);
        let (lost, kept): (Vec<_>, Vec<_>) = cache.into_iter().partition(which);
        self.cache = kept;
        for cached in lost {
            for (place, &value) in cached.data.iter().enumerate() {
                if cached.live & (1 << place) != 0 {
                    let sector = cached.start as usize + place;
                    if rng.per_mille(survive) {
                        self.safe[sector] = value;
                    }
                    self.now[sector] = self.safe[sector];
                }
            }
        }
        for cached in &self.cache {
            for (place, &value) in cached.data.iter().enumerate() {
                if cached.live & (1 << place) != 0 {
                    self.now[cached.start as usize + place] = value;
                }
            }
        }
    }

    // ---- what may be left ----

    /// Is every possible content of every sector the same on both disks, whatever fails next?
    pub fn surely_equal(&self, other: &Self, first: u64, count: u64) -> bool {
        let range = first as usize..(first + count) as usize;
        if self.now[range.clone()] != other.now[range.clone()] {
            return false;
        }
        let surely = |disk: &Self| {
            disk.now[range.clone()] == disk.safe[range.clone()] && disk.versions_agree(first, count)
        };
        surely(self) && surely(other)
    }

    /// Do all cached versions and writes under way leave the sectors as they are?
    fn versions_agree(&self, first: u64, count: u64) -> bool {
        let same = |start: u64, data: &[u64], live: u128| {
            data.iter().enumerate().all(|(place, &value)| {
                let sector = start + place as u64;
                let inside = sector >= first && sector < first + count && live & (1 << place) != 0;
                !inside || self.now[sector as usize] == value
            })
        };
        let cached =
            self.cache.iter().filter(|cached| touches(cached.start, cached.data.len(), first, count));
        cached.into_iter().all(|cached| same(cached.start, &cached.data, cached.live))
            && self.running.iter().all(|running| match &running.job {
                Job::Write { start, data, live, .. } if touches(*start, data.len(), first, count) => {
                    same(*start, data, *live)
                }
                _ => true,
            })
    }

    pub fn is_idle(&self) -> bool {
        self.running.is_empty()
    }

    /// The first sector whose content differs.
    pub fn first_difference(&self, other: &Self) -> Option<u64> {
        self.now.iter().zip(&other.now).position(|(mine, theirs)| mine != theirs).map(|at| at as u64)
    }
}

fn random_mask(rng: &mut Rng) -> u128 {
    u128::from(rng.next_u64()) << 64 | u128::from(rng.next_u64())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::units::BufId;

    fn write(disk: &mut SimDisk, rng: &mut Rng, at: u64, value: u64, fua: bool) {
        let id = disk.begin(Owner::Coordinator(OpId(1)), SimDisk::write(at * 512, vec![value; 4], fua));
        assert!(disk.complete(id, false, rng).is_some_and(|done| done.good));
    }

    #[test]
    fn only_flushed_or_fua_data_survives_for_sure() {
        let mut lost = false;
        for seed in 0..50 {
            let mut rng = Rng::new(seed);
            let mut disk = SimDisk::new(64, true);
            write(&mut disk, &mut rng, 0, 1, false);
            let flush = disk.begin(Owner::Coordinator(OpId(2)), disk.flush());
            write(&mut disk, &mut rng, 8, 2, false);
            disk.complete(flush, false, &mut rng);
            write(&mut disk, &mut rng, 16, 3, false);
            write(&mut disk, &mut rng, 16, 4, true);
            assert_eq!(disk.visible(8), 2);
            disk.on_power_cut(&mut rng);
            assert_eq!((disk.visible(0), disk.visible(16)), (1, 4));
            lost |= disk.visible(8) == 0;
        }
        assert!(lost, "the cache is lost sometimes");
    }

    #[test]
    fn a_read_beside_a_write_sees_either() {
        let mut seen = [false; 2];
        for seed in 0..50 {
            let mut rng = Rng::new(seed);
            let mut disk = SimDisk::new(64, true);
            disk.begin(Owner::Coordinator(OpId(1)), SimDisk::write(0, vec![9], false));
            let to = BufSlice { buf: BufId(0), offset: 0 };
            let read = disk.begin(Owner::Coordinator(OpId(2)), SimDisk::read(to, 0, 512));
            let done = disk.complete(read, false, &mut rng).expect("it is under way");
            seen[usize::from(done.read.expect("a read").1[0] == 9)] = true;
        }
        assert_eq!(seen, [true; 2]);
    }

    #[test]
    fn what_may_differ_is_known() {
        let mut rng = Rng::new(1);
        let (mut one, mut two) = (SimDisk::new(64, true), SimDisk::new(64, false));
        assert!(one.surely_equal(&two, 0, 8));
        write(&mut one, &mut rng, 0, 5, false);
        write(&mut two, &mut rng, 0, 5, false);
        assert!(!one.surely_equal(&two, 0, 8), "one of them may lose it");
        let flush = one.begin(Owner::Coordinator(OpId(2)), one.flush());
        one.complete(flush, false, &mut rng);
        assert!(one.surely_equal(&two, 0, 8));
        two.begin(Owner::Coordinator(OpId(3)), SimDisk::write(0, vec![6], false));
        assert!(!one.surely_equal(&two, 0, 8));
    }
}
