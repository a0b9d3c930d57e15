//! What the control socket speaks: one JSON object per line, a request, then its answer.
//!
//! Schema 1. Names are snake_case, quantities are base units with the unit in the name, enumerations are lower-case
//! words. Fields are only ever added. These types mirror what the cores report; the cores know no JSON.

use serde::{Deserialize, Serialize};

use super::failure::Failure;

/// Version of every object here.
pub const SCHEMA: u32 = 1;
/// Longest request line.
pub const REQUEST_MAX: usize = 4096;

/// One line from a client.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RequestLine {
    pub schema: u32,
    pub request: Request,
}

/// What a client asks of the daemon.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(tag = "verb", rename_all = "snake_case", deny_unknown_fields)]
pub enum Request {
    Status,
    /// Become primary.
    Promote {
        /// Declare this node's copy the good one of a pair that has never been in sync.
        #[serde(default)]
        seed: bool,
        /// The node that a person vouches to have cut off; skips the arbiter.
        #[serde(default)]
        fenced: Option<String>,
        /// Also while the nodes have not met, at the price of a full copy.
        #[serde(default)]
        unmet: bool,
        /// The failover agent asks, for this reason (a word in snake_case): serve although the peer may still be
        /// taken for the primary. The arbiter decides as always.
        #[serde(default)]
        automatic: Option<String>,
        /// The peer's engine is certified dead; this was the epoch of its last beat. It ends what was promised to it.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        died_epoch: Option<u64>,
    },
    Demote,
    /// Hand the primary role to the peer.
    Switchover,
    Connect {
        /// Give up what this node wrote after a split brain and take the peer's copy.
        #[serde(default)]
        discard_my_data: bool,
    },
    Disconnect,
    Events {
        /// Only events with a larger sequence number.
        #[serde(default)]
        after: u64,
        /// Keep the connection and send new events as they happen.
        #[serde(default)]
        follow: bool,
    },
    /// A [`Beat`] at once, after every event, and at least so often. Ends when the daemon ends.
    Watch {
        every_milliseconds: u32,
    },
    /// Of the agent: let this node take no part in failover, or take part again.
    Standby {
        on: bool,
    },
    /// Of the agent: these addresses have left this node; what came in by them is over.
    DropConnections {
        at: Vec<std::net::IpAddr>,
    },
    /// Drain and end.
    Down,
}

/// One line to a client.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct AnswerLine {
    pub schema: u32,
    pub answer: Answer,
}

#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Answer {
    /// It is done; one line for a person.
    Done(String),
    Status(Box<Status>),
    Event(EventRecord),
    Beat(Beat),
    /// Of the agent.
    Agent(Box<AgentStatus>),
    Failure(Failure),
}

impl Answer {
    /// The line without its newline.
    pub fn line(self) -> String {
        let line = AnswerLine { schema: SCHEMA, answer: self };
        serde_json::to_string(&line).expect("an answer has only string keys")
    }
}

/// Something that happened, worth telling a person. `event` is a stable key; `text` is for reading.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct EventRecord {
    pub schema: u32,
    /// Counts up by one from 1 for as long as the daemon runs.
    pub sequence: u64,
    pub unix_milliseconds: u64,
    pub node: String,
    pub event: String,
    pub text: String,
}

/// The pulse of the engine, for the agent: every shard has turned since the one before.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Beat {
    /// Random for each start of the daemon.
    pub incarnation: u64,
    /// Rises with every beat.
    pub progress: u64,
    pub role: Role,
    pub service: Service,
    pub disk: DiskState,
    pub link: LinkState,
    pub epoch: u64,
    /// Id of the primary of the newest record this node knows.
    pub primary: Option<u8>,
    /// Ids of the nodes that it counts as in sync.
    pub in_sync: Vec<u8>,
    /// A person told this node to stop serving, and nobody has served since.
    pub demoted: bool,
    /// Since the peer's engine was heard; `None` without a session.
    pub peer_silent_milliseconds: Option<u64>,
}

