//! The replicated volume: what happens to a request between the SCSI command and the two disks.

pub mod effect;
pub mod messages;
