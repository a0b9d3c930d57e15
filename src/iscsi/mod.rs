//! The iSCSI target (RFC 7143), sans I/O: one [`Connection`] for each TCP connection.
//!
//! ```text
//!  bytes ──▶ connection ──▶ login ──▶ session ──▶ command ──▶ scsi::Target::execute
//!            (stream,       (keys)    (numbers,     │
//!             phases)                  window)      ├─ read   Data-In   ◀── block completions
//!                                                   └─ write  R2T, Data-Out ──▶ block requests
//! ```
//!
//! Everything that may be wrong with what an initiator sends is found here, and sorted: a header that makes no sense
//! is [`bhs::Malformed`], a data phase that does not fit ends with sense data, a broken session with a Reject and a
//! closed connection (ErrorRecoveryLevel 0). Nothing an initiator sends makes this code panic or grow without bound.
//!
//! Payload is never copied here: data goes to and comes from the driver's buffers by name.

mod access;
mod action;
mod attribute;
pub mod bhs;
pub mod chap;
mod command;
mod command_window;
mod config;
mod connection;
mod effect;
mod entering;
pub mod keys;
mod limits;
mod login;
mod logout;
mod name;
mod nop;
pub mod pdu;
mod read;
mod receive;
mod reset;
mod session;
mod task;
mod task_management;
mod text;
mod unit;
mod write;

pub use access::{Access, BadView, Grant, NamePattern, Network, Rule, View};
pub use config::{Arrival, Service, TargetConfig};
pub use connection::{Connection, Digests, Origin};
pub use effect::{CloseReason, Effect, Examine, NexusName, Outbox, SendData};
pub use limits::{Caps, Limits};
pub use login::LoginStatus;
pub use name::{BadName, InitiatorName, NAME_BYTES_MAX, is_iscsi_name};
pub use receive::BYTES_DEMAND_MAX;
pub use unit::UnitSnapshot;

#[cfg(test)]
mod tests;
