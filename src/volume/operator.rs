//! What a person (or the failover agent) may ask of a node, what it answers, and what it tells of itself.

use core::fmt;

use crate::arbitration::{Epoch, Record};
use crate::block::UnitVersion;
use crate::replication::decision::Discord;
use crate::storage::{DiskFlags, Generations};
use crate::units::NodeId;

/// Names a request of the operator; echoed in the reply.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Ticket(pub u64);

/// A request.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum OperatorCommand {
    /// Serve. Without `force` only if this copy is in the in-sync set of the newest committed record.
    Promote {
        /// The node has never had data: what is on its disk now is the first copy.
        seed: bool,
        /// The operator's word that this other node is powered off or fenced.
        i_have_fenced: Option<NodeId>,
    },
    /// The agent's word that the primary is dead, silent or stuck: serve, although this node may still believe that it
    /// follows. A wrong word costs a failover; the arbiter decides as with `Promote`.
    TakeOver {
        /// The primary's process is certified to have ended, and this was the epoch that it told last.
        died: Option<Epoch>,
    },
    /// Stop serving, in order.
    Demote,
    /// Hand the service to the other node, in order.
    Switchover,
    /// Look for the peer again (after `Disconnect` or a refused session).
    Connect { discard_my_data: bool },
    /// Leave the peer alone.
    Disconnect,
    /// Drain, flush and get ready to exit.
    Stop,
}

/// Why a request was not carried out. Nothing was changed unless the text says so.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Refusal {
    /// Another request or a state change is under way.
    Busy,
    NotPrimary,
    PeerIsPrimary,
    /// The copy is the target of an unfinished resync.
    Inconsistent,
    /// No copy has been chosen yet.
    NeverSynced,
    /// Power was lost with a volatile write cache while the other node may have gone on.
    MayLackWrites,
    /// The newest committed record does not count this copy as in sync.
    NotInSync {
        record: Record,
    },
    /// The arbiter's record is older than what this node has seen: it was restored from a backup.
    ArbiterLostData {
        record: Record,
        seen: Record,
    },
    /// Somebody else changed the record first.
    LostRace {
        record: Record,
    },
    ArbiterUnreachable,
    /// The arbiter is a person: say that the other node is fenced.
    NeedsOperator,
    /// The named node is this node itself.
    FencedSelf,
    /// A switchover needs the peer connected and in sync.
    PeerNotReady,
    DiskFailed,
    /// The volume has no peer.
    NotReplicated,
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Busy => {
                write!(f, "another state change is under way; try again in a moment ('twinlun status')")
            }
            Self::NotPrimary => {
                write!(f, "this node does not serve the volume; run the command on the primary")
            }
            Self::PeerIsPrimary => {
                write!(
                    f,
                    "the other node serves the volume; use 'twinlun switchover' there to move it without loss"
                )
            }
            Self::Inconsistent => write!(
                f,
                "this copy is the target of an unfinished resync and must not be served; connect the other node and \
                 let the resync finish"
            ),
            Self::NeverSynced => write!(
                f,
                "this disk has never held data of the volume; connect the node that has it, or run \
                 'twinlun promote --seed' if what is on this disk is to be the first copy"
            ),
            Self::MayLackWrites => write!(
                f,
                "this node lost power with a volatile write cache and may lack acknowledged writes; connect the other \
                 node so that they are copied back, or promote the other node"
            ),
            Self::NotInSync { record } => write!(
                f,
                "this copy is outdated: record {} counts {} in sync, not this node; start that node and let this one \
                 resync (its newer writes would be lost otherwise)",
                record.epoch.0,
                Names(record)
            ),
            Self::ArbiterLostData { record, seen } => write!(
                f,
                "the arbiter's record is at {} but this node has seen {}: the arbiter lost data or was restored from a \
                 backup, and nothing is decided on it; bring its newest state back, or stop the other node and write \
                 this node's record over it with 'twinlun promote --force --i-have-fenced NODE' (on the node whose \
                 'twinlun status' shows the higher epoch)",
                record.epoch.0, seen.epoch.0
            ),
            Self::LostRace { record } => {
                write!(f, "the record was changed to {} by {} first", record.epoch.0, Names(record))
            }
            Self::ArbiterUnreachable => {
                write!(f, "the arbiter does not answer, so nobody may take over; bring it back and try again")
            }
            Self::NeedsOperator => write!(
                f,
                "the arbiter is a person: make sure that the other node is powered off, then run \
                 'twinlun promote --force --i-have-fenced NODE'"
            ),
            Self::FencedSelf => write!(f, "--i-have-fenced names this node; name the other one"),
            Self::PeerNotReady => {
                write!(f, "the other node is not connected and in sync; 'twinlun status' says why")
            }
            Self::DiskFailed => {
                write!(f, "this node's disk has failed; replace it and run 'twinlun init' again")
            }
            Self::NotReplicated => write!(f, "the volume has no [replication]; there is no other node"),
        }
    }
}

