//! The configuration: one TOML file, the same bytes on both nodes; which node this is comes from `--node` or the
//! host name.
//!
//! Reading has two steps. [`Config::parse`] turns text into checked values and looks at nothing else, so that the same
//! file gives the same answer on every machine. What belongs to this machine (the secret's mode, the devices) is
//! checked when it is used. Absent on purpose: defaults for anything that decides where data is kept or who may serve.

mod agent;
mod arbiter;
mod document;
mod initiators;
mod look;
mod secret;
#[cfg(test)]
mod tests;
pub mod units;

use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Duration;

use sha2::{Digest, Sha256};
use toml::de::DeTable;

pub use agent::{AgentConfig, ServiceAddress};
pub use arbiter::{ArbiterConfig, EtcdSection, FenceSection};
pub use document::ConfigError;
use document::{Item, Section, Source};
pub use initiators::{AccessConfig, ChapConfig, InitiatorConfig, LUNS};
pub use secret::{Password, Secret, read_chap_secret};
use units::{UnitError, edit_distance};

use super::failure::Failure;
use crate::arbitration::Reads;
use crate::iscsi::NamePattern;
use crate::scsi::{Provisioning, SERIAL_MAX, SerialForm};
use crate::units::{LANES_MAX, NodeId, SHARDS_MAX};

/// Where the file is unless `--config` says otherwise.
pub const DEFAULT_PATH: &str = "/etc/twinlun/twinlun.toml";
/// The well-known port of iSCSI (RFC 7143 §12), used when a portal names none.
const ISCSI_PORT: u16 = 3260;
const LANES_DEFAULT: u16 = 16;
const PEER_TIMEOUT_DEFAULT: Duration = Duration::from_secs(2);
/// Below the minute after which Windows gives a disk up.
const HOLD_LIMIT_DEFAULT: Duration = Duration::from_secs(45);
const RUN_DIR_DEFAULT: &str = "/run/twinlun";
/// Longest volume or node name; both travel in fixed fields and in file names.
pub const NAME_MAX: usize = 32;
/// Longest configuration file that is read.
const FILE_MAX: u64 = 1 << 20;

/// A checked configuration file.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Config {
    pub file: PathBuf,
    /// SHA-256 of the file's bytes; the nodes compare it when they connect.
    pub hash: [u8; 32],
    pub volume: VolumeConfig,
    pub target: TargetConfig,
    /// `None`: one node without a peer.
    pub replication: Option<ReplicationConfig>,
    /// `None`: nobody fails over by itself.
    pub agent: Option<AgentConfig>,
    /// In the order of their ids: one without replication, else two.
    pub nodes: Vec<NodeConfig>,
}

/// `[volume]`
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct VolumeConfig {
    pub name: String,
    /// Lanes to format with, 1..=[`LANES_MAX`].
    pub lanes: u16,
    /// Bytes of the volume; `None`: all that the disk has.
    pub size: Option<u64>,
    /// Logical block size that initiators see, 512 or 4096; `None`: the disk's own.
    pub block_size: Option<u32>,
}

/// `[target]`: what an initiator sees. The same on both nodes (S4).
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct TargetConfig {
    pub iqn: String,
    pub paths: Paths,
    /// The service address; empty with [`Paths::Alua`].
    pub portals: Vec<SocketAddr>,
    /// ASCII, at most 8 characters (SPC-4 §6.6.2).
    pub vendor: String,
    /// ASCII, at most 16 characters.
    pub product: String,
    /// PRODUCT REVISION LEVEL: ASCII, at most 4 characters. Not the release: an upgrade must not change the disk.
    pub revision: String,
    /// ASCII, at most [`SERIAL_MAX`] characters; derived from the target's name when the file gives none.
    pub serial: String,
    pub access: AccessConfig,
    pub limits: crate::iscsi::Limits,
    pub caps: crate::iscsi::Caps,
    /// NAA designator to take over from another target; derived from the names when the file gives none.
    pub naa: Option<[u8; 16]>,
    /// How VPD pages write the serial number, for a disk that comes from another target.
    pub serial_form: SerialForm,
    pub provisioning: Provisioning,
    /// Initiators may not write.
    pub read_only: bool,
    /// Physical block size that initiators see, 512 or 4096, not below the logical one.
    pub physical_block_size: u32,
}

