//! What the cores say, in the words of the control socket and of people: nodes by their names, states as
//! [`api`](super::api) types, refusals as failures with an exit code.

use std::time::Duration;

use super::api::{
    Beat, DiskState, LinkRefusal, LinkState, NodeStatus, ReadsStatus, Role, SCHEMA, Service, Status,
};
use super::config::units::human_bytes;
use super::config::{Config, NodeConfig};
use super::events::Weight;
use super::failure::{Failure, FailureKind};
use crate::arbitration::{Reads, Record};
use crate::replication::decision::Discord;
use crate::units::NodeId;
use crate::volume::coordinator::LeaseView;
use crate::volume::operator::{self, Connection, Event, OperatorCommand, Refusal};

/// The names of this node and its peer.
#[derive(Clone, Debug)]
pub struct Names {
    pub volume: String,
    pub here: String,
    /// `None`: no peer.
    pub there: Option<String>,
    id: NodeId,
}

impl Names {
    pub fn new(config: &Config, node: &NodeConfig) -> Self {
        Self {
            volume: config.volume.name.clone(),
            here: node.name.clone(),
            there: config.peer_of(node).map(|peer| peer.name.clone()),
            id: node.id,
        }
    }

    /// The node called so.
    pub fn id_of(&self, name: &str) -> Option<NodeId> {
        if name == self.here {
            return Some(self.id);
        }
        (self.there.as_deref() == Some(name)).then(|| self.id.peer())
    }

    fn of(&self, id: NodeId) -> &str {
        if id == self.id { &self.here } else { self.peer() }
    }

    fn peer(&self) -> &str {
        self.there.as_deref().unwrap_or("the peer")
    }

    /// Names of the nodes in a record's in-sync set.
    pub fn in_sync(&self, record: &Record) -> Vec<String> {
        let ids = [NodeId(0), NodeId(1)];
        ids.into_iter().filter(|id| record.in_sync.contains(*id)).map(|id| self.of(id).to_owned()).collect()
    }

    fn in_sync_words(&self, record: &Record) -> String {
        let names = self.in_sync(record);
        if names.is_empty() { "no node".to_owned() } else { names.join(" and ") }
    }

    fn record_words(&self, record: &Record) -> String {
        format!("epoch {}, in sync: {}", record.epoch.0, self.in_sync_words(record))
    }

    fn role_words(&self, source: bool) -> String {
        let (from, to) =
            if source { (self.here.as_str(), self.peer()) } else { (self.peer(), self.here.as_str()) };
        format!("from {from} to {to}")
    }
}

/// A status without what only the daemon knows (sizes, sessions, resync progress, arbiter).
pub fn status(names: &Names, status: &operator::Status) -> Status {
    let link = link_state(status);
    let own_role = if status.role == operator::Role::Primary { Role::Primary } else { Role::Secondary };
    let connected = link == LinkState::Connected;
    let peer_role = match (connected, status.peer_primary) {
        (true, true) => Role::Primary,
        (true, false) => Role::Secondary,
        (false, _) => Role::Unknown,
    };
    let peer = names.there.as_ref().map(|name| NodeStatus {
        name: name.clone(),
        role: peer_role,
        disk: disk_state(status.peer_disk),
    });
    let discord = status.discord.filter(|_| link == LinkState::Refused);
    Status {
        schema: SCHEMA,
        version: env!("CARGO_PKG_VERSION").to_owned(),
        volume: names.volume.clone(),
        health: super::api::Health::Healthy,
        node: NodeStatus { name: names.here.clone(), role: own_role, disk: disk_state(status.disk) },
        peer,
        size_bytes: 0,
        service: service(status),
        link,
        link_refusal: discord.map(refusal_of_link),
        link_reason: discord.map(|discord| discord.to_string()),
        link_down_seconds: None,
        epoch: status.record.epoch.0,
        in_sync: names.in_sync(&status.record),
        out_of_sync_bytes: 0,
        resync: None,
        last_resync: None,
        arbiter: None,
        sessions: 0,
        session_list: Vec::new(),
        config_differs: false,
        reads: None,
        portals: Vec::new(),
        uptime_seconds: 0,
        agent: None,
        next: None,
    }
}

/// How reads are answered.
pub fn reads(reads: Reads, lease: LeaseView) -> ReadsStatus {
    let milliseconds = |left: Option<Duration>| left.map(|left| left.as_millis() as u64);
    ReadsStatus {
        mode: reads.word().to_owned(),
        lease_milliseconds: milliseconds(lease.held),
        promised_milliseconds: milliseconds(lease.promised),
    }
}

