//! Byte streams over the ring: the receive side that meets a core's [`Demand`]s, and the send side that gathers what a
//! loop turn has to say into one system call.
//!
//! Receiving: one large area takes whatever has come, so that one receive fetches many PDUs; they are parsed in place.
//! Payload is copied on to its buffer while small; a large remainder is received straight into it, with the area
//! behind it for what follows. Sending: headers and small payload lie in one area, large payload is gathered from its
//! buffers; one send is under way at a time, the next one collects meanwhile.
//!
//! The kernel sees addresses only of what an operation owns: both sides travel as boxes into the operation and back.

use super::buffers::{Arena, Returned, ShardPool};
use crate::block::BufSlice;
use crate::units::{BufId, ShardId};
use crate::wire::Demand;

/// Bytes of the area that receives.
pub const STAGING_BYTES: usize = 128 * 1024;
/// Most bytes that a core may demand as one slice; half of the area, so that compaction always makes room.
pub const SLICE_MAX: usize = STAGING_BYTES / 2;
/// A payload of which at least this much has not come yet is received straight into its buffer.
const DIRECT_MIN: usize = 16 * 1024;
/// Payload up to this size is copied behind its header; beyond, it is gathered from its buffer.
const COPY_MAX: usize = 1024;
/// Most pieces of one send (the kernel's limit is 1024).
const PIECES_MAX: usize = 512;
/// Most bytes of one send; what is left goes with the next.
const SEND_MAX: usize = 4 << 20;

/// The receive side of a stream.
pub struct Inbound {
    staging: Vec<u8>,
    start: usize,
    end: usize,
    pending: Pending,
    /// A receive into the buffer of the pending demand is under way.
    direct: bool,
    iov: [libc::iovec; 2],
    message: libc::msghdr,
}

/// The demand that is being met, and how much of it is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Pending {
    None,
    Bytes { len: usize },
    Data { buf: BufId, offset: usize, len: usize, filled: usize },
    Skip { left: usize },
}

/// How far a demand has been met.
#[derive(PartialEq, Eq, Debug)]
pub enum Met<'a> {
    /// The slice that was asked for: for `on_bytes`.
    Bytes(&'a [u8]),
    /// The buffer is filled: for `on_data`.
    Data {
        buf: BufId,
        offset: usize,
        len: usize,
    },
    Skipped,
    /// More must be received first.
    NotYet,
}

/// Where a receive goes. The addresses stay valid as long as the `Inbound` (and the buffer) they came from.
pub enum RecvTarget {
    Plain { address: *mut u8, len: u32 },
    Scatter { message: *mut libc::msghdr },
}

impl Inbound {
    pub fn new() -> Box<Self> {
        Box::new(Self {
            staging: vec![0; STAGING_BYTES],
            start: 0,
            end: 0,
            pending: Pending::None,
            direct: false,
            iov: [EMPTY_IOVEC; 2],
            message: empty_message(),
        })
    }

    /// With bytes that were received elsewhere.
    pub fn with_unread(unread: &[u8]) -> Box<Self> {
        assert!(unread.len() <= STAGING_BYTES, "it was received into an area of this size");
        let mut inbound = Self::new();
        inbound.staging[..unread.len()].copy_from_slice(unread);
        inbound.end = unread.len();
        inbound
    }

    /// Has the last demand been met? Only then is the core asked for the next.
    pub fn wants_demand(&self) -> bool {
        self.pending == Pending::None
    }

    /// Takes up the core's next demand. `Stalled` and `Closed` are the caller's business.
    pub fn demand(&mut self, demand: Demand) {
        assert!(self.pending == Pending::None, "one demand at a time");
        self.pending = match demand {
            Demand::Bytes { len } => {
                assert!((1..=SLICE_MAX).contains(&len), "a slice demand is bounded, not {len}");
                Pending::Bytes { len }
            }
            Demand::Data { buf, offset, len } => Pending::Data { buf, offset, len, filled: 0 },
            Demand::Skip { len } => Pending::Skip { left: len },
            Demand::Stalled | Demand::Closed => Pending::None,
        };
    }

