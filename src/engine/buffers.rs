//! Data buffers: one anonymous mapping for the engine, cut into two sizes, dealt to the shards and there to purposes.
//!
//! A [`BufId`] names a buffer for the whole engine, so a request carries it to another shard and the bytes stay where
//! they are. Each buffer is counted: the core that took it holds one count, every operation of a ring that uses it
//! another. It goes home when the last count goes, so a core may free a buffer whose send is still under way.
//!
//! Invariants: between take and the last release a buffer has one user that may write it at a time (the core's shard,
//! or the ring for a read); contents are never looked at while a read into it is in flight. A buffer released on a
//! foreign shard is handed back by message ([`Returned::Foreign`]); only the home shard touches its free lists.
//! Absent on purpose: growing. What is not there makes the taker wait (Q1).

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use memmap2::{MmapMut, MmapOptions};

use crate::block::BufSlice;
use crate::iscsi::Examine;
use crate::units::{BufId, CHUNK_BYTES, Pool, ShardId};

/// Bytes of a small buffer: a 4 KiB or 8 KiB transfer, the most frequent ones.
pub const SMALL_BYTES: usize = 8 * 1024;
const SMALL_SHIFT: u32 = SMALL_BYTES.trailing_zeros();
const CHUNK_SHIFT: u32 = CHUNK_BYTES.trailing_zeros();
/// Marks the id of a chunk.
const CHUNK_BIT: u32 = 1 << 31;
/// The mapping begins and ends on a huge page, so that few translations cover it.
const HUGE_PAGE: usize = 2 << 20;
/// Most bytes that the kernel registers as one buffer.
pub const REGISTER_MAX: usize = 1 << 30;

/// What a buffer is taken for. Each purpose has its own share of a shard's buffers, so that none starves another.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Purpose {
    /// Commands of initiators.
    Target,
    /// Frames from the peer.
    Link,
    /// Blocks read for a resync.
    Resync,
}

const PURPOSES: usize = 3;

/// Buffers of one size for each purpose, on each shard.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Quota {
    pub target: u32,
    pub link: u32,
    pub resync: u32,
}

impl Quota {
    fn total(self) -> u32 {
        self.target + self.link + self.resync
    }

    /// First local number and count of a purpose's share.
    fn share(self, purpose: Purpose) -> (u32, u32) {
        match purpose {
            Purpose::Target => (0, self.target),
            Purpose::Link => (self.target, self.link),
            Purpose::Resync => (self.target + self.link, self.resync),
        }
    }

    fn purpose_of(self, local: u32) -> Purpose {
        if local < self.target {
            Purpose::Target
        } else if local < self.target + self.link {
            Purpose::Link
        } else {
            Purpose::Resync
        }
    }
}

/// How many buffers there are.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ArenaPlan {
    pub shards: u8,
    /// Buffers of [`SMALL_BYTES`].
    pub small: Quota,
    /// Buffers of [`CHUNK_BYTES`].
    pub chunk: Quota,
}

impl ArenaPlan {
    /// Enough for a few busy sessions on each shard: 128 commands of 4 KiB several times over, or 24 MiB in transfer.
    pub fn standard(shards: u8, replicated: bool) -> Self {
        let link = u32::from(replicated);
        Self {
            shards,
            small: Quota { target: 1024, link: 1024 * link, resync: 0 },
            chunk: Quota { target: 384, link: 192 * link, resync: 64 * link },
        }
    }

    fn small_area(&self) -> usize {
        let bytes = (self.small.total() as usize * usize::from(self.shards)) << SMALL_SHIFT;
        bytes.next_multiple_of(HUGE_PAGE)
    }

    /// Bytes of address space for all shards.
    pub fn bytes(&self) -> usize {
        let chunks = (self.chunk.total() as usize * usize::from(self.shards)) << CHUNK_SHIFT;
        (self.small_area() + chunks).next_multiple_of(HUGE_PAGE)
    }
}

