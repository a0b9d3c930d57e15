//! What stands between the machine and the cores: the configuration file, the safety check of a device before it is
//! formatted, the control socket, the arbiter's back ends, and the life of the process.
//!
//! Nothing here is on the path of an I/O. Absent on purpose: any rule about who may serve (that is `arbitration` and
//! `volume`) and any knowledge of a protocol field.

pub mod access;
pub mod api;
pub mod arbiter;
pub mod clock;
pub mod config;
pub mod control;
pub mod device;
pub mod events;
pub mod failure;
pub mod identity;
pub mod import;
pub mod init;
pub mod log_file;
pub mod plan;
pub mod probe;
pub mod process;
pub mod progress;
pub mod run;
pub mod translate;
pub mod virtual_machine;