/// A network on which the agents hear each other.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct NetworkStatus {
    pub local: String,
    pub peer: String,
    /// `None`: never since the agent began.
    pub heard_milliseconds_ago: Option<u64>,
    /// The peer says that it hears this node there.
    pub heard_by_peer: bool,
}

/// A service address, as the agent sees it on this node.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct AddressStatus {
    pub address: String,
    pub held: bool,
    /// Why it is not where it should be.
    pub trouble: Option<String>,
}

/// The state of the failover agent of one node.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct AgentStatus {
    pub schema: u32,
    pub version: String,
    pub node: String,
    /// The own engine: absent, alive, hung, dead.
    pub engine: String,
    /// The peer: unheard, alive, no_engine, engine_hung, engine_dead, agent_silent, silent.
    pub peer: String,
    pub standby: bool,
    pub networks: Vec<NetworkStatus>,
    pub addresses: Vec<AddressStatus>,
    /// Connections of initiators that this node would call over if it took the service from the peer now.
    pub peer_clients: u32,
    pub uptime_seconds: u64,
}

/// One word for the state of the volume, worst last.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Health {
    /// Served, every copy up to date, and a failover is possible.
    Healthy,
    /// No node is primary: nothing is wrong, nothing is served.
    Inactive,
    /// Served while one copy is being brought up to date.
    Resyncing,
    /// Served or servable from one copy only.
    Degraded,
    /// A primary holds its initiators' writes until it may answer them.
    Suspended,
    /// Both copies have writes of their own; a person must choose.
    SplitBrain,
    /// This node's copy cannot be used.
    Failed,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Role {
    Primary,
    Secondary,
    /// The peer has not said.
    Unknown,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum DiskState {
    UpToDate,
    Consistent,
    Inconsistent,
    Outdated,
    Diskless,
    Unknown,
}

/// How initiators' requests are treated here.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Service {
    Closed,
    /// A volume without a peer.
    Standalone,
    /// Requests wait.
    Held,
    /// Served; the peer's copy is not current.
    Alone,
    /// Served; an answer means both copies.
    Both,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LinkState {
    /// The volume has no peer.
    None,
    Connecting,
    /// The nodes have met and agree on who does what.
    Negotiating,
    Connected,
    /// Kept apart by `twinlun disconnect`.
    Disconnected,
    /// The nodes met and must not work together; `link_reason` says why.
    Refused,
}

/// Why the nodes must not work together as they are.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LinkRefusal {
    Geometry,
    NoData,
    Superseded,
    PeerSuperseded,
    SplitBrain,
    Unrelated,
    BothInconsistent,
}

#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct NodeStatus {
    pub name: String,
    pub role: Role,
    pub disk: DiskState,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SyncDirection {
    /// This node sends.
    Source,
    /// This node receives.
    Target,
}

#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct ResyncStatus {
    pub direction: SyncDirection,
    /// Bytes that were out of sync when it began (at least what remains); 0: the source has not told yet.
    pub total_bytes: u64,
    pub remaining_bytes: u64,
    pub rate_bytes_per_second: u64,
    /// `None` while nothing moves.
    pub eta_seconds: Option<u64>,
    /// Seconds since the last progress.
    pub stalled_seconds: u64,
}

/// A resync that has ended since the daemon began.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct LastResync {
    pub direction: SyncDirection,
    /// Bytes that were out of sync when it began.
    pub total_bytes: u64,
    /// Bytes that were sent; 0 on the target.
    pub sent_bytes: u64,
    pub unix_milliseconds: u64,
}

/// A session of an initiator.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct SessionStatus {
    /// The initiator's iSCSI name.
    pub initiator: String,
    /// Its end of the connection, `ADDRESS:PORT`.
    pub address: String,
    /// What it sees here.
    pub luns: Vec<u16>,
    pub connected_seconds: u64,
}

#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct ArbiterStatus {
    pub kind: String,
    /// Did it answer the last time it was asked?
    pub reachable: bool,
}

