//! The book: what does not belong to any one file. Prose only, kept next to the code so that it changes with it.
//!
//! - [`disk_format`]: every byte that twinlun keeps on a disk besides the data.
//! - [`link_protocol`]: what the two nodes say to each other, and in which order.
//! - [`failover`]: who may serve, and why two nodes never do.
//! - [`invariants`]: what must never be untrue, by name (D1–D7, S1–S4, Q1–Q2).
//! - [`pacemaker`]: a pair as a resource of a Pacemaker cluster.
//! - [`operations`]: setting up a pair, watching it, and what to do when something broke.
//! - [`threats`]: who can reach what, and which faults of others are looked for here.

pub mod disk_format;
pub mod failover;
pub mod invariants;
pub mod link_protocol;
pub mod operations;
pub mod pacemaker;
pub mod threats;