/// How initiators reach the volume.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Paths {
    /// By a service address that is at the node that leads.
    Vip,
    /// By an address of each node, at the same time (multipath with ALUA).
    Alua,
    /// Either way: an initiator sees the service address or the nodes' own, by which of them it comes.
    Both,
}

/// `[replication]` and `[arbiter]`
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ReplicationConfig {
    pub secret_file: PathBuf,
    /// Silence on the links after which the peer counts as lost.
    pub peer_timeout: Duration,
    /// How long initiators' requests are held before they are answered NOT READY; `None`: for ever.
    pub hold_limit: Option<Duration>,
    /// How a leader knows that it still leads when it answers a read.
    pub reads: Reads,
    /// The operator's word that nobody pauses this machine, if it is a virtual one.
    pub never_paused: bool,
    pub arbiter: ArbiterConfig,
}

/// `[node.NAME]`
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct NodeConfig {
    pub name: String,
    pub id: NodeId,
    pub disk: PathBuf,
    /// A device of its own for the metadata; `None`: at the end of `disk`.
    pub metadata: Option<PathBuf>,
    /// This node's portals; empty with [`Paths::Vip`].
    pub portals: Vec<SocketAddr>,
    /// Present exactly when there is replication.
    pub replication_address: Option<SocketAddr>,
    pub shards: u8,
    /// A CPU for every shard, or empty: not pinned.
    pub cpus: Vec<u16>,
    pub run_dir: PathBuf,
    /// Where the peer's agent sends its heartbeats, one for each network; empty without `[agent]`.
    pub heartbeat_addresses: Vec<SocketAddr>,
    /// Where service addresses go; `None`: to the interface of their subnet.
    pub service_interface: Option<String>,
}

impl Config {
    /// Where initiators find `node` while nothing is wrong; the first is the one to name.
    pub fn portals_of(&self, node: &NodeConfig) -> Vec<SocketAddr> {
        self.target.portals.iter().chain(&node.portals).copied().collect()
    }

    /// Does a node take a dead one's portal addresses?
    pub fn stands_in(&self) -> bool {
        // Two nodes on one machine have nothing to take from each other.
        let loopback =
            self.nodes.iter().flat_map(|node| &node.portals).any(|portal| portal.ip().is_loopback());
        self.agent.is_some() && self.target.paths != Paths::Vip && !loopback
    }
}

impl NodeConfig {
    /// The control socket of this node's daemon.
    pub fn socket(&self) -> PathBuf {
        self.run_dir.join(format!("{}.sock", self.name))
    }

    /// The control socket of this node's agent.
    pub fn agent_socket(&self) -> PathBuf {
        self.run_dir.join(format!("{}.agent.sock", self.name))
    }

    /// What the agent writes when it runs in the background.
    pub fn agent_log_file(&self) -> PathBuf {
        self.run_dir.join(format!("{}.agent.log", self.name))
    }

    /// What the daemon writes when it runs in the background.
    pub fn log_file(&self) -> PathBuf {
        self.run_dir.join(format!("{}.log", self.name))
    }
}

impl Config {
    /// Reads and checks a file.
    pub fn load(file: &Path) -> Result<Self, Failure> {
        let show = file.display();
        let cannot = |error: std::io::Error| {
            let next = format!(
                "write the file (README, \"Two servers\") or name another with --config ({DEFAULT_PATH} is the default)"
            );
            Failure::usage(format!("cannot read the configuration {show}: {error}"), next)
        };
        let size = std::fs::metadata(file).map_err(cannot)?.len();
        if size > FILE_MAX {
            let what = format!("{show} has {size} bytes; a configuration has at most {FILE_MAX}");
            return Err(Failure::usage(what, "name the right file with --config"));
        }
        let text = std::fs::read_to_string(file).map_err(cannot)?;
        Self::parse(file, &text).map_err(|error| {
            Failure::usage(error.to_string(), "correct the file on both nodes, then run twinlun config check")
        })
    }

