//! From a configuration and opened devices to what the engine is started with.

use std::net::SocketAddr;
use std::sync::Arc;

use super::access;
use super::config::{Config, LUNS, NodeConfig, Paths, Secret};
use super::failure::Failure;
use crate::engine::{Face, LinkPlan};
use crate::iscsi::TargetConfig;
use crate::replication::handshake::LinkKey;
use crate::scsi::{DeviceIdentity, LogicalUnit, PeerPort, StandIn, Target, TargetPort};
use crate::storage::{Layout, Superblock};
use crate::units::Geometry;

/// Portal group, target port and target port group of a service address; the same on both nodes (S4). Where the nodes
/// have addresses of their own, those of node 0, and the next numbers are those of node 1.
const PORTAL_GROUP: u16 = 1;
/// Those of a service address beside the nodes' own addresses.
const PORTAL_GROUP_BESIDE: u16 = 3;
/// Extents kept hot on a large volume: 8 GiB, what a crash of the primary makes a resync copy at most.
const HOT_EXTENTS_MAX: u32 = 2048;
/// A small volume keeps this part of itself hot at most, so that a crash does not cost a full resync.
const HOT_PART: u32 = 4;
const HOT_EXTENTS_PER_LANE_MIN: u32 = 4;

/// By which addresses an initiator has come.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Way {
    Service,
    OwnPortals,
    /// Those of the other node, which is dead.
    PeersPortals,
}

/// The target as this node shows it at its own addresses, and what is seen at others that may come here.
pub fn targets(
    config: &Config,
    node: &NodeConfig,
    superblock: &Superblock,
    cache: bool,
) -> Result<(Arc<TargetConfig>, Vec<Face>), Failure> {
    if config.target.paths == Paths::Vip {
        return Ok((target(config, node, Way::Service, superblock, cache)?, Vec::new()));
    }
    let mut faces = Vec::new();
    if config.target.paths == Paths::Both {
        let target = target(config, node, Way::Service, superblock, cache)?;
        faces.push(Face { portals: config.target.portals.clone(), target, with_leader: true });
    }
    if let Some(peer) = config.peer_of(node).filter(|_| config.stands_in()) {
        let target = target(config, peer, Way::PeersPortals, superblock, cache)?;
        faces.push(Face { portals: peer.portals.clone(), target, with_leader: false });
    }
    Ok((target(config, node, Way::OwnPortals, superblock, cache)?, faces))
}

/// The target with its one disk, LUN 0, as it is seen at the addresses of `node`.
fn target(
    config: &Config,
    node: &NodeConfig,
    way: Way,
    superblock: &Superblock,
    volatile_cache: bool,
) -> Result<Arc<TargetConfig>, Failure> {
    let name = superblock.identity.iqn.clone();
    let identity = DeviceIdentity {
        vendor: padded(&config.target.vendor),
        product: padded(&config.target.product),
        revision: padded(&config.target.revision),
        serial: superblock.identity.serial.clone(),
        naa: superblock.identity.naa,
    };
    // In a pair the other disk counts as well, and both nodes must say the same.
    let volatile_cache = volatile_cache || config.replication.is_some();
    let unsuitable = |what: String| {
        Failure::usage(
            format!("the target {name} cannot be shown to initiators: {what}"),
            "correct section [target]",
        )
    };
    // What is configured, not what the disks have, so that both nodes report the same.
    let geometry = superblock.layout.geometry;
    let physical = (config.target.physical_block_size.trailing_zeros() as u8).max(geometry.block_shift);
    let mut unit = LogicalUnit::new(identity, geometry, physical, volatile_cache)
        .map_err(|error| unsuitable(error.to_string()))?;
    unit.serial_form = config.target.serial_form;
    unit.provisioning = config.target.provisioning;
    unit.read_only = config.target.read_only;
    let port = port(config, node, way, &name);
    let group = port.portal_group_tag;
    let peer = config.peer_of(node).filter(|_| way != Way::Service);
    let scsi = Target::new(port, vec![(LUNS[0], unit)]).map_err(|error| unsuitable(format!("{error:?}")))?;
    let own = if way == Way::Service { &config.target.portals } else { &node.portals };
    let everywhere = own.iter().any(|portal| portal.ip().is_unspecified());
    let portals = match everywhere {
        // Which of this node's addresses a client can reach, only the client's own connection tells.
        true => Vec::new(),
        false => texts(own),
    };
    Ok(Arc::new(TargetConfig {
        name,
        alias: config.volume.name.clone(),
        portals,
        portal_group_tag: group,
        peer_portals: peer.map(|peer| (texts(&peer.portals), group_of(peer))),
        access: access::open(&config.target.access, &scsi)?,
        limits: config.target.limits,
        caps: config.target.caps,
        scsi,
    }))
}

