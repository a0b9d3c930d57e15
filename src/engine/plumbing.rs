//! What the drivers of one shard share: the ring, the buffers, the mesh, the time of the turn, and the requests and
//! answers that wait to be routed.

use std::collections::VecDeque;
use std::net::IpAddr;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use super::buffers::{Returned, ShardPool};
use super::link_driver::ReadyLink;
use super::mesh::Endpoint;
use super::reactor::Reactor;
use crate::arbitration::Lease;
use crate::block::{BlockCompletion, BlockOp, BlockRequest, UnitChange, UnitCompletion, UnitState};
use crate::iscsi::{Connection, NexusName};
use crate::time::Instant;
use crate::units::{BufId, Geometry, SessionId, ShardId};
use crate::volume::messages::{PartReport, Posture};
use crate::volume::part::PartStats;

/// Engine-wide number of an initiator's connection; given out and taken back by shard 0.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct ConnNo(pub u32);

/// Messages between shards.
pub enum Message {
    Block(BlockRequest),
    Done(BlockCompletion),
    /// A buffer of the receiver whose last user is gone.
    Free(BufId),
    /// Shard 0 → another: serve this connection from now on.
    Adopt(Box<MovedConnection>),
    /// Shard 0 → owner: drop this connection, a newer session takes its place.
    Replace(ConnNo),
    /// Shard 0 → all: ask every initiator to log out within so many seconds.
    AskLogout(u16),
    /// Owner → shard 0: the connection is gone and its number free.
    Gone(ConnNo),
    /// Shard 0 → all: what the coordinator has decided.
    Posture(Posture),
    /// Shard 0 → all: reads need not be confirmed for a while.
    Lease(Lease),
    /// A part → shard 0.
    Report(PartReport),
    /// Shard 0 → all: the unit state from now on; answer with `UnitAdopted` when what it ends is quiet.
    Unit {
        serial: u64,
        state: UnitState,
    },
    UnitAdopted {
        shard: ShardId,
        serial: u64,
    },
    /// Any → shard 0: an initiator changes the unit state.
    UnitChange(UnitChange),
    /// Shard 0 → who asked.
    UnitAnswer(UnitCompletion),
    /// Shard 0 → all: your numbers, please.
    WantStats,
    /// A part → shard 0.
    Stats(Box<PartStats>),
    /// Shard 0 → owner: drive this link to the peer from now on.
    AdoptLink(Box<ReadyLink>),
    /// Shard 0 → all: the session with the peer is over.
    DropSession(SessionId),
    /// Owner → shard 0: a data link broke.
    LinkLost(SessionId, String),
    /// Shard 0 → all: drop every initiator (the node does not serve any more).
    DropInitiators,
    /// Shard 0 → all: drop who is connected to these addresses.
    DropAt(Arc<[IpAddr]>),
    /// Shard 0 → all: end the loop.
    Stop,
}

/// A connection on its way to another shard, between login and full feature phase: nothing is in flight.
pub struct MovedConnection {
    pub number: ConnNo,
    pub core: Connection,
    pub fd: OwnedFd,
    /// Received, but not consumed by the core.
    pub unread: Vec<u8>,
    pub nexus: NexusName,
    pub tsih: u16,
}

pub struct Plumbing {
    pub now: Instant,
    pub shard: ShardId,
    pub geometry: Geometry,
    pub reactor: Reactor,
    pub pool: ShardPool,
    pub mesh: Endpoint<Message>,
    /// At the end: which shards have nothing under way.
    quiet: Arc<[AtomicBool]>,
    /// Requests for this shard's lanes.
    pub requests: VecDeque<BlockRequest>,
    /// Answers for this shard's connections.
    pub completions: VecDeque<BlockCompletion>,
    /// What shard 0 says to itself.
    pub to_self: VecDeque<Message>,
}

impl Plumbing {
    pub fn new(
        shard: ShardId,
        geometry: Geometry,
        reactor: Reactor,
        pool: ShardPool,
        mesh: Endpoint<Message>,
        quiet: Arc<[AtomicBool]>,
        now: Instant,
    ) -> Self {
        let (requests, completions) = (VecDeque::with_capacity(1024), VecDeque::with_capacity(1024));
        let to_self = VecDeque::new();
        Self { now, shard, geometry, reactor, pool, mesh, quiet, requests, completions, to_self }
    }

    /// Sends a message to shard 0, which may be this one.
    pub fn tell_zero(&mut self, message: Message) {
        if self.shard == ShardId(0) {
            self.to_self.push_back(message);
        } else {
            self.mesh.send(ShardId(0), message);
        }
    }

    /// Sends a request to the owner of its lane. A flush may go to any shard with a lane, for only those have links.
    pub fn route(&mut self, request: BlockRequest) {
        let owner = match request.op {
            BlockOp::Flush => ShardId((u16::from(self.shard.0) % self.geometry.lanes) as u8),
            BlockOp::Read
            | BlockOp::Write { .. }
            | BlockOp::Zero { .. }
            | BlockOp::Lock
            | BlockOp::Unlock => {
                let lane = self.geometry.lane_of(self.geometry.extent_of(request.range.start));
                ShardId((lane.0 % u16::from(self.mesh.shards())) as u8)
            }
        };
        if owner == self.shard {
            self.requests.push_back(request);
        } else {
            self.mesh.send(owner, Message::Block(request));
        }
    }

    /// Sends an answer to where the request came from.
    pub fn answer(&mut self, completion: BlockCompletion) {
        if completion.origin == self.shard {
            self.completions.push_back(completion);
        } else {
            self.mesh.send(completion.origin, Message::Done(completion));
        }
    }

    /// No request and no answer waits to be carried on.
    pub fn has_settled(&self) -> bool {
        self.requests.is_empty() && self.completions.is_empty() && self.to_self.is_empty()
    }

    /// Says whether this shard has nothing under way; true when that holds for all of them. A request on its way between
    /// shards has a connection at its origin, which is not quiet then.
    pub fn say_quiet(&self, quiet: bool) -> bool {
        self.quiet[usize::from(self.shard.0)].store(quiet, Ordering::SeqCst);
        quiet && self.quiet.iter().all(|shard| shard.load(Ordering::SeqCst))
    }

    /// One user of `buf` is done.
    pub fn release(&mut self, buf: BufId) {
        if let Returned::Foreign(home) = self.pool.release(buf) {
            self.mesh.send(home, Message::Free(buf));
        }
    }
}

/// Time since boot, suspended time included: the clock that leases are measured with.
pub fn boot_time() -> Instant {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: the structure is a local; CLOCK_BOOTTIME exists since Linux 2.6.39.
    let result = unsafe { libc::clock_gettime(libc::CLOCK_BOOTTIME, &mut time) };
    assert!(result == 0, "the clock can be read");
    Instant(time.tv_sec as u64 * 1_000_000_000 + time.tv_nsec as u64)
}
