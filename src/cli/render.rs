//! Status and events as text. The first line is the verdict; both nodes are always named.

use std::fmt::Write as _;

use crate::daemon::api::{
    AgentStatus, DiskState, EventRecord, Health, LinkState, NodeStatus, ResyncStatus, Role, SessionStatus,
    Status, SyncDirection,
};
use crate::daemon::clock::rfc3339;
use crate::daemon::config::units::{human_bytes, human_seconds};
use crate::daemon::progress::permille_done;
use crate::units::NodeId;

/// Sessions that are listed one by one.
const SESSIONS_SHOWN: usize = 8;

/// One line of WORD=VALUE for scripts. Words are only ever added.
pub fn terse(status: &Status, id: NodeId) -> String {
    let word = |value: serde_json::Value| value.as_str().unwrap_or("unknown").to_owned();
    // Before the first record a copy that was formatted as equal is as good as the other.
    let counted = status.epoch == 0 || status.in_sync.contains(&status.node.name);
    let valid = counted
        && matches!(status.node.disk, DiskState::UpToDate | DiskState::Consistent)
        && status.link_refusal.is_none();
    format!(
        "volume={} node={} id={} role={} service={} disk={} link={} health={} epoch={} in_sync={} valid={} arbiter={}",
        status.volume,
        status.node.name,
        id.0,
        word(serde_json::json!(status.node.role)),
        word(serde_json::json!(status.service)),
        word(serde_json::json!(status.node.disk)),
        word(serde_json::json!(status.link)),
        word(serde_json::json!(status.health)),
        status.epoch,
        status.in_sync.join(","),
        if valid { "yes" } else { "no" },
        status.arbiter.as_ref().map_or("none", |arbiter| if arbiter.reachable {
            "reachable"
        } else {
            "silent"
        }),
    )
}

/// The text of `twinlun status`, without a newline at its end.
pub fn status(status: &Status) -> String {
    let mut text = verdict(status);
    node_line(&mut text, &status.node, "this node", status);
    if let Some(peer) = &status.peer {
        node_line(&mut text, peer, link_word(status.link), status);
    }
    if let Some(resync) = status.resync.as_ref().filter(|resync| resync.total_bytes > 0) {
        let _ = write!(
            text,
            "\n  resync   {} of {} left",
            human_bytes(resync.remaining_bytes),
            human_bytes(resync.total_bytes)
        );
        if resync.stalled_seconds >= 10 {
            let _ = write!(text, ", nothing moved for {}", human_seconds(resync.stalled_seconds));
        }
    }
    if status.peer.is_some() {
        let holders =
            if status.in_sync.is_empty() { "none yet".to_owned() } else { status.in_sync.join(", ") };
        let _ = write!(text, "\n  epoch {}, in sync: {holders}", status.epoch);
    }
    if let Some(reads) = status.reads.as_ref().filter(|reads| reads.mode == "lease") {
        let state = match (reads.lease_milliseconds, reads.promised_milliseconds) {
            (Some(left), _) => format!("held for {left} ms"),
            (None, Some(left)) => format!("granted to the peer for {left} ms"),
            (None, None) => "none held, reads are confirmed".to_owned(),
        };
        let _ = write!(text, "\n  reads by lease: {state}");
    }
    if !status.portals.is_empty() {
        let _ = write!(text, "\n  served at {}", status.portals.join(", "));
    }
    for session in status.session_list.iter().take(SESSIONS_SHOWN) {
        session_line(&mut text, session);
    }
    if status.session_list.len() > SESSIONS_SHOWN {
        let more = status.session_list.len() - SESSIONS_SHOWN;
        let _ = write!(text, "\n  session  … and {more} more (--json lists all)");
    }
    if let Some(agent) = &status.agent {
        agent_lines(&mut text, agent);
    }
    if let Some(peer) = status.peer.as_ref().filter(|_| status.config_differs) {
        let _ = write!(
            text,
            "\n  WARNING: {} runs with another configuration file; both must be the same bytes",
            peer.name
        );
    }
    if let Some(next) = &status.next {
        let _ = write!(text, "\n  NEXT: {next}");
    }
    text
}

fn session_line(text: &mut String, session: &SessionStatus) {
    let luns: Vec<String> = session.luns.iter().map(u16::to_string).collect();
    let _ = write!(
        text,
        "\n  session  {} from {}, LUN {}, for {}",
        session.initiator,
        session.address,
        luns.join(", "),
        human_seconds(session.connected_seconds)
    );
}