/// How reads are answered while both copies count.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct ReadsStatus {
    /// `confirm` or `lease`.
    pub mode: String,
    /// On the primary: for how much longer no read need be confirmed; `None`: each is confirmed.
    pub lease_milliseconds: Option<u64>,
    /// On the other node: for how much longer it has promised not to take over.
    pub promised_milliseconds: Option<u64>,
}

/// The state of the volume as one node sees it.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Status {
    pub schema: u32,
    pub version: String,
    pub volume: String,
    pub health: Health,
    pub node: NodeStatus,
    pub peer: Option<NodeStatus>,
    pub size_bytes: u64,
    pub service: Service,
    pub link: LinkState,
    pub link_refusal: Option<LinkRefusal>,
    /// The refusal in words, with what to do about it.
    pub link_reason: Option<String>,
    /// Seconds since the link was last up (or since the daemon began), while it is not.
    pub link_down_seconds: Option<u64>,
    pub epoch: u64,
    /// Names of the nodes whose copies hold every acknowledged write, by the newest record this node knows.
    pub in_sync: Vec<String>,
    pub out_of_sync_bytes: u64,
    pub resync: Option<ResyncStatus>,
    pub last_resync: Option<LastResync>,
    pub arbiter: Option<ArbiterStatus>,
    /// Sessions of initiators on this node.
    pub sessions: u32,
    /// The same one by one, the oldest first.
    #[serde(default)]
    pub session_list: Vec<SessionStatus>,
    /// The peer runs with another configuration file; the files must hold the same bytes.
    #[serde(default)]
    pub config_differs: bool,
    /// `None` for a volume without a peer.
    #[serde(default)]
    pub reads: Option<ReadsStatus>,
    /// Where initiators are served; empty while they are not.
    pub portals: Vec<String>,
    pub uptime_seconds: u64,
    /// The failover agent of this node, if it runs. (`twinlun status` asks it; the daemon does not know it.)
    #[serde(default)]
    pub agent: Option<AgentStatus>,
    /// What a person should do now, if anything.
    pub next: Option<String>,
}

impl Status {
    /// The node that is primary, as far as this node knows.
    pub fn primary(&self) -> Option<&NodeStatus> {
        [Some(&self.node), self.peer.as_ref()].into_iter().flatten().find(|node| node.role == Role::Primary)
    }

    /// Fills in `health` and `next` from everything else, the only place where they are decided.
    pub fn judge(mut self) -> Self {
        self.health = self.judged_health();
        self.next = self.next_step();
        self
    }

    /// A pair whose nodes have met and of which neither has data yet.
    fn never_synced(&self) -> bool {
        let refused = self.link == LinkState::Refused && self.link_refusal == Some(LinkRefusal::NoData);
        let fresh = self.epoch == 0 && self.node.disk == DiskState::Inconsistent;
        refused || (self.link == LinkState::Negotiating && fresh)
    }

    /// Initiators should be served and cannot connect.
    fn deaf(&self) -> bool {
        !matches!(self.service, Service::Closed | Service::Held) && self.portals.is_empty()
    }

    /// Nobody is known to serve, and this copy was in sync when it last heard.
    fn may_take_over(&self) -> bool {
        let whole = matches!(self.node.disk, DiskState::UpToDate | DiskState::Consistent);
        self.primary().is_none() && whole && self.in_sync.contains(&self.node.name)
    }

    fn judged_health(&self) -> Health {
        let apart = !matches!(self.link, LinkState::None | LinkState::Connected);
        let peer_current = self.peer.as_ref().is_none_or(|peer| peer.disk == DiskState::UpToDate);
        match self.link_refusal.filter(|_| self.link == LinkState::Refused) {
            _ if self.node.disk == DiskState::Diskless && apart => Health::Failed,
            Some(LinkRefusal::SplitBrain | LinkRefusal::Unrelated) => Health::SplitBrain,
            Some(LinkRefusal::BothInconsistent) => Health::Failed,
            _ if self.service == Service::Held => Health::Suspended,
            _ if self.resync.is_some() => Health::Resyncing,
            _ if self.never_synced() => Health::Inactive,
            _ if apart || self.deaf() => Health::Degraded,
            _ if self.primary().is_none() => Health::Inactive,
            _ if self.node.disk == DiskState::UpToDate && peer_current => Health::Healthy,
            _ => Health::Degraded,
        }
    }