fn group_of(node: &NodeConfig) -> u16 {
    PORTAL_GROUP + u16::from(node.id.0)
}

/// The names of a port, the same wherever it is served.
fn port(config: &Config, node: &NodeConfig, way: Way, name: &str) -> TargetPort {
    let group = match (way, config.target.paths) {
        (Way::Service, Paths::Both) => PORTAL_GROUP_BESIDE,
        (Way::Service, _) => PORTAL_GROUP,
        (Way::OwnPortals | Way::PeersPortals, _) => group_of(node),
    };
    let stand_in = match way {
        Way::PeersPortals => StandIn::ThisPort,
        _ if config.stands_in() => StandIn::Here,
        _ => StandIn::Never,
    };
    let peer = config.peer_of(node).filter(|_| way != Way::Service).map(group_of);
    TargetPort {
        target_name: name.to_owned(),
        portal_group_tag: group,
        relative_id: group,
        target_port_group: group,
        peer: peer.map(|group| PeerPort { relative_id: group, target_port_group: group, stand_in }),
    }
}

fn texts(portals: &[SocketAddr]) -> Vec<String> {
    portals.iter().map(ToString::to_string).collect()
}

/// Extents that every lane keeps hot.
pub fn hot_extents_per_lane(layout: &Layout) -> usize {
    let Geometry { lanes, .. } = layout.geometry;
    let hot = (layout.geometry.extents() / HOT_PART).min(HOT_EXTENTS_MAX);
    (hot / u32::from(lanes)).max(HOT_EXTENTS_PER_LANE_MIN) as usize
}

/// The way to the peer. Both addresses are there when there is replication: the configuration has checked it.
pub fn link(config: &Config, node: &NodeConfig, secret: &Secret) -> Result<LinkPlan, Failure> {
    let replication = config.replication.as_ref().expect("a secret belongs to replication");
    let peer = config.peer_of(node).expect("replication has two nodes");
    let address = |node: &NodeConfig| node.replication_address.expect("replication has addresses");
    let key = LinkKey::new(secret.bytes())
        .map_err(|error| Failure::usage(error.to_string(), "make a longer secret for both nodes"))?;
    Ok(LinkPlan { key, local: address(node), peer: address(peer), peer_timeout: replication.peer_timeout })
}

/// CPUs in the engine's terms.
pub fn cpus(node: &NodeConfig) -> Vec<usize> {
    node.cpus.iter().map(|cpu| usize::from(*cpu)).collect()
}

/// ASCII, padded with spaces; the configuration has checked the length.
fn padded<const N: usize>(text: &str) -> [u8; N] {
    let mut field = [b' '; N];
    field[..text.len()].copy_from_slice(text.as_bytes());
    field
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_hot_set_is_a_part_of_a_small_volume_and_bounded_on_a_large_one() {
        let hot = |bytes: u64, lanes: u16| {
            let layout = Layout::internal(bytes, 9, lanes).expect("it fits");
            hot_extents_per_lane(&layout) * usize::from(lanes)
        };
        assert_eq!(hot(64 << 20, 16), 64, "at least a few for each lane");
        assert_eq!(hot(4 << 30, 16), 256);
        assert_eq!(hot(1 << 40, 16), 2048);
    }

    #[test]
    fn texts_are_padded_with_spaces() {
        assert_eq!(&padded::<8>("TWINLUN"), b"TWINLUN ");
        assert_eq!(&padded::<4>("1"), b"1   ");
    }
}
