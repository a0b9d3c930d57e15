//! What the two agents say to each other: datagrams, the same bytes on every network except for the network's number.
//!
//! ```text
//!  0  4  "TLHB"        4  1  version     5  1  kind (1 heartbeat, 2 clients)
//!  6  1  sender's node 7  1  number of the network it was sent on
//!  8  8  sender's incarnation (random for each start of the agent)
//! 16  8  sequence, rises with every datagram of the sender
//! 24  8  receiver's incarnation as the sender knows it, 0: never heard
//! 32  8  newest sequence that the sender has heard of that incarnation
//! 40  …  body
//!  …  32  HMAC-SHA256 over all of the above
//! ```
//!
//! The key is derived from the pair's secret and the volume's name, so a datagram of another pair or volume is a
//! stranger's. Numbers are big-endian. Whether an authentic datagram is also *fresh* is for the detector to say. Absent
//! on purpose: sockets, time, and secrecy (nothing here is secret; nobody else can say it).

use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;

use crate::arbitration::{Epoch, NodeSet};
use crate::units::NodeId;
use crate::wire::{Reader, Short, Writer};
use std::net::{IpAddr, Ipv6Addr, SocketAddr};

const MAGIC: &[u8; 4] = b"TLHB";
const VERSION: u8 = 1;
const KIND_HEARTBEAT: u8 = 1;
const KIND_CLIENTS: u8 = 2;
const MAC_BYTES: usize = 32;
const HEADER_BYTES: usize = 40;
const CLIENT_BYTES: usize = 36;
/// Connections in one datagram, so that it passes every network whole.
pub const CLIENTS_IN_ONE: usize = 32;
/// Longest datagram.
pub const DATAGRAM_MAX: usize = HEADER_BYTES + 6 + CLIENTS_IN_ONE * CLIENT_BYTES + MAC_BYTES;
/// Networks that two nodes may share at most: a bit each in the heartbeat.
pub const NETWORKS_MAX: usize = 8;
const NO_NODE: u8 = 0xFF;

/// Authenticates datagrams. Its `Debug` shows nothing.
#[derive(Clone)]
pub struct Key(Hmac<Sha256>);

impl Key {
    /// From the pair's secret, for one volume.
    pub fn new(secret: &[u8], volume: &str) -> Self {
        let mut derive = hmac(secret);
        derive.update(b"twinlun agent\0");
        derive.update(volume.as_bytes());
        Self(hmac(&derive.finalize().into_bytes()))
    }

    fn tag(&self, bytes: &[u8]) -> [u8; MAC_BYTES] {
        let mut mac = self.0.clone();
        mac.update(bytes);
        mac.finalize().into_bytes().into()
    }

    fn agrees(&self, bytes: &[u8], tag: &[u8]) -> bool {
        let mut mac = self.0.clone();
        mac.update(bytes);
        mac.verify_slice(tag).is_ok()
    }
}

fn hmac(key: &[u8]) -> Hmac<Sha256> {
    Hmac::new_from_slice(key).expect("HMAC takes keys of any length")
}

impl std::fmt::Debug for Key {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Key(..)")
    }
}

/// Who says it, when, and what it has heard.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Header {
    pub node: NodeId,
    pub network: u8,
    pub incarnation: u64,
    pub sequence: u64,
    /// The receiver's incarnation; 0: never heard.
    pub echo_incarnation: u64,
    pub echo_sequence: u64,
}

/// The engine's role, as far as its agent knows.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Role {
    Secondary,
    Primary,
}

/// How the engine treats initiators.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Service {
    Closed,
    /// Requests wait for a decision.
    Held,
    /// Served from this copy only.
    Alone,
    /// Served; an answer means both copies.
    Both,
}

/// What the node's own copy is worth.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Disk {
    /// Whole. Whether it is also current, the record says.
    Whole,
    /// The target of an unfinished resync, or outdated.
    Behind,
    Failed,
}

/// The replication link between the engines.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Link {
    Apart,
    Meeting,
    Connected,
}

/// What an engine tells of itself with every beat.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct EngineView {
    /// Random for each start of the engine.
    pub incarnation: u64,
    /// Rises with every beat: proof that all shards turned.
    pub progress: u64,
    pub role: Role,
    pub service: Service,
    pub disk: Disk,
    pub link: Link,
    /// The newest record of the arbiter that it knows.
    pub epoch: Epoch,
    pub primary: Option<NodeId>,
    pub in_sync: NodeSet,
    /// A person told it to stop serving.
    pub demoted: bool,
    /// Milliseconds since the peer's engine was heard; [`u32::MAX`] without a session.
    pub peer_silent_ms: u32,
}

