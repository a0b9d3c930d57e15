//! Messages of the control link: how two coordinators meet and what they agree on. Small, fixed layouts,
//! little-endian, one tag byte in front; a message with bytes left over is refused. Those that carry a unit state are as
//! long as it, at most [`UNIT_BYTES_MAX`], and go in one frame like the others.

use alloc::sync::Arc;
use alloc::vec;
use alloc::vec::Vec;

use crate::arbitration::{Epoch, RECORD_BYTES, Record};
use crate::block::{UNIT_BYTES_MAX, UnitState, UnitVersion};
use crate::storage::{DiskFlags, GENERATION_HISTORY, Generations};
use crate::time::Instant;
use crate::units::{Geometry, NodeId};
use crate::wire::{Reader, Short, Writer};

/// What must be copied to the following node before it is in sync.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Copy {
    Nothing,
    /// What either node's bitmap marks.
    Bitmap,
    Everything,
}

/// What a node says of itself when a session begins. Both sides decide from the same two of these.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct PeerState {
    pub node: NodeId,
    pub geometry: Geometry,
    pub generations: Generations,
    pub record: Record,
    pub flags: DiskFlags,
    pub primary: bool,
    /// Blocks this node's bitmap marks.
    pub dirty_blocks: u64,
    /// Lost power with a volatile cache while the other node may have gone on: may lack acknowledged writes.
    pub suspect: bool,
    /// The operator said that this node's data may be discarded.
    pub discard: bool,
}

/// What one node tells the other's operator. Nothing is decided by it, so the coordinators never see it.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Notice {
    /// SHA-256 of the configuration file that the sender runs with.
    Config { hash: [u8; 32] },
    /// The sync source's progress, in bytes.
    Resync { total: u64, left: u64 },
}

/// How the leader ends a change of the unit state that the follower forwarded.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[repr(u8)]
pub enum ForwardedChange {
    /// Both nodes hold it, and all their shards have adopted it.
    Done = 1,
    /// Another change was faster; the follower has adopted that one.
    Stale = 2,
    /// It was not carried out, and will not be: the receiver does not lead (any more).
    Refused = 3,
}

/// A control message.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub enum Control {
    State(PeerState),
    /// The sender leads from `epoch` on; follow, remember `unit`, and expect `copy`. Without a unit state the sender has
    /// lost its own, and asks for the receiver's ([`Control::Unit`]) before `Following`.
    Lead {
        epoch: Epoch,
        record: Record,
        copy: Copy,
        unit: Option<UnitState>,
    },
    /// The sender has taken up the following posture on all its shards, and they have adopted the leader's unit state.
    Following,
    /// The leader's unit state has changed: hold it durably and have every shard adopt it. Or the follower's, where the
    /// leader has asked for it.
    Unit(UnitState),
    /// The follower has.
    UnitAdopted {
        version: UnitVersion,
    },
    /// A session at the follower asks for a change. One at a time; `number` names it in the answer.
    UnitChange {
        number: u64,
        base: UnitVersion,
        bytes: Arc<[u8]>,
    },
    UnitChanged {
        number: u64,
        outcome: ForwardedChange,
    },
    /// The source has copied everything: these are its generations.
    SyncDone {
        generations: Generations,
    },
    /// The target has recorded that it is in sync.
    SyncDoneAck,
    /// The record changed; `idle`: and the sender does not lead any more.
    Commit {
        record: Record,
        idle: bool,
    },
    /// Planned switchover: the receiver is to lead.
    Handover {
        record: Record,
    },
    /// The sender leads and serves on all its shards: what the receiver's initiators ask for may be forwarded.
    Serving,
    Ping,
    Pong,
    /// The leader of `epoch` asks for a read lease at `asked`, by a clock that means nothing to the receiver (R5).
    LeaseAsk {
        epoch: Epoch,
        asked: Instant,
    },
    /// The follower has promised, in answer to what was asked at `asked`.
    LeaseGrant {
        asked: Instant,
    },
    /// The sender ends the session on purpose.
    Bye {
        reason: ByeReason,
    },
    Notice(Notice),
}