fn agent_lines(text: &mut String, agent: &AgentStatus) {
    let standby = if agent.standby { ", on STANDBY" } else { "" };
    let _ = write!(text, "\n  agent: engine {}, peer {}{standby}", agent.engine, agent.peer);
    for network in &agent.networks {
        let heard = match network.heard_milliseconds_ago {
            Some(ago) => format!("heard {ago} ms ago"),
            None => "never heard".to_owned(),
        };
        let back = if network.heard_by_peer { "" } else { ", does NOT hear this node" };
        let _ = write!(text, "\n    {} <- {}  {heard}{back}", network.local, network.peer);
    }
    for address in &agent.addresses {
        let place = if address.held { "here" } else { "not here" };
        let trouble = address.trouble.as_ref().map_or(String::new(), |why| format!("  TROUBLE: {why}"));
        let _ = write!(text, "\n    {}  {place}{trouble}", address.address);
    }
}

fn verdict(status: &Status) -> String {
    let active = match status.primary() {
        Some(primary) => format!("active on {}", primary.name),
        None => "active nowhere".to_owned(),
    };
    let mut parts = vec![active, human_bytes(status.size_bytes)];
    match (&status.resync, &status.peer) {
        (Some(resync), Some(peer)) => {
            let target = if resync.direction == SyncDirection::Source { peer } else { &status.node };
            parts.push(resync_words(resync, &target.name));
        }
        (None, Some(peer)) if status.link != LinkState::Connected => {
            let since = status
                .link_down_seconds
                .map_or(String::new(), |seconds| format!(" for {}", human_seconds(seconds)));
            parts.push(format!("{} {}{since}", peer.name, link_word(status.link)));
            if status.out_of_sync_bytes > 0 {
                parts.push(format!("dirty {}", human_bytes(status.out_of_sync_bytes)));
            }
        }
        _ => {}
    }
    parts.push(match status.sessions {
        1 => "1 session".to_owned(),
        count => format!("{count} sessions"),
    });
    if let Some(arbiter) = &status.arbiter {
        let state = if arbiter.kind == "manual" || arbiter.reachable { "" } else { " SILENT" };
        parts.push(format!("arbiter {}{state}", arbiter.kind));
    }
    format!("{}   {:<11} {}", status.volume, health_word(status.health), parts.join("   "))
}

fn resync_words(resync: &ResyncStatus, target: &str) -> String {
    if resync.total_bytes == 0 {
        return format!("{target} is brought up to date");
    }
    let permille = permille_done(resync.total_bytes, resync.remaining_bytes);
    let done = format!("{target} {}.{} %", permille / 10, permille % 10);
    match resync.eta_seconds {
        Some(eta) => {
            let rate = human_bytes(resync.rate_bytes_per_second);
            format!("{done}   {rate}/s   ETA {}", human_seconds(eta))
        }
        None => format!("{done}   waiting"),
    }
}

fn node_line(text: &mut String, node: &NodeStatus, note: &str, status: &Status) {
    let width = [Some(&status.node), status.peer.as_ref()];
    let width = width.into_iter().flatten().map(|node| node.name.len()).max().unwrap_or(0);
    let role = match node.role {
        Role::Primary => "primary",
        Role::Secondary => "secondary",
        Role::Unknown => "unknown",
    };
    let _ = write!(text, "\n  {:<width$}  {role:<9}  {:<12}  {note}", node.name, disk_word(node.disk));
}

fn link_word(link: LinkState) -> &'static str {
    match link {
        LinkState::None => "no link",
        LinkState::Connecting => "unreachable",
        LinkState::Negotiating => "meeting",
        LinkState::Connected => "connected",
        LinkState::Disconnected => "disconnected by command",
        LinkState::Refused => "refused",
    }
}

fn disk_word(disk: DiskState) -> &'static str {
    match disk {
        DiskState::UpToDate => "UpToDate",
        DiskState::Consistent => "Consistent",
        DiskState::Inconsistent => "Inconsistent",
        DiskState::Outdated => "Outdated",
        DiskState::Diskless => "Diskless",
        DiskState::Unknown => "Unknown",
    }
}

fn health_word(health: Health) -> &'static str {
    match health {
        Health::Healthy => "HEALTHY",
        Health::Inactive => "INACTIVE",
        Health::Resyncing => "RESYNCING",
        Health::Degraded => "DEGRADED",
        Health::Suspended => "SUSPENDED",
        Health::SplitBrain => "SPLIT-BRAIN",
        Health::Failed => "FAILED",
    }
}

