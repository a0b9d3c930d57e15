//! `[agent]` and what belongs to it in `[node.NAME]`: heartbeat addresses, service addresses, timings; and whether the
//! timings fit together.
//!
//! Absent on purpose: a mode without an arbiter that can decide. Two nodes cannot tell a dead peer from a cut link.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use super::document::{ConfigError, Item, Section};
use super::units::{self, UnitError};
use crate::units::NodeId;

use super::{ArbiterConfig, NodeConfig, Paths, ReplicationConfig, TargetConfig, socket_address};

/// Heartbeat networks at most: the heartbeat has a bit for each.
pub const NETWORKS_MAX: usize = 8;
/// Service addresses at most.
const SERVICE_ADDRESSES_MAX: usize = 16;
/// Peer timeout of a volume with an agent: the primary must notice a cut link before the standby's agent acts.
pub(super) const PEER_TIMEOUT_WITH_AGENT: Duration = Duration::from_millis(400);
/// What the primary needs beyond its peer timeout to have the arbiter's answer first.
const RACE_MARGIN: Duration = Duration::from_millis(100);

/// `[agent]`
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct AgentConfig {
    /// Addresses that are where the service is; none with paths of both nodes (ALUA).
    pub service_addresses: Vec<ServiceAddress>,
    /// Between two heartbeats.
    pub heartbeat: Duration,
    /// Silence on every network after which the peer counts as dead, an engine as hung.
    pub takeover_after: Duration,
    /// How long a node that starts waits for a peer that it does not hear.
    pub start_wait: Duration,
    /// Least time between two moves of the service for silence; doubles with every move.
    pub hysteresis: Duration,
    /// The node that is to serve when it can; `None`: the service stays where it is.
    pub prefer: Option<NodeId>,
    /// How long that node must be well before the service goes back to it.
    pub failback_after: Duration,
}

/// A service address with the length of its subnet's prefix.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ServiceAddress {
    pub ip: IpAddr,
    pub prefix: u8,
}

impl std::fmt::Display for ServiceAddress {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}", self.ip, self.prefix)
    }
}

const KEYS: [&str; 7] = [
    "service_addresses",
    "heartbeat",
    "takeover_after",
    "start_wait",
    "hysteresis",
    "prefer",
    "failback_after",
];

pub(super) fn read(
    root: &Section<'_>,
    target: &TargetConfig,
    replication: Option<&ReplicationConfig>,
) -> Result<Option<AgentConfig>, ConfigError> {
    let Some(item) = root.get("agent") else { return Ok(None) };
    let section = item.table(&KEYS)?;
    let Some(replication) = replication else {
        return Err(
            section.error("there is nothing to fail over to without [replication]; add it or remove [agent]")
        );
    };
    if matches!(replication.arbiter, ArbiterConfig::Manual) {
        return Err(section.error(
            "no automatic failover with the arbiter \"manual\": two nodes cannot tell a dead peer from a cut link; \
             choose another [arbiter], or remove [agent] and promote by hand",
        ));
    }
    if matches!(replication.arbiter, ArbiterConfig::Pacemaker) {
        return Err(section.error(
            "with the arbiter \"pacemaker\" the cluster decides who leads and who has the service address, and two that \
             decide would fight; remove [agent], and give the address to ocf:heartbeat:IPaddr2",
        ));
    }
    let time = |key: &str, default: Duration, least: &str, most: &str| match section.get(key) {
        None => Ok(default),
        Some(item) => {
            let value = item.parse(units::duration)?;
            let within = units::duration(least).is_ok_and(|least| value >= least)
                && units::duration(most).is_ok_and(|most| value <= most);
            if within { Ok(value) } else { Err(item.error(format!("it is between {least} and {most}"))) }
        }
    };
    let ms = Duration::from_millis;
    let config = AgentConfig {
        service_addresses: read_service_addresses(&section, target)?,
        heartbeat: time("heartbeat", ms(100), "20ms", "2s")?,
        takeover_after: time("takeover_after", ms(550), "150ms", "60s")?,
        start_wait: time("start_wait", ms(5000), "1s", "10m")?,
        hysteresis: time("hysteresis", ms(5000), "1s", "10m")?,
        prefer: read_prefer(root, &section)?,
        failback_after: time("failback_after", ms(60_000), "5s", "24h")?,
    };
    check_timings(&section, &config, replication.peer_timeout)?;
    Ok(Some(config))
}

