//! `[arbiter]`: who decides which node is in when the nodes cannot hear each other.
//!
//! Every kind has keys of its own, and a key of another kind is an error: what looks as if it were in force is.
//! What cannot be safe is refused here, with the reason.

use std::path::PathBuf;
use std::time::Duration;

use super::document::{ConfigError, Item, Section};
use super::units::{self, UnitError};
use super::{NodeConfig, absolute, name, nearest};
use crate::arbiter::etcd::ENDPOINTS_MAX;
use crate::arbiter::fence::agent::FenceAgent;

/// Who decides which node is in when the nodes cannot hear each other.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum ArbiterConfig {
    /// A cluster of etcd: any third machine.
    Etcd(EtcdSection),
    /// Fence devices: the other node is switched off before this one goes on alone.
    Fence(FenceSection),
    /// The cluster that both nodes belong to: Pacemaker decides who leads, its CIB keeps the record.
    Pacemaker,
    /// A file that both nodes see: for two nodes on one machine only.
    File { path: PathBuf },
    /// Nobody: a node that loses its peer holds all writes until a person decides.
    Manual,
}

/// `[arbiter]` of kind `etcd`
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct EtcdSection {
    pub endpoints: Vec<String>,
    /// The pair's name in etcd; `None`: made of the nodes' names.
    pub cluster: Option<String>,
    pub ca: Option<PathBuf>,
    /// Certificate and key of this node.
    pub identity: Option<(PathBuf, PathBuf)>,
    /// User, and the file of its password.
    pub login: Option<(String, PathBuf)>,
}

/// `[arbiter]` of kind `fence`
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct FenceSection {
    /// How long the node that is not primary waits before it fences.
    pub delay: Duration,
    /// How long fencing may take.
    pub timeout: Duration,
    /// What switches each node off, by the node's name.
    pub agents: Vec<(String, FenceAgent)>,
}

const FENCE_DELAY: Duration = Duration::from_secs(2);
const FENCE_TIMEOUT: Duration = Duration::from_secs(60);
/// Where a fence agent is that is named without a path.
const AGENTS: &str = "/usr/sbin";

/// Agents of the collection that do not switch a machine off, and what would be believed wrongly.
const UNSAFE_AGENTS: [(&str, &str); 7] = [
    ("fence_watchdog", WATCHDOG),
    ("fence_sbd", WATCHDOG),
    ("fence_scsi", "it takes a shared disk away from the other node, and these nodes share none"),
    ("fence_mpath", "it takes a shared disk away from the other node, and these nodes share none"),
    ("fence_kdump", "it only tells that a node writes a crash dump; it switches nothing off"),
    ("fence_heuristics_ping", "it only pings; it switches nothing off"),
    ("fence_dummy", "it only pretends"),
];
const WATCHDOG: &str = "it waits and believes that the other node's watchdog has struck: a time-out is not a confirmation, \
                        and two nodes without a third vote cannot tell a dead peer from a cut cable";

/// The kinds, each with its keys and what it is for.
const KINDS: [(&str, &[&str], &str); 5] = [
    ("etcd", &["endpoints", "cluster", "ca", "cert", "key", "user", "password_file"], "any third machine"),
    ("fence", &["delay", "timeout", "node"], "two machines and a switch that turns either off"),
    ("pacemaker", &[], "nodes of a Pacemaker cluster"),
    ("file", &["path"], "two nodes on one machine"),
    ("manual", &[], "a person decides"),
];

pub(super) fn read(section: &Section<'_>) -> Result<ArbiterConfig, ConfigError> {
    let kind = section.require("kind", "\"etcd\"")?;
    let word = kind.string()?;
    let Some((_, keys, _)) = KINDS.iter().find(|(name, ..)| *name == word) else {
        return Err(kind.error(unknown_kind(word)));
    };
    only(section, word, keys)?;
    match word {
        "etcd" => etcd(section).map(ArbiterConfig::Etcd),
        "fence" => fence(section).map(ArbiterConfig::Fence),
        "file" => {
            let path = section.require("path", "\"/var/lib/twinlun/arbiter\"")?;
            Ok(ArbiterConfig::File { path: path.parse(absolute)? })
        }
        "pacemaker" => Ok(ArbiterConfig::Pacemaker),
        _ => Ok(ArbiterConfig::Manual),
    }
}

fn unknown_kind(word: &str) -> String {
    let names: Vec<&str> = KINDS.iter().map(|(name, ..)| *name).collect();
    let listed: Vec<String> = KINDS.iter().map(|(name, _, what)| format!("{name:?} ({what})")).collect();
    let meant = nearest(word, &names).map_or_else(String::new, |name| format!("did you mean {name:?}? "));
    format!("{word:?} is not a kind of arbiter; {meant}there are {}", listed.join(", "))
}

