//! Where the record `{epoch, primary, in_sync}` is kept, and how it is changed.
//!
//! A change is a compare-and-swap with one of three outcomes. *Committed* and *conflict* are definite; everything that
//! is not definite is *unknown*, and may turn out either way until it is asked again. A change whose answer was lost is
//! recognised by its nonce: offering it again commits it once. The engine's own process makes the change, because the
//! right belongs to the process that uses it: an agent that died must not hold up a write.
//!
//! One file for each back end, one trait, one conformance test (`tests/arbiter.rs`) that all of them pass. Absent on
//! purpose: locks, leases or watches that decide anything, and any right that comes from reading.

pub mod etcd;
pub mod fence;
pub mod file;
pub mod manual;
pub mod pacemaker;
pub mod value;

use crate::arbitration::{Record, RecordError};

pub use etcd::{EtcdArbiter, EtcdError};
pub use fence::{FenceArbiter, FenceError};
pub use file::FileArbiter;
pub use manual::ManualArbiter;
pub use pacemaker::{PacemakerArbiter, PacemakerError};

/// What became of a change.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Swap {
    /// The record is now the proposed one, durably.
    Committed,
    /// The record is another one than expected; nothing was changed.
    Conflict(Option<Record>),
    /// It may or may not have been changed.
    Unknown(ArbiterError),
}

/// Why there is no answer.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum ArbiterError {
    /// There is nobody to ask; a person decides.
    Manual,
    /// The back end failed; the text says at what.
    Unreachable(String),
    /// What is kept is not a record.
    Damaged(RecordError),
    /// etcd gave no definite answer.
    Etcd(EtcdError),
    /// There is no record but the nodes' own.
    NotKept,
    /// The other node is not known to be off; a person decides.
    Fence(FenceError),
    /// Pacemaker gave no definite answer, or leaves it to a person.
    Pacemaker(PacemakerError),
}

impl std::fmt::Display for ArbiterError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Manual => write!(f, "the arbiter is manual: a person decides"),
            Self::Unreachable(what) => write!(f, "the arbiter does not answer: {what}"),
            Self::Damaged(error) => write!(f, "{error}"),
            Self::Etcd(error) => write!(f, "{error}"),
            Self::NotKept => write!(f, "no record is kept outside the nodes"),
            Self::Fence(error) => write!(f, "{error}"),
            Self::Pacemaker(error) => write!(f, "{error}"),
        }
    }
}

impl std::error::Error for ArbiterError {}

/// A back end. Calls may block; they are made from a thread of their own.
pub trait Arbiter: Send {
    /// The word for it in the configuration.
    fn kind(&self) -> &'static str;
    /// The record, `None` before the first change. A hint, never a right.
    fn read(&mut self) -> Result<Option<Record>, ArbiterError>;
    /// Makes `proposed` the record if it is `expected` now (or `proposed` already).
    fn compare_and_swap(&mut self, expected: Option<Record>, proposed: Record) -> Swap;
    /// Since this process started, this node and its peer have found that both copies are good.
    fn on_met(&mut self) {}
    /// A person says that the other node is off, and asks for a promotion.
    fn on_vouched(&mut self) {}
    /// Would it answer, if it were asked? Looked at when the daemon starts, so that trouble is known before it is needed.
    fn probe(&mut self) -> Result<(), ArbiterError> {
        self.read().map(drop)
    }
}