/// A node's name; the nodes themselves are read later.
fn read_prefer(root: &Section<'_>, section: &Section<'_>) -> Result<Option<NodeId>, ConfigError> {
    let Some(item) = section.get("prefer") else {
        return match section.get("failback_after") {
            Some(item) => Err(item.error("nothing is given back unless \"prefer\" names a node")),
            None => Ok(None),
        };
    };
    let wanted = item.parse(|text| Ok(text.to_owned()))?;
    let nodes = root.get("node").and_then(|all| all.open_table().ok());
    let node = nodes.and_then(|all| all.get(&wanted)).and_then(|node| node.open_table().ok());
    let Some(id) = node.and_then(|node| node.get("id")) else {
        return Err(item.error(format!("there is no [node.{wanted}] with an id")));
    };
    Ok(Some(NodeId(id.integer(0..2)? as u8)))
}

/// Silence must be long enough to be silence, and the primary must be the first to notice a cut link.
fn check_timings(section: &Section<'_>, config: &AgentConfig, peer: Duration) -> Result<(), ConfigError> {
    let at = |problem: String| match section.get("takeover_after") {
        Some(item) => item.error(problem),
        None => section.error(problem),
    };
    let AgentConfig { heartbeat, takeover_after, hysteresis, .. } = *config;
    if takeover_after < heartbeat * 3 {
        return Err(at(format!(
            "takeover_after {takeover_after:?} is less than three heartbeats of {heartbeat:?}: one lost packet would be a \
             failover; write at least {:?}",
            heartbeat * 3
        )));
    }
    if takeover_after < peer + RACE_MARGIN {
        return Err(at(format!(
            "takeover_after {takeover_after:?} must be at least {RACE_MARGIN:?} more than replication.peer_timeout \
             ({peer:?}), so that a primary whose link is cut is the first to notice; write at least {:?}, or a \
             smaller peer_timeout",
            peer + RACE_MARGIN
        )));
    }
    if hysteresis < takeover_after {
        return Err(at(format!(
            "hysteresis {hysteresis:?} must be more than takeover_after {takeover_after:?}"
        )));
    }
    Ok(())
}

fn read_service_addresses(
    section: &Section<'_>,
    target: &TargetConfig,
) -> Result<Vec<ServiceAddress>, ConfigError> {
    if target.paths == Paths::Alua {
        return match section.get("service_addresses") {
            Some(item) => {
                Err(item
                    .error("with target.paths = \"alua\" each node keeps its own portals; remove this key"))
            }
            None => Ok(Vec::new()),
        };
    }
    let list = section.require("service_addresses", "[\"192.0.2.10/24\"]")?;
    let mut addresses: Vec<ServiceAddress> = Vec::new();
    for item in list.list()? {
        let address = item.parse(service_address)?;
        if addresses.iter().any(|other| other.ip == address.ip) {
            return Err(item.error(format!("service address {} is given twice", address.ip)));
        }
        let listens = |portal: &SocketAddr| {
            let everywhere = portal.ip().is_unspecified() && target.paths == Paths::Vip;
            portal.ip() == address.ip || (everywhere && portal.is_ipv4() == address.ip.is_ipv4())
        };
        if !target.portals.iter().any(listens) {
            let problem = format!(
                "no portal listens there; add \"{}\" to target.portals",
                SocketAddr::new(address.ip, 3260)
            );
            return Err(item.error(problem));
        }
        addresses.push(address);
    }
    if addresses.len() > SERVICE_ADDRESSES_MAX {
        return Err(list.error(format!("at most {SERVICE_ADDRESSES_MAX} service addresses")));
    }
    Ok(addresses)
}