/// The mapping and the counts; shared by all shards.
pub struct Arena {
    plan: ArenaPlan,
    base: *mut u8,
    len: usize,
    /// Users of each buffer: first all small ones, then all chunks.
    counts: Box<[AtomicU32]>,
    /// Owns the memory; touched only through `base`.
    _mapping: MmapMut,
}

// SAFETY: `base` points into the mapping that the arena owns; the bytes behind it are handed out by the rule of the
// module head (one user at a time), the counts are atomic.
unsafe impl Send for Arena {}
// SAFETY: as above; all methods that reach the bytes lean on the same rule.
unsafe impl Sync for Arena {}

impl Arena {
    pub fn new(plan: ArenaPlan) -> io::Result<Arc<Self>> {
        assert!(plan.shards > 0, "an engine has a shard");
        let len = plan.bytes();
        let mut mapping = MmapOptions::new().len(len + HUGE_PAGE).map_anon()?;
        // Where the kernel grants it, a handful of huge pages: fewer pins and translations. Refusal costs only speed.
        if let Err(error) = mapping.advise(memmap2::Advice::HugePage) {
            log::debug!("no huge pages for the data buffers: {error}");
        }
        let start = mapping.as_mut_ptr();
        let skip = start.align_offset(HUGE_PAGE);
        // SAFETY: `skip` is below HUGE_PAGE and the mapping is that much longer than `len`.
        let base = unsafe { start.add(skip) };
        let buffers = (plan.small.total() + plan.chunk.total()) as usize * usize::from(plan.shards);
        let counts = (0..buffers).map(|_| AtomicU32::new(0)).collect();
        Ok(Arc::new(Self { plan, base, len, counts, _mapping: mapping }))
    }

    /// Bytes that `buf` holds.
    pub fn capacity(buf: BufId) -> usize {
        if buf.0 & CHUNK_BIT == 0 { SMALL_BYTES } else { CHUNK_BYTES }
    }

    fn small_total(&self) -> u32 {
        self.plan.small.total() * u32::from(self.plan.shards)
    }

    /// Offset of the buffer in the slab. An id that was never handed out is a broken invariant.
    fn slab_offset(&self, buf: BufId) -> usize {
        let index = buf.0 & !CHUNK_BIT;
        if buf.0 & CHUNK_BIT == 0 {
            assert!(index < self.small_total());
            (index as usize) << SMALL_SHIFT
        } else {
            assert!(index < self.plan.chunk.total() * u32::from(self.plan.shards));
            self.plan.small_area() + ((index as usize) << CHUNK_SHIFT)
        }
    }

    fn count(&self, buf: BufId) -> &AtomicU32 {
        let index = buf.0 & !CHUNK_BIT;
        let first = if buf.0 & CHUNK_BIT == 0 { 0 } else { self.small_total() };
        &self.counts[(first + index) as usize]
    }

    fn home(&self, buf: BufId) -> ShardId {
        let index = buf.0 & !CHUNK_BIT;
        let each = if buf.0 & CHUNK_BIT == 0 { self.plan.small.total() } else { self.plan.chunk.total() };
        ShardId((index / each) as u8)
    }

    /// Address of `len` bytes at `offset` of `buf`, for the kernel. The range is checked, the use is the caller's.
    pub fn address(&self, buf: BufId, offset: usize, len: usize) -> *mut u8 {
        assert!(offset.checked_add(len).is_some_and(|end| end <= Self::capacity(buf)), "inside the buffer");
        // SAFETY: the buffer lies inside the mapping and the range inside the buffer.
        unsafe { self.base.add(self.slab_offset(buf) + offset) }
    }

    /// Index of the registered slab that holds `buf` (see [`slabs`](Self::slabs)).
    pub fn register_index(&self, buf: BufId) -> u16 {
        (self.slab_offset(buf) / REGISTER_MAX) as u16
    }

