//! What the volume's cores ask of their driver. Effects of one outbox may run in any order, except that frames of one
//! link leave in the order given; an order that matters is said by waiting for a completion.

use alloc::vec::Vec;

use crate::block::{BlockCompletion, BufSlice};
use crate::replication::frame::FrameHeader;
use crate::units::{BufId, LaneId};

use super::messages::PartReport;

/// Names an operation on the local disk for the core that asked; echoed by `on_disk`.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct OpId(pub u64);

/// A data link of this shard, named by the peer's shard at its other end.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct LinkNo(pub u8);

/// A 4 KiB page of metadata. The driver asks the core for the page's bytes (`render`) while it drains the outbox, so
/// a page on its way to the disk never changes under the write.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum MetaPage {
    ActivityLog { lane: LaneId, page: u32 },
    Bitmap { lane: LaneId, page: u32 },
}

/// How a disk operation ended. There is no partial success: a short transfer is an error.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum DiskResult {
    Good,
    Error,
}

/// Effects of a [`Part`](super::part::Part).
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Effect {
    /// Read `len` bytes at `offset` of the data area.
    DiskRead { op: OpId, offset: u64, to: BufSlice, len: u32 },
    /// Write `len` bytes at `offset` of the data area. `fua`: durable before it completes.
    DiskWrite { op: OpId, offset: u64, from: BufSlice, len: u32, fua: bool },
    /// Make `len` bytes at `offset` of the data area read as zeroes. `unmap`: their space may be given back. `tag` is the
    /// request's number where it began; only the simulator looks at it, to tell one zero from another.
    DiskZero { op: OpId, offset: u64, len: u32, fua: bool, unmap: bool, tag: u64 },
    /// Make every write that has completed durable (data area and metadata).
    DiskFlush { op: OpId },
    /// Write a metadata page, durable before it completes.
    MetaWrite { op: OpId, page: MetaPage },
    /// Send a frame with its payload. The driver computes the payload's CRC.
    LinkSend { link: LinkNo, header: FrameHeader, payload: Option<(BufSlice, u32)> },
    /// Send a frame whose payload the core wrote itself (bitmap runs). Rare.
    LinkSendBytes { link: LinkNo, header: FrameHeader, payload: Vec<u8> },
    /// Send a frame with its payload, which is then no longer needed by the core.
    LinkGive { link: LinkNo, header: FrameHeader, payload: BufSlice, len: u32 },
    /// Copy what came with a frame into a request's buffer, free the one and answer the other.
    Deliver { from: BufId, to: BufSlice, len: u32, completion: BlockCompletion },
    /// Answer a request; its buffer is the origin's again once no operation of the ring uses it.
    Complete(BlockCompletion),
    /// A buffer that came with a frame is no longer needed by the core.
    Free(BufId),
    /// Tell the coordinator on shard 0.
    Report(PartReport),
}

/// A reused list of effects: filled by one input, drained by the driver before the next.
pub type Outbox = Vec<Effect>;
