//! PERSISTENT RESERVE OUT (SPC-4 §5.13.5 to §5.13.11, §6.16). Works on a copy of the reservations: after an error the
//! copy is thrown away.

use alloc::vec::Vec;

use super::super::sense::{AdditionalSense, SenseData, SenseKey};
use super::{
    InitiatorPort, Kind, NexusId, Ports, REGISTRATIONS_MAX, Refusal, Registration, Reservations, transport_id,
};
use crate::wire::{Reader, Short};

/// Service actions.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub enum OutAction {
    Register = 0x00,
    Reserve = 0x01,
    Release = 0x02,
    Clear = 0x03,
    Preempt = 0x04,
    PreemptAndAbort = 0x05,
    RegisterAndIgnoreExistingKey = 0x06,
    RegisterAndMove = 0x07,
}

/// The CDB of a PERSISTENT RESERVE OUT.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ReserveOut {
    pub action: OutAction,
    /// SCOPE, 0..=15.
    pub scope: u8,
    /// TYPE, 0..=15.
    pub kind: u8,
    pub parameter_bytes: u32,
}

/// Bytes of the basic parameter list.
const BASIC_BYTES: u32 = 24;
/// No room for another registration (SPC-4 §5.13.7).
pub(in super::super) const INSUFFICIENT_REGISTRATION_RESOURCES: SenseData =
    SenseData::new(SenseKey::IllegalRequest, AdditionalSense::INSUFFICIENT_REGISTRATION_RESOURCES);
const INVALID_RELEASE: SenseData =
    SenseData::new(SenseKey::IllegalRequest, AdditionalSense::INVALID_RELEASE_OF_PERSISTENT_RESERVATION);

/// The basic parameter list.
struct List<'a> {
    /// RESERVATION KEY.
    key: u64,
    /// SERVICE ACTION RESERVATION KEY.
    action_key: u64,
    /// Bytes 16 to 23.
    rest: [u8; 8],
    /// From byte 24 on.
    more: &'a [u8],
}

impl List<'_> {
    const SPEC_I_PT: u8 = 0x08;
    const ALL_TG_PT: u8 = 0x04;

    fn names_initiators(&self) -> bool {
        self.rest[4] & Self::SPEC_I_PT != 0
    }

    fn all_ports(&self) -> bool {
        self.rest[4] & Self::ALL_TG_PT != 0
    }
}

impl ReserveOut {
    /// Can a list of this length be right?
    ///
    /// # Errors
    /// 1A/00.
    pub(in super::super) fn begin(&self) -> Result<u32, SenseData> {
        if self.parameter_bytes < BASIC_BYTES {
            return Err(SenseData::PARAMETER_LIST_LENGTH_ERROR);
        }
        Ok(self.parameter_bytes)
    }

    fn read<'a>(&self, data: &'a [u8]) -> Result<List<'a>, SenseData> {
        const SHORT: SenseData = SenseData::PARAMETER_LIST_LENGTH_ERROR;
        let data = data.get(..self.parameter_bytes as usize).ok_or(SHORT)?;
        let mut reader = Reader::new(data);
        let mut basic =
            || Ok::<_, Short>((reader.u64_be()?, reader.u64_be()?, reader.array()?, reader.rest()));
        let (key, action_key, rest, more) = basic().map_err(|Short| SHORT)?;
        let list = List { key, action_key, rest, more };
        if self.action == OutAction::RegisterAndMove {
            return Ok(list);
        }
        // SPEC_I_PT goes with REGISTER and brings more bytes; without it there are none (SPC-4 §6.16.3).
        if list.names_initiators() && self.action != OutAction::Register {
            return Err(SenseData::invalid_parameter(20));
        }
        if list.names_initiators() == more.is_empty() {
            return Err(SHORT);
        }
        Ok(list)
    }

    /// SCOPE and TYPE of a reservation.
    fn wanted_kind(&self) -> Result<Kind, SenseData> {
        if self.scope != 0 {
            return Err(SenseData::invalid_cdb_bit(2, 7));
        }
        Kind::from_code(self.kind).ok_or(SenseData::invalid_cdb_bit(2, 3))
    }

    /// Carries it out. `false`: there was nothing to change.
    pub(in super::super) fn apply(
        &self,
        on: &mut Reservations,
        who: &NexusId,
        ports: Ports,
        data: &[u8],
    ) -> Result<bool, Refusal> {
        let list = self.read(data)?;
        let own = on.find(who);
        let changed = match self.action {
            OutAction::Register | OutAction::RegisterAndIgnoreExistingKey => {
                let checked = self.action == OutAction::Register;
                return register(on, who, own, ports, &list, checked);
            }
            _ => {
                let own =
                    own.filter(|own| on.registrations[*own].key == list.key).ok_or(Refusal::Conflict)?;
                match self.action {
                    OutAction::Reserve => reserve(on, own, self.wanted_kind()?)?,
                    OutAction::Release => release(on, own, self.wanted_kind()?)?,
                    OutAction::Clear => clear(on),
                    OutAction::RegisterAndMove => register_and_move(on, who, own, ports, &list)?,
                    _ => preempt(on, own, self.wanted_kind()?, list.action_key)?,
                }
            }
        };
        if changed && !matches!(self.action, OutAction::Reserve | OutAction::Release) {
            on.generation = on.generation.wrapping_add(1);
        }
        Ok(changed)
    }
}

