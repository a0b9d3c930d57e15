//! Who may log in to the target: `[target.chap]`, `[target.discovery_chap]`, `[[target.initiator]]`, and the bounds of
//! `[target]`.

use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

use super::document::{ConfigError, Item, Section};
use super::units::{self, UnitError};
use super::{absolute, iscsi_pattern, nearest};
use crate::iscsi::chap::{Algorithm, USER_BYTES_MAX};
use crate::iscsi::{Caps, Limits, NamePattern, Network};
use crate::scsi::LUN_MAX;

/// The logical units of the target.
pub const LUNS: [u16; 1] = [0];

/// Keys of `[target]` that this module reads.
pub(super) const KEYS: [&str; 12] = [
    "header_digest",
    "data_digest",
    "chap",
    "discovery_chap",
    "initiator",
    "login_timeout",
    "ping_interval",
    "ping_timeout",
    "max_half_open",
    "max_half_open_per_address",
    "max_sessions",
    "max_sessions_per_initiator",
];

/// Most `[[target.initiator]]` sections.
const INITIATORS_MAX: usize = 256;
/// Who may log in, and how.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct AccessConfig {
    /// What a session must show unless its initiator's section says otherwise.
    pub chap: Option<ChapConfig>,
    pub discovery_chap: Option<ChapConfig>,
    /// Empty: everybody may try.
    pub initiators: Vec<InitiatorConfig>,
}

impl AccessConfig {
    /// Every section with secrets.
    pub fn chaps(&self) -> impl Iterator<Item = &ChapConfig> {
        let of_initiators = self.initiators.iter().filter_map(|initiator| initiator.chap.as_ref());
        self.chap.iter().chain(&self.discovery_chap).chain(of_initiators)
    }
}

/// `[target.chap]` and its like.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ChapConfig {
    pub user: String,
    pub secret_file: PathBuf,
    /// The target's own name and secret, for initiators that ask (mutual CHAP).
    pub target: Option<(String, PathBuf)>,
    pub algorithms: Vec<Algorithm>,
}

/// `[[target.initiator]]`
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct InitiatorConfig {
    pub names: Vec<NamePattern>,
    pub networks: Vec<Network>,
    pub chap: Option<ChapConfig>,
    /// Number that is shown, number in the target; `None`: all under their own.
    pub luns: Option<Vec<(u16, u16)>>,
}

pub(super) fn read_access(target: &Section<'_>) -> Result<AccessConfig, ConfigError> {
    let chap = |key: &str| target.get(key).map(read_chap).transpose();
    let mut initiators = Vec::new();
    if let Some(item) = target.get("initiator") {
        let list = item.list()?;
        if list.len() > INITIATORS_MAX {
            return Err(item.error(format!("at most {INITIATORS_MAX} initiators; names may hold '*'")));
        }
        for item in list {
            initiators.push(read_initiator(item)?);
        }
    }
    Ok(AccessConfig { chap: chap("chap")?, discovery_chap: chap("discovery_chap")?, initiators })
}

fn read_chap(item: Item<'_>) -> Result<ChapConfig, ConfigError> {
    let keys = ["user", "secret_file", "target_user", "target_secret_file", "algorithms"];
    let section = item.table(&keys)?;
    let user = section.require("user", "\"win-host\"")?.parse(user)?;
    let secret_file = section.require("secret_file", "\"/etc/twinlun/chap-in\"")?.parse(absolute)?;
    let target = match (section.get("target_user"), section.get("target_secret_file")) {
        (Some(name), Some(file)) => Some((name.parse(self::user)?, file.parse(absolute)?)),
        (None, None) => None,
        (Some(item), None) | (None, Some(item)) => {
            return Err(item.error("mutual CHAP needs both target_user and target_secret_file"));
        }
    };
    if let (Some((_, file)), Some(item)) = (&target, section.get("target_secret_file")) {
        if *file == secret_file {
            return Err(item.error("the two directions need secrets of their own; name another file"));
        }
    }
    let algorithms = match section.get("algorithms") {
        None => Algorithm::ALL.to_vec(),
        Some(list) => {
            let algorithms: Result<Vec<_>, _> =
                list.list()?.iter().map(|item| item.parse(algorithm)).collect();
            algorithms.and_then(|algorithms| match algorithms.is_empty() {
                true => Err(list.error("at least one algorithm is wanted; Windows knows \"md5\"")),
                false => Ok(algorithms),
            })?
        }
    };
    Ok(ChapConfig { user, secret_file, target, algorithms })
}

fn read_initiator(item: Item<'_>) -> Result<InitiatorConfig, ConfigError> {
    let section = item.table(&["names", "networks", "luns", "chap"])?;
    let mut names = Vec::new();
    if let Some(list) = section.get("names") {
        for item in list.list()? {
            names.push(item.parse(iscsi_pattern)?);
        }
    }
    let mut networks = Vec::new();
    if let Some(list) = section.get("networks") {
        for item in list.list()? {
            networks.push(item.parse(network)?);
        }
    }
    if names.is_empty() && networks.is_empty() {
        return Err(section.error(
            "this would let everybody in; give names = [\"iqn.1991-05.com.microsoft:*\"] or networks = [\"192.0.2.0/24\"]",
        ));
    }
    let chap = section.get("chap").map(read_chap).transpose()?;
    let luns = section.get("luns").map(|item| read_luns(&item)).transpose()?;
    Ok(InitiatorConfig { names, networks, chap, luns })
}