    /// The whole mapping in pieces that the kernel can register.
    pub fn slabs(&self) -> Vec<libc::iovec> {
        (0..self.len)
            .step_by(REGISTER_MAX)
            .map(|start| libc::iovec {
                // SAFETY: `start` is inside the mapping.
                iov_base: unsafe { self.base.add(start) }.cast(),
                iov_len: REGISTER_MAX.min(self.len - start),
            })
            .collect()
    }

    /// Bytes of a buffer that the caller's shard has the use of.
    pub fn bytes(&self, buf: BufId, offset: usize, len: usize) -> &[u8] {
        debug_assert!(self.count(buf).load(Ordering::Relaxed) > 0, "a buffer in use");
        let address = self.address(buf, offset, len);
        // SAFETY: inside the mapping, initialised (anonymous memory is zero), and by the rule of the module head nobody
        // writes the buffer while its user looks at it.
        unsafe { std::slice::from_raw_parts(address, len) }
    }

    /// Compares, combines or fills bytes of buffers that the caller's shard has the use of ([`Examine`]).
    pub fn examine(&self, how: Examine, left: BufSlice, right: BufSlice, len: usize) -> Option<u32> {
        let found = match how {
            Examine::Compare => {
                let (left, right) = (self.slice(left, len), self.slice(right, len));
                first_difference(left, right)
            }
            Examine::Or => {
                let combined: Vec<u8> =
                    self.slice(left, len).iter().zip(self.slice(right, len)).map(|(a, b)| a | b).collect();
                self.fill(left.buf, left.offset as usize, &combined);
                None
            }
            Examine::Repeat { block } => {
                let pattern = self.slice(left, block as usize).to_vec();
                for at in (0..len).step_by(pattern.len()) {
                    let part = pattern.len().min(len - at);
                    self.fill(left.buf, left.offset as usize + at, &pattern[..part]);
                }
                pattern.iter().position(|byte| *byte != 0)
            }
        };
        found.map(|at| at as u32)
    }

    fn slice(&self, slice: BufSlice, len: usize) -> &[u8] {
        self.bytes(slice.buf, slice.offset as usize, len)
    }

    /// Copies into a buffer that the caller's shard has the use of.
    pub fn fill(&self, buf: BufId, offset: usize, from: &[u8]) {
        debug_assert!(self.count(buf).load(Ordering::Relaxed) > 0, "a buffer in use");
        let address = self.address(buf, offset, from.len());
        // SAFETY: the target is inside the mapping, `from` is not in this buffer (it is a staging area, or another buffer),
        // and by the rule of the module head nobody else reads or writes the buffer now.
        unsafe { std::ptr::copy_nonoverlapping(from.as_ptr(), address, from.len()) };
    }

    /// Copies the first bytes of one buffer into a slice of another. The caller's shard has the use of both.
    pub fn copy(&self, from: BufId, to: BufSlice, len: usize) {
        assert!(from != to.buf, "two buffers");
        self.fill(to.buf, to.offset as usize, self.bytes(from, 0, len));
    }

    /// One more user of `buf`.
    pub fn retain(&self, buf: BufId) {
        let before = self.count(buf).fetch_add(1, Ordering::Relaxed);
        assert!(before > 0, "only a buffer in use gets another user");
    }

    /// One user less. True for the last: then the buffer goes home, see [`ShardPool::release`].
    fn drop_user(&self, buf: BufId) -> bool {
        let before = self.count(buf).fetch_sub(1, Ordering::AcqRel);
        assert!(before > 0, "a buffer is released once by each user");
        before == 1
    }
}

/// Whole pages first: a comparison as a whole is faster than one byte by byte.
fn first_difference(left: &[u8], right: &[u8]) -> Option<usize> {
    const STEP: usize = 512;
    let mut pairs = left.chunks(STEP).zip(right.chunks(STEP)).enumerate();
    let (chunk, (left, right)) = pairs.find(|(_, (left, right))| left != right)?;
    left.iter().zip(right).position(|(a, b)| a != b).map(|at| chunk * STEP + at)
}

/// What became of a released buffer.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Returned {
    /// Others still use it.
    InUse,
    /// It is free again on this shard.
    Home,
    /// The last user is gone; tell that shard.
    Foreign(ShardId),
}

