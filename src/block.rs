//! The request that walks from a SCSI command to the disks, and its answer.
//!
//! The target side cuts a command into pieces ([`Geometry::pieces`](crate::units::Geometry::pieces)) and sends each as
//! one [`BlockRequest`] to the shard that owns its lane. Every request is completed exactly once.

use crate::units::{BlockRange, BufId, RequestId, ShardId};

/// A place inside a buffer. Offsets are multiples of the logical block size.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct BufSlice {
    pub buf: BufId,
    pub offset: u32,
}

/// What to do with a range.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum BlockOp {
    /// Fill the buffer from the volume.
    Read,
    /// Write the buffer. With `fua` the answer means: stable on every in-sync copy (SBC-3 §4.15).
    Write { fua: bool },
    /// SYNCHRONIZE CACHE: everything answered before this request arrived is stable on every in-sync copy when it is
    /// answered. The range is empty and there is no buffer; any lane may serve it.
    Flush,
}

/// One piece of a command: within one extent, at most [`CHUNK_BYTES`](crate::units::CHUNK_BYTES) long.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct BlockRequest {
    pub id: RequestId,
    /// The shard that waits for the answer.
    pub origin: ShardId,
    pub op: BlockOp,
    pub range: BlockRange,
    /// `None` only for [`BlockOp::Flush`].
    pub buf: Option<BufSlice>,
}

/// How a request ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum BlockStatus {
    Good,
    /// Every copy failed. The initiator gets MEDIUM ERROR.
    MediumError,
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