/// An engine as its agent sees it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum EngineReport {
    /// None has been seen since the agent began.
    Absent,
    Alive {
        view: EngineView,
        /// Milliseconds since its last beat.
        beat_age_ms: u32,
    },
    /// A death certificate: the kernel said that this process has ended. `view` is its last word.
    Dead { view: EngineView },
}

/// Health of a node's way to its clients.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ClientNetwork {
    Unknown,
    Up,
    Down,
}

/// What an agent tells with every heartbeat.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Report {
    pub engine: EngineReport,
    /// Networks on which the sender hears the receiver, a bit each.
    pub hears: u8,
    /// The service addresses are on this node.
    pub holds_addresses: bool,
    /// The receiver's portal addresses are on this node.
    pub stands_in: bool,
    /// Takes no part: a person wants it so.
    pub standby: bool,
    /// The agent ends in order.
    pub leaving: bool,
    pub clients: ClientNetwork,
}

/// A connection of an initiator to a service address.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct ClientConnection {
    /// The service address and port.
    pub local: SocketAddr,
    pub remote: SocketAddr,
}

/// What a datagram is about.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Body {
    Heartbeat(Report),
    /// Part `part` (from 0) of `parts` of list number `list`.
    Clients {
        list: u32,
        part: u8,
        parts: u8,
        connections: Vec<ClientConnection>,
    },
}

/// One datagram, taken apart.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Datagram {
    pub header: Header,
    pub body: Body,
}

/// Why bytes are not a datagram of the peer's agent.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Malformed {
    Short,
    /// Not ours at all.
    Foreign,
    /// Another release's.
    Version(u8),
    /// Made with another secret, for another volume, or altered.
    Forged,
    /// Authentic, and without meaning to this release.
    Senseless,
}

impl std::fmt::Display for Malformed {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Short => write!(f, "it is cut short"),
            Self::Foreign => write!(f, "it is not a heartbeat"),
            Self::Version(version) => write!(f, "it is of version {version}; this agent speaks {VERSION}"),
            Self::Forged => write!(f, "it was made with another secret or for another volume"),
            Self::Senseless => write!(f, "it has no meaning to this release"),
        }
    }
}

impl std::error::Error for Malformed {}

impl From<Short> for Malformed {
    fn from(_: Short) -> Self {
        Self::Short
    }
}

impl Datagram {
    /// The bytes to send.
    pub fn encode(&self, key: &Key) -> Vec<u8> {
        let mut bytes = vec![0; DATAGRAM_MAX];
        let mut writer = Writer::new(&mut bytes);
        self.write(&mut writer).expect("the longest datagram has room");
        let end = writer.position();
        let tag = key.tag(&bytes[..end]);
        bytes.truncate(end);
        bytes.extend_from_slice(&tag);
        bytes
    }

    fn write(&self, to: &mut Writer<'_>) -> Result<(), Short> {
        let Header { node, network, incarnation, sequence, echo_incarnation, echo_sequence } = self.header;
        let kind = match self.body {
            Body::Heartbeat(_) => KIND_HEARTBEAT,
            Body::Clients { .. } => KIND_CLIENTS,
        };
        to.bytes(MAGIC)?;
        to.bytes(&[VERSION, kind, node.0, network])?;
        for number in [incarnation, sequence, echo_incarnation, echo_sequence] {
            to.u64_be(number)?;
        }
        match &self.body {
            Body::Heartbeat(report) => write_report(report, to),
            Body::Clients { list, part, parts, connections } => {
                to.u32_be(*list)?;
                to.bytes(&[*part, *parts])?;
                connections.iter().take(CLIENTS_IN_ONE).try_for_each(|connection| {
                    write_address(connection.local, to)?;
                    write_address(connection.remote, to)
                })
            }
        }
    }

    /// Takes bytes from the network apart, if they are authentic.
    pub fn decode(bytes: &[u8], key: &Key) -> Result<Self, Malformed> {
        let mut reader = Reader::new(bytes);
        if reader.array::<4>()? != *MAGIC {
            return Err(Malformed::Foreign);
        }
        let version = reader.u8()?;
        if version != VERSION {
            return Err(Malformed::Version(version));
        }
        let signed = bytes.len().checked_sub(MAC_BYTES).ok_or(Malformed::Short)?;
        if !key.agrees(&bytes[..signed], &bytes[signed..]) {
            return Err(Malformed::Forged);
        }
        let mut reader = Reader::new(&bytes[5..signed]);
        let (kind, node, network) = (reader.u8()?, reader.u8()?, reader.u8()?);
        if node > 1 || usize::from(network) >= NETWORKS_MAX {
            return Err(Malformed::Senseless);
        }
        let header = Header {
            node: NodeId(node),
            network,
            incarnation: reader.u64_be()?,
            sequence: reader.u64_be()?,
            echo_incarnation: reader.u64_be()?,
            echo_sequence: reader.u64_be()?,
        };
        let body = match kind {
            KIND_HEARTBEAT => Body::Heartbeat(read_report(&mut reader)?),
            KIND_CLIENTS => read_clients(&mut reader)?,
            _ => return Err(Malformed::Senseless),
        };
        if !reader.is_empty() {
            return Err(Malformed::Senseless);
        }
        Ok(Self { header, body })
    }
}