/// Why a session is ended on purpose.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[repr(u8)]
pub enum ByeReason {
    Stopping = 1,
    Disconnected = 2,
    DiskFailed = 3,
    Refused = 4,
}

/// The message's bytes do not make sense.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ControlError {
    Short,
    TooLong(usize),
    UnknownTag(u8),
    BadField(&'static str),
}

impl core::fmt::Display for ControlError {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        match self {
            Self::Short => write!(f, "control message ends too early"),
            Self::TooLong(left) => write!(f, "control message has {left} bytes too many"),
            Self::UnknownTag(tag) => write!(f, "control message {tag} is not known to this release"),
            Self::BadField(field) => write!(f, "control message with an impossible {field}"),
        }
    }
}

impl core::error::Error for ControlError {}

impl From<Short> for ControlError {
    fn from(_: Short) -> Self {
        Self::Short
    }
}

/// Longest encoded message, but for the unit state that it may carry.
pub const CONTROL_BYTES_MAX: usize = 256;

impl Control {
    /// The message's bytes: at most [`CONTROL_BYTES_MAX`] and, with a unit state, [`UNIT_BYTES_MAX`] more.
    pub fn encode(&self) -> Vec<u8> {
        let state = match self {
            Self::Lead { unit: Some(UnitState { bytes, .. }), .. }
            | Self::Unit(UnitState { bytes, .. })
            | Self::UnitChange { bytes, .. } => bytes.len(),
            _ => 0,
        };
        assert!(state <= UNIT_BYTES_MAX, "a unit state is bounded where it comes from");
        let mut bytes = vec![0; CONTROL_BYTES_MAX + state];
        let mut out = Writer::new(&mut bytes);
        self.write(&mut out).expect("every message fits");
        let len = out.position();
        bytes.truncate(len);
        bytes
    }

    fn write(&self, out: &mut Writer<'_>) -> Result<(), Short> {
        match self {
            Self::State(state) => {
                out.u8(1)?;
                state.write(out)
            }
            Self::Lead { epoch, record, copy, unit } => {
                out.u8(2)?;
                out.u64_le(epoch.0)?;
                out.bytes(&record.encode())?;
                out.u8(match copy {
                    Copy::Nothing => 0,
                    Copy::Bitmap => 1,
                    Copy::Everything => 2,
                })?;
                out.u8(u8::from(unit.is_some()))?;
                unit.as_ref().map_or(Ok(()), |unit| write_unit(unit.version, &unit.bytes, out))
            }
            Self::Unit(unit) => {
                out.u8(17)?;
                write_unit(unit.version, &unit.bytes, out)
            }
            Self::UnitAdopted { version } => write_numbers(18, &[version.0], out),
            Self::UnitChange { number, base, bytes } => {
                write_numbers(19, &[*number], out)?;
                write_unit(*base, bytes, out)
            }
            Self::UnitChanged { number, outcome } => {
                write_numbers(22, &[*number], out)?;
                out.u8(*outcome as u8)
            }
            Self::Following => out.u8(3),
            Self::SyncDone { generations } => {
                out.u8(4)?;
                write_generations(generations, out)
            }
            Self::SyncDoneAck => out.u8(5),
            Self::Commit { record, idle } => {
                out.u8(6)?;
                out.bytes(&record.encode())?;
                out.u8(u8::from(*idle))
            }
            Self::Handover { record } => {
                out.u8(7)?;
                out.bytes(&record.encode())
            }
            Self::Ping => out.u8(8),
            Self::Pong => out.u8(9),
            Self::Serving => out.u8(16),
            Self::LeaseAsk { epoch, asked } => write_numbers(20, &[epoch.0, asked.0], out),
            Self::LeaseGrant { asked } => write_numbers(21, &[asked.0], out),
            Self::Bye { reason } => {
                out.u8(10)?;
                out.u8(*reason as u8)
            }
            Self::Notice(Notice::Config { hash }) => {
                out.u8(11)?;
                out.bytes(hash)
            }
            Self::Notice(Notice::Resync { total, left }) => {
                out.u8(12)?;
                out.u64_le(*total)?;
                out.u64_le(*left)
            }
        }
    }