    /// Meets the pending demand from what has been received.
    pub fn meet(&mut self, arena: &Arena) -> Met<'_> {
        let available = self.end - self.start;
        match self.pending {
            Pending::None => Met::NotYet,
            Pending::Bytes { len } if available < len => Met::NotYet,
            Pending::Bytes { len } => {
                self.pending = Pending::None;
                self.start += len;
                Met::Bytes(&self.staging[self.start - len..self.start])
            }
            Pending::Data { buf, offset, len, filled } => {
                let count = available.min(len - filled);
                if count > 0 {
                    arena.fill(buf, offset + filled, &self.staging[self.start..self.start + count]);
                }
                self.start += count;
                if filled + count < len {
                    self.pending = Pending::Data { buf, offset, len, filled: filled + count };
                    return Met::NotYet;
                }
                self.pending = Pending::None;
                Met::Data { buf, offset, len }
            }
            Pending::Skip { left } => {
                let count = available.min(left);
                self.start += count;
                if count < left {
                    self.pending = Pending::Skip { left: left - count };
                    return Met::NotYet;
                }
                self.pending = Pending::None;
                Met::Skipped
            }
        }
    }

    /// The buffer that a receive under way may write to, which its operation must retain.
    pub fn direct_buffer(&self) -> Option<BufId> {
        match self.pending {
            Pending::Data { buf, .. } if self.direct => Some(buf),
            _ => None,
        }
    }

    /// Prepares a receive: all free space of the area, and first the rest of a large payload's buffer.
    pub fn target(&mut self, arena: &Arena) -> RecvTarget {
        self.compact();
        let room = self.staging.len() - self.end;
        assert!(room > 0, "compaction makes room");
        // One pointer for the whole area: the spare capacity and the received bytes share an allocation.
        let address = self.staging.as_mut_ptr().wrapping_add(self.end);
        self.direct = false;
        if let Pending::Data { buf, offset, len, filled } = self.pending {
            let left = len - filled;
            if left >= DIRECT_MIN {
                self.direct = true;
                arena.retain(buf);
                let into = arena.address(buf, offset + filled, left);
                self.iov = [
                    libc::iovec { iov_base: into.cast(), iov_len: left },
                    libc::iovec { iov_base: address.cast(), iov_len: room },
                ];
                self.message = empty_message();
                self.message.msg_iov = self.iov.as_mut_ptr();
                self.message.msg_iovlen = 2;
                return RecvTarget::Scatter { message: &raw mut self.message };
            }
        }
        RecvTarget::Plain { address, len: room as u32 }
    }

    /// `count` bytes have been received where [`target`](Self::target) pointed. Returns the buffer whose retained
    /// count the caller now drops.
    pub fn received(&mut self, count: usize) -> Option<BufId> {
        let released = self.direct_buffer();
        let mut count = count;
        match &mut self.pending {
            Pending::Data { len, filled, .. } if self.direct => {
                let direct = count.min(*len - *filled);
                *filled += direct;
                count -= direct;
            }
            _ => {}
        }
        self.direct = false;
        self.end += count;
        assert!(self.end <= self.staging.len(), "the kernel wrote no more than was offered");
        released
    }

    /// Received bytes that no demand has consumed.
    pub fn unread(&self) -> &[u8] {
        &self.staging[self.start..self.end]
    }

    /// Moves what is left to the front when the room behind it gets short.
    fn compact(&mut self) {
        if self.start == self.end {
            (self.start, self.end) = (0, 0);
        } else if self.staging.len() - self.end < SLICE_MAX {
            self.staging.copy_within(self.start..self.end, 0);
            (self.start, self.end) = (0, self.end - self.start);
        }
    }
}

/// What one send says: bytes of its own and slices of data buffers, in order.
pub struct SendBatch {
    bytes: Vec<u8>,
    pieces: Vec<Piece>,
    /// Pieces sent whole, and bytes sent of the next one.
    sent_pieces: usize,
    sent_bytes: usize,
    /// Bytes not yet sent.
    left: usize,
    iov: Vec<libc::iovec>,
    message: libc::msghdr,
}

#[derive(Clone, Copy, Debug)]
enum Piece {
    /// A range of `bytes`.
    Own { start: usize, len: usize },
    /// Part of a buffer that the batch has retained.
    Buffer { slice: BufSlice, len: usize },
}

impl Piece {
    fn len(self) -> usize {
        match self {
            Self::Own { len, .. } | Self::Buffer { len, .. } => len,
        }
    }
}

/// What a send reads. The addresses stay valid as long as the batch they came from.
pub enum SendSource {
    Plain { address: *const u8, len: u32 },
    Gather { message: *const libc::msghdr },
}

impl SendBatch {
    pub fn new() -> Box<Self> {
        Box::new(Self {
            bytes: Vec::with_capacity(16 * 1024),
            pieces: Vec::with_capacity(256),
            sent_pieces: 0,
            sent_bytes: 0,
            left: 0,
            iov: Vec::with_capacity(256),
            message: empty_message(),
        })
    }

