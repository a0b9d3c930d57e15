//! What a [`Core`](super::decision::Core) is made with, what it asks for, and what it tells.

use crate::time::Duration;
use crate::units::NodeId;

/// How long is long.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Timing {
    /// Between two heartbeats, and between two beats of the engine.
    pub heartbeat: Duration,
    /// Silence after which the peer counts as dead, or an engine as hung.
    pub takeover_after: Duration,
    /// How long two idle nodes that have met wait before one serves.
    pub settle: Duration,
    /// How long a node waits for a peer that it has not heard since its own start.
    pub start_wait: Duration,
    /// Least time between two moves of the service for silence.
    pub hysteresis: Duration,
    /// How long the addresses stay while nobody serves.
    pub linger: Duration,
    /// How long they stay while requests are held.
    pub hold_grace: Duration,
}

/// What a configuration may add.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct Policy {
    /// Heartbeat networks that clients are on, a bit each.
    pub client_networks: u8,
    /// The node that is to serve when it can, and how long it must be well first.
    pub prefer: Option<(NodeId, Duration)>,
    /// Each node has portal addresses of its own, and the survivor takes a dead node's as well.
    pub stands_in: bool,
}

impl Timing {
    /// An engine whose last beat is older is not asked for anything.
    pub fn stale(&self) -> Duration {
        self.heartbeat * 3
    }
}

/// Why this node should serve.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Reason {
    /// The primary's node is silent on every network.
    PeerSilent,
    /// The primary's agent certifies that its engine has died.
    EngineDied,
    /// The primary's agent lives; its engine has not moved for too long.
    EngineHung,
    /// The primary holds all requests and cannot go on.
    PeerHeld,
    /// The primary's way to its clients is down, this node's is not, and it has not handed over.
    PeerCutOff,
    /// The peer's disk failed.
    PeerDisk,
    /// Nobody serves, and nobody wants it so.
    NobodyServes,
}

impl Reason {
    /// The word for it in logs and on the control socket.
    pub fn word(self) -> &'static str {
        match self {
            Self::PeerSilent => "peer_silent",
            Self::EngineDied => "engine_died",
            Self::EngineHung => "engine_hung",
            Self::PeerHeld => "peer_held",
            Self::PeerCutOff => "peer_cut_off",
            Self::PeerDisk => "peer_disk",
            Self::NobodyServes => "nobody_serves",
        }
    }
}

/// What the engine is asked for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Ask {
    TakeOver(Reason),
    /// Hand the service over in order, for this reason in words.
    HandOver(&'static str),
}

/// What happened, for the event log.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Note {
    Peer(Standing),
    Engine(Own),
    Asked(Ask),
    Refused {
        ask: Ask,
        why: String,
    },
    /// A takeover waits because the service moved a short while ago.
    Damped {
        for_ms: u64,
    },
}

/// The own engine in one word.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Own {
    Absent,
    Alive,
    /// Its last beat is too old.
    Hung,
    Dead,
}

/// The peer in one word.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Standing {
    /// Not heard since this agent began.
    Unheard,
    Alive,
    /// Its agent lives, and has no engine.
    NoEngine,
    EngineHung,
    EngineDead,
    /// Its agent is silent; its engine is heard.
    AgentSilent,
    Silent,
}

/// Effects.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Effect {
    /// Ask the engine; answer with [`Core::on_answer`](super::decision::Core::on_answer).
    Ask(Ask),
    /// Take the service addresses and announce them, or give them up; tell [`Core::on_addresses`](super::decision::Core::on_addresses).
    Addresses(bool),
    /// The addresses are here: announce them now, and whenever it is due; or not any more.
    Announce(bool),
    /// Take the dead peer's portal addresses, unless somebody has them, or give them back; tell
    /// [`Core::on_stand_in`](super::decision::Core::on_stand_in).
    StandIn(bool),
    /// The peer has given this node's portal addresses back: tell the link where they are.
    AnnounceOwn,
    /// Ask the initiators whether they are there; tell [`Core::on_asked`](super::decision::Core::on_asked).
    AskClients,
    /// Send a heartbeat now, not at the next tick.
    Speak,
    Note(Note),
    /// The agent may end.
    Left,
}

/// The core's outbox.
pub type Outbox = Vec<Effect>;