    pub fn decode(bytes: &[u8]) -> Result<Self, ControlError> {
        let mut reader = Reader::new(bytes);
        let message = Self::read(&mut reader)?;
        match reader.rest().len() {
            0 => Ok(message),
            left => Err(ControlError::TooLong(left)),
        }
    }

    fn read(reader: &mut Reader<'_>) -> Result<Self, ControlError> {
        Ok(match reader.u8()? {
            1 => Self::State(PeerState::read(reader)?),
            2 => {
                let epoch = Epoch(reader.u64_le()?);
                let record = read_record(reader)?;
                if epoch > Epoch::MAX_OF_A_PEER {
                    return Err(ControlError::BadField("epoch"));
                }
                let copy = match reader.u8()? {
                    0 => Copy::Nothing,
                    1 => Copy::Bitmap,
                    2 => Copy::Everything,
                    _ => return Err(ControlError::BadField("copy")),
                };
                let has_unit = read_bool(reader, "unit flag")?;
                let unit = if has_unit { Some(read_unit(reader)?) } else { None };
                Self::Lead { epoch, record, copy, unit }
            }
            17 => Self::Unit(read_unit(reader)?),
            18 => Self::UnitAdopted { version: read_version(reader)? },
            19 => {
                let number = reader.u64_le()?;
                let UnitState { version: base, bytes } = read_unit(reader)?;
                Self::UnitChange { number, base, bytes }
            }
            22 => Self::UnitChanged {
                number: reader.u64_le()?,
                outcome: match reader.u8()? {
                    1 => ForwardedChange::Done,
                    2 => ForwardedChange::Stale,
                    3 => ForwardedChange::Refused,
                    _ => return Err(ControlError::BadField("outcome")),
                },
            },
            3 => Self::Following,
            4 => Self::SyncDone { generations: read_source_generations(reader)? },
            5 => Self::SyncDoneAck,
            6 => Self::Commit { record: read_record(reader)?, idle: read_bool(reader, "idle flag")? },
            7 => Self::Handover { record: read_record(reader)? },
            8 => Self::Ping,
            9 => Self::Pong,
            16 => Self::Serving,
            20 => Self::LeaseAsk { epoch: Epoch(reader.u64_le()?), asked: Instant(reader.u64_le()?) },
            21 => Self::LeaseGrant { asked: Instant(reader.u64_le()?) },
            10 => Self::Bye {
                reason: match reader.u8()? {
                    1 => ByeReason::Stopping,
                    2 => ByeReason::Disconnected,
                    3 => ByeReason::DiskFailed,
                    4 => ByeReason::Refused,
                    _ => return Err(ControlError::BadField("reason")),
                },
            },
            11 => Self::Notice(Notice::Config { hash: reader.array()? }),
            12 => Self::Notice(Notice::Resync { total: reader.u64_le()?, left: reader.u64_le()? }),
            tag => return Err(ControlError::UnknownTag(tag)),
        })
    }
}

impl PeerState {
    fn write(&self, out: &mut Writer<'_>) -> Result<(), Short> {
        out.u8(self.node.0)?;
        out.u8(self.geometry.block_shift)?;
        out.u64_le(self.geometry.blocks)?;
        out.u16_le(self.geometry.lanes)?;
        write_generations(&self.generations, out)?;
        out.bytes(&self.record.encode())?;
        out.u32_le(self.flags.bits())?;
        out.u8(u8::from(self.primary))?;
        out.u64_le(self.dirty_blocks)?;
        out.u8(u8::from(self.suspect))?;
        out.u8(u8::from(self.discard))
    }

