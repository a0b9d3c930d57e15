//! The simulator: the same cores that the engine drives, in a world of one thread and virtual time. Two nodes whose
//! disks lose what was not flushed and tear what was under way, links that delay, stall and break, an arbiter that
//! answers late, initiators that check every byte, an operator, and faults at any step, all from one seed.
//!
//! What is checked, and when:
//! - beside every answer: D1, D2, D3, S1, S2 ([`checks`]); every read against the whole history ([`history`]);
//! - at every change on either disk: D4 ([`cover`]);
//! - at every change of the arbiter's record: whoever counts as in sync has every acknowledged write;
//! - in the end, when the faults are over: the pair is in sync in bounded time, both disks are equal, every request was
//!   answered exactly once, every buffer is home.
//!
//! [`explore`] walks every state of a small pair instead of random states of a large one.
//!
//! Absent on purpose: the kernel, sockets, iSCSI and SCSI (their cores have tests of their own), real time, and any
//! chance that does not come from the seed.

mod arbiter;
mod checks;
mod client;
mod cover;
mod disk;
pub mod explore;
mod faults;
mod history;
mod link;
mod node;
mod rng;
pub mod run;
pub mod setup;
mod unit;
mod world;
