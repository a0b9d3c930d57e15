//! The request that walks from a SCSI command to the disks, and its answer.
//!
//! The target side cuts a command into pieces ([`Geometry::pieces`](crate::units::Geometry::pieces)) and sends each as
//! one [`BlockRequest`] to the shard that owns its lane. Every request is completed exactly once.

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