/// `[0]`: these under their own numbers; `{ 7 = 0 }`: unit 0 is shown as 7.
fn read_luns(item: &Item<'_>) -> Result<Vec<(u16, u16)>, ConfigError> {
    let mut luns: Vec<(u16, u16)> = Vec::new();
    let numbers = 0..u64::from(LUN_MAX) + 1;
    if item.is_table() {
        let table = item.open_table()?;
        for name in table.names() {
            let entry = table.get(name).expect("the name was listed by this table");
            let shown = name.parse().ok().filter(|shown| *shown <= LUN_MAX);
            let shown = shown.ok_or_else(|| entry.error(format!("a LUN is a number up to {LUN_MAX}")))?;
            luns.push((shown, entry.integer(numbers.clone())? as u16));
        }
    } else {
        for entry in item.list()? {
            let unit = entry.integer(numbers.clone())? as u16;
            luns.push((unit, unit));
        }
    }
    for (at, (shown, unit)) in luns.iter().enumerate() {
        if !LUNS.contains(unit) {
            return Err(item.error(format!("the target has no logical unit {unit}; it has 0")));
        }
        if luns[..at].iter().any(|(other, same)| other == shown || same == unit) {
            return Err(item.error(format!("logical unit {unit} is given twice")));
        }
    }
    Ok(luns)
}

pub(super) fn read_limits(target: &Section<'_>) -> Result<(Limits, Caps), ConfigError> {
    let duration = |key: &str, allowed: std::ops::RangeInclusive<u64>, default| match target.get(key) {
        None => Ok(default),
        Some(item) => {
            let value: Duration = item.parse(units::duration)?;
            let (least, most) = (*allowed.start(), *allowed.end());
            if !(Duration::from_secs(least)..=Duration::from_secs(most)).contains(&value) {
                return Err(item.error(format!("it is between {least}s and {most}s")));
            }
            Ok(crate::time::Duration::from_millis(value.as_millis() as u64))
        }
    };
    let count = |key: &str, most: u16, default: u16| match target.get(key) {
        None => Ok(default),
        Some(item) => item.integer(1..u64::from(most) + 1).map(|value| value as u16),
    };
    let required = |key: &str| match target.get(key) {
        None => Ok(false),
        Some(item) => match item.string()? {
            "any" => Ok(false),
            "required" => Ok(true),
            other => Err(item.error(format!("{other:?} is neither \"any\" nor \"required\""))),
        },
    };
    let standard = Limits::default();
    let limits = Limits {
        require_header_digest: required("header_digest")?,
        require_data_digest: required("data_digest")?,
        login_timeout: duration("login_timeout", 1..=60, standard.login_timeout)?,
        ping_interval: standard
            .ping_interval
            .map(|standard| duration("ping_interval", 1..=3600, standard))
            .transpose()?,
        ping_timeout: duration("ping_timeout", 1..=300, standard.ping_timeout)?,
        ..standard
    };
    let standard = Caps::default();
    let caps = Caps {
        half_open: count("max_half_open", 192, standard.half_open)?,
        half_open_per_source: count("max_half_open_per_address", 192, standard.half_open_per_source)?,
        sessions: count("max_sessions", 256, standard.sessions)?,
        sessions_per_initiator: count("max_sessions_per_initiator", 256, standard.sessions_per_initiator)?,
    };
    Ok((limits, caps))
}

fn user(text: &str) -> Result<String, UnitError> {
    let printable = !text.chars().any(char::is_control);
    if printable && !text.is_empty() && text.len() <= USER_BYTES_MAX {
        return Ok(text.to_owned());
    }
    Err(UnitError(format!("a CHAP user name has 1 to {USER_BYTES_MAX} printable characters")))
}

fn algorithm(text: &str) -> Result<Algorithm, UnitError> {
    const NAMES: [&str; 4] = ["md5", "sha1", "sha256", "sha3-256"];
    match text {
        "md5" => Ok(Algorithm::Md5),
        "sha1" => Ok(Algorithm::Sha1),
        "sha256" => Ok(Algorithm::Sha256),
        "sha3-256" => Ok(Algorithm::Sha3),
        _ => Err(UnitError(match nearest(text, &NAMES) {
            Some(name) => format!("{text:?} is not a CHAP algorithm; did you mean {name:?}?"),
            None => format!("{text:?} is not a CHAP algorithm; there are {}", NAMES.join(", ")),
        })),
    }
}

/// `192.0.2.0/24`, or one address.
fn network(text: &str) -> Result<Network, UnitError> {
    let wrong = || {
        UnitError(format!(
            "{text:?} is not a network; write \"192.0.2.0/24\", \"2001:db8::/32\" or one address"
        ))
    };
    let (address, bits) = match text.split_once('/') {
        Some((address, bits)) => (address, Some(bits.parse().map_err(|_| wrong())?)),
        None => (text, None),
    };
    let address: IpAddr = address.parse().map_err(|_| wrong())?;
    let bits = bits.unwrap_or(if address.is_ipv4() { 32 } else { 128 });
    Network::new(address, bits).ok_or_else(|| {
        UnitError(format!(
            "{text:?} has bits set behind the first {bits}; which addresses are meant is not clear"
        ))
    })
}
