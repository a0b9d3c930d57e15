//! The requests and peer operations that a part has in hand, in a slab. A slot's number and generation make the names
//! under which the disk and the peer answer.

use alloc::vec::Vec;

use crate::arbitration::Epoch;
use crate::block::BufSlice;
use crate::units::{BlockRange, RequestId, ShardId};

use super::effect::{LinkNo, OpId};

/// What a slot is busy with.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Kind {
    /// An initiator's requests.
    Read,
    Write {
        fua: bool,
    },
    Zero {
        fua: bool,
        unmap: bool,
    },
    Flush,
    /// Running: the range is the sender's until it unlocks it.
    Lock,
    /// Secondary: apply the primary's write.
    PeerWrite {
        fua: bool,
    },
    PeerZero {
        fua: bool,
        unmap: bool,
    },
    /// Secondary: apply resync data.
    PeerResync,
    /// Secondary: flush for the primary; the group it named.
    PeerFlush {
        group: u64,
    },
    /// Sync source: read a run of blocks and send it.
    Resync,
}

impl Kind {
    /// Does an initiator wait for it?
    pub fn is_request(self) -> bool {
        matches!(self, Self::Read | Self::Write { .. } | Self::Zero { .. } | Self::Flush | Self::Lock)
    }

    pub fn is_peer(self) -> bool {
        matches!(
            self,
            Self::PeerWrite { .. } | Self::PeerZero { .. } | Self::PeerResync | Self::PeerFlush { .. }
        )
    }

    /// An initiator's request that changes the medium.
    pub fn is_write(self) -> bool {
        matches!(self, Self::Write { .. } | Self::Zero { .. })
    }

    /// Does the sender want it on stable media before the answer?
    pub fn fua(self) -> bool {
        match self {
            Self::Write { fua }
            | Self::Zero { fua, .. }
            | Self::PeerWrite { fua }
            | Self::PeerZero { fua, .. } => fua,
            Self::Read
            | Self::Flush
            | Self::Lock
            | Self::PeerResync
            | Self::PeerFlush { .. }
            | Self::Resync => false,
        }
    }
}

/// Where a slot stands.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Stage {
    /// The node holds requests; not looked at yet.
    Parked,
    /// Waits for an overlapping request.
    Conflict,
    /// Holds its range; waits for the activity log.
    Log,
    /// Holds its range and is ready, but the node holds requests.
    Ready,
    /// Given to the disk (and to the peer).
    Running,
    /// Carried to the leader; its answer is awaited.
    Forwarded,
}

/// One copy's progress.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Half {
    /// Not asked (yet).
    Idle,
    Pending,
    Done,
    Failed,
    /// The peer was asked and is gone.
    Lost,
}

/// A slot's content.
#[derive(Clone, Copy, Hash, Debug)]
pub struct Work {
    pub kind: Kind,
    pub stage: Stage,
    /// Index among the part's lanes.
    pub lane: u16,
    pub range: BlockRange,
    pub buf: Option<BufSlice>,
    pub id: RequestId,
    pub origin: ShardId,
    pub local: Half,
    pub peer: Half,
    /// Reads: the confirmation needed. Flushes: the flush group. Writes: 1 once they hold their extent hot. The peer's
    /// zeroes: the request's number where it began.
    pub number: u64,
    /// The range is covered by a lock of the sender's: it is neither taken nor given back.
    pub locked: bool,
    /// Peer operations and remote requests: where to answer, and what.
    pub link: LinkNo,
    pub sequence: u64,
    /// A request of an initiator at the peer, which forwarded it; the buffer is of this node.
    pub remote: bool,
    pub epoch: Epoch,
    /// Peer operations and remote requests of a session that is gone: finish, answer nothing.
    pub orphan: bool,
}

impl Work {
    pub fn new(kind: Kind, lane: u16, range: BlockRange, buf: Option<BufSlice>) -> Self {
        Self {
            kind,
            stage: Stage::Parked,
            lane,
            range,
            buf,
            id: RequestId(0),
            origin: ShardId(0),
            local: Half::Idle,
            peer: Half::Idle,
            number: 0,
            locked: false,
            link: LinkNo(0),
            sequence: 0,
            remote: false,
            epoch: Epoch(0),
            orphan: false,
        }
    }

    /// A lock that this node holds at the leader it follows.
    pub fn is_granted_by_leader(&self) -> bool {
        self.kind == Kind::Lock && !self.remote && self.number != 0
    }

    /// Must the disk's answer be waited for before the slot may go?
    pub fn on_disk(&self) -> bool {
        self.local == Half::Pending
    }
}

#[derive(Clone, Hash, Debug)]
struct Slot {
    generation: u32,
    work: Option<Work>,
}

/// The slab. Slots are reused last-in first-out; a generation tells a late answer from a current one.
#[derive(Clone, Hash, Debug, Default)]
pub struct WorkSlab {
    slots: Vec<Slot>,
    free: Vec<u32>,
    live: u32,
}

/// Slots are named in 24 bits and generations in 28, so that a name fits an [`OpId`] with its tag.
const SLOT_BITS: u32 = 24;
const GENERATION_MASK: u32 = (1 << 28) - 1;

impl WorkSlab {
    pub fn insert(&mut self, work: Work) -> u32 {
        self.live += 1;
        if let Some(slot) = self.free.pop() {
            let entry = &mut self.slots[slot as usize];
            assert!(entry.work.is_none());
            entry.work = Some(work);
            return slot;
        }
        let slot = self.slots.len() as u32;
        assert!(slot < 1 << SLOT_BITS, "requests are bounded by the sessions' command windows");
        self.slots.push(Slot { generation: 0, work: Some(work) });
        slot
    }

    pub fn remove(&mut self, slot: u32) -> Work {
        let entry = &mut self.slots[slot as usize];
        let work = entry.work.take().expect("a live slot");
        entry.generation = (entry.generation + 1) & GENERATION_MASK;
        self.free.push(slot);
        self.live -= 1;
        work
    }

    pub fn get(&self, slot: u32) -> &Work {
        self.slots[slot as usize].work.as_ref().expect("a live slot")
    }

    pub fn get_mut(&mut self, slot: u32) -> &mut Work {
        self.slots[slot as usize].work.as_mut().expect("a live slot")
    }

    /// The slot's name for the disk and the peer.
    pub fn name(&self, slot: u32) -> OpId {
        OpId(u64::from(self.slots[slot as usize].generation) << SLOT_BITS | u64::from(slot))
    }

    /// The live slot of that name, if it is still the same work.
    pub fn find(&self, name: OpId) -> Option<u32> {
        let slot = (name.0 & ((1 << SLOT_BITS) - 1)) as u32;
        let entry = self.slots.get(slot as usize)?;
        let same = u64::from(entry.generation) == name.0 >> SLOT_BITS;
        (same && entry.work.is_some()).then_some(slot)
    }

    pub fn live(&self) -> u32 {
        self.live
    }

    /// Live slots, in slot order.
    pub fn iter(&self) -> impl Iterator<Item = (u32, &Work)> {
        self.slots.iter().enumerate().filter_map(|(slot, entry)| Some((slot as u32, entry.work.as_ref()?)))
    }

    /// One past the highest slot ever used: for walks that change the slab.
    pub fn slots(&self) -> u32 {
        self.slots.len() as u32
    }

    pub fn is_live(&self, slot: u32) -> bool {
        self.slots[slot as usize].work.is_some()
    }
}