    /// Checks the text of a file.
    pub fn parse(file: &Path, text: &str) -> Result<Self, ConfigError> {
        let source = Source { file, text };
        let document = DeTable::parse(text).map_err(|error| {
            let problem = format!("not valid TOML: {}", error.message().replace('\n', "; "));
            source.error(error.span().map(|span| span.start), "", problem)
        })?;
        let keys = ["volume", "target", "replication", "arbiter", "agent", "node"];
        let root = Section::root(&source, document.get_ref(), &keys)?;
        let volume = read_volume(&root)?;
        let target = read_target(&root)?;
        let replication = read_replication(&root)?;
        let agent = agent::read(&root, &target, replication.as_ref())?;
        let nodes = read_nodes(&root, target.paths, replication.is_some())?;
        agent::check_nodes(&root, agent.as_ref(), &nodes)?;
        check_addresses(&root, &target, &nodes)?;
        if let Some(replication) = &replication {
            arbiter::check(&root, &replication.arbiter, &nodes)?;
        }
        let hash = Sha256::digest(text.as_bytes()).into();
        Ok(Self { file: file.to_owned(), hash, volume, target, replication, agent, nodes })
    }

    /// The node that this machine is: the one named, else the one called like the host, else the only one.
    pub fn choose(&self, named: Option<&str>, host: &str) -> Result<&NodeConfig, Failure> {
        let find = |name: &str| self.nodes.iter().find(|node| node.name == name);
        let listed = self.nodes.iter().map(|node| node.name.as_str()).collect::<Vec<_>>().join(" and ");
        if let Some(name) = named {
            return find(name).ok_or_else(|| {
                let what = format!("{} has no node {name:?}; it has {listed}", self.file.display());
                Failure::usage(what, "name one of them with --node")
            });
        }
        let short = host.split('.').next().unwrap_or(host);
        if let Some(node) = find(host).or_else(|| find(short)) {
            return Ok(node);
        }
        match self.nodes.as_slice() {
            [only] => Ok(only),
            _ => {
                let what = format!(
                    "this host is called {host:?}, and {} has the nodes {listed}",
                    self.file.display()
                );
                Err(Failure::usage(what, "say which of them this is with --node NAME"))
            }
        }
    }

    /// The other node of the pair.
    pub fn peer_of(&self, node: &NodeConfig) -> Option<&NodeConfig> {
        self.nodes.iter().find(|other| other.id != node.id)
    }

    pub fn node(&self, id: NodeId) -> Option<&NodeConfig> {
        self.nodes.iter().find(|node| node.id == id)
    }
}

fn read_volume(root: &Section<'_>) -> Result<VolumeConfig, ConfigError> {
    let section = section(root, "volume", &["name", "lanes", "size", "block_size"])?;
    let name = section.require("name", "\"vol1\"")?.parse(name)?;
    let lanes = match section.get("lanes") {
        Some(item) => item.integer(1..u64::from(LANES_MAX) + 1)? as u16,
        None => LANES_DEFAULT,
    };
    let size = match section.get("size") {
        Some(item) => {
            let bytes = item.parse(units::size)?;
            if bytes == 0 || bytes % 4096 != 0 {
                return Err(item.error("a volume's size is a multiple of 4 KiB and not zero"));
            }
            Some(bytes)
        }
        None => None,
    };
    let block_size = match section.get("block_size") {
        Some(item) => Some(match item.integer(0..1 << 20)? {
            512 => 512,
            4096 => 4096,
            other => return Err(item.error(format!("blocks have 512 or 4096 bytes, not {other}"))),
        }),
        None => None,
    };
    Ok(VolumeConfig { name, lanes, size, block_size })
}