    fn next_step(&self) -> Option<String> {
        let here = &self.node.name;
        let there = self.peer.as_ref().map_or("the peer", |peer| peer.name.as_str());
        let manual = self.arbiter.as_ref().is_some_and(|arbiter| arbiter.kind == "manual");
        let refused = self.link_reason.clone().filter(|_| self.link == LinkState::Refused);
        let text = match self.health {
            Health::Healthy | Health::Resyncing => return None,
            Health::Inactive if self.never_synced() => {
                format!(
                    "twinlun promote --seed on the node whose disk is to be the first copy ({here} or {there})"
                )
            }
            Health::Inactive => "nothing is served: twinlun promote on one node".to_owned(),
            Health::Suspended if manual => format!(
                "requests wait for {there}: bring it back, or power it off for good and then \
                 twinlun promote --force --i-have-fenced {there}"
            ),
            Health::Suspended => {
                format!("requests wait: bring {there} or the arbiter back (twinlun events says more)")
            }
            Health::Failed if self.node.disk == DiskState::Diskless => {
                format!(
                    "replace the disk of {here}, then twinlun init and twinlun up; {there} keeps the data"
                )
            }
            Health::SplitBrain => {
                let demote = if self.node.role == Role::Primary { "twinlun demote, then " } else { "" };
                format!(
                    "choose whose newer writes are given up. Those of {here}: on {here} {demote}twinlun connect \
                     --discard-my-data. Those of {there}: on {there} twinlun connect --discard-my-data (if it serves, \
                     twinlun demote first). The other node follows within seconds"
                )
            }
            Health::Failed | Health::Degraded if refused.is_some() => return refused,
            Health::Degraded if self.deaf() => {
                format!("initiators cannot reach {here}: free its portal (twinlun events says why)")
            }
            Health::Degraded if self.link == LinkState::Disconnected => {
                "twinlun connect brings the copies together again".to_owned()
            }
            Health::Degraded if self.link == LinkState::Connecting && self.may_take_over() => {
                let promote = match manual {
                    true => {
                        format!("power it off, then here twinlun promote --force --i-have-fenced {there}")
                    }
                    false => "twinlun promote here".to_owned(),
                };
                format!(
                    "nothing is served: start {there} or mend the replication network; if {there} is dead: {promote}"
                )
            }
            Health::Degraded if self.link == LinkState::Connecting => {
                // Reasons that say what to do have two parts.
                match &self.link_reason {
                    Some(why) if why.contains("; ") => why.clone(),
                    Some(why) => format!("start {there} or mend the replication network ({why})"),
                    None => format!("start {there} or mend the replication network"),
                }
            }
            Health::Failed | Health::Degraded => "twinlun events says more".to_owned(),
        };
        Some(text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::daemon::failure::FailureKind;

    #[test]
    fn lines_are_stable() {
        let line = r#"{"schema":1,"request":{"verb":"promote","seed":true}}"#;
        let request =
            Request::Promote { seed: true, fenced: None, unmet: false, automatic: None, died_epoch: None };
        let read: RequestLine = serde_json::from_str(line).expect("a request");
        assert_eq!(read, RequestLine { schema: 1, request });
        for bad in [
            r#"{"schema":1,"request":{"verb":"promote","sed":true}}"#,
            r#"{"schema":1,"request":{"verb":"format"}}"#,
            r#"{"schema":1,"request":{"verb":"status"},"extra":1}"#,
        ] {
            assert!(serde_json::from_str::<RequestLine>(bad).is_err(), "{bad}");
        }
        let failure = Failure::new(FailureKind::TimedOut, "what", "next");
        assert_eq!(
            Answer::Failure(failure).line(),
            r#"{"schema":1,"answer":{"failure":{"kind":"timed_out","what":"what","next":"next"}}}"#
        );
        assert_eq!(Answer::Done("ok".into()).line(), r#"{"schema":1,"answer":{"done":"ok"}}"#);
    }
}