    fn read(reader: &mut Reader<'_>) -> Result<Self, ControlError> {
        let node = NodeId(reader.u8()?);
        if node.0 > 1 {
            return Err(ControlError::BadField("node"));
        }
        let block_shift = reader.u8()?;
        let blocks = reader.u64_le()?;
        let lanes = reader.u16_le()?;
        Ok(Self {
            node,
            geometry: Geometry { block_shift, blocks, lanes },
            generations: read_generations(reader)?,
            record: read_record(reader)?,
            flags: DiskFlags::from_bits(reader.u32_le()?).ok_or(ControlError::BadField("disk flags"))?,
            primary: read_bool(reader, "role")?,
            dirty_blocks: reader.u64_le()?,
            suspect: read_bool(reader, "suspect flag")?,
            discard: read_bool(reader, "discard flag")?,
        })
    }
}

fn read_bool(reader: &mut Reader<'_>, field: &'static str) -> Result<bool, ControlError> {
    match reader.u8()? {
        0 => Ok(false),
        1 => Ok(true),
        _ => Err(ControlError::BadField(field)),
    }
}

fn write_numbers(tag: u8, numbers: &[u64], out: &mut Writer<'_>) -> Result<(), Short> {
    out.u8(tag)?;
    numbers.iter().try_for_each(|number| out.u64_le(*number))
}

fn write_unit(version: UnitVersion, bytes: &[u8], out: &mut Writer<'_>) -> Result<(), Short> {
    out.u64_le(version.0)?;
    out.u32_le(bytes.len() as u32)?;
    out.bytes(bytes)
}

fn read_unit(reader: &mut Reader<'_>) -> Result<UnitState, ControlError> {
    let version = read_version(reader)?;
    let len = reader.u32_le()? as usize;
    if len > UNIT_BYTES_MAX {
        return Err(ControlError::BadField("length of a unit state"));
    }
    Ok(UnitState { version, bytes: Arc::from(reader.bytes(len)?) })
}

fn read_version(reader: &mut Reader<'_>) -> Result<UnitVersion, ControlError> {
    let version = UnitVersion(reader.u64_le()?);
    if version <= UnitVersion::MAX {
        Ok(version)
    } else {
        Err(ControlError::BadField("version of a unit state"))
    }
}

/// Whoever adopts a peer's record counts on from it: no peer may bring the count to its end.
fn read_record(reader: &mut Reader<'_>) -> Result<Record, ControlError> {
    let record = Record::decode(reader.bytes(RECORD_BYTES)?).ok();
    record.filter(|record| record.epoch <= Epoch::MAX_OF_A_PEER).ok_or(ControlError::BadField("record"))
}

fn write_generations(generations: &Generations, out: &mut Writer<'_>) -> Result<(), Short> {
    out.u64_le(generations.current)?;
    out.u64_le(generations.base)?;
    generations.history.iter().try_for_each(|&past| out.u64_le(past))
}

/// A source has data, so it has a generation.
fn read_source_generations(reader: &mut Reader<'_>) -> Result<Generations, ControlError> {
    let generations = read_generations(reader)?;
    if generations.current == 0 { Err(ControlError::BadField("generation")) } else { Ok(generations) }
}