    pub fn is_empty(&self) -> bool {
        self.left == 0
    }

    /// Bytes not yet sent.
    pub fn left(&self) -> usize {
        self.left
    }

    /// Appends bytes.
    pub fn push(&mut self, bytes: &[u8]) {
        if bytes.is_empty() {
            return;
        }
        let start = self.bytes.len();
        self.bytes.extend_from_slice(bytes);
        self.grow_own(start, bytes.len());
    }

    /// Appends `len` zero bytes (padding).
    pub fn push_zeros(&mut self, len: usize) {
        if len > 0 {
            let start = self.bytes.len();
            self.bytes.resize(start + len, 0);
            self.grow_own(start, len);
        }
    }

    fn grow_own(&mut self, start: usize, len: usize) {
        self.left += len;
        if let Some(Piece::Own { len: last, .. }) = self.pieces.last_mut() {
            *last += len;
        } else {
            self.pieces.push(Piece::Own { start, len });
        }
    }

    /// Appends part of a buffer; retains it unless it is small enough to be copied.
    pub fn push_buffer(&mut self, arena: &Arena, slice: BufSlice, len: usize) {
        if len <= COPY_MAX {
            self.push(arena.bytes(slice.buf, slice.offset as usize, len));
            return;
        }
        arena.retain(slice.buf);
        self.left += len;
        self.pieces.push(Piece::Buffer { slice, len });
    }

    /// Prepares the next send: as much as one call takes.
    pub fn source(&mut self, arena: &Arena) -> SendSource {
        debug_assert!(self.left > 0);
        self.iov.clear();
        let mut offered = 0;
        let mut skip = self.sent_bytes;
        for piece in self.pieces[self.sent_pieces..].iter().take(PIECES_MAX) {
            let (address, len) = match *piece {
                Piece::Own { start, len } => (self.bytes[start + skip..].as_ptr(), len - skip),
                Piece::Buffer { slice, len } => {
                    let len = len - skip;
                    (arena.address(slice.buf, slice.offset as usize + skip, len).cast_const(), len)
                }
            };
            skip = 0;
            self.iov.push(libc::iovec { iov_base: address.cast_mut().cast(), iov_len: len });
            offered += len;
            if offered >= SEND_MAX {
                break;
            }
        }
        if let [only] = self.iov.as_slice() {
            return SendSource::Plain {
                address: only.iov_base.cast_const().cast(),
                len: only.iov_len as u32,
            };
        }
        self.message = empty_message();
        self.message.msg_iov = self.iov.as_mut_ptr();
        self.message.msg_iovlen = self.iov.len() as _;
        SendSource::Gather { message: &raw const self.message }
    }

    /// `count` bytes have been sent; buffers that are through are released.
    pub fn sent(&mut self, mut count: usize, pool: &mut ShardPool, foreign: &mut Vec<(ShardId, BufId)>) {
        assert!(count <= self.left, "the kernel sent no more than was offered");
        self.left -= count;
        while count > 0 {
            let piece = self.pieces[self.sent_pieces];
            let rest = piece.len() - self.sent_bytes;
            if count < rest {
                self.sent_bytes += count;
                return;
            }
            count -= rest;
            self.sent_bytes = 0;
            self.sent_pieces += 1;
            release_piece(piece, pool, foreign);
        }
        if self.left == 0 {
            self.bytes.clear();
            self.pieces.clear();
            self.sent_pieces = 0;
        }
    }

    /// Gives up what has not been sent (the connection is gone).
    pub fn abandon(&mut self, pool: &mut ShardPool, foreign: &mut Vec<(ShardId, BufId)>) {
        for piece in self.pieces.drain(..).skip(self.sent_pieces) {
            release_piece(piece, pool, foreign);
        }
        self.bytes.clear();
        (self.sent_pieces, self.sent_bytes, self.left) = (0, 0, 0);
    }
}

fn release_piece(piece: Piece, pool: &mut ShardPool, foreign: &mut Vec<(ShardId, BufId)>) {
    let Piece::Buffer { slice, .. } = piece else { return };
    if let Returned::Foreign(home) = pool.release(slice.buf) {
        foreign.push((home, slice.buf));
    }
}

const EMPTY_IOVEC: libc::iovec = libc::iovec { iov_base: std::ptr::null_mut(), iov_len: 0 };

fn empty_message() -> libc::msghdr {
    // SAFETY: all-zero is a valid msghdr: null pointers with zero lengths.
    unsafe { std::mem::zeroed() }
}