fn read_target(root: &Section<'_>) -> Result<TargetConfig, ConfigError> {
    let keys = [
        &["iqn", "paths", "portals", "vendor", "product", "revision", "serial"],
        &look::KEYS[..],
        &initiators::KEYS[..],
    ]
    .concat();
    let section = section(root, "target", &keys)?;
    let iqn = section.require("iqn", "\"iqn.2026-11.lan.example:vol1\"")?.parse(iscsi_name)?;
    let paths = read_paths(&section)?;
    let portals = match (paths, section.get("portals")) {
        (Paths::Vip | Paths::Both, _) => read_portals(&section.require("portals", "[\"192.0.2.10:3260\"]")?)?,
        (Paths::Alua, None) => Vec::new(),
        (Paths::Alua, Some(item)) => {
            return Err(item.error("with paths = \"alua\" each node has its own; move them to [node.NAME]"));
        }
    };
    let text = |key: &str, max: usize, default: String| match section.get(key) {
        Some(item) => item.parse(|text| ascii(text, max)),
        None => Ok(default),
    };
    let (limits, caps) = initiators::read_limits(&section)?;
    Ok(TargetConfig {
        access: initiators::read_access(&section)?,
        limits,
        caps,
        vendor: text("vendor", 8, "TWINLUN".to_owned())?,
        product: text("product", 16, "VOLUME".to_owned())?,
        revision: text("revision", 4, "0001".to_owned())?,
        serial: text("serial", SERIAL_MAX, derived_serial(&iqn))?,
        naa: section.get("naa").map(|item| item.parse(look::naa)).transpose()?,
        serial_form: look::serial_form(&section)?,
        provisioning: look::provisioning(&section)?,
        read_only: section.get("read_only").map_or(Ok(false), |item| item.boolean())?,
        physical_block_size: look::physical_block_size(&section)?,
        iqn,
        paths,
        portals,
    })
}

/// A serial number that both nodes derive alike: 16 hexadecimal digits of the name's SHA-256.
fn derived_serial(iqn: &str) -> String {
    let digest = Sha256::digest(iqn.as_bytes());
    data_encoding::HEXLOWER.encode(&digest[..8])
}

fn read_paths(section: &Section<'_>) -> Result<Paths, ConfigError> {
    let Some(item) = section.get("paths") else { return Ok(Paths::Vip) };
    item.parse(|text| match text {
        "vip" => Ok(Paths::Vip),
        "alua" => Ok(Paths::Alua),
        "both" => Ok(Paths::Both),
        other => {
            Err(UnitError(format!("{other:?} is not a way to reach a volume; \"vip\" and \"alua\" are")))
        }
    })
}

fn read_portals(list: &Item<'_>) -> Result<Vec<SocketAddr>, ConfigError> {
    let mut portals = Vec::new();
    for item in list.list()? {
        let portal = item.parse(portal)?;
        if portals.contains(&portal) {
            return Err(item.error(format!("portal {portal} is given twice")));
        }
        portals.push(portal);
    }
    if portals.is_empty() {
        return Err(list.error("at least one portal is wanted, like [\"192.0.2.10:3260\"]"));
    }
    Ok(portals)
}

/// A node's own portals. The other node tells initiators of them, so they name addresses.
fn read_node_portals(section: &Section<'_>, paths: Paths) -> Result<Vec<SocketAddr>, ConfigError> {
    let own = match (paths, section.get("portals")) {
        (Paths::Vip, None) => return Ok(Vec::new()),
        (Paths::Vip, Some(item)) => {
            return Err(item.error(
                "nodes have portals of their own with [target] paths = \"alua\"; add it, or use target.portals",
            ));
        }
        (Paths::Alua | Paths::Both, _) => section.require("portals", "[\"192.0.2.11:3260\"]")?,
    };
    let portals = read_portals(&own)?;
    match portals.iter().find(|portal| portal.ip().is_unspecified()) {
        Some(all) => Err(own.error(format!("{all} is every address; name those that initiators reach"))),
        None => Ok(portals),
    }
}

fn read_replication(root: &Section<'_>) -> Result<Option<ReplicationConfig>, ConfigError> {
    let Some(item) = root.get("replication") else {
        return match root.get("arbiter") {
            Some(item) => Err(item.error(
                "an arbiter has nothing to decide without [replication]; add [replication] or remove [arbiter]",
            )),
            None => Ok(None),
        };
    };
    let keys = ["secret_file", "peer_timeout", "hold_limit", "reads", "virtual_machine"];
    let section = item.table(&keys)?;
    let secret_file = section.require("secret_file", "\"/etc/twinlun/secret\"")?.parse(absolute)?;
    let peer_timeout = match section.get("peer_timeout") {
        Some(item) => {
            let timeout = item.parse(units::duration)?;
            if !(Duration::from_millis(200)..=Duration::from_secs(60)).contains(&timeout) {
                return Err(item.error("a peer timeout is between 200ms and 60s"));
            }
            timeout
        }
        None if root.get("agent").is_some() => agent::PEER_TIMEOUT_WITH_AGENT,
        None => PEER_TIMEOUT_DEFAULT,
    };
    let reads = read_reads(&section)?;
    Ok(Some(ReplicationConfig {
        secret_file,
        peer_timeout,
        hold_limit: read_hold_limit(&section)?,
        reads,
        never_paused: read_never_paused(&section, reads)?,
        arbiter: arbiter::read(&open_section(root, "arbiter")?)?,
    }))
}