fn service_address(text: &str) -> Result<ServiceAddress, UnitError> {
    let wrong = || {
        UnitError(format!(
            "{text:?} is not an address with its prefix; write \"192.0.2.10/24\" or \"2001:db8::10/64\""
        ))
    };
    let (ip, prefix) = text.split_once('/').ok_or_else(wrong)?;
    let ip: IpAddr = ip.parse().map_err(|_| wrong())?;
    let prefix: u8 = prefix.parse().map_err(|_| wrong())?;
    let most = if ip.is_ipv4() { 32 } else { 128 };
    if prefix == 0 || prefix > most || ip.is_unspecified() || ip.is_loopback() || ip.is_multicast() {
        return Err(wrong());
    }
    Ok(ServiceAddress { ip, prefix })
}

/// The keys of `[node.NAME]` that only an agent needs.
pub(super) fn read_node(section: &Section<'_>) -> Result<(Vec<SocketAddr>, Option<String>), ConfigError> {
    let mut heartbeats = Vec::new();
    if let Some(list) = section.get("heartbeat_addresses") {
        for item in list.list()? {
            let address = item.parse(socket_address)?;
            if address.ip().is_unspecified() {
                return Err(
                    item.error("the peer sends to this address, so it must be one of this node, not all")
                );
            }
            if heartbeats.contains(&address) {
                return Err(item.error(format!("{address} is given twice")));
            }
            heartbeats.push(address);
        }
        if heartbeats.len() > NETWORKS_MAX {
            return Err(list.error(format!("at most {NETWORKS_MAX} networks")));
        }
    }
    let interface = match section.get("service_interface") {
        Some(item) => Some(item.parse(interface)?),
        None => None,
    };
    Ok((heartbeats, interface))
}

/// A name that the kernel gives to interfaces.
fn interface(text: &str) -> Result<String, UnitError> {
    let good = |byte: u8| byte.is_ascii_graphic() && !matches!(byte, b'/' | b':');
    if !text.is_empty() && text.len() < 16 && text.bytes().all(good) {
        return Ok(text.to_owned());
    }
    Err(UnitError(format!("{text:?} is not the name of an interface; write one of those that ip link shows")))
}

