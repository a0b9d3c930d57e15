//! What a logical unit remembers, at both nodes: reservations, mode parameters, resets. To everybody else it is a
//! [`UnitState`](crate::block::UnitState): bytes with a version, changed by compare-and-swap, of which every new version
//! comes to every session. Here is what the bytes mean.
//!
//! A session compares the memory it knew with the new one to learn what its initiator must hear and which of its tasks
//! end ([`Nexus::set_memory`](super::Nexus::set_memory)). So whatever happens is a difference, and the author is kept,
//! as who does something hears nothing of it.
//!
//! Layout, big-endian: format (1), current and saved mode parameters (1 each), five counters of resets (4 each), the
//! author and the holder of RESERVE (a nexus each), PRGENERATION (4), the count of CLEARs (4), the type of the reservation
//! or 0 (1), the number of registrations (2), and for each its nexus, flags (1) and key (8). A nexus: length of the name
//! (1; 0: nobody), the name, 1 and the ISID or 0 (1 or 7), the relative target port (2).

use alloc::borrow::ToOwned;
use alloc::vec::Vec;
use core::fmt;

use super::mode::ModeValues;
use super::reservation::transport_id::is_name;
use super::reservation::{InitiatorPort, Kind, NexusId, REGISTRATIONS_MAX, Registration, Reservations};
use crate::block::UNIT_BYTES_MAX;
use crate::wire::{Reader, Short};

/// Version of the layout.
const FORMAT: u8 = 1;
const HOLDER: u8 = 0x01;
const ALL_PORTS: u8 = 0x02;

/// What is reset by an initiator's task management.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ResetKind {
    /// CLEAR TASK SET.
    TaskSet,
    /// LOGICAL UNIT RESET.
    Unit,
    /// TARGET WARM RESET.
    Target,
    /// TARGET COLD RESET: sessions end, too.
    TargetAndSessions,
}

/// How often each kind of thing that ends tasks has happened.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(super) struct Resets {
    pub task_set: u32,
    pub unit: u32,
    pub target: u32,
    pub sessions: u32,
    /// PREEMPT AND ABORT.
    pub preempted: u32,
}

/// See the module.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct UnitMemory {
    pub(super) current: ModeValues,
    pub(super) saved: ModeValues,
    pub(super) resets: Resets,
    /// Whose command made this state; `None`: the pair itself.
    pub(super) author: Option<NexusId>,
    /// Who has the unit by RESERVE.
    pub(super) reserved: Option<NexusId>,
    pub(super) reservations: Reservations,
}

/// More registrations, or longer names, than [`UNIT_BYTES_MAX`] has room for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct TooLarge;

/// Bytes that are no unit state.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum BadUnitMemory {
    /// Written by a program that knows more.
    Format(u8),
    /// The bytes end too early, or too late.
    Length,
    /// A name, type or number that cannot be.
    Value,
}

impl From<Short> for BadUnitMemory {
    fn from(_: Short) -> Self {
        Self::Length
    }
}

impl UnitMemory {
    /// Reads what [`encode`](Self::encode) wrote. No bytes at all are the state of a new volume.
    ///
    /// # Errors
    /// Bytes that no state encodes to.
    pub fn decode(bytes: &[u8]) -> Result<Self, BadUnitMemory> {
        if bytes.is_empty() {
            return Ok(Self::default());
        }
        let mut reader = Reader::new(bytes);
        let format = reader.u8()?;
        if format != FORMAT {
            return Err(BadUnitMemory::Format(format));
        }
        let current = ModeValues::from_byte(reader.u8()?).ok_or(BadUnitMemory::Value)?;
        let saved = ModeValues::from_byte(reader.u8()?).ok_or(BadUnitMemory::Value)?;
        let resets = Resets {
            task_set: reader.u32_be()?,
            unit: reader.u32_be()?,
            target: reader.u32_be()?,
            sessions: reader.u32_be()?,
            preempted: reader.u32_be()?,
        };
        let author = read_nexus(&mut reader)?;
        let reserved = read_nexus(&mut reader)?;
        let reservations = read_reservations(&mut reader)?;
        if !reader.is_empty() {
            return Err(BadUnitMemory::Length);
        }
        Ok(Self { current, saved, resets, author, reserved, reservations })
    }