fn read_generations(reader: &mut Reader<'_>) -> Result<Generations, ControlError> {
    let (current, base) = (reader.u64_le()?, reader.u64_le()?);
    let mut history = [0; GENERATION_HISTORY];
    for past in &mut history {
        *past = reader.u64_le()?;
    }
    Ok(Generations { current, base, history })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::arbitration::NodeSet;

    fn unit(len: usize) -> UnitState {
        UnitState { version: UnitVersion(7), bytes: (0..len).map(|at| at as u8).collect() }
    }

    #[test]
    fn a_unit_state_is_bounded_on_the_wire() {
        let longest = Control::Unit(unit(UNIT_BYTES_MAX));
        let mut bytes = longest.encode();
        assert_eq!(Control::decode(&bytes), Ok(longest));
        bytes[9..13].copy_from_slice(&(UNIT_BYTES_MAX as u32 + 1).to_le_bytes());
        bytes.push(0);
        assert_eq!(Control::decode(&bytes), Err(ControlError::BadField("length of a unit state")));
        let version = UnitVersion(UnitVersion::MAX.0 + 1);
        let adopted = Control::UnitAdopted { version }.encode();
        assert_eq!(Control::decode(&adopted), Err(ControlError::BadField("version of a unit state")));
    }

    fn messages() -> Vec<Control> {
        let record = Record { epoch: Epoch(3), primary: Some(NodeId(1)), in_sync: NodeSet::BOTH, nonce: 9 };
        let mut generations = Generations::new(5);
        generations.go_alone(6);
        let state = PeerState {
            node: NodeId(1),
            geometry: Geometry { block_shift: 12, blocks: 4096, lanes: 4 },
            generations,
            record,
            flags: DiskFlags { sync_target: true, ..DiskFlags::default() },
            primary: true,
            dirty_blocks: 77,
            suspect: false,
            discard: true,
        };
        vec![
            Control::State(state),
            Control::Lead { epoch: Epoch(4), record, copy: Copy::Everything, unit: None },
            Control::Lead { epoch: Epoch(4), record, copy: Copy::Nothing, unit: Some(unit(100)) },
            Control::Unit(unit(1000)),
            Control::UnitAdopted { version: UnitVersion(3) },
            Control::UnitChange { number: 9, base: UnitVersion(3), bytes: unit(40).bytes },
            Control::UnitChanged { number: 9, outcome: ForwardedChange::Refused },
            Control::Following,
            Control::SyncDone { generations },
            Control::SyncDoneAck,
            Control::Commit { record, idle: true },
            Control::Handover { record },
            Control::Ping,
            Control::Pong,
            Control::Serving,
            Control::LeaseAsk { epoch: Epoch(6), asked: Instant(1 << 50) },
            Control::LeaseGrant { asked: Instant(77) },
            Control::Bye { reason: ByeReason::DiskFailed },
            Control::Notice(Notice::Config { hash: [7; 32] }),
            Control::Notice(Notice::Resync { total: 1 << 40, left: 3 }),
        ]
    }

    #[test]
    fn messages_survive_the_wire_and_short_ones_do_not() {
        for message in messages() {
            let bytes = message.encode();
            assert_eq!(Control::decode(&bytes), Ok(message.clone()));
            for len in 0..bytes.len() {
                assert!(Control::decode(&bytes[..len]).is_err(), "{message:?} cut to {len}");
            }
            let mut longer = bytes.clone();
            longer.push(0);
            assert_eq!(Control::decode(&longer), Err(ControlError::TooLong(1)));
        }
        assert_eq!(Control::decode(&[200]), Err(ControlError::UnknownTag(200)));
    }

    #[test]
    fn a_peer_cannot_bring_the_count_of_epochs_to_its_end() {
        let record = Record { epoch: Epoch(Epoch::MAX_OF_A_PEER.0 + 1), ..Record::default() };
        for message in [Control::Commit { record, idle: false }, Control::Handover { record }] {
            assert_eq!(Control::decode(&message.encode()), Err(ControlError::BadField("record")));
        }
        let (epoch, copy) = (record.epoch, Copy::Nothing);
        let lead = Control::Lead { epoch, record: Record::default(), copy, unit: None };
        assert_eq!(Control::decode(&lead.encode()), Err(ControlError::BadField("epoch")));
        let done = Control::SyncDone { generations: Generations::default() };
        assert_eq!(Control::decode(&done.encode()), Err(ControlError::BadField("generation")));
    }
}