/// Initiators have a patience of their own, often of a minute: a limit above it turns a wait into a failed disk there.
fn read_hold_limit(section: &Section<'_>) -> Result<Option<Duration>, ConfigError> {
    let Some(item) = section.get("hold_limit") else { return Ok(Some(HOLD_LIMIT_DEFAULT)) };
    if item.parse(|text| Ok(text == "forever"))? {
        return Ok(None);
    }
    let limit = item.parse(units::duration)?;
    match (Duration::from_secs(1)..=Duration::from_secs(600)).contains(&limit) {
        true => Ok(Some(limit)),
        false => Err(item.error("a hold limit is between 1s and 10m, or \"forever\"")),
    }
}

fn read_reads(section: &Section<'_>) -> Result<Reads, ConfigError> {
    let Some(item) = section.get("reads") else { return Ok(Reads::default()) };
    item.parse(|text| match text {
        "confirm" => Ok(Reads::Confirm),
        "lease" => Ok(Reads::Lease),
        _ => Err(UnitError(format!("{text:?} is no way to answer reads; use \"confirm\" or \"lease\""))),
    })
}

/// Whether the machine is one, only the machine itself tells (`daemon::virtual_machine`).
fn read_never_paused(section: &Section<'_>, reads: Reads) -> Result<bool, ConfigError> {
    let Some(item) = section.get("virtual_machine") else { return Ok(false) };
    if reads != Reads::Lease {
        return Err(item.error("it has a meaning beside reads = \"lease\" only; remove it"));
    }
    item.parse(|text| match text {
        "never-paused" => Ok(true),
        _ => Err(UnitError(format!("{text:?} is not the word; it is \"never-paused\""))),
    })
}

const NODE_KEYS: [&str; 10] = [
    "id",
    "disk",
    "portals",
    "metadata",
    "replication_address",
    "shards",
    "cpus",
    "run_dir",
    "heartbeat_addresses",
    "service_interface",
];

fn read_nodes(root: &Section<'_>, paths: Paths, replicated: bool) -> Result<Vec<NodeConfig>, ConfigError> {
    let item = root.get("node").ok_or_else(|| {
        root.error(
            "no node is described; write a section [node.NAME] for each server, NAME being its host name",
        )
    })?;
    let all = item.open_table()?;
    let names = all.names();
    let mut nodes: Vec<NodeConfig> = Vec::new();
    for name in &names {
        let item = all.get(name).expect("the name was listed by this table");
        let node = read_node(item, name, paths, replicated)?;
        if let Some(other) = nodes.iter().find(|other| other.id == node.id) {
            let problem =
                format!("nodes {} and {name} both have id {}; one is 0, the other 1", other.name, node.id.0);
            return Err(all.error(problem));
        }
        nodes.push(node);
    }
    nodes.sort_by_key(|node| node.id.0);
    match (replicated, nodes.len()) {
        (true, 2) | (false, 1) => Ok(nodes),
        (true, count) => Err(all.error(format!("[replication] needs exactly two nodes, ids 0 and 1; this file has {count}"))),
        (false, count) => Err(all.error(format!(
            "a file with {count} nodes needs a section [replication] (or describe one node for a volume without a peer)"
        ))),
    }
}

