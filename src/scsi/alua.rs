//! Asymmetric logical unit access (SPC-4 §5.15): which of the two nodes' target port groups is the better way.
//!
//! Each node is one target port group with one port. The node that leads is *active/optimized*; the other forwards to it
//! and is *active/non-optimized*, so every path works all the time. States change implicitly, when the nodes change
//! places; SET TARGET PORT GROUPS is not offered, because who leads is not an initiator's decision (and an initiator
//! that is told so uses whatever path it likes).

use alloc::vec::Vec;

use super::data_in::{DataIn, set_u32_length, truncate};
use super::sense::SenseData;
use super::target::TargetPort;

/// The other node's port, where initiators are at both nodes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct PeerPort {
    /// RELATIVE TARGET PORT IDENTIFIER, 1..=65535, not that of this node's port.
    pub relative_id: u16,
    /// TARGET PORT GROUP, not that of this node's port.
    pub target_port_group: u16,
    pub stand_in: StandIn,
}

/// Does a node serve at the port of the other one while that is dead?
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub enum StandIn {
    /// A dead node's port is unavailable.
    #[default]
    Never,
    /// It is served here as well.
    Here,
    /// This is such a port: the dead node's, whose addresses have come here. Its [`PeerPort`] is this node's own.
    ThisPort,
}

/// Who leads, as initiators at this node see it.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub enum Leader {
    /// This node. `peer`: the other one is there too and forwards.
    Here { peer: bool },
    /// The other node; this one forwards.
    There,
    /// The two are changing places.
    #[default]
    Between,
}

/// ASYMMETRIC ACCESS STATE (SPC-4 table 37).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum AccessState {
    Optimized = 0x0,
    NonOptimized = 0x1,
    Unavailable = 0x3,
    Transitioning = 0xF,
}

/// TPGS of the standard INQUIRY data: implicit changes only.
pub(super) const TPGS_IMPLICIT: u8 = 0x10;
/// T_SUP, U_SUP, AN_SUP, AO_SUP: the states that are ever reported.
const SUPPORTED: u8 = 0x8B;
/// STATUS CODE: changed by itself.
const IMPLICIT_CHANGE: u8 = 0x02;
/// IMPLICIT TRANSITION TIME, seconds: how long `Transitioning` may be seen.
const TRANSITION_SECONDS: u8 = 30;

impl Leader {
    /// States of this node's group and of the other's.
    fn states(self, stand_in: StandIn) -> [AccessState; 2] {
        match self {
            // As before the node died: an initiator has nothing to change when it is back.
            Self::Here { peer: false } if stand_in != StandIn::Never => {
                [AccessState::Optimized, AccessState::NonOptimized]
            }
            Self::Here { peer: true } => [AccessState::Optimized, AccessState::NonOptimized],
            Self::Here { peer: false } => [AccessState::Optimized, AccessState::Unavailable],
            Self::There => [AccessState::NonOptimized, AccessState::Optimized],
            Self::Between => [AccessState::Transitioning; 2],
        }
    }
}