/// REGISTER, and with `checked` unset REGISTER AND IGNORE EXISTING KEY (SPC-4 tables 48 and 49).
fn register(
    on: &mut Reservations,
    who: &NexusId,
    own: Option<usize>,
    ports: Ports,
    list: &List<'_>,
    checked: bool,
) -> Result<bool, Refusal> {
    // A nexus without a registration has, as it were, key 0.
    let current = own.map_or(0, |own| on.registrations[own].key);
    if checked && list.key != current {
        return Err(Refusal::Conflict);
    }
    if list.names_initiators() && own.is_some() {
        return Err(SenseData::invalid_parameter(20).into());
    }
    let named = if list.names_initiators() { named_initiators(list.more)? } else { Vec::new() };
    if list.action_key == 0 {
        if own.is_none() {
            return Ok(false);
        }
        unregister(on, who, own, list.all_ports());
    } else {
        for port in ports.all().filter(|port| list.all_ports() || *port == ports.own) {
            let nexus = NexusId { port, ..who.clone() };
            set_key(on, &nexus, list.action_key, list.all_ports())?;
            for initiator in &named {
                let nexus = NexusId { initiator: initiator.clone(), port };
                if on.find(&nexus).is_none() {
                    set_key(on, &nexus, list.action_key, list.all_ports())?;
                }
            }
        }
    }
    on.generation = on.generation.wrapping_add(1);
    Ok(true)
}

/// Removes the registration of a nexus, with `all` those of its initiator port at every target port.
fn unregister(on: &mut Reservations, who: &NexusId, own: Option<usize>, all: bool) {
    let own = own.map(|own| on.registrations[own].nexus.clone());
    on.remove(|registration| {
        Some(&registration.nexus) == own.as_ref() || all && registration.nexus.initiator == who.initiator
    });
}

fn set_key(on: &mut Reservations, nexus: &NexusId, key: u64, all_ports: bool) -> Result<(), SenseData> {
    if let Some(index) = on.find(nexus) {
        let registration = &mut on.registrations[index];
        (registration.key, registration.all_ports) = (key, all_ports);
        return Ok(());
    }
    if on.registrations.len() >= REGISTRATIONS_MAX {
        return Err(INSUFFICIENT_REGISTRATION_RESOURCES);
    }
    on.registrations.push(Registration { nexus: nexus.clone(), key, all_ports, holder: false });
    Ok(())
}

/// The TransportIDs behind TRANSPORTID PARAMETER DATA LENGTH, which must be filled by them.
fn named_initiators(more: &[u8]) -> Result<Vec<InitiatorPort>, SenseData> {
    const LENGTH_AT: u16 = 24;
    let (length, mut rest) = more.split_first_chunk::<4>().ok_or(SenseData::PARAMETER_LIST_LENGTH_ERROR)?;
    if u32::from_be_bytes(*length) as usize != rest.len() {
        return Err(SenseData::invalid_parameter(LENGTH_AT));
    }
    let mut named = Vec::new();
    while !rest.is_empty() {
        let at = usize::from(LENGTH_AT) + more.len() - rest.len();
        let (initiator, after) =
            transport_id::decode(rest).map_err(|_| SenseData::invalid_parameter(at as u16))?;
        named.push(initiator);
        rest = after;
    }
    Ok(named)
}

