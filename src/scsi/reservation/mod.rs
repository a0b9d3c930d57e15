//! Persistent reservations (SPC-4 §5.13, §6.15, §6.16): who is registered, who holds the logical unit, and what others
//! may do meanwhile. RESERVE and RELEASE of SPC-2 are in [`legacy`].
//!
//! A registration belongs to an I_T nexus: the initiator's name and ISID, and the relative target port. All of it is part
//! of the [`UnitMemory`](super::UnitMemory), which both nodes keep with the data; so registrations always persist through
//! power loss, whatever APTPL says, and PRGENERATION never goes back.
//!
//! Invariants: no key is zero; no nexus is registered twice; a reservation of one holder has exactly one, and one of all
//! registrants has at least one registration.
//!
//! Absent on purpose: REPLACE LOST RESERVATION, as no reservation is ever lost without a trace.

pub(super) mod conflict;
pub(super) mod legacy;
pub(super) mod out;
pub(super) mod report;
pub(super) mod transport_id;

use alloc::string::String;
use alloc::vec::Vec;

use super::sense::SenseData;

/// Most registrations of a logical unit, over all initiators and ports.
pub const REGISTRATIONS_MAX: usize = 512;

/// An initiator's end of a nexus (RFC 7143 §4.4.3).
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct InitiatorPort {
    /// iSCSI name, in lower case, 1..=223 bytes.
    pub name: String,
    /// `None`: every port of the initiator, as a TransportID of format 00b says. Never of a nexus.
    pub isid: Option<[u8; 6]>,
}

/// An I_T nexus.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct NexusId {
    pub initiator: InitiatorPort,
    /// RELATIVE TARGET PORT IDENTIFIER.
    pub port: u16,
}

impl NexusId {
    /// Does a registration or reservation of `self` belong to the nexus `other`?
    pub(super) fn covers(&self, other: &Self) -> bool {
        self.port == other.port
            && self.initiator.name == other.initiator.name
            && (self.initiator.isid.is_none() || self.initiator.isid == other.initiator.isid)
    }
}

/// The target ports of the pair that a registration may be for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Ports {
    pub own: u16,
    pub peer: Option<u16>,
}

impl Ports {
    fn all(self) -> impl Iterator<Item = u16> {
        core::iter::once(self.own).chain(self.peer)
    }

    fn has(self, port: u16) -> bool {
        self.own == port || self.peer == Some(port)
    }
}

/// TYPE of a reservation (SPC-4 table 65).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub enum Kind {
    WriteExclusive = 0x1,
    ExclusiveAccess = 0x3,
    WriteExclusiveRegistrantsOnly = 0x5,
    ExclusiveAccessRegistrantsOnly = 0x6,
    WriteExclusiveAllRegistrants = 0x7,
    ExclusiveAccessAllRegistrants = 0x8,
}

impl Kind {
    pub(super) const ALL: [Self; 6] = [
        Self::WriteExclusive,
        Self::ExclusiveAccess,
        Self::WriteExclusiveRegistrantsOnly,
        Self::ExclusiveAccessRegistrantsOnly,
        Self::WriteExclusiveAllRegistrants,
        Self::ExclusiveAccessAllRegistrants,
    ];

    pub(super) fn from_code(code: u8) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| *kind as u8 == code)
    }

    /// Every registrant holds it.
    pub(super) fn is_of_all(self) -> bool {
        matches!(self, Self::WriteExclusiveAllRegistrants | Self::ExclusiveAccessAllRegistrants)
    }

    /// Every registrant may do what the holder may.
    pub(super) fn lets_registrants(self) -> bool {
        !matches!(self, Self::WriteExclusive | Self::ExclusiveAccess)
    }

    /// Reads conflict, too.
    pub(super) fn excludes_reads(self) -> bool {
        matches!(
            self,
            Self::ExclusiveAccess
                | Self::ExclusiveAccessRegistrantsOnly
                | Self::ExclusiveAccessAllRegistrants
        )
    }
}

/// The key of a nexus.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Registration {
    pub nexus: NexusId,
    /// Not 0.
    pub key: u64,
    /// Made with ALL_TG_PT.
    pub all_ports: bool,
    /// Holds the reservation. Never set while all registrants do.
    pub holder: bool,
}

/// Registrations and the reservation of a logical unit.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(super) struct Reservations {
    /// PRGENERATION.
    pub generation: u32,
    pub registrations: Vec<Registration>,
    pub kind: Option<Kind>,
    /// Counts CLEAR, so that those who lost their registration learn how.
    pub cleared: u32,
}

/// Why a service action is not carried out.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Refusal {
    /// RESERVATION CONFLICT.
    Conflict,
    Check(SenseData),
}

impl From<SenseData> for Refusal {
    fn from(sense: SenseData) -> Self {
        Self::Check(sense)
    }
}

impl Reservations {
    /// The registration of a nexus: its own, else one for all ports of its initiator.
    pub fn find(&self, nexus: &NexusId) -> Option<usize> {
        let own = self.registrations.iter().position(|registration| registration.nexus == *nexus);
        own.or_else(|| self.registrations.iter().position(|registration| registration.nexus.covers(nexus)))
    }

    /// Is this registration, which exists, a holder of the reservation?
    pub fn holds(&self, index: usize) -> bool {
        self.kind.is_some_and(|kind| kind.is_of_all() || self.registrations[index].holder)
    }

    /// The key that READ RESERVATION shows: 0 where all registrants hold it.
    pub fn holder_key(&self) -> u64 {
        self.registrations
            .iter()
            .find(|registration| registration.holder)
            .map_or(0, |registration| registration.key)
    }

    /// Removes registrations. A reservation that loses its holder, or all of them, ends.
    fn remove(&mut self, gone: impl Fn(&Registration) -> bool) {
        self.registrations.retain(|registration| !gone(registration));
        let held = match self.kind {
            None => return,
            Some(kind) if kind.is_of_all() => !self.registrations.is_empty(),
            Some(_) => self.registrations.iter().any(|registration| registration.holder),
        };
        if !held {
            self.kind = None;
        }
    }

    fn release(&mut self) {
        self.kind = None;
        for registration in &mut self.registrations {
            registration.holder = false;
        }
    }

    /// Gives the reservation to a registration that exists.
    fn hold(&mut self, index: usize, kind: Kind) {
        self.release();
        self.kind = Some(kind);
        self.registrations[index].holder = !kind.is_of_all();
    }

    /// Are the invariants of the module true?
    pub fn is_sound(&self) -> bool {
        let all = &self.registrations;
        let holders = all.iter().filter(|registration| registration.holder).count();
        let held = match self.kind {
            None => holders == 0,
            Some(kind) if kind.is_of_all() => holders == 0 && !all.is_empty(),
            Some(_) => holders == 1,
        };
        let twice = |at: usize| all[..at].iter().any(|registration| registration.nexus == all[at].nexus);
        held && all.len() <= REGISTRATIONS_MAX
            && all.iter().all(|registration| registration.key != 0)
            && !(0..all.len()).any(twice)
    }
}