/// Refuses keys that this kind does not have; says so of keys that another kind has.
fn only(section: &Section<'_>, kind: &str, keys: &[&str]) -> Result<(), ConfigError> {
    let foreign = KINDS
        .iter()
        .flat_map(|(_, keys, _)| keys.iter())
        .find(|key| !keys.contains(key) && section.get(key).is_some());
    if let Some(item) = foreign.and_then(|key| section.get(key)) {
        let has =
            if keys.is_empty() { "no keys".to_owned() } else { format!("the keys {}", keys.join(", ")) };
        return Err(item.error(format!(
            "an arbiter of kind {kind:?} has no such key; it has {has} besides kind: remove this one"
        )));
    }
    let mut all = vec!["kind"];
    all.extend(keys);
    section.only(&all)
}

/// What only the whole file can tell: a fence agent for each node, and none for a stranger.
pub(super) fn check(
    root: &Section<'_>,
    arbiter: &ArbiterConfig,
    nodes: &[NodeConfig],
) -> Result<(), ConfigError> {
    let ArbiterConfig::Fence(fence) = arbiter else { return Ok(()) };
    let wrong = |problem: String| match root.get("arbiter") {
        Some(item) => item.error(problem),
        None => root.error(problem),
    };
    for node in nodes {
        if !fence.agents.iter().any(|(name, _)| *name == node.name) {
            return Err(wrong(format!(
                "nothing switches {0} off: write a section [arbiter.node.{0}] with an agent. If only one node could be \
                 fenced, the other could neither take over nor go on alone",
                node.name
            )));
        }
    }
    if let Some((name, _)) = fence.agents.iter().find(|(name, _)| nodes.iter().all(|node| node.name != *name))
    {
        return Err(wrong(format!("[arbiter.node.{name}] describes no node of this file")));
    }
    match fence.agents.as_slice() {
        [(one, first), (two, second)] if first == second => Err(wrong(format!(
            "{one} and {two} have the same agent with the same options: the wrong one would be switched off"
        ))),
        _ => Ok(()),
    }
}

fn fence(section: &Section<'_>) -> Result<FenceSection, ConfigError> {
    let duration = |key: &str, default: Duration, least: u64, most: u64| match section.get(key) {
        Some(item) => {
            let value = item.parse(units::duration)?;
            if (Duration::from_secs(least)..=Duration::from_secs(most)).contains(&value) {
                return Ok(value);
            }
            Err(item.error(format!("{key} is between {least}s and {most}s")))
        }
        None => Ok(default),
    };
    let Some(all) = section.get("node") else {
        return Err(section.error(
            "nothing switches a node off; write a section [arbiter.node.NAME] for each node, with agent and options",
        ));
    };
    let all = all.open_table()?;
    let mut agents = Vec::new();
    for name in all.names() {
        let item = all.get(name).expect("the name was listed by this table");
        agents.push((name.to_owned(), agent(&item.table(&["agent", "options"])?)?));
    }
    Ok(FenceSection {
        delay: duration("delay", FENCE_DELAY, 1, 60)?,
        timeout: duration("timeout", FENCE_TIMEOUT, 5, 600)?,
        agents,
    })
}

fn agent(section: &Section<'_>) -> Result<FenceAgent, ConfigError> {
    let item = section.require("agent", "\"fence_ipmilan\"")?;
    let word = item.string()?;
    let base = word.rsplit('/').next().unwrap_or(word);
    if let Some((_, why)) = UNSAFE_AGENTS.iter().find(|(name, _)| *name == base) {
        return Err(item.error(format!("{base} cannot make this safe: {why}")));
    }
    let program = if word.contains('/') {
        absolute(word)
    } else {
        name(word).map(|it| format!("{AGENTS}/{it}").into())
    };
    let program: PathBuf = program.map_err(|error| item.error(error.0))?;
    let mut options = Vec::new();
    if let Some(table) = section.get("options").map(|item| item.open_table()).transpose()? {
        for key in table.names() {
            let item = table.get(key).expect("the name was listed by this table");
            let value = item.string()?;
            if matches!(key, "action" | "delay" | "method") {
                return Err(item.error(format!("{key} is for twinlun to say; remove it")));
            }
            if [key, value].iter().any(|text| text.chars().any(char::is_control)) || key.contains('=') {
                return Err(item.error("an option is one line"));
            }
            options.push((key.to_owned(), value.to_owned()));
        }
    }
    if options.iter().map(|(key, value)| key.len() + value.len() + 2).sum::<usize>() > 3000 {
        return Err(section.error("the options of an agent have at most 3000 bytes"));
    }
    options.sort();
    Ok(FenceAgent { program, options })
}