    /// Replaces `out` by the bytes of the state.
    ///
    /// # Errors
    /// [`TooLarge`]; `out` is empty then.
    pub fn encode(&self, out: &mut Vec<u8>) -> Result<(), TooLarge> {
        out.clear();
        out.extend_from_slice(&[FORMAT, self.current.to_byte(), self.saved.to_byte()]);
        let Resets { task_set, unit, target, sessions, preempted } = self.resets;
        for counter in [task_set, unit, target, sessions, preempted] {
            out.extend_from_slice(&counter.to_be_bytes());
        }
        write_nexus(self.author.as_ref(), out);
        write_nexus(self.reserved.as_ref(), out);
        let Reservations { generation, registrations, kind, cleared } = &self.reservations;
        out.extend_from_slice(&generation.to_be_bytes());
        out.extend_from_slice(&cleared.to_be_bytes());
        out.push(kind.map_or(0, |kind| kind as u8));
        let count = u16::try_from(registrations.len()).map_err(|_| TooLarge);
        out.extend_from_slice(&count?.to_be_bytes());
        for Registration { nexus, key, all_ports, holder } in registrations {
            write_nexus(Some(nexus), out);
            out.push(if *holder { HOLDER } else { 0 } | if *all_ports { ALL_PORTS } else { 0 });
            out.extend_from_slice(&key.to_be_bytes());
        }
        if out.len() > UNIT_BYTES_MAX {
            out.clear();
            return Err(TooLarge);
        }
        Ok(())
    }

    /// The state after a reset that `by` asked for. All but CLEAR TASK SET end what RESERVE took and bring the saved mode
    /// parameters back; persistent reservations stay.
    pub fn after_reset(&self, kind: ResetKind, by: &NexusId) -> Self {
        let mut next = Self { author: Some(by.clone()), ..self.clone() };
        let counter = match kind {
            ResetKind::TaskSet => &mut next.resets.task_set,
            ResetKind::Unit => &mut next.resets.unit,
            ResetKind::Target => &mut next.resets.target,
            ResetKind::TargetAndSessions => &mut next.resets.sessions,
        };
        *counter = counter.wrapping_add(1);
        if kind != ResetKind::TaskSet {
            next.reserved = None;
            next.current = next.saved;
        }
        next
    }

    /// Who has the unit by RESERVE.
    pub fn reserved(&self) -> Option<&NexusId> {
        self.reserved.as_ref()
    }

    /// The state after the nexus that has the unit by RESERVE is lost. `by`: that nexus, or `None` when the pair saw it.
    pub fn after_nexus_loss(&self, by: Option<&NexusId>) -> Self {
        Self { author: by.cloned(), reserved: None, ..self.clone() }
    }
}

fn read_nexus(reader: &mut Reader<'_>) -> Result<Option<NexusId>, BadUnitMemory> {
    let length = usize::from(reader.u8()?);
    if length == 0 {
        return Ok(None);
    }
    let name = core::str::from_utf8(reader.bytes(length)?).map_err(|_| BadUnitMemory::Value)?;
    if !is_name(name) {
        return Err(BadUnitMemory::Value);
    }
    let isid = match reader.u8()? {
        0 => None,
        1 => Some(reader.array()?),
        _ => return Err(BadUnitMemory::Value),
    };
    let port = reader.u16_be()?;
    Ok(Some(NexusId { initiator: InitiatorPort { name: name.to_owned(), isid }, port }))
}

fn write_nexus(nexus: Option<&NexusId>, out: &mut Vec<u8>) {
    let Some(NexusId { initiator: InitiatorPort { name, isid }, port }) = nexus else {
        return out.push(0);
    };
    out.push(u8::try_from(name.len()).expect("iSCSI names are at most 223 bytes long"));
    out.extend_from_slice(name.as_bytes());
    out.push(u8::from(isid.is_some()));
    out.extend_from_slice(isid.as_ref().map_or(&[], |isid| &isid[..]));
    out.extend_from_slice(&port.to_be_bytes());
}

fn read_reservations(reader: &mut Reader<'_>) -> Result<Reservations, BadUnitMemory> {
    let generation = reader.u32_be()?;
    let cleared = reader.u32_be()?;
    let kind = match reader.u8()? {
        0 => None,
        code => Some(Kind::from_code(code).ok_or(BadUnitMemory::Value)?),
    };
    let count = usize::from(reader.u16_be()?);
    if count > REGISTRATIONS_MAX {
        return Err(BadUnitMemory::Value);
    }
    let mut registrations = Vec::new();
    for _ in 0..count {
        let nexus = read_nexus(reader)?.ok_or(BadUnitMemory::Value)?;
        let flags = reader.u8()?;
        if flags & !(HOLDER | ALL_PORTS) != 0 {
            return Err(BadUnitMemory::Value);
        }
        let key = reader.u64_be()?;
        let (holder, all_ports) = (flags & HOLDER != 0, flags & ALL_PORTS != 0);
        registrations.push(Registration { nexus, key, all_ports, holder });
    }
    let reservations = Reservations { generation, registrations, kind, cleared };
    if reservations.is_sound() { Ok(reservations) } else { Err(BadUnitMemory::Value) }
}

impl fmt::Display for BadUnitMemory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Format(format) => {
                write!(f, "the unit state has format {format}; this program knows {FORMAT}")
            }
            Self::Length => f.write_str("the unit state is cut short or too long"),
            Self::Value => f.write_str("the unit state holds a value that cannot be"),
        }
    }
}

impl core::error::Error for BadUnitMemory {}