fn read_node(item: Item<'_>, name: &str, paths: Paths, replicated: bool) -> Result<NodeConfig, ConfigError> {
    self::name(name).map_err(|error| item.error(error.0))?;
    let section = item.table(&NODE_KEYS)?;
    let id = NodeId(section.require("id", "0 (the other node has 1)")?.integer(0..2)? as u8);
    if !replicated && id.0 != 0 {
        return Err(section.error("the only node has id = 0"));
    }
    let disk = section.require("disk", "\"/dev/disk/by-id/...\"")?;
    let metadata = match section.get("metadata") {
        Some(item) => {
            let path = item.parse(absolute)?;
            if path == disk.parse(absolute)? {
                return Err(item.error(
                    "metadata on the disk itself is the default; remove this key or name another device",
                ));
            }
            Some(path)
        }
        None => None,
    };
    let shards = match section.get("shards") {
        Some(item) => item.integer(1..SHARDS_MAX as u64 + 1)? as u8,
        None => 1,
    };
    let run_dir = match section.get("run_dir") {
        Some(item) => item.parse(absolute)?,
        None => PathBuf::from(RUN_DIR_DEFAULT),
    };
    let (heartbeat_addresses, service_interface) = agent::read_node(&section)?;
    Ok(NodeConfig {
        name: name.to_owned(),
        id,
        disk: disk.parse(absolute)?,
        metadata,
        portals: read_node_portals(&section, paths)?,
        replication_address: read_replication_address(&section, replicated)?,
        shards,
        cpus: read_cpus(&section, shards)?,
        run_dir,
        heartbeat_addresses,
        service_interface,
    })
}

fn read_replication_address(
    section: &Section<'_>,
    replicated: bool,
) -> Result<Option<SocketAddr>, ConfigError> {
    if !replicated {
        return match section.get("replication_address") {
            Some(item) => Err(item.error("there is no section [replication]; add it or remove this key")),
            None => Ok(None),
        };
    }
    let item = section.require("replication_address", "\"192.168.10.1:7790\"")?;
    let address = item.parse(socket_address)?;
    if address.ip().is_unspecified() {
        return Err(
            item.error("the peer connects to this address, so it must be one address of this node, not all")
        );
    }
    Ok(Some(address))
}

fn read_cpus(section: &Section<'_>, shards: u8) -> Result<Vec<u16>, ConfigError> {
    let Some(list) = section.get("cpus") else {
        return Ok(Vec::new());
    };
    let mut cpus = Vec::new();
    for item in list.list()? {
        let cpu = item.integer(0..1024)? as u16;
        if cpus.contains(&cpu) {
            return Err(item.error(format!("CPU {cpu} is given twice; every shard has one of its own")));
        }
        cpus.push(cpu);
    }
    if cpus.len() != usize::from(shards) {
        return Err(list
            .error(format!("{} CPUs for {shards} shards; give one for each or remove the key", cpus.len())));
    }
    Ok(cpus)
}

fn check_addresses(
    root: &Section<'_>,
    target: &TargetConfig,
    nodes: &[NodeConfig],
) -> Result<(), ConfigError> {
    let named = |node: &NodeConfig, problem: String| {
        let all = root.get("node").and_then(|item| item.open_table().ok());
        let at = all.and_then(|all| all.get(&node.name)).and_then(|item| item.open_table().ok());
        match at.and_then(|section| section.get("replication_address")) {
            Some(item) => item.error(problem),
            None => root.error(problem),
        }
    };
    if let [first, second] = nodes {
        if first.replication_address == second.replication_address {
            let problem = format!("{} and {} have the same replication address", first.name, second.name);
            return Err(named(second, problem));
        }
    }
    for node in nodes {
        let Some(address) = node.replication_address else { continue };
        let clash = |portal: &&SocketAddr| {
            portal.port() == address.port() && (portal.ip().is_unspecified() || portal.ip() == address.ip())
        };
        if let Some(portal) = target.portals.iter().chain(&node.portals).find(clash) {
            return Err(named(node, format!("{address} is taken by the portal {portal}; use another port")));
        }
    }
    Ok(())
}

fn section<'a>(root: &Section<'a>, name: &str, keys: &[&str]) -> Result<Section<'a>, ConfigError> {
    match root.get(name) {
        Some(item) => item.table(keys),
        None => Err(root.error(format!("section [{name}] is missing; it has the keys {}", keys.join(", ")))),
    }
}

/// A section whose keys depend on what it says.
fn open_section<'a>(root: &Section<'a>, name: &str) -> Result<Section<'a>, ConfigError> {
    root.get(name).ok_or_else(|| root.error(format!("section [{name}] is missing")))?.open_table()
}

fn name(text: &str) -> Result<String, UnitError> {
    let good = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.');
    let first = text.bytes().next().is_some_and(|byte| byte.is_ascii_alphanumeric());
    if first && text.len() <= NAME_MAX && text.bytes().all(good) {
        return Ok(text.to_owned());
    }
    Err(UnitError(format!(
        "{text:?} is not a usable name; letters, digits, '-', '_' and '.' are, up to {NAME_MAX} of them, a letter or digit first"
    )))
}