/// The free lists of one shard.
pub struct ShardPool {
    arena: Arc<Arena>,
    shard: ShardId,
    /// Free buffers by purpose; the last one freed is taken first, its bytes may still be in a cache.
    small: [Vec<BufId>; PURPOSES],
    chunk: [Vec<BufId>; PURPOSES],
    /// A take has failed since the last [`ShardPool::take_starved`].
    starved: [bool; PURPOSES],
    /// A buffer has come home since then.
    replenished: [bool; PURPOSES],
}

impl ShardPool {
    pub fn new(arena: Arc<Arena>, shard: ShardId) -> Self {
        assert!(shard.0 < arena.plan.shards);
        let list = |quota: Quota, purpose: Purpose, mark: u32| -> Vec<BufId> {
            let first_of_shard = quota.total() * u32::from(shard.0);
            let (first, count) = quota.share(purpose);
            (first..first + count).rev().map(|local| BufId(mark | (first_of_shard + local))).collect()
        };
        let all = [Purpose::Target, Purpose::Link, Purpose::Resync];
        let small = all.map(|purpose| list(arena.plan.small, purpose, 0));
        let chunk = all.map(|purpose| list(arena.plan.chunk, purpose, CHUNK_BIT));
        Self { arena, shard, small, chunk, starved: [false; PURPOSES], replenished: [false; PURPOSES] }
    }

    pub fn arena(&self) -> &Arc<Arena> {
        &self.arena
    }

    /// The pool as a core sees it.
    pub fn purpose(&mut self, purpose: Purpose) -> PurposePool<'_> {
        PurposePool { pool: self, purpose }
    }

    fn take(&mut self, purpose: Purpose, len: usize) -> Option<BufId> {
        assert!((1..=CHUNK_BYTES).contains(&len), "a buffer holds 1 to {CHUNK_BYTES} bytes, not {len}");
        let small = if len <= SMALL_BYTES { self.small[purpose as usize].pop() } else { None };
        let Some(buf) = small.or_else(|| self.chunk[purpose as usize].pop()) else {
            self.starved[purpose as usize] = true;
            return None;
        };
        // A free buffer belongs to its home shard alone, so no exchange is needed.
        let count = self.arena.count(buf);
        assert!(count.load(Ordering::Relaxed) == 0, "a free buffer has no user");
        count.store(1, Ordering::Relaxed);
        Some(buf)
    }

    /// One user of `buf` is done with it.
    #[must_use = "a foreign buffer must be sent home"]
    pub fn release(&mut self, buf: BufId) -> Returned {
        if !self.arena.drop_user(buf) {
            return Returned::InUse;
        }
        let home = self.arena.home(buf);
        if home == self.shard {
            self.come_home(buf);
            Returned::Home
        } else {
            Returned::Foreign(home)
        }
    }

    /// Puts back a buffer of this shard whose last user is gone.
    pub fn come_home(&mut self, buf: BufId) {
        let plan = &self.arena.plan;
        let is_small = buf.0 & CHUNK_BIT == 0;
        let quota = if is_small { plan.small } else { plan.chunk };
        let local = (buf.0 & !CHUNK_BIT) - quota.total() * u32::from(self.shard.0);
        assert!(local < quota.total(), "the buffer is this shard's");
        let purpose = quota.purpose_of(local) as usize;
        self.replenished[purpose] = true;
        if is_small { self.small[purpose].push(buf) } else { self.chunk[purpose].push(buf) }
    }

    /// Has someone gone without a buffer, and is there one now? Asking clears it.
    pub fn take_starved(&mut self, purpose: Purpose) -> bool {
        let purpose = purpose as usize;
        let ready = self.starved[purpose] && self.replenished[purpose];
        if ready {
            self.starved[purpose] = false;
        }
        self.replenished[purpose] = false;
        ready
    }

    /// Buffers of this shard that are taken.
    #[cfg(test)]
    pub fn in_use(&self) -> usize {
        let free: usize = self.small.iter().chain(&self.chunk).map(Vec::len).sum();
        (self.arena.plan.small.total() + self.arena.plan.chunk.total()) as usize - free
    }
}