/// What a beat says beside the engine's state.
#[derive(Clone, Copy, Debug)]
pub struct Pulse {
    pub incarnation: u64,
    pub progress: u64,
    pub demoted: bool,
}

/// The engine's state for the agent.
pub fn beat(names: &Names, status: &operator::Status, silent: Option<Duration>, pulse: Pulse) -> Beat {
    let seen = self::status(names, status);
    let ids = [NodeId(0), NodeId(1)].into_iter();
    Beat {
        incarnation: pulse.incarnation,
        progress: pulse.progress,
        role: seen.node.role,
        service: seen.service,
        disk: seen.node.disk,
        link: seen.link,
        epoch: seen.epoch,
        primary: status.record.primary.map(|node| node.0),
        in_sync: ids.filter(|id| status.record.in_sync.contains(*id)).map(|id| id.0).collect(),
        demoted: pulse.demoted,
        peer_silent_milliseconds: silent.map(|silent| silent.as_millis() as u64),
    }
}

fn link_state(status: &operator::Status) -> LinkState {
    match status.connection {
        Connection::Single => LinkState::None,
        Connection::StandAlone if status.discord.is_some() => LinkState::Refused,
        Connection::StandAlone => LinkState::Disconnected,
        Connection::Connecting => LinkState::Connecting,
        Connection::Negotiating => LinkState::Negotiating,
        Connection::Established | Connection::SyncSource | Connection::SyncTarget => LinkState::Connected,
    }
}

fn service(status: &operator::Status) -> Service {
    match status.connection {
        _ if status.suspended => Service::Held,
        _ if !status.serving => Service::Closed,
        Connection::Single => Service::Standalone,
        Connection::Established => Service::Both,
        _ => Service::Alone,
    }
}

fn disk_state(disk: operator::DiskState) -> DiskState {
    match disk {
        operator::DiskState::UpToDate => DiskState::UpToDate,
        operator::DiskState::Consistent => DiskState::Consistent,
        operator::DiskState::Inconsistent => DiskState::Inconsistent,
        operator::DiskState::Outdated => DiskState::Outdated,
        operator::DiskState::Diskless => DiskState::Diskless,
        operator::DiskState::Unknown => DiskState::Unknown,
    }
}

fn refusal_of_link(discord: Discord) -> LinkRefusal {
    match discord {
        Discord::Geometry => LinkRefusal::Geometry,
        Discord::NoData => LinkRefusal::NoData,
        Discord::Superseded => LinkRefusal::Superseded,
        Discord::PeerSuperseded => LinkRefusal::PeerSuperseded,
        Discord::SplitBrain => LinkRefusal::SplitBrain,
        Discord::Unrelated => LinkRefusal::Unrelated,
        Discord::BothInconsistent => LinkRefusal::BothInconsistent,
    }
}

