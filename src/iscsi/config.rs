//! What every connection of a target shares: names, portals, the logical units.

use alloc::string::String;
use alloc::vec::Vec;

use core::net::IpAddr;

use super::access::{Access, Grant};
use super::chap::Entropy;
use super::limits::{Caps, Limits};
use crate::scsi::Target;

/// A target: one iSCSI name with its logical units.
#[derive(Debug)]
pub struct TargetConfig {
    /// iSCSI name of the target.
    pub name: String,
    /// TargetAlias; empty: none is declared.
    pub alias: String,
    /// Addresses that SendTargets returns, `ip:port` (`[ip6]:port`). Empty: the address the connection came in by.
    pub portals: Vec<String>,
    pub portal_group_tag: u16,
    /// The other node's portals and portal group tag, where initiators are at both nodes: discovery at either names all.
    pub peer_portals: Option<(Vec<String>, u16)>,
    pub access: Access,
    pub limits: Limits,
    pub caps: Caps,
    /// The logical units. A nexus is made for every normal session.
    pub scsi: Target,
}

impl TargetConfig {
    /// The logical units that a session sees.
    pub(super) fn target(&self, grant: Grant) -> &Target {
        self.access.view(grant).map_or(&self.scsi, |view| &view.scsi)
    }
}

/// What an initiator finds here.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Service {
    Open,
    /// Logins are refused with "service unavailable" (0301h), so that the initiator tries again.
    Closed,
    /// Logins to the target are sent to this address, `ip:port` (0101h). Discovery goes on.
    Moved(String),
}

/// What the driver knows of a connection that it has accepted.
#[derive(Clone, Debug)]
pub struct Arrival {
    /// The local address, `ip:port` (`[ip6]:port`), as SendTargets names it when the configuration names none.
    pub portal: String,
    pub peer: IpAddr,
    /// Fresh random bytes.
    pub entropy: Entropy,
    pub service: Service,
}