/// One purpose's share of a shard's buffers.
pub struct PurposePool<'a> {
    pool: &'a mut ShardPool,
    purpose: Purpose,
}

impl Pool for PurposePool<'_> {
    fn take(&mut self, len: usize) -> Option<BufId> {
        self.pool.take(self.purpose, len)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plan() -> ArenaPlan {
        let quota = Quota { target: 2, link: 1, resync: 1 };
        ArenaPlan { shards: 2, small: quota, chunk: quota }
    }

    #[test]
    fn purposes_and_sizes_have_their_own_shares() {
        let arena = Arena::new(plan()).expect("memory");
        let mut pool = ShardPool::new(arena, ShardId(1));
        let taken: Vec<_> = (0..5).map_while(|_| pool.purpose(Purpose::Target).take(4096)).collect();
        // Two small ones, then chunks stand in.
        assert_eq!(
            taken.iter().map(|buf| Arena::capacity(*buf)).sum::<usize>(),
            2 * (SMALL_BYTES + CHUNK_BYTES)
        );
        assert_eq!(pool.purpose(Purpose::Target).take(1), None);
        assert!(pool.purpose(Purpose::Link).take(CHUNK_BYTES).is_some());
        assert!(pool.purpose(Purpose::Link).take(CHUNK_BYTES).is_none());
        assert!(!pool.take_starved(Purpose::Target), "nothing has come back");
        assert_eq!(pool.release(taken[0]), Returned::Home);
        assert!(pool.take_starved(Purpose::Target));
        assert!(!pool.take_starved(Purpose::Target));
        assert_eq!(pool.in_use(), 4);
    }

    #[test]
    fn a_buffer_goes_home_after_its_last_user() {
        let arena = Arena::new(plan()).expect("memory");
        let mut home = ShardPool::new(arena.clone(), ShardId(0));
        let mut other = ShardPool::new(arena.clone(), ShardId(1));
        let buf = home.purpose(Purpose::Target).take(CHUNK_BYTES).expect("free");
        arena.fill(buf, 4096, b"data");
        arena.retain(buf);
        assert_eq!(home.release(buf), Returned::InUse);
        assert_eq!(arena.bytes(buf, 4096, 4), b"data");
        assert_eq!(other.release(buf), Returned::Foreign(ShardId(0)));
        home.come_home(buf);
        assert_eq!(home.in_use(), 0);
    }

    #[test]
    fn buffers_do_not_overlap_and_are_page_aligned() {
        let arena = Arena::new(plan()).expect("memory");
        let mut ranges = Vec::new();
        for shard in [ShardId(0), ShardId(1)] {
            let mut pool = ShardPool::new(arena.clone(), shard);
            for purpose in [Purpose::Target, Purpose::Link, Purpose::Resync] {
                while let Some(buf) = pool.purpose(purpose).take(100) {
                    let start = arena.address(buf, 0, Arena::capacity(buf)) as usize;
                    assert_eq!(start % 4096, 0);
                    ranges.push((start, start + Arena::capacity(buf)));
                }
            }
        }
        assert_eq!(ranges.len(), 16);
        ranges.sort_unstable();
        assert!(ranges.windows(2).all(|pair| pair[0].1 <= pair[1].0));
        let slab = arena.slabs()[0];
        let base = slab.iov_base as usize;
        assert!(ranges[0].0 >= base && ranges[15].1 <= base + slab.iov_len);
    }

    #[test]
    #[should_panic(expected = "released once")]
    fn a_double_release_stops_the_program() {
        let arena = Arena::new(plan()).expect("memory");
        let mut pool = ShardPool::new(arena, ShardId(0));
        let buf = pool.purpose(Purpose::Link).take(10).expect("free");
        let _ = pool.release(buf);
        let _ = pool.release(buf);
    }
}
