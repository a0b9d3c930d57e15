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

pub mod bhs;
mod command;
mod command_window;
mod config;
mod connection;
mod effect;
pub mod keys;
mod login;
mod logout;
mod name;
mod nop;
pub mod pdu;
mod read;
mod session;
mod task;
mod task_management;
mod text;
mod write;

pub use config::{Limits, TargetConfig};
pub use connection::{BYTES_DEMAND_MAX, Connection, Origin};
pub use effect::{CloseReason, Effect, NexusName, Outbox, SendData};
pub use login::LoginStatus;
pub use name::{BadName, InitiatorName, NAME_BYTES_MAX, is_iscsi_name};

#[cfg(test)]
mod tests;
