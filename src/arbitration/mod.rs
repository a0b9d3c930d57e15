//! Who may serve: the committed record `{epoch, primary, in_sync}` and the rules for changing it.

pub mod lease;
mod record;
pub mod rules;

pub use lease::{Lease, Promise, Reads};
pub use record::{Epoch, NodeSet, RECORD_BYTES, Record, RecordError};
pub use rules::{CasOutcome, RecordOutcome};
