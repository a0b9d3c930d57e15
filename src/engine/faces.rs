//! The target as it is seen at some addresses: beside a node's own, a service address, or those of the other node while that
//! is dead. Their connections end when the address leaves, so that what waits in them is not done here beside what is done
//! there (S4).

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use crate::iscsi::TargetConfig;
use crate::scsi::Leader;

/// One such view. The addresses need not be here yet.
#[derive(Clone, Debug)]
pub struct Face {
    pub portals: Vec<SocketAddr>,
    pub target: Arc<TargetConfig>,
    /// Only while this node leads.
    pub with_leader: bool,
}

fn leads(leader: Leader) -> bool {
    matches!(leader, Leader::Here { .. })
}

/// What is seen at a local address; `own`: at the node's own. `None`: at present that address is not this node's.
pub fn face_at(
    faces: &[Face],
    own: &Arc<TargetConfig>,
    local: IpAddr,
    leader: Leader,
) -> Option<Arc<TargetConfig>> {
    let face = faces.iter().find(|face| face.portals.iter().any(|at| at.ip() == local));
    match face {
        None => Some(own.clone()),
        Some(face) if face.with_leader && !leads(leader) => None,
        Some(face) => Some(face.target.clone()),
    }
}

/// Addresses that are not this node's while `leader` leads.
pub fn left(faces: &[Face], leader: Leader) -> Vec<IpAddr> {
    let gone = faces.iter().filter(|face| face.with_leader && !leads(leader));
    gone.flat_map(|face| &face.portals).map(SocketAddr::ip).collect()
}
