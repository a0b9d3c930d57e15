//! Overlapping requests of one lane run one after the other, in the order they came (D5). A read waits for an
//! overlapping write until the write is on every copy, so it never shows data that a failover could take back (D7);
//! a write waits for an overlapping read for the same reason.
//!
//! A lane has at most a few hundred requests alive, mostly far fewer, so a scan of a dense list beats a tree.

use alloc::collections::VecDeque;
use alloc::vec::Vec;

use crate::units::BlockRange;

/// How a request uses its range.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Access {
    /// Runs beside other reads.
    Shared,
    /// Runs beside nothing that overlaps.
    Exclusive,
}

#[derive(Clone, Copy, Hash, Debug)]
struct Entry {
    slot: u32,
    range: BlockRange,
    access: Access,
}

impl Entry {
    fn conflicts(&self, other: &Self) -> bool {
        (self.access == Access::Exclusive || other.access == Access::Exclusive)
            && self.range.overlaps(other.range)
    }
}

/// The ranges in use in one lane, and who waits for them.
#[derive(Clone, Hash, Debug, Default)]
pub struct ConflictSet {
    running: Vec<Entry>,
    waiting: VecDeque<Entry>,
}

impl ConflictSet {
    /// Takes the range for `slot` now (`true`) or queues the slot behind what it overlaps (`false`).
    pub fn admit(&mut self, slot: u32, range: BlockRange, access: Access) -> bool {
        let entry = Entry { slot, range, access };
        let blocked = self.running.iter().chain(&self.waiting).any(|other| other.conflicts(&entry));
        if blocked {
            self.waiting.push_back(entry);
        } else {
            self.running.push(entry);
        }
        !blocked
    }

    /// Gives the range of `slot` back and appends to `ready` the slots that may run now.
    pub fn release(&mut self, slot: u32, ready: &mut Vec<u32>) {
        let at = self.running.iter().position(|entry| entry.slot == slot);
        self.running.swap_remove(at.expect("only a running request is released"));
        self.wake(ready);
    }

    /// Forgets a slot that still waits. Returns whether it did.
    pub fn forget_waiting(&mut self, slot: u32, ready: &mut Vec<u32>) -> bool {
        let Some(at) = self.waiting.iter().position(|entry| entry.slot == slot) else { return false };
        self.waiting.remove(at);
        self.wake(ready);
        true
    }

    fn wake(&mut self, ready: &mut Vec<u32>) {
        let mut at = 0;
        while at < self.waiting.len() {
            let entry = self.waiting[at];
            let earlier = self.waiting.iter().take(at);
            if self.running.iter().chain(earlier).any(|other| other.conflicts(&entry)) {
                at += 1;
                continue;
            }
            self.waiting.remove(at);
            self.running.push(entry);
            ready.push(entry.slot);
        }
    }

    pub fn is_empty(&self) -> bool {
        self.running.is_empty() && self.waiting.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::units::Lba;

    fn range(start: u64, count: u32) -> BlockRange {
        BlockRange::new(Lba(start), count)
    }

    #[test]
    fn overlapping_writes_run_in_order() {
        let mut set = ConflictSet::default();
        let mut ready = Vec::new();
        assert!(set.admit(1, range(0, 8), Access::Exclusive));
        assert!(!set.admit(2, range(4, 8), Access::Exclusive));
        assert!(
            !set.admit(3, range(10, 8), Access::Exclusive),
            "waits behind the waiting request it overlaps"
        );
        assert!(set.admit(4, range(100, 1), Access::Shared));
        set.release(1, &mut ready);
        assert_eq!(ready, [2]);
        ready.clear();
        set.release(2, &mut ready);
        assert_eq!(ready, [3]);
    }

    #[test]
    fn reads_share_and_block_writes() {
        let mut set = ConflictSet::default();
        let mut ready = Vec::new();
        assert!(set.admit(1, range(0, 8), Access::Shared));
        assert!(set.admit(2, range(0, 8), Access::Shared));
        assert!(!set.admit(3, range(7, 1), Access::Exclusive));
        assert!(!set.admit(4, range(7, 1), Access::Shared), "does not overtake the write");
        set.release(1, &mut ready);
        assert!(ready.is_empty());
        assert!(set.forget_waiting(3, &mut ready));
        assert_eq!(ready, [4]);
        ready.clear();
        set.release(2, &mut ready);
        set.release(4, &mut ready);
        assert!(set.is_empty());
    }
}