/// An iSCSI name (RFC 7143 §4.2.7, RFC 3722): `iqn.`, `eui.` or `naa.`, lower case, at most 223 bytes.
fn iscsi_name(text: &str) -> Result<String, UnitError> {
    let hint = "write a name like \"iqn.2026-11.lan.example:vol1\"";
    let lower = text.to_lowercase();
    if lower != text {
        return Err(UnitError(format!("iSCSI names are lower case; write {lower:?}")));
    }
    let good =
        |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || matches!(byte, b'-' | b'.' | b':');
    if !text.bytes().all(good) || text.len() > 223 {
        return Err(UnitError(format!(
            "{text:?} is not an iSCSI name: letters, digits, '-', '.' and ':' only, at most 223; {hint}"
        )));
    }
    let hexadecimal = |digits: &str, lengths: &[usize]| {
        lengths.contains(&digits.len()) && digits.bytes().all(|byte| byte.is_ascii_hexdigit())
    };
    let valid = match text.split_at_checked(4) {
        Some(("iqn.", rest)) => qualified_name(rest),
        Some(("eui.", digits)) => hexadecimal(digits, &[16]),
        Some(("naa.", digits)) => hexadecimal(digits, &[16, 32]),
        _ => false,
    };
    if valid { Ok(text.to_owned()) } else { Err(UnitError(format!("{text:?} is not an iSCSI name; {hint}"))) }
}

/// A name, or a pattern with `*` and `?`.
fn iscsi_pattern(text: &str) -> Result<NamePattern, UnitError> {
    if !text.contains(['*', '?']) {
        return iscsi_name(text).map(|name| NamePattern::new(&name));
    }
    let good = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || "-.:*?".contains(c);
    if text.chars().all(good) && text.len() <= 223 {
        return Ok(NamePattern::new(text));
    }
    Err(UnitError(format!(
        "{text:?} is not a pattern of iSCSI names: lower case letters, digits, '-', '.', ':', '*' and '?' only"
    )))
}

/// `YYYY-MM.reversed.domain[:anything]`
fn qualified_name(rest: &str) -> bool {
    let Some((date, authority)) = rest.split_once('.') else { return false };
    let Some((year, month)) = date.split_once('-') else { return false };
    let digits = |text: &str, len: usize| text.len() == len && text.bytes().all(|byte| byte.is_ascii_digit());
    digits(year, 4)
        && digits(month, 2)
        && ("01"..="12").contains(&month)
        && !authority.is_empty()
        && !authority.starts_with(':')
}

fn portal(text: &str) -> Result<SocketAddr, UnitError> {
    match text.parse::<IpAddr>() {
        Ok(address) => Ok(SocketAddr::new(address, ISCSI_PORT)),
        Err(_) => socket_address(text),
    }
}

fn socket_address(text: &str) -> Result<SocketAddr, UnitError> {
    let wrong = || {
        UnitError(format!(
            "{text:?} is not an address with a port; write \"192.0.2.10:3260\" or \"[2001:db8::1]:3260\""
        ))
    };
    let address: SocketAddr = text.parse().map_err(|_| wrong())?;
    if address.port() == 0 { Err(wrong()) } else { Ok(address) }
}

fn absolute(text: &str) -> Result<PathBuf, UnitError> {
    let path = PathBuf::from(text);
    if path.is_absolute() {
        return Ok(path);
    }
    Err(UnitError(format!("{text:?} is not a full path; begin it with '/'")))
}

fn ascii(text: &str, max: usize) -> Result<String, UnitError> {
    let printable = text.bytes().all(|byte| (0x20..0x7F).contains(&byte));
    if printable && !text.trim().is_empty() && text.len() <= max {
        return Ok(text.to_owned());
    }
    Err(UnitError(format!("{text:?} must be 1 to {max} printable ASCII characters")))
}

/// The valid word nearest to what was typed, if it is near enough to be meant.
pub fn nearest<'a>(typed: &str, words: &[&'a str]) -> Option<&'a str> {
    let (distance, word) = words.iter().map(|word| (edit_distance(typed, word), *word)).min()?;
    (distance <= 1 + typed.len() / 3).then_some(word)
}