impl core::error::Error for Refusal {}

/// The in-sync set of a record in words.
struct Names<'a>(&'a Record);

impl fmt::Display for Names<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.0.in_sync.contains(NodeId(0)), self.0.in_sync.contains(NodeId(1))) {
            (true, true) => write!(f, "nodes 0 and 1"),
            (true, false) => write!(f, "node 0 only"),
            (false, true) => write!(f, "node 1 only"),
            (false, false) => write!(f, "no node"),
        }
    }
}

/// The node's role.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Role {
    Secondary,
    Primary,
}

/// State of a copy, in DRBD's words.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum DiskState {
    UpToDate,
    /// Whole, but not known to be the newest (nobody has said so since this node started).
    Consistent,
    Inconsistent,
    Outdated,
    Diskless,
    /// The peer's, while it is not connected.
    Unknown,
}

/// How the two nodes stand.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Connection {
    /// No peer configured.
    Single,
    /// Not looking for the peer: told so, or refused ([`Status::discord`]).
    StandAlone,
    Connecting,
    /// Meeting: states are being exchanged, or postures taken up.
    Negotiating,
    /// Every write goes to both nodes, or would if one served.
    Established,
    SyncSource,
    SyncTarget,
}

/// What happened, for the log and for `events`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Event {
    Started {
        record: Record,
        flags: DiskFlags,
    },
    Connected,
    /// For the first time since the start, the two have found that both copies are good.
    Agreed,
    Disconnected,
    Refused(Discord),
    PeerGone,
    Promoted {
        record: Record,
        alone: bool,
    },
    Demoted,
    /// Requests are held until the arbiter has agreed.
    Suspended,
    AloneNow {
        record: Record,
    },
    Superseded {
        record: Record,
    },
    /// The arbiter shows `record`, which is older than `seen`: this node stops serving.
    ArbiterLostData {
        record: Record,
        seen: Record,
    },
    ResyncStarted {
        source: bool,
        full: bool,
    },
    ResyncFinished {
        source: bool,
    },
    PeerInSync {
        record: Record,
    },
    HandedOver {
        record: Record,
    },
    DiskFailed,
    /// It answers nothing any more, and was given up.
    DiskHangs,
    PeerDiskFailed,
    ForcedPromotion {
        fenced: NodeId,
    },
    Stopped,
}

/// What a node knows of itself.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Status {
    pub role: Role,
    pub serving: bool,
    /// Requests wait for a decision.
    pub suspended: bool,
    pub disk: DiskState,
    pub peer_disk: DiskState,
    pub peer_primary: bool,
    pub connection: Connection,
    pub discord: Option<Discord>,
    pub record: Record,
    pub generations: Generations,
    pub flags: DiskFlags,
    pub suspect: bool,
    /// Version of the unit state (persistent reservations) that this node holds.
    pub unit: UnitVersion,
}