/// An event's weight, key and text.
pub fn event(names: &Names, event: &Event) -> (Weight, &'static str, String) {
    use Weight::{Info, Warning};
    let (here, there) = (&names.here, names.peer());
    match event {
        Event::Started { record, .. } => {
            (Info, "started", format!("{here} has started ({})", names.record_words(record)))
        }
        Event::Connected => (Info, "peer_connected", format!("{there} is connected")),
        Event::Agreed => (Info, "agreed", format!("the copies of {here} and {there} are both good")),
        Event::Disconnected => (Warning, "peer_disconnected", format!("the links to {there} are down")),
        Event::Refused(Discord::SplitBrain) => (
            Warning,
            "peer_refused",
            format!(
                "split brain: {here} and {there} took writes apart; nothing was copied (twinlun status says what to do)"
            ),
        ),
        Event::Refused(discord) => (Warning, "peer_refused", discord.to_string()),
        Event::PeerGone => (Warning, "peer_lost", format!("{there} does not answer")),
        Event::Promoted { record, alone } => {
            let how = if *alone { format!(" without {there}") } else { String::new() };
            (Info, "promoted", format!("{here} is primary{how} ({})", names.record_words(record)))
        }
        Event::Demoted => (Info, "demoted", format!("{here} is secondary")),
        Event::Suspended => (
            Warning,
            "suspended",
            format!("{here} holds its initiators' requests until the arbiter has agreed"),
        ),
        Event::AloneNow { record } => {
            (Warning, "alone", format!("{here} goes on without {there} ({})", names.record_words(record)))
        }
        Event::Superseded { record } => (
            Warning,
            "superseded",
            format!("{there} has taken over; {here} serves no more ({})", names.record_words(record)),
        ),
        Event::ArbiterLostData { record, seen } => {
            (Warning, "arbiter_lost_data", forgotten(names, record, seen))
        }
        Event::ResyncStarted { source, full } => {
            let what = if *full { "of everything" } else { "of what differs" };
            (Info, "resync_started", format!("resync {what} {}", names.role_words(*source)))
        }
        Event::ResyncFinished { source } => {
            (Info, "resync_finished", format!("resync {} is complete", names.role_words(*source)))
        }
        Event::PeerInSync { record } => {
            (Info, "in_sync", format!("{there} is in sync ({})", names.record_words(record)))
        }
        Event::HandedOver { record } => (
            Info,
            "handed_over",
            format!("{here} has handed over to {there} ({})", names.record_words(record)),
        ),
        Event::DiskFailed => (Warning, "disk_failed", format!("the disk of {here} has failed")),
        Event::DiskHangs => {
            (Warning, "disk_hangs", format!("the disk of {here} answers nothing any more: it is given up"))
        }
        Event::PeerDiskFailed => (Warning, "peer_disk_failed", format!("the disk of {there} has failed")),
        Event::ForcedPromotion { fenced } => (
            Warning,
            "forced_promotion",
            format!("{here} is promoted by force: a person vouches that {} is fenced", names.of(*fenced)),
        ),
        Event::Stopped => (Info, "stopped", format!("{here} has drained and stops")),
    }
}

/// The two nodes' files differ.
pub fn config_differs(names: &Names) -> String {
    format!(
        "{} and {} run with different configuration files; make them the same bytes, then twinlun down and twinlun up \
         on the node that read the older one",
        names.here,
        names.peer()
    )
}

/// Why a promotion is refused whose price is a copy of everything: until the nodes have met, the other one's disk says
/// no more than a new disk in its place would.
pub fn unmet(names: &Names, bytes: u64) -> Failure {
    let (here, there) = (&names.here, names.peer());
    Failure::refused(
        format!(
            "{here} and {there} have not met since they were formatted: with {here} promoted now, all {} are copied \
             to {there} when it comes",
            human_bytes(bytes)
        ),
        format!(
            "wait until twinlun status shows {there} connected, then promote; or take the copy: add --yes"
        ),
    )
}

/// The arbiter has forgotten what this node knows: what that means, and what to do.
fn forgotten(names: &Names, record: &Record, seen: &Record) -> String {
    let (here, there) = (&names.here, names.peer());
    format!(
        "the arbiter's record is at epoch {} and {here} has seen {}: the arbiter lost data or was restored from a backup; \
         {here} serves no more, because another node may hold a right that was forgotten. Bring the arbiter's newest \
         state back, or stop {there} and run on {here}: twinlun promote --force --i-have-fenced {there}",
        record.epoch.0, seen.epoch.0
    )
}

/// A refused request as a failure.
pub fn refusal(names: &Names, command: &OperatorCommand, refusal: &Refusal) -> Failure {
    let (here, there) = (&names.here, names.peer());
    let (what, next) = match refusal {
        Refusal::NeedsOperator if matches!(command, OperatorCommand::Promote { seed: true, .. }) => (
            format!("the arbiter is manual: {here} needs a person's word that {there} does not serve"),
            format!(
                "if {there} has never served this volume there is nothing to fence: \
                 twinlun promote --seed --force --i-have-fenced {there}"
            ),
        ),
        Refusal::Busy if matches!(command, OperatorCommand::Connect { discard_my_data: true }) => (
            format!("{here} serves {}; it gives nothing up while it does", names.volume),
            format!("twinlun demote on {here} (its initiators lose the disk), then the same again"),
        ),
        Refusal::NotInSync { record } => (
            format!(
                "{here} is outdated: {} alone holds every acknowledged write (epoch {})",
                names.in_sync_words(record),
                record.epoch.0
            ),
            format!("start {there} and let {here} resync; promoting {here} now would lose writes"),
        ),
        Refusal::LostRace { record } => (
            format!("the arbiter's record was changed first ({})", names.record_words(record)),
            "look with twinlun status".to_owned(),
        ),
        Refusal::NeedsOperator => (
            format!("the arbiter is manual: {here} may not decide alone that {there} is out"),
            format!("power {there} off, then twinlun promote --force --i-have-fenced {there}"),
        ),
        Refusal::PeerIsPrimary => {
            (format!("{there} is primary and serves the volume"), format!("on {there}: twinlun switchover"))
        }
        Refusal::NotPrimary => (format!("{here} is not primary"), format!("run it on {there}")),
        Refusal::NotReplicated => {
            (format!("{} has one node: the configuration has no [replication]", names.volume), String::new())
        }
        other => {
            let text = other.to_string();
            match text.split_once("; ") {
                Some((what, next)) => (format!("{here}: {what}"), next.to_owned()),
                None => (format!("{here}: {text}"), String::new()),
            }
        }
    };
    Failure::new(kind(refusal), what, next)
}