fn write_report(report: &Report, to: &mut Writer<'_>) -> Result<(), Short> {
    let bit = |on: bool, at: u8| u8::from(on) << at;
    let flags = bit(report.holds_addresses, 0)
        | bit(report.standby, 1)
        | bit(report.leaving, 2)
        | bit(report.stands_in, 3);
    let clients = match report.clients {
        ClientNetwork::Unknown => 0,
        ClientNetwork::Up => 1,
        ClientNetwork::Down => 2,
    };
    to.bytes(&[report.hears, flags, clients])?;
    match &report.engine {
        EngineReport::Absent => to.u8(0),
        EngineReport::Alive { view, beat_age_ms } => {
            to.u8(1)?;
            to.u32_be(*beat_age_ms)?;
            write_view(view, to)
        }
        EngineReport::Dead { view } => {
            to.u8(2)?;
            write_view(view, to)
        }
    }
}

fn write_view(view: &EngineView, to: &mut Writer<'_>) -> Result<(), Short> {
    for number in [view.incarnation, view.progress, view.epoch.0] {
        to.u64_be(number)?;
    }
    let service = match view.service {
        Service::Closed => 0,
        Service::Held => 1,
        Service::Alone => 2,
        Service::Both => 3,
    };
    let disk = match view.disk {
        Disk::Whole => 0,
        Disk::Behind => 1,
        Disk::Failed => 2,
    };
    let link = match view.link {
        Link::Apart => 0,
        Link::Meeting => 1,
        Link::Connected => 2,
    };
    let role = u8::from(view.role == Role::Primary);
    to.bytes(&[role, service, disk, link])?;
    to.bytes(&[view.primary.map_or(NO_NODE, |node| node.0), view.in_sync.bits(), u8::from(view.demoted)])?;
    to.u32_be(view.peer_silent_ms)
}

fn read_report(from: &mut Reader<'_>) -> Result<Report, Malformed> {
    let [hears, flags, clients] = from.array()?;
    let clients = match clients {
        0 => ClientNetwork::Unknown,
        1 => ClientNetwork::Up,
        2 => ClientNetwork::Down,
        _ => return Err(Malformed::Senseless),
    };
    if flags > 0b1111 {
        return Err(Malformed::Senseless);
    }
    let engine = match from.u8()? {
        0 => EngineReport::Absent,
        1 => {
            let beat_age_ms = from.u32_be()?;
            EngineReport::Alive { view: read_view(from)?, beat_age_ms }
        }
        2 => EngineReport::Dead { view: read_view(from)? },
        _ => return Err(Malformed::Senseless),
    };
    let flag = |at: u8| flags & (1 << at) != 0;
    Ok(Report {
        engine,
        hears,
        holds_addresses: flag(0),
        standby: flag(1),
        leaving: flag(2),
        stands_in: flag(3),
        clients,
    })
}

fn read_view(from: &mut Reader<'_>) -> Result<EngineView, Malformed> {
    let (incarnation, progress, epoch) = (from.u64_be()?, from.u64_be()?, Epoch(from.u64_be()?));
    let [role, service, disk, link, primary, in_sync, demoted] = from.array()?;
    let peer_silent_ms = from.u32_be()?;
    Ok(EngineView {
        incarnation,
        progress,
        epoch,
        role: match role {
            0 => Role::Secondary,
            1 => Role::Primary,
            _ => return Err(Malformed::Senseless),
        },
        service: match service {
            0 => Service::Closed,
            1 => Service::Held,
            2 => Service::Alone,
            3 => Service::Both,
            _ => return Err(Malformed::Senseless),
        },
        disk: match disk {
            0 => Disk::Whole,
            1 => Disk::Behind,
            2 => Disk::Failed,
            _ => return Err(Malformed::Senseless),
        },
        link: match link {
            0 => Link::Apart,
            1 => Link::Meeting,
            2 => Link::Connected,
            _ => return Err(Malformed::Senseless),
        },
        primary: match primary {
            0 | 1 => Some(NodeId(primary)),
            NO_NODE => None,
            _ => return Err(Malformed::Senseless),
        },
        in_sync: NodeSet::from_bits(in_sync).ok_or(Malformed::Senseless)?,
        demoted: match demoted {
            0 => false,
            1 => true,
            _ => return Err(Malformed::Senseless),
        },
        peer_silent_ms,
    })
}

