//! What the coordinator (one for the volume, on shard 0) and the parts (one for each shard) tell each other.
//!
//! Node-wide facts have one writer: the coordinator. The parts receive them as one immutable value, the
//! [`Posture`], and report when they have fully taken it up ("settled"). A new posture replaces the old one whole,
//! so there is no order of partial commands to get wrong.

use crate::arbitration::Epoch;
pub use crate::units::SessionId;
use crate::units::ShardId;

/// The other end of a session.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct PeerEnd {
    /// Shards that the peer runs with.
    pub shards: u8,
    /// Another one with every start of the peer's process.
    pub life: [u8; 16],
}

/// How initiators' requests are treated.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Service {
    /// Not serving: requests are answered `NotServing`, unless [`Posture::forward`] or [`Posture::hold`] says otherwise.
    Closed,
    /// A volume without a peer: plain disk, no replication state is kept.
    Standalone,
    /// Primary that may not answer at the moment (D3): requests wait, nothing is answered.
    Held,
    /// Primary and only in-sync copy: written through, every write marked out of sync.
    Alone,
    /// Primary with an in-sync peer: an answer needs both copies (D1), a read the peer's confirmation (S1).
    Both,
}

/// What the data links of the session are for.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum LinkRole {
    /// No session.
    Off,
    /// Send writes (and resync data) to the peer.
    Lead,
    /// Apply what the peer sends.
    Follow,
}

/// This node's side of a resync.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum SyncRole {
    None,
    Source {
        /// Every block is out of sync, whatever the bitmap says.
        full: bool,
    },
    Target,
}

/// The state of the node as its parts see it.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Posture {
    /// Rises with every change; names the posture in [`PartReport::Settled`].
    pub serial: u64,
    pub epoch: Epoch,
    pub service: Service,
    pub session: Option<SessionId>,
    /// Shards of the peer: lane `l` is joined to the peer's shard `l mod peer_shards` by data link of that number.
    pub peer_shards: u8,
    pub link: LinkRole,
    pub sync: SyncRole,
    /// Writes are durable here before they are answered, although both copies have them: until this node has recorded
    /// that it is not the only one in sync, a power cut must not cost it anything.
    pub write_through: bool,
    /// With [`Service::Closed`]: requests are carried to the leader that this node follows, and its answers back.
    pub forward: bool,
    /// With [`Service::Closed`]: requests that can be neither finished nor carried to a leader wait for the next posture
    /// instead of being refused. For a hand-over, which initiators need not notice.
    pub hold: bool,
    /// With [`Service::Closed`]: also make everything stable on both copies and empty the activity log.
    pub wind_down: bool,
}

impl Posture {
    /// Does the node answer initiators' requests by itself?
    pub fn answers(&self) -> bool {
        matches!(self.service, Service::Standalone | Service::Alone | Service::Both)
    }

    /// Closed: are requests kept (parked or forwarded) rather than refused?
    pub fn keeps_requests(&self) -> bool {
        self.forward || self.hold
    }

    /// Before the coordinator has said anything: closed, no link.
    pub const START: Self = Self {
        serial: 0,
        epoch: Epoch(0),
        service: Service::Closed,
        session: None,
        peer_shards: 0,
        link: LinkRole::Off,
        sync: SyncRole::None,
        write_through: false,
        forward: false,
        hold: false,
        wind_down: false,
    };
}

/// What a part tells the coordinator.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum PartReport {
    /// The posture is in force and what it asks to drain has drained: with `Closed`, `Held` or a link turned `Off`, no
    /// disk operation and no unanswered request of the old posture is left.
    Settled { shard: ShardId, serial: u64, dirty_blocks: u64 },
    /// Every bit of this shard's lanes is cleared and the target's data is flushed.
    SyncClean { shard: ShardId, serial: u64 },
    /// The link must be dropped: the peer failed an operation or broke the protocol.
    LinkFault { shard: ShardId, session: SessionId, fault: LinkFault },
    /// The local device failed an operation.
    DiskFault { shard: ShardId },
    /// It answers nothing any more. Told again as long as that is so.
    DiskHangs { shard: ShardId },
}

/// Why a part wants its link dropped.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum LinkFault {
    /// The peer's device failed a write or a flush.
    PeerDisk,
    /// The peer lives but has answered nothing that it was asked for too long: its device or a link hangs.
    Unanswered,
    /// The peer refused a frame: it follows another primary or a newer epoch.
    Refused,
    /// A frame of an older epoch, for an unknown lane, outside the volume, or out of place.
    Protocol,
}