/// One line for an event.
pub fn event(event: &EventRecord) -> String {
    format!("{}  {}  {:<20}  {}", rfc3339(event.unix_milliseconds), event.node, event.event, event.text)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::daemon::api::{AddressStatus, ArbiterStatus, NetworkStatus, SCHEMA, Service};

    fn node(name: &str, role: Role, disk: DiskState) -> NodeStatus {
        NodeStatus { name: name.into(), role, disk }
    }

    fn pair() -> Status {
        Status {
            schema: SCHEMA,
            version: "0.1.0".into(),
            volume: "vol1".into(),
            health: Health::Healthy,
            node: node("stor-a", Role::Primary, DiskState::UpToDate),
            peer: Some(node("stor-b", Role::Secondary, DiskState::UpToDate)),
            size_bytes: 10 << 40,
            service: Service::Both,
            link: LinkState::Connected,
            link_refusal: None,
            link_reason: None,
            link_down_seconds: None,
            epoch: 7,
            in_sync: vec!["stor-a".into(), "stor-b".into()],
            out_of_sync_bytes: 0,
            resync: None,
            last_resync: None,
            arbiter: Some(ArbiterStatus { kind: "file".into(), reachable: true }),
            sessions: 1,
            session_list: vec![SessionStatus {
                initiator: "iqn.2026-11.example:host".into(),
                address: "10.0.0.9:40000".into(),
                luns: vec![0],
                connected_seconds: 192,
            }],
            config_differs: false,
            reads: None,
            portals: vec!["10.0.0.100:3260".into()],
            uptime_seconds: 5,
            agent: None,
            next: None,
        }
    }

    #[test]
    fn a_healthy_pair_reads_at_a_glance() {
        let text = status(&pair().judge());
        assert_eq!(
            text,
            "vol1   HEALTHY     active on stor-a   10.0 TiB   1 session   arbiter file\n\
             \x20 stor-a  primary    UpToDate      this node\n\
             \x20 stor-b  secondary  UpToDate      connected\n\
             \x20 epoch 7, in sync: stor-a, stor-b\n\
             \x20 served at 10.0.0.100:3260\n\
             \x20 session  iqn.2026-11.example:host from 10.0.0.9:40000, LUN 0, for 3 min 12 s"
        );
    }

    #[test]
    fn leases_show_where_they_are_used() {
        let lease = |held, promised| {
            let reads = crate::daemon::api::ReadsStatus {
                mode: "lease".into(),
                lease_milliseconds: held,
                promised_milliseconds: promised,
            };
            status(&Status { reads: Some(reads), ..pair() }.judge())
        };
        assert!(lease(Some(512), None).contains("\n  reads by lease: held for 512 ms\n"));
        assert!(lease(None, Some(650)).contains("reads by lease: granted to the peer for 650 ms"));
        assert!(lease(None, None).contains("none held, reads are confirmed"));
    }

    #[test]
    fn the_agent_shows_each_network_and_address() {
        let mut pair = pair();
        let network = |ago, heard_by_peer| NetworkStatus {
            local: "10.0.0.1:7791".into(),
            peer: "10.0.0.2:7791".into(),
            heard_milliseconds_ago: ago,
            heard_by_peer,
        };
        pair.agent = Some(AgentStatus {
            schema: SCHEMA,
            version: "0.1.0".into(),
            node: "stor-a".into(),
            engine: "alive".into(),
            peer: "alive".into(),
            standby: false,
            networks: vec![network(Some(40), true), network(None, false)],
            addresses: vec![AddressStatus { address: "10.0.0.100/24".into(), held: true, trouble: None }],
            peer_clients: 0,
            uptime_seconds: 5,
        });
        let text = status(&pair.judge());
        assert!(
            text.ends_with(
                "\n  agent: engine alive, peer alive\n\
                 \x20   10.0.0.1:7791 <- 10.0.0.2:7791  heard 40 ms ago\n\
                 \x20   10.0.0.1:7791 <- 10.0.0.2:7791  never heard, does NOT hear this node\n\
                 \x20   10.0.0.100/24  here"
            ),
            "{text}"
        );
    }

    #[test]
    fn a_resync_shows_how_far_how_fast_how_long() {
        let mut pair = pair();
        pair.peer = Some(node("stor-b", Role::Secondary, DiskState::Inconsistent));
        pair.resync = Some(ResyncStatus {
            direction: SyncDirection::Source,
            total_bytes: 1000 << 30,
            remaining_bytes: 382 << 30,
            rate_bytes_per_second: 412 << 20,
            eta_seconds: Some(9_780),
            stalled_seconds: 0,
        });
        let text = status(&pair.clone().judge());
        assert!(text.contains("RESYNCING"), "{text}");
        assert!(text.contains("stor-b 61.8 %   412.0 MiB/s   ETA 2 h 43 min"), "{text}");
        pair.resync =
            pair.resync.map(|resync| ResyncStatus { eta_seconds: None, stalled_seconds: 40, ..resync });
        let text = status(&pair.judge());
        assert!(text.contains("waiting") && text.contains("nothing moved for 40 s"), "{text}");
    }

    #[test]
    fn a_resync_target_shows_what_its_source_tells() {
        let mut pair = pair();
        pair.node = node("stor-b", Role::Secondary, DiskState::Inconsistent);
        pair.peer = Some(node("stor-a", Role::Primary, DiskState::UpToDate));
        let mut resync = ResyncStatus {
            direction: SyncDirection::Target,
            total_bytes: 0,
            remaining_bytes: 0,
            rate_bytes_per_second: 0,
            eta_seconds: None,
            stalled_seconds: 0,
        };
        pair.resync = Some(resync.clone());
        assert!(status(&pair.clone().judge()).contains("stor-b is brought up to date"));
        (resync.total_bytes, resync.remaining_bytes, resync.eta_seconds) = (1 << 30, 1 << 28, Some(9));
        pair.resync = Some(resync);
        let text = status(&pair.judge());
        assert!(text.contains("stor-b 75.0 %") && text.contains("256.0 MiB of 1.0 GiB left"), "{text}");
    }

    #[test]
    fn many_sessions_are_cut_short_and_another_configuration_shows() {
        let mut pair = pair();
        pair.session_list = vec![pair.session_list[0].clone(); SESSIONS_SHOWN + 3];
        pair.config_differs = true;
        let text = status(&pair.judge());
        assert_eq!(text.matches("session  iqn").count(), SESSIONS_SHOWN);
        assert!(
            text.contains("and 3 more") && text.contains("stor-b runs with another configuration"),
            "{text}"
        );
    }

    #[test]
    fn a_lost_peer_is_named_with_what_to_do() {
        let mut pair = pair();
        pair.link = LinkState::Connecting;
        pair.link_down_seconds = Some(192);
        pair.out_of_sync_bytes = 1395864371;
        pair.service = Service::Alone;
        let text = status(&pair.clone().judge());
        assert!(text.starts_with("vol1   DEGRADED    active on stor-a"), "{text}");
        assert!(text.contains("stor-b unreachable for 3 min 12 s   dirty 1.3 GiB"), "{text}");
        assert!(text.contains("NEXT: start stor-b or mend the replication network"), "{text}");
        pair.service = Service::Held;
        pair.arbiter = Some(ArbiterStatus { kind: "manual".into(), reachable: false });
        let text = status(&pair.judge());
        assert!(text.contains("SUSPENDED") && text.contains("--i-have-fenced stor-b"), "{text}");
    }

    #[test]
    fn what_a_newcomer_meets_first_says_the_next_command() {
        let mut pair = pair();
        pair.node = node("stor-a", Role::Secondary, DiskState::Inconsistent);
        pair.peer = Some(node("stor-b", Role::Unknown, DiskState::Unknown));
        (pair.epoch, pair.service, pair.link) = (0, Service::Closed, LinkState::Negotiating);
        let text = status(&pair.judge());
        assert!(text.contains("INACTIVE") && text.contains("NEXT: twinlun promote --seed"), "{text}");
    }

    #[test]
    fn a_primary_that_nobody_can_reach_is_not_healthy() {
        let mut pair = pair();
        pair.portals.clear();
        let text = status(&pair.judge());
        assert!(text.contains("DEGRADED") && text.contains("free its portal"), "{text}");
    }

    #[test]
    fn no_state_is_called_healthy_without_a_primary_and_two_current_copies() {
        let disks = [DiskState::UpToDate, DiskState::Outdated, DiskState::Inconsistent, DiskState::Unknown];
        for disk in disks {
            for link in
                [LinkState::Connected, LinkState::Connecting, LinkState::Disconnected, LinkState::Refused]
            {
                for role in [Role::Primary, Role::Secondary] {
                    let mut pair = pair();
                    pair.node.role = role;
                    pair.peer = Some(node("stor-b", Role::Secondary, disk));
                    pair.link = link;
                    let healthy = pair.judge().health == Health::Healthy;
                    let should =
                        disk == DiskState::UpToDate && link == LinkState::Connected && role == Role::Primary;
                    assert_eq!(healthy, should, "{disk:?} {link:?} {role:?}");
                }
            }
        }
    }
}