fn kind(refusal: &Refusal) -> FailureKind {
    match refusal {
        Refusal::Busy | Refusal::NotPrimary | Refusal::LostRace { .. } | Refusal::DiskFailed => {
            FailureKind::Failed
        }
        Refusal::FencedSelf | Refusal::NotReplicated => FailureKind::Usage,
        Refusal::PeerIsPrimary
        | Refusal::Inconsistent
        | Refusal::NeverSynced
        | Refusal::MayLackWrites
        | Refusal::NotInSync { .. }
        | Refusal::ArbiterLostData { .. }
        | Refusal::ArbiterUnreachable
        | Refusal::NeedsOperator
        | Refusal::PeerNotReady => FailureKind::Refused,
    }
}

/// What to say when a request was carried out.
pub fn done(names: &Names, command: &OperatorCommand) -> String {
    let (here, there) = (&names.here, names.peer());
    match command {
        OperatorCommand::Promote { .. } | OperatorCommand::TakeOver { .. } => {
            format!("{here} is primary and serves {}", names.volume)
        }
        OperatorCommand::Demote => format!("{here} is secondary"),
        OperatorCommand::Switchover => format!("{there} is primary and serves {}", names.volume),
        OperatorCommand::Connect { discard_my_data: true } => {
            format!("{here} gives up its own writes and looks for {there}")
        }
        OperatorCommand::Connect { .. } => format!("{here} looks for {there}"),
        OperatorCommand::Disconnect => format!("{here} has dropped the links to {there} and keeps them down"),
        OperatorCommand::Stop => format!("{here} has drained and stops"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::arbitration::{Epoch, NodeSet};

    fn names() -> Names {
        Names { volume: "vol1".into(), here: "stor-b".into(), there: Some("stor-a".into()), id: NodeId(1) }
    }

    const PROMOTE: OperatorCommand = OperatorCommand::Promote { seed: false, i_have_fenced: None };

    #[test]
    fn people_hear_names_not_numbers() {
        let record =
            Record { epoch: Epoch(9), primary: Some(NodeId(0)), in_sync: NodeSet::only(NodeId(0)), nonce: 1 };
        let failure = refusal(&names(), &PROMOTE, &Refusal::NotInSync { record });
        assert_eq!(failure.kind, FailureKind::Refused);
        assert_eq!(failure.what, "stor-b is outdated: stor-a alone holds every acknowledged write (epoch 9)");
        let (weight, key, text) = event(&names(), &Event::Superseded { record });
        assert_eq!((weight, key), (Weight::Warning, "superseded"));
        assert_eq!(text, "stor-a has taken over; stor-b serves no more (epoch 9, in sync: stor-a)");
        let (_, _, text) = event(&names(), &Event::ResyncStarted { source: false, full: true });
        assert_eq!(text, "resync of everything from stor-a to stor-b");
    }

    #[test]
    fn a_primary_is_told_why_it_may_not_give_up_its_data() {
        let failure = refusal(&names(), &OperatorCommand::Connect { discard_my_data: true }, &Refusal::Busy);
        assert!(failure.what.contains("stor-b serves vol1") && failure.next.contains("demote"), "{failure}");
    }

    #[test]
    fn every_refusal_has_one_line_and_a_way_on() {
        for known in [Refusal::Busy, Refusal::Inconsistent, Refusal::NeverSynced, Refusal::MayLackWrites] {
            let failure = refusal(&names(), &PROMOTE, &known);
            assert!(failure.what.starts_with("stor-b: ") && !failure.next.is_empty(), "{failure}");
            assert_eq!(failure.to_string().lines().count(), 2);
        }
    }
}
