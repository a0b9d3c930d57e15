//! The request that walks from a SCSI command to the disks, and its answer.
//!
//! The target side cuts a command into pieces ([`Geometry::pieces`](crate::units::Geometry::pieces)) and sends each as
//! one [`BlockRequest`] to the shard that owns its lane. Every request is completed exactly once.
//!
//! Beside it, the words for the *unit state*: what a logical unit remembers of its initiators (persistent reservations,
//! saved parameters, resets). It is one small value of the whole volume, kept by both nodes, and changed as a whole by
//! compare-and-swap. The target side knows what the bytes mean and the volume that they are durable; these words are all
//! that the two share.

use alloc::sync::Arc;

use crate::units::{BlockRange, BufId, RequestId, ShardId};

/// A place inside a buffer. Offsets are multiples of the logical block size.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct BufSlice {
    pub buf: BufId,
    pub offset: u32,
}

/// What to do with a range.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum BlockOp {
    /// Fill the buffer from the volume.
    Read,
    /// Write the buffer. With `fua` the answer means: stable on every in-sync copy (SBC-3 §4.15).
    Write { fua: bool },
    /// Make the range read as zeroes, on every copy and from now on; `fua` as for a write. With `unmap` the copies need
    /// not keep room for it. There is no buffer, and the range may be as long as an extent.
    Zero { fua: bool, unmap: bool },
    /// SYNCHRONIZE CACHE: everything answered before this request arrived is stable on every in-sync copy when it is
    /// answered. The range is empty and there is no buffer; any lane may serve it.
    Flush,
    /// Take the range: answered when nothing else that overlaps is under way, and until [`BlockOp::Unlock`] nothing
    /// else that overlaps begins, except requests that say they are [`locked`](BlockRequest::locked). For commands that
    /// read, decide and write. A command takes one lock in each extent, in the order of their addresses: with two in one
    /// extent, somebody who waits for the first could be waited for at the second.
    Lock,
    /// Give back what `Lock` of the same range took; answered at any time, whatever the node's role.
    Unlock,
}

impl BlockOp {
    /// Does it change the medium?
    pub fn is_write(self) -> bool {
        matches!(self, Self::Write { .. } | Self::Zero { .. })
    }
}

/// One piece of a command: within one extent, and where it has a buffer at most
/// [`CHUNK_BYTES`](crate::units::CHUNK_BYTES) long.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct BlockRequest {
    pub id: RequestId,
    /// The shard that waits for the answer.
    pub origin: ShardId,
    pub op: BlockOp,
    pub range: BlockRange,
    /// Present for [`BlockOp::Read`] and [`BlockOp::Write`] only.
    pub buf: Option<BufSlice>,
    /// The sender holds the lock of a range that covers this one.
    pub locked: bool,
}

/// How a request ended.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum BlockStatus {
    Good,
    /// Every copy failed. The initiator gets MEDIUM ERROR.
    MediumError,
    /// Nobody could say for longer than initiators wait who may answer. NOT READY, 04/0A: try again.
    NotReady,
    /// This node may not answer (any more). The initiator must not see an error: its connection is dropped.
    NotServing,
}

/// The answer to a [`BlockRequest`].
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct BlockCompletion {
    pub id: RequestId,
    pub origin: ShardId,
    pub status: BlockStatus,
}

/// Counts the changes of a volume's unit state; 0 is a volume that remembers nothing yet.
#[derive(Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct UnitVersion(pub u64);

impl UnitVersion {
    /// The greatest that is believed of a disk or a peer, so that nobody brings the count to its end.
    pub const MAX: Self = Self(u64::MAX / 2);

    /// The version that the next change makes.
    ///
    /// # Panics
    /// At the end of the count, which no volume reaches.
    pub fn next(self) -> Self {
        Self(self.0.checked_add(1).expect("changes are fewer than 2^64"))
    }
}

/// Longest unit state in bytes.
pub const UNIT_BYTES_MAX: usize = 28 << 10;

/// The unit state at one version. Cheap to clone: every shard holds one and looks at it for each command.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct UnitState {
    pub version: UnitVersion,
    /// At most [`UNIT_BYTES_MAX`]; empty at version 0.
    pub bytes: Arc<[u8]>,
}

impl UnitState {
    /// What a new volume remembers.
    pub fn empty() -> Self {
        Self { version: UnitVersion(0), bytes: Arc::new([]) }
    }
}

/// A change of the unit state that a session asks for. Every one is answered exactly once ([`UnitCompletion`]), unless its
/// origin is gone.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct UnitChange {
    pub id: RequestId,
    /// The shard that waits for the answer.
    pub origin: ShardId,
    /// The version that `bytes` were computed from.
    pub base: UnitVersion,
    /// The state to come, whole; at most [`UNIT_BYTES_MAX`].
    pub bytes: Arc<[u8]>,
}

/// How a change of the unit state ended.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum UnitAnswer {
    /// It is durable on every in-sync copy, and every shard of every node that serves has adopted it: what the change ends
    /// is quiet, and what arrives from now on is judged by it.
    Done,
    /// Another change was faster. The newer state has been handed to the asking shard or is about to be: compute anew.
    Stale,
    /// This node cannot say what became of it, or may not answer (any more). The initiator must not see an error: its
    /// connection is dropped.
    NotServing,
}

/// The answer to a [`UnitChange`].
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct UnitCompletion {
    pub id: RequestId,
    pub origin: ShardId,
    pub answer: UnitAnswer,
}