/// REPORT TARGET PORT GROUPS (SPC-4 §6.36). `format`: PARAMETER DATA FORMAT, 0 (length only) or 1 (extended header).
///
/// # Errors
/// 24/00 for another format.
pub(super) fn report(
    port: &TargetPort,
    leader: Leader,
    format: u8,
    allocation: u32,
    data_in: &mut Vec<u8>,
) -> Result<(), SenseData> {
    let header: &[u8] = match format {
        0 => &[0; 4],
        1 => &[0, 0, 0, 0, 0x10, TRANSITION_SECONDS, 0, 0],
        _ => return Err(SenseData::invalid_cdb_field(1)),
    };
    data_in.extend_from_slice(header);
    let stand_in = port.peer.map_or(StandIn::Never, |peer| peer.stand_in);
    let [mut own, mut other] = leader.states(stand_in);
    if stand_in == StandIn::ThisPort {
        core::mem::swap(&mut own, &mut other);
    }
    // A target that is at one node only has one group, which is always the best.
    let own = if port.peer.is_some() { own } else { AccessState::Optimized };
    let mut groups = [Some((port.target_port_group, port.relative_id, own)), None];
    groups[1] = port.peer.map(|peer| (peer.target_port_group, peer.relative_id, other));
    // The same order at both nodes.
    groups.sort_by_key(|group| group.map_or(u32::MAX, |(number, ..)| u32::from(number)));
    for (group, relative_id, state) in groups.into_iter().flatten() {
        data_in.extend_from_slice(&[state as u8, SUPPORTED]);
        data_in.put_u16(group);
        data_in.extend_from_slice(&[0, IMPLICIT_CHANGE, 0, 1, 0, 0]);
        data_in.put_u16(relative_id);
    }
    set_u32_length(data_in, 0, 4);
    truncate(data_in, allocation);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn port(group: u16, peer: Option<u16>) -> TargetPort {
        TargetPort {
            target_name: "iqn.2026-11.example:t".into(),
            portal_group_tag: group,
            relative_id: group,
            target_port_group: group,
            peer: peer.map(|group| PeerPort {
                relative_id: group,
                target_port_group: group,
                stand_in: StandIn::Never,
            }),
        }
    }

    fn groups(port: &TargetPort, leader: Leader) -> Vec<(u16, u8, u16)> {
        let mut data = Vec::new();
        report(port, leader, 0, u32::MAX, &mut data).expect("a good format");
        assert_eq!(u32::from_be_bytes([data[0], data[1], data[2], data[3]]) as usize, data.len() - 4);
        let pair = |at: &[u8]| u16::from_be_bytes([at[0], at[1]]);
        data[4..].chunks(12).map(|group| (pair(&group[2..]), group[0], pair(&group[10..]))).collect()
    }

    #[test]
    fn both_nodes_report_the_same_groups() {
        let (a, b) = (port(1, Some(2)), port(2, Some(1)));
        assert_eq!(groups(&a, Leader::Here { peer: true }), [(1, 0x0, 1), (2, 0x1, 2)]);
        assert_eq!(groups(&b, Leader::There), [(1, 0x0, 1), (2, 0x1, 2)]);
        assert_eq!(groups(&b, Leader::Here { peer: false }), [(1, 0x3, 1), (2, 0x0, 2)]);
        assert_eq!(groups(&a, Leader::Between), [(1, 0xF, 1), (2, 0xF, 2)]);
    }

    #[test]
    fn a_dead_nodes_port_keeps_its_names_at_the_node_that_stands_in() {
        let with = |own, other, stand_in| {
            let mut port = port(own, Some(other));
            port.peer.as_mut().expect("there is one").stand_in = stand_in;
            port
        };
        // Node 2 leads, node 1 is dead: through either port of node 2 the same is seen.
        let (own, substitute) = (with(2, 1, StandIn::Here), with(1, 2, StandIn::ThisPort));
        for leader in [Leader::Here { peer: false }, Leader::Here { peer: true }] {
            for port in [&own, &substitute] {
                assert_eq!(groups(port, leader), [(1, 0x1, 1), (2, 0x0, 2)]);
            }
        }
        assert_eq!(groups(&substitute, Leader::There), [(1, 0x0, 1), (2, 0x1, 2)]);
    }

    #[test]
    fn a_target_at_one_address_has_one_group() {
        assert_eq!(groups(&port(1, None), Leader::Between), [(1, 0x0, 1)]);
    }

    #[test]
    fn the_extended_header_tells_the_transition_time_and_other_formats_are_refused() {
        let mut data = Vec::new();
        report(&port(1, Some(2)), Leader::There, 1, u32::MAX, &mut data).expect("a good format");
        assert_eq!((data.len(), data[3], data[4], data[5]), (8 + 24, 28, 0x10, TRANSITION_SECONDS));
        data.clear();
        assert_eq!(
            report(&port(1, None), Leader::There, 2, 8, &mut data),
            Err(SenseData::invalid_cdb_field(1))
        );
        data.clear();
        report(&port(1, Some(2)), Leader::There, 0, 6, &mut data).expect("a good format");
        assert_eq!(data.len(), 6, "cut to the allocation length");
    }
}