/// With an agent both nodes have heartbeat addresses, as many as the other and of the same families; without one, none.
pub(super) fn check_nodes(
    root: &Section<'_>,
    agent: Option<&AgentConfig>,
    nodes: &[NodeConfig],
) -> Result<(), ConfigError> {
    let at = |node: &NodeConfig, key: &str, problem: String| -> ConfigError {
        let all = root.get("node").and_then(|item| item.open_table().ok());
        let table = all.and_then(|all| all.get(&node.name)).and_then(|item| item.open_table().ok());
        match table {
            Some(section) => section
                .get(key)
                .map_or_else(|| section.error(problem.clone()), |item: Item<'_>| item.error(problem.clone())),
            None => root.error(problem),
        }
    };
    if agent.is_none() {
        return match nodes
            .iter()
            .find(|node| !node.heartbeat_addresses.is_empty() || node.service_interface.is_some())
        {
            Some(node) => Err(at(
                node,
                "heartbeat_addresses",
                "there is no section [agent]; add it or remove this key".to_owned(),
            )),
            None => Ok(()),
        };
    }
    for node in nodes {
        if node.heartbeat_addresses.is_empty() {
            let problem = "[agent] needs heartbeat_addresses for each node, one for each network that the nodes share, \
                           like [\"192.0.2.1:7791\", \"192.168.10.1:7791\"]";
            return Err(at(node, "heartbeat_addresses", problem.to_owned()));
        }
    }
    let [first, second] = nodes else { return Ok(()) };
    let families =
        |node: &NodeConfig| node.heartbeat_addresses.iter().map(SocketAddr::is_ipv4).collect::<Vec<_>>();
    if families(first) != families(second) {
        let problem = format!(
            "the heartbeat addresses of {} and {} must come in pairs, one pair for each network, of one family",
            first.name, second.name
        );
        return Err(at(second, "heartbeat_addresses", problem));
    }
    if let Some(twice) = first.heartbeat_addresses.iter().find(|it| second.heartbeat_addresses.contains(it)) {
        let problem = format!("{twice} belongs to {} already", first.name);
        return Err(at(second, "heartbeat_addresses", problem));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::super::Config;

    fn text(change: impl FnOnce(String) -> String) -> String {
        change(
            r#"
[volume]
name = "v"
[target]
iqn = "iqn.2026-11.example:v"
portals = ["192.0.2.10:3260"]
[replication]
secret_file = "/s"
[arbiter]
kind = "file"
path = "/a"
[agent]
service_addresses = ["192.0.2.10/24"]
[node.a]
id = 0
disk = "/d"
replication_address = "10.0.0.1:7790"
heartbeat_addresses = ["192.0.2.1:7791", "10.0.0.1:7791"]
[node.b]
id = 1
disk = "/d"
replication_address = "10.0.0.2:7790"
heartbeat_addresses = ["192.0.2.2:7791", "10.0.0.2:7791"]
"#
            .to_owned(),
        )
    }

    fn parse(change: impl FnOnce(String) -> String) -> Result<Config, String> {
        Config::parse(Path::new("t.toml"), &text(change)).map_err(|error| error.to_string())
    }

    #[test]
    fn defaults_fit_together() {
        let config = parse(|text| text).expect("right");
        let agent = config.agent.expect("there is one");
        assert_eq!(agent.takeover_after.as_millis(), 550);
        assert_eq!(config.replication.as_ref().expect("a pair").peer_timeout.as_millis(), 400);
        assert_eq!(config.nodes[1].heartbeat_addresses.len(), 2);
        assert!(agent.prefer.is_none() && !config.nodes.is_empty());
        let prefer = |text: String| text.replacen("[agent]", "[agent]\nprefer = \"b\"", 1);
        assert_eq!(parse(prefer).expect("right").agent.expect("there is one").prefer, Some(super::NodeId(1)));
    }

    #[test]
    fn what_cannot_be_safe_or_cannot_work_is_refused_with_the_way_out() {
        let replace = |from: &'static str, to: &'static str| {
            move |text: String| {
                assert!(text.contains(from), "{from}");
                text.replacen(from, to, 1)
            }
        };
        for (from, to, words) in [
            ("kind = \"file\"\npath = \"/a\"", "kind = \"manual\"", "dead peer from a cut link"),
            ("[agent]", "[agent]\nprefer = \"c\"", "no [node.c]"),
            ("[agent]", "[agent]\nfailback_after = \"1m\"", "unless \"prefer\" names a node"),
            ("[agent]", "[agent]\nheartbaet = \"1s\"", "did you mean \"heartbeat\"?"),
            ("[agent]", "[agent]\ntakeover_after = \"150ms\"", "three heartbeats"),
            ("[agent]", "[agent]\ntakeover_after = \"400ms\"", "more than replication.peer_timeout"),
            ("[agent]", "[agent]\ntakeover_after = \"6s\"", "hysteresis"),
            ("[agent]", "[agent]\nheartbeat = \"1ms\"", "between 20ms and 2s"),
            ("[\"192.0.2.10/24\"]", "[\"192.0.2.10\"]", "with its prefix"),
            ("[\"192.0.2.10/24\"]", "[\"192.0.2.10/33\"]", "with its prefix"),
            ("[\"192.0.2.10/24\"]", "[\"192.0.2.11/24\"]", "no portal listens there"),
            ("[\"192.0.2.10/24\"]", "[\"192.0.2.10/24\", \"192.0.2.10/16\"]", "given twice"),
            (
                "heartbeat_addresses = [\"192.0.2.2:7791\", \"10.0.0.2:7791\"]",
                "",
                "node.b: [agent] needs heartbeat_addresses",
            ),
            ("\"10.0.0.2:7791\"]", "\"10.0.0.1:7791\"]", "belongs to a already"),
            (", \"10.0.0.2:7791\"]", "]", "must come in pairs"),
            (
                "heartbeat_addresses = [\"192",
                "service_interface = \"a/b\"\nheartbeat_addresses = [\"192",
                "ip link",
            ),
            ("[agent]\nservice_addresses = [\"192.0.2.10/24\"]", "", "no section [agent]"),
        ] {
            let error = parse(replace(from, to)).expect_err(to);
            assert!(error.contains(words), "{words:?} is not in {error:?}");
        }
    }
}
