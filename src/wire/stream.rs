//! How a driver feeds a byte stream to a core without copying payload through it.
//!
//! The core says what it wants next; the driver brings exactly that. Headers and text come as a slice. Payload goes
//! to a buffer of the driver's: it may be copied there from a staging area or received there straight from the
//! socket, the core cannot tell. One answer, drain the outbox, ask again.

use crate::units::BufId;

/// What a core wants next from its stream.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Demand {
    /// The next `len` bytes as one slice, for `on_bytes`. `len` is at least 1 and bounded by the core's limits.
    Bytes { len: usize },
    /// The next `len` bytes at `offset` of buffer `buf`, then `on_data`.
    Data { buf: BufId, offset: usize, len: usize },
    /// Drop the next `len` bytes (padding, data of a refused command), then `on_skipped`.
    Skip { len: usize },
    /// Nothing until a buffer is free again: stop receiving, later call `on_pool_ready`.
    Stalled,
    /// Nothing more, ever: the core has asked for the connection to be closed.
    Closed,
}