/// IPv4 as IPv6-mapped: one length for all.
fn write_address(address: SocketAddr, to: &mut Writer<'_>) -> Result<(), Short> {
    let ip = match address.ip() {
        IpAddr::V4(v4) => v4.to_ipv6_mapped(),
        IpAddr::V6(v6) => v6,
    };
    to.bytes(&ip.octets())?;
    to.u16_be(address.port())
}

fn read_address(from: &mut Reader<'_>) -> Result<SocketAddr, Short> {
    let ip = Ipv6Addr::from(from.array::<16>()?);
    let ip = ip.to_ipv4_mapped().map_or(IpAddr::V6(ip), IpAddr::V4);
    Ok(SocketAddr::new(ip, from.u16_be()?))
}

fn read_clients(from: &mut Reader<'_>) -> Result<Body, Malformed> {
    let list = from.u32_be()?;
    let [part, parts] = from.array()?;
    if part >= parts {
        return Err(Malformed::Senseless);
    }
    let mut connections = Vec::with_capacity(from.rest().len() / CLIENT_BYTES);
    while !from.is_empty() {
        let (local, remote) = (read_address(from)?, read_address(from)?);
        connections.push(ClientConnection { local, remote });
    }
    Ok(Body::Clients { list, part, parts, connections })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn key() -> Key {
        Key::new(b"a secret of enough bytes", "vol1")
    }

    fn view() -> EngineView {
        EngineView {
            incarnation: 77,
            progress: 5,
            role: Role::Primary,
            service: Service::Both,
            disk: Disk::Whole,
            link: Link::Connected,
            epoch: Epoch(9),
            primary: Some(NodeId(1)),
            in_sync: NodeSet::BOTH,
            demoted: false,
            peer_silent_ms: 40,
        }
    }

    fn heartbeat(engine: EngineReport) -> Datagram {
        Datagram {
            header: Header {
                node: NodeId(1),
                network: 3,
                incarnation: 1,
                sequence: 2,
                echo_incarnation: 3,
                echo_sequence: 4,
            },
            body: Body::Heartbeat(Report {
                engine,
                hears: 0b101,
                holds_addresses: true,
                stands_in: true,
                standby: false,
                leaving: true,
                clients: ClientNetwork::Down,
            }),
        }
    }

    #[test]
    fn every_body_survives_the_wire() {
        let engines = [
            EngineReport::Absent,
            EngineReport::Alive { view: view(), beat_age_ms: 12 },
            EngineReport::Dead { view: view() },
        ];
        for engine in engines {
            let sent = heartbeat(engine);
            assert_eq!(Datagram::decode(&sent.encode(&key()), &key()), Ok(sent));
        }
        let connection = ClientConnection {
            local: "192.0.2.1:3260".parse().expect("an address"),
            remote: "[2001:db8::9]:40000".parse().expect("an address"),
        };
        let mut sent = heartbeat(EngineReport::Absent);
        sent.body =
            Body::Clients { list: 8, part: 1, parts: 2, connections: vec![connection; CLIENTS_IN_ONE] };
        let bytes = sent.encode(&key());
        assert!(bytes.len() <= DATAGRAM_MAX && DATAGRAM_MAX < 1280, "it passes every network whole");
        assert_eq!(Datagram::decode(&bytes, &key()), Ok(sent));
    }

    #[test]
    fn another_pair_is_a_stranger() {
        let bytes = heartbeat(EngineReport::Absent).encode(&key());
        for other in
            [Key::new(b"another secret of its own", "vol1"), Key::new(b"a secret of enough bytes", "vol2")]
        {
            assert_eq!(Datagram::decode(&bytes, &other), Err(Malformed::Forged));
        }
    }

    proptest! {
        #[test]
        fn a_changed_bit_is_never_believed(at in 0usize..1000, bit in 0u8..8) {
            let mut bytes = heartbeat(EngineReport::Alive { view: view(), beat_age_ms: 1 }).encode(&key());
            let at = at % bytes.len();
            bytes[at] ^= 1 << bit;
            prop_assert!(Datagram::decode(&bytes, &key()).is_err());
        }

        #[test]
        fn authentic_nonsense_is_an_error(body in proptest::collection::vec(any::<u8>(), 0..80), kind in 0u8..4) {
            let mut bytes = b"TLHB\x01".to_vec();
            bytes.push(kind);
            bytes.extend_from_slice(&[0, 0]);
            bytes.extend_from_slice(&[7; 32]);
            bytes.extend_from_slice(&body);
            let tag = key().tag(&bytes);
            bytes.extend_from_slice(&tag);
            // No panic; what is accepted is what would be sent.
            if let Ok(datagram) = Datagram::decode(&bytes, &key()) {
                prop_assert_eq!(datagram.encode(&key()), bytes);
            }
        }

        #[test]
        fn noise_is_an_error(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            prop_assert!(Datagram::decode(&bytes, &key()).is_err());
        }
    }
}
