//! SCSI: a disk's commands, from the CDB to an outcome (SAM-5, SPC-4, SBC-3).
//!
//! [`Target`] holds the LUN map and [`Target::execute`] answers a command or hands out checked media access as an
//! [`Outcome`]; the iSCSI side moves the data. Nothing here knows a PDU, a buffer or a disk.
//!
//! A [`Target`] is immutable, so every shard has its own copy. What belongs to one initiator's session is its
//! [`Nexus`]; what all sessions on both nodes share and change is the [`UnitMemory`]: reservations, mode parameters,
//! resets. Bad CDBs and parameter lists end as [`SenseData`], never as a panic.

mod alua;
mod attention;
mod cdb;
mod data_in;
mod identity;
mod inquiry;
mod log;
mod logical_unit;
mod lun;
mod media;
mod mode;
mod nexus;
mod opcodes;
mod reservation;
mod sense;
mod status;
mod supported;
mod target;
mod unit_memory;
mod vital_product;

pub use alua::{Leader, PeerPort, StandIn};
pub use attention::UnitAttention;
pub use cdb::{Access, ByteCheck, CDB_BYTES, Command, DefectForm, ModeForm, ModeSense, decode};
pub use identity::{DeviceIdentity, IdentityError, SERIAL_MAX, SerialForm, TARGET_NAME_MAX};
pub use logical_unit::{LogicalUnit, MAX_TRANSFER_BYTES, Provisioning};
pub use lun::{LUN_MAX, LunAddress, REPORT_LUNS_WLUN};
pub use media::{Action, ActionKind, unmap_descriptor};
pub use mode::ModeValues;
pub use nexus::{Ended, Nexus};
pub use reservation::conflict::Standing;
pub use reservation::out::{OutAction, ReserveOut};
pub use reservation::report::InAction;
pub use reservation::{InitiatorPort, NexusId, REGISTRATIONS_MAX};
pub use sense::{
    AdditionalSense, FIXED_SENSE_BYTES, FieldPointer, SENSE_BYTES_MAX, SenseData, SenseFormat, SenseKey,
};
pub use status::Status;
pub use target::{LOGICAL_UNITS_MAX, LuIndex, Outcome, Target, TargetError, TargetPort};
pub use unit_memory::{BadUnitMemory, ResetKind, TooLarge, UnitMemory};

#[cfg(test)]
mod tests;