fn reserve(on: &mut Reservations, own: usize, kind: Kind) -> Result<bool, Refusal> {
    match on.kind {
        None => {
            on.hold(own, kind);
            Ok(true)
        }
        // A holder may ask again for what it has.
        Some(held) if held == kind && on.holds(own) => Ok(false),
        Some(_) => Err(Refusal::Conflict),
    }
}

fn release(on: &mut Reservations, own: usize, kind: Kind) -> Result<bool, Refusal> {
    match on.kind {
        Some(held) if on.holds(own) => {
            if held != kind {
                return Err(INVALID_RELEASE.into());
            }
            on.release();
            Ok(true)
        }
        _ => Ok(false),
    }
}

fn clear(on: &mut Reservations) -> bool {
    on.release();
    on.registrations.clear();
    on.cleared = on.cleared.wrapping_add(1);
    true
}

/// PREEMPT and PREEMPT AND ABORT (SPC-4 §5.13.11.2, table 52).
fn preempt(on: &mut Reservations, own: usize, kind: Kind, key: u64) -> Result<bool, Refusal> {
    let of_all = on.kind.is_some_and(Kind::is_of_all);
    if key == 0 && !of_all {
        return Err(SenseData::invalid_parameter(8).into());
    }
    let nexus = on.registrations[own].nexus.clone();
    let takes_over = if of_all {
        key == 0
    } else {
        on.registrations.iter().any(|registration| registration.holder && registration.key == key)
    };
    if takes_over {
        // The reservation passes on; of those with the key only the preempting nexus stays.
        on.release();
        on.remove(|registration| (key == 0 || registration.key == key) && registration.nexus != nexus);
        let own = on.find(&nexus).ok_or(Refusal::Conflict)?;
        on.hold(own, kind);
        return Ok(true);
    }
    if !on.registrations.iter().any(|registration| registration.key == key) {
        return Err(Refusal::Conflict);
    }
    on.remove(|registration| registration.key == key);
    Ok(true)
}

/// REGISTER AND MOVE (SPC-4 §5.13.8): another nexus is registered and gets the reservation.
fn register_and_move(
    on: &mut Reservations,
    who: &NexusId,
    own: usize,
    ports: Ports,
    list: &List<'_>,
) -> Result<bool, Refusal> {
    const UNREG: u8 = 0x02;
    let kind = on.kind.filter(|kind| !kind.is_of_all() && on.holds(own)).ok_or(Refusal::Conflict)?;
    if list.action_key == 0 {
        return Err(SenseData::invalid_parameter(8).into());
    }
    let [_, flags, high, low, length @ ..] = list.rest;
    if u32::from_be_bytes(length) as usize != list.more.len() {
        return Err(SenseData::invalid_parameter(20).into());
    }
    let port = u16::from_be_bytes([high, low]);
    if !ports.has(port) {
        return Err(SenseData::invalid_parameter(18).into());
    }
    let named = transport_id::decode(list.more);
    // A nexus has one initiator port, so format 00b does not name any.
    let named = named.ok().filter(|(initiator, rest)| initiator.isid.is_some() && rest.is_empty());
    let (initiator, _) = named.ok_or(SenseData::invalid_parameter(24))?;
    let nexus = NexusId { initiator, port };
    if nexus == *who || on.registrations[own].nexus.covers(&nexus) {
        return Err(SenseData::invalid_parameter(24).into());
    }
    let from = on.registrations[own].nexus.clone();
    set_key(on, &nexus, list.action_key, false)?;
    let to = on.find(&nexus).ok_or(Refusal::Conflict)?;
    on.hold(to, kind);
    if flags & UNREG != 0 {
        on.remove(|registration| registration.nexus == from);
    }
    Ok(true)
}