fn etcd(section: &Section<'_>) -> Result<EtcdSection, ConfigError> {
    let list = section.require("endpoints", "[\"https://192.0.2.30:2379\"]")?;
    let mut endpoints = Vec::new();
    for item in list.list()? {
        let endpoint = item.parse(endpoint)?;
        if endpoints.contains(&endpoint) {
            return Err(item.error(format!("endpoint {endpoint} is given twice")));
        }
        endpoints.push(endpoint);
    }
    if !(1..=ENDPOINTS_MAX).contains(&endpoints.len()) {
        let problem = format!("1 to {ENDPOINTS_MAX} endpoints are wanted, not {}", endpoints.len());
        return Err(list.error(problem));
    }
    let encrypted = endpoints.iter().filter(|endpoint| endpoint.starts_with("https:")).count();
    if encrypted != 0 && encrypted != endpoints.len() {
        return Err(list.error("some endpoints are encrypted and some are not; make all of them https://"));
    }
    let encrypted = encrypted != 0;
    let path = |key: &str| section.get(key).map(|item| item.parse(absolute)).transpose();
    Ok(EtcdSection {
        endpoints,
        cluster: section.get("cluster").map(|item| item.parse(name)).transpose()?,
        ca: authority(section, &list, encrypted)?,
        identity: both(section, "cert", "key", path("cert")?, path("key")?)?,
        login: login(section, encrypted, path("password_file")?)?,
    })
}

/// `ca` belongs to encrypted endpoints and to no others; `cert` and `key` too.
fn authority(
    section: &Section<'_>,
    endpoints: &Item<'_>,
    encrypted: bool,
) -> Result<Option<PathBuf>, ConfigError> {
    if !encrypted {
        let useless = ["ca", "cert", "key"].into_iter().find_map(|key| section.get(key));
        return match useless {
            Some(item) => {
                Err(item.error("the endpoints are not encrypted; write https:// or remove this key"))
            }
            None => Ok(None),
        };
    }
    match section.get("ca") {
        Some(item) => item.parse(absolute).map(Some),
        None => Err(endpoints.error(
            "who may vouch for these servers? add ca = \"/etc/twinlun/etcd-ca.pem\" (the system's authorities are not asked)",
        )),
    }
}

fn login(
    section: &Section<'_>,
    encrypted: bool,
    file: Option<PathBuf>,
) -> Result<Option<(String, PathBuf)>, ConfigError> {
    let user = section.get("user").map(|item| item.parse(user)).transpose()?;
    let login = both(section, "user", "password_file", user, file)?;
    match section.get("user") {
        Some(item) if !encrypted => {
            Err(item
                .error("a password must not travel in the clear: write https:// endpoints, or use no user"))
        }
        _ => Ok(login),
    }
}

/// Two keys that are given together or not at all.
fn both<A, B>(
    section: &Section<'_>,
    first: &str,
    second: &str,
    a: Option<A>,
    b: Option<B>,
) -> Result<Option<(A, B)>, ConfigError> {
    let (given, missing) = if a.is_some() { (first, second) } else { (second, first) };
    match (a, b) {
        (Some(a), Some(b)) => Ok(Some((a, b))),
        (None, None) => Ok(None),
        _ => Err(section.error(format!("{given} needs {missing} beside it; add it or remove {given}"))),
    }
}

/// `http://HOST:PORT` or `https://HOST:PORT`
fn endpoint(text: &str) -> Result<String, UnitError> {
    let wrong =
        || UnitError(format!("{text:?} is not an endpoint of etcd; write \"https://192.0.2.30:2379\""));
    let trimmed = text.strip_suffix('/').unwrap_or(text);
    let rest =
        trimmed.strip_prefix("http://").or_else(|| trimmed.strip_prefix("https://")).ok_or_else(wrong)?;
    let (host, port) = rest.rsplit_once(':').ok_or_else(wrong)?;
    let port: u16 = port.parse().map_err(|_| wrong())?;
    let bare = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_');
    let inside = host.strip_prefix('[').and_then(|host| host.strip_suffix(']'));
    let good = match inside {
        Some(inside) => inside.parse::<std::net::Ipv6Addr>().is_ok(),
        None => !host.is_empty() && host.len() <= 253 && host.bytes().all(bare),
    };
    if good && port != 0 { Ok(trimmed.to_owned()) } else { Err(wrong()) }
}

fn user(text: &str) -> Result<String, UnitError> {
    if !text.is_empty() && text.len() <= 128 && !text.chars().any(char::is_control) {
        return Ok(text.to_owned());
    }
    Err(UnitError(format!("{text:?} is not a user's name")))
}
